//! `headlight-kernel run`: executes notebooks without Jupyter, and writes them.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Args;

use crate::Result;
use crate::engine::handle::Engine;
use crate::files::write_whole;
use crate::html::page;
use crate::notebook::{self, Notebook};
use crate::run::parameters::{self, Setting};
use crate::run::runner::{self, RunConfig, RunOutcome};
use crate::run::stop::{STOPPED, Stop};
use crate::terminal::progress::ProgressLine;

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The notebooks, run one after the other
    #[arg(required = true, value_name = "NOTEBOOK")]
    pub notebooks: Vec<PathBuf>,
    /// Write them into this folder, also when a cell failed; without it they are rewritten in place, if all went well
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write each as one HTML file as well, which needs no network
    #[arg(long)]
    pub html: bool,
    /// Give a name in the cell tagged `parameters` another value, as in --set model=gpt2
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<Setting>,
    /// Stop a cell that takes longer than so many seconds; it has then failed
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Go on after a cell that fails
    #[arg(long)]
    pub allow_errors: bool,
    /// Where to say why it failed, for the run of several
    #[arg(long, hide = true, value_name = "FILE")]
    pub summary: Option<PathBuf>,
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let invalid = || format!("{text:?} is not a number of seconds above 0");
    let seconds: f64 = text.parse().map_err(|_| invalid())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero()).ok_or_else(invalid)
}

pub fn run(args: &RunArgs) -> Result<ExitCode> {
    if let Some(out) = &args.out {
        check_out(out, &args.notebooks)?;
    }
    match &args.notebooks[..] {
        [path] => match run_one(path, args) {
            Ok(None) => Ok(ExitCode::SUCCESS),
            Ok(Some(why)) => {
                write_summary(args, &why);
                Ok(ExitCode::FAILURE)
            }
            Err(error) => {
                write_summary(args, &error.to_string());
                Err(error)
            }
        },
        several => run_each(several, args),
    }
}

fn write_summary(args: &RunArgs, why: &str) {
    if let Some(file) = &args.summary {
        let _ = std::fs::write(file, why);
    }
}

fn check_out(out: &Path, notebooks: &[PathBuf]) -> Result<()> {
    if out.exists() && !out.is_dir() {
        return Err(format!("--out {} is a file, where a folder is needed", out.display()).into());
    }
    let mut names: BTreeMap<_, &Path> = BTreeMap::new();
    for path in notebooks {
        if let (Ok(source), Ok(target)) = (path.canonicalize(), out.join(file_name(path)).canonicalize())
            && source == target
        {
            return Err(format!(
                "--out {} is the folder of {}; leave --out out to rewrite it in place",
                out.display(),
                path.display()
            )
            .into());
        }
        if let Some(other) = names.insert(file_name(path), path) {
            return Err(format!(
                "{} and {} would both become {}; run them with different folders for --out",
                other.display(),
                path.display(),
                out.join(file_name(path)).display()
            )
            .into());
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

/// Each in a process of its own: a session belongs to one process, with its folder and environment.
fn run_each(notebooks: &[PathBuf], args: &RunArgs) -> Result<ExitCode> {
    let stop = Stop::listen(None)?;
    let mut failures = Vec::new();
    for path in notebooks {
        if stop.is_requested() {
            return Ok(ExitCode::from(STOPPED));
        }
        let summary = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg("--summary").arg(summary.path());
        if let Some(out) = &args.out {
            command.arg("--out").arg(out);
        }
        for (is_set, flag) in [(args.html, "--html"), (args.allow_errors, "--allow-errors")] {
            if is_set {
                command.arg(flag);
            }
        }
        for setting in &args.set {
            command.arg(format!("--set={setting}"));
        }
        if let Some(timeout) = args.timeout {
            command.arg("--timeout").arg(timeout.as_secs_f64().to_string());
        }
        let status = stop.wait_for(command.arg("--").arg(path).spawn()?)?;
        if !status.success() {
            let why = std::fs::read_to_string(summary.path()).unwrap_or_default();
            let why = if why.is_empty() { format!("{}: {status}", path.display()) } else { why };
            failures.push(why);
        }
    }
    if stop.is_requested() {
        return Ok(ExitCode::from(STOPPED));
    }
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\n{} of {} notebooks failed:", failures.len(), notebooks.len());
    failures.iter().for_each(|why| eprintln!("  {why}"));
    Ok(ExitCode::FAILURE)
}

/// Runs one notebook; says why it failed, in a line, if a cell did.
fn run_one(path: &Path, args: &RunArgs) -> Result<Option<String>> {
    let started = Instant::now();
    let mut content = notebook::read(path)?;
    parameters::inject(&mut content, &args.set).map_err(|error| format!("{} {error}", path.display()))?;
    let source = path.canonicalize()?;
    let folder = source.parent().unwrap_or(Path::new("/")).to_path_buf();
    let target = match &args.out {
        Some(out) => {
            std::fs::create_dir_all(out)
                .map_err(|error| format!("--out {} cannot be made: {error}", out.display()))?;
            out.canonicalize()?.join(file_name(path))
        }
        None => source,
    };
    // As in Jupyter, code finds what lies beside the notebook.
    std::env::set_current_dir(&folder)
        .map_err(|error| format!("{} cannot be entered: {error}", folder.display()))?;

    let progress = ProgressLine::for_notebook(&path.display().to_string(), content.count_runnable());
    content.prepare();
    // One with nothing to run needs no kernel.
    let outcome = if content.count_runnable() == 0 {
        RunOutcome::Done
    } else {
        run_cells(&mut content, args, &progress)?
    };

    let took = format!("{:.1} s", started.elapsed().as_secs_f64());
    match outcome {
        RunOutcome::Stopped => {
            progress.end(&format!("stopped after {took}; nothing was written"));
            std::process::exit(i32::from(STOPPED));
        }
        RunOutcome::Done => {
            let names = write(&content, &target, &folder, args.html)?;
            progress.end(&format!("done in {took}; wrote {names}"));
            Ok(None)
        }
        RunOutcome::Failed(failed) => {
            let note = match args.out {
                Some(_) => format!("wrote {}", write(&content, &target, &folder, args.html)?),
                None => "the notebook is as it was".to_string(),
            };
            progress.end(&format!("failed after {took}; {note}"));
            eprint!("{}", runner::format_failure(path, &failed, std::io::stderr().is_terminal()));
            let value = failed.failure.value.lines().next().unwrap_or_default();
            Ok(Some(format!("{}: cell {}: {}: {value}", path.display(), failed.number, failed.failure.name)))
        }
    }
}

fn run_cells(content: &mut Notebook, args: &RunArgs, progress: &ProgressLine) -> Result<RunOutcome> {
    let engine = Engine::start();
    let stop = Stop::listen(Some(engine.clone()))?;
    let config = RunConfig { timeout: args.timeout, allow_errors: args.allow_errors };
    let outcome = runner::run(content, &engine, &config, &stop, progress);
    engine.quit();
    Ok(outcome)
}

/// Writes the notebook, and its page beside it; gives their names.
fn write(content: &Notebook, target: &Path, folder: &Path, html: bool) -> Result<String> {
    let text = content.to_json()?;
    let mut names = target.display().to_string();
    if html {
        let name = target.file_stem().unwrap_or_default().to_string_lossy();
        let page = page::html(content, &name, folder)?;
        let place = target.with_extension("html");
        write_whole(&place, page.as_bytes())?;
        names += &format!(" and {}", place.display());
    }
    write_whole(target, text.as_bytes())?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_positive_numbers() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["", "0", "-1", "ten", "nan", "inf", "1e40"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn notebooks_do_not_overwrite_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ipynb");
        std::fs::write(&path, "").unwrap();
        let check =
            |out: &Path, notebooks: &[PathBuf]| check_out(out, notebooks).map_err(|error| error.to_string());
        let out = folder.path().join("out");
        assert_eq!(check(&out, &[path.clone(), PathBuf::from("b.ipynb")]), Ok(()));
        let same = check(&out, &[path.clone(), PathBuf::from("x/a.ipynb")]).unwrap_err();
        assert!(same.contains("would both become"), "{same}");
        let own = check(folder.path(), std::slice::from_ref(&path)).unwrap_err();
        assert!(own.contains("leave --out out"), "{own}");
        assert!(check(&path, std::slice::from_ref(&path)).unwrap_err().contains("is a file"));
    }
}
