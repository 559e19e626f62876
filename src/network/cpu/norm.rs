//! Norms over the last axis, and means taken away.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::pages;
use crate::network::cpu::pages::PagePolicy;
use crate::network::cpu::rows::{by_rows, last, rows_a_task, values};
use crate::network::cpu::sum::{sum, sum_of_products};

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

/// A norm over the last axis, with its gradient.
pub(crate) fn standardize(x: &Tensor, centres: bool, eps: f64) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op1(Standardize { centres, eps })?)
}

struct Standardize {
    centres: bool,
    eps: f64,
}

impl CustomOp1 for Standardize {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (centres, eps) = (self.centres, self.eps);
        by_rows(layout, last(layout), values(storage, layout)?, |row| {
            standardize_row(row, centres, eps);
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let slope = StandardizeGradient { centres: self.centres, eps: self.eps };
        Ok(Some(x.contiguous()?.apply_op2_no_bwd(&gradient.contiguous()?, &slope)?))
    }
}

/// Returns what it divided by.
fn standardize_row(row: &mut [f32], centres: bool, eps: f64) -> f32 {
    let (mean, scale) = mean_and_scale(row, centres, eps);
    row.iter_mut().for_each(|x| *x = (*x - mean) / scale);
    scale
}

/// dx = (dy - mean dy - y mean(y dy)) / scale; the mean of dy only where the norm centres.
struct StandardizeGradient {
    centres: bool,
    eps: f64,
}

impl CustomOp2 for StandardizeGradient {
    fn name(&self) -> &'static str {
        "norm gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (width, gradient) = (last(layout), values(gradient, gradient_layout)?);
        let change = |row: usize, out: &mut [f32]| {
            let gradient = &gradient[row * width..][..out.len()];
            let scale = standardize_row(out, self.centres, self.eps);
            let n = width as f32;
            let of_mean = if self.centres { sum(gradient) / n } else { 0.0 };
            let along = sum_of_products(out, gradient) / n;
            out.iter_mut().zip(gradient).for_each(|(y, dy)| *y = (dy - of_mean - *y * along) / scale);
        };
        let (out, _) = pages::par_map_alloc(PagePolicy::Short, values(x, layout)?, width, |x| *x, change);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
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
                standardize_row(row, centres, eps);
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
