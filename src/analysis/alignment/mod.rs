//! Which word of a source each word of a target is a translation of, and which heads of cross-attention know it.

pub(crate) mod cause;
pub(crate) mod gold;
pub(crate) mod scores;
pub(crate) mod sentence;
pub(crate) mod sentence_alignment;
pub(crate) mod spec;
pub(crate) mod words;
