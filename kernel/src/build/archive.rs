//! Between a template and the archive of it that a package holds.
//!
//! Of a crate below headlight a cell needs what rustc knows of it; what it was compiled to is in the session's library. So the
//! archive holds no others, but those that rustc loads (procedural macros). Where a path would be a name stands in braces, and
//! becomes a path where the package is unpacked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use lzma_rust2::LzmaReader;
use serde_json::Value;

use crate::Result;
use crate::build::package::{self, ARCHIVE, NOTE, Note};
use crate::build::recipe::{PRIVATE_NAMES, STD_STUB};
use crate::process::stdout_of;
use crate::shim::artifacts::{self, deps_folder};
use crate::shim::metadata::{self, packages};
use crate::shim::protocol::{INVOCATION, METADATA, RustcInvocation};

/// In a template, as `pack` writes it and the archive holds it: the sources of other crates.
const SOURCES: &str = "crates";
/// The files that name places.
const WITH_PLACES: [&str; 4] = [INVOCATION, METADATA, "ctx/Cargo.toml", "session/Cargo.toml"];

/// What stands for these places in a package.
const TEMPLATE_PLACE: &str = "{template}";
const PACKAGE_PLACE: &str = "{package}";

/// What there is to pack.
pub struct Packing<'a> {
    pub template: &'a Path,
    pub dependencies: &'a BTreeMap<String, String>,
    /// The package whose crate it was built of.
    pub package: &'a Path,
    /// As `rustc -vV` has it.
    pub compiler: &'a str,
}

/// Unpacks the template of a package. Gives its dependencies, as a template's.
pub fn unpack(
    package: &Path,
    folder: &Path,
    rustc: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<BTreeMap<String, String>> {
    let note = package::note(package).ok_or("the package has no template")?;
    extract(&package.join(ARCHIVE), folder, note.size, progress).map_err(|error| {
        format!(
            "{} cannot be unpacked to {}: {error}; is there room, or must the package be installed again?",
            package.join(ARCHIVE).display(),
            folder.display()
        )
    })?;
    let places = [(TEMPLATE_PLACE, folder), (PACKAGE_PLACE, package)];
    for file in WITH_PLACES {
        let text = fs::read_to_string(folder.join(file))?;
        let is_json = file.ends_with("json");
        fs::write(folder.join(file), fill_in(text, &places, is_json))?;
    }
    let invocation = folder.join(INVOCATION);
    let call = RustcInvocation { program: rustc.to_path_buf(), ..RustcInvocation::read(&invocation)? };
    call.write(&invocation)?;
    let dependencies = note.dependencies.into_iter();
    Ok(dependencies.map(|(name, value)| (name, fill_in(value, &places, false))).collect())
}

/// Writes what an archive holds, so many bytes in all.
fn extract(archive: &Path, folder: &Path, size: u64, progress: &mut dyn FnMut(&str)) -> std::io::Result<()> {
    let file = BufReader::with_capacity(1 << 20, File::open(archive)?);
    // The limit is this machine's memory: the dictionary is as large as the archive's.
    let reader = LzmaReader::new_mem_limit(file, u32::MAX, None)?;
    tar::Archive::new(Counted { reader, read: 0, of: size.max(1), told: 0, progress }).unpack(folder)
}

/// Tells how much of the archive was read.
struct Counted<'a, R> {
    reader: R,
    read: u64,
    of: u64,
    told: u64,
    progress: &'a mut dyn FnMut(&str),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.read += n as u64;
        let tenth = self.read * 10 / self.of;
        if tenth > self.told {
            self.told = tenth;
            (self.progress)(&format!("unpacking headlight: {} %", (tenth * 10).min(100)));
        }
        Ok(n)
    }
}

/// Writes what a wheel carries of a template of the package's crate, into an empty folder: the note, and what the archive is to hold.
pub fn pack(packing: &Packing, out: &Path) -> Result<()> {
    let &Packing { template, dependencies, package, compiler } = packing;
    let to = out.join("template");
    let call = RustcInvocation::read(&template.join(INVOCATION))?;
    let deps = deps_folder(&to, 0);
    fs::create_dir_all(&deps)?;
    for file in files_for_cells(template, &call)? {
        fs::copy(&file, deps.join(file.file_name().unwrap_or_default()))?;
    }
    artifacts::copy(&template.join(STD_STUB), &to.join(STD_STUB), &|_| true)?;
    for package in ["ctx", "session", "evcxr_input"] {
        artifacts::copy(&template.join(package), &to.join(package), &|_| true)?;
    }
    fs::copy(template.join(PRIVATE_NAMES), to.join(PRIVATE_NAMES))?;
    packed_call(call, &deps).write(&to.join(INVOCATION))?;
    let mut known: Value = serde_json::from_slice(&fs::read(template.join(METADATA))?)?;
    bring_sources(&mut known, packing, &to)?;
    fs::write(to.join(METADATA), serde_json::to_vec(&known)?)?;
    let places = [(TEMPLATE_PLACE, template), (TEMPLATE_PLACE, to.as_path()), (PACKAGE_PLACE, package)];
    for file in WITH_PLACES {
        let text = fs::read_to_string(to.join(file))?;
        fs::write(to.join(file), leave_out(text, &places, file.ends_with("json")))?;
    }
    let dependencies = dependencies.iter();
    let note = Note {
        compiler: compiler.to_string(),
        dependencies: dependencies
            .map(|(name, value)| (name.clone(), leave_out(value.clone(), &places, false)))
            .collect(),
        size: size_of_files(&to)?,
    };
    Ok(fs::write(out.join(NOTE), serde_json::to_vec_pretty(&note)?)?)
}

/// What rustc reads for a cell that names all that cells can name: of most crates only what it knows of them.
fn files_for_cells(template: &Path, call: &RustcInvocation) -> Result<BTreeSet<PathBuf>> {
    let scratch = tempfile::tempdir()?;
    let (source, list) = (scratch.path().join("all.rs"), scratch.path().join("all.d"));
    let externs = call.arguments.windows(2).filter(|pair| pair[0] == "--extern");
    let names: Vec<&str> = externs.filter_map(|pair| Some(pair[1].split_once('=')?.0)).collect();
    fs::write(&source, names.iter().map(|name| format!("extern crate {name};\n")).collect::<String>())?;
    let mut arguments = Vec::new();
    let mut words = call.arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--out-dir" => drop(words.next()),
            "src/lib.rs" => arguments.push(source.to_string_lossy().into_owned()),
            word if word.starts_with("--emit=") => {
                arguments.push(format!("--emit=dep-info={}", list.display()))
            }
            word => arguments.push(word.to_string()),
        }
    }
    // That these are listed too only a nightly compiler does unasked.
    stdout_of(
        Command::new(&call.program).args(arguments).arg("-Zbinary-dep-depinfo").env("RUSTC_BOOTSTRAP", "1"),
    )?;
    let text = fs::read_to_string(list)?;
    let deps = deps_folder(template, 0);
    let read = text.split_whitespace().map(|word| Path::new(word.trim_end_matches(':')));
    let read = read.filter(|path| path.starts_with(&deps));
    Ok(read
        .map(|path| if is_linked(path) { path.to_path_buf() } else { path.with_extension("rmeta") })
        .collect())
}

/// Whether a cell needs more of a library than what rustc knows of it: it is loaded, or no part of the session's library.
fn is_linked(library: &Path) -> bool {
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(std::env::consts::DLL_SUFFIX) || name.starts_with("libevcxr_input")
}

/// The call for libraries of which only that is there which rustc knows of them.
fn packed_call(call: RustcInvocation, deps: &Path) -> RustcInvocation {
    let mut arguments: Vec<String> = Vec::new();
    let mut words = call.arguments.into_iter();
    while let Some(word) = words.next() {
        if word == "-L" {
            // Not the folders of what build scripts compiled, which is in the session's library.
            let place = words.next().unwrap_or_default();
            if place.starts_with("dependency=") {
                arguments.extend([word, place]);
            }
        } else {
            arguments.push(artifacts::with_metadata_alone(&word, deps).unwrap_or(word));
        }
    }
    RustcInvocation { program: PathBuf::new(), arguments, environment: call.environment }
}

/// Copies the sources that rust-analyzer reads to where the package has them. Of other crates their names are kept: a session must
/// know that they are below headlight.
fn bring_sources(known: &mut Value, packing: &Packing, to: &Path) -> Result<()> {
    let is_read = |package: &Value| {
        let name = package["name"].as_str().unwrap_or_default();
        metadata::ALWAYS.contains(&name) || packing.dependencies.contains_key(name)
    };
    let mut replaced = Vec::new();
    for read in packages(known).filter(|package| is_read(package)) {
        let manifest = Path::new(read["manifest_path"].as_str().unwrap_or_default());
        let own = [packing.template, packing.package];
        if own.iter().any(|folder| manifest.starts_with(folder)) {
            continue;
        }
        let folder = manifest.parent().ok_or("a package without a folder")?;
        let place = to.join(SOURCES).join(folder.file_name().unwrap_or_default());
        artifacts::copy(&folder.join("src"), &place.join("src"), &|_| true)?;
        fs::copy(manifest, place.join("Cargo.toml"))?;
        replaced.push((folder.to_string_lossy().into_owned(), place.to_string_lossy().into_owned()));
    }
    for package in known["packages"].as_array_mut().into_iter().flatten() {
        if is_read(package) {
            let mut text = package.to_string();
            for (from, to) in &replaced {
                text = text.replace(&escape(from), &escape(to));
            }
            *package = serde_json::from_str(&text)?;
        } else {
            *package = serde_json::json!({"id": package["id"], "name": package["name"], "version": package["version"]});
        }
    }
    Ok(())
}

fn size_of_files(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        size += if path.is_dir() { size_of_files(&path)? } else { fs::metadata(&path)?.len() };
    }
    Ok(size)
}

/// Puts names where the places are.
fn leave_out(text: String, places: &[(&str, &Path)], is_json: bool) -> String {
    places.iter().fold(text, |text, (name, place)| text.replace(&written(place, is_json), name))
}

/// Puts the places where the names are.
fn fill_in(text: String, places: &[(&str, &Path)], is_json: bool) -> String {
    places.iter().fold(text, |text, (name, place)| text.replace(name, &written(place, is_json)))
}

fn written(place: &Path, is_json: bool) -> String {
    let place = place.to_string_lossy();
    if is_json { escape(&place) } else { place.into_owned() }
}

/// As a part of a text in JSON.
fn escape(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write_archive(place: &Path, files: &[(&str, &str)]) -> Result<()> {
        let options = lzma_rust2::LzmaOptions::with_preset(1);
        let mut packed = lzma_rust2::LzmaWriter::new_use_header(File::create(place)?, &options, None)?;
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, text.as_bytes())?;
        }
        packed.write_all(&archive.into_inner()?)?;
        packed.finish()?;
        Ok(())
    }

    #[test]
    fn what_is_unpacked_is_at_home_where_it_is() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let (package, template) = (scratch.path().join("with \"quotes\""), scratch.path().join("template"));
        fs::create_dir(&package)?;
        let (compiler, rustc) = ("rustc 1.95.0\nhost: a-b-c\nrelease: 1.95.0\n", Path::new("/rustc"));
        let call =
            "{\"program\":\"\",\"arguments\":[\"-L\",\"dependency={template}/deps-0\"],\"environment\":{}}";
        let files = [
            (INVOCATION, call),
            (METADATA, "{\"root\":\"{package}/headlight\"}"),
            ("ctx/Cargo.toml", "path = '{template}/session'"),
            ("session/Cargo.toml", "path = '{package}/headlight'"),
            ("deps-0/liba.rmeta", "{template}"),
        ];
        write_archive(&package.join(ARCHIVE), &files)?;
        let mut note = Note {
            compiler: compiler.to_string(),
            dependencies: BTreeMap::from([(
                "headlight".to_string(),
                "path = '{template}/session'".to_string(),
            )]),
            size: 1,
        };
        let write_note =
            |note: &Note| -> Result<()> { Ok(fs::write(package.join(NOTE), serde_json::to_vec(note)?)?) };
        write_note(&note)?;
        assert_eq!(package::refusal(&package, compiler), None);
        assert_eq!(package::release_of_compiler(&package).as_deref(), Some("1.95.0"));

        let mut told = Vec::new();
        let dependencies = unpack(&package, &template, rustc, &mut |what| told.push(what.to_string()))?;
        assert_eq!(dependencies["headlight"], format!("path = '{}/session'", template.display()));
        let call = RustcInvocation::read(&template.join(INVOCATION))?;
        assert_eq!(call.program, rustc);
        assert_eq!(call.arguments[1], format!("dependency={}/deps-0", template.display()));
        let read = |file: &str| fs::read_to_string(template.join(file));
        let known: Value = serde_json::from_str(&read(METADATA)?)?;
        assert_eq!(known["root"], format!("{}/headlight", package.display()));
        assert_eq!(read("session/Cargo.toml")?, format!("path = '{}/headlight'", package.display()));
        // What rustc reads is not text.
        assert_eq!(read("deps-0/liba.rmeta")?, "{template}");
        assert_eq!(told.last().map(String::as_str), Some("unpacking headlight: 100 %"));

        note.compiler = "rustc 1.0.0\nhost: a-b-c\nrelease: 1.0.0\n".to_string();
        write_note(&note)?;
        let why = package::refusal(&package, compiler).ok_or("taken for this compiler's")?;
        assert!(why.ends_with("has it for Rust 1.0.0 for a-b-c, and this is Rust 1.95.0 for a-b-c"), "{why}");
        fs::write(package.join(ARCHIVE), "not an archive")?;
        let error = unpack(&package, &template, rustc, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(ARCHIVE), "{error}");
        Ok(())
    }

    #[test]
    fn a_call_names_what_is_packed() -> Result<()> {
        let deps = tempfile::tempdir()?;
        fs::write(deps.path().join("liba-1.rmeta"), "")?;
        let words = [
            "--crate-name",
            "ctx",
            "-L",
            "dependency=/t/deps-0",
            "-L",
            "native=/t/out",
            "--extern",
            "a=/t/deps-0/liba-1.rlib",
            "--extern",
            "b=/t/deps-0/libb-1.rlib",
            "--extern",
            "headlight=/t/deps-0/libheadlight_session-1.so",
        ];
        let call = RustcInvocation {
            program: PathBuf::from("/rustc"),
            arguments: words.map(str::to_string).to_vec(),
            environment: BTreeMap::new(),
        };
        let packed = packed_call(call, deps.path());
        let expected = [
            "--crate-name",
            "ctx",
            "-L",
            "dependency=/t/deps-0",
            "--extern",
            "a=/t/deps-0/liba-1.rmeta",
            "--extern",
            "b=/t/deps-0/libb-1.rlib",
            "--extern",
            "headlight=/t/deps-0/libheadlight_session-1.so",
        ];
        assert_eq!(packed.arguments, expected);
        assert_eq!(packed.program, PathBuf::new());
        Ok(())
    }

    #[test]
    fn places_are_written_as_the_file_writes_text() {
        let place = Path::new("C:\\a \"b\"");
        let (json, toml) = ("{\"x\":\"C:\\\\a \\\"b\\\"\\\\c\"}", "x = 'C:\\a \"b\"\\c'");
        for (text, is_json) in [(json, true), (toml, false)] {
            let named = leave_out(text.to_string(), &[(TEMPLATE_PLACE, place)], is_json);
            assert!(named.contains(TEMPLATE_PLACE) && !named.contains("C:"), "{named}");
            assert_eq!(fill_in(named, &[(TEMPLATE_PLACE, place)], is_json), text);
        }
    }
}
