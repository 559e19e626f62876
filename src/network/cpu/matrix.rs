//! Products of matrices on the CPU, written where they are wanted and add to what is there: candle's own product makes a
//! new tensor each time.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, Layout, bail};
use gemm::Parallelism;

use crate::network::cpu::rows::values_from;

/// Numbers seen as rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

/// Numbers to be written as rows, whose columns stand next to each other. All of them are its own, and nothing between the
/// rows is, so that one can be cut into columns.
pub(super) struct MatrixMut<'a> {
    first: *mut f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
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

    pub(crate) fn of(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Matrix<'a>> {
        let (&[rows, columns], &[row_stride, column_stride]) = (layout.dims(), layout.stride()) else {
            bail!("a matrix has two axes, not those of {layout:?}")
        };
        Matrix::new(values_from(storage, layout)?, [rows, columns], [row_stride, column_stride])
    }

    pub(super) fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    pub(super) fn columns(self, range: Range<usize>) -> candle_core::Result<Matrix<'a>> {
        let values = self.values.get(range.start * self.column_stride..).unwrap_or(&[]);
        Matrix::new(values, [self.rows, range.len()], [self.row_stride, self.column_stride])
    }
}

impl<'a> MatrixMut<'a> {
    /// Rows of `values`, so many numbers apart.
    pub(super) fn new(
        values: &'a mut [f32],
        [rows, columns]: [usize; 2],
        row_stride: usize,
    ) -> candle_core::Result<MatrixMut<'a>> {
        // SAFETY: what is written there are numbers, and nothing else.
        let values = unsafe { std::mem::transmute::<&mut [f32], &mut [MaybeUninit<f32>]>(values) };
        MatrixMut::unwritten(values, [rows, columns], row_stride)
    }

    /// The same of numbers that are to be written before they are read.
    pub(super) fn unwritten(
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
    pub(super) fn fill(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.columns);
        for index in 0..self.rows {
            // SAFETY: the constructor has checked that all rows lie within the slice, and they are this one's own.
            let room = unsafe { self.first.add(index * self.row_stride) };
            // SAFETY: as above; `row` is as long, and borrowed from elsewhere.
            unsafe { room.copy_from_nonoverlapping(row.as_ptr(), row.len()) };
        }
    }

    /// So many columns each, but the last, with the places where they begin.
    pub(super) fn cut(self, width: usize) -> impl Iterator<Item = (Range<usize>, MatrixMut<'a>)> {
        (0..self.columns).step_by(width.max(1)).map(move |start| {
            let range = start..self.columns.min(start + width.max(1));
            // No two of these share a column.
            (range.clone(), MatrixMut { first: self.first.wrapping_add(start), columns: range.len(), ..self })
        })
    }

    pub(super) fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.rows);
        // SAFETY: the constructor has checked that all rows lie within the slice; this one is its own, and no two overlap.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(index * self.row_stride), self.columns) }
    }

    /// The same, for a while.
    pub(super) fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut { of: PhantomData, ..*self }
    }

    /// Makes this `scale a b`, or adds that to it.
    pub(super) fn set(self, a: Matrix, b: Matrix, scale: f32, adds: bool) -> candle_core::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
