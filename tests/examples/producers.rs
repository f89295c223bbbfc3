//! Each program of `examples/producers` enqueues a job without any code of naq, and waits for it. A
//! language that is not installed is skipped, and the line that says so says what to install.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{command, example, text};
use crate::harness::naq::{FollowedCli, Naq, Worker};
use crate::harness::nats::{TestServer, naq};
use crate::harness::python::python;
use crate::harness::{find_program, is_required, skipped};
use crate::schemas::assert_records_are_valid;

/// Where Debian's package has the NATS client for Go, as a workspace of Go before modules.
const GO_WORKSPACE: &str = "/usr/share/gocode";

/// A server with a worker of the queue `build` and the HTTP API.
struct Served {
    address: String,
    api_token: String,
    _dashboard: FollowedCli,
    _worker: Worker,
    naq: Naq,
    _server: TestServer,
}

impl Served {
    fn start() -> Served {
        let server = TestServer::start();
        let naq = Naq::new(&server);
        let worker = naq.worker(&["build"]).spawn();
        let dashboard = naq.cli(["dashboard", "--port", "0"]).follow();
        dashboard.expect_stderr("stop       Ctrl-C");
        let printed = dashboard.stderr_text();
        let (_, rest) = printed.split_once("dashboard  ").unwrap();
        let (address, _) = rest.split_once("/login").unwrap();
        let token = std::fs::read_to_string(naq.home().join("data/dashboard.token")).unwrap();
        Served {
            address: address.to_owned(),
            api_token: token.trim().to_owned(),
            _dashboard: dashboard,
            _worker: worker,
            naq,
            _server: server,
        }
    }

    /// Runs a producer, and checks what it prints of its job.
    fn assert_prints(&self, mut producer: Command, language: &str) {
        let output = producer
            .envs(self.naq.environment())
            .env("API_URL", &self.address)
            .env("API_TOKEN", &self.api_token)
            .output()
            .unwrap();
        let wanted = format!("succeeded hello from {language}\n");
        assert_eq!(text(&output), wanted);
        assert_records_are_valid(&self.naq);
    }
}

fn producer(file: &str) -> PathBuf {
    example("producers").join(file)
}

/// Runs a producer of the interpreter's language. Skips it if the interpreter is missing.
fn runs_with(interpreter: &str, file: &str, language: &str) {
    let without = format!("examples/producers/{file} does not run");
    let Some(program) = find_program(interpreter, &without) else {
        return;
    };
    let mut producing = command(program);
    producing.arg(producer(file));
    Served::start().assert_prints(producing, language);
}

#[test]
fn the_producer_in_python_waits_for_its_job() {
    let python = python("python-producers", &producer("requirements.txt"));
    let mut producing = command(python);
    producing.arg(producer("producer.py"));
    Served::start().assert_prints(producing, "Python");
}

#[test]
fn the_producer_in_rust_waits_for_its_job() {
    // Cargo builds the examples with the tests.
    let program = naq().parent().unwrap().join("examples/producer");
    assert!(program.exists(), "`cargo build --examples` builds it");
    Served::start().assert_prints(command(program), "Rust");
}

#[test]
fn the_producer_in_node_waits_for_its_job() {
    if !example("producers/node_modules").is_dir() {
        let install = "run `npm ci` in examples/producers";
        assert!(!is_required(), "{install}");
        skipped(&format!(
            "examples/producers/producer.mjs does not run: {install}"
        ));
        return;
    }
    runs_with("node", "producer.mjs", "Node");
}

#[test]
fn the_producer_in_go_waits_for_its_job() {
    let without = "examples/producers/producer.go does not run";
    let Some(go) = find_program("go", without) else {
        return;
    };
    let client = Path::new(GO_WORKSPACE).join("src/github.com/nats-io/nats.go");
    if !client.is_dir() {
        let install = "install golang-github-nats-io-go-nats-dev";
        assert!(!is_required(), "{install}");
        skipped(&format!("{without}: {install}"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("producer");
    let built = command(go)
        .args(["build", "-o"])
        .args([&program, &producer("producer.go")])
        .env("GO111MODULE", "off")
        .env("GOPATH", GO_WORKSPACE)
        .output()
        .unwrap();
    text(&built);
    Served::start().assert_prints(command(program), "Go");
}

#[test]
fn the_producer_in_shell_waits_for_its_job() {
    let without = "examples/producers/producer.sh does not run";
    if find_program("curl", without).is_some() && find_program("jq", without).is_some() {
        runs_with("sh", "producer.sh", "the shell");
    }
}

#[test]
fn the_producer_in_java_waits_for_its_job() {
    // `java` alone may be a runtime without a compiler
    if find_program("javac", "examples/producers/Producer.java does not run").is_some() {
        runs_with("java", "Producer.java", "Java");
    }
}

#[test]
fn the_producer_in_ruby_waits_for_its_job() {
    runs_with("ruby", "producer.rb", "Ruby");
}

#[test]
fn the_producer_in_perl_waits_for_its_job() {
    runs_with("perl", "producer.pl", "Perl");
}

#[test]
fn the_producer_in_php_waits_for_its_job() {
    runs_with("php", "producer.php", "PHP");
}
