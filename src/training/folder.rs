//! The training of what a folder describes, from weights that are drawn anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::model::model::Model;
use crate::network::network::Network;
use crate::network::weights::file::Weights;
use crate::network::weights::initial::DEVIATION;
use crate::open::source::untrained;
use crate::training::trainer::{SavedTraining, Schedule, Trainer};

/// How a [`ClassifierTraining`](crate::training::ClassifierTraining) or a
/// [`TranslationTraining`](crate::training::TranslationTraining) goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FolderOptions {
    /// The steps over which the learning rate falls, along half a cosine, to a twentieth, where it stays.
    pub steps: usize,
    /// The steps over which the learning rate first rises from zero.
    pub warm_up: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// The deviation of the weights before the first step: 0.02 in BERT. A narrower model begins better with larger ones.
    pub deviation: f64,
    /// The same seed draws the same weights.
    pub seed: u64,
}

impl Default for FolderOptions {
    fn default() -> Self {
        FolderOptions { steps: 1000, warm_up: 100, learning_rate: 1e-3, deviation: DEVIATION, seed: 0 }
    }
}

/// What a folder describes, in training. Whatever fails, it stays as it was after its last whole step.
pub(crate) struct FolderTraining {
    /// What is trained, with its first weights.
    pub(crate) model: Model,
    trainer: Trainer<Network>,
}

impl FolderTraining {
    pub(crate) fn new(folder: &Path, options: &FolderOptions) -> Result<FolderTraining> {
        let FolderOptions { steps, warm_up, learning_rate, deviation, seed } = *options;
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        if steps == 0 || !is_positive(learning_rate) || !is_positive(deviation) {
            return Err(Error::new(ErrorKind::Config, format!("nothing can be trained by {options:?}"))
                .help("steps, learning_rate and deviation are above 0"));
        }
        let initial = || Weights::random(seed, deviation, 1, &Device::Cpu);
        let model = untrained(folder, &initial())?;
        let schedule = Schedule { learning_rate, warm_up, steps };
        let config = model.config.clone();
        let trainer = Trainer::new(initial(), schedule, move |weights| config.network(weights))?;
        Ok(FolderTraining { model, trainer })
    }

    pub(crate) fn step(&mut self, loss: impl Fn(&Network) -> Result<Tensor>) -> Result<f32> {
        self.trainer.step(loss)
    }

    pub(crate) fn steps(&self) -> usize {
        self.trainer.steps()
    }

    pub(crate) fn now(&self) -> Result<Model> {
        let name = format!("trained, step {}", self.steps());
        Ok(Model { name, network: Arc::new(self.trainer.network()?), ..self.model.clone() })
    }

    pub(crate) fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(self.trainer.weights()?.into_iter().collect())
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        self.trainer.save(path, &[])
    }

    pub(crate) fn resume(&mut self, path: &Path) -> Result<()> {
        self.trainer.resume(&SavedTraining::open(path)?)
    }
}

/// Gives a training of what a folder describes what all of them have.
macro_rules! trains_a_folder {
    ($type:ident) => {
        impl $type {
            /// The steps made so far.
            pub fn steps(&self) -> usize {
                self.0.steps()
            }

            /// The model as it is now, to be looked into like any other; training on does not change it.
            pub fn model(&self) -> Result<Model> {
                self.0.now()
            }

            /// The weights as they are now, under Hugging Face's names.
            pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
                self.0.weights()
            }

            /// Writes all that the training goes on from to a file.
            pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
                self.0.save(path.as_ref())
            }

            /// Goes on from what [`save`](Self::save) wrote. Folder and options must be those of the training that was saved.
            pub fn resume(&mut self, path: impl AsRef<Path>) -> Result<()> {
                self.0.resume(path.as_ref())
            }
        }
    };
}

pub(crate) use trains_a_folder;
