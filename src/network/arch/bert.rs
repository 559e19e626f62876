//! BERT: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"; the block is that of
//! Vaswani et al. 2017, with norms after the sums. MiniLM (Wang et al. 2020) is of this architecture too; RoBERTa differs in what
//! [`Variant`] says.
//!
//! Shapes at the end of lines: M width of the residual stream, V vocabulary.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::{HeadFile, HeadNames, HeadParts, POOLER};
use crate::network::config::{RawDims, check_epsilon, invalid_config, reject_if};
use crate::network::dims::Dims;
use crate::network::network::{Encoder, Network};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::Block;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::Scope;

/// What the `config.json` of a BERT, or of what is built like one, says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) hidden_act: Activation,
    pub(crate) max_position_embeddings: usize,
    pub(crate) type_vocab_size: usize,
    pub(crate) layer_norm_eps: f64,
    pub(crate) pad_token_id: Option<usize>,
    pub(crate) tie_word_embeddings: bool,
    pub(crate) position_embedding_type: Option<String>,
    pub(crate) is_decoder: bool,
    pub(crate) add_cross_attention: bool,
}

impl Default for Config {
    /// `BertConfig`'s.
    fn default() -> Config {
        Config {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::GeluErf,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            tie_word_embeddings: true,
            position_embedding_type: None,
            is_decoder: false,
            add_cross_attention: false,
        }
    }
}

/// Where architectures that are built like BERT differ from it.
pub(crate) struct Variant {
    /// What stands before the names of the stack's weights, in most files.
    pub(crate) prefix: &'static str,
    /// How many rows of the position embeddings no position has.
    pub(crate) skipped_positions: usize,
    pub(crate) heads: HeadNames,
    /// In the head for masked tokens.
    pub(crate) activation: Activation,
}

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let heads = HeadNames {
        masked: [
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
        ],
        unembedding_bias: &["cls.predictions.bias", "cls.predictions.decoder.bias"],
        next_sentence: Some("cls.seq_relationship"),
        before_classes: (POOLER, Activation::Tanh),
        classes: "classifier",
    };
    build(
        config,
        head,
        &Variant { prefix: "bert.", skipped_positions: 0, heads, activation: config.hidden_act },
        weights,
    )
}

pub(crate) fn build(
    config: &Config,
    head: &HeadFile,
    variant: &Variant,
    weights: &Weights,
) -> Result<Network> {
    reject_if(
        config.is_decoder || config.add_cross_attention,
        "is_decoder or add_cross_attention = true",
        "only encoders that stand alone can be run: set both to false if the weights are of one",
    )?;
    if let Some(kind) = config.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
        let what = format!("config.json says position_embedding_type = {kind}");
        return invalid_config(what, "positions are embedded here, as \"absolute\" has it");
    }
    let Some(context) = config.max_position_embeddings.checked_sub(variant.skipped_positions) else {
        return invalid_config(
            format!(
                "config.json says max_position_embeddings = {}, of which the first {} are no position's",
                config.max_position_embeddings, variant.skipped_positions
            ),
            "positions begin behind pad_token_id: are both right?",
        );
    };
    let dims = RawDims {
        layers: ("num_hidden_layers", config.num_hidden_layers),
        heads: ("num_attention_heads", config.num_attention_heads),
        key_value_heads: None,
        width: ("hidden_size", config.hidden_size),
        head_width: None,
        neurons: Some(("intermediate_size", config.intermediate_size)),
        vocabulary: ("vocab_size", config.vocab_size),
        context: ("max_position_embeddings, less those that no position has,", context),
    }
    .dims()?;
    let eps = check_epsilon("layer_norm_eps", config.layer_norm_eps)?;
    let Dims { d_model: m, d_mlp: n, d_vocab: v, .. } = dims;
    let all = Scope::with_optional_prefix(weights, variant.prefix, "embeddings.word_embeddings.weight");
    let embeddings = all.child("embeddings");
    let positions = embeddings.get("position_embeddings.weight", &[config.max_position_embeddings, m])?;
    let types = match config.type_vocab_size {
        0 => None,
        types => Some(embeddings.get("token_type_embeddings.weight", &[types, m])?), // (types, M)
    };
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.child(&format!("encoder.layer.{l}"));
        let (attn, after) = (of_layer.child("attention.self"), of_layer.child("attention.output"));
        let (middle, last) = (of_layer.child("intermediate"), of_layer.child("output"));
        blocks.push(Block {
            ln1: after.layer_norm("LayerNorm", m, eps)?,
            attn: Attention {
                n_heads: dims.n_heads,
                n_key_value_heads: dims.n_heads,
                qkv: attn.concat_linear(&[("query", m), ("key", m), ("value", m)], m, true)?,
                output: after.linear("dense", [m, m], true)?,
                scoring: ScoreSpec::plain(dims.d_head),
            },
            cross: None,
            mlp: Some((
                last.layer_norm("LayerNorm", m, eps)?,
                Mlp {
                    activation: config.hidden_act,
                    gate: None,
                    input: middle.linear("dense", [m, n], true)?,
                    output: last.linear("dense", [n, m], true)?,
                },
            )),
            after: None,
        });
    }
    let w_e = embeddings.matrix("word_embeddings.weight", [v, m])?; // (V, M)
    let parts = HeadParts {
        stack: &all,
        w_e: &w_e,
        activation: variant.activation,
        eps,
        is_tied: config.tie_word_embeddings,
    };
    let readout = head.of_encoder(&variant.heads, weights, &parts)?;
    let encoder = Encoder {
        dims,
        w_e,
        w_pos: positions.narrow(0, variant.skipped_positions, context)?, // (n_ctx, M)
        token_types: types,
        ln_embed: embeddings.layer_norm("LayerNorm", m, eps)?,
        blocks,
    };
    Ok(encoder.read_out_by(readout))
}
