//! Tiny encoder-decoders through headlight and through candle-transformers, as `oracle.rs` has decoders: a source and a target, and the
//! logits at every position of the target.

mod common;

use candle_core::{Device, Tensor};
use candle_transformers::models::{marian, t5};
use headlight::prelude::*;
use serde_json::{Value, json};

use crate::Departure::{Config, Times};
use crate::common::{Files, IDS, Result, TOLERANCE, apart};

/// How much of `IDS` the source has; the target is some of what follows.
const SOURCE: usize = 12;
const READ: usize = 10;

/// What candle-transformers needs, to do what transformers does by the file.
#[derive(Clone, Copy)]
enum Departure {
    /// Its config must say something else.
    Config(fn(&mut Value)),
    /// Its logits are too large, by this of a width.
    Times(fn(f32) -> f32),
}

struct Row {
    /// Under `tests/golden/translators`.
    folder: &'static str,
    /// What the file says instead, to both.
    changed: Option<fn(&mut Value)>,
    theirs: fn(&Files, &Tensor, &[u32]) -> Result<Vec<f32>>,
    /// How many of what the decoder reads are compared.
    reads: usize,
    departure: Option<Departure>,
}

/// Without a row: BART, which candle-transformers has not; `marian-apart`, whose two vocabularies it takes for one.
const ROWS: &[Row] = &[
    // The decoder of its T5 takes the encoder's buckets, which part what lies before from what lies behind: at distances of 0 and 1
    // they are the decoder's own. A tied unembedding is multiplied by the root of the width there, where transformers divides a T5's by
    // it, and leaves an mT5's.
    Row { folder: "t5", changed: None, theirs: of_t5, reads: 2, departure: Some(Times(|width| width)) },
    Row { folder: "mt5", changed: None, theirs: of_t5, reads: 2, departure: Some(Times(f32::sqrt)) },
    // Transformers 5 writes of every T5 that all is tied; the unembedding is one of its own if the file has one.
    Row { folder: "t5-gated", changed: None, theirs: of_t5, reads: 2, departure: Some(Config(untied)) },
    // Its encoders have as many heads as their decoders.
    Row { folder: "marian", changed: Some(as_many_heads), theirs: of_marian, reads: READ, departure: None },
];

impl Row {
    /// The largest difference, of the largest number.
    fn apart(&self, with_departure: bool) -> Result<f32> {
        let from = format!("{}/../tests/golden/translators/{}", env!("CARGO_MANIFEST_DIR"), self.folder);
        let folder = tempfile::tempdir()?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(format!("{from}/config.json"))?)?;
        if let Some(change) = self.changed {
            change(&mut config);
        }
        std::fs::write(folder.path().join("config.json"), config.to_string())?;
        std::fs::copy(format!("{from}/model.safetensors"), folder.path().join("model.safetensors"))?;
        let path = folder.path().to_string_lossy().into_owned();
        let mut files = Files::open(&path)?;
        let departure = self.departure.filter(|_| with_departure);
        let entry = |name: &str| config[name].as_u64().ok_or(format!("{}: no {name}", self.folder));
        let (start, width) = (entry("decoder_start_token_id")? as u32, entry("d_model")? as f32);
        let (source, target) = (&IDS[..SOURCE], &IDS[SOURCE..SOURCE + self.reads]);
        let ours = Model::open(&path)?.logits(Input::pair(source.to_vec(), target.to_vec()))?.to_vec()?;
        if let Some(Config(change)) = departure {
            change(&mut files.config);
        }
        let source = Tensor::new(source, &Device::Cpu)?.unsqueeze(0)?; // (1, S)
        // The start comes before what is read, and the last is written alone.
        let read: Vec<u32> = [start].into_iter().chain(target[..target.len() - 1].iter().copied()).collect();
        let mut theirs = (self.theirs)(&files, &source, &read)?;
        if let Some(Times(times)) = departure {
            theirs.iter_mut().for_each(|logit| *logit /= times(width));
        }
        Ok(apart(self.folder, &ours, &theirs))
    }
}

#[test]
fn both_say_the_same() -> Result<()> {
    for row in ROWS {
        let apart = row.apart(true)?;
        assert!(apart < TOLERANCE, "{}: differs by {apart:e} of the largest number", row.folder);
    }
    Ok(())
}

/// A row departs only as long as it must.
#[test]
fn departures_are_still_there() -> Result<()> {
    for row in ROWS.iter().filter(|row| row.departure.is_some()) {
        let agrees = row.apart(false)? < TOLERANCE;
        assert!(!agrees, "{}: candle-transformers now does as transformers", row.folder);
    }
    Ok(())
}

fn as_many_heads(config: &mut Value) {
    config["encoder_attention_heads"] = config["decoder_attention_heads"].clone();
}

fn untied(config: &mut Value) {
    config["tie_word_embeddings"] = json!(false);
}

/// Logits at every position; the model gives the last one's.
fn of_t5(files: &Files, source: &Tensor, read: &[u32]) -> Result<Vec<f32>> {
    let config: t5::Config = serde_json::from_value(files.config.clone())?;
    let mut model = t5::T5ForConditionalGeneration::load(files.weights.clone(), &config)?;
    let mut all = Vec::new();
    for length in 1..=read.len() {
        model.clear_kv_cache();
        let prefix = Tensor::new(&read[..length], &Device::Cpu)?.unsqueeze(0)?; // (1, T)
        all.extend(model.forward(source, &prefix)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}

fn of_marian(files: &Files, source: &Tensor, read: &[u32]) -> Result<Vec<f32>> {
    let config: marian::Config = serde_json::from_value(files.config.clone())?;
    let mut model = marian::MTModel::new(&config, files.weights.clone())?;
    let states = model.encoder().forward(source, 0)?; // (1, S, d_model)
    let read = Tensor::new(read, &Device::Cpu)?.unsqueeze(0)?; // (1, T)
    Ok(model.decode(&read, &states, 0)?.flatten_all()?.to_vec1()?)
}
