//! A tap that keeps activations as a run meets them.

use candle_core::Tensor;

use crate::error::Result;
use crate::hook::{Hook, HookSet, Site, Stack};
use crate::network::tap::{Tap, not_reached};

/// Keeps the activations of some hooks, and lets a run end once it has them.
pub(crate) struct Record {
    hooks: HookSet,
    positions: Option<Vec<usize>>,
    seen: Vec<(Hook, Tensor)>,
}

impl Record {
    pub(crate) fn new(hooks: impl IntoIterator<Item = Hook>) -> Record {
        Record { hooks: hooks.into_iter().collect(), positions: None, seen: Vec::new() }
    }

    /// The logits.
    pub(crate) fn logits() -> Record {
        Record::new([Site::UnembedOut.into()])
    }

    /// Of the logits, these positions' alone.
    pub(crate) fn at_positions(self, positions: Option<Vec<usize>>) -> Record {
        Record { positions, ..self }
    }

    pub(crate) fn get(&self, hook: Hook) -> Option<&Tensor> {
        self.seen.iter().find(|(seen, _)| *seen == hook).map(|(_, tensor)| tensor)
    }

    /// The one activation that was to be read. Fails if the run ended before it.
    pub(crate) fn only(self) -> Result<Tensor> {
        self.seen.into_iter().next().map(|(_, tensor)| tensor).ok_or_else(not_reached)
    }

    /// What was kept, in the order in which the run met it.
    pub(crate) fn into_seen(self) -> Vec<(Hook, Tensor)> {
        self.seen
    }
}

impl Tap for Record {
    fn wants(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor> {
        // Queries, keys and values are views of one tensor: to keep one of them must not keep all three.
        let kept = match hook.site() {
            Site::Q | Site::K | Site::V => activation.force_contiguous()?,
            _ => activation.clone(),
        };
        self.seen.push((hook, kept));
        Ok(activation)
    }

    /// With no logits to keep, what lies after the last wanted layer need not run. Of several stacks the last counts.
    fn stop_after(&self) -> Option<(Stack, usize)> {
        let place = |hook: &&Hook| (hook.stack(), hook.layer().unwrap_or(0));
        let Some(last) = self.hooks.iter().max_by_key(place) else {
            return Some((Stack::Main, 0));
        };
        // What a stack makes after its blocks is made before the next one runs.
        let is_last_of_all = |hook: &&Hook| hook.stack() == last.stack() || hook.site().is_of_readout();
        match self.hooks.iter().filter(is_last_of_all).any(|hook| hook.is_after_blocks()) {
            true => None,
            false => Some((last.stack(), last.layer().unwrap_or(0))),
        }
    }

    fn unembed_positions(&self) -> Option<&[usize]> {
        self.positions.as_deref()
    }
}
