//! The way back from what is read out of a stack to what was written into it: through each norm at the scale that it had in the run, so
//! that all is linear.
//!
//! Shapes at the end of lines: P positions that are read, T positions, S keys, M width of the residual stream, H heads, D width of a head.

use std::ops::Range;

use candle_core::{D, DType, Tensor};

use crate::analysis::residual::stream::Stream;
use crate::error::Result;
use crate::hook::{Attn, Hook, Site};
use crate::network::param::{NormParam, Param};
use crate::network::parts::linear::Linear;
use crate::network::spec::NormPlace;

/// A number at each of some positions, as what the stream there is multiplied by.
pub(crate) struct Way<'a> {
    pub(crate) stream: Stream<'a>,
    at: Range<usize>,
    /// What the stream, here, is multiplied by.
    read: Tensor, // (P, M)
    /// What is said whatever was written.
    bias: Tensor, // (P)
}

/// What was written into a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Attention { layer: usize, attn: Attn },
    Mlp { layer: usize },
    Embedding { label: &'static str, site: Site },
}

impl<'a> Way<'a> {
    /// From the end of a stream, at some of its positions, where nothing is read yet.
    pub(crate) fn new(stream: Stream<'a>, at: Range<usize>) -> Result<Way<'a>> {
        let device = stream.model.device();
        let read = Tensor::zeros((at.len(), stream.spec().dims.d_model), DType::F32, device)?;
        let bias = Tensor::zeros(at.len(), DType::F32, device)?;
        Ok(Way { stream, at, read, bias })
    }

    /// Adds what a column reads, so many times.
    pub(crate) fn begin(&mut self, column: &Tensor, bias: f64, times: f64) -> Result<()> {
        self.read = self.read.broadcast_add(&(column * times)?)?;
        self.bias = (&self.bias + bias * times)?;
        Ok(())
    }

    /// Goes back through a linear map, of which each output went on multiplied by a slope.
    pub(crate) fn through_linear(&mut self, linear: &Linear, slope: &Tensor) -> Result<()> {
        let read = self.read.broadcast_mul(slope)?;
        if let Some(bias) = &linear.bias {
            self.bias = (&self.bias + read.broadcast_mul(bias)?.sum(D::Minus1)?)?;
        }
        let back = Linear { weight: linear.weight.t()?, bias: None };
        self.read = back.forward(&read)?;
        Ok(())
    }

    /// Goes back through a norm, at the scale that it had.
    fn through_norm(&mut self, norm: fn(NormParam) -> Param, layer: usize, scale: Hook) -> Result<()> {
        let (gain, bias) = self.stream.norm_params(norm, layer)?;
        if let Some(bias) = bias {
            self.bias = (&self.bias + self.read.broadcast_mul(&bias)?.sum(D::Minus1)?)?;
        }
        if let Some(gain) = gain {
            self.read = self.read.broadcast_mul(&gain)?;
        }
        let read = self.stream.as_normed(&self.read, 1)?;
        self.read = self.stream.divide_by_scale_of(&read, scale, self.at.clone())?;
        Ok(())
    }

    /// Goes back through all blocks, and shows each thing that was written where what is read of it is known.
    pub(crate) fn walk(&mut self, mut each: impl FnMut(&Way, Written) -> Result<()>) -> Result<()> {
        let spec = *self.stream.spec();
        let is_after = spec.norm_place == NormPlace::After;
        if !is_after {
            self.through_norm(Param::LnFinal, 0, Site::LnFinalScale.into())?;
        }
        let crosses = spec.crosses.is_some();
        for layer in (0..spec.dims.n_layers).rev() {
            if is_after {
                match crosses {
                    true => self.through_norm(Param::Ln3, layer, Site::Ln3Scale.at(layer))?,
                    false => self.through_norm(Param::Ln2, layer, Site::Ln2Scale.at(layer))?,
                }
            }
            if spec.has(Site::MlpOut) {
                each(self, Written::Mlp { layer })?;
            }
            if crosses {
                if is_after {
                    self.through_norm(Param::Ln2, layer, Site::Ln2Scale.at(layer))?;
                }
                self.pass(layer, Attn::Cross, &mut each)?;
            }
            if is_after {
                self.through_norm(Param::Ln1, layer, Site::Ln1Scale.at(layer))?;
            }
            self.pass(layer, Attn::Own, &mut each)?;
        }
        if spec.has(Site::EmbedLnScale) {
            self.through_norm(Param::LnEmbed, 0, Site::EmbedLnScale.into())?;
        }
        for (label, site) in self.stream.embeddings() {
            each(self, Written::Embedding { label, site })?;
        }
        Ok(())
    }

    fn pass(
        &mut self,
        layer: usize,
        attn: Attn,
        each: &mut impl FnMut(&Way, Written) -> Result<()>,
    ) -> Result<()> {
        each(self, Written::Attention { layer, attn })?;
        let bias = self.stream.param(Param::output_bias_of(attn), layer)?; // (M)
        self.bias = (&self.bias + self.read.broadcast_mul(&bias)?.sum(D::Minus1)?)?;
        Ok(())
    }

    /// What is said whatever was written, as far as the way has come.
    pub(crate) fn bias(&self) -> &Tensor {
        &self.bias // (P)
    }

    /// An activation of the stream at the positions that are read.
    pub(crate) fn rows(&self, hook: impl Into<Hook>) -> Result<Tensor> {
        Ok(self.stream.read(hook)?.narrow(0, self.at.start, self.at.len())?)
    }

    /// What an activation says, here.
    pub(crate) fn of(&self, hook: impl Into<Hook>) -> Result<Tensor> {
        let hook = hook.into();
        let said = (self.rows(hook)? * &self.read)?.sum(D::Minus1)?; // (P)
        Ok((said * self.stream.embedding_scale(hook.site()))?)
    }

    /// What each head of an attention of a layer says.
    pub(crate) fn heads(&self, layer: usize, attn: Attn) -> Result<Tensor> {
        let (start, len) = (self.at.start, self.at.len());
        let of_read = |written: &Tensor, read: &Tensor| written.broadcast_mul(read)?.sum(D::Minus1);
        if let Some(result) = self.stream.kept_results(layer, attn)? {
            // (T, H, M)
            let said = of_read(&result.narrow(0, start, len)?, &self.read.unsqueeze(1)?)?; // (P, H)
            return Ok(said.t()?.contiguous()?);
        }
        let z = self.stream.read(Site::Z.at(layer).with_attn(attn))?.narrow(0, start, len)?; // (P, H, D)
        let w_o = self.stream.param(Param::output_of(attn), layer)?; // (H, D, M)
        let (heads, width, m) = w_o.dims3()?;
        let through = self.read.matmul(&w_o.reshape((heads * width, m))?.t()?)?; // (P, HD)
        let said = of_read(&z, &through.reshape((len, heads, width))?)?; // (P, H)
        Ok(said.t()?.contiguous()?)
    }

    /// What each head of an attention of a layer says of what it reads at each key, as it attends to it from the first of the positions.
    pub(crate) fn keys(&self, layer: usize, attn: Attn) -> Result<Tensor> {
        let sent = self.stream.messages(layer, attn, self.at.start)?; // (S, H, D)
        let w_o = self.stream.param(Param::output_of(attn), layer)?; // (H, D, M)
        let (heads, width, m) = w_o.dims3()?;
        let read = self.read.narrow(0, 0, 1)?.t()?.contiguous()?; // (M, 1)
        let said = w_o.reshape((heads * width, m))?.matmul(&read)?; // (HD, 1)
        let said = sent.broadcast_mul(&said.reshape((1, heads, width))?)?.sum(D::Minus1)?; // (S, H)
        Ok(said.t()?.contiguous()?)
    }
}
