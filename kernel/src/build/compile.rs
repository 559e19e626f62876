//! Has cargo build a template, and says how far it is.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use serde_json::Value;

use crate::Result;
use crate::build::toolchain::Toolchain;
use crate::shim::cargo;

/// The process of the build that is under way, if one is.
static BUILDING: AtomicU32 = AtomicU32::new(0);

/// Builds what is in `ctx`, of about so many crates; notes in `record` how rustc is called for it. Gives the files that were
/// made.
pub fn compile(
    ctx: &Path,
    record: &Path,
    target: &Path,
    toolchain: &Toolchain,
    crates: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<BTreeSet<PathBuf>> {
    let mut command = cargo::build(&toolchain.cargo, &toolchain.rustc, &toolchain.host, target, record)?;
    let mut child = spawn_group(command.current_dir(ctx))?;
    BUILDING.store(child.id(), SeqCst);
    let stdout = child.stdout.take().ok_or("cargo has no output")?;
    let messages = std::thread::spawn(move || read_messages(stdout));
    let stderr = child.stderr.take().ok_or("cargo has no output of errors")?;
    let log = follow_progress(stderr, crates, progress)?;
    let status = child.wait()?;
    BUILDING.store(0, SeqCst);
    let (files, errors) = messages.join().unwrap_or_default();
    if !status.success() {
        return Err(format!("headlight could not be built ({status}):\n{log}{errors}").into());
    }
    Ok(files)
}

/// Starts a command in a group of its own, so that what it starts ends with it.
fn spawn_group(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(target_os = "linux")]
    // SAFETY: a call that is allowed between fork and exec.
    unsafe {
        use std::os::unix::process::CommandExt;
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    Ok(command.spawn()?)
}

/// The files that cargo says it made; and compiler errors, if headlight itself does not build.
fn read_messages(stdout: impl Read) -> (BTreeSet<PathBuf>, String) {
    let (mut files, mut errors) = (BTreeSet::new(), String::new());
    for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
        let message: Value = serde_json::from_str(&line).unwrap_or_default();
        if message["message"]["level"] == "error" {
            errors.push_str(message["message"]["rendered"].as_str().unwrap_or_default());
        }
        let names = message["filenames"].as_array().into_iter().flatten();
        files.extend(names.filter_map(Value::as_str).map(PathBuf::from));
    }
    (files, errors)
}

/// Tells of each crate that is compiled; gives all that cargo has said.
fn follow_progress(stderr: impl Read, crates: usize, progress: &mut dyn FnMut(&str)) -> Result<String> {
    let mut log = String::new();
    let mut compiled = 0;
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if cargo::is_progress(&line) {
            compiled += usize::from(line.trim_start().starts_with("Compiling"));
            progress(&format!("{compiled} of about {crates} crates: {}", line.trim()));
        }
        log.push_str(&line);
        log.push('\n');
    }
    Ok(log)
}

/// Ends a build that is under way; the next kernel begins it again.
pub fn stop_build() {
    #[cfg(unix)]
    if let Ok(group) = i32::try_from(BUILDING.swap(0, SeqCst))
        && group > 1
    {
        // SAFETY: a signal to the group that cargo was started in.
        unsafe { libc::kill(-group, libc::SIGTERM) };
    }
}
