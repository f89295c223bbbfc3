//! The producers of a run: the command line (killed at random while it enqueues), the client, and a
//! program that only uses JetStream. Each records which enqueues were acknowledged.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use naq_protocol::{Envelope, JobId, QueueName};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::jobs::{Ends, Planned, QUEUES};
use super::run::Run;
use crate::harness::naq::{GuardedChild, command};

/// Number of acknowledged jobs that may not have ended yet. It keeps the producers close to the
/// workers, so that faults hit both.
const AHEAD_MAX: usize = 300;

/// How long to wait before a failed enqueue is repeated.
const PAUSE: Duration = Duration::from_millis(100);

/// Enqueues until the run has enough.
pub(super) fn produce(run: &Arc<Run>, kind: usize, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    while let Some(batch) = next_batch(run, &mut chance) {
        match kind {
            0 => by_command_line(run, &mut chance, batch),
            1 => batch.iter().for_each(|job| by_library(run, job)),
            _ => batch
                .iter()
                .for_each(|job| by_publish(run, &mut chance, job)),
        }
    }
}

/// Waits until more jobs may be enqueued, and returns them. `None` once the run has enough.
fn next_batch(run: &Run, chance: &mut StdRng) -> Option<Vec<Planned>> {
    loop {
        let acknowledged = run.acknowledged.lock().unwrap().len();
        if acknowledged >= run.stage.size.jobs || run.stage.broken() {
            return None;
        }
        if acknowledged < run.stage.writes.ended() + AHEAD_MAX && acknowledged < run.allowed() {
            break;
        }
        run.stage.writes.wait(Duration::from_secs(1));
    }
    let mut jobs = run.jobs.lock().unwrap();
    let count = chance.random_range(5..run.batch_max());
    let mut batch = Vec::new();
    while batch.len() < count {
        if chance.random_bool(0.05)
            && let Some(again) = jobs.again()
        {
            batch.push(again);
        } else {
            batch.extend(jobs.make());
        }
    }
    // a job may be enqueued before its dependencies
    batch.shuffle(chance);
    Some(batch)
}

/// Enqueues by `naq enqueue --file -`: the ids that it printed are acknowledged, even if it is killed
/// then.
fn by_command_line(run: &Run, chance: &mut StdRng, batch: Vec<Planned>) {
    for queue in QUEUES {
        if run.stage.broken() {
            return;
        }
        // the command line refuses invalid envelopes, so a plain JetStream program publishes them
        let (mut jobs, broken): (Vec<_>, Vec<_>) = batch
            .iter()
            .filter(|job| job.queue == queue)
            .cloned()
            .partition(|job| job.ends != Ends::Rejected);
        for job in &broken {
            by_publish(run, chance, job);
        }
        while !jobs.is_empty() && !run.stage.broken() {
            let killed_after = chance
                .random_bool(run.producer_kill_chance)
                .then(|| Duration::from_millis(chance.random_range(0..150)));
            let printed = enqueue_by_command_line(run, queue, &jobs, killed_after);
            for id in &printed {
                run.acknowledge(id);
            }
            // enqueue again what has an id and was not reported; the ids of others are unknown
            jobs.retain(|job| job.job_id.as_ref().is_some_and(|id| !printed.contains(id)));
        }
    }
}

fn enqueue_by_command_line(
    run: &Run,
    queue: &str,
    jobs: &[Planned],
    killed_after: Option<Duration>,
) -> Vec<String> {
    let args = ["enqueue", "-q", queue, "--file", "-"].map(str::to_owned);
    let mut producer = GuardedChild::spawn(&mut command(
        &args,
        &run.stage.naq.environment(),
        run.stage.naq.home(),
    ));
    let lines: String = jobs
        .iter()
        .map(|job| format!("{}\n", job.envelope))
        .collect();
    let mut stdin = producer.child().stdin.take().unwrap();
    let stdout = producer.child().stdout.take().unwrap();
    let mut stderr = producer.child().stderr.take().unwrap();
    let feeding = std::thread::spawn(move || {
        // a killed producer does not read all of it
        let _ = stdin.write_all(lines.as_bytes());
    });
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let reading = std::thread::spawn(move || {
        let mut printed = Vec::new();
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        // an unfinished line acknowledges nothing
        while reader.read_line(&mut line).is_ok_and(|count| count > 0) && line.ends_with('\n') {
            printed.push(line.trim_end().to_owned());
            line.clear();
        }
        printed
    });
    if let Some(after) = killed_after {
        std::thread::sleep(after);
        if producer.child().try_wait().unwrap().is_none() && producer.child().kill().is_ok() {
            run.stage
                .counts
                .producers_killed
                .fetch_add(1, Ordering::Relaxed);
        }
    }
    let status = producer.child().wait().unwrap();
    feeding.join().unwrap();
    let errors = errors.join().unwrap();
    if !status.success() {
        run.stage.note(&format!(
            "a producer ended: {status}: {}",
            errors.trim_end()
        ));
    }
    reading.join().unwrap()
}

/// Enqueues by `Queue::enqueue`, repeated until it succeeds.
fn by_library(run: &Run, job: &Planned) {
    if job.ends == Ends::Rejected {
        return until_acknowledged(run, || publish(run, job, 0));
    }
    let mut envelope = Envelope::parse(job.envelope.to_string().as_bytes()).unwrap();
    // the same id each time, so that a repeat is the same request
    let id = match &job.job_id {
        Some(id) => JobId::new(id).unwrap(),
        None => JobId::generate(),
    };
    envelope.job_id = Some(id);
    let queue = run.stage.naq.client().queue(job.queue).unwrap();
    until_acknowledged(run, || {
        let enqueued = run.stage.naq.handle().block_on(queue.enqueue(&envelope));
        enqueued
            .map(|id| id.to_string())
            .map_err(|error| error.to_string())
    });
}

/// Publishes by JetStream: to a subject with the id, or to the queue's subject with or without a
/// message id. Repeated until it is acknowledged.
fn by_publish(run: &Run, chance: &mut StdRng, job: &Planned) {
    let way = chance.random_range(0..3);
    until_acknowledged(run, || publish(run, job, way));
}

fn publish(run: &Run, job: &Planned, way: u32) -> Result<String, String> {
    let nats = run.stage.naq.nats().clone();
    let payload = job.envelope.to_string();
    let (mut subject, mut headers) = (
        format!("naq.queue.{}", job.queue),
        async_nats::HeaderMap::new(),
    );
    if let Some(id) = &job.job_id {
        // the id of an invalid envelope cannot be in its payload
        let is_readable = job.ends != Ends::Rejected;
        match way.min(if is_readable { 2 } else { 1 }) {
            0 => subject = format!("{subject}.{id}"),
            1 => headers.insert("Nats-Msg-Id", id.as_str()),
            // the id in the envelope alone
            _ => {}
        }
    }
    let queue = QueueName::new(job.queue).unwrap();
    run.stage.naq.handle().block_on(async move {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let ack = jetstream::new(nats)
            .publish_with_headers(subject, headers, payload.into())
            .await
            .map_err(|error| text(&error))?
            .await
            .map_err(|error| text(&error))?;
        Ok(match &job.job_id {
            Some(id) => id.clone(),
            None => JobId::for_sequence(&queue, ack.sequence).to_string(),
        })
    })
}

/// Repeats an enqueue until it is acknowledged. Failures are written to the timeline.
fn until_acknowledged(run: &Run, mut enqueue: impl FnMut() -> Result<String, String>) {
    while !run.stage.broken() {
        match enqueue() {
            Ok(id) => return run.acknowledge(&id),
            Err(error) => {
                run.stage.note(&format!("an enqueue failed: {error}"));
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// A shared set of ids.
pub(super) type Ids = Mutex<std::collections::BTreeSet<String>>;
