//! Models of one file, as llama.cpp writes them: made into what a folder of Hugging Face's holds.

mod header;
mod network;
mod tokenizer;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use crate::error::Result;
use crate::network::weights::file::Weights;
use crate::network::weights::mapping::{Mapping, WeightFile};
use crate::tokenizer::Tokenizer;
use header::Header;

/// A file's `config.json`, weights and tokenizer.
pub(crate) struct Gguf {
    pub config: String,
    pub weights: Weights,
    pub tokenizer: Tokenizer,
}

pub(crate) fn read(path: &Path, device: &Device) -> Result<Gguf> {
    let name = path.display().to_string();
    let map = Mapping::open(path, "a GGUF file is opened by its path")?;
    let header = Header::read(&name, map.bytes())?;
    let (config, places) = network::translate(&header, map.bytes())?;
    drop(header);
    let file: Arc<WeightFile> = Arc::new(map.into());
    let weights = Weights::from_places(&name, "its metadata", vec![(file.clone(), places)], device);
    // To read it takes longer than to open the rest.
    let tokenizer = Tokenizer::unread(move || {
        let pipeline = tokenizer::read(&Header::read(file.path(), file.bytes())?);
        file.check()?;
        pipeline
    });
    Ok(Gguf { config, weights, tokenizer })
}
