//! `naq nats-config --check`.

use serde_json::Value;

use super::fleet::{Fleet, path};
use crate::harness::naq::{Naq, start_plain_server};
use crate::harness::nats::TestServer;

fn rows(printed: &str) -> Vec<Value> {
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_generated_users_may_do_what_their_roles_need_and_nothing_else() {
    let fleet = Fleet::start(&["--queue", "build", "--nkeys"]);
    fleet.run("operator", &["queue", "add", "build"]);
    let worker = fleet.start_service("worker", &["worker", "build"], "buckets are ready");
    let enqueue = [
        "enqueue", "--queue", "build", "--wait", "--id", "one", "--", "echo", "hello",
    ];
    fleet.run("producer", &enqueue);
    worker.stop();
    let state = || {
        let jobs = fleet.run("reader", &["jobs", "--json"]);
        [jobs, fleet.run("reader", &["failed", "list", "--json"])]
    };
    let before = state();
    let naq = fleet.naq();
    let folder = naq.home().join("fleet");
    let words = [
        "nats-config",
        "--check",
        "--queue",
        "build",
        "--out",
        path(&folder),
    ];
    let check = |more: &[&str]| {
        let cli = naq.cli(words.iter().chain(more).copied());
        cli.without_env("NAQ_TOKEN")
            .without_env("NAQ_NATS_URL")
            .run()
    };
    let checked = check(&["--json"]).succeeds();
    let checked = rows(&checked.stdout);
    assert!(checked.len() > 50, "{checked:#?}");
    for row in &checked {
        assert_eq!(row["expected"], row["found"], "{row}");
        assert_eq!(row["subjects"], serde_json::json!([]), "{row}");
    }
    let of = |role: &str, operation: &str, expected: &str| {
        checked.iter().any(|row| {
            row["role"] == role && row["operation"] == operation && row["expected"] == expected
        })
    };
    assert!(of("worker", "pull jobs", "allowed") && of("producer", "forge a record", "denied"));
    assert_eq!(state(), before, "a check changes nothing");
    // for people
    let table = check(&[]).succeeds().stdout;
    assert!(
        table.contains("ROLE") && table.contains("forge a record"),
        "{table}"
    );
}

#[test]
fn too_few_and_too_many_permissions_are_found() {
    let fleet = Fleet::start(&["--queue", "build", "--nkeys", "--role", "worker"]);
    let words = [
        "nats-config",
        "--check",
        "--queue",
        "deploy",
        "--role",
        "worker",
        "--json",
    ];
    let done = fleet.cli("worker", &words).run().exits(1);
    let denied: Vec<Value> = rows(&done.stdout);
    let pulling = denied
        .iter()
        .find(|row| row["operation"] == "pull jobs")
        .unwrap();
    assert_eq!(
        (&pulling["expected"], &pulling["found"]),
        (&"allowed".into(), &"denied".into())
    );
    let subjects = pulling["subjects"].to_string();
    assert!(
        subjects.contains("$JS.ACK.naq_queue_deploy.>"),
        "{subjects}"
    );
    done.expect_stderr(&["nats-config"]);

    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_open, port) = start_plain_server(&naq, &["-js"]);
    let url = format!("nats://127.0.0.1:{port}");
    let words = [
        "nats-config",
        "--check",
        "--role",
        "producer",
        "--json",
        "--nats-url",
        &url,
    ];
    let done = naq.cli(words).without_env("NAQ_TOKEN").run().exits(1);
    let forging = rows(&done.stdout);
    let forging = forging
        .iter()
        .find(|row| row["operation"] == "forge a record")
        .unwrap();
    assert_eq!(
        (&forging["expected"], &forging["found"]),
        (&"denied".into(), &"allowed".into())
    );
}

#[test]
fn a_check_without_a_folder_is_about_one_role() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let done = naq.cli(["nats-config", "--check"]).run().exits(2);
    done.expect_stderr(&["--role"]);
}
