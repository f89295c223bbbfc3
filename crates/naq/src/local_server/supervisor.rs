//! The supervisor: the parent process of a managed nats-server.
//!
//! It is this program, started as `naq __server-supervisor` with its request as one JSON line on standard
//! input. It replies with one JSON line on standard output and closes both. One thread blocks in the kernel
//! for each event (a signal, the end of the server, the end of its users), and one thread decides.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::process;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use naq_core::ExponentialBackoff;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode as FileMode, umask};
use nix::unistd::{dup2_stdin, dup2_stdout, setsid};
use rand::Rng;

use super::config_file::Access;
use super::data_dir::{self, DataDir};
use super::error::ServerError;
use super::file_lock::{self, LockMode};
use super::nats_process::{
    self, Child, EXEC_ARGUMENT, StartContext, StartFailure, SupervisorEvent,
};
use super::server_state;
use super::supervisor_log::log_line;
use super::supervisor_protocol::{SupervisorReply, SupervisorRequest, is_supervisor};
use naq_client::server_state::ServerState;

/// A server that lived for this long did not fail for the reason of the previous failure.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Delays before restarts of a server that keeps failing.
const RESTART_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Maximum length of a request, in bytes.
const REQUEST_BYTES_MAX: u64 = 1024 * 1024;

/// Runs this process as a supervisor, or as the step between a supervisor and its nats-server, depending on
/// the arguments after [`SUPERVISOR_ARGUMENT`](super::SUPERVISOR_ARGUMENT). Never returns.
///
/// Call it first in `main`, while the process has one thread.
pub fn supervisor_main() -> ! {
    let arguments: Vec<OsString> = std::env::args_os().skip(2).collect();
    let code = match arguments.first() {
        Some(first) if first == EXEC_ARGUMENT => nats_process::exec_server(&arguments[1..]),
        _ => run_supervisor(),
    };
    process::exit(code)
}

fn run_supervisor() -> i32 {
    // A session of its own: Ctrl-C in the user's terminal is for the user's program, which still needs the
    // server while it ends.
    let _already_leader = setsid();
    umask(FileMode::from_bits_truncate(0o077));
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    // Before the first thread, so that all threads inherit the mask and only one waits for the signals.
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
        log_line(&format!("cannot read the request: {error}"));
        return 2;
    }
    let request: SupervisorRequest = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            log_line(&format!("invalid request: {error}"));
            return 2;
        }
    };
    let (reply, supervisor) = match Supervisor::start(request, signals) {
        Ok((state, supervisor)) => (SupervisorReply::Ready(Box::new(state)), Some(supervisor)),
        Err(reply) => (reply, None),
    };
    if !send_reply(&reply) {
        log_line("the process that started this supervisor is gone");
    }
    match supervisor {
        Some(supervisor) => supervisor.run(),
        None => 1,
    }
}

/// Sends the reply, and replaces standard input and output by `/dev/null`. Returns false if nobody reads it.
/// That needs no action: a dead user has released its lock on `users`.
fn send_reply(reply: &SupervisorReply) -> bool {
    let sent = serde_json::to_string(reply).is_ok_and(|line| {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")
            .and_then(|()| stdout.flush())
            .is_ok()
    });
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _kept_open = dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
    }
    sent
}

struct Supervisor {
    request: SupervisorRequest,
    folder: DataDir,
    /// Locked as long as the supervisor lives, and as long as nats-server does, whose standard input it is.
    lock: File,
    /// The public key of the clients. `None` if the request says in another way who may connect.
    client_key: Option<String>,
    server_name: String,
    port: u16,
    /// `None` between its end and its next start.
    child: Option<Child>,
    sender: Sender<SupervisorEvent>,
    events: Receiver<SupervisorEvent>,
}

impl Supervisor {
    /// Locks the folder and starts the server.
    fn start(
        request: SupervisorRequest,
        signals: SigSet,
    ) -> Result<(ServerState, Supervisor), SupervisorReply> {
        let failed = |error: ServerError| SupervisorReply::NotStarted {
            reason: error.to_string(),
        };
        let folder = DataDir::open(&request.data_dir).map_err(failed)?;
        let limit = Duration::from_millis(request.lock_timeout_ms);
        // If the process that started another supervisor has died meanwhile, that supervisor may own the
        // folder; the user that waits here keeps it running. A stopping supervisor has removed its state file.
        let nobody_else_starts =
            || server_state::read(&folder).is_none_or(|state| !is_supervisor(state.supervisor_pid));
        let lock = match file_lock::acquire_while(
            &folder.lock(),
            LockMode::Exclusive,
            limit,
            nobody_else_starts,
        ) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(SupervisorReply::AlreadyRunning),
            Err(ServerError::Locked { waited_ms, .. }) => {
                return Err(SupervisorReply::Locked { waited_ms });
            }
            Err(error) => return Err(failed(error)),
        };
        // While this process has the lock, a state file can only be that of a dead supervisor.
        data_dir::remove_if_there(&folder.state()).map_err(failed)?;
        let client_key = match request.access {
            Access::Key => Some(folder.client_key().map_err(failed)?),
            Access::Configured => None,
        };
        data_dir::remove_if_there(&folder.former_token_file()).map_err(failed)?;
        let (sender, events) = mpsc::channel();
        wait_for_signals(signals, sender.clone()).map_err(|error| SupervisorReply::NotStarted {
            reason: format!("cannot start a thread: {error}"),
        })?;
        let server_name = format!("naq-{:016x}", rand::rng().random::<u64>());
        let launch = StartContext {
            request: &request,
            folder: &folder,
            lock: &lock,
            client_key: client_key.as_deref(),
            server_name: &server_name,
            sender: &sender,
            events: &events,
        };
        let (port, child, state) = nats_process::start_at_first_free_port(&launch, request.port)
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
            client_key,
            server_name,
            port,
            child: Some(child),
            sender,
            events,
        };
        Ok((state, supervisor))
    }

    /// Supervises the server until it is stopped or has no users. Returns the exit code.
    fn run(mut self) -> i32 {
        let mut failures = 0_u32;
        loop {
            match self.events.recv() {
                Ok(SupervisorEvent::Exited(status)) => {
                    log_line(&format!("nats-server exited ({status})"));
                    if let Some(child) = self.child.take()
                        && child.started.elapsed() >= STABLE_AFTER
                    {
                        failures = 0;
                    }
                }
                Ok(SupervisorEvent::StopRequested) | Err(_) => return self.shut_down(None),
                Ok(SupervisorEvent::NoUsers(users)) => return self.shut_down(Some(users)),
            }
            // Until it runs again, the supervisor must end, or the restarts are used up.
            loop {
                failures += 1;
                if failures > self.request.restarts_max {
                    log_line("giving up on nats-server: too many restarts");
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
                        log_line(&format!("nats-server restarted as process {}", child.pid));
                        self.child = Some(child);
                        break;
                    }
                    // The outer loop receives the event again.
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
            client_key: self.client_key.as_deref(),
            server_name: &self.server_name,
            sender: &self.sender,
            events: &self.events,
        }
    }

    /// Stops the server and ends. `users` is the exclusive lock on the users, if the server has none.
    fn shut_down(self, users: Option<File>) -> i32 {
        // First, so that no user joins a server that is stopping: without a state file, a user starts
        // another supervisor, which waits for the folder's lock.
        for path in [self.folder.state(), self.folder.stay()] {
            if let Err(error) = data_dir::remove_if_there(&path) {
                log_line(&error.to_string());
            }
        }
        if let Some(child) = &self.child {
            nats_process::stop(child, &self.sender, &self.events);
        }
        log_line("nats-server stopped");
        if self.request.remove_data_dir && users.is_some() {
            let _left_behind = fs::remove_dir_all(self.folder.root());
        }
        0
    }
}

fn wait_for_signals(signals: SigSet, sender: Sender<SupervisorEvent>) -> io::Result<()> {
    let wait = move || {
        loop {
            match signals.wait() {
                // The terminal was closed. A supervisor survives that.
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

/// Sends an event when the last user is gone, unless the server stays.
fn wait_for_users(folder: &DataDir, sender: Sender<SupervisorEvent>) -> io::Result<()> {
    let (users, stay) = (folder.users(), folder.stay());
    let wait = move || {
        let taken = file_lock::open(&users)
            .and_then(|file| file_lock::wait(&users, &file, LockMode::Exclusive).map(|()| file));
        match taken {
            // A user creates the file while it shares the lock, so the file is final now.
            Ok(_) if stay.exists() => {}
            Ok(file) => {
                let _supervisor_ends = sender.send(SupervisorEvent::NoUsers(file));
            }
            Err(error) => {
                log_line(&format!("cannot wait for the users: {error}"));
                let _supervisor_ends = sender.send(SupervisorEvent::StopRequested);
            }
        }
    };
    thread::Builder::new()
        .name("naq-users".to_owned())
        .spawn(wait)
        .map(drop)
}
