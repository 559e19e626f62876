//! What can be run, and what it becomes: token ids with their labels.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::model::digest::InputDigest;
use crate::model::picture::{Picture, patch_labels};
use crate::network::Reads;
use crate::view::{Table, View, Visualize};

/// One or several texts, or token ids, or pictures, or pairs of them. Made by `into()` from `"text"`, `["one", "two"]`,
/// `vec![1, 2, 3]`, `vec![vec![1, 2], vec![3, 4]]`, [`Tokens`] or [`Picture`].
///
/// Text gets the model's BOS token before it where [`prepends_bos`](crate::Model::prepends_bos) says so, ids never do.
/// [`no_bos`] and [`with_bos`] decide otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub(crate) sequences: Sequences,
    /// As many, for the second stack of a model that has two.
    pub(crate) second: Option<Box<Input>>,
    /// Whether BOS is put before; if nothing is said, the model decides for text.
    pub(crate) bos: Option<bool>,
    /// The file whose lines they are.
    file: Option<String>,
    /// Of ids, which of two texts each is of, where that is said.
    pub(crate) types: Option<Arc<[u32]>>,
}

/// The most bytes of a file of prompts, which is held in memory.
const LARGEST: u64 = 1 << 30;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sequences {
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
    Pictures(Vec<PictureSource>),
}

/// A picture, or where it is: of thousands, all need not be in memory at once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PictureSource {
    Picture(Picture),
    File(PathBuf),
}

impl PictureSource {
    pub(crate) fn open(&self) -> Result<Picture> {
        match self {
            PictureSource::Picture(picture) => Ok(picture.clone()),
            PictureSource::File(path) => Picture::open(path),
        }
    }
}

impl Input {
    /// The lines of a text file, each a text of its own, for sweeps over many prompts. Fails, naming the line, if one is
    /// blank or not UTF-8.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let path = std::env::temp_dir().join(format!("headlight-doc-{}.txt", std::process::id()));
    /// std::fs::write(&path, "the cat sat\nthe dog sat\n").ok();
    /// let loss = Metric::Loss.measure(&Model::open("built-in")?, Input::lines(&path)?)?;
    /// # println!("{loss}");
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn lines(path: impl AsRef<Path>) -> Result<Input> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let help = "a file of prompts is text in UTF-8, one prompt a line";
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
        read.map_err(|error| {
            Error::new(ErrorKind::File, format!("cannot read {name}")).caused_by(error).help(help)
        })?;
        let refused =
            |what: String, help: &str| Err(Error::new(ErrorKind::Input, format!("{name}{what}")).help(help));
        if bytes.len() as u64 > LARGEST {
            return refused(format!(" has more than {LARGEST} bytes"), "cut it into several files");
        }
        // What some editors put before text.
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if bytes.is_empty() {
            return refused(" is empty: there are no prompts".into(), help);
        }
        let mut lines = Vec::new();
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match std::str::from_utf8(line) {
                Ok("") => return refused(format!(", line {}, is blank", index + 1), "take blank lines out"),
                Ok(line) => lines.push(line.to_string()),
                Err(_) => return refused(format!(", line {}, is not UTF-8", index + 1), help),
            }
        }
        Ok(Input { file: Some(name), ..texts(lines) })
    }

    /// The lines of a text file, each a text, a tab, and the text that goes with it: pairs for models that read two. Fails, naming
    /// the line, if one is not such.
    ///
    /// ```
    /// use headlight::Input;
    /// let path = std::env::temp_dir().join(format!("headlight-pairs-{}.txt", std::process::id()));
    /// std::fs::write(&path, "The cat sat.\tLe chat s'est assis.\n").ok();
    /// assert_eq!(Input::pair_lines(&path)?, Input::pair_lines(&path)?);
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn pair_lines(path: impl AsRef<Path>) -> Result<Input> {
        Input::lines(path)?.split_pairs()
    }

    /// Lines that are each a text, a tab, and a text, as pairs.
    fn split_pairs(self) -> Result<Input> {
        let Sequences::Texts(all) = &self.sequences else { return Ok(self) };
        let split = |(index, line): (usize, &String)| {
            let wrong = |what: &str| {
                let error = Error::new(ErrorKind::Input, what.to_string());
                Err(self.with_input_index(
                    error.help("write a text, one tab, and the text that goes with it"),
                    index,
                ))
            };
            match line.split_once('\t') {
                None => wrong("there is no tab"),
                Some((first, second)) if first.is_empty() || second.is_empty() => {
                    wrong("one of the pair is empty")
                }
                Some((_, second)) if second.contains('\t') => wrong("there is more than one tab"),
                Some((first, second)) => Ok((first.to_string(), second.to_string())),
            }
        };
        let pairs = all.iter().enumerate().map(split).collect::<Result<Vec<_>>>()?;
        let (first, second): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        let second = Input { file: self.file.clone(), ..texts(second) };
        Ok(Input { second: Some(Box::new(second)), file: self.file, ..texts(first) })
    }

    /// The lines of a text file, each the path of a picture, as seen from the folder of the file: for models that read pictures. For
    /// those that read a text too, each a path, a tab, and the caption. Fails, naming the line, if one is not such; pictures are opened
    /// as they are run.
    ///
    /// ```
    /// use headlight::Input;
    /// let path = std::env::temp_dir().join(format!("headlight-pictures-{}.txt", std::process::id()));
    /// std::fs::write(&path, "cats.png\ta photo of a cat\n").ok();
    /// assert_eq!(Input::picture_lines(&path)?.len(), 1);
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn picture_lines(path: impl AsRef<Path>) -> Result<Input> {
        let path = path.as_ref();
        let lines = Input::lines(path)?;
        let is_captioned =
            matches!(&lines.sequences, Sequences::Texts(all) if all.iter().any(|line| line.contains('\t')));
        let lines = if is_captioned { lines.split_pairs()? } else { lines };
        let Sequences::Texts(paths) = &lines.sequences else { return Ok(lines) };
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = paths.iter().map(|own| PictureSource::File(folder.join(own))).collect();
        Ok(Input { sequences: Sequences::Pictures(files), ..lines })
    }

    /// What the first and the second stack of a model read: a text and its translation, or as many of the one as of the other.
    ///
    /// ```
    /// use headlight::Input;
    /// assert_eq!(Input::pair("The cat sat.", "Le chat s'est assis.").len(), 1);
    /// assert_eq!(Input::pair(["one", "two"], ["un", "deux"]).len(), 2);
    /// ```
    pub fn pair(first: impl Into<Input>, second: impl Into<Input>) -> Input {
        Input { second: Some(Box::new(second.into())), ..first.into() }
    }

    /// One sequence of token ids with which of two texts each is of, 0 or 1, for models that embed that. Fails unless there are as many
    /// of the one as of the other.
    ///
    /// ```
    /// use headlight::Input;
    /// let pair = Input::from(vec![101, 2129, 102, 2986, 102]).with_token_types(vec![0, 0, 0, 1, 1])?;
    /// assert_eq!(pair.len(), 1);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn with_token_types(self, types: Vec<u32>) -> Result<Input> {
        match &self.sequences {
            Sequences::Ids(ids) if ids.len() == 1 && ids[0].len() == types.len() => {
                Ok(Input { types: Some(types.into()), ..self })
            }
            Sequences::Ids(ids) if ids.len() == 1 => Err(Error::new(
                ErrorKind::Input,
                format!("there are {} token ids and {} token types", ids[0].len(), types.len()),
            )
            .help("give one type for each id")),
            _ => Err(Error::new(ErrorKind::Input, "token types go with one sequence of token ids")
                .help("a pair of texts gets its types by itself: `Input::pair`")),
        }
    }

    /// Texts that are token ids as people type them, `1, 2, 3`, become those ids: for models without a tokenizer.
    pub fn as_ids(self) -> Result<Input> {
        let second = self.second.clone().map(|second| second.as_ids().map(Box::new)).transpose()?;
        let Sequences::Texts(texts) = &self.sequences else { return Ok(Input { second, ..self }) };
        let read = |(index, text): (usize, &String)| {
            Input::parse_ids(text).map_err(|error| self.with_input_index(error, index))
        };
        let ids = texts.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
        Ok(Input { sequences: Sequences::Ids(ids), second, ..self })
    }

    /// How many sequences there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match &self.sequences {
            Sequences::Texts(texts) => texts.len(),
            Sequences::Ids(ids) => ids.len(),
            Sequences::Pictures(pictures) => pictures.len(),
        }
    }

    /// What one of several is, in few words.
    pub(crate) fn said(&self, index: usize) -> String {
        let said = match &self.sequences {
            Sequences::Texts(texts) => texts[index].clone(),
            Sequences::Ids(ids) => ids[index].iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
            Sequences::Pictures(pictures) => match &pictures[index] {
                PictureSource::File(path) => path.display().to_string(),
                PictureSource::Picture(_) => format!("picture {index}"),
            },
        };
        match &self.second {
            Some(second) => format!("{said} | {}", second.said(index)),
            None => said,
        }
    }

    /// An error that is about one of several sequences says about which.
    pub(crate) fn with_input_index(&self, error: Error, index: usize) -> Error {
        match &self.file {
            Some(file) => error.at(&format!("{file}, line {}", index + 1)),
            None if self.len() > 1 => error.at(&format!("input {index}")),
            None => error,
        }
    }

    /// Reads token ids as people type them: `1, 2, 3`.
    ///
    /// ```
    /// use headlight::Input;
    /// assert_eq!(Input::parse_ids("1, 2,3")?, [1, 2, 3]);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn parse_ids(text: &str) -> Result<Vec<u32>> {
        text.split(',').map(Input::parse_id).collect()
    }

    /// Reads one token id.
    pub fn parse_id(text: &str) -> Result<u32> {
        text.trim().parse().map_err(|_| {
            Error::new(ErrorKind::Input, format!("`{text}` is not a token id"))
                .help("write an id as a whole number, and several with commas between: 1,2,3")
        })
    }
}

/// Text to be run as it is, without the BOS token that text may get by default.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// assert_eq!(model.to_tokens("the cat")?.len(), 3);
/// assert_eq!(model.to_tokens(no_bos("the cat"))?.len(), 2);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn no_bos(input: impl Into<Input>) -> Input {
    Input { bos: Some(false), ..input.into() }
}

/// Text to be run with the model's BOS token before it, where text does not get it by default. A model that has none refuses it.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// assert!(model.to_tokens(with_bos("the cat"))?.starts_with_bos());
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn with_bos(input: impl Into<Input>) -> Input {
    Input { bos: Some(true), ..input.into() }
}

fn texts<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Input {
    let texts = texts.into_iter().map(Into::into).collect();
    Input { sequences: Sequences::Texts(texts), second: None, bos: None, file: None, types: None }
}

fn ids(ids: Vec<Vec<u32>>) -> Input {
    Input { sequences: Sequences::Ids(ids), second: None, bos: None, file: None, types: None }
}

fn pictures(pictures: Vec<PictureSource>) -> Input {
    Input { sequences: Sequences::Pictures(pictures), second: None, bos: None, file: None, types: None }
}

macro_rules! inputs {
    ($([$($generics:tt)*] $type:ty, $value:ident => $input:expr;)*) => {$(
        impl<$($generics)*> From<$type> for Input {
            fn from($value: $type) -> Input {
                $input
            }
        }
    )*};
}

inputs! {
    [] &str, text => texts([text]);
    [] String, text => texts([text]);
    [] &String, text => texts([text]);
    [] Vec<String>, many => texts(many);
    [] &[String], many => texts(many);
    [] &Vec<String>, many => texts(many);
    [] Vec<&str>, many => texts(many);
    [] &[&str], many => texts(many.iter().copied());
    [const N: usize] [&str; N], many => texts(many);
    [const N: usize] &[&str; N], many => texts(many.iter().copied());
    [] Vec<u32>, one => ids(vec![one]);
    [] &[u32], one => ids(vec![one.to_vec()]);
    [] &Vec<u32>, one => ids(vec![one.clone()]);
    [const N: usize] [u32; N], one => ids(vec![one.to_vec()]);
    [] Vec<Vec<u32>>, many => ids(many);
    [] &Vec<Vec<u32>>, many => ids(many.clone());
    [] Tokens, tokens => {
        // Of a target, what is to be written.
        let target = tokens.then.is_some().then(|| tokens.next_ids());
        Input { types: tokens.types, ..ids(vec![target.unwrap_or(tokens.ids)]) }
    };
    [] &Tokens, tokens => tokens.clone().into();
    [] Picture, picture => pictures(vec![PictureSource::Picture(picture)]);
    [] &Picture, picture => pictures(vec![PictureSource::Picture(picture.clone())]);
    [] Vec<Picture>, many => pictures(many.into_iter().map(PictureSource::Picture).collect());
    [] &Input, input => input.clone();
}

/// One sequence as a model reads it: token ids, with what each says; or the patches of a picture, and its class token.
///
/// ```
/// use headlight::prelude::*;
/// let tokens = Model::open("built-in")?.to_tokens("the cat sat")?;
/// assert_eq!(tokens.labels(), ["<|endoftext|>", "the", " cat", " sat"]);
/// assert_eq!(tokens.position(" cat")?, 2);
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Tokens {
    ids: Vec<u32>,
    labels: Arc<[String]>,
    has_bos: bool,
    /// Which of two texts each is of, where that is said.
    types: Option<Arc<[u32]>>,
    /// What comes behind the last, where a decoder reads a target: the target's last token, which it writes and does not read.
    then: Option<(u32, Arc<str>)>,
    /// Where the one mask stands, to a model that tells masked tokens.
    mask: Option<usize>,
    /// Of a picture, its pixels patch by patch.
    pixels: Option<Arc<[f32]>>,
}

impl Tokens {
    pub(crate) fn new(ids: Vec<u32>, labels: Vec<String>, has_bos: bool) -> Self {
        Tokens { ids, labels: labels.into(), has_bos, types: None, then: None, mask: None, pixels: None }
    }

    /// The same with other ids, as many.
    pub(crate) fn with_ids(self, ids: Vec<u32>) -> Self {
        Tokens { ids, ..self }
    }

    /// The same with which of two texts each is of.
    pub(crate) fn with_types(self, types: Vec<u32>) -> Self {
        Tokens { types: Some(types.into()), ..self }
    }

    /// The same with what comes behind the last.
    pub(crate) fn with_then(self, id: u32, label: String) -> Self {
        Tokens { then: Some((id, label.into())), ..self }
    }

    /// What comes behind the last, and what it says, where a decoder reads a target.
    pub(crate) fn then(&self) -> Option<(u32, &str)> {
        self.then.as_ref().map(|(id, label)| (*id, &**label))
    }

    /// The tokens that are told, from position 0 on: each is the next of what is read, and for a target the last too.
    pub(crate) fn next_ids(&self) -> Vec<u32> {
        let next = self.ids.iter().skip(1).copied();
        next.chain(self.then.as_ref().map(|(id, _)| *id)).collect()
    }

    /// What they say.
    pub(crate) fn next_labels(&self) -> Vec<String> {
        let next = self.labels.iter().skip(1).cloned();
        next.chain(self.then.as_ref().map(|(_, label)| label.to_string())).collect()
    }

    /// How many they are.
    pub(crate) fn predictions(&self) -> usize {
        self.len() - 1 + usize::from(self.then.is_some())
    }

    /// The same with where its one mask stands.
    pub(crate) fn with_mask(self, mask: Option<usize>) -> Self {
        Tokens { mask, ..self }
    }

    /// The position that is read where none is named: the one mask, or the last.
    pub(crate) fn position_asked(&self) -> usize {
        self.mask.unwrap_or(self.len() - 1)
    }

    pub(crate) fn has_mask(&self) -> bool {
        self.mask.is_some()
    }

    /// Which of two texts each is of, 0 or 1, where two stand in one sequence.
    pub fn token_types(&self) -> Option<&[u32]> {
        self.types.as_deref()
    }

    /// Those of a picture. Fails if it is not read so.
    pub(crate) fn of_picture(picture: &Picture, reads: Reads) -> Result<Self> {
        let pixels = picture.patches(reads)?;
        Ok(Tokens { pixels: Some(pixels.into()), ..Tokens::new(Vec::new(), patch_labels(reads), false) })
    }

    /// The pixels of a picture, patch by patch, where it is one that is to be run.
    pub(crate) fn pixels(&self) -> Option<&[f32]> {
        self.pixels.as_deref()
    }

    /// Adds what is read to a digest.
    pub(crate) fn add_to(&self, digest: &mut InputDigest) {
        digest.add(&self.ids);
        self.types.iter().for_each(|types| digest.add(types));
        self.then.iter().for_each(|(id, _)| digest.add(&[*id]));
        self.pixels.iter().for_each(|pixels| digest.add_pixels(pixels));
    }

    /// The ids, BOS included where there is one; of a picture none.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What each token says; the id itself where the model has no tokenizer. Of a picture `class`, and of patches row and column.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    pub(crate) fn shared_labels(&self) -> Arc<[String]> {
        self.labels.clone()
    }

    /// How many tokens there are; a sequence that can be run has at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether the first token is the model's BOS.
    pub fn starts_with_bos(&self) -> bool {
        self.has_bos
    }

    /// The first position of a token, given as its label says it: leading spaces count.
    pub fn position(&self, token: &str) -> Result<usize> {
        self.positions(token).first().copied().ok_or_else(|| {
            let error = Error::new(ErrorKind::Input, format!("there is no token `{token}` in {self}"));
            match nearest(token, self.labels.iter().map(String::as_str)) {
                Some(guess) => error.help(format!("did you mean `{guess}`?")),
                None => {
                    error.help("give one token as `labels()` says it, with its leading space if it has one")
                }
            }
        })
    }

    /// Every position of a token.
    pub fn positions(&self, token: &str) -> Vec<usize> {
        (0..self.len()).filter(|&position| self.labels[position] == token).collect()
    }

    /// Every position of a token id.
    pub(crate) fn positions_of(&self, id: u32) -> Vec<usize> {
        (0..self.ids.len()).filter(|&position| self.ids[position] == id).collect()
    }

    /// Whether what a position says is punctuation alone.
    pub(crate) fn is_punctuation(&self, position: usize) -> bool {
        let text = self.labels[position].trim();
        !text.is_empty() && text.chars().all(|c| c.is_ascii_punctuation())
    }

    /// The length of the block that the sequence (after its BOS) consists of two or more copies of, if any;
    /// the last copy may be cut short.
    pub fn period(&self) -> Option<usize> {
        let body = &self.ids[usize::from(self.has_bos)..];
        (1..=body.len() / 2).find(|&period| body.iter().skip(period).zip(body).all(|(a, b)| a == b))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.labels.iter()).finish()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Visualize for Tokens {
    fn views(&self) -> Result<Vec<View>> {
        let mut table = Table::new("tokens", ["position", "token", "id"]);
        for (position, label) in self.labels.iter().enumerate() {
            let id = self.ids.get(position).map(u32::to_string).unwrap_or_default();
            table.push([position.to_string(), format!("{label:?}"), id]);
        }
        Ok(vec![View::Table(table)])
    }
}
