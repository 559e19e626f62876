//! Direct attribution: what each part of a model wrote into the position that is read, and says from there of a token's logit or of a
//! class.

use std::fmt;

use candle_core::Tensor;

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::residual::attribution::LogitDirection;
use crate::analysis::residual::stream::Stream;
use crate::analysis::residual::way::{Way, Written};
use crate::analysis::sweep::metric::Metric;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Site};
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind, layer_axis, numbered};
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::Activation;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::NormPlace;
use crate::view::{View, Visualize};

/// What [`logit_attribution`] or [`class_attribution`] found.
#[derive(Clone)]
pub struct DirectAttribution {
    components: NamedTensor,
    heads: HeadGrid,
    words: NamedTensor,
    source_words: Option<NamedTensor>,
}

/// What each part of a decoder says directly, at one position, of the logit of `correct`, or of that minus the logit of `incorrect`: through
/// the norms on its way, and through no other head or MLP. The logit at a position is of the token that comes next: of a target, the one
/// that the row writes.
///
/// Attention and the scale of each norm are held as they were in the run, and so everything is linear and sums to the logit (difference).
/// What a part does by changing any of them is not in it: [`ablation_effects`](crate::analysis::ablation_effects) has that. Norms after the
/// sums, as Marian's and BART's (Vaswani et al. 2017), are gone through one after another; norms before them, as GPT-2's and T5's, leave
/// what [`logit_attrs`](crate::analysis::logit_attrs) has.
///
/// Fails for several inputs, for a run of another model or without the hooks of the stream, for a position that it has not, and for tokens
/// out of range.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat on the")?;
/// let (cat, sat) = (model.to_single_token(" cat")?, model.to_single_token(" sat")?);
/// let found = logit_attribution(&model, &run, 5, cat, sat)?;
/// println!("{:?}", found.heads().ranked_by_size()?[0]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn logit_attribution(
    model: &Model,
    run: &Run,
    position: usize,
    correct: u32,
    incorrect: impl Into<Option<u32>>,
) -> Result<DirectAttribution> {
    model.spec().any_decoder("the attribution of a logit")?;
    model.spec().adds_heads("the attribution of a logit")?;
    let stream = Stream::through_norms(model, run)?;
    if position >= stream.len() {
        return Err(Error::new(
            ErrorKind::Input,
            format!("there is no position {position}: the run has {}", stream.len()),
        )
        .help(format!("positions are 0 to {}", stream.len() - 1)));
    }
    let direction = LogitDirection::unembedded(model, correct, incorrect.into())?;
    let name = format!("{} at {position}", direction.name);
    let mut way = Way::new(stream, position..position + 1)?;
    way.begin(&direction.column, direction.bias, 1.0)?;
    attribution(way, &name)
}

/// What each part of a classifier says directly of a class, or of that minus another: through the norms on its way, and through no other
/// head or MLP. All of it is what was written at the position that is read: `[CLS]` of an encoder, the last of a decoder.
///
/// Three things are held as they were in the run, and so everything is linear and sums to the logit (difference): attention, the scale of
/// each norm, and the slope of the pooler's function, which is taken as the straight line from 0 through what it gave (of a ReLU that is
/// what it does). What a part does by changing any of them is not in it: `ablation_effects` and
/// [`value_flow`](crate::analysis::value_flow) have that. Norms after the sums, as BERT's (Vaswani et al. 2017), are gone through one
/// after another; norms before them, as GPT-2's, leave what
/// [`logit_attrs`](crate::analysis::logit_attrs) has of tokens.
///
/// Fails for several inputs, for a run of another model or without the hooks of the stream, for models that tell no classes, and for classes
/// that there are not.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in-sentiment")?;
/// let run = model.run_with_cache("the plot was not bad")?;
/// let found = class_attribution(&model, &run, "positive", "negative")?;
/// println!("{:?}", found.heads().ranked()?[0]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn class_attribution<'a>(
    model: &Model,
    run: &Run,
    class: &str,
    instead: impl Into<Option<&'a str>>,
) -> Result<DirectAttribution> {
    let stream = Stream::through_norms(model, run)?;
    model.spec().adds_heads("direct attribution to a class")?;
    let of = model.class_index(class)?;
    let other = instead.into().map(|class| model.class_index(class)).transpose()?;
    let ReadoutLayer::Classes { pooling, pooler, classify, .. } = &model.network.readout else {
        return Err(Error::new(ErrorKind::Model, "this model tells no classes")
            .help("`logit_attribution` is of tokens"));
    };
    let at = pooling.position(stream.len());
    let last = stream.spec().dims.n_layers.saturating_sub(1);
    let left = match stream.spec().norm_place {
        NormPlace::After => Site::NormalizedResidPost.at(last),
        NormPlace::Before | NormPlace::Both => Site::LnFinalNormalized.into(),
    };
    let mut way = Way::new(stream, at..at + 1)?;
    for (class, times) in std::iter::once((of, 1.0)).chain(other.map(|other| (other, -1.0))) {
        let column = classify.weight.index_columns(&[class as u32])?.squeeze(1)?; // [d_model]
        let bias = match &classify.bias {
            Some(bias) => bias.get(class)?.to_scalar::<f32>()?,
            None => 0.0,
        };
        way.begin(&column, bias.into(), times)?;
    }
    if let Some((pooler, activation)) = pooler {
        let slope = slope(pooler, *activation, &way.rows(left)?)?;
        way.through_linear(pooler, &slope)?;
    }
    attribution(way, &Metric::Class { class: of, instead: other }.describe(model))
}

/// How many times what it was given a function gave, entry by entry, where a linear map gave it; what it does near 0 where that was given.
fn slope(linear: &Linear, activation: Activation, x: &Tensor) -> Result<Tensor> {
    const NEAR: f32 = 1e-6;
    let given: Vec<f32> = linear.forward(x)?.squeeze(0)?.to_vec1()?;
    let moved: Vec<f32> = given.iter().map(|&x| if x.abs() < NEAR { NEAR } else { x }).collect();
    let moved = Tensor::new(moved, x.device())?;
    Ok((activation.apply(&moved)? / moved)?)
}

/// What is said at the one position that a way begins at, part by part.
fn attribution(mut way: Way, name: &str) -> Result<DirectAttribution> {
    let spec = *way.stream.spec();
    let dims = spec.dims;
    let mut words: Vec<(Attn, Vec<Tensor>)> = spec.attentions().map(|attn| (attn, Vec::new())).collect();
    let (mut of_mlps, mut of_embeddings) = (Vec::new(), Vec::new());
    let number = |said: Tensor| -> Result<f32> { Ok(said.get(0)?.to_scalar()?) };
    way.walk(|way, written| {
        match written {
            Written::Attention { layer, attn } => {
                let of = words.iter_mut().find(|(own, _)| *own == attn);
                let keys = way.keys(layer, attn)?; // [head, key]
                of.into_iter().for_each(|(_, layers)| layers.push(keys.clone()));
            }
            Written::Mlp { layer } => {
                of_mlps.push((format!("{layer}_mlp_out"), number(way.of(Site::MlpOut.at(layer))?)?));
            }
            Written::Embedding { label, site } => {
                of_embeddings.push((label.to_string(), number(way.of(site)?)?));
            }
        }
        Ok(())
    })?;
    of_mlps.reverse();
    let panels: Vec<_> = spec.head_panels().collect();
    let (mut values, mut all_words) = (Vec::new(), Vec::new());
    for (attn, mut layers) in words {
        layers.reverse();
        let words = Tensor::stack(&layers, 0)?; // [layer, head, key]
        values.extend(words.sum(2)?.flatten_all()?.to_vec1::<f32>()?);
        let of = if attn == Attn::Cross { "source word" } else { "word" };
        let heads = Axis::labelled("head", numbered(attn.letter(), dims.n_heads));
        let axes = vec![layer_axis(spec.stack, dims.n_layers), heads, way.stream.key_axis(attn)?];
        let words = NamedTensor::new(format!("{name} by head and {of}"), words, axes)?;
        all_words.push(words.with_value_kind(ValueKind::Signed));
    }
    let heads = HeadGrid::of_attentions(&format!("{name} by head"), &panels, &values)?
        .with_value_kind(ValueKind::Signed);
    let mut parts: Vec<(String, f32)> =
        heads.each()?.map(|(head, value)| (head.to_string(), value)).collect();
    parts.extend(of_mlps);
    parts.extend(of_embeddings);
    parts.push(("bias".into(), number(way.bias().clone())?));
    let (labels, values): (Vec<String>, Vec<f32>) = parts.into_iter().unzip();
    let axes = vec![Axis::labelled("component", labels)];
    let components = NamedTensor::from_vec(format!("{name} by component"), values, axes)?;
    let source_words = (all_words.len() > 1).then(|| all_words.remove(1));
    Ok(DirectAttribution {
        components: components.with_value_kind(ValueKind::Signed),
        heads,
        words: all_words.remove(0),
        source_words,
    })
}

impl DirectAttribution {
    /// Each part `[component]`, labelled `L0H0`, ..., `0_mlp_out`, ..., `embed`, `pos_embed`, `token_type_embed`, and `bias`, which is what is
    /// said whatever the input: they sum to the logit (difference). Of a decoder that reads an encoder, `D0H0`, ... and those of
    /// cross-attention, `D0X0`, ....
    pub fn components(&self) -> &NamedTensor {
        &self.components
    }

    /// Each head.
    pub fn heads(&self) -> &HeadGrid {
        &self.heads
    }

    /// Each head by the words that it attends to `[layer, head, position]`: what it says of their values. They sum to the heads.
    pub fn words(&self) -> &NamedTensor {
        &self.words
    }

    /// The same of cross-attention, by the words of the source. Fails where there is none.
    pub fn source_words(&self) -> Result<&NamedTensor> {
        self.source_words.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Model, "this model reads no source").help("`words` has what its heads read")
        })
    }
}

impl fmt::Debug for DirectAttribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.components.to_vec().map_err(|_| fmt::Error)?;
        let mut each: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
        each.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let axis = &self.components.axes()[0];
        let most = each.iter().take(5).map(|&(index, value)| format!("{} {value:.3}", axis.label(index)));
        let sum: f32 = values.iter().sum();
        write!(f, "{}: {}, altogether {sum:.3}", self.components.name(), most.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for DirectAttribution {
    /// The words as heads carry them, the heads, and what is no head.
    fn views(&self) -> Result<Vec<View>> {
        let axis = &self.components.axes()[0];
        let heads = self.heads.heads().count();
        let rest = heads..axis.len();
        let labels: Vec<String> = rest.clone().map(|index| axis.label(index)).collect();
        let values = self.components.to_vec()?[rest].to_vec();
        let name = format!("{}: what is no head", self.components.name());
        let rest = NamedTensor::from_vec(name, values, vec![Axis::labelled("component", labels)])?;
        let of_words = |words: &NamedTensor, name: &str| -> Result<View> {
            let words = words.sum("layer")?.sum("head")?.renamed(name);
            Ok(View::Tokens(words.with_value_kind(ValueKind::Signed)))
        };
        let mut views = Vec::new();
        if let Some(source) = &self.source_words {
            views.push(of_words(source, "what all heads of cross-attention say of each word of the source")?);
        }
        views.push(of_words(&self.words, "what all heads say of each word")?);
        views.extend(self.heads.views()?);
        views.push(View::Bars(rest.with_value_kind(ValueKind::Signed)));
        Ok(views)
    }
}
