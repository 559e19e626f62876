//! The sizes of a network.

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{AxisKind, Head};

/// The sizes of a network, under TransformerLens's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Blocks.
    pub n_layers: usize,
    /// Attention heads in each block.
    pub n_heads: usize,
    /// Heads of keys and values in each block: fewer than attention heads where several share one.
    pub n_key_value_heads: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one head.
    pub d_head: usize,
    /// Neurons in each MLP; 0 where there are none.
    pub d_mlp: usize,
    /// Tokens in the vocabulary.
    pub d_vocab: usize,
    /// The longest input, in tokens.
    pub n_ctx: usize,
}

impl Dims {
    /// Fails if there is no such head.
    pub(crate) fn check_head(&self, head: Head) -> Result<Head> {
        head.check(self.n_layers, self.n_heads)
    }

    /// How long an axis of an activation is, of inputs of `len` positions that see `seen` keys.
    pub(crate) fn axis_len(&self, axis: AxisKind, len: usize, seen: usize) -> usize {
        match axis {
            AxisKind::Position | AxisKind::Query => len,
            AxisKind::Key => seen,
            AxisKind::Head => self.n_heads,
            AxisKind::KvHead => self.n_key_value_heads,
            AxisKind::DModel => self.d_model,
            AxisKind::DHead => self.d_head,
            AxisKind::DMlp => self.d_mlp,
            AxisKind::Scale => 1,
            AxisKind::Vocabulary => self.d_vocab,
        }
    }
}

/// Fails if a token id is none of a vocabulary of so many tokens.
pub(crate) fn check_ids<'a>(ids: impl IntoIterator<Item = &'a u32>, d_vocab: usize) -> Result<()> {
    match ids.into_iter().find(|&&id| id as usize >= d_vocab) {
        None => Ok(()),
        Some(id) => Err(Error::new(ErrorKind::Input, format!("token id {id} is out of range"))
            .help(format!("the vocabulary has {d_vocab} tokens: ids are 0 to {}", d_vocab - 1))),
    }
}
