//! What work takes of memory: caches in proportion to what is kept, sweeps no more than their budget, whatever the number of
//! prompts. Bytes are counted where they are asked for, so that a run gives the same count on any machine.

mod common;
#[path = "common/folder.rs"]
mod folder;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, Storage};
use common::MODELS;
use folder::{Folder, Weight};
use headlight::Result;
use headlight::prelude::*;
use serde_json::json;

struct Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// One test at a time counts.
static ONE: Mutex<()> = Mutex::new(());

// SAFETY: everything is the system's; numbers are counted beside it.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    // Not the default, which would touch every page.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// The most bytes that work held above what was held before.
fn peak_of<T>(work: impl FnOnce() -> Result<T>) -> Result<usize> {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work()?;
    Ok(PEAK.load(Ordering::Relaxed) - before)
}

const MIB: usize = 1 << 20;
/// What the documentation states.
const BUDGET: usize = 512 * MIB;

/// A GPT-2 whose dearest part are the logits.
fn small(layers: usize, heads: usize, vocab: usize) -> Folder {
    let width = 32;
    let folder = Folder::new();
    let mut all = BTreeMap::new();
    let mut next = 1u32;
    let mut add = |name: String, shape: &[usize]| {
        let mut value = || {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            next as f32 / u32::MAX as f32 * 0.2 - 0.1
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| value()).collect();
        all.insert(name, Weight::f32(shape, &values));
    };
    add("wte.weight".into(), &[vocab, width]);
    add("wpe.weight".into(), &[128, width]);
    let mut both = |name: String, shape: &[usize]| {
        add(format!("{name}.weight"), shape);
        add(format!("{name}.bias"), &shape[shape.len() - 1..]);
    };
    for layer in 0..layers {
        both(format!("h.{layer}.ln_1"), &[width]);
        both(format!("h.{layer}.attn.c_attn"), &[width, 3 * width]);
        both(format!("h.{layer}.attn.c_proj"), &[width, width]);
        both(format!("h.{layer}.ln_2"), &[width]);
        both(format!("h.{layer}.mlp.c_fc"), &[width, 4 * width]);
        both(format!("h.{layer}.mlp.c_proj"), &[4 * width, width]);
    }
    both("ln_f".into(), &[width]);
    folder.save("model.safetensors", &all);
    let config = json!({
        "model_type": "gpt2", "n_layer": layers, "n_head": heads, "n_embd": width, "vocab_size": vocab, "n_positions": 128,
    });
    folder.write("config.json", config.to_string());
    folder
}

fn tokens(prompts: usize, len: usize, vocab: usize) -> Vec<Vec<u32>> {
    (0..prompts).map(|i| (0..len).map(|j| ((i * 7919 + j * 104_729) % vocab) as u32).collect()).collect()
}

#[test]
fn a_sweep_keeps_its_budget() -> Result<()> {
    let (heads, vocab, len) = (16, 40_000, 96);
    let model = small(2, heads, vocab).open()?;
    let prompts = tokens(1, len, vocab);
    // Without a budget, all heads of a layer would run at once: three times as much.
    let logits = (heads + 3) * len * vocab * 4;
    assert!(3 * logits > BUDGET + BUDGET / 4, "the sizes tell nothing");
    for metric in [Metric::Loss, Metric::Kl] {
        let peak = peak_of(|| ablation_effects(&model, &prompts, Ablation::Zero, &metric))?;
        println!("{metric:?}: {} MiB", peak / MIB);
        // The logits of the unchanged model, and what a sweep resumes from, are held beside.
        let beside = 2 * len * vocab * 4 + 8 * MIB;
        assert!(peak < BUDGET + beside, "{metric:?} takes {} MiB", peak / MIB);
        assert!(peak > BUDGET / 4, "{metric:?} takes {} MiB: so little cannot be", peak / MIB);
    }
    Ok(())
}

#[test]
fn more_prompts_take_no_more() -> Result<()> {
    let vocab = 500;
    let model = small(24, 2, vocab).open()?;
    let folder = Folder::new();
    let peak = |prompts: usize| -> Result<[usize; 4]> {
        let prompts = tokens(prompts, 24, vocab);
        let path = folder.path(&format!("{}.part", prompts.len()));
        let part = Part::new(&path, Shard::ALL);
        let scores = RepeatedTokens { length: 10, batch: prompts.len(), seed: 0 };
        let in_part = Part::new(folder.path(&format!("scores-{}.part", prompts.len())), Shard::ALL);
        Ok([
            peak_of(|| ablation_effects(&model, &prompts, Ablation::Zero, &Metric::Loss))?,
            peak_of(|| part.ablation_effects(&model, &prompts, Ablation::Zero, &Metric::Loss))?,
            peak_of(|| merge(&[&path]))?,
            peak_of(|| in_part.head_scores(&model, &HeadKind::ALL, &scores))?,
        ])
    };
    // What is made once, such as threads, is there.
    peak(1)?;
    // Four sequences are scored together.
    let (few, many) = (peak(4)?, peak(40)?);
    for (what, (few, many)) in ["a sweep", "a part", "a merge", "scores"].iter().zip(few.iter().zip(&many)) {
        // The ids of the prompts, once more, and nothing else.
        let ids = 36 * (24 * 4 + 24) * 2;
        assert!(*many < few + ids + 16 * 1024, "{what}: {few} bytes for 4 prompts, {many} for 40");
    }
    Ok(())
}

/// Each site by itself holds its own numbers, and not those that it was cut out of.
#[test]
fn a_cache_holds_what_was_asked_for() -> Result<()> {
    for name in MODELS {
        let model = Folder::copy_of(name).open()?;
        // Position embeddings are a view of a weight, which the model holds anyhow.
        let made = |site: &Site| model.anatomy().has(*site) && *site != Site::PosEmbed;
        for site in Site::ALL.iter().copied().filter(made) {
            let run = model.run_with_options(vec![3, 1, 4, 1, 5], &RunOptions::only([site]))?;
            for hook in run.hooks() {
                let kept = run.get(hook)?;
                let (storage, _) = kept.tensor().storage_and_layout();
                let Storage::Cpu(CpuStorage::F32(held)) = &*storage else { panic!("{hook} is not f32") };
                let asked = kept.tensor().elem_count();
                assert!(held.len() <= asked, "{name}: `{hook}` is {asked} numbers and holds {}", held.len());
            }
        }
    }
    Ok(())
}

/// A model of GPT-2 medium's size, whose folder the check makes.
#[test]
#[ignore = "needs the folder of a model of 24 layers in HEADLIGHT_DEEP"]
fn a_large_sweep_keeps_its_budget() -> Result<()> {
    let model = Model::open(&std::env::var("HEADLIGHT_DEEP").expect("the folder of a model"))?;
    let dims = *model.dims();
    assert_eq!(dims.n_layers, 24);
    let len = 48;
    let prompts = tokens(1, len, dims.d_vocab);
    let begun = std::time::Instant::now();
    let peak = peak_of(|| ablation_effects(&model, &prompts, Ablation::Zero, &Metric::Loss))?;
    println!("{len} tokens: {} MiB above the weights, {:.0?}", peak / MIB, begun.elapsed());
    let beside = 4 * len * (2 * dims.d_vocab + dims.n_layers * dims.d_model) + 16 * MIB;
    assert!(peak < BUDGET + beside, "{len} tokens take {} MiB", peak / MIB);
    Ok(())
}
