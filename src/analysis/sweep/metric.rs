//! Metrics: what of a prediction is compared when a model is changed.

use std::fmt;
use std::sync::Arc;

use candle_core::{D, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, AxisKind, Head, Hook, Site};
use crate::model::classify::listed;
use crate::model::edit::AttentionEdge;
use crate::model::input::Tokens;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor};
use crate::network::cpu::{log_sum_exp, sum};
use crate::network::dims::check_ids;
use crate::network::spec::Readout;
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
    /// The logit of one token minus that of another, at a position or, without one, at the last; of a masked language model at the one mask.
    LogitDiff {
        /// The token that is right.
        correct: u32,
        /// The token that is wrong.
        incorrect: u32,
        /// The position that predicts.
        position: Option<usize>,
    },
    /// The log-probability of a token, at a position or, without one, at the last; of a masked language model at the one mask.
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
    /// The attention from a query to a key in a head, of any stack and across stacks.
    Attention(AttentionEdge),
    /// The logit of a class, or that minus the logit of another.
    Class {
        /// The class, counted from 0.
        class: usize,
        /// The class whose logit is taken away.
        instead: Option<usize>,
    },
    /// How alike a pair of towers finds what it reads: `hook_similarity`.
    Similarity,
    /// A number of one's own from an activation; see [`Metric::custom`] and [`Metric::custom_at`].
    Custom(String, Hook, Arc<CustomMetric>),
}

/// A number from an activation of one input, as its site has it.
type CustomMetric = dyn Fn(&NamedTensor) -> Result<f32> + Send + Sync;

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe_by(None))
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
    /// The logit of one token minus that of another at the last position, or at the mask; the tokens given as text.
    pub fn logit_diff(model: &Model, correct: &str, incorrect: &str) -> Result<Metric> {
        let (correct, incorrect) = (model.to_single_token(correct)?, model.to_single_token(incorrect)?);
        Ok(Metric::LogitDiff { correct, incorrect, position: None })
    }

    /// The log-probability of a token at the last position, or at the mask; the token given as text.
    pub fn log_prob(model: &Model, token: &str) -> Result<Metric> {
        Ok(Metric::LogProb { token: model.to_single_token(token)?, position: None })
    }

    /// The logit of a class by its name. Fails, naming those that there are, if the model tells no such class.
    pub fn class(model: &Model, class: &str) -> Result<Metric> {
        Ok(Metric::Class { class: model.class_index(class)?, instead: None })
    }

    /// The logit of one class minus that of another, by their names.
    pub fn class_diff(model: &Model, class: &str, instead: &str) -> Result<Metric> {
        Ok(Metric::Class { class: model.class_index(class)?, instead: Some(model.class_index(instead)?) })
    }

    /// A number of one's own from the logits `[position, d_vocab]` of an input.
    pub fn custom(
        name: impl Into<String>,
        metric: impl Fn(&NamedTensor) -> Result<f32> + Send + Sync + 'static,
    ) -> Metric {
        Metric::Custom(name.into(), Site::UnembedOut.into(), Arc::new(metric))
    }

    /// A number of one's own from the activation of any hook, with the axes that its site has, of one input.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let norm = Metric::custom_at("size of the stream", Site::ResidPost.at(1), |stream| {
    ///     Ok(stream.to_vec()?.iter().map(|x| x * x).sum::<f32>().sqrt())
    /// });
    /// let without = ablation_effects(&model, "the cat sat", Ablation::Zero, &norm)?;
    /// println!("{without:?}");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn custom_at(
        name: impl Into<String>,
        hook: impl Into<Hook>,
        metric: impl Fn(&NamedTensor) -> Result<f32> + Send + Sync + 'static,
    ) -> Metric {
        Metric::Custom(name.into(), hook.into(), Arc::new(metric))
    }

    /// In words, with the text of its tokens.
    pub(crate) fn describe(&self, model: &Model) -> String {
        self.describe_by(Some(model))
    }

    /// In words; tokens and classes by their numbers, where no model says what they are.
    fn describe_by(&self, model: Option<&Model>) -> String {
        let token_said = |id: u32| {
            let label = model.and_then(|model| model.labels(&[id]).into_iter().next());
            label.map_or_else(|| id.to_string(), |label| format!("{label:?}"))
        };
        let class_said = |class: usize| {
            let label = model.and_then(|model| model.spec().class_labels().get(class));
            label.map_or_else(|| class.to_string(), |label| format!("{label:?}"))
        };
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
            Metric::Attention(AttentionEdge { head, query, key }) => {
                format!("attention of {head} from {query} to {key}")
            }
            Metric::Class { class, instead: None } => format!("logit of class {}", class_said(*class)),
            Metric::Class { class, instead: Some(instead) } => {
                format!("logit of class {} - {}", class_said(*class), class_said(*instead))
            }
            Metric::Similarity => "similarity".to_string(),
            Metric::Custom(name, ..) => name.clone(),
        }
    }

    /// Fails if the metric cannot be had of this model and input.
    pub(crate) fn check(&self, model: &Model, tokens: &Tokens) -> Result<()> {
        let dims = model.dims();
        match self {
            Metric::Loss | Metric::LossFrom(_) => model.spec().predicts_next("the loss").map(drop)?,
            Metric::InductionScore(head) => {
                let read_out = model.spec().read_out("an induction score")?.stack;
                if (head.stack, head.attn) != (read_out, Attn::Own) {
                    let what =
                        format!("an induction score is of a head that looks back, and {head} does not");
                    return Err(Error::new(ErrorKind::Address, what)
                        .help(format!("name a head such as {}", crate::hook::head(0, 0).of(read_out))));
                }
            }
            Metric::Attention(edge) => model.spec().check_head(edge.head).map(drop)?,
            _ => model.spec().check(self.hook()).map(drop)?,
        }
        let refused = |what: String, help: &str| Err(Error::new(ErrorKind::Input, what).help(help));
        let (ids, position) = match self {
            Metric::LogitDiff { correct, incorrect, position } => (vec![*correct, *incorrect], *position),
            Metric::LogProb { token, position } => (vec![*token], *position),
            Metric::Loss if tokens.predictions() == 0 => {
                return refused(
                    format!("the {self:?} of one token"),
                    "give at least two tokens, BOS included",
                );
            }
            Metric::LossFrom(start) if *start >= tokens.predictions() => {
                return refused(
                    format!("the {self:?} of an input of {} tokens", tokens.len()),
                    "the last position predicts nothing that could be checked: start before it",
                );
            }
            Metric::InductionScore(head) => {
                model.spec().check_head(*head)?;
                tokens.period().map(|_| ()).ok_or_else(|| {
                    Error::new(ErrorKind::Input, format!("{tokens} does not say the same tokens twice"))
                        .help("an induction score takes an input that repeats as a whole")
                })?;
                (Vec::new(), None)
            }
            _ => (Vec::new(), None),
        };
        if let Metric::Class { class, instead } = self {
            let labels = model.spec().class_labels();
            if let Some(other) =
                [Some(*class), *instead].into_iter().flatten().find(|&class| class >= labels.len())
            {
                let help = format!("classes are counted from 0: {}", listed(labels));
                return refused(format!("there is no class {other}"), &help);
            }
        }
        check_ids(&ids, dims.d_vocab)?;
        let is_asked =
            matches!(self, Metric::LogitDiff { .. } | Metric::LogProb { .. }) && position.is_none();
        let can_mask = matches!(model.spec().readout(), Readout::Masked(_)) && model.mask().is_some();
        if is_asked && can_mask && !tokens.has_mask() {
            return refused(
                format!("the {} of {tokens}, which has not one mask", self.describe(model)),
                "write one [MASK] where the word is to be told, or name the position",
            );
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
        let predictions = tokens.predictions();
        match self {
            Metric::Loss => Some((0..predictions).collect()),
            Metric::LossFrom(start) => Some((*start..predictions).collect()),
            Metric::LogitDiff { position, .. } | Metric::LogProb { position, .. } => {
                Some(vec![position.unwrap_or(tokens.position_asked())])
            }
            Metric::InductionScore(_)
            | Metric::Attention(_)
            | Metric::Class { .. }
            | Metric::Similarity
            | Metric::Kl
            | Metric::Custom(..) => None,
        }
    }

    /// The one position that decides it, where there is one.
    pub(crate) fn position_read(&self, model: &Model, tokens: &Tokens) -> Option<usize> {
        match (self, model.spec().readout()) {
            (Metric::Class { .. }, Readout::Classes { pooling, .. }) => Some(pooling.position(tokens.len())),
            (Metric::LogitDiff { .. } | Metric::LogProb { .. }, _) => {
                self.positions(tokens)?.first().copied()
            }
            _ => None,
        }
    }

    /// At how many positions logits are read.
    pub(crate) fn logits_read(&self, tokens: &Tokens) -> usize {
        match self {
            _ if self.hook() != Site::UnembedOut.into() => 0,
            _ => self.positions(tokens).map_or(tokens.len(), |positions| positions.len()),
        }
    }

    /// The activation that is read.
    pub(crate) fn hook(&self) -> Hook {
        match self {
            Metric::InductionScore(head) | Metric::Attention(AttentionEdge { head, .. }) => {
                head.hook(Site::Pattern)
            }
            Metric::Class { .. } => Site::ClassLogits.into(),
            Metric::Similarity => Site::Similarity.into(),
            Metric::Custom(_, hook, _) => *hook,
            _ => Site::UnembedOut.into(),
        }
    }

    /// What of that activation is read: of logits at all positions, or at those alone, `[row, position, d_vocab]`; of a pattern
    /// all.
    pub(crate) fn read(&self, activation: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        match self.positions(tokens) {
            Some(positions) if positions.len() != activation.dim(1)? => {
                let positions: Vec<u32> = positions.iter().map(|&position| position as u32).collect();
                Ok(activation.index_select(&Tensor::new(positions, activation.device())?, 1)?)
            }
            _ => Ok(activation.clone()),
        }
    }

    /// Its values `[row, value]`, whose mean it is, from what is [read](Metric::read) of each row and, `clean`, of the unchanged
    /// model. Gradients go through it.
    fn values(&self, read: &Tensor, clean: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        let rows = read.dim(0)?;
        let chosen = |ids: &[u32]| -> Result<Tensor> {
            let len = read.dim(1)?;
            let ids = Tensor::new(ids, read.device())?.reshape((1, len, 1))?;
            let ids = ids.broadcast_as((rows, len, 1))?.contiguous()?;
            Ok(read.contiguous()?.gather(&ids, D::Minus1)?.squeeze(2)?)
        };
        Ok(match self {
            Metric::Loss | Metric::LossFrom(_) => {
                let next = tokens.next_ids();
                (log_sum_exp(read)?.squeeze(2)? - chosen(&next[next.len() - read.dim(1)?..])?)?
            }
            Metric::LogitDiff { correct, incorrect, .. } => (chosen(&[*correct])? - chosen(&[*incorrect])?)?,
            Metric::LogProb { token, .. } => (chosen(&[*token])? - log_sum_exp(read)?.squeeze(2)?)?,
            Metric::Kl => {
                let before = clean.broadcast_sub(&log_sum_exp(clean)?)?;
                let after = read.broadcast_sub(&log_sum_exp(read)?)?;
                let apart = before.broadcast_sub(&after)?;
                before.exp()?.broadcast_mul(&apart)?.sum(D::Minus1)?
            }
            Metric::InductionScore(head) => {
                // Each query's attention to the key after the earlier copy of its token.
                let distance = tokens.period().unwrap_or(1) - 1;
                let keys = tokens.len() - distance;
                let pattern = read.narrow(1, head.head, 1)?.flatten_from(1)?; // [row, query * key]
                let cells: Vec<u32> =
                    (0..keys).map(|key| ((key + distance) * tokens.len() + key) as u32).collect();
                pattern.index_select(&Tensor::new(cells, read.device())?, 1)?
            }
            Metric::Attention(AttentionEdge { head, query, key }) => {
                let (queries, keys) = (read.dim(2)?, read.dim(3)?);
                if *query >= queries || *key >= keys {
                    return Err(Error::new(
                        ErrorKind::Input,
                        format!(
                            "there is no attention from {query} to {key} in {queries} queries of {keys} keys"
                        ),
                    )
                    .help("positions count from 0"));
                }
                let of_head = read.narrow(1, head.head, 1)?.narrow(2, *query, 1)?.narrow(3, *key, 1)?;
                of_head.flatten_from(1)? // [row, 1]
            }
            // [row, 1]
            Metric::Class { class, instead: None } => read.narrow(1, *class, 1)?,
            Metric::Class { class, instead: Some(instead) } => {
                (read.narrow(1, *class, 1)? - read.narrow(1, *instead, 1)?)?
            }
            Metric::Similarity => read.unsqueeze(1)?,
            Metric::Custom(_, hook, metric) => {
                let kinds = hook.site().axes().iter().zip(&read.dims()[1..]);
                let axes: Vec<Axis> = kinds
                    .map(|(kind, &len)| match *kind {
                        AxisKind::Position if len == tokens.len() => {
                            Axis::labelled(kind.name(), tokens.shared_labels())
                        }
                        kind => Axis::unlabelled(kind.name(), len),
                    })
                    .collect();
                let name = if hook.site() == Site::UnembedOut { "logits".into() } else { hook.to_string() };
                let value = |row| -> Result<f32> {
                    progress::check("measuring")?;
                    metric(&NamedTensor::new(name.as_str(), read.get(row)?, axes.clone())?)
                };
                let values = (0..rows).map(value).collect::<Result<Vec<f32>>>()?;
                Tensor::from_vec(values, (rows, 1), read.device())?
            }
        })
    }

    /// The metric of each row.
    pub(crate) fn of_rows(&self, read: &Tensor, clean: &Tensor, tokens: &Tokens) -> Result<Vec<Mean>> {
        let rows = self.values(read, clean, tokens)?.to_vec2::<f32>()?;
        let mean = |row: &Vec<f32>| match self {
            // A head's score is one number, as `HeadScores` has it.
            Metric::InductionScore(_) => Mean::from(sum(row) / row.len() as f32),
            _ => Mean { sum: row.iter().map(|&x| f64::from(x)).sum(), count: row.len() as f64 },
        };
        Ok(rows.iter().map(mean).collect())
    }

    /// The metric as a tensor of one number, with its gradient, from what is read of one input.
    pub(crate) fn differentiable(&self, read: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        match self {
            // The one has no slope where nothing is changed, the other none at all.
            Metric::Kl | Metric::Custom(..) => {
                Err(Error::new(ErrorKind::Input, format!("the {self:?} has no gradient here"))
                    .help("use the loss, a logit difference or a log-probability; or activation_patching"))
            }
            _ => Ok(self.values(read, &read.detach(), tokens)?.mean_all()?),
        }
    }
}
