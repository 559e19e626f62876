//! Sweeps: the same question of many variants of a model, in parts if need be.

pub(crate) mod engine;
pub(crate) mod measure;
pub(crate) mod merge;
pub(crate) mod metric;
pub(crate) mod part;
