//! Limits that the kernel enforces by a signal, and those that nothing enforces.

use naq_protocol::{Reason, Record, State};

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

fn run(naq: &Naq, script: &str, limits: &serde_json::Value) -> Record {
    let envelope = serde_json::json!({"command": "sh", "args": ["-c", script], "limits": limits});
    let record = naq.wait_ended(&naq.publish("build", envelope.to_string()));
    assert_eq!(record.state(), State::Failed, "{record:#?}");
    record
}

#[test]
fn a_job_that_hits_a_limit_fails_with_its_name() {
    const LOOP: &str = "while :; do :; done";
    const WRITE: &str = "exec head -c 100000 /dev/zero > $NAQ_WORK_DIR/file";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let cpu_time = serde_json::json!({"cpu_time": "1s"});
    let file_size = serde_json::json!({"file_size": "4K"});
    let ignored = format!("trap '' XCPU; {LOOP}");
    for (script, limits, reason, words) in [
        (LOOP, &cpu_time, Reason::CpuTime, "its CPU time limit of 1s"),
        (
            &*ignored,
            &cpu_time,
            Reason::CpuTime,
            "its CPU time limit of 1s",
        ),
        (
            WRITE,
            &file_size,
            Reason::FileSize,
            "its file size limit of 4K",
        ),
    ] {
        let record = run(&naq, script, limits);
        assert_eq!(record.reason(), Some(reason), "{record:#?}");
        assert!(
            record.error.as_ref().unwrap().contains(words),
            "{record:#?}"
        );
    }
    // a shell that reports the signal of its child has ended by itself
    let by_shell = format!("( {WRITE} ); exit $?");
    let record = run(&naq, &by_shell, &file_size);
    assert_eq!(
        (record.reason(), record.exit_code),
        (Some(Reason::Exit), Some(153))
    );
    assert!(record.error.unwrap().contains("file size limit of 4K"));
}

#[test]
fn a_signal_that_no_limit_sent_is_a_signal() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    for (script, limits) in [
        ("kill -XCPU $$", serde_json::json!({"cpu_time": "1s"})),
        ("kill -XCPU $$", serde_json::json!({})),
        ("kill -XFSZ $$", serde_json::json!({})),
    ] {
        let record = run(&naq, script, &limits);
        assert_eq!(
            record.reason(),
            Some(Reason::Signal),
            "{script} {limits} {record:#?}"
        );
    }
}

#[test]
fn a_limit_that_nothing_enforces_is_on_the_record_or_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // without control groups there is no controller
    let lenient = naq.worker(&["lenient"]).arg("--containment=subreaper");
    let lenient = lenient.spawn();
    let strict = naq.worker(&["strict"]).arg("--containment=subreaper");
    let strict = strict.arg("--strict-limits").spawn();
    let limits = ["--cpus", "0.5", "--memory", "64M"];
    let enqueue =
        |queue: &str| naq.enqueue(&[&["-q", queue], &limits[..], &["--", "true"]].concat());
    let record = naq.wait_ended(&enqueue("lenient"));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(record.warnings.len(), 2, "{record:#?}");
    naq.cli(["status", record.job_id.as_str()])
        .run()
        .succeeds()
        .expect_stdout("limits.cpus is not enforced");
    let record = naq.wait_ended(&enqueue("strict"));
    assert_eq!(record.state(), State::Failed, "{record:#?}");
    assert_eq!(record.attempt, 1);
    let error = record.error.unwrap();
    assert!(error.contains("limits.cpus is not enforced"), "{error}");
    assert!(lenient.stop().success());
    assert!(strict.stop().success());
}
