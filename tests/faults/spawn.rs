//! Programs that cannot be started, and processes that do not end.

use std::os::unix::fs::PermissionsExt;

use naq_protocol::{JobId, Reason, State};

use crate::harness::naq::{Naq, eventually, id, is_process_alive, text};
use crate::harness::nats::{TestOptions, TestServer};

/// An id that no other test of this machine gives to a job.
fn unique(name: &str) -> JobId {
    id(&format!("{name}-{}", std::process::id()))
}

/// Whether any process has this job's mark in its environment.
fn has_processes(job: &str) -> bool {
    let mark = format!("NAQ_JOB_ID={job}\0");
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("environ")).is_ok_and(|environ| {
            environ
                .windows(mark.len())
                .any(|part| part == mark.as_bytes())
        })
    })
}

#[test]
fn programs_that_cannot_start_fail_at_once_each_with_its_reason() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let program = |name: &str, content: &[u8], mode: u32| {
        let path = naq.file(name, content);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let plain = program("plain", b"#!/bin/sh\n", 0o644);
    let no_line = program("no-line", b"echo x\n", 0o755);
    let crlf = program("crlf", b"#!/bin/sh\r\necho x\r\n", 0o755);
    let no_interpreter = program("no-interpreter", b"#!/no/such/shell\n", 0o755);
    let bad_elf = program("bad-elf", b"\x7fELF\x01\x02 and so on", 0o755);
    let empty = program("empty", b"", 0o755);
    let folder = naq.home().display().to_string();
    let cases: Vec<(serde_json::Value, &[&str])> = vec![
        (
            serde_json::json!({"command": "no-such-command-xyz"}),
            &["no-such-command-xyz", "PATH"],
        ),
        (
            serde_json::json!({"command": "./not/there"}),
            &["no such command", "ENOENT"],
        ),
        (
            serde_json::json!({"command": format!("{plain}/x")}),
            &["not a directory", "ENOTDIR"],
        ),
        (
            serde_json::json!({"command": "true", "cwd": "/no/such/folder"}),
            &["working directory", "/no/such/folder"],
        ),
        (
            serde_json::json!({"command": "true", "cwd": plain}),
            &["working directory", "not a directory"],
        ),
        (
            serde_json::json!({"command": plain}),
            &["not executable", "chmod"],
        ),
        (serde_json::json!({"command": folder}), &["is a directory"]),
        (
            serde_json::json!({"command": no_line}),
            &["no #! line", "ENOEXEC"],
        ),
        (serde_json::json!({"command": crlf}), &["CRLF"]),
        (
            serde_json::json!({"command": no_interpreter}),
            &["/no/such/shell"],
        ),
        (serde_json::json!({"command": bad_elf}), &["ELF"]),
        (serde_json::json!({"command": empty}), &["empty"]),
        (serde_json::json!({"command": "x".repeat(5_000)}), &[]),
        (
            serde_json::json!({"script": "#!/no/such/interpreter\necho x\n"}),
            &["/no/such/interpreter"],
        ),
    ];
    for (mut envelope, words) in cases {
        // a retry would not help
        envelope["max_retries"] = 3.into();
        let record = naq.wait_ended(&naq.publish("build", envelope.to_string()));
        assert_eq!(record.state(), State::Failed, "{envelope}: {record:#?}");
        assert_eq!(record.reason(), Some(Reason::Spawn), "{envelope}");
        assert_eq!(record.attempt, 1, "{envelope}");
        let error = record.error.unwrap();
        for word in words {
            assert!(error.contains(word), "{envelope}: no {word:?} in {error}");
        }
        assert_eq!(
            naq.dead_letter(&record.job_id).payload,
            envelope.to_string()
        );
    }
    naq.assert_jobs_still_run("build");
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

#[test]
fn arguments_over_the_systems_limits_fail_with_a_reason() {
    let server = TestServer::with(&TestOptions {
        max_payload_bytes: Some(8 << 20),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let one = serde_json::json!({"command": "true", "args": ["x".repeat(128 << 10)]});
    let many = vec!["x".repeat(100 << 10); 24];
    let many = serde_json::json!({"command": "true", "args": many, "max_retries": 3});
    for envelope in [one, many] {
        let record = naq.wait_ended(&naq.publish("build", envelope.to_string()));
        assert_eq!(
            (record.state(), record.reason()),
            (State::Failed, Some(Reason::Spawn))
        );
        assert_eq!(record.attempt, 1);
        let error = record.error.unwrap();
        assert!(
            error.contains("too big") && error.contains("E2BIG"),
            "{error}"
        );
    }
    // just below the limit
    let fits = serde_json::json!({"command": "true", "args": ["x".repeat((128 << 10) - 1)]});
    let record = naq.wait_ended(&naq.publish("build", fits.to_string()));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    naq.assert_jobs_still_run("build");
}

#[test]
fn a_daemon_that_holds_stdout_open_is_killed_and_reported() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq
        .worker(&["build"])
        .with_host_pids()
        .concurrency(1)
        .spawn();
    let script = "setsid sh -c 'sleep 600' & echo $!";
    let job = unique("daemon");
    let envelope = serde_json::json!({"job_id": job, "script": script});
    naq.publish("build", envelope.to_string());
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert!(record.leaked);
    let daemon: i32 = text(record.stdout.as_ref()).trim().parse().unwrap();
    eventually("the daemon gone", || !is_process_alive(daemon));
    assert!(!has_processes(job.as_str()));
    naq.assert_jobs_still_run("build");
}

#[test]
fn a_job_that_ignores_term_is_killed_after_the_grace() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq
        .worker(&["build"])
        .concurrency(1)
        .arg("--kill-grace")
        .arg("1s")
        .spawn();
    let script = "trap '' TERM; echo trapped; while :; do sleep 0.1; done";
    let job = unique("ignores-term");
    let envelope = serde_json::json!({"job_id": job, "script": script, "timeout": "1s"});
    naq.publish("build", envelope.to_string());
    let record = naq.wait_ended(&job);
    assert_eq!(record.reason(), Some(Reason::Timeout), "{record:#?}");
    assert_eq!(text(record.stdout.as_ref()), "trapped\n");
    // 1 s of timeout and 1 s of grace
    assert!(record.usage.unwrap().wall_ms >= 2_000);
    eventually("its processes gone", || !has_processes(job.as_str()));
    naq.assert_jobs_still_run("build");
}

#[test]
fn processes_that_keep_forking_are_all_killed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let script = "again() { while :; do sleep 0.05 & wait $!; done; }\n\
        for each in 1 2 3 4 5 6 7 8 9 10; do setsid sh -c 'while :; do sleep 0.05; done' & again & done\n\
        echo begun; wait";
    let job = unique("forks");
    let envelope = serde_json::json!({
        "job_id": job, "script": script, "timeout": "1s", "limits": {"processes": 200},
    });
    naq.publish("build", envelope.to_string());
    let record = naq.wait_ended(&job);
    assert_eq!(record.reason(), Some(Reason::Timeout), "{record:#?}");
    eventually("its processes gone", || !has_processes(job.as_str()));
    naq.assert_jobs_still_run("build");
}

#[test]
fn a_job_has_descriptors_0_to_3_and_a_clean_environment() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).env("OF_THE_WORKER", "x").spawn();
    let script = "ls /proc/$$/fd; env";
    let envelope = serde_json::json!({"command": "sh", "args": ["-c", script]});
    let record = naq.wait_ended(&naq.publish("build", envelope.to_string()));
    let printed = text(record.stdout.as_ref());
    assert!(printed.starts_with("0\n1\n2\n3\n"), "{printed}");
    assert!(!printed.contains("\n4\n"), "{printed}");
    for name in ["OF_THE_WORKER", "NAQ_TOKEN", server.token()] {
        assert!(!printed.contains(name), "{name} in {printed}");
    }
}
