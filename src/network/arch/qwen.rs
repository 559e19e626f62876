//! Qwen2 (Yang et al. 2024, "Qwen2 Technical Report", section 2.2.1): Llama's block, with biases of queries, keys and values.
//! Qwen3 (Yang et al. 2025, "Qwen3 Technical Report", section 2): norms of each head's queries and keys in their place.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::arch::heads::HeadFile;
use crate::network::arch::llama;
use crate::network::arch::llama::Variant;
use crate::network::config::invalid_config;
use crate::network::network::Network;
use crate::network::weights::file::Weights;

/// What a Qwen's `config.json` says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    llama: llama::Config,
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    /// From this layer on.
    max_window_layers: usize,
    /// One for each layer; older files say `max_window_layers` only.
    layer_types: Option<Vec<Reach>>,
}

/// `Qwen2Config`'s defaults, which are `LlamaConfig`'s but for these.
pub(crate) fn qwen2() -> Config {
    let llama = llama::Config {
        vocab_size: 151936,
        intermediate_size: 22016,
        num_key_value_heads: Some(32),
        max_position_embeddings: 32768,
        ..llama::Config::default()
    };
    Config {
        llama,
        use_sliding_window: false,
        sliding_window: Some(4096),
        max_window_layers: 28,
        layer_types: None,
    }
}

/// `Qwen3Config`'s, which are `Qwen2Config`'s but for this.
pub(crate) fn qwen3() -> Config {
    let Config { llama, .. } = qwen2();
    Config { llama: llama::Config { head_dim: Some(128), ..llama }, ..qwen2() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Reach {
    #[serde(rename = "full_attention")]
    Full,
    #[serde(rename = "sliding_attention")]
    Sliding,
}

impl Config {
    /// How far a layer looks back, where not all the way.
    fn window(&self, layer: usize) -> Option<usize> {
        let slides = match &self.layer_types {
            Some(all) => all.get(layer) == Some(&Reach::Sliding),
            None => layer >= self.max_window_layers,
        };
        self.sliding_window.filter(|_| self.use_sliding_window && slides)
    }

    fn load(&self, qkv_bias: bool, head_norms: bool, head: &HeadFile, weights: &Weights) -> Result<Network> {
        if self.use_sliding_window && self.sliding_window == Some(0) {
            return invalid_config(
                "config.json says sliding_window = 0".into(),
                "a position sees itself at least",
            );
        }
        let layers = self.llama.num_hidden_layers;
        if let Some(known) = self.layer_types.as_ref().map(Vec::len).filter(|&known| known < layers) {
            return invalid_config(
                format!("config.json names {known} layer_types of {layers}"),
                "they are one for each layer, \"full_attention\" or \"sliding_attention\"; without any, \
                 max_window_layers says from which layer on they slide",
            );
        }
        let output_bias = head_norms && self.llama.attention_bias;
        let window = |layer: usize| self.window(layer);
        let variant = Variant { qkv_bias, output_bias, head_norms, window: &window, prepends_bos: false };
        llama::build(&self.llama, head, &variant, weights)
    }
}

pub(crate) fn load_qwen2(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    config.load(true, false, head, weights)
}

pub(crate) fn load_qwen3(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    config.load(config.llama.attention_bias, true, head, weights)
}
