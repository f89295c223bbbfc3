//! The programs under `examples/` do what they say.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod foreign_worker;
mod functions;
mod pipelines;
mod producers;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::naq::{ALLOW_ROOT, Naq};
use crate::harness::nats::{TestServer, binary, naq};
use crate::harness::python::python;
use crate::schemas::assert_records_are_valid;

#[expect(
    clippy::disallowed_methods,
    reason = "examples are started as a user would"
)]
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in naq_client::config::environment() {
        if name.starts_with("NAQ_") {
            command.env_remove(name);
        }
    }
    let bin = naq().parent().unwrap().to_str().unwrap();
    let path = naq_client::config::environment()
        .get("PATH")
        .cloned()
        .unwrap_or_default();
    command.env("PATH", format!("{bin}:{path}"));
    command
}

fn example(name: &str) -> PathBuf {
    Path::new(crate::ROOT).join("examples").join(name)
}

fn text(output: &Output) -> String {
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{out}\n{error}", output.status);
    out.into_owned()
}

/// A server and a worker of one queue.
struct Served {
    server: TestServer,
    worker: Child,
}

impl Served {
    fn start(queue: &str) -> Served {
        let server = TestServer::start();
        let mut worker = command(naq());
        worker
            .args([
                "worker",
                queue,
                "--concurrency",
                "2",
                "--log-level",
                "error",
            ])
            .env("NAQ_NATS_URL", server.url())
            .env("NAQ_TOKEN", server.token())
            .env(ALLOW_ROOT, "1");
        let served = Served {
            worker: worker.spawn().unwrap(),
            server,
        };
        // It ends when the worker has run it, so queue, bucket and worker exist then.
        let first = served
            .command(naq())
            .args(["enqueue", "--queue", queue, "--wait", "--", "true"])
            .output()
            .unwrap();
        text(&first);
        served
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = command(program);
        command
            .env("NAQ_NATS_URL", self.server.url())
            .env("NAQ_TOKEN", self.server.token());
        command
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(self.worker.id().cast_signed()),
            Signal::SIGTERM,
        );
        let _ = self.worker.wait();
    }
}

#[test]
fn the_shell_producer_prints_every_result() {
    let served = Served::start("digests");
    let folder = tempfile::tempdir().unwrap();
    let names = ["plain", "with space", "-dash", "new\nline", "quo'te\"$(id)"];
    for name in names {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let mut producer = served.command(example("shell-producer/produce.sh"));
    producer.current_dir(folder.path());
    for name in names {
        producer.arg(name);
    }
    let printed = text(&producer.output().unwrap());
    for name in names {
        use sha2::{Digest, Sha256};
        let digest: String = Sha256::digest(name)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(printed.contains(&digest), "{name:?}: {printed}");
    }
    assert_records_are_valid(&Naq::new(&served.server));
}

#[test]
fn the_python_producer_needs_no_naq_on_its_side() {
    let requirements = example("python-producer/requirements.txt");
    let python = python("python-producer", &requirements);
    let served = Served::start("build");
    let output = served
        .command(python)
        .arg(example("python-producer/produce.py"))
        .output()
        .unwrap();
    assert_eq!(
        text(&output),
        "by_jetstream: succeeded 0 from JetStream\n\
         by_place: succeeded 0 no id\n\
         by_core: failed 3 core\n"
    );
    assert_records_are_valid(&Naq::new(&served.server));
}

/// Any client reaches the managed server with what `naq dev` prints.
#[test]
fn the_python_producer_reaches_the_server_of_naq_dev() {
    let requirements = example("python-producer/requirements.txt");
    let python = python("python-producer", &requirements);
    let home = tempfile::tempdir().unwrap();
    let mut dev = command(naq())
        .args(["dev", "build", "--log-level", "error"])
        .env("HOME", home.path())
        .env("NAQ_NATS_SERVER", &binary().path)
        .current_dir(home.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(dev.stderr.take().unwrap()).lines();
    let line = lines
        .find_map(|line| Some(line.unwrap().strip_prefix("server ")?.to_owned()))
        .unwrap();
    let (url, key) = line.trim().split_once("  (nkey in ").unwrap();
    let key = key.strip_suffix(')').unwrap();
    let rest = std::thread::spawn(move || lines.map_while(Result::ok).count());
    // until the worker has made its queue
    let mut produce = command(naq());
    let first = produce
        .args(["enqueue", "--queue", "build", "--wait", "--", "true"])
        .env("HOME", home.path())
        .output();
    text(&first.unwrap());
    let output = command(python)
        .arg(example("python-producer/produce.py"))
        .env("NAQ_NATS_URL", url)
        .env("NAQ_NKEY", key)
        .output();
    let printed = text(&output.unwrap());
    kill(Pid::from_raw(dev.id().cast_signed()), Signal::SIGTERM).unwrap();
    dev.wait().unwrap();
    rest.join().unwrap();
    assert!(
        printed.contains("by_core: failed 3 core"),
        "{url} {key}: {printed}"
    );
}

#[test]
fn a_tree_is_archived_while_a_worker_is_killed() {
    const FILES: usize = 240;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("a tree");
    std::fs::create_dir_all(tree.join("sub\nfolder")).unwrap();
    let ends = ["", " a b", "\n", "'q\"", "$(id)", "ü", "\t", "*", "\\"];
    for number in 0..FILES {
        let name = format!("{number}{}", ends[number % ends.len()]);
        let within = if number % 2 == 0 { "" } else { "sub\nfolder" };
        let text = format!("{number}\n").repeat(number * number);
        std::fs::write(tree.join(within).join(name), text).unwrap();
    }
    std::fs::write(tree.join("-n"), "a name like an option").unwrap();
    // neither of these is a job
    std::fs::write(tree.join(OsStr::from_bytes(b"not \xff utf-8")), "x").unwrap();
    std::os::unix::fs::symlink("-n", tree.join("link")).unwrap();
    let output = command("python3")
        .arg(example("archive-docs/archive-docs.py"))
        .arg(&tree)
        .env("NAQ_NATS_SERVER", &binary().path)
        .output()
        .unwrap();
    let printed = text(&output);
    for line in [
        format!("results    {0} of {0} agree", FILES + 1),
        format!("records    {}, one for each job; 0 jobs left", FILES + 1),
        "skipped    1 with names that are not UTF-8".to_owned(),
        "killed (SIGKILL) after".to_owned(),
        "everything agrees".to_owned(),
    ] {
        assert!(printed.contains(&line), "{line}: not in\n{printed}");
    }
}

#[test]
fn the_rust_producer_prints_what_its_job_printed() {
    let served = Served::start("default");
    // Cargo builds the examples with the tests.
    let program = naq().parent().unwrap().join("examples/enqueue");
    assert!(program.exists(), "`cargo build --examples` builds it");
    let output = served
        .command(program)
        .args([served.server.url(), served.server.token()])
        .output()
        .unwrap();
    assert_eq!(text(&output), "8\n9\n10\n");
    assert_records_are_valid(&Naq::new(&served.server));
}
