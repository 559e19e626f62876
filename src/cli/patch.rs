//! `headlight patch`: which activations carry the right answer.

use std::path::PathBuf;

use headlight::analysis::{Metric, activation_patching};
use headlight::{Figure, Hook, Input, IntoHook, Model, NamedTensor, Result, RunOptions, Site};
use serde_json::{Value, json};

use super::args::{Failure, Output, RequiredModel, writes_of_a_source};
use super::json::{line, nested};

/// Patch activations of a clean text into a corrupted one, each in turn, and print the logit difference
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  headlight patch built-in --clean \"the cat sat the cat\" \
    --corrupted \"the cat sat the dog\" --correct \" sat\" --incorrect \" the\" --site z\n  \
    headlight patch opus-mt-en-fr --clean \"The white house\" --corrupted \"The white horse\" \
    --target \"La maison\" --correct blanche --incorrect blanc\n\n\
    JSON: {\"model\": ..., \"site\": \"attn.hook_z\", \"clean\": 2.1, \"corrupted\": -0.3, \"axes\": \
    [\"layer\", \"head\"], \"patched\": [[...], ...]}; of an encoder-decoder {..., \"panels\": [{\"site\": \
    \"encoder.attn.hook_z\", \"axes\": [...], \"patched\": [...]}, ...]}")]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    /// The text (or, as 1,2,3, the token ids) that calls forth the right answer
    #[arg(long)]
    clean: String,
    /// The text (or ids) of as many tokens that does not
    #[arg(long)]
    corrupted: String,
    /// What an encoder-decoder has written so far (or ids), where the answer comes next [default: nothing]
    #[arg(long)]
    target: Option<String>,
    /// The same of the corrupted text, where it is other
    #[arg(long, requires = "target")]
    corrupted_target: Option<String>,
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

    /// A source, with what was written of it so far and the answer behind that.
    fn with_target(&self, model: &Model, source: Input, target: Option<&str>, answer: u32) -> Result<Input> {
        let mut written: Vec<u32> = match target {
            Some(target) => {
                let pair = Input::pair(source.clone(), self.input(target)?);
                let run = model.run_with_options(pair, &RunOptions::only([Site::UnembedIn]))?;
                // What is read begins with the start; of a text it is all but the end, of ids all but the last.
                run.tokens()[0].ids()[1..].to_vec()
            }
            None => Vec::new(),
        };
        if let (true, Some(target)) = (self.ids, target) {
            written = Input::parse_ids(target)?;
        }
        written.push(answer);
        Ok(Input::pair(source, written))
    }
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let of_source = writes_of_a_source(&model);
    if model.spec().reads_pictures() {
        return Err(Failure::Usage(
            "patch reads one text after another: models that read pictures are patched in a notebook, by `activation_patching`",
        ));
    }
    if !of_source && args.target.is_some() {
        return Err(Failure::Usage("--target is of models that read a source and write a target"));
    }
    let (correct, incorrect) = (args.token(&model, &args.correct)?, args.token(&model, &args.incorrect)?);
    let metric = Metric::LogitDiff { correct, incorrect, position: args.position };
    let (mut clean, mut corrupted) = (args.input(&args.clean)?, args.input(&args.corrupted)?);
    if of_source {
        let target = args.target.as_deref();
        clean = args.with_target(&model, clean, target, correct)?;
        let target = args.corrupted_target.as_deref().or(target);
        corrupted = args.with_target(&model, corrupted, target, correct)?;
    }
    let site = (args.site.as_str(), 0).into_hook()?.site();
    let mut panels: Vec<(Hook, NamedTensor)> = Vec::new();
    for hook in sites(&model, site) {
        let patched = activation_patching(&model, &clean, &corrupted, hook, &metric)?;
        let title =
            format!("logit of {:?} minus {:?}, clean {hook} patched in", args.correct, args.incorrect);
        panels.push((hook, patched.renamed(title)));
    }
    let value = |input: &Input| -> Result<f32> {
        let logits = model.logits(input)?;
        let position = args.position.unwrap_or(logits.shape()[0] - 1);
        Ok(logits.value(&[position, correct as usize])? - logits.value(&[position, incorrect as usize])?)
    };
    let (clean, corrupted) = (value(&clean)?, value(&corrupted)?);
    let figures = panels.iter().map(|(_, patched)| patched.figure()).collect::<Result<Vec<_>>>()?;
    let figure = Figure::stack(figures)?;
    let mut said = String::new();
    if let Some(out) = args.out {
        figure.save(&out)?;
        said = format!("wrote {}\n", out.display());
    }
    if args.json {
        let (model, site) = (model.name(), site.name());
        let mut all = json!({"model": model, "site": site, "clean": clean, "corrupted": corrupted});
        let of = |patched: &NamedTensor| -> Result<Value> {
            Ok(json!({"axes": patched.axis_names(), "patched": nested(patched)?}))
        };
        match panels.as_slice() {
            [(_, patched)] => {
                all["axes"] = json!(patched.axis_names());
                all["patched"] = nested(patched)?;
            }
            several => {
                let each = several.iter().map(|(hook, patched)| {
                    let mut entry = of(patched)?;
                    entry["site"] = json!(hook.to_string());
                    Ok(entry)
                });
                all["panels"] = json!(each.collect::<Result<Vec<Value>>>()?);
            }
        }
        return Ok(line(&all));
    }
    let text = figure.to_text();
    Ok(format!("{text}logit difference: {clean:.4} clean, {corrupted:.4} corrupted\n{said}"))
}

/// A site in each stack that has it, and in cross-attention.
fn sites(model: &Model, site: Site) -> Vec<Hook> {
    let hook = Hook::from(site);
    if model.spec().stacks().len() == 1 {
        return vec![hook];
    }
    let hooks = model.hooks();
    let is_there = |of: &Hook| {
        hooks.iter().any(|known| (known.site(), known.stack(), known.attn()) == (site, of.stack(), of.attn()))
    };
    let stacks = model.spec().stacks().iter().map(|spec| hook.of(spec.stack));
    let found: Vec<Hook> = stacks.flat_map(|own| [own, own.cross()]).filter(is_there).collect();
    // Its absence is told by who is asked for it.
    if found.is_empty() { vec![hook.of(model.spec().last_stack().stack)] } else { found }
}
