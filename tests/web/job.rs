//! The page of a job, its forms, and the event stream of an open page.

use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;

use super::Dashboard;
use super::http::{Answer, read_head};
use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;
use naq_protocol::JobId;

/// Writes what a page must show as text, and a line of 10 MB.
const HOSTILE_SCRIPT: &str = r#"#!/bin/sh
printf '\033[31mred\033[0m <script>alert(1)</script>\n'
printf 'bidi \342\200\256 end, \033]8;;javascript:alert(1)\007link\033]8;;\007\n'
printf '10%%\r50%%\r100%%\n'
head -c 10000000 /dev/zero | tr '\0' x
printf '\nafter the long line\n'
printf '<img src=x onerror=alert(2)>\n' >&2
exit 3
"#;

#[test]
fn what_a_job_contains_and_writes_is_shown_as_text() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let script = naq.file("hostile.sh", HOSTILE_SCRIPT);
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let argument = "<script>alert(3)</script>\u{202e}\u{1b}[31m";
    let words = [
        "enqueue",
        "-q",
        "build",
        "--id",
        "hostile",
        "-e",
        "COLOUR=hunter2",
        "-l",
        "team=<b>",
        "--",
        script.to_str().unwrap(),
        argument,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_ended(&id("hostile"));
    let page = dashboard.get("/jobs/hostile").expect(200).text();
    assert!(page.len() < 400_000, "{}", page.len());
    for raw in [
        "<script>alert",
        "<img src=x",
        "<b>\"",
        "hunter2",
        "javascript:alert(1)\"",
    ] {
        assert!(!page.contains(raw), "{raw}: {page}");
    }
    assert!(!page.contains(['\u{202e}', '\u{1b}', '\u{7}']), "{page}");
    for shown in [
        "failed (exit 3)",
        "<span class=\"fg1\">red</span> &lt;script&gt;alert(1)&lt;/script&gt;",
        "bidi \\u{202e} end, ␛]8;;",
        "<span class=\"t\">100%</span>",
        "id=\"stdout-L1\"",
        "href=\"/api/jobs/hostile/stdout?plain&amp;lines=4\" target=\"_blank\" rel=\"noopener\">… the whole line, ",
        "after the long line",
        "&lt;img src=x onerror=alert(2)&gt;",
        "<code>COLOUR</code>",
        "team=&lt;b&gt;",
        "class=\"cut\"",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(page.contains("naq enqueue -q build"), "{page}");
    assert!(page.contains("/api/queues/build/jobs"), "{page}");
    // nothing that the policy forbids
    assert!(
        !page.contains(" style=") && !page.contains(" onclick"),
        "{page}"
    );
    for (path, status) in [
        ("/jobs/none", 404),
        ("/jobs/a.b", 400),
        ("/jobs/%3Cscript%3Ealert(1)%3C%2Fscript%3E", 400),
        ("/jobs/..%2f..%2fx", 400),
    ] {
        let answer = dashboard.get(path).expect(status);
        assert!(!answer.text().contains("<script>alert"), "{answer:?}");
    }
}

#[test]
fn the_kept_end_of_a_long_output_is_on_the_page() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    // more than what is read of an object for the page, of which 4 MiB are kept
    let script = r"head -c 80000000 /dev/zero | tr '\0' x; printf '\nwhy it failed\n'";
    let words = [
        "enqueue", "-q", "build", "--id", "long", "--output", "4M", "--", "sh", "-c", script,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_ended(&id("long"));
    let page = dashboard.get("/jobs/long").expect(200).text();
    assert!(
        page.contains("<span class=\"t\">why it failed</span>"),
        "{page}"
    );
    let mark = "<b class=\"gap\">… 72.3 MiB were not kept …</b>";
    assert!(page.contains(mark), "{page}");
}

#[test]
fn a_page_says_why_a_job_does_not_run_and_what_it_depends_on() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    naq.cli(["enqueue", "-q", "build", "--id", "first", "--", "true"])
        .run()
        .succeeds();
    let second = [
        "enqueue",
        "-q",
        "build",
        "--id",
        "second",
        "--depends-on",
        "first",
        "--",
        "true",
    ];
    naq.cli(second).run().succeeds();
    let page = dashboard.get("/jobs/first").expect(200).text();
    assert!(page.contains("Why it does not run"), "{page}");
    assert!(page.contains("<code>naq worker build</code>"), "{page}");
    assert!(page.contains("data-live=\"/live?job=first\""), "{page}");
    let page = dashboard.get("/jobs/second").expect(200).text();
    let tree = page.split("id=\"dependencies\"").nth(1).unwrap();
    assert!(tree.contains("href=\"/jobs/first\""), "{tree}");
    let later = [
        "enqueue", "-q", "build", "--id", "later", "--in", "1h", "--", "true",
    ];
    naq.cli(later).run().succeeds();
    let page = dashboard.get("/jobs/later").expect(200).text();
    assert!(page.contains("delayed until"), "{page}");
}

#[test]
fn the_page_of_a_flow_shows_its_jobs_and_follows_them_until_the_last_has_ended() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let flow = serde_json::json!({"jobs": {
        "fetch": {"command": "true"},
        "build": {"command": "false", "depends_on": ["fetch"]},
        "alarm": {"command": "true", "depends_on": [{"job": "build", "on": "failure"}]},
        "<b>": null,
    }});
    let refused = dashboard.request("POST", "/api/flows?name=night&queue=build");
    refused.json(flow.to_string()).send().expect(422);
    let mut flow = flow;
    flow["jobs"].as_object_mut().unwrap().remove("<b>");
    let sent = dashboard.request("POST", "/api/flows?name=night&queue=build");
    sent.json(flow.to_string()).send().expect(201);
    let page = dashboard.get("/flows/night").expect(200).text();
    assert!(page.contains("data-live=\"/live?flow=night\""), "{page}");
    assert_eq!(page.matches("<path class=\"edge").count(), 2, "{page}");
    assert_eq!(
        page.matches("<path class=\"edge other\"").count(),
        1,
        "{page}"
    );
    assert!(page.contains(">alarm</text>"), "{page}");
    assert!(page.contains("3 queued"), "{page}");
    let job = dashboard.get("/jobs/night-build").expect(200).text();
    assert!(job.contains("href=\"/flows/night\""), "{job}");
    assert!(job.contains("<path class=\"edge"), "{job}");
    dashboard.get("/flows/nothing").expect(404);

    let session = dashboard.log_in();
    let mut stream = dashboard
        .anonymous("GET", "/live?flow=night")
        .header("Cookie", &session)
        .open();
    let (status, headers) = read_head(&mut stream);
    assert_eq!(status, 200, "{headers:?}");
    let _worker = naq.worker(&["build"]).spawn();
    let lines: Vec<String> = stream
        .lines()
        .map(|line| line.unwrap())
        .take_while(|line| line != "event: end")
        .collect();
    let last = lines.join("\n");
    assert!(
        last.contains("2 succeeded") && last.contains("1 failed"),
        "{last}"
    );
    let page = dashboard.get("/flows/night").expect(200).text();
    assert!(!page.contains("data-live"), "{page}");
    assert!(page.contains("3 jobs, took"), "{page}");
}

#[test]
fn a_job_is_cancelled_and_run_again_by_forms() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let tokens = naq.file("tokens", "view anna anna-anna-anna-anna-1\n");
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    let dashboard = Dashboard::start(&naq, &["--tokens", tokens.to_str().unwrap()]);
    let later = [
        "enqueue", "-q", "build", "--id", "later", "--in", "1h", "--", "true",
    ];
    naq.cli(later).run().succeeds();
    let session = dashboard.log_in();
    let send = |method: &str, path: &str, headers: &[(&str, &str)]| -> Answer {
        let mut request = dashboard.anonymous(method, path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send()
    };
    let cookie = ("Cookie", session.as_str());
    let same = ("Sec-Fetch-Site", "same-origin");
    let page = send("GET", "/jobs/later", &[cookie]).expect(200).text();
    assert!(page.contains("action=\"/jobs/later/cancel\""), "{page}");
    assert!(!page.contains("action=\"/jobs/later/retry\""), "{page}");

    // no page of another site, nobody without a session, and nobody without the right
    for headers in [
        &[cookie][..],
        &[cookie, ("Sec-Fetch-Site", "cross-site")],
        &[cookie, ("Origin", "http://evil.example")],
    ] {
        let refused = send("POST", "/jobs/later/cancel", headers).expect(403);
        assert!(
            refused
                .header("content-type")
                .unwrap()
                .starts_with("text/html")
        );
    }
    send("POST", "/jobs/later/cancel", &[same]).expect(401);
    let viewer = ("Authorization", "Bearer anna-anna-anna-anna-1");
    let page = send("GET", "/jobs/later", &[viewer]).expect(200).text();
    assert!(!page.contains("/jobs/later/cancel"), "{page}");
    for path in ["/jobs/later/cancel", "/jobs/later/retry"] {
        send("POST", path, &[viewer]).expect(403);
    }
    let state = || dashboard.get("/api/jobs/later").expect(200).json()["state"].clone();
    assert_eq!(state(), "scheduled");
    send("POST", "/jobs/later/retry", &[cookie, same]).expect(409);

    let done = send("POST", "/jobs/later/cancel", &[cookie, same]).expect(303);
    assert_eq!(done.header("location"), Some("/jobs/later"));
    assert_eq!(state(), "cancelled");
    send("POST", "/jobs/later/cancel", &[cookie, same]).expect(409);
    let again = send("POST", "/jobs/later/retry", &[cookie, same]).expect(303);
    let again = again.header("location").unwrap().to_owned();
    let page = send("GET", &again, &[cookie]).expect(200).text();
    assert!(page.contains("href=\"/jobs/later\">later</a>"), "{page}");
    send("POST", "/jobs/none/cancel", &[cookie, same]).expect(404);
    send("POST", "/jobs/a.b/retry", &[cookie, same]).expect(400);
}

#[test]
fn an_open_page_of_a_job_gets_its_output_and_its_end() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let flag = naq.home().join("flag");
    let script = format!(
        "echo '<b>first'; while [ ! -e {} ]; do sleep 0.1; done; echo '<b>last'",
        flag.display()
    );
    naq.cli([
        "enqueue", "-q", "build", "--id", "talks", "--", "sh", "-c", &script,
    ])
    .run()
    .succeeds();
    let mut stream = dashboard.request("GET", "/live?job=talks").open();
    let (status, headers) = read_head(&mut stream);
    assert_eq!(status, 200, "{headers:?}");
    let mut seen = String::new();
    for line in stream.lines() {
        let line = line.unwrap();
        if line.contains("&lt;b&gt;first") && !flag.exists() {
            // a browser without scripts sees it too
            let page = dashboard.get("/jobs/talks").expect(200).text();
            assert!(page.contains("&lt;b&gt;first"), "{page}");
            std::fs::write(&flag, "").unwrap();
        }
        seen.push_str(&line);
        seen.push('\n');
        if line.ends_with("event: end") || line.ends_with("event:end") {
            break;
        }
    }
    assert!(flag.exists(), "{seen}");
    assert!(
        seen.contains("<div class=\"line\">&lt;b&gt;last</div>"),
        "{seen}"
    );
    assert!(seen.contains("class=\"state ok\""), "{seen}");
    assert!(!seen.contains("<b>first"), "{seen}");
    // a browser ignores an event without data
    assert!(seen.contains("event: output-start\ndata: f"), "{seen}");
    dashboard.get("/live?job=a.b").expect(400);
    // a job that does not exist has an end too
    let mut stream = dashboard.request("GET", "/live?job=none").open();
    read_head(&mut stream);
    assert!(stream.lines().any(|line| line.unwrap().contains("end")));
}

#[test]
fn failed_attempts_are_listed_and_compared() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let script = r#"echo "attempt $NAQ_ATTEMPT"; echo same >&2
echo "ValueError: <script>alert($NAQ_ATTEMPT)</script>" >&2; exit $((NAQ_ATTEMPT + 2))"#;
    let words = [
        "enqueue",
        "-q",
        "build",
        "--id",
        "tries",
        "--retries",
        "2",
        "--retry-delay",
        "0s",
        "--",
        "sh",
        "-c",
        script,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_ended(&crate::harness::naq::id("tries"));
    let list = dashboard.get("/api/jobs/tries/attempts").expect(200).json();
    assert_eq!(list["attempts_begun"], 3, "{list}");
    let one = |at: usize, field: &str| list["attempts"][at][field].clone();
    for at in 0..3 {
        assert_eq!(one(at, "attempt"), at + 1, "{list}");
        assert_eq!(one(at, "exit_code"), at + 3, "{list}");
        assert_eq!(one(at, "outcome"), "failed", "{list}");
        let error = format!("ValueError: <script>alert({})</script>", at + 1);
        assert_eq!(one(at, "error"), error, "{list}");
        assert!(
            one(at, "usage")["max_rss_bytes"].as_u64().unwrap() > 0,
            "{list}"
        );
    }
    assert_eq!(one(1, "stdout_tail"), "attempt 2\n", "{list}");
    // the whole output of the last one is kept
    assert_eq!(one(2, "stdout_tail"), serde_json::Value::Null, "{list}");

    let page = dashboard.get("/jobs/tries").expect(200).text();
    assert!(page.contains("Attempt 1: failed (exit 3)"), "{page}");
    assert!(page.contains("href=\"/jobs/tries/attempts\""), "{page}");
    let compared = dashboard.get("/jobs/tries/attempts").expect(200).text();
    assert!(
        compared.contains("<del>- attempt 2</del><ins>+ attempt 3</ins>"),
        "{compared}"
    );
    assert!(
        compared.contains("<td>failed (exit 4)</td><td>failed (exit 5)</td>"),
        "{compared}"
    );
    let compared = dashboard.get("/jobs/tries/attempts?left=1&right=1");
    assert!(compared.text().contains("Both attempts wrote the same."));
    for page in [page, compared.text()] {
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    }
    dashboard.get("/jobs/tries/attempts?left=4").expect(400);
    dashboard.get("/jobs/none/attempts").expect(404);
    let status = naq.cli(["status", "tries"]).run().succeeds();
    status.expect_stdout("(exit 3): ValueError: <script>alert(1)</script>");

    // failures are grouped by what their programs say
    let groups = dashboard.get("/api/failed/groups").expect(200).json();
    let error = groups["groups"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("ValueError"), "{groups}");

    let single = naq.enqueue(&["-q", "build", "--", "true"]);
    naq.wait_ended(&single);
    let page = dashboard.get(&format!("/jobs/{single}")).expect(200).text();
    assert!(!page.contains("/attempts\""), "{page}");
    dashboard
        .get(&format!("/jobs/{single}/attempts"))
        .expect(404);
}

#[test]
fn the_page_of_an_ended_job_names_who_changed_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    for job in ["a", "b"] {
        let words = [
            "enqueue", "-q", "build", "--id", job, "--in", "1h", "--", "true",
        ];
        naq.cli(words).run().succeeds();
    }
    dashboard
        .request("DELETE", "/api/jobs/a")
        .send()
        .expect(200);
    naq.cli(["cancel", "b"]).run().succeeds();
    let page = |job: &str| dashboard.get(&format!("/jobs/{job}")).expect(200).text();
    // an entry is stored after its action
    eventually("the change by the dashboard is on the page", || {
        page("a").contains("Cancelled by local")
    });
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .unwrap()
        .unwrap();
    eventually("the change by the command is on the page", || {
        page("b").contains(&format!("Cancelled by {} (claimed)", user.name))
    });
    assert!(!page("a").contains("(claimed)"));
    let entries = dashboard.get("/api/audit?job=a").expect(200).json()["entries"].clone();
    assert_eq!(entries.as_array().unwrap().len(), 1, "{entries}");
    let found = naq.cli(["audit", "--job", "b", "--json"]).run().succeeds();
    assert_eq!(found.stdout.lines().count(), 1);
    dashboard.get("/api/audit?job=a.b").expect(400);
}

#[test]
fn a_failed_job_leads_to_others_that_failed_like_it_and_to_what_helped() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let without_index = Dashboard::start(&naq, &["--index", "off"]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let marker = naq.home().join("mended");
    let fail = |job: &str, order: &str| {
        let script = format!(
            "test -e '{}' || {{ echo 'order {order} is <b> locked' >&2; exit 3; }}",
            marker.display()
        );
        let words = ["-q", "build", "--id", job, "--", "sh", "-c", &script];
        let job = naq.enqueue(&words);
        naq.wait_ended(&job)
    };
    let page = |dashboard: &Dashboard, job: &str| {
        let page = dashboard.get(&format!("/jobs/{job}")).expect(200).text();
        let part = page.split("id=\"same-failure\"").nth(1);
        part.map(|part| part.split("</section>").next().unwrap().to_owned())
    };
    fail("one", "11");
    let alone = page(&dashboard, "one").unwrap();
    assert!(
        alone.contains("exit 3: order &lt;n&gt; is &lt;b&gt; locked"),
        "{alone}"
    );
    assert!(
        alone.contains("no other job") && !alone.contains("What helped"),
        "{alone}"
    );
    fail("two", "12");
    naq.wait_ended(&naq.enqueue(&["-q", "build", "--id", "other", "--", "sh", "-c", "exit 4"]));
    let both = page(&dashboard, "one").unwrap();
    assert!(
        both.contains("1 other job, the first failure <time"),
        "{both}"
    );
    let group = both.split("/failed/jobs?group=").nth(1).unwrap();
    let group = group.split('"').next().unwrap();
    let listed = dashboard
        .get(&format!("/failed/jobs?group={group}"))
        .expect(200)
        .text();
    assert!(
        listed.contains("/jobs/one\"") && !listed.contains("/jobs/other\""),
        "{listed}"
    );

    // a rerun of another job of the group succeeds
    std::fs::write(&marker, "").unwrap();
    let retry = |body: &str| {
        let request = dashboard.request("POST", "/api/jobs/two/retry");
        let request = match body {
            "" => request,
            body => request.json(body),
        };
        let rerun = request.send().expect(201).json();
        let rerun = id(rerun["job_id"].as_str().unwrap());
        naq.wait_ended(&rerun);
        rerun
    };
    let rerun = retry("");
    let mut helped = String::new();
    eventually(
        "the rerun is named, and its job has left the failed ones",
        || {
            helped = page(&dashboard, "one").unwrap();
            helped.contains(&format!("<a href=\"/jobs/{rerun}\">"))
                && helped.contains("no other job")
        },
    );
    assert!(helped.contains("<a href=\"/jobs/two\">two</a>"), "{helped}");
    assert!(helped.contains("unchanged"), "{helped}");
    let own = page(&dashboard, "two").unwrap();
    assert!(
        own.contains("a rerun of this job succeeded") && own.contains("1 other job"),
        "{own}"
    );
    // another cause, another job, and no index
    assert!(!page(&dashboard, "other").unwrap().contains("What helped"));
    assert_eq!(page(&dashboard, rerun.as_str()), None);
    let without = page(&without_index, "one").unwrap();
    assert!(!without.contains("What helped"), "{without}");
    // the latest one counts
    let changed = retry(r#"{"timeout":"1m"}"#);
    eventually("the changed rerun is named", || {
        let helped = page(&dashboard, "one").unwrap();
        helped.contains(changed.as_str()) && helped.contains("with another envelope")
    });
}

#[test]
fn an_ended_job_is_compared_with_earlier_runs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let first = naq.enqueue(&["-q", "build", "--", "true"]);
    naq.wait_ended(&first);
    let page = |job: &JobId| dashboard.get(&format!("/jobs/{job}")).expect(200).text();
    assert!(!page(&first).contains("id=\"past-runs\""));
    let mut last = first.clone();
    for _ in 0..3 {
        let retried = dashboard
            .post(&format!("/api/jobs/{last}/retry"))
            .expect(201)
            .json();
        last = id(retried["job_id"].as_str().unwrap());
        naq.wait_ended(&last);
    }
    let rerun = page(&last);
    assert!(
        rerun.contains("0 of 3 earlier runs failed · usually"),
        "{rerun}"
    );
    assert!(
        rerun.contains(&format!(
            "<a href=\"/jobs/{first}\" aria-label=\"succeeded, "
        )),
        "{rerun}"
    );

    let words = [
        "schedule", "--name", "tick", "--every", "1s", "-q", "build", "--", "true",
    ];
    naq.cli(words).run().succeeds();
    let _scheduler = naq.cli(["scheduler"]).follow();
    let mut ticks = Vec::new();
    eventually("three ticks have ended", || {
        let jobs = dashboard
            .get("/api/jobs?state=succeeded")
            .expect(200)
            .json();
        ticks = jobs["jobs"].as_array().unwrap().clone();
        ticks.retain(|job| job["job_id"].as_str().unwrap().starts_with("tick-"));
        ticks.len() >= 3
    });
    let latest = page(&id(ticks[0]["job_id"].as_str().unwrap()));
    assert!(latest.contains("earlier runs failed"), "{latest}");
}
