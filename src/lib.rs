#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

// The command line names the library from outside; its verbs are tried on toys that no file holds.
#[cfg(test)]
extern crate self as headlight;

pub mod analysis;
mod error;
mod figure;
mod files;
mod gguf;
mod hook;
mod hub;
mod json;
mod markup;
mod memory;
mod model;
mod named;
pub mod network;
mod notebook;
mod open;
pub mod prelude;
mod progress;
mod random;
#[cfg(test)]
mod tests;
mod tokenizer;
pub mod training;
mod view;
mod visualize;

pub use error::{Error, ErrorKind, Remedy, Result};
pub use figure::{DisplayHandle, Figure, Page, Section, show};
pub use hook::{Attn, AxisKind, Head, Hook, IntoHook, Site, Stack, head};
pub use memory::memory_asked_for;
pub use model::{
    Ablation, AttentionEdge, Classes, Component, Components, Generation, Input, MaskFilling, Mlp, Model,
    Picture, PromptTest, Run, RunOptions, Sampling, Search, Tokens, Translation, Translations, mlp, no_bos,
    with_bos,
};
pub use named::{Axis, NamedTensor, ValueKind};
pub use network::{ArchSpec, Dims, StackSpec, Tap};
pub use notebook::{EvcxrDisplay, clear_output};
pub use open::{KnownModel, KnownModels, known_models};
pub use progress::{check_stop, clear_stop, request_stop};
pub use view::{Table, View, Visualize};
