//! `headlight generate`: a text continued.

use headlight::Sampling;

use super::args::{InputArgs, Output, RequiredModel};

/// Continue a text
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  headlight generate built-in \"the cat sat on\" --temperature 0.8 --seed 3"
)]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    #[command(flatten)]
    input: InputArgs,
    /// Tokens to add
    #[arg(short = 'n', long, default_value_t = 20)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token each time
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw among this many likeliest tokens
    #[arg(long)]
    top_k: Option<usize>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: Args) -> Output {
    let Args { model, input, max_new_tokens, temperature, top_k, seed } = args;
    let sampling = Sampling { max_new_tokens, temperature, top_k, seed };
    let model = model.open()?;
    let generated = model.generate(input.input(&model)?, &sampling)?;
    Ok(format!("{}\n", generated.text()))
}
