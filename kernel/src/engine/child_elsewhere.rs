//! The process that runs the cells, on systems without the pipes and signals that `child.rs` needs: evcxr's own. Its
//! lines of output are put into the pipes, so that they are read in one way everywhere.

use std::io::{PipeReader, PipeWriter, Write};
use std::process::Command;

use crate::Result;
use crate::build::template::Template;
use crate::engine::session::Session;
use crate::shim::protocol;

const IS_CHILD: &str = "EVCXR_IS_RUNTIME";
const TOKEN: &str = "HEADLIGHT_KERNEL";

/// Whether evcxr has started this process to run cells.
pub fn is_called() -> bool {
    std::env::var_os(IS_CHILD).is_some()
}

pub fn prepare(
    command: &mut Command,
    _: &Template,
    _: &Session,
    token: &str,
    _: (PipeWriter, PipeWriter, PipeReader),
) -> Result<()> {
    command.env(TOKEN, token).env_remove(protocol::SESSION);
    Ok(())
}

/// Runs cells until the kernel closes the standard input. Never returns.
pub fn run() -> ! {
    evcxr::runtime_hook();
    std::process::exit(99)
}

/// Hands on a line that evcxr has read.
pub fn forward(line: &str, pipe: &mut PipeWriter) {
    let _ = writeln!(pipe, "{line}");
}
