//! `docs/layout.json`, and the configurations on the page for workers that are not naq's: what naq creates, as
//! JSON, so that another program can create the same.

use std::time::Duration;

use async_nats::jetstream::consumer::{IntoConsumerConfig, pull};
use naq_protocol::QueueName;
use serde_json::{Value, json};

use super::consumers::pull_config;
use super::streams::StreamSpec;
use crate::names::Names;

/// The labels of the consumer in the file are these.
const ROUTE_LABELS: [(&str, &str); 1] = [("gpu", "yes")];

/// A consumer as in a request that creates it.
fn consumer(stream: &str, name: String, filter_subjects: Vec<String>) -> Value {
    let config = pull::Config {
        durable_name: Some(name),
        filter_subjects,
        ..pull_config(Duration::from_secs(30))
    };
    // without the action, the request would change a consumer that exists
    json!({"stream_name": stream, "action": "create", "config": config.into_consumer_config()})
}

/// Everything that naq creates, for one queue.
fn layout() -> Value {
    let names = Names::new("naq").unwrap();
    let queue = QueueName::new("build").unwrap();
    let mut specs = vec![StreamSpec::queue(&names, &queue)];
    specs.extend(StreamSpec::all(&names));
    let streams: Vec<Value> = specs.iter().map(|spec| spec.new_config(1).into()).collect();
    let stream = names.queue_stream(&queue);
    let labels = ROUTE_LABELS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let key = crate::routing::label_routes::label_route_key(&labels.into());
    let jobs = vec![names.job_without_id(&queue), names.jobs(&queue)];
    let routed = vec![names.routed_by_key(&queue, &key)];
    json!({
        "streams": streams,
        "consumers": [
            consumer(&stream, names.worker_consumer(), jobs),
            consumer(&stream, names.route_consumer(&key), routed),
        ],
    })
}

fn page(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
    std::fs::read_to_string(format!("{folder}/{name}")).unwrap()
}

/// The configuration of this stream or consumer.
fn config_of(layout: &Value, name: &str) -> Value {
    let streams = layout["streams"].as_array().unwrap().iter();
    let consumers = layout["consumers"].as_array().unwrap().iter();
    let mut all = streams.chain(consumers.map(|one| &one["config"]));
    let is_named = |one: &&Value| one["name"] == name || one["durable_name"] == name;
    all.find(is_named).unwrap().clone()
}

#[test]
fn the_layout_file_is_what_naq_creates() {
    let expected = format!("{:#}\n", layout());
    if page("layout.json") != expected {
        let file = std::env::temp_dir().join("naq-layout.json");
        std::fs::write(&file, expected).unwrap();
        panic!(
            "docs/layout.json has drifted; copy {} there",
            file.display()
        );
    }
}

#[test]
fn the_configurations_on_the_page_for_workers_are_what_naq_creates() {
    let page = page("worker-protocol.md");
    let layout = layout();
    let blocks: Vec<&str> = page.split("\n```json layout ").skip(1).collect();
    assert_eq!(blocks.len(), 3, "{blocks:?}");
    for block in blocks {
        let (name, rest) = block.split_once('\n').unwrap();
        let (shown, _) = rest.split_once("\n```").unwrap();
        let expected = config_of(&layout, name);
        let shown: Value = serde_json::from_str(shown).unwrap();
        assert_eq!(shown, expected, "{name} should be\n{expected:#}");
    }
}
