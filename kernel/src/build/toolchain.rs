//! The compiler and its tools, as they are without the stand-ins.

use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::build::package;
use crate::build::source::CrateSource;
use crate::process::{said, stdout_of};

pub struct Toolchain {
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    pub rustup: Option<PathBuf>,
    pub version: String,
    pub cargo_version: String,
    /// What the compiler knows of its target, as `cfg` asks for it.
    pub target_settings: String,
    pub sysroot: PathBuf,
    pub host: String,
}

impl Toolchain {
    /// The checkout pins its own, and a package its template's, if that is installed; else it is the user's usual one, whatever
    /// folder the notebook is in.
    pub fn find(source: &CrateSource) -> Result<Toolchain> {
        let (folder, pinned) = match source {
            CrateSource::Checkout(folder) => (folder.clone(), None),
            CrateSource::Package(package) => (std::env::temp_dir(), package::release_of_compiler(package)),
            CrateSource::Release => (std::env::temp_dir(), None),
        };
        let rustup = which::which("rustup").ok();
        // Rustup's own cargo would look up the toolchain at every call.
        let ask = |words: &[&str]| {
            let mut command = Command::new(rustup.as_ref()?);
            // What is not there is not fetched, in silence, when a kernel starts.
            command.arg("which").args(words).env("RUSTUP_AUTO_INSTALL", "0").current_dir(&folder);
            let path = stdout_of(&mut command).ok()?;
            Some(PathBuf::from(path.trim()))
        };
        let tool = |name: &str| -> Result<PathBuf> {
            let pinned = pinned.as_ref().and_then(|version| ask(&["--toolchain", version, name]));
            pinned
                .or_else(|| ask(&[name]))
                .or_else(|| which::which(name).ok())
                .ok_or_else(|| format!("{name} is not installed; get it from https://rustup.rs").into())
        };
        let (cargo, rustc) = (tool("cargo")?, tool("rustc")?);
        let version = stdout_of(Command::new(&rustc).arg("-vV"))?;
        let host = said(&version, "host").ok_or("rustc does not say what it compiles for")?.to_string();
        let cargo_version = stdout_of(Command::new(&cargo).arg("--version"))?.trim().to_string();
        let printed = stdout_of(Command::new(&rustc).args(["-O", "--print", "sysroot", "--print", "cfg"]))?;
        let (sysroot, target_settings) = printed.split_once('\n').ok_or("rustc does not say where it is")?;
        Ok(Toolchain {
            cargo,
            rustc,
            rustup,
            version,
            cargo_version,
            target_settings: target_settings.to_string(),
            sysroot: PathBuf::from(sysroot),
            host,
        })
    }

    /// Where the standard library's own dynamic library lies. Not all installations have it in `lib` too.
    pub fn library_folder(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(&self.host).join("lib")
    }

    /// The source of the standard library, where it is installed.
    pub fn std_source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    pub fn has_rust_src(&self) -> bool {
        self.std_source().join("core").exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The session library finds it only there: its own run path holds for the folder that it was linked in.
    #[test]
    fn the_standard_library_is_where_it_is_looked_for() -> Result<()> {
        let folder = Toolchain::find(&CrateSource::find())?.library_folder();
        let dynamic = |name: &str| name.contains("std-") && name.ends_with(std::env::consts::DLL_SUFFIX);
        let names = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.file_name());
        assert!(names.into_iter().any(|name| dynamic(&name.to_string_lossy())), "{}", folder.display());
        Ok(())
    }
}
