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
    /// A file of texts to run, one a line; of an encoder-decoder sources with their targets, a tab between
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// The lines of --prompts are token ids: 1,2,3
    #[arg(long)]
    ids: bool,
    /// Put no BOS token before the text
    #[arg(long)]
    pub no_bos: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// What an encoder-decoder is to write.
#[derive(Args, Default)]
pub struct TargetArgs {
    /// What an encoder-decoder is to write of the text; several times for a batch. Without it, what it writes itself is read
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["target_tokens", "prompts"])]
    target: Vec<String>,
    /// The same as token ids, taken as given, the end included: 5,9,1
    #[arg(long, value_name = "IDS", conflicts_with = "prompts")]
    target_tokens: Vec<String>,
}

/// A text of one's own where random tokens are read otherwise.
#[derive(Args)]
pub struct OptionalInput {
    /// Text to look at, in place of random tokens
    #[arg(conflicts_with = "tokens")]
    text: Vec<String>,
    /// The same as token ids: 1,2,3
    #[arg(long, value_name = "IDS")]
    tokens: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
}

impl OptionalInput {
    pub fn input(&self, model: &Model) -> Result<Option<Input>, Failure> {
        match (self.text.as_slice(), self.tokens.as_slice(), self.target.is_given()) {
            ([], [], false) => Ok(None),
            ([], [], true) => Err(Failure::Usage("a target is of a source: give the text, too")),
            (texts, ids, _) => given(texts, ids, &self.target, model).map(Some),
        }
    }
}

impl TargetArgs {
    fn is_given(&self) -> bool {
        !self.target.is_empty() || !self.target_tokens.is_empty()
    }
}

/// Texts, or ids where there are none, with their targets where these are given.
fn given(texts: &[String], ids: &[String], target: &TargetArgs, model: &Model) -> Result<Input, Failure> {
    let parsed =
        |lists: &[String]| lists.iter().map(|list| Input::parse_ids(list)).collect::<Result<Vec<_>>>();
    let input = |texts: &[String], ids: &[String]| -> Result<Input> {
        if ids.is_empty() { Ok(texts.into()) } else { Ok(parsed(ids)?.into()) }
    };
    let read = input(texts, ids)?;
    if !target.is_given() {
        return Ok(read);
    }
    if !writes_of_a_source(model) {
        return Err(Failure::Usage("--target is of models that read a source and write a target"));
    }
    Ok(Input::pair(read, input(&target.target, &target.target_tokens)?))
}

/// Whether a model is an encoder-decoder.
pub fn writes_of_a_source(model: &Model) -> bool {
    model.spec().last_stack().crosses.is_some()
}

impl InputArgs {
    /// What is to be run by a model: texts, or sources with their targets for one that writes of a source.
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
        let input = given(&self.text, &self.tokens, &self.target, model)?;
        Ok(if self.no_bos && self.tokens.is_empty() { no_bos(input) } else { input })
    }
}
