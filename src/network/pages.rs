//! Memory for weights, in pages as large as the system has: a model's weights are hundreds of megabytes, and each page has to
//! be asked for, zeroed and found again.

/// So many zeros.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    let values = vec![0f32; len];
    #[cfg(target_os = "linux")]
    advise(&values);
    values
}

/// Pages are of 4 KiB everywhere that matters here.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

/// Tells the system that these numbers may lie on large pages. It matters before they are first written.
#[cfg(target_os = "linux")]
fn advise(values: &[f32]) {
    let range = values.as_ptr_range();
    let (start, end) = (range.start as usize, range.end as usize);
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if start < end {
        // SAFETY: the whole pages of a range that is ours. The advice changes no content, and a refusal changes nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}
