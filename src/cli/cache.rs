//! `headlight cache`: the activations of a run, saved.

use std::path::PathBuf;

use headlight::RunOptions;

use super::args::{InputArgs, Output, RequiredModel};

/// Save the activations of a run under TransformerLens's names
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  headlight cache built-in \"the cat sat\" -o run.safetensors\n  \
    headlight cache built-in --tokens 0,5,9 --hooks 'blocks.*.attn.hook_pattern' -o patterns.safetensors")]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    #[command(flatten)]
    input: InputArgs,
    /// Where the activations go
    #[arg(short, long)]
    out: PathBuf,
    /// Only hooks that match; `*` stands for anything
    #[arg(long, value_name = "GLOB", conflicts_with = "all")]
    hooks: Option<String>,
    /// The opt-in hooks too: hook_result, hook_q_input, hook_k_input, hook_v_input, hook_mlp_in
    #[arg(long)]
    all: bool,
}

pub fn run(args: Args) -> Output {
    let options = match (args.hooks, args.all) {
        (Some(glob), _) => RunOptions::matching(glob),
        (None, true) => RunOptions::all(),
        (None, false) => RunOptions::new(),
    };
    let model = args.model.open()?;
    let run = model.run_with_options(args.input.input(&model)?, &options)?;
    run.save(&args.out)?;
    Ok(format!("wrote {} activations to {}\n", run.hooks().len(), args.out.display()))
}
