//! Scripts and functions of languages, run by their runners.
//!
//! A test needs `python3`, as all of naq's tests do. What needs another language is skipped where it is
//! not installed; CI requires it.

mod conformance;
mod preparation;
mod warm;

use naq_protocol::{Reason, Record, State};

use crate::harness::naq::{Naq, eventually, id, text};
use crate::harness::nats::TestServer;

/// A module for the functions of these tests.
const TASKS: &str = r#"
import asyncio, sys

def count_words(text, *, min=1):
    print("counting")
    return {"words": len([word for word in text.split() if len(word) >= min])}

async def later(value):
    await asyncio.sleep(0)
    return value

def fail(message):
    raise ValueError(message)

def give_up():
    from naq import Fatal
    raise Fatal("no such customer")

def try_again():
    from naq import Retry
    raise Retry("not yet")

def echo_stdin():
    return sys.stdin.read()

def not_json():
    return {"a": [1, float("nan")]}
"#;

/// A worker whose jobs start in a folder with the module `tasks`.
fn naq_with_tasks(server: &TestServer) -> Naq {
    let naq = Naq::new(server);
    naq.file("tasks.py", TASKS);
    naq
}

/// Calls a function of the module `tasks` with these arguments, and waits for its end.
fn call(naq: &Naq, function: &str, args: &[&str]) -> Record {
    let function = format!("tasks:{function}");
    let options = ["--runner", "python", "--call", &function, "--"];
    let job = naq.enqueue(&[&options, args].concat());
    naq.wait_ended(&job)
}

#[test]
fn a_python_function_is_called_with_json_and_returns_its_result() {
    let server = TestServer::start();
    let naq = naq_with_tasks(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let kwargs = r#"{"min": 3}"#;
    let done = naq
        .cli([
            "enqueue",
            "--wait",
            "--json",
            "--runner",
            "python",
            "--call",
            "tasks:count_words",
            "--kwargs",
            kwargs,
            "--",
            r#""one or three""#,
        ])
        .run()
        .succeeds();
    let record: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(record["result"]["words"], 2, "{record}");
    assert_eq!(record["stdout"]["text"], "counting\n", "{record}");

    let record = call(&naq, "later", &[r#"{"a":[null,1.5]}"#]);
    assert_eq!(
        record.result.unwrap().get().replace(' ', ""),
        r#"{"a":[null,1.5]}"#
    );

    let record = call(&naq, "fail", &["\"no such city\""]);
    assert_eq!(record.reason(), Some(Reason::Exit), "{record:#?}");
    assert_eq!(record.exit_code, Some(1));
    assert_eq!(record.error.as_deref(), Some("ValueError: no such city"));
    let exception = record.exception.unwrap();
    assert_eq!(exception.kind, "ValueError");
    assert!(exception.trace.unwrap().contains("in fail"));
    assert!(text(record.stderr.as_ref()).contains("Traceback"));

    let record = call(&naq, "not_json", &[]);
    assert_eq!(record.state(), State::Failed, "{record:#?}");
    assert!(record.error.unwrap().contains("[1]"), "the path is named");

    let absent = call(&naq, "no_such_function", &[]);
    assert!(absent.exception.unwrap().fatal, "no retry helps");
}

#[test]
fn a_function_says_whether_to_retry_it() {
    let server = TestServer::start();
    let naq = naq_with_tasks(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let enqueue = |function: &str, retries: &str| {
        let job = naq.enqueue(&[
            "--runner",
            "python",
            "--call",
            function,
            "--retries",
            retries,
            "--retry-delay",
            "10ms",
        ]);
        naq.wait_ended(&job)
    };
    let record = enqueue("tasks:give_up", "3");
    assert_eq!(
        (record.state(), record.attempt),
        (State::Failed, 1),
        "{record:#?}"
    );
    let record = enqueue("tasks:try_again", "2");
    assert_eq!(record.exit_code, Some(75));
    assert_eq!(
        (record.state(), record.attempt),
        (State::Failed, 3),
        "{record:#?}"
    );
}

#[test]
fn a_script_is_run_by_the_runner_of_its_extension_and_by_its_first_line() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let plain = naq.file(
        "job.py",
        "import sys\nprint(sys.version_info[0], sys.argv[1:], sys.stdin.read())\n",
    );
    let line = naq.file("line.py", "#!/bin/sh\necho \"sh $1\"\n");
    let run = |file: &std::path::Path, options: &[&str]| {
        let file = file.to_str().unwrap();
        let args = [options, &["--script", file, "--", "a b"]].concat();
        let record = naq.wait_ended(&naq.enqueue(&args));
        assert_eq!(record.state(), State::Succeeded, "{record:#?}");
        text(record.stdout.as_ref()).to_owned()
    };
    assert_eq!(run(&plain, &["--input", "[1]"]), "3 ['a b'] [1]\n");
    assert_eq!(run(&line, &[]), "sh a b\n");
    let shell = naq.file("job", "echo \"plain $1\"\n");
    assert_eq!(run(&shell, &[]), "plain a b\n");
    assert_eq!(run(&shell, &["--runner", "sh"]), "plain a b\n");
}

#[test]
fn what_a_worker_cannot_run_is_refused_with_its_reason() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = naq.home().join("runners/cobol");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = "manifest = 1\nname = \"cobol\"\nprogram = [\"no-such-cobol\"]\n[probe]\nargv = [\"{program}\"]\n[script]\nargv = [\"{program}\", \"{file}\", \"{args}\"]\n";
    std::fs::write(folder.join("runner.toml"), manifest).unwrap();
    let _worker = naq
        .worker(&["default"])
        .env("NAQ_RUNNERS_DIR", "runners")
        .spawn();
    let unknown = naq.publish("default", r#"{"script":"x","runner":"fortran"}"#);
    let record = naq.wait_ended(&unknown);
    assert_eq!(record.state(), State::Rejected, "{record:#?}");
    assert!(record.error.unwrap().contains("no runner `fortran`"));
    let absent = naq.publish("default", r#"{"script":"x","runner":"cobol"}"#);
    let record = naq.wait_ended(&absent);
    assert_eq!(record.reason(), Some(Reason::Spawn), "{record:#?}");
    let error = record.error.unwrap();
    assert!(
        error.contains("`cobol`") && error.contains("no-such-cobol"),
        "{error}"
    );
    let none = naq.publish("default", r#"{"function":"m:f","runner":"sh"}"#);
    let record = naq.wait_ended(&none);
    assert!(record.error.unwrap().contains("calls no functions"));

    let checked = naq
        .cli([
            "runner",
            "--runners-dir",
            "runners",
            "check",
            "python",
            "cobol",
        ])
        .run()
        .exits(1);
    assert!(checked.stdout.contains("no-such-cobol"), "{checked:?}");
    let shown = naq.cli(["runner", "show", "python"]).run().succeeds();
    assert!(shown.stdout.contains("[function]"), "{shown:?}");
    naq.cli(["runner", "show", "cobol"]).run().exits(4);
    let listed = naq
        .cli(["runner", "--runners-dir", "runners"])
        .run()
        .succeeds();
    assert!(listed.stdout.contains("untested"), "{listed:?}");
    naq.cli([
        "enqueue", "--runner", "python", "--call", "m:f", "--", "text",
    ])
    .run()
    .exits(2)
    .expect_stderr(&["is JSON", r#"'"text"'"#]);
    naq.cli(["enqueue", "--call", "m:f"])
        .run()
        .exits(2)
        .expect_stderr(&["--runner python"]);
}

#[test]
fn a_worker_lists_the_runners_of_its_machine() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq
        .worker(&["default"])
        .env("NAQ_WORKER_HEARTBEAT_INTERVAL", "200ms")
        .spawn();
    eventually("python is listed", || {
        let workers = naq.block_on(naq.client().list_workers()).unwrap();
        let python = workers
            .first()
            .and_then(|worker| worker.runners.get("python"));
        python.is_some_and(|version| version.starts_with("3."))
    });
    let shown = naq.cli(["list-workers", "--runners"]).run().succeeds();
    assert!(shown.stdout.contains("python 3."), "{shown:?}");
}

#[test]
fn an_envelope_without_naq_calls_a_function_with_its_module_path() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    std::fs::create_dir(naq.home().join("src")).unwrap();
    naq.file("src/tasks.py", TASKS);
    let _worker = naq.worker(&["default"]).spawn();
    let envelope = r#"{"job_id":"words","function":"tasks:echo_stdin","runner":"python","module_path":["src"],"stdin":"hello"}"#;
    naq.publish("default", envelope);
    let record = naq.wait_ended(&id("words"));
    assert_eq!(
        record.result.unwrap().get(),
        "\"hello\"",
        "{:?}",
        record.stderr
    );
}
