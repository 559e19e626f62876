//! QK and OV circuits of attention heads (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").

use std::fmt;

use candle_core::{DType, Device, Tensor};
use nalgebra::{Complex, DMatrix};

use crate::analysis::circuits::low_rank::{LowRank, Svd, eigenvalues, matrix, positivity};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Head, Site};
use crate::memory::floats;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::cpu::log_sum_exp;
use crate::network::dims::Dims;
use crate::network::param::Param;
use crate::network::parts::attention::Projection;
use crate::network::record::Record;
use crate::network::start::Start;
use crate::network::weights::weight::Weight;
use crate::view::{View, Visualize};
use crate::{memory, progress};

/// Which of a head's two circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CircuitKind {
    /// Where the head looks: `W_Q W_K^T`, without the division by the root of `d_head`.
    Qk,
    /// What the head moves: `W_V W_O`.
    Ov,
}

impl fmt::Display for CircuitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CircuitKind::Qk => "QK",
            CircuitKind::Ov => "OV",
        })
    }
}

/// A head's QK or OV circuit: a matrix `[d_model, d_model]` of rank `d_head`, kept as its two factors. A row
/// of the residual stream is multiplied from the left: query times QK times key, source times OV.
///
/// Where positions turn queries and keys, what a query wants of a key depends on how far apart they stand: the QK circuit is
/// that of a key at the query's own position, as in TransformerLens, and [`at_distance`](Circuit::at_distance) gives the
/// others. Norms of single heads' queries and keys (Qwen3) are not in it.
///
/// Over the vocabulary it is the *full* circuit, `W_E QK W_E^T` or `W_E OV W_U`; that square is never made. Layer norms
/// are not in it: take a [`folded`](Model::folded) model to have at least their gains in the weights. Edits of a model
/// are not in it either: it is about weights.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?.folded()?;
/// let ov = ov_circuit(&model, head(1, 0))?;
/// println!("{ov:?}");
/// assert!(ov.eigenvalue_positivity()?.abs() <= 1.0);
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone)]
pub struct Circuit {
    pub(crate) kind: CircuitKind,
    pub(crate) head: Head,
    pub(crate) model: Model,
    /// How far the key lies behind the query, where it was asked for.
    distance: Option<usize>,
    left: Tensor,  // (d_model, d_head)
    right: Tensor, // (d_head, d_model)
}

/// The circuit that says where a head looks, `W_Q W_K^T`. Fails if there is no such head.
///
/// ```
/// # use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let qk = qk_circuit(&model, head(1, 0))?;
/// assert_eq!(qk.singular_values()?.shape(), [model.dims().d_head]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn qk_circuit(model: &Model, head: Head) -> Result<Circuit> {
    Circuit::new(model, head, CircuitKind::Qk)
}

/// The circuit that says what a head moves, `W_V W_O`. Fails if there is no such head.
///
/// ```
/// # use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let ov = ov_circuit(&model, head(1, 0))?;
/// assert_eq!(ov.submatrix(3)?.shape(), [3, 3]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn ov_circuit(model: &Model, head: Head) -> Result<Circuit> {
    Circuit::new(model, head, CircuitKind::Ov)
}

/// The factors of every head of a layer `[head, d_model, d_head]` and `[head, d_head, d_model]`.
pub(crate) fn layer_factors(model: &Model, layer: usize, kind: CircuitKind) -> Result<(Tensor, Tensor)> {
    let weight = |param| model.head_param(param, layer);
    Ok(match kind {
        CircuitKind::Qk => {
            (weight(Param::Weight(Projection::Q))?, weight(Param::Weight(Projection::K))?.transpose(1, 2)?)
        }
        CircuitKind::Ov => (weight(Param::Weight(Projection::V))?, weight(Param::Output)?),
    })
}

impl Circuit {
    fn new(model: &Model, head: Head, kind: CircuitKind) -> Result<Circuit> {
        match kind {
            CircuitKind::Qk => model.spec().sum_of_parts("a circuit of weights")?,
            CircuitKind::Ov => model.spec().sum_of_heads("a circuit of weights")?,
        };
        let head = model.spec().check_head(head)?;
        let (left, right) = layer_factors(model, head.layer, kind)?;
        let (left, right) = (left.get(head.head)?.contiguous()?, right.get(head.head)?.contiguous()?);
        Ok(Circuit { kind, head, model: model.clone(), distance: None, left, right })
    }

    /// Which circuit it is.
    pub fn kind(&self) -> CircuitKind {
        self.kind
    }

    /// Whose circuit it is.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The QK circuit between a query and a key that lies `distance` positions before it, `W_Q R W_K^T` with R the turn by
    /// that distance, in a model with rotary positions.
    ///
    /// Fails for OV, for a distance that the model cannot read, and where positions are embedded: there the circuit is the
    /// same at every distance.
    pub fn at_distance(&self, distance: usize) -> Result<Circuit> {
        self.only(CircuitKind::Qk, "distances")?;
        let n_ctx = self.model.dims().n_ctx;
        if distance >= n_ctx {
            return Err(Error::new(ErrorKind::Input, format!("{self} at distance {distance}"))
                .help(format!("the model reads {n_ctx} positions: distances are 0 to {}", n_ctx - 1)));
        }
        let Some(rotary) = &self.model.scoring(self.head.layer)?.rotary else {
            return Err(Error::new(
                ErrorKind::Input,
                format!("positions of {} are embedded, and turn no queries and keys", self.model.name()),
            )
            .help("the circuit is the same at every distance; `positions` says how the embeddings attend"));
        };
        let unturned = Circuit::new(&self.model, self.head, CircuitKind::Qk)?;
        // Turning the query by the distance is turning both by their positions.
        let left = rotary.rotate_all(&unturned.left, distance)?;
        Ok(Circuit { left, distance: Some(distance), ..unturned })
    }

    /// Its first `size` rows and columns `[from, to]`, to look at or to check; all of it with `d_model`. Fails for 0
    /// and for more.
    pub fn submatrix(&self, size: usize) -> Result<NamedTensor> {
        let d_model = self.model.dims().d_model;
        if size == 0 || size > d_model {
            return Err(Error::new(ErrorKind::Input, format!("{self} has no corner of size {size}"))
                .help(format!("it has {d_model} rows and columns: ask for 1 to {d_model}")));
        }
        let axes = vec![Axis::unlabelled("from", size), Axis::unlabelled("to", size)];
        NamedTensor::from_vec(format!("{self}, corner"), self.low_rank()?.submatrix(size)?, axes)
    }

    /// Its Frobenius norm.
    pub fn norm(&self) -> Result<f64> {
        self.low_rank()?.norm()
    }

    /// Its singular values `[direction]`, the largest first; the `d_head` that can be other than zero. Found in f64.
    pub fn singular_values(&self) -> Result<NamedTensor> {
        let values = self.low_rank()?.singular_values()?;
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        let axes = vec![Axis::unlabelled("direction", values.len())];
        let named = NamedTensor::from_vec(format!("{self}, singular values"), values, axes)?;
        Ok(named.with_value_kind(ValueKind::Magnitude))
    }

    /// Its eigenvalues `[eigenvalue, part]`, the parts being real and imaginary; the `d_head` that can be other than
    /// zero, by absolute value, the largest first. Found in f64.
    pub fn eigenvalues(&self) -> Result<NamedTensor> {
        listed(format!("{self}, eigenvalues"), &self.low_rank()?.eigenvalues()?)
    }

    /// The eigenvalues of the full circuit over the vocabulary `[eigenvalue, part]`, as
    /// [`eigenvalues`](Circuit::eigenvalues) gives them.
    pub fn full_eigenvalues(&self) -> Result<NamedTensor> {
        listed(format!("full {self}, eigenvalues"), &eigenvalues(self.full_core()?)?)
    }

    /// How far its eigenvalues are positive, from -1 to 1: the real part of their sum over the sum of their absolute
    /// values. 0 for a circuit of zeros.
    pub fn eigenvalue_positivity(&self) -> Result<f64> {
        Ok(positivity(&self.low_rank()?.eigenvalues()?))
    }

    /// How far the eigenvalues of the full circuit over the vocabulary are positive, from -1 to 1. Of OV it is the
    /// copying score of Elhage et al.: near 1 where tokens make themselves likelier.
    pub fn full_eigenvalue_positivity(&self) -> Result<f64> {
        Ok(positivity(&eigenvalues(self.full_core()?)?))
    }

    /// The attention scores of a run as these weights give them `[query, key]`, from what the run kept of
    /// `ln1.hook_normalized` (of `hook_resid_pre`, in a model without norms): biases added, normed and turned by their
    /// positions where the model does so, scaled, -inf where a query may not look. They equal the run's
    /// `hook_attn_scores`, unless an edit changed queries, keys or scores after that hook.
    ///
    /// Fails for OV, and for a run of several inputs, of a model of another size, or without that hook.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let run = model.run_with_cache("the cat sat")?;
    /// let scores = qk_circuit(&model, head(1, 0))?.scores(&run)?;
    /// let hook = run.attn_scores(1)?.select("head", 0)?;
    /// assert!((scores.value(&[2, 1])? - hook.value(&[2, 1])?).abs() < 1e-4);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn scores(&self, run: &Run) -> Result<NamedTensor> {
        self.only(CircuitKind::Qk, "attention scores")?;
        if let Some(distance) = self.distance {
            return Err(Error::new(
                ErrorKind::Input,
                format!("a run has scores at every distance, not at {distance} alone"),
            )
            .help(format!("take `qk_circuit(&model, head({}, {}))?`", self.head.layer, self.head.head)));
        }
        let tokens = run.single()?;
        let Dims { n_layers, d_model, .. } = *self.model.dims();
        let other = |what: String| {
            Err(Error::new(ErrorKind::Input, what)
                .help("give a run of the model that the circuit was taken from"))
        };
        if run.n_layers() != n_layers {
            return other(format!("the run has {} layers, the circuit's model {n_layers}", run.n_layers()));
        }
        let layer = self.head.layer;
        // Without norms, heads read the stream itself.
        let read =
            if self.model.spec().has(Site::Ln1Normalized) { Site::Ln1Normalized } else { Site::ResidPre };
        let normalized = run.get(read.at(layer))?;
        let width = normalized.axis("d_model")?.len();
        self.has_room("scores", tokens.len(), 5)?;
        if width != d_model {
            return other(format!(
                "the run has a residual stream {width} wide, the circuit's model {d_model}"
            ));
        }
        let mut x = normalized.tensor().to_device(self.model.device())?; // (T, M)
        let (gain, bias) = self.model.norm_params(Param::Ln1, layer)?;
        if let Some(gain) = gain {
            x = x.broadcast_mul(&gain)?;
        }
        if let Some(bias) = bias {
            x = x.broadcast_add(&bias)?;
        }
        let project = |weight: &Tensor, part: Projection| -> Result<Tensor> {
            let bias = self.model.head_param(Param::Bias(part), layer)?.get(self.head.head)?;
            Ok(x.matmul(weight)?.broadcast_add(&bias)?)
        };
        let alone = |x: Tensor| x.unsqueeze(1)?.unsqueeze(0); // (1, T, 1, D)
        let (q, k) = (project(&self.left, Projection::Q)?, project(&self.right.t()?, Projection::K)?); // (T, D)
        let scoring = self.model.scoring(layer)?;
        let (mut q, mut k) = scoring.normed(alone(q)?, alone(k)?)?;
        if let Some(rotary) = &scoring.rotary {
            (q, k) = (rotary.rotate(&q, 0)?, rotary.rotate(&k, 0)?);
        }
        let (q, k) = (q.squeeze(2)?.squeeze(0)?, k.squeeze(2)?.squeeze(0)?); // (T, D)
        let scores = self.masked(&q.matmul(&k.t()?)?)?; // (T, T)
        let axis = |name| Axis::labelled(name, tokens.shared_labels());
        NamedTensor::new(format!("{}, attention scores", self.head), scores, vec![axis("query"), axis("key")])
    }

    /// The attention probabilities of a run as these weights give them `[query, key]`: the softmax of
    /// [`scores`](Circuit::scores), which says when it fails. They equal the run's `hook_pattern`.
    pub fn pattern(&self, run: &Run) -> Result<NamedTensor> {
        let scores = self.scores(run)?;
        let named = NamedTensor::new(
            format!("{}, pattern", self.head),
            probabilities(scores.tensor())?,
            scores.axes().to_vec(),
        )?;
        Ok(named.with_value_kind(ValueKind::Probability))
    }

    /// How the first `count` positions attend to each other by their position embeddings alone `[query, key]`:
    /// `W_pos QK W_pos^T`, neither scaled nor masked. A previous-token head shows as a diagonal.
    ///
    /// Fails for OV, for no positions or more than the model has, and for a model without position embeddings.
    pub fn positions(&self, count: usize) -> Result<NamedTensor> {
        self.only(CircuitKind::Qk, "attention between positions")?;
        self.has_positions(count)?;
        self.has_room("attention between positions", count, 2)?;
        let positions = self.position_embeddings()?.narrow(0, 0, count)?;
        let between = positions.matmul(&self.left)?.matmul(&self.right.matmul(&positions.t()?)?)?;
        let axes = vec![Axis::unlabelled("query", count), Axis::unlabelled("key", count)];
        NamedTensor::new(format!("{self} between positions"), between, axes)
    }

    /// How the head would attend if all tokens were alike and only their positions told them apart `[query, key]`: the
    /// attention of this layer to a stream of the mean token embedding plus each of the first `count` position embeddings,
    /// if the model has them. What layers below would add is left out. A previous-token head gives all it has to the key
    /// before the query.
    ///
    /// Fails for OV, and for no positions or more than the model has.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let by_position = qk_circuit(&model, head(0, 5))?.position_pattern(20)?;
    /// assert!(by_position.value(&[9, 8])? > 0.9);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn position_pattern(&self, count: usize) -> Result<NamedTensor> {
        self.only(CircuitKind::Qk, "attention between positions")?;
        let embedding = self.model.embedding()?;
        let (d_vocab, _) = embedding.dims2()?;
        let mean = Tensor::full(1.0 / d_vocab as f32, (1, d_vocab), embedding.device())?;
        let mean_token = embedding.product(&mean)?;
        self.has_positions(count)?;
        let mut stream = mean_token.broadcast_as((count, self.model.dims().d_model))?; // (T, M)
        // A model without them turns queries and keys on the way.
        if let Some(positions) = self.model.param(Param::PosEmbed, 0)? {
            stream = (stream + positions.narrow(0, 0, count)?)?;
        }
        let stream = stream.contiguous()?.unsqueeze(0)?; // (1, T, M)
        let layer = self.head.layer;
        let mut pattern = Record::new([Site::Pattern.at(layer)]);
        self.model.execute(Start::residual(layer, stream), None, &mut pattern)?;
        let pattern = pattern.only()?.get(0)?.get(self.head.head)?; // (T, T)
        let axes = vec![Axis::unlabelled("query", count), Axis::unlabelled("key", count)];
        let name = format!("{}, pattern of positions alone", self.head);
        Ok(NamedTensor::new(name, pattern, axes)?.with_value_kind(ValueKind::Probability))
    }

    /// The mean attention to the previous position if the head saw position embeddings alone, over all positions but
    /// the first: 1 for a perfect previous-token head. Scaled, masked and softmaxed, but not normalised.
    ///
    /// Fails for OV, and for a model without position embeddings or with one position only.
    pub fn previous_token_mass(&self) -> Result<f64> {
        self.only(CircuitKind::Qk, "attention between positions")?;
        let n_ctx = self.model.dims().n_ctx;
        if n_ctx < 2 {
            return Err(Error::new(ErrorKind::Input, "the model has one position: none is before another"));
        }
        self.has_room("attention between positions", n_ctx, 5)?;
        let between = self.positions(n_ctx)?;
        let scores = self.masked(between.tensor())?;
        let pattern = probabilities(&scores)?.flatten_all()?.to_vec1::<f32>()?;
        let mass: f64 = (1..n_ctx).map(|query| f64::from(pattern[query * n_ctx + query - 1])).sum();
        Ok(mass / (n_ctx - 1) as f64)
    }

    pub(crate) fn svd(&self) -> Result<Svd> {
        self.low_rank()?.svd()
    }

    /// The full circuit's left factor for all tokens `[d_vocab, d_head]`.
    pub(crate) fn left_of_tokens(&self) -> Result<Tensor> {
        let (embedding, _) = self.token_sides()?;
        Ok(embedding.t()?.product(&self.left.t()?)?.t()?)
    }

    /// Its right factor for all tokens `[d_head, d_vocab]`.
    pub(crate) fn right_of_tokens(&self) -> Result<Tensor> {
        let (_, unembedding) = self.token_sides()?;
        unembedding.product(&self.right)
    }

    /// Both for some tokens.
    pub(super) fn between(&self, ids: &[u32]) -> Result<(Tensor, Tensor)> {
        let (embedding, unembedding) = self.token_sides()?;
        let index = Tensor::new(ids, embedding.device())?;
        let from = embedding.index_rows(&index)?.matmul(&self.left)?;
        Ok((from, self.right.matmul(&unembedding.index_columns(ids)?)?))
    }

    /// The tokens' vectors on the circuit's two sides `[d_vocab, d_model]` and `[d_model, d_vocab]`.
    pub(super) fn token_sides(&self) -> Result<(Weight, Weight)> {
        let embedding = self.model.embedding()?;
        let right = match self.kind {
            CircuitKind::Qk => embedding.t()?,
            CircuitKind::Ov => self.model.unembedding()?.clone(),
        };
        Ok((embedding.clone(), right))
    }

    fn low_rank(&self) -> Result<LowRank> {
        LowRank::new(&self.left, &self.right)
    }

    /// The full circuit's factors multiplied the other way round `[d_head, d_head]`, which has its eigenvalues.
    fn full_core(&self) -> Result<DMatrix<f64>> {
        // In f64 the whole embedding would be large.
        const BLOCK: usize = 4096;
        let (embedding, unembedding) = self.token_sides()?;
        let f64s = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64);
        let (left, right) = (f64s(&self.left)?, f64s(&self.right)?);
        let d_head = self.model.dims().d_head;
        let mut core = Tensor::zeros((d_head, d_head), DType::F64, &Device::Cpu)?;
        let (d_vocab, _) = embedding.dims2()?;
        for start in (0..d_vocab).step_by(BLOCK) {
            progress::check("reading a circuit over the vocabulary")?;
            let len = BLOCK.min(d_vocab - start);
            let ids = Tensor::arange(start as u32, (start + len) as u32, embedding.device())?;
            let from = f64s(&embedding.index_rows(&ids)?)?.matmul(&left)?;
            let to = right.matmul(&f64s(&unembedding.narrow_columns(start, len)?.tensor()?)?)?;
            core = (core + to.matmul(&from)?)?;
        }
        matrix(&core)
    }

    fn position_embeddings(&self) -> Result<Tensor> {
        self.model.param(Param::PosEmbed, 0)?.ok_or_else(|| {
            Error::new(ErrorKind::Weights, format!("{} has no position embeddings", self.model.name())).help(
                "its positions turn queries and keys: `at_distance` gives the circuit between two of them",
            )
        })
    }

    /// Fails where there is no memory for so many squares.
    fn has_room(&self, what: &str, side: usize, squares: usize) -> Result<()> {
        memory::check(self.model.device(), floats([squares, side, side]), || {
            (
                format!("the {self}, {what} of {side} by {side},"),
                "ask for fewer positions: run a shorter input",
            )
        })
    }

    fn has_positions(&self, count: usize) -> Result<()> {
        let n_ctx = self.model.dims().n_ctx;
        if count == 0 || count > n_ctx {
            return Err(Error::new(ErrorKind::Input, format!("{self} between {count} positions"))
                .help(format!("the model has {n_ctx} positions: ask for 1 to {n_ctx}")));
        }
        Ok(())
    }

    /// Products of queries and keys as attention scores: scaled, and -inf where a query may not look.
    fn masked(&self, products: &Tensor) -> Result<Tensor> {
        let scoring = self.model.scoring(self.head.layer)?;
        let (len, _) = products.dims2()?;
        let scores = (products * scoring.scale)?;
        if !self.model.spec().last_stack().sees.is_causal() {
            return Ok(scores);
        }
        Ok(match scoring.mask(len, len, scores.device())? {
            Some(mask) => (scores + mask)?,
            None => scores,
        })
    }

    pub(crate) fn only(&self, kind: CircuitKind, what: &str) -> Result<()> {
        if self.kind == kind {
            return Ok(());
        }
        let maker = if kind == CircuitKind::Qk { "qk_circuit" } else { "ov_circuit" };
        Err(Error::new(ErrorKind::Input, format!("{self} says nothing of {what}"))
            .help(format!("take `{maker}(&model, head({}, {}))?`", self.head.layer, self.head.head)))
    }
}

/// The softmax over keys of masked scores.
fn probabilities(scores: &Tensor) -> Result<Tensor> {
    Ok(scores.broadcast_sub(&log_sum_exp(scores)?)?.exp()?)
}

/// Eigenvalues as their real and imaginary parts.
fn listed(name: String, eigenvalues: &[Complex<f64>]) -> Result<NamedTensor> {
    let values = eigenvalues.iter().flat_map(|value| [value.re as f32, value.im as f32]).collect();
    let parts = Axis::labelled("part", ["real", "imaginary"].map(String::from));
    NamedTensor::from_vec(name, values, vec![Axis::unlabelled("eigenvalue", eigenvalues.len()), parts])
}

impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} circuit of {}", self.kind, self.head)?;
        match self.distance {
            Some(distance) => write!(f, " at distance {distance}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = || -> Result<(Vec<f32>, f64)> {
            Ok((self.singular_values()?.to_vec()?, self.eigenvalue_positivity()?))
        };
        let (values, positivity) = found().map_err(|_| fmt::Error)?;
        let first: Vec<String> = values.iter().take(4).map(|value| format!("{value:.3}")).collect();
        let shape = [self.model.dims().d_model; 2];
        write!(
            f,
            "{self} {shape:?}: singular values {} ..., eigenvalue positivity {positivity:.3}",
            first.join(", ")
        )
    }
}

impl Visualize for Circuit {
    /// The singular values, and what the first directions say in tokens.
    fn views(&self) -> Result<Vec<View>> {
        let mut views = vec![View::Bars(self.singular_values()?)];
        views.extend(self.directions(4.min(self.model.dims().d_head))?.views()?);
        Ok(views)
    }
}
