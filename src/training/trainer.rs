//! What any training is made of: a network of weights that a loss moves, step by step.

use std::collections::{BTreeMap, HashMap};
use std::f64::consts::PI;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::network::weights::file::Weights;
use crate::progress::Progress;
use crate::training::optimizer::{AdamW, diverged};
use crate::{files, progress};

/// How the learning rate goes: it rises from zero, then falls along half a cosine to a twentieth, where it stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Schedule {
    /// The highest.
    pub(crate) learning_rate: f64,
    /// The steps over which it rises.
    pub(crate) warm_up: usize,
    /// The steps over which it falls.
    pub(crate) steps: usize,
}

impl Schedule {
    /// The learning rate of a step, counted from 1.
    fn rate(&self, step: usize) -> f64 {
        let done = (step as f64 / self.steps as f64).min(1.0);
        let warm = (step as f64 / self.warm_up.max(1) as f64).min(1.0);
        self.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1.0 + (PI * done).cos()))
    }
}

/// How what is trained is made of weights.
type Build<N> = Box<dyn Fn(&Weights) -> Result<N> + Send + Sync>;

/// A network in training: or several, or one with more around it, as `N` says. Whatever fails or is stopped, it stays as it was
/// after its last whole step.
pub(crate) struct Trainer<N> {
    build: Build<N>,
    schedule: Schedule,
    optimizer: AdamW,
}

impl<N> Trainer<N> {
    /// What `build` makes of weights, asking for each by its name: before the first step of `initial`, which draws them.
    pub(crate) fn new(
        initial: Weights,
        schedule: Schedule,
        build: impl Fn(&Weights) -> Result<N> + Send + Sync + 'static,
    ) -> Result<Trainer<N>> {
        build(&initial)?;
        let optimizer = AdamW::new(initial.into_initialized())?;
        Ok(Trainer { build: Box::new(build), schedule, optimizer })
    }

    /// The steps made so far.
    pub(crate) fn steps(&self) -> usize {
        self.optimizer.steps()
    }

    /// Makes one step against the gradient of a loss, which is one number that depends on all weights, and gives what it was
    /// before.
    pub(crate) fn step(&mut self, loss: impl FnOnce(&N) -> Result<Tensor>) -> Result<f32> {
        let step = self.steps() + 1;
        let network = (self.build)(&Weights::from_tensors(self.optimizer.weights()))?;
        let loss = loss(&network)?;
        let value = loss.to_scalar::<f32>()?;
        if !value.is_finite() {
            return Err(diverged("the loss", step));
        }
        // A stop that was asked for meanwhile is why it failed, if it did.
        let gradients = loss.backward();
        progress::check("the training")?;
        self.optimizer.step(&gradients?, self.schedule.rate(step))?;
        Ok(value)
    }

    /// What is trained, as it is now: later steps do not change it.
    pub(crate) fn network(&self) -> Result<N> {
        (self.build)(&Weights::from_tensors(self.weights()?))
    }

    /// The weights by name, as they are now.
    pub(crate) fn weights(&self) -> Result<HashMap<String, Tensor>> {
        self.optimizer.copies()
    }

    /// Writes all that the training goes on from to a file, and notes of the caller's.
    pub(crate) fn save(&self, path: &Path, notes: &[(&str, String)]) -> Result<()> {
        let state: BTreeMap<String, Tensor> = self.optimizer.state().into_iter().collect();
        let steps = (STEP.to_string(), self.steps().to_string());
        let notes = notes.iter().map(|(name, text)| (name.to_string(), text.clone()));
        let notes = notes.chain([steps]).collect();
        let bytes = safetensors::serialize(&state, Some(notes)).map_err(|error| {
            Error::new(ErrorKind::File, format!("cannot write {}", path.display()))
                .caused_by(error)
                .help("the training is as it was: try another place")
        })?;
        files::write(path, &bytes)
    }

    /// Goes on from what was saved: of a training of the same weights, or nothing changes.
    pub(crate) fn resume(&mut self, saved: &SavedTraining) -> Result<()> {
        self.optimizer.restore(saved.steps, |name, shape| saved.weights.get(name, shape))
    }
}

/// The entry of a saved training that says how many steps were made.
const STEP: &str = "headlight.step";

/// What [`Trainer::save`] wrote.
pub(crate) struct SavedTraining {
    origin: String,
    weights: Weights,
    steps: usize,
}

impl SavedTraining {
    pub(crate) fn open(path: &Path) -> Result<SavedTraining> {
        let origin = path.display().to_string();
        let weights = Weights::from_files(&origin, &[path.to_path_buf()], &Device::Cpu)?;
        let steps = weights.note(STEP).and_then(|step| step.parse().ok());
        match steps {
            Some(steps) => Ok(SavedTraining { origin, weights, steps }),
            None => Err(not_saved(&origin)),
        }
    }

    /// One of the caller's notes.
    pub(crate) fn note(&self, name: &str) -> Result<&str> {
        self.weights.note(name).ok_or_else(|| not_saved(&self.origin))
    }
}

fn not_saved(origin: &str) -> Error {
    Error::new(ErrorKind::File, format!("{origin} is not a saved training"))
        .help("give what `Training::save` wrote")
}

/// Does so many times what makes a step of a training, showing how far it is. Where it is stopped it says after which step.
pub(crate) fn run<T>(
    training: &mut T,
    steps: usize,
    made: impl Fn(&T) -> usize,
    mut step: impl FnMut(&mut T) -> Result<()>,
) -> Result<()> {
    let progress = Progress::new("training", steps);
    let outcome = (0..steps).try_for_each(|_| {
        step(training)?;
        progress.advance(1)
    });
    outcome.map_err(|error| match error.kind() {
        ErrorKind::Stopped => {
            let after = format!("the training was stopped after step {}", made(training));
            Error::new(ErrorKind::Stopped, after)
                .help("call `run` again to go on from there; nothing else is lost")
        }
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_a_twentieth() {
        let schedule = Schedule { steps: 100, warm_up: 10, learning_rate: 1.0 };
        let half = 0.05 + 0.95 * 0.5;
        for (step, wanted) in [(50, half), (100, 0.05), (1000, 0.05)] {
            assert!((schedule.rate(step) - wanted).abs() < 1e-12, "{step}");
        }
        assert!((schedule.rate(5) / schedule.rate(10) - 0.5).abs() < 0.01);
    }
}
