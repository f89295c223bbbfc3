//! Handles through which rooms change their metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter as PlainCounter;
use prometheus_client::metrics::gauge::Gauge as PlainGauge;

/// A number of events.
pub(crate) type Counter = PlainCounter<u64, AtomicU64>;

/// A sum of seconds.
pub(crate) type SecondsCounter = PlainCounter<f64, AtomicU64>;

/// A value that rises and falls.
pub(crate) type Gauge = PlainGauge<f64, AtomicU64>;

/// A histogram: for each bound, the number of values up to it.
pub(crate) use prometheus_client::metrics::histogram::Histogram;
