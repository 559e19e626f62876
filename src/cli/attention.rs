//! `headlight attention`: the patterns of a text, drawn.

use std::path::PathBuf;

use headlight::{Figure, Head, Result, Run, RunOptions, Site};

use super::args::{InputArgs, Output, RequiredModel, save_or_text};

/// Draw the attention patterns of a text
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  headlight attention built-in \"the cat sat the cat sat\" -o attention.html\n  \
    headlight attention built-in \"the cat sat\" --layer 1 -o layer1.png"
)]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    #[command(flatten)]
    input: InputArgs,
    /// One layer only
    #[arg(long)]
    layer: Option<usize>,
    /// The layer of this head, with the head enlarged
    #[arg(long, conflicts_with = "layer")]
    pub head: Option<Head>,
    /// Where the figure goes: .html, .png, .svg, .json or .txt; without it, text on the screen
    #[arg(short, long)]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> Output {
    let Args { model, input, layer, head, out } = args;
    let model = model.open()?;
    let shown = head.map(|head| head.hook(Site::Pattern)).or(layer.map(|layer| Site::Pattern.at(layer)));
    let options = match shown {
        Some(hook) if model.hooks().contains(&hook) => RunOptions::matching(hook.to_string()),
        _ => RunOptions::only([Site::Pattern]),
    };
    let run = model.run_with_options(input.input(&model)?, &options)?;
    let of = |draw: &dyn Fn(&Run) -> Result<Figure>| {
        let figures = (0..run.tokens().len()).map(|index| draw(&run.item(index)?));
        Figure::stack(figures.collect::<Result<Vec<_>>>()?)
    };
    let figure = match (shown, head) {
        (Some(hook), Some(head)) => of(&|run| Figure::attention_of(&run.get(hook)?, head.head))?,
        (Some(hook), None) => of(&|run| Figure::attention(&run.get(hook)?))?,
        (None, _) => run.figure()?,
    };
    save_or_text(&figure, out.as_deref())
}
