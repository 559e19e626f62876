//! The residual stream: what was added to it, and what it says so far.

pub(crate) mod attribution;
pub(crate) mod class_lens;
pub(crate) mod direct_attribution;
pub(crate) mod logit_lens;
pub(crate) mod stream;
pub(crate) mod way;
