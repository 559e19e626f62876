//! What of each stack is ablated, one after another.

use serde::{Deserialize, Serialize};

use crate::hook::{Attn, Head, Site, Stack, head};
use crate::model::edit::Component;
use crate::model::model::Model;
use crate::network::spec::StackSpec;

/// What of a stack is ablated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AblatedStack {
    pub(crate) stack: Stack,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Whether it has attention to another stack too.
    pub(crate) crosses: bool,
    pub(crate) mlps: bool,
}

impl AblatedStack {
    pub(crate) fn all(model: &Model) -> Vec<AblatedStack> {
        let of = |spec: &StackSpec| AblatedStack {
            stack: spec.stack,
            layers: spec.dims.n_layers,
            heads: spec.dims.n_heads,
            crosses: spec.crosses.is_some(),
            mlps: spec.has(Site::MlpOut),
        };
        model.spec().stacks().iter().map(of).collect()
    }

    /// How many variants there are of it; nothing where a file says what cannot be.
    pub(crate) fn count(&self) -> Option<usize> {
        let heads = self.heads.checked_mul(self.attentions().len())?;
        self.layers.checked_mul(heads.checked_add(self.parts().len())?)
    }

    pub(crate) fn attentions(&self) -> &'static [Attn] {
        if self.crosses { &[Attn::Own, Attn::Cross] } else { &[Attn::Own] }
    }

    pub(crate) fn parts(&self) -> &'static [&'static str] {
        if self.mlps { &["MLP", "attention", "both"] } else { &["attention"] }
    }

    pub(crate) fn heads_of(&self, layer: usize) -> impl Iterator<Item = Component> + use<> {
        let (attentions, stack, heads) = (self.attentions(), self.stack, self.heads);
        attentions.iter().flat_map(move |&attn| {
            (0..heads).map(move |index| Head { attn, ..head(layer, index).of(stack) }.into())
        })
    }
}
