//! Models that are read out by classes or a similarity, and those that read pictures: run, edited, measured, saved; and what holds
//! of hooks of every kind of model.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;

use crate::analysis::sweep::engine::sweep;
use crate::analysis::{
    Metric, Shard, SweepPart, SweepResult, ablation_effects, activation_patching, attribution_patching, merge,
};
use crate::error::Result;
use crate::hook::{Hook, Site, Stack, head};
use crate::model::edit::{Ablation, AttentionEdge};
use crate::model::input::Input;
use crate::model::model::Model;
use crate::model::picture::Picture;
use crate::model::run::Run;
use crate::model::run_options::RunOptions;
use crate::tests::kinds::kinds;
use crate::tests::naive::{Read, Rows, read_out};
use crate::tests::toys::{self, write_png};
use crate::view::Visualize;

const TEXTS: [&[u32]; 3] = [&[2, 7, 1, 8], &[2, 8, 1, 8, 2, 8], &[4, 5]];

fn apart(values: &[f32], rows: &[Rows]) -> f64 {
    let expected: Vec<f64> = rows.iter().flatten().flatten().copied().collect();
    assert_eq!(values.len(), expected.len());
    values.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

fn texts() -> Input {
    TEXTS.iter().map(|ids| ids.to_vec()).collect::<Vec<_>>().into()
}

fn pictures() -> [Picture; 3] {
    [toys::picture(1), toys::picture(2), toys::picture(3)]
}

/// Filled batches and single inputs give what the pass that is written out gives.
#[test]
fn runs_are_the_forward_pass() -> Result<()> {
    let pictures = pictures();
    let read = |model: &Model, index: usize| -> Vec<Read> {
        let each = model.spec().stacks().iter().map(|own| match own.reads.grid() {
            Some(_) => Read::Picture(&pictures[index]),
            None => Read::Ids(TEXTS[index]),
        });
        each.collect()
    };
    let many = || Input::from(pictures.to_vec());
    for (model, input) in [
        (toys::sandwich()?, texts()),
        (toys::classifier()?, texts()),
        (toys::causal_classifier()?, texts()),
        (toys::picture_classifier()?, many()),
        (toys::pair()?, Input::pair(many(), texts())),
    ] {
        let outcome = model.hooks()[model.hooks().len() - 1];
        for options in [RunOptions::all(), RunOptions::only([outcome.site()])] {
            let run = model.run_with_options(&input, &options)?;
            for index in 0..3 {
                let (outcomes, wanted) = read_out(&model.network, &read(&model, index))?;
                let item = run.item(index)?;
                // Sums of a few dozen products in f32.
                assert!(apart(&item.get(outcome)?.to_vec()?, &[wanted]) < 2e-5, "{model:?} {index}");
                for (own, outcome) in model.spec().stacks().iter().zip(outcomes) {
                    for (layer, patterns) in outcome.own.iter().enumerate() {
                        let hook = Site::Pattern.at(layer).of(own.stack);
                        if run.hooks().contains(&hook) {
                            assert!(apart(&item.get(hook)?.to_vec()?, patterns) < 1e-5, "{hook} {index}");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Norms of what is added stay where they are when those of what is read are folded.
#[test]
fn a_sandwich_is_folded() -> Result<()> {
    let model = toys::sandwich()?;
    let [before, after] = [model.clone(), model.folded()?]
        .map(|model| model.run_with_cache(TEXTS[1]).and_then(|run| run.log_probs()?.to_vec()));
    let apart = before?.iter().zip(after?).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 2e-5, "{apart}");
    Ok(())
}

/// What is listed is what a run meets, in that order and with the axes that are said.
#[test]
fn every_hook_is_listed_and_met() -> Result<()> {
    for kind in kinds()? {
        let model = &kind.model;
        let run = model.run_with_options(&kind.input, &RunOptions::all())?;
        assert_eq!(run.hooks(), model.hooks(), "{model:?}");
        for hook in model.hooks() {
            assert_eq!(hook.to_string().parse::<Hook>()?, hook);
            let len = |axis| -> Result<usize> {
                let tokens = run.tokens_of(model.spec().stack_of_axis(hook, axis)?.stack)?[0].len();
                model.spec().axis_len(hook, axis, tokens, tokens)
            };
            let wanted = hook.site().axes().iter().map(|axis| len(*axis)).collect::<Result<Vec<_>>>()?;
            assert_eq!(run.get(hook)?.shape(), wanted, "{hook}");
        }
        for (name, unmade) in model.network.weights() {
            assert_eq!(model.weight(&name)?.shape(), unmade()?.dims(), "{name}");
        }
    }
    for (model, names) in [
        (
            toys::translator()?,
            &[
                "encoder.hook_embed",
                "encoder.1.attn.hook_pattern",
                "encoder_final_ln.hook_scale",
                "decoder.2.cross_attn.hook_pattern",
                "decoder.2.hook_cross_attn_out",
                "decoder.2.hook_resid_mid_cross",
                "decoder.2.ln3.hook_normalized",
                "unembed.hook_out",
            ][..],
        ),
        (toys::sandwich()?, &["blocks.1.ln1_post.hook_scale", "blocks.2.ln2_post.hook_normalized"]),
        (toys::classifier()?, &["pooler.hook_pooler_out", "classifier.hook_out"]),
        (
            toys::pair()?,
            &[
                "vision.blocks.1.attn.hook_pattern",
                "text.blocks.2.hook_resid_post",
                "vision.hook_projected",
                "text.hook_projected",
                "hook_similarity",
            ],
        ),
    ] {
        let all: Vec<String> = model.hooks().iter().map(Hook::to_string).collect();
        for name in names {
            assert!(all.iter().any(|own| own == name), "{name}");
        }
    }
    Ok(())
}

/// A change at any hook of any kind of model is felt; one that changes nothing is not.
#[test]
fn every_hook_is_editable() -> Result<()> {
    for kind in kinds()?.into_iter().filter(|kind| kind.name != "decoder") {
        let (model, input, outcome) = (&kind.model, &kind.input, kind.outcome);
        let clean = model.run_with_options(input, &RunOptions::all())?;
        let values = |model: &Model| -> Result<Vec<f32>> {
            model.run_with_options(input, &RunOptions::only([outcome.site()]))?.get(outcome)?.to_vec()
        };
        let before = values(model)?;
        let largest =
            |values: &[f32]| values.iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        for hook in model.hooks() {
            let same = model.edit(hook, "the same", |x| Ok(x.copy()?))?;
            // Scores and patterns that are looked at are made on another path.
            assert!(largest(&values(&same)?) < 2e-5, "{hook} of the {}", kind.name);
            // Shifts of all positions alike are what norms and softmaxes do not feel.
            let changed = model.edit(hook, "changed", |x| {
                let last = x.rank() - 1;
                let ramp = Tensor::arange(0f32, x.dim(last)? as f32, x.device())?;
                let ramp = ((ramp * 0.3)? + 0.5)?;
                Ok(if x.dim(last)? == 1 { (x * 1.5)? } else { x.broadcast_mul(&ramp)? })
            })?;
            assert!(largest(&values(&changed)?) > 1e-4, "{hook} of the {} is not felt", kind.name);
            let patched = model.patch(hook, None, None, &clean)?;
            assert!(largest(&values(&patched)?) < 2e-5, "{hook} of its own run, of the {}", kind.name);
        }
    }
    Ok(())
}

/// Sweeps find in each stack what one change by itself does, by classes and by a similarity; the gradient of what was measured is one.
#[test]
fn sweeps_measure_what_is_read_out() -> Result<()> {
    for kind in kinds()?.into_iter().filter(|kind| kind.name != "decoder") {
        let (model, metric) = (&kind.model, &kind.metric);
        let clean = metric.measure(model, &kind.input)?;
        let effects = ablation_effects(model, &kind.input, Ablation::Zero, metric)?;
        for head in model.heads() {
            let alone = metric.measure(&model.ablate(head, Ablation::Zero)?, &kind.input)? - clean;
            let found = f64::from(effects.heads().at(head)?);
            assert!((alone - found).abs() < 2e-5, "{head} of the {}: {alone} alone, {found}", kind.name);
        }
        let from = model.run_with_options(&kind.other, &RunOptions::all())?;
        for own in model.spec().stacks() {
            let same_text = own.reads.grid().is_none() && own.stack != model.spec().stacks()[0].stack;
            for site in [Site::Z, Site::ResidPre] {
                let site = Hook::from(site).of(own.stack);
                let patched = activation_patching(model, &kind.other, &kind.input, site, metric)?;
                let estimate = attribution_patching(model, &kind.other, &kind.input, site, metric)?;
                assert_eq!(patched.shape(), estimate.shape());
                let moved = estimate.to_vec()?.into_iter().map(f32::abs).fold(0.0, f32::max);
                let is_cut_off = same_text && own.crosses.is_none();
                assert!(is_cut_off || moved > 1e-6, "{site} of the {}", kind.name);
                for layer in 0..patched.shape()[0] {
                    for place in 0..patched.shape()[1] {
                        let (head, position) = match site.site().head_axis() {
                            Some(_) => (Some(place), None),
                            None => (None, Some([place])),
                        };
                        let positions = position.as_ref().map(|one| one.as_slice());
                        let alone = model.patch(site.in_layer(layer), head, positions, &from)?;
                        let alone = metric.measure(&alone, &kind.input)?;
                        let found = f64::from(patched.value(&[layer, place])?);
                        assert!((alone - found).abs() < 2e-5, "{site} {layer} {place} of the {}", kind.name);
                    }
                }
            }
        }
    }
    Ok(())
}

/// A sweep of one tower does not run the other again, whichever comes first.
#[test]
fn towers_run_where_they_are_changed() -> Result<()> {
    let model = toys::pair()?;
    let input = Input::pair(toys::picture(4), TEXTS[1].to_vec());
    for (swept, other) in [(Stack::Vision, Stack::Text), (Stack::Text, Stack::Vision)] {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let counting = model.edit_with(Hook::from(Site::Embed).of(other), "counted".into(), move |x| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(x.clone())
        });
        let heads: Vec<_> = model.heads().filter(|head| head.stack == swept).collect();
        let variants: Vec<Model> =
            heads.iter().map(|&head| counting.ablate(head, Ablation::Zero)).collect::<Result<_>>()?;
        let outcome = sweep("heads", &counting, &variants, &input, &Metric::Similarity)?;
        assert_eq!(runs.load(Ordering::Relaxed), 1, "the {other}, while the {swept} was swept");
        for (variant, found) in variants.iter().zip(&outcome.variants) {
            assert!((Metric::Similarity.measure(variant, &input)? - found).abs() < 2e-5);
        }
    }
    Ok(())
}

/// Metrics are the numbers that runs show, by the names of classes.
#[test]
fn classes_and_similarities_are_measured() -> Result<()> {
    let model = toys::classifier()?;
    let logits = model.run_with_cache(TEXTS[0])?.get(Site::ClassLogits)?;
    assert_eq!(
        logits.axes()[0].labels().map(<[String]>::to_vec),
        Some(vec!["bad".into(), "so-so".into(), "good".into()])
    );
    let [bad, _, good] = logits.to_vec()?[..] else { panic!("three classes") };
    assert_eq!(Metric::class(&model, "good")?.measure(&model, TEXTS[0])?, f64::from(good));
    let both = Metric::class_diff(&model, "good", "bad")?;
    assert!((both.measure(&model, TEXTS[0])? - f64::from(good - bad)).abs() < 1e-6);
    let unknown = Metric::class(&model, "fine").expect_err("no such class").to_string();
    assert!(unknown.contains("so-so"), "{unknown}");
    let beyond =
        Metric::Class { class: 3, instead: None }.measure(&model, TEXTS[0]).expect_err("no such class");
    assert!(beyond.to_string().contains("so-so"), "{beyond}");
    let pair = toys::pair()?;
    let input = Input::pair(toys::picture(4), TEXTS[1].to_vec());
    let run = pair.run_with_cache(&input)?;
    let shown = run.get(Site::Similarity)?;
    assert!(shown.shape().is_empty());
    assert_eq!(Metric::Similarity.measure(&pair, &input)?, f64::from(shown.to_vec()?[0]));
    let [a, b] = [Stack::Vision, Stack::Text].map(|stack| run.get(Hook::from(Site::Projected).of(stack)));
    let (a, b) = (a?.to_vec()?, b?.to_vec()?);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
    assert!((7.5 * cosine - f64::from(shown.to_vec()?[0])).abs() < 1e-5);
    // What the numbers look like, and that each can be looked at.
    for named in [shown, logits, run.get(Hook::from(Site::Projected).of(Stack::Text))?] {
        assert!(!named.views()?.is_empty(), "{named:?}");
    }
    assert!(Metric::Similarity.measure(&model, TEXTS[0]).is_err());
    Ok(())
}

/// Attention of a picture is cut between patches, and drawn with their rows and columns.
#[test]
fn patches_are_positions() -> Result<()> {
    let model = toys::pair()?;
    let input = Input::pair(toys::picture(1), TEXTS[0].to_vec());
    let edge = AttentionEdge { head: head(1, 2).of(Stack::Vision), query: 1, key: 9 };
    let run = model.knock_out(&[edge])?.run_with_cache(&input)?;
    let pattern = run.get(edge.head.hook(Site::Pattern))?;
    assert_eq!(pattern.value(&[2, 1, 9])?, 0.0);
    assert_eq!(pattern.axes()[0].label(2), "V1H2");
    let labels: Vec<String> = (0..10).map(|at| pattern.axes()[1].label(at)).collect();
    assert_eq!(labels[..5], ["class", "0,0", "0,1", "0,2", "1,0"]);
    let tokens = &run.tokens_of(Stack::Vision)?[0];
    assert_eq!((tokens.len(), tokens.ids().len(), tokens.position("2,2")?), (10, 0, 9));
    // Two of the one, three of the other.
    assert_eq!(run.views()?.len(), 5);
    Ok(())
}

#[test]
fn runs_are_saved_and_opened() -> Result<()> {
    for kind in kinds()? {
        let several = match &kind.input.second {
            Some(_) => None,
            None if kind.name == "pictures" => Some(Input::from(pictures().to_vec())),
            None => Some(Input::from(vec![vec![1u32, 2, 3], vec![4, 5, 6]])),
        };
        for input in several.into_iter().chain([kind.input.clone()]) {
            let run = kind.model.run_with_options(input, &RunOptions::all())?;
            let path = temporary("run.safetensors");
            run.save(&path)?;
            let opened = Run::open(&path);
            let _ = std::fs::remove_file(&path);
            let opened = opened?;
            assert_eq!(opened.hooks(), run.hooks());
            for own in kind.model.spec().stacks() {
                let (a, b) = (opened.tokens_of(own.stack)?, run.tokens_of(own.stack)?);
                let labels = |all: &[crate::model::input::Tokens]| {
                    all.iter().map(|tokens| tokens.labels().to_vec()).collect::<Vec<_>>()
                };
                assert_eq!(labels(a), labels(b), "{}", kind.name);
            }
            for hook in run.hooks() {
                assert_eq!(opened.get(hook)?.to_vec()?, run.get(hook)?.to_vec()?, "{hook}");
            }
        }
    }
    Ok(())
}

fn temporary(name: &str) -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    std::env::temp_dir().join(format!("headlight-{}-{thread}-{name}", std::process::id()))
}

/// Files of pictures are read as their colours say; a list of them, with captions or without, is swept in parts that add up.
#[test]
fn files_of_pictures_are_read_and_swept() -> Result<()> {
    use png::{BitDepth, ColorType};
    let folder = temporary("pictures");
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = |name: &str| folder.join(name);
    let of = |colour, depth, data: &[u8]| -> Result<Vec<u8>> {
        write_png(&path("one.png"), 1, colour, depth, data);
        Ok(Picture::open(path("one.png"))?.rgb().to_vec())
    };
    assert_eq!(of(ColorType::Rgb, BitDepth::Eight, &[1, 2, 3])?, [1, 2, 3]);
    assert_eq!(of(ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 0])?, [1, 2, 3]);
    assert_eq!(of(ColorType::Grayscale, BitDepth::Eight, &[77])?, [77; 3]);
    assert_eq!(of(ColorType::Grayscale, BitDepth::One, &[0b1000_0000])?, [255; 3]);
    assert_eq!(of(ColorType::GrayscaleAlpha, BitDepth::Eight, &[77, 9])?, [77; 3]);
    assert_eq!(of(ColorType::Indexed, BitDepth::One, &[0b1000_0000])?, [100, 150, 200]);
    assert_eq!(of(ColorType::Rgb, BitDepth::Sixteen, &[1, 255, 2, 255, 3, 255])?, [1, 2, 3]);
    let mut list = String::new();
    for index in 0..5 {
        let name = format!("{index}.png");
        write_png(&path(&name), 6, ColorType::Rgb, BitDepth::Eight, toys::picture(index).rgb());
        list.push_str(&format!("{name}\n"));
    }
    std::fs::write(path("list.txt"), &list).expect("a list");
    let model = toys::picture_classifier()?;
    let input = Input::picture_lines(path("list.txt"))?;
    let alone = model.run_with_cache(&input)?.item(3)?;
    let direct = model.run_with_cache(toys::picture(3))?;
    assert_eq!(alone.get(Site::ClassLogits)?.to_vec()?, direct.get(Site::ClassLogits)?.to_vec()?);
    let metric = Metric::class(&model, "good")?;
    let whole = ablation_effects(&model, &input, Ablation::Zero, &metric)?;
    let parts = [path("a.part"), path("b.part")];
    for (index, part) in parts.iter().enumerate() {
        let part = SweepPart::new(part, Shard::new(index + 1, 2)?);
        part.ablation_effects(&model, &input, Ablation::Zero, &metric)?;
    }
    let SweepResult::Ablation { effects, .. } = merge(&parts)? else { panic!("an ablation") };
    assert_eq!(effects.heads().ranked()?, whole.heads().ranked()?);
    // Another picture in its place is another input.
    write_png(&path("3.png"), 6, ColorType::Rgb, BitDepth::Eight, toys::picture(9).rgb());
    let again = SweepPart::new(&parts[1], Shard::new(2, 2)?);
    assert!(again.ablation_effects(&model, &input, Ablation::Zero, &metric).is_err());
    // With captions, as ids: the toy has no tokenizer.
    let captioned: String = list.lines().map(|name| format!("{name}\t2,7,1\n")).collect();
    std::fs::write(path("captions.txt"), captioned).expect("a list");
    let input = Input::picture_lines(path("captions.txt"))?.as_ids()?;
    assert_eq!(toys::pair()?.run_with_cache(&input)?.tokens().len(), 5);
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

/// What is no input of such a model is refused, with what would be one.
#[test]
fn wrong_inputs_are_refused() -> Result<()> {
    let (pictures, pair, text) = (toys::picture_classifier()?, toys::pair()?, toys::classifier()?);
    let small = Picture::from_rgb(3, 6, vec![0; 54])?;
    let file = temporary("not-a.png");
    std::fs::write(&file, b"GIF89a").expect("a file");
    let list = temporary("list.txt");
    std::fs::write(&list, "one.png\nno-such.png\n").expect("a list");
    for (outcome, fragment) in [
        (pictures.run_with_cache(TEXTS[0]).map(drop), "Picture::open"),
        (pictures.run_with_cache("a cat").map(drop), "Picture::open"),
        (pictures.run_with_cache(&small).map(drop), "3 x 6"),
        (pair.run_with_cache(toys::picture(1)).map(drop), "Input::pair(Picture::open"),
        (pair.run_with_cache(Input::pair(TEXTS[0], toys::picture(1))).map(drop), "vision"),
        (text.run_with_cache(toys::picture(1)).map(drop), "where a text is read"),
        (Picture::from_rgb(0, 0, Vec::new()).map(drop), "at least one pixel"),
        (Picture::from_rgb(usize::MAX, 2, vec![1]).map(drop), "no picture"),
        (Picture::open(&file).map(drop), "PNG files are read"),
        (Picture::open("no-such.png").map(drop), "cannot be read"),
        (Input::picture_lines(&list).and_then(|input| pictures.run_with_cache(input)).map(drop), "line 1"),
        (text.run_with_cache(TEXTS[0])?.logits().map(drop), "classifier.hook_out"),
        (pair.loss(Input::pair(toys::picture(1), TEXTS[0])).map(drop), "hook_similarity"),
        (
            text.patch(Site::ClassLogits, None, Some(&[0]), &text.run_with_cache(TEXTS[0])?).map(drop),
            "None for both",
        ),
        (text.hook("hook_projected").map(drop), "tells classes"),
    ] {
        let error = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(fragment) && error.contains("help:"), "{fragment}: {error}");
    }
    let _ = (std::fs::remove_file(&file), std::fs::remove_file(&list));
    Ok(())
}
