//! `headlight ablate`: what heads are worth, by what is lost without them.

use clap::ValueEnum;
use headlight::analysis::{Metric, SweepPart, SweepResult, ablation_effects};
use headlight::{Ablation, Head, Input, Model, Result, RunOptions, Site, no_bos};
use serde_json::json;

use super::args::{Failure, InputArgs, Output, RequiredModel};
use super::json::line;
use super::sweep::{PartArgs, describe};

/// Ablate heads and print what that adds to the loss, in nats; without --heads, each head by itself
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  headlight ablate built-in \"the cat sat the cat sat\"\n  \
    headlight ablate built-in \"the cat sat the cat sat\" --heads L1H0,L1H2 --mode mean\n  \
    headlight ablate built-in --prompts prompts.txt --part 1.part --shard 1/2\n\n\
    JSON: {\"model\": \"built-in\", \"mode\": \"zero\", \"heads\": [\"L1H0\"], \"loss\": 3.1, \
    \"ablated_loss\": 4.2, \"effect\": 1.1}\n\
    or, without --heads: {\"model\": ..., \"mode\": ..., \"loss\": 3.1, \"effects\": [{\"head\": \"L0H0\", \"effect\": 0.1}, ...]}")]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    #[command(flatten)]
    input: InputArgs,
    /// The heads to ablate together: L1H0,L1H2
    #[arg(long, value_delimiter = ',', conflicts_with = "part")]
    heads: Vec<Head>,
    /// What is put in their place
    #[arg(long, value_enum, default_value_t = Mode::Zero)]
    mode: Mode,
    /// The text whose activations stand in for the heads' own; resampling needs it [default for mean: the text itself]
    #[arg(long, conflicts_with = "reference_tokens")]
    reference: Option<String>,
    /// The same, as token ids
    #[arg(long, value_name = "IDS")]
    reference_tokens: Option<String>,
    #[command(flatten)]
    kept: PartArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is put in place of an ablated head.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Zero,
    Mean,
    Resample,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let reference = match (args.reference, args.reference_tokens) {
        (Some(text), _) => Some(if args.input.no_bos { no_bos(text) } else { text.into() }),
        (None, Some(ids)) => Some(Input::parse_ids(&ids)?.into()),
        (None, None) => None,
    };
    let wrong = match (args.mode, &reference) {
        // Resampled from itself, everything would stay as it was.
        (Mode::Resample, None) => Some("--mode resample needs --reference or --reference-tokens"),
        // A run of thousands would be kept whole.
        (Mode::Mean, None) if args.input.prompts.is_some() => {
            Some("--mode mean needs --reference or --reference-tokens with --prompts")
        }
        (Mode::Zero, Some(_)) => Some("a reference is for --mode mean or --mode resample"),
        _ => None,
    };
    if let Some(wrong) = wrong {
        return Err(Failure::Usage(wrong));
    }
    let input = args.input.input(&model)?;
    let reference = match args.mode {
        Mode::Zero => None,
        _ => {
            let kept = RunOptions::only([Site::Z, Site::MlpOut]);
            Some(model.run_with_options(reference.unwrap_or_else(|| input.clone()), &kept)?)
        }
    };
    let ablation = match (args.mode, &reference) {
        (Mode::Mean, Some(run)) => Ablation::Mean(run),
        (Mode::Resample, Some(run)) => Ablation::Resample(run),
        _ => Ablation::Zero,
    };
    if !args.heads.is_empty() {
        return Ok(together(&model, &input, &args.heads, ablation, args.json)?);
    }
    if let Some(kept) = args.kept.destination() {
        let make = |part: &SweepPart| part.ablation_effects(&model, input, ablation, &Metric::Loss);
        return Ok(kept.make(args.json, make)?);
    }
    let mode = ablation.to_string();
    let effects = ablation_effects(&model, input, ablation, &Metric::Loss)?;
    Ok(describe(&SweepResult::Ablation { model: model.name().into(), ablation: mode, effects }, args.json)?)
}

/// The loss without all of these heads at once.
fn together(
    model: &Model,
    input: &Input,
    heads: &[Head],
    ablation: Ablation,
    as_json: bool,
) -> Result<String> {
    let mode = ablation.to_string();
    let loss = |model: &Model| Metric::Loss.measure(model, input);
    let (clean, ablated) = (loss(model)?, loss(&model.ablate(heads, ablation)?)?);
    let effect = ablated - clean;
    let names: Vec<String> = heads.iter().map(Head::to_string).collect();
    Ok(match as_json {
        true => line(&json!({
            "model": model.name(), "mode": mode, "heads": names, "loss": clean, "ablated_loss": ablated,
            "effect": effect,
        })),
        false => format!(
            "loss {clean:.4} nats; without {} ({mode} ablation) {ablated:.4}: {effect:+.4}\n",
            names.join(", ")
        ),
    })
}
