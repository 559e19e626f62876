//! The engine of all sweeps: many small changes to one model, each measured.
//!
//! A change at a layer leaves the layers below as they were, so a run resumes at the lowest layer that is changed; one in a stack
//! leaves those stacks as they were that do not attend to it, and they are not run again. In a causal stack a change at a position leaves the positions before as they were, so it
//! resumes behind those of which nothing is read.
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
use crate::model::run::Pieces;
use crate::network::record::Record;
use crate::network::spec::{ArchSpec, NormPlace};
use crate::network::start::{Offset, Past, Start};
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
    let spec = model.spec();
    let read_stack = spec.last_stack().stack;
    let mut by_resume_point: BTreeMap<ResumePoint, Vec<Variant>> = BTreeMap::new();
    for (index, variant) in variants.iter().enumerate() {
        let added = &variant.edits[model.edits.len()..];
        by_resume_point.entry(ResumePoint::of(added, spec)).or_default().push((index, added));
    }
    let steps = variants.len() + 1;
    let progress = Progress::new(what, share.range.len() * steps);
    // Variants take as long as there are layers to run: so how long all will take is known when the first run is done.
    let start = ResumePoint { stack: 0, layer: 0, position: 0 };
    let whole = start.layers_run(spec);
    let each = by_resume_point.iter().map(|(point, variants)| variants.len() * point.layers_run(spec));
    let each: usize = each.sum::<usize>() + whole;
    progress.begin_by(share.done * steps, share.left().len() * each);
    for index in share.left() {
        let pieces = model.pieces_of_one(input, index)?;
        let tokens = &pieces[&read_stack][0];
        let budget = memory::share(BUDGET);
        // The layers below are not run again, so no row is larger than that of the whole; beside it is what it resumes from, and
        // what it is compared with.
        let read = metric.logits_read(tokens);
        let kept = spec
            .stacks()
            .iter()
            .map(|own| floats([own.dims.n_layers, pieces[&own.stack][0].len(), own.dims.d_model]));
        let beside = kept.fold(floats([read, model.dims().d_vocab]), u64::saturating_add);
        let row = Row { model, pieces: &pieces, metric, from: start, skipped: 0 }.bytes();
        memory::check(model.device(), row.saturating_add(beside), || {
            let what = format!("{what} on {} tokens", tokens.len());
            (what, "run a shorter input: others take no memory meanwhile, however many there are")
        })?;
        let mut sums = vec![Mean::default(); variants.len()];
        // Above the first layer a run resumes from what the layer below left, before edits at the layer's own input.
        let resumed = by_resume_point.keys().filter_map(|point| point.below(spec));
        let mut base = VariantTap::new(metric, tokens, &[], resumed, Offset::default());
        let mut past = Past::default();
        // Keys and values of earlier positions are kept where a change leaves these as they were.
        let behind = by_resume_point.keys().any(|point| point.skipped(metric, tokens) > 0);
        let known = model.execute(model.batch(&pieces)?.into(), behind.then_some(&mut past), &mut base)?;
        let clean = metric.read(base.record.get(metric.hook()).ok_or_else(not_reached)?, tokens)?;
        let unchanged = metric.of_rows(&clean, &clean, tokens)?;
        progress.advance_by(1, whole)?;
        let mut resuming: BTreeMap<(usize, usize, usize), Vec<Variant>> = BTreeMap::new();
        for (point, variants) in &by_resume_point {
            let skipped = point.skipped(metric, tokens);
            resuming.entry((point.stack, point.layer, skipped)).or_default().extend(variants);
        }
        for (&(stack, layer, skipped), variants) in &resuming {
            let from = ResumePoint { stack, layer, position: 0 };
            let row = Row { model, pieces: &pieces, metric, from, skipped }.bytes();
            let rows = (budget / row.max(1)).clamp(1, 64) as usize;
            let own = spec.stacks()[stack].stack;
            for chunk in variants.chunks(rows) {
                let changes: Vec<&[Edit]> = chunk.iter().map(|(_, edits)| *edits).collect();
                let below = from.below(spec).and_then(|below| base.record.get(below));
                let changed = || changes.iter().flat_map(|edits| edits.iter()).flat_map(Edit::hooks);
                let reaches =
                    |stack, hook: Hook| !hook.site().is_of_readout() && spec.is_reached(stack, hook.stack());
                let stays = |stack| !changed().any(|hook| reaches(stack, hook));
                let known = known.repeat(chunk.len(), stays)?;
                let start = match below {
                    Some(stream) => {
                        let stream = stream.narrow(1, skipped, stream.dim(1)? - skipped)?;
                        let stream = stream.repeat((chunk.len(), 1, 1))?;
                        Start::Residual { stack: own, layer, stream, known }
                    }
                    None => Start::Inputs(known.skip(own, skipped)?),
                };
                let at = if below.is_some() { layer } else { 0 };
                let mut past = past.before(own, at, skipped, chunk.len())?;
                let mut variant = VariantTap::new(metric, tokens, &changes, [], past.offset());
                let past = (skipped > 0).then_some(&mut past);
                model.execute(start, past, &mut variant)?;
                let means = match variant.record.get(metric.hook()) {
                    Some(read) => metric.of_rows(&metric.read(read, tokens)?, &clean, tokens)?,
                    // It lies below what was changed.
                    None => unchanged.repeat(chunk.len()),
                };
                for ((index, _), mean) in chunk.iter().zip(means) {
                    sums[*index].add(mean);
                }
                progress.advance_by(chunk.len(), chunk.len() * from.layers_run(spec))?;
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
    /// Which stack, in the order of runs.
    stack: usize,
    layer: usize,
    position: usize,
}

impl ResumePoint {
    fn of(added: &[Edit], spec: &ArchSpec) -> ResumePoint {
        let stacks = spec.stacks();
        let place = |hook: Hook| {
            let own = stacks.iter().position(|own| own.stack == hook.stack());
            let own = if hook.site().is_of_readout() { stacks.len() - 1 } else { own.unwrap_or(0) };
            // What a stack has once, before or behind its blocks, says nothing of layers.
            (own, hook.layer().filter(|_| hook.site().in_block()))
        };
        let hooks = || added.iter().flat_map(Edit::hooks);
        let stack = hooks().map(|hook| place(hook).0).min().unwrap_or(0);
        let in_stack = || hooks().filter(|hook| place(*hook).0 == stack);
        let at_start = in_stack().any(|hook| hook.site().is_of_embedding());
        let lowest = in_stack().filter_map(|hook| place(hook).1).min();
        // Positions that a run may begin behind are those of the stack that is read out; those of keys across stacks are none.
        let counts =
            stack + 1 == stacks.len() && stacks[stack].sees.is_causal() && !hooks().any(Hook::is_of_source);
        let position = added.iter().map(Edit::first_position).min().unwrap_or(0);
        ResumePoint {
            stack,
            layer: if at_start { 0 } else { lowest.unwrap_or(0) },
            position: if counts { position } else { 0 },
        }
    }

    /// How many layers run from here on, the readout being one.
    fn layers_run(&self, spec: &ArchSpec) -> usize {
        let layers = spec.stacks().iter().skip(self.stack).map(|own| own.dims.n_layers);
        1 + layers.sum::<usize>() - self.layer
    }

    /// What a run resumes from, if there is a layer below.
    fn below(&self, spec: &ArchSpec) -> Option<Hook> {
        let own = &spec.stacks()[self.stack];
        let site = match own.norm_place {
            NormPlace::Before | NormPlace::Both => Site::ResidPost,
            NormPlace::After => Site::NormalizedResidPost,
        };
        self.layer.checked_sub(1).map(|below| site.at(below).of(own.stack))
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
    pieces: &'a Pieces,
    metric: &'a Metric,
    from: ResumePoint,
    skipped: usize,
}

impl Row<'_> {
    /// What it keeps alive at its widest: the stream and its norms, scores and pattern, neurons, logits, and the keys and values
    /// of the positions that are skipped.
    fn bytes(&self) -> u64 {
        let spec = self.model.spec();
        let mut widest = 0u64;
        let mut left = 0u64;
        for (index, own) in spec.stacks().iter().enumerate().skip(self.from.stack) {
            let (dims, tokens) = (own.dims, &self.pieces[&own.stack][0]);
            let skipped = if index == self.from.stack { self.skipped } else { 0 };
            let layer = if index == self.from.stack { self.from.layer } else { 0 };
            let (all, len) = (tokens.len(), tokens.len() - skipped);
            let source = own.crosses.map_or(0, |source| self.pieces[&source][0].len());
            let is_last = index + 1 == spec.stacks().len();
            let read = if is_last { self.metric.logits_read(tokens).min(len) } else { 0 };
            // A divergence makes more of the logits than other metrics do.
            let logits = if matches!(self.metric, Metric::Kl) { 4 } else { 3 };
            // Once as they are given to the run, once with those of the run's own behind them.
            let past = if skipped > 0 { skipped + all } else { 0 };
            let keys = 2 * dims.n_layers.saturating_sub(layer) * dims.n_key_value_heads * dims.d_head;
            let own = [
                floats([len, 12 * dims.d_model + 3 * dims.d_mlp]),
                floats([3 * dims.n_heads, len, all.max(source)]),
                floats([source, 2 * dims.n_key_value_heads * dims.d_head]),
                floats([logits, read, dims.d_vocab]),
                floats([past, keys]),
                left,
            ];
            widest = widest.max(own.into_iter().fold(0, u64::saturating_add));
            // What other stacks attend to.
            left = left.saturating_add(floats([len, dims.d_model]));
        }
        widest
    }
}

/// Changes each row by its own edits, and keeps what the metric reads and what later runs resume from.
struct VariantTap<'a> {
    changes: &'a [&'a [Edit]],
    offset: Offset,
    record: Record,
}

impl<'a> VariantTap<'a> {
    fn new(
        metric: &Metric,
        tokens: &Tokens,
        changes: &'a [&'a [Edit]],
        resumed: impl IntoIterator<Item = Hook>,
        offset: Offset,
    ) -> Self {
        let start = offset.of(Site::UnembedIn.into());
        let positions = metric.positions(tokens).map(|all| all.into_iter().map(|at| at - start).collect());
        let record = Record::new(resumed.into_iter().chain([metric.hook()])).at_positions(positions);
        VariantTap { changes, offset, record }
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
                    changed = edit.apply(hook, changed, self.offset.of(hook))?;
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
