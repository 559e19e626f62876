//! Encoders, and decoders that tell classes, against transformers (`tests/golden/make_encoders.py`): every hook, batches that are
//! filled, and files as they are published.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use headlight::Result;
use headlight::prelude::*;

use crate::common::max_abs_diff;

const MODELS: [&str; 12] = [
    "bert-masked",
    "bert-classes",
    "bert-several",
    "bert-next",
    "bert-bare",
    "roberta-masked",
    "roberta-classes",
    "distilbert-masked",
    "distilbert-classes",
    "distilbert-bare",
    "gpt2-classes",
    "llama-classes",
];

/// What transformers computes in f32, in other orders of its sums: activations are up to about 10.
const APART: f64 = 2e-5;

fn folder(name: &str) -> String {
    format!("{}/tests/golden/encoders/{name}", env!("CARGO_MANIFEST_DIR"))
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

    fn values(&self, name: &str) -> Vec<f64> {
        values(&self.0[name])
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).expect("numbers");
    values.into_iter().map(f64::from).collect()
}

/// What each model is read out by, and what comes last where nothing is.
fn last(model: &Model) -> Hook {
    let hooks = model.hooks();
    *hooks.last().expect("a hook")
}

#[test]
fn every_hook_is_transformers() -> Result<()> {
    for name in MODELS {
        let (golden, model) = (Golden::open(name), Model::open(&folder(name))?);
        let ids = Input::from(golden.ids("ids")).with_token_types(golden.ids("types"))?;
        let run = model.run_with_options(ids, &RunOptions::all())?;
        let mut known: Vec<&str> = golden.0.keys().filter_map(|name| name.strip_prefix("hooks.")).collect();
        known.sort_unstable();
        let mut there: Vec<String> = run.hooks().iter().map(Hook::to_string).collect();
        there.sort_unstable();
        if !known.is_empty() {
            assert_eq!(there, known, "{name}");
        }
        for hook in known {
            let found = run.get(hook)?;
            let expected = &golden.0[&format!("hooks.{hook}")];
            assert_eq!(found.shape(), expected.dims(), "{name}, {hook}");
            let apart = max_abs_diff(&values(found.tensor()), &values(expected));
            assert!(apart < APART, "{name}, {hook}: {apart}");
        }
        let apart = max_abs_diff(&values(run.get(last(&model))?.tensor()), &golden.values("out"));
        assert!(apart < APART, "{name}: {apart}");
    }
    Ok(())
}

/// Of several inputs of several lengths at once, the shorter filled, as with transformers' attention mask.
#[test]
fn filled_batches_are_transformers() -> Result<()> {
    for name in MODELS {
        let (golden, model) = (Golden::open(name), Model::open(&folder(name))?);
        let (all, mask) = (&golden.0["batch.ids"], &golden.0["batch.mask"]);
        let (rows, mask) = (all.to_vec2::<u32>()?, mask.to_vec2::<u32>()?);
        let len = |row: usize| mask[row].iter().filter(|&&there| there == 1).count();
        let ids: Vec<Vec<u32>> = rows.iter().enumerate().map(|(row, ids)| ids[..len(row)].to_vec()).collect();
        let hook = last(&model);
        let run = model.run_with_options(&ids, &RunOptions::only([hook.site()]))?;
        for row in 0..ids.len() {
            let found = run.item(row)?.get(hook)?;
            let mut expected = golden.0["batch.out"].get(row)?;
            if expected.rank() == 2 {
                expected = expected.narrow(0, 0, len(row))?;
            }
            assert_eq!(found.shape(), expected.dims(), "{name}, {row}");
            let apart = max_abs_diff(&values(found.tensor()), &values(&expected));
            assert!(apart < APART, "{name}, {row}: {apart}");
        }
    }
    Ok(())
}
