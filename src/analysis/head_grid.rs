//! One number for every head of a model.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Stack, head};
use crate::named::{Axis, NamedTensor, ValueKind, layer_axis, numbered};
use crate::view::{View, Visualize};

/// A number for every head, `[layer, head]`: scores, effects, thresholds.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let metric = Metric::log_prob(&model, " sat")?;
/// let paths =
///     path_patching(&model, "the cat sat the cat", "the dog sat the cat", PathReceiver::Logits, &metric)?;
/// let (best, effect) = paths.ranked_by_size()?[0];
/// assert_eq!(paths.at(best)?, effect);
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone)]
pub struct HeadGrid {
    /// One at least.
    panels: Vec<HeadPanel>,
}

/// The numbers of the heads of one attention: a stack's own, or that to another stack.
#[derive(Clone)]
struct HeadPanel {
    stack: Stack,
    attn: Attn,
    values: NamedTensor, // [layer, head]
}

impl HeadGrid {
    /// Of any model: attention by attention, with its layers and heads, and layer by layer.
    pub(crate) fn of_attentions(
        name: &str,
        attentions: &[(Stack, Attn, [usize; 2])],
        values: &[f32],
    ) -> Result<HeadGrid> {
        let (mut panels, mut rest) = (Vec::new(), values);
        for &(stack, attn, [n_layers, n_heads]) in attentions {
            let (own, others) = rest.split_at(n_layers * n_heads);
            rest = others;
            let layers = layer_axis(stack, n_layers);
            let heads = Axis::labelled("head", numbered(attn.letter(), n_heads));
            let name = match (stack, attn) {
                (Stack::Main, _) => name.to_string(),
                (stack, Attn::Own) => format!("{name}, {stack}"),
                (stack, Attn::Cross) => format!("{name}, {stack}, cross-attention"),
            };
            let values = NamedTensor::from_vec(name, own.to_vec(), vec![layers, heads])?;
            panels.push(HeadPanel { stack, attn, values });
        }
        Ok(HeadGrid { panels })
    }

    /// Of what has the axes of layers and heads, in this order.
    pub(crate) fn of(values: NamedTensor) -> HeadGrid {
        HeadGrid { panels: vec![HeadPanel { stack: Stack::Main, attn: Attn::Own, values }] }
    }

    pub(crate) fn with_value_kind(mut self, kind: ValueKind) -> HeadGrid {
        for panel in &mut self.panels {
            panel.values = panel.values.clone().with_value_kind(kind);
        }
        self
    }

    /// The numbers `[layer, head]`; of a model of several stacks those of the first one's own attention, of which
    /// [`panels`](HeadGrid::panels) has all.
    pub fn values(&self) -> &NamedTensor {
        &self.panels[0].values
    }

    /// The numbers `[layer, head]` of each attention: one of a model of one stack; encoder, decoder and its cross-attention.
    pub fn panels(&self) -> impl Iterator<Item = &NamedTensor> {
        self.panels.iter().map(|panel| &panel.values)
    }

    /// Other numbers of the same heads, in the order of [`heads`](HeadGrid::heads).
    pub(crate) fn with_values(&self, name: &str, values: &[f32]) -> Result<HeadGrid> {
        let panels = self.panels.iter().map(|panel| (panel.stack, panel.attn, panel.size().into()));
        HeadGrid::of_attentions(name, &panels.collect::<Vec<_>>(), values)
    }

    /// The number of one head. Fails if there is no such head.
    pub fn at(&self, head: Head) -> Result<f32> {
        let panel = self.panels.iter().find(|panel| (panel.stack, panel.attn) == (head.stack, head.attn));
        let Some(panel) = panel else {
            let first: Vec<String> = self.panels.iter().map(|panel| panel.head(0, 0).to_string()).collect();
            return Err(Error::new(ErrorKind::Address, format!("there is no head {head} here"))
                .help(format!("heads begin with {}", first.join(", "))));
        };
        let (n_layers, n_heads) = panel.size();
        let head = head.check(n_layers, n_heads, "model")?;
        panel.values.value(&[head.layer, head.head])
    }

    /// Every head, attention by attention and layer by layer.
    pub fn heads(&self) -> impl Iterator<Item = Head> + use<> {
        let panels = self.panels.iter().map(|panel| (panel.stack, panel.attn, panel.size().into()));
        HeadGrid::heads_of(panels.collect())
    }

    /// Every head of attentions with so many layers and heads.
    pub(crate) fn heads_of(panels: Vec<(Stack, Attn, [usize; 2])>) -> impl Iterator<Item = Head> + use<> {
        panels.into_iter().flat_map(|(stack, attn, [n_layers, n_heads])| {
            let of_layer =
                move |layer| (0..n_heads).map(move |index| Head { attn, ..head(layer, index).of(stack) });
            (0..n_layers).flat_map(of_layer)
        })
    }

    /// Every head with its number, in the order of [`heads`](HeadGrid::heads).
    pub(crate) fn each(&self) -> Result<impl Iterator<Item = (Head, f32)> + use<>> {
        let values = self.panels.iter().map(|panel| panel.values.to_vec()).collect::<Result<Vec<_>>>()?;
        Ok(self.heads().zip(values.concat()))
    }

    /// Every head with its number, the highest first.
    pub fn ranked(&self) -> Result<Vec<(Head, f32)>> {
        self.sorted_by(|value| value)
    }

    /// Every head with its number, the largest first, whatever its sign.
    pub fn ranked_by_size(&self) -> Result<Vec<(Head, f32)>> {
        self.sorted_by(f32::abs)
    }

    /// The heads whose number is above a threshold, the highest first.
    pub fn above(&self, threshold: f32) -> Result<Vec<Head>> {
        Ok(self.ranked()?.into_iter().filter(|(_, value)| *value > threshold).map(|(head, _)| head).collect())
    }

    fn sorted_by(&self, key: impl Fn(f32) -> f32) -> Result<Vec<(Head, f32)>> {
        let mut all: Vec<(Head, f32)> = self.each()?.collect();
        all.sort_by(|a, b| key(b.1).total_cmp(&key(a.1)));
        Ok(all)
    }

    /// This minus another of the same model of one stack.
    pub(crate) fn sub(&self, other: &HeadGrid) -> Result<NamedTensor> {
        self.values().sub(other.values())
    }
}

impl HeadPanel {
    fn size(&self) -> (usize, usize) {
        let axes = self.values.axes();
        (axes[0].len(), axes[1].len())
    }

    fn head(&self, layer: usize, index: usize) -> Head {
        Head { attn: self.attn, ..head(layer, index).of(self.stack) }
    }
}

impl TryFrom<NamedTensor> for HeadGrid {
    type Error = Error;

    /// What [`activation_patching`](crate::analysis::activation_patching) says of a site of heads, for one. Fails unless the axes
    /// are `layer` and `head`.
    fn try_from(values: NamedTensor) -> Result<HeadGrid> {
        match values.axis_names().as_slice() {
            ["layer", "head"] => Ok(HeadGrid::of(values)),
            axes => Err(Error::new(
                ErrorKind::Axes,
                format!(
                    "`{}` has axes [{}]: it is not a number for every head",
                    values.name(),
                    axes.join(", ")
                ),
            )
            .help("give what has the axes layer and head")),
        }
    }
}

impl fmt::Debug for HeadGrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranked = self.ranked_by_size().map_err(|_| fmt::Error)?;
        let best = ranked.iter().take(5).map(|(head, value)| format!("{head} {value:.3}"));
        write!(f, "{}: {} ...", self.values().name(), best.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for HeadGrid {
    fn views(&self) -> Result<Vec<View>> {
        Ok(self.panels().map(|values| View::Heatmap(values.clone())).collect())
    }
}
