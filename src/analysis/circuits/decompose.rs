//! A head's attention scores split by what its query and its key were made of (Elhage et al. 2021, "A Mathematical
//! Framework for Transformer Circuits"; as in ARENA's course, chapter 1.2).

use candle_core::Tensor;
use rayon::prelude::*;

use crate::analysis::residual::stream::{Stream, through_all};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Site};
use crate::memory::floats;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind, numbered};
use crate::network::param::Param;
use crate::network::parts::attention::Projection;
use crate::progress::Progress;

/// How many numbers a decomposition may have: 200 MB.
const MOST: usize = 50_000_000;

/// The scores of a head before the softmax, as sums over what the query's stream and the key's stream consist of
/// `[query component, key component, query, key]`. They are scaled as the head scales them (by 1/sqrt(d_head) in GPT-2),
/// so their sum over both components is `attn.hook_attn_scores`; cells that the mask hides are -inf in every component,
/// as there.
///
/// Components are `embed`, `pos_embed` (where positions are embedded), each head (`L0H0`) and MLP (`0_mlp_out`) of the layers
/// below, and `bias`: what does not depend on the input, which is their `b_O`, the bias of ln1, and `b_Q` or `b_K`. Where
/// positions turn queries and keys, each component's share is turned. ln1 is taken at the scale
/// that it had in the run, so it is linear. What an edit put into the stream itself is in no component.
///
/// Fails for several inputs, for a run of another model, where the run did not keep these hooks and `ln1.hook_scale`, for a
/// model that norms each head's queries and keys (Qwen3), and where there would be more than 50 million numbers; [`attn_score_spread`] has no such limit.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat the cat")?;
/// let scores = decompose_attn_scores(&model, &run, head(1, 4))?;
/// let by_key = scores.sum("query component")?; // what each component adds to the keys
/// assert_eq!(by_key.axis_names(), ["key component", "query", "key"]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn decompose_attn_scores(model: &Model, run: &Run, head: Head) -> Result<NamedTensor> {
    let parts = Parts::new(model, run, head)?;
    let (count, len) = (parts.labels.len(), parts.stream.len());
    fits(head, count, len)?;
    parts.stream.has_room("scores by component", floats([3, count, len, count, len]))?;
    let [queries, keys] = parts.project()?;
    let rows = queries.reshape((count * len, ()))?;
    let columns = keys.reshape((count * len, ()))?.t()?;
    let scores = rows.matmul(&columns)?.reshape((count, len, count, len))?.permute((0, 2, 1, 3))?;
    let scores = scores.contiguous()?;
    let scores = match model.scoring(head)?.mask(len, len, model.device())? {
        Some(mask) => scores.broadcast_add(&mask)?,
        None => scores,
    };
    let mut axes = parts.axes();
    axes.extend([parts.stream.position_axis().renamed("query"), parts.stream.position_axis().renamed("key")]);
    NamedTensor::new(format!("attention scores of {head} by component"), scores, axes)
}

/// How much each pair of components matters to where a head looks: the standard deviation of their share of its scores
/// over the cells that the mask leaves `[query component, key component]`. See [`decompose_attn_scores`]; a share that is
/// the same everywhere moves no attention.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat the cat")?;
/// println!("{:?}", attn_score_spread(&model, &run, head(1, 4))?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn attn_score_spread(model: &Model, run: &Run, head: Head) -> Result<NamedTensor> {
    let parts = Parts::new(model, run, head)?;
    let (count, len) = (parts.labels.len(), parts.stream.len());
    let numbers = floats([2 * rayon::current_num_threads(), len, len]);
    parts.stream.has_room("the spread of scores by component", numbers)?;
    let [queries, keys] = parts.project()?;
    let window = model.scoring(head)?.window.unwrap_or(len);
    let progress = Progress::new("splitting attention scores", count);
    let mut spread = Vec::with_capacity(count * count);
    for component in 0..count {
        let query = queries.get(component)?;
        let of = |key: usize| -> Result<f32> {
            let share = query.matmul(&keys.get(key)?.t()?)?; // [query, key]
            Ok(standard_deviation_of_seen(&share.flatten_all()?.to_vec1()?, len, window))
        };
        spread.extend((0..count).into_par_iter().map(of).collect::<Result<Vec<f32>>>()?);
        progress.advance(1)?;
    }
    let name = format!("spread of {head}'s attention scores by component (standard deviation)");
    Ok(NamedTensor::from_vec(name, spread, parts.axes())?.with_value_kind(ValueKind::Magnitude))
}

/// Fails where a split over `count` components a side of scores on `len` tokens is too large to make.
fn fits(head: Head, count: usize, len: usize) -> Result<()> {
    let numbers = (count * len).saturating_mul(count * len);
    if numbers <= MOST {
        return Ok(());
    }
    let longest = MOST.isqrt() / count;
    let what = format!(
        "{head}'s scores on {len} tokens, split over {count} components a side, are {numbers} numbers"
    );
    Err(Error::new(ErrorKind::Input, what).help(format!(
        "at most {MOST} are made: give up to {longest} tokens, or use `attn_score_spread`, which sums them up"
    )))
}

/// The standard deviation of the cells of a square `[query, key]` whose key is not ahead of its query, nor as far behind it
/// as the window is wide.
fn standard_deviation_of_seen(square: &[f32], len: usize, window: usize) -> f32 {
    let count = (0..len).map(|query| (query + 1).min(window)).sum::<usize>() as f64;
    let mean = sum_of_rows(square, len, window, |cell| cell) / count;
    let shift = mean as f32;
    (sum_of_rows(square, len, window, |cell| (cell - shift) * (cell - shift)) / count).sqrt() as f32
}

/// The sum of a term over the same cells.
fn sum_of_rows(square: &[f32], len: usize, window: usize, term: impl Fn(f32) -> f32) -> f64 {
    let sum = |(query, row): (usize, &[f32])| {
        let (chunks, rest) = row[(query + 1).saturating_sub(window)..=query].as_chunks::<16>();
        // Lanes, so that many cells are added at once.
        let mut lanes = [0f32; 16];
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(lane, &cell)| *lane += term(cell));
        }
        f64::from(lanes.iter().sum::<f32>() + rest.iter().map(|&cell| term(cell)).sum::<f32>())
    };
    square.chunks_exact(len).enumerate().map(sum).sum()
}

/// What the stream consists of where a head reads it.
struct Parts<'a> {
    stream: Stream<'a>,
    head: Head,
    labels: Vec<String>,
}

impl<'a> Parts<'a> {
    fn new(model: &'a Model, run: &'a Run, head: Head) -> Result<Self> {
        model.spec().only_stack("what attention scores are made of")?;
        let stream = Stream::new(model, run)?;
        let dims = model.spec().sum_of_heads("what attention scores are made of")?.dims;
        model.spec().check_head(head)?;
        if model.scoring(head)?.is_normed() {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "{} norms the queries and keys of each head: its scores are no sum of parts",
                    model.name()
                ),
            )
            .help("`decompose_resid` and `logit_attrs` take apart what is linear"));
        }
        let mut labels: Vec<String> =
            stream.embeddings().into_iter().map(|(label, _)| label.to_string()).collect();
        for layer in 0..head.layer {
            labels.extend(numbered(&format!("L{layer}H"), dims.n_heads));
            if model.spec().has(Site::MlpOut) {
                labels.push(format!("{layer}_mlp_out"));
            }
        }
        labels.push("bias".into());
        Ok(Parts { stream, head, labels })
    }

    fn axes(&self) -> Vec<Axis> {
        let of = |name| Axis::labelled(name, self.labels.clone());
        vec![of("query component"), of("key component")]
    }

    /// What each component adds to the head's queries, scaled as scores are, and to its keys, each
    /// `[component, position, d_head]`.
    fn project(&self) -> Result<[Tensor; 2]> {
        let queries = (self.through(Projection::Q)? * self.stream.model.scoring(self.head)?.scale)?;
        Ok([queries, self.through(Projection::K)?])
    }

    fn through(&self, part: Projection) -> Result<Tensor> {
        let Head { layer, head, .. } = self.head;
        let stream = &self.stream;
        let of_head =
            |param: Param| -> Result<Tensor> { Ok(stream.param(param, layer)?.get(head)?.contiguous()?) };
        let (weight, bias) = (of_head(Param::Weight(part))?, of_head(Param::Bias(part))?); // [d_model, d_head], [d_head]
        let (gain, norm_bias) = stream.norm_params(Param::Ln1, layer)?;
        // Centring what is read is centring what reads it.
        let read = match gain {
            Some(gain) => stream.as_normed(&weight.broadcast_mul(&gain.unsqueeze(1)?)?, 0)?,
            None => stream.as_normed(&weight, 0)?,
        };
        let mut constant = bias.unsqueeze(0)?;
        if let Some(norm_bias) = norm_bias {
            constant = (constant + norm_bias.unsqueeze(0)?.matmul(&weight)?)?;
        }
        let one = |x: Tensor| through_all(&x.unsqueeze(0)?, &read);
        let mut parts = Vec::new();
        for (_, site) in stream.embeddings() {
            parts.push(one(stream.read(site)?)?);
        }
        for below in 0..layer {
            parts.push(stream.heads(below, Attn::Own, Some(&read))?);
            if stream.model.spec().has(Site::MlpOut) {
                parts.push(one(stream.read(Site::MlpOut.at(below))?)?);
            }
        }
        let scale = Site::Ln1Scale.at(layer);
        let outputs = stream.attention_bias_below(layer)?.unsqueeze(0)?.matmul(&read)?; // [1, d_head]
        let outputs = outputs.broadcast_as((stream.len(), outputs.dim(1)?))?; // [position, d_head]
        let biases = stream.divide_by_scale(&outputs, scale)?.broadcast_add(&constant)?.unsqueeze(0)?;
        let scaled = stream.divide_by_scale(&Tensor::cat(&parts, 0)?, scale)?;
        let all = Tensor::cat(&[scaled, biases], 0)?; // [component, position, d_head]
        Ok(match &stream.model.scoring(self.head)?.rotary {
            Some(rotary) => rotary.rotate(&all.unsqueeze(2)?, 0)?.squeeze(2)?,
            None => all,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::fits;
    use crate::hook::head;

    #[test]
    fn the_length_that_is_offered_fits_and_one_more_does_not() {
        // GPT-2 small's last layer.
        assert!(fits(head(11, 0), 146, 48).is_ok());
        let error = fits(head(11, 0), 146, 49).unwrap_err().to_string();
        for fragment in ["L11H0", "49 tokens", "up to 48 tokens", "attn_score_spread"] {
            assert!(error.contains(fragment), "`{fragment}` is not in: {error}");
        }
    }
}
