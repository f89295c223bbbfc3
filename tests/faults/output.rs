//! Output that is too large, is not text or is missing, and readers that do not read.

use naq_protocol::{Reason, State};

use crate::harness::naq::{Naq, eventually, text};
use crate::harness::nats::{TestOptions, TestServer};

/// The peak memory of a process, in KiB.
fn peak_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn endless_output_is_truncated_with_the_true_count_in_flat_memory() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    naq.assert_jobs_still_run("build");
    let before_kib = peak_kib(worker.pid());
    // one line of 200 MB
    let job = naq.publish(
        "build",
        r#"{"script":"head -c 200000000 /dev/zero | tr '\\0' x; echo; echo end"}"#,
    );
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    let output = record.stdout.as_ref().unwrap();
    assert_eq!(output.bytes, 200_000_005);
    assert!(output.truncated);
    assert!(text(Some(output)).starts_with("xxxx") && text(Some(output)).ends_with("x\nend\n"));
    let grown_kib = peak_kib(worker.pid()).saturating_sub(before_kib);
    assert!(grown_kib < 32 << 10, "grown by {grown_kib} KiB");
    // and output that never ends by itself
    let job = naq.publish("build", r#"{"command":"yes","timeout":"1s"}"#);
    let record = naq.wait_ended(&job);
    assert_eq!(record.reason(), Some(Reason::Timeout), "{record:#?}");
    assert!(record.stdout.unwrap().truncated);
    naq.assert_jobs_still_run("build");
}

#[test]
fn binary_output_is_returned_byte_for_byte() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let bytes: Vec<u8> = (0..=255).cycle().take(2_000).collect();
    let file = naq.file("bytes", &bytes);
    let job = naq.publish(
        "build",
        serde_json::json!({"command": "sh", "args": ["-c", "cat \"$0\"; cat \"$0\" >&2", file]})
            .to_string(),
    );
    let record = naq.wait_ended(&job);
    assert!(record.stdout.as_ref().unwrap().base64.is_some());
    let client = naq.client();
    assert_eq!(naq.block_on(client.read_stdout(&record)).unwrap(), bytes);
    assert_eq!(naq.block_on(client.read_stderr(&record)).unwrap(), bytes);
    assert_eq!(naq.cli(["result", job.as_str()]).run_bytes().1, bytes);
}

#[test]
fn closed_output_and_unread_input_do_not_deadlock() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let stdin = "x".repeat(900_000);
    // never reads, closes its output, and exits on its own
    let job = naq.publish(
        "build",
        serde_json::json!({"script": "exec <&- >&- 2>&- 3>&-; sleep 0.3; exit 3", "stdin": stdin})
            .to_string(),
    );
    let record = naq.wait_ended(&job);
    assert_eq!(record.exit_code, Some(3), "{record:#?}");
    assert!(record.usage.unwrap().wall_ms >= 300);
    // never reads, and keeps running
    let job = naq.publish(
        "build",
        serde_json::json!({"command": "sleep", "args": ["0.2"], "stdin": stdin}).to_string(),
    );
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    // reads everything
    let job = naq.publish(
        "build",
        serde_json::json!({"command": "wc", "args": ["-c"], "stdin": stdin}).to_string(),
    );
    assert_eq!(text(naq.wait_ended(&job).stdout.as_ref()).trim(), "900000");
    // without input, it reads the end of the file at once
    let job = naq.publish("build", r#"{"command":"cat"}"#);
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    naq.assert_jobs_still_run("build");
}

#[test]
fn output_that_does_not_fit_into_a_message_becomes_an_object() {
    let server = TestServer::with(&TestOptions {
        max_payload_bytes: Some(64 << 10),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let client = naq.client();
    // output: 60,000 characters that take six bytes each in JSON
    let script = r"head -c 60000 /dev/zero | tr '\0' '\001'";
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert!(record.stdout.as_ref().unwrap().object.is_some());
    assert_eq!(
        naq.block_on(client.read_stdout(&record)).unwrap(),
        vec![1; 60_000]
    );
    assert_eq!(
        naq.cli(["result", job.as_str()])
            .run()
            .succeeds()
            .stdout
            .len(),
        60_000
    );
    // a structured result, and a checkpoint that fits into no record
    let script = "long=$(head -c 200000 /dev/zero | tr '\\0' r)\n\
        echo \"{\\\"checkpoint\\\":\\\"$long\\\"}\" >&3\n\
        echo \"{\\\"result\\\":\\\"$long\\\"}\" >&3";
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    let result = naq.block_on(client.read_result(&record)).unwrap().unwrap();
    assert_eq!(result, format!("\"{}\"", "r".repeat(200_000)));
    assert!(
        record
            .warnings
            .iter()
            .any(|warning| warning.contains("checkpoint"))
    );
    naq.assert_jobs_still_run("build");
}

#[test]
fn invalid_control_lines_are_warnings() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let script = "printf 'no json\\n[1]\\n{\"progress\":\"much\"}\\n{\"colour\":1}\\n\\377\\376\\n{\"progress\":40' >&3\n\
        i=0; while [ $i -lt 5000 ]; do echo nonsense; i=$((i+1)); done >&3";
    let record =
        naq.wait_ended(&naq.publish("build", serde_json::json!({"script": script}).to_string()));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert!(
        !record.warnings.is_empty() && record.warnings.len() < 100,
        "{record:#?}"
    );
    naq.assert_jobs_still_run("build");
}

#[test]
fn a_reader_of_logs_that_does_not_read_blocks_no_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let stop = naq.home().join("stop");
    // prints more than all buffers on the way hold, for as long as the reader is blocked
    let script = format!(
        "echo first; sleep 1.2; while [ ! -e {} ]; do head -c 100000 /dev/zero | tr '\\0' x; echo; done; echo last",
        stop.display()
    );
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    naq.wait_running(&job);
    let mut reader = naq.cli(["logs", "-f", job.as_str()]).spawn();
    // the reader follows, and reads no more than the first words
    assert!(reader.read_some().starts_with(b"first"));
    let mut other = naq.cli(["logs", "-f", job.as_str()]).spawn();
    eventually("more than a pipe's worth", || other.read_some().len() > 500);
    std::fs::write(stop, "").unwrap();
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded);
    assert!(text(record.stdout.as_ref()).ends_with("last\n"));
    naq.assert_jobs_still_run("build");
    // blocked throughout, as a pager that waits for its user is
    assert!(reader.is_running());
}
