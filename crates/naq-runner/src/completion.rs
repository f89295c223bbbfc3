//! How a job went.

use std::fmt;
use std::time::SystemTime;

use super::control::ControlMessage;
use super::scratch::ScratchDir;

/// How the first process of a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Termination {
    /// It exited, with this code.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It never ran.
    NotStarted(SpawnFailure),
    /// Its spawner died, and it with it.
    SpawnerDied,
}

/// Why a job could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpawnFailure {
    /// The step that failed: `request`, `scratch`, `clone`, `session`,
    /// `limits`, `nice`, `cgroup`, `namespace`, `cwd`, `descriptors`, `user`, `landlock`, `exec`, `stopped`.
    pub step: String,
    /// The system's name of the error (`ENOENT`), where it gave one.
    pub errno: Option<String>,
    /// What happened, in words.
    pub message: String,
    /// No retry can mend it.
    pub fatal: bool,
}

impl SpawnFailure {
    /// A failure that the system had no part in.
    pub(super) fn new(step: &str, message: String, fatal: bool) -> SpawnFailure {
        SpawnFailure {
            step: step.to_owned(),
            errno: None,
            message,
            fatal,
        }
    }
}

/// Why a job is stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Somebody cancelled it.
    Cancel,
    /// The worker is going away.
    Drain,
    /// The worker no longer holds the job: it is killed without a grace.
    LeaseLost,
    /// The handle was dropped, or the runner shut down: killed without a grace.
    Abandoned,
}

/// Why naq ended a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// It was asked to.
    Requested(StopReason),
    /// The job's time was over.
    Timeout,
    /// The job's tree grew over its memory.
    Memory,
    /// The job's tree grew over its processes.
    Processes,
}

/// What was kept of a stream.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// Its beginning; all of it unless `truncated`.
    pub head: Vec<u8>,
    /// Its end, when `truncated`.
    pub tail: Vec<u8>,
    /// Bytes that the job wrote, kept or not, before masking.
    pub bytes: u64,
    /// Something between head and tail was dropped.
    pub truncated: bool,
    /// SHA-256 of the whole stream (masked), when `truncated`; what is kept
    /// whole can be hashed by whoever wants to.
    pub sha256: Option<[u8; 32]>,
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured")
            .field("head", &String::from_utf8_lossy(&self.head))
            .field("tail", &String::from_utf8_lossy(&self.tail))
            .field("bytes", &self.bytes)
            .field("truncated", &self.truncated)
            .finish_non_exhaustive()
    }
}

/// What a job used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Largest resident set of the first process or one it waited for, bytes.
    /// Never below the spawner's own, some 12 MiB: the kernel counts the moment
    /// before exec.
    pub max_rss_bytes: u64,
    /// User CPU time of the first process and those it waited for.
    pub cpu_user_ms: u64,
    /// System CPU time of the same.
    pub cpu_system_ms: u64,
    /// From start to the end of the first process.
    pub wall_ms: u64,
}

/// A job that is over: its first process has ended and its tree is gone.
#[derive(Debug)]
pub struct Completion {
    /// How its first process ended.
    pub end: Termination,
    /// Why naq stopped it, if it did.
    pub stopped: Option<StopCause>,
    /// The kernel or the watch killed it for want of memory.
    pub oom: bool,
    /// Processes were left after the first one and its moment of grace, and
    /// had to be killed.
    pub leaked: bool,
    /// Its standard output.
    pub stdout: Captured,
    /// Its standard error.
    pub stderr: Captured,
    /// What it used.
    pub usage: Usage,
    /// Control messages not taken through the handle.
    pub control: Vec<ControlMessage>,
    /// What was wrong with the control channel, a bounded number.
    pub warnings: Vec<String>,
    /// Live output that the reader was too slow for, bytes.
    pub live_dropped_bytes: u64,
    /// When it started.
    pub started_at: Option<SystemTime>,
    /// Its scratch folder, if it had asked for one: removed on drop.
    pub scratch: Option<ScratchDir>,
}
