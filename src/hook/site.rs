//! Kinds of activations, named as TransformerLens names them.

use std::fmt;

use crate::hook::axis::AxisKind;
use crate::hook::stack::Attn;

/// A kind of activation. With a layer it is a [`Hook`](crate::Hook): `Site::Pattern.at(5)`.
///
/// The axes are those of one input; several inputs put `batch` first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Site {
    /// `hook_embed`: embeddings of tokens, or of patches and the class token `[position, d_model]`.
    Embed,
    /// `hook_pos_embed`: position embeddings `[position, d_model]`.
    PosEmbed,
    /// `hook_token_type_embed`: embeddings of which of two texts a token is of `[position, d_model]`.
    TokenTypeEmbed,
    /// `embed.ln.hook_scale`: what the norm of the embeddings' sum divides by `[position, scale]`.
    EmbedLnScale,
    /// `embed.ln.hook_normalized`: what it makes of it before its gain and bias `[position, d_model]`.
    EmbedLnNormalized,
    /// `hook_full_embed`: the residual stream before the first block, where a norm leaves it `[position, d_model]`.
    FullEmbed,
    /// `hook_resid_pre`: the residual stream as a block reads it `[position, d_model]`.
    ResidPre,
    /// `hook_q_input`: what each head's queries read, before ln1 `[position, head, d_model]`. Opt-in.
    QInput,
    /// `hook_k_input`: what each head of keys reads, before ln1 `[position, head, d_model]`. Opt-in.
    KInput,
    /// `hook_v_input`: what each head of values reads, before ln1 `[position, head, d_model]`. Opt-in.
    VInput,
    /// `ln1.hook_scale`: what ln1 divides by, a standard deviation or root mean square `[position, scale]`.
    Ln1Scale,
    /// `ln1.hook_normalized`: what ln1 makes of it before its gain and bias `[position, d_model]`.
    Ln1Normalized,
    /// `attn.hook_q`: queries `[position, head, d_head]`.
    Q,
    /// `attn.hook_k`: keys `[position, head, d_head]`, of as many heads as there are of keys.
    K,
    /// `attn.hook_v`: values `[position, head, d_head]`, of as many heads as there are of keys.
    V,
    /// `attn.hook_rot_q`: queries turned by their positions `[position, head, d_head]`.
    RotQ,
    /// `attn.hook_rot_k`: keys turned by their positions `[position, head, d_head]`.
    RotK,
    /// `attn.hook_attn_scores`: scaled scores, -inf where a key lies ahead `[head, query, key]`.
    AttnScores,
    /// `attn.hook_pattern`: attention probabilities `[head, query, key]`.
    Pattern,
    /// `attn.hook_z`: values mixed by the pattern `[position, head, d_head]`.
    Z,
    /// `attn.hook_result`: what each head adds to the residual stream `[position, head, d_model]`. Opt-in.
    Result,
    /// `ln1_post.hook_scale`: what the norm of what attention adds divides by, where norms stand on both sides `[position, scale]`.
    Ln1PostScale,
    /// `ln1_post.hook_normalized`: what it makes of it before its gain and bias `[position, d_model]`.
    Ln1PostNormalized,
    /// `hook_attn_out`: what attention adds to the residual stream `[position, d_model]`.
    AttnOut,
    /// `hook_resid_mid`: the residual stream between attention and what follows `[position, d_model]`. Where norms come after the
    /// sum, before its norm.
    ResidMid,
    /// `hook_resid_mid_cross`: the residual stream between cross-attention and MLP `[position, d_model]`.
    ResidMidCross,
    /// `hook_mlp_in`: what the MLP reads, before ln2 `[position, d_model]`. Opt-in.
    MlpIn,
    /// `ln2.hook_scale`: what ln2 divides by `[position, scale]`.
    Ln2Scale,
    /// `ln2.hook_normalized`: what ln2 makes of it before its gain and bias `[position, d_model]`.
    Ln2Normalized,
    /// `ln3.hook_scale`: what the third norm of a block with cross-attention divides by `[position, scale]`.
    Ln3Scale,
    /// `ln3.hook_normalized`: what it makes of it before its gain and bias `[position, d_model]`.
    Ln3Normalized,
    /// `mlp.hook_pre`: MLP neurons (with a gate, the gates) before the nonlinearity `[position, d_mlp]`.
    MlpPre,
    /// `mlp.hook_pre_linear`: what gates multiply `[position, d_mlp]`.
    MlpPreLinear,
    /// `mlp.hook_post`: MLP neurons after the nonlinearity `[position, d_mlp]`.
    MlpPost,
    /// `ln2_post.hook_scale`: what the norm of what the MLP adds divides by, where norms stand on both sides `[position, scale]`.
    Ln2PostScale,
    /// `ln2_post.hook_normalized`: what it makes of it before its gain and bias `[position, d_model]`.
    Ln2PostNormalized,
    /// `hook_mlp_out`: what the MLP adds to the residual stream `[position, d_model]`.
    MlpOut,
    /// `hook_resid_post`: the residual stream as a block leaves it `[position, d_model]`. Where norms come after the sum, before its
    /// norm.
    ResidPost,
    /// `hook_normalized_resid_post`: what the next block reads, where norms come after the sum `[position, d_model]`.
    NormalizedResidPost,
    /// `ln_final.hook_scale`: what the last norm divides by `[position, scale]`.
    LnFinalScale,
    /// `ln_final.hook_normalized`: what the last norm makes of it before its gain and bias `[position, d_model]`.
    LnFinalNormalized,
    /// `mlm_head.ln.hook_scale`: what the norm of the head for masked tokens divides by `[position, scale]`.
    HeadLnScale,
    /// `mlm_head.ln.hook_normalized`: what it makes of it before its gain and bias `[position, d_model]`.
    HeadLnNormalized,
    /// `unembed.hook_in`: what the unembedding reads `[position, d_model]`.
    UnembedIn,
    /// `unembed.hook_out`: the logits `[position, d_vocab]`.
    UnembedOut,
    /// `pooler.hook_pooler_out`: what a pooler makes of the one position that classes are told by `[d_model]`.
    PoolerOut,
    /// `classifier.hook_out`: the logits of classes `[class]`.
    ClassLogits,
    /// `hook_projected`: the embedding that a tower makes of the whole input, before it is normalised `[d_projected]`.
    Projected,
    /// `hook_similarity`: the cosine of both towers' embeddings times the model's scale: one number.
    Similarity,
}

impl Site {
    /// Every site, in the order in which a run meets them.
    pub const ALL: [Site; 49] = [
        Site::Embed,
        Site::PosEmbed,
        Site::TokenTypeEmbed,
        Site::EmbedLnScale,
        Site::EmbedLnNormalized,
        Site::FullEmbed,
        Site::ResidPre,
        Site::QInput,
        Site::KInput,
        Site::VInput,
        Site::Ln1Scale,
        Site::Ln1Normalized,
        Site::Q,
        Site::K,
        Site::V,
        Site::RotQ,
        Site::RotK,
        Site::AttnScores,
        Site::Pattern,
        Site::Z,
        Site::Result,
        Site::Ln1PostScale,
        Site::Ln1PostNormalized,
        Site::AttnOut,
        Site::ResidMid,
        Site::ResidMidCross,
        Site::MlpIn,
        Site::Ln2Scale,
        Site::Ln2Normalized,
        Site::Ln3Scale,
        Site::Ln3Normalized,
        Site::MlpPre,
        Site::MlpPreLinear,
        Site::MlpPost,
        Site::Ln2PostScale,
        Site::Ln2PostNormalized,
        Site::MlpOut,
        Site::ResidPost,
        Site::NormalizedResidPost,
        Site::LnFinalScale,
        Site::LnFinalNormalized,
        Site::HeadLnScale,
        Site::HeadLnNormalized,
        Site::UnembedIn,
        Site::UnembedOut,
        Site::PoolerOut,
        Site::ClassLogits,
        Site::Projected,
        Site::Similarity,
    ];

    /// Whether the site exists once in each layer, rather than once in the model.
    pub fn in_block(self) -> bool {
        use Site::*;
        !matches!(self, LnFinalScale | LnFinalNormalized | Projected)
            && !self.is_of_embedding()
            && !self.is_of_readout()
    }

    /// Whether it belongs to what a model is read out by, and to no stack.
    pub(crate) const fn is_of_readout(self) -> bool {
        use Site::*;
        matches!(
            self,
            HeadLnScale | HeadLnNormalized | UnembedIn | UnembedOut | PoolerOut | ClassLogits | Similarity
        )
    }

    /// Whether it lies before the blocks.
    pub(crate) const fn is_of_embedding(self) -> bool {
        use Site::*;
        matches!(self, Embed | PosEmbed | TokenTypeEmbed | EmbedLnScale | EmbedLnNormalized | FullEmbed)
    }

    /// Whether cross-attention has one of its own.
    pub(crate) const fn is_of_attention(self) -> bool {
        use Site::*;
        matches!(
            self,
            QInput | KInput | VInput | Q | K | V | RotQ | RotK | AttnScores | Pattern | Z | Result | AttnOut
        )
    }

    /// Whether it is of keys or values: cross-attention has them at the positions of the stack that it attends to.
    pub(crate) const fn is_of_source(self) -> bool {
        use Site::*;
        matches!(self, KInput | VInput | K | V | RotK)
    }

    /// The axes of the activation, of one input; several put `batch` before them.
    ///
    /// ```
    /// use headlight::{AxisKind, Site};
    /// assert_eq!(Site::Pattern.axes(), [AxisKind::Head, AxisKind::Query, AxisKind::Key]);
    /// ```
    pub const fn axes(self) -> &'static [AxisKind] {
        use AxisKind::*;
        match self {
            Site::Q | Site::RotQ | Site::Z => &[Position, Head, DHead],
            Site::K | Site::V | Site::RotK => &[Position, KvHead, DHead],
            Site::QInput | Site::Result => &[Position, Head, DModel],
            Site::KInput | Site::VInput => &[Position, KvHead, DModel],
            Site::AttnScores | Site::Pattern => &[Head, Query, Key],
            Site::Ln1Scale
            | Site::Ln1PostScale
            | Site::Ln2Scale
            | Site::Ln2PostScale
            | Site::Ln3Scale
            | Site::EmbedLnScale
            | Site::HeadLnScale
            | Site::LnFinalScale => &[Position, Scale],
            Site::MlpPre | Site::MlpPreLinear | Site::MlpPost => &[Position, DMlp],
            Site::UnembedOut => &[Position, Vocabulary],
            Site::PoolerOut => &[DModel],
            Site::ClassLogits => &[Class],
            Site::Projected => &[DProjected],
            Site::Similarity => &[],
            Site::Embed
            | Site::PosEmbed
            | Site::TokenTypeEmbed
            | Site::EmbedLnNormalized
            | Site::FullEmbed
            | Site::HeadLnNormalized
            | Site::ResidPre
            | Site::Ln1Normalized
            | Site::Ln1PostNormalized
            | Site::AttnOut
            | Site::ResidMid
            | Site::ResidMidCross
            | Site::MlpIn
            | Site::Ln2Normalized
            | Site::Ln2PostNormalized
            | Site::Ln3Normalized
            | Site::MlpOut
            | Site::ResidPost
            | Site::NormalizedResidPost
            | Site::LnFinalNormalized
            | Site::UnembedIn => &[Position, DModel],
        }
    }

    /// The axis of heads, if it has one, counted from the first after the batch.
    pub(crate) fn head_axis(self) -> Option<usize> {
        self.axes().iter().position(|axis| matches!(axis, AxisKind::Head | AxisKind::KvHead))
    }

    /// The axis along which the tokens lie that an activation belongs to, those of queries where there are keys too.
    pub(crate) fn position_axis(self) -> Option<usize> {
        self.axes().iter().position(|axis| matches!(axis, AxisKind::Position | AxisKind::Query))
    }

    /// Whether its `head` axis counts heads of keys and values, which several query heads may share.
    pub fn is_kv(self) -> bool {
        self.axes().contains(&AxisKind::KvHead)
    }

    /// Whether the site is made only when it is asked for by name, as in TransformerLens.
    pub fn is_opt_in(self) -> bool {
        matches!(self, Site::QInput | Site::KInput | Site::VInput | Site::Result | Site::MlpIn)
    }

    /// The name within its block (or in the model, where it is not in a block): `attn.hook_pattern`.
    pub fn name(self) -> &'static str {
        match self {
            Site::Embed => "hook_embed",
            Site::PosEmbed => "hook_pos_embed",
            Site::TokenTypeEmbed => "hook_token_type_embed",
            Site::EmbedLnScale => "embed.ln.hook_scale",
            Site::EmbedLnNormalized => "embed.ln.hook_normalized",
            Site::FullEmbed => "hook_full_embed",
            Site::ResidPre => "hook_resid_pre",
            Site::QInput => "hook_q_input",
            Site::KInput => "hook_k_input",
            Site::VInput => "hook_v_input",
            Site::Ln1Scale => "ln1.hook_scale",
            Site::Ln1Normalized => "ln1.hook_normalized",
            Site::Q => "attn.hook_q",
            Site::K => "attn.hook_k",
            Site::V => "attn.hook_v",
            Site::RotQ => "attn.hook_rot_q",
            Site::RotK => "attn.hook_rot_k",
            Site::AttnScores => "attn.hook_attn_scores",
            Site::Pattern => "attn.hook_pattern",
            Site::Z => "attn.hook_z",
            Site::Result => "attn.hook_result",
            Site::Ln1PostScale => "ln1_post.hook_scale",
            Site::Ln1PostNormalized => "ln1_post.hook_normalized",
            Site::AttnOut => "hook_attn_out",
            Site::ResidMid => "hook_resid_mid",
            Site::ResidMidCross => "hook_resid_mid_cross",
            Site::MlpIn => "hook_mlp_in",
            Site::Ln2Scale => "ln2.hook_scale",
            Site::Ln2Normalized => "ln2.hook_normalized",
            Site::Ln3Scale => "ln3.hook_scale",
            Site::Ln3Normalized => "ln3.hook_normalized",
            Site::MlpPre => "mlp.hook_pre",
            Site::MlpPreLinear => "mlp.hook_pre_linear",
            Site::MlpPost => "mlp.hook_post",
            Site::Ln2PostScale => "ln2_post.hook_scale",
            Site::Ln2PostNormalized => "ln2_post.hook_normalized",
            Site::MlpOut => "hook_mlp_out",
            Site::ResidPost => "hook_resid_post",
            Site::NormalizedResidPost => "hook_normalized_resid_post",
            Site::LnFinalScale => "ln_final.hook_scale",
            Site::LnFinalNormalized => "ln_final.hook_normalized",
            Site::HeadLnScale => "mlm_head.ln.hook_scale",
            Site::HeadLnNormalized => "mlm_head.ln.hook_normalized",
            Site::UnembedIn => "unembed.hook_in",
            Site::UnembedOut => "unembed.hook_out",
            Site::PoolerOut => "pooler.hook_pooler_out",
            Site::ClassLogits => "classifier.hook_out",
            Site::Projected => "hook_projected",
            Site::Similarity => "hook_similarity",
        }
    }

    /// The name of cross-attention's own: `cross_attn.hook_pattern`. TransformerLens has none for what its heads read.
    pub(crate) fn cross_name(self) -> String {
        match self.name().strip_prefix("attn.") {
            Some(name) => format!("cross_attn.{name}"),
            None => self.name().replace("hook_", "hook_cross_"),
        }
    }

    /// What people type: `pattern`, `resid_pre`, `ln1.scale`. No two sites share one.
    pub(super) fn short_name(self) -> String {
        self.name().trim_start_matches("attn.").trim_start_matches("mlp.").replace("hook_", "")
    }

    /// A site and which attention's, by a name within a block or in a model.
    pub(super) fn parse(text: &str) -> Option<(Site, Attn)> {
        let cross = || {
            let of_cross = Site::ALL.into_iter().filter(|site| site.is_of_attention());
            let mut found = of_cross.filter(|site| {
                let name = site.cross_name();
                text == name
                    || text == name.replace("hook_", "")
                    || text == format!("cross_{}", site.short_name())
            });
            found.next().map(|site| (site, Attn::Cross))
        };
        let own = |text: &str| {
            let mut found = Site::ALL.into_iter().filter(|site| {
                let name = site.name();
                text == name
                    || text == site.short_name()
                    || text == name.replace("hook_", "")
                    || Some(text) == name.rsplit_once('.').map(|(_, last)| last) && site.owns_last_part()
                    || text == "logits" && *site == Site::UnembedOut
            });
            found.next().map(|site| (site, Attn::Own))
        };
        // transformers says `self_attn` where cross-attention stands beside it.
        let bare = text.strip_prefix("self_").filter(|rest| rest.starts_with("attn."));
        // `HookedEncoder` has the embeddings together.
        let of_encoder = text.strip_prefix("embed.").and_then(own).filter(|(site, _)| site.is_of_embedding());
        let next_sentence = (text == "nsp_head.hook_nsp_out").then_some((Site::ClassLogits, Attn::Own));
        own(bare.unwrap_or(text)).or_else(cross).or(of_encoder).or(next_sentence)
    }

    /// `hook_scale` alone could be three sites; `hook_pattern` can be one only.
    fn owns_last_part(self) -> bool {
        let last = |site: Site| site.name().rsplit('.').next();
        Site::ALL.into_iter().filter(|site| last(*site) == last(self)).count() == 1
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
