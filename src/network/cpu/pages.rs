//! Memory for numbers that are about to be written: it is not zeroed first, and all threads write it. That of weights is in
//! pages as large as the system has: they are hundreds of megabytes, and each page has to be asked for, zeroed and found again.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// How long the numbers are kept.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum PagePolicy {
    /// As long as a model.
    Long,
    /// As long as a run.
    Short,
}

/// Numbers made one by one of `from`; each `len` of them, the last perhaps fewer, are looked at or changed by `then`, which
/// gets their place, while they are in a core's cache. What it finds comes in their order.
pub(crate) fn par_map_alloc<T: Sync, R: Send>(
    policy: PagePolicy,
    from: &[T],
    len: usize,
    each: impl Fn(&T) -> f32 + Sync,
    then: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> (Vec<f32>, Vec<R>) {
    let make = |(place, (room, from)): (usize, (&mut [MaybeUninit<f32>], &[T]))| {
        room.iter_mut().zip(from).for_each(|(room, from)| {
            room.write(each(from));
        });
        // SAFETY: each of them was just written, for `from` is as long.
        then(place, unsafe { room.assume_init_mut() })
    };
    let mut values = allocate(from.len(), policy);
    let room = &mut values.spare_capacity_mut()[..from.len()];
    let found = if below_parallel_threshold(from.len()) {
        room.chunks_mut(len).zip(from.chunks(len)).enumerate().map(make).collect()
    } else {
        let chunks = room.par_chunks_mut(len).zip(from.par_chunks(len)).enumerate();
        chunks.with_min_len(TASK.div_ceil(len)).map(make).collect()
    };
    // SAFETY: all of them were written: the chunks make up as many as `from` has.
    unsafe { values.set_len(from.len()) };
    (values, found)
}

/// Rows of `width` numbers, each written by `write` over zeros while it is in a core's cache.
pub(crate) fn par_rows_alloc<E: Send>(
    policy: PagePolicy,
    rows: usize,
    width: usize,
    write: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<Vec<f32>, E> {
    let len = rows * width;
    let make = |(row, room): (usize, &mut [MaybeUninit<f32>])| {
        room.fill(MaybeUninit::new(0.0));
        // SAFETY: each of them was just written.
        write(row, unsafe { room.assume_init_mut() })
    };
    let mut values = allocate(len, policy);
    let room = &mut values.spare_capacity_mut()[..len];
    if below_parallel_threshold(len) {
        room.chunks_mut(width.max(1)).enumerate().try_for_each(make)?;
    } else {
        let least = TASK.div_ceil(width.max(1));
        room.par_chunks_mut(width.max(1)).enumerate().with_min_len(least).try_for_each(make)?;
    }
    // SAFETY: all of them were written: the rows make up as many.
    unsafe { values.set_len(len) };
    Ok(values)
}

/// So many zeros, written by all threads.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    let write = |room: &mut [MaybeUninit<f32>]| room.fill(MaybeUninit::new(0.0));
    let mut values = allocate(len, PagePolicy::Short);
    let room = &mut values.spare_capacity_mut()[..len];
    if below_parallel_threshold(len) {
        write(room);
    } else {
        room.par_chunks_mut(TASK).for_each(write);
    }
    // SAFETY: all of them were written.
    unsafe { values.set_len(len) };
    values
}

/// Numbers that `write` writes.
///
/// # Safety
///
/// It writes all of them, or fails.
pub(crate) unsafe fn alloc_uninit<E>(
    len: usize,
    write: impl FnOnce(&mut [MaybeUninit<f32>]) -> Result<(), E>,
) -> Result<Vec<f32>, E> {
    let mut values = allocate(len, PagePolicy::Short);
    write(&mut values.spare_capacity_mut()[..len])?;
    // SAFETY: the caller says so.
    unsafe { values.set_len(len) };
    Ok(values)
}

/// Numbers that are worth a task of their own.
const TASK: usize = 1 << 13;

/// Whether so many small steps are done by the time that other threads have been woken for them.
pub(crate) fn below_parallel_threshold(steps: usize) -> bool {
    steps <= 1 << 16
}

fn allocate(len: usize, policy: PagePolicy) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    #[cfg(target_os = "linux")]
    if policy == PagePolicy::Long {
        advise(values.spare_capacity_mut());
    }
    #[cfg(not(target_os = "linux"))]
    let _ = policy;
    values
}

/// Pages are of 4 KiB everywhere that matters here.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

/// Tells the system that these numbers may lie on large pages. It matters before they are first written.
#[cfg(target_os = "linux")]
fn advise(room: &mut [MaybeUninit<f32>]) {
    let range = room.as_mut_ptr_range();
    let (start, end) = (range.start as usize, range.end as usize);
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if start < end {
        // SAFETY: the whole pages of a range that is ours. The advice changes no content, and a refusal changes nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}
