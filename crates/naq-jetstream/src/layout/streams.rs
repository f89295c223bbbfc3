//! The streams and buckets that naq needs: what each stores, and its settings.

use std::time::Duration;

use serde_json::{Value, json};

use super::setting::{Config, Setting, new_config};
use crate::names::Names;
use naq_protocol::QueueName;

/// How long a marker is kept after a key's TTL: it preserves the removal across a crash of a server
/// without replicas.
const MARKER_TTL: Duration = Duration::from_secs(600);

/// The shortest TTL of markers, which NATS requires too: watches learn of a removal by its marker.
const MARKER_TTL_MIN: Duration = Duration::from_secs(1);

/// How long live output is kept.
const LOGS_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Number of sets of required labels that a queue has room for: each has a consumer of its own.
const LABEL_SETS_MAX: i64 = 5_000;

/// Number of consumers of a queue. Where a stream sets none, nats-server 2.15 permits 1,000. Besides those
/// of the label sets there are the one of the workers, and those of programs that look into the queue.
const QUEUE_CONSUMERS_MAX: i64 = LABEL_SETS_MAX + 100;

/// Maximum size of the live output that is kept, in bytes.
const LOGS_BYTES_MAX: i64 = 256 << 20;

/// How long entries of the audit are kept: they name people.
const AUDIT_AGE_MAX: Duration = Duration::from_secs(180 * 86_400);

/// Maximum number of entries of the audit.
const AUDIT_ENTRIES_MAX: i64 = 100_000;

/// Maximum number of entries of one action by one kind of writer, so that what is done often evicts only itself.
const AUDIT_ENTRIES_PER_SUBJECT_MAX: i64 = 20_000;

/// Maximum size of an entry of the audit, in bytes. A limit of the whole stream in bytes would reserve storage,
/// which a small account lacks.
const AUDIT_ENTRY_BYTES_MAX: i64 = 16 << 10;

/// The setting that limits the consumers of a stream.
pub(super) const MAX_CONSUMERS: &str = "max_consumers";

/// A stream, or the stream behind a bucket.
#[derive(Clone, Debug)]
pub(crate) struct StreamSpec {
    /// Its name.
    pub(crate) name: String,
    /// What it stores, for people.
    pub(crate) contents: &'static str,
    /// Its settings, except for the number of replicas.
    pub(crate) settings: Vec<Setting>,
}

impl StreamSpec {
    fn new(name: String, contents: &'static str, settings: Vec<Setting>) -> StreamSpec {
        let common = [
            Setting::initial("description", contents),
            Setting::advised("storage", "file"),
            Setting::required("no_ack", false),
            Setting::required("sealed", false),
            Setting::required("mirror", Value::Null),
            Setting::required("subject_transform", Value::Null),
            Setting::required("allow_msg_counter", false),
            Setting::required("deny_purge", false),
            Setting::required_unlimited(MAX_CONSUMERS, -1),
            // a record or an envelope has no maximum size but the server's
            Setting::advised_unlimited("max_msg_size", -1),
        ];
        StreamSpec {
            name,
            contents,
            settings: common.into_iter().chain(settings).collect(),
        }
    }

    fn bucket(bucket: &str, contents: &'static str) -> StreamSpec {
        let settings = vec![
            Setting::subjects(vec![format!("$KV.{bucket}.>")]),
            Setting::required("retention", "limits"),
            // with the old policy a full bucket would lose values instead of refusing new ones
            Setting::required("discard", "new"),
            Setting::required("discard_new_per_subject", false),
            // naq reads the last value of a key; an operator may keep the ones before it too
            Setting::initial("max_msgs_per_subject", 1),
            Setting::required("allow_rollup_hdrs", true),
            Setting::required("allow_direct", true),
            Setting::required("allow_msg_ttl", true),
            Setting::required_at_least(
                "subject_delete_marker_ttl",
                nanos(MARKER_TTL_MIN),
                nanos(MARKER_TTL),
            ),
            Setting::advised_unlimited("max_age", 0),
            Setting::initial("deny_delete", true),
            Setting::initial("max_bytes", -1),
            Setting::initial("max_msgs", -1),
        ];
        StreamSpec::new(Names::bucket_stream(bucket), contents, settings)
    }

    fn with(mut self, setting: Setting) -> StreamSpec {
        self.settings.push(setting);
        self
    }

    fn replace(&mut self, setting: Setting) {
        self.settings.retain(|one| one.name != setting.name);
        self.settings.push(setting);
    }

    /// The stream of a queue.
    pub(crate) fn queue(names: &Names, queue: &QueueName) -> StreamSpec {
        let (source, destination) = names.queue_events();
        let settings = vec![
            Setting::subjects(vec![
                names.job_without_id(queue),
                names.jobs(queue),
                names.all_delayed(queue),
                names.all_routed(queue),
                names.all_rechecks(queue),
            ]),
            Setting::required("retention", "workqueue"),
            // a stream with message schedules cannot refuse messages when full; it has no limit to
            // reach
            Setting::required("discard", "old"),
            Setting::required("allow_rollup_hdrs", true),
            Setting::required("allow_msg_schedules", true),
            Setting::required("deny_delete", false),
            // without it, or with another one, `naq events` lacks what enters the queue
            Setting::advised_or_unset("republish", republish(&source, &destination)),
            Setting::advised_unlimited("max_msgs", -1),
            Setting::advised_unlimited("max_bytes", -1),
            Setting::advised_unlimited("max_age", 0),
            Setting::advised_unlimited("max_msgs_per_subject", -1),
            Setting::initial("allow_atomic", true),
        ];
        let contents = "jobs that wait, run or are delayed";
        let mut spec = StreamSpec::new(names.queue_stream(queue), contents, settings);
        spec.replace(Setting::required_at_least(
            MAX_CONSUMERS,
            QUEUE_CONSUMERS_MAX,
            QUEUE_CONSUMERS_MAX,
        ));
        spec.set_initial("description", format!("naq queue {queue}"));
        spec
    }

    /// The bucket of records.
    pub(crate) fn results(names: &Names) -> StreamSpec {
        let bucket = names.results_bucket();
        let events = republish(&format!("$KV.{bucket}.>"), &names.events());
        StreamSpec::bucket(&bucket, "the record of every job")
            .with(Setting::required_or_unset("republish", events))
    }

    /// The bucket of workers' heartbeats.
    pub(crate) fn workers(names: &Names) -> StreamSpec {
        let mut spec = StreamSpec::bucket(&names.workers_bucket(), "the heartbeat of every worker");
        // a heartbeat says nothing after a restart of the server
        spec.set_initial("storage", "file");
        spec
    }

    /// The bucket of schedulers' heartbeats.
    pub(crate) fn schedulers(names: &Names) -> StreamSpec {
        StreamSpec::bucket(
            &names.schedulers_bucket(),
            "the heartbeat of every scheduler",
        )
    }

    /// The bucket of the index of blocked jobs.
    pub(crate) fn dependents(names: &Names) -> StreamSpec {
        StreamSpec::bucket(&names.dependents_bucket(), "the index of blocked jobs")
    }

    /// The bucket of removed queues.
    pub(crate) fn removed_queues(names: &Names) -> StreamSpec {
        StreamSpec::bucket(
            &names.removed_queues_bucket(),
            "the first sequences of queues that were removed and are created again",
        )
    }

    /// The bucket of concurrency slots.
    pub(crate) fn slots(names: &Names) -> StreamSpec {
        StreamSpec::bucket(
            &names.slots_bucket(),
            "which jobs hold the slots of a concurrency key",
        )
    }

    /// The bucket of required labels.
    pub(crate) fn label_routes(names: &Names) -> StreamSpec {
        StreamSpec::bucket(&names.requires_bucket(), "the labels that jobs require")
    }

    /// The bucket of schedules.
    pub(crate) fn schedules(names: &Names) -> StreamSpec {
        let bucket = names.schedules_bucket();
        let changes = republish(&format!("$KV.{bucket}.>"), &names.schedule_events());
        StreamSpec::bucket(&bucket, "every schedule")
            .with(Setting::required_or_unset("republish", changes))
    }

    /// The bucket of the leader lease.
    pub(crate) fn leader_lease(names: &Names) -> StreamSpec {
        let changes = republish(&names.leader_lease(), &names.leader_lease_events());
        // without it a scheduler that stands by looks at the lease when it should have ended
        StreamSpec::bucket(
            &names.leader_lease_bucket(),
            "which scheduler is the leader",
        )
        .with(Setting::advised_or_unset("republish", changes))
    }

    /// The stream of dead letters.
    pub(crate) fn dead_letters(names: &Names) -> StreamSpec {
        let settings = vec![
            Setting::subjects(vec![names.all_dead_letters()]),
            Setting::required("retention", "limits"),
            Setting::required("discard", "new"),
            // a second copy of the same dead letter replaces the first
            Setting::required("max_msgs_per_subject", 1),
            Setting::required("discard_new_per_subject", false),
            Setting::required("allow_direct", true),
            Setting::initial("allow_rollup_hdrs", true),
            Setting::advised_unlimited("max_age", 0),
            Setting::initial("max_msgs", -1),
            Setting::initial("max_bytes", -1),
        ];
        StreamSpec::new(
            names.dead_letter_stream(),
            "failed and rejected jobs, whole",
            settings,
        )
    }

    /// The stream of live output, which is bounded.
    pub(crate) fn logs(names: &Names) -> StreamSpec {
        let settings = vec![
            Setting::subjects(vec![names.all_logs()]),
            Setting::required("retention", "limits"),
            Setting::advised("discard", "old"),
            Setting::required("allow_direct", true),
            Setting::initial("max_age", nanos(LOGS_AGE_MAX)),
            Setting::initial("max_bytes", LOGS_BYTES_MAX),
            Setting::initial("max_msgs", -1),
        ];
        StreamSpec::new(
            names.logs_stream(),
            "live output of jobs that run for over a second",
            settings,
        )
    }

    /// As [`StreamSpec::logs`], for an account that is too small: `max_bytes` is reserved storage, so
    /// the number of messages is limited instead.
    pub(crate) fn small_logs(names: &Names) -> StreamSpec {
        let mut spec = StreamSpec::logs(names);
        spec.set_initial("max_bytes", -1);
        spec.set_initial("max_msgs", 1_000);
        spec
    }

    /// The stream of the audit, which is bounded.
    pub(crate) fn audit(names: &Names) -> StreamSpec {
        let settings = vec![
            Setting::subjects(vec![names.all_audit()]),
            Setting::required("retention", "limits"),
            Setting::advised("discard", "old"),
            Setting::required("allow_direct", true),
            Setting::initial("deny_delete", true),
            Setting::initial("max_age", nanos(AUDIT_AGE_MAX)),
            Setting::initial("max_bytes", -1),
            Setting::initial("max_msgs", AUDIT_ENTRIES_MAX),
            Setting::initial("max_msgs_per_subject", AUDIT_ENTRIES_PER_SUBJECT_MAX),
        ];
        let mut spec = StreamSpec::new(names.audit_stream(), "who changed what", settings);
        spec.set_initial("max_msg_size", AUDIT_ENTRY_BYTES_MAX);
        spec
    }

    /// The stream of the object store.
    pub(crate) fn files(names: &Names) -> StreamSpec {
        let bucket = names.files_bucket();
        let settings = vec![
            Setting::subjects(vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")]),
            Setting::required("retention", "limits"),
            Setting::required("allow_rollup_hdrs", true),
            Setting::required("allow_direct", true),
            // files of jobs expire
            Setting::required("allow_msg_ttl", true),
            Setting::advised_unlimited("max_age", 0),
            Setting::initial("discard", "new"),
            Setting::initial("max_bytes", -1),
            Setting::initial("max_msgs", -1),
        ];
        StreamSpec::new(
            format!("OBJ_{bucket}"),
            "output, envelopes and files that do not fit into a message",
            settings,
        )
    }

    /// All streams and buckets but the queues.
    pub(crate) fn all(names: &Names) -> Vec<StreamSpec> {
        let mut specs = StreamSpec::of_workers(names);
        specs.push(StreamSpec::audit(names));
        specs
    }

    /// Those that workers and schedulers create, compare and keep. They write nothing to the audit, and who
    /// may change its settings could shorten it.
    pub(crate) fn of_workers(names: &Names) -> Vec<StreamSpec> {
        vec![
            StreamSpec::results(names),
            StreamSpec::workers(names),
            StreamSpec::dead_letters(names),
            StreamSpec::logs(names),
            StreamSpec::schedules(names),
            StreamSpec::leader_lease(names),
            StreamSpec::schedulers(names),
            StreamSpec::dependents(names),
            StreamSpec::slots(names),
            StreamSpec::label_routes(names),
            StreamSpec::removed_queues(names),
            StreamSpec::files(names),
        ]
    }

    /// Sets the value of a new stream.
    pub(crate) fn set_initial(&mut self, name: &'static str, value: impl Into<Value>) {
        self.settings.retain(|setting| setting.name != name);
        self.settings.push(Setting::initial(name, value));
    }

    /// The settings of a new stream.
    pub(crate) fn new_config(&self, replicas: usize) -> Config {
        let mut config = new_config(&self.settings);
        config.insert("name".to_owned(), self.name.clone().into());
        config.insert("num_replicas".to_owned(), replicas.into());
        config
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn republish(source: &str, destination: &str) -> Value {
    json!({ "src": source, "dest": destination })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::setting::differences;
    use super::*;

    fn names() -> Names {
        Names::new("naq").unwrap()
    }

    fn specs() -> Vec<StreamSpec> {
        let mut specs = StreamSpec::all(&names());
        specs.push(StreamSpec::queue(
            &names(),
            &QueueName::new("build").unwrap(),
        ));
        specs.push(StreamSpec::small_logs(&names()));
        specs
    }

    #[test]
    fn a_new_stream_needs_no_change_and_names_no_setting_twice() {
        for spec in specs() {
            let config = spec.new_config(1);
            assert_eq!(differences(&spec.settings, &config), [], "{}", spec.name);
            let names: BTreeSet<_> = spec.settings.iter().map(|one| one.name).collect();
            assert_eq!(names.len(), spec.settings.len(), "{}", spec.name);
        }
    }

    /// Every setting of a stream in nats-server 2.15 is in the table, or named here with the reason
    /// why naq works with any value.
    #[test]
    fn every_setting_of_a_stream_is_needed_or_known_not_to_be() {
        const SETTINGS: &str = "name description subjects retention max_consumers max_msgs max_bytes \
            max_age max_msgs_per_subject max_msg_size discard storage num_replicas no_ack \
            duplicate_window placement mirror sources compression first_seq subject_transform \
            republish allow_direct mirror_direct discard_new_per_subject sealed deny_delete \
            deny_purge allow_rollup_hdrs consumer_limits allow_msg_ttl subject_delete_marker_ttl \
            allow_msg_counter allow_atomic allow_msg_schedules persist_mode allow_batched metadata";
        let any = [
            // how it is stored, which is the operator's choice
            "placement",
            "compression",
            "persist_mode",
            "metadata",
            // set apart: see `num_replicas` in `server_check`
            "num_replicas",
            // an id runs once even if its message is stored twice
            "duplicate_window",
            // only more messages, or more ways to publish them
            "sources",
            "mirror_direct",
            "allow_batched",
            // a consumer that exceeds them is refused by NATS when it is created
            "consumer_limits",
            "name",
            "first_seq",
        ];
        let known: BTreeSet<&str> = SETTINGS.split_whitespace().collect();
        let needed: BTreeSet<&str> = specs()
            .iter()
            .flat_map(|spec| spec.settings.iter().map(|setting| setting.name))
            .collect();
        for setting in &known {
            assert!(
                needed.contains(setting) != any.contains(setting),
                "{setting}"
            );
        }
        assert!(needed.is_subset(&known));
    }

    /// A program that creates a stream by the page for workers creates what naq needs.
    #[test]
    fn the_page_for_workers_names_every_setting_that_is_needed() {
        let page = include_str!("../../../../docs/worker-protocol.md");
        let (_, section) = page
            .split_once("## What streams and consumers need")
            .unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let queue = QueueName::new("build").unwrap();
        let consumer = super::super::consumers::worker_consumer(&names(), &queue);
        let specs = specs();
        let settings = specs.iter().flat_map(|spec| &spec.settings);
        for setting in settings.chain(&consumer) {
            let is_named = section.contains(&format!("`{}`", setting.name));
            assert!(is_named || !setting.is_needed(), "{}", setting.name);
        }
    }

    #[test]
    fn buckets_made_by_the_nats_program_get_what_they_lack() {
        // `nats kv add naq_results` with natscli 0.3
        let found = json!({
            "name": "KV_naq_results", "subjects": ["$KV.naq_results.>"], "retention": "limits",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
            "max_msgs_per_subject": 1, "max_msg_size": -1, "discard": "new", "storage": "file",
            "num_replicas": 1, "duplicate_window": 120_000_000_000_u64, "compression": "none",
            "allow_direct": true, "mirror_direct": false, "sealed": false, "deny_delete": true,
            "deny_purge": false, "allow_rollup_hdrs": true, "consumer_limits": {},
            "allow_msg_ttl": false,
        });
        let Value::Object(found) = found else {
            unreachable!("it is an object")
        };
        let settings = StreamSpec::results(&names()).settings;
        let differing: BTreeSet<_> = differences(&settings, &found)
            .into_iter()
            .map(|one| (one.setting, format!("{:?}", one.remedy)))
            .collect();
        let automatic = "Automatic".to_owned();
        assert_eq!(
            differing,
            BTreeSet::from([
                ("allow_msg_ttl", automatic.clone()),
                ("republish", automatic.clone()),
                ("subject_delete_marker_ttl", automatic),
            ])
        );
    }
}
