//! Metrics: counters, gauges and histograms, in the formats of Prometheus and OpenMetrics.
//!
//! `table` lists every metric. The registry, docs/metrics.md and, with `board_panels`, the dashboards for Grafana are
//! generated from it. A room gets handles of
//! its metrics at its start, and changes them by atomic operations. No label names a job, a command, an
//! argument or a host: users choose only the label values that name queues and schedules, of which at most
//! 500 are reported.

mod board;
mod board_panels;
mod enqueued;
mod handles;
mod labels;
mod listener;
mod page;
mod process;
mod registry;
mod table;

pub use board::{grafana_board, grafana_expressions};
pub use board_panels::{BOARDS, Board};
pub(crate) use enqueued::EnqueuedJobs;
pub(crate) use handles::{Counter, Gauge, Histogram, JobHistogram, SecondsCounter};
pub(crate) use labels::{LABEL_VALUES_MAX, LabelValue, LabelValues, OTHER};
pub use listener::{MetricsListener, MetricsToken};
pub use page::{metric_names, metrics_markdown};
pub(crate) use process::resident_kib;
pub use registry::Metrics;
pub(crate) use registry::{ConnectionMetrics, Format};
pub(crate) use table::*;
pub use table::{MetricInfo, MetricKind, Role, Scope};
