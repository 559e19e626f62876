//! A causal stack that attends to one that sees all: run, read, edited, swept, saved and drawn.

use candle_core::Tensor;

use crate::analysis::{Metric, ablation_effects, activation_patching, attribution_patching};
use crate::error::{Error, Result};
use crate::hook::{Hook, Site, Stack, head};
use crate::model::edit::{Ablation, AttentionEdge, mlp};
use crate::model::input::Input;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::model::run_options::RunOptions;
use crate::named::NamedTensor;
use crate::network::record::Record;
use crate::tests::naive::{Rows, forward};
use crate::tests::toys;
use crate::view::Visualize;

const SOURCES: [&[u32]; 3] = [&[3, 1, 4, 1, 5], &[9, 2, 6], &[5, 3, 5, 8]];
const TARGETS: [&[u32]; 3] = [&[2, 7, 1, 8], &[2, 8, 1, 8, 2, 8], &[4, 5]];

fn translators() -> Result<[Model; 3]> {
    Ok([toys::translator()?, toys::post_norm_translator()?, toys::relative_translator()?])
}

fn inputs() -> Input {
    let all = |ids: [&[u32]; 3]| ids.iter().map(|ids| ids.to_vec()).collect::<Vec<_>>();
    Input::pair(all(SOURCES), all(TARGETS))
}

fn one() -> Input {
    Input::pair(SOURCES[0].to_vec(), TARGETS[0].to_vec())
}

/// What a decoder reads of a target: the start, and all but the last.
fn read(target: &[u32]) -> Vec<u32> {
    [&[0], &target[..target.len() - 1]].concat()
}

/// The furthest that numbers lie from those that were written out.
fn apart(tensor: &NamedTensor, rows: &[Rows]) -> Result<f64> {
    let values = tensor.to_vec()?;
    let expected: Vec<f64> = rows.iter().flatten().flatten().copied().collect();
    assert_eq!(values.len(), expected.len(), "{tensor:?}");
    Ok(values.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max))
}

/// Padded batches and single inputs, with whatever is kept, give what the pass that is written out gives.
#[test]
fn runs_are_the_forward_pass() -> Result<()> {
    for model in translators()? {
        let every =
            [RunOptions::new(), RunOptions::all(), RunOptions::only([Site::Pattern, Site::UnembedOut])];
        for options in every {
            let batch = model.run_with_options(inputs(), &options)?;
            for (index, (source, target)) in SOURCES.iter().zip(TARGETS).enumerate() {
                let alone =
                    model.run_with_options(Input::pair(source.to_vec(), target.to_vec()), &options)?;
                let (outcomes, logits) = forward(&model.network, &[*source, &read(target)])?;
                for run in [batch.item(index)?, alone] {
                    // Sums of a few dozen products in f32.
                    assert!(apart(&run.get(Site::UnembedOut)?, std::slice::from_ref(&logits))? < 2e-5);
                    for (layer, patterns) in outcomes[0].own.iter().enumerate() {
                        let hook = Site::Pattern.at(layer).of(Stack::Encoder);
                        assert!(apart(&run.get(hook)?, patterns)? < 1e-5, "{hook}");
                    }
                    for layer in 0..3 {
                        let hook = Site::Pattern.at(layer).of(Stack::Decoder);
                        assert!(apart(&run.get(hook)?, &outcomes[1].own[layer])? < 1e-5, "{hook}");
                        let hook = hook.cross();
                        let pattern = run.get(hook)?;
                        assert_eq!(pattern.shape(), [4, target.len(), source.len()]);
                        assert!(apart(&pattern, &outcomes[1].cross[layer])? < 1e-5, "{hook}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Ablation of each head and MLP is the same as a change of one's own, and a sweep finds what each does by itself.
#[test]
fn parts_are_ablated_and_swept() -> Result<()> {
    for model in translators()? {
        let heads: Vec<String> = model.heads().map(|head| head.to_string()).collect();
        assert_eq!(heads[..7], ["E0H0", "E0H1", "E0H2", "E1H0", "E1H1", "E1H2", "D0H0"]);
        assert_eq!(heads[10..15], ["D0X0", "D0X1", "D0X2", "D0X3", "D1H0"]);
        let metric = Metric::Loss;
        let effects = ablation_effects(&model, inputs(), Ablation::Zero, &metric)?;
        let clean = metric.measure(&model, inputs())?;
        assert!((clean - effects.clean()).abs() < 1e-6);
        for head in model.heads() {
            let alone = metric.measure(&model.ablate(head, Ablation::Zero)?, inputs())? - clean;
            let swept = effects.heads().at(head)?;
            assert!((alone - f64::from(swept)).abs() < 1e-5, "{head}: {alone} alone, {swept} in a sweep");
            let index = head.head;
            let own = model.edit(head.hook(Site::Z), "zeroed", move |z| {
                let heads = z.dim(2)?;
                let stays = Tensor::arange(0u32, heads as u32, z.device())?.ne(index as u32)?;
                Ok(z.broadcast_mul(&stays.to_dtype(z.dtype())?.reshape((heads, 1))?)?)
            })?;
            let own = metric.measure(&own, inputs())? - clean;
            assert!((alone - own).abs() < 1e-6, "{head}");
        }
        let panels: Vec<Vec<usize>> = effects.heads().panels().map(|panel| panel.shape().to_vec()).collect();
        assert_eq!(panels, [[2, 3], [3, 4], [3, 4]]);
        for (stack, values) in [Stack::Encoder, Stack::Decoder].into_iter().zip(effects.layers_of_stacks()) {
            for layer in 0..values.shape()[1] {
                let without = model.ablate(mlp(layer).of(stack), Ablation::Zero)?;
                let alone = metric.measure(&without, inputs())? - clean;
                assert!((alone - f64::from(values.value(&[0, layer])?)).abs() < 1e-5, "{stack} MLP {layer}");
            }
        }
        assert_eq!(effects.views()?.len(), 5);
    }
    Ok(())
}

/// Patching finds in each stack, and across them, what one patch by itself does; where nothing but its place is changed, the
/// gradient estimates it.
#[test]
fn every_stack_is_patched() -> Result<()> {
    let metric = Metric::LogitDiff { correct: 5, incorrect: 6, position: None };
    for model in translators()? {
        let clean = Input::pair(vec![3u32, 1, 7, 1, 5], TARGETS[0].to_vec());
        let from = model.run_with_options(&clean, &RunOptions::all())?;
        let before = metric.measure(&model, one())?;
        let all: Vec<Hook> = [Stack::Encoder, Stack::Decoder]
            .into_iter()
            .flat_map(|stack| {
                [
                    Site::Z,
                    Site::K,
                    Site::Pattern,
                    Site::ResidPre,
                    Site::Ln1Scale,
                    Site::Ln1Normalized,
                    Site::MlpPost,
                ]
                .map(|site| Hook::from(site).of(stack))
            })
            .chain([Site::Z, Site::K, Site::Pattern].map(|site| Hook::from(site).of(Stack::Decoder).cross()))
            .collect();
        for site in all {
            let patched = activation_patching(&model, &clean, one(), site, &metric)?;
            let estimate = attribution_patching(&model, &clean, one(), site, &metric)?;
            assert_eq!(patched.shape(), estimate.shape(), "{site}");
            assert_eq!(patched.axis_names(), estimate.axis_names(), "{site}");
            let heads = site.site().head_axis().is_some();
            for layer in 0..patched.shape()[0] {
                for place in 0..patched.shape()[1] {
                    let (head, position) = if heads { (Some(place), None) } else { (None, Some([place])) };
                    let positions = position.as_ref().map(|one| one.as_slice());
                    let alone = model.patch(site.in_layer(layer), head, positions, &from)?;
                    let alone = metric.measure(&alone, one())?;
                    let found = patched.value(&[layer, place])?;
                    assert!(
                        (alone - f64::from(found)).abs() < 2e-5,
                        "{site} {layer} {place}: {alone}, {found}"
                    );
                }
            }
            // The targets are the same, and a decoder sees no difference before it looks across.
            let before_cross = site.site() != Site::MlpPost;
            let own_of_decoder =
                site.stack() == Stack::Decoder && site.attn() == crate::hook::Attn::Own && before_cross;
            let estimated = estimate.to_vec()?.into_iter().map(f32::abs).fold(0.0, f32::max);
            let is_first = |place: usize| place < patched.shape()[1];
            for (place, value) in
                patched.to_vec()?.into_iter().enumerate().filter(|(place, _)| is_first(*place))
            {
                let moved = (f64::from(value) - before).abs();
                assert!(!own_of_decoder || moved < 2e-5, "{site} {place}");
            }
            assert!(estimated > 1e-4, "{site}");
        }
    }
    Ok(())
}

/// A sweep leaves the edits that a model has already where they are, also at keys of the other stack.
#[test]
fn edits_across_stacks_stay_in_sweeps() -> Result<()> {
    let metric = Metric::LogitDiff { correct: 5, incorrect: 6, position: None };
    let clean = Input::pair(vec![3u32, 1, 7, 1, 5], vec![2u32, 6, 3, 1]);
    for model in translators()? {
        let from = model.run_with_options(&clean, &RunOptions::all())?;
        let keys = Hook::from(Site::K).of(Stack::Decoder).cross();
        let stream = Hook::from(Site::ResidPre).of(Stack::Decoder);
        let mut edited = model.clone();
        for layer in 0..model.spec().stack(Stack::Decoder)?.dims.n_layers {
            edited = edited.patch(keys.in_layer(layer), None, Some(&[0, 2]), &from)?;
        }
        let swept = activation_patching(&edited, &clean, one(), stream, &metric)?;
        for layer in 0..swept.shape()[0] {
            for position in 0..swept.shape()[1] {
                let alone = edited.patch(stream.in_layer(layer), None, Some(&[position]), &from)?;
                let alone = metric.measure(&alone, one())?;
                let found = swept.value(&[layer, position])?;
                assert!((alone - f64::from(found)).abs() < 2e-5, "{layer} {position}: {alone}, {found}");
            }
        }
    }
    Ok(())
}

/// Metrics read attention and any activation, of any stack; a pattern's own gradient is one where it is read.
#[test]
fn metrics_read_any_stack() -> Result<()> {
    let model = toys::translator()?;
    let across = head(1, 2).of(Stack::Decoder).cross();
    let run = model.run_with_cache(one())?;
    let pattern = run.get(across.hook(Site::Pattern))?;
    let metric = Metric::Attention(AttentionEdge { head: across, query: 2, key: 4 });
    let value = metric.measure(&model, one())?;
    assert!((value - f64::from(pattern.value(&[2, 2, 4])?)).abs() < 1e-6);
    let hook = Site::ResidPost.at(1).of(Stack::Encoder);
    let largest =
        |stream: &NamedTensor| -> Result<f32> { Ok(stream.to_vec()?.into_iter().fold(0.0, f32::max)) };
    let of_stream = Metric::custom_at("largest", hook, largest);
    assert_eq!(of_stream.measure(&model, one())? as f32, largest(&run.get(hook)?)?);
    // What comes after it leaves it as it was; what comes before does not.
    for metric in [metric.clone(), of_stream] {
        let effects = ablation_effects(&model, one(), Ablation::Zero, &metric)?;
        let last = head(2, 0).of(Stack::Decoder);
        assert_eq!(effects.heads().at(last)?, 0.0);
        assert!(effects.heads().at(head(0, 0).of(Stack::Encoder))? != 0.0);
    }
    let clean = Input::pair(vec![3u32, 1, 7, 1, 5], TARGETS[0].to_vec());
    let site = Hook::from(Site::Pattern).of(Stack::Decoder).cross();
    let estimate = attribution_patching(&model, &clean, one(), site, &metric)?;
    let patched = activation_patching(&model, &clean, one(), site, &metric)?;
    let change = f64::from(patched.value(&[1, 2])?) - value;
    assert!((f64::from(estimate.value(&[1, 2])?) - change).abs() < 1e-6);
    let beyond = Metric::Attention(AttentionEdge { head: across, query: 2, key: 5 });
    assert!(beyond.measure(&model, one()).is_err());
    Ok(())
}

#[test]
fn edges_across_stacks_are_cut() -> Result<()> {
    let model = toys::translator()?;
    let of = head(1, 2).of(Stack::Decoder).cross();
    let cut = model.knock_out(&[AttentionEdge { head: of, query: 1, key: 3 }])?;
    let pattern = cut.run_with_cache(one())?.get(of.hook(Site::Pattern))?;
    assert_eq!(pattern.value(&[2, 1, 3])?, 0.0);
    assert!(pattern.value(&[2, 0, 3])? > 0.0 && pattern.value(&[1, 1, 3])? > 0.0);
    // A decoder looks ahead in its source, and not in itself.
    assert!(
        model.knock_out(&[AttentionEdge { head: head(1, 2).of(Stack::Decoder), query: 1, key: 3 }]).is_err()
    );
    assert!(
        model.knock_out(&[AttentionEdge { head: head(1, 2).of(Stack::Encoder), query: 1, key: 3 }]).is_ok()
    );
    Ok(())
}

#[test]
fn runs_are_saved_and_drawn() -> Result<()> {
    let model = toys::translator()?;
    let run = model.run_with_options(one(), &RunOptions::all())?;
    let path = std::env::temp_dir().join(format!("headlight-two-stacks-{}.safetensors", std::process::id()));
    run.save(&path)?;
    let opened = Run::open(&path);
    let _ = std::fs::remove_file(&path);
    let opened = opened?;
    assert_eq!(opened.hooks(), run.hooks());
    for stack in [Stack::Encoder, Stack::Decoder] {
        assert_eq!(opened.tokens_of(stack)?, run.tokens_of(stack)?);
    }
    for hook in run.hooks() {
        assert_eq!(opened.get(hook)?.to_vec()?, run.get(hook)?.to_vec()?, "{hook}");
    }
    let cross = run.get("decoder.1.cross_attn.hook_pattern")?;
    assert_eq!(cross.axes()[0].labels().map(|labels| labels[3].clone()).as_deref(), Some("D1X3"));
    assert_eq!(cross.axes()[1].labels().map(<[String]>::len), Some(TARGETS[0].len()));
    assert_eq!(cross.axes()[2].labels().map(<[String]>::len), Some(SOURCES[0].len()));
    // Two of the encoder, and of the decoder three of its own and three across.
    assert_eq!(run.views()?.len(), 8);
    Ok(())
}

/// Python finds names, shapes and numbers as the format of safetensors has them, and the tokens of both stacks in the metadata.
#[test]
fn python_reads_both_stacks() -> Result<()> {
    const SCRIPT: &str = r#"
import json, struct, sys
with open(sys.argv[1], "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    data = file.read()
metadata = header.pop("__metadata__")
tokens, words = json.loads(metadata["tokens"]), json.loads(metadata["str_tokens"])
pattern = header["decoder.1.cross_attn.hook_pattern"]
begin, end = pattern["data_offsets"]
assert pattern["dtype"] == "F32" and end - begin == 4 * 4 * 4 * 5, pattern
values = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
rows = [sum(values[at : at + 5]) for at in range(0, len(values), 5)]
assert all(abs(row - 1) < 1e-5 for row in rows), rows
print(json.dumps([list(tokens), tokens["encoder"], tokens["decoder"], words["decoder"], sorted(header), pattern["shape"], values[7]]))
"#;
    let model = toys::translator()?;
    let run = model.run_with_options(one(), &RunOptions::all())?;
    let path = std::env::temp_dir().join(format!("headlight-for-python-{}.safetensors", std::process::id()));
    run.save(&path)?;
    let output = std::process::Command::new("python3").args(["-c", SCRIPT]).arg(&path).output();
    let _ = std::fs::remove_file(&path);
    let output = output.expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut names: Vec<String> = model.hooks().iter().map(Hook::to_string).collect();
    names.sort();
    let words: Vec<String> = read(TARGETS[0]).iter().map(u32::to_string).collect();
    let value = run.get("decoder.1.cross_attn.hook_pattern")?.to_vec()?[7];
    let expected = serde_json::json!([
        ["decoder", "encoder"],
        SOURCES[0],
        read(TARGETS[0]),
        words,
        names,
        [4, 4, 5],
        f64::from(value)
    ]);
    assert_eq!(found, expected);
    Ok(())
}

/// Weights by name, stack by stack.
#[test]
fn weights_have_names() -> Result<()> {
    let model = toys::translator()?;
    assert_eq!(model.weight("decoder.1.cross_attn.W_Q")?.shape(), [4, 12, 3]);
    assert_eq!(model.weight("decoder.1.cross_attn.W_K")?.shape(), [4, 12, 3]);
    assert_eq!(model.weight("decoder.1.cross_attn._W_K")?.shape(), [2, 12, 3]);
    assert_eq!(model.weight("encoder.W_Q")?.shape(), [2, 3, 12, 4]);
    assert_eq!(model.weight("encoder.embed.W_E")?.shape(), [17, 12]);
    assert_eq!(model.weight("W_U")?.shape(), [12, 19]);
    for (name, unmade) in model.network.weights() {
        assert_eq!(model.weight(&name)?.shape(), unmade()?.dims(), "{name}");
    }
    assert!(model.weight("encoder.9.attn.W_Q").is_err());
    Ok(())
}

/// A run from the middle is the run from the beginning; so is one whose source is known.
#[test]
fn runs_resume_in_either_stack() -> Result<()> {
    use crate::network::start::Start;
    for model in translators()? {
        let pieces = model.pieces(&inputs())?;
        let mut whole = Record::new(model.hooks());
        let known = model.execute(model.batch(&pieces)?.into(), None, &mut whole)?;
        let same = |start: Start| -> Result<()> {
            let mut again = Record::new(model.hooks());
            model.execute(start, None, &mut again)?;
            for (hook, tensor) in again.into_seen() {
                let before = whole.get(hook).ok_or_else(crate::network::tap::not_reached)?;
                let (a, b) =
                    (tensor.flatten_all()?.to_vec1::<f32>()?, before.flatten_all()?.to_vec1::<f32>()?);
                assert!(a == b, "{hook}");
            }
            Ok(())
        };
        same(Start::Inputs(known.clone()))?;
        for own in model.spec().stacks() {
            for layer in 0..own.dims.n_layers {
                let stream = whole.get(Site::ResidPre.at(layer).of(own.stack));
                let stream = stream.ok_or_else(crate::network::tap::not_reached)?.clone();
                let known = known.repeat(1, |stack| !model.spec().is_reached(stack, own.stack))?;
                same(Start::Residual { stack: own.stack, layer, stream, known })?;
            }
        }
    }
    Ok(())
}

/// Who asks for a stack that is not there is told of hooks that are.
#[test]
fn what_is_suggested_is_there() -> Result<()> {
    let asked: Hook = "decoder.1.cross_attn.hook_pattern".parse()?;
    for (model, hook) in [
        (toys::encoder()?, "`blocks.1.attn.hook_pattern`"),
        (toys::pair()?, "`vision.blocks.1.attn.hook_pattern` and `text.blocks.1.attn.hook_pattern`"),
    ] {
        let error = model.spec().check(asked).expect_err("no decoder").to_string();
        assert!(error.contains(&format!("this model has {hook}")), "{error}");
    }
    Ok(())
}

/// What is no input of such a model is refused, with what would be one.
#[test]
fn wrong_inputs_are_refused() -> Result<()> {
    let model = toys::translator()?;
    let gpt = crate::model::model::Model::open("built-in")?;
    let help = |error: Error| error.to_string();
    let alone = model.loss(SOURCES[0]).err().map(help).unwrap_or_default();
    assert!(alone.contains("Input::pair"), "{alone}");
    let uneven = Input::pair(vec![vec![1u32], vec![2]], vec![vec![1u32]]);
    assert!(model.run_with_cache(uneven).is_err());
    let pair = gpt.run_with_cache(Input::pair("the cat", "le chat")).err().map(help).unwrap_or_default();
    assert!(pair.contains("pair"), "{pair}");
    let beyond =
        model.run_with_cache(Input::pair(vec![17u32], vec![1u32])).err().map(help).unwrap_or_default();
    assert!(beyond.contains("17"), "{beyond}");
    assert!(model.run_with_cache(Input::pair(vec![16u32], vec![18u32])).is_ok());
    let main =
        model.run_with_cache(one())?.get("blocks.0.attn.hook_pattern").err().map(help).unwrap_or_default();
    assert!(main.contains("encoder.0.attn.hook_pattern"), "{main}");
    let across = model.query_heads_of_kv(head(0, 0).of(Stack::Encoder).cross()).err().map(help);
    assert!(across.is_some_and(|error| error.contains("attends to no other stack")));
    Ok(())
}
