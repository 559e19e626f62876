//! Tiny models of every architecture against TransformerLens: every hook, losses, detectors, folded weights, generation.
//! The tolerances are those of `tests/golden/README.md`: above TransformerLens's own f32 error.

use crate::common::{Golden, MODELS, max_abs_diff, numbers};
use candle_core::{DType, Device, Tensor, Var};
use headlight::analysis::*;
use headlight::prelude::*;
use headlight::{Hook, Result, Site, Tap};

fn tolerance(site: Site) -> f64 {
    match site {
        Site::UnembedOut
        | Site::ResidPre
        | Site::ResidMid
        | Site::ResidPost
        | Site::AttnOut
        | Site::MlpOut => 1e-4,
        Site::Pattern => 1e-5,
        _ => 5e-5,
    }
}

/// The goldens store masked scores as 0.
fn unmasked(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(|value| if value == f32::NEG_INFINITY { 0.0 } else { f64::from(value) }).collect()
}

/// Holds one activation against TransformerLens's.
fn assert_golden(
    golden: &Golden,
    model: &str,
    processing: &str,
    hook: Hook,
    shape: &[usize],
    values: &[f64],
) {
    let entry = golden.at(&["hooks_A", processing, &hook.to_string()]);
    let what = format!("{model}, {processing}, {hook}");
    assert_eq!(shape, numbers(&entry["shape"]).map(|n| n as usize).collect::<Vec<_>>(), "{what}");
    let (first, last) = (&values[..6.min(values.len())], &values[values.len().saturating_sub(6)..]);
    for (key, found) in [("first", first), ("last", last)] {
        let apart = max_abs_diff(found, &numbers(&entry[key]).collect::<Vec<_>>());
        assert!(apart < tolerance(hook.site()), "{what}: {key} values differ by {apart}");
    }
    // A sum's error grows with the root of its terms at most, for errors that are not all one way.
    let bound = tolerance(hook.site()) * (values.len() as f64).sqrt().max(1.0) * 2.0;
    let apart = (values.iter().sum::<f64>() - entry["sum"].as_f64().unwrap_or(f64::NAN)).abs();
    assert!(apart < bound, "{what}: the sum differs by {apart}");
    if let Some(expected) = golden.tensor(&format!("A.{processing}.{hook}")) {
        let apart = max_abs_diff(values, &expected);
        assert!(apart < tolerance(hook.site()), "{what}: differs by {apart}");
    }
}

#[test]
fn every_hook_is_transformer_lens_s() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let raw = Model::open(&golden.folder)?;
        for (processing, model) in [("raw", raw.clone()), ("proc", raw.folded()?)] {
            let run = model.run_with_options(golden.ids("A"), &RunOptions::all())?;
            let order: Vec<String> = run.hooks().iter().map(Hook::to_string).collect();
            assert_eq!(order, golden.strings("/hook_order"), "{name}: the hooks and their order");
            for hook in run.hooks() {
                let found = run.get(hook)?;
                assert_golden(&golden, name, processing, hook, &found.shape(), &unmasked(found.to_vec()?));
            }
        }
    }
    Ok(())
}

/// Has everything tracked from the embeddings on, as where gradients are taken: no operation is then done in one pass.
struct Tracked(Vec<(Hook, Tensor)>);

impl Tap for Tracked {
    fn wants(&self, _: Hook) -> bool {
        true
    }

    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor> {
        self.0.push((hook, activation.detach()));
        if hook.site() != Site::Embed {
            assert!(activation.track_op() || hook.site() == Site::PosEmbed, "`{hook}` is not tracked");
            return Ok(activation);
        }
        let zero = Var::zeros(activation.dims(), DType::F32, &Device::Cpu)?;
        Ok((activation + zero.as_tensor())?)
    }
}

#[test]
fn every_hook_is_so_where_operations_are_not_fused() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let raw = Model::open(&golden.folder)?;
        for (processing, model) in [("raw", raw.clone()), ("proc", raw.folded()?)] {
            let mut tracked = Tracked(Vec::new());
            model.run_with_tap(golden.ids("A"), &mut tracked)?;
            let order: Vec<String> = tracked.0.iter().map(|(hook, _)| hook.to_string()).collect();
            assert_eq!(order, golden.strings("/hook_order"), "{name}: the hooks and their order");
            for (hook, activation) in tracked.0 {
                let values = unmasked(activation.flatten_all()?.to_vec1()?);
                assert_golden(&golden, name, processing, hook, &activation.dims()[1..], &values);
            }
        }
    }
    Ok(())
}

#[test]
fn logits_and_losses() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let raw = Model::open(&golden.folder)?;
        let folded = raw.folded()?;
        // TransformerLens's, and transformers', which are another implementation altogether.
        let stored = golden.names_with(".logits.");
        assert!(stored.len() >= 4, "{name}: the golden has logits of two inputs, raw and folded, at least");
        let with_transformers = stored.iter().any(|name| name.ends_with(".hf"));
        assert!(with_transformers || name.contains("attn-only"), "{name} has no logits of transformers");
        for logits in stored {
            let model = if logits.ends_with("proc64") { &folded } else { &raw };
            let found: Vec<f64> =
                model.logits(golden.ids(&logits[..1]))?.to_vec()?.into_iter().map(f64::from).collect();
            let expected = golden.tensor(logits).expect("a tensor");
            let apart = max_abs_diff(&found, &expected);
            println!("{name}, {logits}: {apart:.1e}");
            assert!(apart < 1e-4, "{name}, {logits}: differ by {apart}");
        }
        for input in ["A", "B", "C"] {
            let per_token: Vec<f64> =
                raw.loss_per_token(golden.ids(input))?.to_vec()?.into_iter().map(f64::from).collect();
            let expected: Vec<f64> = numbers(golden.at(&["loss_per_token_raw64", input])).collect();
            assert!(max_abs_diff(&per_token, &expected) < 1e-4, "{name}, {input}: loss per token");
            let mean = golden.at(&["loss_mean_raw64", input]).as_f64().expect("a number");
            for model in [&raw, &folded] {
                assert!(
                    (f64::from(model.loss(golden.ids(input))?) - mean).abs() < 1e-5,
                    "{name}, {input}: loss"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn folded_weights_are_transformer_lens_s() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let folded = Model::open(&golden.folder)?.folded()?;
        let expected = golden.at(&["processed_state_dict_fp64"]).as_object().expect("an object");
        for (weight, entry) in expected {
            let found = folded.weight(weight)?;
            assert_eq!(
                found.shape(),
                numbers(&entry["shape"]).map(|n| n as usize).collect::<Vec<_>>(),
                "{weight}"
            );
            let values = found.to_vec()?;
            let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let l2 = entry["l2"].as_f64().expect("a number");
            assert!((norm - l2).abs() <= 1e-6 * l2.max(1.0), "{name}, {weight}: norm {norm}, not {l2}");
            let sum = values.iter().map(|&x| f64::from(x)).sum::<f64>();
            let apart = (sum - entry["sum"].as_f64().expect("a number")).abs();
            assert!(
                apart < 1e-6 * (values.len() as f64).max(100.0),
                "{name}, {weight}: sum differs by {apart}"
            );
        }
    }
    Ok(())
}

#[test]
fn detectors() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let run = model.run_with_cache(golden.ids("B"))?;
        let scores = [
            ("induction", run.induction_scores()?),
            ("prev_token", run.previous_token_scores()?),
            ("current_token", run.current_token_scores()?),
            ("first_token", run.first_token_scores()?),
            ("duplicate_token(diag -n)", run.duplicate_token_scores()?),
        ];
        for (key, scores) in scores {
            let expected: Vec<f64> = numbers(golden.at(&["arena_detectors_B_raw64", key])).collect();
            let found: Vec<f64> = scores.values().to_vec()?.into_iter().map(f64::from).collect();
            assert!(max_abs_diff(&found, &expected) < 1e-5, "{name}: {key}");
        }
        let kinds = [
            ("previous_token_head", HeadKind::PreviousToken),
            ("duplicate_token_head", HeadKind::DuplicateToken),
            ("induction_head", HeadKind::Induction),
        ];
        for input in ["A", "B"] {
            for (kind_name, kind) in kinds {
                for (measure_name, error_measure) in [("mul", ErrorMeasure::Mul), ("abs", ErrorMeasure::Abs)]
                {
                    for (exclude_bos, exclude_current_token) in
                        [(false, false), (false, true), (true, false), (true, true)]
                    {
                        let title = |flag: bool| if flag { "True" } else { "False" };
                        let key = format!(
                            "{kind_name}|{measure_name}|exclude_bos={}|exclude_current={}",
                            title(exclude_bos),
                            title(exclude_current_token)
                        );
                        let options = DetectHeadOptions {
                            exclude_bos,
                            exclude_current_token,
                            error_measure,
                            ..DetectHeadOptions::default()
                        };
                        let found = detect_head(&model, golden.ids(input), kind, &options)?;
                        let found: Vec<f64> = found.values().to_vec()?.into_iter().map(f64::from).collect();
                        let expected: Vec<f64> =
                            numbers(golden.at(&["detect_head_raw32", input, &key])).collect();
                        let tolerance = if error_measure == ErrorMeasure::Mul { 1e-5 } else { 6e-4 };
                        let apart = max_abs_diff(&found, &expected);
                        assert!(apart < tolerance, "{name}, {input}, {key}: differs by {apart}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn repeats_are_learned_and_continued() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let expected: Vec<u32> = numbers(golden.at(&["greedy_from_B30"])).map(|n| n as u32).collect();
        let sampling = Sampling { max_new_tokens: 11, ..Sampling::default() };
        let generated = model.generate(golden.ids("B")[..30].to_vec(), &sampling)?;
        // A sampled end of text ends our generation, not the golden's.
        let found = generated.tokens().ids();
        assert_eq!(found, &expected[..found.len()], "{name}");
        assert!(found.len() == expected.len() || found.last() == Some(&0), "{name}: ended early");
        let halves = model.loss_per_token(golden.ids("B"))?;
        for (key, range) in [("first_half_mean", 0..20), ("second_half_mean", 20..40)] {
            let found = halves.slice("predicted", range)?.mean("predicted")?.value(&[])?;
            let expected = golden.at(&["B_loss_halves_raw64", key]).as_f64().expect("a number");
            assert!((f64::from(found) - expected).abs() < 1e-4, "{name}: {key}");
        }
    }
    Ok(())
}

/// What is cached of earlier positions must not change what later ones see.
#[test]
fn generation_with_a_cache_is_generation_without() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let mut ids = golden.ids("B")[..25].to_vec();
        let sampling = Sampling { max_new_tokens: 39, ..Sampling::default() };
        let cached = model.generate(ids.clone(), &sampling)?;
        for &expected in cached.new_ids() {
            let logits = model.logits(ids.clone())?.select("position", ids.len() - 1)?.to_vec()?;
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("logits");
            assert_eq!(best as u32, expected, "{name}");
            ids.push(expected);
        }
    }
    Ok(())
}

/// A batch of several lengths gives each input what it gets alone.
#[test]
fn batches_are_their_inputs() -> Result<()> {
    MODELS.into_iter().try_for_each(a_batch_is_its_inputs)
}

fn a_batch_is_its_inputs(name: &str) -> Result<()> {
    let golden = Golden::open(name);
    let model = Model::open(&golden.folder)?;
    let inputs = vec![golden.ids("A"), golden.ids("B"), golden.ids("C")[..7].to_vec()];
    let batch = model.run_with_options(inputs.clone(), &RunOptions::all())?;
    assert!(batch.pattern(0).is_err(), "inputs of different lengths have no common pattern");
    let mut losses = Vec::new();
    for (index, ids) in inputs.into_iter().enumerate() {
        let (item, alone) = (batch.item(index)?, model.run_with_options(ids, &RunOptions::all())?);
        for hook in alone.hooks() {
            let (a, b) = (unmasked(item.get(hook)?.to_vec()?), unmasked(alone.get(hook)?.to_vec()?));
            let apart = max_abs_diff(&a, &b);
            assert!(apart < tolerance(hook.site()), "{name}, input {index}, {hook}: differs by {apart}");
        }
        losses.extend(alone.loss_per_token()?.to_vec()?);
    }
    let mean = losses.iter().sum::<f32>() / losses.len() as f32;
    assert!((batch.loss()? - mean).abs() < 1e-5);
    Ok(())
}

#[test]
fn patterns_are_probabilities() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let run = Model::open(&golden.folder)?.run_with_cache(golden.ids("B"))?;
        for layer in 0..run.n_layers() {
            let window = match (name, layer) {
                ("tiny-mistral", _) | ("tiny-neo", 1) => 7,
                _ => usize::MAX,
            };
            let len = run.tokens()[0].len();
            for row in run.pattern(layer)?.to_vec()?.chunks(len) {
                let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
                assert!((sum - 1.0).abs() < 1e-6, "a row of {name} sums to {sum}");
            }
            let scores: Tensor = run.attn_scores(layer)?.tensor().clone();
            for (query, row) in scores.get(0)?.to_vec2::<f32>()?.iter().enumerate() {
                let hidden = |key: usize| key > query || query - key >= window;
                assert!(row.iter().enumerate().all(|(key, s)| hidden(key) == (*s == f32::NEG_INFINITY)));
            }
        }
    }
    Ok(())
}

#[test]
fn a_saved_run_is_the_run() -> Result<()> {
    MODELS.into_iter().try_for_each(a_run_survives_saving)
}

fn a_run_survives_saving(name: &str) -> Result<()> {
    let golden = Golden::open(name);
    let model = Model::open(&golden.folder)?;
    let folder = tempfile::tempdir().expect("a folder");
    for inputs in [vec![golden.ids("A")], vec![golden.ids("B"), golden.ids("C")]] {
        let run = model.run_with_options(inputs, &RunOptions::all())?;
        let path = folder.path().join("run.safetensors");
        run.save(&path)?;
        let back = Run::open(&path)?;
        assert_eq!((back.tokens(), back.hooks()), (run.tokens(), run.hooks()));
        for hook in run.hooks() {
            assert_eq!(back.get(hook)?.axes(), run.get(hook)?.axes(), "{name}, {hook}");
            assert_eq!(back.get(hook)?.shape(), run.get(hook)?.shape(), "{hook}");
            assert_eq!(back.get(hook)?.to_vec()?, run.get(hook)?.to_vec()?, "{hook}");
        }
        let file = candle_core::safetensors::load(&path, &Device::Cpu).expect("a safetensors file");
        assert_eq!(file.len(), run.hooks().len());
    }
    Ok(())
}
