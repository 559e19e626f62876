//! Writes the folder of a model with random weights, to see what a machine can do with a model of that size before one is
//! fetched: `cargo run --release --example random_model -- llama-1b FOLDER`. Such a model has no tokenizer and reads token ids.
//! Those in Q4_K are a GGUF file in the folder, with a tokenizer of bytes: without any llama.cpp runs nothing.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

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
    /// GPT-2 small in f32: 12 layers of 12 heads, width 768
    #[value(name = "gpt2")]
    Gpt2,
    /// GPT-2 medium in bf16: 24 layers of 16 heads, width 1024
    #[value(name = "gpt2-medium")]
    Gpt2Medium,
    /// Llama 3.2 1B in bf16: 16 layers of 32 heads on 8 of keys, width 2048
    #[value(name = "llama-1b")]
    Llama1b,
    /// A Llama of the size of Llama 3.2 1B in Q4_K, embedding and all
    #[value(name = "llama-1b-q4k")]
    Llama1bQ4k,
    /// Llama 2 7B in Q4_K, embedding and all: 32 layers of 32 heads, width 4096
    #[value(name = "llama-7b-q4k")]
    Llama7bQ4k,
}

/// A weight that is drawn when it is written, so that one at a time is in memory.
struct RandomWeight {
    dtype: Dtype,
    shape: Vec<usize>,
    seed: u64,
    /// Where it is not random.
    fill: Option<f32>,
}

/// The standard deviation of weights, as GPT-2 begins.
const DEVIATION: f32 = 0.02;

impl View for &RandomWeight {
    fn dtype(&self) -> Dtype {
        self.dtype
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
        Cow::Owned(match self.dtype {
            Dtype::F32 => (0..count).flat_map(|_| value().to_le_bytes()).collect(),
            _ => (0..count).flat_map(|_| ((value().to_bits() >> 16) as u16).to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.dtype.bitsize() / 8 * self.shape.iter().product::<usize>()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Args { shape, folder } = Args::parse();
    std::fs::create_dir_all(&folder)?;
    let (dtype, (config, shapes)) = match shape {
        Shape::Gpt2 => (Dtype::F32, gpt2([12, 12, 768])),
        Shape::Gpt2Medium => (Dtype::BF16, gpt2([24, 16, 1024])),
        Shape::Llama1b => (Dtype::BF16, llama_1b()),
        Shape::Llama1bQ4k | Shape::Llama7bQ4k => {
            let (name, sizes) = match shape {
                Shape::Llama1bQ4k => ("llama-1b-q4k.gguf", LLAMA_1B),
                _ => ("llama-7b-q4k.gguf", LLAMA_7B),
            };
            let file = folder.join(name);
            let numbers = write_gguf_llama(&file, sizes)?;
            println!("wrote {} with {numbers} weights", file.display());
            return Ok(());
        }
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
            (name, RandomWeight { dtype, shape, seed: seed as u64, fill })
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

fn gpt2([layers, heads, width]: [usize; 3]) -> (Value, Shapes) {
    let (vocab, context) = (50257, 1024);
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
        "model_type": "gpt2", "n_layer": layers, "n_head": heads, "n_embd": width, "vocab_size": vocab,
        "n_positions": context, "bos_token_id": vocab - 1, "eos_token_id": vocab - 1,
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

/// The sizes of a Llama.
struct LlamaSizes {
    layers: usize,
    width: usize,
    neurons: usize,
    vocab: usize,
    /// How many keys there are to 32 queries.
    keys: usize,
}

const LLAMA_1B: LlamaSizes = LlamaSizes { layers: 16, width: 2048, neurons: 8192, vocab: 128_256, keys: 8 };
const LLAMA_7B: LlamaSizes = LlamaSizes { layers: 32, width: 4096, neurons: 11008, vocab: 32000, keys: 32 };

/// What a GGUF file says of a Llama, and its tensors: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Gives how many
/// weights it has.
fn write_gguf_llama(path: &Path, sizes: LlamaSizes) -> std::io::Result<usize> {
    const F32: u32 = 0;
    const Q4_K: u32 = 12;
    let LlamaSizes { layers, width, neurons, vocab, keys } = sizes;
    let mut tensors = vec![("token_embd.weight".to_string(), vec![width, vocab])];
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("blk.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("attn_norm", &[width]);
        ["attn_q", "attn_output"].iter().for_each(|name| add(name, &[width, width]));
        ["attn_k", "attn_v"].iter().for_each(|name| add(name, &[width, width / 32 * keys]));
        add("ffn_norm", &[width]);
        ["ffn_gate", "ffn_up"].iter().for_each(|name| add(name, &[width, neurons]));
        add("ffn_down", &[neurons, width]);
    }
    tensors.push(("output_norm.weight".into(), vec![width]));
    tensors.push(("output.weight".into(), vec![width, vocab]));
    let whole = [
        ("block_count", layers),
        ("context_length", 4096),
        ("embedding_length", width),
        ("feed_forward_length", neurons),
        ("attention.head_count", 32),
        ("attention.head_count_kv", keys),
        ("vocab_size", vocab),
    ];
    let mut header = Vec::new();
    let text = |header: &mut Vec<u8>, text: &str| {
        header.extend((text.len() as u64).to_le_bytes());
        header.extend(text.as_bytes());
    };
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((whole.len() as u64 + 8).to_le_bytes());
    for (key, value) in [("general.architecture", "llama"), ("tokenizer.ggml.model", "llama")] {
        text(&mut header, key);
        header.extend(8u32.to_le_bytes());
        text(&mut header, value);
    }
    for (key, id) in [("tokenizer.ggml.bos_token_id", 1u32), ("tokenizer.ggml.eos_token_id", 2)] {
        text(&mut header, key);
        header.extend(4u32.to_le_bytes());
        header.extend(id.to_le_bytes());
    }
    // Of each token what it says, how likely it is, and its sort: unknown, control, byte or ordinary.
    let array = |header: &mut Vec<u8>, key: &str, kind: u32| {
        text(header, key);
        [9, kind].iter().for_each(|kind| header.extend(kind.to_le_bytes()));
        header.extend((vocab as u64).to_le_bytes());
    };
    array(&mut header, "tokenizer.ggml.tokens", 8);
    for id in 0..vocab {
        match id {
            0..3 => text(&mut header, ["<unk>", "<s>", "</s>"][id]),
            3..259 => text(&mut header, &format!("<0x{:02X}>", id - 3)),
            _ => text(&mut header, &format!("w{id}")),
        }
    }
    array(&mut header, "tokenizer.ggml.scores", 6);
    (0..vocab).for_each(|id| header.extend((-(id as f32)).to_le_bytes()));
    array(&mut header, "tokenizer.ggml.token_type", 5);
    let sort = |id: usize| [2, 3, 3].get(id).copied().unwrap_or(if id < 259 { 6i32 } else { 1 });
    (0..vocab).for_each(|id| header.extend(sort(id).to_le_bytes()));
    for (key, number) in whole {
        text(&mut header, &format!("llama.{key}"));
        header.extend(4u32.to_le_bytes());
        header.extend((number as u32).to_le_bytes());
    }
    text(&mut header, "llama.attention.layer_norm_rms_epsilon");
    header.extend(6u32.to_le_bytes());
    header.extend(1e-5f32.to_le_bytes());
    let is_norm = |shape: &[usize]| shape.len() == 1;
    let bytes = |shape: &[usize]| {
        let numbers: usize = shape.iter().product();
        if is_norm(shape) { 4 * numbers } else { numbers / 256 * 144 }
    };
    let mut offset = 0;
    for (name, shape) in &tensors {
        text(&mut header, name);
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|&len| header.extend((len as u64).to_le_bytes()));
        header.extend(if is_norm(shape) { F32 } else { Q4_K }.to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += bytes(shape).next_multiple_of(32);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&header)?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for (_, shape) in &tensors {
        if is_norm(shape) {
            file.write_all(&1f32.to_le_bytes().repeat(shape[0]))?;
        } else {
            let mut block = q4_k_block();
            for _ in 0..bytes(shape) / block.len() {
                rng.fill(&mut block[16..]);
                file.write_all(&block)?;
            }
        }
        file.write_all(&vec![0; bytes(shape).next_multiple_of(32) - bytes(shape)])?;
    }
    file.flush()?;
    Ok(tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum())
}

/// 256 weights of four bits each, of which all sixteen values are as likely: scales and minima such that their deviation is GPT-2's and
/// their mean is 0.
fn q4_k_block() -> [u8; 144] {
    let mut block = [0; 144];
    // Eight scales and eight minima of six bits, all of them 32.
    block[4..12].fill(0b1010_0000);
    // The deviation of a whole number from 0 to 15 is the root of 255/12.
    let scale = f64::from(DEVIATION) / 32.0 / (255.0f64 / 12.0).sqrt();
    block[..2].copy_from_slice(&half::f16::from_f64(scale).to_le_bytes());
    block[2..4].copy_from_slice(&half::f16::from_f64(7.5 * scale).to_le_bytes());
    block
}
