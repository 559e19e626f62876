//! The sizes of a network.

use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::hook::AxisKind;

/// The sizes of a network, under TransformerLens's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Tokens in the vocabulary; 0 where pictures are read.
    pub d_vocab: usize,
    /// The longest input, in tokens; with pictures, every one, in patches and the class token.
    pub n_ctx: usize,
}

impl Dims {
    /// How many query heads share each head of keys and values: 1 where each has its own.
    pub fn queries_per_kv_head(&self) -> usize {
        self.n_heads / self.n_key_value_heads
    }

    /// Whether several query heads share keys and values.
    pub(crate) fn shares_kv(&self) -> bool {
        self.queries_per_kv_head() > 1
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
            // `ArchSpec::axis_len` knows what is read out.
            AxisKind::Class | AxisKind::DProjected => 0,
        }
    }
}

/// Fails if a token id is none of a vocabulary of so many tokens.
pub(crate) fn check_ids<'a>(ids: impl IntoIterator<Item = &'a u32>, d_vocab: usize) -> Result<()> {
    match ids.into_iter().find(|&&id| id as usize >= d_vocab) {
        None => Ok(()),
        Some(id) => Err(Error::new(ErrorKind::Input, format!("token id {id} is out of range")).help(
            match d_vocab.checked_sub(1) {
                Some(last) => format!("the vocabulary has {d_vocab} tokens: ids are 0 to {last}"),
                None => "this model has no vocabulary: it reads pictures".into(),
            },
        )),
    }
}
