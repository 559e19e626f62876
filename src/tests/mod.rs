//! Models of every kind that the types know, where no real one is read yet.

mod framed_texts;
mod kinds;
mod naive;
mod questions;
mod readouts;
mod toys;
mod training;
mod two_stacks;
#[cfg(feature = "cli")]
mod verbs;
