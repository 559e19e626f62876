//! GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the block is that of
//! Vaswani et al. 2017 with the norms moved to the inputs of attention and MLP. Cerebras-GPT (Dey et al. 2023) and
//! DistilGPT2 are of this architecture too.
//!
//! Shapes at the end of lines: M width of the residual stream, V vocabulary.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::HeadFile;
use crate::network::config::{RawDims, check_epsilon, reject_if};
use crate::network::dims::Dims;
use crate::network::network::{Decoder, Network};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::Scope;

/// What a GPT-2's `config.json` says, under Hugging Face's names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: Activation,
    layer_norm_epsilon: f64,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    add_cross_attention: bool,
    tie_word_embeddings: bool,
}

impl Default for Config {
    /// `GPT2Config`'s.
    fn default() -> Config {
        Config {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluTanh,
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            tie_word_embeddings: true,
        }
    }
}

/// Published GPT-2s give the context twice; transformers reads the second.
pub(crate) const NAMES: [(&str, &str); 6] = [
    ("n_ctx", "n_positions"),
    ("n_positions", "n_positions"),
    ("max_position_embeddings", "n_positions"),
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
];

impl Config {
    fn dims(&self) -> Result<Dims> {
        reject_if(
            self.add_cross_attention,
            "add_cross_attention = true",
            "only decoders that stand alone can be run: set it to false if the weights have none",
        )?;
        RawDims {
            layers: ("n_layer", self.n_layer),
            heads: ("n_head", self.n_head),
            key_value_heads: None,
            width: ("n_embd", self.n_embd),
            head_width: None,
            neurons: Some(("n_inner", self.n_inner.unwrap_or(self.n_embd.saturating_mul(4)))),
            vocabulary: ("vocab_size", self.vocab_size),
            context: ("n_positions", self.n_positions),
        }
        .dims()
    }
}

/// Builds the network from weights under Hugging Face's names, with or without `transformer.` before them. Mask buffers
/// (`attn.bias`, `attn.masked_bias`) are not looked at. Without an `lm_head.weight` the unembedding is the embedding's
/// transpose, unless the config says that they are not tied.
pub fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let dims = config.dims()?;
    let eps = check_epsilon("layer_norm_epsilon", config.layer_norm_epsilon)?;
    let all = Scope::with_optional_prefix(weights, "transformer.", "wte.weight");
    let Dims { d_model: m, d_mlp: n, d_vocab: v, .. } = dims;
    // As [in, out], unlike PyTorch's own linear maps.
    let linear = |scope: &Scope, name: &str, [from, to]: [usize; 2]| -> Result<Linear> {
        let weight = scope.matrix(&format!("{name}.weight"), [from, to])?;
        Ok(Linear { weight, bias: Some(scope.get(&format!("{name}.bias"), &[to])?) })
    };
    let w_e = all.matrix("wte.weight", [v, m])?; // (V, M)
    let w_pos = Some(all.get("wpe.weight", &[dims.n_ctx, m])?); // (n_ctx, M)
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.child(&format!("h.{l}"));
        let mut scale = if config.scale_attn_weights { 1.0 / (dims.d_head as f64).sqrt() } else { 1.0 };
        if config.scale_attn_by_inverse_layer_idx {
            scale /= (l + 1) as f64;
        }
        blocks.push(Block {
            ln1: of_layer.layer_norm("ln_1", m, eps)?,
            attn: Attention {
                n_heads: dims.n_heads,
                n_key_value_heads: dims.n_heads,
                qkv: linear(&of_layer, "attn.c_attn", [m, 3 * m])?,
                output: linear(&of_layer, "attn.c_proj", [m, m])?,
                scoring: ScoreSpec { scale, ..ScoreSpec::plain(dims.d_head) },
            },
            cross: None,
            mlp: Some((
                of_layer.layer_norm("ln_2", m, eps)?,
                Mlp {
                    activation: config.activation_function,
                    gate: None,
                    input: linear(&of_layer, "mlp.c_fc", [m, n])?,
                    output: linear(&of_layer, "mlp.c_proj", [n, m])?,
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
