//! A model: a network with its tokenizer and its edits.

use std::fmt;
use std::sync::Arc;

use candle_core::Device;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Head, Hook, IntoHook, Stack};
use crate::model::decoding::Decoding;
use crate::model::edit::Edit;
use crate::named::{Axis, layer_axis, numbered};
use crate::network::config::ConfigFile;
use crate::network::dims::Dims;
use crate::network::network::Network;
use crate::network::parts::attention::ScoreSpec;
use crate::network::spec::{ArchSpec, Reads};
use crate::network::weights::file::Weights;
use crate::tokenizer::Tokenizer;

/// A transformer to look into. Cloning is cheap: clones share the weights.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat the cat sat")?;
/// println!("{:?}", run.pattern(1)?);
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone)]
pub struct Model {
    pub(crate) name: String,
    pub(crate) network: Arc<Network>,
    /// How such a network is made of other weights.
    pub(crate) config: Arc<ConfigFile>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// What the encoder of an encoder-decoder reads with, where that is another.
    pub(crate) source_tokenizer: Option<Arc<Tokenizer>>,
    /// The token that begins a text, or why there is none.
    pub(crate) bos: std::result::Result<u32, Arc<str>>,
    pub(crate) eos: Vec<u32>,
    /// How a decoder that reads an encoder writes, where there is one.
    pub(crate) decoding: Option<Arc<Decoding>>,
    pub(crate) edits: Vec<Edit>,
}

impl Model {
    /// A model that reads ids alone.
    pub(crate) fn without_tokenizer(
        name: &str,
        config: Arc<ConfigFile>,
        weights: &Weights,
        bos: u32,
    ) -> Result<Model> {
        let network = config.network(weights)?.into();
        let tokenizer = Tokenizer::none().into();
        Ok(Model {
            name: name.into(),
            network,
            config,
            tokenizer,
            source_tokenizer: None,
            bos: Ok(bos),
            eos: Vec::new(),
            decoding: None,
            edits: Vec::new(),
        })
    }

    /// What it was opened as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sizes of the stack that is read out, under TransformerLens's names.
    pub fn dims(&self) -> &Dims {
        self.network.dims()
    }

    /// What it is built of, where architectures differ.
    pub fn spec(&self) -> &ArchSpec {
        self.network.spec()
    }

    /// Every hook that it has, in the order in which a run meets them.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// assert!(model.hooks().contains(&Site::ResidMid.at(1)));
    /// assert!(!model.hooks().contains(&Site::RotQ.at(1))); // its positions are embedded
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn hooks(&self) -> Vec<Hook> {
        self.spec().hooks()
    }

    /// Every attention head that it has, in the order in which a run meets them.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// assert_eq!(model.heads().count(), 16);
    /// assert_eq!(model.heads().next(), Some(head(0, 0)));
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn heads(&self) -> impl Iterator<Item = Head> {
        self.spec().heads()
    }

    /// The hook that is meant. Fails unless the model has it.
    pub(crate) fn hook(&self, hook: impl IntoHook) -> Result<Hook> {
        self.spec().check(hook.into_hook()?)
    }

    /// The attention heads that share the keys and values of one key head: all that are in one group, or the head itself
    /// where each has its own. Fails if there is no such layer or key head.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// assert_eq!(model.query_heads_of_kv(head(1, 2))?, [head(1, 2)]);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn query_heads_of_kv(&self, key_head: Head) -> Result<Vec<Head>> {
        let dims = self.spec().check_kv_head(key_head)?.dims;
        let group = dims.queries_per_kv_head();
        let first = key_head.head * group;
        Ok((first..first + group).map(|index| Head { head: index, ..key_head }).collect())
    }

    pub(crate) fn device(&self) -> &Device {
        self.network.device()
    }

    /// The token that begins a text, if the model has one: what `config.json` says, or else the files of generation and of the
    /// tokenizer. An id beyond the vocabulary is none.
    pub fn bos(&self) -> Option<u32> {
        self.bos.as_ref().ok().copied()
    }

    /// Whether [`bos`](Model::bos) is put before text unless [`no_bos`](crate::no_bos) or [`with_bos`](crate::with_bos) says otherwise: TransformerLens's
    /// `default_prepend_bos`, true but for families that were trained without one (GPT-NeoX, and so Pythia, and Qwen).
    pub fn prepends_bos(&self) -> bool {
        self.network.prepends_bos()
    }

    /// What a stack reads with.
    pub(crate) fn tokenizer_of(&self, stack: Stack) -> &Tokenizer {
        let own = self.source_tokenizer.as_ref().filter(|_| self.spec().last_stack().stack != stack);
        own.unwrap_or(&self.tokenizer)
    }

    /// How its decoder writes.
    pub(crate) fn decoding(&self) -> Result<&Decoding> {
        self.spec().encoder_and_decoder("a translation")?;
        self.decoding.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Model, "nothing is known of how this model writes")
                .help("open it from its folder, with config.json")
        })
    }

    /// The token that a decoder begins with: what `bos` is of such a model.
    pub(crate) fn decoder_start(&self) -> Result<u32> {
        self.bos.clone().map_err(|why| {
            Error::new(ErrorKind::Config, format!("the decoder has no token to begin with: {why}"))
                .help("name one of the vocabulary in config.json, as decoder_start_token_id")
        })
    }

    /// How a head's queries and keys become attention scores.
    pub(crate) fn scoring(&self, head: Head) -> Result<&ScoreSpec> {
        self.spec().check_head(head)?;
        self.network.scoring(head)
    }

    pub(crate) fn layer_axis(&self) -> Axis {
        layer_axis(Stack::Main, self.dims().n_layers)
    }

    pub(crate) fn head_axis(&self) -> Axis {
        Axis::labelled("head", numbered("H", self.dims().n_heads))
    }
}

impl fmt::Debug for Model {
    /// The name, the sizes, what of its tokenizer cannot be used, and the edits if there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dims { d_model, d_vocab, n_ctx, .. } = self.dims();
        write!(f, "{}: ", self.name)?;
        for (index, spec) in self.spec().stacks().iter().enumerate() {
            let Dims { n_layers, n_heads, n_key_value_heads, .. } = spec.dims;
            match spec.stack {
                Stack::Main => {}
                stack if index == 0 => write!(f, "{stack} of ")?,
                stack => write!(f, ", {stack} of ")?,
            }
            write!(f, "{n_layers} layers of {n_heads} heads")?;
            if n_key_value_heads < n_heads {
                write!(f, " on {n_key_value_heads} of keys")?;
            }
        }
        match self.spec().last_stack().reads {
            Reads::Tokens => write!(f, ", width {d_model}, {d_vocab} tokens, context {n_ctx}")?,
            Reads::Patches { picture, patch, .. } => {
                write!(
                    f,
                    ", width {d_model}, pictures of {picture} x {picture} in patches of {patch} x {patch}"
                )?;
            }
        }
        if let Err(error) = self.tokenizer.check() {
            write!(f, "; it reads no text: {error}")?;
        }
        if let Some(largest) = self.tokenizer.beyond(*d_vocab) {
            write!(
                f,
                "; its tokenizer has ids up to {largest}, of which it cannot read those from {d_vocab} on"
            )?;
        }
        if let (Err(why), true) = (&self.bos, self.prepends_bos()) {
            write!(f, "; no BOS before text: {why}")?;
        }
        self.edits().iter().try_for_each(|edit| write!(f, "; {edit}"))
    }
}
