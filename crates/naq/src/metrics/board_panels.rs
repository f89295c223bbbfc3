//! The panels of the dashboards for Grafana: which metric is shown where, and how.

use super::table::{self, MetricInfo};

/// A dashboard for Grafana.
pub struct Board {
    /// Its id, which is also the name of its file in `docs/grafana`, without the extension.
    pub uid: &'static str,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    pub(super) rows: &'static [(&'static str, &'static [Panel])],
    /// Whether it is about one queue at a time.
    pub(super) is_of_queue: bool,
}

impl Board {
    pub(super) fn panels(&self) -> impl Iterator<Item = &'static Panel> {
        self.rows.iter().flat_map(|(_, panels)| panels.iter())
    }
}

/// Every dashboard for Grafana.
pub const BOARDS: &[Board] = &[
    Board {
        uid: "naq-overview",
        title: "naq",
        description: "Queues, jobs, workers and schedules of naq",
        rows: OVERVIEW,
        is_of_queue: false,
    },
    Board {
        uid: QUEUE_BOARD,
        title: "naq: a queue",
        description: "The jobs of one queue of naq",
        rows: QUEUE,
        is_of_queue: true,
    },
];

/// The id of the dashboard of one queue, to which panels with queues lead.
pub(super) const QUEUE_BOARD: &str = "naq-queue";

/// Columns of Grafana's grid.
pub(super) const COLUMNS: u32 = 24;

/// Metrics without a panel: they are labels of others, or limits that a panel of their own would not explain.
#[cfg(test)]
const WITHOUT_PANEL: &[&str] = &[
    "naq_build_info",
    "naq_schedule_period_seconds",
    "process_max_fds",
    "process_start_time_seconds",
];

/// How a panel shows its metrics.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// One number, in the colour of the state if it is not the expected one.
    Number,
    /// Lines over time.
    Lines,
    /// Stacked areas over time.
    Areas,
    /// The distribution of a histogram over time.
    Heatmap,
}

impl View {
    pub(super) fn name(self) -> &'static str {
        match self {
            View::Number => "stat",
            View::Lines | View::Areas => "timeseries",
            View::Heatmap => "heatmap",
        }
    }
}

pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) view: View,
    /// Columns of the grid.
    pub(super) width: u32,
    pub(super) metrics: &'static [&'static MetricInfo],
    /// The labels by which it splits. Others are summed up.
    pub(super) by: &'static [&'static str],
}

pub(super) const fn panel(
    title: &'static str,
    view: View,
    width: u32,
    metrics: &'static [&'static MetricInfo],
    by: &'static [&'static str],
) -> Panel {
    Panel {
        title,
        view,
        width,
        metrics,
        by,
    }
}

/// The panels of the overview in their rows.
const OVERVIEW: &[(&str, &[Panel])] = &[
    (
        "Now",
        &[
            panel("Jobs", View::Number, 6, &[table::QUEUE_JOBS.0], &["state"]),
            panel("Workers", View::Number, 6, &[table::WORKERS.0], &["state"]),
            panel(
                "Oldest queued job",
                View::Number,
                4,
                &[table::QUEUE_OLDEST.0],
                &[],
            ),
            panel(
                "Dead letters",
                View::Number,
                4,
                &[table::FAILED_KEPT.0],
                &[],
            ),
            panel(
                "Leading schedulers",
                View::Number,
                4,
                &[table::SCHEDULER_LEADER.0],
                &[],
            ),
        ],
    ),
    (
        "Queues",
        &[
            panel(
                "Jobs by queue",
                View::Areas,
                12,
                &[table::QUEUE_JOBS.0],
                &["queue", "state"],
            ),
            panel(
                "Age of the oldest queued job",
                View::Lines,
                12,
                &[table::QUEUE_OLDEST.0],
                &["queue"],
            ),
            panel(
                "Blocked jobs",
                View::Lines,
                6,
                &[table::BLOCKED.0],
                &["why"],
            ),
            panel(
                "Slots, and limit of running jobs",
                View::Lines,
                6,
                &[table::QUEUE_SLOTS.0, table::QUEUE_MAX_RUNNING.0],
                &["queue"],
            ),
            panel(
                "Paused",
                View::Lines,
                6,
                &[table::QUEUE_PAUSED.0],
                &["queue"],
            ),
            panel(
                "Stored messages",
                View::Lines,
                6,
                &[table::QUEUE_SIZE.0],
                &["queue"],
            ),
        ],
    ),
    (
        "Waiting and running",
        &[
            panel(
                "Wait until claimed",
                View::Heatmap,
                12,
                &[table::JOB_WAIT.0],
                &[],
            ),
            panel("Run time", View::Heatmap, 12, &[table::JOB_RUN.0], &[]),
            panel(
                "Attempts started",
                View::Areas,
                12,
                &[table::ATTEMPTS_STARTED.0],
                &["queue"],
            ),
            panel(
                "Attempts by outcome",
                View::Areas,
                12,
                &[table::ATTEMPTS.0],
                &["outcome"],
            ),
        ],
    ),
    (
        "Failures",
        &[
            panel(
                "Ended jobs by state and reason",
                View::Areas,
                12,
                &[table::JOBS_ENDED.0],
                &["state", "reason"],
            ),
            panel(
                "Processes that could not be started",
                View::Lines,
                12,
                &[table::SPAWN_FAILURES.0],
                &["error"],
            ),
            panel(
                "Lost leases, redeliveries, write conflicts",
                View::Lines,
                12,
                &[
                    table::LEASES_LOST.0,
                    table::REDELIVERIES.0,
                    table::WRITE_CONFLICTS.0,
                ],
                &[],
            ),
            panel(
                "Leaked processes, spawner restarts",
                View::Lines,
                12,
                &[table::JOBS_LEAKED.0, table::SPAWNER_RESTARTS.0],
                &[],
            ),
        ],
    ),
    (
        "Resources of jobs",
        &[
            panel(
                "CPU in use by jobs",
                View::Areas,
                12,
                &[table::JOB_CPU.0],
                &["queue", "mode"],
            ),
            panel(
                "Peak memory of attempts",
                View::Heatmap,
                12,
                &[table::JOB_MEMORY.0],
                &[],
            ),
            panel(
                "Output",
                View::Lines,
                12,
                &[table::OUTPUT_BYTES.0],
                &["queue", "stream"],
            ),
            panel(
                "Truncated output",
                View::Lines,
                12,
                &[table::OUTPUT_TRUNCATED.0],
                &["queue", "stream"],
            ),
        ],
    ),
    (
        "Workers",
        &[
            panel(
                "Slots, and slots in use",
                View::Lines,
                12,
                &[table::WORKER_SLOTS.0, table::WORKER_SLOTS_BUSY.0],
                &[],
            ),
            panel(
                "Draining workers",
                View::Lines,
                6,
                &[table::WORKER_DRAINING.0],
                &[],
            ),
            panel(
                "Lost spans of traces",
                View::Lines,
                6,
                &[table::TRACE_SPANS_LOST.0],
                &[],
            ),
        ],
    ),
    (
        "Schedules",
        &[
            panel(
                "Since the last success",
                View::Lines,
                12,
                &[table::SCHEDULE_LAST_SUCCESS.0],
                &["schedule"],
            ),
            panel(
                "Lateness of ticks",
                View::Heatmap,
                12,
                &[table::SCHEDULE_LATENESS.0],
                &[],
            ),
            panel(
                "Ticks by result",
                View::Areas,
                6,
                &[table::SCHEDULE_TICKS.0],
                &["result"],
            ),
            panel(
                "Jobs enqueued",
                View::Lines,
                6,
                &[table::ENQUEUED.0],
                &["queue", "via"],
            ),
            panel(
                "Schedules",
                View::Lines,
                6,
                &[table::SCHEDULES.0],
                &["status"],
            ),
            panel(
                "Repairs after crashes",
                View::Lines,
                6,
                &[table::RECONCILES.0],
                &["what"],
            ),
        ],
    ),
    (
        "NATS and naq",
        &[
            panel(
                "Connected to NATS",
                View::Lines,
                8,
                &[table::NATS_UP.0, table::NATS_RECONNECTS.0],
                &[],
            ),
            panel(
                "Answers of NATS",
                View::Heatmap,
                8,
                &[table::NATS_SECONDS.0],
                &[],
            ),
            panel(
                "Storage, and its limit",
                View::Lines,
                8,
                &[table::STORAGE.0, table::STORAGE_LIMIT.0],
                &[],
            ),
            panel(
                "CPU in use by naq",
                View::Lines,
                8,
                &[table::PROCESS_CPU.0],
                &[],
            ),
            panel(
                "Memory of naq",
                View::Lines,
                8,
                &[table::PROCESS_RESIDENT_MEMORY.0],
                &[],
            ),
            panel(
                "Open files of naq",
                View::Lines,
                8,
                &[table::PROCESS_OPEN_FDS.0],
                &[],
            ),
            panel(
                "Live clients of the dashboard",
                View::Lines,
                8,
                &[table::LIVE_CLIENTS.0],
                &[],
            ),
            panel(
                "HTTP requests",
                View::Areas,
                8,
                &[table::HTTP_REQUESTS.0],
                &["code"],
            ),
            panel(
                "HTTP answers",
                View::Heatmap,
                8,
                &[table::HTTP_SECONDS.0],
                &[],
            ),
            panel(
                "Failed logins",
                View::Lines,
                8,
                &[table::AUTH_FAILURES.0],
                &[],
            ),
        ],
    ),
];

/// The panels of the dashboard of one queue in their rows.
const QUEUE: &[(&str, &[Panel])] = &[
    (
        "Now",
        &[
            panel("Jobs", View::Number, 8, &[table::QUEUE_JOBS.0], &["state"]),
            panel(
                "Oldest queued job",
                View::Number,
                4,
                &[table::QUEUE_OLDEST.0],
                &[],
            ),
            panel("Slots", View::Number, 4, &[table::QUEUE_SLOTS.0], &[]),
            panel(
                "Limit of running jobs",
                View::Number,
                4,
                &[table::QUEUE_MAX_RUNNING.0],
                &[],
            ),
            panel("Paused", View::Number, 4, &[table::QUEUE_PAUSED.0], &[]),
        ],
    ),
    (
        "Jobs",
        &[
            panel(
                "Jobs by state",
                View::Areas,
                12,
                &[table::QUEUE_JOBS.0],
                &["state"],
            ),
            panel(
                "Age of the oldest queued job",
                View::Lines,
                12,
                &[table::QUEUE_OLDEST.0],
                &[],
            ),
            panel(
                "Jobs enqueued",
                View::Areas,
                8,
                &[table::ENQUEUED.0],
                &["via"],
            ),
            panel(
                "Attempts started",
                View::Lines,
                8,
                &[table::ATTEMPTS_STARTED.0],
                &[],
            ),
            panel(
                "Stored messages",
                View::Lines,
                8,
                &[table::QUEUE_SIZE.0],
                &[],
            ),
        ],
    ),
    (
        "Waiting and running",
        &[
            panel(
                "Wait until claimed",
                View::Heatmap,
                12,
                &[table::JOB_WAIT.0],
                &[],
            ),
            panel("Run time", View::Heatmap, 12, &[table::JOB_RUN.0], &[]),
        ],
    ),
    (
        "Failures",
        &[
            panel(
                "Attempts by outcome",
                View::Areas,
                12,
                &[table::ATTEMPTS.0],
                &["outcome"],
            ),
            panel(
                "Ended jobs by state and reason",
                View::Areas,
                12,
                &[table::JOBS_ENDED.0],
                &["state", "reason"],
            ),
        ],
    ),
    (
        "Resources",
        &[
            panel("CPU in use", View::Areas, 6, &[table::JOB_CPU.0], &["mode"]),
            panel(
                "Peak memory of attempts",
                View::Heatmap,
                6,
                &[table::JOB_MEMORY.0],
                &[],
            ),
            panel(
                "Output",
                View::Lines,
                6,
                &[table::OUTPUT_BYTES.0],
                &["stream"],
            ),
            panel(
                "Truncated output",
                View::Lines,
                6,
                &[table::OUTPUT_TRUNCATED.0],
                &["stream"],
            ),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::super::table::MetricKind;
    use super::*;

    #[test]
    fn each_metric_has_a_panel_or_a_reason_for_none() {
        let panels = BOARDS.iter().flat_map(Board::panels);
        let shown: Vec<&str> = panels
            .flat_map(|panel| panel.metrics.iter().map(|metric| metric.name))
            .collect();
        for metric in table::ALL {
            let is_left_out = WITHOUT_PANEL.contains(&metric.name);
            assert_ne!(shown.contains(&metric.name), is_left_out, "{}", metric.name);
        }
    }

    #[test]
    fn panels_split_by_labels_of_their_metrics_and_fit_the_grid() {
        for panel in BOARDS.iter().flat_map(Board::panels) {
            assert!(panel.width <= COLUMNS, "{}", panel.title);
            for label in panel.by {
                let has = |metric: &&MetricInfo| metric.labels.contains(label);
                assert!(panel.metrics.iter().any(has), "{}: {label}", panel.title);
            }
            let is_histogram =
                |metric: &&MetricInfo| matches!(metric.kind, MetricKind::Histogram(_));
            assert_eq!(
                panel.view == View::Heatmap,
                panel.metrics.iter().any(is_histogram),
                "{}",
                panel.title
            );
        }
    }

    #[test]
    fn the_dashboard_of_a_queue_shows_only_metrics_of_queues() {
        for board in BOARDS.iter().filter(|board| board.is_of_queue) {
            for panel in board.panels() {
                let has_queue = |metric: &&MetricInfo| metric.labels.contains(&"queue");
                assert!(panel.metrics.iter().all(has_queue), "{}", panel.title);
                assert!(!panel.by.contains(&"queue"), "{}", panel.title);
            }
        }
    }
}
