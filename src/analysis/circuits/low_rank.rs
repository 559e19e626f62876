//! Matrices of low rank as two factors, in f64: what Elhage et al. 2021, "A Mathematical Framework for Transformer
//! Circuits", ask of circuits, without the product.

use candle_core::{DType, Device, Tensor};
use nalgebra::{Complex, ComplexField, DMatrix, DVector, Dyn, QR, Schur};

use crate::error::{Error, ErrorKind, Result};

/// `left` `[rows, rank]` times `right` `[rank, columns]`.
pub(crate) struct LowRank {
    left: DMatrix<f64>,
    right: DMatrix<f64>,
}

/// Singular values, the largest first, and their vectors as the columns of `left` and `right`.
pub(crate) struct Svd {
    pub left: DMatrix<f64>,
    pub values: Vec<f64>,
    pub right: DMatrix<f64>,
}

impl LowRank {
    pub fn new(left: &Tensor, right: &Tensor) -> Result<LowRank> {
        Ok(LowRank { left: matrix(left)?, right: matrix(right)? })
    }

    /// Both factors become triangular, so that the decomposition is of a square as small as the rank.
    pub fn svd(&self) -> Result<Svd> {
        let (left, right) = self.triangular();
        let found = product(&left.r(), &right.r().transpose())?.try_svd(true, true, f64::EPSILON, ITERATIONS);
        let Some((Some(u), values, Some(v))) = found.map(|svd| (svd.u, svd.singular_values, svd.v_t)) else {
            return Err(diverged("singular values"));
        };
        let (left, right) = rayon::join(|| product(&left.q(), &u), || product(&right.q(), &v.transpose()));
        Ok(Svd { left: left?, values: values.iter().copied().collect(), right: right? })
    }

    /// Those of [`svd`](Factored::svd), which take a third of the time without their vectors.
    pub fn singular_values(&self) -> Result<Vec<f64>> {
        let (left, right) = self.triangular();
        let found =
            product(&left.r(), &right.r().transpose())?.try_svd(false, false, f64::EPSILON, ITERATIONS);
        let found = found.ok_or_else(|| diverged("singular values"))?;
        Ok(found.singular_values.iter().copied().collect())
    }

    fn triangular(&self) -> (QR<f64, Dyn, Dyn>, QR<f64, Dyn, Dyn>) {
        rayon::join(|| self.left.clone().qr(), || self.right.transpose().qr())
    }

    /// The eigenvalues that are not zero by rank alone: those of the factors multiplied the other way round.
    pub fn eigenvalues(&self) -> Result<Vec<Complex<f64>>> {
        eigenvalues(product(&self.right, &self.left)?)
    }

    /// The Frobenius norm.
    pub fn norm(&self) -> Result<f64> {
        let left = product(&self.left.transpose(), &self.left)?;
        let right = product(&self.right, &self.right.transpose())?;
        Ok(left.dot(&right).max(0.0).sqrt())
    }

    /// The first rows and columns of the product, row by row.
    pub fn submatrix(&self, size: usize) -> Result<Vec<f32>> {
        let (left, right) = (self.left.rows(0, size).into_owned(), self.right.columns(0, size).into_owned());
        Ok(product(&left, &right)?.transpose().iter().map(|&value| value as f32).collect())
    }
}

/// Enough for any matrix that converges at all.
const ITERATIONS: usize = 10_000;

/// The eigenvalues of a square matrix: by absolute value, then real, then imaginary part, the largest first.
pub(crate) fn eigenvalues(square: DMatrix<f64>) -> Result<Vec<Complex<f64>>> {
    let schur = Schur::try_new(square.clone(), f64::EPSILON, ITERATIONS)
        .or_else(|| Schur::try_new(turned(square), f64::EPSILON, ITERATIONS))
        .ok_or_else(|| diverged("eigenvalues"))?;
    let mut values: Vec<Complex<f64>> = schur.complex_eigenvalues().iter().copied().collect();
    // Conjugates have one absolute value but for the last bits, which must not decide their order.
    let largest = values.iter().map(|value| value.modulus()).fold(f64::MIN_POSITIVE, f64::max);
    let rounded = |part: f64| (part / largest * 1e9).round();
    let rank = |value: &Complex<f64>| [rounded(value.modulus()), rounded(value.re), rounded(value.im)];
    values.sort_by(|a, b| {
        let (a, b) = (rank(a), rank(b));
        let parts = b.iter().zip(&a).map(|(b, a)| b.total_cmp(a));
        parts.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    Ok(values)
}

/// The same map in other axes, mirrored at a plane that is nothing special: the iteration stands still on some squares,
/// such as a cycle of axes, in their own.
fn turned(square: DMatrix<f64>) -> DMatrix<f64> {
    let size = square.nrows();
    let normal = DVector::from_fn(size, |i, _| (i as f64 + 1.0).sin()).normalize();
    let mirror = DMatrix::identity(size, size) - &normal * normal.transpose() * 2.0;
    &mirror * square * &mirror
}

/// The real part of the sum of eigenvalues over the sum of their absolute values; 0 where all are 0.
pub(crate) fn positivity(eigenvalues: &[Complex<f64>]) -> f64 {
    let real: f64 = eigenvalues.iter().map(|value| value.re).sum();
    let absolute: f64 = eigenvalues.iter().map(|value| value.modulus()).sum();
    if absolute > 0.0 { real / absolute } else { 0.0 }
}

/// The product, by candle's arithmetic: nalgebra's own is slow without its feature `std`, which brings crates that take as long to
/// build as nalgebra.
fn product(left: &DMatrix<f64>, right: &DMatrix<f64>) -> Result<DMatrix<f64>> {
    // Columns that stand one after another are the rows of the transposed.
    let transposed =
        |of: &DMatrix<f64>| Tensor::from_slice(of.as_slice(), (of.ncols(), of.nrows()), &Device::Cpu);
    let values = transposed(right)?.matmul(&transposed(left)?)?.flatten_all()?.to_vec1()?;
    Ok(DMatrix::from_vec(left.nrows(), right.ncols(), values))
}

/// A tensor of two axes as a matrix in f64.
pub(crate) fn matrix(tensor: &Tensor) -> Result<DMatrix<f64>> {
    let (rows, columns) = tensor.dims2()?;
    let values: Vec<f64> = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(DMatrix::from_row_slice(rows, columns, &values))
}

fn diverged(what: &str) -> Error {
    Error::new(
        ErrorKind::Weights,
        format!("the {what} of a circuit could not be found: the iteration does not end"),
    )
    .help("its weights hold numbers that are not finite, or very far apart")
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::{LowRank, positivity};
    use crate::error::Result;

    fn low_rank(left: &[f64], right: &[f64], rows: usize, rank: usize) -> Result<LowRank> {
        LowRank::new(
            &Tensor::from_slice(left, (rows, rank), &Device::Cpu)?,
            &Tensor::from_slice(right, (rank, rows), &Device::Cpu)?,
        )
    }

    #[test]
    fn by_hand() -> Result<()> {
        // What, factors of a square of 3 rows, singular values, eigenvalues, positivity.
        type Case = (&'static str, [f64; 6], [f64; 6], [f64; 2], [(f64, f64); 2], f64);
        let cases: [Case; 5] = [
            (
                "a diagonal",
                [3., 0., 0., -2., 0., 0.],
                [1., 0., 0., 0., 1., 0.],
                [3., 2.],
                [(3., 0.), (-2., 0.)],
                0.2,
            ),
            (
                "a quarter turn",
                [0., -1., 1., 0., 0., 0.],
                [1., 0., 0., 0., 1., 0.],
                [1., 1.],
                [(0., 1.), (0., -1.)],
                0.0,
            ),
            (
                "a copy of two axes",
                [1., 0., 0., 1., 0., 0.],
                [1., 0., 0., 0., 1., 0.],
                [1., 1.],
                [(1., 0.), (1., 0.)],
                1.0,
            ),
            (
                "one axis to another",
                [5., 0., 0., 0., 0., 0.],
                [0., 2., 0., 0., 0., 0.],
                [10., 0.],
                [(0., 0.), (0., 0.)],
                0.0,
            ),
            ("zeros", [0.; 6], [0.; 6], [0., 0.], [(0., 0.), (0., 0.)], 0.0),
        ];
        for (what, left, right, singular, eigen, positive) in cases {
            let circuit = low_rank(&left, &right, 3, 2)?;
            let svd = circuit.svd()?;
            assert!(
                svd.values.iter().zip(singular).all(|(a, b)| (a - b).abs() < 1e-12),
                "{what}: {:?}",
                svd.values
            );
            let found = circuit.eigenvalues()?;
            let near = |(a, b): (&nalgebra::Complex<f64>, (f64, f64))| (a.re - b.0).hypot(a.im - b.1) < 1e-12;
            assert!(found.iter().zip(eigen).all(near), "{what}: {found:?}");
            assert!((positivity(&found) - positive).abs() < 1e-12, "{what}: {}", positivity(&found));
            let norm = singular.iter().map(|value| value * value).sum::<f64>().sqrt();
            assert!((circuit.norm()? - norm).abs() < 1e-12, "{what}: {}", circuit.norm()?);
            let values = nalgebra::DMatrix::from_diagonal(&svd.values.into());
            let back = (&svd.left * values * svd.right.transpose()).transpose();
            let corner = circuit.submatrix(3)?;
            let apart = back.iter().zip(&corner).map(|(a, b)| (a - f64::from(*b)).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-6, "{what}: {back} is not {corner:?}");
        }
        Ok(())
    }

    #[test]
    fn of_many_dimensions() -> Result<()> {
        const ROWS: usize = 40;
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5
        };
        // Some columns of the left factor are zero or say what another said.
        for spoilt in [0, 1, 5] {
            let rank = 12;
            let mut left: Vec<f64> = (0..ROWS * rank).map(|_| draw()).collect();
            for row in left.chunks_mut(rank) {
                (0..spoilt).for_each(|column| row[2 * column] = if column == 0 { 0.0 } else { row[11] });
            }
            let right: Vec<f64> = (0..ROWS * rank).map(|_| draw()).collect();
            let circuit = low_rank(&left, &right, ROWS, rank)?;
            let svd = circuit.svd()?;
            let values = nalgebra::DMatrix::from_diagonal(&svd.values.clone().into());
            let back = (&svd.left * values * svd.right.transpose()).transpose();
            let apart = back.iter().zip(circuit.submatrix(ROWS)?).map(|(a, b)| (a - f64::from(b)).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-6);
            assert!(svd.values.windows(2).all(|pair| pair[0] >= pair[1]));
            assert_eq!(svd.values.iter().filter(|value| **value > 1e-9).count(), rank - spoilt);
            let squares: f64 = svd.values.iter().map(|value| value * value).sum();
            assert!((squares.sqrt() - circuit.norm()?).abs() < 1e-9);
        }
        Ok(())
    }

    /// Squares that are triangular in parts already, which iterations may stumble over.
    #[test]
    fn eigenvalues_of_simple_squares() -> Result<()> {
        let square = |rows: [[f64; 4]; 4]| nalgebra::DMatrix::from_row_slice(4, 4, rows.as_flattened());
        let cycle = [[0., 1., 0., 0.], [0., 0., 1., 0.], [0., 0., 0., 1.], [1., 0., 0., 0.]];
        let blocks = [[0., -2., 0., 0.], [2., 0., 0., 0.], [0., 0., 1., 7.], [0., 0., 0., -1.]];
        let upper = [[4., 1., 2., 3.], [0., -3., 5., 6.], [0., 0., 2., 7.], [0., 0., 0., 1.]];
        let lower = [[1., 0., 0., 0.], [5., 2., 0., 0.], [6., 7., -3., 0.], [8., 9., 1., 4.]];
        let cases = [
            (cycle, [(1., 0.), (0., 1.), (0., -1.), (-1., 0.)]),
            (blocks, [(0., 2.), (0., -2.), (1., 0.), (-1., 0.)]),
            (upper, [(4., 0.), (-3., 0.), (2., 0.), (1., 0.)]),
            (lower, [(4., 0.), (-3., 0.), (2., 0.), (1., 0.)]),
        ];
        for (rows, expected) in cases {
            let found = super::eigenvalues(square(rows))?;
            let near = |(a, b): (&nalgebra::Complex<f64>, (f64, f64))| (a.re - b.0).hypot(a.im - b.1) < 1e-9;
            assert!(found.iter().zip(expected).all(near), "{rows:?}: {found:?}");
        }
        Ok(())
    }
}
