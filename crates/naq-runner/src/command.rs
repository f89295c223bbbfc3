//! What a job is, once everything about it has been decided.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::live_output::LiveSink;

/// What a job executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments.
    Path {
        /// A path (one with a `/`, relative to the working directory), or a
        /// name to look for in PATH.
        program: String,
        /// The arguments after the program's own name.
        args: Vec<String>,
    },
    /// Source text: run by its `#!` line, else by `interpreter`, else by `sh`.
    Script {
        /// The text.
        source: String,
        /// Program and arguments to put before the script's path.
        interpreter: Option<Vec<String>>,
        /// The arguments after the script's path.
        args: Vec<String>,
    },
}

/// What a job reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: `/dev/null`.
    #[default]
    Empty,
    /// These bytes, then the end.
    Bytes(Bytes),
}

/// Bounds of a job; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ResourceLimits {
    /// Memory of the whole tree where a controller or watching can tell, bytes;
    /// without a controller also the address space of each process.
    pub memory_bytes: Option<u64>,
    /// CPU time of each process, seconds.
    pub cpu_time_s: Option<u64>,
    /// CPUs at once, as a fraction; needs the `cpu` controller.
    pub cpus: Option<f64>,
    /// Processes and threads of the tree.
    pub processes: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Size of a file that a process writes, bytes.
    pub file_size_bytes: Option<u64>,
    /// Bytes kept of each stream: half from its head, half from its tail.
    pub output_bytes: Option<u64>,
    /// Nice value, -20 to 19.
    pub nice: Option<i32>,
}

/// A job to start. Its `Debug` hides the environment's values and the secrets.
#[derive(Clone)]
pub struct Command {
    /// Named in log lines.
    pub job_id: String,
    /// What to execute.
    pub program: Program,
    /// Where; the runner's `work_dir` if not told.
    pub cwd: Option<PathBuf>,
    /// Variables over the base environment.
    pub env: Vec<(String, String)>,
    /// Variables over those, whose values are masked in whatever is captured.
    pub secrets: Vec<(String, String)>,
    /// What it reads.
    pub stdin: Stdin,
    /// Its bounds.
    pub limits: ResourceLimits,
    /// From start to TERM.
    pub timeout: Option<Duration>,
    /// From TERM to KILL when the time is over.
    pub kill_grace: Duration,
    /// Whether to make a folder for it, named by `NAQ_WORK_DIR`.
    pub scratch: bool,
    /// Where its output goes as it comes.
    pub live: Option<LiveSink>,
}

impl Command {
    /// A command with nothing but a program: no timeout, 10 s of grace.
    pub fn new(job_id: impl Into<String>, program: Program) -> Command {
        Command {
            job_id: job_id.into(),
            program,
            cwd: None,
            env: Vec::new(),
            secrets: Vec::new(),
            stdin: Stdin::Empty,
            limits: ResourceLimits::default(),
            timeout: None,
            kill_grace: Duration::from_secs(10),
            scratch: false,
            live: None,
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |list: &[(String, String)]| -> Vec<String> {
            list.iter().map(|(name, _)| format!("{name}=…")).collect()
        };
        f.debug_struct("Command")
            .field("job_id", &self.job_id)
            .field("program", &self.program)
            .field("cwd", &self.cwd)
            .field("env", &names(&self.env))
            .field("secrets", &names(&self.secrets))
            .field("limits", &self.limits)
            .field("timeout", &self.timeout)
            .field("kill_grace", &self.kill_grace)
            .field("scratch", &self.scratch)
            .finish_non_exhaustive()
    }
}
