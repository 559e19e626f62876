//! What the kernel and the programs that stand in for cargo, rustup and rustc tell each other: variables, and files in the
//! folders of a session and of its template.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Result;

/// The folder of the session whose tools these are.
pub const SESSION: &str = "HEADLIGHT_SESSION";
/// Where to note the call of rustc for the crate of the cell, when cargo calls us in rustc's place.
pub const RECORD: &str = "HEADLIGHT_RECORD";
/// The template whose crates are there already, when cargo calls us in rustc's place for a session.
pub const TEMPLATE: &str = "HEADLIGHT_TEMPLATE";

/// In a session: what the stand-ins know of it.
const CONFIG: &str = "session.json";
/// In a session: what the notebook shows while it waits, a line each.
pub const NOTICES: &str = "notices";
/// In a session: the process group that compiles.
pub const COMPILER: &str = "compiler";
/// In a template: how rustc is called for a cell.
pub const INVOCATION: &str = "call.json";
/// In a template: where sessions build what it lacks.
pub const TARGET: &str = "target";
/// In a template that came in a package: where sessions build all of it, for a dependency that asks for more of it.
pub const TARGET_ANEW: &str = "target-anew";
/// In a template: what cargo knows of its crates.
pub const METADATA: &str = "metadata.json";
/// In a template: its dependencies, written last of all.
const READY: &str = "ready";
/// In a template: it no longer fits.
const OUTDATED: &str = "outdated";
/// In a template: it came in a package.
const UNPACKED: &str = "unpacked";

/// What the stand-ins know of their session.
#[derive(Serialize, Deserialize)]
pub struct SessionConfig {
    /// The template's folder.
    pub template: PathBuf,
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// The real `rustup`, where there is one.
    pub rustup: Option<PathBuf>,
    /// As it was before the stand-ins were put first.
    pub path: OsString,
    pub cargo_home: Option<OsString>,
    pub cargo_version: String,
    pub host: String,
    /// As `rustc --print cfg` has it.
    pub target_settings: String,
    /// The dependencies that the template was built with, as values of Cargo.toml.
    pub dependencies: BTreeMap<String, String>,
}

impl SessionConfig {
    pub fn read(session: &Path) -> Result<SessionConfig> {
        Ok(serde_json::from_slice(&std::fs::read(session.join(CONFIG))?)?)
    }

    pub fn write(&self, session: &Path) -> Result<()> {
        Ok(std::fs::write(session.join(CONFIG), serde_json::to_vec(self)?)?)
    }
}

/// How rustc was called for the crate of the cell.
#[derive(Serialize, Deserialize)]
pub struct RustcInvocation {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
}

impl RustcInvocation {
    pub fn read(file: &Path) -> Result<RustcInvocation> {
        Ok(serde_json::from_slice(&std::fs::read(file)?)?)
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        Ok(std::fs::write(file, serde_json::to_vec(self)?)?)
    }

    /// The libraries that it names, one by one.
    pub fn libraries(&self) -> impl Iterator<Item = PathBuf> {
        let externs = self.arguments.windows(2).filter(|pair| pair[0] == "--extern");
        externs.filter_map(|pair| Some(PathBuf::from(pair[1].split_once('=')?.1)))
    }
}

/// What an option of a call of rustc says, where that is a word of its own.
pub fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str())
}

/// What a call of rustc adds to the names of its files.
pub fn extra_filename(arguments: &[String]) -> Option<&str> {
    arguments.iter().find_map(|word| word.strip_prefix("extra-filename="))
}

/// The file of a dynamic library.
pub fn dylib_name(name: &str) -> String {
    format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// The dependencies of a template that was built to its end.
pub fn read_ready(template: &Path) -> Option<BTreeMap<String, String>> {
    serde_json::from_slice(&std::fs::read(template.join(READY)).ok()?).ok()
}

/// Says that a template is built to its end.
pub fn mark_ready(template: &Path, dependencies: &BTreeMap<String, String>) -> Result<()> {
    crate::files::write_whole(&template.join(READY), &serde_json::to_vec(dependencies)?)
}

/// Has the next kernel that starts build the template anew.
pub fn mark_outdated(template: &Path) -> Result<()> {
    std::fs::write(template.join(OUTDATED), "")?;
    Ok(std::fs::remove_file(template.join(READY))?)
}

/// Whether a template no longer fits to what cargo builds.
pub fn is_outdated(template: &Path) -> bool {
    template.join(OUTDATED).exists()
}

/// Says that a template came in a package.
pub fn mark_unpacked(template: &Path) -> Result<()> {
    Ok(std::fs::write(template.join(UNPACKED), "")?)
}

/// Whether a template came in a package: it lacks what crates were compiled to, and headlight was built elsewhere.
pub fn is_unpacked(template: &Path) -> bool {
    template.join(UNPACKED).exists()
}

/// A number that stands for these parts in names of files.
pub fn fingerprint(parts: &[&dyn AsRef<[u8]>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        part.as_ref().hash(&mut hasher);
    }
    hasher.finish()
}
