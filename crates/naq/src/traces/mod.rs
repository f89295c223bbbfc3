//! Traces of jobs for OpenTelemetry: spans for the enqueue, the wait and each attempt.
//!
//! The ids of spans follow from the id of the job and the number of the attempt, so workers agree on them without
//! asking each other: a retry links to the attempt before, whichever worker ran it. Without the feature `otel`, or
//! without a collector, nothing is recorded, and jobs receive the trace context of their producer.

#[cfg(feature = "otel")]
mod exporter;
#[cfg(feature = "otel")]
mod job_span;
#[cfg(feature = "otel")]
mod span_ids;

#[cfg(feature = "otel")]
use std::sync::Arc;

use naq_protocol::Record;

#[cfg(feature = "otel")]
pub(crate) use exporter::{Post, SpanExport};

/// Records the traces of a worker's jobs. Copies record into the same export. The default records nothing.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    #[cfg(feature = "otel")]
    export: Option<Arc<SpanExport>>,
}

#[cfg(feature = "otel")]
impl Traces {
    /// Records spans, and exports them in the background.
    pub(crate) fn new(export: SpanExport) -> Traces {
        Traces {
            export: Some(Arc::new(export)),
        }
    }

    /// The trace context of the current attempt, for the job. `None` if nothing is recorded.
    pub(crate) fn of_attempt(&self, record: &Record) -> Option<String> {
        self.export.as_ref()?;
        Some(span_ids::of_attempt(record).to_string())
    }

    /// Records that an attempt starts: before the first one, the job was enqueued and has waited.
    pub(crate) fn on_started(&self, record: &Record) {
        if let Some(export) = &self.export {
            export.add(job_span::before_attempt(record));
        }
    }

    /// Records an attempt whose outcome is stored.
    pub(crate) fn on_ended(&self, record: &Record) {
        if let Some(export) = &self.export {
            export.add(job_span::of_attempt(record));
        }
    }

    /// Exports what is left, but not for long.
    pub(crate) async fn finish(&self) {
        if let Some(export) = &self.export {
            export.finish().await;
        }
    }
}

#[cfg(not(feature = "otel"))]
impl Traces {
    /// `None`: nothing is recorded.
    pub(crate) fn of_attempt(&self, _record: &Record) -> Option<String> {
        None
    }

    /// Records nothing.
    pub(crate) fn on_started(&self, _record: &Record) {}

    /// Records nothing.
    pub(crate) fn on_ended(&self, _record: &Record) {}

    /// Has nothing to export.
    pub(crate) async fn finish(&self) {}
}
