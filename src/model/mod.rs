//! Models: a network with its tokenizer, and what can be asked of them.

mod digest;
mod edit;
mod generate;
mod gguf;
mod hub;
mod input;
mod known;
mod open;
mod predict;
mod room;
mod run;
mod tokenizer;

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};

pub(crate) use digest::OfIds;
pub(crate) use edit::Edit;
pub use edit::{Ablation, Component, Components, Edge};
pub use generate::{Generated, Sampling};
pub(crate) use input::Sequences;
pub use input::{Input, Tokens, no_bos, with_bos};
pub use known::{KnownModel, KnownModels, known_models};
pub use predict::PromptTest;
pub use run::{Run, RunOptions};

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::hook::{Head, Hook, IntoHook, Site, head};
use crate::memory::floats;
use crate::named::{Axis, Named};
use crate::network::initial::DEVIATION;
use crate::network::weights::Weights;
use crate::network::{Anatomy, Dims, Network, Scoring, Start, Tap};
use tokenizer::Tokenizer;

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
    name: String,
    network: Arc<dyn Network>,
    build: Build,
    tokenizer: Arc<Tokenizer>,
    /// The token that begins a text, or why there is none.
    bos: std::result::Result<u32, Arc<str>>,
    eos: Vec<u32>,
    pub(crate) edits: Vec<Edit>,
}

/// What the name of a folded model ends in.
const FOLDED: &str = ", folded";

/// How a network of these sizes is made of other weights.
#[derive(Clone)]
pub(crate) struct Build(Arc<Load>);

type Load = dyn Fn(&Weights) -> Result<Arc<dyn Network>> + Send + Sync;

impl Build {
    pub(crate) fn new<N: Network + 'static>(
        load: impl Fn(&Weights) -> Result<N> + Send + Sync + 'static,
    ) -> Build {
        Build(Arc::new(move |weights| Ok(Arc::new(load(weights)?))))
    }

    pub(crate) fn network(&self, weights: &Weights) -> Result<Arc<dyn Network>> {
        (self.0)(weights)
    }
}

impl Model {
    /// Opens a model by its name:
    ///
    /// - `"built-in"`, which needs no file and no network
    /// - a folder: `config.json`, `model.safetensors` (or the shards of `model.safetensors.index.json`, or
    ///   `pytorch_model.bin`), and `tokenizer.json` or `vocab.json` with `merges.txt`
    /// - a GGUF file, whose weights become f32
    /// - a name that [`known_models`] lists, as `"gpt2"`, or any `owner/name` of the Hugging Face hub, with `@revision`
    ///   after it if one wants. What is not in the cache that Python's libraries share is fetched into it.
    ///
    /// What is a path that exists goes before a name. The hub is asked only for files that the cache does not hold;
    /// `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean in Python.
    ///
    /// A folder without a tokenizer opens too; token ids are then the labels, and text is refused.
    ///
    /// With the GNU allocator of Linux the process from then on keeps up to an eighth of what memory is free (2 GB at most) of what
    /// it lets go, for runs to come.
    ///
    /// ```
    /// let model = headlight::Model::open("built-in")?;
    /// println!("{model:?}");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn open(name: &str) -> Result<Model> {
        Model::open_on(name, &Device::Cpu)
    }

    /// Opens a model on a device of candle's, such as a GPU (features `cuda` and `metal`).
    pub fn open_on(name: &str, device: &Device) -> Result<Model> {
        open::open(name, device)
    }

    fn assembled(
        name: &str,
        network: Arc<dyn Network>,
        build: Build,
        tokenizer: Tokenizer,
        bos: std::result::Result<u32, Arc<str>>,
        eos: Vec<u32>,
    ) -> Model {
        let (name, tokenizer, edits) = (name.into(), Arc::new(tokenizer), Vec::new());
        Model { name, network, build, tokenizer, bos, eos, edits }
    }

    /// A model that reads ids alone.
    pub(crate) fn of_ids(name: &str, build: Build, weights: &Weights, bos: u32) -> Result<Model> {
        let network = build.network(weights)?;
        Ok(Model::assembled(name, network, build, Tokenizer::none(), Ok(bos), Vec::new()))
    }

    /// What it was opened as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its sizes, under TransformerLens's names.
    pub fn dims(&self) -> &Dims {
        self.network.dims()
    }

    /// What it is built of, where architectures differ.
    pub fn anatomy(&self) -> Anatomy {
        self.network.anatomy()
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
        self.anatomy().hooks(self.dims().n_layers)
    }

    /// The hook that is meant. Fails unless the model has it.
    pub(crate) fn hook(&self, hook: impl IntoHook) -> Result<Hook> {
        self.anatomy().check(hook.into_hook()?, self.dims().n_layers)
    }

    /// The attention heads that share the keys and values of one key head: all that are in one group, or the head itself
    /// where each has its own. Fails if there is no such layer or key head.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// assert_eq!(model.heads_of_key(1, 2)?, [head(1, 2)]);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn heads_of_key(&self, layer: usize, key_head: usize) -> Result<Vec<Head>> {
        let Dims { n_layers, n_key_value_heads, .. } = *self.dims();
        let of = head(layer, key_head).check(n_layers, n_key_value_heads)?;
        let group = self.anatomy().group;
        Ok((of.head * group..(of.head + 1) * group).map(|index| head(layer, index)).collect())
    }

    /// How many heads an activation has.
    pub(crate) fn heads_at(&self, site: Site) -> usize {
        if site.is_of_keys() { self.dims().n_key_value_heads } else { self.dims().n_heads }
    }

    pub(crate) fn device(&self) -> &Device {
        self.network.device()
    }

    /// The token that begins a text, if the model has one: what `config.json` says, or else the files of generation and of the
    /// tokenizer. An id beyond the vocabulary is none.
    pub fn bos(&self) -> Option<u32> {
        self.bos.as_ref().ok().copied()
    }

    /// Whether [`bos`](Model::bos) is put before text unless [`no_bos`] or [`with_bos`] says otherwise: TransformerLens's
    /// `default_prepend_bos`, true but for families that were trained without one (GPT-NeoX, and so Pythia, and Qwen).
    pub fn prepends_bos(&self) -> bool {
        self.network.prepends_bos()
    }

    /// Ids that stand for no text.
    pub(crate) fn special_ids(&self) -> Vec<u32> {
        let mut ids = self.tokenizer.special_ids();
        ids.extend(self.bos().iter().chain(&self.eos));
        ids
    }

    /// The same model with its layer norms folded into the weights, writing weights and unembedding centred and
    /// value biases folded: log-probabilities are unchanged, and directions can be read from weights
    /// (Elhage et al. 2021; TransformerLens does this when it loads a model).
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let folded = model.folded()?;
    /// assert!((model.loss("the cat sat")? - folded.loss("the cat sat")?).abs() < 1e-3);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn folded(&self) -> Result<Model> {
        if !self.edits.is_empty() {
            return Err(Error::new(
                ErrorKind::Tap,
                format!("an edited model cannot be folded: {}", self.edits().join("; ")),
            )
            .help("fold first, then edit: folding changes what some activations are"));
        }
        let Dims { d_model, d_vocab, .. } = *self.dims();
        // The unembedding may be the embedding now, and is folded and centred one after the other.
        self.has_room_for_weights("the folded weights", floats([2, d_model, d_vocab]))?;
        let network = self.network.folded()?.into();
        Ok(Model { name: format!("{}{FOLDED}", self.name), network, ..self.clone() })
    }

    /// The same architecture, sizes and tokenizer with weights as they are before any training: what a trained model is
    /// compared with. They are drawn as GPT-2's are (Radford et al. 2019, section 2.3): a normal distribution of
    /// deviation 0.02, less for what writes into the residual stream; norms change nothing and biases are 0. The same
    /// seed draws the same weights. They are not folded, even where this model's are.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let trained = Model::open("built-in")?;
    /// let untrained = trained.with_random_weights(0)?;
    /// let text = "the cat sat the cat sat";
    /// assert!(trained.loss(text)? < 7.0 && untrained.loss(text)? > 7.0);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn with_random_weights(&self, seed: u64) -> Result<Model> {
        if !self.edits.is_empty() {
            return Err(Error::new(
                ErrorKind::Tap,
                format!("an edited model cannot be given random weights: {}", self.edits().join("; ")),
            )
            .help("take random weights first, then edit"));
        }
        self.has_room_for_weights("random weights", 0)?;
        let weights = Weights::random(seed, DEVIATION, self.dims().n_layers, self.device());
        let network = self.build.network(&weights)?;
        let name = self.name.strip_suffix(FOLDED).unwrap_or(&self.name);
        Ok(Model { name: format!("{name}, random weights"), network, ..self.clone() })
    }

    /// One text or one sequence of ids, as the model reads it, with its labels. Draws itself as a table, so that
    /// the BOS token is there to see.
    pub fn to_tokens(&self, input: impl Into<Input>) -> Result<Tokens> {
        let mut all = self.tokenize(&input.into())?;
        match (all.pop(), all.is_empty()) {
            (Some(tokens), true) => Ok(tokens),
            (_, _) => Err(Error::new(ErrorKind::Input, "there are several texts where one is taken")
                .help("give one text at a time")),
        }
    }

    /// What each token of an input says: the labels of [`to_tokens`](Model::to_tokens).
    pub fn to_str_tokens(&self, input: impl Into<Input>) -> Result<Vec<String>> {
        Ok(self.to_tokens(input)?.labels().to_vec())
    }

    /// The id of a piece of text that is one token, as it stands in mid-text: most words there begin with a space. Fails, naming
    /// the tokens, if it is several, or one that the model has not.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let cat = model.to_single_token(" cat")?;
    /// assert_eq!(model.to_string(&[cat]), " cat");
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn to_single_token(&self, text: &str) -> Result<u32> {
        match self.tokenizer.single(text)? {
            Ok(id) if id as usize >= self.dims().d_vocab => Err(self.beyond(id, "")),
            Ok(id) => Ok(id),
            Err(ids) => Err(Error::new(
                ErrorKind::Input,
                format!("{text:?} is {} tokens, not one: {:?}", ids.len(), self.tokenizer.labels(&ids)),
            )
            .help("words in mid-sentence carry their leading space: try it with or without one")),
        }
    }

    /// The text of token ids: of a whole text where they begin with BOS, and else of a piece of one, whose leading space is kept.
    /// (Llama's tokenizer, and all that SentencePiece made, put a space of their own before a text.)
    #[allow(clippy::inherent_to_string_shadow_display)]
    pub fn to_string(&self, ids: &[u32]) -> String {
        match self.bos().is_some() && ids.first().copied() == self.bos() {
            true => self.tokenizer.decode(ids),
            false => self.tokenizer.decode_continuation(ids),
        }
    }

    /// A weight by TransformerLens's name: `W_E`, `W_pos`, `W_U`, `b_U`, one layer's as `blocks.0.attn.W_Q`, or
    /// all layers' in one as `W_Q` `[layer, head, d_model, d_head]`. Where query heads share keys and values, `W_K` and
    /// `W_V` are each query head's, and `_W_K` and `_W_V` those of the heads of keys.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// assert_eq!(model.weight("W_Q")?.axis_names(), ["layer", "head", "d_model", "d_head"]);
    /// assert_eq!(model.weight("blocks.1.attn.W_O")?.axis_names(), ["head", "d_head", "d_model"]);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn weight(&self, name: &str) -> Result<Named> {
        let all = self.network.weights()?;
        if let Some((full, tensor)) = all.iter().find(|(full, _)| full == name) {
            return Named::new(full, tensor.clone(), weight_axes(name, tensor, self.layer_of(name)));
        }
        // A weight that query heads share has TransformerLens's mark; without the mark it is each head's.
        let (path, last) = name.rsplit_once('.').map_or(("", name), |(path, last)| (path, last));
        let marked = if path.is_empty() { format!("_{last}") } else { format!("{path}._{last}") };
        if SHARED.contains(&last) && self.anatomy().group > 1 {
            let shared = self.weight(&marked)?;
            let dim = shared.dim("head")?;
            self.has_room_for_copies(name, shared.tensor(), self.anatomy().group)?;
            let tensor = repeated(shared.tensor(), dim, self.anatomy().group)?;
            let mut axes = shared.axes().to_vec();
            let prefix = self.layer_of(name).map_or("H".to_string(), |layer| format!("L{layer}H"));
            axes[dim] = Axis::labelled("head", numbered(&prefix, self.dims().n_heads));
            return Named::new(name, tensor, axes);
        }
        let short = |full: &str| full.rsplit('.').next().map(str::to_string);
        let found: Vec<&(String, Tensor)> =
            all.iter().filter(|(full, _)| short(full).as_deref() == Some(name)).collect();
        match found.as_slice() {
            [] => {}
            [(full, tensor)] if !full.starts_with("blocks.") => {
                return Named::new(full, tensor.clone(), weight_axes(name, tensor, None));
            }
            // `w` and `b` of the norms stand for several weights: they need their full name.
            many if many.len() == self.dims().n_layers => {
                let tensors: Vec<&Tensor> = many.iter().map(|(_, tensor)| tensor).collect();
                self.has_room_for_copies(name, tensors[0], many.len())?;
                let mut axes = vec![self.layer_axis()];
                axes.extend(weight_axes(name, tensors[0], None));
                return Named::new(name, Tensor::stack(&tensors, 0)?, axes);
            }
            many => {
                let names = many.iter().take(3).map(|(full, _)| format!("`{full}`"));
                return Err(Error::new(
                    ErrorKind::Address,
                    format!("`{name}` is the name of {} weights", many.len()),
                )
                .help(format!("write it in full: {}, ...", names.collect::<Vec<_>>().join(", "))));
            }
        }
        let shorts: Vec<String> = all.iter().filter_map(|(full, _)| short(full)).collect();
        let known = all.iter().map(|(full, _)| full.as_str()).chain(shorts.iter().map(String::as_str));
        let error = Error::new(ErrorKind::Address, format!("there is no weight `{name}`"));
        Err(match nearest(name, known) {
            Some(guess) => error.help(format!("did you mean `{guess}`?")),
            None => error.help("names are TransformerLens's: W_E, W_pos, W_Q, blocks.0.attn.W_O, ln_final.w"),
        })
    }

    /// A weight by its full name, where the model has it: norms have none once they are folded.
    pub(crate) fn weight_if_any(&self, full_name: &str) -> Result<Option<Tensor>> {
        match self.weight(full_name) {
            Ok(weight) => Ok(Some(weight.tensor().clone())),
            Err(error) if error.kind() == ErrorKind::Address => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn scoring(&self, layer: usize) -> Result<&Scoring> {
        self.network.scoring(layer)
    }

    /// What token ids say, one by one.
    pub(crate) fn labels(&self, ids: &[u32]) -> Vec<String> {
        self.tokenizer.labels(ids)
    }

    /// Runs an input with a tap of one's own, which sees and may change every activation that it wants.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// use candle_core::Tensor;
    /// use headlight::Tap;
    ///
    /// struct Count(usize);
    /// impl Tap for Count {
    ///     fn wants(&self, hook: Hook) -> bool {
    ///         hook.site() == Site::Pattern
    ///     }
    ///     fn tap(&mut self, _: Hook, activation: Tensor) -> headlight::Result<Tensor> {
    ///         self.0 += 1;
    ///         Ok(activation)
    ///     }
    /// }
    /// let mut count = Count(0);
    /// let model = Model::open("built-in")?;
    /// model.run_with_tap("the cat sat", &mut count)?;
    /// assert_eq!(count.0, model.dims().n_layers);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn run_with_tap(&self, input: impl Into<Input>, tap: &mut dyn Tap) -> Result<()> {
        let tokens = self.tokenize(&input.into())?;
        self.execute(Start::Tokens(self.batch(&tokens)?), None, tap)
    }

    pub(crate) fn tokenize(&self, input: &Input) -> Result<Vec<Tokens>> {
        if input.len() == 0 {
            return Err(Error::new(ErrorKind::Input, "there is no text and there are no ids to run")
                .help("give at least one"));
        }
        (0..input.len()).map(|index| self.tokenize_one(input, index)).collect()
    }

    /// One of an input's sequences. Of thousands, all need not be tokens at once.
    pub(crate) fn tokenize_one(&self, input: &Input, index: usize) -> Result<Tokens> {
        let ids = match &input.sequences {
            Sequences::Texts(texts) => self.encoded(&texts[index], input.bos),
            Sequences::Ids(ids) => Ok(ids[index].clone()),
        };
        ids.and_then(|ids| self.checked(ids)).map_err(|error| input.placed(error, index))
    }

    fn encoded(&self, text: &str, bos: Option<bool>) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Err(Error::new(ErrorKind::Input, "the text is empty: there is nothing to run")
                .help("give some text; to run the BOS token alone, give its id"));
        }
        let bos = match (&self.bos, bos) {
            (Err(why), Some(true)) => {
                return Err(Error::new(
                    ErrorKind::Input,
                    format!("there is no BOS to put before text: {why}"),
                )
                .help(
                    "run the text without one; or name one of the vocabulary in config.json, as bos_token_id",
                ));
            }
            (bos, asked) => bos.as_ref().ok().filter(|_| asked.unwrap_or(self.prepends_bos())).copied(),
        };
        Ok(bos.into_iter().chain(self.tokenizer.encode(text)?).collect())
    }

    fn checked(&self, ids: Vec<u32>) -> Result<Tokens> {
        let Dims { n_ctx, d_vocab, .. } = *self.dims();
        if ids.is_empty() {
            return Err(Error::new(ErrorKind::Input, "the input has no tokens: there is nothing to run")
                .help("give at least one token"));
        }
        if ids.len() > n_ctx {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the input has {} tokens, but the model reads at most {n_ctx}", ids.len()),
            )
            .help(format!("cut it to {n_ctx} tokens, BOS included, or run it in parts")));
        }
        if let Some(position) = ids.iter().position(|&id| id as usize >= d_vocab) {
            return Err(self.beyond(ids[position], &format!(" at position {position}")));
        }
        let labels = self.tokenizer.labels(&ids);
        let has_bos = self.bos().is_some() && ids.first().copied() == self.bos();
        Ok(Tokens::new(ids, labels, has_bos))
    }

    /// What is said of a token that the model cannot read.
    fn beyond(&self, id: u32, place: &str) -> Error {
        let d_vocab = self.dims().d_vocab;
        let ids = format!("the vocabulary has {d_vocab} tokens: ids are 0 to {}", d_vocab - 1);
        match self.tokenizer.token(id) {
            Some(token) => {
                let what =
                    format!("the model has no token {token:?} (id {id}){place}, though its tokenizer has");
                Error::new(ErrorKind::Input, what).help(format!(
                    "{ids}; write the text without it; if it is an ordinary word, the tokenizer is another model's"
                ))
            }
            None => Error::new(ErrorKind::Input, format!("token id {id}{place} is out of range")).help(ids),
        }
    }

    /// Ids `[batch, position]`. Shorter sequences are filled at the end, where a causal model's earlier positions
    /// cannot see them; whoever reads the outcome must know the lengths.
    fn batch(&self, tokens: &[Tokens]) -> Result<Tensor> {
        let longest = tokens.iter().map(Tokens::len).max().unwrap_or(0);
        let fill = self.bos().unwrap_or(0);
        let row = |tokens: &Tokens| {
            let mut ids = tokens.ids().to_vec();
            ids.resize(longest, fill);
            ids
        };
        let ids: Vec<u32> = tokens.iter().flat_map(row).collect();
        Ok(Tensor::from_vec(ids, (tokens.len(), longest), self.network.device())?)
    }

    /// A norm's gain and bias `[d_model]`, by its name (`blocks.0.ln1`, `ln_final`); nothing where they are folded.
    pub(crate) fn norm(&self, name: &str) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let all = self.network.weights()?;
        let find = |part: &str| {
            let full = format!("{name}.{part}");
            all.iter().find(|(name, _)| *name == full).map(|(_, tensor)| tensor.clone())
        };
        Ok((find("w"), find("b")))
    }

    pub(crate) fn layer_axis(&self) -> Axis {
        Axis::labelled("layer", numbered("L", self.dims().n_layers))
    }

    pub(crate) fn head_axis(&self) -> Axis {
        Axis::labelled("head", numbered("H", self.dims().n_heads))
    }

    /// The heads of an activation: those of keys are not named as query heads are, where they are fewer.
    pub(crate) fn head_axis_at(&self, site: Site) -> Axis {
        let prefix = if site.is_of_keys() && self.anatomy().group > 1 { "KV" } else { "H" };
        Axis::labelled("head", numbered(prefix, self.heads_at(site)))
    }

    fn layer_of(&self, name: &str) -> Option<usize> {
        name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
    }
}

impl fmt::Debug for Model {
    /// The name, the sizes, what of its tokenizer cannot be used, and the edits if there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dims { n_layers, n_heads, n_key_value_heads, d_model, d_vocab, n_ctx, .. } = self.dims();
        write!(f, "{}: {n_layers} layers of {n_heads} heads", self.name)?;
        if n_key_value_heads < n_heads {
            write!(f, " on {n_key_value_heads} of keys")?;
        }
        write!(f, ", width {d_model}, {d_vocab} tokens, context {n_ctx}")?;
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

/// Weights of keys and values.
const SHARED: [&str; 4] = ["W_K", "W_V", "b_K", "b_V"];

/// Each entry of an axis `times` times, one after another.
fn repeated(x: &Tensor, dim: usize, times: usize) -> Result<Tensor> {
    let mut copies = x.dims().to_vec();
    copies.insert(dim + 1, times);
    let mut joined = x.dims().to_vec();
    joined[dim] *= times;
    Ok(x.unsqueeze(dim + 1)?.broadcast_as(copies)?.reshape(joined)?)
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{prefix}{index}")).collect()
}

fn weight_axes(name: &str, tensor: &Tensor, layer: Option<usize>) -> Vec<Axis> {
    let names: &[&'static str] = match name.rsplit('.').next() {
        Some("W_E") => &["d_vocab", "d_model"],
        Some("W_pos") => &["position", "d_model"],
        Some("W_U") => &["d_model", "d_vocab"],
        Some("b_U") => &["d_vocab"],
        Some("W_Q" | "W_K" | "W_V" | "_W_K" | "_W_V") => &["head", "d_model", "d_head"],
        Some("b_Q" | "b_K" | "b_V" | "_b_K" | "_b_V") => &["head", "d_head"],
        Some("W_O") => &["head", "d_head", "d_model"],
        Some("W_in" | "W_gate") => &["d_model", "d_mlp"],
        Some("b_in") => &["d_mlp"],
        Some("W_out") => &["d_mlp", "d_model"],
        _ => &["d_model"],
    };
    let names = if matches!(tensor.dims(), [_]) && name.contains("_norm.") { &["d_head"] } else { names };
    let prefix = if name.rsplit('.').next().is_some_and(|last| last.starts_with('_')) { "KV" } else { "H" };
    let axis = |(&name, &len): (&&'static str, &usize)| match (name, layer) {
        ("head", Some(layer)) => Axis::labelled("head", numbered(&format!("L{layer}{prefix}"), len)),
        ("head", None) => Axis::labelled("head", numbered(prefix, len)),
        _ => Axis::plain(name, len),
    };
    names.iter().zip(tensor.dims()).map(axis).collect()
}
