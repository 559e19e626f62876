//! Opening models: by which source a name means, and the names that are known.

pub(crate) mod known;
mod source;

#[cfg(test)]
pub(crate) use source::TOYS;

pub use known::{KnownModel, KnownModels, known_models};
