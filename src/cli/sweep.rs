//! What verbs that sweep share: keeping what is found in a part, and saying it, found now or merged of parts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use headlight::analysis::{
    AblationEffects, HeadScores, RepeatedTokens, Shard, SweepPart, SweepResult, merge,
};
use headlight::{Figure, Head, Result, Table, View, request_stop};
use serde_json::{Value, json};

use super::json::line;

/// How a sweep that takes long is stopped and gone on with, and shared among processes.
#[derive(Args)]
pub struct PartArgs {
    /// Keep what is found of each input in this file, and go on after what is in it
    #[arg(long, value_name = "FILE")]
    part: Option<PathBuf>,
    /// With --part: only one share of the inputs, as 1/4; `headlight merge` puts all shards together
    #[arg(long, value_name = "I/N", requires = "part")]
    shard: Option<Shard>,
}

impl PartArgs {
    pub fn destination(self) -> Option<Destination> {
        Some(Destination { path: self.part?, shard: self.shard.unwrap_or(Shard::ALL) })
    }
}

/// Where a sweep keeps what it has found, and which share of it is to be made.
pub struct Destination {
    path: PathBuf,
    shard: Shard,
}

impl Destination {
    /// Makes the part; says what is found if it is the whole, and what to do next if it is not.
    pub fn make(&self, as_json: bool, make: impl FnOnce(&SweepPart) -> Result<()>) -> Result<String> {
        stop_by_signal();
        make(&SweepPart::new(&self.path, self.shard))?;
        if self.shard == Shard::ALL {
            return describe(&merge(&[&self.path])?, as_json);
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

/// What a sweep found, in words or as JSON.
pub fn describe(found: &SweepResult, as_json: bool) -> Result<String> {
    match found {
        SweepResult::Ablation { model, ablation, effects } => {
            describe_effects(model, ablation, effects, as_json)
        }
        SweepResult::HeadScores { model, repeated, scores } => {
            describe_scores(model, repeated, scores, as_json)
        }
        SweepResult::Metric { model, metric, value, inputs } => Ok(match as_json {
            true => line(&json!({ "model": model, metric: value, "inputs": inputs })),
            false => format!("{metric} {value:.4} nats, over {inputs} inputs\n"),
        }),
        other => Ok(format!("{other:?}\n")),
    }
}

fn describe_effects(model: &str, mode: &str, effects: &AblationEffects, as_json: bool) -> Result<String> {
    if !as_json {
        return Ok(format!("{}loss {:.4} nats\n", effects.figure()?.to_text(), effects.clean()));
    }
    let entries = effects.heads().heads().zip(effects.heads().values().to_vec()?);
    let entries: Vec<Value> =
        entries.map(|(head, effect)| json!({ "head": head.to_string(), "effect": effect })).collect();
    Ok(line(&json!({ "model": model, "mode": mode, "loss": effects.clean(), "effects": entries })))
}

fn describe_scores(
    model: &str,
    repeated: &RepeatedTokens,
    scores: &[HeadScores],
    as_json: bool,
) -> Result<String> {
    let all = scores[0].grid().heads();
    if !as_json {
        let kinds = scores.iter().map(|scores| scores.kind().to_string());
        let columns = std::iter::once("head".to_string()).chain(kinds);
        let mut table = Table::new(format!("head scores on {}", scores[0].dataset()), columns);
        for head in all {
            table.push(std::iter::once(head.to_string()).chain(cells(head, scores)?));
        }
        return Ok(Figure::new(vec![View::Table(table)])?.to_text());
    }
    let mut heads = Vec::new();
    for head in all {
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

/// A head's score of each kind, as a table has it.
pub fn cells(head: Head, scores: &[HeadScores]) -> Result<Vec<String>> {
    scores.iter().map(|scores| Ok(format!("{:.3}", scores.at(head)?))).collect()
}
