//! What a terminal shows.

pub mod progress;
pub mod screen;
pub mod steps;
