//! Writing an outcome: by compare-and-set, with as many retries as it takes, and with what does not
//! fit a message moved to the object store.

use std::time::Duration;

use super::delivery::{LeasedDelivery, RETRY_BACKOFF};
use naq_jetstream::{BrokerError, failpoint};
use naq_protocol::{CapturedOutput, Record, State};

/// Every how many failures in a row, some two seconds apart, a warning is logged.
pub(super) const WARNING_INTERVAL: u32 = 30;

/// Bytes of a message left free for headers and for the rest of the record.
const RECORD_MARGIN_BYTES: usize = 32 << 10;

/// The largest envelope that is kept in the record itself, in bytes.
const ENVELOPE_BYTES_MAX: usize = 128 << 10;

/// How much output stays in the record when the whole is in the object store, in bytes.
const OUTPUT_SHOWN_BYTES: usize = 4_096;

impl LeasedDelivery<'_> {
    /// Puts the message's envelope into the record of an ended job, or into the object store if it is
    /// large. A failure becomes a warning on the record, which is complete without it.
    pub(super) async fn attach_envelope(&self, record: &mut Record) {
        if self.attach_small_envelope(record) {
            return;
        }
        let object = envelope_object(record);
        match Box::pin(self.broker().put_object(&object, &self.message.payload)).await {
            Ok(()) => record.envelope_object = Some(object),
            Err(error) => record
                .warnings
                .push(format!("the envelope could not be kept: {error}")),
        }
    }

    /// The same for the record of a blocked job, which has no message: without its envelope the job would
    /// be lost.
    ///
    /// # Errors
    /// Returns the last error if the envelope cannot be stored.
    pub(super) async fn store_envelope(&self, record: &mut Record) -> Result<(), BrokerError> {
        if self.attach_small_envelope(record) {
            return Ok(());
        }
        let object = envelope_object(record);
        self.persist(|| self.broker().put_object(&object, &self.message.payload))
            .await?;
        record.envelope_object = Some(object);
        Ok(())
    }

    /// Puts the envelope into the record, unless it is large. Returns whether it is not.
    fn attach_small_envelope(&self, record: &mut Record) -> bool {
        let payload = &self.message.payload;
        let bytes_max = ENVELOPE_BYTES_MAX.min(self.broker().message_bytes_max() / 4);
        if payload.len() > bytes_max {
            return false;
        }
        record.envelope = std::str::from_utf8(payload)
            .ok()
            .and_then(|text| serde_json::from_str(text).ok());
        true
    }

    /// Writes an outcome while this worker's claim stands, with as many retries as it takes. What
    /// does not fit a message goes to the object store before. Returns the record's new revision;
    /// marks that others set meanwhile, such as a cancel request, are in `record` afterwards.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the job is not this worker's any more, an error that
    /// [is final](BrokerError::is_final_for_write) if NATS will never store the record, and the last
    /// error if the lease has expired without an answer.
    pub(super) async fn record_outcome(
        &self,
        record: &mut Record,
        mut revision: u64,
        ttl: Option<Duration>,
    ) -> Result<u64, BrokerError> {
        let mut failures = 0;
        let mut refused = None;
        let mut shrunk = false;
        if !self.fits_message(record) {
            Box::pin(self.spill(record)).await?;
        }
        failpoint("outcome.before");
        loop {
            match self.broker().write_record(record, revision, ttl).await {
                Ok(revision) => {
                    failpoint("outcome.written");
                    return Ok(revision);
                }
                Err(BrokerError::Conflict) => {
                    self.context.metrics.write_conflicts.inc();
                    match Box::pin(self.resolve_conflict(record)).await? {
                        Conflict::Written(at) => return Ok(at),
                        Conflict::WriteAgain(at) => revision = at,
                    }
                }
                Err(BrokerError::TooLarge { .. }) if !shrunk => {
                    shrunk = true;
                    self.shrink(record).await?;
                }
                Err(error) if error.is_final_for_write() => return Err(error),
                Err(error) => {
                    if failures % WARNING_INTERVAL == 0 {
                        tracing::warn!(job_id = %record.job_id, "cannot record the outcome yet, retrying: {error}");
                    }
                    if self.lease.is_lost() && self.lease.stop_requested().is_some() {
                        return Err(error);
                    }
                    refused.get_or_insert_with(|| self.context.refused_writes.count(&error));
                    failures += 1;
                    tokio::time::sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
                }
            }
        }
    }

    /// Reads what changed the record before the outcome was written, and merges it.
    async fn resolve_conflict(&self, record: &mut Record) -> Result<Conflict, BrokerError> {
        let (present, at) = self
            .persist(|| self.broker().read_record(&record.job_id))
            .await?;
        let Some(present) = present else {
            // A user removed the record, so there is nothing to merge the outcome with.
            return Ok(Conflict::WriteAgain(at));
        };
        if is_same_outcome(&present, record) {
            // an earlier write of this outcome whose answer was lost
            record.has_dependents |= present.has_dependents;
            return Ok(Conflict::Written(at));
        }
        let is_still_ours = present.state() == State::Running
            && present.lease().is_some_and(|lease| {
                Some(&lease.worker_id) == record.worker_id.as_ref()
                    && present.attempt >= record.attempt
            });
        if !is_still_ours {
            return Err(BrokerError::Conflict);
        }
        // someone set a mark on the running job's record: keep it, and write again
        record.cancel_requested |= present.cancel_requested;
        record.has_dependents |= present.has_dependents;
        // of a later version of naq, which has changed the record meanwhile
        record.unknown.clone_from(&present.unknown);
        Ok(Conflict::WriteAgain(at))
    }

    /// Whether a record surely fits a message.
    fn fits_message(&self, record: &Record) -> bool {
        let budget = self
            .broker()
            .message_bytes_max()
            .saturating_sub(RECORD_MARGIN_BYTES);
        let size = |output: &Option<CapturedOutput>| {
            output.as_ref().map_or(0, |output| {
                let part = |text: &Option<String>| text.as_ref().map_or(0, String::len);
                part(&output.text) + part(&output.base64) + part(&output.tail)
            })
        };
        let listed: usize = record
            .failed_attempts
            .iter()
            .flat_map(|one| [&one.error, &one.stdout_tail, &one.stderr_tail])
            .map(|text| text.as_ref().map_or(0, String::len))
            .sum();
        let artifacts: usize = record
            .artifacts
            .iter()
            .map(|file| file.name.len() + 256)
            .sum();
        let listed = listed + artifacts;
        // escapes can make text six times as long in JSON; only what comes near that is measured
        (size(&record.stdout) + size(&record.stderr) + listed) * 6 < budget
            || serde_json::to_vec(record).map_or(usize::MAX, |json| json.len()) < budget
    }

    /// Makes a record that does not fit a message as small as possible.
    pub(super) async fn shrink(&self, record: &mut Record) -> Result<(), BrokerError> {
        Box::pin(self.spill(record)).await?;
        Box::pin(self.drop_large_fields(record)).await
    }

    /// Moves output to the object store. The record keeps the beginning.
    async fn spill(&self, record: &mut Record) -> Result<(), BrokerError> {
        let (job_id, attempt) = (record.job_id.clone(), record.attempt);
        for (name, output) in [
            ("stdout", &mut record.stdout),
            ("stderr", &mut record.stderr),
        ] {
            let Some(output) = output else { continue };
            if output.object.is_some() {
                continue;
            }
            let object = format!("output/{job_id}/{attempt}/{name}");
            let mut bytes = output.head_bytes();
            let head_bytes = bytes.len() as u64;
            bytes.extend(output.tail_bytes());
            self.persist(|| self.broker().put_object(&object, &bytes))
                .await?;
            failpoint("output.stored");
            let shown = bytes[..bytes.len().min(OUTPUT_SHOWN_BYTES)].to_vec();
            let shown_of = bytes.len() - shown.len();
            *output = CapturedOutput {
                truncated: output.truncated,
                missing_bytes: output.missing_bytes,
                object_head_bytes: output.truncated.then_some(head_bytes),
                object: Some(object),
                tail: None,
                // a preview, cut between two characters
                ..CapturedOutput::new(shown, Vec::new(), output.bytes, shown_of as u64)
            };
        }
        Ok(())
    }

    /// Removes the other fields that can fill a message: the job's own result goes to the object
    /// store; the checkpoint and the progress, which only the next attempt and watchers would
    /// read, are dropped, and so are the outputs of earlier attempts and the beginnings of output
    /// that is in the object store.
    async fn drop_large_fields(&self, record: &mut Record) -> Result<(), BrokerError> {
        for output in [&mut record.stdout, &mut record.stderr] {
            if let Some(output) = output.as_mut().filter(|output| output.object.is_some()) {
                output.text = None;
                output.base64 = None;
            }
        }
        if let Some(result) = record.result.take() {
            let object = format!("result/{}/{}", record.job_id, record.attempt);
            self.persist(|| self.broker().put_object(&object, result.get().as_bytes()))
                .await?;
            record.result_object = Some(object);
        }
        if record.checkpoint.take().is_some() {
            record
                .warnings
                .push("the checkpoint was too large to keep".to_owned());
        }
        record.progress = None;
        for one in &mut record.failed_attempts {
            one.stdout_tail = None;
            one.stderr_tail = None;
        }
        Ok(())
    }
}

/// The object that holds a job's envelope if it is large.
fn envelope_object(record: &Record) -> String {
    format!("envelope/{}", record.job_id)
}

/// What to do after an outcome met a changed record.
enum Conflict {
    /// The outcome is in the record already, at this revision.
    Written(u64),
    /// Write the merged record over this revision.
    WriteAgain(u64),
}

fn is_same_outcome(present: &Record, record: &Record) -> bool {
    present.state() == record.state()
        && present.attempt == record.attempt
        && present.worker_id == record.worker_id
        && present.finished_at() == record.finished_at()
        && present.lease().is_none()
}
