//! The spawner: a small single-threaded process that starts the jobs of a worker,
//! waits for them and kills their process trees. It never reads a job's output and
//! has no notion of queues. When its worker dies, it kills what it started and
//! exits.

mod deadline_timer;
pub(super) mod descendants;
mod diagnose;
mod job;
mod launch;
mod memory;
mod serve;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::spawner_setup::SpawnerSetup;
use super::sys::inherited_fds::inherit_spawner_socket;
use super::sys::keyring::join_new_session_keyring;
use super::sys::signals::default_dispositions;
use super::sys::socket::{Receiver, send};
use super::wire::{MAGIC, Reader, Writer, to_spawner, to_worker};
use launch::{Launcher, SetupError};
use serve::Spawner;

/// The main function of the hidden subcommand `naq __spawner`. Call it first in
/// `main`, before arguments are parsed and before any thread exists. Standard input
/// is the socket to the worker.
pub fn spawner_main() -> ! {
    match run() {
        Ok(()) => std::process::exit(0),
        Err(_) => std::process::exit(70),
    }
}

fn run() -> Result<(), Errno> {
    let socket = inherit_spawner_socket()?;
    // Every signal stays blocked: SIGCHLD is read from a descriptor, and Ctrl-C on
    // the worker's terminal is for the worker. Children inherit the dispositions of
    // this process, so these are the defaults.
    default_dispositions();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    prctl::set_child_subreaper(true)?;
    let _ = prctl::set_name(c"naq-spawner");
    // Of a worker that was killed nobody is left to continue this process, should a job have stopped
    // it.
    prctl::set_pdeathsig(Signal::SIGCONT)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
    join_new_session_keyring();
    let mut receiver = Receiver::new();
    let Some(setup) = hello(&socket, &mut receiver)? else {
        return Ok(());
    };
    // Children inherit it. Landlock needs it, too.
    if !setup.allow_setuid {
        prctl::set_no_new_privs()?;
    }
    let resource_wait_max = Duration::from_millis(setup.resource_wait_max_ms);
    let launcher = match Launcher::new(setup) {
        Ok(launcher) => launcher,
        Err(SetupError { errno, why }) => {
            ready(&socket, errno as i32, &why)?;
            return Err(errno);
        }
    };
    ready(&socket, 0, "")?;
    Spawner::new(socket, receiver, launcher, resource_wait_max)?.serve()
}

/// Waits for the worker's first message, the setup. Returns `None` if the worker is
/// gone.
fn hello(socket: &OwnedFd, receiver: &mut Receiver) -> Result<Option<SpawnerSetup>, Errno> {
    poll(
        &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    )?;
    let message = receiver.receive(socket.as_fd())?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let mut reader = Reader::new(&receiver.bytes[..message.bytes]);
    let mut parse = || {
        if reader.u8()? != to_spawner::HELLO || reader.u32()? != MAGIC {
            return Err(super::wire::Malformed);
        }
        SpawnerSetup::decode(&mut reader)
    };
    parse().map(Some).map_err(|_| Errno::EPROTO)
}

fn ready(socket: &OwnedFd, errno: i32, why: &str) -> Result<(), Errno> {
    let mut w = Writer::default();
    w.u8(to_worker::READY).u32(MAGIC).i32(errno);
    w.block(why.as_bytes());
    send(socket.as_fd(), &w.bytes, &[])
}
