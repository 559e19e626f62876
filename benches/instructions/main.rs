//! Workloads that are always the same, whose instructions `compare.py`, beside this, counts. With the name of one it runs
//! that one, and prints the instruction set it saw; with none it prints their names.

use std::hint::black_box;

use headlight::prelude::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Workload = fn() -> Outcome;

const WORKLOADS: [(&str, Workload); 3] = [("run", run), ("sweep", sweep), ("figure", figure)];
const SENTENCE: &str =
    "the quick brown fox jumps over the lazy dog. the quick brown fox jumps over the lazy dog";

/// Every activation of 64 tokens, and each of them read.
fn run() -> Outcome {
    let model = opened()?;
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
fn sweep() -> Outcome {
    let model = opened()?;
    measured(|| {
        black_box(ablation_effects(&model, SENTENCE, Ablation::Zero, &Metric::Loss)?);
        Ok(())
    })
}

/// From nothing to a picture of attention, as a notebook shows it.
fn figure() -> Outcome {
    measured(|| {
        let figure = Model::open("built-in")?.run_with_cache(SENTENCE)?.pattern(1)?.figure()?;
        black_box((figure.to_json()?, figure.to_png()?));
        Ok(())
    })
}

/// A model whose tokenizer was read: that belongs to opening.
fn opened() -> headlight::Result<Model> {
    let model = Model::open("built-in")?;
    model.to_tokens(SENTENCE)?;
    Ok(model)
}

/// What is counted: `compare.py` knows it by its name.
#[inline(never)]
fn measured(work: impl FnOnce() -> Outcome) -> Outcome {
    work()
}

/// What code that chooses when it runs chooses by: gemm's products, the C library's functions.
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

fn main() -> Outcome {
    // `cargo bench` adds flags of its own.
    let Some(asked) = std::env::args().skip(1).find(|name| !name.starts_with('-')) else {
        WORKLOADS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let Some((_, workload)) = WORKLOADS.iter().find(|(name, _)| *name == asked) else {
        return Err(format!("there is no workload {asked:?}").into());
    };
    // This thread is one of the pool's: with RAYON_NUM_THREADS=1 it does all of the work, always in the same order.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global()?;
    println!("{}", instruction_set());
    workload()
}
