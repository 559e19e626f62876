//! Runs: what one pass through a model saw, kept under the names of its hooks.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::hook::{Hook, IntoHook, Site};
use crate::memory::floats;
use crate::model::digest::OfIds;
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::spec::ArchSpec;
use crate::network::start::Start;
use crate::network::tap::Tap;
use crate::view::{View, Visualize};
use crate::{files, memory};

/// What a run is to keep, and how far it is to go.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let options = RunOptions::only([Site::Pattern, Site::Z]).stop_after(0);
/// let run = model.run_with_options("the cat sat", &options)?;
/// assert_eq!(run.hooks().len(), 2);
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    keep: Selection,
    stop_after: Option<usize>,
}

#[derive(Clone, Debug, Default)]
enum Selection {
    #[default]
    Default,
    All,
    Sites(Vec<Site>),
    Matching(String),
}

impl RunOptions {
    /// Every activation that TransformerLens keeps by default, logits included.
    pub fn new() -> Self {
        RunOptions::default()
    }

    /// The opt-in activations too: `attn.hook_result`, `hook_q_input`, `hook_k_input`, `hook_v_input`, `hook_mlp_in`.
    pub fn all() -> Self {
        RunOptions { keep: Selection::All, ..Self::default() }
    }

    /// Only these, in every layer. What is not kept is not made where nothing else needs it.
    pub fn only(sites: impl IntoIterator<Item = Site>) -> Self {
        RunOptions { keep: Selection::Sites(sites.into_iter().collect()), ..Self::default() }
    }

    /// Only hooks whose name matches a pattern in which `*` stands for anything: `blocks.*.attn.hook_pattern`.
    pub fn matching(glob: impl Into<String>) -> Self {
        RunOptions { keep: Selection::Matching(glob.into()), ..Self::default() }
    }

    /// Goes no further than this layer; the logits are then not made.
    pub fn stop_after(mut self, layer: usize) -> Self {
        self.stop_after = Some(layer);
        self
    }

    /// The hooks of a model to keep; at least one.
    fn hooks(&self, model: &Model) -> Result<Vec<Hook>> {
        let n_layers = model.dims().n_layers;
        if let Some(layer) = self.stop_after.filter(|&layer| layer >= n_layers) {
            return Err(Error::new(
                ErrorKind::Address,
                format!("the run cannot stop after layer {layer}: the model has {n_layers} layers"),
            )
            .help(format!("layers are 0 to {}", n_layers.saturating_sub(1))));
        }
        let reached = |hook: &Hook| match (self.stop_after, hook.layer()) {
            (Some(stop), Some(layer)) => layer <= stop,
            (Some(_), None) => matches!(hook.site(), Site::Embed | Site::PosEmbed),
            (None, _) => true,
        };
        let kept = |hook: &Hook| match &self.keep {
            Selection::Default => !hook.site().is_opt_in(),
            Selection::All => true,
            Selection::Sites(sites) => sites.contains(&hook.site()),
            Selection::Matching(glob) => matches(glob, &hook.to_string()),
        };
        let hooks: Vec<Hook> = model.hooks().into_iter().filter(|hook| reached(hook) && kept(hook)).collect();
        if hooks.is_empty() {
            if let Selection::Sites(sites) = &self.keep {
                // A site that the model does not have has its own reason.
                let lacking = |site: &&Site| !model.spec().has(**site);
                if let Some(site) = sites.iter().find(lacking) {
                    model.hook(if site.in_block() { site.at(0) } else { Hook::from(*site) })?;
                }
            }
            let what = match &self.keep {
                Selection::Matching(glob) => format!("no hook of this run matches `{glob}`"),
                _ => "no hook of this run is asked for".to_string(),
            };
            let error = Error::new(ErrorKind::Address, what);
            return Err(match (self.stop_after, &self.keep) {
                (Some(stop), _) => {
                    error.help(format!("the run stops after layer {stop}: ask for a hook before its end"))
                }
                (None, Selection::Matching(_)) => error.help(
                    "names are TransformerLens's, as blocks.0.attn.hook_pattern; `*` stands for anything",
                ),
                (None, _) => error.help("ask for at least one, as `RunOptions::only([Site::Pattern])`"),
            });
        }
        Ok(hooks)
    }
}

/// Whether `text` fits a pattern in which `*` stands for any text.
fn matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(previous) = last.replace(part) {
            match rest.find(previous) {
                Some(at) => rest = &rest[at + previous.len()..],
                None => return false,
            }
        }
    }
    match last {
        Some(last) => rest.ends_with(last),
        None => rest.is_empty(),
    }
}

/// What one run saw: its tokens, and the activations that were kept.
///
/// An activation is a [`NamedTensor`] with the axes that its [`Site`] says. A run of several inputs has a `batch` axis
/// before them; [`item`](Run::item) gives one input by itself, which alone is possible where lengths differ.
///
/// ```
/// use headlight::prelude::*;
/// let run = Model::open("built-in")?.run_with_cache("the cat sat")?;
/// assert_eq!(run.pattern(1)?.axis_names(), ["head", "query", "key"]);
/// assert_eq!(run.get("blocks.1.attn.hook_pattern")?.shape(), run.get(("pattern", 1))?.shape());
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone)]
pub struct Run {
    model: String,
    spec: ArchSpec,
    n_layers: usize,
    tokens: Vec<Tokens>,
    activations: Vec<(Hook, Tensor)>,
}

impl Model {
    /// Runs an input and keeps what TransformerLens keeps by default: every activation but the opt-in ones.
    pub fn run_with_cache(&self, input: impl Into<Input>) -> Result<Run> {
        self.run(&input.into(), &RunOptions::new())
    }

    /// Runs an input and keeps what the options say.
    pub fn run_with_options(&self, input: impl Into<Input>, options: &RunOptions) -> Result<Run> {
        self.run(&input.into(), options)
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

    fn run(&self, input: &Input, options: &RunOptions) -> Result<Run> {
        let n_layers = self.dims().n_layers;
        let wanted = options.hooks(self)?;
        let tokens = self.tokenize(input)?;
        let wanted = wanted.into_iter().collect();
        let mut recorder = Recorder { wanted, stop_after: options.stop_after, kept: Vec::new() };
        self.execute(Start::Tokens(self.batch(&tokens)?), None, &mut recorder)?;
        let spec = self.spec();
        Ok(Run { model: self.name.clone(), spec, n_layers, tokens, activations: recorder.kept })
    }
}

/// Keeps what it is given.
struct Recorder {
    wanted: HashSet<Hook>,
    stop_after: Option<usize>,
    kept: Vec<(Hook, Tensor)>,
}

impl Tap for Recorder {
    fn wants(&self, hook: Hook) -> bool {
        self.wanted.contains(&hook)
    }

    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor> {
        // Queries, keys and values are views of one tensor: to keep one of them must not keep all three.
        let kept = match hook.site() {
            Site::Q | Site::K | Site::V => activation.force_contiguous()?,
            _ => activation.clone(),
        };
        self.kept.push((hook, kept));
        Ok(activation)
    }

    /// With no logits to keep, what lies after the last wanted layer need not run.
    fn stop_after(&self) -> Option<usize> {
        let after_blocks =
            |hook: &Hook| !hook.site().in_block() && !matches!(hook.site(), Site::Embed | Site::PosEmbed);
        match self.wanted.iter().any(after_blocks) {
            true => self.stop_after,
            false => self.wanted.iter().filter_map(|hook| hook.layer()).max().or(Some(0)),
        }
    }
}

impl Run {
    /// The tokens of each input.
    pub fn tokens(&self) -> &[Tokens] {
        &self.tokens
    }

    /// The name of the model that ran.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The digest of the tokens that ran, and through which model.
    pub(crate) fn digest(&self) -> String {
        let mut digest = OfIds::new();
        self.tokens.iter().for_each(|tokens| digest.add(tokens.ids()));
        format!("{}, {}", self.model, digest.finish())
    }

    /// What the model that ran is built of.
    pub fn spec(&self) -> ArchSpec {
        self.spec
    }

    /// The layers of the model that ran.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// The hooks that were kept, in the order in which the run met them.
    pub fn hooks(&self) -> Vec<Hook> {
        self.activations.iter().map(|(hook, _)| *hook).collect()
    }

    /// One of several inputs by itself, cut to its own length.
    pub fn item(&self, index: usize) -> Result<Run> {
        let Some(tokens) = self.tokens.get(index) else {
            return Err(Error::new(
                ErrorKind::Input,
                format!("there is no input {index}: the run has {}", self.tokens.len()),
            )
            .help(format!("inputs are 0 to {}", self.tokens.len() - 1)));
        };
        let cut = |(hook, tensor): &(Hook, Tensor)| -> Result<(Hook, Tensor)> {
            let mut tensor = tensor.narrow(0, index, 1)?;
            for (dim, axis) in axes_of(hook.site()).iter().enumerate() {
                if matches!(*axis, "position" | "query" | "key") {
                    tensor = tensor.narrow(dim + 1, 0, tokens.len())?;
                }
            }
            Ok((*hook, tensor))
        };
        let activations = self.activations.iter().map(cut).collect::<Result<_>>()?;
        Ok(Run { tokens: vec![tokens.clone()], activations, ..self.clone() })
    }

    /// An activation, by a [`Hook`], by TransformerLens's name, or by a short name and a layer: `("pattern", 5)`.
    pub fn get(&self, hook: impl IntoHook) -> Result<NamedTensor> {
        self.named(hook.into_hook()?)
    }

    fn named(&self, hook: Hook) -> Result<NamedTensor> {
        self.spec.check(hook, self.n_layers)?;
        let tensor = self.raw(hook)?;
        let lens: Vec<usize> = self.tokens.iter().map(Tokens::len).collect();
        if lens.iter().any(|len| *len != lens[0]) {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "the run's inputs have different lengths ({lens:?} tokens), so `{hook}` has no one shape"
                ),
            )
            .remedied_by(Remedy::OneInput));
        }
        let alone = self.tokens.len() == 1;
        let tensor = if alone { tensor.squeeze(0)? } else { tensor.clone() };
        let mut axes = Vec::new();
        if !alone {
            axes.push(Axis::unlabelled("batch", self.tokens.len()));
        }
        for (&name, &len) in axes_of(hook.site()).iter().zip(&tensor.dims()[usize::from(!alone)..]) {
            axes.push(match (name, hook.layer()) {
                ("position" | "query" | "key", _) if alone => {
                    Axis::labelled(name, self.tokens[0].shared_labels())
                }
                ("head", Some(layer)) => {
                    let kind =
                        if hook.site().is_kv() && self.spec.queries_per_kv_head > 1 { "KV" } else { "H" };
                    Axis::labelled(
                        name,
                        (0..len).map(|head| format!("L{layer}{kind}{head}")).collect::<Vec<_>>(),
                    )
                }
                _ => Axis::unlabelled(name, len),
            });
        }
        let meaning = match hook.site() {
            Site::Pattern => ValueKind::Probability,
            Site::Ln1Scale | Site::Ln2Scale | Site::LnFinalScale => ValueKind::Magnitude,
            _ => ValueKind::Signed,
        };
        Ok(NamedTensor::new(hook.to_string(), tensor, axes)?.with_value_kind(meaning))
    }

    /// The tensor of a hook, batch first.
    pub(crate) fn raw(&self, hook: Hook) -> Result<&Tensor> {
        let found = self.activations.iter().find(|(kept, _)| *kept == hook).map(|(_, tensor)| tensor);
        found.ok_or_else(|| {
            if let Err(error) = self.spec.check(hook, self.n_layers) {
                return error;
            }
            let error = Error::new(ErrorKind::Address, format!("this run did not keep `{hook}`"));
            match hook.site().is_opt_in() {
                true => error.help("it is opt-in: run with `run_with_options(input, &RunOptions::all())`"),
                false => error
                    .help("run again with options that keep it: `RunOptions::new()` keeps the usual ones"),
            }
        })
    }

    /// Attention probabilities of a layer `[head, query, key]`.
    pub fn pattern(&self, layer: usize) -> Result<NamedTensor> {
        self.named(Site::Pattern.at(layer))
    }

    /// Scaled attention scores of a layer before the softmax `[head, query, key]`, -inf where masked.
    pub fn attn_scores(&self, layer: usize) -> Result<NamedTensor> {
        self.named(Site::AttnScores.at(layer))
    }

    /// Queries of a layer `[position, head, d_head]`.
    pub fn q(&self, layer: usize) -> Result<NamedTensor> {
        self.named(Site::Q.at(layer))
    }

    /// Keys of a layer `[position, head, d_head]`.
    pub fn k(&self, layer: usize) -> Result<NamedTensor> {
        self.named(Site::K.at(layer))
    }

    /// Values of a layer `[position, head, d_head]`.
    pub fn v(&self, layer: usize) -> Result<NamedTensor> {
        self.named(Site::V.at(layer))
    }

    /// What each head of a layer mixed from the values `[position, head, d_head]`.
    pub fn z(&self, layer: usize) -> Result<NamedTensor> {
        self.named(Site::Z.at(layer))
    }

    /// The residual stream as a layer reads it `[position, d_model]`.
    pub fn resid_pre(&self, layer: usize) -> Result<NamedTensor> {
        self.named(Site::ResidPre.at(layer))
    }

    /// The residual stream as a layer leaves it `[position, d_model]`.
    pub fn resid_post(&self, layer: usize) -> Result<NamedTensor> {
        self.named(Site::ResidPost.at(layer))
    }

    /// Writes the activations as safetensors under TransformerLens's names, for Python; masked scores are -inf.
    /// The metadata `tokens` is the ids as JSON, `[1, 2]` for one input and `[[1, 2], [3, 4]]` for several.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let run = Model::open("built-in")?.run_with_cache("the cat sat")?;
    /// let path = std::env::temp_dir().join(format!("headlight-doc-{}.safetensors", std::process::id()));
    /// run.save(&path)?;
    /// assert_eq!(Run::open(&path)?.tokens(), run.tokens());
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let alone = self.tokens.len() == 1;
        let ids: Vec<&[u32]> = self.tokens.iter().map(Tokens::ids).collect();
        let labels: Vec<&[String]> = self.tokens.iter().map(Tokens::labels).collect();
        let bos: Vec<bool> = self.tokens.iter().map(Tokens::starts_with_bos).collect();
        let metadata = HashMap::from([
            ("tokens".to_string(), if alone { json!(ids[0]) } else { json!(ids) }.to_string()),
            ("str_tokens".to_string(), if alone { json!(labels[0]) } else { json!(labels) }.to_string()),
            ("starts_with_bos".to_string(), json!(bos).to_string()),
            ("model".to_string(), self.model.clone()),
            ("n_layers".to_string(), self.n_layers.to_string()),
            ("spec".to_string(), json!(self.spec).to_string()),
        ]);
        let tensors = self.activations.iter().map(|(hook, _)| {
            let tensor = self.named(*hook)?.tensor().to_device(&Device::Cpu)?;
            Ok((hook.to_string(), StoredDtype(tensor)))
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        // One is written after another: brought in order where it is not, and as bytes.
        let copies = |tensor: &Tensor| if tensor.is_contiguous() { 1 } else { 2 };
        let size =
            |StoredDtype(tensor): &StoredDtype| floats(tensor.dims().iter().copied().chain([copies(tensor)]));
        let largest = tensors.iter().map(|(_, stored)| size(stored)).max().unwrap_or(0);
        memory::check(&Device::Cpu, largest, || ("to save a run", ""))
            .map_err(|error| error.remedied_by(Remedy::KeepLess))?;
        files::write_by(path, |beside| {
            safetensors::serialize_to_file(tensors, Some(metadata), beside).map_err(std::io::Error::other)
        })
    }

    /// Reads what [`save`](Run::save) wrote.
    pub fn open(path: impl AsRef<Path>) -> Result<Run> {
        let path = path.as_ref();
        let failed = |what: &str| {
            Error::new(ErrorKind::File, format!("{} {what}", path.display()))
                .help("give a file that `run.save(...)` or `headlight cache` wrote")
        };
        let len = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        // As a file, and as activations.
        memory::check(&Device::Cpu, len.saturating_mul(2), || {
            (format!("to read {}", path.display()), "save fewer activations, and read those")
        })?;
        let bytes = std::fs::read(path).map_err(|error| failed("cannot be read").caused_by(error))?;
        let unsound = |error| failed("is not a sound safetensors file").caused_by(error);
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(unsound)?;
        let file = SafeTensors::deserialize(&bytes).map_err(unsound)?;
        let metadata = header.metadata().as_ref();
        let text = |key: &str| {
            metadata
                .and_then(|all| all.get(key))
                .ok_or_else(|| failed(&format!("has no `{key}` in its metadata")))
        };
        fn list<T: serde::de::DeserializeOwned>(text: &str) -> Option<Vec<Vec<T>>> {
            serde_json::from_str(text).ok().or_else(|| Some(vec![serde_json::from_str(text).ok()?]))
        }
        let ids: Option<Vec<Vec<u32>>> = list(text("tokens")?);
        let labels: Option<Vec<Vec<String>>> = list(text("str_tokens")?);
        let bos: Option<Vec<bool>> = serde_json::from_str(text("starts_with_bos")?).ok();
        let n_layers: Option<usize> = text("n_layers")?.parse().ok();
        let (Some(ids), Some(labels), Some(bos), Some(n_layers)) = (ids, labels, bos, n_layers) else {
            return Err(failed("has metadata that does not say its tokens"));
        };
        if !(1..=MOST_LAYERS).contains(&n_layers) {
            return Err(failed(&format!("says that its model had {n_layers} layers")));
        }
        // Files from before there were other architectures say nothing.
        let spec: ArchSpec = match metadata.and_then(|all| all.get("spec")) {
            None => ArchSpec::GPT2,
            Some(text) => serde_json::from_str(text)
                .map_err(|error| failed("has metadata that does not say its spec").caused_by(error))?,
        };
        let len = ids.first().map_or(0, Vec::len);
        let fits = ids.len() == labels.len() && ids.len() == bos.len() && len > 0;
        if !fits || ids.iter().zip(&labels).any(|(ids, labels)| [ids.len(), labels.len()] != [len, len]) {
            return Err(failed(&format!(
                "has metadata that contradicts itself: {} inputs of {len} tokens with {} lists of labels",
                ids.len(),
                labels.len()
            )));
        }
        let alone = ids.len() == 1;
        let tokens: Vec<Tokens> = (ids.into_iter().zip(labels).zip(bos))
            .map(|((ids, labels), has_bos)| Tokens::new(ids, labels, has_bos))
            .collect();
        let mut activations = Vec::new();
        for hook in spec.hooks(n_layers) {
            let Ok(view) = file.tensor(&hook.to_string()) else { continue };
            if view.dtype() != Dtype::F32 {
                return Err(failed(&format!("has `{hook}` in {:?}, not F32", view.dtype())));
            }
            let tensor = Tensor::from_raw_buffer(view.data(), DType::F32, view.shape(), &Device::Cpu)?;
            let tensor = if alone { tensor.unsqueeze(0)? } else { tensor };
            let axes = axes_of(hook.site());
            let wanted = |axis: &&str| matches!(*axis, "position" | "query" | "key").then_some(len);
            let lens = std::iter::once(Some(tokens.len())).chain(axes.iter().map(wanted));
            let largest = tokens.iter().flat_map(|tokens| tokens.ids()).max().map_or(0, |&id| id as usize);
            if hook.site() == Site::UnembedOut && tensor.dims().last().is_some_and(|&len| len <= largest) {
                return Err(failed(&format!(
                    "has `{hook}` in shape {:?}, but its tokens have ids up to {largest}",
                    view.shape()
                )));
            }
            let fits = tensor.rank() == axes.len() + 1
                && lens.zip(tensor.dims()).all(|(wanted, &len)| len > 0 && wanted.is_none_or(|w| w == len));
            if !fits {
                return Err(failed(&format!(
                    "has `{hook}` in shape {:?}, which does not fit its tokens",
                    view.shape()
                )));
            }
            activations.push((hook, tensor));
        }
        Ok(Run { model: text("model")?.clone(), spec, n_layers, tokens, activations })
    }
}

/// More than any model has: a file that claims more is not believed.
const MOST_LAYERS: usize = 10_000;

/// An activation as safetensors writes it.
struct StoredDtype(Tensor);

impl safetensors::View for StoredDtype {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Views of others, as of an input among several, lie in another order.
        let Ok(tensor) = self.0.contiguous() else { return Cow::Borrowed(&[]) };
        let (storage, layout) = tensor.storage_and_layout();
        let bytes = match (&*storage, layout.contiguous_offsets()) {
            (candle_core::Storage::Cpu(cpu), Some((start, end))) => cpu
                .as_slice::<f32>()
                .map(|values| values[start..end].iter().flat_map(|value| value.to_le_bytes()).collect()),
            _ => Ok(Vec::new()),
        };
        Cow::Owned(bytes.unwrap_or_default())
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * size_of::<f32>()
    }
}

/// The axes of an activation of one input.
pub(super) fn axes_of(site: Site) -> &'static [&'static str] {
    match site {
        Site::Q | Site::K | Site::V | Site::RotQ | Site::RotK | Site::Z => &["position", "head", "d_head"],
        Site::QInput | Site::KInput | Site::VInput | Site::Result => &["position", "head", "d_model"],
        Site::AttnScores | Site::Pattern => &["head", "query", "key"],
        Site::Ln1Scale | Site::Ln2Scale | Site::LnFinalScale => &["position", "scale"],
        Site::MlpPre | Site::MlpPreLinear | Site::MlpPost => &["position", "d_mlp"],
        Site::UnembedOut => &["position", "d_vocab"],
        _ => &["position", "d_model"],
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens: Vec<String> = self.tokens.iter().map(Tokens::to_string).collect();
        write!(f, "{}: {} activations of {}", self.model, self.activations.len(), tokens.join(", "))
    }
}

impl Visualize for Run {
    /// The patterns of every layer that was kept, input by input.
    fn views(&self) -> Result<Vec<View>> {
        let mut views = Vec::new();
        for index in 0..self.tokens.len() {
            let item = self.item(index)?;
            for layer in 0..self.n_layers {
                if item.raw(Site::Pattern.at(layer)).is_ok() {
                    views.push(View::SmallMultiples { values: item.pattern(layer)?, selected: None });
                }
            }
        }
        if views.is_empty() {
            views = self.tokens.iter().map(Visualize::views).collect::<Result<Vec<_>>>()?.concat();
        }
        Ok(views)
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn globs() {
        let cases = [
            ("*", "hook_embed", true),
            ("hook_embed", "hook_embed", true),
            ("hook", "hook_embed", false),
            ("*.hook_pattern", "blocks.0.attn.hook_pattern", true),
            ("blocks.*.attn.*", "blocks.10.attn.hook_z", true),
            ("blocks.1.*", "blocks.10.attn.hook_z", false),
            ("*attn*attn*", "blocks.0.attn.hook_z", false),
            ("*z", "blocks.0.attn.hook_z", true),
            ("blocks.0.attn.hook_z*hook_z", "blocks.0.attn.hook_z", false),
            ("", "hook_embed", false),
        ];
        for (glob, text, expected) in cases {
            assert_eq!(matches(glob, text), expected, "{glob} on {text}");
        }
    }
}
