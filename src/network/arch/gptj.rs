//! GPT-J: Wang and Komatsuzaki 2021, "GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model". Attention and MLP
//! read the same stream through the same norm, and are added to it together; rotary positions turn neighbouring entries of
//! a part of each head.
//!
//! Shapes at the end of lines: M width of the residual stream, V vocabulary.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::HeadFile;
use crate::network::config::{RawDims, check_epsilon, check_rotary_dims};
use crate::network::dims::Dims;
use crate::network::network::{Decoder, Network};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::parts::rotary::{Pairs, Rotary, Scaling};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::Scope;

/// What a GPT-J's `config.json` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    /// Null is all of a head.
    rotary_dim: Option<usize>,
    n_inner: Option<usize>,
    activation_function: Activation,
    layer_norm_epsilon: f64,
    tie_word_embeddings: bool,
}

impl Default for Config {
    /// `GPTJConfig`'s.
    fn default() -> Config {
        Config {
            vocab_size: 50400,
            n_positions: 2048,
            n_embd: 4096,
            n_layer: 28,
            n_head: 16,
            rotary_dim: Some(64),
            n_inner: None,
            activation_function: Activation::GeluTanh,
            layer_norm_epsilon: 1e-5,
            tie_word_embeddings: false,
        }
    }
}

pub(crate) const NAMES: [(&str, &str); 4] = [
    ("max_position_embeddings", "n_positions"),
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
];

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let dims = RawDims {
        layers: ("n_layer", config.n_layer),
        heads: ("n_head", config.n_head),
        key_value_heads: None,
        width: ("n_embd", config.n_embd),
        head_width: None,
        neurons: Some(("n_inner", config.n_inner.unwrap_or(config.n_embd.saturating_mul(4)))),
        vocabulary: ("vocab_size", config.vocab_size),
        context: ("n_positions", config.n_positions),
    }
    .dims()?;
    let eps = check_epsilon("layer_norm_epsilon", config.layer_norm_epsilon)?;
    let Dims { d_model: m, d_mlp: n, d_vocab: v, n_heads, d_head, .. } = dims;
    let all = Scope::with_optional_prefix(weights, "transformer.", "wte.weight");
    let w_e = all.matrix("wte.weight", [v, m])?; // (V, M)
    let width = config.rotary_dim.unwrap_or(d_head);
    let width = check_rotary_dims(format!("the config has rotary_dim = {width}"), width, d_head)?;
    let rotary = Rotary::new(width, 10_000.0, Pairs::Adjacent, Scaling::None);
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.child(&format!("h.{l}"));
        let attn = of_layer.child("attn");
        let norm = of_layer.layer_norm("ln_1", m, eps)?;
        let mlp = Mlp {
            activation: config.activation_function,
            gate: None,
            input: of_layer.linear("mlp.fc_in", [m, n], true)?,
            output: of_layer.linear("mlp.fc_out", [n, m], true)?,
        };
        blocks.push(Block {
            ln1: norm.clone(),
            attn: Attention {
                n_heads,
                n_key_value_heads: n_heads,
                qkv: attn.concat_linear(&[("q_proj", m), ("k_proj", m), ("v_proj", m)], m, false)?,
                output: attn.linear("out_proj", [m, m], false)?,
                scoring: ScoreSpec { rotary: Some(rotary.clone()), ..ScoreSpec::plain(d_head) },
            },
            cross: None,
            // The MLP's norm is attention's, under a name of its own, as in TransformerLens.
            mlp: Some((norm, mlp)),
            after: None,
        });
    }
    let readout = head.of_decoder(weights, "lm_head", &w_e, config.tie_word_embeddings)?;
    let ln_final = all.layer_norm("ln_f", m, eps)?;
    Ok(Decoder {
        dims,
        block_kind: BlockKind::Parallel,
        prepends_bos: true,
        w_e,
        w_pos: None,
        blocks,
        ln_final,
        readout,
    }
    .into())
}
