//! `headlight patch`: which activations carry the right answer.

use std::path::PathBuf;

use headlight::analysis::{Metric, activation_patching};
use headlight::{Input, IntoHook, Model, Result};
use serde_json::json;

use super::args::{Failure, Output, RequiredModel};
use super::json::{line, nested};

/// Patch activations of a clean text into a corrupted one, each in turn, and print the logit difference
#[derive(clap::Args)]
#[command(after_help = "Example:\n  headlight patch built-in --clean \"the cat sat the cat\" \
    --corrupted \"the cat sat the dog\" --correct \" sat\" --incorrect \" the\" --site z\n\n\
    JSON: {\"model\": ..., \"site\": \"attn.hook_z\", \"clean\": 2.1, \"corrupted\": -0.3, \"axes\": \
    [\"layer\", \"head\"], \"patched\": [[...], ...]}")]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    /// The text (or, as 1,2,3, the token ids) that calls forth the right answer
    #[arg(long)]
    clean: String,
    /// The text (or ids) of as many tokens that does not
    #[arg(long)]
    corrupted: String,
    /// The right answer: one token (with --ids, its id)
    #[arg(long)]
    correct: String,
    /// The wrong answer: one token (with --ids, its id)
    #[arg(long)]
    incorrect: String,
    /// The position that predicts [default: the last]
    #[arg(long)]
    position: Option<usize>,
    /// What is patched: z, q, k, v, pattern, resid_pre, attn_out, mlp_out
    #[arg(long, default_value = "z")]
    site: String,
    /// Inputs and answers are given as token ids: 1,2,3
    #[arg(long)]
    ids: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Where the figure goes
    #[arg(short, long)]
    out: Option<PathBuf>,
}

impl Args {
    fn input(&self, text: &str) -> Result<Input> {
        if self.ids { Ok(Input::parse_ids(text)?.into()) } else { Ok(text.into()) }
    }

    fn token(&self, model: &Model, text: &str) -> Result<u32> {
        if self.ids { Input::parse_id(text) } else { model.to_single_token(text) }
    }
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    if model.spec().stacks().len() > 1 || model.spec().reads_pictures() {
        return Err(Failure::Usage(
            "patch reads one text after another: models that read pairs or pictures are patched in a notebook, by \
             `activation_patching`",
        ));
    }
    let (correct, incorrect) = (args.token(&model, &args.correct)?, args.token(&model, &args.incorrect)?);
    let metric = Metric::LogitDiff { correct, incorrect, position: args.position };
    let (clean, corrupted) = (args.input(&args.clean)?, args.input(&args.corrupted)?);
    let site = (args.site.as_str(), 0).into_hook()?.site();
    let patched = activation_patching(&model, &clean, &corrupted, site, &metric)?;
    let title = format!("logit of {:?} minus {:?}, clean {site} patched in", args.correct, args.incorrect);
    let patched = patched.renamed(title);
    let value = |input: &Input| -> Result<f32> {
        let logits = model.logits(input)?;
        let position = args.position.unwrap_or(logits.shape()[0] - 1);
        Ok(logits.value(&[position, correct as usize])? - logits.value(&[position, incorrect as usize])?)
    };
    let (clean, corrupted) = (value(&clean)?, value(&corrupted)?);
    let figure = patched.figure()?;
    let mut said = String::new();
    if let Some(out) = args.out {
        figure.save(&out)?;
        said = format!("wrote {}\n", out.display());
    }
    if args.json {
        return Ok(line(&json!({
            "model": model.name(), "site": site.name(), "clean": clean, "corrupted": corrupted,
            "axes": patched.axis_names(), "patched": nested(&patched)?,
        })));
    }
    let text = figure.to_text();
    Ok(format!("{text}logit difference: {clean:.4} clean, {corrupted:.4} corrupted\n{said}"))
}
