//! The accounts and users of nats-server's configuration, as text.
//!
//! Producers have an account of their own and import the subjects that they need as services. JetStream
//! publishes its acknowledgement of a message to whatever subject the publisher names as the reply. In the
//! account of the streams that could be the record of a job; in the producers' account no subject is
//! naq's. A producer may not create consumers either, since a consumer delivers to a subject that its
//! creator names.

use std::fmt::{self, Write};

use super::operation::Permissions;
use super::role::Role;
use super::roles::permissions;
use crate::names::Names;
use naq_protocol::QueueName;

/// The prefix of the JetStream API where the streams are.
const API_PREFIX: &str = "$JS.API";

/// The names of a tenant's accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountNames {
    /// The account of the streams, and of all users but producers.
    pub naq: String,
    /// The account of the producers.
    pub producers: String,
}

impl AccountNames {
    /// An account, and that of its producers.
    #[must_use]
    pub fn new(naq: &str) -> AccountNames {
        AccountNames {
            naq: naq.to_owned(),
            producers: format!("{naq}_producers"),
        }
    }
}

/// How a user logs in, as the server's configuration states it.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// The public key of a key pair.
    Nkey(String),
    /// A user name, and the variable that the server reads the password from.
    PasswordVariable {
        /// The user name.
        user: String,
        /// The name of the environment variable.
        variable: String,
    },
    /// A user name and a password.
    Password {
        /// The user name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for Login {
    /// Shows no password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Login::Nkey(_) => "Nkey",
            Login::PasswordVariable { .. } => "PasswordVariable",
            Login::Password { .. } => "Password",
        };
        f.debug_struct(kind).finish_non_exhaustive()
    }
}

/// A user of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleUser {
    /// Its role.
    pub role: Role,
    /// How it logs in.
    pub login: Login,
}

/// What to grant to the users of an account.
#[derive(Clone, Copy, Debug)]
pub struct UsersConfig<'n> {
    /// The names of the installation.
    pub names: &'n Names,
    /// The queues.
    pub queues: &'n [QueueName],
    /// Whether producers read nothing.
    pub publish_only: bool,
}

impl UsersConfig<'_> {
    /// The JetStream domain by which producers reach the account of the streams: the value of their
    /// setting `jetstream_domain`.
    #[must_use]
    pub fn producers_domain(&self) -> &str {
        self.names.prefix()
    }

    /// What a user of a role may do, as its own account sees the subjects.
    #[must_use]
    pub fn permissions(&self, role: Role) -> Permissions {
        let api_prefix = match role {
            Role::Producer => format!("$JS.{}.API", self.producers_domain()),
            _ => API_PREFIX.to_owned(),
        };
        permissions(
            self.names,
            &api_prefix,
            role,
            self.queues,
            self.publish_only,
        )
    }

    /// The text of the accounts of a tenant, for the block `accounts` of nats-server's configuration.
    ///
    /// # Errors
    /// Returns an error if the text cannot be formatted.
    pub fn accounts(
        &self,
        accounts: &AccountNames,
        users: &[RoleUser],
    ) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let (producers, others): (Vec<_>, Vec<_>) =
            users.iter().partition(|user| user.role == Role::Producer);
        writeln!(text, "  {} {{", accounts.naq)?;
        writeln!(text, "    jetstream: enabled")?;
        if !producers.is_empty() {
            self.exports(&mut text, accounts)?;
        }
        self.users(&mut text, &others)?;
        writeln!(text, "  }}")?;
        if producers.is_empty() {
            return Ok(text);
        }
        writeln!(text, "  {} {{", accounts.producers)?;
        self.imports(&mut text, accounts)?;
        self.users(&mut text, &producers)?;
        writeln!(text, "  }}")?;
        Ok(text)
    }

    /// What producers need: each subject in the account of the streams, and in their own.
    fn shared_services(&self) -> Vec<(String, String)> {
        let role = Role::Producer;
        let there = permissions(self.names, API_PREFIX, role, self.queues, self.publish_only);
        let here = self.permissions(role);
        let subjects = |of: &Permissions| -> Vec<String> {
            of.publish().into_iter().map(str::to_owned).collect()
        };
        subjects(&there).into_iter().zip(subjects(&here)).collect()
    }

    /// The subjects that producers watch.
    fn shared_streams(&self) -> Vec<String> {
        let inbox = Role::Producer.inbox_prefix();
        let permissions = self.permissions(Role::Producer);
        let subjects = permissions.subscribe().into_iter();
        subjects
            .filter(|subject| !subject.starts_with(&inbox))
            .map(str::to_owned)
            .collect()
    }

    fn exports(&self, text: &mut String, accounts: &AccountNames) -> fmt::Result {
        let to = &accounts.producers;
        writeln!(text, "    exports: [")?;
        for (there, _) in self.shared_services() {
            writeln!(text, "      {{ service: \"{there}\", accounts: [{to}] }}")?;
        }
        for subject in self.shared_streams() {
            writeln!(text, "      {{ stream: \"{subject}\", accounts: [{to}] }}")?;
        }
        writeln!(text, "    ]")
    }

    fn imports(&self, text: &mut String, accounts: &AccountNames) -> fmt::Result {
        let from = &accounts.naq;
        writeln!(text, "    imports: [")?;
        for (there, here) in self.shared_services() {
            let mapped = match there == here {
                true => String::new(),
                false => format!(", to: \"{here}\""),
            };
            writeln!(
                text,
                "      {{ service: {{ account: {from}, subject: \"{there}\" }}{mapped} }}"
            )?;
        }
        for subject in self.shared_streams() {
            writeln!(
                text,
                "      {{ stream: {{ account: {from}, subject: \"{subject}\" }} }}"
            )?;
        }
        writeln!(text, "    ]")
    }

    fn users(&self, text: &mut String, users: &[&RoleUser]) -> fmt::Result {
        writeln!(text, "    users: [")?;
        for user in users {
            self.user(text, user)?;
        }
        writeln!(text, "    ]")
    }

    fn user(&self, text: &mut String, user: &RoleUser) -> fmt::Result {
        let role = user.role;
        let purpose = role.purpose(self.publish_only);
        writeln!(text, "      # {role}: {purpose}")?;
        match &user.login {
            Login::Nkey(public_key) => writeln!(text, "      {{ nkey: {public_key}")?,
            Login::PasswordVariable { user, variable } => {
                writeln!(text, "      {{ user: \"{user}\", password: ${variable}")?;
            }
            Login::Password { user, password } => {
                writeln!(text, "      {{ user: \"{user}\", password: \"{password}\"")?;
            }
        }
        let permissions = self.permissions(role);
        writeln!(text, "        permissions: {{")?;
        writeln!(text, "          publish: {{ allow: [")?;
        for operation in &permissions.operations {
            lines(text, operation.what, &operation.publish)?;
        }
        writeln!(text, "          ] }}")?;
        writeln!(text, "          subscribe: {{ allow: [")?;
        for operation in &permissions.operations {
            lines(text, operation.what, &operation.subscribe)?;
        }
        writeln!(text, "          ] }}")?;
        if permissions.may_reply {
            writeln!(
                text,
                "          allow_responses: {{ max: 1, expires: \"5s\" }}"
            )?;
        }
        writeln!(text, "        }}\n      }}")
    }
}

fn lines(text: &mut String, what: &str, subjects: &[String]) -> fmt::Result {
    if subjects.is_empty() {
        return Ok(());
    }
    writeln!(text, "            # {what}")?;
    for subject in subjects {
        writeln!(text, "            \"{subject}\"")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(roles: &[Role], publish_only: bool) -> String {
        let names = Names::new("naq").unwrap();
        let queues = [QueueName::new("build").unwrap()];
        let config = UsersConfig {
            names: &names,
            queues: &queues,
            publish_only,
        };
        let users: Vec<RoleUser> = roles
            .iter()
            .map(|role| RoleUser {
                role: *role,
                login: Login::Nkey(format!("U{role}")),
            })
            .collect();
        config.accounts(&AccountNames::new("naq"), &users).unwrap()
    }

    #[test]
    fn producers_have_an_account_of_their_own_that_imports_what_they_need() {
        let text = text(&[Role::Producer, Role::Worker], true);
        let (streams, producers) = text.split_once("  naq_producers {").unwrap();
        assert!(streams.contains("nkey: Uworker") && !streams.contains("Uproducer"));
        assert!(producers.contains("nkey: Uproducer") && !producers.contains("jetstream"));
        assert!(streams.contains("{ service: \"naq.queue.build.*\", accounts: [naq_producers] }"));
        assert!(producers.contains(
            "subject: \"$JS.API.STREAM.INFO.KV_naq_scheduler_lock\" }, \
             to: \"$JS.naq.API.STREAM.INFO.KV_naq_scheduler_lock\" }"
        ));
        assert!(!text.contains("stream: \""), "{text}");
    }

    #[test]
    fn no_producer_needs_no_second_account() {
        let text = text(&[Role::Worker, Role::Reader], false);
        assert!(!text.contains("producers") && !text.contains("exports"));
    }

    #[test]
    fn a_password_stays_out_of_messages() {
        let login = Login::Password {
            user: "worker".to_owned(),
            password: "hunter2".to_owned(),
        };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
