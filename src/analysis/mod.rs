//! What is asked of models and runs. Analyses never draw: results say what of them is to be seen.

mod ablation;
mod attribution;
mod circuit;
mod circuit_tokens;
mod composition;
mod decompose;
mod detect_head;
mod detection;
mod evaluation;
mod factored;
mod head_scores;
mod logit_lens;
mod merge;
mod metric;
mod part;
mod patching;
mod published_detection;
mod published_figures;
mod published_qk;
mod repeat_loss;
mod repeated;
mod stream;
mod sweep;
mod truth;

pub use ablation::{AblationEffects, ablation_effects};
pub use attribution::{
    accumulated_resid, apply_ln_to_stack, decompose_resid, full_resid_decomposition, head_logit_attribution,
    head_logit_attribution_by_position, logit_attrs, logit_bias, stack_head_results,
};
pub use circuit::{Circuit, CircuitKind, ov_circuit, qk_circuit};
pub use circuit_tokens::{Direction, Directions, TokenPair, TokenPairs, copying_accuracy};
pub use composition::{Baseline, Composition, CompositionScores, composition_scores};
pub use decompose::{attn_score_spread, decompose_attn_scores};
pub use detect_head::{DetectHead, ErrorMeasure, detect_head};
pub use detection::{Detection, DynamicThreshold, Threshold};
pub use evaluation::Evaluation;
pub use head_scores::{
    HeadKind, HeadScores, current_token_scores, duplicate_token_scores, first_token_scores, head_scores,
    induction_scores, previous_token_scores,
};
pub use logit_lens::{LogitLens, logit_lens};
pub use merge::{Merged, merge};
pub use metric::Metric;
pub use part::{Part, Shard};
pub use patching::{
    Receiver, activation_patching, activation_patching_by_position, attribution_patching, path_patching,
};
pub use published_detection::{PublishedDetection, as_published};
pub use published_figures::{published_attention, published_qk};
pub use published_qk::{QkAsPublished, qk_as_published};
pub use repeat_loss::{LossOnRepeats, loss_on_repeats};
pub use repeated::RepeatedTokens;
pub use truth::{Criteria, Evidence, Truth, causal_truth, causal_truth_by};

use crate::error::{Error, ErrorKind};
use crate::named::Axis;

/// The axes of what is measured of every head, L0 and H0 first.
fn layer_and_head(n_layers: usize, n_heads: usize) -> [Axis; 2] {
    let numbered = |prefix: &str, count| (0..count).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>();
    [Axis::labelled("layer", numbered("L", n_layers)), Axis::labelled("head", numbered("H", n_heads))]
}

/// A run ended before what was to be read.
fn not_reached() -> Error {
    Error::new(ErrorKind::Tap, "the run ended before what was to be read")
}
