//! What each verb does with few permissions: it ends at once, with one message that names the user and the
//! subject, and with exit code 3. A queue that the user may not read counts as one that does not exist.

use std::sync::atomic::{AtomicUsize, Ordering};

use naq_protocol::State;

use crate::harness::naq::{CliOutput, GuardedChild, Naq, eventually, id, start_plain_server};
use crate::harness::nats::TestServer;

/// Users, and the subjects that each may not publish to. `build` may do nothing with the queue `deploy`.
const USERS: &[(&str, &[&str])] = &[
    ("admin", &[]),
    ("nobody", &[">"]),
    (
        "build",
        &[
            "$JS.API.STREAM.*.naq_queue_deploy",
            "$JS.API.STREAM.MSG.*.naq_queue_deploy",
            "$JS.API.CONSUMER.*.naq_queue_deploy",
            "$JS.API.CONSUMER.*.naq_queue_deploy.>",
            "naq.queue.deploy.>",
            "naq.delayed.deploy.>",
        ],
    ),
    // may publish jobs and read nothing
    ("publisher", &["$JS.API.>", "$KV.>"]),
    ("no_keys", &["$KV.>"]),
    ("no_names", &["$JS.API.STREAM.NAMES"]),
    ("no_info", &["$JS.API.STREAM.INFO.>"]),
    ("no_get", &["$JS.API.STREAM.MSG.GET.>"]),
    ("no_list", &["$JS.API.CONSUMER.LIST.>"]),
    ("no_consumer", &["$JS.API.CONSUMER.CREATE.>"]),
    ("no_next", &["$JS.API.CONSUMER.MSG.NEXT.>"]),
    ("no_direct", &["$JS.API.DIRECT.>"]),
    (
        "no_change",
        &[
            "$JS.API.STREAM.CREATE.>",
            "$JS.API.STREAM.UPDATE.>",
            "$JS.API.STREAM.DELETE.>",
            "$JS.API.STREAM.PURGE.>",
            "$JS.API.STREAM.MSG.DELETE.>",
            "$JS.API.CONSUMER.PAUSE.>",
            "$JS.API.CONSUMER.DELETE.>",
        ],
    ),
    ("no_jobs", &["naq.>"]),
    ("no_audit", &["naq.audit.>"]),
];

/// A server with these users, and one that may not subscribe to events.
fn start_server(naq: &Naq) -> (GuardedChild, String) {
    let mut users = String::new();
    for (user, denied) in USERS {
        let permissions = match denied {
            [] => String::new(),
            denied => format!(", permissions: {{publish: {{allow: \">\", deny: {denied:?}}}}}"),
        };
        users.push_str(&format!("{{user: {user}, password: p{permissions}}}\n"));
    }
    users.push_str("{user: no_events, password: p, permissions: {subscribe: {allow: \">\", deny: [\"naq.event.>\", \"naq.schedule.>\"]}}}\n");
    let conf = naq.file(
        "users.conf",
        format!("jetstream: enabled\nauthorization {{ users: [\n{users}] }}\n"),
    );
    let (server, port) = start_plain_server(naq, &["-c", conf.to_str().unwrap()]);
    (server, format!("nats://127.0.0.1:{port}"))
}

struct Denying<'n> {
    naq: &'n Naq,
    url: String,
    _server: GuardedChild,
}

impl<'n> Denying<'n> {
    fn start(naq: &'n Naq) -> Denying<'n> {
        let (server, url) = start_server(naq);
        Denying {
            naq,
            url,
            _server: server,
        }
    }

    fn cli(&self, user: &str, verb: &[&str]) -> crate::harness::naq::Cli {
        self.naq
            .cli(verb.iter().copied())
            .without_env("NAQ_TOKEN")
            .env("NAQ_NATS_URL", &self.url)
            .env("NAQ_USER", user)
            .env("NAQ_PASSWORD", "p")
    }

    fn run(&self, user: &str, verb: &[&str]) -> CliOutput {
        self.cli(user, verb).run()
    }

    /// Runs a verb that must be denied at once, with one message.
    #[track_caller]
    fn denied(&self, user: &str, verb: &[&str], subject: &str) {
        let done = self.run(user, verb);
        // a request that is not answered is reported as such, after five seconds
        assert!(!done.stderr.contains("no answer"), "{verb:?}: {done:?}");
        assert_eq!(done.code, Some(3), "{user} {verb:?}: {done:?}");
        let message = format!("NATS denies the user `{user}` permission");
        let count = done.stderr.matches(&message).count();
        assert_eq!(count, 1, "{verb:?}: {done:?}");
        assert!(done.stderr.contains(subject), "no {subject} in {done:?}");
        let is_role_named = done.stderr.contains("connect as another user: the role");
        assert!(is_role_named, "no role in {done:?}");
    }

    /// Two queues; an ended, a failed, a delayed and a queued job; a schedule.
    fn fill(&self) {
        let admin = |verb: &[&str]| self.run("admin", verb).succeeds();
        let worker = self.cli("admin", &["worker", "build", "deploy"]).follow();
        admin(&[
            "enqueue", "-q", "build", "--id", "ended", "--wait", "--", "echo", "hello",
        ]);
        admin(&[
            "enqueue", "-q", "deploy", "--id", "deployed", "--wait", "--", "true",
        ]);
        for failed in ["failed", "failed-too"] {
            self.run(
                "admin",
                &[
                    "enqueue", "-q", "build", "--id", failed, "--wait", "--", "false",
                ],
            )
            .exits(1);
        }
        assert!(worker.stop().success());
        for queue in ["build", "deploy"] {
            for (id, options) in [("later", &["--in", "1h"][..]), ("queued", &[])] {
                let id = format!("{id}-{queue}");
                let words = ["enqueue", "-q", queue, "--id", &id];
                admin(&[&words, options, &["--", "true"]].concat());
            }
        }
        admin(&[
            "schedule", "add", "--name", "beat", "-q", "build", "--every", "1h", "--", "true",
        ]);
        let scheduler = self.cli("admin", &["scheduler"]).follow();
        eventually("a scheduler leads", || {
            let listed = self.run("admin", &["scheduler", "list"]);
            listed.stdout.contains("leading")
        });
        assert!(scheduler.stop().success());
    }
}

#[test]
fn a_queue_that_the_user_may_not_read_counts_as_not_there() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let denying = Denying::start(&naq);
    denying.fill();
    let build = |verb: &[&str]| {
        let done = denying.run("build", verb);
        assert!(!done.stderr.contains("no answer"), "{verb:?}: {done:?}");
        done
    };
    for (verb, shown) in [
        (&["queues"][..], "build"),
        (&["jobs"], "queued-build"),
        (&["schedules"], "later-build"),
        (&["list-scheduled"], "beat"),
        (&["status", "queued-build"], "queued"),
        (&["schedule", "show", "later-build"], "later-build"),
    ] {
        let done = build(verb).succeeds().expect_stdout(shown);
        assert!(!done.stdout.contains("-deploy"), "{done:?}");
        assert!(!done.stderr.contains("denies"), "{done:?}");
    }
    // what is only there does not exist
    for verb in [
        &["status", "queued-deploy"][..],
        &["status", "never"],
        &["cancel", "later-deploy"],
        &["schedule", "show", "later-deploy"],
    ] {
        build(verb).exits(4);
    }
    // the queue itself, by name, is denied
    for (verb, subject) in [
        (
            &["enqueue", "-q", "deploy", "--", "true"][..],
            "naq.queue.deploy.",
        ),
        (
            &["enqueue", "-q", "deploy", "--id", "x", "--", "true"],
            "naq_queue_deploy",
        ),
        (&["queue", "pause", "deploy"], "naq_queue_deploy"),
        (&["queue", "purge", "deploy", "--yes"], "naq_queue_deploy"),
        (&["jobs", "-q", "deploy"], "naq_queue_deploy"),
        (&["schedules", "-q", "deploy"], "naq_queue_deploy"),
    ] {
        denying.denied("build", verb, subject);
    }
}

#[test]
fn a_denial_names_the_roles_that_may() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let denying = Denying::start(&naq);
    denying.run("admin", &["queue", "add", "deploy"]).succeeds();
    for (user, verb, roles) in [
        (
            "build",
            &["enqueue", "-q", "deploy", "--", "true"][..],
            "the roles producer, worker, scheduler, api and operator of `naq nats-config` have it for the queue `deploy`",
        ),
        (
            "no_names",
            &["queues"],
            "the roles reader, producer, worker, scheduler, api and operator of `naq nats-config` have it\n",
        ),
    ] {
        let done = denying.run(user, verb).exits(3);
        let hint = format!("; grant it, or connect as another user: {roles}");
        assert!(done.stderr.contains(&hint), "{done:?}");
    }
}

#[test]
fn a_job_whose_dependency_never_appears_ends_although_a_queue_is_denied() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let denying = Denying::start(&naq);
    denying.run("admin", &["queue", "add", "deploy"]).succeeds();
    let worker = denying.cli("build", &["worker", "build"]).follow();
    let envelope = naq.file(
        "waits.json",
        r#"{"command":"true","job_id":"waits","depends_on":["never"],"dependency_timeout":1}"#,
    );
    let words = ["enqueue", "-q", "build", "-f", envelope.to_str().unwrap()];
    denying.run("build", &words).succeeds();
    let done = denying.run("build", &["wait", "waits", "--timeout", "60s"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let record = denying.run("admin", &["status", "waits", "--json"]);
    let record: naq_protocol::Record = serde_json::from_str(&record.stdout).unwrap();
    assert_eq!(record.state(), State::Failed);
    assert_eq!(record.job_id, id("waits"));
    assert!(worker.stop().success());
}

#[test]
fn each_denial_of_a_role_ends_at_once_with_its_user_and_subject() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let denying = Denying::start(&naq);
    denying.fill();
    for (user, verb, subject) in [
        // a producer may not write records
        (
            "no_keys",
            &["cancel", "queued-build"][..],
            "$KV.naq_results.queued-build",
        ),
        // one that only publishes
        (
            "publisher",
            &[
                "enqueue",
                "-q",
                "build",
                "--id",
                "queued-build",
                "--",
                "false",
            ],
            "$JS.API.STREAM.MSG.GET.",
        ),
        (
            "publisher",
            &["enqueue", "-q", "build", "--wait", "--", "true"],
            "$JS.API.STREAM.MSG.GET.",
        ),
        ("no_info", &["queues"], "$JS.API.STREAM.INFO.naq_queue_"),
        ("no_info", &["jobs"], "$JS.API.STREAM.INFO."),
        (
            "no_info",
            &["failed", "list"],
            "$JS.API.STREAM.INFO.naq_failed_jobs",
        ),
        (
            "no_change",
            &["queue", "purge", "build", "--yes"],
            "naq_queue_build",
        ),
        (
            "no_change",
            &["purge", "--results", "--yes"],
            "$JS.API.STREAM.",
        ),
        (
            "no_jobs",
            &["enqueue", "-q", "build", "--", "true"],
            "naq.queue.build.",
        ),
        (
            "no_next",
            &["schedules"],
            "$JS.API.CONSUMER.MSG.NEXT.KV_naq_scheduled_jobs.",
        ),
    ] {
        denying.denied(user, verb, subject);
    }
    // A scheduler that may not read its schedules says so at once, and not that nobody answers.
    let scheduler = denying.cli("no_next", &["scheduler"]).follow();
    scheduler.expect_stderr("$JS.API.CONSUMER.MSG.NEXT.KV_naq_scheduled_jobs.");
    let log = scheduler.stderr_text();
    assert!(!log.contains("no answer"), "{log}");
    scheduler.kill9();
}

#[test]
fn a_user_who_may_not_write_the_audit_makes_changes_and_is_warned_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let denying = Denying::start(&naq);
    denying.fill();
    let listed = |action: &str| {
        let listed = denying.run("admin", &["audit", "--action", action]);
        listed.succeeds().stdout.lines().count()
    };
    assert_eq!(listed("schedule.add"), 2);
    for verb in [
        &["cancel", "queued-build"][..],
        &["queue", "pause", "build", "deploy"],
        &["schedule", "pause", "beat"],
        &["failed", "discard", "--all", "--yes"],
    ] {
        let done = denying.run("no_audit", verb).succeeds();
        assert_eq!(
            done.stderr.matches("the audit lacks").count(),
            1,
            "{done:?}"
        );
        assert!(done.stderr.contains("`naq.audit.cli."), "{done:?}");
    }
    let status = denying.run("admin", &["status", "queued-build", "--json"]);
    assert!(status.stdout.contains("\"cancelled\""), "{status:?}");
    for action in ["job", "queue", "schedule.pause", "failed"] {
        assert_eq!(listed(action), 0, "{action}");
    }
}

/// Verbs that end by themselves.
const VERBS: &[&[&str]] = &[
    &["jobs"],
    &["jobs", "-q", "build"],
    &["queues"],
    &["schedules"],
    &["workers"],
    &["scheduler", "list"],
    &["failed", "list"],
    &["failed", "show", "failed"],
    &["failed", "retry", "failed-too"],
    &["failed", "discard", "failed", "--yes"],
    &["status", "ended"],
    &["status", "queued-build"],
    &["status", "absent"],
    &["status", "--tree", "ended"],
    &["result", "ended"],
    &["logs", "ended"],
    &["wait", "ended", "--timeout", "3s"],
    &["events"],
    &["cancel", "absent"],
    &["cancel", "queued-deploy"],
    &["retry", "ended"],
    &["enqueue", "-q", "build", "--", "true"],
    &["enqueue", "-q", "build", "--id", "ended", "--", "true"],
    &["enqueue", "-q", "build", "--in", "1h", "--", "true"],
    &["job", "ttl", "ended", "1h"],
    &["job", "pause", "later-build"],
    &["job", "resume", "later-build"],
    &["job", "reschedule", "later-build", "2h"],
    &["job", "trigger", "later-deploy"],
    &["queue", "add", "new"],
    &["queue", "set", "build", "--max-running", "3"],
    &["queue", "pause", "build"],
    &["queue", "resume", "build"],
    &["queue", "purge", "deploy", "--yes"],
    &["queue", "remove", "new", "--yes"],
    &["purge", "--results", "--older-than", "1h", "--yes"],
    &[
        "schedule", "add", "--name", "new", "-q", "build", "--every", "1h", "--", "true",
    ],
    &["schedule", "show", "beat"],
    &["schedule", "pause", "beat"],
    &["schedule", "resume", "beat"],
    &["schedule", "update", "beat", "--every", "2h"],
    &["schedule", "trigger", "beat"],
    &[
        "schedule",
        "backfill",
        "beat",
        "--from",
        "2025-01-01T00:00:00Z",
        "--dry-run",
    ],
    &["schedule", "delete", "new"],
    &["server", "check"],
];

/// Every verb, by every user: it takes no time limit, and what is denied is exit code 3 and nothing else.
#[test]
fn no_verb_waits_for_what_is_denied() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let denying = Denying::start(&naq);
    denying.fill();
    let mut users: Vec<&str> = USERS.iter().map(|(user, _)| *user).collect();
    users.push("no_events");
    let runs: Vec<(&str, &[&str])> = users
        .iter()
        .flat_map(|user| VERBS.iter().map(move |verb| (*user, *verb)))
        .collect();
    let next = AtomicUsize::new(0);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let one_after_another = || {
            let mut wrong = Vec::new();
            while let Some((user, verb)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = denying.run(user, verb);
                // a change without an entry in the audit is made nevertheless
                let of_verb = done.stderr.lines();
                let mut of_verb = of_verb.filter(|line| !line.contains("the audit lacks"));
                let is_denied = of_verb.any(|line| line.contains("NATS denies"));
                let is_silent =
                    done.stderr.contains("no answer") || done.stderr.contains("timed out");
                let is_wrong_code = is_denied && done.code != Some(3);
                let by = format!("NATS denies the user `{user}`");
                let is_unnamed = is_denied && !done.stderr.contains(&by);
                if is_silent || is_wrong_code || is_unnamed || done.code == Some(101) {
                    wrong.push(format!("{user} {verb:?} {:?} {}", done.code, done.stderr));
                }
            }
            wrong
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one_after_another)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.flatten().collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
