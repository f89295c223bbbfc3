//! Exports the traces of a worker's jobs, if variables of OpenTelemetry name a collector.

#[cfg(feature = "otel")]
use std::sync::Arc;
#[cfg(feature = "otel")]
use std::time::Duration;

use super::exit::Failure;
#[cfg(feature = "otel")]
use super::http_agent::http_agent;
use super::session::Session;
use crate::metrics::{self as table, Metrics};
use crate::traces::Traces;
#[cfg(feature = "otel")]
use crate::traces::{Post, SpanExport};

/// The variables that name a collector, the more specific one first.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// The traces of a worker with these metrics. Nothing is recorded unless a variable names a collector.
///
/// # Errors
/// Returns a [`Failure`] if a variable is invalid.
pub(super) fn start(session: &Session, metrics: &Metrics) -> Result<Traces, Failure> {
    // so that it begins at 0
    let lost = metrics.counter(table::TRACE_SPANS_LOST, []);
    let is_off = |name: &str, off: &str| {
        let value = session.variable(name);
        value.is_some_and(|value| value.eq_ignore_ascii_case(off))
    };
    let named = ENDPOINTS
        .iter()
        .find_map(|name| Some((*name, session.variable(name)?)));
    let Some((variable, endpoint)) = named.filter(|(_, endpoint)| !endpoint.is_empty()) else {
        return Ok(Traces::default());
    };
    if is_off("OTEL_SDK_DISABLED", "true") || is_off("OTEL_TRACES_EXPORTER", "none") {
        return Ok(Traces::default());
    }
    export(session, variable, endpoint, lost)
}

/// Warns, since the user who set the variable expects spans.
#[cfg(not(feature = "otel"))]
fn export(_: &Session, variable: &str, _: &str, _: table::Counter) -> Result<Traces, Failure> {
    tracing::warn!(
        "{variable} is set, but no spans are exported: this naq was built without the feature otel. \
         Build it with `--features otel`, or set OTEL_TRACES_EXPORTER=none"
    );
    Ok(Traces::default())
}

#[cfg(feature = "otel")]
fn export(
    session: &Session,
    _: &str,
    endpoint: &str,
    lost: table::Counter,
) -> Result<Traces, Failure> {
    /// Time limit of a request, unless `OTEL_EXPORTER_OTLP_TIMEOUT` is shorter.
    const REQUEST_MAX: Duration = Duration::from_secs(10);
    /// Maximum part of a response that is read, in bytes.
    const RESPONSE_BYTES_MAX: u64 = 64 << 10;
    let agent = http_agent(endpoint.starts_with("https://"), REQUEST_MAX)?;
    let post: Post = Box::new(move |request| {
        let (parts, body) = request.into_parts();
        let request = ureq::http::Request::from_parts(parts, body.to_vec());
        let response = agent.run(request).map_err(|error| error.to_string())?;
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(RESPONSE_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| error.to_string())?;
        Ok(ureq::http::Response::from_parts(parts, body.into()))
    });
    let service = session.variable("OTEL_SERVICE_NAME");
    let service = service
        .filter(|name| !name.is_empty())
        .unwrap_or("naq-worker");
    let lost = Arc::new(move |spans| {
        lost.inc_by(spans);
    });
    SpanExport::start(service, post, lost)
        .map(Traces::new)
        .map_err(|why| Failure::usage(format!("the export of traces: {why}")))
}
