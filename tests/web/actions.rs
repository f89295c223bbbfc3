//! Bulk actions, by the API and by forms: their progress, their limits, and their undo.

use serde_json::{Value, json};

use super::Dashboard;
use super::failed_pages::{Browser, hidden};
use super::http::Answer;
use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

impl Dashboard {
    fn act(&self, body: &Value) -> Answer {
        self.request("POST", "/api/actions")
            .json(body.to_string())
            .send()
    }

    /// Starts an action, and waits until it has acted on its last job. Returns its path and state.
    #[track_caller]
    fn act_and_wait(&self, body: &Value) -> (String, Value) {
        let started = self.act(body).expect(202);
        let place = started.header("location").unwrap().to_owned();
        assert_eq!(
            place,
            format!("/api/actions/{}", started.json()["id"].as_str().unwrap())
        );
        let state = self.wait_action(&place, &["done", "stopped"]);
        (place, state)
    }

    /// Waits until an action is in one of these states.
    #[track_caller]
    fn wait_action(&self, place: &str, states: &[&str]) -> Value {
        let mut last = Value::Null;
        eventually(&format!("{place} is {states:?}"), || {
            last = self.get(place).expect(200).json();
            states.iter().any(|state| last["state"] == *state)
        });
        last
    }

    fn undo(&self, place: &str) -> Answer {
        self.post(&format!("{place}/undo"))
    }

    fn count_failed(&self) -> Value {
        self.get("/api/failed/groups").expect(200).json()["jobs"].clone()
    }

    fn queue(&self, field: &str) -> Value {
        self.get("/api/queues/build").expect(200).json()[field].clone()
    }
}

/// Fails jobs in the queue `build`, and stops the worker.
fn fail(naq: &Naq, ids: &[&str]) {
    let worker = naq.worker(&["build"]).spawn();
    for job in ids {
        let job = naq.enqueue(&["-q", "build", "--id", job, "--", "sh", "-c", "exit 3"]);
        naq.wait_ended(&job);
    }
    assert!(worker.stop().success());
}

/// Stores dead letters without running their jobs.
fn store_dead_letters(naq: &Naq, number: usize) {
    naq.block_on(async {
        naq.client().broker().ensure_layout().await.unwrap();
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let mut stored = Vec::new();
        for n in 0..number {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Naq-State", "failed");
            headers.insert("Naq-Reason", "exit");
            headers.insert("Naq-Exit-Code", "3");
            let subject = format!("naq.failed.build.f{n}");
            let envelope = r#"{"command":"true"}"#;
            let sent = jetstream.publish_with_headers(subject, headers, envelope.into());
            stored.push(sent.await.unwrap());
        }
        for one in stored {
            one.await.unwrap();
        }
    });
}

#[test]
fn a_group_is_retried_and_the_retry_is_undone_until_its_jobs_start() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    fail(&naq, &["a", "b", "c"]);
    let groups = dashboard.get("/api/failed/groups").expect(200).json();
    let group = groups["groups"][0]["group"].as_str().unwrap().to_owned();
    let mut request = json!({"action": "retry", "failed": {"group": group}, "dry_run": true});
    let preview = dashboard.act(&request).expect(200).json();
    assert_eq!(
        (&preview["jobs"], &preview["is_complete"]),
        (&json!(3), &json!(true)),
        "{preview}"
    );
    assert_eq!(preview["examples"][0]["job_id"], "a", "{preview}");
    assert_eq!(preview["examples"].as_array().unwrap().len(), 3);

    // what fails after the preview is not part of it
    fail(&naq, &["d"]);
    request["dry_run"] = false.into();
    request["until"] = preview["until"].clone();
    let (place, state) = dashboard.act_and_wait(&request);
    assert_eq!(
        (&state["state"], &state["done"]),
        (&json!("done"), &json!(3)),
        "{state}"
    );
    assert_eq!(
        (&state["can_undo"], &state["skipped"]),
        (&json!(true), &json!(0)),
        "{state}"
    );
    assert_eq!(dashboard.queue("delayed"), 3);
    // lists leave them out, but nothing is removed yet
    assert_eq!(dashboard.count_failed(), 1);
    assert_eq!(naq.dead_letters().len(), 4);
    let again = dashboard
        .act_and_wait(&json!({"action": "retry", "ids": ["a"]}))
        .1;
    assert_eq!(
        again["skip_reasons"][0]["reason"], "pending_undo",
        "{again}"
    );
    assert_eq!(again["problems"][0]["job_id"], "a", "{again}");

    dashboard.undo(&place).expect(202);
    let undone = dashboard.wait_action(&place, &["undone"]);
    assert_eq!(
        (&undone["undone"], &undone["not_undone"]),
        (&json!(3), &json!([])),
        "{undone}"
    );
    assert_eq!(dashboard.queue("delayed"), 0);
    assert_eq!(dashboard.count_failed(), 4);
    assert!(
        dashboard
            .undo(&place)
            .problem(409, "conflict")
            .contains("undone before")
    );

    assert!(!dashboard.get(&place).json()["can_undo"].as_bool().unwrap());
    // an entry for the action and one for its undo
    eventually("the undo is in the audit", || {
        let entries = dashboard.get("/api/audit").expect(200).json()["entries"].clone();
        let found = |filter: &str| {
            let mut of_filter = entries.as_array().unwrap().iter();
            of_filter.any(|entry| {
                let text = entry["filter"].as_str().unwrap_or_default();
                text.starts_with(filter) && entry["action"] == "job.retry" && entry["count"] == 3
            })
        };
        found("failed jobs of the group") && found("undo of failed jobs")
    });
}

#[test]
fn a_retry_after_an_undo_runs_the_jobs_and_then_cannot_be_undone() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    fail(&naq, &["a", "b"]);
    let request = json!({"action": "retry", "failed": {"queue": "build"}});
    let (place, _) = dashboard.act_and_wait(&request);
    dashboard.undo(&place).expect(202);
    dashboard.wait_action(&place, &["undone"]);
    let (place, state) = dashboard.act_and_wait(&request);
    assert_eq!(state["done"], 2, "{state}");
    let _worker = naq.worker(&["build"]).spawn();
    eventually(
        "the retries have failed, and the old dead letters are removed",
        || {
            let failed = naq.dead_letters();
            failed.len() == 2
                && failed
                    .iter()
                    .all(|failed| !["a", "b"].contains(&failed.job_id.as_str()))
        },
    );
    let refused = dashboard.undo(&place).problem(409, "conflict");
    assert!(
        refused.contains("the 2 new jobs are in their queues or have begun"),
        "{refused}"
    );
    let state = dashboard.get(&place).expect(200).json();
    assert_eq!(
        (&state["state"], &state["can_undo"]),
        (&json!("done"), &json!(false)),
        "{state}"
    );
}

#[test]
fn a_discard_is_undone_and_a_stopped_dashboard_loses_nothing() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    fail(&naq, &["a", "b"]);
    let request = json!({"action": "discard", "filter": "queue:build"});
    let (place, state) = dashboard.act_and_wait(&request);
    assert_eq!(state["done"], 2, "{state}");
    assert_eq!(dashboard.count_failed(), 0);
    assert_eq!(dashboard.get("/api/failed").json()["jobs"], json!([]));
    dashboard.undo(&place).expect(202);
    let undone = dashboard.wait_action(&place, &["undone"]);
    assert_eq!(undone["undone"], 2, "{undone}");
    assert_eq!(dashboard.count_failed(), 2);

    let (place, _) = dashboard.act_and_wait(&request);
    let none = dashboard
        .act_and_wait(&json!({"action": "discard", "ids": ["a", "never"]}))
        .1;
    let reasons: Vec<&str> = none["skip_reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["no_dead_letter", "pending_undo"], "{none}");
    assert!(dashboard.process.stop().success());
    let dashboard = Dashboard::start(&naq, &[]);
    let unknown = dashboard.get(&place).problem(404, "not-found");
    assert!(unknown.contains("until it stops"), "{unknown}");
    assert_eq!(dashboard.count_failed(), 2);
}

#[test]
fn waiting_jobs_are_cancelled_and_run_again_by_the_undo() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    for job in ["a", "b"] {
        naq.enqueue(&["-q", "build", "--id", job, "--", "true"]);
    }
    naq.enqueue(&["-q", "build", "--id", "later", "--in", "1h", "--", "true"]);
    naq.enqueue(&["-q", "other", "--id", "mine", "--", "true"]);
    let due = dashboard.get("/api/jobs/later").json()["next_attempt_at"].clone();
    let request = json!({"action": "cancel", "filter": "queue:build"});
    let (place, state) = dashboard.act_and_wait(&request);
    assert_eq!(
        (&state["done"], &state["irreversible"]),
        (&json!(3), &json!(0)),
        "{state}"
    );
    for job in ["a", "b", "later"] {
        assert_eq!(
            dashboard.get(&format!("/api/jobs/{job}")).json()["state"],
            "cancelled"
        );
    }
    assert_eq!(dashboard.get("/api/jobs/mine").json()["state"], "queued");
    // they have ended
    let again = dashboard
        .act_and_wait(&json!({"action": "cancel", "ids": ["a", "never"]}))
        .1;
    assert_eq!(
        (&again["done"], &again["skipped"]),
        (&json!(0), &json!(2)),
        "{again}"
    );

    dashboard.undo(&place).expect(202);
    let undone = dashboard.wait_action(&place, &["undone"]);
    assert_eq!(undone["undone"], 3, "{undone}");
    assert_eq!(
        (dashboard.queue("depth"), dashboard.queue("delayed")),
        (json!(2), json!(1))
    );
    let delayed = dashboard.get("/api/jobs?state=scheduled").json();
    let restored = &delayed["jobs"][0];
    assert_eq!(
        (&restored["rerun_of"], &restored["next_attempt_at"]),
        (&json!("later"), &due),
        "{delayed}"
    );
}

#[test]
fn running_jobs_are_cancelled_only_if_their_number_is_confirmed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.worker(&["build"]).concurrency(2).spawn();
    for job in ["a", "b"] {
        let job = naq.enqueue(&["-q", "build", "--id", job, "--", "sleep", "60"]);
        naq.wait_running(&job);
    }
    let mut request = json!({"action": "cancel", "filter": "queue:build"});
    let preview = dashboard
        .request("POST", "/api/actions?dry_run")
        .json(request.to_string());
    let preview = preview.send().expect(200).json();
    assert_eq!(
        (&preview["jobs"], &preview["irreversible"]),
        (&json!(2), &json!(2)),
        "{preview}"
    );
    for confirm in [json!(null), json!(0), json!(1)] {
        request["confirm"] = confirm;
        let refused = dashboard.act(&request).problem(409, "conflict");
        assert!(refused.contains("`confirm` 2"), "{refused}");
    }
    assert_eq!(dashboard.get("/api/jobs/a").json()["state"], "running");
    request["confirm"] = 2.into();
    let (place, state) = dashboard.act_and_wait(&request);
    assert_eq!(
        (&state["done"], &state["irreversible"]),
        (&json!(2), &json!(2)),
        "{state}"
    );
    assert_eq!(state["can_undo"], false, "{state}");
    let refused = dashboard.undo(&place).problem(409, "conflict");
    assert!(
        refused.contains("nothing that an undo could restore"),
        "{refused}"
    );
    for job in ["a", "b"] {
        naq.wait_ended(&id(job));
        assert_eq!(
            dashboard.get(&format!("/api/jobs/{job}")).json()["state"],
            "cancelled"
        );
    }
}

#[test]
fn an_action_ends_at_its_limit_and_another_is_stopped_in_the_middle() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    store_dead_letters(&naq, 1_500);
    let (place, state) =
        dashboard.act_and_wait(&json!({"action": "retry", "failed": {}, "limit": 1_000}));
    // on a slow machine, the first jobs may be due
    assert_eq!(
        (&state["done"], &state["is_limited"]),
        (&json!(1_000), &json!(true)),
        "{state}"
    );
    dashboard.undo(&place).expect(202);
    let undone = dashboard.wait_action(&place, &["undone"]);
    assert_eq!(undone["undone"], 1_000, "{undone}");
    assert_eq!(dashboard.count_failed(), 1_500);
    assert_eq!(dashboard.queue("depth"), 0);

    let started = dashboard
        .act(&json!({"action": "retry", "failed": {}}))
        .expect(202);
    let place = started.header("location").unwrap().to_owned();
    dashboard.request("DELETE", &place).send().expect(202);
    let stopped = dashboard.wait_action(&place, &["stopped"]);
    let done = stopped["done"].as_u64().unwrap();
    assert!(done < 1_500 && stopped["selected"] == done, "{stopped}");
    dashboard
        .request("DELETE", &place)
        .send()
        .problem(409, "conflict");
    // an undo of what it has done, unless it has done nothing
    let undo = dashboard.undo(&place);
    assert_eq!(undo.status, if done > 0 { 202 } else { 409 }, "{undo:?}");
    eventually("all failed jobs are listed again", || {
        dashboard.count_failed() == 1_500
    });
    let listed = dashboard.get("/api/actions").expect(200).json();
    assert_eq!(listed["actions"][0]["id"], stopped["id"], "{listed}");
    assert_eq!(listed["actions"].as_array().unwrap().len(), 2);
}

#[test]
fn results_that_match_are_kept_for_another_time() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.worker(&["build"]).spawn();
    for job in ["a", "b", "c"] {
        let job = naq.enqueue(&["-q", "build", "--id", job, "--", "true"]);
        naq.wait_ended(&job);
    }
    naq.enqueue(&["-q", "other", "--id", "queued", "--", "true"]);
    let kept_for = |job: &str| {
        let header = naq.block_on(async {
            let stream = async_nats::jetstream::new(naq.nats().clone());
            let stream = stream.get_stream("KV_naq_results").await.unwrap();
            let subject = format!("$KV.naq_results.{job}");
            let message = stream.get_last_raw_message_by_subject(&subject).await;
            let ttl = message.unwrap().headers.get("Nats-TTL").cloned();
            ttl.map(|ttl| ttl.to_string())
        });
        header.unwrap_or_else(|| "forever".to_owned())
    };
    let request = json!({"action": "ttl", "filter": "id:a", "ttl": "30d"});
    let (place, state) = dashboard.act_and_wait(&request);
    assert_eq!(
        (&state["done"], &state["can_undo"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(kept_for("a"), "2592000s");
    let refused = dashboard.undo(&place);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("has no undo"), "{detail}");
    refused.problem(409, "conflict");
    let named = json!({"action": "ttl", "ids": ["b", "queued", "none"], "ttl": 0});
    let (_, state) = dashboard.act_and_wait(&named);
    assert_eq!(
        (&state["done"], &state["skipped"]),
        (&json!(1), &json!(2)),
        "{state}"
    );
    assert_eq!(kept_for("b"), "forever");
    let audit = naq.cli(["audit", "--json"]).run().succeeds();
    assert_eq!(audit.stdout.matches("job.ttl").count(), 2);

    // the page asks for the time
    let browser = Browser::open(&dashboard);
    let list = browser.get("/jobs?q=queue:build").expect(200).text();
    assert!(
        list.contains("/actions/new?action=ttl&amp;q=queue%3Abuild"),
        "{list}"
    );
    let page = browser
        .get("/actions/new?action=ttl&q=queue:build")
        .expect(200);
    let page = page.text();
    assert!(
        page.contains("Keep 3 jobs?") && page.contains("name=\"ttl\""),
        "{page}"
    );
    browser
        .submit("/actions", "action=ttl&job=c&limit=1")
        .expect(400);
    browser
        .submit("/actions", "action=ttl&job=c&limit=1&ttl=1m")
        .expect(400);
    browser.submit_and_follow("/actions", "action=ttl&job=c&limit=1&ttl=20m");
    eventually("the record is kept for 20 minutes", || {
        kept_for("c") == "1200s"
    });
}

#[test]
fn wrong_requests_for_actions_are_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    for (request, pointer) in [
        (json!({"action": "retry"}), ""),
        (json!({"action": "retry", "ids": ["a"], "failed": {}}), ""),
        (json!({"action": "retry", "ids": []}), "/ids"),
        (
            json!({"action": "retry", "filter": "sate:failed"}),
            "/filter",
        ),
        (
            json!({"action": "cancel", "filter": "state:succeeded"}),
            "/filter",
        ),
        (json!({"action": "cancel", "failed": {}}), "/failed"),
        (
            json!({"action": "retry", "failed": {"group": "x"}}),
            "/failed/group",
        ),
        (
            json!({"action": "retry", "failed": {"since": "soon"}}),
            "/failed/since",
        ),
        (
            json!({"action": "retry", "ids": ["a"], "limit": 0}),
            "/limit",
        ),
        (
            json!({"action": "retry", "ids": ["a"], "limit": 100_001}),
            "/limit",
        ),
        (json!({"action": "ttl", "ids": ["a"]}), "/ttl"),
        (json!({"action": "ttl", "ids": ["a"], "ttl": "9m"}), "/ttl"),
        (
            json!({"action": "retry", "ids": ["a"], "ttl": "1h"}),
            "/ttl",
        ),
        (
            json!({"action": "ttl", "failed": {}, "ttl": "1h"}),
            "/failed",
        ),
        (
            json!({"action": "ttl", "filter": "state:running", "ttl": "1h"}),
            "/filter",
        ),
    ] {
        let refused = dashboard.act(&request).expect(422);
        assert_eq!(
            refused.json()["errors"][0]["pointer"],
            pointer,
            "{refused:?}"
        );
        refused.problem(422, "refused");
    }
}

#[test]
fn wrong_bodies_and_ids_of_actions_are_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    for wrong in [
        json!({"action": "remove", "ids": ["a"]}),
        json!({"action": "retry", "ids": ["a b"]}),
        json!({"action": "retry", "id": "a"}),
        json!({"ids": ["a"]}),
    ] {
        dashboard.act(&wrong).problem(422, "refused");
    }
    let post = || dashboard.request("POST", "/api/actions");
    post().json("{").send().problem(422, "refused");
    post().json("[\"retry\"]").send().problem(422, "refused");
    post()
        .body("text/plain", "{}")
        .send()
        .problem(415, "media-type");
    dashboard.get("/api/actions/none").problem(404, "not-found");
    dashboard
        .undo("/api/actions/none")
        .problem(404, "not-found");
    let unknown = dashboard.request("DELETE", "/api/actions/none").send();
    unknown.problem(404, "not-found");

    let read_only = Dashboard::start(&naq, &["--read-only"]);
    let request = json!({"action": "retry", "ids": ["a"], "dry_run": true});
    read_only.act(&request).problem(403, "forbidden");
    read_only
        .undo("/api/actions/none")
        .problem(403, "forbidden");
    let stop = read_only.request("DELETE", "/api/actions/none").send();
    stop.problem(403, "forbidden");
    read_only.get("/api/actions").expect(200);
}

#[test]
fn selected_jobs_are_cancelled_by_forms_after_a_page_that_counts_them() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    for job in ["a", "b", "c"] {
        naq.enqueue(&["-q", "build", "--id", job, "--", "echo", "<b>bold</b>"]);
    }
    let jobs = browser.get("/jobs?q=queue:build").expect(200).text();
    assert_eq!(
        jobs.matches("type=\"checkbox\" name=\"job\"").count(),
        3,
        "{jobs}"
    );
    let page = browser
        .get("/actions/new?job=a&job=b&action=cancel")
        .expect(200)
        .text();
    assert!(
        page.contains("Cancel 2 jobs?") && !page.contains("name=\"confirm\""),
        "{page}"
    );
    let all = browser
        .get("/actions/new?action=cancel&q=queue:build")
        .expect(200)
        .text();
    assert!(
        all.contains("Cancel 3 jobs?") && !all.contains("<b>bold"),
        "{all}"
    );
    let done = browser.submit_and_follow("/actions", "action=cancel&job=a&job=b&limit=2");
    assert!(done.contains("Cancelled</dt>"), "{done}");
    eventually("both jobs are cancelled", || {
        ["a", "b"]
            .iter()
            .all(|job| dashboard.get(&format!("/api/jobs/{job}")).json()["state"] == "cancelled")
    });
    let list = browser.get("/actions").expect(200).text();
    let link = list
        .split("href=\"/actions/")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    // the action ends a moment after its jobs
    eventually("the undo is offered", || {
        let page = browser.get(&format!("/actions/{link}")).expect(200).text();
        page.contains("Undo") && page.contains("2 named jobs")
    });
    browser
        .submit_from("cross-site", &format!("/actions/{link}/undo"), "")
        .expect(403);
    browser
        .submit(&format!("/actions/{link}/undo"), "")
        .expect(303);
    dashboard.wait_action(&format!("/api/actions/{link}"), &["undone"]);
    let page = browser.get(&format!("/actions/{link}")).expect(200).text();
    assert!(page.contains("Restored</dt><dd>2"), "{page}");
    browser
        .submit(&format!("/actions/{link}/undo"), "")
        .expect(409);
    browser
        .submit(&format!("/actions/{link}/stop"), "")
        .expect(409);
}

#[test]
fn a_running_job_is_cancelled_by_a_form_that_confirms_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let browser = Browser::open(&dashboard);
    let _worker = naq.worker(&["build"]).spawn();
    let job = naq.enqueue(&["-q", "build", "--id", "runs", "--", "sleep", "60"]);
    naq.wait_running(&job);
    let page = browser
        .get("/actions/new?job=runs&action=cancel")
        .expect(200)
        .text();
    assert!(
        page.contains("Type 1 to confirm") && hidden(&page, "job") == "runs",
        "{page}"
    );
    let form = "action=cancel&job=runs&limit=1";
    browser.submit("/actions", form).expect(409);
    browser
        .submit("/actions", &format!("{form}&confirm=1"))
        .expect(303);
    naq.wait_ended(&job);

    for (path, status) in [
        ("/actions/new", 400),
        ("/actions/new?action=cancel", 400),
        ("/actions/new?action=remove&job=a", 400),
        ("/actions/new?action=retry&group=", 400),
        ("/actions/new?action=cancel&q=sate:failed", 400),
        ("/actions/new?action=cancel&job=a.b", 400),
        ("/actions/none", 404),
    ] {
        browser.get(path).expect(status);
    }
    let stream = browser.get("/live?action=none").expect(200).text();
    assert!(stream.contains("event: end"), "{stream}");
    let read_only = Dashboard::start(&naq, &["--read-only"]);
    let viewer = Browser::open(&read_only);
    let jobs = viewer.get("/jobs").expect(200).text();
    assert!(
        !jobs.contains("type=\"checkbox\" name=\"job\"") && !jobs.contains("/actions/new"),
        "{jobs}"
    );
    viewer.submit("/actions", form).expect(403);
    let page = viewer
        .get("/actions/new?job=b&action=retry")
        .expect(200)
        .text();
    assert!(!page.contains("<form class=\"confirm\""), "{page}");
}
