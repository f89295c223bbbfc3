//! Provides a server: joins the running one, or starts a supervisor.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::binary::{Origin, Search};
use super::config_file::{Access, Port, ServerLimits, SyncInterval};
use super::data_dir::{self, DataDir};
use super::error::ServerError;
use super::file_lock::{self, LockMode};
use super::locate;
use super::server_info;
use super::server_state;
use super::subprocess;
use super::supervisor_log;
use super::supervisor_protocol::{
    SUPERVISOR_ARGUMENT, SupervisorReply, SupervisorRequest, is_supervisor,
};
use naq_client::server_state::{ServerState, running};

/// How long a running server may take to respond; it may be in the middle of a restart.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How often to join or start again after another supervisor was faster.
const JOIN_ATTEMPTS: u32 = 5;

/// A supervisor's log that is larger than this is truncated before the next start.
const SUPERVISOR_LOG_BYTES_MAX: u64 = 1024 * 1024;

/// Maximum length of a supervisor's reply, in bytes.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Configuration of a managed server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The data folder; created (mode 0700) if it is missing.
    pub data_dir: PathBuf,
    /// Where to search for nats-server.
    pub search: Search,
    /// The port at 127.0.0.1.
    pub port: Port,
    /// When writes are forced to the disk.
    pub sync: SyncInterval,
    /// Limits of the server.
    pub limits: ServerLimits,
    /// Who may connect.
    pub access: Access,
    /// Further lines in nats-server's configuration syntax, appended unchanged.
    pub extra_config: String,
    /// Whether the server keeps running without users until it is stopped.
    pub stay: bool,
    /// Maximum number of consecutive restarts of a nats-server that exits within 10 s of its start. With 0,
    /// it is never restarted and the supervisor ends with it.
    pub restarts_max: u32,
    /// Whether the data folder is removed once the server has no users. Only for a folder that no other
    /// process uses.
    pub remove_data_dir: bool,
    /// The naq program to run as the supervisor. `None` means the program of this process, which is right
    /// for naq itself.
    pub supervisor: Option<PathBuf>,
    /// How long nats-server may take to become ready. It takes some 15 ms, and seconds with millions of
    /// stored messages.
    pub ready_timeout: Duration,
    /// How long to wait until a previous server of the folder is gone.
    pub lock_timeout: Duration,
}

impl ServerConfig {
    /// A server in this folder: port 4222 or a free one, synced every second, stopped after its last user,
    /// restarted up to five times.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, search: Search) -> ServerConfig {
        ServerConfig {
            data_dir: data_dir.into(),
            search,
            port: Port::default(),
            sync: SyncInterval::default(),
            limits: ServerLimits::default(),
            access: Access::default(),
            extra_config: String::new(),
            stay: false,
            restarts_max: 5,
            remove_data_dir: false,
            supervisor: None,
            ready_timeout: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(25),
        }
    }
}

/// A use of a managed server, which runs as long as this lives. After the last use is dropped or its
/// process has died, the server stops, unless it was started with [`ServerConfig::stay`].
pub struct ManagedServer {
    state: ServerState,
    folder: DataDir,
    started: bool,
    /// A shared lock: the server has users as long as one exists.
    _users: File,
}

impl std::fmt::Debug for ManagedServer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ManagedServer")
            .field("state", &self.state)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl ManagedServer {
    /// `nats://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// The port at 127.0.0.1. It stays the same when nats-server is restarted.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.state.port
    }

    /// The file (mode 0600) with the seed of the NKey that clients log in with.
    #[must_use]
    pub fn nkey_file(&self) -> &Path {
        &self.state.nkey_file
    }

    /// The file with the certificate that the server presents, and that clients trust. `None` if it presents
    /// none: an earlier version of naq has started it, or its own configuration says who may connect.
    #[must_use]
    pub fn certificate_file(&self) -> Option<&Path> {
        self.state.certificate_file.as_deref()
    }

    /// The current process id of nats-server; a restart changes it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        server_state::read(&self.folder).map_or(self.state.pid, |state| state.pid)
    }

    /// The absolute path of the data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.folder.root()
    }

    /// The state of the server when this use began.
    #[must_use]
    pub fn state(&self) -> &ServerState {
        &self.state
    }

    /// Whether this call started the server and did not join a running one.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }

    /// Ends this use. If it was the last one, the server stops, and this waits at most `limit` until it is
    /// gone, so that its folder may be removed afterwards.
    ///
    /// # Errors
    /// Returns [`ServerError::Locked`] if the server is not gone in time.
    pub async fn leave(self, limit: Duration) -> Result<(), ServerError> {
        run_on_thread(move || {
            let folder = self.folder.clone();
            drop(self);
            if folder.stay().exists() {
                return Ok(());
            }
            server_state::wait_until_gone_or_used(&folder, limit)
        })
        .await
    }
}

/// Joins the server that runs in the data folder, or starts one; see [`ensure_blocking`].
///
/// Runs on a thread of its own. If the future is dropped, a server started for it stops by itself.
///
/// # Errors
/// As [`ensure_blocking`].
pub async fn ensure(options: &ServerConfig) -> Result<ManagedServer, ServerError> {
    let options = options.clone();
    run_on_thread(move || ensure_blocking(&options)).await
}

/// Joins the server that runs in the data folder. If none runs, finds or downloads nats-server and starts
/// it. Returns when the server is ready.
///
/// Options for port, limits and syncing have no effect on a server that already runs; `stay` has.
///
/// # Errors
/// Returns any [`ServerError`]: no nats-server is found, the folder is unsuitable, or the server does not
/// start or respond.
pub fn ensure_blocking(options: &ServerConfig) -> Result<ManagedServer, ServerError> {
    let folder = DataDir::prepare(&options.data_dir)?;
    // Before checking whether a server runs: while this lock is shared, a running supervisor cannot conclude
    // that its server has no users. If it already has, this waits until the server is gone.
    let users = file_lock::acquire(&folder.users(), LockMode::Shared, options.lock_timeout)?;
    if let Some(state) = join_running(&folder)? {
        return managed(options, folder, users, state, false);
    }
    let binary = locate::find(&options.search)?;
    let start_lock_timeout = options.lock_timeout.saturating_add(options.ready_timeout);
    let turn = file_lock::acquire(&folder.start(), LockMode::Exclusive, start_lock_timeout)?;
    let request = SupervisorRequest {
        is_pinned: matches!(binary.origin, Origin::Cache | Origin::Downloaded),
        binary: binary.path,
        data_dir: folder.root().to_path_buf(),
        port: options.port,
        sync: options.sync,
        limits: options.limits.clone(),
        access: options.access,
        extra_config: options.extra_config.clone(),
        restarts_max: options.restarts_max,
        remove_data_dir: options.remove_data_dir,
        ready_timeout_ms: milliseconds(options.ready_timeout),
        lock_timeout_ms: milliseconds(options.lock_timeout),
    };
    // Also covers the ports that it may have to try, and the start of the process.
    let reply_timeout = start_lock_timeout.saturating_add(Duration::from_secs(10));
    for _ in 0..JOIN_ATTEMPTS {
        if let Some(state) = join_running(&folder)? {
            return managed(options, folder, users, state, false);
        }
        // A supervisor that was killed may have left the file.
        data_dir::remove_if_there(&folder.stay())?;
        let program = options.supervisor.as_deref();
        if let Some(state) = start_supervisor(program, &folder, &request, reply_timeout)? {
            drop(turn);
            return managed(options, folder, users, state, true);
        }
    }
    Err(ServerError::Supervisor {
        reason: format!(
            "other supervisors repeatedly start and stop in {}; try again",
            folder.root().display()
        ),
    })
}

/// Stops the server that runs in the data folder, even if it has users, and waits until it is gone; see
/// [`stop_blocking`].
///
/// # Errors
/// As [`stop_blocking`].
pub async fn stop(data_dir: &Path, limit: Duration) -> Result<bool, ServerError> {
    let data_dir = data_dir.to_path_buf();
    run_on_thread(move || stop_blocking(&data_dir, limit)).await
}

/// Stops the server that runs in the data folder, even if it has users, and waits at most `limit` until it
/// is gone. Returns false if none runs.
///
/// The supervisor gives nats-server 10 s to stop by itself, so a shorter `limit` may be too short.
///
/// # Errors
/// Returns [`ServerError::Locked`] if the server is not gone in time, and [`ServerError::Supervisor`] if its
/// supervisor cannot be signalled.
pub fn stop_blocking(data_dir: &Path, limit: Duration) -> Result<bool, ServerError> {
    let Some(state) = running(data_dir) else {
        return Ok(false);
    };
    // A supervisor that was killed leaves its state file. The kernel has killed its server, and another
    // process may have its process id by now.
    if is_supervisor(state.supervisor_pid)
        && let Err(error) = kill(Pid::from_raw(state.supervisor_pid), Signal::SIGTERM)
        && error != nix::errno::Errno::ESRCH
    {
        return Err(ServerError::Supervisor {
            reason: format!("cannot signal process {}: {error}", state.supervisor_pid),
        });
    }
    server_state::wait_until_gone(data_dir, limit)?;
    Ok(true)
}

/// Runs blocking work on a thread of its own, not one of the runtime's: the runtime waits for its threads
/// when it ends, and a lock may take long.
async fn run_on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    let (sender, receiver) = oneshot::channel();
    let failed = |reason: String| ServerError::Supervisor { reason };
    thread::Builder::new()
        .name("naq-server".to_owned())
        .spawn(move || {
            let _abandoned = sender.send(work());
        })
        .map_err(|error| failed(format!("cannot start a thread: {error}")))?;
    receiver
        .await
        .unwrap_or_else(|_| Err(failed("its thread ended early".to_owned())))
}

/// The running server, once it responds; `None` if none runs.
fn join_running(folder: &DataDir) -> Result<Option<ServerState>, ServerError> {
    let Some(state) = running(folder.root()) else {
        return Ok(None);
    };
    let proof = server_state::proof_of(&state)?;
    let mut gone = false;
    let greeted = server_info::wait_until_ready(
        state.port,
        &state.server_name,
        proof.as_ref(),
        JOIN_TIMEOUT,
        || {
            gone = running(folder.root()).is_none_or(|now| now.server_name != state.server_name);
            gone.then(|| "it ended".to_owned())
        },
    );
    // A server whose supervisor was killed is about to end, even if it still responds.
    gone = gone || !is_supervisor(state.supervisor_pid);
    match greeted {
        _ if gone => Ok(None),
        Ok(_) => Ok(Some(state)),
        Err(reason) => Err(ServerError::NotResponding {
            address: server_info::address(state.port).to_string(),
            waited_ms: milliseconds(JOIN_TIMEOUT),
            reason,
        }),
    }
}

fn managed(
    options: &ServerConfig,
    folder: DataDir,
    users: File,
    state: ServerState,
    started: bool,
) -> Result<ManagedServer, ServerError> {
    if options.stay {
        // While the users' lock is shared: the supervisor checks for this file after it has the lock alone.
        data_dir::write_private(&folder.stay(), b"")?;
    }
    Ok(ManagedServer {
        state,
        folder,
        started,
        _users: users,
    })
}

/// Starts a supervisor and reads its reply; `None` if another supervisor owns the folder.
fn start_supervisor(
    program: Option<&Path>,
    folder: &DataDir,
    request: &SupervisorRequest,
    reply_timeout: Duration,
) -> Result<Option<ServerState>, ServerError> {
    let failed = |reason: String| ServerError::Supervisor { reason };
    let program = match program {
        Some(program) => program.to_path_buf(),
        None => subprocess::own_program().map_err(|error| failed(error.to_string()))?,
    };
    let mut child = spawn_supervisor(&program, folder)?;
    let reply = exchange(&mut child, &program, folder, request, reply_timeout);
    reap(child, reply.is_err());
    match reply.map_err(failed)? {
        SupervisorReply::Ready(state) => Ok(Some(*state)),
        SupervisorReply::AlreadyRunning => Ok(None),
        SupervisorReply::Locked { waited_ms } => Err(ServerError::Locked {
            path: folder.lock(),
            waited_ms,
        }),
        SupervisorReply::NotStarted { reason } => Err(ServerError::Start { reason }),
    }
}

/// Starts the process, which waits for its request.
fn spawn_supervisor(program: &Path, folder: &DataDir) -> Result<Child, ServerError> {
    let log_path = folder.supervisor_log();
    if fs::metadata(&log_path).is_ok_and(|found| found.len() > SUPERVISOR_LOG_BYTES_MAX) {
        data_dir::remove_if_there(&log_path)?;
    }
    let log = supervisor_log::open_log(&log_path)?;
    subprocess::command(program)
        .arg0("naq")
        .arg(SUPERVISOR_ARGUMENT)
        // A process that may run for long must not keep the user's current folder busy.
        .current_dir(folder.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| ServerError::Supervisor {
            reason: format!("cannot run {}: {error}", program.display()),
        })
}

/// Sends the request and reads the reply. The error is a text for the user.
fn exchange(
    child: &mut Child,
    program: &Path,
    folder: &DataDir,
    request: &SupervisorRequest,
    reply_timeout: Duration,
) -> Result<SupervisorReply, String> {
    let mut line = serde_json::to_string(request).map_err(|error| error.to_string())?;
    line.push('\n');
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(line.as_bytes()).map_err(|error| {
            format!(
                "{} does not read its request: {error}; is it naq?",
                program.display()
            )
        })?;
    }
    let bytes = match child.stdout.take() {
        Some(out) => read_line(out, reply_timeout)?,
        None => Vec::new(),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
        format!(
            "{} gave an invalid reply ({error}): {start:?}; see its log, {}",
            program.display(),
            folder.supervisor_log().display()
        )
    })
}

/// Waits for the supervisor on a thread, so that it does not remain a zombie in a process that outlives it.
fn reap(mut child: Child, kill_first: bool) {
    if kill_first {
        let _already_gone = child.kill();
    }
    let waiting = thread::Builder::new()
        .name("naq-supervisor-end".to_owned())
        .spawn(move || {
            let _reaped = child.wait();
        });
    // Without a thread, init reaps it after this process.
    drop(waiting);
}

/// Reads up to the first newline or the end of the stream, within `limit`. The error is a text for the user.
fn read_line(mut out: impl Read + AsFd, limit: Duration) -> Result<Vec<u8>, String> {
    let start = Instant::now();
    let mut line = Vec::new();
    let mut chunk = [0_u8; 4096];
    while !line.contains(&b'\n') && line.len() < REPLY_BYTES_MAX {
        let left = limit.saturating_sub(start.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(format!("no answer within {} s", limit.as_secs())),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(format!("cannot wait for its answer: {error}")),
        }
        match out.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot read its answer: {error}")),
        }
    }
    Ok(line)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
