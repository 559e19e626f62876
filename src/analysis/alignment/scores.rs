//! Which heads of cross-attention align the words of a translation, by their attention and by cause.

use std::fmt;

use crate::analysis::alignment::cause::{Cut, caused};
use crate::analysis::alignment::gold::WordAlignment;
use crate::analysis::alignment::sentence::{AlignedRow, Sentence, WordMatrix, cross_heads};
use crate::analysis::alignment::spec::{AlignmentSpec, FIRST, OF_ALL, OF_CAUSED, OF_HEAD};
use crate::analysis::head_grid::HeadGrid;
use crate::analysis::sweep::part::{RowRange, RowSink, RowSum, SweepPart, SweepSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Stack};
use crate::model::input::Input;
use crate::model::model::Model;
use crate::named::ValueKind;
use crate::progress::Progress;
use crate::view::{Table, View, Visualize};

/// How [`alignment_scores`] judges heads.
#[derive(Clone, Debug, Default)]
pub struct AlignmentOptions {
    /// The alignment of each pair, where it is known. Without it heads are judged by the causal alignment of all heads together.
    pub gold: Option<Vec<WordAlignment>>,
    /// Of which heads edges are cut.
    pub causes: Causes,
}

/// Of which heads edges are cut one by one. Each takes as many runs of a pair as it has pairs of words, twice: in that head alone, and in all
/// but that one; and all heads together as many again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Causes {
    /// Of none.
    None,
    /// Of so many that align best by their attention.
    #[default]
    BestFive,
    /// Of these.
    Heads(Vec<Head>),
    /// Of all: thousands of runs of a pair.
    All,
}

/// A head's alignment against that which is known (Och and Ney 2003, "A Systematic Comparison of Various Statistical Alignment Models"), over
/// all pairs: with A what is found, S the sure links and P the possible ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadAlignment {
    /// The head.
    pub head: Head,
    /// Which of its rows stand for a word.
    pub row: AlignedRow,
    /// |A and P| / |A|
    pub precision: f64,
    /// |A and S| / |S|
    pub recall: f64,
    /// 1 - (|A and S| + |A and P|) / (|A| + |S|)
    pub error_rate: f64,
}

/// What cutting edges does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadCause {
    /// The head.
    pub head: Head,
    /// The error rate of the alignment that links each word to the one whose edge in this head matters most.
    pub error_rate: f64,
    /// The mean probability of the right word with the edge to its source cut in this head alone.
    pub alone: f64,
    /// The same with the edge cut in all heads but this one.
    pub others: f64,
}

/// What cutting edges in all heads of cross-attention does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AllHeadsCause {
    /// The error rate of the alignment that links each word to the one whose edge matters most; 0 where heads are judged by it.
    pub error_rate: f64,
    /// The mean probability of the right word with nothing cut.
    pub clean: f64,
    /// The same with the edge to its source cut: of several the one whose loss costs most.
    pub cut: f64,
    /// The same with the edge to another word cut, the mean over those.
    pub other: f64,
}

/// What [`alignment_scores`] found.
#[derive(Clone)]
pub struct AlignmentScores {
    heads: Vec<HeadAlignment>,
    causes: Vec<HeadCause>,
    all: Option<AllHeadsCause>,
    judged_by_cause: bool,
    sentences: usize,
    words: usize,
    are_pieces: bool,
    stack: Stack,
    size: [usize; 2],
}

/// For every head of cross-attention, how well its attention gives the alignment of words in pairs of a source and its target; and by cause:
/// the edge from a word of the target to one of the source is cut in a head alone, in all heads, and in all but that head, and the
/// probability of the right word is seen.
///
/// A word of the target is linked to that of the source with the most attention, summed over the pieces of the source's word and averaged
/// over the target's. The end takes no part. Words are what spaces part in the text; where nothing does (Chinese) each piece is a
/// word, and the figure says so. Is it the row that writes a word which aligns it, or the one that reads it? Both are scored.
///
/// What cutting takes is [`Causes`]: its progress says how long, and it can be stopped; [`SweepPart::alignment_scores`] goes on and is shared.
/// Sources without targets are taken with what the model writes.
///
/// Fails for models that are no encoder-decoder, for alignments of another number than pairs, and for links of words that are not there.
///
/// ```no_run
/// use headlight::analysis::{AlignmentOptions, Causes, alignment_scores};
/// use headlight::prelude::*;
/// let model = Model::open("built-in-translator")?;
/// let gold = Some(vec!["0-0 1-2 2-1 3-3".parse()?]);
/// let options = AlignmentOptions { gold, causes: Causes::BestFive };
/// let found = alignment_scores(&model, Input::pair("we find her .", "nous la trouvons ."), &options)?;
/// println!("{:?}", found.heads()[0]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn alignment_scores(
    model: &Model,
    pairs: impl Into<Input>,
    options: &AlignmentOptions,
) -> Result<AlignmentScores> {
    let pairs = model.with_targets(&pairs.into())?;
    let heads = check(model, &pairs, options)?;
    let mut asked =
        Asked { heads: &heads, gold: options.gold.as_deref(), caused: Vec::new(), with_all: false };
    asked.with_all = options.gold.is_none() || options.causes != Causes::None;
    asked.caused = match &options.causes {
        Causes::None => Vec::new(),
        Causes::All => heads.clone(),
        Causes::Heads(named) => named.clone(),
        Causes::BestFive => {
            // By attention first; of what is known, nothing need be cut for that.
            let first = Asked { with_all: options.gold.is_none(), ..asked };
            let mut totals = RowSum::default();
            rows(model, &pairs, &first, &RowRange::whole(&pairs), &mut |row| totals.add(row))?;
            asked = Asked { with_all: true, ..first };
            best(&totals.0, &heads, 5)
        }
    };
    let mut totals = RowSum::default();
    rows(model, &pairs, &asked, &RowRange::whole(&pairs), &mut |row| totals.add(row))?;
    let spec = AlignmentSpec::new(model, &asked.caused, asked.with_all, asked.gold);
    Ok(of_totals(&totals.0, &spec, pairs.len()))
}

impl SweepPart {
    /// This part of [`alignment_scores`]. The heads whose edges are cut must be named, or all: which are best is known of all pairs alone.
    pub fn alignment_scores(
        &self,
        model: &Model,
        pairs: impl Into<Input>,
        options: &AlignmentOptions,
    ) -> Result<()> {
        let pairs = pairs.into();
        let heads = check(model, &pairs, options)?;
        let caused = match &options.causes {
            Causes::None => Vec::new(),
            Causes::All => heads.clone(),
            Causes::Heads(named) => named.clone(),
            Causes::BestFive => {
                return Err(Error::new(
                    ErrorKind::Input,
                    "which heads align best is known when all pairs were seen, and a part sees some",
                )
                .help("name the heads, or take all or none"));
            }
        };
        let with_all = options.gold.is_none() || options.causes != Causes::None;
        let asked = Asked { heads: &heads, gold: options.gold.as_deref(), caused, with_all };
        let spec = SweepSpec::Alignment(AlignmentSpec::new(model, &asked.caused, asked.with_all, asked.gold));
        self.fill(model, &pairs, None, spec, |share, keep| rows(model, &pairs, &asked, share, keep))
    }
}

/// Fails where nothing can be scored; gives the heads otherwise.
fn check(model: &Model, pairs: &Input, options: &AlignmentOptions) -> Result<Vec<Head>> {
    let heads = cross_heads(model)?;
    // Says what is wrong with the pairs.
    crate::analysis::sweep::part::check_inputs(model, pairs, None, drop)?;
    if let Some(gold) = &options.gold
        && gold.len() != pairs.len()
    {
        let what = format!("the alignments are {}, and the pairs {}", gold.len(), pairs.len());
        return Err(Error::new(ErrorKind::Input, what).help("give the links of each pair, a line each"));
    }
    if let Causes::Heads(named) = &options.causes
        && let Some(other) = named.iter().find(|head| !heads.contains(head))
    {
        model.spec().check_head(*other)?;
        let what = format!("{other} attends to no source");
        return Err(Error::new(ErrorKind::Address, what).help(format!(
            "heads of cross-attention are {} to {}",
            heads[0],
            heads[heads.len() - 1]
        )));
    }
    Ok(heads)
}

/// What is asked of each pair.
struct Asked<'a> {
    heads: &'a [Head],
    gold: Option<&'a [WordAlignment]>,
    caused: Vec<Head>,
    /// Whether edges are cut in all heads.
    with_all: bool,
}

/// What is found, what of it is possible, and what is sure.
fn counts(matrix: &WordMatrix, known: &WordAlignment) -> [f64; 3] {
    let links = matrix.links();
    let of =
        |is: &dyn Fn(usize, usize) -> bool| links.iter().filter(|link| is(link.0, link.1)).count() as f64;
    [links.len() as f64, of(&|a, b| known.is_possible(a, b)), of(&|a, b| known.is_sure(a, b))]
}

fn rows(model: &Model, pairs: &Input, asked: &Asked, share: &RowRange, keep: &mut RowSink) -> Result<()> {
    let progress = Progress::new("aligning words", share.range.len());
    progress.begin_at(share.done);
    for index in share.left() {
        let row = row(model, pairs, asked, index).map_err(|error| pairs.with_input_index(error, index))?;
        keep(&row)?;
        progress.advance(1)?;
    }
    Ok(())
}

fn row(model: &Model, pairs: &Input, asked: &Asked, index: usize) -> Result<Vec<f64>> {
    let sentence = Sentence::new(model, pairs, index)?;
    let gold = asked.gold.map(|gold| &gold[index]);
    if let Some(gold) = gold {
        gold.check(sentence.source.len(), sentence.target.len())?;
    }
    let mut ways: Vec<Cut> = if asked.with_all { vec![Cut::All] } else { Vec::new() };
    ways.extend(asked.caused.iter().flat_map(|&head| [Cut::Alone(head), Cut::Others(head)]));
    let caused = caused(model, &sentence, asked.heads, &ways)?;
    let known = match gold {
        Some(gold) => gold.clone(),
        None => WordAlignment::new(caused.effect(0).links(), []),
    };
    let are_pieces = sentence.source.are_pieces() || sentence.target.are_pieces();
    let mut row =
        vec![known.sure().len() as f64, sentence.target.len() as f64, f64::from(u8::from(are_pieces))];
    let [writes, reads] = AlignedRow::ALL.map(|of| sentence.attention(of).collect::<Vec<_>>());
    for ((_, writes), (_, reads)) in writes.iter().zip(&reads) {
        row.extend(counts(writes, &known));
        row.extend(counts(reads, &known));
    }
    // The links of each of the target's words: those that are sure, or else possible.
    let linked: Vec<Vec<usize>> = (0..sentence.target.len())
        .map(|target| {
            let of = |links: &std::collections::BTreeSet<(usize, usize)>| -> Vec<usize> {
                links.iter().filter(|link| link.1 == target).map(|link| link.0).collect()
            };
            let sure = of(known.sure());
            if sure.is_empty() { of(known.possible()) } else { sure }
        })
        .collect();
    // The sum of probabilities with the edge cut whose loss costs most.
    let lowest = |matrix: &WordMatrix| -> f64 {
        let of_word = |(target, sources): (usize, &Vec<usize>)| {
            let cut = sources.iter().map(|&source| f64::from(matrix.row(target)[source]).exp());
            cut.reduce(f64::min).unwrap_or(0.0)
        };
        linked.iter().enumerate().map(of_word).sum()
    };
    if asked.with_all {
        row.extend(counts(&caused.effect(0), &known));
        let with_link = || linked.iter().enumerate().filter(|(_, sources)| !sources.is_empty());
        let others = |(target, sources): (usize, &Vec<usize>)| -> f64 {
            let row = caused.cut[0].row(target).iter().enumerate();
            let cut: Vec<f64> =
                row.filter(|(at, _)| !sources.contains(at)).map(|(_, cut)| f64::from(*cut).exp()).collect();
            if cut.is_empty() {
                caused.clean[target].exp()
            } else {
                cut.iter().sum::<f64>() / cut.len() as f64
            }
        };
        row.extend([
            with_link().count() as f64,
            with_link().map(|(target, _)| caused.clean[target].exp()).sum(),
            lowest(&caused.cut[0]),
            with_link().map(others).sum(),
        ]);
    }
    let first = usize::from(asked.with_all);
    for place in 0..asked.caused.len() {
        let [alone, others] = [first + 2 * place, first + 2 * place + 1];
        row.extend(counts(&caused.effect(alone), &known));
        row.extend([lowest(&caused.cut[alone]), lowest(&caused.cut[others])]);
    }
    Ok(row)
}

/// 1 - (|A and S| + |A and P|) / (|A| + |S|)
fn error_rate([found, possible, sure]: [f64; 3], all_sure: f64) -> f64 {
    1.0 - share(sure + possible, found + all_sure)
}

fn share(of: f64, among: f64) -> f64 {
    if among > 0.0 { of / among } else { 0.0 }
}

fn three(values: &[f64]) -> [f64; 3] {
    [values[0], values[1], values[2]]
}

/// Each head and row, the best first.
fn ranked(totals: &[f64], heads: &[Head]) -> Vec<HeadAlignment> {
    let all_sure = totals[0];
    let mut all = Vec::new();
    for (&head, values) in heads.iter().zip(totals[FIRST..].chunks(OF_HEAD)) {
        for (row, values) in AlignedRow::ALL.into_iter().zip(values.chunks(3)) {
            let [found, possible, sure] = three(values);
            all.push(HeadAlignment {
                head,
                row,
                precision: share(possible, found),
                recall: share(sure, all_sure),
                error_rate: error_rate([found, possible, sure], all_sure),
            });
        }
    }
    all.sort_by(|a, b| a.error_rate.total_cmp(&b.error_rate));
    all
}

/// The heads that align best, whatever their row.
fn best(totals: &[f64], heads: &[Head], count: usize) -> Vec<Head> {
    let mut found: Vec<Head> = Vec::new();
    for HeadAlignment { head, .. } in ranked(totals, heads) {
        if !found.contains(&head) {
            found.push(head);
        }
    }
    found.truncate(count);
    found
}

/// What rows add up to.
pub(crate) fn of_totals(totals: &[f64], spec: &AlignmentSpec, sentences: usize) -> AlignmentScores {
    let heads = spec.all_heads();
    let all_sure = totals[0];
    let (mut all, mut rest) = (None, &totals[FIRST + heads.len() * OF_HEAD..]);
    let mut linked = 0.0;
    if spec.with_all {
        let (own, others) = rest.split_at(OF_ALL);
        (linked, rest) = (own[3], others);
        all = Some(AllHeadsCause {
            error_rate: error_rate(three(own), all_sure),
            clean: share(own[4], linked),
            cut: share(own[5], linked),
            other: share(own[6], linked),
        });
    }
    let caused = spec.caused.iter().filter_map(|name| name.parse().ok());
    let causes = caused.zip(rest.chunks(OF_CAUSED)).map(|(head, values)| HeadCause {
        head,
        error_rate: error_rate(three(values), all_sure),
        alone: share(values[3], linked),
        others: share(values[4], linked),
    });
    AlignmentScores {
        heads: ranked(totals, &heads),
        causes: causes.collect(),
        all,
        judged_by_cause: spec.gold.is_none(),
        sentences,
        words: totals[1] as usize,
        are_pieces: totals[2] > 0.0,
        stack: spec.stack,
        size: [spec.layers, spec.heads],
    }
}

impl AlignmentScores {
    /// Every head with each of its rows, the lowest error rate first.
    pub fn heads(&self) -> &[HeadAlignment] {
        &self.heads
    }

    /// What cutting edges of single heads does, for those that were asked about.
    pub fn causes(&self) -> &[HeadCause] {
        &self.causes
    }

    /// What cutting edges in all heads does, where any were cut.
    pub fn all_heads(&self) -> Option<&AllHeadsCause> {
        self.all.as_ref()
    }

    /// The error rate of each head, by one of its rows.
    pub fn error_rates(&self, row: AlignedRow) -> Result<HeadGrid> {
        let panel = [(self.stack, Attn::Cross, self.size)];
        let of = |head: Head| {
            let own = self.heads.iter().find(|own| own.head == head && own.row == row);
            own.map_or(f32::NAN, |own| own.error_rate as f32)
        };
        let values: Vec<f32> = HeadGrid::heads_of(panel.to_vec()).map(of).collect();
        let name = match row {
            AlignedRow::Writes => "alignment error rate, by the row that writes a word",
            AlignedRow::Reads => "alignment error rate, by the row that reads a word",
        };
        Ok(HeadGrid::of_attentions(name, &panel, &values)?.with_value_kind(ValueKind::Score))
    }

    /// What it was judged by, in words.
    fn against(&self) -> String {
        let words =
            if self.are_pieces { "words, which are pieces where no spaces part them" } else { "words" };
        let by = if self.judged_by_cause { "the causal alignment" } else { "what is known" };
        let pairs = if self.sentences == 1 { "pair" } else { "pairs" };
        format!("{} {pairs} of {} {words}, against {by}", self.sentences, self.words)
    }
}

impl fmt::Debug for AlignmentScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let best = self.heads.iter().take(5).map(|own| {
            let row = if own.row == AlignedRow::Reads { " (reading)" } else { "" };
            format!("{}{row} {:.3}", own.head, own.error_rate)
        });
        let best: Vec<String> = best.collect();
        write!(f, "alignment error rate on {}: {} ...", self.against(), best.join(", "))
    }
}

impl Visualize for AlignmentScores {
    /// The best heads, every head by both of its rows, and what cutting does.
    fn views(&self) -> Result<Vec<View>> {
        const SHOWN: usize = 8;
        let percent = |value: f64| format!("{:.1} %", 100.0 * value);
        let columns = ["head", "row", "precision", "recall", "error rate"];
        let mut table = Table::new(format!("heads that align best on {}", self.against()), columns);
        for own in self.heads.iter().take(SHOWN) {
            let row = if own.row == AlignedRow::Writes { "writes" } else { "reads" };
            let cells = [own.precision, own.recall, own.error_rate].map(percent);
            table.push([own.head.to_string(), row.into()].into_iter().chain(cells));
        }
        let mut views = vec![View::Table(table)];
        for row in AlignedRow::ALL {
            views.extend(self.error_rates(row)?.views()?);
        }
        if let Some(all) = &self.all {
            let columns = ["edge cut to", "in", "probability of the right word", "error rate by cause"];
            let mut table = Table::new("what cutting the edge to its source does to a word", columns);
            table.push(["nothing".into(), "".into(), format!("{:.3}", all.clean), String::new()]);
            table.push([
                "another word".into(),
                "all heads".into(),
                format!("{:.3}", all.other),
                String::new(),
            ]);
            let of_all = if self.judged_by_cause { String::new() } else { percent(all.error_rate) };
            table.push(["its source".into(), "all heads".into(), format!("{:.3}", all.cut), of_all]);
            for own in &self.causes {
                let [alone, others] = [own.alone, own.others].map(|value| format!("{value:.3}"));
                table.push([
                    "its source".to_string(),
                    format!("{} alone", own.head),
                    alone,
                    percent(own.error_rate),
                ]);
                table.push([
                    "its source".to_string(),
                    format!("all but {}", own.head),
                    others,
                    String::new(),
                ]);
            }
            views.push(View::Table(table));
        }
        Ok(views)
    }
}
