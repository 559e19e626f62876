//! Ablations, knock-outs and patches against TransformerLens's, on two tiny GPT-2s.

use crate::common::{Golden, MODELS, max_abs_diff, numbers, refused};
use headlight::prelude::*;
use headlight::{ErrorKind, Result, Site};

const HALF: usize = 20;

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64
}

fn heads(model: &Model) -> impl Iterator<Item = Head> {
    let dims = *model.dims();
    (0..dims.n_layers).flat_map(move |layer| (0..dims.n_heads).map(move |index| head(layer, index)))
}

#[test]
fn ablations_of_heads_and_mlps() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let ids = golden.ids("B");
        let (clean, corrupted) = (model.run_with_cache(&ids)?, model.run_with_cache(golden.ids("C"))?);
        let clean_losses = clean.loss_per_token()?.to_vec()?;
        let clean_logits = clean.logits()?.to_vec()?;
        let kinds = [
            ("zero", Ablation::Zero),
            ("mean", Ablation::Mean(&clean)),
            ("resample", Ablation::Resample(&corrupted)),
        ];
        for (kind, ablation) in kinds {
            let (mut means, mut halves, mut logits) = (Vec::new(), Vec::new(), Vec::new());
            for head in heads(&model) {
                let run = model.ablate(head, ablation)?.run_with_cache(&ids)?;
                let losses = run.loss_per_token()?.to_vec()?;
                means.push(mean(&losses) - mean(&clean_losses));
                halves.push(mean(&losses[HALF..]) - mean(&clean_losses[HALF..]));
                let apart = run
                    .logits()?
                    .to_vec()?
                    .iter()
                    .zip(&clean_logits)
                    .map(|(a, b)| f64::from((a - b).abs()))
                    .fold(0.0, f64::max);
                logits.push(apart);
            }
            let keys = [
                ("delta_mean_loss", means, 1e-5),
                ("delta_second_half_loss", halves, 2e-5),
                ("max_abs_logit_change", logits, 1e-4),
            ];
            for (key, found, tolerance) in keys {
                let expected: Vec<f64> = numbers(golden.at(&["ablation_B_raw64", kind, key])).collect();
                let apart = max_abs_diff(&found, &expected);
                assert!(apart < tolerance, "{name}, {kind}, {key}: differs by {apart}");
            }
        }
        let mut found = Vec::new();
        let with_mlps = model.spec().has(Site::MlpOut);
        for layer in (0..model.dims().n_layers).filter(|_| with_mlps) {
            let losses = model.ablate(mlp(layer), Ablation::Zero)?.loss_per_token(&ids)?.to_vec()?;
            found.push(mean(&losses) - mean(&clean_losses));
        }
        let expected: Vec<f64> =
            numbers(golden.at(&["ablation_B_raw64", "zero_mlp_out_delta_mean_loss"])).collect();
        assert!(max_abs_diff(&found, &expected) < 1e-5, "{name}: MLPs");
    }
    Ok(())
}

#[test]
fn knocked_out_edges() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let edges: Vec<AttentionEdge> =
            (0..4).map(|index| AttentionEdge { head: head(1, index), query: HALF + 5, key: 6 }).collect();
        let (clean, cut) =
            (model.logits(golden.ids("B"))?, model.knock_out(&edges)?.logits(golden.ids("B"))?);
        let (n, d_vocab) = (clean.shape()[0], clean.shape()[1]);
        let (clean, cut) = (clean.to_vec()?, cut.to_vec()?);
        let row = |position: usize| position * d_vocab..(position + 1) * d_vocab;
        let change = |position: usize| {
            clean[row(position)]
                .iter()
                .zip(&cut[row(position)])
                .map(|(a, b)| f64::from((a - b).abs()))
                .fold(0.0, f64::max)
        };
        let found: Vec<f64> = (0..n).map(change).collect();
        let key = "knockout_scores_L1_q25_k6_all_heads_max_logit_change_per_pos";
        let expected: Vec<f64> = numbers(golden.at(&["ablation_B_raw64", key])).collect();
        assert!(max_abs_diff(&found, &expected) < 1e-4, "{name}");
    }
    Ok(())
}

#[test]
fn sweeps_are_what_they_sweep() -> Result<()> {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = Model::open(&golden.folder)?;
        let (clean_ids, ids) = (golden.ids("B"), golden.ids("C"));
        let clean = model.run_with_cache(&clean_ids)?;
        let check = |section: &[&str], found: &NamedTensor, tolerance: f64| {
            let expected: Vec<f64> = numbers(golden.at(section)).collect();
            let found: Vec<f64> = found.to_vec().expect("values").into_iter().map(f64::from).collect();
            let apart = max_abs_diff(&found, &expected);
            assert!(apart < tolerance, "{name}, {section:?}: differs by {apart}");
        };
        let corrupted = model.run_with_cache(&ids)?;
        let kinds = [
            ("zero", Ablation::Zero),
            ("mean", Ablation::Mean(&clean)),
            ("resample", Ablation::Resample(&corrupted)),
        ];
        for (kind, ablation) in kinds {
            for (key, metric) in
                [("delta_mean_loss", Metric::Loss), ("delta_second_half_loss", Metric::LossFrom(HALF))]
            {
                let effects = ablation_effects(&model, &clean_ids, ablation, &metric)?;
                check(&["ablation_B_raw64", kind, key], effects.heads().values(), 2e-5);
            }
        }
        let layers = ablation_effects(&model, &clean_ids, Ablation::Zero, &Metric::Loss)?.layers().clone();
        if model.spec().has(Site::MlpOut) {
            check(&["ablation_B_raw64", "zero_mlp_out_delta_mean_loss"], &layers.select("part", 0)?, 1e-5);
        } else {
            assert_eq!(layers.axis("part")?.labels(), Some(&["attention".to_string()][..]));
        }

        let metric =
            Metric::LogitDiff { correct: clean_ids[10], incorrect: ids[10], position: Some(HALF + 9) };
        let sites = [
            ("resid_pre", Site::ResidPre),
            ("attn_out", Site::AttnOut),
            ("mlp_out", Site::MlpOut),
            ("head_out_all_pos", Site::Z),
            ("head_pattern_all_pos", Site::Pattern),
            ("head_q_all_pos", Site::Q),
            ("head_k_all_pos", Site::K),
            ("head_v_all_pos", Site::V),
        ];
        for (key, site) in sites.into_iter().filter(|(_, site)| model.spec().has(*site)) {
            let patched = activation_patching(&model, &clean_ids, &ids, site, &metric)?;
            check(&["patching_raw64", key], &patched, 1e-4);
        }
        let estimate = attribution_patching(&model, &clean_ids, &ids, Site::Z, &metric)?;
        check(&["attribution_patching_hook_z_raw64"], &estimate, 1e-4);

        // One place of each kind by hand.
        let value = |model: &Model| -> Result<f32> {
            let logits = model.logits(&ids)?.select("position", HALF + 9)?.to_vec()?;
            Ok(logits[clean_ids[10] as usize] - logits[ids[10] as usize])
        };
        let by_hand = value(&model.patch(("z", 0), Some(1), Some(&[7, 8]), &clean)?)?;
        let neither = value(&model)?;
        let by_position = activation_patching_by_position(&model, &clean_ids, &ids, Site::Z, &metric)?;
        let alone = value(&model.patch(("z", 0), Some(1), Some(&[10]), &clean)?)?;
        assert!((by_position.value(&[0, 1, 10])? - alone).abs() < 1e-5);
        assert!((by_hand - neither).abs() < 1e-4, "before position 10 both inputs are the same");

        // From the last layer every way to the logits is the direct one, for MLPs are free.
        let paths = path_patching(&model, &clean_ids, &ids, PathReceiver::Logits, &metric)?;
        let direct = activation_patching(&model, &clean_ids, &ids, Site::Z, &metric)?;
        let last = model.dims().n_layers - 1;
        for index in 0..4 {
            let apart = paths.at(head(last, index))? - (direct.value(&[last, index])? - neither);
            assert!(apart.abs() < 5e-5, "{name}: path from L{last}H{index} to the logits differs by {apart}");
        }
        // All of the first layer's ways into one head, through its three inputs, by hand for one.
        let held = model.run_with_options(&ids, &RunOptions::all())?;
        let sent = model
            .patch(("z", 0), None, None, &held)?
            .patch(("z", 0), Some(3), None, &clean)?
            .run_with_options(&ids, &RunOptions::all())?;
        // Where query heads share keys, heads of keys are counted.
        let key_head = model.dims().n_key_value_heads / 2;
        let received = value(&model.patch(("k_input", 1), Some(key_head), None, &sent)?)? - neither;
        for reader in model.query_heads_of_kv(head(1, key_head))? {
            let paths = path_patching(&model, &clean_ids, &ids, PathReceiver::Key(reader), &metric)?;
            assert!((paths.at(head(0, 3))? - received).abs() < 5e-5, "{name}: path to the keys of {reader}");
        }
        let paths = path_patching(&model, &clean_ids, &ids, PathReceiver::Key(head(1, 0)), &metric)?;
        assert_eq!(paths.at(head(1, 0))?, 0.0, "what lies above cannot reach");
    }
    Ok(())
}

/// The metrics that no golden has, against their definitions.
/// A head's score is linear in its own pattern, so that there the estimate is the truth; and lower layers have slopes too.
#[test]
fn a_score_has_a_gradient() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-induction");
    let model = Model::open(&golden.folder)?;
    let clean = golden.ids("B");
    let other = |(index, &id): (usize, &u32)| if index == 0 { id } else { (id + 1) % 256 };
    let corrupted: Vec<u32> = clean.iter().enumerate().map(other).collect();
    let metric = Metric::InductionScore(head(1, 2));
    let estimate = attribution_patching(&model, &clean, &corrupted, Site::Pattern, &metric)?;
    let patched = activation_patching(&model, &clean, &corrupted, Site::Pattern, &metric)?;
    let before = metric.measure(&model, &corrupted)? as f32;
    for index in 0..4 {
        let change = patched.value(&[1, index])? - before;
        assert!((estimate.value(&[1, index])? - change).abs() < 1e-5, "L1H{index}");
    }
    let of_below = attribution_patching(&model, &clean, &corrupted, Site::ResidPre, &metric)?;
    assert!(of_below.to_vec()?.iter().any(|value| value.abs() > 1e-4));
    Ok(())
}

#[test]
fn metrics_by_definition() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-induction");
    let model = Model::open(&golden.folder)?;
    let ids = golden.ids("B");
    let without = model.ablate(head(0, 1), Ablation::Zero)?;
    let effect = |metric: &Metric| -> Result<f32> {
        ablation_effects(&model, &ids, Ablation::Zero, metric)?.heads().at(head(0, 1))
    };
    let (p, q) = (
        model.run_with_cache(&ids)?.log_probs()?.to_vec()?,
        without.run_with_cache(&ids)?.log_probs()?.to_vec()?,
    );
    let kl: f64 = p.iter().zip(&q).map(|(p, q)| f64::from(p.exp() * (p - q))).sum::<f64>() / ids.len() as f64;
    assert!((f64::from(effect(&Metric::Kl)?) - kl).abs() < 1e-5);

    let last = |values: &[f32], token: usize| values[values.len() - 256 + token];
    let log_prob = last(&q, 7) - last(&p, 7);
    assert!((effect(&Metric::LogProb { token: 7, position: None })? - log_prob).abs() < 1e-5);

    let score = |model: &Model| model.run_with_cache(&ids)?.induction_scores()?.at(head(1, 2));
    let metric = Metric::InductionScore(head(1, 2));
    assert!((effect(&metric)? - (score(&without)? - score(&model)?)).abs() < 1e-6);
    assert_eq!(ablation_effects(&model, &ids, Ablation::Zero, &metric)?.heads().at(head(1, 0))?, 0.0);

    let custom = Metric::custom("first logit", |logits| logits.value(&[0, 0]));
    let first = |model: &Model| model.logits(&ids)?.value(&[0, 0]);
    assert!((effect(&custom)? - (first(&without)? - first(&model)?)).abs() < 1e-5);

    // A steered model is swept as it is: its own edit counts once in every row.
    let direction = model.run_with_cache(&ids)?.resid_pre(1)?.select("position", 3)?;
    let steered = model.steer(("resid_pre", 1), &direction, 0.5)?;
    let effects = ablation_effects(&steered, &ids, Ablation::Zero, &Metric::Loss)?;
    let by_hand = steered.ablate(head(1, 0), Ablation::Zero)?.loss(&ids)? - steered.loss(&ids)?;
    assert!((effects.heads().at(head(1, 0))? - by_hand).abs() < 1e-5);

    // A mean is over all predictions of all inputs.
    let several = vec![golden.ids("A"), ids.clone()];
    let effects = ablation_effects(&model, &several, Ablation::Zero, &Metric::Loss)?;
    let by_hand = without.loss(&several)? - model.loss(&several)?;
    assert!((effects.heads().at(head(0, 1))? - by_hand).abs() < 1e-5);
    Ok(())
}

/// Split inputs and results are used by the network when a tap changed them, and must then mean what they say.
#[test]
fn opt_in_sites_are_causes_too() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-random");
    let model = Model::open(&golden.folder)?;
    let ids = golden.ids("B");
    let run = model.run_with_options(&ids, &RunOptions::all())?;
    let patched_with_itself = [Site::QInput, Site::KInput, Site::VInput, Site::Result, Site::MlpIn];
    for site in patched_with_itself {
        let same = model.patch(site.at(1), None, None, &run)?;
        assert!((same.loss(&ids)? - run.loss()?).abs() < 1e-5, "{site} put back changes nothing");
    }
    let by_result = model.edit(Site::Result.at(1), "L1H2's result is zero", |result| {
        let (batch, len, heads, width) = result.dims4()?;
        let keep: Vec<f32> = (0..heads).map(|head| if head == 2 { 0.0 } else { 1.0 }).collect();
        let keep = candle_core::Tensor::from_vec(keep, (1, 1, heads, 1), result.device())?;
        Ok(result.broadcast_mul(&keep.broadcast_as((batch, len, heads, width))?)?)
    })?;
    let by_z = model.ablate(head(1, 2), Ablation::Zero)?;
    assert!((by_result.loss(&ids)? - by_z.loss(&ids)?).abs() < 1e-5);
    // All of a layer's head inputs together are the stream that the block reads, but for its way past the block.
    let other = model.run_with_options(golden.ids("C"), &RunOptions::all())?;
    let apart = [Site::QInput, Site::KInput, Site::VInput]
        .iter()
        .try_fold(model.clone(), |model, site| model.patch(site.at(1), None, None, &other))?;
    let z = apart.run_with_cache(&ids)?.z(1)?.to_vec()?;
    let expected = other.z(1)?.to_vec()?;
    assert!(z.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 5e-5), "the heads read the other run");
    Ok(())
}

/// Edits compose, hold in generation as in a run, and say themselves.
#[test]
fn edited_models_are_models() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-induction");
    let model = Model::open(&golden.folder)?;
    let ids = golden.ids("B");
    let both = model.ablate(head(0, 1), Ablation::Zero)?.ablate(head(1, 0), Ablation::Zero)?;
    let at_once = model.ablate([head(0, 1), head(1, 0)], Ablation::Zero)?;
    assert_eq!(both.loss(&ids)?, at_once.loss(&ids)?);
    assert_eq!(both.edits(), ["L0H1 zero-ablated", "L1H0 zero-ablated"]);
    assert!(format!("{at_once:?}").ends_with("; L0H1, L1H0 zero-ablated"));
    assert!(model.edits().is_empty(), "the model itself is as it was");

    let cut = both.knock_out(&[AttentionEdge { head: head(0, 2), query: 26, key: 3 }])?;
    let sampling = Sampling { max_new_tokens: 6, ..Sampling::default() };
    let mut ids = ids[..25].to_vec();
    for &expected in cut.generate(&ids, &sampling)?.new_ids() {
        let logits = cut.logits(&ids)?.select("position", ids.len() - 1)?.to_vec()?;
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("logits");
        assert_eq!(best as u32, expected, "generation with a cache sees the same edits");
        ids.push(expected);
    }
    Ok(())
}

#[test]
fn bad_edits_are_refused() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-random");
    let model = Model::open(&golden.folder)?;
    let run = model.run_with_cache(golden.ids("B"))?;
    let short = model.run_with_cache(golden.ids("A"))?;
    let two = model.run_with_cache(vec![golden.ids("A"), golden.ids("B")])?;
    let direction = run.resid_pre(0)?.select("position", 1)?;
    let nothing = NamedTensor::from_vec("nothing", vec![0.0; 64], vec![Axis::unlabelled("d_model", 64)])?;
    let narrow = NamedTensor::from_vec("narrow", vec![1.0; 3], vec![Axis::unlabelled("d_model", 3)])?;
    let edge = |head, query, key| AttentionEdge { head, query, key };
    let loss = |model: Result<Model>| model.and_then(|model| model.loss(golden.ids("B"))).map(|_| ());
    let cases: Vec<(&str, Result<()>, ErrorKind, &[&str])> = vec![
        (
            "no heads",
            loss(model.ablate(Vec::<Head>::new(), Ablation::Zero)),
            ErrorKind::Edit,
            &["no component"],
        ),
        (
            "a head that is not",
            loss(model.ablate(head(2, 0), Ablation::Zero)),
            ErrorKind::Address,
            &["L2H0", "2 layers of 4 heads", "L0H0 to L1H3"],
        ),
        (
            "an MLP that is not",
            loss(model.ablate(mlp(2), Ablation::Zero)),
            ErrorKind::Address,
            &["blocks.2.hook_mlp_out", "0 to 1"],
        ),
        (
            "a neuron that is not",
            loss(model.ablate(mlp(0).neuron(256), Ablation::Zero)),
            ErrorKind::Address,
            &["neuron 256", "0 to 255"],
        ),
        (
            "a run of another length",
            loss(model.ablate(head(0, 0), Ablation::Resample(&short))),
            ErrorKind::Edit,
            &["12 tokens", "41", "as many tokens"],
        ),
        (
            "a run of two inputs",
            loss(model.ablate(head(0, 0), Ablation::Resample(&two))),
            ErrorKind::Input,
            &["2 inputs", "item(0)"],
        ),
        (
            "a patch of another length",
            loss(model.patch(("z", 0), None, None, &short)),
            ErrorKind::Edit,
            &["12 tokens", "41"],
        ),
        (
            "a position that is not",
            loss(model.patch(("z", 0), None, Some(&[41]), &run)),
            ErrorKind::Edit,
            &["position 41", "0 to 40"],
        ),
        (
            "no position",
            loss(model.patch(("z", 0), None, Some(&[]), &run)),
            ErrorKind::Edit,
            &["no position"],
        ),
        (
            "a head where there are none",
            loss(model.patch(("mlp_out", 0), Some(1), None, &run)),
            ErrorKind::Edit,
            &["hook_mlp_out", "no heads"],
        ),
        (
            "what was not kept",
            loss(model.patch(("result", 0), None, None, &run)),
            ErrorKind::Address,
            &["opt-in", "RunOptions::all()"],
        ),
        ("no edges", loss(model.knock_out(&[])), ErrorKind::Edit, &["no edge"]),
        (
            "an edge ahead",
            loss(model.knock_out(&[edge(head(0, 0), 3, 4)])),
            ErrorKind::Edit,
            &["query 3", "key 4"],
        ),
        (
            "the only edge",
            loss(model.knock_out(&[edge(head(0, 0), 0, 0)])),
            ErrorKind::Edit,
            &["no key left", "L0H0"],
        ),
        (
            "steering by nothing",
            loss(model.steer(("resid_pre", 0), &nothing, 1.0)),
            ErrorKind::Edit,
            &["nothing", "zero"],
        ),
        (
            "steering by zero times",
            loss(model.steer(("resid_pre", 0), &direction, 0.0)),
            ErrorKind::Edit,
            &["0 times"],
        ),
        (
            "a direction too narrow",
            loss(model.steer(("resid_pre", 0), &narrow, 1.0)),
            ErrorKind::Backend,
            &["[3]"],
        ),
        (
            "an edit of another shape",
            loss(model.edit(("z", 0), "mine", |z| Ok(z.sum(1)?))),
            ErrorKind::Edit,
            &["\"mine\"", "blocks.0.attn.hook_z", "same shape"],
        ),
        (
            "a hook that is not",
            loss(model.edit(("z", 7), "mine", |z| Ok(z.clone()))),
            ErrorKind::Address,
            &["blocks.7.attn.hook_z", "0 to 1"],
        ),
        (
            "folding an edited model",
            loss(model.ablate(head(0, 0), Ablation::Zero)?.folded()),
            ErrorKind::Edit,
            &["L0H0 zero-ablated", "fold first"],
        ),
    ];
    refused(cases);
    Ok(())
}

/// A model whose logits are edited hands all positions over: what a metric reads must still be its own.
#[test]
fn gradients_of_a_model_with_edited_logits() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-random");
    let model = Model::open(&golden.folder)?;
    let (clean, ids) = (golden.ids("B"), golden.ids("C"));
    // Softmax does not see a shift of all logits.
    let shifted = model.edit("unembed.hook_out", "logits shifted", |logits| Ok((logits + 1.0)?))?;
    for metric in [Metric::Loss, Metric::LossFrom(HALF), Metric::LogProb { token: 5, position: Some(7) }] {
        let plain = attribution_patching(&model, &clean, &ids, Site::Z, &metric)?.to_vec()?;
        let edited = attribution_patching(&shifted, &clean, &ids, Site::Z, &metric)?.to_vec()?;
        assert!(plain.iter().zip(&edited).all(|(a, b)| (a - b).abs() < 1e-4), "{metric:?}");
        let swept =
            |model: &Model| ablation_effects(model, &ids, Ablation::Zero, &metric)?.heads().values().to_vec();
        let (plain, edited) = (swept(&model)?, swept(&shifted)?);
        assert!(plain.iter().zip(&edited).all(|(a, b)| (a - b).abs() < 1e-4), "{metric:?}");
    }
    Ok(())
}

/// Edits that are sound by themselves may leave nothing together.
#[test]
fn keys_cut_one_edit_at_a_time() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-random");
    let model = Model::open(&golden.folder)?;
    let edge = |key| [AttentionEdge { head: head(0, 1), query: 1, key }];
    let cut = model.knock_out(&edge(0))?.knock_out(&edge(1))?;
    let error = cut.loss(golden.ids("A")).expect_err("query 1 sees nothing").to_string();
    assert!(error.contains("query 1 of L0H1 would have no key left"), "{error}");
    Ok(())
}

#[test]
fn bad_sweeps_are_refused() -> Result<()> {
    let golden = Golden::open("tiny-gpt2-random");
    let model = Model::open(&golden.folder)?;
    let (a, b, c) = (golden.ids("A"), golden.ids("B"), golden.ids("C"));
    let diff = |correct, position| Metric::LogitDiff { correct, incorrect: 1, position };
    let patching =
        |clean: &[u32], site, metric: &Metric| activation_patching(&model, clean, &c, site, metric).map(drop);
    let effects =
        |ids: &[u32], metric: &Metric| ablation_effects(&model, ids, Ablation::Zero, metric).map(drop);
    let paths = |to| path_patching(&model, &b, &c, to, &Metric::Loss).map(drop);
    let slopes = |site, metric: &Metric| attribution_patching(&model, &b, &c, site, metric).map(drop);
    let by_position = activation_patching_by_position(&model, &b, &c, Site::MlpOut, &Metric::Loss).map(drop);
    let custom = Metric::custom("wrong", |logits| logits.value(&[9999, 0]));
    let cases: Vec<(&str, Result<()>, ErrorKind, &[&str])> = vec![
        ("lengths", patching(&a, Site::Z, &Metric::Loss), ErrorKind::Input, &["12 tokens", "41", "align"]),
        (
            "a site in no layer",
            patching(&b, Site::Embed, &Metric::Loss),
            ErrorKind::Address,
            &["hook_embed", "resid_pre"],
        ),
        ("no heads", by_position, ErrorKind::Address, &["hook_mlp_out", "no heads"]),
        ("a token", patching(&b, Site::Z, &diff(160, None)), ErrorKind::Input, &["160", "ids are 0 to 159"]),
        (
            "a position",
            patching(&b, Site::Z, &diff(0, Some(41))),
            ErrorKind::Input,
            &["position 41", "41 tokens"],
        ),
        ("one token", effects(&[3], &Metric::Loss), ErrorKind::Input, &["one token", "at least two"]),
        ("too late", effects(&b, &Metric::LossFrom(40)), ErrorKind::Input, &["from 40", "41 tokens"]),
        ("far too late", effects(&b, &Metric::LossFrom(usize::MAX)), ErrorKind::Input, &["41 tokens"]),
        ("no repeat", effects(&a, &Metric::InductionScore(head(1, 0))), ErrorKind::Input, &["twice"]),
        (
            "a head",
            effects(&b, &Metric::InductionScore(head(1, 4))),
            ErrorKind::Address,
            &["L1H4", "L0H0 to L1H3"],
        ),
        ("a metric of one's own", effects(&b, &custom), ErrorKind::Axes, &["9999", "0 to 40"]),
        ("a receiver", paths(PathReceiver::Key(head(2, 0))), ErrorKind::Address, &["L2H0"]),
        (
            "no gradient",
            slopes(Site::Z, &Metric::Kl),
            ErrorKind::Input,
            &["KL divergence", "activation_patching"],
        ),
        ("masked scores", slopes(Site::AttnScores, &Metric::Loss), ErrorKind::Address, &["-inf", "Pattern"]),
        ("an empty text", effects(&[], &Metric::Loss), ErrorKind::Input, &["no tokens"]),
    ];
    refused(cases);
    Ok(())
}

#[test]
fn a_metric_is_measured_as_sweeps_measure_it() -> Result<()> {
    let model = Model::open("built-in")?;
    let text = "the cat sat on the mat, the cat";
    let metric = Metric::logit_diff(&model, " sat", " dog")?;
    let logits = model.logits(text)?;
    let logit = |word: &str| logits.value(&[logits.shape()[0] - 1, model.to_single_token(word)? as usize]);
    let expected = f64::from(logit(" sat")? - logit(" dog")?);
    assert!((metric.measure(&model, text)? - expected).abs() < 1e-5);
    assert_eq!(
        metric.measure(&model, text)?,
        ablation_effects(&model, text, Ablation::Zero, &metric)?.clean()
    );
    assert_eq!(Metric::Kl.measure(&model, text)?, 0.0);
    assert!(Metric::InductionScore(head(7, 0)).measure(&model, "the cat the cat").is_err());
    Ok(())
}
