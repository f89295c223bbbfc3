//! Sends spans to a collector by OTLP over HTTP, on a thread of its own. Spans wait in a bounded queue; those that do not
//! fit, or that the collector does not accept, are counted and lost. A job never waits for its spans.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind as OtelKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::oneshot;

use super::job_span::{JobSpan, SpanKind};
use naq_protocol::TraceContext;

/// Spans that wait for the export.
const SPANS_WAITING_MAX: usize = 2_048;

/// Spans of one request to the collector.
const BATCH_MAX: usize = 512;

/// Longest time for which a span waits for others of its request.
const BATCH_TIME: Duration = Duration::from_secs(1);

/// Longest time for which the end of a worker waits for the export.
const FINISH_MAX: Duration = Duration::from_secs(2);

/// Time between two warnings about a collector that does not accept spans.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Sends a request to the collector, and returns its response. Blocks.
pub(crate) type Post = Box<dyn Fn(Request<Bytes>) -> Result<Response<Bytes>, String> + Send + Sync>;

/// Counts spans that are lost.
pub(crate) type Lost = Arc<dyn Fn(u64) + Send + Sync>;

/// The export of spans. It ends when this is dropped.
pub(crate) struct SpanExport {
    sender: Mutex<Option<SyncSender<JobSpan>>>,
    lost: Lost,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl fmt::Debug for SpanExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanExport")
    }
}

impl SpanExport {
    /// Starts the export to the collector that the variables `OTEL_EXPORTER_OTLP_…` name.
    ///
    /// # Errors
    /// Returns a message, for people, if a variable is invalid or the thread cannot be started.
    pub(crate) fn start(service: &str, post: Post, lost: Lost) -> Result<SpanExport, String> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(post))
            .build()
            .map_err(|error| error.to_string())?;
        // `OTEL_RESOURCE_ATTRIBUTES` overrides the others
        let resource = Resource::builder_empty()
            .with_service_name(service.to_owned())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_detector(Box::new(EnvResourceDetector::new()))
            .build();
        exporter.set_resource(&resource);
        let (sender, spans) = sync_channel(SPANS_WAITING_MAX);
        let (end, ended) = oneshot::channel();
        let counts = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("naq-traces".to_owned())
            .spawn(move || {
                export_all(&spans, &exporter, &counts);
                let _ = end.send(());
            })
            .map_err(|error| error.to_string())?;
        Ok(SpanExport {
            sender: Mutex::new(Some(sender)),
            lost,
            ended: Mutex::new(Some(ended)),
        })
    }

    /// Adds spans to the queue, or counts them as lost.
    pub(super) fn add(&self, spans: Vec<JobSpan>) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        for span in spans {
            let is_added = sender
                .as_ref()
                .is_some_and(|sender| sender.try_send(span).is_ok());
            if !is_added {
                (self.lost)(1);
            }
        }
    }

    /// Exports what is in the queue, but not for long.
    pub(super) async fn finish(&self) {
        let take = |slot: &Mutex<Option<oneshot::Receiver<()>>>| {
            slot.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        drop(
            self.sender
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if let Some(ended) = take(&self.ended) {
            let _ = tokio::time::timeout(FINISH_MAX, ended).await;
        }
    }
}

/// Exports spans until nobody can add any.
fn export_all(spans: &Receiver<JobSpan>, exporter: &SpanExporter, lost: &Lost) {
    // the exporter is asynchronous, but its client blocks
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        return;
    };
    let mut warned_at: Option<Instant> = None;
    while let Ok(first) = spans.recv() {
        let batch = collect(first, spans);
        let count = batch.len() as u64;
        let batch = batch.into_iter().map(span_data).collect();
        let Err(error) = runtime.block_on(exporter.export(batch)) else {
            continue;
        };
        lost(count);
        if warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
            warned_at = Some(Instant::now());
            tracing::warn!(
                spans = count,
                "the collector of traces does not accept spans: {error}"
            );
        }
    }
}

/// The first span, with those that come soon after it.
fn collect(first: JobSpan, spans: &Receiver<JobSpan>) -> Vec<JobSpan> {
    let until = Instant::now() + BATCH_TIME;
    let mut batch = vec![first];
    while batch.len() < BATCH_MAX {
        match spans.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(span) => batch.push(span),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    batch
}

fn span_data(span: JobSpan) -> SpanData {
    let verb = match span.kind {
        SpanKind::Enqueue => "enqueue",
        SpanKind::Wait => "wait",
        SpanKind::Attempt => "run",
    };
    let mut links = SpanLinks::default();
    links.links = span
        .link
        .map(|previous| Link::with_context(span_context(previous)))
        .into_iter()
        .collect();
    let parent = span
        .parent
        .map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id));
    let is_remote = span.kind == SpanKind::Enqueue && span.parent.is_some();
    let status = match (span.is_error, span.reason) {
        (false, _) => Status::Unset,
        (true, reason) => Status::error(reason.unwrap_or("failed")),
    };
    SpanData {
        span_context: span_context(span.context),
        parent_span_id: parent,
        parent_span_is_remote: is_remote,
        span_kind: match span.kind {
            SpanKind::Enqueue => OtelKind::Producer,
            SpanKind::Wait => OtelKind::Internal,
            SpanKind::Attempt => OtelKind::Consumer,
        },
        name: format!("{verb} {}", span.queue).into(),
        start_time: span.start,
        end_time: span.end,
        attributes: attributes(span),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status,
        instrumentation_scope: InstrumentationScope::builder("naq")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn attributes(span: JobSpan) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("messaging.system", "naq"),
        KeyValue::new("messaging.destination.name", span.queue),
        KeyValue::new("naq.job.id", span.job_id),
    ];
    let texts = [
        ("naq.worker.id", span.worker),
        ("naq.schedule.id", span.schedule),
        ("naq.job.state", span.state.map(str::to_owned)),
        ("naq.job.reason", span.reason.map(str::to_owned)),
    ];
    for (name, value) in texts {
        attributes.extend(value.map(|value| KeyValue::new(name, value)));
    }
    let numbers = [
        ("naq.attempt", span.attempt.map(i64::from)),
        ("process.exit.code", span.exit_code.map(i64::from)),
    ];
    for (name, value) in numbers {
        attributes.extend(value.map(|value| KeyValue::new(name, value)));
    }
    attributes
}

fn span_context(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id),
        SpanId::from_bytes(context.span_id),
        match context.is_sampled {
            true => TraceFlags::SAMPLED,
            false => TraceFlags::default(),
        },
        false,
        TraceState::default(),
    )
}

/// The client of the exporter.
struct Client(Post);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // blocks the thread of the export, which does nothing else
        (self.0)(request).map_err(Into::into)
    }
}
