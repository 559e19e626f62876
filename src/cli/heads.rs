//! `headlight heads`: what each head does, by its attention.

use headlight::analysis::{
    AttentionTarget, HeadKind, RepeatedTokens, SweepResult, attention_targets, head_scores,
};
use headlight::{Figure, Input, Model, Result, Table, View};
use serde_json::{Map, Value, json};

use super::args::{ModelArgs, OptionalInput, Output};
use super::json::line;
use super::sweep::{PartArgs, describe};

/// Score every head: induction, previous token, duplicate token, current token, first token; or see where heads look in a text
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  headlight heads\n  headlight heads my-gpt2/ --json > heads.json\n  \
    headlight heads bert-base-uncased \"The cat sat on the mat.\"\n\n\
    JSON: {\"model\": \"built-in\", \"length\": 50, \"batch\": 10, \"seed\": 0, \"heads\": \
    [{\"head\": \"L0H0\", \"induction\": 0.01, \"previous_token\": 0.2, ...}]}\n\
    or, of a text: {\"model\": ..., \"heads\": [{\"head\": \"L0H0\", \"previous\": 0.2, \"next\": 0.1, \"own\": 0.1, \"same_token\": 0.0, \
    \"first\": 0.3, \"separator\": 0.1, \"delimiter\": 0.1}]}")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    input: OptionalInput,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Random tokens before they repeat [default: 50, or what the context holds]
    #[arg(long)]
    length: Option<usize>,
    /// Sequences of random tokens [default: 10]
    #[arg(long)]
    batch: Option<usize>,
    /// Seed of the random tokens [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    kept: PartArgs,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    if let Some(input) = args.input.input(&model)? {
        return in_texts(&model, input, args.json);
    }
    let default = RepeatedTokens::for_model(&model);
    let repeated = RepeatedTokens {
        length: args.length.unwrap_or(default.length),
        batch: args.batch.unwrap_or(default.batch),
        seed: args.seed.unwrap_or(default.seed),
    };
    if let Some(kept) = args.kept.destination() {
        return Ok(kept.make(args.json, |part| part.head_scores(&model, &HeadKind::ALL, &repeated))?);
    }
    let scores = head_scores(&model, &HeadKind::ALL, &repeated)?;
    Ok(describe(&SweepResult::HeadScores { model: model.name().into(), repeated, scores }, args.json)?)
}

/// Where every head looks in texts.
fn in_texts(model: &Model, input: Input, as_json: bool) -> Output {
    let found = attention_targets(model, input)?;
    let grids = AttentionTarget::ALL.map(|target| found.of(target));
    let grids = grids.into_iter().collect::<Result<Vec<_>>>()?;
    let columns = ["head"].into_iter().chain(AttentionTarget::ALL.map(AttentionTarget::name));
    let mut table = Table::new(format!("where heads of {} look", model.name()), columns);
    let mut entries = Vec::new();
    for head in grids[0].heads() {
        let shares = grids.iter().map(|grid| grid.at(head)).collect::<Result<Vec<_>>>()?;
        let cells = shares.iter().map(|share| format!("{share:.3}"));
        table.push(std::iter::once(head.to_string()).chain(cells));
        let mut entry = Map::from_iter([("head".to_string(), Value::from(head.to_string()))]);
        for (target, share) in AttentionTarget::ALL.into_iter().zip(shares) {
            entry.insert(target.name().replace(' ', "_"), json!(share));
        }
        entries.push(entry);
    }
    if as_json {
        return Ok(line(&json!({"model": model.name(), "heads": entries})));
    }
    Ok(Figure::new(vec![View::Table(table)])?.to_text())
}
