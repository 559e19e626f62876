//! `headlight align`: which heads of cross-attention align the words of a translation.

use std::path::PathBuf;

use clap::ValueEnum;
use headlight::analysis::{
    AlignedRow, AlignmentOptions, AlignmentScores, Causes, WordAlignment, alignment_scores,
    sentence_alignment,
};
use headlight::{Figure, Input, Model, Result};
use serde_json::{Value, json};

use super::args::{Failure, Output, RequiredModel, save_or_text};
use super::json::line;

/// Score every head of cross-attention by how well it aligns words, by its attention and by cutting it
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  headlight align opus-mt-en-fr \"The white cat sleeps.\" -o align.html\n  \
    headlight align opus-mt-en-fr --pairs pairs.tsv --gold links.txt --causal none --json\n\n\
    JSON: {\"heads\": [{\"head\": \"D3X1\", \"precision\": 0.9, \"recall\": 0.9, \"aer\": 0.1, \"shift\": 0, \"causal_aer\": null}, ...]}, \
    best first; shift 0 is the row that writes a word, 1 the one that reads it"
)]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    /// The source
    #[arg(required_unless_present = "pairs", conflicts_with = "pairs")]
    source: Option<String>,
    /// Its translation [default: what the model writes]
    #[arg(conflicts_with = "pairs")]
    target: Option<String>,
    /// A file of pairs, one a line: source, tab, target
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// A file with the links of each pair, one a line: `0-0 1-2` sure, `1p2` or `1?2` possible, the word of the source first. Without it
    /// heads are judged by what cutting edges in all of them does
    #[arg(long, value_name = "FILE")]
    gold: Option<PathBuf>,
    /// The links count words from 1
    #[arg(long, requires = "gold")]
    gold_from_1: bool,
    /// Only the row that writes a word (0) or the one that reads it (1) [default: both]
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    shift: Option<u8>,
    /// Of which heads edges are cut, one by one: the five that align best, or all
    #[arg(long, value_enum, default_value_t = Causal::Five)]
    causal: Causal,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Where the figure goes
    #[arg(short, long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Causal {
    None,
    #[value(name = "5")]
    Five,
    All,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let pairs = match (&args.pairs, &args.source, &args.target) {
        (Some(path), ..) => Input::pair_lines(path)?,
        (None, Some(source), Some(target)) => Input::pair(source.as_str(), target.as_str()),
        (None, Some(source), None) => source.as_str().into(),
        (None, None, _) => return Err(Failure::Usage("give a source, or --pairs")),
    };
    let gold = args.gold.as_ref().map(|path| WordAlignment::lines(path, args.gold_from_1)).transpose()?;
    let causes = match args.causal {
        Causal::None => Causes::None,
        Causal::Five => Causes::BestFive,
        Causal::All => Causes::All,
    };
    let found = alignment_scores(&model, &pairs, &AlignmentOptions { gold, causes })?;
    if args.json {
        return Ok(line(&as_json(&found, args.shift)));
    }
    let figure = match (pairs.len(), found.heads().first()) {
        // Of one pair, the words themselves.
        (1, Some(_)) => with_words(&model, &pairs, &found, args.causal != Causal::None)?,
        _ => found.figure()?,
    };
    save_or_text(&figure, args.out.as_deref())
}

fn with_words(model: &Model, pairs: &Input, found: &AlignmentScores, by_cause: bool) -> Result<Figure> {
    let writes = found.heads().iter().find(|own| own.row == AlignedRow::Writes);
    let words =
        writes.map(|best| sentence_alignment(model, pairs, best.head, by_cause)?.figure()).transpose()?;
    Figure::stack(words.into_iter().chain([found.figure()?]).collect::<Vec<_>>())
}

fn as_json(found: &AlignmentScores, shift: Option<u8>) -> Value {
    let heads =
        found.heads().iter().filter(|own| shift.is_none_or(|shift| own.row.shift() == usize::from(shift)));
    let entries = heads.map(|own| {
        let caused = found.causes().iter().find(|cause| cause.head == own.head);
        json!({
            "head": own.head.to_string(), "precision": own.precision, "recall": own.recall, "aer": own.error_rate,
            "shift": own.row.shift(), "causal_aer": caused.map(|cause| cause.error_rate),
        })
    });
    json!({"heads": entries.collect::<Vec<Value>>()})
}
