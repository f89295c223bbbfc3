//! Having a server: joining the one that runs, or starting a keeper.

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

use super::conf::{Limits, Port, SyncInterval};
use super::error::ServerError;
use super::folder::{self, Folder};
use super::greeting;
use super::keeper::{self, Answer, KEEPER_ARGUMENT, Orders};
use super::locate::{self, Search};
use super::lock::{self, Mode};
use super::program;
use super::state::{self, State, running};

/// How long a server that already runs may take to greet; it may be in the middle of a restart.
const JOIN_LIMIT: Duration = Duration::from_secs(15);

/// How often a keeper that another one was ahead of is followed by joining that other one.
const ATTEMPTS: u32 = 5;

/// A keeper's log larger than this is begun anew.
const KEEPER_LOG_MAX_BYTES: u64 = 1024 * 1024;

/// The longest answer taken from a keeper.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// What server is wanted. [`Options::new`] has the usual values.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's folder; created (mode 0700) where it is missing.
    pub data_dir: PathBuf,
    /// Where to look for nats-server.
    pub search: Search,
    /// Its port at 127.0.0.1.
    pub port: Port,
    /// When writes are forced to the disk.
    pub sync: SyncInterval,
    /// Bounds on the server.
    pub limits: Limits,
    /// Further lines in nats-server's configuration syntax, appended as they are.
    pub extra_config: String,
    /// Whether it stays when nobody uses it, until it is told to stop.
    pub stay: bool,
    /// How often in a row nats-server is started again after it ended by itself within 10 s of
    /// its start; 0 means never, then the keeper ends with it.
    pub restarts_max: u32,
    /// Whether the folder is removed with the server, once nobody uses it. For a folder that
    /// nobody else comes to.
    pub remove_folder: bool,
    /// The naq program, which is run as the keeper; `None` is this process's own program, right
    /// for naq itself.
    pub keeper: Option<PathBuf>,
    /// How long nats-server may take until it is ready; it takes some 15 ms, and seconds with
    /// millions of stored messages.
    pub ready_limit: Duration,
    /// How long to wait for a previous server of the folder to be gone.
    pub lock_limit: Duration,
}

impl Options {
    /// A server in this folder: port 4222 or a free one, synced every second, gone with its last
    /// user, restarted up to five times.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, search: Search) -> Options {
        Options {
            data_dir: data_dir.into(),
            search,
            port: Port::default(),
            sync: SyncInterval::default(),
            limits: Limits::default(),
            extra_config: String::new(),
            stay: false,
            restarts_max: 5,
            remove_folder: false,
            keeper: None,
            ready_limit: Duration::from_secs(60),
            lock_limit: Duration::from_secs(25),
        }
    }
}

/// The use of a managed server. While it lives the server is there; once the last one is dropped,
/// or its process has died, the server goes away (unless it is to stay).
pub struct Managed {
    state: State,
    token: String,
    folder: Folder,
    started: bool,
    /// The shared lock that says this process uses the server.
    _users: File,
}

impl std::fmt::Debug for Managed {
    /// Shows the server, not its token.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Managed")
            .field("state", &self.state)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl Managed {
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
        state::read(&self.folder).map_or(self.state.pid, |state| state.pid)
    }

    /// The server's folder, absolute.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.folder.root()
    }

    /// The server as it was when this use of it began.
    #[must_use]
    pub fn state(&self) -> &State {
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
pub async fn ensure(options: &Options) -> Result<Managed, ServerError> {
    let options = options.clone();
    on_a_thread(move || ensure_blocking(&options)).await
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
pub fn ensure_blocking(options: &Options) -> Result<Managed, ServerError> {
    let folder = Folder::prepare(&options.data_dir)?;
    // Before looking whether one runs: while this is held, a running keeper cannot decide that
    // nobody uses its server. If one has decided so already, this waits until it is gone.
    let users = lock::take(&folder.users(), Mode::Shared, options.lock_limit)?;
    if let Some(state) = joined(&folder)? {
        return managed(options, folder, users, state, false);
    }
    let binary = locate::find(&options.search)?;
    let turn_limit = options.lock_limit.saturating_add(options.ready_limit);
    let turn = lock::take(&folder.start(), Mode::Alone, turn_limit)?;
    let orders = Orders {
        binary: binary.path,
        data_dir: folder.root().to_path_buf(),
        port: options.port,
        sync: options.sync,
        limits: options.limits.clone(),
        extra_config: options.extra_config.clone(),
        restarts_max: options.restarts_max,
        remove_folder: options.remove_folder,
        ready_limit_ms: milliseconds(options.ready_limit),
        lock_limit_ms: milliseconds(options.lock_limit),
    };
    // The ports it may have to try, and a moment for the process itself.
    let patience = turn_limit.saturating_add(Duration::from_secs(10));
    for _ in 0..ATTEMPTS {
        if let Some(state) = joined(&folder)? {
            return managed(options, folder, users, state, false);
        }
        // What a keeper that died by force may have left.
        folder::remove_if_there(&folder.stay())?;
        let program = options.keeper.as_deref();
        if let Some(state) = start_keeper(program, &folder, &orders, patience)? {
            drop(turn);
            return managed(options, folder, users, state, true);
        }
    }
    Err(ServerError::Keeper {
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
    on_a_thread(move || stop_blocking(&data_dir, limit)).await
}

/// Stops the server that runs in the data folder, whoever uses it, and waits at most `limit`
/// until it is gone. False when none runs.
///
/// The keeper gives nats-server 10 s to end by itself, so a shorter `limit` may be too short.
///
/// # Errors
/// [`ServerError::Held`] when it is not gone in time, [`ServerError::Keeper`] when its keeper may
/// not be signalled.
pub fn stop_blocking(data_dir: &Path, limit: Duration) -> Result<bool, ServerError> {
    let Some(state) = running(data_dir) else {
        return Ok(false);
    };
    // A keeper that was killed leaves its state file; the kernel has told its server to end, and
    // the keeper's process id may be somebody else's by now.
    if state::is_keeper(state.keeper_pid)
        && let Err(error) = kill(Pid::from_raw(state.keeper_pid), Signal::SIGTERM)
        && error != nix::errno::Errno::ESRCH
    {
        return Err(ServerError::Keeper {
            reason: format!("cannot signal process {}: {error}", state.keeper_pid),
        });
    }
    state::wait_until_gone(data_dir, limit)?;
    Ok(true)
}

/// Runs blocking work on a thread of its own. Not one of the runtime's: those are waited for when
/// the runtime ends, and a lock may take long.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    let (sender, receiver) = oneshot::channel();
    let failed = |reason: String| ServerError::Keeper { reason };
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
fn joined(folder: &Folder) -> Result<Option<State>, ServerError> {
    let Some(state) = running(folder.root()) else {
        return Ok(None);
    };
    let mut gone = false;
    let greeted = greeting::wait_for(state.port, &state.server_name, JOIN_LIMIT, || {
        gone = running(folder.root()).is_none_or(|now| now.server_name != state.server_name);
        gone.then(|| "it ended".to_owned())
    });
    // A server whose keeper has been killed is on its way out, although it may greet.
    gone = gone || !state::is_keeper(state.keeper_pid);
    match greeted {
        _ if gone => Ok(None),
        Ok(_) => Ok(Some(state)),
        Err(reason) => Err(ServerError::Silent {
            address: greeting::address(state.port).to_string(),
            waited_ms: milliseconds(JOIN_LIMIT),
            reason,
        }),
    }
}

fn managed(
    options: &Options,
    folder: Folder,
    users: File,
    state: State,
    started: bool,
) -> Result<Managed, ServerError> {
    if options.stay {
        // While the users' lock is held: the keeper looks for this file once it has the lock.
        folder::write_private(&folder.stay(), b"")?;
    }
    let token = state.token()?;
    Ok(Managed {
        state,
        token,
        folder,
        started,
        _users: users,
    })
}

/// Starts a keeper and takes its answer; `None` when another keeper turned out to have the folder.
fn start_keeper(
    program: Option<&Path>,
    folder: &Folder,
    orders: &Orders,
    patience: Duration,
) -> Result<Option<State>, ServerError> {
    let failed = |reason: String| ServerError::Keeper { reason };
    let log_path = folder.keeper_log();
    if fs::metadata(&log_path).is_ok_and(|found| found.len() > KEEPER_LOG_MAX_BYTES) {
        folder::remove_if_there(&log_path)?;
    }
    let log = keeper::open_log(&log_path)?;
    let program = match program {
        Some(program) => program.to_path_buf(),
        None => keeper::own_program().map_err(|error| failed(error.to_string()))?,
    };
    let mut line = serde_json::to_string(orders).map_err(|error| failed(error.to_string()))?;
    line.push('\n');
    let mut child = program::command(&program)
        .arg0("naq")
        .arg(KEEPER_ARGUMENT)
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
            "{} does not take its orders: {error}; is it naq?",
            program.display()
        )));
    }
    let answer = child
        .stdout
        .take()
        .map_or(Ok(Vec::new()), |out| read_line(out, patience));
    let parsed = answer.and_then(|bytes| {
        serde_json::from_slice::<Answer>(&bytes).map_err(|error| {
            let said = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
            format!(
                "{} gave no proper answer ({error}): {said:?}; its log is {}",
                program.display(),
                log_path.display()
            )
        })
    });
    match parsed {
        Ok(Answer::Ready(state)) => {
            reap(child, false);
            Ok(Some(*state))
        }
        Ok(Answer::Ahead) => {
            reap(child, false);
            Ok(None)
        }
        Ok(Answer::Held { waited_ms }) => {
            reap(child, false);
            Err(ServerError::Held {
                path: folder.lock(),
                waited_ms,
            })
        }
        Ok(Answer::NotStarted { reason }) => {
            reap(child, false);
            Err(ServerError::Start { reason })
        }
        Err(reason) => {
            reap(child, true);
            Err(failed(reason))
        }
    }
}

/// Waits for the keeper's end, on a thread, so that it does not stay a zombie in a process that
/// outlives it.
fn reap(mut child: Child, kill_first: bool) {
    if kill_first {
        let _already_gone = child.kill();
    }
    let waiting = thread::Builder::new()
        .name("naq-keeper-end".to_owned())
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
    while !line.contains(&b'\n') && line.len() < ANSWER_MAX_BYTES {
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
