//! A training, step by step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::analysis::heads::repeated_tokens::RepeatedTokens;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::memory;
use crate::model::model::Model;
use crate::model::run_options::RunOptions;
use crate::network::config::ConfigFile;
use crate::network::dims::check_ids;
use crate::network::network::Network;
use crate::network::weights::file::Weights;
use crate::training::curve::{TrainingCurve, TrainingPoint};
use crate::training::loss::{next_token, next_token_losses};
use crate::training::optimizer::diverged;
use crate::training::options::{BOS, TrainingOptions};
use crate::training::trainer;
use crate::training::trainer::{SavedTraining, Trainer};

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
    trainer: Trainer<Network>,
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
        let initial = Weights::random(options.seed, options.deviation, options.n_layers, &Device::Cpu);
        let (architecture, path) = ("gpt2".into(), "the training's options".into());
        let config = Arc::new(ConfigFile { architecture, path, text: options.config_json() });
        let built = config.clone();
        let mut training = Training {
            options: *options,
            config,
            trainer: Trainer::new(initial, options.schedule(), move |weights| built.network(weights))?,
            curve: TrainingCurve::empty(),
        };
        training.evaluate(&[])?;
        Ok(training)
    }

    /// Makes so many steps, each on new sequences of [the options' kind](TrainingOptions), and evaluates as often as the options say. It shows
    /// how far it is. Where it is stopped, calling it again goes on.
    pub fn run(&mut self, steps: usize) -> Result<()> {
        trainer::run(self, steps, Training::steps, Training::step_and_evaluate)
    }

    fn step_and_evaluate(&mut self) -> Result<()> {
        // What was stopped may have been an evaluation.
        self.evaluate_if_due()?;
        self.step_on(&self.options.sequences(self.steps() + 1))?;
        self.evaluate_if_due()
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
        self.trainer.step(|network| next_token(network, sequences))
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
        let losses = next_token_losses(&self.trainer.network()?, text)?.mean(0)?.to_vec1::<f32>()?;
        let losses: Vec<f64> = losses.into_iter().map(f64::from).collect();
        let (eighth, quarter) = (first.len() / 8, first.len() / 4);
        let late = mean(&losses[losses.len() - quarter..]);
        Ok(Some((mean(&losses), late - mean(&losses[eighth..quarter]))))
    }

    /// The steps made so far.
    pub fn steps(&self) -> usize {
        self.trainer.steps()
    }

    /// What it went through so far.
    pub fn curve(&self) -> &TrainingCurve {
        &self.curve
    }

    /// The model as it is now, to be looked into like any other; training on does not change it. It has no tokenizer, so
    /// it reads ids, of which 0 is BOS.
    pub fn model(&self) -> Result<Model> {
        let weights = Weights::from_tensors(self.trainer.weights()?);
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
        Ok(self.trainer.weights()?.into_iter().collect())
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
        self.trainer.save(path.as_ref(), &[(CURVE, self.curve.to_json()?)])
    }

    /// Goes on from what [`save`](Training::save) wrote. The options must be those of the training that was saved.
    pub fn resume(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let saved = SavedTraining::open(path.as_ref())?;
        let curve = TrainingCurve::from_json(saved.note(CURVE)?)?;
        self.trainer.resume(&saved)?;
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

/// The entry of a saved training that is its curve.
const CURVE: &str = "headlight.curve";

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
