//! The control channel: what a running job reports, and what follows from it.

use naq_protocol::State;
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::TestServer;

#[test]
fn progress_and_result_are_visible_while_the_job_runs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let gate = naq.home().join("gate");
    let script = format!(
        r#"echo '{{"progress": 40, "message": "half"}}' >&3; echo '{{"result": [1]}}' >&3; while [ ! -e {gate} ]; do sleep 0.05; done; echo '{{"progress": 100}}' >&3"#,
        gate = gate.display()
    );
    naq.enqueue(&["--id", "reporting", "--", "sh", "-c", &script]);
    let record = naq.wait_for(&id("reporting"), "at 40 %", |record| {
        record
            .progress
            .as_ref()
            .is_some_and(|progress| progress.percent == Some(40.0))
    });
    assert_eq!(record.state(), State::Running);
    naq.cli(["status", "reporting"])
        .run()
        .succeeds()
        .expect_stdout("40% half");
    std::fs::write(&gate, "").unwrap();
    let record = naq.wait_ended(&id("reporting"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    assert_eq!(record.progress.unwrap().percent, Some(100.0));
    assert_eq!(record.result.unwrap().get(), "[1]");
}

#[test]
fn checkpoint_survives_a_worker_crash() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["default"]).ack_wait("2s").spawn();
    let script = r#"if [ -n "$NAQ_CHECKPOINT" ]; then echo "from $NAQ_CHECKPOINT"; else echo '{"checkpoint": {"row": 7}}' >&3; sleep 1000; fi"#;
    naq.enqueue(&["--id", "long", "--", "sh", "-c", script]);
    naq.wait_for(&id("long"), "checkpointed", |record| {
        record.checkpoint.is_some()
    });
    worker.signal(Signal::SIGKILL);
    worker.wait_exit();
    let _next = naq.worker(&["default"]).ack_wait("2s").spawn();
    let record = naq.wait_ended(&id("long"));
    assert_eq!(record.attempt, 2);
    assert_eq!(text(record.stdout.as_ref()), "from {\"row\": 7}\n");
}

#[test]
fn cancel_between_two_reports_is_not_lost() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let script = r#"n=0; while :; do n=$(( (n + 1) % 100 )); echo "{\"progress\": $n}" >&3; sleep 0.02; done"#;
    naq.enqueue(&["--id", "talker", "--", "sh", "-c", script]);
    naq.wait_for(&id("talker"), "talking", |record| record.progress.is_some());
    naq.cli(["cancel", "talker"]).run().succeeds();
    assert_eq!(naq.wait_ended(&id("talker")).state(), State::Cancelled);
}

#[test]
fn job_chooses_when_it_is_retried() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let script = r#"echo '{"retry_after": "1h"}' >&3; exit 75"#;
    naq.enqueue(&["--id", "later", "--retries", "1", "--", "sh", "-c", script]);
    let record = naq.wait_for(&id("later"), "retrying", |record| {
        record.state() == State::Retrying
    });
    let wait =
        record.next_attempt_at().unwrap().unix_ms() - record.finished_at().unwrap().unix_ms();
    assert_eq!(wait, 3_600_000);
}

#[test]
fn checkpoint_result_and_retry_after_survive_a_flood_of_progress() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let progress = "{\"progress\": 1}\n".repeat(1200);
    let flood = naq.file("flood", format!(
        "{progress}{{\"progress\": 90}}\n{{\"checkpoint\": 7}}\n{{\"retry_after\": \"1h\"}}\n{{\"result\": 9}}\n"
    ));
    let script = format!("cat {} >&3; exit 75", flood.display());
    naq.enqueue(&["--id", "flood", "--retries", "1", "--", "sh", "-c", &script]);
    let record = naq.wait_for(&id("flood"), "retrying", |record| {
        record.state() == State::Retrying
    });
    let wait =
        record.next_attempt_at().unwrap().unix_ms() - record.finished_at().unwrap().unix_ms();
    assert_eq!(wait, 3_600_000);
    assert_eq!(record.checkpoint.unwrap().get(), "7");
    assert_eq!(record.progress.unwrap().percent, Some(90.0));
    let script = format!("cat {} >&3", flood.display());
    naq.enqueue(&["--id", "result", "--", "sh", "-c", &script]);
    let record = naq.wait_ended(&id("result"));
    assert_eq!(record.result.unwrap().get(), "9");
    assert!(record.warnings.is_empty(), "{:?}", record.warnings);
}

#[test]
fn a_large_checkpoint_reaches_the_next_attempt_by_file() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    // as JSON two bytes longer; a variable holds 131,056, a checkpoint 262,144
    for (bytes, in_variable) in [(131_054, true), (131_055, false), (262_000, false)] {
        let script = format!(
            r#"if [ "$NAQ_ATTEMPT" = 1 ]; then
                 {{ printf '{{"checkpoint":"'; head -c {bytes} /dev/zero | tr '\0' c; echo '"}}'; }} >&3; exit 75
               fi
               wc -c < "$NAQ_CHECKPOINT_FILE"; printf %s "$NAQ_CHECKPOINT" | wc -c"#
        );
        let job = format!("large-{bytes}");
        naq.enqueue(&["--id", &job, "--retries", "1", "--", "sh", "-c", &script]);
        let record = naq.wait_ended(&id(&job));
        assert_eq!(record.state(), State::Succeeded, "{record:#?}");
        let bytes = bytes + 2;
        let in_variable = if in_variable { bytes } else { 0 };
        let expected = format!("{bytes}\n{in_variable}\n");
        assert_eq!(text(record.stdout.as_ref()), expected);
    }
    let script = r#"head -c 4300000 /dev/zero | tr '\0' c | sed 's/.*/{"checkpoint":"&"}/' >&3"#;
    naq.enqueue(&["--id", "too-large", "--", "sh", "-c", script]);
    let record = naq.wait_ended(&id("too-large"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    assert!(
        record.warnings[0].contains("control line of more than"),
        "{record:#?}"
    );
}

#[test]
fn run_cancels_its_job_on_an_interrupt_also_between_attempts() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let running = naq
        .cli([
            "run",
            "--id",
            "again",
            "--retries",
            "1",
            "--retry-delay",
            "1h",
            "--no-retry-jitter",
            "--",
            "false",
        ])
        .spawn();
    naq.wait_for(&id("again"), "retrying", |record| {
        record.state() == State::Retrying
    });
    running.signal(Signal::SIGINT);
    assert!(!running.close_stdout_and_wait().success());
    assert_eq!(naq.wait_ended(&id("again")).state(), State::Cancelled);
    naq.wait_for_messages("run", 0);
}
