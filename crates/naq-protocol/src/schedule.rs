//! A schedule: what is enqueued again and again, when, and how far it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::names::{JobId, QueueName, ScheduleId};
use super::ordered_object::OrderedObject;
use super::record::Timestamp;
use super::units::WireDuration;
use super::{Envelope, EnvelopeError, RejectReason, json};

/// The shortest interval of a schedule, in milliseconds.
pub const INTERVAL_MS_MIN: u64 = 100;

/// The most late ticks that `misfire: all` may ask for.
pub const MISFIRE_MAX_MAX: u32 = 10_000;

/// Late ticks that `misfire: all` enqueues where nothing else is said.
pub const MISFIRE_MAX_DEFAULT: u32 = 100;

/// How late a tick may be and still count as being on time, where nothing else is said: a new
/// leader takes over within seconds, and what fell due meanwhile is no misfire.
pub const MISFIRE_GRACE_DEFAULT: WireDuration = WireDuration::from_secs(60);

/// What becomes of ticks that nobody was there to enqueue in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// They are left out.
    Skip,
    /// The last of them is enqueued.
    #[default]
    Once,
    /// They are enqueued, the last `misfire_max` of them at the most.
    All,
}

impl Misfire {
    /// The policy as it stands in schedules.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Misfire::Skip => "skip",
            Misfire::Once => "once",
            Misfire::All => "all",
        }
    }
}

/// What becomes of a tick while the job of the one before has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is enqueued; both may run at once.
    #[default]
    Allow,
    /// It is left out.
    Skip,
    /// It is enqueued and waits for the other to end: the schedule's jobs run one at a time.
    Queue,
    /// The other job is cancelled, and it is enqueued.
    Replace,
}

impl Overlap {
    /// The policy as it stands in schedules.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Overlap::Allow => "allow",
            Overlap::Skip => "skip",
            Overlap::Queue => "queue",
            Overlap::Replace => "replace",
        }
    }
}

/// Whether a schedule goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleStatus {
    /// Its ticks are enqueued.
    #[default]
    Active,
    /// They are not, until it is resumed.
    Paused,
    /// There are no more.
    Ended,
}

impl ScheduleStatus {
    /// The status as it stands in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ScheduleStatus::Active => "active",
            ScheduleStatus::Paused => "paused",
            ScheduleStatus::Ended => "ended",
        }
    }
}

impl std::fmt::Display for ScheduleStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A schedule as it stands in the bucket `naq_scheduled_jobs`, under its name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Schedule {
    /// Its name.
    pub schedule_id: ScheduleId,
    /// The queue its jobs go to.
    pub queue: QueueName,
    /// The envelope of each of its jobs, without an id.
    #[schemars(with = "serde_json::Value")]
    pub envelope: Box<RawValue>,
    /// A cron expression; either this or `every`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The IANA time zone in which `cron` is read; UTC where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// The time from one tick to the next; either this or `cron`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<WireDuration>,
    /// Where intervals are counted from; when it was made, or `start`, where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Timestamp>,
    /// How many jobs it makes in all; without end where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat: Option<u64>,
    /// No tick before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// No tick after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
    /// Each tick is enqueued later by a part of this, drawn anew for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<WireDuration>,
    /// What becomes of late ticks.
    #[serde(default)]
    pub misfire: Misfire,
    /// The most late ticks that are enqueued under `all`; 100 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misfire_max: Option<u32>,
    /// How late a tick may be and still count as being on time; a minute where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misfire_grace: Option<WireDuration>,
    /// What becomes of a tick while the last job has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// The set it was applied with; one that is no longer in the set is removed with the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether it goes on.
    #[serde(default)]
    pub status: ScheduleStatus,
    /// Why it is paused, where nobody asked for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_reason: Option<String>,
    /// The next tick, where someone has set it by hand; after it the cadence goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Timestamp>,
    /// How far it is.
    pub progress: ScheduleProgress,
}

/// How far a schedule is: written by the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleProgress {
    /// Every tick up to this time is done with: enqueued or left out.
    pub done_until: Timestamp,
    /// The last tick that was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Timestamp>,
    /// The job it became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_job_id: Option<JobId>,
    /// Jobs enqueued.
    #[serde(default)]
    pub runs: u64,
    /// Ticks that were late, and left out by `misfire`, or could not be enqueued.
    #[serde(default)]
    pub missed: u64,
    /// Ticks left out by `overlap`.
    #[serde(default)]
    pub skipped: u64,
    /// Ticks in a row that could not be enqueued.
    #[serde(default)]
    pub failures: u32,
    /// Why the last of them could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl ScheduleProgress {
    /// That of a schedule which begins now.
    #[must_use]
    pub fn from(now: Timestamp) -> ScheduleProgress {
        ScheduleProgress {
            done_until: now,
            last_run: None,
            last_job_id: None,
            runs: 0,
            missed: 0,
            skipped: 0,
            failures: 0,
            last_error: None,
        }
    }
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// [`EnvelopeError`] with the path of what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Schedule, EnvelopeError> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            EnvelopeError::new(RejectReason::Invalid, path, error.into_inner().to_string())
        })
    }
}

/// Who holds the schedulers' lock: the leader, the one that enqueues ticks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaderInfo {
    /// The scheduler's id, unique to this run of it.
    pub instance_id: String,
    /// The host it runs on.
    pub hostname: String,
    /// Its process id there.
    pub pid: u32,
    /// naq's version.
    pub version: String,
    /// When it became the leader.
    pub since: Timestamp,
}

/// The envelopes of a schedule's jobs: everything but the time of the tick is written once.
#[derive(Clone, Debug)]
pub struct TickEnvelope {
    /// The object without its closing brace, up to where the time goes.
    head: Box<str>,
}

/// The fields that name or time one job, and so cannot stand in the envelope of many.
const PER_JOB_FIELDS: [&str; 5] = [
    "job_id",
    "expires_at",
    "enqueue_time",
    "schedule_id",
    "scheduled_for",
];

impl TickEnvelope {
    /// From a schedule's envelope, whose unknown fields and ways of writing stay.
    ///
    /// # Errors
    /// [`EnvelopeError`] where it is no envelope, or one that can be only one job's.
    pub fn new(schedule: &Schedule) -> Result<TickEnvelope, EnvelopeError> {
        let bytes = schedule.envelope.get().as_bytes();
        let envelope = Envelope::parse(bytes)?;
        let mut fields: OrderedObject = serde_json::from_str(json::check_object(bytes)?)
            .map_err(|error| EnvelopeError::new(RejectReason::Invalid, "", error.to_string()))?;
        if let Some(name) = PER_JOB_FIELDS
            .into_iter()
            .find(|name| fields.get(name).is_some_and(|value| value.get() != "null"))
        {
            return Err(EnvelopeError::new(
                RejectReason::Invalid,
                name,
                "it is one job's, and a schedule makes many; leave it out",
            ));
        }
        for name in PER_JOB_FIELDS {
            fields.remove(name);
        }
        if schedule.overlap == Overlap::Queue {
            if envelope.concurrency_key.is_some() {
                return Err(EnvelopeError::new(
                    RejectReason::Invalid,
                    "concurrency_key",
                    "overlap `queue` makes the schedule's jobs run one at a time by a key of its own; leave one of the two out",
                ));
            }
            fields.set(
                "concurrency_key",
                &format!("schedule {}", schedule.schedule_id),
            )?;
            fields.set("concurrency_max", &1)?;
        }
        fields.set("schedule_id", &schedule.schedule_id)?;
        let mut head = fields.to_json()?;
        head.pop();
        head.push_str(",\"scheduled_for\":\"");
        Ok(TickEnvelope { head: head.into() })
    }

    /// The envelope of the job at this time, as JSON.
    #[must_use]
    pub fn at(&self, tick: Timestamp) -> String {
        let mut text = String::with_capacity(self.head.len() + 32);
        text.push_str(&self.head);
        text.push_str(&tick.to_string());
        text.push_str("\"}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(envelope: &str) -> Schedule {
        let now: Timestamp = "2026-12-24T17:00:00Z".parse().unwrap();
        Schedule::parse(
            serde_json::json!({
                "schedule_id": "nightly", "queue": "default",
                "envelope": serde_json::from_str::<serde_json::Value>(envelope).unwrap(),
                "cron": "0 5 * * *", "created_at": now, "progress": {"done_until": now},
            })
            .to_string()
            .as_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn a_job_is_told_its_tick() {
        let schedule = schedule(r#"{"command":"x","colour":"red","job_id":null}"#);
        let envelope = TickEnvelope::new(&schedule).unwrap();
        let tick = "2026-12-25T05:00:00.250Z".parse().unwrap();
        let text = envelope.at(tick);
        assert!(text.contains(r#""colour":"red""#), "{text}");
        let read = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(read.schedule_id, Some(schedule.schedule_id));
        assert_eq!(read.scheduled_for, Some(tick));
    }

    #[test]
    fn what_is_one_jobs_own_is_refused() {
        for (name, value) in [
            ("job_id", "\"a\""),
            ("expires_at", "\"2026-12-24T17:00:00Z\""),
            ("scheduled_for", "\"2026-12-24T17:00:00Z\""),
        ] {
            let schedule = schedule(&format!(r#"{{"command":"x","{name}":{value}}}"#));
            let invalid = TickEnvelope::new(&schedule).unwrap_err();
            assert_eq!(invalid.path, name);
        }
    }

    #[test]
    fn one_at_a_time_is_a_concurrency_key() {
        let mut one = schedule(r#"{"command":"x"}"#);
        one.overlap = Overlap::Queue;
        let text = TickEnvelope::new(&one).unwrap().at(one.created_at);
        let read = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(read.concurrency_key.as_deref(), Some("schedule nightly"));
        assert_eq!(read.concurrency_max, Some(1));
        let mut both = schedule(r#"{"command":"x","concurrency_key":"k"}"#);
        both.overlap = Overlap::Queue;
        assert_eq!(
            TickEnvelope::new(&both).unwrap_err().path,
            "concurrency_key"
        );
    }

    #[test]
    fn a_wrong_field_is_named() {
        let invalid = Schedule::parse(br#"{"schedule_id":"a.b"}"#).unwrap_err();
        assert_eq!(invalid.path, "schedule_id");
    }
}
