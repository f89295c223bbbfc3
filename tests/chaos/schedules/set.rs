//! The schedules of a run: what each does, and how the controller changes it.

use naq_protocol::{Schedule, ScheduleId, Timestamp};
use serde_json::{Value, json};

use crate::chaos::jobs::{Ends, MARK, Planned, Program, QUEUES};

/// How a schedule is changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Treatment {
    /// Not at all.
    None,
    /// Paused and resumed.
    Pauses,
    /// It gets another cadence.
    Moves,
    /// Removed and recreated.
    Comes,
    /// Its next tick is set by hand.
    ByHand,
    /// Recreated once it has ended.
    Repeats,
}

/// One of the schedules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) treatment: Treatment,
    /// What its jobs do.
    args: &'static [&'static str],
    fields: &'static str,
}

const fn role(
    name: &'static str,
    treatment: Treatment,
    args: &'static [&'static str],
    fields: &'static str,
) -> Role {
    Role {
        name,
        treatment,
        args,
        fields,
    }
}

const SHORT: &[&str] = &["exit", "0"];

/// The schedules. The grace period of some is longer than any outage of a run. For the others, ticks
/// that were due in an outage are late, and the misfire policy decides.
pub(super) const ROLES: &[Role] = &[
    role("steady", Treatment::None, SHORT, r#"{"every": 0.1}"#),
    role(
        "seconds",
        Treatment::None,
        SHORT,
        r#"{"cron": "* * * * * *", "misfire_grace": 2}"#,
    ),
    role(
        "zoned",
        Treatment::Pauses,
        SHORT,
        r#"{"cron": "1-59/2 * * * * *", "tz": "Asia/Kathmandu"}"#,
    ),
    role(
        "paused",
        Treatment::Pauses,
        SHORT,
        r#"{"every": 0.25, "misfire_grace": 1}"#,
    ),
    role(
        "jittered",
        Treatment::Pauses,
        SHORT,
        r#"{"every": 0.4, "jitter": 0.3}"#,
    ),
    role("moved", Treatment::Moves, SHORT, r#"{"every": 0.3}"#),
    role("fleeting", Treatment::Comes, SHORT, r#"{"every": 0.3}"#),
    role("by-hand", Treatment::ByHand, SHORT, r#"{"every": 1.5}"#),
    role(
        "repeated",
        Treatment::Repeats,
        SHORT,
        r#"{"every": 0.2, "repeat": 25, "misfire_grace": 2}"#,
    ),
    role(
        "skipping",
        Treatment::None,
        &["nap"],
        r#"{"every": 0.3, "overlap": "skip"}"#,
    ),
    role(
        "queueing",
        Treatment::None,
        &["nap"],
        r#"{"every": 0.8, "overlap": "queue"}"#,
    ),
    role(
        "replacing",
        Treatment::None,
        &["nap"],
        r#"{"every": 0.5, "overlap": "replace"}"#,
    ),
];

/// The cadences that [`Treatment::Moves`] sets.
pub(super) const CADENCES: &[&str] = &[
    r#"{"every": 0.15}"#,
    r#"{"every": 0.3}"#,
    r#"{"every": 0.65}"#,
    r#"{"cron": "*/2 * * * * *"}"#,
    r#"{"cron": "0-29,30-59 * 0-23 * 1-12 *", "tz": "America/New_York"}"#,
];

/// The role of a schedule.
pub(super) fn role_of(name: &str) -> Option<&'static Role> {
    ROLES.iter().find(|role| role.name == name)
}

impl Role {
    pub(super) fn id(&self) -> ScheduleId {
        ScheduleId::new(self.name).unwrap()
    }

    fn index(&self) -> usize {
        ROLES
            .iter()
            .position(|role| role.name == self.name)
            .unwrap()
    }

    fn queue(&self) -> &'static str {
        QUEUES[self.index() % QUEUES.len()]
    }

    fn envelope(&self, program: &Program, mark: &str) -> Value {
        json!({
            "command": program.path,
            "args": self.args,
            "env": {MARK: mark, "CHAOS_LOG": program.log},
            "meta": self.index(),
        })
    }

    /// The schedule, created at this time.
    pub(super) fn schedule(&self, program: &Program, mark: &str, now: Timestamp) -> Schedule {
        let mut value = json!({
            "schedule_id": self.name,
            "queue": self.queue(),
            "envelope": self.envelope(program, mark),
            "misfire": "all",
            "misfire_max": 10_000,
            "misfire_grace": 3_600,
            "created_at": now,
            "progress": {"done_until": now},
        });
        let fields: Value = serde_json::from_str(self.fields).unwrap();
        let all = value.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        Schedule::parse(value.to_string().as_bytes()).unwrap()
    }

    /// The plan of each of its jobs.
    pub(super) fn planned(&self, program: &Program, mark: &str) -> Planned {
        let mut envelope = self.envelope(program, mark);
        if self.fields.contains("queue") {
            envelope["concurrency_key"] = json!(format!("schedule {}", self.name));
            envelope["concurrency_max"] = json!(1);
        }
        Planned {
            queue: self.queue(),
            job_id: None,
            kind: self.name,
            ends: Ends::Well { stdout_bytes: 0 },
            envelope,
        }
    }
}
