//! Direct logit attribution: the residual stream taken apart, and what each part says for a token (Elhage et al. 2021,
//! "A Mathematical Framework for Transformer Circuits"; Wang et al. 2022, "Interpretability in the Wild").
//!
//! Names, labels and numbers are TransformerLens's. The last norm is taken at the scale that it had in the run, so it is
//! linear, and what the components of [`full_resid_decomposition`] say and [`logit_bias`] sum to the logits of the run.
//! What an edit put into the stream itself (steering, say) is in no component.

use candle_core::{D, Tensor};

use crate::analysis::head_grid::HeadGrid;
use crate::analysis::residual::stream::{Stream, as_normed, through_all};
use crate::analysis::residual::way::{Way, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site, Stack};
use crate::memory::floats;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, layer_axis, numbered};
use crate::network::StackSpec;
use crate::network::dims::check_ids;
use crate::network::param::Param;
use crate::{memory, progress};

const STACK_AXES: [&str; 3] = ["component", "position", "d_model"];

/// The residual stream as each layer reads it, and at last as it is unembedded `[component, position, d_model]`, labelled
/// `0_pre`, `1_pre`, ..., `final_post`; between attention and MLP too (`0_mid`) with `incl_mid`, and behind cross-attention
/// (`0_mid_cross`). Of an encoder-decoder it is the decoder's.
///
/// Fails for several inputs, where the run did not keep `hook_resid_pre`, `hook_resid_mid` and `hook_resid_post`, and with
/// `incl_mid` where the model has nothing between attention and MLP.
///
/// ```
/// use headlight::prelude::*;
/// let run = Model::open("built-in")?.run_with_cache("the cat sat")?;
/// let stack = accumulated_resid(&run, true)?;
/// assert_eq!(stack.axes()[0].label(1), "0_mid");
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn accumulated_resid(run: &Run, incl_mid: bool) -> Result<NamedTensor> {
    let spec = *run.spec().sum_of_parts("the accumulated residual stream")?;
    let mut parts = Vec::new();
    for layer in 0..run.n_layers() {
        parts.push((format!("{layer}_pre"), Site::ResidPre.at(layer)));
        if incl_mid {
            parts.push((format!("{layer}_mid"), Site::ResidMid.at(layer)));
            if spec.crosses.is_some() {
                parts.push((format!("{layer}_mid_cross"), Site::ResidMidCross.at(layer)));
            }
        }
    }
    let last = run.n_layers().saturating_sub(1);
    parts.push(("final_post".into(), Site::ResidPost.at(last)));
    stack_of("residual stream", run, spec.stack, parts)
}

/// What the embeddings, and each layer's attention and MLP, wrote into the residual stream
/// `[component, position, d_model]`, labelled `embed`, `pos_embed`, `0_attn_out`, `0_mlp_out`, ... as far as the model has
/// them: they sum to it. Of an encoder-decoder they are the decoder's, with `0_cross_attn_out`, ... .
///
/// Fails for several inputs, and where the run did not keep these hooks.
///
/// ```
/// use headlight::prelude::*;
/// let run = Model::open("built-in")?.run_with_cache("the cat sat")?;
/// assert_eq!(decompose_resid(&run)?.axes()[0].label(2), "0_attn_out");
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn decompose_resid(run: &Run) -> Result<NamedTensor> {
    let spec = *run.spec().sum_of_parts("the decomposition of the residual stream")?;
    let mut parts = vec![
        ("embed".to_string(), Hook::from(Site::Embed)),
        ("pos_embed".to_string(), Hook::from(Site::PosEmbed)),
    ];
    for layer in 0..run.n_layers() {
        parts.push((format!("{layer}_attn_out"), Site::AttnOut.at(layer)));
        if spec.crosses.is_some() {
            parts.push((format!("{layer}_cross_attn_out"), Site::AttnOut.at(layer).cross()));
        }
        parts.push((format!("{layer}_mlp_out"), Site::MlpOut.at(layer)));
    }
    parts.retain(|(_, hook)| spec.has(hook.site()));
    stack_of("parts of the residual stream", run, spec.stack, parts)
}

fn stack_of(name: &str, run: &Run, stack: Stack, parts: Vec<(String, Hook)>) -> Result<NamedTensor> {
    run.single()?;
    let (labels, hooks): (Vec<String>, Vec<Hook>) =
        parts.into_iter().map(|(label, hook)| (label, hook.of(stack))).unzip();
    let width = run.raw(hooks[0])?.dims().iter().copied();
    memory::check(run.raw(hooks[0])?.device(), floats(width.chain([hooks.len()])), || {
        (format!("a stack of {} components", hooks.len()), "run a shorter input")
    })?;
    let parts = hooks.into_iter().map(|hook| run.get(hook)).collect::<Result<Vec<_>>>()?;
    let tensors: Vec<&Tensor> = parts.iter().map(NamedTensor::tensor).collect();
    let mut axes = vec![Axis::labelled("component", labels)];
    axes.extend(parts[0].axes().iter().cloned());
    NamedTensor::new(name, Tensor::stack(&tensors, 0)?, axes)
}

/// What each head wrote into the residual stream `[component, position, d_model]`, labelled `L0H0`, `L0H1`, ...: from
/// `hook_result` where the run kept it, else from `hook_z` and `W_O`. The layers' `b_O` belongs to no head.
///
/// Fails for several inputs, for a run of another model, and where the run kept neither.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat")?;
/// let heads = stack_head_results(&model, &run)?;
/// assert_eq!(heads.axes()[0].label(9), "L1H1");
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn stack_head_results(model: &Model, run: &Run) -> Result<NamedTensor> {
    let stream = Stream::new(model, run)?;
    let labels = head_labels(&stream);
    stack_fits(&stream, labels.len())?;
    stack(&stream, "results of the heads", labels, &of_all_heads(&stream)?)
}

/// Every part of the residual stream at its end: heads, MLPs, embeddings, and the sum of the `b_O` as `bias`
/// `[component, position, d_model]`, labelled `L0H0`, ..., `0_mlp_out`, ..., `embed`, `pos_embed`, `bias`: they sum to it.
///
/// Fails for several inputs, for a run of another model, and where the run did not keep these hooks.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat")?;
/// let sum = full_resid_decomposition(&model, &run)?.sum("component")?;
/// assert!((sum.value(&[2, 0])? - run.resid_post(1)?.value(&[2, 0])?).abs() < 1e-3);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn full_resid_decomposition(model: &Model, run: &Run) -> Result<NamedTensor> {
    let stream = Stream::new(model, run)?;
    let dims = stream.spec().dims;
    let mut labels = head_labels(&stream);
    stack_fits(&stream, labels.len() + dims.n_layers + 3)?;
    let mut parts = of_all_heads(&stream)?;
    let with_mlps = stream.spec().has(Site::MlpOut);
    for layer in (0..dims.n_layers).filter(|_| with_mlps) {
        labels.push(format!("{layer}_mlp_out"));
        parts.push(stream.read(Site::MlpOut.at(layer))?.unsqueeze(0)?);
    }
    for (label, site) in stream.embeddings() {
        labels.push(label.into());
        parts.push(stream.read(site)?.unsqueeze(0)?);
    }
    labels.push("bias".into());
    let bias = stream.attention_bias_below(dims.n_layers)?;
    parts.push(bias.broadcast_as((1, stream.len(), dims.d_model))?.contiguous()?);
    stack(&stream, "all parts of the residual stream", labels, &parts)
}

fn head_labels(stream: &Stream) -> Vec<String> {
    let heads = stream.model.heads().filter(|head| head.stack == stream.stack());
    heads.map(|head| head.to_string()).collect()
}

/// What each head wrote `[head, position, d_model]`, attention by attention and layer by layer.
fn of_all_heads(stream: &Stream) -> Result<Vec<Tensor>> {
    let layers = 0..stream.spec().dims.n_layers;
    let each = layers.flat_map(|layer| stream.spec().attentions().map(move |attn| (layer, attn)));
    each.map(|(layer, attn)| stream.heads(layer, attn, None)).collect()
}

/// Fails where there is no memory for so many components, first one by one and then together.
fn stack_fits(stream: &Stream, components: usize) -> Result<()> {
    let numbers = floats([2, components, stream.len(), stream.model.dims().d_model]);
    stream.has_room(&format!("a stack of {components} components"), numbers)
}

fn stack(stream: &Stream, name: &str, labels: Vec<String>, parts: &[Tensor]) -> Result<NamedTensor> {
    let axes = vec![
        Axis::labelled("component", labels),
        stream.position_axis(),
        Axis::unlabelled("d_model", stream.model.dims().d_model),
    ];
    NamedTensor::new(name, Tensor::cat(parts, 0)?, axes)
}

/// A stack of components `[component, position, d_model]` as the last norm of the run scaled their sum: each is centred
/// (where the norm centres), divided by `ln_final.hook_scale` at its position, and multiplied by the norm's gain where the model is not folded.
/// The norm's bias is added to no component: it is in [`logit_bias`].
///
/// Times a direction of `W_U` each gives its share of that logit. On a folded model this is TransformerLens's
/// `apply_ln_to_stack`, which expects one.
///
/// Fails for several inputs, for a run of another model or without `ln_final.hook_scale`, and for a stack of other axes.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?.folded()?;
/// let run = model.run_with_cache("the cat sat")?;
/// let normalized = apply_ln_to_stack(&model, &decompose_resid(&run)?, &run)?.sum("component")?;
/// let expected = run.get("ln_final.hook_normalized")?;
/// assert!((normalized.value(&[2, 0])? - expected.value(&[2, 0])?).abs() < 1e-3);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn apply_ln_to_stack(model: &Model, stack: &NamedTensor, run: &Run) -> Result<NamedTensor> {
    let stream = Stream::new(model, run)?;
    let values = check_stack(&stream, stack)?;
    stream.has_room("a stack as the last norm scales it", floats(stack.shape().into_iter().chain([2])))?;
    let scaled = stream.divide_by_scale(&stream.as_normed(&values, 2)?, Site::LnFinalScale)?;
    let scaled = match stream.norm_params(Param::LnFinal, 0)?.0 {
        Some(gain) => scaled.broadcast_mul(&gain)?,
        None => scaled,
    };
    NamedTensor::new(format!("{}, normalized", stack.name()), scaled, stack.axes().to_vec())
}

fn check_stack(stream: &Stream, stack: &NamedTensor) -> Result<Tensor> {
    let shape = stack.shape();
    if stack.axis_names() != STACK_AXES || shape[1..] != [stream.len(), stream.model.dims().d_model] {
        return Err(Error::new(
            ErrorKind::Axes,
            format!(
                "`{}` has axes [{}] of shape {shape:?}; a stack of this run has [{}], {} positions and d_model {}",
                stack.name(),
                stack.axis_names().join(", "),
                STACK_AXES.join(", "),
                stream.len(),
                stream.model.dims().d_model
            ),
        )
        .help("give what decompose_resid, accumulated_resid, stack_head_results or full_resid_decomposition made of this run"));
    }
    Ok(stack.tensor().to_device(stream.model.device())?.contiguous()?)
}

/// What each component says directly, at each position, for the logit of `correct`, or for that minus the logit of
/// `incorrect` `[component, position]`. The stack is as it lies in the stream: [`apply_ln_to_stack`] is part of this.
///
/// The components of a whole decomposition and [`logit_bias`] sum to the logit (difference) of the run.
///
/// Fails as [`apply_ln_to_stack`] does, and for tokens out of range.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat on the")?;
/// let (cat, sat) = (model.to_single_token(" cat")?, model.to_single_token(" sat")?);
/// let said = logit_attrs(&model, &decompose_resid(&run)?, &run, cat, sat)?;
/// println!("{:?}", said.select("position", 5)?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn logit_attrs(
    model: &Model,
    stack: &NamedTensor,
    run: &Run,
    correct: u32,
    incorrect: impl Into<Option<u32>>,
) -> Result<NamedTensor> {
    let incorrect = incorrect.into();
    let stream = Stream::new(model, run)?;
    let values = check_stack(&stream, stack)?;
    let direction = LogitDirection::before_last_norm(model, correct, incorrect)?;
    let read = through_all(&values, &direction.column.unsqueeze(1)?)?; // [component, position, 1]
    let said = stream.divide_by_scale(&read, Site::LnFinalScale)?.squeeze(D::Minus1)?;
    NamedTensor::new(format!("{} by component", direction.name), said, stack.axes()[..2].to_vec())
}

/// What no component says for a logit (or a difference of two), whatever the input: `b_U`, and the last norm's bias
/// through `W_U` where the model is not folded.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat on the")?;
/// let cat = model.to_single_token(" cat")?;
/// let said = logit_attrs(&model, &decompose_resid(&run)?, &run, cat, None)?.sum("component")?;
/// let logit = said.value(&[5])? + logit_bias(&model, cat, None)?;
/// assert!((logit - run.logits()?.value(&[5, cat as usize])?).abs() < 1e-3);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn logit_bias(model: &Model, correct: u32, incorrect: impl Into<Option<u32>>) -> Result<f32> {
    Ok(LogitDirection::before_last_norm(model, correct, incorrect.into())?.bias as f32)
}

/// What each head says directly for the logit of `correct`, or for that minus the logit of `incorrect`, at the last
/// position `[layer, head]`.
///
/// Fails for several inputs, for a run of another model, where the run did not keep `hook_z` and `ln_final.hook_scale`,
/// and for tokens out of range.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat on the")?;
/// let (cat, sat) = (model.to_single_token(" cat")?, model.to_single_token(" sat")?);
/// println!("{:?}", head_logit_attribution(&model, &run, cat, sat)?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn head_logit_attribution(
    model: &Model,
    run: &Run,
    correct: u32,
    incorrect: impl Into<Option<u32>>,
) -> Result<HeadGrid> {
    let (name, all) = of_heads(model, run, correct, incorrect.into())?;
    let last = all.dim(2)? - 1;
    let name = format!("{name} by head, at the last position");
    let spec = model.spec().read_out("this")?;
    let values = all.narrow(2, last, 1)?.flatten_all()?.to_vec1::<f32>()?;
    let panels: Vec<_> = spec.head_panels().collect();
    HeadGrid::of_attentions(&name, &panels, &values)
}

/// As [`head_logit_attribution`], at each position `[layer, head, position]`; heads of cross-attention, `X0`, ..., stand behind the
/// others of their layer.
pub fn head_logit_attribution_by_position(
    model: &Model,
    run: &Run,
    correct: u32,
    incorrect: impl Into<Option<u32>>,
) -> Result<NamedTensor> {
    let (name, all) = of_heads(model, run, correct, incorrect.into())?;
    let stream = Stream::through_norms(model, run)?;
    let spec = stream.spec();
    let n_layers = spec.dims.n_layers;
    let heads = spec.attentions().flat_map(|attn| numbered(attn.letter(), spec.dims.n_heads));
    let heads = Axis::labelled("head", heads.collect::<Vec<_>>());
    // Attention by attention, and so layer by layer.
    let each = all.chunk(spec.attentions().count(), 0)?;
    let all = Tensor::cat(&each, 1)?; // [layer, head, position]
    let axes = vec![layer_axis(spec.stack, n_layers), heads, stream.position_axis()];
    NamedTensor::new(format!("{name} by head and position"), all, axes)
}

/// What each head says `[attention and layer, head, position]`, attention by attention.
fn of_heads(model: &Model, run: &Run, correct: u32, incorrect: Option<u32>) -> Result<(String, Tensor)> {
    model.spec().any_decoder("what heads write to logits")?;
    model.spec().adds_heads("what heads write to logits")?;
    let stream = Stream::through_norms(model, run)?;
    let direction = LogitDirection::unembedded(model, correct, incorrect)?;
    let len = stream.len();
    let mut way = Way::new(stream, 0..len)?;
    way.begin(&direction.column, direction.bias, 1.0)?;
    let mut found = Vec::new();
    way.walk(|way, written| {
        if let Written::Attention { layer, attn } = written {
            progress::check("taking the stream apart")?;
            found.push(((attn, layer), way.heads(layer, attn)?));
        }
        Ok(())
    })?;
    found.sort_by_key(|(at, _)| *at);
    let all: Vec<Tensor> = found.into_iter().map(|(_, said)| said).collect();
    Ok((direction.name, Tensor::stack(&all, 0)?))
}

/// What reads one logit, or the difference of two.
pub(crate) struct LogitDirection {
    pub(crate) name: String,
    /// What is multiplied `[d_model]`.
    pub(crate) column: Tensor,
    pub(crate) bias: f64,
}

impl LogitDirection {
    /// From what is unembedded.
    pub(crate) fn unembedded(model: &Model, correct: u32, incorrect: Option<u32>) -> Result<Self> {
        let tokens: Vec<u32> = std::iter::once(correct).chain(incorrect).collect();
        check_ids(&tokens, model.dims().d_vocab)?;
        let (w_u, b_u) = (model.unembedding()?, model.required_param(Stack::Main, Param::UnembedBias, 0)?);
        let of = |id: u32| -> Result<(Tensor, f64)> {
            let column = w_u.index_columns(&[id])?.squeeze(1)?.contiguous()?; // [d_model]
            Ok((column, b_u.get(id as usize)?.to_scalar::<f32>()?.into()))
        };
        let (mut column, mut bias) = of(correct)?;
        if let Some(incorrect) = incorrect {
            let (other, other_bias) = of(incorrect)?;
            (column, bias) = ((column - other)?, bias - other_bias);
        }
        let labels: Vec<String> = model.labels(&tokens).iter().map(|label| format!("{label:?}")).collect();
        let name = match labels.as_slice() {
            [one] => format!("logit of {one}"),
            many => format!("logit difference {}", many.join(" - ")),
        };
        Ok(LogitDirection { name, column, bias })
    }

    /// From the stream before the last norm: with its gain; where it centres, without its mean, so that it reads no component's mean.
    fn before_last_norm(model: &Model, correct: u32, incorrect: Option<u32>) -> Result<Self> {
        let LogitDirection { name, mut column, mut bias } =
            LogitDirection::unembedded(model, correct, incorrect)?;
        let StackSpec { stack, norm, .. } = *model.spec().sum_of_parts("what is written to logits")?;
        let (gain, norm_bias) = model.norm_params(stack, Param::LnFinal, 0)?;
        if let Some(norm_bias) = norm_bias {
            bias += f64::from((norm_bias * &column)?.sum_all()?.to_scalar::<f32>()?);
        }
        if let Some(gain) = gain {
            column = (column * gain)?;
        }
        Ok(LogitDirection { name, column: as_normed(norm, &column, 0)?, bias })
    }
}
