//! Reading the pipes of a job that runs for longer than a moment.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::collect::{Collector, PipeKind, Pipes, READ_BYTES, ReadOutcome, read_chunk};
use super::completion::Termination;
use super::job::{ExitReport, Job};
use super::live_output::LiveSink;
use super::sys::async_fd::register;

/// Pieces read in a row before others have their turn.
const READS_PER_WAKEUP: usize = 4;

/// Wait before registering is tried again, the system being short of memory.
const REGISTER_RETRY_DELAY: Duration = Duration::from_millis(20);

thread_local! {
    /// Where pieces are read: nothing awaits while it is in use.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// One registered pipe, until its end.
struct PipeReader {
    source: PipeKind,
    fd: Option<AsyncFd<OwnedFd>>,
}

/// What a turn of reading brought.
#[derive(Clone, Copy, Debug, Default)]
struct TurnOutcome {
    ended: bool,
    /// Control messages wait to be taken.
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

    /// Waits for something to read; for ever after the end.
    async fn ready(&self) -> AsyncFdReadyGuard<'_, OwnedFd> {
        if let Some(fd) = &self.fd
            && let Ok(ready) = fd.readable().await
        {
            return ready;
        }
        std::future::pending().await
    }

    /// Reads some of what is there.
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

/// Reads until the job's spawner says that its tree is gone, then what is left.
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
                    let mut state = job.lock();
                    // What is not taken stays where it is bounded.
                    if state.control.is_empty() {
                        state.control.extend(collector.control.take_messages());
                        drop(state);
                        job.changed.notify_waiters();
                    }
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
    // one that is stopped is not waited for: whoever stopped it wants an end
    if job.lock().stop.is_none() {
        wait_for_capacity(sink.as_ref()).await;
    }
    for stream in [stdout, stderr, control] {
        stream.drain(&mut collector);
    }
    let exit = exit.unwrap_or_else(|_| ExitReport::without_usage(Termination::SpawnerDied));
    job.finish(collector, exit);
}
