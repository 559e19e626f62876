//! Translation: what a decoder writes of a source, greedily or by beam search (Graves 2012, "Sequence Transduction with Recurrent Neural
//! Networks"; transformers' rules of when it is through).

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Stack;
use crate::model::decoding::{Decoding, EarlyStopping};
use crate::model::input::{Input, Sequences, Tokens};
use crate::model::model::Model;
use crate::model::writer::Writer;
use crate::network::cpu::log_sum_exp_of;
use crate::progress;
use crate::progress::Progress;
use crate::view::{Table, View, Visualize};

/// How [`Model::translate`] searches for the likeliest text.
///
/// ```
/// use headlight::Search;
/// let search = Search { beams: 4, ..Search::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// How many texts are followed at once: 1, the default, takes the likeliest token each time.
    pub beams: usize,
    /// How many tokens are written at most, the end included; what the model's files say, where nothing is said here.
    pub max_new_tokens: Option<usize>,
}

impl Default for Search {
    fn default() -> Self {
        Search { beams: 1, max_new_tokens: None }
    }
}

/// What [`Model::translate`] wrote of one source.
#[derive(Clone)]
pub struct Translation {
    source: Tokens,
    source_text: String,
    ids: Vec<u32>,
    text: String,
    log_prob: f64,
}

/// What [`Model::translate`] wrote: a text for each source, in their order. Draws itself as a table.
#[derive(Clone)]
pub struct Translations(Vec<Translation>);

impl Model {
    /// What an encoder-decoder writes of one or several sources: a translation, a summary, an answer, as it was trained to. Greedily, or
    /// with beams; forbidden and forced tokens, lengths and penalties are those of the model's `generation_config.json`, or else of its
    /// `config.json`, but for the number of beams.
    ///
    /// Fails for models without encoder and decoder.
    pub fn translate(&self, sources: impl Into<Input>, search: &Search) -> Result<Translations> {
        let sources = sources.into();
        self.spec().encoder_and_decoder("a translation")?;
        if sources.second.is_some() {
            return Err(Error::new(ErrorKind::Input, "a pair is given where a source is to be translated")
                .help("give the sources alone"));
        }
        let progress = Progress::new("translating", sources.len());
        let all = (0..sources.len()).map(|index| {
            let source = self.source_of(&sources, index)?;
            let mut written =
                self.write(source, search).map_err(|error| sources.with_input_index(error, index))?;
            if let Sequences::Texts(texts) = &sources.sequences {
                written.source_text = texts[index].clone();
            }
            progress.advance(1)?;
            Ok(written)
        });
        Ok(Translations(all.collect::<Result<_>>()?))
    }

    /// What it writes of one source.
    pub(crate) fn write(&self, source: Tokens, search: &Search) -> Result<Translation> {
        let limits = Limits::new(self, search)?;
        let (ids, log_prob) = match search.beams {
            1 => self.write_greedily(&source, &limits)?,
            beams => self.write_with_beams(&source, &limits, beams)?,
        };
        let text = self.text_of(self.spec().last_stack().stack, &ids);
        let log_prob = log_prob / ids.len().max(1) as f64;
        let source_text = source.labels().concat();
        Ok(Translation { source, source_text, ids, text, log_prob })
    }

    /// Ids, and the sum of their log-probabilities.
    fn write_greedily(&self, source: &Tokens, limits: &Limits) -> Result<(Vec<u32>, f64)> {
        let mut writer = Writer::new(self, source)?;
        let (mut read, mut sum) = (vec![limits.start], 0.0);
        while read.len() < limits.max_length {
            progress::check("translating")?;
            let last = read[read.len() - 1];
            let Some(mut logits) = writer.read(&[last])?.pop() else { break };
            let total = log_sum_exp_of(&logits);
            let raw = logits.clone();
            limits.decoding.constrain(&read, limits.max_length, &mut logits);
            let next = largest(&logits);
            sum += f64::from(raw[next as usize] - total);
            read.push(next);
            if self.eos.contains(&next) {
                break;
            }
        }
        Ok((read.split_off(1), sum))
    }

    fn write_with_beams(&self, source: &Tokens, limits: &Limits, beams: usize) -> Result<(Vec<u32>, f64)> {
        let mut writer = Writer::new(self, source)?;
        let keep = 2.max(1 + self.eos.len()) * beams;
        let first = Beam { ids: vec![limits.start], score: 0.0, log_prob: 0.0 };
        let mut running = vec![first.clone()];
        let none = Finished { beam: Beam { score: NEVER, ..first }, is_there: false };
        let mut finished = vec![none; beams];
        let mut may_improve = true;
        loop {
            progress::check("translating")?;
            let tokens: Vec<u32> = running.iter().filter_map(|beam| beam.ids.last().copied()).collect();
            let logits = writer.read(&tokens)?;
            let candidates = candidates(&running, logits, limits, keep);
            let len = running.first().map_or(0, |beam| beam.ids.len()) + 1;
            let ends: Vec<bool> = candidates
                .iter()
                .map(|candidate| self.eos.contains(&candidate.token) || len >= limits.max_length)
                .collect();
            let extended = |candidate: &Candidate| {
                let mut beam = running[candidate.row].clone();
                beam.ids.push(candidate.token);
                Beam { score: candidate.score, log_prob: beam.log_prob + candidate.log_prob, ..beam }
            };
            // Those that end here, of the best, may take the place of worse ones that ended before.
            let all_finished = finished.iter().all(|finished| finished.is_there);
            let is_full = all_finished && limits.decoding.early_stopping == EarlyStopping::Yes;
            if may_improve && !is_full {
                let penalty = limits.penalty(len - 1);
                for (candidate, _) in candidates.iter().zip(&ends).take(beams).filter(|(_, ends)| **ends) {
                    let beam = extended(candidate);
                    finished.push(Finished {
                        beam: Beam { score: beam.score / penalty, ..beam },
                        is_there: true,
                    });
                }
                finished.sort_by(|a, b| b.beam.score.total_cmp(&a.beam.score));
                finished.truncate(beams);
            }
            let going_on = || candidates.iter().zip(&ends).filter(|(_, ends)| !**ends).take(beams);
            let rows: Vec<u32> = going_on().map(|(candidate, _)| candidate.row as u32).collect();
            let next: Vec<Beam> = going_on().map(|(candidate, _)| extended(candidate)).collect();
            if next.is_empty() {
                break;
            }
            running = next;
            may_improve &= limits.can_improve(&running, &finished, len - 1);
            let is_full = finished.iter().all(|finished| finished.is_there)
                && limits.decoding.early_stopping == EarlyStopping::Yes;
            if !may_improve || is_full {
                break;
            }
            writer.select(&rows)?;
        }
        let Some(Finished { beam: mut best, .. }) = finished.into_iter().next() else {
            return Ok((Vec::new(), 0.0));
        };
        Ok((best.ids.split_off(1), best.log_prob))
    }

    /// The text of ids that a stack reads or writes, without what stands for no text.
    pub(crate) fn text_of(&self, stack: Stack, ids: &[u32]) -> String {
        let special = self.special_ids();
        let ids: Vec<u32> = ids.iter().copied().filter(|id| !special.contains(id)).collect();
        self.tokenizer_of(stack).decode(&ids)
    }
}

/// What no beam has.
const NEVER: f32 = -1.0e9;

#[derive(Clone)]
struct Beam {
    /// With the start.
    ids: Vec<u32>,
    /// The sum of what is searched by.
    score: f32,
    /// The sum of log-probabilities, whatever is forbidden or forced.
    log_prob: f64,
}

#[derive(Clone)]
struct Finished {
    beam: Beam,
    is_there: bool,
}

struct Candidate {
    row: usize,
    token: u32,
    score: f32,
    log_prob: f64,
}

/// The best continuations of all rows, the best first.
fn candidates(running: &[Beam], logits: Vec<Vec<f32>>, limits: &Limits, keep: usize) -> Vec<Candidate> {
    let mut best: Vec<Candidate> = Vec::with_capacity(keep + 1);
    for (row, (beam, logits)) in running.iter().zip(logits).enumerate() {
        let total = log_sum_exp_of(&logits);
        let raw: Vec<f32> = logits.iter().map(|logit| logit - total).collect();
        let mut scores = raw.clone();
        limits.decoding.constrain(&beam.ids, limits.max_length, &mut scores);
        for (token, score) in scores.into_iter().enumerate() {
            let score = score + beam.score;
            let worst = best.last().map_or(f32::NEG_INFINITY, |worst| worst.score);
            if score.is_nan() || score == f32::NEG_INFINITY || best.len() == keep && score <= worst {
                continue;
            }
            let place = best.partition_point(|other| other.score >= score);
            best.insert(
                place,
                Candidate { row, token: token as u32, score, log_prob: f64::from(raw[token]) },
            );
            best.truncate(keep);
        }
    }
    best
}

/// What a search keeps to.
struct Limits<'a> {
    decoding: &'a Decoding,
    start: u32,
    /// The longest sequence, the start included.
    max_length: usize,
}

impl<'a> Limits<'a> {
    fn new(model: &'a Model, search: &Search) -> Result<Limits<'a>> {
        let (decoding, start) = (model.decoding()?, model.decoder_start()?);
        const MOST_BEAMS: usize = 64;
        if search.beams == 0 || search.beams > MOST_BEAMS {
            return Err(Error::new(ErrorKind::Input, format!("{} beams are asked for", search.beams))
                .help(format!("1 takes the likeliest token each time; 4 are usual, {MOST_BEAMS} the most")));
        }
        let n_ctx = model.dims().n_ctx;
        let written = match search.max_new_tokens {
            Some(tokens) if tokens == 0 || tokens > n_ctx => {
                return Err(Error::new(
                    ErrorKind::Input,
                    format!("{tokens} tokens are to be written, and the model reads at most {n_ctx}"),
                )
                .help(format!("set max_new_tokens to 1 at least and {n_ctx} at most, or leave it out")));
            }
            Some(tokens) => tokens,
            None => decoding.max_length.map_or(n_ctx, |len| len.saturating_sub(1).clamp(1, n_ctx)),
        };
        Ok(Limits { decoding, start, max_length: written + 1 })
    }

    /// What the score of so many tokens is divided by.
    fn penalty(&self, written: usize) -> f32 {
        (written as f64).powf(self.decoding.length_penalty) as f32
    }

    /// Whether one that runs, of so many tokens, may become better than one that ended.
    fn can_improve(&self, running: &[Beam], finished: &[Finished], written: usize) -> bool {
        let longest = match self.decoding.early_stopping {
            EarlyStopping::Never if self.decoding.length_penalty > 0.0 => self.max_length - 1,
            _ => written,
        };
        let best = running.first().map_or(NEVER, |beam| beam.score) / self.penalty(longest);
        let worst = finished.iter().map(|finished| finished.beam.score).fold(f32::INFINITY, f32::min);
        finished.iter().any(|finished| best > if finished.is_there { worst } else { NEVER })
    }
}

/// The largest of scores, the first of several.
fn largest(scores: &[f32]) -> u32 {
    let better = |best: usize, index: usize| if scores[index] > scores[best] { index } else { best };
    (0..scores.len()).fold(0, better) as u32
}

impl Translation {
    /// What was read.
    pub fn source(&self) -> &Tokens {
        &self.source
    }

    /// What was read, as it was given; of ids, what they say.
    pub fn source_text(&self) -> &str {
        &self.source_text
    }

    /// What was written, without the start and with the end.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The same as text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The mean log-probability of what was written, in nats, the end's included.
    pub fn log_prob(&self) -> f64 {
        self.log_prob
    }
}

impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (mean log-probability {:.4})", self.text, self.log_prob)
    }
}

impl std::ops::Deref for Translations {
    type Target = [Translation];

    fn deref(&self) -> &[Translation] {
        &self.0
    }
}

impl fmt::Debug for Translations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|translation| writeln!(f, "{translation:?}"))
    }
}

impl Visualize for Translations {
    fn views(&self) -> Result<Vec<View>> {
        let mut table = Table::new("translated", ["source", "target", "mean log-probability"]);
        for translation in self.iter() {
            table.push([
                translation.source_text.clone(),
                translation.text.clone(),
                format!("{:.4}", translation.log_prob),
            ]);
        }
        Ok(vec![View::Table(table)])
    }
}
