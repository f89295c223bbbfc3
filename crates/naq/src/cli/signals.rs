//! TERM and INT, turned into requests to a worker.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::worker::WorkerCommand;

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
/// Others may ask by the sender.
pub(super) fn worker_commands(
    first: WorkerCommand,
) -> std::io::Result<(
    Arc<watch::Sender<WorkerCommand>>,
    watch::Receiver<WorkerCommand>,
)> {
    let mut signals = Signals::listen()?;
    let (sender, receiver) = watch::channel(WorkerCommand::Run);
    let sender = Arc::new(sender);
    let asking = Arc::clone(&sender);
    tokio::spawn(async move {
        for request in [first, WorkerCommand::Stop] {
            signals.next().await;
            super::systemd::stopping();
            let _ = asking.send(request);
        }
        std::future::pending::<()>().await;
    });
    Ok((sender, receiver))
}

/// Waits until a worker is asked to stop, before there is one.
pub(super) async fn stopped(mut requests: watch::Receiver<WorkerCommand>) {
    let asked = requests.wait_for(|request| *request != WorkerCommand::Run);
    if asked.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A value that becomes true at the first TERM or INT, and the number of the second signal.
pub(super) fn stop_signals() -> std::io::Result<(watch::Receiver<bool>, oneshot::Receiver<i32>)> {
    let mut signals = Signals::listen()?;
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        super::systemd::stopping();
        let _ = stop.send(true);
        let _ = end.send(signals.next().await);
    });
    Ok((stopped, ended))
}
