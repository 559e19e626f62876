//! What stacks read, as their residual streams begin: embeddings of tokens, or of patches of a picture (Dosovitskiy et al. 2021, "An
//! Image is Worth 16x16 Words").
//!
//! Shapes at the end of lines: B batch, T positions, M width of the residual stream, P pixels of a patch times their three colours,
//! V vocabulary.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::network::parts::linear::Linear;
use crate::network::weights::weight::Weight;

#[derive(Clone, Debug)]
pub(crate) enum Embedding {
    Tokens(Weight), // (V, M)
    /// The class token stands before the patches, where there is one.
    #[allow(dead_code)] // No model that is opened so far reads pictures.
    Patches {
        patch: Linear,         // (P, M)
        class: Option<Tensor>, // (M)
    },
}

impl Embedding {
    pub(crate) fn device(&self) -> &Device {
        self.weight().device()
    }

    /// What tokens, or pixels, are looked up in or multiplied by.
    pub(crate) fn weight(&self) -> &Weight {
        match self {
            Embedding::Tokens(w_e) => w_e,
            Embedding::Patches { patch, .. } => &patch.weight,
        }
    }

    /// The embeddings of ids `[batch, position]`, or of pixels patch by patch, the place of the class token left empty.
    pub(crate) fn forward(&self, read: &Tensor) -> Result<Tensor> {
        match self {
            Embedding::Tokens(w_e) => {
                let (batch, len) = read.dims2()?;
                let rows = w_e.index_rows(&read.flatten_all()?)?; // (BT, M)
                Ok(rows.reshape((batch, len, ()))?) // (B, T, M)
            }
            Embedding::Patches { patch, class } => {
                let embed = patch.forward(read)?; // (B, T, M)
                let Some(class) = class else { return Ok(embed) };
                let (batch, len, width) = embed.dims3()?;
                let first = class.reshape((1, 1, width))?.broadcast_as((batch, 1, width))?; // (B, 1, M)
                Ok(Tensor::cat(&[first, embed.narrow(1, 1, len - 1)?], 1)?) // (B, T, M)
            }
        }
    }
}
