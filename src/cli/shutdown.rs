//! TERM and INT, turned into requests to a worker.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::worker::Request;

/// The signals that ask a process to end.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one. Returns its number.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.interrupt.recv() => libc::SIGINT,
        }
    }
}

/// Requests of a worker that follow from signals: the first one is `first`, the second `Stop`.
pub(super) fn requests(first: Request) -> std::io::Result<watch::Receiver<Request>> {
    let mut signals = Signals::listen()?;
    let (sender, receiver) = watch::channel(Request::Work);
    tokio::spawn(async move {
        for request in [first, Request::Stop] {
            signals.next().await;
            let _ = sender.send(request);
        }
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}
