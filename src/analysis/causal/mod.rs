//! What changes where something is taken away or replaced.

pub(crate) mod ablated_stack;
pub(crate) mod ablation;
pub(crate) mod patching;
