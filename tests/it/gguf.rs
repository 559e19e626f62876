//! GGUF files: the same model in either format computes the same, and what is no sound file is refused.

use crate::common::gguf_file;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::common::folder::{Folder, Weight, small_bpe};
use crate::common::gguf_file::{File, Meta, of_folder, rounded, stored, with_tokenizer};
use ErrorKind::{Config, Tokenizer, Weights};
use candle_core::{Device, Tensor};
use headlight::prelude::*;
use headlight::{ErrorKind, Result};
use serde_json::{Value, json};

const GOLDEN: &str = "tiny-gpt2-random";
const IDS: [u32; 7] = [0, 5, 9, 5, 59, 27, 9];

fn open(bytes: &[u8]) -> Result<Model> {
    let folder = Folder::new();
    folder.write("model.gguf", bytes);
    Model::open(&folder.path("model.gguf").display().to_string())
}

fn apart(a: &Model, b: &Model) -> Result<f32> {
    let (a, b) = (a.logits(IDS)?.to_vec()?, b.logits(IDS)?.to_vec()?);
    assert_eq!(a.len(), b.len());
    Ok(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}

/// One of each architecture that GGUF has.
const GOLDENS: [&str; 6] =
    [GOLDEN, "tiny-llama-random", "tiny-llama3", "tiny-neox", "tiny-qwen2", "tiny-qwen3"];

/// Every architecture's names, layouts and sizes, against the folder that the file was made of.
#[test]
fn architectures() -> Result<()> {
    for golden in GOLDENS {
        let folder = Folder::copy_of(golden);
        let model = open(&of_folder(&folder).bytes()).unwrap_or_else(|error| panic!("{golden}: {error}"));
        let plain = folder.open()?;
        // Scalings of rotations come back through f32; all else is the same numbers.
        let tolerance = if golden == "tiny-llama3" { 1e-5 } else { 0.0 };
        let apart = apart(&model, &plain)?;
        assert!(apart <= tolerance, "{golden}: {apart}");
        assert_eq!((model.dims(), model.bos(), model.name()), (plain.dims(), Some(0), "model"), "{golden}");
        assert_eq!(model.prepends_bos(), plain.prepends_bos(), "{golden}");
    }
    Ok(())
}

/// A golden's folder made so wide that rows of its matrices fit the largest blocks; those of GPT-2's MLP do.
fn widened(golden: &str) -> Folder {
    let folder = Folder::copy_of(golden);
    let config: Value = serde_json::from_slice(&folder.read("config.json")).expect("JSON");
    let Some(width) = config["hidden_size"].as_u64() else { return folder };
    let factor = 256 / width as usize;
    for key in ["hidden_size", "intermediate_size", "head_dim"] {
        if let Some(size) = config[key].as_u64() {
            folder.set(key, json!(size as usize * factor));
        }
    }
    folder.change_weights(|weights| {
        for (name, weight) in weights.iter_mut() {
            let has_tokens = name.contains("embed") || name.contains("lm_head");
            let sizes = weight.shape.iter().enumerate();
            let factor = |axis: usize| if axis == 0 && has_tokens { 1 } else { factor };
            let shape: Vec<usize> = sizes.map(|(axis, size)| size * factor(axis)).collect();
            let values = weight.values();
            let values: Vec<f32> = values.iter().copied().cycle().take(shape.iter().product()).collect();
            *weight = Weight::f32(&shape, &values);
        }
    });
    folder
}

/// All matrices of every architecture, in each type that fits their rows, against the same numbers in f32: logits, and what the last
/// layer made, to the last bit.
#[test]
fn types_through_every_architecture() -> Result<()> {
    for golden in GOLDENS {
        let plain = of_folder(&widened(golden));
        for kind in [1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 30] {
            let together = match kind {
                1 | 30 => 1,
                10..=14 => 256,
                _ => 32,
            };
            let (mut short, mut wide, mut changed) = (plain.clone(), plain.clone(), 0);
            for tensor in plain.tensors.iter().filter(|tensor| tensor.shape.len() == 2) {
                if !tensor.shape[1].is_multiple_of(together) {
                    continue;
                }
                let (numbers, _) = tensor.bytes.as_chunks::<4>();
                let numbers: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                let numbers = Tensor::from_vec(numbers, tensor.shape.as_slice(), &Device::Cpu)?;
                *short.tensor(&tensor.name) = stored(&tensor.name, &numbers, kind);
                let back = Tensor::from_vec(rounded(&numbers, kind), tensor.shape.as_slice(), &Device::Cpu)?;
                *wide.tensor(&tensor.name) = stored(&tensor.name, &back, 0);
                changed += 1;
            }
            assert!(changed > 0, "{golden}: nothing fits type {kind}");
            let (short, wide) = (open(&short.bytes())?, open(&wide.bytes())?);
            assert_eq!(self::apart(&short, &wide)?, 0.0, "{golden}, type {kind}");
            let last = |model: &Model| -> Result<Vec<f32>> {
                model
                    .run_with_cache(IDS.to_vec())?
                    .get(Site::ResidPost.at(model.dims().n_layers - 1))?
                    .to_vec()
            };
            assert_eq!(last(&short)?, last(&wide)?, "{golden}, type {kind}");
        }
    }
    Ok(())
}

/// Numbers in every type that is read become what candle's own quantisation makes of them, each weight in its place.
#[test]
fn types() -> Result<()> {
    let folder = Folder::copy_of(GOLDEN);
    for kind in [0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 30] {
        let (mut file, changed) = (of_folder(&folder), Folder::copy_of(GOLDEN));
        changed.change_weights(|weights| {
            for layer in 0..2 {
                // 256 in a row: some types come in blocks of so many.
                let weight = weights
                    .get_mut(&format!("transformer.h.{layer}.mlp.c_proj.weight"))
                    .expect("it is there");
                let tensor = Tensor::from_vec(weight.values(), (256, 64), &Device::Cpu).expect("its shape");
                let rows = tensor.t().and_then(|t| t.contiguous()).expect("it is");
                let name = format!("blk.{layer}.ffn_down.weight");
                *file.tensor(&name) = stored(&name, &rows, kind);
                let back = Tensor::from_vec(rounded(&rows, kind), (64, 256), &Device::Cpu);
                let back = back.and_then(|t| t.t()?.flatten_all()?.to_vec1::<f32>()).expect("numbers");
                *weight = Weight::f32(&[256, 64], &back);
            }
        });
        let apart = apart(&open(&file.bytes())?, &changed.open()?)?;
        assert_eq!(apart, 0.0, "type {kind}");
        let far = self::apart(&open(&file.bytes())?, &folder.open()?)?;
        assert!((far > 0.0) == (kind != 0), "type {kind} rounds: {far}");
    }
    Ok(())
}

#[test]
fn tokenizers() -> Result<()> {
    let (vocab, merges) = small_bpe(120);
    let texts = ["the cat sat", " the  cat\n\nsat 123", "x(y) don't", "<|endoftext|>the", "caf\u{e9}"];
    let mut file = of_folder(&Folder::copy_of(GOLDEN));
    with_tokenizer(&mut file, &vocab, &merges);
    let plain = Folder::copy_of(GOLDEN).with_tokenizer().open()?;
    let model = open(&file.bytes())?;
    for text in texts {
        assert_eq!(model.to_tokens(text)?, plain.to_tokens(text)?, "{text:?}");
    }
    assert_eq!(model.to_string(&[0, 7]), plain.to_string(&[0, 7]));
    // The same pairs, cut otherwise: nothing merges across what is cut.
    for (name, text, expected) in [
        ("smollm", "the12", vec!["the", "1", "2"]),
        ("llama-bpe", "the cat", vec!["the", " cat"]),
        // The accent joins its letter, which these few tokens cannot say.
        ("qwen2", "cafe\u{301}", vec!["ca", "f"]),
    ] {
        file.set("tokenizer.ggml.pre", Meta::Text(name.into()));
        let model = open(&file.bytes())?;
        assert_eq!(model.to_str_tokens(no_bos(text))?, expected, "{name}");
    }

    // SentencePiece: the pair with the highest score first, bytes for what is in no piece.
    let pieces =
        [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0), ("\u{2581}", 1, -9.0), ("t", 1, -8.0)];
    let more = [("h", 1, -8.0), ("e", 1, -8.0), ("th", 1, -2.0), ("he", 1, -1.0)];
    let last = [("\u{2581}the", 1, -4.0), ("\u{2581}t", 1, -0.5)];
    let mut all: Vec<(String, i32, f32)> = pieces
        .iter()
        .chain(&more)
        .chain(&last)
        .map(|&(token, kind, score)| (token.into(), kind, score))
        .collect();
    all.extend(
        (0..140u32).map(|byte| (format!("<0x{:02X}>", if byte < 70 { byte } else { byte + 90 }), 6, 0.0)),
    );
    file.set("tokenizer.ggml.model", Meta::Text("llama".into()));
    file.set("tokenizer.ggml.tokens", Meta::Texts(all.iter().map(|(token, ..)| token.clone()).collect()));
    file.set("tokenizer.ggml.token_type", Meta::I32s(all.iter().map(|(_, kind, _)| *kind).collect()));
    file.set("tokenizer.ggml.scores", Meta::F32s(all.iter().map(|(.., score)| *score).collect()));
    file.set("tokenizer.ggml.bos_token_id", Meta::U32(1));
    let model = open(&file.bytes())?;
    // `he` goes before `th`, and nothing joins it with `t`; `▁t` and `he` are joined.
    assert_eq!(model.to_str_tokens("the")?, ["<s>", " the"]);
    assert_eq!(model.to_str_tokens(no_bos("hethe"))?, [" ", "he", "t", "he"]);
    assert_eq!(model.to_str_tokens(no_bos("the\n"))?, [" the", "\n"]);
    let bytes = model.to_str_tokens(no_bos("t\u{e9}"))?;
    assert_eq!(bytes, [" t", "\\xC3", "\\xA9"]);
    file.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    assert_eq!(open(&file.bytes())?.to_str_tokens(no_bos("the"))?, ["t", "he"]);
    let mut none = of_folder(&Folder::copy_of(GOLDEN));
    for named in [None, Some("none"), Some("no_vocab")] {
        named.into_iter().for_each(|name| none.set("tokenizer.ggml.model", Meta::Text(name.into())));
        let error = open(&none.bytes())?.to_tokens("the").expect_err("there is no tokenizer").to_string();
        assert!(error.contains("came without a tokenizer"), "{error}");
    }
    Ok(())
}

type Row = (&'static str, fn(&mut File), ErrorKind, &'static [&'static str]);

/// What a file can say that is not so.
const LIES: [Row; 24] = [
    (
        "no architecture",
        |f| f.unset("general.architecture"),
        Config,
        &["does not say `general.architecture`"],
    ),
    (
        "another architecture",
        |f| f.set("general.architecture", Meta::Text("rwkv7".into())),
        Config,
        &["`rwkv7`", "llama"],
    ),
    (
        "an architecture that is a number",
        |f| f.set("general.architecture", Meta::U32(3)),
        Config,
        &["is not a text"],
    ),
    ("no heads", |f| f.set("gpt2.attention.head_count", Meta::U32(0)), Config, &["n_head = 0"]),
    (
        "a number below 0",
        |f| f.set("gpt2.block_count", Meta::I32(-1)),
        Config,
        &["`gpt2.block_count`", "0 or more"],
    ),
    (
        "a number that is a text",
        |f| f.set("gpt2.block_count", Meta::Text("2".into())),
        Config,
        &["`gpt2.block_count`"],
    ),
    (
        "more layers",
        |f| f.set("gpt2.block_count", Meta::U32(3)),
        Weights,
        &["no weight `h.2.", "its metadata"],
    ),
    (
        "as many layers as can be",
        |f| f.set("gpt2.block_count", Meta::U32(u32::MAX)),
        Weights,
        &["no weight `h.2."],
    ),
    (
        "a longer context",
        |f| f.set("gpt2.context_length", Meta::U32(u32::MAX)),
        Weights,
        &["wpe.weight", "its metadata"],
    ),
    ("another width", |f| f.set("gpt2.embedding_length", Meta::U32(128)), Weights, &["has shape"]),
    (
        "an epsilon that is none",
        |f| f.set("gpt2.attention.layer_norm_epsilon", Meta::F32(f32::NAN)),
        Config,
        &["is not a number"],
    ),
    (
        "a tensor of no layer",
        |f| f.tensor("output_norm.bias").name = "output_norm.strange".into(),
        Weights,
        &["output_norm.strange"],
    ),
    ("an unknown type", |f| f.tensor("output_norm.bias").kind = 16, Weights, &["numbers of type 16", "Q4_0"]),
    (
        "a type of larger blocks",
        |f| f.tensor("output_norm.bias").kind = 14,
        Weights,
        &["cannot be that of Q6K"],
    ),
    ("a shape of nothing", |f| f.tensor("output_norm.bias").shape = vec![0], Weights, &["output_norm.bias"]),
    (
        "a shape that overflows",
        |f| f.tensor("output_norm.bias").shape = vec![usize::MAX, usize::MAX],
        Weights,
        &["output_norm.bias"],
    ),
    ("five axes", |f| f.tensor("output_norm.bias").shape = vec![1, 1, 1, 1, 64], Weights, &["5 axes"]),
    ("no axes", |f| f.tensor("output_norm.bias").shape = vec![], Weights, &["0 axes"]),
    (
        "two of a name",
        |f| f.tensor("output_norm.bias").name = "output_norm.weight".into(),
        Weights,
        &["two tensors `output_norm.weight`"],
    ),
    (
        "no embedding",
        |f| f.tensors.retain(|t| t.name != "token_embd.weight"),
        Weights,
        &["token_embd.weight", "split"],
    ),
    (
        "not finite",
        |f| f.tensor("output_norm.bias").bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
        Weights,
        &["NaN"],
    ),
    (
        "an unknown tokenizer",
        |f| f.set("tokenizer.ggml.model", Meta::Text("rwkv".into())),
        Tokenizer,
        &["type `rwkv`", "gpt2 and llama"],
    ),
    (
        "an unknown way to cut",
        |f| f.set("tokenizer.ggml.pre", Meta::Text("tekken".into())),
        Tokenizer,
        &["by `tekken`", "known"],
    ),
    (
        "types of fewer tokens",
        |f| f.set("tokenizer.ggml.token_type", Meta::I32s(vec![1])),
        Tokenizer,
        &["1 types"],
    ),
];

/// A file larger than any memory opens, for its weights stay in it; what would make them anew is refused before. Here a file of half a
/// terabyte that is not there.
#[test]
fn larger_than_memory() {
    let mut file = of_folder(&Folder::copy_of(GOLDEN));
    let sound = file.bytes().len();
    file.tensors.retain(|tensor| tensor.name != "token_embd.weight");
    file.tensors.push(gguf_file::Stored {
        name: "token_embd.weight".into(),
        shape: vec![1 << 31, 64],
        kind: 0,
        bytes: Vec::new(),
    });
    let folder = Folder::new();
    folder.write("large.gguf", file.bytes());
    let long = std::fs::File::options().write(true).open(folder.path("large.gguf")).expect("it is there");
    long.set_len((1 << 39) + sound as u64).expect("a file with a hole");
    let begun = std::time::Instant::now();
    let model =
        Model::open(&folder.path("large.gguf").display().to_string()).expect("weights that stay there");
    assert_eq!(model.dims().d_vocab, 1 << 31);
    let error = model.folded().expect_err("no machine has so much");
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Memory, "{text}");
    assert!(text.contains("the folded weights of large needs 1.7 TB of memory, and "), "{text}");
    let error = model.logits(IDS).expect_err("nor so many logits");
    assert_eq!(error.kind(), ErrorKind::Memory, "{error}");
    assert!(begun.elapsed().as_secs() < 5);
}

fn refused(what: &str, bytes: &[u8], kind: Option<ErrorKind>, fragments: &[&str]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let model = open(bytes)?;
        model.logits(IDS)?;
        model.to_tokens("the")
    }));
    let error = outcome.unwrap_or_else(|_| panic!("{what}: a panic")).map(drop).expect_err(what);
    let text = error.to_string();
    assert!(kind.is_none_or(|kind| kind == error.kind()), "{what}: {text}");
    for fragment in fragments.iter().chain(&["help: "]) {
        assert!(text.contains(fragment), "{what}: no `{fragment}` in {text}");
    }
}

#[test]
fn lies() {
    let (vocab, merges) = small_bpe(120);
    let mut sound = of_folder(&Folder::copy_of(GOLDEN));
    with_tokenizer(&mut sound, &vocab, &merges);
    open(&sound.bytes()).expect("what is to be changed is sound");
    for (what, change, kind, fragments) in LIES {
        let mut file = sound.clone();
        change(&mut file);
        refused(what, &file.bytes(), Some(kind), fragments);
    }
    let mut llama = of_folder(&Folder::copy_of("tiny-llama-random"));
    llama.set("llama.attention.head_count", Meta::U32(3));
    refused("heads that do not divide", &llama.bytes(), None, &["heads"]);
    llama.set("llama.attention.head_count", Meta::U32(4));
    llama.set("llama.rope.scaling.type", Meta::Text("yarn".into()));
    refused("a scaling that is not known", &llama.bytes(), Some(Config), &["`yarn`"]);
    llama.set("llama.rope.scaling.type", Meta::Text("none".into()));
    llama.set("llama.expert_count", Meta::U32(8));
    refused("experts", &llama.bytes(), Some(Config), &["mixture of experts"]);

    let bytes = sound.bytes();
    // Each length of the header, cut short or as large as can be, where it stands.
    let patched = |at: usize, value: u64| {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let key = |name: &str| bytes.windows(name.len()).position(|w| w == name.as_bytes()).expect("it is there");
    let tokens = key("tokenizer.ggml.tokens") + "tokenizer.ggml.tokens".len();
    let bias = key("output_norm.bias") + "output_norm.bias".len() + 4;
    for (what, at) in [
        ("tensors", 8),
        ("values", 16),
        ("the first key's length", 24),
        ("tokens", tokens + 8),
        ("the first token's length", tokens + 16),
        ("a tensor's length", bias),
        ("a tensor's place", bias + 12),
    ] {
        for value in [u64::MAX, 1 << 62, 1 << 40, 0xFFFF_FFFF, bytes.len() as u64] {
            refused(what, &patched(at, value), None, &[]);
        }
    }
    refused("a place where another lies", &patched(bias + 12, 0), Some(Weights), &["another tensor"]);
    refused("a place askew", &patched(bias + 12, 1), Some(Weights), &["askew"]);
    for len in (0..bytes.len().min(4000)).step_by(7).chain([bytes.len() - 1]) {
        refused("cut short", &bytes[..len], None, &[]);
    }
    for (what, version) in [("version 1", 1u32), ("version 4", 4), ("the other byte order", 3 << 24)] {
        let mut bytes = bytes.clone();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        refused(what, &bytes, Some(Weights), &["of version"]);
    }
    for alignment in [0, 1, 3, 48, 1 << 20] {
        sound.set("general.alignment", Meta::U32(alignment));
        refused("an alignment", &sound.bytes(), Some(Weights), &["alignment"]);
    }
}
