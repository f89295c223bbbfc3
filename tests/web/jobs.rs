//! The page of jobs, its filter, and the export formats.

use std::collections::BTreeSet;

use super::Dashboard;
use super::http::Answer;
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

/// The address of the next page. `None` on the last one.
fn next(page: &str) -> Option<String> {
    let after = page.split("rel=\"next\" href=\"").nth(1)?;
    let address = after.split('"').next()?;
    Some(address.replace("&amp;", "&"))
}

/// The ids of the jobs of a page.
fn ids(page: &str) -> Vec<String> {
    let rows = page.split("<tr id=\"job-").skip(1);
    rows.map(|row| row.split('"').next().unwrap().to_owned())
        .collect()
}

/// Enqueues jobs of a queue, with one line of a file for each.
fn enqueue_all(naq: &Naq, queue: &str, envelopes: impl Iterator<Item = String>) {
    let lines: Vec<String> = envelopes.collect();
    let file = naq.file(queue, lines.join("\n"));
    let file = file.to_str().unwrap();
    naq.cli(["enqueue", "-q", queue, "-f", file, "--quiet"])
        .run()
        .succeeds();
}

#[test]
fn all_jobs_are_on_some_page_and_a_long_search_continues() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let envelope = |id: String| format!(r#"{{"job_id":"{id}","command":"true"}}"#);
    let rare = r#"{"job_id":"rare","command":"find-me","labels":{"team":"x"}}"#.to_owned();
    let many = (0..2_000).map(|n| envelope(format!("s{n}")));
    enqueue_all(&naq, "build", std::iter::once(rare).chain(many));

    let pages = |first: &str| {
        let mut address = Some(first.to_owned());
        let mut found: Vec<Vec<String>> = Vec::new();
        let mut was_cut = false;
        while let Some(path) = address {
            let page = dashboard.get(&path).expect(200).text();
            found.push(ids(&page));
            was_cut |= page.contains("Search further");
            address = next(&page);
        }
        (found, was_cut)
    };
    let (found, _) = pages("/jobs?q=queue:build");
    assert!(found.iter().all(|page| page.len() <= 100), "{found:?}");
    let found: Vec<String> = found.into_iter().flatten().collect();
    let distinct: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!((found.len(), distinct.len()), (2_001, 2_001));

    // nothing in the newest 2,000 matches, so the search stops on its way, and continues on demand
    for filter in ["label:team=x", "find-me", "label:team"] {
        let (found, was_cut) = pages(&format!("/jobs?q={filter}"));
        assert!(was_cut, "{filter}");
        assert_eq!(found.concat(), ["rare"], "{filter}");
    }
    let first = dashboard.get("/api/jobs?q=find-me").expect(200).json();
    assert_eq!(
        (&first["jobs"], &first["is_cut"]),
        (&serde_json::json!([]), &true.into())
    );
    assert!(first["next"].is_string(), "{first}");
    // an export has them all
    let csv = dashboard
        .get("/export/jobs?q=queue:build&format=csv")
        .expect(200);
    assert_eq!(csv.text().lines().count(), 2_002);
    // times are in UTC unless a request names a zone
    let row = |csv: &str| csv.lines().nth(1).unwrap_or_default().to_owned();
    assert!(row(&csv.text()).contains("Z,"), "{}", row(&csv.text()));
    let kathmandu = dashboard
        .get("/export/jobs?q=queue:build&format=csv&tz=Asia/Kathmandu")
        .expect(200)
        .text();
    assert!(row(&kathmandu).contains("+05:45,"), "{}", row(&kathmandu));
    dashboard.get("/export/jobs?tz=Nowhere").expect(400);
    let lines = dashboard.get("/export/jobs?q=queue:build%20find-me&format=ndjson");
    assert_eq!(lines.expect(200).json()["job_id"], "rare");
}

#[test]
fn a_filter_selects_jobs_and_an_error_names_its_word() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let empty = dashboard.get("/jobs").expect(200).text();
    assert!(empty.contains("No job has been enqueued yet."), "{empty}");
    let _worker = naq
        .cli(["worker", "build", "--name", "anvil", "--quiet"])
        .follow();
    let hostile = "<script>alert(1)</script>\u{202e}\u{1b}[31m";
    let slow = [
        "enqueue",
        "-q",
        "build",
        "--id",
        "slow",
        "--timeout",
        "100ms",
        "-l",
        "team=x",
        "--",
        "sleep",
        "60",
    ];
    let formula = [
        "enqueue",
        "-q",
        "build",
        "--id",
        "formula",
        "--",
        "=cmd|' /C calc'!A0",
        hostile,
    ];
    naq.cli(slow).run().succeeds();
    naq.cli(formula).run().succeeds();
    naq.cli([
        "enqueue", "-q", "later", "--id", "later", "--in", "1h", "--", "true",
    ])
    .run()
    .succeeds();
    let job = |name: &str| crate::harness::naq::id(name);
    naq.wait_ended(&job("slow"));
    naq.wait_ended(&job("formula"));

    let listed = |q: &str| {
        let page = dashboard.get(&format!("/jobs?q={q}")).expect(200).text();
        let mut found = ids(&page);
        found.sort();
        found
    };
    for (q, expected) in [
        ("", &["formula", "later", "slow"][..]),
        ("state:failed", &["formula", "slow"]),
        ("state:delayed", &["later"]),
        ("reason:timeout", &["slow"]),
        ("worker:anvil", &["formula", "slow"]),
        ("label:team=x%20queue:build", &["slow"]),
        ("%22sleep%2060%22", &["slow"]),
        ("SLEEP", &["slow"]),
        ("queue:later%20state:failed", &[]),
        ("since:1h", &["formula", "later", "slow"]),
        ("since:2030-01-01T00:00:00Z", &[]),
    ] {
        assert_eq!(listed(q), expected, "{q}");
    }
    let page = dashboard.get("/jobs").expect(200).text();
    assert!(page.contains("href=\"/jobs/slow\""), "{page}");
    assert!(page.contains("aria-current=\"page\">Jobs</a>"), "{page}");
    assert!(
        !page.contains("<script>alert") && page.contains("&lt;script&gt;alert"),
        "{page}"
    );
    assert!(!page.contains(['\u{202e}', '\u{1b}']), "{page}");

    let wrong = dashboard
        .get("/jobs?q=queue:build%20state:tired")
        .expect(400)
        .text();
    assert!(wrong.contains("`state:tired`"), "{wrong}");
    assert!(
        wrong.contains("value=\"queue:build state:tired\""),
        "{wrong}"
    );
    let hostile = dashboard
        .get("/jobs?q=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E")
        .expect(400);
    assert!(!hostile.text().contains("<script>alert"), "{hostile:?}");
    dashboard.get("/jobs?cursor=x").expect(400);
    dashboard.get("/jobs?page=2").expect(400);
    dashboard.get("/export/jobs?format=xls").expect(400);

    lists_of_the_api(&dashboard);
}

/// The same jobs from the API, in each format.
fn lists_of_the_api(dashboard: &Dashboard) {
    let listed = |query: &str| -> Vec<String> {
        let answer = dashboard
            .get(&format!("/api/jobs?{query}"))
            .expect(200)
            .json();
        let jobs = answer["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["job_id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(listed("reason=timeout"), ["slow"]);
    assert_eq!(listed("worker=anvil&q=sleep"), ["slow"]);
    assert_eq!(listed("state=failed&q=state:delayed"), [""; 0]);
    let problem = |query: &str| {
        let answer: Answer = dashboard.get(&format!("/api/jobs?{query}"));
        answer.problem(400, "bad-request")
    };
    assert!(problem("q=state:tired").contains("`state:tired`"));
    assert!(problem("reason=tiredness").contains("timeout"));

    let accept = |media_type: &str| {
        let request = dashboard.request("GET", "/api/jobs?state=failed&limit=1");
        request.header("Accept", media_type).send().expect(200)
    };
    let csv = accept("text/csv");
    assert!(csv.header("link").is_some(), "{csv:?}");
    assert!(
        csv.header("content-type").unwrap().starts_with("text/csv"),
        "{csv:?}"
    );
    let text = csv.text();
    let mut lines = text.lines();
    assert!(
        lines.next().unwrap().starts_with("job_id,queue,state,"),
        "{text}"
    );
    assert_eq!(lines.count(), 1, "{text}");
    let ndjson = accept("application/x-ndjson");
    assert_eq!(ndjson.text().lines().count(), 1);
    assert!(ndjson.json()["job_id"].is_string());
    // a cell that begins a formula does not
    let all = dashboard
        .request("GET", "/api/jobs?q=formula")
        .header("Accept", "text/csv");
    let all = all.send().expect(200).text();
    assert!(!all.contains(",=cmd") && !all.contains("\"=cmd"), "{all}");
    assert!(all.contains("\\u{202e}"), "{all}");
}

#[test]
fn the_overview_leads_to_its_jobs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--base-path", "/naq"]);
    naq.cli(["enqueue", "-q", "build", "--id", "first", "--", "true"])
        .run()
        .succeeds();
    eventually("the job", || {
        dashboard.get("/").text().contains("/naq/jobs/first")
    });
    let page = dashboard.get("/naq/jobs?q=queue:build").expect(200).text();
    assert_eq!(ids(&page), ["first"]);
    let links = page.split("href=\"").skip(1);
    for link in links.filter(|link| link.starts_with('/')) {
        assert!(link.starts_with("/naq/"), "{link}");
    }
}
