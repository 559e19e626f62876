//! The direction that parts two kinds of activations, by either method.

use std::fmt;

use crate::analysis::concepts::logistic::{dot, fit};
use crate::error::Result;

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

/// A direction of length 1, and where along it what has the concept begins.
pub(super) struct Direction {
    pub(super) unit: Vec<f64>,
    pub(super) threshold: f64,
}

impl Direction {
    /// Nothing where both kinds are alike.
    pub(super) fn of(rows: &[&[f64]], is_of: &[bool], method: ConceptMethod) -> Result<Option<Direction>> {
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
            return Ok(None);
        }
        Ok(Some(Direction {
            unit: direction.iter().map(|x| x / length).collect(),
            threshold: threshold / length,
        }))
    }

    /// Whether a text has the concept.
    pub(super) fn tells(&self, row: &[f64]) -> bool {
        dot(&self.unit, row) > self.threshold
    }

    pub(super) fn mean_along(&self, rows: &[Vec<f64>], is_of: &[bool], kind: bool) -> f64 {
        let own = rows.iter().zip(is_of).filter(|(_, is_of)| **is_of == kind);
        let (sum, count) =
            own.fold((0.0, 0), |(sum, count), (row, _)| (sum + dot(&self.unit, row), count + 1));
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
