//! One number for every head of a model.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Head;
use crate::named::{NamedTensor, ValueKind, layer_and_head};
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
    values: NamedTensor,
}

impl HeadGrid {
    pub(crate) fn from_vec(
        name: impl Into<String>,
        values: Vec<f32>,
        n_layers: usize,
        n_heads: usize,
    ) -> Result<HeadGrid> {
        NamedTensor::from_vec(name, values, layer_and_head(n_layers, n_heads).to_vec()).map(HeadGrid::of)
    }

    /// Of what has the axes of layers and heads, in this order.
    pub(crate) fn of(values: NamedTensor) -> HeadGrid {
        HeadGrid { values }
    }

    pub(crate) fn with_value_kind(self, kind: ValueKind) -> HeadGrid {
        HeadGrid { values: self.values.with_value_kind(kind) }
    }

    /// The numbers `[layer, head]`.
    pub fn values(&self) -> &NamedTensor {
        &self.values
    }

    /// The number of one head. Fails if there is no such head.
    pub fn at(&self, head: Head) -> Result<f32> {
        let (n_layers, n_heads) = self.size();
        let Head { layer, head } = head.check(n_layers, n_heads)?;
        self.values.value(&[layer, head])
    }

    /// Every head, layer by layer.
    pub fn heads(&self) -> impl Iterator<Item = Head> + use<> {
        let (n_layers, n_heads) = self.size();
        Head::all(n_layers, n_heads)
    }

    /// Every head with its number, layer by layer.
    pub(crate) fn each(&self) -> Result<impl Iterator<Item = (Head, f32)> + use<>> {
        Ok(self.heads().zip(self.values.to_vec()?))
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

    fn size(&self) -> (usize, usize) {
        let axes = self.values.axes();
        (axes[0].len(), axes[1].len())
    }

    /// This minus another of the same model.
    pub(crate) fn sub(&self, other: &HeadGrid) -> Result<NamedTensor> {
        self.values.sub(&other.values)
    }
}

impl TryFrom<NamedTensor> for HeadGrid {
    type Error = Error;

    /// What [`activation_patching`](crate::analysis::activation_patching) says of a site of heads, for one. Fails unless the axes
    /// are `layer` and `head`.
    fn try_from(values: NamedTensor) -> Result<HeadGrid> {
        match values.axis_names().as_slice() {
            ["layer", "head"] => Ok(HeadGrid { values }),
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
        write!(f, "{}: {} ...", self.values.name(), best.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for HeadGrid {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Heatmap(self.values.clone())])
    }
}
