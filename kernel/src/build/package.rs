//! What a wheel carries for notebooks: headlight's crate, and a template for one compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::said;

/// In a package: headlight's crate, as it is published, with its lock.
pub const CRATE: &str = "headlight";
/// In a package: what its template is for.
pub const NOTE: &str = "template.json";
/// In a package: its template, as a tape archive compressed by LZMA.
pub const ARCHIVE: &str = "template.tar.lzma";

/// What is said of a package's template.
#[derive(Serialize, Deserialize)]
pub struct Note {
    /// As `rustc -vV` has it.
    pub compiler: String,
    pub dependencies: BTreeMap<String, String>,
    /// What the archive holds, in bytes.
    pub size: u64,
}

/// The package that this program was installed with.
pub fn find() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let package = program.parent()?.parent()?.join("share/headlight-kernel");
    package.exists().then_some(package)
}

pub fn note(package: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(package.join(NOTE)).ok()?).ok()
}

/// The version of the compiler that a package has a template for.
pub fn release_of_compiler(package: &Path) -> Option<String> {
    said(&note(package)?.compiler, "release").map(str::to_string)
}

/// Why a package's template is not for this compiler, if it is not.
pub fn refusal(package: &Path, compiler: &str) -> Option<String> {
    match note(package) {
        Some(note) if note.compiler == compiler => None,
        Some(note) => {
            let name = |compiler: &str| {
                let [release, host] =
                    ["release", "host"].map(|what| said(compiler, what).unwrap_or("unknown"));
                format!("Rust {release} for {host}")
            };
            Some(format!("the package has it for {}, and this is {}", name(&note.compiler), name(compiler)))
        }
        None => Some("the package has nothing built in it".to_string()),
    }
}
