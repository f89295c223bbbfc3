//! What a job's output and exit code do not show.

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn a_killed_daemon_and_a_hit_limit_are_reported_by_every_verb() {
    const DAEMON: &str = "setsid sleep 600 & echo started";
    const LEAKED: &str = "processes that it started outlived it and were killed";
    const LIMIT: &str = "it wrote a file up to its file size limit of 4K";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let enqueue = |id: &str| ["enqueue", "-q", "build", "--wait", "--id", id].map(str::to_owned);
    let daemon = ["--", "sh", "-c", DAEMON].map(str::to_owned);
    let writes = "exec head -c 100000 /dev/zero > $NAQ_WORK_DIR/file";
    let limited = ["--file-size", "4K", "--", "sh", "-c", writes].map(str::to_owned);
    let run = |args: &[String]| naq.cli(args.iter().cloned()).run();
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };

    run(&[&enqueue("daemon")[..], &daemon].concat())
        .exits(0)
        .expect_stderr(&[LEAKED]);
    run(&[&words(&["run"])[..], &daemon].concat())
        .exits(0)
        .expect_stderr(&[LEAKED]);
    run(&words(&["wait", "daemon"]))
        .exits(0)
        .expect_stderr(&[LEAKED]);
    run(&words(&["status", "daemon"]))
        .exits(0)
        .expect_stdout(LEAKED);

    run(&[&enqueue("limited")[..], &limited].concat())
        .exits(153)
        .expect_stderr(&[LIMIT]);
    run(&[&words(&["run"])[..], &limited].concat())
        .exits(153)
        .expect_stderr(&[LIMIT]);
    run(&words(&["wait", "limited"]))
        .exits(1)
        .expect_stdout("limited  failed (file_size)");
    let status = run(&words(&["status", "limited"])).exits(0);
    status
        .expect_stdout("failed (file_size)")
        .expect_stdout(LIMIT);
    // a job without remarks has none
    let quiet = run(&[&words(&["run", "--", "true"])[..]].concat()).exits(0);
    assert_eq!(quiet.stderr, "");
}
