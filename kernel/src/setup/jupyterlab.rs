//! JupyterLab: found, or made in an environment of Python of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::process::stdout_of;
use crate::setup::install::InstallTarget;

/// The versions that this release was tried with.
const JUPYTERLAB: &str = "jupyterlab==4.6.6";
/// Brings JupyterLab the extension that draws Plotly figures.
const PLOTLY: &str = "plotly==6.9.0";
const EXTENSION: &str = "labextensions/jupyterlab-plotly";
/// In the environment that we make, so that we never change one that is somebody's own.
const OWN_MARK: &str = "made-by-headlight";

/// A JupyterLab that is there.
pub struct Lab {
    pub jupyter: PathBuf,
    pub version: String,
    /// Where it looks for kernels and extensions, as `jupyter --paths` has them.
    pub data: Vec<PathBuf>,
}

/// JupyterLab where this program was installed, else on the path, else in `.venv` of the current folder or of the checkout.
pub fn find_lab(root: &Path) -> Option<Lab> {
    let beside = std::env::current_exe().ok();
    let beside =
        beside.map(|program| program.with_file_name(format!("jupyter{}", std::env::consts::EXE_SUFFIX)));
    let mut places = Vec::from_iter(beside.filter(|jupyter| jupyter.exists()));
    places.push(PathBuf::from("jupyter"));
    places.extend([Path::new("."), root].map(|folder| environment_program(&folder.join(".venv"), "jupyter")));
    places.into_iter().find_map(Lab::probe)
}

fn environment_program(environment: &Path, program: &str) -> PathBuf {
    let folder = if cfg!(windows) { "Scripts" } else { "bin" };
    environment.join(folder).join(format!("{program}{}", std::env::consts::EXE_SUFFIX))
}

impl Lab {
    fn probe(jupyter: PathBuf) -> Option<Lab> {
        let version = stdout_of(Command::new(&jupyter).args(["lab", "--version"])).ok()?.trim().to_string();
        let paths = stdout_of(Command::new(&jupyter).args(["--paths", "--json"])).ok()?;
        Some(Lab { jupyter, version, data: parse_data_paths(&paths) })
    }

    pub fn draws_plotly(&self) -> bool {
        self.data.iter().any(|folder| folder.join(EXTENSION).exists())
    }

    /// In its own environment, if that can be written; else for this user.
    pub fn install_target(&self) -> InstallTarget {
        let prefixes = self.data.iter().filter_map(|folder| folder.parent()?.parent());
        let own = prefixes.into_iter().find(|prefix| is_environment(prefix) && is_writable(prefix));
        own.map_or(InstallTarget::User, |prefix| InstallTarget::Prefix(prefix.to_path_buf()))
    }

    pub fn how_to_add(&self) -> String {
        let python = self.data.iter().filter_map(|folder| folder.parent()?.parent()).find_map(|prefix| {
            let python = environment_program(prefix, "python");
            python.exists().then(|| python.display().to_string())
        });
        format!("{} -m pip install {PLOTLY}", python.unwrap_or_else(|| "python3".to_string()))
    }
}

fn parse_data_paths(json: &str) -> Vec<PathBuf> {
    let paths: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let data = paths["data"].as_array().into_iter().flatten();
    data.filter_map(|path| path.as_str()).map(PathBuf::from).collect()
}

fn is_environment(prefix: &Path) -> bool {
    prefix.join("pyvenv.cfg").exists()
        || environment_program(prefix, "python3").exists()
        || prefix.join(format!("python{}", std::env::consts::EXE_SUFFIX)).is_file()
}

fn is_writable(prefix: &Path) -> bool {
    let jupyter = prefix.join("share/jupyter");
    let folder = jupyter.ancestors().find(|folder| folder.exists());
    folder.is_some_and(|folder| tempfile::tempfile_in(folder).is_ok())
}

/// An environment of Python with JupyterLab in it.
pub fn make_lab(root: &Path) -> Result<Lab> {
    let environment = root.join(".venv");
    let mark = environment.join(OWN_MARK);
    if environment.exists() && !mark.exists() {
        return Err(format!(
            "JupyterLab is neither on the path nor in {0}, which is not ours to change; \
             add it yourself: {1} -m pip install {JUPYTERLAB} {PLOTLY}. Or move {0} away.",
            environment.display(),
            environment_program(&environment, "python").display()
        )
        .into());
    }
    let has_uv = stdout_of(Command::new("uv").arg("--version")).is_ok();
    let python = if !has_uv { Some(find_python()?) } else { None };
    println!(
        "JupyterLab was not found. Making {} with {JUPYTERLAB} and {PLOTLY}, by {}: about {} and 250 MB.",
        environment.display(),
        if has_uv { "uv" } else { "pip" },
        if has_uv { "half a minute" } else { "two minutes" },
    );
    let python_of_environment = environment_program(&environment, "python");
    match &python {
        None => run_step(Command::new("uv").args(["venv", "--allow-existing", "--quiet"]).arg(&environment))?,
        Some(python) => run_step(Command::new(python).args(["-m", "venv"]).arg(&environment))?,
    }
    std::fs::write(&mark, "")?;
    let mut install = match &python {
        None => {
            let mut uv = Command::new("uv");
            uv.args(["pip", "install", "--python"]).arg(&python_of_environment);
            uv
        }
        Some(_) => {
            let mut pip = Command::new(&python_of_environment);
            pip.args([
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--progress-bar",
                "off",
                "--quiet",
            ]);
            pip
        }
    };
    run_step(install.args([JUPYTERLAB, PLOTLY]))?;
    let jupyter = environment_program(&environment, "jupyter");
    Lab::probe(jupyter.clone()).ok_or_else(|| {
        format!(
            "{} does not start JupyterLab; remove {} and try again",
            jupyter.display(),
            environment.display()
        )
        .into()
    })
}

/// A Python that can make environments.
fn find_python() -> Result<&'static str> {
    let script = "import sys; print(sys.version_info >= (3, 10)); import venv, ensurepip; print('venv')";
    let mut old = None;
    for python in ["python3", "python"] {
        let Ok(output) = Command::new(python).args(["-c", script]).stdin(Stdio::null()).output() else {
            continue;
        };
        let answer = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        match answer.as_str() {
            "True venv" => return Ok(python),
            "True" => {
                return Err(format!(
                    "{python} lacks venv, which makes environments; on Debian and Ubuntu: \
                     sudo apt install python3-venv. Or install uv: https://docs.astral.sh/uv"
                )
                .into());
            }
            answer if answer.starts_with("False") => old = Some(python),
            _ => {}
        }
    }
    let why = match old {
        Some(python) => format!("{python} is older than 3.10, which JupyterLab needs"),
        None => "there is no Python, which JupyterLab needs".to_string(),
    };
    Err(format!(
        "{why}; install uv (https://docs.astral.sh/uv), which brings one, or Python from https://python.org. \
         Without Python, `headlight-kernel lab --headless` runs the notebooks and writes them as HTML"
    )
    .into())
}

fn run_step(command: &mut Command) -> Result<()> {
    let line = format!("{command:?}");
    let status =
        command.stdin(Stdio::null()).status().map_err(|error| format!("{line} could not run: {error}"))?;
    if !status.success() {
        return Err(format!("{line} failed ({status}); is there a network? What it said is above").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_goes_where_the_lab_is() {
        let folder = tempfile::tempdir().unwrap();
        let lab = |data: &[PathBuf]| Lab {
            jupyter: PathBuf::from("jupyter"),
            version: String::new(),
            data: data.to_vec(),
        };
        let user = folder.path().join("home/.local/share/jupyter");
        let environment = folder.path().join("env");
        let own = environment.join("share/jupyter");
        assert!(matches!(lab(&[user.clone(), own.clone()]).install_target(), InstallTarget::User));
        std::fs::create_dir_all(&environment).unwrap();
        std::fs::write(environment.join("pyvenv.cfg"), "").unwrap();
        let labs = lab(&[user, own.clone()]);
        assert!(matches!(labs.install_target(), InstallTarget::Prefix(prefix) if prefix == environment));
        assert!(!labs.draws_plotly());
        std::fs::create_dir_all(own.join(EXTENSION)).unwrap();
        assert!(labs.draws_plotly());
    }

    #[test]
    fn paths_are_read_from_what_jupyter_says() {
        assert_eq!(
            parse_data_paths("{\"data\": [\"/a\", \"/b\"], \"config\": [\"/c\"]}"),
            ["/a", "/b"].map(PathBuf::from)
        );
        assert_eq!(parse_data_paths("nonsense"), Vec::<PathBuf>::new());
    }
}
