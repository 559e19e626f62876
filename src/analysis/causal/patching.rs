//! Patching: which activation carries the difference between two inputs (Meng et al. 2022, "Locating and Editing Factual
//! Associations in GPT"; Wang et al. 2022, "Interpretability in the Wild").

use std::collections::HashMap;
use std::fmt;

use candle_core::{DType, Device, Tensor, Var};

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::sweep::engine::sweep;
use crate::analysis::sweep::metric::Metric;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, AxisKind, Head, Hook, Site};
use crate::memory::floats;
use crate::model::input::{Input, Tokens};
use crate::model::model::Model;
use crate::model::run::{Pieces, Run};
use crate::model::run_options::RunOptions;
use crate::named::{Axis, NamedTensor, layer_axis, numbered};
use crate::network::StackSpec;
use crate::network::dims::Dims;
use crate::network::record::Record;
use crate::network::tap::Tap;
use crate::progress::Progress;
use crate::{memory, progress};

/// Runs the corrupted input with one activation of the clean input patched in, each place in turn; the raw metric.
/// `[layer, position]` for a site of the stream (`ResidPre`, `AttnOut`, `MlpOut`, ...), `[layer, head]`, over all
/// positions, for a site of heads (`Z`, `Q`, `K`, `V`, `Pattern`, ...); of `K` and `V` the heads are those of keys, which query
/// heads may share. Of a model of several stacks, `Hook::from(Site::Z).of(Stack::Decoder).cross()` says whose site it is.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let metric = Metric::log_prob(&model, " sat")?;
/// let patched = activation_patching(&model, "the cat sat the cat", "the cat sat the dog", Site::Z, &metric)?;
/// assert_eq!(patched.axis_names(), ["layer", "head"]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn activation_patching(
    model: &Model,
    clean: impl Into<Input>,
    corrupted: impl Into<Input>,
    site: impl Into<Hook>,
    metric: &Metric,
) -> Result<NamedTensor> {
    let pair = Pair::new(model, clean.into(), corrupted.into(), site.into())?;
    let places: Vec<Place> = match pair.has_heads() {
        true => pair.per_layer(pair.n_heads(), |head| (Some(head), None)),
        false => pair.per_layer(pair.len(), |position| (None, Some(position))),
    };
    pair.patch(&places, vec![pair.layer_axis(), pair.inner_axis()], metric)
}

/// As [`activation_patching`], each head at each position by itself `[layer, head, position]`.
pub fn activation_patching_by_position(
    model: &Model,
    clean: impl Into<Input>,
    corrupted: impl Into<Input>,
    site: impl Into<Hook>,
    metric: &Metric,
) -> Result<NamedTensor> {
    let pair = Pair::new(model, clean.into(), corrupted.into(), site.into())?;
    if !pair.has_heads() {
        return Err(Error::new(ErrorKind::Address, format!("`{}` has no heads", pair.site))
            .help("activation_patching patches it by position; heads are in Z, Q, K, V and Pattern"));
    }
    let (n_heads, len) = (pair.n_heads(), pair.len());
    let places = pair.per_layer(n_heads * len, |place| (Some(place / len), Some(place % len)));
    pair.patch(&places, vec![pair.layer_axis(), pair.inner_axis(), pair.position_axis()], metric)
}

/// A layer, and the head and the position if it is one only.
type Place = (usize, Option<usize>, Option<usize>);

/// A clean run and the corrupted input that it is patched into.
struct Pair<'a> {
    model: &'a Model,
    /// In every layer.
    site: Hook,
    /// Of the stack that it is in.
    dims: Dims,
    clean: Run,
    input: Input,
    corrupted: Pieces,
    /// What stands at its positions.
    tokens: Tokens,
}

impl<'a> Pair<'a> {
    fn new(model: &'a Model, clean: Input, input: Input, site: Hook) -> Result<Self> {
        if !site.site().in_block() {
            return Err(Error::new(
                ErrorKind::Address,
                format!("`{site}` is in no layer: there is nothing to go through"),
            )
            .help("patch resid_pre, attn_out, mlp_out, z, q, k, v or pattern"));
        }
        if site.layer().is_some() {
            return Err(Error::new(
                ErrorKind::Address,
                format!("`{site}` is in one layer, and each is patched"),
            )
            .help("give the site alone; `patch` makes a model with one activation patched"));
        }
        let first = model.hook(site.in_layer(0))?;
        let clean = model.run_with_options(clean, &RunOptions::only([site.site()]))?;
        if clean.tokens().len() != 1 || input.len() != 1 {
            let count = clean.tokens().len().max(input.len());
            return Err(Error::new(
                ErrorKind::Input,
                format!("there are {count} inputs where a pair is patched"),
            )
            .help("patch one pair at a time"));
        }
        let corrupted = model.pieces_of_one(&input, 0)?;
        for (stack, corrupted) in &corrupted {
            let ([clean], [corrupted]) = (clean.tokens_of(*stack)?, corrupted.as_slice()) else { continue };
            if clean.len() != corrupted.len() {
                return Err(Error::new(
                    ErrorKind::Input,
                    format!(
                        "the clean input has {} tokens and the corrupted one {}",
                        clean.len(),
                        corrupted.len()
                    ),
                )
                .help(format!("they must align, token by token: {clean} and {corrupted}")));
            }
        }
        let along =
            site.site().axes().iter().find(|axis| matches!(axis, AxisKind::Position | AxisKind::Query));
        let along = model.spec().stack_of_axis(first, along.copied().unwrap_or(AxisKind::Position))?.stack;
        let tokens = corrupted[&along][0].clone();
        let dims = model.spec().stack_of(first)?.dims;
        Ok(Pair { model, site, dims, clean, input, corrupted, tokens })
    }

    /// The tokens that the metric reads.
    fn read(&self) -> &Tokens {
        &self.corrupted[&self.model.spec().last_stack().stack][0]
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn has_heads(&self) -> bool {
        self.site.site().head_axis().is_some()
    }

    fn n_heads(&self) -> usize {
        if self.site.site().is_kv() { self.dims.n_key_value_heads } else { self.dims.n_heads }
    }

    fn per_layer(&self, count: usize, place: impl Fn(usize) -> (Option<usize>, Option<usize>)) -> Vec<Place> {
        let places = (0..self.dims.n_layers).flat_map(|layer| (0..count).map(move |i| (layer, i)));
        places.map(|(layer, i)| (layer, place(i).0, place(i).1)).collect()
    }

    fn layer_axis(&self) -> Axis {
        layer_axis(self.site.stack(), self.dims.n_layers)
    }

    /// Heads where there are such, and else positions.
    fn inner_axis(&self) -> Axis {
        if !self.has_heads() {
            return self.position_axis();
        }
        let shared = self.site.site().is_kv() && self.dims.shares_kv();
        Axis::labelled("head", numbered(self.site.attn().head_prefix(shared), self.n_heads()))
    }

    fn position_axis(&self) -> Axis {
        Axis::labelled("position", self.tokens.shared_labels())
    }

    fn patch(&self, places: &[Place], axes: Vec<Axis>, metric: &Metric) -> Result<NamedTensor> {
        // A variant is a model with one more edit: names, places and what they lie in.
        const VARIANT: u64 = 1024;
        memory::check(&Device::Cpu, VARIANT.saturating_mul(places.len() as u64), || {
            let what = format!("patching at {} places", places.len());
            (what, "patch heads over all positions, with `activation_patching`; or shorter inputs")
        })?;
        let variant = |&(layer, head, position): &Place| {
            let positions = position.map(|position| [position]);
            let positions = positions.as_ref().map(|one| one.as_slice());
            self.model.patch(self.site.in_layer(layer), head, positions, &self.clean)
        };
        let variants = places.iter().map(variant).collect::<Result<Vec<_>>>()?;
        let swept = sweep("patching", self.model, &variants, &self.input, metric)?;
        let values = swept.variants.iter().map(|&value| value as f32).collect();
        let name = format!("{} with clean {} patched in", metric.describe(self.model), self.site);
        NamedTensor::from_vec(name, values, axes)
    }
}

/// An estimate of [`activation_patching`] minus the corrupted metric, for all places from one gradient: (clean -
/// corrupted) times the gradient at the corrupted run, summed (Nanda 2023, "Attribution Patching"). `[layer, head]` for
/// a site of heads, `[layer, position]` for one of the stream.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let metric = Metric::log_prob(&model, " sat")?;
/// let estimate = attribution_patching(&model, "the cat sat the cat", "the cat sat the dog", Site::Z, &metric)?;
/// assert_eq!(estimate.axis_names(), ["layer", "head"]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn attribution_patching(
    model: &Model,
    clean: impl Into<Input>,
    corrupted: impl Into<Input>,
    site: impl Into<Hook>,
    metric: &Metric,
) -> Result<NamedTensor> {
    let pair = Pair::new(model, clean.into(), corrupted.into(), site.into())?;
    let site = pair.site.site();
    metric.check(model, pair.read())?;
    if matches!(site, Site::AttnScores) {
        return Err(Error::new(
            ErrorKind::Address,
            "masked attention scores are -inf: their difference is no number",
        )
        .help("use Pattern"));
    }
    let positions = metric.positions(pair.read());
    let read = positions.as_ref().map_or(pair.read().len(), Vec::len);
    let mut gradient = GradientTap {
        site: pair.site,
        places: Vec::new(),
        record: Record::new([metric.hook()]).at_positions(positions),
    };
    model.has_room_for_gradients(1, pair.read().len(), read, &[site])?;
    model.execute(model.batch(&pair.corrupted)?.into(), None, &mut gradient)?;
    let GradientTap { places, record, .. } = gradient;
    let read = metric.read(&record.only()?, pair.read())?;
    let gradients = metric.differentiable(&read, pair.read())?.backward();
    progress::check("attribution patching")?;
    let gradients = gradients?;
    let mut values = Vec::new();
    for (layer, (activation, shift)) in places.iter().enumerate() {
        let gradient = match gradients.get(shift.as_tensor()) {
            Some(gradient) => gradient.clone(),
            None => activation.zeros_like()?,
        };
        let clean = pair.clean.whole(pair.site.in_layer(layer))?;
        let estimate = ((clean - activation)? * gradient)?.squeeze(0)?;
        // Everything but the heads, where there are heads, or the positions.
        let left = site.head_axis().or(site.position_axis());
        let others: Vec<usize> = (0..estimate.rank()).filter(|&dim| Some(dim) != left).collect();
        let estimate = estimate.sum(others)?;
        values.extend(estimate.to_vec1::<f32>()?);
    }
    NamedTensor::from_vec(
        format!("estimated change of {} by patching {}", metric.describe(model), pair.site),
        values,
        vec![pair.layer_axis(), pair.inner_axis()],
    )
}

/// Adds to each activation a shift of zero, whose gradient is the activation's, and keeps what a metric reads.
struct GradientTap {
    site: Hook,
    places: Vec<(Tensor, Var)>,
    record: Record,
}

impl GradientTap {
    fn is_at(&self, hook: Hook) -> bool {
        hook.layer().is_some_and(|layer| self.site.in_layer(layer) == hook)
    }
}

impl Tap for GradientTap {
    fn wants(&self, hook: Hook) -> bool {
        self.is_at(hook) || self.record.wants(hook)
    }

    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor> {
        let mut activation = activation;
        if self.is_at(hook) {
            let shift = Var::zeros(activation.dims(), DType::F32, activation.device())?;
            let shifted = (&activation + shift.as_tensor())?;
            self.places.push((activation.detach(), shift));
            activation = shifted;
        }
        if self.record.wants(hook) { self.record.tap(hook, activation) } else { Ok(activation) }
    }

    fn unembed_positions(&self) -> Option<&[usize]> {
        self.record.unembed_positions()
    }
}

/// Where a patched path ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathReceiver {
    /// The final residual stream, and so the logits.
    Logits,
    /// What a head's queries read.
    Query(Head),
    /// What a head's keys read. Where heads share their keys, so does what reaches them.
    Key(Head),
    /// What a head's values read. Where heads share their values, so does what reaches them.
    Value(Head),
}

impl fmt::Display for PathReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathReceiver::Logits => f.write_str("the logits"),
            PathReceiver::Query(head) => write!(f, "the queries of {head}"),
            PathReceiver::Key(head) => write!(f, "the keys of {head}"),
            PathReceiver::Value(head) => write!(f, "the values of {head}"),
        }
    }
}

/// Path patching (Wang et al. 2022, section 3.1): the effect of each head on a receiver alone. Runs the corrupted input
/// with a head's output from the clean input, all other heads held as they were and MLPs free, notes what the receiver
/// then reads, and puts only that into another corrupted run. The metric of each sender minus the corrupted metric;
/// heads that cannot reach the receiver get 0.
///
/// In an encoder-decoder heads of the encoder reach what keys and values of cross-attention read, and heads of the decoder the rest.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let metric = Metric::log_prob(&model, " sat")?;
/// let to_keys = path_patching(&model, "the cat sat the cat", "the dog sat the cat", PathReceiver::Key(head(1, 0)), &metric)?;
/// println!("{:?}", to_keys.at(head(0, 5))?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn path_patching(
    model: &Model,
    clean: impl Into<Input>,
    corrupted: impl Into<Input>,
    receiver: PathReceiver,
    metric: &Metric,
) -> Result<HeadGrid> {
    let read_out = *model.spec().read_out("path patching")?;
    let pair = Pair::new(model, clean.into(), corrupted.into(), Hook::from(Site::Z).of(read_out.stack))?;
    metric.check(model, pair.read())?;
    let held = model.run_with_options(&pair.input, &RunOptions::only([Site::Z]))?;
    let (to, put_at) = match receiver {
        PathReceiver::Logits => {
            (None, Site::ResidPost.at(read_out.dims.n_layers.saturating_sub(1)).of(read_out.stack))
        }
        PathReceiver::Query(to) => (Some(to), to.hook(Site::QInput)),
        PathReceiver::Key(to) => (Some(to), to.hook(Site::KInput)),
        PathReceiver::Value(to) => (Some(to), to.hook(Site::VInput)),
    };
    to.map(|to| model.spec().check_head(to)).transpose()?;
    model.hook(put_at)?;
    // Where what the receiver reads was written, and before which place in a block.
    let axis = if to.is_some() { AxisKind::Position } else { AxisKind::DModel };
    let of = *model.spec().stack_of_axis(put_at, axis)?;
    let own = model.spec().stack_of(put_at)?;
    let before = match to {
        Some(to) if own.stack == of.stack => (to.layer, to.attn),
        _ => (of.dims.n_layers, Attn::Own),
    };
    let at = to.map(|to| match put_at.site().is_kv() {
        true => to.head / own.dims.queries_per_kv_head(),
        false => to.head,
    });
    let senders: Vec<Head> =
        model.heads().filter(|head| head.stack == of.stack && (head.layer, head.attn) < before).collect();
    let progress = Progress::new("tracing paths", senders.len());
    let positions = pair.corrupted[&of.stack][0].len();
    memory::check(model.device(), floats([senders.len(), positions, of.dims.d_model]), || {
        let what = format!("what {} heads send on {positions} tokens", senders.len());
        (what, "patch shorter inputs, or paths to a receiver in a lower layer")
    })?;
    let later: Vec<Hook> = (0..of.dims.n_layers)
        .flat_map(|layer| of.attentions().map(move |attn| Site::Z.at(layer).of(of.stack).with_attn(attn)))
        .collect();
    let mut variants = Vec::new();
    for &sender in &senders {
        // Heads above the sender keep their mixed values, so that the way to the receiver leads through no other head.
        let mut frozen = model.clone();
        for hook in
            later.iter().filter(|hook| (hook.layer(), hook.attn()) >= (Some(sender.layer), sender.attn))
        {
            frozen = frozen.patch(*hook, None, None, &held)?;
        }
        let sent = frozen.patch(sender.hook(Site::Z), Some(sender.head), None, &pair.clean)?;
        let kept = RunOptions::matching(put_at.to_string());
        let mut stream = sent.run_with_options(&pair.input, &kept)?.whole(put_at)?;
        if let Some(at) = at {
            // Of one head: what all read is the same as it comes.
            stream = stream.narrow(2, at, 1)?.contiguous()?;
        }
        variants.push(model.edit_with(put_at, format!("{sender} to {receiver}"), move |activation| {
            let Some(at) = at else { return Ok(stream.clone()) };
            let after = activation.dim(2)? - at - 1;
            Ok(Tensor::cat(
                &[activation.narrow(2, 0, at)?, stream.clone(), activation.narrow(2, at + 1, after)?],
                2,
            )?)
        }));
        progress.advance(1)?;
    }
    drop(progress);
    let swept = sweep("patching paths", model, &variants, &pair.input, metric)?;
    let effects: HashMap<Head, f32> =
        senders.into_iter().zip(swept.variants.iter().map(|value| (value - swept.clean) as f32)).collect();
    let name = format!("change of {} by the path to {receiver}", metric.describe(model));
    let panels: Vec<_> = model.spec().stacks().iter().flat_map(StackSpec::head_panels).collect();
    let heads = HeadGrid::heads_of(panels.clone());
    let values: Vec<f32> = heads.map(|head| effects.get(&head).copied().unwrap_or(0.0)).collect();
    HeadGrid::of_attentions(&name, &panels, &values)
}
