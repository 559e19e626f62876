//! The types in which files store rows of numbers, and what each number is in f32: in operations that compilers vectorise, for
//! generation reads every weight for each token.
//!
//! Blocks are llama.cpp's: numbers of a few bits with scales in f16, which of its K-quants are numbers of a few bits in turn.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, bail};
use half::f16;

use crate::network::cpu::{Products, vectorized};

/// How the numbers of a row are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RowDtype {
    F32,
    F16,
    BF16,
    Quantized(GgmlDType),
}

/// Calls a function with the bytes of a type's block, its numbers, and what makes the ones the others.
macro_rules! with_block {
    ($dtype:expr, $call:ident($($argument:expr),*)) => {
        match $dtype {
            RowDtype::F32 => Some($call::<64, 16>(of_f32, $($argument),*)),
            RowDtype::F16 => Some($call::<32, 16>(of_f16, $($argument),*)),
            RowDtype::BF16 => Some($call::<32, 16>(of_bf16, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q4_0) => Some($call::<18, 32>(of_q4_0, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q4_1) => Some($call::<20, 32>(of_q4_1, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q5_0) => Some($call::<22, 32>(of_q5_0, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q5_1) => Some($call::<24, 32>(of_q5_1, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q8_0) => Some($call::<34, 32>(of_q8_0, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q2K) => Some($call::<84, 256>(of_q2_k, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q3K) => Some($call::<110, 256>(of_q3_k, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q4K) => Some($call::<144, 256>(of_q4_k, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q5K) => Some($call::<176, 256>(of_q5_k, $($argument),*)),
            RowDtype::Quantized(GgmlDType::Q6K) => Some($call::<210, 256>(of_q6_k, $($argument),*)),
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
        match vectorized(|| with_block!(self, widen_blocks(bytes, out))) {
            Some(()) => Ok(()),
            None => bail!("weights of type {self:?} are not read"),
        }
    }

    /// The sum of their products with as many others: to the last bit that of [`sum_of_products`](crate::network::cpu::sum_of_products).
    pub(crate) fn sum_of_products(self, bytes: &[u8], others: &[f32]) -> candle_core::Result<f32> {
        match vectorized(|| with_block!(self, multiply_blocks(bytes, others))) {
            Some(sum) => Ok(sum),
            None => bail!("weights of type {self:?} are not read"),
        }
    }
}

#[inline(always)]
fn widen_blocks<const BYTES: usize, const NUMBERS: usize>(
    numbers_of: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
    bytes: &[u8],
    out: &mut [f32],
) {
    let (blocks, rest) = bytes.as_chunks::<BYTES>();
    let (outs, last) = out.as_chunks_mut::<NUMBERS>();
    blocks.iter().zip(outs).for_each(|(block, out)| numbers_of(block, out));
    last.copy_from_slice(&rest_of(numbers_of, rest)[..last.len()]);
}

#[inline(always)]
fn multiply_blocks<const BYTES: usize, const NUMBERS: usize>(
    numbers_of: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
    bytes: &[u8],
    others: &[f32],
) -> f32 {
    let (blocks, rest) = bytes.as_chunks::<BYTES>();
    let (others, last) = others.as_chunks::<NUMBERS>();
    let mut products = Products::default();
    let mut numbers = [0f32; NUMBERS];
    for (block, others) in blocks.iter().zip(others) {
        numbers_of(block, &mut numbers);
        products.add(others, &numbers);
    }
    products.add(last, &rest_of(numbers_of, rest)[..last.len()]);
    products.sum()
}

/// The numbers of what is less than a block: those of a whole one begin with them.
#[inline(always)]
fn rest_of<const BYTES: usize, const NUMBERS: usize>(
    numbers_of: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
    rest: &[u8],
) -> [f32; NUMBERS] {
    let (mut block, mut numbers) = ([0; BYTES], [0f32; NUMBERS]);
    if !rest.is_empty() {
        block[..rest.len()].copy_from_slice(rest);
        numbers_of(&block, &mut numbers);
    }
    numbers
}

#[inline(always)]
fn of_f32(block: &[u8; 64], out: &mut [f32; 16]) {
    let (numbers, _) = block.as_chunks::<4>();
    out.iter_mut().zip(numbers).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
}

#[inline(always)]
fn of_bf16(block: &[u8; 32], out: &mut [f32; 16]) {
    let (numbers, _) = block.as_chunks::<2>();
    let wide = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    out.iter_mut().zip(numbers).for_each(|(out, bytes)| *out = wide(bytes));
}

/// By integers: what processors have for it is not what compilers vectorise.
#[inline(always)]
fn of_f16(block: &[u8; 32], out: &mut [f32; 16]) {
    /// 2^112: by as much the exponents of both are apart.
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let (numbers, _) = block.as_chunks::<2>();
    let wide = |bytes: &[u8; 2]| {
        let bits = u32::from(u16::from_le_bytes(*bytes));
        let (sign, magnitude) = (bits & 0x8000, bits & 0x7FFF);
        // Subnormal numbers too; infinity and NaN have the largest exponent in either.
        let scaled = (f32::from_bits(magnitude << 13) * SCALE).to_bits();
        let special = if magnitude >= 0x7C00 { 0xFF << 23 | magnitude << 13 } else { scaled };
        f32::from_bits(sign << 16 | special)
    };
    out.iter_mut().zip(numbers).for_each(|(out, bytes)| *out = wide(bytes));
}

/// A scale of a block.
#[inline(always)]
fn scale<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The lower and the upper halves of sixteen bytes, each with a bit above, or none.
#[inline(always)]
fn halves(bytes: &[u8], high_bits: u32, out: &mut [f32; 32], number: impl Fn(i32) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (index, ((low, high), byte)) in low.iter_mut().zip(high).zip(bytes).enumerate() {
        let above = |place: usize| ((high_bits >> place & 1) << 4) as i32;
        *low = number(i32::from(byte & 15) | above(index));
        *high = number(i32::from(byte >> 4) | above(index + 16));
    }
}

#[inline(always)]
fn of_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = scale(block, 0);
    halves(&block[2..], 0, out, |x| scale * (x - 8) as f32);
}

#[inline(always)]
fn of_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, least) = (scale(block, 0), scale(block, 2));
    halves(&block[4..], 0, out, |x| scale * x as f32 + least);
}

#[inline(always)]
fn of_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = scale(block, 0);
    let high_bits = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    halves(&block[6..], high_bits, out, |x| scale * (x - 16) as f32);
}

#[inline(always)]
fn of_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, least) = (scale(block, 0), scale(block, 2));
    let high_bits = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    halves(&block[8..], high_bits, out, |x| scale * x as f32 + least);
}

#[inline(always)]
fn of_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = scale(block, 0);
    out.iter_mut().zip(&block[2..]).for_each(|(out, &x)| *out = scale * f32::from(x as i8));
}

/// Where the sixteen numbers of a stretch lie, of types that have sixteen stretches: of bytes that four of them share, which, and
/// which of these four it is.
#[inline(always)]
fn shared(stretch: usize) -> (usize, usize) {
    let (half, within) = (stretch / 8, stretch % 8);
    (32 * half + 16 * (within % 2), within / 2)
}

#[inline(always)]
fn of_q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, numbers) = (&block[..16], &block[16..80]);
    let (of_scales, of_least) = (scale(block, 80), scale(block, 82));
    let (outs, _) = out.as_chunks_mut::<16>();
    for (stretch, (out, both)) in outs.iter_mut().zip(scales).enumerate() {
        let (scale, less) = (of_scales * f32::from(both & 15), of_least * f32::from(both >> 4));
        let (first, part) = shared(stretch);
        let bits = |byte: &u8| f32::from(byte >> (2 * part) & 3);
        out.iter_mut().zip(&numbers[first..]).for_each(|(out, byte)| *out = scale * bits(byte) - less);
    }
}

#[inline(always)]
fn of_q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (high_bits, numbers, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let of_scales = scale(block, 108);
    let (outs, _) = out.as_chunks_mut::<16>();
    for (stretch, out) in outs.iter_mut().enumerate() {
        let low = scales[stretch % 8] >> (4 * (stretch / 8)) & 15;
        let high = scales[8 + stretch % 4] >> (2 * (stretch / 4)) & 3;
        let scale = of_scales * (i32::from(low | high << 4) - 32) as f32;
        let (first, part) = shared(stretch);
        // One for each two stretches.
        let place = stretch / 2;
        for ((out, byte), high) in out.iter_mut().zip(&numbers[first..]).zip(&high_bits[first % 32..]) {
            let number = i32::from(byte >> (2 * part) & 3) + 4 * i32::from(high >> place & 1) - 4;
            *out = scale * number as f32;
        }
    }
}

/// The scale of one of eight stretches, and what is taken from its numbers: six bits each, in twelve bytes.
#[inline(always)]
fn scale_and_less(all: &[u8], stretch: usize, of_scales: f32, of_least: f32) -> (f32, f32) {
    let (scale, less) = match stretch.checked_sub(4) {
        None => (all[stretch] & 63, all[stretch + 4] & 63),
        Some(later) => {
            let low = all[later + 8];
            ((low & 15) | (all[later] >> 6) << 4, (low >> 4) | (all[stretch] >> 6) << 4)
        }
    };
    (of_scales * f32::from(scale), of_least * f32::from(less))
}

/// Halves of bytes with a bit above, which eight stretches have in common, or none.
#[inline(always)]
fn halves_k(scales: (f32, f32, &[u8]), high_bits: Option<&[u8]>, numbers: &[u8], out: &mut [f32; 256]) {
    let (of_scales, of_least, all) = scales;
    let (outs, _) = out.as_chunks_mut::<32>();
    for (stretch, out) in outs.iter_mut().enumerate() {
        let (scale, less) = scale_and_less(all, stretch, of_scales, of_least);
        let numbers = &numbers[32 * (stretch / 2)..][..32];
        let half = |byte: u8| byte >> (4 * (stretch % 2)) & 15;
        match high_bits {
            None => {
                out.iter_mut()
                    .zip(numbers)
                    .for_each(|(out, &byte)| *out = scale * f32::from(half(byte)) - less);
            }
            Some(high_bits) => {
                for ((out, &byte), high) in out.iter_mut().zip(numbers).zip(high_bits) {
                    *out = scale * f32::from(half(byte) | (high >> stretch & 1) << 4) - less;
                }
            }
        }
    }
}

#[inline(always)]
fn of_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    halves_k((scale(block, 0), scale(block, 2), &block[4..16]), None, &block[16..], out);
}

#[inline(always)]
fn of_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let scales = (scale(block, 0), scale(block, 2), &block[4..16]);
    halves_k(scales, Some(&block[16..48]), &block[48..], out);
}

#[inline(always)]
fn of_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low_bits, high_bits, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let of_scales = scale(block, 208);
    let (outs, _) = out.as_chunks_mut::<16>();
    for (stretch, (out, &factor)) in outs.iter_mut().zip(scales).enumerate() {
        let scale = of_scales * f32::from(factor as i8);
        let (first, part) = shared(stretch);
        // Halves of bytes: two stretches behind two.
        let low_bits = &low_bits[2 * first - first % 32 + 32 * (part % 2)..][..16];
        for ((out, low), high) in out.iter_mut().zip(low_bits).zip(&high_bits[first..]) {
            let (low, high) = (low >> (4 * (part / 2)) & 15, high >> (2 * part) & 3);
            *out = scale * (i32::from(low | high << 4) - 32) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

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
