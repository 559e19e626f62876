//! The kernel that Jupyter starts: its messages, answered.

pub mod completeness;
pub mod history;
pub mod kernel;
