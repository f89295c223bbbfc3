//! One grammar of verbs: a noun, then a verb; and the Python library's names as aliases.

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn schedules_are_added_listed_changed_and_deleted_by_verbs_of_one_noun() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let run = |args: &[&str]| naq.cli(args.to_vec()).run();
    let cron = ["--cron", "0 3 * * *", "--", "true"];
    run(&[&["schedule", "add", "--name", "a"][..], &cron].concat())
        .succeeds()
        .expect_stdout("a\n");
    run(&[&["schedule", "--name", "b"][..], &cron].concat()).succeeds();
    for list in [
        &["schedule", "list"][..],
        &["schedules"],
        &["list-scheduled"],
    ] {
        let shown = run(list).succeeds().stdout;
        assert!(shown.contains("\na ") && shown.contains("\nb "), "{shown}");
    }
    let shown = run(&["schedule", "show", "a"]).succeeds().stdout;
    assert!(shown.contains("misfire"), "{shown}");
    run(&["schedule", "show", "c"]).exits(4);

    run(&["schedule", "pause", "a", "b"])
        .succeeds()
        .expect_stdout("a  paused\nb  paused\n");
    run(&["schedule", "resume", "b", "missing", "a"])
        .exits(4)
        .expect_stderr(&["missing"])
        .expect_stdout("a  active");
    run(&["schedule", "update", "a", "--every", "1h"])
        .succeeds()
        .expect_stdout("a  active, next run");
    run(&["schedule", "update", "a"])
        .exits(2)
        .expect_stderr(&["--cron, --every"]);
    let job = run(&["schedule", "trigger", "a"]).succeeds().stdout;
    run(&["status", job.trim_end()]).succeeds();
    run(&["schedule", "delete", "a", "b"])
        .succeeds()
        .expect_stdout("b  removed\n");
}

#[test]
fn delayed_jobs_are_paused_rescheduled_and_triggered_by_verbs_of_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let run = |args: &[&str]| naq.cli(args.to_vec()).run();
    for id in ["a", "b"] {
        run(&["enqueue", "--in", "1h", "--id", id, "--", "true"]).succeeds();
    }
    run(&["job", "pause", "a", "b"])
        .succeeds()
        .expect_stdout("a  paused\nb  paused\n");
    run(&["job", "resume", "b"]).succeeds();
    run(&["job", "resume", "a"])
        .succeeds()
        .expect_stdout("a  active, next run");
    run(&[
        "job",
        "reschedule",
        "b",
        "2030-12-24 18:00",
        "--tz",
        "Europe/Berlin",
    ])
    .succeeds()
    .expect_stdout("2030-12-24");
    run(&["job", "reschedule", "b", "soon"]).exits(2);
    run(&["job", "trigger", "a"])
        .succeeds()
        .expect_stdout("a\n");
    run(&["job", "pause", "missing"]).exits(4);
    // A schedule is none of its business.
    run(&["schedule", "--name", "s", "--every", "1h", "--", "true"]).succeeds();
    run(&["job", "pause", "s"]).exits(4);
}

#[test]
fn queues_have_one_noun_and_plurals_list() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let run = |args: &[&str]| naq.cli(args.to_vec()).run();
    run(&["queue", "add", "build"]).succeeds();
    for list in [&["queue", "list"][..], &["queue"], &["queues"]] {
        run(list).succeeds().expect_stdout("build");
    }
    run(&["queues", "add", "more"]).exits(2);
    run(&["enqueue", "-q", "build", "--", "true"]).succeeds();
    run(&["queue", "purge", "build", "--yes"])
        .succeeds()
        .expect_stdout("build: 1 job");
    run(&["purge", "build", "--yes"]).succeeds();
    for list in ["workers", "list-workers"] {
        run(&[list]).succeeds();
    }
    run(&["workers", "missing"]).exits(4);
}

#[test]
fn help_and_version_are_verbs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let run = |args: &[&str]| naq.cli(args.to_vec()).run().succeeds().stdout;
    let version = concat!("naq ", env!("CARGO_PKG_VERSION"), "\n");
    let long = run(&["version"]);
    let (first, second) = long.split_at(version.len());
    assert_eq!(first, version);
    assert!(second.starts_with("tzdata "), "{second}");
    assert_eq!(run(&["--version"]), version);
    assert_eq!(
        run(&["help", "queue", "pause"]),
        run(&["queue", "pause", "--help"])
    );
    let (short, long) = (run(&["cancel", "-h"]), run(&["cancel", "--help"]));
    assert!(short.lines().count() < 25, "{short}");
    assert!(
        !short.contains("--tls-ca") && short.contains("--nats-url, --context"),
        "{short}"
    );
    assert!(
        long.contains("--tls-ca") && long.contains("$ naq cancel"),
        "{long}"
    );
    // The library's names are documented, and not in the way.
    let overview = run(&["-h"]);
    assert!(
        overview.contains("  list-scheduled, list-workers"),
        "{overview}"
    );
    assert!(run(&["help", "job-control"]).contains("run-now"));
}

#[test]
fn every_verb_has_a_man_page() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["man", "--dir", "a/man1"]).run().succeeds();
    for page in ["naq", "naq-run", "naq-queue-pause", "naq-job-control"] {
        let path = naq.home().join(format!("a/man1/{page}.1"));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text.contains(".SH NAME"), "{page}: {text}");
    }
    let page = std::fs::read_to_string(naq.home().join("a/man1/naq-queue-pause.1"));
    let page = page.unwrap_or_default();
    assert!(page.contains("naq queue pause build emails"), "{page}");
    naq.file("file", "");
    naq.cli(["man", "--dir", "file/man1"]).run().exits(1);
}
