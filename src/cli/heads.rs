//! `headlight heads`: what each head does, by its attention.

use headlight::analysis::{HeadKind, RepeatedTokens, SweepResult, head_scores};

use super::args::{ModelArgs, Output};
use super::sweep::{PartArgs, describe};

/// Score every head: induction, previous token, duplicate token, current token, first token
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  headlight heads\n  headlight heads my-gpt2/ --json > heads.json\n\n\
    JSON: {\"model\": \"built-in\", \"length\": 50, \"batch\": 10, \"seed\": 0, \"heads\": \
    [{\"head\": \"L0H0\", \"induction\": 0.01, \"previous_token\": 0.2, ...}]}")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
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
