//! How much memory a run takes at its widest, before it is made: the way through the blocks, as `network`, `attention`, `mlp` and
//! `norm` go it without a gradient to track, with sizes in place of tensors. `tests/memory.rs` holds it to what runs take.

use std::collections::HashSet;

use rayon::current_num_threads;

use crate::error::Result;
use crate::hook::{Attn, Hook, Site};
use crate::network::cpu::attend::BLOCK;
use crate::network::dims::Dims;
use crate::network::network::{Network, StackNetwork};
use crate::network::parts::attention::Attention;
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::parts::norm::{Norm, NormOf};
use crate::network::readout::ReadoutLayer;
use crate::network::spec::NormKind;
use crate::network::start::{Past, Start};
use crate::network::tap::Tap;
use crate::network::weights::weight::Weight;

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
        let (from, first) = match start {
            Start::Inputs(_) => (self.stacks[0].stack, 0),
            Start::Residual { stack, layer, .. } => (*stack, *layer),
        };
        let (mut held, mut most) = (0, 0u64);
        let stacks = self.stacks.iter().enumerate().skip_while(|(_, own)| own.stack != from);
        for (index, stack) in stacks {
            if start.has_finished(stack.stack) {
                continue;
            }
            let Some((batch, len)) = start.size(stack.stack) else { break };
            let source = stack.crosses.and_then(|source| start.size(source)).map_or(0, |(_, len)| len);
            let mut walk =
                Walk { stack, tap, past, batch, len, source, layer: 0, attn: Attn::Own, held, most: held };
            let resumes = stack.stack == from && matches!(start, Start::Residual { .. });
            let mut stays = walk.begin(!resumes);
            for (layer, block) in stack.blocks.iter().enumerate().skip(if resumes { first } else { 0 }) {
                walk.layer = layer;
                stays = walk.block(block, stays);
                if tap.stop_after() == Some((stack.stack, layer)) {
                    return most.max(walk.most).saturating_mul(4);
                }
            }
            if index + 1 == self.stacks.len() {
                walk.read_out(self);
            } else {
                walk.finish();
            }
            most = most.max(walk.most);
            // What it left, for others to attend to, and what is kept of it.
            held = walk.held;
        }
        most.saturating_mul(4)
    }
}

/// Where a run is, in numbers.
struct Walk<'a> {
    stack: &'a StackNetwork,
    tap: &'a dyn Tap,
    past: Option<&'a Past>,
    batch: usize,
    len: usize,
    /// Positions of the stack that cross-attention attends to.
    source: usize,
    layer: usize,
    attn: Attn,
    held: u64,
    most: u64,
}

impl Walk<'_> {
    fn hook(&self, site: Site) -> Hook {
        let hook = if site.in_block() { site.at(self.layer) } else { site.into() };
        let attn = if site.is_of_attention() { self.attn } else { Attn::Own };
        hook.of(self.stack.stack).with_attn(attn)
    }

    fn wants(&self, site: Site) -> bool {
        self.tap.wants(self.hook(site))
    }

    fn keeps(&self, site: Site) -> bool {
        self.wants(site) && self.tap.keeps(self.hook(site))
    }

    fn before(&self) -> usize {
        self.past.map_or(0, |past| past.len_at(self.stack.stack, self.layer))
    }

    /// How many keys a query sees.
    fn seen(&self) -> usize {
        if self.attn == Attn::Cross { self.source } else { self.len + self.before() }
    }

    fn size(&self, site: Site) -> u64 {
        let of_source = self.attn == Attn::Cross && site.is_of_source();
        let len = if of_source { self.source } else { self.len };
        self.stack.dims.numbers(site, self.batch, len, self.seen())
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
        if self.stack.relative_bias.is_some() {
            // For each head once, whatever the batch; and while it is made.
            let scores = self.stack.dims.numbers(Site::AttnScores, 1, self.len, self.len + self.before());
            self.make(scores);
            self.pass(2 * scores);
        }
        let stream = self.make(self.size(Site::ResidPre));
        if !from_tokens {
            return true; // Whoever gave it may still have it.
        }
        self.change(Site::Embed);
        let mut last = Site::Embed;
        let added = [
            (Site::PosEmbed, self.stack.w_pos.is_some()),
            (Site::TokenTypeEmbed, self.stack.token_types.is_some()),
        ];
        for (site, _) in added.into_iter().filter(|(_, is_there)| *is_there) {
            self.change(site);
            self.make(stream);
            self.leave(last, stream);
            last = site;
        }
        if self.stack.ln_embed.kind != NormKind::None {
            self.norm(&self.stack.ln_embed, [Site::EmbedLnScale, Site::EmbedLnNormalized]);
            self.free(stream);
            self.change(Site::FullEmbed);
            return self.keeps(Site::FullEmbed);
        }
        last == Site::Embed && self.keeps(Site::Embed)
    }

    /// Goes through a block whose stream is held by others or not, and says the same of the one that it leaves.
    fn block(&mut self, block: &Block, stays: bool) -> bool {
        use Site::*;
        let stream = self.size(ResidPre);
        self.change(ResidPre);
        self.attention(&block.attn, &block.ln1, NormOf::Attention);
        if let Some([after, _]) = &block.after {
            self.norm(after, NormOf::AddedByAttention.sites());
            self.free(stream);
        }
        self.change(AttnOut);
        let kind = self.stack.block_kind;
        let (with_mlp, serial) = (block.mlp.is_some(), block.mlp.is_some() && kind != BlockKind::Parallel);
        if serial {
            self.make(stream);
            self.change(ResidMid);
        }
        if let Some((norm, cross)) = &block.cross {
            self.attn = Attn::Cross;
            self.attention(cross, norm, NormOf::Cross);
            self.change(AttnOut);
            let out = self.size(AttnOut);
            self.make(stream);
            self.change(ResidMidCross);
            self.leave(AttnOut, out);
            self.attn = Attn::Own;
            if !self.keeps(ResidMidCross) {
                self.free(stream);
            }
        }
        if let Some((norm, mlp)) = &block.mlp {
            self.mlp(mlp, norm, block.norm_of_mlp());
            if let Some([_, after]) = &block.after {
                self.norm(after, NormOf::AddedByMlp.sites());
                self.free(stream);
            }
            self.change(MlpOut);
            // Attention and MLP are added one after another.
            self.pass(if serial { 0 } else { 2 * stream });
        }
        self.make(stream);
        self.change(ResidPost);
        if kind == BlockKind::PostNorm {
            // Both norms leave a stream of their own.
            self.pass(2 * stream);
        }
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
    fn norm(&mut self, norm: &Norm, [scale, normalized]: [Site; 2]) -> u64 {
        if norm.kind == NormKind::None {
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
    fn attention(&mut self, attn: &Attention, norm: &Norm, of: NormOf) {
        use Site::*;
        let (q, kv) = (self.size(Q), self.size(K));
        for site in [QInput, KInput, VInput] {
            self.change(site);
            // Each head then reads its own.
            if self.wants(site) && !self.keeps(site) {
                self.pass((CHANGING + 2) * self.size(site));
            }
        }
        let mut inside = self.norm(norm, of.sites());
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
        if self.past.is_some() && self.attn == Attn::Own {
            let before = self.before();
            if before == 0 {
                // Keys and values stay as they were made, in what they are views of.
                inside -= both;
                if attn.scoring.rotary.is_some() && !self.keeps(RotK) {
                    inside -= kv;
                }
            } else {
                let of = |len: usize| 2 * self.stack.dims.numbers(K, self.batch, len, len);
                let (all, old) = (of(before + self.len), of(before));
                self.make(all);
                self.free(old);
            }
        }
        inside += self.mix();
        if self.wants(Result) {
            // The weight is made where it is in a file, and then made head by head where it stands by columns.
            let (is_made, numbers) = (attn.output.weight.is_stored(), attn.output.weight.elem_count() as u64);
            let made = if is_made { numbers } else { 0 };
            self.pass(if attn.output.weight.is_contiguous() { made } else { made + numbers });
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
        self.pass((current_num_threads() * BLOCK * self.seen()) as u64);
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
    fn mlp(&mut self, mlp: &Mlp, norm: &Norm, of: NormOf) {
        use Site::*;
        let neurons = self.size(MlpPost);
        self.change(MlpIn);
        let normalized = self.norm(norm, of.sites());
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

    /// The last norm.
    fn finish(&mut self) {
        self.norm(&self.stack.ln_final, [Site::LnFinalScale, Site::LnFinalNormalized]);
    }

    fn read_out(&mut self, network: &Network) {
        use Site::{UnembedIn, UnembedOut};
        if !network.is_read_out(self.stack, self.tap) {
            return;
        }
        self.finish();
        let ReadoutLayer::Vocabulary { head, .. } = &network.readout else {
            // What is made of one position of each input is little beside its stream.
            return;
        };
        if let Some(positions) = self.tap.unembed_positions() {
            self.len = positions.len();
            self.make(self.size(UnembedIn));
        }
        if let Some(head) = head {
            let stream = self.make(2 * self.size(UnembedIn));
            self.norm(&head.norm, [Site::HeadLnScale, Site::HeadLnNormalized]);
            self.free(stream);
        }
        self.change(UnembedIn);
        if self.wants(UnembedOut) {
            self.make(self.size(UnembedOut));
            self.change(UnembedOut);
        }
    }
}

impl Network {
    /// The bytes of all weights in f32.
    pub(crate) fn bytes_of_weights(&self) -> Result<u64> {
        // Several are often parts of one, or another view of it.
        let mut seen = HashSet::new();
        let mut bytes = 0u64;
        let vectors = self.vectors().map(|unmade| unmade().map(Weight::from));
        for weight in vectors.chain(self.matrices().cloned().map(Ok)) {
            let weight = weight?;
            if seen.insert(weight.place()) {
                bytes = bytes.saturating_add(weight.bytes_in_memory());
            }
        }
        Ok(bytes)
    }

    /// The same as [`footprint`](Network::footprint) of a run whose operations are remembered, and of the way back through them: then
    /// every operation's outcome stays, and each weight in memory that was multiplied with gets a gradient too, wanted or not. Of squares, and of
    /// logits, as many as were measured. `lens` are the positions of each stack; of the last, so many are read.
    pub(crate) fn footprint_of_gradients(
        &self,
        batch: usize,
        lens: &[usize],
        read: usize,
        sites: &[Site],
    ) -> u64 {
        let (mut all, mut largest_square, mut largest_weight) = (0u64, 0, 0);
        for (index, (stack, &len)) in self.stacks.iter().zip(lens).enumerate() {
            let source =
                stack.crosses.and_then(|source| self.stacks.iter().position(|own| own.stack == source));
            let source = source.and_then(|at| lens.get(at)).copied().unwrap_or(0);
            let Gradients { numbers, square, mut weights } = stack.gradients(batch, len, source, sites);
            match &self.readout {
                ReadoutLayer::Vocabulary { of, unembed: linear, .. }
                | ReadoutLayer::Classes { of, classify: linear, .. }
                    if *of == stack.stack =>
                {
                    weights.push(of_gradient(&linear.weight));
                }
                _ => {}
            }
            if index > 0 {
                // Each embedding but one, which the unembedding stands for.
                weights.push(of_gradient(stack.embedding.weight()));
            }
            all = all.saturating_add(numbers).saturating_add(weights.iter().sum());
            largest_square = largest_square.max(square);
            largest_weight = largest_weight.max(weights.into_iter().max().unwrap_or(0));
        }
        let logits = match self.readout {
            ReadoutLayer::Vocabulary { .. } => self.dims().numbers(Site::UnembedOut, batch, read, read),
            _ => 0,
        };
        all = all.saturating_add(logits).saturating_add(logits.saturating_mul(2).max(largest_square));
        all.saturating_add(largest_weight.saturating_mul(2)).saturating_mul(4)
    }
}

/// The numbers of a weight's gradient; what stays in its file has none.
fn of_gradient(weight: &Weight) -> u64 {
    if weight.is_stored() { 0 } else { weight.elem_count() as u64 }
}

/// What a run through a stack, and the way back, leave.
struct Gradients {
    numbers: u64,
    /// What a pattern takes at once on the way back.
    square: u64,
    /// The sizes of the weights that were multiplied with.
    weights: Vec<u64>,
}

impl StackNetwork {
    /// Of `len` positions that attend to `source` of another stack.
    fn gradients(&self, batch: usize, len: usize, source: usize, sites: &[Site]) -> Gradients {
        use Site::*;
        let dims = &self.dims;
        let size = |site| dims.numbers(site, batch, len, len);
        let (stream, q, kv, square, neurons) =
            (size(ResidPre), size(Q), size(K), size(Pattern), size(MlpPre));
        let norm = match self.blocks.first().map_or(self.ln_final.kind, |block| block.ln1.kind) {
            NormKind::Layer => 5 * stream, // centred, squared, divided, times the gain, plus the bias
            NormKind::Rms => 3 * stream,
            NormKind::None => 0,
        };
        let linear = |linear: &Linear, out: u64| if linear.bias.is_some() { 2 * out } else { out };
        let mut all = 2 * norm;
        let mut weights = Vec::new();
        // In the first layer what lies before the site has no gradient.
        let before = [ResidPre, QInput, KInput, VInput, Ln1Scale, Ln1Normalized, Q, K, V, RotQ, RotK];
        let is_whole = sites.is_empty() || sites.iter().any(|site| before.contains(site));
        let layers = (self.blocks.len() as u64).saturating_sub(u64::from(!is_whole));
        // Scores, masked scores, pattern, and what the mask gets of a gradient; then what one of them takes on the way back.
        let (mut squares, at_once) = (4 * layers, if layers > 0 { 4 } else { 0 });
        if sites.contains(&Pattern) {
            // As it was, what is added, their sum, and its gradient.
            squares += 4 * self.blocks.len() as u64;
        }
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
            weights.extend([&attn.qkv, &attn.output].map(|linear| of_gradient(&linear.weight)));
            if let Some((_, cross)) = &block.cross {
                let kv = dims.numbers(K, batch, source, source);
                all += norm
                    + linear(&cross.qkv, q + 2 * kv)
                    + 3 * q
                    + 2 * kv
                    + linear(&cross.output, stream)
                    + stream
                    + 4 * dims.numbers(Pattern, batch, len, source);
                // Queries, and keys and values, are made by parts of one weight, each with a gradient of the whole.
                let parts = [&cross.qkv, &cross.qkv, &cross.output];
                weights.extend(parts.map(|linear| of_gradient(&linear.weight)));
            }
            if let Some((_, mlp)) = &block.mlp {
                all += norm + linear(&mlp.input, neurons) + neurons + linear(&mlp.output, stream) + stream;
                all += mlp.gate.as_ref().map_or(0, |gate| linear(gate, neurons) + neurons);
                let of_mlp = [&mlp.input, &mlp.output].into_iter().chain(&mlp.gate);
                weights.extend(of_mlp.map(|linear| of_gradient(&linear.weight)));
            }
            if block.after.is_some() {
                all += 2 * norm;
            }
            // What is added there, its sum, and its gradient.
            all += sites.iter().filter(|site| **site != Pattern).map(|site| 3 * size(*site)).sum::<u64>();
        }
        let mask = dims.numbers(LnFinalScale, len, len, len);
        all += squares.saturating_mul(square).saturating_add(4 * layers * mask);
        let largest = square.max(match self.crosses {
            Some(_) => dims.numbers(Pattern, batch, len, source),
            None => 0,
        });
        Gradients { numbers: all, square: largest.saturating_mul(at_once), weights }
    }
}
