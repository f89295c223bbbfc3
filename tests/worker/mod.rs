//! How jobs of a queue come to workers: limits, pauses, labels, and what removing them leaves.

mod label_routes;
mod limit;
mod pause;
mod purge;
mod suspended;

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use naq_jetstream::QueueInfo;
use naq_protocol::{JobId, QueueName};

use crate::harness::naq::{Naq, eventually};

/// An envelope of a job that runs until a file is there.
fn until_file(naq: &Naq, file: &str) -> serde_json::Value {
    let file = naq.home().join(file);
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; echo done",
        file.display()
    );
    serde_json::json!({ "script": script })
}

/// Lets such jobs end.
fn release(naq: &Naq, file: &str) {
    naq.file(file, "");
}

/// The state of a queue's consumer, once it exists.
fn consumer(naq: &Naq, queue: &str, name: &str) -> ConsumerInfo {
    let mut found = None;
    eventually("the consumer is there", || {
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

/// How a queue stands, as `naq queues` shows it.
fn info(naq: &Naq, queue: &str) -> QueueInfo {
    let queue = naq.client().queue(queue).expect("a name");
    naq.block_on(queue.info()).expect("the queue is there")
}

/// How a queue stands in the numbers: waiting, running, later.
fn counts(naq: &Naq, queue: &str) -> (u64, u64, u64) {
    let info = info(naq, queue);
    (info.depth, info.running, info.delayed)
}

/// Waits until a queue stands so: an acknowledgement comes a moment after the record.
#[track_caller]
fn stands(naq: &Naq, queue: &str, wanted: (u64, u64, u64)) {
    eventually(&format!("{queue} stands at {wanted:?}"), || {
        counts(naq, queue) == wanted
    });
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).expect("a name")
}

fn id(job: &str) -> JobId {
    JobId::new(job).expect("an id")
}
