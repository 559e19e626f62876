//! Networks: token ids in, activations through a tap, nothing kept.

mod anatomy;
mod attend;
mod attention;
mod attention_only;
pub(crate) mod config;
mod decoder;
mod fold;
mod footprint;
pub mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gptj;
pub(crate) mod initial;
mod linear;
mod llama;
pub(crate) mod matrix;
mod mistral;
mod mlp;
mod norm;
pub(crate) mod ops;
mod pages;
pub(crate) mod pickle;
mod qwen;
mod rotary;
mod scope;
pub mod weights;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

pub use anatomy::{Anatomy, Mlps, Norms, Positions};
pub use attention::Scoring;
pub use decoder::Decoder;
pub(crate) use footprint::CHANGING;
pub use rotary::Rotary;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};
use config::ConfigFile;
use weights::Weights;

/// What is known of an architecture.
struct Architecture {
    /// The `model_type` of its `config.json`.
    name: &'static str,
    /// How the name of its class begins there.
    class: &'static str,
    /// The tokens that begin and end a text, where no file of the model says so: transformers' defaults.
    bos_and_eos: Option<(u32, u32)>,
    load: fn(&ConfigFile, &Weights) -> Result<Decoder>,
}

/// Every architecture that can be opened.
const ARCHITECTURES: [Architecture; 9] = [
    Architecture {
        name: "gpt2",
        class: "GPT2",
        bos_and_eos: Some((50256, 50256)),
        load: |file, weights| {
            file.load(gpt2::Config::default(), &gpt2::NAMES, |config| gpt2::load(config, weights))
        },
    },
    Architecture {
        name: "gpt_neo",
        class: "GPTNeoFor",
        bos_and_eos: Some((50256, 50256)),
        load: |file, weights| {
            file.load(gpt_neo::Config::default(), &gpt_neo::NAMES, |config| gpt_neo::load(config, weights))
        },
    },
    Architecture {
        name: "gpt_neox",
        class: "GPTNeoX",
        bos_and_eos: Some((0, 2)),
        load: |file, weights| {
            file.load(gpt_neox::Config::default(), &[], |config| gpt_neox::load(config, weights))
        },
    },
    Architecture {
        name: "gptj",
        class: "GPTJ",
        bos_and_eos: Some((50256, 50256)),
        load: |file, weights| {
            file.load(gptj::Config::default(), &gptj::NAMES, |config| gptj::load(config, weights))
        },
    },
    Architecture {
        name: "llama",
        class: "Llama",
        bos_and_eos: Some((1, 2)),
        load: |file, weights| file.load(llama::Config::default(), &[], |config| llama::load(config, weights)),
    },
    Architecture {
        name: "mistral",
        class: "Mistral",
        bos_and_eos: Some((1, 2)),
        load: |file, weights| {
            file.load(mistral::Config::default(), &[], |config| mistral::load(config, weights))
        },
    },
    Architecture {
        name: "qwen2",
        class: "Qwen2For",
        bos_and_eos: None,
        load: |file, weights| file.load(qwen::qwen2(), &[], |config| qwen::load_qwen2(config, weights)),
    },
    Architecture {
        name: "qwen3",
        class: "Qwen3For",
        bos_and_eos: None,
        load: |file, weights| file.load(qwen::qwen3(), &[], |config| qwen::load_qwen3(config, weights)),
    },
    Architecture {
        name: "attn-only",
        class: "AttentionOnly",
        bos_and_eos: None,
        load: |file, weights| {
            let defaults = attention_only::Config::default();
            file.load(defaults, &attention_only::NAMES, |config| attention_only::load(config, weights))
        },
    },
];

/// The architecture that a `model_type` or a class names.
fn architecture(said: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|known| known.name == said || said.starts_with(known.class))
}

/// The tokens that begin and end a text in an architecture, where no file of the model says so.
pub(crate) fn bos_and_eos(architecture_said: &str) -> Option<(u32, u32)> {
    architecture(architecture_said)?.bos_and_eos
}

/// Builds a network of an architecture, which is named by a `model_type` or a class, from the text of a `config.json` and
/// weights under Hugging Face's names (TransformerLens's for models of attention alone).
pub(crate) fn load(said: &str, config_path: &str, config: &str, weights: &Weights) -> Result<Decoder> {
    match architecture(said) {
        Some(known) => (known.load)(&ConfigFile { path: config_path, text: config }, weights),
        None => {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
            Err(Error::new(
                ErrorKind::Config,
                format!("{config_path} is of architecture `{said}`, which is not known"),
            )
            .help(format!("known architectures: {}", known.join(", "))))
        }
    }
}

/// The sizes of a network, under TransformerLens's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Blocks.
    pub n_layers: usize,
    /// Attention heads in each block.
    pub n_heads: usize,
    /// Heads of keys and values in each block: fewer than attention heads where several share one.
    pub n_key_value_heads: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one head.
    pub d_head: usize,
    /// Neurons in each MLP; 0 where there are none.
    pub d_mlp: usize,
    /// Tokens in the vocabulary.
    pub d_vocab: usize,
    /// The longest input, in tokens.
    pub n_ctx: usize,
}

/// Sees activations while a network runs, and may change them.
///
/// A network asks [`wants`](Tap::wants) first: what nobody wants and nothing needs is never made, the
/// logits above all. Activations have the axes that their [`Site`] says, with the batch first.
pub trait Tap {
    /// Whether this activation is to be handed over.
    fn wants(&self, hook: Hook) -> bool;

    /// Receives an activation; the network continues with what comes back, which must have the same shape.
    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor>;

    /// Whether it holds on to an activation that it was handed: memory for a run is asked for accordingly, before it begins.
    /// What it wants, unless it says otherwise.
    fn keeps(&self, hook: Hook) -> bool {
        self.wants(hook)
    }

    /// The last layer to run. The last norm and the unembedding then do not run.
    fn stop_after(&self) -> Option<usize> {
        None
    }

    /// The positions to unembed, where not all logits are read.
    fn unembed_positions(&self) -> Option<&[usize]> {
        None
    }
}

/// Where a run begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// From token ids `[batch, position]`.
    Tokens(Tensor),
    /// From the residual stream `[batch, position, d_model]` as layer `layer` reads it: what lies below
    /// is known already.
    Residual {
        /// The layer that reads it.
        layer: usize,
        /// The residual stream, before `hook_resid_pre`.
        stream: Tensor,
    },
}

/// Keys and values of earlier positions, layer by layer, so that generation reads each token once.
#[derive(Clone, Debug, Default)]
pub struct Past {
    layers: BTreeMap<usize, (Tensor, Tensor)>,
}

impl Past {
    /// How many positions have been read.
    pub fn len(&self) -> usize {
        self.layers.first_key_value().map_or(0, |(&layer, _)| self.len_at(layer))
    }

    /// Whether nothing has been read yet.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// How many positions a layer has read.
    fn len_at(&self, layer: usize) -> usize {
        self.layers.get(&layer).and_then(|(k, _)| k.dims().get(1).copied()).unwrap_or(0)
    }

    /// Appends a layer's new keys and values `[batch, position, head, d_head]`; gives back all so far.
    pub(crate) fn extend(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let joined = match self.layers.get(&layer) {
            Some((past_k, past_v)) => (Tensor::cat(&[past_k, &k], 1)?, Tensor::cat(&[past_v, &v], 1)?),
            None => (k, v),
        };
        self.layers.insert(layer, joined.clone());
        Ok(joined)
    }

    /// What a batch of so many runs has behind it, each like the one run here, that resumes at a layer and a position.
    pub(crate) fn before(&self, layer: usize, position: usize, runs: usize) -> Result<Past> {
        let mut layers = BTreeMap::new();
        if position > 0 {
            for (&layer, (k, v)) in self.layers.range(layer..) {
                let cut = |tensor: &Tensor| tensor.narrow(1, 0, position)?.repeat((runs, 1, 1, 1));
                layers.insert(layer, (cut(k)?, cut(v)?));
            }
        }
        Ok(Past { layers })
    }
}

/// A network whose every activation passes a tap.
pub trait Network: Send + Sync {
    /// Its sizes.
    fn dims(&self) -> &Dims;

    /// Where its weights are, and its inputs must be.
    fn device(&self) -> &Device;

    /// Runs from `start`, handing activations to `tap`. With `past`, the input continues what was read before.
    fn run(&self, start: Start, past: Option<&mut Past>, tap: &mut dyn Tap) -> Result<()>;

    /// The most bytes that such a run takes at once, beyond what is there before it and with what its tap keeps.
    fn footprint(&self, start: &Start, past: Option<&Past>, tap: &dyn Tap) -> u64;

    /// The most bytes that a run from token ids takes at once with what follows it backwards, where `read` positions' logits have
    /// a gradient with respect to activations at these sites of every layer, or, of no site, to all weights.
    fn footprint_of_gradients(&self, batch: usize, len: usize, read: usize, sites: &[Site]) -> u64;

    /// Every weight under TransformerLens's name for it, in TransformerLens's shape. They share storage
    /// with the network wherever the layout allows.
    fn weights(&self) -> Result<Vec<(String, Tensor)>>;

    /// What it is built of, and so which activations it has.
    fn anatomy(&self) -> Anatomy;

    /// Whether text is run with a BOS token before it, as TransformerLens runs models of this architecture by default.
    fn prepends_bos(&self) -> bool;

    /// How queries and keys become attention scores in a layer. Fails if there is no such layer.
    fn scoring(&self, layer: usize) -> Result<&Scoring>;

    /// The same log-probabilities from weights that are easier to read: norms folded into the weights that read them, value
    /// biases into attention's own, and what writes to the stream centred where the norms centre (TransformerLens's
    /// `fold_ln`, `fold_value_biases`, `center_writing_weights` and `center_unembed`).
    fn folded(&self) -> Result<Box<dyn Network>>;
}

/// A tap as a network uses it: asks first, then checks what comes back.
pub(crate) struct Tapped<'a>(pub &'a mut dyn Tap);

impl Tapped<'_> {
    pub(crate) fn wants(&self, site: Site, layer: Option<usize>) -> bool {
        self.0.wants(hook(site, layer))
    }

    /// Hands an activation over if it is wanted, and gives what the network continues with.
    pub(crate) fn at(&mut self, site: Site, layer: Option<usize>, activation: Tensor) -> Result<Tensor> {
        let hook = hook(site, layer);
        if !self.0.wants(hook) {
            return Ok(activation);
        }
        let shape = activation.dims().to_vec();
        let back = self.0.tap(hook, activation)?;
        if back.dims() != shape || back.dtype() != DType::F32 {
            return Err(Error::new(
                ErrorKind::Tap,
                format!(
                    "the tap at `{hook}` was given {shape:?} of F32 and gave back {:?} of {:?}",
                    back.dims(),
                    back.dtype()
                ),
            )
            .help("a tap gives back an activation of the same shape and type"));
        }
        Ok(back)
    }
}

fn hook(site: Site, layer: Option<usize>) -> Hook {
    match layer {
        Some(layer) => site.at(layer),
        None => site.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers' classes say of the tokens that begin and end a text, which is not seen from outside.
    #[test]
    fn what_begins_and_ends_texts() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/defaults.json");
        let all: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).expect("the file")).expect("JSON");
        let known = all["bos_and_eos"].as_object().expect("a table");
        for Architecture { name, bos_and_eos, .. } in &ARCHITECTURES {
            let expected = known.get(*name).map(|ids| (ids[0].as_u64(), ids[1].as_u64()));
            let expected = expected.and_then(|(bos, eos)| Some((bos? as u32, eos? as u32)));
            assert_eq!(*bos_and_eos, expected, "{name}");
        }
        assert_eq!(known.len(), ARCHITECTURES.len() - 1);
    }
}
