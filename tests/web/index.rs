//! The index of records: lists that are served from it, and how it follows a server that changes, loses messages or
//! is away.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use naq_protocol::{
    JobId, Lease, Outcome, Phase, QueueName, Reason, Record, ScheduleId, Timestamp,
};

use super::Dashboard;
use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;
use crate::harness::proxy::{Link, Proxy};
use crate::metrics::scrape::Scrape;

/// Number of records that a search without an index reads at most.
const SCAN_MAX: usize = 2_000;

/// When the jobs ended. Lists are in the order of the server's own times.
fn ended_at() -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000).unwrap()
}

fn record(name: &str, outcome: Outcome) -> Record {
    let phase = Phase::Finished {
        outcome,
        finished_at: ended_at(),
    };
    Record::new(
        id(name),
        QueueName::new("build").unwrap(),
        phase,
        ended_at(),
    )
}

fn succeeded(name: &str) -> Record {
    record(name, Outcome::Succeeded)
}

/// Stores records, one after another.
fn store(naq: &Naq, records: impl IntoIterator<Item = Record>) {
    let broker = naq.client().broker();
    naq.block_on(async {
        for record in records {
            let (_, revision) = broker.read_record(&record.job_id).await.unwrap();
            broker.write_record(&record, revision, None).await.unwrap();
        }
    });
}

/// Stores records of succeeded jobs in any order.
fn store_many(naq: &Naq, count: usize) {
    let broker = naq.client().broker();
    naq.block_on(async {
        let writes = stream::iter(0..count).map(|number| async move {
            let record = succeeded(&format!("s{number}"));
            broker.write_record(&record, 0, None).await.unwrap()
        });
        writes.buffer_unordered(64).collect::<Vec<u64>>().await
    });
}

/// What the dashboard says about its index.
fn index(dashboard: &Dashboard) -> serde_json::Value {
    dashboard.get("/api/server").expect(200).json()["index"].clone()
}

fn wait_indexed(dashboard: &Dashboard, records: usize) {
    eventually("the index has the records", || {
        let index = index(dashboard);
        index["state"] == "ready" && index["records"] == records
    });
}

/// The ids and the cursor of a page of the API.
fn page(dashboard: &Dashboard, query: &str) -> (Vec<String>, Option<String>, bool) {
    let page = dashboard.get(&format!("/api/jobs?{query}"));
    let page = page.expect(200).json();
    let jobs = page["jobs"].as_array().unwrap().iter();
    let ids = jobs.map(|job| job["job_id"].as_str().unwrap().to_owned());
    let next = page["next"].as_str().map(str::to_owned);
    (ids.collect(), next, page["is_cut"] == true)
}

/// The ids of all pages.
fn pages(dashboard: &Dashboard, query: &str) -> Vec<String> {
    pages_from(dashboard, query, None)
}

/// The ids of all pages from a cursor on.
fn pages_from(dashboard: &Dashboard, query: &str, cursor: Option<String>) -> Vec<String> {
    let cursor = cursor.unwrap_or_default();
    let (mut all, mut next, _) = page(dashboard, &format!("{query}&cursor={cursor}"));
    while let Some(cursor) = next {
        let (ids, following, _) = page(dashboard, &format!("{query}&cursor={cursor}"));
        all.extend(ids);
        next = following;
    }
    all
}

/// A record that every field of a filter finds.
fn rare() -> Record {
    let mut record = record("rare", Outcome::Failed(Reason::Timeout));
    record.queue = QueueName::new("rare-queue").unwrap();
    record.worker_id = Some("anvil-1".to_owned());
    record.schedule_id = Some(ScheduleId::new("nightly").unwrap());
    record.labels.insert("team".to_owned(), "x".to_owned());
    record.error = Some("disk full".to_owned());
    record
}

#[test]
fn a_filter_finds_an_old_record_at_once_from_the_index() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    store(&naq, [rare()]);
    store_many(&naq, SCAN_MAX + 100);
    let dashboard = Dashboard::start(&naq, &[]);
    let without = Dashboard::start(&naq, &["--index", "off"]);
    wait_indexed(&dashboard, SCAN_MAX + 101);
    assert!(index(&dashboard)["bytes"].as_u64().unwrap() > 0);
    assert_eq!(index(&without), serde_json::json!({"state": "off"}));
    for query in [
        "reason=timeout",
        "state=failed",
        "queue=rare-queue",
        "worker=anvil-1",
        "schedule=nightly",
        "label=team",
        "label=team=x",
        "q=id:rar",
        "q=id:rar%20%22disk%20full%22",
        "q=schedule:nightly&state=failed",
    ] {
        let found = (vec!["rare".to_owned()], None, false);
        assert_eq!(page(&dashboard, query), found, "{query}");
    }
    let (ids, next, is_cut) = page(&without, "reason=timeout");
    assert!(ids.is_empty() && next.is_some() && is_cut, "{ids:?}");
    assert_eq!(pages(&without, "reason=timeout"), ["rare"]);
    for query in ["label=team=y", "worker=other", "q=id:are", "state=running"] {
        assert_eq!(page(&dashboard, query), (vec![], None, false), "{query}");
    }
    // a text is in the records themselves, so a search reads a bounded number of them
    let (ids, _, is_cut) = page(&dashboard, "q=%22disk%20full%22");
    assert!(ids.is_empty() && is_cut);
    assert_eq!(pages(&dashboard, "q=%22disk%20full%22"), ["rare"]);
    // both list the same, and each continues the other's list
    let all = pages(&dashboard, "limit=500");
    assert_eq!(all.len(), SCAN_MAX + 101);
    assert_eq!(pages(&without, "limit=500"), all);
    let (first, next, _) = page(&dashboard, "limit=500");
    assert_eq!(
        [first, pages_from(&without, "limit=500", next)].concat(),
        all
    );
    let (first, next, _) = page(&without, "limit=500");
    assert_eq!(
        [first, pages_from(&dashboard, "limit=500", next)].concat(),
        all
    );
    // an action on what matches reads what the index selects
    let reads = |of: &Dashboard, action: &str| {
        let scrape =
            || Scrape::of(&of.address).value("naq_nats_request_seconds_count{op=\"read\"}");
        let before = scrape();
        let request = format!(
            r#"{{"action":"{action}","ttl":"1h","filter":"reason:timeout","dry_run":true}}"#
        );
        let preview = of.request("POST", "/api/actions").json(request).send();
        let preview = preview.expect(200).json();
        assert_eq!(
            (&preview["jobs"], &preview["is_complete"]),
            (&1.into(), &true.into())
        );
        scrape() - before
    };
    let (few, many) = (reads(&dashboard, "ttl"), reads(&without, "ttl"));
    assert!(
        few * 3.0 < many,
        "{few} reads with the index, {many} without"
    );
    // a change arrives by itself
    let mut again = succeeded("another");
    again.schedule_id = Some(ScheduleId::new("nightly").unwrap());
    store(&naq, [again]);
    eventually("the new record", || {
        page(&dashboard, "schedule=nightly").0 == ["another", "rare"]
    });
}

#[test]
fn expired_records_vanish_from_lists_and_from_the_index() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    store(&naq, [succeeded("stays"), succeeded("later")]);
    let broker = naq.client().broker();
    let short = Some(Duration::from_secs(1));
    naq.block_on(broker.write_record(&succeeded("soon"), 0, short))
        .unwrap();
    eventually("the record expires", || {
        index(&dashboard)["records"] == 2 && pages(&dashboard, "").len() == 2
    });
    // another TTL is another revision of the same record
    naq.block_on(broker.set_record_ttl(&id("stays"), Some(Duration::from_secs(3_600))))
        .unwrap();
    eventually("the copy is listed first", || {
        pages(&dashboard, "state=succeeded") == ["stays", "later"]
    });
    naq.block_on(broker.set_record_ttl(&id("later"), short))
        .unwrap();
    eventually("the copy expires", || {
        index(&dashboard)["records"] == 1 && pages(&dashboard, "") == ["stays"]
    });
}

#[test]
fn changes_that_were_missed_during_an_outage_are_in_the_index() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    store(&naq, (0..20).map(|n| succeeded(&format!("before{n}"))));
    let started = naq
        .cli(["dashboard", "--port", "0"])
        .env("NAQ_NATS_URL", &proxy.url());
    let dashboard = Dashboard::of(&naq, started.follow());
    wait_indexed(&dashboard, 20);
    proxy.set(Link::Refused);
    store(&naq, (0..30).map(|n| succeeded(&format!("missed{n}"))));
    let delete = async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_key_value("naq_results").await.unwrap();
        bucket.delete("before3").await.unwrap();
    };
    naq.block_on(delete);
    proxy.set(Link::Open);
    wait_indexed(&dashboard, 49);
    let listed = pages(&dashboard, "state=succeeded");
    assert_eq!(listed.len(), 49);
    assert!(!listed.contains(&"before3".to_owned()), "{listed:?}");
    // the server itself restarts
    server.restart();
    eventually("the server is back", || {
        let write = naq.client().broker();
        naq.block_on(write.write_record(&succeeded("after"), 0, None))
            .is_ok()
    });
    wait_indexed(&dashboard, 50);
    assert_eq!(pages(&dashboard, "q=id:aft"), ["after"]);
}

#[test]
fn records_that_were_purged_without_a_marker_leave_the_index() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    store_many(&naq, 300);
    let dashboard = Dashboard::start(&naq, &[]);
    wait_indexed(&dashboard, 300);
    naq.cli(["purge", "--results", "--yes"]).run().succeeds();
    // no event says so, but a list shows only what the bucket has
    assert_eq!(pages(&dashboard, ""), [""; 0]);
    wait_indexed(&dashboard, 0);
    store(&naq, [succeeded("new")]);
    wait_indexed(&dashboard, 1);
    assert_eq!(pages(&dashboard, ""), ["new"]);
}

#[test]
fn a_bucket_that_was_created_again_replaces_the_index_and_later_cursors_are_gone() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    store(&naq, (0..60).map(|n| succeeded(&format!("old{n}"))));
    let dashboard = Dashboard::start(&naq, &[]);
    let without = Dashboard::start(&naq, &["--index", "off"]);
    wait_indexed(&dashboard, 60);
    let (_, cursor, _) = page(&dashboard, "limit=10");
    let cursor = cursor.unwrap();
    // of a bucket whose server was restored from a copy
    let (time, rest) = cursor.split_once('.').unwrap();
    let (_, stream) = rest.split_once('.').unwrap();
    let later = format!("{time}.{}.{stream}", u64::MAX / 2);
    let delete = async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        jetstream.delete_stream("KV_naq_results").await.unwrap();
    };
    naq.block_on(delete);
    store(&naq, (0..5).map(|n| succeeded(&format!("new{n}"))));
    for dashboard in [&dashboard, &without] {
        eventually("only the new records are listed", || {
            let listed = pages(dashboard, "state=succeeded");
            listed.len() == 5 && listed.iter().all(|id| id.starts_with("new"))
        });
        // the revisions of the new bucket are greater, so nothing is before the cursor any more
        let rest = dashboard.get(&format!("/api/jobs?cursor={cursor}"));
        assert_eq!(rest.expect(200).json()["jobs"], serde_json::json!([]));
        let gone = dashboard.get(&format!("/api/jobs?cursor={later}"));
        let detail = gone.problem(410, "gone");
        assert!(detail.contains("without a cursor"), "{detail}");
        let gone = dashboard.get(&format!("/jobs?cursor={later}"));
        assert!(gone.expect(410).text().contains("no longer exists"));
    }
    wait_indexed(&dashboard, 5);
    // changes of the new bucket arrive too
    store(&naq, [succeeded("newest")]);
    wait_indexed(&dashboard, 6);
    assert_eq!(page(&dashboard, "limit=1").0, ["newest"]);
}

#[test]
fn a_cursor_continues_the_list_while_jobs_change() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let running = |number: usize| {
        let lease =
            serde_json::json!({"worker_id": "gone-1", "sequence": number + 1, "delivery": 1});
        let phase = Phase::Running {
            lease: serde_json::from_value::<Lease>(lease).unwrap(),
            started_at: ended_at(),
        };
        let job = JobId::new(format!("r{number}")).unwrap();
        let mut record = Record::new(job, QueueName::new("build").unwrap(), phase, ended_at());
        record.worker_id = Some("gone-1".to_owned());
        record.attempt = 1;
        record
    };
    store(&naq, (0..50).map(running));
    let dashboard = Dashboard::start(&naq, &[]);
    wait_indexed(&dashboard, 50);
    let (first, next, _) = page(&dashboard, "state=running&limit=10");
    let expected: Vec<String> = (40..50).rev().map(|n| format!("r{n}")).collect();
    assert_eq!(first, expected);
    // the job at the cursor, one before it and one after it change, and a new one begins
    for number in [40, 45, 30, 50] {
        store(&naq, [running(number)]);
    }
    wait_indexed(&dashboard, 51);
    let rest = pages_from(&dashboard, "state=running&limit=10", next);
    let expected: Vec<String> = (0..40)
        .rev()
        .filter(|n| *n != 30)
        .map(|n| format!("r{n}"))
        .collect();
    assert_eq!(rest, expected);
    let (front, _, _) = page(&dashboard, "limit=4");
    assert_eq!(front, ["r50", "r30", "r45", "r40"]);
    // their worker never sent a heartbeat
    let warning = "the worker `gone-1` sends no heartbeats and has not ended 51 jobs";
    eventually("the warning is shown", || {
        let state = dashboard.get("/api/server").expect(200).json();
        state["warnings"].to_string().contains(warning)
    });
}
