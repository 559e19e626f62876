//! Model folders made to be changed.
#![allow(dead_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use headlight::{Model, Result};
use safetensors::{Dtype, SafeTensors, View};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder that goes when it is dropped.
pub struct Folder(TempDir);

/// A tensor as safetensors stores it.
#[derive(Clone)]
pub struct Weight {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub type Weights = BTreeMap<String, Weight>;

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    /// In memory where the system has such a place: a disk is forty times slower for files that change at once.
    pub fn in_memory() -> Folder {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| Folder::new(), Folder)
    }

    /// A golden model's config and weights, without its goldens.
    pub fn copy_of(golden: &str) -> Folder {
        let folder = Folder::new();
        for name in ["config.json", "model.safetensors"] {
            let from = format!("{}/tests/golden/{golden}/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::copy(from, folder.path(name)).expect("the golden's file is copied");
        }
        folder
    }

    pub fn name(&self) -> &str {
        self.0.path().to_str().expect("UTF-8")
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).expect("the file is there")
    }

    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(file), bytes).expect("the file is written");
    }

    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.path(file)).expect("the file was there");
    }

    /// Sets an entry of `config.json`.
    pub fn set(&self, key: &str, value: Value) {
        let mut config: Value = serde_json::from_slice(&self.read("config.json")).expect("JSON");
        config[key] = value;
        self.write("config.json", serde_json::to_string_pretty(&config).expect("JSON"));
    }

    /// Takes an entry out of `config.json`.
    pub fn unset(&self, key: &str) {
        let mut config: Value = serde_json::from_slice(&self.read("config.json")).expect("JSON");
        config.as_object_mut().and_then(|map| map.remove(key)).expect("the entry was there");
        self.write("config.json", config.to_string());
    }

    pub fn weights(&self) -> Weights {
        let bytes = self.read("model.safetensors");
        let all = SafeTensors::deserialize(&bytes).expect("safetensors");
        let weight = |view: safetensors::tensor::TensorView| Weight {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        all.tensors().into_iter().map(|(name, view)| (name, weight(view))).collect()
    }

    /// Writes the weights again, changed.
    pub fn change_weights(&self, change: impl FnOnce(&mut Weights)) {
        let mut weights = self.weights();
        change(&mut weights);
        self.save("model.safetensors", &weights);
    }

    pub fn save(&self, file: &str, weights: &Weights) {
        self.write(file, safetensors::serialize(weights, None).expect("they can be written"));
    }

    /// Gives the folder a tokenizer: `the cat sat` is three tokens after BOS.
    pub fn with_tokenizer(self) -> Folder {
        let (vocab, merges) = small_bpe(120);
        self.write("tokenizer.json", tokenizer_json(&vocab, &merges).to_string());
        self
    }

    pub fn open(&self) -> Result<Model> {
        Model::open(self.name())
    }
}

impl Weight {
    pub fn f32(shape: &[usize], values: &[f32]) -> Weight {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Weight { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn values(&self) -> Vec<f32> {
        let (quads, _) = self.bytes.as_chunks::<4>();
        quads.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

impl View for &Weight {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A safetensors file with a header of one's own.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The byte-level alphabet: what stands for each byte.
fn byte_alphabet() -> Vec<char> {
    let itself = |b: u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut strange = 0x100..;
    let of = |b: u32| if itself(b) { Some(b) } else { strange.next() };
    (0..256).map(of).map(|code| code.and_then(char::from_u32).expect("a character")).collect()
}

/// A small byte-level BPE as `vocab.json` and `merges.txt`: end of text is 0, then as many bytes as asked for,
/// printable ones first, then merges.
pub fn small_bpe(bytes: usize) -> (Value, String) {
    let merges =
        ["Ġ t", "h e", "Ġt he", "t he", "Ġ c", "Ġc a", "Ġca t", "Ġ s", "Ġs a", "Ġsa t", "c a", "ca t", "Ċ Ċ"];
    let alphabet = byte_alphabet();
    let rank = |b: &usize| (!matches!(b, 0x20 | 0x61..=0x7A), *b == 0x0A, *b);
    let mut order: Vec<usize> = (0..256).collect();
    order.sort_by_key(rank);
    let mut tokens = vec!["<|endoftext|>".to_string()];
    tokens.extend(order.iter().take(bytes).map(|&b| alphabet[b].to_string()));
    if !tokens.contains(&"Ċ".to_string()) {
        tokens.push("Ċ".into());
    }
    tokens.extend(merges.iter().map(|pair| pair.replace(' ', "")));
    let vocab = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    (Value::Object(vocab), format!("#version: 0.2\n{}\n", merges.join("\n")))
}

/// The same tokenizer as one `tokenizer.json`.
pub fn tokenizer_json(vocab: &Value, merges: &str) -> Value {
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges.lines().skip(1).collect::<Vec<_>>()},
    })
}

/// The id of a token of that tokenizer.
pub fn tokenizer_id(tokenizer: &Value, token: &str) -> u32 {
    tokenizer["model"]["vocab"][token].as_u64().expect("a token") as u32
}
