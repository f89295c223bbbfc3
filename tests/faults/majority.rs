//! Three servers, some of which are gone: what a majority has stored stays, and a worker that is
//! cut off from the majority stops its jobs in time.

use naq_client::{BrokerError, NewJob};
use naq_protocol::{JobId, QueueName, State};

use crate::harness::cluster::Cluster;
use crate::harness::naq::{Naq, eventually, is_process_alive};

fn cluster() -> (Cluster, Naq) {
    let cluster = Cluster::start(3);
    let naq = Naq::with_cluster(&cluster);
    let queue = QueueName::new("build").unwrap();
    eventually("the servers have a leader", || {
        let broker = naq.client().broker();
        naq.handle().block_on(broker.ensure_queue(&queue)).is_ok()
    });
    (cluster, naq)
}

fn leader(naq: &Naq, stream: &str) -> usize {
    let mut found = None;
    eventually("a leader", || {
        found = naq.handle().block_on(Cluster::leader(naq.nats(), stream));
        found.is_some()
    });
    found.unwrap()
}

/// A job that reports that it runs, and waits for a file.
fn waiting(naq: &Naq) -> String {
    let home = naq.home().display();
    let script = format!(
        "echo $$ > {home}/pid.$NAQ_ATTEMPT; while [ ! -e {home}/go ]; do sleep 0.05; done; echo done"
    );
    serde_json::json!({"script": script}).to_string()
}

#[test]
fn killed_and_suspended_stream_leaders_lose_no_job() {
    let (mut cluster, naq) = cluster();
    let worker = naq.worker(&["build"]).spawn();
    let job = naq.publish("build", waiting(&naq));
    let pid = naq.home().join("pid.1");
    eventually("its command runs", || pid.exists());
    let first = leader(&naq, "naq_queue_build");
    cluster.kill9(first);
    cluster.restart_node(first);
    Cluster::wait_replicated(naq.handle(), naq.nats());
    let second = leader(&naq, "KV_naq_results");
    cluster.pause(second);
    std::fs::write(naq.home().join("go"), "").unwrap();
    // the outcome reaches the new leader while the old one is suspended
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.crashes),
        (State::Succeeded, 1, 0)
    );
    cluster.resume(second);
    Cluster::wait_replicated(naq.handle(), naq.nats());
    let mut kept = None;
    // the server that was suspended may still take itself for the leader, and not answer a read in time
    eventually("the record is read", || {
        kept = naq.block_on(naq.client().fetch_job(&job)).ok();
        kept.is_some()
    });
    assert_eq!(kept.unwrap().finished_at(), record.finished_at());
    assert!(worker.stop().success());
}

#[test]
fn a_worker_cut_off_from_the_majority_stops_its_job_and_takes_no_other() {
    let (cluster, naq) = cluster();
    let worker = naq
        .worker(&["build"])
        .with_host_pids()
        .ack_wait("4s")
        .spawn();
    let job = naq.publish("build", waiting(&naq));
    naq.wait_running(&job);
    let pid = naq.home().join("pid.1");
    let read_pid = || std::fs::read_to_string(&pid).ok()?.trim().parse().ok();
    eventually("it runs", || read_pid().is_some());
    for index in [0, 1] {
        cluster.pause(index);
    }
    // the lease is not renewed: the worker stops the job before it could be redelivered
    eventually("the job is stopped", || {
        !read_pid().is_some_and(is_process_alive)
    });
    worker.expect_stderr("lease lost");
    std::fs::write(naq.home().join("go"), "").unwrap();
    for index in [0, 1] {
        cluster.resume(index);
    }
    let record = naq.wait_ended(&job);
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    assert!(worker.stop().success());
}

/// A worker that starts without a majority waits for one.
#[test]
fn a_worker_that_starts_without_a_majority_waits_for_it() {
    let (cluster, naq) = cluster();
    for index in [1, 2] {
        cluster.pause(index);
    }
    let url = format!("nats://127.0.0.1:{}", cluster.port(0));
    let worker = naq
        .worker(&[])
        .arg("build")
        .env("NAQ_NATS_URL", &url)
        .spawn();
    worker.expect_stderr("not ready yet");
    for index in [1, 2] {
        cluster.resume(index);
    }
    eventually("it works", || {
        let job = serde_json::json!({"command": "echo", "args": ["well"]}).to_string();
        let published = naq.handle().block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            jetstream
                .publish("naq.queue.build", job.into())
                .await?
                .await
        });
        published.is_ok()
    });
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

/// Kills the server that leads a stream and does this while there is no leader. Panics if it fails in another way
/// than by the time limit of a request, after which it is unknown what has been done.
fn without_leader(
    cluster: &mut Cluster,
    naq: &Naq,
    stream: &str,
    write: impl Fn() -> Result<(), BrokerError>,
) {
    let killed = leader(naq, stream);
    cluster.kill9(killed);
    // the server that coordinates the others may be dead too
    let mut written = write();
    for _ in 0..3 {
        if let Err(BrokerError::Timeout(_)) = written {
            written = write();
        }
    }
    assert!(written.is_ok(), "{stream}: {written:?}");
    cluster.restart_node(killed);
    Cluster::wait_replicated(naq.handle(), naq.nats());
}

#[test]
fn a_write_waits_until_its_stream_has_a_leader() {
    let (mut cluster, naq) = cluster();
    let broker = naq.client().broker();
    let queue = QueueName::new("build").unwrap();
    let job = || NewJob::new(queue.clone(), r#"{"argv": ["true"]}"#.into());
    let flow = || {
        let flow = JobId::generate();
        naq.block_on(broker.write_flow(&flow, &["first"]))
    };
    let republish = || naq.block_on(broker.republish(job()));
    flow().unwrap();
    without_leader(&mut cluster, &naq, "KV_naq_dependents", flow);
    without_leader(&mut cluster, &naq, "naq_queue_build", republish);
    // a stream that does not exist is not waited for
    let other = QueueName::new("other").unwrap();
    let lost = naq.block_on(broker.republish(NewJob::new(other, "{}".into())));
    assert!(
        matches!(lost, Err(BrokerError::QueueNotFound(_))),
        "{lost:?}"
    );
}
