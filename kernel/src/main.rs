//! A Jupyter kernel for Rust in which headlight is ready at once.

mod build;
mod cell;
mod engine;
mod files;
mod html;
mod jupyter;
mod notebook;
mod run;
mod setup;
mod shim;
mod terminal;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard};

use clap::{Args, Parser, Subcommand};
use engine::child;
use setup::install::{self, Place};
use setup::lab;
use shim::tools;

pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// A Jupyter kernel for Rust in which headlight is ready at once.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build what notebooks start from, and tell Jupyter of the kernel
    Install(Where),
    /// Take the kernel away again, and what was built for it
    Uninstall(Where),
    /// Run notebooks, without Jupyter, and write them with what their cells show
    Run(run::command::RunArgs),
    /// Open JupyterLab on the notebooks, made ready for them where it is not
    Lab(lab::LabArgs),
    /// Run a kernel, as Jupyter does
    #[command(hide = true)]
    Start { connection_file: PathBuf },
}

#[derive(Args)]
struct Where {
    /// For this user (the default)
    #[arg(long, conflicts_with_all = ["sys_prefix", "prefix"])]
    user: bool,
    /// In the environment of the python3 that is first on the path
    #[arg(long, conflicts_with = "prefix")]
    sys_prefix: bool,
    /// Under FOLDER/share/jupyter
    #[arg(long, value_name = "FOLDER")]
    prefix: Option<PathBuf>,
}

impl From<Where> for Place {
    fn from(place: Where) -> Place {
        match place {
            Where { prefix: Some(prefix), .. } => Place::Prefix(prefix),
            Where { sys_prefix: true, .. } => Place::SysPrefix,
            _ => Place::User,
        }
    }
}

fn main() -> ExitCode {
    // This program also stands in for cargo and rustup, and is the process that runs the cells.
    if let Some(tool) = tools::called_as(std::env::args_os().next().as_ref()) {
        return tools::stand_in(tool);
    }
    if tools::is_rustc_wrapper() {
        return tools::wrap_rustc();
    }
    if std::env::var_os(child::IS_CHILD).is_some() {
        child::run();
    }
    let done = match Cli::parse().verb {
        Verb::Install(place) => install::install(&place.into()).map(|()| ExitCode::SUCCESS),
        Verb::Uninstall(place) => install::uninstall(&place.into()).map(|()| ExitCode::SUCCESS),
        Verb::Run(args) => run::command::run(&args),
        Verb::Lab(args) => lab::lab(&args),
        Verb::Start { connection_file } => {
            jupyter::kernel::serve(&connection_file).map(|()| ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// What is behind a mutex, also after a thread that held it has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A number that nobody can guess.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
