//! `headlight fill`: what a masked language model puts in place of a mask.

use headlight::{Figure, Visualize};
use serde_json::{Value, json};

use super::args::{Output, RequiredModel};
use super::json::line;

/// Print what stands in place of [MASK], the likeliest first
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  headlight fill bert-base-uncased \"The capital of France is [MASK].\"\n\n\
    JSON: {\"model\": ..., \"text\": ..., \"tokens\": [{\"token\": \"paris\", \"probability\": 0.4}, ...]}"
)]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    /// A text with one [MASK] (<mask> in RoBERTa's)
    text: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How many tokens JSON lists.
const LISTED: usize = 10;

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let found = model.fill_mask(&args.text)?;
    if !args.json {
        return Ok(Figure::new(found.views()?)?.to_text());
    }
    let of_token = |(token, probability)| json!({"token": token, "probability": probability});
    let tokens: Vec<Value> = found.top(LISTED).into_iter().map(of_token).collect();
    Ok(line(&json!({"model": model.name(), "text": args.text, "tokens": tokens})))
}
