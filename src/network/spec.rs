//! What a model is built of, where architectures differ, and so which activations it has.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, AxisKind, Head, Hook, Site, Stack, head};
use crate::network::dims::Dims;

/// What a model is: its stacks, in the order in which a run goes through them, and what is read out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenSpec")]
pub struct ArchSpec {
    stacks: Vec<StackSpec>,
    readout: Readout,
}

/// What a file says of a model, which may be anything.
#[derive(Deserialize)]
struct WrittenSpec {
    stacks: Vec<StackSpec>,
    readout: Readout,
}

impl TryFrom<WrittenSpec> for ArchSpec {
    type Error = String;

    fn try_from(written: WrittenSpec) -> std::result::Result<ArchSpec, String> {
        // Names of hooks are made of it, one by one.
        const MOST_LAYERS: usize = 10_000;
        let WrittenSpec { stacks, readout } = written;
        for (index, StackSpec { stack, dims, reads, crosses, .. }) in stacks.iter().enumerate() {
            let Dims { n_layers, n_heads, n_key_value_heads, d_model, d_head, d_mlp, d_vocab, n_ctx } = *dims;
            let all = [n_layers, n_heads, n_key_value_heads, d_model, d_head, n_ctx];
            let is_readable = match reads {
                Reads::Tokens => (1..=u32::MAX as usize).contains(&d_vocab),
                Reads::Patches { .. } => reads.positions() == Some(n_ctx),
            };
            let are_sizes = all.iter().all(|size| (1..=u32::MAX as usize).contains(size))
                && is_readable
                && d_mlp <= u32::MAX as usize
                && n_layers <= MOST_LAYERS;
            if !are_sizes || !n_heads.is_multiple_of(n_key_value_heads) {
                return Err(format!("the {stack} stack has sizes that no model has: {dims:?}"));
            }
            let before = || stacks[..index].iter().map(|spec| spec.stack);
            if before().any(|other| other == *stack)
                || crosses.is_some_and(|to| before().all(|own| own != to))
            {
                return Err(format!(
                    "the {stack} stack is there twice, or attends to one that does not come before"
                ));
            }
        }
        let is_last = |of: Stack| stacks.last().is_some_and(|spec| spec.stack == of);
        let is_there = |of: Stack| stacks.iter().any(|spec| spec.stack == of);
        match &readout {
            Readout::Vocabulary(of)
            | Readout::Masked(of)
            | Readout::Pooled(of)
            | Readout::Classes { of, .. }
                if !is_last(*of) =>
            {
                Err(format!("the {of} stack is read out, and is not the last"))
            }
            Readout::Classes { labels, .. } if labels.is_empty() => Err("there are no classes".into()),
            Readout::Similarity { of: [a, b], d_projected, .. }
                if a == b
                    || !is_there(*a)
                    || !is_there(*b)
                    || !(1..=u32::MAX as usize).contains(d_projected) =>
            {
                Err(format!("the {a} and the {b} stack are compared, which are not there"))
            }
            _ if stacks.is_empty() => Err("there is no stack".into()),
            _ => Ok(ArchSpec { stacks, readout }),
        }
    }
}

/// One stack: its sizes, what of its parts it has, and how they stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackSpec {
    /// Which stack it is.
    pub stack: Stack,
    /// Its sizes.
    pub dims: Dims,
    /// What its positions are.
    #[serde(default)]
    pub reads: Reads,
    /// How it knows positions.
    pub positions: PositionEncoding,
    /// Which positions each of its own sees.
    pub sees: Sees,
    /// What its norms do.
    pub norm: NormKind,
    /// Where its norms stand.
    pub norm_place: NormPlace,
    /// What its MLPs are.
    pub mlp: MlpKind,
    /// Whether attention and MLP of a block read the same stream, and are added to it together.
    pub parallel: bool,
    /// The stack that its cross-attention attends to, where it has such.
    pub crosses: Option<Stack>,
    /// Of how many texts its tokens can be, where they have embeddings of that; 0 where they have none.
    #[serde(default)]
    pub token_types: usize,
    /// Whether a norm stands between the embeddings and the first block.
    #[serde(default)]
    pub norms_embeddings: bool,
}

/// What the positions of a stack are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// Tokens of a text.
    #[default]
    Tokens,
    /// Patches of a square picture, row by row.
    Patches {
        /// The side of the picture, in pixels.
        picture: usize,
        /// The side of a patch, in pixels.
        patch: usize,
        /// Whether a class token stands before them.
        class_token: bool,
    },
}

impl Reads {
    /// How many patches there are in a row, and in a column.
    pub fn grid(self) -> Option<usize> {
        match self {
            Reads::Tokens => None,
            Reads::Patches { picture, patch, .. } => picture.checked_div(patch),
        }
    }

    /// How many positions every input has, where they all have as many; nothing where no picture has such patches either.
    pub(crate) fn positions(self) -> Option<usize> {
        let Reads::Patches { picture, patch, class_token } = self else { return None };
        let grid = self.grid().filter(|grid| grid * patch == picture && *grid > 0)?;
        grid.checked_mul(grid)?.checked_add(usize::from(class_token))
    }

    /// How many numbers a patch has: three for each of its pixels.
    pub(crate) fn numbers_of_patch(self) -> usize {
        match self {
            Reads::Tokens => 0,
            Reads::Patches { patch, .. } => 3 * patch * patch,
        }
    }
}

/// What is read out of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Readout {
    /// Logits of the tokens of a vocabulary, at each position of a stack.
    Vocabulary(Stack),
    /// The same of the token that stands at a position, through a linear map, a nonlinearity and a norm (Devlin et al. 2019): what is
    /// behind `[MASK]` is to be told.
    Masked(Stack),
    /// What a pooler makes of the first position of a stack, which nothing reads.
    Pooled(Stack),
    /// Logits of classes, from one position of a stack.
    Classes {
        /// The stack.
        of: Stack,
        /// The position.
        pooling: Pooling,
        /// Whether a pooler stands between.
        pooler: bool,
        /// What the classes are called.
        labels: Vec<String>,
        /// How their logits are read.
        #[serde(default)]
        verdict: Verdict,
    },
    /// How alike the embeddings are that two stacks make, each from one of its positions.
    Similarity {
        /// The stacks.
        of: [Stack; 2],
        /// The position of each.
        pooling: [Pooling; 2],
        /// The width of the embeddings.
        d_projected: usize,
    },
    /// Nothing: the streams themselves are what it makes.
    Nothing,
}

/// How logits of classes are read: `problem_type` of a `config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// One class of all holds: probabilities by softmax.
    #[default]
    #[serde(alias = "single_label_classification")]
    One,
    /// Each class holds or not: probabilities by sigmoid.
    #[serde(alias = "multi_label_classification")]
    Several,
    /// They are numbers, and no probabilities.
    #[serde(alias = "regression")]
    Number,
}

/// Which position stands for the whole input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first: `[CLS]`, or the class token of a picture.
    First,
    /// The last that is no filling: the end of a text.
    Last,
}

impl Pooling {
    /// That position of so many that are no filling.
    pub(crate) fn position(self, len: usize) -> usize {
        match self {
            Pooling::First => 0,
            Pooling::Last => len - 1,
        }
    }
}

impl Readout {
    /// What its activations are, in the order in which a run meets them.
    pub(crate) fn hooks(&self) -> Vec<Hook> {
        match self {
            Readout::Vocabulary(_) => vec![Site::UnembedIn.into(), Site::UnembedOut.into()],
            Readout::Masked(_) => {
                let sites = [Site::HeadLnScale, Site::HeadLnNormalized, Site::UnembedIn, Site::UnembedOut];
                sites.map(Hook::from).to_vec()
            }
            Readout::Pooled(_) => vec![Site::PoolerOut.into()],
            Readout::Classes { pooler: true, .. } => vec![Site::PoolerOut.into(), Site::ClassLogits.into()],
            Readout::Classes { pooler: false, .. } => vec![Site::ClassLogits.into()],
            Readout::Similarity { of, .. } => {
                let each = of.map(|stack| Hook::from(Site::Projected).of(stack));
                each.into_iter().chain([Site::Similarity.into()]).collect()
            }
            Readout::Nothing => Vec::new(),
        }
    }

    /// What it tells, and what to ask for, where something else is asked for.
    fn instead(&self) -> (&'static str, &'static str) {
        match self {
            Readout::Vocabulary(_) => ("it predicts tokens", "its logits are `unembed.hook_out`"),
            Readout::Masked(_) => ("it tells what a masked token is", "its logits are `unembed.hook_out`"),
            Readout::Pooled(_) => {
                ("it has a pooler and no head", "what its first position becomes is `pooler.hook_pooler_out`")
            }
            Readout::Classes { pooler: true, .. } => {
                ("it tells classes", "their logits are `classifier.hook_out`")
            }
            Readout::Classes { pooler: false, .. } => {
                ("it tells classes, with no pooler", "their logits are `classifier.hook_out`")
            }
            Readout::Similarity { .. } => (
                "it tells how alike two inputs are",
                "see `hook_similarity`, and the towers' `hook_projected`",
            ),
            Readout::Nothing => {
                ("nothing is read out of it", "see the residual stream, as `hook_resid_post`")
            }
        }
    }

    /// Whether it is made of the last position of a stack that is no filling.
    pub(crate) fn is_of_end(&self, stack: Stack) -> bool {
        match self {
            Readout::Classes { of, pooling, .. } => *of == stack && *pooling == Pooling::Last,
            Readout::Similarity { of, pooling, .. } => {
                of.iter().zip(pooling).any(|(of, pooling)| *of == stack && *pooling == Pooling::Last)
            }
            Readout::Vocabulary(_) | Readout::Masked(_) | Readout::Pooled(_) | Readout::Nothing => false,
        }
    }
}

/// Which positions of its own stack a position sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sees {
    /// Itself and those before it: the stack is causal. Some layers may look back a window only.
    Earlier,
    /// All.
    All,
}

impl Sees {
    /// Whether what lies before a position stays as it is, whatever stands there or behind it. Only then can a run leave out
    /// positions of which nothing is read, resume behind a change, be filled at its end unseen, or keep the keys of earlier
    /// positions.
    pub(crate) fn is_causal(self) -> bool {
        self == Sees::Earlier
    }
}

/// Where norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// Before what reads the residual stream (GPT-2, T5).
    Before,
    /// After what was read is added to it (the first transformer, BERT).
    After,
    /// Before what reads the residual stream, and again before what is added to it (CogView, Gemma 2).
    Both,
}

/// How a model knows positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionEncoding {
    /// By embeddings that are added to those of the tokens.
    Learned,
    /// By such embeddings that are sines and cosines, and not learned (Vaswani et al. 2017).
    Sinusoidal,
    /// By rotating queries and keys (Su et al. 2021).
    Rotary,
    /// By a bias on attention scores that depends on the distance (Raffel et al. 2020).
    RelativeBias,
    /// It does not.
    None,
}

/// What norms do before they multiply by their gain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Centre, and divide by the standard deviation (LayerNorm).
    Layer,
    /// Divide by the root of the mean square (RMSNorm).
    Rms,
    /// Nothing: there are none.
    None,
}

/// What MLPs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// Two linear maps with a nonlinearity between.
    Plain,
    /// The nonlinearity gates a second linear map.
    Gated,
    /// There are none.
    None,
}

impl StackSpec {
    /// Why there is no such activation, and what to ask for instead; nothing where there is one.
    fn missing_reason(&self, site: Site, attn: Attn) -> Option<(&'static str, &'static str)> {
        use Site::*;
        let embeds_positions =
            matches!(self.positions, PositionEncoding::Learned | PositionEncoding::Sinusoidal);
        match site {
            _ if attn == Attn::Cross && self.crosses.is_none() => Some((
                "it attends to no other stack",
                "leave `cross` out: it has attention to its own positions alone",
            )),
            RotQ | RotK if attn == Attn::Cross => Some((
                "nothing is rotated in cross-attention",
                "use `cross_attn.hook_q` and `cross_attn.hook_k`",
            )),
            PosEmbed if self.positions == PositionEncoding::Rotary => Some((
                "positions rotate queries and keys, and are not embedded",
                "see `attn.hook_rot_q` and `attn.hook_rot_k`",
            )),
            PosEmbed if !embeds_positions => {
                Some(("positions are not embedded", "see `attn.hook_attn_scores`, where distance counts"))
            }
            RotQ | RotK if embeds_positions => {
                Some(("positions are embedded, and rotate nothing", "use `attn.hook_q` and `attn.hook_k`"))
            }
            RotQ | RotK if self.positions != PositionEncoding::Rotary => {
                Some(("positions rotate nothing", "use `attn.hook_q` and `attn.hook_k`"))
            }
            ResidMidCross | Ln3Scale | Ln3Normalized if self.crosses.is_none() => {
                Some(("it has no cross-attention", "see `hook_resid_mid`, and ln2"))
            }
            TokenTypeEmbed if self.token_types == 0 => {
                Some(("it does not embed which text a token is of", "see `hook_embed`"))
            }
            EmbedLnScale | EmbedLnNormalized | FullEmbed if !self.norms_embeddings => Some((
                "no norm stands behind its embeddings",
                "use `blocks.0.hook_resid_pre`, which is their sum",
            )),
            NormalizedResidPost if self.norm_place != NormPlace::After => Some((
                "norms come before what reads the stream",
                "use `hook_resid_post`, which the next block reads",
            )),
            LnFinalScale | LnFinalNormalized if self.norm_place == NormPlace::After => Some((
                "norms come after each sum, and there is no last one",
                "see `hook_normalized_resid_post` of the last layer",
            )),
            Ln1PostScale | Ln1PostNormalized if self.norm_place != NormPlace::Both => {
                Some(("what attention adds is not normed", "see `hook_attn_out`"))
            }
            Ln2PostScale | Ln2PostNormalized if self.norm_place != NormPlace::Both => {
                Some(("what the MLP adds is not normed", "see `hook_mlp_out`"))
            }
            MlpIn | MlpPre | MlpPreLinear | MlpPost | MlpOut if self.mlp == MlpKind::None => {
                Some(("it has no MLPs", "its blocks are attention alone: see `hook_attn_out`"))
            }
            Ln2Scale | Ln2Normalized if self.mlp == MlpKind::None && self.crosses.is_none() => {
                Some(("it has no MLPs", "its blocks are attention alone: see `hook_attn_out`"))
            }
            ResidMid if self.mlp == MlpKind::None => {
                Some(("it has no MLPs, so nothing lies between", "use `hook_resid_post`"))
            }
            ResidMid if self.parallel => Some((
                "attention and MLP read the same stream, so there is none between them",
                "use `hook_resid_pre`, which both read, or `hook_resid_post`",
            )),
            MlpPreLinear if self.mlp == MlpKind::Plain => {
                Some(("its MLPs have no gate", "use `mlp.hook_pre`"))
            }
            Ln2PostScale | Ln2PostNormalized if self.mlp == MlpKind::None => {
                Some(("it has no MLPs", "its blocks are attention alone: see `hook_attn_out`"))
            }
            Ln1Scale | Ln1Normalized | Ln2Scale | Ln2Normalized | Ln3Scale | Ln3Normalized | LnFinalScale
            | LnFinalNormalized
                if self.norm == NormKind::None =>
            {
                Some(("it has no norms", "what they would read is read as it is: use the residual stream"))
            }
            _ => None,
        }
    }

    /// Whether the stack has such an activation.
    pub fn has(&self, site: Site) -> bool {
        self.missing_reason(site, Attn::Own).is_none()
    }

    /// The sites of a block in the order in which a run meets them.
    fn sites_of_block(&self) -> impl Iterator<Item = (Site, Attn)> {
        use Site::*;
        let own =
            |sites: &[Site]| -> Vec<(Site, Attn)> { sites.iter().map(|&site| (site, Attn::Own)).collect() };
        let cross = |sites: &[Site]| -> Vec<(Site, Attn)> {
            let of_cross = sites.iter().filter(|site| site.is_of_attention());
            of_cross.map(|&site| (site, Attn::Cross)).collect()
        };
        const INPUTS: [Site; 3] = [QInput, KInput, VInput];
        const ATTENTION: [Site; 12] =
            [Q, K, V, RotQ, RotK, AttnScores, Pattern, Z, Result, Ln1PostScale, Ln1PostNormalized, AttnOut];
        const MLP: [Site; 6] = [MlpPre, MlpPreLinear, MlpPost, Ln2PostScale, Ln2PostNormalized, MlpOut];
        let mut all = own(&[ResidPre]);
        all.extend(own(&INPUTS));
        let (ln1, ln2, ln3) =
            ([Ln1Scale, Ln1Normalized], [Ln2Scale, Ln2Normalized], [Ln3Scale, Ln3Normalized]);
        match self.norm_place {
            NormPlace::Before | NormPlace::Both => {
                all.extend(own(&ln1).into_iter().chain(own(&ATTENTION)).chain(own(&[ResidMid])));
                if self.crosses.is_some() {
                    all.extend(cross(&INPUTS).into_iter().chain(own(&ln2)).chain(cross(&ATTENTION)));
                    all.extend(own(&[ResidMidCross, MlpIn]).into_iter().chain(own(&ln3)));
                } else {
                    all.extend(own(&[MlpIn]).into_iter().chain(own(&ln2)));
                }
                all.extend(own(&MLP).into_iter().chain(own(&[ResidPost])));
            }
            NormPlace::After => {
                all.extend(own(&ATTENTION).into_iter().chain(own(&[ResidMid])));
                let last = if self.crosses.is_some() {
                    all.extend(own(&ln1).into_iter().chain(cross(&INPUTS)).chain(cross(&ATTENTION)));
                    all.extend(own(&[ResidMidCross]));
                    all.extend(own(&ln2));
                    ln3
                } else {
                    all.extend(own(&ln1));
                    ln2
                };
                all.extend(own(&[MlpIn]).into_iter().chain(own(&MLP)).chain(own(&[ResidPost])));
                all.extend(own(&last).into_iter().chain(own(&[NormalizedResidPost])));
            }
        }
        let spec = *self;
        all.into_iter().filter(move |&(site, attn)| spec.missing_reason(site, attn).is_none())
    }

    fn hooks(&self) -> Vec<Hook> {
        let stack = self.stack;
        let once = |sites: &[Site]| -> Vec<Hook> {
            let there = sites.iter().filter(|site| self.has(**site));
            there.map(|&site| Hook::from(site).of(stack)).collect()
        };
        let of_block: Vec<(Site, Attn)> = self.sites_of_block().collect();
        let mut all = once(&[
            Site::Embed,
            Site::PosEmbed,
            Site::TokenTypeEmbed,
            Site::EmbedLnScale,
            Site::EmbedLnNormalized,
            Site::FullEmbed,
        ]);
        for layer in 0..self.dims.n_layers {
            all.extend(of_block.iter().map(|&(site, attn)| site.at(layer).of(stack).with_attn(attn)));
        }
        all.extend(once(&[Site::LnFinalScale, Site::LnFinalNormalized]));
        all
    }

    /// The attentions of a layer, in the order in which a run meets them.
    pub(crate) fn attentions(&self) -> impl Iterator<Item = Attn> + use<> {
        [Attn::Own].into_iter().chain(self.crosses.map(|_| Attn::Cross))
    }

    /// Its attentions with how many layers and heads each has.
    pub(crate) fn head_panels(&self) -> impl Iterator<Item = (Stack, Attn, [usize; 2])> + use<> {
        let (stack, size) = (self.stack, [self.dims.n_layers, self.dims.n_heads]);
        self.attentions().map(move |attn| (stack, attn, size))
    }
}

impl ArchSpec {
    pub(crate) fn new(stacks: Vec<StackSpec>, readout: Readout) -> ArchSpec {
        ArchSpec { stacks, readout }
    }

    /// Its stacks, in the order in which a run goes through them.
    pub fn stacks(&self) -> &[StackSpec] {
        &self.stacks
    }

    /// Whether its first stack reads pictures.
    pub fn reads_pictures(&self) -> bool {
        self.stacks.first().is_some_and(|spec| spec.reads != Reads::Tokens)
    }

    /// What is read out of it.
    pub fn readout(&self) -> &Readout {
        &self.readout
    }

    /// One stack. Fails, naming those that there are, if it is none of them.
    pub fn stack(&self, stack: Stack) -> Result<&StackSpec> {
        self.stacks.iter().find(|spec| spec.stack == stack).ok_or_else(|| {
            let names: Vec<&str> = self.stacks.iter().map(|spec| spec.stack.name()).collect();
            Error::new(ErrorKind::Address, format!("this model has no {stack} stack"))
                .help(format!("it has {}", names.join(" and ")))
        })
    }

    /// The stack that a run goes through last, which is read out where one is.
    pub fn last_stack(&self) -> &StackSpec {
        &self.stacks[self.stacks.len() - 1]
    }

    /// The one stack of a model that has one. Fails where there are several, for what is made of one.
    pub(crate) fn only_stack(&self, what: &str) -> Result<&StackSpec> {
        match self.stacks() {
            [stack] => Ok(stack),
            several => {
                let names: Vec<&str> = several.iter().map(|spec| spec.stack.name()).collect();
                let what =
                    format!("{what} is of a model of one stack, and this one has {}", names.join(" and "));
                Err(Error::new(ErrorKind::Model, what)
                    .help("its activations can be read and changed: `run_with_cache`, `ablate`, `patch`, `ablation_effects`"))
            }
        }
    }

    /// The stack whose positions each predict the next token from those before. Fails where there is none.
    pub(crate) fn predicts_next(&self, what: &str) -> Result<&StackSpec> {
        let last = self.last_stack();
        let (why, help) = match &self.readout {
            Readout::Vocabulary(_) if last.sees.is_causal() => return Ok(last),
            Readout::Vocabulary(_) | Readout::Masked(_) => (
                "each position sees what comes after it",
                "its logits are there to be read: `logits`; and `Metric::custom` measures what they say",
            ),
            other => other.instead(),
        };
        let what = format!("{what} is of a model that predicts the next token, and of this one {why}");
        Err(Error::new(ErrorKind::Model, what).help(help))
    }

    /// The stack that is read out: the one that there is, or the decoder of an encoder-decoder.
    pub(crate) fn read_out(&self, what: &str) -> Result<&StackSpec> {
        if self.is_encoder_decoder() { Ok(self.last_stack()) } else { self.only_stack(what) }
    }

    /// The stack of a decoder that stands alone, or reads an encoder.
    pub(crate) fn any_decoder(&self, what: &str) -> Result<&StackSpec> {
        self.read_out(what)?;
        self.predicts_next(what)
    }

    /// The one stack of a decoder that stands alone.
    pub(crate) fn decoder(&self, what: &str) -> Result<&StackSpec> {
        self.only_stack(what)?;
        self.predicts_next(what)
    }

    /// The stack that reads a source, and the one that attends to it and writes. Fails where a model is not made of these two.
    pub(crate) fn encoder_and_decoder(&self, what: &str) -> Result<[&StackSpec; 2]> {
        if let ([encoder, decoder], Readout::Vocabulary(_)) = (self.stacks(), &self.readout)
            && decoder.crosses == Some(encoder.stack)
            && decoder.sees.is_causal()
        {
            return Ok([encoder, decoder]);
        }
        let (why, help) = self.readout.instead();
        let what = format!("{what} is of a model whose decoder reads an encoder, and this is none: {why}");
        Err(Error::new(ErrorKind::Model, what).help(help))
    }

    /// Whether it is an encoder with a decoder that reads it.
    pub(crate) fn is_encoder_decoder(&self) -> bool {
        self.encoder_and_decoder("").is_ok()
    }

    /// The stack that is read out, where its residual stream is the sum of what was written to it: norms stand before what reads it.
    pub(crate) fn sum_of_parts(&self, what: &str) -> Result<&StackSpec> {
        let stack = self.read_out(what)?;
        match stack.norm_place {
            NormPlace::Before | NormPlace::Both => Ok(stack),
            NormPlace::After => Err(Error::new(
                ErrorKind::Model,
                format!(
                    "{what} takes the residual stream apart into what was written to it, and the norms of this model come after \
                     each sum: nothing stays as it was written"
                ),
            )
            .help("its parts can be changed instead: `ablation_effects`, `activation_patching`")),
        }
    }

    /// The same where heads write to it as they are, and through no norm.
    pub(crate) fn sum_of_heads(&self, what: &str) -> Result<&StackSpec> {
        let stack = self.sum_of_parts(what)?;
        self.adds_heads(what)?;
        Ok(stack)
    }

    /// Fails where a norm stands between what heads write and the stream that it is added to.
    pub(crate) fn adds_heads(&self, what: &str) -> Result<()> {
        if self.last_stack().norm_place == NormPlace::Both {
            return Err(Error::new(
                ErrorKind::Model,
                format!(
                    "{what} takes what heads write as it is added to the residual stream, and in this model a norm stands between"
                ),
            )
            .help("what attention and MLPs add can be read: `decompose_resid`; heads can be changed: `ablation_effects`"));
        }
        Ok(())
    }

    /// The stack that a hook is in; what is read out of a model is in the one that it is read out of.
    pub(crate) fn stack_of(&self, hook: Hook) -> Result<&StackSpec> {
        if hook.site().is_of_readout() { Ok(self.last_stack()) } else { self.stack(hook.stack()) }
    }

    /// The stack whose positions an axis of an activation counts.
    pub(crate) fn stack_of_axis(&self, hook: Hook, axis: AxisKind) -> Result<&StackSpec> {
        let own = self.stack_of(hook)?;
        let of_source = axis == AxisKind::Key || axis == AxisKind::Position && hook.site().is_of_source();
        match own.crosses {
            Some(source) if hook.attn() == Attn::Cross && of_source => self.stack(source),
            _ => Ok(own),
        }
    }

    /// How long an axis of an activation is, where its stack has so many positions, and those that it attends to so many.
    pub(crate) fn axis_len(&self, hook: Hook, axis: AxisKind, len: usize, seen: usize) -> Result<usize> {
        Ok(match (axis, &self.readout) {
            (AxisKind::Class, Readout::Classes { labels, .. }) => labels.len(),
            (AxisKind::DProjected, Readout::Similarity { d_projected, .. }) => *d_projected,
            _ => self.stack_of(hook)?.dims.axis_len(axis, len, seen),
        })
    }

    /// Whether a stack reads text as its tokenizer's own template frames it, rather than with a BOS token or without: what sees all, and
    /// what tells classes, as transformers runs them.
    pub(crate) fn is_framed(&self, stack: &StackSpec) -> bool {
        !stack.sees.is_causal() || matches!(self.readout, Readout::Classes { .. })
    }

    /// What classes are called; nothing where none are told.
    pub(crate) fn class_labels(&self) -> &[String] {
        match &self.readout {
            Readout::Classes { labels, .. } => labels,
            _ => &[],
        }
    }

    /// Whether another stack attends to this one.
    pub(crate) fn is_attended_to(&self, stack: Stack) -> bool {
        self.stacks.iter().any(|spec| spec.crosses == Some(stack))
    }

    /// Whether what a stack leaves is made of what another one does.
    pub(crate) fn is_reached(&self, stack: Stack, from: Stack) -> bool {
        stack == from
            || self
                .stack(stack)
                .is_ok_and(|own| own.crosses.is_some_and(|source| self.is_reached(source, from)))
    }

    /// Whether a model of this spec has such an activation in some stack.
    pub fn has(&self, site: Site) -> bool {
        match site.is_of_readout() || site == Site::Projected {
            true => self.readout.hooks().iter().any(|hook| hook.site() == site),
            false => self.stacks.iter().any(|spec| spec.has(site)),
        }
    }

    /// Fails unless a model of this spec has the hook.
    pub(crate) fn check(&self, hook: Hook) -> Result<Hook> {
        let hook = hook.check_place()?;
        if hook.site().is_of_readout() || hook.site() == Site::Projected {
            let (what, help) = self.readout.instead();
            let known = self.readout.hooks().contains(&hook);
            return known.then_some(hook).ok_or_else(|| {
                Error::new(ErrorKind::Address, format!("this model has no `{hook}`: {what}")).help(help)
            });
        }
        let spec = self.stack(hook.stack()).map_err(|error| {
            let error = Error::new(ErrorKind::Address, format!("there is no `{hook}`")).caused_by(error);
            let there = |spec: &StackSpec| {
                let attn = if spec.crosses.is_some() { hook.attn() } else { Attn::Own };
                format!("`{}`", hook.of(spec.stack).with_attn(attn))
            };
            let names: Vec<String> = self.stacks.iter().map(there).collect();
            error.help(format!("this model has {}", names.join(" and ")))
        })?;
        let n_layers = spec.dims.n_layers;
        if hook.layer().is_some_and(|layer| layer >= n_layers) {
            return Err(Error::new(
                ErrorKind::Address,
                format!("`{hook}` does not exist: the {} has {n_layers} layers", self.word(spec.stack)),
            )
            .help(format!("layers are 0 to {}", n_layers.saturating_sub(1))));
        }
        match spec.missing_reason(hook.site(), hook.attn()) {
            None => Ok(hook),
            Some((why, instead)) => {
                Err(Error::new(ErrorKind::Address, format!("this model has no `{hook}`: {why}"))
                    .help(instead))
            }
        }
    }

    /// Fails unless a model of this spec has the head.
    pub(crate) fn check_head(&self, head: Head) -> Result<Head> {
        let spec = self.stack_of_head(head)?;
        head.check(spec.dims.n_layers, spec.dims.n_heads, self.word(head.stack))
    }

    /// Fails unless a model of this spec has such a head of keys and values.
    pub(crate) fn check_kv_head(&self, head: Head) -> Result<&StackSpec> {
        let spec = self.stack_of_head(head)?;
        head.check(spec.dims.n_layers, spec.dims.n_key_value_heads, self.word(head.stack))?;
        Ok(spec)
    }

    /// The stack of a head. Fails where it has no such attention.
    fn stack_of_head(&self, head: Head) -> Result<&StackSpec> {
        let spec = self.stack(head.stack)?;
        if head.attn == Attn::Cross && spec.crosses.is_none() {
            return Err(Error::new(
                ErrorKind::Address,
                format!("there is no head {head}: the {} attends to no other stack", self.word(head.stack)),
            )
            .help("heads of cross-attention are in a decoder that reads an encoder, as D0X0"));
        }
        Ok(spec)
    }

    /// What errors call a stack: the model, where it is the only one.
    fn word(&self, stack: Stack) -> &'static str {
        if self.stacks.len() == 1 { "model" } else { stack.name() }
    }

    /// Every hook, in the order in which a run meets them.
    pub fn hooks(&self) -> Vec<Hook> {
        self.stacks.iter().flat_map(StackSpec::hooks).chain(self.readout.hooks()).collect()
    }

    /// Every attention head, stack by stack and layer by layer, in the order in which a run meets them.
    pub fn heads(&self) -> impl Iterator<Item = Head> {
        self.stacks.iter().flat_map(|spec| {
            (0..spec.dims.n_layers).flat_map(move |layer| {
                spec.attentions().flat_map(move |attn| {
                    (0..spec.dims.n_heads)
                        .map(move |index| Head { attn, ..head(layer, index).of(spec.stack) })
                })
            })
        })
    }
}
