//! GPT-Neo: Black et al. 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow". GPT-2's
//! block; every other layer looks back a window only, and scores are not divided by the root of a head's width.
//!
//! Shapes at the end of lines: B batch, T positions, M width of the residual stream.

use candle_core::Tensor;
use serde::Deserialize;

use super::Dims;
use super::attention::{Attention, Scoring};
use super::config::{Sizes, epsilon, wrong};
use super::decoder::{Block, Decoder, Layer};
use super::mlp::{Activation, Mlp};
use super::ops::added;
use super::scope::{Scope, unembedding};
use super::weights::Weights;
use crate::error::Result;
use crate::hook::Site;

fn block(block: &Block, x: Tensor, layer: &mut Layer) -> Result<Tensor> {
    let pre = layer.at(Site::ResidPre, x)?; // (B, T, M)
    let attn_out = block.attention(&pre, layer)?; // (B, T, M)
    let mid = layer.at(Site::ResidMid, added(&pre, &attn_out)?)?; // (B, T, M)
    let mlp_out = block.mlp(&mid, layer)?; // (B, T, M)
    layer.at(Site::ResidPost, added(&mid, &mlp_out)?) // (B, T, M)
}

/// What a GPT-Neo's `config.json` says.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    num_layers: usize,
    num_heads: usize,
    hidden_size: usize,
    intermediate_size: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    activation_function: Activation,
    layer_norm_epsilon: f64,
    window_size: usize,
    /// One for each layer; older files have `attention_types` only.
    #[serde(default)]
    attention_layers: Vec<Reach>,
    /// Kinds in turn, and how often.
    #[serde(default)]
    attention_types: Vec<(Vec<Reach>, usize)>,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reach {
    Global,
    Local,
}

fn yes() -> bool {
    true
}

impl Config {
    /// How far a layer looks back.
    fn reach(&self, layer: usize) -> Result<Reach> {
        if let Some(reach) = self.attention_layers.get(layer) {
            return Ok(*reach);
        }
        let mut before = 0usize;
        for (kinds, times) in &self.attention_types {
            let after = before.saturating_add(kinds.len().saturating_mul(*times));
            if layer < after {
                return Ok(kinds[(layer - before) % kinds.len()]);
            }
            before = after;
        }
        wrong(
            format!("config.json does not say whether layer {layer} attends globally or locally"),
            "attention_layers names one for each layer, \"global\" or \"local\"",
        )
    }
}

pub(super) fn load(config: &Config, weights: &Weights) -> Result<Decoder> {
    let dims = Sizes {
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
        return wrong(
            "config.json says window_size = 0".into(),
            "a position sees itself at least: 256 is usual",
        );
    }
    let eps = epsilon("layer_norm_epsilon", config.layer_norm_epsilon)?;
    let all = Scope::perhaps(weights, "transformer.", "wte.weight");
    let Dims { d_model: m, d_mlp: n, d_vocab: v, .. } = dims;
    let w_e = all.get("wte.weight", &[v, m])?; // (V, M)
    let w_pos = Some(all.get("wpe.weight", &[dims.n_ctx, m])?); // (n_ctx, M)
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.within(&format!("h.{l}"));
        let attn = of_layer.within("attn.attention");
        let window = match config.reach(l)? {
            Reach::Global => None,
            Reach::Local => Some(config.window_size),
        };
        blocks.push(Block {
            ln1: of_layer.layer_norm("ln_1", m, eps)?,
            attn: Attention {
                n_heads: dims.n_heads,
                n_key_value_heads: dims.n_heads,
                qkv: attn.joined(&[("q_proj", m), ("k_proj", m), ("v_proj", m)], m, false)?,
                output: attn.linear("out_proj", [m, m], true)?,
                scoring: Scoring { scale: 1.0, window, ..Scoring::plain(dims.d_head) },
            },
            mlp: Some((
                of_layer.layer_norm("ln_2", m, eps)?,
                Mlp {
                    activation: config.activation_function,
                    gate: None,
                    input: of_layer.linear("mlp.c_fc", [m, n], true)?,
                    output: of_layer.linear("mlp.c_proj", [n, m], true)?,
                },
            )),
        });
    }
    let unembed = unembedding(weights, "lm_head", &w_e, config.tie_word_embeddings)?;
    let ln_final = all.layer_norm("ln_f", m, eps)?;
    Ok(Decoder { dims, parallel: false, prepends_bos: true, w_e, w_pos, blocks, block, ln_final, unembed })
}
