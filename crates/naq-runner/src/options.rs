//! What a runner is told at its start.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::landlock::FileAccess;
use super::user::JobUser;

/// Bytes kept of each stream of a job unless told otherwise: 64 KiB.
pub const DEFAULT_OUTPUT_BYTES: u64 = 64 * 1024;

/// How a runner is set up.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// How many jobs run at once; more wait their turn.
    pub concurrency: usize,
    /// Spawner processes: cores + 2 unless told, never more than
    /// `concurrency`. Containment by subreaper takes one per slot instead.
    pub spawners: Option<usize>,
    /// The containment to use and no other; the best one present if not told.
    pub containment: Option<Containment>,
    /// Where a job without a `cwd` of its own runs.
    pub work_dir: PathBuf,
    /// Where scratch folders are made; made itself if it is not there.
    pub scratch_dir: PathBuf,
    /// PATH: where programs are looked for, and what jobs are given.
    pub path: String,
    /// The rest of the environment every job begins with (`HOME`, `LANG`,
    /// `TZ`, `TMPDIR`).
    pub base_env: Vec<(String, String)>,
    /// Who jobs run as, if not the worker's own user; only root may say.
    pub run_as: Option<JobUser>,
    /// The files jobs may use, by Landlock; all their user may, if not told.
    pub files: Option<FileAccess>,
    /// The binary to run as `<program> __spawner`; this one if not told.
    pub spawner_program: Option<PathBuf>,
    /// Bytes kept of each stream of a job that does not say.
    pub default_output_bytes: u64,
    /// Longest line on the control channel, bytes; longer ones are dropped
    /// with a warning.
    pub control_line_bytes_max: usize,
}

impl RunnerConfig {
    /// RunnerConfig with their defaults, for a number of slots.
    pub fn new(concurrency: usize) -> RunnerConfig {
        RunnerConfig {
            concurrency,
            spawners: None,
            containment: None,
            work_dir: PathBuf::from("/"),
            scratch_dir: std::env::temp_dir(),
            path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            base_env: Vec::new(),
            run_as: None,
            files: None,
            spawner_program: None,
            default_output_bytes: DEFAULT_OUTPUT_BYTES,
            control_line_bytes_max: 256 * 1024,
        }
    }
}

/// How a job's process tree is held together, so that it can be ended whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Containment {
    /// A control group (version 2) per slot.
    Cgroup,
    /// A PID namespace per slot, with a `/proc` of its own.
    Namespace,
    /// A walk over the descendants of a spawner that adopts orphans.
    Subreaper,
}

impl Containment {
    /// What to try where this one is not to be had.
    pub(super) fn fallback(self) -> Option<Containment> {
        match self {
            Containment::Cgroup => Some(Containment::Namespace),
            Containment::Namespace => Some(Containment::Subreaper),
            Containment::Subreaper => None,
        }
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Containment::Cgroup => "cgroup",
            Containment::Namespace => "namespace",
            Containment::Subreaper => "subreaper",
        })
    }
}

/// The name is none of the containments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown containment {0:?}: it is `cgroup`, `namespace` or `subreaper`")]
pub struct UnknownContainment(String);

impl FromStr for Containment {
    type Err = UnknownContainment;

    fn from_str(name: &str) -> Result<Containment, UnknownContainment> {
        match name {
            "cgroup" => Ok(Containment::Cgroup),
            "namespace" => Ok(Containment::Namespace),
            "subreaper" => Ok(Containment::Subreaper),
            _ => Err(UnknownContainment(name.to_owned())),
        }
    }
}
