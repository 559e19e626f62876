//! The command line: the library's calls, a file a verb.

mod ablate;
mod align;
pub mod args;
mod attention;
mod attribute;
mod cache;
mod check;
mod classify;
mod composition;
mod detect;
mod fill;
mod generate;
mod heads;
mod json;
mod loss;
mod merge;
mod models;
mod patch;
mod qk;
mod report;
mod sweep;
mod translate;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use headlight::Remedy;

use self::args::{Failure, Output};

const EXAMPLES: &str = "Examples:
  headlight                                   a report on the built-in model
  headlight heads built-in                    what each head does, by its attention
  headlight attention built-in \"the cat sat the cat sat\" -o attention.html
  headlight cache my-gpt2/ --tokens 0,5,9,5 --all -o run.safetensors

  headlight models                            the models that open by name, and which of them are here

MODEL is `built-in`, a name that `headlight models` lists (gpt2), owner/name of the Hugging Face hub (with @revision if
one wants), a folder with config.json, model.safetensors and a tokenizer, or a GGUF file.";

#[derive(Parser)]
#[command(version, about = "Look inside transformers: what each attention head does", after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

#[derive(Subcommand)]
pub enum Verb {
    Report(report::Args),
    Heads(heads::Args),
    Attention(attention::Args),
    Attribute(attribute::Args),
    Cache(cache::Args),
    Check(check::Args),
    Classify(classify::Args),
    Fill(fill::Args),
    Models(models::Args),
    Loss(loss::Args),
    Ablate(ablate::Args),
    Align(align::Args),
    Merge(merge::Args),
    Patch(patch::Args),
    Qk(qk::Args),
    Composition(composition::Args),
    Detect(detect::Args),
    Generate(generate::Args),
    Translate(translate::Args),
}

pub fn run(verb: Verb) -> Output {
    match verb {
        Verb::Report(args) => report::run(args),
        Verb::Heads(args) => heads::run(args),
        Verb::Attention(args) => attention::run(args),
        Verb::Attribute(args) => attribute::run(args),
        Verb::Cache(args) => cache::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Classify(args) => classify::run(args),
        Verb::Fill(args) => fill::run(args),
        Verb::Models(args) => models::run(args),
        Verb::Loss(args) => loss::run(args),
        Verb::Ablate(args) => ablate::run(args),
        Verb::Align(args) => align::run(args),
        Verb::Merge(args) => merge::run(args),
        Verb::Patch(args) => patch::run(args),
        Verb::Qk(args) => qk::run(args),
        Verb::Composition(args) => composition::run(args),
        Verb::Detect(args) => detect::run(args),
        Verb::Generate(args) => generate::run(args),
        Verb::Translate(args) => translate::run(args),
    }
}

/// What to do about an error, in terms of what the verb takes.
fn in_flags(verb: &Verb) -> impl Fn(Remedy) -> &'static str + use<> {
    let caches = matches!(verb, Verb::Cache(_));
    let draws = matches!(verb, Verb::Attention(attention::Args { head: None, .. }));
    move |remedy| match remedy {
        Remedy::OneInput => "give one text, or --tokens once",
        Remedy::KeepLess if caches => {
            "keep less, as with --hooks 'blocks.*.attn.hook_z'; or give a shorter text, or fewer at once"
        }
        Remedy::KeepLess | Remedy::DrawLess if draws => {
            "draw one head with --head L0H3, or one layer with --layer 0; or give a shorter text, or fewer at once"
        }
        _ => "give a shorter text, or fewer at once",
    }
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb.unwrap_or_else(|| Verb::Report(report::Args::default()));
    let in_flags = in_flags(&verb);
    match run(verb) {
        Ok(output) => print(&output),
        Err(Failure::Usage(wrong)) => Cli::command().error(ErrorKind::ArgumentConflict, wrong).exit(),
        Err(Failure::Error(error)) => {
            let error = match error.remedy() {
                Some(remedy) => error.help(in_flags(remedy)),
                None => error,
            };
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(output: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(output.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough (`| head`) is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let help = "check that the disk has room, or write elsewhere";
            let said = format!("error: cannot write the output\n  cause: {error}\n  help: {help}\n");
            let _ = std::io::stderr().write_all(said.as_bytes());
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
