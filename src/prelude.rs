//! What a notebook needs: `use headlight::prelude::*;`.

pub use crate::analysis::{
    AlignmentOptions, AttentionTarget, AttributionMethod, Causes, CircuitKind, Composition, ConceptMethod,
    ConceptPosition, DynamicThreshold, HeadKind, Metric, PathReceiver, RepeatedTokens, Threshold,
    WordAlignment, ablation_effects, accumulated_resid, activation_patching, activation_patching_by_position,
    alignment_scores, apply_ln_to_stack, attention_targets, attn_score_spread, attribution_patching,
    causal_truth, class_attribution, class_lens, composition_scores, concept_direction, concept_map,
    copying_accuracy, current_token_scores, decompose_attn_scores, decompose_resid, detect_head,
    duplicate_token_scores, first_token_scores, full_resid_decomposition, head_logit_attribution,
    head_logit_attribution_by_position, head_scores, induction_scores, logit_attribution, logit_attrs,
    logit_bias, logit_lens, loss_on_repeats, merge, ov_circuit, path_patching, previous_token_scores,
    qk_circuit, sentence_alignment, stack_head_results, token_attribution, value_flow,
};
pub use crate::figure::{Figure, show};
pub use crate::hook::{Head, Hook, Site, Stack, head};
pub use crate::model::{
    Ablation, AttentionEdge, Component, Input, Model, Run, RunOptions, Sampling, Search, Tokens, mlp, no_bos,
    with_bos,
};
pub use crate::named::{Axis, NamedTensor, ValueKind};
pub use crate::notebook::{EvcxrDisplay as _, clear_output};
pub use crate::open::known_models;
pub use crate::progress::check_stop;
pub use crate::training::{Training, TrainingCurve, TrainingOptions};
pub use crate::view::{Table, View, Visualize};
