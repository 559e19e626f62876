//! Runs notebooks without Jupyter.

pub mod command;
pub mod outputs;
pub mod parameters;
pub mod runner;
pub mod stop;
