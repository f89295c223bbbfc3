//! `naq retry`: an ended job again, as a new one that tells which it repeats.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_protocol::{JobId, State};

use crate::harness::naq::{Naq, text};
use crate::harness::nats::TestServer;

fn printed_id(stdout: &str) -> JobId {
    JobId::new(stdout.trim_end()).unwrap()
}

#[test]
fn a_failed_job_runs_again_as_a_new_one() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let marker = naq.home().join("mended");
    // a field that naq does not know travels along
    let envelope = serde_json::json!({
        "job_id": "first",
        "command": "sh",
        "args": ["-c", format!("echo \"$NAQ_JOB_ID\"; [ -e {} ]", marker.display())],
        "labels": {"team": "a"},
        "expires_at": "2100-01-01T00:00:00Z",
        "colour": "red",
    });
    let first = JobId::new("first").unwrap();
    naq.cli(["enqueue", "-q", "build", "--quiet", "-f", "-"])
        .stdin(envelope.to_string())
        .run()
        .succeeds();
    let failed = naq.wait_ended(&first);
    assert_eq!(failed.state(), State::Failed);
    assert_eq!(naq.dead_letter(&first).job_id, first);

    std::fs::write(&marker, "").unwrap();
    let again = printed_id(&naq.cli(["retry", "first"]).run().succeeds().stdout);
    let record = naq.wait_ended(&again);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(record.rerun_of.as_ref(), Some(&first));
    assert_eq!(record.queue.as_str(), "build");
    assert_eq!(record.labels["team"], "a");
    assert_eq!(text(record.stdout.as_ref()), format!("{again}\n"));
    let kept: serde_json::Value =
        serde_json::from_str(record.envelope.as_ref().unwrap().get()).unwrap();
    assert_eq!(kept["colour"], "red");
    assert_eq!(kept.get("expires_at"), None);
    assert_eq!(kept["rerun_of"], "first");

    // the old one is what it was, and no longer waits to be dealt with
    assert_eq!(naq.wait_ended(&first).finished_at(), failed.finished_at());
    assert!(naq.dead_letters().is_empty());

    // from the record now, each time another job
    let done = naq.cli(["retry", "first", "--json"]).run().succeeds();
    let printed: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(printed["rerun_of"], "first");
    assert_ne!(printed["job_id"], again.as_str());
    let third = JobId::new(printed["job_id"].as_str().unwrap()).unwrap();
    assert_eq!(naq.wait_ended(&third).rerun_of, Some(first));
}

#[test]
fn the_outcome_can_be_waited_for() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let old = naq.enqueue(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    naq.wait_ended(&old);
    let done = naq.cli(["retry", "--wait", old.as_str()]).run().exits(7);
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str()),
        ("out\n", "err\n")
    );

    let well = naq.enqueue(&["--", "true"]);
    naq.wait_ended(&well);
    naq.cli(["retry", "--wait", old.as_str(), well.as_str()])
        .run()
        .exits(1)
        .expect_stderr(&["1 succeeded, 1 did not"]);
}

#[test]
fn an_envelope_too_long_for_the_record_runs_again() {
    const BYTES: usize = 300_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let stdin = "x".repeat(BYTES);
    let job = naq.publish(
        "build",
        serde_json::json!({"command": "wc", "args": ["-c"], "stdin": stdin}).to_string(),
    );
    assert!(naq.wait_ended(&job).envelope_object.is_some());
    let done = naq.cli(["retry", "--wait", job.as_str()]).run().succeeds();
    assert_eq!(done.stdout.trim(), BYTES.to_string());
}

#[test]
fn what_cannot_run_again_is_refused_and_kept() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["retry", "nobody"])
        .run()
        .exits(4)
        .expect_stderr(&["no job `nobody`"]);
    let queued = naq.enqueue(&["-q", "unserved", "--", "true"]);
    naq.cli(["retry", queued.as_str()])
        .run()
        .exits(5)
        .expect_stderr(&["has not ended", "queued"]);

    let worker = naq.worker(&["build"]).spawn();
    let running = naq.publish("build", r#"{"command":"sleep","args":["600"]}"#);
    naq.wait_running(&running);
    naq.cli(["retry", running.as_str()])
        .run()
        .exits(5)
        .expect_stderr(&["has not ended", "running"]);
    drop(worker);

    let _worker = naq.worker(&["other"]).spawn();
    for payload in [b"no envelope".to_vec(), vec![0xff, 0xfe], b"{}".to_vec()] {
        let rejected = naq.publish("other", payload);
        assert_eq!(naq.wait_ended(&rejected).state(), State::Rejected);
        naq.cli(["retry", rejected.as_str()])
            .run()
            .exits(6)
            .expect_stderr(&["cannot be run again", "rejected", "envelope"]);
        assert_eq!(naq.dead_letter(&rejected).job_id, rejected);
    }
    // one bad id among good ones stops none of them
    let good = naq.publish("other", r#"{"command":"true"}"#);
    naq.wait_ended(&good);
    let done = naq
        .cli(["retry", "nobody", good.as_str(), "nobody-else"])
        .run()
        .exits(4)
        .expect_stderr(&["nobody`", "nobody-else`"]);
    naq.wait_ended(&printed_id(&done.stdout));
}

#[test]
fn two_who_retry_at_once_make_one_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    let ran = naq.home().join("ran");
    let script = format!("echo \"$NAQ_JOB_ID\" >> {}; exit 1", ran.display());
    let old = naq.publish("build", serde_json::json!({"script": script}).to_string());
    naq.wait_ended(&old);

    let (one, other) = naq.block_on(async {
        let one = naq.client().prepare_retry(&old).await.unwrap();
        let other = naq.client().prepare_retry(&old).await.unwrap();
        (one, other)
    });
    assert_eq!(one.job_id(), other.job_id());
    let again = naq.block_on(one.enqueue()).unwrap();
    let first = naq.wait_ended(&again);
    // the first one has run, failed and been kept; the server is restarted, which makes it forget
    // the ids of messages; then comes the second
    drop(worker);
    let mut server = server;
    server.restart();
    let naq_again = Naq::new(&server);
    let _worker = naq_again.worker(&["build"]).spawn();
    assert_eq!(naq_again.block_on(other.enqueue()).unwrap(), again);
    naq_again.wait_drained("build");
    assert_eq!(
        naq_again.wait_ended(&again).finished_at(),
        first.finished_at()
    );
    let ran = std::fs::read_to_string(ran).unwrap();
    assert_eq!(ran, format!("{old}\n{again}\n"));
    // the failure of the new job is its own entry, and is not lost with the old one's
    assert_eq!(naq_again.dead_letters().len(), 1);
    assert_eq!(naq_again.dead_letter(&again).job_id, again);
}

#[test]
fn retries_at_once_enqueue_one_job() {
    const RETRIES: usize = 8;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    let failed = naq.enqueue(&["-q", "build", "--", "false"]);
    let succeeded = naq.enqueue(&["-q", "build", "--", "true"]);
    naq.wait_ended(&failed);
    naq.wait_ended(&succeeded);
    assert!(worker.stop().success());
    for job in [&failed, &succeeded] {
        let retries = (0..RETRIES).map(|_| naq.client().retry(job));
        let reruns = naq.block_on(futures_util::future::try_join_all(retries));
        let reruns: std::collections::BTreeSet<_> = reruns.unwrap().into_iter().collect();
        assert_eq!(reruns.len(), 1, "{reruns:?}");
        // and once more before it has run
        let again = naq.cli(["retry", job.as_str()]).run().succeeds();
        assert!(reruns.contains(&printed_id(&again.stdout)));
    }
    naq.wait_for_messages("build", 2);
    assert!(naq.dead_letters().is_empty());
}
