//! How the real cargo is called: in the same world wherever that is, or it would build again what the template links.
//!
//! Cargo runs a build script again where a variable that it looked at has changed, and builds all that is above it; and
//! `cargo run` sets dozens of variables for the program that it starts, which a kernel that Jupyter started lacks.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::shim::protocol::RECORD;

/// How the names begin of what cargo, rustup, evcxr and we set for the programs that we start, and of what would have
/// cargo build in another way.
const NOT_FOR_CARGO: [&str; 6] = ["CARGO", "__CARGO", "RUST", "EVCXR", "HEADLIGHT", "OUT_DIR"];
/// And yet these are what the user means for cargo: where things are and how they are fetched.
const FOR_CARGO: [&str; 11] = [
    "CARGO_BUILD_JOBS",
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "RUSTC_BOOTSTRAP",
    "RUSTUP_DIST_",
    "RUSTUP_HOME",
    "RUST_BACKTRACE",
];
/// Where the system looks for dynamic libraries.
pub const LIBRARY_PATH: &str =
    if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };

/// Cargo, or another tool of the compiler's folder, with nothing in its environment of what started this process.
pub fn command(tool: &Path) -> Command {
    let mut command = Command::new(tool);
    for (name, _) in std::env::vars_os().filter(|(name, _)| !is_for_cargo(name)) {
        command.env_remove(name);
    }
    if let Some(all) = std::env::var_os(LIBRARY_PATH) {
        let program = std::env::current_exe().unwrap_or_default();
        let added =
            [program.parent().map(Path::to_path_buf), tool.ancestors().nth(2).map(|root| root.join("lib"))];
        match remove_folders(&all, added.into_iter().flatten()) {
            Some(folders) => command.env(LIBRARY_PATH, folders),
            None => command.env_remove(LIBRARY_PATH),
        };
    }
    command
}

/// The build of what cells link to: of the template, and of what a session asks for besides. Cargo gives to files the names
/// of all that decides what is in them; whatever is different here would have other names there. It is as plain as
/// `cargo build --release`, so that a checkout's own programs and its notebooks are built of the same crates.
pub fn build(cargo: &Path, rustc: &Path, host: &str, target: &Path, record: &Path) -> Result<Command> {
    let mut command = self::command(cargo);
    command
        .args(["build", "--release", "--message-format=json"])
        // Not by a variable, which build scripts could look at.
        .arg("--config")
        .arg(format!("build.rustc={}", toml::Value::String(rustc.to_string_lossy().into_owned())))
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_BUILD_BUILD_DIR", target)
        .env("RUSTC_WRAPPER", std::env::current_exe()?)
        .env(RECORD, record)
        .env("CARGO_TERM_COLOR", "never");
    // Cells run here, whatever the user builds for otherwise.
    if settings(record.parent().unwrap_or(target)).iter().any(|file| names_target(file)) {
        command.args(["--target", host]);
    }
    Ok(command)
}

/// Whether a file of settings has cargo build for another system than it runs on.
fn names_target(file: &[u8]) -> bool {
    let settings = std::str::from_utf8(file).ok().and_then(|text| text.parse::<toml::Table>().ok());
    settings.is_some_and(|settings| settings.get("build").is_some_and(|build| build.get("target").is_some()))
}

/// The question what there is of crates, for this kind of system.
pub fn metadata(cargo: &Path, host: &str) -> Command {
    let mut command = self::command(cargo);
    command.args(["metadata", "--format-version", "1", "--filter-platform", host]);
    command
}

/// The user's settings, as cargo reads them for what it builds in a folder: they may change how it builds.
pub fn settings(folder: &Path) -> Vec<Vec<u8>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(dirs::home_dir()?.join(".cargo")));
    let folders = folder.ancestors().map(|folder| folder.join(".cargo")).chain(home);
    let files = folders.flat_map(|folder| ["config.toml", "config"].map(|name| folder.join(name)));
    files.filter_map(|file| std::fs::read(file).ok()).collect()
}

/// Whether a line that cargo prints says how far it is.
pub fn is_progress(line: &str) -> bool {
    ["Compiling ", "Downloading ", "Downloaded ", "Updating ", "Locking ", "Blocking "]
        .iter()
        .any(|word| line.trim_start().starts_with(word))
}

fn is_for_cargo(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    // Without the user's linker nothing may be built at all.
    let is_linker = name.starts_with("CARGO_TARGET_") && name.ends_with("_LINKER");
    !begins(&NOT_FOR_CARGO) || begins(&FOR_CARGO) || is_linker
}

/// The folders of a list that are in none of the `added`: cargo and rustup name their own for what they start.
fn remove_folders(list: &OsStr, added: impl Iterator<Item = PathBuf>) -> Option<OsString> {
    let real = |folder: &Path| folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let added: Vec<PathBuf> = added.map(|folder| real(&folder)).collect();
    let is_left = |folder: &PathBuf| !added.iter().any(|added| real(folder).starts_with(added));
    let left: Vec<PathBuf> = std::env::split_paths(list).filter(is_left).collect();
    std::env::join_paths(left).ok().filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_started_us_does_not_reach_cargo_and_what_the_user_means_does() {
        for name in [
            "CARGO",
            "CARGO_BIN_NAME",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_CRATE_NAME",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_INCREMENTAL",
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_PKG_VERSION_PRE",
            "CARGO_PRIMARY_PACKAGE",
            "CARGO_PROFILE_DEV_OPT_LEVEL",
            "CARGO_TARGET_DIR",
            "CARGO_TARGET_TMPDIR",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "EVCXR_IS_RUNTIME",
            "HEADLIGHT_SESSION",
            "OUT_DIR",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTDOC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "RUST_RECURSION_COUNT",
            "RUST_SRC_PATH",
            "__CARGO_DEFAULT_LIB_METADATA",
        ] {
            assert!(!is_for_cargo(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_BUILD_JOBS",
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_MINE_TOKEN",
            "CARGO_REGISTRY_DEFAULT",
            "CARGO_SOURCE_CRATES_IO_REPLACE_WITH",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
            "CC",
            "CFLAGS",
            "HOME",
            "HTTPS_PROXY",
            "PATH",
            "RUSTC_BOOTSTRAP",
            "RUSTUP_HOME",
        ] {
            assert!(is_for_cargo(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn settings_that_name_a_target_are_seen() {
        for (file, names) in [
            ("[build]\ntarget = \"wasm32-unknown-unknown\"", true),
            ("build.target = [\"a\", \"b\"]", true),
            ("[build]\ntarget-dir = \"x\"\n[target.x86_64-unknown-linux-gnu]\nlinker = \"lld\"", false),
            ("not toml", false),
        ] {
            assert_eq!(names_target(file.as_bytes()), names, "{file}");
        }
    }

    #[test]
    fn folders_of_libraries_are_the_users_own() {
        let list = |folders: &[&str]| std::env::join_paths(folders).unwrap();
        let added = ["/tools/1.95/lib", "/checkout/target/release"].map(PathBuf::from);
        let left = |folders: &[&str]| remove_folders(&list(folders), added.clone().into_iter());
        assert_eq!(
            left(&["/tools/1.95/lib", "/opt/lib", "/checkout/target/release/deps", "/tools/1.95/lib64"]),
            Some(list(&["/opt/lib", "/tools/1.95/lib64"]))
        );
        assert_eq!(left(&["/tools/1.95/lib/rustlib/x/lib"]), None);
    }
}
