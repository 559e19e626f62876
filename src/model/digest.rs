//! Digests: what tells one model, or one input, from another.

use candle_core::Tensor;
use rayon::prelude::*;
use ring::digest::{Context, SHA256};

use crate::error::Result;
use crate::network::param::UnmadeWeight;

/// The digest of inputs, one after another.
pub(crate) struct InputDigest(Context);

impl InputDigest {
    pub(crate) fn new() -> InputDigest {
        InputDigest(Context::new(&SHA256))
    }

    pub(crate) fn add(&mut self, ids: &[u32]) {
        self.0.update(&(ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| self.0.update(&id.to_le_bytes()));
    }

    pub(crate) fn add_pixels(&mut self, pixels: &[f32]) {
        self.0.update(&(pixels.len() as u64).to_le_bytes());
        pixels.iter().for_each(|pixel| self.0.update(&pixel.to_le_bytes()));
    }

    pub(crate) fn finish(self) -> String {
        hex(self.0)
    }
}

/// The digest of weights under their names, and of what is said beside.
pub(crate) fn of_weights(weights: Vec<(String, UnmadeWeight)>, said: &[String]) -> Result<String> {
    // A weight is in memory while its digest is made.
    let each = weights.into_par_iter().with_max_len(1).map(|(name, unmade)| of_tensor(&name, &unmade()?));
    let mut all = Context::new(&SHA256);
    for digest in each.collect::<Result<Vec<_>>>()? {
        all.update(&digest);
    }
    said.iter().for_each(|line| all.update(format!("{line}\n").as_bytes()));
    Ok(hex(all))
}

fn of_tensor(name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    // As it lies in memory, where a file has it the other way round.
    let tensor = match tensor.rank() {
        1 => tensor.unsqueeze(0)?,
        2 if !tensor.is_contiguous() => tensor.t()?,
        _ => tensor.clone(),
    };
    let mut digest = Context::new(&SHA256);
    digest.update(format!("{name} {:?}\n", tensor.dims()).as_bytes());
    for row in 0..tensor.dim(0)? {
        let values = tensor.get(row)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        digest.update(&bytes);
    }
    Ok(digest.finish().as_ref().to_vec())
}

fn hex(digest: Context) -> String {
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
