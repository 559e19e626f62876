//! Tiny models through headlight and through candle-transformers: two networks in Rust that share nothing above candle's
//! tensors. The same files and ids go in, and every number that comes out is compared.
//!
//! A row of `ROWS` is a model that both have. Where candle-transformers departs from transformers, the row says how, and gives it
//! the config that means to it what the file means to transformers.

mod common;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use headlight::Model;
use serde_json::{Value, json};

use crate::common::{Files, IDS, Result, TOLERANCE, apart};

struct Row {
    /// Under `tests/golden`.
    folder: &'static str,
    ours: fn(&Model) -> Result<Vec<f32>>,
    theirs: fn(&Files) -> Result<Vec<f32>>,
    /// What the config must say instead, for candle-transformers to do what transformers does by the config as it is.
    departure: Option<fn(&mut Value)>,
}

/// Without a row: GPT-2, GPT-Neo, GPT-NeoX and GPT-J, which candle-transformers does not have; `llama-biases`, which it loads
/// without their biases; `llama-linear-scaling`, which it refuses, as it does windows in a Qwen3; `qwen2-window-above`, since
/// its Qwen2 has the window in every layer or in none.
const ROWS: &[Row] = &[
    Row { folder: "tiny-llama-random", ours: logits, theirs: of_llama, departure: None },
    Row { folder: "tiny-llama3", ours: logits, theirs: of_llama, departure: None },
    Row { folder: "variants/llama-no-sharing", ours: logits, theirs: of_llama, departure: None },
    Row { folder: "variants/llama-one-key", ours: logits, theirs: of_llama, departure: None },
    Row {
        folder: "tiny-mistral",
        ours: logits,
        theirs: of_mistral,
        // A window of 7 is there the position itself and 7 before it, where transformers has 6: it is told of 6.
        departure: Some(|config| config["sliding_window"] = json!(6)),
    },
    Row { folder: "variants/mistral-no-window", ours: logits, theirs: of_mistral, departure: None },
    Row {
        folder: "tiny-qwen2",
        ours: logits,
        theirs: of_qwen2,
        // It passes over `use_sliding_window` and refuses a window of null: it is told of one as long as the context.
        departure: Some(|config| config["sliding_window"] = config["max_position_embeddings"].clone()),
    },
    Row { folder: "tiny-qwen3", ours: logits, theirs: of_qwen3, departure: None },
    Row { folder: "variants/qwen3-biases", ours: logits, theirs: of_qwen3, departure: None },
];

impl Row {
    fn path(&self) -> String {
        format!("{}/../tests/golden/{}", env!("CARGO_MANIFEST_DIR"), self.folder)
    }

    /// The largest difference, of the largest number.
    fn apart(&self, files: &Files) -> Result<f32> {
        let (ours, theirs) = ((self.ours)(&Model::open(&self.path())?)?, (self.theirs)(files)?);
        Ok(apart(self.folder, &ours, &theirs))
    }
}

#[test]
fn both_say_the_same() -> Result<()> {
    for row in ROWS {
        let mut files = Files::open(&row.path())?;
        if let Some(change) = row.departure {
            change(&mut files.config);
        }
        let apart = row.apart(&files)?;
        assert!(apart < TOLERANCE, "{}: differs by {apart:e} of the largest number", row.folder);
    }
    Ok(())
}

/// A row's config is changed only as long as it must be.
#[test]
fn departures_are_still_there() -> Result<()> {
    for row in ROWS.iter().filter(|row| row.departure.is_some()) {
        let agrees = row.apart(&Files::open(&row.path())?).is_ok_and(|apart| apart < TOLERANCE);
        assert!(
            !agrees,
            "{}: candle-transformers now does as transformers: the row needs no departure",
            row.folder
        );
    }
    Ok(())
}

fn logits(model: &Model) -> Result<Vec<f32>> {
    Ok(model.logits(IDS.to_vec())?.to_vec()?)
}

/// Logits at every position, of a model that gives the last position's alone.
fn by_prefixes(mut last: impl FnMut(&Tensor) -> candle_core::Result<Tensor>) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for length in 1..=IDS.len() {
        let prefix = Tensor::new(&IDS[..length], &Device::Cpu)?.unsqueeze(0)?; // (1, T)
        all.extend(last(&prefix)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}

fn of_llama(files: &Files) -> Result<Vec<f32>> {
    let config: llama::LlamaConfig = serde_json::from_value(files.config.clone())?;
    let config = config.into_config(false);
    let model = llama::Llama::load(files.weights.clone(), &config)?;
    let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
    by_prefixes(|ids| model.forward(ids, 0, &mut cache))
}

fn of_mistral(files: &Files) -> Result<Vec<f32>> {
    let mut model =
        mistral::Model::new(&serde_json::from_value(files.config.clone())?, files.weights.clone())?;
    by_prefixes(|ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    })
}

fn of_qwen2(files: &Files) -> Result<Vec<f32>> {
    let config = serde_json::from_value(files.config.clone())?;
    let mut model = qwen2::ModelForCausalLM::new(&config, files.weights.clone())?;
    by_prefixes(|ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    })
}

fn of_qwen3(files: &Files) -> Result<Vec<f32>> {
    let config = serde_json::from_value(files.config.clone())?;
    let mut model = qwen3::ModelForCausalLM::new(&config, files.weights.clone())?;
    by_prefixes(|ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    })
}
