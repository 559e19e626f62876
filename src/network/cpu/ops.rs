//! Operations that candle does in many passes over memory, done in one, with their gradients. On a GPU they are
//! candle's own.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, InplaceOp1, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::pages;
use crate::network::cpu::pages::PagePolicy;
use crate::progress::is_stopping;

/// The sum of two of the same shape: candle's own uses threads of its own, which wait by turning in circles.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if can_fuse([a, b]) && a.dims() == b.dims() && a.is_contiguous() && b.is_contiguous() {
        return Ok(a.apply_op2_no_bwd(b, &Added)?);
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
}

/// Softmax over the last axis; a key at -inf gets exactly 0.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return Ok(x.contiguous()?.apply_op1(Softmax)?);
    }
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    Ok(exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?)
}

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
        by_rows(layout, width, values(storage, layout)?, |row| {
            // What lies ahead of a query is masked, and is 0.
            let seen = row.iter().rposition(|&x| x != f32::NEG_INFINITY).map_or(row.len(), |last| last + 1);
            let (seen, masked) = row.split_at_mut(seen);
            softmax_of(seen);
            masked.fill(0.0);
        })
    }

    /// Backward passes look here, once a layer, whether to stop.
    fn bwd(&self, _: &Tensor, p: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if is_stopping() {
            bail!("the backward pass was stopped");
        }
        Ok(Some(p.apply_op2_no_bwd(&gradient.contiguous()?, &SoftmaxGradient)?))
    }
}

/// Softmax of one row, in place.
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

/// What a norm divides each row by `[.., 1]`, with no gradient.
pub(crate) fn norm_scale(x: &Tensor, centres: bool, eps: f64) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op1_no_bwd(&NormScale { centres, eps })?)
}

/// A norm over the last axis, then times a gain and plus a bias where there are such, with no gradient.
pub(crate) fn normalize(
    x: &Tensor,
    centres: bool,
    eps: f64,
    gain: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op1_no_bwd(&Normalize { norm: Some((centres, eps)), gain, bias })?)
}

/// Times a gain and plus a bias, where there are such, with no gradient.
pub(crate) fn gain_and_bias(x: &Tensor, gain: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op1_no_bwd(&Normalize { norm: None, gain, bias })?)
}

struct NormScale {
    centres: bool,
    eps: f64,
}

impl CustomOp1 for NormScale {
    fn name(&self) -> &'static str {
        "norm scale"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = last(layout);
        let rows = values(storage, layout)?.par_chunks(width).with_min_len(rows_a_task(width));
        let scales = rows.map(|x| mean_and_scale(x, self.centres, self.eps).1).collect();
        let mut dims = layout.dims().to_vec();
        dims.pop();
        dims.push(1);
        Ok((CpuStorage::F32(scales), Shape::from(dims)))
    }
}

/// What a norm takes from each number of a row, and what it then divides by.
fn mean_and_scale(x: &[f32], centres: bool, eps: f64) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = if centres { sum(x) / n } else { 0.0 };
    let (blocks, rest) = x.as_chunks::<16>();
    let mut strands = [0f32; 16];
    for block in blocks {
        strands.iter_mut().zip(block).for_each(|(strand, x)| *strand += (x - mean) * (x - mean));
    }
    let squares = strands.iter().sum::<f32>() + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
    (mean, (squares / n + eps as f32).sqrt())
}

struct Normalize<'a> {
    /// Whether it centres, and what is added to the mean square; nothing where that has been done.
    norm: Option<(bool, f64)>,
    gain: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
}

impl CustomOp1 for Normalize<'_> {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = last(layout);
        let row_of = |tensor: Option<&Tensor>| match tensor.map(Tensor::to_vec1::<f32>).transpose()? {
            Some(row) if row.len() != width => bail!("a gain or bias of {} for rows of {width}", row.len()),
            row => Ok(row),
        };
        let (gain, bias) = (row_of(self.gain)?, row_of(self.bias)?);
        by_rows(layout, width, values(storage, layout)?, |row| {
            if let Some((centres, eps)) = self.norm {
                let (mean, scale) = mean_and_scale(row, centres, eps);
                row.iter_mut().for_each(|x| *x = (*x - mean) / scale);
            }
            if let Some(gain) = &gain {
                row.iter_mut().zip(gain).for_each(|(x, gain)| *x *= gain);
            }
            if let Some(bias) = &bias {
                row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            }
        })
    }
}

/// A matrix `[in, out]` without the mean of each row, or of each column; its rows, for that of columns, first times a gain.
/// Files have it by rows or by columns, and it stays so. With no gradient.
pub(crate) fn center(x: &Tensor, of_rows: bool, gain: Option<&Tensor>) -> Result<Tensor> {
    let gain = gain.map(Tensor::to_vec1::<f32>).transpose()?;
    match x.t() {
        Ok(turned) if !x.is_contiguous() && turned.is_contiguous() => {
            Ok(turned.apply_op1_no_bwd(&WithoutMeans { of_rows: !of_rows, gain })?.t()?)
        }
        _ => Ok(x.contiguous()?.apply_op1_no_bwd(&WithoutMeans { of_rows, gain })?),
    }
}

struct WithoutMeans {
    of_rows: bool,
    /// Of the axis along which the mean is taken.
    gain: Option<Vec<f32>>,
}

impl CustomOp1 for WithoutMeans {
    fn name(&self) -> &'static str {
        "without means"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (width, x) = (last(layout), values(storage, layout)?);
        let (rows, gain) = (x.len() / width, self.gain.as_deref());
        if gain.is_some_and(|gain| gain.len() != if self.of_rows { width } else { rows }) {
            bail!("a gain that does not fit {:?}", layout.dims());
        }
        if self.of_rows {
            let (out, _) = pages::par_map_alloc(
                PagePolicy::Long,
                x,
                width,
                |x| *x,
                |_, row| {
                    if let Some(gain) = gain {
                        row.iter_mut().zip(gain).for_each(|(x, gain)| *x *= gain);
                    }
                    let mean = sum(row) / width as f32;
                    row.iter_mut().for_each(|x| *x -= mean);
                },
            );
            return Ok((CpuStorage::F32(out), layout.shape().clone()));
        }
        let gain_of = |row: usize| gain.map_or(1.0, |gain| gain[row]);
        let some = rows_a_task(width).max(64);
        let sums = x.par_chunks(some * width).enumerate().map(|(task, x)| {
            let mut sums = vec![0f32; width];
            for (row, x) in x.chunks(width).enumerate() {
                let gain = gain_of(task * some + row);
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * gain);
            }
            sums
        });
        let mut means = vec![0f64; width];
        for sums in sums.collect::<Vec<_>>() {
            means.iter_mut().zip(sums).for_each(|(mean, sum)| *mean += f64::from(sum) / rows as f64);
        }
        let means: Vec<f32> = means.into_iter().map(|mean| mean as f32).collect();
        let (out, _) = pages::par_map_alloc(
            PagePolicy::Long,
            x,
            width,
            |x| *x,
            |row, x| {
                let gain = gain_of(row);
                x.iter_mut().zip(&means).for_each(|(x, mean)| *x = *x * gain - mean);
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

fn log_sum_exp_of(x: &[f32]) -> f32 {
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

/// Numbers that a thread takes at a time: enough to pay for handing them out, little enough for its cache.
const CHUNK: usize = 8192;

fn rows_a_task(width: usize) -> usize {
    CHUNK.div_ceil(width)
}

fn last(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1).max(1)
}

/// The numbers of a contiguous tensor.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("only contiguous f32 is taken here"),
    }
}

/// The numbers of a tensor's storage from its first on, whatever its strides.
pub(crate) fn values_from<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match storage {
        CpuStorage::F32(values) => Ok(&values[layout.start_offset()..]),
        _ => bail!("only f32 is taken here"),
    }
}

/// Whether what is made of these may be made in one pass on the CPU: no gradient is to be had of it.
pub(crate) fn can_fuse<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    tensors.into_iter().all(|tensor| tensor.device().is_cpu() && !tensor.track_op())
}

/// A copy, with each row changed.
fn by_rows(
    layout: &Layout,
    width: usize,
    x: &[f32],
    change: impl Fn(&mut [f32]) + Sync,
) -> candle_core::Result<(CpuStorage, Shape)> {
    let (out, _) = pages::par_map_alloc(PagePolicy::Short, x, width, |x| *x, |_, row| change(row));
    Ok((CpuStorage::F32(out), layout.shape().clone()))
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
pub(crate) fn sum_of_products(a: &[f32], b: &[f32]) -> f32 {
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut strands = [0f32; 16];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        strands.iter_mut().zip(a).zip(b).for_each(|((strand, a), b)| *strand += a * b);
    }
    strands.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// e^x within 2 units in the last place, in operations that compilers vectorise; 0 below -87, where f32 has only
/// subnormal numbers left.
fn exp(x: f32) -> f32 {
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
    use candle_core::{Device, Var};

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

    /// Values and gradients against candle's own operations.
    #[test]
    fn ops_agree_with_candle() -> Result<()> {
        let values: Vec<f32> = (0..600).map(|i| ((i * 7919) % 1201) as f32 / 200.0 - 3.0).collect();
        let weights = Tensor::from_vec(values.iter().rev().copied().collect(), (20, 30), &Device::Cpu)?;
        let x = Var::from_tensor(&Tensor::from_vec(values, (20, 30), &Device::Cpu)?)?;
        let candle_softmax = |x: &Tensor| -> Result<Tensor> {
            let exp = x.exp()?;
            Ok(exp.broadcast_div(&exp.sum_keepdim(1)?)?)
        };
        type Op<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;
        let candle_log_sum_exp = |x: &Tensor| -> Result<Tensor> { Ok(x.exp()?.sum_keepdim(1)?.log()?) };
        let next = Tensor::from_iter((0..20u32).map(|row| row * 7 % 30), &Device::Cpu)?;
        let candle_cross_entropy = |x: &Tensor| -> Result<Tensor> {
            Ok((candle_log_sum_exp(x)? - x.gather(&next.unsqueeze(1)?, 1)?)?)
        };
        let pairs: [(Op, Op); 4] = [
            (&softmax, &candle_softmax),
            (&gelu, &|x| Ok(x.gelu()?)),
            (&log_sum_exp, &candle_log_sum_exp),
            (&|x| Ok(cross_entropy(x, &next)?.unsqueeze(1)?), &candle_cross_entropy),
        ];
        for (ours, theirs) in pairs {
            let outcome = |op: Op| -> Result<(Tensor, Tensor)> {
                let y = op(&x)?;
                let gradients = weights.broadcast_mul(&y)?.sum_all()?.backward()?;
                let gradient = gradients.get(x.as_tensor()).cloned();
                Ok((y, gradient.unwrap_or(weights.zeros_like()?)))
            };
            let ((a, da), (b, db)) = (outcome(ours)?, outcome(theirs)?);
            for (a, b) in [(a, b), (da, db)] {
                let apart = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(apart < 2e-6, "{apart}");
            }
        }
        Ok(())
    }
}
