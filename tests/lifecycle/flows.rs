//! Flows: jobs in one file that depend on each other.

use naq_protocol::{Reason, State};

use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::TestServer;

const FLOW: &str = r#"{"jobs": {
    "report": {"command": "echo", "args": ["done"], "depends_on": ["left", "right"]},
    "left": {"command": "true", "depends_on": ["start"]},
    "right": {"command": "true", "depends_on": ["start"], "queue": "other"},
    "start": {"command": "true"},
    "alarm": {"command": "true", "depends_on": [{"job": "report", "on": "failure"}]}
}}"#;

#[test]
fn flow_runs_in_order_across_several_queues() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let file = naq.file("flow.json", FLOW);
    let file = file.to_str().unwrap();
    let done = naq
        .cli(["enqueue", "--id", "night", "--file", file])
        .run()
        .succeeds();
    assert_eq!(
        done.stdout.lines().collect::<Vec<_>>(),
        [
            "night-start",
            "night-left",
            "night-right",
            "night-report",
            "night-alarm"
        ]
    );
    let _worker = naq.worker(&["default", "other"]).concurrency(2).spawn();
    let record = naq.wait_ended(&id("night-report"));
    assert_eq!(text(record.stdout.as_ref()), "done\n");
    assert_eq!(record.labels.get("flow").map(String::as_str), Some("night"));
    assert_eq!(naq.wait_ended(&id("night-right")).queue.as_str(), "other");
    let alarm = naq.wait_ended(&id("night-alarm"));
    assert_eq!(alarm.reason(), Some(Reason::Dependency));
    for named in ["night", "night-left"] {
        let tree = naq.cli(["status", "--tree", named]).run().succeeds();
        let lines: Vec<&str> = tree.stdout.lines().collect();
        assert_eq!(
            lines,
            [
                "night-start  succeeded",
                "├─ night-left  succeeded",
                "│  └─ night-report  succeeded  after night-right",
                "│     └─ night-alarm  failed (dependency)  after night-report (failure)",
                "└─ night-right  succeeded",
            ]
        );
    }
    // Enqueuing the same flow under the same name is idempotent.
    naq.cli(["enqueue", "--id", "night", "--file", file])
        .run()
        .succeeds();
    naq.wait_drained("default");
    assert_eq!(naq.wait_ended(&id("night-report")).attempt, 1);
}

#[test]
fn flow_is_cancelled_by_its_label() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let done = naq
        .cli(["enqueue", "--id", "night", "--file", "-"])
        .stdin(FLOW)
        .run()
        .succeeds();
    assert_eq!(done.stdout.lines().count(), 5);
    let other = naq.enqueue(&["--", "true"]);
    naq.cli(["cancel", "--label", "flow=night"])
        .run()
        .exits(2)
        .expect_stderr(&["--yes"]);
    let done = naq
        .cli(["cancel", "--label", "flow=night", "--yes"])
        .run()
        .succeeds();
    assert_eq!(done.stdout.lines().count(), 5, "{}", done.stdout);
    let _worker = naq.worker(&["default", "other"]).spawn();
    assert_eq!(naq.wait_ended(&other).state(), State::Succeeded);
    for job in ["night-start", "night-report", "night-alarm"] {
        assert_eq!(naq.wait_ended(&id(job)).state(), State::Cancelled, "{job}");
    }
}

#[test]
fn invalid_flow_is_refused_and_enqueues_nothing() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (flow, words) in [
        (
            r#"{"jobs": {"a": {"command": "x", "depends_on": ["b"]}, "b": {"command": "x", "depends_on": ["a"]}}}"#,
            "a → b → a",
        ),
        (
            r#"{"jobs": {"a": {"command": "x", "depends_on": ["typo"]}}}"#,
            "typo",
        ),
        (r#"{"jobs": {"a": {"args": []}}}"#, "jobs.a"),
        (
            "{\"jobs\": {\"a\": {\"command\": \"x\"}}}\n{\"command\": \"y\"}",
            "after the flow",
        ),
    ] {
        naq.cli(["enqueue", "--file", "-"])
            .stdin(flow)
            .run()
            .exits(6)
            .expect_stderr(&[words]);
    }
    naq.cli(["enqueue", "--file", "-", "--id", "x"])
        .stdin(r#"{"command": "true"}"#)
        .run()
        .exits(2)
        .expect_stderr(&["--id"]);
    naq.add_queue("default");
    assert_eq!(naq.stream_messages("default"), 0);
    naq.cli(["status", "--tree", "nothing"]).run().exits(4);
}

#[test]
fn dependency_tree_without_a_flow_is_shown_from_either_end() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&["--id", "top", "--depends-on", "middle", "--", "true"]);
    naq.enqueue(&["--id", "middle", "--depends-on", "ghost", "--", "true"]);
    for job in ["top", "middle"] {
        naq.wait_for(&id(job), "waiting", |record| {
            record.state() == State::Waiting
        });
    }
    for named in ["top", "middle"] {
        let tree = naq.cli(["status", "--tree", named]).run().succeeds();
        assert_eq!(
            tree.stdout.lines().collect::<Vec<_>>(),
            ["ghost  unknown", "└─ middle  waiting", "   └─ top  waiting"],
            "{named}"
        );
    }
}
