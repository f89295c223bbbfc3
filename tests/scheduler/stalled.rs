//! Leaders that are suspended, or receive no changes: their index of schedules is out of date when
//! they continue.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use naq_protocol::{JobId, Schedule, ScheduleStatus, Timestamp};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{change, jobs_of, later, now, progressed, put, schedule, schedule_id, scheduler};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

/// Ids of a schedule's jobs.
fn jobs_of_one(naq: &Naq, name: &str) -> Vec<String> {
    let mut jobs = jobs_of(naq, "build");
    jobs.retain(|job| job.starts_with(&format!("{name}-")));
    jobs
}

/// Asserts that a schedule of ten ticks a second has no tick after `time`.
#[track_caller]
fn none_after(naq: &Naq, made: &Schedule, time: Timestamp) {
    let jobs = jobs_of_one(naq, made.schedule_id.as_str());
    let due = (1..)
        .map(|count| later(made.created_at, 100 * count))
        .take_while(|tick| *tick <= time);
    let due: Vec<String> = due
        .map(|tick| JobId::for_tick(&made.schedule_id, tick).to_string())
        .collect();
    let late: Vec<&String> = jobs.iter().filter(|job| !due.contains(job)).collect();
    assert!(late.is_empty(), "{late:?} after {time}");
}

/// A leader that resumes and still has its lease rereads the schedules before it enqueues what has
/// become due.
#[test]
fn a_schedule_paused_while_the_leader_was_suspended_is_not_enqueued() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let all: Vec<Schedule> = (0..20)
        .map(|nth| schedule(&format!("often{nth}"), json!({"every": 0.1})))
        .collect();
    for one in &all {
        put(&naq, one);
    }
    put(&naq, &schedule("other", json!({"every": 0.1})));
    let scheduler = scheduler(&naq, &["--lock-ttl", "60s"]);
    for one in &all {
        let name = one.schedule_id.as_str();
        progressed(&naq, name, "runs", |one| one.runs >= 3);
    }
    scheduler.signal(Signal::SIGSTOP);
    let mut paused_at = Vec::new();
    for one in &all {
        let name = one.schedule_id.as_str();
        change(&naq, name, |one| one.status = ScheduleStatus::Paused);
        paused_at.push(now());
    }
    // ticks of all of them become due
    std::thread::sleep(Duration::from_millis(400));
    scheduler.signal(Signal::SIGCONT);
    let so_far = super::stored(&naq, "other").progress.runs;
    progressed(&naq, "other", "continues", |one| one.runs >= so_far + 10);
    for (one, paused_at) in all.iter().zip(paused_at) {
        none_after(&naq, one, paused_at);
    }
}

/// Starts a proxy that delays both directions by `way`. Returns its port.
fn slow_proxy(port: u16, way: Duration) -> u16 {
    fn forward(mut from: TcpStream, mut to: TcpStream, way: Duration) {
        let (sender, receiver) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
        std::thread::spawn(move || {
            for (due, bytes) in receiver {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if to.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                if sender
                    .send((Instant::now() + way, buffer[..read].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let slow = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            forward(
                client.try_clone().unwrap(),
                server.try_clone().unwrap(),
                way,
            );
            forward(server, client, way);
        }
    });
    slow
}

/// Waiting for a reread does not count as a suspension, however far away the server is.
#[test]
fn a_suspended_leader_far_from_its_server_continues() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    put(&naq, &schedule("often", json!({"every": 0.1})));
    let port = slow_proxy(server.port(), Duration::from_millis(100));
    let url = format!("nats://127.0.0.1:{port}");
    let scheduler = naq
        .cli(["scheduler", "--lock-ttl", "60s"])
        .env("NAQ_NATS_URL", &url)
        .follow();
    scheduler.expect_stderr("leading");
    progressed(&naq, "often", "runs", |one| one.runs >= 3);
    scheduler.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(500));
    scheduler.signal(Signal::SIGCONT);
    let so_far = super::stored(&naq, "often").progress.runs;
    progressed(&naq, "often", "continues", |one| one.runs >= so_far + 10);
}

/// A leader that is suspended between checking its lease and sending a tick still sends that tick: of
/// each schedule the one that was due then, and no other. If the next leader has enqueued it too, it
/// is the same job.
#[test]
fn a_leader_suspended_while_sending_enqueues_what_it_was_about_to_and_no_more() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let first = naq
        .cli(["scheduler", "--lock-ttl", "3s"])
        .env("FAILPOINTS", "tick.checked=5*off->1*sleep(6000)")
        .follow();
    first.expect_stderr("leading");
    let second = naq.cli(["scheduler", "--lock-ttl", "3s"]).follow();
    second.expect_stderr("standing by");
    let all = ["paused", "removed", "kept"].map(|name| schedule(name, json!({"every": 0.1})));
    for one in &all {
        put(&naq, one);
    }
    // it takes over from the suspended one
    second.expect_stderr("leading");
    progressed(&naq, "kept", "continues", |one| one.runs >= 10);
    change(&naq, "paused", |one| one.status = ScheduleStatus::Paused);
    naq.block_on(async {
        let (broker, id) = (naq.client().broker(), schedule_id("removed"));
        loop {
            let (_, revision) = broker.read_schedule(&id).await.unwrap();
            if broker.remove_schedule(&id, revision).await.is_ok() {
                break;
            }
        }
    });
    let changed_at = now();
    first.expect_stderr("no longer the leader");
    first.expect_stderr("standing by");
    let so_far = super::stored(&naq, "kept").progress.runs;
    let kept = progressed(&naq, "kept", "continues", |one| one.runs >= so_far + 10);
    for one in &all[..2] {
        none_after(&naq, one, changed_at);
    }
    // the tick that it sent then was a job already
    for name in ["paused", "kept"] {
        let jobs = jobs_of_one(&naq, name);
        let once: BTreeSet<&String> = jobs.iter().collect();
        assert_eq!(once.len(), jobs.len(), "{jobs:?}");
    }
    assert!(kept.progress.runs <= jobs_of_one(&naq, "kept").len() as u64);
    let paused = super::stored(&naq, "paused").progress;
    eventually("every job is counted", || {
        let jobs = jobs_of_one(&naq, "paused").len() as u64;
        super::stored(&naq, "paused").progress.runs == jobs
    });
    assert!(paused.done_until <= changed_at);
}

/// A leader that loses its lease while it shuts down stores nothing more, and exits.
#[test]
fn leader_that_loses_its_lease_while_shutting_down_exits() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let scheduler = naq
        .cli(["scheduler", "--lock-ttl", "3s"])
        .env("FAILPOINTS", "progress.due=1*off->1*sleep(4000)")
        .follow();
    scheduler.expect_stderr("leading");
    put(&naq, &schedule("often", json!({"every": 0.1})));
    // further progress is stored a second later, or when it shuts down
    progressed(&naq, "often", "runs", |one| one.runs >= 1);
    eventually("more progress is to be stored", || {
        jobs_of_one(&naq, "often").len() >= 3
    });
    assert!(scheduler.stop().success());
}

/// A server of a cluster may go down after it stores a change and before it republishes it, while
/// the leader's connection, to another server, stays. The sequence of the next change shows the
/// leader that it has missed one.
#[test]
fn a_change_that_was_not_republished_is_noticed_by_the_next_sequence_and_read() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let far_off = json!({"cron": "0 0 1 1 *"});
    put(&naq, &schedule("removed", json!({"every": 0.1})));
    let _scheduler = scheduler(&naq, &["--disable-ha"]);
    progressed(&naq, "removed", "runs", |one| one.runs >= 3);
    set_republish(&naq, false);
    put(&naq, &schedule("undelivered", json!({"every": 0.1})));
    naq.block_on(async {
        let (broker, id) = (naq.client().broker(), schedule_id("removed"));
        loop {
            let (_, revision) = broker.read_schedule(&id).await.unwrap();
            if broker.remove_schedule(&id, revision).await.is_ok() {
                break;
            }
        }
    });
    set_republish(&naq, true);
    put(&naq, &schedule("changed", far_off));
    progressed(&naq, "undelivered", "runs", |one| one.runs >= 3);
    let before = jobs_of_one(&naq, "removed");
    progressed(&naq, "undelivered", "runs", |one| one.runs >= 10);
    assert_eq!(jobs_of_one(&naq, "removed"), before);
}

/// Sets whether the server republishes changes of schedules, as naq configures it.
fn set_republish(naq: &Naq, is_on: bool) {
    naq.block_on(async {
        let jetstream = jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("KV_naq_scheduled_jobs").await.unwrap();
        let mut config = stream.cached_info().config.clone();
        config.republish = is_on.then(|| jetstream::stream::Republish {
            source: "$KV.naq_scheduled_jobs.>".to_owned(),
            destination: "naq.schedule.>".to_owned(),
            headers_only: false,
        });
        jetstream.update_stream(config).await.unwrap();
    });
}
