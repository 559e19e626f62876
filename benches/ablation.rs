//! The ablation sweep of a model of GPT-2 small's size and random weights: by the engine, which resumes at the layer that
//! changes and batches its heads, and with a full run for each head. Prints how many times faster the first is.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::{Device, Tensor};
use headlight::prelude::*;

const WIDTH: usize = 768;
const LAYERS: usize = 12;
const HEADS: usize = 12;
const VOCAB: usize = 50257;
const TOKENS: u32 = 50;

fn model() -> Model {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tensors = HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        let tensor = Tensor::randn(0f32, 0.02, shape, &Device::Cpu).expect("random numbers");
        tensors.insert(name.to_string(), tensor);
    };
    add("wte.weight", &[VOCAB, WIDTH]);
    add("wpe.weight", &[1024, WIDTH]);
    let norms = (0..LAYERS).flat_map(|l| [format!("h.{l}.ln_1"), format!("h.{l}.ln_2")]);
    for norm in norms.chain(["ln_f".to_string()]) {
        add(&format!("{norm}.weight"), &[WIDTH]);
        add(&format!("{norm}.bias"), &[WIDTH]);
    }
    for layer in 0..LAYERS {
        for (name, from, to) in [
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ] {
            add(&format!("h.{layer}.{name}.weight"), &[from, to]);
            add(&format!("h.{layer}.{name}.bias"), &[to]);
        }
    }
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).expect("weights");
    let config = format!(
        r#"{{"model_type": "gpt2", "n_layer": {LAYERS}, "n_head": {HEADS}, "n_embd": {WIDTH},
            "vocab_size": {VOCAB}, "n_positions": 1024}}"#
    );
    std::fs::write(folder.path().join("config.json"), config).expect("config");
    Model::open(&folder.path().display().to_string()).expect("a model")
}

fn main() -> headlight::Result<()> {
    let model = model();
    let ids: Vec<u32> = (0..TOKENS).map(|i| i * 997 % VOCAB as u32).collect();
    let metrics = [
        ("loss", Metric::Loss),
        ("logit difference", Metric::LogitDiff { correct: 7, incorrect: 11, position: None }),
    ];
    for (name, metric) in metrics {
        let heads: Vec<Model> = (0..LAYERS * HEADS)
            .map(|i| model.ablate(head(i / HEADS, i % HEADS), Ablation::Zero))
            .collect::<headlight::Result<_>>()?;
        let start = Instant::now();
        let plain: Vec<f32> = heads
            .iter()
            .map(|ablated| match metric {
                Metric::Loss => ablated.loss(&ids),
                _ => {
                    let logits = ablated.logits(&ids)?.select("position", ids.len() - 1)?;
                    Ok(logits.value(&[7])? - logits.value(&[11])?)
                }
            })
            .collect::<headlight::Result<_>>()?;
        let one_by_one = start.elapsed();
        let start = Instant::now();
        let effects = ablation_effects(&model, &ids, Ablation::Zero, &metric)?;
        let swept = start.elapsed();
        let found = effects.heads().values().to_vec()?;
        let apart = plain
            .iter()
            .zip(&found)
            .map(|(a, b)| (f64::from(a - b) - effects.clean()).abs())
            .fold(0.0, f64::max);
        let ratio = one_by_one.as_secs_f64() / swept.as_secs_f64();
        println!(
            "{name}: a run for each of {} heads {one_by_one:.2?}; the sweep, with MLPs and layers, {swept:.2?}: {ratio:.1} \
             times faster (largest difference {apart:.1e})",
            heads.len()
        );
    }
    Ok(())
}
