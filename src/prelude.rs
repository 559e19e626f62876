//! What a notebook needs: `use headlight::prelude::*;`.

pub use crate::analysis::*;
pub use crate::figure::{Figure, DisplayHandle, show};
pub use crate::hook::{Head, Hook, Site, head};
pub use crate::model::{
    Ablation, Component, Components, AttentionEdge, Generation, Input, Model, PromptTest, Run, RunOptions, Sampling,
    Tokens, no_bos, with_bos,
};
pub use crate::named::{Axis, ValueKind, NamedTensor};
pub use crate::notebook::{EvcxrDisplay as _, clear_output};
pub use crate::open::known_models;
pub use crate::progress::check_stop;
pub use crate::training::{Training, TrainingCurve, TrainingOptions, TrainingPoint};
pub use crate::view::{Visualize, Table, View};
