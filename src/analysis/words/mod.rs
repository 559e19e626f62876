//! From the words of an input to what is read out.

pub(crate) mod attention_targets;
pub(crate) mod quadrature;
pub(crate) mod token_attribution;
pub(crate) mod value_flow;
