//! T5: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer". Version 1.1 and Flan
//! have gated MLPs (Shazeer 2020) and an unembedding of their own; mT5 (Xue et al. 2021) is built like them.
//!
//! Shapes at the end of lines: M width of the residual stream, N neurons, H heads, D width of a head, V vocabulary.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::hook::Stack;
use crate::network::arch::heads::HeadFile;
use crate::network::config::{NamedSize, RawDims, check_epsilon, invalid_config};
use crate::network::dims::Dims;
use crate::network::network::{Network, StackNetwork};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::embedding::Embedding;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::parts::norm::Norm;
use crate::network::parts::relative_bias::RelativeBias;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::{PositionEncoding, Reads, Sees};
use crate::network::weights::file::Weights;
use crate::network::weights::scope::{Scope, unembedding};
use crate::network::weights::weight::Weight;

/// What the `config.json` of a T5 says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_decoder_layers: Option<usize>,
    num_heads: usize,
    relative_attention_num_buckets: usize,
    relative_attention_max_distance: usize,
    layer_norm_epsilon: f64,
    feed_forward_proj: String,
    n_positions: Option<usize>,
    /// Whether logits are scaled, where nothing else says so: as transformers reads it, for the embedding is the unembedding wherever the
    /// file has none.
    tie_word_embeddings: Option<bool>,
    /// The same since transformers 5, which writes that all embeddings are tied.
    scale_decoder_outputs: Option<bool>,
}

impl Default for Config {
    /// `T5Config`'s.
    fn default() -> Config {
        Config {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".into(),
            n_positions: None,
            tie_word_embeddings: None,
            scale_decoder_outputs: None,
        }
    }
}

/// `MT5Config`'s defaults, which are `T5Config`'s but for these.
pub(crate) fn mt5() -> Config {
    let feed_forward_proj = "gated-gelu".into();
    Config {
        vocab_size: 250112,
        d_ff: 1024,
        num_layers: 8,
        num_heads: 6,
        feed_forward_proj,
        ..Config::default()
    }
}

/// Other names of entries.
pub(crate) const NAMES: [(&str, &str); 4] = [
    ("hidden_size", "d_model"),
    ("num_attention_heads", "num_heads"),
    ("num_hidden_layers", "num_layers"),
    ("head_dim", "d_kv"),
];

/// Distances count and no position is embedded: the longest text is that of the training, where nothing else is said.
const TRAINED_CONTEXT: usize = 512;

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let scales = config.scale_decoder_outputs.unwrap_or(config.tie_word_embeddings != Some(false));
    build(config, head, scales, weights)
}

pub(crate) fn load_mt5(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    build(config, head, false, weights)
}

fn build(config: &Config, head: &HeadFile, scales: bool, weights: &Weights) -> Result<Network> {
    head.check_is_encoder_decoder()?;
    let parts =
        Parts { config, eps: check_epsilon("layer_norm_epsilon", config.layer_norm_epsilon)?, weights };
    let decoder_layers = match config.num_decoder_layers {
        Some(layers) => ("num_decoder_layers", layers),
        None => ("num_layers", config.num_layers),
    };
    let encoder = parts.stack(Stack::Encoder, ("num_layers", config.num_layers))?;
    let mut decoder = parts.stack(Stack::Decoder, decoder_layers)?;
    if scales && let Some(gain) = &decoder.ln_final.gain {
        // What the last norm leaves is divided by the root of the width before it meets the unembedding (the paper's own code; transformers).
        decoder.ln_final.gain = Some((gain / (config.d_model as f64).sqrt())?); // (M)
    }
    let unembed = unembedding(weights, "lm_head", &parts.w_e("decoder")?, true)?; // (M, V)
    let readout = ReadoutLayer::Vocabulary { of: Stack::Decoder, head: None, unembed };
    Ok(Network::new(vec![encoder, decoder], readout, false))
}

struct Parts<'a> {
    config: &'a Config,
    eps: f64,
    weights: &'a Weights,
}

impl Parts<'_> {
    /// One matrix for both stacks, under one of the names that files have for it.
    fn w_e(&self, of: &str) -> Result<Weight> {
        let own = format!("{of}.embed_tokens.weight");
        let name = if self.weights.has(&own) && !self.weights.has(SHARED) { own.as_str() } else { SHARED };
        self.weights.matrix(name, [self.config.vocab_size, self.config.d_model]) // (V, M)
    }

    fn stack(&self, stack: Stack, layers: NamedSize) -> Result<StackNetwork> {
        let Config { d_model: m, d_ff: n, .. } = *self.config;
        let dims = RawDims {
            layers,
            heads: ("num_heads", self.config.num_heads),
            key_value_heads: None,
            width: ("d_model", m),
            head_width: Some(("d_kv", self.config.d_kv)),
            neurons: Some(("d_ff", n)),
            vocabulary: ("vocab_size", self.config.vocab_size),
            context: ("n_positions", self.config.n_positions.unwrap_or(TRAINED_CONTEXT)),
        }
        .dims()?;
        let is_decoder = stack == Stack::Decoder;
        let name = if is_decoder { "decoder" } else { "encoder" };
        let all = Scope::all(self.weights).child(name);
        let mut blocks = Vec::new();
        for l in 0..dims.n_layers {
            let block = all.child(&format!("block.{l}.layer"));
            let norm = |part: usize| block.rms_norm(&format!("{part}.layer_norm"), m, self.eps);
            let cross = match is_decoder {
                true => Some((norm(1)?, self.attention(&block.child("1.EncDecAttention"), &dims)?)),
                false => None,
            };
            let last = if is_decoder { 2 } else { 1 };
            let mlp = self.mlp(&block.child(&format!("{last}.DenseReluDense")), &dims)?;
            blocks.push(Block {
                ln1: norm(0)?,
                attn: self.attention(&block.child("0.SelfAttention"), &dims)?,
                cross,
                mlp: Some((norm(last)?, mlp)),
                after: None,
            });
        }
        Ok(StackNetwork {
            stack,
            dims,
            reads: Reads::Tokens,
            sees: if is_decoder { Sees::Earlier } else { Sees::All },
            positions: PositionEncoding::RelativeBias,
            crosses: is_decoder.then_some(Stack::Encoder),
            block_kind: BlockKind::Serial,
            embedding: Embedding::Tokens(self.w_e(name)?),
            embed_scale: 1.0,
            w_pos: None,
            token_types: None,
            ln_embed: Norm::none(),
            relative_bias: Some(self.relative_bias(&all, &dims)?),
            blocks,
            ln_final: all.rms_norm("final_layer_norm", m, self.eps)?,
        })
    }

    /// That of the first layer, which all share.
    fn relative_bias(&self, stack: &Scope, dims: &Dims) -> Result<RelativeBias> {
        let (buckets, furthest) =
            (self.config.relative_attention_num_buckets, self.config.relative_attention_max_distance);
        // Half of them for either side, and half of those for single distances.
        if buckets < 4 || furthest <= buckets / 2 {
            return invalid_config(
                format!(
                    "config.json says relative_attention_num_buckets = {buckets} and relative_attention_max_distance = {furthest}"
                ),
                "T5 has 32 buckets up to a distance of 128: there are 4 buckets at least, and distances beyond those that have one each",
            );
        }
        let name = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        Ok(RelativeBias { table: stack.get(name, &[buckets, dims.n_heads])?, furthest }) // (buckets, H)
    }

    fn attention(&self, scope: &Scope, dims: &Dims) -> Result<Attention> {
        let Dims { n_heads, d_model: m, d_head, .. } = *dims;
        let width = n_heads * d_head;
        Ok(Attention {
            n_heads,
            n_key_value_heads: n_heads,
            qkv: scope.concat_linear(&[("q", width), ("k", width), ("v", width)], m, false)?,
            output: scope.linear("o", [width, m], false)?,
            // Products are not scaled: the initial weights make up for it (the paper's own code).
            scoring: ScoreSpec { scale: 1.0, ..ScoreSpec::plain(d_head) },
        })
    }

    fn mlp(&self, scope: &Scope, dims: &Dims) -> Result<Mlp> {
        let Dims { d_model: m, d_mlp: n, .. } = *dims;
        let (activation, is_gated) = self.nonlinearity()?;
        let (gate, input) = match is_gated {
            true => (Some(scope.linear("wi_0", [m, n], false)?), scope.linear("wi_1", [m, n], false)?),
            false => (None, scope.linear("wi", [m, n], false)?),
        };
        Ok(Mlp { activation, gate, input, output: scope.linear("wo", [n, m], false)? })
    }

    /// What `feed_forward_proj` says: an activation, with `gated-` before it where it gates.
    fn nonlinearity(&self) -> Result<(Activation, bool)> {
        let said = self.config.feed_forward_proj.as_str();
        let (name, is_gated) = match said.strip_prefix("gated-") {
            // transformers has the approximation for this one.
            Some("gelu") => ("gelu_new", true),
            Some(name) => (name, true),
            None => (said, false),
        };
        match serde_json::from_value(name.into()) {
            Ok(activation) => Ok((activation, is_gated)),
            Err(_) => invalid_config(
                format!("config.json says feed_forward_proj = {said:?}"),
                "it is \"relu\" in T5, and \"gated-gelu\" in version 1.1, Flan and mT5",
            ),
        }
    }
}

/// The embedding, of both stacks.
const SHARED: &str = "shared.weight";
