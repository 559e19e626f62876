//! What verbs share: the flags that say which model and which input, and how a verb ends.

use std::path::{Path, PathBuf};

use clap::Args;
use headlight::{Error, Figure, Input, Model, Result, no_bos};

/// What a verb prints.
pub type Output = Result<String, Failure>;

/// Why a verb prints nothing.
pub enum Failure {
    /// The flags contradict each other: told as clap tells any other wrong use of them.
    Usage(&'static str),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// Writes a figure to a file, or gives it as text where none is named.
pub fn save_or_text(figure: &Figure, out: Option<&Path>) -> Output {
    match out {
        Some(out) => {
            figure.save(out)?;
            Ok(format!("wrote {}\n", out.display()))
        }
        None => Ok(figure.to_text()),
    }
}

#[derive(Args)]
pub struct ModelArgs {
    /// `built-in`, a known name, owner/name of the hub, a folder or a GGUF file
    #[arg(default_value = BUILT_IN)]
    model: String,
    /// Fold the layer norms into the weights, as TransformerLens does by default
    #[arg(long)]
    folded: bool,
}

const BUILT_IN: &str = "built-in";

impl Default for ModelArgs {
    fn default() -> Self {
        ModelArgs { model: BUILT_IN.into(), folded: false }
    }
}

impl ModelArgs {
    pub fn open(&self) -> Result<Model> {
        open(&self.model, self.folded)
    }
}

#[derive(Args)]
pub struct RequiredModel {
    /// `built-in`, a known name, owner/name of the hub, a folder or a GGUF file
    model: String,
    /// Fold the layer norms into the weights, as TransformerLens does by default
    #[arg(long)]
    folded: bool,
}

impl RequiredModel {
    pub fn open(&self) -> Result<Model> {
        open(&self.model, self.folded)
    }
}

pub fn open(name: &str, folded: bool) -> Result<Model> {
    let model = Model::open(name)?;
    if folded { model.folded() } else { Ok(model) }
}

#[derive(Args)]
pub struct InputArgs {
    /// Text to run; several make a batch
    #[arg(required_unless_present_any = ["tokens", "prompts"], conflicts_with_all = ["tokens", "prompts"])]
    pub text: Vec<String>,
    /// Token ids to run, in place of text: 1,2,3; several times for a batch
    #[arg(long, value_name = "IDS", conflicts_with = "prompts")]
    tokens: Vec<String>,
    /// A file of texts to run, one a line
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// The lines of --prompts are token ids: 1,2,3
    #[arg(long)]
    ids: bool,
    /// Put no BOS token before the text
    #[arg(long)]
    pub no_bos: bool,
}

impl InputArgs {
    /// What is to be run by a model: texts, or pairs of a source and a target for one that reads two.
    pub fn input(&self, model: &Model) -> Result<Input, Failure> {
        if self.ids && self.prompts.is_none() {
            return Err(Failure::Usage("--ids says how --prompts is to be read"));
        }
        let (of_pairs, of_pictures) = (model.spec().stacks().len() == 2, model.spec().reads_pictures());
        if let Some(prompts) = &self.prompts {
            let lines = match (of_pictures, of_pairs) {
                (true, _) => Input::picture_lines(prompts)?,
                (false, true) => Input::pair_lines(prompts)?,
                (false, false) => Input::lines(prompts)?,
            };
            let input = if self.ids { lines.as_ids()? } else { lines };
            return Ok(if self.no_bos { no_bos(input) } else { input });
        }
        if of_pictures {
            return Err(Failure::Usage(
                "this model reads pictures: give --prompts, a file with the path of one on each line",
            ));
        }
        if self.tokens.is_empty() {
            let input = match of_pairs {
                true => paired(self.text.clone())?,
                false => self.text.as_slice().into(),
            };
            return Ok(if self.no_bos { no_bos(input) } else { input });
        }
        let ids = self.tokens.iter().map(|list| Input::parse_ids(list)).collect::<Result<Vec<_>>>()?;
        if of_pairs { paired(ids) } else { Ok(ids.into()) }
    }
}

/// Sources and targets in turns.
fn paired<T>(all: Vec<T>) -> Result<Input, Failure>
where
    Vec<T>: Into<Input>,
{
    if !all.len().is_multiple_of(2) {
        return Err(Failure::Usage("this model reads pairs: give each source with its target behind it"));
    }
    let (mut sources, mut targets) = (Vec::new(), Vec::new());
    for (index, one) in all.into_iter().enumerate() {
        if index % 2 == 0 { sources.push(one) } else { targets.push(one) }
    }
    Ok(Input::pair(sources, targets))
}
