//! Writes the folder of a model with random weights, to see what a machine can do with a model of that size before one is
//! fetched: `cargo run --release --example random_model -- llama-1b FOLDER`. Weights are bf16; such a model has no tokenizer
//! and reads token ids.

use std::borrow::Cow;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, View};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    shape: Shape,
    folder: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    /// GPT-2 medium: 24 layers of 16 heads, width 1024
    #[value(name = "gpt2-medium")]
    Gpt2Medium,
    /// Llama 3.2 1B: 16 layers of 32 heads on 8 of keys, width 2048
    #[value(name = "llama-1b")]
    Llama1b,
}

/// A weight that is drawn when it is written, so that one at a time is in memory.
struct RandomWeight {
    shape: Vec<usize>,
    seed: u64,
    /// Where it is not random.
    fill: Option<f32>,
}

/// The standard deviation of weights, as GPT-2 begins.
const DEVIATION: f32 = 0.02;

impl View for &RandomWeight {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let count: usize = self.shape.iter().product();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // Uniform numbers of the same deviation are as good here, and drawn in a tenth of the time.
        let reach = DEVIATION * 3f32.sqrt();
        let mut value = || self.fill.unwrap_or_else(|| rng.random_range(-reach..reach));
        Cow::Owned((0..count).flat_map(|_| ((value().to_bits() >> 16) as u16).to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        2 * self.shape.iter().product::<usize>()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Args { shape, folder } = Args::parse();
    std::fs::create_dir_all(&folder)?;
    let (config, shapes) = match shape {
        Shape::Gpt2Medium => gpt2_medium(),
        Shape::Llama1b => llama_1b(),
    };
    let drawn: Vec<(String, RandomWeight)> = shapes
        .into_iter()
        .enumerate()
        .map(|(seed, (name, shape))| {
            let fill = match (name.ends_with("bias"), shape.len()) {
                (true, _) => Some(0.0),
                (false, 1) => Some(1.0),
                _ => None,
            };
            (name, RandomWeight { shape, seed: seed as u64, fill })
        })
        .collect();
    let numbers: usize = drawn.iter().map(|(_, weight)| weight.shape.iter().product::<usize>()).sum();
    let weights = drawn.iter().map(|(name, weight)| (name, weight));
    safetensors::serialize_to_file(weights, None, &folder.join("model.safetensors"))?;
    std::fs::write(folder.join("config.json"), format!("{config:#}\n"))?;
    println!("wrote {} with {numbers} weights", folder.display());
    Ok(())
}

type Shapes = Vec<(String, Vec<usize>)>;

fn gpt2_medium() -> (Value, Shapes) {
    let (layers, width, vocab, context) = (24, 1024, 50257, 1024);
    let mut all =
        vec![("wte.weight".into(), vec![vocab, width]), ("wpe.weight".into(), vec![context, width])];
    let mut both = |name: String, shape: Vec<usize>| {
        let bias = vec![shape[shape.len() - 1]];
        all.push((format!("{name}.weight"), shape));
        all.push((format!("{name}.bias"), bias));
    };
    for layer in 0..layers {
        both(format!("h.{layer}.ln_1"), vec![width]);
        both(format!("h.{layer}.attn.c_attn"), vec![width, 3 * width]);
        both(format!("h.{layer}.attn.c_proj"), vec![width, width]);
        both(format!("h.{layer}.ln_2"), vec![width]);
        both(format!("h.{layer}.mlp.c_fc"), vec![width, 4 * width]);
        both(format!("h.{layer}.mlp.c_proj"), vec![4 * width, width]);
    }
    both("ln_f".into(), vec![width]);
    let config = json!({
        "model_type": "gpt2", "n_layer": layers, "n_head": 16, "n_embd": width, "vocab_size": vocab,
        "n_positions": context,
    });
    (config, all)
}

fn llama_1b() -> (Value, Shapes) {
    let (layers, width, shared, neurons, vocab) = (16, 2048, 512, 8192, 128_256);
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![vocab, width])];
    for layer in 0..layers {
        let mut add =
            |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{layer}.{name}.weight"), shape));
        add("input_layernorm", vec![width]);
        add("self_attn.q_proj", vec![width, width]);
        add("self_attn.k_proj", vec![shared, width]);
        add("self_attn.v_proj", vec![shared, width]);
        add("self_attn.o_proj", vec![width, width]);
        add("post_attention_layernorm", vec![width]);
        add("mlp.gate_proj", vec![neurons, width]);
        add("mlp.up_proj", vec![neurons, width]);
        add("mlp.down_proj", vec![width, neurons]);
    }
    all.push(("model.norm.weight".into(), vec![width]));
    let config = json!({
        "model_type": "llama", "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8,
        "hidden_size": width, "intermediate_size": neurons, "vocab_size": vocab, "max_position_embeddings": 131_072,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": true,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    });
    (config, all)
}
