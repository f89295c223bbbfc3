//! Crontabs that `naq schedule apply` meets outside of the documentation: a system's, another
//! cron's, one that an editor saved in its own way.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;

use naq_protocol::{JobId, State};
use nix::unistd::{Uid, User, gethostname};
use serde_json::Value;

use super::schedule::stored;
use crate::harness::naq::{CliOutput, Naq, text};
use crate::harness::nats::TestServer;
use crate::harness::skipped;

fn apply(naq: &Naq, crontab: impl AsRef<[u8]>, args: &[&str]) -> CliOutput {
    naq.file("my.crontab", crontab);
    naq.cli([&["schedule", "apply", "my.crontab", "--tz", "UTC"], args].concat())
        .run()
}

fn apply_stdin(naq: &Naq, crontab: &str, args: &[&str]) -> CliOutput {
    naq.cli([&["schedule", "apply", "-", "--tz", "UTC"], args].concat())
        .stdin(crontab)
        .run()
}

/// The stored schedules: the command line of each.
fn commands(naq: &Naq) -> Vec<String> {
    let done = naq.cli(["list-scheduled", "--json"]).run().succeeds();
    let ids = done.stdout.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["schedule_id"].as_str().unwrap().to_owned()
    });
    let mut commands: Vec<String> = ids
        .map(|id| {
            let (schedule, _) = stored(naq, &id);
            let envelope: Value = serde_json::from_str(schedule.envelope.get()).unwrap();
            envelope["args"][1].as_str().unwrap().to_owned()
        })
        .collect();
    commands.sort();
    commands
}

/// Without the refusal, a worker would run `root cd / && …`.
#[test]
fn a_crontab_with_users_is_refused_without_system() {
    const SYSTEM: &str = "# m h dom mon dow user command\nSHELL=/bin/sh\n17 * * * * root cd / && run-parts /etc/cron.hourly\n";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let refused = apply(&naq, SYSTEM, &[]).exits(2);
    refused.expect_stderr(&[
        "my.crontab:3: `root`",
        "a column of users",
        "--system reads it",
    ]);
    apply_stdin(&naq, SYSTEM, &["--set", "s"])
        .exits(2)
        .expect_stderr(&["-:3: `root`"]);
    // each first word an account of this machine
    apply(&naq, "0 5 * * * daemon x\n@daily nobody y\n", &[])
        .exits(2)
        .expect_stderr(&["my.crontab:1: `daemon`"]);
    assert_eq!(commands(&naq), [""; 0]);

    apply(&naq, SYSTEM, &["--system=no"]).succeeds();
    assert_eq!(commands(&naq), ["root cd / && run-parts /etc/cron.hourly"]);
    let system = ["--system", "--user-queue", "root=roots"];
    apply(&naq, SYSTEM, &system).succeeds();
    assert_eq!(commands(&naq), ["cd / && run-parts /etc/cron.hourly"]);
    // one of the words is a command
    apply(&naq, "0 5 * * * daemon x\n@daily ./y\n", &[]).succeeds();
    // an anacrontab's lines have other fields
    naq.file(
        "anacrontab",
        "@monthly 45 cron.monthly run-parts /etc/cron.monthly\n",
    );
    naq.cli(["schedule", "apply", "anacrontab", "--format", "crontab"])
        .run()
        .exits(2)
        .expect_stderr(&["is an anacrontab"]);
}

#[test]
fn the_path_of_a_system_crontab_is_recognized_through_links() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = std::path::Path::new("/etc/cron.d");
    let Some(Ok(file)) = std::fs::read_dir(folder)
        .ok()
        .and_then(|mut files| files.next())
    else {
        skipped(&format!("no file in {}", folder.display()));
        return;
    };
    std::os::unix::fs::symlink(file.path(), naq.home().join("linked")).unwrap();
    naq.cli(["schedule", "apply", "linked", "--format", "crontab"])
        .run()
        .exits(2)
        .expect_stderr(&["linked has a column of users"]);
}

/// `crontab -l | naq schedule apply -`, as README.md says.
#[test]
fn a_crontab_from_standard_input_forms_the_set_of_its_user_and_host() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let user = User::from_uid(Uid::current()).unwrap().unwrap().name;
    let host = gethostname().unwrap().into_string().unwrap();
    let set = format!("{user}@{host}");
    apply_stdin(&naq, "@daily x\n@hourly y\n", &[])
        .succeeds()
        .expect_stderr(&[
            &format!("the set of these schedules is `{set}`"),
            "2 created",
        ]);
    apply_stdin(&naq, "@daily x\n", &[])
        .succeeds()
        .expect_stderr(&["1 removed, 1 unchanged"]);
    let done = naq.cli(["list-scheduled", "--set", &set, "--json"]).run();
    assert_eq!(done.succeeds().stdout.lines().count(), 1);
    // neither a system's crontab nor TOML is a user's
    let system = ["--system", "--user-queue", "root=roots"];
    apply_stdin(&naq, "@daily root x\n", &system)
        .exits(2)
        .expect_stderr(&["--set NAME"]);
    apply_stdin(
        &naq,
        "[schedule.a]\nevery = '1h'\ncommand = ['true']\n",
        &[],
    )
    .exits(2)
    .expect_stderr(&["--set NAME"]);
}

#[test]
fn unsupported_lines_are_skipped_on_request() {
    const CRONTAB: &str =
        "@reboot boot\n0~59 * * * * random\nH 4 * * * hashed\n0 5 * * * -n quiet\n0 5 * * * ok\n";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    apply(&naq, CRONTAB, &[]).exits(2).expect_stderr(&[
        "my.crontab:1: ",
        "naq worker --at-boot",
        "my.crontab:2: ",
        "my.crontab:3: ",
        "my.crontab:4: ",
        "4 problems; nothing was changed; --skip-unsupported",
    ]);
    assert_eq!(commands(&naq), [""; 0]);
    apply(&naq, CRONTAB, &["--skip-unsupported"])
        .succeeds()
        .expect_stderr(&[
            "my.crontab:1: skipped: ",
            "my.crontab:2: skipped: ",
            "my.crontab:3: skipped: ",
            "my.crontab:4: skipped: ",
            "1 created, 0 changed, 0 removed, 0 unchanged, 4 lines skipped",
        ]);
    assert_eq!(commands(&naq), ["ok"]);
    // a mistake is not a line of another cron
    let refused = apply(&naq, "@reboot x\n61 5 * * * x\n", &["--skip-unsupported"]).exits(2);
    refused.expect_stderr(&["my.crontab:2: ", "minute (field 1)"]);
    assert_eq!(commands(&naq), ["ok"]);
}

/// Each cause is named, with its line.
#[test]
fn files_that_editors_and_other_crons_write_are_refused_by_cause() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (crontab, cause) in [
        (
            &b"# caf\xe9\n0 5 * * * x\n"[..],
            "my.crontab:1: the byte 0xE9 is not UTF-8; the file is probably Latin-1",
        ),
        (
            b"0 5 * * * x\n@daily echo gr\xfc\xdfe\n",
            "my.crontab:2: the byte 0xFC is not UTF-8",
        ),
        (
            b"\xff\xfe0\x00 \x005\x00",
            "my.crontab:1: the byte order mark says that the file is UTF-16",
        ),
        (
            b"#!/bin/sh\n",
            "my.crontab:1: the first line begins with #!",
        ),
        (
            b"#!/bin/sh\n# nothing\n\n",
            "this is a script, not a crontab",
        ),
        (
            b"\n0 0 5 * * * x\n",
            "my.crontab:2: `0 0 5 * * *` is six time fields",
        ),
        (
            b"\n*/10 * * * * * x\n",
            "my.crontab:2: `*/10 * * * * *` is six time fields",
        ),
        (
            b"\n0 5 * * * -n x\n",
            "my.crontab:2: -n before the command is a flag",
        ),
        (
            b"\n30~45 5 * * * x\n",
            "my.crontab:2: cron expression \"30~45 5 * * *\": minute (field 1) \"30~45\": a random value",
        ),
    ] {
        let refused = apply(&naq, crontab, &[]).exits(2);
        refused.expect_stderr(&[cause]);
    }
    assert_eq!(commands(&naq), [""; 0]);
    // a byte order mark changes nothing, but the cron of the system would mind it
    apply(&naq, "\u{feff}0 5 * * * x\n", &[])
        .succeeds()
        .expect_stderr(&[
            "my.crontab:1: the file begins with a byte order mark",
            "1 created",
        ]);
    naq.file(
        "marked.toml",
        "\u{feff}[schedule.a]\nevery = '1h'\ncommand = ['true']\n",
    );
    naq.cli(["schedule", "apply", "marked.toml"])
        .run()
        .succeeds()
        .expect_stderr(&["1 created"]);
}

/// The variables of a job's environment, apart from naq's own.
fn environment_of(naq: &Naq, job: &JobId) -> BTreeMap<String, String> {
    let record = naq.wait_ended(job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    let output = text(record.stdout.as_ref());
    let variables = output.lines().filter_map(|line| line.split_once('='));
    variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn jobs_have_the_variables_that_cron_and_systemd_give() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let user = User::from_uid(Uid::current()).unwrap().unwrap();
    // what the worker inherits does not count
    let worker = naq
        .worker(&["default"])
        .env("USER", "other")
        .env("SHELL", "/bin/odd")
        .env("HOME", "");
    let _worker = worker.spawn();
    let job = environment_of(&naq, &naq.enqueue(&["--", "env"]));
    assert_eq!(job["USER"], user.name);
    assert_eq!(job["LOGNAME"], user.name);
    assert_eq!(job["HOME"], user.dir.to_str().unwrap());
    assert!(std::path::Path::new(&job["SHELL"]).is_absolute());
    assert_ne!(job["SHELL"], "/bin/odd");

    let done = apply(&naq, "@daily env\n", &["--json"]).succeeds();
    let line: Value = serde_json::from_str(done.stdout.lines().next().unwrap()).unwrap();
    let id = line["schedule_id"].as_str().unwrap();
    let run = naq.cli(["job-control", id, "run-now"]).run().succeeds();
    let job = environment_of(&naq, &JobId::new(run.stdout.trim_end()).unwrap());
    assert_eq!(job["SHELL"], "/bin/sh");
    assert_eq!(job["USER"], user.name);
    assert_eq!(job["LOGNAME"], user.name);
}

/// What a crontab's `@reboot` line becomes.
#[test]
fn at_boot_jobs_run_once_for_each_boot_of_the_machine() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let command = "echo \"$LOGNAME\" >> started; echo done";
    for _ in 0..2 {
        let worker = naq
            .worker(&["default"])
            .arg("--at-boot")
            .arg(command)
            .spawn();
        assert!(worker.stop().success());
    }
    let jobs = naq.cli(["jobs", "--json"]).run().succeeds();
    assert_eq!(jobs.stdout.lines().count(), 1, "{jobs:#?}");
    let job: Value = serde_json::from_str(jobs.stdout.trim_end()).unwrap();
    let id = job["job_id"].as_str().unwrap();
    assert!(id.starts_with("boot-"), "{id}");
    let _worker = naq
        .worker(&["default"])
        .arg("--at-boot")
        .arg(command)
        .spawn();
    naq.wait_ended(&JobId::new(id).unwrap());
    let started = std::fs::read_to_string(naq.home().join("started")).unwrap();
    assert_eq!(started.lines().count(), 1);
}
