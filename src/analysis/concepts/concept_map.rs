//! Where a concept lives: how well it can be told at each layer and position.

use std::fmt;

use crate::analysis::concepts::direction::ConceptMethod;
use crate::analysis::concepts::examples::{ConceptPosition, Examples};
use crate::error::Result;
use crate::hook::Hook;
use crate::model::input::Input;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, ValueKind, layer_axis};
use crate::progress::Progress;
use crate::view::{View, Visualize};

/// What [`concept_map`] found.
#[derive(Clone)]
pub struct ConceptMap {
    accuracy: NamedTensor,
    shuffled: NamedTensor,
}

/// How well a concept can be told at each layer and at each of some positions, as [`concept_direction`](crate::analysis::concept_direction) tells it: the
/// share of held-out texts, and the same where which text has the concept is shuffled. `hook` is a site of blocks, as `"resid_post"`.
///
/// That a direction tells a concept does not say that the model uses it: steer along it, or ablate it, and look (Tigges et al. 2023 find
/// that sentiment is gathered at punctuation).
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in-sentiment")?;
/// let praise = ["a good film.", "the plot is superb.", "i loved the cast.", "the score was fresh."];
/// let blame = ["a dull film.", "the plot is awful.", "i hated the cast.", "the score was weak."];
/// let places = [ConceptPosition::First, ConceptPosition::Delimiters, ConceptPosition::Mean];
/// let map = concept_map(&model, praise, blame, Site::ResidPre, &places, ConceptMethod::DifferenceOfMeans)?;
/// assert_eq!(map.accuracy().axis_names(), ["layer", "position"]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn concept_map(
    model: &Model,
    has: impl Into<Input>,
    lacks: impl Into<Input>,
    site: impl Into<Hook>,
    positions: &[ConceptPosition],
    method: ConceptMethod,
) -> Result<ConceptMap> {
    let site = site.into();
    let stack = model.spec().only_stack("a concept's map")?;
    let layers = stack.dims.n_layers;
    let hooks = (0..layers).map(|layer| model.hook(site.in_layer(layer))).collect::<Result<Vec<_>>>()?;
    let examples = Examples::new(model, &has.into(), &lacks.into())?;
    let all = examples.read(model, &hooks, positions)?;
    let progress = Progress::new("finding directions", layers * positions.len());
    let (mut accuracy, mut shuffled) = (Vec::new(), Vec::new());
    for rows in all.iter().flatten() {
        let (own, control) = examples.held_out(rows, method)?;
        accuracy.push(own as f32);
        shuffled.push(control as f32);
        progress.advance(1)?;
    }
    let places: Vec<String> = positions.iter().map(ToString::to_string).collect();
    let axes = vec![layer_axis(stack.stack, layers), Axis::labelled("position", places)];
    let of = |name: String, values| -> Result<NamedTensor> {
        Ok(NamedTensor::from_vec(name, values, axes.clone())?.with_value_kind(ValueKind::Probability))
    };
    Ok(ConceptMap {
        accuracy: of(format!("held-out accuracy at {site}, by {method}"), accuracy)?,
        shuffled: of("the same, labels shuffled".into(), shuffled)?,
    })
}

impl ConceptMap {
    /// The share of held-out texts told rightly `[layer, position]`.
    pub fn accuracy(&self) -> &NamedTensor {
        &self.accuracy
    }

    /// The same where which text has the concept is shuffled `[layer, position]`.
    pub fn shuffled(&self) -> &NamedTensor {
        &self.shuffled
    }
}

impl fmt::Debug for ConceptMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.accuracy.write_rows(f)
    }
}

impl Visualize for ConceptMap {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Heatmap(self.accuracy.clone()), View::Heatmap(self.shuffled.clone())])
    }
}
