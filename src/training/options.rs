//! What is trained, on what, and how.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::floats;
use crate::training::trainer::Schedule;

/// The token that begins every sequence.
pub(super) const BOS: u32 = 0;
/// The tokens that one sequence is of.
const STATES: usize = 8;
/// How often a sequence goes on at any of its tokens.
const JUMPS: f64 = 0.1;
/// Weights of a model that a CPU trains.
const MOST_WEIGHTS: f64 = 5e7;
/// Numbers in the logits of a batch.
const MOST_LOGITS: f64 = 5e8;

/// What [`Training`](super::Training) trains: a GPT-2 of these sizes, on tokens that it can predict from those before.
///
/// Each sequence begins with BOS and has a small language of its own: eight tokens are drawn, and for each of them the one
/// that follows it; one time in ten any of the eight comes instead. So what follows a token can be known only from what
/// followed it earlier in the same sequence, which is what an induction head looks up (after Edelman et al. 2024, "The
/// Evolution of Statistical Induction Heads: In-Context Learning Markov Chains").
///
/// With the defaults the loss on what repeats stays high for some 200 steps and then falls, as a previous-token head and
/// an induction head form, one in each layer. A model of one layer stays where it is.
///
/// ```
/// use headlight::prelude::*;
/// let one_layer = TrainingOptions { n_layers: 1, ..TrainingOptions::default() };
/// assert_eq!(one_layer.n_heads, TrainingOptions::default().n_heads);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingOptions {
    /// Blocks, each of attention and an MLP.
    pub n_layers: usize,
    /// Attention heads in each block.
    pub n_heads: usize,
    /// Width of the residual stream, which heads share: a multiple of `n_heads`.
    pub d_model: usize,
    /// Neurons in each MLP.
    pub d_mlp: usize,
    /// Tokens in the vocabulary, with BOS, which is 0.
    pub d_vocab: usize,
    /// The longest input, in tokens, BOS included.
    pub n_ctx: usize,
    /// Sequences in each step.
    pub batch: usize,
    /// The steps over which the learning rate falls, along half a cosine, to a twentieth, where it stays.
    pub steps: usize,
    /// The steps over which the learning rate first rises from zero.
    pub warm_up: usize,
    /// The deviation of the weights before the first step: 0.02 in GPT-2. A narrower model begins better with larger ones.
    pub deviation: f64,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps from one point of the curve to the next.
    pub evaluate_every: usize,
    /// The same seed gives the same training.
    pub seed: u64,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        TrainingOptions {
            n_layers: 2,
            n_heads: 4,
            d_model: 32,
            d_mlp: 32,
            d_vocab: 17,
            n_ctx: 40,
            batch: 32,
            steps: 3000,
            warm_up: 50,
            deviation: 0.1,
            learning_rate: 3e-3,
            evaluate_every: 20,
            seed: 0,
        }
    }
}

impl TrainingOptions {
    /// The `config.json` of the model, as Hugging Face's transformers write it.
    pub fn config_json(&self) -> String {
        let config = json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "n_layer": self.n_layers,
            "n_head": self.n_heads,
            "n_embd": self.d_model,
            "n_inner": self.d_mlp,
            "n_positions": self.n_ctx,
            "vocab_size": self.d_vocab,
            "layer_norm_epsilon": 1e-5,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": BOS,
            "eos_token_id": BOS,
            "tie_word_embeddings": true,
        });
        format!("{config:#}\n")
    }

    /// How many bytes all weights are.
    pub(super) fn bytes(&self) -> u64 {
        let Self { n_layers, d_model, d_mlp, d_vocab, n_ctx, .. } = *self;
        let block = [
            floats([4, d_model, d_model]),
            floats([2, d_model, d_mlp]),
            floats([9, d_model]),
            floats([d_mlp]),
        ];
        let block = block.into_iter().fold(0, u64::saturating_add).saturating_mul(n_layers as u64);
        [block, floats([d_vocab, d_model]), floats([n_ctx, d_model])].into_iter().fold(0, u64::saturating_add)
    }

    /// Fails unless a training can begin.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: String, help: String| Err(Error::new(ErrorKind::Config, what).help(help));
        let sizes = [
            ("n_layers", self.n_layers, 1),
            ("n_heads", self.n_heads, 1),
            ("d_model", self.d_model, 1),
            ("d_mlp", self.d_mlp, 1),
            ("d_vocab", self.d_vocab, STATES + 1),
            ("n_ctx", self.n_ctx, STATES + 1),
            ("batch", self.batch, 1),
            ("steps", self.steps, 1),
            ("evaluate_every", self.evaluate_every, 1),
        ];
        for (name, size, least) in sizes {
            if size < least {
                let why = match name {
                    "d_vocab" => ": BOS, and the tokens of a sequence",
                    "n_ctx" => ": BOS, and a few tokens said twice",
                    _ => "",
                };
                return wrong(
                    format!("the training options say {name} = {size}"),
                    format!("it is at least {least}{why}"),
                );
            }
        }
        if !self.d_model.is_multiple_of(self.n_heads) {
            let Self { d_model, n_heads, .. } = self;
            return wrong(
                format!("the training options say d_model = {d_model} and n_heads = {n_heads}"),
                format!("heads share the width evenly: try d_model = {}", d_model.next_multiple_of(*n_heads)),
            );
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return wrong(
                format!("the training options say learning_rate = {}", self.learning_rate),
                format!("it is a small positive number, as {}", Self::default().learning_rate),
            );
        }
        if !(self.deviation.is_finite() && self.deviation > 0.0) {
            return wrong(
                format!("the training options say deviation = {}", self.deviation),
                format!("it is a small positive number, as {}", Self::default().deviation),
            );
        }
        let [layers, width, neurons, vocab, context] =
            [self.n_layers, self.d_model, self.d_mlp, self.d_vocab, self.n_ctx].map(|size| size as f64);
        let weights = layers * width * (4.0 * width + 2.0 * neurons) + (vocab + context) * width;
        if weights > MOST_WEIGHTS {
            return wrong(
                format!("the model would have {weights:.1e} weights"),
                format!(
                    "at most {MOST_WEIGHTS:.0e} are trained here: make n_layers, d_model or d_vocab smaller"
                ),
            );
        }
        let logits = self.batch as f64 * context * vocab.max(self.n_heads as f64 * context);
        if logits > MOST_LOGITS {
            return wrong(
                format!("a step would hold {logits:.1e} numbers in one tensor"),
                format!("at most {MOST_LOGITS:.0e} are held here: make batch, n_ctx or d_vocab smaller"),
            );
        }
        Ok(())
    }

    /// How the learning rate goes.
    pub(super) fn schedule(&self) -> Schedule {
        Schedule { learning_rate: self.learning_rate, warm_up: self.warm_up, steps: self.steps }
    }

    /// The sequences of a step, which depend on seed and step alone, so that a resumed training is the same training.
    /// One token longer than the context, for the last is only predicted.
    pub(super) fn sequences(&self, step: usize) -> Vec<Vec<u32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ ((step as u64) << 20));
        (0..self.batch).map(|_| std::iter::once(BOS).chain(self.language(&mut rng)).collect()).collect()
    }

    /// Tokens of which each is followed by one that is its own in this sequence, with jumps.
    fn language(&self, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let mut tokens: Vec<u32> = (BOS + 1..self.d_vocab as u32).collect();
        for i in 0..STATES {
            let other = rng.random_range(i..tokens.len());
            tokens.swap(i, other);
        }
        let next: Vec<usize> = (0..STATES).map(|_| rng.random_range(0..STATES)).collect();
        let mut at = 0;
        let token = |_| {
            let here = tokens[at];
            at = if rng.random_bool(JUMPS) { rng.random_range(0..STATES) } else { next[at] };
            here
        };
        (0..self.n_ctx).map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_can_be_predicted_and_differ() {
        let options = TrainingOptions::default();
        let all = options.sequences(7);
        assert_eq!(all, options.sequences(7));
        assert_ne!(all, options.sequences(8));
        assert_eq!(all.len(), options.batch);
        let (mut followed, mut pairs) = (0, 0);
        for ids in &all {
            assert_eq!((ids.len(), ids[0]), (options.n_ctx + 1, BOS));
            assert!(ids[1..].iter().all(|&id| (1..options.d_vocab as u32).contains(&id)));
            let mut different = ids[1..].to_vec();
            different.sort_unstable();
            different.dedup();
            assert!((1..=STATES).contains(&different.len()), "{different:?}");
            // Of what has been there before, what followed it the last time mostly follows again.
            for i in 2..ids.len() {
                if let Some(earlier) = (1..i - 1).rev().find(|&j| ids[j] == ids[i - 1]) {
                    pairs += 1;
                    followed += usize::from(ids[earlier + 1] == ids[i]);
                }
            }
        }
        let share = f64::from(followed as u32) / f64::from(pairs as u32);
        assert!((0.75..0.95).contains(&share), "{share}");
    }
}
