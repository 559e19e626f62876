//! Linear maps.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::network::cpu::plus_bias;
use crate::network::weights::weight::Weight;

/// `x W + b`, with W `[in, out]`; without b where the model has none.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Weight,       // (in, out)
    pub(crate) bias: Option<Tensor>, // (out)
}

impl Linear {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let width = dims.pop().unwrap_or(0);
        let rows: usize = dims.iter().product();
        dims.push(self.weight.dims2()?.1);
        let x = x.reshape((rows, width))?;
        if let Some(y) = self.weight.affine(&x, self.bias.as_ref())? {
            return Ok(y.reshape(dims)?);
        }
        let y = self.weight.product(&x)?;
        Ok(match &self.bias {
            Some(bias) => plus_bias(&y, bias)?.reshape(dims)?,
            None => y.reshape(dims)?,
        })
    }

    /// The bias, or the zeros that stand for none.
    pub(crate) fn bias_or_zeros(&self) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => Ok(bias.clone()),
            None => Ok(Tensor::zeros(self.weight.dims2()?.1, DType::F32, self.weight.device())?),
        }
    }
}
