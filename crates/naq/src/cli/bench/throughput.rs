//! Runs many jobs, and measures how many a second and what each costs.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::cpu::CpuTime;
use super::process::{Bench, Worker};
use crate::cli::exit::Failure;
use naq_client::NewJob;
use naq_protocol::QueueName;

/// Interval at which the queue's depth is read while the worker runs its jobs. A request costs the
/// server about 0.1 ms.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Time without the end of any job after which a measurement has failed.
const STALLED_MAX: Duration = Duration::from_secs(60);

/// What was measured of many jobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throughput {
    /// Jobs a second, from the first enqueue to the last stored result.
    pub(super) per_s: f64,
    /// Processor time of each job.
    pub(super) cpu: CpuTime,
}

/// The workers that run a measurement's jobs, and the queues of those.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) workers: &'a [Worker],
    pub(super) queues: &'a [QueueName],
}

impl Load<'_> {
    /// Enqueues so many jobs to the queues in turn, each with the payload for its number, and waits until
    /// all have ended.
    pub(super) async fn run(
        self,
        bench: &Bench,
        count: u32,
        payload: impl Fn(u32) -> Bytes,
    ) -> Result<Throughput, Failure> {
        let pids: Vec<u32> = self.workers.iter().map(|worker| worker.pid).collect();
        let before = CpuTime::read(&pids, &bench.server_pids);
        let begun = Instant::now();
        self.enqueue(bench, count, payload).await?;
        for queue in self.queues {
            let left = wait_until_empty(bench, queue, STALLED_MAX).await?;
            if left.messages > 0 {
                let seconds = STALLED_MAX.as_secs();
                let left = left.messages;
                return Err(Failure::general(format!(
                    "{left} jobs of {queue} have not ended, and none has for {seconds} s"
                )));
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Throughput {
            per_s: f64::from(count) / seconds,
            cpu: CpuTime::read(&pids, &bench.server_pids).per_job(before, count),
        })
    }

    /// Enqueues so many jobs to the queues in turn.
    pub(super) async fn enqueue(
        self,
        bench: &Bench,
        count: u32,
        payload: impl Fn(u32) -> Bytes,
    ) -> Result<(), Failure> {
        let mut bulk = bench.client.bulk();
        for (at, queue) in (0..count).zip(self.queues.iter().cycle()) {
            bulk.push(NewJob::new(queue.clone(), payload(at))).await?;
            bulk.take_confirmed();
        }
        bulk.finish().await?;
        match bulk.take_rejected() {
            Some((job, error)) => Err(Failure::general(format!("{job} was refused: {error}"))),
            None => Ok(()),
        }
    }
}

/// What a queue contains when no job of it ends any more.
pub(super) struct Remainder {
    pub(super) messages: u64,
    /// When its number of messages changed last.
    pub(super) changed_at: Instant,
}

/// Waits until a queue is empty, or until nothing has changed for `stalled_max`. A worker acknowledges a job
/// after its outcome is recorded, so an empty queue means that all results are stored.
pub(super) async fn wait_until_empty(
    bench: &Bench,
    queue: &QueueName,
    stalled_max: Duration,
) -> Result<Remainder, Failure> {
    let mut seen = Remainder {
        messages: u64::MAX,
        changed_at: Instant::now(),
    };
    loop {
        let messages = bench.client.broker().queue_messages(queue).await?;
        if messages != seen.messages {
            seen = Remainder {
                messages,
                changed_at: Instant::now(),
            };
        }
        if messages == 0 || seen.changed_at.elapsed() >= stalled_max {
            return Ok(seen);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
