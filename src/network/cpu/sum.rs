//! Sums, and the exponential that sums are made of: in strands, as compilers vectorise them.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use crate::error::Result;
use crate::network::cpu::pages;
use crate::network::cpu::pages::PagePolicy;
use crate::network::cpu::rows::{CHUNK, values};

/// The sum of two of the same shape: candle's own uses threads of its own, which wait by turning in circles.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() && a.dims() == b.dims() {
        return Ok(a.contiguous()?.apply_op2(&b.contiguous()?, Added)?);
    }
    Ok((a + b)?)
}

struct Added;

impl CustomOp2 for Added {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (a, b) = (values(a, a_layout)?, values(b, b_layout)?);
        let add = |place: usize, out: &mut [f32]| {
            out.iter_mut().zip(&b[place * CHUNK..]).for_each(|(out, b)| *out += b);
        };
        let (out, _) = pages::par_map_alloc(PagePolicy::Short, a, CHUNK, |a| *a, add);
        Ok((CpuStorage::F32(out), a_layout.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((a.track_op().then(|| gradient.clone()), b.track_op().then(|| gradient.clone())))
    }
}

/// A sum in eight strands: faster, and nearer the true sum, than one after another.
pub(crate) fn sum(x: &[f32]) -> f32 {
    let (blocks, rest) = x.as_chunks::<8>();
    let mut strands = [0f32; 8];
    for block in blocks {
        strands.iter_mut().zip(block).for_each(|(strand, x)| *strand += x);
    }
    strands.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// The sum of products, as [`sum`] adds.
#[inline(always)]
pub(crate) fn sum_of_products(a: &[f32], b: &[f32]) -> f32 {
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut products = Products::default();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        products.add_sixteen(a, b);
    }
    products.add_rest(a_rest, b_rest);
    products.sum()
}

/// A sum of products whose factors come sixteen by sixteen, and the rest at last.
#[derive(Default)]
pub(crate) struct Products {
    strands: [f32; 16],
    rest: f32,
}

impl Products {
    #[inline(always)]
    pub(crate) fn add_sixteen(&mut self, a: &[f32; 16], b: &[f32; 16]) {
        for (index, strand) in self.strands.iter_mut().enumerate() {
            *strand += a[index] * b[index];
        }
    }

    #[inline(always)]
    pub(crate) fn add_rest(&mut self, a: &[f32], b: &[f32]) {
        self.rest += a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    }

    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        self.strands.iter().sum::<f32>() + self.rest
    }
}

/// Does it in the widest vectors that the processor has, if all of it is inlined: a closure must ask for that too. What it computes is
/// the same, to the last bit.
#[inline(always)]
pub(crate) fn vectorized<R>(compute: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(compute)
}

/// e^x within 2 units in the last place, in operations that compilers vectorise; 0 below -87, where f32 has only
/// subnormal numbers left.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_near_the_true_one() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let (ours, true_one) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / true_one - 1.0).abs() < 3e-7, "exp({x}) = {ours}, not {true_one}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }
}
