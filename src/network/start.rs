//! Where a run begins: its input, and what was read before.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Stack};
use crate::network::spec::ArchSpec;

/// Where a run begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// From inputs: stacks that have finished already do not run again.
    Inputs(Known),
    /// From the residual stream `[batch, position, d_model]` as layer `layer` of a stack reads it: what lies below is known
    /// already.
    Residual {
        /// The stack.
        stack: Stack,
        /// The layer that reads it.
        layer: usize,
        /// The residual stream, before `hook_resid_pre`.
        stream: Tensor,
        /// What the stacks before made.
        known: Known,
    },
}

impl Start {
    /// From token ids `[batch, position]` of a model of one stack.
    pub(crate) fn tokens(ids: Tensor) -> Start {
        Batch::default().with(Stack::Main, ids, None).into()
    }

    /// From the stream that a layer of a stack reads, where nothing else is read from there on.
    pub(crate) fn residual(stack: Stack, layer: usize, stream: Tensor) -> Start {
        Start::Residual { stack, layer, stream, known: Known::default() }
    }

    /// Whether a stack has finished already, and does not run.
    pub(crate) fn has_finished(&self, stack: Stack) -> bool {
        match self {
            Start::Residual { stack: of, .. } if *of == stack => false,
            Start::Inputs(known) | Start::Residual { known, .. } => known.finished.contains_key(&stack),
        }
    }

    /// How many inputs there are, and of how many positions in a stack that is yet to run.
    pub(crate) fn size(&self, stack: Stack) -> Option<(usize, usize)> {
        let tensor = match self {
            Start::Inputs(known) => known.batch.reads.get(&stack)?,
            Start::Residual { stack: of, stream, .. } if *of == stack => stream,
            Start::Residual { known, .. } => known.batch.reads.get(&stack)?,
        };
        Some((*tensor.dims().first()?, *tensor.dims().get(1)?))
    }
}

impl From<Batch> for Start {
    fn from(batch: Batch) -> Start {
        Start::Inputs(Known { batch, finished: BTreeMap::new() })
    }
}

/// For each input, which of its positions are there, and no filling; nothing where all are, or none could tell.
pub(crate) type Presence = Option<Arc<[Vec<bool>]>>;

/// What the stacks of a network read.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    reads: BTreeMap<Stack, Tensor>,
    /// Which of two texts each token is of `[batch, position]`; all of the first where nothing is said.
    types: BTreeMap<Stack, Tensor>,
    present: BTreeMap<Stack, Arc<[Vec<bool>]>>,
}

impl Batch {
    /// The same with token ids `[batch, position]` for a stack, or pixels `[batch, position, pixel of a patch]`.
    pub(crate) fn with(mut self, stack: Stack, read: Tensor, present: Presence) -> Batch {
        self.reads.insert(stack, read);
        self.present.extend(present.map(|present| (stack, present)));
        self
    }

    /// The same with which of two texts each token of a stack is of `[batch, position]`.
    pub(crate) fn with_types(mut self, stack: Stack, types: Tensor) -> Batch {
        self.types.insert(stack, types);
        self
    }

    /// The same with sequences for a stack of such a network, the shorter filled at their ends: where that could be seen, with which
    /// positions are there. A causal stack's earlier positions cannot see it: there only a readout of its end asks. Whoever else
    /// reads the outcome must know the lengths.
    pub(crate) fn with_filled(
        self,
        spec: &ArchSpec,
        stack: Stack,
        sequences: &[&[u32]],
        filling: u32,
        device: &Device,
    ) -> Result<Batch> {
        let longest = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let row = |ids: &&[u32]| {
            let mut ids = ids.to_vec();
            ids.resize(longest, filling);
            ids
        };
        let ids: Vec<u32> = sequences.iter().flat_map(row).collect();
        let ids = Tensor::from_vec(ids, (sequences.len(), longest), device)?;
        let is_filled = sequences.iter().any(|ids| ids.len() < longest);
        let is_seen = !spec.stack(stack)?.sees.is_causal()
            || spec.is_attended_to(stack)
            || spec.readout().is_of_end(stack);
        let present = |ids: &&[u32]| (0..longest).map(|position| position < ids.len()).collect();
        let present = (is_filled && is_seen).then(|| sequences.iter().map(present).collect());
        Ok(self.with(stack, ids, present))
    }

    /// Fails if there is nothing for a stack.
    pub(crate) fn reads(&self, stack: Stack) -> Result<&Tensor> {
        self.reads.get(&stack).ok_or_else(|| {
            Error::new(ErrorKind::Input, format!("there is nothing for the {stack} to read"))
                .help("give an input for each stack")
        })
    }

    pub(crate) fn types(&self, stack: Stack) -> Option<&Tensor> {
        self.types.get(&stack)
    }

    pub(crate) fn present(&self, stack: Stack) -> Option<&[Vec<bool>]> {
        self.present.get(&stack).map(AsRef::as_ref)
    }
}

/// What a run knows when a stack is through: its inputs, and what stacks made.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub(crate) batch: Batch,
    /// What a stack leaves `[batch, position, d_model]`, for others to attend to or for what reads classes or a similarity.
    pub(crate) finished: BTreeMap<Stack, Tensor>,
}

impl Known {
    /// The same of one input as so many runs of it, in which some stacks are as they were; what the others left is forgotten.
    pub(crate) fn repeat(&self, runs: usize, stays: impl Fn(Stack) -> bool) -> Result<Known> {
        let Batch { reads, types, present } = &self.batch;
        let repeated = |(stack, read): (&Stack, &Tensor)| -> Result<(Stack, Tensor)> {
            let mut times = vec![1; read.rank()];
            times[0] = runs;
            Ok((*stack, read.repeat(times)?))
        };
        let reads = reads.iter().map(repeated).collect::<Result<_>>()?;
        let types = types.iter().map(repeated).collect::<Result<_>>()?;
        let present = present.iter().map(|(stack, present)| {
            (*stack, std::iter::repeat_n(present.iter().cloned(), runs).flatten().collect())
        });
        let kept = self.finished.iter().filter(|(stack, _)| stays(**stack));
        let finished = kept.map(|(stack, stream)| Ok((*stack, stream.repeat((runs, 1, 1))?)));
        Ok(Known {
            batch: Batch { reads, types, present: present.collect() },
            finished: finished.collect::<Result<_>>()?,
        })
    }

    /// The same without the first positions of a stack.
    pub(crate) fn skip(mut self, stack: Stack, positions: usize) -> Result<Known> {
        let Batch { reads, types, .. } = &mut self.batch;
        for read in [reads.get_mut(&stack), types.get_mut(&stack)].into_iter().flatten() {
            *read = read.narrow(1, positions, read.dim(1)?.saturating_sub(positions))?;
        }
        Ok(self)
    }
}

/// Keys and values of earlier positions of causal stacks, layer by layer, so that generation reads each token once.
#[derive(Clone, Debug, Default)]
pub struct Past {
    layers: BTreeMap<(Stack, usize), (Tensor, Tensor)>,
    /// Keys and values of what another stack left, which stay as they are.
    crossed: BTreeMap<(Stack, usize), (Tensor, Tensor)>,
}

impl Past {
    /// How many positions have been read.
    pub fn len(&self) -> usize {
        self.layers.first_key_value().map_or(0, |(&(stack, layer), _)| self.len_at(stack, layer))
    }

    /// Where the positions that are read now begin.
    pub(crate) fn offset(&self) -> Offset {
        Offset { stack: self.layers.first_key_value().map(|(&(stack, _), _)| stack), positions: self.len() }
    }

    /// How many positions a layer has read.
    pub(crate) fn len_at(&self, stack: Stack, layer: usize) -> usize {
        self.layers.get(&(stack, layer)).and_then(|(k, _)| k.dims().get(1).copied()).unwrap_or(0)
    }

    /// Appends a layer's new keys and values `[batch, position, head, d_head]`; gives back all so far.
    pub(crate) fn extend(
        &mut self,
        stack: Stack,
        layer: usize,
        k: Tensor,
        v: Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let joined = match self.layers.get(&(stack, layer)) {
            Some((past_k, past_v)) => (Tensor::cat(&[past_k, &k], 1)?, Tensor::cat(&[past_v, &v], 1)?),
            None => (k, v),
        };
        self.layers.insert((stack, layer), joined.clone());
        Ok(joined)
    }

    /// A layer's keys and values of another stack, if they were made before.
    pub(crate) fn crossed(&self, stack: Stack, layer: usize) -> Option<(Tensor, Tensor)> {
        self.crossed.get(&(stack, layer)).cloned()
    }

    /// Keeps them.
    pub(crate) fn keep_crossed(&mut self, stack: Stack, layer: usize, k: &Tensor, v: &Tensor) {
        self.crossed.insert((stack, layer), (k.clone(), v.clone()));
    }

    /// The same of some rows, each as often as it is named. What another stack left is one for all of them.
    pub(crate) fn select(&self, rows: &[u32], device: &Device) -> Result<Past> {
        let rows = Tensor::new(rows, device)?;
        let mut past = Past::default();
        for (&at, (k, v)) in &self.layers {
            let of = |tensor: &Tensor| tensor.contiguous()?.index_select(&rows, 0);
            past.layers.insert(at, (of(k)?, of(v)?));
        }
        for (&at, (k, v)) in &self.crossed {
            let of_all = |tensor: &Tensor| match tensor.dim(0)? == rows.dim(0)? {
                true => Ok(tensor.clone()),
                false => tensor.narrow(0, 0, 1)?.repeat((rows.dim(0)?, 1, 1, 1)),
            };
            past.crossed.insert(at, (of_all(k)?, of_all(v)?));
        }
        Ok(past)
    }

    /// What a batch of so many runs has behind it, each like the one run here, that resumes at a layer and a position.
    pub(crate) fn before(&self, stack: Stack, layer: usize, position: usize, runs: usize) -> Result<Past> {
        let mut layers = BTreeMap::new();
        if position > 0 {
            for (&at, (k, v)) in self.layers.range((stack, layer)..) {
                let cut = |tensor: &Tensor| tensor.narrow(1, 0, position)?.repeat((runs, 1, 1, 1));
                layers.insert(at, (cut(k)?, cut(v)?));
            }
        }
        Ok(Past { layers, crossed: BTreeMap::new() })
    }
}

/// Where the positions that a run reads begin: behind those that a stack has read before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offset {
    stack: Option<Stack>,
    positions: usize,
}

impl Offset {
    /// The position of the first entry of an activation. What another stack is attended to by begins at its first.
    pub(crate) fn of(self, hook: Hook) -> usize {
        let is_read_on = hook.site().is_of_readout() || Some(hook.stack()) == self.stack;
        if is_read_on && !hook.is_of_source() { self.positions } else { 0 }
    }
}
