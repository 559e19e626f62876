//! `headlight composition`: which heads read which.

use headlight::analysis::{Composition, composition_scores};
use serde_json::{Map, Value};

use super::args::{ModelArgs, Output};
use super::json::{line, nested};

/// How much each head's output enters the queries, keys and values of later heads
#[derive(clap::Args)]
#[command(after_help = "Example:\n  headlight composition built-in\n\n\
    JSON: {\"q\": [[[[null, ...]]]], \"k\": ..., \"v\": ...}, each [layer][head][later layer][later head], null where \
    the second layer is not later")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let kinds = [("q", Composition::Q), ("k", Composition::K), ("v", Composition::V)];
    let mut all = Map::new();
    let mut said = String::new();
    for (key, kind) in kinds {
        let scores = composition_scores(&model, kind)?;
        let baseline = scores.baseline();
        said += &format!(
            "{kind:?}-composition, random heads {:.3} ± {:.3}; highest:",
            baseline.mean, baseline.std
        );
        for (earlier, later, score) in scores.ranked()?.into_iter().take(5) {
            said += &format!("  {earlier} → {later} {score:.3}");
        }
        said += "\n";
        all.insert(key.into(), nested(scores.values())?);
    }
    Ok(if args.json { line(&Value::Object(all)) } else { said })
}
