//! Running a model: with its edits in force, and only if there is memory for it.

use candle_core::Tensor;

use crate::error::{Remedy, Result};
use crate::hook::{Attn, Hook, Site, Stack};
use crate::memory::{check, floats};
use crate::model::edit::Edit;
use crate::model::input::Input;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::model::run_options::RunOptions;
use crate::network::footprint::CHANGING;
use crate::network::record::Record;
use crate::network::start::{Known, Offset, Past, Start};
use crate::network::tap::Tap;
use crate::progress;
use crate::progress::bytes;

impl Model {
    /// Runs an input and keeps what TransformerLens keeps by default: every activation but the opt-in ones. Where a decoder reads an
    /// encoder, and a source is given without a target, the target is what the model writes itself, greedily: the run's tokens show it.
    pub fn run_with_cache(&self, input: impl Into<Input>) -> Result<Run> {
        self.run(&input.into(), &RunOptions::new())
    }

    /// Runs an input and keeps what the options say.
    pub fn run_with_options(&self, input: impl Into<Input>, options: &RunOptions) -> Result<Run> {
        self.run(&input.into(), options)
    }

    /// Runs an input with a tap of one's own, which sees and may change every activation that it wants.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// use candle_core::Tensor;
    /// use headlight::Tap;
    ///
    /// struct Count(usize);
    /// impl Tap for Count {
    ///     fn wants(&self, hook: Hook) -> bool {
    ///         hook.site() == Site::Pattern
    ///     }
    ///     fn tap(&mut self, _: Hook, activation: Tensor) -> headlight::Result<Tensor> {
    ///         self.0 += 1;
    ///         Ok(activation)
    ///     }
    /// }
    /// let mut count = Count(0);
    /// let model = Model::open("built-in")?;
    /// model.run_with_tap("the cat sat", &mut count)?;
    /// assert_eq!(count.0, model.dims().n_layers);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn run_with_tap(&self, input: impl Into<Input>, tap: &mut dyn Tap) -> Result<()> {
        let pieces = self.pieces(&input.into())?;
        self.execute(self.batch(&pieces)?.into(), None, tap).map(drop)
    }

    fn run(&self, input: &Input, options: &RunOptions) -> Result<Run> {
        let wanted = options.hooks(self.spec())?;
        let pieces = self.pieces(&self.with_targets(input)?)?;
        let mut record = Record::new(wanted);
        self.execute(self.batch(&pieces)?.into(), None, &mut record)?;
        let spec = self.network.spec().clone();
        Ok(Run::new(self.name.clone(), spec, pieces, record.into_seen()))
    }

    /// Runs the network with the edits in force, if there is memory for it. It stops when asked, before the next activation.
    /// Gives what a run that begins in a later stack must know.
    pub(crate) fn execute(&self, start: Start, past: Option<&mut Past>, tap: &mut dyn Tap) -> Result<Known> {
        let offset = past.as_deref().map_or_else(Offset::default, Past::offset);
        let mut edited = Edited { edits: &self.edits, offset, inner: tap };
        self.has_room(&start, past.as_deref(), &edited)?;
        self.network.run(start, past, &mut edited)
    }

    /// Fails if what such a run takes at once, with what its tap keeps, is more than what is free.
    fn has_room(&self, start: &Start, past: Option<&Past>, tap: &Edited) -> Result<()> {
        let read = self.spec().last_stack().stack;
        let (batch, len) = start.size(read).unwrap_or((0, 0));
        let before = past.map_or(0, Past::len);
        let size = |hook: &Hook| self.numbers_at(*hook, start, before).saturating_mul(4);
        let needed = self.network.footprint(start, past, tap).saturating_add(tap.beside_what_is_kept(size));
        let kept = || self.hooks().into_iter().filter(|hook| tap.wants(*hook) && tap.keeps(*hook));
        check(self.device(), needed, || {
            let inputs = if batch == 1 { "a run".to_string() } else { format!("a run of {batch} inputs") };
            let kept = kept().max_by_key(size).map_or(String::new(), |largest| {
                let bytes = bytes(size(&largest) as f64);
                match kept().count() {
                    1 => format!(" that keeps `{largest}`, {bytes},"),
                    count => format!(" that keeps {count} activations (`{largest}` alone is {bytes})"),
                }
            });
            (format!("{inputs} of {len} tokens{kept}"), "run a shorter input, or fewer at once")
        })
        .map_err(|error| if kept().nth(1).is_some() { error.remedied_by(Remedy::KeepLess) } else { error })
    }

    /// How many numbers an activation has in such a run.
    fn numbers_at(&self, hook: Hook, start: &Start, before: usize) -> u64 {
        let Ok(spec) = self.spec().stack_of(hook) else { return 0 };
        let Some((batch, len)) = start.size(spec.stack) else { return 0 };
        let source =
            spec.crosses.filter(|_| hook.attn() == Attn::Cross).and_then(|source| start.size(source));
        match source {
            Some((_, source)) if hook.site().is_of_source() => {
                spec.dims.numbers(hook.site(), batch, source, source)
            }
            Some((_, source)) => spec.dims.numbers(hook.site(), batch, len, source),
            None => spec.dims.numbers(hook.site(), batch, len, len + before),
        }
    }

    /// The same of a run through which gradients are taken, of so many positions' logits and with respect to these sites.
    pub(crate) fn has_room_for_gradients(
        &self,
        batch: usize,
        len: usize,
        read: usize,
        sites: &[Site],
    ) -> Result<()> {
        check(self.device(), self.network.footprint_of_gradients(batch, &[len], read, sites), || {
            let what = format!("the gradient of a run of {len} tokens");
            (what, "run a shorter input; patching in place of attribution takes no gradient, and less memory")
        })
    }

    /// Fails if there is no memory for all weights once more, and so many bytes.
    pub(super) fn has_room_for_weights(&self, what: &str, beside: u64) -> Result<()> {
        let bytes = self.network.bytes_of_weights()?.saturating_add(beside);
        check(self.device(), bytes, || {
            (format!("{what} of {}", self.name), "let go of other models and runs, or take a smaller model")
        })
    }

    /// Fails if there is no memory for so many copies of a weight.
    pub(super) fn has_room_for_copies(&self, name: &str, weight: &Tensor, copies: usize) -> Result<()> {
        check(self.device(), floats(weight.dims().iter().copied().chain([copies])), || {
            (format!("`{name}` of all heads and layers"), "take one layer's, as `blocks.0.attn.W_Q`")
        })
    }
}

/// Applies edits, then shows the outcome to another tap.
struct Edited<'a> {
    edits: &'a [Edit],
    offset: Offset,
    inner: &'a mut dyn Tap,
}

impl Edited<'_> {
    /// The most that a change takes of an activation that is kept as well, where each has such a size.
    fn beside_what_is_kept(&self, size: impl Fn(&Hook) -> u64) -> u64 {
        let kept = self.edits.iter().flat_map(Edit::hooks).filter(|hook| self.keeps(*hook));
        kept.map(|hook| size(&hook).saturating_mul(CHANGING)).max().unwrap_or(0)
    }
}

impl Tap for Edited<'_> {
    fn wants(&self, hook: Hook) -> bool {
        // An activation that nobody reads is asked for only to stop there.
        progress::is_stopping() || self.edits.iter().any(|edit| edit.is_at(hook)) || self.inner.wants(hook)
    }

    fn tap(&mut self, hook: Hook, activation: Tensor) -> Result<Tensor> {
        progress::check("the run of the model")?;
        let mut activation = activation;
        for edit in self.edits {
            activation = edit.apply(hook, activation, self.offset.of(hook))?;
        }
        if self.inner.wants(hook) { self.inner.tap(hook, activation) } else { Ok(activation) }
    }

    fn keeps(&self, hook: Hook) -> bool {
        self.inner.wants(hook) && self.inner.keeps(hook)
    }

    fn stop_after(&self) -> Option<(Stack, usize)> {
        self.inner.stop_after()
    }

    /// An edit at the unembedding sees every position.
    fn unembed_positions(&self) -> Option<&[usize]> {
        if self.edits.iter().any(Edit::is_at_unembedding) { None } else { self.inner.unembed_positions() }
    }
}
