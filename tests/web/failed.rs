//! The API of failed jobs.

use serde_json::json;

use super::Dashboard;
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn failed_jobs_are_listed_grouped_retried_and_discarded() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let empty = dashboard.get("/api/failed").expect(200).json();
    assert_eq!(empty, json!({"jobs": []}));
    let worker = naq.worker(&["build"]).spawn();
    for (id, code) in [("a", 3), ("b", 3), ("c", 4)] {
        let envelope = format!(r#"{{"command":"sh","args":["-c","exit {code}"]}}"#);
        let path = format!("/api/queues/build/jobs/{id}?wait=30s");
        dashboard
            .request("PUT", &path)
            .json(envelope)
            .send()
            .expect(200);
    }
    let groups = dashboard.get("/api/failed/groups").expect(200).json();
    assert_eq!(groups["jobs"], 3, "{groups}");
    let latest = &groups["groups"][0];
    assert_eq!(
        (&latest["exit_code"], &latest["count"]),
        (&json!(4), &json!(1))
    );
    let twice = &groups["groups"][1];
    assert_eq!(twice["jobs"], json!(["b", "a"]), "{groups}");
    assert!(
        twice["first_seen"].as_str() < twice["last_seen"].as_str(),
        "{groups}"
    );
    let group = twice["group"].as_str().unwrap();

    // two pages of one job each, and none after them
    let first = dashboard.get(&format!("/api/failed?group={group}&limit=1"));
    assert!(first.header("link").unwrap().contains("rel=\"next\""));
    let first = first.expect(200).json();
    assert_eq!(first["jobs"][0]["job_id"], "b", "{first}");
    assert_eq!(first["jobs"][0]["group"], group);
    let next = first["next"].as_str().unwrap();
    let second = dashboard.get(&format!("/api/failed?group={group}&cursor={next}"));
    let second = second.expect(200).json();
    assert_eq!(second["jobs"].as_array().unwrap().len(), 1, "{second}");
    assert_eq!(second["jobs"][0]["job_id"], "a");
    assert_eq!(second.get("next"), None, "{second}");

    assert!(worker.stop().success());
    let would = dashboard
        .post("/api/failed/a/retry?dry_run")
        .expect(200)
        .json();
    let retried = dashboard.post("/api/failed/a/retry").expect(201);
    let place = format!("/api/jobs/{}", would["job_id"].as_str().unwrap());
    assert_eq!(retried.header("location"), Some(place.as_str()));
    assert_eq!(retried.json(), would);
    dashboard.get(&place).expect(200);
    // a retry removes the dead letter
    dashboard
        .post("/api/failed/a/retry")
        .problem(404, "not-found");
    let discard = |path: &str| dashboard.request("DELETE", path).send();
    discard("/api/failed/b?dry_run").expect(204);
    discard("/api/failed/b").expect(204);
    discard("/api/failed/b").problem(404, "not-found");
    let left = dashboard.get("/api/failed?reason=exit").expect(200).json();
    assert_eq!(left["jobs"].as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left["jobs"][0]["job_id"], "c");
}

#[test]
fn wrong_requests_for_failed_jobs_are_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    for path in [
        "/api/failed?group=x",
        "/api/failed?cursor=x",
        "/api/failed?reason=tiredness",
        "/api/failed?limit=0",
        "/api/failed?queue=a.b",
        "/api/failed?state=failed",
        "/api/failed/groups?since=yesterday",
        "/api/failed/groups?limit=1",
    ] {
        dashboard.get(path).problem(400, "bad-request");
    }
    dashboard
        .post("/api/failed/never/retry")
        .problem(404, "not-found");
    dashboard
        .post("/api/failed/a.b/retry")
        .problem(400, "bad-request");
    dashboard
        .post("/api/failed/never/retry?dry_run=maybe")
        .problem(400, "bad-request");
    let wrong = dashboard.request("PATCH", "/api/failed/never").send();
    wrong.problem(405, "method-not-allowed");
}
