//! What cargo has built, kept where no later build changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::shim::protocol::{RustcInvocation, TARGET, extra_filename, is_unpacked, option};

/// Whether it is what rustc makes of a crate for others to use.
fn is_library(path: &Path) -> bool {
    path.extension().and_then(|kind| kind.to_str()).is_some_and(|kind| KINDS.contains(&kind))
}

const KINDS: [&str; 3] = ["rmeta", "rlib", std::env::consts::DLL_EXTENSION];

/// Links the libraries that a call of rustc refers to into folders of its own: a later build, for another kernel, must not change
/// them. The call is rewritten accordingly.
pub fn preserve(file: &Path, target: &Path, folder: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
    let mut invocation = RustcInvocation::read(file)?;
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    let under = target.to_string_lossy().into_owned();
    for word in &mut invocation.arguments {
        let Some(start) = word.find(&under).filter(|at| word[*at..].contains("deps")) else { continue };
        let deps = Path::new(&word[start..]).ancestors().find(|path| path.ends_with("deps"));
        let Some(deps) = deps.map(|path| path.to_string_lossy().into_owned()) else { continue };
        if !places.contains_key(&deps) {
            let place = deps_folder(folder, places.len());
            fs::create_dir_all(&place)?;
            for entry in fs::read_dir(&deps)? {
                let path = entry?.path();
                if is_library(&path) && is_wanted(&path) {
                    link_or_copy(&path, &place.join(path.file_name().unwrap_or_default()))?;
                }
            }
            places.insert(deps.clone(), place.to_string_lossy().into_owned());
        }
        *word = word.replace(&deps, &places[&deps]);
        if let Some(alone) = with_metadata_alone(word, Path::new(&places[&deps])) {
            *word = alone;
        }
    }
    invocation.write(file)
}

/// A word of a call that names a library of which only that is in a folder which rustc knows of it: naming that.
pub fn with_metadata_alone(word: &str, deps: &Path) -> Option<String> {
    let (name, library) = word.split_once('=')?;
    let (library, metadata) = (Path::new(library), Path::new(library).with_extension("rmeta"));
    let is_there = |path: &Path| path.file_name().is_some_and(|file| deps.join(file).exists());
    let is_alone = library.extension()? == "rlib" && !is_there(library) && is_there(&metadata);
    is_alone.then(|| format!("{name}={}", metadata.display()))
}

/// The folders of `preserve`, by number.
pub fn deps_folder(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("deps-{number}"))
}

/// A file in a second place. What rustc makes it replaces; others, linkers too, may write in place.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_file(to)?;
    }
    let is_replaced = from.extension().is_some_and(|kind| kind == "rlib" || kind == "rmeta");
    if is_replaced && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to)?;
    // By times cargo tells what is to be built again.
    let file = File::options().append(true).open(to).or_else(|_| File::open(to))?;
    Ok(file.set_modified(fs::metadata(from)?.modified()?)?)
}

/// Of a build folder what cargo needs to go on with some packages, in a template that has their libraries: what it knows of them, and
/// what their build scripts made.
pub fn copy_build(from: &Path, template: &Path, packages: &BTreeSet<&str>) -> Result<()> {
    // Folders of these are named by package and by a number of all that decides what is in them.
    let is_of_package = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.rsplit_once('-').is_some_and(|(package, _)| packages.contains(package))
    };
    let (from, to) = (from.join(PROFILE), template.join(TARGET).join(PROFILE));
    copy(&from.join(".fingerprint"), &to.join(".fingerprint"), &is_of_package)?;
    copy(&from.join("build"), &to.join("build"), &is_of_package)?;
    // Linked from here, where the build folder may be on another file system.
    copy(&deps_folder(template, 0), &to.join("deps"), &|_| true)
}

/// Where cargo puts what it builds as `shim::cargo` asks.
const PROFILE: &str = "release";

/// A copy of a folder, of those entries that are wanted.
pub fn copy(from: &Path, to: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let place = to.join(path.file_name().unwrap_or_default());
        if !is_wanted(&path) {
            continue;
        }
        if path.is_dir() {
            copy(&path, &place, &|_| true)?;
        } else {
            link_or_copy(&path, &place)?;
        }
    }
    Ok(())
}

/// Puts what a template keeps of a crate where rustc was asked to make it; false if the template lacks that crate. Cargo may
/// want to build it again, for a variable or the time of a file has changed; but rustc can make another crate of the same
/// source, under the same name, to which nothing fits that was linked to the first.
pub fn restore(template: &Path, arguments: &[String]) -> Result<bool> {
    let (name, out) = (option(arguments, "--crate-name"), option(arguments, "--out-dir"));
    let (Some(name), Some(hash), Some(out)) = (name, extra_filename(arguments), out) else {
        return Ok(false);
    };
    let is_elsewhere = is_unpacked(template) && OWN.contains(&name);
    let mut is_restored = false;
    for deps in (0..).map(|number| deps_folder(template, number)).take_while(|deps| deps.exists()) {
        for kind in KINDS {
            let prefix = if kind.starts_with('r') { "lib" } else { std::env::consts::DLL_PREFIX };
            let file = format!("{prefix}{name}{hash}.{kind}");
            let kept = match is_elsewhere {
                true => find_by_name(&deps, &format!("{prefix}{name}-"), kind)?,
                false => Some(file.clone()).filter(|file| deps.join(file).exists()),
            };
            let Some(kept) = kept else { continue };
            // By the name that others were told, and by that which what links to it knows.
            for name in BTreeSet::from([&file, &kept]) {
                // Whole, for others read what is there; with the time of now, at which cargo takes it to be made.
                let copy = tempfile::Builder::new().tempfile_in(out)?.into_temp_path();
                fs::copy(deps.join(&kept), &copy)?;
                copy.persist(Path::new(out).join(name))?;
            }
            is_restored = true;
        }
    }
    Ok(is_restored)
}

/// Crates that cargo knows by their folder, which gives their files a name: where a template was built, they were in another.
const OWN: [&str; 3] = ["headlight", "headlight_session", "evcxr_input"];

fn find_by_name(folder: &Path, beginning: &str, kind: &str) -> Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(beginning) && Path::new(&name).extension().is_some_and(|ending| ending == kind) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of change that has cargo build again (variables, times, its own version) comes to the same calls of rustc.
    #[test]
    fn what_the_template_has_is_never_made_anew() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (template, out) = (folder.path().join("template"), folder.path().join("out"));
        let dynamic = |name: &str| format!("{}{name}", std::env::consts::DLL_PREFIX);
        let (derive, library) = (
            dynamic(&format!("derive-2{}", std::env::consts::DLL_SUFFIX)),
            dynamic(&format!("session-3{}", std::env::consts::DLL_SUFFIX)),
        );
        for (number, file) in [(0, "libserde-1.rmeta"), (0, "libserde-1.rlib"), (0, &library), (1, &derive)] {
            fs::create_dir_all(deps_folder(&template, number))?;
            fs::write(deps_folder(&template, number).join(file), "the template's")?;
        }
        for (name, hash, files) in [
            ("serde", "-1", &["libserde-1.rmeta", "libserde-1.rlib"][..]),
            ("derive", "-2", &[&derive]),
            ("session", "-3", &[&library]),
            // With other features or of another version; not for others to link to.
            ("serde", "-9", &[]),
            ("build_script_build", "-1", &[]),
        ] {
            fs::create_dir_all(&out)?;
            for file in files {
                fs::write(out.join(file), "an earlier one")?;
            }
            let arguments = [
                "--crate-name",
                name,
                "src/lib.rs",
                "-C",
                &format!("extra-filename={hash}"),
                "--out-dir",
                &out.to_string_lossy(),
            ]
            .map(str::to_string);
            assert_eq!(restore(&template, &arguments)?, !files.is_empty(), "{name}{hash}");
            assert_eq!(fs::read_dir(&out)?.count(), files.len(), "{name}{hash}");
            for file in files {
                assert_eq!(fs::read_to_string(out.join(file))?, "the template's", "{name}{hash}");
            }
            fs::remove_dir_all(&out)?;
        }
        assert!(!restore(&template, &["-vV".to_string()])?);
        Ok(())
    }

    /// Cargo gives a crate in a folder another name on each machine; what links to it knows it by the one that it had first.
    #[test]
    fn of_a_package_own_crates_are_found_by_name() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (template, out) = (folder.path().join("template"), folder.path().join("out"));
        let deps = deps_folder(&template, 0);
        fs::create_dir_all(&deps)?;
        for file in ["libheadlight-1.rmeta", "libheadlight_session-2.rmeta", "libserde-3.rmeta"] {
            fs::write(deps.join(file), file)?;
        }
        let restored = |name: &str| -> Result<BTreeSet<String>> {
            fs::create_dir_all(&out)?;
            let words =
                ["--crate-name", name, "-C", "extra-filename=-9", "--out-dir", &out.to_string_lossy()];
            restore(&template, &words.map(str::to_string))?;
            let names =
                fs::read_dir(&out)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            let names = names.collect();
            fs::remove_dir_all(&out)?;
            Ok(names)
        };
        assert_eq!(restored("headlight")?, BTreeSet::new(), "built here, it has its own name");
        crate::shim::protocol::mark_unpacked(&template)?;
        let both = ["libheadlight-1.rmeta", "libheadlight-9.rmeta"].map(str::to_string);
        assert_eq!(restored("headlight")?, BTreeSet::from(both));
        assert_eq!(restored("serde")?, BTreeSet::new(), "of other features");
        Ok(())
    }

    #[test]
    fn a_copy_of_a_build_is_as_old_and_changes_nothing_there() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (from, template) = (folder.path().join("from"), folder.path().join("template"));
        let files = [
            (".fingerprint/a-1/invoked.timestamp", true),
            (".fingerprint/other-a-1/invoked.timestamp", false),
            ("build/b-c-2/out/x.h", true),
            ("deps/libother-1.rlib", false),
            ("examples/a-1", false),
        ];
        let library = deps_folder(&template, 0).join("liba-1.rlib");
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        for file in files.iter().map(|(file, _)| from.join(PROFILE).join(file)).chain([library]) {
            fs::create_dir_all(file.parent().unwrap_or(&from))?;
            fs::write(&file, "first")?;
            File::options().append(true).open(&file)?.set_modified(old)?;
        }
        let packages = BTreeSet::from(["a", "b-c"]);
        let copy = |file: &str| template.join(TARGET).join(PROFILE).join(file);
        copy_build(&from, &template, &packages)?;
        for (file, is_there) in files.into_iter().chain([("deps/liba-1.rlib", true)]) {
            assert_eq!(copy(file).exists(), is_there, "{file}");
            assert!(!is_there || fs::metadata(copy(file))?.modified()? == old, "{file}");
        }
        // As cargo writes.
        let written = files[0].0;
        fs::write(copy(written), "second")?;
        assert_eq!(fs::read_to_string(from.join(PROFILE).join(written))?, "first");
        // Done again, as after a build that was cut short.
        copy_build(&from, &template, &packages)?;
        assert_eq!(fs::read_to_string(copy(written))?, "first");
        Ok(())
    }
}
