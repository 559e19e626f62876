//! What sees activations while a network runs, and may change them.

use candle_core::{DType, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Stack};

/// Sees activations while a network runs, and may change them.
///
/// A network asks [`wants`](Tap::wants) first: what nobody wants and nothing needs is never made, the
/// logits above all. Activations have the axes that their [`Site`](crate::Site) says, with the batch first.
pub trait Tap {
    /// Whether this activation is to be handed over.
    fn wants(&self, hook: Hook) -> bool;

    /// Receives an activation; the network continues with what comes back, which must have the same shape.
    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor>;

    /// Whether it holds on to an activation that it was handed: memory for a run is asked for accordingly, before it begins.
    /// What it wants, unless it says otherwise.
    fn keeps(&self, hook: Hook) -> bool {
        self.wants(hook)
    }

    /// The last layer to run, and its stack. The last norm and the unembedding then do not run.
    fn stop_after(&self) -> Option<(Stack, usize)> {
        None
    }

    /// The positions to unembed, where not all logits are read.
    fn unembed_positions(&self) -> Option<&[usize]> {
        None
    }
}

/// A tap as a network uses it: asks first, then checks what comes back.
pub(crate) struct TapCtx<'a>(pub &'a mut dyn Tap);

impl TapCtx<'_> {
    pub(crate) fn wants(&self, hook: impl Into<Hook>) -> bool {
        self.0.wants(hook.into())
    }

    /// Hands an activation over if it is wanted, and gives what the network continues with.
    pub(crate) fn at(&mut self, hook: impl Into<Hook>, activation: Tensor) -> Result<Tensor> {
        let hook = hook.into();
        if !self.0.wants(hook) {
            return Ok(activation);
        }
        let shape = activation.dims().to_vec();
        let back = self.0.tap(hook, activation)?;
        if back.dims() != shape || back.dtype() != DType::F32 {
            return Err(Error::new(
                ErrorKind::Tap,
                format!(
                    "the tap at `{hook}` was given {shape:?} of F32 and gave back {:?} of {:?}",
                    back.dims(),
                    back.dtype()
                ),
            )
            .help("a tap gives back an activation of the same shape and type"));
        }
        Ok(back)
    }
}

/// A run ended before what was to be read.
pub(crate) fn not_reached() -> Error {
    Error::new(ErrorKind::Tap, "the run ended before what was to be read")
}
