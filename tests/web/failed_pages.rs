//! The pages of failures, schedules and workers, without a browser.

use super::Dashboard;
use super::http::Answer;
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

/// A browser with a session.
pub(super) struct Browser<'d> {
    dashboard: &'d Dashboard,
    session: String,
}

impl Browser<'_> {
    pub(super) fn open(dashboard: &Dashboard) -> Browser<'_> {
        let session = dashboard.log_in();
        Browser { dashboard, session }
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        let request = self.dashboard.anonymous("GET", path);
        request.header("Cookie", &self.session).send()
    }

    /// Sends a form as a page of the dashboard does.
    pub(super) fn submit(&self, path: &str, form: &str) -> Answer {
        self.submit_from("same-origin", path, form)
    }

    pub(super) fn submit_from(&self, site: &str, path: &str, form: &str) -> Answer {
        let request = self.dashboard.anonymous("POST", path);
        let request = request.header("Cookie", &self.session);
        let request = request.header("Sec-Fetch-Site", site);
        request
            .body("application/x-www-form-urlencoded", form)
            .send()
    }

    /// Sends a form, and opens the page that the answer redirects to.
    #[track_caller]
    pub(super) fn submit_and_follow(&self, path: &str, form: &str) -> String {
        let answer = self.submit(path, form).expect(303);
        let place = answer.header("location").unwrap().to_owned();
        self.get(&place).expect(200).text()
    }
}

/// The value of a hidden field of a page.
#[track_caller]
pub(super) fn hidden(page: &str, name: &str) -> String {
    let mark = format!("name=\"{name}\" value=\"");
    let rest = page
        .split_once(&mark)
        .unwrap_or_else(|| panic!("{name}: {page}"))
        .1;
    rest.split('"').next().unwrap().to_owned()
}

/// Fails jobs in the queue `build` until this many have: a program that does not exist.
fn fail(naq: &Naq, programs: &[&str]) {
    let _worker = naq.worker(&["build"]).spawn();
    for program in programs {
        let envelope = serde_json::json!({"command": program}).to_string();
        naq.wait_ended(&naq.publish("build", envelope));
    }
}

#[test]
fn forms_of_groups_are_shown_to_operators_and_checked() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    assert!(
        browser
            .get("/failed")
            .expect(200)
            .text()
            .contains("No job has failed")
    );
    fail(&naq, &["/no/such/1", "/no/such/2"]);
    // The groups are kept until the dashboard has seen that a job has failed.
    let failed = || browser.get("/failed").expect(200).text();
    eventually("both jobs are shown", || {
        failed().contains("2 failed jobs, grouped by cause")
    });
    let page = failed();
    assert!(page.contains("Retry 2 jobs with this cause"), "{page}");
    let (group, until) = (hidden(&page, "group"), hidden(&page, "until"));
    assert_eq!(hidden(&page, "limit"), "2");
    let jobs = browser.get(&format!("/failed/jobs?group={group}&queue=&since="));
    let jobs = jobs.expect(200).text();
    assert_eq!(jobs.matches(">Discard</button>").count(), 2, "{jobs}");
    assert_eq!(
        jobs.matches("type=\"checkbox\" name=\"job\"").count(),
        2,
        "{jobs}"
    );

    // a time with an offset keeps its plus sign in links
    let page = browser.get("/failed?since=2020-01-01T00:00:00%2B01:00");
    let page = page.expect(200).text();
    let link = page.split("href=\"/failed/jobs?").nth(1).unwrap();
    let link = link.split('"').next().unwrap().replace("&amp;", "&");
    let jobs = browser.get(&format!("/failed/jobs?{link}"));
    assert!(
        jobs.text().contains(">Discard</button>"),
        "{link}: {jobs:?}"
    );

    let form = |action: &str| {
        format!("action={action}&group={group}&queue=build&since=&until={until}&limit=2")
    };
    let read_only = Dashboard::start(&naq, &["--read-only"]);
    let viewer = Browser::open(&read_only);
    assert!(
        !viewer
            .get("/failed")
            .expect(200)
            .text()
            .contains("<form method=\"post\" action=\"/actions")
    );
    viewer.submit("/actions", &form("retry")).expect(403);
    browser
        .submit_from("cross-site", "/actions", &form("retry"))
        .expect(403);
    for wrong in [
        "action=retry&group=x",
        "action=retry&group=&since=soon",
        "action=cancel&group=",
        "action=retry&group=&until=soon",
        "action=retry&group=&limit=two",
        "action=retry",
        "action=retry&group=&up_to=1",
    ] {
        browser.submit("/actions", wrong).expect(400);
    }
}

#[test]
fn a_form_is_about_the_failed_jobs_that_its_page_showed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    fail(&naq, &["/no/such/1", "/no/such/2"]);
    let page = browser.get("/failed").expect(200).text();
    let (group, until) = (hidden(&page, "group"), hidden(&page, "until"));
    let form = |action: &str| {
        format!("action={action}&group={group}&queue=build&since=&until={until}&limit=2")
    };
    fail(&naq, &["/no/such/3"]);
    let done = browser.submit_and_follow("/actions", &form("retry"));
    assert!(done.contains("Enqueued again</dt>"), "{done}");
    eventually("two jobs are enqueued again", || {
        let page = browser.get("/failed").expect(200).text();
        page.contains("1 failed job, grouped by cause")
    });
    let info = dashboard.get("/api/queues/build").expect(200).json();
    assert_eq!(info["delayed"], 2, "{info}");

    let page = browser.get("/failed").expect(200).text();
    let all = format!(
        "action=discard&group=&queue=&since=&until={}&limit=1",
        hidden(&page, "until")
    );
    let done = browser.submit_and_follow("/actions", &all);
    assert!(done.contains("Discarded</dt>"), "{done}");
    eventually("no failed job is listed", || {
        dashboard.get("/api/failed/groups").json()["jobs"] == 0
    });
}

#[test]
fn one_failed_job_is_retried_or_discarded_by_a_form() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    fail(&naq, &["/no/such/1", "/no/such/2"]);
    let failed = dashboard.get("/api/failed").json();
    let id = |at: usize| failed["jobs"][at]["job_id"].as_str().unwrap().to_owned();
    for (at, action, done) in [(0, "retry", "Enqueued again"), (1, "discard", "Discarded")] {
        let form = format!("job={}&action={action}", id(at));
        let page = browser.submit_and_follow("/actions", &form);
        assert!(page.contains(done) && page.contains(&id(at)), "{page}");
    }
    eventually("no failed job is listed", || {
        dashboard.get("/api/failed").json()["jobs"] == serde_json::json!([])
    });
    browser.get("/failed?done=text").expect(400);
}

#[test]
fn hostile_errors_are_shown_as_text() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    let hostile = "<script>alert(1)</script>\"><img src=x>\u{202e}\u{1b}[31m\u{7}";
    naq.block_on(async {
        naq.client().broker().ensure_layout().await.unwrap();
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        for (id, reason) in [("one", "exit"), ("two", "<b>new</b>\u{202e}")] {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Naq-State", "failed");
            headers.insert("Naq-Reason", reason);
            headers.insert("Naq-Error", hostile);
            let subject = format!("naq.failed.build.{id}");
            let sent = jetstream.publish_with_headers(subject, headers, "{}".into());
            sent.await.unwrap().await.unwrap();
        }
    });
    let group = dashboard.get("/api/failed/groups").expect(200).json();
    let group = group["groups"][1]["group"].as_str().unwrap().to_owned();
    for path in ["/failed".to_owned(), format!("/failed/jobs?group={group}")] {
        let page = browser.get(&path).expect(200).text();
        assert!(page.contains("&lt;script&gt;"), "{page}");
        for forbidden in [
            "<script>alert",
            "<img src=x",
            "<b>new",
            "\u{202e}",
            "\u{1b}",
            "\u{7}",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}: {page}");
        }
    }
    let shown = naq.cli(["failed", "groups"]).run().succeeds();
    assert!(
        !shown.stdout.contains(['\u{1b}', '\u{202e}', '\u{7}']),
        "{shown:?}"
    );
}

#[test]
fn schedules_are_paused_resumed_and_triggered_by_forms() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    let empty = browser.get("/schedules").expect(200).text();
    assert!(empty.contains("No schedule exists"), "{empty}");
    let hostile = "<script>alert(1)</script>\u{202e}";
    for words in [
        &[
            "--name",
            "nightly",
            "--cron",
            "30 3 * * *",
            "--tz",
            "Asia/Kolkata",
            "--",
            "echo",
            hostile,
        ][..],
        &["--name", "beat", "--every", "1h", "--", "true"],
    ] {
        let add = [&["schedule", "add", "-q", "build"], words].concat();
        naq.cli(add).run().succeeds();
    }
    let page = browser.get("/schedules").expect(200).text();
    for words in [
        "2 schedules",
        "<code>30 3 * * *</code>",
        "At 03:30 every day.",
        "03:30:00 +05:30</time> Asia/Kolkata",
        " 22:00:00 UTC",
        "every 1h",
        "No scheduler leads",
        "&lt;script&gt;alert(1)",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(
        !page.contains("<script>alert") && !page.contains('\u{202e}'),
        "{page}"
    );

    let paused = browser.submit_and_follow("/schedules/nightly/pause", "");
    assert!(
        paused.contains("The schedule `nightly` is paused."),
        "{paused}"
    );
    assert!(
        paused.contains("Resume nightly") && paused.contains("Pause beat"),
        "{paused}"
    );
    let resumed = browser.submit_and_follow("/schedules/nightly/resume", "");
    assert!(resumed.contains("Pause nightly"), "{resumed}");
    let triggered = browser.submit_and_follow("/schedules/beat/trigger", "");
    assert!(triggered.contains("Enqueued the job"), "{triggered}");
    assert_eq!(dashboard.get("/api/queues/build").json()["depth"], 1);

    browser.submit("/schedules/none/trigger", "").expect(404);
    browser
        .submit_from("same-site", "/schedules/beat/trigger", "")
        .expect(403);
    let read_only = Dashboard::start(&naq, &["--read-only"]);
    let viewer = Browser::open(&read_only);
    viewer.submit("/schedules/beat/trigger", "").expect(403);
    let page = viewer.get("/schedules?after=beat").expect(200).text();
    assert!(
        !page.contains("Trigger") && !page.contains("id=\"schedule-beat\""),
        "{page}"
    );
    assert!(page.contains("id=\"schedule-nightly\""), "{page}");
    viewer.get("/schedules?after=a.b").expect(400);
}

#[test]
fn workers_are_shown_with_what_they_run() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    let empty = browser.get("/workers").expect(200).text();
    assert!(empty.contains("No worker runs"), "{empty}");
    let words = [
        "worker",
        "build",
        "--name",
        "anvil",
        "--concurrency",
        "3",
        "--label",
        "gpu=<b>a100</b>",
        "--quiet",
    ];
    let _worker = naq.cli(words).follow();
    let job = naq.enqueue(&["-q", "build", "--id", "long-one", "--", "sleep", "60"]);
    naq.wait_running(&job);
    eventually("the job of the worker", || {
        let page = browser.get("/workers").expect(200).text();
        page.contains("long-one") && page.contains("1 of 3")
    });
    let page = browser.get("/workers").expect(200).text();
    for words in [
        "anvil",
        "1 worker, 1 of 3 slots in use",
        "gpu=&lt;b&gt;a100",
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(!page.contains("<b>a100"), "{page}");
    assert!(
        page.contains("Drain anvil") && page.contains("It runs 1 job."),
        "{page}"
    );
    let read_only = Dashboard::start(&naq, &["--read-only"]);
    let viewer = Browser::open(&read_only);
    let seen = viewer.get("/workers").expect(200).text();
    assert!(!seen.contains("Drain anvil"), "{seen}");
    viewer.submit("/workers/anvil/drain", "").expect(403);
    browser.submit("/workers/none/drain", "").expect(404);
    browser
        .submit_from("cross-site", "/workers/anvil/drain", "")
        .expect(403);
    let done = browser.submit_and_follow("/workers/anvil/drain", "");
    assert!(done.contains("The worker anvil drains"), "{done}");
    eventually("the page says that it drains", || {
        let page = browser.get("/workers").expect(200).text();
        page.contains("draining") && !page.contains("Drain anvil")
    });
    // every page leads to the others
    for path in ["/", "/failed", "/schedules", "/workers"] {
        let page = browser.get(path).expect(200).text();
        for place in ["/failed", "/schedules", "/workers"] {
            assert!(
                page.contains(&format!("href=\"{place}\"")),
                "{path} has no link to {place}"
            );
        }
        assert_eq!(page.matches("aria-current=\"page\"").count(), 1, "{path}");
    }
}
