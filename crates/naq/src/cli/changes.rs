//! What a verb has changed, which it appends to the audit when it is done.

use std::time::Duration;

use super::exit::Failure;
use naq_client::{AuditAction, AuditInterface, AuditWriter, Client};
use naq_core::{AuditActor, AuditChange, audit_entry};

/// How long a verb waits until NATS has stored its entry. The change itself is made by then, so a slow or full
/// server delays only the end of the verb.
const APPEND_MAX: Duration = Duration::from_secs(1);

/// The changes of a verb so far.
#[derive(Debug)]
pub(super) struct Changes {
    change: AuditChange,
    /// Whether more may be changed than was counted.
    is_uncertain: bool,
}

impl Changes {
    /// Changes of what is named on the command line.
    pub(super) fn new(action: AuditAction) -> Changes {
        let change = AuditChange {
            action,
            names: Vec::new(),
            queue: None,
            filter: None,
            count: 0,
            error: None,
        };
        Changes {
            change,
            is_uncertain: false,
        }
    }

    /// Changes of what these options select.
    pub(super) fn selected_by(action: AuditAction, filter: String) -> Changes {
        let mut changes = Changes::new(action);
        changes.change.filter = Some(filter);
        changes
    }

    /// Adds one that was changed.
    pub(super) fn add(&mut self, name: &impl ToString) {
        self.add_with(name, 1);
    }

    /// Adds a queue of which so many jobs were changed.
    pub(super) fn add_with(&mut self, name: &impl ToString, count: u64) {
        self.change.names.push(name.to_string());
        self.change.count += count;
    }

    /// Adds so many of these, of which the others were as wanted.
    pub(super) fn add_all(&mut self, names: &[impl ToString], count: u64) {
        let names = names.iter().map(ToString::to_string);
        self.change.names.extend(names);
        self.change.count += count;
    }

    /// Adds so many that the filter has selected.
    pub(super) fn add_count(&mut self, count: u64) {
        self.change.count += count;
    }

    /// Says that an action has failed which may have changed something before.
    pub(super) fn add_unknown(&mut self) {
        self.is_uncertain = true;
    }

    /// Appends an entry to the audit, unless nothing was changed. A verb does not fail because of its entry:
    /// what it changed is changed.
    pub(super) async fn record<T>(mut self, client: &Client, done: &Result<T, Failure>) {
        let is_changed = self.change.count > 0 || !self.change.names.is_empty();
        if !is_changed && !self.is_uncertain {
            return;
        }
        let failure = done.as_ref().err();
        self.change.error = failure.map(|failure| failure.message.clone());
        let entry = audit_entry(&actor(), self.change);
        let appending = client.append_audit_entry(AuditWriter::CommandLine, &entry);
        match tokio::time::timeout(APPEND_MAX, appending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                "the audit lacks what this verb has changed: {}",
                super::render::one_line(&error.to_string())
            ),
            Err(_) => tracing::warn!(
                "the audit may lack what this verb has changed: NATS has not stored the entry in time"
            ),
        }
    }
}

/// The user and the host of this process. Only this process says so, and nobody checks it.
fn actor() -> AuditActor {
    let user = naq_runner::JobUser::current().map(|user| user.name);
    let host = nix::unistd::gethostname().ok();
    let host = host.and_then(|host| host.into_string().ok());
    AuditActor {
        who: user.unwrap_or_else(|_| nix::unistd::geteuid().to_string()),
        via: AuditInterface::Cli,
        from: host.unwrap_or_else(|| "unknown".to_owned()),
        forwarded_for: None,
    }
}
