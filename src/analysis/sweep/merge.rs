//! Merging the parts of a sweep: the result that one process would have given, to the last bit.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::analysis::alignment::scores::{AlignmentScores, of_totals as alignment_of_totals};
use crate::analysis::causal::ablation::AblationEffects;
use crate::analysis::heads::repeated_tokens::RepeatedTokens;
use crate::analysis::heads::scores::{HeadScores, of_totals};
use crate::analysis::sweep::engine::SweepOutcome;
use crate::analysis::sweep::part::{SweepSpec, add};
use crate::error::Result;
use crate::view::{Table, View, Visualize};

/// What the parts of a sweep found together, and what was asked.
#[derive(Clone)]
#[non_exhaustive]
pub enum SweepResult {
    /// Of [`SweepPart::ablation_effects`](crate::analysis::SweepPart::ablation_effects).
    Ablation {
        /// The name of the model.
        model: String,
        /// What was put in place of what was ablated: `zero`, `mean` or `resample`.
        ablation: String,
        /// The effects.
        effects: AblationEffects,
    },
    /// Of [`SweepPart::head_scores`](crate::analysis::SweepPart::head_scores).
    HeadScores {
        /// The name of the model.
        model: String,
        /// The tokens.
        repeated: RepeatedTokens,
        /// The scores of each kind.
        scores: Vec<HeadScores>,
    },
    /// Of [`SweepPart::alignment_scores`](crate::analysis::SweepPart::alignment_scores).
    Alignment {
        /// The name of the model.
        model: String,
        /// The scores.
        scores: AlignmentScores,
    },
    /// Of [`SweepPart::measure`](crate::analysis::SweepPart::measure).
    Metric {
        /// The name of the model.
        model: String,
        /// What was measured.
        metric: String,
        /// Its mean.
        value: f64,
        /// Of how many inputs.
        inputs: usize,
    },
}

/// Makes of the parts of a sweep, given in any order, what the sweep would have given in one piece, to the last bit where all
/// parts were made on processors of one kind. Needs no model. Fails, saying which, if a shard is missing, there twice or not
/// finished, or of another sweep.
///
/// [`SweepPart`](crate::analysis::SweepPart) has an example.
pub fn merge(paths: &[impl AsRef<Path>]) -> Result<SweepResult> {
    merge_parts(&paths.iter().map(|path| path.as_ref().into()).collect::<Vec<_>>())
}

fn merge_parts(paths: &[PathBuf]) -> Result<SweepResult> {
    let added = add(paths)?;
    let (model, totals) = (added.header.model, added.totals);
    Ok(match added.header.asked {
        SweepSpec::Ablation { ablation, metric, stacks, .. } => {
            let effects = AblationEffects::new(&SweepOutcome::of(&totals), metric, &ablation, &stacks)?;
            SweepResult::Ablation { model, ablation, effects }
        }
        SweepSpec::HeadScores { kinds, length, batch, seed, stack, layers, heads } => {
            let repeated = RepeatedTokens { length, batch, seed };
            let scores = of_totals(&totals, &kinds, &repeated, (stack, [layers, heads]))?;
            SweepResult::HeadScores { model, repeated, scores }
        }
        SweepSpec::Alignment(spec) => {
            let scores = alignment_of_totals(&totals, &spec, added.header.inputs);
            SweepResult::Alignment { model, scores }
        }
        SweepSpec::Metric { metric } => SweepResult::Metric {
            model,
            metric,
            value: SweepOutcome::of(&totals).clean,
            inputs: added.header.inputs,
        },
    })
}

impl fmt::Debug for SweepResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SweepResult::Ablation { model, effects, .. } => write!(f, "{model}: {effects:?}"),
            SweepResult::HeadScores { model, scores, .. } => write!(f, "{model}: {scores:?}"),
            SweepResult::Alignment { model, scores } => write!(f, "{model}: {scores:?}"),
            SweepResult::Metric { model, metric, value, inputs } => {
                write!(f, "{model}: {metric} {value:.4} over {inputs} inputs")
            }
        }
    }
}

impl Visualize for SweepResult {
    fn views(&self) -> Result<Vec<View>> {
        Ok(match self {
            SweepResult::Ablation { effects, .. } => effects.views()?,
            SweepResult::HeadScores { scores, .. } => {
                scores.iter().map(Visualize::views).collect::<Result<Vec<_>>>()?.concat()
            }
            SweepResult::Alignment { scores, .. } => scores.views()?,
            SweepResult::Metric { model, metric, value, inputs } => {
                let mut table = Table::new(model.clone(), [metric.clone(), "inputs".into()]);
                table.push([format!("{value:.4}"), inputs.to_string()]);
                vec![View::Table(table)]
            }
        })
    }
}
