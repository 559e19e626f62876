//! Generation: one token after another, with keys and values kept.

use std::fmt;

use candle_core::Tensor;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, ErrorKind, Result};
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::predict::last_logits;
use crate::model::writer::Writer;
use crate::network::record::Record;
use crate::network::start::{Past, Start};
use crate::progress::Progress;
use crate::view::{Table, View, Visualize};

/// How [`Model::generate`] chooses each token.
///
/// ```
/// use headlight::Sampling;
/// let sampling = Sampling { temperature: 0.8, top_k: Some(40), ..Sampling::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// How many tokens to add at most; an end-of-text token ends it earlier. 20 by default.
    pub max_new_tokens: usize,
    /// 0, the default, takes the likeliest token; above it, logits are divided by it and a token is drawn.
    pub temperature: f32,
    /// Draws among this many likeliest tokens only, at a temperature above 0.
    pub top_k: Option<usize>,
    /// Where drawing begins: the same seed draws the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { max_new_tokens: 20, temperature: 0.0, top_k: None, seed: 0 }
    }
}

/// What [`Model::generate`] made: the prompt's tokens and those added.
#[derive(Clone)]
pub struct Generation {
    tokens: Tokens,
    prompt_len: usize,
    text: String,
}

impl Generation {
    /// All tokens, those of the prompt included.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The ids that were added to the prompt.
    pub fn new_ids(&self) -> &[u32] {
        &self.tokens.ids()[self.prompt_len..]
    }

    /// The text that was added to the prompt.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Visualize for Generation {
    fn views(&self) -> Result<Vec<View>> {
        let prompt = usize::from(self.tokens.starts_with_bos())..self.prompt_len;
        let mut table = Table::new("generated", ["prompt", "continuation"]);
        table.push([self.tokens.labels()[prompt].concat(), self.text.clone()]);
        Ok(vec![View::Table(table)])
    }
}

impl Model {
    /// Continues a prompt.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let generated = model.generate("the cat sat on", &Sampling::default())?;
    /// println!("{generated}");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn generate(&self, prompt: impl Into<Input>, sampling: &Sampling) -> Result<Generation> {
        if self.spec().is_encoder_decoder() {
            return self.generate_of_source(&prompt.into(), sampling);
        }
        self.spec().decoder("generation")?;
        let prompt = self.to_tokens(prompt)?;
        sampling.check()?;
        let n_ctx = self.dims().n_ctx;
        if sampling.max_new_tokens > n_ctx - prompt.len() {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "the prompt has {} tokens and {} are to be added, but the model reads at most {n_ctx}",
                    prompt.len(),
                    sampling.max_new_tokens
                ),
            )
            .help(format!("set max_new_tokens to {} at most, or shorten the prompt", n_ctx - prompt.len())));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut past = Past::default();
        let mut ids = prompt.ids().to_vec();
        let mut unread = ids.clone();
        let progress = Progress::new("generating", sampling.max_new_tokens);
        while ids.len() < prompt.len() + sampling.max_new_tokens {
            let mut last = Record::logits().at_positions(Some(vec![unread.len() - 1]));
            let input = Tensor::new(vec![std::mem::take(&mut unread)], self.network.device())?;
            self.execute(Start::tokens(input), Some(&mut past), &mut last)?;
            let next = sampling.choose(&last_logits(&last.only()?)?, &mut rng);
            ids.push(next);
            unread.push(next);
            progress.advance(1)?;
            if self.eos.contains(&next) {
                break;
            }
        }
        let (before, added) = ids.split_at(prompt.len());
        // Behind a BOS alone a text begins.
        let text = match before.len() == usize::from(prompt.starts_with_bos()) {
            true => self.tokenizer.decode(added),
            false => self.tokenizer.decode_continuation(added),
        };
        Ok(Generation {
            tokens: self.checked(self.spec().last_stack(), ids)?,
            prompt_len: prompt.len(),
            text,
        })
    }

    /// What a decoder writes of a source, token by token.
    fn generate_of_source(&self, source: &Input, sampling: &Sampling) -> Result<Generation> {
        sampling.check()?;
        let (decoding, start, n_ctx) = (self.decoding()?, self.decoder_start()?, self.dims().n_ctx);
        if source.len() != 1 || source.second.is_some() {
            return Err(Error::new(ErrorKind::Input, "one source is taken at a time").help("give one text"));
        }
        let most = sampling.max_new_tokens;
        if most > n_ctx {
            let what = format!("{most} tokens are to be written, but the model reads at most {n_ctx}");
            return Err(
                Error::new(ErrorKind::Input, what).help(format!("set max_new_tokens to {n_ctx} at most"))
            );
        }
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut writer = Writer::new(self, &self.source_of(source, 0)?)?;
        let mut ids = vec![start];
        let progress = Progress::new("generating", most);
        while ids.len() <= most {
            let last = ids[ids.len() - 1];
            let Some(mut logits) = writer.read(&[last])?.pop() else { break };
            decoding.constrain(&ids, most + 1, &mut logits);
            let next = sampling.choose(&logits, &mut rng);
            ids.push(next);
            progress.advance(1)?;
            if self.eos.contains(&next) {
                break;
            }
        }
        let text = self.text_of(self.spec().last_stack().stack, &ids[1..]);
        let (labels, has_bos) = (self.labels(&ids), true);
        Ok(Generation { tokens: Tokens::new(ids, labels, has_bos), prompt_len: 1, text })
    }
}

impl Sampling {
    fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::new(ErrorKind::Input, format!("the temperature is {}", self.temperature))
                .help("0 takes the likeliest token; up to about 1.5 draws more and more freely"));
        }
        if self.temperature == 0.0 && self.top_k.is_some_and(|k| k > 1) {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "top_k is {:?}, but at temperature 0 no token is drawn",
                    self.top_k.unwrap_or_default()
                ),
            )
            .help("set a temperature, 1.0 say; or leave top_k out to take the likeliest token each time"));
        }
        if self.top_k == Some(0) {
            return Err(Error::new(ErrorKind::Input, "top_k is 0: there would be no token to draw")
                .help("give 1 or more, or None for all"));
        }
        Ok(())
    }

    fn choose(&self, logits: &[f32], rng: &mut ChaCha8Rng) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        // Ties go to the lower id, as in argmax.
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        if self.temperature == 0.0 {
            return order[0] as u32;
        }
        order.truncate(self.top_k.unwrap_or(logits.len()));
        let largest = logits[order[0]];
        let weight = |id: usize| f64::from((logits[id] - largest) / self.temperature).exp();
        let mut left = rng.random::<f64>() * order.iter().map(|&id| weight(id)).sum::<f64>();
        for &id in &order {
            left -= weight(id);
            if left < 0.0 {
                return id as u32;
            }
        }
        order[order.len() - 1] as u32
    }
}
