//! Functions in warm processes.

use std::fs::{File, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use naq_protocol::{Reason, Record, State};
use nix::sys::signal::Signal;

use super::{TASKS, call};
use crate::harness::is_root;
use crate::harness::naq::{Naq, Worker, eventually, text};
use crate::harness::nats::TestServer;

/// What the functions of these tests need besides [`TASKS`].
const MORE_TASKS: &str = r#"
import fcntl, os, signal, subprocess, time

counter = 0

def count():
    global counter
    counter += 1
    return [counter, os.getppid()]

def sleep_deaf(seconds):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(seconds)

def nap():
    time.sleep(60)

def leave_daemon(path):
    subprocess.Popen(["setsid", "sh", "-c", f"sleep 1; echo alive > {path}"], start_new_session=True)
    return True

def kill_parent():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def surroundings():
    return {"mark": os.environ.get("MARK"), "leads": os.getsid(0) == os.getpid()}

def user():
    return [os.getuid(), os.getgid(), os.getgroups()]

def wait_for_file(path):
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        while not os.path.exists(path):
            time.sleep(0.02)

def write_work_dir():
    with open(os.path.join(os.environ["NAQ_WORK_DIR"], "file"), "w") as file:
        file.write("x")
    return os.listdir(os.environ["NAQ_WORK_DIR"])
"#;

/// A worker that keeps `count` Python processes ready, which have loaded `tasks`.
fn warm_worker(naq: &Naq, count: usize) -> Worker {
    naq.file("tasks.py", format!("{TASKS}{MORE_TASKS}"));
    naq.worker(&["default"])
        .concurrency(count)
        .arg("--kill-grace=300ms")
        .arg(&format!("--warm=python={count}"))
        .arg("--preload=tasks")
        .spawn()
}

/// Why a job ran in a process of its own. `None` if it ran in a warm one.
fn why_cold(record: &Record) -> Option<&String> {
    let mut warnings = record.warnings.iter();
    warnings.find(|text| text.contains("and not in a warm one"))
}

/// Calls a function of the module `tasks` in a warm process.
fn call_warm(naq: &Naq, function: &str, args: &[&str]) -> Record {
    let record = call(naq, function, args);
    assert_eq!(why_cold(&record), None, "{record:#?}");
    record
}

/// Waits until a call runs in a warm process.
fn wait_until_warm(naq: &Naq) {
    eventually("a warm process is ready", || {
        why_cold(&call(naq, "surroundings", &[])).is_none()
    });
}

fn result(record: &Record) -> serde_json::Value {
    let result = record.result.as_ref();
    let result = result.unwrap_or_else(|| panic!("no result: {record:#?}"));
    serde_json::from_str(result.get()).expect("a result is JSON")
}

#[test]
fn functions_in_forked_children_see_nothing_of_each_other() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = warm_worker(&naq, 1);
    wait_until_warm(&naq);
    let [first, second] = [(), ()].map(|()| result(&call_warm(&naq, "count", &[])));
    assert_eq!(first[0], 1);
    assert_eq!(first, second, "the same parent, and globals of its own");

    let record = call_warm(&naq, "fail", &["\"no such city\""]);
    assert_eq!(record.error.as_deref(), Some("ValueError: no such city"));
    assert!(text(record.stderr.as_ref()).contains("Traceback"));
    let record = call_warm(&naq, "crash", &[]);
    assert_eq!(record.reason(), Some(Reason::Signal), "{record:#?}");
    assert_eq!(record.signal, Some(11));

    let enqueue = |options: &[&str], function: &str| {
        let call = ["--runner", "python", "--call", function];
        naq.wait_ended(&naq.enqueue(&[options, &call].concat()))
    };
    let record = enqueue(&["--env", "MARK=1"], "tasks:surroundings");
    assert_eq!(result(&record)["mark"], "1");
    assert_eq!(result(&record)["leads"], true);
    let record = call_warm(&naq, "surroundings", &[]);
    assert!(result(&record)["mark"].is_null(), "{record:#?}");

    let tasks = naq.home().join("tasks.py").display().to_string();
    let record = enqueue(&["--stdin", &tasks], "tasks:echo_stdin");
    assert_eq!(why_cold(&record), None, "{record:#?}");
    assert!(result(&record).as_str().unwrap().contains("import asyncio"));
    for _ in 0..2 {
        let record = call_warm(&naq, "write_work_dir", &[]);
        assert_eq!(result(&record), serde_json::json!(["file"]));
    }
}

/// A module that knows which process has loaded it: its name, and its text.
const LOADED: [(&str, &str, &str); 3] = [
    (
        "python",
        "loaded.py",
        "import os\nloaded_by = os.getpid()\ndef pids():\n    return [loaded_by, os.getpid()]\n",
    ),
    (
        "ruby",
        "loaded.rb",
        "$loaded_by = Process.pid\ndef pids = [$loaded_by, Process.pid]\n",
    ),
    (
        "perl",
        "loaded.pl",
        "our $loaded_by = $$; sub pids { return [$loaded_by, $$] } 1;\n",
    ),
];

#[test]
fn a_preloaded_module_is_loaded_once_by_the_process_that_forks() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (language, file, source) in LOADED {
        if naq.cli(["runner", "check", language]).run().code != Some(0) {
            assert!(!crate::harness::is_required(), "{language} does not work");
            crate::harness::skipped(&format!("{language} is not installed"));
            continue;
        }
        naq.file(file, source);
        let worker = naq.worker(&[language]).concurrency(1);
        let worker = worker.arg(&format!("--warm={language}"));
        let worker = worker.arg(&format!("--preload=./{file}"));
        let _worker = worker.spawn();
        let function = format!("./{file}:pids");
        let mut last = serde_json::Value::Null;
        eventually("two calls have one loader", || {
            let record = naq.wait_ended(&naq.enqueue(&["--queue", language, "--call", &function]));
            let before = std::mem::replace(&mut last, result(&record));
            // a process of its own has loaded the module itself
            last[0] != last[1] && before[0] == last[0]
        });
    }
}

#[test]
fn a_job_in_a_warm_process_is_stopped_and_cleaned_up_as_any_other() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = warm_worker(&naq, 1);
    wait_until_warm(&naq);
    let timed = |function: &str| {
        let options = [
            "--timeout",
            "300ms",
            "--runner",
            "python",
            "--call",
            function,
        ];
        naq.wait_ended(&naq.enqueue(&options))
    };
    let record = timed("tasks:nap");
    assert_eq!(record.reason(), Some(Reason::Timeout), "{record:#?}");
    assert!(
        text(record.stderr.as_ref()).contains("Cancelled"),
        "TERM came first"
    );
    // the parent has survived that
    call_warm(&naq, "count", &[]);

    let alive = naq.home().join("alive");
    let record = call_warm(&naq, "leave_daemon", &[&format!("\"{}\"", alive.display())]);
    assert!(record.leaked, "{record:#?}");
    assert_eq!(result(&call_warm(&naq, "count", &[]))[0], 1);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(!alive.exists(), "the daemon was killed");

    let options = [
        "--timeout",
        "200ms",
        "--runner",
        "python",
        "--call",
        "tasks:sleep_deaf",
    ];
    let deaf = naq.enqueue(&[&options[..], &["--", "60"]].concat());
    let record = naq.wait_ended(&deaf);
    assert_eq!(record.reason(), Some(Reason::Timeout), "{record:#?}");
    wait_until_warm(&naq);

    let record = call(&naq, "kill_parent", &[]);
    assert_ne!(record.state(), State::Succeeded, "{record:#?}");
    wait_until_warm(&naq);
}

#[test]
fn a_warm_job_is_cancelled_and_a_worker_with_warm_processes_drains() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = warm_worker(&naq, 2);
    wait_until_warm(&naq);
    let job = naq.enqueue(&["--runner", "python", "--call", "tasks:nap"]);
    naq.wait_running(&job);
    naq.cli(["cancel", job.as_str()]).run().succeeds();
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Cancelled, "{record:#?}");
    assert!(worker.stop().success());
}

/// A warm process and the job in it end with their worker, however it ends.
#[test]
fn a_warm_job_whose_worker_is_killed_runs_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file("tasks.py", format!("{TASKS}{MORE_TASKS}"));
    let warm = || {
        let worker = naq.worker(&["default"]).concurrency(1).ack_wait("2s");
        worker.arg("--warm=python=1").arg("--preload=tasks")
    };
    let worker = warm().spawn();
    wait_until_warm(&naq);
    let file = naq.home().join("go");
    let argument = serde_json::json!(file.to_str().unwrap()).to_string();
    let options = ["--runner", "python", "--call", "tasks:wait_for_file", "--"];
    let job = naq.enqueue(&[&options[..], &[&argument]].concat());
    naq.wait_running(&job);
    let lock = File::create(naq.home().join("go.lock")).unwrap();
    let is_running = || matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
    eventually("the job has its lock", || {
        let is_locked = is_running();
        lock.unlock().unwrap();
        is_locked
    });
    worker.signal(Signal::SIGKILL);
    worker.wait_exit();
    eventually("the job has ended with its worker", || !is_running());
    lock.unlock().unwrap();
    let _next = warm().spawn();
    let record = naq.wait_for(&job, "running again", |record| record.attempt == 2);
    assert_eq!(record.state(), State::Running, "{record:#?}");
    naq.file("go", "");
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(why_cold(&record), None, "{record:#?}");
}

#[test]
fn warm_processes_run_as_the_user_of_jobs() {
    if !is_root("warm processes of another user") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file("tasks.py", format!("{TASKS}{MORE_TASKS}"));
    let everybody = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(naq.home(), everybody).unwrap();
    let worker = naq.worker(&["default"]).concurrency(1);
    let worker = worker.arg("--warm=python=1").arg("--preload=tasks");
    let _worker = worker.arg("--run-as=65534:65534").spawn();
    wait_until_warm(&naq);
    let record = call_warm(&naq, "user", &[]);
    assert_eq!(result(&record), serde_json::json!([65534, 65534, [65534]]));
}

#[test]
fn a_changed_file_replaces_warm_processes() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = warm_worker(&naq, 1);
    wait_until_warm(&naq);
    let changed = format!("{TASKS}{MORE_TASKS}\ndef count():\n    return 'new'\n");
    naq.file("tasks.py", changed);
    eventually("the new code runs", || {
        result(&call(&naq, "count", &[])) == "new"
    });
}

#[test]
fn a_file_that_a_reused_process_has_loaded_replaces_it_when_it_changes() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file("tasks.py", TASKS);
    naq.file("other.py", "def value():\n    return 'old'\n");
    naq.file(
        "lazy.py",
        "def value():\n    import other\n    return other.value()\n",
    );
    // nothing is preloaded: the first call loads both files
    let _worker = naq
        .worker(&["default"])
        .concurrency(1)
        .arg("--warm=python:reuse")
        .spawn();
    let value = || {
        let job = naq.enqueue(&["--runner", "python", "--call", "lazy:value"]);
        naq.wait_ended(&job)
    };
    eventually("a warm process is ready", || why_cold(&value()).is_none());
    assert_eq!(result(&value()), "old");
    naq.file("other.py", "def value():\n    return 'the new one'\n");
    eventually("the new code runs", || result(&value()) == "the new one");
}

/// Functions that leave something in their process.
const COUNTING_TASKS: &str = r#"
import os, subprocess, sys, threading, time

number = 0

def count():
    global number
    number += 1
    print("out")
    return number

def fail():
    raise TypeError("no")

def leave_process():
    return subprocess.Popen(["sleep", "1000"]).pid

def leave_thread():
    def work():
        time.sleep(0.2)
        print("late")
    threading.Thread(target=work, name="left").start()

def fork_and_exit():
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    os.waitpid(pid, 0)

def close():
    os.close(1)

def wait():
    print("ready", flush=True)
    time.sleep(1000)
"#;

#[test]
fn a_reused_process_of_python_runs_one_call_after_another() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file("tasks.py", COUNTING_TASKS);
    let worker = naq
        .worker(&["default"])
        .concurrency(1)
        .arg("--kill-grace=300ms")
        .arg("--warm=python:reuse")
        .spawn();
    let call = |function: &str| {
        let function = format!("tasks:{function}");
        naq.wait_ended(&naq.enqueue(&["--runner", "python", "--call", &function]))
    };
    let counted = || {
        let record = call("count");
        assert_eq!(text(record.stdout.as_ref()), "out\n", "{record:#?}");
        result(&record)
    };
    // before a warm process is ready, each call is the first one of its own
    eventually("two calls in one process", || counted() == 2);
    let record = call("fail");
    assert_eq!(
        record.error.as_deref(),
        Some("TypeError: no"),
        "{record:#?}"
    );
    // what a job leaves running is killed, and the process runs the next one
    let left = result(&call("leave_process")).as_i64().unwrap();
    assert!(left > 0);
    assert_eq!(counted(), 3);
    // a child that it forks does not serve the worker
    assert_eq!(call("fork_and_exit").state(), State::Succeeded);
    assert_eq!(counted(), 4);
    // a process without its standard output is replaced
    assert_eq!(call("close").state(), State::Succeeded);
    assert_eq!(counted(), 1);
    // a thread that is left running ends with its job, and the process too
    let record = call("leave_thread");
    assert_eq!(text(record.stdout.as_ref()), "late\n", "{record:#?}");
    assert_eq!(counted(), 1);
    assert!(
        worker
            .log()
            .contains("the job has left threads running: left")
    );
    // a job that is stopped ends its process
    let job = naq.enqueue(&["--runner", "python", "--call", "tasks:wait"]);
    naq.wait_running(&job);
    naq.cli(["cancel", job.as_str()]).run().succeeds();
    assert_eq!(naq.wait_ended(&job).state(), State::Cancelled);
    assert_eq!(counted(), 1);
}

/// Whether a reused process has started a job must be known whatever it does next.
#[test]
fn a_call_that_ends_its_reused_process_runs_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file(
        "tasks.py",
        r#"
import os, signal

def end(path, by_signal):
    with open(path, "a") as file:
        file.write("x")
    if by_signal:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)
"#,
    );
    naq.file(
        "tasks.mjs",
        r#"
import fs from "node:fs";

export function end(path, bySignal) {
  fs.appendFileSync(path, "x");
  if (bySignal) process.kill(process.pid, "SIGKILL");
  process.exit(3);
}
"#,
    );
    let has_node = naq.cli(["runner", "check", "node"]).run().code == Some(0);
    let mut worker = naq
        .worker(&["default"])
        .concurrency(1)
        .arg("--warm=python:reuse");
    if has_node {
        worker = worker.arg("--warm=node:reuse");
    }
    let _worker = worker.spawn();
    let mut warm_runs = 0;
    for round in 0..12 {
        let by_signal = round % 2 == 0;
        let (runner, call) = match round % 4 < 2 && has_node {
            true => ("node", "./tasks.mjs:end"),
            false => ("python", "tasks:end"),
        };
        let path = naq.home().join(format!("ran-{round}"));
        let envelope = serde_json::json!({
            "runner": runner, "function": call, "args": [path, by_signal],
        });
        let record = naq.wait_ended(&naq.publish("default", envelope.to_string()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x", "{record:#?}");
        let expected = match by_signal {
            true => (None, Some(9)),
            false => (Some(3), None),
        };
        assert_eq!((record.exit_code, record.signal), expected, "{record:#?}");
        warm_runs += usize::from(record.warnings.is_empty());
    }
    assert!(warm_runs > 0);
}

/// It may continue at any time, and must not run then what another process has run.
#[test]
fn a_call_that_a_stopped_reused_process_does_not_take_runs_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file(
        "tasks.py",
        r#"
import os

def mark(path):
    with open(path, "a") as file:
        file.write("x")
    return os.getpid()
"#,
    );
    let _worker = naq
        .worker(&["default"])
        .concurrency(1)
        .with_host_pids()
        .arg("--warm=python:reuse")
        .spawn();
    let path = naq.home().join("ran");
    let path_json = serde_json::json!(path).to_string();
    let call = || {
        let job = naq.enqueue(&[
            "--runner",
            "python",
            "--call",
            "tasks:mark",
            "--",
            &path_json,
        ]);
        naq.wait_ended(&job)
    };
    let mut pid = 0;
    eventually("two calls in one process", || {
        let before = pid;
        pid = result(&call()).as_i64().unwrap();
        pid == before
    });
    let runs = || std::fs::read_to_string(&path).unwrap().len();
    let before = runs();
    let process = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(process, Signal::SIGSTOP).unwrap();
    let record = call();
    assert!(
        record.warnings[0].contains("no warm process was ready"),
        "{record:#?}"
    );
    // it was killed
    assert!(nix::sys::signal::kill(process, Signal::SIGCONT).is_err());
    assert_eq!(runs(), before + 1, "{record:#?}");
}

/// The process of a job whose files are still being stored runs the next job, which is not the one to stop.
#[test]
fn a_cancel_of_a_job_that_stores_its_files_does_not_stop_the_next_one() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file(
        "tasks.py",
        r#"
import os, time

def pid():
    return os.getpid()

def keep_file():
    with open(os.path.join(os.environ["NAQ_WORK_DIR"], "large"), "wb") as file:
        file.truncate(400 << 20)
    os.write(3, b'{"artifact": "large"}\n')
    return os.getpid()

def nap():
    time.sleep(1)
    return os.getpid()
"#,
    );
    let _worker = naq
        .worker(&["default"])
        .concurrency(2)
        .arg("--warm=python:reuse=1")
        .spawn();
    let enqueue = |function: &str| {
        let function = format!("tasks:{function}");
        naq.enqueue(&["--runner", "python", "--call", &function])
    };
    let mut pid = serde_json::Value::Null;
    eventually("two calls in one process", || {
        let called = result(&naq.wait_ended(&enqueue("pid")));
        called == std::mem::replace(&mut pid, called.clone())
    });
    let keeping = enqueue("keep_file");
    naq.wait_running(&keeping);
    let napping = enqueue("nap");
    naq.wait_running(&napping);
    std::thread::sleep(Duration::from_millis(300));
    naq.cli(["cancel", keeping.as_str()])
        .run()
        .succeeds()
        .expect_stdout("stopping");
    let record = naq.wait_ended(&napping);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(result(&record), pid, "it ran in the same process");
}

#[test]
fn a_mode_that_a_runner_lacks_is_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (warm, why) in [
        (
            "perl:reuse",
            "the runner `perl` has no mode `reuse`; it has fork, standby",
        ),
        (
            "python:pool",
            "the mode `pool` is none of fork, standby, reuse",
        ),
        ("python:fork=0", "write a number from 1 on"),
    ] {
        let worker = naq.cli(["worker", "--warm", warm]).run();
        worker.exits(2).expect_stderr(&[why]);
    }
    let twice = naq.cli(["worker", "--warm=python=2", "--warm=python:reuse"]);
    twice
        .run()
        .exits(2)
        .expect_stderr(&["`python` is given twice"]);
}

#[test]
fn what_a_warm_process_cannot_do_is_done_cold_and_said() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = warm_worker(&naq, 1);
    wait_until_warm(&naq);
    let options = [
        "--cpu-time",
        "5s",
        "--runner",
        "python",
        "--call",
        "tasks:count",
    ];
    let record = naq.wait_ended(&naq.enqueue(&options));
    assert_eq!(record.state(), State::Succeeded);
    assert!(why_cold(&record).unwrap().contains("limits"), "{record:#?}");
    naq.cli(["worker", "--warm", "sh"])
        .run()
        .exits(2)
        .expect_stderr(&["no warm processes"]);
}

#[test]
fn a_warm_process_that_cannot_start_leaves_its_jobs_to_cold_ones() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file("tasks.py", TASKS);
    let _worker = naq
        .worker(&["default"])
        .arg("--warm=python=1")
        .arg("--preload=no_such_module")
        .spawn();
    let record = call(&naq, "count_words", &["\"a b\""]);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert!(why_cold(&record).is_some(), "{record:#?}");
}

#[test]
fn a_warm_process_of_node_runs_one_call_after_another() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let source = "let n = 0;\n\
        export const count = () => { console.log('out'); return [++n, process.pid]; };\n\
        export const fail = () => { throw new TypeError('no'); };\n";
    naq.file("tasks.mjs", source);
    if naq.cli(["runner", "check", "node"]).run().code != Some(0) {
        assert!(!crate::harness::is_required(), "node does not work here");
        crate::harness::skipped("node is not installed");
        return;
    }
    let _worker = naq
        .worker(&["default"])
        .concurrency(1)
        .arg("--warm=node")
        .spawn();
    let call = |function: &str| {
        let job = naq.enqueue(&["--call", &format!("./tasks.mjs:{function}")]);
        naq.wait_ended(&job)
    };
    let mut last = serde_json::Value::Null;
    eventually("two calls in one process", || {
        let record = call("count");
        assert_eq!(text(record.stdout.as_ref()), "out\n", "{record:#?}");
        let before = std::mem::replace(&mut last, result(&record));
        before[1] == last[1]
    });
    assert_eq!(last[0], 2, "it ran in the same process");
    let record = call("fail");
    assert_eq!(
        record.error.as_deref(),
        Some("TypeError: no"),
        "{record:#?}"
    );
    assert_eq!(call("count").state(), State::Succeeded);
}
