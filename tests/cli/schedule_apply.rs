//! `naq schedule apply`: a file brought about as a whole, again and again.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_protocol::{JobId, Schedule, ScheduleId, ScheduleStatus, State, Timestamp};
use proptest::prelude::*;
use serde_json::Value;

use super::schedule::{name, store, stored};
use crate::harness::naq::{CliOutput, Naq, eventually, text};
use crate::harness::nats::TestServer;

fn apply(naq: &Naq, args: &[&str]) -> CliOutput {
    let args = [&["schedule", "apply"], args].concat();
    naq.cli(args).run()
}

/// What was done to which schedule, sorted.
fn actions(done: &CliOutput) -> Vec<(String, String)> {
    let mut actions: Vec<(String, String)> = done
        .stdout
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| line[name].as_str().unwrap().to_owned();
            (field("schedule_id"), field("action"))
        })
        .collect();
    actions.sort();
    actions
}

fn listed(naq: &Naq) -> Vec<String> {
    let done = naq.cli(["list-scheduled", "--json"]).run().succeeds();
    let mut ids: Vec<String> = done
        .stdout
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["schedule_id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    ids.sort();
    ids
}

#[test]
fn a_file_is_brought_about_and_stays_so() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // one that is no business of the file's
    naq.cli(["schedule", "--name", "other", "--every", "1h", "--", "true"])
        .run()
        .succeeds();
    naq.file(
        "jobs.toml",
        r#"
[schedule.backup]
cron = "0 5 * * *"
tz = "Europe/Berlin"
command = ["./backup.sh", "--all"]
job = { timeout = "2h" }

[schedule.beat]
every = "1h"
script = "echo beat"

[schedule.poll]
cron = "@hourly"
command = ["./poll"]
"#,
    );
    // shown, and not done
    let done = apply(&naq, &["jobs.toml", "--dry-run"]).succeeds();
    assert!(done.stdout.contains("backup    created"), "{done:#?}");
    assert!(
        done.stderr
            .contains("3 would be created, 0 changed, 0 removed"),
        "{done:#?}"
    );
    assert_eq!(listed(&naq), ["other"]);

    let done = apply(&naq, &["jobs.toml"]).succeeds();
    assert!(
        done.stderr.contains("3 created") && done.stderr.contains("`naq scheduler`"),
        "{done:#?}"
    );
    assert_eq!(listed(&naq), ["backup", "beat", "other", "poll"]);
    let (backup, revision) = stored(&naq, "backup");
    assert_eq!(backup.set.as_deref(), Some("jobs.toml"));

    // once is enough
    let done = apply(&naq, &["jobs.toml"])
        .succeeds()
        .expect_stderr(&["3 unchanged"]);
    assert_eq!(done.stdout, "");
    assert_eq!(stored(&naq, "backup").1, revision);

    // one changed in its times, one otherwise, one gone, one new
    for (id, runs) in [("backup", 7), ("beat", 9)] {
        let (mut schedule, _) = stored(&naq, id);
        schedule.progress.runs = runs;
        store(&naq, &schedule);
    }
    let before = stored(&naq, "beat").0;
    naq.file(
        "jobs.toml",
        r#"
[schedule.backup]
cron = "0 4 * * *"
tz = "Europe/Berlin"
command = ["./backup.sh", "--all"]
job = { timeout = "120m" }

[schedule.beat]
every = "60m"
script = "echo louder"

[schedule.new]
every = "1h"
command = ["true"]
"#,
    );
    let done = apply(&naq, &["jobs.toml", "--json"]).succeeds();
    let expected = [
        ("backup", "changed"),
        ("beat", "changed"),
        ("new", "created"),
        ("poll", "removed"),
    ];
    let expected = expected.map(|(id, action)| (id.to_owned(), action.to_owned()));
    assert_eq!(actions(&done), expected);
    let first: Value = serde_json::from_str(done.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["fields"], serde_json::json!(["cron"]));
    assert_eq!(listed(&naq), ["backup", "beat", "new", "other"]);
    // the history is kept, and where the times are the same so is the place in them
    let (backup, _) = stored(&naq, "backup");
    assert_eq!(backup.progress.runs, 7);
    assert!(backup.progress.done_until > before.progress.done_until);
    let (beat, _) = stored(&naq, "beat");
    assert_eq!(beat.progress, before.progress);
    apply(&naq, &["jobs.toml"])
        .succeeds()
        .expect_stderr(&["0 changed, 0 removed, 3 unchanged"]);

    // A schedule that was paused by hand stays paused.
    naq.cli(["job-control", "new", "pause"]).run().succeeds();
    apply(&naq, &["jobs.toml"])
        .succeeds()
        .expect_stderr(&["3 unchanged"]);
    assert_eq!(stored(&naq, "new").0.status, ScheduleStatus::Paused);
}

#[test]
fn nothing_is_done_where_anything_is_wrong() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file(
        "jobs.toml",
        "[schedule.good]\nevery = '1h'\ncommand = ['true']\n[schedule.bad]\ncron = '61 * * * *'\ncommand = ['true']\n[schedule.worse]\nevery = '1h'\n",
    );
    apply(&naq, &["jobs.toml"]).exits(2).expect_stderr(&[
        "jobs.toml:5: cron expression \"61 * * * *\": minute (field 1)",
        "jobs.toml:7: the job of `worse` names nothing to run",
        "2 problems; nothing was changed",
    ]);
    naq.file("crontab", "0 5 * * * ok\n0 5 * * x not\n@reboot never\n");
    apply(&naq, &["crontab"]).exits(2).expect_stderr(&[
        "crontab:2: ",
        "day of week (field 5)",
        "crontab:3: ",
        "@reboot",
    ]);
    assert_eq!(listed(&naq), [""; 0]);
    apply(&naq, &["nowhere.toml"])
        .exits(2)
        .expect_stderr(&["nowhere.toml"]);
    naq.file("odd", "hello\n");
    apply(&naq, &["odd"])
        .exits(2)
        .expect_stderr(&["neither", "--format"]);
}

#[test]
fn schedules_outside_the_set_are_not_taken_by_accident() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["schedule", "--name", "a", "--every", "1h", "--", "true"])
        .run()
        .succeeds();
    naq.file(
        "one.toml",
        "[schedule.b]\nevery = '1h'\ncommand = ['true']\n",
    );
    apply(&naq, &["one.toml"]).succeeds();
    naq.file(
        "two.toml",
        "[schedule.a]\nevery = '1h'\ncommand = ['true']\n[schedule.b]\nevery = '2h'\ncommand = ['true']\n",
    );
    apply(&naq, &["two.toml"]).exits(5).expect_stderr(&[
        "two.toml:1: `a` exists already, outside any set; --adopt",
        "two.toml:4: `b` belongs to the set `one.toml`",
        "nothing was changed",
    ]);
    let done = apply(&naq, &["two.toml", "--adopt", "--json"]).succeeds();
    let both = ["a", "b"].map(|id| (id.to_owned(), "changed".to_owned()));
    assert_eq!(actions(&done), both);
    assert_eq!(stored(&naq, "b").0.set.as_deref(), Some("two.toml"));
    // what another set has now is not removed with the one it was in
    naq.file("one.toml", "");
    apply(&naq, &["one.toml"])
        .succeeds()
        .expect_stderr(&["0 removed"]);
    assert_eq!(listed(&naq), ["a", "b"]);
}

#[test]
fn an_empty_file_removes_nothing_without_prune_all() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let from_stdin = |text: &str, args: &[&str]| {
        let args = [&["schedule", "apply", "-", "--tz", "UTC"], args].concat();
        naq.cli(args).stdin(text).run()
    };
    from_stdin("@daily x\n@hourly y\n", &["--set", "mine"])
        .succeeds()
        .expect_stderr(&["2 created"]);
    // as when `crontab -l` fails
    from_stdin("", &["--set", "mine"])
        .exits(2)
        .expect_stderr(&["the set `mine` has 2 schedules", "--prune=all"]);
    from_stdin("@daily x\n", &["--set", "mine", "--prune", "no"])
        .succeeds()
        .expect_stderr(&["0 removed, 1 unchanged"]);
    assert_eq!(listed(&naq).len(), 2);
    from_stdin("# nothing\n", &["--set", "mine", "--prune=all"])
        .succeeds()
        .expect_stderr(&["2 removed"]);
    assert_eq!(listed(&naq), [""; 0]);
}

/// A machine's crontab moves over, and its jobs see what cron would give them.
#[test]
fn a_crontab_moves_over() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let crontab = naq.file(
        "my.crontab",
        format!(
            "MAILTO=root@example.org\nHOME={}\nWHO='the crontab'\n\n30 4 * * * echo \"$WHO\" $(pwd) \\%; cat%one%two\n",
            naq.home().display()
        ),
    );
    let args = [
        "my.crontab",
        "--queue",
        "build",
        "--tz",
        "Europe/Berlin",
        "--json",
    ];
    let done = apply(&naq, &args)
        .succeeds()
        .expect_stderr(&["sends no mail", "\"line\":1"]);
    let (id, action) = actions(&done).pop().unwrap();
    assert_eq!(action, "created");
    assert!(id.starts_with("echo-"), "{id}");
    let (schedule, _) = stored(&naq, &id);
    assert_eq!(schedule.set.as_deref(), Some("my.crontab"));
    assert_eq!(schedule.tz.as_deref(), Some("Europe/Berlin"));
    let _worker = naq.worker(&["build"]).spawn();
    let run = naq.cli(["job-control", &id, "run-now"]).run().succeeds();
    let record = naq.wait_ended(&JobId::new(run.stdout.trim_end()).unwrap());
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    let home = naq.home().canonicalize().unwrap();
    let printed = format!("the crontab {} %\none\ntwo\n", home.display());
    assert_eq!(text(record.stdout.as_ref()), printed);

    // the same as a crontab of many users
    std::fs::write(
        &crontab,
        "30 4 * * * www-data cleanup\n@daily root rotate\n",
    )
    .unwrap();
    apply(
        &naq,
        &["my.crontab", "--system", "--user-queue", "root=roots"],
    )
    .exits(2)
    .expect_stderr(&[
        "my.crontab:1: ",
        "`www-data`",
        "--user-queue www-data=QUEUE",
    ]);
    let args = [
        "my.crontab",
        "--system",
        "--user-queue",
        "root=roots",
        "--user-queue",
        "www-data=web",
    ];
    apply(&naq, &args)
        .succeeds()
        .expect_stderr(&["2 created, 0 changed, 1 removed", "of this machine"]);
    let queues: Vec<String> = listed(&naq)
        .iter()
        .map(|id| stored(&naq, id).0.queue.to_string())
        .collect();
    assert_eq!(queues, ["web", "roots"]);
}

/// A scheduler writes to the schedules that are changed meanwhile.
#[test]
fn a_file_is_applied_while_its_schedules_run() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("default");
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    let file = |every_ms: u64| {
        let schedules: String = (0..40)
            .map(|number| {
                format!("[schedule.s{number}]\nevery = '{every_ms}ms'\ncommand = ['true']\n")
            })
            .collect();
        naq.file("jobs.toml", schedules);
    };
    file(100);
    apply(&naq, &["jobs.toml"])
        .succeeds()
        .expect_stderr(&["40 created"]);
    let runs = |naq: &Naq| stored(naq, "s0").0.progress.runs;
    eventually("they run", || runs(&naq) > 2);
    for round in 0..5 {
        file(150 + round);
        let before = runs(&naq);
        apply(&naq, &["jobs.toml"])
            .succeeds()
            .expect_stderr(&["40 changed"]);
        let (schedule, _) = stored(&naq, "s39");
        assert_eq!(
            schedule.every.unwrap().0.as_millis(),
            u128::from(150 + round)
        );
        assert!(runs(&naq) >= before);
    }
    let before = runs(&naq);
    eventually("they continue", || runs(&naq) > before + 2);
    apply(&naq, &["jobs.toml"])
        .succeeds()
        .expect_stderr(&["40 unchanged"]);
    naq.file("jobs.toml", "");
    apply(&naq, &["jobs.toml", "--prune=all"])
        .succeeds()
        .expect_stderr(&["40 removed"]);
    assert_eq!(listed(&naq), [""; 0]);
    assert!(scheduler.stop().success());
}

/// As many as a large site has, in one go.
#[test]
fn thousands_are_applied_at_once() {
    const SCHEDULES: usize = 3_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let text: String = (0..SCHEDULES)
        .map(|number| format!("{} {} * * * job-{number}\n", number % 60, number % 24))
        .collect();
    naq.file("many.crontab", &text);
    let args = ["many.crontab", "--tz", "UTC"];
    apply(&naq, &args)
        .succeeds()
        .expect_stderr(&["3000 created"]);
    apply(&naq, &args)
        .succeeds()
        .expect_stderr(&["3000 unchanged"]);
    assert_eq!(listed(&naq).len(), SCHEDULES);
    let half: String = text
        .lines()
        .take(SCHEDULES / 2)
        .map(|line| format!("{line}\n"))
        .collect();
    naq.file("many.crontab", half);
    apply(&naq, &args)
        .succeeds()
        .expect_stderr(&["1500 removed, 1500 unchanged"]);
}

/// The lines of a large crontab.
fn many_lines(count: usize) -> String {
    let line = |number| {
        let (minute, hour) = (number % 60, number % 24);
        format!("{minute} {hour} * * * /usr/local/bin/report --customer {number} --mail\n")
    };
    (0..count).map(line).collect()
}

#[test]
fn a_mistake_in_the_middle_of_a_long_file_prevents_every_change() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut text = many_lines(2_000);
    let middle = text.len() / 2 + text[text.len() / 2..].find('\n').unwrap() + 1;
    text.insert_str(middle, "61 * * * * late\n");
    let number = text[..middle].lines().count() + 1;
    let args = ["schedule", "apply", "-", "--tz", "UTC", "--set", "many"];
    let done = naq.cli(args).stdin(text.as_str()).run();
    done.exits(2).expect_stderr(&[
        &format!("-:{number}: "),
        "minute (field 1)",
        "nothing was changed",
    ]);
    assert_eq!(listed(&naq), [""; 0]);
}

/// The most memory that naq has used, in KiB, when it has compared the whole file and has reported half of it.
fn peak_of_apply_kib(naq: &Naq, lines: usize) -> u64 {
    naq.file("many.crontab", many_lines(lines));
    let args = ["schedule", "apply", "many.crontab", "--tz", "UTC"];
    let mut applying = naq
        .cli([&args[..], &["--dry-run", "--json"]].concat())
        .spawn();
    let mut reported = 0;
    // It waits to write the other half until the test reads on.
    while reported < lines / 2 {
        let some = applying.read_some();
        assert!(!some.is_empty(), "it ended after {reported} lines");
        reported += some.iter().filter(|byte| **byte == b'\n').count();
    }
    let peak_kib = applying.peak_kib();
    drop(applying);
    peak_kib
}

/// Of each line, naq keeps the text and two digests.
#[test]
fn a_long_file_takes_little_more_memory_than_its_text() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let few_kib = peak_of_apply_kib(&naq, 2_000);
    let many_kib = peak_of_apply_kib(&naq, 12_000);
    let grown = many_kib.saturating_sub(few_kib) * 1_024 / 10_000;
    assert!(
        grown < 800,
        "{grown} bytes a line ({few_kib} KiB, {many_kib} KiB)"
    );
}

prop_compose! {
    /// A file of up to six schedules.
    fn described()(schedules in proptest::collection::btree_map(
        "[a-f]",
        (prop_oneof![Just("1h"), Just("2h")], prop_oneof![Just("true"), Just("false")], proptest::option::of(1..9)),
        0..6,
    )) -> String {
        schedules
            .into_iter()
            .map(|(name, (every, command, repeat))| {
                let repeat = repeat.map_or_else(String::new, |repeat| format!("repeat = {repeat}\n"));
                format!("[schedule.{name}]\nevery = '{every}'\ncommand = ['{command}']\n{repeat}")
            })
            .collect()
    }
}

/// Whatever stood there before, the file is what stands there afterwards, and once is enough.
#[test]
fn applying_converges() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let meddling = proptest::collection::vec(("[a-f]", 0..4_u8), 0..4);
    runner
        .run(&(described(), meddling), |(file, meddling)| {
            for (id, what) in meddling {
                meddle(&naq, &id, what);
            }
            naq.file("set.toml", &file);
            let args = ["set.toml", "--prune=all", "--adopt", "--json"];
            apply(&naq, &args).succeeds();
            let described: Vec<String> = file
                .lines()
                .filter_map(|line| line.strip_prefix("[schedule.")?.strip_suffix(']'))
                .map(str::to_owned)
                .collect();
            let ours: Vec<String> = listed(&naq)
                .into_iter()
                .filter(|id| stored(&naq, id).0.set.as_deref() == Some("set.toml"))
                .collect();
            prop_assert_eq!(&ours, &described);
            let again = apply(&naq, &args).succeeds();
            for (_, action) in actions(&again) {
                prop_assert_eq!(action, "unchanged");
            }
            Ok(())
        })
        .unwrap();
}

/// A user changes a schedule between two applies.
fn meddle(naq: &Naq, id: &str, what: u8) {
    let broker = naq.client().broker();
    let schedule_id: ScheduleId = name(id);
    let (present, _) = naq.block_on(broker.read_schedule(&schedule_id)).unwrap();
    match (present, what) {
        (Some(mut schedule), 0) => {
            schedule.status = ScheduleStatus::Paused;
            store(naq, &schedule);
        }
        (Some(mut schedule), 1) => {
            schedule.status = ScheduleStatus::Ended;
            schedule.progress.runs = 3;
            store(naq, &schedule);
        }
        (Some(_), 2) => naq
            .block_on(naq.client().delete_schedule(&schedule_id))
            .unwrap(),
        (Some(mut schedule), _) => {
            schedule.queue = naq_protocol::QueueName::new("elsewhere").unwrap();
            store(naq, &schedule);
        }
        (None, _) => {
            let now: Timestamp = "2026-12-24T17:00:00Z".parse().unwrap();
            let text = serde_json::json!({
                "schedule_id": id, "queue": "default", "envelope": {"command": "by-hand"},
                "every": 60, "created_at": now, "progress": {"done_until": now},
            });
            store(naq, &Schedule::parse(text.to_string().as_bytes()).unwrap());
        }
    }
}
