//! The engine of all sweeps: many small changes to one model, each measured.
//!
//! A change at a layer leaves the layers below as they were, so a run resumes at the lowest layer that is changed. A change at
//! a position leaves the positions before as they were, so it resumes behind those of which nothing is read.
//! Changes at the same layer run together as the rows of a batch, as many as fit the budget of memory, and only the
//! logits that the metric reads are made.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::analysis::sweep::metric::{Mean, Metric};
use crate::analysis::sweep::part::{RowRange, RowSink, RowSum, check_inputs};
use crate::error::Result;
use crate::hook::{Hook, Site};
use crate::memory;
use crate::memory::floats;
use crate::model::edit::Edit;
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::network::record::Record;
use crate::network::start::{Past, Start};
use crate::network::tap::Tap;
use crate::network::tap::not_reached;
use crate::progress::Progress;

/// Bytes of activations that the rows of one batch may take together; one row always runs. `docs/big-work.md` states it.
const BUDGET: u64 = 512 << 20;

/// The metric of the unchanged model, and that of each variant.
pub(crate) struct SweepOutcome {
    pub(crate) clean: f64,
    pub(crate) variants: Vec<f64>,
}

/// Measures variants of a model on inputs. Each variant is the model with edits added.
pub(crate) fn sweep(
    what: &str,
    model: &Model,
    variants: &[Model],
    input: &Input,
    metric: &Metric,
) -> Result<SweepOutcome> {
    check_inputs(model, input, Some(metric), drop)?;
    let mut totals = RowSum::default();
    sweep_rows(what, model, variants, input, metric, &RowRange::whole(input), &mut |row| totals.add(row))?;
    Ok(SweepOutcome::of(&totals.0))
}

impl SweepOutcome {
    /// From the sum of the rows that [`sweep_rows`] gives.
    pub(crate) fn of(totals: &[f64]) -> SweepOutcome {
        let mean = |sum: &f64| sum / totals[0];
        SweepOutcome { clean: mean(&totals[1]), variants: totals[2..].iter().map(mean).collect() }
    }
}

/// As [`sweep`], for a share of the inputs, which were checked before, one after another. The row of each: how many values it
/// has, and their sums for the unchanged model and for each variant.
pub(crate) fn sweep_rows(
    what: &str,
    model: &Model,
    variants: &[Model],
    input: &Input,
    metric: &Metric,
    share: &RowRange,
    keep: &mut RowSink,
) -> Result<()> {
    let mut by_resume_point: BTreeMap<ResumePoint, Vec<Variant>> = BTreeMap::new();
    for (index, variant) in variants.iter().enumerate() {
        let added = &variant.edits[model.edits.len()..];
        by_resume_point.entry(ResumePoint::of(added)).or_default().push((index, added));
    }
    let steps = variants.len() + 1;
    let progress = Progress::new(what, share.range.len() * steps);
    progress.begin_at(share.done * steps);
    for index in share.left() {
        let tokens = &model.tokenize_one(input, index)?;
        let budget = memory::share(BUDGET);
        // The layers below are not run again, so no row is larger than that of the whole; beside it is what it resumes from, and
        // what it is compared with.
        let dims = model.dims();
        let read = metric.logits_read(tokens);
        let beside =
            floats([dims.n_layers, tokens.len(), dims.d_model]).saturating_add(floats([read, dims.d_vocab]));
        let row = Row { model, tokens, metric, layer: 0, skipped: 0 }.bytes();
        memory::check(model.device(), row.saturating_add(beside), || {
            let what = format!("{what} on {} tokens", tokens.len());
            (what, "run a shorter input: others take no memory meanwhile, however many there are")
        })?;
        let mut sums = vec![Mean::default(); variants.len()];
        let ids = Tensor::new(vec![tokens.ids().to_vec()], model.device())?;
        // Above the first layer a run resumes from what the layer below left, before edits at the layer's own input.
        let resumed = by_resume_point.keys().filter_map(|point| point.layer.checked_sub(1));
        let mut base = VariantTap::new(metric, tokens, &[], resumed, 0);
        let mut past = Past::default();
        // Keys and values of earlier positions are kept where a change leaves these as they were.
        let behind = by_resume_point.keys().any(|point| point.skipped(metric, tokens) > 0);
        model.execute(Start::Tokens(ids), behind.then_some(&mut past), &mut base)?;
        let clean = metric.read(base.record.get(metric.hook()).ok_or_else(not_reached)?, tokens)?;
        let unchanged = metric.of_rows(&clean, &clean, tokens)?;
        progress.advance(1)?;
        let mut resuming: BTreeMap<(usize, usize), Vec<Variant>> = BTreeMap::new();
        for (point, variants) in &by_resume_point {
            let skipped = point.skipped(metric, tokens);
            resuming.entry((point.layer, skipped)).or_default().extend(variants);
        }
        for ((layer, skipped), variants) in &resuming {
            let row = Row { model, tokens, metric, layer: *layer, skipped: *skipped }.bytes();
            let rows = (budget / row.max(1)).clamp(1, 64) as usize;
            for chunk in variants.chunks(rows) {
                let changes: Vec<&[Edit]> = chunk.iter().map(|(_, edits)| *edits).collect();
                let below = layer.checked_sub(1).and_then(|below| base.record.get(Site::ResidPost.at(below)));
                let (start, mut past) = match below {
                    Some(stream) => {
                        let stream = stream.narrow(1, *skipped, tokens.len() - skipped)?;
                        let stream = stream.repeat((chunk.len(), 1, 1))?;
                        let past = past.before(*layer, *skipped, chunk.len())?;
                        (Start::Residual { layer: *layer, stream }, past)
                    }
                    None => {
                        let ids = vec![tokens.ids()[*skipped..].to_vec(); chunk.len()];
                        let ids = Tensor::new(ids, model.device())?;
                        (Start::Tokens(ids), past.before(0, *skipped, chunk.len())?)
                    }
                };
                let mut variant = VariantTap::new(metric, tokens, &changes, [], *skipped);
                let past = (*skipped > 0).then_some(&mut past);
                model.execute(start, past, &mut variant)?;
                let means = match variant.record.get(metric.hook()) {
                    Some(read) => metric.of_rows(&metric.read(read, tokens)?, &clean, tokens)?,
                    // It lies below what was changed.
                    None => unchanged.repeat(chunk.len()),
                };
                for ((index, _), mean) in chunk.iter().zip(means) {
                    sums[*index].add(mean);
                }
                progress.advance(chunk.len())?;
            }
        }
        let own = unchanged.first().ok_or_else(not_reached)?;
        let row: Vec<f64> =
            [own.count, own.sum].into_iter().chain(sums.iter().map(|mean| mean.sum)).collect();
        keep(&row)?;
    }
    Ok(())
}

/// A variant by its place among all, and the edits that it adds.
type Variant<'a> = (usize, &'a [Edit]);

/// Where a variant first differs from the model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ResumePoint {
    layer: usize,
    position: usize,
}

impl ResumePoint {
    fn of(added: &[Edit]) -> ResumePoint {
        let lowest = added.iter().flat_map(Edit::hooks).filter_map(Hook::layer).min();
        let at_start = added
            .iter()
            .flat_map(Edit::hooks)
            .any(|hook| matches!(hook.site(), Site::Embed | Site::PosEmbed));
        ResumePoint {
            layer: if at_start { 0 } else { lowest.unwrap_or(0) },
            position: added.iter().map(Edit::first_position).min().unwrap_or(0),
        }
    }

    /// How many positions need not run again: those before the change, of which nothing is read. Rounded down, so that
    /// neighbours run together.
    fn skipped(&self, metric: &Metric, tokens: &Tokens) -> usize {
        const STEPS: usize = 6;
        match metric.positions(tokens) {
            Some(read) => {
                let unread = read.into_iter().min().unwrap_or(0);
                let step = tokens.len().div_ceil(STEPS);
                self.position.min(unread) / step * step
            }
            None => 0,
        }
    }
}

/// One changed run of an input, from a layer and a position on.
struct Row<'a> {
    model: &'a Model,
    tokens: &'a Tokens,
    metric: &'a Metric,
    layer: usize,
    skipped: usize,
}

impl Row<'_> {
    /// What it keeps alive at its widest: the stream and its norms, scores and pattern, neurons, logits, and the keys and values
    /// of the positions that are skipped.
    fn bytes(&self) -> u64 {
        let dims = self.model.dims();
        let (all, len) = (self.tokens.len(), self.tokens.len() - self.skipped);
        let read = self.metric.logits_read(self.tokens).min(len);
        // A divergence makes more of the logits than other metrics do.
        let logits = if matches!(self.metric, Metric::Kl) { 4 } else { 3 };
        // Once as they are given to the run, once with those of the run's own behind them.
        let past = if self.skipped > 0 { self.skipped + all } else { 0 };
        let keys = 2 * dims.n_layers.saturating_sub(self.layer) * dims.n_key_value_heads * dims.d_head;
        [
            floats([len, 12 * dims.d_model + 3 * dims.d_mlp]),
            floats([3 * dims.n_heads, len, all]),
            floats([logits, read, dims.d_vocab]),
            floats([past, keys]),
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// Changes each row by its own edits, and keeps what the metric reads and what later runs resume from.
struct VariantTap<'a> {
    changes: &'a [&'a [Edit]],
    /// Where the run begins.
    start: usize,
    record: Record,
}

impl<'a> VariantTap<'a> {
    fn new(
        metric: &Metric,
        tokens: &Tokens,
        changes: &'a [&'a [Edit]],
        resumed: impl IntoIterator<Item = usize>,
        start: usize,
    ) -> Self {
        let streams = resumed.into_iter().map(|layer| Site::ResidPost.at(layer));
        let positions = metric.positions(tokens).map(|all| all.into_iter().map(|at| at - start).collect());
        let record = Record::new(streams.chain([metric.hook()])).at_positions(positions);
        VariantTap { changes, start, record }
    }

    fn changes_at(&self, hook: Hook) -> bool {
        self.changes.iter().any(|edits| edits.iter().any(|edit| edit.is_at(hook)))
    }
}

impl Tap for VariantTap<'_> {
    fn wants(&self, hook: Hook) -> bool {
        self.changes_at(hook) || self.keeps(hook)
    }

    fn keeps(&self, hook: Hook) -> bool {
        self.record.wants(hook)
    }

    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor> {
        let mut activation = activation;
        if self.changes_at(hook) {
            let mut rows = Vec::new();
            for (row, edits) in self.changes.iter().enumerate() {
                let mut changed = activation.narrow(0, row, 1)?;
                for edit in *edits {
                    changed = edit.apply(hook, changed, self.start)?;
                }
                rows.push(changed);
            }
            activation = Tensor::cat(&rows, 0)?;
        }
        if self.record.wants(hook) { self.record.tap(hook, activation) } else { Ok(activation) }
    }

    fn unembed_positions(&self) -> Option<&[usize]> {
        let all = self.changes.iter().any(|edits| edits.iter().any(Edit::is_at_unembedding));
        if all { None } else { self.record.unembed_positions() }
    }
}
