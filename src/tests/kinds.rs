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
    /// One stack that is read out, be it a decoder that reads another.
    ReadOut,
    /// A decoder that reads an encoder.
    Source,
    /// What it reads is text.
    Text,
    /// The stream that is read out is the sum of what attention and MLPs add.
    SumOfParts,
    /// The same of heads.
    SumOfHeads,
    /// What heads write is added as it is, whatever norms do with the sum.
    AddsHeads,
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
    /// What it goes on with, where it writes.
    pub(super) prompt: Input,
    pub(super) head: Head,
    pub(super) hook: Hook,
    pub(super) outcome: Hook,
    /// A head of the stack that is read out.
    pub(super) read_out: Head,
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
    use Need::{
        AddsHeads, Classes, Logits, NextToken, OnePosition, OneStack, ReadOut, Similarity, Source,
        SumOfHeads, SumOfParts, Text,
    };
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
        let read_out = head.of(model.spec().last_stack().stack);
        // Of a pair, what the first stack reads.
        let mut prompt = input.clone();
        prompt.second = None;
        Kind { name, model, input, other, prompt, head, hook, outcome, read_out, metric, has }
    };
    let ids = |ids: [u32; 6]| Input::from(ids.to_vec());
    let one = || [ids([3, 1, 4, 3, 1, 4]), ids([3, 2, 4, 3, 1, 4])];
    let two = || one().map(|ids| Input::pair(ids, vec![2u32, 7, 1, 2, 7, 1, 8]));
    let pictures = || [toys::picture(1), toys::picture(2)].map(Input::from);
    let captioned = || pictures().map(|picture| Input::pair(picture, vec![2u32, 7, 1, 8]));
    let decoder: &[Need] =
        &[Logits, NextToken, OnePosition, OneStack, ReadOut, Text, SumOfParts, SumOfHeads, AddsHeads];
    Ok(vec![
        kind("decoder", Model::open("built-in")?, one(), decoder),
        kind(
            "sandwich",
            toys::sandwich()?,
            one(),
            &[Logits, NextToken, OnePosition, OneStack, ReadOut, Text, SumOfParts],
        ),
        kind("encoder", toys::encoder()?, one(), &[Logits, OnePosition, OneStack, ReadOut, Text, AddsHeads]),
        kind("masked", toys::masked()?, one(), &[Logits, OnePosition, OneStack, ReadOut, Text, AddsHeads]),
        kind("pooled", toys::pooled()?, one(), &[OneStack, ReadOut, Text, AddsHeads]),
        kind(
            "classifier",
            toys::classifier()?,
            one(),
            &[OnePosition, OneStack, ReadOut, Text, Classes, AddsHeads],
        ),
        kind(
            "causal classifier",
            toys::causal_classifier()?,
            one(),
            &[OnePosition, OneStack, ReadOut, Text, SumOfParts, SumOfHeads, AddsHeads, Classes],
        ),
        kind("tower", toys::tower()?, one(), &[OneStack, ReadOut, Text, SumOfParts, SumOfHeads, AddsHeads]),
        kind(
            "translator",
            toys::translator()?,
            two(),
            &[Logits, NextToken, ReadOut, Source, Text, SumOfParts, SumOfHeads, AddsHeads],
        ),
        kind(
            "post-norm translator",
            toys::post_norm_translator()?,
            two(),
            &[Logits, NextToken, ReadOut, Source, Text, AddsHeads],
        ),
        kind(
            "relative translator",
            toys::relative_translator()?,
            two(),
            &[Logits, NextToken, ReadOut, Source, Text, SumOfParts, SumOfHeads, AddsHeads],
        ),
        kind(
            "pictures",
            toys::picture_classifier()?,
            pictures(),
            &[OnePosition, OneStack, ReadOut, SumOfParts, SumOfHeads, AddsHeads, Classes],
        ),
        kind("pair", toys::pair()?, captioned(), &[Similarity, AddsHeads]),
    ])
}
