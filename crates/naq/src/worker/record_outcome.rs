//! Writing an outcome: by compare-and-set, however often it takes, with what does not fit a
//! message put beside it.

use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{AttemptContext, RETRY_BACKOFF, retry_while_leased};
use super::lease::MessageLease;
use naq_jetstream::{BrokerError, Delivery, failpoint};
use naq_protocol::{CapturedOutput, Record, State};

/// Room left in a message for headers and the rest of a record.
const RECORD_MARGIN_BYTES: usize = 32 << 10;

/// The most of an envelope that is kept in the record itself, in bytes.
const ENVELOPE_BYTES_MAX: usize = 128 << 10;

/// Puts the envelope into the record, or beside it where it is large.
pub(super) async fn attach_envelope(
    context: &AttemptContext,
    record: &mut Record,
    delivery: &Delivery,
) {
    let bytes_max = ENVELOPE_BYTES_MAX.min(context.broker.message_bytes_max() / 4);
    if delivery.payload.len() <= bytes_max {
        record.envelope = std::str::from_utf8(&delivery.payload)
            .ok()
            .and_then(|text| serde_json::from_str(text).ok());
        return;
    }
    let object = format!("envelope/{}", record.job_id);
    match Box::pin(context.broker.put_object(&object, &delivery.payload)).await {
        Ok(()) => record.envelope_object = Some(object),
        Err(error) => record
            .warnings
            .push(format!("the envelope could not be kept: {error}")),
    }
}

/// Writes an outcome where the hold is still this worker's, however often it takes. What does
/// not fit a message goes to the object store first. Returns the record's new revision; what
/// others asked for meanwhile is in the record then.
pub(super) async fn record_outcome(
    context: &AttemptContext,
    lease: &MessageLease,
    record: &mut Record,
    mut revision: u64,
    ttl: Option<Duration>,
) -> Result<u64, BrokerError> {
    let mut failures = 0;
    let mut shrunk = false;
    if !fits_message(context, record) {
        Box::pin(spill(context, lease, record)).await?;
    }
    failpoint("outcome.before");
    loop {
        match context.broker.write_record(record, revision, ttl).await {
            Ok(revision) => {
                failpoint("outcome.written");
                return Ok(revision);
            }
            Err(BrokerError::Conflict) => {
                let (present, at) = Box::pin(retry_while_leased(lease, || {
                    context.broker.read_record(&record.job_id)
                }))
                .await?;
                let Some(present) = present else {
                    // removed by hand: the outcome is what there is to know of the job
                    revision = at;
                    continue;
                };
                if is_same_outcome(&present, record) {
                    // an earlier write whose answer was lost
                    record.has_dependents |= present.has_dependents;
                    return Ok(at);
                }
                let still_ours = present.state == State::Running
                    && present.lease.as_ref().is_some_and(|lease| {
                        Some(&lease.worker_id) == record.worker_id.as_ref()
                            && present.attempt >= record.attempt
                    });
                if !still_ours {
                    return Err(BrokerError::Conflict);
                }
                // someone asked for something meanwhile: keep that, and write again
                record.cancel_requested |= present.cancel_requested;
                record.has_dependents |= present.has_dependents;
                revision = at;
            }
            Err(BrokerError::TooLarge { .. }) if !shrunk => {
                shrunk = true;
                Box::pin(spill(context, lease, record)).await?;
                Box::pin(drop_large_fields(context, lease, record)).await?;
            }
            Err(error) => {
                tracing::warn!(job_id = %record.job_id, "cannot record the outcome yet: {error}");
                if lease.is_expired(Instant::now()) && lease.stop_requested().is_some() {
                    return Err(error);
                }
                failures += 1;
                tokio::time::sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
            }
        }
    }
}

fn is_same_outcome(present: &Record, record: &Record) -> bool {
    present.state == record.state
        && present.attempt == record.attempt
        && present.worker_id == record.worker_id
        && present.finished_at == record.finished_at
        && present.lease.is_none()
}

/// Whether a record surely fits a message.
fn fits_message(context: &AttemptContext, record: &Record) -> bool {
    let budget = context
        .broker
        .message_bytes_max()
        .saturating_sub(RECORD_MARGIN_BYTES);
    let size = |output: &Option<CapturedOutput>| {
        output.as_ref().map_or(0, |output| {
            let part = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            part(&output.text) + part(&output.base64) + part(&output.tail)
        })
    };
    // escapes can make text six times as long in JSON; only what comes near is measured
    (size(&record.stdout) + size(&record.stderr)) * 6 < budget
        || serde_json::to_vec(record).map_or(usize::MAX, |json| json.len()) < budget
}

/// Moves output to the object store.
async fn spill(
    context: &AttemptContext,
    lease: &MessageLease,
    record: &mut Record,
) -> Result<(), BrokerError> {
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
        bytes.extend(output.tail_bytes());
        retry_while_leased(lease, || context.broker.put_object(&object, &bytes)).await?;
        failpoint("output.stored");
        const SHOWN_BYTES: usize = 4_096;
        let shown = bytes[..bytes.len().min(SHOWN_BYTES)].to_vec();
        let truncated = output.truncated;
        *output = CapturedOutput::new(shown, Vec::new(), output.bytes, true);
        output.truncated = truncated;
        output.tail = None;
        output.object = Some(object);
    }
    Ok(())
}

/// What else can fill a message: the job's own result goes to the object store, what only the
/// next attempt or an onlooker would read is let go.
async fn drop_large_fields(
    context: &AttemptContext,
    lease: &MessageLease,
    record: &mut Record,
) -> Result<(), BrokerError> {
    if let Some(result) = record.result.take() {
        let object = format!("result/{}/{}", record.job_id, record.attempt);
        retry_while_leased(lease, || {
            context.broker.put_object(&object, result.get().as_bytes())
        })
        .await?;
        record.result_object = Some(object);
    }
    if record.checkpoint.take().is_some() {
        record
            .warnings
            .push("the checkpoint was too large to keep".to_owned());
    }
    record.progress = None;
    Ok(())
}
