//! The numbers of tensors, row by row.

use candle_core::{CpuStorage, Layout, Shape, Tensor, bail};

use crate::network::cpu::pages;
use crate::network::cpu::pages::PagePolicy;

/// Numbers that a thread takes at a time: enough to pay for handing them out, little enough for its cache.
pub(super) const CHUNK: usize = 8192;

pub(super) fn rows_a_task(width: usize) -> usize {
    CHUNK.div_ceil(width)
}

pub(super) fn last(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1).max(1)
}

/// The numbers of a contiguous tensor.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("only contiguous f32 is taken here"),
    }
}

/// The numbers of a tensor's storage from its first on, whatever its strides.
pub(super) fn values_from<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match storage {
        CpuStorage::F32(values) => Ok(&values[layout.start_offset()..]),
        _ => bail!("only f32 is taken here"),
    }
}

/// Whether what is made of these may be made in one pass on the CPU: no gradient is to be had of it.
pub(crate) fn can_fuse<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    tensors.into_iter().all(|tensor| tensor.device().is_cpu() && !tensor.track_op())
}

/// A copy, with each row changed.
pub(super) fn by_rows(
    layout: &Layout,
    width: usize,
    x: &[f32],
    change: impl Fn(&mut [f32]) + Sync,
) -> candle_core::Result<(CpuStorage, Shape)> {
    let (out, _) = pages::par_map_alloc(PagePolicy::Short, x, width, |x| *x, |_, row| change(row));
    Ok((CpuStorage::F32(out), layout.shape().clone()))
}
