//! The parts that architectures share.

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod embedding;
pub(crate) mod layer;
pub(crate) mod linear;
pub(crate) mod mlp;
pub(crate) mod norm;
pub(crate) mod relative_bias;
pub(crate) mod rotary;
pub(crate) mod sinusoids;
