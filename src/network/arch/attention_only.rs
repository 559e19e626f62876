//! Models of attention alone: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (sections "Zero-" to
//! "Two-Layer Attention-Only Transformers"), as TransformerLens's toy models are, with norms or without.
//!
//! A folder holds TransformerLens's own config, with `"model_type": "attn-only"`, and weights under TransformerLens's names.
//!
//! Shapes at the end of lines: H heads, D width of a head, M width of the residual stream, V vocabulary.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::hook::Stack;
use crate::network::config::{RawDims, check_epsilon, reject_if, required};
use crate::network::dims::Dims;
use crate::network::network::{Decoder, Network};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::linear::Linear;
use crate::network::parts::norm::Norm;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::NormKind;
use crate::network::weights::file::Weights;
use crate::network::weights::scope::Scope;

/// What TransformerLens's config says of such a model.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    n_layers: Option<usize>,
    d_model: Option<usize>,
    n_ctx: Option<usize>,
    d_head: Option<usize>,
    n_heads: Option<usize>,
    d_vocab: Option<usize>,
    eps: f64,
    /// Null is none.
    normalization_type: Option<Normalization>,
    attn_only: bool,
    final_rms: bool,
    shortformer_pos: bool,
}

impl Default for Config {
    /// `HookedTransformerConfig`'s, which has none of sizes; what a file says by its `model_type` it need not say again.
    fn default() -> Config {
        Config {
            n_layers: None,
            d_model: None,
            n_ctx: None,
            d_head: None,
            n_heads: None,
            d_vocab: None,
            eps: 1e-5,
            normalization_type: Some(Normalization::Layer),
            attn_only: true,
            final_rms: false,
            shortformer_pos: false,
        }
    }
}

pub(crate) const NAMES: [(&str, &str); 1] = [("normalization", "normalization_type")];

/// TransformerLens's names; those on `Pre` have no weights, being folded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Normalization {
    #[serde(rename = "LN")]
    Layer,
    #[serde(rename = "LNPre")]
    LayerFolded,
    #[serde(rename = "RMS")]
    Rms,
    #[serde(rename = "RMSPre")]
    RmsFolded,
}

impl Config {
    fn norm(&self, scope: &Scope, width: usize) -> Result<Norm> {
        let eps = check_epsilon("eps", self.eps)?;
        let get = |name: &str| scope.get(name, &[width]);
        Ok(match self.normalization_type {
            None => Norm::none(),
            Some(Normalization::Layer) => Norm::layer(eps, get("w")?, get("b")?),
            Some(Normalization::LayerFolded) => Norm { kind: NormKind::Layer, eps, ..Norm::none() },
            Some(Normalization::Rms) => Norm::rms(eps, get("w")?),
            Some(Normalization::RmsFolded) => Norm { kind: NormKind::Rms, eps, ..Norm::none() },
        })
    }
}

pub(crate) fn load(config: &Config, weights: &Weights) -> Result<Network> {
    let help = "models with it are not known: take one of attention alone, with usual positions and norms";
    reject_if(!config.attn_only, "attn_only = false", help)?;
    reject_if(config.final_rms, "final_rms = true", help)?;
    reject_if(config.shortformer_pos, "shortformer_pos = true", help)?;
    let d_model = required("d_model", config.d_model)?;
    let n_heads = match (config.n_heads, config.d_head) {
        (None, Some(d_head)) if d_head > 0 => d_model / d_head,
        (n_heads, _) => required("n_heads", n_heads)?,
    };
    let dims = RawDims {
        layers: ("n_layers", required("n_layers", config.n_layers)?),
        heads: ("n_heads", n_heads),
        key_value_heads: None,
        width: ("d_model", d_model),
        head_width: config.d_head.map(|width| ("d_head", width)),
        neurons: None,
        vocabulary: ("d_vocab", required("d_vocab", config.d_vocab)?),
        context: ("n_ctx", required("n_ctx", config.n_ctx)?),
    }
    .dims()?;
    let Dims { d_model: m, n_heads: h, d_head: d, d_vocab: v, .. } = dims;
    let all = Scope::all(weights);
    let w_e = all.matrix("embed.W_E", [v, m])?; // (V, M)
    let w_pos = Some(all.get("pos_embed.W_pos", &[dims.n_ctx, m])?); // (n_ctx, M)
    let mut blocks = Vec::new();
    for l in 0..dims.n_layers {
        let of_layer = all.child(&format!("blocks.{l}"));
        let attn = of_layer.child("attn");
        let each = |name: &str, shape: &[usize]| -> Result<Vec<Tensor>> {
            ["Q", "K", "V"].iter().map(|part| attn.get(&format!("{name}_{part}"), shape)).collect()
        };
        let weight = Tensor::cat(&each("W", &[h, m, d])?, 0)?.transpose(0, 1)?.contiguous()?; // (M, 3H, D)
        let bias = Tensor::cat(&each("b", &[h, d])?, 0)?.flatten_all()?; // (3HD)
        blocks.push(Block {
            ln1: config.norm(&of_layer.child("ln1"), m)?,
            attn: Attention {
                n_heads: h,
                n_key_value_heads: h,
                qkv: Linear { weight: weight.flatten_from(1)?.into(), bias: Some(bias) },
                output: Linear {
                    weight: attn.get("W_O", &[h, d, m])?.flatten_to(1)?.into(), // (HD, M)
                    bias: Some(attn.get("b_O", &[m])?),
                },
                scoring: ScoreSpec::plain(d),
            },
            cross: None,
            mlp: None,
            after: None,
        });
    }
    let unembed =
        Linear { weight: all.matrix("unembed.W_U", [m, v])?, bias: Some(all.get("unembed.b_U", &[v])?) };
    let ln_final = config.norm(&all.child("ln_final"), m)?;
    Ok(Decoder {
        dims,
        block_kind: BlockKind::AttentionOnly,
        prepends_bos: true,
        w_e,
        w_pos,
        blocks,
        ln_final,
        readout: ReadoutLayer::Vocabulary { of: Stack::Main, head: None, unembed },
    }
    .into())
}
