//! Marian: Junczys-Dowmunt et al. 2018, "Marian: Fast Neural Machine Translation in C++", as OPUS-MT's translators are (Tiedemann and
//! Thottingal 2020): BART's stacks, with positions by sines and cosines, and no norm behind the embeddings.

use crate::error::Result;
use crate::network::arch::bart;
use crate::network::arch::bart::{Config, Variant};
use crate::network::arch::heads::HeadFile;
use crate::network::network::Network;
use crate::network::weights::file::Weights;

/// `MarianConfig`'s defaults, which are `BartConfig`'s but for these.
pub(crate) fn config() -> Config {
    Config { vocab_size: 58101, ..Config::default() }
}

pub(crate) fn load(config: &Config, head: &HeadFile, weights: &Weights) -> Result<Network> {
    bart::build(config, head, &Variant { skipped_positions: None, norms_embeddings: false }, weights)
}
