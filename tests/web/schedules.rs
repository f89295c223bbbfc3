//! Schedules are created, replaced, deleted and backfilled by the API.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::Dashboard;
use super::http::Answer;
use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

/// A definition of a schedule that is due once a year.
fn yearly(command: &str) -> Value {
    json!({"queue": "build", "envelope": {"command": command}, "cron": "0 0 1 1 *"})
}

impl Dashboard {
    /// Sends a definition, with these headers.
    fn put_schedule(&self, name: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut request = self.request("PUT", &format!("/api/schedules/{name}"));
        for (header, value) in headers {
            request = request.header(header, value);
        }
        request.json(body.to_string()).send()
    }

    /// The version of a schedule.
    #[track_caller]
    fn etag(&self, name: &str) -> String {
        let answer = self.get(&format!("/api/schedules/{name}")).expect(200);
        answer.header("etag").unwrap().to_owned()
    }
}

#[test]
fn a_schedule_is_created_replaced_and_deleted() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let put =
        |headers: &[(&str, &str)], body: &Value| dashboard.put_schedule("nightly", headers, body);

    let would = put(&[], &yearly("true")).expect(201);
    assert_eq!(would.header("location"), Some("/api/schedules/nightly"));
    let first = would.header("etag").unwrap().to_owned();
    assert_eq!(would.json()["schedule"]["status"], "active");
    assert!(would.json()["next_tick"].is_string(), "{would:?}");
    assert_eq!(dashboard.etag("nightly"), first);
    let read = dashboard
        .request("GET", "/api/schedules/nightly")
        .header("If-None-Match", &first);
    let read = read.send().expect(304);
    assert_eq!(
        (read.body.len(), read.header("etag")),
        (0, Some(first.as_str()))
    );

    // the same request again is no replacement, and another one has to say what it replaces
    put(&[], &yearly("true")).expect(200);
    put(&[], &yearly("false")).problem(428, "precondition-required");
    put(&[("If-None-Match", "*")], &yearly("true")).problem(412, "precondition-failed");
    let wrong = [("If-Match", "\"999-0000000000000000\"")];
    let refused = put(&wrong, &yearly("false")).problem(412, "precondition-failed");
    assert!(refused.contains(&first), "{refused}");
    put(&[("If-Match", "1")], &yearly("false")).problem(400, "bad-request");
    assert_eq!(dashboard.etag("nightly"), first);

    // a user's pause and its history stay
    dashboard.post("/api/schedules/nightly/pause").expect(200);
    let named = [("If-Match", first.as_str())];
    let would = dashboard
        .request("PUT", "/api/schedules/nightly?dry_run")
        .header("If-Match", &first)
        .json(yearly("false").to_string());
    let would = would.send().expect(200).json();
    assert_eq!(would["command"], "false");
    assert_eq!(
        dashboard.get("/api/schedules/nightly").json()["command"],
        "true"
    );
    let replaced = put(&named, &yearly("false")).expect(200);
    let second = replaced.header("etag").unwrap().to_owned();
    assert_ne!(first, second);
    let replaced = replaced.json();
    assert_eq!(replaced["command"], "false");
    assert_eq!(replaced["schedule"]["status"], "paused");
    // what was lost in the network is sent again
    put(&named, &yearly("false")).expect(200);
    put(&named, &yearly("date")).problem(412, "precondition-failed");
    put(&[("If-Match", "*")], &yearly("date")).expect(200);

    let delete = |query: &str, etag: Option<&str>| {
        let path = format!("/api/schedules/nightly{query}");
        let request = dashboard.request("DELETE", &path);
        match etag {
            Some(etag) => request.header("If-Match", etag).send(),
            None => request.send(),
        }
    };
    delete("", Some(&first)).problem(412, "precondition-failed");
    delete("?dry_run", None).expect(204);
    let last = dashboard.etag("nightly");
    delete("", Some(&last)).expect(204);
    delete("", None).problem(404, "not-found");
    delete("", Some("*")).problem(404, "not-found");
    put(&[("If-Match", "*")], &yearly("true")).problem(412, "precondition-failed");
    put(&[("If-None-Match", "*")], &yearly("true")).expect(201);
    // a command line sees what was stored
    let shown = naq.cli(["schedule", "show", "nightly"]).run().succeeds();
    assert!(shown.stdout.contains("0 0 1 1 *"), "{}", shown.stdout);
    for slug in ["precondition-failed", "precondition-required"] {
        dashboard
            .anonymous("GET", &format!("/problems/{slug}"))
            .send()
            .expect(200);
    }
}

#[test]
fn of_two_writers_of_a_schedule_one_wins() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    // by two dashboards, so that nothing but NATS decides
    let other = Dashboard::start(&naq, &[]);
    for round in 0..5 {
        let name = format!("contested-{round}");
        dashboard
            .put_schedule(&name, &[], &yearly("true"))
            .expect(201);
        let etag = dashboard.etag(&name);
        let write = |dashboard: &Dashboard, command: &str| {
            let named = [("If-Match", etag.as_str())];
            dashboard
                .put_schedule(&name, &named, &yearly(command))
                .status
        };
        let mut statuses = std::thread::scope(|scope| {
            let one = scope.spawn(|| write(&dashboard, "one"));
            let two = scope.spawn(|| write(&other, "two"));
            [one.join().unwrap(), two.join().unwrap()]
        });
        let winner = if statuses[0] == 200 { "one" } else { "two" };
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412], "round {round}");
        let stored = dashboard.get(&format!("/api/schedules/{name}")).json();
        assert_eq!(stored["command"], winner, "round {round}");

        let created = format!("new-{round}");
        let create = |dashboard: &Dashboard, command: &str| {
            dashboard
                .put_schedule(&created, &[], &yearly(command))
                .status
        };
        let mut statuses = std::thread::scope(|scope| {
            let one = scope.spawn(|| create(&dashboard, "one"));
            let two = scope.spawn(|| create(&other, "two"));
            [one.join().unwrap(), two.join().unwrap()]
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 428], "round {round}");
    }
}

#[test]
fn ticks_do_not_keep_a_schedule_from_being_replaced() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _scheduler = naq.cli(["scheduler"]).follow();
    let beat = json!({"queue": "build", "envelope": {"command": "true"}, "every": "100ms"});
    dashboard.put_schedule("beat", &[], &beat).expect(201);
    let etag = dashboard.etag("beat");
    eventually("a tick is stored", || dashboard.etag("beat") != etag);
    let mut slower = beat.clone();
    slower["every"] = json!("1h");
    let named = [("If-Match", etag.as_str())];
    let replaced = dashboard.put_schedule("beat", &named, &slower).expect(200);
    assert!(replaced.json()["schedule"]["progress"]["runs"].as_u64() > Some(0));
    // what another user has changed does
    dashboard
        .put_schedule("beat", &named, &beat)
        .problem(412, "precondition-failed");
}

#[test]
fn the_definition_of_a_schedule_is_edited_without_the_values_of_its_variables() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let mut body = yearly("true");
    body["envelope"]["env"] = json!({"TOKEN": "hunter2"});
    dashboard.put_schedule("secret", &[], &body).expect(201);
    let read = dashboard.get("/api/schedules/secret").expect(200);
    assert!(!read.text().contains("hunter2"), "{read:?}");
    let etag = read.header("etag").unwrap().to_owned();
    let mut definition = read.json()["definition"].clone();
    assert_eq!(definition["envelope"]["env"]["TOKEN"], "***");
    definition["overlap"] = json!("skip");
    let named = [("If-Match", etag.as_str())];
    dashboard
        .put_schedule("secret", &named, &definition)
        .expect(200);
    let stored = naq.block_on(
        naq.client()
            .fetch_schedule(&naq_protocol::ScheduleId::new("secret").unwrap()),
    );
    let stored = stored.unwrap().unwrap().schedule;
    assert!(stored.envelope.get().contains("hunter2"), "{stored:?}");
    assert_eq!(stored.overlap, naq_protocol::Overlap::Skip);
    // nothing is stored under another name
    let refused = dashboard
        .put_schedule("other", &[], &definition)
        .expect(422);
    let pointer = &refused.json()["errors"][0]["pointer"];
    assert_eq!(pointer, "/envelope/env/TOKEN", "{refused:?}");
}

#[test]
fn each_wrong_request_about_a_schedule_is_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let mut wrong = yearly("true");
    wrong["cron"] = json!("61 * * * *");
    let refused = dashboard.put_schedule("a", &[], &wrong).expect(422);
    assert_eq!(
        refused.json()["errors"][0]["pointer"],
        "/cron",
        "{refused:?}"
    );
    refused.problem(422, "refused");
    let request = |body: &str| {
        let request = dashboard.request("PUT", "/api/schedules/a");
        request.json(body).send()
    };
    request("{").problem(422, "refused");
    request("[]").problem(422, "refused");
    let large = "x".repeat(2 << 20);
    request(&large).problem(413, "too-large");
    let plain = dashboard.request("PUT", "/api/schedules/a");
    plain
        .body("text/plain", yearly("true").to_string())
        .send()
        .problem(415, "media-type");
    dashboard
        .put_schedule("a.b", &[], &yearly("true"))
        .problem(400, "bad-request");
    dashboard.get("/api/schedules/a").problem(404, "not-found");

    // a schedule is a command on the workers, so a token that may only operate stores none
    let tokens = naq.file(
        "tokens",
        "operate bert bert-bert-bert-bert-1\nview anna anna-anna-anna-anna-1\n",
    );
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    let shared = Dashboard::start(&naq, &["--tokens", tokens.to_str().unwrap()]);
    dashboard
        .put_schedule("a", &[], &yearly("true"))
        .expect(201);
    let send = |token: &str, method: &str, path: &str, body: Value| {
        let request = shared.anonymous(method, path);
        let request = request.header("Authorization", &format!("Bearer {token}"));
        request.json(body.to_string()).send()
    };
    let (anna, bert) = ("anna-anna-anna-anna-1", "bert-bert-bert-bert-1");
    let range = json!({"from": "2020-01-01T00:00:00Z", "to": "2020-02-01T00:00:00Z"});
    for token in [anna, bert] {
        send(token, "PUT", "/api/schedules/a", yearly("date")).problem(403, "forbidden");
    }
    send(anna, "POST", "/api/schedules/a/backfill", range.clone()).problem(403, "forbidden");
    send(anna, "DELETE", "/api/schedules/a", json!({})).problem(403, "forbidden");
    send(bert, "POST", "/api/schedules/a/backfill", range).expect(201);
    send(bert, "DELETE", "/api/schedules/a", json!({})).expect(204);
}

#[test]
fn a_range_of_the_past_is_backfilled_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let nightly = json!({
        "queue": "build", "envelope": {"command": "true", "labels": {"team": "ops"}},
        "cron": "30 2 * * *", "tz": "Europe/Berlin", "overlap": "skip",
    });
    dashboard.put_schedule("nightly", &[], &nightly).expect(201);
    let backfill = |query: &str, body: Value| {
        let path = format!("/api/schedules/nightly/backfill{query}");
        dashboard
            .request("POST", &path)
            .json(body.to_string())
            .send()
    };
    // over the night in which the clocks skip 02:30
    let week =
        json!({"from": "2025-03-28T00:00:00+01:00", "to": "2025-04-02T00:00:00+02:00", "limit": 3});
    let would = backfill("?dry_run", week.clone()).expect(200).json();
    assert_eq!((&would["enqueued"], &would["more"]), (&json!(3), &json!(2)));
    assert_eq!(would.get("label"), None, "{would}");
    dashboard
        .get("/api/jobs/nightly-20250328T013000Z")
        .problem(404, "not-found");

    let done = backfill("", week.clone()).expect(201).json();
    let jobs: Vec<&str> = done["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["job_id"].as_str().unwrap())
        .collect();
    let expected = [
        "nightly-20250328T013000Z",
        "nightly-20250329T013000Z",
        "nightly-20250330T010000Z",
    ];
    assert_eq!(jobs, expected, "{done}");
    assert_eq!(
        done["runs"][2]["tick"]["local"],
        "2025-03-30T03:00:00+02:00"
    );
    let job = dashboard
        .get(&format!("/api/jobs/{}", jobs[0]))
        .expect(200)
        .json();
    assert_eq!(job["labels"]["backfill"], done["label"], "{job}");
    assert_eq!(job["labels"]["team"], "ops");
    assert_eq!(job["schedule_id"], "nightly");
    // the schedule's runs must not overlap
    assert_eq!(
        job["envelope"]["concurrency_key"], "schedule nightly",
        "{job}"
    );

    // the same again enqueues nothing, whether the runs wait or have ended, and the rest follows
    let again = backfill("", week.clone()).expect(200).json();
    assert_eq!(
        (&again["enqueued"], again["runs"][0]["existed"].as_bool()),
        (&json!(0), Some(true))
    );
    let _worker = naq.worker(&["build"]).spawn();
    for job in jobs {
        naq.wait_ended(&id(job));
    }
    backfill("", week.clone()).expect(200);
    let rest = &done["rest"];
    let rest = backfill("", json!({"from": rest["from"], "to": rest["to"]}))
        .expect(201)
        .json();
    assert_eq!(
        (&rest["enqueued"], &rest["more"]),
        (&json!(2), &json!(0)),
        "{rest}"
    );
    assert_eq!(rest.get("rest"), None);
    let mut newest = week.clone();
    newest["order"] = json!("newest");
    let newest = backfill("?dry_run", newest).expect(200).json();
    assert_eq!(
        newest["runs"][0]["job_id"], "nightly-20250401T003000Z",
        "{newest}"
    );

    let refused = |field: &str, value: Value, pointer: &str| {
        let mut wrong = week.clone();
        wrong[field] = value;
        let refused = backfill("", wrong).expect(422);
        assert_eq!(
            refused.json()["errors"][0]["pointer"],
            pointer,
            "{refused:?}"
        );
    };
    refused("to", week["from"].clone(), "/to");
    refused("to", json!("2999-01-01T00:00:00Z"), "/to");
    refused("limit", json!(0), "/limit");
    refused("limit", json!(1001), "/limit");
    backfill("", json!({"to": "2025-03-28T00:00:00Z"})).problem(422, "refused");
    backfill("", json!({"from": "yesterday"})).problem(422, "refused");
    let mut unknown = week.clone();
    unknown["order"] = json!("random");
    backfill("", unknown).problem(422, "refused");
    dashboard
        .request("POST", "/api/schedules/none/backfill")
        .json(week.to_string())
        .send()
        .problem(404, "not-found");
    dashboard
        .post("/api/schedules/nightly/backfill")
        .problem(415, "media-type");
}
