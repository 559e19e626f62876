//! `headlight classify`: what a classifier says of texts.

use std::path::PathBuf;

use headlight::{Figure, Visualize};
use serde_json::{Map, Value, json};

use super::args::{InputArgs, Output, RequiredModel, save_or_text};
use super::json::line;

/// Print the classes of a text, or of several, with their probabilities
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  headlight classify built-in-sentiment \"the plot was not bad\" \"the plot was bad\"\n  \
    headlight classify distilbert-base-uncased-finetuned-sst-2-english \"not bad at all\" -o classes.html\n\n\
    JSON: {\"model\": ..., \"texts\": [{\"text\": ..., \"classes\": {\"negative\": 0.1, \"positive\": 0.9}}]}"
)]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    #[command(flatten)]
    input: InputArgs,
    /// Where the figure goes: .html, .png, .svg, .json or .txt; without it, text on the screen
    #[arg(short, long)]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let found = model.classify(args.input.input(&model)?)?;
    if !args.json {
        return save_or_text(&Figure::new(found.views()?)?, args.out.as_deref());
    }
    let (labels, values) = (found.labels(), found.values().to_vec()?);
    let texts = found.values().axes()[0].labels().unwrap_or_default();
    let of_text = |(text, row): (&String, &[f32])| {
        let classes: Map<String, Value> =
            labels.iter().zip(row).map(|(label, value)| (label.clone(), json!(value))).collect();
        json!({"text": text, "classes": classes})
    };
    let texts: Vec<Value> = texts.iter().zip(values.chunks(labels.len().max(1))).map(of_text).collect();
    Ok(line(&json!({"model": model.name(), "texts": texts})))
}
