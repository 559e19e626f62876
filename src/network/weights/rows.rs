//! Rows of numbers that stay in their files, in the type that these have: widened to f32 part by part, as they are read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, GgmlType, k_quants};
use candle_core::{DType, Device, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::{PagePolicy, are_finite, par_rows_alloc};
use crate::network::weights::mapping::WeightFile;
use crate::network::weights::q4_k;

/// How the numbers of a row are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RowDtype {
    F32,
    F16,
    BF16,
    Quantized(GgmlDType),
}

impl RowDtype {
    pub(crate) fn of(dtype: DType) -> Option<RowDtype> {
        match dtype {
            DType::F32 => Some(RowDtype::F32),
            DType::F16 => Some(RowDtype::F16),
            DType::BF16 => Some(RowDtype::BF16),
            _ => None,
        }
    }

    /// How many numbers are stored together, and in how many bytes.
    fn block(self) -> (usize, usize) {
        match self {
            RowDtype::F32 => (1, 4),
            RowDtype::F16 | RowDtype::BF16 => (1, 2),
            RowDtype::Quantized(dtype) => (dtype.block_size(), dtype.type_size()),
        }
    }

    /// What an address must be a multiple of.
    fn alignment(self) -> usize {
        match self {
            RowDtype::F32 => 4,
            RowDtype::F16 | RowDtype::BF16 | RowDtype::Quantized(_) => 2,
        }
    }
}

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
    /// Rows whose bytes are those of a range, which is as long as they ask for; nothing where they lie askew, so that they cannot be
    /// read in place.
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
        let address = file.bytes().as_ptr() as usize + range.start;
        let slabs = Arc::new([Slab { name: name.into(), file: file.clone(), dtype, range, rows }]);
        (is_whole && address.is_multiple_of(dtype.alignment())).then_some(StoredRows {
            slabs,
            order: None,
            rows,
            width,
        })
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
        cast(bytes)
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
            return widen(dtype, bytes, out);
        }
        let mut all = vec![0f32; blocks.len() * numbers];
        widen(dtype, bytes, &mut all)?;
        out.copy_from_slice(&all[range.start - blocks.start * numbers..][..range.len()]);
        Ok(())
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

/// Bytes as numbers that any bytes are; nothing where they lie askew.
fn cast<T: AnyBytes>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: any bytes are such numbers, as `AnyBytes` says.
    let (before, numbers, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty()).then_some(numbers)
}

/// What any bytes are one of.
///
/// # Safety
///
/// It consists of numbers without gaps.
unsafe trait AnyBytes {}

macro_rules! any_bytes {
    ($($type:ty),*) => {$(
        // SAFETY: a number, or a structure of such that candle asserts to have no gaps.
        unsafe impl AnyBytes for $type {}
    )*};
}

any_bytes!(
    f32,
    half::f16,
    half::bf16,
    k_quants::BlockQ4_0,
    k_quants::BlockQ4_1,
    k_quants::BlockQ5_0,
    k_quants::BlockQ5_1,
    k_quants::BlockQ8_0,
    k_quants::BlockQ2K,
    k_quants::BlockQ3K,
    k_quants::BlockQ5K,
    k_quants::BlockQ6K
);

/// The numbers that bytes stand for.
fn widen(dtype: RowDtype, bytes: &[u8], out: &mut [f32]) -> candle_core::Result<()> {
    fn blocks<T: GgmlType + AnyBytes>(bytes: &[u8], out: &mut [f32]) -> Option<()> {
        T::to_float(cast(bytes)?, out);
        Some(())
    }
    let done = match dtype {
        RowDtype::F32 => cast(bytes).map(|numbers| out.copy_from_slice(numbers)),
        RowDtype::F16 => cast::<half::f16>(bytes).map(|numbers| numbers.convert_to_f32_slice(out)),
        RowDtype::BF16 => cast::<half::bf16>(bytes).map(|numbers| {
            let wide = |number: &half::bf16| f32::from_bits(u32::from(number.to_bits()) << 16);
            out.iter_mut().zip(numbers).for_each(|(out, number)| *out = wide(number));
        }),
        RowDtype::Quantized(dtype) => match dtype {
            GgmlDType::Q4_0 => blocks::<k_quants::BlockQ4_0>(bytes, out),
            GgmlDType::Q4_1 => blocks::<k_quants::BlockQ4_1>(bytes, out),
            GgmlDType::Q5_0 => blocks::<k_quants::BlockQ5_0>(bytes, out),
            GgmlDType::Q5_1 => blocks::<k_quants::BlockQ5_1>(bytes, out),
            GgmlDType::Q8_0 => blocks::<k_quants::BlockQ8_0>(bytes, out),
            GgmlDType::Q2K => blocks::<k_quants::BlockQ2K>(bytes, out),
            GgmlDType::Q3K => blocks::<k_quants::BlockQ3K>(bytes, out),
            GgmlDType::Q4K => {
                q4_k::widen(bytes, out);
                Some(())
            }
            GgmlDType::Q5K => blocks::<k_quants::BlockQ5K>(bytes, out),
            GgmlDType::Q6K => blocks::<k_quants::BlockQ6K>(bytes, out),
            other => bail!("weights of type {other:?} are not read"),
        },
    };
    match done {
        Some(()) => Ok(()),
        None => bail!("weights that lie askew"),
    }
}
