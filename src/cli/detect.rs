//! `headlight detect`: induction heads by a dynamic threshold, against causal truth.

use headlight::analysis::{DynamicThreshold, causal_truth, induction_scores};
use headlight::{Figure, Table, View, Visualize};
use serde_json::json;

use super::args::{ModelArgs, Output};
use super::json::line;

/// Find the induction heads by a threshold that follows each head's variance, and judge them by their causes
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  headlight detect built-in\n  headlight detect built-in --json\n\n\
    JSON: {\"model\": \"built-in\", \"threshold\": \"dynamic, 3 deviations\", \"precision\": 1.0, \"recall\": 1.0, \"f1\": 1.0, \
    \"heads\": [{\"head\": \"L0H0\", \"score\": 0.01, \"threshold\": 0.3, \"found\": false, \"true\": false, \
    \"prefix_matching\": 0.01, \"copying\": 0.02, \"effect\": 0.0}, ...]}")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Standard deviations of a head's attention elsewhere that its score must exceed
    #[arg(long, default_value_t = DynamicThreshold::default().deviations, allow_negative_numbers = true)]
    deviations: f32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let scores = induction_scores(&model)?;
    let detection = scores.detect(DynamicThreshold { deviations: args.deviations })?;
    let truth = causal_truth(&model)?;
    let evaluation = detection.evaluate(&truth)?;
    let mut entries = Vec::new();
    let columns = ["head", "score", "threshold", "found", "true", "prefix matching", "copying", "effect"];
    let mut table = Table::new(format!("induction heads of {}", model.name()), columns);
    for head in scores.grid().heads() {
        let evidence = truth.evidence(head);
        let prefix_matching = evidence.map(|evidence| evidence.prefix_matching);
        let copying = evidence.and_then(|evidence| evidence.copying);
        let effect = evidence.and_then(|evidence| evidence.effect);
        let (score, bar) = (scores.at(head)?, detection.thresholds().at(head)?);
        let (found, is_true) = (detection.heads().contains(&head), truth.contains(head));
        entries.push(json!({
            "head": head.to_string(), "score": score, "threshold": bar, "found": found, "true": is_true,
            "prefix_matching": prefix_matching, "copying": copying, "effect": effect,
        }));
        let mark = |yes: bool| if yes { "✓" } else { "·" }.to_string();
        let number = |value: f32| format!("{value:.3}");
        let perhaps = |value: Option<f32>| value.map_or_else(|| "–".into(), number);
        table.push([
            head.to_string(),
            number(score),
            number(bar),
            mark(found),
            mark(is_true),
            perhaps(prefix_matching),
            perhaps(copying),
            perhaps(effect),
        ]);
    }
    if args.json {
        return Ok(line(&json!({
            "model": model.name(), "threshold": detection.threshold().to_string(),
            "precision": evaluation.precision(), "recall": evaluation.recall(), "f1": evaluation.f1(),
            "heads": entries,
        })));
    }
    let mut views = vec![View::Table(table)];
    views.extend(evaluation.views()?);
    Ok(Figure::new(views)?.to_text())
}
