//! What all architectures have in common: stacks, each of embeddings, blocks one after another on one residual stream, and a
//! last norm; what is read out of them is `readout`'s. What a block does is its architecture's own.
//!
//! Shapes at the end of lines: B batch, T positions read now, H heads, K heads of keys and values, D width of a head, M
//! width of the residual stream, N neurons, V vocabulary.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Hook, Site, Stack};
use crate::network::cpu::add;
use crate::network::dims::Dims;
use crate::network::parts::attention::ScoreSpec;
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::embedding::Embedding;
use crate::network::parts::layer::{Keys, LayerCtx, Source};
use crate::network::parts::mlp::Mlp;
use crate::network::parts::norm::Norm;
use crate::network::parts::relative_bias::RelativeBias;
use crate::network::readout::ReadoutLayer;
use crate::network::spec::{
    ArchSpec, MlpKind, NormKind, NormPlace, PositionEncoding, Reads, Sees, StackSpec,
};
use crate::network::start::{Batch, Known, Past, Start};
use crate::network::tap::{Tap, TapCtx};
use crate::network::watch::Watch;
use crate::network::weights::weight::Weight;

/// A transformer of any architecture that is known.
#[derive(Clone, Debug)]
pub struct Network {
    /// In the order in which a run goes through them.
    pub(crate) stacks: Vec<StackNetwork>,
    pub(crate) readout: ReadoutLayer,
    prepends_bos: bool,
    spec: Arc<ArchSpec>,
}

/// One stack of it.
#[derive(Clone, Debug)]
pub struct StackNetwork {
    pub(crate) stack: Stack,
    pub(crate) dims: Dims,
    pub(crate) reads: Reads,
    pub(crate) sees: Sees,
    pub(crate) positions: PositionEncoding,
    /// What its cross-attention attends to.
    pub(crate) crosses: Option<Stack>,
    pub(crate) block_kind: BlockKind,
    pub(crate) embedding: Embedding,
    /// What embeddings of tokens are multiplied by before anything is added to them.
    pub(crate) embed_scale: f64,
    pub(crate) w_pos: Option<Tensor>, // (n_ctx, M)
    /// Embeddings of which text a token is of, where several stand in one sequence.
    pub(crate) token_types: Option<Tensor>, // (types, M)
    /// The norm of the embeddings' sum.
    pub(crate) ln_embed: Norm,
    /// What its own attention adds to scores.
    pub(crate) relative_bias: Option<RelativeBias>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_final: Norm,
}

/// The parts of a causal stack that stands alone and predicts tokens, as most architectures have it.
pub(crate) struct Decoder {
    pub(crate) dims: Dims,
    pub(crate) block_kind: BlockKind,
    pub(crate) prepends_bos: bool,
    pub(crate) w_e: Weight,           // (V, M)
    pub(crate) w_pos: Option<Tensor>, // (n_ctx, M)
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_final: Norm,
    pub(crate) readout: ReadoutLayer,
}

impl From<Decoder> for Network {
    fn from(decoder: Decoder) -> Network {
        let Decoder { dims, block_kind, prepends_bos, w_e, w_pos, blocks, ln_final, readout } = decoder;
        let positions = if w_pos.is_some() { PositionEncoding::Learned } else { PositionEncoding::Rotary };
        let stack = StackNetwork {
            stack: Stack::Main,
            dims,
            reads: Reads::Tokens,
            sees: Sees::Earlier,
            positions,
            crosses: None,
            block_kind,
            embedding: Embedding::Tokens(w_e),
            embed_scale: 1.0,
            w_pos,
            token_types: None,
            ln_embed: Norm::none(),
            relative_bias: None,
            blocks,
            ln_final,
        };
        Network::new(vec![stack], readout, prepends_bos)
    }
}

/// The parts of a stack that sees all, with norms after the sums and one behind its embeddings: BERT's.
pub(crate) struct Encoder {
    pub(crate) dims: Dims,
    pub(crate) w_e: Weight,                 // (V, M)
    pub(crate) w_pos: Tensor,               // (n_ctx, M)
    pub(crate) token_types: Option<Tensor>, // (types, M)
    pub(crate) ln_embed: Norm,
    pub(crate) blocks: Vec<Block>,
}

impl Encoder {
    pub(crate) fn read_out_by(self, readout: ReadoutLayer) -> Network {
        let Encoder { dims, w_e, w_pos, token_types, ln_embed, blocks } = self;
        let stack = StackNetwork {
            stack: Stack::Main,
            dims,
            reads: Reads::Tokens,
            sees: Sees::All,
            positions: PositionEncoding::Learned,
            crosses: None,
            block_kind: BlockKind::PostNorm,
            embedding: Embedding::Tokens(w_e),
            embed_scale: 1.0,
            w_pos: Some(w_pos),
            token_types,
            ln_embed,
            relative_bias: None,
            blocks,
            ln_final: Norm::none(),
        };
        Network::new(vec![stack], readout, false)
    }
}

impl Network {
    pub(crate) fn new(stacks: Vec<StackNetwork>, readout: ReadoutLayer, prepends_bos: bool) -> Network {
        let spec = Arc::new(ArchSpec::new(stacks.iter().map(StackNetwork::spec).collect(), readout.spec()));
        Network { stacks, readout, prepends_bos, spec }
    }

    /// The sizes of the stack that is read out.
    pub(crate) fn dims(&self) -> &Dims {
        &self.spec.last_stack().dims
    }

    /// Where its weights are, and its inputs must be.
    pub(crate) fn device(&self) -> &Device {
        self.stacks[0].embedding.device()
    }

    /// Its matrices of weights, in the order in which a run comes to them.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Weight> {
        let of_stacks = self.stacks.iter().flat_map(|stack| {
            let blocks = stack.blocks.iter().flat_map(Block::linears).map(|linear| &linear.weight);
            std::iter::once(stack.embedding.weight()).chain(blocks)
        });
        of_stacks.chain(self.readout.linears().into_iter().map(|linear| &linear.weight))
    }

    /// What it is built of, and so which activations it has.
    pub(crate) fn spec(&self) -> &Arc<ArchSpec> {
        &self.spec
    }

    /// Whether text is run with a BOS token before it, as TransformerLens runs models of this architecture by default.
    pub(crate) fn prepends_bos(&self) -> bool {
        self.prepends_bos
    }

    /// Runs from `start`, handing activations to `tap`. With `past`, the input continues what was read before. Gives what a run
    /// that begins in a later stack must know.
    pub(crate) fn run(&self, start: Start, past: Option<&mut Past>, tap: &mut dyn Tap) -> Result<Known> {
        let outcome = self.run_unchecked(start, past, tap);
        // What was read may not have been the weights.
        self.check_files()?;
        outcome
    }

    /// Fails if a file that weights are read from is no longer as it was when it was opened.
    fn check_files(&self) -> Result<()> {
        // All of a network is in one file, or in a few that come one after another.
        let mut seen = None;
        for weight in self.matrices() {
            let file = weight.file();
            if file.is_some() && file != seen {
                weight.check_file()?;
                seen = file;
            }
        }
        Ok(())
    }

    fn run_unchecked(&self, start: Start, mut past: Option<&mut Past>, tap: &mut dyn Tap) -> Result<Known> {
        let mut tap = TapCtx(tap);
        let (mut resumed, mut known) = match start {
            Start::Inputs(known) => (None, known),
            Start::Residual { stack, layer, stream, known } => (Some((stack, layer, stream)), known),
        };
        let from =
            resumed.as_ref().and_then(|(stack, ..)| self.stacks.iter().position(|own| own.stack == *stack));
        for (index, stack) in self.stacks.iter().enumerate().skip(from.unwrap_or(0)) {
            let begin = resumed.take().map(|(_, layer, stream)| (layer, stream));
            if begin.is_none() && known.finished.contains_key(&stack.stack) {
                continue;
            }
            let is_last = index + 1 == self.stacks.len();
            let may_skip = is_last && matches!(self.readout, ReadoutLayer::Vocabulary { .. });
            let Some((x, unread)) = stack.run(begin, &known, past.as_deref_mut(), may_skip, &mut tap)? else {
                return Ok(known);
            };
            if is_last && !self.is_read_out(stack, &*tap.0) {
                return Ok(known);
            }
            let x = stack.finish(x, &mut tap)?; // (B, T, M)
            if may_skip {
                self.readout.of_tokens(x, unread, &mut tap)?;
                return Ok(known);
            }
            known.finished.insert(stack.stack, x);
        }
        self.readout.of_streams(&known, &mut tap)?;
        Ok(known)
    }

    /// Whether anything is wanted that lies behind the blocks of the stack that runs last.
    pub(super) fn is_read_out(&self, stack: &StackNetwork, tap: &dyn Tap) -> bool {
        let mut hooks = stack.final_hooks().into_iter().chain(self.spec.readout().hooks());
        hooks.any(|hook| tap.wants(hook))
    }

    /// What embeddings of tokens are multiplied by, behind their hook.
    pub(crate) fn embed_scale(&self, stack: Stack) -> f64 {
        self.stacks.iter().find(|own| own.stack == stack).map_or(1.0, |own| own.embed_scale)
    }

    /// What a stack's own attention adds to scores, where it knows positions so.
    pub(crate) fn relative_bias(&self, stack: Stack) -> Option<&RelativeBias> {
        self.stacks.iter().find(|own| own.stack == stack)?.relative_bias.as_ref()
    }

    /// How a head's queries and keys become attention scores. Fails if there is no such head.
    pub(crate) fn scoring(&self, head: Head) -> Result<&ScoreSpec> {
        let stack = self.stacks.iter().find(|own| own.stack == head.stack);
        let block = stack.and_then(|stack| stack.blocks.get(head.layer));
        let attention = block.and_then(|block| match head.attn {
            Attn::Own => Some(&block.attn),
            Attn::Cross => block.cross.as_ref().map(|(_, cross)| cross),
        });
        attention.map(|attention| &attention.scoring).ok_or_else(|| {
            Error::new(ErrorKind::Address, format!("there is no head {head}"))
                .help("`model.heads()` has them all")
        })
    }
}

impl StackNetwork {
    /// What it is built of.
    fn spec(&self) -> StackSpec {
        let first = self.blocks.first();
        let norm_place = match (self.block_kind, first.and_then(|block| block.after.as_ref())) {
            (BlockKind::PostNorm, _) => NormPlace::After,
            (BlockKind::Serial | BlockKind::Parallel | BlockKind::AttentionOnly, None) => NormPlace::Before,
            (BlockKind::Serial | BlockKind::Parallel | BlockKind::AttentionOnly, Some(_)) => NormPlace::Both,
        };
        StackSpec {
            stack: self.stack,
            dims: self.dims,
            positions: self.positions,
            reads: self.reads,
            sees: self.sees,
            norm: first.map_or(self.ln_final.kind, |block| block.ln1.kind),
            norm_place,
            mlp: match first.and_then(|block| block.mlp.as_ref()) {
                Some((_, Mlp { gate: Some(_), .. })) => MlpKind::Gated,
                Some(_) => MlpKind::Plain,
                None => MlpKind::None,
            },
            parallel: self.block_kind == BlockKind::Parallel,
            crosses: self.crosses,
            token_types: self.token_types.as_ref().map_or(0, |table| table.dims()[0]),
            norms_embeddings: self.ln_embed.kind != NormKind::None,
        }
    }

    /// Runs its blocks, from its inputs or from a stream that a layer reads. Gives the stream that the last one leaves, and how
    /// many positions were left out of it; nothing where the tap asked to stop.
    fn run(
        &self,
        begin: Option<(usize, Tensor)>,
        known: &Known,
        past: Option<&mut Past>,
        may_skip: bool,
        tap: &mut TapCtx,
    ) -> Result<Option<(Tensor, usize)>> {
        // What sees all has no keys that a longer input would leave as they are.
        let mut past = past.filter(|_| self.sees.is_causal());
        let (first, mut x) = match begin {
            Some(begin) => begin,
            None => (0, self.embed(&known.batch, past.as_deref(), tap)?), // (B, T, M)
        };
        let read = if may_skip && self.sees.is_causal() { self.first_needed_position(tap) } else { None };
        let present = known.batch.present(self.stack);
        let mut watch = Watch::default();
        watch.look(&x, || std::iter::once(self.embedding.weight()))?;
        let mut bias = None;
        // Behind the last block nothing is attended to.
        let crosses = self.crosses.filter(|_| first < self.blocks.len());
        let source = crosses.map(|source| self.source(source, known)).transpose()?;
        let mut unread = 0;
        let mut own_past = Past::default();
        for (index, block) in self.blocks.iter().enumerate().skip(first) {
            let read = read.filter(|_| index + 1 == self.blocks.len());
            let mut past = match past.as_deref_mut() {
                None if read.is_some() => Some(&mut own_past),
                past => past,
            };
            if let (Some(read), Some(past)) = (read, past.as_deref_mut()) {
                (x, unread) = self.skip_unneeded_positions(x, read, past)?; // (B, T, M)
            }
            if let Some(relative) = &self.relative_bias {
                let len = x.dim(1)?;
                let seen = len + past.as_deref().map_or(0, |past| past.len_at(self.stack, index));
                if bias.as_ref().is_none_or(|bias: &Tensor| bias.dims()[2..] != [len, seen]) {
                    bias = Some(relative.bias(self.sees, len, seen)?); // (1, H, T, S)
                }
            }
            let own = Keys { sees: self.sees, present, bias: bias.as_ref() };
            let mut layer = LayerCtx { stack: self.stack, index, attn: Attn::Own, tap, past, own, source };
            x = block.forward(self.block_kind, x, &mut layer)?; // (B, T, M)
            watch.look(&x, || block.linears().map(|linear| &linear.weight))?;
            if tap.0.stop_after() == Some((self.stack, index)) {
                return Ok(None);
            }
        }
        Ok(Some((x, unread)))
    }

    /// What its cross-attention attends to.
    fn source<'a>(&self, source: Stack, known: &'a Known) -> Result<Source<'a>> {
        let stream = known.finished.get(&source).ok_or_else(|| {
            Error::new(
                ErrorKind::Input,
                format!("the {} attends to the {source}, which did not run", self.stack),
            )
        })?;
        let keys = Keys { sees: Sees::All, present: known.batch.present(source), bias: None };
        Ok(Source { stream, keys })
    }

    fn embed(&self, batch: &Batch, past: Option<&Past>, tap: &mut TapCtx) -> Result<Tensor> {
        let read = batch.reads(self.stack)?; // (B, T)
        let mut embed = tap.at(self.hook(Site::Embed), self.embedding.forward(read)?)?; // (B, T, M)
        if self.embed_scale != 1.0 {
            embed = (embed * self.embed_scale)?; // (B, T, M)
        }
        let mut sum = self.add_positions(embed, past, tap)?; // (B, T, M)
        if let Some(table) = &self.token_types {
            let types = match batch.types(self.stack) {
                Some(types) => types.flatten_all()?, // (BT)
                None => read.flatten_all()?.zeros_like()?,
            };
            let embed = table.index_select(&types, 0)?.reshape(sum.dims())?; // (B, T, M)
            sum = add(&sum, &tap.at(self.hook(Site::TokenTypeEmbed), embed)?)?; // (B, T, M)
        }
        if self.ln_embed.kind == NormKind::None {
            return Ok(sum);
        }
        let shown = [Site::EmbedLnScale, Site::EmbedLnNormalized].map(|site| self.hook(site));
        let normed = self.ln_embed.forward(sum, shown, tap)?; // (B, T, M)
        tap.at(self.hook(Site::FullEmbed), normed)
    }

    fn add_positions(&self, embed: Tensor, past: Option<&Past>, tap: &mut TapCtx) -> Result<Tensor> {
        let Some(w_pos) = &self.w_pos else { return Ok(embed) };
        let positions = w_pos.narrow(0, past.map_or(0, Past::len), embed.dim(1)?)?; // (T, M)
        let hook = self.hook(Site::PosEmbed);
        let pos_embed = if tap.wants(hook) {
            tap.at(hook, positions.broadcast_as(embed.dims())?)? // (B, T, M)
        } else {
            positions.unsqueeze(0)? // (1, T, M)
        };
        Ok(embed.broadcast_add(&pos_embed)?) // (B, T, M)
    }

    /// The first position that is read of what the last block makes; nothing where all are, or somebody looks into it.
    fn first_needed_position(&self, tap: &TapCtx) -> Option<usize> {
        let last = self.blocks.len().checked_sub(1)?;
        let first = tap.0.unembed_positions()?.iter().copied().min()?;
        let looks = |site: Site| {
            let hook = site.at(last).of(self.stack);
            tap.wants(hook) || self.crosses.is_some() && tap.wants(hook.cross())
        };
        let seen = Site::ALL.into_iter().any(|site| site.in_block() && looks(site));
        let normed = self.final_hooks().into_iter().any(|hook| tap.wants(hook));
        (first > 0 && !seen && !normed).then_some(first)
    }

    /// The stream from position `read` on, and how many positions that leaves out: of those the last block needs no more than
    /// keys and values, which go into `past`.
    fn skip_unneeded_positions(&self, x: Tensor, read: usize, past: &mut Past) -> Result<(Tensor, usize)> {
        let (index, len) = (self.blocks.len() - 1, x.dim(1)?);
        if read >= len {
            return Ok((x, 0));
        }
        let Block { ln1, attn, .. } = &self.blocks[index];
        let before = (self.block_kind != BlockKind::PostNorm).then_some(ln1);
        let start = past.len_at(self.stack, index);
        let (k, v) = attn.keys_and_values(before, x.narrow(1, 0, read)?, start)?;
        past.extend(self.stack, index, k, v)?;
        Ok((x.narrow(1, read, len - read)?.contiguous()?, read))
    }

    /// The stream through the last norm.
    fn finish(&self, x: Tensor, tap: &mut TapCtx) -> Result<Tensor> {
        self.ln_final.forward(x, self.final_hooks(), tap) // (B, T, M)
    }

    fn hook(&self, site: Site) -> Hook {
        Hook::from(site).of(self.stack)
    }

    fn final_hooks(&self) -> [Hook; 2] {
        [Site::LnFinalScale, Site::LnFinalNormalized].map(|site| self.hook(site))
    }
}
