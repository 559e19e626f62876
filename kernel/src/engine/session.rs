//! The folder of one running kernel: what is being compiled, and stand-ins for the tools.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::build::alive::remove_dead;
use crate::build::template::Template;
use crate::shim::protocol::{self, SessionConfig};

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
        let folder = sessions.join(format!("{}-{:x}", std::process::id(), getrandom::u64()?));
        let bin = folder.join("tools/bin");
        for part in [&bin, &folder.join("out"), &folder.join("src"), &folder.join("config")] {
            fs::create_dir_all(part)?;
        }
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        fs::copy(template.folder.join("ctx/Cargo.lock"), folder.join("Cargo.lock"))?;
        let program = std::env::current_exe()?;
        for tool in ["cargo", "rustup"] {
            link_program(&program, &bin.join(format!("{tool}{}", std::env::consts::EXE_SUFFIX)))?;
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let cargo_home = std::env::var_os("CARGO_HOME");
        let toolchain = &template.toolchain;
        let config = SessionConfig {
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
        config.write(&folder)?;
        let first = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path)))?;
        // SAFETY: the engine calls this before evcxr starts threads; no other thread of ours reads the environment.
        unsafe {
            std::env::set_var("PATH", first);
            std::env::set_var("CARGO_HOME", folder.join("tools"));
            std::env::set_var(protocol::SESSION, &folder);
            std::env::set_var("RUSTC", &toolchain.rustc);
            if let Some(stub) = template.std_stub() {
                std::env::set_var("RUST_SRC_PATH", stub);
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
fn link_program(program: &Path, place: &Path) -> Result<()> {
    Ok(std::os::unix::fs::symlink(program, place)?)
}

#[cfg(not(unix))]
fn link_program(program: &Path, place: &Path) -> Result<()> {
    if fs::hard_link(program, place).is_err() {
        fs::copy(program, place)?;
    }
    Ok(())
}
