//! How much memory is free, and whether that is enough for what is about to be made. Where memory ends an allocation ends the
//! process, and with it whatever a notebook holds: so what grows with its input asks here first.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use candle_core::Device;

use crate::error::{Error, ErrorKind, Result};
use crate::progress::bytes;

/// Bytes that are left alone: threads, buffers of products and whatever else is too small to be reckoned.
const SPARE: u64 = 64 << 20;

/// How long a look is believed, by what needs less than an eighth of what is left alone: steps of generation, say.
const BELIEVED: Duration = Duration::from_millis(50);

static ASKED: AtomicU64 = AtomicU64::new(0);

/// The most bytes that work was reckoned to need since this was last called: for the crate's own tests.
#[doc(hidden)]
pub fn memory_asked_for() -> u64 {
    ASKED.swap(0, Ordering::Relaxed)
}

/// The bytes of an f32 tensor of this shape.
pub(crate) fn floats(shape: impl IntoIterator<Item = usize>) -> u64 {
    shape.into_iter().fold(4, |product, len| product.saturating_mul(len as u64))
}

/// Fails if `needed` bytes are more than what is free. What needs them, and how to ask for less, is `said` then.
///
/// What it lets pass may still be too much: others may take memory meanwhile, and a system that promises more than it has
/// says so only when it is written to.
pub(crate) fn check<W: Into<String>, H: Into<String>>(
    device: &Device,
    needed: u64,
    said: impl FnOnce() -> (W, H),
) -> Result<()> {
    static SEEN: Mutex<Option<(Instant, u64)>> = Mutex::new(None);
    ASKED.fetch_max(needed, Ordering::Relaxed);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_little = |(at, free): (Instant, u64)| needed <= free.min(SPARE / 8) && at.elapsed() < BELIEVED;
    if !device.is_cpu() || seen.is_some_and(is_little) {
        return Ok(());
    }
    let Some(mut free) = free() else { return Ok(()) };
    if needed > free {
        give_back();
        free = self::free().unwrap_or(free);
    }
    *seen = Some((Instant::now(), free));
    if needed <= free {
        return Ok(());
    }
    let (what, help) = said();
    let what = format!(
        "{} needs {} of memory, and {} are free",
        what.into(),
        bytes(needed as f64),
        bytes(free as f64)
    );
    Err(Error::new(ErrorKind::Memory, what).help(help))
}

/// What of a budget work may take at once: all of it, or half of what is free where that is less.
pub(crate) fn share(budget: u64) -> u64 {
    free().map_or(budget, |free| budget.min(free / 2))
}

/// Lets the process keep what large tensors leave behind, up to an eighth of what is free and 2 GB: a run that has its memory
/// zeroed by the system anew takes a quarter longer. Done once, and on Linux with the GNU allocator alone.
pub(crate) fn keep_between_runs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            let kept = i32::try_from(free().unwrap_or(0) / 8).unwrap_or(i32::MAX);
            // SAFETY: these two set numbers of the allocator's, and may be called at any time. A refusal changes nothing.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
                libc::mallopt(libc::M_TRIM_THRESHOLD, kept);
            }
        }
    });
}

/// Gives back to the system what the allocator keeps of memory that was let go.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The least of what the system, the process's control groups and its own limits still give, but for [`SPARE`]; nothing
/// where none of them says so.
fn free() -> Option<u64> {
    let of_system = fs::read_to_string("/proc/meminfo").ok().and_then(|meminfo| available(&meminfo));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let all = groups.lines().filter_map(of_group).chain(of_system).chain(of_limits());
    all.min().map(|free| free.saturating_sub(SPARE))
}

/// What the limits on the process's address space and on its data (`ulimit -v`, `ulimit -d`) leave.
#[cfg(target_os = "linux")]
fn of_limits() -> impl Iterator<Item = u64> {
    let limit = |ask: &dyn Fn(*mut libc::rlimit) -> libc::c_int| {
        let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        (ask(&mut limit) == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
    };
    // SAFETY: both write to the place that they are given, and nowhere else.
    let space = limit(&|place| unsafe { libc::getrlimit(libc::RLIMIT_AS, place) });
    // SAFETY: as above.
    let data = limit(&|place| unsafe { libc::getrlimit(libc::RLIMIT_DATA, place) });
    let used = match (space, data) {
        (None, None) => None,
        _ => fs::read_to_string("/proc/self/statm").ok(),
    };
    // SAFETY: it only answers.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let pages = |index| used.as_deref().and_then(|used| used.split(' ').nth(index)?.parse::<u64>().ok());
    let left =
        move |limit: Option<u64>, used: Option<u64>| Some(limit?.saturating_sub(used?.saturating_mul(page)));
    [left(space, pages(0)), left(data, pages(5))].into_iter().flatten()
}

#[cfg(not(target_os = "linux"))]
fn of_limits() -> impl Iterator<Item = u64> {
    std::iter::empty()
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that a group of `/proc/self/cgroup` and those above it leave.
fn of_group(line: &str) -> Option<u64> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let (root, limit, used) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        _ => return None,
    };
    let number = |file: String| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let mut least = None;
    let mut path = path.trim_end_matches('/');
    loop {
        let folder = format!("{root}{path}");
        if let (Some(limit), Some(used)) =
            (number(format!("{folder}/{limit}")), number(format!("{folder}/{used}")))
        {
            // Files that were read count as used, and are let go when memory is needed.
            let stat = fs::read_to_string(format!("{folder}/memory.stat")).unwrap_or_default();
            let cached =
                stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok());
            let left = limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0)));
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
        match path.rsplit_once('/') {
            Some((above, _)) => path = above,
            None => return least,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_memory() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert_eq!(floats([2, 3]), 24);
        assert_eq!(floats([usize::MAX, 3]), u64::MAX);
        let error =
            check(&Device::Cpu, u64::MAX, || ("the whole", "take less")).expect_err("no machine has so much");
        assert_eq!(error.kind(), ErrorKind::Memory);
        let text = error.to_string();
        assert!(text.contains("the whole needs 18446744 TB of memory, and "), "{text}");
        assert!(text.contains("help: take less"), "{text}");
        check(&Device::Cpu, 1, || ("a byte", "")).expect("there is a byte");
    }
}
