//! Ablation effects: what a prediction loses without each part (Olsson et al. 2022, "In-context Learning and Induction
//! Heads", on ablations; Wang et al. 2022, "Interpretability in the Wild", on their kinds).

use std::fmt;

use super::metric::Metric;
use super::sweep::sweep;
use crate::error::Result;
use crate::figure::drawn;
use crate::hook::{Head, Site, head};
use crate::model::{Ablation, Component, Input, Model};
use crate::named::{Axis, Named};
use crate::view::{Drawn, View};

/// What [`ablation_effects`] found: the metric without a part minus the metric with it.
#[derive(Clone)]
pub struct AblationEffects {
    metric: String,
    clean: f64,
    heads: Named,
    layers: Named,
}

impl AblationEffects {
    /// The metric of the unchanged model.
    pub fn clean(&self) -> f64 {
        self.clean
    }

    /// The effect of each head `[layer, head]`.
    pub fn heads(&self) -> &Named {
        &self.heads
    }

    /// The effect of each layer's MLP, of its attention, and of both `[part, layer]`; of attention alone where there are no
    /// MLPs.
    pub fn layers(&self) -> &Named {
        &self.layers
    }

    /// All heads, the largest effect first, whatever its sign.
    pub fn ranked(&self) -> Result<Vec<(Head, f32)>> {
        let shape = self.heads.shape();
        let mut ranked: Vec<(Head, f32)> = Head::all(shape[0], shape[1]).zip(self.heads.to_vec()?).collect();
        ranked.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        Ok(ranked)
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

impl Drawn for AblationEffects {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Heatmap(self.heads.clone()), View::Heatmap(self.layers.clone())])
    }
}

drawn!(AblationEffects);

/// Ablates every head, every MLP, every layer's attention and every layer, each by itself, and measures each time: the
/// metric of the ablated model minus that of the clean one, in nats where it is a loss. A mean is over inputs and
/// positions. Batches are sized to half a gigabyte of activations.
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

fn effects(model: &Model, input: &Input, ablation: Ablation, metric: &Metric) -> Result<AblationEffects> {
    let dims = *model.dims();
    let of_layer = |layer: usize| (0..dims.n_heads).map(move |index| Component::Head(head(layer, index)));
    let mut parts: Vec<Vec<Component>> = Vec::new();
    for layer in 0..dims.n_layers {
        parts.extend(of_layer(layer).map(|component| vec![component]));
    }
    let heads = parts.len();
    let with_mlps = model.anatomy().has(Site::MlpOut);
    let layers = || 0..dims.n_layers;
    let attention = layers().map(|layer| of_layer(layer).collect());
    let names = if with_mlps {
        parts.extend(layers().map(|layer| vec![Component::Mlp(layer)]));
        parts.extend(attention);
        parts.extend(layers().map(|layer| of_layer(layer).chain([Component::Mlp(layer)]).collect()));
        vec!["MLP", "attention", "both"]
    } else {
        parts.extend(attention);
        vec!["attention"]
    };
    let variants =
        parts.into_iter().map(|parts| model.ablate(parts, ablation)).collect::<Result<Vec<_>>>()?;
    let swept = sweep("ablating", model, &variants, input, metric)?;
    let effects: Vec<f32> = swept.variants.iter().map(|value| (value - swept.clean) as f32).collect();
    let metric = metric.described(model);
    let name = format!("{metric} without it ({ablation} ablation) minus with it");
    let axes = vec![model.layer_axis(), model.head_axis()];
    let parts = names.into_iter().map(String::from).collect::<Vec<_>>();
    Ok(AblationEffects {
        metric,
        clean: swept.clean,
        heads: Named::from_vec(name.clone(), effects[..heads].to_vec(), axes)?,
        layers: Named::from_vec(
            name,
            effects[heads..].to_vec(),
            vec![Axis::labelled("part", parts), model.layer_axis()],
        )?,
    })
}
