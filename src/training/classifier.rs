//! The training of a classifier of texts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::model::model::Model;
use crate::network::network::Network;
use crate::network::weights::file::Weights;
use crate::network::weights::initial::DEVIATION;
use crate::open::source::untrained;
use crate::training::loss::classes_of_sequences;
use crate::training::trainer::{SavedTraining, Schedule, Trainer};

/// How a [`ClassifierTraining`] goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierOptions {
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

impl Default for ClassifierOptions {
    fn default() -> Self {
        ClassifierOptions { steps: 1000, warm_up: 100, learning_rate: 1e-3, deviation: DEVIATION, seed: 0 }
    }
}

/// A classifier of texts in training, from weights that are drawn anew. Whatever fails, it stays as it was after its last whole step.
///
/// A folder says what is trained, as Hugging Face lays it out: `config.json`, the tokenizer's files, and no weights. With
/// [`weights`](ClassifierTraining::weights) written to its `model.safetensors` it is the folder of a model.
///
/// ```no_run
/// use headlight::prelude::*;
/// use headlight::training::{ClassifierOptions, ClassifierTraining};
/// let mut training = ClassifierTraining::new("my-bert", &ClassifierOptions::default())?;
/// for _ in 0..1000 {
///     let loss = training.step_on(&[("a good film", "positive"), ("a bad film", "negative")])?;
/// }
/// println!("{:?}", training.model()?.classify("not a bad film")?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub struct ClassifierTraining {
    /// What is trained, with its first weights.
    model: Model,
    trainer: Trainer<Network>,
}

impl ClassifierTraining {
    /// What a folder describes, before its first step. Fails where no model can be made of it, or one that tells no classes.
    pub fn new(folder: impl AsRef<Path>, options: &ClassifierOptions) -> Result<ClassifierTraining> {
        let ClassifierOptions { steps, warm_up, learning_rate, deviation, seed } = *options;
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        if steps == 0 || !is_positive(learning_rate) || !is_positive(deviation) {
            return Err(Error::new(ErrorKind::Config, format!("nothing can be trained by {options:?}"))
                .help("steps, learning_rate and deviation are above 0"));
        }
        let initial = || Weights::random(seed, deviation, 1, &Device::Cpu);
        let model = untrained(folder.as_ref(), &initial())?;
        model.spec().check(Site::ClassLogits.into())?;
        let schedule = Schedule { learning_rate, warm_up, steps };
        let config = model.config.clone();
        let trainer = Trainer::new(initial(), schedule, move |weights| config.network(weights))?;
        Ok(ClassifierTraining { model, trainer })
    }

    /// Makes one step on texts, each with the name of its class, and gives their mean loss in nats before it.
    pub fn step_on<T: AsRef<str>, C: AsRef<str>>(&mut self, texts: &[(T, C)]) -> Result<f32> {
        let sequence = |(text, class): &(T, C)| {
            Ok((self.model.to_tokens(text.as_ref())?.ids().to_vec(), class.as_ref().to_string()))
        };
        let sequences = texts.iter().map(sequence).collect::<Result<Vec<_>>>()?;
        self.step_on_tokens(&sequences)
    }

    /// The same for texts that are token ids already, with all that frames them.
    pub fn step_on_tokens<C: AsRef<str>>(&mut self, sequences: &[(Vec<u32>, C)]) -> Result<f32> {
        let sequence =
            |(ids, class): &(Vec<u32>, C)| Ok((ids.clone(), self.model.class_index(class.as_ref())? as u32));
        let sequences = sequences.iter().map(sequence).collect::<Result<Vec<_>>>()?;
        self.trainer.step(|network| classes_of_sequences(network, &sequences))
    }

    /// The steps made so far.
    pub fn steps(&self) -> usize {
        self.trainer.steps()
    }

    /// The model as it is now, to be looked into like any other; training on does not change it.
    pub fn model(&self) -> Result<Model> {
        let name = format!("trained, step {}", self.steps());
        Ok(Model { name, network: Arc::new(self.trainer.network()?), ..self.model.clone() })
    }

    /// The weights as they are now, under Hugging Face's names.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(self.trainer.weights()?.into_iter().collect())
    }

    /// Writes all that the training goes on from to a file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.trainer.save(path.as_ref(), &[])
    }

    /// Goes on from what [`save`](ClassifierTraining::save) wrote. Folder and options must be those of the training that was saved.
    pub fn resume(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.trainer.resume(&SavedTraining::open(path.as_ref())?)
    }
}
