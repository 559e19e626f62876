//! Where the crate headlight comes from that cells use.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::build::package;

pub enum CrateSource {
    /// The repository that this program was built from.
    Checkout(PathBuf),
    /// What was installed with this program, in the wheel: `build::package` says what is there.
    Package(PathBuf),
    Release,
}

/// The checkout that this program is built from; none in a wheel, which knows nothing of the machine that made it.
const CHECKOUT: Option<&str> =
    if option_env!("HEADLIGHT_PACKAGE").is_some() { None } else { Some(env!("CARGO_MANIFEST_DIR")) };

impl CrateSource {
    /// Whatever of these is there, and of this program's version.
    pub fn find() -> CrateSource {
        let is_ours = |folder: &Path| version_of(folder).as_deref() == Some(env!("CARGO_PKG_VERSION"));
        if let Some(checkout) = CHECKOUT.and_then(|kernel| Path::new(kernel).parent()) {
            return match is_ours(checkout) {
                true => CrateSource::Checkout(checkout.to_path_buf()),
                false => CrateSource::Release,
            };
        }
        match package::find().filter(|package| is_ours(&package.join(package::CRATE))) {
            Some(package) => CrateSource::Package(package),
            None => CrateSource::Release,
        }
    }

    /// Its folder, where it has one.
    fn folder(&self) -> Option<PathBuf> {
        match self {
            CrateSource::Checkout(folder) => Some(folder.clone()),
            CrateSource::Package(package) => Some(package.join(package::CRATE)),
            CrateSource::Release => None,
        }
    }

    /// For people: where the crate comes from.
    pub fn describe(&self) -> String {
        match self {
            CrateSource::Checkout(folder) => format!("the checkout at {}", folder.display()),
            CrateSource::Package(package) => format!("the package at {}", package.display()),
            CrateSource::Release => format!("release {} of crates.io", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Where cargo builds the checkout's own programs, of which this is one: what they need and notebooks too is built once.
    pub fn build_folder(&self) -> Option<PathBuf> {
        self.folder()?;
        let program = std::env::current_exe().ok()?;
        let folder = program.ancestors().nth(2)?;
        // Cargo's own note of the compiler: elsewhere this program was installed.
        folder.join(".rustc_info.json").exists().then(|| folder.to_path_buf())
    }

    /// As a value of Cargo.toml's dependencies.
    pub fn dependency(&self) -> String {
        let place = match self.folder() {
            Some(folder) => format!("path = {}", quote_path(&folder)),
            None => format!("version = \"={}\"", env!("CARGO_PKG_VERSION")),
        };
        format!("{{ {place}, default-features = false }}")
    }

    /// The versions that it is known to work with.
    pub fn lock(&self) -> Option<String> {
        fs::read_to_string(self.folder()?.join("Cargo.lock")).ok()
    }

    /// Every file of the crate that its library is made of; and of a package what it says of its template.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let Some(folder) = self.folder() else { return Ok(Vec::new()) };
        let mut files = vec![folder.join("Cargo.toml"), folder.join("README.md")];
        if let CrateSource::Package(package) = self {
            files.extend(Some(package.join(package::NOTE)).filter(|note| note.exists()));
        }
        let mut folders = vec![folder.join("src"), folder.join("assets")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
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
