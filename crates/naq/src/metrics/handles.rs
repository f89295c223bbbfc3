//! Handles through which rooms change their metrics.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter as PlainCounter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::gauge::Gauge as PlainGauge;

use naq_protocol::{JobId, Timestamp};

/// A number of events.
pub(crate) type Counter = PlainCounter<u64, AtomicU64>;

/// A sum of seconds.
pub(crate) type SecondsCounter = PlainCounter<f64, AtomicU64>;

/// A value that rises and falls.
pub(crate) type Gauge = PlainGauge<f64, AtomicU64>;

/// A histogram: for each bound, the number of values up to it.
pub(crate) use prometheus_client::metrics::histogram::Histogram;

/// Names the job of an exemplar. OpenMetrics permits 128 characters, and an id has at most 64.
#[derive(Clone, Debug)]
pub(super) struct ExemplarJob(String);

impl EncodeLabelSet for ExemplarJob {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), std::fmt::Error> {
        ("job_id", self.0.as_str()).encode(encoder.encode_label())
    }
}

/// A histogram whose buckets name the job that they counted last, as exemplars. The plain one is for clients that must
/// not see ids.
#[derive(Clone, Debug)]
pub(crate) struct JobHistogram {
    pub(super) plain: Histogram,
    pub(super) named: HistogramWithExemplars<ExemplarJob>,
}

impl JobHistogram {
    /// Counts a value of a job.
    pub(crate) fn observe(&self, value: f64, job: &JobId, now: Timestamp) {
        let exemplar = ExemplarJob(job.as_str().to_owned());
        let ms = u64::try_from(now.unix_ms()).unwrap_or_default();
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        self.plain.observe(value);
        self.named.observe(value, Some(exemplar), Some(at));
    }
}
