//! Completion of values, as a shell asks for it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::naq::{Cli, Naq, Terminal, eventually};
use crate::harness::nats::{TestServer, naq as program};
use crate::harness::skipped;

/// The longest that a completion may take, with the start of the process.
const COMPLETION_MAX: Duration = Duration::from_millis(500);

/// The candidates for the last of these words, as fish asks for them.
fn candidates(cli: impl Fn(Vec<&str>) -> Cli, words: &[&str]) -> Vec<String> {
    let done = cli([&["--", "naq"], words].concat())
        .env("NAQ_COMPLETE", "fish")
        .run()
        .succeeds();
    assert_eq!(done.stderr, "", "{words:?}");
    let lines = done.stdout.lines();
    let value = |line: &str| line.split('\t').next().unwrap().to_owned();
    lines
        .map(value)
        .filter(|value| !value.starts_with('-'))
        .collect()
}

#[test]
fn values_of_each_kind_are_completed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["-q", "build", "--id", "report-1", "--", "true"]);
    naq.enqueue(&["-q", "build", "--id", "report-2", "--", "true"]);
    naq.enqueue(&["-q", "build", "--id", "other", "--", "true"]);
    naq.enqueue(&["--in", "1h", "--id", "later", "--", "true"]);
    naq.cli(["cancel", "report-2"]).run().succeeds();
    let nightly = [
        "schedule", "--name", "nightly", "--every", "1h", "--", "true",
    ];
    naq.cli(nightly).run().succeeds();
    let worker = naq.worker(&["build"]).arg("--name").arg("w1");
    naq.cli(["queue", "pause", "build"]).run().succeeds();
    let worker = worker.spawn();
    worker.expect_stderr("working");
    // A completer gives up after 300 ms, which a busy machine may exceed.
    let completes = |words: &[&str], expected: &[&str]| {
        eventually(&format!("{words:?} gives {expected:?}"), || {
            let mut found = candidates(|args| naq.cli(args), words);
            found.sort();
            found == expected
        });
    };
    completes(&["status", "rep"], &["report-1", "report-2"]);
    completes(&["cancel", "rep"], &["report-1"]);
    completes(&["retry", ""], &["report-2"]);
    completes(&["job", "pause", ""], &["later"]);
    completes(&["queue", "pause", "b"], &["build"]);
    completes(&["worker", "b"], &["build"]);
    completes(&["enqueue", "-q", "b"], &["build"]);
    completes(&["schedule", "pause", ""], &["nightly"]);
    completes(&["job-control", ""], &["later", "nightly"]);
    completes(&["jobs", "--state", "queu"], &["queued"]);
    completes(&["jobs", "--state", "failed,queu"], &["failed,queued"]);
    completes(&["workers", "w"], &["w1"]);
    completes(&["queue", "pu"], &["purge"]);
    worker.stop();
}

#[test]
fn without_nats_there_are_no_candidates_and_no_wait() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // Nothing listens on the first address, and the second never answers.
    for url in ["nats://127.0.0.1:1", "nats://192.0.2.1:4222"] {
        let begun = Instant::now();
        let found = candidates(
            |args| naq.cli(args).env("NAQ_NATS_URL", url),
            &["status", ""],
        );
        assert!(found.is_empty(), "{url}: {found:?}");
        let elapsed = begun.elapsed();
        assert!(elapsed < COMPLETION_MAX, "{url}: {elapsed:?}");
    }
    // A wrong setting is no reason to print anything, and no server is started.
    let found = candidates(
        |args| naq.cli(args).env("NAQ_REPLICAS", "many"),
        &["status", ""],
    );
    assert!(found.is_empty(), "{found:?}");
    let unset = |args: Vec<&str>| {
        naq.cli(args)
            .without_env("NAQ_NATS_URL")
            .without_env("NAQ_TOKEN")
    };
    candidates(unset, &["status", ""]);
    unset(vec!["server", "status"]).run().exits(4);
}

/// The program of a shell. Says so if it is not installed.
fn installed(shell: &str) -> Option<PathBuf> {
    let found = ["/usr/bin", "/bin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(shell))
        .find(|path| path.exists());
    if found.is_none() {
        skipped(&format!("{shell} is not installed"));
    }
    found
}

/// A shell on a terminal whose PATH has the program under test.
fn shell(naq: &Naq, path: &Path, args: &[&str]) -> Terminal {
    let folder = program().parent().unwrap().display();
    naq.cli(args.to_vec())
        .env("PATH", &format!("{folder}:/usr/local/bin:/usr/bin:/bin"))
        .env("TERM", "xterm")
        .env("PS1", "ready> ")
        .program_on_terminal(path)
}

/// Presses Tab, and again as a user would: on a busy machine there may be no candidates in time.
fn press_tab_until_screen_shows(terminal: &mut Terminal, words: &str) {
    eventually("a completion", || {
        terminal.type_text("\t");
        let pressed = Instant::now();
        while pressed.elapsed() < 2 * COMPLETION_MAX {
            if terminal.screen_text().contains(words) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    });
}

#[test]
fn a_job_id_is_completed_in_bash() {
    let Some(bash) = installed("bash") else {
        return;
    };
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["--id", "report-of-july", "--", "true"]);
    let mut terminal = shell(&naq, &bash, &["--norc", "--noprofile", "-i"]);
    terminal.type_line("source <(naq completions bash); echo loaded-$((1 + 1))");
    terminal.expect_screen("loaded-2");
    terminal.type_text("naq status rep");
    press_tab_until_screen_shows(&mut terminal, "report-of-july");
    terminal.type_line("");
    terminal.expect_screen("enqueued");
}

#[test]
fn a_job_id_is_completed_in_zsh() {
    let Some(zsh) = installed("zsh") else { return };
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["--id", "report-of-july", "--", "true"]);
    let mut terminal = shell(&naq, &zsh, &["-f", "-i"]);
    terminal.type_line("autoload -U compinit; compinit -D -u; echo init-$((1 + 1))");
    terminal.expect_screen("init-2");
    terminal.type_line("source <(naq completions zsh); echo loaded-$((1 + 1))");
    terminal.expect_screen("loaded-2");
    terminal.type_text("naq status rep");
    press_tab_until_screen_shows(&mut terminal, "report-of-july");
    terminal.type_line("");
    terminal.expect_screen("enqueued");
}

#[test]
fn a_job_id_is_completed_in_fish() {
    let Some(fish) = installed("fish") else {
        return;
    };
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["--id", "report-of-july", "--", "true"]);
    let script = "naq completions fish | source; complete -C 'naq status rep'";
    let terminal = shell(&naq, &fish, &["--no-config", "-c", script]);
    terminal.expect_screen("report-of-july");
}
