//! Arithmetic in one pass over the processor's memory.

pub(crate) mod attend;
pub(crate) mod matrix;
pub(crate) mod ops;
pub(crate) mod pages;
