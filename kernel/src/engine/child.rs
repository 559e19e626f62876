//! The process that runs the cells: loads what was compiled, calls it, and says when it is done.
//!
//! The standard output and error of cells go straight to the kernel, through pipes of its own, so that text appears as it
//! is printed and none is lost in a crash. evcxr reads its few control lines where it expects them: the kernel sends
//! them back over a third pipe, and a thread here writes them on. The standard input of cells is at its end; what evcxr
//! sends, commands and the user's answers, comes through a descriptor that no program inherits.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::Result;
use crate::build::template::Template;
use crate::engine::session::Session;
use crate::shim::{cargo, protocol};

/// Set by evcxr for the process that runs cells.
const IS_CHILD: &str = "EVCXR_IS_RUNTIME";
/// Three descriptors: where output goes, where errors go, where control lines come from.
pub const PIPES: &str = "HEADLIGHT_PIPES";
/// What marks the lines that are for the kernel; no text that a model writes can guess it.
pub const TOKEN: &str = "HEADLIGHT_KERNEL";
/// The descriptor that the answers of the user come through; `session/evcxr_input.rs` reads it.
const ANSWERS: &str = "HEADLIGHT_ANSWERS";
/// The library that every cell links to.
pub const SESSION_LIBRARY: &str = "HEADLIGHT_SESSION_LIBRARY";

/// Whether evcxr has started this process to run cells.
pub fn is_called() -> bool {
    std::env::var_os(IS_CHILD).is_some()
}

/// Sets a command up to run as such a process: `ends` are where its output and its errors go, and where control lines come
/// from. They stay open with the command, which evcxr runs again when the process is gone.
pub fn prepare(
    command: &mut Command,
    template: &Template,
    session: &Session,
    token: &str,
    ends: (PipeWriter, PipeWriter, PipeReader),
) -> Result<()> {
    let ends: [OwnedFd; 3] = [ends.0.into(), ends.1.into(), ends.2.into()];
    let numbers: Vec<String> = ends.iter().map(|end| end.as_raw_fd().to_string()).collect();
    let library = template.session_library()?;
    let mut folders = vec![template.toolchain.library_folder()];
    folders.extend(library.parent().map(Path::to_path_buf));
    folders.extend(std::env::var_os(cargo::LIBRARY_PATH).iter().flat_map(std::env::split_paths));
    command
        .env(cargo::LIBRARY_PATH, std::env::join_paths(folders)?)
        .env(PIPES, numbers.join(","))
        .env(TOKEN, token)
        .env(SESSION_LIBRARY, library)
        .env("PATH", &session.path)
        .env_remove(protocol::SESSION)
        .env_remove("RUSTC")
        .env_remove("RUST_SRC_PATH")
        .env_remove("EVCXR_TMPDIR")
        .env_remove("EVCXR_CONFIG_DIR");
    match &session.cargo_home {
        Some(home) => command.env("CARGO_HOME", home),
        None => command.env_remove("CARGO_HOME"),
    };
    // SAFETY: only calls that are allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for end in &ends {
                if libc::fcntl(end.as_raw_fd(), libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    Ok(())
}

type Callback = unsafe extern "C" fn();
type CellFunction = unsafe extern "C" fn(*mut c_void) -> *mut c_void;

static STOP: AtomicUsize = AtomicUsize::new(0);

/// The functions of one session library.
#[derive(Clone, Copy)]
struct SessionCalls {
    begin: Callback,
    end: Callback,
    stop: Callback,
}

impl SessionCalls {
    fn find(library: &Library) -> Option<SessionCalls> {
        // SAFETY: the names are those of session/lib.rs, which takes nothing and returns nothing.
        unsafe {
            Some(SessionCalls {
                begin: *library.get::<Callback>(b"headlight_session_begin\0").ok()?,
                end: *library.get::<Callback>(b"headlight_session_end\0").ok()?,
                stop: *library.get::<Callback>(b"headlight_session_stop\0").ok()?,
            })
        }
    }
}

/// Passes over a line that evcxr has read: nothing of a cell comes that way.
pub fn forward(_: &str, _: &mut PipeWriter) {}

/// Runs cells until evcxr sends no more. Never returns.
pub fn run() -> ! {
    let code = match run_cells() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("headlight-kernel: the process that runs the cells failed: {error}");
            99
        }
    };
    std::process::exit(code)
}

fn run_cells() -> Result<()> {
    let evcxr = take_over_output()?;
    let commands = take_over_input()?;
    exit_with_parent();
    let token = std::env::var(TOKEN)?;
    let begin = format!("\u{1}{token} {{\"op\":\"begin\",\"process\":{}}}\n", std::process::id());
    let done = format!("\u{1}{token} {{\"op\":\"done\"}}\n");
    let mut libraries = Vec::new();
    let mut calls = None;
    if let Some(path) = std::env::var_os(SESSION_LIBRARY) {
        // SAFETY: our own library; its initializers are those of Rust's standard library.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL)? };
        calls = SessionCalls::find(&library);
        libraries.push(library);
    }
    handle_interrupts();
    let mut variables = std::ptr::null_mut();
    for line in BufReader::new(commands).lines() {
        let line = line?;
        // The path may hold spaces, the name of the function holds none.
        let (path, function) = line
            .strip_prefix("LOAD_AND_RUN ")
            .and_then(|rest| rest.rsplit_once(' '))
            .ok_or_else(|| format!("evcxr sent {line:?}"))?;
        // SAFETY: compiled by this session from a cell, with the signature that evcxr gives all of them.
        let library = match unsafe { Library::open(Some(path), RTLD_NOW) } {
            Ok(library) => library,
            Err(error) => {
                let why = serde_json::json!({"op": "panic", "thread": "main", "message": format!("the cell could not be loaded: {error:?}")});
                write_all(
                    1,
                    &format!("{begin}\u{1}{token} {why}\n\u{1}{token} {{\"op\":\"panicked\"}}\n{done}"),
                )?;
                write_all(2, &done)?;
                continue;
            }
        };
        let cell = unsafe { *library.get::<CellFunction>(function.as_bytes())? };
        // After a `:dep` a cell may be linked to a newer session library than the first one.
        calls = SessionCalls::find(&library).or(calls);
        if let Some(calls) = calls {
            STOP.store(calls.stop as usize, Ordering::SeqCst);
            unsafe { (calls.begin)() };
        }
        write_all(1, &begin)?;
        variables = unsafe { cell(variables) };
        if let Some(calls) = calls {
            unsafe { (calls.end)() };
        }
        libraries.push(library);
        // Both streams say that all was written; the kernel then tells evcxr.
        write_all(1, &done)?;
        write_all(2, &done)?;
    }
    // Never unloaded: values of their types may still be alive.
    std::mem::forget(libraries);
    drop(evcxr);
    Ok(())
}

/// Puts the kernel's pipes in place of the standard output and error; gives evcxr's own output to the relay.
fn take_over_output() -> Result<std::thread::JoinHandle<()>> {
    let pipes = std::env::var(PIPES)?;
    let descriptors: Vec<RawFd> = pipes.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let [out, err, control] = descriptors[..] else {
        return Err(format!("{PIPES} is {pipes:?}, where three descriptors should be").into());
    };
    // SAFETY: plain calls on descriptors that this process owns from its start.
    let (evcxr, control) = unsafe {
        let evcxr = libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3);
        if evcxr < 0 || libc::dup2(out, 1) < 0 || libc::dup2(err, 2) < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        libc::close(out);
        libc::close(err);
        libc::fcntl(control, libc::F_SETFD, libc::FD_CLOEXEC);
        // For programs that a cell starts.
        std::env::remove_var(PIPES);
        std::env::remove_var(IS_CHILD);
        (File::from_raw_fd(evcxr), File::from_raw_fd(control))
    };
    Ok(std::thread::spawn(move || {
        let mut evcxr = evcxr;
        let process_id = std::process::id().to_string();
        for line in BufReader::new(control).lines() {
            let Ok(line) = line else { break };
            // What was for a process before this one is of no use.
            let own =
                line.split_once(' ').filter(|(process, _)| *process == process_id).map(|(_, line)| line);
            if own.is_some_and(|line| writeln!(evcxr, "{line}").is_err()) {
                break;
            }
        }
    }))
}

/// Puts an input that is at its end in place of the standard one, which is given back.
fn take_over_input() -> Result<File> {
    let end = File::open("/dev/null")?;
    // SAFETY: plain calls on descriptors that this process owns from its start; no other thread reads the environment yet.
    unsafe {
        let commands = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        if commands < 0 || libc::dup2(end.as_raw_fd(), 0) < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        std::env::set_var(ANSWERS, commands.to_string());
        Ok(File::from_raw_fd(commands))
    }
}

/// Ends this process when the kernel is gone, however it went.
fn exit_with_parent() {
    // SAFETY: getppid cannot fail.
    let parent = unsafe { libc::getppid() };
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            if unsafe { libc::getppid() } != parent {
                // Not exit: other threads are in the midst of a cell.
                unsafe { libc::_exit(0) };
            }
        }
    });
}

extern "C" fn on_interrupt(_: c_int) {
    let stop = STOP.load(Ordering::SeqCst);
    if stop != 0 {
        // SAFETY: a function of a library that is never unloaded; it does one atomic store.
        unsafe { std::mem::transmute::<usize, Callback>(stop)() };
    }
}

fn handle_interrupts() {
    // SAFETY: the handler only does atomic operations. SA_RESTART: reads and sleeps of a cell go on.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_interrupt as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
    }
}

fn write_all(descriptor: RawFd, text: &str) -> std::io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        // SAFETY: a plain write of bytes that live as long as the call.
        let n = unsafe { libc::write(descriptor, rest.as_ptr().cast(), rest.len()) };
        match n {
            1.. => rest = &rest[n as usize..],
            _ => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
