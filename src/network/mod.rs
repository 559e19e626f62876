//! Networks: token ids in, activations through a tap, nothing kept.

pub mod fold;
pub mod gpt2;
pub(crate) mod ops;
pub(crate) mod pickle;
pub mod weights;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};

/// The sizes of a network, under TransformerLens's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Blocks.
    pub n_layers: usize,
    /// Attention heads in each block.
    pub n_heads: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one head.
    pub d_head: usize,
    /// Neurons in each MLP.
    pub d_mlp: usize,
    /// Tokens in the vocabulary.
    pub d_vocab: usize,
    /// The longest input, in tokens.
    pub n_ctx: usize,
}

/// Sees activations while a network runs, and may change them.
///
/// A network asks [`wants`](Tap::wants) first: what nobody wants and nothing needs is never made, the
/// logits above all. Activations have the axes that their [`Site`] says, with the batch first.
pub trait Tap {
    /// Whether this activation is to be handed over.
    fn wants(&self, hook: Hook) -> bool;

    /// Receives an activation; the network continues with what comes back, which must have the same shape.
    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor>;

    /// The last layer to run. The last norm and the unembedding then do not run.
    fn stop_after(&self) -> Option<usize> {
        None
    }

    /// The positions to unembed, where not all logits are read.
    fn unembed_positions(&self) -> Option<&[usize]> {
        None
    }
}

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
    layers: Vec<(Tensor, Tensor)>,
}

impl Past {
    /// How many positions have been read.
    pub fn len(&self) -> usize {
        self.layers.first().and_then(|(k, _)| k.dims().get(1).copied()).unwrap_or(0)
    }

    /// Whether nothing has been read yet.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Appends a layer's new keys and values `[batch, position, head, d_head]`; gives back all so far.
    pub(crate) fn extend(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let joined = match self.layers.get(layer) {
            Some((past_k, past_v)) => (Tensor::cat(&[past_k, &k], 1)?, Tensor::cat(&[past_v, &v], 1)?),
            None => (k, v),
        };
        match self.layers.get_mut(layer) {
            Some(entry) => *entry = joined.clone(),
            None => self.layers.push(joined.clone()),
        }
        Ok(joined)
    }
}

/// A network whose every activation passes a tap.
pub trait Network: Send + Sync {
    /// Its sizes.
    fn dims(&self) -> &Dims;

    /// Where its weights are, and its inputs must be.
    fn device(&self) -> &Device;

    /// Runs from `start`, handing activations to `tap`. With `past`, the input continues what was read before.
    fn run(&self, start: Start, past: Option<&mut Past>, tap: &mut dyn Tap) -> Result<()>;

    /// Every weight under TransformerLens's name for it, in TransformerLens's shape. They share storage
    /// with the network wherever the layout allows.
    fn weights(&self) -> Result<Vec<(String, Tensor)>>;

    /// What queries times keys are multiplied by in a layer: one over the root of `d_head`, unless the model says
    /// otherwise.
    fn attention_scale(&self, layer: usize) -> f64;

    /// The same function with norms folded into the weights that read them; see [`fold`].
    fn folded(&self) -> Result<Box<dyn Network>>;
}

/// A tap as a network uses it: asks first, then checks what comes back.
pub(crate) struct Tapped<'a>(pub &'a mut dyn Tap);

impl Tapped<'_> {
    pub(crate) fn wants(&self, site: Site, layer: Option<usize>) -> bool {
        self.0.wants(hook(site, layer))
    }

    /// Hands an activation over if it is wanted, and gives what the network continues with.
    pub(crate) fn at(&mut self, site: Site, layer: Option<usize>, activation: Tensor) -> Result<Tensor> {
        let hook = hook(site, layer);
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

fn hook(site: Site, layer: Option<usize>) -> Hook {
    match layer {
        Some(layer) => site.at(layer),
        None => site.into(),
    }
}
