//! Bad input, and what is said of it: the thing, the values, the remedy. Nothing panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::common::folder::{Folder, Weight, with_header};
use ErrorKind::{Address, Axes, Config, File, Input as BadInput, Tap as BadTap, Tokenizer, Weights};
use candle_core::{DType, Device, Tensor};
use headlight::analysis::{DetectHeadOptions, HeadKind, RepeatedTokens, detect_head, head_scores};
use headlight::prelude::*;
use headlight::{Error, ErrorKind, Result, Tap};
use safetensors::Dtype;
use serde_json::{Value, json};

const GOLDEN: &str = "tiny-gpt2-random";

/// Fails unless a call fails with an error of that kind, whose text has a remedy and every fragment.
fn check<T>(what: &str, call: impl FnOnce() -> Result<T>, kind: ErrorKind, fragments: &[&str]) {
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| panic!("{what}: a panic"));
    let error: Error = outcome.err().unwrap_or_else(|| panic!("{what}: no error"));
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{what}: {text}");
    for fragment in ["help: "].iter().chain(fragments) {
        assert!(text.contains(fragment), "{what}: no `{fragment}` in: {text}");
    }
}

/// What a golden folder is made into, and what is then said when it is opened.
type Row = (&'static str, fn(&Folder), ErrorKind, &'static [&'static str]);

fn check_folders(rows: &[Row]) {
    for (what, change, kind, fragments) in rows {
        let folder = Folder::copy_of(GOLDEN);
        change(&folder);
        check(what, || folder.open(), *kind, fragments);
    }
}

#[test]
fn files() {
    let nowhere = || Model::open("/no/such/folder");
    check("a missing folder", nowhere, File, &["`/no/such/folder`", "built-in", "config.json"]);
    check("nearly built-in", || Model::open("builtin"), File, &["`builtin`", "did you mean `built-in`?"]);
    let file = Folder::copy_of(GOLDEN);
    let path = file.path("config.json").display().to_string();
    check("a file for a folder", || Model::open(&path), File, &[&path, "is not a folder", "config.json"]);
    check_folders(&[
        ("no config", |f| f.remove("config.json"), File, &["config.json", "No such file"]),
        (
            "no weights",
            |f| f.remove("model.safetensors"),
            File,
            &["model.safetensors", "No such file", "index"],
        ),
        (
            "a folder for the weights",
            |f| {
                f.remove("model.safetensors");
                std::fs::create_dir(f.path("model.safetensors")).expect("created");
            },
            File,
            &["model.safetensors is not a file"],
        ),
        (
            "a folder for the config",
            |f| {
                f.remove("config.json");
                std::fs::create_dir(f.path("config.json")).expect("created");
            },
            File,
            &["config.json is not a file"],
        ),
        (
            "a missing shard",
            |f| {
                f.remove("model.safetensors");
                index(f, json!({"weight_map": {"a": "model-1-of-2.safetensors"}}));
            },
            File,
            &["model-1-of-2.safetensors", "No such file", "index"],
        ),
        (
            "an index that leads outside",
            |f| {
                f.remove("model.safetensors");
                index(f, json!({"weight_map": {"a": "../x"}}));
            },
            File,
            &["index.json", "`../x`", "beside it"],
        ),
        (
            "an index of nothing",
            |f| {
                f.remove("model.safetensors");
                index(f, json!({}));
            },
            Config,
            &["index.json", "weight_map"],
        ),
        (
            "a config that is no text",
            |f| f.write("config.json", [0xFF, 0xFE]),
            File,
            &["config.json", "UTF-8"],
        ),
    ]);
}

fn index(folder: &Folder, index: Value) {
    folder.write("model.safetensors.index.json", index.to_string());
}

#[test]
fn configs() {
    check_folders(&[
        (
            "not JSON",
            |f| f.write("config.json", "{n_embd: 64"),
            Config,
            &["config.json", "key must be a string"],
        ),
        ("empty", |f| f.write("config.json", ""), Config, &["config.json", "EOF"]),
        ("a list", |f| f.write("config.json", "[]"), Config, &["config.json", "came with the model"]),
        (
            "no architecture",
            |f| {
                f.unset("model_type");
                f.unset("architectures");
            },
            Config,
            &["neither model_type nor architectures", "\"model_type\": \"gpt2\""],
        ),
        (
            "no n_embd",
            |f| f.unset("n_embd"),
            Weights,
            &["[160, 64]", "[160, 768]", "config.json says nothing of them", "n_embd is 768"],
        ),
        (
            "a wrong type on one line",
            |f| f.write("config.json", r#"{"model_type":"gpt2","n_layer":1,"n_head":true,"n_embd":8}"#),
            Config,
            &["at `\"n_head\": true`", "boolean `true`", "take it out: it is then 12"],
        ),
        ("no context", |f| f.unset("n_positions"), Weights, &["wpe.weight", "n_positions is 1024"]),
        (
            "untied without a head",
            |f| f.set("tie_word_embeddings", json!(false)),
            Weights,
            &["`lm_head.weight`"],
        ),
    ]);
    // Key, its value as JSON, what is said.
    let config: &[(&str, &str, ErrorKind, &[&str])] = &[
        ("model_type", "\"bert\"", Config, &["`bert`", "known architectures: gpt2, gpt_neo,", "attn-only"]),
        ("model_type", "7", Config, &["\"model_type\": 7", "string"]),
        ("n_head", "0", Config, &["n_head = 0", "at least 1"]),
        ("n_layer", "0", Config, &["n_layer = 0", "at least 1"]),
        ("n_head", "5", Config, &["n_embd = 64", "n_head = 5", "divisible"]),
        ("n_head", "128", Config, &["n_embd = 64", "n_head = 128", "divisible"]),
        ("n_embd", "-1", Config, &["\"n_embd\": -1", "`-1`"]),
        ("n_embd", "2.5", Config, &["\"n_embd\": 2.5", "`2.5`"]),
        ("n_layer", "1e18", Config, &["\"n_layer\": 1e+18"]),
        ("n_layer", "\"two\"", Config, &["\"n_layer\": \"two\""]),
        ("n_positions", "1000000000000000000", Config, &["n_positions = 1000000000000000000", "2^32"]),
        ("vocab_size", "18446744073709551615", Config, &["vocab_size = 18446744073709551615"]),
        ("layer_norm_epsilon", "0", Config, &["layer_norm_epsilon = 0", "1e-5"]),
        ("layer_norm_epsilon", "-1", Config, &["layer_norm_epsilon = -1", "1e-5"]),
        ("layer_norm_epsilon", "1e-300", Config, &["layer_norm_epsilon = 0.000", "1e-5"]),
        ("layer_norm_epsilon", "null", Config, &["\"layer_norm_epsilon\": null"]),
        ("activation_function", "\"geluu\"", Config, &["`geluu`", "`gelu_new`", "`relu`"]),
        ("add_cross_attention", "true", Config, &["add_cross_attention = true", "false"]),
        ("bos_token_id", "[0]", Config, &["bos_token_id", "expected i64"]),
        (
            "eos_token_id",
            "\"<end>\"",
            Config,
            &["\"eos_token_id\": \"<end>\"", "a token id or a list of them"],
        ),
        ("n_embd", "128", Weights, &["wte.weight", "[160, 64]", "[160, 128]", "same model"]),
        ("vocab_size", "161", Weights, &["wte.weight", "[160, 64]", "[161, 64]"]),
        ("n_positions", "1024", Weights, &["wpe.weight", "[128, 64]", "[1024, 64]"]),
        ("n_inner", "100", Weights, &["mlp.c_fc.weight", "[64, 256]", "[64, 100]"]),
        ("n_layer", "3", Weights, &["no weight `transformer.h.2.", "another model"]),
        ("n_layer", "4000000000", Weights, &["no weight `transformer.h.2.", "another model"]),
    ];
    for (key, value, kind, fragments) in config {
        let folder = Folder::copy_of(GOLDEN);
        folder.set(key, serde_json::from_str(value).expect("the row is JSON"));
        check(&format!("{key} = {value}"), || folder.open(), *kind, fragments);
    }
}

/// One tensor `a` in a file that holds eight bytes of data.
fn header(dtype: &str, shape: Value, offsets: Value) -> Vec<u8> {
    let entry = json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}});
    with_header(&entry.to_string(), &[0; 8])
}

const WEIGHT: &str = "transformer.h.1.attn.c_attn.weight";

fn change_weight(folder: &Folder, change: impl FnOnce(&mut Weight)) {
    folder.change_weights(|all| change(all.get_mut(WEIGHT).expect("the weight is there")));
}

#[test]
fn weights() {
    let bad: &[(&str, Vec<u8>)] = &[
        ("empty", vec![]),
        ("seven bytes", vec![0; 7]),
        ("no header", 0u64.to_le_bytes().to_vec()),
        ("a huge header", u64::MAX.to_le_bytes().repeat(2)),
        ("a header longer than the file", [&1000u64.to_le_bytes()[..], b"{}"].concat()),
        ("a header that is no JSON", with_header("{\"a\": ", &[])),
        ("a header of other JSON", with_header("[1, 2]", &[])),
        ("an unknown type", header("F33", json!([2]), json!([0, 8]))),
        ("beyond the end", header("F32", json!([4]), json!([0, 16]))),
        ("short of the end", header("F32", json!([1]), json!([0, 4]))),
        ("not of the shape", header("F32", json!([3]), json!([0, 8]))),
        ("backwards", header("F32", json!([2]), json!([8, 0]))),
        ("a shape that overflows", header("F32", json!([u64::MAX, 2]), json!([0, 8]))),
        ("a negative shape", header("F32", json!([-2]), json!([0, 8]))),
        (
            "overlapping",
            with_header(
                &json!({
                    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                    "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
                })
                .to_string(),
                &[0; 8],
            ),
        ),
    ];
    let sound = Folder::copy_of(GOLDEN).read("model.safetensors");
    let lengths = [1, 8, 100, sound.len() / 2, sound.len() - 1];
    let cut = lengths.map(|length| ("cut short", sound[..length].to_vec()));
    let longer = ("a byte too many", [&sound[..], &[0]].concat());
    for (what, bytes) in bad.iter().chain(&cut).chain([&longer]) {
        let folder = Folder::copy_of(GOLDEN);
        folder.write("model.safetensors", bytes);
        let what = format!("{what}, {} bytes", bytes.len());
        check(&what, || folder.open(), Weights, &["model.safetensors", "cut short", "cause:"]);
    }
    check_folders(&[
        (
            "integers",
            |f| change_weight(f, |w| retyped(w, Dtype::I64, 8)),
            Weights,
            &[WEIGHT, "I64", "F32", "BF16"],
        ),
        (
            "a shape",
            |f| change_weight(f, |w| w.shape.reverse()),
            Weights,
            &[WEIGHT, "[192, 64]", "[64, 192]"],
        ),
        (
            "flat",
            |f| change_weight(f, |w| w.shape = vec![64 * 192]),
            Weights,
            &[WEIGHT, "[12288]", "[64, 192]"],
        ),
        ("not a number", |f| change_weight(f, |w| set(w, 7, f32::NAN)), Weights, &[WEIGHT, "NaN at entry 7"]),
        (
            "infinite",
            |f| change_weight(f, |w| set(w, 9, f32::NEG_INFINITY)),
            Weights,
            &[WEIGHT, "-inf at entry 9"],
        ),
        (
            "a missing key",
            |f| f.change_weights(|all| drop(all.remove(WEIGHT))),
            Weights,
            &["no weight `transformer.h.1.attn.c_attn.weight`", "it has `transformer.h.", "another model"],
        ),
        (
            "no key",
            |f| f.change_weights(|all| all.clear()),
            Weights,
            &["no weight `wte.weight`", "another model"],
        ),
    ]);
}

fn retyped(weight: &mut Weight, dtype: Dtype, size: usize) {
    weight.dtype = dtype;
    weight.bytes = vec![0; weight.shape.iter().product::<usize>() * size];
}

fn set(weight: &mut Weight, entry: usize, value: f32) {
    weight.bytes[4 * entry..4 * entry + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn tokenizers() {
    check_folders(&[
        ("not JSON", |f| f.write("tokenizer.json", "{"), Tokenizer, &["tokenizer.json", "Hugging Face"]),
        ("empty", |f| f.write("tokenizer.json", ""), Tokenizer, &["tokenizer.json", "Hugging Face"]),
        ("no text", |f| f.write("tokenizer.json", [0xFF]), File, &["tokenizer.json", "UTF-8"]),
        ("a broken vocabulary", |f| two_files(f, "{\"a\": ", ""), Tokenizer, &["vocab.json", "merges.txt"]),
        ("an empty vocabulary file", |f| two_files(f, "", ""), Tokenizer, &["vocab.json", "merges.txt"]),
        ("broken merges", |f| two_files(f, "{\"a\": 0}", "a\n"), Tokenizer, &["merges.txt", "one a line"]),
        (
            "merges of nothing",
            |f| two_files(f, "{\"a\": 0}", "x y\n"),
            Tokenizer,
            &["merges.txt", "vocab.json"],
        ),
    ]);
}

fn two_files(folder: &Folder, vocab: &str, merges: &str) {
    folder.write("vocab.json", vocab);
    folder.write("merges.txt", merges);
}

/// A model of 2 layers of 4 heads with a context of 128 that reads text.
fn talking() -> Result<Model> {
    Folder::copy_of(GOLDEN).with_tokenizer().open()
}

/// Gives back something other than what it was given.
struct Bad(fn(Tensor) -> candle_core::Result<Tensor>);

impl Tap for Bad {
    fn wants(&self, hook: Hook) -> bool {
        hook.site() == Site::Pattern
    }

    fn tap(&mut self, _: Hook, activation: Tensor) -> Result<Tensor> {
        Ok((self.0)(activation)?)
    }
}

type Call<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>, ErrorKind, &'a [&'a str]);

/// A row: what it is, the call, the kind, the fragments.
macro_rules! row {
    ($what:expr, $call:expr, $kind:expr, $fragments:expr) => {
        ($what, Box::new(|| $call.map(drop)), $kind, &$fragments)
    };
}

#[test]
fn inputs() -> Result<()> {
    let silent = Folder::copy_of(GOLDEN).open()?;
    let model = talking()?;
    let long = "the cat ".repeat(400);
    let n_ctx = model.dims().n_ctx.to_string();
    let too_many = format!("set max_new_tokens to {} at most", model.dims().n_ctx - 3);
    let two = model.run_with_cache(["the cat", "the cat sat"])?;
    let tokens = model.to_tokens("the cat sat")?;
    let one = model.run_with_cache(vec![5])?;
    let sampling = Sampling::default();
    let generate = |sampling: Sampling| model.generate("the cat", &sampling);
    let short = Folder::copy_of(GOLDEN);
    short.set("n_positions", json!(4));
    short.change_weights(|all| {
        let positions = all.get_mut("transformer.wpe.weight").expect("it is there");
        *positions = Weight::f32(&[4, 64], &positions.values()[..256]);
    });
    let short = short.open()?;
    let heads =
        |length, batch| head_scores(&model, &HeadKind::ALL, &RepeatedTokens { length, batch, seed: 0 });
    let rows: &[Call] = &[
        row!(
            "text without a tokenizer",
            silent.loss("the cat"),
            Tokenizer,
            ["vec![1, 2, 3]", "tokenizer.json"]
        ),
        row!("empty text", model.loss(""), BadInput, ["the text is empty", "BOS"]),
        row!("an empty text of two", model.loss(["the cat", ""]), BadInput, ["the text is empty"]),
        row!("no texts", model.loss(Vec::<String>::new()), BadInput, ["no text", "at least one"]),
        row!("no ids", model.loss(Vec::<u32>::new()), BadInput, ["no tokens", "at least one"]),
        row!("a batch of no ids", model.loss(vec![vec![1], vec![]]), BadInput, ["no tokens"]),
        row!(
            "a long text",
            model.loss(long.as_str()),
            BadInput,
            ["802 tokens", n_ctx.as_str(), "BOS included"]
        ),
        row!("many ids", silent.loss(vec![1; 129]), BadInput, ["129 tokens", "at most 128", "cut it to 128"]),
        row!(
            "a high id",
            silent.loss(vec![1, 160]),
            BadInput,
            ["id 160 at position 1", "160 tokens", "0 to 159"]
        ),
        row!("ids that are none", Input::parse_ids("1,x"), BadInput, ["`x` is not a token id", "1,2,3"]),
        row!("two texts as one", model.to_tokens(["a", "b"]), BadInput, ["one text at a time"]),
        row!(
            "several tokens",
            model.to_single_token("the cat sat"),
            BadInput,
            ["3 tokens, not one", "leading space"]
        ),
        row!("an absent token", tokens.position("cat"), BadInput, ["`cat`", "did you mean ` cat`?"]),
        row!("a strange token", tokens.position("philosophy"), BadInput, ["`philosophy`", "`labels()`"]),
        row!("the loss of one token", model.loss(vec![5]), BadInput, ["one token alone", "at least two"]),
        row!("losses of several", two.loss_per_token(), BadInput, ["2 inputs", "`run.item(0)?`"]),
        row!("a far item", two.item(2), BadInput, ["no input 2", "has 2", "0 to 1"]),
        row!("ragged", two.pattern(0), BadInput, ["[3, 4] tokens", "hook_pattern", "`run.item(0)?`"]),
        row!(
            "beyond the context",
            generate(Sampling { max_new_tokens: 300, ..sampling }),
            BadInput,
            ["3 tokens", "300 are to be added", n_ctx.as_str(), too_many.as_str()]
        ),
        row!(
            "endless",
            generate(Sampling { max_new_tokens: usize::MAX, ..sampling }),
            BadInput,
            [too_many.as_str()]
        ),
        row!(
            "no temperature",
            generate(Sampling { temperature: f32::NAN, ..sampling }),
            BadInput,
            ["temperature is NaN", "0 takes the likeliest"]
        ),
        row!("cold", generate(Sampling { temperature: -1.0, ..sampling }), BadInput, ["temperature is -1"]),
        row!(
            "no choice",
            generate(Sampling { top_k: Some(0), ..sampling }),
            BadInput,
            ["top_k is 0", "1 or more"]
        ),
        row!("no answer", model.test_prompt("the cat", ""), BadInput, ["the answer is empty"]),
        row!("a long answer", model.test_prompt("the cat", &long), BadInput, ["tokens", n_ctx.as_str()]),
        row!("too long to repeat", heads(500, 1), BadInput, ["500 tokens", "3 to 63"]),
        row!("a short context", induction_scores(&short), BadInput, ["4 tokens at most", "a context of 6"]),
        row!("too short to repeat", heads(1, 1), BadInput, ["1 tokens", "3 to 63"]),
        row!("no sequences", heads(10, 0), BadInput, ["0 sequences", "batch 1 to"]),
        row!(
            "endless sequences",
            heads(10, usize::MAX),
            BadInput,
            ["18446744073709551615 sequences", "batch 1 to"]
        ),
        row!(
            "what does not repeat",
            model.run_with_cache("the cat sat")?.induction_scores(),
            BadInput,
            ["does not say the same tokens twice", "induction", "`induction_scores(&model)`"]
        ),
        row!("scores of several", two.previous_token_scores(), BadInput, ["2 inputs", "`run.item(0)?`"]),
        row!("the token before one", one.previous_token_scores(), BadInput, ["one token", "at least two"]),
        row!("saving what is ragged", two.save("/nowhere/x"), BadInput, ["[3, 4] tokens"]),
    ];
    rows.iter().for_each(|(what, call, kind, fragments)| check(what, call, *kind, fragments));
    Ok(())
}

#[test]
fn addresses() -> Result<()> {
    let model = talking()?;
    let run = model.run_with_cache("the cat sat")?;
    let filtered = model.run_with_options("the cat", &RunOptions::only([Site::Z]))?;
    let options = |options: RunOptions| model.run_with_options("the cat", &options);
    let scores = model.run_with_cache(" the cat sat the cat sat")?.induction_scores()?;
    let rows: &[Call] = &[
        row!(
            "misspelt",
            run.get("blocks.0.attn.hook_patern"),
            Address,
            ["`blocks.0.attn.hook_patern`", "did you mean `blocks.0.attn.hook_pattern`?"]
        ),
        row!("misspelt in short", run.get(("patern", 0)), Address, ["`patern`", "did you mean `pattern`?"]),
        row!(
            "like nothing",
            run.get("philosophy of mind"),
            Address,
            ["`philosophy of mind`", "blocks.0.attn"]
        ),
        row!("empty", run.get(""), Address, ["``"]),
        row!(
            "a high layer",
            run.get(("pattern", 7)),
            Address,
            ["`blocks.7.attn.hook_pattern`", "2 layers", "0 to 1"]
        ),
        row!("a huge layer", run.pattern(usize::MAX), Address, ["18446744073709551615", "0 to 1"]),
        row!("no layer", run.get("pattern"), Address, ["every layer", "`blocks.0.attn.hook_pattern`"]),
        row!("a layer too many", run.get(("embed", 0)), Address, ["once in a model", "`hook_embed` without"]),
        row!(
            "the same by name",
            run.get("blocks.0.hook_embed"),
            Address,
            ["not in layer 0", "`hook_embed` without"]
        ),
        row!(
            "opt-in",
            run.get(("result", 0)),
            Address,
            ["`blocks.0.attn.hook_result`", "`run_with_options(input"]
        ),
        row!(
            "filtered",
            filtered.pattern(0),
            Address,
            ["did not keep `blocks.0.attn.hook_pattern`", "`RunOptions::"]
        ),
        row!("logits filtered", filtered.logits(), Address, ["did not keep `unembed.hook_out`"]),
        row!(
            "stop after",
            options(RunOptions::new().stop_after(2)),
            Address,
            ["layer 2", "2 layers", "0 to 1"]
        ),
        row!("no match", options(RunOptions::matching("*patern")), Address, ["`*patern`", "`*` stands for"]),
        row!(
            "nothing",
            options(RunOptions::only([])),
            Address,
            ["no hook", "`RunOptions::only([Site::Pattern])`"]
        ),
        row!(
            "too late",
            options(RunOptions::only([Site::UnembedOut]).stop_after(0)),
            Address,
            ["no hook", "stops after layer 0"]
        ),
        row!(
            "a head too many",
            scores.at(head(0, 4)),
            Address,
            ["L0H4", "2 layers of 4 heads", "L0H0 to L1H3"]
        ),
        row!("a layer of heads too many", scores.at(head(9, 0)), Address, ["L9H0", "L0H0 to L1H3"]),
        row!("no head", "L5".parse::<Head>(), Address, ["`L5`", "L5H1 (or 5.1)"]),
        row!("a negative head", "L-1H0".parse::<Head>(), Address, ["`L-1H0`", "from 0"]),
        row!("a huge head", "L99999999999999999999H0".parse::<Head>(), Address, ["L99999999999999999999H0"]),
        row!(
            "a misspelt weight",
            model.weight("blocks.0.attn.W_Qq"),
            Address,
            ["did you mean `blocks.0.attn.W_Q`?"]
        ),
        row!("an unlike weight", model.weight("philosophy"), Address, ["`philosophy`", "W_E, W_pos"]),
        row!("a weight of a far layer", model.weight("blocks.7.attn.W_Q"), Address, ["`blocks.7.attn.W_Q`"]),
        row!("several weights", model.weight("w"), Address, ["5 weights", "`blocks.0.ln1.w`", "in full"]),
        row!(
            "another shape",
            model.run_with_tap("the cat", &mut Bad(|t| t.narrow(3, 0, 1))),
            BadTap,
            ["blocks.0.attn.hook_pattern", "[1, 4, 3, 3]", "[1, 4, 3, 1]", "same shape"]
        ),
        row!(
            "another type",
            model.run_with_tap("the cat", &mut Bad(|t| t.to_dtype(DType::F64))),
            BadTap,
            ["blocks.0.attn.hook_pattern", "F32", "F64", "type"]
        ),
    ];
    rows.iter().for_each(|(what, call, kind, fragments)| check(what, call, *kind, fragments));
    Ok(())
}

#[test]
fn named() -> Result<()> {
    let axes = || vec![Axis::unlabelled("head", 2), Axis::unlabelled("query", 3)];
    let tensor = Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?;
    let scores = NamedTensor::from_vec("scores", vec![0.0; 6], axes())?;
    let other = NamedTensor::from_vec("others", vec![0.0; 2], vec![Axis::unlabelled("head", 2)])?;
    let endless = || vec![Axis::unlabelled("a", usize::MAX), Axis::unlabelled("b", 2)];
    let rows: &[Call] = &[
        row!(
            "wrong axes",
            NamedTensor::new("x", tensor.clone(), axes()),
            Axes,
            ["`x`", "[2, 4]", "[head 2, query 3]"]
        ),
        row!(
            "too few axes",
            NamedTensor::new("x", tensor.clone(), vec![]),
            Axes,
            ["[2, 4]", "[]", "for each dimension"]
        ),
        row!(
            "too few numbers",
            NamedTensor::from_vec("x", vec![0.0; 5], axes()),
            Axes,
            ["5 numbers", "[2, 3]", "product"]
        ),
        row!("endless axes", NamedTensor::from_vec("x", vec![], endless()), Axes, ["0 numbers", "product"]),
        row!(
            "a misspelt axis",
            scores.select("qery", 0),
            Axes,
            ["`scores`", "`qery`", "did you mean `query`?"]
        ),
        row!("an unlike axis", scores.mean("philosophy"), Axes, ["`philosophy`", "it has head, query"]),
        row!(
            "a far entry",
            scores.select("head", 2),
            Axes,
            ["2 entries on axis `head`", "2 is out", "0 to 1"]
        ),
        row!("a far range", scores.slice("query", 1..4), Axes, ["1..4", "`query`", "ends at 3 at most"]),
        row!("an empty range", scores.slice("query", 2..2), Axes, ["2..2", "at least one entry"]),
        row!("another shape", scores.sub(&other), Axes, ["`scores`", "[2, 3]", "`others`", "[2]", "slice"]),
        row!("an index too few", scores.value(&[1]), Axes, ["2 axes, not 1", "head, query"]),
        row!("a far value", scores.value(&[0, 3]), Axes, ["`query`", "3 is out", "0 to 2"]),
        row!(
            "no extension",
            scores.figure()?.save("scores"),
            ErrorKind::Figure,
            ["`scores`", "html, png, svg"]
        ),
        row!(
            "a strange one",
            scores.figure()?.save("scores.gif"),
            ErrorKind::Figure,
            ["`scores.gif`", "html, png"]
        ),
        row!(
            "no folder",
            scores.figure()?.save("/no/such/x.svg"),
            File,
            ["/no/such/x.svg", "its folder exists"]
        ),
        row!("no views", Figure::new(vec![]), ErrorKind::Figure, ["no views", "at least one"]),
    ];
    rows.iter().for_each(|(what, call, kind, fragments)| check(what, call, *kind, fragments));
    Ok(())
}

#[test]
fn detecting() -> Result<()> {
    let model = talking()?;
    let detect = |input: &str, kind, pattern: Option<Vec<Vec<f32>>>| {
        detect_head(
            &model,
            no_bos(input),
            kind,
            &DetectHeadOptions { pattern, ..DetectHeadOptions::default() },
        )
    };
    let own = |pattern: [[f32; 2]; 2]| {
        let pattern = pattern.iter().map(|row| row.to_vec()).collect();
        detect("the cat", HeadKind::Induction, Some(pattern))
    };
    let absent = DetectHeadOptions { heads: Some(vec![head(2, 0)]), ..DetectHeadOptions::default() };
    let rows: &[Call] = &[
        row!("one token", detect("the", HeadKind::Induction, None), BadInput, ["one token", "at least two"]),
        row!(
            "of no pattern",
            detect("the cat", HeadKind::FirstToken, None),
            BadInput,
            ["first token", "first_token_scores", "pattern of your own"]
        ),
        row!(
            "of another size",
            detect("the cat sat", HeadKind::Induction, Some(vec![vec![0.0; 2]; 2])),
            BadInput,
            ["2 x 2", "3 tokens", "a row for each query"]
        ),
        row!(
            "of nothing",
            detect("the cat", HeadKind::Induction, Some(vec![])),
            BadInput,
            ["0 x 0", "2 tokens"]
        ),
        row!("ahead", own([[1.0, 0.5], [0.0, 0.0]]), BadInput, ["0.5 above the diagonal", "query 0, key 1"]),
        row!("above 1", own([[2.0, 0.0], [0.0, 0.0]]), BadInput, ["holds 2 at query 0, key 0", "not 0 to 1"]),
        row!("below 0", own([[0.0, 0.0], [-1.0, 0.0]]), BadInput, ["holds -1 at query 1, key 0"]),
        row!("no number", own([[f32::NAN, 0.0], [0.0, 0.0]]), BadInput, ["holds NaN"]),
        row!(
            "an absent head",
            detect_head(&model, "the cat", HeadKind::Induction, &absent),
            Address,
            ["L2H0"]
        ),
    ];
    rows.iter().for_each(|(what, call, kind, fragments)| check(what, call, *kind, fragments));
    Ok(())
}

#[test]
fn runs_from_files() -> Result<()> {
    let folder = Folder::new();
    let path = folder.path("run.safetensors");
    let model = talking()?;
    let open = |name: &str| Run::open(folder.path(name));
    check(
        "a missing run",
        || open("none.safetensors"),
        File,
        &["none.safetensors", "No such file", "`headlight cache`"],
    );
    folder.write("text", "not safetensors");
    check("no run at all", || open("text"), File, &["text is not a sound safetensors file", "cause:"]);
    let weights = Folder::copy_of(GOLDEN);
    check(
        "a model's weights",
        || Run::open(weights.path("model.safetensors")),
        File,
        &["`tokens`", "metadata", "`run.save(...)`"],
    );

    let run = model.run_with_options("the cat sat", &RunOptions::only([Site::Pattern]))?;
    run.save(&path)?;
    let sound = folder.read("run.safetensors");
    let (_, header) = safetensors::SafeTensors::read_metadata(&sound).expect("sound");
    let metadata = header.metadata().clone().expect("a run has metadata");
    let lies: &[(&str, &str, &str)] = &[
        ("tokens", "[1, 2]", "contradicts itself"),
        ("tokens", "[]", "contradicts itself"),
        ("tokens", "{}", "does not say its tokens"),
        ("tokens", "[[1, 2, 3, 4], [1, 2, 3, 4]]", "contradicts itself"),
        ("tokens", "[-1, 2, 3, 4]", "does not say its tokens"),
        ("str_tokens", "[\"the\"]", "contradicts itself"),
        ("starts_with_bos", "[]", "contradicts itself"),
        ("n_layers", "0", "0 layers"),
        ("n_layers", "1000000000000000000", "1000000000000000000 layers"),
        ("n_layers", "many", "does not say"),
    ];
    for (key, value, said) in lies {
        let mut lying = metadata.clone();
        lying.insert(key.to_string(), value.to_string());
        let file = safetensors::SafeTensors::deserialize(&sound).expect("sound");
        folder.write("lying", safetensors::serialize(file.tensors(), Some(lying)).expect("written"));
        check(&format!("{key} = {value}"), || open("lying"), File, &["lying", said, "`run.save(...)`"]);
    }
    let shapes: &[(&[usize], usize, &str)] =
        &[(&[4, 4], 16, "[4, 4]"), (&[4, 4, 3], 48, "[4, 4, 3]"), (&[0, 4, 4], 0, "[0, 4, 4]")];
    for (shape, count, said) in shapes {
        let weight = Weight::f32(shape, &vec![0.0; *count]);
        let tensors = [("blocks.0.attn.hook_pattern", &weight)];
        folder.write("lying", safetensors::serialize(tensors, Some(metadata.clone())).expect("written"));
        check(
            &format!("{shape:?}"),
            || open("lying"),
            File,
            &["hook_pattern", said, "does not fit its tokens"],
        );
    }
    let few = Weight::f32(&[4, 2], &[0.0; 8]);
    let tensors = [("unembed.hook_out", &few)];
    folder.write("lying", safetensors::serialize(tensors, Some(metadata.clone())).expect("written"));
    check("too few logits", || open("lying"), File, &["unembed.hook_out", "[4, 2]", "ids up to"]);
    let mut bytes = Weight::f32(&[4, 4, 4], &[0.0; 64]);
    retyped(&mut bytes, Dtype::F16, 2);
    let tensors = [("blocks.0.attn.hook_pattern", &bytes)];
    folder.write("lying", safetensors::serialize(tensors, Some(metadata)).expect("written"));
    check("another type", || open("lying"), File, &["hook_pattern", "F16, not F32"]);
    Ok(())
}

/// A run of the last layer alone comes back whole.
#[test]
fn one_layer_comes_back() -> Result<()> {
    let folder = Folder::new();
    let path = folder.path("run.safetensors");
    let model = talking()?;
    let run = model.run_with_options("the cat sat", &RunOptions::matching("blocks.1.attn.hook_z"))?;
    run.save(&path)?;
    let back = Run::open(&path)?;
    assert_eq!(back.hooks(), [Site::Z.at(1)]);
    assert_eq!(back.z(1)?.to_vec()?, run.z(1)?.to_vec()?);
    Ok(())
}

/// Finite weights whose products are not: every result is NaN somewhere, and nothing panics.
#[test]
fn a_model_that_overflows() -> Result<()> {
    let folder = Folder::copy_of(GOLDEN).with_tokenizer();
    folder.change_weights(|all| {
        for weight in all.values_mut() {
            let large: Vec<f32> =
                weight.values().into_iter().map(|value| (value * 1e38).clamp(-3e38, 3e38)).collect();
            *weight = Weight::f32(&weight.shape, &large);
        }
    });
    let text = " the cat sat the cat sat";
    for model in [folder.open()?, folder.open()?.folded()?] {
        let run = model.run_with_options(text, &RunOptions::all())?;
        assert!(run.logits()?.to_vec()?.iter().any(|value| !value.is_finite()));
        assert!(run.loss()?.is_nan());
        for hook in run.hooks() {
            run.get(hook)?.figure()?.to_svg();
        }
        run.figure()?.to_html()?;
        run.loss_per_token()?.figure()?.to_png()?;
        for scores in head_scores(&model, &HeadKind::ALL, &RepeatedTokens::for_model(&model))? {
            assert_eq!(scores.ranked()?.len(), 8);
            scores.figure()?.to_json()?;
        }
        for exclude_bos in [false, true] {
            let options = DetectHeadOptions { exclude_bos, ..DetectHeadOptions::default() };
            detect_head(&model, text, HeadKind::Induction, &options)?.figure()?;
        }
        model.test_prompt(text, " sat")?.figure()?;
        for temperature in [0.0, 1e-40, 1.0, f32::MAX] {
            let top_k = (temperature > 0.0).then_some(usize::MAX);
            let sampling = Sampling { temperature, top_k, ..Sampling::default() };
            model.generate(text, &sampling)?.figure()?;
        }
    }
    Ok(())
}
