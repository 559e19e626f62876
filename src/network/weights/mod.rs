//! Weights: where they lie in files, how they are read, and how they begin before any training.

pub(crate) mod file;
pub(crate) mod initial;
pub(crate) mod mapping;
pub(crate) mod pickle;
pub(crate) mod row_dtype;
mod rows;
pub(crate) mod scope;
pub(crate) mod weight;
