//! `headlight report`: what a model's heads do, as one page.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use headlight::analysis::{
    Composition, CompositionBaseline, DynamicThreshold, HeadKind, HeadScores, RepeatedTokens, causal_truth,
    composition_scores, course_project, head_scores, induction_scores, loss_on_repeats,
};
use headlight::{
    Ablation, Figure, Head, Model, Page, Result, Run, RunOptions, Section, Site, Table, View, Visualize, head,
};

use super::args::{Failure, ModelArgs, Output};
use super::sweep::cells;

/// Score every head, look at four sequences or your own, write one HTML report (what happens without a verb)
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  headlight report built-in --text \"the cat sat the cat sat\" -o report.html"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A sequence to look at in place of the four of the original project; as often as wanted
    #[arg(short, long = "text", value_name = "TEXT")]
    texts: Vec<String>,
    /// Where the report goes
    #[arg(short, long, default_value = OUT)]
    out: PathBuf,
}

const OUT: &str = "headlight-report.html";

impl Default for Args {
    fn default() -> Self {
        Args { model: ModelArgs::default(), texts: Vec::new(), out: OUT.into() }
    }
}

/// A head is said to be of a kind from this score on, as in ARENA's course.
const FOUND: f32 = 0.4;

/// The sequences of the original project.
const SEQUENCES: [&str; 4] = [
    "the cat sat on the mat",
    "the cat sat the cat sat",
    "the quick brown fox jumps over the lazy dog",
    "the quick brown fox jumps the quick brown fox jumps",
];

/// The kinds that a head's job is told by; attention to itself or to the first token is how heads rest.
const JOBS: [HeadKind; 3] = [HeadKind::Induction, HeadKind::PreviousToken, HeadKind::DuplicateToken];

pub fn run(args: Args) -> Output {
    let (model, path) = (&args.model.open()?, &args.out);
    if model.spec().stacks().len() > 1 {
        return Err(Failure::Usage(
            "the report is of models of one stack: `headlight heads`, `detect` and `ablate` take others",
        ));
    }
    let begun = Instant::now();
    // What cannot be read is told before anything is scored.
    args.texts.iter().try_for_each(|text| model.to_tokens(text.as_str()).map(drop))?;
    let repeated = RepeatedTokens::for_model(model);
    let scores = head_scores(model, &HeadKind::ALL, &repeated)?;
    let found = heads_found(&scores)?;
    let loss = loss_on_repeats(model, &repeated)?;
    let (first, second) = (loss.first_copy()?, loss.second_copy()?);

    let mut sections = vec![
        Section::Text(format!(
            "{model:?}.\n\nHow is it known what a head does? The model reads {}. Nothing about them can be known in \
             advance, but the second time round each token can be looked up: find where it stood before, and see what \
             came next. A head that does the finding and looking is an induction head (Olsson et al. 2022). A score is \
             the mean attention along one diagonal of a head's pattern: the probability, from 0 to 1, with which it \
             looks where such a head would look.",
            scores[0].dataset()
        )),
        Section::Heading("The heads found".into()),
        Section::Figure(Figure::new(vec![View::Table(found_table(&found, &scores)?)])?),
        Section::Text(format!(
            "A head is listed from a score of {FOUND} on. The others have other jobs, or rest on the first token."
        )),
        Section::Heading("Every head".into()),
    ];
    for scores in &scores {
        sections.push(Section::Figure(scores.figure()?));
    }
    sections.push(Section::Heading("Does the model use it?".into()));
    sections.push(Section::Text(format!(
        "The loss of each token of the same sequences. On the first copy the model can only guess: {first:.2} nats. On \
         the second it can look back: {second:.2} nats."
    )));
    sections.push(Section::Figure(loss.figure()?));
    sections.push(Section::Heading("Are these heads the cause?".into()));
    sections.extend(causes(model, &repeated, &found, (first, second))?);
    let mut note = None;
    if args.texts.is_empty() {
        sections.push(Section::Heading("Four sequences".into()));
        if SEQUENCES.iter().all(|text| model.to_tokens(*text).is_ok()) {
            sections.extend(four_sequences(model, &found)?);
        } else {
            note = Some("(the model has no tokenizer or too short a context for the four sequences)");
            sections.push(Section::Text(
                "This model reads no text, or too little of it, so they are left out.".into(),
            ));
        }
    } else {
        sections.push(Section::Heading("Your sequences".into()));
        let head = head_to_show(model, &found);
        sections.push(Section::Text(how_sequences_are_shown(head)));
        let texts: Vec<&str> = args.texts.iter().map(String::as_str).collect();
        let runs = model.run_with_cache(texts.as_slice())?;
        sections.extend(sequences(&runs, &texts, head)?);
    }

    Page::new(format!("What the heads of {} do", model.name()), sections).save(path)?;

    let table = Figure::new(vec![View::Table(found_table(&found, &scores)?)])?;
    let mut said = format!("{model:?}\n\n{}", table.to_text());
    let _ = writeln!(
        said,
        "\nloss on repeated random tokens: {first:.2} nats the first time, {second:.2} the second"
    );
    note.iter().for_each(|note| said += &format!("{note}\n"));
    let _ = writeln!(said, "wrote {} ({:.1} s)", path.display(), begun.elapsed().as_secs_f64());
    Ok(said)
}

/// Heads with the kind that they are of, the clearest of each kind first.
fn heads_found(scores: &[HeadScores]) -> Result<Vec<(Head, HeadKind)>> {
    let mut found = Vec::new();
    for scores in scores.iter().filter(|scores| JOBS.contains(&scores.kind())) {
        found.extend(scores.above(FOUND)?.into_iter().map(|head| (head, scores.kind())));
    }
    Ok(found)
}

fn found_table(found: &[(Head, HeadKind)], scores: &[HeadScores]) -> Result<Table> {
    let columns = ["head".to_string(), "found to be".to_string()].into_iter();
    let mut table =
        Table::new("heads found", columns.chain(scores.iter().map(|scores| scores.kind().to_string())));
    for &(head, kind) in found {
        table.push([head.to_string(), kind.to_string()].into_iter().chain(cells(head, scores)?));
    }
    if found.is_empty() {
        table.push(["none".to_string()]);
    }
    Ok(table)
}

/// What is lost without the heads found, and whether detection by attention finds the heads that matter.
fn causes(
    model: &Model,
    repeated: &RepeatedTokens,
    found: &[(Head, HeadKind)],
    (first, second): (f32, f32),
) -> Result<Vec<Section>> {
    let ids = repeated.ids(model)?;
    let reference = model.run_with_options(&ids, &RunOptions::only([Site::Z]))?;
    let mut sentences = vec![
        "Attention shows where a head looks, not whether it matters. So the heads are taken away: what each mixes from \
         the values is held at its mean over the same tokens."
            .to_string(),
    ];
    for kind in [HeadKind::Induction, HeadKind::PreviousToken] {
        let heads: Vec<Head> = found.iter().filter(|(_, of)| *of == kind).map(|(head, _)| *head).collect();
        if heads.is_empty() {
            continue;
        }
        let without = model.ablate(&heads, Ablation::Mean(&reference))?;
        let without = loss_on_repeats(&without, repeated)?.second_copy()?;
        let mut sentence = format!(
            "Without the {kind} heads {heads:?} the second copy costs {without:.2} nats in place of {second:.2}"
        );
        if second < first {
            let lost = 100.0 * (without - second) / (first - second);
            sentence += &format!(": {lost:.0} % of what the model gained from the first copy is lost");
        }
        sentences.push(sentence + ".");
    }
    let feeding = found.iter().find(|(_, kind)| *kind == HeadKind::PreviousToken).map(|(head, _)| *head);
    let fed = found.iter().filter(|(head, kind)| {
        *kind == HeadKind::Induction && feeding.is_some_and(|feeding| feeding.layer < head.layer)
    });
    let fed: Vec<Head> = fed.map(|(head, _)| *head).collect();
    if let Some(feeding) = feeding.filter(|_| !fed.is_empty()) {
        let composition = composition_scores(model, Composition::K)?;
        let scores = fed.iter().map(|head| Ok(format!("{head} {:.3}", composition.score(feeding, *head)?)));
        let CompositionBaseline { mean, std } = composition.baseline();
        sentences.push(format!(
            "One makes the other possible: what the previous-token head {feeding} writes enters the keys of the induction \
             heads (K-composition, Elhage et al. 2021). Scores: {}; heads of random weights would score {mean:.3} ± {std:.3}.",
            scores.collect::<Result<Vec<_>>>()?.join(", ")
        ));
    }
    let detection = induction_scores(model)?.detect(DynamicThreshold::default())?;
    let truth = causal_truth(model)?;
    let evaluation = detection.evaluate(&truth)?;
    sentences.push(format!(
        "Below, each head is judged by three things: does it attend like an induction head, does it copy what it attends \
         to, and does the second copy cost more without it alone? Heads that do all three are {:?}. A threshold that \
         follows the variance of each head's attention finds {:?}: {evaluation:?}.",
        truth.true_heads(),
        detection.heads()
    ));
    Ok(vec![
        Section::Text(sentences.join(" ")),
        Section::Figure(truth.figure()?),
        Section::Figure(Figure::new(detection.views()?.into_iter().skip(2).collect())?),
    ])
}

/// The clearest induction head, or else the first head of the last layer.
fn head_to_show(model: &Model, found: &[(Head, HeadKind)]) -> Head {
    let best = found.iter().find(|(_, kind)| *kind == HeadKind::Induction).map(|(head, _)| *head);
    best.unwrap_or(head(model.dims().n_layers - 1, 0))
}

fn how_sequences_are_shown(shown: Head) -> String {
    format!(
        "Layer {} is shown, with {shown} enlarged; choose another head to enlarge it. The colours of the text are the \
         loss of each token.",
        shown.layer
    )
}

/// What the layer of a head does with each sequence.
fn sequences(runs: &Run, texts: &[&str], shown: Head) -> Result<Vec<Section>> {
    let mut sections = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let run = runs.item(index)?;
        let pattern = run.pattern(shown.layer)?.renamed(format!("attention of layer {}", shown.layer));
        sections.push(Section::Heading(format!("“{text}”")));
        sections.push(Section::Figure(Figure::new(vec![
            View::SmallMultiples { values: pattern, selected: Some(shown.head) },
            View::Tokens(run.loss_per_token()?),
        ])?));
    }
    Ok(sections)
}

fn four_sequences(model: &Model, found: &[(Head, HeadKind)]) -> Result<Vec<Section>> {
    let shown = head_to_show(model, found);
    let mut sections = vec![Section::Text(format!(
        "The sequences of the original project. Two of them say everything twice: there an induction head attends to \
         the token after the earlier copy, a stripe below the diagonal. {}",
        how_sequences_are_shown(shown)
    ))];
    let runs = model.run_with_cache(SEQUENCES)?;
    sections.extend(sequences(&runs, &SEQUENCES, shown)?);
    if model.dims().n_heads > 1 {
        let published = course_project::as_published(&runs)?;
        sections.push(Section::Heading("The original's detector".into()));
        sections.push(Section::Text(format!(
            "The original project scored each sequence, not each head, and compared with half the variance of attention: \
             {:?} against its labels. Its score is 1 / tokens and its threshold at most half of that, for any model, \
             trained or random: every sequence is labelled 1.",
            published.evaluate()?
        )));
        sections.push(Section::Figure(published.figure()?));
    }
    Ok(sections)
}
