//! The page of a schedule and its form, without a browser.

use super::Dashboard;
use super::failed_pages::{Browser, hidden};
use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

/// The fields of a form that creates or edits a schedule.
fn form(name: &str, etag: &str, fields: &[(&str, &str)]) -> String {
    let all = [
        "queue",
        "cron",
        "tz",
        "every",
        "envelope",
        "repeat",
        "start",
        "end",
        "jitter",
        "misfire",
        "misfire_max",
        "misfire_grace",
        "overlap",
    ];
    let mut text = format!("name={}&etag={}", encode(name), encode(etag));
    for field in all {
        let usual = match field {
            "queue" => "build",
            "cron" => "0 0 1 1 *",
            "envelope" => r#"{"command": "true"}"#,
            _ => "",
        };
        let given = fields.iter().find(|(known, _)| *known == field);
        let value = given.map_or(usual, |(_, value)| value);
        text.push_str(&format!("&{field}={}", encode(value)));
    }
    text
}

/// A text as a value of a form.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// A text of a page without its escapes.
fn plain(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&#x27;", "'")
        .replace("&#x2F;", "/")
}

#[test]
fn a_schedule_is_created_edited_and_deleted_by_forms() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--allow-submit"]);
    let browser = Browser::open(&dashboard);
    let page = browser.get("/create/schedule").expect(200).text();
    assert!(
        page.contains("New schedule") && page.contains("./backup.sh"),
        "{page}"
    );

    // the page says below each field what is wrong with it, and keeps what was typed
    let wrong = [
        ("cron", "61 * * * *"),
        ("envelope", r#"{"command":"a","args":[{}]}"#),
    ];
    let refused = browser
        .submit("/create/schedule", &form("nightly", "", &wrong))
        .expect(422)
        .text();
    for words in [
        "a field is wrong",
        "id=\"envelope-error\">args/0: ",
        "value=\"61 * * * *\"",
    ] {
        assert!(plain(&refused).contains(words), "{words}: {refused}");
    }
    let refused = browser
        .submit("/create/schedule", &form("a.b", "", &[]))
        .expect(422)
        .text();
    assert!(refused.contains("id=\"name-error\""), "{refused}");
    let envelope = r#"{"command": "echo", "args": ["<b>é</b>"], "env": {"TOKEN": "hunter2"}}"#;
    let fields = [
        ("envelope", envelope),
        ("tz", "Europe/Berlin"),
        ("start", "2030-06-01 12:00"),
        ("overlap", "skip"),
    ];
    let done = browser.submit_and_follow("/create/schedule", &form("nightly", "", &fields));
    for words in [
        "The schedule is saved.",
        "It has no run yet.",
        "Europe/Berlin",
        "2031-01-01 00:00:00 +01:00",
        "&lt;b&gt;",
    ] {
        assert!(done.contains(words), "{words}: {done}");
    }
    assert!(
        !done.contains("hunter2") && !done.contains("<b>é"),
        "{done}"
    );
    // a name that is in use is not taken over
    let taken = browser
        .submit("/create/schedule", &form("nightly", "", &[]))
        .expect(412)
        .text();
    assert!(
        taken.contains("id=\"name-error\">it exists") && !taken.contains("Load the present"),
        "{taken}"
    );

    let page = browser.get("/schedules/nightly/edit").expect(200).text();
    assert!(!page.contains("hunter2"), "{page}");
    assert!(plain(&page).contains("\"TOKEN\":\"***\""), "{page}");
    assert!(
        page.contains("value=\"2030-06-01T12:00:00+02:00\""),
        "{page}"
    );
    let etag = plain(&hidden(&page, "etag"));
    let shown = r#"{"command": "echo", "env": {"TOKEN": "***"}}"#;
    let fields = [("envelope", shown), ("every", "1h"), ("cron", "")];
    let done = browser.submit_and_follow("/schedules/nightly/edit", &form("", &etag, &fields));
    assert!(done.contains("every 1h"), "{done}");
    let name = naq_protocol::ScheduleId::new("nightly").unwrap();
    let stored = naq
        .block_on(naq.client().fetch_schedule(&name))
        .unwrap()
        .unwrap();
    assert!(stored.schedule.envelope.get().contains("hunter2"));
    // a page that was open meanwhile does not undo that
    let late = browser
        .submit(
            "/schedules/nightly/edit",
            &form("", &etag, &[("queue", "other")]),
        )
        .expect(412)
        .text();
    assert!(
        late.contains("Load the present definition") && late.contains("value=\"other\""),
        "{late}"
    );

    // a session may not submit unless the dashboard says so
    let plain_dashboard = Dashboard::start(&naq, &[]);
    let operator = Browser::open(&plain_dashboard);
    operator.get("/create/schedule").expect(403);
    operator.get("/schedules/nightly/edit").expect(403);
    operator
        .submit("/create/schedule", &form("x", "", &[]))
        .expect(403);
    operator
        .submit("/schedules/nightly/edit", &form("", &etag, &[]))
        .expect(403);
    let page = operator.get("/schedules/nightly").expect(200).text();
    assert!(
        !page.contains(">Edit<") && page.contains("Delete nightly"),
        "{page}"
    );
    assert!(
        !operator
            .get("/schedules")
            .expect(200)
            .text()
            .contains("New schedule")
    );
    let read_only = Dashboard::start(&naq, &["--read-only"]);
    let viewer = Browser::open(&read_only);
    let page = viewer.get("/schedules/nightly").expect(200).text();
    assert!(
        !page.contains("method=\"post\" action=\"/schedules"),
        "{page}"
    );

    let page = operator.get("/schedules/nightly").expect(200).text();
    let seen = encode(&plain(&hidden(&page, "etag")));
    operator
        .submit(
            "/schedules/nightly/delete",
            &format!("name=nightl&etag={seen}"),
        )
        .expect(409);
    operator
        .submit(
            "/schedules/nightly/delete",
            &format!("name=nightly&etag={}", encode(&etag)),
        )
        .expect(412);
    viewer
        .submit(
            "/schedules/nightly/delete",
            &format!("name=nightly&etag={seen}"),
        )
        .expect(403);
    operator
        .submit_from(
            "cross-site",
            "/schedules/nightly/delete",
            &format!("name=nightly&etag={seen}"),
        )
        .expect(403);
    let done = operator.submit_and_follow(
        "/schedules/nightly/delete",
        &format!("name=nightly&etag={seen}"),
    );
    assert!(
        done.contains("The schedule `nightly` is deleted."),
        "{done}"
    );
    operator.get("/schedules/nightly").expect(404);
}

#[test]
fn a_range_is_shown_before_it_is_backfilled() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    let add = [
        "schedule",
        "add",
        "--name",
        "nightly",
        "-q",
        "build",
        "--cron",
        "30 2 * * *",
        "--tz",
        "Europe/Berlin",
        "--",
        "true",
    ];
    naq.cli(add).run().succeeds();
    let range = "from=2025-03-28T00:00&to=2025-04-02T00:00&limit=3&order=oldest";
    let shown = browser
        .get(&format!("/schedules/nightly?{range}"))
        .expect(200)
        .text();
    for words in [
        "3 jobs would be enqueued.",
        "The range has 2 more runs.",
        "2025-03-30 03:00:00 +02:00",
        "nightly-20250330T010000Z",
        "Enqueue 3 jobs",
        "value=\"2025-03-28T00:00\"",
    ] {
        assert!(plain(&shown).contains(words), "{words}: {shown}");
    }
    assert_eq!(
        dashboard.get("/api/jobs").json()["jobs"],
        serde_json::json!([])
    );
    let form = format!(
        "from={}&to={}&limit=3&order=oldest",
        encode(&hidden(&shown, "from")),
        encode(&hidden(&shown, "to"))
    );
    let done = browser.submit_and_follow("/schedules/nightly/backfill", &form);
    assert!(
        done.contains("3 jobs enqueued.") && done.contains("label%3Abackfill%3D"),
        "{done}"
    );
    let again = browser.submit_and_follow("/schedules/nightly/backfill", &form);
    assert!(again.contains("0 jobs enqueued; 3 existed."), "{again}");
    let shown = browser
        .get(&format!("/schedules/nightly?{range}"))
        .expect(200)
        .text();
    assert!(
        shown.contains("3 exist already") && !shown.contains("Enqueue 3"),
        "{shown}"
    );

    for (wrong, words) in [
        ("from=soon", "from: "),
        ("from=2025-03-28T00:00&to=2025-03-28T00:00", "not after"),
        ("from=2025-03-28T00:00&to=2999-01-01T00:00", "in the future"),
        ("from=2025-03-28T00:00&limit=1001", "limit: "),
        ("from=2025-03-28T00:00&order=random", "order: "),
    ] {
        let page = browser
            .get(&format!("/schedules/nightly?{wrong}"))
            .expect(200)
            .text();
        assert!(
            page.contains("role=\"alert\"") && page.contains(words),
            "{words}: {page}"
        );
    }
    browser.get("/schedules/nightly?form=soon").expect(400);
    browser.get("/schedules/none").expect(404);
    let read_only = Dashboard::start(&naq, &["--read-only"]);
    let viewer = Browser::open(&read_only);
    viewer
        .submit("/schedules/nightly/backfill", &form)
        .expect(403);
}

#[test]
fn the_last_runs_of_a_schedule_are_a_strip_of_links() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    let _worker = naq.worker(&["build"]).spawn();
    let _scheduler = naq.cli(["scheduler"]).follow();
    let add = [
        "schedule", "add", "--name", "beat", "-q", "build", "--every", "200ms", "--repeat", "3",
        "--", "false",
    ];
    naq.cli(add).run().succeeds();
    eventually("three runs have failed", || {
        let page = browser.get("/schedules/beat").expect(200).text();
        page.contains("The last 3 ticks: 3 failed.")
    });
    let page = browser.get("/schedules/beat").expect(200).text();
    assert_eq!(
        page.matches("class=\"bad\" href=\"/jobs/beat-").count(),
        3,
        "{page}"
    );
    assert!(plain(&page).contains("failed (exit 1), "), "{page}");
    let listed = browser.get("/schedules").expect(200).text();
    assert_eq!(
        listed.matches("class=\"bad\" href=\"/jobs/beat-").count(),
        3,
        "{listed}"
    );
    assert!(listed.contains("href=\"/schedules/beat\""), "{listed}");
    let triggered = browser.submit_and_follow("/schedules/beat/trigger", "");
    let job = triggered
        .split("href=\"/jobs/")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    naq.wait_ended(&id(job));
}
