//! Text of producers, jobs and workers with terminal control sequences.

use naq_protocol::State;

use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

/// A title, a bell, a cleared screen, a link, one-character control forms, and reversed text.
const EVIL: &str =
    "a\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}]8;;http://x\u{1b}\\\u{9b}31m\u{202e}b\u{2066}\u{200b}c";

/// Returns the control sequences in a text, except naq's own colours.
fn acting(text: &str) -> Option<char> {
    let mut rest = text.to_owned();
    for code in ["0", "1", "2", "3", "31", "32", "33", "34", "35", "36"] {
        rest = rest.replace(&format!("\u{1b}[{code}m"), "");
    }
    rest.chars().find(|c| {
        (c.is_control() && *c != '\n')
            || matches!(*c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
    })
}

#[test]
fn control_sequences_in_foreign_text_do_not_reach_the_terminal() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .arg("--name")
        .arg(EVIL)
        .arg("--label")
        .arg(&format!("{EVIL}={EVIL}"))
        .env("CLICOLOR_FORCE", "1")
        .spawn();
    let script = format!(
        "echo '{}' >&3; exit 1",
        serde_json::json!({"progress": 1, "message": EVIL})
    );
    let odd = serde_json::json!({
        "command": "sh",
        "args": ["-c", script, EVIL],
        "labels": {EVIL: EVIL},
    });
    let missing = serde_json::json!({"command": format!("/no/{EVIL}")});
    let unsound = serde_json::json!({"command": "true", "env": {format!("{EVIL}="): "x"}});
    let jobs: Vec<_> = [odd, missing, unsound]
        .iter()
        .map(|envelope| naq.publish("build", envelope.to_string()))
        .collect();
    let ended: Vec<_> = jobs.iter().map(|job| naq.wait_ended(job).state()).collect();
    assert_eq!(ended, [State::Failed, State::Failed, State::Rejected]);
    // forced, since naq drops all escapes if the output is not a terminal
    let shown = |args: &[&str]| {
        let done = naq.cli(args.to_vec()).env("CLICOLOR_FORCE", "1").run();
        for text in [&done.stdout, &done.stderr] {
            assert_eq!(acting(text), None, "{args:?}: {text:?}");
        }
        done
    };
    for job in &jobs {
        let done = shown(&["status", job.as_str()]);
        assert!(done.stdout.contains("\\u{1b}]0;owned"), "{done:?}");
        shown(&["wait", job.as_str()]);
    }
    shown(&["queues"]);
    eventually("the worker listed", || {
        shown(&["list-workers"]).stdout.contains("\\u{202e}b")
    });
    shown(&[
        "enqueue",
        "-q",
        "build",
        "--wait",
        "--",
        &format!("/no/{EVIL}"),
    ]);
    shown(&["run", "--", &format!("/no/{EVIL}")]);
    shown(&["enqueue", "--id", EVIL, "--", "true"]);
    let file = naq.file(
        "envelope",
        serde_json::json!({EVIL: 1, "timeout": EVIL}).to_string(),
    );
    shown(&["enqueue", "--file", file.to_str().unwrap()]);
    // the worker logs what it rejects
    worker.expect_stderr("rejected");
    assert_eq!(acting(&worker.log()), None, "{:?}", worker.log());
}
