//! What `cargo lab` runs: builds the kernel, with one line that moves where cargo has one for each of hundreds of crates, and has
//! the kernel open the notebooks.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

const KERNEL: &str = "headlight-kernel";
/// How cargo begins the lines that say how far it is.
const STEPS: [&str; 8] =
    ["Blocking", "Compiling", "Downloaded", "Downloading", "Finished", "Locking", "Updating", "Unpacking"];
/// Where no line can move, one comes after so many crates.
const LINE_EVERY: usize = 50;

fn main() -> ExitCode {
    match build_kernel().and_then(|()| become_kernel()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build_kernel() -> Result<(), String> {
    let line = BuildLine::new(count_crates());
    let mut child = cargo("build")
        .arg("--release")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    let mut compiled = 0;
    for said in child.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).lines()) {
        let said = said.map_err(|error| format!("cargo cannot be read: {error}"))?;
        match parse_step(&said) {
            Some(("Compiling", what)) => {
                compiled += 1;
                line.advance(compiled, what);
            }
            Some(("Finished", _)) => {}
            Some((step, what)) => line.wait(&format!("{} {what}", step.to_lowercase())),
            None => line.bar.suspend(|| eprintln!("{said}")),
        }
    }
    let status = child.wait().map_err(|error| format!("cargo cannot be waited for: {error}"))?;
    let took = line.bar.elapsed();
    line.bar.finish_and_clear();
    if !status.success() {
        return Err(format!("the kernel could not be built ({status}); what the compiler said is above"));
    }
    if compiled > 0 {
        eprintln!("Built the kernel in {}.", HumanDuration(took));
    }
    Ok(())
}

/// Cargo, asked for something of the kernel, without what it has set for this program: it builds again what has looked at such
/// variables.
fn cargo(verb: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"]
            .iter()
            .any(|begin| name.starts_with(begin))
        {
            command.env_remove(name);
        }
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml");
    command.args([verb, "--locked", "-p", KERNEL, "--manifest-path"]).arg(manifest);
    command
}

/// How many crates the kernel is made of at the most; none where cargo does not say.
fn count_crates() -> Option<usize> {
    let tree = ["--quiet", "--edges", "normal,build", "--prefix", "none"];
    let output = cargo("tree").args(tree).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().map(|line| line.trim_end_matches(" (*)")).collect::<BTreeSet<_>>().len())
}

/// What cargo does, where a line says that.
fn parse_step(line: &str) -> Option<(&str, &str)> {
    let (step, what) = line.trim_start().split_once(' ')?;
    // Its own words stand right of a margin, errors begin on the left.
    (STEPS.contains(&step) && line.starts_with(' ')).then_some((step, what.trim()))
}

/// How far the build is.
struct BuildLine {
    /// Hidden where there is no terminal.
    bar: ProgressBar,
    crates: Option<usize>,
}

impl BuildLine {
    fn new(crates: Option<usize>) -> BuildLine {
        let bar = match crates {
            Some(crates) => ProgressBar::new(crates as u64),
            None => ProgressBar::no_length(),
        };
        let template = "building the kernel {bar:20} {pos} of {len} crates, {elapsed} {wide_msg:.dim}";
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        BuildLine { bar, crates }
    }

    fn advance(&self, compiled: usize, what: &str) {
        self.bar.set_position(compiled as u64);
        self.bar.set_message(what.to_string());
        if self.bar.is_hidden() && compiled % LINE_EVERY == 1 {
            let of = self.crates.map_or(String::new(), |crates| format!(" of {crates}"));
            eprintln!("building the kernel: {compiled}{of} crates, {}", HumanDuration(self.bar.elapsed()));
        }
    }

    fn wait(&self, what: &str) {
        self.bar.set_message(what.to_string());
    }
}

/// This process becomes the kernel's `lab`, where the system can do that; cargo knows where the kernel is.
fn become_kernel() -> Result<ExitCode, String> {
    let mut command = cargo("run");
    command.args(["--release", "--quiet", "--", "lab"]).args(std::env::args_os().skip(1));
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        Err(format!("cargo does not start: {}", command.exec()))
    }
    #[cfg(not(unix))]
    {
        let status = command.status().map_err(|error| format!("cargo does not start: {error}"))?;
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_what_the_compiler_says() {
        assert_eq!(parse_step("   Compiling serde v1.0.229"), Some(("Compiling", "serde v1.0.229")));
        assert_eq!(
            parse_step("    Blocking waiting for file lock on build directory"),
            Some(("Blocking", "waiting for file lock on build directory"))
        );
        for other in ["error: Compiling is hard", "Compiling", "  --> src/main.rs:1:1", "warning: unused", ""]
        {
            assert_eq!(parse_step(other), None, "{other}");
        }
    }
}
