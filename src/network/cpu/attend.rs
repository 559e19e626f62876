//! Attention on the CPU, block of queries by block of queries: what is masked is not computed, and where nobody asks for
//! the scores or the pattern they are never made whole (Rabe and Staats 2021, "Self-attention Does Not Need O(n^2)
//! Memory"). None of these has a gradient.
//!
//! Shapes: B batch, T queries, S keys, H heads, K heads of keys and values, D width of a head.

use std::ops::Range;

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Device, Layout, Shape, Storage, StorageRef, Tensor, bail,
};
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::matrix::{Matrix, MatrixMut};
use crate::network::cpu::pages;
use crate::network::cpu::rows::{values, values_from};
use crate::network::cpu::softmax::{softmax_of, softmax_of_masked};

/// Which keys a query sees by their places (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", 3.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// Those up to its own, at most `window` of them, its own included. The last query stands at the last key.
    Causal { window: usize },
    /// All.
    Full,
}

impl Visibility {
    /// 0 where a query sees a key, -inf elsewhere `[T, S]`; nothing where all see all.
    pub(crate) fn to_tensor(self, len: usize, seen: usize, device: &Device) -> Result<Option<Tensor>> {
        self.check(len, seen)?;
        if (0..len).all(|query| self.keys(query, len, seen) == (0..seen)) {
            return Ok(None);
        }
        let mask = (0..len).flat_map(|query| {
            let keys = self.keys(query, len, seen);
            (0..seen).map(move |key| added(keys.contains(&key)))
        });
        Ok(Some(Tensor::from_iter(mask, device)?.reshape((len, seen))?))
    }

    /// The keys that a query sees.
    fn keys(self, query: usize, len: usize, seen: usize) -> Range<usize> {
        match self {
            Visibility::Causal { window } => {
                let end = query + seen - len + 1;
                end.saturating_sub(window)..end
            }
            Visibility::Full => 0..seen,
        }
    }

    fn check(self, len: usize, seen: usize) -> candle_core::Result<()> {
        match self {
            Visibility::Causal { .. } if seen < len => {
                bail!(
                    "{seen} keys for {len} queries that see none ahead of them: there are to be as many, or more"
                )
            }
            _ => Ok(()),
        }
    }
}

/// What is added to a score.
fn added(is_seen: bool) -> f32 {
    if is_seen { 0.0 } else { f32::NEG_INFINITY }
}

/// How products of queries and keys become scores: scaled, with a bias added, and -inf where a query does not look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask<'a> {
    pub(crate) scale: f64,
    pub(crate) visibility: Visibility,
    /// Which keys of each input are there, and no padding, wherever that stands. `None`: all are.
    pub(crate) present: Option<&'a [Vec<bool>]>,
    /// Added to the scaled products `[1 or B, 1 or H, T, S]`; f32, on the queries' device.
    pub(crate) bias: Option<&'a Tensor>,
}

impl Mask<'_> {
    /// What is added to scaled products `[B, H, T, S]`, as they are broadcast to: for candle's own operations. Nothing where
    /// all queries see all keys, and there is no bias.
    pub(crate) fn to_tensor(self, dims: [usize; 4], device: &Device) -> Result<Option<Tensor>> {
        self.check(dims)?;
        let [batch, _, len, seen] = dims;
        let by_place = self.visibility.to_tensor(len, seen, device)?; // (T, S)
        let by_input = match self.present {
            Some(present) if present.iter().flatten().any(|&is_there| !is_there) => {
                let mask = present.iter().flatten().map(|&is_there| added(is_there));
                Some(Tensor::from_iter(mask, device)?.reshape((batch, 1, 1, seen))?) // (B, 1, 1, S)
            }
            _ => None,
        };
        let mut sum = None;
        for part in [by_place, by_input, self.bias.cloned()].into_iter().flatten() {
            sum = Some(match sum {
                Some(sum) => part.broadcast_add(&sum)?,
                None => part,
            });
        }
        Ok(sum)
    }

    /// Whether it is one for scores `[B, H, T, S]`.
    fn check(&self, dims: [usize; 4]) -> candle_core::Result<()> {
        let [batch, heads, len, seen] = dims;
        self.visibility.check(len, seen)?;
        if let Some(present) = self.present
            && (present.len() != batch || present.iter().any(|keys| keys.len() != seen))
        {
            let lens: Vec<usize> = present.iter().map(Vec::len).collect();
            bail!("which keys are there is told of {lens:?} keys, and each of {batch} inputs has {seen}");
        }
        if let Some(bias) = self.bias {
            let fits = |(&has, wants): (&usize, [usize; 2])| wants.contains(&has);
            let wanted = [[1, batch], [1, heads], [len; 2], [seen; 2]];
            if bias.rank() != 4 || !bias.dims().iter().zip(wanted).all(fits) {
                bail!("a bias of {:?} on scores of {dims:?}", bias.dims());
            }
        }
        Ok(())
    }
}

/// Scores `[B, H, T, S]` of queries `[B, T, H, D]` and keys `[B, S, K, D]`, -inf where a query does not look.
pub(crate) fn scores(q: &Tensor, k: &Tensor, mask: Mask) -> Result<Tensor> {
    Ok(q.apply_op2_no_bwd(k, &Scores { mask, becomes_pattern: false })?)
}

/// The softmax of the scores `[B, H, T, S]`; zeros for a query that sees no key.
pub(crate) fn pattern(q: &Tensor, k: &Tensor, mask: Mask) -> Result<Tensor> {
    Ok(q.apply_op2_no_bwd(k, &Scores { mask, becomes_pattern: true })?)
}

/// Values `[B, S, K, D]` as a pattern mixes them `[B, T, H, D]`; with `mask`, the pattern is 0 where a query does not look.
pub(crate) fn apply_pattern(pattern: &Tensor, v: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
    Ok(pattern.contiguous()?.apply_op2_no_bwd(v, &Mix { mask })?)
}

/// What attention mixes `[B, T, H, D]`, with neither scores nor pattern kept.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask) -> Result<Tensor> {
    Ok(q.apply_op3_no_bwd(k, v, &Attend { mask })?)
}

/// Vectors of heads, one for each position: `[batch, position, head, d_head]` with any strides.
#[derive(Clone, Copy)]
struct Heads<'a> {
    values: &'a [f32],
    dims: [usize; 4],
    strides: [usize; 4],
}

impl<'a> Heads<'a> {
    fn of(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Heads<'a>> {
        match (<[usize; 4]>::try_from(layout.dims()), <[usize; 4]>::try_from(layout.stride())) {
            (Ok(dims), Ok(strides)) => Ok(Heads { values: values_from(storage, layout)?, dims, strides }),
            _ => bail!("heads have four axes, not those of {layout:?}"),
        }
    }

    /// Some positions of one head `[position, d_head]`.
    fn matrix(&self, batch: usize, head: usize, positions: Range<usize>) -> candle_core::Result<Matrix<'a>> {
        let [s0, s1, s2, s3] = self.strides;
        let start = batch * s0 + positions.start * s1 + head * s2;
        let values = self.values.get(start..).unwrap_or(&[]);
        Matrix::new(values, [positions.len(), self.dims[3]], [s1, s3])
    }
}

/// The sizes of one attention, checked.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    len: usize,
    seen: usize,
    heads: usize,
    /// Query heads to each head of keys.
    group: usize,
    width: usize,
}

impl Sizes {
    fn of(q: [usize; 4], k: [usize; 4]) -> candle_core::Result<Sizes> {
        let ([batch, len, heads, width], [k_batch, seen, keys, k_width]) = (q, k);
        if batch != k_batch || width != k_width || keys == 0 || !heads.is_multiple_of(keys) {
            bail!("queries of {q:?} and keys of {k:?}");
        }
        Ok(Sizes { batch, len, seen, heads, group: heads / keys, width })
    }

    /// The part of one head among rows of all heads.
    fn of_head<'a>(
        &self,
        out: &'a mut [f32],
        head: usize,
        rows: usize,
    ) -> candle_core::Result<MatrixMut<'a>> {
        let out = out.get_mut(head * self.width..).unwrap_or(&mut []);
        MatrixMut::new(out, [rows, self.width], self.heads * self.width)
    }
}

/// A mask laid on queries and keys that it fits.
struct FittedMask<'a> {
    scale: f32,
    visibility: Visibility,
    len: usize,
    seen: usize,
    /// Input by input; none where all keys are there.
    present: Vec<Present>,
    bias: Option<Bias<'a>>,
}

impl<'a> FittedMask<'a> {
    /// With the numbers of its bias, where scores are to be made.
    fn of(
        mask: Mask,
        sizes: Sizes,
        bias: Option<&'a (StorageRef<'_>, &Layout)>,
    ) -> candle_core::Result<FittedMask<'a>> {
        let Sizes { batch, len, seen, heads, .. } = sizes;
        mask.check([batch, heads, len, seen])?;
        let bias = bias.map(|(storage, layout)| Bias::of(storage, layout)).transpose()?;
        let present = mask.present.unwrap_or(&[]).iter().map(|present| Present::of(present)).collect();
        Ok(FittedMask { scale: mask.scale as f32, visibility: mask.visibility, len, seen, present, bias })
    }

    /// From the first to the last key that a query sees.
    fn keys(&self, batch: usize, query: usize) -> Range<usize> {
        let keys = self.visibility.keys(query, self.len, self.seen);
        match self.present.get(batch) {
            Some(present) => overlap(&keys, &present.span),
            None => keys,
        }
    }

    /// From the first to the last key that some of these queries see.
    fn keys_of(&self, batch: usize, queries: &Range<usize>) -> Range<usize> {
        match queries.end.checked_sub(1) {
            Some(last) => self.keys(batch, queries.start).start..self.keys(batch, last).end,
            None => 0..0,
        }
    }

    /// Makes scores of the scaled products of one query and `own`, the keys that it sees; whether some may be -inf then.
    fn make_scores(&self, row: &mut [f32], place: [usize; 3], own: &Range<usize>) -> bool {
        if let Some(bias) = self.bias {
            bias.add_to(row, place, own.start);
        }
        let holes = self.present.get(place[0]).map_or(&[][..], |present| &present.holes);
        for hole in holes {
            let hole = overlap(hole, own);
            row[hole.start - own.start..hole.end - own.start].fill(f32::NEG_INFINITY);
        }
        self.bias.is_some() || !holes.is_empty()
    }

    /// Makes a row of the pattern of the scaled products of one query and `keys`.
    fn make_pattern(&self, row: &mut [f32], place: [usize; 3], keys: &Range<usize>) {
        let [batch, _, query] = place;
        let own = self.keys(batch, query);
        row[..own.start - keys.start].fill(0.0);
        row[own.end - keys.start..].fill(0.0);
        let row = &mut row[own.start - keys.start..own.end - keys.start];
        if self.make_scores(row, place, &own) {
            softmax_of_masked(row);
        } else {
            softmax_of(row);
        }
    }
}

/// What of a range lies in another. As the range moves on, so do both ends of this, even where it is empty.
fn overlap(range: &Range<usize>, within: &Range<usize>) -> Range<usize> {
    range.start.clamp(within.start, within.end)..range.end.clamp(within.start, within.end)
}

/// The keys of one input that are there.
struct Present {
    /// From the first to the last.
    span: Range<usize>,
    /// What is not there in between.
    holes: Vec<Range<usize>>,
}

impl Present {
    fn of(present: &[bool]) -> Present {
        let start = present.iter().position(|&is_there| is_there).unwrap_or(0);
        let end = present.iter().rposition(|&is_there| is_there).map_or(0, |last| last + 1);
        let mut place = start;
        let mut holes = Vec::new();
        for run in present[start..end].chunk_by(|a, b| a == b) {
            let range = place..place + run.len();
            place = range.end;
            if run.first() == Some(&false) {
                holes.push(range);
            }
        }
        Present { span: start..end, holes }
    }
}

/// What is added to scores `[1 or B, 1 or H, T, S]`, with any strides.
#[derive(Clone, Copy)]
struct Bias<'a> {
    values: &'a [f32],
    strides: [usize; 4],
}

impl<'a> Bias<'a> {
    fn of(storage: &'a Storage, layout: &Layout) -> candle_core::Result<Bias<'a>> {
        let (Storage::Cpu(storage), &[batch, heads, ..], &[s0, s1, s2, s3]) =
            (storage, layout.dims(), layout.stride())
        else {
            bail!("a bias has four axes and is on the CPU, other than {layout:?}")
        };
        let of_axis = |len: usize, stride: usize| if len == 1 { 0 } else { stride };
        let strides = [of_axis(batch, s0), of_axis(heads, s1), s2, s3];
        Ok(Bias { values: values_from(storage, layout)?, strides })
    }

    /// Adds a query's bias to its scores from a key on.
    fn add_to(&self, row: &mut [f32], [batch, head, query]: [usize; 3], key: usize) {
        let [s0, s1, s2, s3] = self.strides;
        let start = batch * s0 + head * s1 + query * s2 + key * s3;
        if s3 == 1 {
            let bias = &self.values[start..start + row.len()];
            row.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        } else {
            row.iter_mut().enumerate().for_each(|(key, score)| *score += self.values[start + key * s3]);
        }
    }
}

/// Queries that are taken together: enough for a product of matrices to be fast, few enough that little of what is masked is
/// computed.
pub(crate) const BLOCK: usize = 64;

fn blocks(len: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(block.max(1)).map(move |start| start..len.min(start + block))
}

struct Scores<'a> {
    mask: Mask<'a>,
    becomes_pattern: bool,
}

impl CustomOp2 for Scores<'_> {
    fn name(&self) -> &'static str {
        "attention scores"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, k) = (Heads::of(q, q_layout)?, Heads::of(k, k_layout)?);
        let sizes = Sizes::of(q.dims, k.dims)?;
        let bias = self.mask.bias.map(Tensor::storage_and_layout);
        let mask = FittedMask::of(self.mask, sizes, bias.as_ref())?;
        let Sizes { batch, len, seen, heads, .. } = sizes;
        let mut out = pages::zeros(batch * heads * len * seen);
        let make = |(index, out): (usize, &mut [f32])| -> candle_core::Result<()> {
            let (batch, head) = (index / heads, index % heads);
            for queries in blocks(len, BLOCK) {
                let keys = mask.keys_of(batch, &queries);
                let rows = &mut out[queries.start * seen..queries.end * seen];
                MatrixMut::new(&mut rows[keys.start..], [queries.len(), keys.len()], seen)?.set(
                    q.matrix(batch, head, queries.clone())?,
                    k.matrix(batch, head / sizes.group, keys.clone())?.transposed(),
                    mask.scale,
                    false,
                )?;
                for (query, row) in queries.zip(rows.chunks_mut(seen)) {
                    let place = [batch, head, query];
                    if self.becomes_pattern {
                        mask.make_pattern(&mut row[keys.clone()], place, &keys);
                    } else {
                        let own = mask.keys(batch, query);
                        row[..own.start].fill(f32::NEG_INFINITY);
                        row[own.end..].fill(f32::NEG_INFINITY);
                        mask.make_scores(&mut row[own.clone()], place, &own);
                    }
                }
            }
            Ok(())
        };
        let of_head = (len * seen).max(1);
        if pages::below_parallel_threshold(batch * heads * of_head * sizes.width / 8) {
            out.chunks_mut(of_head).enumerate().try_for_each(make)?;
        } else {
            out.par_chunks_mut(of_head).enumerate().try_for_each(make)?;
        }
        Ok((CpuStorage::F32(out), Shape::from((batch, heads, len, seen))))
    }
}

struct Mix<'a> {
    mask: Option<Mask<'a>>,
}

impl CustomOp2 for Mix<'_> {
    fn name(&self) -> &'static str {
        "mix"
    }

    fn cpu_fwd(
        &self,
        pattern: &CpuStorage,
        pattern_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let v = Heads::of(v, v_layout)?;
        let &[batch, heads, len, seen] = pattern_layout.dims() else {
            bail!("a pattern has four axes, not those of {pattern_layout:?}")
        };
        let sizes = Sizes::of([batch, len, heads, v.dims[3]], v.dims)?;
        if seen != sizes.seen {
            bail!("a pattern of {seen} keys and {} values", sizes.seen);
        }
        let pattern = values(pattern, pattern_layout)?;
        let mask = self.mask.map(|mask| FittedMask::of(mask, sizes, None)).transpose()?;
        by_blocks(sizes, |batch, queries, out| {
            let keys = match &mask {
                Some(mask) => mask.keys_of(batch, &queries),
                None => 0..seen,
            };
            if keys.is_empty() {
                return Ok(());
            }
            for head in 0..heads {
                let rows = &pattern[((batch * heads + head) * len + queries.start) * seen + keys.start..];
                let rows = Matrix::new(rows, [queries.len(), keys.len()], [seen, 1])?;
                let values = v.matrix(batch, head / sizes.group, keys.clone())?;
                sizes.of_head(out, head, queries.len())?.set(rows, values, 1.0, false)?;
            }
            Ok(())
        })
    }
}

struct Attend<'a> {
    mask: Mask<'a>,
}

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, k, v) = (Heads::of(q, q_layout)?, Heads::of(k, k_layout)?, Heads::of(v, v_layout)?);
        let sizes = Sizes::of(q.dims, k.dims)?;
        if v.dims != k.dims {
            bail!("keys of {:?} and values of {:?}", k.dims, v.dims);
        }
        let bias = self.mask.bias.map(Tensor::storage_and_layout);
        let mask = FittedMask::of(self.mask, sizes, bias.as_ref())?;
        by_blocks(sizes, |batch, queries, out| {
            let keys = mask.keys_of(batch, &queries);
            if keys.is_empty() {
                return Ok(());
            }
            let mut pattern = vec![0f32; queries.len() * keys.len()];
            for head in 0..sizes.heads {
                let shape = [queries.len(), keys.len()];
                MatrixMut::new(&mut pattern, shape, keys.len())?.set(
                    q.matrix(batch, head, queries.clone())?,
                    k.matrix(batch, head / sizes.group, keys.clone())?.transposed(),
                    mask.scale,
                    false,
                )?;
                for (query, row) in queries.clone().zip(pattern.chunks_mut(keys.len())) {
                    mask.make_pattern(row, [batch, head, query], &keys);
                }
                let pattern = Matrix::new(&pattern, shape, [keys.len(), 1])?;
                let values = v.matrix(batch, head / sizes.group, keys.clone())?;
                sizes.of_head(out, head, queries.len())?.set(pattern, values, 1.0, false)?;
            }
            Ok(())
        })
    }
}

/// Makes `[B, T, H, D]`, zeros at first, a block of queries of one input at a time, with all their heads.
fn by_blocks(
    sizes: Sizes,
    make: impl Fn(usize, Range<usize>, &mut [f32]) -> candle_core::Result<()> + Send + Sync,
) -> candle_core::Result<(CpuStorage, Shape)> {
    let Sizes { batch, len, seen, heads, width, .. } = sizes;
    let row = heads * width;
    let mut out = vec![0f32; batch * len * row];
    let mut tasks = Vec::new();
    for (batch, out) in out.chunks_mut((len * row).max(1)).enumerate() {
        let block = BLOCK.min(len.div_ceil(rayon::current_num_threads()).max(16));
        let blocks = blocks(len, block).zip(out.chunks_mut((block * row).max(1)));
        tasks.extend(blocks.map(|(queries, out)| (batch, queries, out)));
    }
    let make = |(batch, queries, out)| make(batch, queries, out);
    if pages::below_parallel_threshold(batch * len * seen * row / 8) {
        tasks.into_iter().try_for_each(make)?;
    } else {
        // The last queries see most keys where not all do, and so are the longest work.
        tasks.into_par_iter().rev().with_max_len(1).try_for_each(make)?;
    }
    Ok((CpuStorage::F32(out), Shape::from((batch, len, heads, width))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::cpu::softmax;

    const HEADS: usize = 4;
    const WIDTH: usize = 8;
    const SCALE: f64 = 0.3;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    fn tensor(dims: [usize; 4], seed: usize) -> Result<Tensor> {
        Ok(Tensor::from_vec(values(dims.iter().product(), seed), dims.to_vec(), &Device::Cpu)?)
    }

    /// How far these are from their definition at most; what is to be 0 or -inf is that exactly.
    fn apart(a: &Tensor, b: &[f64]) -> Result<f64> {
        let a = a.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(a.len(), b.len());
        Ok(a.iter()
            .zip(b)
            .map(|(&a, &b)| match f64::from(a) {
                a if a == b => 0.0,
                a if b == 0.0 || !(a - b).is_finite() => f64::INFINITY,
                a => (a - b).abs(),
            })
            .fold(0.0, f64::max))
    }

    /// Scores, pattern, and what it mixes, in f64.
    struct Definition {
        scores: Vec<f64>,
        pattern: Vec<f64>,
        mixed: Vec<f64>,
    }

    impl Definition {
        fn of([q, k, v]: [&Tensor; 3], mask: Mask) -> Result<Definition> {
            let entries = |x: &Tensor| -> Result<Vec<f32>> { Ok(x.flatten_all()?.to_vec1::<f32>()?) };
            let (batch, len, _, _) = q.dims4()?;
            let (_, seen, keys, _) = k.dims4()?;
            let (qs, ks, vs) = (entries(q)?, entries(k)?, entries(v)?);
            let bias = mask.bias.map(|bias| entries(&bias.broadcast_as((batch, HEADS, len, seen))?));
            let bias = bias.transpose()?;
            let vector = |of: &[f32], place: usize| -> [f64; WIDTH] {
                std::array::from_fn(|d| f64::from(of[place * WIDTH + d]))
            };
            let (mut scores, mut pattern) = (Vec::new(), Vec::new());
            let mut mixed = vec![0f64; batch * len * HEADS * WIDTH];
            for row in 0..batch * HEADS * len {
                let (b, h, t) = (row / len / HEADS, row / len % HEADS, row % len);
                let sees = |s: usize| {
                    let by_place = match mask.visibility {
                        Visibility::Causal { window } => s <= t + seen - len && t + seen - len - s < window,
                        Visibility::Full => true,
                    };
                    by_place && mask.present.is_none_or(|present| present[b][s])
                };
                let at_key = |s: usize| (b * seen + s) * keys + h * keys / HEADS;
                let at_query = (b * len + t) * HEADS + h;
                let q = vector(&qs, at_query);
                let mut of_row = vec![f64::NEG_INFINITY; seen];
                for s in (0..seen).filter(|&s| sees(s)) {
                    let product: f64 = q.iter().zip(vector(&ks, at_key(s))).map(|(q, k)| q * k).sum();
                    of_row[s] =
                        mask.scale * product + bias.as_ref().map_or(0.0, |bias| bias[row * seen + s].into());
                }
                let total: f64 = of_row.iter().map(|score| score.exp()).sum();
                for (s, score) in of_row.iter().enumerate() {
                    let share = if sees(s) { score.exp() / total } else { 0.0 };
                    let mixed = &mut mixed[at_query * WIDTH..][..WIDTH];
                    mixed.iter_mut().zip(vector(&vs, at_key(s))).for_each(|(mixed, v)| *mixed += share * v);
                    pattern.push(share);
                }
                scores.extend(of_row);
            }
            Ok(Definition { scores, pattern, mixed })
        }

        /// All that is fused, and the same by candle's own operations.
        fn check(&self, [q, k, v]: [&Tensor; 3], mask: Mask, case: &str) -> Result<()> {
            assert!(apart(&scores(q, k, mask)?, &self.scores)? < 1e-6, "scores: {case}");
            assert!(
                apart(&softmax(&scores(q, k, mask)?)?, &self.pattern)? < 1e-6,
                "softmax of scores: {case}"
            );
            let pattern = pattern(q, k, mask)?;
            assert!(apart(&pattern, &self.pattern)? < 1e-6, "pattern: {case}");
            for mask in [Some(mask), None] {
                assert!(apart(&apply_pattern(&pattern, v, mask)?, &self.mixed)? < 2e-6, "mixed: {case}");
            }
            assert!(apart(&attend(q, k, v, mask)?, &self.mixed)? < 2e-6, "attend: {case}");

            let of_head =
                Tensor::from_iter((0..HEADS).map(|h| (h * k.dims()[2] / HEADS) as u32), &Device::Cpu)?;
            let (k, v) =
                (k.contiguous()?.index_select(&of_head, 2)?, v.contiguous()?.index_select(&of_head, 2)?);
            let q = (q.transpose(1, 2)?.contiguous()? * mask.scale)?; // (B, H, T, D)
            let products = q.matmul(&k.permute((0, 2, 3, 1))?.contiguous()?)?; // (B, H, T, S)
            let scores = match mask.to_tensor(products.dims4()?.into(), &Device::Cpu)? {
                Some(mask) => products.broadcast_add(&mask)?,
                None => products,
            };
            assert!(apart(&scores, &self.scores)? < 1e-6, "scores by candle: {case}");
            let pattern = softmax(&scores)?;
            assert!(apart(&pattern, &self.pattern)? < 1e-6, "pattern by candle: {case}");
            let mixed = pattern.matmul(&v.transpose(1, 2)?.contiguous()?)?.transpose(1, 2)?; // (B, T, H, D)
            assert!(apart(&mixed, &self.mixed)? < 2e-6, "mixed by candle: {case}");
            Ok(())
        }
    }

    /// Where keys are there, of inputs that differ.
    fn paddings(batch: usize, seen: usize) -> [(&'static str, Option<Vec<Vec<bool>>>); 6] {
        let each = |is_there: &dyn Fn(usize, usize) -> bool| {
            Some((0..batch).map(|b| (0..seen).map(|s| is_there(b, s)).collect()).collect())
        };
        let missing = |b: usize| seen * (b + 1) / 4;
        [
            ("no padding", None),
            ("right", each(&|b, s| s < seen - missing(b))),
            ("left", each(&|b, s| s >= missing(b))),
            ("both sides", each(&|b, s| s >= missing(b) / 2 && s < seen - missing(b) / 3)),
            ("holes", each(&|b, s| (s * s + b) % 5 > 1)),
            ("no key at all", each(&|b, _| b > 0)),
        ]
    }

    /// Of each shape that a bias may have, two of them views.
    fn biases(batch: usize, len: usize, seen: usize) -> Result<[(&'static str, Option<Tensor>); 4]> {
        Ok([
            ("no bias", None),
            ("bias by head", Some(tensor([1, HEADS, len, seen], 3)?)),
            ("bias by input", Some(tensor([batch, len, seen, HEADS], 4)?.permute((0, 3, 1, 2))?)),
            ("bias", Some(tensor([1, 1, len, seen + 2], 5)?.narrow(3, 1, seen)?)),
        ])
    }

    /// Against the definition in f64: whatever queries see, with padding, biases, shared keys and strides, and more
    /// queries than a block. HEADLIGHT_EVERY takes every so many of the cases alone, where each takes long.
    #[test]
    fn attention_is_its_definition() -> Result<()> {
        let every: usize =
            std::env::var("HEADLIGHT_EVERY").map_or(1, |every| every.parse().expect("a number"));
        let mut cases = 0usize;
        let causal = |window: usize| Visibility::Causal { window };
        for visibility in [causal(usize::MAX), causal(1), causal(7), causal(66), Visibility::Full] {
            for (len, seen) in [(1, 1), (1, 40), (5, 9), (9, 4), (1, 3), (70, 70), (70, 95), (70, 33)] {
                if visibility != Visibility::Full && seen < len {
                    continue;
                }
                for (batch, keys) in [(1, 4), (1, 2), (1, 1), (3, 4), (3, 2), (3, 1)] {
                    let q = tensor([batch, len, HEADS, WIDTH], 1)?;
                    let both = tensor([batch, seen, 2 * keys, WIDTH], 2)?;
                    let of = [&q, &both.narrow(2, 0, keys)?, &both.narrow(2, keys, keys)?];
                    for (padding, present) in &paddings(batch, seen) {
                        for (bias_kind, bias) in &biases(batch, len, seen)? {
                            cases += 1;
                            if !cases.is_multiple_of(every) {
                                continue;
                            }
                            let case = format!(
                                "{visibility:?}, {len} of {seen}, {batch} by {keys}, {padding}, {bias_kind}"
                            );
                            let (present, bias) = (present.as_deref(), bias.as_ref());
                            let mask = Mask { scale: SCALE, visibility, present, bias };
                            Definition::of(of, mask)?.check(of, mask, &case)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_an_error() -> Result<()> {
        let causal = Mask {
            scale: 1.0,
            visibility: Visibility::Causal { window: usize::MAX },
            present: None,
            bias: None,
        };
        let q = tensor([1, 5, 4, 8], 1)?;
        let full = Mask { visibility: Visibility::Full, ..causal };
        assert!(scores(&q, &tensor([1, 4, 4, 8], 2)?, full).is_ok());
        let check = |k: [usize; 4], mask: Mask| -> Result<()> {
            let k = tensor(k, 2)?;
            assert!(scores(&q, &k, mask).is_err(), "{k:?} {mask:?}");
            assert!(pattern(&q, &k, mask).is_err(), "{k:?} {mask:?}");
            assert!(attend(&q, &k, &k, mask).is_err(), "{k:?} {mask:?}");
            Ok(())
        };
        for k in [[1, 4, 4, 8], [1, 5, 3, 8], [2, 5, 4, 8], [1, 5, 4, 7]] {
            check(k, causal)?;
        }
        let mut masks = Vec::new();
        let presents = [vec![], vec![vec![true; 4]], vec![vec![true; 5]; 2]];
        masks.extend(presents.iter().map(|present| Mask { present: Some(present), ..full }));
        let biases = [[1, 4, 5, 4], [1, 4, 1, 5], [1, 2, 5, 5], [2, 4, 5, 5]].map(|dims| tensor(dims, 3));
        let mut biases = biases.into_iter().collect::<Result<Vec<Tensor>>>()?;
        biases.push(tensor([1, 1, 5, 5], 3)?.squeeze(0)?);
        masks.extend(biases.iter().map(|bias| Mask { bias: Some(bias), ..full }));
        for mask in masks {
            check([1, 5, 4, 8], mask)?;
            assert!(mask.to_tensor([1, 4, 5, 5], &Device::Cpu).is_err(), "{mask:?}");
            assert!(apply_pattern(&tensor([1, 4, 5, 5], 1)?, &q, Some(mask)).is_err(), "{mask:?}");
        }
        let bias = tensor([1, 4, 5, 5], 3)?.to_dtype(candle_core::DType::F64)?;
        check([1, 5, 4, 8], Mask { bias: Some(&bias), ..full })?;
        assert!(causal.to_tensor([1, 4, 5, 4], &Device::Cpu).is_err());
        assert!(apply_pattern(&tensor([1, 4, 5, 4], 1)?, &tensor([1, 4, 4, 8], 2)?, Some(causal)).is_err());
        assert!(apply_pattern(&tensor([1, 4, 5, 5], 1)?, &tensor([1, 6, 4, 8], 2)?, None).is_err());
        Ok(())
    }
}
