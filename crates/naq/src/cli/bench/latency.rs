//! Measures the time from the enqueue of a job to its stored result on an idle worker, and the time
//! that a `naq enqueue` process takes.

use std::time::{Duration, Instant};

use super::process::Bench;
use super::{quantile, show};
use crate::cli::exit::Failure;
use naq_protocol::{Envelope, JobId};

pub(super) async fn run(bench: &Bench) -> Result<(), Failure> {
    let worker = bench.worker(2).await?;
    let queue = bench.client.queue(bench.queue.as_str())?;
    let time = Duration::from_secs_f64(bench.seconds);
    let mut warm = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let mut envelope = Envelope::command("/bin/true", [] as [&str; 0]);
        let job_id = JobId::generate();
        envelope.job_id = Some(job_id.clone());
        let payload =
            serde_json::to_vec(&envelope).map_err(|error| Failure::general(error.to_string()))?;
        let waiter = bench.client.waiter(std::slice::from_ref(&job_id)).await?;
        let sent = Instant::now();
        queue.enqueue_new(job_id, payload.into()).await?;
        waiter.each(|_| {}).await?;
        warm.push(millis(sent));
        // The worker is to be idle when the next job arrives.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.end().await;
    let (mut spawn, mut cold) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let sent = Instant::now();
        bench.spawn_naq(&["schema"]).wait().await;
        spawn.push(millis(sent));
        let sent = Instant::now();
        let queue = bench.queue.as_str();
        let ended = bench
            .spawn_naq(&["enqueue", "--queue", queue, "--", "/bin/true"])
            .wait()
            .await;
        if ended.end != naq_runner::Termination::Exited(0) {
            return Err(Failure::general(format!(
                "naq enqueue failed: {}",
                String::from_utf8_lossy(&ended.stderr.head)
            )));
        }
        cold.push(millis(sent));
    }
    queue.purge().await?;
    let rows = [
        ("enqueue to stored result, idle worker", &mut warm),
        ("cold `naq enqueue` process", &mut cold),
        ("a naq process that does nothing", &mut spawn),
    ]
    .map(|(name, values)| {
        vec![
            name.to_owned(),
            format!("{:.2}", quantile(values, 0.5)),
            format!("{:.2}", quantile(values, 0.99)),
        ]
    });
    show(
        bench.json,
        "latency",
        &["latency", "p50_ms", "p99_ms"],
        &rows,
    )
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
