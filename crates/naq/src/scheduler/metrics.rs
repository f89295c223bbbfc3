//! Metrics of a scheduler.

use std::sync::Arc;
use std::time::Duration;

use super::reconcile::ReconcileSummary;
use crate::metrics::{self as table, Counter, EnqueuedJobs, Gauge, Histogram, Metrics};
use naq_protocol::{QueueName, ScheduleStatus};

/// The statuses of schedules that are counted.
const STATUSES: [ScheduleStatus; 3] = [
    ScheduleStatus::Active,
    ScheduleStatus::Paused,
    ScheduleStatus::Ended,
];

/// The handles of a scheduler.
pub(super) struct SchedulerMetrics {
    jobs: EnqueuedJobs,
    leader: Gauge,
    /// In the order of [`STATUSES`].
    schedules: [Gauge; 3],
    enqueued: Counter,
    /// Ticks that the overlap policy left out.
    pub(super) skipped: Counter,
    /// Ticks that the misfire policy left out.
    pub(super) missed: Counter,
    /// Ticks that could not be enqueued in time.
    pub(super) failed: Counter,
    lateness: Histogram,
}

impl SchedulerMetrics {
    pub(super) fn new(metrics: &Arc<Metrics>) -> SchedulerMetrics {
        let ticks = |result: &'static str| metrics.counter(table::SCHEDULE_TICKS, [result.into()]);
        // so that each counter begins at 0
        ReconcileSummary::default().count_into(metrics);
        SchedulerMetrics {
            jobs: EnqueuedJobs::new(metrics, "scheduler"),
            leader: metrics.gauge(table::SCHEDULER_LEADER, []),
            schedules: STATUSES
                .map(|status| metrics.gauge(table::SCHEDULES, [status.as_static().into()])),
            enqueued: ticks("enqueued"),
            skipped: ticks("skipped"),
            missed: ticks("missed"),
            failed: ticks("failed"),
            lateness: metrics.histogram(table::SCHEDULE_LATENESS, []),
        }
    }

    /// Sets whether this scheduler leads. A scheduler that does not lead reports no schedules.
    pub(super) fn set_leading(&self, leads: bool) {
        self.leader.set(f64::from(u8::from(leads)));
        if !leads {
            for gauge in &self.schedules {
                gauge.set(0.0);
            }
        }
    }

    /// Sets the numbers of schedules by status.
    pub(super) fn set_schedules(&self, statuses: impl Iterator<Item = ScheduleStatus>) {
        let mut counts = [0_u32; 3];
        for status in statuses {
            if let Some(at) = STATUSES.iter().position(|known| *known == status) {
                counts[at] += 1;
            }
        }
        for (gauge, count) in self.schedules.iter().zip(counts) {
            gauge.set(f64::from(count));
        }
    }

    /// Counts a tick whose job the server has just stored.
    pub(super) fn on_enqueued(&self, queue: &QueueName, late: Duration) {
        self.enqueued.inc();
        self.lateness.observe(late.as_secs_f64());
        self.jobs.add(queue, 1);
    }
}

impl ReconcileSummary {
    /// Adds these counts to the metrics.
    pub(super) fn count_into(&self, metrics: &Metrics) {
        for (what, count) in [
            ("released", self.released),
            ("keys_removed", self.keys_removed),
            ("republished", self.republished),
            ("failed", self.failed),
            ("messages_removed", self.messages_removed),
            ("consumers_recreated", self.consumers_recreated as u64),
        ] {
            metrics
                .counter(table::RECONCILES, [what.into()])
                .inc_by(count);
        }
    }
}
