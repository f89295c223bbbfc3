//! The page that enqueues a job, without a browser.

use serde_json::json;

use super::Dashboard;
use super::failed_pages::{Browser, hidden};
use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;
use naq_protocol::State;

/// A form as a browser sends it.
fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields.iter().map(|(name, value)| {
        let bytes = value.bytes().map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        });
        format!("{name}={}", bytes.collect::<String>())
    });
    pairs.collect::<Vec<_>>().join("&")
}

#[test]
fn only_who_may_submit_sees_the_form() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    let page = browser.get("/jobs").expect(200).text();
    assert!(!page.contains("href=\"/enqueue\""), "{page}");
    browser.get("/enqueue").expect(403);
    let body = form(&[("command", "true"), ("action", "enqueue")]);
    browser.submit("/enqueue", &body).expect(403);

    let open = Dashboard::start(&naq, &["--allow-submit"]);
    let browser = Browser::open(&open);
    let page = browser.get("/jobs").expect(200).text();
    assert!(page.contains("href=\"/enqueue\""), "{page}");
    browser.get("/enqueue").expect(200);
    browser
        .submit_from("cross-site", "/enqueue", &body)
        .expect(403);
}

#[test]
fn a_form_is_checked_and_sent_twice_enqueues_one_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--allow-submit"]);
    let browser = Browser::open(&dashboard);
    let page = browser.get("/enqueue?queue=build").expect(200).text();
    assert!(page.contains("name=\"queue\" value=\"build\""), "{page}");
    let fresh = hidden(&page, "fresh_id");

    let hostile = "<script>alert(1)</script>";
    for (entry, shown) in [
        (vec![("command", "echo 'a")], "a quote has no end"),
        (vec![("env", "A")], "the line `A` has no `=`"),
        (
            vec![("command", "true"), ("timeout", "soon")],
            "<code>timeout</code>",
        ),
        (
            vec![("command", "true"), ("queue", "a b")],
            "<code>queue</code>",
        ),
        (
            vec![("command", "true"), ("start", "soon")],
            "<code>start</code>",
        ),
        (
            vec![("command", "true"), ("env", "A=***")],
            "<code>env.A</code>",
        ),
        (vec![("json", r#"{"command":3}"#)], "<code>command</code>"),
        (vec![("json", hostile)], "the JSON is not an object"),
        (vec![("json", r#"{"nonsense":1}"#)], "Not valid"),
        (vec![("action", "enqueue")], "enter a command"),
    ] {
        for action in ["check", "enqueue"] {
            let mut entry = entry.clone();
            if entry[0].0 != "action" {
                entry.push(("action", action));
            }
            let answer = browser.submit("/enqueue", &form(&entry));
            let text = answer.text();
            assert!(text.contains(shown), "{entry:?}: {text}");
            assert!(!text.contains(hostile), "{text}");
        }
    }
    assert_eq!(dashboard.get("/api/jobs").json()["jobs"], json!([]));

    let entry = [
        ("queue", "build"),
        ("fresh_id", fresh.as_str()),
        ("script", "#!/bin/sh\r\necho \"$LEVEL\"\r\n"),
        ("env", "LEVEL=three\r\n"),
        ("labels", "team=x"),
        ("json", r#"{"limits":{"open_files":100}}"#),
    ];
    let with = |action| form(&[&entry[..], &[("action", action)]].concat());
    let checked = browser
        .submit("/enqueue", &with("check"))
        .expect(200)
        .text();
    assert!(checked.contains("<h2>Valid</h2>"), "{checked}");
    assert!(checked.contains("naq enqueue -q build"), "{checked}");
    for _ in 0..2 {
        let sent = browser.submit("/enqueue", &with("enqueue")).expect(303);
        assert_eq!(
            sent.header("location"),
            Some(format!("/jobs/{fresh}").as_str())
        );
    }
    let _worker = naq.worker(&["build"]).spawn();
    let record = naq.wait_ended(&id(&fresh));
    assert_eq!(record.state(), State::Succeeded, "{record:?}");
    assert_eq!(record.labels["team"], "x");
    let output = dashboard.get(&format!("/api/jobs/{fresh}/stdout"));
    assert_eq!(output.expect(200).text(), "three\n");

    // the form of a job that exists, changed: another job
    let changed = form(&[
        ("queue", "build"),
        ("fresh_id", fresh.as_str()),
        ("command", "echo changed"),
        ("action", "enqueue"),
    ]);
    let sent = browser.submit("/enqueue", &changed).expect(303);
    let place = sent.header("location").unwrap().to_owned();
    assert_ne!(place, format!("/jobs/{fresh}"));
    // checks and refusals are no changes
    let entries = || {
        let audit = dashboard.get("/api/audit?action=enqueue").expect(200);
        audit.json()["entries"].clone()
    };
    eventually("the entries", || {
        entries().as_array().is_some_and(|all| all.len() == 3)
    });
    let audit = entries();
    let names: Vec<&str> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["job_id"].as_str().unwrap())
        .collect();
    assert_eq!(names[1..], [fresh.as_str(), fresh.as_str()], "{audit}");
    // an id that the user has chosen is a conflict
    let taken = form(&[
        ("queue", "build"),
        ("job_id", fresh.as_str()),
        ("command", "echo changed"),
        ("action", "enqueue"),
    ]);
    let refused = browser.submit("/enqueue", &taken).expect(409).text();
    assert!(refused.contains("echo changed"), "{refused}");
}

#[test]
fn an_edited_job_keeps_values_that_no_page_shows() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--allow-submit"]);
    let browser = Browser::open(&dashboard);
    let _worker = naq.worker(&["build"]).spawn();
    let envelope = json!({
        "job_id": "first",
        "command": "sh",
        "args": ["-c", "echo \"$TOKEN $0\"", "one"],
        "env": {"TOKEN": "hunter2"},
        "max_retries": 1,
        "concurrency_key": "db",
    });
    naq.publish("build", envelope.to_string());
    let first = id("first");
    naq.wait_ended(&first);
    let page = browser.get("/jobs/first").expect(200).text();
    assert!(page.contains("/enqueue?from=first"), "{page}");
    let page = browser.get("/enqueue?from=first").expect(200).text();
    assert!(!page.contains("hunter2"), "{page}");
    assert!(page.contains("TOKEN=***"), "{page}");
    assert!(page.contains("Nothing is changed"), "{page}");
    let edited = |action| {
        form(&[
            ("from", "first"),
            ("queue", "build"),
            ("fresh_id", "second"),
            ("command", r#"sh -c 'echo "$TOKEN $0"' two"#),
            ("env", "TOKEN=***"),
            ("max_retries", "1"),
            ("json", r#"{"concurrency_key": "db"}"#),
            ("action", action),
        ])
    };
    let checked = browser
        .submit("/enqueue", &edited("check"))
        .expect(200)
        .text();
    assert!(!checked.contains("hunter2"), "{checked}");
    for line in [
        "<del>-   - &quot;one&quot;</del>",
        "<ins>+   - &quot;two&quot;</ins>",
    ] {
        assert!(checked.contains(line), "{line}: {checked}");
    }
    browser.submit("/enqueue", &edited("enqueue")).expect(303);
    let record = naq.wait_ended(&id("second"));
    assert_eq!(record.rerun_of, Some(first));
    let output = dashboard.get("/api/jobs/second/stdout").expect(200);
    assert_eq!(output.text(), "hunter2 two\n");
    browser.get("/enqueue?from=nothing").expect(404);
}
