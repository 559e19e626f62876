//! `headlight-kernel doctor`: what notebooks need, what of it is there, and what brings the rest.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::Result;
use crate::build::package;
use crate::build::source::CrateSource;
use crate::build::template::Template;
use crate::build::toolchain::Toolchain;
use crate::notebook::KERNEL_NAME;
use crate::setup::install::InstallTarget;
use crate::setup::jupyterlab::{Lab, find_lab};
use crate::setup::lab::find_root;

/// What is looked for: its name, and what is there of it; or what is not, and how it is mended.
struct Finding {
    of: &'static str,
    found: std::result::Result<String, Missing>,
}

struct Missing {
    what: String,
    mend: String,
}

fn missing<T>(what: impl Into<String>, mend: impl Into<String>) -> std::result::Result<T, Missing> {
    Err(Missing { what: what.into(), mend: mend.into() })
}

/// Prints a line for each thing that notebooks need; fails where something is missing.
pub fn doctor() -> Result<ExitCode> {
    let findings = look()?;
    let mut said = String::new();
    for Finding { of, found } in &findings {
        said += &match found {
            Ok(what) => format!("{of:<11} {what}\n"),
            Err(Missing { what, mend }) => format!("{of:<11} {what}\n{:<11} to mend it: {mend}\n", ""),
        };
    }
    // A reader that goes away is no error.
    let _ = std::io::stdout().write_all(said.as_bytes());
    let all_is_there = findings.iter().all(|finding| finding.found.is_ok());
    Ok(if all_is_there { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look() -> Result<Vec<Finding>> {
    let source = CrateSource::find();
    let toolchain = Toolchain::find(&source);
    let refusal = match (&source, &toolchain) {
        (CrateSource::Package(package), Ok(toolchain)) => Some(package::refusal(package, &toolchain.version)),
        _ => None,
    };
    let is_packed = refusal == Some(None);
    let lab = find_lab(&find_root(&std::env::current_dir()?));
    Ok(vec![
        Finding { of: "crate", found: Ok(source.describe()) },
        Finding { of: "compiler", found: of_compiler(&toolchain) },
        Finding { of: "rust-src", found: of_std_source(&toolchain, is_packed) },
        Finding { of: "template", found: of_template(&source, &toolchain, refusal.flatten()) },
        Finding { of: "JupyterLab", found: of_lab(lab.as_ref()) },
        Finding { of: "plotly", found: of_plotly(lab.as_ref()) },
        Finding { of: "kernel", found: of_kernel(lab.as_ref()) },
    ])
}

fn of_compiler(toolchain: &Result<Toolchain>) -> std::result::Result<String, Missing> {
    match toolchain {
        Ok(toolchain) => {
            let version = toolchain.version.lines().next().unwrap_or_default();
            Ok(format!("{version}, {}", toolchain.rustc.display()))
        }
        Err(error) => {
            // Rustup says more than that, about itself.
            let error = error.to_string().lines().next().unwrap_or_default().to_string();
            missing(error, "rustup default stable; or install Rust by rustup, from https://rustup.rs")
        }
    }
}

fn of_std_source(toolchain: &Result<Toolchain>, is_packed: bool) -> std::result::Result<String, Missing> {
    match toolchain {
        _ if is_packed => Ok("in the package".to_string()),
        Ok(toolchain) if toolchain.has_rust_src() => Ok(toolchain.std_source().display().to_string()),
        _ => missing(
            "missing: completion and inspection, and the types of some variables, need it",
            "rustup component add rust-src",
        ),
    }
}

/// `refusal` says why the template of the package is of no use here.
fn of_template(
    source: &CrateSource,
    toolchain: &Result<Toolchain>,
    refusal: Option<String>,
) -> std::result::Result<String, Missing> {
    let is_ready = |toolchain| Template::is_ready(source, toolchain).unwrap_or(false);
    if toolchain.as_ref().is_ok_and(is_ready) {
        return Ok("there: kernels start from it in seconds".to_string());
    }
    match refusal {
        Some(refusal) => missing(
            format!("not built, which takes minutes: {refusal}"),
            "headlight-kernel install; or rustup toolchain install, with the version that the package has it for",
        ),
        None => missing(
            "not built for this compiler and this source, which takes minutes",
            "headlight-kernel install",
        ),
    }
}

fn of_lab(lab: Option<&Lab>) -> std::result::Result<String, Missing> {
    match lab {
        Some(lab) => Ok(format!("{}, {}", lab.version, lab.jupyter.display())),
        None => {
            missing("not on the path and not in .venv", "headlight-kernel lab, which makes .venv with it")
        }
    }
}

fn of_plotly(lab: Option<&Lab>) -> std::result::Result<String, Missing> {
    match lab {
        Some(lab) if lab.draws_plotly() => Ok("there: figures in JupyterLab are interactive".to_string()),
        Some(lab) => missing("missing: figures in JupyterLab are still pictures", lab.how_to_add()),
        None => missing(
            "not looked for: there is no JupyterLab",
            "headlight-kernel lab, which makes .venv with both",
        ),
    }
}

/// The kernel as that JupyterLab knows it, or else as this user's has it.
fn of_kernel(lab: Option<&Lab>) -> std::result::Result<String, Missing> {
    let own = InstallTarget::User.folder().ok();
    let places = lab.iter().flat_map(|lab| &lab.data).map(|data| data.join("kernels").join(KERNEL_NAME));
    let Some(place) = places.chain(own).find(|place| place.join("kernel.json").exists()) else {
        return missing("not known to Jupyter", "headlight-kernel install");
    };
    match program_of(&place) {
        Some(program) if program.exists() => Ok(format!("known to Jupyter, {}", place.display())),
        Some(program) => missing(
            format!(
                "{} names {}, which is not there",
                place.join("kernel.json").display(),
                program.display()
            ),
            "headlight-kernel install",
        ),
        None => missing(
            format!("{} cannot be read", place.join("kernel.json").display()),
            "headlight-kernel install",
        ),
    }
}

fn program_of(place: &Path) -> Option<PathBuf> {
    let specification: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.join("kernel.json")).ok()?).ok()?;
    // In a wheel's, where it lies is filled in by Jupyter.
    let program = specification["argv"][0].as_str()?.replace("{resource_dir}", &place.to_string_lossy());
    Some(PathBuf::from(program))
}
