//! Sweeps over many inputs, in parts: each input's numbers are a row of a file, so that work that was stopped goes on, and
//! that parts made by several processes add up to what one process would have found, to the last bit.
//!
//! A sum depends on the order of what is added. So no part keeps a sum: [`merge`] adds the rows of all parts in the order
//! of the inputs, as a sweep without parts does.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::analysis::alignment::spec::AlignmentSpec;
use crate::analysis::causal::ablated_stack::AblatedStack;
use crate::analysis::heads::kind::HeadKind;
use crate::analysis::sweep::metric::Metric;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Stack;
use crate::model::digest::InputDigest;
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;

/// One of several shares of a sweep's inputs, as equal as can be, counted from 1: `1/4` to `4/4`.
///
/// ```
/// use headlight::analysis::Shard;
/// assert_eq!("2/4".parse::<Shard>()?, Shard::new(2, 4)?);
/// assert!("5/4".parse::<Shard>().is_err());
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// All inputs.
    pub const ALL: Shard = Shard { index: 1, of: 1 };

    /// The share `index`, from 1, of as many as `of`.
    pub fn new(index: usize, of: usize) -> Result<Shard> {
        if (1..=of).contains(&index) {
            return Ok(Shard { index, of });
        }
        Err(Error::new(ErrorKind::Input, format!("there is no shard {index}/{of}"))
            .help("shards count from 1: 1/4 to 4/4 of four"))
    }

    /// The inputs of the share: a stretch of them, so that parts one after another are in the order of the inputs.
    fn range(self, inputs: usize) -> Range<usize> {
        let begin = |index: usize| (index as u128 * inputs as u128 / self.of as u128) as usize;
        begin(self.index - 1)..begin(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Shard> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) => Shard::new(index, of),
            None => Err(Error::new(ErrorKind::Input, format!("`{text}` is not a shard"))
                .help("write which one of how many: 1/4")),
        }
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> String {
        shard.to_string()
    }
}

impl TryFrom<String> for Shard {
    type Error = Error;

    fn try_from(text: String) -> Result<Shard> {
        text.parse()
    }
}

/// A file in which a sweep keeps what it has found of a [`Shard`] of its inputs. Asked the same again, the sweep goes on
/// after the last input that is in the file. [`merge`](crate::analysis::merge()) makes of all parts what the sweep would have given.
///
/// The first line says in JSON what was asked, of which model (by a digest of its weights) and inputs (by a digest of
/// their tokens); a part that was begun otherwise is refused. Each further line has the number of an input, from 1, and
/// sums of its numbers, with tabs between. A last line without its end, which a killed process may leave, is dropped.
///
/// ```
/// use headlight::analysis::{Shard, SweepPart, SweepResult};
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let prompts = ["the cat sat the cat", "the dog sat", "the king said"];
/// let folder = std::env::temp_dir().join(format!("headlight-doc-parts-{}", std::process::id()));
/// std::fs::create_dir_all(&folder).ok();
/// let paths = [folder.join("1.part"), folder.join("2.part")];
/// // Each in a process of its own, if one likes.
/// SweepPart::new(&paths[0], Shard::new(1, 2)?).ablation_effects(&model, prompts, Ablation::Zero, &Metric::Loss)?;
/// SweepPart::new(&paths[1], Shard::new(2, 2)?).ablation_effects(&model, prompts, Ablation::Zero, &Metric::Loss)?;
/// let SweepResult::Ablation { effects, .. } = merge(&paths)? else { panic!("they are of an ablation") };
/// let whole = ablation_effects(&model, prompts, Ablation::Zero, &Metric::Loss)?;
/// assert_eq!(effects.heads().values().to_vec()?, whole.heads().values().to_vec()?);
/// # std::fs::remove_dir_all(folder).ok();
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepPart {
    path: PathBuf,
    shard: Shard,
}

/// The version of the format.
const FORMAT: u32 = 2;

/// The first line of a part.
#[derive(Serialize, Deserialize)]
pub(crate) struct Header {
    headlight_part: u32,
    pub(crate) model: String,
    weights: String,
    shard: Shard,
    pub(crate) inputs: usize,
    tokens: String,
    #[serde(flatten)]
    pub(crate) asked: SweepSpec,
}

/// What a sweep asks of each input, and what is needed to say what came of it.
#[derive(Serialize, Deserialize)]
#[serde(tag = "sweep", rename_all = "snake_case")]
pub(crate) enum SweepSpec {
    Ablation {
        ablation: String,
        reference: Option<String>,
        metric: String,
        stacks: Vec<AblatedStack>,
    },
    HeadScores {
        kinds: Vec<HeadKind>,
        length: usize,
        batch: usize,
        seed: u64,
        #[serde(default)]
        stack: Stack,
        layers: usize,
        heads: usize,
    },
    Metric {
        metric: String,
    },
    Alignment(AlignmentSpec),
}

impl SweepSpec {
    /// How many numbers a row has, in a file that may say anything.
    fn width(&self) -> Option<usize> {
        match self {
            SweepSpec::Ablation { stacks, .. } => {
                stacks.iter().try_fold(2usize, |sum, stack| sum.checked_add(stack.count()?))
            }
            SweepSpec::HeadScores { kinds, layers, heads, .. } => {
                layers.checked_mul(*heads)?.checked_mul(3)?.checked_add(2)?.checked_mul(kinds.len())
            }
            SweepSpec::Metric { .. } => Some(2),
            SweepSpec::Alignment(spec) => spec.width(),
        }
    }
}

/// Which inputs are to be run, and how many of them have been already.
pub(crate) struct RowRange {
    pub(crate) range: Range<usize>,
    pub(crate) done: usize,
}

impl RowRange {
    pub(crate) fn whole(input: &Input) -> RowRange {
        RowRange { range: 0..input.len(), done: 0 }
    }

    /// The inputs that are still to be run.
    pub(crate) fn left(&self) -> Range<usize> {
        self.range.start + self.done..self.range.end
    }
}

/// What takes the row of each input, in the order of the inputs.
pub(crate) type RowSink<'a> = dyn FnMut(&[f64]) -> Result<()> + 'a;

/// The sums of rows.
#[derive(Default)]
pub(crate) struct RowSum(pub(crate) Vec<f64>);

impl RowSum {
    pub(crate) fn add(&mut self, row: &[f64]) -> Result<()> {
        self.0.resize(row.len(), 0.0);
        self.0.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        Ok(())
    }
}

/// Hands over each input, and fails if one cannot be run: before work begins.
pub(crate) fn check_inputs(
    model: &Model,
    input: &Input,
    metric: Option<&Metric>,
    mut each: impl FnMut(Tokens),
) -> Result<()> {
    if input.len() == 0 {
        // Says that there is nothing to run.
        return model.pieces(input).map(drop);
    }
    for index in 0..input.len() {
        let pieces = model.pieces_of_one(input, index)?;
        let read = model.spec().last_stack().stack;
        if let (Some(metric), Some([tokens])) = (metric, pieces.get(&read).map(Vec::as_slice)) {
            metric.check(model, tokens).map_err(|error| input.with_input_index(error, index))?;
        }
        pieces.into_values().flatten().for_each(&mut each);
    }
    Ok(())
}

impl SweepPart {
    /// The part of a shard, kept in a file.
    pub fn new(path: impl AsRef<Path>, shard: Shard) -> SweepPart {
        SweepPart { path: path.as_ref().into(), shard }
    }

    /// Has `work` make the rows that the file does not have.
    pub(crate) fn fill(
        &self,
        model: &Model,
        input: &Input,
        metric: Option<&Metric>,
        asked: SweepSpec,
        work: impl FnOnce(&RowRange, &mut RowSink) -> Result<()>,
    ) -> Result<()> {
        let mut tokens = InputDigest::new();
        check_inputs(model, input, metric, |one| one.add_to(&mut tokens))?;
        let header = Header {
            headlight_part: FORMAT,
            model: model.name().into(),
            weights: model.digest()?,
            shard: self.shard,
            inputs: input.len(),
            tokens: tokens.finish(),
            asked,
        };
        let range = self.shard.range(input.len());
        let (mut file, done) = self.open(&header)?;
        let share = RowRange { range, done };
        let mut number = share.left().start;
        let failed = |error| {
            Error::new(ErrorKind::File, format!("cannot write {}", self.name())).caused_by(error).help(
                "what is in it stays good: check that the disk has room, and ask the same again to go on",
            )
        };
        work(&share, &mut |row| {
            number += 1;
            let values = row.iter().map(|value| format!("\t{value:?}")).collect::<String>();
            file.write_all(format!("{number}{values}\n").as_bytes()).map_err(failed)
        })
        .map_err(|error| match error.kind() {
            ErrorKind::Stopped => error.help(format!(
                "{} keeps what is done, and nothing else is lost: asked the same again, it goes on",
                self.name()
            )),
            _ => error,
        })?;
        file.sync_all().map_err(failed)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The file, ready for the next row, and how many rows it has.
    fn open(&self, header: &Header) -> Result<(File, usize)> {
        let failed = |error| {
            Error::new(ErrorKind::File, format!("cannot write {}", self.name()))
                .caused_by(error)
                .help("check that its folder exists and may be written to")
        };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path);
        let mut file = options.map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Error::new(ErrorKind::File, format!("{} is not a file", self.name())));
        }
        // Where there are no locks, there is one process less to fear.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::new(ErrorKind::File, format!("another process is writing {}", self.name()))
                .help("let it finish, or give each process a shard and a file of its own"));
        }
        let mut first = serde_json::to_string(header).map_err(|error| failed(error.into()))?;
        first.push('\n');
        let (end, rows) = self.resume_offset(&file, header, &first)?;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(failed)?;
        if end == 0 {
            file.write_all(first.as_bytes()).map_err(failed)?;
        }
        Ok((file, rows))
    }

    /// Where what is whole of the file ends, and how many rows it has. Fails if it was not begun with the same first line.
    fn resume_offset(&self, file: &File, header: &Header, first: &str) -> Result<(u64, usize)> {
        let mut reader =
            Reader::of(&self.path, file.try_clone().map_err(|error| unreadable(&self.path, error))?);
        if !reader.line()? {
            // Empty, or of a process that was killed before the line was whole.
            return if first.as_bytes().starts_with(&reader.line) {
                Ok((0, 0))
            } else {
                Err(not_a_part(&self.path))
            };
        }
        let begun = entries(&self.path, reader.text()?)?;
        same(&self.path, &begun, "now asked for", &entries(&self.path, first)?, &["model"])?;
        let range = self.shard.range(header.inputs);
        let (mut end, mut rows) = (reader.end, 0);
        while reader.row(range.start + rows + 1, &header.asked)?.is_some() {
            (end, rows) = (reader.end, rows + 1);
        }
        if rows > range.len() { Err(not_a_part(&self.path)) } else { Ok((end, rows)) }
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::File, format!("cannot read {}", path.display()))
        .caused_by(error)
        .help("give the files that the shards of a sweep have written")
}

fn not_a_part(path: &Path) -> Error {
    Error::new(ErrorKind::File, format!("{} is not a part of a sweep", path.display()))
        .help("give the path of a new file, or of a part that was begun before")
}

/// The entries of a first line.
fn entries(path: &Path, line: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(line) {
        Ok(Value::Object(entries)) if entries.contains_key("headlight_part") => Ok(entries),
        _ => Err(not_a_part(path)),
    }
}

/// Fails if two first lines differ, but for some entries, and says in what.
fn same(
    path: &Path,
    a: &Map<String, Value>,
    other: &str,
    b: &Map<String, Value>,
    but: &[&str],
) -> Result<()> {
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    let said = |value: Option<&Value>| value.map_or("nothing".to_string(), Value::to_string);
    let differ = keys.filter(|key| !but.contains(&key.as_str()) && a.get(*key) != b.get(*key));
    let differ: Vec<String> =
        differ.map(|key| format!("{key} {}, {other} {}", said(a.get(key)), said(b.get(key)))).collect();
    if differ.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Input,
        format!("{} is of another sweep: {}", path.display(), differ.join("; ")),
    )
    .help("weights and tokens are told by their digests; give another file, or ask for what was begun"))
}

/// Reads a part line by line.
struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    line: Vec<u8>,
    number: usize,
    /// Where the last line that was read ends.
    end: u64,
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path) -> Result<Reader<'a>> {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        match file.metadata().map_err(|error| unreadable(path, error))?.is_file() {
            true => Ok(Reader::of(path, file)),
            false => Err(not_a_part(path)),
        }
    }

    fn of(path: &'a Path, file: File) -> Reader<'a> {
        Reader { path, file: BufReader::new(file), line: Vec::new(), number: 0, end: 0 }
    }

    /// Reads the next line; whether it is there with its end.
    fn line(&mut self) -> Result<bool> {
        self.line.clear();
        let read = self.file.read_until(b'\n', &mut self.line);
        let len = read.map_err(|error| unreadable(self.path, error))?;
        let whole = self.line.last() == Some(&b'\n');
        if whole {
            self.end += len as u64;
            self.number += 1;
        }
        Ok(whole)
    }

    fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.line).map(str::trim_end).map_err(|_| not_a_part(self.path))
    }

    /// The row of an input, counted from 1, if it is there.
    fn row(&mut self, input: usize, asked: &SweepSpec) -> Result<Option<Vec<f64>>> {
        let path = self.path;
        if !self.line()? {
            return Ok(None);
        }
        let mut fields = self.text()?.split('\t');
        let number = fields.next().and_then(|number| number.parse::<usize>().ok());
        let values: Option<Vec<f64>> = fields.map(|field| field.parse().ok()).collect();
        match values {
            Some(values) if number == Some(input) && Some(values.len()) == asked.width() => Ok(Some(values)),
            _ => Err(Error::new(
                ErrorKind::File,
                format!("{}, line {}, is not the row of input {input}", path.display(), self.number),
            )
            .help("the file was changed: take the lines from there on out, and the sweep makes them again")),
        }
    }
}

/// What is left of the parts of a sweep when their rows are added.
pub(crate) struct MergedRows {
    pub(crate) header: Header,
    pub(crate) totals: Vec<f64>,
}

/// Adds the rows of all parts of a sweep in the order of the inputs.
pub(crate) fn add(paths: &[PathBuf]) -> Result<MergedRows> {
    let refused = |what: String, help: &str| Err(Error::new(ErrorKind::Input, what).help(help));
    let mut parts: Vec<(&Path, Header)> = Vec::new();
    let mut first: Option<Map<String, Value>> = None;
    for path in paths {
        let mut reader = Reader::new(path)?;
        reader.line()?;
        let entries = entries(path, reader.text()?)?;
        if entries["headlight_part"] != FORMAT {
            let (its, of) = (&entries["headlight_part"], path.display());
            return refused(
                format!("{of} is of format {its}, and this is {FORMAT}"),
                "use the version that made it",
            );
        }
        let header = Header::deserialize(&Value::Object(entries.clone()));
        let header = header.map_err(|error| not_a_part(path).caused_by(error))?;
        match (&first, parts.first()) {
            (Some(first), Some((other, of))) => {
                if header.shard.of != of.shard.of {
                    let (a, b) = (of.shard, header.shard);
                    return refused(
                        format!("{} is shard {a}, and {} is shard {b}", other.display(), path.display()),
                        "merge the shards of one sweep, cut the same way",
                    );
                }
                same(path, &entries, &format!("in {}", other.display()), first, &["model", "shard"])?;
            }
            _ => first = Some(entries),
        }
        if let Some((other, _)) = parts.iter().find(|(_, part)| part.shard == header.shard) {
            let (shard, a, b) = (header.shard, other.display(), path.display());
            return refused(format!("shard {shard} is there twice: {a} and {b}"), "give each shard once");
        }
        parts.push((path, header));
    }
    parts.sort_by_key(|(_, part)| part.shard.index);
    let Some(of) = parts.first().map(|(_, part)| part.shard.of) else {
        return refused("there are no parts to merge".into(), "give the files that the shards have written");
    };
    if parts.len() < of {
        let there = |index: &usize| parts.binary_search_by_key(index, |(_, part)| part.shard.index).is_ok();
        let missing: Vec<String> =
            (1..=of).filter(|index| !there(index)).take(20).map(|index| format!("{index}/{of}")).collect();
        let more = if of - parts.len() > missing.len() { ", ..." } else { "" };
        return refused(
            format!("{} of {of} shards are missing: {}{more}", of - parts.len(), missing.join(", ")),
            "make them, or name their files too",
        );
    }
    let mut totals = RowSum::default();
    for (path, part) in &parts {
        let mut reader = Reader::new(path)?;
        reader.line()?;
        let range = part.shard.range(part.inputs);
        for input in range.clone() {
            let Some(row) = reader.row(input + 1, &part.asked)? else {
                return refused(
                    format!("{} has {} of its {} inputs", path.display(), input - range.start, range.len()),
                    "it was stopped or is being written: ask for it again to go on, then merge",
                );
            };
            totals.add(&row)?;
        }
        if reader.line()? {
            return Err(not_a_part(path));
        }
    }
    let header = parts.swap_remove(0).1;
    if totals.0.is_empty() {
        return Err(not_a_part(&paths[0]));
    }
    Ok(MergedRows { header, totals: totals.0 })
}
