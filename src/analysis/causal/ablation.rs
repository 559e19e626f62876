//! Ablation effects: what a prediction loses without each part (Olsson et al. 2022, "In-context Learning and Induction
//! Heads", on ablations; Wang et al. 2022, "Interpretability in the Wild", on their kinds).

use std::fmt;

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::sweep::engine::{SweepOutcome, sweep, sweep_rows};
use crate::analysis::sweep::metric::Metric;
use crate::analysis::sweep::part::{SweepPart, SweepSpec};
use crate::error::Result;
use crate::hook::{Head, Site, head};
use crate::model::edit::{Ablation, Component};
use crate::model::input::Input;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, layer_and_head};
use crate::view::{View, Visualize};

/// What [`ablation_effects`] found: the metric without a part minus the metric with it.
#[derive(Clone)]
pub struct AblationEffects {
    metric: String,
    clean: f64,
    heads: HeadGrid,
    layers: NamedTensor,
}

impl AblationEffects {
    /// The metric of the unchanged model.
    pub fn clean(&self) -> f64 {
        self.clean
    }

    /// The effect of each head.
    pub fn heads(&self) -> &HeadGrid {
        &self.heads
    }

    /// The effect of each layer's MLP, of its attention, and of both `[part, layer]`; of attention alone where there are no
    /// MLPs.
    pub fn layers(&self) -> &NamedTensor {
        &self.layers
    }

    /// All heads, the largest effect first, whatever its sign.
    pub fn ranked(&self) -> Result<Vec<(Head, f32)>> {
        self.heads.ranked_by_size()
    }
}

impl fmt::Debug for AblationEffects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranked = self.ranked().map_err(|_| fmt::Error)?;
        let best = ranked.iter().take(5).map(|(head, effect)| format!("{head} {effect:+.3}"));
        write!(
            f,
            "{} {:.4}, changed by: {} ...",
            self.metric,
            self.clean,
            best.collect::<Vec<_>>().join(", ")
        )
    }
}

impl Visualize for AblationEffects {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Heatmap(self.heads.values().clone()), View::Heatmap(self.layers.clone())])
    }
}

/// Ablates every head, every MLP, every layer's attention and every layer, each by itself, and measures each time: the
/// metric of the ablated model minus that of the clean one, in nats where it is a loss. A mean is over inputs and
/// positions. Inputs run one after another, so their number costs no memory; the changed models of one input run in batches of
/// half a gigabyte of activations. [`SweepPart`] is for work that is stopped and gone on with, or shared among processes.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let effects = ablation_effects(&model, "the cat sat the cat sat", Ablation::Zero, &Metric::Loss)?;
/// println!("{effects:?}");
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn ablation_effects(
    model: &Model,
    input: impl Into<Input>,
    ablation: Ablation,
    metric: &Metric,
) -> Result<AblationEffects> {
    effects(model, &input.into(), ablation, metric)
}

impl SweepPart {
    /// This part of [`ablation_effects`].
    pub fn ablation_effects(
        &self,
        model: &Model,
        input: impl Into<Input>,
        ablation: Ablation,
        metric: &Metric,
    ) -> Result<()> {
        let input = input.into();
        let variants = variants(model, ablation)?;
        let reference = match ablation {
            Ablation::Zero => None,
            Ablation::Mean(run) | Ablation::Resample(run) => Some(run.digest()),
        };
        let asked = SweepSpec::Ablation {
            ablation: ablation.to_string(),
            reference,
            metric: metric.describe(model),
            layers: model.dims().n_layers,
            heads: model.dims().n_heads,
            mlps: model.spec().has(Site::MlpOut),
        };
        self.fill(model, &input, Some(metric), asked, |share, keep| {
            sweep_rows(SWEEPING, model, &variants, &input, metric, share, keep)
        })
    }
}

const SWEEPING: &str = "ablating";

fn effects(model: &Model, input: &Input, ablation: Ablation, metric: &Metric) -> Result<AblationEffects> {
    let swept = sweep(SWEEPING, model, &variants(model, ablation)?, input, metric)?;
    let (dims, with_mlps) = (model.dims(), model.spec().has(Site::MlpOut));
    AblationEffects::new(
        &swept,
        metric.describe(model),
        &ablation.to_string(),
        dims.n_layers,
        dims.n_heads,
        with_mlps,
    )
}

/// The model without each head, then without each MLP, if there are any, each layer's attention, and each layer.
fn variants(model: &Model, ablation: Ablation) -> Result<Vec<Model>> {
    let dims = *model.dims();
    let of_layer = |layer: usize| (0..dims.n_heads).map(move |index| Component::Head(head(layer, index)));
    let layers = || 0..dims.n_layers;
    let mut parts: Vec<Vec<Component>> = layers().flat_map(of_layer).map(|head| vec![head]).collect();
    let attention = layers().map(|layer| of_layer(layer).collect());
    if model.spec().has(Site::MlpOut) {
        parts.extend(layers().map(|layer| vec![Component::Mlp(layer)]));
        parts.extend(attention);
        parts.extend(layers().map(|layer| of_layer(layer).chain([Component::Mlp(layer)]).collect()));
    } else {
        parts.extend(attention);
    }
    parts.into_iter().map(|parts| model.ablate(parts, ablation)).collect()
}

impl AblationEffects {
    /// From what a sweep of [`variants`] found.
    pub(crate) fn new(
        swept: &SweepOutcome,
        metric: String,
        ablation: &str,
        n_layers: usize,
        n_heads: usize,
        with_mlps: bool,
    ) -> Result<AblationEffects> {
        let effects: Vec<f32> = swept.variants.iter().map(|value| (value - swept.clean) as f32).collect();
        let (of_heads, of_layers) = effects.split_at(n_layers * n_heads);
        let name = format!("{metric} without it ({ablation} ablation) minus with it");
        let [layers, _] = layer_and_head(n_layers, n_heads);
        let parts: &[&str] = if with_mlps { &["MLP", "attention", "both"] } else { &["attention"] };
        let parts = Axis::labelled("part", parts.iter().map(|part| part.to_string()).collect::<Vec<_>>());
        Ok(AblationEffects {
            metric,
            clean: swept.clean,
            heads: HeadGrid::from_vec(name.clone(), of_heads.to_vec(), n_layers, n_heads)?,
            layers: NamedTensor::from_vec(name, of_layers.to_vec(), vec![parts, layers])?,
        })
    }
}
