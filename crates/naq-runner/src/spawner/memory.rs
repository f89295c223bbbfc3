//! The memory that processes use, read from `/proc`, where no controller counts it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

/// Total resident memory of the processes in `proc`, in bytes. Pages that several of them share
/// count once for each.
pub(super) fn resident_bytes(proc: &str, pids: &[i32]) -> u64 {
    pids.iter().map(|pid| resident_bytes_of(proc, *pid)).sum()
}

/// Memory that processes use together, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UsedBytes {
    /// Mapped files in memory, and memory that processes share by other means.
    pub(super) shared: u64,
    /// All other memory.
    pub(super) other: u64,
}

/// Memory that the processes in `proc` map together: of a page that several processes share, each
/// has its part, and what is swapped out counts too. Of a process whose maps may not be read, the
/// resident memory counts.
pub(super) fn used_bytes(proc: &str, pids: &[i32]) -> UsedBytes {
    let mut total = UsedBytes::default();
    for pid in pids {
        let used = fs::read_to_string(format!("{proc}/{pid}/smaps_rollup"))
            .ok()
            .and_then(|rollup| proportional_bytes(&rollup))
            .unwrap_or_else(|| UsedBytes {
                shared: 0,
                other: resident_bytes_of(proc, *pid),
            });
        total.shared += used.shared;
        total.other += used.other;
    }
    total
}

/// Bytes in files of `memfd_create` that the processes in `proc` have open, mapped or not. A file
/// that several of them have open counts once.
pub(super) fn memfd_bytes(proc: &str, pids: &[i32]) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for pid in pids {
        let fds = fs::read_dir(format!("{proc}/{pid}/fd"));
        for fd in fds.into_iter().flatten().flatten() {
            let is_memfd = fs::read_link(fd.path())
                .is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"/memfd:"));
            if is_memfd
                && let Ok(found) = fs::metadata(fd.path())
                && seen.insert(found.ino())
            {
                bytes += found.blocks() * BLOCK_BYTES;
            }
        }
    }
    bytes
}

/// The unit of the blocks of a file, whatever those of its file system are.
pub(super) const BLOCK_BYTES: u64 = 512;

fn resident_bytes_of(proc: &str, pid: i32) -> u64 {
    let pages = fs::read_to_string(format!("{proc}/{pid}/statm"))
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    pages * page_bytes()
}

/// `Pss` and `SwapPss` of a `smaps_rollup`, with what `Pss_Shmem` says apart. `None` if it has no
/// `Pss`, as that of a process that has just ended.
fn proportional_bytes(rollup: &str) -> Option<UsedBytes> {
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        Some(kib * 1024)
    };
    let used = field("Pss:")? + field("SwapPss:").unwrap_or(0);
    let shared = field("Pss_Shmem:").unwrap_or(0);
    Some(UsedBytes {
        shared,
        other: used.saturating_sub(shared),
    })
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
        let rollup = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss: 400 kB\nPss:        100 kB\nPss_Dirty: 7 kB\nPss_Shmem: 30 kB\nSwapPss:  20 kB\n";
        let used = UsedBytes {
            shared: 30 * 1024,
            other: 90 * 1024,
        };
        assert_eq!(proportional_bytes(rollup), Some(used));
        assert_eq!(proportional_bytes("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let this = [std::process::id() as i32];
        let used = used_bytes("/proc", &this);
        assert!(used.other > 0 && used.other <= 2 * resident_bytes("/proc", &this));
        assert_eq!(used_bytes("/proc", &[-1]), UsedBytes::default());
    }

    #[test]
    fn files_in_memory_count_once_and_without_being_mapped() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        use std::io::Write;
        let this = [std::process::id() as i32];
        let mut file = fs::File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        let before = memfd_bytes("/proc", &this);
        file.write_all(&[1; 1 << 20]).unwrap();
        let _again = file.try_clone().unwrap();
        assert_eq!(memfd_bytes("/proc", &this), before + (1 << 20));
    }
}
