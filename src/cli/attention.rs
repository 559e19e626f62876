//! `headlight attention`: the patterns of a text, drawn.

use std::path::PathBuf;

use headlight::{Figure, Head, Hook, NamedTensor, Result, Run, RunOptions, Site};

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
    // One layer of each attention, encoder's, decoder's and that between them.
    let of_layer = |hook: &Hook| hook.site() == Site::Pattern && hook.layer() == layer;
    let shown: Vec<Hook> = match (head, layer) {
        (Some(head), _) => vec![head.hook(Site::Pattern)],
        (None, Some(layer)) => {
            let found: Vec<Hook> = model.hooks().into_iter().filter(of_layer).collect();
            if found.is_empty() { vec![Site::Pattern.at(layer)] } else { found }
        }
        (None, None) => Vec::new(),
    };
    let options = match shown.as_slice() {
        [hook] if model.hooks().contains(hook) => RunOptions::matching(hook.to_string()),
        _ => RunOptions::only([Site::Pattern]),
    };
    let run = model.run_with_options(input.input(&model)?, &options)?;
    let of = |draw: &dyn Fn(&Run) -> Result<Figure>| {
        let figures = (0..run.tokens().len()).map(|index| draw(&run.item(index)?));
        Figure::stack(figures.collect::<Result<Vec<_>>>()?)
    };
    let each = |run: &Run, draw: &dyn Fn(&NamedTensor) -> Result<Figure>| {
        let figures = shown.iter().map(|hook| draw(&run.get(*hook)?)).collect::<Result<Vec<_>>>()?;
        Figure::stack(figures)
    };
    let figure = match (shown.is_empty(), head) {
        (true, _) => run.figure()?,
        (false, Some(head)) => of(&|run| each(run, &|pattern| Figure::attention_of(pattern, head.head)))?,
        (false, None) => of(&|run| each(run, &|pattern| Figure::attention(pattern)))?,
    };
    save_or_text(&figure, out.as_deref())
}
