//! What each part of a model wrote into the residual stream of a run, which is their sum (Elhage et al. 2021, "A
//! Mathematical Framework for Transformer Circuits", section "High-Level Architecture").

use candle_core::{DType, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};
use crate::model::input::Tokens;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::Axis;
use crate::network::NormKind;
use crate::network::param::Param;
use crate::{memory, progress};

/// A run of one input, read together with the model that made it.
pub(crate) struct Stream<'a> {
    pub(crate) model: &'a Model,
    run: &'a Run,
    tokens: &'a Tokens,
}

/// What a model's norms see of a tensor: nothing of its mean over dimension `dim`, where they centre.
pub(crate) fn as_normed(model: &Model, x: &Tensor, dim: usize) -> Result<Tensor> {
    match model.spec().last_stack().norm {
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
        model.spec().only_stack("this")?;
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
        Ok(Stream { model, run, tokens })
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

    /// An activation of the run `[position, ...]`, where the model is.
    pub(crate) fn read(&self, hook: impl Into<Hook>) -> Result<Tensor> {
        let hook = hook.into();
        let dims = self.model.dims();
        let tensor = self.run.whole(hook)?.squeeze(0)?;
        let axes = hook.site().axes().iter();
        let wanted: Vec<usize> = axes.map(|&axis| dims.axis_len(axis, self.len(), self.len())).collect();
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
        match self.model.spec().last_stack().norm {
            NormKind::None => Ok(x.clone()),
            NormKind::Layer | NormKind::Rms => Ok(x.broadcast_div(&self.read(scale)?)?),
        }
    }

    /// The embeddings that the stream begins with, by TransformerLens's names.
    pub(crate) fn embeddings(model: &Model) -> Vec<(&'static str, Site)> {
        let all = [
            ("embed", Site::Embed),
            ("pos_embed", Site::PosEmbed),
            ("token_type_embed", Site::TokenTypeEmbed),
        ];
        all.into_iter().filter(|(_, site)| model.spec().has(*site)).collect()
    }

    /// What each head of a layer wrote `[head, position, d_model]`, or that times a matrix `[d_model, width]`.
    pub(crate) fn heads(&self, layer: usize, through: Option<&Tensor>) -> Result<Tensor> {
        progress::check("taking the stream apart")?;
        self.model.spec().adds_heads("what each head adds")?;
        if self.run.hooks().contains(&Site::Result.at(layer)) {
            let result = self.read(Site::Result.at(layer))?.transpose(0, 1)?.contiguous()?; // [head, position, d_model]
            return match through {
                Some(matrix) => through_all(&result, matrix),
                None => Ok(result),
            };
        }
        let z = self.read(Site::Z.at(layer))?.transpose(0, 1)?.contiguous()?; // [head, position, d_head]
        let w_o = self.param(Param::Output, layer)?; // [head, d_head, d_model]
        // The product of two matrices is small where the matrix is narrow: no head's d_model numbers are made then.
        let w_o = match through {
            Some(matrix) => through_all(&w_o, matrix)?,
            None => w_o,
        };
        Ok(z.matmul(&w_o)?)
    }

    /// What each key sends to a query through each head of a layer, its attention times its value `[key, head, d_head]`.
    pub(crate) fn messages(&self, layer: usize, query: usize) -> Result<Tensor> {
        let pattern = self.read(Site::Pattern.at(layer))?; // [head, query, key]
        let paid = pattern.narrow(1, query, 1)?.squeeze(1)?.t()?.contiguous()?; // [key, head]
        let sharing = self.model.dims().queries_per_kv_head();
        let owner: Vec<u32> = (0..paid.dim(1)?).map(|head| (head / sharing) as u32).collect();
        let owner = Tensor::new(owner, paid.device())?;
        let values = self.read(Site::V.at(layer))?.index_select(&owner, 1)?; // [key, head, d_head]
        Ok(values.broadcast_mul(&paid.unsqueeze(2)?)?)
    }

    /// The sum of the output biases of attention below a layer `[d_model]`.
    pub(crate) fn attention_bias_below(&self, layer: usize) -> Result<Tensor> {
        let mut sum = Tensor::zeros(self.model.dims().d_model, DType::F32, self.model.device())?;
        for below in 0..layer {
            sum = (sum + self.param(Param::OutputBias, below)?)?;
        }
        Ok(sum)
    }

    /// A weight of a layer, each query head's, contiguous.
    pub(crate) fn param(&self, param: Param, layer: usize) -> Result<Tensor> {
        Ok(self.model.head_param(param, layer)?.contiguous()?)
    }
}

/// Each matrix `[.., rows, d_model]` times one matrix `[d_model, width]`.
pub(crate) fn through_all(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let (many, rows, width) = x.dims3()?;
    Ok(x.reshape((many * rows, width))?.matmul(matrix)?.reshape((many, rows, matrix.dim(1)?))?)
}
