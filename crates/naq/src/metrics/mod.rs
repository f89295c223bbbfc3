//! What monitors read: counters, gauges and histograms, in the formats of Prometheus and OpenMetrics.
//!
//! `table` has every metric. What is registered, and docs/metrics.md, are made of it. A room gets handles of
//! its metrics at its start, and changes them by atomic operations. Nothing here names a job, a command, an
//! argument or a host: the only values of labels that users choose are names of queues and schedules, of which
//! at most 500 are shown.

mod handles;
mod labels;
mod listener;
mod page;
mod process;
mod registry;
mod table;

pub(crate) use handles::{Counter, Gauge, Histogram, SecondsCounter};
pub(crate) use labels::{LABEL_VALUES_MAX, LabelValue, LabelValues, OTHER};
pub use listener::{MetricsListener, MetricsToken};
pub use page::{metric_names, metrics_markdown};
pub use registry::Metrics;
pub(crate) use registry::{ConnectionMetrics, Format};
pub(crate) use table::*;
pub use table::{MetricInfo, MetricKind, Role, Scope};
