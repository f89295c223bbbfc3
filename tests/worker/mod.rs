//! How jobs of a queue reach workers: limits, pauses, labels, suspended workers, purges.

mod claim_ahead;
mod drain;
mod exit;
mod files;
mod label_routes;
mod limit;
mod pause;
mod purge;
mod suspended;
#[cfg(feature = "otel")]
mod traces;

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use naq_jetstream::QueueInfo;
use naq_protocol::{JobId, QueueName};

use crate::harness::naq::{Naq, eventually};

/// Envelope of a job that runs until a file exists.
fn until_file(naq: &Naq, file: &str) -> serde_json::Value {
    let file = naq.home().join(file);
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; echo done",
        file.display()
    );
    serde_json::json!({ "script": script })
}

/// Creates the file, so that such jobs end.
fn release(naq: &Naq, file: &str) {
    naq.file(file, "");
}

/// The state of a queue's consumer, once it exists.
fn consumer(naq: &Naq, queue: &str, name: &str) -> ConsumerInfo {
    let mut found = None;
    eventually("the consumer exists", || {
        found = naq.block_on(async {
            async_nats::jetstream::new(naq.nats().clone())
                .get_stream(format!("naq_queue_{queue}"))
                .await
                .ok()?
                .consumer_info(name)
                .await
                .ok()
        });
        found.is_some()
    });
    found.expect("it was found")
}

/// Information about a queue, as `naq queues` shows it.
fn info(naq: &Naq, queue: &str) -> QueueInfo {
    let queue = naq.client().queue(queue).expect("a name");
    naq.block_on(queue.info()).expect("the queue exists")
}

/// Numbers of jobs of a queue: waiting, running, delayed.
fn counts(naq: &Naq, queue: &str) -> (u64, u64, u64) {
    let info = info(naq, queue);
    (info.depth, info.running, info.delayed)
}

/// Waits until a queue has these numbers of jobs: the acknowledgement follows a moment after the
/// record.
#[track_caller]
fn expect_counts(naq: &Naq, queue: &str, wanted: (u64, u64, u64)) {
    eventually(&format!("{queue} has the counts {wanted:?}"), || {
        counts(naq, queue) == wanted
    });
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).expect("a name")
}

fn id(job: &str) -> JobId {
    JobId::new(job).expect("an id")
}
