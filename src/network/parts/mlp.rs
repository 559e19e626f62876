//! MLPs, plain (Vaswani et al. 2017) and gated (Shazeer 2020, "GLU Variants Improve Transformer").

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::hook::Site;
use crate::network::cpu::{Gelu, gelu, gelu_inplace};
use crate::network::parts::layer::LayerCtx;
use crate::network::parts::linear::Linear;

/// `W_out f(W_in x)`, or `W_out (f(W_gate x) * W_in x)` with a gate.
#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    pub(crate) activation: Activation,
    pub(crate) gate: Option<Linear>, // (M, N)
    pub(crate) input: Linear,        // (M, N)
    pub(crate) output: Linear,       // (N, M)
}

impl Mlp {
    pub(crate) fn forward(&self, x: &Tensor, layer: &mut LayerCtx) -> Result<Tensor> {
        let post = match &self.gate {
            None => {
                let pre = self.input.forward(x)?; // (B, T, N)
                match self.activation.gelu() {
                    Some(by) if !layer.wants(Site::MlpPre) => gelu_inplace(pre, by)?, // (B, T, N)
                    _ => self.activation.apply(&layer.at(Site::MlpPre, pre)?)?,       // (B, T, N)
                }
            }
            Some(gate) => {
                let pre = layer.at(Site::MlpPre, gate.forward(x)?)?; // (B, T, N)
                let open = self.activation.apply(&pre)?; // (B, T, N)
                let linear = layer.at(Site::MlpPreLinear, self.input.forward(x)?)?; // (B, T, N)
                (open * linear)? // (B, T, N)
            }
        };
        let post = layer.at(Site::MlpPost, post)?; // (B, T, N)
        self.output.forward(&post) // (B, T, M)
    }
}

/// An MLP's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Activation {
    /// GELU by its tanh approximation (Hendrycks and Gimpel 2016, section 2).
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluTanh,
    /// GELU by the error function.
    #[serde(rename = "gelu")]
    GeluErf,
    #[serde(rename = "relu")]
    Relu,
    #[serde(rename = "silu", alias = "swish")]
    Silu,
    #[serde(rename = "tanh")]
    Tanh,
}

impl Activation {
    fn gelu(self) -> Option<Gelu> {
        match self {
            Activation::GeluTanh => Some(Gelu::Tanh),
            Activation::GeluErf => Some(Gelu::Erf),
            _ => None,
        }
    }

    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::GeluTanh => gelu(x, Gelu::Tanh)?,
            Activation::GeluErf => gelu(x, Gelu::Erf)?,
            Activation::Relu => x.relu()?,
            Activation::Silu => x.silu()?,
            Activation::Tanh => x.tanh()?,
        })
    }
}
