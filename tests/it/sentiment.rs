//! Two real encoders, all-MiniLM-L6-v2 and a classifier of sentiment on top of it, against transformers (`tests/golden/sentiment.py`).
//!
//! HEADLIGHT_SENTIMENT names the folder that `tests/real/sentiment.py` makes; `check` runs it.

use headlight::prelude::*;
use headlight::{Result, Stack};
use serde_json::Value;

fn open(name: &str) -> Model {
    let folder = std::env::var("HEADLIGHT_SENTIMENT").expect("HEADLIGHT_SENTIMENT names a folder");
    Model::open(&format!("{folder}/{name}")).unwrap_or_else(|error| panic!("{error}"))
}

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentiment.json");
    serde_json::from_slice(&std::fs::read(path).expect("sentiment.json")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn apart(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

/// Both compute in f32, in other orders of their sums, through six layers.
const APART: f64 = 2e-5;

#[test]
#[ignore = "HEADLIGHT_SENTIMENT must name the folder of the models"]
fn as_transformers_has_them() -> Result<()> {
    let (minilm, classifier, golden) = (open("minilm"), open("sentiment"), golden());
    let dims = minilm.dims();
    assert_eq!((dims.n_layers, dims.n_heads, dims.d_model, dims.n_ctx), (6, 12, 384, 512));
    let texts = golden["texts"].as_array().expect("a list");
    for case in texts {
        let text = case["text"].as_str().expect("a text");
        let run = minilm.run_with_cache(text)?;
        let ids: Vec<f64> = run.tokens_of(Stack::Main)?[0].ids().iter().map(|&id| f64::from(id)).collect();
        assert_eq!(ids, numbers(&case["ids"]), "{text:?}");
        let mean = run.get(Site::NormalizedResidPost.at(5))?.mean("position")?.to_vec()?;
        let far = apart(&mean[..8], &numbers(&case["mean"]));
        assert!(far < APART, "{text:?}: {far}");
        let far = apart(&run.get(Site::PoolerOut)?.to_vec()?[..8], &numbers(&case["pooled"]));
        assert!(far < APART, "{text:?}: {far}");
        let run = classifier.run_with_cache(text)?;
        let far = apart(&run.get(Site::ClassLogits)?.to_vec()?, &numbers(&case["logits"]));
        assert!(far < APART, "{text:?}: {far}");
    }
    let text = |index: usize| texts[index]["text"].as_str().expect("a text");
    let (first, second): (Vec<&str>, Vec<&str>) =
        (1..texts.len()).map(|index| (text(index - 1), text(index))).unzip();
    let found = classifier.classify(Input::pair(first, second))?.values().to_vec()?;
    let logits = numbers(&golden["pairs"]);
    let expected: Vec<f64> = logits
        .chunks(2)
        .flat_map(|pair| {
            let positive = 1.0 / (1.0 + (pair[0] - pair[1]).exp());
            [1.0 - positive, positive]
        })
        .collect();
    let far = apart(&found, &expected);
    assert!(far < APART, "{far}");
    Ok(())
}

#[test]
#[ignore = "HEADLIGHT_SENTIMENT must name the folder of the models"]
fn verdicts_on_what_was_held_out() -> Result<()> {
    let folder = std::env::var("HEADLIGHT_SENTIMENT").expect("HEADLIGHT_SENTIMENT names a folder");
    let snippets = std::fs::read_to_string(format!("{folder}/held_out.tsv")).expect("the snippets");
    let rows: Vec<(f64, &str)> = snippets
        .lines()
        .map(|line| line.split_once('\t').expect("a rating and a text"))
        .map(|(rating, text)| (rating.parse().expect("a rating"), text))
        .collect();
    let texts: Vec<&str> = rows.iter().map(|(_, text)| *text).collect();
    let positive = open("sentiment").classify(texts)?.of("positive")?;
    let is_right = |((rating, _), positive): (&(f64, &str), &f32)| (*rating > 0.0) == (*positive > 0.5);
    let right = rows.iter().zip(&positive).filter(|both| is_right(*both)).count();
    let golden = golden();
    let held_out = &golden["held_out"];
    assert_eq!(rows.len() as u64, held_out["of"].as_u64().expect("a number"));
    // Verdicts that rounding could turn are within 1e-5 of one half: none is.
    assert_eq!(right as u64, held_out["right"].as_u64().expect("a number"));
    println!("{right} of {} are right", rows.len());
    Ok(())
}
