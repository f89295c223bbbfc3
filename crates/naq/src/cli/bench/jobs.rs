//! Measures jobs per second, from enqueue to stored result, and compares them with the rate at which
//! this machine can start processes without naq.

use std::time::{Duration, Instant};

use super::process::Bench;
use super::{median, show};
use crate::cli::exit::Failure;
use naq_client::NewJob;
use naq_runner::{SPAWN_LIMIT_ARGUMENT, monotonic};

/// The program that every job runs.
const PROGRAM: &str = "/bin/true";

/// Interval at which the queue's depth is read while the worker runs its jobs. A request costs the
/// server about 0.1 ms.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub(super) async fn run(bench: &Bench, concurrencies: &[usize]) -> Result<(), Failure> {
    let mut limits = vec![Vec::new(); concurrencies.len()];
    let mut rates = vec![Vec::new(); concurrencies.len()];
    for _ in 0..bench.rounds {
        for (at, concurrency) in concurrencies.iter().enumerate() {
            let limit = spawn_limit(bench, *concurrency).await?;
            limits[at].push(limit);
            rates[at].push(jobs(bench, *concurrency, limit).await?);
        }
    }
    let limits: Vec<f64> = limits.into_iter().map(median).collect();
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    let best = limits.iter().copied().fold(f64::NAN, f64::max);
    let rows: Vec<Vec<String>> = concurrencies
        .iter()
        .zip(limits.iter().zip(&rates))
        .map(|(concurrency, (limit, rate))| {
            vec![
                concurrency.to_string(),
                format!("{limit:.0}"),
                format!("{rate:.0}"),
                format!("{:.2}", rate / limit),
                format!("{:.2}", rate / best),
            ]
        })
        .collect();
    show(
        bench.json,
        "jobs",
        &[
            "concurrency",
            "spawn_limit_per_s",
            "jobs_per_s",
            "of_limit",
            "of_best_limit",
        ],
        &rows,
    )
}

/// Measures how many processes per second this machine can start, capture and reap without naq.
async fn spawn_limit(bench: &Bench, concurrency: usize) -> Result<f64, Failure> {
    // Late enough that all loops have been started by then.
    let start = monotonic() + Duration::from_millis(300);
    let start = start.as_secs_f64().to_string();
    let seconds = bench.seconds.to_string();
    let loops: Vec<_> = (0..concurrency)
        .map(|_| {
            let env = bench.job_env.iter().map(String::as_str);
            let mut args = vec![SPAWN_LIMIT_ARGUMENT, &start, &seconds];
            args.extend(env.chain(["--", PROGRAM]));
            bench.spawn_naq(&args)
        })
        .collect();
    let mut count = 0_u32;
    for one in loops {
        let ended = one.wait().await;
        count += String::from_utf8_lossy(&ended.stdout.head)
            .trim()
            .parse::<u32>()
            .map_err(|_| {
                Failure::general("the loop that measures the spawn limit could not start a process")
            })?;
    }
    Ok(f64::from(count) / bench.seconds)
}

/// Measures jobs per second. Enqueues as many jobs as should run in the duration of a measurement.
async fn jobs(bench: &Bench, concurrency: usize, limit: f64) -> Result<f64, Failure> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of jobs"
    )]
    let count = (limit * bench.seconds * 0.8).clamp(100.0, 1e6) as u32;
    rate(bench, concurrency, count).await
}

/// Runs this many jobs on a new worker. Returns how many a second.
pub(super) async fn rate(bench: &Bench, concurrency: usize, count: u32) -> Result<f64, Failure> {
    let worker = bench.worker(concurrency).await?;
    let payload = bytes::Bytes::from(format!(r#"{{"command":"{PROGRAM}"}}"#));
    let begun = Instant::now();
    let mut bulk = bench.client.bulk();
    for _ in 0..count {
        bulk.push(NewJob::new(bench.queue.clone(), payload.clone()))
            .await?;
    }
    bulk.finish().await?;
    // A worker acknowledges a job after its outcome is recorded, so an empty queue means that all
    // results are stored.
    while bench.client.broker().queue_messages(&bench.queue).await? > 0 {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    worker.end().await;
    Ok(rate)
}
