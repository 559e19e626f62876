//! `headlight qk`: a head's QK circuit on one input.

use std::path::PathBuf;

use headlight::analysis::qk_circuit;
use headlight::{Attn, Figure, Head, Hook, RunOptions, Site};
use serde_json::json;

use super::args::{InputArgs, Output, open};
use super::json::{line, nested};

/// A head's attention scores and pattern on a text, from its weights: who attends to whom, and why
#[derive(clap::Args)]
#[command(after_help = "Example:\n  headlight qk built-in L1H0 \"the cat sat the cat sat\" -o qk.html\n\n\
    JSON: {\"model\": \"built-in\", \"head\": \"L1H0\", \"tokens\": [\"the\", ...], \"scores\": [[1.5, null], ...], \
    \"pattern\": [[1.0, 0.0], ...], \"previous_token_mass\": 0.1, \"singular_values\": [7.1, ...]}; the mass is null where positions are not embedded, and of cross-attention, which has the \"source_tokens\", too")]
pub struct Args {
    /// `built-in`, a known name, owner/name of the hub, a folder or a GGUF file
    model: String,
    /// The head: L1H0
    head: Head,
    #[command(flatten)]
    input: InputArgs,
    /// Fold the layer norms into the weights, as TransformerLens does by default
    #[arg(long)]
    folded: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Where the figure goes
    #[arg(short, long)]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> Output {
    let (model, head) = (open(&args.model, args.folded)?, args.head);
    let input = args.input.input(&model)?;
    let circuit = qk_circuit(&model, head)?;
    let run = model.run_with_options(input, &RunOptions::only(circuit.hooks_read()?.map(Hook::site)))?;
    let (scores, pattern) = (circuit.scores(&run)?, circuit.pattern(&run)?);
    let figure = Figure::stack([scores.figure()?, pattern.figure()?])?;
    let mut said = String::new();
    if let Some(out) = args.out {
        figure.save(&out)?;
        said = format!("wrote {}\n", out.display());
    }
    let is_embedded = model.hooks().contains(&Hook::from(Site::PosEmbed).of(head.stack));
    let is_cross = head.attn == Attn::Cross;
    let by_position = match is_embedded && !is_cross {
        true => Some(circuit.previous_token_mass()?),
        false => None,
    };
    if args.json {
        let [queries, keys] = [0, 1].map(|axis| scores.axes()[axis].labels().unwrap_or_default().to_vec());
        let mut all = json!({
            "model": model.name(),
            "head": head.to_string(),
            "tokens": queries,
            "scores": nested(&scores)?,
            "pattern": nested(&pattern)?,
            "previous_token_mass": by_position,
            "singular_values": circuit.singular_values()?.to_vec()?,
        });
        if is_cross {
            all["source_tokens"] = json!(keys);
        }
        return Ok(line(&all));
    }
    let by_position = by_position.map(|mass| {
        format!("by position alone, {head} attends to the previous token with probability {mass:.3}\n")
    });
    Ok(format!("{}{}{said}", figure.to_text(), by_position.unwrap_or_default()))
}
