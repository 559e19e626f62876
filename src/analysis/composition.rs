//! Composition scores: how far one head's output is what a later head's queries, keys or values read (Elhage et al. 2021,
//! "A Mathematical Framework for Transformer Circuits").

use std::f64::consts::TAU;
use std::fmt;

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::circuit::{CircuitKind, layer_factors};
use crate::error::{Error, ErrorKind, Result};
use crate::figure::drawn;
use crate::hook::{Head, head};
use crate::model::Model;
use crate::named::{Axis, Meaning, Named};
use crate::network::Dims;
use crate::progress::{Progress, check_stop};
use crate::view::{Drawn, View};

/// What of the later head reads the earlier one's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Composition {
    /// Its queries.
    Q,
    /// Its keys, as in an induction head.
    K,
    /// Its values.
    V,
}

/// How far each head composes with each head of a later layer: `|OV C| / (|OV| |C|)`, Frobenius norms, where OV is the
/// earlier head's circuit and C the later one's: QK for Q, QK transposed for K, OV for V.
#[derive(Clone)]
pub struct CompositionScores {
    kind: Composition,
    scores: Named,
    baseline: Baseline,
}

/// The score of heads that are random: Gaussian weights of the same shapes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Baseline {
    /// The mean over draws.
    pub mean: f64,
    /// The standard deviation over draws.
    pub std: f64,
}

impl CompositionScores {
    /// What composes.
    pub fn kind(&self) -> Composition {
        self.kind
    }

    /// The scores `[layer, head, later layer, later head]`, NaN where the second layer is not later.
    pub fn named(&self) -> &Named {
        &self.scores
    }

    /// What random heads would score.
    pub fn baseline(&self) -> Baseline {
        self.baseline
    }

    /// The score of an earlier head with a later one. Fails if either does not exist, or is not earlier or later.
    pub fn score(&self, earlier: Head, later: Head) -> Result<f32> {
        let shape = self.scores.shape();
        for head in [earlier, later] {
            head.check(shape[0], shape[1])?;
        }
        if earlier.layer >= later.layer {
            return Err(Error::new(
                ErrorKind::Address,
                format!("{later} reads nothing that {earlier} wrote"),
            )
            .help("name the head of the earlier layer first"));
        }
        self.scores.value(&[earlier.layer, earlier.head, later.layer, later.head])
    }

    /// All pairs of an earlier and a later head, the highest score first.
    pub fn ranked(&self) -> Result<Vec<(Head, Head, f32)>> {
        let n_heads = self.scores.shape()[1];
        let values = self.scores.to_vec()?;
        let all = (values.len() as f64).sqrt() as usize;
        let at = |index: usize| head(index / n_heads, index % n_heads);
        let mut ranked: Vec<(Head, Head, f32)> = (values.iter().enumerate())
            .filter(|(_, score)| !score.is_nan())
            .map(|(i, &score)| (at(i / all), at(i % all), score))
            .collect();
        ranked.sort_by(|a, b| b.2.total_cmp(&a.2));
        Ok(ranked)
    }

    /// The scores as one picture `[earlier head, later head]`, without the last layer's rows and the first one's
    /// columns, which would be empty.
    pub fn heatmap(&self) -> Result<Named> {
        let shape = self.scores.shape();
        let (n_layers, n_heads) = (shape[0], shape[1]);
        let pairs = (n_layers - 1) * n_heads;
        let all = self.scores.tensor().reshape((n_layers * n_heads, n_layers * n_heads))?;
        let tensor = all.narrow(0, 0, pairs)?.narrow(1, n_heads, pairs)?.contiguous()?;
        let labels = |first: usize| -> Vec<String> {
            (0..pairs).map(|i| head(first + i / n_heads, i % n_heads).to_string()).collect()
        };
        let axes = vec![Axis::labelled("earlier head", labels(0)), Axis::labelled("later head", labels(1))];
        let Baseline { mean, std } = self.baseline;
        let name = format!("{:?}-composition (random heads: {mean:.3} ± {std:.3})", self.kind);
        Ok(Named::new(name, tensor, axes)?.with_meaning(Meaning::Magnitude))
    }
}

impl fmt::Debug for CompositionScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranked = self.ranked().map_err(|_| fmt::Error)?;
        let best: Vec<String> = (ranked.iter().take(5))
            .map(|(earlier, later, score)| format!("{earlier} to {later} {score:.3}"))
            .collect();
        let Baseline { mean, std } = self.baseline;
        write!(f, "{:?}-composition, random {mean:.3} ± {std:.3}: {} ...", self.kind, best.join(", "))
    }
}

impl Drawn for CompositionScores {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Heatmap(self.heatmap()?)])
    }
}

drawn!(CompositionScores);

/// Scores every pair of an earlier and a later head, in f64, and random heads for comparison (always the same ones).
/// Products of the factors' Gram matrices stand for the circuits: GPT-2 small takes seconds and some 60 MB.
///
/// Where positions turn queries and keys, QK is that of a key at the query's own position, as in TransformerLens. Where query
/// heads share keys and values, each query head has them as its own.
///
/// Take a [`folded`](Model::folded) model, so that what the later head reads has the layer norm's gain in it. Fails for
/// a model of one layer.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?.folded()?;
/// let scores = composition_scores(&model, Composition::K)?;
/// println!("{scores:?}");
/// assert!(scores.score(head(0, 0), head(1, 0))? > 0.0);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn composition_scores(model: &Model, kind: Composition) -> Result<CompositionScores> {
    let Dims { n_layers, n_heads, d_model, d_head, .. } = *model.dims();
    if n_layers < 2 {
        return Err(Error::new(
            ErrorKind::Input,
            format!("{} has one layer: no head reads another", model.name()),
        )
        .help("composition takes at least two layers"));
    }
    let progress = Progress::new("composing heads", n_layers * (n_layers - 1) / 2);
    let grams = |layer| {
        check_stop()?;
        Grams::new(&later_factors(model, layer, kind)?)
    };
    let later: Vec<Grams> = (0..n_layers).map(grams).collect::<Result<_>>()?;
    let mut scores = vec![f32::NAN; (n_layers * n_heads).pow(2)];
    for layer in 0..n_layers - 1 {
        let written = f64s(layer_factors(model, layer, CircuitKind::Ov)?)?;
        let grams = Grams::new(&written)?;
        for (later_layer, later_grams) in later.iter().enumerate().skip(layer + 1) {
            let read = later_factors(model, later_layer, kind)?;
            let found = composed(&written.1, &grams, &read.0, later_grams)?; // (H, H)
            for (index, score) in found.into_iter().enumerate() {
                let (row, column) =
                    (layer * n_heads + index / n_heads, later_layer * n_heads + index % n_heads);
                scores[row * n_layers * n_heads + column] = score as f32;
            }
            progress.advance(1)?;
        }
    }
    let axes = vec![
        model.layer_axis(),
        model.head_axis(),
        model.layer_axis().renamed("later layer"),
        model.head_axis().renamed("later head"),
    ];
    let scores =
        Named::from_vec(format!("{kind:?}-composition"), scores, axes)?.with_meaning(Meaning::Magnitude);
    Ok(CompositionScores { kind, scores, baseline: baseline(d_model, d_head)? })
}

/// What of a circuit's factors A `[head, d_model, d_head]` and B `[head, d_head, d_model]` enters the norm of a product.
struct Grams {
    left: Tensor,  // A^T A (H, D, D)
    right: Tensor, // B B^T (H, D, D)
    norms: Vec<f64>,
}

impl Grams {
    fn new((left, right): &(Tensor, Tensor)) -> Result<Grams> {
        let left = left.transpose(1, 2)?.contiguous()?.matmul(left)?;
        let right = right.matmul(&right.transpose(1, 2)?.contiguous()?)?;
        let squares = (&left * &right)?.sum((1, 2))?.to_vec1::<f64>()?;
        Ok(Grams { left, right, norms: squares.into_iter().map(|square| square.max(0.0).sqrt()).collect() })
    }
}

/// The score of each earlier head with each later one, row by row. With A1 B1 the earlier head's circuit, A2 B2 the later
/// one's, and M = B1 A2, the squared norm of A1 B1 A2 B2 is the trace of (A1^T A1) M (B2 B2^T) M^T.
fn composed(written: &Tensor, earlier: &Grams, read: &Tensor, later: &Grams) -> Result<Vec<f64>> {
    let (heads, d_head, d_model) = written.dims3()?;
    let (later_heads, _, _) = read.dims3()?;
    let read = read.transpose(0, 1)?.reshape((d_model, later_heads * d_head))?;
    let met = written.reshape((heads * d_head, d_model))?.matmul(&read)?; // (HD, HD)
    let met = met.reshape((heads, d_head, later_heads, d_head))?.transpose(1, 2)?.contiguous()?; // (H, H, D, D)
    let from = earlier.left.unsqueeze(1)?.broadcast_matmul(&met)?;
    let to = met.broadcast_matmul(&later.right.unsqueeze(0)?)?;
    let squares = (from * to)?.sum((2, 3))?.to_vec2::<f64>()?;
    let mut scores = Vec::with_capacity(heads * later_heads);
    for (row, norm) in squares.iter().zip(&earlier.norms) {
        for (square, later_norm) in row.iter().zip(&later.norms) {
            let apart = norm * later_norm;
            // A head that does nothing composes with nothing.
            scores.push(if apart > 0.0 { square.max(0.0).sqrt() / apart } else { 0.0 });
        }
    }
    Ok(scores)
}

/// The factors of what the later heads read with, in f64.
fn later_factors(model: &Model, layer: usize, kind: Composition) -> Result<(Tensor, Tensor)> {
    f64s(match kind {
        Composition::Q => layer_factors(model, layer, CircuitKind::Qk)?,
        Composition::K => {
            let (left, right) = layer_factors(model, layer, CircuitKind::Qk)?;
            (right.transpose(1, 2)?, left.transpose(1, 2)?)
        }
        Composition::V => layer_factors(model, layer, CircuitKind::Ov)?,
    })
}

fn f64s((left, right): (Tensor, Tensor)) -> Result<(Tensor, Tensor)> {
    let f64s = |tensor: Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.contiguous();
    Ok((f64s(left)?, f64s(right)?))
}

/// The scores of random heads, drawn from a fixed seed.
fn baseline(d_model: usize, d_head: usize) -> Result<Baseline> {
    const HEADS: usize = 6;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut gaussian = |rows: usize, columns: usize| -> Result<Tensor> {
        let mut one = || {
            // Box and Muller 1958; 1 - u is never 0.
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            radius * (TAU * rng.random::<f64>()).cos()
        };
        let values: Vec<f64> = (0..HEADS * rows * columns).map(|_| one()).collect();
        Ok(Tensor::from_vec(values, (HEADS, rows, columns), &Device::Cpu)?)
    };
    let mut factors =
        || -> Result<(Tensor, Tensor)> { Ok((gaussian(d_model, d_head)?, gaussian(d_head, d_model)?)) };
    let (earlier, later) = (factors()?, factors()?);
    let scores = composed(&earlier.1, &Grams::new(&earlier)?, &later.0, &Grams::new(&later)?)?;
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / (scores.len() - 1) as f64;
    Ok(Baseline { mean, std: variance.sqrt() })
}
