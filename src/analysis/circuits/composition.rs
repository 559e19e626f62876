//! Composition scores: how far one head's output is what a later head's queries, keys or values read (Elhage et al. 2021,
//! "A Mathematical Framework for Transformer Circuits").

use std::fmt;

use candle_core::{DType, Device, Storage, Tensor};
use nalgebra::DMatrix;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::analysis::circuits::circuit::{CircuitKind, layer_factors};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Head, head};
use crate::memory;
use crate::memory::floats;
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::cpu::{affine, sum_of_products};
use crate::network::dims::Dims;
use crate::network::tap::not_reached;
use crate::progress::{Progress, check_stop};
use crate::random::normal;
use crate::view::{View, Visualize};

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
    scores: NamedTensor,
    baseline: CompositionBaseline,
}

/// The score of heads that are random: Gaussian weights of the same shapes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompositionBaseline {
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
    pub fn values(&self) -> &NamedTensor {
        &self.scores
    }

    /// What random heads would score.
    pub fn baseline(&self) -> CompositionBaseline {
        self.baseline
    }

    /// The score of an earlier head with a later one. Fails if either does not exist, or is not earlier or later.
    pub fn score(&self, earlier: Head, later: Head) -> Result<f32> {
        let shape = self.scores.shape();
        for head in [earlier, later] {
            head.check(shape[0], shape[1], "model")?;
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
    pub fn heatmap(&self) -> Result<NamedTensor> {
        let shape = self.scores.shape();
        let (n_layers, n_heads) = (shape[0], shape[1]);
        let pairs = (n_layers - 1) * n_heads;
        let all = self.scores.tensor().reshape((n_layers * n_heads, n_layers * n_heads))?;
        let tensor = all.narrow(0, 0, pairs)?.narrow(1, n_heads, pairs)?.contiguous()?;
        let labels = |first: usize| -> Vec<String> {
            (0..pairs).map(|i| head(first + i / n_heads, i % n_heads).to_string()).collect()
        };
        let axes = vec![Axis::labelled("earlier head", labels(0)), Axis::labelled("later head", labels(1))];
        let CompositionBaseline { mean, std } = self.baseline;
        let name = format!("{:?}-composition (random heads: {mean:.3} ± {std:.3})", self.kind);
        Ok(NamedTensor::new(name, tensor, axes)?.with_value_kind(ValueKind::Magnitude))
    }
}

impl fmt::Debug for CompositionScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranked = self.ranked().map_err(|_| fmt::Error)?;
        let best: Vec<String> = (ranked.iter().take(5))
            .map(|(earlier, later, score)| format!("{earlier} to {later} {score:.3}"))
            .collect();
        let CompositionBaseline { mean, std } = self.baseline;
        write!(f, "{:?}-composition, random {mean:.3} ± {std:.3}: {} ...", self.kind, best.join(", "))
    }
}

impl Visualize for CompositionScores {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Heatmap(self.heatmap()?)])
    }
}

/// Scores every pair of an earlier and a later head, and random heads for comparison (always the same ones). Roots of the
/// factors' Gram matrices stand for the circuits: GPT-2 small takes less than a second and some 80 MB.
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
    model.spec().only_stack("composition")?;
    model.spec().sum_of_heads("composition")?;
    let Dims { n_layers, n_heads, d_model, d_head, .. } = *model.dims();
    if n_layers < 2 {
        return Err(Error::new(
            ErrorKind::Input,
            format!("{} has one layer: no head reads another", model.name()),
        )
        .help("composition takes at least two layers"));
    }
    let width = n_heads * d_head;
    let needed = floats([2 * n_layers, width, d_model])
        // The factors of those that are made at once in f64, and their products.
        .saturating_add(floats([rayon::current_num_threads(), width, 4 * d_model + width]))
        .saturating_add(floats([2, n_layers * n_heads, n_layers * n_heads]));
    memory::check(model.device(), needed, || {
        (
            format!("composition of {} heads", n_layers * n_heads),
            "let go of other models, or take a smaller one",
        )
    })?;
    let progress = Progress::new("composing heads", n_layers * (n_layers - 1) / 2);
    let halves = (0..n_layers - 1).into_par_iter().map(|layer| {
        let earlier = GramFactor::earlier(&layer_factors(model, head(layer, 0), CircuitKind::Ov)?)?;
        Ok((earlier, GramFactor::later(&later_factors(model, layer + 1, kind)?)?))
    });
    let halves = || halves.collect::<Result<Vec<_>>>();
    let (halves, baseline) = rayon::join(halves, || baseline(d_model, d_head));
    let (earlier, later): (Vec<GramFactor>, Vec<GramFactor>) = halves?.into_iter().unzip();
    let pairs: Vec<(usize, usize)> =
        (1..n_layers).flat_map(|later| (0..later).map(move |layer| (layer, later))).collect();
    let mut scores = vec![f32::NAN; (n_layers * n_heads).pow(2)];
    for some in pairs.chunks(8 * rayon::current_num_threads()) {
        let composed = some.par_iter().map(|&(layer, later_layer)| {
            check_stop()?;
            earlier[layer].composed_with(&later[later_layer - 1])
        });
        for (&(layer, later_layer), composed) in some.iter().zip(composed.collect::<Result<Vec<_>>>()?) {
            for (index, score) in composed.into_iter().enumerate() {
                let (row, column) =
                    (layer * n_heads + index / n_heads, later_layer * n_heads + index % n_heads);
                scores[row * n_layers * n_heads + column] = score as f32;
            }
        }
        progress.advance(some.len())?;
    }
    let axes = vec![
        model.layer_axis(),
        model.head_axis(),
        model.layer_axis().renamed("later layer"),
        model.head_axis().renamed("later head"),
    ];
    let scores = NamedTensor::from_vec(format!("{kind:?}-composition"), scores, axes)?
        .with_value_kind(ValueKind::Magnitude);
    Ok(CompositionScores { kind, scores, baseline: baseline? })
}

/// What of the circuits A B of a layer's heads enters the norms of products, and the circuits' own norms. With A1 B1 the
/// earlier circuit and A2 B2 the later one, A1^T A1 = L L^T and B2 B2^T = R R^T: the norm of A1 B1 A2 B2 is that of
/// (L^T B1) (A2 R), which is as small as a head, and those of A1 B1 and A2 B2 are those of L^T B1 and A2 R. Gram matrices and
/// roots are made in f64, the products in f32.
struct GramFactor {
    inner: Tensor, // L^T B1 (H D, M), or A2 R (M, H D)
    norms: Vec<f64>,
}

impl GramFactor {
    fn earlier((left, right): &(Tensor, Tensor)) -> Result<GramFactor> {
        check_stop()?;
        let right = right.to_device(&Device::Cpu)?.contiguous()?;
        let inner = roots(left)?.transpose(1, 2)?.contiguous()?.matmul(&right)?; // (H, D, M)
        let norms = norms(&inner)?;
        Ok(GramFactor { inner: inner.flatten_to(1)?, norms })
    }

    fn later((left, right): &(Tensor, Tensor)) -> Result<GramFactor> {
        check_stop()?;
        let left = left.to_device(&Device::Cpu)?.contiguous()?;
        let inner = left.matmul(&roots(&right.transpose(1, 2)?)?)?; // (H, M, D)
        let norms = norms(&inner)?;
        Ok(GramFactor { inner: inner.transpose(0, 1)?.flatten_from(1)?, norms })
    }

    /// The score of each earlier head with each later one, row by row.
    fn composed_with(&self, later: &GramFactor) -> Result<Vec<f64>> {
        let (heads, later_heads) = (self.norms.len(), later.norms.len());
        let products = affine(&self.inner, &later.inner, None)?; // (H D, H D)
        let (rows, columns) = products.dims2()?;
        let (d_head, later_d_head) = (rows / heads, columns / later_heads);
        let (storage, layout) = products.storage_and_layout();
        let (Storage::Cpu(storage), true) = (&*storage, layout.is_contiguous()) else {
            return Err(not_reached());
        };
        let products = storage.as_slice::<f32>()?;
        let mut squares = vec![0f64; heads * later_heads];
        let of_rows = products.par_chunks(d_head * columns).zip(squares.par_chunks_mut(later_heads));
        of_rows.for_each(|(rows, squares)| {
            for row in rows.chunks(columns) {
                for (square, own) in squares.iter_mut().zip(row.chunks(later_d_head)) {
                    *square += f64::from(sum_of_products(own, own));
                }
            }
        });
        let score = |(index, square): (usize, f64)| {
            let apart = self.norms[index / later_heads] * later.norms[index % later_heads];
            // A head that does nothing composes with nothing.
            if apart > 0.0 { square.sqrt() / apart } else { 0.0 }
        };
        Ok(squares.into_iter().enumerate().map(score).collect())
    }
}

/// The Frobenius norm of each head's matrix.
fn norms(heads: &Tensor) -> Result<Vec<f64>> {
    let square = |head: Vec<f32>| head.chunks(64).map(|x| f64::from(sum_of_products(x, x))).sum::<f64>();
    Ok(heads.flatten_from(1)?.to_vec2()?.into_iter().map(|head| square(head).sqrt()).collect())
}

/// L of X^T X = L L^T for each head's X `[head, d_model, d_head]`.
fn roots(x: &Tensor) -> Result<Tensor> {
    let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.contiguous()?;
    let grams = x.t()?.matmul(&x)?; // (H, D, D)
    let (_, _, n) = grams.dims3()?;
    let values = grams.flatten_all()?.to_vec1::<f64>()?;
    let root = |gram: &[f64]| {
        let gram = DMatrix::from_row_slice(n, n, gram);
        let root = match gram.clone().cholesky() {
            Some(cholesky) => cholesky.l(),
            // Without full rank: a head that does little, or nothing.
            None => {
                let eigen = gram.symmetric_eigen();
                let lengths = eigen.eigenvalues.map(|value| value.max(0.0).sqrt());
                eigen.eigenvectors * DMatrix::from_diagonal(&lengths)
            }
        };
        root.transpose().as_slice().to_vec() // row by row
    };
    let roots: Vec<f64> = values.par_chunks(n * n).flat_map_iter(root).collect();
    Ok(Tensor::from_vec(roots, grams.dims(), &Device::Cpu)?.to_dtype(DType::F32)?)
}

/// The factors of what the later heads read with.
fn later_factors(model: &Model, layer: usize, kind: Composition) -> Result<(Tensor, Tensor)> {
    Ok(match kind {
        Composition::Q => layer_factors(model, head(layer, 0), CircuitKind::Qk)?,
        Composition::K => {
            let (left, right) = layer_factors(model, head(layer, 0), CircuitKind::Qk)?;
            (right.transpose(1, 2)?, left.transpose(1, 2)?)
        }
        Composition::V => layer_factors(model, head(layer, 0), CircuitKind::Ov)?,
    })
}

/// The scores of random heads, drawn from a fixed seed.
fn baseline(d_model: usize, d_head: usize) -> Result<CompositionBaseline> {
    const HEADS: usize = 6;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut gaussian = |rows: usize, columns: usize| -> Result<Tensor> {
        let values: Vec<f32> = (0..HEADS * rows * columns).map(|_| normal(&mut rng) as f32).collect();
        Ok(Tensor::from_vec(values, (HEADS, rows, columns), &Device::Cpu)?)
    };
    let mut factors =
        || -> Result<(Tensor, Tensor)> { Ok((gaussian(d_model, d_head)?, gaussian(d_head, d_model)?)) };
    let (earlier, later) = (factors()?, factors()?);
    let scores = GramFactor::earlier(&earlier)?.composed_with(&GramFactor::later(&later)?)?;
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / (scores.len() - 1) as f64;
    Ok(CompositionBaseline { mean, std: variance.sqrt() })
}
