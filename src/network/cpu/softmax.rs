//! Softmax and what is made of logits.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::rows::{by_rows, last, rows_a_task, values};
use crate::network::cpu::sum::{exp, sum};
use crate::progress::is_stopping;

/// Softmax over the last axis; a key at -inf gets exactly 0, even where all are.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return Ok(x.contiguous()?.apply_op1(Softmax)?);
    }
    softmax_on_device(x)
}

fn softmax_on_device(x: &Tensor) -> Result<Tensor> {
    // Of a row of -inf only the largest is made finite, and the sum 1.
    let largest = x.max_keepdim(D::Minus1)?.detach().maximum(f32::MIN)?;
    let exp = x.broadcast_sub(&largest)?.exp()?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    let is_zero = sum.detach().eq(0f32)?.to_dtype(sum.dtype())?;
    Ok(exp.broadcast_div(&(sum + is_zero)?)?)
}

/// The logarithm of the sum of the exponentials of the last axis, which stays with length 1.
pub(crate) fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return Ok(x.contiguous()?.apply_op1(LogSumExp)?);
    }
    let largest = x.max_keepdim(D::Minus1)?.detach();
    let sum = x.broadcast_sub(&largest)?.exp()?.sum_keepdim(D::Minus1)?;
    Ok(sum.log()?.broadcast_add(&largest)?)
}

/// The loss `[row]` in nats of logits `[row, vocab]` where `next` was to be predicted, in one pass, for the logits are
/// the largest tensor of a training step.
pub(crate) fn cross_entropy(logits: &Tensor, next: &Tensor) -> Result<Tensor> {
    if logits.device().is_cpu() {
        return Ok(logits.contiguous()?.apply_op1(CrossEntropy { next: next.to_vec1()? })?);
    }
    let chosen = logits.gather(&next.unsqueeze(1)?, 1)?;
    Ok((log_sum_exp(logits)? - chosen)?.squeeze(1)?)
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = last(layout);
        by_rows(layout, width, values(storage, layout)?, softmax_of_masked)
    }

    /// Backward passes look here, once a layer, whether to stop.
    fn bwd(&self, _: &Tensor, p: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if is_stopping() {
            bail!("the backward pass was stopped");
        }
        Ok(Some(p.apply_op2_no_bwd(&gradient.contiguous()?, &SoftmaxGradient)?))
    }
}

/// Softmax of one row, in place, of which some may be -inf, or all.
pub(crate) fn softmax_of_masked(x: &mut [f32]) {
    // What lies ahead of a query is masked, and is 0.
    let seen = x.iter().rposition(|&x| x != f32::NEG_INFINITY).map_or(0, |last| last + 1);
    let (seen, masked) = x.split_at_mut(seen);
    softmax_of(seen);
    masked.fill(0.0);
}

/// Softmax of one row, in place, of which some are more than -inf.
pub(crate) fn softmax_of(x: &mut [f32]) {
    let largest = largest(x);
    x.iter_mut().for_each(|x| *x = exp(*x - largest));
    let scale = 1.0 / sum(x);
    x.iter_mut().for_each(|x| *x *= scale);
}

/// The largest number, found in eight strands.
fn largest(x: &[f32]) -> f32 {
    let (blocks, rest) = x.as_chunks::<8>();
    let mut strands = [f32::NEG_INFINITY; 8];
    for block in blocks {
        // Not `max`, which asks about NaN at each: a NaN makes the sum of exponentials NaN anyhow.
        strands
            .iter_mut()
            .zip(block)
            .for_each(|(strand, &x)| *strand = if x > *strand { x } else { *strand });
    }
    strands.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// dx = p (dp - sum p dp).
struct SoftmaxGradient;

impl CustomOp2 for SoftmaxGradient {
    fn name(&self) -> &'static str {
        "softmax gradient"
    }

    fn cpu_fwd(
        &self,
        p: &CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = last(layout);
        let both =
            values(p, layout)?.par_chunks(width).zip(values(gradient, gradient_layout)?.par_chunks(width));
        let mut out = vec![0f32; layout.shape().elem_count()];
        out.par_chunks_mut(width).zip(both).with_min_len(rows_a_task(width)).for_each(
            |(out, (p, gradient))| {
                out.iter_mut().zip(p).zip(gradient).for_each(|((out, p), gradient)| *out = p * gradient);
                let total = sum(out);
                out.iter_mut().zip(p).for_each(|(out, p)| *out -= p * total);
            },
        );
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

struct LogSumExp;

impl CustomOp1 for LogSumExp {
    fn name(&self) -> &'static str {
        "log-sum-exp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = last(layout);
        let rows = values(storage, layout)?.par_chunks(width).with_min_len(rows_a_task(width));
        let out: Vec<f32> = rows.map(log_sum_exp_of).collect();
        let mut dims = layout.dims().to_vec();
        dims.pop();
        dims.push(1);
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }

    /// The gradient is the softmax.
    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let p = x.contiguous()?.apply_op1_no_bwd(&Softmax)?;
        Ok(Some(p.broadcast_mul(gradient)?))
    }
}

/// The logarithm of the sum of exponentials.
pub(crate) fn log_sum_exp_of(x: &[f32]) -> f32 {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = x.chunks(64).map(|x| f64::from(x.iter().map(|&x| exp(x - largest)).sum::<f32>())).sum();
    largest + total.ln() as f32
}

struct CrossEntropy {
    next: Vec<u32>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = last(layout);
        let rows = values(storage, layout)?.par_chunks(width).zip(&self.next);
        let rows = rows.with_min_len(rows_a_task(width));
        let losses: Vec<f32> = rows.map(|(x, &next)| log_sum_exp_of(x) - x[next as usize]).collect();
        Ok((CpuStorage::F32(losses), Shape::from(self.next.len())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let slope = CrossEntropySlope { next: self.next.clone(), gradient: gradient.to_vec1()? };
        Ok(Some(logits.contiguous()?.apply_op1_no_bwd(&slope)?))
    }
}

/// dx = (softmax x - the one at `next`) times the gradient of the row's loss.
struct CrossEntropySlope {
    next: Vec<u32>,
    gradient: Vec<f32>,
}

impl CustomOp1 for CrossEntropySlope {
    fn name(&self) -> &'static str {
        "cross-entropy slope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (width, x) = (last(layout), values(storage, layout)?);
        let mut out = vec![0f32; x.len()];
        let rows = out.par_chunks_mut(width).zip(x.par_chunks(width));
        let rows = rows.zip(self.next.par_iter().zip(&self.gradient)).with_min_len(rows_a_task(width));
        rows.for_each(|((out, x), (&next, &gradient))| {
            let total = log_sum_exp_of(x);
            out.iter_mut().zip(x).for_each(|(out, x)| *out = exp(x - total) * gradient);
            out[next as usize] -= gradient;
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Ordinary rows as ever, and zeros with gradients of zero for a row of which nothing is seen.
    #[test]
    fn what_is_not_seen_gets_nothing() -> Result<()> {
        const MASKED: f32 = f32::NEG_INFINITY;
        let rows = [[MASKED, 1.0, 2.0, MASKED], [MASKED; 4], [-200.0, -201.0, MASKED, -200.5]];
        let weights = Tensor::new(&[[1f32, -2.0, 3.0, 0.5]], &Device::Cpu)?;
        let x = Var::from_tensor(&Tensor::new(&rows, &Device::Cpu)?)?;
        for softmax in [softmax, softmax_on_device] {
            let p = softmax(&x)?;
            let gradients = p.broadcast_mul(&weights)?.sum_all()?.backward()?;
            let gradients = gradients.get(x.as_tensor()).map(Tensor::to_vec2::<f32>).transpose()?.unwrap();
            for ((x, p), gradients) in rows.iter().zip(p.to_vec2::<f32>()?).zip(gradients) {
                let total: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
                for ((&x, p), gradient) in x.iter().zip(p).zip(gradients) {
                    let then = if x == MASKED { 0.0 } else { f64::from(x).exp() / total };
                    assert!((f64::from(p) - then).abs() < 1e-6, "{p}, not {then}");
                    assert!(if x == MASKED { p == 0.0 && gradient == 0.0 } else { gradient.is_finite() });
                }
            }
        }
        Ok(())
    }
}
