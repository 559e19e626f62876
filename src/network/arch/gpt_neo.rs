//! GPT-Neo: Black et al. 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow". GPT-2's
//! block; every other layer looks back a window only, and scores are not divided by the root of a head's width.
//!
//! Shapes at the end of lines: M width of the residual stream, V vocabulary.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::HeadFile;
use crate::network::config::{RawDims, check_epsilon, invalid_config};
use crate::network::dims::Dims;
use crate::network::network::{Decoder, Network};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::Scope;

/// What a GPT-Neo's `config.json` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_size: usize,
    num_layers: usize,
    /// One for each layer; older files have `attention_types` only.
    attention_layers: Option<Vec<Reach>>,
    /// Kinds in turn, and how often.
    attention_types: Option<Vec<(Vec<Reach>, usize)>>,
    num_heads: usize,
    intermediate_size: Option<usize>,
    window_size: usize,
    activation_function: Activation,
    layer_norm_epsilon: f64,
    tie_word_embeddings: bool,
}

impl Default for Config {
    /// `GPTNeoConfig`'s.
    fn default() -> Config {
        Config {
            vocab_size: 50257,
            max_position_embeddings: 2048,
            hidden_size: 2048,
            num_layers: 24,
            attention_layers: None,
            attention_types: None,
            num_heads: 16,
            intermediate_size: None,
            window_size: 256,
            activation_function: Activation::GeluTanh,
            layer_norm_epsilon: 1e-5,
            tie_word_embeddings: true,
        }
    }
}

pub(crate) const NAMES: [(&str, &str); 2] =
    [("num_hidden_layers", "num_layers"), ("num_attention_heads", "num_heads")];

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reach {
    Global,
    Local,
}

/// What transformers makes of a file that says nothing of it. A model of another number of layers then has no default.
const ALTERNATING: ([Reach; 2], usize) = ([Reach::Global, Reach::Local], 12);

impl Config {
    /// How far a layer looks back.
    fn reach(&self, layer: usize) -> Result<Reach> {
        let (kinds, times) = ALTERNATING;
        let found = match (&self.attention_layers, &self.attention_types) {
            (Some(all), _) => all.get(layer).copied(),
            (None, Some(types)) => nth(types, layer),
            (None, None) if self.num_layers == kinds.len() * times => Some(kinds[layer % kinds.len()]),
            (None, None) => None,
        };
        match found {
            Some(reach) => Ok(reach),
            None => invalid_config(
                format!("config.json does not say whether layer {layer} attends globally or locally"),
                "write it in: attention_layers names one for each layer, \"global\" or \"local\"",
            ),
        }
    }
}

/// A layer's, where kinds in turn come so often.
fn nth(types: &[(Vec<Reach>, usize)], layer: usize) -> Option<Reach> {
    let mut before = 0usize;
    for (kinds, times) in types {
        let after = before.saturating_add(kinds.len().saturating_mul(*times));
        if layer < after {
            return Some(kinds[(layer - before) % kinds.len()]);
        }
        before = after;
    }
    None
}

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let dims = RawDims {
        layers: ("num_layers", config.num_layers),
        heads: ("num_heads", config.num_heads),
        key_value_heads: None,
        width: ("hidden_size", config.hidden_size),
        head_width: None,
        neurons: Some((
            "intermediate_size",
            config.intermediate_size.unwrap_or(config.hidden_size.saturating_mul(4)),
        )),
        vocabulary: ("vocab_size", config.vocab_size),
        context: ("max_position_embeddings", config.max_position_embeddings),
    }
    .dims()?;
    if config.window_size == 0 {
        return invalid_config(
            "config.json says window_size = 0".into(),
            "a position sees itself at least: 256 is usual",
        );
    }
    let eps = check_epsilon("layer_norm_epsilon", config.layer_norm_epsilon)?;
    let all = Scope::with_optional_prefix(weights, "transformer.", "wte.weight");
    let Dims { d_model: m, d_mlp: n, d_vocab: v, .. } = dims;
    let w_e = all.matrix("wte.weight", [v, m])?; // (V, M)
    let w_pos = Some(all.get("wpe.weight", &[dims.n_ctx, m])?); // (n_ctx, M)
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.child(&format!("h.{l}"));
        let attn = of_layer.child("attn.attention");
        let window = match config.reach(l)? {
            Reach::Global => None,
            Reach::Local => Some(config.window_size),
        };
        blocks.push(Block {
            ln1: of_layer.layer_norm("ln_1", m, eps)?,
            attn: Attention {
                n_heads: dims.n_heads,
                n_key_value_heads: dims.n_heads,
                qkv: attn.concat_linear(&[("q_proj", m), ("k_proj", m), ("v_proj", m)], m, false)?,
                output: attn.linear("out_proj", [m, m], true)?,
                scoring: ScoreSpec { scale: 1.0, window, ..ScoreSpec::plain(dims.d_head) },
            },
            cross: None,
            mlp: Some((
                of_layer.layer_norm("ln_2", m, eps)?,
                Mlp {
                    activation: config.activation_function,
                    gate: None,
                    input: of_layer.linear("mlp.c_fc", [m, n], true)?,
                    output: of_layer.linear("mlp.c_proj", [n, m], true)?,
                },
            )),
            after: None,
        });
    }
    let readout = head.of_decoder(weights, "lm_head", &w_e, config.tie_word_embeddings)?;
    let ln_final = all.layer_norm("ln_f", m, eps)?;
    Ok(Decoder {
        dims,
        block_kind: BlockKind::Serial,
        prepends_bos: true,
        w_e,
        w_pos,
        blocks,
        ln_final,
        readout,
    }
    .into())
}
