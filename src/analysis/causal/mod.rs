//! What changes where something is taken away or replaced.

pub(crate) mod ablation;
pub(crate) mod patching;
