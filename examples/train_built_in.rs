//! Trains the built-in model: a small GPT-2 that grows previous-token heads and induction heads.
//!
//! `cargo run --release --example train_built_in -- --text FOLDER --out assets/built-in`
//!
//! The folder holds plain text, one paragraph a line. Half of each batch is English, a quarter is random tokens
//! that repeat, a quarter is passages that repeat, with a period of 8 to 64 tokens; the last part of the training
//! is on longer inputs. Interrupt it with Ctrl-C: the same command goes on from the last checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::DType;
use clap::Parser;
use headlight::training::{Training, TrainingOptions, TrainingPoint};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
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

    let options = options(&args);
    let mut training = Training::new(&options)?;
    let english = data.english(16, N_CTX / 2);
    training.evaluate(&english)?;
    let state = args.out.join("training-state.safetensors");
    if state.exists() {
        training.resume(&state)?;
        println!("going on from step {}", training.steps());
    }
    let bar = ProgressBar::new(args.steps as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} steps  {elapsed} gone, {eta} left  {msg}",
    )?);
    bar.set_position(training.steps() as u64);
    let begun = Instant::now();
    while training.steps() < args.steps {
        let loss = training.step_on(&batch(&args, &data, training.steps()))?;
        bar.inc(1);
        if training.steps().is_multiple_of(EVALUATE_EVERY) {
            training.evaluate(&english)?;
            let summary = summary(loss, last(&training)?);
            if bar.is_hidden() {
                println!("{:>6} {:>6.0} s  {summary}", training.steps(), begun.elapsed().as_secs_f64());
            }
            bar.set_message(summary);
        }
        if training.steps().is_multiple_of(SAVE_EVERY) || training.steps() == args.steps {
            training.save(&state)?;
        }
    }
    bar.finish();
    training.evaluate(&english)?;
    ship(&args, &data, &training, &options)
}

fn options(args: &Args) -> TrainingOptions {
    TrainingOptions {
        n_layers: N_LAYER,
        n_heads: N_HEAD,
        d_model: args.width,
        d_mlp: 4 * args.width,
        d_vocab: args.vocab,
        n_ctx: N_CTX,
        batch: args.batch_tokens / N_CTX,
        steps: args.steps,
        warm_up: 200,
        learning_rate: args.learning_rate,
        evaluate_every: EVALUATE_EVERY,
        seed: args.seed,
    }
}

/// The batch of a step depends on seed and step alone, so that a resumed training is the same training.
fn batch(args: &Args, data: &Data, step: usize) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed ^ ((step as u64 + 1) << 20));
    let len = if step < args.steps * 7 / 10 { N_CTX / 2 } else { N_CTX };
    data.batch(args.batch_tokens / len, len, &mut rng)
}

fn last(training: &Training) -> Outcome<&TrainingPoint> {
    Ok(training.curve().points().last().ok_or("the training was never evaluated")?)
}

fn summary(loss: f32, point: &TrainingPoint) -> String {
    let largest = point.induction.iter().flatten().copied().fold(0.0, f32::max);
    let (first, second) = (point.loss_first_copy, point.loss_second_copy);
    format!("loss {loss:.2}  repeats {first:.2} -> {second:.2}  induction {largest:.2}")
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

    /// Windows of held-out English, BOS first.
    fn english(&self, rows: usize, len: usize) -> Vec<Vec<u32>> {
        let stride = self.held_out.len() / rows;
        let windows = (0..rows).map(|row| &self.held_out[row * stride..row * stride + len - 1]);
        windows.map(|window| std::iter::once(BOS).chain(window.iter().copied()).collect()).collect()
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

/// Writes what is shipped: weights in half precision, config, card and curve.
fn ship(args: &Args, data: &Data, training: &Training, options: &TrainingOptions) -> Outcome<()> {
    let mut halves = BTreeMap::new();
    for (name, weight) in training.weights()? {
        halves.insert(name, weight.to_dtype(DType::F16)?);
    }
    let metadata = Some(HashMap::from([("format".to_string(), "pt".to_string())]));
    safetensors::serialize_to_file(&halves, metadata, &args.out.join("model.safetensors"))?;
    let mut config: Value = serde_json::from_str(&options.config_json())?;
    config["dtype"] = json!("float16");
    write_json(&args.out.join("config.json"), &config)?;
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "model_max_length": N_CTX,
    });
    write_json(&args.out.join("tokenizer_config.json"), &tokenizer_config)?;
    fs::write(args.out.join("curve.json"), training.curve().to_json()?)?;
    let weights = halves.values().map(|weight| weight.elem_count()).sum();
    let card = card(args, data, last(training)?, weights, perplexity(data, training)?);
    print!("{card}");
    fs::write(args.out.join("README.md"), card)?;
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Outcome<()> {
    Ok(fs::write(path, serde_json::to_string_pretty(value)? + "\n")?)
}

/// On held-out English, a token.
fn perplexity(data: &Data, training: &Training) -> Outcome<f32> {
    let model = training.model()?;
    let windows = data.english(64, N_CTX);
    let mut sum = 0.0;
    for window in &windows {
        sum += model.loss(window)?;
    }
    Ok((sum / windows.len() as f32).exp())
}

/// The model card: what it is, what it was trained on, what it can do.
fn card(args: &Args, data: &Data, point: &TrainingPoint, weights: usize, perplexity: f32) -> String {
    let scores = |layers: &[Vec<f32>]| {
        let rows = layers.iter().enumerate().map(|(layer, row)| {
            let row = row.iter().map(|score| format!(" {score:.2} |"));
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
        width = args.width,
        vocab = data.vocab,
        seed = args.seed,
        steps = point.step,
        batch = args.batch_tokens,
        train = data.train.len(),
        shortest = PERIODS.start(),
        longest = PERIODS.end(),
        words = COURSE_WORDS.split_whitespace().count(),
        unigram = data.unigram_perplexity(),
        first = point.loss_first_copy,
        second = point.loss_second_copy,
        learning = point.in_context_learning_score,
        previous = scores(&point.previous_token),
        induction = scores(&point.induction),
    )
}
