//! The subjects that each role uses, grouped by operation.
//!
//! The lists come from a trace of every verb, and a test runs every verb with them. A worker of
//! one queue may read and change nothing of another queue, except for what all queues share: records, the
//! index of blocked jobs, slots and live output.

use super::operation::{Operation, Permissions, reading, writing};
use super::role::Role;
use crate::audit_writer::AuditWriter;
use crate::layout::streams::StreamSpec;
use crate::names::Names;
use naq_protocol::QueueName;

/// What a role needs on these queues. `api_prefix` is that of the JetStream API, `$JS.API` unless there is
/// a domain. With `publish_only` a producer reads nothing.
#[must_use]
pub fn permissions(
    names: &Names,
    api_prefix: &str,
    role: Role,
    queues: &[QueueName],
    publish_only: bool,
) -> Permissions {
    let subjects = Subjects {
        names,
        api_prefix,
        queues,
    };
    let mut operations = vec![reading(
        "get answers to its own requests",
        [format!("{}.>", role.inbox_prefix())],
    )];
    operations.extend(match role {
        Role::Producer => subjects.producer(publish_only),
        Role::Worker => subjects.worker(),
        Role::Scheduler => subjects.scheduler(),
        Role::Reader => subjects.reader(),
        Role::Operator => subjects.operator(),
        Role::Api => [
            subjects.reader(),
            subjects.producer(false),
            subjects.control(),
            vec![subjects.audit()],
        ]
        .concat(),
    });
    Permissions {
        operations,
        may_reply: role == Role::Worker,
    }
}

/// The subjects of one installation for some of its queues.
pub(super) struct Subjects<'n> {
    pub(super) names: &'n Names,
    pub(super) api_prefix: &'n str,
    pub(super) queues: &'n [QueueName],
}

impl Subjects<'_> {
    /// A subject of the JetStream API.
    fn api(&self, request: &str) -> String {
        format!("{}.{request}", self.api_prefix)
    }

    /// Requests of one kind about some streams.
    fn of_streams(&self, request: &str, streams: &[String]) -> Vec<String> {
        let streams = streams.iter();
        streams
            .map(|stream| self.api(&format!("{request}.{stream}")))
            .collect()
    }

    /// Requests of one kind about the streams of the queues.
    pub(super) fn of_queues(&self, request: &str) -> Vec<String> {
        self.of_streams(request, &self.queue_streams())
    }

    /// Reads single messages of the queues and of these streams.
    fn message_reads(&self, shared: &[String]) -> Vec<String> {
        let streams = [self.queue_streams().as_slice(), shared].concat();
        self.of_streams("STREAM.MSG.GET", &streams)
    }

    fn queue_streams(&self) -> Vec<String> {
        let queues = self.queues.iter();
        queues.map(|queue| self.names.queue_stream(queue)).collect()
    }

    fn of_each_queue(&self, subject: impl Fn(&QueueName) -> String) -> Vec<String> {
        self.queues.iter().map(subject).collect()
    }

    /// The streams of the queues, and those that all queues share.
    fn all_streams(&self) -> Vec<String> {
        let shared = StreamSpec::all(self.names);
        let mut streams = self.queue_streams();
        streams.extend(shared.into_iter().map(|spec| spec.name));
        streams
    }

    fn bucket(bucket: String) -> String {
        Names::bucket_stream(&bucket)
    }

    /// Reads a stream in bulk, by a consumer that expires.
    fn scans(&self, what: &'static str, streams: &[String]) -> Operation {
        let mut publish = self.of_streams("CONSUMER.CREATE", streams);
        for stream in streams {
            publish.push(self.api(&format!("CONSUMER.MSG.NEXT.{stream}.*")));
            publish.push(self.api(&format!("CONSUMER.DELETE.{stream}.*")));
        }
        writing(what, publish)
    }

    /// Reads objects: what does not fit into a message.
    fn objects(&self) -> Operation {
        let stream = self.names.files_stream();
        let description = self.names.file_descriptions();
        writing(
            "read long outputs and envelopes",
            [
                self.api(&format!("STREAM.INFO.{stream}")),
                self.api(&format!("DIRECT.GET.{stream}.{description}")),
                self.api(&format!("CONSUMER.CREATE.{stream}")),
                self.api(&format!("CONSUMER.DELETE.{stream}.*")),
                // by which the server limits how much is under way
                format!("$JS.FC.{stream}.>"),
            ],
        )
    }

    /// Stores files of jobs, which the worker finds by their digests, and looks which are stored. The subjects
    /// are not those of other objects, which a producer may neither read nor replace.
    fn uploads(&self) -> Operation {
        let (stream, uploads) = (self.names.files_stream(), self.names.uploads());
        writing(
            "upload files of jobs",
            [
                self.api(&format!("DIRECT.GET.{stream}.{uploads}")),
                self.names.upload_chunks(),
                uploads,
            ],
        )
    }

    /// Reads live output.
    fn logs(&self) -> Operation {
        let stream = self.names.logs_stream();
        let mut logs = self.scans("read live output", std::slice::from_ref(&stream));
        logs.publish
            .push(self.api(&format!("STREAM.CREATE.{stream}")));
        logs
    }

    /// Creates streams that do not exist, and compares those that do with what naq needs.
    fn layout(&self) -> Vec<Operation> {
        let mut streams = self.queue_streams();
        let shared = StreamSpec::of_workers(self.names).into_iter();
        streams.extend(shared.map(|spec| spec.name));
        let removed = Self::bucket(self.names.removed_queues_bucket());
        vec![
            writing(
                "create streams and buckets",
                [
                    self.of_streams("STREAM.CREATE", &streams),
                    vec![self.api(&format!("STREAM.MSG.GET.{removed}"))],
                ]
                .concat(),
            ),
            writing(
                "compare streams with what naq needs, and change them",
                [
                    self.of_streams("STREAM.INFO", &streams),
                    self.of_streams("STREAM.UPDATE", &streams),
                    vec![self.api("STREAM.NAMES")],
                ]
                .concat(),
            ),
        ]
    }

    /// Changes the index of blocked jobs, and puts jobs that waited back into their queues.
    fn dependents(&self) -> Operation {
        let stream = Self::bucket(self.names.dependents_bucket());
        writing(
            "release jobs that wait for others",
            [
                self.names.all_dependents(),
                self.api(&format!("STREAM.MSG.GET.{stream}")),
                self.api(&format!("STREAM.PURGE.{stream}")),
            ],
        )
    }

    fn producer(&self, publish_only: bool) -> Vec<Operation> {
        let names = self.names;
        let lease = Self::bucket(names.leader_lease_bucket());
        let mut operations = vec![
            writing(
                "enqueue jobs",
                [
                    self.of_each_queue(|queue| names.job_without_id(queue)),
                    self.of_each_queue(|queue| names.jobs(queue)),
                    self.of_each_queue(|queue| names.all_delayed(queue)),
                ]
                .concat(),
            ),
            writing(
                "compare this machine's clock with the server's",
                [self.api(&format!("STREAM.INFO.{lease}"))],
            ),
        ];
        if publish_only {
            return operations;
        }
        let read = [
            Self::bucket(names.results_bucket()),
            Self::bucket(names.dependents_bucket()),
            Self::bucket(names.schedules_bucket()),
            Self::bucket(names.workers_bucket()),
        ];
        let results = Self::bucket(names.results_bucket());
        operations.extend([
            writing(
                "look for jobs and workers",
                [
                    vec![self.api("STREAM.NAMES")],
                    self.of_queues("STREAM.MSG.GET"),
                    self.of_queues("STREAM.INFO"),
                    self.of_queues("CONSUMER.LIST"),
                    self.of_streams("STREAM.MSG.GET", &read),
                    self.of_streams("STREAM.INFO", &[results]),
                ]
                .concat(),
            ),
            writing("name the jobs of flows", [names.all_flows()]),
            self.uploads(),
            reading("wait for outcomes", [names.record_events()]),
        ]);
        operations
    }

    fn worker(&self) -> Vec<Operation> {
        let names = self.names;
        let requires = Self::bucket(names.requires_bucket());
        let mut operations = self.layout();
        operations.extend([
            self.pulls(),
            writing(
                "write records, and hold slots",
                [names.all_records(), names.all_slots(), names.all_workers()],
            ),
            writing(
                "read records, slots and messages",
                self.message_reads(&[
                    Self::bucket(names.results_bucket()),
                    Self::bucket(names.slots_bucket()),
                    // whether an operator has requested that it drains
                    Self::bucket(names.workers_bucket()),
                    requires.clone(),
                    names.files_stream(),
                ]),
            ),
            writing(
                "put jobs back, delay, route and remove them",
                [self.job_messages(), self.removals()].concat(),
            ),
            self.dependents(),
            writing(
                "keep failed jobs",
                self.of_each_queue(|queue| names.dead_letters_in(queue)),
            ),
            writing(
                "store long outputs and files of jobs",
                [
                    names.file_chunks(),
                    names.file_descriptions(),
                    // which it keeps for longer when it needs them
                    names.upload_chunks(),
                    names.uploads(),
                    self.api(&format!("STREAM.PURGE.{}", names.files_stream())),
                ],
            ),
            self.objects(),
            writing("write live output", [names.all_logs()]),
            self.label_routes(&requires),
            Operation {
                what: "accept requests, and ask other workers about jobs",
                publish: vec![names.leases_of_all_workers()],
                subscribe: vec![
                    names.control_of_all_workers(),
                    names.leases_of_all_workers(),
                ],
            },
            reading("wait for jobs on behalf of jobs", [names.record_events()]),
        ]);
        operations
    }

    /// Registers label sets of its queues, and watches those of all queues.
    fn label_routes(&self, bucket: &str) -> Operation {
        let mut routes = self.scans("route jobs by labels", &[bucket.to_owned()]);
        routes
            .publish
            .extend(self.of_each_queue(|queue| self.names.label_routes_in(queue)));
        routes.subscribe.push(self.names.all_label_routes());
        routes
    }

    /// Creates the consumers of the queues, makes them again when they are stale, and pulls from them.
    fn pulls(&self) -> Operation {
        let mut publish = Vec::new();
        for queue in self.queues {
            let stream = self.names.queue_stream(queue);
            let main = self.names.worker_consumer();
            let routed = self.names.all_routed(queue);
            let one = self.names.jobs(queue);
            publish.extend([
                self.api(&format!("CONSUMER.CREATE.{stream}.{main}")),
                // the server's permissions for one filter are those of its subject
                self.api(&format!("CONSUMER.CREATE.{stream}.*.{routed}")),
                self.api(&format!("CONSUMER.CREATE.{stream}.*.{one}")),
                self.api(&format!("CONSUMER.INFO.{stream}.*")),
                self.api(&format!("CONSUMER.LIST.{stream}")),
                self.api(&format!("CONSUMER.DELETE.{stream}.*")),
                self.api(&format!("CONSUMER.MSG.NEXT.{stream}.*")),
                format!("$JS.ACK.{stream}.>"),
            ]);
        }
        writing("pull jobs", publish)
    }

    /// The subjects of all messages of jobs of the queues.
    fn job_messages(&self) -> Vec<String> {
        let names = self.names;
        let mut subjects = Vec::new();
        for queue in self.queues {
            subjects.extend([
                names.job_without_id(queue),
                names.jobs(queue),
                names.all_delayed(queue),
                names.all_routed(queue),
                names.all_rechecks(queue),
            ]);
        }
        subjects
    }

    /// Removes messages from the queues.
    fn removals(&self) -> Vec<String> {
        [
            self.of_queues("STREAM.PURGE"),
            self.of_queues("STREAM.MSG.DELETE"),
        ]
        .concat()
    }

    fn scheduler(&self) -> Vec<Operation> {
        let names = self.names;
        let schedules = Self::bucket(names.schedules_bucket());
        let lease = Self::bucket(names.leader_lease_bucket());
        let mut operations = self.layout();
        operations.extend([
            writing(
                "elect a leader",
                [
                    names.leader_lease(),
                    names.all_schedulers(),
                    self.api(&format!("STREAM.MSG.GET.{lease}")),
                    self.api(&format!("STREAM.PURGE.{lease}")),
                    // by which `naq health` finds its heartbeat
                    self.api(&format!(
                        "STREAM.MSG.GET.{}",
                        Self::bucket(names.schedulers_bucket())
                    )),
                    self.api(&format!(
                        "STREAM.PURGE.{}",
                        Self::bucket(names.schedulers_bucket())
                    )),
                ],
            ),
            writing(
                "read and advance schedules",
                [
                    names.all_schedules(),
                    self.api(&format!("STREAM.MSG.GET.{schedules}")),
                ],
            ),
            writing("enqueue jobs", self.job_messages()),
            writing(
                "end jobs that a crash left, and free their slots",
                [
                    vec![names.all_records(), names.all_slots()],
                    self.of_each_queue(|queue| names.dead_letters_in(queue)),
                    self.message_reads(&[
                        Self::bucket(names.results_bucket()),
                        Self::bucket(names.slots_bucket()),
                        Self::bucket(names.workers_bucket()),
                        Self::bucket(names.dependents_bucket()),
                        names.files_stream(),
                    ]),
                    self.removals(),
                ]
                .concat(),
            ),
            self.dependents(),
            self.objects(),
            self.pulls(),
            self.scans(
                "list schedules, records, blocked jobs and workers",
                &[
                    schedules,
                    Self::bucket(names.results_bucket()),
                    Self::bucket(names.dependents_bucket()),
                    Self::bucket(names.workers_bucket()),
                    Self::bucket(names.schedulers_bucket()),
                ],
            ),
            reading(
                "follow changes of schedules and of the leader",
                [names.schedule_events(), names.leader_lease_events()],
            ),
        ]);
        operations
    }

    fn reader(&self) -> Vec<Operation> {
        let names = self.names;
        vec![
            writing(
                "list queues, jobs, failed jobs and settings",
                [
                    vec![self.api("STREAM.NAMES")],
                    self.of_streams("STREAM.INFO", &self.all_streams()),
                    self.of_streams("STREAM.MSG.GET", &self.all_streams()),
                    self.of_queues("CONSUMER.LIST"),
                    self.queue_streams()
                        .iter()
                        .map(|stream| self.api(&format!("CONSUMER.INFO.{stream}.*")))
                        .collect(),
                ]
                .concat(),
            ),
            writing("read how much is stored", [self.api("INFO")]),
            self.scans(
                "list changes, schedules, workers and schedulers",
                &[
                    Self::bucket(names.results_bucket()),
                    Self::bucket(names.schedules_bucket()),
                    Self::bucket(names.schedulers_bucket()),
                    Self::bucket(names.workers_bucket()),
                    // which has the index of unsuccessful jobs
                    Self::bucket(names.dependents_bucket()),
                    names.dead_letter_stream(),
                ],
            ),
            self.scans("follow the audit", &[names.audit_stream()]),
            self.logs(),
            self.objects(),
            reading("follow changes of jobs", [names.events()]),
        ]
    }

    /// Cancels, retries and changes jobs of the queues, their schedules, and whether the queues deliver.
    fn control(&self) -> Vec<Operation> {
        let names = self.names;
        let failed = names.dead_letter_stream();
        let mut queue_changes = Vec::new();
        for stream in self.queue_streams() {
            queue_changes.extend([
                self.api(&format!("CONSUMER.PAUSE.{stream}.*")),
                self.api(&format!(
                    "CONSUMER.CREATE.{stream}.{}",
                    names.worker_consumer()
                )),
            ]);
        }
        vec![
            writing(
                "cancel, retry and change jobs",
                [
                    vec![
                        names.all_records(),
                        names.all_slots(),
                        names.control_of_all_workers(),
                        self.api(&format!("STREAM.PURGE.{failed}")),
                    ],
                    self.job_messages(),
                    self.removals(),
                ]
                .concat(),
            ),
            self.dependents(),
            writing("store schedules", [names.all_schedules()]),
            writing("drain workers", [names.all_drain_requests()]),
            writing("pause and resume queues", queue_changes),
            reading("follow changes of schedules", [names.schedule_events()]),
        ]
    }

    /// Records who changed what, for users of the dashboard and as the command line.
    fn audit(&self) -> Operation {
        let names = self.names;
        let create = self.api(&format!("STREAM.CREATE.{}", names.audit_stream()));
        writing(
            "record who changed what",
            [
                names.audit_of_writer(AuditWriter::Dashboard),
                names.audit_of_writer(AuditWriter::CommandLine),
                create,
            ],
        )
    }

    fn operator(&self) -> Vec<Operation> {
        let names = self.names;
        let kv = StreamSpec::all(names).into_iter().filter_map(|spec| {
            let bucket = spec.name.strip_prefix("KV_")?;
            Some(format!("$KV.{bucket}.>"))
        });
        vec![
            writing(
                "use all of JetStream",
                [self.api(">"), "$JS.FC.>".to_owned()],
            ),
            writing(
                "acknowledge changes to event hooks",
                [format!(
                    "$JS.ACK.{}.>",
                    Self::bucket(names.results_bucket())
                )],
            ),
            writing("change all buckets", kv.collect::<Vec<_>>()),
            writing(
                "change jobs of all queues, and the objects",
                [
                    names.all_subjects_of_jobs(),
                    vec![
                        names.all_dead_letters(),
                        names.file_chunks(),
                        names.file_descriptions(),
                        names.upload_chunks(),
                        names.uploads(),
                    ],
                ]
                .concat(),
            ),
            writing("control workers", [names.control_of_all_workers()]),
            writing(
                "record who changed what",
                [names.audit_of_writer(AuditWriter::CommandLine)],
            ),
            reading(
                "follow changes of jobs and schedules",
                [names.events(), names.schedule_events()],
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(role: Role, queue: &str, publish_only: bool) -> Permissions {
        let names = Names::new("naq").unwrap();
        let queues = [QueueName::new(queue).unwrap()];
        permissions(&names, "$JS.API", role, &queues, publish_only)
    }

    #[test]
    fn a_role_names_only_its_own_queues_and_prefix() {
        for role in Role::ALL {
            for publish_only in [false, true] {
                let allowed = of(role, "build", publish_only);
                for subject in allowed.publish() {
                    // the account's streams by name, and how many bytes it stores
                    let is_of_account =
                        subject.ends_with("API.STREAM.NAMES") || subject.ends_with("API.INFO");
                    let is_of_naq = subject.contains("naq") || is_of_account;
                    assert!(is_of_naq || role == Role::Operator, "{role}: {subject}");
                }
                let inbox = format!("{}.>", role.inbox_prefix());
                assert_eq!(allowed.subscribe()[0], inbox);
            }
        }
    }

    #[test]
    fn a_producer_that_only_publishes_reads_nothing() {
        let allowed = of(Role::Producer, "build", true);
        assert_eq!(
            allowed.publish(),
            [
                "naq.queue.build",
                "naq.queue.build.*",
                "naq.delayed.build.*",
                "$JS.API.STREAM.INFO.KV_naq_scheduler_lock",
            ]
        );
        assert_eq!(allowed.subscribe(), ["_INBOX_producer.>"]);
    }
}
