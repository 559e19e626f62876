//! GELU.

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::pages;
use crate::network::cpu::rows::{CHUNK, by_rows, can_fuse, values};
use crate::network::cpu::sum::exp;

/// GELU by its tanh approximation (Hendrycks and Gimpel 2016, section 2).
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { Ok(x.contiguous()?.apply_op1(Gelu)?) } else { Ok(x.gelu()?) }
}

/// As [`gelu`], of a tensor that nothing else reads: it is overwritten.
pub(crate) fn gelu_inplace(x: Tensor) -> Result<Tensor> {
    if !can_fuse([&x]) || !x.is_contiguous() {
        return gelu(&x);
    }
    x.inplace_op1(&Gelu)?;
    Ok(x)
}

struct Gelu;

/// sqrt(2 / pi) and the cubic's coefficient.
const GELU: (f32, f32) = (0.797_884_6, 0.044_715);

/// x is multiplied by (1 + tanh u) / 2, which is the logistic function of 2u.
fn gelu_gate(x: f32) -> f32 {
    let u = GELU.0 * (x + GELU.1 * x * x * x);
    1.0 / (1.0 + exp(-2.0 * u))
}

fn gelu_of(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x *= gelu_gate(*x));
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        by_rows(layout, CHUNK, values(storage, layout)?, gelu_of)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some((x.contiguous()?.apply_op1_no_bwd(&GeluSlope)? * gradient)?))
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
            few if pages::below_parallel_threshold(4 * few.len()) => gelu_of(few),
            many => many.par_chunks_mut(CHUNK).for_each(gelu_of),
        }
        Ok(())
    }
}

struct GeluSlope;

impl CustomOp1 for GeluSlope {
    fn name(&self) -> &'static str {
        "gelu slope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        by_rows(layout, CHUNK, values(storage, layout)?, |x| {
            x.iter_mut().for_each(|x| {
                let gate = gelu_gate(*x);
                *x = gate + *x * gate * (1.0 - gate) * 2.0 * GELU.0 * (1.0 + 3.0 * GELU.1 * *x * *x);
            });
        })
    }
}
