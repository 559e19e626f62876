//! The logit lens: what the model would say if it stopped at each layer (nostalgebraist 2020, "interpreting GPT: the
//! logit lens").

use std::fmt;

use candle_core::Tensor;

use crate::analysis::residual::stream::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};
use crate::memory::floats;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::cpu::log_sum_exp;
use crate::network::record::Record;
use crate::network::spec::NormPlace;
use crate::network::start::Start;
use crate::progress::{Progress, check_stop};
use crate::view::{Table, View, Visualize};

/// How many of the likeliest tokens are listed at the last position.
const TOP: usize = 5;

/// What [`logit_lens`] found: rows are `0_pre`, `1_pre`, ..., `final_post`, the stream as each layer reads it and, at
/// last, as it is unembedded.
#[derive(Clone)]
pub struct LogitLens {
    top_ids: Vec<Vec<u32>>,
    top_tokens: Vec<Vec<String>>,
    probability: NamedTensor,
    next: Option<NamedTensor>,
    last: Vec<Vec<(String, f32)>>,
}

impl LogitLens {
    /// The id of the likeliest token at each layer and position.
    pub fn top_ids(&self) -> &[Vec<u32>] {
        &self.top_ids
    }

    /// The likeliest token at each layer and position, as a label.
    pub fn top_tokens(&self) -> &[Vec<String>] {
        &self.top_tokens
    }

    /// The probability of the likeliest token `[layer, position]`.
    pub fn probability(&self) -> &NamedTensor {
        &self.probability
    }

    /// The log-probability, in nats, of the token that does come next `[layer, position]`: one position fewer than there
    /// are tokens. Fails for one token alone.
    pub fn log_prob_of_next(&self) -> Result<&NamedTensor> {
        self.next.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Input, "one token alone has no next one")
                .help("run at least two tokens, BOS included")
        })
    }

    /// The likeliest tokens at the last position, for each layer, with their probabilities, the best first.
    pub fn top_at_last(&self) -> &[Vec<(String, f32)>] {
        &self.last
    }
}

impl fmt::Debug for LogitLens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = &self.probability.axes()[0];
        let best = self.last.iter().enumerate().filter_map(|(layer, top)| {
            let (token, probability) = top.first()?;
            Some(format!("{} {token:?} {probability:.3}", layers.label(layer)))
        });
        write!(f, "logit lens at the last position: {}", best.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for LogitLens {
    /// How sure each layer is, how much it gives the token that comes, and what it would say at the last position.
    fn views(&self) -> Result<Vec<View>> {
        let mut views = vec![View::Heatmap(self.probability.clone())];
        views.extend(self.next.clone().map(View::Heatmap));
        let columns = (1..=TOP).map(|rank| format!("rank {rank}"));
        let mut table = Table::new(
            "likeliest tokens after the last position",
            std::iter::once("layer".to_string()).chain(columns),
        );
        for (layer, top) in self.last.iter().enumerate() {
            let cells = top.iter().map(|(token, probability)| format!("{token:?} {probability:.3}"));
            table.push(std::iter::once(self.probability.axes()[0].label(layer)).chain(cells));
        }
        views.push(View::Table(table));
        Ok(views)
    }
}

/// Unembeds the residual stream as each layer reads it, as the model does at its end: through the last norm, which
/// takes the scale of what it is given, and `W_U`. (TransformerLens: `accumulated_resid(apply_ln=True)`, unembedded.) Where norms
/// stand after the sums, as in Marian and BART, each layer reads what a norm left, and that is unembedded as it is. Of an
/// encoder-decoder it is the decoder's stream, while it writes its target.
///
/// Fails for several inputs, for a run of another model, and where the run did not keep `hook_resid_pre` and
/// `hook_resid_post`.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat on the mat, the cat sat on the")?;
/// let lens = logit_lens(&model, &run)?;
/// println!("{lens:?}");
/// assert_eq!(lens.top_tokens().len(), 3);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn logit_lens(model: &Model, run: &Run) -> Result<LogitLens> {
    model.spec().any_decoder("a logit lens")?;
    let stream = Stream::through_norms(model, run)?;
    let n_layers = model.dims().n_layers;
    let last = match stream.spec().norm_place {
        NormPlace::After => Site::NormalizedResidPost,
        NormPlace::Before | NormPlace::Both => Site::ResidPost,
    };
    let mut rows: Vec<(String, Hook)> =
        (0..n_layers).map(|layer| (format!("{layer}_pre"), Site::ResidPre.at(layer))).collect();
    rows.push(("final_post".into(), last.at(n_layers.saturating_sub(1))));
    let tokens = run.single()?;
    let told = tokens.next_ids();
    let (mut top_ids, mut probability, mut next, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (len, d_vocab) = (stream.len(), model.dims().d_vocab);
    stream.has_room("the logit lens", floats([2, len, d_vocab]))?;
    let progress = Progress::new("logit lens", rows.len());
    // One layer's logits at a time: all at once are many for a large vocabulary.
    for (_, hook) in &rows {
        let logits = unembed(&stream, *hook)?; // [position, d_vocab]
        check_stop()?;
        let totals = log_sum_exp(&logits)?.squeeze(1)?.to_vec1::<f32>()?;
        let logits = logits.to_vec2::<f32>()?;
        let best: Vec<u32> = logits.iter().map(|logits| largest(logits)).collect();
        for (position, (logits, total)) in logits.iter().zip(&totals).enumerate() {
            probability.push((logits[best[position] as usize] - total).exp());
            next.extend(told.get(position).map(|&id| logits[id as usize] - total));
        }
        top_ids.push(best);
        let at_last = logits.last().zip(totals.last());
        last.push(at_last.map_or(Vec::new(), |(logits, total)| likeliest(model, logits, *total)));
        progress.advance(1)?;
    }
    let layers = Axis::labelled("layer", rows.into_iter().map(|(label, _)| label).collect::<Vec<_>>());
    let positions = stream.position_axis();
    let probability = NamedTensor::from_vec(
        "logit lens: probability of the likeliest token",
        probability,
        vec![layers.clone(), positions],
    )?;
    let next = match told.len() {
        0 => None,
        len => {
            let labels = tokens.labels()[..len].to_vec();
            let axes = vec![layers, Axis::labelled("position", labels)];
            Some(NamedTensor::from_vec("logit lens: log-probability of the next token (nats)", next, axes)?)
        }
    };
    Ok(LogitLens {
        top_tokens: top_ids.iter().map(|ids| model.labels(ids)).collect(),
        top_ids,
        probability: probability.with_value_kind(ValueKind::Probability),
        next,
        last,
    })
}

/// The index of the largest number, the first of equals.
fn largest(values: &[f32]) -> u32 {
    let first = (0, f32::NEG_INFINITY);
    let (index, _) = values
        .iter()
        .enumerate()
        .fold(first, |best, (index, &value)| if value > best.1 { (index, value) } else { best });
    index as u32
}

/// The likeliest tokens with their probabilities, from logits and the logarithm of their exponentials' sum.
fn likeliest(model: &Model, logits: &[f32], total: f32) -> Vec<(String, f32)> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    ids.truncate(TOP);
    let labels = model.labels(&ids);
    labels.into_iter().zip(ids).map(|(label, id)| (label, (logits[id as usize] - total).exp())).collect()
}

/// The logits `[position, d_vocab]` of a model that ends with the stream as it was at a hook.
fn unembed(stream: &Stream, hook: Hook) -> Result<Tensor> {
    let mut logits = Record::logits();
    let (spec, read) = (stream.spec(), stream.read(hook)?.unsqueeze(0)?);
    stream.model.execute(Start::residual(spec.stack, spec.dims.n_layers, read), None, &mut logits)?;
    Ok(logits.only()?.squeeze(0)?)
}
