//! Runs cells: evcxr compiles them on a thread of the kernel, a process of its own runs them.

#[cfg_attr(not(unix), path = "child_elsewhere.rs")]
pub mod child;
pub mod handle;
pub mod limit;
pub mod output;
pub mod session;
