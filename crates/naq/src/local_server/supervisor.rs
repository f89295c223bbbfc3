//! The supervisor: the process that a managed nats-server belongs to.
//!
//! It is this same program, started as `naq __server-supervisor` with its request as one JSON line on
//! stdin; it answers with one JSON line on stdout and from then on has nothing open to anybody.
//! It has one thread per thing to wait for (a signal, the server's end, the users' end), each
//! blocked in the kernel, and one that decides.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::{Mode as FileMode, umask};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout, getppid, setsid};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::config_file::{ConfigFile, Port, ServerLimits, SyncInterval};
use super::data_dir::{self, DataDir};
use super::error::ServerError;
use super::file_lock::{self, LockMode};
use super::server_info;
use super::server_state;
use naq_client::server_state::ServerState;
use naq_core::ExponentialBackoff;

/// The program's first argument that makes it a supervisor: `main` hands over to [`supervisor_main`] when
/// it sees it, before it reads anything else.
pub const SUPERVISOR_ARGUMENT: &str = "__server-supervisor";

/// The second argument that makes it the server itself.
const EXEC_ARGUMENT: &str = "become";

/// How long nats-server may take to stop by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A server that lived for this long failed for a new reason, not for the last one again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Pauses before restarts of a server that keeps failing.
const RESTART_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// How often another port is tried when the chosen one is taken in the meantime.
const PORT_ATTEMPTS: u32 = 8;

/// Where free ports are looked for: below the range that Linux hands out by itself (from 32768),
/// so that no outgoing connection sits on the port while the server is being restarted.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The longest line of request.
const REQUEST_BYTES_MAX: u64 = 1024 * 1024;

/// How much of the logs an error quotes.
const LOG_TAIL_BYTES: u64 = 2_000;

/// What a supervisor is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SupervisorRequest {
    pub(super) binary: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) port: Port,
    pub(super) sync: SyncInterval,
    pub(super) limits: ServerLimits,
    pub(super) extra_config: String,
    pub(super) restarts_max: u32,
    pub(super) remove_data_dir: bool,
    pub(super) ready_timeout_ms: u64,
    pub(super) lock_timeout_ms: u64,
}

/// What a supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SupervisorReply {
    /// The server is ready.
    Ready(Box<ServerState>),
    /// Another supervisor has the folder, and a server that can be joined.
    AlreadyRunning,
    /// Somebody else has the folder.
    Locked {
        /// How long was waited.
        waited_ms: u64,
    },
    /// nats-server did not start.
    NotStarted {
        /// Why, as text for the user.
        reason: String,
    },
}

/// What the supervisor decides upon.
enum SupervisorEvent {
    /// A signal asked it to end.
    StopRequested,
    /// nats-server ended.
    Exited(ExitStatus),
    /// Nobody uses the server any more; the lock keeps newcomers waiting until the supervisor is gone.
    NoUsers(File),
}

/// Runs this process as a server's supervisor, or as the step between a supervisor and its nats-server,
/// by the arguments after [`SUPERVISOR_ARGUMENT`]. Never returns.
///
/// To be called first thing in `main`, while there is one thread.
pub fn supervisor_main() -> ! {
    let arguments: Vec<OsString> = std::env::args_os().skip(2).collect();
    let code = match arguments.first() {
        Some(first) if first == EXEC_ARGUMENT => exec_server(&arguments[1..]),
        _ => run_supervisor(),
    };
    process::exit(code)
}

/// The step between: asks to end with the supervisor, then becomes nats-server.
///
/// A process of its own because the request must be made by the child itself, between fork and
/// exec, where Rust lets no safe code run. The request survives exec (prctl(2),
/// `PR_SET_PDEATHSIG`).
fn exec_server(arguments: &[OsString]) -> i32 {
    let [supervisor, program, rest @ ..] = arguments else {
        log_line("this is a part of naq's own workings and takes no part in a command line");
        return 2;
    };
    // KILL, since TERM would not end a server that stands still. It is only for a supervisor that was
    // killed itself, and what nats-server has acknowledged survives it.
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        log_line(&format!(
            "cannot tie nats-server to its supervisor: {error}"
        ));
        return 1;
    }
    // A supervisor that died before the request was made will not be noticed any more.
    if getppid().to_string() != supervisor.to_string_lossy() {
        return 1;
    }
    let _still_blocked = SigSet::all().thread_unblock();
    #[expect(clippy::disallowed_methods, reason = "becomes nats-server")]
    let error = Command::new(program).args(rest).exec();
    log_line(&format!(
        "cannot run {}: {error}",
        Path::new(program).display()
    ));
    1
}

/// How many threads of nats-server run at once: half the processors. It shares them with the jobs,
/// and on two it spends a fifth less a job with one thread than with two that wake each other.
fn server_threads() -> usize {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.div_ceil(2)
}

/// Writes a line to stderr, which is the supervisor's log.
fn log_line(text: &str) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the supervisor is an edge: it stamps its log"
    )]
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let _nowhere_else_to_say_it =
        writeln!(io::stderr(), "{now} supervisor {}: {text}", process::id());
}

fn run_supervisor() -> i32 {
    // A session of its own: a Ctrl-C at the user's terminal is for the user's program, which
    // still needs the server while it ends.
    let _already_leader = setsid();
    umask(FileMode::from_bits_truncate(0o077));
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    // Before the first thread, so that every thread has them blocked and one waits for them.
    if let Err(error) = signals.thread_block() {
        log_line(&format!("cannot block signals: {error}"));
        return 1;
    }
    let mut line = String::new();
    if let Err(error) = io::stdin()
        .lock()
        .take(REQUEST_BYTES_MAX)
        .read_line(&mut line)
    {
        log_line(&format!("cannot read its request: {error}"));
        return 2;
    }
    let request: SupervisorRequest = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            log_line(&format!("cannot understand its request: {error}"));
            return 2;
        }
    };
    let (answer, supervisor) = match Supervisor::start(request, signals) {
        Ok((state, supervisor)) => (SupervisorReply::Ready(Box::new(state)), Some(supervisor)),
        Err(answer) => (answer, None),
    };
    if !send_reply(&answer) {
        log_line("whoever wanted a server is gone");
    }
    match supervisor {
        Some(supervisor) => supervisor.run(),
        None => 1,
    }
}

/// Gives the answer and lets go of stdin and stdout. False when nobody takes it, which is no
/// reason to do anything: a user who is gone has also let go of the users' lock.
fn send_reply(answer: &SupervisorReply) -> bool {
    let told = serde_json::to_string(answer).is_ok_and(|line| {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")
            .and_then(|()| stdout.flush())
            .is_ok()
    });
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _kept_open = dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
    }
    told
}

/// A nats-server process.
struct Child {
    pid: Pid,
    started: Instant,
}

struct Supervisor {
    request: SupervisorRequest,
    folder: DataDir,
    /// Held for as long as the supervisor lives, and by nats-server too, as its stdin.
    lock: File,
    token: String,
    server_name: String,
    port: u16,
    /// `None` between its end and its next start.
    child: Option<Child>,
    sender: Sender<SupervisorEvent>,
    events: Receiver<SupervisorEvent>,
}

/// Why nats-server is not there after an attempt to start it.
enum StartFailure {
    /// The port was taken between choosing it and using it.
    PortTaken(String),
    /// There is a reason to end, which is among the events again.
    Interrupted,
    /// Anything else, which another port would not cure.
    Other(String),
}

impl StartFailure {
    fn text(self) -> String {
        match self {
            StartFailure::PortTaken(reason) | StartFailure::Other(reason) => reason,
            StartFailure::Interrupted => "it was told to stop while it was starting".to_owned(),
        }
    }
}

/// What every attempt to start nats-server needs.
struct StartContext<'a> {
    request: &'a SupervisorRequest,
    folder: &'a DataDir,
    lock: &'a File,
    token: &'a str,
    server_name: &'a str,
    sender: &'a Sender<SupervisorEvent>,
    events: &'a Receiver<SupervisorEvent>,
}

impl StartContext<'_> {
    /// Starts nats-server at this port, waits until it is ready and writes the state file.
    fn start_at_port(&self, port: u16) -> Result<(Child, ServerState), StartFailure> {
        let other = |error: ServerError| StartFailure::Other(error.to_string());
        let conf = ConfigFile {
            folder: self.folder,
            server_name: self.server_name,
            port,
            token: self.token,
            sync: self.request.sync,
            limits: &self.request.limits,
            extra: &self.request.extra_config,
        };
        let conf_path = self.folder.config_file();
        data_dir::write_private(&conf_path, conf.render().as_bytes()).map_err(other)?;
        let logs = [self.folder.server_log(), self.folder.supervisor_log()];
        let logs = logs.map(|path| {
            let from_bytes = fs::metadata(&path).map_or(0, |found| found.len());
            (path, from_bytes)
        });
        let child = self.spawn(&conf_path).map_err(other)?;
        let mut status = None;
        let mut interruption = None;
        let limit = Duration::from_millis(self.request.ready_timeout_ms);
        let ready = server_info::wait_until_ready(port, self.server_name, limit, || {
            match self.events.try_recv() {
                Ok(SupervisorEvent::Exited(ended)) => {
                    status = Some(ended);
                    Some(format!("it ended at once ({ended})"))
                }
                Ok(event @ (SupervisorEvent::StopRequested | SupervisorEvent::NoUsers(_))) => {
                    interruption = Some(event);
                    Some(String::new())
                }
                // The sender lives, so this is only that there is nothing.
                Err(_) => None,
            }
        });
        let reason = match ready {
            Ok(greeting) => {
                let state = self.state(port, &child, greeting.version);
                match write_state(self.folder, &state) {
                    Ok(()) => return Ok((child, state)),
                    Err(error) => error.to_string(),
                }
            }
            Err(reason) => reason,
        };
        if status.is_none() {
            stop(&child, self.sender, self.events);
        }
        if let Some(event) = interruption {
            let _keeper_ends = self.sender.send(event);
            return Err(StartFailure::Interrupted);
        }
        let said = error_lines(&logs);
        let taken = status.is_some() && said.contains("address already in use");
        let reason = if said.is_empty() {
            reason
        } else {
            format!("{reason}\n{said}")
        };
        Err(if taken {
            StartFailure::PortTaken(reason)
        } else {
            StartFailure::Other(reason)
        })
    }

    fn spawn(&self, conf: &Path) -> Result<Child, ServerError> {
        let log_path = self.folder.supervisor_log();
        let log = || -> Result<Stdio, ServerError> { Ok(open_log(&log_path)?.into()) };
        let lock_path = self.folder.lock();
        let lock = self
            .lock
            .try_clone()
            .map_err(ServerError::file("share", &lock_path))?;
        let program = own_program().map_err(ServerError::file("find", Path::new("naq")))?;
        #[expect(clippy::disallowed_methods, reason = "starts nats-server")]
        let mut command = Command::new(program);
        let mut child = command
            .arg0("naq")
            .args([OsStr::new(SUPERVISOR_ARGUMENT), OsStr::new(EXEC_ARGUMENT)])
            .arg(process::id().to_string())
            .arg(&self.request.binary)
            .arg("-c")
            .arg(conf)
            .current_dir(self.folder.root())
            .env("GOMAXPROCS", server_threads().to_string())
            // nats-server reads nothing there. It holds the lock by it: a supervisor that is killed
            // leaves the folder locked until its server is gone too.
            .stdin(lock)
            .stdout(log()?)
            .stderr(log()?)
            .spawn()
            .map_err(ServerError::file("run", &self.request.binary))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        let sender = self.sender.clone();
        // The request to end with the parent is bound to the parent's thread that forked: this
        // one, which stays. Waiting is another's.
        let watcher = thread::Builder::new()
            .name("naq-server-end".to_owned())
            .spawn(move || {
                let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0));
                let _keeper_ends = sender.send(SupervisorEvent::Exited(status));
            });
        if let Err(error) = watcher {
            let _already_gone = kill(pid, Signal::SIGKILL);
            return Err(ServerError::file("watch", &self.request.binary)(error));
        }
        Ok(Child {
            pid,
            started: Instant::now(),
        })
    }

    fn state(&self, port: u16, child: &Child, version: String) -> ServerState {
        #[expect(
            clippy::disallowed_methods,
            reason = "the supervisor is an edge: it writes down when"
        )]
        let now: DateTime<Utc> = Utc::now();
        let age = chrono::Duration::from_std(child.started.elapsed()).unwrap_or_default();
        ServerState {
            url: format!("nats://{}", server_info::address(port)),
            port,
            pid: child.pid.as_raw(),
            supervisor_pid: Pid::this().as_raw(),
            token_file: self.folder.token_file(),
            version,
            binary: self.request.binary.clone(),
            server_name: self.server_name.to_owned(),
            started_at: now - age,
        }
    }
}

impl Supervisor {
    /// Takes the folder and starts the server.
    fn start(
        request: SupervisorRequest,
        signals: SigSet,
    ) -> Result<(ServerState, Supervisor), SupervisorReply> {
        let failed = |error: ServerError| SupervisorReply::NotStarted {
            reason: error.to_string(),
        };
        let folder = DataDir::open(&request.data_dir).map_err(failed)?;
        let limit = Duration::from_millis(request.lock_timeout_ms);
        // A supervisor whose starter died while it started may be ahead; it stays for the sake of the
        // one who waits here. One that is stopping has no state file any more.
        let nobody_ahead = || {
            server_state::read(&folder)
                .is_none_or(|state| !server_state::is_supervisor(state.supervisor_pid))
        };
        let lock = match file_lock::acquire_while(
            &folder.lock(),
            LockMode::Exclusive,
            limit,
            nobody_ahead,
        ) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(SupervisorReply::AlreadyRunning),
            Err(ServerError::Locked { waited_ms, .. }) => {
                return Err(SupervisorReply::Locked { waited_ms });
            }
            Err(error) => return Err(failed(error)),
        };
        // With the lock held, a state file can only be a dead supervisor's.
        data_dir::remove_if_there(&folder.state()).map_err(failed)?;
        let token = folder.token().map_err(failed)?;
        let (sender, events) = mpsc::channel();
        wait_for_signals(signals, sender.clone()).map_err(|error| SupervisorReply::NotStarted {
            reason: format!("cannot start a thread: {error}"),
        })?;
        let server_name = format!("naq-{:016x}", rand::rng().random::<u64>());
        let launch = StartContext {
            request: &request,
            folder: &folder,
            lock: &lock,
            token: &token,
            server_name: &server_name,
            sender: &sender,
            events: &events,
        };
        let (port, child, state) = start_at_first_free_port(&launch, request.port)
            .map_err(|reason| SupervisorReply::NotStarted { reason })?;
        wait_for_users(&folder, sender.clone()).map_err(|error| SupervisorReply::NotStarted {
            reason: format!("cannot start a thread: {error}"),
        })?;
        log_line(&format!(
            "nats-server {} is ready at port {port}",
            state.version
        ));
        let supervisor = Supervisor {
            request,
            folder,
            lock,
            token,
            server_name,
            port,
            child: Some(child),
            sender,
            events,
        };
        Ok((state, supervisor))
    }

    /// Keeps the server until told, or until nobody uses it; the exit code.
    fn run(mut self) -> i32 {
        let mut failures = 0_u32;
        loop {
            match self.events.recv() {
                Ok(SupervisorEvent::Exited(status)) => {
                    log_line(&format!("nats-server ended ({status})"));
                    if let Some(child) = self.child.take()
                        && child.started.elapsed() >= STABLE_AFTER
                    {
                        failures = 0;
                    }
                }
                Ok(SupervisorEvent::StopRequested) | Err(_) => return self.shut_down(None),
                Ok(SupervisorEvent::NoUsers(users)) => return self.shut_down(Some(users)),
            }
            // Until it is back, or one of the two reasons to end, or enough is enough.
            loop {
                failures += 1;
                if failures > self.request.restarts_max {
                    log_line("it is not started again");
                    let _stale = data_dir::remove_if_there(&self.folder.state());
                    return 1;
                }
                let pause = RESTART_BACKOFF.pause(failures, rand::random());
                match self.events.recv_timeout(pause) {
                    Ok(SupervisorEvent::NoUsers(users)) => return self.shut_down(Some(users)),
                    Ok(SupervisorEvent::StopRequested) | Err(RecvTimeoutError::Disconnected) => {
                        return self.shut_down(None);
                    }
                    Ok(SupervisorEvent::Exited(_)) | Err(RecvTimeoutError::Timeout) => {}
                }
                match self.launch().start_at_port(self.port) {
                    Ok((child, _)) => {
                        log_line(&format!("nats-server is back as {}", child.pid));
                        self.child = Some(child);
                        break;
                    }
                    // The outer loop meets the reason.
                    Err(StartFailure::Interrupted) => break,
                    Err(failure) => {
                        log_line(&format!("nats-server did not start: {}", failure.text()));
                    }
                }
            }
        }
    }

    fn launch(&self) -> StartContext<'_> {
        StartContext {
            request: &self.request,
            folder: &self.folder,
            lock: &self.lock,
            token: &self.token,
            server_name: &self.server_name,
            sender: &self.sender,
            events: &self.events,
        }
    }

    /// Stops the server and ends. `users` is the users' lock, where nobody uses the server.
    fn shut_down(self, users: Option<File>) -> i32 {
        // First of all, so that nobody joins a server that is going: who finds no state file
        // starts a supervisor, which waits for the folder's lock.
        for path in [self.folder.state(), self.folder.stay()] {
            if let Err(error) = data_dir::remove_if_there(&path) {
                log_line(&error.to_string());
            }
        }
        if let Some(child) = &self.child {
            stop(child, &self.sender, &self.events);
        }
        log_line("nats-server has been stopped");
        if self.request.remove_data_dir && users.is_some() {
            let _left_behind = fs::remove_dir_all(self.folder.root());
        }
        0
    }
}

/// Starts the server at the first port that works out.
fn start_at_first_free_port(
    launch: &StartContext<'_>,
    wanted: Port,
) -> Result<(u16, Child, ServerState), String> {
    let mut last = String::new();
    for attempt in 0..PORT_ATTEMPTS {
        let port = match wanted {
            Port::Fixed(port) if attempt == 0 => {
                check_bindable(port)
                    .map_err(|error| format!("port {port} cannot be used: {error}"))?;
                port
            }
            Port::Fixed(_) => break,
            Port::Preferred(port) if attempt == 0 && check_bindable(port).is_ok() => port,
            Port::Preferred(_) | Port::Free => {
                free_port().map_err(|error| format!("no port is free: {error}"))?
            }
        };
        match launch.start_at_port(port) {
            Ok((child, state)) => return Ok((port, child, state)),
            Err(StartFailure::PortTaken(reason)) => last = reason,
            Err(failure) => return Err(failure.text()),
        }
    }
    Err(last)
}

fn check_bindable(port: u16) -> io::Result<()> {
    TcpListener::bind(server_info::address(port)).map(drop)
}

fn free_port() -> io::Result<u16> {
    for _ in 0..64 {
        let port = rand::rng().random_range(FREE_PORTS);
        if check_bindable(port).is_ok() {
            return Ok(port);
        }
    }
    Ok(TcpListener::bind(server_info::address(0))?
        .local_addr()?
        .port())
}

/// Asks nats-server to stop, and after the grace makes it.
fn stop(child: &Child, sender: &Sender<SupervisorEvent>, events: &Receiver<SupervisorEvent>) {
    // A stopped (SIGSTOP) process takes the signal only when it continues.
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        let _already_gone = kill(child.pid, signal);
    }
    if !wait_for_exit(sender, events, STOP_GRACE) {
        log_line(&format!(
            "nats-server {} does not stop; killing it",
            child.pid
        ));
        let _already_gone = kill(child.pid, Signal::SIGKILL);
        wait_for_exit(sender, events, STOP_GRACE);
    }
}

/// Waits for nats-server's end; what else happens meanwhile is put back for whoever decides next.
fn wait_for_exit(
    sender: &Sender<SupervisorEvent>,
    events: &Receiver<SupervisorEvent>,
    limit: Duration,
) -> bool {
    let start = Instant::now();
    let mut others = Vec::new();
    let ended = loop {
        match events.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(SupervisorEvent::Exited(_)) => break true,
            Ok(other) => others.push(other),
            Err(_) => break false,
        }
    };
    for other in others {
        let _keeper_ends = sender.send(other);
    }
    ended
}

fn wait_for_signals(signals: SigSet, sender: Sender<SupervisorEvent>) -> io::Result<()> {
    let wait = move || {
        loop {
            match signals.wait() {
                // The terminal it was started from has gone; that is what its session is for.
                Ok(Signal::SIGHUP) => {}
                Ok(_) => {
                    if sender.send(SupervisorEvent::StopRequested).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    };
    thread::Builder::new()
        .name("naq-signals".to_owned())
        .spawn(wait)
        .map(drop)
}

/// Says when the last user has gone, unless the server is to stay.
fn wait_for_users(folder: &DataDir, sender: Sender<SupervisorEvent>) -> io::Result<()> {
    let (users, stay) = (folder.users(), folder.stay());
    let wait = move || {
        let taken = file_lock::open(&users)
            .and_then(|file| file_lock::wait(&users, &file, LockMode::Exclusive).map(|()| file));
        match taken {
            // Whoever makes it stay does so while holding the lock, so this is the last word.
            Ok(_) if stay.exists() => {}
            Ok(file) => {
                let _keeper_ends = sender.send(SupervisorEvent::NoUsers(file));
            }
            Err(error) => {
                log_line(&format!("cannot wait for the users: {error}"));
                let _keeper_ends = sender.send(SupervisorEvent::StopRequested);
            }
        }
    };
    thread::Builder::new()
        .name("naq-users".to_owned())
        .spawn(wait)
        .map(drop)
}

fn write_state(folder: &DataDir, state: &ServerState) -> Result<(), ServerError> {
    let mut text = serde_json::to_vec_pretty(state)
        .map_err(|error| ServerError::file("write", &folder.state())(error.into()))?;
    text.push(b'\n');
    data_dir::write_private(&folder.state(), &text)
}

/// Opens a log for appending, mode 0600.
pub(super) fn open_log(path: &Path) -> Result<File, ServerError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(ServerError::file("open", path))
}

/// What nats-server said went wrong: the lines marked as errors, else the last ones.
fn error_lines(logs: &[(PathBuf, u64)]) -> String {
    let mut said = Vec::new();
    for (path, from_bytes) in logs {
        let text = data_dir::tail(path, *from_bytes, LOG_TAIL_BYTES);
        let lines: Vec<&str> = text.lines().collect();
        let marked = |line: &&str| {
            ["[FTL]", "[ERR]", "nats-server: "]
                .iter()
                .any(|m| line.contains(m))
        };
        let errors: Vec<&str> = lines.iter().copied().filter(marked).collect();
        let chosen = if errors.is_empty() { lines } else { errors };
        said.extend(
            chosen[chosen.len().saturating_sub(5)..]
                .iter()
                .map(|line| format!("  {line}")),
        );
    }
    said.join("\n")
}

/// This program, as something that can be run.
pub(super) fn own_program() -> io::Result<PathBuf> {
    // Right even after the file has been replaced by an upgrade.
    let link = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() {
        return Ok(link.to_path_buf());
    }
    std::env::current_exe()
}
