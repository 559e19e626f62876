//! The weights of a network by what they are, and their names at the edge: TransformerLens's.

use candle_core::Tensor;

use crate::error::Result;
use crate::hook::Stack;
use crate::network::network::Network;
use crate::network::parts::attention::Projection;
use crate::network::parts::block::Block;
use crate::network::parts::embedding::Embedding;
use crate::network::parts::linear::Linear;
use crate::network::parts::norm::Norm;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::StackSpec;

/// A weight by what it is; with a layer, where it is a block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Param {
    /// `W_E`
    Embed,
    /// What pixels of a patch are multiplied by, and what is added.
    PatchEmbed,
    PatchEmbedBias,
    ClassToken,
    /// `W_pos`
    PosEmbed,
    /// The biases of attention scores by distance, which TransformerLens keeps with the first layer.
    RelativeBias,
    Ln1(NormParam),
    /// `W_Q`, `W_K` or `W_V`
    Weight(Projection),
    /// `b_Q`, `b_K` or `b_V`
    Bias(Projection),
    QNorm(NormParam),
    KNorm(NormParam),
    /// `W_O`
    Output,
    /// `b_O`
    OutputBias,
    /// Those of cross-attention: `cross_attn.W_Q`, ...
    CrossWeight(Projection),
    CrossBias(Projection),
    CrossOutput,
    CrossOutputBias,
    Ln2(NormParam),
    Ln3(NormParam),
    /// Of the norms of what attention and MLP add.
    Ln1Post(NormParam),
    Ln2Post(NormParam),
    /// `W_in`
    MlpIn,
    /// `b_in`
    MlpInBias,
    /// `W_gate`
    MlpGate,
    /// `W_out`
    MlpOut,
    /// `b_out`
    MlpOutBias,
    LnFinal(NormParam),
    /// `W_U`
    Unembed,
    /// `b_U`
    UnembedBias,
    /// What is between the position that is read and the classes.
    Pooler,
    PoolerBias,
    Classifier,
    ClassifierBias,
    /// What makes an embedding of a tower's position that is read, as ViT-Prisma has it.
    Projection,
}

/// What a norm multiplies by, or adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormParam {
    Gain,
    Bias,
}

use NormParam::{Bias, Gain};
use Projection::{K, Q, V};

/// Those that a stack has once, before its blocks.
const FIRST: [Param; 6] = [
    Param::Embed,
    Param::PatchEmbed,
    Param::PatchEmbedBias,
    Param::ClassToken,
    Param::PosEmbed,
    Param::RelativeBias,
];

/// Those of a block.
const IN_BLOCK: [Param; 35] = [
    Param::Ln1(Gain),
    Param::Ln1(Bias),
    Param::Weight(Q),
    Param::Bias(Q),
    Param::Weight(K),
    Param::Bias(K),
    Param::Weight(V),
    Param::Bias(V),
    Param::QNorm(Gain),
    Param::QNorm(Bias),
    Param::KNorm(Gain),
    Param::KNorm(Bias),
    Param::Output,
    Param::OutputBias,
    Param::Ln1Post(Gain),
    Param::Ln1Post(Bias),
    Param::Ln2(Gain),
    Param::Ln2(Bias),
    Param::CrossWeight(Q),
    Param::CrossBias(Q),
    Param::CrossWeight(K),
    Param::CrossBias(K),
    Param::CrossWeight(V),
    Param::CrossBias(V),
    Param::CrossOutput,
    Param::CrossOutputBias,
    Param::Ln3(Gain),
    Param::Ln3(Bias),
    Param::MlpIn,
    Param::MlpInBias,
    Param::MlpGate,
    Param::MlpOut,
    Param::MlpOutBias,
    Param::Ln2Post(Gain),
    Param::Ln2Post(Bias),
];

/// Those that a stack has once, after its blocks.
const LAST: [Param; 3] = [Param::LnFinal(Gain), Param::LnFinal(Bias), Param::Projection];

/// Those that a model is read out by.
const READOUT: [Param; 6] = [
    Param::Unembed,
    Param::UnembedBias,
    Param::Pooler,
    Param::PoolerBias,
    Param::Classifier,
    Param::ClassifierBias,
];

impl Param {
    pub(crate) fn is_in_block(self) -> bool {
        IN_BLOCK.contains(&self)
    }

    /// Every weight that a model of this kind can have.
    pub(crate) fn all() -> impl Iterator<Item = Param> {
        FIRST.into_iter().chain(IN_BLOCK).chain(LAST).chain(READOUT)
    }

    /// Its name within its block, or in the model; `shared` marks keys and values that several query heads share.
    pub(crate) fn path(self, shared: bool) -> &'static str {
        match (self, shared) {
            (Param::Embed, _) => "embed.W_E",
            (Param::PatchEmbed, _) => "embed.W_patch",
            (Param::PatchEmbedBias, _) => "embed.b_patch",
            (Param::ClassToken, _) => "cls_token",
            (Param::PosEmbed, _) => "pos_embed.W_pos",
            (Param::RelativeBias, _) => "rel_pos_bias.weight",
            (Param::Ln1(Gain), _) => "ln1.w",
            (Param::Ln1(Bias), _) => "ln1.b",
            (Param::Weight(Q), _) => "attn.W_Q",
            (Param::Bias(Q), _) => "attn.b_Q",
            (Param::Weight(K), false) => "attn.W_K",
            (Param::Weight(K), true) => "attn._W_K",
            (Param::Bias(K), false) => "attn.b_K",
            (Param::Bias(K), true) => "attn._b_K",
            (Param::Weight(V), false) => "attn.W_V",
            (Param::Weight(V), true) => "attn._W_V",
            (Param::Bias(V), false) => "attn.b_V",
            (Param::Bias(V), true) => "attn._b_V",
            (Param::QNorm(Gain), _) => "attn.q_norm.w",
            (Param::QNorm(Bias), _) => "attn.q_norm.b",
            (Param::KNorm(Gain), _) => "attn.k_norm.w",
            (Param::KNorm(Bias), _) => "attn.k_norm.b",
            (Param::Output, _) => "attn.W_O",
            (Param::OutputBias, _) => "attn.b_O",
            (Param::CrossWeight(Q), _) => "cross_attn.W_Q",
            (Param::CrossBias(Q), _) => "cross_attn.b_Q",
            (Param::CrossWeight(K), false) => "cross_attn.W_K",
            (Param::CrossWeight(K), true) => "cross_attn._W_K",
            (Param::CrossBias(K), false) => "cross_attn.b_K",
            (Param::CrossBias(K), true) => "cross_attn._b_K",
            (Param::CrossWeight(V), false) => "cross_attn.W_V",
            (Param::CrossWeight(V), true) => "cross_attn._W_V",
            (Param::CrossBias(V), false) => "cross_attn.b_V",
            (Param::CrossBias(V), true) => "cross_attn._b_V",
            (Param::CrossOutput, _) => "cross_attn.W_O",
            (Param::CrossOutputBias, _) => "cross_attn.b_O",
            (Param::Ln3(Gain), _) => "ln3.w",
            (Param::Ln3(Bias), _) => "ln3.b",
            (Param::Ln2(Gain), _) => "ln2.w",
            (Param::Ln2(Bias), _) => "ln2.b",
            (Param::Ln1Post(Gain), _) => "ln1_post.w",
            (Param::Ln1Post(Bias), _) => "ln1_post.b",
            (Param::Ln2Post(Gain), _) => "ln2_post.w",
            (Param::Ln2Post(Bias), _) => "ln2_post.b",
            (Param::MlpIn, _) => "mlp.W_in",
            (Param::MlpInBias, _) => "mlp.b_in",
            (Param::MlpGate, _) => "mlp.W_gate",
            (Param::MlpOut, _) => "mlp.W_out",
            (Param::MlpOutBias, _) => "mlp.b_out",
            (Param::LnFinal(Gain), _) => "ln_final.w",
            (Param::LnFinal(Bias), _) => "ln_final.b",
            (Param::Unembed, _) => "unembed.W_U",
            (Param::UnembedBias, _) => "unembed.b_U",
            (Param::Pooler, _) => "pooler.W",
            (Param::PoolerBias, _) => "pooler.b",
            (Param::Classifier, _) => "classifier.W",
            (Param::ClassifierBias, _) => "classifier.b",
            (Param::Projection, _) => "head.W_H",
        }
    }

    /// The last part of its name: `W_Q`.
    pub(crate) fn short(self, shared: bool) -> &'static str {
        let path = self.path(shared);
        path.rsplit_once('.').map_or(path, |(_, last)| last)
    }

    /// Whether its `head` axis counts heads of keys and values.
    pub(crate) fn is_kv(self) -> bool {
        matches!(
            self,
            Param::Weight(K | V) | Param::Bias(K | V) | Param::CrossWeight(K | V) | Param::CrossBias(K | V)
        )
    }

    /// Whether it is of cross-attention.
    pub(crate) fn is_of_cross(self) -> bool {
        use Param::{CrossBias, CrossOutput, CrossOutputBias, CrossWeight};
        matches!(self, CrossWeight(_) | CrossBias(_) | CrossOutput | CrossOutputBias)
    }

    /// Its axes, in one layer.
    pub(crate) fn axes(self) -> &'static [&'static str] {
        match self {
            Param::Embed => &["d_vocab", "d_model"],
            Param::PatchEmbed => &["pixel", "d_model"],
            Param::PosEmbed => &["position", "d_model"],
            Param::Pooler => &["d_model", "d_model"],
            Param::Classifier => &["d_model", "class"],
            Param::ClassifierBias => &["class"],
            Param::Projection => &["d_model", "d_projected"],
            Param::RelativeBias => &["bucket", "head"],
            Param::Weight(_) | Param::CrossWeight(_) => &["head", "d_model", "d_head"],
            Param::Bias(_) | Param::CrossBias(_) => &["head", "d_head"],
            Param::QNorm(_) | Param::KNorm(_) => &["d_head"],
            Param::Output | Param::CrossOutput => &["head", "d_head", "d_model"],
            Param::MlpIn | Param::MlpGate => &["d_model", "d_mlp"],
            Param::MlpInBias => &["d_mlp"],
            Param::MlpOut => &["d_mlp", "d_model"],
            Param::Unembed => &["d_model", "d_vocab"],
            Param::UnembedBias => &["d_vocab"],
            Param::ClassToken
            | Param::PatchEmbedBias
            | Param::PoolerBias
            | Param::Ln1(_)
            | Param::Ln2(_)
            | Param::Ln3(_)
            | Param::Ln1Post(_)
            | Param::Ln2Post(_)
            | Param::LnFinal(_)
            | Param::OutputBias
            | Param::CrossOutputBias
            | Param::MlpOutBias => &["d_model"],
        }
    }
}

fn of_norm(norm: &Norm, part: NormParam) -> Option<Tensor> {
    match part {
        Gain => norm.gain.clone(),
        Bias => norm.bias.clone(),
    }
}

impl Block {
    fn param(&self, param: Param) -> Result<Option<Tensor>> {
        let Block { ln1, attn, cross, mlp, after } = self;
        let norms = attn.scoring.norms.as_ref();
        // The norms are counted as they come.
        let norm_of_mlp = mlp.as_ref().map(|(norm, _)| norm);
        let (ln2, ln3) = match cross {
            Some((norm, _)) => (Some(norm), norm_of_mlp),
            None => (norm_of_mlp, None),
        };
        let of = |norm: Option<&Norm>, part: NormParam| norm.and_then(|norm| of_norm(norm, part));
        let [ln1_post, ln2_post] = after.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
        Ok(match param {
            Param::Ln1(part) => of_norm(ln1, part),
            Param::Ln1Post(part) => of(ln1_post, part),
            Param::Ln2Post(part) => of(ln2_post, part),
            Param::Ln2(part) => of(ln2, part),
            Param::Ln3(part) => of(ln3, part),
            Param::Weight(which) => Some(attn.weight(which)?),
            Param::Bias(which) => Some(attn.bias(which)?),
            Param::QNorm(part) => norms.and_then(|(of_q, _)| of_norm(of_q, part)),
            Param::KNorm(part) => norms.and_then(|(_, of_k)| of_norm(of_k, part)),
            Param::Output => Some(attn.w_o()?),
            Param::OutputBias => Some(attn.output.bias_or_zeros()?),
            _ => match (cross, mlp, param) {
                (Some((_, cross)), _, Param::CrossWeight(which)) => Some(cross.weight(which)?),
                (Some((_, cross)), _, Param::CrossBias(which)) => Some(cross.bias(which)?),
                (Some((_, cross)), _, Param::CrossOutput) => Some(cross.w_o()?),
                (Some((_, cross)), _, Param::CrossOutputBias) => Some(cross.output.bias_or_zeros()?),
                (_, Some((_, mlp)), Param::MlpIn) => Some(mlp.input.weight.clone()),
                (_, Some((_, mlp)), Param::MlpInBias) => Some(mlp.input.bias_or_zeros()?),
                (_, Some((_, mlp)), Param::MlpGate) => mlp.gate.as_ref().map(|gate| gate.weight.clone()),
                (_, Some((_, mlp)), Param::MlpOut) => Some(mlp.output.weight.clone()),
                (_, Some((_, mlp)), Param::MlpOutBias) => Some(mlp.output.bias_or_zeros()?),
                _ => None,
            },
        })
    }
}

impl Embedding {
    fn param(&self, param: Param) -> Result<Option<Tensor>> {
        Ok(match (self, param) {
            (Embedding::Tokens(w_e), Param::Embed) => Some(w_e.clone()),
            (Embedding::Patches { patch, .. }, Param::PatchEmbed) => Some(patch.weight.clone()),
            (Embedding::Patches { patch, .. }, Param::PatchEmbedBias) => Some(patch.bias_or_zeros()?),
            (Embedding::Patches { class, .. }, Param::ClassToken) => class.clone(),
            _ => None,
        })
    }
}

impl ReadoutLayer {
    fn param(&self, param: Param) -> Result<Option<Tensor>> {
        let linear = match (self, param) {
            (ReadoutLayer::Vocabulary { unembed, .. }, Param::Unembed | Param::UnembedBias) => Some(unembed),
            (ReadoutLayer::Classes { pooler, .. }, Param::Pooler | Param::PoolerBias) => {
                pooler.as_ref().map(|(pooler, _)| pooler)
            }
            (ReadoutLayer::Classes { classify, .. }, Param::Classifier | Param::ClassifierBias) => {
                Some(classify)
            }
            _ => None,
        };
        let is_bias = matches!(param, Param::UnembedBias | Param::PoolerBias | Param::ClassifierBias);
        linear
            .map(|linear| if is_bias { linear.bias_or_zeros() } else { Ok(linear.weight.clone()) })
            .transpose()
    }

    fn projection(&self, stack: Stack) -> Option<&Linear> {
        let ReadoutLayer::Similarity { towers, .. } = self else { return None };
        towers.iter().find(|tower| tower.of == stack).map(|tower| &tower.projection)
    }
}

impl Network {
    /// A weight in TransformerLens's shape, if the network has it: a view of its own wherever the layout allows. `stack` and
    /// `layer` say whose, of a block's; of the unembedding there is one.
    pub(crate) fn param(&self, stack: Stack, param: Param, layer: usize) -> Result<Option<Tensor>> {
        if READOUT.contains(&param) {
            return self.readout.param(param);
        }
        let Some(stack) = self.stacks.iter().find(|own| own.stack == stack) else { return Ok(None) };
        Ok(match param {
            Param::Embed | Param::PatchEmbed | Param::PatchEmbedBias | Param::ClassToken => {
                stack.embedding.param(param)?
            }
            Param::Projection => self.readout.projection(stack.stack).map(|linear| linear.weight.clone()),
            Param::PosEmbed => stack.w_pos.clone(),
            Param::RelativeBias => stack.relative_bias.as_ref().map(|bias| bias.table.clone()),
            Param::LnFinal(part) => of_norm(&stack.ln_final, part),
            of_block => match stack.blocks.get(layer) {
                Some(block) => block.param(of_block)?,
                None => None,
            },
        })
    }

    /// Every weight under TransformerLens's name for it, in TransformerLens's shape.
    pub(crate) fn weights(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for StackSpec { stack, dims, .. } in self.spec().stacks() {
            let shared = dims.shares_kv();
            let once = |param: Param| (format!("{}{}", stack.prefix(), param.path(shared)), param, 0);
            let blocks = (0..dims.n_layers).flat_map(|layer| {
                let prefix = format!("{}{layer}.", stack.block_prefixes()[0]);
                IN_BLOCK
                    .into_iter()
                    .map(move |param| (format!("{prefix}{}", param.path(shared)), param, layer))
            });
            let of_stack = FIRST.into_iter().map(once).chain(blocks).chain(LAST.into_iter().map(once));
            for (name, param, layer) in of_stack {
                all.extend(self.param(*stack, param, layer)?.map(|tensor| (name, tensor)));
            }
        }
        for param in READOUT {
            let tensor = self.param(Stack::Main, param, 0)?;
            all.extend(tensor.map(|tensor| (param.path(false).to_string(), tensor)));
        }
        Ok(all)
    }
}
