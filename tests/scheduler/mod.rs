//! The scheduler, as processes with real servers and workers.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod clock;
mod delayed;
mod failing;
mod firing;
mod instances;
mod leaders;
mod overlap;
mod power_loss;
mod reconcile;
mod reschedule;
mod stalled;
mod timezones;

use std::collections::BTreeSet;
use std::time::SystemTime;

use naq_protocol::{Schedule, ScheduleId, ScheduleProgress, Timestamp};
use serde_json::{Value, json};

use crate::harness::naq::{FollowedCli, Naq, eventually};

#[expect(clippy::disallowed_methods, reason = "tests are at the edge")]
fn now() -> Timestamp {
    SystemTime::now().into()
}

fn later(time: Timestamp, ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(time.unix_ms() + ms).unwrap()
}

fn schedule_id(name: &str) -> ScheduleId {
    ScheduleId::new(name).unwrap()
}

/// A schedule of the queue `build` that starts now, with these fields.
fn schedule(name: &str, fields: Value) -> Schedule {
    let now = now();
    let mut value = json!({
        "schedule_id": name, "queue": "build", "envelope": {"command": "true"},
        "created_at": now, "progress": {"done_until": now},
    });
    let all = value.as_object_mut().unwrap();
    all.extend(fields.as_object().unwrap().clone());
    Schedule::parse(value.to_string().as_bytes()).unwrap()
}

/// Stores a schedule directly, as a program that is not naq would.
fn put(naq: &Naq, schedule: &Schedule) {
    let broker = naq.client().broker();
    naq.block_on(async {
        let (_, revision) = broker.read_schedule(&schedule.schedule_id).await.unwrap();
        broker.write_schedule(schedule, revision).await.unwrap();
    });
}

/// Changes a stored schedule, with retries if the scheduler changes it meanwhile.
fn change(naq: &Naq, name: &str, what: impl Fn(&mut Schedule)) {
    let (broker, id) = (naq.client().broker(), schedule_id(name));
    naq.block_on(async {
        loop {
            let (schedule, revision) = broker.read_schedule(&id).await.unwrap();
            let mut schedule = schedule.unwrap();
            what(&mut schedule);
            match broker.write_schedule(&schedule, revision).await {
                Err(naq_jetstream::BrokerError::Conflict) => {}
                done => return done.unwrap(),
            }
        }
    });
}

fn stored(naq: &Naq, name: &str) -> Schedule {
    let id = schedule_id(name);
    naq.block_on(async {
        let read = naq.client().broker().read_schedule(&id).await.unwrap();
        read.0.unwrap()
    })
}

/// Waits until a schedule's stored progress satisfies `is_so`.
fn progressed(
    naq: &Naq,
    name: &str,
    what: &str,
    is_so: impl Fn(&ScheduleProgress) -> bool,
) -> Schedule {
    let mut last = None;
    eventually(&format!("{name}: {what}"), || {
        let schedule = stored(naq, name);
        let found = is_so(&schedule.progress);
        last = Some(schedule);
        found
    });
    last.unwrap()
}

/// Starts a scheduler and waits until it leads.
pub(crate) fn scheduler(naq: &Naq, args: &[&str]) -> FollowedCli {
    let scheduler = naq.cli([&["scheduler"], args].concat()).follow();
    scheduler.expect_stderr("leading");
    scheduler
}

/// Ids of the jobs in a queue, in order.
fn jobs_of(naq: &Naq, queue: &str) -> Vec<String> {
    use futures_util::StreamExt;
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let Ok(stream) = jetstream.get_stream(format!("naq_queue_{queue}")).await else {
            return Vec::new();
        };
        // a work queue allows no consumer but its workers', so messages are read one by one
        let info = stream.get_info().await.unwrap();
        let range = info.state.first_sequence..=info.state.last_sequence;
        futures_util::stream::iter(range)
            .map(|sequence| stream.get_raw_message(sequence))
            .buffered(64)
            .filter_map(async |message| message.ok())
            .map(|message| message.subject.rsplit('.').next().unwrap().to_owned())
            .collect()
            .await
    })
}

/// Asserts that the jobs of a schedule are those of these ticks, each once, and no others.
fn each_once(jobs: &[String], name: &str, ticks: impl IntoIterator<Item = Timestamp>) {
    let id = schedule_id(name);
    let expected: BTreeSet<String> = ticks
        .into_iter()
        .map(|tick| naq_protocol::JobId::for_tick(&id, tick).to_string())
        .collect();
    let mut found: Vec<String> = jobs
        .iter()
        .filter(|job| job.starts_with(&format!("{name}-")))
        .cloned()
        .collect();
    found.sort();
    assert_eq!(found, Vec::from_iter(expected));
}
