//! Blocks: what each layer makes of the residual stream. An architecture's file says which kind is its own.
//!
//! Shapes at the end of lines: B batch, T positions read now, M width of the residual stream.

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Site};
use crate::network::cpu::add;
use crate::network::parts::attention::Attention;
use crate::network::parts::layer::LayerCtx;
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::Mlp;
use crate::network::parts::norm::{Norm, NormOf};

/// How attention and MLP of a block stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// The MLP reads what attention left: GPT-2, GPT-Neo, Llama and what is built like it.
    Serial,
    /// Both read the same stream, and are added to it together: GPT-J, GPT-NeoX.
    Parallel,
    /// There is no MLP.
    AttentionOnly,
    /// As serial, but norms come after the sums: the first transformer, BERT.
    PostNorm,
}

/// The parts of a block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) ln1: Norm,
    pub(crate) attn: Attention,
    /// Attention to another stack, if there is such, with its norm.
    pub(crate) cross: Option<(Norm, Attention)>,
    /// The MLP, if there is one, with its norm.
    pub(crate) mlp: Option<(Norm, Mlp)>,
    /// The norms of what attention and MLP add, where norms stand on both sides (Ding et al. 2021, "CogView", section 2.4).
    pub(crate) after: Option<[Norm; 2]>,
}

impl Block {
    /// Its linear maps.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let cross = self.cross.iter().flat_map(|(_, cross)| [&cross.qkv, &cross.output]);
        let mlp = self.mlp.iter().flat_map(|(_, mlp)| mlp.gate.iter().chain([&mlp.input, &mlp.output]));
        [&self.attn.qkv, &self.attn.output].into_iter().chain(cross).chain(mlp)
    }

    /// The residual stream `[batch, position, d_model]` as the block leaves it.
    pub(crate) fn forward(&self, kind: BlockKind, x: Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        match kind {
            BlockKind::Serial => self.serial(x, layer),
            BlockKind::Parallel => self.parallel(x, layer),
            BlockKind::AttentionOnly => self.attention_only(x, layer),
            BlockKind::PostNorm => self.post_norm(x, layer),
        }
    }

    fn serial(&self, x: Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let pre = layer.at(Site::ResidPre, x)?; // (B, T, M)
        let attn_out = self.attention(&pre, layer)?; // (B, T, M)
        let mut mid = layer.at(Site::ResidMid, add(&pre, &attn_out)?)?; // (B, T, M)
        if let Some((ln2, cross)) = &self.cross {
            let cross_out = cross_attention(cross, Some(ln2), &mid, layer)?; // (B, T, M)
            mid = layer.at(Site::ResidMidCross, add(&mid, &cross_out)?)?; // (B, T, M)
        }
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

    fn post_norm(&self, x: Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let pre = layer.at(Site::ResidPre, x)?; // (B, T, M)
        let attn_out = self.attn.forward(None, &pre, layer)?; // (B, T, M)
        let attn_out = layer.at(Site::AttnOut, attn_out)?; // (B, T, M)
        let mid = layer.at(Site::ResidMid, add(&pre, &attn_out)?)?; // (B, T, M)
        let mut x = norm(&self.ln1, mid, NormOf::Attention, layer)?; // (B, T, M)
        if let Some((ln2, cross)) = &self.cross {
            let cross_out = cross_attention(cross, None, &x, layer)?; // (B, T, M)
            let mid = layer.at(Site::ResidMidCross, add(&x, &cross_out)?)?; // (B, T, M)
            x = norm(ln2, mid, NormOf::Cross, layer)?; // (B, T, M)
        }
        let Some((last, mlp)) = &self.mlp else { return Err(no_mlp(layer)) };
        let read = layer.at(Site::MlpIn, x.clone())?; // (B, T, M)
        let mlp_out = mlp.forward(&read, layer)?; // (B, T, M)
        let mlp_out = layer.at(Site::MlpOut, mlp_out)?; // (B, T, M)
        let post = layer.at(Site::ResidPost, add(&x, &mlp_out)?)?; // (B, T, M)
        let post = norm(last, post, self.norm_of_mlp(), layer)?; // (B, T, M)
        layer.at(Site::NormalizedResidPost, post)
    }

    /// What attention adds to the stream that it reads.
    fn attention(&self, pre: &Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let mut out = self.attn.forward(Some(&self.ln1), pre, layer)?; // (B, T, M)
        if let Some([after, _]) = &self.after {
            out = norm(after, out, NormOf::AddedByAttention, layer)?; // (B, T, M)
        }
        layer.at(Site::AttnOut, out)
    }

    /// What the MLP adds to the stream that it reads.
    fn mlp(&self, read: &Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let Some((before, mlp)) = &self.mlp else { return Err(no_mlp(layer)) };
        let read = layer.at(Site::MlpIn, read.clone())?; // (B, T, M)
        let normalized = norm(before, read, self.norm_of_mlp(), layer)?; // (B, T, M)
        let mut out = mlp.forward(&normalized, layer)?; // (B, T, M)
        if let Some([_, after]) = &self.after {
            out = norm(after, out, NormOf::AddedByMlp, layer)?; // (B, T, M)
        }
        layer.at(Site::MlpOut, out)
    }

    /// Which of the block's norms the MLP's is: they are counted as they come.
    pub(crate) fn norm_of_mlp(&self) -> NormOf {
        if self.cross.is_some() { NormOf::MlpAfterCross } else { NormOf::Mlp }
    }
}

/// Normalises what lies in a block.
pub(crate) fn norm(norm: &Norm, x: Tensor, of: NormOf, layer: &mut LayerCtx) -> Result<Tensor> {
    let shown = of.sites().map(|site| layer.hook(site));
    norm.forward(x, shown, layer.tap)
}

/// What attention to another stack adds to the stream that it reads, through a norm if there is one.
fn cross_attention(
    attn: &Attention,
    before: Option<&Norm>,
    pre: &Tensor,
    layer: &mut LayerCtx,
) -> Result<Tensor> {
    layer.attn = Attn::Cross;
    let out = attn.forward(before, pre, layer); // (B, T, M)
    let out = out.and_then(|out| layer.at(Site::AttnOut, out));
    layer.attn = Attn::Own;
    out
}

fn no_mlp(layer: &LayerCtx) -> Error {
    Error::new(ErrorKind::Config, format!("layer {} has no MLP to run", layer.index))
}
