//! Runs: what one pass through a model saw, kept under the names of its hooks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::hook::{AxisKind, Hook, IntoHook, Site, Stack};
use crate::model::digest::InputDigest;
use crate::model::input::Tokens;
use crate::named::{Axis, NamedTensor, ValueKind, numbered};
use crate::network::spec::ArchSpec;
use crate::progress;
use crate::view::{View, Visualize};

/// The tokens of each input, stack by stack.
pub(crate) type Pieces = BTreeMap<Stack, Vec<Tokens>>;

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
    pub(super) model: String,
    pub(super) spec: Arc<ArchSpec>,
    pub(super) pieces: Pieces,
    pub(super) activations: Vec<(Hook, Tensor)>,
}

impl Run {
    pub(crate) fn new(
        model: String,
        spec: Arc<ArchSpec>,
        pieces: Pieces,
        activations: Vec<(Hook, Tensor)>,
    ) -> Run {
        Run { model, spec, pieces, activations }
    }

    /// The tokens of each input; of several stacks, those of the one that is read out.
    pub fn tokens(&self) -> &[Tokens] {
        self.pieces.get(&self.spec.last_stack().stack).map_or(&[], Vec::as_slice)
    }

    /// The tokens of each input that a stack read. Fails if the model has no such stack.
    pub fn tokens_of(&self, stack: Stack) -> Result<&[Tokens]> {
        self.spec.stack(stack)?;
        Ok(self.pieces.get(&stack).map_or(&[], Vec::as_slice))
    }

    /// How many inputs there are.
    fn batch(&self) -> usize {
        self.tokens().len()
    }

    /// The tokens that an axis of an activation counts, input by input.
    fn tokens_along(&self, hook: Hook, axis: AxisKind) -> Result<&[Tokens]> {
        self.tokens_of(self.spec.stack_of_axis(hook, axis)?.stack)
    }

    /// The tokens of a run of one input. Fails where there are several.
    pub(crate) fn single(&self) -> Result<&Tokens> {
        match self.tokens() {
            [tokens] => Ok(tokens),
            many => {
                let what = format!("the run has {} inputs, where one is read", many.len());
                Err(Error::new(ErrorKind::Input, what).remedied_by(Remedy::OneInput))
            }
        }
    }

    /// The name of the model that ran.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The digest of the tokens that ran, and through which model.
    pub(crate) fn digest(&self) -> String {
        let mut digest = InputDigest::new();
        self.pieces.values().flatten().for_each(|tokens| tokens.add_to(&mut digest));
        format!("{}, {}", self.model, digest.finish())
    }

    /// What the model that ran is built of.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// The layers of the stack that is read out.
    pub fn n_layers(&self) -> usize {
        self.spec.last_stack().dims.n_layers
    }

    /// The hooks that were kept, in the order in which the run met them.
    pub fn hooks(&self) -> Vec<Hook> {
        self.activations.iter().map(|(hook, _)| *hook).collect()
    }

    /// One of several inputs by itself, cut to its own length.
    pub fn item(&self, index: usize) -> Result<Run> {
        if index >= self.batch() {
            return Err(Error::new(
                ErrorKind::Input,
                format!("there is no input {index}: the run has {}", self.batch()),
            )
            .help(format!("inputs are 0 to {}", self.batch().saturating_sub(1))));
        }
        let cut = |(hook, tensor): &(Hook, Tensor)| -> Result<(Hook, Tensor)> {
            let mut tensor = tensor.narrow(0, index, 1)?;
            for (dim, axis) in hook.site().axes().iter().enumerate() {
                if axis.is_of_tokens() {
                    tensor = tensor.narrow(dim + 1, 0, self.tokens_along(*hook, *axis)?[index].len())?;
                }
            }
            Ok((*hook, tensor))
        };
        let activations = self.activations.iter().map(cut).collect::<Result<_>>()?;
        let pieces =
            self.pieces.iter().map(|(stack, tokens)| (*stack, vec![tokens[index].clone()])).collect();
        Ok(Run { pieces, activations, ..self.clone() })
    }

    /// An activation, by a [`Hook`], by TransformerLens's name, or by a short name and a layer: `("pattern", 5)`.
    pub fn get(&self, hook: impl IntoHook) -> Result<NamedTensor> {
        self.named(hook.into_hook()?)
    }

    pub(super) fn named(&self, hook: Hook) -> Result<NamedTensor> {
        self.spec.check(hook)?;
        let tensor = self.raw(hook)?;
        for axis in hook.site().axes().iter().filter(|axis| axis.is_of_tokens()) {
            let lens: Vec<usize> = self.tokens_along(hook, *axis)?.iter().map(Tokens::len).collect();
            if lens.iter().any(|len| *len != lens[0]) {
                return Err(Error::new(
                    ErrorKind::Input,
                    format!(
                        "the run's inputs have different lengths ({lens:?} tokens), so `{hook}` has no one shape"
                    ),
                )
                .remedied_by(Remedy::OneInput));
            }
        }
        let alone = self.batch() == 1;
        let tensor = if alone { tensor.squeeze(0)? } else { tensor.clone() };
        let mut axes = Vec::new();
        if !alone {
            axes.push(Axis::unlabelled("batch", self.batch()));
        }
        let spec = self.spec.stack_of(hook)?;
        for (kind, &len) in hook.site().axes().iter().zip(&tensor.dims()[usize::from(!alone)..]) {
            axes.push(match (kind, hook.layer()) {
                (kind, _) if kind.is_of_tokens() && alone => {
                    Axis::labelled(kind.name(), self.tokens_along(hook, *kind)?[0].shared_labels())
                }
                (AxisKind::Head | AxisKind::KvHead, Some(layer)) => {
                    let shared = *kind == AxisKind::KvHead && spec.dims.shares_kv();
                    let letter = spec.stack.letter();
                    let prefix = format!("{letter}{layer}{}", hook.attn().head_prefix(shared));
                    Axis::labelled(kind.name(), numbered(&prefix, len))
                }
                (AxisKind::Class, _) => Axis::labelled(kind.name(), self.spec.class_labels()),
                _ => Axis::unlabelled(kind.name(), len),
            });
        }
        let value_kind = match hook.site() {
            Site::Pattern => ValueKind::Probability,
            site if site.axes().contains(&AxisKind::Scale) => ValueKind::Magnitude,
            _ => ValueKind::Signed,
        };
        Ok(NamedTensor::new(hook.to_string(), tensor, axes)?.with_value_kind(value_kind))
    }

    /// The tensor of a hook, batch first.
    pub(crate) fn raw(&self, hook: Hook) -> Result<&Tensor> {
        let found = self.activations.iter().find(|(kept, _)| *kept == hook).map(|(_, tensor)| tensor);
        found.ok_or_else(|| {
            if let Err(error) = self.spec.check(hook) {
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

    /// An activation of a run of one input, batch first.
    pub(crate) fn whole(&self, hook: Hook) -> Result<Tensor> {
        self.single()?;
        Ok(self.raw(hook)?.clone())
    }

    /// The mean of an activation over inputs and positions.
    pub(crate) fn mean_over_positions(&self, hook: Hook) -> Result<Tensor> {
        let (mut sum, mut count) = (None::<Tensor>, 0);
        for index in 0..self.batch() {
            progress::check("taking the mean of a run")?;
            let item = self.item(index)?;
            let tensor = item.raw(hook)?;
            count += tensor.dim(1)?;
            let tensor = tensor.sum(1)?.squeeze(0)?;
            sum = Some(match sum {
                Some(sum) => (sum + tensor)?,
                None => tensor,
            });
        }
        let sum = sum.map_or_else(|| Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu), Ok)?;
        Ok((sum / count.max(1) as f64)?)
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens: Vec<String> = self.pieces.values().flatten().map(Tokens::to_string).collect();
        write!(f, "{}: {} activations of {}", self.model, self.activations.len(), tokens.join(", "))
    }
}

impl Visualize for Run {
    /// The patterns of every layer that was kept, input by input.
    fn views(&self) -> Result<Vec<View>> {
        let mut views = Vec::new();
        for index in 0..self.batch() {
            let item = self.item(index)?;
            let patterns = item.hooks().into_iter().filter(|hook| hook.site() == Site::Pattern);
            for hook in patterns {
                views.push(View::SmallMultiples { values: item.named(hook)?, selected: None });
            }
        }
        if views.is_empty() {
            views =
                self.pieces.values().flatten().map(Visualize::views).collect::<Result<Vec<_>>>()?.concat();
        }
        Ok(views)
    }
}
