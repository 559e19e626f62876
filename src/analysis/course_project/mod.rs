//! The course project that these notebooks rebuild, with its numbers as published and computed as it did: to compare with.

pub(crate) mod detection;
mod figures;
pub(crate) mod qk;

pub use detection::{PublishedDetection, as_published};
pub use figures::{published_attention, published_qk};
pub use qk::{QkAsPublished, qk_as_published};
