//! Linear maps: products with weights, shared among threads as their sizes ask for.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::error::{Error, ErrorKind, Result};
use crate::network::cpu::matrix::{Matrix, MatrixMut};
use crate::network::cpu::pages;
use crate::network::cpu::sum::{sum_of_products, vectorized};

/// Rows up to which gemm takes weights from where they lie: from lines that are far apart, and so drive each other out of the
/// cache.
const UNPACKED: usize = 48;

/// Rows and columns of weights that are taken together then: they fit a core's cache, and lines of so many columns are read
/// at the speed of the memory.
const PIECE: [usize; 2] = [128, 384];

/// How the numbers of weights `[in, out]` stand, which decides the order of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightLayout {
    /// Those of a row one after another.
    Rows,
    /// Those of a column.
    Columns,
    /// Neither.
    Apart,
}

/// Weights `[in, out]` of a product, which are read part by part.
pub(crate) trait MatrixSource: Sync {
    /// How many rows and columns.
    fn shape(&self) -> [usize; 2];

    fn layout(&self) -> WeightLayout;

    /// How many columns of so many rows are to be read at once at most: what has to be made of what is stored fits a core's cache then.
    fn most_columns(&self, rows: usize) -> usize;

    /// Some rows and columns, where they lie or made in `room`.
    fn part<'a>(
        &'a self,
        rows: Range<usize>,
        columns: Range<usize>,
        room: &'a mut Vec<f32>,
    ) -> candle_core::Result<Matrix<'a>>;

    /// Some rows and columns, copied row by row, so many numbers apart.
    fn copy_rows(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) -> candle_core::Result<()>;

    /// Adds to each number the product of a row with one of the columns from `first` on, where these stand in one piece each.
    fn add_products(&self, row: &[f32], first: usize, out: &mut [f32]) -> candle_core::Result<()>;
}

impl MatrixSource for Matrix<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    fn layout(&self) -> WeightLayout {
        match (self.row_stride, self.column_stride) {
            (_, 1) => WeightLayout::Rows,
            (1, _) => WeightLayout::Columns,
            _ => WeightLayout::Apart,
        }
    }

    fn most_columns(&self, _: usize) -> usize {
        usize::MAX
    }

    fn part<'a>(
        &'a self,
        rows: Range<usize>,
        columns: Range<usize>,
        _: &'a mut Vec<f32>,
    ) -> candle_core::Result<Matrix<'a>> {
        self.transposed().columns(rows)?.transposed().columns(columns)
    }

    fn copy_rows(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) -> candle_core::Result<()> {
        for (row, copy) in rows.zip(out.chunks_mut(stride)) {
            let row = &self.values[row * self.row_stride + columns.start..];
            copy[..columns.len()].copy_from_slice(&row[..columns.len()]);
        }
        Ok(())
    }

    fn add_products(&self, row: &[f32], first: usize, out: &mut [f32]) -> candle_core::Result<()> {
        vectorized(
            #[inline(always)]
            || add_products_of_columns(out, row, self, first),
        );
        Ok(())
    }
}

impl MatrixMut<'_> {
    /// Adds a product with some columns of weights to this, which are copied into the cache piece by piece.
    fn add_in_pieces(self, a: Matrix, b: &impl MatrixSource, first: usize) -> candle_core::Result<()> {
        let mut piece = vec![0f32; PIECE[0] * (PIECE[1] + LINE)];
        let [rows, _] = b.shape();
        for (columns, mut part) in self.cut(PIECE[1]) {
            // Not a power of two apart.
            let stride = columns.len() + LINE;
            for start in (0..rows).step_by(PIECE[0]) {
                let inner = start..rows.min(start + PIECE[0]);
                b.copy_rows(inner.clone(), first + columns.start..first + columns.end, &mut piece, stride)?;
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

/// Rows of weights that one row is multiplied with at once, a multiple of four; and columns.
const LINES: usize = 16;

#[inline(always)]
fn add_products_of_columns(out: &mut [f32], row: &[f32], matrix: &Matrix, first: usize) {
    for (column, out) in (first..).zip(out) {
        *out += sum_of_products(row, &matrix.values[column * matrix.column_stride..][..row.len()]);
    }
}

/// Adds a row times some lines of a matrix, four at a time.
#[inline(always)]
fn add_lines(out: &mut [f32], row: &[f32], lines: Matrix) {
    let len = out.len();
    let line = |i: usize| &lines.values[i * lines.row_stride..][..len];
    let (fours, rest) = row.as_chunks::<4>();
    for (i, x) in fours.iter().enumerate() {
        let [a, b, c, d] = [0, 1, 2, 3].map(|j| line(4 * i + j));
        for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *out += x[0] * a + x[1] * b + x[2] * c + x[3] * d;
        }
    }
    for (i, x) in rest.iter().enumerate() {
        let line = line(4 * fours.len() + i);
        out.iter_mut().zip(line).for_each(|(out, weight)| *out += x * weight);
    }
}

/// One row times a matrix, add to what is there, as generation does it: bound by reading the matrix, so all threads read.
fn row_times(out: &mut [f32], row: &[f32], b: &impl MatrixSource) -> candle_core::Result<()> {
    let block = out.len().div_ceil(rayon::current_num_threads()).clamp(64, 2048);
    match b.layout() {
        WeightLayout::Rows => out.par_chunks_mut(block).enumerate().try_for_each(|(index, out)| {
            let columns = index * block..index * block + out.len();
            with_room(|room| {
                for (lines, row) in row.chunks(LINES).enumerate() {
                    let part = b.part(lines * LINES..lines * LINES + row.len(), columns.clone(), room)?;
                    vectorized(
                        #[inline(always)]
                        || add_lines(out, row, part),
                    );
                }
                Ok(())
            })
        }),
        WeightLayout::Columns => {
            let parts = out.par_chunks_mut(block).enumerate();
            parts.try_for_each(|(index, out)| b.add_products(row, index * block, out))
        }
        WeightLayout::Apart => bail!("a weight whose rows and columns are both apart"),
    }
}

/// Rows up to which it is less work to turn the product around than to turn the weights around.
const FEW: usize = 512;

/// Rows of weights that are taken together: what is made of stored ones, for as many columns as make a product worth its copies, fits
/// the second cache then. Where sums are cut decides how they are rounded, so it does not depend on where weights lie.
const DEPTH: usize = 1024;

/// The same of a product that is turned.
const TURNED_DEPTH: usize = 256;

/// Adds a product with some columns of weights, [`DEPTH`] rows at a time.
fn add_product(
    mut out: MatrixMut,
    x: Matrix,
    b: &impl MatrixSource,
    columns: Range<usize>,
    room: &mut Vec<f32>,
) -> candle_core::Result<()> {
    for rows in depths(x.columns, DEPTH) {
        let part = b.part(rows.clone(), columns.clone(), room)?;
        out.reborrow().set(x.columns(rows)?, part, 1.0, true)?;
    }
    Ok(())
}

/// The same with weights that stand one after another in each column: with each column as a row, which are turned while they are in the
/// cache. A product made of rows would have to copy such weights into another order first.
fn add_product_by_columns(
    mut out: MatrixMut,
    x: Matrix,
    b: &impl MatrixSource,
    columns: Range<usize>,
    room: &mut Vec<f32>,
) -> candle_core::Result<()> {
    let rows = out.rows;
    let mut turned = vec![0f32; rows * columns.len()];
    for inner in depths(x.columns, TURNED_DEPTH) {
        let part = b.part(inner.clone(), columns.clone(), room)?;
        let product = MatrixMut::new(&mut turned, [columns.len(), rows], rows)?;
        product.set(part.transposed(), x.columns(inner.clone())?.transposed(), 1.0, inner.start > 0)?;
    }
    for (line, turned) in turned.chunks(LINE * rows).enumerate() {
        for row in 0..rows {
            let out = &mut out.row(row)[line * LINE..];
            out.iter_mut().zip(turned[row..].iter().step_by(rows)).for_each(|(out, x)| *out += x);
        }
    }
    Ok(())
}

thread_local! {
    /// What weights are widened into, kept from one part to the next: it is as large as a core's cache.
    static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

fn with_room<T>(make: impl FnOnce(&mut Vec<f32>) -> T) -> T {
    let mut room = ROOM.take();
    let made = make(&mut room);
    ROOM.set(room);
    made
}

fn depths(inner: usize, depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..inner).step_by(depth).map(move |start| start..inner.min(start + depth))
}

/// `x W + b` of `[row, in]`, `[in, out]` and `[out]`, with no gradient.
pub(crate) fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (storage, layout) = weight.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => affine_from(x, &Matrix::of(storage, layout)?, bias),
        _ => Err(Error::new(ErrorKind::Model, "weights of another device are multiplied with there")),
    }
}

/// The same with weights that are read part by part.
pub(crate) fn affine_from(x: &Tensor, weight: &impl MatrixSource, bias: Option<&Tensor>) -> Result<Tensor> {
    Ok(x.apply_op1_no_bwd(&Affine { weight, bias })?)
}

struct Affine<'a, W> {
    weight: &'a W,
    bias: Option<&'a Tensor>,
}

impl<W: MatrixSource> CustomOp1 for Affine<'_, W> {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        affine_of(Matrix::of(x, layout)?, self.weight, self.bias)
    }
}

/// The numbers of [`affine`].
pub(crate) fn affine_of(
    x: Matrix,
    weight: &impl MatrixSource,
    bias: Option<&Tensor>,
) -> candle_core::Result<(CpuStorage, Shape)> {
    let [inner, columns] = weight.shape();
    let (rows, layout) = (x.rows, weight.layout());
    if x.columns != inner {
        bail!("{} numbers a row times weights of {inner} rows", x.columns);
    }
    let bias = bias.map(Tensor::to_vec1::<f32>).transpose()?;
    if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != columns) {
        bail!("a bias of {} for {columns} columns", bias.len());
    }
    let bias = bias.unwrap_or_else(|| vec![0.0; columns]);
    let (threads, are_many) = (rayon::current_num_threads(), inner * columns >= MANY);
    if rows == 1 && are_many && x.column_stride == 1 {
        let mut out = bias;
        row_times(&mut out, &x.values[..x.columns], weight)?;
        return Ok((CpuStorage::F32(out), Shape::from((rows, columns))));
    }
    let by_columns = rows <= FEW && are_many && layout == WeightLayout::Columns;
    let depth = if by_columns { TURNED_DEPTH } else { DEPTH };
    let in_pieces = rows <= UNPACKED && are_many && layout == WeightLayout::Rows;
    // Each thread has columns of its own: with few rows, a product shared by all threads spends much on the sharing.
    let width = match columns.div_ceil(if in_pieces { 2 } else { 4 } * threads) {
        width if by_columns => width.clamp(32, 512),
        width => width.next_multiple_of(LINE),
    };
    let mut width = if in_pieces { width } else { width.min(weight.most_columns(inner.min(depth))) };
    // A single column would be summed in another order.
    while width > 1 && columns > width && columns % width == 1 {
        width += 1;
    }
    let make = |(range, mut part): (Range<usize>, MatrixMut)| {
        part.fill(&bias[range.clone()]);
        if in_pieces {
            return part.add_in_pieces(x, weight, range.start);
        }
        with_room(|room| match by_columns {
            true => add_product_by_columns(part, x, weight, range, room),
            false => add_product(part, x, weight, range, room),
        })
    };
    let write = |room: &mut [MaybeUninit<f32>]| {
        let parts = MatrixMut::unwritten(room, [rows, columns], columns)?.cut(width);
        if pages::below_parallel_threshold(rows * inner * columns / 8) {
            return parts.into_iter().try_for_each(make);
        }
        parts.collect::<Vec<_>>().into_par_iter().with_max_len(1).try_for_each(make)
    };
    // SAFETY: all columns are in some part, and each part is filled.
    let out = unsafe { pages::alloc_uninit(rows * columns, write) }?;
    Ok((CpuStorage::F32(out), Shape::from((rows, columns))))
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
}
