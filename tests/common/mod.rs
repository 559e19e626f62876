//! Reading the goldens.
#![allow(dead_code)]

pub mod folder;
pub mod gguf_file;
pub mod hub_server;

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use headlight::{ErrorKind, Result};
use serde_json::Value;

/// The models that have goldens: two GPT-2s, and one or more of each other architecture.
pub const MODELS: [&str; 12] = [
    "tiny-gpt2-random",
    "tiny-gpt2-induction",
    "tiny-llama-random",
    "tiny-llama3",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-neox",
    "tiny-gptj",
    "tiny-neo",
    "tiny-attn-only",
    "tiny-attn-only-bare",
];

/// What TransformerLens said of a tiny model.
pub struct Golden {
    pub folder: String,
    json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub fn open(name: &str) -> Golden {
        let folder = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(format!("{folder}/golden.json")).expect("golden.json");
        let tensors = candle_core::safetensors::load(format!("{folder}/golden.safetensors"), &Device::Cpu);
        let json = serde_json::from_str(&text).expect("golden.json parses");
        Golden { folder, json, tensors: tensors.expect("golden.safetensors") }
    }

    pub fn at(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.json, |value, key| {
            value.get(key).unwrap_or_else(|| panic!("the golden has no {path:?}"))
        })
    }

    /// Token ids of input A, B (`B_repeated`) or C (`C_corrupted`).
    pub fn ids(&self, input: &str) -> Vec<u32> {
        let key = match input {
            "B" => "B_repeated",
            "C" => "C_corrupted",
            other => other,
        };
        numbers(self.at(&["tokens", key])).map(|id| id as u32).collect()
    }

    pub fn strings(&self, pointer: &str) -> Vec<String> {
        let list = self.json.pointer(pointer).and_then(Value::as_array).expect("a list");
        list.iter().map(|text| text.as_str().expect("a text").to_string()).collect()
    }

    /// The names of the tensors that contain a text.
    pub fn names_with(&self, part: &str) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.tensors.keys().map(String::as_str).filter(|name| name.contains(part)).collect();
        names.sort_unstable();
        names
    }

    pub fn tensor(&self, name: &str) -> Option<Vec<f64>> {
        let values = self.tensors.get(name)?.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
        Some(values.expect("f32").into_iter().map(f64::from).collect())
    }
}

/// All numbers within a value, however deep, in order.
pub fn numbers(value: &Value) -> Box<dyn Iterator<Item = f64> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter().flat_map(numbers)),
        Value::Number(number) => Box::new(number.as_f64().into_iter()),
        other => panic!("{other} is not a number"),
    }
}

/// Infinite if the lengths differ, so that no comparison passes by being short.
pub fn max_abs_diff(found: &[f64], expected: &[f64]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    // NaN compares as no difference in `max`: it must count as the largest.
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, |largest, d| if d.is_nan() { f64::INFINITY } else { d.max(largest) })
}

/// Every call must have failed with its kind of error, in a text that holds the fragments.
pub fn refused(cases: Vec<(&str, Result<()>, ErrorKind, &[&str])>) {
    for (what, outcome, kind, fragments) in cases {
        let error = outcome.expect_err(what);
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{what}: {text}");
        for fragment in fragments {
            assert!(text.contains(fragment), "{what}: `{fragment}` is not in: {text}");
        }
    }
}
