//! GPT-2 small itself: what the original project published of it, and heads that are known from the literature.
//!
//! It needs the model: in the hub's cache or fetched into it, or a folder that HEADLIGHT_GPT2_DIR names.

use headlight::Result;
use headlight::prelude::*;
use serde_json::Value;

fn open() -> Model {
    let name = std::env::var("HEADLIGHT_GPT2_DIR").unwrap_or_else(|_| "gpt2".into());
    let model = Model::open(&name).unwrap_or_else(|error| {
        panic!("GPT-2 is needed, and cannot be opened. HEADLIGHT_GPT2_DIR names its folder.\n{error}")
    });
    let dims = model.dims();
    assert_eq!(
        (dims.n_layers, dims.n_heads, dims.d_model, dims.d_vocab),
        (12, 12, 768, 50257),
        "this is not GPT-2 small"
    );
    // As TransformerLens processes it by default, and so the original project.
    model.folded().unwrap_or_else(|error| panic!("{error}"))
}

fn published() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/seed_published.json");
    serde_json::from_slice(&std::fs::read(path).expect("seed_published.json")).expect("JSON")
}

fn matrix(value: &Value) -> Vec<Vec<f64>> {
    let rows = value.as_array().expect("rows").iter();
    rows.map(|row| row.as_array().expect("a row").iter().filter_map(Value::as_f64).collect()).collect()
}

/// Each entry as near as float32 in another order of sums brings it.
fn agree(what: &str, found: &[Vec<f64>], expected: &[Vec<f64>], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().flatten().fold(0.0f64, |largest, value| largest.max(value.abs()));
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}, row {row}");
        for (column, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!(
                (a - b).abs() <= tolerance * largest,
                "{what}, row {row}, column {column}: {a}, published {b}"
            );
        }
    }
}

fn rows(values: &[f32], columns: usize) -> Vec<Vec<f64>> {
    values.chunks(columns).map(|row| row.iter().copied().map(f64::from).collect()).collect()
}

#[test]
#[ignore = "it needs GPT-2's weights"]
fn attention_as_published() -> Result<()> {
    let (model, published) = (open(), published());
    for case in published["attention"].as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        let run = model.run_with_cache(text)?;
        let expected: Vec<&str> =
            case["tokens"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!(run.tokens()[0].labels(), expected);
        let mean = run.pattern(11)?.mean("head")?.to_vec()?;
        agree(text, &rows(&mean, expected.len()), &matrix(&case["matrix"]), 1e-4);
    }
    Ok(())
}

/// The published matrix is head by head: `q` and `k` are multiplied at each position and averaged over positions, then cut
/// to as many rows and columns as there are tokens.
#[test]
#[ignore = "it needs GPT-2's weights"]
fn qk_as_published() -> Result<()> {
    let (model, published) = (open(), published());
    for case in published["qk"].as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        let run = model.run_with_cache(text)?;
        let (q, k) = (run.get(("q", 11))?, run.get(("k", 11))?);
        let [positions, heads, width] = q.shape()[..] else { panic!("{q:?}") };
        let (q, k) = (q.to_vec()?, k.to_vec()?);
        let at = |values: &[f32], position: usize, head: usize, entry: usize| {
            f64::from(values[(position * heads + head) * width + entry])
        };
        let product = |a: usize, b: usize| -> f64 {
            let each = (0..positions).flat_map(|p| (0..width).map(move |entry| (p, entry)));
            each.map(|(p, entry)| at(&q, p, a, entry) * at(&k, p, b, entry)).sum::<f64>() / positions as f64
        };
        let expected = matrix(&case["matrix"]);
        let found: Vec<Vec<f64>> =
            (0..expected.len()).map(|a| (0..expected[a].len()).map(|b| product(a, b)).collect()).collect();
        agree(text, &found, &expected, 1e-3);
    }
    Ok(())
}

/// Olsson et al. 2022 and Wang et al. 2022, "Interpretability in the Wild", name these.
#[test]
#[ignore = "it needs GPT-2's weights"]
fn heads_of_the_literature() -> Result<()> {
    let model = open();
    let repeated = RepeatedTokens::for_model(&model);
    let scores = head_scores(&model, &[HeadKind::PreviousToken, HeadKind::Induction], &repeated)?;
    let [previous, induction] = &scores[..] else { panic!("two were asked for") };
    assert_eq!(previous.ranked()?[0].0, head(4, 11));
    assert!(previous.at(head(4, 11))? > 0.9);
    let top: Vec<Head> = induction.ranked()?[..12].iter().map(|(head, _)| *head).collect();
    for known in [head(5, 1), head(5, 5), head(6, 9), head(7, 2), head(7, 10)] {
        assert!(top.contains(&known) && induction.at(known)? > 0.4, "{known} in {top:?}");
    }

    // Name movers write the name of whoever receives.
    let prompts = [
        ("When John and Mary went to the store, John gave a bottle of milk to", " Mary", " John"),
        ("When Mary and John went to the store, Mary gave a bottle of milk to", " John", " Mary"),
        ("After Tom and James went to the park, Tom gave a ball to", " James", " Tom"),
        ("After James and Tom went to the park, James gave a ball to", " Tom", " James"),
    ];
    let mut totals = vec![0.0f32; 144];
    for (text, right, wrong) in prompts {
        let test = model.test_prompt(text, right)?;
        assert_eq!(test.ranks()[0], 0, "{test:?}");
        let (correct, incorrect) = (model.to_single_token(right)?, model.to_single_token(wrong)?);
        let run = model.run_with_cache(text)?;
        let each = head_logit_attribution(&model, &run, correct, incorrect)?.values().to_vec()?;
        totals.iter_mut().zip(each).for_each(|(total, value)| *total += value);
    }
    let mut order: Vec<usize> = (0..144).collect();
    order.sort_by(|&a, &b| totals[b].total_cmp(&totals[a]));
    let movers: Vec<Head> = order[..8].iter().map(|index| head(index / 12, index % 12)).collect();
    for known in [head(9, 6), head(9, 9), head(10, 0)] {
        assert!(movers.contains(&known), "{known} in {movers:?}");
    }
    Ok(())
}
