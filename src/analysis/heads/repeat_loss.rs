//! The loss on repeated random tokens, which falls in the second copy of a model that copies from its context (Olsson et
//! al. 2022, "In-context Learning and Induction Heads").

use std::fmt;

use crate::analysis::heads::repeated_tokens::RepeatedTokens;
use crate::error::Result;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::progress::Progress;
use crate::view::{View, Visualize};

/// What [`loss_on_repeats`] found: the mean loss of each token, in nats, over the sequences.
#[derive(Clone)]
pub struct LossOnRepeats {
    losses: NamedTensor,
    /// How many of them are of the first copy.
    first: usize,
}

impl LossOnRepeats {
    /// The loss at each predicted position `[position]`, in nats.
    pub fn values(&self) -> &NamedTensor {
        &self.losses
    }

    /// The mean loss of the first copy's tokens, in nats: there is nothing to look back to.
    pub fn first_copy(&self) -> Result<f32> {
        self.mean_of(0..self.first)
    }

    /// The mean loss of the second copy's tokens, in nats.
    pub fn second_copy(&self) -> Result<f32> {
        self.mean_of(self.first..self.losses.shape()[0])
    }

    fn mean_of(&self, range: std::ops::Range<usize>) -> Result<f32> {
        self.losses.slice("position", range)?.mean("position")?.value(&[])
    }
}

impl fmt::Debug for LossOnRepeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first_copy().map_err(|_| fmt::Error)?;
        let second = self.second_copy().map_err(|_| fmt::Error)?;
        write!(f, "{}: {first:.2} the first time, {second:.2} the second", self.losses.name())
    }
}

impl Visualize for LossOnRepeats {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Lines(self.losses.clone())])
    }
}

/// The mean loss of each token of repeated random tokens. Positions are those of the predicted tokens, so the first is 1.
///
/// Fails where the tokens cannot be made; see [`RepeatedTokens::ids`].
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let loss = loss_on_repeats(&model, &RepeatedTokens { batch: 2, ..RepeatedTokens::for_model(&model) })?;
/// println!("{loss:?}");
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn loss_on_repeats(model: &Model, repeated: &RepeatedTokens) -> Result<LossOnRepeats> {
    model.spec().any_decoder("the loss on repeats")?;
    let sequences = repeated.ids(model)?;
    let progress = Progress::new("loss on repeats", sequences.len());
    let mut sums: Vec<f64> = Vec::new();
    for ids in &sequences {
        let input = RepeatedTokens::input(model, std::slice::from_ref(ids));
        let mut losses = model.loss_per_token(input)?.to_vec()?;
        // That of the end of a target is of no copy.
        losses.truncate(ids.len() - 1);
        sums.resize(losses.len(), 0.0);
        sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += f64::from(loss));
        progress.advance(1)?;
    }
    let means: Vec<f32> = sums.iter().map(|sum| (sum / sequences.len() as f64) as f32).collect();
    let labels: Vec<String> = (1..=means.len()).map(|position| position.to_string()).collect();
    // Without a BOS the very first token is predicted by nothing.
    let first = means.len() - repeated.length;
    let losses = NamedTensor::from_vec(
        "loss on repeated random tokens (nats)",
        means,
        vec![Axis::labelled("position", labels)],
    )?;
    Ok(LossOnRepeats { losses: losses.with_value_kind(ValueKind::Magnitude), first })
}
