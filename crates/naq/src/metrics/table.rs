//! The table of all metrics.

/// What a metric counts or shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// A number of events; `rate()` it.
    Counter,
    /// A sum of seconds; `rate()` it.
    SecondsCounter,
    /// A value that rises and falls.
    Gauge,
    /// For each of these bounds, the number of values that are at most as large.
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// The type in the formats of Prometheus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter | MetricKind::SecondsCounter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(_) => "histogram",
        }
    }
}

/// Whose figures these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The process that answers: use `sum()` over all processes.
    Process,
    /// The whole installation, the same from each process: use `max()`.
    Cluster,
}

/// A process that has metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `naq worker`, and the worker of `naq dev`.
    Worker,
    /// `naq scheduler`, and the scheduler of `naq dev`.
    Scheduler,
    /// `naq dashboard`.
    Dashboard,
}

impl Role {
    /// Its name in the label `role`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Scheduler => "scheduler",
            Role::Dashboard => "dashboard",
        }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct MetricInfo {
    /// The name of its time series; those of a histogram add `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// What it counts or shows.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Whose figures these are.
    pub scope: Scope,
    /// The processes that show it.
    pub roles: &'static [Role],
    /// What it means, without a full stop.
    pub help: &'static str,
}

impl MetricInfo {
    /// The name by which it is registered. The library adds `_total` to counters.
    pub(super) fn family(&self) -> &'static str {
        match self.kind {
            MetricKind::Counter | MetricKind::SecondsCounter => {
                self.name.trim_end_matches("_total")
            }
            MetricKind::Gauge | MetricKind::Histogram(_) => self.name,
        }
    }

    /// The help text of a scrape, without the full stop that the library adds.
    pub(super) fn help_text(&self) -> String {
        match self.scope {
            Scope::Process => format!("{} (of this process)", self.help),
            Scope::Cluster => format!("{} (of the cluster)", self.help),
        }
    }

    /// Whether its buckets name a job.
    pub(super) fn has_exemplars(&self) -> bool {
        self.name == JOB_RUN.0.name
    }

    /// Whether its values are read from NATS for each scrape.
    pub(super) fn is_read_per_scrape(&self) -> bool {
        self.scope == Scope::Cluster && self.roles == DASHBOARD
    }
}

const EVERY: &[Role] = &[Role::Worker, Role::Scheduler, Role::Dashboard];
const WORKER: &[Role] = &[Role::Worker];
const SCHEDULER: &[Role] = &[Role::Scheduler];
const DASHBOARD: &[Role] = &[Role::Dashboard];

/// Bounds of waiting times, in seconds.
const WAIT_S: &[f64] = &[
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0,
];

/// Bounds of run times, in seconds.
const RUN_S: &[f64] = &[
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0,
];

/// Bounds of the lateness of ticks, in seconds.
const LATENESS_S: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0];

/// Bounds of the time that an answer takes, in seconds.
const ANSWER_S: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Bounds of the time that NATS takes to answer, in seconds.
const NATS_S: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// Bounds of memory, in bytes: 4 MiB to 16 GiB.
const MEMORY_BYTES: &[f64] = &[
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
];

/// A row of a counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CounterRow(pub(super) &'static MetricInfo);

/// A row of a sum of seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecondsCounterRow(pub(super) &'static MetricInfo);

/// A row of a gauge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GaugeRow(pub(super) &'static MetricInfo);

/// A row of a histogram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistogramRow(pub(super) &'static MetricInfo);

/// A row of a histogram whose buckets name the job that they counted last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExemplarRow(pub(super) &'static MetricInfo);

/// Defines the table. Each row becomes a constant, with which a room requests its handle, and an element of
/// [`ALL`].
macro_rules! table {
    ($($row:ident: $of:ident($kind:expr) $name:literal $labels:tt $scope:ident $roles:ident $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(crate) const $row: $of = $of(&MetricInfo {
                name: $name,
                kind: $kind,
                labels: &$labels,
                scope: Scope::$scope,
                roles: $roles,
                help: $help,
            });
        )*

        /// Every metric, in the order of the page.
        pub(crate) const ALL: &[&MetricInfo] = &[$($row.0),*];
    };
}

table! {
    BUILD_INFO: GaugeRow(MetricKind::Gauge) "naq_build_info" ["version", "role"] Process EVERY
        "Always 1; the labels have the version of naq and the kind of the process";

    QUEUE_JOBS: GaugeRow(MetricKind::Gauge) "naq_queue_jobs" ["queue", "state"] Cluster DASHBOARD
        "Jobs of a queue by state: `queued`, `running` or `delayed` (also those that wait for a retry)";
    QUEUE_OLDEST: GaugeRow(MetricKind::Gauge) "naq_queue_oldest_seconds" ["queue"] Cluster DASHBOARD
        "How long the first job that no worker has received has been queued; 0 without such a job; jobs that require labels do not count";
    QUEUE_SLOTS: GaugeRow(MetricKind::Gauge) "naq_queue_slots" ["queue"] Cluster DASHBOARD
        "Slots of the live workers that serve a queue and are not draining";
    QUEUE_PAUSED: GaugeRow(MetricKind::Gauge) "naq_queue_paused" ["queue"] Cluster DASHBOARD
        "Whether a queue is paused: 1 or 0";
    QUEUE_MAX_RUNNING: GaugeRow(MetricKind::Gauge) "naq_queue_max_running" ["queue"] Cluster DASHBOARD
        "Maximum number of jobs of a queue that run at once; absent without a limit";
    QUEUE_SIZE: GaugeRow(MetricKind::Gauge) "naq_queue_size_bytes" ["queue"] Cluster DASHBOARD
        "Size of the stored messages of a queue";
    BLOCKED: GaugeRow(MetricKind::Gauge) "naq_blocked_jobs" ["why"] Cluster DASHBOARD
        "Jobs that wait for another job (`dependency`), for a slot of their concurrency `key`, or for a worker with the `labels` that they require; the first two are absent without a complete index";
    FAILED_KEPT: GaugeRow(MetricKind::Gauge) "naq_failed_kept_jobs" [] Cluster DASHBOARD
        "Failed and rejected jobs that naq keeps as dead letters";
    STORAGE: GaugeRow(MetricKind::Gauge) "naq_storage_bytes" [] Cluster DASHBOARD
        "Bytes that naq's NATS account stores in JetStream";
    STORAGE_LIMIT: GaugeRow(MetricKind::Gauge) "naq_storage_limit_bytes" [] Cluster DASHBOARD
        "Bytes that naq's NATS account may store in JetStream; absent if the account has no limit";
    SCHEDULE_LAST_SUCCESS: GaugeRow(MetricKind::Gauge) "naq_schedule_last_success_timestamp_seconds" ["schedule"] Cluster DASHBOARD
        "When the last successful job of an active schedule ended; absent until the dashboard has seen one";
    SCHEDULE_PERIOD: GaugeRow(MetricKind::Gauge) "naq_schedule_period_seconds" ["schedule"] Cluster DASHBOARD
        "Longest interval between consecutive ones of the next ticks of an active schedule";
    WORKERS: GaugeRow(MetricKind::Gauge) "naq_workers" ["state"] Cluster DASHBOARD
        "Live workers by state: `idle`, `busy` or `draining`";

    ATTEMPTS_STARTED: CounterRow(MetricKind::Counter) "naq_attempts_started_total" ["queue"] Process WORKER
        "Attempts that were started";
    ATTEMPTS: CounterRow(MetricKind::Counter) "naq_attempts_total" ["queue", "outcome"] Process WORKER
        "Attempts that ended, by outcome: `success`, `retry`, `failed`, `cancelled`, `requeued`, or `lost` if the worker lost the lease";
    JOBS_ENDED: CounterRow(MetricKind::Counter) "naq_jobs_ended_total" ["queue", "state", "reason"] Process WORKER
        "Jobs that ended, by the state and the reason in their records; the reason is `none` if the record has none";
    JOB_WAIT: HistogramRow(MetricKind::Histogram(WAIT_S)) "naq_job_wait_seconds" ["queue"] Process WORKER
        "Time from when a job or its retry was due until a worker claimed it; redeliveries do not count";
    JOB_RUN: ExemplarRow(MetricKind::Histogram(RUN_S)) "naq_job_run_seconds" ["queue", "outcome"] Process WORKER
        "How long an attempt ran: `ok` if it succeeded, else `bad`; requeued attempts do not count";
    JOB_CPU: SecondsCounterRow(MetricKind::SecondsCounter) "naq_job_cpu_seconds_total" ["queue", "mode"] Process WORKER
        "CPU time of jobs, in the modes `user` and `system`";
    JOB_MEMORY: HistogramRow(MetricKind::Histogram(MEMORY_BYTES)) "naq_job_peak_memory_bytes" ["queue"] Process WORKER
        "Largest resident set of a single process of an attempt";
    OUTPUT_BYTES: CounterRow(MetricKind::Counter) "naq_job_output_bytes_total" ["queue", "stream"] Process WORKER
        "Bytes that jobs wrote to `stdout` and `stderr`";
    OUTPUT_TRUNCATED: CounterRow(MetricKind::Counter) "naq_job_output_truncated_total" ["queue", "stream"] Process WORKER
        "Attempts whose output was longer than naq keeps";
    SPAWN_FAILURES: CounterRow(MetricKind::Counter) "naq_spawn_failures_total" ["error"] Process WORKER
        "Attempts whose processes could not be started, by the name of the system's error or by the step that failed";
    JOBS_LEAKED: CounterRow(MetricKind::Counter) "naq_jobs_leaked_total" [] Process WORKER
        "Attempts with processes that outlived the first one, so that naq killed them";
    LEASES_LOST: CounterRow(MetricKind::Counter) "naq_leases_lost_total" [] Process WORKER
        "Deliveries that this worker gave up without an acknowledgement; the server redelivers their messages";
    REDELIVERIES: CounterRow(MetricKind::Counter) "naq_redeliveries_total" [] Process WORKER
        "Redeliveries: deliveries of messages that some worker had received before";
    WRITE_CONFLICTS: CounterRow(MetricKind::Counter) "naq_write_conflicts_total" [] Process WORKER
        "Writes of a claim or an outcome that NATS refused because the record had changed";
    TRACE_SPANS_LOST: CounterRow(MetricKind::Counter) "naq_trace_spans_lost_total" [] Process WORKER
        "Spans that were not exported: too many waited, or the collector did not accept them; always 0 in a program without the feature `otel`";
    WORKER_SLOTS: GaugeRow(MetricKind::Gauge) "naq_worker_slots" [] Process WORKER
        "Maximum number of jobs that the worker runs at once";
    WORKER_SLOTS_BUSY: GaugeRow(MetricKind::Gauge) "naq_worker_slots_busy" [] Process WORKER
        "Slots in use";
    WORKER_DRAINING: GaugeRow(MetricKind::Gauge) "naq_worker_draining" [] Process WORKER
        "Whether the worker takes no more jobs because it is about to exit: 1 or 0";
    SPAWNER_RESTARTS: CounterRow(MetricKind::Counter) "naq_spawner_restarts_total" [] Process WORKER
        "Spawner processes that died and that the worker replaced";

    SCHEDULER_LEADER: GaugeRow(MetricKind::Gauge) "naq_scheduler_leader" [] Process SCHEDULER
        "Whether this scheduler leads: 1 or 0";
    SCHEDULES: GaugeRow(MetricKind::Gauge) "naq_schedules" ["status"] Cluster SCHEDULER
        "Schedules by status; only the leader reports them";
    SCHEDULE_TICKS: CounterRow(MetricKind::Counter) "naq_schedule_ticks_total" ["result"] Process SCHEDULER
        "Ticks that were due: `enqueued`, `skipped` by the overlap policy, `missed` by the misfire policy, or `failed`";
    SCHEDULE_LATENESS: HistogramRow(MetricKind::Histogram(LATENESS_S)) "naq_schedule_lateness_seconds" [] Process SCHEDULER
        "Time from when a tick was due until the server had its job";
    RECONCILES: CounterRow(MetricKind::Counter) "naq_reconciles_total" ["what"] Process SCHEDULER
        "Repairs by the leader after crashes, by kind";
    ENQUEUED: CounterRow(MetricKind::Counter) "naq_enqueued_total" ["queue", "via"] Process EVERY
        "Jobs that this process enqueued: by a schedule (`scheduler`), by a request to the dashboard (`api`), or for a job through the worker's socket (`child`); those of other clients and reruns do not count";

    NATS_UP: GaugeRow(MetricKind::Gauge) "naq_nats_up" [] Process EVERY
        "Whether the connection to NATS is open: 1 or 0";
    NATS_SECONDS: HistogramRow(MetricKind::Histogram(NATS_S)) "naq_nats_request_seconds" ["op"] Process EVERY
        "Time until NATS answers a request: to store a message (`publish`), to `read` one, or to `manage` a stream or a consumer";
    NATS_RECONNECTS: CounterRow(MetricKind::Counter) "naq_nats_reconnects_total" [] Process EVERY
        "Connections to NATS after the first one";

    HTTP_REQUESTS: CounterRow(MetricKind::Counter) "naq_http_requests_total" ["route", "method", "code"] Process DASHBOARD
        "Requests by route template, method and status code; the route `other` stands for paths that do not exist";
    HTTP_SECONDS: HistogramRow(MetricKind::Histogram(ANSWER_S)) "naq_http_request_seconds" ["route", "method"] Process DASHBOARD
        "Time from the headers of a request to the headers of its answer";
    LIVE_CLIENTS: GaugeRow(MetricKind::Gauge) "naq_live_clients" [] Process DASHBOARD
        "Open streams of live updates";
    AUTH_FAILURES: CounterRow(MetricKind::Counter) "naq_auth_failures_total" [] Process DASHBOARD
        "Requests with an unknown token, and failed logins";

    PROCESS_CPU: SecondsCounterRow(MetricKind::SecondsCounter) "process_cpu_seconds_total" [] Process EVERY
        "CPU time of the process in user mode and in the kernel, without its jobs";
    PROCESS_RESIDENT_MEMORY: GaugeRow(MetricKind::Gauge) "process_resident_memory_bytes" [] Process EVERY
        "Resident memory";
    PROCESS_OPEN_FDS: GaugeRow(MetricKind::Gauge) "process_open_fds" [] Process EVERY
        "Open file descriptors";
    PROCESS_MAX_FDS: GaugeRow(MetricKind::Gauge) "process_max_fds" [] Process EVERY
        "Maximum number of open file descriptors";
    PROCESS_START_TIME: GaugeRow(MetricKind::Gauge) "process_start_time_seconds" [] Process EVERY
        "Start time of the process, in seconds since the Unix epoch";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut names = BTreeSet::new();
        for row in ALL {
            let name = row.name;
            assert!(names.insert(name), "{name} appears twice");
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(is_plain), "{name}");
            assert!(
                name.starts_with("naq_") || name.starts_with("process_"),
                "{name}"
            );
            let is_counter = row.kind.name() == "counter";
            assert_eq!(is_counter, name.ends_with("_total"), "{name}");
            assert!(!name.contains("_ms") && !name.contains("milli"), "{name}");
            assert!(
                !row.help.ends_with('.') && !row.help.contains('|'),
                "{name}: {}",
                row.help
            );
            if let MetricKind::Histogram(bounds) = row.kind {
                assert!(bounds.is_sorted_by(|one, next| one < next), "{name}");
                assert!(
                    name.ends_with("_seconds") || name.ends_with("_bytes"),
                    "{name}"
                );
            }
            assert!(row.labels.len() <= 3 && !row.roles.is_empty(), "{name}");
        }
    }

    /// A label with hosts, jobs or commands has too many values: a Prometheus server runs out of memory.
    #[test]
    fn labels_have_few_values_and_identify_no_job() {
        let known = [
            "version", "role", "queue", "schedule", "state", "outcome", "reason", "mode", "stream",
            "error", "status", "result", "what", "via", "op", "why", "route", "method", "code",
        ];
        for row in ALL {
            for label in row.labels {
                assert!(known.contains(label), "{}: {label}", row.name);
            }
        }
    }
}
