//! Folding: weights that compute the same log-probabilities in a form that is easier to read
//! (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; TransformerLens's
//! `fold_ln`, `center_writing_weights`, `center_unembed` and `fold_value_biases`).

use candle_core::{D, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::network::cpu::{can_fuse, center};
use crate::network::network::Network;
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::embedding::Embedding;
use crate::network::parts::linear::Linear;
use crate::network::parts::norm::Norm;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::NormKind;

impl Network {
    /// The network with its norms' gains and biases in the weights that read them, the biases of values in attention's own,
    /// and the logits centred; what writes to the stream is centred too where the norms centre what they read. Fails where that
    /// would change what the network computes.
    pub(crate) fn folded(&self) -> Result<Network> {
        let mut folded = self.clone();
        let ([stack], ReadoutLayer::Vocabulary { unembed, .. }) =
            (folded.stacks.as_mut_slice(), &mut folded.readout)
        else {
            return Err(match self.stacks.len() {
                1 => cannot("no weight reads what its last norm makes"),
                _ => cannot("its stacks read one another through norms that several weights share"),
            });
        };
        if stack.block_kind == BlockKind::PostNorm {
            return Err(cannot(
                "its norms come after the sums, so what they make stays in the stream, gain and bias included",
            ));
        }
        let centres = stack.ln_final.kind == NormKind::Layer;
        for Block { ln1, attn, mlp, after, .. } in &mut stack.blocks {
            // What a norm stands behind is centred by it, or must not be.
            let centres = centres && after.is_none();
            into_readers(ln1, [&mut attn.qkv])?;
            if let Some((ln2, mlp)) = mlp {
                into_readers(ln2, std::iter::once(&mut mlp.input).chain(&mut mlp.gate))?;
                if centres {
                    centre(&mut mlp.output)?;
                }
            }
            if centres {
                centre(&mut attn.output)?;
            }
            if let Some(bias) = &attn.qkv.bias {
                let (heads, shared) = (attn.n_heads, attn.n_key_value_heads);
                let bias = bias.reshape((heads + 2 * shared, ()))?; // (H + 2K, D)
                let b_v = bias.narrow(0, heads + shared, shared)?; // (K, D)
                let d_head = b_v.dim(1)?;
                // Each query head adds the values' bias that it shares: attention sums to 1.
                let each = b_v.unsqueeze(1)?.broadcast_as((shared, heads / shared, d_head))?;
                let carried =
                    each.reshape((1, heads * d_head))?.matmul(&attn.output.weight.tensor()?)?.squeeze(0)?; // (M)
                attn.output.bias = Some((attn.output.bias_or_zeros()? + carried)?);
                let rest = bias.narrow(0, 0, heads + shared)?;
                attn.qkv.bias = Some(Tensor::cat(&[rest, b_v.zeros_like()?], 0)?.flatten_all()?);
            }
        }
        into_readers(&mut stack.ln_final, [&mut *unembed])?;
        if centres {
            if let Embedding::Tokens(w_e) = &mut stack.embedding {
                *w_e = centred(&w_e.tensor()?)?.into();
            }
            stack.w_pos = stack.w_pos.as_ref().map(centred).transpose()?;
        }
        centre(unembed)?;
        Ok(folded)
    }
}

fn cannot(why: &str) -> Error {
    Error::new(ErrorKind::Model, format!("this model's norms cannot be folded: {why}"))
        .help("look into the model as it is")
}

/// Takes gain and bias out of a norm into what reads it. Where the norm centres, so do the weights: their columns lose
/// the mean that they would never see.
fn into_readers<'a>(norm: &mut Norm, readers: impl IntoIterator<Item = &'a mut Linear>) -> Result<()> {
    let (gain, bias) = (norm.gain.take(), norm.bias.take());
    for linear in readers {
        let weight = linear.weight.tensor()?; // (M, out)
        if let Some(bias) = &bias {
            let carried = bias.unsqueeze(0)?.matmul(&weight)?.squeeze(0)?; // (out)
            linear.bias = Some(match &linear.bias {
                Some(own) => (own + carried)?,
                None => carried,
            });
        }
        if let Some(gain) = &gain {
            let centres = norm.kind == NormKind::Layer;
            if centres && can_fuse([&weight, gain]) {
                linear.weight = center(&weight, false, Some(gain))?.into(); // (M, out)
                continue;
            }
            let mut weight = weight.broadcast_mul(&gain.unsqueeze(1)?)?; // (M, out)
            if centres {
                weight = weight.broadcast_sub(&weight.mean_keepdim(0)?)?;
            }
            linear.weight = weight.into();
        }
    }
    Ok(())
}

/// A linear map that never writes along the direction of all ones, which norms (or, for logits, the softmax) take away
/// anyhow.
fn centre(linear: &mut Linear) -> Result<()> {
    linear.weight = centred(&linear.weight.tensor()?)?.into();
    linear.bias = linear.bias.as_ref().map(centred).transpose()?;
    Ok(())
}

/// A tensor without its mean over the last axis.
fn centred(w: &Tensor) -> Result<Tensor> {
    if w.rank() == 2 && can_fuse([w]) {
        return center(w, true, None);
    }
    Ok(w.broadcast_sub(&w.mean_keepdim(D::Minus1)?)?)
}
