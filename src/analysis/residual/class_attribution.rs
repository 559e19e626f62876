//! Direct attribution to a class: what each part of a classifier wrote into the position that is read, and says of the class from there.
//!
//! Shapes at the end of lines: T positions, M width of the residual stream, H heads, D width of a head.

use std::fmt;

use candle_core::{D, DType, Tensor};

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::residual::stream::{Stream, as_normed};
use crate::analysis::sweep::metric::Metric;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::param::{NormParam, Param};
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::Activation;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::NormPlace;
use crate::view::{View, Visualize};

/// What [`class_attribution`] found.
#[derive(Clone)]
pub struct ClassAttribution {
    components: NamedTensor,
    heads: HeadGrid,
    words: NamedTensor,
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
) -> Result<ClassAttribution> {
    let stream = Stream::through_norms(model, run)?;
    model.spec().adds_heads("direct attribution to a class")?;
    let of = model.class_index(class)?;
    let other = instead.into().map(|class| model.class_index(class)).transpose()?;
    let ReadoutLayer::Classes { pooling, pooler, classify, .. } = &model.network.readout else {
        return Err(
            Error::new(ErrorKind::Model, "this model tells no classes").help("`logit_attrs` is of tokens")
        );
    };
    let at = pooling.position(stream.len());
    let dims = *model.dims();
    let is_after = model.spec().last_stack().norm_place == NormPlace::After;
    let mut way =
        Way { stream, at, read: Tensor::zeros(dims.d_model, DType::F32, model.device())?, bias: 0.0 };
    way.begin(of, 1.0, classify)?;
    if let Some(other) = other {
        way.begin(other, -1.0, classify)?;
    }
    let last = dims.n_layers.saturating_sub(1);
    if let Some((pooler, activation)) = pooler {
        let x = match is_after {
            true => way.row(Site::NormalizedResidPost.at(last))?,
            false => way.row(Site::LnFinalNormalized)?,
        };
        let a = pooler.forward(&x.unsqueeze(0)?)?.squeeze(0)?; // (M)
        let slope = slope(&a, *activation)?;
        let read = (&way.read * slope)?; // (M)
        if let Some(bias) = &pooler.bias {
            way.bias += dot(&read, bias)?;
        }
        let back = Linear { weight: pooler.weight.t()?, bias: None };
        way.read = back.forward(&read.unsqueeze(0)?)?.squeeze(0)?; // (M)
    }
    if !is_after {
        way.through_norm(Param::LnFinal, 0, Site::LnFinalScale.into())?;
    }
    let with_mlps = model.spec().has(Site::MlpOut);
    let (mut of_heads, mut of_words, mut of_mlps) = (Vec::new(), Vec::new(), Vec::new());
    for layer in (0..dims.n_layers).rev() {
        if is_after {
            way.through_norm(Param::Ln2, layer, Site::Ln2Scale.at(layer))?;
        }
        if with_mlps {
            of_mlps.push((format!("{layer}_mlp_out"), way.of(Site::MlpOut.at(layer))?));
        }
        if is_after {
            way.through_norm(Param::Ln1, layer, Site::Ln1Scale.at(layer))?;
        }
        let words = way.words(layer)?; // (H, T)
        of_heads.push(words.sum(1)?.to_vec1::<f32>()?);
        of_words.push(words);
        way.bias += dot(&way.read, &way.stream.param(Param::OutputBias, layer)?)?;
    }
    if model.spec().has(Site::EmbedLnScale) {
        way.through_norm(Param::LnEmbed, 0, Site::EmbedLnScale.into())?;
    }
    of_heads.reverse();
    of_words.reverse();
    of_mlps.reverse();
    let name = Metric::Class { class: of, instead: other }.describe(model);
    let mut parts: Vec<(String, f32)> =
        model.heads().map(|head| head.to_string()).zip(of_heads.iter().flatten().copied()).collect();
    parts.extend(of_mlps);
    for (label, site) in Stream::embeddings(model) {
        parts.push((label.into(), way.of(site)?));
    }
    parts.push(("bias".into(), way.bias));
    let (labels, values): (Vec<String>, Vec<f32>) = parts.into_iter().unzip();
    let components = NamedTensor::from_vec(
        format!("{name} by component"),
        values,
        vec![Axis::labelled("component", labels)],
    )?;
    let heads =
        HeadGrid::from_vec(format!("{name} by head"), of_heads.concat(), dims.n_layers, dims.n_heads)?;
    let axes = vec![model.layer_axis(), model.head_axis(), way.stream.position_axis()];
    let words = NamedTensor::new(format!("{name} by head and word"), Tensor::stack(&of_words, 0)?, axes)?;
    Ok(ClassAttribution {
        components: components.with_value_kind(ValueKind::Signed),
        heads,
        words: words.with_value_kind(ValueKind::Signed),
    })
}

/// How many times what it was given a function gave, entry by entry; what it does near 0 where that was given.
fn slope(a: &Tensor, activation: Activation) -> Result<Tensor> {
    const NEAR: f32 = 1e-6;
    let given: Vec<f32> = a.to_vec1()?;
    let moved: Vec<f32> = given.iter().map(|&x| if x.abs() < NEAR { NEAR } else { x }).collect();
    let moved = Tensor::new(moved, a.device())?;
    Ok((activation.apply(&moved)? / moved)?)
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a * b)?.sum_all()?.to_scalar()?)
}

/// The way back from a logit to what was written at the position that is read.
struct Way<'a> {
    stream: Stream<'a>,
    at: usize,
    /// What the stream, here, is multiplied by `[d_model]`.
    read: Tensor, // (M)
    /// What is said whatever the stream.
    bias: f32,
}

impl Way<'_> {
    /// Adds a class, so many times.
    fn begin(&mut self, class: usize, times: f64, classify: &Linear) -> Result<()> {
        let column = classify.weight.index_columns(&[class as u32])?.squeeze(1)?; // (M)
        self.read = (&self.read + (column * times)?)?;
        if let Some(bias) = &classify.bias {
            self.bias += times as f32 * bias.get(class)?.to_scalar::<f32>()?;
        }
        Ok(())
    }

    /// Goes back through a norm, at the scale that it had.
    fn through_norm(&mut self, norm: fn(NormParam) -> Param, layer: usize, scale: Hook) -> Result<()> {
        let model = self.stream.model;
        let (gain, bias) = model.norm_params(norm, layer)?;
        if let Some(bias) = bias {
            self.bias += dot(&self.read, &bias)?;
        }
        if let Some(gain) = gain {
            self.read = (&self.read * gain)?;
        }
        let read = as_normed(model, &self.read, 0)?.unsqueeze(0)?; // (1, M)
        let len = self.stream.len();
        let read = self.stream.divide_by_scale(&read.broadcast_as((len, read.dim(1)?))?, scale)?;
        self.read = read.get(self.at)?.contiguous()?;
        Ok(())
    }

    /// An activation `[position, d_model]` at the position that is read.
    fn row(&self, hook: impl Into<Hook>) -> Result<Tensor> {
        Ok(self.stream.read(hook)?.get(self.at)?)
    }

    /// What that says.
    fn of(&self, hook: impl Into<Hook>) -> Result<f32> {
        dot(&self.read, &self.row(hook)?)
    }

    /// What each head of a layer says of what it reads at each word, as it attends to it.
    fn words(&self, layer: usize) -> Result<Tensor> {
        let sent = self.stream.messages(layer, self.at)?; // (T, H, D)
        let w_o = self.stream.param(Param::Output, layer)?; // (H, D, M)
        let (heads, width, m) = w_o.dims3()?;
        let said = w_o.reshape((heads * width, m))?.matmul(&self.read.unsqueeze(1)?)?; // (HD, 1)
        let said = sent.broadcast_mul(&said.reshape((1, heads, width))?)?.sum(D::Minus1)?; // (T, H)
        Ok(said.t()?.contiguous()?)
    }
}

impl ClassAttribution {
    /// Each part `[component]`, labelled `L0H0`, ..., `0_mlp_out`, ..., `embed`, `pos_embed`, `token_type_embed`, and `bias`, which is what is
    /// said whatever the input: they sum to the logit (difference).
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
}

impl fmt::Debug for ClassAttribution {
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

impl Visualize for ClassAttribution {
    /// The words as heads carry them, the heads, and what is no head.
    fn views(&self) -> Result<Vec<View>> {
        let axis = &self.components.axes()[0];
        let heads = self.heads.values().to_vec()?.len();
        let rest = heads..axis.len();
        let labels: Vec<String> = rest.clone().map(|index| axis.label(index)).collect();
        let values = self.components.to_vec()?[rest].to_vec();
        let name = format!("{}: what is no head", self.components.name());
        let rest = NamedTensor::from_vec(name, values, vec![Axis::labelled("component", labels)])?;
        let words = self.words.sum("layer")?.sum("head")?.renamed("what all heads say of each word");
        let mut views = vec![View::Tokens(words.with_value_kind(ValueKind::Signed))];
        views.extend(self.heads.views()?);
        views.push(View::Bars(rest.with_value_kind(ValueKind::Signed)));
        Ok(views)
    }
}
