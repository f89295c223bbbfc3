//! Finds the roles that are sufficient for a denied action.

use super::role::Role;
use super::roles::permissions;
use crate::connection::connect::jetstream_api_prefix;
use crate::connection::denial::Denial;
use crate::names::Names;
use naq_protocol::QueueName;

/// The roles each of which is sufficient for a denied action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededRole {
    /// The roles, those with the fewest rights first; never empty.
    pub roles: Vec<Role>,
    /// The queue for which the user needs the role. `None` if the role has the right for any queue.
    pub queue: Option<QueueName>,
}

/// Finds the roles that are sufficient for a denied action. `None` if no role is.
#[must_use]
pub fn needed_role(
    names: &Names,
    jetstream_domain: Option<&str>,
    denial: &Denial,
) -> Option<NeededRole> {
    let api_prefix = jetstream_api_prefix(jetstream_domain);
    let with = |queues: &[QueueName]| -> Vec<Role> {
        // from few rights to many: a reader changes nothing, an operator may do everything
        let roles = [
            Role::Reader,
            Role::Producer,
            Role::Worker,
            Role::Scheduler,
            Role::Api,
            Role::Operator,
        ];
        let may = |role: &Role| {
            permissions(names, &api_prefix, *role, queues, false)
                .allow(denial.action, &denial.subject)
        };
        roles.into_iter().filter(may).collect()
    };
    let without_queue = with(&[]);
    let of_queue = denial.subject.split('.').find_map(|token| {
        let queue = names
            .queue_of_stream(token)
            .or_else(|| QueueName::new(token).ok())?;
        let roles = with(std::slice::from_ref(&queue));
        (roles.len() > without_queue.len()).then_some(NeededRole {
            roles,
            queue: Some(queue),
        })
    });
    of_queue.or_else(|| {
        (!without_queue.is_empty()).then_some(NeededRole {
            roles: without_queue,
            queue: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::denial::DeniedAction::{self, Publish, Subscribe};

    fn needed(action: DeniedAction, subject: &str) -> Option<(String, Option<String>)> {
        let names = Names::new("naq").unwrap();
        let denial = Denial {
            action,
            subject: subject.to_owned(),
            user: "this user".into(),
        };
        let needed = needed_role(&names, None, &denial)?;
        let roles: Vec<&str> = needed.roles.iter().map(|role| role.name()).collect();
        Some((roles.join(" "), needed.queue.map(|queue| queue.to_string())))
    }

    #[test]
    fn a_denied_action_names_the_roles_that_may() {
        let of =
            |roles: &str, queue: Option<&str>| Some((roles.to_owned(), queue.map(str::to_owned)));
        for (action, subject, expected) in [
            (
                Publish,
                "naq.queue.deploy.j1",
                of("producer worker scheduler api operator", Some("deploy")),
            ),
            (
                Publish,
                "$JS.API.STREAM.MSG.GET.naq_queue_deploy",
                of(
                    "reader producer worker scheduler api operator",
                    Some("deploy"),
                ),
            ),
            (
                Publish,
                "$JS.API.CONSUMER.MSG.NEXT.naq_queue_deploy.naq-worker",
                of("worker scheduler operator", Some("deploy")),
            ),
            (
                Publish,
                "$JS.API.STREAM.DELETE.naq_queue_deploy",
                of("operator", None),
            ),
            (
                Publish,
                "$KV.naq_scheduled_jobs.nightly",
                of("scheduler api operator", None),
            ),
            (Subscribe, "naq.event.>", of("reader api operator", None)),
            (Publish, "other.subject", None),
            (Subscribe, ">", None),
            (Publish, "", None),
        ] {
            assert_eq!(needed(action, subject), expected, "{subject}");
        }
    }
}
