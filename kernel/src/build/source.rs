//! Where the crate headlight comes from that cells use.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

pub enum CrateSource {
    Checkout(PathBuf),
    Release,
}

impl CrateSource {
    /// The checkout that this program was built from, if it is still there and of the same version.
    pub fn find() -> CrateSource {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        match checkout {
            Some(folder) if version_of(folder).as_deref() == Some(env!("CARGO_PKG_VERSION")) => {
                CrateSource::Checkout(folder.to_path_buf())
            }
            _ => CrateSource::Release,
        }
    }

    /// For people: where the crate comes from.
    pub fn describe(&self) -> String {
        match self {
            CrateSource::Checkout(folder) => format!("the checkout at {}", folder.display()),
            CrateSource::Release => format!("release {} of crates.io", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Where cargo builds the checkout's own programs, of which this is one: what they need and notebooks too is built once.
    pub fn build_folder(&self) -> Option<PathBuf> {
        let CrateSource::Checkout(_) = self else { return None };
        let program = std::env::current_exe().ok()?;
        let folder = program.ancestors().nth(2)?;
        // Cargo's own note of the compiler: elsewhere this program was installed.
        folder.join(".rustc_info.json").exists().then(|| folder.to_path_buf())
    }

    /// As a value of Cargo.toml's dependencies.
    pub fn dependency(&self) -> String {
        match self {
            CrateSource::Checkout(folder) => {
                format!("{{ path = {}, default-features = false }}", quote_path(folder))
            }
            CrateSource::Release => {
                format!("{{ version = \"={}\", default-features = false }}", env!("CARGO_PKG_VERSION"))
            }
        }
    }

    /// The versions that it is known to work with.
    pub fn lock(&self) -> Option<String> {
        match self {
            CrateSource::Checkout(folder) => fs::read_to_string(folder.join("Cargo.lock")).ok(),
            CrateSource::Release => None,
        }
    }

    /// Every file of the crate that its library is made of.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        if let CrateSource::Checkout(folder) = self {
            files.push(folder.join("Cargo.toml"));
            files.push(folder.join("README.md"));
            let mut folders = vec![folder.join("src"), folder.join("assets")];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(&folder)? {
                    let path = entry?.path();
                    if path.is_dir() { folders.push(path) } else { files.push(path) }
                }
            }
            files.sort();
        }
        Ok(files)
    }
}

/// A path as TOML has it.
pub fn quote_path(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}

fn version_of(folder: &Path) -> Option<String> {
    let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml")).ok()?.parse().ok()?;
    if manifest.get("package")?.get("name")?.as_str()? != "headlight" {
        return None;
    }
    let version = manifest.get("package")?.get("version")?;
    let inherited = || manifest.get("workspace")?.get("package")?.get("version")?.as_str();
    version.as_str().or_else(inherited).map(str::to_string)
}
