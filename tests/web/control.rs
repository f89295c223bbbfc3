//! The API of queue settings, due times, cron expressions and schemas.

use serde_json::{Value, json};

use super::Dashboard;
use crate::harness::naq::{Naq, id};
use crate::harness::nats::TestServer;

#[test]
fn queues_are_created_set_purged_and_removed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let put = |query: &str, body: &str| {
        dashboard
            .request("PUT", &format!("/api/queues/extra{query}"))
            .json(body)
            .send()
    };
    let delete = |query: &str| {
        dashboard
            .request("DELETE", &format!("/api/queues/extra{query}"))
            .send()
    };
    put("?dry_run", "{}").expect(204);
    dashboard.get("/api/queues/extra").problem(404, "not-found");
    let created = put("", r#"{"max_running":2}"#).expect(201).json();
    assert_eq!(
        (&created["name"], &created["max_running"]),
        (&json!("extra"), &json!(2))
    );
    let kept = put("?dry_run", "{}").expect(200).json();
    assert_eq!(kept["max_running"], 2, "{kept}");
    let changed = put("", "{}").expect(200).json();
    assert_eq!(changed.get("max_running"), None, "{changed}");

    naq.enqueue(&["-q", "extra", "--", "true"]);
    naq.enqueue(&["-q", "extra", "--in", "1h", "--", "true"]);
    let would = dashboard
        .post("/api/queues/extra/purge?dry_run")
        .expect(200)
        .json();
    assert_eq!(would, json!({"removed": 2, "running": 0}));
    assert_eq!(dashboard.get("/api/queues/extra").json()["depth"], 1);
    // the number of jobs confirms that the sender has seen them
    delete("").problem(400, "bad-request");
    delete("?jobs=all").problem(400, "bad-request");
    assert!(
        delete("?jobs=1")
            .problem(409, "conflict")
            .contains("has 2 jobs, not 1")
    );
    let purged = dashboard.post("/api/queues/extra/purge").expect(200).json();
    assert_eq!(purged, json!({"removed": 2, "running": 0}));
    delete("?jobs=0&dry_run").expect(204);
    dashboard.get("/api/queues/extra").expect(200);
    delete("?jobs=0").expect(204);
    delete("?jobs=0").problem(404, "not-found");
    dashboard
        .post("/api/queues/extra/purge")
        .problem(404, "not-found");

    put("", r#"{"max_runing":2}"#).problem(422, "refused");
    put("", r#"{"max_running":0}"#).problem(422, "refused");
    put("", "[null,null]").problem(422, "refused");
    // more than NATS allows, and more than there are servers
    for replicas in [6, 3] {
        put("", &format!(r#"{{"replicas":{replicas}}}"#)).problem(422, "refused");
    }
    put("", "").problem(422, "refused");
    let plain = dashboard
        .request("PUT", "/api/queues/extra")
        .body("text/plain", "{}");
    plain.send().problem(415, "media-type");
    dashboard
        .request("PUT", "/api/queues/a.b")
        .json("{}")
        .send()
        .problem(400, "bad-request");
}

#[test]
fn a_delayed_job_is_rescheduled_and_another_is_not() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    naq.enqueue(&["-q", "build", "--id", "later", "--in", "1h", "--", "true"]);
    let post = |job: &str, body: &str| {
        dashboard
            .request("POST", &format!("/api/jobs/{job}/reschedule"))
            .json(body)
            .send()
    };
    let moved = post("later", r#"{"at":"2030-12-24T18:00:00Z"}"#)
        .expect(200)
        .json();
    assert_eq!(moved["state"], "scheduled", "{moved}");
    assert!(
        moved["due"]
            .as_str()
            .unwrap()
            .starts_with("2030-12-24T18:00:00"),
        "{moved}"
    );
    let dry = dashboard.request("POST", "/api/jobs/later/reschedule?dry_run");
    assert_eq!(dry.json(r#"{"in":"5m"}"#).send().expect(200).json(), moved);
    for wrong in [
        "{}",
        r#"{"at":"2030-12-24T18:00:00Z","in":"5m"}"#,
        r#"{"at":"soon"}"#,
        r#"{"after":"5m"}"#,
        r#"[null,"5m"]"#,
    ] {
        post("later", wrong).problem(422, "refused");
    }
    {
        let _worker = naq.worker(&["often"]).spawn();
        let words = ["-q", "often", "--id", "again", "--retries", "1"];
        let delay = ["--retry-delay", "1h", "--", "false"];
        naq.enqueue(&[&words[..], &delay].concat());
        naq.wait_for(&id("again"), "retrying", |record| {
            record.state() == naq_protocol::State::Retrying
        });
    }
    let dry = dashboard.request("POST", "/api/jobs/again/reschedule?dry_run");
    let dry = dry.json(r#"{"in":"5m"}"#).send().expect(200).json();
    let done = post("again", r#"{"in":"2h"}"#).expect(200).json();
    assert_eq!(dry["state"], "retrying", "{dry}");
    assert!(dry["due"].as_str() < done["due"].as_str(), "{dry}, {done}");
    let now = post("later", r#"{"at":"2020-01-01T00:00:00Z"}"#)
        .expect(200)
        .json();
    assert_eq!(now["state"], "queued", "{now}");
    assert_eq!(now.get("due"), None, "{now}");
    let _worker = naq.worker(&["build"]).spawn();
    naq.wait_ended(&id("later"));
    post("later", r#"{"in":"5m"}"#).problem(409, "conflict");
    post("never", r#"{"in":"5m"}"#).problem(404, "not-found");
    post("a.b", r#"{"in":"5m"}"#).problem(400, "bad-request");
    dashboard
        .post("/api/jobs/later/reschedule")
        .problem(415, "media-type");
}

#[test]
fn cron_expressions_are_explained_and_ticks_are_named() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let explained = dashboard.get("/api/cron/explain?expr=30+3+*+*+*&tz=Asia/Kolkata&count=3");
    let explained = explained.expect(200).json();
    assert_eq!(explained["explanation"], "At 03:30 every day.");
    assert_eq!(explained["tz"], "Asia/Kolkata");
    let next = explained["next"].as_array().unwrap();
    assert_eq!(next.len(), 3);
    for time in next {
        assert!(
            time["utc"].as_str().unwrap().contains("T22:00:00"),
            "{time}"
        );
        assert!(
            time["local"].as_str().unwrap().ends_with("T03:30:00+05:30"),
            "{time}"
        );
    }
    dashboard
        .get("/api/cron/explain")
        .problem(400, "bad-request");
    dashboard
        .get("/api/cron/explain?expr=x")
        .problem(422, "refused");
    dashboard
        .get("/api/cron/explain?expr=@daily&tz=Mars/Olympus")
        .problem(422, "refused");
    dashboard
        .get("/api/cron/explain?expr=@daily&count=1001")
        .problem(400, "bad-request");

    let add = [
        "schedule", "add", "--name", "beat", "-q", "build", "--every", "1h", "--repeat", "2", "--",
        "true",
    ];
    naq.cli(add).run().succeeds();
    let ticks = |query: &str| dashboard.get(&format!("/api/schedules/beat/next{query}"));
    let found = ticks("").expect(200).json();
    assert_eq!(found["schedule_id"], "beat");
    // the schedule ends after two
    assert_eq!(found["next"].as_array().map(Vec::len), Some(2), "{found}");
    let first = dashboard.get("/api/schedules/beat").json();
    assert_eq!(found["next"][0]["utc"], first["next_tick"], "{found}");
    assert_eq!(
        ticks("?count=1").expect(200).json()["next"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    dashboard.post("/api/schedules/beat/pause").expect(200);
    assert_eq!(ticks("").expect(200).json()["next"], json!([]));
    ticks("?count=0").problem(400, "bad-request");
    dashboard
        .get("/api/schedules/none/next")
        .problem(404, "not-found");
    dashboard
        .get("/api/schedules/a.b/next")
        .problem(400, "bad-request");
}

#[test]
fn schemas_of_wire_types_are_served() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    for name in naq_protocol::SCHEMAS {
        let schema = dashboard.get(&format!("/schemas/{name}")).expect(200);
        assert_eq!(
            schema.header("content-type"),
            Some("application/schema+json")
        );
        let file = format!("{}/schemas/{name}.v1.json", crate::ROOT);
        let stored: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(schema.json(), stored);
    }
    dashboard.get("/schemas/none").problem(404, "not-found");
    dashboard
        .get("/schemas/record?a=b")
        .problem(400, "bad-request");
    dashboard
        .anonymous("GET", "/schemas/record")
        .send()
        .problem(401, "unauthenticated");
}

#[test]
fn a_worker_is_drained() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let worker = naq.worker(&["build"]).arg("--name=anvil").spawn();
    crate::harness::naq::eventually("the worker is listed", || {
        dashboard.get("/api/workers/anvil").status == 200
    });
    let would = dashboard
        .post("/api/workers/anvil/drain?dry_run")
        .expect(200)
        .json();
    assert_eq!(
        (&would["name"], would.get("acknowledged")),
        (&json!("anvil"), None)
    );
    let id = would["worker_id"].as_str().unwrap();
    let draining = dashboard
        .post(&format!("/api/workers/{id}/drain"))
        .expect(202)
        .json();
    assert_eq!(draining["acknowledged"], true, "{draining}");
    assert!(worker.wait_exit().success());
    dashboard
        .post("/api/workers/anvil/drain")
        .problem(404, "not-found");
}
