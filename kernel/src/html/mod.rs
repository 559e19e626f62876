//! Notebooks as pages of HTML.

pub mod ansi;
pub mod highlight;
pub mod markdown;
pub mod page;
