//! The type whose methods take a delivery through `claim`, `run` and `finish`.

use super::delivery::LeasedDelivery;
use naq_jetstream::NewJob;
use naq_protocol::{Envelope, JobId};

/// One attempt at a job: a leased delivery whose envelope was read and is allowed here.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) delivery: LeasedDelivery<'a>,
    pub(super) envelope: &'a Envelope,
}

impl Attempt<'_> {
    /// The delivered message as one to be published again under the same job id.
    pub(super) fn message_for(&self, job_id: &JobId) -> NewJob {
        let message = self.delivery.message;
        NewJob::with_id(
            job_id.clone(),
            message.queue.clone(),
            message.payload.clone(),
        )
    }
}
