//! `naq run`: the job's output and exit code, as if it had been started by the shell.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn the_exit_code_is_the_jobs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (script, code) in [("exit 7", 7), ("kill -TERM $$", 143), ("true", 0)] {
        naq.cli(["run", "--", "sh", "-c", script]).run().exits(code);
    }
    naq.cli(["run", "--timeout", "300ms", "--", "sleep", "60"])
        .run()
        .exits(124)
        .expect_stderr(&["out of time"]);
    naq.cli(["run", "--", "/no/such"]).run().exits(127);
}

#[test]
fn output_and_errors_stay_apart() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let done = naq
        .cli(["run", "--", "sh", "-c", "echo out; echo err >&2"])
        .run()
        .succeeds();
    assert_eq!(done.stdout, "out\n");
    assert_eq!(done.stderr, "err\n");
}

#[test]
fn standard_input_reaches_the_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let cat = ["run", "--retries", "1", "--", "sh", "-c"];
    let twice = "cat; [ $NAQ_ATTEMPT = 2 ]";
    let done = naq.cli(cat.into_iter().chain([twice])).stdin("hi\n").run();
    assert_eq!(done.succeeds().stdout, "hi\nhi\n", "each attempt gets it");
    let bytes: Vec<u8> = (0..=255).collect();
    let copied = naq
        .cli(["run", "--", "cat"])
        .stdin(bytes.clone())
        .run_bytes();
    assert_eq!(copied.1, bytes);
    // an option says what the input is
    let done = naq
        .cli(["run", "--input", "[1]", "--", "cat"])
        .stdin("hi")
        .run();
    assert_eq!(done.succeeds().stdout, "[1]");
    let done = naq
        .cli(["run", "--script", "-"])
        .stdin("cat; echo script")
        .run();
    assert_eq!(done.succeeds().stdout, "script\n");
    // a job does not read a terminal
    let terminal = naq.cli(["run", "--", "cat"]).on_terminal();
    assert!(terminal.wait_exit().success());
    // more than a message can have
    let done = naq
        .cli(["run", "--", "cat"])
        .stdin(vec![b'x'; 2 << 20])
        .run();
    done.exits(6)
        .expect_stderr(&["put large input into a file"]);
}

#[test]
fn a_slow_reader_loses_nothing() {
    const BYTES: usize = 40_000_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let count = BYTES.to_string();
    let mut running = naq
        .cli(["run", "--", "head", "-c", &count, "/dev/zero"])
        .spawn();
    // more than all buffers on the way hold is written, or would be, by now
    std::thread::sleep(Duration::from_secs(1));
    assert!(running.is_running(), "the job waits for its reader");
    let mut read = 0;
    loop {
        match running.read_some().len() {
            0 => break,
            some => read += some,
        }
    }
    assert_eq!(read, BYTES);
}

#[test]
fn a_job_whose_reader_has_gone_is_stopped() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut running = naq.cli(["run", "--", "yes"]).spawn();
    assert!(running.read_some().starts_with(b"y\ny\n"));
    let status = running.close_stdout_and_wait();
    assert!(!status.success(), "{status}");
}

#[test]
fn a_second_interrupt_ends_a_run_while_nats_is_away() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let run = || {
        let running = naq.cli(["run", "--", "sh", "-c", "echo started; exec sleep 600"]);
        let running = running.follow();
        running.expect_stdout("started");
        running
    };
    let (mut once, twice) = (run(), run());
    server.kill9();
    once.signal(Signal::SIGINT);
    twice.signal(Signal::SIGINT);
    // two signals at once may arrive as one
    std::thread::sleep(Duration::from_millis(500));
    twice.signal(Signal::SIGINT);
    assert!(!twice.wait_exit().success());
    // the first signal leaves the job its grace
    assert!(once.is_running());
    once.kill9();
}
