//! Damaged model folders and saved runs: opening and running them never panics, and never asks for much memory.
//!
//! HEADLIGHT_FUZZ_CASES sets how many (2,000 by default), HEADLIGHT_FUZZ_SEED where drawing begins (0). Every case
//! has a seed of its own, so that one alone can be run again: HEADLIGHT_FUZZ_CASES=1 with the seed that is printed.

mod common;

use common::gguf_file;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::folder::{Folder, Weight, Weights, small_bpe, tokenizer_json, with_header};
use headlight::network::Readout;
use headlight::prelude::*;
use headlight::{ErrorKind, Result};
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Counts what is asked for, and refuses what no small folder can need.
struct Counting;

const MOST: usize = 512 << 20;
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicBool = AtomicBool::new(false);

impl Counting {
    /// Whether so many bytes more may be had.
    fn allows(size: usize) -> bool {
        let live = LIVE.fetch_add(size, Relaxed).saturating_add(size);
        LARGEST.fetch_max(size, Relaxed);
        let allowed = size <= MOST && live <= MOST;
        if allowed {
            PEAK.fetch_max(live, Relaxed);
        } else {
            LIVE.fetch_sub(size, Relaxed);
            // Most of those who are refused end the process.
            let seed = SEED.load(Relaxed);
            let _ = writeln!(std::io::stderr(), "seed {seed}: {size} bytes more than {live} were asked for");
            REFUSED.store(true, Relaxed);
        }
        allowed
    }
}

// SAFETY: everything is passed on to the system's allocator, or refused as its contract allows.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Counting::allows(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !Counting::allows(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Files = BTreeMap<&'static str, Vec<u8>>;

const SHARDS: [&str; 2] = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"];
const CONFIG: &str = "config.json";
const ONE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";
const RUN: &str = "run.safetensors";
const GGUF: &str = "model.gguf";
const TORCH: &str = "pytorch_model.bin";

/// Small folders: one layer of two heads, with every way to store weights and many sorts of tokenizer.
fn folders() -> Vec<Files> {
    let (layers, width, vocab, context) = (1, 8, 44, 16);
    let config = json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": layers, "n_head": 2, "n_embd": width,
        "n_inner": null, "vocab_size": vocab, "n_positions": context, "n_ctx": context,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 0, "eos_token_id": [0, 3],
        "scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": false, "add_cross_attention": false,
    });
    let weights = weights(width, vocab, context);
    let whole = safetensors::serialize(&weights, None).expect("they can be written");
    let halves = [0, 1].map(|half| weights.clone().into_iter().skip(half).step_by(2).collect::<Weights>());
    let place = |(half, shard): (&Weights, &'static str)| -> Vec<(String, &str)> {
        half.keys().map(|key| (key.clone(), shard)).collect()
    };
    let map: BTreeMap<String, &str> = halves.iter().zip(SHARDS).flat_map(place).collect();

    let base: Files = BTreeMap::from([(CONFIG, config.to_string().into_bytes()), (ONE, whole)]);
    let with_tokenizer = |tokenizer: Value| {
        let mut files = base.clone();
        files.insert(TOKENIZER, tokenizer.to_string().into_bytes());
        files
    };
    let mut sharded = base.clone();
    sharded.remove(ONE);
    sharded.insert(INDEX, json!({"metadata": {"total_size": 9}, "weight_map": map}).to_string().into_bytes());
    for (half, shard) in halves.iter().zip(SHARDS) {
        sharded.insert(shard, safetensors::serialize(half, None).expect("they can be written"));
    }
    let (vocab, merges) = small_bpe(28);
    let mut two_files = base.clone();
    two_files.insert("vocab.json", vocab.to_string().into_bytes());
    two_files.insert("merges.txt", merges.clone().into_bytes());
    let mut all = vec![with_tokenizer(tokenizer_json(&vocab, &merges)), sharded, two_files, base.clone()];
    all.extend(other_tokenizers(&vocab, &merges).into_iter().map(with_tokenizer));
    all.push(Files::from([(RUN, saved_run(&base))]));
    let torch = |file: &str| {
        std::fs::read(format!("{}/tests/golden/tiny-torch/{file}", env!("CARGO_MANIFEST_DIR")))
            .expect("it is there")
    };
    all.push(Files::from([(CONFIG, torch(CONFIG)), (TORCH, torch(TORCH))]));
    all.extend(OTHERS.map(of_golden));
    // As often as all that need no such file.
    all.extend(std::iter::repeat_n(with_sentence_pieces(), 4));
    all
}

/// The same small GPT-2, and a LLaMA whose rotations are scaled.
fn ggufs() -> Vec<Files> {
    let small = folders().into_iter().next().expect("there are folders");
    [place(&small), Folder::copy_of("tiny-llama3")].map(|folder| Files::from([(GGUF, gguf(&folder))])).into()
}

/// A folder's model as a GGUF file, with a tokenizer and numbers of two types.
fn gguf(folder: &Folder) -> Vec<u8> {
    let mut file = gguf_file::of_folder(folder);
    let (vocab, merges) = small_bpe(28);
    gguf_file::with_tokenizer(&mut file, &vocab, &merges);
    let tensor =
        file.tensors.iter_mut().find(|tensor| tensor.name.ends_with("ffn_up.weight")).expect("it is there");
    let values = tensor.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let values = candle_core::Tensor::from_vec(values, tensor.shape.clone(), &candle_core::Device::Cpu);
    let kind = if tensor.shape[1].is_multiple_of(32) { 8 } else { 1 };
    *tensor = gguf_file::stored(&tensor.name.clone(), &values.expect("its shape"), kind);
    file.bytes()
}

/// A tiny model of each other architecture.
const OTHERS: [&str; 15] = [
    "tiny-llama3",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-neox",
    "tiny-gptj",
    "tiny-neo",
    "tiny-attn-only",
    "tiny-attn-only-bare",
    "encoders/bert-masked",
    "encoders/roberta-classes",
    "encoders/distilbert-classes",
    "translators/t5",
    "translators/marian",
    "translators/bart",
];

/// A Marian with the files of SentencePiece: as small as they are made.
fn with_sentence_pieces() -> Files {
    let mut files = of_golden("translators/marian");
    for name in ["source.spm", "target.spm", "vocab.json", "tokenizer_config.json"] {
        let path =
            format!("{}/tests/golden/sentence-piece-files/marian-apart/{name}", env!("CARGO_MANIFEST_DIR"));
        files.insert(name, std::fs::read(path).expect("it is there"));
    }
    files
}

fn of_golden(name: &str) -> Files {
    let folder = Folder::copy_of(name);
    [CONFIG, ONE].map(|file| (file, folder.read(file))).into()
}

fn place(files: &Files) -> Folder {
    let folder = Folder::new();
    files.iter().for_each(|(name, bytes)| folder.write(name, bytes));
    folder
}

fn saved_run(files: &Files) -> Vec<u8> {
    let folder = place(files);
    let run = folder.open().and_then(|model| model.run_with_cache(vec![0, 5, 6, 7, 5, 6, 7]));
    run.and_then(|run| run.save(folder.path(RUN))).expect("a sound model's run is saved");
    folder.read(RUN)
}

fn weights(m: usize, v: usize, n_ctx: usize) -> Weights {
    let shapes = [
        ("wte.weight", vec![v, m]),
        ("wpe.weight", vec![n_ctx, m]),
        ("h.0.ln_1.weight", vec![m]),
        ("h.0.ln_1.bias", vec![m]),
        ("h.0.attn.c_attn.weight", vec![m, 3 * m]),
        ("h.0.attn.c_attn.bias", vec![3 * m]),
        ("h.0.attn.c_proj.weight", vec![m, m]),
        ("h.0.attn.c_proj.bias", vec![m]),
        ("h.0.ln_2.weight", vec![m]),
        ("h.0.ln_2.bias", vec![m]),
        ("h.0.mlp.c_fc.weight", vec![m, 4 * m]),
        ("h.0.mlp.c_fc.bias", vec![4 * m]),
        ("h.0.mlp.c_proj.weight", vec![4 * m, m]),
        ("h.0.mlp.c_proj.bias", vec![m]),
        ("ln_f.weight", vec![m]),
        ("ln_f.bias", vec![m]),
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut weight = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-0.5..0.5)).collect();
        Weight::f32(shape, &values)
    };
    shapes.iter().map(|(name, shape)| (name.to_string(), weight(shape))).collect()
}

/// Tokenizers of the library's other sorts, whose parts a damaged or foreign file may name.
fn other_tokenizers(vocab: &Value, merges: &str) -> Vec<Value> {
    let bpe = tokenizer_json(vocab, merges);
    let words = json!({"[UNK]": 0, "the": 1, "cat": 2, "##at": 3, "s": 4, "▁the": 5, "▁": 6});
    let pieces = json!([["<unk>", 0.0], ["▁", -1.0], ["the", -2.0], ["▁cat", -3.5], ["<0x41>", -4.0]]);
    let with = |changes: Value| {
        let mut tokenizer = bpe.clone();
        for (key, value) in changes.as_object().expect("an object") {
            tokenizer[key] = value.clone();
        }
        tokenizer
    };
    vec![
        with(json!({
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": words},
        })),
        with(json!({
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": true},
        })),
        with(json!({
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\p{L}+(?!x)|\\s+"}, "behavior": "Isolated", "invert": false},
                {"type": "Digits", "individual_digits": true}, {"type": "FixedLength", "length": 5}]},
            "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "[PAD]"},
            "truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 2},
            "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"x": {"id": "x", "ids": [3], "tokens": ["x"]}}},
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
        })),
    ]
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics of the tokenizers library, which are caught where it is called and become errors.
static CAUGHT: AtomicUsize = AtomicUsize::new(0);

/// Numbers that nobody expects.
const EXTREMES: [&str; 16] = [
    "0",
    "-1",
    "1",
    "2",
    "7",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e18",
    "1e400",
    "2.5",
    "null",
];

/// Bytes that mean something where they come.
const PIECES: [&str; 22] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "[[[[[[[[",
    "{\"a\":",
    "\\u0000",
    "\\ud800",
    "\u{10FFFF}",
    "",
    " ",
    "\n",
    "F64",
    "I64",
    "BOOL",
    "(a*)*b",
];

/// Damages a file: its JSON as JSON where it can, else its bytes.
fn mutate(name: &str, bytes: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha8Rng) {
    if rng.random_bool(0.3) {
        return mutate_bytes(bytes, other, rng);
    }
    let is_weights = name.ends_with(".safetensors");
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length) as usize);
    let json = if is_weights { bytes.get(8..length.saturating_add(8)) } else { Some(bytes.as_slice()) };
    let Some(mut value) = json.and_then(|json| serde_json::from_slice::<Value>(json).ok()) else {
        return mutate_bytes(bytes, other, rng);
    };
    let given = serde_json::from_slice(other).unwrap_or_else(|_| value.clone());
    mutate_json(&mut value, &given, rng);
    let text = value.to_string();
    *bytes = if is_weights { with_header(&text, &bytes[8 + length..]) } else { text.into_bytes() };
}

/// Puts something else in the place of a random part of a JSON value, or takes it away.
fn mutate_json(value: &mut Value, given: &Value, rng: &mut ChaCha8Rng) {
    let children = match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if children > 0 && rng.random_bool(0.85) {
        let at = rng.random_range(0..children);
        let removed = rng.random_bool(0.1);
        match value {
            Value::Array(items) if removed => drop(items.remove(at)),
            Value::Array(items) => mutate_json(&mut items[at], given, rng),
            Value::Object(map) if removed => {
                let key = map.keys().nth(at).cloned();
                drop(key.and_then(|key| map.remove(&key)));
            }
            Value::Object(map) => {
                map.values_mut().skip(at).take(1).for_each(|item| mutate_json(item, given, rng));
            }
            _ => {}
        }
        return;
    }
    *value = match rng.random_range(0..6) {
        0 => part(given, rng).clone(),
        1 => json!(PIECES.choose(rng)),
        2 => json!([value]),
        _ => {
            let extreme = EXTREMES.choose(rng).copied().unwrap_or_default();
            serde_json::from_str(extreme).unwrap_or(json!(f64::MAX))
        }
    };
}

/// A random part of a JSON value.
fn part<'a>(value: &'a Value, rng: &mut ChaCha8Rng) -> &'a Value {
    let children: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    };
    match children.choose(rng) {
        Some(child) if rng.random_bool(0.9) => part(child, rng),
        _ => value,
    }
}

fn mutate_bytes(bytes: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha8Rng) {
    // Of a safetensors file it is the header that decides, the bytes before it above all.
    let reach = if rng.random_bool(0.5) { bytes.len() } else { bytes.len().min(400) };
    let at = rng.random_range(0..=reach);
    let end = (at + rng.random_range(0..=16)).min(bytes.len());
    let is_binary = bytes.starts_with(b"GGUF") || bytes.starts_with(b"PK");
    if is_binary && rng.random_bool(0.5) {
        return replace_binary(bytes, at, rng);
    }
    match rng.random_range(0..11) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.random_range(0..8)),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.random()),
        2 => bytes.insert(at, rng.random()),
        3 => drop(bytes.drain(at..end)),
        4 => bytes.truncate(at),
        5 => {
            let from = rng.random_range(0..=other.len());
            let to = (from + rng.random_range(0..=64)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied()).for_each(drop);
        }
        6 => {
            let piece = PIECES.choose(rng).copied().unwrap_or_default();
            bytes.splice(at..end.min(at + 4).max(at), piece.bytes()).for_each(drop);
        }
        7 => {
            let copy = bytes[at..end].to_vec();
            let times = rng.random_range(1..40);
            bytes.splice(at..at, copy.repeat(times)).for_each(drop);
        }
        _ => replace_number(bytes, at, rng),
    }
}

/// Puts an extreme in the place of a binary number: lengths, counts, places and types are such.
fn replace_binary(bytes: &mut [u8], at: usize, rng: &mut ChaCha8Rng) {
    let len = bytes.len() as u64;
    let values = [
        0,
        1,
        2,
        3,
        5,
        9,
        32,
        255,
        len,
        len - 1,
        1 << 20,
        1 << 31,
        1 << 32,
        1 << 40,
        1 << 62,
        1 << 63,
        u64::MAX,
    ];
    let value = values.choose(rng).copied().unwrap_or_default().to_le_bytes();
    let width = [1, 4, 8].choose(rng).copied().unwrap_or(8);
    bytes.iter_mut().skip(at).take(width).zip(value).for_each(|(byte, new)| *byte = new);
}

/// Puts an extreme in the place of the first number from `at` on, or of a quoted word.
fn replace_number(bytes: &mut Vec<u8>, at: usize, rng: &mut ChaCha8Rng) {
    let is_part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'e');
    let Some(start) = bytes.iter().skip(at).position(u8::is_ascii_digit).map(|skipped| at + skipped) else {
        return;
    };
    let len = bytes[start..].iter().take_while(|byte| is_part(byte)).count();
    let extreme = EXTREMES.choose(rng).copied().unwrap_or_default();
    bytes.splice(start..start + len, extreme.bytes()).for_each(drop);
}

/// Opens the run or the model; what came of using it is within.
fn open_and_use(folder: &Folder, files: &Files) -> Result<Result<()>> {
    if files.contains_key(RUN) {
        return Ok(use_run(&Run::open(folder.path(RUN))?));
    }
    if files.contains_key(GGUF) {
        return Ok(use_model(&Model::open(&folder.path(GGUF).display().to_string())?));
    }
    Ok(use_model(&folder.open()?))
}

fn use_run(run: &Run) -> Result<()> {
    for hook in run.hooks() {
        run.get(hook)?.to_vec()?;
    }
    run.item(0)?.figure()?;
    // These may find that what they need was not kept, each by itself.
    let outcomes = [run.loss().map(drop), run.log_probs().map(drop), run.induction_scores().map(drop)];
    let errors = outcomes.into_iter().filter_map(Result::err);
    errors.max_by_key(|error| error.kind() == ErrorKind::Backend).map_or(Ok(()), Err)
}

/// What reads a source and writes a target.
fn use_translator(model: &Model) -> Result<()> {
    let run = model.run_with_cache(Input::pair(vec![0u32, 1], vec![1u32, 0]))?;
    run.log_probs()?.to_vec()?;
    let search = Search { beams: 2, max_new_tokens: Some(2) };
    model.translate(vec![0u32, 1], &search)?;
    for outcome in [
        model.loss(Input::pair("the cat\u{e9} 12", vec![1u32, 0])).map(drop),
        model.loss(Input::pair("the cat", "le chat \u{301}")).map(drop),
        model.translate(">>fra<< the cat", &search).map(drop),
    ] {
        if let Err(error) = outcome {
            assert!(error.to_string().contains("help: "), "text is refused: {error}");
        }
    }
    Ok(())
}

fn use_model(model: &Model) -> Result<()> {
    if model.spec().last_stack().crosses.is_some() {
        return use_translator(model);
    }
    let run = model.run_with_cache(vec![0, 1])?;
    match model.spec().readout() {
        Readout::Vocabulary(_) => {}
        Readout::Masked(_) => return run.log_probs()?.to_vec().map(drop),
        // Of what tells classes or nothing, what a damaged config made of it.
        Readout::Classes { .. } => return model.classify(vec![vec![0, 1], vec![1]]).map(drop),
        _ => return Ok(()),
    }
    run.log_probs()?.to_vec()?;
    let said = model.to_string(&[0, 1, 2, u32::MAX]);
    model.to_tokens(vec![0])?;
    model.generate(
        vec![0, 1],
        &Sampling { max_new_tokens: 2.min(model.dims().n_ctx - 2), ..Sampling::default() },
    )?;
    model.folded()?.weight("W_U")?.to_vec()?;
    match model.to_tokens("the cat\u{e9} 12") {
        Ok(tokens) => {
            assert!(tokens.ids().iter().all(|&id| (id as usize) < model.dims().d_vocab), "{said}");
            model.generate(&tokens, &Sampling { max_new_tokens: 2, ..Sampling::default() })?;
        }
        Err(error) => assert!(error.to_string().contains("help: "), "text is refused: {error}"),
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    opened: usize,
    refused: BTreeMap<String, usize>,
    failures: Vec<String>,
}

fn one_case(seed: u64, bases: &[Files], folder: &Folder, tally: &mut Tally) {
    SEED.store(seed, Relaxed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let base = &bases[rng.random_range(0..bases.len())];
    let mut files = base.clone();
    for _ in 0..rng.random_range(1..=2) {
        let names: Vec<&str> = files.keys().copied().collect();
        let other = bases.choose(&mut rng).and_then(|files| files.values().choose(&mut rng));
        // Any file may be damaged, the tokenizer's most of all: no other format is as rich.
        let preferred = files.contains_key(TOKENIZER) && rng.random_bool(0.6);
        let name = if preferred { TOKENIZER } else { names[rng.random_range(0..names.len())] };
        if let Some(bytes) = files.get_mut(name) {
            mutate(name, bytes, other.map_or(&[], Vec::as_slice), &mut rng);
        }
    }
    for name in
        [RUN, CONFIG, ONE, INDEX, TOKENIZER, "vocab.json", "merges.txt", SHARDS[0], SHARDS[1], GGUF, TORCH]
    {
        match files.get(name) {
            Some(bytes) => folder.write(name, bytes),
            None => drop(std::fs::remove_file(folder.path(name))),
        }
    }
    let begun = Instant::now();
    PANIC.take();
    let outcome = catch_unwind(AssertUnwindSafe(|| open_and_use(folder, base)));
    let took = begun.elapsed();
    let mut failed = |what: String| tally.failures.push(format!("seed {seed}: {what}"));
    match outcome {
        Err(_) => failed(format!("a panic: {}", PANIC.take())),
        Ok(Err(error)) => {
            if !error.to_string().contains("help: ") || error.kind() == ErrorKind::Backend {
                failed(format!("an error that does not help: {error}"));
            }
            *tally.refused.entry(format!("{:?}", error.kind())).or_default() += 1;
        }
        Ok(Ok(used)) => {
            tally.opened += 1;
            if let Err(error) = used.as_ref().map_err(|error| (error.kind(), error.to_string()))
                && (error.0 == ErrorKind::Backend || !error.1.contains("help: "))
            {
                failed(format!("opened, then {}", error.1));
            }
        }
    }
    if took > Duration::from_secs(5) {
        failed(format!("took {took:?}"));
    }
    if REFUSED.swap(false, Relaxed) {
        failed(format!("asked for too much memory, {} bytes at once at most", LARGEST.load(Relaxed)));
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`")))
}

#[test]
fn damaged_folders() {
    damaged(&folders());
}

#[test]
fn damaged_ggufs() {
    damaged(&ggufs());
}

fn damaged(bases: &[Files]) {
    // Memory and panics are counted for the whole process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (cases, seed) = (from_env("HEADLIGHT_FUZZ_CASES", 2000), from_env("HEADLIGHT_FUZZ_SEED", 0));
    let folder = Folder::in_memory();
    for files in bases {
        open_and_use(&place(files), files).and_then(|used| used).expect("what is to be damaged is sound");
    }
    // The messages of panics that are caught are kept, not printed.
    std::panic::set_hook(Box::new(|info| {
        CAUGHT.fetch_add(1, Relaxed);
        PANIC.set(info.to_string());
    }));
    let (begun, mut tally) = (Instant::now(), Tally::default());
    for case in 0..cases {
        one_case(seed.wrapping_add(case), bases, &folder, &mut tally);
    }
    drop(std::panic::take_hook());
    println!(
        "{cases} cases from seed {seed} in {:.1} s: {} opened, refused {:?}, {} failures, {} panics within \
         tokenizers, peak {} KiB",
        begun.elapsed().as_secs_f64(),
        tally.opened,
        tally.refused,
        tally.failures.len(),
        CAUGHT.load(Relaxed),
        PEAK.load(Relaxed) / 1024,
    );
    let first: Vec<&str> = tally.failures.iter().take(20).map(String::as_str).collect();
    assert!(first.is_empty(), "{} failures:\n{}", tally.failures.len(), first.join("\n"));
    assert!(
        cases < 1000 || tally.opened * 20 > cases as usize,
        "nearly nothing opened: damage is too great to test anything"
    );
}
