//! Reads the pipes of a job that has been running for a while.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
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

/// Delay before registration is retried after the system ran out of memory.
const REGISTER_RETRY_DELAY: Duration = Duration::from_millis(20);

thread_local! {
    /// Read buffer, shared by all jobs of a thread: no `await` while it is borrowed.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A registered pipe; `fd` is `None` after its end.
struct PipeReader {
    source: PipeKind,
    fd: Option<AsyncFd<OwnedFd>>,
}

/// The outcome of a few reads in a row.
#[derive(Clone, Copy, Debug, Default)]
struct TurnOutcome {
    ended: bool,
    /// Whether control messages are queued.
    messages: bool,
}

impl PipeReader {
    async fn register(source: PipeKind, mut fd: OwnedFd) -> PipeReader {
        loop {
            match register(fd, Interest::READABLE) {
                Ok(registered) => {
                    return PipeReader {
                        source,
                        fd: Some(registered),
                    };
                }
                Err((back, _)) => {
                    fd = back;
                    tokio::time::sleep(REGISTER_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Waits until the pipe is readable; never returns after its end.
    async fn ready(&self) -> AsyncFdReadyGuard<'_, OwnedFd> {
        if let Some(fd) = &self.fd
            && let Ok(ready) = fd.readable().await
        {
            return ready;
        }
        std::future::pending().await
    }

    /// Reads up to [`READS_PER_WAKEUP`] times.
    fn read(
        source: PipeKind,
        mut ready: AsyncFdReadyGuard<'_, OwnedFd>,
        collector: &mut Collector,
    ) -> TurnOutcome {
        BUFFER.with_borrow_mut(|buffer| {
            let mut outcome = TurnOutcome::default();
            for _ in 0..READS_PER_WAKEUP {
                match read_chunk(ready.get_inner(), buffer) {
                    ReadOutcome::Bytes(count) => {
                        outcome.messages |= collector.push(source, &buffer[..count]);
                    }
                    ReadOutcome::WouldBlock => {
                        ready.clear_ready();
                        break;
                    }
                    ReadOutcome::Eof => {
                        outcome.ended = true;
                        break;
                    }
                }
            }
            outcome
        })
    }

    fn drain(self, collector: &mut Collector) {
        if let Some(fd) = self.fd {
            let fd = fd.into_inner();
            BUFFER.with_borrow_mut(|buffer| collector.drain(self.source, &fd, buffer));
        }
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
    let mut stdout = PipeReader::register(PipeKind::Stdout, pipes.stdout).await;
    let mut stderr = PipeReader::register(PipeKind::Stderr, pipes.stderr).await;
    let mut control = PipeReader::register(PipeKind::Control, pipes.control).await;
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
            ready = control.ready() => {
                let outcome = PipeReader::read(PipeKind::Control, ready, &mut collector);
                if outcome.ended {
                    control.fd = None;
                }
                if outcome.messages {
                    job.lock().control.append(collector.control.take_messages());
                    job.changed.notify_waiters();
                }
            }
            () = wait_for_capacity(sink.as_ref()), if !has_capacity => {}
            ready = stderr.ready(), if has_capacity => {
                if PipeReader::read(PipeKind::Stderr, ready, &mut collector).ended {
                    stderr.fd = None;
                }
            }
            ready = stdout.ready(), if has_capacity => {
                if PipeReader::read(PipeKind::Stdout, ready, &mut collector).ended {
                    stdout.fd = None;
                }
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
    let exit = exit.unwrap_or_else(|_| ExitReport::without_usage(Termination::SpawnerDied));
    job.finish(collector, exit);
}
