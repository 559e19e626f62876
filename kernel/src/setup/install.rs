//! Tells Jupyter of the kernel, and builds what its sessions start from.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Result;
use crate::build::archive::{self, Packing};
use crate::build::source::CrateSource;
use crate::build::template::{self, Template};
use crate::files::write_whole;
use crate::notebook::{DISPLAY_NAME, KERNEL_NAME};
use crate::process::stdout_of;
use crate::terminal::progress::ProgressLine;

const LOGO_32: &[u8] = include_bytes!("../../assets/logo-32x32.png");
const LOGO_64: &[u8] = include_bytes!("../../assets/logo-64x64.png");
const LOGO_SVG: &[u8] = include_bytes!("../../assets/logo-svg.svg");

/// Where the kernel is put for Jupyter to find.
pub enum InstallTarget {
    User,
    /// The environment of the `python3` that is first on the path.
    SysPrefix,
    Prefix(PathBuf),
}

impl InstallTarget {
    pub fn folder(&self) -> Result<PathBuf> {
        let jupyter = match self {
            InstallTarget::User => user_folder()?,
            InstallTarget::SysPrefix => python_prefix()?.join("share/jupyter"),
            InstallTarget::Prefix(prefix) => std::path::absolute(prefix)?.join("share/jupyter"),
        };
        Ok(jupyter.join("kernels").join(KERNEL_NAME))
    }
}

/// Builds the template, with progress, and writes the kernelspec.
pub fn install(target: &InstallTarget) -> Result<()> {
    let folder = target.folder()?;
    let source = CrateSource::find().describe();
    println!("headlight comes from {source}");
    println!(
        "building what notebooks start from: four to ten minutes on two cores the first time, none if it is there"
    );
    let progress = ProgressLine::for_build();
    let template = Template::prepare(&mut |what| progress.show(what));
    progress.clear();
    let template = template?;
    if template.std_stub().is_none() {
        println!(
            "note: the source of the standard library is missing; completion and some types need it: \
             rustup component add rust-src"
        );
    }
    let program = std::env::current_exe()?;
    let program = program.to_str().ok_or_else(|| format!("the path {} is not UTF-8", program.display()))?;
    let mut specification = specification(program);
    specification["metadata"] = json!({"headlight": {"crate": source}});
    if let Some(cache) = std::env::var_os("HEADLIGHT_CACHE") {
        // Where it was built is where it must be looked for.
        specification["env"] = json!({"HEADLIGHT_CACHE": std::path::absolute(cache)?});
    }
    write_specification(&folder, &specification)
        .map_err(|error| format!("{error}; --user or --prefix name another place"))?;
    println!("installed the kernel \"{DISPLAY_NAME}\" in {}", folder.display());
    Ok(())
}

/// What Jupyter is told of the kernel.
fn specification(program: &str) -> Value {
    json!({
        "argv": [program, "start", "{connection_file}"],
        "display_name": DISPLAY_NAME,
        "language": "rust",
        "interrupt_mode": "message",
    })
}

fn write_specification(folder: &Path, specification: &Value) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
    for (name, content) in
        [("logo-32x32.png", LOGO_32), ("logo-64x64.png", LOGO_64), ("logo-svg.svg", LOGO_SVG)]
    {
        write_whole(&folder.join(name), content)?;
    }
    let mut text = serde_json::to_string_pretty(specification)?;
    text.push('\n');
    write_whole(&folder.join("kernel.json"), text.as_bytes())
}

/// Writes what a wheel carries: under `share`, as an environment of Python has it, the kernel as Jupyter is told of it and the note of
/// the template; beside it what the template's archive is to hold.
pub fn pack(folder: &Path) -> Result<()> {
    let CrateSource::Package(package) = CrateSource::find() else {
        return Err("this program was not built for a wheel; kernel/wheel/build does that".into());
    };
    let progress = ProgressLine::for_build();
    let template = Template::prepare(&mut |what| progress.show(what));
    progress.clear();
    let template = template?;
    let packing = Packing {
        template: &template.folder,
        dependencies: &template.dependencies,
        package: &package,
        compiler: &template.toolchain.version,
    };
    archive::pack(&packing, folder)?;
    // From its own folder to where the wheel's programs are: neither is known before the wheel is installed.
    let programs = if cfg!(windows) { "Scripts" } else { "bin" };
    let program =
        format!("{{resource_dir}}/../../../../{programs}/headlight-kernel{}", std::env::consts::EXE_SUFFIX);
    write_specification(&folder.join("share/jupyter/kernels").join(KERNEL_NAME), &specification(&program))
}

/// Takes the kernel away, and all that was built for it.
pub fn uninstall(target: &InstallTarget) -> Result<()> {
    let folder = target.folder()?;
    let Ok(specification) = std::fs::read(folder.join("kernel.json")) else {
        println!("no kernel in {}", folder.display());
        return Ok(());
    };
    let specification: serde_json::Value = serde_json::from_slice(&specification).unwrap_or_default();
    std::fs::remove_dir_all(&folder)?;
    println!("removed {}", folder.display());
    // Where it was built, if that was said at its installation.
    let cache = match specification["env"]["HEADLIGHT_CACHE"].as_str() {
        Some(cache) => PathBuf::from(cache),
        None => template::cache_folder()?,
    };
    match template::remove_all(&cache)? {
        true => println!("removed what was built in {}", cache.display()),
        false => println!("kept {}: a kernel runs from it", cache.display()),
    }
    Ok(())
}

fn user_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("JUPYTER_DATA_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let home = || dirs::home_dir().ok_or("there is no home folder; name a place with --prefix");
    if cfg!(target_os = "macos") {
        return Ok(home()?.join("Library/Jupyter"));
    }
    if cfg!(windows) {
        return Ok(dirs::config_dir()
            .ok_or("there is no folder for settings; name a place with --prefix")?
            .join("jupyter"));
    }
    Ok(dirs::data_dir().unwrap_or(home()?.join(".local/share")).join("jupyter"))
}

fn python_prefix() -> Result<PathBuf> {
    let python = ["python3", "python"].into_iter().find_map(|python| {
        stdout_of(Command::new(python).args(["-c", "import sys; print(sys.prefix)"])).ok()
    });
    python
        .map(|prefix| PathBuf::from(prefix.trim()))
        .ok_or_else(|| "no Python was found for --sys-prefix; --prefix names a place".into())
}
