//! Detection on patterns made by hand, where the right answer is known, and as the original published it.

use std::collections::HashMap;

use crate::common::{Golden, MODELS};
use candle_core::{Device, Tensor};
use headlight::analysis::course_project::*;
use headlight::analysis::*;
use headlight::prelude::*;
use headlight::{ErrorKind, Result};

/// A run whose pattern `[head, query, key]` is given, of one layer.
fn run_of(ids: &[u32], pattern: Vec<Vec<Vec<f32>>>) -> Result<Run> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.safetensors");
    let pattern_heads = pattern.len();
    let tensor = Tensor::new(pattern, &Device::Cpu)?;
    let labels: Vec<String> = ids.iter().map(u32::to_string).collect();
    let metadata = HashMap::from([
        ("tokens".to_string(), serde_json::json!(ids).to_string()),
        ("str_tokens".to_string(), serde_json::json!(labels).to_string()),
        ("starts_with_bos".to_string(), "[true]".to_string()),
        ("model".to_string(), "by hand".to_string()),
        ("headlight_run".to_string(), "2".to_string()),
        ("spec".to_string(), spec(pattern_heads, ids).to_string()),
    ]);
    let tensors = [("blocks.0.attn.hook_pattern", tensor)];
    safetensors::serialize_to_file(tensors, Some(metadata), &path).expect("written");
    Run::open(&path)
}

/// What a file says of a model of one layer of so many heads that can read the ids.
fn spec(heads: usize, ids: &[u32]) -> serde_json::Value {
    serde_json::json!({
        "stacks": [{
            "stack": "main",
            "dims": {
                "n_layers": 1, "n_heads": heads, "n_key_value_heads": heads, "d_model": 8, "d_head": 4, "d_mlp": 0,
                "d_vocab": ids.iter().max().map_or(1, |id| id + 1), "n_ctx": ids.len(),
            },
            "positions": "learned", "sees": "earlier", "norm": "layer", "norm_place": "before", "mlp": "none",
            "parallel": false, "crosses": null,
        }],
        "readout": { "vocabulary": "main" },
    })
}

/// A head that attends to one key from each query.
fn sharp(len: usize, key: impl Fn(usize) -> usize) -> Vec<Vec<f32>> {
    (0..len).map(|query| (0..len).map(|k| f32::from(u8::from(k == key(query)))).collect()).collect()
}

/// A head that attends to all it may alike.
fn even(len: usize) -> Vec<Vec<f32>> {
    (0..len).map(|q| (0..len).map(|k| if k <= q { 1.0 / (q + 1) as f32 } else { 0.0 }).collect()).collect()
}

/// BOS and five tokens said twice; in ARENA's diagonal query 4 attends to BOS.
const IDS: [u32; 11] = [0, 5, 6, 7, 8, 9, 5, 6, 7, 8, 9];
const PERIOD: usize = 5;

fn by_hand() -> Result<Run> {
    let len = IDS.len();
    run_of(
        &IDS,
        vec![
            sharp(len, |q| q.saturating_sub(PERIOD - 1)),
            sharp(len, |q| q.saturating_sub(1)),
            sharp(len, |q| q.saturating_sub(PERIOD)),
            sharp(len, |q| q),
            sharp(len, |_| 0),
            even(len),
        ],
    )
}

#[test]
fn perfect_heads_score_one() -> Result<()> {
    let run = by_hand()?;
    let scores = [
        (0, run.induction_scores()?),
        (1, run.previous_token_scores()?),
        (2, run.duplicate_token_scores()?),
        (3, run.current_token_scores()?),
        (4, run.first_token_scores()?),
    ];
    for (perfect, scores) in scores {
        for (index, score) in scores.values().to_vec()?.into_iter().enumerate() {
            match index == perfect {
                true => assert_eq!(score, 1.0, "{scores:?}"),
                false => assert!(score < 0.6, "head {index}: {scores:?}"),
            }
        }
        assert_eq!(scores.detect(DynamicThreshold::default())?.heads(), [head(0, perfect)]);
        assert_eq!(scores.detect(0.6)?.heads(), [head(0, perfect)]);
        assert_eq!(scores.detect(Threshold::Top(1))?.heads(), [head(0, perfect)]);
        assert_eq!(scores.detect(Threshold::Outlier { deviations: 2.0 })?.heads()[0], head(0, perfect));
    }
    Ok(())
}

/// The formula of the dynamic threshold, worked out cell by cell.
#[test]
fn dynamic_thresholds_by_definition() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-induction");
    let run = Model::open(&golden.folder)?.run_with_cache(golden.ids("B"))?;
    let (period, len) = (20, 41);
    for deviations in [0.0, 1.5, 3.0] {
        let detection = run.induction_scores()?.detect(DynamicThreshold { deviations })?;
        for layer in 0..2 {
            let pattern = run.pattern(layer)?;
            for index in 0..4 {
                let mut cells = Vec::new();
                for (query, key) in (0..len).flat_map(|query| (0..=query).map(move |key| (query, key))) {
                    if query - key != period - 1 {
                        cells.push(f64::from(pattern.value(&[index, query, key])?));
                    }
                }
                let mean = cells.iter().sum::<f64>() / cells.len() as f64;
                let variance = cells.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cells.len() as f64;
                let expected = mean + f64::from(deviations) * variance.sqrt();
                let found = f64::from(detection.thresholds().at(head(layer, index))?);
                assert!((found - expected).abs() < 1e-5, "L{layer}H{index}: {found}, not {expected}");
            }
        }
        let all = run.induction_scores()?.values().to_vec()?;
        let thresholds = detection.thresholds().values().to_vec()?;
        let above = all.iter().zip(thresholds).filter(|(score, threshold)| *score > threshold).count();
        assert_eq!(detection.heads().len(), above);
    }
    Ok(())
}

#[test]
fn evaluation_is_scikit_learn_s() -> Result<()> {
    // predicted, true, zero_division, precision, recall, F1
    type Case<'a> = (&'a [u8], &'a [u8], f64, f64, f64, f64);
    let cases: [Case; 6] = [
        (&[1, 1, 1, 1], &[0, 1, 0, 1], 1.0, 0.5, 1.0, 2.0 / 3.0),
        (&[1, 0, 1, 0], &[1, 0, 1, 0], 0.0, 1.0, 1.0, 1.0),
        (&[1, 1, 0, 0, 0], &[1, 0, 1, 1, 0], 0.0, 0.5, 1.0 / 3.0, 0.4),
        (&[0, 0, 0], &[0, 1, 0], 0.0, 0.0, 0.0, 0.0),
        (&[0, 0, 0], &[0, 1, 0], 1.0, 1.0, 0.0, 0.0),
        (&[0, 0], &[0, 0], 1.0, 1.0, 1.0, 1.0),
    ];
    let flags = |values: &[u8]| values.iter().map(|value| *value == 1).collect::<Vec<_>>();
    for (predicted, truth, zero_division, precision, recall, f1) in cases {
        let found = Evaluation::of(&flags(predicted), &flags(truth), zero_division)?;
        for (found, expected) in [(found.precision(), precision), (found.recall(), recall), (found.f1(), f1)]
        {
            assert!((found - expected).abs() < 1e-12, "{predicted:?} of {truth:?}: {found}, not {expected}");
        }
    }
    Ok(())
}

#[test]
fn curves_run_over_all_thresholds() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-induction");
    let model = Model::open(&golden.folder)?;
    let scores = model.run_with_cache(golden.ids("B"))?.induction_scores()?;
    let truth = GroundTruth::heads(&model, &[head(1, 0), head(1, 1), head(1, 2), head(1, 3)])?;
    let curve = scores.precision_recall(&truth)?;
    let last = curve.shape()[1] - 1;
    assert_eq!(curve.value(&[1, 0])?, 1.0, "at the lowest threshold every head is found");
    assert_eq!(curve.value(&[0, last])?, 1.0, "the highest score is a true head's");
    let detection = scores.detect(Threshold::Top(4))?;
    assert_eq!(detection.evaluate(&truth)?.f1(), 1.0, "{detection:?}");
    Ok(())
}

/// Whatever the model, the original's score is 1 / tokens and its threshold at most half of that.
#[test]
fn the_original_says_yes_to_everything() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let sequences =
            vec![golden.ids("A"), golden.ids("B"), golden.ids("C"), golden.ids("B")[..7].to_vec()];
        let published = as_published(&model.run_with_cache(&sequences)?)?;
        for ((ids, score), threshold) in sequences.iter().zip(published.scores()).zip(published.thresholds())
        {
            assert!((score - 1.0 / ids.len() as f32).abs() < 1e-6);
            assert!(threshold > 0.0 && threshold <= 0.5 / ids.len() as f32 + 1e-6);
        }
        let text = include_str!("../golden/seed_published.json");
        let golden: serde_json::Value = serde_json::from_str(text).expect("the published numbers parse");
        let evaluation = published.evaluate()?;
        let metrics =
            [("precision", evaluation.precision()), ("recall", evaluation.recall()), ("f1", evaluation.f1())];
        for (key, found) in metrics {
            assert!((golden["metrics"][key].as_f64().expect("a number") - found).abs() < 1e-12, "{key}");
        }
    }
    // The formulas themselves, on a pattern worked out by hand: rows (1, 0) and (1/4, 3/4) in head 0, (1, 0) and (1, 0)
    // in head 1.
    let first = vec![vec![1.0, 0.0], vec![0.25, 0.75]];
    let run = run_of(&[0, 3], vec![first, vec![vec![1.0, 0.0], vec![1.0, 0.0]]])?;
    let published = as_published(&run)?;
    assert_eq!(published.scores(), [0.5]);
    // Unbiased variances 1/2, 1/8, 1/2, 1/2.
    assert!((published.thresholds()[0] - 0.5 * (0.5 + 0.125 + 0.5 + 0.5) / 4.0).abs() < 1e-7);
    assert!(published.evaluate().is_err(), "the original's labels are of four sequences");
    Ok(())
}

#[test]
fn causes_tell_the_trained_from_the_random() -> Result<()> {
    let trained = Model::open(&Golden::open("tiny-gpt2-induction").folder)?;
    let truth = causal_truth(&trained)?;
    assert!(!truth.true_heads().is_empty(), "{truth:?}");
    assert!(truth.true_heads().iter().all(|head| head.layer == 1), "{truth:?}");
    // Whoever does not attend is asked nothing else, and the others show the same as where all are asked.
    let everything = Criteria { prefix_matching: -1.0, ..Criteria::default() };
    let of_all = causal_truth_by(&trained, &everything, &RepeatedTokens::for_model(&trained))?;
    for head in trained.heads() {
        let (evidence, full) =
            (truth.evidence(head).expect("judged"), of_all.evidence(head).expect("judged"));
        if evidence.prefix_matching > Criteria::default().prefix_matching {
            assert_eq!(evidence.copying, full.copying, "{head}");
            let apart = evidence.effect.zip(full.effect).map(|(a, b)| (a - b).abs());
            // Sums of f32 in batches of other sizes.
            assert!(apart.is_some_and(|apart| apart < 1e-5), "{head}: {evidence:?}, {full:?}");
        } else {
            assert_eq!((evidence.copying, evidence.effect), (None, None), "{head}");
            assert!(full.copying.is_some() && full.effect.is_some(), "{head}");
        }
    }
    let random = Model::open(&Golden::open("tiny-gpt2-random").folder)?;
    assert_eq!(causal_truth(&random)?.true_heads(), []);
    Ok(())
}

#[test]
fn bad_questions_are_refused() -> Result<()> {
    let run = by_hand()?;
    let scores = run.induction_scores()?;
    let golden = Golden::open("tiny-gpt2-random");
    let model = Model::open(&golden.folder)?;
    let truth = GroundTruth::heads(&model, &[])?;
    let alone = run_of(&[0, 3], vec![vec![vec![1.0, 0.0], vec![0.5, 0.5]]])?;
    let cases: Vec<(&str, headlight::Error, &[&str])> = vec![
        ("no threshold", scores.detect(f32::NAN).expect_err("NaN"), &["NaN", "0 to 1"]),
        (
            "no deviations",
            scores.detect(DynamicThreshold { deviations: f32::INFINITY }).expect_err("inf"),
            &["inf"],
        ),
        ("top 0", scores.detect(Threshold::Top(0)).expect_err("0"), &["top 0", "6 heads"]),
        ("top 7", scores.detect(Threshold::Top(7)).expect_err("7"), &["top 7", "6 heads"]),
        (
            "another model's truth",
            scores.detect(0.5)?.evaluate(&truth).expect_err("8 heads"),
            &["6 heads", "8", "same model"],
        ),
        ("one head", as_published(&alone).expect_err("one head"), &["1 heads", "two heads"]),
        ("lengths", Evaluation::of(&[true], &[], 0.0).expect_err("none"), &["1 predictions for 0 truths"]),
    ];
    for (what, error, fragments) in cases {
        assert_eq!(error.kind(), ErrorKind::Input, "{what}: {error}");
        fragments
            .iter()
            .for_each(|part| assert!(error.to_string().contains(part), "{what}: `{part}` in {error}"));
    }
    assert_eq!(GroundTruth::heads(&model, &[head(5, 0)]).expect_err("L5H0").kind(), ErrorKind::Address);
    Ok(())
}

/// Rows of probabilities, in which induction cells stand out from the others.
#[test]
fn the_published_figures_are_what_they_are_said_to_be() -> Result<()> {
    let attention = published_attention()?;
    assert_eq!(attention.iter().map(|matrix| matrix.shape()[0]).collect::<Vec<_>>(), [7, 7, 10, 11]);
    for (matrix, qk) in attention.iter().zip(published_qk()?) {
        assert_eq!(matrix.axes()[0].labels(), qk.axes()[1].labels());
        let len = matrix.shape()[0];
        let rows = matrix.to_vec()?;
        for (query, row) in rows.chunks(len).enumerate() {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(row[query + 1..].iter().all(|&p| p == 0.0));
        }
    }
    // Sequences 2 and 4 repeat after 3 and 5 words.
    for (index, period, induction, elsewhere) in [(1, 3, 0.145, 0.076), (3, 5, 0.088, 0.053)] {
        let (mut on, mut off) = (Vec::new(), Vec::new());
        let len = attention[index].shape()[0];
        for query in period + 1..len {
            for key in 1..=query {
                let p = attention[index].value(&[query, key])?;
                if key == query + 1 - period { on.push(p) } else { off.push(p) }
            }
        }
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        assert!((mean(&on) - induction).abs() < 1e-3, "{}", mean(&on));
        assert!((mean(&off) - elsewhere).abs() < 1e-3, "{}", mean(&off));
    }
    Ok(())
}
