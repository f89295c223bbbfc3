//! `naq job ttl`: how long an ended job's record stays, changed later.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_protocol::{JobId, State};

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

/// A record's message: its bytes, its time to live, and the revision it is a copy of.
fn stored(naq: &Naq, job: &JobId) -> (Vec<u8>, Option<String>, Option<String>) {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_stream("KV_naq_results").await.unwrap();
        let subject = format!("$KV.naq_results.{job}");
        let message = bucket
            .get_last_raw_message_by_subject(&subject)
            .await
            .unwrap();
        let header = |name: &str| message.headers.get(name).map(|value| value.to_string());
        (
            message.payload.to_vec(),
            header("Nats-TTL"),
            header("Naq-Copy-Of"),
        )
    })
}

#[test]
fn an_ended_job_is_kept_for_the_latest_ttl() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let job = naq.publish(
        "build",
        r#"{"command":"echo","args":["hi"],"result_ttl":"1h"}"#,
    );
    naq.wait_ended(&job);
    naq.wait_drained("build");
    let (bytes, ttl, copy_of) = stored(&naq, &job);
    assert_eq!((ttl.as_deref(), copy_of), (Some("3600s"), None));

    for (asked, said, kept) in [
        ("30d", "kept for 30d", Some("2592000s")),
        ("0", "kept forever", None),
        ("10m", "kept for 10m", Some("600s")),
        ("2h", "kept for 2h", Some("7200s")),
    ] {
        let done = naq
            .cli(["job", "ttl", job.as_str(), asked])
            .run()
            .succeeds();
        assert!(done.stdout.contains(said), "{done:#?}");
        let (now, ttl, copy_of) = stored(&naq, &job);
        // the outcome is what it was, byte for byte
        assert_eq!(now, bytes, "{asked}");
        assert_eq!(ttl.as_deref(), kept, "{asked}");
        assert!(copy_of.is_some(), "{asked}");
    }
    // a record stays for ten minutes at least: no other time is promised
    for args in [
        &["job", "ttl", job.as_str(), "1m"][..],
        &["enqueue", "--result-ttl", "1m", "--", "true"],
    ] {
        naq.cli(args.iter().copied())
            .run()
            .exits(2)
            .expect_stderr(&[
                "1m is too short: a record stays for at least 10m; 0 keeps it forever",
            ]);
    }
    let done = naq
        .cli(["job", "ttl", job.as_str(), "0", "--json"])
        .run()
        .succeeds();
    let printed: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(printed, serde_json::json!({"job_id": job, "result_ttl": 0}));
    let done = naq.cli(["result", job.as_str()]).run().succeeds();
    assert_eq!(done.stdout, "hi\n");
}

#[test]
fn a_job_that_has_not_ended_is_left_alone() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["job", "ttl", "nobody", "1h"]).run().exits(4);
    naq.cli(["job", "ttl", "nobody", "soon"]).run().exits(2);
    let queued = naq.enqueue(&["-q", "unserved", "--", "true"]);
    naq.cli(["job", "ttl", queued.as_str(), "1h"])
        .run()
        .exits(5)
        .expect_stderr(&["has not ended", "queued"]);
    let _worker = naq.worker(&["build"]).spawn();
    let go = naq.home().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let running = naq.publish("build", serde_json::json!({"script": script}).to_string());
    naq.wait_running(&running);
    naq.cli(["job", "ttl", running.as_str(), "1h"])
        .run()
        .exits(5)
        .expect_stderr(&["has not ended", "running"]);
    std::fs::write(&go, "").unwrap();
    assert_eq!(naq.wait_ended(&running).state(), State::Succeeded);
}

#[test]
fn what_a_later_version_wrote_stays_in_the_record() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let job = naq.publish("build", r#"{"command":"true"}"#);
    naq.wait_ended(&job);
    naq.wait_drained("build");
    let (bytes, ..) = stored(&naq, &job);
    let mut record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    record["colour"] = "red".into();
    let later = serde_json::to_vec_pretty(&record).unwrap();
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let subject = format!("$KV.naq_results.{job}");
        let pending = jetstream.publish(subject, later.clone().into()).await;
        pending.unwrap().await.unwrap();
    });
    naq.cli(["job", "ttl", job.as_str(), "1h"]).run().succeeds();
    assert_eq!(stored(&naq, &job).0, later);
}
