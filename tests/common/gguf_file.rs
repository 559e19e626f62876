//! GGUF files made to be changed.
#![allow(dead_code)]

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::folder::{Folder, Weight};

/// A value of the metadata, by its type in the file.
#[derive(Clone, Debug)]
pub enum Meta {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    pub kind: u32,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub struct File {
    pub metadata: Vec<(String, Meta)>,
    pub tensors: Vec<Stored>,
}

impl File {
    pub fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(name, _)| name != key);
        self.metadata.push((key.into(), value));
    }

    pub fn unset(&mut self, key: &str) {
        let before = self.metadata.len();
        self.metadata.retain(|(name, _)| name != key);
        assert_eq!(self.metadata.len() + 1, before, "{key} was there");
    }

    pub fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("the tensor is there")
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            match value {
                Meta::U32(value) => number(&mut out, 4, &value.to_le_bytes()),
                Meta::I32(value) => number(&mut out, 5, &value.to_le_bytes()),
                Meta::F32(value) => number(&mut out, 6, &value.to_le_bytes()),
                Meta::Bool(value) => number(&mut out, 7, &[u8::from(*value)]),
                Meta::Text(value) => {
                    out.extend(8u32.to_le_bytes());
                    text(&mut out, value);
                }
                Meta::Texts(values) => {
                    list(&mut out, 8, values.len());
                    values.iter().for_each(|value| text(&mut out, value));
                }
                Meta::I32s(values) => {
                    list(&mut out, 5, values.len());
                    values.iter().for_each(|value| out.extend(value.to_le_bytes()));
                }
                Meta::F32s(values) => {
                    list(&mut out, 6, values.len());
                    values.iter().for_each(|value| out.extend(value.to_le_bytes()));
                }
            }
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&len| out.extend((len as u64).to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(32);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.bytes);
        }
        out
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn list(out: &mut Vec<u8>, kind: u32, len: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn f32s(weight: &Weight) -> Tensor {
    Tensor::from_vec(weight.values(), weight.shape.clone(), &Device::Cpu).expect("a weight")
}

/// A tensor stored in a type of GGUF's, by its number there.
pub fn stored(name: &str, tensor: &Tensor, kind: u32) -> Stored {
    let quantized =
        QTensor::quantize(&tensor.contiguous().expect("it is"), dtype(kind)).expect("it can be stored");
    let bytes = quantized.data().expect("its bytes").to_vec();
    Stored { name: name.into(), shape: tensor.dims().to_vec(), kind, bytes }
}

/// What the numbers become that are stored so.
pub fn rounded(tensor: &Tensor, kind: u32) -> Vec<f32> {
    let quantized =
        QTensor::quantize(tensor, dtype(kind)).and_then(|quantized| quantized.dequantize(&Device::Cpu));
    quantized.and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("numbers")
}

fn dtype(kind: u32) -> GgmlDType {
    match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => panic!("there is no type {other}"),
    }
}

/// A folder's model as llama.cpp's converter writes it, in f32.
pub fn of_folder(folder: &Folder) -> File {
    let config: Value = serde_json::from_slice(&folder.read("config.json")).expect("JSON");
    let kind = config["model_type"].as_str().expect("a text");
    let number = |keys: &[&str]| {
        keys.iter().find_map(|key| config[*key].as_f64()).unwrap_or_else(|| panic!("{keys:?} in {config}"))
    };
    let whole = |keys: &[&str]| Meta::U32(number(keys) as u32);
    let arch = if kind == "gpt_neox" { "gptneox" } else { kind };
    let mut file = File::default();
    file.set("general.architecture", Meta::Text(arch.into()));
    let weights = folder.weights();
    let heads = number(&["n_head", "num_attention_heads"]) as usize;
    let width = number(&["n_embd", "hidden_size"]) as usize;
    let neurons = config.get("intermediate_size").and_then(Value::as_u64).unwrap_or(4 * width as u64);
    let entries = [
        ("block_count", whole(&["n_layer", "num_hidden_layers"])),
        ("context_length", whole(&["n_positions", "max_position_embeddings"])),
        ("embedding_length", Meta::U32(width as u32)),
        ("feed_forward_length", Meta::U32(neurons as u32)),
        ("attention.head_count", Meta::U32(heads as u32)),
    ];
    entries.into_iter().for_each(|(key, value)| file.set(&format!("{arch}.{key}"), value));
    let eps = Meta::F32(number(&["layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps"]) as f32);
    let is_rms = config.get("rms_norm_eps").is_some();
    let name = if is_rms { "attention.layer_norm_rms_epsilon" } else { "attention.layer_norm_epsilon" };
    file.set(&format!("{arch}.{name}"), eps);
    let rope = &config["rope_parameters"];
    if let Some(theta) = rope["rope_theta"].as_f64() {
        file.set(&format!("{arch}.rope.freq_base"), Meta::F32(theta as f32));
    }
    let d_head = config["head_dim"].as_u64().unwrap_or((width / heads) as u64);
    let mut kv_heads = heads;
    if let Some(shared) = config["num_key_value_heads"].as_u64() {
        kv_heads = shared as usize;
        file.set(&format!("{arch}.attention.head_count_kv"), Meta::U32(shared as u32));
        file.set(&format!("{arch}.attention.key_length"), Meta::U32(d_head as u32));
        file.set(&format!("{arch}.attention.value_length"), Meta::U32(d_head as u32));
    }
    let rotary = (rope["partial_rotary_factor"].as_f64().unwrap_or(1.0) * d_head as f64) as u32;
    if arch != "gpt2" {
        file.set(&format!("{arch}.rope.dimension_count"), Meta::U32(rotary));
    }
    if rope["rope_type"] == "llama3" {
        let (factor, context) = (rope["factor"].as_f64(), rope["original_max_position_embeddings"].as_f64());
        let (factor, context) = (factor.expect("said"), context.expect("said"));
        let theta = rope["rope_theta"].as_f64().expect("said");
        let divisor = |pair: u64| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / d_head as f64);
            // The bounds are 1 and 4 times the context.
            let part = (context / wavelength - 1.0) / 3.0;
            if wavelength < context / 4.0 {
                1.0
            } else if wavelength > context {
                factor as f32
            } else {
                (1.0 / ((1.0 - part) / factor + part)) as f32
            }
        };
        let all: Vec<f32> = (0..d_head / 2).map(divisor).collect();
        let len = all.len();
        file.tensors.push(stored(
            "rope_freqs.weight",
            &Tensor::from_vec(all, len, &Device::Cpu).expect("it is"),
            0,
        ));
    }
    if kind == "gpt_neox" {
        file.set("gptneox.use_parallel_residual", Meta::Bool(config["use_parallel_residual"] == json!(true)));
    }
    for (theirs, weight) in &weights {
        let Some(ours) = name_of(theirs) else { continue };
        let tensor = f32s(weight);
        let rows = tensor.dims()[0];
        let rest: Vec<usize> = tensor.dims()[1..].to_vec();
        let with = |front: &[usize]| [front, &rest].concat();
        let end = ours.rsplit_once("attn_").map_or("", |(_, end)| end);
        let changed = match (kind, end) {
            // Pairs of a rotation lie side by side in llama.cpp, half a head apart in Hugging Face's.
            ("llama", "q.weight") => tensor
                .reshape(with(&[heads, 2, rows / heads / 2]))
                .and_then(|t| t.transpose(1, 2)?.contiguous()?.reshape(tensor.dims())),
            ("llama", "k.weight") => tensor
                .reshape(with(&[kv_heads, 2, rows / kv_heads / 2]))
                .and_then(|t| t.transpose(1, 2)?.contiguous()?.reshape(tensor.dims())),
            // Queries, keys and values of all heads in turn, where Hugging Face has them head by head.
            ("gpt_neox", "qkv.weight" | "qkv.bias") => tensor
                .reshape(with(&[heads, 3, rows / heads / 3]))
                .and_then(|t| t.transpose(0, 1)?.contiguous()?.reshape(tensor.dims())),
            ("gpt2", _) if tensor.dims().len() == 2 && ours.starts_with("blk.") => {
                tensor.t().and_then(|t| t.contiguous())
            }
            _ => Ok(tensor),
        };
        file.tensors.push(stored(&ours, &changed.expect("it can be laid out"), 0));
    }
    file.set("tokenizer.ggml.bos_token_id", Meta::U32(0));
    file.set("tokenizer.ggml.eos_token_id", Meta::U32(0));
    file
}

/// What llama.cpp calls a weight of Hugging Face's.
fn name_of(theirs: &str) -> Option<String> {
    let short = ["transformer.", "gpt_neox.", "model."].iter().find_map(|prefix| theirs.strip_prefix(prefix));
    let short = short.unwrap_or(theirs);
    let (layer, rest) = match short.strip_prefix("h.").or_else(|| short.strip_prefix("layers.")) {
        Some(rest) => rest.split_once('.').map(|(layer, rest)| (Some(layer), rest))?,
        None => (None, short),
    };
    let (rest, end) = rest.rsplit_once('.')?;
    let ours = match rest {
        "wte" | "embed_in" | "embed_tokens" => "token_embd",
        "wpe" => "position_embd",
        "ln_f" | "final_layer_norm" | "norm" => "output_norm",
        "lm_head" | "embed_out" => "output",
        "ln_1" | "input_layernorm" => "attn_norm",
        "ln_2" | "post_attention_layernorm" => "ffn_norm",
        "attn.c_attn" | "attention.query_key_value" => "attn_qkv",
        "attn.c_proj" | "attention.dense" | "self_attn.o_proj" => "attn_output",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.c_fc" | "mlp.dense_h_to_4h" | "mlp.up_proj" => "ffn_up",
        "mlp.c_proj" | "mlp.dense_4h_to_h" | "mlp.down_proj" => "ffn_down",
        "mlp.gate_proj" => "ffn_gate",
        // Masks.
        _ => return None,
    };
    Some(match layer {
        Some(layer) => format!("blk.{layer}.{ours}.{end}"),
        None => format!("{ours}.{end}"),
    })
}

/// Gives a file the tokenizer of [`small_bpe`](crate::folder::small_bpe).
pub fn with_tokenizer(file: &mut File, vocab: &Value, merges: &str) {
    let mut tokens: Vec<(&String, u64)> = vocab
        .as_object()
        .expect("a map")
        .iter()
        .map(|(token, id)| (token, id.as_u64().expect("an id")))
        .collect();
    tokens.sort_by_key(|(_, id)| *id);
    file.set("tokenizer.ggml.model", Meta::Text("gpt2".into()));
    file.set("tokenizer.ggml.pre", Meta::Text("gpt-2".into()));
    file.set(
        "tokenizer.ggml.token_type",
        Meta::I32s(tokens.iter().map(|(_, id)| if *id == 0 { 3 } else { 1 }).collect()),
    );
    file.set(
        "tokenizer.ggml.tokens",
        Meta::Texts(tokens.into_iter().map(|(token, _)| token.clone()).collect()),
    );
    file.set("tokenizer.ggml.merges", Meta::Texts(merges.lines().skip(1).map(String::from).collect()));
}
