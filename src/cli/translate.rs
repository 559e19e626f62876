//! `headlight translate`: what an encoder-decoder writes of texts.

use headlight::Search;
use serde_json::{Value, json};

use super::args::{InputArgs, Output, RequiredModel};
use super::json::line;

/// Translate a text, or several, or whatever else an encoder-decoder was trained to write of what it reads
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  headlight translate opus-mt-en-fr \"The cat sat.\" --beams 4\n  \
    headlight translate flan-t5-small \"translate English to German: The house is wonderful.\"\n\n\
    JSON: {\"model\": ..., \"translations\": [{\"source\": ..., \"target\": ..., \"ids\": [...], \"log_prob\": -0.3}]}; \
    the ids are without the start and with the end, the log-probability is their mean, in nats")]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    #[command(flatten)]
    input: InputArgs,
    /// How many texts are followed at once in search of the likeliest; 1 takes the likeliest token each time
    #[arg(long, default_value_t = Search::default().beams)]
    beams: usize,
    /// Tokens to write at most, the end included [default: what the model's files say]
    #[arg(short = 'n', long)]
    max_new_tokens: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let search = Search { beams: args.beams, max_new_tokens: args.max_new_tokens };
    let written = model.translate(args.input.input(&model)?, &search)?;
    if !args.json {
        return Ok(match &written[..] {
            [one] => format!("{one}\n"),
            _ => written.figure()?.to_text(),
        });
    }
    let entries = written.iter().map(|one| {
        json!({"source": one.source_text(), "target": one.text(), "ids": one.ids(), "log_prob": one.log_prob()})
    });
    Ok(line(&json!({"model": model.name(), "translations": entries.collect::<Vec<Value>>()})))
}
