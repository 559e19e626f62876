//! What each part of a model wrote into the residual stream of a run, which is their sum (Elhage et al. 2021, "A
//! Mathematical Framework for Transformer Circuits", section "High-Level Architecture").

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Hook, Site, Stack};
use crate::model::input::Tokens;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::Axis;
use crate::network::NormKind;
use crate::network::StackSpec;
use crate::network::param::{NormParam, Param};
use crate::{memory, progress};

/// The stack that is read out of a run of one input, read together with the model that made it.
pub(crate) struct Stream<'a> {
    pub(crate) model: &'a Model,
    run: &'a Run,
    spec: StackSpec,
    tokens: &'a Tokens,
}

/// What norms see of a tensor: nothing of its mean over dimension `dim`, where they centre.
pub(crate) fn as_normed(norm: NormKind, x: &Tensor, dim: usize) -> Result<Tensor> {
    match norm {
        NormKind::Layer => Ok(x.broadcast_sub(&x.mean_keepdim(dim)?)?),
        NormKind::Rms | NormKind::None => Ok(x.clone()),
    }
}

impl<'a> Stream<'a> {
    pub(crate) fn new(model: &'a Model, run: &'a Run) -> Result<Self> {
        model.spec().sum_of_parts("this")?;
        Stream::through_norms(model, run)
    }

    /// The same for models whose norms stand in the stream, so that what was written to it is no longer in it as it was.
    pub(crate) fn through_norms(model: &'a Model, run: &'a Run) -> Result<Self> {
        let spec = *model.spec().read_out("this")?;
        let tokens = run.single()?;
        // A folded model has the sizes of the one it was made from, but other activations: sizes alone do not tell.
        if run.model() != model.name() || run.n_layers() != model.dims().n_layers {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "the run is of `{}` ({} layers), but the model is `{}` ({} layers)",
                    run.model(),
                    run.n_layers(),
                    model.name(),
                    model.dims().n_layers
                ),
            )
            .help("run this model on the input, and give that run"));
        }
        Ok(Stream { model, run, spec, tokens })
    }

    /// What the stack is built of.
    pub(crate) fn spec(&self) -> &StackSpec {
        &self.spec
    }

    /// Which stack it is.
    pub(crate) fn stack(&self) -> Stack {
        self.spec.stack
    }

    /// Fails if there are not so many bytes for `what` is made of the stream.
    pub(crate) fn has_room(&self, what: &str, needed: u64) -> Result<()> {
        memory::check(self.model.device(), needed, || {
            (format!("{what}, on {} tokens,", self.len()), "run a shorter input")
        })
    }

    /// The number of positions.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn position_axis(&self) -> Axis {
        Axis::labelled("position", self.tokens.shared_labels())
    }

    /// The positions that an attention's keys are of.
    pub(crate) fn key_axis(&self, attn: Attn) -> Result<Axis> {
        let of = match (attn, self.spec.crosses) {
            (Attn::Cross, Some(source)) => source,
            _ => self.stack(),
        };
        let tokens = self.run.tokens_of(of)?.first().unwrap_or(self.tokens);
        Ok(Axis::labelled("position", tokens.shared_labels()))
    }

    /// A norm's gain and bias `[d_model]`; nothing where they are folded.
    pub(crate) fn norm_params(
        &self,
        norm: fn(NormParam) -> Param,
        layer: usize,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.model.norm_params(self.stack(), norm, layer)
    }

    /// An activation of the run `[position, ...]`, where the model is.
    pub(crate) fn read(&self, hook: impl Into<Hook>) -> Result<Tensor> {
        let hook = hook.into().of(self.stack());
        let tensor = self.run.whole(hook)?.squeeze(0)?;
        let len = |axis| -> Result<usize> {
            let along = self.run.spec().stack_of_axis(hook, axis)?.stack;
            let positions = self.run.tokens_of(along)?.first().map_or(0, Tokens::len);
            self.run.spec().axis_len(hook, axis, positions, positions)
        };
        let wanted = hook.site().axes().iter().map(|&axis| len(axis)).collect::<Result<Vec<_>>>()?;
        if tensor.dims() != wanted {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the run's `{hook}` has shape {:?}, the model's {wanted:?}", tensor.dims()),
            )
            .help("give the model that made the run"));
        }
        Ok(tensor.to_device(self.model.device())?.contiguous()?)
    }

    /// Something `[.., position, width]` divided by the scale that a norm had in the run; as it is, where there are no norms.
    pub(crate) fn divide_by_scale(&self, x: &Tensor, scale: impl Into<Hook>) -> Result<Tensor> {
        match self.spec.norm {
            NormKind::None => Ok(x.clone()),
            NormKind::Layer | NormKind::Rms => Ok(x.broadcast_div(&self.read(scale)?)?),
        }
    }

    /// Something `[position, width]` of some positions, divided by the scale that a norm had there.
    pub(crate) fn divide_by_scale_of(&self, x: &Tensor, scale: Hook, at: Range<usize>) -> Result<Tensor> {
        match self.spec.norm {
            NormKind::None => Ok(x.clone()),
            NormKind::Layer | NormKind::Rms => {
                Ok(x.broadcast_div(&self.read(scale)?.narrow(0, at.start, at.len())?)?)
            }
        }
    }

    /// What a tensor is to its norms, over dimension `dim`.
    pub(crate) fn as_normed(&self, x: &Tensor, dim: usize) -> Result<Tensor> {
        as_normed(self.spec.norm, x, dim)
    }

    /// What an embedding is multiplied by behind its hook.
    pub(crate) fn embedding_scale(&self, site: Site) -> f64 {
        if site == Site::Embed { self.model.network.embed_scale(self.stack()) } else { 1.0 }
    }

    /// The embeddings that the stream begins with, by TransformerLens's names.
    pub(crate) fn embeddings(&self) -> Vec<(&'static str, Site)> {
        let all = [
            ("embed", Site::Embed),
            ("pos_embed", Site::PosEmbed),
            ("token_type_embed", Site::TokenTypeEmbed),
        ];
        all.into_iter().filter(|(_, site)| self.spec.has(*site)).collect()
    }

    /// What each head of an attention of a layer wrote `[head, position, d_model]`, or that times a matrix `[d_model, width]`.
    pub(crate) fn heads(&self, layer: usize, attn: Attn, through: Option<&Tensor>) -> Result<Tensor> {
        progress::check("taking the stream apart")?;
        self.model.spec().adds_heads("what each head adds")?;
        if let Some(result) = self.kept_results(layer, attn)? {
            let result = result.transpose(0, 1)?.contiguous()?; // [head, position, d_model]
            return match through {
                Some(matrix) => through_all(&result, matrix),
                None => Ok(result),
            };
        }
        let z = self.read(Site::Z.at(layer).with_attn(attn))?.transpose(0, 1)?.contiguous()?; // [head, position, d_head]
        let w_o = self.param(Param::output_of(attn), layer)?; // [head, d_head, d_model]
        // The product of two matrices is small where the matrix is narrow: no head's d_model numbers are made then.
        let w_o = match through {
            Some(matrix) => through_all(&w_o, matrix)?,
            None => w_o,
        };
        Ok(z.matmul(&w_o)?)
    }

    /// What each head of an attention of a layer wrote `[position, head, d_model]`, where the run kept it.
    pub(crate) fn kept_results(&self, layer: usize, attn: Attn) -> Result<Option<Tensor>> {
        let hook = Site::Result.at(layer).of(self.stack()).with_attn(attn);
        self.run.hooks().contains(&hook).then(|| self.read(hook)).transpose()
    }

    /// What each key sends to a query through each head of an attention of a layer, its attention times its value `[key, head, d_head]`.
    pub(crate) fn messages(&self, layer: usize, attn: Attn, query: usize) -> Result<Tensor> {
        let at = |site: Site| site.at(layer).with_attn(attn);
        let pattern = self.read(at(Site::Pattern))?; // [head, query, key]
        let paid = pattern.narrow(1, query, 1)?.squeeze(1)?.t()?.contiguous()?; // [key, head]
        let sharing = self.spec.dims.queries_per_kv_head();
        let owner: Vec<u32> = (0..paid.dim(1)?).map(|head| (head / sharing) as u32).collect();
        let owner = Tensor::new(owner, paid.device())?;
        let values = self.read(at(Site::V))?.index_select(&owner, 1)?; // [key, head, d_head]
        Ok(values.broadcast_mul(&paid.unsqueeze(2)?)?)
    }

    /// The sum of the output biases of attention below a layer `[d_model]`.
    pub(crate) fn attention_bias_below(&self, layer: usize) -> Result<Tensor> {
        let mut sum = Tensor::zeros(self.spec.dims.d_model, DType::F32, self.model.device())?;
        for below in 0..layer {
            for attn in self.spec.attentions() {
                sum = (sum + self.param(Param::output_bias_of(attn), below)?)?;
            }
        }
        Ok(sum)
    }

    /// A weight of a layer, each query head's, contiguous.
    pub(crate) fn param(&self, param: Param, layer: usize) -> Result<Tensor> {
        Ok(self.model.head_param(self.stack(), param, layer)?.contiguous()?)
    }
}

/// Each matrix `[.., rows, d_model]` times one matrix `[d_model, width]`.
pub(crate) fn through_all(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let (many, rows, width) = x.dims3()?;
    Ok(x.reshape((many * rows, width))?.matmul(matrix)?.reshape((many, rows, matrix.dim(1)?))?)
}
