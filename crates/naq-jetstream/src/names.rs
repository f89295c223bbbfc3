//! All names of subjects, streams, buckets and consumers.

use crate::audit_writer::AuditWriter;
use naq_protocol::{FileDigest, JobId, QueueName, ScheduleId, State, check_prefix};

/// The names that naq uses on a server, under one prefix. Naqs with different prefixes are
/// separate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

/// The queue of jobs that run where they were enqueued (`naq run`). Each has a consumer of its own.
pub const SINGLE_JOB_QUEUE: &str = "run";

impl Names {
    /// The names under a prefix; the default prefix is `naq`.
    ///
    /// # Errors
    /// Returns an error if [`check_prefix`] does.
    pub fn new(prefix: &str) -> Result<Names, naq_protocol::InvalidName> {
        check_prefix(prefix)?;
        Ok(Names {
            prefix: prefix.to_owned(),
        })
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The stream of a queue.
    #[must_use]
    pub fn queue_stream(&self, queue: &QueueName) -> String {
        format!("{}_queue_{queue}", self.prefix)
    }

    /// The queue of a stream. `None` if the stream is not a queue's.
    #[must_use]
    pub fn queue_of_stream(&self, stream: &str) -> Option<QueueName> {
        let name = stream.strip_prefix(&self.prefix)?.strip_prefix("_queue_")?;
        QueueName::new(name).ok()
    }

    /// Whether a stream may belong to this prefix, by its name.
    pub(crate) fn is_own_stream(&self, stream: &str) -> bool {
        /// Maximum length of a name that naq gives.
        const NAME_CHARS_MAX: usize = 255;
        let kinds = ["KV_", "OBJ_"];
        let name = kinds.iter().find_map(|kind| stream.strip_prefix(kind));
        let rest = name.unwrap_or(stream).strip_prefix(&self.prefix);
        stream.len() <= NAME_CHARS_MAX && rest.is_some_and(|rest| rest.starts_with('_'))
    }

    /// The subject of a queued job.
    #[must_use]
    pub fn job(&self, queue: &QueueName, job: &JobId) -> String {
        format!("{}.queue.{queue}.{job}", self.prefix)
    }

    /// The subject for producers that choose no id.
    #[must_use]
    pub fn job_without_id(&self, queue: &QueueName) -> String {
        format!("{}.queue.{queue}", self.prefix)
    }

    /// The subjects of all queued jobs that have an id.
    #[must_use]
    pub fn jobs(&self, queue: &QueueName) -> String {
        format!("{}.queue.{queue}.*", self.prefix)
    }

    /// The subject of a delayed job.
    #[must_use]
    pub fn delayed(&self, queue: &QueueName, job: &JobId) -> String {
        format!("{}.delayed.{queue}.{job}", self.prefix)
    }

    /// The queue of a queued job's subject. `None` for any other subject.
    #[must_use]
    pub fn queue_of_job(&self, subject: &str) -> Option<QueueName> {
        self.queue_of(subject, "queue")
    }

    /// The queue of a delayed job's subject. `None` for any other subject.
    #[must_use]
    pub fn queue_of_delayed(&self, subject: &str) -> Option<QueueName> {
        self.queue_of(subject, "delayed")
    }

    fn queue_of(&self, subject: &str, kind: &str) -> Option<QueueName> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        let mut tokens = rest.split('.');
        let queue = tokens
            .next()
            .filter(|token| *token == kind)
            .and(tokens.next())?;
        QueueName::new(queue).ok()
    }

    /// Whether a subject is that of a delayed job.
    #[must_use]
    pub fn is_delayed(&self, subject: &str) -> bool {
        self.queue_of_delayed(subject).is_some()
    }

    /// The subjects of all delayed jobs of a queue.
    #[must_use]
    pub fn all_delayed(&self, queue: &QueueName) -> String {
        format!("{}.delayed.{queue}.*", self.prefix)
    }

    /// The subject of a rerouted job, which waits for a worker with the labels it requires;
    /// `route_key` is the key of those labels.
    #[must_use]
    pub fn routed(&self, queue: &QueueName, route_key: &str, job: &JobId) -> String {
        format!("{}.route.{queue}.{route_key}.{job}", self.prefix)
    }

    /// The subjects of all jobs of a queue that require the same labels.
    #[must_use]
    pub fn routed_by_key(&self, queue: &QueueName, route_key: &str) -> String {
        format!("{}.route.{queue}.{route_key}.*", self.prefix)
    }

    /// The subjects of a rerouted job, whatever labels it requires.
    #[must_use]
    pub fn routed_copies_of_job(&self, queue: &QueueName, job: &JobId) -> String {
        format!("{}.route.{queue}.*.{job}", self.prefix)
    }

    /// The subjects of all rerouted jobs of a queue.
    #[must_use]
    pub fn all_routed(&self, queue: &QueueName) -> String {
        format!("{}.route.{queue}.*.*", self.prefix)
    }

    /// The durable consumer of a queue's jobs that require the same labels.
    #[must_use]
    pub fn route_consumer(&self, route_key: &str) -> String {
        format!("{}-route-{route_key}", self.prefix)
    }

    /// The route key of a consumer. `None` if the consumer is not one of rerouted jobs.
    #[must_use]
    pub fn route_of_consumer<'c>(&self, consumer: &'c str) -> Option<&'c str> {
        consumer.strip_prefix(&self.prefix)?.strip_prefix("-route-")
    }

    /// The bucket of removed queues.
    #[must_use]
    pub fn removed_queues_bucket(&self) -> String {
        format!("{}_removed_queues", self.prefix)
    }

    /// The subject of a removed queue.
    #[must_use]
    pub fn removed_queue(&self, queue: &QueueName) -> String {
        format!("$KV.{}_removed_queues.{queue}", self.prefix)
    }

    /// The subjects of all removed queues.
    #[must_use]
    pub fn all_removed_queues(&self) -> String {
        format!("$KV.{}_removed_queues.*", self.prefix)
    }

    /// The bucket of the label sets that jobs require.
    #[must_use]
    pub fn requires_bucket(&self) -> String {
        format!("{}_requires", self.prefix)
    }

    /// The subject of a label set that jobs of a queue require.
    #[must_use]
    pub fn label_route(&self, queue: &QueueName, route_key: &str) -> String {
        format!("$KV.{}_requires.{queue}.{route_key}", self.prefix)
    }

    /// The queue and the route key in the subject of a label set.
    pub(crate) fn label_route_of_subject<'s>(
        &self,
        subject: &'s str,
    ) -> Option<(QueueName, &'s str)> {
        let rest = subject.strip_prefix("$KV.")?.strip_prefix(&self.prefix)?;
        let (queue, key) = rest.strip_prefix("_requires.")?.split_once('.')?;
        Some((QueueName::new(queue).ok()?, key))
    }

    /// The subjects of all label sets.
    #[must_use]
    pub fn all_label_routes(&self) -> String {
        format!("$KV.{}_requires.*.*", self.prefix)
    }

    /// The subjects of all label sets that jobs of a queue require.
    #[must_use]
    pub fn label_routes_in(&self, queue: &QueueName) -> String {
        format!("$KV.{}_requires.{queue}.*", self.prefix)
    }

    /// The durable consumer that all workers of a queue share.
    #[must_use]
    pub fn worker_consumer(&self) -> String {
        format!("{}-worker", self.prefix)
    }

    /// The bucket of records.
    #[must_use]
    pub fn results_bucket(&self) -> String {
        format!("{}_results", self.prefix)
    }

    /// The bucket of workers' heartbeats.
    #[must_use]
    pub fn workers_bucket(&self) -> String {
        format!("{}_workers", self.prefix)
    }

    /// The bucket of the index of blocked jobs.
    #[must_use]
    pub fn dependents_bucket(&self) -> String {
        format!("{}_dependents", self.prefix)
    }

    /// The subjects of the whole index of blocked jobs.
    #[must_use]
    pub fn all_dependents(&self) -> String {
        format!("$KV.{}.>", self.dependents_bucket())
    }

    /// The key under which the end of `dependency` finds its dependent `job`.
    #[must_use]
    pub fn edge(&self, dependency: &JobId, job: &JobId) -> String {
        format!("$KV.{}_dependents.{dependency}.{job}", self.prefix)
    }

    /// The keys of all dependents of a job.
    #[must_use]
    pub fn edges_of(&self, dependency: &JobId) -> String {
        format!("$KV.{}_dependents.{dependency}.*", self.prefix)
    }

    /// The key that states that `job` still waits for `dependency`.
    #[must_use]
    pub fn open_edge(&self, job: &JobId, dependency: &JobId) -> String {
        format!("$KV.{}_dependents.open.{job}.{dependency}", self.prefix)
    }

    /// The keys of all dependencies that a job still waits for.
    #[must_use]
    pub fn open_edges_of(&self, job: &JobId) -> String {
        format!("$KV.{}_dependents.open.{job}.*", self.prefix)
    }

    /// The key of the names of a flow's jobs.
    #[must_use]
    pub fn flow(&self, flow: &JobId) -> String {
        format!("$KV.{}_dependents.flow.{flow}.names", self.prefix)
    }

    /// The keys of the names of the jobs of all flows.
    #[must_use]
    pub fn all_flows(&self) -> String {
        format!("$KV.{}_dependents.flow.*.names", self.prefix)
    }

    /// The keys of dependencies and of those that jobs still wait for, and of jobs that wait for a slot.
    #[must_use]
    pub fn blocked_index(&self) -> [String; 2] {
        let bucket = self.dependents_bucket();
        [format!("$KV.{bucket}.*.*"), format!("$KV.{bucket}.*.*.*")]
    }

    /// The key of an unsuccessful job.
    #[must_use]
    pub fn unsuccessful(&self, state: State, queue: &QueueName, job: &JobId) -> String {
        let bucket = self.dependents_bucket();
        format!("$KV.{bucket}.unsuccessful.{state}.{queue}.{job}")
    }

    /// The keys of the unsuccessful jobs in a state, of a queue or of all queues.
    #[must_use]
    pub fn unsuccessful_in(&self, state: State, queue: Option<&QueueName>) -> String {
        let bucket = self.dependents_bucket();
        let queue = queue.map_or("*", QueueName::as_str);
        format!("$KV.{bucket}.unsuccessful.{state}.{queue}.*")
    }

    /// The key that says for which records the index of unsuccessful jobs is complete.
    #[must_use]
    pub fn unsuccessful_marker(&self) -> String {
        format!(
            "$KV.{}.unsuccessful.index.is.complete",
            self.dependents_bucket()
        )
    }

    /// The bucket of concurrency slots.
    #[must_use]
    pub fn slots_bucket(&self) -> String {
        format!("{}_slots", self.prefix)
    }

    /// The slots of a concurrency key.
    #[must_use]
    pub fn slots(&self, key: &str) -> String {
        format!("$KV.{}_slots.{}", self.prefix, key_token(key))
    }

    /// The slots of all concurrency keys.
    #[must_use]
    pub fn all_slots(&self) -> String {
        format!("$KV.{}_slots.*", self.prefix)
    }

    /// The key that states that a job waits for a slot.
    #[must_use]
    pub fn slot_waiter(&self, key: &str, job: &JobId) -> String {
        format!(
            "$KV.{}_dependents.slot.{}.{job}",
            self.prefix,
            key_token(key)
        )
    }

    /// The keys of all jobs that wait for a slot of a concurrency key.
    #[must_use]
    pub fn slot_waiters(&self, key: &str) -> String {
        format!("$KV.{}_dependents.slot.{}.*", self.prefix, key_token(key))
    }

    /// The subject of requests to a worker.
    #[must_use]
    pub fn control_of_worker(&self, worker_id: &str) -> String {
        format!("{}.control.worker.{worker_id}", self.prefix)
    }

    /// The subjects of requests to all workers.
    #[must_use]
    pub fn control_of_all_workers(&self) -> String {
        format!("{}.control.worker.*", self.prefix)
    }

    /// The subject of questions about the leases of a worker.
    #[must_use]
    pub fn leases_of_worker(&self, worker_id: &str) -> String {
        format!("{}.lease.{worker_id}", self.prefix)
    }

    /// The subjects of questions about the leases of all workers.
    #[must_use]
    pub fn leases_of_all_workers(&self) -> String {
        format!("{}.lease.*", self.prefix)
    }

    /// The subject of a blocked job's recheck. It is not a delayed job's subject, so that removing
    /// delayed jobs leaves it.
    #[must_use]
    pub fn recheck(&self, queue: &QueueName, job: &JobId) -> String {
        format!("{}.recheck.{queue}.{job}", self.prefix)
    }

    /// The subjects of all rechecks of a queue.
    #[must_use]
    pub fn all_rechecks(&self, queue: &QueueName) -> String {
        format!("{}.recheck.{queue}.*", self.prefix)
    }

    /// The subjects of all messages of jobs of all queues.
    #[must_use]
    pub fn all_subjects_of_jobs(&self) -> Vec<String> {
        let kinds = ["queue", "delayed", "route", "recheck"];
        kinds
            .map(|kind| format!("{}.{kind}.>", self.prefix))
            .to_vec()
    }

    /// The bucket of objects.
    #[must_use]
    pub fn files_bucket(&self) -> String {
        format!("{}_files", self.prefix)
    }

    /// The stream of the objects.
    #[must_use]
    pub fn files_stream(&self) -> String {
        format!("OBJ_{}", self.files_bucket())
    }

    /// The subjects of the chunks of all objects.
    #[must_use]
    pub fn file_chunks(&self) -> String {
        format!("$O.{}.C.*", self.files_bucket())
    }

    /// The subjects of the descriptions of all objects.
    #[must_use]
    pub fn file_descriptions(&self) -> String {
        format!("$O.{}.M.*", self.files_bucket())
    }

    /// The subject of the description of the uploaded file with this digest. It has two tokens, so that who
    /// may store uploads may not replace other objects.
    #[must_use]
    pub fn upload(&self, digest: &FileDigest) -> String {
        format!("$O.{}.M.upload.{}", self.files_bucket(), digest.hex())
    }

    /// The subjects of the descriptions of all uploaded files.
    #[must_use]
    pub fn uploads(&self) -> String {
        format!("$O.{}.M.upload.*", self.files_bucket())
    }

    /// The subjects of the chunks of all uploaded files.
    #[must_use]
    pub fn upload_chunks(&self) -> String {
        format!("$O.{}.C.upload.*", self.files_bucket())
    }

    /// The subject of a job's record.
    #[must_use]
    pub fn record(&self, job: &JobId) -> String {
        format!("$KV.{}_results.{job}", self.prefix)
    }

    /// The subjects of all records.
    #[must_use]
    pub fn all_records(&self) -> String {
        format!("$KV.{}_results.*", self.prefix)
    }

    /// The subject of a worker's heartbeat.
    #[must_use]
    pub fn worker(&self, worker_id: &str) -> String {
        format!("$KV.{}_workers.{worker_id}", self.prefix)
    }

    /// The subjects of the heartbeats of all workers.
    #[must_use]
    pub fn all_workers(&self) -> String {
        format!("$KV.{}_workers.*", self.prefix)
    }

    /// The key of a request to drain a worker. It is no key of a heartbeat, so that a worker, which may write its
    /// heartbeat, cannot drain others.
    #[must_use]
    pub fn drain_request(&self, worker_id: &str) -> String {
        format!("$KV.{}_workers.drain.{worker_id}", self.prefix)
    }

    /// The keys of requests to drain any worker.
    #[must_use]
    pub fn all_drain_requests(&self) -> String {
        format!("$KV.{}_workers.drain.*", self.prefix)
    }

    /// The subject under which the server republishes each stored change of a record.
    #[must_use]
    pub fn event(&self, job: &JobId) -> String {
        format!("{}.event.{job}", self.prefix)
    }

    /// The subjects of all changes of records.
    #[must_use]
    pub fn record_events(&self) -> String {
        format!("{}.event.*", self.prefix)
    }

    /// The subjects of all events: changes of records, and messages stored in queues.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}.event.>", self.prefix)
    }

    /// How the server republishes each message of a queue's stream: the source and the destination.
    /// The destination has `event` between the prefix and the other tokens of the message's subject.
    #[must_use]
    pub fn queue_events(&self) -> (String, String) {
        (
            format!("{}.*.>", self.prefix),
            format!("{}.event.{{{{wildcard(1)}}}}.>", self.prefix),
        )
    }

    /// The stream of dead letters.
    #[must_use]
    pub fn dead_letter_stream(&self) -> String {
        format!("{}_failed_jobs", self.prefix)
    }

    /// The subject of a dead letter.
    #[must_use]
    pub fn dead_letter(&self, queue: &QueueName, job: &JobId) -> String {
        format!("{}.failed.{queue}.{job}", self.prefix)
    }

    /// The subjects of all dead letters.
    #[must_use]
    pub fn all_dead_letters(&self) -> String {
        format!("{}.failed.>", self.prefix)
    }

    /// The subjects of all dead letters of a queue.
    #[must_use]
    pub fn dead_letters_in(&self, queue: &QueueName) -> String {
        format!("{}.failed.{queue}.*", self.prefix)
    }

    /// The subjects of a job's dead letters in all queues.
    #[must_use]
    pub fn dead_letters_of_job(&self, job: &JobId) -> String {
        format!("{}.failed.*.{job}", self.prefix)
    }

    /// The stream of live output.
    #[must_use]
    pub fn logs_stream(&self) -> String {
        format!("{}_logs", self.prefix)
    }

    /// The subject of a job's live output.
    #[must_use]
    pub fn log(&self, job: &JobId) -> String {
        format!("{}.log.{job}", self.prefix)
    }

    /// The subjects of all live output.
    #[must_use]
    pub fn all_logs(&self) -> String {
        format!("{}.log.*", self.prefix)
    }

    /// The stream of the audit.
    #[must_use]
    pub fn audit_stream(&self) -> String {
        format!("{}_audit", self.prefix)
    }

    /// The subject of an entry of the audit about an action, such as `queue.purge`.
    #[must_use]
    pub fn audit(&self, writer: AuditWriter, action: &str) -> String {
        format!("{}.audit.{}.{action}", self.prefix, writer.token())
    }

    /// The subjects of all entries of a writer.
    #[must_use]
    pub fn audit_of_writer(&self, writer: AuditWriter) -> String {
        self.audit(writer, ">")
    }

    /// The subjects of all entries of the audit.
    #[must_use]
    pub fn all_audit(&self) -> String {
        format!("{}.audit.>", self.prefix)
    }

    /// The writer's token and the action in the subject of an entry. `None` for any other subject.
    pub(crate) fn parse_audit<'s>(&self, subject: &'s str) -> Option<(&'s str, &'s str)> {
        let rest = subject.strip_prefix(&self.prefix)?;
        rest.strip_prefix(".audit.")?.split_once('.')
    }

    /// The bucket of schedules.
    #[must_use]
    pub fn schedules_bucket(&self) -> String {
        format!("{}_scheduled_jobs", self.prefix)
    }

    /// The key of a schedule.
    #[must_use]
    pub fn schedule(&self, schedule: &ScheduleId) -> String {
        format!("$KV.{}_scheduled_jobs.{schedule}", self.prefix)
    }

    /// The keys of all schedules.
    #[must_use]
    pub fn all_schedules(&self) -> String {
        format!("$KV.{}_scheduled_jobs.*", self.prefix)
    }

    /// The schedule of a key. `None` if the key is not a schedule's.
    #[must_use]
    pub fn schedule_of_key(&self, key: &str) -> Option<ScheduleId> {
        let rest = key.strip_prefix("$KV.")?.strip_prefix(&self.prefix)?;
        ScheduleId::new(rest.strip_prefix("_scheduled_jobs.")?).ok()
    }

    /// The subjects under which the server republishes each stored change of a schedule.
    #[must_use]
    pub fn schedule_events(&self) -> String {
        format!("{}.schedule.>", self.prefix)
    }

    /// The schedule of a republished change. `None` for any other subject.
    #[must_use]
    pub fn schedule_of_event(&self, subject: &str) -> Option<ScheduleId> {
        let rest = subject.strip_prefix(&self.prefix)?;
        ScheduleId::new(rest.strip_prefix(".schedule.")?).ok()
    }

    /// The bucket of schedulers' heartbeats.
    #[must_use]
    pub fn schedulers_bucket(&self) -> String {
        format!("{}_schedulers", self.prefix)
    }

    /// The subject of a scheduler's heartbeat; `process` is a name of its process alone.
    #[must_use]
    pub fn scheduler(&self, process: &JobId) -> String {
        format!("$KV.{}.{process}", self.schedulers_bucket())
    }

    /// The subjects of the heartbeats of all schedulers.
    #[must_use]
    pub fn all_schedulers(&self) -> String {
        format!("$KV.{}.*", self.schedulers_bucket())
    }

    /// The bucket of the schedulers' leader lease.
    #[must_use]
    pub fn leader_lease_bucket(&self) -> String {
        format!("{}_scheduler_lock", self.prefix)
    }

    /// The key of the lease that makes a scheduler the leader.
    #[must_use]
    pub fn leader_lease(&self) -> String {
        format!("$KV.{}_scheduler_lock.leader_lock", self.prefix)
    }

    /// The subject under which the server republishes each stored change of the leader lease.
    #[must_use]
    pub fn leader_lease_events(&self) -> String {
        format!("{}.scheduler.leader_lock", self.prefix)
    }

    /// The stream behind a bucket.
    #[must_use]
    pub fn bucket_stream(bucket: &str) -> String {
        format!("KV_{bucket}")
    }
}

/// Turns any text into a token of a subject.
fn key_token(key: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(key.as_bytes());
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_names_its_queue() {
        let names = Names::new("naq").unwrap();
        let queue = QueueName::new("build_a-1").unwrap();
        assert_eq!(
            names.queue_of_stream(&names.queue_stream(&queue)),
            Some(queue)
        );
        assert_eq!(names.queue_of_stream("naq_failed_jobs"), None);
        assert_eq!(names.queue_of_stream("other_queue_x"), None);
    }

    /// Streams and buckets of an installation, with those of queues of these names.
    fn streams(names: &Names, queues: &[String]) -> Vec<String> {
        let queues = queues.iter().map(|queue| QueueName::new(queue).unwrap());
        let mut streams: Vec<_> = queues.map(|queue| names.queue_stream(&queue)).collect();
        streams.extend([
            names.dead_letter_stream(),
            names.logs_stream(),
            names.audit_stream(),
        ]);
        streams.push(format!("OBJ_{}", names.files_bucket()));
        let buckets = [
            names.results_bucket(),
            names.workers_bucket(),
            names.dependents_bucket(),
            names.slots_bucket(),
            names.requires_bucket(),
            names.removed_queues_bucket(),
            names.schedules_bucket(),
            names.schedulers_bucket(),
            names.leader_lease_bucket(),
        ];
        streams.extend(buckets.iter().map(|bucket| Names::bucket_stream(bucket)));
        streams
    }

    #[test]
    fn installations_with_different_prefixes_share_no_stream() {
        let words = ["naq", "queue", "KV", "jobs", "removed", "logs", "b"];
        let mut texts: Vec<String> = words.map(str::to_owned).to_vec();
        for _ in 0..2 {
            let longer: Vec<_> = texts
                .iter()
                .flat_map(|text| words.map(|word| format!("{text}_{word}")))
                .collect();
            texts.extend(longer);
        }
        texts.sort();
        texts.dedup();
        let mut owners = std::collections::HashMap::new();
        let mut is_refused = false;
        for prefix in texts.iter().filter(|text| text.matches('_').count() < 2) {
            let Ok(names) = Names::new(prefix) else {
                is_refused = true;
                continue;
            };
            for stream in streams(&names, &texts) {
                let other = owners.insert(stream.clone(), prefix);
                assert_eq!(other, None, "{stream} is also of {prefix}");
            }
        }
        assert!(is_refused && Names::new("naq_queue").is_err() && Names::new("queue").is_ok());
    }

    #[test]
    fn a_subject_names_its_queue_and_kind() {
        let names = Names::new("naq").unwrap();
        let (queue, job) = (QueueName::new("build").unwrap(), JobId::new("j").unwrap());
        for subject in [names.job(&queue, &job), names.job_without_id(&queue)] {
            assert_eq!(names.queue_of_job(&subject), Some(queue.clone()));
            assert_eq!(names.queue_of_delayed(&subject), None);
        }
        let later = names.delayed(&queue, &job);
        assert_eq!(names.queue_of_delayed(&later), Some(queue));
        assert_eq!(names.queue_of_job(&later), None);
        assert_eq!(names.queue_of_job("naqs.queue.build"), None);
        assert_eq!(names.queue_of_job("naq"), None);
    }

    #[test]
    fn the_subject_of_an_audit_entry_names_its_writer_and_action() {
        let names = Names::new("naq").unwrap();
        let subject = names.audit(AuditWriter::CommandLine, "queue.purge");
        assert_eq!(subject, "naq.audit.cli.queue.purge");
        assert_eq!(names.parse_audit(&subject), Some(("cli", "queue.purge")));
        assert_eq!(names.parse_audit("naq.audit.cli"), None);
        assert_eq!(names.parse_audit("naq.auditor.cli.x"), None);
    }

    #[test]
    fn a_route_consumer_names_its_route_key() {
        let names = Names::new("naq").unwrap();
        assert_eq!(
            names.route_of_consumer(&names.route_consumer("0af3")),
            Some("0af3")
        );
        assert_eq!(names.route_of_consumer(&names.worker_consumer()), None);
    }
}
