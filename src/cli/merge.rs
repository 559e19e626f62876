//! `headlight merge`: one result of the shards of a sweep.

use std::path::PathBuf;

use headlight::analysis::merge;

use super::args::Output;
use super::sweep::describe;

/// Make one result of the files that the shards of `ablate`, `heads` or `loss` have written with --part
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  headlight ablate built-in --prompts prompts.txt --part 1.part --shard 1/2\n  \
    headlight ablate built-in --prompts prompts.txt --part 2.part --shard 2/2\n  headlight merge 1.part 2.part\n\n\
    It prints what the verb would have printed in one piece; --json as well."
)]
pub struct Args {
    /// The file of each shard, in any order
    #[arg(required = true, value_name = "PART")]
    parts: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Where the figure goes
    #[arg(short, long)]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> Output {
    let merged = merge(&args.parts)?;
    let mut output = describe(&merged, args.json)?;
    if let Some(out) = args.out {
        merged.figure()?.save(&out)?;
        if !args.json {
            output += &format!("wrote {}\n", out.display());
        }
    }
    Ok(output)
}
