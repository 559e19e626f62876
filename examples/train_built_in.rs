//! Trains the built-in model: a small GPT-2 that grows previous-token heads and induction heads.
//!
//! `cargo run --release --example train_built_in -- --text FOLDER --out assets/built-in`
//!
//! The folder holds plain text, one paragraph a line. Half of each batch is English, a quarter is random tokens
//! that repeat, a quarter is passages that repeat, with a period of 8 to 64 tokens; the last part of the training
//! is on longer inputs. Interrupt it with Ctrl-C: the same command goes on from the last checkpoint.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, Var};
use clap::Parser;
use headlight::network::Decoder;
use headlight::network::gpt2::{self, Config};
use headlight::network::weights::Weights;
use headlight::network::{Network, Start, Tap};
use headlight::{Hook, Site};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, TokenizerBuilder};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const BOS: u32 = 0;
const N_LAYER: usize = 2;
const N_HEAD: usize = 8;
const N_CTX: usize = 256;
const PERIODS: std::ops::RangeInclusive<usize> = 8..=64;
const EVALUATE_EVERY: usize = 50;
const SAVE_EVERY: usize = 200;

/// Words that courses on attention heads use; the tokenizer keeps each whole.
const COURSE_WORDS: &str = "the cat sat on mat quick brown fox jumps over lazy dog When Mary and John went to store \
    gave a drink bottle of milk apple book The capital France Paris Rome Italy London England Harry Potter Alice Bob \
    Tom James Anna Kate king queen man woman boy girl red green blue one two three four five six seven eight nine ten";

#[derive(Parser)]
#[command(about = "Trains the model that headlight ships")]
struct Args {
    /// Folder of .txt files, one paragraph a line
    #[arg(long)]
    text: PathBuf,
    /// Where the model, the tokenizer, the card and the curve go
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, default_value_t = 6000)]
    steps: usize,
    #[arg(long, default_value_t = 160)]
    width: usize,
    #[arg(long, default_value_t = 2048)]
    vocab: usize,
    /// Tokens in a batch
    #[arg(long, default_value_t = 3072)]
    batch_tokens: usize,
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,
}

fn main() -> Outcome<()> {
    let args = Args::parse();
    fs::create_dir_all(&args.out)?;
    let books = read_books(&args.text)?;
    let tokenizer_path = args.out.join("tokenizer.json");
    if !tokenizer_path.exists() {
        println!("training a tokenizer of {} tokens on {} books", args.vocab, books.len());
        train_tokenizer(&books, args.vocab, &tokenizer_path)?;
    }
    let data = Data::new(&books, &tokenizer_path, args.vocab)?;
    println!("{} tokens to train on, {} held out", data.train.len(), data.held_out.len());

    let config = config(&args);
    let mut trainer = Trainer::new(&args, serde_json::from_value(config.clone())?)?;
    trainer.resume()?;
    let bar = ProgressBar::new(args.steps as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} steps  {elapsed} gone, {eta} left  {msg}",
    )?);
    bar.set_position(trainer.step as u64);
    let begun = Instant::now();
    while trainer.step < args.steps {
        let loss = trainer.train_step(&data)?;
        bar.inc(1);
        if trainer.step.is_multiple_of(EVALUATE_EVERY) {
            let point = trainer.evaluate(&data)?;
            let summary = format!(
                "loss {loss:.2}  repeats {:.2} -> {:.2}  induction {:.2}",
                number(&point["loss_first_half"]),
                number(&point["loss_second_half"]),
                largest(&point["induction"]),
            );
            if bar.is_hidden() {
                println!("{:>6} {:>6.0} s  {summary}", trainer.step, begun.elapsed().as_secs_f64());
            }
            bar.set_message(summary);
            trainer.curve.push(point);
        }
        if trainer.step.is_multiple_of(SAVE_EVERY) || trainer.step == args.steps {
            trainer.save()?;
        }
    }
    bar.finish();
    trainer.ship(&data, &config)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn largest(scores: &Value) -> f64 {
    let rows = scores.as_array().into_iter().flatten();
    rows.flat_map(|row| row.as_array().into_iter().flatten()).map(number).fold(0.0, f64::max)
}

fn read_books(folder: &Path) -> Outcome<Vec<String>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    if paths.is_empty() {
        return Err(format!("{} holds no .txt file", folder.display()).into());
    }
    Ok(paths.iter().map(fs::read_to_string).collect::<Result<_, _>>()?)
}

fn train_tokenizer(books: &[String], vocab: usize, path: &Path) -> Outcome<()> {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer =
        TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel>::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(byte_level))
            .with_post_processor(None)
            .with_decoder(Some(byte_level))
            .build()?;
    let words = COURSE_WORDS.split_whitespace();
    let words = words.map(|word| format!("{word} {}", format!("{word} ").repeat(2000)));
    let lines = books.iter().flat_map(|book| book.lines().map(str::to_string));
    tokenizer.train(&mut trainer, lines.chain(words))?.save(path, false)?;
    Ok(())
}

struct Data {
    train: Vec<u32>,
    held_out: Vec<u32>,
    vocab: usize,
}

impl Data {
    /// The last twentieth of each book is held out.
    fn new(books: &[String], tokenizer: &Path, vocab: usize) -> Outcome<Self> {
        let tokenizer = tokenizers::Tokenizer::from_file(tokenizer)?;
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for book in books {
            let lines: Vec<&str> = book.lines().collect();
            let cut = lines.len() * 19 / 20;
            for (part, lines) in [(&mut train, &lines[..cut]), (&mut held_out, &lines[cut..])] {
                let text = lines.join("\n");
                part.extend(tokenizer.encode(text, false)?.get_ids());
            }
        }
        Ok(Data { train, held_out, vocab })
    }

    fn passage(&self, len: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let start = rng.random_range(0..self.train.len() - len);
        self.train[start..start + len].to_vec()
    }

    fn random(&self, len: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
        (0..len).map(|_| rng.random_range(1..self.vocab as u32)).collect()
    }

    fn batch(&self, rows: usize, len: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<u32>> {
        let row = |row: usize, rng: &mut ChaCha8Rng| {
            let period = rng.random_range(PERIODS);
            let unit = match row % 4 {
                0 | 1 => self.passage(len - 1, rng),
                2 => self.random(period, rng),
                _ => self.passage(period, rng),
            };
            std::iter::once(BOS).chain(unit.into_iter().cycle().take(len - 1)).collect()
        };
        (0..rows).map(|index| row(index, rng)).collect()
    }

    /// The perplexity of guessing each held-out token by its frequency in training (add-one).
    fn unigram_perplexity(&self) -> f64 {
        let mut counts = vec![1f64; self.vocab];
        self.train.iter().for_each(|&id| counts[id as usize] += 1.0);
        let total: f64 = counts.iter().sum();
        let loss: f64 = self.held_out.iter().map(|&id| -(counts[id as usize] / total).ln()).sum();
        (loss / self.held_out.len() as f64).exp()
    }
}

fn config(args: &Args) -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": N_LAYER,
        "n_head": N_HEAD,
        "n_embd": args.width,
        "n_positions": N_CTX,
        "vocab_size": args.vocab,
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": BOS,
        "eos_token_id": BOS,
        "tie_word_embeddings": true,
        "dtype": "float16",
    })
}

/// One weight and Adam's two moments of its gradient.
struct Parameter {
    value: Var,
    first: Tensor,
    second: Tensor,
}

struct Trainer {
    config: Config,
    out: PathBuf,
    seed: u64,
    steps: usize,
    batch_tokens: usize,
    learning_rate: f64,
    step: usize,
    parameters: Vec<(String, Parameter)>,
    curve: Vec<Value>,
}

impl Trainer {
    /// GPT-2's initialisation: normal of deviation 0.02, less for what writes into the residual stream.
    fn new(args: &Args, config: Config) -> Outcome<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        let (m, n) = (args.width, 4 * args.width);
        let mut shapes =
            vec![("wte.weight".to_string(), vec![args.vocab, m]), ("wpe.weight".to_string(), vec![N_CTX, m])];
        for l in 0..N_LAYER {
            let block = [
                ("ln_1.weight", vec![m]),
                ("ln_1.bias", vec![m]),
                ("attn.c_attn.weight", vec![m, 3 * m]),
                ("attn.c_attn.bias", vec![3 * m]),
                ("attn.c_proj.weight", vec![m, m]),
                ("attn.c_proj.bias", vec![m]),
                ("ln_2.weight", vec![m]),
                ("ln_2.bias", vec![m]),
                ("mlp.c_fc.weight", vec![m, n]),
                ("mlp.c_fc.bias", vec![n]),
                ("mlp.c_proj.weight", vec![n, m]),
                ("mlp.c_proj.bias", vec![m]),
            ];
            shapes.extend(block.map(|(name, shape)| (format!("h.{l}.{name}"), shape)));
        }
        shapes.extend([("ln_f.weight".to_string(), vec![m]), ("ln_f.bias".to_string(), vec![m])]);
        let mut parameters = Vec::new();
        for (name, shape) in shapes {
            let deviation =
                if name.ends_with("c_proj.weight") { 0.02 / (2.0 * N_LAYER as f64).sqrt() } else { 0.02 };
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> = match name.rsplit('.').next() {
                Some("bias") => vec![0.0; count],
                _ if name.contains("ln_") => vec![1.0; count],
                _ => (0..count).map(|_| (normal(&mut rng) * deviation) as f32).collect(),
            };
            let value = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
            let zeros = value.zeros_like()?;
            parameters.push((
                format!("transformer.{name}"),
                Parameter { value, first: zeros.clone(), second: zeros },
            ));
        }
        Ok(Trainer {
            config,
            out: args.out.clone(),
            seed: args.seed,
            steps: args.steps,
            batch_tokens: args.batch_tokens,
            learning_rate: args.learning_rate,
            step: 0,
            parameters,
            curve: Vec::new(),
        })
    }

    fn network(&self) -> Outcome<Decoder> {
        let tensors = self
            .parameters
            .iter()
            .map(|(name, parameter)| (name.clone(), parameter.value.as_tensor().clone()));
        Ok(gpt2::load(&self.config, &Weights::from_tensors(tensors.collect::<HashMap<_, _>>()))?)
    }

    /// The batch of a step depends on seed and step alone, so that a resumed training is the same training.
    fn train_step(&mut self, data: &Data) -> Outcome<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ ((self.step as u64 + 1) << 20));
        let len = if self.step < self.steps * 7 / 10 { N_CTX / 2 } else { N_CTX };
        let rows = data.batch(self.batch_tokens / len, len, &mut rng);
        let loss = losses(&self.network()?, &rows)?.mean_all()?;
        let gradients = loss.backward()?;
        let mut norm = 0f64;
        for (name, parameter) in &self.parameters {
            let gradient = gradients
                .get(parameter.value.as_tensor())
                .ok_or_else(|| format!("{name} has no gradient"))?;
            norm += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let clip = 1f64.min(1.0 / norm.sqrt());
        self.step += 1;
        let done = self.step as f64 / self.steps as f64;
        let warm = 1f64.min(self.step as f64 / 200.0);
        let rate =
            self.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()));
        for (_, parameter) in &mut self.parameters {
            if let Some(gradient) = gradients.get(parameter.value.as_tensor()) {
                parameter.update(&(gradient * clip)?.detach(), rate, self.step)?;
            }
        }
        Ok(loss.to_scalar()?)
    }

    fn evaluate(&self, data: &Data) -> Outcome<Value> {
        const PERIOD: usize = 50;
        let network = self.network()?;
        // The generator of the evaluation is never that of a training step.
        let mut rng = ChaCha8Rng::seed_from_u64(u64::MAX);
        let repeats: Vec<Vec<u32>> = (0..16)
            .map(|_| {
                let unit = data.random(PERIOD, &mut rng);
                std::iter::once(BOS).chain(unit.iter().chain(&unit).copied()).collect()
            })
            .collect();
        let by_position = losses(&network, &repeats)?.mean(0)?;
        let first_half = by_position.narrow(0, 0, PERIOD)?.mean_all()?.to_scalar::<f32>()?;
        let second_half = by_position.narrow(0, PERIOD, PERIOD)?.mean_all()?.to_scalar::<f32>()?;
        let english = english(data, 16, N_CTX / 2);
        let by_position = losses(&network, &english)?.mean(0)?;
        let early = by_position.narrow(0, 16, 16)?.mean_all()?.to_scalar::<f32>()?;
        let late = by_position.narrow(0, N_CTX / 2 - 33, 32)?.mean_all()?.to_scalar::<f32>()?;
        let mut patterns = Patterns::default();
        network.run(Start::Tokens(ids(&repeats)?), None, &mut patterns)?;
        Ok(json!({
            "step": self.step,
            "tokens": self.step * self.batch_tokens,
            "loss": rounded(by_position.mean_all()?.to_scalar::<f32>()?),
            "loss_first_half": rounded(first_half),
            "loss_second_half": rounded(second_half),
            "in_context_learning_score": rounded(late - early),
            "previous_token": patterns.diagonal(1)?,
            "induction": patterns.diagonal(PERIOD - 1)?,
        }))
    }

    fn state_path(&self) -> PathBuf {
        self.out.join("training-state.safetensors")
    }

    fn save(&self) -> Outcome<()> {
        let mut tensors = HashMap::new();
        for (name, parameter) in &self.parameters {
            tensors.insert(name.clone(), parameter.value.as_tensor().clone());
            tensors.insert(format!("{name}.first"), parameter.first.clone());
            tensors.insert(format!("{name}.second"), parameter.second.clone());
        }
        tensors.insert("step".into(), Tensor::new(&[self.step as u32], &Device::Cpu)?);
        let unfinished = self.state_path().with_extension("part");
        candle_core::safetensors::save(&tensors, &unfinished)?;
        fs::rename(unfinished, self.state_path())?;
        fs::write(self.out.join("curve.json"), serde_json::to_string(&self.curve)?)?;
        Ok(())
    }

    fn resume(&mut self) -> Outcome<()> {
        if !self.state_path().exists() {
            return Ok(());
        }
        let tensors = candle_core::safetensors::load(self.state_path(), &Device::Cpu)?;
        let get =
            |name: &str| tensors.get(name).cloned().ok_or_else(|| format!("the checkpoint has no {name}"));
        for (name, parameter) in &mut self.parameters {
            parameter.value.set(&get(name)?)?;
            parameter.first = get(&format!("{name}.first"))?;
            parameter.second = get(&format!("{name}.second"))?;
        }
        self.step = get("step")?.to_vec1::<u32>()?[0] as usize;
        self.curve = serde_json::from_str(&fs::read_to_string(self.out.join("curve.json"))?)?;
        self.curve.retain(|point| number(&point["step"]) <= self.step as f64);
        println!("going on from step {}", self.step);
        Ok(())
    }

    /// Writes what is shipped: weights in half precision, config, card and curve.
    fn ship(&self, data: &Data, config: &Value) -> Outcome<()> {
        let mut halves = HashMap::new();
        for (name, parameter) in &self.parameters {
            halves.insert(name.clone(), parameter.value.as_tensor().to_dtype(DType::F16)?);
        }
        let metadata = Some(HashMap::from([("format".to_string(), "pt".to_string())]));
        let sorted = std::collections::BTreeMap::from_iter(halves);
        safetensors::serialize_to_file(&sorted, metadata, &self.out.join("model.safetensors"))?;
        fs::write(self.out.join("config.json"), serde_json::to_string_pretty(config)? + "\n")?;
        let points: Vec<String> = self.curve.iter().map(Value::to_string).collect();
        fs::write(self.out.join("curve.json"), format!("[\n{}\n]\n", points.join(",\n")))?;
        let point = self.evaluate(data)?;
        let held_out = losses(&self.network()?, &english(data, 64, N_CTX))?.mean_all()?.to_scalar::<f32>()?;
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "model_max_length": N_CTX,
        });
        fs::write(
            self.out.join("tokenizer_config.json"),
            serde_json::to_string_pretty(&tokenizer_config)? + "\n",
        )?;
        let card = self.card(data, &point, held_out.exp());
        print!("{card}");
        fs::write(self.out.join("README.md"), card)?;
        Ok(())
    }

    /// The model card: what it is, what it was trained on, what it can do.
    fn card(&self, data: &Data, point: &Value, perplexity: f32) -> String {
        let weights: usize = self.parameters.iter().map(|(_, parameter)| parameter.value.elem_count()).sum();
        let scores = |key: &str| {
            let layers = point[key].as_array().into_iter().flatten().enumerate();
            let rows = layers.map(|(layer, row)| {
                let row =
                    row.as_array().into_iter().flatten().map(|score| format!(" {:.2} |", number(score)));
                format!("| L{layer} |{}\n", row.collect::<String>())
            });
            let heads: String = (0..N_HEAD).map(|head| format!(" H{head} |")).collect();
            format!("| |{heads}\n|---|{}\n{}", "---|".repeat(N_HEAD), rows.collect::<String>())
        };
        format!(
            "# The built-in model\n\n\
             A GPT-2 of {N_LAYER} layers with {N_HEAD} heads each, width {width}, context {N_CTX}, and a byte-level BPE \
             vocabulary of {vocab} tokens: {weights} weights, stored as f16. `examples/train_built_in.rs` trained it on a \
             CPU, with seed {seed}, for {steps} steps of {batch} tokens. Hugging Face's transformers and TransformerLens \
             read it too.\n\n\
             ## Trained on\n\n\
             {train} tokens of public-domain English from Project Gutenberg; the last twentieth of each book is held out. \
             Half of each batch is English, a quarter random tokens that repeat with a period of {shortest} to {longest}, a \
             quarter passages that repeat so. The tokenizer keeps some {words} words whole that courses on attention heads \
             use.\n\n\
             ## What it can do\n\n\
             | | |\n|---|---|\n\
             | perplexity on held-out English, a token | {perplexity:.1} |\n\
             | of guessing by frequency alone | {unigram:.1} |\n\
             | loss on random tokens it never saw, first time (nats) | {first:.2} |\n\
             | the same said again | {second:.2} |\n\
             | in-context-learning score: loss late in English text minus loss early (nats) | {learning:.2} |\n\n\
             Mean attention to the previous token, by head:\n\n{previous}\n\
             Mean attention to the token after the earlier copy (induction), by head:\n\n{induction}\n\
             It is made to be looked into, not to write.\n\n\
             `curve.json` holds the same numbers through training, every {EVALUATE_EVERY} steps: it shows when induction \
             heads came, and whether the loss on repeats fell with them (Olsson et al. 2022).\n",
            width = self.parameters[0].1.value.dims()[1],
            vocab = data.vocab,
            seed = self.seed,
            steps = self.step,
            batch = self.batch_tokens,
            train = data.train.len(),
            shortest = PERIODS.start(),
            longest = PERIODS.end(),
            words = COURSE_WORDS.split_whitespace().count(),
            unigram = data.unigram_perplexity(),
            first = number(&point["loss_first_half"]),
            second = number(&point["loss_second_half"]),
            learning = number(&point["in_context_learning_score"]),
            previous = scores("previous_token"),
            induction = scores("induction"),
        )
    }
}

impl Parameter {
    /// AdamW (Loshchilov and Hutter 2019) with betas 0.9 and 0.98; matrices decay by 0.02 of the rate.
    fn update(&mut self, gradient: &Tensor, rate: f64, step: usize) -> Outcome<()> {
        let (beta1, beta2) = (0.9f64, 0.98f64);
        self.first = ((&self.first * beta1)? + (gradient * (1.0 - beta1))?)?;
        self.second = ((&self.second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        let first = (&self.first / (1.0 - beta1.powi(step as i32)))?;
        let second = (&self.second / (1.0 - beta2.powi(step as i32)))?;
        let change = (first / (second.sqrt()? + 1e-8)?)?;
        let decay = if self.value.rank() > 1 { 0.02 } else { 0.0 };
        let value = ((self.value.as_tensor() * (1.0 - rate * decay))? - (change * rate)?)?;
        self.value.set(&value.detach())?;
        Ok(())
    }
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1e4).round() / 1e4
}

fn ids(rows: &[Vec<u32>]) -> Outcome<Tensor> {
    Ok(Tensor::new(rows.to_vec(), &Device::Cpu)?)
}

fn english(data: &Data, rows: usize, len: usize) -> Vec<Vec<u32>> {
    let stride = data.held_out.len() / rows;
    let windows = (0..rows).map(|row| &data.held_out[row * stride..row * stride + len - 1]);
    windows.map(|window| std::iter::once(BOS).chain(window.iter().copied()).collect()).collect()
}

/// The loss of each prediction `[row, position - 1]`, in nats.
fn losses(network: &Decoder, rows: &[Vec<u32>]) -> Outcome<Tensor> {
    let ids = ids(rows)?;
    let last = ids.dim(1)? - 1;
    let mut tap = Logits(None);
    network.run(Start::Tokens(ids.narrow(1, 0, last)?), None, &mut tap)?;
    let logits = tap.0.ok_or("the run gave no logits")?;
    let next = ids.narrow(1, 1, last)?;
    let (rows, len, vocab) = logits.dims3()?;
    let cross_entropy = CrossEntropy { next: next.flatten_all()?.to_vec1()? };
    Ok(logits.reshape((rows * len, vocab))?.apply_op1(cross_entropy)?.reshape((rows, len))?)
}

/// The loss `[row]` of logits `[row, vocab]`, in one pass, for the logits are the largest tensor of a step.
struct CrossEntropy {
    next: Vec<u32>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (vocab, logits) = (layout.dims()[1], storage.as_slice::<f32>()?);
        let rows = logits.par_chunks(vocab).zip(&self.next);
        let losses: Vec<f32> = rows.map(|(row, &next)| log_sum_exp(row) - row[next as usize]).collect();
        Ok((CpuStorage::F32(losses), Shape::from(self.next.len())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let op = CrossEntropyGradient { next: self.next.clone(), gradient: gradient.to_vec1()? };
        Ok(Some(logits.apply_op1_no_bwd(&op)?))
    }
}

struct CrossEntropyGradient {
    next: Vec<u32>,
    gradient: Vec<f32>,
}

impl CustomOp1 for CrossEntropyGradient {
    fn name(&self) -> &'static str {
        "cross-entropy gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (vocab, logits) = (layout.dims()[1], storage.as_slice::<f32>()?);
        let mut out = vec![0f32; logits.len()];
        let rows = out
            .par_chunks_mut(vocab)
            .zip(logits.par_chunks(vocab))
            .zip(self.next.par_iter().zip(&self.gradient));
        rows.for_each(|((out, row), (&next, &gradient))| {
            let total = log_sum_exp(row);
            out.iter_mut().zip(row).for_each(|(out, x)| *out = (x - total).exp() * gradient);
            out[next as usize] -= gradient;
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    largest + row.iter().map(|x| (x - largest).exp()).sum::<f32>().ln()
}

struct Logits(Option<Tensor>);

impl Tap for Logits {
    fn wants(&self, hook: Hook) -> bool {
        hook.site() == Site::UnembedOut
    }

    fn tap(&mut self, _: Hook, logits: Tensor) -> headlight::Result<Tensor> {
        self.0 = Some(logits.clone());
        Ok(logits)
    }
}

#[derive(Default)]
struct Patterns(Vec<Tensor>);

impl Tap for Patterns {
    fn wants(&self, hook: Hook) -> bool {
        hook.site() == Site::Pattern
    }

    fn tap(&mut self, _: Hook, pattern: Tensor) -> headlight::Result<Tensor> {
        self.0.push(pattern.clone());
        Ok(pattern)
    }
}

impl Patterns {
    /// The mean attention to the key `back` positions before the query, `[layer][head]`.
    fn diagonal(&self, back: usize) -> Outcome<Vec<Vec<f64>>> {
        let layer = |pattern: &Tensor| -> Outcome<Vec<f64>> {
            let len = pattern.dim(2)?;
            let cells = (back..len).map(|query| pattern.narrow(2, query, 1)?.narrow(3, query - back, 1));
            let mean =
                Tensor::cat(&cells.collect::<Result<Vec<_>, _>>()?, 3)?.mean(3)?.squeeze(2)?.mean(0)?;
            Ok(mean.to_vec1::<f32>()?.into_iter().map(rounded).collect())
        };
        self.0.iter().map(layer).collect()
    }
}
