//! How good a detection is: precision, recall and F1 against heads that are known, as scikit-learn counts them.

use std::fmt;

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::heads::detection::Detection;
use crate::analysis::heads::ground_truth::GroundTruth;
use crate::analysis::heads::scores::HeadScores;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Head;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::view::{Table, View, Visualize};

/// A detection against the truth.
#[derive(Clone, PartialEq)]
pub struct Evaluation {
    /// Heads found that are true.
    pub true_positives: usize,
    /// Heads found that are not.
    pub false_positives: usize,
    /// True heads not found.
    pub false_negatives: usize,
    /// The others.
    pub true_negatives: usize,
    zero_division: f64,
}

impl Evaluation {
    /// Counts predictions against truths, pair by pair. `zero_division` is the precision, recall or F1 where it would
    /// be nothing by nothing, as in scikit-learn.
    ///
    /// ```
    /// use headlight::analysis::Evaluation;
    /// let evaluation = Evaluation::of(&[true, true, true, true], &[false, true, false, true], 1.0)?;
    /// assert_eq!((evaluation.precision(), evaluation.recall()), (0.5, 1.0));
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn of(predicted: &[bool], truth: &[bool], zero_division: f64) -> Result<Evaluation> {
        if predicted.len() != truth.len() || truth.is_empty() {
            return Err(Error::new(
                ErrorKind::Input,
                format!("there are {} predictions for {} truths", predicted.len(), truth.len()),
            )
            .help("give one of each for everything that is judged"));
        }
        let count =
            |p: bool, t: bool| predicted.iter().zip(truth).filter(|(a, b)| (**a, **b) == (p, t)).count();
        Ok(Evaluation {
            true_positives: count(true, true),
            false_positives: count(true, false),
            false_negatives: count(false, true),
            true_negatives: count(false, false),
            zero_division,
        })
    }

    fn share(&self, of: usize, among: usize) -> f64 {
        if among == 0 { self.zero_division } else { of as f64 / among as f64 }
    }

    /// The share of the heads found that are true.
    pub fn precision(&self) -> f64 {
        self.share(self.true_positives, self.true_positives + self.false_positives)
    }

    /// The share of the true heads that were found.
    pub fn recall(&self) -> f64 {
        self.share(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// The harmonic mean of precision and recall.
    pub fn f1(&self) -> f64 {
        self.share(
            2 * self.true_positives,
            2 * self.true_positives + self.false_positives + self.false_negatives,
        )
    }
}

impl fmt::Debug for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "precision {:.4}, recall {:.4}, F1 {:.4}", self.precision(), self.recall(), self.f1())
    }
}

impl Visualize for Evaluation {
    fn views(&self) -> Result<Vec<View>> {
        let title =
            format!("precision {:.3}, recall {:.3}, F1 {:.3}", self.precision(), self.recall(), self.f1());
        let mut table = Table::new(title, ["", "found", "not found"]);
        table.push(["true".to_string(), self.true_positives.to_string(), self.false_negatives.to_string()]);
        table.push([
            "not true".to_string(),
            self.false_positives.to_string(),
            self.true_negatives.to_string(),
        ]);
        Ok(vec![View::Table(table)])
    }
}

impl Detection {
    /// Precision, recall and F1 against the heads that are known to be of the kind. What would be nothing by nothing
    /// is 0, as in scikit-learn; [`Evaluation::of`] takes another value.
    ///
    /// ```
    /// use headlight::analysis::GroundTruth;
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let found = induction_scores(&model)?.detect(DynamicThreshold::default())?;
    /// println!("{:?}", found.evaluate(&GroundTruth::heads(&model, &[head(1, 0)])?)?);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn evaluate(&self, truth: &GroundTruth) -> Result<Evaluation> {
        let labels = labels(truth, self.scores())?;
        let predicted: Vec<bool> = self.scores().heads().map(|head| self.heads().contains(&head)).collect();
        Evaluation::of(&predicted, &labels, 0.0)
    }
}

impl HeadScores {
    /// Precision and recall at every threshold that makes a difference `[measure, threshold]`: the scores themselves,
    /// ascending, a head being found from its score on, as in scikit-learn's `precision_recall_curve`.
    ///
    /// ```
    /// use headlight::analysis::GroundTruth;
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let curve = induction_scores(&model)?.precision_recall(&GroundTruth::heads(&model, &[head(1, 0)])?)?;
    /// assert_eq!(curve.axis_names(), ["measure", "threshold"]);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn precision_recall(&self, truth: &GroundTruth) -> Result<NamedTensor> {
        let scores = self.values().to_vec()?;
        let labels = labels(truth, self.grid())?;
        let mut thresholds = scores.clone();
        thresholds.sort_by(f32::total_cmp);
        thresholds.dedup();
        let mut measures = [Vec::new(), Vec::new(), Vec::new()];
        for threshold in &thresholds {
            let predicted: Vec<bool> = scores.iter().map(|score| score >= threshold).collect();
            let evaluation = Evaluation::of(&predicted, &labels, 0.0)?;
            let values = [evaluation.precision(), evaluation.recall(), evaluation.f1()];
            measures.iter_mut().zip(values).for_each(|(measure, value)| measure.push(value as f32));
        }
        let axes = vec![
            Axis::labelled("measure", ["precision", "recall", "F1"].map(String::from)),
            Axis::labelled("threshold", thresholds.iter().map(|t| format!("{t:.3}")).collect::<Vec<_>>()),
        ];
        let name = format!("finding {} heads at each threshold", self.kind());
        Ok(NamedTensor::from_vec(name, measures.concat(), axes)?.with_value_kind(ValueKind::Score))
    }
}

/// Whether each head is truly of the kind, layer by layer. Fails unless the truth is of the model that was scored.
fn labels(truth: &GroundTruth, scored: &HeadGrid) -> Result<Vec<bool>> {
    let (all, scored) = (truth.all(), scored.heads().collect::<Vec<Head>>());
    if !scored.iter().all(|head| all.contains(head)) {
        let what = format!("{} heads were scored, but the truth is of {}", scored.len(), all.len());
        return Err(Error::new(ErrorKind::Input, what).help("take the truth from the same model"));
    }
    Ok(scored.into_iter().map(|head| truth.contains(head)).collect())
}
