//! Ablation effects: what a prediction loses without each part (Olsson et al. 2022, "In-context Learning and Induction
//! Heads", on ablations; Wang et al. 2022, "Interpretability in the Wild", on their kinds).

use std::fmt;

use crate::analysis::causal::ablated_stack::AblatedStack;
use crate::analysis::head_grid::HeadGrid;
use crate::analysis::sweep::engine::{SweepOutcome, sweep, sweep_rows};
use crate::analysis::sweep::metric::Metric;
use crate::analysis::sweep::part::{SweepPart, SweepSpec};
use crate::error::Result;
use crate::hook::{Attn, Head, Stack, head};
use crate::model::edit::{Ablation, Component, mlp};
use crate::model::input::Input;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, layer_axis};
use crate::view::{View, Visualize};

/// What [`ablation_effects`] found: the metric without a part minus the metric with it.
#[derive(Clone)]
pub struct AblationEffects {
    metric: String,
    clean: f64,
    heads: HeadGrid,
    /// Stack by stack.
    layers: Vec<NamedTensor>,
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
    /// MLPs. Of a model of several stacks the first one's, of which [`layers_of_stacks`](AblationEffects::layers_of_stacks) has all.
    pub fn layers(&self) -> &NamedTensor {
        &self.layers[0]
    }

    /// The same of each stack.
    pub fn layers_of_stacks(&self) -> &[NamedTensor] {
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
        let of_layers = self.layers.iter().map(|values| View::Heatmap(values.clone()));
        Ok(self.heads.views()?.into_iter().chain(of_layers).collect())
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
            stacks: AblatedStack::all(model),
        };
        self.fill(model, &input, Some(metric), asked, |share, keep| {
            sweep_rows(SWEEPING, model, &variants, &input, metric, share, keep)
        })
    }
}

const SWEEPING: &str = "ablating";

fn effects(model: &Model, input: &Input, ablation: Ablation, metric: &Metric) -> Result<AblationEffects> {
    let swept = sweep(SWEEPING, model, &variants(model, ablation)?, input, metric)?;
    AblationEffects::new(&swept, metric.describe(model), &ablation.to_string(), &AblatedStack::all(model))
}

/// The model without each head, attention by attention; then, stack by stack, without each MLP, if there are any, each layer's
/// attention, and each layer.
fn variants(model: &Model, ablation: Ablation) -> Result<Vec<Model>> {
    let stacks = AblatedStack::all(model);
    let mut parts: Vec<Vec<Component>> = Vec::new();
    for own in &stacks {
        for &attn in own.attentions() {
            let heads = (0..own.layers).flat_map(|layer| (0..own.heads).map(move |index| head(layer, index)));
            parts.extend(heads.map(|head| vec![Head { attn, ..head.of(own.stack) }.into()]));
        }
    }
    for own in &stacks {
        let of_mlp = |layer: usize| Component::from(mlp(layer).of(own.stack));
        let layers = || 0..own.layers;
        let attention = layers().map(|layer| own.heads_of(layer).collect());
        if own.mlps {
            parts.extend(layers().map(|layer| vec![of_mlp(layer)]));
            parts.extend(attention);
            parts.extend(layers().map(|layer| own.heads_of(layer).chain([of_mlp(layer)]).collect()));
        } else {
            parts.extend(attention);
        }
    }
    parts.into_iter().map(|parts| model.ablate(parts, ablation)).collect()
}

impl AblationEffects {
    /// From what a sweep of [`variants`] found.
    pub(crate) fn new(
        swept: &SweepOutcome,
        metric: String,
        ablation: &str,
        stacks: &[AblatedStack],
    ) -> Result<AblationEffects> {
        let effects: Vec<f32> = swept.variants.iter().map(|value| (value - swept.clean) as f32).collect();
        let name = format!("{metric} without it ({ablation} ablation) minus with it");
        let attentions: Vec<(Stack, Attn, [usize; 2])> = stacks
            .iter()
            .flat_map(|own| own.attentions().iter().map(|&attn| (own.stack, attn, [own.layers, own.heads])))
            .collect();
        let of_heads = attentions.iter().map(|(_, _, [layers, heads])| layers * heads).sum();
        let (of_heads, mut rest) = effects.split_at(of_heads);
        let mut layers = Vec::new();
        for own in stacks {
            let (values, others) = rest.split_at(own.parts().len() * own.layers);
            rest = others;
            let parts = own.parts().iter().map(|part| part.to_string()).collect::<Vec<_>>();
            let axes = vec![Axis::labelled("part", parts), layer_axis(own.stack, own.layers)];
            let name = match own.stack {
                Stack::Main => name.clone(),
                stack => format!("{name}, {stack}"),
            };
            layers.push(NamedTensor::from_vec(name, values.to_vec(), axes)?);
        }
        let heads = HeadGrid::of_attentions(&name, &attentions, of_heads)?;
        Ok(AblationEffects { metric, clean: swept.clean, heads, layers })
    }
}
