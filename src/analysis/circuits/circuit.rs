//! QK and OV circuits of attention heads (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").

use std::fmt;

use candle_core::{DType, Device, Tensor};
use nalgebra::{Complex, DMatrix};

use crate::analysis::circuits::low_rank::{LowRank, Svd, eigenvalues, matrix, positivity};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Hook, Site, Stack};
use crate::memory::floats;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::cpu::log_sum_exp;
use crate::network::param::{NormParam, Param};
use crate::network::parts::attention::Projection;
use crate::network::record::Record;
use crate::network::spec::{NormPlace, StackSpec};
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
/// A head of cross-attention has queries in its own stack, and keys and values in the one that it attends to: its full circuits are
/// between the two vocabularies. Where norms stand after the sums, as in BERT and Marian, heads read what a norm left, and what they
/// write goes through norms before it is read.
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

/// The factors of all heads of the attention that a head is of `[head, d_model, d_head]` and `[head, d_head, d_model]`.
pub(crate) fn layer_factors(model: &Model, of: Head, kind: CircuitKind) -> Result<(Tensor, Tensor)> {
    let param = |param| model.head_param(of.stack, param, of.layer);
    let weight = |part| param(Param::weight_of(of.attn, part));
    Ok(match kind {
        CircuitKind::Qk => (weight(Projection::Q)?, weight(Projection::K)?.transpose(1, 2)?),
        CircuitKind::Ov => (weight(Projection::V)?, param(Param::output_of(of.attn))?),
    })
}

/// What queries or keys of a head are made of: the stream as a norm left it, and the norm whose gain and bias are yet to come, if any.
struct Read {
    hook: Hook,
    norm: Option<NormAt>,
}

/// A norm, and its layer.
type NormAt = (fn(NormParam) -> Param, usize);

impl Circuit {
    fn new(model: &Model, head: Head, kind: CircuitKind) -> Result<Circuit> {
        if kind == CircuitKind::Ov {
            model.spec().adds_heads("an OV circuit")?;
        }
        let head = model.spec().check_head(head)?;
        let (left, right) = layer_factors(model, head, kind)?;
        let (left, right) = (left.get(head.head)?.contiguous()?, right.get(head.head)?.contiguous()?);
        Ok(Circuit { kind, head, model: model.clone(), distance: None, left, right })
    }

    /// The stack that the head is in.
    pub(crate) fn stack(&self) -> Result<&StackSpec> {
        self.model.spec().stack(self.head.stack)
    }

    /// The stack that its keys and values are made of.
    pub(crate) fn source(&self) -> Result<&StackSpec> {
        let own = self.stack()?;
        match (self.head.attn, own.crosses) {
            (Attn::Cross, Some(source)) => self.model.spec().stack(source),
            _ => Ok(own),
        }
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
        let n_ctx = self.stack()?.dims.n_ctx;
        if distance >= n_ctx {
            return Err(Error::new(ErrorKind::Input, format!("{self} at distance {distance}"))
                .help(format!("the model reads {n_ctx} positions: distances are 0 to {}", n_ctx - 1)));
        }
        let Some(rotary) = &self.model.scoring(self.head)?.rotary else {
            return Err(Error::new(
                ErrorKind::Input,
                format!("positions of {} turn no queries and keys", self.model.name()),
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
        let d_model = self.stack()?.dims.d_model;
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
    /// `ln1.hook_normalized` (of `hook_resid_pre`, where no norm stands before; of cross-attention from what its two stacks left for it):
    /// biases added, normed and turned by their
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
            .help(format!("take `qk_circuit(&model, {})?`", self.written_head())));
        }
        run.single()?;
        let n_layers = self.model.dims().n_layers;
        let other = |what: String| {
            Err(Error::new(ErrorKind::Input, what)
                .help("give a run of the model that the circuit was taken from"))
        };
        if run.n_layers() != n_layers {
            return other(format!("the run has {} layers, the circuit's model {n_layers}", run.n_layers()));
        }
        let Head { stack, attn, layer, head } = self.head;
        let (own, source) = (*self.stack()?, *self.source()?);
        let read = |read: Read, of: StackSpec| -> Result<NamedTensor> {
            let left = run.get(read.hook)?;
            let width = left.axis("d_model")?.len();
            self.has_room("scores", left.shape()[0], 5)?;
            if width != of.dims.d_model {
                let d_model = of.dims.d_model;
                return other(format!(
                    "the run has a residual stream {width} wide, the circuit's model {d_model}"
                ));
            }
            let mut x = left.tensor().to_device(self.model.device())?; // (T, M)
            if let Some((norm, layer)) = read.norm {
                let (gain, bias) = self.model.norm_params(of.stack, norm, layer)?;
                if let Some(gain) = gain {
                    x = x.broadcast_mul(&gain)?;
                }
                if let Some(bias) = bias {
                    x = x.broadcast_add(&bias)?;
                }
            }
            NamedTensor::new(left.name(), x, left.axes().to_vec())
        };
        let (of_queries, of_keys) = (read(self.queries_read(), own)?, read(self.keys_read()?, source)?);
        let project = |x: &NamedTensor, weight: &Tensor, part: Projection| -> Result<Tensor> {
            let bias = self.model.head_param(stack, Param::bias_of(attn, part), layer)?.get(head)?;
            Ok(x.tensor().matmul(weight)?.broadcast_add(&bias)?)
        };
        let alone = |x: Tensor| x.unsqueeze(1)?.unsqueeze(0); // (1, T, 1, D)
        let q = project(&of_queries, &self.left, Projection::Q)?; // (T, D)
        let k = project(&of_keys, &self.right.t()?, Projection::K)?; // (S, D)
        let scoring = self.model.scoring(self.head)?;
        let (mut q, mut k) = scoring.normed(alone(q)?, alone(k)?)?;
        if let Some(rotary) = &scoring.rotary {
            (q, k) = (rotary.rotate(&q, 0)?, rotary.rotate(&k, 0)?);
        }
        let (q, k) = (q.squeeze(2)?.squeeze(0)?, k.squeeze(2)?.squeeze(0)?); // (T, D), (S, D)
        let scores = self.masked(&q.matmul(&k.t()?)?)?; // (T, S)
        let axes =
            vec![of_queries.axes()[0].clone().renamed("query"), of_keys.axes()[0].clone().renamed("key")];
        NamedTensor::new(format!("{}, attention scores", self.head), scores, axes)
    }

    /// What [`scores`](Circuit::scores) reads of a run: what its queries are made of, and its keys.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let [queries, keys] = qk_circuit(&model, head(1, 0))?.hooks_read()?;
    /// assert_eq!((queries, queries), (keys, Site::Ln1Normalized.at(1)));
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn hooks_read(&self) -> Result<[Hook; 2]> {
        Ok([self.queries_read().hook, self.keys_read()?.hook])
    }

    /// What its queries are made of.
    fn queries_read(&self) -> Read {
        let Head { stack, attn, layer, .. } = self.head;
        let at = |site: Site| site.at(layer).of(stack);
        let spec = self.model.spec();
        let is_after = spec.stack(stack).is_ok_and(|own| own.norm_place == NormPlace::After);
        match (attn, is_after) {
            (Attn::Cross, true) => Read { hook: at(Site::Ln1Normalized), norm: Some((Param::Ln1, layer)) },
            (Attn::Cross, false) => Read { hook: at(Site::Ln2Normalized), norm: Some((Param::Ln2, layer)) },
            (Attn::Own, false) if spec.check(at(Site::Ln1Normalized)).is_ok() => {
                Read { hook: at(Site::Ln1Normalized), norm: Some((Param::Ln1, layer)) }
            }
            // No norm stands between.
            (Attn::Own, _) => Read { hook: at(Site::ResidPre), norm: None },
        }
    }

    /// What its keys are made of.
    fn keys_read(&self) -> Result<Read> {
        if self.head.attn == Attn::Own {
            return Ok(self.queries_read());
        }
        let source = self.source()?;
        let last = source.dims.n_layers.saturating_sub(1);
        Ok(match source.norm_place {
            NormPlace::After => {
                Read { hook: Site::NormalizedResidPost.at(last).of(source.stack), norm: None }
            }
            NormPlace::Before | NormPlace::Both => Read {
                hook: Hook::from(Site::LnFinalNormalized).of(source.stack),
                norm: Some((Param::LnFinal, 0)),
            },
        })
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
        let of =
            |stack: &StackSpec| Ok::<_, Error>(self.position_embeddings(stack.stack)?.narrow(0, 0, count)?);
        let (queries, keys) = (of(self.stack()?)?, of(self.source()?)?);
        let between = queries.matmul(&self.left)?.matmul(&self.right.matmul(&keys.t()?)?)?;
        let axes = vec![Axis::unlabelled("query", count), Axis::unlabelled("key", count)];
        NamedTensor::new(format!("{self} between positions"), between, axes)
    }

    /// How the head would attend if all tokens were alike and only their positions told them apart `[query, key]`: the
    /// attention of this layer to a stream of the mean token embedding plus each of the first `count` position embeddings,
    /// if the model has them. What layers below would add is left out. A previous-token head gives all it has to the key
    /// before the query.
    ///
    /// Fails for OV, for no positions or more than the model has, and in a decoder that reads an encoder, which has made nothing then.
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
        let StackSpec { stack, dims, crosses, .. } = *self.stack()?;
        if crosses.is_some() {
            return Err(Error::new(
                ErrorKind::Input,
                format!("{self} is of a decoder, whose layers read what an encoder made of a source"),
            )
            .help("`positions` has the weights alone; a run's `pattern` has what is attended to"));
        }
        let embedding = self.model.embedding(stack)?;
        let (d_vocab, _) = embedding.dims2()?;
        let mean = Tensor::full(1.0 / d_vocab as f32, (1, d_vocab), embedding.device())?;
        let mean_token = (embedding.product(&mean)? * self.model.network.embed_scale(stack))?;
        self.has_positions(count)?;
        let mut stream = mean_token.broadcast_as((count, dims.d_model))?; // (T, M)
        // A model without them turns queries and keys on the way.
        if let Some(positions) = self.model.param(stack, Param::PosEmbed, 0)? {
            stream = (stream + positions.narrow(0, 0, count)?)?;
        }
        let stream = stream.contiguous()?.unsqueeze(0)?; // (1, T, M)
        let layer = self.head.layer;
        let mut pattern = Record::new([self.head.hook(Site::Pattern)]);
        self.model.execute(Start::residual(self.head.stack, layer, stream), None, &mut pattern)?;
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
        let n_ctx = self.most_positions()?;
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
        let sides = self.token_sides()?;
        self.has_same_tokens(&sides)?;
        let (embedding, unembedding) = sides;
        let index = Tensor::new(ids, embedding.device())?;
        let from = embedding.index_rows(&index)?.matmul(&self.left)?;
        Ok((from, self.right.matmul(&unembedding.index_columns(ids)?)?))
    }

    /// The tokens' vectors on the circuit's two sides `[d_vocab, d_model]` and `[d_model, d_vocab]`.
    pub(super) fn token_sides(&self) -> Result<(Weight, Weight)> {
        let (own, source) = (self.stack()?, self.source()?);
        match self.kind {
            CircuitKind::Qk => {
                Ok((self.model.embedding(own.stack)?.clone(), self.model.embedding(source.stack)?.t()?))
            }
            CircuitKind::Ov if own.stack != self.model.spec().last_stack().stack => {
                let what =
                    format!("{self} writes into the {} stack, which no token is read out of", own.stack);
                Err(Error::new(ErrorKind::Input, what).help(
                    "its singular values and its eigenvalues are there; heads of cross-attention move what it left to the logits",
                ))
            }
            CircuitKind::Ov => {
                Ok((self.model.embedding(source.stack)?.clone(), self.model.unembedding()?.clone()))
            }
        }
    }

    /// Fails where the two sides have not the same tokens.
    fn has_same_tokens(&self, (left, right): &(Weight, Weight)) -> Result<()> {
        let (from, to) = (left.dims2()?.0, right.dims2()?.1);
        if from == to {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Input,
            format!(
                "the full {self} is between vocabularies of {from} and {to} tokens, which are not the same"
            ),
        )
        .help("`top_pairs` names tokens of each"))
    }

    fn low_rank(&self) -> Result<LowRank> {
        LowRank::new(&self.left, &self.right)
    }

    /// The full circuit's factors multiplied the other way round `[d_head, d_head]`, which has its eigenvalues.
    fn full_core(&self) -> Result<DMatrix<f64>> {
        // In f64 the whole embedding would be large.
        const BLOCK: usize = 4096;
        let sides = self.token_sides()?;
        self.has_same_tokens(&sides)?;
        let (embedding, unembedding) = sides;
        let f64s = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64);
        let (left, right) = (f64s(&self.left)?, f64s(&self.right)?);
        let d_head = self.stack()?.dims.d_head;
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

    fn position_embeddings(&self, stack: Stack) -> Result<Tensor> {
        self.model.param(stack, Param::PosEmbed, 0)?.ok_or_else(|| {
            let help = match self.model.network.relative_bias(stack) {
                Some(_) => "distances add a bias to its scores, whatever the tokens: the weight `rel_pos_bias.weight`",
                None => "its positions turn queries and keys: `at_distance` gives the circuit between two of them",
            };
            Error::new(ErrorKind::Weights, format!("{} has no position embeddings", self.model.name()))
                .help(help)
        })
    }

    /// How many positions both its queries and its keys can have.
    fn most_positions(&self) -> Result<usize> {
        Ok(self.stack()?.dims.n_ctx.min(self.source()?.dims.n_ctx))
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
        let n_ctx = self.most_positions()?;
        if count == 0 || count > n_ctx {
            return Err(Error::new(ErrorKind::Input, format!("{self} between {count} positions"))
                .help(format!("the model has {n_ctx} positions: ask for 1 to {n_ctx}")));
        }
        Ok(())
    }

    /// Products of queries and keys as attention scores: scaled, and -inf where a query may not look.
    fn masked(&self, products: &Tensor) -> Result<Tensor> {
        let scoring = self.model.scoring(self.head)?;
        let (len, seen) = products.dims2()?;
        let mut scores = (products * scoring.scale)?;
        let own = self.stack()?;
        if self.head.attn == Attn::Cross {
            return Ok(scores);
        }
        if let Some(bias) = self.model.network.relative_bias(own.stack) {
            let all = bias.bias(own.sees, len, seen)?; // (1, H, T, S)
            scores = (scores + all.squeeze(0)?.get(self.head.head)?)?;
        }
        if !own.sees.is_causal() {
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
            .help(format!("take `{maker}(&model, {})?`", self.written_head())))
    }

    /// The head as it is written in Rust.
    fn written_head(&self) -> String {
        let Head { stack, attn, layer, head } = self.head;
        let of = if stack == Stack::Main { String::new() } else { format!(".of(Stack::{stack:?})") };
        let cross = if attn == Attn::Cross { ".cross()" } else { "" };
        format!("head({layer}, {head}){of}{cross}")
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
        let shape = [self.stack(), self.source()].map(|stack| stack.map_or(0, |spec| spec.dims.d_model));
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
        // What writes into a stack that no token is read out of says nothing in tokens.
        if self.token_sides().is_ok() {
            views.extend(self.directions(4.min(self.stack()?.dims.d_head))?.views()?);
        }
        Ok(views)
    }
}
