//! The roles of NATS users.

/// What a NATS user is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Enqueues jobs, and reads their records.
    Producer,
    /// Runs the jobs of its queues.
    Worker,
    /// Enqueues the jobs of schedules, and reconciles.
    Scheduler,
    /// Reads everything about its queues, and changes nothing.
    Reader,
    /// Does everything: creates queues, cancels, purges.
    Operator,
    /// An HTTP service in front of naq: reads, enqueues and controls jobs of its queues.
    Api,
}

/// The text is not the name of a role.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a role; the roles are producer, worker, scheduler, reader, operator and api")]
pub struct InvalidRole(String);

impl Role {
    /// All roles.
    pub const ALL: [Role; 6] = [
        Role::Producer,
        Role::Worker,
        Role::Scheduler,
        Role::Reader,
        Role::Operator,
        Role::Api,
    ];

    /// The name, which is also that of the role's user.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Producer => "producer",
            Role::Worker => "worker",
            Role::Scheduler => "scheduler",
            Role::Reader => "reader",
            Role::Operator => "operator",
            Role::Api => "api",
        }
    }

    /// What the role is for, in one line.
    #[must_use]
    pub fn purpose(self, publish_only: bool) -> &'static str {
        match self {
            Role::Producer if publish_only => "enqueues jobs, and reads nothing",
            Role::Producer => "enqueues jobs, waits for them and reads their records",
            Role::Worker => "runs jobs",
            Role::Scheduler => "enqueues the jobs of schedules, and reconciles",
            Role::Reader => "reads, and changes nothing",
            Role::Operator => "does everything: broad on purpose",
            Role::Api => "reads, enqueues, and controls jobs for an HTTP service",
        }
    }

    /// The prefix of the reply subjects of the role's user: a user that may subscribe to the replies of
    /// others is sent their jobs.
    #[must_use]
    pub fn inbox_prefix(self) -> String {
        format!("_INBOX_{}", self.name())
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Role, InvalidRole> {
        let found = Role::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| InvalidRole(text.to_owned()))
    }
}
