//! A model's weights under TransformerLens's names, and models of other weights.

use std::collections::HashSet;

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::hook::{Attn, Site, Stack, in_block};
use crate::memory::floats;
use crate::model::digest::of_weights;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, layer_axis, numbered};
use crate::network::dims::Dims;
use crate::network::param::{NormParam, Param};
use crate::network::spec::StackSpec;
use crate::network::weights::file::Weights;
use crate::network::weights::initial::DEVIATION;
use crate::network::weights::weight::Weight;
use crate::progress;

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
        let Some(WeightPlace { stack, layer, path }) = self.weight_place(name) else {
            return Err(self.unknown_weight(name)?);
        };
        let dims = self.spec().stack(stack)?.dims;
        let shared = dims.shares_kv();
        let has = |param: &Param| param.is_in_block() == layer.is_some();
        // By its full name, as it is kept.
        if let Some(param) = Param::all().filter(has).find(|param| param.path(shared) == path)
            && let Some(tensor) = self.network.param(stack, param, layer.unwrap_or(0))?
        {
            return named_weight(name, param, tensor, (stack, layer), shared);
        }
        // A weight that query heads share has TransformerLens's mark; without the mark it is each head's.
        if let Some(param) = Param::all().find(|param| shared && param.is_kv() && param.path(false) == path)
            && let Some(layer) = layer
        {
            let kept = self.required_param(stack, param, layer)?;
            self.has_room_for_copies(name, &kept, dims.queries_per_kv_head())?;
            return named_weight(
                name,
                param,
                self.head_param(stack, param, layer)?,
                (stack, Some(layer)),
                false,
            );
        }
        // By its last part: one of the model, or one of every layer.
        let by_short = |marked: bool| {
            let found = Param::all().filter(move |param| layer.is_none() && param.short(marked) == path);
            found.filter(|param| self.network.unmade_param(stack, *param, 0).is_some())
        };
        let found: Vec<Param> = by_short(shared).collect();
        match found.as_slice() {
            [param] if param.is_in_block() => self.weight_of_all_layers(stack, name, *param, shared),
            [param] => {
                let full = format!("{}{}", stack.prefix(), param.path(shared));
                named_weight(&full, *param, self.required_param(stack, *param, 0)?, (stack, None), shared)
            }
            [] => match by_short(false).find(|param| shared && param.is_kv()) {
                Some(param) => self.weight_of_all_layers(stack, name, param, false),
                None => Err(self.unknown_weight(name)?),
            },
            // `w` and `b` of the norms stand for several weights.
            _ => {
                let all = self.network.weights();
                let many =
                    all.iter().map(|(full, _)| full).filter(|full| full.rsplit('.').next() == Some(name));
                let names: Vec<&String> = many.collect();
                let first = names.iter().take(3).map(|full| format!("`{full}`"));
                Err(Error::new(
                    ErrorKind::Address,
                    format!("`{name}` is the name of {} weights", names.len()),
                )
                .help(format!("write it in full: {}, ...", first.collect::<Vec<_>>().join(", "))))
            }
        }
    }

    /// Whose weight a name is of.
    fn weight_place<'a>(&self, name: &'a str) -> Option<WeightPlace<'a>> {
        let stacks = self.spec().stacks();
        let of_block = in_block(name).and_then(|(stack, layer, path)| {
            let own = stacks.iter().find(|own| own.stack == stack)?;
            Some((own, layer, path))
        });
        if let Some((own, layer, path)) = of_block {
            let number: usize = layer.parse().ok()?;
            let is_there = number < own.dims.n_layers && number.to_string() == layer;
            return is_there.then_some(WeightPlace { stack: own.stack, layer: Some(number), path });
        }
        let of = |own: &StackSpec| {
            let path = name.strip_prefix(own.stack.prefix()).filter(|_| own.stack != Stack::Main)?;
            Some(WeightPlace { stack: own.stack, layer: None, path })
        };
        // What is read out is in no stack, and of one stack alone nothing more need be said.
        let stack = self.spec().last_stack().stack;
        stacks.iter().find_map(of).or(Some(WeightPlace { stack, layer: None, path: name }))
    }

    /// A weight of every layer in one; where query heads share it, theirs or, `shared`, as it is kept.
    fn weight_of_all_layers(
        &self,
        stack: Stack,
        name: &str,
        param: Param,
        shared: bool,
    ) -> Result<NamedTensor> {
        let dims = self.spec().stack(stack)?.dims;
        let copies = if param.is_kv() && !shared { dims.queries_per_kv_head() } else { 1 };
        self.has_room_for_copies(name, &self.required_param(stack, param, 0)?, dims.n_layers * copies)?;
        let tensor = |layer| match shared {
            true => self.required_param(stack, param, layer),
            false => self.head_param(stack, param, layer),
        };
        let tensors = (0..dims.n_layers).map(tensor).collect::<Result<Vec<_>>>()?;
        let mut axes = vec![layer_axis(stack, dims.n_layers)];
        axes.extend(weight_axes(param, &tensors[0], (stack, None), shared));
        NamedTensor::new(name, Tensor::stack(&tensors, 0)?, axes)
    }

    /// A weight of a stack as it is kept, if the model has it: norms have none once they are folded.
    pub(crate) fn param(&self, stack: Stack, param: Param, layer: usize) -> Result<Option<Tensor>> {
        self.network.param(stack, param, layer)
    }

    /// As [`param`](Model::param), of what every model has.
    pub(crate) fn required_param(&self, stack: Stack, param: Param, layer: usize) -> Result<Tensor> {
        if matches!(param, Param::Unembed | Param::UnembedBias) {
            self.spec().check(Site::UnembedOut.into())?;
        }
        self.network.param(stack, param, layer)?.ok_or_else(|| self.without(param, layer))
    }

    fn without(&self, param: Param, layer: usize) -> Error {
        let name = param.path(false);
        let place = if param.is_in_block() { format!(" in layer {layer}") } else { String::new() };
        Error::new(ErrorKind::Address, format!("there is no weight `{name}`{place}"))
            .help(format!("{} is built without it", self.name()))
    }

    /// What a stack's tokens are looked up in `[d_vocab, d_model]`, where it lies.
    pub(crate) fn embedding(&self, stack: Stack) -> Result<&Weight> {
        self.network.embedding(stack).ok_or_else(|| self.without(Param::Embed, 0))
    }

    /// What tokens are read out by `[d_model, d_vocab]`, where it lies.
    pub(crate) fn unembedding(&self) -> Result<&Weight> {
        self.spec().check(Site::UnembedOut.into())?;
        self.network.unembedding().ok_or_else(|| self.without(Param::Unembed, 0))
    }

    /// A weight of heads, each query head's where several share one.
    pub(crate) fn head_param(&self, stack: Stack, param: Param, layer: usize) -> Result<Tensor> {
        let kept = self.required_param(stack, param, layer)?;
        match self.spec().stack(stack)?.dims.queries_per_kv_head() {
            many if many > 1 && param.is_kv() => repeated(&kept, 0, many),
            _ => Ok(kept),
        }
    }

    /// A norm's gain and bias `[d_model]`; nothing where they are folded.
    pub(crate) fn norm_params(
        &self,
        stack: Stack,
        norm: fn(NormParam) -> Param,
        layer: usize,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of = |part| self.param(stack, norm(part), layer);
        Ok((of(NormParam::Gain)?, of(NormParam::Bias)?))
    }

    /// Looks through all that it was opened from, and gives how many numbers its weights are. Opening a model finds what of its files is
    /// missing or has another size; NaN and infinity it leaves to the run that meets them, a damaged tokenizer to the first text, and both
    /// to this. Fails at the first weight that is not finite, with its name and place, and at a tokenizer that cannot be read.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// assert!(model.check_files()? > 100_000);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn check_files(&self) -> Result<usize> {
        let (mut seen, mut numbers) = (HashSet::new(), 0);
        for weight in self.network.matrices() {
            progress::check("the check of the model")?;
            // An embedding is often the unembedding too.
            if seen.insert(weight.place()) {
                weight.check_finite()?;
                numbers += weight.elem_count();
            }
        }
        for unmade in self.network.vectors() {
            numbers += unmade()?.elem_count();
        }
        self.source_tokenizer.iter().chain([&self.tokenizer]).try_for_each(|tokenizer| tokenizer.check())?;
        Ok(numbers)
    }

    /// The digest of the weights and of what is said of the edits, whatever the model was opened as.
    pub(crate) fn digest(&self) -> Result<String> {
        of_weights(self.network.weights(), &self.edits())
    }

    fn unknown_weight(&self, name: &str) -> Result<Error> {
        let all = self.network.weights();
        let short = |full: &str| full.rsplit('.').next().map(str::to_string);
        let shorts: Vec<String> = all.iter().filter_map(|(full, _)| short(full)).collect();
        let known = all.iter().map(|(full, _)| full.as_str()).chain(shorts.iter().map(String::as_str));
        let error = Error::new(ErrorKind::Address, format!("there is no weight `{name}`"));
        Ok(match nearest(name, known) {
            Some(guess) => error.help(format!("did you mean `{guess}`?")),
            None => error.help("names are TransformerLens's: W_E, W_pos, W_Q, blocks.0.attn.W_O, ln_final.w"),
        })
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
                ErrorKind::Edit,
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
                ErrorKind::Edit,
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
}

/// Whose weight a name is of, and what of its name is left.
struct WeightPlace<'a> {
    stack: Stack,
    layer: Option<usize>,
    path: &'a str,
}

/// Each entry of an axis `times` times, one after another.
fn repeated(x: &Tensor, dim: usize, times: usize) -> Result<Tensor> {
    let mut copies = x.dims().to_vec();
    copies.insert(dim + 1, times);
    let mut joined = x.dims().to_vec();
    joined[dim] *= times;
    Ok(x.unsqueeze(dim + 1)?.broadcast_as(copies)?.reshape(joined)?)
}

/// A weight of one layer, or of the model; `shared` where its heads are those of keys and values, which query heads share.
fn named_weight(
    name: &str,
    param: Param,
    tensor: Tensor,
    at: (Stack, Option<usize>),
    shared: bool,
) -> Result<NamedTensor> {
    let axes = weight_axes(param, &tensor, at, shared);
    NamedTensor::new(name, tensor, axes)
}

fn weight_axes(
    param: Param,
    tensor: &Tensor,
    (stack, layer): (Stack, Option<usize>),
    shared: bool,
) -> Vec<Axis> {
    let attn = if param.is_of_cross() { Attn::Cross } else { Attn::Own };
    let prefix = attn.head_prefix(shared && param.is_kv());
    let prefix = layer.map_or(prefix.to_string(), |layer| format!("{}{layer}{prefix}", stack.letter()));
    let axis = |(&name, &len): (&&'static str, &usize)| match name {
        "head" => Axis::labelled(name, numbered(&prefix, len)),
        _ => Axis::unlabelled(name, len),
    };
    param.axes().iter().zip(tensor.dims()).map(axis).collect()
}
