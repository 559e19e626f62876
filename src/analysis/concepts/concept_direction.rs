//! A concept's direction at a hook: by the difference of means or a logistic probe, with how well it tells what it has not seen.

use std::fmt;

use candle_core::Tensor;

use crate::analysis::concepts::examples::{ConceptPosition, Examples};
use crate::analysis::concepts::logistic::{dot, fit};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, IntoHook};
use crate::model::input::Input;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::view::{Table, View, Visualize};

/// How a concept's direction is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConceptMethod {
    /// From the mean of what lacks the concept to the mean of what has it.
    DifferenceOfMeans,
    /// A logistic regression that tells the two apart, of activations divided by their deviation, with a penalty of half the square of its
    /// weights (scikit-learn's `C = 1`).
    LogisticProbe,
}

impl fmt::Display for ConceptMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConceptMethod::DifferenceOfMeans => "difference of means",
            ConceptMethod::LogisticProbe => "logistic probe",
        })
    }
}

/// What [`concept_direction`] found.
#[derive(Clone)]
pub struct ConceptDirection {
    hook: Hook,
    position: ConceptPosition,
    method: ConceptMethod,
    vector: NamedTensor,
    /// Where along it, of length 1, what has the concept begins.
    threshold: f64,
    accuracy: f64,
    shuffled: f64,
    texts: usize,
}

/// The seed of folds and shuffles.
pub(super) const SEED: u64 = 0;

/// The direction in an activation along which texts that have a concept lie apart from texts that lack it. With it come two numbers, for
/// in so many dimensions some direction parts anything: how many texts are told rightly that were held out, a fifth at a time, and how many
/// where which text has the concept is shuffled.
///
/// The vector is as long as the means of both kinds are apart along it, so that [`Model::steer`] by 1 moves a text from the one mean to the
/// other, and by -1 back; [`Model::ablate_direction`] takes what a text has of it away. For encoders and decoders alike.
///
/// Fails where either kind has fewer than two texts, for hooks that have more than a position and a width, and where a text lacks the
/// position.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in-sentiment")?;
/// let praise = ["a good film", "the plot is superb", "i loved the cast", "the score was fresh"];
/// let blame = ["a dull film", "the plot is awful", "i hated the cast", "the score was weak"];
/// let hook = ("resid_pre", 1);
/// let sentiment =
///     concept_direction(&model, praise, blame, hook, ConceptPosition::First, ConceptMethod::DifferenceOfMeans)?;
/// println!("{sentiment:?}");
/// let kinder = model.steer(sentiment.hook(), sentiment.vector(), 2.0)?;
/// println!("{:?}", kinder.classify("the plot is awful")?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn concept_direction(
    model: &Model,
    has: impl Into<Input>,
    lacks: impl Into<Input>,
    hook: impl IntoHook,
    position: ConceptPosition,
    method: ConceptMethod,
) -> Result<ConceptDirection> {
    let hook = model.hook(hook)?;
    let examples = Examples::new(model, &has.into(), &lacks.into())?;
    let rows = examples.read(model, &[hook], &[position])?.remove(0).remove(0);
    let found = Found::of(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), &examples.is_of, method)?;
    let (accuracy, shuffled) = examples.held_out(&rows, method, SEED)?;
    let apart =
        found.mean_along(&rows, &examples.is_of, true) - found.mean_along(&rows, &examples.is_of, false);
    let values = found.direction.iter().map(|x| (x * apart) as f32).collect();
    let width = hook.site().axes()[1];
    let vector = NamedTensor::from_vec(
        format!("direction at {hook}, {position}"),
        values,
        vec![Axis::unlabelled(width.name(), found.direction.len())],
    )?;
    Ok(ConceptDirection {
        hook,
        position,
        method,
        vector: vector.with_value_kind(ValueKind::Signed),
        threshold: found.threshold,
        accuracy,
        shuffled,
        texts: rows.len(),
    })
}

/// A direction of length 1, and where along it what has the concept begins.
pub(super) struct Found {
    direction: Vec<f64>,
    threshold: f64,
}

impl Found {
    pub(super) fn of(rows: &[&[f64]], is_of: &[bool], method: ConceptMethod) -> Result<Found> {
        let [has, lacks] = [true, false].map(|kind| mean(rows, is_of, kind));
        let (direction, threshold) = match method {
            ConceptMethod::DifferenceOfMeans => {
                let direction: Vec<f64> = has.iter().zip(&lacks).map(|(a, b)| a - b).collect();
                let middle: Vec<f64> = has.iter().zip(&lacks).map(|(a, b)| (a + b) / 2.0).collect();
                let threshold = dot(&direction, &middle);
                (direction, threshold)
            }
            ConceptMethod::LogisticProbe => {
                let all = mean_of(rows.iter().copied(), has.len());
                let spread: f64 = rows.iter().map(|row| apart(row, &all)).sum();
                let deviation =
                    (spread / (rows.len() * has.len()).max(1) as f64).sqrt().max(f64::MIN_POSITIVE);
                let scaled: Vec<Vec<f64>> = rows
                    .iter()
                    .map(|row| row.iter().zip(&all).map(|(x, mean)| (x - mean) / deviation).collect())
                    .collect();
                let scaled: Vec<&[f64]> = scaled.iter().map(Vec::as_slice).collect();
                let fit = fit(&scaled, is_of)?;
                let threshold = dot(&fit.weights, &all) - fit.bias * deviation;
                (fit.weights, threshold)
            }
        };
        let length = dot(&direction, &direction).sqrt();
        if !(length.is_finite() && length > 0.0) {
            return Err(Error::new(ErrorKind::Input, "texts that have the concept and texts that lack it are alike here")
                .help("in the embeddings of a token that all texts have nothing differs: look in a later layer, or at another position"));
        }
        Ok(Found { direction: direction.iter().map(|x| x / length).collect(), threshold: threshold / length })
    }

    /// Whether a text has the concept.
    pub(super) fn tells(&self, row: &[f64]) -> bool {
        dot(&self.direction, row) > self.threshold
    }

    fn mean_along(&self, rows: &[Vec<f64>], is_of: &[bool], kind: bool) -> f64 {
        let own = rows.iter().zip(is_of).filter(|(_, is_of)| **is_of == kind);
        let (sum, count) =
            own.fold((0.0, 0), |(sum, count), (row, _)| (sum + dot(&self.direction, row), count + 1));
        sum / f64::from(count.max(1))
    }
}

fn mean(rows: &[&[f64]], is_of: &[bool], kind: bool) -> Vec<f64> {
    let own = rows.iter().zip(is_of).filter(|(_, is_of)| **is_of == kind).map(|(row, _)| *row);
    mean_of(own, rows.first().map_or(0, |row| row.len()))
}

fn mean_of<'a>(rows: impl Iterator<Item = &'a [f64]>, width: usize) -> Vec<f64> {
    let (mut mean, mut count) = (vec![0.0; width], 0usize);
    for row in rows {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
        count += 1;
    }
    mean.iter_mut().for_each(|mean| *mean /= count.max(1) as f64);
    mean
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

impl ConceptDirection {
    /// The hook that it is at.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// The direction `[d_model]`, from what lacks the concept to what has it, as long as their means are apart along it.
    pub fn vector(&self) -> &NamedTensor {
        &self.vector
    }

    /// The share of texts told rightly by directions that were found without them: five-fold.
    pub fn held_out_accuracy(&self) -> f64 {
        self.accuracy
    }

    /// The same where which text has the concept is shuffled, the mean of five times.
    pub fn shuffled_accuracy(&self) -> f64 {
        self.shuffled
    }

    /// How far along the direction, of length 1, what has the concept begins.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// How far beyond the threshold each position of a run lies, in units of the distance between the means `[position]`: above 0 where the
    /// concept is.
    pub fn project(&self, run: &Run) -> Result<NamedTensor> {
        let activation = run.get(self.hook)?;
        let vector = self.vector.tensor().to_device(activation.tensor().device())?;
        let length = vector.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        if activation.tensor().dims().last() != Some(&vector.dim(0)?) {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the run's `{}` has shape {:?}", self.hook, activation.shape()),
            )
            .help("give one run of the model that the direction is of"));
        }
        let along = activation.tensor().contiguous()?.matmul(&vector.unsqueeze(1)?)?.squeeze(1)?; // [position]
        let length = f64::from(length);
        let values: Tensor = ((along / length)? - self.threshold)?;
        let values = (values / length)?;
        let axes = vec![activation.axes()[0].clone()];
        let name = format!("along the {}", self.vector.name());
        Ok(NamedTensor::new(name, values, axes)?.with_value_kind(ValueKind::Signed))
    }
}

impl fmt::Debug for ConceptDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConceptDirection { hook, position, method, accuracy, shuffled, texts, .. } = self;
        write!(
            f,
            "{method} at {hook}, {position}: {:.1} % of {texts} held-out texts told, {:.1} % where labels are shuffled",
            100.0 * accuracy,
            100.0 * shuffled
        )
    }
}

impl Visualize for ConceptDirection {
    fn views(&self) -> Result<Vec<View>> {
        let mut table = Table::new(format!("{} at {}, {}", self.method, self.hook, self.position), ["", ""]);
        table.push(["texts".to_string(), self.texts.to_string()]);
        table.push(["held-out accuracy".to_string(), format!("{:.1} %", 100.0 * self.accuracy)]);
        table.push(["the same, labels shuffled".to_string(), format!("{:.1} %", 100.0 * self.shuffled)]);
        Ok(vec![View::Table(table)])
    }
}
