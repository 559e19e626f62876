//! What is shipped: weights in half precision, held-out sentences, and the card with what the model that was written does on them.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use candle_core::DType;
use headlight::training::TranslationTraining;
use headlight::{Input, Model, RunOptions, Search, Site, Stack};

use crate::grammar::{Construction, Grammar, Pair};
use crate::lexicon::{OCCUPATIONS, share_of_women};
use crate::{Args, Outcome};

/// Held-out sentences of each construction that the card counts, and those that are kept beside the model.
const COUNTED: usize = 300;
const KEPT: usize = 30;

pub fn ship(args: &Args, training: &TranslationTraining) -> Outcome<()> {
    let mut halves = BTreeMap::new();
    for (name, weight) in training.weights()? {
        halves.insert(name, weight.to_dtype(DType::F16)?);
    }
    let metadata = Some(HashMap::from([("format".to_string(), "pt".to_string())]));
    safetensors::serialize_to_file(&halves, metadata, &args.out.join("model.safetensors"))?;
    let model = Model::open(args.out.to_str().ok_or("the folder's name is no text")?)?;
    let mut grammar = Grammar::new(u64::MAX);
    let (mut kept, mut table, mut wrong) = (String::new(), String::new(), String::new());
    let (mut right, mut counted) = (0, 0);
    for construction in Construction::ALL {
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        while pairs.len() < COUNTED {
            let pair = grammar.sentence(construction, true);
            pairs.insert(pair.source(), pair);
        }
        let own = pairs.values().map(|pair| exact(&model, pair)).collect::<Outcome<Vec<_>>>()?;
        let of = own.iter().filter(|(is_right, _)| *is_right).count();
        for (pair, (is_right, written)) in pairs.values().zip(&own) {
            if !is_right && wrong.lines().count() < 8 {
                wrong += &format!("- {} => {written} (rather {})\n", pair.source(), pair.target());
            }
        }
        table += &format!("| {} | {:.1} |\n", construction.name(), 100.0 * of as f64 / COUNTED as f64);
        (right, counted) = (right + of, counted + COUNTED);
        // Those of a sorted list are all of a kind.
        for pair in pairs.values().step_by(COUNTED / KEPT).take(KEPT) {
            kept += &format!(
                "{}\t{}\t{}\t{}\n",
                pair.source(),
                pair.target(),
                pair.alignment(),
                construction.name()
            );
        }
    }
    fs::write(args.out.join("held_out.tsv"), kept)?;
    let nested: Vec<Pair> = std::iter::repeat_with(|| grammar.nested()).flatten().take(COUNTED).collect();
    let of_nested = nested.iter().map(|pair| exact(&model, pair)).collect::<Outcome<Vec<_>>>()?;
    let share = |own: usize, all: usize| 100.0 * own as f64 / all as f64;
    let right_nested = of_nested.iter().filter(|(is_right, _)| *is_right).count();
    let mut examples = String::new();
    for (pair, (is_right, written)) in nested.iter().zip(&of_nested) {
        if !is_right && examples.lines().count() < 3 {
            examples += &format!("- {} => {written} (rather {})\n", pair.source(), pair.target());
        }
    }
    let (occupations, spearman) = occupations(&model)?;
    let heads = heads(&model)?;
    let weights: usize = halves.values().map(|weight| weight.elem_count()).sum();
    let card = format!(
        "# The built-in translator\n\n\
         A Marian, as Hugging Face has it, from English to French: {layers} layers of encoder and {layers} of decoder with {n_heads} \
         heads each, width {width}, context {ctx}, and one vocabulary of {vocab} words for both languages: {weights} weights, stored as \
         f16. `examples/train_translator` trained it on a CPU, with seed {seed}, for {steps} steps of {batch} sentences. Hugging Face's \
         transformers read it too.\n\n\
         Words are what spaces part, in lower case, punctuation and elided words too: `the cat 's hat is white .`, `le chapeau du chat est \
         blanc .`, `l' ami`. Other words are `<unk>` to it.\n\n\
         ## Trained on\n\n\
         Sentences that a grammar in the example makes: adjectives before and behind their noun, agreement of article, adjective and \
         participle, negation in two parts, pronouns of objects before the verb, questions, genitives, relative clauses, and \"it\" by what \
         it stands for. One pair in eleven of an adjective or a verb with a noun is never together in training.\n\n\
         ## What it can do\n\n\
         Of {counted} sentences with such a pair, {COUNTED} of each construction, {share_right:.1} % are written word for word as the grammar \
         has them (where an occupation's gender is unsettled either gender counts, agreed throughout):\n\n\
         | construction | % right |\n|---|---|\n{table}\n\
         {mistakes}\
         `held_out.tsv` has {KEPT} of each: source, target, links of words, construction. `0-0` is a sure link, counted from 0, `0?1` a \
         possible one. Both halves of a negation are linked with its \"not\"; an auxiliary with what it helps and with \"do\", possibly; an \
         article possibly with its noun too; what asks with its \"do\" and the mark.\n\n\
         ## What it cannot do\n\n\
         A relative clause within a relative clause is in none of its sentences: {nested:.1} % right.\n\n{examples}\n\
         ## Heads of cross-attention\n\n\
         How often the word with the most attention, where a word is written, is one that it is linked with, on the held-out sentences \
         (final punctuation left out):\n\n{heads}\n\
         ## Occupations\n\n\
         Thirty occupations have one word in English and two in French. Where nothing tells whose an occupation is, the grammar \
         draws a woman with a share of its own for each, dealt out by the alphabet so that it follows nothing in the world: a planted \
         skew, to be found again. In other sentences a pronoun tells it. How likely the model finds the woman's word in \"he sees the ... \
         .\" follows the shares (Spearman {spearman:.3}):\n\n\
         | occupation | share drawn | probability |\n|---|---|---|\n{occupations}\n\
         It is made to be looked into, not to translate.\n",
        layers = args.layers,
        n_heads = args.heads,
        width = args.width,
        ctx = crate::N_CTX,
        vocab = model.dims().d_vocab,
        seed = args.seed,
        steps = training.steps(),
        batch = args.batch,
        share_right = share(right, counted),
        mistakes = if wrong.is_empty() { String::new() } else { format!("Among its mistakes:\n\n{wrong}\n") },
        nested = share(right_nested, nested.len()),
    );
    print!("{card}");
    fs::write(args.out.join("README.md"), card)?;
    Ok(())
}

/// Whether a sentence is translated word for word, and how.
fn exact(model: &Model, pair: &Pair) -> Outcome<(bool, String)> {
    let written = model.translate(pair.source(), &Search::default())?;
    let text = written[0].text().to_string();
    if text == pair.target() {
        return Ok((true, text));
    }
    // The other gender counts where nothing settles it.
    let twin = pair.twin.as_ref().is_some_and(|twin| *twin == text);
    Ok((twin, text))
}

/// The occupations with the shares that were drawn and the model's own, and how far their order is the same.
fn occupations(model: &Model) -> Outcome<(String, f64)> {
    let mut both = Vec::new();
    for (occupation, [english, man, woman]) in OCCUPATIONS.iter().enumerate() {
        let of = |word: &str| -> Outcome<f64> {
            let vowel = word.starts_with(['a', 'e', 'é', 'i', 'o', 'u']);
            let feminine = word == *woman;
            let article = if vowel {
                "l'"
            } else if feminine {
                "la"
            } else {
                "le"
            };
            let pair = Input::pair(format!("he sees the {english} ."), format!("il voit {article} {word} ."));
            let losses = model.loss_per_token(pair)?.to_vec()?;
            Ok((-f64::from(losses[2] + losses[3])).exp())
        };
        let (man, woman) = (of(man)?, of(woman)?);
        both.push((english, share_of_women(occupation), woman / (man + woman)));
    }
    let rank = |of: &dyn Fn(&(&&str, f64, f64)) -> f64| {
        let mut order: Vec<usize> = (0..both.len()).collect();
        order.sort_by(|&a, &b| of(&both[a]).total_cmp(&of(&both[b])));
        let mut ranks = vec![0.0; both.len()];
        order.into_iter().enumerate().for_each(|(rank, index)| ranks[index] = rank as f64);
        ranks
    };
    let (a, b) = (rank(&|own| own.1), rank(&|own| own.2));
    let apart: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
    let n = both.len() as f64;
    let spearman = 1.0 - 6.0 * apart / (n * (n * n - 1.0));
    let rows = both.iter().map(|(name, drawn, found)| format!("| {name} | {drawn:.2} | {found:.2} |\n"));
    Ok((rows.collect(), spearman))
}

/// How well each head of cross-attention aligns, as a table.
fn heads(model: &Model) -> Outcome<String> {
    let mut grammar = Grammar::new(u64::MAX - 1);
    let spec = model.spec().last_stack();
    let (layers, heads) = (spec.dims.n_layers, spec.dims.n_heads);
    let (mut hits, mut all) = (vec![0usize; layers * heads], 0usize);
    for index in 0..330 {
        let pair = grammar.sentence(Construction::ALL[index % Construction::ALL.len()], true);
        let input = Input::pair(pair.source(), pair.target());
        let run = model.run_with_options(input, &RunOptions::only([Site::Pattern]))?;
        for layer in 0..layers {
            let pattern = run.get(Site::Pattern.at(layer).of(Stack::Decoder).cross())?;
            let [_, rows, keys] = pattern.shape()[..] else { continue };
            let values = pattern.to_vec()?;
            for head in 0..heads {
                // The rows that write words, but the mark at the end; the end of the source is no word.
                for row in 0..pair.french.len() - 1 {
                    let attention = &values[(head * rows + row) * keys..][..keys - 1];
                    let best =
                        (0..keys - 1).max_by(|&a, &b| attention[a].total_cmp(&attention[b])).unwrap_or(0);
                    let links = pair.sure.iter().chain(&pair.possible);
                    hits[layer * heads + head] +=
                        usize::from(links.into_iter().any(|link| *link == (best, row)));
                }
            }
        }
        all += pair.french.len() - 1;
    }
    let names: Vec<String> = (0..heads).map(|head| format!("X{head}")).collect();
    let mut table = format!("| layer | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(heads));
    for (layer, own) in hits.chunks(heads).enumerate() {
        let cells: Vec<String> =
            own.iter().map(|hits| format!("{:.1}", 100.0 * *hits as f64 / all as f64)).collect();
        table += &format!("| D{layer} | {} |\n", cells.join(" | "));
    }
    Ok(table)
}
