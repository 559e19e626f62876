//! Which word belongs to which: against counts made by hand of patterns that were put in, against edges cut one by one, and on the
//! built-in translator, whose links are known.

use std::fs;

use candle_core::{Device, Tensor};

use crate::common::folder::Folder;
use crate::common::refused;
use headlight::ErrorKind::{Address, Input as BadInput, Model as OfModel};
use headlight::analysis::*;
use headlight::prelude::*;
use headlight::{Attn, Result};

const SOURCE: &str = "the white cat sleeps .";
const TARGET: &str = "le chat blanc dort .";

fn translator() -> Result<Model> {
    Model::open("built-in-translator")
}

/// Pairs of the built-in translator's file, with their links.
fn held_out(count: usize) -> Result<(Input, Vec<WordAlignment>)> {
    let path = format!("{}/assets/built-in-translator/held_out.tsv", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("the file of held-out sentences");
    // From all constructions.
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let lines: Vec<&Vec<&str>> = lines.iter().step_by(lines.len() / count).take(count).collect();
    let column = |at: usize| lines.iter().map(|line| line[at]).collect::<Vec<&str>>();
    let links = column(2).into_iter().map(str::parse).collect::<Result<Vec<WordAlignment>>>()?;
    Ok((Input::pair(column(0), column(1)), links))
}

/// The model with a head of cross-attention that looks where it is told, row by row.
fn looking(model: &Model, head: Head, keys: [usize; 6]) -> Result<Model> {
    model.edit(head.hook(Site::Pattern), "looks where it is told", move |pattern| {
        let dims = pattern.dims().to_vec();
        let mut values = pattern.flatten_all()?.to_vec1::<f32>()?;
        for (row, values) in values.chunks_mut(dims[3]).enumerate() {
            let (of, query) = (row / dims[2] % dims[1], row % dims[2]);
            if of == head.head {
                let key = keys.get(query).copied().unwrap_or(0).min(dims[3] - 1);
                values.fill(0.0);
                values[key] = 1.0;
            }
        }
        Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
    })
}

#[test]
fn counts_made_by_hand() -> Result<()> {
    let head: Head = "D1X2".parse()?;
    let model = looking(&translator()?, head, [0, 2, 1, 1, 4, 3])?;
    let links: WordAlignment = "0-0 2-1 1-2 3-3 4-4 1?3 2?0".parse()?;
    let options = AlignmentOptions { gold: Some(vec![links]), causes: Causes::None };
    let found = alignment_scores(&model, Input::pair(SOURCE, TARGET), &options)?;
    let of = |row| *found.heads().iter().find(|own| own.head == head && own.row == row).expect("it is there");
    // The rows that write link 0-0 2-1 1-2 1-3 4-4: all possible, four of five sure.
    let writes = of(AlignedRow::Writes);
    let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
    assert!(near(writes.precision, 1.0) && near(writes.recall, 0.8) && near(writes.error_rate, 0.1));
    // The rows that read link 2-0 1-1 1-2 4-3 3-4: one possible, one sure.
    let reads = of(AlignedRow::Reads);
    assert!(
        near(reads.precision, 0.4) && near(reads.recall, 0.2) && near(reads.error_rate, 0.7),
        "{reads:?}"
    );
    let grid = found.error_rates(AlignedRow::Writes)?;
    assert!((grid.at(head)? - 0.1).abs() < 1e-6);
    assert!(found.all_heads().is_none() && found.causes().is_empty());
    Ok(())
}

#[test]
fn edges_cut_one_by_one() -> Result<()> {
    let (model, head) = (translator()?, "D1X0".parse()?);
    let pair = Input::pair(SOURCE, TARGET);
    let clean = model.loss_per_token(&pair)?.to_vec()?;
    let found = sentence_alignment(&model, &pair, head, true)?;
    let across: Vec<Head> = model.heads().filter(|own| own.attn == Attn::Cross).collect();
    assert_eq!(across.len(), 8);
    let mut largest = 0.0f32;
    for (query, key) in [(0, 0), (1, 2), (2, 1), (3, 3), (3, 1), (4, 4)] {
        let cut = |heads: &[Head]| -> Result<f32> {
            let edges: Vec<AttentionEdge> =
                heads.iter().map(|&head| AttentionEdge { head, query, key }).collect();
            Ok(model.knock_out(&edges)?.loss_per_token(&pair)?.to_vec()?[query] - clean[query])
        };
        let (all, alone) =
            (found.effect()?.value(&[query, key])?, found.effect_alone()?.value(&[query, key])?);
        // Of a loss of up to 20 nats, in f32.
        assert!((cut(&across)? - all).abs() < 2e-5, "{query} {key}: {} and {all}", cut(&across)?);
        assert!((cut(&[head])? - alone).abs() < 2e-5);
        largest = largest.max(all);
    }
    assert!(largest > 5.0);
    assert_eq!(found.attention().axis_names(), ["target", "source"]);
    assert_eq!(found.links(), [(0, 0), (2, 1), (1, 2), (3, 3), (4, 4)]);
    Ok(())
}

/// The built-in translator's own words: which head aligns, at which row, and what its edges are worth.
#[test]
fn of_the_built_in_translator() -> Result<()> {
    let model = translator()?;
    let (pairs, links) = held_out(30)?;
    let gold = Some(links);
    let best: Head = "D1X0".parse()?;
    let options = AlignmentOptions { gold, causes: Causes::Heads(vec![best]) };
    let found = alignment_scores(&model, &pairs, &options)?;
    let first = found.heads()[0];
    assert_eq!((first.head, first.row), (best, AlignedRow::Writes));
    assert!(first.error_rate < 0.12, "{first:?}");
    let reads = found.heads().iter().filter(|own| own.row == AlignedRow::Reads);
    assert!(reads.map(|own| own.error_rate).fold(1.0, f64::min) > 0.4);
    let (all, own) = (found.all_heads().expect("edges were cut"), found.causes()[0]);
    assert!(all.clean > 0.97 && all.other > 0.95 && all.cut < 0.4 && all.error_rate < 0.2, "{all:?}");
    assert!(own.alone > 0.9 && own.others < 0.75, "{own:?}");
    // Without links, heads are judged by what cutting does, and all heads together are right by that.
    let judged = alignment_scores(&model, &pairs, &AlignmentOptions { gold: None, causes: Causes::None })?;
    assert_eq!(judged.heads()[0].head, best);
    assert_eq!(judged.all_heads().map(|all| all.error_rate), Some(0.0));
    Ok(())
}

#[test]
fn parts_merge_to_the_last_bit() -> Result<()> {
    let (place, model) = (Folder::new(), translator()?);
    let (pairs, links) = held_out(5)?;
    let causes = Causes::Heads(vec!["D0X1".parse()?, "D1X0".parse()?]);
    for gold in [Some(links), None] {
        let options = AlignmentOptions { gold, causes: causes.clone() };
        let whole = alignment_scores(&model, &pairs, &options)?;
        let known = if options.gold.is_some() { "known" } else { "by-cause" };
        let paths = [1, 2].map(|index| place.path(&format!("{known}-{index}.part")));
        for (index, path) in paths.iter().enumerate() {
            SweepPart::new(path, Shard::new(index + 1, 2)?).alignment_scores(&model, &pairs, &options)?;
        }
        let SweepResult::Alignment { scores, .. } = merge(&paths)? else { panic!("an alignment") };
        assert_eq!(
            (scores.heads(), scores.causes(), scores.all_heads()),
            (whole.heads(), whole.causes(), whole.all_heads())
        );
        // Another question does not go on with these.
        let others = AlignmentOptions { causes: Causes::None, ..options };
        let part = SweepPart::new(&paths[0], Shard::new(1, 2)?);
        assert!(part.alignment_scores(&model, &pairs, &others).is_err());
    }
    Ok(())
}

#[test]
fn what_cannot_be_aligned() -> Result<()> {
    let model = translator()?;
    let pair = || Input::pair(SOURCE, TARGET);
    let with = |links: &[&str], causes: Causes| -> Result<AlignmentOptions> {
        let links = links.iter().map(|links| links.parse()).collect::<Result<Vec<_>>>()?;
        Ok(AlignmentOptions { gold: Some(links), causes })
    };
    let none = || Causes::None;
    let none_known = AlignmentOptions { gold: None, causes: Causes::None };
    let scores = |options: &AlignmentOptions| alignment_scores(&model, pair(), options).map(drop);
    let own = Causes::Heads(vec!["D0H1".parse()?]);
    let absent = Causes::Heads(vec!["D2X0".parse()?]);
    let decoder = Model::open("built-in")?;
    let head = head(0, 0);
    let two = Input::pair([SOURCE; 2], [TARGET; 2]);
    let part = SweepPart::new(Folder::new().path("1.part"), Shard::new(1, 1)?);
    let best = AlignmentOptions::default();
    refused(vec![
        (
            "two alignments of one pair",
            scores(&with(&["0-0", "0-0"], none())?),
            BadInput,
            &["alignments are 2", "pairs 1"],
        ),
        (
            "a word that is not in the source",
            scores(&with(&["0-0 5-1"], none())?),
            BadInput,
            &["5-1", "the source has 5"],
        ),
        (
            "a word that is not in the target",
            scores(&with(&["0-0 1-5"], none())?),
            BadInput,
            &["1-5", "the target 5"],
        ),
        (
            "a head that attends to no source",
            scores(&with(&["0-0"], own)?),
            Address,
            &["D0H1", "no source", "D0X0 to D1X3"],
        ),
        ("a head that is not there", scores(&with(&["0-0"], absent)?), Address, &["D2X0"]),
        (
            "scores of a decoder",
            alignment_scores(&decoder, "the cat", &none_known).map(drop),
            OfModel,
            &["reads an encoder"],
        ),
        (
            "a sentence of a decoder",
            sentence_alignment(&decoder, "the cat", head, true).map(drop),
            OfModel,
            &["reads an encoder"],
        ),
        (
            "a sentence by a decoder's head",
            sentence_alignment(&model, pair(), head, true).map(drop),
            Address,
            &["no main stack"],
        ),
        (
            "two sentences",
            sentence_alignment(&model, two, "D1X0".parse()?, true).map(drop),
            BadInput,
            &["2 pairs"],
        ),
        (
            "the best of a part",
            part.alignment_scores(&model, pair(), &best),
            BadInput,
            &["a part", "name the heads"],
        ),
    ]);
    Ok(())
}
