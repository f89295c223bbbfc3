//! Lists of unsuccessful jobs: by their index, in which none may be missing, whatever died or was removed.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use futures_util::{StreamExt, stream};
use naq_client::JobFilter;
use naq_protocol::{
    JobId, Outcome, Phase, QueueName, Reason, Record, RejectReason, State, Timestamp,
};

use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;
use crate::scheduler::scheduler;

/// More than a list without an index reads at once.
const SUCCEEDED: usize = 500;

fn record(name: &str, queue: &str, outcome: Outcome) -> Record {
    let at = Timestamp::from_unix_ms(1_800_000_000_000).unwrap();
    let phase = Phase::Finished {
        outcome,
        finished_at: at,
    };
    Record::new(id(name), QueueName::new(queue).unwrap(), phase, at)
}

/// Stores records as programs of naq do, some at once.
fn store(naq: &Naq, records: Vec<Record>) {
    let broker = naq.client().broker();
    naq.block_on(async {
        let writes = stream::iter(&records).map(|record| async move {
            let ttl = Some(Duration::from_secs(3_600));
            broker.write_record(record, 0, ttl).await.unwrap()
        });
        writes.buffered(16).collect::<Vec<u64>>().await
    });
}

fn store_succeeded(naq: &Naq) {
    let records = (0..SUCCEEDED).map(|number| format!("s{number}"));
    let records = records.map(|name| record(&name, "build", Outcome::Succeeded));
    store(naq, records.collect());
}

/// Stores a record as a program does that stores no entries.
fn store_alone(naq: &Naq, record: &Record) {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let payload = serde_json::to_vec(record).unwrap();
        let key = format!("$KV.naq_results.{}", record.job_id);
        let stored = jetstream.publish(key, payload.into()).await.unwrap();
        stored.await.unwrap();
    });
}

fn filter(states: &[State], queue: Option<&str>) -> JobFilter {
    JobFilter {
        states: states.to_vec(),
        queue: queue.map(|queue| QueueName::new(queue).unwrap()),
        ..JobFilter::default()
    }
}

/// The jobs of a list, and the number of requests that it took.
fn list(naq: &Naq, filter: &JobFilter) -> (Vec<String>, u64) {
    naq.block_on(async {
        let client = naq.client();
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        client.broker().observe_requests(Arc::new(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        let page = client.list_jobs(filter, None, None, 1_000).await.unwrap();
        let jobs = page.jobs.iter().map(|job| job.record.job_id.to_string());
        (jobs.collect(), requests.load(Ordering::Relaxed))
    })
}

fn failed(naq: &Naq) -> Vec<String> {
    list(naq, &filter(&[State::Failed], None)).0
}

fn key(name: &str) -> String {
    format!("$KV.naq_dependents.unsuccessful.failed.build.{name}")
}

const MARKER: &str = "$KV.naq_dependents.unsuccessful.index.is.complete";

fn entry(naq: &Naq, key: &str) -> Option<StreamMessage> {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let index = jetstream.get_stream("KV_naq_dependents").await.unwrap();
        index.get_last_raw_message_by_subject(key).await.ok()
    })
}

fn remove(naq: &Naq, key: &str) {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let index = jetstream.get_stream("KV_naq_dependents").await.unwrap();
        index.purge().filter(key).await.unwrap();
    });
}

#[test]
fn few_unsuccessful_jobs_are_found_among_many_without_reading_all() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.block_on(naq.client().broker().ensure_layout()).unwrap();
    store(
        &naq,
        vec![
            record("f1", "build", Outcome::Failed(Reason::Exit)),
            record("f2", "other", Outcome::Failed(Reason::Timeout)),
            record("c", "build", Outcome::Cancelled),
            record("r", "build", Outcome::Rejected(RejectReason::Invalid)),
        ],
    );
    store_succeeded(&naq);
    let cases: [(&[State], Option<&str>, &[&str]); 6] = [
        (&[State::Failed], None, &["f2", "f1"]),
        (&[State::Failed], Some("build"), &["f1"]),
        (
            &[State::Failed, State::Cancelled, State::Rejected],
            None,
            &["r", "c", "f2", "f1"],
        ),
        (&[State::Cancelled], Some("other"), &[]),
        (&[State::Expired], None, &[]),
        (&[State::Failed], Some("nowhere"), &[]),
    ];
    for (states, queue, expected) in cases {
        let (jobs, requests) = list(&naq, &filter(states, queue));
        assert_eq!(jobs, expected, "{states:?} {queue:?}");
        assert!(
            (3..=20).contains(&requests),
            "{requests} requests: {states:?} {queue:?}"
        );
    }
    // a state that the index does not have
    let (jobs, _) = list(&naq, &filter(&[State::Failed, State::Succeeded], None));
    assert_eq!(jobs.len(), SUCCEEDED + 2);
}

#[test]
fn pages_of_unsuccessful_jobs_have_each_once_and_in_order() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.block_on(naq.client().broker().ensure_layout()).unwrap();
    let mixed = (0..200).map(|number| {
        let outcome = match number % 3 {
            0 => Outcome::Failed(Reason::Exit),
            1 => Outcome::Expired,
            _ => Outcome::Succeeded,
        };
        record(&format!("m{number}"), "build", outcome)
    });
    store(&naq, mixed.collect());
    let states = [State::Failed, State::Expired];
    let pages = naq.block_on(async {
        let (mut jobs, mut before) = (Vec::new(), None);
        loop {
            let client = naq.client();
            let page = client
                .list_jobs(&filter(&states, None), None, before, 7)
                .await
                .unwrap();
            jobs.extend(
                page.jobs
                    .into_iter()
                    .map(|job| job.record.job_id.to_string()),
            );
            before = page.next;
            if before.is_none() {
                return jobs;
            }
        }
    });
    // a list of all states reads the records
    let all = list(&naq, &JobFilter::default()).0;
    let number = |name: &str| name[1..].parse::<u64>().unwrap();
    let expected: Vec<String> = all
        .into_iter()
        .filter(|name| number(name) % 3 != 2)
        .collect();
    assert_eq!(pages, expected);
}

/// The worker sends the entry and then the record.
#[test]
fn a_worker_killed_around_the_entry_loses_no_failed_job() {
    for step in ["unsuccessful.sent", "outcome.written"] {
        let server = TestServer::start();
        let naq = Naq::new(&server);
        let first = naq
            .worker(&["build"])
            .ack_wait("2s")
            .env("FAILPOINTS", &format!("{step}=return"))
            .spawn();
        let job = naq.publish("build", r#"{"command":"false"}"#);
        assert!(!first.wait_exit().success(), "{step}");
        if step == "outcome.written" {
            assert_eq!(failed(&naq), [job.as_str()]);
            // as if the server had lost it
            remove(&naq, &key(job.as_str()));
            assert!(failed(&naq).is_empty());
        }
        let _next = naq.worker(&["build"]).ack_wait("2s").spawn();
        assert_eq!(naq.wait_ended(&job).state(), State::Failed, "{step}");
        naq.wait_drained("build");
        assert_eq!(failed(&naq), [job.as_str()], "{step}");
    }
}

#[test]
fn records_of_an_earlier_version_are_listed_before_and_after_they_are_indexed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.block_on(naq.client().broker().ensure_layout()).unwrap();
    store_alone(&naq, &record("old", "build", Outcome::Failed(Reason::Exit)));
    store_succeeded(&naq);
    remove(&naq, MARKER);
    let all = || list(&naq, &filter(&[State::Failed], None));
    let (jobs, requests) = all();
    assert_eq!(jobs, ["old"]);
    assert!(requests > SUCCEEDED as u64, "{requests} requests");
    let _leader = scheduler(&naq, &[]);
    eventually("the index is complete", || entry(&naq, MARKER).is_some());
    let (jobs, requests) = all();
    assert_eq!(jobs, ["old"]);
    assert!(requests <= 20, "{requests} requests");
    let added = entry(&naq, &key("old")).unwrap();
    assert!(String::from_utf8_lossy(&added.payload).contains("stored_at"));
}

#[test]
fn a_record_without_an_entry_is_found_by_the_reconciler() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.block_on(naq.client().broker().ensure_layout()).unwrap();
    store_alone(
        &naq,
        &record("foreign", "build", Outcome::Failed(Reason::Exit)),
    );
    // the index counts as complete, so the list is that of its entries
    assert!(entry(&naq, MARKER).is_some());
    assert!(failed(&naq).is_empty());
    let _leader = scheduler(&naq, &["--reconcile-interval", "1s"]);
    eventually("it is listed", || failed(&naq) == ["foreign"]);
    assert!(entry(&naq, &key("foreign")).is_some());
}

#[test]
fn an_entry_stays_as_long_as_its_record() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let job: JobId = naq.publish("build", r#"{"command":"false","result_ttl":"1h"}"#);
    naq.wait_ended(&job);
    naq.wait_drained("build");
    let key = key(job.as_str());
    let ttl = || {
        let entry = entry(&naq, &key)?;
        let ttl = entry.headers.get("Nats-TTL").map(ToString::to_string);
        Some(ttl.unwrap_or_default())
    };
    assert_eq!(ttl().as_deref(), Some("3660s"));
    naq.cli(["job", "ttl", job.as_str(), "2h"]).run().succeeds();
    assert_eq!(ttl().as_deref(), Some("7260s"));
    naq.cli(["job", "ttl", job.as_str(), "0"]).run().succeeds();
    assert_eq!(ttl().as_deref(), Some(""));
    assert_eq!(failed(&naq), [job.as_str()]);
    // what runs it again is another job
    naq.cli(["retry", job.as_str()]).run().succeeds();
    eventually("both are listed", || failed(&naq).len() == 2);
    naq.wait_drained("build");
    naq.cli(["purge", "--results", "--yes"]).run().succeeds();
    assert!(failed(&naq).is_empty());
    assert_eq!(ttl(), None);
}

/// A writer that another one has overtaken sends its entry before its record is refused. The entry of the record that
/// is stored must not end with the refused one.
#[test]
fn an_entry_is_that_of_the_stored_record_after_another_one_was_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let failed = record("job", "build", Outcome::Failed(Reason::Crashed));
    let broker = naq.client().broker();
    let write = |ttl| naq.block_on(broker.write_record(&failed, 0, ttl));
    write(None).unwrap();
    write(Some(Duration::from_secs(1))).unwrap_err();
    let entry = entry(&naq, &key("job")).unwrap();
    assert_eq!(entry.headers.get("Nats-TTL"), None);
}
