//! What memory a job and an envelope may take.

use naq_protocol::{Reason, State};

use crate::harness::naq::Naq;
use crate::harness::nats::{TestOptions, TestServer};

#[test]
fn a_job_over_its_memory_limit_is_killed_and_the_worker_lives() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // keeps all that it reads in memory
    let greedy = serde_json::json!({
        "script": "x=$(head -c 400000000 /dev/zero | tr '\\0' a); echo ${#x}; sleep 60",
        "limits": {"memory": "64M"},
    });
    let job = naq.publish("build", greedy.to_string());
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Failed);
    assert_eq!(record.reason(), Some(Reason::Oom), "{record:#?}");
    naq.assert_jobs_still_run("build");
}

/// The longest message that the server of the test takes, in bytes.
const MESSAGE_BYTES_MAX: u64 = 8 << 20;

/// An envelope of nearly the longest message: a beginning, a repeated piece, and an end.
fn long_envelope(begin: &str, piece: impl Fn(usize) -> String, end: &str) -> String {
    // The headers of the message count too.
    let bytes_max = usize::try_from(MESSAGE_BYTES_MAX).unwrap() - 4_096;
    let mut text = begin.to_owned();
    for at in 0.. {
        let piece = piece(at);
        if text.len() + piece.len() + end.len() > bytes_max {
            break;
        }
        text.push_str(&piece);
    }
    text + end
}

/// The most memory that a process has used since [`forget_peak`], in MiB.
fn peak_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1_024
}

fn forget_peak(pid: i32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

#[test]
fn an_envelope_takes_memory_in_proportion_to_its_length() {
    const LIMIT_MIB: u64 = 64;
    let server = TestServer::with(&TestOptions {
        max_payload_bytes: Some(MESSAGE_BYTES_MAX),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let same = |piece: &'static str| move |_: usize| piece.to_owned();
    let envelopes = [
        (
            "stdin",
            State::Succeeded,
            long_envelope(r#"{"command":"true","stdin":""#, same("x"), r#""}"#),
        ),
        (
            "keys",
            State::Succeeded,
            long_envelope(
                r#"{"command":"true","input":{"#,
                |at| format!(r#""{at}":0,"#),
                r#""":0}}"#,
            ),
        ),
        (
            "list",
            State::Succeeded,
            long_envelope(r#"{"command":"true","meta":["#, same("0,"), "0]}"),
        ),
        (
            // So many arguments that no system starts a program with them.
            "words",
            State::Failed,
            long_envelope(
                r#"{"command":"true","args":["#,
                |_| format!(r#""{}","#, "x".repeat(90)),
                r#""x"]}"#,
            ),
        ),
        (
            "maps",
            State::Rejected,
            format!(
                r#"{{"function":"m:f","kwargs":{{"a":[{}0]}}}}"#,
                r#"{"a":0},"#.repeat(49_990)
            ),
        ),
        (
            "args",
            State::Rejected,
            long_envelope(r#"{"command":"true","args":["#, same("0,"), "0]}"),
        ),
        (
            "kwargs",
            State::Rejected,
            long_envelope(
                r#"{"function":"m:f","kwargs":{"a":["#,
                same(r#"{"a":0},"#),
                "0]}}",
            ),
        ),
        (
            "secrets",
            State::Rejected,
            long_envelope(
                r#"{"command":"true","secrets":["#,
                same(r#""","#),
                r#"""]}"#,
            ),
        ),
        (
            "env",
            State::Rejected,
            long_envelope(
                r#"{"command":"true","env":{"#,
                |at| format!(r#""{at}":"","#),
                r#""a":""}}"#,
            ),
        ),
        (
            "unknown",
            State::Rejected,
            long_envelope(r#"{"command":"true""#, |at| format!(r#","{at}":0"#), "}"),
        ),
        (
            "version",
            State::Rejected,
            long_envelope(r#"{"command":7,"version":["#, same("0,"), "0]}"),
        ),
    ];
    for (what, state, envelope) in envelopes {
        let worker = naq.worker(&[what]).concurrency(1).spawn();
        naq.assert_jobs_still_run(what);
        forget_peak(worker.pid());
        let before_mib = peak_mib(worker.pid());
        let job = naq.publish(what, envelope);
        let record = naq.wait_ended(&job);
        assert_eq!(record.state(), state, "{what}: {:?}", record.error);
        let grown_mib = peak_mib(worker.pid()) - before_mib;
        println!("an envelope of up to 8 MiB ({what}, {state}) takes {grown_mib} MiB");
        assert!(grown_mib <= LIMIT_MIB, "{what}: {grown_mib} MiB");
    }
}
