//! One error type: what was wrong with which values, the cause beneath, and the remedy.

use std::fmt;
use std::sync::Arc;

/// What an [`Error`] is about, for code that wants to tell errors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or folder could not be read or written.
    File,
    /// A model's `config.json` is missing something or contradicts itself.
    Config,
    /// A weight is missing, has another shape or type, or is not finite.
    Weights,
    /// A tokenizer is missing, broken, or disagrees with the model.
    Tokenizer,
    /// The text or the token ids cannot be run.
    Input,
    /// A hook, layer or head does not exist.
    Address,
    /// What is asked is not to be had of a model of this kind.
    Model,
    /// A tap did something that the network cannot continue from.
    Tap,
    /// A model cannot be edited so.
    Edit,
    /// An axis, a label or a shape of a [`NamedTensor`](crate::NamedTensor) does not fit.
    Axes,
    /// A figure could not be drawn.
    Figure,
    /// Long work was asked to stop.
    Stopped,
    /// A model hub could not be reached, refused, or sent what it should not.
    Hub,
    /// There is too little memory.
    Memory,
    /// The tensor library failed.
    Backend,
}

/// What to do about an error, where what is typed for it depends on where one is: a program or notebook, as its `Display` has it,
/// or the command line, which says it in its own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// Take one of several inputs.
    OneInput,
    /// Keep fewer activations of a run, or run less.
    KeepLess,
    /// Draw less at once.
    DrawLess,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Remedy::OneInput => "take one with `run.item(0)?`, or loop over them",
            Remedy::KeepLess => {
                "keep less of the run, as `RunOptions::only([Site::Z])`; run a shorter input, or fewer at once"
            }
            Remedy::DrawLess => {
                "draw a part: `.select(axis, index)?` or `.slice(axis, from..to)?` first; or fewer views in one figure"
            }
        })
    }
}

/// An error of this crate. Its `Display` says what was wrong, the causes beneath and the remedy,
/// since a notebook prints nothing else; `Debug` is the same text.
///
/// ```
/// use headlight::{ErrorKind, Model};
/// let error = Model::open("no/such/folder").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::File);
/// assert!(error.to_string().contains("help:"));
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    help: String,
    remedy: Option<Remedy>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let (message, help) = (message.into(), String::new());
        Error(Box::new(Inner { kind, message, help, remedy: None, source: None }))
    }

    /// Says so of what is to be done, in place of what was said of it.
    ///
    /// ```
    /// use headlight::Model;
    /// let error = Model::open("no/such/folder").unwrap_err().help("ask at the desk");
    /// assert!(error.to_string().ends_with("help: ask at the desk"));
    /// ```
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = help.into();
        self
    }

    pub(crate) fn remedied_by(mut self, remedy: Remedy) -> Self {
        self.0.remedy = Some(remedy);
        self.help(remedy.to_string())
    }

    /// Says more, after the remedy.
    pub(crate) fn help_too(mut self, more: impl fmt::Display) -> Self {
        let help = &mut self.0.help;
        *help = if help.is_empty() { more.to_string() } else { format!("{help}; {more}") };
        self
    }

    /// Says first where it was.
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// What to do about it, where there are several ways to say so.
    pub fn remedy(&self) -> Option<Remedy> {
        self.0.remedy
    }

    /// What the error is about.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "\n  cause: {error}")?;
            cause = error.source();
        }
        if !self.0.help.is_empty() {
            write!(f, "\n  help: {}", self.0.help)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::new(ErrorKind::Backend, "a tensor operation failed")
            .caused_by(error)
            .help("if memory ran out, run fewer or shorter inputs, or keep less of the run")
    }
}

/// The entry of `known` nearest to `word` by edit distance, if any is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|entry| (edit_distance(word, entry), entry))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, entry)| *distance <= 2.max(entry.len() / 3))
        .map(|(_, entry)| entry)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
