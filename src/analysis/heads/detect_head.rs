//! TransformerLens's `detect_head`: how well each head's pattern fits a detection pattern.

use candle_core::Tensor;

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::heads::kind::HeadKind;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Site};
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run::Run;
use crate::model::run_options::RunOptions;
use crate::named::ValueKind;
use crate::network::StackSpec;
use crate::progress;

/// How the fit is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorMeasure {
    /// The share of the attention that lies on the detection pattern, from 0 to 1.
    #[default]
    Mul,
    /// 1 minus the mean over queries of the summed absolute differences; the mean is rounded to three digits, as
    /// in TransformerLens.
    Abs,
}

/// The options of [`detect_head`].
#[derive(Clone, Debug, Default)]
pub struct DetectHeadOptions {
    /// Only these heads; the others get NaN. All by default.
    pub heads: Option<Vec<Head>>,
    /// Leaves out attention to the first token.
    pub exclude_bos: bool,
    /// Leaves out attention to the token itself.
    pub exclude_current_token: bool,
    /// How the fit is measured.
    pub error_measure: ErrorMeasure,
    /// A detection pattern of one's own `[query][key]`, of numbers from 0 to 1, with nothing above the diagonal,
    /// in place of that of the kind.
    pub pattern: Option<Vec<Vec<f32>>>,
}

/// How well every head fits the pattern of a kind on an input. Several inputs give the mean.
/// The kinds are those of TransformerLens: previous token, duplicate token, induction.
///
/// ```
/// use headlight::analysis::DetectHeadOptions;
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let options = DetectHeadOptions { exclude_bos: true, ..DetectHeadOptions::default() };
/// let scores = detect_head(&model, "the cat sat the cat sat", HeadKind::Induction, &options)?;
/// println!("{scores:?}");
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn detect_head(
    model: &Model,
    input: impl Into<Input>,
    kind: HeadKind,
    options: &DetectHeadOptions,
) -> Result<HeadGrid> {
    let StackSpec { stack, dims, .. } = *model.spec().any_decoder("the fit of heads to a pattern")?;
    let run = model.run_with_options(input, &RunOptions::only([Site::Pattern]))?;
    for head in options.heads.iter().flatten() {
        model.spec().check_head(*head)?;
        if (head.stack, head.attn) != (stack, Attn::Own) {
            return Err(Error::new(
                ErrorKind::Address,
                format!(
                    "the fit to a pattern is of heads that look back at their own text, and {head} does not"
                ),
            )
            .help(format!("name heads such as {}", crate::hook::head(0, 0).of(stack))));
        }
    }
    let mut sums = vec![0f32; dims.n_layers * dims.n_heads];
    let inputs = run.tokens().len();
    for index in 0..inputs {
        let scores = scores(&run.item(index)?, kind, options, dims.n_heads)?;
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
    }
    let means = sums.into_iter().map(|sum| sum / inputs as f32).collect();
    let value_kind = match options.error_measure {
        ErrorMeasure::Mul => ValueKind::Score,
        ErrorMeasure::Abs => ValueKind::Signed,
    };
    let means: Vec<f32> = means;
    let panels = [(stack, Attn::Own, [dims.n_layers, dims.n_heads])];
    let grid = HeadGrid::of_attentions(&format!("fit to the {kind} pattern"), &panels, &means)?;
    Ok(grid.with_value_kind(value_kind))
}

fn scores(run: &Run, kind: HeadKind, options: &DetectHeadOptions, n_heads: usize) -> Result<Vec<f32>> {
    let tokens = &run.tokens()[0];
    let len = tokens.len();
    if len < 2 {
        return Err(Error::new(ErrorKind::Input, "a head cannot be detected on one token")
            .help("give at least two tokens, BOS included"));
    }
    let detection = match &options.pattern {
        Some(pattern) => custom(pattern, len)?,
        None => of_kind(kind, tokens)?,
    };
    let counted = |query: usize, key: usize| {
        !(options.exclude_bos && key == 0 || options.exclude_current_token && key == query)
    };
    let stack = run.spec().last_stack().stack;
    let mut scores = Vec::new();
    for layer in 0..run.n_layers() {
        progress::check("detecting heads")?;
        let pattern: Tensor = run.get(Site::Pattern.at(layer).of(stack))?.tensor().clone();
        for head in 0..n_heads {
            if options
                .heads
                .as_ref()
                .is_some_and(|heads| !heads.contains(&crate::hook::head(layer, head).of(stack)))
            {
                scores.push(f32::NAN);
                continue;
            }
            let attention: Vec<Vec<f32>> = pattern.get(head)?.to_vec2()?;
            let (mut on, mut all, mut apart) = (0f64, 0f64, 0f64);
            for (query, (row, wanted)) in attention.iter().zip(&detection).enumerate() {
                for (_, (&p, &wanted)) in
                    row.iter().zip(wanted).enumerate().filter(|(key, _)| counted(query, *key))
                {
                    on += f64::from(p * wanted);
                    all += f64::from(p);
                    apart += f64::from((p - wanted).abs());
                }
            }
            scores.push(match options.error_measure {
                ErrorMeasure::Mul => (on / all) as f32,
                ErrorMeasure::Abs => (1.0 - (apart / len as f64 * 1e3).round() / 1e3) as f32,
            });
        }
    }
    Ok(scores)
}

fn custom(pattern: &[Vec<f32>], len: usize) -> Result<Vec<Vec<f32>>> {
    let refused = |what: String| {
        Err(Error::new(ErrorKind::Input, what)
            .help("a detection pattern has a row for each query and a column for each key, and nothing above the diagonal"))
    };
    if pattern.len() != len || pattern.iter().any(|row| row.len() != len) {
        let columns = pattern.first().map_or(0, Vec::len);
        return refused(format!(
            "the detection pattern is {} x {columns}, but the input has {len} tokens",
            pattern.len()
        ));
    }
    for (query, row) in pattern.iter().enumerate() {
        for (key, value) in row.iter().enumerate() {
            if !(0.0..=1.0).contains(value) {
                return refused(format!(
                    "the detection pattern holds {value} at query {query}, key {key}: not 0 to 1"
                ));
            }
            if key > query && *value != 0.0 {
                return refused(format!(
                    "the detection pattern holds {value} above the diagonal, at query {query}, key {key}"
                ));
            }
        }
    }
    Ok(pattern.to_vec())
}

fn of_kind(kind: HeadKind, tokens: &Tokens) -> Result<Vec<Vec<f32>>> {
    let ids = tokens.ids();
    let is_copy = |query: usize, key: usize| key < query && ids[key] == ids[query];
    let wanted = |query: usize, key: usize| match kind {
        HeadKind::PreviousToken => key + 1 == query,
        HeadKind::DuplicateToken => is_copy(query, key),
        _ => key > 0 && is_copy(query, key - 1),
    };
    if !matches!(kind, HeadKind::PreviousToken | HeadKind::DuplicateToken | HeadKind::Induction) {
        return Err(Error::new(ErrorKind::Input, format!("detect_head has no pattern for {kind} heads"))
            .help(format!("use {}_scores, or give a pattern of your own in the options", kind.name())));
    }
    let row = |query: usize| (0..ids.len()).map(|key| f32::from(u8::from(wanted(query, key)))).collect();
    Ok((0..ids.len()).map(row).collect())
}
