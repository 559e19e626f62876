//! Metrics: what of a prediction is compared when a model is changed.

use std::fmt;
use std::sync::Arc;

use candle_core::{D, Tensor};

use crate::analysis::sweep::engine::{sweep, sweep_rows};
use crate::analysis::sweep::part::{SweepPart, SweepSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Head;
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor};
use crate::network::cpu::ops::log_sum_exp;
use crate::progress;

/// What is measured of a prediction. Losses, log-probabilities and divergences are in nats.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let metric = Metric::logit_diff(&model, " cat", " dog")?;
/// let spread = Metric::custom("largest logit", |logits| Ok(logits.to_vec()?.into_iter().fold(0.0, f32::max)));
/// println!("{metric:?}, {spread:?}");
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Metric {
    /// The mean loss over positions.
    Loss,
    /// The mean loss of the predictions from one position on: of the second half of a repeat, say.
    LossFrom(usize),
    /// The logit of one token minus that of another, at a position or, without one, at the last.
    LogitDiff {
        /// The token that is right.
        correct: u32,
        /// The token that is wrong.
        incorrect: u32,
        /// The position that predicts.
        position: Option<usize>,
    },
    /// The log-probability of a token, at a position or, without one, at the last.
    LogProb {
        /// The token.
        token: u32,
        /// The position that predicts.
        position: Option<usize>,
    },
    /// The Kullback-Leibler divergence KL(unchanged || changed) of the predictions, mean over positions.
    Kl,
    /// The induction score of a head, on an input that repeats.
    InductionScore(Head),
    /// A number of one's own from the logits `[position, d_vocab]`; see [`Metric::custom`].
    Custom(String, Arc<CustomMetric>),
}

/// A number from the logits `[position, d_vocab]` of one input.
type CustomMetric = dyn Fn(&NamedTensor) -> Result<f32> + Send + Sync;

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said(|id| id.to_string()))
    }
}

impl SweepPart {
    /// This part of [`Metric::measure`].
    pub fn measure(&self, model: &Model, input: impl Into<Input>, metric: &Metric) -> Result<()> {
        let input = input.into();
        let asked = SweepSpec::Metric { metric: metric.described(model) };
        self.fill(model, &input, Some(metric), asked, |share, keep| {
            sweep_rows("measuring", model, &[], &input, metric, share, keep)
        })
    }
}

/// A sum and how many it is of, so that means over inputs of several lengths are exact.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    pub(crate) sum: f64,
    pub(crate) count: f64,
}

impl Mean {
    pub(crate) fn add(&mut self, other: Mean) {
        self.sum += other.sum;
        self.count += other.count;
    }
}

impl From<f32> for Mean {
    fn from(value: f32) -> Self {
        Mean { sum: f64::from(value), count: 1.0 }
    }
}

impl Metric {
    /// The logit of one token minus that of another at the last position, the tokens given as text.
    pub fn logit_diff(model: &Model, correct: &str, incorrect: &str) -> Result<Metric> {
        let (correct, incorrect) = (model.to_single_token(correct)?, model.to_single_token(incorrect)?);
        Ok(Metric::LogitDiff { correct, incorrect, position: None })
    }

    /// The log-probability of a token at the last position, the token given as text.
    pub fn log_prob(model: &Model, token: &str) -> Result<Metric> {
        Ok(Metric::LogProb { token: model.to_single_token(token)?, position: None })
    }

    /// A number of one's own from the logits `[position, d_vocab]` of an input.
    pub fn custom(
        name: impl Into<String>,
        metric: impl Fn(&NamedTensor) -> Result<f32> + Send + Sync + 'static,
    ) -> Metric {
        Metric::Custom(name.into(), Arc::new(metric))
    }

    /// The metric of a model on an input; [`Kl`](Metric::Kl), which compares, is 0.
    ///
    /// Fails for a token, a head or a position that the model or the input does not have.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let metric = Metric::log_prob(&model, " sat")?;
    /// let without = model.ablate(head(0, 5), Ablation::Zero)?;
    /// let text = "the cat sat on the mat, the cat";
    /// println!("{:.2} with it, {:.2} without", metric.measure(&model, text)?, metric.measure(&without, text)?);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn measure(&self, model: &Model, input: impl Into<Input>) -> Result<f64> {
        Ok(sweep("measuring", model, &[], &input.into(), self)?.clean)
    }

    /// In words, with the text of its tokens.
    pub(crate) fn described(&self, model: &Model) -> String {
        self.said(|id| model.labels(&[id]).first().map_or_else(|| id.to_string(), |text| format!("{text:?}")))
    }

    fn said(&self, token_said: impl Fn(u32) -> String) -> String {
        let at = |position: &Option<usize>| position.map(|p| format!(" at {p}")).unwrap_or_default();
        match self {
            Metric::Loss => "loss".to_string(),
            Metric::LossFrom(position) => format!("loss from {position} on"),
            Metric::LogitDiff { correct, incorrect, position } => {
                let (correct, incorrect) = (token_said(*correct), token_said(*incorrect));
                format!("logit difference {correct} - {incorrect}{}", at(position))
            }
            Metric::LogProb { token, position } => {
                format!("log-probability of {}{}", token_said(*token), at(position))
            }
            Metric::Kl => "KL divergence".to_string(),
            Metric::InductionScore(head) => format!("induction score of {head}"),
            Metric::Custom(name, _) => name.clone(),
        }
    }

    /// Fails if the metric cannot be had of this model and input.
    pub(crate) fn check(&self, model: &Model, tokens: &Tokens) -> Result<()> {
        let dims = model.dims();
        let refused = |what: String, help: &str| Err(Error::new(ErrorKind::Input, what).help(help));
        let (ids, position) = match self {
            Metric::LogitDiff { correct, incorrect, position } => (vec![*correct, *incorrect], *position),
            Metric::LogProb { token, position } => (vec![*token], *position),
            Metric::Loss if tokens.len() < 2 => {
                return refused(
                    format!("the {self:?} of one token"),
                    "give at least two tokens, BOS included",
                );
            }
            Metric::LossFrom(start) if *start >= tokens.len() - 1 => {
                return refused(
                    format!("the {self:?} of an input of {} tokens", tokens.len()),
                    "the last position predicts nothing that could be checked: start before it",
                );
            }
            Metric::InductionScore(head) => {
                head.check(dims.n_layers, dims.n_heads)?;
                tokens.period().map(|_| ()).ok_or_else(|| {
                    Error::new(ErrorKind::Input, format!("{tokens} does not say the same tokens twice"))
                        .help("an induction score takes an input that repeats as a whole")
                })?;
                (Vec::new(), None)
            }
            _ => (Vec::new(), None),
        };
        if let Some(id) = ids.iter().find(|&&id| id as usize >= dims.d_vocab) {
            let help =
                format!("the vocabulary has {0} tokens: ids are 0 to {1}", dims.d_vocab, dims.d_vocab - 1);
            return refused(format!("token id {id} is out of range"), &help);
        }
        if let Some(position) = position.filter(|&position| position >= tokens.len()) {
            return refused(
                format!("there is no position {position} in an input of {} tokens", tokens.len()),
                "positions count from 0, and the last is taken where none is named",
            );
        }
        Ok(())
    }

    /// The positions whose logits are read; all where there is no list.
    pub(crate) fn positions(&self, tokens: &Tokens) -> Option<Vec<usize>> {
        let last = tokens.len() - 1;
        match self {
            Metric::Loss => Some((0..last).collect()),
            Metric::LossFrom(start) => Some((*start..last).collect()),
            Metric::LogitDiff { position, .. } | Metric::LogProb { position, .. } => {
                Some(vec![position.unwrap_or(last)])
            }
            Metric::InductionScore(_) => Some(Vec::new()),
            Metric::Kl | Metric::Custom(..) => None,
        }
    }

    /// The logits that are read, of logits at all positions or at those alone `[row, position, d_vocab]`.
    pub(crate) fn read(&self, logits: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        match self.positions(tokens) {
            Some(positions) if positions.len() != logits.dim(1)? => {
                let positions: Vec<u32> = positions.iter().map(|&position| position as u32).collect();
                Ok(logits.index_select(&Tensor::new(positions, logits.device())?, 1)?)
            }
            _ => Ok(logits.clone()),
        }
    }

    /// The layer whose pattern is read, for the metric that reads no logits.
    pub(crate) fn pattern_layer(&self) -> Option<usize> {
        match self {
            Metric::InductionScore(head) => Some(head.layer),
            _ => None,
        }
    }

    /// The metric of each row, from logits `[row, position read, d_vocab]`; `clean` are the logits of the unchanged
    /// model `[1, position read, d_vocab]`.
    pub(crate) fn of_logits(&self, logits: &Tensor, clean: &Tensor, tokens: &Tokens) -> Result<Vec<Mean>> {
        let (rows, read, d_vocab) = logits.dims3()?;
        let chosen = |ids: &[u32]| -> Result<Tensor> {
            let ids = Tensor::new(ids, logits.device())?.reshape((1, read, 1))?;
            let ids = ids.broadcast_as((rows, read, 1))?.contiguous()?;
            Ok(logits.contiguous()?.gather(&ids, D::Minus1)?.squeeze(2)?)
        };
        let per_position = match self {
            Metric::Loss | Metric::LossFrom(_) => {
                let next = &tokens.ids()[tokens.len() - read..];
                (log_sum_exp(logits)?.squeeze(2)? - chosen(next)?)?
            }
            Metric::LogitDiff { correct, incorrect, .. } => (chosen(&[*correct])? - chosen(&[*incorrect])?)?,
            Metric::LogProb { token, .. } => (chosen(&[*token])? - log_sum_exp(logits)?.squeeze(2)?)?,
            Metric::Kl => {
                let before = clean.broadcast_sub(&log_sum_exp(clean)?)?;
                let after = logits.broadcast_sub(&log_sum_exp(logits)?)?;
                let apart = before.broadcast_sub(&after)?;
                before.exp()?.broadcast_mul(&apart)?.sum(D::Minus1)?
            }
            Metric::InductionScore(_) => return Ok(Vec::new()),
            Metric::Custom(_, metric) => {
                let axes = vec![
                    Axis::labelled("position", tokens.shared_labels()),
                    Axis::unlabelled("d_vocab", d_vocab),
                ];
                let value = |row| -> Result<Mean> {
                    progress::check("measuring")?;
                    Ok(metric(&NamedTensor::new("logits", logits.get(row)?, axes.clone())?)?.into())
                };
                return (0..rows).map(value).collect();
            }
        };
        let rows = per_position.to_vec2::<f32>()?;
        let mean =
            |row: &Vec<f32>| Mean { sum: row.iter().map(|&x| f64::from(x)).sum(), count: row.len() as f64 };
        Ok(rows.iter().map(mean).collect())
    }

    /// The metric as a tensor of one number, with its gradient, from the logits of one input.
    pub(crate) fn differentiable(&self, logits: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        let read = logits.dim(1)?;
        let chosen = |ids: &[u32]| -> Result<Tensor> {
            let ids = Tensor::new(ids, logits.device())?.reshape((1, read, 1))?;
            Ok(logits.contiguous()?.gather(&ids, D::Minus1)?)
        };
        let per_position = match self {
            Metric::Loss | Metric::LossFrom(_) => {
                (log_sum_exp(logits)? - chosen(&tokens.ids()[tokens.len() - read..])?)?
            }
            Metric::LogitDiff { correct, incorrect, .. } => (chosen(&[*correct])? - chosen(&[*incorrect])?)?,
            Metric::LogProb { token, .. } => (chosen(&[*token])? - log_sum_exp(logits)?)?,
            other => {
                return Err(Error::new(ErrorKind::Input, format!("the {other:?} has no gradient here"))
                    .help("use the loss, a logit difference or a log-probability; or activation_patching"));
            }
        };
        Ok(per_position.mean_all()?)
    }
}
