//! `headlight models`: the models that open by name, and what is in the hub's cache.

use headlight::known_models;
use serde_json::{Value, json};

use super::args::Output;
use super::json::line;

/// List the models that open by name, and which are in the cache of the Hugging Face hub; nothing is fetched
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  headlight models\n  headlight models --json\n\n\
    JSON: {\"models\": [{\"name\": \"gpt2\", \"also\": [\"gpt2-small\"], \"layers\": 12, \"heads\": 12, \"width\": 768, \
    \"millions\": 124.0, \"repository\": \"openai-community/gpt2\", \"cached\": null, \"cached_bytes\": 0}, ...]}")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Output {
    let known = known_models()?;
    if !args.json {
        return Ok(known.figure()?.to_text());
    }
    let entries = known.iter().map(|model| {
        let size = |index: usize| model.sizes.map(|sizes| sizes[index]);
        json!({
            "name": model.names.first(), "also": model.names.get(1..), "layers": size(0), "heads": size(1),
            "width": size(2), "millions": model.millions, "repository": model.repository,
            "cached": model.cached.as_ref().map(|path| path.display().to_string()), "cached_bytes": model.cached_bytes,
        })
    });
    Ok(line(&json!({ "models": entries.collect::<Vec<Value>>() })))
}
