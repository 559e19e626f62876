//! How much each token of an input counts for what is read out, by gradients and by taking tokens away.

use std::fmt;

use candle_core::{Tensor, Var};

use crate::analysis::sweep::metric::Metric;
use crate::analysis::words::quadrature::gauss_legendre;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run::Pieces;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::dims::check_ids;
use crate::network::record::Record;
use crate::network::spec::Reads;
use crate::network::tap::Tap;
use crate::progress::Progress;
use crate::view::{View, Visualize};

/// How [`token_attribution`] asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributionMethod {
    /// The gradient with respect to a token's embedding, times the embedding (Shrikumar et al. 2016).
    GradientTimesInput,
    /// The mean gradient on the way from a baseline to the embedding, times their difference (Sundararajan et al. 2017, "Axiomatic
    /// Attribution for Deep Networks"), by Gauss-Legendre quadrature. Positions, token types and special tokens stay.
    IntegratedGradients {
        /// At how many places on the way gradients are taken.
        steps: usize,
        /// The token whose embedding stands for none; `[PAD]` or what the tokenizer has for it where none is named.
        baseline: Option<u32>,
    },
    /// What is lost where a token is replaced by another.
    Occlusion {
        /// The token that takes its place; `[MASK]` or, where there is none, the baseline of the gradients where none is named.
        by: Option<u32>,
    },
}

impl AttributionMethod {
    /// Integrated gradients as captum has them by default: 50 steps.
    pub const INTEGRATED_GRADIENTS: AttributionMethod =
        AttributionMethod::IntegratedGradients { steps: 50, baseline: None };

    /// Occlusion by the token that masks.
    pub const OCCLUSION: AttributionMethod = AttributionMethod::Occlusion { by: None };
}

impl fmt::Display for AttributionMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttributionMethod::GradientTimesInput => f.write_str("gradient times input"),
            AttributionMethod::IntegratedGradients { .. } => f.write_str("integrated gradients"),
            AttributionMethod::Occlusion { .. } => f.write_str("occlusion"),
        }
    }
}

/// What [`token_attribution`] found.
#[derive(Clone)]
pub struct TokenAttribution {
    scores: NamedTensor,
    metric: String,
    method: AttributionMethod,
    value: f64,
    baseline: Option<f64>,
}

/// How many rows run at once.
const AT_ONCE: usize = 25;

/// How much each token of an input counts for a metric: for a class, say, or for one class rather than another
/// ([`Metric::class_diff`]). Of one input and a model of one stack. Draws itself as running text, each token on its colour.
///
/// Attributions that say different things are not wrong for that: they ask different questions. [`TokenAttribution::rank_correlation`] says how
/// far two agree.
///
/// ```
/// use headlight::prelude::*;
/// use headlight::analysis::{AttributionMethod, token_attribution};
/// let model = Model::open("built-in")?;
/// let metric = Metric::log_prob(&model, " sat")?;
/// let found = token_attribution(&model, "the cat sat on the mat, the cat", &metric, AttributionMethod::INTEGRATED_GRADIENTS)?;
/// println!("{found:?}");
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn token_attribution(
    model: &Model,
    input: impl Into<Input>,
    metric: &Metric,
    method: AttributionMethod,
) -> Result<TokenAttribution> {
    let stack = model.spec().only_stack("the attribution to tokens")?;
    if stack.reads != Reads::Tokens {
        return Err(Error::new(ErrorKind::Model, "the attribution to tokens is of models that read text")
            .help("patches of a picture can be changed: `Site::Embed` with `edit`"));
    }
    let tokens = model.to_tokens(input)?;
    metric.check(model, &tokens)?;
    let asked = Asked::new(model, tokens, metric)?;
    let mut baseline = None;
    let (scores, value) = match method {
        AttributionMethod::GradientTimesInput => {
            let (values, gradients) = asked.with_gradients(&asked.embed)?; // (1, T, M)
            (sums(&(gradients * &asked.embed)?)?, values[0])
        }
        AttributionMethod::IntegratedGradients { steps, baseline: token } => {
            let from = asked.replaced(token.map_or_else(|| asked.filling(), Ok)?)?; // (1, T, M)
            let ends = asked.values(&Tensor::cat(&[&asked.embed, &from], 0)?)?;
            baseline = Some(ends[1]);
            (asked.integrate(&from, steps)?, ends[0])
        }
        AttributionMethod::Occlusion { by } => {
            let by = by.or_else(|| model.mask()).map_or_else(|| asked.filling(), Ok)?;
            asked.occlude(&asked.replaced(by)?)?
        }
    };
    let metric = metric.describe(model);
    let name = match baseline {
        Some(baseline) => {
            let sum: f64 = scores.iter().map(|&score| f64::from(score)).sum();
            let change = value - baseline;
            format!("{metric} by {method}: {sum:.3} of {change:.3}")
        }
        None => format!("{metric} by {method}: {value:.3}"),
    };
    let axes = vec![Axis::labelled("position", asked.tokens.shared_labels())];
    let scores = NamedTensor::from_vec(name, scores, axes)?.with_value_kind(ValueKind::Signed);
    Ok(TokenAttribution { scores, metric, method, value, baseline })
}

/// One question about one input.
struct Asked<'a> {
    model: &'a Model,
    tokens: Tokens,
    metric: &'a Metric,
    embed: Tensor, // (1, T, M)
}

impl<'a> Asked<'a> {
    fn new(model: &'a Model, tokens: Tokens, metric: &'a Metric) -> Result<Self> {
        let embed = embeddings(model, &tokens)?;
        Ok(Asked { model, tokens, metric, embed })
    }

    /// The token that stands for none, where none is named.
    fn filling(&self) -> Result<u32> {
        self.model.filling().ok_or_else(|| {
            Error::new(ErrorKind::Input, "the model names no token that stands for none").help(
                "name one, as `AttributionMethod::IntegratedGradients { steps: 50, baseline: Some(0) }`",
            )
        })
    }

    /// The embeddings with another token's in place of each that is not special `[1, position, d_model]`.
    fn replaced(&self, token: u32) -> Result<Tensor> {
        check_ids([&token], self.model.dims().d_vocab)?;
        let special = self.model.special_ids();
        let ids: Vec<u32> =
            self.tokens.ids().iter().map(|&id| if special.contains(&id) { id } else { token }).collect();
        embeddings(self.model, &self.tokens.clone().with_ids(ids))
    }

    /// What is read of runs from such embeddings `[row, position, d_model]`.
    fn read(&self, embed: Tensor) -> Result<Tensor> {
        let pieces = rows_of(self.model, &self.tokens, embed.dim(0)?);
        let record = Record::new([self.metric.hook()]).at_positions(self.metric.positions(&self.tokens));
        let mut tap = FromEmbeddings { embed, record };
        self.model.execute(self.model.batch(&pieces)?.into(), None, &mut tap)?;
        self.metric.read(&tap.record.only()?, &self.tokens)
    }

    fn values_of(&self, read: &Tensor) -> Result<Vec<f64>> {
        let means = self.metric.of_rows(read, read, &self.tokens)?;
        Ok(means.iter().map(|mean| mean.sum / mean.count).collect())
    }

    /// The metric of each row.
    fn values(&self, embed: &Tensor) -> Result<Vec<f64>> {
        self.values_of(&self.read(embed.clone())?)
    }

    /// The same, and its gradient with respect to that row's embeddings.
    fn with_gradients(&self, embed: &Tensor) -> Result<(Vec<f64>, Tensor)> {
        let (rows, len, _) = embed.dims3()?;
        let read = self.metric.logits_read(&self.tokens);
        self.model.has_room_for_gradients(rows, len, read, &[Site::Embed])?;
        let from = Var::from_tensor(embed)?;
        let read = self.read(from.as_tensor().clone())?;
        let gradients = self.metric.differentiable(&read, &self.tokens)?.backward()?;
        let values = self.values_of(&read.detach())?;
        // What is differentiated is the mean of all rows.
        let gradient = match gradients.get(from.as_tensor()) {
            Some(gradient) => (gradient * rows as f64)?,
            None => embed.zeros_like()?,
        };
        Ok((values, gradient))
    }

    fn integrate(&self, from: &Tensor, steps: usize) -> Result<Vec<f32>> {
        if steps == 0 || steps > 10_000 {
            return Err(Error::new(
                ErrorKind::Input,
                format!("gradients cannot be integrated in {steps} steps"),
            )
            .help("50 are usual; more make the sum come nearer to the change"));
        }
        let way = (&self.embed - from)?; // (1, T, M)
        let progress = Progress::new("integrating gradients", steps);
        let mut mean = way.zeros_like()?;
        for together in gauss_legendre(steps).chunks(AT_ONCE) {
            let places = together.iter().map(|(at, _)| Ok((from + (&way * *at)?)?));
            let (_, gradients) =
                self.with_gradients(&Tensor::cat(&places.collect::<Result<Vec<_>>>()?, 0)?)?;
            for (row, (_, weight)) in together.iter().enumerate() {
                mean = (mean + (gradients.narrow(0, row, 1)? * *weight)?)?;
            }
            progress.advance(together.len())?;
        }
        sums(&(mean * way)?)
    }

    /// What the metric loses by each token, and its value.
    fn occlude(&self, by: &Tensor) -> Result<(Vec<f32>, f64)> {
        let value = self.values(&self.embed)?[0];
        let len = self.tokens.len();
        let progress = Progress::new("occluding", len);
        let special = self.model.special_ids();
        let asked: Vec<usize> =
            (0..len).filter(|&position| !special.contains(&self.tokens.ids()[position])).collect();
        let mut scores = vec![0f32; len];
        for together in asked.chunks(AT_ONCE) {
            let without = together.iter().map(|&position| {
                let [before, own, after] = [(0, position), (position, 1), (position + 1, len - position - 1)];
                let of = |tensor: &Tensor, (start, len)| tensor.narrow(1, start, len);
                Ok(Tensor::cat(&[of(&self.embed, before)?, of(by, own)?, of(&self.embed, after)?], 1)?)
            });
            let values = self.values(&Tensor::cat(&without.collect::<Result<Vec<_>>>()?, 0)?)?;
            together
                .iter()
                .zip(values)
                .for_each(|(&position, without)| scores[position] = (value - without) as f32);
            progress.advance(together.len())?;
        }
        Ok((scores, value))
    }
}

/// As many rows of the same tokens.
fn rows_of(model: &Model, tokens: &Tokens, rows: usize) -> Pieces {
    [(model.spec().last_stack().stack, vec![tokens.clone(); rows])].into()
}

/// The embeddings of tokens `[1, position, d_model]`, as the model has them.
fn embeddings(model: &Model, tokens: &Tokens) -> Result<Tensor> {
    let mut embed = Record::new([Site::Embed.into()]);
    model.execute(model.batch(&rows_of(model, tokens, 1))?.into(), None, &mut embed)?;
    embed.only()
}

/// The sum of each position's numbers.
fn sums(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.squeeze(0)?.sum(1)?.to_vec1()?)
}

/// Puts embeddings in place of those that a run makes, and keeps what is read.
struct FromEmbeddings {
    embed: Tensor,
    record: Record,
}

impl Tap for FromEmbeddings {
    fn wants(&self, hook: Hook) -> bool {
        hook == Hook::from(Site::Embed) || self.record.wants(hook)
    }

    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor> {
        if hook == Hook::from(Site::Embed) {
            return Ok(self.embed.clone());
        }
        self.record.tap(hook, activation)
    }

    fn unembed_positions(&self) -> Option<&[usize]> {
        self.record.unembed_positions()
    }
}

impl TokenAttribution {
    /// The score of each token `[position]`: how much of the metric is its own.
    pub fn scores(&self) -> &NamedTensor {
        &self.scores
    }

    /// The metric of the input.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The metric of the baseline, of integrated gradients.
    pub fn baseline(&self) -> Option<f64> {
        self.baseline
    }

    /// The sum of the scores minus the change of the metric from the baseline, of integrated gradients: 0 if they were integrated exactly
    /// (Sundararajan et al. 2017, "Completeness").
    pub fn completeness_gap(&self) -> Result<Option<f64>> {
        let sum: f64 = self.scores.to_vec()?.into_iter().map(f64::from).sum();
        Ok(self.baseline.map(|baseline| sum - (self.value - baseline)))
    }

    /// Spearman's rank correlation with another attribution of the same tokens: 1 where both rank them alike.
    pub fn rank_correlation(&self, other: &TokenAttribution) -> Result<f64> {
        let (own, others) = (self.scores.to_vec()?, other.scores.to_vec()?);
        if own.len() != others.len() {
            return Err(Error::new(
                ErrorKind::Input,
                format!("attributions to {} and to {} tokens are compared", own.len(), others.len()),
            )
            .help("compare two of the same input"));
        }
        let (own, others) = (ranks(&own), ranks(&others));
        let mean = (own.len() as f64 - 1.0) / 2.0;
        let product =
            |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
        let spread = (product(&own, &own) * product(&others, &others)).sqrt();
        // Where all are alike there is no rank to agree in.
        Ok(if spread > 0.0 { product(&own, &others) / spread } else { 0.0 })
    }
}

/// The rank of each value, those that are equal sharing the mean of theirs.
fn ranks(values: &[f32]) -> Vec<f64> {
    let rank = |value: &f32| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

impl fmt::Debug for TokenAttribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scores = self.scores.to_vec().map_err(|_| fmt::Error)?;
        let labels = self.scores.axes()[0].labels().unwrap_or_default();
        let each = labels.iter().zip(scores).map(|(label, score)| format!("{label:?} {score:.3}"));
        write!(f, "{} of {}: {}", self.method, self.metric, each.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for TokenAttribution {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Tokens(self.scores.clone())])
    }
}
