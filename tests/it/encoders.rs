//! Encoders, and decoders that tell classes, against transformers (`tests/golden/make_encoders.py`): every hook, batches that are
//! filled, and files as they are published.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use headlight::prelude::*;
use headlight::{ErrorKind, Result};
use safetensors::Dtype;
use serde_json::json;

use crate::common::folder::{Folder, Weight, Weights};
use crate::common::{max_abs_diff, refused};

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

/// The same model by files as they are published: other names, other prefixes, what is left over, what is left out.
#[test]
fn files_as_they_are_published() -> Result<()> {
    type Change = fn(&mut Weights);
    type Case = (&'static str, &'static str, Box<dyn Fn(&mut Weights)>);
    let rename = |weights: &mut Weights, from: &str, to: &str| {
        let names: Vec<String> = weights.keys().filter(|name| name.contains(from)).cloned().collect();
        assert!(!names.is_empty(), "nothing is called {from}");
        for name in names {
            let weight = weights.remove(&name).expect("a weight");
            weights.insert(name.replace(from, to), weight);
        }
    };
    let of_tensorflow: Change = |weights| {
        let names: Vec<String> = weights.keys().filter(|name| name.contains("LayerNorm.")).cloned().collect();
        assert!(names.len() > 4);
        for name in names {
            let weight = weights.remove(&name).expect("a weight");
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            weights.insert(name.replace("LayerNorm.bias", "LayerNorm.beta"), weight);
        }
    };
    let with_positions: Change = |weights| {
        let ids = Weight { dtype: Dtype::I64, shape: vec![1, 32], bytes: vec![0; 256] };
        weights.insert("bert.embeddings.position_ids".into(), ids);
    };
    let with_decoder: Change = |weights| {
        let tied = weights["bert.embeddings.word_embeddings.weight"].clone();
        weights.insert("cls.predictions.decoder.weight".into(), tied);
        let bias = weights["cls.predictions.bias"].clone();
        weights.insert("cls.predictions.decoder.bias".into(), bias);
    };
    let with_others: Change = |weights| {
        let shape = vec![2, 24];
        let head = Weight { dtype: Dtype::F32, shape, bytes: vec![0; 192] };
        weights.insert("cls.seq_relationship.weight".into(), head);
    };
    let cases: Vec<Case> = vec![
        ("bert-masked", "gamma and beta", Box::new(of_tensorflow)),
        ("bert-masked", "position_ids", Box::new(with_positions)),
        ("bert-masked", "the tied decoder", Box::new(with_decoder)),
        ("bert-masked", "another head", Box::new(with_others)),
        (
            "bert-bare",
            "bert. before the names",
            Box::new(|weights| {
                *weights = std::mem::take(weights)
                    .into_iter()
                    .map(|(name, w)| (format!("bert.{name}"), w))
                    .collect();
            }),
        ),
        ("bert-masked", "no prefix", Box::new(move |weights| rename(weights, "bert.", ""))),
        ("roberta-masked", "no prefix", Box::new(move |weights| rename(weights, "roberta.", ""))),
        ("distilbert-masked", "no prefix", Box::new(move |weights| rename(weights, "distilbert.", ""))),
    ];
    for (name, what, change) in cases {
        let folder = Folder::copy_of(&format!("encoders/{name}"));
        folder.change_weights(|weights| change(weights));
        let (golden, model) = (Golden::open(name), folder.open()?);
        let ids = Input::from(golden.ids("ids")).with_token_types(golden.ids("types"))?;
        let run = model.run_with_cache(ids)?;
        let apart = max_abs_diff(&values(run.get(last(&model))?.tensor()), &golden.values("out"));
        assert!(apart < APART, "{name}, {what}: {apart}");
    }
    Ok(())
}

/// What a config says of the head, and what it does not.
#[test]
fn heads_by_their_configs() -> Result<()> {
    let labels = |name: &str, change: &dyn Fn(&Folder)| -> Result<Vec<String>> {
        let folder = Folder::copy_of(&format!("encoders/{name}"));
        change(&folder);
        Ok(folder.open()?.classify(Golden::open(name).ids("ids"))?.labels().to_vec())
    };
    assert_eq!(labels("bert-classes", &|_| ())?, ["bad", "so-so", "good"]);
    assert_eq!(
        labels("bert-classes", &|folder| folder.unset("id2label"))?,
        ["LABEL_0", "LABEL_1", "LABEL_2"]
    );
    assert_eq!(
        labels("distilbert-classes", &|folder| folder.unset("architectures"))?,
        ["bad", "so-so", "good"]
    );
    assert_eq!(labels("bert-next", &|_| ())?, ["IsNext", "NotNext"]);
    let two = |folder: &Folder| folder.set("id2label", json!({"0": "no", "1": "yes"}));
    let gap = |folder: &Folder| folder.set("id2label", json!({"0": "no", "2": "yes"}));
    let spans = |folder: &Folder| folder.set("architectures", json!(["BertForQuestionAnswering"]));
    let masked = |folder: &Folder| folder.set("architectures", json!(["BertForMaskedLM"]));
    let modern = |folder: &Folder| folder.set("model_type", json!("modernbert"));
    let relative = |folder: &Folder| folder.set("position_embedding_type", json!("relative_key"));
    let config = ErrorKind::Config;
    let nothing = |outcome: Result<Vec<String>>| outcome.map(drop);
    refused(vec![
        (
            "too few names",
            nothing(labels("bert-classes", &two)),
            config,
            &["names 2 classes", "has 3", "id2label"],
        ),
        ("a name left out", nothing(labels("bert-classes", &gap)), config, &["id2label", "0, 2"]),
        (
            "another head",
            nothing(labels("bert-classes", &spans)),
            config,
            &["BertForQuestionAnswering", "architectures"],
        ),
        (
            "weights of another head",
            nothing(labels("bert-classes", &masked)),
            ErrorKind::Weights,
            &["cls.predictions.transform.dense.weight"],
        ),
        ("another architecture", nothing(labels("bert-classes", &modern)), config, &["modernbert", "rotary"]),
        ("other positions", nothing(labels("bert-classes", &relative)), config, &["relative_key"]),
    ]);
    Ok(())
}

/// Classes as transformers' pipelines read logits.
#[test]
fn verdicts() -> Result<()> {
    let of = |name: &str| -> Result<(Vec<f64>, Vec<f64>)> {
        let (golden, model) = (Golden::open(name), Model::open(&folder(name))?);
        let ids = Input::from(golden.ids("ids")).with_token_types(golden.ids("types"))?;
        Ok((values(model.classify(ids)?.values().tensor()), golden.values("out")))
    };
    let (found, logits) = of("bert-classes")?;
    let all: f64 = logits.iter().map(|logit| logit.exp()).sum();
    let expected: Vec<f64> = logits.iter().map(|logit| logit.exp() / all).collect();
    assert!(max_abs_diff(&found, &expected) < 1e-5, "{found:?} {expected:?}");
    let (found, logits) = of("bert-several")?;
    let expected: Vec<f64> = logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
    assert!(max_abs_diff(&found, &expected) < 1e-5, "{found:?} {expected:?}");
    let number = Folder::copy_of("encoders/bert-classes");
    number.set("problem_type", json!("regression"));
    let golden = Golden::open("bert-classes");
    let ids = Input::from(golden.ids("ids")).with_token_types(golden.ids("types"))?;
    let found = values(number.open()?.classify(ids)?.values().tensor());
    assert!(max_abs_diff(&found, &golden.values("out")) < APART);
    Ok(())
}

/// A vocabulary of as many pieces as the tiny models have.
fn with_words(golden: &str) -> Folder {
    let folder = Folder::copy_of(&format!("encoders/{golden}"));
    let words = "[PAD] [UNK] [CLS] [SEP] [MASK] the film was not bad at all good a ##s ##ly . , ! ?";
    let others = (words.split(' ').count()..48).map(|index| format!("w{index}"));
    let lines: Vec<String> = words.split(' ').map(String::from).chain(others).collect();
    folder.write("vocab.txt", lines.join("\n"));
    folder
}

#[test]
fn texts_stand_between_cls_and_sep() -> Result<()> {
    let (masked, classes) = (with_words("bert-masked").open()?, with_words("bert-classes").open()?);
    let tokens = masked.to_tokens("The FILM was badly!")?;
    assert_eq!(tokens.labels(), ["[CLS]", "the", "film", "was", "bad", "##ly", "!", "[SEP]"]);
    assert_eq!(masked.to_tokens(no_bos("the film"))?.labels(), ["the", "film"]);
    let pair = Input::pair("the film", "not bad");
    let tokens = masked.to_tokens(&pair)?;
    assert_eq!(tokens.labels(), ["[CLS]", "the", "film", "[SEP]", "not", "bad", "[SEP]"]);
    assert_eq!(tokens.token_types(), Some(&[0, 0, 0, 0, 1, 1, 1][..]));
    // Tokens that were made once say the same again, types and all.
    let [a, b] = [masked.run_with_cache(&pair)?, masked.run_with_cache(tokens)?];
    assert_eq!(a.logits()?.max_abs_diff(&b.logits()?)?, 0.0);
    let untyped = masked.run_with_cache(masked.to_tokens(&pair)?.ids())?;
    assert!(a.logits()?.max_abs_diff(&untyped.logits()?)? > 0.01);
    // One by one and together, pairs and texts of all lengths.
    let texts = ["not bad at all", "good", "the film was bad , not good !", "a film"];
    let together = classes.classify(texts)?;
    for (index, text) in texts.iter().enumerate() {
        let alone = classes.classify(*text)?.values().select("text", 0)?;
        assert!(together.values().select("text", index)?.max_abs_diff(&alone)? < 1e-6, "{text}");
    }
    let pairs = Input::pair(["the film", "a"], ["good , good , good", "bad"]);
    let together = classes.classify(&pairs)?;
    let alone = classes.classify(Input::pair("a", "bad"))?.values().select("text", 0)?;
    assert!(together.values().select("text", 1)?.max_abs_diff(&alone)? < 1e-6);
    assert_eq!(together.best()?.len(), 2);
    assert_eq!(together.of("good")?.len(), 2);
    // What stands in place of a mask is what the logits there say.
    let text = "the film was [MASK] !";
    let filled = masked.fill_mask(text)?;
    let position = masked.mask_position(text)?;
    assert_eq!(position, 4);
    let logits = masked.logits(text)?.select("position", position)?.to_vec()?;
    let all: f32 = logits.iter().map(|logit| logit.exp()).sum();
    let good = masked.to_single_token("good")?;
    assert!((filled.probability("good")? - logits[good as usize].exp() / all).abs() < 1e-5);
    assert_eq!(filled.top(1)[0].0, filled.top(48).first().expect("a token").0);
    assert_eq!(filled.rank(filled.top(3)[2].0)?, 2);
    let metric = Metric::LogProb { token: good, position: Some(position) };
    // Special tokens stay as they are, whatever is asked.
    for method in [AttributionMethod::INTEGRATED_GRADIENTS, AttributionMethod::OCCLUSION] {
        let scores = token_attribution(&masked, text, &metric, method)?.scores().to_vec()?;
        assert_eq!([scores[0], scores[4], scores[6]], [0.0; 3], "{method}: {scores:?}");
        assert!(scores[1].abs() > 1e-4, "{method}: {scores:?}");
    }
    let measured = metric.measure(&masked, text)?.exp();
    assert!((measured - f64::from(filled.probability("good")?)).abs() < 1e-5);
    let loss = masked.masked_loss(text, "good")?;
    assert!(((-loss).exp() - filled.probability("good")?).abs() < 1e-5, "{loss}");
    // Where no position is named it is that of the mask, and no other.
    let unnamed = Metric::log_prob(&masked, "good")?;
    assert_eq!(unnamed.measure(&masked, text)?, metric.measure(&masked, text)?);
    let patched =
        |metric| activation_patching(&masked, text, "a film was [MASK] .", Site::Z, metric)?.to_vec();
    assert_eq!(patched(&unnamed)?, patched(&metric)?);
    Ok(())
}

/// Of a text that is short enough to say by hand which keys are which.
#[test]
fn heads_look_at_targets() -> Result<()> {
    let model = with_words("bert-masked").open()?;
    let text = "the film , the";
    let run = model.run_with_cache(text)?;
    assert_eq!(run.tokens()[0].labels(), ["[CLS]", "the", "film", ",", "the", "[SEP]"]);
    let keys_of: [(AttentionTarget, &[(usize, usize)]); 7] = [
        (AttentionTarget::Previous, &[(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]),
        (AttentionTarget::Next, &[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        (AttentionTarget::Own, &[(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]),
        (AttentionTarget::SameToken, &[(1, 4), (4, 1)]),
        (AttentionTarget::First, &[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]),
        (AttentionTarget::Separator, &[(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]),
        (AttentionTarget::Delimiter, &[(0, 3), (1, 3), (2, 3), (3, 3), (4, 3), (5, 3)]),
    ];
    let found = attention_targets(&model, text)?;
    for (target, cells) in keys_of {
        for (layer, of_layer) in [(0, run.pattern(0)?), (1, run.pattern(1)?)] {
            for of_head in 0..3 {
                let share = |(query, key): &(usize, usize)| of_layer.value(&[of_head, *query, *key]);
                let sum: f32 = cells.iter().map(share).sum::<Result<f32>>()?;
                let expected = sum / cells.len() as f32;
                let share = found.of(target)?.at(head(layer, of_head))?;
                assert!((share - expected).abs() < 1e-6, "{target}, L{layer}H{of_head}: {share} {expected}");
            }
        }
    }
    // Of several texts all queries count alike; pairs are texts too.
    let both = attention_targets(&model, [text, text])?;
    assert!(both.values().max_abs_diff(found.values())? < 1e-6);
    let pair = attention_targets(&model, Input::pair("the film", "bad"))?;
    assert!(pair.ranked(AttentionTarget::Separator)?[0].1 > 0.0);
    Ok(())
}

#[test]
fn what_encoders_refuse() -> Result<()> {
    let (masked, classes) = (with_words("bert-masked").open()?, with_words("bert-classes").open()?);
    let (input, model) = (ErrorKind::Input, ErrorKind::Model);
    let long = "good ".repeat(40);
    let of = |outcome: Result<headlight::Classes>| outcome.map(drop);
    refused(vec![
        ("a long text", of(classes.classify(long)), input, &["42 tokens", "at most 32"]),
        ("no text", of(classes.classify("")), input, &["the text is empty"]),
        (
            "an empty second text",
            of(classes.classify(Input::pair("a", ""))),
            input,
            &["second text is empty"],
        ),
        (
            "more of the one",
            of(classes.classify(Input::pair(["a", "a"], ["a"]))),
            input,
            &["2", "1", "as many"],
        ),
        ("a BOS", of(classes.classify(with_bos("a"))), input, &["frames it", "no_bos"]),
        (
            "ids in a pair",
            of(classes.classify(Input::pair(vec![1u32], vec![2u32]))),
            input,
            &["one sequence"],
        ),
        ("no classes", of(masked.classify("a")), ErrorKind::Address, &["classifier.hook_out"]),
        ("no mask", masked.fill_mask("the film").map(drop), input, &["no [MASK]", "write [MASK]"]),
        (
            "two masks",
            masked.fill_mask("[MASK] [MASK]").map(drop),
            input,
            &["2 [MASK]", "one word at a time"],
        ),
        (
            "a metric without a mask",
            Metric::log_prob(&masked, "good")?.measure(&masked, "the film").map(drop),
            input,
            &["not one mask", "write one [MASK]"],
        ),
        ("a loss without a mask", masked.masked_loss("the film", "good").map(drop), input, &["no [MASK]"]),
        ("no masked tokens", classes.fill_mask("[MASK]").map(drop), model, &["masked", "bert-base-uncased"]),
        ("no such class", Metric::class(&classes, "fine").map(drop), input, &["\"fine\"", "\"so-so\""]),
        ("no such class", classes.classify("a")?.of("fine").map(drop), input, &["\"fine\"", "\"so-so\""]),
        ("no token", masked.fill_mask("a [MASK]")?.rank("zebra").map(drop), input, &["\"zebra\""]),
        ("no next token", masked.loss("the film").map(drop), model, &["each position sees"]),
        (
            "no steps",
            token_attribution(
                &classes,
                "a film",
                &Metric::class(&classes, "good")?,
                AttributionMethod::IntegratedGradients { steps: 0, baseline: None },
            )
            .map(drop),
            input,
            &["0 steps", "50"],
        ),
        ("no folding", masked.folded().map(drop), model, &["after the sums"]),
        ("no lens", logit_lens(&masked, &masked.run_with_cache("a")?).map(drop), model, &["logit lens"]),
        (
            "types of others",
            Input::from(vec![1u32, 2]).with_token_types(vec![0]).map(drop),
            input,
            &["2 token ids", "1 token types"],
        ),
        (
            "a third text",
            masked.run_with_cache(Input::from(vec![1u32, 2]).with_token_types(vec![0, 2])?).map(drop),
            input,
            &["3 texts", "2"],
        ),
    ]);
    Ok(())
}

/// Gradients as autograd's, integrated gradients as captum's, and occlusion by what it is.
#[test]
fn tokens_count_as_captum_counts_them() -> Result<()> {
    let mut held = 0;
    for name in MODELS {
        let (golden, model) = (Golden::open(name), Model::open(&folder(name))?);
        let Some(expected) = golden.0.get("ig").map(values) else { continue };
        let ids = Input::from(golden.ids("ids")).with_token_types(golden.ids("types"))?;
        let metric = Metric::Class { class: 0, instead: None };
        let of = |method| token_attribution(&model, &ids, &metric, method);
        let filling = if name.starts_with("roberta") { 1 } else { 0 };
        let filling = if name.ends_with("2-classes") || name.starts_with("llama") { 47 } else { filling };
        let integrated = of(AttributionMethod::IntegratedGradients { steps: 50, baseline: Some(filling) })?;
        let apart = max_abs_diff(&values(integrated.scores().tensor()), &expected);
        assert!(apart < APART, "{name}: {apart}");
        let gap = integrated.completeness_gap()?.expect("a gap");
        assert!(gap.abs() < 0.02, "{name}: {gap}");
        let embed = model.run_with_cache(&ids)?.get(Site::Embed)?;
        let expected = (embed.tensor() * &golden.0["grad"])?.sum(1)?;
        let gradient = of(AttributionMethod::GradientTimesInput)?;
        let apart = max_abs_diff(&values(gradient.scores().tensor()), &values(&expected));
        assert!(apart < 2.0 * APART, "{name}: {apart}");
        let occlusion = of(AttributionMethod::Occlusion { by: Some(filling) })?;
        let whole = metric.measure(&model, &ids)?;
        assert!((occlusion.value() - whole).abs() < 1e-6);
        let position = 3;
        let mut without = golden.ids("ids");
        without[position] = filling;
        // RoBERTa counts positions by ids, and here they stay: as in captum.
        let without = Input::from(without).with_token_types(golden.ids("types"))?;
        let lost = whole - metric.measure(&model, without)?;
        let found = f64::from(occlusion.scores().value(&[position])?);
        assert!((found - lost).abs() < 1e-5, "{name}: {found} {lost}");
        assert!((integrated.rank_correlation(&integrated)? - 1.0).abs() < 1e-9);
        assert!(integrated.rank_correlation(&occlusion)?.abs() <= 1.0);
        held += 1;
    }
    assert_eq!(held, 6);
    Ok(())
}
