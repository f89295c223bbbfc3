//! A worker's hold on one message: renewed while the job runs, given up in time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use naq_jetstream::{Broker, Delivery};
use naq_protocol::{JobId, State};
use naq_runner::{JobHandle, StopReason};

/// A message in hand, shared by the task that works on it and the loop that renews it.
pub(super) struct MessageLease {
    inner: Mutex<LeaseInner>,
    ack_wait: Duration,
}

struct LeaseInner {
    /// The latest delivery of the message: an answer to an earlier one may be ignored.
    delivery: Arc<Delivery>,
    /// Until when the server surely takes this worker for alive.
    expires_at: Instant,
    job_id: Option<JobId>,
    handle: Option<Arc<JobHandle>>,
    /// Asked for before the job had started.
    stop_requested: Option<(StopReason, bool)>,
}

impl MessageLease {
    pub(super) fn new(delivery: Delivery, ack_wait: Duration) -> MessageLease {
        MessageLease {
            inner: Mutex::new(LeaseInner {
                delivery: Arc::new(delivery),
                expires_at: Instant::now() + lease_duration(ack_wait),
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

    /// The latest delivery.
    pub(super) fn delivery(&self) -> Arc<Delivery> {
        Arc::clone(&self.lock().delivery)
    }

    pub(super) fn job_id(&self) -> Option<JobId> {
        self.lock().job_id.clone()
    }

    pub(super) fn set_job_id(&self, job_id: &JobId) {
        self.lock().job_id = Some(job_id.clone());
    }

    /// The job has started; what was asked of it before is asked now.
    pub(super) fn set_handle(&self, handle: Arc<JobHandle>) {
        let mut inner = self.lock();
        if let Some((why, at_once)) = inner.stop_requested {
            stop(&handle, why, at_once);
        }
        inner.handle = Some(handle);
    }

    /// What the job was asked to stop for, if it was.
    pub(super) fn stop_requested(&self) -> Option<StopReason> {
        self.lock().stop_requested.map(|(why, _)| why)
    }

    /// The same message was delivered to the same worker once more.
    pub(super) fn on_redelivery(&self, delivery: Delivery) {
        let mut inner = self.lock();
        inner.delivery = Arc::new(delivery);
        inner.expires_at = Instant::now() + lease_duration(self.ack_wait);
    }

    /// Whether the server may have given the message to another worker by now.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now >= self.lock().expires_at
    }

    /// Tells the server that work goes on.
    pub(super) async fn renew(&self) {
        let asked_at = Instant::now();
        let delivery = self.delivery();
        if delivery.renew().await.is_ok() {
            let until = asked_at + lease_duration(self.ack_wait);
            let mut inner = self.lock();
            inner.expires_at = inner.expires_at.max(until);
        }
    }

    /// Stops a job that runs where its record says that someone wants it cancelled, or that
    /// another worker has it.
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
            .lease
            .as_ref()
            .is_some_and(|lease| lease.worker_id != worker_id);
        if is_elsewhere {
            self.stop(StopReason::LeaseLost, true);
        } else if record.cancel_requested && record.state == State::Running {
            self.stop(StopReason::Cancel, false);
        }
    }

    /// Stops the job, or sees to it that it is stopped when it starts.
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

/// A worker stops trusting its hold a little before the server does, reckoned from when it asked
/// and not from when it was answered.
fn lease_duration(ack_wait: Duration) -> Duration {
    ack_wait - ack_wait / 10
}
