//! What a model is built of, where architectures differ, and so which activations it has.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};

/// What of its parts a model has, and how they stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchSpec {
    /// How it knows positions.
    pub positions: PositionEncoding,
    /// What its norms do.
    #[serde(rename = "norms")]
    pub norm: NormKind,
    /// What its MLPs are.
    #[serde(rename = "mlps")]
    pub mlp: MlpKind,
    /// Whether attention and MLP of a block read the same stream, and are added to it together.
    pub parallel: bool,
    /// How many query heads share each head of keys and values: 1 where each has its own.
    #[serde(rename = "group")]
    pub queries_per_kv_head: usize,
}

/// How a model knows positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PositionEncoding {
    /// By embeddings that are added to those of the tokens.
    #[serde(rename = "Embedded")]
    Learned,
    /// By rotating queries and keys (Su et al. 2021).
    Rotary,
}

/// What norms do before they multiply by their gain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
pub enum MlpKind {
    /// Two linear maps with a nonlinearity between.
    Plain,
    /// The nonlinearity gates a second linear map.
    Gated,
    /// There are none.
    None,
}

impl ArchSpec {
    /// GPT-2's.
    pub(crate) const GPT2: ArchSpec = ArchSpec {
        positions: PositionEncoding::Learned,
        norm: NormKind::Layer,
        mlp: MlpKind::Plain,
        parallel: false,
        queries_per_kv_head: 1,
    };

    /// Why there is no such activation, and what to ask for instead; nothing where there is one.
    fn missing_reason(&self, site: Site) -> Option<(&'static str, &'static str)> {
        use Site::*;
        match site {
            PosEmbed if self.positions == PositionEncoding::Rotary => Some((
                "positions rotate queries and keys, and are not embedded",
                "see `attn.hook_rot_q` and `attn.hook_rot_k`",
            )),
            RotQ | RotK if self.positions == PositionEncoding::Learned => {
                Some(("positions are embedded, and rotate nothing", "use `attn.hook_q` and `attn.hook_k`"))
            }
            MlpIn | Ln2Scale | Ln2Normalized | MlpPre | MlpPreLinear | MlpPost | MlpOut
                if self.mlp == MlpKind::None =>
            {
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
            Ln1Scale | Ln1Normalized | Ln2Scale | Ln2Normalized | LnFinalScale | LnFinalNormalized
                if self.norm == NormKind::None =>
            {
                Some(("it has no norms", "what they would read is read as it is: use the residual stream"))
            }
            _ => None,
        }
    }

    /// Whether several query heads share keys and values.
    pub(crate) fn shares_kv(&self) -> bool {
        self.queries_per_kv_head > 1
    }

    /// Whether a model of this spec has such an activation.
    pub fn has(&self, site: Site) -> bool {
        self.missing_reason(site).is_none()
    }

    /// Fails unless a model of this spec and `n_layers` layers has the hook.
    pub(crate) fn check(&self, hook: Hook, n_layers: usize) -> Result<Hook> {
        let hook = hook.check(n_layers)?;
        match self.missing_reason(hook.site()) {
            None => Ok(hook),
            Some((why, instead)) => {
                Err(Error::new(ErrorKind::Address, format!("this model has no `{hook}`: {why}"))
                    .help(instead))
            }
        }
    }

    /// Every hook of a model of this spec and `n_layers` layers, in the order in which a run meets them.
    pub fn hooks(&self, n_layers: usize) -> Vec<Hook> {
        Hook::all(n_layers).into_iter().filter(|hook| self.has(hook.site())).collect()
    }
}
