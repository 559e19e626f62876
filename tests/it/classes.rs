//! What is asked of classifiers: direct attribution, the class lens, value flow, directions of concepts.

use headlight::prelude::*;
use headlight::{ErrorKind, Result};

use crate::common::refused;

fn folder(name: &str) -> String {
    format!("{}/tests/golden/encoders/{name}", env!("CARGO_MANIFEST_DIR"))
}

const CLASSIFIERS: [&str; 5] =
    ["bert-classes", "roberta-classes", "distilbert-classes", "gpt2-classes", "llama-classes"];

const IDS: [u32; 9] = [2, 7, 11, 5, 19, 23, 8, 13, 3];

fn labels(model: &Model) -> Result<Vec<String>> {
    Ok(model.classify(IDS)?.labels().to_vec())
}

#[test]
fn parts_sum_to_the_logit() -> Result<()> {
    for name in CLASSIFIERS {
        let model = Model::open(&folder(name))?;
        let (labels, run) = (labels(&model)?, model.run_with_cache(IDS)?);
        let logits = run.get(Site::ClassLogits)?.to_vec()?;
        let found = class_attribution(&model, &run, &labels[0], None)?;
        let sum: f32 = found.components().to_vec()?.iter().sum();
        // Sums of some dozen numbers around 1.
        assert!((sum - logits[0]).abs() < 2e-5, "{name}: {sum}, not {}", logits[0]);
        let found = class_attribution(&model, &run, &labels[1], labels[0].as_str())?;
        let sum: f32 = found.components().to_vec()?.iter().sum();
        assert!((sum - (logits[1] - logits[0])).abs() < 2e-5, "{name}: {sum}");
        let words = found.words().sum("position")?.to_vec()?;
        for (word, head) in words.iter().zip(found.heads().values().to_vec()?) {
            assert!((word - head).abs() < 1e-6, "{name}");
        }
    }
    Ok(())
}

/// A part that goes straight through frozen norms is what the logit changes by where it is taken away and the norms keep their scale: of
/// the last MLP of a decoder without a pooler that can be seen by subtracting it.
#[test]
fn of_a_decoder_it_is_what_a_part_adds() -> Result<()> {
    let model = Model::open(&folder("gpt2-classes"))?;
    let (labels, run) = (labels(&model)?, model.run_with_cache(IDS)?);
    let found = class_attribution(&model, &run, &labels[0], None)?;
    let axis = &found.components().axes()[0];
    let last = model.dims().n_layers - 1;
    let index = (0..axis.len()).find(|&index| axis.label(index) == format!("{last}_mlp_out")).expect("it");
    let scale = run.get(Site::LnFinalScale)?.to_vec()?;
    let len = run.tokens()[0].len();
    let out = run.get(Site::MlpOut.at(last))?;
    let width = model.dims().d_model;
    let (gain, weight) =
        (model.weight("ln_final.w")?.to_vec()?, model.weight("classifier.W")?.select("class", 0)?.to_vec()?);
    let row = out.select("position", len - 1)?.to_vec()?;
    let mean = row.iter().sum::<f32>() / width as f32;
    let by_hand: f32 =
        row.iter().zip(&gain).zip(&weight).map(|((x, g), w)| (x - mean) / scale[len - 1] * g * w).sum();
    assert!((found.components().value(&[index])? - by_hand).abs() < 1e-6, "{by_hand}");
    Ok(())
}

#[test]
fn the_lens_ends_with_the_verdict() -> Result<()> {
    for name in CLASSIFIERS {
        let model = Model::open(&folder(name))?;
        let run = model.run_with_cache(IDS)?;
        let lens = class_lens(&model, &run)?;
        let logits = run.get(Site::ClassLogits)?.to_vec()?;
        let layers = model.dims().n_layers;
        assert_eq!(lens.logits().shape(), [layers + 1, logits.len()]);
        let last = lens.logits().select("layer", layers)?.to_vec()?;
        for (found, wanted) in last.iter().zip(&logits) {
            assert!((found - wanted).abs() < 1e-6, "{name}: {found}, not {wanted}");
        }
        let said = lens.values().select("layer", layers)?.to_vec()?;
        for (found, wanted) in said.iter().zip(model.classify(IDS)?.values().to_vec()?) {
            assert!((found - wanted).abs() < 1e-6, "{name}");
        }
        // A stack that is cut off below says what the lens says there: no later layer is in it.
        let first = lens.logits().select("layer", 0)?.to_vec()?;
        assert!(first.iter().zip(&logits).any(|(a, b)| (a - b).abs() > 1e-4), "{name}");
    }
    Ok(())
}

/// Each message taken away by an edit of one's own, from patterns and values that are read.
#[test]
fn value_flow_is_what_a_message_does() -> Result<()> {
    for name in CLASSIFIERS {
        let model = Model::open(&folder(name))?;
        let labels = labels(&model)?;
        let metric = Metric::class_diff(&model, &labels[0], &labels[1])?;
        let flow = value_flow(&model, IDS, &metric)?;
        let run = model.run_with_cache(IDS)?;
        let measured = |model: &Model| -> Result<f32> {
            let logits = model.run_with_cache(IDS)?.get(Site::ClassLogits)?.to_vec()?;
            Ok(logits[0] - logits[1])
        };
        let query = if name.contains("gpt2") || name.contains("llama") { IDS.len() - 1 } else { 0 };
        let dims = *model.dims();
        for (layer, head, key) in [(0, 1, 3), (1, 0, query), (dims.n_layers - 1, dims.n_heads - 1, 5)] {
            let paid = run.pattern(layer)?.value(&[head, query, key])?;
            let of_keys = head / (dims.n_heads / dims.n_key_value_heads);
            let values: Vec<f32> = (0..dims.d_head)
                .map(|i| Ok(paid * run.v(layer)?.value(&[key, of_keys, i])?))
                .collect::<Result<_>>()?;
            let (heads, width) = (dims.n_heads, dims.d_head);
            let without = model.edit(Site::Z.at(layer), "a message less", move |z| {
                let (batch, len) = (z.dim(0)?, z.dim(1)?);
                let mut all = z.flatten_all()?.to_vec1::<f32>()?;
                // It is tried on a short input.
                if query < len {
                    for i in 0..width {
                        all[(query * heads + head) * width + i] -= values[i];
                    }
                }
                Ok(candle_core::Tensor::from_vec(all, (batch, len, heads, width), z.device())?)
            })?;
            let wanted = measured(&model)? - measured(&without)?;
            let found = flow.by_head().value(&[layer, head, key])?;
            assert!((found - wanted).abs() < 2e-6, "{name} L{layer}H{head} {key}: {found}, not {wanted}");
        }
        let scores = flow.scores()?.to_vec()?;
        assert_eq!(scores.len(), IDS.len());
    }
    Ok(())
}

#[test]
fn a_concept_is_found_and_chance_is_not() -> Result<()> {
    let model = Model::open("built-in")?;
    // Whether the third token is one of two kinds is all that differs.
    let texts = |third: [u32; 4]| -> Vec<Vec<u32>> {
        (0..24).map(|i| vec![0, 40 + i, third[i as usize % 4], 90 + (i * 7) % 31]).collect()
    };
    let (has, lacks) = (texts([500, 501, 502, 503]), texts([700, 701, 702, 703]));
    for method in [ConceptMethod::DifferenceOfMeans, ConceptMethod::LogisticProbe] {
        let at = ConceptPosition::At(2);
        let found = concept_direction(&model, has.clone(), lacks.clone(), ("resid_post", 0), at, method)?;
        assert!(found.held_out_accuracy() > 0.9, "{found:?}");
        assert!((0.2..0.8).contains(&found.shuffled_accuracy()), "{found:?}");
        let along = found.project(&model.run_with_cache(has[0].clone())?)?.to_vec()?;
        let other = found.project(&model.run_with_cache(lacks[0].clone())?)?.to_vec()?;
        assert!(along[2] > 0.0 && other[2] < 0.0, "{along:?} {other:?}");
    }
    // Two sets of the same kind have nothing to tell.
    let (even, odd): (Vec<_>, Vec<_>) =
        has.iter().chain(&lacks).cloned().enumerate().partition(|(i, _)| i % 2 == 0);
    let [even, odd] = [even, odd].map(|texts| texts.into_iter().map(|(_, ids)| ids).collect::<Vec<_>>());
    let at = ConceptPosition::First;
    let alike = concept_direction(&model, even, odd, ("resid_pre", 0), at, ConceptMethod::DifferenceOfMeans);
    refused(vec![("BOS alone", alike.map(drop), ErrorKind::Input, &["alike"])]);
    Ok(())
}

/// The difference of means by hand, and what steering and ablating along it do.
#[test]
fn a_direction_is_what_its_method_says() -> Result<()> {
    let model = Model::open("built-in")?;
    let (has, lacks) = (vec![vec![0, 5, 9], vec![0, 8, 4]], vec![vec![0, 300, 9], vec![0, 200, 4]]);
    let hook = ("resid_post", 0);
    let at = ConceptPosition::At(1);
    let found =
        concept_direction(&model, has.clone(), lacks.clone(), hook, at, ConceptMethod::DifferenceOfMeans)?;
    let mean = |texts: &[Vec<u32>]| -> Result<Vec<f32>> {
        let rows = texts
            .iter()
            .map(|ids| model.run_with_cache(ids.clone())?.resid_post(0)?.select("position", 1)?.to_vec());
        let rows = rows.collect::<Result<Vec<_>>>()?;
        Ok((0..rows[0].len())
            .map(|i| rows.iter().map(|row| row[i]).sum::<f32>() / rows.len() as f32)
            .collect())
    };
    let (a, b) = (mean(&has)?, mean(&lacks)?);
    let vector = found.vector().to_vec()?;
    for ((found, a), b) in vector.iter().zip(&a).zip(&b) {
        assert!((found - (a - b)).abs() < 1e-5, "{found}, not {}", a - b);
    }
    let along = |row: &[f32]| -> f32 {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().zip(&vector).map(|(x, v)| x * v).sum::<f32>() / length
    };
    assert!((along(&a) + along(&b) - 2.0 * found.threshold() as f32).abs() < 1e-4);
    let kept = |model: &Model| -> Result<Vec<f32>> {
        model.run_with_cache(lacks[0].clone())?.resid_post(0)?.select("position", 1)?.to_vec()
    };
    let before = kept(&model)?;
    let gone = kept(&model.ablate_direction(found.hook(), found.vector(), 0.0)?)?;
    assert!(along(&gone).abs() < 1e-4, "{}", along(&gone));
    for ((before, after), v) in before.iter().zip(&gone).zip(&vector) {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        let wanted = before - along(&kept(&model)?) * v / length;
        assert!((after - wanted).abs() < 1e-4);
    }
    let set = kept(&model.ablate_direction(found.hook(), found.vector(), 2.5)?)?;
    assert!((along(&set) - 2.5).abs() < 1e-4, "{}", along(&set));
    let moved = kept(&model.steer(found.hook(), found.vector(), 1.0)?)?;
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((along(&moved) - along(&before) - length).abs() < 1e-4);
    let map = concept_map(
        &model,
        has,
        lacks,
        Site::ResidPost,
        &[at, ConceptPosition::Mean],
        ConceptMethod::DifferenceOfMeans,
    )?;
    assert_eq!(map.accuracy().shape(), [2, 2]);
    Ok(())
}

#[test]
fn what_cannot_be_asked_says_why() -> Result<()> {
    let (model, decoder) = (Model::open(&folder("bert-classes"))?, Model::open("built-in")?);
    let labels = labels(&model)?;
    let run = model.run_with_cache(IDS)?;
    let own = decoder.run_with_cache("the cat")?;
    let means = ConceptMethod::DifferenceOfMeans;
    let of = |has: Vec<&str>, hook: (&str, usize), at| {
        concept_direction(&decoder, has, vec!["a dog", "the dog"], (hook.0, hook.1), at, means).map(drop)
    };
    let joyful = class_attribution(&model, &run, "joyful", None).map(drop);
    let of_decoder = class_attribution(&decoder, &own, "joyful", None).map(drop);
    let flow = value_flow(&decoder, "the cat sat", &Metric::Loss).map(drop);
    let pair = vec!["a cat", "cats"];
    refused(vec![
        ("no such class", joyful, ErrorKind::Input, &[&labels[0]]),
        ("no classes", of_decoder, ErrorKind::Address, &["class"]),
        ("no classes to look at", class_lens(&decoder, &own).map(drop), ErrorKind::Address, &["class"]),
        ("another's run", class_lens(&model, &own).map(drop), ErrorKind::Input, &["the run is of"]),
        ("many positions", flow, ErrorKind::Input, &["more than one position"]),
        (
            "too few",
            of(vec!["a cat"], ("resid_pre", 1), ConceptPosition::Last),
            ErrorKind::Input,
            &["1 texts"],
        ),
        ("a pattern", of(pair.clone(), ("pattern", 1), ConceptPosition::Last), ErrorKind::Address, &["axes"]),
        (
            "no comma",
            of(pair, ("resid_pre", 1), ConceptPosition::Delimiters),
            ErrorKind::Input,
            &["delimiters"],
        ),
    ]);
    Ok(())
}
