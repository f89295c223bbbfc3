//! `/metrics` of the dashboard.

use serde_json::json;

use super::Dashboard;
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;
use crate::metrics::scrape::{Scrape, check_by_promtool};
use naq_protocol::State;

#[test]
fn the_metrics_of_a_dashboard_show_the_queues_the_workers_and_its_requests() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["mail"]).concurrency(2).spawn();
    naq.add_queue("orphan");
    naq.add_queue("limited");
    naq.cli(["queue", "set", "limited", "--max-running", "3"])
        .run()
        .succeeds();
    naq.cli(["queue", "pause", "limited"]).run().succeeds();
    for secret in ["secret-argument", "two"] {
        naq.publish(
            "orphan",
            json!({ "command": "true", "args": [secret] }).to_string(),
        );
    }
    naq.enqueue(&["--queue", "orphan", "--in", "1h", "--", "true"]);
    let fifo = naq.home().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let running = naq.publish(
        "mail",
        json!({ "command": "cat", "args": [fifo], "concurrency_key": "k" }).to_string(),
    );
    naq.wait_running(&running);
    let failed = naq.publish("mail", json!({ "command": "false" }).to_string());
    assert_eq!(naq.wait_ended(&failed).state(), State::Failed);

    let dashboard = Dashboard::start(&naq, &[]);
    let address = dashboard.address.as_str();
    eventually("the worker's heartbeat says that it is busy", || {
        Scrape::of(address).value("naq_workers{state=\"busy\"}") == 1.0
    });
    dashboard.get("/api/queues").expect(200);
    dashboard.get("/api/jobs/unknown").expect(404);
    dashboard.get("/nowhere").expect(404);
    dashboard.anonymous("GET", "/api/queues").send().expect(401);
    let wrong = dashboard
        .anonymous("GET", "/api/queues")
        .header("Authorization", "Bearer wrong");
    wrong.send().expect(401);
    let put = |body: &str| {
        let request = dashboard.request("PUT", "/api/queues/counted/jobs/chosen");
        request.json(body).send()
    };
    put(r#"{"command":"true"}"#).expect(201);
    // the same again, and what is refused, enqueue nothing
    put(r#"{"command":"true"}"#).expect(200);
    put(r#"{"command":"false"}"#).expect(409);
    let flow = r#"{"jobs":{"a":{"command":"true"},"b":{"command":"true"}}}"#;
    let flow_request = dashboard.request("POST", "/api/flows?name=night&queue=counted");
    flow_request.json(flow).send().expect(201);
    let scrape = Scrape::of(address);
    scrape.expect(&[
        ("naq_queue_jobs{queue=\"mail\",state=\"running\"}", 1.0),
        ("naq_queue_jobs{queue=\"mail\",state=\"queued\"}", 0.0),
        ("naq_queue_jobs{queue=\"orphan\",state=\"queued\"}", 2.0),
        ("naq_queue_jobs{queue=\"orphan\",state=\"delayed\"}", 1.0),
        ("naq_queue_oldest_seconds{queue=\"mail\"}", 0.0),
        ("naq_queue_slots{queue=\"mail\"}", 2.0),
        ("naq_queue_slots{queue=\"orphan\"}", 0.0),
        ("naq_queue_paused{queue=\"mail\"}", 0.0),
        ("naq_queue_paused{queue=\"limited\"}", 1.0),
        ("naq_queue_max_running{queue=\"limited\"}", 3.0),
        ("naq_workers{state=\"idle\"}", 0.0),
        ("naq_failed_kept_jobs", 1.0),
        ("naq_nats_up", 1.0),
        (
            "naq_http_requests_total{route=\"/api/queues\",method=\"GET\",code=\"200\"}",
            1.0,
        ),
        (
            "naq_http_requests_total{route=\"/api/queues\",method=\"GET\",code=\"401\"}",
            2.0,
        ),
        (
            "naq_http_requests_total{route=\"/api/jobs/{job}\",method=\"GET\",code=\"404\"}",
            1.0,
        ),
        (
            "naq_http_requests_total{route=\"other\",method=\"GET\",code=\"404\"}",
            1.0,
        ),
        (
            "naq_http_request_seconds_count{route=\"/api/queues\",method=\"GET\"}",
            3.0,
        ),
        ("naq_auth_failures_total", 1.0),
        ("naq_live_clients", 0.0),
        ("naq_enqueued_total{queue=\"counted\",via=\"api\"}", 3.0),
    ]);
    assert!(
        scrape.value("naq_queue_oldest_seconds{queue=\"orphan\"}") > 0.0,
        "{scrape:?}"
    );
    assert!(
        scrape.value("naq_queue_size_bytes{queue=\"orphan\"}") > 100.0,
        "{scrape:?}"
    );
    assert!(scrape.value("naq_storage_bytes") > 100.0, "{scrape:?}");
    for op in ["publish", "read", "manage"] {
        let answers = format!("naq_nats_request_seconds_count{{op=\"{op}\"}}");
        assert!(scrape.value(&answers) >= 1.0, "{op}: {scrape:?}");
    }
    for secret in ["secret-argument", running.as_str(), failed.as_str()] {
        assert!(!scrape.text.contains(secret), "{secret} in {}", scrape.text);
    }
    check_by_promtool(address);
    // what jobs wait for that no slot of a worker would start
    let jobs = |why: &str| Scrape::of(address).value(&format!("naq_blocked_jobs{{why=\"{why}\"}}"));
    for why in ["dependency", "key", "labels"] {
        assert_eq!(jobs(why), 0.0, "{why}");
    }
    for envelope in [
        json!({ "command": "true", "depends_on": [running.as_str()] }),
        json!({ "command": "true", "concurrency_key": "k" }),
        json!({ "command": "true", "requires": { "gpu": "1" } }),
        json!({ "command": "true", "requires": { "gpu": "1" } }),
    ] {
        naq.publish("mail", envelope.to_string());
    }
    for (why, expected) in [("dependency", 1.0), ("key", 1.0), ("labels", 2.0)] {
        eventually(&format!("{expected} blocked by {why}"), || {
            jobs(why) == expected
        });
    }
    let _able = naq.worker(&["mail"]).arg("--label=gpu=1").spawn();
    eventually("no job lacks a worker", || jobs("labels") == 0.0);
    // what was shown before is not shown of a queue that no longer exists
    naq.cli(["queue", "remove", "limited", "--yes"])
        .run()
        .succeeds();
    eventually("the queue is gone", || {
        !Scrape::of(address).text.contains("limited")
    });
    let _stream = dashboard.request("GET", "/live").open();
    eventually("a viewer", || {
        Scrape::of(address).value("naq_live_clients") == 1.0
    });
    std::fs::write(&fifo, "end").unwrap();
}

#[test]
fn the_metrics_of_a_dashboard_show_when_a_schedule_last_succeeded() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["mail"]).spawn();
    let dashboard = Dashboard::start(&naq, &[]);
    for (name, program) in [("well", "true"), ("ill", "false")] {
        naq.cli([
            "schedule", "--name", name, "--queue", "mail", "--every", "2s", "--", program,
        ])
        .run()
        .succeeds();
    }
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    let last = |scrape: &Scrape, name: &str| {
        scrape.value(&format!(
            "naq_schedule_last_success_timestamp_seconds{{schedule=\"{name}\"}}"
        ))
    };
    let address = dashboard.address.as_str();
    eventually("a success", || last(&Scrape::of(address), "well") > 1.7e9);
    let scrape = Scrape::of(address);
    scrape.expect(&[("naq_schedule_period_seconds{schedule=\"ill\"}", 2.0)]);
    assert_eq!(last(&scrape, "ill"), 0.0, "{}", scrape.text);
    // another dashboard, which has seen no event, knows it from the schedule's last job
    let later = Dashboard::start(&naq, &[]);
    eventually("the last job", || {
        last(&Scrape::of(&later.address), "well") > 1.7e9
    });
}

#[test]
fn the_metrics_of_a_dashboard_behind_a_proxy_need_a_token() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for options in [["--base-path", "/naq"], ["--host-name", "jobs.example.com"]] {
        let dashboard = Dashboard::start(&naq, &options);
        dashboard
            .anonymous("GET", "/metrics")
            .send()
            .problem(401, "unauthenticated");
        let answer = dashboard.get("/metrics").expect(200);
        assert!(answer.text().contains("naq_nats_up 1.0\n"), "{answer:?}");
    }
}
