//! The audit of what is changed through the dashboard, its API and its page.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::Dashboard;
use super::http::Answer;
use crate::harness::naq::{Naq, eventually, start_plain_server};
use crate::harness::nats::TestServer;

/// Waits until the API lists this many entries, and returns them, the first one first.
fn entries(dashboard: &Dashboard, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    eventually("the entries are stored", || {
        let page = dashboard.get("/api/audit").expect(200).json();
        found = page["entries"].as_array().unwrap().clone();
        found.len() >= count
    });
    assert_eq!(found.len(), count, "{found:#?}");
    found.reverse();
    found
}

/// What an entry is about, in a line.
fn line(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let names = ["queue", "job_id", "schedule_id", "filter"].map(text);
    let named: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    format!(
        "{} {} {} {}",
        text("via"),
        text("action"),
        named.join("/"),
        entry["count"]
    )
}

/// A dashboard with tokens of each right, and the secrets of these.
fn with_tokens(naq: &Naq) -> Dashboard {
    let file = naq.file(
        "tokens",
        "view vera vera-vera-vera-vera-1\noperate otto otto-otto-otto-otto-1\n",
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    Dashboard::start(naq, &["--tokens", file.to_str().unwrap()])
}

fn send(dashboard: &Dashboard, token: &str, method: &str, path: &str) -> Answer {
    let request = dashboard.anonymous(method, path);
    request
        .header("Authorization", &format!("Bearer {token}"))
        .send()
}

#[test]
fn a_change_by_the_api_is_listed_with_token_action_count_and_address() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let put = |path: &str, body: &str| dashboard.request("PUT", path).json(body).send();
    let post = |path: &str, body: &str| dashboard.request("POST", path).json(body).send();
    put("/api/queues/build", "{}").expect(201);
    put("/api/queues/build/jobs/one", r#"{"command":"true"}"#).expect(201);
    // the same again, a check, a mistake and a read change nothing
    put("/api/queues/build/jobs/one", r#"{"command":"true"}"#).expect(200);
    post("/api/queues/build/jobs?dry_run", r#"{"command":"true"}"#).expect(200);
    post("/api/queues/build/pause?dry_run", "").expect(200);
    post("/api/queues/absent/pause", "").problem(404, "not-found");
    put("/api/queues/build/jobs/one", r#"{"command":"false"}"#).problem(409, "conflict");
    dashboard.get("/api/queues").expect(200);
    let many = r#"[{"command":"true"},{"command":"true","job_id":"two"}]"#;
    post("/api/queues/build/jobs", many).expect(201);
    let lines = "{\"command\":\"true\"}\n{\"command\":7}\n{\"command\":\"true\"}\n";
    let streamed = dashboard.request("POST", "/api/queues/build/jobs");
    streamed
        .body("application/x-ndjson", lines)
        .send()
        .expect(200);
    let flow = r#"{"jobs":{"a":{"command":"true"},"b":{"command":"true","depends_on":["a"]}}}"#;
    post("/api/flows?name=night&queue=build", flow).expect(201);
    dashboard
        .request("DELETE", "/api/jobs/two")
        .send()
        .expect(200);
    post("/api/jobs/two/retry", "").expect(201);
    // nobody has said that this client is a proxy
    let forwarded = dashboard.request("POST", "/api/queues/build/pause");
    let forwarded = forwarded.header("X-Forwarded-For", "192.0.2.7, 10.0.0.1");
    forwarded.send().expect(200);
    let jobs = dashboard.get("/api/queues/build").json()["depth"].clone();
    post("/api/queues/build/purge", "").expect(200);
    dashboard
        .request("DELETE", "/api/queues/build?jobs=0")
        .send()
        .expect(204);
    let found = entries(&dashboard, 10);
    let lines: Vec<String> = found.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "api queue.add build 1".to_owned(),
            "api job.enqueue build/one 1".to_owned(),
            "api job.enqueue build 2".to_owned(),
            "api job.enqueue build 2".to_owned(),
            "api job.enqueue flow night 2".to_owned(),
            "api job.cancel two 1".to_owned(),
            "api job.retry two 1".to_owned(),
            "api queue.pause build 1".to_owned(),
            format!("api queue.purge build {jobs}"),
            "api queue.remove build 0".to_owned(),
        ]
    );
    for entry in &found {
        assert_eq!(
            (&entry["who"], &entry["from"]),
            (&json!("local"), &json!("127.0.0.1"))
        );
        assert_eq!(
            (&entry["claimed"], entry.get("error")),
            (&json!(false), None),
            "{entry}"
        );
        assert_eq!(entry.get("forwarded_for"), None, "{entry}");
    }
    // those of the command line are in the same list, and the other way round
    naq.cli(["queue", "add", "mail"]).run().succeeds();
    assert_eq!(entries(&dashboard, 11)[10]["claimed"], true);
    let listed = naq.cli(["audit", "--who", "local"]).run().succeeds();
    assert_eq!(listed.stdout.lines().count(), 11, "{listed:?}");
}

#[test]
fn the_list_is_filtered_and_paged() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let empty = dashboard.get("/api/audit").expect(200).json();
    assert_eq!(empty, json!({"entries": []}));
    naq.cli(["queue", "add", "build"]).run().succeeds();
    for _ in 0..3 {
        dashboard.post("/api/queues/build/pause").expect(200);
        dashboard.post("/api/queues/build/resume").expect(200);
    }
    entries(&dashboard, 7);
    let count = |query: &str| {
        let page = dashboard.get(&format!("/api/audit?{query}"));
        page.expect(200).json()["entries"].as_array().unwrap().len()
    };
    assert_eq!(count("action=pause"), 3);
    assert_eq!(count("action=queue"), 7);
    assert_eq!(count("action=queue.add&since=1h&who="), 1);
    assert_eq!(count("who=local&action=resume"), 3);
    assert_eq!(count("since=2999-01-01T00:00:00Z"), 0);
    let mut path = "/api/audit?limit=3".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = dashboard.get(&path).expect(200);
        let body = page.json();
        pages.push(body["entries"].as_array().unwrap().len());
        let Some(next) = body.get("next").and_then(Value::as_str) else {
            break;
        };
        let link = format!("<?cursor={next}>; rel=\"next\"");
        assert_eq!(page.header("link"), Some(link.as_str()));
        path = format!("/api/audit?limit=3&cursor={next}");
    }
    assert_eq!(pages, [3, 3, 1]);
    for wrong in [
        "action=jump",
        "cursor=x",
        "limit=501",
        "since=soon",
        "whom=anna",
    ] {
        let answer = dashboard.get(&format!("/api/audit?{wrong}"));
        answer.problem(400, "bad-request");
    }
}

#[test]
fn the_audit_needs_the_right_to_operate() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = with_tokens(&naq);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let (vera, otto) = ("vera-vera-vera-vera-1", "otto-otto-otto-otto-1");
    send(&dashboard, otto, "POST", "/api/queues/build/pause").expect(200);
    send(&dashboard, vera, "POST", "/api/queues/build/resume").problem(403, "forbidden");
    assert_eq!(entries(&dashboard, 2)[1]["who"], "otto");
    send(&dashboard, otto, "GET", "/api/audit").expect(200);
    send(&dashboard, vera, "GET", "/api/audit").problem(403, "forbidden");
    let page = send(&dashboard, otto, "GET", "/audit").expect(200).text();
    assert!(
        page.contains("href=\"/audit\" aria-current=\"page\""),
        "{page}"
    );
    send(&dashboard, vera, "GET", "/audit").expect(403);
    let other = send(&dashboard, vera, "GET", "/workers").expect(200).text();
    assert!(!other.contains("href=\"/audit\""), "{other}");
}

#[test]
fn forms_of_pages_are_audited_and_the_page_shows_hostile_text_as_text() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let session = dashboard.log_in();
    let get = |path: &str| {
        let request = dashboard.anonymous("GET", path).header("Cookie", &session);
        request.send().expect(200).text()
    };
    let submit = |path: &str, form: &str| {
        let request = dashboard.anonymous("POST", path);
        let request = request.header("Cookie", &session);
        let request = request.header("Sec-Fetch-Site", "same-origin");
        let form = request.body("application/x-www-form-urlencoded", form);
        form.send().expect(303);
    };
    assert!(get("/audit").contains("Nothing has been changed yet"));
    naq.enqueue(&["-q", "build", "--id", "a", "--", "true"]);
    {
        let _worker = naq.worker(&["bad"]).spawn();
        for command in ["/no/such/1", "/no/such/2"] {
            let envelope = json!({ "command": command }).to_string();
            naq.wait_ended(&naq.publish("bad", envelope));
        }
    }
    submit("/jobs/a/cancel", "");
    submit("/jobs/a/retry", "");
    let failed = get("/failed");
    let hidden = |name: &str| {
        let mark = format!("name=\"{name}\" value=\"");
        let rest = failed.split_once(&mark).unwrap().1;
        rest.split('"').next().unwrap().to_owned()
    };
    let group = hidden("group");
    let form = format!(
        "action=discard&group={group}&queue=bad&since=&until={}&limit=2",
        hidden("until")
    );
    submit("/actions", &form);
    let found = entries(&dashboard, 3);
    let lines: Vec<String> = found.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "page job.cancel a 1".to_owned(),
            "page job.retry a 1".to_owned(),
            format!("page failed.discard failed jobs of the group {group} of the queue bad 2"),
        ]
    );
    let page = get("/audit");
    for words in [
        "<code>failed.discard</code>",
        "href=\"/jobs/a\"",
        "127.0.0.1<small>page</small>",
        "<option value=\"queue.purge\">",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(!page.contains("<small>claimed</small>"), "{page}");

    let hostile = "<script>alert(1)</script>\"><img src=x>\u{202e}\u{1b}[31m\u{7}";
    let entry = json!({
        "action": hostile, "who": hostile, "via": hostile, "from": hostile, "filter": hostile,
        "forwarded_for": hostile, "error": hostile, "count": 1,
    });
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let sent = jetstream.publish("naq.audit.cli.queue.purge", entry.to_string().into());
        sent.await.unwrap().await.unwrap();
    });
    let query = "action=queue&who=%3Cscript%3Ealert%281%29%3C%2Fscript%3E";
    for path in ["/audit".to_owned(), format!("/audit?{query}")] {
        let page = get(&path);
        assert!(page.contains("&lt;script&gt;"), "{page}");
        for forbidden in ["<script>alert", "<img src=x", "\u{202e}", "\u{1b}", "\u{7}"] {
            assert!(!page.contains(forbidden), "{forbidden}: {page}");
        }
    }
    assert!(get("/audit").contains("<small>claimed</small>"));
    assert!(get("/audit?action=job&since=1h").contains("job.retry"));
    let other = get("/audit?who=nobody");
    assert!(other.contains("No change matches"), "{other}");
}

/// A dashboard whose user may not write entries changes what it is asked to, and says once what is missing.
#[test]
fn a_dashboard_that_may_not_write_the_audit_makes_changes_and_warns_once() {
    let other = TestServer::start();
    let naq = Naq::new(&other);
    let conf = naq.file(
        "users.conf",
        r#"jetstream: enabled
authorization { users: [
  {user: web, password: p, permissions: {publish: {allow: ">", deny: "naq.audit.>"}}}
] }
"#,
    );
    let (_server, port) = start_plain_server(&naq, &["-c", conf.to_str().unwrap()]);
    let url = format!("nats://127.0.0.1:{port}");
    let as_web = |words: &[&str]| {
        let cli = naq.cli(words.iter().copied()).without_env("NAQ_TOKEN");
        let cli = cli.env("NAQ_NATS_URL", &url).env("NAQ_USER", "web");
        cli.env("NAQ_PASSWORD", "p")
    };
    as_web(&["queue", "add", "build"]).run().succeeds();
    let dashboard = Dashboard::of(&naq, as_web(&["dashboard", "--port", "0"]).follow());
    for _ in 0..3 {
        let paused = dashboard.post("/api/queues/build/pause").expect(200).json();
        assert_eq!(paused["paused"], true);
    }
    dashboard
        .process
        .expect_stderr("the audit lacks what requests have changed");
    let log = dashboard.process.stderr_text();
    assert_eq!(log.matches("the audit lacks").count(), 1, "{log}");
    assert_eq!(
        dashboard.get("/api/audit").expect(200).json(),
        json!({"entries": []})
    );
}
