//! Where a run begins: its input, and what was read before.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::Result;

/// Where a run begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// From token ids `[batch, position]`.
    Tokens(Tensor),
    /// From the residual stream `[batch, position, d_model]` as layer `layer` reads it: what lies below
    /// is known already.
    Residual {
        /// The layer that reads it.
        layer: usize,
        /// The residual stream, before `hook_resid_pre`.
        stream: Tensor,
    },
}

/// Keys and values of earlier positions, layer by layer, so that generation reads each token once.
#[derive(Clone, Debug, Default)]
pub struct Past {
    layers: BTreeMap<usize, (Tensor, Tensor)>,
}

impl Past {
    /// How many positions have been read.
    pub fn len(&self) -> usize {
        self.layers.first_key_value().map_or(0, |(&layer, _)| self.len_at(layer))
    }

    /// How many positions a layer has read.
    pub(crate) fn len_at(&self, layer: usize) -> usize {
        self.layers.get(&layer).and_then(|(k, _)| k.dims().get(1).copied()).unwrap_or(0)
    }

    /// Appends a layer's new keys and values `[batch, position, head, d_head]`; gives back all so far.
    pub(crate) fn extend(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let joined = match self.layers.get(&layer) {
            Some((past_k, past_v)) => (Tensor::cat(&[past_k, &k], 1)?, Tensor::cat(&[past_v, &v], 1)?),
            None => (k, v),
        };
        self.layers.insert(layer, joined.clone());
        Ok(joined)
    }

    /// What a batch of so many runs has behind it, each like the one run here, that resumes at a layer and a position.
    pub(crate) fn before(&self, layer: usize, position: usize, runs: usize) -> Result<Past> {
        let mut layers = BTreeMap::new();
        if position > 0 {
            for (&layer, (k, v)) in self.layers.range(layer..) {
                let cut = |tensor: &Tensor| tensor.narrow(1, 0, position)?.repeat((runs, 1, 1, 1));
                layers.insert(layer, (cut(k)?, cut(v)?));
            }
        }
        Ok(Past { layers })
    }
}
