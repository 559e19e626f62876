//! What every session starts from, built once.

pub mod completion_filter;
pub mod std_stub;
pub mod template;
