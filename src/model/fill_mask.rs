//! What a masked language model puts in place of a mask.

use std::fmt;

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run::Pieces;
use crate::network::cpu::{log_sum_exp, softmax};
use crate::network::record::Record;
use crate::network::spec::Readout;
use crate::view::{Table, View, Visualize};

/// What [`Model::fill_mask`] found: every token with its probability.
#[derive(Clone)]
pub struct MaskFilling {
    text: String,
    /// What the tokens say, by their ids.
    labels: Vec<String>,
    probabilities: Vec<f32>,
    /// Ids, the likeliest first.
    order: Vec<u32>,
}

impl Model {
    /// What a masked language model puts in place of the one `[MASK]` (`<mask>` in RoBERTa's) of a text: each token with its
    /// probability. Draws itself as a table of the likeliest.
    ///
    /// Fails where there is no mask, or several, and for models that tell no masked tokens.
    pub fn fill_mask(&self, text: &str) -> Result<MaskFilling> {
        let probabilities = softmax(&self.masked_logits(text)?)?.squeeze(0)?.to_vec1::<f32>()?;
        let mut order: Vec<u32> = (0..probabilities.len() as u32).collect();
        let labels = self.labels(&order);
        order.sort_by(|&a, &b| probabilities[b as usize].total_cmp(&probabilities[a as usize]));
        Ok(MaskFilling { text: text.into(), labels, probabilities, order })
    }

    /// The logits of every token at the one mask `[1, d_vocab]`.
    fn masked_logits(&self, text: &str) -> Result<Tensor> {
        let (tokens, position) = self.masked(text)?;
        let pieces: Pieces = [(self.spec().last_stack().stack, vec![tokens])].into_iter().collect();
        let mut logits = Record::logits().at_positions(Some(vec![position]));
        self.execute(self.batch(&pieces)?.into(), None, &mut logits)?;
        let logits = logits.only()?; // (1, T or 1, V)
        let at = if logits.dim(1)? == 1 { 0 } else { position };
        Ok(logits.narrow(1, at, 1)?.squeeze(1)?)
    }

    /// The loss, in nats, of a token where the one mask of a text stands: minus its log-probability. What of it a change of the model moves,
    /// [`Metric::LogProb`](crate::analysis::Metric) measures.
    ///
    /// Fails as [`fill_mask`](Model::fill_mask) does, and where the answer is not one token.
    pub fn masked_loss(&self, text: &str, answer: &str) -> Result<f32> {
        let token = self.to_single_token(answer)?;
        let logits = self.masked_logits(text)?; // (1, V)
        let answer = logits.narrow(1, token as usize, 1)?;
        Ok((log_sum_exp(&logits)? - answer)?.flatten_all()?.get(0)?.to_scalar()?)
    }

    /// The position of the one mask of a text: where a [`Metric`](crate::analysis::Metric) of what stands behind it reads, as
    /// `Metric::LogProb`.
    pub fn mask_position(&self, text: &str) -> Result<usize> {
        Ok(self.masked(text)?.1)
    }

    /// The tokens of a text, and where its mask is.
    fn masked(&self, text: &str) -> Result<(Tokens, usize)> {
        let is_masked = match self.spec().readout() {
            Readout::Masked(_) => true,
            Readout::Vocabulary(_) => !self.spec().last_stack().sees.is_causal(),
            _ => false,
        };
        if !is_masked {
            return Err(Error::new(ErrorKind::Model, "this model does not tell what a masked token is")
                .help("that takes a masked language model, as bert-base-uncased; a decoder predicts the next token: `test_prompt`"));
        }
        let tokens = self.tokenize_one(&Input::from(text), 0)?;
        let Some(mask) = self.mask() else {
            return Err(Error::new(ErrorKind::Tokenizer, "the tokenizer has no token that masks")
                .help("take the tokenizer that came with the weights"));
        };
        let said = self.labels(&[mask]).concat();
        match tokens.positions_of(mask).as_slice() {
            [position] => Ok((tokens, *position)),
            [] => Err(Error::new(ErrorKind::Input, format!("there is no {said} in {text:?}"))
                .help(format!("write {said} where a word is to be told"))),
            several => Err(Error::new(
                ErrorKind::Input,
                format!("there are {} {said} in {text:?}, where one is taken", several.len()),
            )
            .help("ask for one word at a time: write the others out")),
        }
    }
}

impl MaskFilling {
    /// The likeliest tokens, so many, with their probabilities.
    pub fn top(&self, count: usize) -> Vec<(&str, f32)> {
        let each = self.order.iter().take(count).map(|&id| id as usize);
        each.map(|id| (self.labels[id].as_str(), self.probabilities[id])).collect()
    }

    /// The probability of a token, given as its label says it. Fails if there is no such token.
    pub fn probability(&self, token: &str) -> Result<f32> {
        Ok(self.probabilities[self.id(token)? as usize])
    }

    /// The rank of a token; 0 is the likeliest.
    pub fn rank(&self, token: &str) -> Result<usize> {
        let id = self.id(token)?;
        Ok(self.order.iter().position(|&other| other == id).unwrap_or(self.order.len()))
    }

    fn id(&self, token: &str) -> Result<u32> {
        let found = self.labels.iter().position(|label| label == token);
        found.map(|id| id as u32).ok_or_else(|| {
            Error::new(ErrorKind::Input, format!("{token:?} is no token of the model"))
                .help("give one token, as `top` lists them")
        })
    }
}

/// How many tokens are shown.
const SHOWN: usize = 10;

impl fmt::Debug for MaskFilling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each =
            self.top(SHOWN).into_iter().map(|(token, probability)| format!("{token:?} {probability:.4}"));
        write!(f, "{:?}: {}", self.text, each.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for MaskFilling {
    fn views(&self) -> Result<Vec<View>> {
        let mut table = Table::new(self.text.clone(), ["rank", "token", "probability"]);
        for (rank, (token, probability)) in self.top(SHOWN).into_iter().enumerate() {
            table.push([rank.to_string(), format!("{token:?}"), format!("{probability:.4}")]);
        }
        Ok(vec![View::Table(table)])
    }
}
