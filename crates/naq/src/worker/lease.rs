//! A worker's lease on one message: renewed while the job runs, given up before the server does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{BootInstant, LeaseExpiry};
use naq_jetstream::{Broker, Delivery};
use naq_protocol::{JobId, State};
use naq_runner::{JobHandle, StopReason};

/// The right to one message until it expires. The task that works on the message and the loop
/// that renews the lease share it.
pub(super) struct MessageLease {
    inner: Mutex<LeaseInner>,
    ack_wait: Duration,
}

struct LeaseInner {
    /// The latest delivery of the message: the server may ignore an answer to an earlier one.
    delivery: Arc<Delivery>,
    /// Until then the server surely does not deliver the message to another worker.
    expires_at: LeaseExpiry,
    job_id: Option<JobId>,
    handle: Option<Arc<JobHandle>>,
    /// Why to stop the job and whether to kill it at once; set also before the job has started.
    stop_requested: Option<(StopReason, bool)>,
}

impl MessageLease {
    /// The lease that comes with a delivery.
    pub(super) fn new(delivery: Delivery, ack_wait: Duration) -> MessageLease {
        MessageLease {
            inner: Mutex::new(LeaseInner {
                delivery: Arc::new(delivery),
                expires_at: expiry(BootInstant::now(), ack_wait),
                job_id: None,
                handle: None,
                stop_requested: None,
            }),
            ack_wait,
        }
    }

    fn lock(&self) -> MutexGuard<'_, LeaseInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest delivery of the message.
    pub(super) fn delivery(&self) -> Arc<Delivery> {
        Arc::clone(&self.lock().delivery)
    }

    /// The job of the message; `None` before its envelope was read.
    pub(super) fn job_id(&self) -> Option<JobId> {
        self.lock().job_id.clone()
    }

    pub(super) fn set_job_id(&self, job_id: &JobId) {
        self.lock().job_id = Some(job_id.clone());
    }

    /// Registers the started job. If a stop was requested before, it is carried out now.
    pub(super) fn set_handle(&self, handle: Arc<JobHandle>) {
        let mut inner = self.lock();
        if let Some((why, at_once)) = inner.stop_requested {
            stop(&handle, why, at_once);
        }
        inner.handle = Some(handle);
    }

    /// Why the job is to stop; `None` if nobody asked for that.
    pub(super) fn stop_requested(&self) -> Option<StopReason> {
        self.lock().stop_requested.map(|(why, _)| why)
    }

    /// Starts the lease again after the server delivered the same message to this worker again.
    pub(super) fn on_redelivery(&self, delivery: Delivery) {
        let mut inner = self.lock();
        inner.delivery = Arc::new(delivery);
        inner.expires_at = expiry(BootInstant::now(), self.ack_wait);
    }

    /// Whether the server may have delivered the message to another worker by now.
    pub(super) fn is_expired(&self) -> bool {
        self.lock().expires_at.has_passed()
    }

    /// Reports to the server that the job is in progress, which extends the lease.
    pub(super) async fn renew(&self) {
        let requested_at = BootInstant::now();
        let delivery = self.delivery();
        if delivery.renew().await.is_ok() {
            let expires_at = expiry(requested_at, self.ack_wait);
            let mut inner = self.lock();
            // a redelivery in between may have brought a later expiry
            inner.expires_at = inner.expires_at.max(expires_at);
        }
    }

    /// Reads a running job's record, and stops the job if the record says that it is to be
    /// cancelled or that another worker has claimed it.
    pub(super) async fn revalidate(&self, broker: &Broker, worker_id: &str) {
        let job_id = {
            let inner = self.lock();
            if inner.handle.is_none() || inner.stop_requested.is_some() {
                return;
            }
            inner.job_id.clone()
        };
        let Some(job_id) = job_id else { return };
        let Ok((Some(record), _)) = broker.read_record(&job_id).await else {
            return;
        };
        let is_elsewhere = record
            .lease()
            .is_some_and(|lease| lease.worker_id != worker_id);
        if is_elsewhere {
            self.stop(StopReason::LeaseLost, true);
        } else if record.cancel_requested && record.state() == State::Running {
            self.stop(StopReason::Cancel, false);
        }
    }

    /// Stops the job now, or as soon as it starts. `at_once` kills it without a grace period.
    pub(super) fn stop(&self, why: StopReason, at_once: bool) {
        let mut inner = self.lock();
        inner.stop_requested = Some((why, at_once));
        if let Some(handle) = &inner.handle {
            stop(handle, why, at_once);
        }
    }
}

fn stop(handle: &JobHandle, why: StopReason, at_once: bool) {
    if at_once {
        handle.kill(why);
    } else {
        handle.stop(why);
    }
}

/// A worker gives its lease up a tenth of `ack_wait` before the server does.
fn expiry(requested_at: BootInstant, ack_wait: Duration) -> LeaseExpiry {
    LeaseExpiry::new(requested_at, ack_wait - ack_wait / 10)
}
