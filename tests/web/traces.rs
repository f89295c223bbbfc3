//! The trace of a job: what a request or a command passes on to it.

use super::Dashboard;
use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::TestServer;

#[test]
fn a_job_belongs_to_the_trace_of_what_enqueues_it() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.worker(&["build"]).spawn();
    let echo = |job: &str| format!(r#"{{"job_id":"{job}","script":"echo $TRACEPARENT"}}"#);
    let printed = |job: &str| {
        let record = naq.wait_ended(&id(job));
        text(record.stdout.as_ref()).trim_end().to_owned()
    };
    let post = |trace: &str, media_type: &str, body: String| {
        let request = dashboard.request("POST", "/api/queues/build/jobs");
        let request = request.header("traceparent", trace);
        let status = request.body(media_type, body).send().status;
        assert!(matches!(status, 200 | 201), "{status}");
    };
    post(TRACE, "application/json", echo("one"));
    post(TRACE, "application/json", format!("[{}]", echo("of-array")));
    post(TRACE, "application/x-ndjson", echo("of-lines"));
    // the same request again, as a client repeats it in another span of its trace
    post(
        &TRACE.replace("b7-", "b8-"),
        "application/json",
        echo("one"),
    );
    for job in ["one", "of-array", "of-lines"] {
        assert_eq!(printed(job), TRACE, "{job}");
    }
    // what is none is ignored, and the envelope's own one wins
    post("00-nonsense", "application/json", echo("without"));
    assert_eq!(printed("without"), "");
    let own = echo("own").replacen('{', r#"{"traceparent":"mine","#, 1);
    post(TRACE, "application/json", own);
    assert_eq!(printed("own"), "mine");

    let enqueue = |options: &[&str]| {
        let words = [&["enqueue", "-q", "build"], options].concat();
        naq.cli(words).env("TRACEPARENT", TRACE).run().succeeds();
    };
    enqueue(&["--id", "by-cli", "--", "sh", "-c", "echo $TRACEPARENT"]);
    assert_eq!(printed("by-cli"), TRACE);
    // the trace is no part of the envelope
    naq.cli([
        "enqueue",
        "-q",
        "build",
        "--id",
        "by-cli",
        "--",
        "sh",
        "-c",
        "echo $TRACEPARENT",
    ])
    .run()
    .succeeds();
    let file = naq.file("jobs", echo("of-file"));
    enqueue(&["--file", file.to_str().unwrap()]);
    assert_eq!(printed("of-file"), TRACE);
}

/// A program with the feature exports the spans, which a test of the worker shows.
#[cfg(not(feature = "otel"))]
#[test]
fn a_worker_that_cannot_export_spans_warns_once_if_a_collector_is_named() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let printed = |variables: &[(&str, &str)]| {
        let mut worker = naq.worker(&["build"]);
        for (name, value) in variables {
            worker = worker.env(name, value);
        }
        let worker = worker.spawn();
        naq.wait_ended(&naq.enqueue(&["-q", "build", "--", "true"]));
        let text = worker.log();
        assert!(worker.stop().success());
        text
    };
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let text = printed(&[collector]);
    assert_eq!(text.matches("feature otel").count(), 1, "{text}");
    assert!(
        text.contains("OTEL_EXPORTER_OTLP_ENDPOINT is set"),
        "{text}"
    );
    let off = ("OTEL_TRACES_EXPORTER", "none");
    for variables in [&[][..], &[collector, off]] {
        let text = printed(variables);
        assert!(!text.contains("otel"), "{text}");
    }
}
