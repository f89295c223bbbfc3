//! Makes entries of the audit from what was done and who did it.

use naq_protocol::{
    AUDIT_TEXT_CHARS_MAX, AuditAction, AuditEntry, AuditInterface, JobId, QueueName, ScheduleId,
    UnknownFields, command_line,
};

/// Who changes something, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditActor {
    /// The name of a token of the dashboard, of a user whom a proxy has authenticated, or of a user of the operating
    /// system.
    pub who: String,
    /// The interface that is used.
    pub via: AuditInterface,
    /// The IP address of a client of the dashboard, or the host of a command.
    pub from: String,
    /// The client that a trusted proxy names. `None` if none is named.
    pub forwarded_for: Option<String>,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditChange {
    /// What was done.
    pub action: AuditAction,
    /// The names of the jobs, queues or schedules, which the noun of the action says. Empty if a filter
    /// selected them. A single name is stored as such; several become the filter of the entry.
    pub names: Vec<String>,
    /// The queue of the jobs. `None` if the action is about queues, or if no queue was given.
    pub queue: Option<QueueName>,
    /// The options that selected what was changed. `None` if it was named.
    pub filter: Option<String>,
    /// How many were changed.
    pub count: u64,
    /// Why the action was not completed. `None` if it was.
    pub error: Option<String>,
}

/// The entry about a change. Texts that are too long are cut.
#[must_use]
pub fn audit_entry(actor: &AuditActor, change: AuditChange) -> AuditEntry {
    let mut entry = AuditEntry {
        action: change.action,
        who: actor.who.clone(),
        via: actor.via,
        from: actor.from.clone(),
        forwarded_for: actor.forwarded_for.clone(),
        job_id: None,
        queue: change.queue,
        schedule_id: None,
        filter: change.filter,
        count: change.count,
        error: change.error,
        unknown: UnknownFields::default(),
    };
    let is_named = match change.names.as_slice() {
        [name] => set_name(&mut entry, name),
        _ => false,
    };
    if !is_named && !change.names.is_empty() {
        let names = list_names(&change.names);
        entry.filter = Some(match entry.filter {
            Some(filter) => format!("{filter} {names}"),
            None => names,
        });
    }
    entry.bounded()
}

/// Stores a name in the field of the action's noun. Returns false if the noun has none, or if the text is
/// not such a name.
fn set_name(entry: &mut AuditEntry, name: &str) -> bool {
    match entry.action.noun_and_verb().0 {
        "job" | "failed" => {
            entry.job_id = JobId::new(name).ok();
            entry.job_id.is_some()
        }
        "queue" => {
            entry.queue = QueueName::new(name).ok();
            entry.queue.is_some()
        }
        "schedule" => {
            entry.schedule_id = ScheduleId::new(name).ok();
            entry.schedule_id.is_some()
        }
        _ => false,
    }
}

/// Names as words of a command line: as many as fit, and how many others there are.
fn list_names(names: &[String]) -> String {
    /// What the number of the others may take.
    const REST_CHARS: usize = 32;
    let mut chars = 0;
    let fitting = names
        .iter()
        .take_while(|name| {
            chars += name.chars().count() + 1;
            chars + REST_CHARS <= AUDIT_TEXT_CHARS_MAX
        })
        .count();
    let listed = command_line(names.iter().take(fitting).map(String::as_str));
    match names.len() - fitting {
        0 => listed,
        others => format!("{listed} and {others} more")
            .trim_start()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn actor() -> AuditActor {
        AuditActor {
            who: "anna".to_owned(),
            via: AuditInterface::Cli,
            from: "host-1".to_owned(),
            forwarded_for: None,
        }
    }

    fn change(action: AuditAction, names: &[&str]) -> AuditChange {
        AuditChange {
            action,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            queue: None,
            filter: None,
            count: names.len() as u64,
            error: None,
        }
    }

    fn json(change: AuditChange) -> serde_json::Value {
        serde_json::to_value(audit_entry(&actor(), change)).unwrap()
    }

    #[test]
    fn a_single_name_is_in_the_field_of_its_noun() {
        for (action, field) in [
            (AuditAction::JobCancel, "job_id"),
            (AuditAction::FailedRetry, "job_id"),
            (AuditAction::QueuePause, "queue"),
            (AuditAction::ScheduleDelete, "schedule_id"),
        ] {
            let entry = json(change(action, &["a"]));
            assert_eq!(entry[field], "a", "{entry}");
            assert_eq!(entry.get("filter"), None, "{entry}");
            assert_eq!(
                (&entry["who"], &entry["count"]),
                (&"anna".into(), &1.into())
            );
        }
    }

    #[test]
    fn several_names_are_the_filter_and_other_texts_too() {
        let several = json(change(AuditAction::QueuePause, &["a", "b c"]));
        assert_eq!(several["filter"], "a 'b c'");
        assert_eq!(several.get("queue"), None);
        assert_eq!(json(change(AuditAction::ServerFix, &["a"]))["filter"], "a");
        assert_eq!(
            json(change(AuditAction::QueueAdd, &["a b"]))["filter"],
            "'a b'"
        );
        let filtered = AuditChange {
            filter: Some("--queue build".to_owned()),
            ..change(AuditAction::JobCancel, &[])
        };
        assert_eq!(json(filtered)["filter"], "--queue build");
        let of_queue = AuditChange {
            queue: QueueName::new("build").ok(),
            ..change(AuditAction::JobEnqueue, &["a"])
        };
        let of_queue = json(of_queue);
        assert_eq!(
            (&of_queue["queue"], &of_queue["job_id"]),
            (&"build".into(), &"a".into())
        );
    }

    #[test]
    fn a_list_of_names_that_is_too_long_counts_the_others() {
        let names: Vec<String> = (0..1_000).map(|at| format!("job-{at}")).collect();
        let listed = list_names(&names);
        assert!(listed.starts_with("job-0 job-1 "), "{listed}");
        assert!(listed.ends_with(" more"), "{listed}");
        assert!(listed.chars().count() <= AUDIT_TEXT_CHARS_MAX, "{listed}");
        let one = ["x".repeat(2_000)];
        assert_eq!(list_names(&one), "and 1 more");
    }

    proptest! {
        #[test]
        fn an_entry_of_any_texts_is_bounded(texts in proptest::collection::vec(".{0,300}", 0..40)) {
            let first = texts.first().cloned().unwrap_or_default();
            let actor = AuditActor { who: first.repeat(3), from: first.clone(), ..actor() };
            let change = AuditChange {
                action: AuditAction::JobCancel,
                queue: None,
                filter: texts.get(1).map(|text| text.repeat(3)),
                names: texts,
                count: 1,
                error: Some(first.repeat(5)),
            };
            let entry = audit_entry(&actor, change);
            let bytes = serde_json::to_vec(&entry).unwrap();
            prop_assert!(bytes.len() < 16_000, "{}", bytes.len());
        }
    }
}
