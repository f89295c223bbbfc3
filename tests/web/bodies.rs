//! Requests with many envelopes: arrays, lines and flows.

use std::io::{BufRead, Read, Write};

use serde_json::{Value, json};

use super::Dashboard;
use super::http::{Answer, read_head};
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

const JOBS: &str = "/api/queues/build/jobs";

fn depth(dashboard: &Dashboard) -> Value {
    let info = dashboard.get("/api/queues/build");
    match info.status {
        404 => json!(0),
        _ => info.expect(200).json()["depth"].clone(),
    }
}

fn lines(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    // between them are the lengths of chunks
    let objects = text.lines().filter(|line| line.starts_with('{'));
    objects
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn an_array_is_checked_whole_and_then_enqueued() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let post = |query: &str, body: &Value| {
        let request = dashboard.request("POST", &format!("{JOBS}{query}"));
        request.json(body.to_string()).send()
    };
    let valid = json!([{"command": "true", "job_id": "a"}, {"command": "true"}]);
    let mut bad = valid.clone();
    bad.as_array_mut()
        .unwrap()
        .extend([json!({"command": "x", "args": [{}]}), json!({"args": []})]);
    let refused = post("", &bad).expect(422).json();
    let pointers: Vec<&Value> = refused["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["pointer"])
        .collect();
    assert_eq!(pointers[0], "/2/args/0", "{refused}");
    assert!(pointers[1].as_str().unwrap().starts_with("/3"), "{refused}");
    assert_eq!(depth(&dashboard), 0);
    assert_eq!(post("?dry_run", &valid).expect(200).json(), json!({}));
    assert_eq!(depth(&dashboard), 0);

    let enqueued = post("", &valid).expect(201).json();
    let ids = enqueued["job_ids"].as_array().unwrap();
    assert_eq!((ids.len(), &ids[0]), (2, &json!("a")), "{enqueued}");
    assert_eq!(depth(&dashboard), 2);
    // another envelope under a known id is refused alone, and named by its place
    let conflict = json!([{"command": "true"}, {"command": "false", "job_id": "a"}]);
    let conflict = post("", &conflict).expect(409).json();
    assert_eq!(conflict["errors"][0]["pointer"], "/1", "{conflict}");
    assert!(
        conflict["detail"]
            .as_str()
            .unwrap()
            .contains("enqueued: 1 other job"),
        "{conflict}"
    );
    assert_eq!(depth(&dashboard), 3);
    assert_eq!(
        post("?in=1h", &json!([{"command": "true"}]))
            .expect(201)
            .status,
        201
    );
    assert_eq!(dashboard.get("/api/queues/build").json()["delayed"], 1);

    let many: Vec<Value> = (0..1_001).map(|_| json!({"command": "true"})).collect();
    post("", &json!(many)).problem(413, "too-large");
    post("?wait=1s", &valid).problem(400, "bad-request");
    post("?max_jobs=2", &valid).problem(429, "queue-full");
    let keyed = dashboard
        .request("POST", JOBS)
        .header("Idempotency-Key", "k");
    keyed
        .json(valid.to_string())
        .send()
        .problem(400, "bad-request");
    dashboard
        .request("POST", JOBS)
        .json("[{]")
        .send()
        .problem(422, "refused");
}

#[test]
fn lines_are_enqueued_as_they_arrive_and_answered_one_by_one() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let post = |query: &str, body: &str| {
        let request = dashboard.request("POST", &format!("{JOBS}{query}"));
        request.body("application/x-ndjson", body).send()
    };
    let body = "{\"command\":\"true\",\"job_id\":\"a\"}\n\n{\"command\":1}\n{\"command\":\"true\"}";
    let answer = post("", body).expect(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let found = lines(&answer);
    assert_eq!(found.len(), 3, "{answer:?}");
    assert_eq!(found[0], json!({"line": 1, "job_id": "a"}));
    assert_eq!(found[1]["line"], 3, "{answer:?}");
    assert_eq!(found[1]["problem"]["status"], 422, "{answer:?}");
    assert_eq!(
        found[1]["problem"]["errors"][0]["pointer"], "/command",
        "{answer:?}"
    );
    assert!(found[2]["job_id"].is_string(), "{answer:?}");
    assert_eq!(depth(&dashboard), 2);
    let checked = lines(&post("?dry_run", body).expect(200));
    assert_eq!(checked[0], json!({"line": 1, "job_id": "a"}));
    assert_eq!(checked[2], json!({"line": 4}));
    assert_eq!(depth(&dashboard), 2);
    post("?wait=1s", body).problem(400, "bad-request");
    assert_eq!(lines(&post("", "").expect(200)), Vec::<Value>::new());
    // a body that is larger than a message may be has lines that are not
    let many = "{\"command\":\"true\",\"labels\":{\"n\":\"0123456789\"}}\n".repeat(30_000);
    assert!(many.len() > 1 << 20);
    let found = lines(&post("?dry_run", &many).expect(200));
    assert_eq!(found.len(), 30_000);
    assert_eq!(found.last(), Some(&json!({"line": 30_000})));
    let long = format!("{{\"command\":\"true\"}}\n{}", "x".repeat(3 << 20));
    let found = lines(&post("", &long).expect(200));
    assert_eq!(found[1]["problem"]["status"], 413, "{found:?}");
    assert_eq!(found.len(), 2);
}

#[test]
fn a_line_is_answered_before_the_next_one_is_sent() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let head = dashboard.request("POST", JOBS);
    let mut stream = head
        .header("Content-Type", "application/x-ndjson")
        .open_chunked();
    for id in ["a", "b"] {
        let line = format!("{{\"command\":\"true\",\"job_id\":\"{id}\"}}\n");
        write!(stream.get_mut(), "{:x}\r\n{line}\r\n", line.len()).unwrap();
        if id == "a" {
            let (status, headers) = read_head(&mut stream);
            assert_eq!(status, 200, "{headers:?}");
        }
        let mut found = stream.by_ref().lines().map(Result::unwrap);
        let line = found.find(|line| line.starts_with('{')).unwrap();
        assert!(line.contains(&format!("\"job_id\":\"{id}\"")), "{line}");
    }
}

#[test]
fn a_flow_is_enqueued_and_shown_as_a_tree() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let post = |query: &str, body: &str| {
        dashboard
            .request("POST", &format!("/api/flows{query}"))
            .json(body)
            .send()
    };
    let flow = r#"{"jobs":{"fetch":{"command":"true"},"build":{"command":"true","queue":"big","depends_on":["fetch"]}}}"#;
    let planned = post("?name=night&dry_run", flow).expect(200).json();
    assert_eq!(
        planned["jobs"][1],
        json!({"job_id": "night-build", "name": "build", "queue": "big"})
    );
    dashboard
        .get("/api/jobs/night-fetch")
        .problem(404, "not-found");
    let enqueued = post("?name=night", flow).expect(201).json();
    assert_eq!(enqueued, planned);
    let tree = dashboard.get("/api/jobs/night/tree").expect(200).json();
    assert_eq!(tree["jobs"][0]["job_id"], "night-fetch", "{tree}");
    assert_eq!(tree["jobs"][0]["queue"], "default", "{tree}");
    assert_eq!(
        tree["jobs"][1]["depends_on"],
        json!(["night-fetch"]),
        "{tree}"
    );
    assert_eq!(
        dashboard
            .get("/api/jobs/night-build/tree")
            .expect(200)
            .json(),
        tree
    );
    let unnamed = post("?queue=build", flow).expect(201).json();
    assert_eq!(unnamed["jobs"][0]["queue"], "build", "{unnamed}");

    let other = flow.replace("true", "false");
    post("?name=night", &other).problem(409, "conflict");
    post("?name=a.b", flow).problem(400, "bad-request");
    post("?queue=a.b", flow).problem(400, "bad-request");
    post("?wait=1s", flow).problem(400, "bad-request");
    post("", "{}").problem(422, "refused");
    let circle = r#"{"jobs":{"a":{"command":"x","depends_on":["b"]},"b":{"command":"x","depends_on":["a"]}}}"#;
    post("", circle).problem(422, "refused");
    post(
        "",
        r#"{"jobs":{"a":{"command":"x","depends_on":[{"job":"elsewhere"}]}}}"#,
    )
    .problem(404, "not-found");
    let plain = dashboard
        .request("POST", "/api/flows")
        .body("text/plain", flow);
    plain.send().problem(415, "media-type");
    dashboard
        .get("/api/jobs/never/tree")
        .problem(404, "not-found");
    dashboard
        .get("/api/jobs/a.b/tree")
        .problem(400, "bad-request");
}
