//! GPT-NeoX: Black et al. 2022, "GPT-NeoX-20B: An Open-Source Autoregressive Language Model", and Pythia (Biderman et al.
//! 2023). Attention and MLP read the same stream, each through a norm of its own, and are added to it together (section
//! 2.1); rotary positions turn a part of each head (section 2.1.1).
//!
//! Shapes at the end of lines: M width of the residual stream, V vocabulary.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::HeadFile;
use crate::network::config::{RawDims, check_epsilon, check_rotary_dims};
use crate::network::dims::Dims;
use crate::network::network::{Decoder, Network};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::parts::rotary::{Pairs, Parameters, Rotary};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::Scope;

/// What a GPT-NeoX's `config.json` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Activation,
    max_position_embeddings: usize,
    layer_norm_eps: f64,
    tie_word_embeddings: bool,
    use_parallel_residual: bool,
    rope_parameters: Option<Parameters>,
    rope_scaling: Option<Parameters>,
    rotary_pct: Option<f64>,
    rotary_emb_base: Option<f64>,
    attention_bias: bool,
}

impl Default for Config {
    /// `GPTNeoXConfig`'s.
    fn default() -> Config {
        Config {
            vocab_size: 50432,
            hidden_size: 6144,
            num_hidden_layers: 44,
            num_attention_heads: 64,
            intermediate_size: 24576,
            hidden_act: Activation::GeluErf,
            max_position_embeddings: 2048,
            layer_norm_eps: 1e-5,
            tie_word_embeddings: false,
            use_parallel_residual: true,
            rope_parameters: None,
            rope_scaling: None,
            rotary_pct: Some(0.25),
            rotary_emb_base: Some(10_000.0),
            attention_bias: true,
        }
    }
}

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let dims = RawDims {
        layers: ("num_hidden_layers", config.num_hidden_layers),
        heads: ("num_attention_heads", config.num_attention_heads),
        key_value_heads: None,
        width: ("hidden_size", config.hidden_size),
        head_width: None,
        neurons: Some(("intermediate_size", config.intermediate_size)),
        vocabulary: ("vocab_size", config.vocab_size),
        context: ("max_position_embeddings", config.max_position_embeddings),
    }
    .dims()?;
    let eps = check_epsilon("layer_norm_eps", config.layer_norm_eps)?;
    let Dims { d_model: m, d_mlp: n, d_vocab: v, n_heads, d_head, .. } = dims;
    let all = Scope::with_optional_prefix(weights, "gpt_neox.", "embed_in.weight");
    let w_e = all.matrix("embed_in.weight", [v, m])?; // (V, M)
    let rope = Parameters::of(&config.rope_scaling, &config.rope_parameters);
    let (base, scaling) = rope.read(config.rotary_emb_base, dims.n_ctx)?;
    let part = rope.partial_rotary_factor.or(config.rotary_pct).unwrap_or(0.25);
    let width = check_rotary_dims(
        format!("the config has rotary_pct = {part}"),
        (part * d_head as f64) as usize,
        d_head,
    )?;
    let rotary = Rotary::new(width, base, Pairs::Halves, scaling);
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.child(&format!("layers.{l}"));
        let qkv = of_layer.linear("attention.query_key_value", [m, 3 * m], config.attention_bias)?;
        blocks.push(Block {
            ln1: of_layer.layer_norm("input_layernorm", m, eps)?,
            attn: Attention {
                n_heads,
                n_key_value_heads: n_heads,
                qkv: parts_apart(&qkv, n_heads, d_head)?,
                output: of_layer.linear("attention.dense", [m, m], config.attention_bias)?,
                scoring: ScoreSpec { rotary: Some(rotary.clone()), ..ScoreSpec::plain(d_head) },
            },
            cross: None,
            mlp: Some((
                of_layer.layer_norm("post_attention_layernorm", m, eps)?,
                Mlp {
                    activation: config.hidden_act,
                    gate: None,
                    input: of_layer.linear("mlp.dense_h_to_4h", [m, n], true)?,
                    output: of_layer.linear("mlp.dense_4h_to_h", [n, m], true)?,
                },
            )),
            after: None,
        });
    }
    // Renamed in transformers 5.14.
    let name = if weights.has("lm_head.weight") { "lm_head" } else { "embed_out" };
    let readout = head.of_decoder(weights, name, &w_e, config.tie_word_embeddings)?;
    let ln_final = all.layer_norm("final_layer_norm", m, eps)?;
    let block_kind = if config.use_parallel_residual { BlockKind::Parallel } else { BlockKind::Serial };
    Ok(Decoder { dims, block_kind, prepends_bos: false, w_e, w_pos: None, blocks, ln_final, readout }.into())
}

/// The file has each head's query, key and value together; here all queries come first, then all keys and values.
fn parts_apart(qkv: &Linear, n_heads: usize, d_head: usize) -> Result<Linear> {
    let place = |row: usize| {
        let (part, head, within) = (row / (n_heads * d_head), row / d_head % n_heads, row % d_head);
        ((head * 3 + part) * d_head + within) as u32
    };
    let order: Vec<u32> = (0..3 * n_heads * d_head).map(place).collect();
    let apart = |bias: &Tensor| bias.index_select(&Tensor::new(order.as_slice(), bias.device())?, 0);
    let bias = qkv.bias.as_ref().map(apart).transpose()?;
    Ok(Linear { weight: qkv.weight.t()?.select_rows(&order)?.t()?, bias })
}
