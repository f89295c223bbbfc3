//! Authentication, permitted hosts, and rights.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{Dashboard, cookie};
use crate::harness::naq::Naq;
use crate::harness::nats::{TEST_TIMEOUT, TestServer};

/// Every path that needs a token, with a method.
fn protected() -> Vec<(String, String)> {
    let document = naq::web::openapi_document();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation.get("security").is_none() {
                let path = path.replace(['{', '}'], "");
                found.push((method.to_ascii_uppercase(), path));
            }
        }
    }
    found.extend([
        ("GET".to_owned(), "/live".to_owned()),
        ("POST".to_owned(), "/live/x".to_owned()),
        ("GET".to_owned(), "/jobs".to_owned()),
        ("GET".to_owned(), "/export/jobs".to_owned()),
        ("GET".to_owned(), "/jobs/job".to_owned()),
        ("GET".to_owned(), "/jobs/job/rows".to_owned()),
        ("GET".to_owned(), "/jobs/job/snapshot.html".to_owned()),
        ("GET".to_owned(), "/jobs/job/snapshot.json".to_owned()),
        ("POST".to_owned(), "/jobs/job/cancel".to_owned()),
        ("POST".to_owned(), "/jobs/job/retry".to_owned()),
        ("POST".to_owned(), "/logout".to_owned()),
        ("GET".to_owned(), "/audit".to_owned()),
        ("GET".to_owned(), "/actions".to_owned()),
        ("GET".to_owned(), "/actions/new".to_owned()),
        ("GET".to_owned(), "/actions/x".to_owned()),
        ("POST".to_owned(), "/actions".to_owned()),
        ("POST".to_owned(), "/actions/x/stop".to_owned()),
        ("POST".to_owned(), "/actions/x/undo".to_owned()),
        ("POST".to_owned(), "/schedules/x/pause".to_owned()),
        ("POST".to_owned(), "/schedules/x/resume".to_owned()),
        ("POST".to_owned(), "/schedules/x/trigger".to_owned()),
        ("POST".to_owned(), "/workers/x/drain".to_owned()),
        ("GET".to_owned(), "/schedules/x".to_owned()),
        ("GET".to_owned(), "/schedules/x/edit".to_owned()),
        ("POST".to_owned(), "/schedules/x/edit".to_owned()),
        ("POST".to_owned(), "/schedules/x/delete".to_owned()),
        ("POST".to_owned(), "/schedules/x/backfill".to_owned()),
        ("GET".to_owned(), "/create/schedule".to_owned()),
        ("POST".to_owned(), "/create/schedule".to_owned()),
    ]);
    assert!(found.len() > 15, "{found:?}");
    found
}

#[test]
fn every_route_needs_a_token_or_a_session() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    for (method, path) in protected() {
        for authorization in [
            None,
            Some("Bearer wrong"),
            Some("Basic YTpi"),
            Some("Bearer"),
        ] {
            let mut request = dashboard.anonymous(&method, &path).json("{}");
            if let Some(value) = authorization {
                request = request.header("Authorization", value);
            }
            let answer = request.send();
            // a browser without a session is led to the form
            let is_api = path.starts_with("/api") || path.starts_with("/schemas");
            let is_page = method == "GET" && !is_api;
            let expected = if is_page { 303 } else { 401 };
            assert_eq!(answer.status, expected, "{answer:?}");
        }
    }
    let to_login = dashboard.anonymous("GET", "/").send().expect(303);
    assert_eq!(to_login.header("location"), Some("/login"));
    // what is open tells nothing about jobs
    for path in ["/healthz", "/readyz", "/login"] {
        dashboard.anonymous("GET", path).send().expect(200);
    }
}

#[test]
fn a_one_time_address_logs_in_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let path = dashboard.login.split_once(&dashboard.address).unwrap().1;
    let answer = dashboard.anonymous("GET", path).send().expect(303);
    let set = answer.header("set-cookie").unwrap();
    assert!(
        set.contains("HttpOnly; SameSite=Strict") && set.contains("Path=/"),
        "{set}"
    );
    let session = cookie(&answer);
    dashboard
        .anonymous("GET", "/")
        .header("Cookie", &session)
        .send()
        .expect(200);
    dashboard.anonymous("GET", path).send().expect(401);
    // a changed cookie is none
    let changed = session.replacen(':', ":9", 1);
    dashboard
        .anonymous("GET", "/")
        .header("Cookie", &changed)
        .send()
        .expect(303);
    // the file with the token is for this user only, and outlives the dashboard
    let file = naq.home().join("data/dashboard.token");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let token = dashboard.token.clone();
    assert!(dashboard.process.stop().success());
    assert_eq!(Dashboard::start(&naq, &[]).token, token);
}

#[test]
fn a_token_logs_a_browser_in_and_wrong_ones_are_slowed_down() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let log_in = |token: &str| {
        let form = dashboard
            .anonymous("POST", "/login")
            .header("Sec-Fetch-Site", "same-origin");
        form.body(
            "application/x-www-form-urlencoded",
            format!("token={token}"),
        )
        .send()
    };
    let plain = log_in(&dashboard.token).expect(303);
    assert!(
        !plain.header("set-cookie").unwrap().contains("Secure"),
        "{plain:?}"
    );
    let answers: Vec<u16> = (0..8).map(|_| log_in("wrong").status).collect();
    assert_eq!(answers[..5], [401; 5]);
    assert_eq!(answers[7], 429);
    let pause = log_in("wrong").expect(429);
    let pause: u64 = pause.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&pause), "{pause}");
    // who has a session keeps it
    dashboard.get("/api/me").expect(200);
    let cross = dashboard
        .anonymous("POST", "/login")
        .header("Sec-Fetch-Site", "cross-site");
    let form = format!("token={}", dashboard.token);
    cross
        .body("application/x-www-form-urlencoded", form)
        .send()
        .expect(403);
}

#[test]
fn a_page_of_another_site_can_change_nothing() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let dashboard = Dashboard::start(&naq, &[]);
    let session = dashboard.log_in();
    let own = format!("http://{}", dashboard.address);
    let pause = |headers: &[(&str, &str)]| {
        let mut request = dashboard.anonymous("POST", "/api/queues/build/pause");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.header("Cookie", &session).send()
    };
    for headers in [
        &[][..],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Origin", "http://evil.example")],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", own.as_str())],
    ] {
        pause(headers).problem(403, "cross-site");
    }
    let info = dashboard.get("/api/queues/build").json();
    assert_eq!(info["paused"], false);
    pause(&[("Sec-Fetch-Site", "same-origin")]).expect(200);
    pause(&[("Origin", own.as_str())]).expect(200);
    // a program needs no such header, but may not be a page of another site
    let cross = dashboard.request("POST", "/api/queues/build/resume");
    cross
        .header("Origin", "http://evil.example")
        .send()
        .problem(403, "cross-site");
    dashboard.post("/api/queues/build/resume").expect(200);
}

#[test]
fn a_request_for_another_host_is_misdirected() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--host-name", "jobs.example.com"]);
    for host in ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.2:80"] {
        dashboard
            .request("GET", "/api/me")
            .host(host)
            .send()
            .problem(421, "host");
        dashboard
            .anonymous("GET", "/login")
            .host(host)
            .send()
            .expect(421);
    }
    for host in [
        "localhost:8080",
        "[::1]:1",
        "jobs.example.com",
        "JOBS.example.com:443",
    ] {
        dashboard
            .request("GET", "/api/me")
            .host(host)
            .send()
            .expect(200);
    }
}

#[test]
fn each_right_allows_what_it_says() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let file = naq.file(
        "tokens",
        "# who may do what\nview anna anna-anna-anna-anna-1\noperate bert bert-bert-bert-bert-1\nsubmit cron cron-cron-cron-cron-1\n",
    );
    use std::os::unix::fs::PermissionsExt;
    let set_mode = |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(0o644);
    let path = file.to_str().unwrap();
    let refused = naq
        .cli(["dashboard", "--port", "0", "--tokens", path])
        .run();
    refused
        .exits(1)
        .expect_stderr(&["other users can read it", "chmod 600"]);
    set_mode(0o600);
    let allowed = |options: &[&str]| {
        let dashboard = Dashboard::start(&naq, &[options, &["--tokens", path]].concat());
        let mut found = Vec::new();
        for token in [
            "anna-anna-anna-anna-1",
            "bert-bert-bert-bert-1",
            "cron-cron-cron-cron-1",
        ] {
            let bearer = format!("Bearer {token}");
            let send = |method: &str, path: &str| {
                let request = dashboard
                    .anonymous(method, path)
                    .header("Authorization", &bearer);
                request.json(r#"{"command":"true"}"#).send().status
            };
            found.push([
                send("GET", "/api/queues"),
                send("POST", "/api/queues/build/pause"),
                send("POST", "/api/queues/build/jobs?dry_run"),
                // with a body, which changes the envelope of the retried job
                send("POST", "/api/jobs/none/retry"),
            ]);
        }
        found
    };
    assert_eq!(
        allowed(&[]),
        [
            [200, 403, 403, 403],
            [200, 200, 403, 403],
            [200, 200, 200, 404]
        ]
    );
    assert_eq!(allowed(&["--read-only"]), [[200, 403, 403, 403]; 3]);

    // browsers submit only if that is allowed
    for (options, status) in [(&[][..], 403), (&["--allow-submit"], 200)] {
        let dashboard = Dashboard::start(&naq, options);
        let request = dashboard.anonymous("POST", "/api/queues/build/jobs?dry_run");
        let request = request.header("Cookie", &dashboard.log_in());
        let request = request.header("Sec-Fetch-Site", "same-origin");
        let answer = request.json(r#"{"command":"true"}"#).send();
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[test]
fn another_address_needs_tokens() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for host in ["0.0.0.0", "::", "192.0.2.1"] {
        let refused = naq.cli(["dashboard", "--host", host, "--port", "0"]).run();
        refused
            .exits(2)
            .expect_stderr(&["other machines can reach", "--tokens"]);
    }
    let weak = naq.file("weak", "view anna short\n");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&weak, std::fs::Permissions::from_mode(0o600)).unwrap();
    let words = [
        "dashboard",
        "--port",
        "0",
        "--tokens",
        weak.to_str().unwrap(),
    ];
    let refused = naq.cli(words).run().exits(2);
    assert!(
        refused.stderr.contains("line 1") && !refused.stderr.contains("short\n"),
        "{refused:?}"
    );
}

#[test]
fn answers_forbid_what_a_page_must_not_do() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let paths = [
        "/",
        "/failed",
        "/failed/jobs",
        "/actions",
        "/actions/none",
        "/schedules",
        "/workers",
        "/login",
        "/nothing",
        "/api/queues",
        "/api/nothing",
        "/healthz",
    ];
    for path in paths {
        let answer = dashboard.get(path);
        let header = |name: &str| {
            answer
                .header(name)
                .unwrap_or_else(|| panic!("{name}: {answer:?}"))
        };
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cache-control"), "no-store");
        let policy = header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(header("naq-request-id").len(), 16);
        // nothing on a page is written into it that the policy forbids
        let text = answer.text();
        assert!(
            !text.contains(" style=") && !text.contains("<style") && !text.contains(" onclick")
        );
        assert!(!text.contains("<script>"), "{text}");
    }
}

#[test]
fn a_client_that_is_silent_or_sends_too_much_is_disconnected() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let mut silent = TcpStream::connect(&dashboard.address).unwrap();
    silent.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    silent.write_all(b"GET /healthz HTT").unwrap();
    let mut endless = TcpStream::connect(&dashboard.address).unwrap();
    endless.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    endless.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let line = format!("X-Filler: {}\r\n", "x".repeat(1_000));
    // the server stops reading long before
    for _ in 0..1_000 {
        if endless.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = endless.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    let mut answer = Vec::new();
    let ended = silent.read_to_end(&mut answer);
    let is_open = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!is_open, "a silent client is still connected");
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    dashboard.get("/api/me").expect(200);
}
