//! Rows times a gain, or plus a bias, with gradients in one pass each: to the last bit those of candle's own broadcasts, which find the
//! column of each number anew and keep a copy of the bias for each row.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, bail};

use crate::error::Result;
use crate::network::cpu::rows::{by_rows, last, values};

/// Numbers `[.., width]` plus a bias `[width]`.
pub(crate) fn plus_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    broadcast(x, bias, PlusBias, Tensor::broadcast_add)
}

/// Numbers `[.., width]` times a gain `[width]`.
pub(crate) fn times_gain(x: &Tensor, gain: &Tensor) -> Result<Tensor> {
    broadcast(x, gain, TimesGain, Tensor::broadcast_mul)
}

fn broadcast<C: CustomOp2 + Send + Sync + 'static>(
    x: &Tensor,
    row: &Tensor,
    op: C,
    on_device: fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
) -> Result<Tensor> {
    if x.device().is_cpu() {
        return Ok(x.contiguous()?.apply_op2(&row.contiguous()?, op)?);
    }
    Ok(on_device(x, row)?)
}

/// Each number of `x` with that of its column.
fn by_columns(
    (x, layout): (&CpuStorage, &Layout),
    (row, row_layout): (&CpuStorage, &Layout),
    change: fn(&mut f32, f32),
) -> candle_core::Result<(CpuStorage, Shape)> {
    let (width, row) = (last(layout), values(row, row_layout)?);
    if row.len() != width {
        bail!("a row of {} for rows of {width}", row.len());
    }
    by_rows(layout, width, values(x, layout)?, |x| x.iter_mut().zip(row).for_each(|(x, &row)| change(x, row)))
}

struct PlusBias;

impl CustomOp2 for PlusBias {
    fn name(&self) -> &'static str {
        "plus bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        by_columns((x, layout), (bias, bias_layout), |x, bias| *x += bias)
    }

    fn bwd(
        &self,
        x: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        // Of the second nothing is read.
        let of_bias = || gradient.apply_op2_no_bwd(&gradient, &SumOfRows { of_products: false });
        let of_bias = bias.track_op().then(of_bias).transpose()?;
        Ok((x.track_op().then_some(gradient), of_bias))
    }
}

struct TimesGain;

impl CustomOp2 for TimesGain {
    fn name(&self) -> &'static str {
        "times gain"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        by_columns((x, layout), (gain, gain_layout), |x, gain| *x *= gain)
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let of_x = x.track_op().then(|| gradient.apply_op2_no_bwd(gain, &TimesGain)).transpose()?;
        let of_gain = || gradient.apply_op2_no_bwd(x, &SumOfRows { of_products: true });
        Ok((of_x, gain.track_op().then(of_gain).transpose()?))
    }
}

/// The sum of all rows, the first first; or of their products with others.
struct SumOfRows {
    of_products: bool,
}

impl CustomOp2 for SumOfRows {
    fn name(&self) -> &'static str {
        "sum of rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = last(layout);
        let mut total = vec![0f32; width];
        for (x, other) in values(x, layout)?.chunks(width).zip(values(other, other_layout)?.chunks(width)) {
            if self.of_products {
                total.iter_mut().zip(x).zip(other).for_each(|((total, x), other)| *total += x * other);
            } else {
                total.iter_mut().zip(x).for_each(|(total, x)| *total += x);
            }
        }
        Ok((CpuStorage::F32(total), Shape::from(width)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Values and gradients, bit by bit.
    #[test]
    fn rows_are_candle_s() -> Result<()> {
        let values = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
        };
        type Op = fn(&Tensor, &Tensor) -> Result<Tensor>;
        let pairs: [(Op, Op); 2] = [
            (plus_bias, |x, row| Ok(x.broadcast_add(row)?)),
            (times_gain, |x, row| Ok(x.broadcast_mul(row)?)),
        ];
        for shape in [vec![1, 37], vec![211, 37], vec![7, 31, 19], vec![5, 1]] {
            let (width, count) = (shape[shape.len() - 1], shape.iter().product());
            let x = Var::from_tensor(&Tensor::from_vec(values(count, 1), shape.clone(), &Device::Cpu)?)?;
            let row = Var::from_tensor(&Tensor::from_vec(values(width, 2), width, &Device::Cpu)?)?;
            let weights = Tensor::from_vec(values(count, 3), shape, &Device::Cpu)?;
            for (ours, theirs) in pairs {
                let outcome = |op: Op| -> Result<Vec<Vec<f32>>> {
                    let y = op(&x, &row)?;
                    let gradients = (&y * &weights)?.sum_all()?.backward()?;
                    let of = |var: &Var| gradients.get(var.as_tensor()).cloned().expect("a gradient");
                    let all = [y, of(&x), of(&row)];
                    all.iter().map(|tensor| Ok(tensor.flatten_all()?.to_vec1()?)).collect()
                };
                assert_eq!(outcome(ours)?, outcome(theirs)?);
            }
        }
        Ok(())
    }
}
