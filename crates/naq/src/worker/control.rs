//! What a job says of itself on the control channel: kept on its record while it runs, so that
//! others see it and the next attempt is given it.

use std::pin::Pin;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::attempt::AttemptContext;
use super::lease::MessageLease;
use naq_jetstream::{Broker, BrokerError};
use naq_protocol::units::WireDuration;
use naq_protocol::{JobProgress, Record, State};
use naq_runner::{ControlMessage, StopReason};

/// How long what a job says may wait for more of it before it is written, and how far apart two
/// writes are at the least: a job that speaks all the time must not cost more than a few writes.
const CHECKPOINT_DELAY: Duration = Duration::from_millis(100);
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The most warnings kept of what was not understood.
const WARNINGS_MAX: usize = 32;

/// What a job has said that does not stand on its record.
#[derive(Debug, Default)]
pub(super) struct ControlState {
    /// How long it asks to wait before it is tried again.
    pub(super) retry_after: Option<Duration>,
}

impl ControlState {
    /// Takes one message. What is not understood is kept as a warning.
    pub(super) fn apply(&mut self, record: &mut Record, message: &ControlMessage) {
        let object = &message.object;
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        for (key, value) in object {
            let understood = match key.as_str() {
                "progress" => match value
                    .as_f64()
                    .filter(|percent| (0.0..=100.0).contains(percent))
                {
                    Some(percent) => {
                        record.progress = Some(JobProgress {
                            percent: Some(percent),
                            message: text("message"),
                        });
                        Ok(())
                    }
                    None => Err(format!("progress is not a number from 0 to 100: {value}")),
                },
                "message" => {
                    if !object.contains_key("progress") {
                        record.progress.get_or_insert_default().message = text("message");
                    }
                    Ok(())
                }
                "result" => {
                    record.result = raw_json(value);
                    Ok(())
                }
                "checkpoint" => {
                    record.checkpoint = raw_json(value);
                    Ok(())
                }
                "retry_after" => match serde_json::from_value::<WireDuration>(value.clone()) {
                    Ok(span) => {
                        self.retry_after = Some(span.0);
                        Ok(())
                    }
                    Err(error) => Err(format!("retry_after: {error}")),
                },
                other => Err(format!(
                    "this version of naq does not know `{}` on the control channel",
                    other.chars().take(40).collect::<String>()
                )),
            };
            if let Err(warning) = understood
                && record.warnings.len() < WARNINGS_MAX
            {
                record.warnings.push(warning);
            }
        }
    }
}

fn raw_json(value: &Value) -> Option<Box<RawValue>> {
    RawValue::from_string(value.to_string()).ok()
}

/// What came of writing a running job's record.
enum CheckpointResult {
    Written(u64),
    /// Someone else has changed it: as it is now, and its revision.
    Changed(Option<Box<Record>>, u64),
    /// It is tried again with the next thing said.
    Failed,
}

/// Writes a running job's record now and then. One write at a time, and none waits for it: the
/// job's output is read on meanwhile.
pub(super) struct RecordCheckpointer<'a> {
    context: &'a AttemptContext,
    lease: &'a MessageLease,
    due: Option<Instant>,
    not_before: Instant,
    writing: Option<Pin<Box<dyn Future<Output = CheckpointResult> + Send>>>,
}

impl<'a> RecordCheckpointer<'a> {
    pub(super) fn new(
        context: &'a AttemptContext,
        lease: &'a MessageLease,
    ) -> RecordCheckpointer<'a> {
        RecordCheckpointer {
            context,
            lease,
            due: None,
            not_before: Instant::now(),
            writing: None,
        }
    }

    /// There is something new on the record.
    pub(super) fn mark_dirty(&mut self) {
        let due = (Instant::now() + CHECKPOINT_DELAY).max(self.not_before);
        self.due.get_or_insert(due);
    }

    /// Waits until a write is due, or done, and goes on from there. Cancel safe.
    pub(super) async fn advance(&mut self, record: &mut Record, revision: &mut u64) {
        if let Some(writing) = &mut self.writing {
            let saved = writing.await;
            self.writing = None;
            self.on_written(saved, record, revision);
            return;
        }
        let Some(due) = self.due else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(due).await;
        self.due = None;
        self.not_before = Instant::now() + CHECKPOINT_INTERVAL_MIN;
        let (broker, record, revision) = (self.context.broker.clone(), record.clone(), *revision);
        self.writing = Some(Box::pin(write_checkpoint(broker, record, revision)));
    }

    fn on_written(&mut self, saved: CheckpointResult, record: &mut Record, revision: &mut u64) {
        match saved {
            CheckpointResult::Written(at) => *revision = at,
            CheckpointResult::Changed(Some(present), at)
                if present.state == State::Running && present.lease == record.lease =>
            {
                *revision = at;
                record.has_dependents |= present.has_dependents;
                if present.cancel_requested && !record.cancel_requested {
                    record.cancel_requested = true;
                    self.lease.stop(StopReason::Cancel, false);
                }
                self.mark_dirty();
            }
            CheckpointResult::Changed(..) => self.lease.stop(StopReason::LeaseLost, true),
            CheckpointResult::Failed => {}
        }
    }
}

async fn write_checkpoint(broker: Broker, mut record: Record, revision: u64) -> CheckpointResult {
    loop {
        match broker.write_record(&record, revision, None).await {
            Ok(at) => return CheckpointResult::Written(at),
            Err(BrokerError::Conflict) => {
                return match broker.read_record(&record.job_id).await {
                    Ok((present, at)) => CheckpointResult::Changed(present.map(Box::new), at),
                    Err(_) => CheckpointResult::Failed,
                };
            }
            // the outcome finds room for it, beside the record
            Err(BrokerError::TooLarge { .. }) if record.result.is_some() => record.result = None,
            Err(error) => {
                tracing::debug!(job_id = %record.job_id, "what it says is not kept yet: {error}");
                return CheckpointResult::Failed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, QueueName, Timestamp};

    fn taken(lines: &[&str]) -> (Record, ControlState) {
        let mut record = Record::new(
            JobId::new("j").unwrap(),
            QueueName::new("q").unwrap(),
            State::Running,
            Timestamp::from_unix_ms(0).unwrap(),
        );
        let mut control_state = ControlState::default();
        for line in lines {
            let object = serde_json::from_str(line).unwrap();
            control_state.apply(&mut record, &ControlMessage { object });
        }
        (record, control_state)
    }

    #[test]
    fn the_last_word_counts() {
        let (record, control_state) = taken(&[
            r#"{"progress": 10, "message": "one"}"#,
            r#"{"progress": 40.5}"#,
            r#"{"message": "two"}"#,
            r#"{"result": {"a": 1}, "checkpoint": [2]}"#,
            r#"{"retry_after": "30s"}"#,
        ]);
        let progress = record.progress.unwrap();
        assert_eq!(progress.percent, Some(40.5));
        assert_eq!(progress.message.as_deref(), Some("two"));
        assert_eq!(record.result.unwrap().get(), r#"{"a":1}"#);
        assert_eq!(record.checkpoint.unwrap().get(), "[2]");
        assert_eq!(control_state.retry_after, Some(Duration::from_secs(30)));
        assert!(record.warnings.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_a_warning_and_they_are_bounded() {
        let (record, control_state) = taken(&[
            r#"{"progress": 101}"#,
            r#"{"retry_after": "5 parsecs"}"#,
            r#"{"dance": true}"#,
        ]);
        assert_eq!(record.warnings.len(), 3, "{:?}", record.warnings);
        assert!(record.progress.is_none() && control_state.retry_after.is_none());
        let (record, _) = taken(&[r#"{"dance": true}"#; 100]);
        assert_eq!(record.warnings.len(), WARNINGS_MAX);
    }
}
