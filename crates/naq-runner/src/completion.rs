//! The outcome of a job.

use std::fmt;
use std::time::SystemTime;

use super::control::ControlMessage;
use super::scratch::ScratchDir;

/// How the first process of a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Termination {
    /// It exited with this code.
    Exited(i32),
    /// This signal terminated it.
    Signalled(i32),
    /// It was never started.
    NotStarted(SpawnFailure),
    /// Its spawner died, and the job was killed with it.
    SpawnerDied {
        /// Whether the spawner ran no other job.
        alone: bool,
    },
}

/// Why a job could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpawnFailure {
    /// The step that failed: `request`, `scratch`, `clone`, `session`,
    /// `limits`, `nice`, `cgroup`, `namespace`, `cwd`, `descriptors`, `user`, `landlock`, `exec`, `stopped`,
    /// `deadline`, `prepare`.
    pub step: String,
    /// The name of the system's error (`ENOENT`), if the system reported one.
    pub errno: Option<String>,
    /// What failed and why, as a sentence.
    pub message: String,
    /// Whether a retry cannot help.
    pub fatal: bool,
    /// Whether this machine was short of something for as long as
    /// [`RunnerConfig::resource_wait_max`](super::RunnerConfig::resource_wait_max). Another one may
    /// start the job.
    pub resource_shortage: bool,
}

impl SpawnFailure {
    /// A failure of a step before the start, which a retry may mend.
    pub fn of_step(step: &str, message: String) -> SpawnFailure {
        SpawnFailure::new(step, message, false)
    }

    /// A failure that no system call reported.
    pub(super) fn new(step: &str, message: String, fatal: bool) -> SpawnFailure {
        SpawnFailure {
            step: step.to_owned(),
            errno: None,
            message,
            fatal,
            resource_shortage: false,
        }
    }
}

/// Why a caller stopped a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The job was cancelled.
    Cancel,
    /// The worker shuts down.
    Drain,
    /// The worker has lost its lease on the job, which is killed without grace.
    LeaseLost,
    /// The handle was dropped or the runner shut down; killed without grace.
    Abandoned,
}

/// Why naq ended a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// A caller stopped it.
    Requested(StopReason),
    /// The job ran longer than its timeout.
    Timeout,
    /// Its deadline passed: its spawner killed it, or did not start it.
    Deadline,
    /// The process tree exceeded its memory limit.
    Memory,
    /// The process tree exceeded its limit of processes.
    Processes,
    /// It was withdrawn before it started.
    Withdrawn,
}

/// The kept part of a stream.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// The beginning of the stream; all of it unless bytes are missing.
    pub head: Vec<u8>,
    /// The end of the stream if bytes are missing, else empty.
    pub tail: Vec<u8>,
    /// Number of bytes that the job wrote, kept or not, before masking.
    pub bytes: u64,
    /// Number of bytes of the masked stream between head and tail that were dropped.
    pub missing_bytes: u64,
    /// SHA-256 of the whole masked stream if bytes are missing. Otherwise `None`, since
    /// the caller has all bytes.
    pub sha256: Option<[u8; 32]>,
}

impl Captured {
    /// Length of the whole masked stream.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64 + self.missing_bytes
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured")
            .field("head", &String::from_utf8_lossy(&self.head))
            .field("tail", &String::from_utf8_lossy(&self.tail))
            .field("bytes", &self.bytes)
            .field("missing_bytes", &self.missing_bytes)
            .finish_non_exhaustive()
    }
}

/// Resources that a job used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Largest resident set, in bytes, of the first process or a child it waited
    /// for. Never below that of the spawner, some 12 MiB, since the kernel counts
    /// the time before `execve`.
    pub max_rss_bytes: u64,
    /// User CPU time of the first process and the children it waited for.
    pub cpu_user_ms: u64,
    /// System CPU time of the same processes.
    pub cpu_system_ms: u64,
    /// Time from the start to the end of the first process.
    pub wall_ms: u64,
}

/// A finished job: its first process has ended and its process tree is gone.
#[derive(Debug)]
pub struct Completion {
    /// How the first process ended.
    pub end: Termination,
    /// Why naq stopped the job. `None` if it ended by itself.
    pub stopped: Option<StopCause>,
    /// Whether the kernel or the polling of limits killed it for lack of memory.
    pub oom: bool,
    /// Whether processes outlived the first one and its grace of 250 ms, and had
    /// to be killed.
    pub leaked: bool,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Resources that it used.
    pub usage: Usage,
    /// Control messages that [`JobHandle::next_control_message`](super::JobHandle::next_control_message)
    /// has not returned.
    pub control: Vec<ControlMessage>,
    /// Limits that were not enforced, and problems with the control channel; their number is bounded.
    pub warnings: Vec<String>,
    /// Bytes of live output that were dropped because the reader was too slow.
    pub live_dropped_bytes: u64,
    /// When the job started. `None` if it never did.
    pub started_at: Option<SystemTime>,
    /// The scratch folder, if the command asked for one. Removed on drop.
    pub scratch: Option<ScratchDir>,
}
