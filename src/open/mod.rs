//! Opening models: by which source a name means, and the names that are known.

pub(crate) mod known;
mod source;

pub use known::{KnownModel, KnownModels, known_models};
