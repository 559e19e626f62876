//! Which heads truly are induction heads: by what they attend to, what they write, and what is lost without them.
//!
//! Olsson et al. 2022, "In-context Learning and Induction Heads", define an induction head by prefix matching and copying
//! on repeated random tokens, and ask for causes by ablation.

use std::fmt;

use candle_core::{D, Tensor};

use crate::analysis::heads::kind::HeadKind;
use crate::analysis::heads::repeated_tokens::RepeatedTokens;
use crate::analysis::heads::scores::head_scores;
use crate::analysis::residual::stream::as_normed;
use crate::analysis::sweep::engine::sweep;
use crate::analysis::sweep::metric::Metric;
use crate::error::Result;
use crate::hook::{Attn, Head, Site};
use crate::model::edit::Ablation;
use crate::model::model::Model;
use crate::model::run_options::RunOptions;
use crate::network::StackSpec;
use crate::network::param::Param;
use crate::progress::{Progress, check_stop};
use crate::view::{Table, View, Visualize};

/// What a head must show to count as an induction head in [`causal_truth`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Criteria {
    /// Mean attention to the token after the earlier copy. 0.3 by default. A head that does not reach it is asked nothing
    /// else, for the other two take long on large models; -1 asks all of every head.
    pub prefix_matching: f32,
    /// The share of second-half positions at which the token that the head attends to most is among the hundredth of
    /// the vocabulary whose logits the head itself raises most. 0.5 by default; chance is 0.01.
    pub copying: f32,
    /// What mean ablation of the head adds to the loss of the second half, in nats. 0.01 by default.
    pub effect: f32,
}

impl Default for Criteria {
    fn default() -> Self {
        Criteria { prefix_matching: 0.3, copying: 0.5, effect: 0.01 }
    }
}

/// The heads that are of a kind, and why.
#[derive(Clone)]
pub struct GroundTruth {
    title: String,
    criteria: Criteria,
    heads: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    head: Head,
    is_true: bool,
    evidence: Option<Evidence>,
}

/// What [`causal_truth`] measured of a head, in the units of [`Criteria`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Mean attention to the token after the earlier copy.
    pub prefix_matching: f32,
    /// How often it copies what it attends to most; nothing where prefix matching was too little to ask.
    pub copying: Option<f32>,
    /// What is lost without it, in nats; nothing where prefix matching was too little to ask.
    pub effect: Option<f32>,
}

impl Evidence {
    /// Each value and whether it is enough.
    fn against(&self, criteria: &Criteria) -> [(Option<f32>, bool); 3] {
        let Criteria { prefix_matching, copying, effect } = *criteria;
        [(Some(self.prefix_matching), prefix_matching), (self.copying, copying), (self.effect, effect)]
            .map(|(value, need)| (value, value.is_some_and(|value| value > need)))
    }
}

/// The columns of the evidence.
const EVIDENCE: [&str; 3] = ["prefix matching", "copying", "loss without it (nats)"];

/// What stands in tables for what was not measured.
const NOT_ASKED: &str = "–";

impl GroundTruth {
    /// A truth of one's own: these heads of the model, and no others.
    pub fn heads(model: &Model, heads: &[Head]) -> Result<GroundTruth> {
        heads.iter().try_for_each(|head| model.spec().check_head(*head).map(drop))?;
        let entry = |head: Head| Entry { head, is_true: heads.contains(&head), evidence: None };
        let heads = all(model).map(entry).collect();
        Ok(GroundTruth { title: "given heads".into(), criteria: Criteria::default(), heads })
    }

    /// Every head that was judged.
    pub(crate) fn all(&self) -> Vec<Head> {
        self.heads.iter().map(|entry| entry.head).collect()
    }

    /// Whether a head is one of the true ones.
    pub fn contains(&self, head: Head) -> bool {
        self.heads.iter().any(|entry| entry.head == head && entry.is_true)
    }

    /// The true heads.
    pub fn true_heads(&self) -> Vec<Head> {
        self.heads.iter().filter(|entry| entry.is_true).map(|entry| entry.head).collect()
    }

    /// What was measured of a head, where the truth comes from causes.
    pub fn evidence(&self, head: Head) -> Option<Evidence> {
        self.heads.iter().find(|entry| entry.head == head)?.evidence
    }
}

impl fmt::Debug for GroundTruth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.title, self.true_heads())
    }
}

impl Visualize for GroundTruth {
    fn views(&self) -> Result<Vec<View>> {
        let with_evidence = self.heads.iter().any(|entry| entry.evidence.is_some());
        let evidence = EVIDENCE.iter().filter(|_| with_evidence).copied();
        let mut table = Table::new(self.title.clone(), ["head", "true"].into_iter().chain(evidence));
        for entry in &self.heads {
            let mark = |met: bool| if met { "✓" } else { "·" };
            let mut row = vec![entry.head.to_string(), mark(entry.is_true).to_string()];
            let evidence = entry.evidence.iter().flat_map(|evidence| evidence.against(&self.criteria));
            row.extend(evidence.map(|(value, met)| match value {
                Some(value) => format!("{value:.3} {}", mark(met)),
                None => NOT_ASKED.into(),
            }));
            table.push(row);
        }
        Ok(vec![View::Table(table)])
    }
}

fn all(model: &Model) -> impl Iterator<Item = Head> + use<> {
    model.heads().collect::<Vec<_>>().into_iter()
}

/// Labels a head an induction head when it attends by prefix matching, and copies what it attends to, and ablating it
/// (to its mean over the same tokens) hurts the prediction of repeats: all three of [`Criteria`]'s defaults, on
/// [`RepeatedTokens::for_model`]. What was measured is shown; heads without prefix matching are asked nothing else.
///
/// ```
/// use headlight::prelude::*;
/// let truth = causal_truth(&Model::open("built-in")?)?;
/// println!("{truth:?}");
/// let evidence = truth.evidence(head(1, 0)).unwrap();
/// assert!(evidence.prefix_matching > 0.3 && evidence.copying > Some(0.5) && evidence.effect > Some(0.01));
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn causal_truth(model: &Model) -> Result<GroundTruth> {
    causal_truth_by(model, &Criteria::default(), &RepeatedTokens::for_model(model))
}

/// As [`causal_truth`], with criteria and tokens of one's own.
pub fn causal_truth_by(model: &Model, criteria: &Criteria, repeated: &RepeatedTokens) -> Result<GroundTruth> {
    let stack = model.spec().any_decoder("whether heads are induction heads")?.stack;
    // Copying is asked of what heads write.
    model.spec().sum_of_heads("whether heads copy")?;
    let ids = repeated.ids(model)?;
    let scores = head_scores(model, &[HeadKind::Induction], repeated)?.remove(0);
    let candidates = scores.above(criteria.prefix_matching)?;
    let copying = copying_scores(model, &candidates, &ids, repeated.length)?;
    let effects = effects(model, &candidates, &ids, repeated.length)?;
    let mut heads = Vec::new();
    for head in all(model).filter(|head| (head.stack, head.attn) == (stack, Attn::Own)) {
        let candidate = candidates.iter().position(|&candidate| candidate == head);
        let evidence = Evidence {
            prefix_matching: scores.at(head)?,
            copying: candidate.map(|index| copying[index]),
            effect: candidate.map(|index| effects[index]),
        };
        let is_true = evidence.against(criteria).iter().all(|(_, met)| *met);
        heads.push(Entry { head, is_true, evidence: Some(evidence) });
    }
    let title = format!("induction heads of {} by cause", model.name());
    Ok(GroundTruth { title, criteria: *criteria, heads })
}

/// For each of these heads, what its mean ablation adds to the loss of the second half, in nats.
fn effects(model: &Model, heads: &[Head], sequences: &[Vec<u32>], length: usize) -> Result<Vec<f32>> {
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let input = RepeatedTokens::input(model, sequences);
    let reference = model.run_with_options(&input, &RunOptions::only([Site::Z]))?;
    // The first prediction that can be looked up is that of the second copy's second token.
    let second_half = Metric::LossFrom(length + usize::from(model.bos().is_some()));
    let without = |&head: &Head| model.ablate(head, Ablation::Mean(&reference));
    let variants = heads.iter().map(without).collect::<Result<Vec<_>>>()?;
    let swept = sweep("ablating heads", model, &variants, &input, &second_half)?;
    Ok(swept.variants.iter().map(|value| (value - swept.clean) as f32).collect())
}

/// For each of these heads, the share of second-half positions at which the token that it attends to most is among the
/// hundredth of the vocabulary whose logits its own output raises most (after the copying evaluator of Olsson et al. 2022).
fn copying_scores(model: &Model, heads: &[Head], sequences: &[Vec<u32>], length: usize) -> Result<Vec<f32>> {
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let dims = *model.dims();
    let among = (dims.d_vocab / 100).max(1);
    let w_u = model.unembedding()?;
    // A folded model has it in the unembedding.
    let StackSpec { stack, norm, .. } = *model.spec().last_stack();
    let (gain, _) = model.norm_params(stack, Param::LnFinal, 0)?;
    let progress = Progress::new("measuring copying", sequences.len() * heads.len());
    let mut hits = vec![0usize; heads.len()];
    for ids in sequences {
        let input = RepeatedTokens::input(model, std::slice::from_ref(ids));
        let run = model.run_with_options(input, &RunOptions::only([Site::Pattern, Site::Z]))?;
        let start = ids.len() - length;
        for (hits, head) in hits.iter_mut().zip(heads) {
            check_stop()?;
            let (pattern, z) = (run.get(head.hook(Site::Pattern))?, run.get(head.hook(Site::Z))?);
            let z = z.tensor().narrow(0, start, length)?.narrow(1, head.head, 1)?.squeeze(1)?;
            let w_o = model.required_param(stack, Param::Output, head.layer)?.get(head.head)?.contiguous()?;
            // The last norm's scale is the same for all tokens, and changes no rank.
            let mut written = as_normed(norm, &z.contiguous()?.matmul(&w_o)?, 1)?;
            if let Some(gain) = &gain {
                written = written.broadcast_mul(gain)?;
            }
            let raised: Vec<Vec<f32>> = w_u.product(&written)?.to_vec2()?;
            let attention: Tensor = pattern.tensor().get(head.head)?.narrow(0, start, length)?;
            let attended: Vec<u32> = attention.contiguous()?.argmax(D::Minus1)?.to_vec1()?;
            let hit = |(row, &key): (&Vec<f32>, &u32)| {
                let own = row[ids[key as usize] as usize];
                // A head that writes nothing raises all alike, and copies nothing.
                row.iter().filter(|&&other| other >= own).count() <= among
            };
            *hits += raised.iter().zip(&attended).filter(|pair| hit(*pair)).count();
            progress.advance(1)?;
        }
    }
    let positions = (sequences.len() * length) as f32;
    Ok(hits.into_iter().map(|hits| hits as f32 / positions).collect())
}
