//! What a model predicts: losses, probabilities, the rank of an answer.

use candle_core::{DType, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run::Run;
use crate::model::run_options::RunOptions;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::cpu::log_sum_exp;
use crate::view::{Table, View, Visualize};
use crate::{memory, progress};

impl Run {
    /// The logits `[position, d_vocab]`.
    pub fn logits(&self) -> Result<NamedTensor> {
        Ok(self.get(Site::UnembedOut)?.renamed("logits"))
    }

    /// The log-probabilities of the next token `[position, d_vocab]`, in nats.
    pub fn log_probs(&self) -> Result<NamedTensor> {
        let logits = self.logits()?;
        memory::check(logits.tensor().device(), memory::floats(logits.shape()), || {
            ("the log-probabilities of a run", "take the logits of fewer positions; or run a shorter input")
        })?;
        let tensor = logits.tensor().broadcast_sub(&log_sum_exp(logits.tensor())?)?;
        NamedTensor::new("log-probabilities", tensor, logits.axes().to_vec())
    }

    /// The loss of each prediction, in nats, labelled by the token that was to be predicted: one fewer than there
    /// are tokens; of a target that a decoder writes, all of its tokens. Fails for several inputs: take one with [`item`](Run::item).
    pub fn loss_per_token(&self) -> Result<NamedTensor> {
        self.spec().predicts_next("the loss")?;
        let tokens = self.single()?;
        let losses = losses(self.logits()?.tensor(), tokens)?;
        let labels = tokens.next_labels();
        let named = NamedTensor::from_vec(
            "loss per token (nats)",
            losses,
            vec![Axis::labelled("predicted", labels)],
        )?;
        Ok(named.with_value_kind(ValueKind::Magnitude))
    }

    /// The mean loss over all predictions of all inputs, in nats, as TransformerLens's `loss`.
    pub fn loss(&self) -> Result<f32> {
        self.spec().predicts_next("the loss")?;
        let (mut sum, mut count) = (0f64, 0usize);
        for index in 0..self.tokens().len() {
            progress::check("taking the loss")?;
            let item = self.item(index)?;
            let losses = losses(item.logits()?.tensor(), &item.tokens()[0])?;
            sum += losses.iter().copied().map(f64::from).sum::<f64>();
            count += losses.len();
        }
        Ok((sum / count as f64) as f32)
    }
}

fn losses(logits: &Tensor, tokens: &Tokens) -> Result<Vec<f32>> {
    let predictions = tokens.predictions();
    if predictions == 0 {
        return Err(Error::new(ErrorKind::Input, "one token alone predicts nothing that could be checked")
            .help("a loss takes at least two tokens, BOS included"));
    }
    let logits = logits.narrow(0, 0, predictions)?;
    let next = Tensor::new(tokens.next_ids(), logits.device())?.unsqueeze(1)?;
    let chosen = logits.contiguous()?.gather(&next, 1)?;
    Ok((log_sum_exp(&logits)? - chosen)?.squeeze(1)?.to_vec1()?)
}

impl Model {
    fn predictions(&self, input: impl Into<Input>) -> Result<Run> {
        self.run_with_options(input, &RunOptions::only([Site::UnembedOut]))
    }

    /// The logits of an input `[position, d_vocab]`, and nothing else kept.
    pub fn logits(&self, input: impl Into<Input>) -> Result<NamedTensor> {
        self.predictions(input)?.logits()
    }

    /// The mean loss of an input, in nats; of a pair, that of its target.
    pub fn loss(&self, input: impl Into<Input>) -> Result<f32> {
        self.told(input)?.loss()
    }

    /// The loss of each token of an input after the first, in nats; of a pair, of each token of its target.
    pub fn loss_per_token(&self, input: impl Into<Input>) -> Result<NamedTensor> {
        self.told(input)?.loss_per_token()
    }

    /// Predictions of what is given, and not of what the model would write itself.
    fn told(&self, input: impl Into<Input>) -> Result<Run> {
        let input = input.into();
        self.inputs_of_stacks(&input)?;
        self.predictions(input)
    }

    /// How well a prompt calls forth an answer: the rank and probability of the answer's tokens, one after another,
    /// and the tokens that the model would rather say. The answer is taken as written: most words in mid-sentence
    /// begin with a space. Of an encoder-decoder the prompt is the source, and the answer what is to be written of it, with its end.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let test = model.test_prompt("the cat sat on the mat, the cat sat on the", " mat")?;
    /// println!("{test:?}");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn test_prompt(&self, prompt: impl Into<Input>, answer: &str) -> Result<PromptTest> {
        self.spec().any_decoder("the test of a prompt")?;
        if answer.is_empty() {
            return Err(
                Error::new(ErrorKind::Input, "the answer is empty").help("give the text that should follow")
            );
        }
        let prompt = prompt.into();
        let (prompt, answer_ids, first, log_probs) = if self.spec().is_encoder_decoder() {
            let source = self.source_of(&prompt, 0)?;
            let run = self.predictions(Input::pair(prompt, answer))?;
            (source, run.single()?.next_ids(), 0, run.log_probs()?)
        } else {
            let prompt = self.to_tokens(prompt)?;
            let answer_ids = self.tokenizer.encode_continuation(answer)?;
            let log_probs = self.predictions([prompt.ids(), &answer_ids].concat())?.log_probs()?;
            let first = prompt.len() - 1;
            (prompt, answer_ids, first, log_probs)
        };
        let steps = answer_ids.iter().enumerate().map(|(step, &id)| {
            let position = log_probs.select("position", first + step)?;
            let values = position.to_vec()?;
            let own = values[id as usize];
            let mut best: Vec<usize> = (0..values.len()).collect();
            best.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
            best.truncate(TOP);
            let guess = |id: usize| Guess {
                token: self.tokenizer.labels(&[id as u32]).concat(),
                log_prob: values[id],
            };
            Ok(Step {
                rank: values.iter().filter(|&&value| value > own).count(),
                answer: guess(id as usize),
                top: best.into_iter().map(guess).collect(),
            })
        });
        Ok(PromptTest { prompt: prompt.labels().concat(), steps: steps.collect::<Result<_>>()? })
    }
}

/// How many of the likeliest tokens a [`PromptTest`] lists.
const TOP: usize = 10;

/// What [`Model::test_prompt`] found.
#[derive(Clone)]
pub struct PromptTest {
    prompt: String,
    steps: Vec<Step>,
}

/// One token of the answer.
#[derive(Clone)]
struct Step {
    rank: usize,
    answer: Guess,
    top: Vec<Guess>,
}

#[derive(Clone)]
struct Guess {
    token: String,
    log_prob: f32,
}

impl PromptTest {
    /// The rank of each token of the answer; 0 is the likeliest.
    pub fn ranks(&self) -> Vec<usize> {
        self.steps.iter().map(|step| step.rank).collect()
    }

    /// The probability of each token of the answer, given those before it.
    pub fn probabilities(&self) -> Vec<f32> {
        self.steps.iter().map(|step| step.answer.log_prob.exp()).collect()
    }

    /// The likeliest tokens at each step, with their probabilities, the best first.
    pub fn top(&self) -> Vec<Vec<(String, f32)>> {
        let pairs =
            |step: &Step| step.top.iter().map(|guess| (guess.token.clone(), guess.log_prob.exp())).collect();
        self.steps.iter().map(pairs).collect()
    }
}

impl std::fmt::Debug for PromptTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for step in &self.steps {
            let Guess { token, log_prob } = &step.answer;
            writeln!(f, "{token:?}: rank {}, probability {:.4}", step.rank, log_prob.exp())?;
            let top = step.top.iter().map(|guess| format!("{:?} {:.4}", guess.token, guess.log_prob.exp()));
            writeln!(f, "  likeliest: {}", top.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

impl Visualize for PromptTest {
    fn views(&self) -> Result<Vec<View>> {
        let views = self.steps.iter().map(|step| {
            let title = format!("{:?} has rank {} after {:?}", step.answer.token, step.rank, self.prompt);
            let mut table = Table::new(title, ["rank", "token", "probability", "log-probability"]);
            let mut row = |rank: usize, guess: &Guess| {
                let mark = if rank == step.rank { " ◄" } else { "" };
                table.push([
                    rank.to_string(),
                    format!("{:?}{mark}", guess.token),
                    format!("{:.4}", guess.log_prob.exp()),
                    format!("{:.4}", guess.log_prob),
                ]);
            };
            step.top.iter().enumerate().for_each(|(rank, guess)| row(rank, guess));
            if step.rank >= step.top.len() {
                row(step.rank, &step.answer);
            }
            View::Table(table)
        });
        Ok(views.collect())
    }
}

/// The last position's logits, for generation.
pub(super) fn last_logits(logits: &Tensor) -> Result<Vec<f32>> {
    let last = logits.dim(1)? - 1;
    Ok(logits.narrow(1, last, 1)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}
