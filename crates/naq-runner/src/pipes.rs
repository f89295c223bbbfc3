//! The pipes between a job and the worker: their ends, and reading from them.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read};

/// Bytes read at once: the capacity of a pipe.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// The worker's ends of a job's pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) control: OwnedFd,
}

impl Pipes {
    /// Opens the pipes and appends the job's ends to `job_fds`.
    pub(super) fn open(job_fds: &mut Vec<OwnedFd>) -> Result<Pipes, Errno> {
        let mut open = || -> Result<OwnedFd, Errno> {
            let (ours, job) = pipe2(OFlag::O_CLOEXEC)?;
            // Only the worker's end: a job expects blocking descriptors.
            fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            job_fds.push(job);
            Ok(ours)
        };
        Ok(Pipes {
            stdout: open()?,
            stderr: open()?,
            control: open()?,
        })
    }
}

impl Pipes {
    /// Further descriptors of the same ends.
    pub(super) fn try_clone(&self) -> std::io::Result<Pipes> {
        Ok(Pipes {
            stdout: self.stdout.try_clone()?,
            stderr: self.stderr.try_clone()?,
            control: self.control.try_clone()?,
        })
    }
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// The number of bytes read.
    Bytes(usize),
    /// The pipe is empty.
    WouldBlock,
    /// The end of the stream.
    Eof,
}

/// Reads at most one buffer without waiting.
pub(super) fn read_chunk(fd: impl AsFd, buffer: &mut [u8]) -> ReadOutcome {
    loop {
        match read(fd.as_fd(), buffer) {
            Ok(0) => return ReadOutcome::Eof,
            Ok(count) => return ReadOutcome::Bytes(count),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return ReadOutcome::WouldBlock,
            Err(_) => return ReadOutcome::Eof,
        }
    }
}

/// Which of the three pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PipeKind {
    Stdout,
    Stderr,
    Control,
}
