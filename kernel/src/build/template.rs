//! What every session starts from: headlight and what it needs, built once.
//!
//! A template is a folder named by a fingerprint of all that it depends on: compiler, evcxr, lock file, and the crate's
//! own source. It is built under a lock and counts only once the file `ready` is in it, which is written last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use serde_json::Value;

use crate::Result;
use crate::build::completion_filter as names;
use crate::build::std_stub as library;
use crate::shim::artifacts;
use crate::shim::cargo;
use crate::shim::tools;

const EVCXR: &str = "0.22.0";
/// A template that was built in another way is another template.
const HOW: [&str; 5] = [
    include_str!("template.rs"),
    include_str!("../shim/artifacts.rs"),
    include_str!("../shim/cargo.rs"),
    include_str!("completion_filter.rs"),
    include_str!("std_stub.rs"),
];
const SESSION_SOURCE: &str = include_str!("../../session/lib.rs");
/// Crates that a cell can ask for without a build: in the version and with the features that headlight has them.
const BESIDE: [&str; 3] = ["candle-core", "plotly", "tokenizers"];
/// This one is the session's own, in the version that evcxr speaks with.
const INPUT_SOURCE: &str = include_str!("../../session/evcxr_input.rs");
const INPUT_VERSION: &str = "1.0.0";

/// The dependencies are optimised, the cell is not: it is compiled each time, and mostly calls what is.
const PROFILE: &str = r#"[profile.dev.package."*"]
opt-level = 3
debug-assertions = false
overflow-checks = false

[profile.dev.build-override]
opt-level = 0
"#;

/// The process of the build that is under way, if one is.
static BUILDING: AtomicU32 = AtomicU32::new(0);

/// Where the crate comes from that cells use.
pub enum Source {
    Checkout(PathBuf),
    Release,
}

impl Source {
    /// The checkout that this program was built from, if it is still there and of the same version.
    pub fn find() -> Source {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        match checkout {
            Some(folder) if version_of(folder).as_deref() == Some(env!("CARGO_PKG_VERSION")) => {
                Source::Checkout(folder.to_path_buf())
            }
            _ => Source::Release,
        }
    }

    /// For people: where the crate comes from.
    pub fn describe(&self) -> String {
        match self {
            Source::Checkout(folder) => format!("the checkout at {}", folder.display()),
            Source::Release => format!("release {} of crates.io", env!("CARGO_PKG_VERSION")),
        }
    }

    fn dependency(&self) -> String {
        match self {
            Source::Checkout(folder) => {
                format!("{{ path = {}, default-features = false }}", quoted(folder))
            }
            Source::Release => {
                format!("{{ version = \"={}\", default-features = false }}", env!("CARGO_PKG_VERSION"))
            }
        }
    }

    fn lock(&self) -> Option<String> {
        match self {
            Source::Checkout(folder) => fs::read_to_string(folder.join("Cargo.lock")).ok(),
            Source::Release => None,
        }
    }

    /// Every file of the crate that its library is made of.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        if let Source::Checkout(folder) = self {
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
fn quoted(path: &Path) -> String {
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

/// The compiler and its tools, as they are without the stand-ins.
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
    /// The checkout pins its own; else it is the user's usual one, whatever folder the notebook is in.
    pub fn find(source: &Source) -> Result<Toolchain> {
        let folder = match source {
            Source::Checkout(folder) => folder.clone(),
            Source::Release => std::env::temp_dir(),
        };
        let rustup = found_on_path("rustup");
        let tool = |name: &str| -> Result<PathBuf> {
            // Rustup's own cargo would look up the toolchain at every call.
            let real = rustup.as_ref().and_then(|rustup| {
                let output = Command::new(rustup).args(["which", name]).current_dir(&folder).output().ok()?;
                output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
            });
            real.or_else(|| found_on_path(name))
                .ok_or_else(|| format!("{name} is not installed; get it from https://rustup.rs").into())
        };
        let (cargo, rustc) = (tool("cargo")?, tool("rustc")?);
        let version = output_of(Command::new(&rustc).arg("-vV"))?;
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .ok_or("rustc does not say what it compiles for")?
            .to_string();
        let cargo_version = output_of(Command::new(&cargo).arg("--version"))?.trim().to_string();
        let printed = output_of(Command::new(&rustc).args(["-O", "--print", "sysroot", "--print", "cfg"]))?;
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
    pub fn libraries(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(&self.host).join("lib")
    }

    pub fn has_rust_src(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core").exists()
    }
}

fn found_on_path(name: &str) -> Option<PathBuf> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(&file))
        .find(|path| path.is_file())
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub fn fingerprint(parts: &[&dyn AsRef<[u8]>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        part.as_ref().hash(&mut hasher);
    }
    hasher.finish()
}

/// Where templates and sessions live.
pub fn cache_folder() -> Result<PathBuf> {
    std::env::var_os("HEADLIGHT_CACHE")
        .map(PathBuf::from)
        .or_else(|| dirs::cache_dir().map(|folder| folder.join("headlight")))
        // Notebooks run in their own folders.
        .and_then(|folder| std::path::absolute(folder).ok())
        .ok_or_else(|| "no folder for caches; set HEADLIGHT_CACHE to one".into())
}

/// The dependencies that every session begins with.
pub const AT_ONCE: [&str; 3] = ["headlight", "candle-core", "evcxr_input"];

pub struct Template {
    pub folder: PathBuf,
    pub dependencies: BTreeMap<String, String>,
    pub toolchain: Toolchain,
}

impl Template {
    /// The template for this compiler and this source, built if it is not there. `progress` is told what happens.
    pub fn prepare(progress: &mut dyn FnMut(&str)) -> Result<Template> {
        let source = Source::find();
        let toolchain = Toolchain::find(&source)?;
        let cache = cache_folder()?;
        let templates = cache.join("templates");
        fs::create_dir_all(&templates).map_err(|error| {
            format!(
                "{} cannot be made: {error}; set HEADLIGHT_CACHE to a folder that can",
                templates.display()
            )
        })?;
        let key = key(&toolchain, &source, &templates)?;
        let folder = templates.join(&key);
        if let Some(dependencies) = ready(&folder) {
            return Ok(Template { folder, dependencies, toolchain });
        }
        // One build at a time: what is built is in place for all templates until it is in its own.
        let lock = File::create(templates.join("building.lock"))?;
        if lock.try_lock().is_err() {
            progress("waiting for another kernel that builds headlight");
            lock.lock()?;
        }
        if let Some(dependencies) = ready(&folder) {
            return Ok(Template { folder, dependencies, toolchain });
        }
        progress(&format!(
            "building headlight, from {}, once; later kernels start from it",
            source.describe()
        ));
        let target = cache.join(format!("target-{:016x}", fingerprint(&[&toolchain.version])));
        let dependencies = build(&folder, &target, &source, &toolchain, progress)?;
        if self::key(&toolchain, &source, &templates)? != key {
            fs::remove_dir_all(&folder)?;
            return Err("the source of headlight changed while it was built; try again".into());
        }
        remove_earlier(&templates, &folder);
        Ok(Template { folder, dependencies, toolchain })
    }

    /// Whether sessions start at once, because all is built.
    pub fn is_ready() -> Result<bool> {
        let source = Source::find();
        let templates = cache_folder()?.join("templates");
        let key = key(&Toolchain::find(&source)?, &source, &templates)?;
        Ok(ready(&templates.join(key)).is_some())
    }

    /// The library that every cell links to.
    pub fn session_library(&self) -> Result<PathBuf> {
        let call = tools::Call::read(&self.folder.join(tools::CALL))?;
        let path = call.arguments.iter().find_map(|word| word.strip_prefix("headlight="));
        path.map(PathBuf::from)
            .ok_or_else(|| "the template lacks its library; run headlight-kernel install".into())
    }

    /// The standard library's source, as rust-analyzer is to read it; none if it is not installed.
    pub fn library(&self) -> Option<PathBuf> {
        let library = self.folder.join("library");
        library.join("core/src/lib.rs").exists().then_some(library)
    }

    pub fn sessions(&self) -> PathBuf {
        self.folder.join("sessions")
    }
}

/// The dependencies of a template that was built to its end.
fn ready(folder: &Path) -> Option<BTreeMap<String, String>> {
    serde_json::from_slice(&fs::read(folder.join("ready")).ok()?).ok()
}

/// Has cargo build the template anew, for the next kernel that starts.
pub fn declare_outdated(template: &Path) -> Result<()> {
    Ok(fs::remove_file(template.join("ready"))?)
}

fn key(toolchain: &Toolchain, source: &Source, templates: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (&toolchain.version, &toolchain.rustc, EVCXR, SESSION_SOURCE, INPUT_SOURCE, HOW).hash(&mut hasher);
    (&toolchain.cargo_version, cargo::settings(templates)).hash(&mut hasher);
    (env!("CARGO_PKG_VERSION"), source.describe(), source.lock()).hash(&mut hasher);
    for file in source.files()? {
        file.hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn build(
    folder: &Path,
    target: &Path,
    source: &Source,
    toolchain: &Toolchain,
    progress: &mut dyn FnMut(&str),
) -> Result<BTreeMap<String, String>> {
    // What an earlier build left that was cut short, or that is outdated.
    if folder.exists() {
        if crate::engine::session::any_alive(&folder.join("sessions")) {
            return Err("headlight must be built anew, and kernels still run from what is there; shut them down first".into());
        }
        fs::remove_dir_all(folder)?;
    }
    for part in ["session/src", "evcxr_input/src", "ctx/src", ".cargo", "sessions"] {
        fs::create_dir_all(folder.join(part))?;
    }
    fs::write(folder.join(".cargo/config.toml"), PROFILE)?;
    fs::write(folder.join("source"), source.describe())?;
    let session = folder.join("session");
    fs::write(session.join("src/lib.rs"), SESSION_SOURCE)?;
    fs::write(
        session.join("Cargo.toml"),
        format!(
            "[package]\nname = \"headlight-session\"\nversion = \"{}\"\nedition = \"2024\"\n\n\
             [lib]\ncrate-type = [\"dylib\"]\n\n[dependencies]\nheadlight = {}\nserde_json = \"1\"\n",
            env!("CARGO_PKG_VERSION"),
            source.dependency()
        ),
    )?;
    let input = folder.join("evcxr_input");
    fs::write(input.join("src/lib.rs"), INPUT_SOURCE)?;
    fs::write(
        input.join("Cargo.toml"),
        format!("[package]\nname = \"evcxr_input\"\nversion = \"{INPUT_VERSION}\"\nedition = \"2024\"\n"),
    )?;
    let ctx = folder.join("ctx");
    fs::write(ctx.join("src/lib.rs"), "")?;
    if let Some(lock) = source.lock() {
        fs::write(ctx.join("Cargo.lock"), lock)?;
    }
    let mut dependencies = BTreeMap::from([
        (
            "headlight".to_string(),
            format!("{{ package = \"headlight-session\", path = {} }}", quoted(&session)),
        ),
        (
            "evcxr_input".to_string(),
            format!("{{ version = \"={INPUT_VERSION}\", path = {} }}", quoted(&input)),
        ),
    ]);
    write_manifest(&ctx, &dependencies)?;
    let metadata = metadata(&ctx, toolchain)?;
    for name in BESIDE {
        dependencies.insert(name.to_string(), as_headlight_has_it(&metadata, name));
    }
    write_manifest(&ctx, &dependencies)?;
    let metadata = self::metadata(&ctx, toolchain)?;
    let call = folder.join(tools::CALL);
    let mut built = compile(&ctx, &call, target, toolchain, &metadata, progress)?;
    // Cargo names the session's library by a second place.
    built.extend(tools::Call::read(&call)?.libraries());
    // What earlier builds left there may fit to nothing that there is now.
    let is_ours = |path: &Path| !artifacts::is_library(path) || built.contains(path);
    artifacts::keep(&call, target, folder, &is_ours)?;
    progress("keeping what was built");
    artifacts::copy(target, &folder.join(tools::TARGET), &is_ours)?;
    progress("looking through what cells can name");
    let library = toolchain.sysroot.join("lib/rustlib/src/rust/library");
    library::slim(&library, &folder.join("library"))?;
    fs::write(folder.join("hidden.json"), serde_json::to_vec(&hidden_names(&metadata, toolchain))?)?;
    fs::write(folder.join("metadata.json"), serde_json::to_vec(&metadata)?)?;
    // As cargo reads them, so that what evcxr writes can be compared.
    let parsed = dependencies
        .iter()
        .map(|(name, value)| {
            Ok((name.clone(), format!("x = {value}").parse::<toml::Table>()?["x"].to_string()))
        })
        .collect::<Result<BTreeMap<String, String>>>()?;
    crate::files::write_whole(&folder.join("ready"), &serde_json::to_vec(&parsed)?)?;
    Ok(parsed)
}

/// A dependency on a crate that is in the graph already, adding no feature to it.
fn as_headlight_has_it(metadata: &Value, name: &str) -> String {
    let version =
        packages(metadata).find(|package| package["name"] == name).map(|package| &package["version"]);
    match version.and_then(Value::as_str) {
        Some(version) => format!("{{ version = \"={version}\", default-features = false }}"),
        None => "\"*\"".to_string(),
    }
}

fn write_manifest(ctx: &Path, dependencies: &BTreeMap<String, String>) -> Result<()> {
    let dependencies: String =
        dependencies.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    // The profile is evcxr's own.
    let manifest = format!(
        "[package]\nname = \"ctx\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n\
         [lib]\ncrate-type = [\"cdylib\"]\npath = \"src/lib.rs\"\n\n\
         [profile.dev]\nopt-level = 0\ndebug = false\nstrip = \"debuginfo\"\nrpath = true\nlto = false\n\
         debug-assertions = true\ncodegen-units = 16\npanic = 'unwind'\nincremental = true\noverflow-checks = true\n\n\
         [dependencies]\n{dependencies}"
    );
    Ok(fs::write(ctx.join("Cargo.toml"), manifest)?)
}

fn metadata(ctx: &Path, toolchain: &Toolchain) -> Result<Value> {
    let mut command = cargo::command(&toolchain.cargo);
    command.current_dir(ctx).args([
        "metadata",
        "--format-version",
        "1",
        "--filter-platform",
        &toolchain.host,
    ]);
    Ok(serde_json::from_str(&output_of(&mut command)?)?)
}

/// Gives the files that were made.
fn compile(
    ctx: &Path,
    record: &Path,
    target: &Path,
    toolchain: &Toolchain,
    metadata: &Value,
    progress: &mut dyn FnMut(&str),
) -> Result<BTreeSet<PathBuf>> {
    let of = packages(metadata).count();
    let mut command = cargo::build(&toolchain.cargo, &toolchain.rustc, &toolchain.host, target, record)?;
    command.current_dir(ctx).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that what cargo starts ends with it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    #[cfg(target_os = "linux")]
    // SAFETY: a call that is allowed between fork and exec.
    unsafe {
        use std::os::unix::process::CommandExt;
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    BUILDING.store(child.id(), SeqCst);
    let stdout = child.stdout.take().ok_or("cargo has no output")?;
    // Files; and compiler errors, if headlight itself does not build.
    let told = std::thread::spawn(move || {
        let (mut files, mut rendered) = (BTreeSet::new(), String::new());
        for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
            let message: Value = serde_json::from_str(&line).unwrap_or_default();
            if message["message"]["level"] == "error" {
                rendered.push_str(message["message"]["rendered"].as_str().unwrap_or_default());
            }
            let made = message["filenames"].as_array().into_iter().flatten();
            files.extend(made.filter_map(Value::as_str).map(PathBuf::from));
        }
        (files, rendered)
    });
    let mut log = String::new();
    let mut compiled = 0;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            if tools::is_progress(&line) {
                compiled += usize::from(line.trim_start().starts_with("Compiling"));
                progress(&format!("{compiled} of about {of} crates: {}", line.trim()));
            }
            log.push_str(&line);
            log.push('\n');
        }
    }
    let status = child.wait()?;
    BUILDING.store(0, SeqCst);
    let (files, rendered) = told.join().unwrap_or_default();
    if !status.success() {
        return Err(format!("headlight could not be built ({status}):\n{log}{rendered}").into());
    }
    Ok(files)
}

/// Ends a build that is under way; the next kernel begins it again.
pub fn stop_build() {
    #[cfg(unix)]
    if let Ok(group) = i32::try_from(BUILDING.swap(0, SeqCst))
        && group > 1
    {
        // SAFETY: a signal to the group that cargo was started in.
        unsafe { libc::kill(-group, libc::SIGTERM) };
    }
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

/// What rust-analyzer needs to know the types of cells: headlight, candle's tensors and what the cells ask for; not the two
/// hundred crates of the template below these, which it would take seconds to read.
pub fn pruned(mut metadata: Value, template: &Value, asked_for: &BTreeMap<String, String>) -> Value {
    let shown = ["ctx", "headlight-session", "headlight", "candle-core"];
    let below: BTreeSet<&str> = packages(template).filter_map(|package| package["id"].as_str()).collect();
    let keep = |package: &&Value| {
        let name = package["name"].as_str().unwrap_or_default();
        let new = !below.contains(package["id"].as_str().unwrap_or_default());
        shown.contains(&name) || asked_for.contains_key(name) || new
    };
    let kept: Vec<Value> = packages(&metadata).filter(keep).map(|package| package["id"].clone()).collect();
    if let Some(packages) = metadata["packages"].as_array_mut() {
        packages.retain(|package| kept.contains(&package["id"]));
    }
    if let Some(nodes) = metadata["resolve"]["nodes"].as_array_mut() {
        nodes.retain(|node| kept.contains(&node["id"]));
        for node in nodes {
            for (list, id) in [("deps", "pkg"), ("dependencies", "")] {
                if let Some(dependencies) = node[list].as_array_mut() {
                    dependencies.retain(|dependency| {
                        kept.contains(if id.is_empty() { dependency } else { &dependency[id] })
                    });
                }
            }
        }
    }
    metadata
}

/// Whether packages that both have are there with other features.
pub fn differ_in_features(one: &Value, other: &Value) -> bool {
    let features = |metadata: &Value| -> BTreeMap<String, BTreeSet<String>> {
        let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
        let strings = |list: &Value| list.as_array().into_iter().flatten().map(Value::to_string).collect();
        nodes.map(|node| (node["id"].to_string(), strings(&node["features"]))).collect()
    };
    let (one, other) = (features(one), features(other));
    one.iter().any(|(id, features)| other.get(id).is_some_and(|others| others != features))
}

fn hidden_names(metadata: &Value, toolchain: &Toolchain) -> BTreeSet<String> {
    let of = ["headlight-session", "headlight", "candle-core"].into_iter().filter_map(|name| {
        let package = packages(metadata).find(|package| package["name"] == name)?;
        Some(Path::new(package["manifest_path"].as_str()?).parent()?.join("src"))
    });
    let library = toolchain.sysroot.join("lib/rustlib/src/rust/library");
    let public = ["core", "alloc", "std"].map(|name| library.join(name).join("src"));
    names::hidden(&of.collect::<Vec<PathBuf>>(), &public)
}

/// Earlier templates of the same source, unless a kernel still runs from them.
fn remove_earlier(templates: &Path, latest: &Path) {
    let source = |template: &Path| fs::read_to_string(template.join("source")).ok();
    let Ok(entries) = fs::read_dir(templates) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let earlier = path.is_dir() && path != latest && source(&path) == source(latest);
        if earlier && !crate::engine::session::any_alive(&path.join("sessions")) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Removes all templates and what they were built with, unless a kernel runs.
pub fn remove_all(cache: &Path) -> Result<bool> {
    let templates = cache.join("templates");
    let folders = || fs::read_dir(&templates).into_iter().flatten().flatten().map(|entry| entry.path());
    if folders().any(|folder| crate::engine::session::any_alive(&folder.join("sessions"))) {
        return Ok(false);
    }
    for entry in fs::read_dir(cache).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "templates" || name.starts_with("target-") {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The session library finds it only there: its own run path holds for the folder that it was linked in.
    #[test]
    fn the_standard_library_is_where_it_is_looked_for() -> Result<()> {
        let libraries = Toolchain::find(&Source::find())?.libraries();
        let dynamic = |name: &str| name.contains("std-") && name.ends_with(std::env::consts::DLL_SUFFIX);
        let names = fs::read_dir(&libraries)?.flatten().map(|entry| entry.file_name());
        assert!(names.into_iter().any(|name| dynamic(&name.to_string_lossy())), "{}", libraries.display());
        Ok(())
    }
}
