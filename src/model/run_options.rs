//! What a run is to keep.

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};
use crate::network::spec::ArchSpec;

/// What a run is to keep, and how far it is to go.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let options = RunOptions::only([Site::Pattern, Site::Z]).stop_after(0);
/// let run = model.run_with_options("the cat sat", &options)?;
/// assert_eq!(run.hooks().len(), 2);
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    keep: Selection,
    stop_after: Option<usize>,
}

#[derive(Clone, Debug, Default)]
enum Selection {
    #[default]
    Default,
    All,
    Sites(Vec<Site>),
    Matching(String),
}

impl RunOptions {
    /// Every activation that TransformerLens keeps by default, logits included.
    pub fn new() -> Self {
        RunOptions::default()
    }

    /// The opt-in activations too: `attn.hook_result`, `hook_q_input`, `hook_k_input`, `hook_v_input`, `hook_mlp_in`.
    pub fn all() -> Self {
        RunOptions { keep: Selection::All, ..Self::default() }
    }

    /// Only these, in every layer. What is not kept is not made where nothing else needs it.
    pub fn only(sites: impl IntoIterator<Item = Site>) -> Self {
        RunOptions { keep: Selection::Sites(sites.into_iter().collect()), ..Self::default() }
    }

    /// Only hooks whose name matches a pattern in which `*` stands for anything: `blocks.*.attn.hook_pattern`.
    pub fn matching(glob: impl Into<String>) -> Self {
        RunOptions { keep: Selection::Matching(glob.into()), ..Self::default() }
    }

    /// Goes no further than this layer; the logits are then not made. Of several stacks, the one that is read out is meant.
    pub fn stop_after(mut self, layer: usize) -> Self {
        self.stop_after = Some(layer);
        self
    }

    /// The hooks of a model of this spec to keep; at least one.
    pub(crate) fn hooks(&self, spec: &ArchSpec) -> Result<Vec<Hook>> {
        let read = spec.last_stack();
        let n_layers = read.dims.n_layers;
        if let Some(layer) = self.stop_after.filter(|&layer| layer >= n_layers) {
            return Err(Error::new(
                ErrorKind::Address,
                format!("the run cannot stop after layer {layer}: the model has {n_layers} layers"),
            )
            .help(format!("layers are 0 to {}", n_layers.saturating_sub(1))));
        }
        let reached = |hook: &Hook| match (self.stop_after, hook.layer()) {
            _ if !hook.site().is_of_readout() && hook.stack() != read.stack => true,
            (Some(stop), Some(layer)) => layer <= stop,
            (Some(_), None) => hook.site().is_of_embedding(),
            (None, _) => true,
        };
        let kept = |hook: &Hook| match &self.keep {
            Selection::Default => !hook.site().is_opt_in(),
            Selection::All => true,
            Selection::Sites(sites) => sites.contains(&hook.site()),
            Selection::Matching(glob) => matches(glob, &hook.to_string()),
        };
        let hooks: Vec<Hook> = spec.hooks().into_iter().filter(|hook| reached(hook) && kept(hook)).collect();
        if hooks.is_empty() {
            if let Selection::Sites(sites) = &self.keep {
                // A site that the model does not have has its own reason.
                let lacking = |site: &&Site| !spec.has(**site);
                if let Some(site) = sites.iter().find(lacking) {
                    let hook = if site.in_block() { site.at(0) } else { Hook::from(*site) };
                    spec.check(hook.of(read.stack))?;
                }
            }
            let what = match &self.keep {
                Selection::Matching(glob) => format!("no hook of this run matches `{glob}`"),
                _ => "no hook of this run is asked for".to_string(),
            };
            let error = Error::new(ErrorKind::Address, what);
            return Err(match (self.stop_after, &self.keep) {
                (Some(stop), _) => {
                    error.help(format!("the run stops after layer {stop}: ask for a hook before its end"))
                }
                (None, Selection::Matching(_)) => error.help(
                    "names are TransformerLens's, as blocks.0.attn.hook_pattern; `*` stands for anything",
                ),
                (None, _) => error.help("ask for at least one, as `RunOptions::only([Site::Pattern])`"),
            });
        }
        Ok(hooks)
    }
}

/// Whether `text` fits a pattern in which `*` stands for any text.
fn matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(previous) = last.replace(part) {
            match rest.find(previous) {
                Some(at) => rest = &rest[at + previous.len()..],
                None => return false,
            }
        }
    }
    match last {
        Some(last) => rest.ends_with(last),
        None => rest.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn globs() {
        let cases = [
            ("*", "hook_embed", true),
            ("hook_embed", "hook_embed", true),
            ("hook", "hook_embed", false),
            ("*.hook_pattern", "blocks.0.attn.hook_pattern", true),
            ("blocks.*.attn.*", "blocks.10.attn.hook_z", true),
            ("blocks.1.*", "blocks.10.attn.hook_z", false),
            ("*attn*attn*", "blocks.0.attn.hook_z", false),
            ("*z", "blocks.0.attn.hook_z", true),
            ("blocks.0.attn.hook_z*hook_z", "blocks.0.attn.hook_z", false),
            ("", "hook_embed", false),
        ];
        for (glob, text, expected) in cases {
            assert_eq!(matches(glob, text), expected, "{glob} on {text}");
        }
    }
}
