//! How far each head is an induction head, a previous-token head, ...: attention along a diagonal.
//!
//! Olsson et al. 2022, "In-context Learning and Induction Heads", define the prefix-matching score; as a mean over a
//! diagonal of the pattern on repeated tokens it is the detector of ARENA's course (chapter 1.2).

use std::fmt;

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::heads::kind::HeadKind;
use crate::analysis::heads::repeated_tokens::{RepeatedTokens, SHORTEST};
use crate::analysis::sweep::part::{RowRange, RowSink, RowSum, SweepPart, SweepSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Site, Stack};
use crate::model::input::Tokens;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::model::run_options::RunOptions;
use crate::named::{NamedTensor, ValueKind};
use crate::network::cpu::{sum, sum_of_products};
use crate::progress;
use crate::progress::Progress;
use crate::view::{View, Visualize};

/// A score from 0 to 1 for every head, layer by head: the mean probability with which it attends as its kind does.
#[derive(Clone)]
pub struct HeadScores {
    kind: HeadKind,
    grid: HeadGrid,
    elsewhere: Elsewhere,
    tokens: String,
}

/// How each head attends to the keys that its kind does not name: what a score must stand out from. Means and standard deviations of single attention probabilities, head after head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Elsewhere {
    pub(crate) means: Vec<f32>,
    pub(crate) deviations: Vec<f32>,
}

impl HeadScores {
    /// What is scored.
    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// The scores.
    pub fn grid(&self) -> &HeadGrid {
        &self.grid
    }

    /// The scores `[layer, head]`.
    pub fn values(&self) -> &NamedTensor {
        self.grid.values()
    }

    pub(crate) fn elsewhere(&self) -> &Elsewhere {
        &self.elsewhere
    }

    /// The tokens that they were measured on, in words.
    pub fn dataset(&self) -> &str {
        &self.tokens
    }

    /// The score of one head. Fails if there is no such head.
    pub fn at(&self, head: Head) -> Result<f32> {
        self.grid.at(head)
    }

    /// All heads, the highest score first.
    pub fn ranked(&self) -> Result<Vec<(Head, f32)>> {
        self.grid.ranked()
    }

    /// The heads that score above a threshold, the highest first.
    pub fn above(&self, threshold: f32) -> Result<Vec<Head>> {
        self.grid.above(threshold)
    }
}

impl fmt::Debug for HeadScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranked = self.ranked().map_err(|_| fmt::Error)?;
        let best = ranked.iter().take(5).map(|(head, score)| format!("{head} {score:.3}"));
        write!(f, "{} scores on {}: {} ...", self.kind, self.tokens, best.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for HeadScores {
    fn views(&self) -> Result<Vec<View>> {
        self.grid.views()
    }
}

/// Scores every head of a model for several kinds, from one run over repeated random tokens.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let repeated = RepeatedTokens { seed: 1, ..RepeatedTokens::for_model(&model) };
/// for scores in head_scores(&model, &[HeadKind::Induction, HeadKind::PreviousToken], &repeated)? {
///     println!("{scores:?}");
/// }
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn head_scores(model: &Model, kinds: &[HeadKind], repeated: &RepeatedTokens) -> Result<Vec<HeadScores>> {
    let spec = *model.spec().any_decoder("what heads attend to on repeated tokens")?;
    let sequences = repeated.ids(model)?;
    let whole = RowRange::whole(&RepeatedTokens::input(model, &sequences));
    let mut totals = RowSum::default();
    each(model, kinds, repeated, &sequences, &whole, &mut |row| totals.add(row))?;
    of_totals(&totals.0, kinds, repeated, (spec.stack, [spec.dims.n_layers, spec.dims.n_heads]))
}

impl SweepPart {
    /// This part of [`head_scores`], whose inputs are the sequences of random tokens.
    pub fn head_scores(&self, model: &Model, kinds: &[HeadKind], repeated: &RepeatedTokens) -> Result<()> {
        let spec = *model.spec().any_decoder("what heads attend to on repeated tokens")?;
        let sequences = repeated.ids(model)?;
        let input = RepeatedTokens::input(model, &sequences);
        let RepeatedTokens { length, batch, seed } = *repeated;
        let (stack, layers, heads) = (spec.stack, spec.dims.n_layers, spec.dims.n_heads);
        let asked =
            SweepSpec::HeadScores { kinds: kinds.to_vec(), length, batch, seed, stack, layers, heads };
        self.fill(model, &input, None, asked, |share, keep| {
            each(model, kinds, repeated, &sequences, share, keep)
        })
    }
}

/// Sequences that run together: enough for a product of matrices to be fast, few enough that the patterns of large models
/// stay small.
const TOGETHER: usize = 4;

/// The row of each sequence: that of each kind, one after another.
fn each(
    model: &Model,
    kinds: &[HeadKind],
    repeated: &RepeatedTokens,
    sequences: &[Vec<u32>],
    share: &RowRange,
    keep: &mut RowSink,
) -> Result<()> {
    let progress = Progress::new("scoring heads", share.range.len());
    progress.begin_at(share.done);
    // Which run together depends on their places alone, so that every share finds the same, to the last bit.
    let left = share.left();
    for start in (left.start / TOGETHER * TOGETHER..left.end).step_by(TOGETHER) {
        let end = repeated.batch.min(start + TOGETHER);
        let together = RepeatedTokens::input(model, &sequences[start..end]);
        let runs = model.run_with_options(together, &RunOptions::only([Site::Pattern]))?;
        for index in left.start.max(start)..left.end.min(end) {
            let run = runs.item(index - start)?;
            let rows =
                kinds.iter().map(|&kind| row(&run, kind, repeated.length)).collect::<Result<Vec<_>>>()?;
            keep(&rows.concat())?;
            progress.advance(1)?;
        }
    }
    Ok(())
}

/// The scores of the kinds, from the sum of the rows of all sequences.
pub(crate) fn of_totals(
    totals: &[f64],
    kinds: &[HeadKind],
    repeated: &RepeatedTokens,
    (stack, size): (Stack, [usize; 2]),
) -> Result<Vec<HeadScores>> {
    let RepeatedTokens { length, batch, seed } = repeated;
    let words = format!("{batch} sequences of {length} random tokens said twice (seed {seed})");
    let sums = totals.chunks_exact(width(size[0] * size[1]));
    let scores = |(sums, &kind)| HeadScores::of_sums(sums, kind, (stack, size), words.clone());
    sums.zip(kinds).map(scores).collect()
}

macro_rules! on_repeated_tokens {
    ($($(#[$doc:meta])* $model_fn:ident, $kind:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// Measured on repeated random tokens: [`RepeatedTokens::for_model`]; [`head_scores`] takes others, and
        /// the method of the same name on [`Run`] takes a text of one's own.
        pub fn $model_fn(model: &Model) -> Result<HeadScores> {
            let mut scores = head_scores(model, &[HeadKind::$kind], &RepeatedTokens::for_model(model))?;
            Ok(scores.remove(0))
        }

        impl Run {
            $(#[$doc])*
            ///
            /// Measured on this run's input, which must be one.
            pub fn $model_fn(&self) -> Result<HeadScores> {
                scores_of_run(self, HeadKind::$kind)
            }
        }
    )*};
}

on_repeated_tokens! {
    /// For every head, the mean attention from each token to the one after its earlier copy (Olsson et al. 2022). As in
    /// ARENA's course, two cells of the diagonal belong to the first copy: a perfect induction head that rests on the
    /// first token until then scores 0.96 at a length of 50.
    induction_scores, Induction;
    /// For every head, the mean attention from each token to the one before it.
    previous_token_scores, PreviousToken;
    /// For every head, the mean attention from each token to its earlier copy.
    duplicate_token_scores, DuplicateToken;
    /// For every head, the mean attention from each token to itself.
    current_token_scores, CurrentToken;
    /// For every head, the mean attention to the first token.
    first_token_scores, FirstToken;
}

fn scores_of_run(run: &Run, kind: HeadKind) -> Result<HeadScores> {
    let spec = *run.spec().any_decoder("what heads attend to in a text")?;
    let tokens = run.single()?;
    let period = match tokens.period() {
        Some(period) if kind == HeadKind::Induction && period < SHORTEST => {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "{tokens} repeats every {period} tokens: too soon to tell an induction head from others"
                ),
            )
            .help(format!("run a text that repeats after {SHORTEST} tokens or more")));
        }
        Some(period) => period,
        None if kind.needs_repeats() => {
            return Err(Error::new(
                ErrorKind::Input,
                format!("{tokens} does not say the same tokens twice, so {kind} heads have nothing to find"),
            )
            .help("run a text that repeats as a whole, or use `induction_scores(&model)` on random tokens"));
        }
        None => 1,
    };
    if kind == HeadKind::PreviousToken && tokens.len() < 2 {
        return Err(Error::new(ErrorKind::Input, format!("{tokens} is one token, with none before it"))
            .help("run at least two tokens, BOS included"));
    }
    let sums = row(run, kind, period)?;
    let size = [spec.dims.n_layers, spec.dims.n_heads];
    HeadScores::of_sums(&sums, kind, (spec.stack, size), describe(tokens))
}

fn describe(tokens: &Tokens) -> String {
    format!("{:?}", tokens.labels().concat())
}

/// How many numbers a row has for so many heads.
fn width(heads: usize) -> usize {
    2 + 3 * heads
}

/// What a run adds to the scores of a kind: 1, for itself; the number of single probabilities that its kind does not name;
/// for each head the mean attention along the diagonal; for each head the sum of the other probabilities; that of their
/// squares.
fn row(run: &Run, kind: HeadKind, period: usize) -> Result<Vec<f64>> {
    let (len, stack) = (run.tokens()[0].len(), run.spec().last_stack().stack);
    let distance = kind.distance(period);
    let (mut scores, mut elsewhere, mut squares) = (Vec::new(), Vec::new(), Vec::new());
    for layer in 0..run.n_layers() {
        progress::check("scoring heads")?;
        let pattern = run.get(Site::Pattern.at(layer).of(stack))?.to_vec()?;
        for head in pattern.chunks_exact(len * len) {
            let named = match distance {
                Some(distance) => diagonal(head, len, distance),
                None => head.iter().step_by(len).copied().collect(),
            };
            let squared = |values: &[f32]| f64::from(sum_of_products(values, values));
            let total = f64::from(sum(&named));
            scores.push(total / named.len() as f64);
            // What lies ahead of a query is 0, and adds nothing to either sum.
            elsewhere.push(f64::from(sum(head)) - total);
            squares.push(squared(head) - squared(&named));
        }
    }
    let cells = len * (len + 1) / 2 - distance.map_or(len, |distance| len - distance);
    Ok([1.0, cells as f64].into_iter().chain(scores).chain(elsewhere).chain(squares).collect())
}

impl HeadScores {
    /// From the sum of the rows of runs.
    fn of_sums(
        sums: &[f64],
        kind: HeadKind,
        (stack, size): (Stack, [usize; 2]),
        tokens: String,
    ) -> Result<HeadScores> {
        let (counts, sums) = sums.split_at(width(0));
        let (runs, cells) = (counts[0], counts[1].max(1.0));
        let heads = sums.len() / 3;
        let scores = sums[..heads].iter().map(|sum| (sum / runs) as f32).collect();
        let scores: Vec<f32> = scores;
        let grid = HeadGrid::of_attentions(&format!("{kind} score"), &[(stack, Attn::Own, size)], &scores)?
            .with_value_kind(ValueKind::Score);
        let pairs = sums[heads..2 * heads].iter().zip(&sums[2 * heads..]);
        let deviation = |(x, xx): (&f64, &f64)| (xx / cells - (x / cells).powi(2)).max(0.0).sqrt() as f32;
        let elsewhere = Elsewhere {
            means: sums[heads..2 * heads].iter().map(|x| (x / cells) as f32).collect(),
            deviations: pairs.map(deviation).collect(),
        };
        Ok(HeadScores { kind, grid, elsewhere, tokens })
    }
}

/// The attention of one head `[query, key]`, row by row, to the key `distance` before each query.
pub(crate) fn diagonal(pattern: &[f32], len: usize, distance: usize) -> Vec<f32> {
    // Its cells lie len + 1 apart.
    pattern.iter().skip(distance * len).step_by(len + 1).take(len - distance).copied().collect()
}
