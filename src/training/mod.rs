//! Training of small models, to watch what they learn: Olsson et al. 2022, "In-context Learning and Induction Heads",
//! found that induction heads appear suddenly, and that in-context learning appears with them.

mod classifier;
pub(crate) mod curve;
mod folder;
pub(crate) mod loss;
mod optimizer;
mod options;
pub(crate) mod trainer;
#[allow(clippy::module_inception)]
mod training;
mod translation;

pub use classifier::ClassifierTraining;
pub use curve::{TrainingCurve, TrainingPoint};
pub use folder::FolderOptions;
pub use options::TrainingOptions;
pub use training::Training;
pub use translation::TranslationTraining;
