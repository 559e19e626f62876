//! `headlight check`: all that a model consists of.

use serde_json::json;

use super::args::{Output, RequiredModel};
use super::json::line;

/// Read all weights, for NaN and infinity, and the tokenizer: what opening a model leaves to its first use
#[derive(clap::Args)]
#[command(after_help = "Example:\n  headlight check built-in\n\n\
    JSON: {\"model\": \"built-in\", \"weights\": 989568, \"sound\": true}")]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let weights = model.check_files()?;
    Ok(match args.json {
        true => line(&json!({"model": model.name(), "weights": weights, "sound": true})),
        false => format!("{}: all of {weights} weights are finite\n", model.name()),
    })
}
