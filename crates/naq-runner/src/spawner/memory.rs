//! The memory that processes use, read from `/proc`, where no controller counts it.

use std::fs;

/// Total resident memory of the processes in `proc`, in bytes. Pages that several of them share
/// count once for each.
pub(super) fn resident_bytes(proc: &str, pids: &[i32]) -> u64 {
    pids.iter().map(|pid| resident_bytes_of(proc, *pid)).sum()
}

/// Memory that the processes in `proc` use together, in bytes: of a page that several processes
/// share, each has its part, and what is swapped out counts too. The resident memory of a process
/// whose maps may not be read.
pub(super) fn used_bytes(proc: &str, pids: &[i32]) -> u64 {
    let used = |pid: &i32| {
        fs::read_to_string(format!("{proc}/{pid}/smaps_rollup"))
            .ok()
            .and_then(|rollup| proportional_bytes(&rollup))
            .unwrap_or_else(|| resident_bytes_of(proc, *pid))
    };
    pids.iter().map(used).sum()
}

fn resident_bytes_of(proc: &str, pid: i32) -> u64 {
    let pages = fs::read_to_string(format!("{proc}/{pid}/statm"))
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    pages * page_bytes()
}

/// The sum of `Pss` and `SwapPss` of a `smaps_rollup`. `None` if it has no `Pss`, as that of a
/// process that has just ended.
fn proportional_bytes(rollup: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        Some(kib * 1024)
    };
    Some(field("Pss:")? + field("SwapPss:").unwrap_or(0))
}

fn page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proportional_part_of_a_process_is_its_pss_and_swap() {
        let rollup = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss: 400 kB\nPss:        100 kB\nPss_Dirty: 7 kB\nSwapPss:  20 kB\n";
        assert_eq!(proportional_bytes(rollup), Some(120 * 1024));
        assert_eq!(proportional_bytes("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let this = [std::process::id() as i32];
        let used = used_bytes("/proc", &this);
        assert!(used > 0 && used <= 2 * resident_bytes("/proc", &this));
        assert_eq!(used_bytes("/proc", &[-1]), 0);
    }
}
