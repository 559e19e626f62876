//! Logistic regression with a penalty on the square of its weights (Hastie et al. 2009, "The Elements of Statistical Learning", 4.4), by
//! Newton's steps on as many numbers as there are examples: activations are wider than examples are many.

use nalgebra::{DMatrix, DVector};

use crate::error::{Error, ErrorKind, Result};
use crate::progress;

/// What tells examples apart: positive where `weights * x + bias` is.
pub(super) struct Fit {
    pub(super) weights: Vec<f64>,
    pub(super) bias: f64,
}

const STEPS: usize = 100;
/// By how much the numbers may still change, relative to the largest of them.
const DONE: f64 = 1e-10;

/// The weights that minimise `|w|^2 / 2 + sum over examples of ln(1 + exp(-y (w x + b)))`, y being 1 where an example is one of the concept
/// and -1 where not: what scikit-learn's `LogisticRegression` minimises at `C = 1`. The bias is free.
pub(super) fn fit(rows: &[&[f64]], is_of: &[bool]) -> Result<Fit> {
    let n = rows.len();
    let width = rows.first().map_or(0, |row| row.len());
    let products = DMatrix::from_fn(n, n, |a, b| dot(rows[a], rows[b]));
    // w = sum of alpha x: Newton's step for alpha and b solves (K + W^-1) alpha + b = z, sum of alpha = 0.
    let mut alpha = DVector::<f64>::zeros(n);
    let mut bias = 0.0;
    for _ in 0..STEPS {
        progress::check("fitting a probe")?;
        let margins = &products * &alpha;
        let mut system = DMatrix::<f64>::zeros(n + 1, n + 1);
        system.view_mut((0, 0), (n, n)).copy_from(&products);
        let mut right = DVector::<f64>::zeros(n + 1);
        for i in 0..n {
            let margin = margins[i] + bias;
            let p = 1.0 / (1.0 + (-margin).exp());
            // Of what is told surely there is no slope left; a little keeps the system solvable.
            let slope = (p * (1.0 - p)).max(1e-12);
            let wanted = if is_of[i] { 1.0 } else { 0.0 };
            system[(i, i)] += 1.0 / slope;
            (system[(i, n)], system[(n, i)]) = (1.0, 1.0);
            right[i] = margin + (wanted - p) / slope;
        }
        let Some(solved) = system.lu().solve(&right) else { break };
        let (way, way_of_bias) = (solved.rows(0, n) - &alpha, solved[n] - bias);
        // A whole step can lead too far where examples are far apart: half of it then, and half again.
        let now = loss(&products, &alpha, bias, is_of);
        let mut share = 1.0;
        while share > 1e-6
            && loss(&products, &(&alpha + &way * share), bias + way_of_bias * share, is_of) > now
        {
            share /= 2.0;
        }
        let change = way.amax() / (&alpha + &way).amax().max(1e-300);
        (alpha, bias) = (alpha + way * share, bias + way_of_bias * share);
        if change < DONE {
            let mut weights = vec![0.0; width];
            for (row, &times) in rows.iter().zip(alpha.iter()) {
                weights.iter_mut().zip(*row).for_each(|(weight, x)| *weight += times * x);
            }
            return Ok(Fit { weights, bias });
        }
    }
    Err(Error::new(ErrorKind::Input, format!("a logistic probe of {n} examples does not settle")).help(
        "are activations of both kinds finite, and not all the same? the difference of means needs no fit",
    ))
}

/// What is minimised, of weights that are sums of examples.
fn loss(products: &DMatrix<f64>, alpha: &DVector<f64>, bias: f64, is_of: &[bool]) -> f64 {
    let margins = products * alpha;
    let each = margins.iter().zip(is_of).map(|(margin, &is_of)| {
        let margin = if is_of { margin + bias } else { -margin - bias };
        // ln(1 + exp(-margin)), without overflow.
        (-margin).max(0.0) + (-margin.abs()).exp().ln_1p()
    });
    alpha.dot(&margins) / 2.0 + each.sum::<f64>()
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the minimum every weight is the sum of what examples still pull, and their pulls cancel for the bias.
    #[test]
    fn the_gradient_is_zero_where_it_settles() -> Result<()> {
        settles(1.0)?;
        // Far apart, whole steps lead too far.
        settles(60.0)
    }

    fn settles(scale: f64) -> Result<()> {
        let number = |i: i32, j: i32| scale * (f64::from((i * 31 + j * 17 + i * j * 7) % 23) / 7.0 - 1.5);
        let rows: Vec<Vec<f64>> = (0..24).map(|i| (0..5).map(|j| number(i, j)).collect()).collect();
        let is_of: Vec<bool> = (0..24).map(|i| (i * 5) % 8 < 4).collect();
        let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
        let Fit { weights, bias } = fit(&rows, &is_of)?;
        let pull = |row: &[f64], is_of: bool| {
            let p = 1.0 / (1.0 + (-dot(row, &weights) - bias).exp());
            p - f64::from(u8::from(is_of))
        };
        for (j, weight) in weights.iter().enumerate() {
            let pulls: f64 = rows.iter().zip(&is_of).map(|(row, &is_of)| pull(row, is_of) * row[j]).sum();
            assert!((pulls + weight).abs() < 1e-8 * scale, "weight {j}: {pulls} and {weight}");
        }
        let pulls: f64 = rows.iter().zip(&is_of).map(|(row, &is_of)| pull(row, is_of)).sum();
        assert!(pulls.abs() < 1e-8, "{pulls}");
        Ok(())
    }

    /// Two examples at -1 and 1: by symmetry b = 0, and w solves w = 2 / (1 + e^w).
    #[test]
    fn two_examples_by_hand() -> Result<()> {
        let Fit { weights, bias } = fit(&[&[-1.0], &[1.0]], &[false, true])?;
        assert!(bias.abs() < 1e-9);
        assert!((weights[0] - 2.0 / (1.0 + weights[0].exp())).abs() < 1e-9, "{}", weights[0]);
        Ok(())
    }
}
