//! The types in which files store rows of numbers, and what each number is in f32: in operations that compilers vectorise, for
//! generation reads every weight for each token.
//!
//! Blocks are llama.cpp's: numbers of a few bits with scales in f16, which of its K-quants are numbers of a few bits in turn.

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use crate::network::cpu::{Products, vectorized};

/// How the numbers of a row are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RowDtype {
    F32,
    F16,
    BF16,
    Quantized(GgmlDType),
}

/// Numbers that are stored together, sixteen by sixteen: as many fill the widest vectors, and fewer or more at once compilers would take
/// one by one.
trait Block<const BYTES: usize> {
    /// How many times sixteen.
    const STRETCHES: usize;

    /// What all stretches are scaled by.
    type Scales;

    fn scales(block: &[u8; BYTES]) -> Self::Scales;

    fn stretch(block: &[u8; BYTES], scales: &Self::Scales, index: usize) -> [f32; 16];
}

/// Calls a function for a type's blocks.
macro_rules! with_block {
    ($dtype:expr, $call:ident($($argument:expr),*)) => {
        match $dtype {
            RowDtype::F32 => Some($call::<F32, 64>($($argument),*)),
            RowDtype::F16 => Some($call::<F16, 32>($($argument),*)),
            RowDtype::BF16 => Some($call::<BF16, 32>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q4_0) => Some($call::<Q4_0, 18>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q4_1) => Some($call::<Q4_1, 20>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q5_0) => Some($call::<Q5_0, 22>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q5_1) => Some($call::<Q5_1, 24>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q8_0) => Some($call::<Q8_0, 34>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q2K) => Some($call::<Q2K, 84>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q3K) => Some($call::<Q3K, 110>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q4K) => Some($call::<Q4K, 144>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q5K) => Some($call::<Q5K, 176>($($argument),*)),
            RowDtype::Quantized(GgmlDType::Q6K) => Some($call::<Q6K, 210>($($argument),*)),
            RowDtype::Quantized(_) => None,
        }
    };
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
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            RowDtype::F32 => (1, 4),
            RowDtype::F16 | RowDtype::BF16 => (1, 2),
            RowDtype::Quantized(dtype) => (dtype.block_size(), dtype.type_size()),
        }
    }

    /// The numbers that bytes stand for.
    pub(crate) fn widen(self, bytes: &[u8], out: &mut [f32]) -> candle_core::Result<()> {
        self.widen_rows(std::iter::once((bytes, out)))
    }

    /// The same of several rows.
    pub(crate) fn widen_rows<'a>(
        self,
        rows: impl Iterator<Item = (&'a [u8], &'a mut [f32])>,
    ) -> candle_core::Result<()> {
        let widened = vectorized(
            #[inline(always)]
            || with_block!(self, widen_all(rows)),
        );
        widened.ok_or_else(|| self.unread())
    }

    /// The sum of their products with as many others: to the last bit that of [`sum_of_products`](crate::network::cpu::sum_of_products).
    pub(crate) fn sum_of_products(self, bytes: &[u8], others: &[f32]) -> candle_core::Result<f32> {
        let sum = vectorized(
            #[inline(always)]
            || with_block!(self, multiply_blocks(bytes, others)),
        );
        sum.ok_or_else(|| self.unread())
    }

    fn unread(self) -> candle_core::Error {
        candle_core::Error::msg(format!("weights of type {self:?} are not read"))
    }
}

#[inline(always)]
fn widen_blocks<B: Block<BYTES>, const BYTES: usize>(bytes: &[u8], out: &mut [f32]) {
    let (outs, last) = out.as_chunks_mut::<16>();
    let (blocks, rest) = bytes.as_chunks::<BYTES>();
    for (block, outs) in blocks.iter().zip(outs.chunks_mut(B::STRETCHES)) {
        let scales = B::scales(block);
        let (fours, fewer) = outs.as_chunks_mut::<4>();
        // Of four in a row, which bits of a byte they are is a constant.
        for (four, [a, b, c, d]) in fours.iter_mut().enumerate() {
            *a = B::stretch(block, &scales, 4 * four);
            *b = B::stretch(block, &scales, 4 * four + 1);
            *c = B::stretch(block, &scales, 4 * four + 2);
            *d = B::stretch(block, &scales, 4 * four + 3);
        }
        for (index, out) in fewer.iter_mut().enumerate() {
            *out = B::stretch(block, &scales, index);
        }
    }
    if !last.is_empty() {
        last.copy_from_slice(&rest_of::<B, BYTES>(rest)[..last.len()]);
    }
}

#[inline(always)]
fn widen_all<'a, B: Block<BYTES>, const BYTES: usize>(rows: impl Iterator<Item = (&'a [u8], &'a mut [f32])>) {
    for (bytes, out) in rows {
        widen_blocks::<B, BYTES>(bytes, out);
    }
}

#[inline(always)]
fn multiply_blocks<B: Block<BYTES>, const BYTES: usize>(bytes: &[u8], others: &[f32]) -> f32 {
    let (others, last) = others.as_chunks::<16>();
    let (blocks, rest) = bytes.as_chunks::<BYTES>();
    let mut products = Products::default();
    for (block, others) in blocks.iter().zip(others.chunks(B::STRETCHES)) {
        let scales = B::scales(block);
        let (fours, fewer) = others.as_chunks::<4>();
        for (four, [a, b, c, d]) in fours.iter().enumerate() {
            products.add_sixteen(a, &B::stretch(block, &scales, 4 * four));
            products.add_sixteen(b, &B::stretch(block, &scales, 4 * four + 1));
            products.add_sixteen(c, &B::stretch(block, &scales, 4 * four + 2));
            products.add_sixteen(d, &B::stretch(block, &scales, 4 * four + 3));
        }
        for (index, others) in fewer.iter().enumerate() {
            products.add_sixteen(others, &B::stretch(block, &scales, index));
        }
    }
    if !last.is_empty() {
        products.add_rest(last, &rest_of::<B, BYTES>(rest));
    }
    products.sum()
}

/// The numbers of what is less than a block: those of a whole one begin with them.
#[inline(always)]
fn rest_of<B: Block<BYTES>, const BYTES: usize>(rest: &[u8]) -> [f32; 16] {
    let mut block = [0; BYTES];
    block[..rest.len()].copy_from_slice(rest);
    B::stretch(&block, &B::scales(&block), 0)
}

/// Sixteen numbers, each of its place.
#[inline(always)]
fn numbers(of: impl Fn(usize) -> f32) -> [f32; 16] {
    let mut numbers = [0f32; 16];
    for (place, number) in numbers.iter_mut().enumerate() {
        *number = of(place);
    }
    numbers
}

/// Sixteen bytes, by the place of the first.
#[inline(always)]
fn sixteen(bytes: &[u8], first: usize) -> [u8; 16] {
    let mut sixteen = [0; 16];
    sixteen.copy_from_slice(&bytes[first..first + 16]);
    sixteen
}

/// A number of sixteen bits, by integers: what processors have for it is not what compilers vectorise. Nothing of it is subnormal in
/// f32, which would take a hundred times as long.
#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    /// By as much the exponents of both are apart.
    const APART: u32 = 112 << 23;
    const LARGEST: u32 = 0x1F << 23;
    let bits = u32::from(u16::from_le_bytes(bytes));
    let shifted = (bits & 0x7FFF) << 13;
    let normal = shifted + APART;
    let subnormal = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(APART + (1 << 23))).to_bits();
    let finite = if shifted < 1 << 23 { subnormal } else { normal };
    let magnitude = if shifted >= LARGEST { normal + APART } else { finite };
    f32::from_bits((bits & 0x8000) << 16 | magnitude)
}

/// A scale of a block.
#[inline(always)]
fn scale<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    half([block[at], block[at + 1]])
}

/// A type of numbers that stand by themselves.
macro_rules! plain {
    ($name:ident, $bytes:literal, $size:literal, $number:expr) => {
        struct $name;

        impl Block<$bytes> for $name {
            const STRETCHES: usize = 1;
            type Scales = ();

            #[inline(always)]
            fn scales(_: &[u8; $bytes]) {}

            #[inline(always)]
            fn stretch(block: &[u8; $bytes], (): &(), _: usize) -> [f32; 16] {
                let (each, _) = block.as_chunks::<$size>();
                numbers(|place| $number(each[place]))
            }
        }
    };
}

plain!(F32, 64, 4, f32::from_le_bytes);
plain!(F16, 32, 2, half);
plain!(BF16, 32, 2, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16));

/// A type of 32 numbers, of which the former sixteen are the lower halves of bytes, and the others the upper ones, perhaps each with a
/// bit above: with what scales them from the first bytes on, where the bits above are if there are any, and where the halves.
macro_rules! of_32 {
    ($name:ident, $bytes:literal, $above:expr, $halves:literal, [$($scale:literal),*], |$scales:ident, $number:ident| $value:expr) => {
        struct $name;

        impl Block<$bytes> for $name {
            const STRETCHES: usize = 2;
            type Scales = [f32; [$($scale),*].len()];

            #[inline(always)]
            fn scales(block: &[u8; $bytes]) -> Self::Scales {
                [$(scale(block, $scale)),*]
            }

            #[inline(always)]
            fn stretch(block: &[u8; $bytes], $scales: &Self::Scales, index: usize) -> [f32; 16] {
                let above: Option<usize> = $above;
                let above = above.map_or(0, |at| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
                let bytes = sixteen(block, $halves);
                numbers(|place| {
                    let high = (above >> (16 * index + place) & 1) << 4;
                    let $number = (u32::from(bytes[place]) >> (4 * index) & 15 | high) as i32;
                    $value
                })
            }
        }
    };
}

of_32!(Q4_0, 18, None, 2, [0], |scales, x| scales[0] * (x - 8) as f32);
of_32!(Q4_1, 20, None, 4, [0, 2], |scales, x| scales[0] * x as f32 + scales[1]);
of_32!(Q5_0, 22, Some(2), 6, [0], |scales, x| scales[0] * (x - 16) as f32);
of_32!(Q5_1, 24, Some(4), 8, [0, 2], |scales, x| scales[0] * x as f32 + scales[1]);

struct Q8_0;

impl Block<34> for Q8_0 {
    const STRETCHES: usize = 2;
    type Scales = f32;

    #[inline(always)]
    fn scales(block: &[u8; 34]) -> f32 {
        scale(block, 0)
    }

    #[inline(always)]
    fn stretch(block: &[u8; 34], scale: &f32, index: usize) -> [f32; 16] {
        let bytes = sixteen(block, 2 + 16 * index);
        numbers(|place| scale * f32::from(bytes[place] as i8))
    }
}

/// Where the numbers of a stretch lie, of types that pack four of them into bytes: in which sixteen, and which part of these.
#[inline(always)]
fn shared(stretch: usize) -> (usize, usize) {
    let (half, within) = (stretch / 8, stretch % 8);
    (32 * half + 16 * (within % 2), within / 2)
}

struct Q2K;

impl Block<84> for Q2K {
    const STRETCHES: usize = 16;
    type Scales = [[f32; 16]; 2];

    #[inline(always)]
    fn scales(block: &[u8; 84]) -> Self::Scales {
        let (both, of_scales, of_least) = (sixteen(block, 0), scale(block, 80), scale(block, 82));
        let scales = numbers(|stretch| of_scales * f32::from(both[stretch] & 15));
        [scales, numbers(|stretch| of_least * f32::from(both[stretch] >> 4))]
    }

    #[inline(always)]
    fn stretch(block: &[u8; 84], [scales, less]: &Self::Scales, index: usize) -> [f32; 16] {
        let (first, part) = shared(index);
        let bytes = sixteen(block, 16 + first);
        let (scale, less) = (scales[index], less[index]);
        numbers(|place| scale * (u32::from(bytes[place]) >> (2 * part) & 3) as f32 - less)
    }
}

struct Q3K;

impl Block<110> for Q3K {
    const STRETCHES: usize = 16;
    type Scales = [f32; 16];

    #[inline(always)]
    fn scales(block: &[u8; 110]) -> Self::Scales {
        let (of_scales, packed) = (scale(block, 108), sixteen(block, 92));
        numbers(|stretch| {
            let low = packed[4 + stretch % 8] >> (4 * (stretch / 8)) & 15;
            let high = packed[12 + stretch % 4] >> (2 * (stretch / 4)) & 3;
            of_scales * (i32::from(low | high << 4) - 32) as f32
        })
    }

    #[inline(always)]
    fn stretch(block: &[u8; 110], scales: &Self::Scales, index: usize) -> [f32; 16] {
        let (first, part) = shared(index);
        // Of the upper bits one for each two stretches.
        let (low, high) = (sixteen(block, 32 + first), sixteen(block, first % 32));
        let scale = scales[index];
        numbers(|place| {
            let (low, high) =
                (u32::from(low[place]) >> (2 * part) & 3, u32::from(high[place]) >> (index / 2) & 1);
            scale * ((low | high << 2) as i32 - 4) as f32
        })
    }
}

/// What the numbers of each of eight parts are multiplied by, and what is taken from them: six bits each, in twelve bytes.
#[inline(always)]
fn scales_and_less<const BYTES: usize>(block: &[u8; BYTES]) -> [[f32; 8]; 2] {
    const LOW: u32 = 0x3F3F_3F3F;
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let [scales, less, rest] = [word(4), word(8), word(12)];
    // Of the later four, the lower bits are in the rest, the upper ones where the former left room.
    let later = |low: u32, high: u32| u64::from(low & 0x0F0F_0F0F | high >> 2 & 0x3030_3030) << 32;
    let times = |factor: f32, all: u64| {
        let (all, mut products) = (all.to_le_bytes(), [0f32; 8]);
        for (product, number) in products.iter_mut().zip(all) {
            *product = factor * f32::from(number);
        }
        products
    };
    [
        times(scale(block, 0), u64::from(scales & LOW) | later(rest, scales)),
        times(scale(block, 2), u64::from(less & LOW) | later(rest >> 4, less)),
    ]
}

struct Q4K;

impl Block<144> for Q4K {
    const STRETCHES: usize = 16;
    type Scales = [[f32; 8]; 2];

    #[inline(always)]
    fn scales(block: &[u8; 144]) -> Self::Scales {
        scales_and_less(block)
    }

    #[inline(always)]
    fn stretch(block: &[u8; 144], [scales, less]: &Self::Scales, index: usize) -> [f32; 16] {
        let (part, second) = (index / 2, index % 2);
        let bytes = sixteen(block, 16 + 32 * (part / 2) + 16 * second);
        let (scale, less) = (scales[part], less[part]);
        numbers(|place| scale * (u32::from(bytes[place]) >> (4 * (part % 2)) & 15) as f32 - less)
    }
}

struct Q5K;

impl Block<176> for Q5K {
    const STRETCHES: usize = 16;
    type Scales = [[f32; 8]; 2];

    #[inline(always)]
    fn scales(block: &[u8; 176]) -> Self::Scales {
        scales_and_less(block)
    }

    #[inline(always)]
    fn stretch(block: &[u8; 176], [scales, less]: &Self::Scales, index: usize) -> [f32; 16] {
        let (part, second) = (index / 2, index % 2);
        let low = sixteen(block, 48 + 32 * (part / 2) + 16 * second);
        let (high, scale, less) = (sixteen(block, 16 + 16 * second), scales[part], less[part]);
        numbers(|place| {
            let low = u32::from(low[place]) >> (4 * (part % 2)) & 15;
            scale * (low | (u32::from(high[place]) >> part & 1) << 4) as f32 - less
        })
    }
}

struct Q6K;

impl Block<210> for Q6K {
    const STRETCHES: usize = 16;
    type Scales = [f32; 16];

    #[inline(always)]
    fn scales(block: &[u8; 210]) -> Self::Scales {
        let (of_scales, factors) = (scale(block, 208), sixteen(block, 192));
        numbers(|stretch| of_scales * f32::from(factors[stretch] as i8))
    }

    #[inline(always)]
    fn stretch(block: &[u8; 210], scales: &Self::Scales, index: usize) -> [f32; 16] {
        let (first, part) = shared(index);
        // Halves of bytes: two stretches behind two.
        let low = sixteen(block, 2 * first - first % 32 + 32 * (part % 2));
        let (high, scale) = (sixteen(block, 128 + first), scales[index]);
        numbers(|place| {
            let low = u32::from(low[place]) >> (4 * (part / 2)) & 15;
            scale * ((low | (u32::from(high[place]) >> (2 * part) & 3) << 4) as i32 - 32) as f32
        })
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Every number of sixteen bits is what `half` makes of it.
    #[test]
    fn sixteen_bits() {
        for start in (0..=u16::MAX).step_by(16) {
            let bits: [u16; 16] = std::array::from_fn(|index| start + index as u16);
            let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            for (dtype, wide) in [
                (RowDtype::F16, bits.map(|bits| f16::from_bits(bits).to_f32())),
                (RowDtype::BF16, bits.map(|bits| bf16::from_bits(bits).to_f32())),
            ] {
                let mut out = [0f32; 16];
                dtype.widen(&bytes, &mut out).expect("a type that is known");
                for ((out, wide), bits) in out.iter().zip(wide).zip(bits) {
                    assert!(
                        out.to_bits() == wide.to_bits() || out.is_nan() && wide.is_nan(),
                        "{dtype:?} {bits:#x}"
                    );
                }
            }
        }
    }
}
