//! In rustc's place, behind cargo.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::Result;
use crate::process;
use crate::shim::artifacts;
use crate::shim::protocol::{RECORD, RustcInvocation, TEMPLATE, dylib_name, extra_filename, option};

/// Whether cargo calls us in rustc's place.
pub fn is_called() -> bool {
    std::env::var_os(RECORD).is_some()
}

/// The crate that each cell links to.
const SESSION_CRATE: &str = "headlight_session";
/// What a cell is compiled with beside what cargo says of a release: with the checks of a first try, in one piece, for it is too
/// small to be worth dividing, and linked to what is there.
const OF_CELLS: [&str; 5] =
    ["-Cprefer-dynamic", "-Crpath", "-Cdebug-assertions=on", "-Coverflow-checks=on", "-Ccodegen-units=1"];

/// Runs rustc as cargo asks. Of the crate of the cell it only notes how, and makes an empty one, but links the library that cells
/// are linked to; what the template has is taken from there.
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
    let name = option(&arguments, "--crate-name").unwrap_or_default().to_string();
    if name == "ctx" {
        link_session(&arguments)?;
        note_cell(&program, &mut arguments)?;
    } else if let Some(template) = std::env::var_os(TEMPLATE)
        && artifacts::restore(Path::new(&template), &arguments)?
    {
        return Ok(ExitCode::SUCCESS);
    } else if name == SESSION_CRATE {
        note_session(&program, &arguments)?;
    }
    let mut command = Command::new(program);
    command.args(arguments).env_remove(RECORD).env_remove(TEMPLATE);
    process::become_command(command)
}

/// What cargo tells a crate of its package.
fn package_variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
        .filter(|(name, _)| name.starts_with("CARGO_PKG"))
        .collect()
}

/// Notes how rustc is called for a cell, and has an empty one compiled.
fn note_cell(program: &Path, arguments: &mut [String]) -> Result<()> {
    let mut noted = arguments.to_vec();
    noted.iter_mut().for_each(|word| {
        if let Some((name, library)) = session_library(word) {
            *word = format!("{name}={}", dynamic(library).display());
        }
    });
    noted.extend(OF_CELLS.map(str::to_string));
    let call = RustcInvocation {
        program: program.to_path_buf(),
        arguments: noted,
        environment: package_variables(),
    };
    let file = PathBuf::from(std::env::var_os(RECORD).ok_or("nowhere to note the call")?);
    call.write(&file)?;
    let empty = file.with_extension("rs");
    std::fs::write(&empty, "")?;
    for argument in arguments {
        if argument.ends_with("lib.rs") {
            *argument = empty.to_string_lossy().into_owned();
        }
    }
    Ok(())
}

/// Notes, beside the library that cargo knows, how a dynamic one is made of the session's crate. As one of cargo's own it would have no
/// name that tells it from another; and it cannot be made now, for cargo asks as soon as what lies below is known, and not yet
/// compiled.
fn note_session(program: &Path, arguments: &[String]) -> Result<()> {
    let out = option(arguments, "--out-dir").ok_or("cargo named no folder for the session's library")?;
    let hash = extra_filename(arguments).unwrap_or_default();
    let library = Path::new(out).join(format!("lib{SESSION_CRATE}{hash}.rlib"));
    let source = std::env::current_dir()?;
    let own = |word: &String| match word.as_str() {
        "lib" => "dylib".to_string(),
        word if word.starts_with("--emit=") => "--emit=link".to_string(),
        word if word.ends_with("lib.rs") => source.join(word).to_string_lossy().into_owned(),
        word if word.ends_with(".rmeta") => format!("{}.rlib", word.trim_end_matches(".rmeta")),
        word => word.to_string(),
    };
    let mut noted: Vec<String> = arguments.iter().map(own).collect();
    // The kernel tells where the standard library is, for that is elsewhere where this was unpacked.
    noted.push("-Cprefer-dynamic".to_string());
    let _ = std::fs::remove_file(dynamic(&library));
    RustcInvocation { program: program.to_path_buf(), arguments: noted, environment: package_variables() }
        .write(&library.with_extension("json"))
}

/// Makes the dynamic library that a cell's call names, if it is not there.
fn link_session(arguments: &[String]) -> Result<()> {
    let Some((_, library)) = arguments.iter().find_map(|word| session_library(word)) else { return Ok(()) };
    if dynamic(library).exists() {
        return Ok(());
    }
    let call = RustcInvocation::read(&library.with_extension("json"))?;
    let mut command = Command::new(call.program);
    command.args(call.arguments).envs(call.environment).env_remove(RECORD).env_remove(TEMPLATE);
    match command.status()?.success() {
        true => Ok(()),
        false => Err("the library of the session could not be linked".into()),
    }
}

/// The name and the place of the session's library, where a word of a call says these.
fn session_library(word: &str) -> Option<(&str, &Path)> {
    let (name, path) = word.split_once('=')?;
    let path = Path::new(path);
    let is_library = path.extension().is_some_and(|kind| kind == "rlib" || kind == "rmeta");
    let is_session = path.file_name()?.to_str()?.strip_prefix("lib")?.starts_with(SESSION_CRATE);
    (is_library && is_session).then_some((name, path))
}

/// The dynamic library beside a library.
fn dynamic(library: &Path) -> PathBuf {
    let name = library.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix("lib").unwrap_or(&name);
    library.with_file_name(dylib_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_the_session_is_found_and_its_dynamic_one_named() {
        let found = |word| session_library(word).map(|(name, path)| (name, dynamic(path)));
        let expected = Some(("headlight", Path::new("/t/deps").join(dylib_name("headlight_session-1a"))));
        assert_eq!(found("headlight=/t/deps/libheadlight_session-1a.rlib"), expected);
        assert_eq!(found("headlight=/t/deps/libheadlight_session-1a.rmeta"), expected);
        for word in ["headlight=/t/deps/libheadlight-1a.rlib", "metadata=libheadlight_session", "src/lib.rs"]
        {
            assert_eq!(found(word), None, "{word}");
        }
    }
}
