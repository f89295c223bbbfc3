//! What naq says to words that are almost right: hints, and checks of envelopes before they are enqueued.

use std::time::{Duration, Instant};

use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

#[test]
fn a_command_without_dashes_gets_a_hint_with_the_dashes() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let refused = |args: &[&str], hint: &str| {
        naq.cli(args.iter().copied())
            .run()
            .exits(2)
            .expect_stderr(&[hint]);
    };
    refused(&["run", "echo", "hi"], "`naq run -- echo hi`");
    refused(&["run", "ls", "-la"], "`naq run -- ls -la`");
    refused(
        &["enqueue", "--queue", "a", "echo", "it's"],
        r"`naq enqueue --queue a -- echo 'it'\''s'`",
    );
    refused(
        &["enqueue", "echo hi && ls"],
        "`naq enqueue -- sh -c 'echo hi && ls'`",
    );
    refused(
        &["schedule", "--every", "1h", "echo", "hi"],
        "`naq schedule --every 1h -- echo hi`",
    );
    // what begins with a dash is a misspelt option
    let done = naq
        .cli(["run", "--timout", "1s", "--", "true"])
        .run()
        .exits(2);
    assert!(!done.stderr.contains("-- sh"), "{done:?}");

    naq.cli(["enqueue", "--", "echo hi && ls"])
        .run()
        .succeeds()
        .expect_stderr(&["-- sh -c 'echo hi && ls'"]);
    naq.cli(["enqueue", "--", "echo", "hi && ls"])
        .run()
        .succeeds();
}

#[test]
fn the_plural_of_a_noun_lists_and_other_verbs_are_those_of_the_noun() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let run = |args: &[&str]| naq.cli(args.iter().copied()).run();
    run(&["queue", "add", "build"]).succeeds();
    for list in [&["queues"][..], &["queue"], &["queue", "list"]] {
        run(list).succeeds().expect_stdout("build");
    }
    for list in [
        &["workers"][..],
        &["schedules"],
        &["schedule", "list"],
        &["jobs"],
    ] {
        run(list).succeeds();
    }
    for (words, hint) in [
        (&["queues", "add", "x"][..], "`naq queue add` does that"),
        (&["queues", "pause", "x"], "`naq queue pause` does that"),
        (
            &["schedules", "delete", "x"],
            "`naq schedule delete` does that",
        ),
        (&["jobs", "ttl", "x"], "`naq job ttl` does that"),
    ] {
        run(words).exits(2).expect_stderr(&[hint]);
    }
}

#[test]
fn a_name_of_another_kind_of_thing_leads_to_its_verb() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let run = |args: &[&str]| naq.cli(args.iter().copied()).run();
    run(&[
        "schedule", "--name", "nightly", "--every", "1d", "--", "true",
    ])
    .succeeds();
    run(&["enqueue", "--queue", "build", "--id", "first", "--", "true"]).succeeds();
    let _worker = naq.worker(&["build"]).arg("--name").arg("smith").spawn();
    for verb in ["status", "result", "logs", "cancel", "retry", "wait"] {
        for (name, hint) in [
            (
                "nightly",
                "`nightly` is a schedule: `naq schedule show nightly`",
            ),
            ("build", "`build` is a queue: `naq queues`"),
            ("smith", "`smith` is a worker: `naq workers`"),
        ] {
            let done = run(&[verb, name]);
            assert_eq!(done.code, Some(4), "{verb}: {done:?}");
            done.expect_stderr(&[hint]);
        }
    }
    run(&["queue", "pause", "first"])
        .exits(4)
        .expect_stderr(&["`first` is a job: `naq status first`"]);
    run(&["queue", "pause", "nightly"])
        .exits(4)
        .expect_stderr(&["`nightly` is a schedule"]);
    let done = run(&["status", "nothing"]).exits(4);
    assert!(!done.stderr.contains(" is a "), "{done:?}");
}

#[test]
fn what_workers_refuse_is_refused_and_what_they_ignore_is_reported() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let enqueue = |options: &[&str], text: &str| {
        let words = ["enqueue", "--file", "-"].iter().chain(options).copied();
        naq.cli(words).stdin(text).run()
    };
    for (text, words) in [
        (r#"{"function":"app:main"}"#, "needs the runner"),
        (
            r#"[{"command":"true"},{"function":"app:main"}]"#,
            "needs the runner",
        ),
        (
            "{\"command\":\"true\"}\n{\"command\":\"true\",\"runner\":\"python\"}",
            "has no runner",
        ),
        (
            r#"{"jobs":{"a":{"function":"app:main"}}}"#,
            "needs the runner",
        ),
        (
            r#"{"command":"true","priority":3}"#,
            "does not support it yet",
        ),
    ] {
        enqueue(&["--dry-run"], text)
            .exits(6)
            .expect_stderr(&[words]);
        enqueue(&[], text).exits(6);
    }

    let text = "{\"command\":\"true\"}\n{\"command\":\"echo\",\"arg\":[\"hi\"]}\n";
    let unknown = ["line 2: workers ignore the unknown field `arg`; did you mean `args`?"];
    enqueue(&[], text).succeeds().expect_stderr(&unknown);
    enqueue(&["--dry-run"], text)
        .succeeds()
        .expect_stderr(&unknown);
    enqueue(&["--strict"], text)
        .exits(6)
        .expect_stderr(&unknown);
    let flow = r#"{"jobs":{"a":{"command":"true","timout":3}}}"#;
    let unknown = ["jobs.a: workers ignore the unknown field `timout`; did you mean `timeout`?"];
    enqueue(&[], flow).succeeds().expect_stderr(&unknown);
    enqueue(&["--strict"], flow)
        .exits(6)
        .expect_stderr(&unknown);

    // each warning once, however many envelopes have it
    let many = "{\"command\":\"true\",\"arg\":1}\n".repeat(500);
    let done = enqueue(&[], &many).succeeds();
    assert_eq!(done.stderr.matches("unknown field").count(), 1, "{done:?}");

    let text = r#"{"command":"true","env":{"LD_PRELOAD":"x.so"}}"#;
    let denied = ["`env.LD_PRELOAD`", "--allow-env LD_PRELOAD"];
    enqueue(&[], text).succeeds().expect_stderr(&denied);
    enqueue(&["--strict"], text).exits(6).expect_stderr(&denied);
    let by_option = ["enqueue", "--env", "LD_PRELOAD=x.so", "--", "true"];
    naq.cli(by_option).run().succeeds().expect_stderr(&denied);
    let allowed = naq
        .cli(by_option)
        .env("NAQ_ALLOW_ENV", "LD_*")
        .run()
        .succeeds();
    assert!(!allowed.stderr.contains("LD_PRELOAD"), "{allowed:?}");
}

#[test]
fn a_worker_logs_the_start_and_the_end_of_each_job_and_no_secrets() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let job = |id: &str, code: &str| {
        let script = format!("cat > /dev/null; exit {code}");
        let envelope = serde_json::json!({
            "job_id": id, "command": "sh", "args": ["-c", script, "hunter-arg"],
            "env": {"SECRET": "hunter-env"}, "stdin": "hunter-stdin",
        });
        naq.cli(["enqueue", "--queue", "build", "--file", "-"])
            .stdin(envelope.to_string())
            .run()
            .succeeds();
    };
    let worker = naq.cli(["worker", "build"]).follow();
    job("good", "0");
    job("bad", "3");
    for words in [
        "job started job_id=good queue=build attempt=1 program=sh args=3",
        "job succeeded job_id=good queue=build attempt=1 exit_code=0 wall_ms=",
        "job started job_id=bad",
        "job failed (exit) job_id=bad queue=build attempt=1 exit_code=3",
    ] {
        worker.expect_stderr(words);
    }
    let log = worker.stderr_text();
    assert!(!log.contains("hunter"), "{log}");
    assert!(worker.stop().success());

    let quiet = naq.cli(["worker", "build", "--quiet"]).follow();
    job("unseen", "0");
    naq.cli(["wait", "unseen"]).run().succeeds();
    let log = quiet.stderr_text();
    assert!(log.contains("working") && !log.contains("unseen"), "{log}");
    assert!(quiet.stop().success());
}

#[test]
fn a_busy_worker_says_how_many_lines_about_jobs_it_leaves_out() {
    const JOBS: usize = 1_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let many = "{\"command\":\"true\"}\n".repeat(JOBS);
    naq.cli(["enqueue", "--queue", "build", "--quiet", "--file", "-"])
        .stdin(many)
        .run()
        .succeeds();
    let left_out = |log: &str, kind: &str| -> usize {
        log.lines()
            .filter(|line| line.contains("lines about jobs left out of this log"))
            .flat_map(|line| line.split(' '))
            .filter_map(|word| word.strip_prefix(kind)?.parse::<usize>().ok())
            .sum()
    };
    let began = Instant::now();
    let worker = naq.cli(["worker", "build", "--concurrency", "8"]).follow();
    eventually("each job has two lines, or is counted instead", || {
        let log = worker.stderr_text();
        [("job started ", "started="), ("job succeeded ", "ended=")]
            .into_iter()
            .all(|(line, kind)| log.matches(line).count() + left_out(&log, kind) >= JOBS)
    });
    // at a hundred lines a second there was no room for all
    if began.elapsed() < Duration::from_secs(5) {
        assert!(left_out(&worker.stderr_text(), "started=") > 0);
    }
    assert!(worker.stop().success());
}
