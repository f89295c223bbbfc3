//! A worker's lease on one message: renewed while the job runs, given up before the server does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{BootInstant, LeaseExpiry};
use naq_jetstream::{Broker, BrokerError, Delivery, LeaseQuery, LeaseState};
use naq_protocol::{JobId, QueueName, State};
use naq_runner::{JobHandle, StopReason};

/// Margin between the end of a lease here and the redelivery by the server, for an `ack_wait` from 2.5 s
/// to 5 s. It is shorter below and longer above: see [`trusted_for`].
const MARGIN_MAX: Duration = Duration::from_millis(500);

/// How long after a message was delivered an answer is sent without looking whether the stream
/// still has that message. Removing a stream, creating it again and filling it up to the same
/// sequence takes longer.
const IDENTITY_TRUST: Duration = Duration::from_secs(1);

/// Whether a read of a stored value was requested, such as a job's record. At most one task reads it, however many
/// requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordCheck {
    Idle,
    /// A task reads the value.
    Reading,
    /// Another request has come since the task began to read, so it reads once more.
    ReadAgain,
}

impl RecordCheck {
    /// Notes a request. Returns whether the caller has to read.
    pub(super) fn request(&mut self) -> bool {
        let is_idle = *self == RecordCheck::Idle;
        *self = if is_idle {
            RecordCheck::Reading
        } else {
            RecordCheck::ReadAgain
        };
        is_idle
    }

    /// Notes that the value was read. Returns whether it has to be read again.
    pub(super) fn finish(&mut self) -> bool {
        let is_again = *self == RecordCheck::ReadAgain;
        *self = if is_again {
            RecordCheck::Reading
        } else {
            RecordCheck::Idle
        };
        is_again
    }
}

/// What identifies a message. The sequence alone does not: a stream that was created again, or
/// that lost its tail, gives it to another message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct MessageKey {
    queue: QueueName,
    sequence: u64,
    stored_at_ns: i64,
}

impl MessageKey {
    pub(super) fn of(delivery: &Delivery) -> MessageKey {
        MessageKey {
            queue: delivery.queue.clone(),
            sequence: delivery.sequence,
            stored_at_ns: delivery.stored_at_ns,
        }
    }
}

/// The leases of a worker.
#[derive(Default)]
pub(super) struct HeldLeases(Mutex<HashMap<MessageKey, Arc<MessageLease>>>);

impl HeldLeases {
    fn lock(&self) -> MutexGuard<'_, HashMap<MessageKey, Arc<MessageLease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &MessageKey) -> Option<Arc<MessageLease>> {
        self.lock().get(key).cloned()
    }

    pub(super) fn insert(&self, key: MessageKey, lease: Arc<MessageLease>) {
        self.lock().insert(key, lease);
    }

    pub(super) fn remove(&self, key: &MessageKey) -> Option<Arc<MessageLease>> {
        self.lock().remove(key)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(super) fn all(&self) -> Vec<Arc<MessageLease>> {
        self.lock().values().cloned().collect()
    }

    /// What became of the lease that a record names, which this worker claimed. `asking` is the
    /// lease of a delivery by which the job would be taken over here.
    ///
    /// A lease that is not found was given up: the worker's id is that of this process, so the
    /// worker has not crashed since it claimed the job.
    pub(super) fn state_of(&self, query: &LeaseQuery, asking: Option<&MessageLease>) -> LeaseState {
        let leases = self.lock();
        let is_asking =
            |lease: &MessageLease| asking.is_some_and(|asking| std::ptr::eq(asking, lease));
        leases
            .values()
            .find(|lease| lease.is_named_by(query) && !is_asking(lease))
            .map_or(LeaseState::Released, |lease| lease.state())
    }
}

/// The right to one message until it expires. The task that works on the message and the loop
/// that renews the lease share it.
pub(super) struct MessageLease {
    inner: Mutex<LeaseInner>,
    ack_wait: Duration,
    /// The message's sequence, and the delivery that a claim under this lease names.
    claimed: (u64, u64),
}

struct LeaseInner {
    /// The latest delivery of the message: the server may ignore an answer to an earlier one.
    delivery: Arc<Delivery>,
    /// When the message was last known to be the one under its sequence.
    identified_at: BootInstant,
    /// Until then the server surely does not deliver the message to another worker.
    expires_at: LeaseExpiry,
    /// How long the job may run after that; 0 unless it has `overlap_ok`.
    grace: Duration,
    /// Whether it is logged that the job continues after the end of the lease.
    is_overrun_logged: bool,
    job_id: Option<JobId>,
    handle: Option<Arc<JobHandle>>,
    /// Whether no process of the job is left, and only its outcome is to be recorded.
    has_ended: bool,
    /// Why to stop the job and whether to kill it at once; set also before the job has started.
    stop_requested: Option<(StopReason, bool)>,
    record_check: RecordCheck,
    /// Whether the message was returned to its queue: the next delivery of it is another one.
    is_returned: bool,
    /// A delivery that arrived while the job of the lost lease was being stopped, or before the loop knew that the
    /// message was returned.
    redelivery: Option<Box<Delivery>>,
}

impl LeaseInner {
    /// Moves the end of the lease to a later time, here and in the job's spawner.
    fn extend(&mut self, expires_at: LeaseExpiry) {
        if expires_at > self.expires_at {
            self.expires_at = expires_at;
            self.is_overrun_logged = false;
            if let Some(handle) = self.handle.as_ref().filter(|_| !self.has_ended) {
                handle.set_deadline(self.deadline());
            }
        }
    }

    /// When the job must be dead.
    fn deadline(&self) -> BootInstant {
        self.expires_at.at() + self.grace
    }

    fn is_lost(&self) -> bool {
        !self.has_ended
            && (BootInstant::now() >= self.deadline()
                || matches!(self.stop_requested, Some((StopReason::LeaseLost, _))))
    }
}

impl MessageLease {
    /// The lease that comes with a delivery. It counts from when the message was requested: the
    /// server's time runs from when it sent the message, and the worker may have read that late.
    pub(super) fn new(delivery: Delivery, ack_wait: Duration) -> MessageLease {
        MessageLease {
            ack_wait,
            claimed: (delivery.sequence, delivery.delivery),
            inner: Mutex::new(LeaseInner {
                identified_at: BootInstant::now(),
                expires_at: expiry(BootInstant::after_boot(delivery.requested_at), ack_wait),
                grace: Duration::ZERO,
                is_overrun_logged: false,
                delivery: Arc::new(delivery),
                job_id: None,
                handle: None,
                has_ended: false,
                stop_requested: None,
                record_check: RecordCheck::Idle,
                is_returned: false,
                redelivery: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LeaseInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest delivery of the message.
    pub(super) fn delivery(&self) -> Arc<Delivery> {
        Arc::clone(&self.lock().delivery)
    }

    /// When the lease ends unless it is renewed.
    fn expires_at(&self) -> LeaseExpiry {
        self.lock().expires_at
    }

    /// Lets the job, which is about to start, run past the end of its lease by this time. Another
    /// attempt may run by then.
    pub(super) fn set_grace(&self, grace: Duration) {
        self.lock().grace = grace;
    }

    /// When the job must be dead unless the lease is renewed.
    pub(super) fn deadline(&self) -> BootInstant {
        self.lock().deadline()
    }

    /// Whether the job has begun to run past the end of its lease. True once, until the lease is
    /// renewed.
    pub(super) fn begins_to_overrun(&self) -> bool {
        let mut inner = self.lock();
        let overruns = inner.handle.is_some()
            && !inner.is_lost()
            && !inner.has_ended
            && inner.expires_at.has_passed();
        overruns && !std::mem::replace(&mut inner.is_overrun_logged, true)
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
        // the lease may have been renewed since the job was sent to its spawner
        handle.set_deadline(inner.deadline());
        inner.handle = Some(handle);
    }

    /// Notes that no process of the job is left. The outcome is kept until it is recorded, however
    /// long that takes: it cannot run next to another attempt, and a write under a claim that was
    /// taken over is refused.
    pub(super) fn mark_ended(&self) {
        self.lock().has_ended = true;
    }

    /// Whether no process of the job is left, and only its outcome is to be recorded.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().has_ended
    }

    /// Why the job is to stop; `None` if nobody asked for that.
    pub(super) fn stop_requested(&self) -> Option<StopReason> {
        self.lock().stop_requested.map(|(why, _)| why)
    }

    /// Starts the lease again after the server delivered the same message to this worker again. If
    /// the lease was lost, its job is being stopped and stays stopped, and if the message was returned, its task
    /// is about to end; the delivery is kept for [`take_redelivery`](Self::take_redelivery).
    pub(super) fn on_redelivery(&self, delivery: Delivery) {
        let mut inner = self.lock();
        if inner.is_lost() || inner.is_returned {
            inner.redelivery = Some(Box::new(delivery));
            return;
        }
        let requested_at = BootInstant::after_boot(delivery.requested_at);
        inner.extend(expiry(requested_at, self.ack_wait));
        inner.identified_at = BootInstant::now();
        inner.delivery = Arc::new(delivery);
    }

    /// The delivery that arrived after the lease was lost, or the message was returned.
    pub(super) fn take_redelivery(&self) -> Option<Box<Delivery>> {
        self.lock().redelivery.take()
    }

    /// Whether the job must not run any more under this lease.
    pub(super) fn is_lost(&self) -> bool {
        self.lock().is_lost()
    }

    /// Whether its time has passed, so that the server redelivers the message.
    pub(super) fn has_expired(&self) -> bool {
        BootInstant::now() >= self.lock().deadline()
    }

    fn is_named_by(&self, query: &LeaseQuery) -> bool {
        self.claimed == (query.sequence, query.delivery)
            && self.lock().job_id.as_ref() == Some(&query.job_id)
    }

    fn state(&self) -> LeaseState {
        if self.lock().is_lost() {
            LeaseState::Stopping
        } else {
            LeaseState::Running
        }
    }

    /// Confirms a lease of which so little is left that the message may have been sent long ago,
    /// as after the worker was suspended. Returns false if the server does not answer.
    pub(super) async fn confirm_if_short(&self) -> bool {
        let needed = trusted_for(self.ack_wait) / 2;
        if self.expires_at().remaining() >= needed {
            return true;
        }
        self.renew().await;
        !self.expires_at().has_passed()
    }

    /// Reports to the server that the job is in progress, which extends the lease.
    pub(super) async fn renew(&self) {
        let requested_at = BootInstant::now();
        let delivery = self.delivery();
        if delivery.renew().await.is_ok() {
            self.lock().extend(expiry(requested_at, self.ack_wait));
        }
    }

    /// Extends a lease that has not ended, without asking the server: it is known to be down for
    /// everybody.
    pub(super) fn trust_until(&self, at: BootInstant) {
        let mut inner = self.lock();
        if !inner.is_lost() {
            inner.extend(LeaseExpiry::new(at, Duration::ZERO));
        }
    }

    /// Acknowledges the message.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub(super) async fn ack(&self, broker: &Broker) -> Result<(), BrokerError> {
        match self.identified_delivery(broker).await? {
            Some(delivery) => delivery.ack().await,
            None => Ok(()),
        }
    }

    /// Acknowledges the message of an ended job. While there is a connection, it does not wait for the answer.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub(super) async fn ack_ended(&self, broker: &Broker) -> Result<(), BrokerError> {
        match self.identified_delivery(broker).await? {
            Some(delivery) if broker.connection().state().connected => {
                delivery.ack_unconfirmed().await
            }
            Some(delivery) => Box::pin(delivery.ack()).await,
            None => Ok(()),
        }
    }

    /// Negatively acknowledges the message.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub(super) async fn nak(&self, broker: &Broker) -> Result<(), BrokerError> {
        // The server may deliver the message again before this returns.
        self.lock().is_returned = true;
        match self.identified_delivery(broker).await? {
            Some(delivery) => delivery.nak().await,
            None => Ok(()),
        }
    }

    /// The delivery to answer. `None` if the stream does not have the message any more: an answer
    /// names only its sequence, and would apply to another job's message there.
    async fn identified_delivery(
        &self,
        broker: &Broker,
    ) -> Result<Option<Arc<Delivery>>, BrokerError> {
        let (delivery, identified_at) = {
            let inner = self.lock();
            (Arc::clone(&inner.delivery), inner.identified_at)
        };
        if identified_at.elapsed() < IDENTITY_TRUST {
            return Ok(Some(delivery));
        }
        let looked_at = BootInstant::now();
        if !Box::pin(broker.is_message_stored(&delivery)).await? {
            tracing::debug!(
                queue = %delivery.queue,
                sequence = delivery.sequence,
                "the message is gone; nothing to acknowledge"
            );
            return Ok(None);
        }
        self.lock().identified_at = looked_at;
        Ok(Some(delivery))
    }

    /// Reads a running job's record, and stops the job if the record says that it is to be
    /// cancelled or that another worker has claimed or ended it.
    pub(super) async fn revalidate(&self, broker: &Broker, worker_id: &str) {
        if self.lock().handle.is_some() {
            self.check_record(broker, worker_id).await;
        }
    }

    /// Requests a read of the job's record. Returns whether the caller has to
    /// [carry it out](Self::carry_out_check).
    pub(super) fn request_check(&self) -> bool {
        self.lock().record_check.request()
    }

    /// Reads the job's record, and stops the job if the record says that it is to be cancelled. Also
    /// for a job that has been claimed and has not started.
    pub(super) async fn carry_out_check(&self, broker: &Broker, worker_id: &str) {
        loop {
            self.check_record(broker, worker_id).await;
            if !self.lock().record_check.finish() {
                return;
            }
        }
    }

    async fn check_record(&self, broker: &Broker, worker_id: &str) {
        let (job_id, has_started) = {
            let inner = self.lock();
            if inner.has_ended || inner.stop_requested.is_some() {
                return;
            }
            (inner.job_id.clone(), inner.handle.is_some())
        };
        let Some(job_id) = job_id else { return };
        let Ok((Some(record), _)) = broker.read_record(&job_id).await else {
            return;
        };
        // the job may have ended meanwhile, and its outcome be what was read
        if self.lock().has_ended {
            return;
        }
        let is_elsewhere = record
            .lease()
            .is_some_and(|lease| lease.worker_id != worker_id);
        if is_elsewhere || record.state().is_terminal() {
            // Before the job has started, this may be what the claim is about to replace.
            if has_started {
                self.stop(StopReason::LeaseLost, true);
            }
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

/// When a lease ends here that was requested at this time.
fn expiry(requested_at: BootInstant, ack_wait: Duration) -> LeaseExpiry {
    LeaseExpiry::new(requested_at, trusted_for(ack_wait))
}

/// How long a lease is trusted. It ends here before the server redelivers the message, so that
/// there is time to kill the job: by half a second, or by a fifth of `ack_wait` if that is less,
/// but by a tenth of `ack_wait` at least.
fn trusted_for(ack_wait: Duration) -> Duration {
    ack_wait - (ack_wait / 5).min(MARGIN_MAX).max(ack_wait / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_reads_a_record_and_misses_no_request() {
        let mut check = RecordCheck::Idle;
        assert!(check.request());
        assert!(!check.request() && !check.request());
        assert!(check.finish(), "a request has come since");
        assert!(!check.finish());
        assert!(check.request());
    }

    #[test]
    fn a_lease_ends_here_before_the_server_redelivers() {
        for (ack_wait_ms, margin_ms) in [
            (1_000, 200),
            (2_000, 400),
            (3_000, 500),
            (5_000, 500),
            (30_000, 3_000),
        ] {
            let ack_wait = Duration::from_millis(ack_wait_ms);
            let margin = ack_wait - trusted_for(ack_wait);
            assert_eq!(margin, Duration::from_millis(margin_ms), "{ack_wait:?}");
        }
    }
}
