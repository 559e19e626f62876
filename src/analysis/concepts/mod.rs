//! Concepts as directions of activations: found, tested, and located.

pub(crate) mod concept_direction;
pub(crate) mod concept_map;
pub(crate) mod direction;
pub(crate) mod examples;
mod logistic;
