//! Rows of numbers that stay in their files, in the type that these have: widened to f32 part by part, as they are read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::{PagePolicy, are_finite, par_rows_alloc};
use crate::network::weights::mapping::WeightFile;
use crate::network::weights::row_dtype::RowDtype;

/// Rows that a file has one after another.
#[derive(Clone)]
struct Slab {
    /// Of the tensor in the file.
    name: Arc<str>,
    file: Arc<WeightFile>,
    dtype: RowDtype,
    range: Range<usize>,
    rows: usize,
}

/// Rows of one width, of one place of a file or of several.
#[derive(Clone)]
pub(crate) struct StoredRows {
    slabs: Arc<[Slab]>,
    /// Which of the slabs' rows each row is, where that is not in their order.
    order: Option<Arc<[u32]>>,
    rows: usize,
    width: usize,
}

impl fmt::Debug for StoredRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtypes: Vec<RowDtype> = self.slabs.iter().map(|slab| slab.dtype).collect();
        write!(f, "[{}, {}] of {dtypes:?} in files", self.rows, self.width)
    }
}

impl StoredRows {
    /// Rows whose bytes are those of a range; nothing where it is not as long as they ask for.
    pub(crate) fn new(
        name: &str,
        file: &Arc<WeightFile>,
        dtype: RowDtype,
        range: Range<usize>,
        [rows, width]: [usize; 2],
    ) -> Option<StoredRows> {
        let (numbers, bytes) = dtype.block();
        let is_whole = width.is_multiple_of(numbers)
            && (width / numbers).checked_mul(bytes)?.checked_mul(rows)? == range.len()
            && range.end <= file.bytes().len();
        let slabs = Arc::new([Slab { name: name.into(), file: file.clone(), dtype, range, rows }]);
        is_whole.then_some(StoredRows { slabs, order: None, rows, width })
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// One after another; nothing where their widths differ.
    pub(crate) fn concat(all: &[&StoredRows]) -> Option<StoredRows> {
        let width = all.first()?.width;
        let mut slabs = Vec::new();
        let (mut order, mut before) = (Vec::new(), 0u32);
        for rows in all.iter().filter(|rows| rows.rows > 0) {
            let own: u32 = rows.slabs.iter().map(|slab| slab.rows as u32).sum();
            order.extend((0..rows.rows).map(|row| before + rows.stored_row(row) as u32));
            before = before.checked_add(own)?;
            slabs.extend(rows.slabs.iter().cloned());
        }
        let is_in_order = order.iter().enumerate().all(|(row, &place)| row as u32 == place);
        (all.iter().all(|rows| rows.width == width)).then(|| StoredRows {
            slabs: slabs.into(),
            rows: order.len(),
            order: (!is_in_order).then(|| order.into()),
            width,
        })
    }

    /// The rows in another order, or some of them: for each which it is of these.
    pub(crate) fn select(&self, order: &[u32]) -> StoredRows {
        let order: Arc<[u32]> = order.iter().map(|&row| self.stored_row(row as usize) as u32).collect();
        StoredRows { rows: order.len(), order: Some(order), ..self.clone() }
    }

    /// What tells them from rows that lie elsewhere.
    pub(crate) fn place(&self) -> usize {
        self.slabs.as_ptr().addr()
    }

    /// Which of the slabs' rows a row is.
    fn stored_row(&self, row: usize) -> usize {
        self.order.as_ref().map_or(row, |order| order[row] as usize)
    }

    /// Where that row lies.
    fn slab_of(&self, mut place: usize) -> Option<(&Slab, usize)> {
        for slab in self.slabs.iter() {
            if place < slab.rows {
                return Some((slab, place));
            }
            place -= slab.rows;
        }
        None
    }

    /// The bytes of a row.
    fn row(&self, row: usize) -> candle_core::Result<(RowDtype, &[u8])> {
        if row >= self.rows {
            bail!("row {row} of {}", self.rows);
        }
        let Some((slab, place)) = self.slab_of(self.stored_row(row)) else {
            bail!("row {row}, which no file has")
        };
        let (numbers, bytes) = slab.dtype.block();
        let len = self.width / numbers * bytes;
        Ok((slab.dtype, &slab.file.bytes()[slab.range.start + place * len..][..len]))
    }

    /// These rows as they lie, where they are f32 and one after another.
    pub(crate) fn in_place(&self, rows: Range<usize>) -> Option<&[f32]> {
        let first = self.stored_row(rows.start.min(self.rows.checked_sub(1)?));
        let (slab, place) = self.slab_of(first)?;
        let follow = |order: &Arc<[u32]>| {
            order[rows.clone()].iter().enumerate().all(|(index, &row)| row as usize == first + index)
        };
        let is_there = slab.dtype == RowDtype::F32
            && place + rows.len() <= slab.rows
            && self.order.as_ref().is_none_or(follow);
        let bytes = || slab.file.bytes().get(slab.range.start + place * self.width * 4..);
        let bytes = is_there.then(bytes)??.get(..rows.len() * self.width * 4)?;
        // SAFETY: any bytes are numbers.
        let (before, numbers, after) = unsafe { bytes.align_to::<f32>() };
        (before.is_empty() && after.is_empty()).then_some(numbers)
    }

    /// Whether all can be read where they lie, in any part.
    pub(crate) fn are_in_place(&self) -> bool {
        self.rows > 0 && self.in_place(0..self.rows).is_some()
    }

    /// Some numbers of a row.
    pub(crate) fn read(&self, row: usize, range: Range<usize>, out: &mut [f32]) -> candle_core::Result<()> {
        let (dtype, bytes) = self.row(row)?;
        let (numbers, size) = dtype.block();
        let blocks = range.start / numbers..range.end.div_ceil(numbers);
        let bytes = &bytes[blocks.start * size..blocks.end * size];
        if blocks.start * numbers == range.start && blocks.end * numbers == range.end {
            return dtype.widen(bytes, out);
        }
        let mut all = vec![0f32; blocks.len() * numbers];
        dtype.widen(bytes, &mut all)?;
        out.copy_from_slice(&all[range.start - blocks.start * numbers..][..range.len()]);
        Ok(())
    }

    /// The same numbers of several rows, so many numbers apart.
    pub(crate) fn read_rows(
        &self,
        rows: Range<usize>,
        range: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) -> candle_core::Result<()> {
        let outs = out.chunks_mut(stride.max(1)).map(|out| &mut out[..range.len()]);
        // Asked once for all rows, where they lie one after another.
        let in_order = self.order.is_none().then(|| self.slab_of(rows.start)).flatten();
        if let Some((slab, place)) = in_order {
            let (numbers, size) = slab.dtype.block();
            let is_whole = range.start.is_multiple_of(numbers) && range.end.is_multiple_of(numbers);
            if is_whole && place + rows.len() <= slab.rows {
                let len = self.width / numbers * size;
                let bytes = &slab.file.bytes()[slab.range.clone()][place * len..(place + rows.len()) * len];
                let part = range.start / numbers * size..range.end / numbers * size;
                let each = bytes.chunks_exact(len.max(1)).map(|row| &row[part.clone()]);
                return slab.dtype.widen_rows(each.zip(outs));
            }
        }
        rows.zip(outs).try_for_each(|(row, out)| self.read(row, range.clone(), out))
    }

    /// A row times as many other numbers.
    pub(crate) fn sum_of_products(&self, row: usize, others: &[f32]) -> candle_core::Result<f32> {
        let (dtype, bytes) = self.row(row)?;
        if others.len() != self.width {
            bail!("{} numbers times a row of {}", others.len(), self.width);
        }
        dtype.sum_of_products(bytes, others)
    }

    /// What tells their file from others; that of the last where they are in several.
    pub(crate) fn file(&self) -> Option<*const ()> {
        self.slabs.last().map(|slab| Arc::as_ptr(&slab.file).cast())
    }

    /// Fails if a file is no longer as it was when it was opened.
    pub(crate) fn check_files(&self) -> Result<()> {
        self.slabs.iter().try_for_each(|slab| slab.file.check())
    }

    /// Fails if any number is NaN or infinite.
    pub(crate) fn check_finite(&self) -> Result<()> {
        for slab in self.slabs.iter() {
            let all =
                StoredRows { slabs: [slab.clone()].into(), order: None, rows: slab.rows, width: self.width };
            let find = |room: &mut Vec<f32>, row: usize| {
                room.resize(self.width, 0.0);
                match all.read(row, 0..self.width, room) {
                    Ok(()) if are_finite(room) => None,
                    Ok(()) => {
                        let at = room.iter().position(|value| !value.is_finite())?;
                        Some(slab.file.not_finite(&slab.name, room[at], row * self.width + at))
                    }
                    Err(error) => Some(error.into()),
                }
            };
            let found = (0..slab.rows).into_par_iter().map_init(Vec::new, find).find_map_first(|found| found);
            slab.file.check()?;
            if let Some(error) = found {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Some numbers of these rows in f32 `[row, number]`.
    pub(crate) fn tensor(
        &self,
        rows: impl Iterator<Item = usize>,
        range: Range<usize>,
    ) -> candle_core::Result<Tensor> {
        let rows: Vec<usize> = rows.collect();
        let shape = (rows.len(), range.len());
        if rows.is_empty() || range.is_empty() {
            return Tensor::zeros(shape, DType::F32, &Device::Cpu);
        }
        let write = |row: usize, out: &mut [f32]| self.read(rows[row], range.clone(), out);
        let values = par_rows_alloc(PagePolicy::Long, rows.len(), range.len(), write)?;
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}
