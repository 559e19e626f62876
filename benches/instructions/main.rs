//! Workloads that are always the same, for `compare.py` beside this, which counts their instructions. By hand,
//! `cargo bench --bench instructions` runs each once and says how long it took.

use std::hint::black_box;
use std::time::Instant;

use headlight::prelude::*;

const SENTENCE: &str = "the quick brown fox jumps over the lazy dog. the quick brown fox jumps over the lazy dog";
const WORKLOADS: [(&str, fn() -> headlight::Result<()>); 3] = [("run", run), ("sweep", sweep), ("figure", figure)];

/// Every activation of 64 tokens, and each of them read.
fn run() -> headlight::Result<()> {
    let model = Model::open("built-in")?;
    let ids: Vec<u32> = (0..64).map(|i| i * 997 % 2048).collect();
    measured(|| {
        let run = model.run_with_cache(&ids)?;
        for hook in run.hooks() {
            black_box(run.get(hook)?.to_vec()?);
        }
        Ok(())
    })
}

/// The loss without each head, MLP and layer.
fn sweep() -> headlight::Result<()> {
    let model = Model::open("built-in")?;
    measured(|| ablation_effects(&model, SENTENCE, Ablation::Zero, &Metric::Loss).map(drop))
}

/// From nothing to a picture of attention, as a notebook shows it.
fn figure() -> headlight::Result<()> {
    measured(|| {
        let figure = Model::open("built-in")?.run_with_cache(SENTENCE)?.pattern(1)?.figure()?;
        black_box((figure.to_json()?, figure.to_png()?));
        Ok(())
    })
}

/// What is counted: `compare.py` knows this function by its name, and forgets what was counted before it.
#[inline(never)]
fn measured(work: impl FnOnce() -> headlight::Result<()>) -> headlight::Result<()> {
    let start = Instant::now();
    work()?;
    println!("seconds {:.4}", start.elapsed().as_secs_f64());
    Ok(())
}

/// The instruction set that code chooses by when it runs: gemm's products, the C library's copies and functions.
fn instruction_set() -> String {
    #[allow(unused_mut)]
    let mut set = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    for (name, there) in [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ] {
        if there {
            set.push(name);
        }
    }
    set.join(" ")
}

fn main() -> headlight::Result<()> {
    // Cargo adds flags of its own.
    let asked: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    println!("set {}", instruction_set());
    for (name, workload) in WORKLOADS {
        if asked.is_empty() || asked.iter().any(|one| one == name) {
            println!("workload {name}");
            workload()?;
        }
    }
    Ok(())
}
