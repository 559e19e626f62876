//! All that can share a process. `tests/memory.rs` and `tests/fuzz_opening.rs` have allocators of their own, and `tests/stopping.rs`
//! asks work to stop, so each has one to itself.

#[path = "../common/mod.rs"]
mod common;

mod alignment;
mod architectures;
mod attribution;
mod built_in;
mod circuits;
mod classes;
mod cli;
mod detection;
mod documents;
mod encoders;
mod errors;
mod figure;
mod gguf;
mod goldens;
mod hub;
mod imports;
mod interventions;
mod notebook;
mod opening;
mod parts;
mod published_encoders;
mod published_gpt2;
mod published_translators;
mod real_translators;
mod sampling;
mod sentiment;
mod smollm2;
mod tokenizer;
mod training;
mod translators;
