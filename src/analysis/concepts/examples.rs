//! Activations of texts that have a concept, and of texts that lack it.

use std::fmt;

use candle_core::Device;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::analysis::concepts::direction::{ConceptMethod, Direction};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{AxisKind, Hook};
use crate::memory;
use crate::memory::floats;
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run_options::RunOptions;
use crate::progress::Progress;

/// Where in each text a concept is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConceptPosition {
    /// The first token: `[CLS]` of an encoder, or what begins a text.
    First,
    /// The last token of the text; of an encoder before what ends it.
    Last,
    /// One position, counted from 0.
    At(usize),
    /// The mean over the tokens of the text.
    Mean,
    /// The mean over punctuation, where models gather what a clause says (Tigges et al. 2023, "Linear Representations of Sentiment in Large
    /// Language Models", section 4).
    Delimiters,
}

impl fmt::Display for ConceptPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConceptPosition::First => f.write_str("first"),
            ConceptPosition::Last => f.write_str("last"),
            ConceptPosition::At(position) => write!(f, "{position}"),
            ConceptPosition::Mean => f.write_str("mean"),
            ConceptPosition::Delimiters => f.write_str("delimiters"),
        }
    }
}

impl ConceptPosition {
    /// The positions of a text that it is.
    fn of(self, model: &Model, tokens: &Tokens) -> Result<Vec<usize>> {
        let special = model.special_ids();
        let own = || (0..tokens.len()).filter(|&position| !special.contains(&tokens.ids()[position]));
        let all: Vec<usize> = match self {
            ConceptPosition::First => vec![0],
            ConceptPosition::Last => own().next_back().into_iter().collect(),
            ConceptPosition::At(position) => (0..tokens.len()).filter(|&own| own == position).collect(),
            ConceptPosition::Mean => own().collect(),
            ConceptPosition::Delimiters => {
                own().filter(|&position| tokens.is_punctuation(position)).collect()
            }
        };
        if all.is_empty() {
            let what = format!("{tokens} has no position that is {self}");
            return Err(Error::new(ErrorKind::Input, what)
                .help("give texts that all have it, or look for the concept elsewhere: ConceptPosition::Mean is everywhere"));
        }
        Ok(all)
    }
}

/// The texts of both kinds, and which they are.
pub(super) struct Examples {
    pub(super) tokens: Vec<Tokens>,
    pub(super) is_of: Vec<bool>,
}

/// The least of each kind.
const LEAST: usize = 2;
/// The seed of folds and shuffles.
const SEED: u64 = 0;
const FOLDS: usize = 5;
const SHUFFLES: usize = 5;

impl Examples {
    pub(super) fn new(model: &Model, has: &Input, lacks: &Input) -> Result<Examples> {
        model.spec().only_stack("a concept's direction")?;
        if has.len() < LEAST || lacks.len() < LEAST {
            return Err(Error::new(
                ErrorKind::Input,
                format!("{} texts have the concept and {} lack it", has.len(), lacks.len()),
            )
            .help("give some of each, best a hundred: with fewer than two of each nothing is held out"));
        }
        let (mut tokens, is_of) = (model.tokenize(has)?, (0..has.len() + lacks.len()).map(|i| i < has.len()));
        tokens.extend(model.tokenize(lacks)?);
        Ok(Examples { tokens, is_of: is_of.collect() })
    }

    /// The activations of a hook in several layers, and of each at several places: `[hook][place][text]`, each as wide as the activation.
    pub(super) fn read(
        &self,
        model: &Model,
        hooks: &[Hook],
        places: &[ConceptPosition],
    ) -> Result<Vec<Vec<Vec<Vec<f64>>>>> {
        for hook in hooks {
            let axes = hook.site().axes();
            if axes.len() != 2 || axes[0] != AxisKind::Position {
                return Err(Error::new(
                    ErrorKind::Address,
                    format!("`{hook}` has axes [{}]", axes.iter().map(|axis| axis.name()).collect::<Vec<_>>().join(", ")),
                )
                .help("a direction is of what each position has: resid_pre, resid_post, mlp_out, attn_out, mlp.hook_post, ..."));
            }
        }
        let dims = model.dims();
        let numbers = hooks.iter().map(|hook| dims.axis_len(hook.site().axes()[1], 1, 1)).sum::<usize>();
        // As f64.
        memory::check(&Device::Cpu, floats([2, numbers, places.len(), self.tokens.len()]), || {
            let what = format!(
                "activations of {} hooks, of {} texts at {} places,",
                hooks.len(),
                self.tokens.len(),
                places.len()
            );
            (what, "look at fewer places, or give fewer texts")
        })?;
        let mut sites: Vec<_> = hooks.iter().map(|hook| hook.site()).collect();
        sites.dedup();
        let options = RunOptions::only(sites);
        let mut all = vec![vec![Vec::new(); places.len()]; hooks.len()];
        let progress = Progress::new("reading activations", self.tokens.len());
        for tokens in &self.tokens {
            let chosen = places.iter().map(|place| place.of(model, tokens)).collect::<Result<Vec<_>>>()?;
            let run = model.run_with_options(tokens, &options)?;
            for (hook, of_hook) in hooks.iter().zip(&mut all) {
                let values = run.get(*hook)?.tensor().to_vec2::<f32>()?;
                for (positions, of_place) in chosen.iter().zip(of_hook.iter_mut()) {
                    let mut mean = vec![0f64; values[0].len()];
                    for &position in positions {
                        mean.iter_mut().zip(&values[position]).for_each(|(mean, x)| *mean += f64::from(*x));
                    }
                    mean.iter_mut().for_each(|mean| *mean /= positions.len() as f64);
                    of_place.push(mean);
                }
            }
            progress.advance(1)?;
        }
        Ok(all)
    }

    /// How many of the texts a direction tells that was found without them, each fifth in turn; and the same where which text has the concept
    /// is shuffled, the mean of five times: what it would tell if there were nothing to tell.
    pub(super) fn held_out(&self, rows: &[Vec<f64>], method: ConceptMethod) -> Result<(f64, f64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let own = self.share_told(rows, &self.is_of, method, &mut rng)?;
        let mut shuffled = 0.0;
        for _ in 0..SHUFFLES {
            let mut labels = self.is_of.clone();
            labels.shuffle(&mut rng);
            shuffled += self.share_told(rows, &labels, method, &mut rng)?;
        }
        Ok((own, shuffled / SHUFFLES as f64))
    }

    /// Folds hold as many of each kind as they can.
    fn share_told(
        &self,
        rows: &[Vec<f64>],
        is_of: &[bool],
        method: ConceptMethod,
        rng: &mut ChaCha8Rng,
    ) -> Result<f64> {
        let mut fold = vec![0; rows.len()];
        for kind in [true, false] {
            let mut own: Vec<usize> = (0..rows.len()).filter(|&index| is_of[index] == kind).collect();
            own.shuffle(rng);
            own.into_iter().enumerate().for_each(|(place, index)| fold[index] = place % FOLDS);
        }
        let mut told = 0.0;
        for held_out in 0..FOLDS {
            let kept: Vec<usize> = (0..rows.len()).filter(|&index| fold[index] != held_out).collect();
            let train: Vec<&[f64]> = kept.iter().map(|&index| rows[index].as_slice()).collect();
            let labels: Vec<bool> = kept.iter().map(|&index| is_of[index]).collect();
            let asked = (0..rows.len()).filter(|&index| fold[index] == held_out);
            told += match Direction::of(&train, &labels, method)? {
                Some(found) => {
                    asked.filter(|&index| found.tells(&rows[index]) == is_of[index]).count() as f64
                }
                // What is alike is guessed.
                None => asked.count() as f64 / 2.0,
            };
        }
        Ok(told / rows.len() as f64)
    }
}
