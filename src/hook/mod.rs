//! Addresses of activations and heads, typed and named as TransformerLens names them.

mod axis;
mod head;
#[allow(clippy::module_inception)]
mod hook;
mod site;
mod stack;

pub use axis::AxisKind;
pub use head::{Head, head};
pub use hook::{Hook, IntoHook};
pub(crate) use hook::{HookSet, in_block};
pub use site::Site;
pub use stack::{Attn, Stack};
