//! Having a server: joining the one that runs, or starting a supervisor.

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

use super::config_file::{Port, ServerLimits, SyncInterval};
use super::data_dir::{self, DataDir};
use super::error::ServerError;
use super::file_lock::{self, LockMode};
use super::locate::{self, Search};
use super::server_info;
use super::server_state;
use super::subprocess;
use super::supervisor::{self, SUPERVISOR_ARGUMENT, SupervisorReply, SupervisorRequest};
use naq_client::server_state::{ServerState, running};

/// How long a server that already runs may take to greet; it may be in the middle of a restart.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a supervisor that another one was ahead of is followed by joining that other one.
const JOIN_ATTEMPTS: u32 = 5;

/// A supervisor's log larger than this is begun anew.
const SUPERVISOR_LOG_BYTES_MAX: u64 = 1024 * 1024;

/// The longest answer taken from a supervisor.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// What server is wanted. [`ServerConfig::new`] has the usual values.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The server's folder; created (mode 0700) where it is missing.
    pub data_dir: PathBuf,
    /// Where to look for nats-server.
    pub search: Search,
    /// Its port at 127.0.0.1.
    pub port: Port,
    /// When writes are forced to the disk.
    pub sync: SyncInterval,
    /// Bounds on the server.
    pub limits: ServerLimits,
    /// Further lines in nats-server's configuration syntax, appended as they are.
    pub extra_config: String,
    /// Whether it stays when nobody uses it, until it is told to stop.
    pub stay: bool,
    /// How often in a row nats-server is started again after it ended by itself within 10 s of
    /// its start; 0 means never, then the supervisor ends with it.
    pub restarts_max: u32,
    /// Whether the folder is removed with the server, once nobody uses it. For a folder that
    /// nobody else comes to.
    pub remove_data_dir: bool,
    /// The naq program, which is run as the supervisor; `None` is this process's own program, right
    /// for naq itself.
    pub supervisor: Option<PathBuf>,
    /// How long nats-server may take until it is ready; it takes some 15 ms, and seconds with
    /// millions of stored messages.
    pub ready_timeout: Duration,
    /// How long to wait for a previous server of the folder to be gone.
    pub lock_timeout: Duration,
}

impl ServerConfig {
    /// A server in this folder: port 4222 or a free one, synced every second, gone with its last
    /// user, restarted up to five times.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, search: Search) -> ServerConfig {
        ServerConfig {
            data_dir: data_dir.into(),
            search,
            port: Port::default(),
            sync: SyncInterval::default(),
            limits: ServerLimits::default(),
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

/// The use of a managed server. While it lives the server is there; once the last one is dropped,
/// or its process has died, the server goes away (unless it is to stay).
pub struct ManagedServer {
    state: ServerState,
    token: String,
    folder: DataDir,
    started: bool,
    /// The shared lock that says this process uses the server.
    _users: File,
}

impl std::fmt::Debug for ManagedServer {
    /// Shows the server, not its token.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ManagedServer")
            .field("state", &self.state)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl ManagedServer {
    /// `nats://127.0.0.1:PORT`; the token is separate.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// The port at 127.0.0.1. It stays the same when nats-server is restarted.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.state.port
    }

    /// The token to connect with.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The file (mode 0600) that holds the token.
    #[must_use]
    pub fn token_file(&self) -> &Path {
        &self.state.token_file
    }

    /// nats-server's process id as it is now: a restart changes it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        server_state::read(&self.folder).map_or(self.state.pid, |state| state.pid)
    }

    /// The server's folder, absolute.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.folder.root()
    }

    /// The server as it was when this use of it began.
    #[must_use]
    pub fn state(&self) -> &ServerState {
        &self.state
    }

    /// Whether this call started the server, rather than joined it.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }
}

/// Joins the server that runs in the data folder, or starts one; see [`ensure_blocking`].
///
/// The work is done on a thread of its own; dropping the future abandons it, and a server started
/// for nobody goes away by itself.
///
/// # Errors
/// As [`ensure_blocking`].
pub async fn ensure(options: &ServerConfig) -> Result<ManagedServer, ServerError> {
    let options = options.clone();
    run_on_thread(move || ensure_blocking(&options)).await
}

/// Joins the server that runs in the data folder, or finds nats-server, obtaining it if need be,
/// and starts one. Returns when it is ready.
///
/// A server that already runs is taken as it is: the options about its port, limits and syncing
/// are for the one who starts it. `stay` is taken into account.
///
/// # Errors
/// Any [`ServerError`]: no nats-server to be had, a folder that cannot be used, a server that
/// does not start or does not answer.
pub fn ensure_blocking(options: &ServerConfig) -> Result<ManagedServer, ServerError> {
    let folder = DataDir::prepare(&options.data_dir)?;
    // Before looking whether one runs: while this is held, a running supervisor cannot decide that
    // nobody uses its server. If one has decided so already, this waits until it is gone.
    let users = file_lock::acquire(&folder.users(), LockMode::Shared, options.lock_timeout)?;
    if let Some(state) = join_running(&folder)? {
        return managed(options, folder, users, state, false);
    }
    let binary = locate::find(&options.search)?;
    let start_lock_timeout = options.lock_timeout.saturating_add(options.ready_timeout);
    let turn = file_lock::acquire(&folder.start(), LockMode::Exclusive, start_lock_timeout)?;
    let request = SupervisorRequest {
        binary: binary.path,
        data_dir: folder.root().to_path_buf(),
        port: options.port,
        sync: options.sync,
        limits: options.limits.clone(),
        extra_config: options.extra_config.clone(),
        restarts_max: options.restarts_max,
        remove_data_dir: options.remove_data_dir,
        ready_timeout_ms: milliseconds(options.ready_timeout),
        lock_timeout_ms: milliseconds(options.lock_timeout),
    };
    // The ports it may have to try, and a moment for the process itself.
    let reply_timeout = start_lock_timeout.saturating_add(Duration::from_secs(10));
    for _ in 0..JOIN_ATTEMPTS {
        if let Some(state) = join_running(&folder)? {
            return managed(options, folder, users, state, false);
        }
        // What a supervisor that died by force may have left.
        data_dir::remove_if_there(&folder.stay())?;
        let program = options.supervisor.as_deref();
        if let Some(state) = start_supervisor(program, &folder, &request, reply_timeout)? {
            drop(turn);
            return managed(options, folder, users, state, true);
        }
    }
    Err(ServerError::Supervisor {
        reason: format!("other keepers come and go in {}", folder.root().display()),
    })
}

/// Stops the server that runs in the data folder, whoever uses it, and waits until it is gone;
/// see [`stop_blocking`].
///
/// # Errors
/// As [`stop_blocking`].
pub async fn stop(data_dir: &Path, limit: Duration) -> Result<bool, ServerError> {
    let data_dir = data_dir.to_path_buf();
    run_on_thread(move || stop_blocking(&data_dir, limit)).await
}

/// Stops the server that runs in the data folder, whoever uses it, and waits at most `limit`
/// until it is gone. False when none runs.
///
/// The supervisor gives nats-server 10 s to end by itself, so a shorter `limit` may be too short.
///
/// # Errors
/// [`ServerError::Locked`] when it is not gone in time, [`ServerError::Supervisor`] when its supervisor may
/// not be signalled.
pub fn stop_blocking(data_dir: &Path, limit: Duration) -> Result<bool, ServerError> {
    let Some(state) = running(data_dir) else {
        return Ok(false);
    };
    // A supervisor that was killed leaves its state file; the kernel has told its server to end, and
    // the supervisor's process id may be somebody else's by now.
    if server_state::is_supervisor(state.supervisor_pid)
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

/// Runs blocking work on a thread of its own. Not one of the runtime's: those are waited for when
/// the runtime ends, and a lock may take long.
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

/// The running server, once it greets; `None` when none runs.
fn join_running(folder: &DataDir) -> Result<Option<ServerState>, ServerError> {
    let Some(state) = running(folder.root()) else {
        return Ok(None);
    };
    let mut gone = false;
    let greeted =
        server_info::wait_until_ready(state.port, &state.server_name, JOIN_TIMEOUT, || {
            gone = running(folder.root()).is_none_or(|now| now.server_name != state.server_name);
            gone.then(|| "it ended".to_owned())
        });
    // A server whose supervisor has been killed is on its way out, although it may greet.
    gone = gone || !server_state::is_supervisor(state.supervisor_pid);
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
        // While the users' lock is held: the supervisor looks for this file once it has the lock.
        data_dir::write_private(&folder.stay(), b"")?;
    }
    let token = data_dir::read_token(&state.token_file)?;
    Ok(ManagedServer {
        state,
        token,
        folder,
        started,
        _users: users,
    })
}

/// Starts a supervisor and takes its answer; `None` when another supervisor turned out to have the folder.
fn start_supervisor(
    program: Option<&Path>,
    folder: &DataDir,
    request: &SupervisorRequest,
    reply_timeout: Duration,
) -> Result<Option<ServerState>, ServerError> {
    let failed = |reason: String| ServerError::Supervisor { reason };
    let log_path = folder.supervisor_log();
    if fs::metadata(&log_path).is_ok_and(|found| found.len() > SUPERVISOR_LOG_BYTES_MAX) {
        data_dir::remove_if_there(&log_path)?;
    }
    let log = supervisor::open_log(&log_path)?;
    let program = match program {
        Some(program) => program.to_path_buf(),
        None => supervisor::own_program().map_err(|error| failed(error.to_string()))?,
    };
    let mut line = serde_json::to_string(request).map_err(|error| failed(error.to_string()))?;
    line.push('\n');
    let mut child = subprocess::command(&program)
        .arg0("naq")
        .arg(SUPERVISOR_ARGUMENT)
        // Nothing of the user's folder is kept busy by a process that may stay.
        .current_dir(folder.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| failed(format!("cannot run {}: {error}", program.display())))?;
    let sent = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(line.as_bytes()));
    if let Some(Err(error)) = sent {
        reap(child, true);
        return Err(failed(format!(
            "{} does not take its request: {error}; is it naq?",
            program.display()
        )));
    }
    let answer = child
        .stdout
        .take()
        .map_or(Ok(Vec::new()), |out| read_line(out, reply_timeout));
    let parsed = answer.and_then(|bytes| {
        serde_json::from_slice::<SupervisorReply>(&bytes).map_err(|error| {
            let said = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
            format!(
                "{} gave no proper answer ({error}): {said:?}; its log is {}",
                program.display(),
                log_path.display()
            )
        })
    });
    match parsed {
        Ok(SupervisorReply::Ready(state)) => {
            reap(child, false);
            Ok(Some(*state))
        }
        Ok(SupervisorReply::AlreadyRunning) => {
            reap(child, false);
            Ok(None)
        }
        Ok(SupervisorReply::Locked { waited_ms }) => {
            reap(child, false);
            Err(ServerError::Locked {
                path: folder.lock(),
                waited_ms,
            })
        }
        Ok(SupervisorReply::NotStarted { reason }) => {
            reap(child, false);
            Err(ServerError::Start { reason })
        }
        Err(reason) => {
            reap(child, true);
            Err(failed(reason))
        }
    }
}

/// Waits for the supervisor's end, on a thread, so that it does not stay a zombie in a process that
/// outlives it.
fn reap(mut child: Child, kill_first: bool) {
    if kill_first {
        let _already_gone = child.kill();
    }
    let waiting = thread::Builder::new()
        .name("naq-supervisor-end".to_owned())
        .spawn(move || {
            let _reaped = child.wait();
        });
    // Without a thread to spare, init reaps it after this process.
    drop(waiting);
}

/// Reads up to the first newline or the end, within `limit`; the error is text for the user.
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
