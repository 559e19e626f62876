//! Llama: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models" (section 2.2): norms without centring,
//! gated MLPs, rotary positions; with query heads that share keys and values (Ainslie et al. 2023, "GQA") from Llama 2 on,
//! and slowed rotary positions from Llama 3.1 on (Grattafiori et al. 2024). SmolLM2 is of this architecture too; Mistral and
//! Qwen differ in what [`Variant`] says.
//!
//! Shapes at the end of lines: M width of the residual stream, V vocabulary.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::HeadFile;
use crate::network::config::{RawDims, check_epsilon, check_rotary_dims, reject_if};
use crate::network::dims::Dims;
use crate::network::network::{Decoder, Network};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::parts::rotary::{Pairs, Parameters, Rotary};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::Scope;

/// What the `config.json` of a Llama, or of what is built like one, says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    /// Null is as many as there are attention heads.
    pub(crate) num_key_value_heads: Option<usize>,
    pub(crate) hidden_act: Activation,
    pub(crate) max_position_embeddings: usize,
    pub(crate) rms_norm_eps: f64,
    pub(crate) tie_word_embeddings: bool,
    pub(crate) rope_parameters: Option<Parameters>,
    pub(crate) rope_scaling: Option<Parameters>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) attention_bias: bool,
    pub(crate) mlp_bias: bool,
    /// Null is the width of the stream, shared by the heads.
    pub(crate) head_dim: Option<usize>,
}

impl Default for Config {
    /// `LlamaConfig`'s.
    fn default() -> Config {
        Config {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_parameters: None,
            rope_scaling: None,
            rope_theta: None,
            attention_bias: false,
            mlp_bias: false,
            head_dim: None,
        }
    }
}

/// Where architectures that are built like Llama differ from it.
pub(crate) struct Variant<'a> {
    /// Whether queries, keys and values have biases.
    pub(crate) qkv_bias: bool,
    /// Whether what attention adds to the stream has one.
    pub(crate) output_bias: bool,
    /// Whether each head's queries and keys are normed.
    pub(crate) head_norms: bool,
    /// How far a layer looks back, where not all the way.
    pub(crate) window: &'a dyn Fn(usize) -> Option<usize>,
    pub(crate) prepends_bos: bool,
}

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let variant = Variant {
        qkv_bias: config.attention_bias,
        output_bias: config.attention_bias,
        head_norms: false,
        window: &|_| None,
        prepends_bos: true,
    };
    build(config, head, &variant, weights)
}

pub(crate) fn build(
    config: &Config,
    head: &HeadFile,
    variant: &Variant,
    weights: &Weights,
) -> Result<Network> {
    let dims = RawDims {
        layers: ("num_hidden_layers", config.num_hidden_layers),
        heads: ("num_attention_heads", config.num_attention_heads),
        key_value_heads: config.num_key_value_heads.map(|heads| ("num_key_value_heads", heads)),
        width: ("hidden_size", config.hidden_size),
        head_width: config.head_dim.map(|width| ("head_dim", width)),
        neurons: Some(("intermediate_size", config.intermediate_size)),
        vocabulary: ("vocab_size", config.vocab_size),
        context: ("max_position_embeddings", config.max_position_embeddings),
    }
    .dims()?;
    reject_if(config.mlp_bias, "mlp_bias = true", "gated MLPs with biases are not known")?;
    let eps = check_epsilon("rms_norm_eps", config.rms_norm_eps)?;
    let Dims { n_heads, n_key_value_heads, d_head, d_model: m, d_mlp: n, d_vocab: v, .. } = dims;
    let all = Scope::with_optional_prefix(weights, "model.", "embed_tokens.weight");
    let w_e = all.matrix("embed_tokens.weight", [v, m])?; // (V, M)
    let (queries, shared) = (n_heads * d_head, n_key_value_heads * d_head);
    let rope = Parameters::of(&config.rope_scaling, &config.rope_parameters);
    let (base, scaling) = rope.read(config.rope_theta, dims.n_ctx)?;
    let width = check_rotary_dims(format!("heads are {d_head} wide"), d_head, d_head)?;
    let rotary = Rotary::new(width, base, Pairs::Halves, scaling);
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.child(&format!("layers.{l}"));
        let (attn, mlp) = (of_layer.child("self_attn"), of_layer.child("mlp"));
        let norms = match variant.head_norms {
            true => Some((attn.rms_norm("q_norm", d_head, eps)?, attn.rms_norm("k_norm", d_head, eps)?)),
            false => None,
        };
        let parts = [("q_proj", queries), ("k_proj", shared), ("v_proj", shared)];
        blocks.push(Block {
            ln1: of_layer.rms_norm("input_layernorm", m, eps)?,
            attn: Attention {
                n_heads,
                n_key_value_heads,
                qkv: attn.concat_linear(&parts, m, variant.qkv_bias)?,
                output: attn.linear("o_proj", [queries, m], variant.output_bias)?,
                scoring: ScoreSpec {
                    window: (variant.window)(l),
                    rotary: Some(rotary.clone()),
                    norms,
                    ..ScoreSpec::plain(d_head)
                },
            },
            cross: None,
            mlp: Some((
                of_layer.rms_norm("post_attention_layernorm", m, eps)?,
                Mlp {
                    activation: config.hidden_act,
                    gate: Some(mlp.linear("gate_proj", [m, n], false)?),
                    input: mlp.linear("up_proj", [m, n], false)?,
                    output: mlp.linear("down_proj", [n, m], false)?,
                },
            )),
            after: None,
        });
    }
    let readout = head.of_decoder(weights, "lm_head", &w_e, config.tie_word_embeddings)?;
    let ln_final = all.rms_norm("norm", m, eps)?;
    let prepends_bos = variant.prepends_bos;
    Ok(Decoder {
        dims,
        block_kind: BlockKind::Serial,
        prepends_bos,
        w_e,
        w_pos: None,
        blocks,
        ln_final,
        readout,
    }
    .into())
}
