//! How many servers of a cluster keep a copy of a stream.

use super::{remove_stream, settings, streams};
use crate::harness::cluster::Cluster;
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;
use naq_protocol::QueueName;

/// The number of replicas of each stream of naq.
fn replicas(naq: &Naq) -> Vec<(String, u64)> {
    let of = |stream: &String| settings(naq, stream)["num_replicas"].as_u64().unwrap();
    let streams = streams(naq);
    streams
        .iter()
        .map(|stream| (stream.clone(), of(stream)))
        .collect()
}

/// naq with a cluster whose servers have elected a leader.
fn naq_with(cluster: &Cluster) -> Naq {
    let naq = Naq::with_cluster_by_default(cluster);
    let queue = QueueName::new("first").unwrap();
    eventually("the servers have a leader", || {
        let broker = naq.client().broker();
        naq.handle().block_on(broker.ensure_queue(&queue)).is_ok()
    });
    naq
}

#[test]
fn streams_of_a_cluster_of_three_have_three_replicas() {
    let cluster = Cluster::start(3);
    let naq = naq_with(&cluster);
    let worker = naq.worker(&["build"]).spawn();
    worker.expect_stderr("replicas=\"3\"");
    naq.assert_jobs_still_run("build");
    for (stream, count) in replicas(&naq) {
        assert_eq!(count, 3, "{stream}");
    }
    let listed = naq.cli(["queues"]).run().succeeds();
    assert!(listed.stdout.contains("REPLICAS"), "{}", listed.stdout);
    naq.cli(["server", "check"]).run().succeeds();
    assert!(!worker.log().contains("one replica"), "{}", worker.log());
    // a number that is given counts
    naq.cli(["queue", "add", "single", "--replicas", "1"])
        .run()
        .succeeds();
    assert_eq!(settings(&naq, "naq_queue_single")["num_replicas"], 1);
    naq.cli(["--replicas", "1", "queue", "add", "second"])
        .run()
        .succeeds();
    assert_eq!(settings(&naq, "naq_queue_second")["num_replicas"], 1);
}

#[test]
fn a_single_replica_on_a_cluster_is_warned_of_and_raised_on_request() {
    let cluster = Cluster::start(3);
    let naq = naq_with(&cluster);
    let add = ["queue", "add", "build", "--replicas", "1"];
    naq.cli(add).run().succeeds();
    remove_stream(&naq, "naq_queue_first");
    let one = naq.worker(&["build"]).env("NAQ_REPLICAS", "1").spawn();
    one.expect_stderr("replicas=\"1\"");
    naq.assert_jobs_still_run("build");
    assert!(one.stop().success());
    let worker = naq.worker(&["build"]).spawn();
    worker.expect_stderr("one replica on a cluster");
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    naq.cli(["queue", "set", "build", "--replicas", "3"])
        .run()
        .succeeds();
    assert_eq!(settings(&naq, "naq_queue_build")["num_replicas"], 3);
    let queues = naq.cli(["queues", "--json"]).run().succeeds();
    assert!(
        queues.stdout.contains("\"replicas\":3"),
        "{}",
        queues.stdout
    );
    let found = naq.cli(["server", "check"]).run();
    assert_eq!(found.code, Some(1), "{}", found.stderr);
    assert!(found.stdout.contains("num_replicas"), "{}", found.stdout);
    naq.cli(["server", "check", "--fix"]).run().succeeds();
    for (stream, count) in replicas(&naq) {
        assert_eq!(count, 3, "{stream}");
    }
    // the servers of a stream elect a leader again
    Cluster::wait_replicated(naq.handle(), naq.nats());
    eventually("the queue accepts a job", || {
        let queued = naq.cli(["enqueue", "-q", "build", "--", "true"]).run();
        queued.code == Some(0)
    });
    naq.assert_jobs_still_run("build");
    naq.cli(["server", "check"]).run().succeeds();
}

#[test]
fn a_cluster_with_a_server_down_gets_the_replicas_that_it_allows() {
    let mut cluster = Cluster::start(3);
    let naq = naq_with(&cluster);
    cluster.kill9(2);
    // the servers may elect a leader first
    eventually("a job is enqueued", || {
        let queued = naq.cli(["enqueue", "-q", "second", "--", "true"]).run();
        queued.code == Some(0)
    });
    let count = settings(&naq, "naq_queue_second")["num_replicas"].as_u64();
    assert!(count >= Some(2), "{count:?}");
    let _worker = naq.worker(&["second"]).spawn();
    naq.assert_jobs_still_run("second");
}

#[test]
fn a_single_server_keeps_one_replica_without_a_warning() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).env("NAQ_REPLICAS", "").spawn();
    worker.expect_stderr("replicas=\"1\"");
    naq.assert_jobs_still_run("build");
    assert!(!worker.log().contains("WARN"), "{}", worker.log());
    naq.cli(["server", "check"])
        .env("NAQ_REPLICAS", "")
        .run()
        .succeeds();
    // the server's own words explain what one server cannot do
    let refused = naq.cli(["queue", "set", "build", "--replicas", "3"]).run();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("non-clustered"),
        "{}",
        refused.stderr
    );
    let none = naq.cli(["queue", "set", "build"]).run();
    assert_eq!(none.code, Some(2), "{}", none.stderr);
    let zero = naq.cli(["queue", "set", "build", "--replicas", "0"]).run();
    assert_eq!(zero.code, Some(2), "{}", zero.stderr);
}
