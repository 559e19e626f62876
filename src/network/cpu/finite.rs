//! Whether numbers are neither NaN nor infinite.

use candle_core::{CpuStorage, Storage, Tensor};
use rayon::prelude::*;

/// Numbers that a thread looks at at a time.
const CHUNK: usize = 1 << 14;

/// By exponents, in a pass without branches.
pub(crate) fn are_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let full = values.iter().fold(0, |full, value| full | u32::from(value.to_bits() & EXPONENT == EXPONENT));
    full == 0
}

/// Whether a tensor on the processor holds neither NaN nor infinity.
pub(crate) fn tensor_is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { candle_core::bail!("f32 on the CPU only") };
    Ok(values.par_chunks(CHUNK).all(are_finite))
}
