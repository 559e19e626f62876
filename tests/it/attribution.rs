//! Direct logit attribution, the logit lens and the split of attention scores, against TransformerLens and by identity.

use crate::common::{Golden, MODELS, max_abs_diff, numbers, refused};
use headlight::prelude::*;
use headlight::{ErrorKind, Result};

const SECTION: &str = "attribution_B_proc64";

fn wide(named: &NamedTensor) -> Vec<f64> {
    named.to_vec().expect("values").into_iter().map(f64::from).collect()
}

fn labels(named: &NamedTensor) -> Vec<String> {
    named.axes()[0].labels().expect("labels").to_vec()
}

/// The answer, the wrong answer, and the position at which the goldens compare them.
fn question(golden: &Golden) -> (u32, u32, usize) {
    let id = |key: &str| golden.at(&[SECTION, key]).as_u64().expect("an id") as u32;
    assert_eq!(golden.at(&[SECTION, "position"]).as_str(), Some("-2"));
    (id("answer_token"), id("wrong_token"), golden.ids("B").len() - 2)
}

/// The model as it is and folded, each with its run of B.
fn forms(golden: &Golden) -> Result<Vec<(&'static str, Model, Run)>> {
    let raw = Model::open(&golden.folder)?;
    let folded = raw.folded()?;
    let (raw_run, folded_run) =
        (raw.run_with_cache(golden.ids("B"))?, folded.run_with_cache(golden.ids("B"))?);
    Ok(vec![("raw", raw, raw_run), ("folded", folded, folded_run)])
}

#[test]
fn stacks_say_what_transformer_lens_says() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let (right, wrong, position) = question(&golden);
        let model = Model::open(&golden.folder)?.folded()?;
        let run = model.run_with_cache(golden.ids("B"))?;
        let check = |what: &str, found: &[f64], expected: &[f64]| {
            let apart = max_abs_diff(found, expected);
            println!("{name}, {what}: {apart:.1e}");
            assert!(apart < 1e-4, "{name}, {what}: differs by {apart}");
        };
        let one = |key: &str| golden.at(&[SECTION, key]).as_f64().expect("a number");
        let stacks = [
            ("accumulated_resid", accumulated_resid(&run, model.spec().has(Site::ResidMid))?),
            ("decompose_resid", decompose_resid(&run)?),
            ("stack_head_results", stack_head_results(&model, &run)?),
            ("full_resid_decomposition(no neurons, ln applied)", full_resid_decomposition(&model, &run)?),
        ];
        for (key, stack) in &stacks {
            assert_eq!(labels(stack), golden.strings(&format!("/{SECTION}/{key}/labels")), "{name}, {key}");
            let said = logit_attrs(&model, stack, &run, right, wrong)?.select("position", position)?;
            let expected: Vec<f64> = numbers(golden.at(&[SECTION, key, "logit_diff"])).collect();
            check(key, &wide(&said), &expected);
        }
        let said =
            wide(&logit_attrs(&model, &stacks[1].1, &run, right, Some(wrong))?.select("position", position)?);
        let expected: Vec<f64> = numbers(golden.at(&[SECTION, "logit_attrs(decompose_resid)"])).collect();
        check("logit_attrs", &said, &expected);
        let full = logit_attrs(&model, &stacks[3].1, &run, right, wrong)?.sum("component")?;
        check("sum", &[full.value(&[position])?.into()], &[one("sum_of_full_decomposition")]);
        check("b_U", &[logit_bias(&model, right, wrong)?.into()], &[one("bU_diff")]);
        let all = full.value(&[position])? + logit_bias(&model, right, wrong)?;
        check("logit difference", &[all.into()], &[one("actual_logit_diff")]);

        // The same from heads alone, without a stack; and from kept results.
        let expected: Vec<f64> = numbers(golden.at(&[SECTION, "stack_head_results", "logit_diff"])).collect();
        let by_position = head_logit_attribution_by_position(&model, &run, right, wrong)?;
        assert_eq!(by_position.axis_names(), ["layer", "head", "position"]);
        check("heads by position", &wide(&by_position.select("position", position)?), &expected);
        let ids = golden.ids("B");
        let cut = model.run_with_options(&ids[..=position], &RunOptions::all())?;
        let last = head_logit_attribution(&model, &cut, right, wrong)?;
        assert_eq!(last.values().axis_names(), ["layer", "head"]);
        check("heads at the last position", &wide(last.values()), &expected);
        let kept = stack_head_results(&model, &model.run_with_options(&ids, &RunOptions::all())?)?;
        check("results kept or made", &wide(&kept), &wide(&stacks[2].1));
    }
    Ok(())
}

#[test]
fn logit_lens_of_transformer_lens() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        for (form, model, run) in forms(&golden)? {
            let lens = logit_lens(&model, &run)?;
            let next = lens.log_prob_of_next()?;
            let layers = model.dims().n_layers;
            let mut rows: Vec<String> = (0..layers).map(|layer| format!("{layer}_pre")).collect();
            rows.push("final_post".into());
            assert_eq!(next.axes()[0].labels(), Some(&rows[..]));
            if form == "folded" {
                let expected: Vec<f64> =
                    numbers(golden.at(&[SECTION, "logit_lens_logprob_of_next"])).collect();
                let apart = max_abs_diff(&wide(next), &expected);
                println!("{name}: lens {apart:.1e}");
                assert!(apart < 1e-4, "{name}: differs by {apart}");
                let expected: Vec<u32> = numbers(golden.at(&[SECTION, "logit_lens_top1_per_layer_pos"]))
                    .map(|id| id as u32)
                    .collect();
                assert_eq!(lens.top_ids().concat(), expected, "{name}");
            }
            // The last row is what the model says.
            let losses = run.loss_per_token()?.to_vec()?;
            let last = next.select("layer", layers)?.to_vec()?;
            assert!(last.iter().zip(&losses).all(|(log_prob, loss)| (log_prob + loss).abs() < 1e-4));
            let best = &lens.top_at_last()[layers][0];
            let end = lens.probability().shape()[1] - 1;
            assert_eq!(best.0, lens.top_tokens()[layers][end], "{name}, {form}");
            assert!((best.1 - lens.probability().value(&[layers, end])?).abs() < 1e-6);
            assert!(lens.figure()?.to_text().contains("final_post"));
            assert!(!format!("{lens:?}").contains('\n'));
        }
    }
    Ok(())
}

/// Folded or not, what the parts say and the bias are the logits, at every position, for one token and for two.
#[test]
fn attributions_sum_to_the_logits() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let (right, wrong, _) = question(&golden);
        for (form, model, run) in forms(&golden)? {
            let logits = run.logits()?;
            let column = |id: u32| wide(&logits.select("d_vocab", id as usize).expect("a column"));
            let difference: Vec<f64> = column(right).iter().zip(column(wrong)).map(|(a, b)| a - b).collect();
            for stack in [full_resid_decomposition(&model, &run)?, decompose_resid(&run)?] {
                for (incorrect, expected) in [(Some(wrong), &difference), (None, &column(right))] {
                    let said = logit_attrs(&model, &stack, &run, right, incorrect)?.sum("component")?;
                    let bias = f64::from(logit_bias(&model, right, incorrect)?);
                    let found: Vec<f64> = wide(&said).iter().map(|said| said + bias).collect();
                    let apart = max_abs_diff(&found, expected);
                    println!("{name}, {form}, {}: {apart:.1e}", stack.name());
                    assert!(apart < 1e-4, "{name}, {form}, {}: differs by {apart}", stack.name());
                }
                let sum = wide(&stack.sum("component")?);
                let last = run.resid_post(model.dims().n_layers - 1)?;
                assert!(max_abs_diff(&sum, &wide(&last)) < 1e-4, "{name}, {form}");
            }
            // Normalised parts times W_U's columns are the same.
            let stack = full_resid_decomposition(&model, &run)?;
            let normalized = apply_ln_to_stack(&model, &stack, &run)?;
            let w_u = model.weight("W_U")?.select("d_vocab", right as usize)?.to_vec()?;
            let said = wide(&logit_attrs(&model, &stack, &run, right, None)?);
            let rows = normalized.to_vec()?;
            let found: Vec<f64> = rows
                .chunks(w_u.len())
                .map(|row| row.iter().zip(&w_u).map(|(a, b)| f64::from(a * b)).sum())
                .collect();
            assert!(max_abs_diff(&found, &said) < 1e-4, "{name}, {form}");
        }
    }
    Ok(())
}

#[test]
fn an_ablated_head_says_nothing() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-induction");
    let (right, wrong, _) = question(&golden);
    let model = Model::open(&golden.folder)?.ablate(head(1, 2), Ablation::Zero)?;
    let run = model.run_with_cache(golden.ids("B"))?;
    let said = head_logit_attribution(&model, &run, right, wrong)?;
    assert_eq!(said.at(head(1, 2))?, 0.0);
    assert!(said.at(head(1, 1))?.abs() > 0.1);
    assert!(said.values().name().contains(&format!("\"{right}\" - \"{wrong}\"")), "{}", said.values().name());
    Ok(())
}

#[test]
fn split_scores_sum_to_the_scores() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        for (form, model, run) in forms(&golden)? {
            for head in [head(0, 0), head(0, 3), head(1, 0), head(1, 2)] {
                let split = decompose_attn_scores(&model, &run, head);
                if name == "tiny-qwen3" {
                    let error = split.expect_err("normed queries and keys").to_string();
                    assert!(error.contains("no sum of parts"), "{error}");
                    continue;
                }
                let split = split?;
                let has = |site| usize::from(model.spec().has(site));
                let components = 2 + has(Site::PosEmbed) + head.layer * (4 + has(Site::MlpOut));
                assert_eq!(split.shape(), [components, components, 41, 41]);
                let sum = split.sum("query component")?.sum("key component")?.to_vec()?;
                let scores = run.attn_scores(head.layer)?.select("head", head.head)?.to_vec()?;
                let mut apart = 0f32;
                for (found, expected) in sum.iter().zip(&scores) {
                    match *expected == f32::NEG_INFINITY {
                        true => assert_eq!((*found, *expected), (f32::NEG_INFINITY, f32::NEG_INFINITY)),
                        false => apart = apart.max((found - expected).abs()),
                    }
                }
                println!("{name}, {form}, {head}: {apart:.1e}");
                assert!(apart < 1e-4, "{name}, {form}, {head}: differs by {apart}");

                let spread = attn_score_spread(&model, &run, head)?;
                assert_eq!(spread.axis_names(), ["query component", "key component"]);
                let (a, b) = (components - 1, 0);
                let cells = split.select("query component", a)?.select("key component", b)?.to_vec()?;
                let seen: Vec<f64> =
                    cells.into_iter().filter(|cell| cell.is_finite()).map(f64::from).collect();
                let mean = seen.iter().sum::<f64>() / seen.len() as f64;
                let variance = seen.iter().map(|cell| (cell - mean).powi(2)).sum::<f64>() / seen.len() as f64;
                assert!((f64::from(spread.value(&[a, b])?) - variance.sqrt()).abs() < 1e-5, "{name}, {head}");
            }
        }
    }
    Ok(())
}

/// One entry each by plain sums: a head below as query component, and the embedding as key component.
#[test]
fn one_split_score_by_hand() -> Result<()> {
    for name in ["tiny-gpt2-random", "tiny-gpt2-induction"] {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let run = model.run_with_options(golden.ids("B"), &RunOptions::all())?;
        let (query, key, reader) = (25, 6, head(1, 1));
        let split = decompose_attn_scores(&model, &run, reader)?;
        let at = |label: &str| split.axes()[0].labels().expect("labels").iter().position(|l| l == label);
        let weight = |name: &str| -> Result<Vec<f64>> { Ok(wide(&model.weight(name)?)) };
        let (gain, scale) = (weight("blocks.1.ln1.w")?, wide(&run.get("blocks.1.ln1.hook_scale")?));
        let project = |x: Vec<f64>, position: usize, part: &str| -> Result<Vec<f64>> {
            let w = wide(&model.weight(&format!("blocks.1.attn.W_{part}"))?.select("head", reader.head)?);
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let normal = x.iter().zip(&gain).map(|(x, gain)| (x - mean) / scale[position] * gain);
            let normal: Vec<f64> = normal.collect();
            Ok((0..16).map(|d| normal.iter().enumerate().map(|(m, x)| x * w[m * 16 + d]).sum()).collect())
        };
        let from_head = wide(&run.get(("result", 0))?.select("position", query)?.select("head", 2)?);
        let embedded = wide(&run.get(Site::Embed)?.select("position", key)?);
        let (q, k) = (project(from_head, query, "Q")?, project(embedded, key, "K")?);
        let expected: f64 = q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() / 4.0;
        let index = [at("L0H2").expect("a head"), at("embed").expect("the embedding"), query, key];
        let apart = (f64::from(split.value(&index)?) - expected).abs();
        assert!(apart < 1e-5, "{name}: {apart} from {expected}");
    }
    Ok(())
}

#[test]
fn loss_falls_on_the_second_copy() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-induction");
    let model = Model::open(&golden.folder)?;
    let repeated = RepeatedTokens { length: 20, batch: 3, seed: 1 };
    let loss = loss_on_repeats(&model, &repeated)?;
    let by_hand = repeated.ids(&model)?;
    let mean: f32 = by_hand
        .iter()
        .map(|ids| model.loss_per_token(ids).and_then(|losses| losses.value(&[7])).expect("a loss"))
        .sum::<f32>()
        / 3.0;
    assert!((loss.values().value(&[7])? - mean).abs() < 1e-5);
    assert_eq!(loss.values().shape(), [40]);
    assert_eq!(loss.values().axes()[0].label(0), "1");
    let (first, second) = (loss.first_copy()?, loss.second_copy()?);
    assert!(first > 4.0 && second < 1.5, "{first} and {second}");
    assert!(matches!(loss.views()?[..], [View::Lines(_)]));
    assert!(format!("{loss:?}").contains("the second"));
    Ok(())
}

#[test]
fn what_cannot_be_attributed_is_refused() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-random");
    let model = Model::open(&golden.folder)?;
    let ids = golden.ids("B");
    let run = model.run_with_cache(&ids)?;
    let short = model.run_with_cache(golden.ids("A"))?;
    let two = model.run_with_cache(vec![golden.ids("A"), ids.clone()])?;
    let patterns = model.run_with_options(&ids, &RunOptions::only([Site::Pattern]))?;
    let folded = model.folded()?;
    let other = Model::open("built-in")?.run_with_cache("the cat sat")?;
    let one = model.run_with_cache(&ids[..1])?;
    let long = model.run_with_cache((0..128).map(|i| i % 100).collect::<Vec<u32>>())?;
    let stack = decompose_resid(&run)?;
    fn nothing<T>(outcome: Result<T>) -> Result<()> {
        outcome.map(|_| ())
    }
    let cases: Vec<(&str, Result<()>, ErrorKind, &[&str])> = vec![
        (
            "no streams kept",
            nothing(accumulated_resid(&patterns, false)),
            ErrorKind::Address,
            &["blocks.0.hook_resid_pre", "RunOptions::new()"],
        ),
        ("no parts kept", nothing(decompose_resid(&patterns)), ErrorKind::Address, &["hook_embed"]),
        (
            "no z kept",
            nothing(stack_head_results(&model, &patterns)),
            ErrorKind::Address,
            &["blocks.0.attn.hook_z"],
        ),
        (
            "no scale kept",
            nothing(logit_attrs(&model, &stack, &patterns, 1, 2)),
            ErrorKind::Address,
            &["ln_final.hook_scale"],
        ),
        ("no lens", nothing(logit_lens(&model, &patterns)), ErrorKind::Address, &["blocks.0.hook_resid_pre"]),
        (
            "no queries' parts",
            nothing(decompose_attn_scores(&model, &patterns, head(1, 0))),
            ErrorKind::Address,
            &["hook_embed"],
        ),
        ("two inputs", nothing(accumulated_resid(&two, true)), ErrorKind::Input, &["2 inputs", "item(0)"]),
        (
            "two inputs' heads",
            nothing(head_logit_attribution(&model, &two, 1, 2)),
            ErrorKind::Input,
            &["2 inputs", "item(0)"],
        ),
        (
            "two inputs' scores",
            nothing(attn_score_spread(&model, &two, head(0, 0))),
            ErrorKind::Input,
            &["2 inputs"],
        ),
        (
            "a token out of range",
            nothing(head_logit_attribution(&model, &run, 160, None)),
            ErrorKind::Input,
            &["160", "0 to 159"],
        ),
        (
            "a wrong token out of range",
            nothing(logit_bias(&model, 1, 9999)),
            ErrorKind::Input,
            &["9999", "ids are 0 to 159"],
        ),
        (
            "a run of another model",
            nothing(logit_lens(&model, &other)),
            ErrorKind::Input,
            &["built-in", "tiny-gpt2-random", "run this model"],
        ),
        (
            "a run of the model before it was folded",
            nothing(full_resid_decomposition(&folded, &run)),
            ErrorKind::Input,
            &["tiny-gpt2-random, folded", "run this model"],
        ),
        (
            "a stack of another run",
            nothing(logit_attrs(&model, &stack, &short, 1, 2)),
            ErrorKind::Axes,
            &["41", "12 positions", "decompose_resid"],
        ),
        (
            "no stack",
            nothing(apply_ln_to_stack(&model, &run.z(0)?, &run)),
            ErrorKind::Axes,
            &["hook_z", "[component, position, d_model]"],
        ),
        (
            "a head that is not",
            nothing(decompose_attn_scores(&model, &run, head(1, 4))),
            ErrorKind::Address,
            &["L1H4", "L0H0 to L1H3"],
        ),
        (
            "nothing to predict",
            nothing(logit_lens(&model, &one)?.log_prob_of_next()),
            ErrorKind::Input,
            &["one token"],
        ),
        (
            "repeats that do not fit",
            nothing(loss_on_repeats(&model, &RepeatedTokens { length: 64, batch: 1, seed: 0 })),
            ErrorKind::Input,
            &["64 tokens", "3 to 63"],
        ),
    ];
    refused(cases);
    // The longest input still fits the limit of a tiny model.
    assert_eq!(decompose_attn_scores(&model, &long, head(1, 0))?.shape(), [8, 8, 128, 128]);
    Ok(())
}
