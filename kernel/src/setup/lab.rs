//! `headlight-kernel lab`: from nothing to notebooks in JupyterLab, or to their pages without it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use crate::Result;
use crate::build::source::CrateSource;
use crate::build::template::Template;
use crate::build::toolchain::Toolchain;
use crate::process::become_command;
use crate::run::command::{RunArgs, run};
use crate::setup::install;
use crate::setup::jupyterlab::{find_lab, make_lab};

#[derive(Args, Clone, Debug)]
pub struct LabArgs {
    /// A notebook, or a folder of them; without it `notebooks`, or else the current folder
    pub path: Option<PathBuf>,
    /// Run the notebooks and write them as HTML, without JupyterLab and without Python
    #[arg(long)]
    pub headless: bool,
    /// The folder for what --headless writes
    #[arg(long, value_name = "FOLDER", requires = "headless")]
    pub out: Option<PathBuf>,
}

pub fn lab(args: &LabArgs) -> Result<ExitCode> {
    let here = std::env::current_dir()?;
    let root = find_root(&here);
    let place = match &args.path {
        Some(path) if path.exists() => path.clone(),
        Some(path) => {
            return Err(
                format!("{} does not exist; name a notebook or a folder of them", path.display()).into()
            );
        }
        None if root.join("notebooks").is_dir() => root.join("notebooks"),
        None => {
            println!("There is no folder `notebooks` in {}; {} is used.", root.display(), here.display());
            here
        }
    };
    if args.headless { headless(&place, args, &root) } else { open(&place, &root) }
}

/// The checkout, if one is in it; else the folder itself.
pub fn find_root(here: &Path) -> PathBuf {
    match CrateSource::find() {
        CrateSource::Checkout(checkout) if here.starts_with(&checkout) => checkout,
        _ => here.to_path_buf(),
    }
}

fn headless(place: &Path, args: &LabArgs, root: &Path) -> Result<ExitCode> {
    let notebooks = find_notebooks(place)?;
    let out = args.out.clone().unwrap_or_else(|| root.join("target/notebooks"));
    // Never among the sources: pages are made anew each time.
    std::fs::create_dir_all(&out).map_err(|error| format!("{} cannot be made: {error}", out.display()))?;
    let source = CrateSource::find();
    let is_ready = Template::is_ready(&source, &Toolchain::find(&source)?)?;
    let first = if is_ready {
        "headlight is built already, so that each notebook starts in a few seconds".to_string()
    } else {
        format!(
            "headlight is first built for notebooks, from {}, which takes four to ten minutes on two cores; \
             later runs start from it in a few seconds",
            source.describe()
        )
    };
    println!(
        "Running {} from {} and writing pages to {}:",
        count_notebooks(&notebooks),
        place.display(),
        out.display()
    );
    println!("{first}. A notebook then takes as long as its cells do, mostly less than a minute.");
    let run_args = RunArgs {
        notebooks: notebooks.clone(),
        out: Some(out.clone()),
        html: true,
        set: Vec::new(),
        timeout: None,
        allow_errors: false,
        summary: None,
    };
    let code = run(&run_args)?;
    println!();
    for page in notebooks.iter().filter_map(|path| Some(out.join(path.file_name()?).with_extension("html"))) {
        if page.exists() {
            println!("{}", page.display());
        }
    }
    Ok(code)
}

fn count_notebooks(notebooks: &[PathBuf]) -> String {
    match notebooks.len() {
        1 => "1 notebook".to_string(),
        n => format!("{n} notebooks"),
    }
}

fn find_notebooks(place: &Path) -> Result<Vec<PathBuf>> {
    if place.is_file() {
        return Ok(vec![place.to_path_buf()]);
    }
    let mut notebooks = Vec::new();
    for entry in
        std::fs::read_dir(place).map_err(|error| format!("{} cannot be read: {error}", place.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "ipynb") && path.is_file() {
            notebooks.push(path);
        }
    }
    notebooks.sort();
    if notebooks.is_empty() {
        return Err(
            format!("there are no notebooks (*.ipynb) in {}; name another folder", place.display()).into()
        );
    }
    Ok(notebooks)
}

fn open(place: &Path, root: &Path) -> Result<ExitCode> {
    let lab = match find_lab(root) {
        Some(lab) => {
            println!("Found JupyterLab {} ({}).", lab.version, lab.jupyter.display());
            lab
        }
        None => make_lab(root)?,
    };
    if !lab.draws_plotly() {
        println!(
            "Note: this JupyterLab lacks the Python package plotly, and shows figures as still pictures. \
             For interactive ones: {}",
            lab.how_to_add()
        );
    }
    let target = lab.install_target();
    println!("Making the kernel known to this JupyterLab.");
    install::install(&target)?;
    println!("Opening {} in JupyterLab; Ctrl-C ends it.", place.display());
    let mut command = Command::new(&lab.jupyter);
    command.arg("lab").arg(place);
    #[cfg(unix)]
    // SAFETY: cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        println!(
            "You are root, as in a container; JupyterLab, which asks for other users, is started all the same."
        );
        command.arg("--allow-root");
    }
    // So that Ctrl-C reaches nothing else.
    become_command(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notebooks_come_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let message = find_notebooks(folder.path()).unwrap_err().to_string();
        assert!(message.starts_with("there are no notebooks"), "{message}");
        for name in ["b.ipynb", "a.ipynb", "c.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("d.ipynb")).unwrap();
        let names = ["a.ipynb", "b.ipynb"].map(|name| folder.path().join(name));
        assert_eq!(find_notebooks(folder.path()).unwrap(), names);
        assert_eq!(find_notebooks(&names[1]).unwrap(), names[1..]);
    }
}
