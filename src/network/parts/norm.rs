//! Norms: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019).

use candle_core::{D, Tensor};

use crate::error::Result;
use crate::hook::{Hook, Site};
use crate::network::cpu::{
    can_fuse, gain_and_bias, norm_scale, normalize, plus_bias, standardize, times_gain,
};
use crate::network::spec::NormKind;
use crate::network::tap::TapCtx;

/// A norm over the last axis; without gain and bias once they are folded into what reads it.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) eps: f64,
    pub(crate) gain: Option<Tensor>, // (M)
    pub(crate) bias: Option<Tensor>, // (M)
}

/// Whose norm it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormOf {
    /// ln1
    Attention,
    /// ln2
    Cross,
    /// ln2
    Mlp,
    /// ln3
    MlpAfterCross,
    /// ln1_post: of what attention adds
    AddedByAttention,
    /// ln2_post: of what the MLP adds
    AddedByMlp,
}

impl NormOf {
    /// Where it shows its scale, and what it makes before gain and bias.
    pub(crate) fn sites(self) -> [Site; 2] {
        match self {
            NormOf::Attention => [Site::Ln1Scale, Site::Ln1Normalized],
            NormOf::Cross | NormOf::Mlp => [Site::Ln2Scale, Site::Ln2Normalized],
            NormOf::MlpAfterCross => [Site::Ln3Scale, Site::Ln3Normalized],
            NormOf::AddedByAttention => [Site::Ln1PostScale, Site::Ln1PostNormalized],
            NormOf::AddedByMlp => [Site::Ln2PostScale, Site::Ln2PostNormalized],
        }
    }
}

/// Where a norm shows its scale, and what it makes before gain and bias.
pub(crate) type NormHooks = [Hook; 2];

impl Norm {
    pub(crate) fn layer(eps: f64, gain: Tensor, bias: Tensor) -> Norm {
        Norm { kind: NormKind::Layer, eps, gain: Some(gain), bias: Some(bias) }
    }

    pub(crate) fn rms(eps: f64, gain: Tensor) -> Norm {
        Norm { kind: NormKind::Rms, eps, gain: Some(gain), bias: None }
    }

    /// No norm: what comes out is what went in.
    pub(crate) fn none() -> Norm {
        Norm { kind: NormKind::None, eps: 0.0, gain: None, bias: None }
    }

    /// Normalises the last axis, showing at the given sites the scale, and the outcome before gain and bias.
    pub(crate) fn forward(&self, x: Tensor, shown: NormHooks, tap: &mut TapCtx) -> Result<Tensor> {
        let [scale_hook, hook] = shown;
        if self.kind == NormKind::None {
            return Ok(x);
        }
        if self.can_fuse(&x) {
            let (centres, gain, bias) =
                (self.kind == NormKind::Layer, self.gain.as_ref(), self.bias.as_ref());
            let changed = if tap.wants(scale_hook) {
                let scale = norm_scale(&x, centres, self.eps)?; // (B, T, 1)
                let given = tap.at(scale_hook, scale.clone())?; // (B, T, 1)
                (given.id() != scale.id()).then_some(given)
            } else {
                None
            };
            let normalized = match changed {
                None if !tap.wants(hook) => return normalize(&x, centres, self.eps, gain, bias),
                None => normalize(&x, centres, self.eps, None, None)?, // (B, T, M)
                Some(scale) => self.centred(&x)?.broadcast_div(&scale)?, // (B, T, M)
            };
            let given = tap.at(hook, normalized)?; // (B, T, M)
            // A gradient may begin here.
            return match can_fuse([&given]) {
                true => gain_and_bias(&given, gain, bias), // (B, T, M)
                false => self.gain_and_bias(given),        // (B, T, M)
            };
        }
        if !tap.wants(scale_hook) {
            let normalized = tap.at(hook, self.standardized(&x)?)?; // (B, T, M)
            return self.gain_and_bias(normalized);
        }
        let (x, scale) = self.stats(&x)?;
        let scale = tap.at(scale_hook, scale)?; // (B, T, 1)
        let normalized = tap.at(hook, x.broadcast_div(&scale)?)?; // (B, T, M)
        self.gain_and_bias(normalized)
    }

    /// Normalises the last axis of what TransformerLens does not show.
    pub(crate) fn forward_untapped(&self, x: Tensor) -> Result<Tensor> {
        if self.kind == NormKind::None {
            return Ok(x);
        }
        if self.can_fuse(&x) {
            let (gain, bias) = (self.gain.as_ref(), self.bias.as_ref());
            return normalize(&x, self.kind == NormKind::Layer, self.eps, gain, bias);
        }
        self.gain_and_bias(self.standardized(&x)?)
    }

    /// Before gain and bias, with gradients.
    fn standardized(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() {
            return standardize(x, self.kind == NormKind::Layer, self.eps);
        }
        let (x, scale) = self.stats(x)?;
        Ok(x.broadcast_div(&scale)?)
    }

    /// What is to be divided, and by what, with gradients.
    fn stats(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let x = self.centred(x)?;
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        Ok((x, scale))
    }

    fn can_fuse(&self, x: &Tensor) -> bool {
        can_fuse([x].into_iter().chain(&self.gain).chain(&self.bias))
    }

    fn centred(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.kind {
            NormKind::Layer => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
            NormKind::Rms | NormKind::None => x.clone(),
        })
    }

    fn gain_and_bias(&self, normalized: Tensor) -> Result<Tensor> {
        let scaled = match &self.gain {
            Some(gain) => times_gain(&normalized, gain)?,
            None => normalized,
        };
        Ok(match &self.bias {
            Some(bias) => plus_bias(&scaled, bias)?,
            None => scaled,
        })
    }
}
