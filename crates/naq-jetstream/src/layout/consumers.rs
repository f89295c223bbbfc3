//! The consumers that naq needs, and their settings.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use serde_json::{Value, json};

use super::setting::{Config, Setting};
use crate::names::Names;
use naq_protocol::QueueName;

/// Maximum number of open pull requests of a queue's consumer: one for each free slot of each
/// worker.
const PULLS_MAX: i64 = 65_536;

/// The settings of a consumer that workers pull jobs from, besides its name and its filters.
pub(crate) fn pull_config(ack_wait: Duration) -> pull::Config {
    pull::Config {
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        max_deliver: -1,
        max_waiting: PULLS_MAX,
        max_ack_pending: -1,
        ..pull::Config::default()
    }
}

/// What the consumer that all workers of a queue share must have.
pub(crate) fn worker_consumer(names: &Names, queue: &QueueName) -> Vec<Setting> {
    job_consumer(vec![names.job_without_id(queue), names.jobs(queue)])
}

/// What a consumer of jobs that require labels must have.
pub(crate) fn route_consumer(names: &Names, queue: &QueueName, route_key: &str) -> Vec<Setting> {
    job_consumer(vec![names.routed_by_key(queue, route_key)])
}

fn job_consumer(subjects: Vec<String>) -> Vec<Setting> {
    vec![
        // with none, or with a wider one, workers would run delayed jobs at once
        Setting::filters(subjects),
        Setting::required("ack_policy", "explicit"),
        Setting::required("deliver_policy", "all"),
        Setting::required("replay_policy", "instant"),
        Setting::required("deliver_subject", Value::Null),
        Setting::required("headers_only", false),
        // naq counts attempts itself: NATS would keep a message that was delivered too often, and
        // deliver it to nobody
        Setting::required_unlimited("max_deliver", -1),
        // it replaces `ack_wait`, by which workers renew their leases
        Setting::required("backoff", json!([])),
        Setting::required_unlimited("inactive_threshold", 0),
        Setting::required_unlimited("max_batch", 0),
        Setting::required_unlimited("max_expires", 0),
        Setting::required_unlimited("max_bytes", 0),
        Setting::required("priority_groups", json!([])),
        Setting::required("priority_policy", ""),
        Setting::advised("mem_storage", false),
        Setting::advised_at_least("max_waiting", PULLS_MAX, PULLS_MAX),
    ]
}

/// The settings of a consumer with all filters in one list: NATS reports a single one elsewhere.
pub(crate) fn normalized(mut config: Config) -> Config {
    if let Some(filter) = config.remove("filter_subject") {
        let filters = match &filter {
            Value::String(text) if text.is_empty() => json!([]),
            _ => json!([filter]),
        };
        config.insert("filter_subjects".to_owned(), filters);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::super::setting::{Remedy, changed_config, differences};
    use super::*;

    fn settings() -> Vec<Setting> {
        let queue = QueueName::new("build").unwrap();
        worker_consumer(&Names::new("naq").unwrap(), &queue)
    }

    fn config(value: Value) -> Config {
        let Value::Object(config) = value else {
            unreachable!("it is an object")
        };
        normalized(config)
    }

    /// As NATS reports what [`pull_config`] makes.
    fn made_by_naq() -> Value {
        json!({
            "durable_name": "naq-worker", "name": "naq-worker", "deliver_policy": "all",
            "ack_policy": "explicit", "ack_wait": 30_000_000_000_u64, "max_deliver": -1,
            "filter_subjects": ["naq.queue.build.*", "naq.queue.build"],
            "replay_policy": "instant", "max_waiting": PULLS_MAX, "max_ack_pending": -1,
            "num_replicas": 0,
        })
    }

    #[test]
    fn a_consumer_without_a_filter_gets_one() {
        assert_eq!(differences(&settings(), &config(made_by_naq())), []);
        for filter in [json!(null), json!("naq.>")] {
            let mut found = made_by_naq();
            found["filter_subject"] = filter;
            found.as_object_mut().unwrap().remove("filter_subjects");
            let found = config(found);
            let differing = differences(&settings(), &found);
            assert_eq!(differing.len(), 1, "{differing:?}");
            assert_eq!(differing[0].setting, "filter_subjects");
            assert_eq!(differing[0].remedy, Remedy::Automatic);
            let changed = changed_config(&found, differing.iter());
            assert_eq!(differences(&settings(), &changed), []);
            assert!(!changed.contains_key("filter_subject"));
        }
    }

    #[test]
    fn a_consumer_that_acknowledges_nothing_is_impossible() {
        let mut found = made_by_naq();
        found["ack_policy"] = json!("none");
        found["max_waiting"] = json!(512);
        let differing = differences(&settings(), &config(found));
        let remedies: Vec<_> = differing
            .iter()
            .map(|one| (one.setting, one.remedy))
            .collect();
        assert_eq!(
            remedies,
            [
                ("ack_policy", Remedy::Impossible),
                ("max_waiting", Remedy::Tolerated)
            ]
        );
    }
}
