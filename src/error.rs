//! One error type: what was wrong with which values, the cause beneath, and the remedy.

use std::fmt;

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
    /// A tap or an edit did something that the network cannot continue from.
    Tap,
    /// An axis, a label or a shape of a [`Named`](crate::Named) does not fit.
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

/// An error of this crate. Its `Display` says what was wrong, the causes beneath and the remedy,
/// since a notebook prints nothing else; `Debug` is the same text.
///
/// ```
/// use headlight::{ErrorKind, Model};
/// let error = Model::open("no/such/folder").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::File);
/// assert!(error.to_string().contains("help:"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    help: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let (message, help) = (message.into(), String::new());
        Error(Box::new(Inner { kind, message, help, source: None }))
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = help.into();
        self
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
        self.0.source = Some(source.into());
        self
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
