//! Circuits in terms of tokens: the full QK and OV circuits of Elhage et al. 2021, "A Mathematical Framework for
//! Transformer Circuits", block of rows by block, never the whole square of the vocabulary.

use std::cmp::Ordering;
use std::fmt;

use candle_core::{Storage, Tensor};
use rayon::prelude::*;

use crate::analysis::circuits::circuit::{Circuit, CircuitKind, ov_circuit};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Head;
use crate::memory::floats;
use crate::model::input::{Input, Sequences};
use crate::model::model::Model;
use crate::named::{Axis, NamedTensor};
use crate::network::dims::Dims;
use crate::network::dims::check_ids;
use crate::progress::Progress;
use crate::view::{Table, View, Visualize};
use crate::{memory, progress};

impl Circuit {
    /// The full circuit between some tokens: of QK how much each query token wants each key token `[query, key]`, of
    /// OV what each source token does to the logit of each output token `[source, output]`.
    ///
    /// Tokens are ids, or texts of one token each; fails for one that the model does not have, and for none.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let moved = ov_circuit(&model, head(1, 0))?.between_tokens([" cat", " dog"])?;
    /// assert_eq!(moved.axis_names(), ["source", "output"]);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn between_tokens(&self, tokens: impl Into<Input>) -> Result<NamedTensor> {
        let ids = self.token_ids(tokens.into())?;
        let needed = floats([ids.len(), ids.len() + self.model.dims().d_model]);
        memory::check(self.model.device(), needed, || {
            (format!("the full {self} between {} tokens", ids.len()), "name fewer tokens")
        })?;
        let (from, to) = self.between(&ids)?;
        let labels = self.model.labels(&ids);
        let (row, column) = self.sides();
        let axes = vec![Axis::labelled(row, labels.clone()), Axis::labelled(column, labels)];
        NamedTensor::new(format!("full {self}"), from.matmul(&to)?, axes)
    }

    /// The `k` largest entries of the full circuit over the whole vocabulary, the largest first; fewer where it has
    /// fewer. Of GPT-2 small's 2.5 billion entries some 40 MB are in memory at a time. Fails for `k` = 0.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// println!("{:?}", ov_circuit(&model, head(1, 0))?.top_pairs(10)?);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn top_pairs(&self, k: usize) -> Result<TokenPairs> {
        at_least_one(k, "pairs")?;
        let (embedding, unembedding) = self.token_sides()?;
        let (rows, d_vocab) = (embedding.dims2()?.0, unembedding.dims2()?.1);
        let d_head = self.stack()?.dims.d_head;
        // A pair is kept with its labels; before that some rows' best are, in a list that grows.
        let pairs = (k as u64).min((rows as u64).saturating_mul(d_vocab as u64)).saturating_mul(128);
        let found = 30 * at_a_time(d_vocab) as u64 * k.min(d_vocab) as u64;
        let made = floats([rows + d_vocab, d_head]).saturating_add(floats([at_a_time(d_vocab), d_vocab]));
        let needed = made.saturating_add(pairs).saturating_add(found);
        memory::check(self.model.device(), needed, || {
            (format!("the largest {k} of the full {self}"), "ask for fewer pairs")
        })?;
        let (from, to) = (self.left_of_tokens()?, self.right_of_tokens()?);
        let mut best: Vec<(u32, u32, f32)> = Vec::new();
        in_blocks("looking for pairs", &from, &to, |first, width, block| {
            let floor = if best.len() == k { best[k - 1].2 } else { f32::NEG_INFINITY };
            let found: Vec<(u32, u32, f32)> = (block.par_chunks(width).enumerate())
                .flat_map_iter(|(row, values)| largest_above(values, floor, k, (first + row) as u32))
                .collect();
            best.extend(found);
            keep_largest(&mut best, k);
        })?;
        let label = |id: u32| self.model.labels(&[id]).concat();
        let pairs = best.into_iter().map(|(row, column, score)| TokenPair {
            from: (row, label(row)),
            to: (column, label(column)),
            score,
        });
        Ok(TokenPairs {
            title: format!("largest of the full {self}"),
            sides: self.sides(),
            pairs: pairs.collect(),
        })
    }

    /// What the first `count` singular directions are about: the tokens that lie furthest along the left vector (of QK
    /// queries, of OV sources) and along the right one (keys, outputs). Both vectors may be turned round together;
    /// they are given so that the token furthest along the left one, either way, lies along it.
    ///
    /// Fails for 0, and for more than `d_head`.
    pub fn directions(&self, count: usize) -> Result<SingularDirections> {
        const TOKENS: usize = 8;
        let svd = self.svd()?;
        if count == 0 || count > svd.values.len() {
            return Err(Error::new(ErrorKind::Input, format!("{count} directions of the {self}"))
                .help(format!("its rank is {0}: ask for 1 to {0}", svd.values.len())));
        }
        let vectors = floats([4, count, self.model.dims().d_vocab]);
        memory::check(self.model.device(), vectors, || {
            (format!("{count} directions of the {self} in tokens"), "ask for fewer")
        })?;
        let (embedding, unembedding) = self.token_sides()?;
        let vectors = |matrix: &nalgebra::DMatrix<f64>| -> Result<Tensor> {
            let values = matrix.columns(0, count).iter().map(|&value| value as f32).collect::<Vec<_>>();
            Ok(Tensor::from_vec(values, (count, matrix.nrows()), embedding.device())?)
        };
        let (left, right) = (vectors(&svd.left)?, vectors(&svd.right)?); // (count, M)
        let left = embedding.t()?.product(&left)?.to_vec2::<f32>()?;
        let right = unembedding.product(&right)?.to_vec2::<f32>()?;
        let mut directions = Vec::new();
        for ((mut left, mut right), value) in left.into_iter().zip(right).zip(svd.values) {
            let furthest = left.iter().copied().fold(0f32, |a, b| if b.abs() > a.abs() { b } else { a });
            if furthest < 0.0 {
                left.iter_mut().chain(&mut right).for_each(|value| *value = -*value);
            }
            let top = |values: &[f32]| {
                let best = largest_above(values, f32::NEG_INFINITY, TOKENS, 0);
                let named = |(_, id, value)| (self.model.labels(&[id]).concat(), value);
                best.into_iter().map(named).collect()
            };
            directions.push(SingularDirection {
                singular_value: value,
                left: top(&left),
                right: top(&right),
            });
        }
        Ok(SingularDirections {
            title: format!("singular directions of the {self}"),
            sides: self.sides(),
            directions,
        })
    }

    fn sides(&self) -> (&'static str, &'static str) {
        match self.kind {
            CircuitKind::Qk => ("query", "key"),
            CircuitKind::Ov => ("source", "output"),
        }
    }

    fn token_ids(&self, tokens: Input) -> Result<Vec<u32>> {
        let ids = match tokens.sequences {
            Sequences::Texts(texts) => {
                texts.iter().map(|text| self.model.to_single_token(text)).collect::<Result<Vec<_>>>()?
            }
            Sequences::Ids(ids) => ids.concat(),
            Sequences::Pictures(_) => {
                return Err(Error::new(ErrorKind::Input, "pictures are given where tokens are read")
                    .help("give tokens, as text or as ids"));
            }
        };
        check_ids(&ids, self.model.dims().d_vocab)?;
        at_least_one(ids.len(), "tokens")?;
        Ok(ids)
    }
}

/// How often heads copy, from 0 to 1: the share of the vocabulary whose own logit is among the `k` that the heads
/// raise the most when they attend to it, together: `W_E OV W_U`, the OV circuits of all heads added up. A token of
/// equal logit does not count as before it.
///
/// Fails for no heads, for one that does not exist or is named twice, and for `k` = 0.
///
/// ```
/// # use headlight::prelude::*;
/// let model = Model::open("built-in")?.folded()?;
/// let together = copying_accuracy(&model, &[head(1, 0), head(1, 1)], 5)?;
/// assert!((0.0..=1.0).contains(&together));
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn copying_accuracy(model: &Model, heads: &[Head], k: usize) -> Result<f64> {
    model.spec().any_decoder("copying")?;
    at_least_one(heads.len(), "heads")?;
    at_least_one(k, "tokens")?;
    if let Some(head) =
        heads.iter().enumerate().find_map(|(i, head)| heads[..i].contains(head).then_some(head))
    {
        return Err(Error::new(ErrorKind::Input, format!("{head} is named twice among {heads:?}"))
            .help("name each head once"));
    }
    let Dims { d_vocab, d_head, .. } = *model.dims();
    memory::check(model.device(), floats([4, heads.len(), d_vocab, d_head]), || {
        (format!("copying by {} heads together", heads.len()), "ask for fewer heads at once")
    })?;
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for &head in heads {
        progress::check("looking for copies")?;
        let circuit = ov_circuit(model, head)?;
        from.push(circuit.left_of_tokens()?);
        to.push(circuit.right_of_tokens()?);
    }
    let (from, to) = (Tensor::cat(&from, 1)?, Tensor::cat(&to, 0)?);
    let mut copied = 0;
    in_blocks("looking for copies", &from, &to, |first, width, block| {
        let is_copied = |(row, logits): &(usize, &[f32])| {
            let own = logits[first + row];
            count_above(logits, own) < k
        };
        copied += block.par_chunks(width).enumerate().filter(is_copied).count();
    })?;
    Ok(copied as f64 / model.dims().d_vocab as f64)
}

/// The rows of so many numbers that are made together.
fn at_a_time(width: usize) -> usize {
    const ENTRIES: usize = 1 << 22;
    (ENTRIES / width.max(1)).max(1)
}

/// Makes `from` `[row, rank]` times `to` `[rank, column]` some rows at a time, and shows each block with its first row
/// and its width.
fn in_blocks(
    what: &str,
    from: &Tensor,
    to: &Tensor,
    mut each: impl FnMut(usize, usize, &[f32]),
) -> Result<()> {
    let (rows, width) = (from.dim(0)?, to.dim(1)?);
    let at_a_time = at_a_time(width);
    let progress = Progress::new(what, rows);
    for first in (0..rows).step_by(at_a_time) {
        let count = at_a_time.min(rows - first);
        let block = from.narrow(0, first, count)?.matmul(to)?;
        // Read where it lies: copying 2.5 billion numbers would take longer than making them.
        let (storage, layout) = block.storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(cpu), Some((start, end))) => {
                each(first, width, &cpu.as_slice::<f32>()?[start..end])
            }
            _ => each(first, width, &block.flatten_all()?.to_vec1::<f32>()?),
        }
        progress.advance(count)?;
    }
    Ok(())
}

/// The `k` largest of a row's values that lie above `floor`, as (row, column, value), the largest first.
fn largest_above(values: &[f32], mut floor: f32, k: usize, row: u32) -> Vec<(u32, u32, f32)> {
    const STRIDE: usize = 256;
    let mut best: Vec<(u32, u32, f32)> = Vec::new();
    for (start, chunk) in values.chunks(STRIDE).enumerate() {
        // Most hold nothing, which a count says faster than entries looked at one by one.
        if count_above(chunk, floor) == 0 {
            continue;
        }
        let above = chunk.iter().enumerate().filter(|(_, value)| **value > floor);
        best.extend(above.map(|(column, &value)| (row, (start * STRIDE + column) as u32, value)));
        if best.len() >= k.saturating_mul(2).saturating_add(STRIDE) {
            keep_largest(&mut best, k);
            floor = best[k - 1].2;
        }
    }
    keep_largest(&mut best, k);
    best
}

/// How many values lie above a floor. Counting in 32 bits lets the compiler compare many at a time.
fn count_above(values: &[f32], floor: f32) -> usize {
    values.iter().map(|&value| u32::from(value > floor)).sum::<u32>() as usize
}

fn keep_largest(best: &mut Vec<(u32, u32, f32)>, k: usize) {
    // Equal ones keep the order of the vocabulary.
    let order = |a: &(u32, u32, f32), b: &(u32, u32, f32)| -> Ordering {
        b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)).then(a.1.cmp(&b.1))
    };
    if best.len() > k {
        best.select_nth_unstable_by(k, order);
        best.truncate(k);
    }
    best.sort_unstable_by(order);
}

fn at_least_one(count: usize, what: &str) -> Result<()> {
    if count > 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Input, format!("0 {what} were asked for: there is nothing to find"))
        .help("ask for at least one"))
}

/// A number of any size in a few characters.
fn short(value: f32) -> String {
    match value.abs() {
        size if size == 0.0 || (0.01..100_000.0).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

/// One entry of a full circuit.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenPair {
    /// The query or source token: its id, and what it says.
    pub from: (u32, String),
    /// The key or output token.
    pub to: (u32, String),
    /// The entry: of QK a score before scaling, of OV what is added to a logit, both before any layer norm.
    pub score: f32,
}

/// What [`Circuit::top_pairs`] found.
#[derive(Clone)]
pub struct TokenPairs {
    title: String,
    sides: (&'static str, &'static str),
    pairs: Vec<TokenPair>,
}

impl TokenPairs {
    /// The pairs, the largest first.
    pub fn pairs(&self) -> &[TokenPair] {
        &self.pairs
    }
}

impl fmt::Debug for TokenPairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.pairs.iter().take(5);
        let pairs = pairs.map(|pair| format!("{:?} to {:?} {}", pair.from.1, pair.to.1, short(pair.score)));
        write!(f, "{}: {} ...", self.title, pairs.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for TokenPairs {
    fn views(&self) -> Result<Vec<View>> {
        let mut table = Table::new(&self.title, [self.sides.0, self.sides.1, "score"]);
        for pair in &self.pairs {
            table.push([format!("{:?}", pair.from.1), format!("{:?}", pair.to.1), short(pair.score)]);
        }
        Ok(vec![View::Table(table)])
    }
}

/// One singular direction of a circuit, in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SingularDirection {
    /// How strong it is.
    pub singular_value: f64,
    /// The tokens furthest along the left vector, and how far.
    pub left: Vec<(String, f32)>,
    /// The tokens furthest along the right vector, and how far.
    pub right: Vec<(String, f32)>,
}

/// What [`Circuit::directions`] found.
#[derive(Clone)]
pub struct SingularDirections {
    title: String,
    sides: (&'static str, &'static str),
    directions: Vec<SingularDirection>,
}

impl SingularDirections {
    /// The directions, the strongest first.
    pub fn directions(&self) -> &[SingularDirection] {
        &self.directions
    }
}

fn list_tokens(tokens: &[(String, f32)]) -> String {
    const SHOWN: usize = 6; // As many as a table has room for.
    tokens.iter().take(SHOWN).map(|(token, _)| format!("{token:?}")).collect::<Vec<_>>().join(" ")
}

impl fmt::Debug for SingularDirections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directions = self.directions.iter().take(2);
        let directions = directions.map(|d| {
            format!("{:.3}: {} to {}", d.singular_value, list_tokens(&d.left), list_tokens(&d.right))
        });
        write!(f, "{}: {} ...", self.title, directions.collect::<Vec<_>>().join("; "))
    }
}

impl Visualize for SingularDirections {
    fn views(&self) -> Result<Vec<View>> {
        let mut table = Table::new(&self.title, ["value", self.sides.0, self.sides.1]);
        for direction in &self.directions {
            let value = format!("{:.4}", direction.singular_value);
            table.push([value, list_tokens(&direction.left), list_tokens(&direction.right)]);
        }
        Ok(vec![View::Table(table)])
    }
}
