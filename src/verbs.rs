//! The verbs that answer a question, in words or as JSON.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use headlight::analysis::{
    AblationEffects, Composition, DynamicThreshold, HeadKind, HeadScores, Metric, RepeatedTokens, Shard,
    SweepPart, SweepResult, ablation_effects, activation_patching, causal_truth, composition_scores,
    head_scores, induction_scores, merge, qk_circuit,
};
use headlight::{
    Ablation, Figure, Head, Input, IntoHook, Model, NamedTensor, Result, RunOptions, Site, Table, View,
    Visualize, known_models, request_stop,
};
use serde_json::{Value, json};

use crate::report;

/// What is put in place of an ablated head.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Mode {
    Zero,
    Mean,
    Resample,
}

/// Where a sweep keeps what it has found, and which share of it is to be made.
pub struct Kept {
    pub path: PathBuf,
    pub shard: Shard,
}

impl Kept {
    /// Makes the part; prints what is found if it is the whole, and what to do next if it is not.
    fn make(&self, as_json: bool, make: impl FnOnce(&SweepPart) -> Result<()>) -> Result<String> {
        stop_by_signal();
        make(&SweepPart::new(&self.path, self.shard))?;
        if self.shard == Shard::ALL {
            return found(&merge(&[&self.path])?, as_json);
        }
        let (path, shard) = (self.path.display(), self.shard);
        Ok(format!("{path} has shard {shard}; `headlight merge` makes one result of all shards' files\n"))
    }
}

/// From now on an interrupt asks work to stop, so that it says how it goes on; a second one ends the program.
fn stop_by_signal() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    // Where there can be no handler, the program ends at once, and the part goes on as well.
    let _ = ctrlc::set_handler(|| match ASKED.swap(true, Ordering::Relaxed) {
        false => request_stop(),
        true => std::process::exit(130),
    });
}

/// The result of all parts of a sweep.
pub fn merged(paths: &[PathBuf], as_json: bool, out: Option<&Path>) -> Result<String> {
    let merged = merge(paths)?;
    let mut said = found(&merged, as_json)?;
    if let Some(out) = out {
        merged.figure()?.save(out)?;
        if !as_json {
            said += &format!("wrote {}\n", out.display());
        }
    }
    Ok(said)
}

fn found(merged: &SweepResult, as_json: bool) -> Result<String> {
    match merged {
        SweepResult::Ablation { model, ablation, effects } => effects_said(model, ablation, effects, as_json),
        SweepResult::HeadScores { model, repeated, scores } => scores_said(model, repeated, scores, as_json),
        SweepResult::Metric { model, metric, value, inputs } => Ok(match as_json {
            true => line(&json!({ "model": model, metric: value, "inputs": inputs })),
            false => format!("{metric} {value:.4} nats, over {inputs} inputs\n"),
        }),
        other => Ok(format!("{other:?}\n")),
    }
}

pub fn heads(model: &Model, repeated: &RepeatedTokens, kept: Option<&Kept>, as_json: bool) -> Result<String> {
    match kept {
        Some(kept) => kept.make(as_json, |part| part.head_scores(model, &HeadKind::ALL, repeated)),
        None => {
            let scores = head_scores(model, &HeadKind::ALL, repeated)?;
            scores_said(model.name(), repeated, &scores, as_json)
        }
    }
}

fn scores_said(
    model: &str,
    repeated: &RepeatedTokens,
    scores: &[HeadScores],
    as_json: bool,
) -> Result<String> {
    if !as_json {
        return report::table(scores);
    }
    let mut heads = Vec::new();
    for head in scores[0].grid().heads() {
        let mut entry = json!({ "head": head.to_string() });
        for scores in scores {
            entry[scores.kind().name()] = json!(scores.at(head)?);
        }
        heads.push(entry);
    }
    let RepeatedTokens { length, batch, seed } = repeated;
    Ok(line(&json!({
        "model": model, "length": length, "batch": batch, "seed": seed, "heads": heads,
    })))
}

/// The models that open by name, and what is in the hub's cache.
pub fn models(as_json: bool) -> Result<String> {
    let known = known_models()?;
    if !as_json {
        return Ok(known.figure()?.to_text());
    }
    let entries = known.0.iter().map(|model| {
        let size = |index: usize| model.sizes.map(|sizes| sizes[index]);
        json!({
            "name": model.names.first(), "also": model.names.get(1..), "layers": size(0), "heads": size(1),
            "width": size(2), "millions": model.millions, "repository": model.repository,
            "cached": model.cached.as_ref().map(|path| path.display().to_string()), "cached_bytes": model.cached_bytes,
        })
    });
    Ok(line(&json!({ "models": entries.collect::<Vec<Value>>() })))
}

/// The mean loss of many inputs.
pub fn mean_loss(model: &Model, input: Input, kept: Option<&Kept>, as_json: bool) -> Result<String> {
    match kept {
        Some(kept) => kept.make(as_json, |part| part.measure(model, input, &Metric::Loss)),
        None => {
            let (inputs, value) = (input.len(), Metric::Loss.measure(model, input)?);
            let (model, metric) = (model.name().to_string(), "loss".to_string());
            found(&SweepResult::Metric { model, metric, value, inputs }, as_json)
        }
    }
}

pub fn loss(model: &Model, input: Input, as_json: bool) -> Result<String> {
    let run = model.run_with_options(input, &RunOptions::only([Site::UnembedOut]))?;
    let mut output = String::new();
    let mut entries = Vec::new();
    for index in 0..run.tokens().len() {
        let item = run.item(index)?;
        let losses = item.loss_per_token()?;
        entries.push(json!({
            "model": model.name(),
            "loss": item.loss()?,
            "tokens": item.tokens()[0].labels(),
            "ids": item.tokens()[0].ids(),
            "loss_per_token": losses.to_vec()?,
        }));
        output += &format!("{}loss {:.4} nats\n\n", Figure::bars(&losses)?.to_text(), item.loss()?);
    }
    match (as_json, entries.len()) {
        (false, _) => Ok(output),
        (true, 1) => Ok(line(&entries[0])),
        (true, _) => Ok(line(&Value::Array(entries))),
    }
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

fn all_heads(model: &Model) -> impl Iterator<Item = Head> + use<> {
    let dims = *model.dims();
    Head::all(dims.n_layers, dims.n_heads)
}

/// The effect of ablating heads together, or of each by itself where none is named.
pub fn ablate(
    model: &Model,
    input: Input,
    heads: &[Head],
    mode: Mode,
    reference: Option<Input>,
    kept: Option<&Kept>,
    as_json: bool,
) -> Result<String> {
    let reference = match mode {
        Mode::Zero => None,
        _ => {
            let kept = RunOptions::only([Site::Z, Site::MlpOut]);
            Some(model.run_with_options(reference.unwrap_or_else(|| input.clone()), &kept)?)
        }
    };
    let ablation = match (mode, &reference) {
        (Mode::Mean, Some(run)) => Ablation::Mean(run),
        (Mode::Resample, Some(run)) => Ablation::Resample(run),
        _ => Ablation::Zero,
    };
    let mode = ablation.to_string();
    if !heads.is_empty() {
        let loss = |model: &Model| Metric::Loss.measure(model, &input);
        let (clean, ablated) = (loss(model)?, loss(&model.ablate(heads, ablation)?)?);
        let effect = ablated - clean;
        let names: Vec<String> = heads.iter().map(Head::to_string).collect();
        return Ok(match as_json {
            true => line(&json!({
                "model": model.name(), "mode": mode, "heads": names, "loss": clean, "ablated_loss": ablated,
                "effect": effect,
            })),
            false => format!(
                "loss {clean:.4} nats; without {} ({mode} ablation) {ablated:.4}: {effect:+.4}\n",
                names.join(", ")
            ),
        });
    }
    match kept {
        Some(kept) => kept.make(as_json, |part| part.ablation_effects(model, input, ablation, &Metric::Loss)),
        None => {
            let effects = ablation_effects(model, input, ablation, &Metric::Loss)?;
            effects_said(model.name(), &mode, &effects, as_json)
        }
    }
}

fn effects_said(model: &str, mode: &str, effects: &AblationEffects, as_json: bool) -> Result<String> {
    if !as_json {
        return Ok(format!("{}loss {:.4} nats\n", effects.figure()?.to_text(), effects.clean()));
    }
    let entries = effects.heads().heads().zip(effects.heads().values().to_vec()?);
    let entries: Vec<Value> =
        entries.map(|(head, effect)| json!({ "head": head.to_string(), "effect": effect })).collect();
    Ok(line(&json!({ "model": model, "mode": mode, "loss": effects.clean(), "effects": entries })))
}

/// A clean and a corrupted input, and the two answers that tell them apart.
pub struct PatchedPair {
    pub clean: String,
    pub corrupted: String,
    pub correct: String,
    pub incorrect: String,
    pub position: Option<usize>,
    pub ids: bool,
}

impl PatchedPair {
    fn input(&self, text: &str) -> Result<Input> {
        if self.ids { Ok(Input::parse_ids(text)?.into()) } else { Ok(text.into()) }
    }

    fn token(&self, model: &Model, text: &str) -> Result<u32> {
        if self.ids { Input::parse_id(text) } else { model.to_single_token(text) }
    }
}

/// The logit difference with each activation of the clean input patched into the corrupted one.
pub fn patch(
    model: &Model,
    pair: &PatchedPair,
    site: &str,
    as_json: bool,
    out: Option<&Path>,
) -> Result<String> {
    let (correct, incorrect) = (pair.token(model, &pair.correct)?, pair.token(model, &pair.incorrect)?);
    let metric = Metric::LogitDiff { correct, incorrect, position: pair.position };
    let (clean, corrupted) = (pair.input(&pair.clean)?, pair.input(&pair.corrupted)?);
    let site = (site, 0).into_hook()?.site();
    let patched = activation_patching(model, &clean, &corrupted, site, &metric)?;
    let title = format!("logit of {:?} minus {:?}, clean {site} patched in", pair.correct, pair.incorrect);
    let patched = patched.renamed(title);
    let value = |input: &Input| -> Result<f32> {
        let logits = model.logits(input)?;
        let position = pair.position.unwrap_or(logits.shape()[0] - 1);
        Ok(logits.value(&[position, correct as usize])? - logits.value(&[position, incorrect as usize])?)
    };
    let (clean, corrupted) = (value(&clean)?, value(&corrupted)?);
    let mut said = String::new();
    if let Some(out) = out {
        patched.figure()?.save(out)?;
        said = format!("wrote {}\n", out.display());
    }
    if as_json {
        return Ok(line(&json!({
            "model": model.name(), "site": site.name(), "clean": clean, "corrupted": corrupted,
            "axes": patched.axis_names(), "patched": rows(&patched)?,
        })));
    }
    let text = patched.figure()?.to_text();
    Ok(format!("{text}logit difference: {clean:.4} clean, {corrupted:.4} corrupted\n{said}"))
}

fn rows(named: &NamedTensor) -> Result<Vec<Vec<f32>>> {
    let width = named.shape().last().copied().unwrap_or(1).max(1);
    Ok(named.to_vec()?.chunks(width).map(<[f32]>::to_vec).collect())
}

/// Induction heads by a dynamic threshold, against causal truth.
pub fn detect(model: &Model, threshold: DynamicThreshold, as_json: bool) -> Result<String> {
    let scores = induction_scores(model)?;
    let detection = scores.detect(threshold)?;
    let truth = causal_truth(model)?;
    let evaluation = detection.evaluate(&truth)?;
    let mut entries = Vec::new();
    let columns = ["head", "score", "threshold", "found", "true", "prefix matching", "copying", "effect"];
    let mut table = Table::new(format!("induction heads of {}", model.name()), columns);
    for head in all_heads(model) {
        let evidence = truth.evidence(head);
        let prefix_matching = evidence.map(|evidence| evidence.prefix_matching);
        let copying = evidence.and_then(|evidence| evidence.copying);
        let effect = evidence.and_then(|evidence| evidence.effect);
        let (score, bar) = (scores.at(head)?, detection.thresholds().at(head)?);
        let (found, is_true) = (detection.heads().contains(&head), truth.contains(head));
        entries.push(json!({
            "head": head.to_string(), "score": score, "threshold": bar, "found": found, "true": is_true,
            "prefix_matching": prefix_matching, "copying": copying, "effect": effect,
        }));
        let mark = |yes: bool| if yes { "✓" } else { "·" }.to_string();
        let number = |value: f32| format!("{value:.3}");
        let perhaps = |value: Option<f32>| value.map_or_else(|| "–".into(), number);
        table.push([
            head.to_string(),
            number(score),
            number(bar),
            mark(found),
            mark(is_true),
            perhaps(prefix_matching),
            perhaps(copying),
            perhaps(effect),
        ]);
    }
    let (precision, recall, f1) = (evaluation.precision(), evaluation.recall(), evaluation.f1());
    if as_json {
        return Ok(line(&json!({
            "model": model.name(), "threshold": detection.threshold().to_string(), "precision": precision,
            "recall": recall, "f1": f1, "heads": entries,
        })));
    }
    let mut views = vec![View::Table(table)];
    views.extend(evaluation.views()?);
    Ok(Figure::new(views)?.to_text())
}

/// A head's QK circuit on one input.
pub fn qk(model: &Model, head: Head, input: Input, as_json: bool, out: Option<&Path>) -> Result<String> {
    let circuit = qk_circuit(model, head)?;
    // What heads read, in a model with norms and in one without.
    let run = model.run_with_options(input, &RunOptions::only([Site::Ln1Normalized, Site::ResidPre]))?;
    let (scores, pattern) = (circuit.scores(&run)?, circuit.pattern(&run)?);
    let figure = Figure::stack([scores.figure()?, pattern.figure()?])?;
    let mut said = String::new();
    if let Some(out) = out {
        figure.save(out)?;
        said = format!("wrote {}\n", out.display());
    }
    let by_position = match model.spec().has(Site::PosEmbed) {
        true => Some(circuit.previous_token_mass()?),
        false => None,
    };
    if as_json {
        return Ok(line(&json!({
            "model": model.name(),
            "head": head.to_string(),
            "tokens": run.tokens()[0].labels(),
            "scores": rows(&scores)?,
            "pattern": rows(&pattern)?,
            "previous_token_mass": by_position,
            "singular_values": circuit.singular_values()?.to_vec()?,
        })));
    }
    let by_position = by_position.map(|mass| {
        format!("by position alone, {head} attends to the previous token with probability {mass:.3}\n")
    });
    Ok(format!("{}{}{said}", figure.to_text(), by_position.unwrap_or_default()))
}

/// Composition scores of all pairs of heads.
pub fn composition(model: &Model, as_json: bool) -> Result<String> {
    let kinds = [("q", Composition::Q), ("k", Composition::K), ("v", Composition::V)];
    let mut all = serde_json::Map::new();
    let mut said = String::new();
    for (key, kind) in kinds {
        let scores = composition_scores(model, kind)?;
        let (baseline, named) = (scores.baseline(), scores.values());
        said += &format!(
            "{kind:?}-composition, random heads {:.3} ± {:.3}; highest:",
            baseline.mean, baseline.std
        );
        for (earlier, later, score) in scores.ranked()?.into_iter().take(5) {
            said += &format!("  {earlier} → {later} {score:.3}");
        }
        said += "\n";
        all.insert(key.into(), nested(&named.shape(), &named.to_vec()?));
    }
    if as_json { Ok(line(&Value::Object(all))) } else { Ok(said) }
}

/// Numbers as arrays in arrays; NaN and infinities as null.
fn nested(shape: &[usize], values: &[f32]) -> Value {
    match shape {
        [] | [_] => json!(values),
        [first, rest @ ..] => {
            let size = values.len() / (*first).max(1);
            Value::Array(values.chunks(size.max(1)).map(|part| nested(rest, part)).collect())
        }
    }
}
