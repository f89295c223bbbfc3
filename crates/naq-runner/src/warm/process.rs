//! A warm process: its start, and what it says of itself.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::super::command::Command;
use super::super::completion::Termination;
use super::super::job_handle::JobHandle;
use super::super::options::Containment;
use super::super::pipes::Pipes;
use super::super::pool::Pool;
use super::super::{JobParts, Runner};
use super::frames::FrameSocket;

/// The variable with the number of the socket's descriptor.
const SOCKET_VARIABLE: (&str, &str) = ("NAQ_WARM_FD", "4");

/// The version of the protocol between worker and process.
const PROTOCOL: u64 = 1;

/// Number of files of which changes are looked for.
const FILES_MAX: usize = 2_000;

/// Number of bytes of a failed start that an error shows.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// How a warm process runs jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WarmMode {
    /// It forks a child for each job.
    Fork,
    /// It runs one job, and ends with it.
    Standby,
    /// It runs one job after another in itself.
    Reuse,
}

impl WarmMode {
    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            WarmMode::Fork => "fork",
            WarmMode::Standby => "standby",
            WarmMode::Reuse => "reuse",
        }
    }
}

impl FromStr for WarmMode {
    type Err = String;

    fn from_str(name: &str) -> Result<WarmMode, String> {
        let all = [WarmMode::Fork, WarmMode::Standby, WarmMode::Reuse];
        all.into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| format!("`{name}` is none of fork, standby, reuse"))
    }
}

/// A warm process to start.
#[derive(Debug)]
pub struct WarmBoot {
    /// The program. Its own output says why a start failed, and is shown nowhere else.
    pub command: Command,
    /// How it runs jobs.
    pub mode: WarmMode,
    /// How long it may take until it is ready.
    pub timeout: Duration,
}

/// Why a warm process did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WarmError {
    /// It cannot be contained here without the jobs of others.
    #[error(
        "a warm process needs a control group or a namespace, and containment `subreaper` has neither; --containment names another"
    )]
    Subreaper,
    /// It would see what each job has for itself.
    #[error("warm processes run jobs in the same file systems, which {0} excludes")]
    Files(&'static str),
    /// It did not start, or did not get ready.
    #[error("{0}")]
    Boot(String),
    /// It is ready, and cannot run jobs in this mode.
    #[error("it cannot run jobs by `{mode}`: {why}")]
    Mode {
        /// The mode.
        mode: &'static str,
        /// Why not.
        why: String,
    },
}

/// A process that is ready for a job.
#[derive(Debug)]
pub struct WarmProcess {
    pub(super) pool: Arc<Pool>,
    /// The process, as its spawner sees it. Dropping it kills the process.
    pub(super) outer: JobHandle,
    pub(super) socket: FrameSocket,
    pub(super) mode: WarmMode,
    /// The pipes of a process that runs jobs in itself.
    pub(super) pipes: Option<Pipes>,
    /// The number of the last job.
    pub(super) jobs: u64,
    started: Instant,
    /// Resident memory after the first job, in bytes.
    pub(super) rss_first: Option<u64>,
    /// Resident memory after the last job, in bytes.
    pub(super) rss_last: u64,
    /// Whether something of the last job may still be in it.
    pub(super) is_dirty: bool,
    version: String,
    /// The files that it has loaded, each with the time of its last change.
    files: Vec<(PathBuf, Option<SystemTime>)>,
}

impl WarmProcess {
    /// The version of its language.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Number of jobs that it has run.
    pub fn jobs(&self) -> u64 {
        self.jobs
    }

    /// Time since its start.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// By how much its resident memory has grown since the end of its first job, in bytes.
    pub fn growth_bytes(&self) -> u64 {
        self.rss_first
            .map_or(0, |first| self.rss_last.saturating_sub(first))
    }

    /// Its resident memory, in bytes, as it was when it was ready or after its last job.
    pub fn rss_bytes(&self) -> u64 {
        self.rss_last
    }

    /// Whether something of the last job may still be in it, so that it must run no other.
    pub fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Whether a file that it has loaded has changed since.
    pub fn is_out_of_date(&self) -> bool {
        let mut files = self.files.iter();
        files.any(|(path, changed)| modified(path) != *changed)
    }

    /// Adds the files that a frame of the process lists as loaded.
    pub(super) fn add_files(&mut self, frame: &Value) {
        let room = FILES_MAX.saturating_sub(self.files.len());
        let files = frame["files"].as_array().into_iter().flatten();
        let files = files.filter_map(|file| Some(PathBuf::from(file.as_str()?)));
        self.files.extend(files.take(room).map(|file| {
            let changed = modified(&file);
            (file, changed)
        }));
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.outer.is_over()
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|found| found.modified())
        .ok()
}

impl Runner {
    /// Whether this runner can keep warm processes.
    ///
    /// # Errors
    /// Returns why it cannot.
    pub fn supports_warm(&self) -> Result<(), WarmError> {
        let options = &self.inner.pool.options;
        if self.containment() == Containment::Subreaper {
            return Err(WarmError::Subreaper);
        }
        if options.files.is_some() {
            return Err(WarmError::Files("--landlock-read or --landlock-write"));
        }
        if options.private_tmp {
            return Err(WarmError::Files("--private-tmp"));
        }
        Ok(())
    }

    /// Starts a warm process and waits until it is ready.
    ///
    /// # Errors
    /// Returns [`WarmError`] with what the process wrote.
    pub async fn boot_warm(&self, boot: WarmBoot) -> Result<WarmProcess, WarmError> {
        self.supports_warm()?;
        let failed = |error: std::io::Error| WarmError::Boot(format!("no socket: {error}"));
        let (ours, theirs) =
            super::super::sys::socket::stream_pair().map_err(|errno| failed(errno.into()))?;
        let mut socket = FrameSocket::new(ours).map_err(failed)?;
        let (pipes, given) = match boot.mode {
            WarmMode::Reuse => {
                let mut theirs: Vec<OwnedFd> = Vec::new();
                let ours = Pipes::open(&mut theirs).map_err(|errno| failed(errno.into()))?;
                (Some(ours), theirs)
            }
            WarmMode::Fork | WarmMode::Standby => (None, Vec::new()),
        };
        let mut command = boot.command;
        command
            .env
            .push((SOCKET_VARIABLE.0.to_owned(), SOCKET_VARIABLE.1.to_owned()));
        command
            .env
            .push(("NAQ_WARM_MODE".to_owned(), boot.mode.name().to_owned()));
        let parts = JobParts {
            socket: Some(theirs),
            given,
            is_extra: true,
            slot: None,
        };
        let outer = self.start_with(command, parts, None);
        let started = Instant::now();
        let hello = tokio::time::timeout(boot.timeout, hello(&mut socket, &outer)).await;
        let hello = match hello {
            Ok(hello) => hello?,
            Err(_) => {
                return Err(WarmError::Boot(format!(
                    "it was not ready in {:?}",
                    boot.timeout
                )));
            }
        };
        check_hello(&hello, boot.mode)?;
        let mut process = WarmProcess {
            pool: Arc::clone(&self.inner.pool),
            outer,
            socket,
            mode: boot.mode,
            pipes,
            jobs: 0,
            started,
            rss_first: None,
            rss_last: hello["rss"].as_u64().unwrap_or(0),
            is_dirty: false,
            version: hello["version"].as_str().unwrap_or_default().to_owned(),
            files: Vec::new(),
        };
        process.add_files(&hello);
        Ok(process)
    }
}

/// Waits for the first frame of a process, or for its end.
async fn hello(socket: &mut FrameSocket, outer: &JobHandle) -> Result<Value, WarmError> {
    tokio::select! {
        biased;
        frame = socket.receive() => match frame {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(boot_error(outer).await),
            Err(error) => Err(WarmError::Boot(error.to_string())),
        },
        error = boot_error(outer) => Err(error),
    }
}

/// Why a process ended before it was ready.
async fn boot_error(outer: &JobHandle) -> WarmError {
    let ended = outer.wait().await;
    let how = match ended.end {
        Termination::Exited(code) => format!("it exited with {code} before it was ready"),
        Termination::Signalled(signal) => format!("signal {signal} ended it before it was ready"),
        Termination::NotStarted(failure) => return WarmError::Boot(failure.message),
        Termination::SpawnerDied { .. } => "its spawner died".to_owned(),
    };
    let said = String::from_utf8_lossy(&ended.stderr.head)
        .trim()
        .to_owned();
    let said: String = said.chars().take(MESSAGE_BYTES_MAX).collect();
    WarmError::Boot(match said.is_empty() {
        true => how,
        false => format!("{how}: {said}"),
    })
}

/// Checks what a process says of itself.
fn check_hello(hello: &Value, mode: WarmMode) -> Result<(), WarmError> {
    match hello["t"].as_str() {
        Some("hello") => {}
        Some("broken") => {
            let error = &hello["error"];
            let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
            return Err(WarmError::Boot(format!(
                "{}: {}",
                text("type"),
                text("message")
            )));
        }
        _ => return Err(WarmError::Boot("its first frame is no `hello`".to_owned())),
    }
    if hello["protocol"].as_u64() != Some(PROTOCOL) {
        return Err(WarmError::Boot(format!(
            "it speaks version {} of the protocol, and naq {PROTOCOL}",
            hello["protocol"]
        )));
    }
    let mut modes = hello["modes"].as_array().into_iter().flatten();
    if modes.any(|known| known.as_str() == Some(mode.name())) {
        return Ok(());
    }
    let why = match (hello["cuda"].as_bool(), hello["threads"].as_u64()) {
        (Some(true), _) => "a preload has loaded CUDA".to_owned(),
        (_, Some(threads)) if threads > 1 => {
            format!("a preload has started threads: it has {threads}")
        }
        _ => "it does not say why".to_owned(),
    };
    Err(WarmError::Mode {
        mode: mode.name(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let hello = json!({"t": "hello", "protocol": 1, "modes": ["standby"], "threads": 3});
        assert!(check_hello(&hello, WarmMode::Standby).is_ok());
        let Err(WarmError::Mode { why, .. }) = check_hello(&hello, WarmMode::Fork) else {
            panic!("it cannot fork")
        };
        assert!(why.contains("it has 3"), "{why}");
        let broken = json!({"t": "broken", "error": {"type": "ImportError", "message": "no x"}});
        let error = check_hello(&broken, WarmMode::Fork)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "ImportError: no x");
        assert!(check_hello(&json!({"t": "hello", "protocol": 2}), WarmMode::Fork).is_err());
    }
}
