//! Measures enqueues per second, and compares them with bare publishes of the same bytes.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::process::Bench;
use super::{median, show};
use crate::cli::exit::Failure;
use naq_client::{NewJob, QueueSettings};
use naq_protocol::Envelope;

/// The envelope that every measurement publishes.
const PAYLOAD: &[u8] = br#"{"command":"./script.sh","args":["one","two"]}"#;

/// Rates in jobs per second, one for each round.
#[derive(Default)]
struct Rates {
    bare: Vec<f64>,
    one: Vec<f64>,
    bare_pipelined: Vec<f64>,
    /// Bare publishes to a subject for each job, as naq uses.
    bare_with_subjects: Vec<f64>,
    pipelined: Vec<f64>,
    command_line: Vec<f64>,
}

/// Measures, with so many jobs in each pipelined measurement.
pub(super) async fn run(bench: &Bench, jobs: u32) -> Result<(), Failure> {
    let queue = bench.client.queue(bench.queue.as_str())?;
    queue.add(&QueueSettings::default()).await?;
    let mut rates = Rates::default();
    for _ in 0..bench.rounds {
        // Every pair of measurements starts with an empty queue.
        rates.bare.push(publish_one_by_one(bench).await?);
        rates.one.push(enqueue_one_by_one(bench).await?);
        queue.purge().await?;
        rates
            .bare_pipelined
            .push(publish_pipelined(bench, jobs, false).await?);
        queue.purge().await?;
        rates
            .bare_with_subjects
            .push(publish_pipelined(bench, jobs, true).await?);
        queue.purge().await?;
        rates.pipelined.push(enqueue_in_bulk(bench, jobs).await?);
        queue.purge().await?;
        rates.command_line.push(enqueue_file(bench, jobs).await?);
        queue.purge().await?;
    }
    show(
        bench.json,
        "enqueue",
        &["enqueue", "bare_per_s", "naq_per_s", "of_bare"],
        &rows(rates),
    )
}

/// How long each measurement of single publishes takes.
fn duration(bench: &Bench) -> Duration {
    Duration::from_secs_f64(bench.seconds / 2.0)
}

async fn publish_one_by_one(bench: &Bench) -> Result<f64, Failure> {
    let (broker, payload) = (bench.client.broker(), Bytes::from_static(PAYLOAD));
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < duration(bench) {
        broker.publish_unchecked(&bench.queue, &payload).await?;
        count += 1;
    }
    Ok(rate(count, begun))
}

async fn enqueue_one_by_one(bench: &Bench) -> Result<f64, Failure> {
    let queue = bench.client.queue(bench.queue.as_str())?;
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < duration(bench) {
        let envelope = Envelope::parse(PAYLOAD)?;
        queue.enqueue(&envelope).await?;
        count += 1;
    }
    Ok(rate(count, begun))
}

async fn publish_pipelined(
    bench: &Bench,
    jobs: u32,
    subject_for_each: bool,
) -> Result<f64, Failure> {
    let (broker, payload) = (bench.client.broker(), Bytes::from_static(PAYLOAD));
    let begun = Instant::now();
    broker
        .publish_unchecked_pipelined(&bench.queue, &payload, jobs, subject_for_each)
        .await?;
    Ok(rate(jobs, begun))
}

async fn enqueue_in_bulk(bench: &Bench, jobs: u32) -> Result<f64, Failure> {
    let payload = Bytes::from_static(PAYLOAD);
    let begun = Instant::now();
    let mut bulk = bench.client.bulk();
    for _ in 0..jobs {
        bulk.push(NewJob::new(bench.queue.clone(), payload.clone()))
            .await?;
        bulk.take_confirmed();
    }
    bulk.finish().await?;
    Ok(rate(jobs, begun))
}

/// Measures the whole process of `naq enqueue --file`: it starts, reads, checks, sends and waits
/// for the confirmations.
async fn enqueue_file(bench: &Bench, jobs: u32) -> Result<f64, Failure> {
    let file = bench.file(
        "envelopes.ndjson",
        &[PAYLOAD, b"\n"].concat().repeat(jobs as usize),
    )?;
    let begun = Instant::now();
    let enqueue = [
        "enqueue",
        "--queue",
        bench.queue.as_str(),
        "--quiet",
        "--file",
        &file,
    ];
    if bench.spawn_naq(&enqueue).wait().await.end != naq_runner::Termination::Exited(0) {
        return Err(Failure::general("naq enqueue --file failed"));
    }
    Ok(rate(jobs, begun))
}

/// Compares the medians of naq with those of bare publishes.
fn rows(rates: Rates) -> [Vec<String>; 4] {
    let pipelined = median(rates.pipelined);
    let bare_with_subjects = median(rates.bare_with_subjects);
    [
        ("one by one", median(rates.bare), median(rates.one)),
        (
            "pipelined: bare to one subject",
            median(rates.bare_pipelined),
            pipelined,
        ),
        (
            "pipelined: bare to a subject each",
            bare_with_subjects,
            pipelined,
        ),
        (
            "naq enqueue --file: bare to a subject each",
            bare_with_subjects,
            median(rates.command_line),
        ),
    ]
    .map(|(name, bare, naq)| {
        vec![
            name.to_owned(),
            format!("{bare:.0}"),
            format!("{naq:.0}"),
            format!("{:.2}", naq / bare),
        ]
    })
}

fn rate(count: u32, begun: Instant) -> f64 {
    f64::from(count) / begun.elapsed().as_secs_f64()
}
