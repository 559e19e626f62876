//! What runs in the place of `cargo`, `rustup` and `rustc`, in processes of its own; and how the real ones are called. Nothing
//! here imports anything of the engine or of the building of templates, which both call what is here.

pub mod artifacts;
pub mod cargo;
pub mod metadata;
pub mod protocol;
pub mod rustc;
pub mod tools;
