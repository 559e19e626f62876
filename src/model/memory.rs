//! Whether there is memory for a model, asked before it is loaded, and what is kept of it between runs.

use std::fs;
use std::sync::Once;

use candle_core::Device;

use crate::error::{Error, ErrorKind, Result};
use crate::progress::bytes;

/// Fails if a model's weights, `needed` bytes of them, are more than what is free.
pub(super) fn check(name: &str, needed: u64, device: &Device) -> Result<()> {
    match free() {
        Some(free) if device.is_cpu() && needed > free => Err(Error::new(
            ErrorKind::Memory,
            format!("{name} needs {} of memory, and {} are free", bytes(needed as f64), bytes(free as f64)),
        )
        .help("weights are 4 bytes a number here, however they are stored: close what else is running, let go of other models, or open a smaller one")),
        _ => Ok(()),
    }
}

/// Lets the process keep what large tensors leave behind, up to an eighth of what is free and 2 GB: a run that has its memory
/// zeroed by the system anew takes a quarter longer. Done once, and on Linux with the GNU allocator alone.
pub(super) fn keep_between_runs() {
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

/// What the system says it can still give, within the limits of the process's control groups; nothing where it does
/// not say so.
fn free() -> Option<u64> {
    let of_system = available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(groups.lines().filter_map(of_group).fold(of_system, u64::min))
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
        let error = check("huge", u64::MAX, &Device::Cpu).expect_err("no machine has so much");
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(error.to_string().contains("huge needs 18446744 TB of memory, and "), "{error}");
        check("tiny", 1, &Device::Cpu).expect("there is a byte");
    }
}
