//! Clocks of a single process that a test can set, by a preloaded library. The machine's clocks stay
//! as they are, so the kernel does not report the change: the process notices it when it next reads
//! a clock.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::naq::Naq;

/// The preloaded library, built once for all tests of this process.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(crate::ROOT).join("tests/harness/shifted_clock_preload.rs");
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let built = folder.keep().join("shifted_clock.so");
        #[expect(
            clippy::disallowed_methods,
            reason = "the compiler, for the preloaded library"
        )]
        let status = Command::new("rustc")
            .args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-o"])
            .arg(&built)
            .arg(&source)
            .status()
            .unwrap();
        assert!(status.success());
        built
    })
}

/// The wall clock and `CLOCK_BOOTTIME` of one process.
pub(crate) struct ShiftedClock(PathBuf);

impl ShiftedClock {
    /// Clocks that are right, until they are shifted.
    pub(crate) fn new(naq: &Naq) -> ShiftedClock {
        ShiftedClock(naq.file("clock_shifts", [0; 16]))
    }

    /// Environment of a process that sees these clocks.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("CLOCK_SHIFT_FILE", self.0.display().to_string()),
        ]
    }

    /// Sets the wall clock to `shift_s` seconds from the right time.
    pub(crate) fn set_wall_s(&self, shift_s: i64) {
        self.write(0, shift_s);
    }

    /// Makes the process see what it would see if its machine had been suspended for
    /// `suspended_s` seconds: `CLOCK_BOOTTIME` has advanced by as much, `CLOCK_MONOTONIC` has not.
    pub(crate) fn suspend_s(&self, suspended_s: i64) {
        self.write(8, suspended_s);
    }

    fn write(&self, offset: u64, shift_s: i64) {
        let file = std::fs::OpenOptions::new().write(true).open(&self.0);
        file.unwrap()
            .write_all_at(&shift_s.to_ne_bytes(), offset)
            .unwrap();
    }
}
