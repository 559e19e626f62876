//! Models: a network with its tokenizer, and what can be asked of them.

pub(crate) mod classify;
pub(crate) mod decoding;
pub(crate) mod digest;
pub(crate) mod edit;
pub(crate) mod execute;
pub(crate) mod fill_mask;
pub(crate) mod generate;
pub(crate) mod input;
pub(crate) mod interventions;
#[allow(clippy::module_inception)]
pub(crate) mod model;
pub(crate) mod picture;
pub(crate) mod predict;
pub(crate) mod run;
mod run_file;
pub(crate) mod run_options;
mod tokens;
pub(crate) mod translate;
mod weights;
pub(crate) mod writer;

pub use classify::Classes;
pub use edit::{Ablation, AttentionEdge, Component, Components, Mlp, mlp};
pub use fill_mask::MaskFilling;
pub use generate::{Generation, Sampling};
pub use input::{Input, Tokens, no_bos, with_bos};
pub use model::Model;
pub use picture::Picture;
pub use predict::PromptTest;
pub use run::Run;
pub use run_options::RunOptions;
pub use translate::{Search, Translation, Translations};
