//! K-composition of every pair of heads of two layers as wide as GPT-2 small's: by Gram matrices, as
//! `composition_scores` does it, and with the products made. Prints how many times faster the first is.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::LazyLock;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use headlight::Model;
use headlight::analysis::{Composition, CompositionScores, composition_scores};

const WIDTH: usize = 768;
const HEADS: usize = 12;

/// Two layers of random weights, opened from a folder of their own.
static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tensors = HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        let tensor = Tensor::randn(0f32, 0.02, shape, &Device::Cpu).expect("random numbers");
        tensors.insert(name.to_string(), tensor);
    };
    add("wte.weight", &[64, WIDTH]);
    add("wpe.weight", &[16, WIDTH]);
    for norm in ["ln_f", "h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2"] {
        add(&format!("{norm}.weight"), &[WIDTH]);
        add(&format!("{norm}.bias"), &[WIDTH]);
    }
    for layer in ["h.0", "h.1"] {
        for (name, from, to) in [
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, WIDTH),
            ("mlp.c_proj", WIDTH, WIDTH),
        ] {
            add(&format!("{layer}.{name}.weight"), &[from, to]);
            add(&format!("{layer}.{name}.bias"), &[to]);
        }
    }
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).expect("weights");
    let config = format!(
        r#"{{"model_type": "gpt2", "n_layer": 2, "n_head": {HEADS}, "n_embd": {WIDTH}, "n_inner": {WIDTH},
            "vocab_size": 64, "n_positions": 16}}"#
    );
    std::fs::write(folder.path().join("config.json"), config).expect("config");
    Model::open(&folder.path().display().to_string()).expect("a model")
});

fn by_gram_matrices() -> CompositionScores {
    composition_scores(&MODEL, Composition::K).expect("scores")
}

/// The scores of layer 0's heads with layer 1's, row by row.
fn by_products() -> Result<Vec<f64>> {
    let weight = |layer: usize, name: &str| -> Result<Tensor> {
        let weight = MODEL.weight(&format!("blocks.{layer}.attn.{name}")).expect("a weight");
        weight.tensor().to_dtype(DType::F64)?.contiguous()
    };
    let written = weight(0, "W_V")?.matmul(&weight(0, "W_O")?)?;
    let read = weight(1, "W_K")?.matmul(&weight(1, "W_Q")?.transpose(1, 2)?.contiguous()?)?;
    let norm = |matrix: &Tensor| matrix.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
    let mut scores = Vec::new();
    for earlier in 0..HEADS {
        let earlier = written.get(earlier)?;
        for later in 0..HEADS {
            let later = read.get(later)?;
            scores.push(norm(&earlier.matmul(&later)?)? / (norm(&earlier)? * norm(&later)?));
        }
    }
    Ok(scores)
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn gram_matrices(bencher: divan::Bencher) {
    bencher.bench_local(by_gram_matrices);
}

#[divan::bench(sample_count = 2, sample_size = 1)]
fn products(bencher: divan::Bencher) {
    bencher.bench_local(by_products);
}

fn main() {
    LazyLock::force(&MODEL);
    let start = Instant::now();
    let found = black_box(by_gram_matrices());
    let gram_matrices = start.elapsed();
    let start = Instant::now();
    let plain = by_products().expect("scores");
    let products = start.elapsed();
    let found = found.values().to_vec().expect("scores").into_iter().filter(|score| !score.is_nan());
    let apart = found.zip(&plain).map(|(a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
    let ratio = products.as_secs_f64() / gram_matrices.as_secs_f64();
    println!("products {products:.2?}, Gram matrices {gram_matrices:.2?}: {ratio:.0} times faster");
    println!("largest difference {apart:.1e}");
    divan::main();
}
