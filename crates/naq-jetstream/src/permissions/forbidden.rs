//! Operations that each role must not be able to do.

use super::operation::{Operation, reading, writing};
use super::role::Role;
use super::roles::Subjects;
use crate::audit_writer::AuditWriter;
use crate::names::Names;
use naq_protocol::QueueName;

/// The operations that a role must not be able to do. `other` is a queue on which it has no right.
#[must_use]
pub fn forbidden_operations(
    names: &Names,
    api_prefix: &str,
    role: Role,
    other: &QueueName,
) -> Vec<Operation> {
    let all = [other.clone()];
    let subjects = Subjects {
        names,
        api_prefix,
        queues: &all,
    };
    let mut operations = vec![
        reading("read the answers to others", ["_INBOX.>".to_owned()]),
        reading("read all subjects", [">".to_owned()]),
    ];
    let audit = |writer| [names.audit_of_writer(writer)];
    if role != Role::Api {
        operations.push(writing(
            "record changes as a dashboard",
            audit(AuditWriter::Dashboard),
        ));
    }
    if role == Role::Operator {
        return operations;
    }
    if role != Role::Api {
        let stream = names.audit_stream();
        operations.extend([
            writing("record changes", audit(AuditWriter::CommandLine)),
            writing(
                "shorten the audit",
                [format!("{api_prefix}.STREAM.UPDATE.{stream}")],
            ),
        ]);
    }
    operations.extend([
        writing(
            "enqueue jobs to another queue",
            [names.jobs(other), names.job_without_id(other)],
        ),
        writing(
            "read jobs of another queue",
            subjects.of_queues("STREAM.MSG.GET"),
        ),
        writing("remove a queue", subjects.of_queues("STREAM.DELETE")),
        writing("purge another queue", subjects.of_queues("STREAM.PURGE")),
    ]);
    if matches!(role, Role::Producer | Role::Reader) {
        operations.extend([
            writing("forge a record", [names.all_records()]),
            writing("store schedules", [names.all_schedules()]),
            writing("control workers", [names.control_of_all_workers()]),
            writing("drain workers", [names.all_drain_requests()]),
            writing("take the lead of schedulers", [names.leader_lease()]),
        ]);
    }
    if role == Role::Worker {
        operations.push(writing("store schedules", [names.all_schedules()]));
        operations.push(writing("control workers", [names.control_of_all_workers()]));
        operations.push(writing("drain workers", [names.all_drain_requests()]));
    }
    if role == Role::Producer {
        operations.push(writing(
            "aim deliveries at any subject",
            subjects.of_queues("CONSUMER.CREATE"),
        ));
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::super::roles::permissions;
    use super::*;
    use crate::connection::denial::DeniedAction::{Publish, Subscribe};

    #[test]
    fn no_role_may_do_what_is_forbidden_to_it() {
        let names = Names::new("naq").unwrap();
        let own = [QueueName::new("build").unwrap()];
        let other = QueueName::new("deploy").unwrap();
        for role in Role::ALL {
            let allowed = permissions(&names, "$JS.API", role, &own, false);
            for operation in forbidden_operations(&names, "$JS.API", role, &other) {
                for (action, subjects) in [
                    (Publish, &operation.publish),
                    (Subscribe, &operation.subscribe),
                ] {
                    for subject in subjects {
                        let may = allowed.allow(action, subject);
                        assert!(!may, "{role} may {}: {subject}", operation.what);
                    }
                }
            }
        }
    }
}
