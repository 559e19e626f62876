//! The forward pass written out, number by number in f64: what toys are held to.

use candle_core::Tensor;

use crate::error::Result;
use crate::model::picture::Picture;
use crate::network::network::{Network, StackNetwork};
use crate::network::parts::attention::Attention;
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::embedding::Embedding;
use crate::network::parts::linear::Linear;
use crate::network::parts::norm::Norm;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::{NormKind, Pooling, PositionEncoding, Sees};

/// Rows, one for each position.
pub(super) type Rows = Vec<Vec<f64>>;

fn rows(tensor: &Tensor) -> Result<Rows> {
    let rows = tensor.to_vec2::<f32>()?;
    Ok(rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect())
}

fn row(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

fn linear(x: &Rows, map: &Linear) -> Result<Rows> {
    let (w, b) = (rows(&map.weight.tensor()?)?, row(&map.bias_or_zeros()?)?);
    let out = |x: &Vec<f64>| {
        (0..b.len()).map(|j| b[j] + (0..x.len()).map(|i| x[i] * w[i][j]).sum::<f64>()).collect()
    };
    Ok(x.iter().map(out).collect())
}

fn norm(x: &Rows, norm: &Norm) -> Result<Rows> {
    let (Some(gain), Some(bias)) = (&norm.gain, &norm.bias) else { return Ok(x.clone()) };
    let (gain, bias) = (row(gain)?, row(bias)?);
    let out = |x: &Vec<f64>| {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        (0..x.len()).map(|i| (x[i] - mean) / (variance + norm.eps).sqrt() * gain[i] + bias[i]).collect()
    };
    Ok(x.iter().map(out).collect())
}

fn plus(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

/// Queries of one stream on keys and values of another; `sees` says by their places which query sees which key. What it adds,
/// and the pattern of each head.
fn attend(
    attn: &Attention,
    x: &Rows,
    source: &Rows,
    sees: impl Fn(usize, usize) -> bool,
    bias: impl Fn(usize, usize, usize) -> f64,
) -> Result<(Rows, Vec<Rows>)> {
    let (heads, shared) = (attn.n_heads, attn.n_key_value_heads);
    let of_x = linear(x, &attn.qkv)?;
    let of_source = linear(source, &attn.qkv)?;
    let d = of_x[0].len() / (heads + 2 * shared);
    let mut mixed = vec![vec![0.0; heads * d]; x.len()];
    let mut patterns = Vec::new();
    for h in 0..heads {
        let (k_at, v_at) = ((heads + h * shared / heads) * d, (heads + shared + h * shared / heads) * d);
        let mut pattern = Vec::new();
        for (t, query) in of_x.iter().enumerate() {
            let score = |key: &Vec<f64>| {
                (0..d).map(|i| query[h * d + i] * key[k_at + i]).sum::<f64>() / (d as f64).sqrt()
            };
            let exps: Vec<f64> = of_source
                .iter()
                .enumerate()
                .map(|(s, key)| if sees(t, s) { (score(key) + bias(h, t, s)).exp() } else { 0.0 })
                .collect();
            let total: f64 = exps.iter().sum();
            for (s, exp) in exps.iter().enumerate() {
                (0..d).for_each(|i| mixed[t][h * d + i] += exp / total * of_source[s][v_at + i]);
            }
            pattern.push(exps.iter().map(|exp| exp / total).collect());
        }
        patterns.push(pattern);
    }
    Ok((linear(&mixed, &attn.output)?, patterns))
}

fn mlp(block: &Block, x: &Rows) -> Result<Rows> {
    let (_, mlp) = block.mlp.as_ref().expect("toys have MLPs");
    let pre = linear(x, &mlp.input)?;
    let post = pre.iter().map(|row| row.iter().map(|x| x.max(0.0)).collect()).collect();
    linear(&post, &mlp.output)
}

/// What a stack makes of ids: the stream behind its last norm, and the patterns of its own and of its cross-attention, layer by
/// layer.
pub(super) struct Outcome {
    pub(super) stream: Rows,
    pub(super) own: Vec<Vec<Rows>>,
    pub(super) cross: Vec<Vec<Rows>>,
}

/// What a stack reads.
pub(super) enum Read<'a> {
    Ids(&'a [u32]),
    Picture(&'a Picture),
}

fn embed(embedding: &Embedding, read: &Read) -> Result<Rows> {
    match (embedding, read) {
        (Embedding::Tokens(w_e), Read::Ids(ids)) => {
            let w_e = rows(&w_e.tensor()?)?;
            Ok(ids.iter().map(|id| w_e[*id as usize].clone()).collect())
        }
        // Pictures of 6 x 6 in patches of 2 x 2, behind a class token: the pixel of each place of a patch, colour by colour.
        (Embedding::Patches { patch, class: Some(class) }, Read::Picture(picture)) => {
            let pixel = |row: usize, column: usize, place: usize| {
                let (colour, y, x) = (place / 4, 2 * row + place % 4 / 2, 2 * column + place % 2);
                (f64::from(picture.rgb()[3 * (6 * y + x) + colour]) / 255.0 - 0.5) / 0.5
            };
            let patches =
                (0..9).map(|at| (0..12).map(|place| pixel(at / 3, at % 3, place)).collect()).collect();
            Ok(std::iter::once(row(class)?).chain(linear(&patches, patch)?).collect())
        }
        _ => unreachable!("no toy is so built"),
    }
}

fn stack(stack: &StackNetwork, read: &Read, source: Option<&Rows>) -> Result<Outcome> {
    let mut x = embed(&stack.embedding, read)?;
    x = match (stack.positions, &stack.w_pos) {
        (PositionEncoding::Sinusoidal, _) => plus(&x, &sinusoids(x.len(), stack.dims.d_model)),
        (_, Some(w_pos)) => plus(&x, &rows(w_pos)?[..x.len()].to_vec()),
        (_, None) => x,
    };
    if let Some(table) = &stack.token_types {
        let first = rows(table)?[0].clone();
        x = plus(&x, &vec![first; x.len()]);
    }
    if stack.ln_embed.kind != NormKind::None {
        x = norm(&x, &stack.ln_embed)?;
    }
    let biases = stack.relative_bias.as_ref().map(|bias| rows(&bias.table)).transpose()?;
    let bias = |h: usize, t: usize, s: usize| {
        biases.as_ref().map_or(0.0, |table| table[bucket(t, s, stack.sees)][h])
    };
    let (mut own, mut across) = (Vec::new(), Vec::new());
    let sees = |t: usize, s: usize| stack.sees == Sees::All || s <= t;
    for block in &stack.blocks {
        let (last, _) = block.mlp.as_ref().expect("toys have MLPs");
        let after = |which: usize, out: Rows| match &block.after {
            Some(norms) => norm(&out, &norms[which]),
            None => Ok(out),
        };
        match stack.block_kind {
            BlockKind::Serial => {
                let read = norm(&x, &block.ln1)?;
                let (out, pattern) = attend(&block.attn, &read, &read, sees, bias)?;
                x = plus(&x, &after(0, out)?);
                own.push(pattern);
                if let (Some((before, cross)), Some(source)) = (&block.cross, source) {
                    let (out, pattern) =
                        attend(cross, &norm(&x, before)?, source, |_, _| true, |_, _, _| 0.0)?;
                    x = plus(&x, &out);
                    across.push(pattern);
                }
                x = plus(&x, &after(1, mlp(block, &norm(&x, last)?)?)?);
            }
            BlockKind::PostNorm => {
                let (out, pattern) = attend(&block.attn, &x, &x, sees, bias)?;
                x = norm(&plus(&x, &out), &block.ln1)?;
                own.push(pattern);
                if let (Some((after, cross)), Some(source)) = (&block.cross, source) {
                    let (out, pattern) = attend(cross, &x, source, |_, _| true, |_, _, _| 0.0)?;
                    x = norm(&plus(&x, &out), after)?;
                    across.push(pattern);
                }
                x = norm(&plus(&x, &mlp(block, &x)?), last)?;
            }
            BlockKind::Parallel | BlockKind::AttentionOnly => unreachable!("no toy is so built"),
        }
    }
    Ok(Outcome { stream: norm(&x, &stack.ln_final)?, own, cross: across })
}

/// What each stack makes of its ids, and the logits.
pub(super) fn forward(network: &Network, ids: &[&[u32]]) -> Result<(Vec<Outcome>, Rows)> {
    let read: Vec<Read> = ids.iter().map(|ids| Read::Ids(ids)).collect();
    read_out(network, &read)
}

/// What each stack makes of what it reads, and what is read out: logits, one row of classes, or one similarity.
pub(super) fn read_out(network: &Network, read: &[Read]) -> Result<(Vec<Outcome>, Rows)> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let at = |stack| network.stacks.iter().position(|own| own.stack == stack).expect("a stack");
    for (own, read) in network.stacks.iter().zip(read) {
        let source = own.crosses.map(|source| outcomes[at(source)].stream.clone());
        outcomes.push(stack(own, read, source.as_ref())?);
    }
    let pooled = |stack, pooling| {
        let stream = &outcomes[at(stack)].stream;
        vec![stream[if pooling == Pooling::First { 0 } else { stream.len() - 1 }].clone()]
    };
    let read = match &network.readout {
        ReadoutLayer::Vocabulary { of, head, unembed } => {
            let mut x = outcomes[at(*of)].stream.clone();
            if let Some(head) = head {
                let dense = linear(&x, &head.dense)?;
                let open: Rows = dense.iter().map(|row| row.iter().map(|x| x.max(0.0)).collect()).collect();
                x = norm(&open, &head.norm)?;
            }
            linear(&x, unembed)?
        }
        ReadoutLayer::Pooled { of, pooler, .. } => {
            let mut x = linear(&pooled(*of, Pooling::First), pooler)?;
            x[0].iter_mut().for_each(|x| *x = x.tanh());
            x
        }
        ReadoutLayer::Classes { of, pooling, pooler, classify, .. } => {
            let mut x = pooled(*of, *pooling);
            if let Some((pooler, _)) = pooler {
                x = linear(&x, pooler)?;
                x[0].iter_mut().for_each(|x| *x = x.tanh());
            }
            linear(&x, classify)?
        }
        ReadoutLayer::Similarity { towers, scale } => {
            let of = |which: usize| -> Result<Vec<f64>> {
                let tower = &towers[which];
                Ok(linear(&pooled(tower.of, tower.pooling), &tower.projection)?.remove(0))
            };
            let (a, b) = (of(0)?, of(1)?);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            vec![vec![scale * dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()]]
        }
        ReadoutLayer::Nothing => Rows::new(),
    };
    Ok((outcomes, read))
}

/// Sines of every other dimension's angle, and then the cosines of the rest.
fn sinusoids(len: usize, width: usize) -> Rows {
    let angle =
        |t: usize, i: usize| t as f64 * (-(((i / 2) * 2) as f64) * 10_000f64.ln() / width as f64).exp();
    let row = |t: usize| {
        let sines = (0..width).step_by(2).map(|i| angle(t, i).sin());
        sines.chain((1..width).step_by(2).map(|i| angle(t, i).cos())).collect()
    };
    (0..len).map(row).collect()
}

/// The bucket of 8, with a furthest distance of 5, that a key has for a query: listed by their distance.
fn bucket(query: usize, key: usize, sees: Sees) -> usize {
    let apart = query.abs_diff(key).min(9);
    match (sees, key > query) {
        (Sees::Earlier, true) => 0,
        // 4 of their own, then 4 times (5 / 4) to the quarters.
        (Sees::Earlier, false) => [0, 1, 2, 3, 4, 7, 7, 7, 7, 7][apart],
        // 2 of their own on each side, then 2 times (5 / 2) to the half.
        (Sees::All, false) => [0, 1, 2, 2, 3, 3, 3, 3, 3, 3][apart],
        (Sees::All, true) => 4 + [0, 1, 2, 2, 3, 3, 3, 3, 3, 3][apart],
    }
}
