//! Qwen2 (Yang et al. 2024, "Qwen2 Technical Report", section 2.2.1): Llama's block, with biases of queries, keys and values.
//! Qwen3 (Yang et al. 2025, "Qwen3 Technical Report", section 2): norms of each head's queries and keys in their place.

use serde::Deserialize;

use super::config::wrong;
use super::decoder::Decoder;
use super::llama::{self, Variant};
use super::weights::Weights;
use crate::error::Result;

/// What a Qwen's `config.json` says beside what a Llama's says.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    /// One for each layer; older files say `max_window_layers` only.
    #[serde(default)]
    layer_types: Vec<Reach>,
    /// From this layer on.
    #[serde(default)]
    max_window_layers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Reach {
    #[serde(rename = "full_attention")]
    Full,
    #[serde(rename = "sliding_attention")]
    Sliding,
}

impl Config {
    /// How far a layer looks back, where not all the way.
    fn window(&self, layer: usize) -> Option<usize> {
        let slides = match self.layer_types.get(layer) {
            Some(reach) => *reach == Reach::Sliding,
            None => layer >= self.max_window_layers,
        };
        self.sliding_window.filter(|_| self.use_sliding_window && slides)
    }

    fn load(
        &self,
        llama: &llama::Config,
        qkv_bias: bool,
        head_norms: bool,
        weights: &Weights,
    ) -> Result<Decoder> {
        if self.use_sliding_window && self.sliding_window == Some(0) {
            return wrong("config.json says sliding_window = 0".into(), "a position sees itself at least");
        }
        let output_bias = head_norms && llama.attention_bias;
        let window = |layer: usize| self.window(layer);
        let variant = Variant { qkv_bias, output_bias, head_norms, window: &window, prepends_bos: false };
        llama::build(llama, &variant, weights)
    }
}

pub(super) fn load_qwen2(config: &Config, llama: &llama::Config, weights: &Weights) -> Result<Decoder> {
    config.load(llama, true, false, weights)
}

pub(super) fn load_qwen3(config: &Config, llama: &llama::Config, weights: &Weights) -> Result<Decoder> {
    config.load(llama, llama.attention_bias, true, weights)
}
