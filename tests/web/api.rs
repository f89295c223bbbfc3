//! Requests of programs to the API, and its refusals.

use super::Dashboard;
use super::http::read_head;
use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::TestServer;
use naq_protocol::JobId;
use serde_json::json;
use std::io::BufRead;

#[test]
fn a_job_is_enqueued_followed_and_read() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();

    let envelope = r#"{"command":"sh","args":["-c","echo hello; echo oops >&2; exit 3"]}"#;
    let put = || {
        dashboard
            .request("PUT", "/api/queues/build/jobs/first")
            .json(envelope)
            .send()
    };
    let answer = put().expect(201);
    assert_eq!(answer.json(), json!({"job_id": "first"}));
    assert_eq!(answer.header("location"), Some("/api/jobs/first"));
    let record = dashboard.get("/api/jobs/first?wait=30s").expect(200).json();
    assert_eq!(record["state"], "failed", "{record}");
    assert_eq!(record["exit_code"], 3, "{record}");
    // the same request again has no effect; another one is a conflict
    put().expect(200);
    let other = r#"{"command":"true"}"#;
    let taken = dashboard
        .request("PUT", "/api/queues/build/jobs/first")
        .json(other)
        .send();
    taken.problem(409, "conflict");

    let stdout = dashboard.get("/api/jobs/first/stdout").expect(200);
    assert_eq!(stdout.text(), "hello\n");
    assert_eq!(stdout.header("naq-missing-bytes"), Some("0"));
    let stderr = dashboard.get("/api/jobs/first/stderr?download").expect(200);
    let place = "attachment; filename=\"first.stderr.txt\"";
    assert_eq!(stderr.header("content-disposition"), Some(place));
    let part = dashboard
        .request("GET", "/api/jobs/first/stdout")
        .header("Range", "bytes=1-2");
    let part = part.send().expect(206);
    assert_eq!(
        (part.text().as_str(), part.header("content-range")),
        ("el", Some("bytes 1-2/6"))
    );
    let beyond = dashboard
        .request("GET", "/api/jobs/first/stdout")
        .header("Range", "bytes=9-");
    let beyond = beyond.send();
    assert_eq!(beyond.header("content-range"), Some("bytes */6"));
    assert!(beyond.problem(416, "range").contains("6 bytes"));

    let again = dashboard.post("/api/jobs/first/retry").expect(201).json();
    let again = again["job_id"].as_str().unwrap();
    assert_ne!(again, "first");
    let record = dashboard
        .get(&format!("/api/jobs/{again}?wait=30s"))
        .expect(200)
        .json();
    assert_eq!(record["rerun_of"], "first");

    let failed = dashboard
        .get("/api/jobs?state=failed&queue=build&limit=1")
        .expect(200);
    let link = failed.header("link").unwrap().to_owned();
    let failed = failed.json();
    assert_eq!(failed["jobs"][0]["job_id"], again);
    let next = failed["next"].as_str().unwrap();
    assert!(link.contains(next), "{link}");
    let second = dashboard.get(&format!(
        "/api/jobs?state=failed&queue=build&limit=1&cursor={next}"
    ));
    assert_eq!(second.expect(200).json()["jobs"][0]["job_id"], "first");
}

#[test]
fn a_request_waits_for_the_outcome_and_names_its_job_by_a_key() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let enqueue = |query: &str| {
        let path = format!("/api/queues/build/jobs{query}");
        dashboard
            .request("POST", &path)
            .json(r#"{"command":"true"}"#)
    };
    // nobody serves the queue yet
    let waiting = enqueue("?wait=100ms").send().expect(202).json();
    let job = waiting["job_id"].as_str().unwrap();
    let why = dashboard
        .get(&format!("/api/jobs/{job}/why"))
        .expect(200)
        .json();
    assert_eq!(why["needs_action"], true, "{why}");
    assert_eq!(why["cause"]["cause"], "no_worker", "{why}");
    assert!(
        why["text"].as_str().unwrap().contains("naq worker build"),
        "{why}"
    );

    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let ended = enqueue("?wait=30s").send().expect(200).json();
    assert_eq!(ended["record"]["state"], "succeeded", "{ended}");
    let keyed = || enqueue("").header("Idempotency-Key", "order 17").send();
    let first = keyed().expect(201).json();
    assert!(
        first["job_id"].as_str().unwrap().starts_with("k-"),
        "{first}"
    );
    assert_eq!(keyed().expect(200).json(), first);
    // nothing is enqueued for a check
    let checked = enqueue("?dry_run")
        .header("Idempotency-Key", "other")
        .send()
        .expect(200);
    assert_eq!(checked.json(), json!({"job_id": "other"}));
    dashboard.get("/api/jobs/other").problem(404, "not-found");
}

#[test]
fn a_delayed_job_is_cancelled_and_an_ended_one_is_not() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let later = dashboard.request("PUT", "/api/queues/build/jobs/later?in=1h");
    later.json(r#"{"command":"true"}"#).send().expect(201);
    assert_eq!(
        dashboard.get("/api/jobs/later").expect(200).json()["state"],
        "scheduled"
    );
    let would = dashboard
        .request("DELETE", "/api/jobs/later?dry_run")
        .send()
        .expect(200);
    assert_eq!(would.json()["state"], "scheduled");
    let cancelled = dashboard
        .request("DELETE", "/api/jobs/later")
        .send()
        .expect(200);
    assert_eq!(cancelled.json()["state"], "cancelled");
    let again = dashboard.request("DELETE", "/api/jobs/later").send();
    again.problem(409, "conflict");
    dashboard
        .post("/api/jobs/never/retry")
        .problem(404, "not-found");
}

#[test]
fn queues_schedules_and_workers_are_shown_and_paused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let add = [
        "schedule",
        "add",
        "--name",
        "beat",
        "-q",
        "build",
        "--every",
        "1h",
        "--env",
        "TOKEN=hunter2",
        "--",
        "true",
    ];
    naq.cli(add).run().succeeds();

    let is_listed_as_paused = || {
        let list = dashboard.get("/api/queues").expect(200).json();
        list["queues"][0]["paused"].clone()
    };
    assert_eq!(is_listed_as_paused(), false);
    let paused = dashboard.post("/api/queues/build/pause").expect(200).json();
    assert_eq!(paused["paused"], true);
    // the list is read again, however young the last one is
    assert_eq!(is_listed_as_paused(), true);
    let resumed = dashboard
        .post("/api/queues/build/resume?dry_run")
        .expect(200)
        .json();
    assert_eq!(resumed["paused"], true);
    let resumed = dashboard
        .post("/api/queues/build/resume")
        .expect(200)
        .json();
    assert_eq!(resumed["paused"], false);
    dashboard
        .post("/api/queues/none/pause")
        .problem(404, "not-found");
    let queues = dashboard.get("/api/queues").expect(200).json();
    assert_eq!(queues["queues"][0]["name"], "build", "{queues}");

    let listed = dashboard.get("/api/schedules").expect(200);
    assert!(!listed.text().contains("hunter2"), "{listed:?}");
    assert_eq!(listed.json()["schedules"][0]["command"], "true");
    let paused = dashboard
        .post("/api/schedules/beat/pause")
        .expect(200)
        .json();
    assert_eq!(paused["schedule"]["status"], "paused", "{paused}");
    let job = dashboard
        .post("/api/schedules/beat/trigger")
        .expect(201)
        .json();
    let job = job["job_id"].as_str().unwrap();
    let queued = dashboard.get(&format!("/api/jobs/{job}")).expect(200);
    assert!(
        !queued.text().contains("hunter2") && queued.text().contains("TOKEN"),
        "{queued:?}"
    );
    dashboard
        .post("/api/schedules/none/trigger")
        .problem(404, "not-found");

    let worker = naq
        .cli(["worker", "build", "--name", "anvil", "--quiet"])
        .follow();
    crate::harness::naq::eventually("the worker", || {
        let found = dashboard.get("/api/workers/anvil");
        found.status == 200 && found.json()["queues"] == json!(["build"])
    });
    assert!(worker.stop().success());
    dashboard
        .get("/api/workers/anvil")
        .problem(404, "not-found");
    let server = dashboard.get("/api/server").expect(200).json();
    assert_eq!(server["minutes"].as_array().unwrap().len(), 60);
}

#[test]
fn each_wrong_request_is_refused_with_its_reason() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let get = |path: &str, status, slug| dashboard.get(path).problem(status, slug);
    assert!(get("/api/jobs?sate=failed", 400, "bad-request").contains("`sate` is unknown"));
    assert!(get("/api/jobs?state=sleeping", 400, "bad-request").contains("succeeded"));
    get("/api/jobs?limit=501", 400, "bad-request");
    get("/api/jobs?cursor=x", 400, "bad-request");
    get("/api/jobs?since=yesterday", 400, "bad-request");
    // as the document says of all that have these parameters
    for list in ["jobs", "failed", "audit"] {
        let path = format!("/api/{list}?since=&cursor=");
        dashboard.get(&path).expect(200);
    }
    get("/api/jobs/first?wait=61s", 404, "not-found");
    get("/api/jobs/..%2fx", 400, "bad-request");
    get("/api/queues/a.b", 400, "bad-request");
    get("/api/jobs/first/why", 404, "not-found");
    get("/api/nothing", 404, "not-found");

    let wrong_method = dashboard.request("PATCH", "/api/queues").send();
    assert!(
        wrong_method.header("allow").unwrap().contains("GET"),
        "{wrong_method:?}"
    );
    wrong_method.problem(405, "method-not-allowed");
    let post = |body: &str| {
        dashboard
            .request("POST", "/api/queues/build/jobs")
            .json(body)
            .send()
    };
    let refused = post(r#"{"command":"a","args":["b",{"c":1}]}"#).expect(422);
    assert_eq!(
        refused.json()["errors"][0]["pointer"],
        "/args/1",
        "{refused:?}"
    );
    post("{").problem(422, "refused");
    post(r#"{"function":"mail:send"}"#).problem(422, "refused");
    let plain = dashboard
        .request("POST", "/api/queues/build/jobs")
        .body("text/plain", "{}");
    plain.send().problem(415, "media-type");
    let both = dashboard.request(
        "POST",
        "/api/queues/build/jobs?in=1m&at=2030-01-01T00:00:00Z",
    );
    both.json(r#"{"command":"a"}"#)
        .send()
        .problem(400, "bad-request");
    let two = dashboard.request("PUT", "/api/queues/build/jobs/a");
    two.json(r#"{"command":"a","job_id":"b"}"#)
        .send()
        .problem(400, "bad-request");
    let large = "x".repeat(2 << 20);
    post(&large).problem(413, "too-large");

    for (n, status) in [(1, 201), (2, 429)] {
        let full = dashboard.request("POST", "/api/queues/build/jobs?max_jobs=1");
        let full = full.json(r#"{"command":"a"}"#).send();
        assert_eq!(full.status, status, "{n}: {full:?}");
    }
    // each kind of error has a page
    for slug in ["not-found", "refused", "queue-full"] {
        dashboard
            .anonymous("GET", &format!("/problems/{slug}"))
            .send()
            .expect(200);
    }
    dashboard
        .anonymous("GET", "/problems/none")
        .send()
        .expect(404);
}

#[test]
fn events_of_jobs_are_streamed_until_the_dashboard_stops() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let mut stream = dashboard.request("GET", "/api/events?queue=build").open();
    let (status, headers) = read_head(&mut stream);
    assert_eq!(status, 200, "{headers:?}");
    for queue in ["other", "build"] {
        naq.cli(["enqueue", "-q", queue, "--", "true"])
            .run()
            .succeeds();
    }
    let mut lines = stream.lines();
    let data = lines.find_map(|line| line.unwrap().strip_prefix("data: ").map(str::to_owned));
    let event: serde_json::Value = serde_json::from_str(&data.unwrap()).unwrap();
    assert_eq!(
        (&event["queue"], &event["state"]),
        (&json!("build"), &json!("queued"))
    );
    // an open stream does not keep the dashboard from ending
    assert!(dashboard.process.stop().success());
    assert!(lines.all(|line| line.is_ok_and(|line| !line.starts_with("data: "))));
}

#[test]
fn the_dashboard_says_that_nats_is_away_and_comes_back() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    dashboard.anonymous("GET", "/readyz").send().expect(200);
    server.pause();
    let away = dashboard.anonymous("GET", "/readyz").send();
    assert_eq!(away.header("retry-after"), Some("2"), "{away:?}");
    away.problem(503, "unavailable");
    dashboard.anonymous("GET", "/healthz").send().expect(200);
    dashboard
        .get("/api/queues/build")
        .problem(503, "unavailable");
    server.resume();
    crate::harness::naq::eventually("NATS is back", || {
        dashboard.anonymous("GET", "/readyz").send().status == 200
    });
}

#[test]
fn a_retry_may_change_the_envelope_with_the_right_to_submit() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.worker(&["build"]).spawn();
    let envelope = r#"{"command": "sh", "args": ["-c", "echo $WORD $LEVEL; exit $CODE"],
        "env": {"WORD": "hello", "LEVEL": "1", "CODE": "3"}, "timeout": "5m"}"#;
    dashboard
        .request("PUT", "/api/queues/build/jobs/first")
        .json(envelope)
        .send()
        .expect(201);
    naq.wait_ended(&id("first"));
    let retry = |body: &str| {
        let request = dashboard.request("POST", "/api/jobs/first/retry");
        request.json(body.to_owned()).send()
    };
    let changes = r#"{"env": {"LEVEL": "2", "CODE": null}, "timeout": "10m"}"#;
    let retried = retry(changes).expect(201).json();
    let second = JobId::new(retried["job_id"].as_str().unwrap()).unwrap();
    assert_eq!(retried["rerun_of"], "first", "{retried}");
    let record = naq.wait_ended(&second);
    assert_eq!(text(record.stdout.as_ref()), "hello 2\n");
    assert_eq!(record.rerun_of, Some(id("first")));
    assert!(
        record
            .envelope
            .unwrap()
            .get()
            .contains(r#""timeout":"10m""#)
    );
    // a retry that succeeded removes the dead letter
    assert!(naq.dead_letters().is_empty());

    let named = retry(r#"{"job_id": "chosen"}"#).expect(201).json();
    assert_eq!(named["job_id"], "chosen", "{named}");
    for (wrong, pointer) in [
        (r#"{"timeout": "soon"}"#, "/timeout"),
        (r#"{"command": null, "args": null}"#, ""),
        (r#"{"args": 5}"#, "/args"),
        ("[1]", ""),
        ("{", ""),
    ] {
        let refused = retry(wrong).expect(422).json();
        let pointed = refused["errors"][0]["pointer"].as_str().unwrap_or_default();
        assert_eq!(pointed, pointer, "{refused}");
    }
    let request = dashboard.request("POST", "/api/jobs/first/retry");
    request.body("text/plain", "{}").send().expect(415);
    let dry = dashboard.request("POST", "/api/jobs/first/retry?dry_run");
    dry.json(r#"{"timeout": "1m"}"#.to_owned())
        .send()
        .expect(200);
}
