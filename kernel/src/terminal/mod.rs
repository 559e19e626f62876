//! What a terminal sends, shows and is shown.

pub mod escape;
pub mod progress;
pub mod screen;
pub mod signals;
