//! Repeated random tokens (Olsson et al. 2022, "In-context Learning and Induction Heads", section "Model Analysis
//! Table"): a sequence that only copying from the context can predict.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, ErrorKind, Result};
use crate::model::input::Input;
use crate::model::model::Model;

/// With fewer tokens the one after the earlier copy would be the previous or the current token.
pub(crate) const SHORTEST: usize = 3;

/// Random tokens, said twice, after the model's BOS. An encoder-decoder has them as its target, after what its decoder begins with, of
/// a source in which nothing but the end stands.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let repeated = RepeatedTokens { length: 10, batch: 3, seed: 7 };
/// let ids = repeated.ids(&model)?;
/// assert_eq!((ids.len(), ids[0].len()), (3, 21));
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepeatedTokens {
    /// Tokens before they repeat. 50 by default, or as many as fit the context twice.
    pub length: usize,
    /// Sequences. 10 by default.
    pub batch: usize,
    /// Where drawing begins: the same seed draws the same tokens. 0 by default.
    pub seed: u64,
}

/// The most sequences: their ids are all in memory at once.
const MOST: usize = 100_000;

impl RepeatedTokens {
    /// The defaults for a model: 10 sequences of 50 tokens, or of as many as its context holds twice.
    pub fn for_model(model: &Model) -> Self {
        let room = (model.dims().n_ctx - usize::from(model.bos().is_some())) / 2;
        RepeatedTokens { length: room.clamp(1, 50), batch: 10, seed: 0 }
    }

    /// The token ids of each sequence. Special tokens are never drawn.
    pub fn ids(&self, model: &Model) -> Result<Vec<Vec<u32>>> {
        let bos = model.bos();
        let longest = (model.dims().n_ctx - usize::from(bos.is_some())) / 2;
        if longest < SHORTEST {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the model reads {} tokens at most: nothing can be said twice", model.dims().n_ctx),
            )
            .help(format!("repeated tokens need a context of {} and one more for BOS", 2 * SHORTEST)));
        }
        if self.length < SHORTEST || self.length > longest || !(1..=MOST).contains(&self.batch) {
            return Err(Error::new(
                ErrorKind::Input,
                format!("{} sequences of {} tokens said twice cannot be run", self.batch, self.length),
            )
            .help(format!(
                "the length is {SHORTEST} to {longest} for this model's context, the batch 1 to {MOST}"
            )));
        }
        let special = model.special_ids();
        let ordinary: Vec<u32> =
            (0..model.dims().d_vocab as u32).filter(|id| !special.contains(id)).collect();
        if ordinary.is_empty() {
            return Err(Error::new(ErrorKind::Input, "the vocabulary has no token that is not special")
                .help("give the model texts or ids of your own"));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut sequence = || {
            let unit: Vec<u32> =
                (0..self.length).map(|_| ordinary[rng.random_range(0..ordinary.len())]).collect();
            bos.into_iter().chain(unit.iter().chain(&unit).copied()).collect()
        };
        Ok((0..self.batch).map(|_| sequence()).collect())
    }

    /// What a model is given, so that the stack that is read out reads these sequences.
    pub(crate) fn input(model: &Model, sequences: &[Vec<u32>]) -> Input {
        if !model.spec().is_encoder_decoder() {
            return sequences.to_vec().into();
        }
        let end = model.eos.first().copied().or(model.bos()).unwrap_or(0);
        let target = |read: &Vec<u32>| read.iter().skip(1).copied().chain([end]).collect::<Vec<u32>>();
        let targets: Vec<Vec<u32>> = sequences.iter().map(target).collect();
        Input::pair(vec![vec![end]; sequences.len()], targets)
    }
}
