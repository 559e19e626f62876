//! What all architectures have in common: embeddings, blocks one after another on one residual stream, a last norm and an
//! unembedding. What a block does is its architecture's own.
//!
//! Shapes at the end of lines: B batch, T positions read now, H heads, K heads of keys and values, D width of a head, M
//! width of the residual stream, N neurons, V vocabulary.

use candle_core::{Device, Tensor};

use super::anatomy::{Anatomy, Mlps, Positions};
use super::attention::{Attention, Part, Scoring};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use super::{Dims, Network, Past, Start, Tap, Tapped};
use super::{fold, footprint};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};

/// A transformer of any architecture that is known.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub(super) dims: Dims,
    pub(super) parallel: bool,
    pub(super) prepends_bos: bool,
    pub(super) w_e: Tensor,           // (V, M)
    pub(super) w_pos: Option<Tensor>, // (n_ctx, M)
    pub(super) blocks: Vec<Block>,
    pub(super) block: Forward,
    pub(super) ln_final: Norm,
    pub(super) unembed: Linear, // (M, V)
}

/// The parts of a block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) ln1: Norm,
    pub(super) attn: Attention,
    /// The MLP, if there is one, with the norm through which it reads.
    pub(super) mlp: Option<(Norm, Mlp)>,
}

/// What an architecture's block makes of the residual stream.
pub(super) type Forward = fn(&Block, Tensor, &mut Layer) -> Result<Tensor>;

/// Where a block runs: its layer, the tap, and what was read before.
pub(super) struct Layer<'a, 't> {
    pub(super) index: usize,
    pub(super) tap: &'a mut Tapped<'t>,
    past: Option<&'a mut Past>,
}

impl Layer<'_, '_> {
    pub(super) fn wants(&self, site: Site) -> bool {
        self.tap.wants(site, Some(self.index))
    }

    /// Hands an activation over if it is wanted, and gives what the block continues with.
    pub(super) fn at(&mut self, site: Site, activation: Tensor) -> Result<Tensor> {
        self.tap.at(site, Some(self.index), activation)
    }

    /// How many positions were read before those that are read now.
    pub(super) fn positions_before(&self) -> usize {
        self.past.as_deref().map_or(0, |past| past.len_at(self.index))
    }

    /// New keys and values after those of earlier positions.
    pub(super) fn with_past(&mut self, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        match self.past.as_deref_mut() {
            Some(past) => past.extend(self.index, k, v), // (B, S, K, D)
            None => Ok((k, v)),
        }
    }
}

impl Block {
    /// What attention adds to the stream that it reads.
    pub(super) fn attention(&self, pre: &Tensor, layer: &mut Layer) -> Result<Tensor> {
        let out = self.attn.forward(&self.ln1, pre, layer)?; // (B, T, M)
        layer.at(Site::AttnOut, out)
    }

    /// What the MLP adds to the stream that it reads.
    pub(super) fn mlp(&self, read: &Tensor, layer: &mut Layer) -> Result<Tensor> {
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

impl Network for Decoder {
    fn dims(&self) -> &Dims {
        &self.dims
    }

    fn device(&self) -> &Device {
        self.w_e.device()
    }

    fn anatomy(&self) -> Anatomy {
        let first = self.blocks.first();
        Anatomy {
            positions: if self.w_pos.is_some() { Positions::Embedded } else { Positions::Rotary },
            norms: self.ln_final.kind,
            mlps: match first.and_then(|block| block.mlp.as_ref()) {
                Some((_, Mlp { gate: Some(_), .. })) => Mlps::Gated,
                Some(_) => Mlps::Plain,
                None => Mlps::None,
            },
            parallel: self.parallel,
            group: self.dims.n_heads / self.dims.n_key_value_heads,
        }
    }

    fn prepends_bos(&self) -> bool {
        self.prepends_bos
    }

    fn run(&self, start: Start, mut past: Option<&mut Past>, tap: &mut dyn Tap) -> Result<()> {
        let mut tap = Tapped(tap);
        let (first, mut x) = match start {
            Start::Tokens(ids) => (0, self.embed(&ids, past.as_deref(), &mut tap)?), // (B, T, M)
            Start::Residual { layer, stream } => (layer, stream),
        };
        let read = self.read_at_the_end(&tap);
        let mut unread = 0;
        let mut own = Past::default();
        for (index, block) in self.blocks.iter().enumerate().skip(first) {
            let read = read.filter(|_| index + 1 == self.blocks.len());
            let mut past = match past.as_deref_mut() {
                None if read.is_some() => Some(&mut own),
                past => past,
            };
            if let (Some(read), Some(past)) = (read, past.as_deref_mut()) {
                (x, unread) = self.leave_unread(x, read, past)?; // (B, T, M)
            }
            let mut layer = Layer { index, tap: &mut tap, past };
            x = (self.block)(block, x, &mut layer)?; // (B, T, M)
            if tap.0.stop_after() == Some(index) {
                return Ok(());
            }
        }
        self.unembed(x, unread, &mut tap)
    }

    fn footprint(&self, start: &Start, past: Option<&Past>, tap: &dyn Tap) -> u64 {
        footprint::of_run(self, start, past, tap)
    }

    fn footprint_of_gradients(&self, batch: usize, len: usize, read: usize, sites: &[Site]) -> u64 {
        footprint::of_gradients(self, batch, len, read, sites)
    }

    fn weights(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = vec![("embed.W_E".to_string(), self.w_e.clone())];
        all.extend(self.w_pos.iter().map(|w_pos| ("pos_embed.W_pos".to_string(), w_pos.clone())));
        let norm = |all: &mut Vec<_>, name: String, norm: &Norm| {
            all.extend(norm.gain.iter().map(|gain| (format!("{name}.w"), gain.clone())));
            all.extend(norm.bias.iter().map(|bias| (format!("{name}.b"), bias.clone())));
        };
        for (l, Block { ln1, attn, mlp }) in self.blocks.iter().enumerate() {
            norm(&mut all, format!("blocks.{l}.ln1"), ln1);
            // TransformerLens's mark of what several query heads share.
            let shared = if attn.n_key_value_heads < attn.n_heads { "_" } else { "" };
            for (name, part) in
                [("Q", Part::Q), (&format!("{shared}K"), Part::K), (&format!("{shared}V"), Part::V)]
            {
                let (mark, name) = name.split_at(name.len() - 1);
                all.push((format!("blocks.{l}.attn.{mark}W_{name}"), attn.weight(part)?));
                all.push((format!("blocks.{l}.attn.{mark}b_{name}"), attn.bias(part)?));
            }
            if let Some((of_q, of_k)) = &attn.scoring.norms {
                norm(&mut all, format!("blocks.{l}.attn.q_norm"), of_q);
                norm(&mut all, format!("blocks.{l}.attn.k_norm"), of_k);
            }
            all.push((format!("blocks.{l}.attn.W_O"), attn.w_o()?));
            all.push((format!("blocks.{l}.attn.b_O"), attn.output.bias_or_zeros()?));
            if let Some((ln2, mlp)) = mlp {
                norm(&mut all, format!("blocks.{l}.ln2"), ln2);
                all.push((format!("blocks.{l}.mlp.W_in"), mlp.input.weight.clone()));
                all.push((format!("blocks.{l}.mlp.b_in"), mlp.input.bias_or_zeros()?));
                all.extend(
                    mlp.gate.iter().map(|gate| (format!("blocks.{l}.mlp.W_gate"), gate.weight.clone())),
                );
                all.push((format!("blocks.{l}.mlp.W_out"), mlp.output.weight.clone()));
                all.push((format!("blocks.{l}.mlp.b_out"), mlp.output.bias_or_zeros()?));
            }
        }
        norm(&mut all, "ln_final".into(), &self.ln_final);
        all.push(("unembed.W_U".into(), self.unembed.weight.clone()));
        all.push(("unembed.b_U".into(), self.unembed.bias_or_zeros()?));
        Ok(all)
    }

    fn scoring(&self, layer: usize) -> Result<&Scoring> {
        self.blocks.get(layer).map(|block| &block.attn.scoring).ok_or_else(|| {
            Error::new(ErrorKind::Address, format!("there is no layer {layer}"))
                .help(format!("layers are 0 to {}", self.blocks.len().saturating_sub(1)))
        })
    }

    fn folded(&self) -> Result<Box<dyn Network>> {
        Ok(Box::new(fold::folded(self)?))
    }
}

impl Decoder {
    fn embed(&self, ids: &Tensor, past: Option<&Past>, tap: &mut Tapped) -> Result<Tensor> {
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
    fn read_at_the_end(&self, tap: &Tapped) -> Option<usize> {
        let last = self.blocks.len().checked_sub(1)?;
        let first = tap.0.unembed_positions()?.iter().copied().min()?;
        let seen = Hook::all(last + 1)
            .into_iter()
            .filter(|hook| hook.layer() == Some(last))
            .map(|hook| hook.site())
            .any(|site| tap.wants(site, Some(last)));
        let normed = [Site::LnFinalScale, Site::LnFinalNormalized].iter().any(|&site| tap.wants(site, None));
        (first > 0 && !seen && !normed).then_some(first)
    }

    /// The stream from position `read` on, and how many positions that leaves out: of those the last block needs no more than
    /// keys and values, which go into `past`.
    fn leave_unread(&self, x: Tensor, read: usize, past: &mut Past) -> Result<(Tensor, usize)> {
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
    fn unembed(&self, x: Tensor, unread: usize, tap: &mut Tapped) -> Result<()> {
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
