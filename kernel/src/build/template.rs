//! What every session starts from: headlight and what it needs, built once.
//!
//! A template is a folder named by the key of its recipe. It is built under a lock and counts only once it is marked as ready,
//! last of all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::build::alive::any_is_alive;
use crate::build::archive;
use crate::build::compile::compile;
use crate::build::completion_filter::PrivateNames;
use crate::build::package;
use crate::build::recipe::{self, PRIVATE_NAMES, SESSIONS, STD_STUB};
use crate::build::source::CrateSource;
use crate::build::toolchain::Toolchain;
use crate::shim::metadata::packages;
use crate::shim::protocol::{
    INVOCATION, RustcInvocation, fingerprint, is_outdated, mark_ready, mark_unpacked, read_ready,
};

/// Where templates and sessions live.
pub fn cache_folder() -> Result<PathBuf> {
    std::env::var_os("HEADLIGHT_CACHE")
        .map(PathBuf::from)
        .or_else(|| dirs::cache_dir().map(|folder| folder.join("headlight")))
        // Notebooks run in their own folders.
        .and_then(|folder| std::path::absolute(folder).ok())
        .ok_or_else(|| "no folder for caches; set HEADLIGHT_CACHE to one".into())
}

pub struct Template {
    pub folder: PathBuf,
    pub dependencies: BTreeMap<String, String>,
    pub toolchain: Toolchain,
}

impl Template {
    /// The template for this compiler and this source, built if it is not there. `progress` is told what happens.
    pub fn prepare(progress: &mut dyn FnMut(&str)) -> Result<Template> {
        let source = CrateSource::find();
        let toolchain = Toolchain::find(&source)?;
        let cache = cache_folder()?;
        let templates = cache.join("templates");
        fs::create_dir_all(&templates).map_err(|error| {
            format!(
                "{} cannot be made: {error}; set HEADLIGHT_CACHE to a folder that can",
                templates.display()
            )
        })?;
        let key = recipe::key(&toolchain, &source, &templates)?;
        let folder = templates.join(&key);
        if let Some(dependencies) = read_ready(&folder) {
            return Ok(Template { folder, dependencies, toolchain });
        }
        // One build at a time: what is built is in place for all templates until it is in its own.
        let lock = File::create(templates.join("building.lock"))?;
        if lock.try_lock().is_err() {
            progress("waiting for another kernel that builds headlight");
            lock.lock()?;
        }
        if let Some(dependencies) = read_ready(&folder) {
            return Ok(Template { folder, dependencies, toolchain });
        }
        let dependencies = match &source {
            CrateSource::Package(package) if is_packed(package, &folder, &toolchain) => {
                remove_stale(&folder)?;
                let dependencies = archive::unpack(package, &folder, &toolchain.rustc, progress)?;
                mark_unpacked(&folder)?;
                fs::write(folder.join(recipe::SOURCE_NOTE), source.describe())?;
                dependencies
            }
            source => {
                let why = match source {
                    CrateSource::Package(package) => package::refusal(package, &toolchain.version),
                    _ => None,
                };
                progress(&format!(
                    "building headlight, from {}, once; later kernels start from it{}",
                    source.describe(),
                    why.map(|why| format!(" ({why})")).unwrap_or_default()
                ));
                let target = source.build_folder().unwrap_or_else(|| {
                    cache.join(format!("target-{:016x}", fingerprint(&[&toolchain.version])))
                });
                build(&folder, &target, source, &toolchain, progress)?
            }
        };
        mark_ready(&folder, &dependencies)?;
        if recipe::key(&toolchain, &source, &templates)? != key {
            fs::remove_dir_all(&folder)?;
            return Err("the source of headlight changed while it was built; try again".into());
        }
        remove_earlier(&templates, &folder);
        Ok(Template { folder, dependencies, toolchain })
    }

    /// Whether sessions start at once, because all is built.
    pub fn is_ready(source: &CrateSource, toolchain: &Toolchain) -> Result<bool> {
        let templates = cache_folder()?.join("templates");
        let folder = templates.join(recipe::key(toolchain, source, &templates)?);
        Ok(read_ready(&folder).is_some()
            || matches!(source, CrateSource::Package(package) if is_packed(package, &folder, toolchain)))
    }

    /// The library that every cell links to.
    pub fn session_library(&self) -> Result<PathBuf> {
        let invocation = RustcInvocation::read(&self.folder.join(INVOCATION))?;
        let path = invocation.arguments.iter().find_map(|word| word.strip_prefix("headlight="));
        path.map(PathBuf::from)
            .ok_or_else(|| "the template lacks its library; run headlight-kernel install".into())
    }

    /// The standard library's source, as rust-analyzer is to read it; none if it is not installed.
    pub fn std_stub(&self) -> Option<PathBuf> {
        let stub = self.folder.join(STD_STUB);
        stub.join("core/src/lib.rs").exists().then_some(stub)
    }

    /// The names that completion is not to offer.
    pub fn private_names(&self) -> PrivateNames {
        let names = fs::read(self.folder.join(PRIVATE_NAMES)).ok();
        names.and_then(|names| serde_json::from_slice(&names).ok()).unwrap_or_default()
    }

    pub fn sessions(&self) -> PathBuf {
        self.folder.join(SESSIONS)
    }
}

fn build(
    folder: &Path,
    target: &Path,
    source: &CrateSource,
    toolchain: &Toolchain,
    progress: &mut dyn FnMut(&str),
) -> Result<BTreeMap<String, String>> {
    remove_stale(folder)?;
    let (dependencies, metadata) = recipe::write_packages(folder, source, toolchain)?;
    let (ctx, record) = (folder.join("ctx"), folder.join(INVOCATION));
    let files = compile(&ctx, &record, target, toolchain, packages(&metadata).count(), progress)?;
    progress("keeping what was built");
    recipe::keep_libraries(folder, target, &metadata, files)?;
    progress("looking through what cells can name");
    recipe::write_index(folder, toolchain, &metadata)?;
    recipe::parse_dependencies(&dependencies)
}

/// Whether the template is in the package, and still fits.
fn is_packed(package: &Path, folder: &Path, toolchain: &Toolchain) -> bool {
    package::refusal(package, &toolchain.version).is_none() && !is_outdated(folder)
}

/// Removes what an earlier build left that was cut short, or that is outdated.
fn remove_stale(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    if any_is_alive(&folder.join(SESSIONS)) {
        return Err(
            "headlight must be built anew, and kernels still run from what is there; shut them down first"
                .into(),
        );
    }
    Ok(fs::remove_dir_all(folder)?)
}

/// Earlier templates of the same source, unless a kernel still runs from them.
fn remove_earlier(templates: &Path, latest: &Path) {
    let source = |template: &Path| fs::read_to_string(template.join(recipe::SOURCE_NOTE)).ok();
    let Ok(entries) = fs::read_dir(templates) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_earlier = path.is_dir() && path != latest && source(&path) == source(latest);
        if is_earlier && !any_is_alive(&path.join(SESSIONS)) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Removes all templates and what they were built with, unless a kernel runs.
pub fn remove_all(cache: &Path) -> Result<bool> {
    let templates = cache.join("templates");
    let folders = || fs::read_dir(&templates).into_iter().flatten().flatten().map(|entry| entry.path());
    if folders().any(|folder| any_is_alive(&folder.join(SESSIONS))) {
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
