//! Encoders themselves: what their cards, and the tests and documentation of transformers, publish of them.
//!
//! They need the models: in the hub's cache or fetched into it, or folders of their names in one that HEADLIGHT_ENCODERS names.
//! HEADLIGHT_SST2 names GLUE's `dev.tsv` of SST-2.

use headlight::Result;
use headlight::prelude::*;

fn open(name: &str, [n_layers, n_heads, d_model, d_vocab]: [usize; 4]) -> Model {
    let found = std::env::var("HEADLIGHT_ENCODERS").map_or(name.into(), |folder| format!("{folder}/{name}"));
    let model = Model::open(&found).unwrap_or_else(|error| {
        panic!(
            "{name} is needed, and cannot be opened. HEADLIGHT_ENCODERS names the folder that its own is in.\n{error}"
        )
    });
    let dims = model.dims();
    assert_eq!(
        (dims.n_layers, dims.n_heads, dims.d_model, dims.d_vocab),
        (n_layers, n_heads, d_model, d_vocab),
        "this is not {name}"
    );
    model
}

/// The ids that transformers' tests give to models of BERT's vocabulary (`test_inference_no_head_absolute_embedding` in
/// `tests/models/bert` and `tests/models/distilbert`), with an attention mask that hides the first.
const OF_BERT: [u32; 11] = [0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2];

/// Those that they give to RoBERTa (`tests/models/roberta`), with no mask.
const OF_ROBERTA: [u32; 11] = [0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2];

/// The model with a mask that hides the first token, from itself too.
fn first_hidden(model: &Model) -> Result<Model> {
    let dims = model.dims();
    let edge = |layer, of, query| AttentionEdge { head: head(layer, of), query, key: 0 };
    let heads = (0..dims.n_layers).flat_map(|layer| (0..dims.n_heads).map(move |of| (layer, of)));
    let edges = heads.flat_map(|(layer, of)| (0..OF_BERT.len()).map(move |query| edge(layer, of, query)));
    model.knock_out(&edges.collect::<Vec<_>>())
}

fn last_states(model: &Model) -> Hook {
    Site::NormalizedResidPost.at(model.dims().n_layers - 1)
}

/// What a model is read out by.
fn read_out(model: &Model) -> Hook {
    let hooks = model.hooks();
    *hooks.last().expect("a hook")
}

/// Three positions and three entries of each, beginning at the same number. They are held as near as transformers holds itself
/// (`torch.allclose(atol=1e-4)`, whose relative tolerance is 1e-5).
fn agree(model: &Model, ids: [u32; 11], hook: Hook, first: usize, published: [[f64; 3]; 3]) -> Result<()> {
    let run = model.run_with_options(ids, &RunOptions::only([hook.site()]))?;
    let found = run.get(hook)?;
    for (position, row) in published.iter().enumerate() {
        for (entry, number) in row.iter().enumerate() {
            let at = [first + position, first + entry];
            near(&format!("{hook} at {at:?}"), f64::from(found.value(&at)?), *number);
        }
    }
    Ok(())
}

fn near(what: &str, found: f64, published: f64) {
    assert!(
        (found - published).abs() <= 1e-4 + 1e-5 * published.abs(),
        "{what}: {found}, published {published}"
    );
}

#[test]
#[ignore = "it needs bert-base-uncased's weights"]
fn bert_base_uncased() -> Result<()> {
    let model = first_hidden(&open("bert-base-uncased", [12, 12, 768, 30522]))?;
    let published = [[0.4249, 0.1008, 0.7531], [0.3771, 0.1188, 0.7467], [0.4152, 0.1098, 0.7108]];
    agree(&model, OF_BERT, last_states(&model), 1, published)
}

#[test]
#[ignore = "it needs distilbert-base-uncased's weights"]
fn distilbert_base_uncased() -> Result<()> {
    let model = first_hidden(&open("distilbert-base-uncased", [6, 12, 768, 30522]))?;
    let published = [[-0.1639, 0.3299, 0.1648], [-0.1746, 0.3289, 0.1710], [-0.1884, 0.3357, 0.1810]];
    agree(&model, OF_BERT, last_states(&model), 1, published)
}

#[test]
#[ignore = "it needs roberta-base's weights"]
fn roberta_base() -> Result<()> {
    let model = open("roberta-base", [12, 12, 768, 50265]);
    let published = [[-0.0231, 0.0782, 0.0074], [-0.1854, 0.0540, -0.0175], [0.0548, 0.0799, 0.1687]];
    agree(&model, OF_ROBERTA, last_states(&model), 0, published)?;
    let published = [[33.8802, -4.3103, 22.7761], [4.6539, -2.8098, 13.6253], [1.8228, -3.6898, 8.8600]];
    agree(&model, OF_ROBERTA, read_out(&model), 0, published)
}

#[test]
#[ignore = "it needs roberta-large-mnli's weights"]
fn roberta_large_mnli() -> Result<()> {
    let model = open("roberta-large-mnli", [24, 16, 1024, 50265]);
    let logits = model.run_with_cache(OF_ROBERTA)?.get(Site::ClassLogits)?.to_vec()?;
    assert_eq!(logits.len(), 3);
    for (found, published) in logits.into_iter().zip([-0.9469, 0.3913, 0.5118]) {
        near("a class's logit", f64::from(found), published);
    }
    Ok(())
}

const SST2: &str = "distilbert-base-uncased-finetuned-sst-2-english";

/// Its card has what it makes of two countries, the quick tour of transformers what its pipeline says of two sentences.
#[test]
#[ignore = "it needs the weights of distilbert-base-uncased-finetuned-sst-2-english"]
fn sentences_of_the_card_and_of_the_quick_tour() -> Result<()> {
    let model = open(SST2, [6, 12, 768, 30522]);
    let published = [
        ("This film was filmed in France", "POSITIVE", 0.89, 2),
        ("This film was filmed in Afghanistan", "POSITIVE", 0.08, 2),
        ("We are very happy to show you the 🤗 Transformers library.", "POSITIVE", 0.9998, 4),
        ("We hope you don't hate it.", "NEGATIVE", 0.5309, 4),
    ];
    let classes = model.classify(published.map(|(text, ..)| text))?;
    for (index, (text, class, probability, digits)) in published.into_iter().enumerate() {
        let found = f64::from(classes.of(class)?[index]);
        // Half of the last digit, and what rounding in f32 may turn.
        let apart = (found - probability).abs();
        assert!(
            apart <= 0.5 * 0.1f64.powi(digits) + 1e-5,
            "{text:?}: {class} {found}, published {probability}"
        );
    }
    Ok(())
}

/// The evaluation that its card has as verified: accuracy 0.91055, precision 0.89783 and recall 0.93018 of GLUE's 872 sentences.
#[test]
#[ignore = "it needs the weights of distilbert-base-uncased-finetuned-sst-2-english, and HEADLIGHT_SST2 must name GLUE's file"]
fn sst2_as_its_card_has_it() -> Result<()> {
    let file = std::env::var("HEADLIGHT_SST2").expect("HEADLIGHT_SST2 names GLUE's dev.tsv of SST-2");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("sentence\tlabel"), "{file}");
    let (sentences, labels): (Vec<&str>, Vec<&str>) =
        lines.map(|line| line.rsplit_once('\t').expect("a sentence, a tab and a label")).unzip();
    assert_eq!(sentences.len(), 872, "{file}");
    let classes = open(SST2, [6, 12, 768, 30522]).classify(sentences)?;
    let mut counts = [[0; 2]; 2];
    for (best, label) in classes.best()?.into_iter().zip(&labels) {
        let label: usize = label.parse().expect("a label is 0 or 1");
        counts[label][usize::from(best == "POSITIVE")] += 1;
    }
    println!("{} of {} are right", counts[0][0] + counts[1][1], labels.len());
    // 794 / 872, 413 / 460 and 413 / 444.
    assert_eq!(counts, [[381, 47], [31, 413]]);
    Ok(())
}
