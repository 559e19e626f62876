//! Every public question against every kind of model: it works, or it is refused with its reason and what to ask instead.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::analysis::course_project::{as_published, qk_as_published};
use crate::analysis::{
    Composition, HeadKind, Metric, PathReceiver, RepeatedTokens, ablation_effects, accumulated_resid,
    activation_patching, activation_patching_by_position, attn_score_spread, attribution_patching,
    causal_truth, composition_scores, copying_accuracy, decompose_attn_scores, decompose_resid, detect_head,
    full_resid_decomposition, head_logit_attribution, head_logit_attribution_by_position, head_scores,
    induction_scores, logit_attrs, logit_bias, logit_lens, loss_on_repeats, ov_circuit, path_patching,
    qk_circuit, stack_head_results,
};
use crate::error::{ErrorKind, Result};
use crate::hook::{Head, Hook, Site};
use crate::model::edit::{Ablation, AttentionEdge, mlp};
use crate::model::generate::Sampling;
use crate::model::input::Input;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::tests::toys;
use crate::view::Visualize;

/// A kind of model, with inputs that it reads, and a head and a hook of it.
struct Kind {
    name: &'static str,
    model: Model,
    input: Input,
    other: Input,
    head: Head,
    hook: Hook,
}

fn kinds() -> Result<Vec<Kind>> {
    let kind = |name, model: Model, input: Input, other: Input| {
        let stack = model.spec().stacks()[0].stack;
        let (head, hook) = (crate::hook::head(1, 0).of(stack), Site::ResidPre.at(1).of(stack));
        Kind { name, model, input, other, head, hook }
    };
    let ids = |ids: [u32; 6]| Input::from(ids.to_vec());
    let (one, other) = (ids([3, 1, 4, 3, 1, 4]), ids([3, 2, 4, 3, 1, 4]));
    let pair = |ids: Input| Input::pair(ids, vec![2u32, 7, 1, 8]);
    Ok(vec![
        kind("decoder", Model::open("built-in")?, one.clone(), other.clone()),
        kind("encoder", toys::encoder()?, one.clone(), other.clone()),
        kind("tower", toys::tower()?, one.clone(), other.clone()),
        kind("translator", toys::translator()?, pair(one.clone()), pair(other.clone())),
        kind("post-norm translator", toys::post_norm_translator()?, pair(one), pair(other)),
    ])
}

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

const METRIC: Metric = Metric::LogitDiff { correct: 5, incorrect: 6, position: None };

/// Questions with the kinds of models of which they are asked in vain.
const QUESTIONS: &[(&str, Question, &[&str])] = &[
    ("run_with_cache", |kind| finite(run(kind)?.views()?.len().checked_sub(1).map(|_| 0.0)), &[]),
    ("logits", |kind| finite(kind.model.logits(&kind.input)?.to_vec()?), &["tower"]),
    ("log_probs", |kind| finite(run(kind)?.log_probs()?.to_vec()?), &["tower"]),
    ("loss", |kind| finite([kind.model.loss(&kind.input)?]), &["tower", "encoder"]),
    (
        "loss_per_token",
        |kind| finite(kind.model.loss_per_token(&kind.input)?.to_vec()?),
        &["tower", "encoder"],
    ),
    ("generate", |kind| kind.model.generate(&kind.input, &Sampling::default()).map(drop), ALL_BUT_DECODER),
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
    ("folded", |kind| kind.model.folded().map(drop), ALL_BUT_DECODER),
    (
        "ablation_effects",
        |kind| {
            let effects = ablation_effects(&kind.model, &kind.input, Ablation::Zero, &METRIC)?;
            finite(effects.heads().each()?.map(|(_, value)| value))
        },
        &["tower"],
    ),
    (
        "measure the loss",
        |kind| Metric::Loss.measure(&kind.model, &kind.input).map(drop),
        &["tower", "encoder"],
    ),
    ("measure", |kind| finite([METRIC.measure(&kind.model, &kind.input)? as f32]), &["tower"]),
    (
        "activation_patching",
        |kind| {
            let site = Hook::from(Site::Z).of(kind.head.stack);
            finite(activation_patching(&kind.model, &kind.input, &kind.other, site, &METRIC)?.to_vec()?)
        },
        &["tower"],
    ),
    (
        "activation_patching_by_position",
        |kind| {
            let site = Hook::from(Site::Pattern).of(kind.head.stack);
            let patched =
                activation_patching_by_position(&kind.model, &kind.input, &kind.other, site, &METRIC)?;
            finite(patched.to_vec()?)
        },
        &["tower"],
    ),
    (
        "attribution_patching",
        |kind| {
            let site = Hook::from(Site::ResidPre).of(kind.head.stack);
            let found = attribution_patching(&kind.model, &kind.input, &kind.other, site, &METRIC)?;
            finite(found.to_vec()?)
        },
        &["tower"],
    ),
    (
        "path_patching",
        |kind| path_patching(&kind.model, &kind.input, &kind.other, PathReceiver::Logits, &METRIC).map(drop),
        ALL_BUT_DECODER,
    ),
    ("induction_scores", |kind| induction_scores(&kind.model).map(drop), ALL_BUT_DECODER),
    ("induction_scores of a run", |kind| run(kind)?.induction_scores().map(drop), ALL_BUT_DECODER),
    (
        "head_scores",
        |kind| {
            let repeated = RepeatedTokens::for_model(&kind.model);
            head_scores(&kind.model, &[HeadKind::PreviousToken], &repeated).map(drop)
        },
        ALL_BUT_DECODER,
    ),
    (
        "loss_on_repeats",
        |kind| loss_on_repeats(&kind.model, &RepeatedTokens::for_model(&kind.model)).map(drop),
        ALL_BUT_DECODER,
    ),
    ("causal_truth", |kind| causal_truth(&kind.model).map(drop), ALL_BUT_DECODER),
    (
        "detect_head",
        |kind| detect_head(&kind.model, &kind.input, HeadKind::PreviousToken, &Default::default()).map(drop),
        ALL_BUT_DECODER,
    ),
    (
        "qk_circuit",
        |kind| finite(qk_circuit(&kind.model, kind.head)?.singular_values()?.to_vec()?),
        POST_NORM_OR_SEVERAL,
    ),
    (
        "ov_circuit",
        |kind| finite(ov_circuit(&kind.model, kind.head)?.eigenvalues()?.to_vec()?),
        POST_NORM_OR_SEVERAL,
    ),
    (
        "composition_scores",
        |kind| composition_scores(&kind.model, Composition::K).map(drop),
        POST_NORM_OR_SEVERAL,
    ),
    ("copying_accuracy", |kind| copying_accuracy(&kind.model, &[kind.head], 5).map(drop), ALL_BUT_DECODER),
    (
        "decompose_attn_scores",
        |kind| decompose_attn_scores(&kind.model, &run(kind)?, kind.head).map(drop),
        POST_NORM_OR_SEVERAL,
    ),
    (
        "attn_score_spread",
        |kind| attn_score_spread(&kind.model, &run(kind)?, kind.head).map(drop),
        POST_NORM_OR_SEVERAL,
    ),
    ("accumulated_resid", |kind| accumulated_resid(&run(kind)?, true).map(drop), POST_NORM_OR_SEVERAL),
    ("decompose_resid", |kind| decompose_resid(&run(kind)?).map(drop), POST_NORM_OR_SEVERAL),
    (
        "stack_head_results",
        |kind| stack_head_results(&kind.model, &run(kind)?).map(drop),
        POST_NORM_OR_SEVERAL,
    ),
    (
        "full_resid_decomposition",
        |kind| full_resid_decomposition(&kind.model, &run(kind)?).map(drop),
        POST_NORM_OR_SEVERAL,
    ),
    (
        "logit_attrs",
        |kind| {
            let run = run(kind)?;
            logit_attrs(&kind.model, &accumulated_resid(&run, true)?, &run, 5, Some(6)).map(drop)
        },
        ALL_BUT_DECODER,
    ),
    ("logit_bias", |kind| logit_bias(&kind.model, 5, Some(6)).map(drop), ALL_BUT_DECODER),
    (
        "head_logit_attribution",
        |kind| head_logit_attribution(&kind.model, &run(kind)?, 5, Some(6)).map(drop),
        ALL_BUT_DECODER,
    ),
    (
        "head_logit_attribution_by_position",
        |kind| head_logit_attribution_by_position(&kind.model, &run(kind)?, 5, Some(6)).map(drop),
        ALL_BUT_DECODER,
    ),
    ("logit_lens", |kind| logit_lens(&kind.model, &run(kind)?).map(drop), ALL_BUT_DECODER),
    ("as_published", |kind| as_published(&run(kind)?).map(drop), ALL_BUT_DECODER),
    (
        "qk_as_published",
        |kind| qk_as_published(&run(kind)?, 1).map(drop),
        &["translator", "post-norm translator"],
    ),
];

const ALL_BUT_DECODER: &[&str] = &["encoder", "tower", "translator", "post-norm translator"];
const POST_NORM_OR_SEVERAL: &[&str] = &["encoder", "translator", "post-norm translator"];

#[test]
fn every_question_is_answered_or_refused() -> Result<()> {
    let kinds = kinds()?;
    let mut wrong = Vec::new();
    for (name, question, refused) in QUESTIONS {
        assert!(refused.iter().all(|name| kinds.iter().any(|kind| kind.name == *name)));
        for kind in &kinds {
            let expected = refused.contains(&kind.name);
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
