//! A model's weights under TransformerLens's names, and models of other weights.

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::memory::floats;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, numbered};
use crate::network::dims::Dims;
use crate::network::weights::file::Weights;
use crate::network::weights::initial::DEVIATION;

/// What the name of a folded model ends in.
const FOLDED: &str = ", folded";

impl Model {
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
    pub fn weight(&self, name: &str) -> Result<NamedTensor> {
        let all = self.network.weights()?;
        if let Some((full, tensor)) = all.iter().find(|(full, _)| full == name) {
            return NamedTensor::new(full, tensor.clone(), weight_axes(name, tensor, self.layer_of(name)));
        }
        // A weight that query heads share has TransformerLens's mark; without the mark it is each head's.
        let (path, last) = name.rsplit_once('.').map_or(("", name), |(path, last)| (path, last));
        let marked = if path.is_empty() { format!("_{last}") } else { format!("{path}._{last}") };
        if SHARED.contains(&last) && self.spec().queries_per_kv_head > 1 {
            let shared = self.weight(&marked)?;
            let dim = shared.dim("head")?;
            self.has_room_for_copies(name, shared.tensor(), self.spec().queries_per_kv_head)?;
            let tensor = repeated(shared.tensor(), dim, self.spec().queries_per_kv_head)?;
            let mut axes = shared.axes().to_vec();
            let prefix = self.layer_of(name).map_or("H".to_string(), |layer| format!("L{layer}H"));
            axes[dim] = Axis::labelled("head", numbered(&prefix, self.dims().n_heads));
            return NamedTensor::new(name, tensor, axes);
        }
        let short = |full: &str| full.rsplit('.').next().map(str::to_string);
        let found: Vec<&(String, Tensor)> =
            all.iter().filter(|(full, _)| short(full).as_deref() == Some(name)).collect();
        match found.as_slice() {
            [] => {}
            [(full, tensor)] if !full.starts_with("blocks.") => {
                return NamedTensor::new(full, tensor.clone(), weight_axes(name, tensor, None));
            }
            // `w` and `b` of the norms stand for several weights: they need their full name.
            many if many.len() == self.dims().n_layers => {
                let tensors: Vec<&Tensor> = many.iter().map(|(_, tensor)| tensor).collect();
                self.has_room_for_copies(name, tensors[0], many.len())?;
                let mut axes = vec![self.layer_axis()];
                axes.extend(weight_axes(name, tensors[0], None));
                return NamedTensor::new(name, Tensor::stack(&tensors, 0)?, axes);
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

    /// A norm's gain and bias `[d_model]`, by its name (`blocks.0.ln1`, `ln_final`); nothing where they are folded.
    pub(crate) fn norm(&self, name: &str) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let all = self.network.weights()?;
        let find = |part: &str| {
            let full = format!("{name}.{part}");
            all.iter().find(|(name, _)| *name == full).map(|(_, tensor)| tensor.clone())
        };
        Ok((find("w"), find("b")))
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
        let network = self.config.network(&weights)?.into();
        let name = self.name.strip_suffix(FOLDED).unwrap_or(&self.name);
        Ok(Model { name: format!("{name}, random weights"), network, ..self.clone() })
    }

    fn layer_of(&self, name: &str) -> Option<usize> {
        name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
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
        _ => Axis::unlabelled(name, len),
    };
    names.iter().zip(tensor.dims()).map(axis).collect()
}
