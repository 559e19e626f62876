//! What each edge from a word of the target to one of the source does: cut it, and see how likely the right word still is.

use crate::analysis::alignment::sentence::{Sentence, WordMatrix};
use crate::analysis::sweep::engine::sweep;
use crate::analysis::sweep::metric::Metric;
use crate::error::Result;
use crate::hook::Head;
use crate::model::edit::AttentionEdge;
use crate::model::model::Model;

/// Where edges are cut.
#[derive(Clone, Debug)]
pub(crate) enum Cut {
    /// In all heads of cross-attention.
    All,
    /// In one alone.
    Alone(Head),
    /// In all but one.
    Others(Head),
}

/// What was found of a sentence.
pub(crate) struct Caused {
    /// The log-probability of each of the target's words, with nothing cut.
    pub(crate) clean: Vec<f64>,
    /// That with each edge cut, for each way of cutting.
    pub(crate) cut: Vec<WordMatrix>,
}

impl Caused {
    /// How much less likely each word is without each edge, in nats.
    pub(crate) fn effect(&self, way: usize) -> WordMatrix {
        let WordMatrix { sources, values } = &self.cut[way];
        let lost = values.iter().enumerate().map(|(at, cut)| self.clean[at / sources] as f32 - cut).collect();
        WordMatrix { sources: *sources, values: lost }
    }
}

/// Cuts the edges from the rows that write each of the target's words to each of the source's words.
pub(crate) fn caused(model: &Model, sentence: &Sentence, heads: &[Head], ways: &[Cut]) -> Result<Caused> {
    let (sources, targets) = (sentence.source.len(), sentence.target.len());
    let mut clean = vec![0f64; targets];
    let mut cut = vec![WordMatrix { sources, values: vec![0f32; sources * targets] }; ways.len()];
    for (target, clean) in clean.iter_mut().enumerate() {
        let rows = sentence.target.span(target);
        let mut variants = Vec::with_capacity(ways.len() * sources);
        for way in ways {
            let of_way = |head: &&Head| match way {
                Cut::All => true,
                Cut::Alone(only) => *head == only,
                Cut::Others(but) => *head != but,
            };
            let cut_in: Vec<Head> = heads.iter().filter(of_way).copied().collect();
            for source in 0..sources {
                let edges: Vec<AttentionEdge> = cut_in
                    .iter()
                    .flat_map(|&head| {
                        let keys = sentence.source.span(source);
                        rows.clone().flat_map(move |query| {
                            keys.clone().map(move |key| AttentionEdge { head, query, key })
                        })
                    })
                    .collect();
                // Where there is one head alone, none is left to cut.
                variants.push(if edges.is_empty() { model.clone() } else { model.knock_out(&edges)? });
            }
        }
        for row in rows {
            let metric = Metric::LogProb { token: sentence.written[row], position: Some(row) };
            let swept = sweep("cutting edges", model, &variants, &sentence.input, &metric)?;
            *clean += swept.clean;
            for (index, value) in swept.variants.into_iter().enumerate() {
                cut[index / sources].values[target * sources + index % sources] += value as f32;
            }
        }
    }
    Ok(Caused { clean, cut })
}
