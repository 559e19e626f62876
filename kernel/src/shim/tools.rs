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

use serde_json::Value;

use crate::Result;
use crate::cell::rewrite;
use crate::process::become_command;
use crate::shim::protocol::{
    COMPILER, INVOCATION, METADATA, NOTICES, RustcInvocation, SESSION, SessionConfig, TARGET, TARGET_ANEW,
    TEMPLATE,
};
use crate::shim::{artifacts, cargo, metadata, protocol};

/// The name of the tool that this program was called as, if it is one that we stand in for.
pub fn tool_name(program: Option<&OsString>) -> Option<&'static str> {
    let name = Path::new(program?).file_stem()?.to_str()?;
    ["cargo", "rustup"].into_iter().find(|tool| *tool == name)
}

pub fn run(tool: &str) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match ShimSession::open().and_then(|session| session.run(tool, &arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headlight-kernel, in {tool}'s place: {error}");
            ExitCode::FAILURE
        }
    }
}

struct ShimSession {
    folder: PathBuf,
    config: SessionConfig,
}

impl ShimSession {
    fn open() -> Result<ShimSession> {
        let folder = PathBuf::from(std::env::var_os(SESSION).ok_or("not called from a kernel")?);
        let config = SessionConfig::read(&folder)?;
        Ok(ShimSession { folder, config })
    }

    fn run(&self, tool: &str, arguments: &[OsString]) -> Result<ExitCode> {
        let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
        if tool == "rustup" {
            return match words[..] {
                ["which", "cargo"] => print_path(&self.folder.join("tools/bin/cargo")),
                ["which", "rustc"] => print_path(&self.config.rustc),
                _ => match &self.config.rustup {
                    Some(rustup) => self.run_real(rustup, arguments),
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
            return self.run_real(&self.config.cargo, arguments);
        }
        let verbs = words.strip_prefix(&["--offline"]).unwrap_or(&words);
        match verbs {
            ["build", ..] => Ok(self.compile(arguments, "link").unwrap_or_else(print_as_rustc)),
            ["check", ..] => Ok(self.compile(arguments, "metadata").unwrap_or_else(print_as_rustc)),
            ["metadata", ..] => self.print_metadata(arguments, &words),
            // What rust-analyzer asks each time it reads the dependencies, and could know.
            ["locate-project", ..] => {
                println!("{}", serde_json::json!({"root": self.folder.join("Cargo.toml")}));
                Ok(ExitCode::SUCCESS)
            }
            ["--version"] => {
                println!("{}", self.config.cargo_version);
                Ok(ExitCode::SUCCESS)
            }
            ["rustc", .., "--print", "cfg", "--target", _, "--", "-O"] => {
                print!("{}", self.config.target_settings);
                Ok(ExitCode::SUCCESS)
            }
            // Only a nightly cargo answers these.
            ["-Z", "unstable-options", "config", ..] | ["rustc", "-Z", ..] => Ok(ExitCode::FAILURE),
            _ => self.run_real(&self.config.cargo, arguments),
        }
    }

    fn run_real(&self, tool: &Path, arguments: &[OsString]) -> Result<ExitCode> {
        become_command(self.real_command(tool, arguments))
    }

    fn real_command(&self, tool: &Path, arguments: &[OsString]) -> Command {
        let mut command = cargo::command(tool);
        command.args(arguments);
        self.restore_environment(&mut command);
        command
    }

    /// Puts a command where it would be without us.
    fn restore_environment(&self, command: &mut Command) {
        command.env("PATH", &self.config.path);
        match &self.config.cargo_home {
            Some(home) => command.env("CARGO_HOME", home),
            None => command.env_remove("CARGO_HOME"),
        };
    }

    fn compile(&self, arguments: &[OsString], emit: &str) -> Result<ExitCode> {
        let manifest = Manifest::read(&self.folder.join("Cargo.toml"))?;
        let file = if manifest.is_within(&self.config.dependencies) {
            self.config.template.join(INVOCATION)
        } else {
            self.folder.join(format!("call-{:016x}.json", manifest.fingerprint()))
        };
        if !file.exists() {
            let code = self.build(arguments, &file)?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
        }
        let (invocation, original) =
            (RustcInvocation::read(&file)?, RustcInvocation::read(&self.config.template.join(INVOCATION))?);
        let out = self.folder.join("out");
        let source = rewrite::stage(&self.folder)?;
        let arguments = cell_arguments(
            &invocation.arguments,
            &original.arguments,
            &manifest.opt_level,
            &out,
            &source,
            emit,
        );
        if let Some(place) = std::env::var_os("EVCXR_EXECUTION_SO_PATH").filter(|_| emit == "link") {
            std::fs::write(place, out.join(protocol::dylib_name("ctx")).to_string_lossy().as_bytes())?;
        }
        let mut command = self.real_command(&invocation.program, &[]);
        command.args(arguments).envs(invocation.environment);
        self.write_process()?;
        become_command(command)
    }

    /// Lets the real cargo build what is new, and note how it calls rustc for the cell.
    fn build(&self, arguments: &[OsString], file: &Path) -> Result<ExitCode> {
        // A package lacks what crates were compiled to: where headlight must be built again, all of them are.
        let is_anew =
            protocol::is_unpacked(&self.config.template) && self.asks_for_other_features(arguments)?;
        let target = self.config.template.join(if is_anew { TARGET_ANEW } else { TARGET });
        // It counts only when all that it refers to is in place.
        let record = file.with_extension("noted");
        let mut command =
            cargo::build(&self.config.cargo, &self.config.rustc, &self.config.host, &target, &record)?;
        command.stderr(Stdio::piped());
        if !is_anew {
            command.env(TEMPLATE, &self.config.template);
        }
        command.args(arguments.iter().filter(|word| *word == "--offline"));
        self.restore_environment(&mut command);
        self.write_process()?;
        let mut child = command.spawn()?;
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines() {
                let line = line?;
                if cargo::is_progress(&line) && !line.contains("Compiling ctx ") {
                    append_notice(&self.folder, line.trim());
                }
                eprintln!("{line}");
            }
        }
        if !child.wait()?.success() {
            return Ok(ExitCode::FAILURE);
        }
        // A folder for each call: what an earlier one refers to stays.
        artifacts::preserve(&record, &target, &file.with_extension(""), &|_| true)?;
        if !is_anew {
            self.reuse_library(&record, arguments)?;
        }
        std::fs::rename(record, file)?;
        Ok(ExitCode::SUCCESS)
    }

    /// A session goes on with the library that it began with: a copy would be another one, with other statics. It is another
    /// library, with another name, only if something below it was asked for with other features.
    fn reuse_library(&self, file: &Path, arguments: &[OsString]) -> Result<()> {
        let mut invocation = RustcInvocation::read(file)?;
        let original = RustcInvocation::read(&self.config.template.join(INVOCATION))?;
        let position = |invocation: &RustcInvocation, name: &str| {
            invocation.arguments.iter().position(|word| word.starts_with(name))
        };
        let file_of = |invocation: &RustcInvocation, name: &str| {
            let word = &invocation.arguments[position(invocation, name)?];
            // A package has of most what rustc knows of it, under the same name.
            Path::new(word).file_stem().map(|name| name.to_os_string())
        };
        // The name of headlight's file says where it was built; that of what is below it does not.
        let telling = match protocol::is_unpacked(&self.config.template) {
            true => "candle_core=",
            false => "headlight=",
        };
        if let (Some(copy), Some(first)) =
            (position(&invocation, "headlight="), position(&original, "headlight="))
        {
            if file_of(&invocation, telling) == file_of(&original, telling) {
                invocation.arguments[copy] = original.arguments[first].clone();
            } else if !self.asks_for_other_features(arguments)? {
                protocol::mark_outdated(&self.config.template)?;
                return Err("cargo builds headlight in another way than when this kernel started; restart the kernel, \
                    which builds it anew, once"
                    .into());
            }
        }
        invocation.write(file)
    }

    /// Whether the session has crates of the template with other features than the template.
    fn asks_for_other_features(&self, arguments: &[OsString]) -> Result<bool> {
        let Some(now) = self.packages(arguments)? else { return Ok(false) };
        let then: Value = serde_json::from_slice(&std::fs::read(self.config.template.join(METADATA))?)?;
        Ok(metadata::features_differ(&then, &now))
    }

    /// What cargo knows of the session's crates; none if it cannot say, which it then tells. Asked in our own words:
    /// rust-analyzer's are for a cargo that would change somebody's lock file.
    fn packages(&self, arguments: &[OsString]) -> Result<Option<Value>> {
        let mut command = cargo::metadata(&self.config.cargo, &self.config.host);
        command.args(arguments.iter().filter(|word| *word == "--offline"));
        self.restore_environment(&mut command);
        let output = command.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&output.stdout)?))
    }

    fn print_metadata(&self, arguments: &[OsString], words: &[&str]) -> Result<ExitCode> {
        let manifest = Manifest::read(&self.folder.join("Cargo.toml"))?;
        let is_known = manifest.is_within(&self.config.dependencies);
        if manifest.is_validation() {
            return if is_known { Ok(ExitCode::SUCCESS) } else { self.validate(arguments) };
        }
        let template = std::fs::read_to_string(self.config.template.join(METADATA))?;
        // The crate of the cell is here, not where the template was built.
        let there = self.config.template.join("ctx").to_string_lossy().into_owned();
        let template: Value =
            serde_json::from_str(&template.replace(&there, &self.folder.to_string_lossy()))?;
        let packages = if is_known {
            template.clone()
        } else {
            self.write_process()?;
            match self.packages(arguments)? {
                Some(packages) => packages,
                None => return Ok(ExitCode::FAILURE),
            }
        };
        let mut metadata = metadata::prune(packages, &template, &manifest.dependencies);
        if words.contains(&"--no-deps") {
            metadata["resolve"] = Value::Null;
        }
        std::io::stdout().lock().write_all(metadata.to_string().as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }

    /// evcxr tries a new dependency alone; the versions that are locked for all the others must outlive that.
    fn validate(&self, arguments: &[OsString]) -> Result<ExitCode> {
        append_notice(&self.folder, "looking up the dependency");
        let folder = self.folder.join("validate");
        std::fs::create_dir_all(&folder)?;
        for file in ["Cargo.toml", "Cargo.lock"] {
            std::fs::copy(self.folder.join(file), folder.join(file))?;
        }
        self.write_process()?;
        let mut command = self.real_command(&self.config.cargo, arguments);
        command.current_dir(folder);
        become_command(command)
    }

    /// Whoever wants to stop the compilation finds the process group here.
    fn write_process(&self) -> Result<()> {
        #[cfg(unix)]
        // SAFETY: makes this process the leader of a group of its own; fails harmlessly if it is one.
        unsafe {
            libc::setpgid(0, 0);
        }
        std::fs::write(self.folder.join(COMPILER), std::process::id().to_string())?;
        Ok(())
    }
}

fn print_path(path: &Path) -> Result<ExitCode> {
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Tells an error where evcxr looks for those of rustc.
fn print_as_rustc(error: Box<dyn std::error::Error + Send + Sync>) -> ExitCode {
    println!("{}", serde_json::json!({"level": "error", "message": error.to_string()}));
    ExitCode::FAILURE
}

/// Appends a line that the notebook shows while it waits.
fn append_notice(folder: &Path, line: &str) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(NOTICES));
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{line}");
    }
}

/// The call for a cell: another place for its output, nothing kept for later, and always the same identity of the
/// crate, so that the types that cells define stay the same types when a dependency is added.
fn cell_arguments(
    call: &[String],
    original: &[String],
    opt_level: &str,
    out: &Path,
    source: &str,
    emit: &str,
) -> Vec<String> {
    let identity = original.iter().find(|word| word.starts_with("metadata="));
    let mut arguments = Vec::with_capacity(call.len());
    let mut words = call.iter().peekable();
    while let Some(word) = words.next() {
        if word == "-C" {
            let option = words.next().map(String::as_str).unwrap_or_default();
            let option = match option.split('=').next().unwrap_or_default() {
                "incremental" | "extra-filename" => continue,
                "opt-level" => format!("opt-level={opt_level}"),
                "metadata" => identity.cloned().unwrap_or_else(|| option.to_string()),
                _ => option.to_string(),
            };
            arguments.extend(["-C".to_string(), option]);
        } else if word == "--out-dir" {
            words.next();
            arguments.extend([word.clone(), out.to_string_lossy().into_owned()]);
        } else if word == "src/lib.rs" {
            arguments.push(source.to_string());
        } else if word.starts_with("--emit=") {
            arguments.push(format!("--emit={emit}"));
        } else {
            arguments.push(word.clone());
        }
    }
    arguments
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

    fn is_within(&self, available: &BTreeMap<String, String>) -> bool {
        self.dependencies.iter().all(|(name, value)| available.get(name) == Some(value))
    }

    /// evcxr tries each new dependency in a package of its own.
    fn is_validation(&self) -> bool {
        self.package == "evcxr_dummy_validate_dep"
    }

    fn fingerprint(&self) -> u64 {
        protocol::fingerprint(&[&format!("{:?}", self.dependencies)])
    }
}
