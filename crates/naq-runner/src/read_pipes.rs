//! Reads the pipes of a job that has been running for a while.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::collect::Collector;
use super::completion::Termination;
use super::job::{ExitReport, Job};
use super::live_output::LiveSink;
use super::pipes::{PipeKind, Pipes, READ_BYTES, ReadOutcome, read_chunk};
use super::sys::async_fd::register;

/// Reads in a row before other tasks get a turn.
const READS_PER_WAKEUP: usize = 4;

/// How often a pipe is read that cannot be registered.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

thread_local! {
    /// Read buffer, shared by all jobs of a thread: no `await` while it is borrowed.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// One pipe of a job.
struct PipeReader {
    source: PipeKind,
    fd: PipeFd,
}

enum PipeFd {
    /// The runtime reports when it is readable.
    Registered(AsyncFd<OwnedFd>),
    /// The system is short of memory or of watches, so the pipe is read every [`POLL_INTERVAL`].
    Unregistered(OwnedFd),
    /// Its end has been read.
    Ended,
}

impl PipeReader {
    fn new(source: PipeKind, fd: OwnedFd) -> PipeReader {
        let fd = match register(fd, Interest::READABLE) {
            Ok(registered) => PipeFd::Registered(registered),
            Err((fd, error)) => {
                tracing::warn!(%error, "cannot watch a pipe of a job; reading it every 20 ms");
                PipeFd::Unregistered(fd)
            }
        };
        PipeReader { source, fd }
    }

    /// Waits until the pipe may be readable; never returns after its end. Cancel safe.
    async fn ready(&self) {
        match &self.fd {
            PipeFd::Registered(fd) => {
                if fd.readable().await.is_ok() {
                    return;
                }
            }
            PipeFd::Unregistered(_) => return tokio::time::sleep(POLL_INTERVAL).await,
            PipeFd::Ended => {}
        }
        std::future::pending().await
    }

    /// Reads up to [`READS_PER_WAKEUP`] times. Returns true if control messages are queued.
    fn read(&mut self, collector: &mut Collector) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            let mut messages = false;
            for _ in 0..READS_PER_WAKEUP {
                let outcome = match &self.fd {
                    // Forgets that the pipe was readable if it is not.
                    PipeFd::Registered(fd) => fd
                        .try_io(Interest::READABLE, |fd| match read_chunk(fd, buffer) {
                            ReadOutcome::WouldBlock => Err(io::ErrorKind::WouldBlock.into()),
                            outcome => Ok(outcome),
                        })
                        .unwrap_or(ReadOutcome::WouldBlock),
                    PipeFd::Unregistered(fd) => read_chunk(fd, buffer),
                    PipeFd::Ended => ReadOutcome::WouldBlock,
                };
                match outcome {
                    ReadOutcome::Bytes(count) => {
                        messages |= collector.push(self.source, &buffer[..count]);
                    }
                    ReadOutcome::WouldBlock => break,
                    ReadOutcome::Eof => {
                        self.fd = PipeFd::Ended;
                        break;
                    }
                }
            }
            messages
        })
    }

    fn drain(self, collector: &mut Collector) {
        let fd = match self.fd {
            PipeFd::Registered(fd) => fd.into_inner(),
            PipeFd::Unregistered(fd) => fd,
            PipeFd::Ended => return,
        };
        BUFFER.with_borrow_mut(|buffer| collector.drain(self.source, &fd, buffer));
    }
}

async fn wait_for_capacity(sink: Option<&LiveSink>) {
    if let Some(sink) = sink {
        sink.wait_for_capacity().await;
    }
}

/// Reads until the spawner reports that the process tree is gone, then drains the
/// pipes and finishes the job.
pub(super) async fn read_pipes(job: Arc<Job>, pipes: Pipes, exit: oneshot::Receiver<ExitReport>) {
    let started = Instant::now();
    let mut collector = job.collector();
    let mut stdout = PipeReader::new(PipeKind::Stdout, pipes.stdout);
    let mut stderr = PipeReader::new(PipeKind::Stderr, pipes.stderr);
    let mut control = PipeReader::new(PipeKind::Control, pipes.control);
    let live_at = collector.live_output_after().map(|after| started + after);
    let mut live_timer = std::pin::pin!(tokio::time::sleep_until(live_at.unwrap_or(started)));
    let mut live_pending = live_at.is_some();
    let mut exit = exit;
    let sink = collector.live().cloned();
    let exit = loop {
        let has_capacity = sink.as_ref().is_none_or(LiveSink::has_capacity);
        tokio::select! {
            biased;
            exit = &mut exit => break exit,
            () = &mut live_timer, if live_pending => {
                live_pending = false;
                collector.start_live_output();
            }
            () = control.ready() => {
                if control.read(&mut collector) {
                    job.lock().control.append(collector.control.take_messages());
                    job.changed.notify_waiters();
                }
            }
            () = wait_for_capacity(sink.as_ref()), if !has_capacity => {}
            () = stderr.ready(), if has_capacity => {
                stderr.read(&mut collector);
            }
            () = stdout.ready(), if has_capacity => {
                stdout.read(&mut collector);
            }
        }
    };
    // A slow reader of live output delays the end of a job, but not of one that
    // was stopped: the caller wants it to end now.
    if job.lock().stop.is_none() {
        wait_for_capacity(sink.as_ref()).await;
    }
    for stream in [stdout, stderr, control] {
        stream.drain(&mut collector);
    }
    let exit = exit
        .unwrap_or_else(|_| ExitReport::without_usage(Termination::SpawnerDied { alone: false }));
    job.finish(collector, exit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;

    #[tokio::test]
    async fn a_pipe_that_cannot_be_registered_is_read_all_the_same() {
        let mut job_fds = Vec::new();
        let pipes = Pipes::open(&mut job_fds).unwrap();
        let mut reader = PipeReader {
            source: PipeKind::Stdout,
            fd: PipeFd::Unregistered(pipes.stdout),
        };
        let mut collector = Collector::new(1000, 1000, &Mask::default(), None);
        nix::unistd::write(&job_fds[0], b"out").unwrap();
        reader.ready().await;
        assert!(!reader.read(&mut collector));
        drop(job_fds);
        reader.ready().await;
        reader.read(&mut collector);
        assert!(matches!(reader.fd, PipeFd::Ended));
        let [stdout, _] = collector.finish();
        assert_eq!(stdout.head, b"out");
    }
}
