//! Addresses of activations, typed and named as TransformerLens names them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result, nearest};

/// A kind of activation. With a layer it is a [`Hook`]: `Site::Pattern.at(5)`.
///
/// The axes are those of one input; several inputs put `batch` first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Site {
    /// `hook_embed`: token embeddings `[position, d_model]`.
    Embed,
    /// `hook_pos_embed`: position embeddings `[position, d_model]`.
    PosEmbed,
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
    /// `hook_attn_out`: what attention adds to the residual stream `[position, d_model]`.
    AttnOut,
    /// `hook_resid_mid`: the residual stream between attention and MLP `[position, d_model]`.
    ResidMid,
    /// `hook_mlp_in`: what the MLP reads, before ln2 `[position, d_model]`. Opt-in.
    MlpIn,
    /// `ln2.hook_scale`: what ln2 divides by `[position, scale]`.
    Ln2Scale,
    /// `ln2.hook_normalized`: what ln2 makes of it before its gain and bias `[position, d_model]`.
    Ln2Normalized,
    /// `mlp.hook_pre`: MLP neurons (with a gate, the gates) before the nonlinearity `[position, d_mlp]`.
    MlpPre,
    /// `mlp.hook_pre_linear`: what gates multiply `[position, d_mlp]`.
    MlpPreLinear,
    /// `mlp.hook_post`: MLP neurons after the nonlinearity `[position, d_mlp]`.
    MlpPost,
    /// `hook_mlp_out`: what the MLP adds to the residual stream `[position, d_model]`.
    MlpOut,
    /// `hook_resid_post`: the residual stream as a block leaves it `[position, d_model]`.
    ResidPost,
    /// `ln_final.hook_scale`: what the last norm divides by `[position, scale]`.
    LnFinalScale,
    /// `ln_final.hook_normalized`: what the last norm makes of it before its gain and bias `[position, d_model]`.
    LnFinalNormalized,
    /// `unembed.hook_in`: what the unembedding reads `[position, d_model]`.
    UnembedIn,
    /// `unembed.hook_out`: the logits `[position, d_vocab]`.
    UnembedOut,
}

impl Site {
    /// Every site, in the order in which a run meets them.
    pub const ALL: [Site; 31] = [
        Site::Embed,
        Site::PosEmbed,
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
        Site::AttnOut,
        Site::ResidMid,
        Site::MlpIn,
        Site::Ln2Scale,
        Site::Ln2Normalized,
        Site::MlpPre,
        Site::MlpPreLinear,
        Site::MlpPost,
        Site::MlpOut,
        Site::ResidPost,
        Site::LnFinalScale,
        Site::LnFinalNormalized,
        Site::UnembedIn,
        Site::UnembedOut,
    ];

    /// The address of this site in a layer.
    ///
    /// ```
    /// use headlight::Site;
    /// assert_eq!(Site::Pattern.at(5).to_string(), "blocks.5.attn.hook_pattern");
    /// ```
    pub fn at(self, layer: usize) -> Hook {
        Hook { site: self, layer: Some(layer) }
    }

    /// Whether the site exists once in each layer, rather than once in the model.
    pub fn in_block(self) -> bool {
        use Site::*;
        !matches!(self, Embed | PosEmbed | LnFinalScale | LnFinalNormalized | UnembedIn | UnembedOut)
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
            Site::Ln1Scale | Site::Ln2Scale | Site::LnFinalScale => &[Position, Scale],
            Site::MlpPre | Site::MlpPreLinear | Site::MlpPost => &[Position, DMlp],
            Site::UnembedOut => &[Position, Vocabulary],
            Site::Embed
            | Site::PosEmbed
            | Site::ResidPre
            | Site::Ln1Normalized
            | Site::AttnOut
            | Site::ResidMid
            | Site::MlpIn
            | Site::Ln2Normalized
            | Site::MlpOut
            | Site::ResidPost
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
            Site::AttnOut => "hook_attn_out",
            Site::ResidMid => "hook_resid_mid",
            Site::MlpIn => "hook_mlp_in",
            Site::Ln2Scale => "ln2.hook_scale",
            Site::Ln2Normalized => "ln2.hook_normalized",
            Site::MlpPre => "mlp.hook_pre",
            Site::MlpPreLinear => "mlp.hook_pre_linear",
            Site::MlpPost => "mlp.hook_post",
            Site::MlpOut => "hook_mlp_out",
            Site::ResidPost => "hook_resid_post",
            Site::LnFinalScale => "ln_final.hook_scale",
            Site::LnFinalNormalized => "ln_final.hook_normalized",
            Site::UnembedIn => "unembed.hook_in",
            Site::UnembedOut => "unembed.hook_out",
        }
    }

    /// What people type: `pattern`, `resid_pre`, `ln1.scale`. No two sites share one.
    fn short_name(self) -> String {
        self.name().trim_start_matches("attn.").trim_start_matches("mlp.").replace("hook_", "")
    }

    fn parse(text: &str) -> Option<Site> {
        Site::ALL.into_iter().find(|site| {
            let name = site.name();
            text == name
                || text == site.short_name()
                || text == name.replace("hook_", "")
                || Some(text) == name.rsplit_once('.').map(|(_, last)| last) && site.owns_last_part()
                || text == "logits" && *site == Site::UnembedOut
        })
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

/// What an axis of an activation counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AxisKind {
    /// Tokens.
    Position,
    /// Tokens that attend.
    Query,
    /// Tokens that are attended to.
    Key,
    /// Attention heads.
    Head,
    /// Heads of keys and values, which several attention heads may share.
    KvHead,
    /// The width of the residual stream.
    DModel,
    /// The width of a head.
    DHead,
    /// Neurons of an MLP.
    DMlp,
    /// The one number by which a norm divides.
    Scale,
    /// Tokens of the vocabulary.
    Vocabulary,
}

impl AxisKind {
    /// The axis's name: `position`, `head`, `d_model`, ...
    pub const fn name(self) -> &'static str {
        match self {
            AxisKind::Position => "position",
            AxisKind::Query => "query",
            AxisKind::Key => "key",
            AxisKind::Head | AxisKind::KvHead => "head",
            AxisKind::DModel => "d_model",
            AxisKind::DHead => "d_head",
            AxisKind::DMlp => "d_mlp",
            AxisKind::Scale => "scale",
            AxisKind::Vocabulary => "d_vocab",
        }
    }

    /// Whether its entries are the tokens of the input.
    pub(crate) const fn is_of_tokens(self) -> bool {
        matches!(self, AxisKind::Position | AxisKind::Query | AxisKind::Key)
    }
}

/// The address of one activation. Prints and parses as TransformerLens's name for the same tensor.
///
/// ```
/// use headlight::{Hook, Site};
/// let hook: Hook = "blocks.5.attn.hook_pattern".parse()?;
/// assert_eq!(hook, Site::Pattern.at(5));
/// let error = "blocks.5.attn.hook_patern".parse::<Hook>().unwrap_err();
/// assert!(error.to_string().contains("did you mean `blocks.5.attn.hook_pattern`"));
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hook {
    site: Site,
    layer: Option<usize>,
}

impl Hook {
    /// What kind of activation it is.
    pub fn site(self) -> Site {
        self.site
    }

    /// The layer, for a site within a block.
    pub fn layer(self) -> Option<usize> {
        self.layer
    }

    /// Fails unless a model of `n_layers` layers has it.
    pub(crate) fn check(self, n_layers: usize) -> Result<Hook> {
        match self.layer {
            Some(layer) if !self.site.in_block() => Err(Error::new(
                ErrorKind::Address,
                format!("`{}` exists once in a model, not in layer {layer}", self.site),
            )
            .help(format!("write `{}` without a layer", self.site))),
            None if self.site.in_block() => Err(Error::new(
                ErrorKind::Address,
                format!("`{}` exists in every layer: which one is meant?", self.site),
            )
            .help(format!("write `{}`, say", self.site.at(0)))),
            Some(layer) if layer >= n_layers => Err(Error::new(
                ErrorKind::Address,
                format!("`{self}` does not exist: the model has {n_layers} layers"),
            )
            .help(format!("layers are 0 to {}", n_layers.saturating_sub(1)))),
            _ => Ok(self),
        }
    }

    /// Every hook that a model of `n_layers` layers may have, in the order in which a run meets them. Which of them one
    /// model has, [`Model::hooks`](crate::Model::hooks) says.
    pub fn all(n_layers: usize) -> Vec<Hook> {
        let is_before = |site: &&Site| matches!(site, Site::Embed | Site::PosEmbed);
        let global = || Site::ALL.iter().filter(|site| !site.in_block());
        let blocks = (0..n_layers).flat_map(|layer| {
            Site::ALL.into_iter().filter(|site| site.in_block()).map(move |site| site.at(layer))
        });
        (global().filter(is_before).map(|&site| Hook::from(site)))
            .chain(blocks)
            .chain(global().filter(|site| !is_before(site)).map(|&site| Hook::from(site)))
            .collect()
    }
}

impl From<Site> for Hook {
    fn from(site: Site) -> Self {
        Hook { site, layer: None }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "blocks.{layer}.{}", self.site),
            None => write!(f, "{}", self.site),
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hook {
    type Err = Error;

    fn from_str(text: &str) -> Result<Hook> {
        let name = text.trim();
        let in_block = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        let found = match in_block {
            Some((layer, site)) => match (layer.parse(), Site::parse(site)) {
                (Ok(layer), Some(site)) => return site.at(layer).check(usize::MAX),
                _ => None,
            },
            None => Site::parse(name).map(Hook::from),
        };
        found.ok_or_else(|| unknown(name, in_block.and_then(|(layer, _)| layer.parse().ok())))
    }
}

fn unknown(name: &str, layer: Option<usize>) -> Error {
    let mut known: Vec<String> = Vec::new();
    for site in Site::ALL {
        match layer {
            Some(layer) if site.in_block() => known.push(site.at(layer).to_string()),
            _ => known.extend([site.name().to_string(), site.short_name()]),
        }
    }
    let error = Error::new(ErrorKind::Address, format!("there is no hook `{name}`"));
    match nearest(name, known.iter().map(String::as_str)) {
        Some(guess) => error.help(format!("did you mean `{guess}`?")),
        None => error
            .help("names are TransformerLens's, such as `blocks.0.attn.hook_pattern`; with a layer `pattern` does too"),
    }
}

/// What can stand for a hook: a [`Hook`], a [`Site`], a name, or a short name and a layer.
pub trait IntoHook {
    /// The hook that is meant.
    fn into_hook(self) -> Result<Hook>;
}

impl IntoHook for Hook {
    fn into_hook(self) -> Result<Hook> {
        Ok(self)
    }
}

impl IntoHook for Site {
    fn into_hook(self) -> Result<Hook> {
        Ok(self.into())
    }
}

impl IntoHook for &str {
    fn into_hook(self) -> Result<Hook> {
        self.parse()
    }
}

impl IntoHook for (&str, usize) {
    fn into_hook(self) -> Result<Hook> {
        let (name, layer) = self;
        Site::parse(name.trim()).map(|site| site.at(layer)).ok_or_else(|| unknown(name, None))
    }
}

impl IntoHook for (Site, usize) {
    fn into_hook(self) -> Result<Hook> {
        Ok(self.0.at(self.1))
    }
}

/// One attention head. Prints and parses as `L5H1`.
///
/// ```
/// use headlight::{Head, head};
/// assert_eq!("L5H1".parse::<Head>()?, head(5, 1));
/// assert_eq!(head(5, 1).to_string(), "L5H1");
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Head {
    /// The layer, from 0.
    pub layer: usize,
    /// The head within its layer, from 0.
    pub head: usize,
}

/// The head `head` of layer `layer`, both from 0.
pub fn head(layer: usize, head: usize) -> Head {
    Head { layer, head }
}

impl Head {
    /// Every head of a model of that many layers and heads, layer by layer.
    pub fn all(n_layers: usize, n_heads: usize) -> impl Iterator<Item = Head> {
        (0..n_layers).flat_map(move |layer| (0..n_heads).map(move |index| head(layer, index)))
    }

    /// Fails unless a model of that many layers and heads has it.
    pub(crate) fn check(self, n_layers: usize, n_heads: usize) -> Result<Head> {
        if self.layer < n_layers && self.head < n_heads {
            return Ok(self);
        }
        Err(Error::new(
            ErrorKind::Address,
            format!("there is no head {self}: the model has {n_layers} layers of {n_heads} heads"),
        )
        .help(format!(
            "heads are L0H0 to L{}H{}",
            n_layers.saturating_sub(1),
            n_heads.saturating_sub(1)
        )))
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}H{}", self.layer, self.head)
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Head {
    type Err = Error;

    /// Reads `L5H1`, and the `5.1` of the literature.
    fn from_str(text: &str) -> Result<Head> {
        let trimmed = text.trim();
        let parts = match trimmed.strip_prefix(['L', 'l']) {
            Some(rest) => rest.split_once(['H', 'h']),
            None => trimmed.split_once('.'),
        };
        parts.and_then(|(l, h)| Some(head(l.parse().ok()?, h.parse().ok()?))).ok_or_else(|| {
            Error::new(ErrorKind::Address, format!("`{text}` is not a head"))
                .help("write layer and head as L5H1 (or 5.1), both from 0")
        })
    }
}
