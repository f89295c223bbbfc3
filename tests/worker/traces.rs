//! Spans of jobs, as a collector receives them.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;

use crate::harness::naq::{Naq, eventually, id, text};
use crate::harness::nats::TestServer;
use naq_protocol::State;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector: it decodes what it receives. Each connection has one request.
struct Collector {
    address: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    /// `status` is the line of its answers.
    fn start(status: &'static str) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&requests);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if let Some(request) = receive(connection, status) {
                    received.lock().unwrap().push(request);
                }
            }
        });
        Collector { address, requests }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The spans, once there are this many.
    fn wait_spans(&self, count: usize) -> Vec<Span> {
        eventually("the spans arrive", || self.spans().len() >= count);
        let spans = self.spans();
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

fn receive(connection: TcpStream, status: &str) -> Option<ExportTraceServiceRequest> {
    let mut reader = BufReader::new(connection);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(
        head.iter()
            .any(|line| line == "content-type: application/x-protobuf"),
        "{head:?}"
    );
    let length = head
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).ok()?;
    Some(request)
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn spans_of_a_retried_job_reach_the_collector_in_the_trace_of_its_producer() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let collector = Collector::start("200 OK");
    let worker = naq
        .worker(&["build"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .env("OTEL_SERVICE_NAME", "builders")
        .spawn();
    let envelope = json!({
        "job_id": "job", "traceparent": TRACE, "max_retries": 1, "retry_delay": "10ms",
        "script": "echo secret-output; echo $TRACEPARENT; [ $NAQ_ATTEMPT = 2 ] || exit 3",
    });
    naq.publish("build", envelope.to_string());
    let record = naq.wait_ended(&id("job"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    let mut spans = collector.wait_spans(4);
    spans.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
    let find = |name: &str, attempt: Option<&str>| {
        let found = spans
            .iter()
            .find(|span| span.name == name && attribute(span, "naq.attempt").as_deref() == attempt);
        found.unwrap_or_else(|| panic!("no {name} {attempt:?} in {spans:#?}"))
    };
    let (enqueue, wait) = (find("enqueue build", None), find("wait build", None));
    let (first, second) = (find("run build", Some("1")), find("run build", Some("2")));
    for span in &spans {
        assert_eq!(hex(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(
            span.end_time_unix_nano >= span.start_time_unix_nano,
            "{span:?}"
        );
        assert_eq!(attribute(span, "naq.job.id").as_deref(), Some("job"));
    }
    assert_eq!(hex(&enqueue.parent_span_id), "00f067aa0ba902b7");
    for child in [wait, first, second] {
        assert_eq!(child.parent_span_id, enqueue.span_id, "{child:?}");
    }
    assert!(first.links.is_empty(), "{first:?}");
    assert_eq!(second.links.len(), 1);
    assert_eq!(second.links[0].span_id, first.span_id);
    // 2 is an error
    assert_eq!(first.status.as_ref().map(|status| status.code), Some(2));
    assert_ne!(second.status.as_ref().map(|status| status.code), Some(2));
    assert_eq!(
        attribute(first, "naq.job.state").as_deref(),
        Some("retrying")
    );
    assert_eq!(attribute(first, "process.exit.code").as_deref(), Some("3"));
    assert_eq!(
        attribute(second, "naq.job.state").as_deref(),
        Some("succeeded")
    );
    // the job's own spans become children of the attempt
    let expected = format!("00-{}-{}-01", hex(&second.trace_id), hex(&second.span_id));
    let printed = text(record.stdout.as_ref());
    assert!(printed.contains(&expected), "{printed} lacks {expected}");
    let all = format!("{:?}", collector.requests.lock().unwrap());
    assert!(
        all.contains("builders") && !all.contains("secret-output"),
        "{all}"
    );

    // a trace that is not recorded, and a job without one
    naq.publish(
        "build",
        json!({"job_id": "off", "traceparent": TRACE.replace("-01", "-00"), "command": "true"})
            .to_string(),
    );
    naq.wait_ended(&id("off"));
    naq.publish(
        "build",
        json!({"job_id": "own", "command": "true"}).to_string(),
    );
    naq.wait_ended(&id("own"));
    let spans = collector.wait_spans(7);
    assert!(
        !spans
            .iter()
            .any(|span| attribute(span, "naq.job.id").as_deref() == Some("off"))
    );
    // what is left is exported before the worker exits
    naq.publish(
        "build",
        json!({"job_id": "last", "command": "true"}).to_string(),
    );
    naq.wait_ended(&id("last"));
    worker.stop();
    assert_eq!(collector.spans().len(), 10);
}

#[test]
fn jobs_run_whatever_the_collector_does() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // it accepts connections and never answers
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_endpoint = format!("http://{}", silent.local_addr().unwrap());
    let refusing = Collector::start("400 Bad Request");
    for endpoint in [
        silent_endpoint,
        refusing.endpoint(),
        "http://127.0.0.1:1".to_owned(),
    ] {
        let worker = naq
            .worker(&["build"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            .arg("--metrics-listen=127.0.0.1:0")
            .spawn();
        for _ in 0..5 {
            naq.assert_jobs_still_run("build");
        }
        if !endpoint.starts_with(&format!("http://{}", silent.local_addr().unwrap())) {
            let address = crate::metrics::address_in(&worker.log());
            eventually("lost spans are counted", || {
                let scrape = crate::metrics::scrape::Scrape::of(&address);
                scrape.value("naq_trace_spans_lost_total") > 0.0
            });
        }
        worker.stop();
    }
}
