//! What the tests of this folder share: a schedule, and timestamps.

use std::time::Duration;

use naq_protocol::units::WireDuration;
use naq_protocol::{
    Misfire, Overlap, QueueName, Schedule, ScheduleId, ScheduleProgress, ScheduleStatus, Timestamp,
};

/// A time in RFC 3339.
pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A time in milliseconds since the Unix epoch.
pub(super) fn ms(unix_ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(unix_ms).unwrap()
}

/// A schedule that was created on 24 December 2026 at 17:00 UTC.
pub(super) fn schedule(cron: Option<&str>, every_ms: Option<u64>) -> Schedule {
    let now = at("2026-12-24T17:00:00Z");
    Schedule {
        schedule_id: ScheduleId::new("nightly").unwrap(),
        queue: QueueName::new("default").unwrap(),
        envelope: serde_json::from_str(r#"{"command":"true"}"#).unwrap(),
        cron: cron.map(str::to_owned),
        tz: None,
        every: every_ms.map(|ms| WireDuration(Duration::from_millis(ms))),
        anchor: None,
        repeat: None,
        start: None,
        end: None,
        jitter: None,
        misfire: Misfire::Once,
        misfire_max: None,
        misfire_grace: None,
        overlap: Overlap::Allow,
        set: None,
        created_at: now,
        status: ScheduleStatus::Active,
        paused_reason: None,
        next_run: None,
        progress: ScheduleProgress::from(now),
        unknown: naq_protocol::UnknownFields::default(),
    }
}
