//! Stand-ins for `cargo` and `rustup`, which evcxr and rust-analyzer find first.
//!
//! evcxr compiles each cell with `cargo build`, and cargo spends as long on finding out that nothing but the cell has
//! changed as rustc spends on the cell. While the dependencies are those that the template was built with, the stand-in
//! calls rustc itself, as cargo once did. A new dependency goes to the real cargo, once; the call that it makes for the
//! cell is then the one to repeat. Everything else is handed to the real tools.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Result;
use crate::shim::artifacts;
use crate::shim::cargo;

/// The folder of the session whose tools these are.
pub const SESSION: &str = "HEADLIGHT_SESSION";
/// Where to note the call of rustc for the crate of the cell, when cargo calls us in rustc's place.
pub const RECORD: &str = "HEADLIGHT_RECORD";
/// The template whose crates are there already, when cargo calls us in rustc's place for a session.
const TEMPLATE: &str = "HEADLIGHT_TEMPLATE";

/// In a template: how rustc is called for a cell; where sessions build what the template lacks.
pub const CALL: &str = "call.json";
pub const TARGET: &str = "target";

/// What the stand-ins know of their session; written by the kernel as `session.json`.
#[derive(Serialize, Deserialize)]
pub struct Known {
    /// The template's folder.
    pub template: PathBuf,
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// The real folder of rustup's and cargo's own tools.
    pub rustup: Option<PathBuf>,
    /// As it was before the stand-ins were put first.
    pub path: OsString,
    pub cargo_home: Option<OsString>,
    pub cargo_version: String,
    pub host: String,
    /// As `rustc --print cfg` has it.
    pub target_settings: String,
    /// The dependencies that the template was built with, as lines of Cargo.toml.
    pub dependencies: BTreeMap<String, String>,
}

/// How rustc was called for the crate of the cell.
#[derive(Serialize, Deserialize)]
pub struct Call {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
}

impl Call {
    pub fn read(file: &Path) -> Result<Call> {
        Ok(serde_json::from_slice(&std::fs::read(file)?)?)
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        Ok(std::fs::write(file, serde_json::to_vec(self)?)?)
    }

    /// The libraries that it names, one by one.
    pub fn libraries(&self) -> impl Iterator<Item = PathBuf> {
        let named = self.arguments.windows(2).filter(|pair| pair[0] == "--extern");
        named.filter_map(|pair| Some(PathBuf::from(pair[1].split_once('=')?.1)))
    }
}

/// The name of the tool that this program was called as, if it is one that we stand in for.
pub fn called_as(program: Option<&OsString>) -> Option<&'static str> {
    let name = Path::new(program?).file_stem()?.to_str()?;
    ["cargo", "rustup"].into_iter().find(|tool| *tool == name)
}

/// Whether cargo calls us in rustc's place.
pub fn is_rustc_wrapper() -> bool {
    std::env::var_os(RECORD).is_some()
}

pub fn stand_in(tool: &str) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match Session::here().and_then(|session| session.answer(tool, &arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headlight-kernel, in {tool}'s place: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs rustc as cargo asks. Of the crate of the cell it only notes how, and makes an empty one; what the template has is
/// taken from there.
pub fn wrap_rustc() -> ExitCode {
    match wrap() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headlight-kernel, in rustc's place: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wrap() -> Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let program = PathBuf::from(arguments.next().ok_or("cargo named no rustc")?);
    let mut arguments: Vec<String> = arguments
        .map(|word| word.into_string().map_err(|word| format!("{word:?} is not UTF-8").into()))
        .collect::<Result<_>>()?;
    let of_cell = arguments.windows(2).any(|pair| pair[0] == "--crate-name" && pair[1] == "ctx");
    if of_cell {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
            .filter(|(name, _)| name.starts_with("CARGO_PKG"))
            .collect();
        let call = Call { program: program.clone(), arguments: arguments.clone(), environment };
        let file = std::env::var_os(RECORD).ok_or("nowhere to note the call")?;
        let empty = Path::new(&file).with_extension("rs");
        call.write(Path::new(&file))?;
        std::fs::write(&empty, "")?;
        for argument in &mut arguments {
            if argument.ends_with("lib.rs") {
                *argument = empty.to_string_lossy().into_owned();
            }
        }
    } else if let Some(template) = std::env::var_os(TEMPLATE)
        && artifacts::take(Path::new(&template), &arguments)?
    {
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = Command::new(program);
    command.args(arguments).env_remove(RECORD).env_remove(TEMPLATE);
    become_command(command)
}

struct Session {
    folder: PathBuf,
    known: Known,
}

impl Session {
    fn here() -> Result<Session> {
        let folder = PathBuf::from(std::env::var_os(SESSION).ok_or("not called from a kernel")?);
        let known = serde_json::from_slice(&std::fs::read(folder.join("session.json"))?)?;
        Ok(Session { folder, known })
    }

    fn answer(&self, tool: &str, arguments: &[OsString]) -> Result<ExitCode> {
        let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
        if tool == "rustup" {
            return match words[..] {
                ["which", "cargo"] => self.say(&self.folder.join("tools/bin/cargo")),
                ["which", "rustc"] => self.say(&self.known.rustc),
                _ => match &self.known.rustup {
                    Some(rustup) => self.hand_on(rustup, arguments),
                    None => Err("rustup is not installed here".into()),
                },
            };
        }
        let here = std::env::current_dir()?;
        // Not the session's crate: someone else's call.
        if here.canonicalize().ok() != self.folder.canonicalize().ok() {
            if words.contains(&"metadata") && words.iter().any(|word| word.contains("/rustlib/src/")) {
                // rust-analyzer then takes the standard library's own crates, without what they depend on.
                return Ok(ExitCode::FAILURE);
            }
            return self.hand_on(&self.known.cargo, arguments);
        }
        let verbs = words.strip_prefix(&["--offline"]).unwrap_or(&words);
        match verbs {
            ["build", ..] => Ok(self.compile(arguments, "link").unwrap_or_else(told_as_rustc)),
            ["check", ..] => Ok(self.compile(arguments, "metadata").unwrap_or_else(told_as_rustc)),
            ["metadata", ..] => self.metadata(arguments, &words),
            // What rust-analyzer asks each time it reads the dependencies, and could know.
            ["locate-project", ..] => {
                println!("{}", serde_json::json!({"root": self.folder.join("Cargo.toml")}));
                Ok(ExitCode::SUCCESS)
            }
            ["--version"] => {
                println!("{}", self.known.cargo_version);
                Ok(ExitCode::SUCCESS)
            }
            ["rustc", .., "--print", "cfg", "--target", _, "--", "-O"] => {
                print!("{}", self.known.target_settings);
                Ok(ExitCode::SUCCESS)
            }
            // Only a nightly cargo answers these.
            ["-Z", "unstable-options", "config", ..] | ["rustc", "-Z", ..] => Ok(ExitCode::FAILURE),
            _ => self.hand_on(&self.known.cargo, arguments),
        }
    }

    fn say(&self, path: &Path) -> Result<ExitCode> {
        println!("{}", path.display());
        Ok(ExitCode::SUCCESS)
    }

    fn hand_on(&self, tool: &Path, arguments: &[OsString]) -> Result<ExitCode> {
        become_command(self.real(tool, arguments))
    }

    fn real(&self, tool: &Path, arguments: &[OsString]) -> Command {
        let mut command = cargo::command(tool);
        command.args(arguments);
        self.as_before(&mut command);
        command
    }

    /// Puts a command where it would be without us.
    fn as_before(&self, command: &mut Command) {
        command.env("PATH", &self.known.path);
        match &self.known.cargo_home {
            Some(home) => command.env("CARGO_HOME", home),
            None => command.env_remove("CARGO_HOME"),
        };
    }

    fn compile(&self, arguments: &[OsString], emit: &str) -> Result<ExitCode> {
        let manifest = Manifest::read(&self.folder.join("Cargo.toml"))?;
        let file = if manifest.is_within(&self.known.dependencies) {
            self.known.template.join(CALL)
        } else {
            self.folder.join(format!("call-{:016x}.json", manifest.fingerprint()))
        };
        if !file.exists() {
            let code = self.build(arguments, &file)?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
        }
        let (call, original) = (Call::read(&file)?, Call::read(&self.known.template.join(CALL))?);
        let out = self.folder.join("out");
        let source = crate::cell::rewrite::stage(&self.folder)?;
        let arguments =
            repeated(&call.arguments, &original.arguments, &manifest.opt_level, &out, &source, emit);
        if let Some(noted) = std::env::var_os("EVCXR_EXECUTION_SO_PATH").filter(|_| emit == "link") {
            std::fs::write(noted, out.join(library_name("ctx")).to_string_lossy().as_bytes())?;
        }
        let mut command = self.real(&call.program, &[]);
        command.args(arguments).envs(call.environment);
        self.note_process()?;
        become_command(command)
    }

    /// Lets the real cargo build what is new, and note how it calls rustc for the cell.
    fn build(&self, arguments: &[OsString], file: &Path) -> Result<ExitCode> {
        let target = self.known.template.join(TARGET);
        // It counts only when all that it refers to is in place.
        let noted = file.with_extension("noted");
        let mut command =
            cargo::build(&self.known.cargo, &self.known.rustc, &self.known.host, &target, &noted)?;
        command.env(TEMPLATE, &self.known.template).stderr(Stdio::piped());
        command.args(arguments.iter().filter(|word| *word == "--offline"));
        self.as_before(&mut command);
        self.note_process()?;
        let mut child = command.spawn()?;
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines() {
                let line = line?;
                if is_progress(&line) && !line.contains("Compiling ctx ") {
                    notice(&self.folder, line.trim());
                }
                eprintln!("{line}");
            }
        }
        if !child.wait()?.success() {
            return Ok(ExitCode::FAILURE);
        }
        // A folder for each call: what an earlier one refers to stays.
        artifacts::keep(&noted, &target, &file.with_extension(""), &|_| true)?;
        self.keep_library(&noted, arguments)?;
        std::fs::rename(noted, file)?;
        Ok(ExitCode::SUCCESS)
    }

    /// A session goes on with the library that it began with: a copy would be another one, with other statics. It is another
    /// library, with another name, only if something below it was asked for with other features.
    fn keep_library(&self, file: &Path, arguments: &[OsString]) -> Result<()> {
        let mut call = Call::read(file)?;
        let original = Call::read(&self.known.template.join(CALL))?;
        let library = |call: &Call| call.arguments.iter().position(|word| word.starts_with("headlight="));
        if let (Some(copy), Some(first)) = (library(&call), library(&original)) {
            let (copied, known) = (Path::new(&call.arguments[copy]), Path::new(&original.arguments[first]));
            if copied.file_name() == known.file_name() {
                call.arguments[copy] = original.arguments[first].clone();
            } else if !self.asks_for_other_features(arguments)? {
                crate::build::template::declare_outdated(&self.known.template)?;
                return Err("cargo builds headlight in another way than when this kernel started; restart the kernel, \
                    which builds it anew, once"
                    .into());
            }
        }
        call.write(file)
    }

    /// Whether the session has crates of the template with other features than the template.
    fn asks_for_other_features(&self, arguments: &[OsString]) -> Result<bool> {
        let Some(now) = self.packages(arguments)? else { return Ok(false) };
        let then: Value = serde_json::from_slice(&std::fs::read(self.known.template.join("metadata.json"))?)?;
        Ok(crate::build::template::differ_in_features(&then, &now))
    }

    /// What cargo knows of the session's crates; none if it cannot say, which it then tells. Asked in our own words:
    /// rust-analyzer's are for a cargo that would change somebody's lock file.
    fn packages(&self, arguments: &[OsString]) -> Result<Option<Value>> {
        let offline: Vec<OsString> = arguments.iter().filter(|word| *word == "--offline").cloned().collect();
        let mut command = self.real(&self.known.cargo, &offline);
        command.args(["metadata", "--format-version", "1", "--filter-platform", &self.known.host]);
        let output = command.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&output.stdout)?))
    }

    fn metadata(&self, arguments: &[OsString], words: &[&str]) -> Result<ExitCode> {
        let manifest = Manifest::read(&self.folder.join("Cargo.toml"))?;
        let known = manifest.is_within(&self.known.dependencies);
        if manifest.is_validation() {
            return if known { Ok(ExitCode::SUCCESS) } else { self.validate(arguments) };
        }
        let template = std::fs::read_to_string(self.known.template.join("metadata.json"))?;
        // The crate of the cell is here, not where the template was built.
        let there = self.known.template.join("ctx").to_string_lossy().into_owned();
        let template: Value =
            serde_json::from_str(&template.replace(&there, &self.folder.to_string_lossy()))?;
        let metadata = if known {
            template.clone()
        } else {
            self.note_process()?;
            match self.packages(arguments)? {
                Some(packages) => packages,
                None => return Ok(ExitCode::FAILURE),
            }
        };
        let mut metadata = crate::build::template::pruned(metadata, &template, &manifest.dependencies);
        if words.contains(&"--no-deps") {
            metadata["resolve"] = Value::Null;
        }
        std::io::stdout().lock().write_all(metadata.to_string().as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }

    /// evcxr tries a new dependency alone; the versions that are locked for all the others must outlive that.
    fn validate(&self, arguments: &[OsString]) -> Result<ExitCode> {
        notice(&self.folder, "looking up the dependency");
        let folder = self.folder.join("validate");
        std::fs::create_dir_all(&folder)?;
        for file in ["Cargo.toml", "Cargo.lock"] {
            std::fs::copy(self.folder.join(file), folder.join(file))?;
        }
        self.note_process()?;
        let mut command = self.real(&self.known.cargo, arguments);
        command.current_dir(folder);
        become_command(command)
    }

    /// Whoever wants to stop the compilation finds the process group here.
    fn note_process(&self) -> Result<()> {
        #[cfg(unix)]
        // SAFETY: makes this process the leader of a group of its own; fails harmlessly if it is one.
        unsafe {
            libc::setpgid(0, 0);
        }
        std::fs::write(self.folder.join("compiler"), std::process::id().to_string())?;
        Ok(())
    }
}

/// Tells an error where evcxr looks for those of rustc.
fn told_as_rustc(error: Box<dyn std::error::Error + Send + Sync>) -> ExitCode {
    println!("{}", serde_json::json!({"level": "error", "message": error.to_string()}));
    ExitCode::FAILURE
}

/// Appends a line that the notebook shows while it waits.
pub fn notice(folder: &Path, line: &str) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("notices"));
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{line}");
    }
}

pub fn is_progress(line: &str) -> bool {
    ["Compiling ", "Downloading ", "Downloaded ", "Updating ", "Locking ", "Blocking "]
        .iter()
        .any(|word| line.trim_start().starts_with(word))
}

/// The call for a cell: another place for its output, nothing kept for later, and always the same identity of the
/// crate, so that the types that cells define stay the same types when a dependency is added.
fn repeated(
    call: &[String],
    original: &[String],
    opt_level: &str,
    out: &Path,
    source: &str,
    emit: &str,
) -> Vec<String> {
    let identity = original.iter().find(|word| word.starts_with("metadata="));
    let mut repeated = Vec::with_capacity(call.len());
    let mut words = call.iter().peekable();
    while let Some(word) = words.next() {
        if word == "-C" {
            let option = words.next().map(String::as_str).unwrap_or_default();
            let option = match option.split('=').next().unwrap_or_default() {
                "incremental" | "extra-filename" => continue,
                // A cell is too small to be worth dividing.
                "codegen-units" => "codegen-units=1".to_string(),
                "opt-level" => format!("opt-level={opt_level}"),
                "metadata" => identity.cloned().unwrap_or_else(|| option.to_string()),
                _ => option.to_string(),
            };
            repeated.extend(["-C".to_string(), option]);
        } else if word == "--out-dir" {
            words.next();
            repeated.extend([word.clone(), out.to_string_lossy().into_owned()]);
        } else if word == "src/lib.rs" {
            repeated.push(source.to_string());
        } else if word.starts_with("--emit=") {
            repeated.push(format!("--emit={emit}"));
        } else {
            repeated.push(word.clone());
        }
    }
    repeated
}

fn library_name(name: &str) -> String {
    format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// What evcxr wrote in Cargo.toml.
struct Manifest {
    package: String,
    opt_level: String,
    dependencies: BTreeMap<String, String>,
}

impl Manifest {
    fn read(file: &Path) -> Result<Manifest> {
        let toml: toml::Table = std::fs::read_to_string(file)?.parse()?;
        let package = toml.get("package").and_then(|package| package.get("name"));
        let opt_level = toml
            .get("profile")
            .and_then(|profile| profile.get("dev")?.get("opt-level"))
            .map(|level| level.to_string().trim_matches('"').to_string());
        let dependencies = toml.get("dependencies").and_then(|table| table.as_table());
        Ok(Manifest {
            package: package.and_then(|name| name.as_str()).unwrap_or_default().to_string(),
            opt_level: opt_level.unwrap_or_else(|| "0".to_string()),
            dependencies: dependencies
                .map(|table| table.iter().map(|(name, value)| (name.clone(), value.to_string())).collect())
                .unwrap_or_default(),
        })
    }

    fn is_within(&self, known: &BTreeMap<String, String>) -> bool {
        self.dependencies.iter().all(|(name, value)| known.get(name) == Some(value))
    }

    /// evcxr tries each new dependency in a package of its own.
    fn is_validation(&self) -> bool {
        self.package == "evcxr_dummy_validate_dep"
    }

    fn fingerprint(&self) -> u64 {
        crate::build::template::fingerprint(&[&format!("{:?}", self.dependencies)])
    }
}

/// This process becomes the command, where the system can do that.
pub fn become_command(mut command: Command) -> Result<ExitCode> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        Err(command.exec().into())
    }
    #[cfg(not(unix))]
    {
        let code = command.status()?.code().unwrap_or(1);
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }
}
