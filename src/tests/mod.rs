//! Models of every kind that the types know, where no real one is read yet.

mod naive;
mod questions;
mod toys;
mod training;
mod two_stacks;
