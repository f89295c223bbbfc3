//! What a worker lets its jobs do with naq.

use std::collections::BTreeSet;
use std::fmt;

use naq_protocol::{JobReplyError, QueueName};

/// Something that a worker can grant its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Enqueue jobs.
    Enqueue,
    /// Read the state, the record and the output of jobs, and wait for their end.
    Read,
}

impl Right {
    /// The name in `--grant`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Right::Enqueue => "enqueue",
            Right::Read => "read",
        }
    }
}

/// Queues for which a right is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct GrantedQueues {
    /// Every queue, whatever `named` contains.
    all: bool,
    named: BTreeSet<QueueName>,
}

impl GrantedQueues {
    fn is_empty(&self) -> bool {
        !self.all && self.named.is_empty()
    }

    fn contains(&self, queue: &QueueName) -> bool {
        self.all || self.named.contains(queue)
    }
}

/// What a worker grants its jobs. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    enqueue: GrantedQueues,
    read: GrantedQueues,
    /// The worker's own queues, for which a right without a queue is.
    own: Vec<QueueName>,
}

/// A text that grants nothing that exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// The right does not exist.
    #[error("`{0}` cannot be granted: write enqueue or read, alone or with :QUEUE or :*, or none")]
    UnknownRight(String),
    /// The queue's name is invalid.
    #[error("{0}")]
    Queue(#[from] naq_protocol::InvalidName),
    /// `none` is given with others.
    #[error("`none` excludes all other grants")]
    NoneAndOthers,
}

impl Grants {
    /// Every right for every queue.
    #[must_use]
    pub fn all() -> Grants {
        let all = GrantedQueues {
            all: true,
            named: BTreeSet::new(),
        };
        Grants {
            enqueue: all.clone(),
            read: all,
            own: Vec::new(),
        }
    }

    /// Reads texts such as `enqueue`, `read:build` and `enqueue:*`. `own` are the worker's queues,
    /// for which a right without a queue is.
    ///
    /// # Errors
    /// Returns [`InvalidGrant`] for the first text that grants nothing.
    pub fn parse(texts: &[String], own: &[QueueName]) -> Result<Grants, InvalidGrant> {
        let mut grants = Grants {
            own: own.to_vec(),
            ..Grants::default()
        };
        if texts.iter().any(|text| text == "none") {
            return match texts {
                [_] => Ok(grants),
                _ => Err(InvalidGrant::NoneAndOthers),
            };
        }
        for text in texts {
            let (right, queue) = match text.split_once(':') {
                Some((right, queue)) => (right, Some(queue)),
                None => (text.as_str(), None),
            };
            let granted = match right {
                "enqueue" => &mut grants.enqueue,
                "read" => &mut grants.read,
                _ => return Err(InvalidGrant::UnknownRight(text.clone())),
            };
            match queue {
                None => granted.named.extend(own.iter().cloned()),
                Some("*") => granted.all = true,
                Some(queue) => {
                    granted.named.insert(QueueName::new(queue)?);
                }
            }
        }
        Ok(grants)
    }

    /// Whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.enqueue.is_empty() && self.read.is_empty()
    }

    fn of(&self, right: Right) -> &GrantedQueues {
        match right {
            Right::Enqueue => &self.enqueue,
            Right::Read => &self.read,
        }
    }

    /// Whether a right is granted for every queue.
    #[must_use]
    pub(super) fn covers_all(&self, right: Right) -> bool {
        self.of(right).all
    }

    /// Checks that a right is granted for a queue.
    ///
    /// # Errors
    /// Returns the refusal, with the grant to start the worker with.
    pub fn check(&self, right: Right, queue: &QueueName) -> Result<(), JobReplyError> {
        let granted = self.of(right);
        if granted.contains(queue) {
            return Ok(());
        }
        let name = right.name();
        let flag = if self.own.contains(queue) {
            name.to_owned()
        } else {
            format!("{name}:{queue}")
        };
        let limit = (!granted.is_empty()).then_some(queue);
        Err(JobReplyError::not_granted(name, limit, &flag))
    }
}

impl fmt::Display for Grants {
    /// Formats the grants as `--grant` accepts them; `none` if there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut texts = Vec::new();
        for right in [Right::Enqueue, Right::Read] {
            let (granted, name) = (self.of(right), right.name());
            if granted.all {
                texts.push(format!("{name}:*"));
            } else {
                texts.extend(granted.named.iter().map(|queue| format!("{name}:{queue}")));
            }
        }
        match texts.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&texts.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn grants(text: &str) -> Result<Grants, InvalidGrant> {
        let texts: Vec<String> = text.split(',').map(str::to_owned).collect();
        Grants::parse(&texts, &[queue("own"), queue("second")])
    }

    #[test]
    fn a_right_without_a_queue_is_for_the_queues_of_the_worker() {
        let granted = grants("enqueue,read:build").unwrap();
        assert!(granted.check(Right::Enqueue, &queue("own")).is_ok());
        assert!(granted.check(Right::Enqueue, &queue("second")).is_ok());
        assert!(granted.check(Right::Enqueue, &queue("build")).is_err());
        assert!(granted.check(Right::Read, &queue("build")).is_ok());
        assert!(granted.check(Right::Read, &queue("own")).is_err());
        assert_eq!(granted.to_string(), "enqueue:own,enqueue:second,read:build");
        let all = grants("enqueue:*").unwrap();
        assert!(all.check(Right::Enqueue, &queue("any")).is_ok());
        assert!(all.check(Right::Read, &queue("any")).is_err());
    }

    #[test]
    fn a_refusal_names_the_grant_that_is_missing() {
        let refusal = |text: &str, right, name: &str| {
            let error = grants(text).unwrap().check(right, &queue(name));
            let error = error.unwrap_err();
            format!("{}; {}", error.message, error.hint.unwrap())
        };
        assert_eq!(
            refusal("none", Right::Enqueue, "own"),
            "this worker does not grant `enqueue`; start it with `--grant enqueue`"
        );
        assert_eq!(
            refusal("none", Right::Read, "build"),
            "this worker does not grant `read`; start it with `--grant read:build`"
        );
        assert_eq!(
            refusal("read", Right::Read, "build"),
            "this worker does not grant `read` for queue `build`; start it with `--grant read:build`"
        );
    }

    #[test]
    fn what_cannot_be_granted_is_refused() {
        for text in ["purge", "read:", "enqueue:a b", "none,read", "enqueue read"] {
            assert!(grants(text).is_err(), "{text}");
        }
        assert!(grants("none").unwrap().is_empty());
    }
}
