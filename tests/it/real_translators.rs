//! Two real encoder-decoders, OPUS-MT from Chinese to English and a T5, against transformers (`tests/golden/real_translators.py`).
//!
//! HEADLIGHT_MARIAN_DIR and HEADLIGHT_T5_DIR name the folders that `tests/real/translators.py` makes; `check --slow` runs it.

use headlight::prelude::*;
use headlight::{Result, Stack};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

/// Both compute in f32, in other orders of their sums; the largest logit is 30.
const APART: f64 = 3e-4;

fn as_transformers_has_it(name: &str, variable: &str) -> Result<()> {
    let folder = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names a folder"));
    let model = Model::open(&folder).unwrap_or_else(|error| panic!("{error}"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/real_translators.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).expect("the golden")).expect("JSON");
    for case in golden[name].as_array().expect("a list") {
        let source = case["source"].as_str().expect("a text");
        let written = model.translate(source, &Search::default())?;
        assert_eq!(written[0].text(), case["target"].as_str().expect("a text"));
        assert_eq!(written[0].ids(), ids(&case["ids"]), "{source}");
        let far = (written[0].log_prob() - case["log_prob"].as_f64().expect("a number")).abs();
        assert!(far < 1e-4, "{source}: {far}");
        let run = model.run_with_cache(Input::pair(source, ids(&case["ids"])))?;
        assert_eq!(run.tokens_of(Stack::Encoder)?[0].ids(), ids(&case["source_ids"]), "{source}");
        let logits = run.logits()?;
        let positions = logits.shape()[0];
        let mut largest = 0.0f64;
        for (position, row) in case["first_logits"].as_array().expect("rows").iter().enumerate() {
            for (id, expected) in numbers(row).into_iter().enumerate() {
                let found = f64::from(logits.value(&[position, id])?);
                largest = largest.max((found - expected).abs());
            }
        }
        for (id, expected) in ids(&case["top_ids"]).into_iter().zip(numbers(&case["top_logits"])) {
            let found = f64::from(logits.value(&[positions - 1, id as usize])?);
            largest = largest.max((found - expected).abs());
        }
        assert!(largest < APART, "{source}: {largest}");
    }
    Ok(())
}

#[test]
#[ignore = "HEADLIGHT_MARIAN_DIR must name the folder of the model"]
fn marian() -> Result<()> {
    as_transformers_has_it("marian", "HEADLIGHT_MARIAN_DIR")
}

#[test]
#[ignore = "HEADLIGHT_T5_DIR must name the folder of the model"]
fn t5() -> Result<()> {
    as_transformers_has_it("t5", "HEADLIGHT_T5_DIR")
}
