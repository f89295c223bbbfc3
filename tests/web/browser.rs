//! Pages in a real browser. Without Chromium, Node and the packages of `tests/web/browser`, the tests are
//! skipped, and print why.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::Dashboard;
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;
use crate::harness::{find_program, is_required, skipped};

/// A script of `tests/web/browser` that tests pages. Killed when dropped.
pub(super) struct Browsing {
    node: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    printed: Vec<String>,
}

impl Browsing {
    /// Starts a script. `None` if something is not installed.
    #[expect(clippy::disallowed_methods, reason = "the browser of a user")]
    pub(super) fn start(script: &str, addresses: &[&str]) -> Option<Browsing> {
        let without = "no page is tested in a browser";
        let chromium = find_program("chromium", without)?;
        let node = find_program("node", without)?;
        let folder = Path::new(crate::ROOT).join("tests/web/browser");
        if !folder.join("node_modules/playwright-core").is_dir() {
            let install = "run `npm ci` in tests/web/browser";
            assert!(!is_required(), "{install}");
            skipped(&format!("{without}: {install}"));
            return None;
        }
        let mut node = Command::new(node)
            .arg(folder.join(script))
            .arg(chromium)
            .args(addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(node.stdout.take().unwrap()).lines();
        Some(Browsing {
            node,
            lines,
            printed: Vec::new(),
        })
    }

    /// Sends a line to the script.
    fn send(&mut self, line: &str) {
        writeln!(self.node.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    /// Waits until the script has printed this line.
    #[track_caller]
    pub(super) fn expect(&mut self, wanted: &str) {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            let is_wanted = line == wanted;
            self.printed.push(line);
            if is_wanted {
                return;
            }
        }
        panic!("no `{wanted}` in {:#?}", self.printed);
    }
}

impl Drop for Browsing {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

#[test]
fn an_open_page_is_live_outlives_the_dashboard_and_shows_text_as_text() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let Some(mut browsing) = Browsing::start("overview.mjs", &[&dashboard.login]) else {
        return;
    };
    browsing.expect("live");
    let hostile = "<img src=x onerror=alert(1)>";
    let words = [
        "enqueue", "-q", "build", "--id", "seen", "--", "echo", hostile,
    ];
    naq.cli(words).run().succeeds();
    browsing.expect("seen");
    let port = dashboard.address.rsplit(':').next().unwrap().to_owned();
    assert!(dashboard.process.stop().success());
    browsing.expect("away");
    let _again = Dashboard::of(&naq, naq.cli(["dashboard", "--port", &port]).follow());
    browsing.expect("back");
    browsing.expect("good");
}

#[test]
fn ten_pages_of_one_browser_share_one_stream() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done";
    let words = [
        "enqueue", "-q", "build", "--id", "talks", "--", "sh", "-c", script,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_running(&crate::harness::naq::id("talks"));
    let flow = r#"{"jobs":{"a":{"command":"true"},"b":{"command":"true","depends_on":["a"]}}}"#;
    let sent = dashboard.request("POST", "/api/flows?name=night&queue=other");
    sent.json(flow).send().expect(201);
    let Some(mut browsing) = Browsing::start("tabs.mjs", &[&dashboard.login]) else {
        return;
    };
    browsing.expect("ten");
    let enqueue = |id| {
        naq.cli(["enqueue", "-q", "other", "--id", id, "--", "true"])
            .run()
            .succeeds();
    };
    enqueue("seen");
    browsing.expect("seen");
    enqueue("again");
    browsing.expect("away");
    let port = dashboard.address.rsplit(':').next().unwrap().to_owned();
    assert!(dashboard.process.stop().success());
    std::fs::remove_file(naq.home().join("data/dashboard.token")).unwrap();
    let again = Dashboard::of(&naq, naq.cli(["dashboard", "--port", &port]).follow());
    browsing.expect("out");
    browsing.send(&again.token);
    browsing.expect("good");
}

#[test]
fn pages_are_used_by_keys_by_the_palette_and_by_saved_views() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    for id in ["one", "two", "three", "hostile-1"] {
        let words = [
            "enqueue", "-q", "build", "--id", id, "--wait", "--", "false",
        ];
        naq.cli(words).run();
    }
    let add = [
        "schedule",
        "--name",
        "nightly",
        "-q",
        "build",
        "--cron",
        "0 3 * * *",
        "--",
        "true",
    ];
    naq.cli(add).run().succeeds();
    let Some(mut browsing) = Browsing::start("keyboard.mjs", &[&dashboard.login]) else {
        return;
    };
    browsing.expect("keys");
    browsing.expect("palette");
    browsing.expect("good");
}

#[test]
fn an_open_page_of_a_job_follows_its_output_until_the_reader_scrolls_up() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(
        &naq,
        &[
            "--title=production,red",
            "--also=staging=https://staging.example.com/naq,green",
        ],
    );
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let script = r"while :; do printf '\033[32mline\033[0m <img src=x onerror=alert(1)>\n'; sleep 0.01; done";
    let words = [
        "enqueue", "-q", "build", "--id", "talks", "--", "sh", "-c", script,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_running(&crate::harness::naq::id("talks"));
    let flow = r#"{"jobs":{"a":{"command":"true"},"b":{"command":"true","depends_on":["a"]}}}"#;
    let sent = dashboard.request("POST", "/api/flows?name=night&queue=other");
    sent.json(flow).send().expect(201);
    let fails = r#"echo "<b>attempt</b> $NAQ_ATTEMPT" >&2; exit 3"#;
    let words = [
        "enqueue",
        "-q",
        "other",
        "--id",
        "twice",
        "--retries",
        "1",
        "--retry-delay",
        "10ms",
        "--",
        "sh",
        "-c",
        fails,
    ];
    naq.cli(words).run().succeeds();
    let _other = naq.cli(["worker", "other", "--quiet"]).follow();
    naq.wait_ended(&crate::harness::naq::id("twice"));
    let Some(mut browsing) = Browsing::start("job.mjs", &[&dashboard.login]) else {
        return;
    };
    browsing.expect("followed");
    browsing.expect("ended");
    browsing.expect("compared");
    browsing.expect("good");
}

#[test]
fn schedules_are_created_backfilled_and_deleted_in_the_browser() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--allow-submit"]);
    let Some(mut browsing) = Browsing::start("schedule.mjs", &[&dashboard.login]) else {
        return;
    };
    browsing.expect("created");
    browsing.expect("backfilled");
    let _worker = naq.worker(&["build", "beats"]).spawn();
    let _scheduler = naq.cli(["scheduler"]).follow();
    let add = [
        "schedule", "add", "--name", "beat", "-q", "beats", "--every", "500ms", "--", "false",
    ];
    naq.cli(add).run().succeeds();
    browsing.expect("good");
}

#[test]
fn a_job_is_enqueued_by_the_form_and_edited() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--allow-submit"]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let Some(mut browsing) = Browsing::start("enqueue.mjs", &[&dashboard.login]) else {
        return;
    };
    browsing.expect("checked");
    browsing.expect("edited");
    browsing.expect("good");
}

#[test]
fn the_output_of_an_ended_job_is_scrolled_searched_linked_and_copied() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let script = r"printf '\033[31mred\033[0m <script>alert(1)</script> \342\200\256 bidi\n'
head -c 10000000 /dev/zero | tr '\0' x; echo
seq 3 200000; echo '<img src=x onerror=alert(2)>' >&2";
    let words = [
        "enqueue", "-q", "build", "--id", "long", "--output", "16M", "--", "sh", "-c", script,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_ended(&crate::harness::naq::id("long"));
    let Some(mut browsing) = Browsing::start("output.mjs", &[&dashboard.login]) else {
        return;
    };
    browsing.expect("good");
}

#[test]
fn a_group_is_retried_and_undone_on_its_page() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let worker = naq.worker(&["build"]).spawn();
    for n in ["1", "2", "3"] {
        let hostile = "echo '<img src=x onerror=alert(1)>' >&2; exit 3";
        let job = naq.enqueue(&["-q", "build", "--id", n, "--", "sh", "-c", hostile]);
        naq.wait_ended(&job);
    }
    assert!(worker.stop().success());
    let Some(mut browsing) = Browsing::start("actions.mjs", &[&dashboard.login]) else {
        return;
    };
    for step in ["retried", "undone", "cancelled", "good"] {
        browsing.expect(step);
    }
    assert_eq!(naq.dead_letters().len(), 3);
}
