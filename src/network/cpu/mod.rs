//! Arithmetic on the processor: what candle does in many passes over memory is done in one, with its gradient where it says
//! so. On a GPU, and where a gradient is to be had of what has none here ([`can_fuse`]), candle's own operations stand in
//! its place.

mod activation;
pub(crate) mod attend;
mod broadcast;
mod finite;
mod linear;
mod matrix;
mod norm;
mod pages;
mod rows;
mod softmax;
mod sum;

pub(crate) use activation::{Gelu, gelu, gelu_inplace};
pub(crate) use broadcast::{plus_bias, times_gain};
pub(crate) use finite::{are_finite, tensor_is_finite};
pub(crate) use linear::{MatrixSource, WeightLayout, affine, affine_from, affine_of};
pub(crate) use matrix::Matrix;
pub(crate) use norm::{center, gain_and_bias, norm_scale, normalize, standardize};
pub(crate) use pages::{PagePolicy, par_map_alloc, par_rows_alloc};
pub(crate) use rows::can_fuse;
pub(crate) use softmax::{cross_entropy, log_sum_exp, log_sum_exp_of, softmax};
pub(crate) use sum::{Products, add, sum, sum_of_products, vectorized};

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::*;
    use crate::error::Result;

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
        let candle_norm = |x: &Tensor| -> Result<Tensor> {
            Ok(x.broadcast_div(&(x.sqr()?.mean_keepdim(1)? + 0.1)?.sqrt()?)?)
        };
        let next = Tensor::from_iter((0..20u32).map(|row| row * 7 % 30), &Device::Cpu)?;
        let candle_cross_entropy = |x: &Tensor| -> Result<Tensor> {
            Ok((candle_log_sum_exp(x)? - x.gather(&next.unsqueeze(1)?, 1)?)?)
        };
        let pairs: [(Op, Op); 8] = [
            (&softmax, &candle_softmax),
            (&|x| gelu(x, Gelu::Tanh), &|x| Ok(x.gelu()?)),
            (&|x| gelu(x, Gelu::Erf), &|x| Ok(x.gelu_erf()?)),
            (&log_sum_exp, &candle_log_sum_exp),
            (&|x| standardize(x, true, 0.1), &|x| candle_norm(&x.broadcast_sub(&x.mean_keepdim(1)?)?)),
            (&|x| standardize(x, false, 0.1), &candle_norm),
            (&|x| add(x, &x.sqr()?), &|x| Ok((x + x.sqr()?)?)),
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
