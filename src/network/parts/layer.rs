//! Where a block runs: one layer of one run.

use candle_core::Tensor;

use crate::error::Result;
use crate::hook::{Attn, Hook, Site, Stack};
use crate::network::spec::Sees;
use crate::network::start::Past;
use crate::network::tap::TapCtx;

/// Where a block runs: its layer, the tap, what was read before, and what can be attended to.
pub(crate) struct LayerCtx<'a, 't> {
    pub(crate) stack: Stack,
    pub(crate) index: usize,
    /// Which attention is under way.
    pub(crate) attn: Attn,
    pub(crate) tap: &'a mut TapCtx<'t>,
    pub(crate) past: Option<&'a mut Past>,
    pub(crate) own: Keys<'a>,
    /// What cross-attention attends to.
    pub(crate) source: Option<Source<'a>>,
}

/// Which keys queries see.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    /// Whether those alone that do not come later.
    pub(crate) sees: Sees,
    /// Of each input, which are there, and no filling.
    pub(crate) present: Option<&'a [Vec<bool>]>,
    /// What is added to the scores `[1 or batch, head, query, key]`.
    pub(crate) bias: Option<&'a Tensor>,
}

/// What another stack left.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) stream: &'a Tensor, // (B, S, M)
    pub(crate) keys: Keys<'a>,
}

impl LayerCtx<'_, '_> {
    /// The address of a site in this layer: of the attention under way, where it is of one.
    pub(crate) fn hook(&self, site: Site) -> Hook {
        let attn = if site.is_of_attention() { self.attn } else { Attn::Own };
        site.at(self.index).of(self.stack).with_attn(attn)
    }

    pub(crate) fn wants(&self, site: Site) -> bool {
        self.tap.wants(self.hook(site))
    }

    /// Hands an activation over if it is wanted, and gives what the block continues with.
    pub(crate) fn at(&mut self, site: Site, activation: Tensor) -> Result<Tensor> {
        self.tap.at(self.hook(site), activation)
    }

    /// How many positions were read before those that are read now.
    pub(crate) fn positions_before(&self) -> usize {
        self.past.as_deref().map_or(0, |past| past.len_at(self.stack, self.index))
    }

    /// Keys and values of what another stack left, made once for all that is read behind.
    pub(crate) fn crossed(&mut self, make: impl FnOnce() -> Result<[Tensor; 2]>) -> Result<[Tensor; 2]> {
        let (stack, layer) = (self.stack, self.index);
        let Some(past) = self.past.as_deref_mut() else { return make() };
        if let Some((k, v)) = past.crossed(stack, layer) {
            return Ok([k, v]);
        }
        let [k, v] = make()?;
        past.keep_crossed(stack, layer, &k, &v);
        Ok([k, v])
    }

    /// New keys and values after those of earlier positions.
    pub(crate) fn with_past(&mut self, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        match self.past.as_deref_mut() {
            Some(past) => past.extend(self.stack, self.index, k, v), // (B, S, K, D)
            None => Ok((k, v)),
        }
    }
}
