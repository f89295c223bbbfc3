//! A delivered message under this worker's lease: the steps that every way through the worker
//! takes, whatever the message turns out to be.

use super::context::WorkerContext;
use super::lease::MessageLease;
use super::report::Done;
use crate::clock::now;
use naq_core::{ConcurrencySlot, DeliveryContext, ExponentialBackoff, RunAlone};
use naq_jetstream::{Broker, BrokerError, BrokerErrorKind, Delivery, failpoint};
use naq_protocol::{Envelope, EnvelopeError, JobId, Record, RejectReason};
use std::time::Duration;

/// Pauses before a request that failed for a passing reason is sent again.
pub(super) const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// One delivery of a message, with the lease on it.
#[derive(Clone, Copy)]
pub(super) struct LeasedDelivery<'a> {
    pub(super) context: &'a WorkerContext,
    pub(super) lease: &'a MessageLease,
    /// The delivery that is being worked on. The lease may have a later one of the same message,
    /// which is the one to answer.
    pub(super) message: &'a Delivery,
}

impl<'a> LeasedDelivery<'a> {
    pub(super) fn broker(&self) -> &'a Broker {
        &self.context.broker
    }

    /// Repeats a request until it succeeds, the server's answer is final, or the lease has
    /// expired and the loop has noticed that. The request must be safe to repeat.
    ///
    /// # Errors
    /// Returns the error of the last request.
    pub(super) async fn persist<T, F>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<T, BrokerError>
    where
        F: Future<Output = Result<T, BrokerError>>,
    {
        let mut failures = 0;
        let mut refused = None;
        loop {
            match request().await {
                Err(error) if error.is_transient() => {
                    if self.lease.is_lost() && self.lease.stop_requested().is_some() {
                        return Err(error);
                    }
                    if error.kind() == BrokerErrorKind::StorageFull {
                        refused.get_or_insert_with(|| self.context.refused_writes.count(&error));
                    }
                    failures += 1;
                    if RETRY_BACKOFF.is_at_max(failures) {
                        tracing::warn!(failures, "a request still fails, retrying: {error}");
                    } else {
                        tracing::debug!(failures, "a request failed, retrying: {error}");
                    }
                    tokio::time::sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
                }
                done => return done,
            }
        }
    }

    /// Acknowledges the message, after everything else is written, and passes `done` on.
    pub(super) async fn acknowledge(&self, done: Done) -> Done {
        failpoint("ack.before");
        // If this fails the outcome is recorded all the same: the message is redelivered, finds
        // the terminal record, and is acknowledged then.
        let _ = self.persist(|| self.lease.ack(self.broker())).await;
        failpoint("ack.done");
        done
    }

    /// Acknowledges the message of a job whose outcome is recorded, and passes `done` on. It does not wait for the
    /// answer: if the acknowledgement is lost, the redelivered message finds the terminal record.
    pub(super) async fn acknowledge_ended(&self, done: Done) -> Done {
        failpoint("ack.before");
        let _ = self.persist(|| self.lease.ack_ended(self.broker())).await;
        failpoint("ack.done");
        done
    }

    /// Keeps the envelope of a failed job in the stream of dead letters.
    ///
    /// # Errors
    /// Returns the error of the last request.
    pub(super) async fn dead_letter(&self, record: &Record) -> Result<(), BrokerError> {
        self.persist(|| self.broker().dead_letter(self.message, record))
            .await
    }

    /// The facts by which the delivery is decided.
    pub(super) fn facts(&self, job_id: JobId) -> DeliveryContext {
        let message = self.message;
        DeliveryContext {
            queue: message.queue.clone(),
            sequence: message.sequence,
            delivery: message.delivery,
            has_sequence_id: job_id == JobId::for_sequence(&message.queue, message.sequence),
            enqueue_time: message.enqueue_time,
            worker_id: self.context.worker_id.clone(),
            now: now(),
            max_worker_crashes: self.context.options.max_worker_crashes,
            envelope_digest: Envelope::digest(&message.payload),
            lease_message_missing: false,
            ended_lease: None,
            cancel_requested: false,
            dependency_statuses: None,
            slot: ConcurrencySlot::NotRequested,
            alone: RunAlone::NotRequested,
            claimed_ahead: false,
            traceparent: message.traceparent().map(str::to_owned),
            scheduled_for: message.scheduled_for(),
            job_id,
        }
    }
}

/// The job's id: from the subject, the envelope, the producer's message id, or, failing all of
/// these, from the message's queue and sequence. Also the error if the ids given contradict each
/// other, or if that in the subject is invalid; the id is then that of queue and sequence.
pub(super) fn resolve_job_id(
    delivery: &Delivery,
    envelope: Option<&Envelope>,
) -> (JobId, Option<EnvelopeError>) {
    let invalid =
        |message: String| Some(EnvelopeError::new(RejectReason::Invalid, "job_id", message));
    let by_sequence = || JobId::for_sequence(&delivery.queue, delivery.sequence);
    // A message that naq publishes again comes after the one from which the job has its id. A producer
    // that chose such an id would take it from a job that has not arrived yet.
    let is_taken = |id: &JobId| {
        id.queue_and_sequence().is_some_and(|(queue, sequence)| {
            queue != delivery.queue.as_str() || sequence >= delivery.sequence
        })
    };
    let in_envelope = envelope.and_then(|envelope| envelope.job_id.clone());
    match (&delivery.subject_id, in_envelope) {
        (Some(Err(problem)), _) => (
            by_sequence(),
            invalid(format!("the subject's last token: {problem}")),
        ),
        (Some(Ok(subject)), _) if is_taken(subject) => (
            by_sequence(),
            invalid(format!(
                "the subject's last token: `{subject}` has the form of the ids that naq makes from a queue and a sequence"
            )),
        ),
        // A program that waits for the job waits for the id in its subject.
        (Some(Ok(subject)), Some(id)) if *subject != id => (
            subject.clone(),
            invalid(format!("`{id}` is not the id in the subject, `{subject}`")),
        ),
        (Some(Ok(subject)), _) => (subject.clone(), None),
        (None, Some(id)) => (id, None),
        (None, None) => {
            let message_id = delivery
                .message_id
                .as_ref()
                .and_then(|id| JobId::from_user(id).ok());
            (message_id.unwrap_or_else(by_sequence), None)
        }
    }
}
