//! A job to run, with every default resolved.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::boot_instant::BootInstant;
use super::live_output::LiveSink;
use super::staged_folder::StagedFolder;

/// The program of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments.
    Path {
        /// A path (if it contains `/`; relative to the working directory) or a
        /// name that is searched in PATH.
        program: String,
        /// The arguments after the program's own name.
        args: Vec<String>,
    },
    /// A script: run by its `#!` line, else by `sh`.
    Script {
        /// The source text.
        source: String,
        /// The arguments after the path of the script.
        args: Vec<String>,
    },
    /// A file of source text, run by a program of its language.
    Source(SourceProgram),
}

/// A file of source text and the program that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceProgram {
    /// The name of the file in the job's scratch folder.
    pub file_name: String,
    /// The source text.
    pub source: Bytes,
    /// Where the program is: the first of these that can be executed is. Each is a path (if it contains
    /// `/`; relative to the working directory) or a name that is searched in PATH. The program receives
    /// its own path as its name, by which some find their libraries.
    pub programs: Vec<String>,
    /// Its arguments.
    pub args: Vec<SourceArgument>,
}

/// An argument of the program that runs a source file: its pieces are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceArgument(pub Vec<ArgumentPiece>);

/// A piece of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgumentPiece {
    /// This text.
    Text(String),
    /// The path of the source file.
    File,
    /// The path of the job's scratch folder.
    Folder,
}

impl SourceArgument {
    /// An argument that is this text.
    pub fn text(text: impl Into<String>) -> SourceArgument {
        SourceArgument(vec![ArgumentPiece::Text(text.into())])
    }
}

/// A file that naq writes into the scratch folder before the job starts, which only this job can read:
/// for what is too large for a variable.
#[derive(Clone, Debug)]
pub struct JobFile {
    /// Its name in the folder.
    pub name: &'static str,
    /// The variable that receives its path.
    pub variable: &'static str,
    /// Its content.
    pub content: Bytes,
}

/// Standard input of a job.
#[derive(Clone, Debug, Default)]
pub enum Stdin {
    /// Nothing: `/dev/null`.
    #[default]
    Empty,
    /// These bytes, then end of file.
    Bytes(Bytes),
    /// A file that is open for reading, at its beginning. The job shares its position, so nothing else may
    /// read it.
    File(Arc<File>),
}

/// Resource limits of a job. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ResourceLimits {
    /// Memory that the whole process tree uses, in bytes. How it is limited is a matter of the
    /// machine: see [`MemoryLimit`](super::MemoryLimit).
    pub memory_bytes: Option<u64>,
    /// Address space of each process, in bytes, whether it is used or not.
    pub address_space_bytes: Option<u64>,
    /// CPU time of each process, in seconds.
    pub cpu_time_s: Option<u64>,
    /// Number of CPUs that the tree may use at once, such as 0.5. Needs the `cpu`
    /// controller.
    pub cpus: Option<f64>,
    /// Processes and threads of the tree.
    pub processes: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Size of each file that a process writes, in bytes.
    pub file_size_bytes: Option<u64>,
    /// Bytes kept of each stream: half from its head, half from its tail.
    pub output_bytes: Option<u64>,
    /// Nice value, from -20 to 19.
    pub nice: Option<i32>,
}

/// A job to start. Its `Debug` output hides secrets and the values of variables.
#[derive(Clone)]
pub struct Command {
    /// The id of the job, for log lines.
    pub job_id: String,
    /// The program to execute.
    pub program: Program,
    /// Working directory. `None` means the job's own folder if it has one, or else
    /// [`RunnerConfig::work_dir`](super::RunnerConfig::work_dir); a relative path starts there.
    pub cwd: Option<PathBuf>,
    /// Variables that override the base environment.
    pub env: Vec<(String, String)>,
    /// Variables that override `env`. Their values are masked in all captured output.
    pub secrets: Vec<(String, String)>,
    /// Standard input.
    pub stdin: Stdin,
    /// Resource limits.
    pub limits: ResourceLimits,
    /// Time from the start until TERM. `None` means no limit.
    pub timeout: Option<Duration>,
    /// Time from TERM until KILL.
    pub kill_grace: Duration,
    /// When the spawner kills the job without a grace, whatever state this process is in.
    /// [`JobHandle::set_deadline`](super::JobHandle::set_deadline) moves it. `None` means never.
    pub deadline: Option<BootInstant>,
    /// Whether the job gets a scratch folder, whose path is in `NAQ_WORK_DIR`.
    pub scratch: bool,
    /// Whether the job has a work folder of its own in the scratch folder, which its caller has created there
    /// ([`ScratchDir::create_work_folder`](super::ScratchDir::create_work_folder)). `NAQ_WORK_DIR` is its path
    /// then, and the job starts in it unless [`Command::cwd`] says otherwise.
    pub work_folder: bool,
    /// Files that naq writes into the scratch folder.
    pub files: Vec<JobFile>,
    /// A folder that is moved into the scratch folder: a variable that gets its path there, and the folder.
    pub folder: Option<(String, Arc<StagedFolder>)>,
    /// Whether the job runs in a spawner process of its own, so that its spawner's death is no other
    /// job's.
    pub alone: bool,
    /// Whether it may be sent to a spawner that runs as many jobs as it may, which starts it as soon as one of them
    /// ends. Such a job can be [withdrawn](super::JobHandle::withdraw).
    pub waits: bool,
    /// Where output is sent while the job runs. `None` means nowhere.
    pub live: Option<LiveSink>,
}

impl Command {
    /// A command with only a program: no timeout, and a kill grace of 10 s.
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
            deadline: None,
            scratch: false,
            work_folder: false,
            files: Vec::new(),
            folder: None,
            alone: false,
            waits: false,
            live: None,
        }
    }

    /// The directory in which the process starts, if it is this one for a job that names none.
    pub(crate) fn directory_in<'c>(&'c self, default: &'c Path) -> Cow<'c, Path> {
        match self.cwd.as_deref() {
            Some(cwd) => Cow::Owned(default.join(cwd)),
            None => Cow::Borrowed(default),
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
            .field("deadline", &self.deadline)
            .field("scratch", &self.scratch)
            .finish_non_exhaustive()
    }
}
