//! The streams, buckets and consumers: made by others, removed by others, and their replicas.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod made_by_others;
mod queue_consumer;
mod removed;
mod replicas;

use async_nats::jetstream;

use crate::harness::naq::Naq;

/// Sends a request to the JetStream API, as another program would. Panics if it is refused.
fn api(naq: &Naq, subject: &str, request: serde_json::Value) -> serde_json::Value {
    let answer: serde_json::Value = naq.block_on(async {
        let jetstream = jetstream::new(naq.nats().clone());
        let answer = jetstream.request(subject.to_owned(), &request).await;
        match answer.unwrap() {
            jetstream::response::Response::Ok(answer) => answer,
            jetstream::response::Response::Err { error } => panic!("{subject}: {error}"),
        }
    });
    answer
}

/// Creates a stream with these settings and no others.
fn create_stream(naq: &Naq, name: &str, mut settings: serde_json::Value) {
    settings["name"] = name.into();
    api(naq, &format!("STREAM.CREATE.{name}"), settings);
}

/// Creates a bucket as `nats kv add` does.
fn create_bucket(naq: &Naq, bucket: &str) {
    let settings = serde_json::json!({
        "subjects": [format!("$KV.{bucket}.>")], "max_msgs_per_subject": 1, "discard": "new",
        "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
    });
    create_stream(naq, &format!("KV_{bucket}"), settings);
}

fn remove_stream(naq: &Naq, name: &str) {
    api(naq, &format!("STREAM.DELETE.{name}"), serde_json::json!({}));
}

/// What the server says of a stream.
fn info(naq: &Naq, stream: &str) -> serde_json::Value {
    api(naq, &format!("STREAM.INFO.{stream}"), serde_json::json!({}))
}

/// The settings of a stream.
fn settings(naq: &Naq, stream: &str) -> serde_json::Value {
    info(naq, stream)["config"].take()
}

fn streams(naq: &Naq) -> Vec<String> {
    use futures_util::TryStreamExt;
    naq.block_on(async {
        let jetstream = jetstream::new(naq.nats().clone());
        let mut names: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
        names.sort();
        names
    })
}
