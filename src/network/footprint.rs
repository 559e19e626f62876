//! How much memory a run takes at its widest, before it is made: the way through the blocks, as `network`, `attention`, `mlp` and
//! `norm` go it without a gradient to track, with sizes in place of tensors. `tests/memory.rs` holds it to what runs take.

use rayon::current_num_threads;

use crate::hook::{Hook, Site};
use crate::network::cpu::attend::BLOCK;
use crate::network::dims::Dims;
use crate::network::network::Network;
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::Activation;
use crate::network::spec::{MlpKind, NormKind};
use crate::network::start::{Past, Start};
use crate::network::tap::{Tap, hook};

impl Dims {
    /// How many numbers an activation has, of `batch` inputs of `len` positions that see `seen` keys.
    pub(crate) fn numbers(&self, site: Site, batch: usize, len: usize, seen: usize) -> u64 {
        let lens = site.axes().iter().map(|&axis| self.axis_len(axis, len, seen));
        lens.fold(batch as u64, |product, len| product.saturating_mul(len as u64))
    }
}

/// Copies of an activation that are there at once where it is changed.
pub(crate) const CHANGING: u64 = 3;

impl Network {
    /// The most bytes that a run takes at once beyond what is there before it, with what its tap keeps.
    pub(crate) fn footprint(&self, start: &Start, past: Option<&Past>, tap: &dyn Tap) -> u64 {
        let (first, batch, len) = match start {
            Start::Tokens(ids) => (0, ids.dims().first(), ids.dims().get(1)),
            Start::Residual { layer, stream } => (*layer, stream.dims().first(), stream.dims().get(1)),
        };
        let (Some(&batch), Some(&len)) = (batch, len) else { return 0 };
        let mut walk = Walk { network: self, tap, past, batch, len, layer: None, held: 0, most: 0 };
        let mut stays = walk.begin(matches!(start, Start::Tokens(_)));
        for layer in first..self.blocks.len() {
            walk.layer = Some(layer);
            stays = walk.block(stays);
            if tap.stop_after() == Some(layer) {
                return walk.most.saturating_mul(4);
            }
        }
        walk.layer = None;
        walk.unembed();
        walk.most.saturating_mul(4)
    }
}

/// Where a run is, in numbers.
struct Walk<'a> {
    network: &'a Network,
    tap: &'a dyn Tap,
    past: Option<&'a Past>,
    batch: usize,
    len: usize,
    layer: Option<usize>,
    held: u64,
    most: u64,
}

impl Walk<'_> {
    fn hook(&self, site: Site) -> Hook {
        hook(site, self.layer)
    }

    fn wants(&self, site: Site) -> bool {
        self.tap.wants(self.hook(site))
    }

    fn keeps(&self, site: Site) -> bool {
        self.wants(site) && self.tap.keeps(self.hook(site))
    }

    fn before(&self) -> usize {
        self.past.zip(self.layer).map_or(0, |(past, layer)| past.len_at(layer))
    }

    fn size(&self, site: Site) -> u64 {
        self.network.dims.numbers(site, self.batch, self.len, self.len + self.before())
    }

    fn make(&mut self, numbers: u64) -> u64 {
        self.held = self.held.saturating_add(numbers);
        self.most = self.most.max(self.held);
        numbers
    }

    fn free(&mut self, numbers: u64) {
        self.held = self.held.saturating_sub(numbers);
    }

    /// What is made and let go at once.
    fn pass(&mut self, numbers: u64) {
        self.make(numbers);
        self.free(numbers);
    }

    /// What is let go unless it is kept.
    fn leave(&mut self, site: Site, numbers: u64) {
        if !self.keeps(site) {
            self.free(numbers);
        }
    }

    /// What is wanted and not kept is wanted for a change.
    fn change(&mut self, site: Site) {
        if self.wants(site) && !self.keeps(site) {
            self.pass(CHANGING * self.size(site));
        }
    }

    /// The stream before the first block; whether something besides it holds it.
    fn begin(&mut self, from_tokens: bool) -> bool {
        let stream = self.make(self.size(Site::ResidPre));
        if !from_tokens {
            return true; // Whoever gave it may still have it.
        }
        self.change(Site::Embed);
        if self.network.w_pos.is_none() {
            return self.keeps(Site::Embed);
        }
        self.change(Site::PosEmbed);
        self.make(stream);
        self.leave(Site::Embed, stream);
        false
    }

    /// Goes through a block whose stream is held by others or not, and says the same of the one that it leaves.
    fn block(&mut self, stays: bool) -> bool {
        use Site::*;
        let stream = self.size(ResidPre);
        let spec = self.network.spec();
        self.change(ResidPre);
        self.attention();
        self.change(AttnOut);
        let (with_mlp, serial) = (spec.mlp != MlpKind::None, spec.has(ResidMid));
        if serial {
            self.make(stream);
            self.change(ResidMid);
        }
        if with_mlp {
            self.mlp();
            self.change(MlpOut);
            // Attention and MLP are added one after another.
            self.pass(if serial { 0 } else { 2 * stream });
        }
        self.make(stream);
        self.change(ResidPost);
        let inputs = [QInput, KInput, VInput].iter().any(|&site| self.keeps(site));
        let read_by_mlp = with_mlp && self.keeps(MlpIn);
        if !(stays || self.keeps(ResidPre) || inputs || read_by_mlp && !serial) {
            self.free(stream);
        }
        if serial && !(self.keeps(ResidMid) || read_by_mlp) {
            self.free(stream);
        }
        self.leave(AttnOut, stream);
        if with_mlp {
            self.leave(MlpOut, stream);
        }
        self.keeps(ResidPost)
    }

    /// A norm, which leaves its outcome; gives its size.
    fn norm(&mut self, kind: NormKind, scale: Site, normalized: Site) -> u64 {
        if kind == NormKind::None {
            return 0;
        }
        if self.wants(scale) {
            let numbers = self.make(self.size(scale));
            self.change(scale);
            self.leave(scale, numbers);
        }
        let stream = self.make(self.size(normalized));
        if self.wants(normalized) {
            self.change(normalized);
            self.make(stream);
            self.leave(normalized, stream);
        }
        stream
    }

    /// What attention writes is left, and what is kept of its inside.
    fn attention(&mut self) {
        use Site::*;
        let Some(block) = self.layer.and_then(|layer| self.network.blocks.get(layer)) else { return };
        let attn = &block.attn;
        let (q, kv) = (self.size(Q), self.size(K));
        for site in [QInput, KInput, VInput] {
            self.change(site);
            // Each head then reads its own.
            if self.wants(site) && !self.keeps(site) {
                self.pass((CHANGING + 2) * self.size(site));
            }
        }
        let mut inside = self.norm(block.ln1.kind, Ln1Scale, Ln1Normalized);
        let both = self.make(q + 2 * kv);
        inside += both;
        for site in [Q, K, V] {
            self.change(site);
            if self.keeps(site) {
                // They are views of one tensor, and kept as tensors of their own.
                self.make(self.size(site));
            }
        }
        if attn.scoring.is_normed() {
            inside += self.make(q + kv);
            self.pass(q);
        }
        if attn.scoring.rotary.is_some() {
            for (site, numbers) in [(RotQ, q), (RotK, kv)] {
                self.make(numbers);
                self.pass(numbers);
                self.change(site);
                if !self.keeps(site) {
                    inside += numbers;
                }
            }
        }
        if self.past.is_some() {
            let before = self.before();
            if before == 0 {
                // Keys and values stay as they were made, in what they are views of.
                inside -= both;
                if attn.scoring.rotary.is_some() && !self.keeps(RotK) {
                    inside -= kv;
                }
            } else {
                let of = |len: usize| 2 * self.network.dims.numbers(K, self.batch, len, len);
                let (all, old) = (of(before + self.len), of(before));
                self.make(all);
                self.free(old);
            }
        }
        inside += self.mix();
        if self.wants(Result) {
            self.pass(if attn.output.weight.is_contiguous() {
                0
            } else {
                self.network.dims.numbers(QInput, 1, attn.n_heads, 1)
            });
            let result = self.make(self.size(Result));
            self.pass(q);
            self.change(Result);
            self.leave(Result, result);
        }
        self.make(self.size(AttnOut));
        self.free(inside);
    }

    /// Scores, pattern and what they mix; gives the size of the last where nobody keeps it.
    fn mix(&mut self) -> u64 {
        use Site::*;
        let square = self.size(Pattern);
        self.pass((current_num_threads() * BLOCK * (self.len + self.before())) as u64);
        let (scores, pattern) = (self.wants(AttnScores), self.wants(Pattern));
        if scores {
            self.make(square);
            self.change(AttnScores);
        }
        if scores || pattern {
            self.make(square);
            self.change(Pattern);
        }
        if scores {
            self.leave(AttnScores, square);
        }
        let z = self.make(self.size(Z));
        self.change(Z);
        if scores || pattern {
            self.leave(Pattern, square);
        }
        if self.keeps(Z) { 0 } else { z }
    }

    /// What the MLP writes is left, and what is kept of its inside.
    fn mlp(&mut self) {
        use Site::*;
        let Some((norm, mlp)) = self.layer.and_then(|layer| self.network.blocks.get(layer)?.mlp.as_ref())
        else {
            return;
        };
        let neurons = self.size(MlpPost);
        self.change(MlpIn);
        let normalized = self.norm(norm.kind, Ln2Scale, Ln2Normalized);
        let in_place = mlp.activation == Activation::GeluTanh && !self.wants(MlpPre);
        self.make(neurons);
        self.change(MlpPre);
        if mlp.gate.is_some() {
            let open = self.make(neurons);
            let linear = self.make(neurons);
            self.change(MlpPreLinear);
            self.make(neurons);
            self.free(open);
            self.leave(MlpPreLinear, linear);
            self.leave(MlpPre, neurons);
        } else if !in_place {
            self.make(neurons);
            self.leave(MlpPre, neurons);
        }
        self.change(MlpPost);
        self.make(self.size(MlpOut));
        self.leave(MlpPost, neurons);
        self.free(normalized);
    }

    fn unembed(&mut self) {
        use Site::*;
        if ![LnFinalNormalized, LnFinalScale, UnembedIn, UnembedOut].iter().any(|&site| self.wants(site)) {
            return;
        }
        self.norm(self.network.ln_final.kind, LnFinalScale, LnFinalNormalized);
        if let Some(positions) = self.tap.unembed_positions() {
            self.len = positions.len();
            self.make(self.size(UnembedIn));
        }
        self.change(UnembedIn);
        if self.wants(UnembedOut) {
            self.make(self.size(UnembedOut));
            self.change(UnembedOut);
        }
    }
}

impl Network {
    /// The same of a run whose operations are remembered, and of the way back through them: then every operation's outcome stays, and
    /// each weight that was multiplied with gets a gradient too, wanted or not. Of squares, and of logits, as many as were measured.
    pub(crate) fn footprint_of_gradients(
        &self,
        batch: usize,
        len: usize,
        read: usize,
        sites: &[Site],
    ) -> u64 {
        use Site::*;
        let dims = &self.dims;
        let size = |site| dims.numbers(site, batch, len, len);
        let (stream, q, kv, square, neurons) =
            (size(ResidPre), size(Q), size(K), size(Pattern), size(MlpPre));
        let norm = match self.ln_final.kind {
            NormKind::Layer => 5 * stream, // centred, squared, divided, times the gain, plus the bias
            NormKind::Rms => 3 * stream,
            NormKind::None => 0,
        };
        let linear = |linear: &Linear, out: u64| if linear.bias.is_some() { 2 * out } else { out };
        let mut all = 2 * norm;
        let mut weights = vec![self.unembed.weight.elem_count() as u64];
        for block in &self.blocks {
            let attn = &block.attn;
            all +=
                norm + linear(&attn.qkv, q + 2 * kv) + 3 * q + 2 * kv + linear(&attn.output, stream) + stream;
            if attn.scoring.rotary.is_some() {
                all += 4 * (q + kv);
            }
            if attn.scoring.is_normed() {
                all += 4 * (q + kv);
            }
            weights.extend([&attn.qkv, &attn.output].map(|linear| linear.weight.elem_count() as u64));
            if let Some((_, mlp)) = &block.mlp {
                all += norm + linear(&mlp.input, neurons) + neurons + linear(&mlp.output, stream) + stream;
                all += mlp.gate.as_ref().map_or(0, |gate| linear(gate, neurons) + neurons);
                let of_mlp = [&mlp.input, &mlp.output].into_iter().chain(&mlp.gate);
                weights.extend(of_mlp.map(|linear| linear.weight.elem_count() as u64));
            }
            // What is added there, its sum, and its gradient.
            all += sites.iter().filter(|site| **site != Pattern).map(|site| 3 * size(*site)).sum::<u64>();
        }
        // In the first layer what lies before the site has no gradient.
        let before = [ResidPre, QInput, KInput, VInput, Ln1Scale, Ln1Normalized, Q, K, V, RotQ, RotK];
        let is_whole = sites.is_empty() || sites.iter().any(|site| before.contains(site));
        let layers = (self.blocks.len() as u64).saturating_sub(u64::from(!is_whole));
        // Scores, masked scores, pattern, and what the mask gets of a gradient; then what one of them takes on the way back.
        let (squares, at_once) = match sites.contains(&Pattern) {
            true => (2 * self.blocks.len() as u64, 3),
            false => (4 * layers, if layers > 0 { 4 } else { 0 }),
        };
        let mask = dims.numbers(LnFinalScale, len, len, len);
        let logits = dims.numbers(UnembedOut, batch, read, read);
        all += squares.saturating_mul(square).saturating_add(4 * layers * mask);
        all += logits + (2 * logits).max(square.saturating_mul(at_once));
        all += weights.iter().sum::<u64>() + 2 * weights.iter().max().copied().unwrap_or(0);
        all.saturating_mul(4)
    }
}
