//! The forms that a model's folder comes in: each opens, and computes what the plain form does.

use crate::common::MODELS;
use crate::common::folder;
use std::io::{Cursor, Read, Write};

use crate::common::folder::{Folder, Weight, Weights, small_bpe, tokenizer_json};
use headlight::Result;
use headlight::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

const GOLDEN: &str = "tiny-gpt2-random";
const IDS: [u32; 6] = [0, 5, 9, 5, 159, 77];

fn logits(model: &Model) -> Result<Vec<f32>> {
    model.logits(IDS)?.to_vec()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    largest(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

fn without_prefix(weights: &mut Weights) {
    let short = |name: &String| name.strip_prefix("transformer.").unwrap_or(name).to_string();
    *weights = weights.iter().map(|(name, weight)| (short(name), weight.clone())).collect();
}

/// Every weight in another type, its numbers rounded by `convert`.
fn retype<const N: usize>(weights: &mut Weights, dtype: Dtype, convert: fn(f32) -> [u8; N]) {
    for weight in weights.values_mut() {
        weight.bytes = weight.values().into_iter().flat_map(convert).collect();
        weight.dtype = dtype;
    }
}

/// Nearest, ties to even: what remains is the upper half of an f32.
fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes()
}

/// Nearest, ties to even, for numbers that f16 holds.
fn f16(value: f32) -> [u8; 2] {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let size = f64::from(value.abs());
    // The step of f16 at this size; below 2^-14 it stays that of the subnormal numbers.
    let exponent = size.log2().floor().max(-14.0);
    let steps = (size / (exponent - 10.0).exp2()).round_ties_even() as u16;
    (sign + steps + ((exponent as i16 + 14) as u16) * 1024).to_le_bytes()
}

/// Mask buffers `[1, 1, n, n]` of a type, as old checkpoints have them.
fn with_masks(folder: &Folder, dtype: Dtype, size: usize) {
    let mask = Weight { dtype, shape: vec![1, 1, 128, 128], bytes: vec![1; 128 * 128 * size] };
    folder.change_weights(|all| {
        for layer in 0..2 {
            all.insert(format!("transformer.h.{layer}.attn.bias"), mask.clone());
        }
        let masked = Weight::f32(&[], &[f32::NEG_INFINITY]);
        all.insert("transformer.h.0.attn.masked_bias".into(), masked);
    });
}

fn in_shards(folder: &Folder, change: fn(&mut Weights)) {
    let mut weights = folder.weights();
    change(&mut weights);
    let mut map = serde_json::Map::new();
    for (shard, name) in
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate()
    {
        let part: Weights = weights.clone().into_iter().skip(shard).step_by(2).collect();
        map.extend(part.keys().map(|key| (key.clone(), json!(name))));
        folder.save(name, &part);
    }
    folder.remove("model.safetensors");
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    folder.write("model.safetensors.index.json", index.to_string());
}

fn with_head(weights: &mut Weights) {
    let head = weights["transformer.wte.weight"].clone();
    weights.insert("lm_head.weight".into(), head);
}

type Row = (&'static str, fn(&Folder), f32);

/// What a folder is made into, and how far apart logits may then lie, as a part of the largest.
const FORMS: [Row; 19] = [
    ("as it is", |_| {}, 0.0),
    ("no prefix", |f| f.change_weights(without_prefix), 0.0),
    ("shards", |f| in_shards(f, |_| {}), 0.0),
    ("shards without prefix", |f| in_shards(f, without_prefix), 0.0),
    ("masks of bytes", |f| with_masks(f, Dtype::U8, 1), 0.0),
    ("masks of booleans", |f| with_masks(f, Dtype::BOOL, 1), 0.0),
    ("masks of floats", |f| with_masks(f, Dtype::F32, 4), 0.0),
    ("a head that is the embedding", |f| f.change_weights(with_head), 0.0),
    ("doubles", |f| f.change_weights(|all| retype(all, Dtype::F64, |x| f64::from(x).to_le_bytes())), 0.0),
    ("halves", |f| f.change_weights(|all| retype(all, Dtype::F16, f16)), 1e-2),
    ("bfloats", |f| f.change_weights(|all| retype(all, Dtype::BF16, bf16)), 5e-2),
    ("no model_type", |f| f.unset("model_type"), 0.0),
    ("no architectures", |f| f.unset("architectures"), 0.0),
    ("the context said twice", |f| f.set("n_ctx", json!(128)), 0.0),
    (
        "the context said as n_ctx",
        |f| {
            f.unset("n_positions");
            f.set("n_ctx", json!(128));
        },
        0.0,
    ),
    ("the width of the MLP said", |f| f.set("n_inner", json!(256)), 0.0),
    ("several ends", |f| f.set("eos_token_id", json!([0, 7])), 0.0),
    ("no BOS", |f| f.set("bos_token_id", json!(null)), 0.0),
    ("keys that nobody knows", |f| f.set("task_specific_params", json!({"a": [1.5, null]})), 0.0),
];

/// What is done to a sound folder.
type Change<'a> = &'a dyn Fn(&Folder);

#[test]
fn forms() -> Result<()> {
    let expected = logits(&Folder::copy_of(GOLDEN).open()?)?;
    for (what, change, tolerance) in FORMS {
        let folder = Folder::copy_of(GOLDEN);
        change(&folder);
        let found = logits(&folder.open().unwrap_or_else(|error| panic!("{what}: {error}")))?;
        let (apart, most) = (apart(&found, &expected), tolerance * largest(&expected));
        assert!(apart <= most, "{what}: logits differ by {apart}, more than {most}");
    }
    Ok(())
}

/// A narrow type gives what its numbers give in f32, in every architecture and at every hook.
#[test]
fn narrow_types_are_their_rounded_numbers() -> Result<()> {
    type Narrow = fn(f32) -> [u8; 2];
    type Back = fn([u8; 2]) -> f32;
    let of_bf16: Back = |[a, b]| f32::from_le_bytes([0, 0, a, b]);
    let of_f16: Back = |bytes| {
        let bits = u16::from_le_bytes(bytes);
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
        let size = match exponent {
            0 => fraction * (-24f32).exp2(),
            exponent => (fraction + 1024.0) * ((exponent - 25) as f32).exp2(),
        };
        if bits & 0x8000 == 0 { size } else { -size }
    };
    let types: [(Dtype, Narrow, Back); 2] = [(Dtype::F16, f16, of_f16), (Dtype::BF16, bf16, of_bf16)];
    let every = MODELS.iter().flat_map(|golden| types.map(|narrow| (*golden, narrow)));
    for (golden, (dtype, narrow, back)) in every {
        let (short, wide) = (Folder::copy_of(golden), Folder::copy_of(golden));
        short.change_weights(|all| retype(all, dtype, narrow));
        wide.change_weights(|all| {
            for weight in all.values_mut() {
                let rounded: Vec<f32> =
                    weight.values().into_iter().map(|value| back(narrow(value))).collect();
                *weight = Weight::f32(&weight.shape, &rounded);
            }
        });
        let (short, wide) = (short.open()?, wide.open()?);
        let ids: Vec<u32> = IDS.iter().map(|id| id % short.dims().d_vocab as u32).collect();
        let runs = [short.run_with_cache(&ids)?, wide.run_with_cache(&ids)?];
        for hook in runs[0].hooks() {
            let [narrow, rounded] =
                [&runs[0], &runs[1]].map(|run| run.get(hook).and_then(|all| all.to_vec()));
            assert_eq!(narrow?, rounded?, "{golden} in {dtype:?}: {hook}");
        }
    }
    Ok(())
}

/// An unembedding of its own is used, and is not the embedding's transpose.
#[test]
fn an_untied_head() -> Result<()> {
    let folder = Folder::copy_of(GOLDEN);
    let tied = logits(&folder.open()?)?;
    folder.change_weights(|all| {
        with_head(all);
        let head = all.get_mut("lm_head.weight").expect("just put there");
        let doubled: Vec<f32> = head.values().into_iter().map(|value| 2.0 * value).collect();
        *head = Weight::f32(&head.shape, &doubled);
    });
    folder.set("tie_word_embeddings", json!(false));
    let untied = logits(&folder.open()?)?;
    let doubled: Vec<f32> = tied.iter().map(|value| 2.0 * value).collect();
    assert!(apart(&untied, &doubled) < 1e-5 * largest(&doubled));
    Ok(())
}

/// GPT-2's two tokenizer files say what the one says.
#[test]
fn two_tokenizer_files_are_one() -> Result<()> {
    let (vocab, merges) = small_bpe(120);
    let (two, one) = (Folder::copy_of(GOLDEN), Folder::copy_of(GOLDEN));
    two.write("vocab.json", vocab.to_string());
    two.write("merges.txt", &merges);
    one.write("tokenizer.json", tokenizer_json(&vocab, &merges).to_string());
    let (two, one) = (two.open()?, one.open()?);
    let texts = [
        "the cat",
        " the cat  the\ncat\n\n!",
        "<|endoftext|>the<|endoftext|>",
        "  leading and trailing  ",
        "It's 1984, isn't it?",
        "a\tb\r\nc",
        "\u{e9}\u{65e5}\u{1f600} cat",
    ];
    for text in texts {
        let (a, b) = (two.to_tokens(text)?, one.to_tokens(text)?);
        assert_eq!((a.ids(), a.labels()), (b.ids(), b.labels()), "{text:?}");
        assert_eq!(two.to_string(a.ids()), one.to_string(b.ids()), "{text:?}");
    }
    let tokens = two.to_tokens(no_bos("the cat the<|endoftext|>"))?;
    assert_eq!(tokens.labels(), ["the", " cat", " the", "<|endoftext|>"]);
    assert_eq!((two.bos(), two.to_single_token(" cat")?), (Some(0), one.to_single_token(" cat")?));
    Ok(())
}

/// A folder with a checkpoint as torch.save wrote it (`tests/golden/make_torch.py`), whose pickle is changed.
fn checkpoint(change: impl FnOnce(&mut Vec<u8>)) -> Folder {
    let golden = format!("{}/tests/golden/tiny-torch", env!("CARGO_MANIFEST_DIR"));
    let folder = Folder::new();
    folder.write("config.json", std::fs::read(format!("{golden}/config.json")).expect("the golden's file"));
    let file = std::fs::File::open(format!("{golden}/pytorch_model.bin")).expect("the golden's file");
    let mut old = ZipArchive::new(file).expect("an archive");
    let mut new = ZipWriter::new(Cursor::new(Vec::new()));
    let mut change = Some(change);
    for index in 0..old.len() {
        let mut entry = old.by_index(index).expect("an entry");
        let name = entry.name().expect("a name").into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        if name.ends_with("data.pkl") {
            change.take().expect("there is one pickle")(&mut bytes);
        }
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        new.start_file(name, options).and_then(|()| Ok(new.write_all(&bytes)?)).expect("it is written");
    }
    folder.write("pytorch_model.bin", new.finish().expect("an archive").into_inner());
    folder
}

#[test]
fn checkpoints_of_pytorch() -> Result<()> {
    let golden = format!("{}/tests/golden/tiny-torch/golden.json", env!("CARGO_MANIFEST_DIR"));
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden).expect("it is there")).expect("JSON");
    let numbers = |key: &str| -> Vec<f32> {
        golden[key].as_array().expect("a list").iter().filter_map(|n| n.as_f64()).map(|n| n as f32).collect()
    };
    let folder = checkpoint(|_| {});
    let ids: Vec<u32> = numbers("ids").into_iter().map(|id| id as u32).collect();
    let found = folder.open()?.logits(ids)?.to_vec()?;
    let expected = numbers("logits");
    assert!(apart(&found, &expected) < 1e-5 * largest(&expected), "{}", apart(&found, &expected));

    // In shards, and beside safetensors, which go first.
    let index = json!({"weight_map": {"a": "shard.bin"}}).to_string();
    folder.write("pytorch_model.bin.index.json", index);
    folder.write("shard.bin", folder.read("pytorch_model.bin"));
    folder.remove("pytorch_model.bin");
    folder.open()?;
    folder.write("model.safetensors", "not read");
    assert!(folder.open().is_err(), "safetensors go first");
    Ok(())
}

/// A pickle can ask for anything; nothing of it is run, and nothing large is made.
#[test]
fn pickles_that_are_no_tensors() {
    type Row = (&'static str, fn(&mut Vec<u8>), &'static str);
    let rows: [Row; 11] = [
        ("a call", |p| *p = b"cos\nsystem\n(X\x02\0\0\0lstR.".to_vec(), "a dictionary of tensors"),
        (
            "a protocol that runs code otherwise",
            |p| *p = b"\x80\x04\x95\0\0\0\0\0\0\0\0.".to_vec(),
            "instruction 0x95",
        ),
        ("a text of 4 GB", |p| *p = b"\x80\x02X\xff\xff\xff\xffab.".to_vec(), "ends too early"),
        ("no end", |p| *p = b"\x80\x02}".to_vec(), "ends too early"),
        ("nothing to take", |p| *p = b"\x80\x02R.".to_vec(), "what is not there"),
        ("nothing kept", |p| *p = b"\x80\x02h\x05.".to_vec(), "did not keep"),
        (
            "as deep as it is long",
            |p| *p = [b"\x80\x02}".as_slice(), &[0x85; 1_000_000], b"."].concat(),
            "larger or deeper",
        ),
        (
            "twice itself, forty times",
            |p| {
                *p = b"\x80\x02}".to_vec();
                (0..40).for_each(|id| p.extend([b'q', id, b'h', id, 0x86]));
                p.push(b'.');
            },
            "larger or deeper",
        ),
        ("a long number", |p| *p = b"\x80\x02\x8a\xff.".to_vec(), "more than 8 bytes"),
        (
            "tensors without their parts",
            |p| {
                *p = b"\x80\x02}(X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(tRu.".to_vec();
            },
            "not described as tensors are",
        ),
        (
            "a tensor beyond its numbers",
            |p| {
                // The size of the first, 44, where it is pushed: `K,K\x08\x86`.
                let at = p.windows(5).position(|w| w == b"K,K\x08\x86").expect("a shape of 44 by 8");
                p[at + 3] = 200;
            },
            "beyond what is there",
        ),
    ];
    for (what, change, fragment) in rows {
        let error = checkpoint(change).open().expect_err(what).to_string();
        assert!(error.contains(fragment) && error.contains("help: "), "{what}: {error}");
    }
    let folder = checkpoint(|_| {});
    folder.write("pytorch_model.bin", b"\x80\x02}.");
    assert!(folder.open().expect_err("no archive").to_string().contains("since PyTorch 1.6"));
}

/// A tokenizer with tokens that the weights have not got, one or many.
#[test]
fn tokens_beyond_the_vocabulary() -> Result<()> {
    let plain = Folder::copy_of(GOLDEN).with_tokenizer().open()?;
    let many = {
        let (vocab, merges) = small_bpe(256);
        tokenizer_json(&vocab, &merges)
    };
    let mut one = {
        let (vocab, merges) = small_bpe(120);
        tokenizer_json(&vocab, &merges)
    };
    let pad = json!({"id": 160, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let vocab = one["model"]["vocab"].as_object_mut().expect("a vocabulary");
    (vocab.len()..160).for_each(|id| drop(vocab.insert(format!("<{id}>"), json!(id))));
    one["added_tokens"].as_array_mut().expect("a list").push(pad);
    for (tokenizer, text, token, largest) in [(one, "a[PAD]", "[PAD]", 160), (many, " the", " the", 269)] {
        let folder = Folder::copy_of(GOLDEN);
        folder.write("tokenizer.json", tokenizer.to_string());
        let model = folder.open()?;
        assert!(format!("{model:?}").contains(&format!("ids up to {largest}")), "{model:?}");
        let id = match token {
            "[PAD]" => 160,
            _ => folder::tokenizer_id(&tokenizer, "\u{120}the"),
        };
        assert!(id >= 160 && (id as usize) <= largest);
        assert_eq!((model.to_string(&[id]).as_str(), model.to_string(&[1])), (token, plain.to_string(&[1])));
        assert_eq!(model.logits("abc")?.to_vec()?, plain.logits("abc")?.to_vec()?);
        assert_eq!(model.to_str_tokens("abc")?, plain.to_str_tokens("abc")?);
        let ids = vec![1, id];
        for (what, said) in [
            ("a run", model.loss(text).map(drop)),
            ("an answer", model.test_prompt("abc", text).map(drop)),
            ("one token", model.to_single_token(token).map(drop)),
            ("ids", model.loss(ids).map(drop)),
        ] {
            let error = said.expect_err(what).to_string();
            for fragment in [&format!("id {id}"), "160 tokens", "0 to 159", "help: "] {
                assert!(error.contains(fragment), "{what}: no `{fragment}` in {error}");
            }
        }
    }
    // Fewer tokens than the weights have: what is no token has its id for a label.
    assert_eq!(plain.logits(vec![1, 159])?.shape(), [2, 160]);
    assert_eq!(plain.to_str_tokens(vec![1, 159])?[1], "[159]");
    Ok(())
}

/// Which file says what begins a text; what none says, or what the weights have not got, is no BOS, and that is said.
#[test]
fn what_begins_a_text() -> Result<()> {
    let tokens = |name: &str| json!({"bos_token": name}).to_string();
    let cases: [(&str, Change, Option<u32>); 11] = [
        ("config.json", &|_| {}, Some(0)),
        ("config.json before others", &|f| f.write("tokenizer_config.json", tokens("a")), Some(0)),
        (
            "generation_config.json",
            &|f| {
                f.set("bos_token_id", json!(null));
                f.write("generation_config.json", json!({"bos_token_id": 7}).to_string());
            },
            Some(7),
        ),
        (
            "tokenizer_config.json",
            &|f| {
                f.unset("bos_token_id");
                f.write("tokenizer_config.json", tokens("b"));
            },
            Some(3),
        ),
        (
            "an added token",
            &|f| {
                f.unset("bos_token_id");
                f.write(
                    "tokenizer_config.json",
                    json!({"bos_token": {"content": "b", "special": true}}).to_string(),
                );
            },
            Some(3),
        ),
        (
            "special_tokens_map.json",
            &|f| {
                f.unset("bos_token_id");
                f.write("tokenizer_config.json", json!({"bos_token": null}).to_string());
                f.write("special_tokens_map.json", tokens("c"));
            },
            Some(4),
        ),
        ("the tokenizer's own end of text", &|f| f.set("bos_token_id", json!(null)), Some(0)),
        (
            "beyond the vocabulary, and the tokenizer knows better",
            &|f| {
                f.set("bos_token_id", json!(50256));
                f.write("tokenizer_config.json", tokens("b"));
            },
            Some(3),
        ),
        (
            "beyond the vocabulary",
            &|f| {
                f.set("bos_token_id", json!(50256));
                f.remove("tokenizer.json");
            },
            None,
        ),
        (
            "below it",
            &|f| {
                f.set("bos_token_id", json!(-1));
                f.remove("tokenizer.json");
            },
            None,
        ),
        (
            "nowhere",
            &|f| {
                f.set("bos_token_id", json!(null));
                let mut tokenizer: Value = serde_json::from_slice(&f.read("tokenizer.json")).expect("JSON");
                tokenizer["added_tokens"] = json!([]);
                let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
                vocab.remove("<|endoftext|>");
                f.write("tokenizer.json", tokenizer.to_string());
            },
            None,
        ),
    ];
    for (what, change, expected) in cases {
        let folder = Folder::copy_of(GOLDEN).with_tokenizer();
        change(&folder);
        let model = folder.open()?;
        assert_eq!(model.bos(), expected, "{what}");
        assert_eq!(
            format!("{model:?}").contains("no BOS before text: "),
            expected.is_none(),
            "{what}: {model:?}"
        );
        assert!(model.loss(vec![1, 2, 3])?.is_finite());
        if what == "nowhere" {
            assert_eq!(model.to_tokens("abc")?.ids(), [2, 3, 4]);
            assert!(!model.to_tokens("abc")?.starts_with_bos());
        }
        if expected.is_none() {
            let error = model.to_tokens(with_bos("abc")).expect_err(what).to_string();
            assert!(
                error.contains("no BOS to put before text: ") && error.contains("help: "),
                "{what}: {error}"
            );
        }
    }
    Ok(())
}

/// Which file says what ends one: generation_config.json first, as in transformers.
#[test]
fn what_ends_a_text() -> Result<()> {
    let plain = Folder::copy_of(GOLDEN).with_tokenizer();
    plain.set("eos_token_id", json!(50256));
    let sampling = Sampling { max_new_tokens: 5, ..Sampling::default() };
    // A prompt after which comes a token that the tokenizer knows.
    let tokenizer: Value = serde_json::from_slice(&plain.read("tokenizer.json")).expect("JSON");
    let vocab = tokenizer["model"]["vocab"].as_object().expect("a vocabulary");
    let model = plain.open()?;
    let (prompt, first, token) = ('a'..='z')
        .find_map(|prompt| {
            let generated = model.generate(prompt.to_string(), &sampling).ok()?;
            assert_eq!(generated.new_ids().len(), 5, "an id that is no token ends nothing");
            let first = generated.new_ids()[0];
            let (token, _) = vocab.iter().find(|(_, id)| id.as_u64() == Some(first.into()))?;
            Some((prompt.to_string(), first, token.clone()))
        })
        .expect("one of them");
    let eos = |value: Value| json!({"eos_token_id": value}).to_string();
    let cases: [(&str, Change, usize); 8] = [
        ("config.json", &|f| f.set("eos_token_id", json!(first)), 1),
        ("several", &|f| f.set("eos_token_id", json!([-1, 50256, first])), 1),
        ("generation_config.json", &|f| f.write("generation_config.json", eos(json!([50256, first]))), 1),
        (
            "generation_config.json before config.json",
            &|f| {
                f.set("eos_token_id", json!(first));
                f.write("generation_config.json", eos(json!(50256)));
            },
            5,
        ),
        (
            "nothing in generation_config.json",
            &|f| {
                f.set("eos_token_id", json!(first));
                f.write("generation_config.json", "{}");
            },
            1,
        ),
        (
            "the tokenizer's",
            &|f| {
                f.set("eos_token_id", json!(null));
                f.write("tokenizer_config.json", json!({"eos_token": token}).to_string());
            },
            1,
        ),
        (
            "the tokenizer's, of another file",
            &|f| {
                f.unset("eos_token_id");
                f.write("special_tokens_map.json", json!({"eos_token": {"content": token}}).to_string());
            },
            1,
        ),
        (
            "config.json before the tokenizer's",
            &|f| {
                f.write("tokenizer_config.json", json!({"eos_token": token}).to_string());
            },
            5,
        ),
    ];
    for (what, change, expected) in cases {
        let folder = Folder::copy_of(GOLDEN).with_tokenizer();
        folder.set("eos_token_id", json!(50256));
        change(&folder);
        assert_eq!(folder.open()?.generate(&prompt, &sampling)?.new_ids().len(), expected, "{what}");
    }
    let folder = Folder::copy_of(GOLDEN);
    folder.write("generation_config.json", eos(json!("x")));
    let error = folder.open().expect_err("a text is no id").to_string();
    assert!(error.contains("generation_config.json") && error.contains("help: "), "{error}");
    Ok(())
}

/// What becomes of a file while a model reads its weights from it ends in an error, or changes nothing.
#[test]
fn files_that_change_under_a_model() -> Result<()> {
    let soon = || std::thread::sleep(std::time::Duration::from_millis(30));
    let weights = |folder: &Folder| folder.path("model.safetensors");
    let write =
        |path: &std::path::Path| std::fs::File::options().write(true).open(path).expect("it is there");

    // Another file takes its place: what is open stays.
    let folder = Folder::copy_of(GOLDEN);
    let model = folder.open()?;
    let before = logits(&model)?;
    let other = Folder::copy_of(GOLDEN);
    other.change_weights(|all| all.values_mut().for_each(|weight| weight.bytes.fill(0)));
    soon();
    std::fs::rename(weights(&other), weights(&folder)).expect("in its place");
    assert_eq!(logits(&model)?, before);
    assert_ne!(logits(&folder.open()?)?, before);

    // Cut short, before it was ever read: the system sends a signal for what is not there.
    let folder = Folder::copy_of(GOLDEN);
    let model = folder.open()?;
    let part = model.clone();
    write(&weights(&folder)).set_len(4096).expect("less of it");
    let error = logits(&model).expect_err("there is nothing to read");
    assert_eq!(error.kind(), headlight::ErrorKind::File, "{error}");
    assert!(
        error.to_string().contains("model.safetensors") && error.to_string().contains("help: "),
        "{error}"
    );
    assert!(part.weight("W_E").is_err() && part.check_files().is_err());

    let folder = Folder::copy_of(GOLDEN);
    let model = folder.open()?;
    assert_eq!(logits(&model)?, before);
    soon();
    let mut file = write(&weights(&folder));
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(-64)).expect("near its end");
    file.write_all(&[0; 64]).expect("other numbers");
    let error = logits(&model).expect_err("they are not what was opened");
    assert!(error.to_string().contains("was written to"), "{error}");
    Ok(())
}

/// A tokenizer is read when text is, from what was there when the model was opened.
#[test]
fn a_tokenizer_that_is_taken_away() -> Result<()> {
    let (vocab, merges) = small_bpe(120);
    for files in [
        vec![("tokenizer.json", tokenizer_json(&vocab, &merges).to_string())],
        vec![("vocab.json", vocab.to_string()), ("merges.txt", merges.clone())],
    ] {
        let folder = Folder::copy_of(GOLDEN);
        files.iter().for_each(|(name, text)| folder.write(name, text));
        let (model, copy) = (folder.open()?, folder.open()?);
        let ids = model.to_tokens("the cat")?.ids().to_vec();
        files.iter().for_each(|(name, _)| folder.remove(name));
        assert_eq!(copy.to_tokens("the cat")?.ids(), ids);
        assert_eq!(copy.clone().to_string(&ids), model.to_string(&ids));
        assert!(folder.open()?.to_tokens("the cat").is_err());
    }
    Ok(())
}

/// Files that one may not read are refused by name. Root may read all: it asks as nobody.
#[test]
#[cfg(unix)]
fn files_without_permission() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let chmod = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is one's own");
    };
    let folder = Folder::copy_of(GOLDEN).with_tokenizer();
    let program = folder.path("headlight");
    std::fs::copy(env!("CARGO_BIN_EXE_headlight"), &program).expect("room for it");
    chmod(&folder.path("."), 0o755);
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let path = folder.path(name);
        chmod(&path, 0o000);
        let mut command = std::process::Command::new(&program);
        command.args(["loss", ".", "--tokens", "1,2"]).current_dir(folder.path("."));
        if std::fs::metadata(&path).expect("it is there").uid() == 0 {
            command.uid(NOBODY);
        }
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        for fragment in ["cannot read", name, "ermission denied", "help: "] {
            assert!(said.contains(fragment), "{name}: no `{fragment}` in {said}");
        }
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        chmod(&path, 0o644);
    }
}
