//! What a user of one role tries with a NATS client of its own.

use std::time::{Duration, Instant};

use super::fleet::Fleet;
use crate::harness::nats::TEST_TIMEOUT;

/// A NATS client as a user of a fleet.
fn client(fleet: &Fleet, user: &str) -> async_nats::Client {
    let seed = std::fs::read_to_string(fleet.file(&format!("{user}.nk"))).unwrap();
    let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
        .custom_inbox_prefix(format!("_INBOX_{user}"));
    fleet.naq().block_on(options.connect(fleet.url())).unwrap()
}

/// Publishes a message, with a reply subject if one is given, and waits until the server has seen it.
fn publish(fleet: &Fleet, client: &async_nats::Client, subject: &str, reply: Option<&str>) {
    let payload = "{\"command\": \"true\"}";
    let (subject, payload) = (subject.to_owned(), payload.into());
    fleet.naq().block_on(async {
        match reply {
            Some(reply) => {
                let reply = reply.to_owned();
                client.publish_with_reply(subject, reply, payload).await
            }
            None => client.publish(subject, payload).await,
        }
        .unwrap();
        client.flush().await.unwrap();
    });
}

/// A fleet with an ended job `victim` in `build`, and a job `secret` that waits in `deploy`.
fn start() -> Fleet {
    let fleet = Fleet::start(&["--queue", "build", "--nkeys"]);
    let worker = fleet.start_service("worker", &["worker", "build"], "buckets are ready");
    let victim = [
        "enqueue", "--queue", "build", "--id", "victim", "--wait", "--", "echo", "true",
    ];
    fleet.run("producer", &victim);
    worker.stop();
    fleet.run("operator", &["queue", "add", "deploy"]);
    let secret = [
        "enqueue", "--queue", "deploy", "--id", "secret", "--", "true",
    ];
    fleet.run("operator", &secret);
    fleet.expect_no_denial("everything so far is allowed");
    fleet
}

/// Waits until the server's log has a denial with these words after the first so many denials: what
/// another user was denied says nothing about this one.
#[track_caller]
fn expect_denial_after(before: usize, fleet: &Fleet, words: &[&str]) {
    let begun = Instant::now();
    loop {
        let denials = fleet.denials();
        let is_about = |line: &&String| words.iter().all(|word| line.contains(word));
        if denials[before..].iter().any(|line| is_about(&line)) {
            return;
        }
        assert!(
            begun.elapsed() < TEST_TIMEOUT,
            "no {words:?} in {denials:#?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_producer_forges_reads_and_enqueues_nothing_of_others() {
    let fleet = start();
    let record = fleet.run("reader", &["status", "victim", "--json"]);
    let producer = client(&fleet, "producer");
    for subject in [
        "$KV.naq_results.victim",
        "naq.queue.deploy.stolen",
        "$JS.API.STREAM.MSG.GET.naq_queue_deploy",
        "$JS.naq.API.STREAM.MSG.GET.naq_queue_deploy",
        "$JS.naq.API.STREAM.PURGE.naq_queue_build",
        "$JS.naq.API.CONSUMER.CREATE.naq_queue_build",
        "$KV.naq_scheduled_jobs.mine",
        // the output of a job; its own uploads have other subjects
        "$O.naq_files.M.b3V0cHV0",
        "$O.naq_files.C.any",
        "$JS.naq.API.DIRECT.GET.OBJ_naq_files.$O.naq_files.M.b3V0cHV0",
        "$JS.naq.API.STREAM.MSG.GET.OBJ_naq_files",
        "naq.control.worker.any",
    ] {
        let before = fleet.denials().len();
        publish(&fleet, &producer, subject, None);
        expect_denial_after(before, &fleet, &["Publish Violation", subject]);
    }
    assert_eq!(fleet.run("reader", &["status", "victim", "--json"]), record);
    let queues = fleet.run("operator", &["queues", "--json"]);
    assert!(
        queues.contains("\"queue\":\"deploy\",\"depth\":1"),
        "{queues}"
    );
    let waiting = [
        "enqueue", "--queue", "build", "--id", "waiting", "--", "true",
    ];
    fleet.run("producer", &waiting);
    let enqueue = ["enqueue", "--queue", "deploy", "--", "true"];
    for (verb, subject) in [
        (&enqueue[..], "naq.queue.deploy."),
        (&["cancel", "waiting"], "$KV.naq_results.waiting"),
    ] {
        let done = fleet.cli("producer", verb).run().exits(3);
        // what an unanswered request ends with
        assert!(!done.stderr.contains("no answer"), "{done:?}");
        done.expect_stderr(&["NATS denies the user", subject]);
    }
}

#[test]
fn no_role_hears_the_answers_to_others() {
    let fleet = start();
    for user in ["producer", "worker", "scheduler", "reader", "operator"] {
        let client = client(&fleet, user);
        for subject in ["_INBOX.>", ">", "_INBOX_admin.>"] {
            let before = fleet.denials().len();
            let subscribed = fleet.naq().block_on(client.subscribe(subject));
            fleet.naq().block_on(client.flush()).unwrap();
            expect_denial_after(
                before,
                &fleet,
                &["Subscription Violation", &format!("\"{subject}\"")],
            );
            drop(subscribed);
        }
    }
}

/// JetStream publishes its acknowledgement to the reply subject of the publisher, whatever that is. In the
/// account of the streams it is stored as a record, and in that of the producers it goes nowhere.
#[test]
fn an_acknowledgement_that_a_producer_aims_at_a_record_misses_it() {
    let fleet = start();
    let record = fleet.run("reader", &["status", "victim", "--json"]);
    let aim = |user: &str| {
        let subject = format!("naq.queue.build.by-{user}");
        publish(
            &fleet,
            &client(&fleet, user),
            &subject,
            Some("$KV.naq_results.victim"),
        );
        let status = ["status", &format!("by-{user}"), "--json"];
        assert!(
            fleet.run("operator", &status).contains("queued"),
            "it is stored"
        );
    };
    aim("producer");
    assert_eq!(fleet.run("reader", &["status", "victim", "--json"]), record);
    // the attack itself, by a user in the account of the streams
    aim("worker");
    let overwritten = fleet.cli("reader", &["status", "victim", "--json"]).run();
    assert_ne!(overwritten.stdout, record, "{overwritten:?}");
}

#[test]
fn a_worker_and_a_reader_change_nothing_of_others() {
    let fleet = start();
    for (user, subjects) in [
        (
            "worker",
            &[
                "naq.queue.deploy.stolen",
                "$JS.API.STREAM.MSG.GET.naq_queue_deploy",
                "$JS.API.CONSUMER.MSG.NEXT.naq_queue_deploy.naq-worker",
                "$JS.API.STREAM.DELETE.naq_queue_build",
                "$KV.naq_scheduled_jobs.mine",
                "$KV.naq_workers.drain.any",
                "naq.control.worker.any",
            ][..],
        ),
        (
            "reader",
            &[
                "naq.queue.build.mine",
                "$KV.naq_results.victim",
                "$JS.API.STREAM.PURGE.KV_naq_results",
                "$JS.API.STREAM.MSG.GET.naq_queue_deploy",
                "naq.control.worker.any",
            ],
        ),
    ] {
        let client = client(&fleet, user);
        for subject in subjects {
            let before = fleet.denials().len();
            publish(&fleet, &client, subject, None);
            expect_denial_after(before, &fleet, &["Publish Violation", subject]);
        }
    }
    let queues = fleet.run("operator", &["queues", "--json"]);
    assert!(
        queues.contains("\"queue\":\"build\",\"depth\":0"),
        "{queues}"
    );
}
