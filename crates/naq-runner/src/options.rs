//! Configuration of a runner.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::landlock::FileAccess;
use super::user::JobUser;

/// Default for [`RunnerConfig::default_output_bytes`]: 64 KiB.
pub const DEFAULT_OUTPUT_BYTES: u64 = 64 * 1024;

/// Default for [`RunnerConfig::control_line_bytes_max`]: 4 MiB, so that the result of a function fits.
pub const CONTROL_LINE_BYTES_MAX: usize = 4 << 20;

/// Default for [`RunnerConfig::resource_wait_max`].
const DEFAULT_RESOURCE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Configuration of a runner.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Number of jobs that run at once; further ones are queued.
    pub concurrency: usize,
    /// Number of spawner processes, at most `concurrency`. `None` means cores + 2.
    /// [`Containment::Subreaper`] uses one per slot instead.
    pub spawners: Option<usize>,
    /// The containment to use, and no other. `None` means the best available one.
    pub containment: Option<Containment>,
    /// Working directory of jobs whose command sets none.
    pub work_dir: PathBuf,
    /// Where scratch folders are created. Created if it does not exist.
    pub scratch_dir: PathBuf,
    /// PATH of jobs, in which programs are searched.
    pub path: String,
    /// Further variables of every job, such as `HOME`, `LANG`, `TZ` and `TMPDIR`.
    pub base_env: Vec<(String, String)>,
    /// The user that jobs run as, which only root can set. `None` means the user of
    /// this process.
    pub run_as: Option<JobUser>,
    /// The files that jobs may use, enforced by Landlock. `None` means all files
    /// that their user may use.
    pub files: Option<FileAccess>,
    /// Folders that appear empty to jobs in a namespace, because not every job may read the worker's
    /// files there. Absolute paths without symbolic links.
    pub hidden_dirs: Vec<PathBuf>,
    /// Whether programs may gain rights when they are executed, by the set-user-ID bit or by file
    /// capabilities. Otherwise jobs run with `no_new_privs`.
    pub allow_setuid: bool,
    /// Whether a job whose limit this machine cannot enforce is refused. Otherwise it runs with a
    /// warning in its completion.
    pub strict_limits: bool,
    /// Whether each job has a `/tmp` of its own, in memory, which needs a containment with a
    /// namespace. Of the `/tmp` of the machine it sees [`RunnerConfig::work_dir`] and the folders that
    /// this runner makes.
    pub private_tmp: bool,
    /// The binary to run as `<program> __spawner`. `None` means this binary.
    pub spawner_program: Option<PathBuf>,
    /// Bytes kept of each stream of a job whose command sets no limit.
    pub default_output_bytes: u64,
    /// Maximum length of a line on the control channel, in bytes. Longer lines are
    /// dropped with a warning.
    pub control_line_bytes_max: usize,
    /// How long a job waits if this machine is short of something that its start needs: processes,
    /// descriptors, memory, disk space. It ends as not started after that.
    pub resource_wait_max: Duration,
}

impl RunnerConfig {
    /// The default configuration for this number of slots.
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
            hidden_dirs: Vec::new(),
            allow_setuid: false,
            strict_limits: false,
            private_tmp: false,
            spawner_program: None,
            default_output_bytes: DEFAULT_OUTPUT_BYTES,
            control_line_bytes_max: CONTROL_LINE_BYTES_MAX,
            resource_wait_max: DEFAULT_RESOURCE_WAIT_MAX,
        }
    }
}

/// How the process tree of a job is contained, so that all of it can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Containment {
    /// A PID namespace and a control group (version 2) per running job: the first keeps its
    /// processes from leaving, the second limits them.
    NamespaceAndCgroup,
    /// A PID namespace per running job, with its own `/proc`.
    Namespace,
    /// A control group (version 2) per running job.
    Cgroup,
    /// A spawner per job that adopts its orphans; its descendants are found in
    /// `/proc`.
    Subreaper,
}

impl Containment {
    /// The containment to try next if this one is unavailable.
    pub(super) fn fallback(self) -> Option<Containment> {
        match self {
            Containment::NamespaceAndCgroup => Some(Containment::Namespace),
            Containment::Namespace => Some(Containment::Cgroup),
            Containment::Cgroup => Some(Containment::Subreaper),
            Containment::Subreaper => None,
        }
    }

    /// Whether each job has a PID namespace. Its processes cannot name one outside of it, so they
    /// can neither stop nor kill their worker.
    #[must_use]
    pub fn has_namespace(self) -> bool {
        matches!(
            self,
            Containment::NamespaceAndCgroup | Containment::Namespace
        )
    }

    /// Whether each job has a control group.
    #[must_use]
    pub fn has_cgroup(self) -> bool {
        matches!(self, Containment::NamespaceAndCgroup | Containment::Cgroup)
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Containment::NamespaceAndCgroup => "namespace+cgroup",
            Containment::Namespace => "namespace",
            Containment::Cgroup => "cgroup",
            Containment::Subreaper => "subreaper",
        })
    }
}

/// How the memory limit of jobs is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryLimit {
    /// The kernel enforces it, by the `memory` controller.
    Enforced,
    /// The spawner measures the tree every 100 ms and kills it above the limit. Between two samples
    /// the tree may use more.
    Watched,
}

impl MemoryLimit {
    /// The name on the wire: `enforced` or `watched`.
    pub fn name(self) -> &'static str {
        match self {
            MemoryLimit::Enforced => "enforced",
            MemoryLimit::Watched => "watched",
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemoryLimit::Enforced => "enforced",
            MemoryLimit::Watched => "watched (may overshoot between samples)",
        })
    }
}

/// The name of no containment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown containment {0:?}: use `namespace+cgroup`, `namespace`, `cgroup` or `subreaper`")]
pub struct UnknownContainment(String);

impl FromStr for Containment {
    type Err = UnknownContainment;

    fn from_str(name: &str) -> Result<Containment, UnknownContainment> {
        match name {
            "namespace+cgroup" => Ok(Containment::NamespaceAndCgroup),
            "namespace" => Ok(Containment::Namespace),
            "cgroup" => Ok(Containment::Cgroup),
            "subreaper" => Ok(Containment::Subreaper),
            _ => Err(UnknownContainment(name.to_owned())),
        }
    }
}
