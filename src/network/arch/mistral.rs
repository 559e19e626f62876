//! Mistral: Jiang et al. 2023, "Mistral 7B" (section 2). Llama's block; a layer looks back a window of positions only.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::HeadFile;
use crate::network::arch::llama;
use crate::network::arch::llama::Variant;
use crate::network::config::invalid_config;
use crate::network::network::Network;
use crate::network::weights::file::Weights;

/// What a Mistral's `config.json` says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    llama: llama::Config,
    /// Null is none.
    sliding_window: Option<usize>,
}

impl Default for Config {
    /// `MistralConfig`'s, which are `LlamaConfig`'s but for these.
    fn default() -> Config {
        let llama = llama::Config {
            intermediate_size: 14336,
            num_key_value_heads: Some(8),
            max_position_embeddings: 4096 * 32,
            ..llama::Config::default()
        };
        Config { llama, sliding_window: Some(4096) }
    }
}

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    if config.sliding_window == Some(0) {
        return invalid_config(
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
    llama::build(&config.llama, head, &variant, weights)
}
