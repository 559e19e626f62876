//! Edits: what a model is made to do differently. An edited model is a model: every analysis works on it, and the
//! weights are shared with the one it was made from.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Head, Hook, Site, Stack};
use crate::model::run::Run;

/// What a model is made to do differently: changes at one or several hooks, which are one thing.
#[derive(Clone)]
pub(crate) struct Edit {
    label: String,
    changes: Vec<(Hook, Arc<Change>)>,
    /// The first position that may be changed.
    first_position: usize,
}

/// Takes an activation, batch first, and the position of its first entry; gives the changed one.
pub(crate) type Change = dyn Fn(&Tensor, usize) -> Result<Tensor> + Send + Sync;

impl Edit {
    pub(crate) fn new(label: String, changes: Vec<(Hook, Arc<Change>)>) -> Edit {
        Edit { label, changes, first_position: 0 }
    }

    /// Says that positions before this one stay as they are.
    pub(crate) fn starting_at(self, first_position: usize) -> Edit {
        Edit { first_position, ..self }
    }

    /// The hooks that it changes.
    pub(crate) fn hooks(&self) -> impl Iterator<Item = Hook> {
        self.changes.iter().map(|(hook, _)| *hook)
    }

    pub(crate) fn is_at(&self, hook: Hook) -> bool {
        self.hooks().any(|own| own == hook)
    }

    /// Whether it sees the logits, or what they are made of, at every position.
    pub(crate) fn is_at_unembedding(&self) -> bool {
        self.hooks().any(|hook| matches!(hook.site(), Site::UnembedIn | Site::UnembedOut))
    }

    /// The first position that the edit may change.
    pub(crate) fn first_position(&self) -> usize {
        self.first_position
    }

    /// The activation of a hook, batch first, whose first entry stands at position `start`, as the edit makes it.
    pub(crate) fn apply(&self, hook: Hook, activation: Tensor, start: usize) -> Result<Tensor> {
        let mut activation = activation;
        for (_, change) in self.changes.iter().filter(|(own, _)| *own == hook) {
            let changed = change(&activation, start)?;
            if changed.dims() != activation.dims() {
                let (made, of) = (changed.dims(), activation.dims());
                return Err(Error::new(
                    ErrorKind::Edit,
                    format!("the edit \"{self}\" made {made:?} of {of:?} at `{hook}`"),
                )
                .help("an edit gives back an activation of the same shape"));
            }
            activation = changed;
        }
        Ok(activation)
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// What can be ablated: a head, a layer's MLP, or one neuron.
///
/// ```
/// use headlight::prelude::*;
/// let parts: Vec<Component> = vec![head(1, 0).into(), mlp(0).into(), mlp(1).neuron(7)];
/// assert_eq!(parts[1].to_string(), "MLP 0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// An attention head: what it mixed from the values (`attn.hook_z`).
    Head(Head),
    /// The MLP of a layer: what it adds to the residual stream (`hook_mlp_out`).
    Mlp(Mlp),
    /// One neuron of a layer's MLP, counted from 0, after the nonlinearity (`mlp.hook_post`).
    Neuron(Mlp, usize),
}

/// The MLP of a layer. Prints as `MLP 0`, in other stacks than the main one as `decoder MLP 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Mlp {
    /// The stack that it is in.
    pub stack: Stack,
    /// The layer, from 0.
    pub layer: usize,
}

/// The MLP of a layer, from 0.
pub const fn mlp(layer: usize) -> Mlp {
    Mlp { stack: Stack::Main, layer }
}

impl Mlp {
    /// The same in another stack.
    pub const fn of(self, stack: Stack) -> Mlp {
        Mlp { stack, ..self }
    }

    /// One of its neurons, from 0.
    pub const fn neuron(self, index: usize) -> Component {
        Component::Neuron(self, index)
    }

    pub(crate) fn hook(self, site: Site) -> Hook {
        site.at(self.layer).of(self.stack)
    }
}

impl fmt::Display for Mlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stack {
            Stack::Main => write!(f, "MLP {}", self.layer),
            stack => write!(f, "{stack} MLP {}", self.layer),
        }
    }
}

impl From<Head> for Component {
    fn from(head: Head) -> Self {
        Component::Head(head)
    }
}

impl From<Mlp> for Component {
    fn from(mlp: Mlp) -> Self {
        Component::Mlp(mlp)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Component::Head(head) => write!(f, "{head}"),
            Component::Mlp(mlp) => write!(f, "{mlp}"),
            Component::Neuron(mlp, index) => write!(f, "neuron {index} of {mlp}"),
        }
    }
}

impl Component {
    /// The hook at which it is ablated, and its index on the axis before the last (a head) or on the last.
    pub(crate) fn hook_and_index(self) -> (Hook, Option<usize>) {
        match self {
            Component::Head(head) => (head.hook(Site::Z), Some(head.head)),
            Component::Mlp(mlp) => (mlp.hook(Site::MlpOut), None),
            Component::Neuron(mlp, index) => (mlp.hook(Site::MlpPost), Some(index)),
        }
    }
}

/// Several components at once: from one head, a list of heads, one [`Component`] or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Components(pub(crate) Vec<Component>);

macro_rules! components {
    ($([$($generics:tt)*] $type:ty, $value:ident => $list:expr;)*) => {$(
        impl<$($generics)*> From<$type> for Components {
            fn from($value: $type) -> Self {
                Components($list)
            }
        }
    )*};
}

components! {
    [] Head, head => vec![head.into()];
    [] Mlp, mlp => vec![mlp.into()];
    [] Component, component => vec![component];
    [] Vec<Head>, heads => heads.into_iter().map(Component::Head).collect();
    [] &Vec<Head>, heads => heads.iter().copied().map(Component::Head).collect();
    [] &[Head], heads => heads.iter().copied().map(Component::Head).collect();
    [const N: usize] [Head; N], heads => heads.into_iter().map(Component::Head).collect();
    [const N: usize] &[Head; N], heads => heads.iter().copied().map(Component::Head).collect();
    [] Vec<Component>, components => components;
    [] &[Component], components => components.to_vec();
    [const N: usize] [Component; N], components => components.to_vec();
}

/// What is put in place of an ablated activation (Wang et al. 2022, "Interpretability in the Wild", section 2.1, on why
/// it matters).
#[derive(Clone, Copy, Debug)]
pub enum Ablation<'a> {
    /// Zero. Simple, but no ordinary value: what reads it may break.
    Zero,
    /// The mean over all positions of a reference run.
    Mean(&'a Run),
    /// The activation of another run of as many tokens, position by position.
    Resample(&'a Run),
}

impl fmt::Display for Ablation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ablation::Zero => "zero",
            Ablation::Mean(_) => "mean",
            Ablation::Resample(_) => "resample",
        })
    }
}

/// Attention from a query position to a key position, in one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionEdge {
    /// The head that attends.
    pub head: Head,
    /// The position that attends.
    pub query: usize,
    /// The position that is attended to.
    pub key: usize,
}
