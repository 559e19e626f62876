//! The kernel that Jupyter starts: its sockets, and what it answers.

pub mod completeness;
pub mod history;
pub mod kernel;
pub mod message;
pub mod server;
