//! An operation of a role, and the subjects that it needs.

use crate::connection::denial::DeniedAction;

/// An operation of a role, and the subjects that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Description for people.
    pub what: &'static str,
    /// Subjects that it publishes to.
    pub publish: Vec<String>,
    /// Subjects that it subscribes to.
    pub subscribe: Vec<String>,
}

/// The permissions of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// All operations of the role.
    pub operations: Vec<Operation>,
    /// Whether the role answers requests, on reply subjects that the requesters choose.
    pub may_reply: bool,
}

impl Permissions {
    /// Whether the role may do this on a subject, which may contain wildcards.
    pub(super) fn allow(&self, action: DeniedAction, subject: &str) -> bool {
        let allowed = match action {
            DeniedAction::Publish => self.publish(),
            DeniedAction::Subscribe => self.subscribe(),
        };
        allowed.into_iter().any(|one| covers(one, subject))
    }

    /// The subjects that the role may publish to, each once.
    #[must_use]
    pub fn publish(&self) -> Vec<&str> {
        self.subjects(|operation| &operation.publish)
    }

    /// The subjects that the role may subscribe to, each once.
    #[must_use]
    pub fn subscribe(&self) -> Vec<&str> {
        self.subjects(|operation| &operation.subscribe)
    }

    fn subjects(&self, of: impl Fn(&Operation) -> &Vec<String>) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for subject in self.operations.iter().flat_map(of) {
            if !found.contains(&subject.as_str()) {
                found.push(subject);
            }
        }
        found
    }
}

/// An operation that only publishes.
pub(super) fn writing(what: &'static str, publish: impl IntoIterator<Item = String>) -> Operation {
    Operation {
        what,
        publish: publish.into_iter().collect(),
        subscribe: Vec::new(),
    }
}

/// An operation that only subscribes.
pub(super) fn reading(
    what: &'static str,
    subscribe: impl IntoIterator<Item = String>,
) -> Operation {
    Operation {
        what,
        publish: Vec::new(),
        subscribe: subscribe.into_iter().collect(),
    }
}

/// Whether a permission covers a subject, both of which may have wildcards.
fn covers(permission: &str, subject: &str) -> bool {
    let mut wanted = subject.split('.');
    for token in permission.split('.') {
        match (token, wanted.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(other)) if other != ">" => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_covers_what_its_wildcards_cover() {
        for (permission, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.b", "a", false),
            ("a", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a.*", true),
            ("a.*", "a.>", false),
            ("a.*", "a", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a.>", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("a.b", "a.*", false),
        ] {
            assert_eq!(
                covers(permission, subject),
                expected,
                "{permission} {subject}"
            );
        }
    }
}
