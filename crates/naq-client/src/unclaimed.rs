//! Jobs that no worker has claimed yet: all that exists of them is a message.

use super::raw_envelope::as_json;
use naq_jetstream::{JobMessage, MessageState};
use naq_protocol::{Envelope, JobId, Phase, Record};

/// Returns the record of a job that no worker has claimed yet, made of its message.
pub(super) fn record_of(job: &JobId, message: &JobMessage) -> Record {
    let (phase, is_paused) = match message.state {
        MessageState::Queued => (Phase::Queued, false),
        MessageState::Delayed { due, is_paused, .. } => (Phase::Scheduled { due }, is_paused),
    };
    let mut record = Record::new(job.clone(), message.queue.clone(), phase, message.time);
    if is_paused {
        let warning =
            "it is paused and starts only after it is resumed, even if its time has passed";
        record.warnings.push(warning.to_owned());
    }
    record.envelope = as_json(&message.payload);
    if let Ok(envelope) = Envelope::parse(&message.payload) {
        record.labels = envelope.labels;
        record.rerun_of = envelope.rerun_of;
        record.schedule_id = envelope.schedule_id;
        record.scheduled_for = envelope.scheduled_for;
    }
    record
}
