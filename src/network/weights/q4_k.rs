//! Weights of four bits in blocks of 256, llama.cpp's Q4_K, in operations that compilers vectorise: of large models most are such, and
//! candle's own loop reads them one by one. To the last bit what that makes.

/// Bytes of a block: two scales in f16, twelve bytes with eight scales and eight minima of six bits, and the numbers.
const BYTES: usize = 144;
const NUMBERS: usize = 256;

/// The numbers of whole blocks.
pub(super) fn widen(bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what it is compiled for.
        return unsafe { widen_avx2(bytes, out) };
    }
    widen_blocks(bytes, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen_avx2(bytes: &[u8], out: &mut [f32]) {
    widen_blocks(bytes, out);
}

#[inline(always)]
fn widen_blocks(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (outs, _) = out.as_chunks_mut::<NUMBERS>();
    for (block, out) in blocks.iter().zip(outs) {
        let half = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let (scale, min) = (half(0), half(2));
        let (of_each, numbers) = (&block[4..16], &block[16..]);
        let (numbers, _) = numbers.as_chunks::<32>();
        let (outs, _) = out.as_chunks_mut::<64>();
        for (pair, (numbers, out)) in numbers.iter().zip(outs).enumerate() {
            let (low, high) = out.split_at_mut(32);
            let (factor, less) = scaled(of_each, 2 * pair, scale, min);
            low.iter_mut().zip(numbers).for_each(|(out, x)| *out = factor * f32::from(x & 15) - less);
            let (factor, less) = scaled(of_each, 2 * pair + 1, scale, min);
            high.iter_mut().zip(numbers).for_each(|(out, x)| *out = factor * f32::from(x >> 4) - less);
        }
    }
}

/// What the numbers of one of eight stretches are multiplied by, and what is taken from them.
#[inline(always)]
fn scaled(of_each: &[u8], index: usize, scale: f32, min: f32) -> (f32, f32) {
    let (factor, less) = match index.checked_sub(4) {
        None => (of_each[index] & 63, of_each[index + 4] & 63),
        Some(later) => {
            let low = of_each[later + 8];
            ((low & 15) | (of_each[later] >> 6) << 4, (low >> 4) | (of_each[index] >> 6) << 4)
        }
    };
    (scale * f32::from(factor), min * f32::from(less))
}
