//! What all architectures have in common: embeddings, blocks one after another on one residual stream, a last norm and an
//! unembedding. What a block does is its architecture's own.
//!
//! Shapes at the end of lines: B batch, T positions read now, H heads, K heads of keys and values, D width of a head, M
//! width of the residual stream, N neurons, V vocabulary.

use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::network::dims::Dims;
use crate::network::parts::attention::ScoreSpec;
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::layer::LayerCtx;
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::Mlp;
use crate::network::parts::norm::Norm;
use crate::network::spec::{ArchSpec, MlpKind, PositionEncoding};
use crate::network::start::{Past, Start};
use crate::network::tap::{Tap, TapCtx};

/// A transformer of any architecture that is known.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) dims: Dims,
    pub(crate) block_kind: BlockKind,
    pub(crate) prepends_bos: bool,
    pub(crate) w_e: Tensor,           // (V, M)
    pub(crate) w_pos: Option<Tensor>, // (n_ctx, M)
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_final: Norm,
    pub(crate) unembed: Linear, // (M, V)
}

impl Network {
    /// Its sizes.
    pub(crate) fn dims(&self) -> &Dims {
        &self.dims
    }

    /// Where its weights are, and its inputs must be.
    pub(crate) fn device(&self) -> &Device {
        self.w_e.device()
    }

    /// What it is built of, and so which activations it has.
    pub(crate) fn spec(&self) -> ArchSpec {
        let first = self.blocks.first();
        ArchSpec {
            positions: if self.w_pos.is_some() {
                PositionEncoding::Learned
            } else {
                PositionEncoding::Rotary
            },
            norm: self.ln_final.kind,
            mlp: match first.and_then(|block| block.mlp.as_ref()) {
                Some((_, Mlp { gate: Some(_), .. })) => MlpKind::Gated,
                Some(_) => MlpKind::Plain,
                None => MlpKind::None,
            },
            parallel: self.block_kind == BlockKind::Parallel,
            queries_per_kv_head: self.dims.n_heads / self.dims.n_key_value_heads,
        }
    }

    /// Whether text is run with a BOS token before it, as TransformerLens runs models of this architecture by default.
    pub(crate) fn prepends_bos(&self) -> bool {
        self.prepends_bos
    }

    /// Runs from `start`, handing activations to `tap`. With `past`, the input continues what was read before.
    pub(crate) fn run(&self, start: Start, mut past: Option<&mut Past>, tap: &mut dyn Tap) -> Result<()> {
        let mut tap = TapCtx(tap);
        let (first, mut x) = match start {
            Start::Tokens(ids) => (0, self.embed(&ids, past.as_deref(), &mut tap)?), // (B, T, M)
            Start::Residual { layer, stream } => (layer, stream),
        };
        let read = self.first_needed_position(&tap);
        let mut unread = 0;
        let mut own = Past::default();
        for (index, block) in self.blocks.iter().enumerate().skip(first) {
            let read = read.filter(|_| index + 1 == self.blocks.len());
            let mut past = match past.as_deref_mut() {
                None if read.is_some() => Some(&mut own),
                past => past,
            };
            if let (Some(read), Some(past)) = (read, past.as_deref_mut()) {
                (x, unread) = self.skip_unneeded_positions(x, read, past)?; // (B, T, M)
            }
            let mut layer = LayerCtx { index, tap: &mut tap, past };
            x = block.forward(self.block_kind, x, &mut layer)?; // (B, T, M)
            if tap.0.stop_after() == Some(index) {
                return Ok(());
            }
        }
        self.unembed(x, unread, &mut tap)
    }

    /// How queries and keys become attention scores in a layer. Fails if there is no such layer.
    pub(crate) fn scoring(&self, layer: usize) -> Result<&ScoreSpec> {
        self.blocks.get(layer).map(|block| &block.attn.scoring).ok_or_else(|| {
            Error::new(ErrorKind::Address, format!("there is no layer {layer}"))
                .help(format!("layers are 0 to {}", self.blocks.len().saturating_sub(1)))
        })
    }
}

impl Network {
    fn embed(&self, ids: &Tensor, past: Option<&Past>, tap: &mut TapCtx) -> Result<Tensor> {
        let (batch, len) = ids.dims2()?;
        let start = past.map_or(0, Past::len);
        let rows = self.w_e.index_select(&ids.flatten_all()?, 0)?; // (BT, M)
        let embed = rows.reshape((batch, len, self.dims.d_model))?; // (B, T, M)
        let embed = tap.at(Site::Embed, None, embed)?;
        let Some(w_pos) = &self.w_pos else { return Ok(embed) };
        let positions = w_pos.narrow(0, start, len)?; // (T, M)
        let pos_embed = if tap.wants(Site::PosEmbed, None) {
            tap.at(Site::PosEmbed, None, positions.broadcast_as(embed.dims())?)? // (B, T, M)
        } else {
            positions.unsqueeze(0)? // (1, T, M)
        };
        Ok(embed.broadcast_add(&pos_embed)?) // (B, T, M)
    }

    /// The first position that is read of what the last block makes; nothing where all are, or somebody looks into it.
    fn first_needed_position(&self, tap: &TapCtx) -> Option<usize> {
        let last = self.blocks.len().checked_sub(1)?;
        let first = tap.0.unembed_positions()?.iter().copied().min()?;
        let seen = Site::ALL.into_iter().any(|site| site.in_block() && tap.wants(site, Some(last)));
        let normed = [Site::LnFinalScale, Site::LnFinalNormalized].iter().any(|&site| tap.wants(site, None));
        (first > 0 && !seen && !normed).then_some(first)
    }

    /// The stream from position `read` on, and how many positions that leaves out: of those the last block needs no more than
    /// keys and values, which go into `past`.
    fn skip_unneeded_positions(&self, x: Tensor, read: usize, past: &mut Past) -> Result<(Tensor, usize)> {
        let (index, len) = (self.blocks.len() - 1, x.dim(1)?);
        if read >= len {
            return Ok((x, 0));
        }
        let Block { ln1, attn, .. } = &self.blocks[index];
        let (k, v) = attn.keys_and_values(ln1, x.narrow(1, 0, read)?, past.len_at(index))?;
        past.extend(index, k, v)?;
        Ok((x.narrow(1, read, len - read)?.contiguous()?, read))
    }

    /// The last norm and the logits of a stream that begins after `unread` positions.
    fn unembed(&self, x: Tensor, unread: usize, tap: &mut TapCtx) -> Result<()> {
        use Site::{LnFinalNormalized, LnFinalScale, UnembedIn, UnembedOut};
        if ![LnFinalScale, LnFinalNormalized, UnembedIn, UnembedOut].iter().any(|&s| tap.wants(s, None)) {
            return Ok(());
        }
        let x = self.ln_final.forward(x, (LnFinalScale, LnFinalNormalized, None), tap)?; // (B, T, M)
        let x = match tap.0.unembed_positions() {
            Some(positions) => {
                let positions = positions.iter().map(|&p| (p - unread) as u32).collect::<Vec<_>>();
                x.index_select(&Tensor::new(positions, x.device())?, 1)?
            }
            None => x,
        };
        let x = tap.at(UnembedIn, None, x)?;
        if tap.wants(UnembedOut, None) {
            tap.at(UnembedOut, None, self.unembed.forward(&x)?)?; // (B, T, V)
        }
        Ok(())
    }
}
