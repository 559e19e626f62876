//! What a model is read out by, as its `config.json` says: the class of transformers that its weights are of, and the names of its
//! classes.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Stack;
use crate::json::parse;
use crate::network::config::{ConfigFile, invalid_config};
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::Activation;
use crate::network::readout::{MaskedHead, ReadoutLayer};
use crate::network::spec::{Pooling, Verdict};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::{Scope, unembedding};
use crate::network::weights::weight::Weight;

/// What the classes of transformers are for, as their names end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Tokens, the next or what is masked.
    Tokens,
    /// Whether one text follows another.
    NextSentence,
    Classes,
    /// Nothing: the stack alone.
    None,
}

/// What `config.json` says of it.
#[derive(Debug)]
pub(crate) struct HeadFile {
    /// Nothing where no class is named.
    pub(crate) head: Option<Head>,
    labels: Option<Vec<String>>,
    n_labels: Option<usize>,
    verdict: Option<Verdict>,
}

#[derive(Deserialize)]
struct Entries {
    architectures: Option<Vec<String>>,
    id2label: Option<BTreeMap<String, String>>,
    num_labels: Option<usize>,
    problem_type: Option<Verdict>,
}

impl ConfigFile {
    /// What the model is read out by. Fails for heads that are not known.
    pub(crate) fn head(&self) -> Result<HeadFile> {
        let Entries { architectures, id2label, num_labels, problem_type } = parse(&self.path, &self.text)?;
        let class = architectures.as_deref().and_then(<[String]>::first);
        let head = class.map(|class| of_class(class)).transpose()?;
        let labels = id2label.map(|labels| self.in_order(labels)).transpose()?;
        Ok(HeadFile { head, labels, n_labels: num_labels, verdict: problem_type })
    }

    /// The names of classes by their numbers.
    fn in_order(&self, labels: BTreeMap<String, String>) -> Result<Vec<String>> {
        let mut numbered = labels
            .iter()
            .map(|(number, label)| Some((number.trim().parse::<usize>().ok()?, label.clone())))
            .collect::<Option<Vec<_>>>()
            .unwrap_or_default();
        numbered.sort();
        if numbered.is_empty() || numbered.iter().enumerate().any(|(index, (number, _))| index != *number) {
            let found = labels.keys().take(5).cloned().collect::<Vec<_>>().join(", ");
            return invalid_config(
                format!("{} has an id2label of {}: {found}", self.path, labels.len()),
                "it names every class by its number, counted from 0: {\"0\": \"negative\", \"1\": \"positive\"}",
            );
        }
        Ok(numbered.into_iter().map(|(_, label)| label).collect())
    }
}

fn of_class(class: &str) -> Result<Head> {
    const KNOWN: [(&str, Head); 9] = [
        ("ForMaskedLM", Head::Tokens),
        ("ForPreTraining", Head::Tokens),
        ("ForCausalLM", Head::Tokens),
        ("LMHeadModel", Head::Tokens),
        ("ForConditionalGeneration", Head::Tokens),
        ("MTModel", Head::Tokens),
        ("ForNextSentencePrediction", Head::NextSentence),
        ("ForSequenceClassification", Head::Classes),
        ("Model", Head::None),
    ];
    if let Some((_, head)) = KNOWN.iter().find(|(end, _)| class.ends_with(end)) {
        return Ok(*head);
    }
    if !class.contains("For") {
        return Ok(Head::Tokens);
    }
    invalid_config(
        format!("the weights are of a {class}, whose head is not known"),
        "known are heads for masked and next tokens, next sentences and classes of whole texts; to look at the stack alone, say \
         \"architectures\": [] in config.json",
    )
}

/// Where the weights of an encoder's heads are.
pub(crate) struct HeadNames {
    /// For masked tokens: the linear map before the norm, the norm, the unembedding, and its bias by one of several names.
    pub(crate) masked: [&'static str; 3],
    pub(crate) unembedding_bias: &'static [&'static str],
    pub(crate) next_sentence: Option<&'static str>,
    /// What stands between the first position and the classes; BERT's is the stack's own pooler.
    pub(crate) before_classes: (&'static str, Activation),
    pub(crate) classes: &'static str,
}

/// The pooler of a stack.
pub(crate) const POOLER: &str = "pooler.dense";

/// What of an encoder's parts its heads need.
pub(crate) struct HeadParts<'a> {
    /// The weights of the stack.
    pub(crate) stack: &'a Scope<'a>,
    pub(crate) w_e: &'a Weight, // (V, M)
    /// For masked tokens.
    pub(crate) activation: Activation,
    pub(crate) eps: f64,
    /// Whether the embedding is the unembedding where the weights have none.
    pub(crate) is_tied: bool,
}

impl HeadNames {
    /// The head by the weights that there are, where no class is named.
    fn by_weights(&self, file: &Scope) -> Head {
        match () {
            () if file.has(&format!("{}.weight", self.classes)) => Head::Classes,
            () if file.has(&format!("{}.weight", self.masked[0])) => Head::Tokens,
            () => Head::None,
        }
    }
}

impl HeadFile {
    /// Fails unless an encoder and a decoder are there, and the next token is told.
    pub(crate) fn check_is_encoder_decoder(&self) -> Result<()> {
        match self.head {
            None | Some(Head::Tokens) => Ok(()),
            Some(_) => invalid_config(
                "config.json names a class that does not write text with encoder and decoder".into(),
                "models that do are known: T5ForConditionalGeneration, BartForConditionalGeneration, MarianMTModel",
            ),
        }
    }

    /// What an encoder is read out by.
    pub(crate) fn of_encoder(
        &self,
        names: &HeadNames,
        weights: &Weights,
        parts: &HeadParts,
    ) -> Result<ReadoutLayer> {
        let (file, m) = (Scope::all(weights), parts.w_e.dims2()?.1);
        let (of, pooling) = (Stack::Main, Pooling::First);
        Ok(match self.head.unwrap_or_else(|| names.by_weights(&file)) {
            Head::Tokens => {
                let [dense, norm, unembed] = names.masked;
                let head = MaskedHead {
                    dense: file.linear(dense, [m, m], true)?,
                    activation: parts.activation,
                    norm: file.layer_norm(norm, m, parts.eps)?,
                };
                let mut unembed = unembedding(weights, unembed, parts.w_e, parts.is_tied)?; // (M, V)
                let name = names.unembedding_bias.iter().find(|name| file.has(name));
                let name = name.unwrap_or(&names.unembedding_bias[0]);
                unembed.bias = Some(file.get(name, &[parts.w_e.dims2()?.0])?); // (V)
                ReadoutLayer::Vocabulary { of, head: Some(head), unembed }
            }
            Head::NextSentence => {
                let Some(name) = names.next_sentence else {
                    return invalid_config(
                        "config.json says that the model tells whether one sentence follows another".into(),
                        "this architecture is trained without such a head: which class are the weights of?",
                    );
                };
                let pooler = Some((parts.stack.linear(POOLER, [m, m], true)?, Activation::Tanh));
                let classify = file.linear(name, [m, 2], true)?;
                // Google's names of what a BERT was trained to tell.
                let labels = ["IsNext", "NotNext"].map(String::from).to_vec();
                ReadoutLayer::Classes { of, pooling, pooler, classify, labels, verdict: Verdict::One }
            }
            Head::Classes => {
                let (name, activation) = names.before_classes;
                let scope = if name == POOLER { parts.stack } else { &file };
                let pooler = Some((scope.linear(name, [m, m], true)?, activation));
                self.classes(&file, names.classes, (m, true), pooling, pooler)?
            }
            Head::None if parts.stack.has(&format!("{POOLER}.weight")) => {
                let pooler = parts.stack.linear(POOLER, [m, m], true)?;
                ReadoutLayer::Pooled { of, pooler, activation: Activation::Tanh }
            }
            Head::None => ReadoutLayer::Nothing,
        })
    }

    /// How many classes the config names.
    fn n_classes(&self) -> Option<usize> {
        self.labels.as_ref().map(Vec::len).or(self.n_labels)
    }

    /// The names of as many classes as the weights have. Fails where the config names more or fewer.
    fn labels(&self, n_classes: usize) -> Result<Vec<String>> {
        match (&self.labels, self.n_classes()) {
            (_, Some(said)) if said != n_classes => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "config.json names {said} classes, and the classifier of the weights has {n_classes}"
                ),
            )
            .help("mend id2label: it names every class of the classifier by its number, counted from 0")),
            (Some(labels), _) => Ok(labels.clone()),
            (None, _) => Ok((0..n_classes).map(|index| format!("LABEL_{index}")).collect()),
        }
    }

    /// What a decoder is read out by: logits of the next token by the unembedding of that name, or classes at the end of the text.
    pub(crate) fn of_decoder(
        &self,
        weights: &Weights,
        name: &str,
        w_e: &Weight,
        is_tied: bool,
    ) -> Result<ReadoutLayer> {
        match self.head {
            Some(Head::Classes) => {
                let width = w_e.dims2()?.1;
                self.classes(&Scope::all(weights), "score", (width, false), Pooling::Last, None)
            }
            _ => {
                let mut unembed = unembedding(weights, name, w_e, is_tied)?; // (M, V)
                // GPT-J's has one.
                let bias = format!("{name}.bias");
                if weights.has(&bias) {
                    unembed.bias = Some(weights.get(&bias, &[w_e.dims2()?.0])?); // (V)
                }
                Ok(ReadoutLayer::Vocabulary { of: Stack::Main, head: None, unembed })
            }
        }
    }

    /// Classes by a linear map of the weights, `[out, in]` there. What a pooler makes of the position is read, where there is one.
    fn classes(
        &self,
        scope: &Scope,
        name: &str,
        (width, biased): (usize, bool),
        pooling: Pooling,
        pooler: Option<(Linear, Activation)>,
    ) -> Result<ReadoutLayer> {
        let weight = format!("{name}.weight");
        // Weights that are drawn anew are as many as the config says.
        let n_classes = match self.n_classes() {
            Some(said) if !scope.has(&weight) => said,
            _ => scope.rows(&weight)?,
        };
        let labels = self.labels(n_classes)?;
        // A single class holds or not, as transformers' pipelines read it.
        let verdict = self.verdict.unwrap_or(if n_classes == 1 { Verdict::Several } else { Verdict::One });
        let classify = scope.linear(name, [width, n_classes], biased)?;
        Ok(ReadoutLayer::Classes { of: Stack::Main, pooling, pooler, classify, labels, verdict })
    }
}
