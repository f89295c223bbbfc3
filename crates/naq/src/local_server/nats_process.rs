//! The nats-server process of a supervisor: its start at a free port, its end, and the errors in its log.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getppid};
use rand::Rng;

use naq_client::ServerProcess;
use naq_client::server_state::ServerState;

use super::certificate::{self, PinnedCertificate, RequiredProof};
use super::config_file::{ConfigFile, Port, SyncInterval};
use super::data_dir::{self, DataDir};
use super::error::ServerError;
use super::provision;
use super::server_info::{self, ServerInfo};
use super::subprocess;
use super::supervisor_log::{log_line, open_log};
use super::supervisor_protocol::{SUPERVISOR_ARGUMENT, SupervisorRequest};

/// The second argument, which makes it nats-server itself.
pub(super) const EXEC_ARGUMENT: &str = "become";

/// The argument for a program that has to be the pinned one, and that for any other.
const CHECK_PINNED: &str = "pinned";
const CHECK_NOTHING: &str = "any";

/// How long nats-server may take to stop by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How many ports to try if a free one is taken before nats-server binds it.
const PORT_ATTEMPTS: u32 = 8;

/// The range of free ports: below the one from which Linux assigns outgoing ports (from 32768), so that no
/// outgoing connection occupies the port while the server restarts.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How much of each log to search for errors, in bytes.
const LOG_TAIL_BYTES: u64 = 2_000;

/// An event for the supervisor.
pub(super) enum SupervisorEvent {
    /// A signal requested the end.
    StopRequested,
    /// nats-server ended.
    Exited(ExitStatus),
    /// The server has no users any more. The lock makes new users wait until the supervisor is gone.
    NoUsers(File),
}

/// The step between: asks the kernel to kill this process with its supervisor, checks a pinned program,
/// then executes nats-server.
///
/// This is a process of its own because the child itself must ask, between fork and exec, where Rust allows no
/// safe code. The setting survives exec (prctl(2), `PR_SET_PDEATHSIG`).
pub(super) fn exec_server(arguments: &[OsString]) -> i32 {
    let [supervisor, check, slack_ns, program, rest @ ..] = arguments else {
        log_line("this command is internal to naq and not for use on a command line");
        return 2;
    };
    // KILL, since TERM does not end a suspended server. It is sent only if the supervisor is killed, and
    // nats-server loses no acknowledged write by it.
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        log_line(&format!(
            "cannot tie nats-server to its supervisor: {error}"
        ));
        return 1;
    }
    // If the supervisor died before the call, the kernel will not send the signal.
    if getppid().to_string() != supervisor.to_string_lossy() {
        return 1;
    }
    let _still_blocked = SigSet::all().thread_unblock();
    // It only saves processor time, and survives exec (prctl(2), `PR_SET_TIMERSLACK`).
    #[cfg(target_os = "linux")]
    if let Some(Ok(slack_ns)) = slack_ns.to_str().map(str::parse) {
        let _unchanged = nix::sys::prctl::set_timerslack(slack_ns);
    }
    let error = if check == CHECK_PINNED {
        exec_pinned(Path::new(program), rest)
    } else {
        #[expect(clippy::disallowed_methods, reason = "becomes nats-server")]
        let error = Command::new(program).args(rest).exec();
        error.to_string()
    };
    log_line(&format!(
        "cannot run {}: {error}",
        Path::new(program).display()
    ));
    1
}

/// Executes the pinned program. Returns why it did not.
fn exec_pinned(program: &Path, arguments: &[OsString]) -> String {
    let file = match provision::open_pinned(program) {
        Ok(file) => file,
        Err(error) => return error.to_string(),
    };
    let text = |text: &[u8]| CString::new(text).unwrap_or_default();
    let argv: Vec<CString> = std::iter::once(program.as_os_str())
        .chain(arguments.iter().map(OsString::as_os_str))
        .map(|argument| text(argument.as_bytes()))
        .collect();
    let env: Vec<CString> = naq_client::environment()
        .iter()
        .map(|(name, value)| text(format!("{name}={value}").as_bytes()))
        .collect();
    // The descriptor that was checked is executed: the path may name another program by now.
    match nix::unistd::fexecve(file.as_fd(), &argv, &env) {
        Ok(never) => match never {},
        Err(errno) => errno.desc().to_owned(),
    }
}

/// GOMAXPROCS of nats-server: half the processors, which it shares with the jobs. On two processors, it spends
/// a fifth less per job with one thread than with two that wake each other. A server that waits for the disk
/// before each acknowledgement gets all of them: it does a fifth more with a thread that serves while another syncs.
fn server_threads(sync: SyncInterval) -> usize {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match sync {
        SyncInterval::EverySecond => processors.div_ceil(2),
        SyncInterval::Always => processors,
    }
}

/// GOGC of nats-server: how much its heap may grow between two collections, in percent of what is in use. Go's own
/// 100 collects four times as often, for a heap that is small.
const SERVER_GC_PERCENT: &str = "400";

/// GOMEMLIMIT of nats-server: from a quarter of the memory on it collects more often. `None` if the size is unknown.
fn server_memory_limit() -> Option<String> {
    let machine = nix::sys::sysinfo::sysinfo().ok()?.ram_total();
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|max| max.trim().parse::<u64>().ok());
    Some((machine.min(group.unwrap_or(u64::MAX)) / 4).to_string())
}

/// How late the kernel may wake nats-server after a pause, in nanoseconds. Its threads sleep for some microseconds
/// again and again while they look for work; with more slack the kernel joins these wake-ups, which takes a tenth off
/// its cost per job. What waits for a message or the disk is woken at once all the same.
fn timer_slack_ns(sync: SyncInterval) -> u64 {
    match sync {
        SyncInterval::EverySecond => 1_000_000,
        SyncInterval::Always => 200_000,
    }
}

/// A running nats-server.
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) started: Instant,
    /// `None` if the kernel does not show it.
    process: Option<ServerProcess>,
}

/// Why nats-server did not start.
pub(super) enum StartFailure {
    /// The port was taken before nats-server bound it.
    PortTaken(String),
    /// The supervisor must end. The event is in the channel again.
    Interrupted,
    /// Another reason, for which another port would not help.
    Other(String),
}

impl StartFailure {
    pub(super) fn text(self) -> String {
        match self {
            StartFailure::PortTaken(reason) | StartFailure::Other(reason) => reason,
            StartFailure::Interrupted => "it was stopped while it was starting".to_owned(),
        }
    }
}

/// The inputs of every start of nats-server.
pub(super) struct StartContext<'a> {
    pub(super) request: &'a SupervisorRequest,
    pub(super) folder: &'a DataDir,
    pub(super) lock: &'a File,
    pub(super) client_key: Option<&'a str>,
    pub(super) server_name: &'a str,
    pub(super) sender: &'a Sender<SupervisorEvent>,
    pub(super) events: &'a Receiver<SupervisorEvent>,
}

impl StartContext<'_> {
    /// Starts nats-server with this port, waits until it is ready, and writes the state file.
    pub(super) fn start_at_port(&self, port: u16) -> Result<(Child, ServerState), StartFailure> {
        let other = |error: ServerError| StartFailure::Other(error.to_string());
        // At each start: without the files, nats-server could not start again. Clients read the certificate
        // each time they connect.
        let certificate = self.certificate().map_err(other)?;
        let conf = ConfigFile {
            folder: self.folder,
            server_name: self.server_name,
            port,
            client_key: self.client_key,
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
        let proof = certificate.map(|certificate| RequiredProof {
            certificate,
            process: child.process.clone(),
        });
        let mut status = None;
        let mut interruption = None;
        let limit = Duration::from_millis(self.request.ready_timeout_ms);
        let ready =
            server_info::wait_until_ready(port, self.server_name, proof.as_ref(), limit, || {
                match self.events.try_recv() {
                    Ok(SupervisorEvent::Exited(ended)) => {
                        status = Some(ended);
                        Some(format!("it exited at once ({ended})"))
                    }
                    Ok(event @ (SupervisorEvent::StopRequested | SupervisorEvent::NoUsers(_))) => {
                        interruption = Some(event);
                        Some(String::new())
                    }
                    // Empty: the channel cannot be closed while the sender lives.
                    Err(_) => None,
                }
            });
        let reason = match ready {
            Ok(greeting) => {
                let state = self.state(port, &child, greeting);
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
            let _supervisor_ends = self.sender.send(event);
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

    /// The certificate of the server, which is made if the folder has none. `None` if the request says in
    /// another way who may connect.
    fn certificate(&self) -> Result<Option<PinnedCertificate>, ServerError> {
        if self.client_key.is_none() {
            return Ok(None);
        }
        certificate::ensure(self.folder)?;
        PinnedCertificate::read(&self.folder.certificate_file()).map(Some)
    }

    fn spawn(&self, conf: &Path) -> Result<Child, ServerError> {
        let log_path = self.folder.supervisor_log();
        let log = || -> Result<Stdio, ServerError> { Ok(open_log(&log_path)?.into()) };
        let lock_path = self.folder.lock();
        let lock = self
            .lock
            .try_clone()
            .map_err(ServerError::file("share", &lock_path))?;
        let program =
            subprocess::own_program().map_err(ServerError::file("find", Path::new("naq")))?;
        #[expect(clippy::disallowed_methods, reason = "starts nats-server")]
        let mut command = Command::new(program);
        let mut child = command
            .arg0("naq")
            .args([OsStr::new(SUPERVISOR_ARGUMENT), OsStr::new(EXEC_ARGUMENT)])
            .arg(process::id().to_string())
            .arg(if self.request.is_pinned {
                CHECK_PINNED
            } else {
                CHECK_NOTHING
            })
            .arg(timer_slack_ns(self.request.sync).to_string())
            .arg(&self.request.binary)
            .arg("-c")
            .arg(conf)
            .current_dir(self.folder.root())
            .env("GOMAXPROCS", server_threads(self.request.sync).to_string())
            .env("GOGC", SERVER_GC_PERCENT)
            .envs(server_memory_limit().map(|limit| ("GOMEMLIMIT", limit)))
            // nats-server reads nothing from it. The open file keeps the lock: if the supervisor is killed,
            // the folder stays locked until its server is gone too.
            .stdin(lock)
            .stdout(log()?)
            .stderr(log()?)
            .spawn()
            .map_err(ServerError::file("run", &self.request.binary))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        // before another thread may reap it
        let process = ServerProcess::of_pid(pid.as_raw());
        let sender = self.sender.clone();
        // The death signal is bound to the thread that forked: this one, which lives as long as the
        // supervisor. Another thread waits for the child.
        let watcher = thread::Builder::new()
            .name("naq-server-end".to_owned())
            .spawn(move || {
                let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0));
                let _supervisor_ends = sender.send(SupervisorEvent::Exited(status));
            });
        if let Err(error) = watcher {
            let _already_gone = kill(pid, Signal::SIGKILL);
            return Err(ServerError::file("watch", &self.request.binary)(error));
        }
        Ok(Child {
            pid,
            started: Instant::now(),
            process,
        })
    }

    fn state(&self, port: u16, child: &Child, greeting: ServerInfo) -> ServerState {
        #[expect(
            clippy::disallowed_methods,
            reason = "the supervisor records when nats-server started"
        )]
        let now: DateTime<Utc> = Utc::now();
        let age = chrono::Duration::from_std(child.started.elapsed()).unwrap_or_default();
        ServerState {
            url: format!("nats://{}", server_info::address(port)),
            port,
            pid: child.pid.as_raw(),
            process_identity: child
                .process
                .clone()
                .filter(|_| greeting.is_process_shown)
                .map(|process| process.identity),
            supervisor_pid: Pid::this().as_raw(),
            nkey_file: self.folder.nkey_file(),
            certificate_file: self.client_key.map(|_| self.folder.certificate_file()),
            version: greeting.version,
            binary: self.request.binary.clone(),
            server_name: self.server_name.to_owned(),
            started_at: now - age,
        }
    }
}

/// Starts the server at the first port that works.
pub(super) fn start_at_first_free_port(
    launch: &StartContext<'_>,
    wanted: Port,
) -> Result<(u16, Child, ServerState), String> {
    let mut last = String::new();
    for attempt in 0..PORT_ATTEMPTS {
        let port = match wanted {
            Port::Fixed(port) if attempt == 0 => {
                check_bindable(port).map_err(|error| format!("cannot use port {port}: {error}"))?;
                port
            }
            Port::Fixed(_) => break,
            Port::Preferred(port) if attempt == 0 && check_bindable(port).is_ok() => port,
            Port::Preferred(_) | Port::Free => {
                free_port().map_err(|error| format!("no free port: {error}"))?
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

/// Asks nats-server to stop, and kills it after the grace.
pub(super) fn stop(
    child: &Child,
    sender: &Sender<SupervisorEvent>,
    events: &Receiver<SupervisorEvent>,
) {
    // A suspended process (SIGSTOP) receives TERM only after CONT.
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

/// Waits until nats-server has exited. Other events are sent again afterwards, for the main loop.
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
        let _supervisor_ends = sender.send(other);
    }
    ended
}

fn write_state(folder: &DataDir, state: &ServerState) -> Result<(), ServerError> {
    let mut text = serde_json::to_vec_pretty(state)
        .map_err(|error| ServerError::file("write", &folder.state())(error.into()))?;
    text.push(b'\n');
    data_dir::write_private(&folder.state(), &text)
}

/// nats-server's errors: the log lines marked as errors, else the last lines.
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
