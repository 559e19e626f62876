//! The training of a classifier of texts.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use crate::error::Result;
use crate::hook::Site;
use crate::model::model::Model;
use crate::training::folder::{FolderOptions, FolderTraining, trains_a_folder};
use crate::training::loss::classes_of_sequences;

/// A classifier of texts in training, from weights that are drawn anew. Whatever fails, it stays as it was after its last whole step.
///
/// A folder says what is trained, as Hugging Face lays it out: `config.json`, the tokenizer's files, and no weights. With
/// [`weights`](ClassifierTraining::weights) written to its `model.safetensors` it is the folder of a model.
///
/// ```no_run
/// use headlight::prelude::*;
/// use headlight::training::{ClassifierTraining, FolderOptions};
/// let mut training = ClassifierTraining::new("my-bert", &FolderOptions::default())?;
/// for _ in 0..1000 {
///     let loss = training.step_on(&[("a good film", "positive"), ("a bad film", "negative")])?;
/// }
/// println!("{:?}", training.model()?.classify("not a bad film")?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub struct ClassifierTraining(FolderTraining);

trains_a_folder!(ClassifierTraining);

impl ClassifierTraining {
    /// What a folder describes, before its first step. Fails where no model can be made of it, or one that tells no classes.
    pub fn new(folder: impl AsRef<Path>, options: &FolderOptions) -> Result<ClassifierTraining> {
        let training = FolderTraining::new(folder.as_ref(), options)?;
        training.model.spec().check(Site::ClassLogits.into())?;
        Ok(ClassifierTraining(training))
    }

    /// Makes one step on texts, each with the name of its class, and gives their mean loss in nats before it.
    pub fn step_on<T: AsRef<str>, C: AsRef<str>>(&mut self, texts: &[(T, C)]) -> Result<f32> {
        let sequence = |(text, class): &(T, C)| {
            Ok((self.0.model.to_tokens(text.as_ref())?.ids().to_vec(), class.as_ref().to_string()))
        };
        let sequences = texts.iter().map(sequence).collect::<Result<Vec<_>>>()?;
        self.step_on_tokens(&sequences)
    }

    /// The same for texts that are token ids already, with all that frames them.
    pub fn step_on_tokens<C: AsRef<str>>(&mut self, sequences: &[(Vec<u32>, C)]) -> Result<f32> {
        let sequence = |(ids, class): &(Vec<u32>, C)| {
            Ok((ids.clone(), self.0.model.class_index(class.as_ref())? as u32))
        };
        let sequences = sequences.iter().map(sequence).collect::<Result<Vec<_>>>()?;
        self.0.step(|network| classes_of_sequences(network, &sequences))
    }
}
