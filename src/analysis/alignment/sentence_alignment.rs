//! One pair, word by word: what a head gives each, and what each edge does.

use std::fmt;

use crate::analysis::alignment::cause::{Cut, caused};
use crate::analysis::alignment::sentence::{AlignedRow, Sentence, WordMatrix, cross_heads};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Head;
use crate::model::input::Input;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::view::{View, Visualize};

/// What [`sentence_alignment`] found.
#[derive(Clone)]
pub struct SentenceAlignment {
    head: Head,
    attention: NamedTensor,
    effect: Option<NamedTensor>,
    alone: Option<NamedTensor>,
    links: Vec<(usize, usize)>,
}

/// What a head of cross-attention gives each word of a source for each of its target, at the row that writes it; and with `by_cause` what
/// each edge does: how much less likely the word of the target is, in nats, where the edge is cut in all heads, and where in this one alone.
/// A source without its target is taken with what the model writes.
///
/// Draws itself as two rows of words with ribbons between them, whose width is attention and whose colour the effect of the cut in all
/// heads, and as a heatmap.
///
/// Fails for several pairs, for models that are no encoder-decoder, and for heads that attend to no source.
///
/// ```no_run
/// use headlight::analysis::sentence_alignment;
/// use headlight::prelude::*;
/// let model = Model::open("built-in-translator")?;
/// let cross = head(1, 3).of(Stack::Decoder).cross();
/// let found = sentence_alignment(&model, "we do not find her white cat .", cross, true)?;
/// println!("{found:?}");
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn sentence_alignment(
    model: &Model,
    pair: impl Into<Input>,
    head: Head,
    by_cause: bool,
) -> Result<SentenceAlignment> {
    let heads = cross_heads(model)?;
    if !heads.contains(&head) {
        model.spec().check_head(head)?;
        return Err(Error::new(ErrorKind::Address, format!("{head} attends to no source")).help(format!(
            "heads of cross-attention are {} to {}",
            heads[0],
            heads[heads.len() - 1]
        )));
    }
    let pair = pair.into();
    if pair.len() != 1 {
        let what = format!("there are {} pairs where one is looked at", pair.len());
        return Err(Error::new(ErrorKind::Input, what).help("give one; `alignment_scores` takes many"));
    }
    let pair = model.with_targets(&pair)?;
    let sentence = Sentence::new(model, &pair, 0)?;
    let axes = || {
        let of = |name, labels: &[String]| Axis::labelled(name, labels.to_vec());
        vec![of("target", sentence.target.labels()), of("source", sentence.source.labels())]
    };
    let named = |name: String, matrix: WordMatrix, kind| -> Result<NamedTensor> {
        Ok(NamedTensor::from_vec(name, matrix.values, axes())?.with_value_kind(kind))
    };
    let own = sentence.attention(AlignedRow::Writes).find(|(of, _)| *of == head).map(|(_, matrix)| matrix);
    let own = own.unwrap_or(WordMatrix { sources: sentence.source.len(), values: Vec::new() });
    let (mut effect, mut alone) = (None, None);
    if by_cause {
        let found = caused(model, &sentence, &heads, &[Cut::All, Cut::Alone(head)])?;
        let name = "nats lost with the edge cut in";
        effect = Some(named(format!("{name} all heads"), found.effect(0), ValueKind::Signed)?);
        alone = Some(named(format!("{name} {head} alone"), found.effect(1), ValueKind::Signed)?);
    }
    let links = own.links();
    let are_pieces = sentence.source.are_pieces() || sentence.target.are_pieces();
    let words = if are_pieces { ", piece by piece" } else { "" };
    let attention = named(format!("{head}, attention to words{words}"), own, ValueKind::Probability)?;
    Ok(SentenceAlignment { head, attention, effect, alone, links })
}

impl SentenceAlignment {
    /// The head.
    pub fn head(&self) -> Head {
        self.head
    }

    /// What it gives each word of the source, for each of the target `[target, source]`.
    pub fn attention(&self) -> &NamedTensor {
        &self.attention
    }

    /// How much less likely each word of the target is with each edge cut in all heads, in nats `[target, source]`. Fails where nothing was cut.
    pub fn effect(&self) -> Result<&NamedTensor> {
        self.effect.as_ref().ok_or_else(not_cut)
    }

    /// The same with the edge cut in this head alone.
    pub fn effect_alone(&self) -> Result<&NamedTensor> {
        self.alone.as_ref().ok_or_else(not_cut)
    }

    /// The word of the source that has the most attention of each of the target: (source, target), counted from 0.
    pub fn links(&self) -> &[(usize, usize)] {
        &self.links
    }
}

fn not_cut() -> Error {
    Error::new(ErrorKind::Input, "no edges were cut").help("ask by cause: `sentence_alignment(.., true)`")
}

impl fmt::Debug for SentenceAlignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes = self.attention.axes();
        let link = |&(source, target): &(usize, usize)| {
            format!("{} – {}", axes[1].label(source), axes[0].label(target))
        };
        write!(f, "{}: {}", self.head, self.links.iter().map(link).collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for SentenceAlignment {
    fn views(&self) -> Result<Vec<View>> {
        let mut views = vec![
            View::Ribbons { widths: self.attention.clone(), effects: self.effect.clone() },
            View::Heatmap(self.attention.clone()),
        ];
        views.extend(self.effect.clone().map(View::Heatmap));
        views.extend(self.alone.clone().map(View::Heatmap));
        Ok(views)
    }
}
