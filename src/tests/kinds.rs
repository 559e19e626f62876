//! Kinds of models: one of each that the types know, with inputs that it reads.

use crate::analysis::Metric;
use crate::error::Result;
use crate::hook::{Head, Hook, Site, head};
use crate::model::edit::AttentionEdge;
use crate::model::input::Input;
use crate::model::model::Model;
use crate::tests::toys;

/// What questions need of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Logits of tokens.
    Logits,
    /// The same, of the next token.
    NextToken,
    OneStack,
    /// What it reads is text.
    Text,
    /// One stack, whose stream is the sum of what attention and MLPs add.
    SumOfParts,
    /// The same of heads.
    SumOfHeads,
    Classes,
    /// What is told is read at one position, or can be.
    OnePosition,
    Similarity,
}

/// A kind of model, with inputs that it reads, a head and a hook of it, and what it is read out by.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) model: Model,
    pub(super) input: Input,
    /// Another of the same lengths.
    pub(super) other: Input,
    pub(super) head: Head,
    pub(super) hook: Hook,
    pub(super) outcome: Hook,
    /// One that has a gradient.
    pub(super) metric: Metric,
    has: &'static [Need],
}

impl Kind {
    pub(super) fn has(&self, needs: &[Need]) -> bool {
        needs.iter().all(|need| self.has.contains(need))
    }
}

/// A kind's model by `toy: ` and the kind's name, for what opens models by name.
#[cfg(feature = "cli")]
pub(super) fn open_toy(name: &str) -> Option<Result<Model>> {
    let name = name.strip_prefix("toy: ")?;
    match kinds() {
        Ok(all) => all.into_iter().find(|kind| kind.name == name).map(|kind| Ok(kind.model)),
        Err(error) => Some(Err(error)),
    }
}

pub(super) fn kinds() -> Result<Vec<Kind>> {
    use Need::{Classes, Logits, NextToken, OnePosition, OneStack, Similarity, SumOfHeads, SumOfParts, Text};
    let kind = |name, model: Model, [input, other]: [Input; 2], has: &'static [Need]| {
        let stack = model.spec().stacks()[0].stack;
        let (head, hook) = (head(1, 0).of(stack), Site::ResidPre.at(1).of(stack));
        let outcome = model.hooks().into_iter().next_back();
        let outcome = outcome.unwrap_or(hook);
        let metric = match outcome.site() {
            Site::UnembedOut => Metric::LogitDiff { correct: 5, incorrect: 6, position: None },
            Site::ClassLogits => Metric::Class { class: 2, instead: Some(0) },
            Site::Similarity => Metric::Similarity,
            _ => Metric::Attention(AttentionEdge { head, query: 2, key: 1 }),
        };
        Kind { name, model, input, other, head, hook, outcome, metric, has }
    };
    let ids = |ids: [u32; 6]| Input::from(ids.to_vec());
    let one = || [ids([3, 1, 4, 3, 1, 4]), ids([3, 2, 4, 3, 1, 4])];
    let two = || one().map(|ids| Input::pair(ids, vec![2u32, 7, 1, 8]));
    let pictures = || [toys::picture(1), toys::picture(2)].map(Input::from);
    let captioned = || pictures().map(|picture| Input::pair(picture, vec![2u32, 7, 1, 8]));
    let decoder: &[Need] = &[Logits, NextToken, OnePosition, OneStack, Text, SumOfParts, SumOfHeads];
    Ok(vec![
        kind("decoder", Model::open("built-in")?, one(), decoder),
        kind(
            "sandwich",
            toys::sandwich()?,
            one(),
            &[Logits, NextToken, OnePosition, OneStack, Text, SumOfParts],
        ),
        kind("encoder", toys::encoder()?, one(), &[Logits, OnePosition, OneStack, Text]),
        kind("masked", toys::masked()?, one(), &[Logits, OnePosition, OneStack, Text]),
        kind("pooled", toys::pooled()?, one(), &[OneStack, Text]),
        kind("classifier", toys::classifier()?, one(), &[OnePosition, OneStack, Text, Classes]),
        kind(
            "causal classifier",
            toys::causal_classifier()?,
            one(),
            &[OnePosition, OneStack, Text, SumOfParts, SumOfHeads, Classes],
        ),
        kind("tower", toys::tower()?, one(), &[OneStack, Text, SumOfParts, SumOfHeads]),
        kind("translator", toys::translator()?, two(), &[Logits, NextToken]),
        kind("post-norm translator", toys::post_norm_translator()?, two(), &[Logits, NextToken]),
        kind(
            "pictures",
            toys::picture_classifier()?,
            pictures(),
            &[OnePosition, OneStack, SumOfParts, SumOfHeads, Classes],
        ),
        kind("pair", toys::pair()?, captioned(), &[Similarity]),
    ])
}
