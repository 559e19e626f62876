//! What a training went through.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::head;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::view::{View, Visualize};

/// What a model was like at one step of its training, to four decimals. Measured on random tokens said twice, as
/// [`RepeatedTokens`](crate::analysis::heads::repeated_tokens::RepeatedTokens) makes them, which training never saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainingPoint {
    /// The steps made until then.
    pub step: usize,
    /// The mean loss on the first copy, in nats a token: there is nothing to look back to.
    pub loss_first_copy: f32,
    /// The mean loss on the second copy, in nats a token.
    pub loss_second_copy: f32,
    /// The mean loss on text, in nats a token, where text was measured.
    #[serde(rename = "loss", default)]
    pub loss_on_text: Option<f32>,
    /// The loss late in the context minus the loss early in it, in nats a token (Olsson et al. 2022): on text, where text
    /// was measured, the last quarter of the positions minus the second eighth; else the second copy minus the first.
    pub in_context_learning_score: f32,
    /// For each layer and head, the mean attention to the token after the earlier copy:
    /// [`induction_scores`](crate::analysis::induction_scores).
    pub induction: Vec<Vec<f32>>,
    /// For each layer and head, the mean attention to the token before:
    /// [`previous_token_scores`](crate::analysis::previous_token_scores).
    pub previous_token: Vec<Vec<f32>>,
}

/// What a model was like through its training: losses and head scores, step by step. Draws itself as lines.
///
/// ```
/// use headlight::prelude::*;
/// let curve = TrainingCurve::built_in()?;
/// assert_eq!(curve.phase_change(), Some(2000..=2400));
/// assert_eq!(curve.induction()?.axis_names(), ["head", "step"]);
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrainingCurve {
    points: Vec<TrainingPoint>,
}

impl TrainingCurve {
    pub(super) fn empty() -> TrainingCurve {
        TrainingCurve { points: Vec::new() }
    }

    /// How the built-in model was trained: 5000 steps, evaluated every 50.
    pub fn built_in() -> Result<TrainingCurve> {
        TrainingCurve::from_json(include_str!("../../assets/built-in/curve.json"))
    }

    /// Reads what [`to_json`](TrainingCurve::to_json) wrote.
    pub fn from_json(text: &str) -> Result<TrainingCurve> {
        let wrong = |what: String| {
            Error::new(ErrorKind::File, what)
                .help("give what `TrainingCurve::to_json` wrote, whole and unchanged")
        };
        let curve: TrainingCurve = serde_json::from_str(text)
            .map_err(|error| wrong("the text is not a training curve".into()).caused_by(error))?;
        let shape = |point: &TrainingPoint| -> Option<(usize, usize)> {
            let width = point.induction.first()?.len();
            let rows = || point.induction.iter().chain(&point.previous_token);
            let even =
                point.induction.len() == point.previous_token.len() && rows().all(|row| row.len() == width);
            (even && width > 0).then_some((point.induction.len(), width))
        };
        let first = curve.points.first().and_then(shape);
        if first.is_none() || curve.points.iter().any(|point| shape(point) != first) {
            return Err(wrong("the training curve has no points, or not the same heads at each".into()));
        }
        match curve.points.windows(2).find(|pair| pair[0].step >= pair[1].step) {
            Some(pair) => {
                let (a, b) = (pair[0].step, pair[1].step);
                Err(wrong(format!("the training curve has step {b} after step {a}")))
            }
            None => Ok(curve),
        }
    }

    /// The points as JSON, one a line.
    pub fn to_json(&self) -> Result<String> {
        let failed = |error: serde_json::Error| {
            Error::new(ErrorKind::File, "the training curve cannot be written").caused_by(error)
        };
        let lines: Vec<String> =
            self.points.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(failed)?;
        Ok(format!("[\n{}\n]\n", lines.join(",\n")))
    }

    /// Adds a point, in the place of one of the same step.
    pub(super) fn push(&mut self, point: TrainingPoint) {
        self.points.retain(|old| old.step < point.step);
        self.points.push(point);
    }

    /// All points, the earliest first.
    pub fn points(&self) -> &[TrainingPoint] {
        &self.points
    }

    /// The point of a step.
    pub fn at(&self, step: usize) -> Result<&TrainingPoint> {
        self.points.iter().find(|point| point.step == step).ok_or_else(|| {
            let nearest = self.points.iter().map(|point| point.step).min_by_key(|found| found.abs_diff(step));
            Error::new(ErrorKind::Address, format!("the training was not evaluated at step {step}")).help(
                nearest.map_or("train first".into(), |nearest| {
                    format!("the nearest step that was is {nearest}")
                }),
            )
        })
    }

    /// The mean losses `[loss, step]` on the first and second copy of random tokens, and on text where text was measured,
    /// in nats.
    pub fn losses(&self) -> Result<NamedTensor> {
        let mut rows: Vec<(&str, Vec<f32>)> = vec![
            ("first copy", self.points.iter().map(|point| point.loss_first_copy).collect()),
            ("second copy", self.points.iter().map(|point| point.loss_second_copy).collect()),
        ];
        let text: Option<Vec<f32>> = self.points.iter().map(|point| point.loss_on_text).collect();
        rows.extend(text.map(|text| ("text", text)));
        let names: Vec<String> = rows.iter().map(|(name, _)| name.to_string()).collect();
        let values = rows.into_iter().flat_map(|(_, values)| values).collect();
        let axes = vec![Axis::labelled("loss", names), self.step_axis()];
        Ok(NamedTensor::from_vec("mean loss (nats a token)", values, axes)?
            .with_value_kind(ValueKind::Magnitude))
    }

    /// The in-context learning score `[step]`, in nats: the loss late in the context minus the loss early in it.
    pub fn in_context_learning(&self) -> Result<NamedTensor> {
        let values = self.points.iter().map(|point| point.in_context_learning_score).collect();
        NamedTensor::from_vec("in-context learning score (nats a token)", values, vec![self.step_axis()])
    }

    /// The induction scores `[head, step]`, heads labelled `L0H0`, ...
    pub fn induction(&self) -> Result<NamedTensor> {
        self.scores("induction score", |point| &point.induction)
    }

    /// The previous-token scores `[head, step]`, heads labelled `L0H0`, ...
    pub fn previous_token(&self) -> Result<NamedTensor> {
        self.scores("previous-token score", |point| &point.previous_token)
    }

    /// The steps between which the loss on the second copy collapsed: the shortest stretch of the curve over which it
    /// falls by at least 85 % of its whole fall, which is its highest value minus its lowest; of several equally short,
    /// the one with the largest fall. Nothing where the whole fall is less than half of the highest value: then there
    /// was no collapse.
    pub fn phase_change(&self) -> Option<RangeInclusive<usize>> {
        let losses: Vec<f32> = self.points.iter().map(|point| point.loss_second_copy).collect();
        let highest = losses.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let whole = highest - losses.iter().copied().fold(f32::INFINITY, f32::min);
        if losses.len() < 2 || whole < 0.5 * highest {
            return None;
        }
        let fall = |from: usize, len: usize| losses[from] - losses[from + len];
        let steepest =
            |len: usize| (0..losses.len() - len).max_by(|&a, &b| fall(a, len).total_cmp(&fall(b, len)));
        let found = (1..losses.len()).find_map(|len| {
            steepest(len).filter(|&from| fall(from, len) >= 0.85 * whole).map(|from| (from, from + len))
        });
        found.map(|(from, to)| self.points[from].step..=self.points[to].step)
    }

    fn step_axis(&self) -> Axis {
        Axis::labelled("step", self.points.iter().map(|point| point.step.to_string()).collect::<Vec<_>>())
    }

    fn scores(&self, name: &str, of: impl Fn(&TrainingPoint) -> &Vec<Vec<f32>>) -> Result<NamedTensor> {
        let layers = self.points.first().map(&of).into_iter().flatten().enumerate();
        let heads: Vec<(usize, usize)> =
            layers.flat_map(|(layer, row)| (0..row.len()).map(move |index| (layer, index))).collect();
        let lines = heads.iter().flat_map(|&(layer, index)| {
            let of = &of;
            self.points.iter().map(move |point| of(point)[layer][index])
        });
        let values = lines.collect();
        let labels: Vec<String> =
            heads.iter().map(|&(layer, index)| head(layer, index).to_string()).collect();
        let axes = vec![Axis::labelled("head", labels), self.step_axis()];
        Ok(NamedTensor::from_vec(name, values, axes)?.with_value_kind(ValueKind::Score))
    }
}

impl fmt::Debug for TrainingCurve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            return f.write_str("a training curve without points");
        };
        write!(
            f,
            "training curve, steps {} to {}: loss on the second copy {:.2} to {:.2}, ",
            first.step, last.step, first.loss_second_copy, last.loss_second_copy
        )?;
        match self.phase_change() {
            Some(steps) => write!(f, "collapsing between steps {} and {}", steps.start(), steps.end()),
            None => f.write_str("without a collapse"),
        }
    }
}

impl Visualize for TrainingCurve {
    /// The losses, then the induction and the previous-token scores of each head.
    fn views(&self) -> Result<Vec<View>> {
        Ok([self.losses()?, self.induction()?, self.previous_token()?].map(View::Lines).into())
    }
}
