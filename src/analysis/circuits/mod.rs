//! Circuits read from weights.

pub(crate) mod circuit;
pub(crate) mod composition;
pub(crate) mod decompose;
pub(crate) mod low_rank;
pub(crate) mod tokens;
