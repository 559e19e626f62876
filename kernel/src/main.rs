//! A Jupyter kernel for Rust in which headlight is ready at once.

#[cfg(unix)]
mod child;
mod engine;
mod files;
mod output;
mod report;
mod session;
mod source;
mod template;
mod tools;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::process::ExitCode;

pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    if let Some(tool) = tools::called_as(std::env::args_os().next().as_ref()) {
        return tools::stand_in(tool);
    }
    if tools::is_rustc_wrapper() {
        return tools::wrap_rustc();
    }
    #[cfg(unix)]
    if std::env::var_os(child::IS_CHILD).is_some() {
        child::run();
    }
    #[cfg(not(unix))]
    evcxr::runtime_hook();
    probe();
    ExitCode::SUCCESS
}

/// A number that nobody can guess.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn probe() {
    use std::sync::Arc;
    let start = std::time::Instant::now();
    let engine = engine::Engine::start();
    let script = std::fs::read_to_string(std::env::args().nth(1).unwrap_or_default()).unwrap_or_default();
    for (number, cell) in script.split("\n---\n").enumerate() {
        let t = std::time::Instant::now();
        let outcome = engine.execute(
            cell,
            number + 1,
            Arc::new(|event| match event {
                engine::Event::Text(stream, text) => println!("  {stream:?} {text:?}"),
                other => println!("  {}", format!("{other:?}").chars().take(300).collect::<String>()),
            }),
            Arc::new(|_, _| None),
        );
        println!("== {number} {:?} (at {:?})", t.elapsed(), start.elapsed());
        match outcome {
            Ok(None) => {}
            Ok(Some(b)) => println!("  -> {}", format!("{b:?}").chars().take(200).collect::<String>()),
            Err(f) => println!("  {} / {}\n{}", f.name, f.value, f.traceback.join("\n")),
        }
    }
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap_or_default()
            .lines()
            .filter(|l| l.starts_with("VmRSS") || l.starts_with("VmHWM"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    engine.quit();
}
