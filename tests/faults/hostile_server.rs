//! A broken or hostile server: no verb hangs, and none lets it fill the memory of the machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::hostile_server::{self, Harm};
use crate::harness::naq::command;

/// Memory that no verb needs for what it may believe.
const MEMORY_MAX_KIB: u64 = 512 << 10;

/// The longest list that naq reads.
const ENTRIES_MAX: u64 = 100_000;

/// The end of a verb.
#[derive(Debug)]
struct Ended {
    verb: String,
    code: Option<i32>,
    stderr: String,
    took: Duration,
    memory_kib: u64,
}

/// Runs a verb against a server, and watches its memory.
fn run(url: &str, words: &[&str], home: &Path, failpoints: &str) -> Ended {
    let environment = [
        ("HOME", home.to_str().unwrap()),
        ("NAQ_NATS_URL", url),
        ("NAQ_TOKEN", "t"),
        ("NAQ_CONNECT_TIMEOUT", "3s"),
        ("FAILPOINTS", failpoints),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let mut command: Command = command(&words, &environment.into(), home);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut memory_kib = 0;
    let verb = words.join(" ");
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        let peak = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        memory_kib = memory_kib.max(peak.unwrap_or_default());
        if started.elapsed() > Duration::from_secs(100) || memory_kib > 2 * MEMORY_MAX_KIB {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("naq {verb}: {memory_kib} KiB after {:?}", started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut stderr = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut stderr).unwrap();
    Ended {
        verb,
        code,
        stderr,
        took: started.elapsed(),
        memory_kib,
    }
}

/// Runs verbs against a server, all at once, since most of them wait for it.
fn run_all(harm: Harm, verbs: &[&[&str]]) -> Vec<Ended> {
    run_all_with(harm, verbs, "")
}

fn run_all_with(harm: Harm, verbs: &[&[&str]], failpoints: &str) -> Vec<Ended> {
    let server = hostile_server::start(harm);
    let url = &server.url;
    let home = tempfile::tempdir().unwrap();
    let ended = std::thread::scope(|scope| {
        let running: Vec<_> = verbs
            .iter()
            .map(|verb| scope.spawn(|| run(url, verb, home.path(), failpoints)))
            .collect();
        let ended = running.into_iter().map(|one| one.join().unwrap());
        ended
            .inspect(|one| {
                let (verb, took) = (&one.verb, one.took);
                let peak = one.memory_kib;
                assert!(peak < MEMORY_MAX_KIB, "{harm:?} {verb} {took:?}: {one:?}");
            })
            .collect()
    });
    let entries = server.entries_read();
    assert!(
        entries <= ENTRIES_MAX,
        "{harm:?}: {entries} entries of a list"
    );
    ended
}

/// Verbs that make requests and end.
const VERBS: &[&[&str]] = &[
    &["jobs"],
    &["queues"],
    &["schedules"],
    &["workers"],
    &["scheduler", "list"],
    &["failed", "list"],
    &["status", "a"],
    &["result", "a"],
    &["logs", "a"],
    &["cancel", "a"],
    &["retry", "a"],
    &["wait", "a", "--timeout", "5s"],
    &["enqueue", "--", "true"],
    &["job", "ttl", "a", "1h"],
    &["queue", "add", "build"],
    &["queue", "pause", "build"],
    &["queue", "purge", "build", "--yes"],
    &["purge", "--results", "--yes"],
    &["schedule", "show", "a"],
    &["server", "check"],
    &["failed", "retry", "--all"],
    &["failed", "discard", "--all", "--yes"],
];

#[test]
fn a_greeting_without_an_end_ends_every_verb() {
    for one in run_all(Harm::EndlessInfo, VERBS) {
        assert_eq!(one.code, Some(3), "{one:?}");
    }
}

#[test]
fn a_greeting_is_given_up_once_it_has_taken_its_memory() {
    let server = hostile_server::start(Harm::EndlessInfo);
    let home = tempfile::tempdir().unwrap();
    // without optimization, the client needs longer than a minute for the memory of a real verb
    let bound = "greeting.growth_max_kib=return(4096)";
    let verb = ["queues", "--connect-timeout", "90s"];
    let one = run(&server.url, &verb, home.path(), bound);
    assert_eq!(one.code, Some(3), "{one:?}");
    assert!(one.stderr.contains("a greeting without an end"), "{one:?}");
    // another verb connects as slowly as its server greets it, and takes no memory meanwhile
    let server = hostile_server::start(Harm::Mute);
    let one = run(&server.url, &["queues"], home.path(), bound);
    assert!(one.stderr.contains("no answer in time"), "{one:?}");
}

#[test]
fn a_message_without_an_end_fills_no_memory() {
    // each alone: what they receive at once would be the machine's limit
    for verb in [&["jobs"][..], &["enqueue", "--", "true"], &["workers"]] {
        for one in run_all(Harm::EndlessMessage, &[verb]) {
            assert_eq!(one.code, Some(3), "{one:?}");
            // on a slow machine, the time limit of the request comes first
            let is_ended = one.stderr.contains("a message without an end");
            assert!(is_ended || one.memory_kib < 160 << 10, "{one:?}");
        }
    }
}

#[test]
fn lists_without_an_end_end_every_verb() {
    for harm in [Harm::EndlessPages, Harm::SamePage] {
        let lists: &[&[&str]] = &[&["jobs"], &["queues"], &["schedules"], &["server", "check"]];
        for one in run_all(harm, lists) {
            assert_eq!(one.code, Some(3), "{harm:?} {one:?}");
            // on a slow machine, the time limit comes first
            let is_bounded = one.stderr.contains("more than 100000 entries")
                || one.stderr.contains("in time while");
            assert!(is_bounded, "{harm:?} {one:?}");
        }
    }
}

#[test]
fn a_list_whose_pages_come_slowly_ends_every_verb() {
    let lists: &[&[&str]] = &[&["jobs"], &["queues"]];
    for one in run_all(Harm::SlowPages, lists) {
        assert_eq!(one.code, Some(3), "{one:?}");
        assert!(one.stderr.contains("in time while"), "{one:?}");
    }
}

#[test]
fn a_bucket_without_an_end_fills_no_memory() {
    let heartbeats: &[&[&str]] = &[&["workers"], &["queues"], &["scheduler", "list"]];
    for one in run_all(Harm::EndlessBucket, heartbeats) {
        assert_eq!(one.code, Some(3), "{one:?}");
        assert!(
            one.stderr.contains("more than 64 MiB of heartbeats"),
            "{one:?}"
        );
    }
    // what is shown as it is read has no bound but time
    let lists: &[&[&str]] = &[
        &["schedules"],
        &["schedules", "--json"],
        &["purge", "--results", "--yes"],
        &["failed", "list"],
        &["failed", "retry", "--all"],
        &["failed", "discard", "--all", "--yes"],
    ];
    for one in run_all_with(Harm::EndlessBucket, lists, "verb.time_max=return(5)") {
        assert_eq!(one.code, Some(3), "{one:?}");
        assert!(one.stderr.contains("without an end"), "{one:?}");
    }
}

#[test]
fn a_server_that_never_answers_ends_every_verb() {
    for harm in [Harm::Silence, Harm::Deaf] {
        for one in run_all(harm, VERBS) {
            // a wait has a time limit of its own
            assert!(matches!(one.code, Some(3 | 124)), "{harm:?} {one:?}");
        }
    }
}

#[test]
fn answers_that_are_none_end_every_verb() {
    for harm in [Harm::Garbage, Harm::Backwards] {
        for one in run_all_with(harm, VERBS, "verb.time_max=return(20)") {
            assert!(
                one.code.is_some_and(|code| code != 0 && code != 101),
                "{harm:?} {one:?}"
            );
            assert!(!one.stderr.contains("internal error"), "{harm:?} {one:?}");
        }
    }
}
