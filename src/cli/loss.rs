//! `headlight loss`: of each token, or the mean of many inputs.

use headlight::analysis::{Metric, SweepResult};
use headlight::{Figure, Input, Model, Result, RunOptions, Site};
use serde_json::{Value, json};

use super::args::{InputArgs, Output, RequiredModel};
use super::json::line;
use super::sweep::{Destination, PartArgs, describe};

/// Print the loss of each token and their mean, in nats; of --prompts the mean alone
#[derive(clap::Args)]
#[command(after_help = "Example:\n  headlight loss built-in \"the cat sat the cat sat\"\n\n\
    JSON: {\"model\": \"built-in\", \"loss\": 5.1, \"tokens\": [\"<|endoftext|>\", \"the\", ...], \"ids\": [0, ...], \
    \"loss_per_token\": [...]}")]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    kept: PartArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let input = args.input.input(&model)?;
    Ok(match (args.input.prompts.is_some(), args.kept.destination()) {
        (false, None) => of_tokens(&model, input, args.json)?,
        (_, kept) => mean(&model, input, kept.as_ref(), args.json)?,
    })
}

fn of_tokens(model: &Model, input: Input, as_json: bool) -> Result<String> {
    let run = model.run_with_options(input, &RunOptions::only([Site::UnembedOut]))?;
    let mut output = String::new();
    let mut entries = Vec::new();
    for index in 0..run.tokens().len() {
        let item = run.item(index)?;
        let (losses, loss) = (item.loss_per_token()?, item.loss()?);
        entries.push(json!({
            "model": model.name(),
            "loss": loss,
            "tokens": item.tokens()[0].labels(),
            "ids": item.tokens()[0].ids(),
            "loss_per_token": losses.to_vec()?,
        }));
        output += &format!("{}loss {loss:.4} nats\n\n", Figure::bars(&losses)?.to_text());
    }
    Ok(match (as_json, entries.len()) {
        (false, _) => output,
        (true, 1) => line(&entries[0]),
        (true, _) => line(&Value::Array(entries)),
    })
}

fn mean(model: &Model, input: Input, kept: Option<&Destination>, as_json: bool) -> Result<String> {
    if let Some(kept) = kept {
        return kept.make(as_json, |part| part.measure(model, input, &Metric::Loss));
    }
    let (inputs, value) = (input.len(), Metric::Loss.measure(model, input)?);
    let (model, metric) = (model.name().to_string(), "loss".to_string());
    describe(&SweepResult::Metric { model, metric, value, inputs }, as_json)
}
