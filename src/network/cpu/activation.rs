//! GELU (Hendrycks and Gimpel 2016, section 2): each number times the share of a normal distribution that lies below it.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, InplaceOp1, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::pages;
use crate::network::cpu::pages::PagePolicy;
use crate::network::cpu::rows::{CHUNK, by_rows, can_fuse, values};
use crate::network::cpu::sum::{exp, vectorized};

/// How that share is had.
#[derive(Clone, Copy)]
pub(crate) enum Gelu {
    /// By the paper's approximation.
    Tanh,
    /// By the error function.
    Erf,
}

pub(crate) fn gelu(x: &Tensor, by: Gelu) -> Result<Tensor> {
    Ok(match by {
        _ if x.device().is_cpu() => x.contiguous()?.apply_op1(by)?,
        Gelu::Tanh => x.gelu()?,
        Gelu::Erf => x.gelu_erf()?,
    })
}

/// As [`gelu`], of a tensor that nothing else reads: it is overwritten.
pub(crate) fn gelu_inplace(x: Tensor, by: Gelu) -> Result<Tensor> {
    if !can_fuse([&x]) || !x.is_contiguous() {
        return gelu(&x, by);
    }
    x.inplace_op1(&by)?;
    Ok(x)
}

/// sqrt(2 / pi) and the cubic's coefficient.
const TANH: (f32, f32) = (0.797_884_6, 0.044_715);

/// (1 + tanh u) / 2, which is the logistic function of 2u.
#[inline(always)]
fn tanh_share(x: f32) -> f32 {
    let u = TANH.0 * (x + TANH.1 * x * x * x);
    1.0 / (1.0 + exp(-2.0 * u))
}

/// 1 / sqrt(2 pi).
const DENSITY: f32 = 0.398_942_3;

/// (1 + erf(x / sqrt 2)) / 2 within 2e-7, and e^(-x^2 / 2): beyond |x| a share of e^(-x^2 / 2) times a polynomial in 1 / (1 + p|x|)
/// is left (the form of Abramowitz and Stegun 1964, 7.1.26; fitted with three terms more than theirs, to 2e-9).
#[inline(always)]
fn erf_share(x: f32) -> (f32, f32) {
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.32 * x.abs());
    let p = 0.045_481_82;
    let p = p * t - 0.239_477_94;
    let p = p * t + 0.405_745_57;
    let p = p * t - 0.163_591_2;
    let p = p * t + 0.216_873_36;
    let p = p * t + 0.105_237_99;
    let p = p * t + 0.129_730_4;
    let beyond = p * t * bell;
    (if x < 0.0 { beyond } else { 1.0 - beyond }, bell)
}

impl Gelu {
    fn change(self, x: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || match self {
                Gelu::Tanh => x.iter_mut().for_each(|x| *x *= tanh_share(*x)),
                Gelu::Erf => x.iter_mut().for_each(|x| *x *= erf_share(*x).0),
            },
        )
    }

    /// Gradients, where there were numbers.
    fn slope(self, x: &mut [f32], gradient: &[f32]) {
        vectorized(
            #[inline(always)]
            || match self {
                Gelu::Tanh => x.iter_mut().zip(gradient).for_each(|(x, gradient)| {
                    let share = tanh_share(*x);
                    let inner = 2.0 * TANH.0 * (1.0 + 3.0 * TANH.1 * *x * *x);
                    *x = gradient * (share + *x * share * (1.0 - share) * inner);
                }),
                Gelu::Erf => x.iter_mut().zip(gradient).for_each(|(x, gradient)| {
                    let (share, bell) = erf_share(*x);
                    *x = gradient * (share + *x * bell * DENSITY);
                }),
            },
        )
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        by_rows(layout, CHUNK, values(storage, layout)?, |x| self.change(x))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(x.contiguous()?.apply_op2_no_bwd(&gradient.contiguous()?, &GeluGradient(*self))?))
    }
}

impl InplaceOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("only contiguous f32 is taken here")
        };
        match &mut values[start..end] {
            few if pages::below_parallel_threshold(4 * few.len()) => self.change(few),
            many => many.par_chunks_mut(CHUNK).for_each(|x| self.change(x)),
        }
        Ok(())
    }
}

struct GeluGradient(Gelu);

impl CustomOp2 for GeluGradient {
    fn name(&self) -> &'static str {
        "gelu gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, gradient) = (values(x, layout)?, values(gradient, gradient_layout)?);
        let change = |place: usize, x: &mut [f32]| self.0.slope(x, &gradient[place * CHUNK..]);
        let (out, _) = pages::par_map_alloc(PagePolicy::Short, x, CHUNK, |x| *x, change);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At numbers whose normal distribution is tabled (Abramowitz and Stegun 1964, table 26.1).
    #[test]
    fn a_share_is_the_tables() {
        let tabled = [
            (0.0, 0.5),
            (0.5, 0.691_462_461),
            (1.0, 0.841_344_746),
            (2.0, 0.977_249_868),
            (3.0, 0.998_650_102),
        ];
        for (x, below) in tabled {
            let found = (erf_share(x).0, erf_share(-x).0);
            assert!((f64::from(found.0) - below).abs() < 2e-7, "at {x}: {found:?}");
            assert!((f64::from(found.1) - (1.0 - below)).abs() < 2e-7, "at -{x}: {found:?}");
        }
        assert_eq!((erf_share(f32::INFINITY).0, erf_share(f32::NEG_INFINITY).0), (1.0, 0.0));
        assert!(erf_share(f32::NAN).0.is_nan());
    }
}
