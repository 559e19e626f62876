//! DistilBERT: Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter": BERT's block under
//! names of its own, without token types and without a pooler (section 3).
//!
//! Shapes at the end of lines: M width of the residual stream, V vocabulary.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::{HeadFile, HeadNames, HeadParts};
use crate::network::config::RawDims;
use crate::network::dims::Dims;
use crate::network::network::{Encoder, Network};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::Block;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::Scope;

/// What a DistilBERT's `config.json` says, under Hugging Face's names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    vocab_size: usize,
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    activation: Activation,
    max_position_embeddings: usize,
    tie_word_embeddings: bool,
}

impl Default for Config {
    /// `DistilBertConfig`'s.
    fn default() -> Config {
        Config {
            vocab_size: 30522,
            dim: 768,
            n_layers: 6,
            n_heads: 12,
            hidden_dim: 3072,
            activation: Activation::GeluErf,
            max_position_embeddings: 512,
            tie_word_embeddings: true,
        }
    }
}

pub(crate) const NAMES: [(&str, &str); 3] =
    [("hidden_size", "dim"), ("num_hidden_layers", "n_layers"), ("num_attention_heads", "n_heads")];

const HEADS: HeadNames = HeadNames {
    masked: ["vocab_transform", "vocab_layer_norm", "vocab_projector"],
    unembedding_bias: &["vocab_projector.bias"],
    next_sentence: None,
    before_classes: ("pre_classifier", Activation::Relu),
    classes: "classifier",
};

/// transformers has it in its code.
const EPSILON: f64 = 1e-12;

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let dims = RawDims {
        layers: ("n_layers", config.n_layers),
        heads: ("n_heads", config.n_heads),
        key_value_heads: None,
        width: ("dim", config.dim),
        head_width: None,
        neurons: Some(("hidden_dim", config.hidden_dim)),
        vocabulary: ("vocab_size", config.vocab_size),
        context: ("max_position_embeddings", config.max_position_embeddings),
    }
    .dims()?;
    let Dims { d_model: m, d_mlp: n, d_vocab: v, .. } = dims;
    let all = Scope::with_optional_prefix(weights, "distilbert.", "embeddings.word_embeddings.weight");
    let embeddings = all.child("embeddings");
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.child(&format!("transformer.layer.{l}"));
        let (attn, mlp) = (of_layer.child("attention"), of_layer.child("ffn"));
        blocks.push(Block {
            ln1: of_layer.layer_norm("sa_layer_norm", m, EPSILON)?,
            attn: Attention {
                n_heads: dims.n_heads,
                n_key_value_heads: dims.n_heads,
                qkv: attn.concat_linear(&[("q_lin", m), ("k_lin", m), ("v_lin", m)], m, true)?,
                output: attn.linear("out_lin", [m, m], true)?,
                scoring: ScoreSpec::plain(dims.d_head),
            },
            cross: None,
            mlp: Some((
                of_layer.layer_norm("output_layer_norm", m, EPSILON)?,
                Mlp {
                    activation: config.activation,
                    gate: None,
                    input: mlp.linear("lin1", [m, n], true)?,
                    output: mlp.linear("lin2", [n, m], true)?,
                },
            )),
            after: None,
        });
    }
    let w_e = embeddings.matrix("word_embeddings.weight", [v, m])?; // (V, M)
    let parts = HeadParts {
        stack: &all,
        w_e: &w_e,
        activation: config.activation,
        eps: EPSILON,
        is_tied: config.tie_word_embeddings,
    };
    let readout = head.of_encoder(&HEADS, weights, &parts)?;
    let encoder = Encoder {
        dims,
        w_e,
        w_pos: embeddings.get("position_embeddings.weight", &[dims.n_ctx, m])?, // (n_ctx, M)
        token_types: None,
        ln_embed: embeddings.layer_norm("LayerNorm", m, EPSILON)?,
        blocks,
    };
    Ok(encoder.read_out_by(readout))
}
