//! A training, step by step.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::analysis::heads::repeated_tokens::RepeatedTokens;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::model::model::Model;
use crate::model::run_options::RunOptions;
use crate::network::config::ConfigFile;
use crate::network::cpu::cross_entropy;
use crate::network::dims::check_ids;
use crate::network::network::Network;
use crate::network::record::Record;
use crate::network::start::Start;
use crate::network::weights::file::Weights;
use crate::progress::Progress;
use crate::training::curve::{TrainingCurve, TrainingPoint};
use crate::training::optimizer::{AdamW, diverged};
use crate::training::options::{BOS, TrainingOptions};
use crate::{files, memory, progress};

/// A model in training. Whatever fails or is stopped, it stays as it was after its last whole step, and can go on.
///
/// ```
/// use headlight::prelude::*;
/// let options = TrainingOptions { d_model: 16, n_ctx: 16, batch: 4, ..TrainingOptions::default() };
/// let mut training = Training::new(&options)?;
/// training.run(20)?;
/// println!("{:?}", training.curve());
/// println!("{:?}", induction_scores(&training.model()?)?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub struct Training {
    options: TrainingOptions,
    config: Arc<ConfigFile>,
    optimizer: AdamW,
    curve: TrainingCurve,
}

/// Sequences of a point of the curve, and the longest unit that is said twice in them.
const EVALUATED: usize = 16;
const LONGEST_UNIT: usize = 50;
/// The generator of an evaluation is never that of a training step.
const EVALUATION_SEED: u64 = u64::MAX;

impl Training {
    /// A model as it is before its first step, evaluated once. Fails where no model can have the sizes.
    pub fn new(options: &TrainingOptions) -> Result<Training> {
        options.check()?;
        // As they are drawn, as they are trained, and both moments of their gradients.
        memory::check(&Device::Cpu, options.bytes().saturating_mul(4), || {
            ("a training of so many weights", "train fewer layers, narrower ones, or a smaller vocabulary")
        })?;
        let weights = Weights::random(options.seed, options.deviation, options.n_layers, &Device::Cpu);
        let (architecture, path) = ("gpt2".into(), "the training's options".into());
        let config = ConfigFile { architecture, path, text: options.config_json() };
        config.network(&weights)?;
        let mut training = Training {
            options: *options,
            config: config.into(),
            optimizer: AdamW::new(weights.into_initialized())?,
            curve: TrainingCurve::empty(),
        };
        training.evaluate(&[])?;
        Ok(training)
    }

    /// Makes so many steps, each on new sequences of [the options' kind](TrainingOptions), and evaluates as often as the options say. It shows
    /// how far it is. Where it is stopped, calling it again goes on.
    pub fn run(&mut self, steps: usize) -> Result<()> {
        let progress = Progress::new("training", steps);
        let outcome = self.run_with(steps, &progress);
        outcome.map_err(|error| match error.kind() {
            ErrorKind::Stopped => {
                let steps = self.steps();
                Error::new(ErrorKind::Stopped, format!("the training was stopped after step {steps}"))
                    .help("call `run` again to go on from there; nothing else is lost")
            }
            _ => error,
        })
    }

    fn run_with(&mut self, steps: usize, progress: &Progress) -> Result<()> {
        for _ in 0..steps {
            // What was stopped may have been an evaluation.
            self.evaluate_if_due()?;
            self.step_on(&self.options.sequences(self.steps() + 1))?;
            self.evaluate_if_due()?;
            progress.advance(1)?;
        }
        Ok(())
    }

    fn evaluate_if_due(&mut self) -> Result<()> {
        let step = self.steps();
        let done = self.curve.points().last().is_some_and(|point| point.step >= step);
        if done || !step.is_multiple_of(self.options.evaluate_every) {
            return Ok(());
        }
        self.evaluate(&[])
    }

    /// Makes one step on sequences of one's own, all of one length, and gives their mean loss in nats before it. All but
    /// the last token of each are read, so they may be one token longer than the context.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let mut training = Training::new(&TrainingOptions::default())?;
    /// let counting: Vec<u32> = (0..17).collect();
    /// let before = training.step_on(&[counting.clone()])?;
    /// training.step_on(&[counting.clone()])?;
    /// assert!(training.step_on(&[counting])? < before);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn step_on(&mut self, sequences: &[Vec<u32>]) -> Result<f32> {
        self.check(sequences)?;
        let step = self.steps() + 1;
        let network = self.config.network(&Weights::from_tensors(self.optimizer.weights()))?;
        let (batch, len) = (sequences.len(), sequences[0].len() - 1);
        let gradients = network.footprint_of_gradients(batch, len, len, &[]);
        // What a step makes of a weight: its new value and moments, and on the way to them as many more.
        memory::check(
            &Device::Cpu,
            gradients.saturating_add(self.options.bytes().saturating_mul(4)),
            || {
                (
                    format!("a training step on {batch} sequences of {len} tokens"),
                    "train on fewer sequences at once (`batch`), or shorter ones",
                )
            },
        )?;
        let loss = losses(&network, sequences)?.mean_all()?;
        let value = loss.to_scalar::<f32>()?;
        if !value.is_finite() {
            return Err(diverged("the loss", step));
        }
        let gradients = loss.backward();
        progress::check("the training")?;
        self.optimizer.step(&gradients?, self.options.rate(step))?;
        Ok(value)
    }

    /// Adds to the curve what the model is like now, as [`run`](Training::run) does every so many steps. Of sequences of
    /// text, all of one length, it measures the loss too; there may be none.
    pub fn evaluate(&mut self, text: &[Vec<u32>]) -> Result<()> {
        let model = self.model()?;
        // Few tokens of a unit should be the same.
        let length = ((self.options.n_ctx - 1) / 2).min(self.options.d_vocab / 2).min(LONGEST_UNIT);
        let repeats = RepeatedTokens { length, batch: EVALUATED, seed: EVALUATION_SEED };
        let wanted = RunOptions::only([Site::Pattern, Site::UnembedOut]);
        let run = model.run_with_options(repeats.ids(&model)?, &wanted)?;
        let (mut losses, mut induction, mut previous) = (Mean::default(), Mean::default(), Mean::default());
        for index in 0..EVALUATED {
            let item = run.item(index)?;
            losses.add(item.loss_per_token()?.to_vec()?);
            induction.add(item.induction_scores()?.values().to_vec()?);
            previous.add(item.previous_token_scores()?.values().to_vec()?);
        }
        let losses = losses.values();
        let (first, second) = (mean(&losses[..length]), mean(&losses[length..]));
        let text = self.loss_on_text(text)?;
        let score = text.map_or(second - first, |(_, score)| score);
        if ![first, second, score].iter().all(|value| value.is_finite()) {
            return Err(diverged("the loss", self.steps()));
        }
        let by_layer = |mean: Mean| {
            let scores: Vec<f32> = mean.values().into_iter().map(rounded).collect();
            scores.chunks(self.options.n_heads).map(<[f32]>::to_vec).collect()
        };
        self.curve.push(TrainingPoint {
            step: self.steps(),
            loss_first_copy: rounded(first),
            loss_second_copy: rounded(second),
            loss_on_text: text.map(|(loss, _)| rounded(loss)),
            in_context_learning_score: rounded(score),
            induction: by_layer(induction),
            previous_token: by_layer(previous),
        });
        Ok(())
    }

    /// The mean loss on text, and the loss late in it minus the loss early in it.
    fn loss_on_text(&self, text: &[Vec<u32>]) -> Result<Option<(f64, f64)>> {
        let Some(first) = text.first() else { return Ok(None) };
        self.check(text)?;
        if first.len() < 8 {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the text has {} tokens a sequence", first.len()),
            )
            .help("give at least 8, so that there is an early and a late part"));
        }
        let network = self.config.network(&Weights::from_tensors(self.optimizer.copies()?))?;
        let losses = losses(&network, text)?.mean(0)?.to_vec1::<f32>()?;
        let losses: Vec<f64> = losses.into_iter().map(f64::from).collect();
        let (eighth, quarter) = (first.len() / 8, first.len() / 4);
        let late = mean(&losses[losses.len() - quarter..]);
        Ok(Some((mean(&losses), late - mean(&losses[eighth..quarter]))))
    }

    /// The steps made so far.
    pub fn steps(&self) -> usize {
        self.optimizer.steps()
    }

    /// What it went through so far.
    pub fn curve(&self) -> &TrainingCurve {
        &self.curve
    }

    /// The model as it is now, to be looked into like any other; training on does not change it. It has no tokenizer, so
    /// it reads ids, of which 0 is BOS.
    pub fn model(&self) -> Result<Model> {
        let weights = Weights::from_tensors(self.optimizer.copies()?);
        Model::without_tokenizer(
            &format!("trained, step {}", self.steps()),
            self.config.clone(),
            &weights,
            BOS,
        )
    }

    /// The weights as they are now, under Hugging Face's names: with
    /// [`config_json`](TrainingOptions::config_json), what a model's folder holds.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        let copies = self.optimizer.copies()?;
        Ok(copies.into_iter().map(|(name, tensor)| (format!("transformer.{name}"), tensor)).collect())
    }

    /// Writes all that the training goes on from to a file.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let options = TrainingOptions { d_model: 16, n_ctx: 16, batch: 4, ..TrainingOptions::default() };
    /// let mut training = Training::new(&options)?;
    /// training.run(2)?;
    /// let path = std::env::temp_dir().join(format!("training-{}.safetensors", std::process::id()));
    /// training.save(&path)?;
    /// let mut resumed = Training::new(&options)?;
    /// resumed.resume(&path)?;
    /// resumed.run(2)?; // just as the first would go on
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let state: BTreeMap<String, Tensor> = self.optimizer.state().into_iter().collect();
        let notes = HashMap::from([
            (STEP.to_string(), self.steps().to_string()),
            (CURVE.to_string(), self.curve.to_json()?),
        ]);
        let bytes = safetensors::serialize(&state, Some(notes)).map_err(|error| {
            Error::new(ErrorKind::File, format!("cannot write {}", path.display()))
                .caused_by(error)
                .help("the training is as it was: try another place")
        })?;
        files::write(path, &bytes)
    }

    /// Goes on from what [`save`](Training::save) wrote. The options must be those of the training that was saved.
    pub fn resume(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let weights = Weights::from_files(&origin, &[path.to_path_buf()], &Device::Cpu)?;
        let none = || {
            Error::new(ErrorKind::File, format!("{} is not a saved training", path.display()))
                .help("give what `Training::save` wrote")
        };
        let steps = weights.note(STEP).and_then(|step| step.parse().ok()).ok_or_else(none)?;
        let curve = TrainingCurve::from_json(weights.note(CURVE).ok_or_else(none)?)?;
        self.optimizer.restore(steps, |name, shape| weights.get(name, shape))?;
        self.curve = curve;
        Ok(())
    }

    fn check(&self, sequences: &[Vec<u32>]) -> Result<()> {
        let TrainingOptions { n_ctx, d_vocab, .. } = self.options;
        let wrong = |what: String, help: String| Err(Error::new(ErrorKind::Input, what).help(help));
        let len = sequences.first().map_or(0, Vec::len);
        if !(2..=n_ctx + 1).contains(&len) {
            return wrong(
                format!("{} sequences of {len} tokens are nothing to train on", sequences.len()),
                format!("give at least one, of 2 to {} tokens: the context and one to predict", n_ctx + 1),
            );
        }
        if let Some(other) = sequences.iter().find(|ids| ids.len() != len) {
            return wrong(
                format!("one sequence has {len} tokens and another {}", other.len()),
                "cut all sequences to one length".into(),
            );
        }
        check_ids(sequences.iter().flatten(), d_vocab)
    }
}

/// The entries of a saved training that are no tensors.
const STEP: &str = "headlight.step";
const CURVE: &str = "headlight.curve";

/// The loss of each prediction `[sequence, position]`, in nats.
fn losses(network: &Network, sequences: &[Vec<u32>]) -> Result<Tensor> {
    let ids = Tensor::new(sequences.to_vec(), network.device())?;
    let last = ids.dim(1)? - 1;
    let mut logits = Record::logits();
    network.run(Start::tokens(ids.narrow(1, 0, last)?), None, &mut logits)?;
    let logits = logits.only()?; // (B, T, V)
    let next = ids.narrow(1, 1, last)?.flatten_all()?; // (BT)
    let (rows, len, vocab) = logits.dims3()?;
    Ok(cross_entropy(&logits.reshape((rows * len, vocab))?, &next)?.reshape((rows, len))?)
}

/// A mean of lists, entry by entry.
#[derive(Default)]
struct Mean {
    sums: Vec<f64>,
    count: usize,
}

impl Mean {
    fn add(&mut self, values: Vec<f32>) {
        self.sums.resize(values.len(), 0.0);
        self.sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
        self.count += 1;
    }

    fn values(self) -> Vec<f64> {
        self.sums.into_iter().map(|sum| sum / self.count as f64).collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn rounded(value: f64) -> f32 {
    ((value * 1e4).round() / 1e4) as f32
}
