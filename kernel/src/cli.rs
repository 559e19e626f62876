//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::jupyter::server;
use crate::run::command::{self, RunArgs};
use crate::setup::doctor::doctor;
use crate::setup::install::{self, InstallTarget};
use crate::setup::lab::{self, LabArgs};

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
    Install(TargetArgs),
    /// Take the kernel away again, and what was built for it
    Uninstall(TargetArgs),
    /// Run notebooks, without Jupyter, and write them with what their cells show
    Run(RunArgs),
    /// Open JupyterLab on the notebooks, made ready for them where it is not
    Lab(LabArgs),
    /// Say what notebooks need, what of it is there, and what brings the rest
    Doctor,
    /// Write what a wheel carries of this kernel and of what notebooks start from
    #[command(hide = true)]
    Pack { folder: PathBuf },
    /// Run a kernel, as Jupyter does
    #[command(hide = true)]
    Start { connection_file: PathBuf },
}

#[derive(Args)]
struct TargetArgs {
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

impl From<TargetArgs> for InstallTarget {
    fn from(target: TargetArgs) -> InstallTarget {
        match target {
            TargetArgs { prefix: Some(prefix), .. } => InstallTarget::Prefix(prefix),
            TargetArgs { sys_prefix: true, .. } => InstallTarget::SysPrefix,
            _ => InstallTarget::User,
        }
    }
}

/// Does what the arguments ask for.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Install(target) => install::install(&target.into()).map(|()| ExitCode::SUCCESS),
        Verb::Uninstall(target) => install::uninstall(&target.into()).map(|()| ExitCode::SUCCESS),
        Verb::Run(args) => command::run(&args),
        Verb::Lab(args) => lab::lab(&args),
        Verb::Doctor => doctor(),
        Verb::Pack { folder } => install::pack(&folder).map(|()| ExitCode::SUCCESS),
        Verb::Start { connection_file } => server::serve(&connection_file).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
