//! Every public question against every kind of model: it works, or it is refused with its reason and what to ask instead.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::analysis::course_project::{as_published, qk_as_published};
use crate::analysis::{
    AlignmentOptions, AttributionMethod, Causes, Composition, ConceptMethod, ConceptPosition, HeadKind,
    Metric, PathReceiver, RepeatedTokens, ablation_effects, accumulated_resid, activation_patching,
    activation_patching_by_position, alignment_scores, attention_targets, attn_score_spread,
    attribution_patching, causal_truth, class_attribution, class_lens, composition_scores, concept_direction,
    copying_accuracy, decompose_attn_scores, decompose_resid, detect_head, full_resid_decomposition,
    head_logit_attribution, head_logit_attribution_by_position, head_scores, induction_scores,
    logit_attribution, logit_attrs, logit_bias, logit_lens, loss_on_repeats, ov_circuit, path_patching,
    qk_circuit, sentence_alignment, stack_head_results, token_attribution, value_flow,
};
use crate::error::{ErrorKind, Result};
use crate::hook::{Hook, Site};
use crate::model::edit::{Ablation, AttentionEdge, mlp};
use crate::model::generate::Sampling;
use crate::model::run::Run;
use crate::model::translate::Search;
use crate::tests::kinds::{
    Kind,
    Need::{
        self, AddsHeads, Classes, Logits, NextToken, OnePosition, OneStack, ReadOut, Similarity, Source,
        SumOfHeads, SumOfParts, Text,
    },
    kinds,
};
use crate::view::Visualize;

/// What of a question came out, as far as it is the same for all: that numbers are finite.
type Question = fn(&Kind) -> Result<()>;

fn finite(values: impl IntoIterator<Item = f32>) -> Result<()> {
    assert!(
        values.into_iter().all(|value| value.is_finite() || value == f32::NEG_INFINITY),
        "a number is none"
    );
    Ok(())
}

fn run(kind: &Kind) -> Result<Run> {
    kind.model.run_with_cache(&kind.input)
}

/// Questions, with what they need of a model: of one that lacks it they are asked in vain.
const QUESTIONS: &[(&str, Question, &[Need])] = &[
    ("run_with_cache", |kind| finite(run(kind)?.views()?.len().checked_sub(1).map(|_| 0.0)), &[]),
    ("logits", |kind| finite(kind.model.logits(&kind.input)?.to_vec()?), &[Logits]),
    ("log_probs", |kind| finite(run(kind)?.log_probs()?.to_vec()?), &[Logits]),
    ("loss", |kind| finite([kind.model.loss(&kind.input)?]), &[NextToken]),
    ("loss_per_token", |kind| finite(kind.model.loss_per_token(&kind.input)?.to_vec()?), &[NextToken]),
    (
        "generate",
        |kind| {
            kind.model
                .generate(&kind.prompt, &Sampling { max_new_tokens: 2, ..Sampling::default() })
                .map(drop)
        },
        &[NextToken],
    ),
    ("translate", |kind| kind.model.translate(&kind.prompt, &Search::default()).map(drop), &[Source]),
    (
        "alignment_scores",
        |kind| {
            let by_cause = AlignmentOptions { gold: None, causes: Causes::BestFive };
            let found = alignment_scores(&kind.model, &kind.input, &by_cause)?;
            finite(found.heads().iter().map(|own| own.error_rate as f32))
        },
        &[Source],
    ),
    (
        "sentence_alignment",
        |kind| {
            let found = sentence_alignment(&kind.model, &kind.input, kind.read_out.cross(), true)?;
            finite(found.effect()?.to_vec()?)
        },
        &[Source],
    ),
    (
        "run what it writes itself",
        |kind| finite(kind.model.run_with_cache(&kind.prompt)?.logits()?.to_vec()?),
        &[Logits],
    ),
    (
        "ablate",
        |kind| kind.model.ablate(kind.head, Ablation::Zero)?.run_with_cache(&kind.input).map(drop),
        &[],
    ),
    (
        "ablate an MLP to its mean",
        |kind| {
            let part = mlp(0).of(kind.head.stack);
            kind.model.ablate(part, Ablation::Mean(&run(kind)?))?.run_with_cache(&kind.input).map(drop)
        },
        &[],
    ),
    (
        "patch",
        |kind| {
            let other = kind.model.run_with_cache(&kind.other)?;
            kind.model.patch(kind.hook, None, Some(&[1]), &other)?.run_with_cache(&kind.input).map(drop)
        },
        &[],
    ),
    (
        "knock_out",
        |kind| {
            let edge = AttentionEdge { head: kind.head, query: 2, key: 1 };
            kind.model.knock_out(&[edge])?.run_with_cache(&kind.input).map(drop)
        },
        &[],
    ),
    ("folded", |kind| kind.model.folded().map(drop), &[NextToken, OneStack]),
    (
        "ablation_effects",
        |kind| {
            let effects = ablation_effects(&kind.model, &kind.input, Ablation::Zero, &kind.metric)?;
            finite(effects.heads().each()?.map(|(_, value)| value))
        },
        &[],
    ),
    ("measure the loss", |kind| Metric::Loss.measure(&kind.model, &kind.input).map(drop), &[NextToken]),
    ("measure", |kind| finite([kind.metric.measure(&kind.model, &kind.input)? as f32]), &[]),
    (
        "measure a difference of logits",
        |kind| {
            let metric = Metric::LogitDiff { correct: 5, incorrect: 6, position: None };
            finite([metric.measure(&kind.model, &kind.input)? as f32])
        },
        &[Logits],
    ),
    (
        "measure a class",
        |kind| {
            let metric = Metric::class_diff(&kind.model, "good", "bad")?;
            finite([metric.measure(&kind.model, &kind.input)? as f32])
        },
        &[Classes],
    ),
    (
        "measure a similarity",
        |kind| finite([Metric::Similarity.measure(&kind.model, &kind.input)? as f32]),
        &[Similarity],
    ),
    (
        "activation_patching",
        |kind| {
            let site = Hook::from(Site::Z).of(kind.head.stack);
            finite(activation_patching(&kind.model, &kind.input, &kind.other, site, &kind.metric)?.to_vec()?)
        },
        &[],
    ),
    (
        "activation_patching_by_position",
        |kind| {
            let site = Hook::from(Site::Pattern).of(kind.head.stack);
            let patched =
                activation_patching_by_position(&kind.model, &kind.input, &kind.other, site, &kind.metric)?;
            finite(patched.to_vec()?)
        },
        &[],
    ),
    (
        "attribution_patching",
        |kind| {
            let site = Hook::from(Site::ResidPre).of(kind.head.stack);
            let found = attribution_patching(&kind.model, &kind.input, &kind.other, site, &kind.metric)?;
            finite(found.to_vec()?)
        },
        &[],
    ),
    ("classify", |kind| finite(kind.model.classify(&kind.input)?.values().to_vec()?), &[Classes]),
    (
        "class_lens",
        |kind| finite(class_lens(&kind.model, &run(kind)?)?.logits().to_vec()?),
        &[Classes, OneStack],
    ),
    (
        "class_attribution",
        |kind| {
            let class = kind.model.spec().class_labels().first().map_or("joy", String::as_str);
            let found = class_attribution(&kind.model, &run(kind)?, class, None)?;
            let sum: f32 = found.components().to_vec()?.iter().sum();
            let logit = run(kind)?.get(Site::ClassLogits)?.value(&[0])?;
            assert!((sum - logit).abs() < 1e-4, "{}: {sum}, not {logit}", kind.name);
            finite([sum])
        },
        &[Classes, OneStack],
    ),
    (
        "value_flow",
        |kind| {
            let metric = match kind.model.spec().class_labels() {
                [] => Metric::LogProb { token: 1, position: Some(1) },
                _ => Metric::Class { class: 0, instead: None },
            };
            finite(value_flow(&kind.model, &kind.input, &metric)?.by_head().to_vec()?)
        },
        &[OnePosition, OneStack],
    ),
    (
        "concept_direction",
        |kind| {
            let at = ConceptPosition::Mean;
            let (has, lacks) = (vec![vec![1, 3, 2], vec![1, 3, 4]], vec![vec![1, 5, 2], vec![1, 6, 4]]);
            let hook = Site::ResidPre.at(0);
            let method = ConceptMethod::LogisticProbe;
            let found = concept_direction(&kind.model, has, lacks, hook, at, method)?;
            finite(found.vector().to_vec()?)
        },
        &[OneStack, Text],
    ),
    (
        "attention_targets",
        |kind| finite(attention_targets(&kind.model, &kind.input)?.values().to_vec()?),
        &[ReadOut, Text],
    ),
    (
        "token_attribution",
        |kind| {
            let of = |method| token_attribution(&kind.model, &kind.input, &kind.metric, method);
            let integrated = of(AttributionMethod::IntegratedGradients { steps: 12, baseline: Some(0) })?;
            finite(integrated.completeness_gap()?.map(|gap| gap as f32))?;
            finite(integrated.scores().to_vec()?)?;
            finite(of(AttributionMethod::GradientTimesInput)?.scores().to_vec()?)?;
            finite(of(AttributionMethod::Occlusion { by: Some(0) })?.scores().to_vec()?)
        },
        &[OneStack, Text],
    ),
    (
        "path_patching",
        |kind| {
            path_patching(&kind.model, &kind.input, &kind.other, PathReceiver::Logits, &kind.metric).map(drop)
        },
        &[ReadOut],
    ),
    ("induction_scores", |kind| induction_scores(&kind.model).map(drop), &[NextToken]),
    ("induction_scores of a run", |kind| run(kind)?.induction_scores().map(drop), &[NextToken]),
    (
        "head_scores",
        |kind| {
            let repeated = RepeatedTokens::for_model(&kind.model);
            head_scores(&kind.model, &[HeadKind::PreviousToken], &repeated).map(drop)
        },
        &[NextToken],
    ),
    (
        "loss_on_repeats",
        |kind| loss_on_repeats(&kind.model, &RepeatedTokens::for_model(&kind.model)).map(drop),
        &[NextToken],
    ),
    ("causal_truth", |kind| causal_truth(&kind.model).map(drop), &[SumOfHeads, NextToken]),
    (
        "detect_head",
        |kind| detect_head(&kind.model, &kind.input, HeadKind::PreviousToken, &Default::default()).map(drop),
        &[NextToken],
    ),
    ("qk_circuit", |kind| finite(qk_circuit(&kind.model, kind.head)?.singular_values()?.to_vec()?), &[]),
    ("ov_circuit", |kind| finite(ov_circuit(&kind.model, kind.head)?.eigenvalues()?.to_vec()?), &[AddsHeads]),
    (
        "full OV circuit",
        |kind| finite(ov_circuit(&kind.model, kind.read_out)?.full_eigenvalues()?.to_vec()?),
        &[AddsHeads, Logits],
    ),
    (
        "composition_scores",
        |kind| composition_scores(&kind.model, Composition::K).map(drop),
        &[SumOfHeads, OneStack],
    ),
    (
        "copying_accuracy",
        |kind| copying_accuracy(&kind.model, &[kind.read_out], 5).map(drop),
        &[AddsHeads, NextToken],
    ),
    (
        "decompose_attn_scores",
        |kind| decompose_attn_scores(&kind.model, &run(kind)?, kind.head).map(drop),
        &[SumOfHeads, OneStack],
    ),
    (
        "attn_score_spread",
        |kind| attn_score_spread(&kind.model, &run(kind)?, kind.head).map(drop),
        &[SumOfHeads, OneStack],
    ),
    ("accumulated_resid", |kind| accumulated_resid(&run(kind)?, true).map(drop), &[SumOfParts]),
    ("decompose_resid", |kind| decompose_resid(&run(kind)?).map(drop), &[SumOfParts]),
    ("stack_head_results", |kind| stack_head_results(&kind.model, &run(kind)?).map(drop), &[SumOfHeads]),
    (
        "full_resid_decomposition",
        |kind| full_resid_decomposition(&kind.model, &run(kind)?).map(drop),
        &[SumOfHeads],
    ),
    (
        "logit_attrs",
        |kind| {
            let run = run(kind)?;
            logit_attrs(&kind.model, &accumulated_resid(&run, true)?, &run, 5, Some(6)).map(drop)
        },
        &[NextToken, SumOfParts],
    ),
    (
        "logit_attribution",
        |kind| {
            let run = run(kind)?;
            let at = run.tokens()[0].len() - 1;
            let found = logit_attribution(&kind.model, &run, at, 5, None)?;
            let sum: f32 = found.components().to_vec()?.iter().sum();
            let logit = run.logits()?.value(&[at, 5])?;
            assert!((sum - logit).abs() < 1e-4, "{}: {sum}, not {logit}", kind.name);
            // Heads alone are those that are found head by head.
            let heads = head_logit_attribution(&kind.model, &run, 5, None)?;
            for head in heads.heads() {
                let (all, one) = (heads.at(head)?, found.heads().at(head)?);
                assert!((all - one).abs() < 1e-4, "{}, {head}: {all}, not {one}", kind.name);
            }
            finite([sum])
        },
        &[NextToken, AddsHeads],
    ),
    ("logit_bias", |kind| logit_bias(&kind.model, 5, Some(6)).map(drop), &[NextToken, SumOfParts]),
    (
        "head_logit_attribution",
        |kind| head_logit_attribution(&kind.model, &run(kind)?, 5, Some(6)).map(drop),
        &[AddsHeads, NextToken],
    ),
    (
        "head_logit_attribution_by_position",
        |kind| head_logit_attribution_by_position(&kind.model, &run(kind)?, 5, Some(6)).map(drop),
        &[AddsHeads, NextToken],
    ),
    (
        "logit_lens",
        |kind| {
            let run = run(kind)?;
            let lens = logit_lens(&kind.model, &run)?;
            // Its last row is what the model says.
            let (rows, last) = (lens.top_ids(), run.logits()?.tensor().argmax(1)?.to_vec1::<u32>()?);
            assert_eq!(rows[rows.len() - 1], last, "{}", kind.name);
            Ok(())
        },
        &[NextToken],
    ),
    ("as_published", |kind| as_published(&run(kind)?).map(drop), &[NextToken, OneStack]),
    ("qk_as_published", |kind| qk_as_published(&run(kind)?, 1).map(drop), &[OneStack]),
];

#[test]
fn every_question_is_answered_or_refused() -> Result<()> {
    let kinds = kinds()?;
    let mut wrong = Vec::new();
    for (name, question, needs) in QUESTIONS {
        for kind in &kinds {
            let expected = !kind.has(needs);
            match catch_unwind(AssertUnwindSafe(|| question(kind))) {
                Err(_) => wrong.push(format!("{name} of the {}: a panic", kind.name)),
                Ok(Ok(())) if expected => wrong.push(format!("{name} of the {}: no refusal", kind.name)),
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let text = error.to_string();
                    let is_reasoned = text.contains("help:")
                        && matches!(error.kind(), ErrorKind::Model | ErrorKind::Address | ErrorKind::Input);
                    if !expected || !is_reasoned {
                        wrong.push(format!("{name} of the {}: {:?} {text}", kind.name, error.kind()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let names: BTreeSet<&str> = QUESTIONS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names.len(), QUESTIONS.len());
    Ok(())
}
