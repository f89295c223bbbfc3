//! Reading the pipes of a job that runs for longer than a moment.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::collect::{Collector, Piece, Pipes, READ_BYTES, Source, read_piece};
use super::ended::End;
use super::job::{Exit, Job};
use super::live::LiveSink;
use super::sys::events::register;

/// Pieces read in a row before others have their turn.
const READS_IN_A_ROW: usize = 4;

/// Wait before registering is tried again, the system being short of memory.
const REGISTER_AGAIN: Duration = Duration::from_millis(20);

thread_local! {
    /// Where pieces are read: nothing awaits while it is in use.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// One registered pipe, until its end.
struct Stream {
    source: Source,
    fd: Option<AsyncFd<OwnedFd>>,
}

/// What a turn of reading brought.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    ended: bool,
    /// Control messages wait to be taken.
    messages: bool,
}

impl Stream {
    async fn register(source: Source, mut fd: OwnedFd) -> Stream {
        loop {
            match register(fd, Interest::READABLE) {
                Ok(registered) => {
                    return Stream {
                        source,
                        fd: Some(registered),
                    };
                }
                Err((back, _)) => {
                    fd = back;
                    tokio::time::sleep(REGISTER_AGAIN).await;
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
        source: Source,
        mut ready: AsyncFdReadyGuard<'_, OwnedFd>,
        collector: &mut Collector,
    ) -> Progress {
        BUFFER.with_borrow_mut(|buffer| {
            let mut progress = Progress::default();
            for _ in 0..READS_IN_A_ROW {
                match read_piece(ready.get_inner(), buffer) {
                    Piece::Bytes(count) => {
                        progress.messages |= collector.push(source, &buffer[..count]);
                    }
                    Piece::Later => {
                        ready.clear_ready();
                        break;
                    }
                    Piece::End => {
                        progress.ended = true;
                        break;
                    }
                }
            }
            progress
        })
    }

    fn drain(self, collector: &mut Collector) {
        if let Some(fd) = self.fd {
            let fd = fd.into_inner();
            BUFFER.with_borrow_mut(|buffer| collector.drain(self.source, &fd, buffer));
        }
    }
}

async fn room(sink: Option<&LiveSink>) {
    if let Some(sink) = sink {
        sink.room().await;
    }
}

/// Reads until the job's spawner says that its tree is gone, then what is left.
pub(super) async fn stream(job: Arc<Job>, pipes: Pipes, exit: oneshot::Receiver<Exit>) {
    let born = Instant::now();
    let mut collector = job.collector();
    let mut stdout = Stream::register(Source::Stdout, pipes.stdout).await;
    let mut stderr = Stream::register(Source::Stderr, pipes.stderr).await;
    let mut control = Stream::register(Source::Control, pipes.control).await;
    let live_at = collector.live_after().map(|after| born + after);
    let mut live_timer = std::pin::pin!(tokio::time::sleep_until(live_at.unwrap_or(born)));
    let mut waits_for_live = live_at.is_some();
    let mut exit = exit;
    let sink = collector.live().cloned();
    let exit = loop {
        let has_room = sink.as_ref().is_none_or(LiveSink::has_room);
        tokio::select! {
            biased;
            exit = &mut exit => break exit,
            () = &mut live_timer, if waits_for_live => {
                waits_for_live = false;
                collector.go_live();
            }
            ready = control.ready() => {
                let progress = Stream::read(Source::Control, ready, &mut collector);
                if progress.ended {
                    control.fd = None;
                }
                if progress.messages {
                    let mut state = job.lock();
                    // What is not taken stays where it is bounded.
                    if state.control.is_empty() {
                        state.control.extend(collector.control.take());
                        drop(state);
                        job.changed.notify_waiters();
                    }
                }
            }
            () = room(sink.as_ref()), if !has_room => {}
            ready = stderr.ready(), if has_room => {
                if Stream::read(Source::Stderr, ready, &mut collector).ended {
                    stderr.fd = None;
                }
            }
            ready = stdout.ready(), if has_room => {
                if Stream::read(Source::Stdout, ready, &mut collector).ended {
                    stdout.fd = None;
                }
            }
        }
    };
    // one that is stopped is not waited for: whoever stopped it wants an end
    if job.lock().stop.is_none() {
        room(sink.as_ref()).await;
    }
    for stream in [stdout, stderr, control] {
        stream.drain(&mut collector);
    }
    let exit = exit.unwrap_or_else(|_| Exit::without_usage(End::SpawnerDied));
    job.finish(collector, exit);
}
