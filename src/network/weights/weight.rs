//! Matrices of weights: in memory, or in their files.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Storage, Tensor, bail};

use crate::error::Result;
use crate::memory::floats;
use crate::network::cpu::{Matrix, MatrixSource, WeightLayout, affine, affine_from, affine_of, can_fuse};
use crate::network::weights::rows::StoredRows;

/// A matrix, `[in, out]` in a linear map. What is computed with it is f32, to the last bit the same wherever it lies.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// f32, on whatever device; perhaps what a gradient is wanted of.
    InMemory(Tensor),
    /// As a file has it.
    Stored(StoredMatrix),
}

/// Rows of a file as the rows or the columns of a matrix.
#[derive(Clone, Debug)]
pub(crate) struct StoredMatrix {
    rows: StoredRows,
    are: RowsAre,
    /// Which of the matrix's columns.
    columns: Range<usize>,
}

/// What the rows of a file are of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RowsAre {
    Rows,
    Columns,
    /// Columns, to be read as though the file had rows: sums are made in another order then.
    TurnedColumns,
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Weight {
        Weight::InMemory(tensor)
    }
}

impl From<StoredRows> for Weight {
    /// The rows as they are stored.
    fn from(rows: StoredRows) -> Weight {
        let columns = 0..rows.shape()[1];
        Weight::Stored(StoredMatrix { rows, are: RowsAre::Rows, columns })
    }
}

impl Weight {
    /// Stored columns, to be read as though the file had rows.
    pub(crate) fn transposed(rows: StoredRows) -> Weight {
        let columns = 0..rows.shape()[0];
        Weight::Stored(StoredMatrix { rows, are: RowsAre::TurnedColumns, columns })
    }

    /// How many rows and columns.
    pub(crate) fn dims2(&self) -> Result<(usize, usize)> {
        Ok(match self {
            Weight::InMemory(tensor) => tensor.dims2()?,
            Weight::Stored(stored) => stored.shape().into(),
        })
    }

    pub(crate) fn elem_count(&self) -> usize {
        match self {
            Weight::InMemory(tensor) => tensor.elem_count(),
            Weight::Stored(stored) => stored.shape().iter().product(),
        }
    }

    /// The bytes of what it is part of in memory, or would be.
    pub(crate) fn bytes_in_memory(&self) -> u64 {
        match self {
            Weight::InMemory(tensor) => match &*tensor.storage_and_layout().0 {
                Storage::Cpu(CpuStorage::F32(values)) => floats([values.len()]),
                _ => floats(tensor.dims().iter().copied()),
            },
            Weight::Stored(_) => floats([self.elem_count()]),
        }
    }

    pub(crate) fn device(&self) -> &Device {
        match self {
            Weight::InMemory(tensor) => tensor.device(),
            Weight::Stored(_) => &Device::Cpu,
        }
    }

    /// What tells it from weights that lie elsewhere: another view of it has the same.
    pub(crate) fn place(&self) -> usize {
        match self {
            Weight::InMemory(tensor) => std::ptr::from_ref(&*tensor.storage_and_layout().0).addr(),
            Weight::Stored(stored) => stored.rows.place(),
        }
    }

    /// Whether [`tensor`](Weight::tensor) has row after row.
    pub(crate) fn is_contiguous(&self) -> bool {
        match self {
            Weight::InMemory(tensor) => tensor.is_contiguous(),
            Weight::Stored(stored) => stored.are != RowsAre::Columns,
        }
    }

    /// All of it in f32: a view where it is in memory, or else made.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        match self {
            Weight::InMemory(tensor) => Ok(tensor.clone()),
            Weight::Stored(stored) => stored.tensor(),
        }
    }

    /// Whether it is read from a file when it is needed.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self, Weight::Stored(_))
    }

    /// What tells its file from others; nothing of what is in memory.
    pub(crate) fn file(&self) -> Option<*const ()> {
        match self {
            Weight::InMemory(_) => None,
            Weight::Stored(stored) => stored.rows.file(),
        }
    }

    /// Fails if its file is no longer as it was when it was opened.
    pub(crate) fn check_file(&self) -> Result<()> {
        match self {
            Weight::InMemory(_) => Ok(()),
            Weight::Stored(stored) => stored.rows.check_files(),
        }
    }

    /// Fails if any number of what a file has is NaN or infinite; what is in memory was looked through when it got there.
    pub(crate) fn check_finite(&self) -> Result<()> {
        match self {
            Weight::InMemory(_) => Ok(()),
            Weight::Stored(stored) => stored.rows.check_finite(),
        }
    }

    /// Some groups of so many columns `[group, row, column]`: a view where it is in memory, in either layout.
    pub(crate) fn column_groups(&self, first: usize, groups: usize, width: usize) -> Result<Tensor> {
        match self {
            Weight::InMemory(tensor) => {
                let (rows, all) = tensor.dims2()?;
                let every = all / width.max(1);
                Ok(if tensor.is_contiguous() {
                    tensor.reshape((rows, every, width))?.narrow(1, first, groups)?.transpose(0, 1)?
                } else {
                    tensor.t()?.reshape((every, width, rows))?.narrow(0, first, groups)?.transpose(1, 2)?
                })
            }
            Weight::Stored(stored) => {
                let own = stored.narrow_columns(first * width, groups * width)?.tensor()?;
                Weight::InMemory(own).column_groups(0, groups, width)
            }
        }
    }

    /// Rows by their numbers, a tensor of ids.
    pub(crate) fn index_rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Weight::InMemory(tensor) => Ok(tensor.index_select(ids, 0)?),
            Weight::Stored(stored) if stored.are != RowsAre::Rows => {
                Ok(stored.tensor()?.contiguous()?.index_select(ids, 0)?)
            }
            Weight::Stored(stored) => {
                let ids = ids.to_vec1::<u32>()?;
                Ok(stored.rows.tensor(ids.into_iter().map(|id| id as usize), stored.columns.clone())?)
            }
        }
    }

    /// Columns by their numbers.
    pub(crate) fn index_columns(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Weight::Stored(stored) if stored.are != RowsAre::Rows => {
                let columns = ids.iter().map(|&id| stored.columns.start + id as usize);
                Ok(stored.rows.tensor(columns, 0..stored.rows.shape()[1])?.t()?)
            }
            // One by one, since it may be a view that indices cannot select from.
            _ => {
                let columns = ids.iter().map(|&id| self.narrow_columns(id as usize, 1)?.tensor());
                Ok(Tensor::cat(&columns.collect::<Result<Vec<_>>>()?, 1)?)
            }
        }
    }

    /// Rows as columns.
    pub(crate) fn t(&self) -> Result<Weight> {
        Ok(match self {
            Weight::InMemory(tensor) => tensor.t()?.into(),
            Weight::Stored(stored) if stored.columns.len() == stored.all_columns() => {
                let [n_rows, width] = stored.rows.shape();
                let (are, columns) = match stored.are {
                    RowsAre::Rows => (RowsAre::Columns, n_rows),
                    RowsAre::Columns | RowsAre::TurnedColumns => (RowsAre::Rows, width),
                };
                Weight::Stored(StoredMatrix { rows: stored.rows.clone(), are, columns: 0..columns })
            }
            Weight::Stored(stored) => stored.tensor()?.t()?.into(),
        })
    }

    /// Some columns.
    pub(crate) fn narrow_columns(&self, first: usize, len: usize) -> Result<Weight> {
        Ok(match self {
            Weight::InMemory(tensor) => tensor.narrow(1, first, len)?.into(),
            Weight::Stored(stored) => Weight::Stored(stored.narrow_columns(first, len)?),
        })
    }

    /// Matrices of one width, one below another.
    pub(crate) fn concat_rows(parts: &[Weight]) -> Result<Weight> {
        if let [one] = parts {
            return Ok(one.clone());
        }
        let rows = parts.iter().map(|part| match part {
            Weight::Stored(stored) => stored.is_as_stored().then_some(&stored.rows),
            Weight::InMemory(_) => None,
        });
        let rows: Option<Vec<&StoredRows>> = rows.collect();
        if let Some(rows) = rows.and_then(|rows| StoredRows::concat(&rows)) {
            return Ok(rows.into());
        }
        let parts = parts.iter().map(Weight::tensor).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?.into())
    }

    /// The rows in another order: for each which it is now.
    pub(crate) fn select_rows(&self, order: &[u32]) -> Result<Weight> {
        Ok(match self {
            Weight::Stored(stored) if stored.are == RowsAre::Rows => {
                Weight::Stored(StoredMatrix { rows: stored.rows.select(order), ..stored.clone() })
            }
            _ => self.tensor()?.index_select(&Tensor::new(order, self.device())?, 0)?.into(),
        })
    }

    /// `x W + b` of `[row, in]` and `[out]`: with no gradient, nothing where one is wanted that this has not.
    pub(crate) fn affine(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
        match self {
            Weight::InMemory(weight) if can_fuse([x, weight].into_iter().chain(bias)) => {
                Ok(Some(affine(x, weight, bias)?))
            }
            Weight::Stored(stored) if can_fuse([x].into_iter().chain(bias)) => {
                Ok(Some(affine_from(x, stored, bias)?))
            }
            _ => Ok(None),
        }
    }

    /// `x W` of `[row, in]`, with the gradient of whatever has one.
    pub(crate) fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Weight::InMemory(weight) => Ok(x.matmul(weight)?),
            Weight::Stored(stored) => Ok(x.contiguous()?.apply_op1(Product(stored.clone()))?),
        }
    }
}

impl StoredMatrix {
    /// How many columns the whole matrix has.
    fn all_columns(&self) -> usize {
        let [rows, width] = self.rows.shape();
        if self.are == RowsAre::Rows { width } else { rows }
    }

    /// Whether it is what the file has, row by row.
    fn is_as_stored(&self) -> bool {
        self.are == RowsAre::Rows && self.columns.len() == self.all_columns()
    }

    fn narrow_columns(&self, first: usize, len: usize) -> candle_core::Result<StoredMatrix> {
        let columns = self.of_all(first..first + len);
        if columns.end > self.columns.end {
            bail!("columns {columns:?} of {:?}", self.columns);
        }
        Ok(StoredMatrix { columns, ..self.clone() })
    }

    fn tensor(&self) -> Result<Tensor> {
        let [n_rows, width] = self.rows.shape();
        let tensor = match self.are {
            RowsAre::Rows => self.rows.tensor(0..n_rows, self.columns.clone())?,
            RowsAre::Columns => self.rows.tensor(self.columns.clone(), 0..width)?.t()?,
            RowsAre::TurnedColumns => self.rows.tensor(self.columns.clone(), 0..width)?.t()?.contiguous()?,
        };
        self.rows.check_files()?;
        Ok(tensor)
    }

    /// The columns of the whole that these are.
    fn of_all(&self, columns: Range<usize>) -> Range<usize> {
        self.columns.start + columns.start..self.columns.start + columns.end
    }
}

/// Numbers of a part that is widened: with what is made of them they fit the second cache of a core.
const PART: usize = 1 << 18;

impl MatrixSource for StoredMatrix {
    fn shape(&self) -> [usize; 2] {
        let [rows, width] = self.rows.shape();
        [if self.are == RowsAre::Rows { rows } else { width }, self.columns.len()]
    }

    fn layout(&self) -> WeightLayout {
        if self.are == RowsAre::Columns { WeightLayout::Columns } else { WeightLayout::Rows }
    }

    fn most_columns(&self, rows: usize) -> usize {
        match self.are != RowsAre::TurnedColumns && self.rows.are_in_place() {
            true => usize::MAX,
            false => (PART / rows.max(1)).max(32),
        }
    }

    fn part<'a>(
        &'a self,
        rows: Range<usize>,
        columns: Range<usize>,
        room: &'a mut Vec<f32>,
    ) -> candle_core::Result<Matrix<'a>> {
        let (shape, width, of_all) =
            ([rows.len(), columns.len()], self.rows.shape()[1], self.of_all(columns.clone()));
        // To be read where it lies, if it can be.
        match self.are {
            RowsAre::Rows => {
                if let Some(values) = self.rows.in_place(rows.clone()) {
                    return Matrix::new(&values[of_all.start..], shape, [width, 1]);
                }
            }
            RowsAre::Columns => {
                if let Some(values) = self.rows.in_place(of_all.clone()) {
                    return Matrix::new(&values[rows.start..], shape, [1, width]);
                }
            }
            RowsAre::TurnedColumns => {}
        }
        let numbers = shape[0] * shape[1];
        if room.len() < numbers {
            room.resize(numbers, 0.0);
        }
        let room = &mut room[..numbers];
        if self.are == RowsAre::Columns {
            self.rows.read_rows(of_all, rows, room, shape[0])?;
            return Matrix::new(room, shape, [1, shape[0]]);
        }
        self.copy_rows(rows, columns, room, shape[1])?;
        Matrix::new(room, shape, [shape[1], 1])
    }

    fn copy_rows(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) -> candle_core::Result<()> {
        let columns = self.of_all(columns);
        if self.are == RowsAre::Rows {
            return self.rows.read_rows(rows, columns, out, stride);
        }
        let mut column = vec![0f32; rows.len()];
        for (index, stored) in columns.enumerate() {
            self.rows.read(stored, rows.clone(), &mut column)?;
            out[index..].iter_mut().step_by(stride.max(1)).zip(&column).for_each(|(out, x)| *out = *x);
        }
        Ok(())
    }

    fn add_products(&self, row: &[f32], first: usize, out: &mut [f32]) -> candle_core::Result<()> {
        let stored = self.of_all(first..first + out.len());
        stored.zip(out).try_for_each(|(stored, out)| {
            *out += self.rows.sum_of_products(stored, row)?;
            Ok(())
        })
    }
}

/// A product with weights that stay in their file, of which no gradient is wanted; that of the other factor is one with the same, turned.
struct Product(StoredMatrix);

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "product with stored weights"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        affine_of(Matrix::of(x, layout)?, &self.0, None)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let turned = Weight::Stored(self.0.clone()).t().map_err(candle_core::Error::wrap)?;
        let product = turned.product(&gradient.contiguous()?.detach()).map_err(candle_core::Error::wrap)?;
        Ok(Some(product))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::network::weights::mapping::WeightFile;
    use crate::network::weights::row_dtype::RowDtype;

    const ROWS: usize = 517;
    const WIDTH: usize = 256;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    fn of(rows: usize, columns: usize, seed: usize) -> Result<Tensor> {
        Ok(Tensor::from_vec(values(rows * columns, seed), (rows, columns), &Device::Cpu)?)
    }

    /// Rows of a type in a file, and the same in f32 as candle reads them.
    fn stored(dtype: RowDtype, seed: usize) -> Result<(StoredRows, Tensor)> {
        let all = of(ROWS, WIDTH, seed)?;
        let (bytes, tensor) = match dtype {
            RowDtype::Quantized(dtype) => {
                let quantized = QTensor::quantize(&all, dtype)?;
                (quantized.data()?.to_vec(), quantized.dequantize(&Device::Cpu)?)
            }
            RowDtype::F32 => {
                (all.flatten_all()?.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect(), all)
            }
            RowDtype::F16 => {
                let halves = all.to_dtype(DType::F16)?;
                let bytes = halves.flatten_all()?.to_vec1::<half::f16>()?;
                (bytes.iter().flat_map(|x| x.to_le_bytes()).collect(), halves.to_dtype(DType::F32)?)
            }
            RowDtype::BF16 => {
                let halves = all.to_dtype(DType::BF16)?;
                let bytes = halves.flatten_all()?.to_vec1::<half::bf16>()?;
                (bytes.iter().flat_map(|x| x.to_le_bytes()).collect(), halves.to_dtype(DType::F32)?)
            }
        };
        // Behind something else, as in every file.
        let file = WeightFile::of_bytes(&[vec![0; 64], bytes].concat())?;
        let range = 64..file.bytes().len();
        let rows = StoredRows::new("w", &file, dtype, range, [ROWS, WIDTH]).expect("rows that lie straight");
        Ok((rows, tensor))
    }

    fn dtypes() -> impl Iterator<Item = RowDtype> {
        use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        let quantized = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K];
        [RowDtype::F32, RowDtype::F16, RowDtype::BF16].into_iter().chain(quantized.map(RowDtype::Quantized))
    }

    fn assert_same(a: &Tensor, b: &Tensor, what: &str) -> Result<()> {
        assert_eq!(a.dims(), b.dims(), "{what}");
        let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
            Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
        };
        let (a, b) = (bits(a)?, bits(b)?);
        let apart = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        assert_eq!(apart, 0, "{what}: of {} numbers", a.len());
        Ok(())
    }

    /// Every type of a file, in every layout, gives to the last bit what the same weights give in memory, by every way that products
    /// are made: one row, few, many and more.
    #[test]
    fn what_stays_in_a_file_computes_the_same() -> Result<()> {
        for dtype in dtypes() {
            let (rows, tensor) = stored(dtype, 3)?;
            let (weight, in_memory) = (Weight::from(rows.clone()), Weight::from(tensor.clone()));
            let turned = (Weight::transposed(rows), Weight::from(tensor.t()?.contiguous()?));
            let pairs = [
                (weight.clone(), in_memory.clone()),
                (weight.t()?, in_memory.t()?),
                turned.clone(),
                (weight.narrow_columns(32, 128)?, in_memory.narrow_columns(32, 128)?),
                (weight.t()?.narrow_columns(5, 300)?, in_memory.t()?.narrow_columns(5, 300)?),
            ];
            for (layout, (stored, in_memory)) in pairs.iter().enumerate() {
                let what = format!("{dtype:?}, {layout}");
                assert!(stored.is_stored());
                assert_eq!(stored.dims2()?, in_memory.dims2()?, "{what}");
                assert_eq!(stored.is_contiguous(), in_memory.is_contiguous() || layout == 3, "{what}");
                assert_same(&stored.tensor()?, &in_memory.tensor()?, &what)?;
                let [ids, same] = [stored, in_memory].map(|weight| weight.index_columns(&[2, 0, 2]));
                assert_same(&ids?.contiguous()?, &same?.contiguous()?, &format!("{what}, columns"))?;
                let (inner, columns) = stored.dims2()?;
                let bias = Tensor::from_vec(values(columns, 5), columns, &Device::Cpu)?;
                for rows in [1, 2, 17, 48, 49, 512, 513] {
                    let x = of(rows, inner, 1)?;
                    for bias in [None, Some(&bias)] {
                        let product =
                            |weight: &Weight| weight.affine(&x, bias).map(|y| y.expect("no gradient"));
                        let what = format!("{what}, {rows} rows");
                        assert_same(&product(stored)?, &product(in_memory)?, &what)?;
                    }
                }
            }
            let ids = Tensor::new(&[516u32, 0, 7, 7], &Device::Cpu)?;
            assert_same(&weight.index_rows(&ids)?, &in_memory.index_rows(&ids)?, "rows")?;
            assert!(weight.index_rows(&Tensor::new(&[517u32], &Device::Cpu)?).is_err());
            let (groups, in_memory) = (&weight.column_groups(1, 2, 64)?, &in_memory.column_groups(1, 2, 64)?);
            assert_same(groups, in_memory, "groups")?;
            let (groups, in_memory) = (turned.0.column_groups(3, 2, 47)?, turned.1.column_groups(3, 2, 47)?);
            assert_same(&groups, &in_memory, "turned groups")?;
        }
        Ok(())
    }

    /// Parts of several types one below another, in an order of their own.
    #[test]
    fn parts_are_joined_and_put_in_order() -> Result<()> {
        let parts: Vec<(StoredRows, Tensor)> =
            dtypes().take(5).enumerate().map(|(seed, dtype)| stored(dtype, seed)).collect::<Result<_>>()?;
        let (stored, in_memory): (Vec<Weight>, Vec<Weight>) =
            parts.into_iter().map(|(rows, tensor)| (rows.into(), tensor.into())).unzip();
        let (stored, in_memory) = (Weight::concat_rows(&stored)?, Weight::concat_rows(&in_memory)?);
        let order: Vec<u32> = (0..5 * ROWS as u32).map(|row| row * 7 % (5 * ROWS as u32)).collect();
        let again: Vec<u32> = (0..ROWS as u32).rev().collect();
        let mixed = |weight: &Weight| -> Result<Weight> { weight.select_rows(&order)?.select_rows(&again) };
        for (stored, in_memory) in
            [(stored.clone(), in_memory.clone()), (mixed(&stored)?, mixed(&in_memory)?)]
        {
            assert!(stored.is_stored());
            assert_same(&stored.tensor()?, &in_memory.tensor()?, "joined")?;
            let x = of(3, WIDTH, 1)?;
            let product =
                |weight: &Weight| -> Result<Tensor> { Ok(weight.affine(&x, None)?.expect("no gradient")) };
            assert_same(&product(&stored.t()?)?, &product(&in_memory.t()?)?, "joined, turned")?;
        }
        Ok(())
    }

    /// Against candle's own products, whose sums are made in another order.
    #[test]
    fn gradients_pass_through() -> Result<()> {
        for dtype in dtypes() {
            let (rows, tensor) = stored(dtype, 3)?;
            let (weight, in_memory) = (Weight::from(rows), Weight::from(tensor));
            for (stored, in_memory) in [(weight.clone(), in_memory.clone()), (weight.t()?, in_memory.t()?)] {
                let x = Var::from_tensor(&of(9, stored.dims2()?.0, 1)?)?;
                let gradient = |weight: &Weight| -> Result<Tensor> {
                    let y = weight.product(&x)?;
                    let gradients = y.sqr()?.sum_all()?.backward()?;
                    Ok(gradients.get(x.as_tensor()).expect("a gradient").clone())
                };
                let (ours, theirs) = (gradient(&stored)?, gradient(&in_memory)?);
                let largest = theirs.abs()?.max_all()?.to_scalar::<f32>()?;
                let apart = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(apart < 2e-6 * largest, "{dtype:?}: {apart} of {largest}");
            }
        }
        Ok(())
    }
}
