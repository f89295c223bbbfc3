//! Entries of the audit, the stream `naq_audit`: who changed what, how many, and from where.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{JobId, QueueName, ScheduleId};
use crate::unknown_fields::{UnknownFields, keeps_unknown_fields};
use crate::wire_name::{UnknownName, wire_name};

/// Maximum length of a name or an address in an entry, in characters.
pub const AUDIT_NAME_CHARS_MAX: usize = 128;

/// Maximum length of the filter and of the error of an entry, in characters.
pub const AUDIT_TEXT_CHARS_MAX: usize = 500;

/// Defines [`AuditAction`] with its names, so that no list of them is incomplete.
macro_rules! audit_actions {
    ($($(#[$doc:meta])* $variant:ident => $name:literal),+ $(,)?) => {
        /// What was done: a noun and a verb, as in `queue.purge`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema)]
        #[non_exhaustive]
        pub enum AuditAction {
            $(
                $(#[$doc])*
                #[schemars(rename = $name)]
                $variant,
            )+
            /// An action that only a later version of naq defines.
            #[schemars(skip)]
            Unknown(UnknownName),
        }

        wire_name!(AuditAction, "an action", { $($variant => $name),+ });

        impl AuditAction {
            /// Every action that this version defines.
            pub const ALL: &[AuditAction] = &[$(AuditAction::$variant),+];
        }
    };
}

audit_actions! {
    /// Jobs were enqueued through the HTTP API.
    JobEnqueue => "job.enqueue",
    /// Jobs were cancelled, or their workers were asked to stop them.
    JobCancel => "job.cancel",
    /// Ended jobs were enqueued again.
    JobRetry => "job.retry",
    /// The time was changed after which a job's record expires.
    JobTtl => "job.ttl",
    /// Delayed jobs were paused.
    JobPause => "job.pause",
    /// Delayed jobs were resumed.
    JobResume => "job.resume",
    /// The time at which a job starts was changed.
    JobReschedule => "job.reschedule",
    /// Delayed jobs were enqueued at once.
    JobTrigger => "job.trigger",
    /// Failed jobs were enqueued again.
    FailedRetry => "failed.retry",
    /// Dead letters were discarded.
    FailedDiscard => "failed.discard",
    /// Records of ended jobs were removed.
    ResultsPurge => "results.purge",
    /// Queues were created.
    QueueAdd => "queue.add",
    /// Settings of queues were changed.
    QueueSet => "queue.set",
    /// Queues were paused.
    QueuePause => "queue.pause",
    /// Queues were resumed.
    QueueResume => "queue.resume",
    /// Jobs were removed from queues; `count` is the number of jobs.
    QueuePurge => "queue.purge",
    /// Queues were removed; `count` is the number of jobs in them.
    QueueRemove => "queue.remove",
    /// A schedule was created or replaced.
    ScheduleAdd => "schedule.add",
    /// Schedules were made to match a file.
    ScheduleApply => "schedule.apply",
    /// Schedules were paused.
    SchedulePause => "schedule.pause",
    /// Schedules were resumed.
    ScheduleResume => "schedule.resume",
    /// A schedule was changed.
    ScheduleUpdate => "schedule.update",
    /// A job of a schedule was enqueued at once.
    ScheduleTrigger => "schedule.trigger",
    /// Schedules were deleted.
    ScheduleDelete => "schedule.delete",
    /// Jobs of a schedule were enqueued for ticks of the past; `count` is the number of jobs.
    ScheduleBackfill => "schedule.backfill",
    /// Workers were asked to drain.
    WorkerDrain => "worker.drain",
    /// Settings of streams and consumers were changed to what naq needs.
    ServerFix => "server.fix",
}

impl AuditAction {
    /// The noun and the verb. The verb is empty if the name has no dot.
    #[must_use]
    pub fn noun_and_verb(&self) -> (&str, &str) {
        self.as_str().split_once('.').unwrap_or((self.as_str(), ""))
    }
}

/// The interface through which something was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditInterface {
    /// The command line.
    Cli,
    /// The HTTP API of a dashboard.
    Api,
    /// A page of a dashboard.
    Page,
    /// An interface that only a later version of naq defines.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(AuditInterface, "an interface", {
    Cli => "cli",
    Api => "api",
    Page => "page",
});

/// An entry of the audit. The time of an entry is the server's time of its message. Whether the identity was
/// checked or is only claimed follows from the subject, for which NATS checks who may write to it, and not
/// from the entry.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct AuditEntry {
    /// What was done.
    pub action: AuditAction,
    /// Who did it: the name of a token of the dashboard, of a user whom a trusted proxy has authenticated, or of a
    /// user of the operating system; at most 128 characters.
    pub who: String,
    /// The interface that was used.
    pub via: AuditInterface,
    /// From where: the IP address of a client of the dashboard, or the host of a command; at most 128
    /// characters.
    pub from: String,
    /// The address of the client that a trusted proxy names; at most 128 characters. `None` if none names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded_for: Option<String>,
    /// The job. `None` if it was not one job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The queue. `None` if it was not one queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// The schedule. `None` if it was not one schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    /// What selected several: options as on the command line, or names; at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// How many were changed: jobs, queues, schedules or settings, depending on the action.
    pub count: u64,
    /// Why the action was not completed; then `count` is what was changed before, and may be too low. At
    /// most 500 characters. `None` if it was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(AuditEntry);

impl AuditEntry {
    /// The entry with texts cut to their maximum lengths, each with `…` where it was cut.
    #[must_use]
    pub fn bounded(mut self) -> AuditEntry {
        cut(&mut self.who, AUDIT_NAME_CHARS_MAX);
        cut(&mut self.from, AUDIT_NAME_CHARS_MAX);
        if let Some(client) = &mut self.forwarded_for {
            cut(client, AUDIT_NAME_CHARS_MAX);
        }
        for text in [&mut self.filter, &mut self.error].into_iter().flatten() {
            cut(text, AUDIT_TEXT_CHARS_MAX);
        }
        self
    }
}

/// Cuts a text to so many characters, of which the last is `…` if something is missing.
fn cut(text: &mut String, chars_max: usize) {
    if text.chars().count() > chars_max {
        let kept: String = text.chars().take(chars_max.saturating_sub(1)).collect();
        *text = format!("{kept}…");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(text: &str) -> AuditEntry {
        AuditEntry {
            action: AuditAction::QueuePurge,
            who: text.to_owned(),
            via: AuditInterface::Cli,
            from: text.to_owned(),
            forwarded_for: Some(text.to_owned()),
            job_id: None,
            queue: None,
            schedule_id: None,
            filter: Some(text.to_owned()),
            count: 7,
            error: Some(text.to_owned()),
            unknown: UnknownFields::default(),
        }
    }

    #[test]
    fn every_action_is_a_noun_and_a_verb_that_fit_into_a_subject() {
        for action in AuditAction::ALL {
            let name = action.as_str();
            assert_eq!(AuditAction::from_name(name), *action);
            let (noun, verb) = action.noun_and_verb();
            for word in [noun, verb] {
                let is_word = !word.is_empty() && word.bytes().all(|c| c.is_ascii_lowercase());
                assert!(is_word, "{name}");
            }
        }
    }

    #[test]
    fn an_entry_of_a_later_version_is_read_and_written_back() {
        let text = r#"{"action":"queue.split","who":"anna","via":"phone","from":"::1","queue":"build","count":2,"colour":1.50}"#;
        let entry: AuditEntry = serde_json::from_str(text).unwrap();
        assert!(matches!(entry.action, AuditAction::Unknown(_)), "{entry:?}");
        assert_eq!(entry.action.noun_and_verb(), ("queue", "split"));
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
    }

    #[test]
    fn a_cut_text_shows_that_it_was_cut() {
        let bounded = entry(&"é".repeat(600)).bounded();
        assert_eq!(bounded.who.chars().count(), AUDIT_NAME_CHARS_MAX);
        assert!(bounded.who.ends_with("é…"));
        let whole = "x".repeat(AUDIT_NAME_CHARS_MAX);
        assert_eq!(entry(&whole).bounded().from, whole);
    }

    proptest! {
        /// 16 KiB is the maximum size of a message of the stream.
        #[test]
        fn a_bounded_entry_fits_into_its_message(text in "\\PC{0,700}|[\\x00-\\x1f\"\\\\]{0,700}") {
            let bounded = entry(&text).bounded();
            let bytes = serde_json::to_vec(&bounded).unwrap();
            prop_assert!(bytes.len() < 16_000, "{}", bytes.len());
            let again: AuditEntry = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(again.bounded().filter, bounded.filter);
        }
    }
}
