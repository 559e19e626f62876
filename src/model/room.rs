//! Whether there is memory for a run, or for more weights, asked before they are made.

use std::collections::HashSet;

use candle_core::{CpuStorage, Storage, Tensor};

use super::Model;
use super::edit::Edited;
use crate::error::{Remedy, Result};
use crate::hook::{Hook, Site};
use crate::memory::{check, floats};
use crate::network::{Past, Start, Tap};
use crate::progress::bytes;

impl Model {
    /// Fails if what such a run takes at once, with what its tap keeps, is more than what is free.
    pub(super) fn has_room(&self, start: &Start, past: Option<&Past>, tap: &Edited) -> Result<()> {
        let dims = match start {
            Start::Tokens(ids) => ids.dims(),
            Start::Residual { stream, .. } => stream.dims(),
        };
        let (batch, len) = (dims.first().copied().unwrap_or(0), dims.get(1).copied().unwrap_or(0));
        let seen = len + past.map_or(0, Past::len);
        let size = |hook: &Hook| self.dims().numbers(hook.site(), batch, len, seen).saturating_mul(4);
        let needed = self.network.footprint(start, past, tap).saturating_add(tap.beside_what_is_kept(size));
        let kept = || self.hooks().into_iter().filter(|hook| tap.wants(*hook) && tap.keeps(*hook));
        check(self.device(), needed, || {
            let inputs = if batch == 1 { "a run".to_string() } else { format!("a run of {batch} inputs") };
            let kept = kept().max_by_key(size).map_or(String::new(), |largest| {
                let bytes = bytes(size(&largest) as f64);
                match kept().count() {
                    1 => format!(" that keeps `{largest}`, {bytes},"),
                    count => format!(" that keeps {count} activations (`{largest}` alone is {bytes})"),
                }
            });
            (format!("{inputs} of {len} tokens{kept}"), "run a shorter input, or fewer at once")
        })
        .map_err(|error| if kept().nth(1).is_some() { error.remedied_by(Remedy::KeepLess) } else { error })
    }

    /// The same of a run through which gradients are taken, of so many positions' logits and with respect to these sites.
    pub(crate) fn has_room_for_gradients(
        &self,
        batch: usize,
        len: usize,
        read: usize,
        sites: &[Site],
    ) -> Result<()> {
        check(self.device(), self.network.footprint_of_gradients(batch, len, read, sites), || {
            let what = format!("the gradient of a run of {len} tokens");
            (what, "run a shorter input; patching in place of attribution takes no gradient, and less memory")
        })
    }

    /// Fails if there is no memory for all weights once more, and so many bytes.
    pub(super) fn has_room_for_weights(&self, what: &str, beside: u64) -> Result<()> {
        // Several are often parts of one, or another view of it.
        let mut seen = HashSet::new();
        let mut bytes = beside;
        for (_, weight) in self.network.weights()? {
            let (storage, _) = weight.storage_and_layout();
            if seen.insert(std::ptr::from_ref(&*storage)) {
                bytes += match &*storage {
                    Storage::Cpu(CpuStorage::F32(values)) => floats([values.len()]),
                    _ => floats(weight.dims().iter().copied()),
                };
            }
        }
        check(self.device(), bytes, || {
            (format!("{what} of {}", self.name), "let go of other models and runs, or take a smaller model")
        })
    }

    /// Fails if there is no memory for so many copies of a weight.
    pub(super) fn has_room_for_copies(&self, name: &str, weight: &Tensor, copies: usize) -> Result<()> {
        check(self.device(), floats(weight.dims().iter().copied().chain([copies])), || {
            (format!("`{name}` of all heads and layers"), "take one layer's, as `blocks.0.attn.W_Q`")
        })
    }
}
