//! Delayed jobs: listed, paused, resumed, rescheduled and started early.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::time::Duration;

use naq_client::{ClientError, DelayedJobSummary, Rescheduled};
use naq_protocol::{JobId, QueueName, State, Timestamp};

use super::delayed::{an_hour, from_now, queued, state};
use crate::harness::naq::{Naq, eventually, id, text};
use crate::harness::nats::TestServer;

fn one_shot(naq: &Naq, job: &str) -> DelayedJobSummary {
    naq.block_on(naq.client().fetch_delayed_job(&id(job)))
        .unwrap()
}

fn reschedule(naq: &Naq, job: &str, due: Timestamp) -> Result<Rescheduled, ClientError> {
    naq.block_on(naq.client().reschedule_delayed_job(&id(job), due))
}

fn run_now(naq: &Naq, job: &str) -> Result<Rescheduled, ClientError> {
    naq.block_on(naq.client().run_delayed_job_now(&id(job)))
}

/// The time as it is stored, to the millisecond.
fn written(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(time.unix_ms()).unwrap()
}

/// Waits until the server has delivered every delayed job that was due by then: until one that is
/// due a little later is in its queue.
fn let_pass(naq: &Naq, due: Timestamp) {
    let marker = JobId::generate();
    let after = Timestamp(due.0 + Duration::from_millis(500)).to_string();
    naq.enqueue(&["--id", marker.as_str(), "--at", &after, "--", "true"]);
    queued(naq, marker.as_str());
}

/// Enqueues a delayed job and does something with it before it is due. On a machine that is too slow
/// for that, it tries again with a job that is due later.
fn while_held<T>(
    naq: &Naq,
    job: &str,
    act: impl Fn(&str) -> Result<T, ClientError>,
) -> (String, Timestamp, T) {
    for seconds in [3, 10, 30] {
        let job = format!("{job}-{seconds}");
        let due = from_now(Duration::from_secs(seconds));
        naq.enqueue(&["--id", &job, "--at", &due.to_string(), "--", "echo", &job]);
        match act(&job) {
            Ok(done) => return (job, due, done),
            Err(ClientError::AlreadyDue { .. } | ClientError::NotDelayed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("every time came too soon");
}

#[test]
fn paused_delayed_job_waits_beyond_its_time_until_resumed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let client = naq.client();
    let pause = |job: &str| naq.block_on(client.pause_delayed_job(&id(job)));
    let (job, due, paused) = while_held(&naq, "x", pause);
    assert!(paused.paused);
    assert_eq!(paused.due, Some(written(due)));
    assert_eq!(one_shot(&naq, &job), paused);
    assert_eq!(pause(&job).unwrap(), paused);
    naq.cli(["status", &job])
        .run()
        .succeeds()
        .expect_stdout("scheduled")
        .expect_stdout("paused");
    let_pass(&naq, due);
    assert_eq!(state(&naq, &job), State::Scheduled);
    // its time has passed: it starts at once
    let resumed = naq.block_on(client.resume_delayed_job(&id(&job))).unwrap();
    assert!(matches!(resumed, Rescheduled::Queued { .. }), "{resumed:?}");
    assert_eq!(state(&naq, &job), State::Queued);
    let again = naq.block_on(client.resume_delayed_job(&id(&job)));
    assert!(
        matches!(
            again,
            Err(ClientError::NotDelayed {
                state: State::Queued,
                ..
            })
        ),
        "{again:?}"
    );
    let _worker = naq.worker(&["default"]).spawn();
    let record = naq.wait_ended(&id(&job));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    naq.wait_drained("default");
}

#[test]
fn delayed_job_resumed_before_its_time_starts_on_time() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let client = naq.client();
    let job = naq.enqueue(&["--in", "1h", "-l", "a=b", "--", "true"]);
    let before = one_shot(&naq, job.as_str());
    naq.block_on(client.pause_delayed_job(&job)).unwrap();
    let resumed = naq.block_on(client.resume_delayed_job(&job)).unwrap();
    assert_eq!(resumed, Rescheduled::Delayed(Box::new(before.clone())));
    // nothing about it has changed, not even its enqueue time
    assert_eq!(one_shot(&naq, job.as_str()), before);
    let soon = written(from_now(Duration::from_secs(5)));
    naq.block_on(client.pause_delayed_job(&job)).unwrap();
    let moved = reschedule(&naq, job.as_str(), soon).unwrap();
    let Rescheduled::Delayed(moved) = moved else {
        panic!("{moved:?}");
    };
    assert_eq!((moved.paused, moved.due), (true, Some(soon)));
    naq.block_on(client.resume_delayed_job(&job)).unwrap();
    queued(&naq, job.as_str());
}

#[test]
fn rescheduled_job_starts_at_its_new_time_only() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let later = an_hour();
    let (job, due, moved) = while_held(&naq, "x", |job| reschedule(&naq, job, later));
    assert!(matches!(moved, Rescheduled::Delayed(moved) if moved.due == Some(written(later))));
    let_pass(&naq, due);
    assert_eq!(one_shot(&naq, &job).due, Some(written(later)));
    let soon = from_now(Duration::from_secs(1));
    reschedule(&naq, &job, soon).unwrap();
    let _worker = naq.worker(&["default"]).spawn();
    let record = naq.wait_ended(&id(&job));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    assert!(record.started_at.unwrap() >= soon, "{record:#?}");
    // to a time in the past
    naq.enqueue(&["--id", "y", "--in", "1h", "--", "true"]);
    let past = Timestamp::from_unix_ms(0).unwrap();
    let begun = reschedule(&naq, "y", past).unwrap();
    assert!(matches!(begun, Rescheduled::Queued { .. }), "{begun:?}");
    assert_eq!(naq.wait_ended(&id("y")).state(), State::Succeeded);
    naq.wait_drained("default");
}

#[test]
fn old_time_of_a_rescheduled_job_does_not_return_after_a_server_crash() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let later = an_hour();
    for round in 0..3 {
        // rescheduled several times, then the server is killed at once
        let (job, due, _) = while_held(&naq, &format!("x{round}"), |job| {
            reschedule(&naq, job, later)?;
            naq.block_on(naq.client().pause_delayed_job(&id(job)))?;
            naq.block_on(naq.client().resume_delayed_job(&id(job)))?;
            reschedule(&naq, job, later)
        });
        let gone = format!("gone{round}");
        naq.enqueue(&["--id", &gone, "--at", &due.to_string(), "--", "true"]);
        let cancelled = naq.cli(["cancel", &gone]).run();
        server.kill9();
        cancelled.succeeds();
        server.restart();
        let_pass(&naq, due);
        assert_eq!(one_shot(&naq, &job).due, Some(written(later)));
        assert_eq!(state(&naq, &gone), State::Cancelled);
        // the job and the marker
        assert_eq!(naq.stream_messages("default"), 2 * (round + 1));
    }
}

#[test]
fn delayed_job_started_early_runs_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&["--id", "x", "--in", "1h", "--", "true"]);
    let begun = run_now(&naq, "x").unwrap();
    assert!(matches!(begun, Rescheduled::Queued { .. }), "{begun:?}");
    let record = naq.wait_ended(&id("x"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    // no delayed job is left
    naq.wait_drained("default");
    // also if it is paused
    naq.enqueue(&["--id", "y", "--in", "1h", "--", "true"]);
    naq.block_on(naq.client().pause_delayed_job(&id("y")))
        .unwrap();
    run_now(&naq, "y").unwrap();
    assert_eq!(naq.wait_ended(&id("y")).state(), State::Succeeded);
    naq.wait_drained("default");
}

#[test]
fn rescheduling_a_job_that_is_not_delayed_names_its_state() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let client = naq.client();
    let refused = |job: &str, wanted: State| {
        let pause = naq.block_on(client.pause_delayed_job(&id(job))).err();
        let resume = naq.block_on(client.resume_delayed_job(&id(job))).err();
        let moved = reschedule(&naq, job, an_hour()).err();
        let begun = run_now(&naq, job).err();
        let fetched = naq.block_on(client.fetch_delayed_job(&id(job))).err();
        for error in [pause, resume, moved, begun, fetched] {
            match error {
                Some(ClientError::NotDelayed { state, .. }) if state == wanted => {}
                other => panic!("{job}, {wanted}: {other:?}"),
            }
        }
    };
    let missing = run_now(&naq, "nobody");
    assert!(
        matches!(missing, Err(ClientError::NoSuchJob(_))),
        "{missing:?}"
    );
    naq.enqueue(&["--id", "queued", "--", "true"]);
    refused("queued", State::Queued);
    // its time has come, as far as can be known
    let now = from_now(Duration::ZERO);
    naq.enqueue(&["--id", "due", "--in", "500ms", "--", "true"]);
    for tried in [
        naq.block_on(client.pause_delayed_job(&id("due"))).err(),
        reschedule(&naq, "due", an_hour()).err(),
    ] {
        match tried {
            Some(ClientError::AlreadyDue { due, .. }) => assert!(due > now),
            Some(ClientError::NotDelayed { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    // its envelope says that it expires first
    let tomorrow = from_now(Duration::from_secs(86_400));
    let expires = tomorrow.to_string();
    naq.enqueue(&[
        "--id",
        "expires",
        "--in",
        "1h",
        "--expires-at",
        &expires,
        "--",
        "true",
    ]);
    let moved = reschedule(&naq, "expires", tomorrow);
    assert!(
        matches!(moved, Err(ClientError::InvalidDueTime(_))),
        "{moved:?}"
    );
    naq.cli(["cancel", "expires"]).run().succeeds();
    refused("expires", State::Cancelled);
    let worker = naq.worker(&["default"]).spawn();
    naq.wait_ended(&id("queued"));
    refused("queued", State::Succeeded);
    naq.enqueue(&["--id", "runs", "--", "sleep", "1000"]);
    naq.wait_running(&id("runs"));
    refused("runs", State::Running);
    naq.cli(["cancel", "--wait", "runs"]).run().succeeds();
    worker.stop();
}

#[test]
fn delayed_retry_is_no_delayed_job_and_can_be_rescheduled() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let client = naq.client();
    let _worker = naq.worker(&["default"]).spawn();
    let fails = r#"echo "$NAQ_ATTEMPT"; [ "$NAQ_ATTEMPT" -gt 3 ]"#;
    let retry = ["--retries", "5", "--retry-delay", "1h", "--no-retry-jitter"];
    let args = [&["--id", "x"][..], &retry, &["--", "sh", "-c", fails]].concat();
    naq.enqueue(&args);
    let retrying = |attempt: u32| {
        naq.wait_for(&id("x"), "retrying", |record| {
            record.state() == State::Retrying && record.attempt == attempt
        });
        // a reschedule before its delayed message exists would leave that message in the queue
        eventually("only the delayed message is left", || {
            let is_acknowledged = naq.block_on(async {
                let jetstream = async_nats::jetstream::new(naq.nats().clone());
                let stream = jetstream.get_stream("naq_queue_default").await.unwrap();
                let consumer = stream.consumer_info("naq-worker").await.unwrap();
                consumer.num_ack_pending == 0
            });
            is_acknowledged && naq.stream_messages("default") == 1
        });
    };
    retrying(1);
    let page = naq
        .block_on(client.list_delayed_jobs(None, None, 10))
        .unwrap();
    assert!(page.delayed_jobs.is_empty(), "{page:?}");
    for refused in [
        naq.block_on(client.pause_delayed_job(&id("x"))).err(),
        naq.block_on(client.resume_delayed_job(&id("x"))).err(),
        naq.block_on(client.fetch_delayed_job(&id("x"))).err(),
    ] {
        assert!(
            matches!(
                &refused,
                Some(ClientError::NotDelayed {
                    state: State::Retrying,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
    // at the new time, and not before
    let later = an_hour();
    let moved = reschedule(&naq, "x", later).unwrap();
    assert!(
        matches!(moved, Rescheduled::Retrying { due, .. } if due == written(later)),
        "{moved:?}"
    );
    let record = naq.block_on(client.fetch_job(&id("x"))).unwrap();
    assert_eq!(record.next_attempt_at(), Some(written(later)));
    naq.wait_for_messages("default", 1);
    let soon = from_now(Duration::from_secs(1));
    reschedule(&naq, "x", soon).unwrap();
    retrying(2);
    let record = naq.block_on(client.fetch_job(&id("x"))).unwrap();
    assert!(record.started_at.unwrap() >= soon, "{record:#?}");
    // now
    let begun = run_now(&naq, "x").unwrap();
    assert!(matches!(begun, Rescheduled::Queued { .. }), "{begun:?}");
    retrying(3);
    let past = Timestamp::from_unix_ms(0).unwrap();
    reschedule(&naq, "x", past).unwrap();
    let record = naq.wait_ended(&id("x"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 4));
    assert_eq!(text(record.stdout.as_ref()), "4\n");
    naq.wait_drained("default");
}

#[test]
fn delayed_jobs_are_listed_by_page_or_by_due_time() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let client = naq.client();
    // among jobs that are not delayed, and so many that listing takes several requests
    let mut wanted = BTreeSet::new();
    for (queue, count) in [("a", 700), ("b", 3), ("c", 40)] {
        for (is_held, args) in [(true, &["--in", "1h"][..]), (false, &[])] {
            let file: String = (0..count)
                .filter(|number| (number % 10 != 5) == is_held)
                .map(|number| {
                    format!("{{\"job_id\": \"{queue}{number}\", \"command\": \"true\"}}\n")
                })
                .chain([format!(
                    "{{\"job_id\": \"{queue}-{is_held}\", \"command\": \"true\"}}"
                )])
                .collect();
            let args = [&["enqueue", "-q", queue, "--file", "-"], args].concat();
            let done = naq.cli(args).stdin(file).run().succeeds();
            if is_held {
                wanted.extend(done.stdout.lines().map(str::to_owned));
            }
        }
    }
    naq.add_queue("empty");
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = naq
            .block_on(client.list_delayed_jobs(None, after.as_ref(), 100))
            .unwrap();
        assert!(page.delayed_jobs.len() == 100 || page.next.is_none());
        seen.extend(page.delayed_jobs);
        let Some(next) = page.next else { break };
        // as a command line passes it
        after = Some(next.to_string().parse().unwrap());
    }
    assert!(seen.iter().all(|one| !one.paused && one.due.is_some()));
    assert_eq!(seen[0].command.as_deref(), Some("true"));
    let ids: Vec<String> = seen.iter().map(|one| one.job_id.to_string()).collect();
    assert_eq!(ids.len(), wanted.len());
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), wanted);
    let queue = QueueName::new("b").unwrap();
    let of_b = naq
        .block_on(client.list_delayed_jobs(Some(&queue), None, 100))
        .unwrap();
    let of_b: Vec<_> = of_b
        .delayed_jobs
        .iter()
        .map(|one| one.job_id.as_str())
        .collect();
    assert_eq!(of_b, ["b0", "b1", "b2", "b-true"]);

    let soon = from_now(Duration::from_secs(600));
    reschedule(&naq, "c7", soon).unwrap();
    naq.block_on(client.pause_delayed_job(&id("b0"))).unwrap();
    let first = naq.block_on(client.next_delayed_jobs(None, 2)).unwrap();
    let first: Vec<_> = first.iter().map(|one| one.job_id.as_str()).collect();
    assert_eq!(first, ["c7", "a0"]);
    let all = naq.block_on(client.next_delayed_jobs(None, 1_000)).unwrap();
    assert!(
        all.windows(2)
            .all(|pair| pair[1].paused || pair[0].due <= pair[1].due)
    );
    assert_eq!(all.last().unwrap().job_id, id("b0"));
}
