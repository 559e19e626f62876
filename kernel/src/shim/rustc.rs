//! In rustc's place, behind cargo.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::Result;
use crate::process;
use crate::shim::artifacts;
use crate::shim::protocol::{RECORD, RustcInvocation, TEMPLATE};

/// Whether cargo calls us in rustc's place.
pub fn is_called() -> bool {
    std::env::var_os(RECORD).is_some()
}

/// Runs rustc as cargo asks. Of the crate of the cell it only notes how, and makes an empty one; what the template has is
/// taken from there.
pub fn run() -> ExitCode {
    match compile() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headlight-kernel, in rustc's place: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let program = PathBuf::from(arguments.next().ok_or("cargo named no rustc")?);
    let mut arguments: Vec<String> = arguments
        .map(|word| word.into_string().map_err(|word| format!("{word:?} is not UTF-8").into()))
        .collect::<Result<_>>()?;
    let is_cell = arguments.windows(2).any(|pair| pair[0] == "--crate-name" && pair[1] == "ctx");
    if is_cell {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
            .filter(|(name, _)| name.starts_with("CARGO_PKG"))
            .collect();
        let invocation =
            RustcInvocation { program: program.clone(), arguments: arguments.clone(), environment };
        let file = std::env::var_os(RECORD).ok_or("nowhere to note the call")?;
        let empty = Path::new(&file).with_extension("rs");
        invocation.write(Path::new(&file))?;
        std::fs::write(&empty, "")?;
        for argument in &mut arguments {
            if argument.ends_with("lib.rs") {
                *argument = empty.to_string_lossy().into_owned();
            }
        }
    } else if let Some(template) = std::env::var_os(TEMPLATE)
        && artifacts::restore(Path::new(&template), &arguments)?
    {
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = Command::new(program);
    command.args(arguments).env_remove(RECORD).env_remove(TEMPLATE);
    process::become_command(command)
}
