//! What the tasks of a worker report to its loop.

use tokio::sync::mpsc;

use super::lease::MessageKey;
use naq_protocol::{JobId, QueueName, Record};
use naq_runner::Slot;

/// A message to the loop.
pub(super) enum Report {
    /// The job's processes have exited; another job can use the slot.
    SlotFree,
    /// Jobs that require labels of this worker have a consumer of their own, to pull from too.
    RouteAvailable { queue: QueueName, consumer: String },
    /// The delivery has been dealt with, and this worker has no lease on its message any more.
    Finished {
        job_id: JobId,
        message: MessageKey,
        result: Done,
    },
    /// The server has confirmed the leases after a reconnect, or the time for that is over.
    LeasesConfirmed,
    /// It was read whether someone has requested that this worker drains.
    DrainChecked { is_requested: bool },
    /// The wall clock was set or the machine resumed: leases may have expired meanwhile.
    ClockSet,
}

/// The result of one delivery.
pub(super) enum Done {
    /// The outcome of an attempt is recorded.
    Recorded(Box<Record>),
    /// The message was given back to the queue.
    Requeued,
    /// There was nothing to run.
    NothingToRun,
    /// The lease ended before the job did. The message is redelivered.
    LeaseLost,
}

/// The concurrency slot of one delivery, reported free at most once.
pub(super) struct WorkerSlot<'a> {
    reports: &'a mpsc::Sender<Report>,
    is_taken: bool,
    /// Kept free for the job of this delivery. `None` once the job has it, and if another one must end first.
    reserved: Option<Slot>,
}

impl WorkerSlot<'_> {
    /// A slot that is in use.
    pub(super) fn taken(reports: &mpsc::Sender<Report>, reserved: Option<Slot>) -> WorkerSlot<'_> {
        WorkerSlot {
            reports,
            is_taken: true,
            reserved,
        }
    }

    /// What is kept free for the job.
    pub(super) fn take_reserved(&mut self) -> Option<Slot> {
        self.reserved.take()
    }

    /// Reports the slot free, unless that was done before.
    pub(super) async fn release(&mut self) {
        self.reserved = None;
        if std::mem::take(&mut self.is_taken) {
            let _ = self.reports.send(Report::SlotFree).await;
        }
    }
}
