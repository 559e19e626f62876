//! What is asked of models and runs. Analyses never draw: results say what of them is to be seen.

pub(crate) mod alignment;
pub(crate) mod causal;
pub(crate) mod circuits;
pub(crate) mod concepts;
pub mod course_project;
pub(crate) mod head_grid;
pub(crate) mod heads;
pub(crate) mod residual;
pub(crate) mod sweep;
pub(crate) mod words;

pub use alignment::gold::WordAlignment;
pub use alignment::scores::{
    AlignmentOptions, AlignmentScores, AllHeadsCause, Causes, HeadAlignment, HeadCause, alignment_scores,
};
pub use alignment::sentence::AlignedRow;
pub use alignment::sentence_alignment::{SentenceAlignment, sentence_alignment};
pub use causal::ablation::{AblationEffects, ablation_effects};
pub use causal::patching::{
    PathReceiver, activation_patching, activation_patching_by_position, attribution_patching, path_patching,
};
pub use circuits::circuit::{Circuit, CircuitKind, ov_circuit, qk_circuit};
pub use circuits::composition::{Composition, CompositionBaseline, CompositionScores, composition_scores};
pub use circuits::decompose::{attn_score_spread, decompose_attn_scores};
pub use circuits::tokens::{SingularDirection, SingularDirections, TokenPair, TokenPairs, copying_accuracy};
pub use concepts::concept_direction::{ConceptDirection, concept_direction};
pub use concepts::concept_map::{ConceptMap, concept_map};
pub use concepts::direction::ConceptMethod;
pub use concepts::examples::ConceptPosition;
pub use head_grid::HeadGrid;
pub use heads::detect_head::{DetectHeadOptions, ErrorMeasure, detect_head};
pub use heads::detection::{Detection, DynamicThreshold, Threshold};
pub use heads::evaluation::Evaluation;
pub use heads::ground_truth::{Criteria, Evidence, GroundTruth, causal_truth, causal_truth_by};
pub use heads::kind::HeadKind;
pub use heads::repeat_loss::{LossOnRepeats, loss_on_repeats};
pub use heads::repeated_tokens::RepeatedTokens;
pub use heads::scores::{
    HeadScores, current_token_scores, duplicate_token_scores, first_token_scores, head_scores,
    induction_scores, previous_token_scores,
};
pub use residual::attribution::{
    accumulated_resid, apply_ln_to_stack, decompose_resid, full_resid_decomposition, head_logit_attribution,
    head_logit_attribution_by_position, logit_attrs, logit_bias, stack_head_results,
};
pub use residual::class_lens::{ClassLens, class_lens};
pub use residual::direct_attribution::{DirectAttribution, class_attribution, logit_attribution};
pub use residual::logit_lens::{LogitLens, logit_lens};
pub use sweep::merge::{SweepResult, merge};
pub use sweep::metric::Metric;
pub use sweep::part::{Shard, SweepPart};
pub use words::attention_targets::{AttentionTarget, AttentionTargets, attention_targets};
pub use words::token_attribution::{AttributionMethod, TokenAttribution, token_attribution};
pub use words::value_flow::{ValueFlow, value_flow};
