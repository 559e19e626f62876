//! Where a block runs: one layer of one run.

use candle_core::Tensor;

use crate::error::Result;
use crate::hook::Site;
use crate::network::start::Past;
use crate::network::tap::TapCtx;

/// Where a block runs: its layer, the tap, and what was read before.
pub(crate) struct LayerCtx<'a, 't> {
    pub(crate) index: usize,
    pub(crate) tap: &'a mut TapCtx<'t>,
    pub(crate) past: Option<&'a mut Past>,
}

impl LayerCtx<'_, '_> {
    pub(crate) fn wants(&self, site: Site) -> bool {
        self.tap.wants(site, Some(self.index))
    }

    /// Hands an activation over if it is wanted, and gives what the block continues with.
    pub(crate) fn at(&mut self, site: Site, activation: Tensor) -> Result<Tensor> {
        self.tap.at(site, Some(self.index), activation)
    }

    /// How many positions were read before those that are read now.
    pub(crate) fn positions_before(&self) -> usize {
        self.past.as_deref().map_or(0, |past| past.len_at(self.index))
    }

    /// New keys and values after those of earlier positions.
    pub(crate) fn with_past(&mut self, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        match self.past.as_deref_mut() {
            Some(past) => past.extend(self.index, k, v), // (B, S, K, D)
            None => Ok((k, v)),
        }
    }
}
