//! What work takes of memory: caches in proportion to what is kept, sweeps no more than their budget, whatever the number of
//! prompts. Bytes are counted where they are asked for, so that a run gives the same count on any machine.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, Storage};
use common::MODELS;
use common::folder::{Folder, Weight};
use headlight::analysis::*;
use headlight::prelude::*;
use headlight::{Dims, ErrorKind, Result, head as head_of, memory_asked_for};
use serde_json::json;

struct Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Allocations of the whole process are counted, so each test has it to itself.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work()?;
    Ok(PEAK.load(Ordering::Relaxed) - before)
}

/// What analyses of the stream read.
const STREAM: [Site; 9] = [
    Site::Embed,
    Site::PosEmbed,
    Site::ResidPre,
    Site::Ln1Scale,
    Site::Ln1Normalized,
    Site::Z,
    Site::MlpOut,
    Site::ResidPost,
    Site::LnFinalScale,
];

const MIB: usize = 1 << 20;
/// What the documentation states.
const BUDGET: usize = 512 * MIB;

/// A GPT-2 whose dearest part are the logits.
fn small(layers: usize, heads: usize, vocab: usize, positions: usize) -> Folder {
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
    add("wpe.weight".into(), &[positions, width]);
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
        "model_type": "gpt2", "n_layer": layers, "n_head": heads, "n_embd": width, "vocab_size": vocab,
        "n_positions": positions,
    });
    folder.write("config.json", config.to_string());
    folder
}

fn tokens(prompts: usize, len: usize, vocab: usize) -> Vec<Vec<u32>> {
    (0..prompts).map(|i| (0..len).map(|j| ((i * 7919 + j * 104_729) % vocab) as u32).collect()).collect()
}

#[test]
fn a_sweep_keeps_its_budget() -> Result<()> {
    let _alone = alone();
    let (heads, vocab, len) = (16, 40_000, 96);
    let model = small(2, heads, vocab, 128).open()?;
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
    let _alone = alone();
    let vocab = 500;
    let model = small(24, 2, vocab, 128).open()?;
    let folder = Folder::new();
    let peak = |prompts: usize| -> Result<[usize; 4]> {
        let prompts = tokens(prompts, 24, vocab);
        let path = folder.path(&format!("{}.part", prompts.len()));
        let part = SweepPart::new(&path, Shard::ALL);
        let scores = RepeatedTokens { length: 10, batch: prompts.len(), seed: 0 };
        let in_part = SweepPart::new(folder.path(&format!("scores-{}.part", prompts.len())), Shard::ALL);
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
    let _alone = alone();
    for name in MODELS {
        let model = Folder::copy_of(name).open()?;
        // Position embeddings are a view of a weight, which the model holds anyhow.
        let made = |site: &Site| model.spec().has(*site) && *site != Site::PosEmbed;
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

/// What was reckoned beside what was taken: never below by much, and at most a fifth above.
fn assert_reckoned(what: &str, asked: u64, taken: usize) {
    // Lists, names and threads are not reckoned.
    println!("{what} asked for {:.2} of {taken} bytes", asked as f64 / taken as f64);
    let (asked, taken, little) = (asked as f64, taken as f64, 96.0 * 1024.0);
    assert!(asked > 0.97 * taken - little, "{what} takes {taken} bytes and asked for {asked}");
    assert!(asked < 1.2 * taken + little, "{what} takes {taken} bytes and asked for {asked}");
}

/// Each site by itself, the usual ones and all, of every architecture, on one input and on many.
#[test]
fn a_run_takes_what_it_asked_for() -> Result<()> {
    let _alone = alone();
    for name in MODELS {
        let model = Folder::copy_of(name).open()?;
        let Dims { n_ctx, d_vocab, n_layers, .. } = *model.dims();
        let mut kept: Vec<(String, RunOptions)> = Site::ALL
            .into_iter()
            .filter(|site| model.spec().has(*site))
            .map(|site| (site.to_string(), RunOptions::only([site])))
            .collect();
        kept.push(("the usual".into(), RunOptions::new()));
        kept.push(("all".into(), RunOptions::all()));
        kept.push(("half".into(), RunOptions::new().stop_after(n_layers / 2)));
        kept.push(("streams".into(), RunOptions::matching("*resid*")));
        for (inputs, len) in [(1, n_ctx), (60, n_ctx), (300, 9)] {
            let ids = tokens(inputs, len, d_vocab);
            // Threads, and tables of angles, are made once.
            model.run_with_cache(ids.clone())?;
            let tokens = || ids.iter().map(|ids| model.to_tokens(ids.clone())).collect::<Result<Vec<_>>>();
            let labels = peak_of(tokens)?;
            for (what, options) in &kept {
                let taken = || -> Result<usize> {
                    Ok(peak_of(|| model.run_with_options(ids.clone(), options))?.saturating_sub(labels))
                };
                memory_asked_for();
                let mut least = taken()?;
                let asked = memory_asked_for();
                // A thread that was idle so far makes buffers of its own, once.
                for _ in 0..3 {
                    if least as u64 > asked {
                        least = least.min(taken()?);
                    }
                }
                let what = format!("{name}, {inputs} inputs of {len} tokens, {what}:");
                assert_reckoned(&what, asked, least);
            }
        }
    }
    Ok(())
}

/// Work, with what it is called.
type Work<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

/// Work whose size follows from its input, of every kind.
fn works<'a>(model: &'a Model, folder: &'a Folder) -> Vec<Work<'a>> {
    let vocab = model.dims().d_vocab;
    let ids = move |len: usize| tokens(1, len, vocab).remove(0);
    let kept = move |len: usize, sites: &[Site]| {
        model.run_with_options(ids(len), &RunOptions::only(sites.iter().copied()))
    };
    // A square for each head, and one alone.
    let pattern = move || kept(1500, &[Site::Pattern])?.pattern(0);
    let head = move || pattern()?.select("head", 0);
    let qk = move || qk_circuit(model, head_of(1, 0));
    let ov = move || ov_circuit(model, head_of(1, 0));
    let metric = Metric::LogProb { token: 5, position: None };
    let (by_head, by_position, of_paths, of_slopes) =
        (metric.clone(), metric.clone(), metric.clone(), metric);
    let options = TrainingOptions {
        d_model: 256,
        d_mlp: 1024,
        d_vocab: 3000,
        n_ctx: 256,
        ..TrainingOptions::default()
    };
    macro_rules! works {
        ($($what:literal: $work:expr;)*) => {
            vec![$(($what, Box::new(move || $work.map(drop)))),*]
        };
    }
    works! {
        "a cache": model.run_with_cache(ids(1500));
        "a cache of everything": model.run_with_options(ids(900), &RunOptions::all());
        "a batch": model.run_with_cache(tokens(8, 500, vocab));
        "losses": model.loss_per_token(ids(1500));
        "log-probabilities": kept(1500, &[Site::UnembedOut])?.log_probs();
        "a patched run": model.patch(("pattern", 0), None, None, &kept(900, &[Site::Pattern])?)?.run_with_cache(ids(900));
        "numbers": pattern()?.to_vec();
        "a saved run": kept(1500, &[Site::Pattern])?.save(folder.path("run.safetensors"));
        "a saved run, read": Run::open(folder.path("run.safetensors")).or_else(|error| match error.kind() {
            ErrorKind::File => model.run_with_cache(ids(3)), // there was no memory to save it
            _ => Err(error),
        });
        "a continuation": model.generate(ids(1500), &Sampling { max_new_tokens: 3, ..Sampling::default() });
        "an ablation": ablation_effects(model, ids(600), Ablation::Zero, &Metric::Loss);
        "a divergence": ablation_effects(model, ids(600), Ablation::Zero, &Metric::Kl);
        "patching": activation_patching(model, ids(300), ids(300), Site::Pattern, &by_head);
        "patching by position": activation_patching_by_position(model, ids(20), ids(20), Site::Z, &by_position);
        "paths": path_patching(model, ids(300), ids(300), PathReceiver::Logits, &of_paths);
        "slopes": attribution_patching(model, ids(600), ids(600), Site::Pattern, &of_slopes);
        "head scores": head_scores(model, &HeadKind::ALL, &RepeatedTokens { length: 400, batch: 4, seed: 0 });
        "a lens": logit_lens(model, &kept(1500, &STREAM)?);
        "scores by component": decompose_attn_scores(model, &kept(300, &STREAM)?, head_of(1, 0));
        "their spread": attn_score_spread(model, &kept(700, &STREAM)?, head_of(1, 0));
        "a stack": apply_ln_to_stack(model, &full_resid_decomposition(model, &kept(2500, &STREAM)?)?, &kept(2500, &STREAM)?);
        "a head from its weights": qk()?.pattern(&kept(1500, &STREAM)?);
        "positions": qk()?.previous_token_mass();
        "positions alone": qk()?.position_pattern(2500);
        "a full circuit": ov()?.between_tokens(ids(2500));
        "pairs": ov()?.top_pairs(300_000);
        "directions": ov()?.directions(3);
        "copying": copying_accuracy(model, &[head_of(0, 0), head_of(1, 0)], 5);
        "composition": composition_scores(model, Composition::K);
        "a weight of all layers": model.weight("W_Q");
        "folded weights": model.folded();
        "random weights": model.with_random_weights(0);
        "training": Training::new(&options)?.step_on(&tokens(16, 200, 3000));
        "a picture of one head": head()?.figure()?.to_html();
        "a picture of scores": kept(900, &[Site::AttnScores])?.attn_scores(0)?.select("head", 0)?.figure()?.to_html();
        "a still picture": head()?.figure()?.to_png();
        "a picture of small multiples": kept(300, &[Site::Pattern])?.pattern(0)?.figure()?.to_html();
    }
}

/// What is made of a run, of weights and of numbers.
#[test]
fn an_analysis_takes_what_it_asked_for() -> Result<()> {
    let _alone = alone();
    let (vocab, len) = (8000, 1500);
    let (model, folder) = (small(2, 8, vocab, 3000).open()?, Folder::new());
    let ids = tokens(1, len, vocab).remove(0);
    let of = |sites: &[Site]| model.run_with_options(ids.clone(), &RunOptions::only(sites.iter().copied()));
    let stream = of(&STREAM)?;
    let short = model.run_with_cache(ids[..300].to_vec())?;
    let (logits, patterns) = (of(&[Site::UnembedOut])?, of(&[Site::Pattern, Site::AttnScores])?);
    let pattern = patterns.pattern(0)?;
    let part = |named: NamedTensor, len: usize| named.slice("query", 0..len)?.slice("key", 0..len);
    let head = pattern.select("head", 1)?;
    let scores = part(patterns.attn_scores(0)?.select("head", 1)?, 900)?;
    let heads = part(pattern.clone(), 300)?;
    let stack = full_resid_decomposition(&model, &stream)?;
    let (qk, ov) = (qk_circuit(&model, head_of(1, 0))?, ov_circuit(&model, head_of(1, 0))?);
    let metric = Metric::LogProb { token: 5, position: None };
    macro_rules! works {
        ($($what:literal: $work:expr;)*) => {
            [$(($what, Box::new(|| $work.map(drop)) as Box<dyn Fn() -> Result<()>>)),*]
        };
    }
    let works = works! {
        "log-probabilities": logits.log_probs();
        "numbers": pattern.to_vec();
        "a difference": pattern.sub(&pattern);
        "a saved run": patterns.save(folder.path("run.safetensors"));
        "a saved run, read": Run::open(folder.path("run.safetensors"));
        "a lens": logit_lens(&model, &stream);
        "scores by component": decompose_attn_scores(&model, &short, head_of(1, 0));
        "their spread": attn_score_spread(&model, &stream, head_of(1, 0));
        "a stack": full_resid_decomposition(&model, &stream);
        "a stack, normed": apply_ln_to_stack(&model, &stack, &stream);
        "scores from weights": qk.pattern(&stream);
        "positions": qk.previous_token_mass();
        "a full circuit": ov.between_tokens(tokens(1, 2500, vocab).remove(0));
        "pairs": ov.top_pairs(300_000);
        "few pairs": ov.top_pairs(10);
        "folded weights": model.folded();
        "random weights": model.with_random_weights(0);
        "slopes of patterns": attribution_patching(&model, &ids[..600], &ids[..600], Site::Pattern, &metric);
        "slopes of the stream": attribution_patching(&model, &ids[..600], &ids[..600], Site::ResidPre, &metric);
        "slopes of a loss": attribution_patching(&model, &ids[..600], &ids[..600], Site::Z, &Metric::Loss);
        "a page of one head": head.figure()?.to_html();
        "a page of scores": scores.figure()?.to_html();
        "a page of heads": heads.figure()?.to_html();
        "a still picture": head.figure()?.to_png();
    };
    for (what, work) in works {
        let (least, most) = match what {
            // Half of a causal pattern is left out where several are drawn, and a still picture is made of less than a page.
            "a page of heads" | "a still picture" => (0.95, 20.0),
            // The clean run is there when they ask, and candle's way back is known by measuring alone.
            slopes if slopes.starts_with("slopes") => (0.85, 1.5),
            _ => (0.95, 1.25),
        };
        work()?;
        memory_asked_for();
        let peak = peak_of(&work)?;
        let asked = memory_asked_for();
        let part = asked as f64 / peak as f64;
        println!("{what}: asked for {part:.2} of {} kB", peak / 1000);
        assert!((least..most).contains(&part), "{what} takes {peak} bytes and asked for {asked}");
    }
    Ok(())
}

/// Does all work within a limit on the process's address space or data, and says what came of each.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "is done by another test, in a process of its own"]
fn within_a_limit() -> Result<()> {
    let (model, folder) = (small(2, 8, 8000, 3000).open()?, Folder::new());
    model.run_with_cache(vec![1, 2, 3])?;
    let said = |name: &str| std::env::var(name).expect("the test that does this one says it");
    let spare: u64 = said("HEADLIGHT_SPARE").parse().expect("a number of bytes");
    let (resource, field) = match said("HEADLIGHT_LIMIT").as_str() {
        "data" => (libc::RLIMIT_DATA, 5),
        _ => (libc::RLIMIT_AS, 0),
    };
    let used = std::fs::read_to_string("/proc/self/statm").expect("Linux says it");
    let used: u64 =
        used.split(' ').nth(field).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    let limit = libc::rlimit { rlim_cur: used * 4096 + spare, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: it is a limit of this process's own.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
    for (what, work) in works(&model, &folder) {
        println!("{what}:");
        match work() {
            Ok(()) => println!("done"),
            Err(error) if error.kind() == ErrorKind::Memory => println!("refused: {error}"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
    Ok(())
}

/// Whatever the limit, work is done or refused, and a process that has no memory for it lives on.
#[cfg(target_os = "linux")]
#[test]
fn too_little_memory_is_an_error() {
    let _alone = alone();
    const ENOUGH: usize = 6000 * MIB;
    let (mut done, mut refused) = (0, 0);
    for (limit, spares) in [("space", [80 * MIB, 320 * MIB, ENOUGH].as_slice()), ("data", &[160 * MIB])] {
        for &spare in spares {
            let outcome = std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "within_a_limit", "--ignored", "--nocapture", "--test-threads=1"])
                .env("HEADLIGHT_LIMIT", limit)
                .env("HEADLIGHT_SPARE", spare.to_string())
                .output()
                .expect("this test runs");
            let said = String::from_utf8_lossy(&outcome.stdout);
            let cause = String::from_utf8_lossy(&outcome.stderr);
            assert!(outcome.status.success(), "{} MiB of {limit}: {said}{cause}", spare / MIB);
            let count = |what: &str| said.lines().filter(|line| line.starts_with(what)).count();
            println!("{} MiB of {limit}: {} done, {} refused", spare / MIB, count("done"), count("refused"));
            (done, refused) = (done + count("done"), refused + count("refused"));
            // Where there is enough, nothing is refused.
            assert!(spare < ENOUGH || count("refused") == 0, "{said}");
        }
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
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
