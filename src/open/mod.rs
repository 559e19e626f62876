//! Opening models: by which source a name means, and the names that are known.

mod built_in;
pub(crate) mod known;
pub(crate) mod source;

#[cfg(test)]
pub(crate) use source::TOYS;

pub use known::{KnownModel, KnownModels, known_models};
