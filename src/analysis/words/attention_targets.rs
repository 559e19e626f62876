//! Where heads look in texts: at the previous token, the next, the same word, at `[SEP]` and at delimiters (Clark et al. 2019, "What Does
//! BERT Look At?", section 3).

use std::fmt;

use crate::analysis::head_grid::HeadGrid;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Head, Site};
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run_options::RunOptions;
use crate::named::{Axis, NamedTensor, ValueKind, layer_axis};
use crate::network::spec::Reads;
use crate::progress::Progress;
use crate::view::{View, Visualize};

/// What a query may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttentionTarget {
    /// The token before it.
    Previous,
    /// The token behind it.
    Next,
    /// Itself.
    Own,
    /// The same token elsewhere.
    SameToken,
    /// The first token of the input: `[CLS]`, or what begins a text.
    First,
    /// What ends a text or stands between two: `[SEP]`, `</s>`.
    Separator,
    /// Punctuation.
    Delimiter,
}

impl AttentionTarget {
    /// Every target.
    pub const ALL: [AttentionTarget; 7] = [
        AttentionTarget::Previous,
        AttentionTarget::Next,
        AttentionTarget::Own,
        AttentionTarget::SameToken,
        AttentionTarget::First,
        AttentionTarget::Separator,
        AttentionTarget::Delimiter,
    ];

    /// `previous`, `next`, ...
    pub fn name(self) -> &'static str {
        match self {
            AttentionTarget::Previous => "previous",
            AttentionTarget::Next => "next",
            AttentionTarget::Own => "own",
            AttentionTarget::SameToken => "same token",
            AttentionTarget::First => "first",
            AttentionTarget::Separator => "separator",
            AttentionTarget::Delimiter => "delimiter",
        }
    }

    /// Whether a key is one for a query.
    fn is_at(self, tokens: &Tokens, query: usize, key: usize) -> bool {
        match self {
            AttentionTarget::Previous => key + 1 == query,
            AttentionTarget::Next => key == query + 1,
            AttentionTarget::Own => key == query,
            AttentionTarget::SameToken => key != query && tokens.ids()[key] == tokens.ids()[query],
            AttentionTarget::First => key == 0,
            AttentionTarget::Separator => matches!(tokens.labels()[key].trim(), "[SEP]" | "</s>"),
            AttentionTarget::Delimiter => tokens.is_punctuation(key),
        }
    }
}

impl fmt::Display for AttentionTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What [`attention_targets`] found: for each target and head the share of attention that goes there.
#[derive(Clone)]
pub struct AttentionTargets {
    values: NamedTensor,
}

/// Where each head of a model of one stack looks in texts: for each [`AttentionTarget`] the mean share of attention that goes there, over
/// all queries that have such a key. Keys that a causal stack does not show a query are none. For encoders and decoders alike.
///
/// Draws itself as one heatmap of heads for each target.
///
/// ```
/// use headlight::prelude::*;
/// use headlight::analysis::{AttentionTarget, attention_targets};
/// let model = Model::open("built-in")?;
/// let found = attention_targets(&model, ["the cat sat on the mat.", "a dog ran"])?;
/// println!("{:?}", found.ranked(AttentionTarget::Previous)?[0]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn attention_targets(model: &Model, input: impl Into<Input>) -> Result<AttentionTargets> {
    let input = input.into();
    let stack = model.spec().only_stack("where heads look in texts")?;
    if stack.reads != Reads::Tokens {
        return Err(Error::new(ErrorKind::Model, "where heads look in texts is of models that read text")
            .help("the patterns of a picture's patches are there to be read: `run.pattern(0)`"));
    }
    let (layers, heads) = (stack.dims.n_layers, stack.dims.n_heads);
    let is_causal = stack.sees.is_causal();
    let each = layers * heads;
    let mut sums = vec![0f64; AttentionTarget::ALL.len() * each];
    let mut counts = vec![0usize; AttentionTarget::ALL.len()];
    let progress = Progress::new("looking where heads look", input.len());
    for index in 0..input.len() {
        let tokens = model.tokenize_one(&input, index)?;
        let run = model.run_with_options(&tokens, &RunOptions::only([Site::Pattern]))?;
        let len = tokens.len();
        let patterns: Vec<Vec<f32>> =
            (0..layers).map(|layer| run.pattern(layer)?.to_vec()).collect::<Result<_>>()?; // [head, query, key]
        for (place, target) in AttentionTarget::ALL.into_iter().enumerate() {
            for query in 0..len {
                let seen = if is_causal { query + 1 } else { len };
                let keys: Vec<usize> = (0..seen).filter(|&key| target.is_at(&tokens, query, key)).collect();
                if keys.is_empty() {
                    continue;
                }
                counts[place] += 1;
                for (layer, pattern) in patterns.iter().enumerate() {
                    for head in 0..heads {
                        let row = &pattern[(head * len + query) * len..][..len];
                        let share: f64 = keys.iter().map(|&key| f64::from(row[key])).sum();
                        sums[place * each + layer * heads + head] += share;
                    }
                }
            }
        }
        progress.advance(1)?;
    }
    let values = sums.iter().enumerate().map(|(at, sum)| (sum / counts[at / each].max(1) as f64) as f32);
    let names: Vec<String> = AttentionTarget::ALL.iter().map(ToString::to_string).collect();
    let axes = vec![Axis::labelled("target", names), layer_axis(stack.stack, layers), model.head_axis()];
    let values = NamedTensor::from_vec("attention to", values.collect(), axes)?;
    Ok(AttentionTargets { values: values.with_value_kind(ValueKind::Probability) })
}

impl AttentionTargets {
    /// The share of attention `[target, layer, head]`; 0 where no text has such a key.
    pub fn values(&self) -> &NamedTensor {
        &self.values
    }

    /// The share that goes to one target, head by head.
    pub fn of(&self, target: AttentionTarget) -> Result<HeadGrid> {
        // In the order of `AttentionTarget::ALL`, which is that of their declaration.
        let values = self.values.select("target", target as usize)?;
        let [layers, heads] = [0, 1].map(|axis| values.axes()[axis].len());
        HeadGrid::from_vec(format!("attention to {target}"), values.to_vec()?, layers, heads)
    }

    /// The heads, that which looks there most first.
    pub fn ranked(&self, target: AttentionTarget) -> Result<Vec<(Head, f32)>> {
        self.of(target)?.ranked()
    }
}

impl fmt::Debug for AttentionTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for target in AttentionTarget::ALL {
            let ranked = self.ranked(target).map_err(|_| fmt::Error)?;
            let most = ranked.iter().take(3).map(|(head, share)| format!("{head} {share:.2}"));
            writeln!(f, "{target}: {}", most.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

impl Visualize for AttentionTargets {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::SmallMultiples { values: self.values.clone(), selected: None }])
    }
}
