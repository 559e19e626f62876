//! What every session starts from, built once by the kernel or the installer.

pub mod alive;
pub mod archive;
pub mod compile;
pub mod completion_filter;
pub mod package;
pub mod recipe;
pub mod source;
pub mod std_stub;
pub mod template;
pub mod toolchain;
