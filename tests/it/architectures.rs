//! Where architectures differ: what each lacks and says so, heads that share keys, configs as other versions write them.

use crate::common::folder;
use crate::common::folder::Folder;
use crate::common::{Golden, MODELS, max_abs_diff, refused};
use headlight::analysis::course_project::*;
use headlight::analysis::*;
use headlight::prelude::*;
use headlight::{ErrorKind, Result};
use serde_json::{Value, json};

fn open(golden: &str) -> Result<Model> {
    Model::open(&Golden::open(golden).folder)
}

fn nothing<T>(outcome: Result<T>) -> Result<()> {
    outcome.map(drop)
}

#[test]
fn what_a_model_lacks_is_said() -> Result<()> {
    let [llama, neox, bare, gpt2] =
        ["tiny-llama-random", "tiny-neox", "tiny-attn-only-bare", "tiny-gpt2-random"].map(open);
    let (llama, neox, bare, gpt2) = (llama?, neox?, bare?, gpt2?);
    let ids = vec![0, 5, 6, 7, 5, 6, 7];
    let (of_neox, of_bare) = (neox.run_with_cache(&ids)?, bare.run_with_cache(&ids)?);
    let address = ErrorKind::Address;
    refused(vec![
        ("no positions", nothing(llama.weight("W_pos")), address, &["`W_pos`"]),
        (
            "no embedded positions to edit",
            nothing(llama.edit(Site::PosEmbed, "halved", |x| Ok((x * 0.5)?))),
            address,
            &["no `hook_pos_embed`", "rotate queries and keys", "hook_rot_q"],
        ),
        (
            "no rotary queries to patch",
            nothing(gpt2.patch(("rot_q", 0), None, None, &gpt2.run_with_cache(&ids)?)),
            address,
            &["no `blocks.0.attn.hook_rot_q`", "attn.hook_q"],
        ),
        (
            "no middle to run",
            nothing(neox.run_with_options(&ids, &RunOptions::only([Site::ResidMid]))),
            address,
            &["hook_resid_mid", "the same stream", "hook_resid_pre"],
        ),
        ("no middle to read", nothing(of_neox.get(("resid_mid", 1))), address, &["the same stream"]),
        ("no middle to stack", nothing(accumulated_resid(&of_neox, true)), address, &["the same stream"]),
        (
            "no middle to patch",
            nothing(activation_patching(&neox, &ids, &ids, Site::ResidMid, &Metric::Loss)),
            address,
            &["the same stream"],
        ),
        ("no gate", nothing(neox.edit(("pre_linear", 0), "x", |x| Ok(x.clone()))), address, &["no gate"]),
        ("no MLP to ablate", nothing(bare.ablate(mlp(0), Ablation::Zero)), address, &["no MLPs"]),
        (
            "no neuron to ablate",
            nothing(bare.ablate(mlp(0).neuron(0), Ablation::Zero)),
            address,
            &["no MLPs"],
        ),
        ("no norm", nothing(of_bare.get("ln_final.hook_scale")), address, &["no norms"]),
        ("no layer", nothing(bare.weight("blocks.3.attn.W_Q")), address, &["blocks.3.attn.W_Q"]),
    ]);
    let names: Vec<String> = bare.hooks().iter().map(ToString::to_string).collect();
    assert_eq!(names, Golden::open("tiny-attn-only-bare").strings("/hook_order"));
    Ok(())
}

/// Every analysis runs on every architecture, or says why not; what the numbers are, other tests hold.
#[test]
fn detection_and_truth_of_every_architecture() -> Result<()> {
    let repeated = RepeatedTokens { length: 15, batch: 2, seed: 1 };
    for name in MODELS {
        for model in [open(name)?, open(name)?.folded()?] {
            let heads = model.dims().n_layers * model.dims().n_heads;
            let everything = Criteria { prefix_matching: -1.0, ..Criteria::default() };
            let truth = causal_truth_by(&model, &everything, &repeated)?;
            assert_eq!(truth.views()?.len(), 1, "{name}");
            let Evidence { prefix_matching, copying, effect } =
                truth.evidence(head(1, 3)).expect("every head was judged");
            for value in [Some(prefix_matching), copying, effect] {
                assert!(value.is_some_and(f32::is_finite), "{name}: {value:?}");
            }
            let scores = head_scores(&model, &[HeadKind::Induction], &repeated)?.remove(0);
            assert_eq!(scores.values().to_vec()?.len(), heads);
            assert!(scores.detect(DynamicThreshold::default())?.heads().len() < heads, "{name}");
            let by_position = qk_circuit(&model, head(1, 1))?.position_pattern(9)?.sum("key")?.to_vec()?;
            assert!(by_position.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{name}: {by_position:?}");
            let circuit = ov_circuit(&model, head(1, 1))?;
            assert!(circuit.figure()?.to_text().contains("L1H1"));
            assert_eq!(circuit.top_pairs(3)?.pairs().len(), 3);
            let ids = vec![0, 5, 6, 7, 5, 6, 7];
            let run = model.run_with_cache(&ids)?;
            let published = qk_as_published(&run, 0)?;
            let shared = model.dims().n_key_value_heads;
            assert_eq!(published.heads().shape(), [4, shared]);
            assert_eq!(published.as_drawn().shape(), [4.min(run.tokens()[0].len()), shared]);
            let (q, k) = (run.q(0)?, run.k(0)?);
            let last = shared - 1;
            let mut sum = 0f64;
            for position in 0..run.tokens()[0].len() {
                for d in 0..model.dims().d_head {
                    sum += f64::from(q.value(&[position, 3, d])?) * f64::from(k.value(&[position, last, d])?);
                }
            }
            let found = f64::from(published.heads().value(&[3, last])?);
            let expected = sum / run.tokens()[0].len() as f64;
            assert!((found - expected).abs() < 1e-5 * (1. + expected.abs()), "{found} is not {expected}");
            let key = if shared < 4 { format!("L0KV{last}") } else { "L0H3".into() };
            assert_eq!(published.heads().axes()[1].label(last), key);
            assert!(run.figure()?.to_text().contains("L0H1"));
        }
    }
    Ok(())
}

#[test]
fn heads_that_share_keys() -> Result<()> {
    let model = open("tiny-qwen2")?;
    assert!(format!("{model:?}").contains("2 layers of 4 heads on 2 of keys"), "{model:?}");
    // Each query head's key is that of its group, by TransformerLens's names and in all layers at once.
    for name in ["W_K", "W_V", "b_K", "b_V"] {
        let (each, shared) = (model.weight(name)?, model.weight(&format!("_{name}"))?);
        assert_eq!((each.shape()[1], shared.shape()[1]), (4, 2), "{name}");
        let of_layer = model.weight(&format!("blocks.1.attn.{name}"))?;
        assert_eq!(of_layer.axes()[0].label(3), "L1H3");
        assert_eq!(model.weight(&format!("blocks.1.attn._{name}"))?.axes()[0].label(1), "L1KV1");
        for index in 0..4 {
            let own = each.select("layer", 1)?.select("head", index)?.to_vec()?;
            assert_eq!(own, shared.select("layer", 1)?.select("head", index / 2)?.to_vec()?);
            assert_eq!(own, of_layer.select("head", index)?.to_vec()?);
        }
    }
    assert_eq!(model.query_heads_of_kv(head(1, 1))?, [head(1, 2), head(1, 3)]);
    assert!(model.query_heads_of_kv(head(1, 2)).is_err());
    let ids = vec![0, 5, 6, 7, 5, 6, 7];
    let run = model.run_with_cache(&ids)?;
    assert_eq!((run.q(0)?.shape()[1], run.k(0)?.shape()[1]), (4, 2));
    assert_eq!(run.k(0)?.axes()[1].label(1), "L0KV1");
    // A key's query heads one by one are other than all of them together.
    let loss = |model: Model| model.loss(&ids);
    let both = loss(model.ablate(model.query_heads_of_kv(head(0, 0))?, Ablation::Zero)?)?;
    let one = loss(model.ablate(head(0, 0), Ablation::Zero)?)?;
    assert_ne!(both, one);
    let patched = activation_patching(&model, &ids, vec![0, 5, 9, 7, 5, 6, 7], Site::K, &Metric::Loss)?;
    assert_eq!(patched.axes()[1].labels(), Some(&["KV0", "KV1"].map(String::from)[..]));
    let wrong =
        model.patch(("k", 0), Some(2), None, &run).expect_err("there are two heads of keys").to_string();
    assert!(wrong.contains("L0H2") && wrong.contains("2 heads"), "{wrong}");
    Ok(())
}

/// TransformerLens's `default_prepend_bos`.
#[test]
fn bos_is_put_before_text_or_not() -> Result<()> {
    let cases = [
        ("tiny-neo", true),
        ("tiny-gptj", true),
        ("tiny-mistral", true),
        ("tiny-attn-only", true),
        ("tiny-neox", false),
        ("tiny-qwen2", false),
        ("tiny-qwen3", false),
    ];
    for (name, expected) in cases {
        let folder = Folder::copy_of(name);
        let (vocab, merges) = folder::small_bpe(28);
        folder.write("tokenizer.json", folder::tokenizer_json(&vocab, &merges).to_string());
        let model = folder.open()?;
        assert_eq!(model.to_tokens("the cat")?.starts_with_bos(), expected, "{name}");
        assert!(!model.to_tokens(no_bos("the cat"))?.starts_with_bos(), "{name}");
        assert_eq!(model.bos(), Some(0));
    }
    Ok(())
}

/// Whatever the architecture calls them: norms change nothing, biases are 0, and the seed says the rest.
#[test]
fn random_weights_of_every_architecture() -> Result<()> {
    for name in MODELS {
        let trained = open(name)?;
        let random = trained.with_random_weights(3)?;
        assert_eq!((random.dims(), random.spec()), (trained.dims(), trained.spec()), "{name}");
        let ids = Golden::open(name).ids("B");
        assert_eq!(random.loss(&ids)?, trained.with_random_weights(3)?.loss(&ids)?, "{name}");
        let uniform = (trained.dims().d_vocab as f32).ln();
        assert!((random.loss(&ids)? - uniform).abs() < 0.2, "{name}: {} near {uniform}", random.loss(&ids)?);
        for bias in ["b_Q", "b_V", "b_O", "b_U"] {
            assert!(random.weight(bias)?.to_vec()?.iter().all(|value| *value == 0.0), "{name}: {bias}");
        }
        if let Ok(gain) = random.weight("ln_final.w") {
            assert!(gain.to_vec()?.iter().all(|value| *value == 1.0), "{name}");
        }
        let (read, written) = (random.weight("W_Q")?, random.weight("W_O")?);
        let deviation = |weight: &NamedTensor| -> Result<f64> {
            let values = weight.to_vec()?;
            Ok((values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / values.len() as f64)
                .sqrt())
        };
        let layers = trained.dims().n_layers as f64;
        assert!((deviation(&read)? / 0.02 - 1.0).abs() < 0.05, "{name}: {}", deviation(&read)?);
        let ratio = deviation(&read)? / deviation(&written)? / (2.0 * layers).sqrt();
        assert!((ratio - 1.0).abs() < 0.08, "{name}: what writes is drawn {ratio} as narrow");
    }
    Ok(())
}

type Change = fn(&Folder);

/// What other versions of transformers, and TransformerLens's own files, say in other words.
#[test]
fn configs_in_other_words() -> Result<()> {
    let cases: &[(&str, &str, Change)] = &[
        ("tiny-llama-random", "rope_theta of its own", |f| {
            f.unset("rope_parameters");
            f.set("rope_theta", json!(10000.0));
            f.set("rope_scaling", Value::Null);
        }),
        ("tiny-llama-random", "no head_dim", |f| f.unset("head_dim")),
        ("tiny-llama-random", "class names only", |f| f.unset("model_type")),
        ("tiny-llama3", "rope_scaling", |f| {
            f.unset("rope_parameters");
            f.set("rope_theta", json!(1000.0));
            f.set(
                "rope_scaling",
                json!({"type": "llama3", "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
            );
        }),
        ("tiny-neox", "rotary_pct", |f| {
            f.unset("rope_parameters");
            f.set("rotary_pct", json!(0.5));
            f.set("rotary_emb_base", json!(10000));
        }),
        ("tiny-neox", "lm_head", |f| {
            f.change_weights(|weights| {
                let unembedding = weights.remove("embed_out.weight").expect("an unembedding");
                weights.insert("lm_head.weight".into(), unembedding);
            });
        }),
        ("tiny-neox", "class names only", |f| f.unset("model_type")),
        ("tiny-neo", "attention_types only", |f| f.unset("attention_layers")),
        ("tiny-neo", "no prefix", |f| {
            f.change_weights(|weights| {
                *weights = std::mem::take(weights)
                    .into_iter()
                    .map(|(name, weight)| (name.trim_start_matches("transformer.").to_string(), weight))
                    .collect();
            });
        }),
        ("tiny-gptj", "class names only", |f| f.unset("model_type")),
        ("tiny-qwen2", "no layer_types", |f| f.unset("layer_types")),
        ("tiny-qwen3", "no layer_types", |f| f.unset("layer_types")),
        ("tiny-mistral", "class names only", |f| f.unset("model_type")),
        ("tiny-attn-only", "normalization", |f| {
            f.unset("normalization_type");
            f.set("normalization", json!("LN"));
        }),
    ];
    for (name, what, change) in cases {
        let golden = Golden::open(name);
        let folder = Folder::copy_of(name);
        change(&folder);
        let logits = |model: Model| model.logits(golden.ids("B"))?.to_vec();
        assert_eq!(logits(folder.open()?)?, logits(open(name)?)?, "{name}, {what}");
    }
    Ok(())
}

/// What of a model can be told of its config: logits and sizes, or what is wrong with it.
fn outcome(folder: &Folder, config: &Value) -> std::result::Result<String, String> {
    folder.write("config.json", config.to_string());
    let said = |error: headlight::Error| error.to_string().replace(folder.name(), "");
    let model = folder.open().map_err(said)?;
    let ids: Vec<u32> = (0..24).collect();
    let input = match model.spec().stacks() {
        [_] => Input::from(ids),
        _ => Input::pair(&ids[..18], &ids[2..14]),
    };
    let logits = model.logits(input).and_then(|logits| logits.to_vec()).map_err(said)?;
    Ok(format!("{:?} {:?} {logits:?}", model.dims(), model.bos()))
}

/// Each entry taken out of a config, null, and in other words: as if what transformers makes of it were written out.
#[test]
fn what_a_config_lacks() {
    // How many layers there are, and windows wider than the context, show in no other way.
    const UNSEEN: [&str; 5] =
        ["n_layer", "num_layers", "num_hidden_layers", "sliding_window", "max_window_layers"];
    let path = format!("{}/tests/golden/defaults.json", env!("CARGO_MANIFEST_DIR"));
    let all: Value = serde_json::from_slice(&std::fs::read(path).expect("the file")).expect("JSON");
    let rows = all["rows"].as_array().expect("rows");
    let mut agreed = std::collections::BTreeMap::<String, usize>::new();
    for row in rows {
        let (model, unset) =
            (row["model"].as_str().expect("a name"), row["unset"].as_array().expect("a list"));
        let folder = Folder::copy_of(model);
        let whole: Value = serde_json::from_slice(&folder.read("config.json")).expect("JSON");
        let mut config = whole.clone();
        let entries = config.as_object_mut().expect("entries");
        unset.iter().for_each(|entry| drop(entries.remove(entry.as_str().expect("a name"))));
        entries.extend(row["set"].as_object().expect("entries").clone());
        let found = outcome(&folder, &config);
        let Some(then) = row["then"].as_object() else {
            // Of a head's width TransformerLens has no default; here it is the stream's, shared by the heads.
            if !(model.starts_with("tiny-attn-only") && unset[0] == "d_head") {
                let error = found.expect_err("transformers refuses it");
                assert!(error.contains("help: ") && !error.contains("came with the model"), "{row}: {error}");
            }
            continue;
        };
        let mut written = whole.clone();
        written.as_object_mut().expect("entries").extend(then.clone());
        match (found, outcome(&folder, &written)) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{row}"),
            // What is lacking is said after all else.
            (Err(found), Err(expected)) => {
                let more = found.strip_prefix(&expected);
                assert!(
                    more.is_some_and(|more| more.is_empty() || more.starts_with("; by default, as ")),
                    "{row}: {found} is not {expected}"
                );
            }
            (found, expected) => panic!("{row}: {found:?} is not {expected:?}"),
        }
        *agreed.entry(whole["model_type"].to_string()).or_default() += 1;
        if let [entry] = unset.as_slice()
            && UNSEEN.contains(&entry.as_str().expect("a name"))
            && let Some(value) = written[entry.as_str().expect("a name")].as_u64()
        {
            folder.change_weights(|all| all.clear());
            let error = outcome(&folder, &config).expect_err("there are no weights");
            let said = format!("{} is {value}", entry.as_str().expect("a name"));
            assert!(error.contains(&said), "{row}: {error}");
        }
    }
    assert_eq!(agreed.len(), 16, "{agreed:?}");
}

/// Settings that make another model: each changes what is said, and what is known of it otherwise.
#[test]
fn settings_that_make_a_difference() -> Result<()> {
    let cases: &[(&str, &str, Change)] = &[
        ("tiny-mistral", "no window", |f| f.set("sliding_window", Value::Null)),
        ("tiny-neo", "a wider window", |f| f.set("window_size", json!(9))),
        ("tiny-neo", "the other way round", |f| f.set("attention_layers", json!(["local", "global"]))),
        ("tiny-llama3", "no scaling", |f| {
            f.set("rope_parameters", json!({"rope_type": "default", "rope_theta": 1000.0}));
        }),
        ("tiny-llama3", "linear scaling", |f| {
            f.set("rope_parameters", json!({"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0}));
        }),
        ("tiny-gptj", "all entries turned", |f| f.set("rotary_dim", Value::Null)),
        ("tiny-neox", "one after the other", |f| f.set("use_parallel_residual", json!(false))),
        ("tiny-qwen2", "a window", |f| {
            f.set("use_sliding_window", json!(true));
            f.set("sliding_window", json!(5));
            f.set("layer_types", json!(["full_attention", "sliding_attention"]));
        }),
    ];
    for (name, what, change) in cases {
        let golden = Golden::open(name);
        let folder = Folder::copy_of(name);
        change(&folder);
        let values = |model: &Model| -> Result<Vec<f64>> {
            Ok(model.logits(golden.ids("B"))?.to_vec()?.into_iter().map(f64::from).collect())
        };
        let (changed, before) = (folder.open()?, open(name)?);
        let apart = max_abs_diff(&values(&changed)?, &values(&before)?);
        assert!(apart > 1e-3 && apart.is_finite(), "{name}, {what}: differs by {apart}");
        let folded = max_abs_diff(
            &[changed.folded()?.loss(golden.ids("B"))?.into()],
            &[changed.loss(golden.ids("B"))?.into()],
        );
        assert!(folded < 1e-5, "{name}, {what}: folding changes the loss by {folded}");
        let has_middle = changed.spec().has(Site::ResidMid);
        assert_eq!(has_middle, !matches!(*name, "tiny-gptj"), "{name}, {what}");
    }
    Ok(())
}

#[test]
fn bad_configs_are_refused() {
    let config = ErrorKind::Config;
    let cases: &[(&str, &str, Change, ErrorKind, &[&str])] = &[
        (
            "tiny-llama3",
            "a yarn",
            |f| f.set("rope_parameters", json!({"rope_type": "yarn"})),
            config,
            &["\"yarn\"", "llama3"],
        ),
        (
            "tiny-llama3",
            "no factor",
            |f| f.set("rope_parameters", json!({"rope_type": "linear"})),
            config,
            &["\"linear\"", "no factor", "write it"],
        ),
        (
            "tiny-llama3",
            "a base of 0",
            |f| f.set("rope_parameters", json!({"rope_theta": 0})),
            config,
            &["rope_theta = 0"],
        ),
        (
            "tiny-llama3",
            "bounds that cross",
            |f| {
                f.set(
                    "rope_parameters",
                    json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}),
                );
            },
            config,
            &["low_freq_factor = 4", "below"],
        ),
        (
            "tiny-llama3",
            "heads that cannot share",
            |f| f.set("num_key_value_heads", json!(3)),
            config,
            &["num_attention_heads = 4", "num_key_value_heads = 3", "divisible"],
        ),
        (
            "tiny-llama3",
            "no key heads",
            |f| f.set("num_key_value_heads", json!(0)),
            config,
            &["num_key_value_heads = 0"],
        ),
        ("tiny-llama3", "biases of the MLP", |f| f.set("mlp_bias", json!(true)), config, &["mlp_bias"]),
        (
            "tiny-llama3",
            "an unknown nonlinearity",
            |f| f.set("hidden_act", json!("relu6")),
            config,
            &["relu6"],
        ),
        (
            "tiny-llama3",
            "a wide head",
            |f| f.set("head_dim", json!(4_000_000_000u64)),
            config,
            &["4000000000 entries", "65536"],
        ),
        ("tiny-qwen3", "an odd head", |f| f.set("head_dim", json!(13)), config, &["13 of the 13", "even"]),
        (
            "tiny-neox",
            "odd entries turned",
            |f| {
                f.set("rope_parameters", json!({"partial_rotary_factor": 0.4}));
            },
            config,
            &["rotary_pct = 0.4", "3 of the 8", "even"],
        ),
        (
            "tiny-gptj",
            "too much turned",
            |f| f.set("rotary_dim", json!(10)),
            config,
            &["rotary_dim = 10", "10 of the 8"],
        ),
        ("tiny-neo", "no window", |f| f.set("window_size", json!(0)), config, &["window_size = 0"]),
        (
            "tiny-neo",
            "too few layers named",
            |f| {
                f.set("attention_layers", json!(["global"]));
                f.set("attention_types", json!([]));
            },
            config,
            &["layer 1", "attention_layers"],
        ),
        (
            "tiny-neo",
            "another reach",
            |f| f.set("attention_layers", json!(["far", "near"])),
            config,
            &["far"],
        ),
        ("tiny-mistral", "no window", |f| f.set("sliding_window", json!(0)), config, &["sliding_window = 0"]),
        ("tiny-attn-only", "MLPs", |f| f.set("attn_only", json!(false)), config, &["attn_only = false"]),
        ("tiny-attn-only", "another norm", |f| f.set("normalization_type", json!("BN")), config, &["BN"]),
        (
            "tiny-attn-only-bare",
            "norms that it has not",
            |f| f.set("normalization_type", json!("LN")),
            ErrorKind::Weights,
            &["blocks.0.ln1.w"],
        ),
    ];
    refused(
        cases
            .iter()
            .map(|(name, what, change, kind, fragments)| {
                let folder = Folder::copy_of(name);
                change(&folder);
                (*what, folder.open().map(drop), *kind, *fragments)
            })
            .collect(),
    );
}

/// Settings that the tiny models do not have, against transformers' logits; and folding changes none of them but by a
/// constant that the softmax takes away.
#[test]
fn variants_of_transformers() -> Result<()> {
    let folder = format!("{}/tests/golden/variants", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the variants") {
        let path = entry.expect("a variant").path();
        let golden =
            candle_core::safetensors::load(path.join("golden.safetensors"), &candle_core::Device::Cpu);
        let golden = golden.expect("a golden");
        let ids: Vec<u32> = golden["ids"].to_vec1()?;
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
        let expected = wide(golden["logits"].flatten_all()?.to_vec1()?);
        let model = Model::open(path.to_str().expect("UTF-8"))?;
        let apart = max_abs_diff(&wide(model.logits(&ids)?.to_vec()?), &expected);
        println!("{}: {apart:.1e}", model.name());
        assert!(apart < 1e-5, "{}: differs by {apart}", model.name());
        let log_probs = |model: &Model| -> Result<Vec<f64>> {
            Ok(wide(model.run_with_cache(&ids)?.log_probs()?.to_vec()?))
        };
        let apart = max_abs_diff(&log_probs(&model.folded()?)?, &log_probs(&model)?);
        assert!(apart < 1e-5, "{}, folded: differs by {apart}", model.name());
        seen += 1;
    }
    assert_eq!(seen, 12);
    Ok(())
}
