//! The metrics of one process: created from the table, changed through handles, encoded for a scrape.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::registry::Registry;

use super::handles::{Counter, ExemplarJob, Gauge, Histogram, JobHistogram, SecondsCounter};
use super::labels::{LabelValue, Labels};
use super::process::{self, ProcessFigures};
use super::table::{self, MetricInfo, MetricKind, Role};
use naq_client::{Client, ConnectionState, RequestKind};

/// Creates histograms with the bounds of a row.
#[derive(Clone)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

impl MetricConstructor<HistogramWithExemplars<ExemplarJob>> for Bounds {
    fn new_metric(&self) -> HistogramWithExemplars<ExemplarJob> {
        HistogramWithExemplars::new(self.0.iter().copied())
    }
}

/// The time series of a row.
enum Series {
    Counter(Family<Labels, Counter>),
    Seconds(Family<Labels, SecondsCounter>),
    Gauge(Family<Labels, Gauge>),
    Histogram(Family<Labels, Histogram, Bounds>),
    /// The same without and with exemplars.
    Exemplars(
        Family<Labels, Histogram, Bounds>,
        Family<Labels, HistogramWithExemplars<ExemplarJob>, Bounds>,
    ),
}

/// Sets values that are read for each scrape.
type ScrapeHook = Box<dyn Fn() + Send>;

/// A format of the answer to a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The text format of Prometheus.
    Text,
    /// OpenMetrics.
    OpenMetrics,
    /// OpenMetrics with exemplars, which are ids of jobs.
    Exemplars,
}

impl Format {
    /// The format that a request accepts, by its header `Accept`.
    pub(crate) fn accepted(accept: Option<&str>) -> Format {
        match accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            true => Format::OpenMetrics,
            false => Format::Text,
        }
    }

    /// The value of the header `Content-Type`.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics | Format::Exemplars => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8"
            }
        }
    }

    /// The same with exemplars, where the format has them.
    pub(crate) fn with_exemplars(self) -> Format {
        match self {
            Format::Text => Format::Text,
            Format::OpenMetrics | Format::Exemplars => Format::Exemplars,
        }
    }
}

/// The handles of what is known of the connection to NATS.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionMetrics {
    up: Gauge,
    reconnects: Counter,
}

impl ConnectionMetrics {
    /// Shows the state of the connection.
    pub(crate) fn set(&self, state: &ConnectionState) {
        self.up.set(f64::from(u8::from(state.connected)));
        let reconnects = state.connections.saturating_sub(1);
        self.reconnects
            .inc_by(reconnects.saturating_sub(self.reconnects.get()));
    }
}

/// The metrics of one process, or those of the cluster that one scrape has read.
pub struct Metrics {
    registry: Registry,
    /// The histograms that have exemplars, without them.
    plain: Registry,
    /// The same with them.
    named: Registry,
    series: Vec<(&'static str, Series)>,
    hooks: Mutex<Vec<ScrapeHook>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metrics({} of {})", self.series.len(), table::ALL.len())
    }
}

impl Metrics {
    /// The metrics of a process with these roles.
    #[must_use]
    pub fn new(roles: &'static [Role]) -> Metrics {
        let has_role = |row: &MetricInfo| row.roles.iter().any(|role| roles.contains(role));
        let metrics = Metrics::of(|row| !row.is_read_per_scrape() && has_role(row));
        for role in roles {
            let version = LabelValue::Word(env!("CARGO_PKG_VERSION"));
            metrics
                .gauge(table::BUILD_INFO, [version, role.name().into()])
                .set(1.0);
        }
        let process = ProcessFigures {
            cpu: metrics.seconds(table::PROCESS_CPU, []),
            resident: metrics.gauge(table::PROCESS_RESIDENT_MEMORY, []),
            open_fds: metrics.gauge(table::PROCESS_OPEN_FDS, []),
            max_fds: metrics.gauge(table::PROCESS_MAX_FDS, []),
        };
        let started_at = metrics.gauge(table::PROCESS_START_TIME, []);
        started_at.set(process::unix_seconds());
        metrics.before_scrape(move || process.read());
        metrics
    }

    /// The metrics that each scrape reads from NATS. They start without values, so that a queue that no
    /// longer exists has none.
    pub(crate) fn of_one_scrape() -> Metrics {
        Metrics::of(MetricInfo::is_read_per_scrape)
    }

    fn of(is_wanted: impl Fn(&MetricInfo) -> bool) -> Metrics {
        let mut registry = Registry::default();
        let (mut plain, mut named) = (Registry::default(), Registry::default());
        let mut series = Vec::new();
        for row in table::ALL.iter().copied().filter(|row| is_wanted(row)) {
            let (name, help) = (row.family(), row.help_text());
            let made = match row.kind {
                MetricKind::Counter => {
                    let family = Family::default();
                    registry.register(name, help, family.clone());
                    Series::Counter(family)
                }
                MetricKind::SecondsCounter => {
                    let family = Family::default();
                    registry.register(name, help, family.clone());
                    Series::Seconds(family)
                }
                MetricKind::Gauge => {
                    let family = Family::default();
                    registry.register(name, help, family.clone());
                    Series::Gauge(family)
                }
                MetricKind::Histogram(bounds) if row.has_exemplars() => {
                    let without = Family::new_with_constructor(Bounds(bounds));
                    let with = Family::new_with_constructor(Bounds(bounds));
                    plain.register(name, help.clone(), without.clone());
                    named.register(name, help, with.clone());
                    Series::Exemplars(without, with)
                }
                MetricKind::Histogram(bounds) => {
                    let family = Family::new_with_constructor(Bounds(bounds));
                    registry.register(name, help, family.clone());
                    Series::Histogram(family)
                }
            };
            series.push((row.name, made));
        }
        Metrics {
            registry,
            plain,
            named,
            series,
            hooks: Mutex::default(),
        }
    }

    fn series(&self, row: &MetricInfo) -> Option<&Series> {
        let found = self.series.iter().find(|(name, _)| *name == row.name);
        found.map(|(_, series)| series)
    }

    /// The handle of a counter. If this process does not have the row, nothing reports its value.
    pub(crate) fn counter<const N: usize>(
        &self,
        row: table::CounterRow,
        labels: [LabelValue; N],
    ) -> Counter {
        match self.series(row.0) {
            Some(Series::Counter(family)) => {
                family.get_or_create_owned(&Labels::new(row.0.labels, labels))
            }
            _ => Counter::default(),
        }
    }

    /// The handle of a sum of seconds.
    pub(crate) fn seconds<const N: usize>(
        &self,
        row: table::SecondsCounterRow,
        labels: [LabelValue; N],
    ) -> SecondsCounter {
        match self.series(row.0) {
            Some(Series::Seconds(family)) => {
                family.get_or_create_owned(&Labels::new(row.0.labels, labels))
            }
            _ => SecondsCounter::default(),
        }
    }

    /// The handle of a gauge.
    pub(crate) fn gauge<const N: usize>(
        &self,
        row: table::GaugeRow,
        labels: [LabelValue; N],
    ) -> Gauge {
        match self.series(row.0) {
            Some(Series::Gauge(family)) => {
                family.get_or_create_owned(&Labels::new(row.0.labels, labels))
            }
            _ => Gauge::default(),
        }
    }

    /// The handle of a histogram.
    pub(crate) fn histogram<const N: usize>(
        &self,
        row: table::HistogramRow,
        labels: [LabelValue; N],
    ) -> Histogram {
        match self.series(row.0) {
            Some(Series::Histogram(family)) => {
                family.get_or_create_owned(&Labels::new(row.0.labels, labels))
            }
            _ => Bounds(&[]).new_metric(),
        }
    }

    /// The handle of a histogram with exemplars.
    pub(crate) fn job_histogram<const N: usize>(
        &self,
        row: table::ExemplarRow,
        labels: [LabelValue; N],
    ) -> JobHistogram {
        match self.series(row.0) {
            Some(Series::Exemplars(plain, named)) => {
                let labels = Labels::new(row.0.labels, labels);
                JobHistogram {
                    plain: plain.get_or_create_owned(&labels),
                    named: named.get_or_create_owned(&labels),
                }
            }
            _ => JobHistogram {
                plain: Bounds(&[]).new_metric(),
                named: Bounds(&[]).new_metric(),
            },
        }
    }

    /// The handles of what is known of the connection to NATS.
    pub(crate) fn connection(&self) -> ConnectionMetrics {
        ConnectionMetrics {
            up: self.gauge(table::NATS_UP, []),
            reconnects: self.counter(table::NATS_RECONNECTS, []),
        }
    }

    /// Counts how long NATS takes to answer the requests of a client, from now on.
    pub(crate) fn observe_requests(&self, client: &Client) {
        let histograms =
            RequestKind::ALL.map(|kind| self.histogram(table::NATS_SECONDS, [kind.name().into()]));
        client.observe_requests(Arc::new(move |kind, took| {
            if let Some(histogram) = histograms.get(kind as usize) {
                histogram.observe(took.as_secs_f64());
            }
        }));
    }

    /// Calls `hook` before each scrape, to set what is read only then.
    pub(crate) fn before_scrape(&self, hook: impl Fn() + Send + 'static) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.push(Box::new(hook));
    }

    /// The answer to a scrape, written on a thread of its own: with 500 queues it takes a while, in which a
    /// worker has jobs to end. `other` are further metrics, of other rows.
    pub(crate) async fn scrape(
        self: Arc<Self>,
        other: Option<Arc<Metrics>>,
        format: Format,
    ) -> String {
        let writing = tokio::task::spawn_blocking(move || {
            let others: Vec<&Metrics> = other.iter().map(Arc::as_ref).collect();
            self.encode(&others, format)
        });
        // it fails only while the process ends
        writing.await.unwrap_or_default()
    }

    /// The answer to a scrape. `others` are further metrics, of other rows.
    pub(crate) fn encode(&self, others: &[&Metrics], format: Format) -> String {
        for hook in self
            .hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            hook();
        }
        let mut answer = String::new();
        let mut encoded = Ok(());
        for metrics in [&[self], others].concat() {
            let of_jobs = match format {
                Format::Exemplars => &metrics.named,
                Format::Text | Format::OpenMetrics => &metrics.plain,
            };
            for registry in [&metrics.registry, of_jobs] {
                encoded = encoded.and_then(|()| match format {
                    Format::Text => prometheus_text::encode(&mut answer, registry),
                    Format::OpenMetrics | Format::Exemplars => {
                        text::encode_registry(&mut answer, registry)
                    }
                });
            }
        }
        if format != Format::Text {
            encoded = encoded.and_then(|()| text::encode_eof(&mut answer));
        }
        // writing into a string cannot fail
        debug_assert!(encoded.is_ok());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{ATTEMPTS, JOB_RUN, JOB_WAIT, QUEUE_PAUSED};
    use super::*;
    use naq_protocol::{JobId, Timestamp};

    #[test]
    fn a_scrape_shows_what_was_counted() {
        let metrics = Metrics::new(&[Role::Worker]);
        let queue = LabelValue::Name("mail".into());
        metrics
            .counter(ATTEMPTS, [queue.clone(), "retry".into()])
            .inc_by(3);
        metrics.histogram(JOB_WAIT, [queue]).observe(0.2);
        let text = metrics.encode(&[], Format::OpenMetrics);
        for line in [
            "# TYPE naq_attempts counter",
            "naq_attempts_total{queue=\"mail\",outcome=\"retry\"} 3",
            "naq_job_wait_seconds_bucket{le=\"0.1\",queue=\"mail\"} 0",
            "naq_job_wait_seconds_bucket{le=\"0.5\",queue=\"mail\"} 1",
            "naq_job_wait_seconds_count{queue=\"mail\"} 1",
            concat!(
                "naq_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\",role=\"worker\"} 1.0"
            ),
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no `{line}` in {text}"
            );
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(!text.contains("naq_schedule"), "{text}");
        let plain = metrics.encode(&[], Format::Text);
        assert!(
            plain.contains("# TYPE naq_attempts_total counter\n"),
            "{plain}"
        );
        assert!(!plain.contains("# EOF"), "{plain}");
    }

    #[test]
    fn buckets_name_a_job_only_for_those_who_may_see_ids() {
        let metrics = Metrics::new(&[Role::Worker]);
        let run = metrics.job_histogram(JOB_RUN, ["mail".into(), "ok".into()]);
        let at = Timestamp::from_unix_ms(1_500).unwrap();
        run.observe(0.2, &JobId::new("backup-1").unwrap(), at);
        run.observe(2.0, &JobId::new("x".repeat(64)).unwrap(), at);
        let named = metrics.encode(&[], Format::OpenMetrics.with_exemplars());
        let line = concat!(
            "naq_job_run_seconds_bucket{le=\"0.5\",queue=\"mail\",outcome=\"ok\"} 1",
            " # {job_id=\"backup-1\"} 0.2 1.5"
        );
        assert!(
            named.lines().any(|found| found == line),
            "no `{line}` in {named}"
        );
        assert_eq!(Format::Text.with_exemplars(), Format::Text);
        for format in [Format::Text, Format::OpenMetrics] {
            let plain = metrics.encode(&[], format);
            assert!(!plain.contains("job_id"), "{plain}");
            let count = "naq_job_run_seconds_count{queue=\"mail\",outcome=\"ok\"} 2";
            assert!(plain.lines().any(|found| found == count), "{plain}");
        }
    }

    #[test]
    fn a_row_that_a_process_does_not_have_is_not_shown() {
        let metrics = Metrics::new(&[Role::Worker]);
        let queue = LabelValue::Name("mail".into());
        metrics.gauge(QUEUE_PAUSED, [queue.clone()]).set(1.0);
        assert!(
            !metrics
                .encode(&[], Format::Text)
                .contains("naq_queue_paused")
        );
        let cluster = Metrics::of_one_scrape();
        cluster.gauge(QUEUE_PAUSED, [queue]).set(1.0);
        let both = metrics.encode(&[&cluster], Format::OpenMetrics);
        assert!(
            both.contains("naq_queue_paused{queue=\"mail\"} 1.0\n"),
            "{both}"
        );
        assert_eq!(both.matches("# EOF").count(), 1);
    }

    #[test]
    fn a_queue_that_is_called_other_shares_its_series_with_the_rest() {
        let metrics = Metrics::of_one_scrape();
        for label in [LabelValue::Name("other".into()), LabelValue::Word("other")] {
            metrics.gauge(QUEUE_PAUSED, [label]).inc_by(1.0);
        }
        let text = metrics.encode(&[], Format::OpenMetrics);
        assert!(
            text.contains("naq_queue_paused{queue=\"other\"} 2.0\n"),
            "{text}"
        );
    }

    #[test]
    fn openmetrics_is_sent_to_those_who_ask_for_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        for (accept, format) in [
            (Some(prometheus), Format::OpenMetrics),
            (Some("text/plain"), Format::Text),
            (Some("*/*"), Format::Text),
            (None, Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }
}
