//! Trains the built-in translator: a small Marian from English to French.
//!
//! `cargo run --release --example train_translator -- --out assets/built-in-translator`
//!
//! A grammar makes the sentences, with their French and the alignment of their words, so that what the model does is known. One pair in
//! eleven of an adjective or a verb with a noun is held out: such sentences are the test. Interrupt it with Ctrl-C: the same command goes
//! on from the last checkpoint.

mod french;
mod grammar;
mod lexicon;
mod ship;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use headlight::training::{FolderOptions, TranslationTraining};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::grammar::{Grammar, Pair};

pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const N_CTX: usize = 64;
const SPECIAL: [&str; 2] = ["</s>", "<unk>"];
/// Marian's fills, and begins what is written.
const PAD: &str = "<pad>";
const SAVE_EVERY: usize = 250;
/// Batches that are made together, so that each can have sentences of about one length.
const TOGETHER: usize = 8;

#[derive(Parser)]
#[command(about = "Trains the translator that headlight ships")]
pub struct Args {
    /// Where the model, the tokenizer, the card and some held-out sentences go
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, default_value_t = 9000)]
    steps: usize,
    #[arg(long, default_value_t = 2)]
    layers: usize,
    #[arg(long, default_value_t = 4)]
    heads: usize,
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Sentences in a batch
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,
}

fn main() -> Outcome<()> {
    let args = Args::parse();
    fs::create_dir_all(&args.out)?;
    describe(&args)?;
    let options = FolderOptions {
        steps: args.steps,
        warm_up: 200,
        learning_rate: args.learning_rate,
        deviation: 0.06,
        seed: args.seed,
    };
    let mut training = TranslationTraining::new(&args.out, &options)?;
    let tokenizer = Tokenizer::from_file(args.out.join("tokenizer.json"))?;
    let state = args.out.join("training-state.safetensors");
    if state.exists() {
        training.resume(&state)?;
        println!("going on from step {}", training.steps());
    }
    let bar = ProgressBar::new(args.steps as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} steps  {elapsed} gone, {eta} left  {msg}",
    )?);
    bar.set_position(training.steps() as u64);
    let (begun, mut mean) = (Instant::now(), 0f32);
    let mut made: Option<(usize, Vec<Vec<Pair>>)> = None;
    while training.steps() < args.steps {
        let step = training.steps();
        let group = step / TOGETHER;
        let batches = match made.take() {
            Some((own, batches)) if own == group => batches,
            _ => batches(&args, group),
        };
        mean += training.step_on_tokens(&tokens(&tokenizer, &batches[step % TOGETHER])?)?;
        made = Some((group, batches));
        bar.inc(1);
        if training.steps().is_multiple_of(SAVE_EVERY) || training.steps() == args.steps {
            let summary = format!("loss {:.4}", mean / SAVE_EVERY as f32);
            mean = 0.0;
            if bar.is_hidden() {
                println!("{:>6} {:>6.0} s  {summary}", training.steps(), begun.elapsed().as_secs_f64());
            }
            bar.set_message(summary);
            training.save(&state)?;
        }
    }
    bar.finish();
    ship::ship(&args, &training)
}

/// The batches of a group of steps depend on seed and group alone, so that a resumed training is the same training.
fn batches(args: &Args, group: usize) -> Vec<Vec<Pair>> {
    let mut grammar = Grammar::new(args.seed ^ ((group as u64 + 1) << 20));
    let mut pairs: Vec<Pair> = (0..TOGETHER * args.batch).map(|_| grammar.any()).collect();
    pairs.sort_by_key(|pair| (pair.english.len(), pair.french.len()));
    let mut batches: Vec<Vec<Pair>> = pairs.chunks(args.batch).map(<[Pair]>::to_vec).collect();
    // Not the shortest first each time.
    batches.rotate_left(group % TOGETHER);
    batches.swap(0, (group / TOGETHER) % TOGETHER);
    batches
}

fn tokens(tokenizer: &Tokenizer, pairs: &[Pair]) -> Outcome<Vec<(Vec<u32>, Vec<u32>)>> {
    let ids = |text: String| {
        Ok::<_, Box<dyn Error + Send + Sync>>(tokenizer.encode(text, true)?.get_ids().to_vec())
    };
    pairs.iter().map(|pair| Ok((ids(pair.source())?, ids(pair.target())?))).collect()
}

/// Every word that the grammar has.
fn vocabulary() -> Vec<String> {
    let mut grammar = Grammar::new(0);
    let mut words = BTreeSet::new();
    for _ in 0..200_000 {
        let pair = grammar.any();
        words.extend(pair.english);
        words.extend(pair.french);
    }
    SPECIAL.iter().map(ToString::to_string).chain(words).chain([PAD.to_string()]).collect()
}

/// Writes what is trained: config and tokenizer.
fn describe(args: &Args) -> Outcome<()> {
    let vocabulary = vocabulary();
    let pad = vocabulary.len() - 1;
    let config = json!({
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": true,
        "vocab_size": vocabulary.len(),
        "d_model": args.width,
        "encoder_layers": args.layers,
        "decoder_layers": args.layers,
        "encoder_attention_heads": args.heads,
        "decoder_attention_heads": args.heads,
        "encoder_ffn_dim": 2 * args.width,
        "decoder_ffn_dim": 2 * args.width,
        "activation_function": "swish",
        "max_position_embeddings": N_CTX,
        "scale_embedding": true,
        "static_position_embeddings": true,
        "share_encoder_decoder_embeddings": true,
        "tie_word_embeddings": true,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "pad_token_id": pad,
        "eos_token_id": 0,
        "decoder_start_token_id": pad,
        "dtype": "float16",
    });
    write_json(&args.out.join("config.json"), &config)?;
    let generation = json!({
        "decoder_start_token_id": pad,
        "eos_token_id": 0,
        "pad_token_id": pad,
        "bad_words_ids": [[pad]],
        "max_length": N_CTX,
    });
    write_json(&args.out.join("generation_config.json"), &generation)?;
    let numbered = vocabulary.iter().enumerate().map(|(id, word)| (word.clone(), id as u32));
    let model = WordLevel::builder().vocab(numbered.collect()).unk_token("<unk>".into()).build()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
    let ends = TemplateProcessing::builder()
        .try_single("$A </s>")?
        .special_tokens(vec![("</s>".to_string(), 0)])
        .build()?;
    tokenizer.with_post_processor(Some(ends));
    let special = [SPECIAL[0], SPECIAL[1], PAD].map(|text| AddedToken::from(text, true));
    tokenizer.add_special_tokens(special)?;
    tokenizer.save(args.out.join("tokenizer.json"), false)?;
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": PAD,
        "model_max_length": N_CTX,
    });
    write_json(&args.out.join("tokenizer_config.json"), &tokenizer_config)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Outcome<()> {
    Ok(fs::write(path, serde_json::to_string_pretty(value)? + "\n")?)
}
