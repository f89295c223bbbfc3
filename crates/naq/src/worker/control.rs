//! The control channel: what a running job reports of itself, written to its record so that others
//! see it and the next attempt gets it.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use super::context::WorkerContext;
use super::lease::MessageLease;
use naq_jetstream::{Broker, BrokerError};
use naq_protocol::units::WireDuration;
use naq_protocol::{Exception, JobProgress, Record, State, check_file_path};
use naq_runner::{ControlMessage, StopReason};

/// How long the first message waits for further ones before the record is written.
const CHECKPOINT_DELAY: Duration = Duration::from_millis(100);

/// Time between two writes at least: a job that reports without pause must not cost more than a
/// few writes.
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Number of warnings on a record from which invalid messages are dropped silently.
const WARNINGS_MAX: usize = 32;

/// The most files that a job may name to be kept.
const NAMED_ARTIFACTS_MAX: usize = 256;

/// What a job has reported that is not part of its record.
#[derive(Debug)]
pub(super) struct ControlState {
    /// Pause before the next attempt that the job asks for. `None` means by its envelope.
    pub(super) retry_after: Option<Duration>,
    /// The files of the work folder that the job wants to be kept.
    pub(super) artifacts: Vec<String>,
    checkpoint_bytes_max: usize,
}

impl ControlState {
    /// Nothing is reported yet. The server's messages hold at most `message_bytes_max`; a checkpoint
    /// may fill a quarter of one, as the record has other content too.
    pub(super) fn new(message_bytes_max: usize) -> ControlState {
        ControlState {
            retry_after: None,
            artifacts: Vec::new(),
            checkpoint_bytes_max: message_bytes_max / 4,
        }
    }

    /// Applies one message to the record. Fields that are unknown or invalid become warnings.
    pub(super) fn apply(&mut self, record: &mut Record, message: &ControlMessage) {
        let text = |key: &str| message.value(key)?.as_str().map(str::to_owned);
        for (key, value) in &message.fields {
            let applied = match key.as_str() {
                "progress" => match serde_json::from_str::<f64>(value.get())
                    .ok()
                    .filter(|percent| (0.0..=100.0).contains(percent))
                {
                    Some(percent) => {
                        record.progress = Some(JobProgress {
                            percent: Some(percent),
                            message: text("message"),
                            unknown: naq_protocol::UnknownFields::default(),
                        });
                        Ok(())
                    }
                    None => Err(format!("progress is not a number from 0 to 100: {value}")),
                },
                "message" => {
                    if !message.fields.contains_key("progress") {
                        record.progress.get_or_insert_default().message = text("message");
                    }
                    Ok(())
                }
                "result" => {
                    record.result = Some(value.clone());
                    Ok(())
                }
                "checkpoint" if value.get().len() > self.checkpoint_bytes_max => Err(format!(
                    "a checkpoint of {} bytes was dropped: at most {} fit the server's messages; the earlier one stays",
                    value.get().len(),
                    self.checkpoint_bytes_max
                )),
                "checkpoint" => {
                    record.checkpoint = Some(value.clone());
                    Ok(())
                }
                "error" => match serde_json::from_str::<ReportedError>(value.get()) {
                    Ok(error) => {
                        record.exception = Some(error.into());
                        Ok(())
                    }
                    Err(error) => Err(format!("error: {error}")),
                },
                "retry_after" => match serde_json::from_str::<WireDuration>(value.get()) {
                    Ok(span) => {
                        self.retry_after = Some(span.0);
                        Ok(())
                    }
                    Err(error) => Err(format!("retry_after: {error}")),
                },
                "artifact" => self.add_artifacts(value.get()),
                other => Err(format!(
                    "this version of naq does not know `{}` on the control channel",
                    other.chars().take(40).collect::<String>()
                )),
            };
            if let Err(warning) = applied
                && record.warnings.len() < WARNINGS_MAX
            {
                record.warnings.push(warning);
            }
        }
    }
}

/// An exception, as a job reports it.
#[derive(serde::Deserialize)]
struct ReportedError {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    trace: Option<String>,
    /// Whether the job may be retried; true if absent.
    #[serde(default)]
    retry: Option<bool>,
}

// The lengths of an exception's texts on the record, in bytes.
const EXCEPTION_TYPE_BYTES_MAX: usize = 256;
const EXCEPTION_MESSAGE_BYTES_MAX: usize = 4 << 10;
const EXCEPTION_TRACE_BYTES_MAX: usize = 16 << 10;

impl From<ReportedError> for Exception {
    fn from(error: ReportedError) -> Exception {
        Exception {
            kind: beginning(error.kind, EXCEPTION_TYPE_BYTES_MAX),
            message: beginning(error.message, EXCEPTION_MESSAGE_BYTES_MAX),
            // the innermost call, which says most, is at the end in most languages
            trace: error
                .trace
                .map(|trace| end(&trace, EXCEPTION_TRACE_BYTES_MAX)),
            fatal: error.retry == Some(false),
            unknown: naq_protocol::UnknownFields::default(),
        }
    }
}

/// The beginning of a text, cut between two characters.
fn beginning(mut text: String, bytes_max: usize) -> String {
    let mut at = bytes_max.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.truncate(at);
    text
}

/// The end of a text, cut between two characters.
fn end(text: &str, bytes_max: usize) -> String {
    let mut at = text.len().saturating_sub(bytes_max);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    text[at..].to_owned()
}

impl ControlState {
    /// Notes files to keep: a path, or a list of paths.
    fn add_artifacts(&mut self, value: &str) -> Result<(), String> {
        let one = serde_json::from_str::<String>(value).map(|path| vec![path]);
        let paths = one.or_else(|_| serde_json::from_str::<Vec<String>>(value));
        let Ok(paths) = paths else {
            return Err("artifact is not a path, or a list of paths".to_owned());
        };
        for path in paths {
            let shown = naq_protocol::escape(&path);
            check_file_path(&path).map_err(|problem| format!("artifact `{shown}`: {problem}"))?;
            if self.artifacts.contains(&path) {
                continue;
            }
            if self.artifacts.len() >= NAMED_ARTIFACTS_MAX {
                return Err(format!(
                    "artifact `{shown}` is not kept: at most {NAMED_ARTIFACTS_MAX} files are"
                ));
            }
            self.artifacts.push(path);
        }
        Ok(())
    }
}

/// The result of writing a running job's record.
enum CheckpointResult {
    Written(u64),
    /// Someone else has changed the record: its present content and revision.
    Changed(Option<Box<Record>>, u64),
    /// Not written; the next message of the job tries again.
    Failed,
}

/// Writes a running job's record from time to time. One write at a time, and in the background:
/// the job's output is read meanwhile.
pub(super) struct RecordCheckpointer<'a> {
    context: &'a WorkerContext,
    lease: &'a MessageLease,
    due: Option<Instant>,
    not_before: Instant,
    writing: Option<Pin<Box<dyn Future<Output = CheckpointResult> + Send>>>,
}

impl<'a> RecordCheckpointer<'a> {
    pub(super) fn new(
        context: &'a WorkerContext,
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

    /// Schedules a write, since the record has changed.
    pub(super) fn mark_dirty(&mut self) {
        let due = (Instant::now() + CHECKPOINT_DELAY).max(self.not_before);
        self.due.get_or_insert(due);
    }

    /// Waits until a write is due or done, then starts it or applies its result. Cancel safe.
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
                if present.state() == State::Running && present.lease() == record.lease() =>
            {
                *revision = at;
                record.has_dependents |= present.has_dependents;
                // of a later version of naq, which has changed the record meanwhile
                record.unknown.clone_from(&present.unknown);
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
            // the outcome moves a large result to the object store; a checkpoint leaves it out
            Err(BrokerError::TooLarge { .. }) if record.result.is_some() => record.result = None,
            Err(error) => {
                tracing::debug!(job_id = %record.job_id, "cannot write the checkpoint yet: {error}");
                return CheckpointResult::Failed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, Lease, Phase, QueueName, Timestamp};

    fn applied(lines: &[&str]) -> (Record, ControlState) {
        let mut record = Record::new(
            JobId::new("j").unwrap(),
            QueueName::new("q").unwrap(),
            Phase::Running {
                lease: Lease {
                    worker_id: "w".to_owned(),
                    sequence: 1,
                    delivery: 1,
                    alone: false,
                    claimed_ahead: false,
                    unknown: naq_protocol::UnknownFields::default(),
                },
                started_at: Timestamp::from_unix_ms(0).unwrap(),
            },
            Timestamp::from_unix_ms(0).unwrap(),
        );
        let mut control_state = ControlState::new(400);
        for line in lines {
            let message = ControlMessage::parse(line.as_bytes()).unwrap();
            control_state.apply(&mut record, &message);
        }
        (record, control_state)
    }

    #[test]
    fn control_messages_override_earlier_ones() {
        let (record, control_state) = applied(&[
            r#"{"progress": 10, "message": "one"}"#,
            r#"{"progress": 40.5}"#,
            r#"{"message": "two"}"#,
            r#"{"result": {"a": 1}, "checkpoint": [2]}"#,
            r#"{"retry_after": "30s"}"#,
        ]);
        let progress = record.progress.unwrap();
        assert_eq!(progress.percent, Some(40.5));
        assert_eq!(progress.message.as_deref(), Some("two"));
        assert_eq!(record.result.unwrap().get(), r#"{"a": 1}"#);
        assert_eq!(record.checkpoint.unwrap().get(), "[2]");
        assert_eq!(control_state.retry_after, Some(Duration::from_secs(30)));
        assert!(record.warnings.is_empty());
    }

    #[test]
    fn a_checkpoint_that_is_too_large_is_a_warning_and_keeps_the_earlier_one() {
        let large = format!(r#"{{"checkpoint": "{}", "result": 2}}"#, "x".repeat(99));
        let (record, _) = applied(&[r#"{"checkpoint": 7}"#, &large]);
        assert_eq!(record.checkpoint.unwrap().get(), "7");
        assert_eq!(record.result.unwrap().get(), "2");
        assert!(
            record.warnings[0].contains("checkpoint of 101 bytes"),
            "{:?}",
            record.warnings
        );
    }

    #[test]
    fn an_exception_is_kept_within_its_limits() {
        let line = format!(
            r#"{{"error": {{"type": "E", "message": "{}", "trace": "{}ö", "retry": false}}}}"#,
            "ä".repeat(5_000),
            "x".repeat(20_000)
        );
        let (record, _) = applied(&[&line]);
        let exception = record.exception.unwrap();
        assert_eq!(exception.kind, "E");
        assert_eq!(exception.message.len(), 4_096);
        let trace = exception.trace.unwrap();
        assert!(trace.len() == 16_384 && trace.ends_with('ö'));
        assert!(exception.fatal);
        let (record, _) = applied(&[r#"{"error": {"message": "no type"}}"#]);
        assert!(record.exception.is_none() && record.warnings[0].contains("type"));
    }

    #[test]
    fn artifacts_are_paths_in_the_work_folder_and_their_number_is_bounded() {
        let (record, state) = applied(&[
            r#"{"artifact": "out/a.csv"}"#,
            r#"{"artifact": ["b", "out/a.csv"]}"#,
            r#"{"artifact": "/etc/passwd"}"#,
            r#"{"artifact": "../b"}"#,
            r#"{"artifact": 7}"#,
        ]);
        assert_eq!(state.artifacts, ["out/a.csv", "b"]);
        assert_eq!(record.warnings.len(), 3, "{:?}", record.warnings);
        let many: Vec<String> = (0..300)
            .map(|n| format!(r#"{{"artifact": "{n}"}}"#))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(applied(&many).1.artifacts.len(), NAMED_ARTIFACTS_MAX);
    }

    #[test]
    fn unknown_control_fields_become_a_bounded_number_of_warnings() {
        let (record, control_state) = applied(&[
            r#"{"progress": 101}"#,
            r#"{"retry_after": "5 parsecs"}"#,
            r#"{"dance": true}"#,
        ]);
        assert_eq!(record.warnings.len(), 3, "{:?}", record.warnings);
        assert!(record.progress.is_none() && control_state.retry_after.is_none());
        let (record, _) = applied(&[r#"{"dance": true}"#; 100]);
        assert_eq!(record.warnings.len(), WARNINGS_MAX);
    }
}
