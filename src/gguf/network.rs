//! A GGUF file's sizes and tensors, under the names that Hugging Face's library has for them.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::gguf::header::{Header, TensorInfo};
use crate::network::weights::file::{Relayout, StoredDtype, TensorLocation, TensorLocations};

/// What is known of an architecture's files.
struct Architecture {
    /// As GGUF calls it, and as Hugging Face does.
    names: (&'static str, &'static str),
    config: fn(&Sizes) -> Result<Value>,
    /// Names without a layer, and those within one (GGUF: `blk.0.` before; Hugging Face: the last entry).
    whole: &'static [(&'static str, &'static str)],
    layer: &'static str,
    in_layer: &'static [(&'static str, &'static str)],
    change: fn(&str, &Sizes) -> Result<Relayout>,
}

const LLAMA_WHOLE: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

const LLAMA_IN_LAYER: &[(&str, &str)] = &[
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_output.bias", "self_attn.o_proj.bias"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_gate.bias", "mlp.gate_proj.bias"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_up.bias", "mlp.up_proj.bias"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_down.bias", "mlp.down_proj.bias"),
];

const KNOWN: [Architecture; 5] = [
    Architecture {
        names: ("llama", "llama"),
        config: llama,
        whole: LLAMA_WHOLE,
        layer: "model.layers",
        in_layer: LLAMA_IN_LAYER,
        change: |name, sizes| {
            Ok(match name {
                "attn_q.weight" | "attn_q.bias" => Relayout::Rotary { heads: sizes.heads()? },
                "attn_k.weight" | "attn_k.bias" => Relayout::Rotary { heads: sizes.kv_heads()? },
                _ => Relayout::None,
            })
        },
    },
    Architecture {
        names: ("qwen2", "qwen2"),
        config: llama,
        whole: LLAMA_WHOLE,
        layer: "model.layers",
        in_layer: LLAMA_IN_LAYER,
        change: |_, _| Ok(Relayout::None),
    },
    Architecture {
        names: ("qwen3", "qwen3"),
        config: llama,
        whole: LLAMA_WHOLE,
        layer: "model.layers",
        in_layer: LLAMA_IN_LAYER,
        change: |_, _| Ok(Relayout::None),
    },
    Architecture {
        names: ("gpt2", "gpt2"),
        config: gpt2,
        whole: &[
            ("token_embd.weight", "wte.weight"),
            ("position_embd.weight", "wpe.weight"),
            ("output_norm.weight", "ln_f.weight"),
            ("output_norm.bias", "ln_f.bias"),
            ("output.weight", "lm_head.weight"),
        ],
        layer: "h",
        in_layer: &[
            ("attn_norm.weight", "ln_1.weight"),
            ("attn_norm.bias", "ln_1.bias"),
            ("attn_qkv.weight", "attn.c_attn.weight"),
            ("attn_qkv.bias", "attn.c_attn.bias"),
            ("attn_output.weight", "attn.c_proj.weight"),
            ("attn_output.bias", "attn.c_proj.bias"),
            ("ffn_norm.weight", "ln_2.weight"),
            ("ffn_norm.bias", "ln_2.bias"),
            ("ffn_up.weight", "mlp.c_fc.weight"),
            ("ffn_up.bias", "mlp.c_fc.bias"),
            ("ffn_down.weight", "mlp.c_proj.weight"),
            ("ffn_down.bias", "mlp.c_proj.bias"),
        ],
        change: |name, _| {
            // GPT-2's own layers keep inputs as rows, unlike all others.
            Ok(match name {
                "attn_qkv.weight" | "attn_output.weight" | "ffn_up.weight" | "ffn_down.weight" => {
                    Relayout::Transpose
                }
                _ => Relayout::None,
            })
        },
    },
    Architecture {
        names: ("gptneox", "gpt_neox"),
        config: neox,
        whole: &[
            ("token_embd.weight", "gpt_neox.embed_in.weight"),
            ("output_norm.weight", "gpt_neox.final_layer_norm.weight"),
            ("output_norm.bias", "gpt_neox.final_layer_norm.bias"),
            ("output.weight", "embed_out.weight"),
        ],
        layer: "gpt_neox.layers",
        in_layer: &[
            ("attn_norm.weight", "input_layernorm.weight"),
            ("attn_norm.bias", "input_layernorm.bias"),
            ("attn_qkv.weight", "attention.query_key_value.weight"),
            ("attn_qkv.bias", "attention.query_key_value.bias"),
            ("attn_output.weight", "attention.dense.weight"),
            ("attn_output.bias", "attention.dense.bias"),
            ("ffn_norm.weight", "post_attention_layernorm.weight"),
            ("ffn_norm.bias", "post_attention_layernorm.bias"),
            ("ffn_up.weight", "mlp.dense_h_to_4h.weight"),
            ("ffn_up.bias", "mlp.dense_h_to_4h.bias"),
            ("ffn_down.weight", "mlp.dense_4h_to_h.weight"),
            ("ffn_down.bias", "mlp.dense_4h_to_h.bias"),
        ],
        change: |name, sizes| {
            Ok(match name {
                "attn_qkv.weight" | "attn_qkv.bias" => Relayout::Interleave { heads: sizes.heads()? },
                _ => Relayout::None,
            })
        },
    },
];

/// What a file says under its architecture's name, and the bytes that it consists of.
struct Sizes<'h, 'a> {
    header: &'h Header<'a>,
    bytes: &'a [u8],
    prefix: &'a str,
    vocab: usize,
}

impl Sizes<'_, '_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn size(&self, key: &str) -> Result<u32> {
        self.header.size(&self.key(key))
    }

    fn size_or(&self, key: &str, otherwise: u32) -> Result<u32> {
        Ok(self.header.optional(&self.key(key), Header::size)?.unwrap_or(otherwise))
    }

    fn real(&self, key: &str) -> Result<f64> {
        self.header.real(&self.key(key))
    }

    fn heads(&self) -> Result<usize> {
        Ok(self.size("attention.head_count")? as usize)
    }

    fn kv_heads(&self) -> Result<usize> {
        let heads = self.size("attention.head_count")?;
        Ok(self.size_or("attention.head_count_kv", heads)? as usize)
    }

    fn has(&self, tensor: &str) -> bool {
        self.header.tensors.contains_key(tensor)
    }

    fn refusal(&self, what: String, help: &str) -> Error {
        Error::new(ErrorKind::Config, format!("{what}, as {} says", self.header.path)).help(help)
    }
}

/// The `config.json` that the file would have come with, and its weights under their names there.
pub(crate) fn translate(header: &Header, bytes: &[u8]) -> Result<(String, TensorLocations)> {
    let said = header.text("general.architecture")?;
    let Some(known) = KNOWN.iter().find(|known| known.names.0 == said) else {
        let what = format!(
            "{} is of architecture `{}`, which is not known",
            header.path,
            super::header::truncate(said)
        );
        let all = KNOWN.map(|known| known.names.0);
        let error = Error::new(ErrorKind::Config, what);
        if said.starts_with("t5") {
            return Err(error.help(
                "encoder-decoders are read from Hugging Face's folders: `Model::open(\"t5-small\")`, or a folder with config.json and model.safetensors",
            ));
        }
        return Err(match nearest(said, all) {
            Some(guess) => error.help(format!("did it mean `{guess}`? Known: {}", all.join(", "))),
            None => error.help(format!("architectures that are read from GGUF files: {}", all.join(", "))),
        });
    };
    let embedding = header.tensors.get("token_embd.weight").ok_or_else(|| {
        Error::new(ErrorKind::Weights, format!("{} has no tensor `token_embd.weight`", header.path)).help(
            "it may be one part of a model that was split: join the parts with llama-gguf-split --merge",
        )
    })?;
    let sizes = Sizes { header, bytes, prefix: said, vocab: embedding.shape[0] };
    let mut config = (known.config)(&sizes)?;
    let id = |key: &str| header.optional(&format!("tokenizer.ggml.{key}"), Header::size);
    config["model_type"] = json!(known.names.1);
    config["vocab_size"] = json!(sizes.vocab);
    config["bos_token_id"] = json!(id("bos_token_id")?);
    config["eos_token_id"] = json!(id("eos_token_id")?);
    config["tie_word_embeddings"] = json!(!sizes.has("output.weight"));
    Ok((config.to_string(), places(known, &sizes)?))
}

fn places(known: &Architecture, sizes: &Sizes) -> Result<TensorLocations> {
    let mut all = Vec::new();
    for (&name, TensorInfo { dtype, shape, range }) in &sizes.header.tensors {
        let layered = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let found = match layered {
            Some((layer, rest)) => {
                let same = known.in_layer.iter().find(|(gguf, _)| *gguf == rest);
                same.map(|(gguf, theirs)| (*gguf, format!("{}.{layer}.{theirs}", known.layer)))
            }
            None => {
                let same = known.whole.iter().find(|(gguf, _)| *gguf == name);
                same.map(|(gguf, theirs)| (*gguf, theirs.to_string()))
            }
        };
        let Some((gguf, theirs)) = found else {
            // Masks and rotary tables are made anew.
            if ["rope_freqs.weight", "attn_rot_embd", "attn.bias", "attn.masked_bias"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                continue;
            }
            let name = super::header::truncate(name);
            return Err(Error::new(
                ErrorKind::Weights,
                format!("{} has a tensor `{name}`, which no {} has", sizes.header.path, known.names.0),
            )
            .help("it is a model of another kind, and would compute something else without it"));
        };
        let stored = match dtype {
            GgmlDType::F32 => StoredDtype::Plain(DType::F32),
            GgmlDType::F16 => StoredDtype::Plain(DType::F16),
            GgmlDType::BF16 => StoredDtype::Plain(DType::BF16),
            other => StoredDtype::Quantized(*other),
        };
        let change = (known.change)(gguf, sizes)?;
        let place = TensorLocation { stored, shape: shape.clone(), range: range.clone(), change };
        if !place.fits() {
            return Err(Error::new(
                ErrorKind::Weights,
                format!("`{}` of {} has shape {shape:?}", super::header::truncate(name), sizes.header.path),
            )
            .help("that does not divide into the heads that the file announces: convert the model again"));
        }
        all.push((theirs, place));
    }
    Ok(all)
}

fn gpt2(sizes: &Sizes) -> Result<Value> {
    Ok(json!({
        "n_layer": sizes.size("block_count")?,
        "n_head": sizes.heads()?,
        "n_embd": sizes.size("embedding_length")?,
        "n_inner": sizes.size("feed_forward_length")?,
        "n_positions": sizes.size("context_length")?,
        "layer_norm_epsilon": sizes.real("attention.layer_norm_epsilon")?,
        "activation_function": "gelu_new",
    }))
}

fn neox(sizes: &Sizes) -> Result<Value> {
    let (width, heads) = (sizes.size("embedding_length")?, sizes.heads()?);
    let in_head = width as usize / heads.max(1);
    let rotary = sizes.size_or("rope.dimension_count", in_head as u32)?;
    Ok(json!({
        "num_hidden_layers": sizes.size("block_count")?,
        "num_attention_heads": heads,
        "hidden_size": width,
        "intermediate_size": sizes.size("feed_forward_length")?,
        "max_position_embeddings": sizes.size("context_length")?,
        "layer_norm_eps": sizes.real("attention.layer_norm_epsilon")?,
        "use_parallel_residual": sizes.header.optional(&sizes.key("use_parallel_residual"), Header::flag)?.unwrap_or(true),
        "rotary_pct": f64::from(rotary) / in_head.max(1) as f64,
        "rotary_emb_base": sizes.header.optional(&sizes.key("rope.freq_base"), Header::real)?.unwrap_or(10000.0),
        "hidden_act": "gelu",
        "attention_bias": sizes.has("blk.0.attn_qkv.bias"),
    }))
}

/// Llama and those that are built like it.
fn llama(sizes: &Sizes) -> Result<Value> {
    let (width, heads) = (sizes.size("embedding_length")?, sizes.heads()?);
    let in_head = sizes.size_or("attention.key_length", (width as usize / heads.max(1)) as u32)?;
    let value_length = sizes.size_or("attention.value_length", in_head)?;
    let rotary = sizes.size_or("rope.dimension_count", in_head)?;
    if value_length != in_head || rotary != in_head {
        return Err(sizes.refusal(
            format!("values have {value_length} and rotations {rotary} of {in_head} entries of a head"),
            "they are read where all are as many: this is a model of another kind",
        ));
    }
    if sizes.size_or("expert_count", 0)? > 0 {
        return Err(
            sizes.refusal("it is a mixture of experts".into(), "models with one MLP a layer are read")
        );
    }
    let mut config = json!({
        "num_hidden_layers": sizes.size("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": sizes.kv_heads()?,
        "head_dim": in_head,
        "hidden_size": width,
        "intermediate_size": sizes.size("feed_forward_length")?,
        "max_position_embeddings": sizes.size("context_length")?,
        "rms_norm_eps": sizes.real("attention.layer_norm_rms_epsilon")?,
        "rope_theta": sizes.header.optional(&sizes.key("rope.freq_base"), Header::real)?.unwrap_or(10000.0),
        "hidden_act": "silu",
        "attention_bias": sizes.prefix == "llama" && sizes.has("blk.0.attn_q.bias"),
        "mlp_bias": sizes.has("blk.0.ffn_gate.bias"),
    });
    if let Some(scaling) = rope_scaling(sizes, in_head as usize, &config["rope_theta"])? {
        config["rope_scaling"] = scaling;
    }
    Ok(config)
}

fn rope_scaling(sizes: &Sizes, in_head: usize, theta: &Value) -> Result<Option<Value>> {
    let header = sizes.header;
    if let Some(found) = header.tensors.get("rope_freqs.weight") {
        return Ok(Some(llama3_scaling(sizes, found, in_head, theta.as_f64().unwrap_or(10000.0))?));
    }
    let kind = header.optional(&sizes.key("rope.scaling.type"), Header::text)?.unwrap_or("none");
    let factor = header.optional(&sizes.key("rope.scaling.factor"), Header::real)?;
    match (kind, factor) {
        ("none", _) => Ok(None),
        ("linear", Some(1.0)) => Ok(None),
        ("linear", Some(factor)) => {
            Ok(Some(json!({"rope_type": "linear", "type": "linear", "factor": factor})))
        }
        (other, _) => Err(sizes.refusal(
            format!("rotations are scaled by `{}`", super::header::truncate(other)),
            "linear scaling and Llama 3's are read: take another model",
        )),
    }
}

/// Llama 3.1's scaling is stored as what each frequency is divided by; from it come the numbers of the config. Its bounds
/// are those of all such models; the context that they refer to follows from a frequency between them, or else is at most
/// the first wave that is scaled in full.
fn llama3_scaling(sizes: &Sizes, found: &TensorInfo, in_head: usize, theta: f64) -> Result<Value> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let other = || {
        sizes.refusal(
            "rotations are scaled by factors of their own".into(),
            "linear scaling and Llama 3's are read: take another model",
        )
    };
    if found.dtype != GgmlDType::F32 || found.shape != [in_head / 2] {
        return Err(other());
    }
    let bytes = &sizes.bytes[found.range.clone()];
    let factors = candle_core::Tensor::from_raw_buffer(bytes, DType::F32, &found.shape, &Device::Cpu)?;
    let factors = factors.to_vec1::<f32>()?;
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let wavelength =
        |pair: usize| 2.0 * std::f64::consts::PI * theta.powf(2.0 * pair as f64 / in_head as f64);
    let between = factors.iter().position(|&divisor| divisor > 1.01 && f64::from(divisor) < 0.99 * factor);
    let context = match (between, factors.iter().position(|&divisor| divisor > 1.01)) {
        (Some(pair), _) => {
            let smooth = (1.0 / f64::from(factors[pair]) - 1.0 / factor) / (1.0 - 1.0 / factor);
            ((smooth * (HIGH - LOW) + LOW) * wavelength(pair)).round()
        }
        (None, Some(pair)) => (LOW * wavelength(pair)).floor(),
        (None, None) => return Err(other()),
    };
    let expected = |pair: usize| {
        let smooth = (context / wavelength(pair) - LOW) / (HIGH - LOW);
        1.0 / (smooth + (1.0 - smooth) / factor).clamp(1.0 / factor, 1.0)
    };
    let same = |(pair, &found): (usize, &f32)| (f64::from(found) / expected(pair) - 1.0).abs() < 1e-3;
    if !factors.iter().enumerate().all(same) {
        return Err(other());
    }
    Ok(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
        "original_max_position_embeddings": context as u32,
    }))
}
