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

/// What is said of each case, as one text: the tables hold kinds and that there is a remedy, the snapshot holds the words.
#[derive(Default)]
struct Said(String);

impl Said {
    /// Fails unless a call fails with an error of that kind, with a remedy.
    fn check<T>(&mut self, what: &str, call: impl FnOnce() -> Result<T>, kind: ErrorKind) {
        let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| panic!("{what}: a panic"));
        let error: Error = outcome.err().unwrap_or_else(|| panic!("{what}: no error"));
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{what}: {text}");
        let help = text.split_once("\n  help: ").map(|(_, help)| help);
        assert!(help.is_some_and(|help| !help.is_empty()), "{what}: no remedy in: {text}");
        self.0 += &format!("{what}\n  {}\n", without_folders(&text));
    }

    fn check_folders(&mut self, rows: &[Row]) {
        for (what, change, kind) in rows {
            let folder = Folder::copy_of(GOLDEN);
            change(&folder);
            self.check(what, || folder.open(), *kind);
        }
    }

    fn check_calls(&mut self, rows: &[Call]) {
        rows.iter().for_each(|(what, call, kind)| self.check(what, call, *kind));
    }
}

/// The text with `FOLDER` for each folder of a test, whose name is another every time.
fn without_folders(text: &str) -> String {
    const RANDOM: usize = 6;
    let named = format!("{}/.tmp", std::env::temp_dir().display());
    let mut parts = text.split(&named);
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| text + "FOLDER" + &part[RANDOM..])
}

/// What a golden folder is made into, and the kind of error when it is opened.
type Row = (&'static str, fn(&Folder), ErrorKind);

type Group = fn(&mut Said) -> Result<()>;

#[test]
fn errors() -> Result<()> {
    let groups: [(&str, Group); 9] = [
        ("files", files),
        ("configs", configs),
        ("weights", weights),
        ("tokenizers", tokenizers),
        ("inputs", inputs),
        ("addresses", addresses),
        ("named tensors and figures", named),
        ("detecting", detecting),
        ("runs from files", runs_from_files),
    ];
    let mut said = Said::default();
    for (group, check) in groups {
        said.0 += &format!("\n== {group}\n");
        check(&mut said)?;
    }
    insta::assert_snapshot!(said.0);
    Ok(())
}

fn files(said: &mut Said) -> Result<()> {
    let nowhere = || Model::open("/no/such/folder");
    said.check("a missing folder", nowhere, File);
    said.check("nearly built-in", || Model::open("builtin"), File);
    let file = Folder::copy_of(GOLDEN);
    let path = file.path("config.json").display().to_string();
    said.check("a file for a folder", || Model::open(&path), File);
    said.check_folders(&[
        ("no config", |f| f.remove("config.json"), File),
        ("no weights", |f| f.remove("model.safetensors"), File),
        (
            "a folder for the weights",
            |f| {
                f.remove("model.safetensors");
                std::fs::create_dir(f.path("model.safetensors")).expect("created");
            },
            File,
        ),
        (
            "a folder for the config",
            |f| {
                f.remove("config.json");
                std::fs::create_dir(f.path("config.json")).expect("created");
            },
            File,
        ),
        (
            "a missing shard",
            |f| {
                f.remove("model.safetensors");
                index(f, json!({"weight_map": {"a": "model-1-of-2.safetensors"}}));
            },
            File,
        ),
        (
            "an index that leads outside",
            |f| {
                f.remove("model.safetensors");
                index(f, json!({"weight_map": {"a": "../x"}}));
            },
            File,
        ),
        (
            "an index of nothing",
            |f| {
                f.remove("model.safetensors");
                index(f, json!({}));
            },
            Config,
        ),
        ("a config that is no text", |f| f.write("config.json", [0xFF, 0xFE]), File),
    ]);
    Ok(())
}

fn index(folder: &Folder, index: Value) {
    folder.write("model.safetensors.index.json", index.to_string());
}

fn configs(said: &mut Said) -> Result<()> {
    said.check_folders(&[
        ("not JSON", |f| f.write("config.json", "{n_embd: 64"), Config),
        ("empty", |f| f.write("config.json", ""), Config),
        ("a list", |f| f.write("config.json", "[]"), Config),
        (
            "no architecture",
            |f| {
                f.unset("model_type");
                f.unset("architectures");
            },
            Config,
        ),
        ("no n_embd", |f| f.unset("n_embd"), Weights),
        (
            "a wrong type on one line",
            |f| f.write("config.json", r#"{"model_type":"gpt2","n_layer":1,"n_head":true,"n_embd":8}"#),
            Config,
        ),
        ("no context", |f| f.unset("n_positions"), Weights),
        ("untied without a head", |f| f.set("tie_word_embeddings", json!(false)), Weights),
    ]);
    // Key, its value as JSON, the kind.
    let config: &[(&str, &str, ErrorKind)] = &[
        ("model_type", "\"opt\"", Config),
        ("model_type", "7", Config),
        ("n_head", "0", Config),
        ("n_layer", "0", Config),
        ("n_head", "5", Config),
        ("n_head", "128", Config),
        ("n_embd", "-1", Config),
        ("n_embd", "2.5", Config),
        ("n_layer", "1e18", Config),
        ("n_layer", "\"two\"", Config),
        ("n_positions", "1000000000000000000", Config),
        ("vocab_size", "18446744073709551615", Config),
        ("layer_norm_epsilon", "0", Config),
        ("layer_norm_epsilon", "-1", Config),
        ("layer_norm_epsilon", "1e-300", Config),
        ("layer_norm_epsilon", "null", Config),
        ("activation_function", "\"geluu\"", Config),
        ("add_cross_attention", "true", Config),
        ("bos_token_id", "[0]", Config),
        ("eos_token_id", "\"<end>\"", Config),
        ("n_embd", "128", Weights),
        ("vocab_size", "161", Weights),
        ("n_positions", "1024", Weights),
        ("n_inner", "100", Weights),
        ("n_layer", "3", Weights),
        ("n_layer", "4000000000", Weights),
    ];
    for (key, value, kind) in config {
        let folder = Folder::copy_of(GOLDEN);
        folder.set(key, serde_json::from_str(value).expect("the row is JSON"));
        said.check(&format!("{key} = {value}"), || folder.open(), *kind);
    }
    Ok(())
}

/// One tensor `a` in a file that holds eight bytes of data.
fn header(dtype: &str, shape: Value, offsets: Value) -> Vec<u8> {
    let entry = json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}});
    with_header(&entry.to_string(), &[0; 8])
}

const WEIGHT: &str = "transformer.h.1.attn.c_attn.weight";

fn change_weight(folder: &Folder, with: impl FnOnce(&mut Weight)) {
    change(folder, WEIGHT, with);
}

fn change(folder: &Folder, name: &str, with: impl FnOnce(&mut Weight)) {
    folder.change_weights(|all| with(all.get_mut(name).expect("the weight is there")));
}

fn weights(said: &mut Said) -> Result<()> {
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
        said.check(&what, || folder.open(), Weights);
    }
    said.check_folders(&[
        ("integers", |f| change_weight(f, |w| retyped(w, Dtype::I64, 8)), Weights),
        ("a shape", |f| change_weight(f, |w| w.shape.reverse()), Weights),
        ("flat", |f| change_weight(f, |w| w.shape = vec![64 * 192]), Weights),
        ("a missing key", |f| f.change_weights(|all| drop(all.remove(WEIGHT))), Weights),
        ("no key", |f| f.change_weights(|all| all.clear()), Weights),
        (
            "a bias that is not a number",
            |f| change(f, "transformer.h.0.attn.c_attn.bias", |w| set(w, 7, f32::NAN)),
            Weights,
        ),
    ]);
    // What stays in its file is found by the run that meets it, and where all is looked through.
    for (what, name, at, value) in [
        ("not a number", WEIGHT, 7, f32::NAN),
        ("infinite", WEIGHT, 9, f32::NEG_INFINITY),
        ("an embedding that is not a number", "transformer.wte.weight", 64 * 3 + 2, f32::NAN),
    ] {
        let folder = Folder::copy_of(GOLDEN);
        change(&folder, name, |weight| set(weight, at, value));
        let model = folder.open()?;
        said.check(&format!("{what}, run"), || model.logits(vec![1, 2, 3]), Weights);
        said.check(&format!("{what}, checked"), || model.check_files(), Weights);
    }
    Ok(())
}

fn retyped(weight: &mut Weight, dtype: Dtype, size: usize) {
    weight.dtype = dtype;
    weight.bytes = vec![0; weight.shape.iter().product::<usize>() * size];
}

fn set(weight: &mut Weight, entry: usize, value: f32) {
    weight.bytes[4 * entry..4 * entry + 4].copy_from_slice(&value.to_le_bytes());
}

/// What is damaged of a tokenizer is found by the first text; ids go on.
fn tokenizers(said: &mut Said) -> Result<()> {
    type Damage = (&'static str, fn(&Folder), ErrorKind);
    let cases: [Damage; 7] = [
        ("not JSON", |f| f.write("tokenizer.json", "{"), Tokenizer),
        ("empty", |f| f.write("tokenizer.json", ""), Tokenizer),
        ("no text", |f| f.write("tokenizer.json", [0xFF]), File),
        ("a broken vocabulary", |f| two_files(f, "{\"a\": ", ""), Tokenizer),
        ("an empty vocabulary file", |f| two_files(f, "", ""), Tokenizer),
        ("broken merges", |f| two_files(f, "{\"a\": 0}", "a\n"), Tokenizer),
        ("merges of nothing", |f| two_files(f, "{\"a\": 0}", "x y\n"), Tokenizer),
    ];
    for (what, change, kind) in cases {
        let folder = Folder::copy_of(GOLDEN);
        change(&folder);
        let model = folder.open()?;
        said.check(&format!("{what}, a text"), || model.to_tokens("the cat"), kind);
        said.check(&format!("{what}, checked"), || model.check_files(), kind);
        assert_eq!(model.to_str_tokens(vec![5])?, ["5"], "{what}");
        assert!(format!("{model:?}").contains("; it reads no text: "), "{what}: {model:?}");
        // Whoever else says what begins a text is asked first.
        folder.set("bos_token_id", json!(null));
        said.check(&format!("{what}, asked for its BOS"), || folder.open(), kind);
    }
    Ok(())
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

type Call<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>, ErrorKind);

/// A row: what it is, the call, the kind.
macro_rules! row {
    ($what:expr, $call:expr, $kind:expr) => {
        ($what, Box::new(|| $call.map(drop)), $kind)
    };
}

fn inputs(said: &mut Said) -> Result<()> {
    let silent = Folder::copy_of(GOLDEN).open()?;
    let model = talking()?;
    let long = "the cat ".repeat(400);
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
        row!("text without a tokenizer", silent.loss("the cat"), Tokenizer),
        row!("empty text", model.loss(""), BadInput),
        row!("an empty text of two", model.loss(["the cat", ""]), BadInput),
        row!("no texts", model.loss(Vec::<String>::new()), BadInput),
        row!("no ids", model.loss(Vec::<u32>::new()), BadInput),
        row!("a batch of no ids", model.loss(vec![vec![1], vec![]]), BadInput),
        row!("a long text", model.loss(long.as_str()), BadInput),
        row!("many ids", silent.loss(vec![1; 129]), BadInput),
        row!("a high id", silent.loss(vec![1, 160]), BadInput),
        row!("ids that are none", Input::parse_ids("1,x"), BadInput),
        row!("two texts as one", model.to_tokens(["a", "b"]), BadInput),
        row!("several tokens", model.to_single_token("the cat sat"), BadInput),
        row!("an absent token", tokens.position("cat"), BadInput),
        row!("a strange token", tokens.position("philosophy"), BadInput),
        row!("the loss of one token", model.loss(vec![5]), BadInput),
        row!("losses of several", two.loss_per_token(), BadInput),
        row!("a far item", two.item(2), BadInput),
        row!("ragged", two.pattern(0), BadInput),
        row!("beyond the context", generate(Sampling { max_new_tokens: 300, ..sampling }), BadInput),
        row!("endless", generate(Sampling { max_new_tokens: usize::MAX, ..sampling }), BadInput),
        row!("no temperature", generate(Sampling { temperature: f32::NAN, ..sampling }), BadInput),
        row!("cold", generate(Sampling { temperature: -1.0, ..sampling }), BadInput),
        row!("no choice", generate(Sampling { top_k: Some(0), ..sampling }), BadInput),
        row!("no answer", model.test_prompt("the cat", ""), BadInput),
        row!("a long answer", model.test_prompt("the cat", &long), BadInput),
        row!("too long to repeat", heads(500, 1), BadInput),
        row!("a short context", induction_scores(&short), BadInput),
        row!("too short to repeat", heads(1, 1), BadInput),
        row!("no sequences", heads(10, 0), BadInput),
        row!("endless sequences", heads(10, usize::MAX), BadInput),
        row!("what does not repeat", model.run_with_cache("the cat sat")?.induction_scores(), BadInput),
        row!("scores of several", two.previous_token_scores(), BadInput),
        row!("the token before one", one.previous_token_scores(), BadInput),
        row!("saving what is ragged", two.save("/nowhere/x"), BadInput),
    ];
    said.check_calls(rows);
    Ok(())
}

fn addresses(said: &mut Said) -> Result<()> {
    let model = talking()?;
    let run = model.run_with_cache("the cat sat")?;
    let filtered = model.run_with_options("the cat", &RunOptions::only([Site::Z]))?;
    let options = |options: RunOptions| model.run_with_options("the cat", &options);
    let scores = model.run_with_cache(" the cat sat the cat sat")?.induction_scores()?;
    let rows: &[Call] = &[
        row!("misspelt", run.get("blocks.0.attn.hook_patern"), Address),
        row!("misspelt in short", run.get(("patern", 0)), Address),
        row!("like nothing", run.get("philosophy of mind"), Address),
        row!("empty", run.get(""), Address),
        row!("a high layer", run.get(("pattern", 7)), Address),
        row!("a huge layer", run.pattern(usize::MAX), Address),
        row!("no layer", run.get("pattern"), Address),
        row!("a layer too many", run.get(("embed", 0)), Address),
        row!("the same by name", run.get("blocks.0.hook_embed"), Address),
        row!("opt-in", run.get(("result", 0)), Address),
        row!("filtered", filtered.pattern(0), Address),
        row!("logits filtered", filtered.logits(), Address),
        row!("stop after", options(RunOptions::new().stop_after(2)), Address),
        row!("no match", options(RunOptions::matching("*patern")), Address),
        row!("nothing", options(RunOptions::only([])), Address),
        row!("too late", options(RunOptions::only([Site::UnembedOut]).stop_after(0)), Address),
        row!("a head too many", scores.at(head(0, 4)), Address),
        row!("a layer of heads too many", scores.at(head(9, 0)), Address),
        row!("no head", "L5".parse::<Head>(), Address),
        row!("a negative head", "L-1H0".parse::<Head>(), Address),
        row!("a huge head", "L99999999999999999999H0".parse::<Head>(), Address),
        row!("a misspelt weight", model.weight("blocks.0.attn.W_Qq"), Address),
        row!("an unlike weight", model.weight("philosophy"), Address),
        row!("a weight of a far layer", model.weight("blocks.7.attn.W_Q"), Address),
        row!("several weights", model.weight("w"), Address),
        row!("another shape", model.run_with_tap("the cat", &mut Bad(|t| t.narrow(3, 0, 1))), BadTap),
        row!("another type", model.run_with_tap("the cat", &mut Bad(|t| t.to_dtype(DType::F64))), BadTap),
    ];
    said.check_calls(rows);
    Ok(())
}

fn named(said: &mut Said) -> Result<()> {
    let axes = || vec![Axis::unlabelled("head", 2), Axis::unlabelled("query", 3)];
    let tensor = Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?;
    let scores = NamedTensor::from_vec("scores", vec![0.0; 6], axes())?;
    let other = NamedTensor::from_vec("others", vec![0.0; 2], vec![Axis::unlabelled("head", 2)])?;
    let endless = || vec![Axis::unlabelled("a", usize::MAX), Axis::unlabelled("b", 2)];
    let rows: &[Call] = &[
        row!("wrong axes", NamedTensor::new("x", tensor.clone(), axes()), Axes),
        row!("too few axes", NamedTensor::new("x", tensor.clone(), vec![]), Axes),
        row!("too few numbers", NamedTensor::from_vec("x", vec![0.0; 5], axes()), Axes),
        row!("endless axes", NamedTensor::from_vec("x", vec![], endless()), Axes),
        row!("a misspelt axis", scores.select("qery", 0), Axes),
        row!("an unlike axis", scores.mean("philosophy"), Axes),
        row!("a far entry", scores.select("head", 2), Axes),
        row!("a far range", scores.slice("query", 1..4), Axes),
        row!("an empty range", scores.slice("query", 2..2), Axes),
        row!("another shape", scores.sub(&other), Axes),
        row!("an index too few", scores.value(&[1]), Axes),
        row!("a far value", scores.value(&[0, 3]), Axes),
        row!("no extension", scores.figure()?.save("scores"), ErrorKind::Figure),
        row!("a strange one", scores.figure()?.save("scores.gif"), ErrorKind::Figure),
        row!("no folder", scores.figure()?.save("/no/such/x.svg"), File),
        row!("no views", Figure::new(vec![]), ErrorKind::Figure),
    ];
    said.check_calls(rows);
    Ok(())
}

fn detecting(said: &mut Said) -> Result<()> {
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
        row!("one token", detect("the", HeadKind::Induction, None), BadInput),
        row!("of no pattern", detect("the cat", HeadKind::FirstToken, None), BadInput),
        row!(
            "of another size",
            detect("the cat sat", HeadKind::Induction, Some(vec![vec![0.0; 2]; 2])),
            BadInput
        ),
        row!("of nothing", detect("the cat", HeadKind::Induction, Some(vec![])), BadInput),
        row!("ahead", own([[1.0, 0.5], [0.0, 0.0]]), BadInput),
        row!("above 1", own([[2.0, 0.0], [0.0, 0.0]]), BadInput),
        row!("below 0", own([[0.0, 0.0], [-1.0, 0.0]]), BadInput),
        row!("no number", own([[f32::NAN, 0.0], [0.0, 0.0]]), BadInput),
        row!("an absent head", detect_head(&model, "the cat", HeadKind::Induction, &absent), Address),
    ];
    said.check_calls(rows);
    Ok(())
}

fn runs_from_files(said: &mut Said) -> Result<()> {
    let folder = Folder::new();
    let path = folder.path("run.safetensors");
    let model = talking()?;
    let open = |name: &str| Run::open(folder.path(name));
    said.check("a missing run", || open("none.safetensors"), File);
    folder.write("text", "not safetensors");
    said.check("no run at all", || open("text"), File);
    let weights = Folder::copy_of(GOLDEN);
    said.check("a model's weights", || Run::open(weights.path("model.safetensors")), File);

    let run = model.run_with_options("the cat sat", &RunOptions::only([Site::Pattern]))?;
    run.save(&path)?;
    let sound = folder.read("run.safetensors");
    let (_, header) = safetensors::SafeTensors::read_metadata(&sound).expect("sound");
    let metadata = header.metadata().clone().expect("a run has metadata");
    let spec = &metadata["spec"];
    let lies: &[(&str, &str)] = &[
        ("tokens", "[1, 2]"),
        ("tokens", "[]"),
        ("tokens", "{}"),
        ("tokens", "[[1, 2, 3, 4], [1, 2, 3, 4]]"),
        ("tokens", "[-1, 2, 3, 4]"),
        ("str_tokens", "[\"the\"]"),
        ("starts_with_bos", "[]"),
        ("headlight_run", "1"),
        ("headlight_run", "3"),
        ("spec", "many"),
        ("spec", "{\"stacks\": [], \"readout\": \"nothing\"}"),
        ("spec", &spec.replace("\"n_layers\":2", "\"n_layers\":0")),
        ("spec", &spec.replace("\"n_layers\":2", "\"n_layers\":1000000000000000000")),
        ("spec", &spec.replace("\"n_key_value_heads\":4", "\"n_key_value_heads\":3")),
        ("spec", &spec.replace("\"crosses\":null", "\"crosses\":\"encoder\"")),
        ("spec", &spec.replace("{\"vocabulary\":\"main\"}", "{\"vocabulary\":\"decoder\"}")),
        ("spec", &spec.replace("\"d_vocab\":", "\"d_vocab\":0.")),
    ];
    for (key, value) in lies {
        let mut lying = metadata.clone();
        lying.insert(key.to_string(), value.to_string());
        let file = safetensors::SafeTensors::deserialize(&sound).expect("sound");
        folder.write("lying", safetensors::serialize(file.tensors(), Some(lying)).expect("written"));
        said.check(&format!("{key} = {value}"), || open("lying"), File);
    }
    let shapes: [&[usize]; 3] = [&[4, 4], &[4, 4, 3], &[0, 4, 4]];
    for shape in shapes {
        let weight = Weight::f32(shape, &vec![0.0; shape.iter().product()]);
        let tensors = [("blocks.0.attn.hook_pattern", &weight)];
        folder.write("lying", safetensors::serialize(tensors, Some(metadata.clone())).expect("written"));
        said.check(&format!("{shape:?}"), || open("lying"), File);
    }
    let few = Weight::f32(&[4, 2], &[0.0; 8]);
    let tensors = [("unembed.hook_out", &few)];
    folder.write("lying", safetensors::serialize(tensors, Some(metadata.clone())).expect("written"));
    said.check("too few logits", || open("lying"), File);
    let mut bytes = Weight::f32(&[4, 4, 4], &[0.0; 64]);
    retyped(&mut bytes, Dtype::F16, 2);
    let tensors = [("blocks.0.attn.hook_pattern", &bytes)];
    folder.write("lying", safetensors::serialize(tensors, Some(metadata)).expect("written"));
    said.check("another type", || open("lying"), File);
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
