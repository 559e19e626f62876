//! Attention on the CPU, block of queries by block of queries: what is masked is not computed, and where nobody asks for
//! the scores or the pattern they are never made whole (Rabe and Staats 2021, "Self-attention Does Not Need O(n^2)
//! Memory"). None of these has a gradient.
//!
//! Shapes: B batch, T queries, S keys, H heads, K heads of keys and values, D width of a head.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::network::cpu::matrix::{Matrix, MatrixMut};
use crate::network::cpu::pages;
use crate::network::cpu::rows::{values, values_from};
use crate::network::cpu::softmax::softmax_of;

/// Which keys a query sees, and how their products are scaled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MaskSpec {
    pub(crate) scale: f64,
    /// How many keys a query sees at most, its own included.
    pub(crate) window: usize,
}

/// Scores `[B, H, T, S]` of queries `[B, T, H, D]` and keys `[B, S, K, D]`, -inf where a query does not look.
pub(crate) fn scores(q: &Tensor, k: &Tensor, mask: MaskSpec) -> Result<Tensor> {
    Ok(q.apply_op2_no_bwd(k, &Scores { mask, becomes_pattern: false })?)
}

/// The softmax of the scores `[B, H, T, S]`.
pub(crate) fn pattern(q: &Tensor, k: &Tensor, mask: MaskSpec) -> Result<Tensor> {
    Ok(q.apply_op2_no_bwd(k, &Scores { mask, becomes_pattern: true })?)
}

/// Values `[B, S, K, D]` as a pattern mixes them `[B, T, H, D]`; with `mask`, the pattern is 0 where a query does not look.
pub(crate) fn apply_pattern(pattern: &Tensor, v: &Tensor, mask: Option<MaskSpec>) -> Result<Tensor> {
    Ok(pattern.contiguous()?.apply_op2_no_bwd(v, &Mix { mask })?)
}

/// What attention mixes `[B, T, H, D]`, with neither scores nor pattern kept.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: MaskSpec) -> Result<Tensor> {
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
    fn matrix(
        &self,
        batch: usize,
        head: usize,
        positions: std::ops::Range<usize>,
    ) -> candle_core::Result<Matrix<'a>> {
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
        if batch != k_batch || width != k_width || keys == 0 || !heads.is_multiple_of(keys) || seen < len {
            bail!("queries of {q:?} and keys of {k:?}");
        }
        Ok(Sizes { batch, len, seen, heads, group: heads / keys, width })
    }

    /// The keys that a query sees.
    fn keys(&self, mask: MaskSpec, query: usize) -> std::ops::Range<usize> {
        let end = query + self.seen - self.len + 1;
        end.saturating_sub(mask.window)..end
    }

    /// The keys that some of these queries see.
    fn keys_of(&self, mask: MaskSpec, queries: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        match queries.end.checked_sub(1) {
            Some(last) => self.keys(mask, queries.start).start..self.keys(mask, last).end,
            None => 0..0,
        }
    }
}

/// Queries that are taken together: enough for a product of matrices to be fast, few enough that little of what is masked is
/// computed.
pub(crate) const BLOCK: usize = 64;

fn blocks(len: usize, block: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..len).step_by(block.max(1)).map(move |start| start..len.min(start + block))
}

struct Scores {
    mask: MaskSpec,
    becomes_pattern: bool,
}

impl CustomOp2 for Scores {
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
        let Sizes { batch, len, seen, heads, .. } = sizes;
        let mut out = pages::zeros(batch * heads * len * seen);
        let make = |(index, out): (usize, &mut [f32])| -> candle_core::Result<()> {
            let (batch, head) = (index / heads, index % heads);
            for queries in blocks(len, BLOCK) {
                let keys = sizes.keys_of(self.mask, &queries);
                let rows = &mut out[queries.start * seen..queries.end * seen];
                MatrixMut::new(&mut rows[keys.start..], [queries.len(), keys.len()], seen)?.set(
                    q.matrix(batch, head, queries.clone())?,
                    k.matrix(batch, head / sizes.group, keys.clone())?.transposed(),
                    self.mask.scale as f32,
                    false,
                )?;
                for (query, row) in queries.zip(rows.chunks_mut(seen)) {
                    let own = sizes.keys(self.mask, query);
                    if self.becomes_pattern {
                        row[keys.start..own.start].fill(0.0);
                        row[own.end..keys.end].fill(0.0);
                        softmax_of(&mut row[own]);
                    } else {
                        row[..own.start].fill(f32::NEG_INFINITY);
                        row[own.end..].fill(f32::NEG_INFINITY);
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

struct Mix {
    mask: Option<MaskSpec>,
}

impl CustomOp2 for Mix {
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
        by_blocks(sizes, |batch, queries, out| {
            let keys = match self.mask {
                Some(mask) => sizes.keys_of(mask, &queries),
                None => 0..seen,
            };
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

struct Attend {
    mask: MaskSpec,
}

impl CustomOp3 for Attend {
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
        by_blocks(sizes, |batch, queries, out| {
            let keys = sizes.keys_of(self.mask, &queries);
            let mut pattern = vec![0f32; queries.len() * keys.len()];
            for head in 0..sizes.heads {
                let shape = [queries.len(), keys.len()];
                MatrixMut::new(&mut pattern, shape, keys.len())?.set(
                    q.matrix(batch, head, queries.clone())?,
                    k.matrix(batch, head / sizes.group, keys.clone())?.transposed(),
                    self.mask.scale as f32,
                    false,
                )?;
                for (query, row) in queries.clone().zip(pattern.chunks_mut(keys.len())) {
                    let own = sizes.keys(self.mask, query);
                    let own = own.start - keys.start..own.end - keys.start;
                    row[..own.start].fill(0.0);
                    row[own.end..].fill(0.0);
                    softmax_of(&mut row[own]);
                }
                let pattern = Matrix::new(&pattern, shape, [keys.len(), 1])?;
                let values = v.matrix(batch, head / sizes.group, keys.clone())?;
                sizes.of_head(out, head, queries.len())?.set(pattern, values, 1.0, false)?;
            }
            Ok(())
        })
    }
}

impl Sizes {
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

/// Makes `[B, T, H, D]`, a block of queries of one input at a time, with all their heads.
fn by_blocks(
    sizes: Sizes,
    make: impl Fn(usize, std::ops::Range<usize>, &mut [f32]) -> candle_core::Result<()> + Send + Sync,
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
        // The last queries see most keys, and so are the longest work.
        tasks.into_par_iter().rev().with_max_len(1).try_for_each(make)?;
    }
    Ok((CpuStorage::F32(out), Shape::from((batch, len, heads, width))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    fn tensor(dims: [usize; 4], seed: usize) -> Result<Tensor> {
        Ok(Tensor::from_vec(values(dims.iter().product(), seed), dims.to_vec(), &Device::Cpu)?)
    }

    fn apart(a: &Tensor, b: &[f64]) -> Result<f64> {
        let a = a.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(a.len(), b.len());
        Ok(a.iter()
            .zip(b)
            .map(|(a, b)| if f64::from(*a) == *b { 0.0 } else { (f64::from(*a) - b).abs() })
            .fold(0.0, f64::max))
    }

    /// Against the definition in f64: more queries than a block, earlier keys, windows, shared keys, strides.
    #[test]
    fn attention_is_its_definition() -> Result<()> {
        let (batch, heads, keys, width) = (2, 4, 2, 8);
        for (len, seen, window) in [
            (150, 150, usize::MAX),
            (150, 150, 20),
            (70, 95, usize::MAX),
            (70, 95, 33),
            (1, 40, 7),
            (1, 1, 9),
        ] {
            let q = tensor([batch, len, heads, width], 1)?;
            let both = tensor([batch, seen, 2 * keys, width], 2)?;
            let (k, v) = (both.narrow(2, 0, keys)?, both.narrow(2, keys, keys)?);
            let mask = MaskSpec { scale: 0.3, window };
            let entry = |tensor: &Tensor| -> Result<Vec<f32>> { Ok(tensor.flatten_all()?.to_vec1::<f32>()?) };
            let (qs, ks, vs) = (entry(&q)?, entry(&k)?, entry(&v)?);
            let at = |of: &[f32], count: usize, n: usize, b: usize, t: usize, h: usize, d: usize| {
                f64::from(of[((b * count + t) * n + h) * width + d])
            };
            let (mut scores_then, mut pattern_then) = (Vec::new(), Vec::new());
            let mut mixed_then = vec![0f64; batch * len * heads * width];
            for (b, h, t) in
                (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..len).map(move |t| (b, h, t))))
            {
                let position = t + seen - len;
                let row: Vec<f64> = (0..seen)
                    .map(|s| match s <= position && position - s < window {
                        true => {
                            (0..width)
                                .map(|d| {
                                    at(&qs, len, heads, b, t, h, d) * at(&ks, seen, keys, b, s, h / 2, d)
                                })
                                .sum::<f64>()
                                * 0.3
                        }
                        false => f64::NEG_INFINITY,
                    })
                    .collect();
                let total: f64 = row.iter().map(|score| score.exp()).sum();
                for (s, score) in row.iter().enumerate() {
                    for d in 0..width {
                        mixed_then[((b * len + t) * heads + h) * width + d] +=
                            score.exp() / total * at(&vs, seen, keys, b, s, h / 2, d);
                    }
                }
                pattern_then.extend(row.iter().map(|score| score.exp() / total));
                scores_then.extend(row);
            }
            let case = format!("{len} of {seen}, window {window}");
            assert!(apart(&scores(&q, &k, mask)?, &scores_then)? < 1e-6, "{case}");
            let pattern = pattern(&q, &k, mask)?;
            assert!(apart(&pattern, &pattern_then)? < 1e-6, "{case}");
            for mask in [Some(mask), None] {
                assert!(apart(&apply_pattern(&pattern, &v, mask)?, &mixed_then)? < 2e-6, "{case}");
            }
            assert!(apart(&attend(&q, &k, &v, mask)?, &mixed_then)? < 2e-6, "{case}");
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_an_error() -> Result<()> {
        let mask = MaskSpec { scale: 1.0, window: usize::MAX };
        let q = tensor([1, 5, 4, 8], 1)?;
        for k in [[1, 4, 4, 8], [1, 5, 3, 8], [2, 5, 4, 8], [1, 5, 4, 7]] {
            assert!(scores(&q, &tensor(k, 2)?, mask).is_err(), "{k:?}");
        }
        assert!(apply_pattern(&tensor([1, 4, 5, 5], 1)?, &tensor([1, 6, 4, 8], 2)?, None).is_err());
        Ok(())
    }
}
