//! Where heads look in texts: at the previous token, the next, the same word, at `[SEP]` and at delimiters (Clark et al. 2019, "What Does
//! BERT Look At?", section 3).

use std::fmt;

use crate::analysis::head_grid::HeadGrid;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Site, Stack};
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run::Run;
use crate::model::run_options::RunOptions;
use crate::named::{Axis, NamedTensor, ValueKind, layer_axis, numbered};
use crate::network::spec::{Reads, StackSpec};
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
    /// Of each stack, with its name `[target, layer, head]`.
    stacks: Vec<(Stack, NamedTensor)>,
}

/// Where each head looks in the text that its own stack reads: for each [`AttentionTarget`] the mean share of attention that goes there, over
/// all queries that have such a key. Keys that a causal stack does not show a query are none. For encoders and decoders alike; of an
/// encoder-decoder for the heads of both, where a source without a target is read with what the model writes.
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
    model.spec().read_out("where heads look in texts")?;
    if model.spec().stacks().iter().any(|stack| stack.reads != Reads::Tokens) {
        return Err(Error::new(ErrorKind::Model, "where heads look in texts is of models that read text")
            .help("the patterns of a picture's patches are there to be read: `run.pattern(0)`"));
    }
    let input = model.with_targets(&input)?;
    let mut all: Vec<Shares> = model.spec().stacks().iter().map(Shares::new).collect();
    let progress = Progress::new("looking where heads look", input.len());
    for index in 0..input.len() {
        let pieces = model.pieces_of_one(&input, index)?;
        let mut tokens = pieces.values().map(|tokens| Input::from(&tokens[0]));
        let one = match (tokens.next(), tokens.next()) {
            (Some(source), Some(target)) => Input::pair(source, target),
            (Some(text), None) => text,
            _ => continue,
        };
        let run = model.run_with_options(one, &RunOptions::only([Site::Pattern]))?;
        for shares in &mut all {
            shares.add(&run, &pieces[&shares.spec.stack][0])?;
        }
        progress.advance(1)?;
    }
    let several = all.len() > 1;
    let stacks = all.into_iter().map(|shares| Ok((shares.spec.stack, shares.means(several)?)));
    Ok(AttentionTargets { stacks: stacks.collect::<Result<_>>()? })
}

/// What the heads of a stack gave each target, and how many queries had one.
struct Shares {
    spec: StackSpec,
    sums: Vec<f64>,
    counts: Vec<usize>,
}

impl Shares {
    fn new(spec: &StackSpec) -> Shares {
        let targets = AttentionTarget::ALL.len();
        let each = spec.dims.n_layers * spec.dims.n_heads;
        Shares { spec: *spec, sums: vec![0.0; targets * each], counts: vec![0; targets] }
    }

    fn add(&mut self, run: &Run, tokens: &Tokens) -> Result<()> {
        let StackSpec { stack, dims, sees, .. } = self.spec;
        let (layers, heads, len) = (dims.n_layers, dims.n_heads, tokens.len());
        let pattern = |layer| run.get(Site::Pattern.at(layer).of(stack))?.to_vec();
        let patterns: Vec<Vec<f32>> = (0..layers).map(pattern).collect::<Result<_>>()?; // [head, query, key]
        for (place, target) in AttentionTarget::ALL.into_iter().enumerate() {
            for query in 0..len {
                let seen = if sees.is_causal() { query + 1 } else { len };
                let keys: Vec<usize> = (0..seen).filter(|&key| target.is_at(tokens, query, key)).collect();
                if keys.is_empty() {
                    continue;
                }
                self.counts[place] += 1;
                for (layer, pattern) in patterns.iter().enumerate() {
                    for head in 0..heads {
                        let row = &pattern[(head * len + query) * len..][..len];
                        let share: f64 = keys.iter().map(|&key| f64::from(row[key])).sum();
                        self.sums[(place * layers + layer) * heads + head] += share;
                    }
                }
            }
        }
        Ok(())
    }

    /// The means over queries; `several` where the stack is not the only one.
    fn means(&self, several: bool) -> Result<NamedTensor> {
        let StackSpec { stack, dims, .. } = self.spec;
        let each = dims.n_layers * dims.n_heads;
        let mean = |(at, sum): (usize, &f64)| (sum / self.counts[at / each].max(1) as f64) as f32;
        let values = self.sums.iter().enumerate().map(mean).collect();
        let names: Vec<String> = AttentionTarget::ALL.iter().map(ToString::to_string).collect();
        let heads = Axis::labelled("head", numbered("H", dims.n_heads));
        let axes = vec![Axis::labelled("target", names), layer_axis(stack, dims.n_layers), heads];
        let name = if several { format!("attention of the {stack} to") } else { "attention to".into() };
        Ok(NamedTensor::from_vec(name, values, axes)?.with_value_kind(ValueKind::Probability))
    }
}

impl AttentionTargets {
    /// The share of attention `[target, layer, head]`; 0 where no text has such a key. Of an encoder-decoder it is the encoder's.
    pub fn values(&self) -> &NamedTensor {
        &self.stacks[0].1
    }

    /// The share that goes to one target, head by head.
    pub fn of(&self, target: AttentionTarget) -> Result<HeadGrid> {
        let (mut panels, mut all) = (Vec::new(), Vec::new());
        for (stack, values) in &self.stacks {
            // In the order of `AttentionTarget::ALL`, which is that of their declaration.
            let values = values.select("target", target as usize)?;
            panels.push((*stack, Attn::Own, [0, 1].map(|axis| values.axes()[axis].len())));
            all.extend(values.to_vec()?);
        }
        HeadGrid::of_attentions(&format!("attention to {target}"), &panels, &all)
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
        let view = |(_, values): &(Stack, NamedTensor)| View::SmallMultiples {
            values: values.clone(),
            selected: None,
        };
        Ok(self.stacks.iter().map(view).collect())
    }
}
