//! The results that draw themselves where a notebook ends a cell with one.

use crate::analysis::alignment::scores::AlignmentScores;
use crate::analysis::alignment::sentence_alignment::SentenceAlignment;
use crate::analysis::causal::ablation::AblationEffects;
use crate::analysis::circuits::circuit::Circuit;
use crate::analysis::circuits::composition::CompositionScores;
use crate::analysis::circuits::tokens::{SingularDirections, TokenPairs};
use crate::analysis::concepts::concept_direction::ConceptDirection;
use crate::analysis::concepts::concept_map::ConceptMap;
use crate::analysis::course_project::detection::PublishedDetection;
use crate::analysis::course_project::qk::QkAsPublished;
use crate::analysis::head_grid::HeadGrid;
use crate::analysis::heads::detection::Detection;
use crate::analysis::heads::evaluation::Evaluation;
use crate::analysis::heads::ground_truth::GroundTruth;
use crate::analysis::heads::repeat_loss::LossOnRepeats;
use crate::analysis::heads::scores::HeadScores;
use crate::analysis::residual::class_lens::ClassLens;
use crate::analysis::residual::direct_attribution::DirectAttribution;
use crate::analysis::residual::logit_lens::LogitLens;
use crate::analysis::sweep::merge::SweepResult;
use crate::analysis::words::attention_targets::AttentionTargets;
use crate::analysis::words::token_attribution::TokenAttribution;
use crate::analysis::words::value_flow::ValueFlow;
use crate::error::Result;
use crate::figure::display::show_result;
use crate::figure::figure::Figure;
use crate::model::classify::Classes;
use crate::model::fill_mask::MaskFilling;
use crate::model::generate::Generation;
use crate::model::input::Tokens;
use crate::model::predict::PromptTest;
use crate::model::run::Run;
use crate::model::translate::Translations;
use crate::named::NamedTensor;
use crate::open::known::KnownModels;
use crate::training::curve::TrainingCurve;
use crate::view::Visualize;

/// Gives types that say what of them is to be seen the inherent methods `figure` and `evcxr_display`.
macro_rules! impl_visualize {
    ($($type:ty),* $(,)?) => {$(
        impl $type {
            /// The figure of it: to save, to stack with others, or to look at in a notebook.
            pub fn figure(&self) -> Result<Figure> {
                Figure::new(Visualize::views(self)?)
            }

            /// Shows the figure where a notebook ends a cell with this value. Where there is no figure it shows why.
            pub fn evcxr_display(&self) {
                show_result(self.figure());
            }
        }
    )*};
}

impl_visualize! {
    AblationEffects,
    AlignmentScores,
    AttentionTargets,
    Circuit,
    DirectAttribution,
    ClassLens,
    Classes,
    ConceptDirection,
    ConceptMap,
    CompositionScores,
    Detection,
    SingularDirections,
    Evaluation,
    Generation,
    HeadGrid,
    HeadScores,
    KnownModels,
    LogitLens,
    LossOnRepeats,
    MaskFilling,
    SweepResult,
    NamedTensor,
    PromptTest,
    PublishedDetection,
    QkAsPublished,
    Run,
    SentenceAlignment,
    TokenAttribution,
    TokenPairs,
    Tokens,
    TrainingCurve,
    Translations,
    GroundTruth,
    ValueFlow,
}
