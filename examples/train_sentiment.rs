//! Trains the built-in classifier: a small BERT that tells whether a review is positive or negative.
//!
//! `cargo run --release --example train_sentiment -- --out assets/built-in-sentiment`
//!
//! A grammar below makes the reviews, so that what each is right about is known: a clause has the polarity of its adjective, noun or verb;
//! "not", "no", "never" and "without" turn it, two of them turn it back, and of what "but" or "although" joins, the main point counts. One
//! review in twenty is held out, by a hash of its text. Interrupt it with Ctrl-C: the same command goes on from the last checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::DType;
use clap::Parser;
use headlight::Model;
use headlight::training::{ClassifierTraining, FolderOptions};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const N_CTX: usize = 64;
const CLASSES: [&str; 2] = ["negative", "positive"];
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const PUNCTUATION: [&str; 4] = [".", ",", "!", "'"];
const SAVE_EVERY: usize = 200;
/// Held-out reviews of each construction that the card counts, and those that are kept beside the model.
const COUNTED: usize = 500;
const KEPT: usize = 40;

#[derive(Parser)]
#[command(about = "Trains the classifier of sentiment that headlight ships")]
struct Args {
    /// Where the model, the tokenizer, the card and some held-out reviews go
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, default_value_t = 3000)]
    steps: usize,
    #[arg(long, default_value_t = 2)]
    layers: usize,
    #[arg(long, default_value_t = 4)]
    heads: usize,
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// Reviews in a batch
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
        deviation: 0.05,
        seed: args.seed,
    };
    let mut training = ClassifierTraining::new(&args.out, &options)?;
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
    while training.steps() < args.steps {
        mean += training.step_on_tokens(&batch(&args, &tokenizer, training.steps())?)?;
        bar.inc(1);
        if training.steps().is_multiple_of(SAVE_EVERY) || training.steps() == args.steps {
            let summary = format!("loss {:.3}", mean / SAVE_EVERY as f32);
            mean = 0.0;
            if bar.is_hidden() {
                println!("{:>6} {:>6.0} s  {summary}", training.steps(), begun.elapsed().as_secs_f64());
            }
            bar.set_message(summary);
            training.save(&state)?;
        }
    }
    bar.finish();
    ship(&args, &training)
}

/// A clause or a review, with whether it is positive.
#[derive(Clone)]
struct Said {
    text: String,
    positive: bool,
}

/// What the grammar makes, from the plainest on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Construction {
    Plain,
    Intensified,
    Negated,
    TwiceNegated,
    Conceded,
}

impl Construction {
    const ALL: [Construction; 5] = [
        Construction::Plain,
        Construction::Intensified,
        Construction::Negated,
        Construction::TwiceNegated,
        Construction::Conceded,
    ];

    fn name(self) -> &'static str {
        match self {
            Construction::Plain => "plain",
            Construction::Intensified => "intensifier",
            Construction::Negated => "negation",
            Construction::TwiceNegated => "double negation",
            Construction::Conceded => "concession",
        }
    }
}

/// Words of either polarity: the negative ones first.
type Pair = [&'static str; 2];

const ADJECTIVES: Pair = [
    "bad terrible awful dull boring weak clumsy silly tedious flat dreadful lifeless annoying poor horrible stupid shallow ugly \
     confusing predictable bland pointless painful lazy cheap tiresome forgettable dire",
    "good great wonderful brilliant superb charming moving funny clever gripping fresh beautiful delightful touching enjoyable fine \
     excellent lovely smart memorable elegant powerful warm original perfect thrilling witty stunning",
];
const NOUNS: Pair = [
    "noise nonsense clutter padding boredom pretence confusion cruelty gloom laziness",
    "charm wit heart warmth energy skill imagination depth style grace",
];
const PAST: Pair = ["hated disliked regretted loathed resented", "loved enjoyed liked admired adored"];
const BASE: Pair = ["hate dislike regret loathe resent", "love enjoy like admire adore"];
const INTENSIFIERS: &str = "very really truly so extremely utterly remarkably deeply";
/// Words that stand where "not" could, and turn nothing.
const ADVERBS: &str = "surely often perhaps simply";
const ASPECTS: &str = "film movie plot story acting cast script dialogue music score ending direction pacing humour camera sound picture \
    drama comedy sequel hero villain scenery opening finale";
const DETERMINERS: &str = "the this";
const KINDS: &str = "film movie drama comedy sequel picture story";
const FILLERS: [&str; 16] = [
    "i saw it on monday",
    "i saw it with my sister",
    "my brother came along",
    "it lasts two hours",
    "the cinema was full",
    "it is set in paris",
    "it is set in london in winter",
    "the film is about a doctor and his dog",
    "the story is about two friends",
    "it was made in france",
    "we watched it at home",
    "we watched it after dinner",
    "it is the second part of three",
    "it came out in spring",
    "a friend told me about it",
    "the hero is a young teacher",
];

struct Grammar {
    rng: ChaCha8Rng,
}

impl Grammar {
    fn new(seed: u64) -> Grammar {
        Grammar { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn word(&mut self, words: &'static str) -> &'static str {
        let all: Vec<&str> = words.split_whitespace().collect();
        all[self.rng.random_range(0..all.len())]
    }

    fn of(&mut self, words: Pair, positive: bool) -> &'static str {
        self.word(words[usize::from(positive)])
    }

    fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    fn aspect(&mut self) -> String {
        format!("{} {}", self.word(DETERMINERS), self.word(ASPECTS))
    }

    fn verb(&mut self) -> &'static str {
        self.word("is was")
    }

    /// An adjective, with what strengthens it.
    fn adjective(&mut self, positive: bool, intensified: bool) -> String {
        let adjective = self.of(ADJECTIVES, positive);
        match intensified {
            true => format!("{} {adjective}", self.word(INTENSIFIERS)),
            false if self.chance(0.15) => format!("{} {adjective}", self.word(ADVERBS)),
            false => adjective.into(),
        }
    }

    /// A clause in which nothing turns the polarity.
    fn plain(&mut self, positive: bool, intensified: bool) -> String {
        let (aspect, verb) = (self.aspect(), self.verb());
        match self.rng.random_range(0..if intensified { 4 } else { 7 }) {
            0 => format!("{aspect} {verb} {}", self.adjective(positive, intensified)),
            1 => format!("i found {aspect} {}", self.adjective(positive, intensified)),
            2 => format!("this {verb} a {} {}", self.adjective(positive, intensified), self.word(KINDS)),
            3 => format!("i would say that {aspect} {verb} {}", self.adjective(positive, intensified)),
            4 => format!("i {} {aspect}", self.of(PAST, positive)),
            5 => format!("{aspect} has {}", self.of(NOUNS, positive)),
            _ => format!("there is {} in {aspect}", self.of(NOUNS, positive)),
        }
    }

    /// A clause with one word that turns the polarity.
    fn negated(&mut self, positive: bool) -> String {
        let (aspect, verb, turned) = (self.aspect(), self.verb(), !positive);
        let intensified = self.chance(0.2);
        match self.rng.random_range(0..11) {
            0 | 1 => format!("{aspect} {verb} not {}", self.adjective(turned, intensified)),
            2 => format!("{aspect} {verb}n't {}", self.adjective(turned, intensified)),
            3 => format!("{aspect} {verb} never {}", self.adjective(turned, intensified)),
            4 => format!("i did not {} {aspect}", self.of(BASE, turned)),
            5 => format!("i didn't find {aspect} {}", self.adjective(turned, intensified)),
            6 => format!("{aspect} has no {}", self.of(NOUNS, turned)),
            7 => format!("there is no {} in {aspect}", self.of(NOUNS, turned)),
            8 => format!("{aspect} {verb} without {}", self.of(NOUNS, turned)),
            9 => format!("this {verb} not a {} {}", self.adjective(turned, intensified), self.word(KINDS)),
            _ => format!("i would not say that {aspect} {verb} {}", self.adjective(turned, intensified)),
        }
    }

    /// A clause with two words that turn the polarity.
    fn twice_negated(&mut self, positive: bool) -> String {
        let (aspect, verb) = (self.aspect(), self.verb());
        match self.rng.random_range(0..6) {
            0 => format!("{aspect} {verb} not without {}", self.of(NOUNS, positive)),
            1 => format!("{aspect} {verb} never without {}", self.of(NOUNS, positive)),
            2 => format!("i would not say that {aspect} {verb} not {}", self.adjective(positive, false)),
            3 => format!("i can not say that i did not {} {aspect}", self.of(BASE, positive)),
            4 => format!("i would not say that {aspect} has no {}", self.of(NOUNS, positive)),
            _ => format!("nobody can say that {aspect} {verb} not {}", self.adjective(positive, false)),
        }
    }

    fn clause(&mut self, positive: bool) -> String {
        match self.rng.random_range(0..8) {
            0..=3 => self.plain(positive, false),
            4 => self.plain(positive, true),
            5 | 6 => self.negated(positive),
            _ => self.twice_negated(positive),
        }
    }

    /// A main point, and what it goes against.
    fn conceded(&mut self, positive: bool) -> String {
        let main = self.clause(positive);
        // Mostly what is conceded goes the other way; now and then it doesn't, so that it says nothing by itself.
        let turned = if self.chance(0.85) { !positive } else { positive };
        let other = self.clause(turned);
        match self.rng.random_range(0..5) {
            0 | 1 => format!("{other} , but {main}"),
            2 => format!("although {other} , {main}"),
            3 => format!("{main} , although {other}"),
            _ => format!("despite the {} , {main}", self.of(NOUNS, turned)),
        }
    }

    fn review(&mut self, construction: Construction) -> Said {
        let positive = self.chance(0.5);
        let mut text = match construction {
            Construction::Plain if self.chance(0.25) => {
                format!("{} and {}", self.clause(positive), self.clause(positive))
            }
            Construction::Plain => self.plain(positive, false),
            Construction::Intensified => self.plain(positive, true),
            Construction::Negated => self.negated(positive),
            Construction::TwiceNegated => self.twice_negated(positive),
            Construction::Conceded => self.conceded(positive),
        };
        let end = self.word(". . . !");
        if self.chance(0.8) {
            text = format!("{text} {end}");
        }
        if self.chance(0.3) {
            let filler = FILLERS[self.rng.random_range(0..FILLERS.len())];
            text = match self.chance(0.5) {
                true => format!("{filler} . {text}"),
                false => format!("{text} {filler} ."),
            };
        }
        // As one writes.
        Said { text: text.replace(" ,", ",").replace(" .", ".").replace(" !", "!"), positive }
    }

    /// A review that is held out, or one that is not.
    fn review_of(&mut self, construction: Construction, held_out: bool) -> Said {
        loop {
            let review = self.review(construction);
            if hash(&review.text).is_multiple_of(20) == held_out {
                return review;
            }
        }
    }
}

/// FNV-1a, of 64 bits.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn class(positive: bool) -> &'static str {
    CLASSES[usize::from(positive)]
}

/// The batch of a step depends on seed and step alone, so that a resumed training is the same training.
fn batch(args: &Args, tokenizer: &Tokenizer, step: usize) -> Outcome<Vec<(Vec<u32>, &'static str)>> {
    let mut grammar = Grammar::new(args.seed ^ ((step as u64 + 1) << 20));
    let mut all = Vec::new();
    for _ in 0..args.batch {
        let share: f64 = grammar.rng.random();
        let construction = match share {
            ..0.2 => Construction::Plain,
            ..0.3 => Construction::Intensified,
            ..0.5 => Construction::Negated,
            ..0.65 => Construction::TwiceNegated,
            _ => Construction::Conceded,
        };
        let review = grammar.review_of(construction, false);
        let mut ids = tokenizer.encode(review.text.as_str(), true)?.get_ids().to_vec();
        // It must bear words that it does not know, and such as are masked.
        if grammar.chance(0.15) {
            let last = ids.len() - 1;
            for id in &mut ids[1..last] {
                if grammar.chance(0.15) {
                    let by = if grammar.chance(0.5) { "[UNK]" } else { "[MASK]" };
                    *id = tokenizer.token_to_id(by).ok_or("no such token")?;
                }
            }
        }
        all.push((ids, class(review.positive)));
    }
    Ok(all)
}

/// Every word that the grammar has.
fn vocabulary() -> Vec<String> {
    let mut words = BTreeSet::new();
    let mut grammar = Grammar::new(0);
    for construction in Construction::ALL {
        for _ in 0..20_000 {
            let text = grammar.review(construction).text;
            let split = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
            words.extend(split.map(str::to_string));
        }
    }
    SPECIAL.iter().chain(&PUNCTUATION).map(ToString::to_string).chain(words).collect()
}

/// Writes what is trained: config and tokenizer.
fn describe(args: &Args) -> Outcome<()> {
    let vocabulary = vocabulary();
    let config = json!({
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": vocabulary.len(),
        "hidden_size": args.width,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "intermediate_size": 2 * args.width,
        "hidden_act": "gelu",
        "max_position_embeddings": N_CTX,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
        "id2label": {"0": CLASSES[0], "1": CLASSES[1]},
        "label2id": {CLASSES[0]: 0, CLASSES[1]: 1},
        "dtype": "float16",
    });
    write_json(&args.out.join("config.json"), &config)?;
    let vocab = args.out.join("vocab.txt");
    fs::write(&vocab, vocabulary.join("\n") + "\n")?;
    let model = WordPiece::from_file(&vocab.to_string_lossy()).unk_token("[UNK]".into()).build()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, None, true)))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let special = |text: &str| -> Outcome<(String, u32)> {
        Ok((text.into(), tokenizer.token_to_id(text).ok_or("a special token is missing")?))
    };
    let (sep, cls) = (special("[SEP]")?, special("[CLS]")?);
    tokenizer.with_post_processor(Some(BertProcessing::new(sep, cls)));
    tokenizer.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    tokenizer.add_special_tokens(SPECIAL.map(|text| AddedToken::from(text, true)))?;
    tokenizer.save(args.out.join("tokenizer.json"), false)?;
    let tokenizer_config = json!({
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": true,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "model_max_length": N_CTX,
    });
    write_json(&args.out.join("tokenizer_config.json"), &tokenizer_config)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Outcome<()> {
    Ok(fs::write(path, serde_json::to_string_pretty(value)? + "\n")?)
}

/// Writes what is shipped: weights in half precision, held-out reviews, and the card with what the model that was written does on them.
fn ship(args: &Args, training: &ClassifierTraining) -> Outcome<()> {
    let mut halves = BTreeMap::new();
    for (name, weight) in training.weights()? {
        halves.insert(name, weight.to_dtype(DType::F16)?);
    }
    let metadata = Some(HashMap::from([("format".to_string(), "pt".to_string())]));
    safetensors::serialize_to_file(&halves, metadata, &args.out.join("model.safetensors"))?;
    let model = Model::open(args.out.to_str().ok_or("the folder's name is no text")?)?;
    let mut grammar = Grammar::new(u64::MAX);
    let (mut kept, mut table, mut wrong, mut right) = (String::new(), String::new(), String::new(), 0);
    for construction in Construction::ALL {
        let mut texts = BTreeMap::new();
        while texts.len() < COUNTED {
            let review = grammar.review_of(construction, true);
            texts.insert(review.text, review.positive);
        }
        let classes = model.classify(texts.keys().cloned().collect::<Vec<_>>())?;
        let mut own = 0;
        for ((text, positive), found) in texts.iter().zip(classes.best()?) {
            own += usize::from(found == class(*positive));
            if found != class(*positive) && wrong.lines().count() < 8 {
                wrong += &format!("- {text} ({})\n", class(*positive));
            }
        }
        right += own;
        // Those of a sorted list are all of a kind.
        let apart = texts.iter().step_by(COUNTED / KEPT).take(KEPT);
        kept.extend(
            apart.map(|(text, positive)| format!("{}\t{}\t{text}\n", class(*positive), construction.name())),
        );
        let share = 100.0 * own as f64 / COUNTED as f64;
        table += &format!("| {} | {share:.1} |\n", construction.name());
    }
    fs::write(args.out.join("held_out.tsv"), kept)?;
    let all = Construction::ALL.len() * COUNTED;
    let weights: usize = halves.values().map(|weight| weight.elem_count()).sum();
    let card = format!(
        "# The built-in classifier of sentiment\n\n\
         A BERT of {layers} layers with {heads} heads each, width {width}, context {N_CTX}, and a WordPiece vocabulary of {vocab} \
         words: {weights} weights, stored as f16. It tells whether a review of a film is positive or negative. \
         `examples/train_sentiment.rs` trained it on a CPU, with seed {seed}, for {steps} steps of {batch} reviews. Hugging Face's \
         transformers read it too.\n\n\
         ## Trained on\n\n\
         Reviews that a grammar in the example makes. A clause is as positive as its adjective, noun or verb; \"not\", \"n't\", \"no\", \
         \"never\" and \"without\" turn it, two of them turn it back; of what \"but\", \"although\" or \"despite\" joins, the main point \
         counts. Sarcasm is left out, and so is whatever the grammar has no words for: other words are [UNK] to it. One review in twenty \
         is held out, by a hash of its text.\n\n\
         ## What it can do\n\n\
         Of {all} held-out reviews, {COUNTED} of each construction, {share:.1} % right:\n\n\
         | construction | % right |\n|---|---|\n{table}\n\
         `held_out.tsv` has {KEPT} of each. {mistakes}\
         It is made to be looked into, not to judge films.\n",
        layers = args.layers,
        heads = args.heads,
        width = args.width,
        vocab = model.dims().d_vocab,
        seed = args.seed,
        steps = training.steps(),
        batch = args.batch,
        share = 100.0 * right as f64 / all as f64,
        mistakes = if wrong.is_empty() { String::new() } else { format!("Among its mistakes:\n\n{wrong}\n") },
    );
    print!("{card}");
    fs::write(args.out.join("README.md"), card)?;
    Ok(())
}
