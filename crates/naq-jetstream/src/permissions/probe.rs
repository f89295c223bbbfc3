//! Checks on a running server what its user may do, without doing it.
//!
//! The server checks permissions before it reads a message. So each probe is a message without an effect:
//! its body is not JSON, so the API refuses it; its header makes a stream refuse to store it; and its
//! subject names a job, worker or consumer that does not exist.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::forbidden::forbidden_operations;
use super::operation::Operation;
use super::role::Role;
use super::roles::permissions;
use crate::broker::Broker;
use crate::error::BrokerError;
use naq_protocol::QueueName;

/// What takes the place of wildcards in probed subjects: an id that no job, worker or consumer has.
const NOBODY: &str = "naq-permission-probe";

/// How long a probe waits for an answer. A subject that ignores the probe answers nothing, even if the
/// probe is allowed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after an answer a denial of what was sent before it may still arrive.
const DENIAL_DELAY: Duration = Duration::from_millis(100);

const CHECKING: &str = "checking permissions";

/// A subject that was probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedSubject {
    /// The subject, as the role's permissions have it.
    pub subject: String,
    /// Whether it was a subscription.
    pub is_subscription: bool,
    /// Whether the server allows it.
    pub is_allowed: bool,
}

/// What a role does, or must not be able to do, and what the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedOperation {
    /// What it is, for people.
    pub what: &'static str,
    /// Whether the role needs it. If not, it must be denied.
    pub is_needed: bool,
    /// Its subjects.
    pub subjects: Vec<ProbedSubject>,
}

impl CheckedOperation {
    /// The subjects on which the server's permission differs from the expected one.
    pub fn wrong(&self) -> impl Iterator<Item = &ProbedSubject> {
        let subjects = self.subjects.iter();
        subjects.filter(|one| one.is_allowed != self.is_needed)
    }
}

impl Broker {
    /// Checks whether this connection's user may do what a role needs on these queues, and nothing that
    /// is forbidden to the role. Changes nothing.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn check_permissions(
        &self,
        role: Role,
        queues: &[QueueName],
        publish_only: bool,
    ) -> Result<Vec<CheckedOperation>, BrokerError> {
        let other = other_queue(queues);
        let needed = permissions(&self.names, &self.api_prefix, role, queues, publish_only);
        let forbidden = forbidden_operations(&self.names, &self.api_prefix, role, &other);
        let mut checked = Vec::new();
        for operation in needed.operations {
            checked.push(self.check_operation(operation, true).await?);
        }
        for operation in forbidden {
            checked.push(self.check_operation(operation, false).await?);
        }
        Ok(checked)
    }

    async fn check_operation(
        &self,
        operation: Operation,
        is_needed: bool,
    ) -> Result<CheckedOperation, BrokerError> {
        let mut subjects = Vec::new();
        for subject in operation.publish {
            subjects.push(ProbedSubject {
                is_allowed: self.may_publish(&subject).await?,
                is_subscription: false,
                subject,
            });
        }
        for subject in operation.subscribe {
            subjects.push(ProbedSubject {
                is_allowed: self.may_subscribe(&subject).await?,
                is_subscription: true,
                subject,
            });
        }
        Ok(CheckedOperation {
            what: operation.what,
            is_needed,
            subjects,
        })
    }

    async fn may_publish(&self, pattern: &str) -> Result<bool, BrokerError> {
        let subject = without_wildcards(pattern);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", NOBODY);
        let body = Bytes::from_static(b"{");
        let asking = self
            .client
            .request_with_headers(subject.clone(), headers, body);
        let asking = tokio::time::timeout(ANSWER_TIMEOUT, asking);
        match self.until_denied(CHECKING, &subject, asking).await {
            Ok(_) => Ok(true),
            Err(BrokerError::PermissionDenied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn may_subscribe(&self, subject: &str) -> Result<bool, BrokerError> {
        let subjects = [subject.to_owned()];
        let mut denials = self.link.denials();
        let _subscription = self.subscribe(subject.to_owned()).await?;
        let allowed = async {
            self.flush().await?;
            // the client reports a denial by a task of its own
            tokio::time::sleep(DENIAL_DELAY).await;
            Ok(true)
        };
        tokio::select! {
            biased;
            _ = denials.subscription_denied(&subjects) => Ok(false),
            allowed = allowed => allowed,
        }
    }
}

/// A queue that is none of these.
fn other_queue(queues: &[QueueName]) -> QueueName {
    let mut name = NOBODY.to_owned();
    loop {
        match QueueName::new(&name) {
            Ok(queue) if !queues.contains(&queue) => return queue,
            _ => name.push('x'),
        }
    }
}

/// A subject that a pattern with wildcards covers.
fn without_wildcards(pattern: &str) -> String {
    let tokens = pattern.split('.').map(|token| match token {
        "*" | ">" => NOBODY,
        token => token,
    });
    tokens.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_about_nobody() {
        assert_eq!(
            without_wildcards("$KV.naq_results.*"),
            "$KV.naq_results.naq-permission-probe"
        );
        let queue = other_queue(&[QueueName::new(NOBODY).unwrap()]);
        assert_eq!(queue.as_str(), "naq-permission-probex");
    }
}
