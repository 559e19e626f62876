//! Tiny encoders through headlight and through candle-transformers, as `oracle.rs` has decoders: ids alone and in filled batches, pairs
//! of texts with their token types, all of them once more with a token that no query may look at.

mod common;

use std::ops::Range;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, distilbert, xlm_roberta};
use headlight::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Files, IDS, Result, TOLERANCE, apart};

/// A config, changed.
type Change = fn(&mut Value);

struct Row {
    /// Under `tests/golden/encoders`.
    folder: &'static str,
    /// What the file says instead, to both.
    changed: Option<Change>,
    ours: fn(&Model) -> Hook,
    theirs: fn(&Files, &Batch) -> Result<Tensor>,
    /// What the config must say instead, for candle-transformers to do what transformers does by the file.
    departure: Option<Change>,
}

/// Without a row: poolers, and BERT's heads of classes and of next sentences, which candle-transformers does not have; RoBERTa's logits of
/// tokens, to which it adds no bias; a DistilBERT's GELU by the error function, which it computes by tanh (6e-4 apart), so that these
/// rows have the GELU that is by tanh, or none.
const ROWS: &[Row] = &[
    Row { folder: "bert-masked", changed: None, ours: states, theirs: of_bert, departure: None },
    Row { folder: "bert-masked", changed: None, ours: read_out, theirs: of_masked_bert, departure: None },
    Row {
        folder: "bert-bare",
        changed: None,
        ours: states,
        theirs: of_bert,
        departure: Some(named_otherwise),
    },
    Row {
        folder: "distilbert-bare",
        changed: Some(relu),
        ours: states,
        theirs: of_distilbert,
        departure: None,
    },
    Row {
        folder: "distilbert-classes",
        changed: Some(gelu_by_tanh),
        ours: states,
        theirs: of_distilbert,
        departure: Some(gelu),
    },
    Row {
        folder: "distilbert-masked",
        changed: Some(gelu_by_tanh),
        ours: read_out,
        theirs: of_masked_distilbert,
        departure: Some(gelu),
    },
    Row {
        folder: "roberta-masked",
        changed: None,
        ours: states,
        theirs: of_roberta,
        departure: Some(positions),
    },
    Row {
        folder: "roberta-classes",
        changed: None,
        ours: read_out,
        theirs: of_roberta_with_classes,
        departure: Some(positions),
    },
];

fn relu(config: &mut Value) {
    config["activation"] = json!("relu");
}

fn gelu_by_tanh(config: &mut Value) {
    config["activation"] = json!("gelu_new");
}

fn gelu(config: &mut Value) {
    config["activation"] = json!("gelu");
}

fn named_otherwise(config: &mut Value) {
    config["hidden_act"] = json!("geluapproximate");
}

/// The one kind that transformers has left, and no longer names.
fn positions(config: &mut Value) {
    config["position_embedding_type"] = json!("absolute");
}

fn states(model: &Model) -> Hook {
    Site::NormalizedResidPost.at(model.dims().n_layers - 1)
}

fn read_out(model: &Model) -> Hook {
    let hooks = model.hooks();
    *hooks.last().expect("a hook")
}

impl Row {
    /// The tiny model's files, with words for its tokens where its tokenizer reads words.
    fn folder(&self) -> Result<TempDir> {
        let from = format!("{}/../tests/golden/encoders/{}", env!("CARGO_MANIFEST_DIR"), self.folder);
        let folder = tempfile::tempdir()?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(format!("{from}/config.json"))?)?;
        if let Some(change) = self.changed {
            change(&mut config);
        }
        std::fs::write(folder.path().join("config.json"), config.to_string())?;
        std::fs::copy(format!("{from}/model.safetensors"), folder.path().join("model.safetensors"))?;
        if self.reads_words() {
            let framing = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from);
            let words: Vec<String> = framing.into_iter().chain((5..48).map(|id| format!("w{id}"))).collect();
            std::fs::write(folder.path().join("vocab.txt"), words.join("\n"))?;
        }
        Ok(folder)
    }

    fn reads_words(&self) -> bool {
        !self.folder.starts_with("roberta")
    }

    /// Thirty ids at most, as a RoBERTa skips two positions; and none of them 1, which fills there: a given one has no position of
    /// its own in transformers, and has in headlight.
    fn inputs(&self) -> Vec<Input> {
        let ids = |range: Range<usize>| -> Vec<u32> { IDS[range].iter().map(|id| 2.max(*id)).collect() };
        let mut all = vec![Input::from(ids(0..30)), Input::from(vec![ids(0..12), ids(12..17), ids(17..30)])];
        if self.reads_words() {
            all.push(Input::pair(["w7 w20 w11", "w40", "w8 w8"], ["w9", "w33 w6 w47 w5 w12", "w21 w30"]));
        }
        all
    }

    /// The largest difference in any input, of the largest number that there is of it.
    fn apart(&self, departure: Option<Change>) -> Result<f32> {
        let folder = self.folder()?;
        let folder = folder.path().to_str().ok_or("UTF-8")?;
        let (whole, mut files) = (Model::open(folder)?, Files::open(folder)?);
        if let Some(change) = departure {
            change(&mut files.config);
        }
        let filling = files.config["pad_token_id"].as_u64().ok_or("a filling token")? as u32;
        let dims = whole.dims();
        let edges = |layer: usize, of_layer: usize| {
            (0..dims.n_ctx).map(move |query| AttentionEdge {
                head: head(layer, of_layer),
                query,
                key: HIDDEN,
            })
        };
        let heads = (0..dims.n_layers).flat_map(|layer| (0..dims.n_heads).map(move |of| (layer, of)));
        let edges: Vec<AttentionEdge> = heads.flat_map(|(layer, of)| edges(layer, of)).collect();
        let cut = whole.knock_out(&edges)?;
        let hook = (self.ours)(&whole);
        let mut most = 0.0f32;
        for (model, hidden) in [(&whole, None), (&cut, Some(HIDDEN))] {
            for input in self.inputs() {
                let run = model.run_with_options(input, &RunOptions::only([hook.site()]))?;
                let theirs = (self.theirs)(&files, &Batch::of(run.tokens(), filling, hidden)?)?;
                for (index, tokens) in run.tokens().iter().enumerate() {
                    let ours = run.item(index)?.get(hook)?.to_vec()?;
                    let mut theirs = theirs.get(index)?;
                    if theirs.rank() == 2 {
                        theirs = theirs.narrow(0, 0, tokens.len())?;
                    }
                    most = most.max(apart(self.folder, &ours, &theirs.flatten_all()?.to_vec1()?));
                }
            }
        }
        Ok(most)
    }
}

#[test]
fn both_say_the_same() -> Result<()> {
    for row in ROWS {
        let apart = row.apart(row.departure)?;
        assert!(apart < TOLERANCE, "{}: differs by {apart:e} of the largest number", row.folder);
    }
    Ok(())
}

/// A row's config is changed only as long as it must be.
#[test]
fn departures_are_still_there() -> Result<()> {
    for row in ROWS.iter().filter(|row| row.departure.is_some()) {
        let agrees = row.apart(None).is_ok_and(|apart| apart < TOLERANCE);
        assert!(
            !agrees,
            "{}: candle-transformers now does as transformers: the row needs no departure",
            row.folder
        );
    }
    Ok(())
}

/// Which position no query may look at, in the second round.
const HIDDEN: usize = 1;

/// What headlight read, as candle-transformers takes it: (B, T), the shorter filled.
struct Batch {
    ids: Tensor,
    types: Tensor,
    /// 1 where there is a token to look at.
    mask: Tensor,
}

impl Batch {
    fn of(inputs: &[Tokens], filling: u32, hidden: Option<usize>) -> Result<Batch> {
        let len = inputs.iter().map(Tokens::len).max().ok_or("an input")?;
        let filled = |row: Vec<u32>, by: u32| -> Vec<u32> {
            row.into_iter().chain(std::iter::repeat(by)).take(len).collect()
        };
        let all = |row: &dyn Fn(&Tokens) -> Vec<u32>| -> Result<Tensor> {
            let rows: Vec<Vec<u32>> = inputs.iter().map(row).collect();
            Ok(Tensor::new(rows, &Device::Cpu)?)
        };
        Ok(Batch {
            ids: all(&|tokens| filled(tokens.ids().to_vec(), filling))?,
            types: all(&|tokens| {
                filled(tokens.token_types().map_or(vec![0; tokens.len()], <[u32]>::to_vec), 0)
            })?,
            mask: all(&|tokens| {
                filled((0..tokens.len()).map(|key| u32::from(Some(key) != hidden)).collect(), 0)
            })?,
        })
    }

    /// As its DistilBERT takes it: 1 where there is none, (B, 1, 1, T).
    fn nothing_there(&self) -> Result<Tensor> {
        Ok(self.mask.eq(0u32)?.unsqueeze(1)?.unsqueeze(1)?)
    }
}

fn of_bert(files: &Files, batch: &Batch) -> Result<Tensor> {
    let model = bert::BertModel::load(files.weights.clone(), &serde_json::from_value(files.config.clone())?)?;
    Ok(model.forward(&batch.ids, &batch.types, Some(&batch.mask))?)
}

fn of_masked_bert(files: &Files, batch: &Batch) -> Result<Tensor> {
    // transformers leaves out of the file what is tied.
    let weights: VarBuilder = files.weights.clone().rename_f(|name| match name {
        "cls.predictions.decoder.weight" => "bert.embeddings.word_embeddings.weight".into(),
        "cls.predictions.decoder.bias" => "cls.predictions.bias".into(),
        name => name.into(),
    });
    let model = bert::BertForMaskedLM::load(weights, &serde_json::from_value(files.config.clone())?)?;
    Ok(model.forward(&batch.ids, &batch.types, Some(&batch.mask))?)
}

fn of_distilbert(files: &Files, batch: &Batch) -> Result<Tensor> {
    let config = serde_json::from_value(files.config.clone())?;
    let model = distilbert::DistilBertModel::load(files.weights.clone(), &config)?;
    Ok(model.forward(&batch.ids, &batch.nothing_there()?)?)
}

fn of_masked_distilbert(files: &Files, batch: &Batch) -> Result<Tensor> {
    let config = serde_json::from_value(files.config.clone())?;
    let model = distilbert::DistilBertForMaskedLM::load(files.weights.clone(), &config)?;
    Ok(model.forward(&batch.ids, &batch.nothing_there()?)?)
}

fn of_roberta(files: &Files, batch: &Batch) -> Result<Tensor> {
    let config = serde_json::from_value(files.config.clone())?;
    let model = xlm_roberta::XLMRobertaModel::new(&config, files.weights.pp("roberta"))?;
    Ok(model.forward(&batch.ids, &batch.mask, &batch.types, None, None, None)?)
}

fn of_roberta_with_classes(files: &Files, batch: &Batch) -> Result<Tensor> {
    let config = serde_json::from_value(files.config.clone())?;
    let model = xlm_roberta::XLMRobertaForSequenceClassification::new(3, &config, files.weights.clone())?;
    Ok(model.forward(&batch.ids, &batch.mask, &batch.types)?)
}
