//! The examples of `naq VERB --help` run.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::harness::naq::Naq;
use crate::harness::nats::{TEST_TIMEOUT, TestServer, naq as program};

/// Verbs whose examples run until a signal comes, unless they end at once.
const ENDLESS: &[&str] = &["worker", "scheduler", "dashboard", "dev", "server start"];

/// Examples that run until a signal comes, of verbs of which others end.
const ENDLESS_OPTIONS: &[&str] = &["--follow --state", "--follow --action", "--watch", "--exec"];

/// How long an endless example has to run to count.
const ENDLESS_RUN: Duration = Duration::from_millis(800);

/// The names of the Python library's verbs, which work and are not listed.
const HIDDEN: [&str; 3] = ["list-scheduled", "list-workers", "job-control"];

/// Measurements take minutes; `naq bench` is run by hand.
const MEASURES: &str = "bench";

/// What the examples speak of: files, jobs, queues and schedules.
const FIXTURE: &str = r#"set -e
echo 'log_level = "info"' > naq.toml
printf '#!/bin/sh\necho backed up\n' > backup.sh; chmod +x backup.sh; touch Makefile
printf 'test:\n\t@true\n' > Makefile
echo '{"command": "true"}' > jobs.ndjson
printf '[schedule.weekly]\ncron = "0 4 * * 0"\ncommand = ["true"]\n' > schedules.toml
echo '0 5 * * * true' > crontab
naq queue add build emails reports
naq queue pause build
mkdir input; echo 2 > input/in.csv
for id in report-6 report-7; do naq enqueue --wait --id $id --artifact out -- sh -c 'mkdir out; echo 3 > out/sums.csv; echo done; echo note >&2'; done
naq enqueue --wait --id report-8 -- sh -c 'echo sorry >&2; exit 3' || true
naq enqueue -q build --id report-9 --label customer=acme -- true
naq enqueue --in 1h --id reminder -- true
naq enqueue --in 1h --id reminder-2 -- true
naq schedule add --name nightly --cron '0 3 * * *' -- true
naq schedule add --name heartbeat --every 1h -- true
"#;

/// The examples of a verb's help.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("    $ "));
    lines.map(str::to_owned).collect()
}

/// The verbs that a help text lists.
pub(super) fn verbs(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ")?
                .split(' ')
                .next()
                .map(str::to_owned)
        })
        .filter(|verb| !verb.is_empty() && verb != "help")
        .collect()
}

/// The examples of every verb that has no verbs below it, by its path.
fn all_examples(naq: &Naq) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let help = |path: &str| {
        let words = path.split(' ').filter(|word| !word.is_empty());
        naq.cli(words.chain(["--help"])).run().succeeds().stdout
    };
    let mut paths: Vec<String> = HIDDEN.map(str::to_owned).to_vec();
    paths.extend(verbs(&help("")));
    while let Some(path) = paths.pop() {
        let text = help(&path);
        let inner = verbs(&text);
        if inner.is_empty() {
            found.insert(path, examples(&text));
        } else {
            paths.extend(inner.iter().map(|verb| format!("{path} {verb}")));
        }
    }
    found
}

/// A place of its own on the server: a prefix, a home, and a worker.
struct Place<'n> {
    naq: &'n Naq,
    home: tempfile::TempDir,
    prefix: String,
    worker: Option<Child>,
}

impl Place<'_> {
    fn new<'n>(naq: &'n Naq, verb: &str) -> Place<'n> {
        let mut place = Place {
            naq,
            home: tempfile::tempdir().unwrap(),
            prefix: verb.replace([' ', '-'], "_"),
            worker: None,
        };
        place.worker = Some(place.spawn("exec naq worker --name build-1 2> worker.log"));
        let mut child = place.spawn(FIXTURE);
        assert!(child.wait().unwrap().success(), "the fixture of {verb}");
        place
    }

    /// Starts a shell script in a process group of its own.
    #[expect(
        clippy::disallowed_methods,
        reason = "the shell that a reader would type into"
    )]
    fn spawn(&self, script: &str) -> Child {
        use std::os::unix::process::CommandExt;
        let bin = program().parent().unwrap().display();
        Command::new("sh")
            .args(["-c", script])
            .current_dir(self.home.path())
            .env_clear()
            .envs(self.naq.environment())
            .env("NAQ_PREFIX", &self.prefix)
            .env("NAQ_DATA_DIR", self.home.path().join("data"))
            .env("HOME", self.home.path())
            .env("PATH", format!("{bin}:/usr/local/bin:/usr/bin:/bin"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(self.home.path().join("out")).unwrap())
            .stderr(std::fs::File::create(self.home.path().join("err")).unwrap())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.home.path().join("err")).unwrap()
    }

    /// Runs an example to its end, or for a while if it has none.
    fn run(&self, verb: &str, example: &str) {
        let endless = (ENDLESS.contains(&verb) && !example.contains("--stay"))
            || ENDLESS_OPTIONS
                .iter()
                .any(|option| example.contains(option));
        let begun = Instant::now();
        let mut child = self.spawn(&format!("trap : TERM; {example}"));
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(!endless, "`{example}` ended: {status}\n{}", self.errors());
                assert!(status.success(), "`{example}`: {status}\n{}", self.errors());
                return;
            }
            if endless && begun.elapsed() > ENDLESS_RUN {
                stop(&mut child);
                return;
            }
            assert!(begun.elapsed() < TEST_TIMEOUT, "`{example}` does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Stops a process group.
fn stop(child: &mut Child) {
    let group = Pid::from_raw(child.id().cast_signed());
    let _ = killpg(group, Signal::SIGTERM);
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(5) {
            let _ = killpg(group, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            stop(&mut worker);
        }
    }
}

/// Runs the examples of the verbs that a condition selects.
fn run_examples(is_selected: impl Fn(&str) -> bool) {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let all = all_examples(&naq);
    assert!(all.len() > 50, "{:?}", all.keys());
    for (verb, examples) in &all {
        assert!(
            (2..=5).contains(&examples.len()),
            "naq {verb}: {examples:?}"
        );
        if is_selected(verb) {
            let place = Place::new(&naq, verb);
            for example in examples {
                place.run(verb, example);
            }
        }
    }
}

/// Verbs that need the managed local server, and not the test's.
fn is_about_local_server(verb: &str) -> bool {
    (verb.starts_with("server ") && verb != "server check") || verb == "dev"
}

#[test]
fn the_examples_of_verbs_about_jobs_run() {
    run_examples(|verb| {
        let about_others = ["schedule", "queue", MEASURES];
        !is_about_local_server(verb) && !about_others.iter().any(|noun| verb.starts_with(noun))
    });
}

#[test]
fn the_examples_of_verbs_about_schedules_and_queues_run() {
    run_examples(|verb| verb.starts_with("schedule") || verb.starts_with("queue"));
}

/// These start and stop servers, so each has a home of its own and no address of a server.
#[test]
fn the_examples_of_verbs_about_the_local_server_run() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (verb, examples) in &all_examples(&naq) {
        if !is_about_local_server(verb) {
            continue;
        }
        let place = Place {
            naq: &naq,
            home: tempfile::tempdir().unwrap(),
            prefix: "naq".to_owned(),
            worker: None,
        };
        let local = "unset NAQ_NATS_URL NAQ_TOKEN;";
        for example in examples {
            if verb == "server stop" || verb == "server status" {
                let mut child = place.spawn(&format!("{local} naq server start --stay"));
                assert!(child.wait().unwrap().success(), "{}", place.errors());
            }
            place.run(verb, &format!("{local} {example}"));
        }
        let mut child = place.spawn(&format!("{local} naq server stop || true"));
        child.wait().unwrap();
    }
}
