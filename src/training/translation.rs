//! The training of an encoder-decoder on texts and their translations.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use crate::error::Result;
use crate::hook::Stack;
use crate::model::input::Input;
use crate::model::model::Model;
use crate::training::folder::{FolderOptions, FolderTraining, trains_a_folder};
use crate::training::loss::{Pair, next_token_of_pairs};

/// An encoder-decoder in training, from weights that are drawn anew: each token of a target is to be told from its source and the tokens
/// before it (Vaswani et al. 2017). Whatever fails, it stays as it was after its last whole step.
///
/// A folder says what is trained, as Hugging Face lays it out: `config.json`, the tokenizer's files, and no weights. With
/// [`weights`](TranslationTraining::weights) written to its `model.safetensors` it is the folder of a model.
///
/// ```no_run
/// use headlight::prelude::*;
/// use headlight::training::{FolderOptions, TranslationTraining};
/// let mut training = TranslationTraining::new("my-marian", &FolderOptions::default())?;
/// for _ in 0..1000 {
///     let loss = training.step_on(&[("the cat sleeps .", "le chat dort .")])?;
/// }
/// println!("{:?}", training.model()?.translate("the cat sleeps .", &Search::default())?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub struct TranslationTraining(FolderTraining);

trains_a_folder!(TranslationTraining);

impl TranslationTraining {
    /// What a folder describes, before its first step. Fails where no model can be made of it, or one that is no encoder-decoder.
    pub fn new(folder: impl AsRef<Path>, options: &FolderOptions) -> Result<TranslationTraining> {
        let training = FolderTraining::new(folder.as_ref(), options)?;
        training.model.spec().encoder_and_decoder("translation")?;
        Ok(TranslationTraining(training))
    }

    /// Makes one step on texts, each with its translation, and gives their mean loss in nats before it.
    pub fn step_on<S: AsRef<str>, T: AsRef<str>>(&mut self, pairs: &[(S, T)]) -> Result<f32> {
        let sources: Vec<&str> = pairs.iter().map(|(source, _)| source.as_ref()).collect();
        let targets: Vec<&str> = pairs.iter().map(|(_, target)| target.as_ref()).collect();
        let pieces = self.0.model.pieces(&Input::pair(sources.as_slice(), targets.as_slice()))?;
        let read = pieces[&Stack::Encoder].iter().zip(&pieces[&Stack::Decoder]);
        let pairs: Vec<(Vec<u32>, Vec<u32>)> =
            read.map(|(source, target)| (source.ids().to_vec(), target.next_ids())).collect();
        self.step_on_tokens(&pairs)
    }

    /// The same for texts that are token ids already, with all that frames them: of a target what is to be written, the end included.
    pub fn step_on_tokens(&mut self, pairs: &[(Vec<u32>, Vec<u32>)]) -> Result<f32> {
        let start = self.0.model.decoder_start()?;
        let read = |(source, target): &(Vec<u32>, Vec<u32>)| -> Pair {
            (source.clone(), std::iter::once(start).chain(target.iter().copied()).collect())
        };
        let pairs: Vec<Pair> = pairs.iter().map(read).collect();
        self.0.step(|network| next_token_of_pairs(network, &pairs))
    }
}
