//! The weights of a network by what they are, and their names at the edge: TransformerLens's.

use candle_core::Tensor;

use crate::error::Result;
use crate::hook::{Attn, Stack};
use crate::network::network::Network;
use crate::network::parts::attention::Projection;
use crate::network::parts::block::Block;
use crate::network::parts::embedding::Embedding;
use crate::network::parts::linear::Linear;
use crate::network::parts::norm::Norm;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::StackSpec;
use crate::network::weights::weight::Weight;

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
    /// Of which text a token is: `W_token_type`
    TokenType,
    /// Of the norm of the embeddings' sum.
    LnEmbed(NormParam),
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
    /// What stands before the unembedding where masked tokens are told.
    Head,
    HeadBias,
    HeadNorm(NormParam),
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
const FIRST: [Param; 9] = [
    Param::Embed,
    Param::PatchEmbed,
    Param::PatchEmbedBias,
    Param::ClassToken,
    Param::PosEmbed,
    Param::TokenType,
    Param::LnEmbed(Gain),
    Param::LnEmbed(Bias),
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
const READOUT: [Param; 10] = [
    Param::Head,
    Param::HeadBias,
    Param::HeadNorm(Gain),
    Param::HeadNorm(Bias),
    Param::Unembed,
    Param::UnembedBias,
    Param::Pooler,
    Param::PoolerBias,
    Param::Classifier,
    Param::ClassifierBias,
];

impl Param {
    /// `W_Q`, `W_K` or `W_V` of an attention.
    pub(crate) const fn weight_of(attn: Attn, part: Projection) -> Param {
        match attn {
            Attn::Own => Param::Weight(part),
            Attn::Cross => Param::CrossWeight(part),
        }
    }

    /// `b_Q`, `b_K` or `b_V` of an attention.
    pub(crate) const fn bias_of(attn: Attn, part: Projection) -> Param {
        match attn {
            Attn::Own => Param::Bias(part),
            Attn::Cross => Param::CrossBias(part),
        }
    }

    /// Its `W_O`.
    pub(crate) const fn output_of(attn: Attn) -> Param {
        match attn {
            Attn::Own => Param::Output,
            Attn::Cross => Param::CrossOutput,
        }
    }

    /// Its `b_O`.
    pub(crate) const fn output_bias_of(attn: Attn) -> Param {
        match attn {
            Attn::Own => Param::OutputBias,
            Attn::Cross => Param::CrossOutputBias,
        }
    }

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
            (Param::TokenType, _) => "embed.token_type_embed.W_token_type",
            (Param::LnEmbed(Gain), _) => "embed.ln.w",
            (Param::LnEmbed(Bias), _) => "embed.ln.b",
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
            (Param::Head, _) => "mlm_head.W",
            (Param::HeadBias, _) => "mlm_head.b",
            (Param::HeadNorm(Gain), _) => "mlm_head.ln.w",
            (Param::HeadNorm(Bias), _) => "mlm_head.ln.b",
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

    /// Whether it is of a matrix, which may lie in a file.
    fn is_of_matrix(self) -> bool {
        use Param::{Classifier, Head, MlpGate, MlpIn, MlpOut, Output, Pooler};
        use Param::{CrossOutput, CrossWeight, Embed, PatchEmbed, Unembed};
        let in_block = matches!(
            self,
            Param::Weight(_) | Output | CrossWeight(_) | CrossOutput | MlpIn | MlpGate | MlpOut
        );
        in_block
            || matches!(self, Embed | PatchEmbed | Unembed | Head | Pooler | Classifier | Param::Projection)
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
            Param::TokenType => &["token type", "d_model"],
            Param::Pooler | Param::Head => &["d_model", "d_model"],
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
            | Param::HeadBias
            | Param::HeadNorm(_)
            | Param::LnEmbed(_)
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

/// A weight that the network has, made when it is asked for.
pub(crate) type UnmadeWeight<'a> = Box<dyn FnOnce() -> Result<Tensor> + Send + 'a>;

fn there<'a>(tensor: Option<&'a Tensor>) -> Option<UnmadeWeight<'a>> {
    tensor.map(|tensor| -> UnmadeWeight<'a> { Box::new(|| Ok(tensor.clone())) })
}

fn made<'a>(make: impl FnOnce() -> Result<Tensor> + Send + 'a) -> Option<UnmadeWeight<'a>> {
    Some(Box::new(make))
}

fn of_norm(norm: &Norm, part: NormParam) -> Option<UnmadeWeight<'_>> {
    there(match part {
        Gain => norm.gain.as_ref(),
        Bias => norm.bias.as_ref(),
    })
}

impl Linear {
    fn param(&self, is_bias: bool) -> Option<UnmadeWeight<'_>> {
        made(move || if is_bias { self.bias_or_zeros() } else { self.weight.tensor() })
    }
}

impl Block {
    fn param(&self, param: Param) -> Option<UnmadeWeight<'_>> {
        let Block { ln1, attn, cross, mlp, after } = self;
        let norms = attn.scoring.norms.as_ref();
        // The norms are counted as they come.
        let norm_of_mlp = mlp.as_ref().map(|(norm, _)| norm);
        let (ln2, ln3) = match cross {
            Some((norm, _)) => (Some(norm), norm_of_mlp),
            None => (norm_of_mlp, None),
        };
        fn of(norm: Option<&Norm>, part: NormParam) -> Option<UnmadeWeight<'_>> {
            norm.and_then(|norm| of_norm(norm, part))
        }
        let [ln1_post, ln2_post] = after.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
        match param {
            Param::Ln1(part) => of_norm(ln1, part),
            Param::Ln1Post(part) => of(ln1_post, part),
            Param::Ln2Post(part) => of(ln2_post, part),
            Param::Ln2(part) => of(ln2, part),
            Param::Ln3(part) => of(ln3, part),
            Param::Weight(which) => made(move || attn.weight(which)),
            Param::Bias(which) => made(move || attn.bias(which)),
            Param::QNorm(part) => norms.and_then(|(of_q, _)| of_norm(of_q, part)),
            Param::KNorm(part) => norms.and_then(|(_, of_k)| of_norm(of_k, part)),
            Param::Output => made(|| attn.w_o()),
            Param::OutputBias => attn.output.param(true),
            _ => match (cross, mlp, param) {
                (Some((_, cross)), _, Param::CrossWeight(which)) => made(move || cross.weight(which)),
                (Some((_, cross)), _, Param::CrossBias(which)) => made(move || cross.bias(which)),
                (Some((_, cross)), _, Param::CrossOutput) => made(|| cross.w_o()),
                (Some((_, cross)), _, Param::CrossOutputBias) => cross.output.param(true),
                (_, Some((_, mlp)), Param::MlpIn) => mlp.input.param(false),
                (_, Some((_, mlp)), Param::MlpInBias) => mlp.input.param(true),
                (_, Some((_, mlp)), Param::MlpGate) => mlp.gate.as_ref()?.param(false),
                (_, Some((_, mlp)), Param::MlpOut) => mlp.output.param(false),
                (_, Some((_, mlp)), Param::MlpOutBias) => mlp.output.param(true),
                _ => None,
            },
        }
    }
}

impl Embedding {
    fn param(&self, param: Param) -> Option<UnmadeWeight<'_>> {
        match (self, param) {
            (Embedding::Tokens(w_e), Param::Embed) => made(|| w_e.tensor()),
            (Embedding::Patches { patch, .. }, Param::PatchEmbed) => patch.param(false),
            (Embedding::Patches { patch, .. }, Param::PatchEmbedBias) => patch.param(true),
            (Embedding::Patches { class, .. }, Param::ClassToken) => there(class.as_ref()),
            _ => None,
        }
    }
}

impl ReadoutLayer {
    fn param(&self, param: Param) -> Option<UnmadeWeight<'_>> {
        let linear = match (self, param) {
            (ReadoutLayer::Vocabulary { unembed, .. }, Param::Unembed | Param::UnembedBias) => unembed,
            (ReadoutLayer::Vocabulary { head: Some(head), .. }, Param::HeadNorm(part)) => {
                return of_norm(&head.norm, part);
            }
            (ReadoutLayer::Vocabulary { head: Some(head), .. }, Param::Head | Param::HeadBias) => &head.dense,
            (ReadoutLayer::Pooled { pooler, .. }, Param::Pooler | Param::PoolerBias) => pooler,
            (ReadoutLayer::Classes { pooler, .. }, Param::Pooler | Param::PoolerBias) => &pooler.as_ref()?.0,
            (ReadoutLayer::Classes { classify, .. }, Param::Classifier | Param::ClassifierBias) => classify,
            _ => return None,
        };
        let is_bias = [Param::UnembedBias, Param::HeadBias, Param::PoolerBias, Param::ClassifierBias];
        linear.param(is_bias.contains(&param))
    }

    fn projection(&self, stack: Stack) -> Option<&Linear> {
        let ReadoutLayer::Similarity { towers, .. } = self else { return None };
        towers.iter().find(|tower| tower.of == stack).map(|tower| &tower.projection)
    }
}

impl Network {
    /// A weight in TransformerLens's shape, if the network has it: where it is in memory, a view of its own wherever the layout
    /// allows. `stack` and `layer` say whose, of a block's; of the unembedding there is one.
    pub(crate) fn param(&self, stack: Stack, param: Param, layer: usize) -> Result<Option<Tensor>> {
        self.unmade_param(stack, param, layer).map(|make| make()).transpose()
    }

    /// The same, yet to be made.
    pub(crate) fn unmade_param(&self, stack: Stack, param: Param, layer: usize) -> Option<UnmadeWeight<'_>> {
        if READOUT.contains(&param) {
            return self.readout.param(param);
        }
        let stack = self.stacks.iter().find(|own| own.stack == stack)?;
        match param {
            Param::Embed | Param::PatchEmbed | Param::PatchEmbedBias | Param::ClassToken => {
                stack.embedding.param(param)
            }
            Param::Projection => self.readout.projection(stack.stack)?.param(false),
            Param::PosEmbed => there(stack.w_pos.as_ref()),
            Param::TokenType => there(stack.token_types.as_ref()),
            Param::LnEmbed(part) => of_norm(&stack.ln_embed, part),
            Param::RelativeBias => there(stack.relative_bias.as_ref().map(|bias| &bias.table)),
            Param::LnFinal(part) => of_norm(&stack.ln_final, part),
            of_block => stack.blocks.get(layer)?.param(of_block),
        }
    }

    /// What the tokens of a stack are looked up in `[d_vocab, d_model]`, if it reads any.
    pub(crate) fn embedding(&self, stack: Stack) -> Option<&Weight> {
        match &self.stacks.iter().find(|own| own.stack == stack)?.embedding {
            Embedding::Tokens(w_e) => Some(w_e),
            Embedding::Patches { .. } => None,
        }
    }

    /// What tokens are read out by `[d_model, d_vocab]`, if any are.
    pub(crate) fn unembedding(&self) -> Option<&Weight> {
        match &self.readout {
            ReadoutLayer::Vocabulary { unembed, .. } => Some(&unembed.weight),
            _ => None,
        }
    }

    /// Every weight under TransformerLens's name for it, in TransformerLens's shape, made one by one.
    pub(crate) fn weights(&self) -> Vec<(String, UnmadeWeight<'_>)> {
        self.named_params().map(|(name, _, unmade)| (name, unmade)).collect()
    }

    /// What is in no matrix: biases, gains, positions.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = UnmadeWeight<'_>> {
        self.named_params().filter(|(_, param, _)| !param.is_of_matrix()).map(|(_, _, unmade)| unmade)
    }

    fn named_params(&self) -> impl Iterator<Item = (String, Param, UnmadeWeight<'_>)> {
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
                all.extend(self.unmade_param(*stack, param, layer).map(|unmade| (name, param, unmade)));
            }
        }
        for param in READOUT {
            let unmade = self.unmade_param(Stack::Main, param, 0);
            all.extend(unmade.map(|unmade| (param.path(false).to_string(), param, unmade)));
        }
        all.into_iter()
    }
}
