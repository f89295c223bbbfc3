//! Every verb, as its role.

use super::fleet::Fleet;
use crate::harness::naq::eventually;

/// Where jobs write on the control channel, and then to their output for over a second, so that it is live.
const LONG_JOB: &str = "echo '{\"progress\": 50}' >&3; echo '{\"checkpoint\": {\"at\": 1}}' >&3; \
     for line in 1 2 3 4; do echo $line; echo e$line >&2; sleep 0.5; done";

#[test]
fn every_verb_runs_in_its_role_without_a_denial() {
    let fleet = Fleet::start(&["--queue", "build", "--nkeys"]);
    let worker = [
        "worker",
        "build",
        "--name",
        "plain",
        "--grant",
        "enqueue,read",
    ];
    // on a server that has no streams yet
    let first = fleet.start_service("worker", &worker, "buckets are ready");
    fleet.expect_no_denial("a worker created the streams");
    first.stop();
    let plain = fleet.start_service("worker", &worker, "buckets are ready");
    fleet.expect_no_denial("a worker found the streams");
    let labelled = [
        "worker",
        "build",
        "--label",
        "gpu=yes",
        "--grant",
        "enqueue,read",
    ];
    let _labelled = fleet.start_service("worker", &labelled, "buckets are ready");
    let scheduler = [
        "scheduler",
        "--lock-ttl",
        "3s",
        "--reconcile-interval",
        "1s",
    ];
    let leader = fleet.start_service("scheduler", &scheduler, "leading");
    let _standby = fleet.start_service("scheduler", &scheduler, "standing by");
    fleet.expect_no_denial("everything started");
    enqueue(&fleet);
    fleet.expect_no_denial("a producer enqueued jobs");
    read_as_producer(&fleet);
    fleet.expect_no_denial("a producer read");
    read_as_reader(&fleet);
    fleet.expect_no_denial("a reader read");
    schedules(&fleet);
    fleet.expect_no_denial("an operator changed schedules");
    control(&fleet);
    fleet.expect_no_denial("an operator controlled jobs");
    leader.stop();
    eventually("the next scheduler leads", || {
        fleet
            .run("reader", &["scheduler", "list", "--json"])
            .contains("leading")
    });
    fleet.expect_no_denial("another scheduler took over");
    fleet.run("operator", &["workers", "drain", "plain"]);
    assert!(plain.wait_exit().success());
    fleet.expect_no_denial("an operator drained a worker");
    queues(&fleet);
    // the leader reconciles each second, and may not read the queue that the operator adds and removes
    let mut denials = fleet.denials();
    denials.retain(|line| !line.contains("$JS.API.CONSUMER.LIST.naq_queue_new"));
    assert_eq!(denials, Vec::<String>::new(), "an operator changed queues");
}

/// All ways to enqueue.
fn enqueue(fleet: &Fleet) {
    let naq = fleet.naq();
    let flow =
        r#"{"jobs": {"a": {"command": "true"}, "b": {"command": "true", "depends_on": ["a"]}}}"#;
    naq.file("flow.json", flow);
    naq.file(
        "jobs.ndjson",
        "{\"command\": \"true\"}\n{\"command\": \"true\"}\n",
    );
    naq.file("long.in", vec![b'x'; 400_000]);
    let enqueue = |options: &[&str], code: i32, command: &[&str]| {
        let words = [&["enqueue", "--queue", "build"], options, &["--"], command].concat();
        fleet.exits(code, "producer", &words);
    };
    enqueue(&[], 0, &["true"]);
    enqueue(&["--wait", "--id", "one"], 0, &["echo", "hello"]);
    enqueue(&["--id", "one"], 0, &["echo", "hello"]);
    enqueue(&["--wait", "--id", "soon", "--in", "1s"], 0, &["true"]);
    enqueue(
        &["--wait", "--id", "second", "--depends-on", "one"],
        0,
        &["true"],
    );
    enqueue(&["--id", "early", "--depends-on", "late"], 0, &["true"]);
    enqueue(&["--wait", "--id", "late"], 0, &["true"]);
    fleet.run("producer", &["wait", "early"]);
    let file = |options: &[&str]| {
        let words = [&["enqueue", "--queue", "build"], options].concat();
        fleet.run("producer", &words);
    };
    file(&["--wait", "--id", "flow", "--file", "flow.json"]);
    file(&["--file", "jobs.ndjson"]);
    file(&["--wait", "--file", "jobs.ndjson"]);
    enqueue(&["--wait", "--require", "gpu=yes"], 0, &["true"]);
    let key = ["--concurrency-key", "k", "--concurrency-max", "1"];
    enqueue(
        &[&key[..], &["--id", "slot"]].concat(),
        0,
        &["sleep", "0.5"],
    );
    enqueue(&[&key[..], &["--wait"]].concat(), 0, &["true"]);
    let retries = ["--retries", "1", "--retry-delay", "300ms"];
    enqueue(
        &[&retries[..], &["--wait", "--id", "fails"]].concat(),
        1,
        &["false"],
    );
    enqueue(&["--wait", "--id", "fails-too"], 1, &["false"]);
    enqueue(&["--wait", "--stdin", "long.in"], 0, &["wc", "-c"]);
    enqueue(&["--max-jobs", "1000"], 0, &["true"]);
    let files = ["--upload", "long.in", "--artifact", "kept"];
    enqueue(
        &[&files[..], &["--wait", "--id", "files"]].concat(),
        0,
        &["cp", "long.in", "kept"],
    );
    enqueue(&["--id", "long"], 0, &["sh", "-c", LONG_JOB]);
    let long_output = "head -c 3000000 /dev/zero | tr '\\0' x";
    enqueue(
        &["--id", "large", "--output", "4M"],
        0,
        &["sh", "-c", long_output],
    );
    naq.file("lines", "a\nb\n");
    enqueue(&["--map", "lines", "--id", "map"], 0, &["echo", "{}"]);
    enqueue(&["--join", "map", "--wait"], 0, &["cat"]);
    // an output in the object store, which the worker reads for another job
    let get = ["--wait", "--depends-on", "large,as=large"];
    enqueue(&get, 0, &["sh", "-c", "wc -c < $NAQ_INPUTS/large/stdout"]);
    // a job that uses its worker's rights
    let naq = crate::harness::nats::naq().display();
    let by_socket = format!("{naq} enqueue --queue build -- true && {naq} status one");
    enqueue(&["--wait"], 0, &["sh", "-c", &by_socket]);
    for id in ["delayed-1", "delayed-2", "delayed-3"] {
        enqueue(&["--in", "1h", "--id", id], 0, &["true"]);
    }
    enqueue(&["--id", "endless"], 0, &["sleep", "600"]);
    enqueue(&["--id", "blocked", "--depends-on", "absent"], 0, &["true"]);
}

fn read_as_producer(fleet: &Fleet) {
    for verb in [
        &["status", "one"][..],
        &["status", "delayed-1"],
        &["status", "--tree", "flow-b"],
        &["result", "one"],
        &["result", "--wait", "long"],
        &["wait", "one", "second"],
        &["logs", "one"],
    ] {
        fleet.run("producer", verb);
    }
}

fn read_as_reader(fleet: &Fleet) {
    let follow = |verb: &[&str]| fleet.cli("reader", verb).follow();
    let watching = follow(&["jobs", "--watch"]);
    let events = follow(&["events", "--follow"]);
    let enqueue = [
        "enqueue", "--queue", "build", "--id", "watched", "--", "sh", "-c", LONG_JOB,
    ];
    fleet.run("producer", &enqueue);
    let live = fleet.run("reader", &["logs", "--follow", "watched"]);
    assert!(live.contains('4'), "{live}");
    for followed in [watching, events] {
        followed.expect_stdout("watched");
        followed.kill9();
    }
    for (code, verb) in [
        (0, &["jobs"][..]),
        (0, &["jobs", "--queue", "build", "--state", "failed"]),
        (0, &["queues"]),
        (0, &["workers"]),
        (0, &["schedules"]),
        (0, &["scheduler", "list"]),
        (0, &["status", "one"]),
        (0, &["status", "delayed-1"]),
        (0, &["status", "blocked"]),
        (0, &["status", "--tree", "flow-b"]),
        (4, &["status", "nobody"]),
        (0, &["result", "one"]),
        (0, &["result", "--wait", "large", "--full"]),
        (0, &["logs", "long"]),
        (0, &["artifacts", "files"]),
        (0, &["artifacts", "files", "--output", "downloaded"]),
        (0, &["wait", "one"]),
        (0, &["events"]),
        (0, &["failed", "list"]),
        (0, &["failed", "show", "fails"]),
        (0, &["audit"]),
        (0, &["server", "check"]),
    ] {
        fleet.exits(code, "reader", verb);
    }
}

fn schedules(fleet: &Fleet) {
    let naq = fleet.naq();
    naq.file(
        "schedules.toml",
        "[schedule.applied]\nevery = \"1h\"\nqueue = \"build\"\ncommand = [\"true\"]\n",
    );
    let add = [
        "schedule", "add", "--name", "beat", "--every", "1s", "--queue", "build", "--", "true",
    ];
    let yearly = [
        "schedule", "add", "--name", "yearly", "--cron", "@yearly", "--queue", "build", "--",
        "true",
    ];
    let backfill = [
        "schedule",
        "backfill",
        "yearly",
        "--from",
        "2024-01-01T00:00:00Z",
        "--to",
        "2025-02-01T00:00:00Z",
    ];
    for verb in [
        &add[..],
        &["schedule", "apply", "schedules.toml"],
        &["schedule", "show", "beat"],
        &["schedule", "pause", "beat"],
        &["schedule", "resume", "beat"],
        &["schedule", "update", "beat", "--every", "2s"],
        &["schedule", "trigger", "beat"],
        &yearly,
        &backfill,
        &["schedules"],
    ] {
        fleet.run("operator", verb);
    }
    eventually("a job of the schedule ended", || {
        let shown = fleet.run("reader", &["jobs", "--json"]);
        shown
            .lines()
            .any(|job| job.contains("\"beat-2") && job.contains("succeeded"))
    });
    fleet.run("reader", &["schedule", "show", "beat"]);
    fleet.run(
        "operator",
        &["schedule", "delete", "beat", "applied", "yearly"],
    );
}

fn control(fleet: &Fleet) {
    for verb in [
        &["cancel", "endless"][..],
        &["cancel", "delayed-2"],
        &["cancel", "blocked"],
        &["retry", "one", "--wait"],
        &["failed", "list"],
        &["failed", "retry", "fails"],
        &["failed", "discard", "fails-too", "--yes"],
        &["job", "ttl", "one", "30d"],
        &["job", "pause", "delayed-1"],
        &["job", "resume", "delayed-1"],
        &["job", "reschedule", "delayed-1", "2099-01-01T00:00:00Z"],
        &["job", "trigger", "delayed-3"],
        &["status", "--tree", "flow-b"],
        &["logs", "one"],
        &["purge", "--results", "--older-than", "1h", "--yes"],
        &["enqueue", "--queue", "build", "--wait", "--", "true"],
    ] {
        fleet.run("operator", verb);
    }
    let hook = [
        "events",
        "--state",
        "succeeded",
        "--durable",
        "hook",
        "--exec",
        "echo \"$NAQ_JOB_ID\" >> hooked",
    ];
    let hook = fleet.start_service("operator", &hook, "waiting for changes");
    fleet.run("producer", &["enqueue", "--queue", "build", "--", "true"]);
    let hooked = fleet.naq().home().join("hooked");
    eventually("a hook ran", || hooked.exists());
    hook.stop();
}

fn queues(fleet: &Fleet) {
    for verb in [
        &["queue", "pause", "build"][..],
        &["queue", "resume", "build"],
        &["queue", "set", "build", "--max-running", "8"],
        &["queue", "purge", "build", "--yes"],
        &["queue", "add", "new"],
        &["queue", "remove", "new", "--yes"],
        &["queue", "add", "new"],
        &["queue", "remove", "new", "--yes"],
        &["queues"],
        &["workers"],
        &["server", "check", "--fix"],
    ] {
        fleet.run("operator", verb);
    }
    // each change of the operator is in the audit, which the reader reads
    let audit = fleet.run("reader", &["audit", "--limit", "1000", "--json"]);
    for action in [
        "schedule.add",
        "schedule.apply",
        "schedule.delete",
        "job.cancel",
        "job.retry",
        "job.ttl",
        "job.reschedule",
        "job.trigger",
        "failed.discard",
        "queue.set",
        "queue.purge",
        "queue.remove",
    ] {
        assert!(
            audit.contains(&format!("\"{action}\"")),
            "{action}: {audit}"
        );
    }
}
