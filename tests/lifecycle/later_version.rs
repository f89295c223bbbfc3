//! Records in a state that only a later version of naq knows: shown, and left as they are.

use naq_protocol::State;

use crate::harness::naq::{Naq, id};
use crate::harness::nats::TestServer;

const RECORD: &str = r#"{"job_id":"a","queue":"build","state":"suspended","attempt":1,"enqueue_time":"2026-12-24T16:00:00.000Z","suspended_until":"2026-12-24T18:00:00.000Z","envelope":{"command":"true"}}"#;

const SUBJECT: &str = "$KV.naq_results.a";

#[test]
fn record_of_a_later_version_survives_a_cancel_a_dependent_and_a_redelivery() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).ack_wait("1s").spawn();
    // the buckets exist once a job has run
    naq.assert_jobs_still_run("build");
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let sent = jetstream.publish(SUBJECT, RECORD.into()).await.unwrap();
        sent.await.unwrap();
    });
    naq.cli(["cancel", "a"])
        .run()
        .exits(5)
        .expect_stderr(&["suspended", "later version"]);
    naq.enqueue(&[
        "-q",
        "build",
        "--id",
        "b",
        "--depends-on",
        "a",
        "--",
        "true",
    ]);
    naq.wait_for(&id("b"), "waiting", |record| {
        record.state() == State::Waiting
    });
    // a message of the job, which the worker neither runs nor acknowledges
    naq.publish_to(
        "build",
        "naq.queue.build.a",
        br#"{"command":"true"}"#.to_vec(),
    );
    naq.assert_jobs_still_run("build");
    naq.cli(["purge", "--yes", "build"]).run().succeeds();
    naq.wait_for_messages("build", 1);
    naq.cli(["status", "a"])
        .run()
        .succeeds()
        .expect_stdout("suspended");
    let stored = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_stream("KV_naq_results").await.unwrap();
        bucket
            .get_last_raw_message_by_subject(SUBJECT)
            .await
            .unwrap()
    });
    assert_eq!(stored.payload, RECORD);
}
