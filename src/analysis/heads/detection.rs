//! Which heads are of a kind: scores against thresholds, and thresholds from the variance of attention.
//!
//! The original project's idea is a threshold that follows the variance of attention. Its code compared one number a
//! sequence with half the mean variance of attention rows; see [`as_published`](crate::analysis::course_project::as_published).
//! Here every head is compared with itself.

use std::fmt;

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::heads::kind::HeadKind;
use crate::analysis::heads::scores::HeadScores;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Head;
use crate::named::ValueKind;
use crate::view::{Table, View, Visualize};

/// A threshold for each head from the variance of its own attention: `mean + deviations x standard deviation`.
///
/// Mean and standard deviation are those of the single attention probabilities that the head spends elsewhere: on all
/// pairs of a query and an earlier (or the same) key but those that its kind names. A head is detected when its mean
/// attention on the named pairs stands that far out from the rest of its attention: a head that attends evenly does not,
/// however short the text, and one that attends sharply to something else, or rests on the first token, has a large
/// variance and a high threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicThreshold {
    /// How many standard deviations above its mean elsewhere a head's score must lie. 3 by default.
    pub deviations: f32,
}

impl Default for DynamicThreshold {
    fn default() -> Self {
        DynamicThreshold { deviations: 3.0 }
    }
}

/// What a score must exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Each head's own, from the variance of its attention.
    Dynamic(DynamicThreshold),
    /// The same for all: 0.4 is usual.
    Fixed(f32),
    /// Whatever the k-th highest score does not fall below.
    Top(usize),
    /// `median + deviations x 1.4826 x median absolute deviation` of all heads' scores: 1.4826 makes it a standard
    /// deviation where scores are normal (Leys et al. 2013).
    Outlier {
        /// How many of these robust deviations above the median; 3 is usual.
        deviations: f32,
    },
}

impl From<DynamicThreshold> for Threshold {
    fn from(dynamic: DynamicThreshold) -> Self {
        Threshold::Dynamic(dynamic)
    }
}

impl From<f32> for Threshold {
    fn from(fixed: f32) -> Self {
        Threshold::Fixed(fixed)
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Threshold::Dynamic(dynamic) => write!(f, "dynamic, {} deviations", dynamic.deviations),
            Threshold::Fixed(value) => write!(f, "fixed, {value}"),
            Threshold::Top(k) => write!(f, "the top {k}"),
            Threshold::Outlier { deviations } => write!(f, "outliers, {deviations} deviations"),
        }
    }
}

/// Which heads scored above their threshold.
#[derive(Clone)]
pub struct Detection {
    kind: HeadKind,
    threshold: Threshold,
    scores: HeadGrid,
    thresholds: HeadGrid,
    found: Vec<Head>,
}

impl Detection {
    /// The heads found, the highest score first.
    pub fn heads(&self) -> &[Head] {
        &self.found
    }

    /// What was looked for.
    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// The rule that was applied.
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    /// What each head's score had to exceed.
    pub fn thresholds(&self) -> &HeadGrid {
        &self.thresholds
    }

    /// Each head's score.
    pub fn scores(&self) -> &HeadGrid {
        &self.scores
    }
}

impl fmt::Debug for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} heads by {} threshold: {:?}", self.kind, self.threshold, self.found)
    }
}

impl Visualize for Detection {
    fn views(&self) -> Result<Vec<View>> {
        let title = format!("{} heads found ({})", self.kind, self.threshold);
        let mut table = Table::new(title, ["head", "score", "threshold"]);
        for &head in &self.found {
            let number = |grid: &HeadGrid| Ok::<_, Error>(format!("{:.3}", grid.at(head)?));
            table.push([head.to_string(), number(&self.scores)?, number(&self.thresholds)?]);
        }
        if self.found.is_empty() {
            table.push(["none"]);
        }
        let above =
            self.scores.sub(&self.thresholds)?.renamed(format!("{} score above threshold", self.kind));
        Ok(vec![View::Table(table), View::Heatmap(self.scores.values().clone()), View::Heatmap(above)])
    }
}

impl HeadScores {
    /// The heads whose score exceeds a threshold: [`DynamicThreshold`], a number, or another [`Threshold`].
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let scores = induction_scores(&Model::open("built-in")?)?;
    /// let dynamic = scores.detect(DynamicThreshold::default())?;
    /// let fixed = scores.detect(0.4)?;
    /// let top = scores.detect(Threshold::Top(3))?;
    /// assert_eq!(top.heads().len(), 3);
    /// println!("{dynamic:?}, {fixed:?}");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn detect(&self, threshold: impl Into<Threshold>) -> Result<Detection> {
        self.detect_by(threshold.into())
    }

    fn detect_by(&self, threshold: Threshold) -> Result<Detection> {
        let refused = |what: String, help: &str| Err(Error::new(ErrorKind::Input, what).help(help));
        let scores = self.values().to_vec()?;
        let mut sorted = scores.clone();
        sorted.sort_by(f32::total_cmp);
        let thresholds = match threshold {
            Threshold::Dynamic(DynamicThreshold { deviations }) | Threshold::Outlier { deviations }
                if !deviations.is_finite() =>
            {
                return refused(
                    format!("{deviations} deviations are no threshold"),
                    "give a number such as 3.0",
                );
            }
            Threshold::Dynamic(DynamicThreshold { deviations }) => {
                let elsewhere = self.elsewhere();
                let pairs = elsewhere.means.iter().zip(&elsewhere.deviations);
                pairs.map(|(mean, deviation)| mean + deviations * deviation).collect()
            }
            Threshold::Fixed(value) if !value.is_finite() => {
                return refused(
                    format!("{value} is no threshold"),
                    "scores are probabilities: give a number from 0 to 1",
                );
            }
            Threshold::Fixed(value) => vec![value; scores.len()],
            Threshold::Top(k) if k == 0 || k > scores.len() => {
                return refused(
                    format!("the top {k} of {} heads cannot be taken", scores.len()),
                    "give 1 to the number of heads",
                );
            }
            // Just below the k-th, for found means above.
            Threshold::Top(k) => vec![sorted[sorted.len() - k].next_down(); scores.len()],
            Threshold::Outlier { deviations } => {
                let middle = median(&sorted);
                let mut apart: Vec<f32> = scores.iter().map(|score| (score - middle).abs()).collect();
                apart.sort_by(f32::total_cmp);
                vec![middle + deviations * 1.4826 * median(&apart); scores.len()]
            }
        };
        let all = self.grid().each()?.zip(&thresholds);
        let mut found: Vec<(Head, f32)> =
            all.filter(|((_, score), threshold)| score > *threshold).map(|(found, _)| found).collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        let thresholds: Vec<f32> = thresholds;
        let thresholds = self.grid().with_values(&format!("{} threshold", self.kind()), &thresholds)?;
        Ok(Detection {
            kind: self.kind(),
            threshold,
            scores: self.grid().clone(),
            thresholds: thresholds.with_value_kind(ValueKind::Score),
            found: found.into_iter().map(|(head, _)| head).collect(),
        })
    }
}

/// The middle of sorted numbers.
fn median(sorted: &[f32]) -> f32 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[half - 1] + sorted[half]) / 2.0 } else { sorted[half] }
}
