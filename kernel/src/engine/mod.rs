//! Runs cells: evcxr compiles them on a thread of the kernel, and `child` is the process that runs them.

#[cfg_attr(not(unix), path = "child_elsewhere.rs")]
pub mod child;
pub mod event;
pub mod handle;
pub mod limit;
pub mod output;
pub mod session;
pub mod state;
pub mod worker;
