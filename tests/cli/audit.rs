//! `naq audit`: what commands have changed.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use nix::unistd::{User, geteuid, gethostname};
use serde_json::Value;

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

/// The entries that `naq audit` lists with these options, the latest first.
fn audit(naq: &Naq, options: &[&str]) -> Vec<Value> {
    let words = [&["audit", "--json"], options].concat();
    let listed = naq.cli(words).run().succeeds();
    let lines = listed.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs verbs, each of which succeeds.
fn run_all(naq: &Naq, verbs: &[&[&str]]) {
    for verb in verbs {
        naq.cli(verb.iter().copied()).run().succeeds();
    }
}

/// Appends an entry as any program can that may write to the stream.
fn append(naq: &Naq, subject: &str, entry: &str) {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let sent = jetstream.publish(subject.to_owned(), entry.to_owned().into());
        sent.await.unwrap().await.unwrap();
    });
}

#[test]
fn a_change_by_a_command_is_listed_with_who_what_how_many_and_where() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    assert!(audit(&naq, &[]).is_empty());
    for id in ["a", "b", "c"] {
        naq.enqueue(&["-q", "build", "--id", id, "-l", "team=x", "--", "true"]);
    }
    naq.enqueue(&["-q", "build", "--id", "later", "--in", "1h", "--", "true"]);
    run_all(
        &naq,
        &[
            &["cancel", "a"],
            &["cancel", "--queue", "build", "--label", "team=x", "--yes"],
            &["retry", "a", "b", "--quiet"],
            &["job", "pause", "later"],
            &["job-control", "later", "run-now"],
            &["queue", "add", "mail"],
            &["queue", "pause", "build", "mail"],
            &["queue", "purge", "build", "--yes"],
            &["queue", "remove", "mail", "--yes"],
            &["schedule", "--name", "beat", "--every", "1h", "--", "true"],
            &["schedule", "update", "beat", "--every", "2h"],
            &["schedule", "trigger", "beat"],
            &["purge", "--results", "--yes"],
        ],
    );
    let listed = audit(&naq, &[]);
    let found: Vec<String> = listed
        .iter()
        .rev()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let named = ["queue", "job_id", "schedule_id", "filter"]
                .map(text)
                .concat();
            format!("{} {named} {}", text("action"), entry["count"])
        })
        .collect();
    assert_eq!(
        found,
        [
            "job.cancel a 1",
            "job.cancel --queue build --label team=x 2",
            "job.retry a b 2",
            "job.pause later 1",
            "job.trigger later 1",
            "queue.add mail 1",
            "queue.pause build mail 2",
            "queue.purge build 3",
            "queue.remove mail 0",
            "schedule.add beat 1",
            "schedule.update beat 1",
            "schedule.trigger beat 1",
            "results.purge --results 3",
        ]
    );
    let user = User::from_uid(geteuid()).unwrap().unwrap().name;
    let host = gethostname().unwrap().into_string().unwrap();
    for entry in &listed {
        let who = [&entry["who"], &entry["from"], &entry["via"]];
        assert_eq!(who, [user.as_str(), host.as_str(), "cli"], "{entry}");
        assert_eq!(entry["claimed"], true, "{entry}");
        assert_eq!(entry.get("error"), None, "{entry}");
    }
    let table = naq
        .cli(["audit", "--action", "queue.purge"])
        .run()
        .succeeds();
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{table:?}");
    assert!(
        lines[1].contains(&format!("{user} (claimed)  queue.purge      3")),
        "{table:?}"
    );
    assert!(
        lines[1].ends_with(&format!("cli, {host}  build")),
        "{table:?}"
    );
}

#[test]
fn what_changes_nothing_leaves_no_entry_and_a_failure_leaves_what_it_has_changed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["-q", "build", "--id", "a", "--", "true"]);
    naq.cli(["queue", "purge", "build", "--yes"])
        .run()
        .succeeds();
    run_all(
        &naq,
        &[
            &["queue", "purge", "build", "--yes"],
            &["cancel", "--queue", "build", "--yes"],
            &["failed", "discard", "--all", "--yes"],
            &["server", "check"],
            &["purge", "--results", "--yes"],
            &["run", "--", "true"],
        ],
    );
    naq.cli(["cancel", "nobody"]).run().exits(4);
    naq.cli(["schedule", "pause", "nothing"]).run().exits(4);
    naq.cli(["queue", "remove", "build"]).run().exits(2);
    assert_eq!(audit(&naq, &[]).len(), 1);
    let some = naq.cli(["queue", "pause", "build", "nothing"]).run();
    let some = some.exits(4);
    let latest = &audit(&naq, &["--limit", "1"])[0];
    assert_eq!(
        (&latest["queue"], &latest["count"]),
        (&"build".into(), &1.into())
    );
    let error = latest["error"].as_str().unwrap();
    assert!(
        some.stderr.contains(error) && error.contains("nothing"),
        "{latest} {some:?}"
    );
}

#[test]
fn the_audit_is_filtered_paged_and_followed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let following = naq
        .cli([
            "audit",
            "--follow",
            "--action",
            "resume",
            "--log-level",
            "debug",
        ])
        .follow();
    following.expect_stderr("following");
    for _ in 0..3 {
        run_all(
            &naq,
            &[&["queue", "pause", "build"], &["queue", "resume", "build"]],
        );
    }
    append(
        &naq,
        "naq.audit.cli.queue.pause",
        r#"{"action":"queue.pause","who":"anna","via":"cli","from":"host-1","queue":"build","count":1}"#,
    );
    assert_eq!(audit(&naq, &["--action", "pause"]).len(), 4);
    assert_eq!(audit(&naq, &["--action", "queue"]).len(), 8);
    assert_eq!(
        audit(&naq, &["--action", "queue.add", "--since", "1h"]).len(),
        1
    );
    assert_eq!(audit(&naq, &["--who", "anna"]).len(), 1);
    assert_eq!(audit(&naq, &["--who", "ann"]).len(), 0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(audit(&naq, &["--since", "10ms"]).len(), 0);

    let mut pages = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut words = vec!["audit", "--json", "--limit", "3"];
        words.extend(cursor.iter().flat_map(|next| ["--before", next.as_str()]));
        let page = naq.cli(words).run().succeeds();
        pages.push(page.stdout.lines().count());
        let note: Option<Value> = serde_json::from_str(&page.stderr).ok();
        cursor = note.map(|note| note["note"]["next"].as_str().unwrap().to_owned());
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, [3, 3, 2]);
    following.expect_stdout("queue.resume");
    let printed = following.expect_stdout("build");
    assert!(!printed.contains("queue.pause"), "{printed}");
    following.kill9();
    naq.cli(["audit", "--action", "jump"]).run().exits(2);
    naq.cli(["audit", "--follow", "--since", "1h"])
        .run()
        .exits(2);
}

#[test]
fn a_hostile_entry_and_an_unreadable_one_are_listed_as_text() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let hostile = "<b>anna</b>\u{202e}\u{1b}[31m\u{7}\nsecond line";
    let entry = serde_json::json!({
        "action": hostile, "who": hostile, "via": hostile, "from": hostile, "filter": hostile,
        "forwarded_for": hostile, "error": hostile, "count": 1,
    });
    append(&naq, "naq.audit.web.queue.purge", &entry.to_string());
    append(&naq, "naq.audit.cli.queue.purge", "{");
    let table = naq.cli(["audit"]).run().succeeds();
    assert!(
        !table.stdout.contains(['\u{1b}', '\u{202e}', '\u{7}']),
        "{table:?}"
    );
    assert_eq!(table.stdout.lines().count(), 4, "{table:?}");
    let listed = audit(&naq, &[]);
    let unreadable = listed[0]["error"].as_str().unwrap();
    assert!(
        unreadable.starts_with("the entry cannot be read"),
        "{unreadable}"
    );
    assert_eq!(
        (&listed[0]["action"], &listed[0]["claimed"]),
        (&"queue.purge".into(), &true.into())
    );
    // what it says of itself does not count: the subject is that of a dashboard
    assert_eq!(
        (&listed[1]["who"], &listed[1]["claimed"]),
        (&hostile.into(), &false.into())
    );
    let long = serde_json::json!({
        "action": "queue.set", "who": "x".repeat(9_000), "via": "cli", "from": "", "count": 1,
    });
    append(&naq, "naq.audit.cli.queue.set", &long.to_string());
    let who = audit(&naq, &["--limit", "1"])[0]["who"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(who.chars().count(), 128);
}

#[test]
fn the_stream_of_the_audit_is_bounded_and_checked() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let config = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("naq_audit").await.unwrap();
        stream.cached_info().config.clone()
    });
    assert_eq!(config.max_messages, 100_000);
    assert_eq!(config.max_messages_per_subject, 20_000);
    assert_eq!(config.max_message_size, 16 << 10);
    assert_eq!(config.max_age.as_secs(), 180 * 86_400);
    assert!(config.deny_delete);
    let checked = naq.cli(["server", "check", "--json"]).run().succeeds();
    assert!(checked.stdout.contains("\"naq_audit\""), "{checked:?}");
    // a naq with another prefix has its own
    let other = ["--prefix", "other", "audit"];
    let empty = naq.cli(other).run().succeeds();
    assert_eq!(empty.stdout, "");
}
