//! Blocks: what each layer makes of the residual stream. An architecture's file says which kind is its own.
//!
//! Shapes at the end of lines: B batch, T positions read now, M width of the residual stream.

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::network::cpu::add;
use crate::network::parts::attention::Attention;
use crate::network::parts::layer::LayerCtx;
use crate::network::parts::mlp::Mlp;
use crate::network::parts::norm::Norm;

/// How attention and MLP of a block stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// The MLP reads what attention left: GPT-2, GPT-Neo, Llama and what is built like it.
    Serial,
    /// Both read the same stream, and are added to it together: GPT-J, GPT-NeoX.
    Parallel,
    /// There is no MLP.
    AttentionOnly,
}

/// The parts of a block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) ln1: Norm,
    pub(crate) attn: Attention,
    /// The MLP, if there is one, with the norm through which it reads.
    pub(crate) mlp: Option<(Norm, Mlp)>,
}

impl Block {
    /// The residual stream `[batch, position, d_model]` as the block leaves it.
    pub(crate) fn forward(&self, kind: BlockKind, x: Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        match kind {
            BlockKind::Serial => self.serial(x, layer),
            BlockKind::Parallel => self.parallel(x, layer),
            BlockKind::AttentionOnly => self.attention_only(x, layer),
        }
    }

    fn serial(&self, x: Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let pre = layer.at(Site::ResidPre, x)?; // (B, T, M)
        let attn_out = self.attention(&pre, layer)?; // (B, T, M)
        let mid = layer.at(Site::ResidMid, add(&pre, &attn_out)?)?; // (B, T, M)
        let mlp_out = self.mlp(&mid, layer)?; // (B, T, M)
        layer.at(Site::ResidPost, add(&mid, &mlp_out)?) // (B, T, M)
    }

    fn parallel(&self, x: Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let pre = layer.at(Site::ResidPre, x)?; // (B, T, M)
        let attn_out = self.attention(&pre, layer)?; // (B, T, M)
        let mlp_out = self.mlp(&pre, layer)?; // (B, T, M)
        layer.at(Site::ResidPost, add(&add(&pre, &attn_out)?, &mlp_out)?) // (B, T, M)
    }

    fn attention_only(&self, x: Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let pre = layer.at(Site::ResidPre, x)?; // (B, T, M)
        let attn_out = self.attention(&pre, layer)?; // (B, T, M)
        layer.at(Site::ResidPost, add(&pre, &attn_out)?) // (B, T, M)
    }

    /// What attention adds to the stream that it reads.
    fn attention(&self, pre: &Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let out = self.attn.forward(&self.ln1, pre, layer)?; // (B, T, M)
        layer.at(Site::AttnOut, out)
    }

    /// What the MLP adds to the stream that it reads.
    fn mlp(&self, read: &Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let Some((ln2, mlp)) = &self.mlp else {
            return Err(Error::new(ErrorKind::Config, format!("layer {} has no MLP to run", layer.index)));
        };
        let read = layer.at(Site::MlpIn, read.clone())?; // (B, T, M)
        let shown = (Site::Ln2Scale, Site::Ln2Normalized, Some(layer.index));
        let normalized = ln2.forward(read, shown, layer.tap)?; // (B, T, M)
        let out = mlp.forward(layer.index, &normalized, layer.tap)?; // (B, T, M)
        layer.at(Site::MlpOut, out)
    }
}
