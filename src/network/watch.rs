//! NaN and infinity in weights that are not looked through when they are opened: found where they first show.

use candle_core::Tensor;

use crate::error::Result;
use crate::network::cpu::tensor_is_finite;
use crate::network::weights::weight::Weight;

/// Looks at what a network makes, and at the weights that it was made with where that is not finite for the first time.
#[derive(Default)]
pub(crate) struct Watch {
    /// From then on nothing is to be learnt.
    has_shown: bool,
}

impl Watch {
    /// Fails if one of the weights holds NaN or infinity, and what was made of them shows it: an edit can make such too.
    pub(crate) fn look<'a, W: Iterator<Item = &'a Weight>>(
        &mut self,
        made: &Tensor,
        weights: impl Fn() -> W,
    ) -> Result<()> {
        if self.has_shown || !made.device().is_cpu() || !weights().any(Weight::is_stored) {
            return Ok(());
        }
        if tensor_is_finite(&made.contiguous()?)? {
            return Ok(());
        }
        self.has_shown = true;
        weights().try_for_each(Weight::check_finite)
    }
}
