//! What is trained, on what, and how.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::error::{Error, ErrorKind, Result};

/// The token that begins every sequence.
pub(super) const BOS: u32 = 0;
/// With a shorter unit a head that attends a few tokens back would do; with longer ones learning takes longer.
const SHORTEST_UNIT: usize = 4;
const LONGEST_UNIT: usize = 12;
/// How often a repeated unit goes on at another of its tokens.
const JUMPS: f64 = 0.1;
/// Weights of a model that a CPU trains.
const MOST_WEIGHTS: f64 = 5e7;
/// Numbers in the logits of a batch.
const MOST_LOGITS: f64 = 5e8;

/// What [`Training`](super::Training) trains: a GPT-2 of these sizes, on tokens that it can predict from those before.
///
/// Each sequence begins with BOS. In every other one a unit of 4 to 12 random tokens, all different, is said again and
/// again; one time in ten it goes on at another of its tokens, so that no position tells what follows: only finding the
/// current token in the context does. The others are words of three tokens, a, b and a again, whose last token the
/// previous-token head of a model can predict: as in natural text, there is something to learn from the token before.
///
/// With the defaults a previous-token head forms in layer 0 within about 1000 steps. Induction heads need longer: none had
/// formed after 3000. [`TrainingCurve::built_in`](super::TrainingCurve::built_in) shows a training in which they do.
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
            d_model: 64,
            d_mlp: 64,
            d_vocab: 64,
            n_ctx: 48,
            batch: 16,
            steps: 3000,
            warm_up: 50,
            learning_rate: 7e-3,
            evaluate_every: 50,
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

    /// Fails unless a training can begin.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: String, help: String| Err(Error::new(ErrorKind::Config, what).help(help));
        let sizes = [
            ("n_layers", self.n_layers, 1),
            ("n_heads", self.n_heads, 1),
            ("d_model", self.d_model, 1),
            ("d_mlp", self.d_mlp, 1),
            ("d_vocab", self.d_vocab, SHORTEST_UNIT + 1),
            ("n_ctx", self.n_ctx, 2 * SHORTEST_UNIT + 1),
            ("batch", self.batch, 1),
            ("steps", self.steps, 1),
            ("evaluate_every", self.evaluate_every, 1),
        ];
        for (name, size, least) in sizes {
            if size < least {
                let why = match name {
                    "d_vocab" => ": BOS, and some tokens to tell apart",
                    "n_ctx" => ": BOS, and a unit of tokens said twice",
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

    /// The learning rate of a step, counted from 1.
    pub(super) fn rate(&self, step: usize) -> f64 {
        let done = (step as f64 / self.steps as f64).min(1.0);
        let warm = (step as f64 / self.warm_up.max(1) as f64).min(1.0);
        self.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
    }

    /// The sequences of a step, which depend on seed and step alone, so that a resumed training is the same training.
    /// One token longer than the context, for the last is only predicted.
    pub(super) fn sequences(&self, step: usize) -> Vec<Vec<u32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ ((step as u64) << 20));
        let mut sequence = |index: usize| {
            let body = if index.is_multiple_of(2) { self.repeats(&mut rng) } else { self.words(&mut rng) };
            std::iter::once(BOS).chain(body).collect()
        };
        (0..self.batch).map(&mut sequence).collect()
    }

    /// A unit of random tokens said again and again, with jumps.
    fn repeats(&self, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let longest = LONGEST_UNIT.min((self.n_ctx - 1) / 2).min(self.d_vocab - 1);
        let len = rng.random_range(SHORTEST_UNIT..=longest);
        let mut tokens: Vec<u32> = (BOS + 1..self.d_vocab as u32).collect();
        for i in 0..len {
            let other = rng.random_range(i..tokens.len());
            tokens.swap(i, other);
        }
        let mut at = 0;
        let token = |_| {
            at = if rng.random_bool(JUMPS) { rng.random_range(0..len) } else { (at + 1) % len };
            tokens[at]
        };
        (0..self.n_ctx).map(token).collect()
    }

    /// Words of three random tokens, of which the last is the first again.
    fn words(&self, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let phase = rng.random_range(0..3);
        let mut body: Vec<u32> = Vec::with_capacity(self.n_ctx);
        for i in 0..self.n_ctx {
            let again = i >= 2 && (i + phase).is_multiple_of(3);
            body.push(if again { body[i - 2] } else { rng.random_range(BOS + 1..self.d_vocab as u32) });
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_a_twentieth() {
        let options = TrainingOptions { steps: 100, warm_up: 10, learning_rate: 1.0, ..Default::default() };
        let half = 0.05 + 0.95 * 0.5;
        for (step, wanted) in [(50, half), (100, 0.05), (1000, 0.05)] {
            assert!((options.rate(step) - wanted).abs() < 1e-12, "{step}");
        }
        assert!((options.rate(5) / options.rate(10) - 0.5).abs() < 0.01);
    }

    #[test]
    fn sequences_can_be_predicted_and_differ() {
        let options = TrainingOptions::default();
        let all = options.sequences(7);
        assert_eq!(all, options.sequences(7));
        assert_ne!(all, options.sequences(8));
        assert_eq!(all.len(), options.batch);
        let (mut followed, mut units) = (0, Vec::new());
        for (index, ids) in all.iter().enumerate() {
            assert_eq!((ids.len(), ids[0]), (options.n_ctx + 1, BOS));
            assert!(ids[1..].iter().all(|&id| (1..options.d_vocab as u32).contains(&id)));
            if index % 2 == 1 {
                let again =
                    |phase: usize| (3..ids.len()).filter(|i| i % 3 == phase).all(|i| ids[i] == ids[i - 2]);
                assert!((0..3).any(again), "{ids:?}");
                continue;
            }
            let mut unit = ids[1..].to_vec();
            unit.sort_unstable();
            unit.dedup();
            units.push(unit.len());
            let follows = |i: &usize| {
                let earlier = (1..*i - 1).rev().find(|&j| ids[j] == ids[i - 1]);
                earlier.is_some_and(|j| ids[j + 1] == ids[*i])
            };
            followed += (3..ids.len()).filter(follows).count();
        }
        assert!(units.iter().all(|unit| (4..=12).contains(unit)), "{units:?}");
        assert!(units.iter().max() > units.iter().min());
        assert!(followed * 2 > units.len() * options.n_ctx, "{followed}");
    }
}
