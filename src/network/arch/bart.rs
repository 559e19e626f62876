//! BART: Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
//! Comprehension": the first transformer (Vaswani et al. 2017), with norms after the sums, GELU, positions that are learned and a norm behind
//! the embeddings. Marian differs in what [`Variant`] says.
//!
//! Shapes at the end of lines: M width of the residual stream, N neurons, V vocabulary.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Stack;
use crate::network::arch::heads::HeadFile;
use crate::network::config::{NamedSize, RawDims, reject_if};
use crate::network::dims::Dims;
use crate::network::network::{Network, StackNetwork};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::embedding::Embedding;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::parts::norm::Norm;
use crate::network::parts::sinusoids::sinusoids;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::{PositionEncoding, Reads, Sees};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::{Scope, unembedding};
use crate::network::weights::weight::Weight;

/// What the `config.json` of a BART, or of what is built like one, says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) decoder_vocab_size: Option<usize>,
    pub(crate) d_model: usize,
    pub(crate) encoder_layers: usize,
    pub(crate) decoder_layers: usize,
    pub(crate) encoder_attention_heads: usize,
    pub(crate) decoder_attention_heads: usize,
    pub(crate) encoder_ffn_dim: usize,
    pub(crate) decoder_ffn_dim: usize,
    pub(crate) activation_function: Activation,
    pub(crate) max_position_embeddings: usize,
    pub(crate) scale_embedding: bool,
    pub(crate) share_encoder_decoder_embeddings: bool,
    pub(crate) tie_word_embeddings: bool,
    pub(crate) normalize_before: bool,
    pub(crate) add_final_layer_norm: bool,
}

impl Default for Config {
    /// `BartConfig`'s.
    fn default() -> Config {
        Config {
            vocab_size: 50265,
            decoder_vocab_size: None,
            d_model: 1024,
            encoder_layers: 12,
            decoder_layers: 12,
            encoder_attention_heads: 16,
            decoder_attention_heads: 16,
            encoder_ffn_dim: 4096,
            decoder_ffn_dim: 4096,
            activation_function: Activation::GeluErf,
            max_position_embeddings: 1024,
            scale_embedding: false,
            share_encoder_decoder_embeddings: true,
            tie_word_embeddings: true,
            normalize_before: false,
            add_final_layer_norm: false,
        }
    }
}

/// Other names of entries.
pub(crate) const NAMES: [(&str, &str); 3] = [
    ("hidden_size", "d_model"),
    ("num_attention_heads", "encoder_attention_heads"),
    ("num_hidden_layers", "encoder_layers"),
];

/// Where architectures that are built like BART differ from it.
pub(crate) struct Variant {
    /// How many rows of learned position embeddings no position has; nothing where positions are sines and cosines.
    pub(crate) skipped_positions: Option<usize>,
    /// Whether a norm stands behind the embeddings.
    pub(crate) norms_embeddings: bool,
}

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    build(config, head, &Variant { skipped_positions: Some(2), norms_embeddings: true }, weights)
}

pub(crate) fn build(
    config: &Config,
    head: &HeadFile,
    variant: &Variant,
    weights: &Weights,
) -> Result<Network> {
    head.check_is_encoder_decoder()?;
    reject_if(
        config.normalize_before || config.add_final_layer_norm,
        "normalize_before or add_final_layer_norm = true",
        "norms come after the sums here, and none at the end: what has them first is another architecture",
    )?;
    let parts = Parts { config, variant, weights };
    let encoder = parts.stack(
        Stack::Encoder,
        ("encoder_layers", config.encoder_layers),
        ("encoder_attention_heads", config.encoder_attention_heads),
        ("encoder_ffn_dim", config.encoder_ffn_dim),
    )?;
    let decoder = parts.stack(
        Stack::Decoder,
        ("decoder_layers", config.decoder_layers),
        ("decoder_attention_heads", config.decoder_attention_heads),
        ("decoder_ffn_dim", config.decoder_ffn_dim),
    )?;
    let mut unembed =
        unembedding(weights, "lm_head", &parts.w_e(Stack::Decoder)?, config.tie_word_embeddings)?; // (M, V)
    if weights.has(LOGITS_BIAS) {
        let v = decoder.dims.d_vocab;
        unembed.bias = Some(weights.get(LOGITS_BIAS, &[1, v])?.flatten_all()?); // (V)
    }
    let readout = ReadoutLayer::Vocabulary { of: Stack::Decoder, head: None, unembed };
    Ok(Network::new(vec![encoder, decoder], readout, false))
}

const LOGITS_BIAS: &str = "final_logits_bias";

/// In numbers: 16,384 positions of the widest Marian.
const LARGEST_TABLE: usize = 1 << 24;

/// PyTorch's own, which no config names.
const EPSILON: f64 = 1e-5;

struct Parts<'a> {
    config: &'a Config,
    variant: &'a Variant,
    weights: &'a Weights,
}

fn scope_of<'a>(weights: &'a Weights, stack: Stack) -> Scope<'a> {
    let name = if stack == Stack::Decoder { "model.decoder" } else { "model.encoder" };
    Scope::all(weights).child(name)
}

impl Parts<'_> {
    /// The vocabulary of a stack, under the name that the config has for its size.
    fn vocabulary(&self, stack: Stack) -> NamedSize {
        match (stack, self.config.decoder_vocab_size) {
            (Stack::Decoder, Some(size)) if !self.config.share_encoder_decoder_embeddings => {
                ("decoder_vocab_size", size)
            }
            _ => ("vocab_size", self.config.vocab_size),
        }
    }

    fn w_e(&self, stack: Stack) -> Result<Weight> {
        let shape = [self.vocabulary(stack).1, self.config.d_model];
        let (own, name) = (scope_of(self.weights, stack), "embed_tokens.weight");
        match self.config.share_encoder_decoder_embeddings && !own.has(name) {
            true => self.weights.matrix("model.shared.weight", shape), // (V, M)
            false => own.matrix(name, shape),                          // (V, M)
        }
    }

    fn stack(
        &self,
        stack: Stack,
        layers: NamedSize,
        heads: NamedSize,
        neurons: NamedSize,
    ) -> Result<StackNetwork> {
        let m = self.config.d_model;
        let dims = RawDims {
            layers,
            heads,
            key_value_heads: None,
            width: ("d_model", m),
            head_width: None,
            neurons: Some(neurons),
            vocabulary: self.vocabulary(stack),
            context: ("max_position_embeddings", self.config.max_position_embeddings),
        }
        .dims()?;
        let n = dims.d_mlp;
        let is_decoder = stack == Stack::Decoder;
        let all = scope_of(self.weights, stack);
        let mut blocks = Vec::new();
        for l in 0..dims.n_layers {
            let layer = all.child(&format!("layers.{l}"));
            let norm = |name: &str| layer.layer_norm(name, m, EPSILON);
            let cross = match is_decoder {
                true => {
                    Some((norm("encoder_attn_layer_norm")?, attention(&layer.child("encoder_attn"), &dims)?))
                }
                false => None,
            };
            let mlp = Mlp {
                activation: self.config.activation_function,
                gate: None,
                input: layer.linear("fc1", [m, n], true)?,
                output: layer.linear("fc2", [n, m], true)?,
            };
            blocks.push(Block {
                ln1: norm("self_attn_layer_norm")?,
                attn: attention(&layer.child("self_attn"), &dims)?,
                cross,
                mlp: Some((norm("final_layer_norm")?, mlp)),
                after: None,
            });
        }
        let (positions, w_pos) = self.positions(&all, &dims)?;
        let ln_embed = match self.variant.norms_embeddings {
            true => all.layer_norm("layernorm_embedding", m, EPSILON)?,
            false => Norm::none(),
        };
        Ok(StackNetwork {
            stack,
            dims,
            reads: Reads::Tokens,
            sees: if is_decoder { Sees::Earlier } else { Sees::All },
            positions,
            crosses: is_decoder.then_some(Stack::Encoder),
            block_kind: BlockKind::PostNorm,
            embedding: Embedding::Tokens(self.w_e(stack)?),
            embed_scale: if self.config.scale_embedding { (m as f64).sqrt() } else { 1.0 },
            w_pos: Some(w_pos), // (n_ctx, M)
            token_types: None,
            ln_embed,
            relative_bias: None,
            blocks,
            ln_final: Norm::none(),
        })
    }

    fn positions(&self, stack: &Scope, dims: &Dims) -> Result<(PositionEncoding, Tensor)> {
        let Dims { n_ctx, d_model: m, .. } = *dims;
        let Some(skipped) = self.variant.skipped_positions else {
            // No weight vouches for the size of this table.
            if n_ctx.saturating_mul(m) > LARGEST_TABLE {
                let what = format!(
                    "max_position_embeddings is {n_ctx}, for which no table of sinusoids {m} wide is made"
                );
                return Err(Error::new(ErrorKind::Config, what)
                    .help("Marians read 512 or 1,024 pieces: is config.json damaged?"));
            }
            return Ok((PositionEncoding::Sinusoidal, sinusoids(n_ctx, m, self.weights.device())?));
        };
        let table = stack.get("embed_positions.weight", &[n_ctx + skipped, m])?;
        Ok((PositionEncoding::Learned, table.narrow(0, skipped, n_ctx)?))
    }
}

fn attention(scope: &Scope, dims: &Dims) -> Result<Attention> {
    let Dims { n_heads, d_model: m, d_head, .. } = *dims;
    Ok(Attention {
        n_heads,
        n_key_value_heads: n_heads,
        qkv: scope.concat_linear(&[("q_proj", m), ("k_proj", m), ("v_proj", m)], m, true)?,
        output: scope.linear("out_proj", [m, m], true)?,
        scoring: ScoreSpec::plain(d_head),
    })
}
