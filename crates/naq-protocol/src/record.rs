//! A job's record: claim, progress and outcome, one value under the job's id.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::dependency::Dependency;
use super::names::{JobId, QueueName, ScheduleId};

/// A moment, RFC 3339 on the wire, in UTC with milliseconds when written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub chrono::DateTime<chrono::Utc>);

impl Timestamp {
    /// Milliseconds since the Unix epoch, as a moment; none where they are out of range.
    #[must_use]
    pub fn from_unix_ms(unix_ms: i64) -> Option<Timestamp> {
        chrono::DateTime::from_timestamp_millis(unix_ms).map(Timestamp)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(self) -> i64 {
        self.0.timestamp_millis()
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Timestamp {
        Timestamp(time.into())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Timestamp, String> {
        chrono::DateTime::parse_from_rfc3339(text)
            .map(|time| Timestamp(time.to_utc()))
            .map_err(|_| {
                format!(
                    "`{}` is not an RFC 3339 time such as 2026-12-24T18:00:00+01:00",
                    super::units::excerpt(text)
                )
            })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "date-time"})
    }
}

/// Where a job is in its life.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Held until its time comes.
    Scheduled,
    /// In its queue.
    Queued,
    /// Waits for other jobs.
    Waiting,
    /// A worker holds it.
    Running,
    /// Failed, and will be tried again.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended badly; the reason says how.
    Failed,
    /// Ended because someone asked.
    Cancelled,
    /// Not started in time.
    Expired,
    /// Never was a job.
    Rejected,
}

impl State {
    /// Every state, in the order of a job's life.
    pub const ALL: [State; 10] = [
        State::Scheduled,
        State::Queued,
        State::Waiting,
        State::Running,
        State::Retrying,
        State::Succeeded,
        State::Failed,
        State::Cancelled,
        State::Expired,
        State::Rejected,
    ];

    /// Whether nothing can follow.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            State::Succeeded | State::Failed | State::Cancelled | State::Expired | State::Rejected
        )
    }

    /// The state as it stands in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Scheduled => "scheduled",
            State::Queued => "queued",
            State::Waiting => "waiting",
            State::Running => "running",
            State::Retrying => "retrying",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
            State::Rejected => "rejected",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = String;
    fn from_str(text: &str) -> Result<State, String> {
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                let all: Vec<_> = State::ALL.iter().map(|state| state.as_str()).collect();
                format!(
                    "`{}` is not a state; one of {}",
                    super::units::excerpt(text),
                    all.join(", ")
                )
            })
    }
}

/// Why a job ended as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its exit code.
    Exit,
    /// A signal that naq did not send.
    Signal,
    /// It ran out of time.
    Timeout,
    /// It ran out of memory.
    Oom,
    /// It could not be started.
    Spawn,
    /// A job it depends on did not end as asked.
    Dependency,
    /// Its worker died under it too often.
    Crashed,
    /// Its output broke the rules the envelope set.
    Output,
    /// Not a well-formed envelope.
    Invalid,
    /// An envelope of a later version.
    UnsupportedVersion,
    /// Refused by the worker's policy.
    NotAllowed,
    /// Someone asked for it to be stopped.
    Cancelled,
}

impl Reason {
    /// The reason as it stands in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Exit => "exit",
            Reason::Signal => "signal",
            Reason::Timeout => "timeout",
            Reason::Oom => "oom",
            Reason::Spawn => "spawn",
            Reason::Dependency => "dependency",
            Reason::Crashed => "crashed",
            Reason::Output => "output",
            Reason::Invalid => "invalid",
            Reason::UnsupportedVersion => "unsupported_version",
            Reason::NotAllowed => "not_allowed",
            Reason::Cancelled => "cancelled",
        }
    }
}

impl From<super::RejectReason> for Reason {
    fn from(reason: super::RejectReason) -> Reason {
        match reason {
            super::RejectReason::Invalid => Reason::Invalid,
            super::RejectReason::UnsupportedVersion => Reason::UnsupportedVersion,
            super::RejectReason::NotAllowed => Reason::NotAllowed,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A worker's hold on a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// The worker that holds the job.
    pub worker_id: String,
    /// The sequence in the queue's stream of the message it holds.
    pub sequence: u64,
    /// How often that message had been delivered when the job was claimed.
    pub delivery: u64,
}

/// What a waiting job waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedOn {
    /// Jobs that have not ended as they have to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// The concurrency key under which as many jobs run as may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// When it began to wait.
    pub since: Timestamp,
    /// When a dependency that is still missing is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// One captured stream. Where it was longer than its bound, `text` or `base64` is its head,
/// `tail` its end in the same form, and `object` names the whole of it where it was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapturedOutput {
    /// The bytes as text, where they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64, where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The end of an output that was cut, in the form of the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<String>,
    /// How many bytes the job wrote.
    pub bytes: u64,
    /// Whether bytes are missing between head and tail.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// The object in `naq_files` that holds what did not fit here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

impl CapturedOutput {
    /// From the bytes kept of a stream's beginning and end.
    #[must_use]
    pub fn new(
        mut head: Vec<u8>,
        mut tail: Vec<u8>,
        bytes: u64,
        truncated: bool,
    ) -> CapturedOutput {
        if truncated {
            // a cut in the middle of a character would make text look like bytes
            trim_to_characters(&mut head, &mut tail);
        } else {
            head.append(&mut tail);
        }
        let mut output = CapturedOutput {
            bytes,
            truncated,
            ..CapturedOutput::default()
        };
        match (String::from_utf8(head), String::from_utf8(tail)) {
            (Ok(head), Ok(tail)) => {
                output.text = Some(head);
                output.tail = truncated.then_some(tail);
            }
            (head, tail) => {
                let raw = |part: Result<String, std::string::FromUtf8Error>| match part {
                    Ok(text) => STANDARD.encode(text),
                    Err(error) => STANDARD.encode(error.as_bytes()),
                };
                output.base64 = Some(raw(head));
                output.tail = truncated.then(|| raw(tail));
            }
        }
        output
    }

    /// The bytes of the head, or of all where nothing was cut.
    #[must_use]
    pub fn head_bytes(&self) -> Vec<u8> {
        match (&self.text, &self.base64) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(base64)) => STANDARD.decode(base64).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }

    /// The bytes of the tail; none where nothing was cut.
    #[must_use]
    pub fn tail_bytes(&self) -> Vec<u8> {
        match (&self.tail, &self.text) {
            (None, _) => Vec::new(),
            (Some(tail), Some(_)) => tail.as_bytes().to_vec(),
            (Some(tail), None) => STANDARD.decode(tail).unwrap_or_default(),
        }
    }
}

/// Drops at most three bytes at either side of a cut, where they are part of a character.
fn trim_to_characters(head: &mut Vec<u8>, tail: &mut Vec<u8>) {
    if let Err(error) = std::str::from_utf8(head)
        && error.error_len().is_none()
    {
        head.truncate(error.valid_up_to());
    }
    let continuation = tail
        .iter()
        .take(3)
        .take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000)
        .count();
    tail.drain(..continuation);
}

/// What a job's processes used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceUsage {
    /// The largest resident size of any one process, in bytes.
    pub max_rss_bytes: u64,
    /// Processor time in user mode, in milliseconds.
    pub cpu_user_ms: u64,
    /// Processor time in the kernel, in milliseconds.
    pub cpu_system_ms: u64,
    /// From start to end, in milliseconds.
    pub wall_ms: u64,
}

/// What a job last said of its progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgress {
    /// Percent, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A job's record in the bucket `naq_results`. Claim and outcome are compare-and-set on it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The job.
    pub job_id: JobId,
    /// The queue it came by.
    pub queue: QueueName,
    /// Where it is in its life.
    pub state: State,
    /// Why it ended as it did, where it did not simply succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Attempts begun so far; the first is 1.
    pub attempt: u32,
    /// How often a worker died under it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// The worker that holds or last held it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// The hold a worker has on it, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// When the server took its message.
    pub enqueue_time: Timestamp,
    /// When the current or last attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Not tried again before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// The exit code of the last attempt's first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the last attempt's first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What the last attempt wrote to standard output: the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<CapturedOutput>,
    /// What the last attempt wrote to standard error: the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<CapturedOutput>,
    /// A structured result, from the control channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub result: Option<Box<RawValue>>,
    /// The last progress it reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// The last checkpoint it reported, given to the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub checkpoint: Option<Box<RawValue>>,
    /// What the last attempt used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResourceUsage>,
    /// What went wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was odd, in words, without making the job fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Processes outlived the first one and were killed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaked: bool,
    /// Someone asked for it to be stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// Other jobs wait for this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_dependents: bool,
    /// There is no such job yet, or none that a worker has seen: others wait for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub placeholder: bool,
    /// What it waits for, while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<BlockedOn>,
    /// The message by which it was put aside, which is being removed: it is not run by that one,
    /// since its removal may come late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_sequence: Option<u64>,
    /// Its dependencies have ended as they had to, and are not looked at again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dependencies_met: bool,
    /// A digest of the envelope's bytes, by which another envelope under the same id is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope_digest: Option<String>,
    /// The job this one repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<JobId>,
    /// The schedule it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    /// The time for which its schedule had it, or that it was enqueued for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// The W3C trace context that its message came with. (The envelope's goes before it.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The envelope's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The envelope, while the job waits and once it has ended. Secrets are named in it, never
    /// held.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub envelope: Option<Box<RawValue>>,
    /// The object in `naq_files` that holds the structured result, where it does not fit here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_object: Option<String>,
    /// The object in `naq_files` that holds the envelope, where it does not fit here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope_object: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Record {
    /// A record with no history, in a state.
    #[must_use]
    pub fn new(job_id: JobId, queue: QueueName, state: State, enqueue_time: Timestamp) -> Record {
        Record {
            job_id,
            queue,
            state,
            reason: None,
            attempt: 0,
            crashes: 0,
            worker_id: None,
            lease: None,
            enqueue_time,
            started_at: None,
            finished_at: None,
            next_attempt_at: None,
            exit_code: None,
            signal: None,
            stdout: None,
            stderr: None,
            result: None,
            progress: None,
            checkpoint: None,
            usage: None,
            error: None,
            warnings: Vec::new(),
            leaked: false,
            cancel_requested: false,
            has_dependents: false,
            placeholder: false,
            waits: None,
            superseded_sequence: None,
            dependencies_met: false,
            envelope_digest: None,
            rerun_of: None,
            schedule_id: None,
            scheduled_for: None,
            traceparent: None,
            labels: BTreeMap::new(),
            envelope: None,
            result_object: None,
            envelope_object: None,
        }
    }

    /// The exit status a shell would see: the exit code, 128 + the signal, 124 for a timeout, 127
    /// or 126 for a program that could not be started, and 1 for any other end but success.
    #[must_use]
    pub fn shell_exit_code(&self) -> u8 {
        let code = |code: i32| u8::try_from(code & 0xff).unwrap_or(1);
        match (self.state, self.reason) {
            (State::Succeeded, _) => self.exit_code.map_or(0, code),
            (_, Some(Reason::Timeout)) => 124,
            (_, Some(Reason::Spawn)) => 127,
            _ => match (self.exit_code, self.signal) {
                (_, Some(signal)) => code(128 + signal),
                (Some(0) | None, None) => 1,
                (Some(exit), None) => code(exit),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_that_are_not_text_come_back() {
        let bytes = vec![0xff, 0, 1, 0xfe];
        let output = CapturedOutput::new(bytes.clone(), Vec::new(), 4, false);
        assert!(output.text.is_none());
        assert_eq!(output.head_bytes(), bytes);
    }

    #[test]
    fn a_cut_inside_a_character_stays_text() {
        let text = "äöü".as_bytes();
        let output = CapturedOutput::new(text[..3].to_vec(), text[3..].to_vec(), 100, true);
        assert_eq!(output.text.as_deref(), Some("ä"));
        assert_eq!(output.tail.as_deref(), Some("ü"));
    }

    #[test]
    fn states_read_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }

    proptest! {
        #[test]
        fn whole_output_is_lossless(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
            let cut = cut.min(bytes.len());
            let output = CapturedOutput::new(bytes[..cut].to_vec(), bytes[cut..].to_vec(), bytes.len() as u64, false);
            prop_assert_eq!(output.head_bytes(), bytes);
        }
    }
}
