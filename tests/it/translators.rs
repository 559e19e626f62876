//! Encoder-decoders against transformers (`tests/golden/make_translators.py`): every hook of both stacks, losses, batches that are filled,
//! and what is written greedily and with beams.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use headlight::prelude::*;
use headlight::{ErrorKind, Result};
use serde_json::{Value, json};

use crate::common::folder::{Folder, Weight, Weights};
use crate::common::{max_abs_diff, refused};

const MODELS: [&str; 6] = ["t5", "t5-gated", "mt5", "marian", "marian-apart", "bart"];

/// What transformers computes in f32, in other orders of its sums: of the largest, some units in the last place, or of 10.
const APART: f64 = 6e-5;

fn folder(name: &str) -> String {
    format!("{}/tests/golden/translators/{name}", env!("CARGO_MANIFEST_DIR"))
}

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn open(name: &str) -> Golden {
        let tensors =
            candle_core::safetensors::load(format!("{}/golden.safetensors", folder(name)), &Device::Cpu);
        Golden(tensors.expect("golden.safetensors"))
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.0[name].flatten_all().and_then(|ids| ids.to_vec1()).expect("ids")
    }

    fn pair(&self) -> Input {
        Input::pair(self.ids("source"), self.ids("target"))
    }

    /// The three of a batch, without what fills them.
    fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let lengths = self.ids(&format!("batch.{name}.lengths"));
        let rows = self.0[&format!("batch.{name}")].to_vec2::<u32>().expect("ids");
        rows.into_iter().zip(lengths).map(|(row, len)| row[..len as usize].to_vec()).collect()
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).expect("numbers");
    values.into_iter().map(f64::from).collect()
}

/// The furthest apart, where scores that are masked are masked in both, in parts of the largest where that is above 10.
fn apart(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (values(found), values(expected));
    let masked = |all: &[f64]| all.iter().map(|&value| value == f64::NEG_INFINITY).collect::<Vec<_>>();
    assert_eq!(masked(&found), masked(&expected));
    let seen = |all: Vec<f64>| all.into_iter().filter(|value| value.is_finite()).collect::<Vec<_>>();
    let (found, expected) = (seen(found), seen(expected));
    let largest = expected.iter().map(|value| value.abs()).fold(10.0, f64::max);
    max_abs_diff(&found, &expected) * 10.0 / largest
}

#[test]
fn every_hook_is_transformers() -> Result<()> {
    for name in MODELS {
        let (golden, model) = (Golden::open(name), Model::open(&folder(name))?);
        let run = model.run_with_options(golden.pair(), &RunOptions::all())?;
        let mut known: Vec<&str> = golden.0.keys().filter_map(|name| name.strip_prefix("hooks.")).collect();
        known.sort_unstable();
        let mut there: Vec<String> = run.hooks().iter().map(Hook::to_string).collect();
        there.sort_unstable();
        assert_eq!(there, known, "{name}");
        for hook in known {
            let found = run.get(hook)?;
            let expected = &golden.0[&format!("hooks.{hook}")];
            assert_eq!(found.shape(), expected.dims(), "{name}, {hook}");
            let apart = apart(found.tensor(), expected);
            assert!(apart < APART, "{name}, {hook}: {apart}");
        }
        let losses = model.loss_per_token(golden.pair())?;
        assert!(apart(losses.tensor(), &golden.0["loss"]) < APART, "{name}: {losses:?}");
        let mean = values(&golden.0["loss"]).iter().sum::<f64>() / losses.to_vec()?.len() as f64;
        assert!((f64::from(model.loss(golden.pair())?) - mean).abs() < APART, "{name}");
    }
    Ok(())
}

/// Of several pairs of several lengths at once, the shorter filled, as with transformers' attention mask.
#[test]
fn filled_batches_are_transformers() -> Result<()> {
    for name in MODELS {
        let (golden, model) = (Golden::open(name), Model::open(&folder(name))?);
        let (sources, targets) = (golden.rows("source"), golden.rows("target"));
        let pairs = Input::pair(&sources, &targets);
        let run = model.run_with_options(pairs, &RunOptions::only([Site::UnembedOut]))?;
        for (row, target) in targets.iter().enumerate() {
            let found = run.item(row)?.logits()?;
            let expected = golden.0["batch.logits"].get(row)?.narrow(0, 0, target.len())?;
            assert_eq!(found.shape(), expected.dims(), "{name}, {row}");
            let apart = apart(found.tensor(), &expected);
            assert!(apart < APART, "{name}, {row}: {apart}");
        }
    }
    Ok(())
}

/// What transformers writes under each setting, token for token, and how likely it is.
#[test]
fn what_is_written_is_transformers() -> Result<()> {
    let mut texts = 0;
    for name in MODELS {
        let golden = Golden::open(name);
        let rows: Vec<Value> =
            serde_json::from_slice(&std::fs::read(format!("{}/written.json", folder(name))).expect("a file"))
                .expect("JSON");
        let folder = Folder::copy_of(&format!("translators/{name}"));
        for row in rows {
            folder.write("generation_config.json", row["setting"].to_string());
            let model = folder.open()?;
            let beams = row["setting"]["num_beams"].as_u64().expect("a number") as usize;
            let search = Search { beams, ..Search::default() };
            let found = model.translate(golden.rows("source"), &search)?;
            for (index, (found, expected)) in
                found.iter().zip(row["written"].as_array().expect("texts")).enumerate()
            {
                assert_eq!(json!(found.ids()), expected["ids"], "{name}, {index}, {}", row["setting"]);
                let log_prob = expected["log_prob"].as_f64().expect("a number");
                assert!((found.log_prob() - log_prob).abs() < APART, "{name}, {index}, {}", row["setting"]);
                texts += 1;
            }
            // Written token by token it is the same.
            if beams == 1 {
                let limit = row["setting"]["max_length"].as_u64().expect("a number") as usize - 1;
                let sampling = Sampling { max_new_tokens: limit, ..Sampling::default() };
                let source = golden.ids("source");
                let generated = model.generate(source, &sampling)?;
                assert_eq!(json!(generated.tokens().ids()[1..]), row["written"][0]["ids"], "{name}");
            }
        }
    }
    assert_eq!(texts, 6 * 13 * 3);
    Ok(())
}

/// A source alone is run with what is written of it greedily.
#[test]
fn a_source_alone_takes_what_is_written() -> Result<()> {
    for name in MODELS {
        let folder = Folder::copy_of(&format!("translators/{name}"));
        folder.write("generation_config.json", json!({"max_length": 9}).to_string());
        let (sources, model) = (Golden::open(name).rows("source"), folder.open()?);
        let written = model.translate(&sources, &Search::default())?;
        let alone = model.run_with_cache(&sources)?;
        let targets: Vec<Vec<u32>> = written.iter().map(|written| written.ids().to_vec()).collect();
        let given = model.run_with_cache(Input::pair(&sources, &targets))?;
        for index in 0..sources.len() {
            let (alone, given) = (alone.item(index)?, given.item(index)?);
            assert_eq!(alone.tokens_of(Stack::Decoder)?[0].ids(), given.tokens_of(Stack::Decoder)?[0].ids());
            assert!(apart(alone.logits()?.tensor(), given.logits()?.tensor()) < APART);
        }
    }
    Ok(())
}

/// The same model by files as they are published: tied matrices that are written again, positions that are computed, other names.
#[test]
fn files_as_they_are_published() -> Result<()> {
    type Change = fn(&mut Weights);
    let tied_to_model: Change = |weights| {
        let shared = weights["model.shared.weight"].clone();
        for name in
            ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]
        {
            weights.insert(name.into(), shared.clone());
        }
    };
    let cases: Vec<(&str, &str, Change)> = vec![
        ("t5", "tied matrices", |weights| {
            let shared = weights["shared.weight"].clone();
            for name in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"] {
                weights.insert(name.into(), shared.clone());
            }
        }),
        ("t5", "a bias of cross-attention, which older files have and nothing reads", |weights| {
            let bias = Weight { dtype: safetensors::Dtype::F32, shape: vec![8, 3], bytes: vec![0; 96] };
            let name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
            weights.insert(name.into(), bias);
        }),
        ("bart", "tied matrices", tied_to_model),
        ("marian", "tied matrices", tied_to_model),
        ("marian", "positions", |weights| {
            for stack in ["encoder", "decoder"] {
                let positions = Weight {
                    dtype: safetensors::Dtype::F32,
                    shape: vec![20, 24],
                    bytes: vec![0; 20 * 24 * 4],
                };
                weights.insert(format!("model.{stack}.embed_positions.weight"), positions);
            }
        }),
    ];
    for (name, what, change) in cases {
        let folder = Folder::copy_of(&format!("translators/{name}"));
        folder.change_weights(change);
        let (golden, model) = (Golden::open(name), folder.open()?);
        let found = model.logits(golden.pair())?;
        let apart = apart(found.tensor(), &golden.0["hooks.unembed.hook_out"]);
        assert!(apart < APART, "{name}, {what}: {apart}");
    }
    Ok(())
}

/// What these models cannot take, and what is near to them and another.
#[test]
fn wrong_inputs_are_refused() -> Result<()> {
    let t5 = Model::open(&folder("t5"))?;
    let bart = Model::open(&folder("bart"))?;
    let gpt2 = Model::open(&format!("{}/tests/golden/tiny-gpt2-random", env!("CARGO_MANIFEST_DIR")))?;
    let input = ErrorKind::Input;
    let source = || Input::from(vec![5u32, 6, 1]);
    let other = |kind: &str| {
        let folder = Folder::copy_of("translators/bart");
        folder.set("model_type", json!(kind));
        folder.open().map(drop)
    };
    let endless = || {
        let folder = Folder::copy_of("translators/marian");
        folder.set("max_position_embeddings", json!(1 << 24));
        folder.open().map(drop)
    };
    let search = |beams, max_new_tokens| Search { beams, max_new_tokens };
    refused(vec![
        ("no target", t5.loss(source()).map(drop), input, &["target"]),
        (
            "a target too long",
            bart.loss(Input::pair(vec![4u32], vec![5u32; 21])).map(drop),
            input,
            &["21", "20"],
        ),
        (
            "a source too long",
            bart.translate(vec![5u32; 21], &Search::default()).map(drop),
            input,
            &["21", "20"],
        ),
        (
            "an empty source",
            t5.translate(Vec::<u32>::new(), &Search::default()).map(drop),
            input,
            &["no tokens"],
        ),
        (
            "pairs of unequal number",
            t5.loss(Input::pair(vec![vec![4u32], vec![5]], vec![vec![6u32]])).map(drop),
            input,
            &["2", "1", "as many"],
        ),
        ("no beams", t5.translate(source(), &search(0, None)).map(drop), input, &["0 beams"]),
        ("beams by the hundred", t5.translate(source(), &search(100, None)).map(drop), input, &["100", "64"]),
        ("nothing to write", t5.translate(source(), &search(1, Some(0))).map(drop), input, &["0 tokens"]),
        ("too much to write", bart.translate(source(), &search(1, Some(21))).map(drop), input, &["21", "20"]),
        (
            "no encoder",
            gpt2.translate(source(), &Search::default()).map(drop),
            ErrorKind::Model,
            &["encoder"],
        ),
        ("sinusoids without end", endless(), ErrorKind::Config, &["16777216", "sinusoids", "damaged"]),
        ("mBART", other("mbart"), ErrorKind::Config, &["mbart"]),
        ("M2M-100", other("m2m_100"), ErrorKind::Config, &["m2m_100"]),
    ]);
    Ok(())
}
