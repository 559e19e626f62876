//! What heads do: their scores, which of them count, and whether that is so.

pub(crate) mod detect_head;
pub(crate) mod detection;
pub(crate) mod evaluation;
pub(crate) mod ground_truth;
pub(crate) mod kind;
pub(crate) mod repeat_loss;
pub(crate) mod repeated_tokens;
pub(crate) mod scores;
