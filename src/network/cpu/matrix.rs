//! Products of matrices on the CPU, written where they are wanted and add to what is there: candle's own product makes a
//! new tensor each time.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::ops::{sum_of_products, values_from};
use crate::network::cpu::pages;

/// Numbers seen as rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// Numbers to be written as rows, whose columns stand next to each other. All of them are its own, and nothing between the
/// rows is, so that one can be cut into columns.
pub(crate) struct MatrixMut<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is as `&mut [f32]`, which other threads may have.
unsafe impl Send for MatrixMut<'_> {}

/// How many numbers a matrix reaches over.
fn reach(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Option<usize> {
    match (rows.checked_sub(1), columns.checked_sub(1)) {
        (Some(rows), Some(columns)) => {
            rows.checked_mul(row_stride)?.checked_add(columns.checked_mul(column_stride)?)?.checked_add(1)
        }
        _ => Some(0),
    }
}

impl<'a> Matrix<'a> {
    /// Rows and columns of `values`, so many numbers apart.
    pub(crate) fn new(
        values: &'a [f32],
        [rows, columns]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
    ) -> candle_core::Result<Matrix<'a>> {
        if reach(rows, columns, row_stride, column_stride).is_none_or(|reach| reach > values.len()) {
            bail!("a matrix of {rows} rows and {columns} columns does not fit {} numbers", values.len());
        }
        Ok(Matrix { values, rows, columns, row_stride, column_stride })
    }

    fn of(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Matrix<'a>> {
        let (&[rows, columns], &[row_stride, column_stride]) = (layout.dims(), layout.stride()) else {
            bail!("a matrix has two axes, not those of {layout:?}")
        };
        Matrix::new(values_from(storage, layout)?, [rows, columns], [row_stride, column_stride])
    }

    pub(crate) fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn columns(self, range: Range<usize>) -> candle_core::Result<Matrix<'a>> {
        let values = self.values.get(range.start * self.column_stride..).unwrap_or(&[]);
        Matrix::new(values, [self.rows, range.len()], [self.row_stride, self.column_stride])
    }
}

impl<'a> MatrixMut<'a> {
    /// Rows of `values`, so many numbers apart.
    pub(crate) fn new(
        values: &'a mut [f32],
        [rows, columns]: [usize; 2],
        row_stride: usize,
    ) -> candle_core::Result<MatrixMut<'a>> {
        // SAFETY: what is written there are numbers, and nothing else.
        let values = unsafe { std::mem::transmute::<&mut [f32], &mut [MaybeUninit<f32>]>(values) };
        MatrixMut::unwritten(values, [rows, columns], row_stride)
    }

    /// The same of numbers that are to be written before they are read.
    fn unwritten(
        values: &'a mut [MaybeUninit<f32>],
        [rows, columns]: [usize; 2],
        row_stride: usize,
    ) -> candle_core::Result<MatrixMut<'a>> {
        let apart = rows <= 1 || row_stride >= columns;
        if !apart || reach(rows, columns, row_stride, 1).is_none_or(|reach| reach > values.len()) {
            bail!("a matrix of {rows} rows and {columns} columns does not fit {} numbers", values.len());
        }
        Ok(MatrixMut { first: values.as_mut_ptr().cast(), rows, columns, row_stride, of: PhantomData })
    }

    /// Makes each row this one.
    fn fill(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.columns);
        for index in 0..self.rows {
            // SAFETY: the constructor has checked that all rows lie within the slice, and they are this one's own.
            let room = unsafe { self.first.add(index * self.row_stride) };
            // SAFETY: as above; `row` is as long, and borrowed from elsewhere.
            unsafe { room.copy_from_nonoverlapping(row.as_ptr(), row.len()) };
        }
    }

    /// So many columns each, but the last, with the places where they begin.
    fn cut(self, width: usize) -> impl Iterator<Item = (Range<usize>, MatrixMut<'a>)> {
        (0..self.columns).step_by(width.max(1)).map(move |start| {
            let range = start..self.columns.min(start + width.max(1));
            // No two of these share a column.
            (range.clone(), MatrixMut { first: self.first.wrapping_add(start), columns: range.len(), ..self })
        })
    }

    fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.rows);
        // SAFETY: the constructor has checked that all rows lie within the slice; this one is its own, and no two overlap.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(index * self.row_stride), self.columns) }
    }

    /// The same, for a while.
    fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut { of: PhantomData, ..*self }
    }

    /// Makes this `scale a b`, or adds that to it.
    pub(crate) fn set(self, a: Matrix, b: Matrix, scale: f32, adds: bool) -> candle_core::Result<()> {
        if (a.rows, a.columns, b.columns) != (self.rows, b.rows, self.columns) {
            bail!(
                "a product of {} by {} and {} by {} is not {} by {}",
                a.rows,
                a.columns,
                b.rows,
                b.columns,
                self.rows,
                self.columns
            );
        }
        // SAFETY: the matrices' constructors have checked that all rows and columns lie within their slices, and that no two
        // rows of the one that is written overlap; what is written is this one's own.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                a.columns,
                self.first,
                1,
                self.row_stride as isize,
                adds,
                a.values.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                b.values.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0,
                scale,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        Ok(())
    }
}

/// Rows up to which gemm takes weights from where they lie: from lines that are far apart, and so drive each other out of the
/// cache.
const UNPACKED: usize = 48;

/// Rows and columns of weights that are taken together then: they fit a core's cache, and lines of so many columns are read
/// at the speed of the memory.
const PIECE: [usize; 2] = [128, 384];

impl MatrixMut<'_> {
    /// Adds a product to this, with weights that are copied into the cache piece by piece.
    fn add_in_pieces(self, a: Matrix, b: Matrix) -> candle_core::Result<()> {
        let mut piece = vec![0f32; PIECE[0] * (PIECE[1] + LINE)];
        for (columns, mut part) in self.cut(PIECE[1]) {
            // Not a power of two apart.
            let stride = columns.len() + LINE;
            for start in (0..b.rows).step_by(PIECE[0]) {
                let inner = start..b.rows.min(start + PIECE[0]);
                for (row, copy) in inner.clone().zip(piece.chunks_mut(stride)) {
                    let row = &b.values[row * b.row_stride + columns.start..];
                    copy[..columns.len()].copy_from_slice(&row[..columns.len()]);
                }
                let piece = Matrix::new(&piece, [inner.len(), columns.len()], [stride, 1])?;
                part.reborrow().set(a.columns(inner)?, piece, 1.0, true)?;
            }
        }
        Ok(())
    }
}

/// Numbers of a cache line.
const LINE: usize = 16;

/// Weights from which on one row is worth more than one thread.
const MANY: usize = 1 << 16;

/// One row times a matrix, add to what is there, as generation does it: bound by reading the matrix, so all threads read.
fn row_times(out: &mut [f32], row: &[f32], b: Matrix) -> candle_core::Result<()> {
    let block = out.len().div_ceil(rayon::current_num_threads()).clamp(64, 2048);
    match (b.row_stride, b.column_stride) {
        (_, 1) => out.par_chunks_mut(block).enumerate().for_each(|(index, out)| {
            let len = out.len();
            let line = |i: usize| &b.values[i * b.row_stride + index * block..][..len];
            let (fours, rest) = row.as_chunks::<4>();
            for (i, x) in fours.iter().enumerate() {
                let [a, b, c, d] = [0, 1, 2, 3].map(|j| line(4 * i + j));
                for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    *out += x[0] * a + x[1] * b + x[2] * c + x[3] * d;
                }
            }
            for (i, x) in rest.iter().enumerate() {
                out.iter_mut().zip(line(4 * fours.len() + i)).for_each(|(out, weight)| *out += x * weight);
            }
        }),
        (1, _) => out.par_chunks_mut(block).enumerate().for_each(|(index, out)| {
            for (column, out) in out.iter_mut().enumerate() {
                let start = (index * block + column) * b.column_stride;
                *out += sum_of_products(row, &b.values[start..start + row.len()]);
            }
        }),
        _ => bail!("a weight whose rows and columns are both apart"),
    }
    Ok(())
}

/// Rows up to which it is less work to turn the product around than to turn the weights around.
const FEW: usize = 512;

/// Adds a product with weights that stand one after another in each column: with each column as a row, which are turned while
/// they are in the cache. A product made of rows would have to copy such weights into another order first.
fn add_by_columns(mut out: MatrixMut, x: Matrix, weight: Matrix) -> candle_core::Result<()> {
    let (rows, columns) = (out.rows, out.columns);
    let mut turned = vec![0f32; rows * columns];
    let product = MatrixMut::new(&mut turned, [columns, rows], rows)?;
    product.set(weight.transposed(), x.transposed(), 1.0, false)?;
    for (line, turned) in turned.chunks(LINE * rows).enumerate() {
        for row in 0..rows {
            let out = &mut out.row(row)[line * LINE..];
            out.iter_mut().zip(turned[row..].iter().step_by(rows)).for_each(|(out, x)| *out += x);
        }
    }
    Ok(())
}

/// `x W + b` of `[row, in]`, `[in, out]` and `[out]`, with no gradient.
pub(crate) fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    Ok(x.apply_op2_no_bwd(weight, &Affine { bias })?)
}

struct Affine<'a> {
    bias: Option<&'a Tensor>,
}

impl CustomOp2 for Affine<'_> {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, weight) = (Matrix::of(x, x_layout)?, Matrix::of(weight, weight_layout)?);
        let (rows, columns) = (x.rows, weight.columns);
        let bias = self.bias.map(Tensor::to_vec1::<f32>).transpose()?;
        if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != columns) {
            bail!("a bias of {} for {columns} columns", bias.len());
        }
        let bias = bias.unwrap_or_else(|| vec![0.0; columns]);
        let (threads, are_many) = (rayon::current_num_threads(), weight.rows * columns >= MANY);
        if rows == 1 && are_many && x.column_stride == 1 {
            let mut out = bias;
            row_times(&mut out, &x.values[..x.columns], weight)?;
            return Ok((CpuStorage::F32(out), Shape::from((rows, columns))));
        }
        let by_columns = rows <= FEW && are_many && weight.row_stride == 1;
        let in_pieces = rows <= UNPACKED && are_many && weight.column_stride == 1;
        // Each thread has columns of its own: with few rows, a product shared by all threads spends much on the sharing.
        let width = match columns.div_ceil(if in_pieces { 2 } else { 4 } * threads) {
            width if by_columns => width.clamp(32, 512),
            width => width.next_multiple_of(LINE),
        };
        let make = |(range, mut part): (Range<usize>, MatrixMut)| {
            let weight = weight.columns(range.clone())?;
            part.fill(&bias[range]);
            match (by_columns, in_pieces) {
                (true, _) => add_by_columns(part, x, weight),
                (_, true) => part.add_in_pieces(x, weight),
                _ => part.set(x, weight, 1.0, true),
            }
        };
        let write = |room: &mut [MaybeUninit<f32>]| {
            let parts = MatrixMut::unwritten(room, [rows, columns], columns)?.cut(width);
            if pages::below_parallel_threshold(rows * weight.rows * columns / 8) {
                return parts.into_iter().try_for_each(make);
            }
            parts.collect::<Vec<_>>().into_par_iter().with_max_len(1).try_for_each(make)
        };
        // SAFETY: all columns are in some part, and each part is filled.
        let out = unsafe { pages::alloc_uninit(rows * columns, write) }?;
        Ok((CpuStorage::F32(out), Shape::from((rows, columns))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Against candle's own product, by every way there is: one row, few and many, weights of either layout, and a part of
    /// wider ones.
    #[test]
    fn affine_is_candle_s() -> Result<()> {
        let values = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
        };
        let of = |rows: usize, columns: usize, seed: usize| {
            Tensor::from_vec(values(rows * columns, seed), (rows, columns), &Device::Cpu)
        };
        let (inner, columns) = (131, 1703);
        let bias = Tensor::from_vec(values(columns, 5), columns, &Device::Cpu)?;
        let weights = [
            of(inner, columns, 2)?,
            of(columns, inner, 3)?.t()?,
            of(inner, 2 * columns, 4)?.narrow(1, 7, columns)?,
        ];
        for rows in [1, 2, 17, 48, 49, 512, 513] {
            let x = of(rows, inner, 1)?;
            for weight in &weights {
                let plain = x.matmul(&weight.contiguous()?)?;
                // Sums of 131 products in another order: their rounding is in proportion to the largest.
                let allowed = 1e-6 * plain.abs()?.max_all()?.to_scalar::<f32>()?;
                for (bias, expected) in [(None, plain.clone()), (Some(&bias), plain.broadcast_add(&bias)?)] {
                    let apart =
                        (affine(&x, weight, bias)? - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
                    assert!(apart < allowed, "{rows} rows, {weight:?}: {apart}");
                }
            }
        }
        assert!(affine(&of(3, 4, 1)?, &of(5, 6, 1)?, None).is_err());
        assert!(affine(&of(3, 5, 1)?, &of(5, 6, 1)?, Some(&bias)).is_err());
        Ok(())
    }

    #[test]
    fn no_matrix_reaches_beyond_its_numbers() {
        let mut numbers = [0f32; 12];
        assert!(Matrix::new(&numbers, [3, 4], [4, 1]).is_ok());
        assert!(Matrix::new(&numbers, [3, 5], [4, 1]).is_err());
        assert!(Matrix::new(&numbers, [2, 2], [usize::MAX, 1]).is_err());
        assert!(MatrixMut::new(&mut numbers, [3, 4], 4).is_ok());
        assert!(MatrixMut::new(&mut numbers, [3, 4], 3).is_err(), "rows would overlap");
    }
}
