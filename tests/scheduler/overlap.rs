//! Overlap policies: what a tick does while the previous tick's job has not ended.

use naq_protocol::{JobId, Record, Schedule, ScheduleStatus, State, Timestamp};
use serde_json::{Value, json};

use super::{change, later, now, progressed, put, schedule, scheduler, stored};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

/// A schedule whose jobs log their start and end, and run until a file exists.
fn waiting(naq: &Naq, name: &str, fields: Value) -> Schedule {
    let home = naq.home().display();
    let script = format!(
        "echo begin >> {home}/runs; while [ ! -e {home}/go ]; do sleep 0.02; done; echo end >> {home}/runs"
    );
    let mut waiting = schedule(name, fields);
    waiting.envelope = serde_json::value::to_raw_value(&json!({"script": script})).unwrap();
    waiting
}

fn go(naq: &Naq) {
    std::fs::write(naq.home().join("go"), "").unwrap();
}

/// Whether the jobs ran one at a time.
fn one_at_a_time(naq: &Naq) -> bool {
    let runs = std::fs::read_to_string(naq.home().join("runs")).unwrap();
    let lines: Vec<&str> = runs.lines().collect();
    lines.chunks(2).all(|two| two == ["begin", "end"])
}

/// The job of the nth tick.
fn job(schedule: &Schedule, nth: i64) -> JobId {
    JobId::for_tick(&schedule.schedule_id, tick(schedule, nth))
}

fn tick(schedule: &Schedule, nth: i64) -> Timestamp {
    let every = i64::try_from(schedule.every.unwrap().0.as_millis()).unwrap();
    later(schedule.created_at, nth * every)
}

/// Ends a schedule soon, and waits for that. Returns the schedule then, and its number of ticks.
fn ended(naq: &Naq, name: &str) -> (Schedule, u64) {
    change(naq, name, |schedule| {
        schedule.end = Some(later(now(), 300));
    });
    eventually("it has ended", || {
        stored(naq, name).status == ScheduleStatus::Ended
    });
    let ended = stored(naq, name);
    let all_ms = ended.end.unwrap().unix_ms() - ended.created_at.unix_ms();
    let every_ms = i64::try_from(ended.every.unwrap().0.as_millis()).unwrap();
    let ticks = u64::try_from(all_ms / every_ms).unwrap();
    (ended, ticks)
}

/// Records of a schedule's jobs, by tick, once all have ended.
fn records(naq: &Naq, schedule: &Schedule, ticks: u64) -> Vec<Record> {
    (1..=i64::try_from(ticks).unwrap())
        .filter_map(|nth| {
            let job = job(schedule, nth);
            let found = naq.block_on(naq.client().fetch_job(&job)).is_ok();
            found.then(|| naq.wait_ended(&job))
        })
        .collect()
}

#[test]
fn overlap_skip_leaves_ticks_out_while_the_last_job_runs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(4).spawn();
    let skipping = waiting(&naq, "skipping", json!({"every": 0.1, "overlap": "skip"}));
    put(&naq, &skipping);
    let _scheduler = scheduler(&naq, &[]);
    let first = naq.wait_running(&job(&skipping, 1));
    let held = progressed(&naq, "skipping", "skips", |one| one.skipped >= 10);
    assert_eq!(held.progress.runs, 1);
    assert_eq!(held.progress.last_job_id, Some(first.job_id));
    go(&naq);
    progressed(&naq, "skipping", "continues", |one| one.runs >= 3);
    let (last, ticks) = ended(&naq, "skipping");
    assert_eq!(last.progress.runs + last.progress.skipped, ticks);
    assert_eq!(last.progress.missed, 0);
    let records = records(&naq, &skipping, ticks);
    assert_eq!(records.len() as u64, last.progress.runs);
    assert!(one_at_a_time(&naq));
}

#[test]
fn overlap_queue_runs_every_tick_one_after_another() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(4).spawn();
    let fields = json!({"every": 0.1, "overlap": "queue", "repeat": 12});
    let queueing = waiting(&naq, "queueing", fields);
    put(&naq, &queueing);
    let _scheduler = scheduler(&naq, &[]);
    naq.wait_running(&job(&queueing, 1));
    naq.wait_for(&job(&queueing, 12), "waiting", |record| {
        record.state() == State::Waiting
    });
    go(&naq);
    for record in records(&naq, &queueing, 12) {
        assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    }
    progressed(&naq, "queueing", "counted", |one| one.runs == 12);
    assert!(one_at_a_time(&naq));
}

#[test]
fn overlap_replace_cancels_the_last_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(4).spawn();
    let fields = json!({"every": 0.5, "overlap": "replace", "repeat": 4});
    let replacing = waiting(&naq, "replacing", fields);
    put(&naq, &replacing);
    let _scheduler = scheduler(&naq, &[]);
    for nth in 1..4 {
        let record = naq.wait_ended(&job(&replacing, nth));
        assert_eq!(record.state(), State::Cancelled, "{record:#?}");
    }
    naq.wait_running(&job(&replacing, 4));
    go(&naq);
    let last = naq.wait_ended(&job(&replacing, 4));
    assert_eq!(last.state(), State::Succeeded);
    progressed(&naq, "replacing", "counted", |one| one.runs == 4);
}

/// A leader that dies between the cancel request and the enqueue leaves a gap that the next leader
/// fills.
#[test]
fn overlap_replace_survives_a_leader_crash() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(4).spawn();
    let fields = json!({"every": 0.5, "overlap": "replace", "repeat": 10});
    let replacing = waiting(&naq, "replacing", fields);
    let dying = naq
        .cli(["scheduler", "--lock-ttl", "3s"])
        .env("FAILPOINTS", "overlap.cancelled=1*off->return")
        .follow();
    put(&naq, &replacing);
    dying.expect_stderr("dies at overlap.cancelled");
    let other = naq.cli(["scheduler", "--lock-ttl", "3s"]).follow();
    other.expect_stderr("leading");
    progressed(&naq, "replacing", "done", |one| one.runs == 10);
    naq.wait_running(&job(&replacing, 10));
    go(&naq);
    let records = records(&naq, &replacing, 10);
    let (last, others) = records.split_last().unwrap();
    assert_eq!(records.len(), 10);
    assert_eq!(last.state(), State::Succeeded);
    for record in others {
        assert_eq!(record.state(), State::Cancelled, "{record:#?}");
    }
}

/// A leader dies after it has enqueued the first tick after some that it has left out, before it has
/// stored that. The next leader must not find that those may be enqueued now.
#[test]
fn overlap_skip_survives_a_leader_crash_after_an_enqueue() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(4).spawn();
    let skipping = waiting(&naq, "skipping", json!({"every": 0.1, "overlap": "skip"}));
    let dying = naq
        .cli(["scheduler", "--lock-ttl", "3s"])
        .env("FAILPOINTS", "tick.enqueued=1*off->return")
        .follow();
    put(&naq, &skipping);
    naq.wait_running(&job(&skipping, 1));
    progressed(&naq, "skipping", "skips", |one| one.skipped >= 5);
    // that was stored just now; a few more are left out, and the first job ends before those are
    // stored
    std::thread::sleep(std::time::Duration::from_millis(400));
    go(&naq);
    dying.expect_stderr("dies at tick.enqueued");
    let other = naq.cli(["scheduler", "--lock-ttl", "3s"]).follow();
    other.expect_stderr("leading");
    let before = stored(&naq, "skipping").progress.runs;
    progressed(&naq, "skipping", "continues", |one| one.runs >= before + 10);
    let (last, ticks) = ended(&naq, "skipping");
    let records = records(&naq, &skipping, ticks);
    assert_eq!(records.len() as u64, last.progress.runs);
    assert_eq!(last.progress.runs + last.progress.skipped, ticks);
    assert!(one_at_a_time(&naq));
    for two in records.windows(2) {
        assert!(two[0].finished_at().unwrap() <= two[1].enqueue_time);
    }
}
