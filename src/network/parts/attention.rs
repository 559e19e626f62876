//! Attention (Vaswani et al. 2017), with as many heads of keys and values as of queries, or with fewer that query heads
//! share (Ainslie et al. 2023, "GQA").
//!
//! Shapes at the end of lines: B batch, T positions read now, S positions read so far, H query heads, K heads of keys and
//! values, D width of a head, M width of the residual stream.

use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Site};
use crate::network::cpu::attend;
use crate::network::cpu::attend::{Mask, Visibility};
use crate::network::cpu::{can_fuse, softmax};
use crate::network::parts::layer::{Keys, LayerCtx};
use crate::network::parts::linear::Linear;
use crate::network::parts::norm::{Norm, NormOf};
use crate::network::parts::rotary::Rotary;
use crate::network::spec::Sees;

/// The attention of a block.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) n_heads: usize,
    pub(crate) n_key_value_heads: usize,
    /// Queries, keys and values, head by head.
    pub(crate) qkv: Linear, // (M, (H + 2K) D)
    pub(crate) output: Linear, // (HD, M)
    pub(crate) scoring: ScoreSpec,
}

/// How queries and keys become attention scores.
#[derive(Clone, Debug)]
pub struct ScoreSpec {
    /// What their products are multiplied by.
    pub scale: f64,
    /// How many positions, its own included, a query looks back at most.
    pub window: Option<usize>,
    /// What turns them by their positions.
    pub rotary: Option<Rotary>,
    /// The norms of single heads' queries and keys, before they are turned.
    pub(crate) norms: Option<(Norm, Norm)>,
}

impl ScoreSpec {
    /// Products over the root of the heads' width, of every earlier position.
    pub(crate) fn plain(d_head: usize) -> ScoreSpec {
        ScoreSpec { scale: 1.0 / (d_head as f64).sqrt(), window: None, rotary: None, norms: None }
    }

    /// Whether single heads' queries and keys are normed, so that no scores are linear in what they read.
    pub fn is_normed(&self) -> bool {
        self.norms.is_some()
    }

    /// Queries and keys `[batch, position, head, d_head]` as the norms of single heads leave them.
    pub(crate) fn normed(&self, q: Tensor, k: Tensor) -> Result<(Tensor, Tensor)> {
        match &self.norms {
            Some((of_q, of_k)) => Ok((of_q.forward_untapped(q)?, of_k.forward_untapped(k)?)),
            None => Ok((q, k)),
        }
    }

    /// Which keys a query sees.
    pub(crate) fn visibility(&self) -> Visibility {
        Visibility::Causal { window: self.window.unwrap_or(usize::MAX) }
    }

    /// 0 where a query may look, -inf where the key lies ahead of it or too far back `[query, key]`. The last of `seen`
    /// keys is that of the last of `len` queries. Nothing where all queries may look everywhere.
    pub(crate) fn mask(&self, len: usize, seen: usize, device: &Device) -> Result<Option<Tensor>> {
        self.visibility().to_tensor(len, seen, device)
    }
}

fn no_source(layer: &LayerCtx) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("layer {} of the {} has nothing to attend to", layer.index, layer.stack),
    )
}

/// Queries, keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projection {
    Q,
    K,
    V,
}

impl Attention {
    /// What attention adds to the residual stream `pre`, which it reads through a norm if there is one before it. Cross-attention
    /// has keys and values of what another stack left.
    pub(crate) fn forward(
        &self,
        before: Option<&Norm>,
        pre: &Tensor,
        layer: &mut LayerCtx,
    ) -> Result<Tensor> {
        let source = match layer.attn {
            Attn::Own => None,
            Attn::Cross => Some(layer.source.ok_or_else(|| no_source(layer))?),
        };
        let read = source.map_or(pre, |source| source.stream);
        let inputs = self.split_inputs([pre, read, read], layer)?; // three of (B, T, H or K, M), where changed
        let normalized = match before {
            Some(before) => {
                let of = if source.is_some() { NormOf::Cross } else { NormOf::Attention };
                let shown = of.sites().map(|site| layer.hook(site));
                before.forward(pre.clone(), shown, layer.tap)? // (B, T, M)
            }
            None => pre.clone(),
        };
        let [q, k, v] = match source {
            None => self.project(&normalized)?, // (B, T, H, D), (B, T, K, D) twice
            Some(source) => {
                let q = self.project_queries(&normalized)?; // (B, T, H, D)
                let [k, v] = layer.crossed(|| self.project_keys_and_values(source.stream))?; // (B, S, K, D)
                [q, k, v]
            }
        };
        // What another stack left was normed there.
        let of_keys = before.filter(|_| source.is_none());
        let [q, k, v] = self.project_split([before, of_keys, of_keys], inputs, [q, k, v])?;
        let q = layer.at(Site::Q, q)?;
        let k = layer.at(Site::K, k)?;
        let v = layer.at(Site::V, v)?;
        let (mut q, mut k) = self.scoring.normed(q, k)?;
        if let Some(rotary) = &self.scoring.rotary {
            let start = layer.positions_before();
            q = layer.at(Site::RotQ, rotary.rotate(&q, start)?)?; // (B, T, H, D)
            k = layer.at(Site::RotK, rotary.rotate(&k, start)?)?; // (B, T, K, D)
        }
        let (k, v) = match source {
            None => layer.with_past(k, v)?, // (B, S, K, D)
            Some(_) => (k, v),
        };
        let keys = source.map_or(layer.own, |source| source.keys);
        let z = self.attend(&q, &k, &v, keys, layer)?; // (B, T, H, D)
        let z = layer.at(Site::Z, z)?; // (B, T, H, D)
        if layer.wants(Site::Result) {
            let result = self.result(&z)?; // (B, T, H, M)
            let given = layer.at(Site::Result, result.clone())?;
            if given.id() != result.id() {
                return Ok(given.sum(2)?.broadcast_add(&self.output.bias_or_zeros()?)?); // (B, T, M)
            }
        }
        self.output.forward(&z.flatten_from(2)?) // (B, T, M)
    }

    /// Keys and values `[batch, position, head, d_head]`, as [`forward`](Attention::forward) leaves them behind, of positions
    /// from `start` on whose attention nobody reads.
    pub(crate) fn keys_and_values(
        &self,
        before: Option<&Norm>,
        pre: Tensor,
        start: usize,
    ) -> Result<(Tensor, Tensor)> {
        let pre = match before {
            Some(before) => before.forward_untapped(pre)?,
            None => pre,
        };
        let [k, v] = self.project_keys_and_values(&pre)?; // (B, T, K, D)
        let k = match &self.scoring.norms {
            Some((_, of_k)) => of_k.forward_untapped(k)?,
            None => k,
        };
        Ok(match &self.scoring.rotary {
            Some(rotary) => (rotary.rotate(&k, start)?, v),
            None => (k, v),
        })
    }

    /// Keys and values `[batch, position, head, d_head]` of what is read.
    fn project_keys_and_values(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        let (batch, len, _) = x.dims3()?;
        let (first, heads) = self.head_range(Projection::K);
        let both = self.some_heads(first, 2 * heads)?.forward(x)?; // (B, S, 2KD)
        let both = both.reshape((batch, len, 2 * heads, ()))?; // (B, S, 2K, D)
        Ok([both.narrow(2, 0, heads)?, both.narrow(2, heads, heads)?]) // (B, S, K, D)
    }

    /// The linear map to some of the heads of queries, keys and values.
    fn some_heads(&self, first: usize, heads: usize) -> Result<Linear> {
        let d_head = self.qkv.weight.dims2()?.1 / (self.n_heads + 2 * self.n_key_value_heads);
        let (first, width) = (first * d_head, heads * d_head);
        Ok(Linear {
            weight: self.qkv.weight.narrow_columns(first, width)?,
            bias: self.qkv.bias.as_ref().map(|bias| bias.narrow(0, first, width)).transpose()?,
        })
    }

    /// Queries `[batch, position, head, d_head]` of what is read.
    fn project_queries(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        let q = self.some_heads(0, self.n_heads)?.forward(x)?; // (B, T, HD)
        Ok(q.reshape((batch, len, self.n_heads, ()))?) // (B, T, H, D)
    }

    /// What the tap made of each head's own copy of the residual stream; nothing where it changed nothing,
    /// so that reading these copies costs a view.
    fn split_inputs(&self, read: [&Tensor; 3], layer: &mut LayerCtx) -> Result<[Option<Tensor>; 3]> {
        let mut changed = [None, None, None];
        let sites =
            [(Site::QInput, Projection::Q), (Site::KInput, Projection::K), (Site::VInput, Projection::V)];
        for ((slot, read), (site, part)) in changed.iter_mut().zip(read).zip(sites) {
            if layer.wants(site) {
                let (batch, len, width) = read.dims3()?;
                let (_, heads) = self.head_range(part);
                let copies = read.unsqueeze(2)?.broadcast_as((batch, len, heads, width))?;
                let given = layer.at(site, copies.clone())?; // (B, T, H or K, M)
                *slot = (given.id() != copies.id()).then_some(given);
            }
        }
        Ok(changed)
    }

    fn project(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let (batch, len, _) = x.dims3()?;
        let heads = self.n_heads + 2 * self.n_key_value_heads;
        let all = self.qkv.forward(x)?; // (B, T, (H + 2K) D)
        let all = all.reshape((batch, len, heads, all.dim(2)? / heads))?; // (B, T, H + 2K, D)
        let part = |part: Projection| -> Result<Tensor> {
            let (first, heads) = self.head_range(part);
            Ok(all.narrow(2, first, heads)?) // (B, T, H or K, D)
        };
        Ok([part(Projection::Q)?, part(Projection::K)?, part(Projection::V)?])
    }

    fn project_split(
        &self,
        before: [Option<&Norm>; 3],
        inputs: [Option<Tensor>; 3],
        shared: [Tensor; 3],
    ) -> Result<[Tensor; 3]> {
        let mut projected = shared;
        let parts = [Projection::Q, Projection::K, Projection::V];
        for (((slot, input), before), part) in projected.iter_mut().zip(inputs).zip(before).zip(parts) {
            if let Some(input) = input {
                let read = match before {
                    Some(before) => before.forward_untapped(input)?,
                    None => input,
                };
                *slot = self.project_per_head(part, &read)?; // (B, T, H, D)
            }
        }
        Ok(projected)
    }

    /// Queries, keys or values where each head reads an input of its own.
    fn project_per_head(&self, part: Projection, x: &Tensor) -> Result<Tensor> {
        let (batch, len, heads, width) = x.dims4()?;
        let x = x.permute((2, 0, 1, 3))?.reshape((heads, batch * len, width))?; // (H, BT, M)
        let y = x.matmul(&self.weight(part)?.contiguous()?)?; // (H, BT, D)
        let y = y.reshape((heads, batch, len, y.dim(2)?))?.permute((1, 2, 0, 3))?; // (B, T, H, D)
        Ok(y.contiguous()?.broadcast_add(&self.bias(part)?)?) // (B, T, H, D)
    }

    /// The values as queries and keys mix them, by way of scores and pattern where somebody asks for these.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, keys: Keys, layer: &mut LayerCtx) -> Result<Tensor> {
        let visibility = match keys.sees {
            Sees::Earlier => self.scoring.visibility(),
            Sees::All => Visibility::Full,
        };
        let mask = Mask { scale: self.scoring.scale, visibility, present: keys.present, bias: keys.bias };
        if !can_fuse([q, k, v].into_iter().chain(mask.bias)) {
            let scores = layer.at(Site::AttnScores, self.scores(q, k, mask)?)?; // (B, H, T, S)
            let pattern = layer.at(Site::Pattern, softmax(&scores)?)?; // (B, H, T, S)
            return self.apply_pattern(&pattern, v); // (B, T, H, D)
        }
        let (pattern, masked) = match (layer.wants(Site::AttnScores), layer.wants(Site::Pattern)) {
            (false, false) => return attend::attend(q, k, v, mask), // (B, T, H, D)
            (false, true) => (attend::pattern(q, k, mask)?, true),  // (B, H, T, S)
            (true, _) => {
                let scores = attend::scores(q, k, mask)?; // (B, H, T, S)
                let given = layer.at(Site::AttnScores, scores.clone())?; // (B, H, T, S)
                (softmax(&given)?, given.id() == scores.id()) // (B, H, T, S)
            }
        };
        let given = layer.at(Site::Pattern, pattern.clone())?; // (B, H, T, S)
        // A gradient may begin here.
        if !can_fuse([&given]) {
            return self.apply_pattern(&given, v); // (B, T, H, D)
        }
        // Somebody may have put attention where there was none.
        let mask = (masked && given.id() == pattern.id()).then_some(mask);
        attend::apply_pattern(&given, v, mask) // (B, T, H, D)
    }

    fn scores(&self, q: &Tensor, k: &Tensor, mask: Mask) -> Result<Tensor> {
        let q = (q.transpose(1, 2)?.contiguous()? * mask.scale)?; // (B, H, T, D)
        let k = k.permute((0, 2, 3, 1))?.contiguous()?; // (B, K, D, S)
        let (batch, heads, len, width) = q.dims4()?;
        let seen = k.dim(3)?;
        // The queries of heads that share a key stand one after another, as if they were more positions.
        let q = q.reshape((batch, self.n_key_value_heads, (), width))?; // (B, K, HT/K, D)
        let scores = q.matmul(&k)?.reshape((batch, heads, len, seen))?; // (B, H, T, S)
        Ok(match mask.to_tensor([batch, heads, len, seen], scores.device())? {
            Some(mask) => scores.broadcast_add(&mask)?, // (B, H, T, S)
            None => scores,
        })
    }

    /// The values as a pattern mixes them.
    fn apply_pattern(&self, pattern: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (batch, heads, len, seen) = pattern.dims4()?;
        let v = v.transpose(1, 2)?.contiguous()?; // (B, K, S, D)
        let pattern = pattern.reshape((batch, self.n_key_value_heads, (), seen))?; // (B, K, HT/K, S)
        let z = pattern.matmul(&v)?.reshape((batch, heads, len, v.dim(3)?))?; // (B, H, T, D)
        Ok(z.transpose(1, 2)?.contiguous()?) // (B, T, H, D)
    }

    fn result(&self, z: &Tensor) -> Result<Tensor> {
        let (batch, len, heads, width) = z.dims4()?;
        let z = z.permute((2, 0, 1, 3))?.reshape((heads, batch * len, width))?; // (H, BT, D)
        let result = z.matmul(&self.w_o()?.contiguous()?)?; // (H, BT, M)
        let result = result.reshape((heads, batch, len, result.dim(2)?))?; // (H, B, T, M)
        Ok(result.permute((1, 2, 0, 3))?) // (B, T, H, M)
    }

    /// The first head of a part among those of `qkv`, and how many it has.
    fn head_range(&self, part: Projection) -> (usize, usize) {
        match part {
            Projection::Q => (0, self.n_heads),
            Projection::K => (self.n_heads, self.n_key_value_heads),
            Projection::V => (self.n_heads + self.n_key_value_heads, self.n_key_value_heads),
        }
    }

    /// W_Q, W_K or W_V.
    pub(crate) fn weight(&self, part: Projection) -> Result<Tensor> {
        let (first, heads) = self.head_range(part);
        let d_head = self.qkv.weight.dims2()?.1 / (self.n_heads + 2 * self.n_key_value_heads);
        self.qkv.weight.column_groups(first, heads, d_head) // (H or K, M, D)
    }

    /// b_Q, b_K or b_V, as a view.
    pub(crate) fn bias(&self, part: Projection) -> Result<Tensor> {
        let (first, heads) = self.head_range(part);
        let every = self.n_heads + 2 * self.n_key_value_heads;
        let bias = self.qkv.bias_or_zeros()?.reshape((every, ()))?; // (H + 2K, D)
        Ok(bias.narrow(0, first, heads)?) // (H or K, D)
    }

    /// W_O.
    pub(crate) fn w_o(&self) -> Result<Tensor> {
        let (all, width) = self.output.weight.dims2()?;
        let (heads, d_head) = (self.n_heads, all / self.n_heads);
        let weight = self.output.weight.tensor()?; // (HD, M)
        Ok(if weight.is_contiguous() {
            weight.reshape((heads, d_head, width))? // (H, D, M)
        } else {
            weight.t()?.reshape((width, heads, d_head))?.permute((1, 2, 0))? // (H, D, M)
        })
    }
}
