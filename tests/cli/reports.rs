//! `naq progress`, `naq checkpoint` and `naq result --set` inside a job.

use naq_protocol::State;

use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::{TestServer, naq as program};

/// A script for a job of a worker that grants nothing, in an environment in which nothing says where NATS is.
fn script(text: &str) -> String {
    format!(
        "naq() {{ env -i NAQ_CONTROL_FD=$NAQ_CONTROL_FD {} \"$@\"; }}\n{text}",
        program().display()
    )
}

#[test]
fn a_job_reports_without_any_setting_or_grant() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let script = script(
        r#"if [ "$NAQ_ATTEMPT" = 1 ]; then
             naq progress 12.5 -m "1 of 8" && naq checkpoint '{"row": 7}' && exit 75
           fi
           echo "from $NAQ_CHECKPOINT"
           naq progress -m 'the "rest"'
           printf '[1.50,\n 2]' | naq result --set - && naq checkpoint --text "a
b""#,
    );
    naq.enqueue(&["--id", "r", "--retries", "1", "--", "sh", "-c", &script]);
    let record = naq.wait_ended(&id("r"));
    assert_eq!(
        (record.state(), record.attempt),
        (State::Succeeded, 2),
        "{record:#?}"
    );
    assert_eq!(text(record.stdout.as_ref()), "from {\"row\": 7}\n");
    assert_eq!(record.result.unwrap().get(), "[1.50,  2]");
    assert_eq!(record.checkpoint.unwrap().get(), r#""a\nb""#);
    assert_eq!(
        record.progress.unwrap().message.as_deref(),
        Some("the \"rest\"")
    );
    assert!(record.warnings.is_empty(), "{:?}", record.warnings);
}

#[test]
fn what_cannot_be_reported_says_why() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for args in [
        &["progress", "40"][..],
        &["checkpoint", "1"],
        &["result", "--set", "1"],
    ] {
        naq.cli(args.iter().copied())
            .without_env("NAQ_CONTROL_FD")
            .run()
            .exits(2)
            .expect_stderr(&["inside of a job"]);
    }
    naq.cli(["checkpoint", "{a}"])
        .env("NAQ_CONTROL_FD", "3")
        .run()
        .exits(2)
        .expect_stderr(&["not JSON", "--text"]);
    naq.cli(["progress", "40"])
        .env("NAQ_CONTROL_FD", "99")
        .run()
        .exits(1)
        .expect_stderr(&["descriptor 99"]);
    naq.cli(["result"]).run().exits(2);
}

/// What is too large or out of range is a warning, and the next attempt gets the last good checkpoint.
#[test]
fn a_report_beyond_a_limit_breaks_neither_this_attempt_nor_the_next() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let script = script(
        r#"if [ "$NAQ_ATTEMPT" = 2 ]; then cat "$NAQ_CHECKPOINT_FILE"; exit; fi
           naq checkpoint 1 && naq progress 140 || exit 9
           head -c 4200000 /dev/zero | tr '\0' x | naq checkpoint --text - || exit 9
           for n in $(seq 60); do echo "{\"key$n\": 1}" >&3; done
           exit 75"#,
    );
    let retry = ["--retries", "1", "--retry-delay", "1h"];
    naq.enqueue(&[&["--id", "l"], &retry[..], &["--", "sh", "-c", &script]].concat());
    let record = naq.wait_for(&id("l"), "retrying", |record| {
        record.state() == State::Retrying
    });
    let warnings = record.warnings;
    let has = |words: &str| warnings.iter().any(|warning| warning.contains(words));
    assert!(
        has("control line of more than 4194304 bytes"),
        "{warnings:?}"
    );
    assert!(has("progress"), "{warnings:?}");
    assert!(warnings.len() <= 49, "{warnings:?}");
    naq.cli(["job", "trigger", "l"]).run().succeeds();
    let record = naq.wait_ended(&id("l"));
    assert_eq!(
        (record.state(), record.attempt),
        (State::Succeeded, 2),
        "{record:#?}"
    );
    assert_eq!(text(record.stdout.as_ref()), "1");
}
