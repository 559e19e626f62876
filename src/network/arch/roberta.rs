//! RoBERTa: Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach": BERT's stack, whose positions begin behind the
//! token that fills, with heads of its own.

use crate::error::Result;
use crate::network::arch::bert;
use crate::network::arch::bert::{Config, Variant};
use crate::network::arch::heads::{HeadFile, HeadNames};
use crate::network::network::Network;
use crate::network::parts::mlp::Activation;
use crate::network::weights::file::Weights;

/// `RobertaConfig`'s defaults, which are `BertConfig`'s but for these.
pub(crate) fn config() -> Config {
    Config { vocab_size: 50265, pad_token_id: Some(1), ..Config::default() }
}

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    let heads = HeadNames {
        masked: ["lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"],
        unembedding_bias: &["lm_head.bias", "lm_head.decoder.bias"],
        next_sentence: None,
        before_classes: ("classifier.dense", Activation::Tanh),
        classes: "classifier.out_proj",
    };
    let filling = config.pad_token_id.unwrap_or(1);
    let variant = Variant {
        prefix: "roberta.",
        skipped_positions: filling.saturating_add(1),
        heads,
        activation: Activation::GeluErf,
    };
    bert::build(config, head, &variant, weights)
}
