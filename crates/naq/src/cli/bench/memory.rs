//! Measures the memory of a worker with its spawners: idle, and while its job prints much output.

use std::time::Duration;

use super::cpu::children;
use super::process::Bench;
use super::show;
use crate::cli::exit::Failure;
use crate::cli::render;
use naq_protocol::{Envelope, State};

pub(super) async fn run(bench: &Bench, output_bytes: u64) -> Result<(), Failure> {
    let worker = bench.worker(4).await?;
    let pid = worker.pid;
    let idle = tree_bytes(pid);
    let queue = bench.client.queue(bench.queue.as_str())?;
    let count = output_bytes.to_string();
    let job = queue
        .enqueue(&Envelope::command("head", ["-c", &count, "/dev/zero"]))
        .await?;
    let mut printing = idle;
    let waiting = bench.client.wait(&job);
    tokio::pin!(waiting);
    let record = loop {
        tokio::select! {
            record = &mut waiting => break record?,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                printing = printing.max(tree_bytes(pid));
            }
        }
    };
    worker.end().await;
    let printed = record.stdout.as_ref().map_or(0, |output| output.bytes);
    if record.state() != State::Succeeded || printed != output_bytes {
        return Err(Failure::general(
            "the job failed, or its output does not have the requested size",
        ));
    }
    let rows = [
        ("idle, with its spawners".to_owned(), idle),
        (
            format!("while a job prints {}", render::bytes(output_bytes)),
            printing,
        ),
    ]
    .map(|(name, bytes)| {
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let mib = bytes as f64 / f64::from(1 << 20);
        vec![name, format!("{mib:.1}")]
    });
    show(bench.json, "memory", &["worker", "pss_mib"], &rows)
}

/// Proportional set size (`Pss` of `smaps_rollup`, which divides shared pages among the processes
/// that map them) of a worker and its spawners, in bytes.
fn tree_bytes(pid: u32) -> u64 {
    let pids = std::iter::once(pid).chain(children(pid));
    pids.map(pss_bytes).sum()
}

/// Proportional set size of one process, in bytes. 0 if it cannot be read.
pub(super) fn pss_bytes(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}
