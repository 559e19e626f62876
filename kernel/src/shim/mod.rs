//! What runs in the place of `cargo`, `rustup` and `rustc`, in processes of its own; and how the real ones are called.

pub mod artifacts;
pub mod cargo;
pub mod tools;
