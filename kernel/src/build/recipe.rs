//! What a template is made of, and the key that names it.
//!
//! In the key is all that decides what is in a template: the compiler, cargo and the user's settings of it, this program's
//! version, where headlight comes from with its files and its lock, and the text of the files that make the template of
//! these (`RECIPE`). What looks after templates and tells of their building, in `template` and `compile`, is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Result;
use crate::build::completion_filter::{self, PrivateNames};
use crate::build::source::{CrateSource, quote_path};
use crate::build::std_stub;
use crate::build::toolchain::Toolchain;
use crate::process::stdout_of;
use crate::shim::metadata::packages;
use crate::shim::protocol::{INVOCATION, METADATA, RustcInvocation};
use crate::shim::{artifacts, cargo};

/// A template that is made in another way, or of other files, is another template.
const RECIPE: [&str; 7] = [
    include_str!("recipe.rs"),
    include_str!("std_stub.rs"),
    include_str!("completion_filter.rs"),
    include_str!("../shim/cargo.rs"),
    include_str!("../shim/artifacts.rs"),
    include_str!("../shim/protocol.rs"),
    include_str!("../shim/rustc.rs"),
];
const SESSION_SOURCE: &str = include_str!("../../session/lib.rs");
/// This one is the session's own, in the version that evcxr speaks with.
const INPUT_SOURCE: &str = include_str!("../../session/evcxr_input.rs");
const INPUT_VERSION: &str = "1.0.0";
/// Crates that a cell can ask for without a build: in the version and with the features that headlight has them.
const AVAILABLE_DEPS: [&str; 3] = ["candle-core", "plotly", "tokenizers"];

/// In a template: the folders of its sessions.
pub const SESSIONS: &str = "sessions";
/// In a template: where headlight came from.
pub const SOURCE_NOTE: &str = "source";
/// In a template: the standard library's source, as rust-analyzer is to read it.
pub const STD_STUB: &str = "library";
/// In a template: the names that completion is not to offer.
pub const PRIVATE_NAMES: &str = "hidden.json";

/// The name of the template for this compiler and this source.
pub fn key(toolchain: &Toolchain, source: &CrateSource, templates: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (&toolchain.version, &toolchain.rustc, &toolchain.cargo_version).hash(&mut hasher);
    (cargo::settings(templates), SESSION_SOURCE, INPUT_SOURCE, RECIPE).hash(&mut hasher);
    (env!("CARGO_PKG_VERSION"), source.describe(), source.dependency(), source.lock()).hash(&mut hasher);
    for file in source.files()? {
        file.hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Writes what cargo is to build. Gives what cells can depend on, as values of Cargo.toml, and what cargo knows of all crates.
pub fn write_packages(
    folder: &Path,
    source: &CrateSource,
    toolchain: &Toolchain,
) -> Result<(BTreeMap<String, String>, Value)> {
    fs::create_dir_all(folder.join(SESSIONS))?;
    fs::write(folder.join(SOURCE_NOTE), source.describe())?;
    let session = folder.join("session");
    let manifest = format!(
        "[package]\nname = \"headlight-session\"\nversion = \"{}\"\nedition = \"2024\"\n\n\
         [dependencies]\nheadlight = {}\nserde_json = \"1\"\n",
        env!("CARGO_PKG_VERSION"),
        source.dependency()
    );
    write_package(&session, &manifest, SESSION_SOURCE)?;
    let input = folder.join("evcxr_input");
    let manifest =
        format!("[package]\nname = \"evcxr_input\"\nversion = \"{INPUT_VERSION}\"\nedition = \"2024\"\n");
    write_package(&input, &manifest, INPUT_SOURCE)?;
    let ctx = folder.join("ctx");
    let mut dependencies = BTreeMap::from([
        (
            "headlight".to_string(),
            format!("{{ package = \"headlight-session\", path = {} }}", quote_path(&session)),
        ),
        (
            "evcxr_input".to_string(),
            format!("{{ version = \"={INPUT_VERSION}\", path = {} }}", quote_path(&input)),
        ),
    ]);
    write_package(&ctx, &cell_manifest(&dependencies), "")?;
    if let Some(lock) = source.lock() {
        fs::write(ctx.join("Cargo.lock"), lock)?;
    }
    let metadata = read_metadata(&ctx, toolchain)?;
    for name in AVAILABLE_DEPS {
        dependencies.insert(name.to_string(), dependency_of_headlight(&metadata, name));
    }
    write_package(&ctx, &cell_manifest(&dependencies), "")?;
    let metadata = read_metadata(&ctx, toolchain)?;
    Ok((dependencies, metadata))
}

/// A dependency on a crate that is in the graph already, adding no feature to it.
fn dependency_of_headlight(metadata: &Value, name: &str) -> String {
    let version =
        packages(metadata).find(|package| package["name"] == name).map(|package| &package["version"]);
    match version.and_then(Value::as_str) {
        Some(version) => format!("{{ version = \"={version}\", default-features = false }}"),
        None => "\"*\"".to_string(),
    }
}

fn write_package(folder: &Path, manifest: &str, source: &str) -> Result<()> {
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("Cargo.toml"), manifest)?;
    Ok(fs::write(folder.join("src/lib.rs"), source)?)
}

/// Of the crate of a cell.
fn cell_manifest(dependencies: &BTreeMap<String, String>) -> String {
    let dependencies: String =
        dependencies.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    format!(
        "[package]\nname = \"ctx\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n\
         [lib]\ncrate-type = [\"cdylib\"]\npath = \"src/lib.rs\"\n\n\
         [dependencies]\n{dependencies}"
    )
}

fn read_metadata(ctx: &Path, toolchain: &Toolchain) -> Result<Value> {
    let mut command = cargo::metadata(&toolchain.cargo, &toolchain.host);
    Ok(serde_json::from_str(&stdout_of(command.current_dir(ctx))?)?)
}

/// Keeps what was built, of which cargo has named the files, where no later build changes it; and what cargo knows of these
/// packages, so that it goes on from there in a session.
pub fn keep_libraries(
    folder: &Path,
    target: &Path,
    metadata: &Value,
    mut built: BTreeSet<PathBuf>,
) -> Result<()> {
    let invocation = folder.join(INVOCATION);
    // Of the session's dynamic library cargo does not know.
    built.extend(RustcInvocation::read(&invocation)?.libraries());
    // What earlier builds left there may fit to nothing that there is now.
    artifacts::preserve(&invocation, target, folder, &|path| built.contains(path))?;
    let names: BTreeSet<&str> = packages(metadata).filter_map(|package| package["name"].as_str()).collect();
    artifacts::copy_build(target, folder, &names)
}

/// Writes what completion and rust-analyzer are to know of the crates.
pub fn write_index(folder: &Path, toolchain: &Toolchain, metadata: &Value) -> Result<()> {
    std_stub::write(&toolchain.std_source(), &folder.join(STD_STUB))?;
    let private = find_private_names(metadata, toolchain);
    fs::write(folder.join(PRIVATE_NAMES), serde_json::to_vec(&private)?)?;
    Ok(fs::write(folder.join(METADATA), serde_json::to_vec(metadata)?)?)
}

fn find_private_names(metadata: &Value, toolchain: &Toolchain) -> PrivateNames {
    let own = ["headlight-session", "headlight", "candle-core"].into_iter().filter_map(|name| {
        let package = packages(metadata).find(|package| package["name"] == name)?;
        Some(Path::new(package["manifest_path"].as_str()?).parent()?.join("src"))
    });
    let public = ["core", "alloc", "std"].map(|name| toolchain.std_source().join(name).join("src"));
    completion_filter::private_names(&own.collect::<Vec<PathBuf>>(), &public)
}

/// The dependencies as cargo reads them, so that what evcxr writes can be compared.
pub fn parse_dependencies(dependencies: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let parse = |(name, value): (&String, &String)| {
        Ok((name.clone(), format!("x = {value}").parse::<toml::Table>()?["x"].to_string()))
    };
    dependencies.iter().map(parse).collect()
}
