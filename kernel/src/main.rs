//! A Jupyter kernel for Rust in which headlight is ready at once.

mod build;
mod cell;
mod cli;
mod engine;
mod files;
mod html;
mod jupyter;
mod notebook;
mod process;
mod run;
mod setup;
mod shim;
mod sync;
mod terminal;

use std::process::ExitCode;

use engine::child;
use shim::{rustc, tools};

pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What this process is for: one program is all of these.
enum Role {
    /// Called by evcxr or rust-analyzer as `cargo` or `rustup`.
    Tool(&'static str),
    /// Called by cargo in rustc's place.
    Rustc,
    /// Started by evcxr to run cells.
    Cells,
    /// Called by a user, or by Jupyter.
    CommandLine,
}

impl Role {
    fn of_process() -> Role {
        if let Some(tool) = tools::tool_name(std::env::args_os().next().as_ref()) {
            Role::Tool(tool)
        } else if rustc::is_called() {
            Role::Rustc
        } else if child::is_called() {
            Role::Cells
        } else {
            Role::CommandLine
        }
    }
}

fn main() -> ExitCode {
    match Role::of_process() {
        Role::Tool(tool) => tools::run(tool),
        Role::Rustc => rustc::run(),
        Role::Cells => child::run(),
        Role::CommandLine => cli::run(),
    }
}
