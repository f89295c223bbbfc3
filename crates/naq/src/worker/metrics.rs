//! Metrics of a worker. The handles of each queue are created at the start, so that a job only costs
//! additions to atomic numbers: no allocation, and no locks except those of histograms, which are
//! uncontended.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::report::Done;
use crate::clock;
use crate::metrics::{
    self as table, Counter, Gauge, Histogram, JobHistogram, LabelValue, LabelValues, Metrics,
    SecondsCounter,
};
use naq_protocol::{JobId, QueueName, Reason, Record, State, Timestamp};
use naq_runner::{Captured, Completion, Runner, SpawnFailure, Termination, Usage};

/// How an attempt ended, for its queue's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptOutcome {
    Success,
    Retry,
    Failed,
    Cancelled,
    Requeued,
    Lost,
}

impl AttemptOutcome {
    const ALL: [AttemptOutcome; 6] = [
        AttemptOutcome::Success,
        AttemptOutcome::Retry,
        AttemptOutcome::Failed,
        AttemptOutcome::Cancelled,
        AttemptOutcome::Requeued,
        AttemptOutcome::Lost,
    ];

    fn name(self) -> &'static str {
        match self {
            AttemptOutcome::Success => "success",
            AttemptOutcome::Retry => "retry",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Cancelled => "cancelled",
            AttemptOutcome::Requeued => "requeued",
            AttemptOutcome::Lost => "lost",
        }
    }

    /// The outcome of an attempt that was finished with this result.
    pub(super) fn of(done: &Done) -> AttemptOutcome {
        match done {
            Done::Recorded(record) => match record.state() {
                State::Succeeded => AttemptOutcome::Success,
                State::Retrying => AttemptOutcome::Retry,
                State::Cancelled => AttemptOutcome::Cancelled,
                _ => AttemptOutcome::Failed,
            },
            Done::Requeued => AttemptOutcome::Requeued,
            // the job's record and its failure are both too large to store
            Done::NothingToRun => AttemptOutcome::Failed,
            Done::LeaseLost => AttemptOutcome::Lost,
        }
    }
}

/// The counters of one stream of output.
struct OutputCounters {
    bytes: Counter,
    truncated: Counter,
}

impl OutputCounters {
    fn new(metrics: &Metrics, queue: &LabelValue, stream: &'static str) -> OutputCounters {
        let labels = || [queue.clone(), stream.into()];
        OutputCounters {
            bytes: metrics.counter(table::OUTPUT_BYTES, labels()),
            truncated: metrics.counter(table::OUTPUT_TRUNCATED, labels()),
        }
    }

    fn count(&self, captured: &Captured) {
        self.bytes.inc_by(captured.bytes);
        if captured.missing_bytes > 0 {
            self.truncated.inc();
        }
    }
}

/// The handles of one queue.
struct QueueMetrics {
    label: LabelValue,
    started: Counter,
    /// In the order of [`AttemptOutcome::ALL`].
    attempts: [Counter; 6],
    succeeded: Counter,
    wait: Histogram,
    run_ok: JobHistogram,
    run_bad: JobHistogram,
    cpu_user: SecondsCounter,
    cpu_system: SecondsCounter,
    memory: Histogram,
    stdout: OutputCounters,
    stderr: OutputCounters,
}

impl QueueMetrics {
    fn new(metrics: &Metrics, label: LabelValue) -> QueueMetrics {
        let one = || [label.clone()];
        let and = |second: &'static str| [label.clone(), second.into()];
        let succeeded = [
            label.clone(),
            State::Succeeded.as_static().into(),
            NO_REASON.into(),
        ];
        QueueMetrics {
            started: metrics.counter(table::ATTEMPTS_STARTED, one()),
            attempts: AttemptOutcome::ALL
                .map(|outcome| metrics.counter(table::ATTEMPTS, and(outcome.name()))),
            succeeded: metrics.counter(table::JOBS_ENDED, succeeded),
            wait: metrics.histogram(table::JOB_WAIT, one()),
            run_ok: metrics.job_histogram(table::JOB_RUN, and("ok")),
            run_bad: metrics.job_histogram(table::JOB_RUN, and("bad")),
            cpu_user: metrics.seconds(table::JOB_CPU, and("user")),
            cpu_system: metrics.seconds(table::JOB_CPU, and("system")),
            memory: metrics.histogram(table::JOB_MEMORY, one()),
            stdout: OutputCounters::new(metrics, &label, "stdout"),
            stderr: OutputCounters::new(metrics, &label, "stderr"),
            label,
        }
    }
}

/// The value of the label `reason` of a job that succeeded or expired.
const NO_REASON: &str = "none";

/// Errors of a machine that lacks a resource.
const MACHINE_ERRORS: [&str; 5] = ["EAGAIN", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC"];

/// The handles of a worker.
pub(super) struct WorkerMetrics {
    metrics: Arc<Metrics>,
    queues: HashMap<QueueName, QueueMetrics>,
    leaked: Counter,
    leases_lost: Counter,
    redeliveries: Counter,
    /// Writes that were refused because the record had changed.
    pub(super) write_conflicts: Counter,
    /// Slots in use.
    pub(super) slots_busy: Gauge,
    /// 1 once the worker takes no more jobs.
    pub(super) draining: Gauge,
}

impl WorkerMetrics {
    /// The handles of a worker of these queues. `runner` is read for each scrape.
    pub(super) fn new(
        metrics: &Arc<Metrics>,
        queues: &[QueueName],
        concurrency: usize,
        runner: &Runner,
    ) -> WorkerMetrics {
        let mut labels = LabelValues::default();
        let queues = queues.iter().map(|queue| {
            let label = labels.of(queue.as_str());
            (queue.clone(), QueueMetrics::new(metrics, label))
        });
        let queues = queues.collect();
        // so that each counter begins at 0, and Prometheus sees its first increase
        for error in MACHINE_ERRORS {
            metrics.counter(table::SPAWN_FAILURES, [error.into()]);
        }
        metrics
            .gauge(table::WORKER_SLOTS, [])
            .set(concurrency as f64);
        let restarts = metrics.counter(table::SPAWNER_RESTARTS, []);
        let counted = runner.spawner_restarts();
        metrics.before_scrape(move || {
            let now = counted.load(Ordering::Relaxed);
            restarts.inc_by(now.saturating_sub(restarts.get()));
        });
        WorkerMetrics {
            queues,
            leaked: metrics.counter(table::JOBS_LEAKED, []),
            leases_lost: metrics.counter(table::LEASES_LOST, []),
            redeliveries: metrics.counter(table::REDELIVERIES, []),
            write_conflicts: metrics.counter(table::WRITE_CONFLICTS, []),
            slots_busy: metrics.gauge(table::WORKER_SLOTS_BUSY, []),
            draining: metrics.gauge(table::WORKER_DRAINING, []),
            metrics: Arc::clone(metrics),
        }
    }

    /// Counts a delivery. `times` is how often the message has been delivered.
    pub(super) fn on_delivery(&self, times: u64) {
        if times > 1 {
            self.redeliveries.inc();
        }
    }

    /// Counts that a job which was due at this time was claimed now.
    pub(super) fn on_claimed(&self, queue: &QueueName, due: Timestamp, now: Timestamp) {
        if let Some(queue) = self.queues.get(queue) {
            // the clock of the server that stored the message may be ahead
            let waited = (now.0 - due.0).to_std().unwrap_or_default();
            queue.wait.observe(waited.as_secs_f64());
        }
    }

    /// Counts that an attempt is about to start.
    pub(super) fn on_started(&self, queue: &QueueName) {
        if let Some(queue) = self.queues.get(queue) {
            queue.started.inc();
        }
    }

    /// Counts the output of an attempt, and the errors of its start.
    pub(super) fn on_completed(&self, queue: &QueueName, completion: &Completion) {
        if completion.leaked {
            self.leaked.inc();
        }
        if let (Termination::NotStarted(failure), None) = (&completion.end, completion.stopped) {
            self.spawn_failed(failure);
        }
        if let Some(queue) = self.queues.get(queue) {
            queue.stdout.count(&completion.stdout);
            queue.stderr.count(&completion.stderr);
        }
    }

    /// Counts a job whose processes could not be started. The names of errors are the kernel's, and those of
    /// steps the runner's, so they are few.
    fn spawn_failed(&self, failure: &SpawnFailure) {
        let error = failure.errno.as_ref().unwrap_or(&failure.step);
        let label = LabelValue::Name(error.as_str().into());
        self.metrics.counter(table::SPAWN_FAILURES, [label]).inc();
    }

    /// Counts how an attempt ended, with what it used if it ran.
    pub(super) fn on_attempt_ended(
        &self,
        queue: &QueueName,
        job: &JobId,
        outcome: AttemptOutcome,
        usage: Option<Usage>,
    ) {
        let Some(queue) = self.queues.get(queue) else {
            return;
        };
        queue.attempts[outcome as usize].inc();
        let Some(usage) = usage else { return };
        let seconds = |ms: u64| ms as f64 / 1e3;
        queue.cpu_user.inc_by(seconds(usage.cpu_user_ms));
        queue.cpu_system.inc_by(seconds(usage.cpu_system_ms));
        queue.memory.observe(usage.max_rss_bytes as f64);
        match outcome {
            AttemptOutcome::Success => {
                let run = &queue.run_ok;
                run.observe(seconds(usage.wall_ms), job, clock::now());
            }
            AttemptOutcome::Requeued | AttemptOutcome::Lost => {}
            _ => {
                let run = &queue.run_bad;
                run.observe(seconds(usage.wall_ms), job, clock::now());
            }
        }
    }

    /// Counts a job that ended, once its record is stored.
    pub(super) fn on_job_ended(&self, record: &Record) {
        let Some(queue) = self.queues.get(&record.queue) else {
            return;
        };
        let state = record.state();
        if state == State::Succeeded {
            queue.succeeded.inc();
            return;
        }
        let reason = record
            .reason()
            .map_or(NO_REASON, |reason: Reason| reason.as_static());
        let labels = [queue.label.clone(), state.as_static().into(), reason.into()];
        self.metrics.counter(table::JOBS_ENDED, labels).inc();
    }

    /// Counts a delivery that was given up.
    pub(super) fn on_lease_lost(&self) {
        self.leases_lost.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_place() {
        for (place, outcome) in AttemptOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
    }
}
