//! Mistral: Jiang et al. 2023, "Mistral 7B" (section 2). Llama's block; a layer looks back a window of positions only.

use serde::Deserialize;

use super::config::wrong;
use super::decoder::Decoder;
use super::llama::{self, Variant};
use super::weights::Weights;
use crate::error::Result;

/// What a Mistral's `config.json` says beside what a Llama's says.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    /// Later ones have none.
    sliding_window: Option<usize>,
}

pub(super) fn load(config: &Config, llama: &llama::Config, weights: &Weights) -> Result<Decoder> {
    if config.sliding_window == Some(0) {
        return wrong(
            "config.json says sliding_window = 0".into(),
            "a position sees itself at least; null is no window",
        );
    }
    let variant = Variant {
        qkv_bias: false,
        output_bias: false,
        head_norms: false,
        window: &|_| config.sliding_window,
        prepends_bos: true,
    };
    llama::build(llama, &variant, weights)
}
