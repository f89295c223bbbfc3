//! Schedules: which job is enqueued repeatedly, when, and how far the schedule has advanced.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::envelope::Envelope;
use crate::error::{EnvelopeError, RejectReason};
use crate::json;
use crate::lenient;
use crate::names::{JobId, QueueName, ScheduleId};
use crate::ordered_object::OrderedObject;
use crate::time::Timestamp;
use crate::units::WireDuration;
use crate::unknown_fields::{KeepUnknown, UnknownFields, keeps_unknown_fields};
use crate::wire_name::{UnknownName, wire_name};

/// The shortest interval of a schedule, in milliseconds.
pub const INTERVAL_MS_MIN: u64 = 100;

/// The largest `misfire_max`.
pub const MISFIRE_MAX_MAX: u32 = 10_000;

/// Default `misfire_max`.
pub const MISFIRE_MAX_DEFAULT: u32 = 100;

/// Default `misfire_grace`. A new leader takes over within seconds, and ticks that were due in
/// between are no misfires.
pub const MISFIRE_GRACE_DEFAULT: WireDuration = WireDuration::from_secs(60);

/// What to do with ticks that no scheduler enqueued in time.
// Exhaustive on purpose, see `State`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Misfire {
    /// Skip them.
    Skip,
    /// Enqueue the last of them.
    #[default]
    Once,
    /// Enqueue the last `misfire_max` of them.
    All,
    /// A policy that only a later version of naq defines. No ticks are enqueued.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(Misfire, "a misfire policy", {
    Skip => "skip",
    Once => "once",
    All => "all",
});

/// What to do with a tick while the job of the previous one has not finished.
// Exhaustive on purpose, see `State`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Overlap {
    /// Enqueue it; both jobs may run at once.
    #[default]
    Allow,
    /// Skip it.
    Skip,
    /// Enqueue it and block it until the previous job finishes: the schedule's jobs run one at a time.
    Queue,
    /// Cancel the previous job and enqueue it.
    Replace,
    /// A policy that only a later version of naq defines. No ticks are enqueued.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(Overlap, "an overlap policy", {
    Allow => "allow",
    Skip => "skip",
    Queue => "queue",
    Replace => "replace",
});

/// The status of a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum ScheduleStatus {
    /// Its ticks are enqueued.
    #[default]
    Active,
    /// Its ticks are skipped until it is resumed.
    Paused,
    /// It has no more ticks.
    Ended,
    /// A status that only a later version of naq defines. No ticks are enqueued.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(ScheduleStatus, "a status of a schedule", {
    Active => "active",
    Paused => "paused",
    Ended => "ended",
});

/// A schedule, as stored in the bucket `naq_scheduled_jobs` under its id.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct Schedule {
    /// The id of the schedule.
    pub schedule_id: ScheduleId,
    /// The queue of its jobs.
    pub queue: QueueName,
    /// The envelope of each of its jobs, without an id.
    #[schemars(with = "serde_json::Value")]
    pub envelope: Box<RawValue>,
    /// The cron expression. Either `cron` or `every` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The IANA time zone of `cron`; UTC if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// The interval between two ticks. Either `cron` or `every` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<WireDuration>,
    /// The time from which intervals are counted; `start` or else `created_at` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Timestamp>,
    /// How many jobs it enqueues in total; no limit if absent.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub repeat: Option<u64>,
    /// The time of the earliest tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// The time of the latest tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
    /// The longest random delay of a tick; each tick gets its own delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<WireDuration>,
    /// What to do with late ticks.
    #[serde(default, deserialize_with = "lenient::or_default")]
    #[schemars(with = "Option<Misfire>")]
    pub misfire: Misfire,
    /// The most late ticks that are enqueued under `all`; 100 if absent.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub misfire_max: Option<u32>,
    /// How late a tick may be and still be on time; a minute if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misfire_grace: Option<WireDuration>,
    /// What to do with a tick while the previous job has not finished.
    #[serde(default, deserialize_with = "lenient::or_default")]
    #[schemars(with = "Option<Overlap>")]
    pub overlap: Overlap,
    /// The set that it was applied with. When the set is applied without it, it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether its ticks are enqueued.
    #[serde(default, deserialize_with = "lenient::or_default")]
    #[schemars(with = "Option<ScheduleStatus>")]
    pub status: ScheduleStatus,
    /// Why the scheduler paused it; absent if a user did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_reason: Option<String>,
    /// The next tick, if a user set it. Later ticks follow the cron expression or the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Timestamp>,
    /// How far it has advanced; from `created_at` if absent.
    #[serde(default, deserialize_with = "lenient::or_default")]
    #[schemars(with = "Option<ScheduleProgress>")]
    pub progress: ScheduleProgress,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// How far a schedule has advanced; written by the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct ScheduleProgress {
    /// Every tick up to and including this time was enqueued or skipped. If absent, the schedule's
    /// `created_at`.
    #[serde(default = "unset", deserialize_with = "unset_if_null")]
    #[schemars(with = "Option<Timestamp>")]
    pub done_until: Timestamp,
    /// The last tick that was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Timestamp>,
    /// The job of that tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_job_id: Option<JobId>,
    /// When a user last triggered a job, in addition to the ticks. Each trigger has a later time than
    /// the one before, so that its job has an id of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_trigger: Option<Timestamp>,
    /// The number of jobs enqueued.
    #[serde(default, deserialize_with = "lenient::integer_or_default")]
    pub runs: u64,
    /// The number of late ticks that `misfire` skipped, and of ticks that could not be enqueued.
    #[serde(default, deserialize_with = "lenient::integer_or_default")]
    pub missed: u64,
    /// `missed` is a lower bound: after a long outage, not all of the ticks were counted.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub missed_is_minimum: bool,
    /// The number of ticks that `overlap` skipped.
    #[serde(default, deserialize_with = "lenient::integer_or_default")]
    pub skipped: u64,
    /// The number of consecutive ticks that could not be enqueued.
    #[serde(default, deserialize_with = "lenient::integer_or_default")]
    pub failures: u32,
    /// Why the last of them could not be enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The schedule was paused or has ended since `done_until`. If it is active, that was changed by
    /// hand, and the scheduler continues from the time at which it sees that.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub inactive: bool,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(ScheduleProgress);

/// Stands for a `done_until` that is absent, until the time is known at which the schedule was created.
fn unset() -> Timestamp {
    Timestamp(chrono::DateTime::UNIX_EPOCH)
}

fn unset_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(unset))
}

impl Default for ScheduleProgress {
    /// No progress, of a schedule that begins when it is created.
    fn default() -> ScheduleProgress {
        ScheduleProgress::from(unset())
    }
}

impl ScheduleProgress {
    /// The progress of a schedule that begins at `now`.
    #[must_use]
    pub fn from(now: Timestamp) -> ScheduleProgress {
        ScheduleProgress {
            done_until: now,
            last_run: None,
            last_job_id: None,
            last_trigger: None,
            runs: 0,
            missed: 0,
            missed_is_minimum: false,
            skipped: 0,
            failures: 0,
            last_error: None,
            inactive: false,
            unknown: UnknownFields::default(),
        }
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Schedule::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Schedule, D::Error> {
        let mut unknown = UnknownFields::default();
        let mut schedule = Schedule::deserialize(KeepUnknown::new(deserializer, &mut unknown))?;
        schedule.unknown = unknown;
        if schedule.progress.done_until == unset() {
            schedule.progress.done_until = schedule.created_at;
        }
        Ok(schedule)
    }
}

impl Schedule {
    /// Parses a stored schedule.
    ///
    /// # Errors
    /// Returns [`EnvelopeError`] with the path of the invalid field.
    pub fn parse(bytes: &[u8]) -> Result<Schedule, EnvelopeError> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            EnvelopeError::new(RejectReason::Invalid, path, error.into_inner().to_string())
        })
    }
}

/// The scheduler that holds the leader lease and enqueues ticks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaderInfo {
    /// The scheduler's id, unique to this process.
    pub instance_id: String,
    /// The host that the scheduler runs on.
    pub hostname: String,
    /// Its process id on that host.
    pub pid: u32,
    /// The version of naq.
    pub version: String,
    /// When it became the leader.
    pub since: Timestamp,
}

/// The envelopes of a schedule's jobs. All but the time of the tick is serialized once.
#[derive(Clone, Debug)]
pub struct TickEnvelope {
    /// The JSON object up to the time of the tick.
    head: Box<str>,
}

/// The name of the label of a backfill's jobs. Its value is the time at which the backfill was requested.
pub const BACKFILL_LABEL: &str = "backfill";

/// The fields that identify or time one job, so that an envelope of many jobs cannot have them.
pub(crate) const PER_JOB_FIELDS: [&str; 5] = [
    "job_id",
    "expires_at",
    "enqueue_time",
    "schedule_id",
    "scheduled_for",
];

impl TickEnvelope {
    /// Prepares the envelope of a schedule. Its unknown fields and the text of its values stay.
    ///
    /// # Errors
    /// Returns [`EnvelopeError`] if the envelope is invalid or sets a field that only one job can have.
    pub fn new(schedule: &Schedule) -> Result<TickEnvelope, EnvelopeError> {
        TickEnvelope::build(schedule, None)
    }

    /// Prepares the envelope of a schedule for the jobs of a backfill. They have the label [`BACKFILL_LABEL`] with
    /// this value, unless the envelope has a label of this name. If two jobs of the schedule must not overlap, these
    /// run one at a time by the concurrency key of `overlap: queue`, unless the envelope has a key.
    ///
    /// # Errors
    /// As [`TickEnvelope::new`].
    pub fn for_backfill(
        schedule: &Schedule,
        backfill: &str,
    ) -> Result<TickEnvelope, EnvelopeError> {
        TickEnvelope::build(schedule, Some(backfill))
    }

    fn build(schedule: &Schedule, backfill: Option<&str>) -> Result<TickEnvelope, EnvelopeError> {
        // A later version may give the jobs of its policy fields that this version does not know.
        let overlap = schedule
            .overlap
            .known()
            .map_err(|problem| EnvelopeError::new(RejectReason::Invalid, "overlap", problem))?;
        let bytes = schedule.envelope.get().as_bytes();
        let envelope = Envelope::parse(bytes)?;
        let mut fields: OrderedObject =
            serde_json::from_str(json::check_object(bytes, Envelope::field_names())?).map_err(
                |error| EnvelopeError::new(RejectReason::Invalid, "", error.to_string()),
            )?;
        if let Some(name) = PER_JOB_FIELDS
            .into_iter()
            .find(|name| fields.get(name).is_some_and(|value| value.get() != "null"))
        {
            return Err(EnvelopeError::new(
                RejectReason::Invalid,
                name,
                "it identifies one job, and a schedule enqueues many; leave it out",
            ));
        }
        for name in PER_JOB_FIELDS {
            fields.remove(name);
        }
        // The scheduler skips or replaces a tick when it is due; all ticks of a backfill are due at once.
        let is_serial_backfill = backfill.is_some()
            && matches!(overlap, Overlap::Skip | Overlap::Replace)
            && envelope.concurrency_key.is_none();
        if overlap == Overlap::Queue || is_serial_backfill {
            if envelope.concurrency_key.is_some() {
                return Err(EnvelopeError::new(
                    RejectReason::Invalid,
                    "concurrency_key",
                    "overlap `queue` sets a concurrency key of its own to run one job at a time; leave one of the two out",
                ));
            }
            fields.set(
                "concurrency_key",
                &format!("schedule {}", schedule.schedule_id),
            )?;
            fields.set("concurrency_max", &1)?;
        }
        if let Some(backfill) = backfill {
            let mut labels = envelope.labels;
            labels
                .entry(BACKFILL_LABEL.to_owned())
                .or_insert_with(|| backfill.to_owned());
            fields.set("labels", &labels)?;
        }
        fields.set("schedule_id", &schedule.schedule_id)?;
        let mut head = fields.to_json()?;
        head.pop();
        head.push_str(",\"scheduled_for\":\"");
        Ok(TickEnvelope { head: head.into() })
    }

    /// The envelope of the job at a tick, as JSON.
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
    fn job_of_a_schedule_carries_its_tick() {
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
    fn field_of_a_single_job_is_refused_in_a_schedule() {
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
    fn overlap_queue_sets_a_concurrency_key() {
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
    fn jobs_of_a_backfill_have_its_label_and_do_not_overlap_unless_they_may() {
        let of = |envelope: &str, overlap| {
            let mut one = schedule(envelope);
            one.overlap = overlap;
            let envelope = TickEnvelope::for_backfill(&one, "20261224T170000Z").unwrap();
            Envelope::parse(envelope.at(one.created_at).as_bytes()).unwrap()
        };
        let plain = of(r#"{"command":"x","labels":{"team":"ops"}}"#, Overlap::Allow);
        let labels: Vec<_> = plain
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(labels, ["backfill=20261224T170000Z", "team=ops"]);
        assert_eq!(plain.concurrency_key, None);
        let own = of(
            r#"{"command":"x","labels":{"backfill":"no"}}"#,
            Overlap::Allow,
        );
        assert_eq!(own.labels["backfill"], "no");
        let none = of(r#"{"command":"x","labels":null}"#, Overlap::Allow);
        assert_eq!(none.labels.len(), 1);
        for overlap in [Overlap::Skip, Overlap::Replace, Overlap::Queue] {
            let serial = of(r#"{"command":"x"}"#, overlap);
            assert_eq!(serial.concurrency_key.as_deref(), Some("schedule nightly"));
            assert_eq!(serial.concurrency_max, Some(1));
        }
        let keyed = of(r#"{"command":"x","concurrency_key":"k"}"#, Overlap::Skip);
        assert_eq!(keyed.concurrency_key.as_deref(), Some("k"));
    }

    #[test]
    fn invalid_schedule_field_is_named() {
        let invalid = Schedule::parse(br#"{"schedule_id":"a.b"}"#).unwrap_err();
        assert_eq!(invalid.path, "schedule_id");
    }
}
