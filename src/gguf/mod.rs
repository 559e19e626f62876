//! Models of one file, as llama.cpp writes them: made into what a folder of Hugging Face's holds.

mod header;
mod network;
mod tokenizer;

use std::path::Path;

use candle_core::Device;

use crate::error::Result;
use crate::network::weights::file::Weights;
use crate::network::weights::mapping::Mapping;
use header::Header;

/// A file's `config.json`, weights and tokenizer.
pub(crate) struct Gguf {
    pub config: String,
    pub weights: Weights,
    pub tokenizer: Option<tokenizer::UnreadTokenizer>,
}

pub(crate) fn read(path: &Path, device: &Device) -> Result<Gguf> {
    let name = path.display().to_string();
    let map = Mapping::open(path, "a GGUF file is opened by its path")?;
    let header = Header::read(&name, map.bytes())?;
    let (config, places) = network::translate(&header, map.bytes())?;
    let tokenizer = tokenizer::translate(&header)?;
    drop(header);
    let weights = Weights::from_places(&name, "its metadata", vec![(map, places)], device);
    Ok(Gguf { config, weights, tokenizer })
}
