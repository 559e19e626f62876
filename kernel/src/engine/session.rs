//! The folder of one running kernel: what is being compiled, and stand-ins for the tools.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::build::template::Template;
use crate::shim::tools::{self, Known};

pub struct Session {
    pub folder: PathBuf,
    /// The environment as it was.
    pub path: OsString,
    pub cargo_home: Option<OsString>,
    // Held as long as this kernel lives: what is not locked was left by one that was killed.
    _lock: File,
}

impl Session {
    /// Makes the folder, and puts the stand-ins first in this process's environment.
    pub fn create(template: &Template) -> Result<Session> {
        let sessions = template.sessions();
        fs::create_dir_all(&sessions)?;
        remove_dead(&sessions);
        let folder = sessions.join(format!("{}-{:x}", std::process::id(), crate::random()));
        let bin = folder.join("tools/bin");
        for part in [&bin, &folder.join("out"), &folder.join("src"), &folder.join("config")] {
            fs::create_dir_all(part)?;
        }
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        fs::copy(template.folder.join("ctx/Cargo.lock"), folder.join("Cargo.lock"))?;
        let program = std::env::current_exe()?;
        for tool in ["cargo", "rustup"] {
            put(&program, &bin.join(format!("{tool}{}", std::env::consts::EXE_SUFFIX)))?;
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let cargo_home = std::env::var_os("CARGO_HOME");
        let toolchain = &template.toolchain;
        let known = Known {
            template: template.folder.clone(),
            cargo: toolchain.cargo.clone(),
            rustc: toolchain.rustc.clone(),
            rustup: toolchain.rustup.clone(),
            cargo_version: toolchain.cargo_version.clone(),
            host: toolchain.host.clone(),
            target_settings: toolchain.target_settings.clone(),
            path: path.clone(),
            cargo_home: cargo_home.clone(),
            dependencies: template.dependencies.clone(),
        };
        fs::write(folder.join("session.json"), serde_json::to_vec(&known)?)?;
        let first = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path)))?;
        // SAFETY: the engine calls this before evcxr starts threads; no other thread of ours reads the environment.
        unsafe {
            std::env::set_var("PATH", first);
            std::env::set_var("CARGO_HOME", folder.join("tools"));
            std::env::set_var(tools::SESSION, &folder);
            std::env::set_var("RUSTC", &toolchain.rustc);
            if let Some(library) = template.library() {
                std::env::set_var("RUST_SRC_PATH", library);
            }
            std::env::set_var("EVCXR_TMPDIR", &folder);
            // The user's own settings are for evcxr's own kernel.
            std::env::set_var("EVCXR_CONFIG_DIR", folder.join("config"));
        }
        Ok(Session { folder, path, cargo_home, _lock: lock })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(unix)]
fn put(program: &Path, place: &Path) -> Result<()> {
    Ok(std::os::unix::fs::symlink(program, place)?)
}

#[cfg(not(unix))]
fn put(program: &Path, place: &Path) -> Result<()> {
    if fs::hard_link(program, place).is_err() {
        fs::copy(program, place)?;
    }
    Ok(())
}

fn is_alive(session: &Path) -> bool {
    match File::open(session.join("lock")) {
        Ok(file) => file.try_lock().is_err(),
        Err(_) => false,
    }
}

pub fn any_alive(sessions: &Path) -> bool {
    fs::read_dir(sessions).is_ok_and(|entries| entries.flatten().any(|entry| is_alive(&entry.path())))
}

fn remove_dead(sessions: &Path) {
    for entry in fs::read_dir(sessions).into_iter().flatten().flatten() {
        // One that is being made has no lock yet.
        let old = entry
            .metadata()
            .and_then(|about| about.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 60));
        if old && !is_alive(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
