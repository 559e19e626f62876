//! A source and its target, word by word, with what each head of cross-attention gives each pair of words.

use crate::analysis::alignment::words::Words;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Site};
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run_options::RunOptions;
use crate::network::cpu::sum;

/// The row of cross-attention that stands for a target's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlignedRow {
    /// The one that writes it.
    Writes,
    /// The one that reads it, a position further on.
    Reads,
}

impl AlignedRow {
    /// Both.
    pub const ALL: [AlignedRow; 2] = [AlignedRow::Writes, AlignedRow::Reads];

    /// How many positions behind the row that writes it: 0 or 1.
    pub fn shift(self) -> usize {
        match self {
            AlignedRow::Writes => 0,
            AlignedRow::Reads => 1,
        }
    }
}

/// Numbers of a target's words and a source's, target word by target word.
#[derive(Clone, Debug)]
pub(crate) struct WordMatrix {
    pub(crate) sources: usize,
    pub(crate) values: Vec<f32>,
}

impl WordMatrix {
    pub(crate) fn row(&self, target: usize) -> &[f32] {
        &self.values[target * self.sources..][..self.sources]
    }

    /// The source's word with the largest number for each of the target's, as (source, target).
    pub(crate) fn links(&self) -> Vec<(usize, usize)> {
        let rows = self.values.chunks(self.sources.max(1)).enumerate();
        let largest = |row: &[f32]| {
            let better = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
            (0..row.len()).fold(0, better)
        };
        rows.filter(|(_, row)| row.iter().all(|value| !value.is_nan()))
            .map(|(target, row)| (largest(row), target))
            .collect()
    }
}

/// One pair.
pub(crate) struct Sentence {
    pub(crate) source: Words,
    pub(crate) target: Words,
    /// What is run.
    pub(crate) input: Input,
    /// What the target's rows write.
    pub(crate) written: Vec<u32>,
    rows: usize,
    keys: usize,
    /// The pattern of each head `[row, key]`.
    patterns: Vec<(Head, Vec<f32>)>,
}

/// The heads of a model that attend from a target to its source. Fails where there are none.
pub(crate) fn cross_heads(model: &Model) -> Result<Vec<Head>> {
    model.spec().encoder_and_decoder("the alignment of words")?;
    Ok(model.heads().filter(|head| head.attn == Attn::Cross).collect())
}

impl Sentence {
    /// One of an input's pairs, which has targets.
    pub(crate) fn new(model: &Model, input: &Input, index: usize) -> Result<Sentence> {
        let [encoder, decoder] = model.spec().encoder_and_decoder("the alignment of words")?;
        let pieces = model.pieces_of_one(input, index)?;
        let (read, told): (&Tokens, &Tokens) = (&pieces[&encoder.stack][0], &pieces[&decoder.stack][0]);
        let special = model.special_ids();
        let (source, target) =
            (Words::of_source(model, read, &special), Words::of_target(model, told, &special));
        for (words, which) in [(&source, "source"), (&target, "target")] {
            if words.len() == 0 {
                let what = format!("the {which} has no words");
                let error = Error::new(ErrorKind::Input, what).help("give a text of one word at least");
                return Err(input.with_input_index(error, index));
            }
        }
        let one = Input::pair(read, told);
        let run = model.run_with_options(&one, &RunOptions::only([Site::Pattern]))?;
        let heads = cross_heads(model)?;
        let (rows, keys) = (told.len(), read.len());
        let mut patterns = Vec::with_capacity(heads.len());
        for head in heads {
            let all = run.get(head.hook(Site::Pattern))?;
            patterns.push((head, all.select("head", head.head)?.to_vec()?));
        }
        Ok(Sentence { source, target, input: one, written: told.next_ids(), rows, keys, patterns })
    }

    /// What each head gives each pair of words: summed over the source's pieces, and averaged over the target's. NaN for a target's word of
    /// which no row is there.
    pub(crate) fn attention(&self, row_of: AlignedRow) -> impl Iterator<Item = (Head, WordMatrix)> {
        self.patterns.iter().map(move |(head, pattern)| (*head, self.of_words(pattern, row_of)))
    }

    fn of_words(&self, pattern: &[f32], row_of: AlignedRow) -> WordMatrix {
        let mut values = Vec::with_capacity(self.target.len() * self.source.len());
        for target in 0..self.target.len() {
            let rows: Vec<usize> = self
                .target
                .span(target)
                .map(|row| row + row_of.shift())
                .filter(|row| *row < self.rows)
                .collect();
            for source in 0..self.source.len() {
                let keys = self.source.span(source);
                let of_row = |&row: &usize| sum(&pattern[row * self.keys..][keys.clone()]);
                let all: f32 = rows.iter().map(of_row).sum();
                values.push(if rows.is_empty() { f32::NAN } else { all / rows.len() as f32 });
            }
        }
        WordMatrix { sources: self.source.len(), values }
    }
}
