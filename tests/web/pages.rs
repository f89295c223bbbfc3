//! Pages and live updates, requested without a browser.

use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;

use super::Dashboard;
use super::http::read_head;
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn the_overview_shows_queues_jobs_workers_and_what_to_mend() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let empty = dashboard.get("/").expect(200).text();
    assert!(empty.contains("No queue exists yet"), "{empty}");
    let hostile = "<script>alert(1)</script>\u{202e}\u{1b}[31m";
    naq.cli([
        "enqueue", "-q", "build", "--id", "waits", "--", "echo", hostile,
    ])
    .run()
    .succeeds();
    crate::harness::naq::eventually("the job", || dashboard.get("/").text().contains("waits"));
    let page = dashboard.get("/").expect(200).text();
    assert!(
        page.contains("no worker serves the queue <code>build</code>"),
        "{page}"
    );
    assert!(page.contains("naq worker build"), "{page}");
    assert!(!page.contains("<script>alert"), "{page}");
    assert!(
        !page.contains('\u{202e}') && !page.contains('\u{1b}'),
        "{page}"
    );
}

#[test]
fn an_open_page_gets_what_changes() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let session = dashboard.log_in();
    let mut stream = dashboard
        .anonymous("GET", "/live")
        .header("Cookie", &session)
        .open();
    let (status, headers) = read_head(&mut stream);
    assert_eq!(status, 200, "{headers:?}");
    naq.cli(["enqueue", "-q", "build", "--id", "seen", "--", "true"])
        .run()
        .succeeds();
    let mut lines = stream.lines();
    assert!(lines.any(|line| line.unwrap().contains("seen")));
    assert!(dashboard.process.stop().success());
}

#[test]
fn an_open_stream_follows_what_its_browser_asks_for() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let tokens = naq.file("tokens", "view anna anna-anna-anna-anna-1\n");
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    let dashboard = Dashboard::start(&naq, &["--tokens", tokens.to_str().unwrap()]);
    naq.cli(["enqueue", "-q", "build", "--id", "waits", "--", "true"])
        .run()
        .succeeds();
    let mut stream = dashboard.request("GET", "/live?job=waits~1").open();
    let (status, headers) = read_head(&mut stream);
    assert_eq!(status, 200, "{headers:?}");
    let mut lines = stream.lines().map(|line| line.unwrap());
    assert!(lines.any(|line| line == "event: stream"));
    let number = lines.next().unwrap();
    let path = format!("/live/{}", number.strip_prefix("data: ").unwrap());
    let set = |topics: &str| {
        let body = topics.as_bytes().to_vec();
        dashboard.request("POST", &path).body("text/plain", body)
    };
    set("job=waits~2f").send().expect(204);
    // the id of an event is its topic
    assert!(lines.any(|line| line == "id: job=waits~2f"));
    set("job=a.b").send().expect(400);
    set("all").send().expect(400);
    let other = dashboard.anonymous("POST", &path);
    let other = other.header("Authorization", "Bearer anna-anna-anna-anna-1");
    other.send().expect(404);
    dashboard.request("POST", "/live/x").send().expect(404);
}

#[test]
fn only_the_overview_of_a_wall_screen_is_shown_in_frames() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let sites = ["https://wiki.example.com", "http://10.0.0.5:8090"];
    let options = ["--frame-ancestor", sites[0], "--frame-ancestor", sites[1]];
    let dashboard = Dashboard::start(&naq, &options);
    let frames = |path: &str| {
        let policy = dashboard.get(path);
        let policy = policy.header("content-security-policy").unwrap().to_owned();
        let frames = policy
            .split("; ")
            .find(|part| part.starts_with("frame-ancestors"));
        frames.unwrap().to_owned()
    };
    let allowed = format!("frame-ancestors {}", sites.join(" "));
    assert_eq!(frames("/?kiosk"), allowed);
    // what has buttons could be clicked without the user's intention
    for path in ["/", "/?kiosk=false", "/jobs", "/login", "/api/queues"] {
        assert_eq!(frames(path), "frame-ancestors 'none'", "{path}");
    }
    let page = dashboard.get("/?kiosk").expect(200).text();
    assert!(
        page.contains("class=\"kiosk\"") && page.contains("data-live"),
        "{page}"
    );
    assert!(
        !page.contains("<button") && !page.contains("<nav"),
        "{page}"
    );
    dashboard.get("/?kiosk=maybe").expect(400);
    dashboard.get("/?kisok").expect(400);
    let wrong = naq.cli(["dashboard", "--frame-ancestor", "*"]).run();
    wrong
        .exits(2)
        .expect_stderr(&["is not a site such as https://wiki.example.com"]);
    let usual = Dashboard::start(&naq, &[]);
    let answer = usual.get("/?kiosk").expect(200);
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
}

#[test]
fn a_dashboard_has_a_name_and_leads_to_others_by_safe_addresses() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let named = Dashboard::start(
        &naq,
        &[
            "--title=<b>production</b>,red",
            "--also=staging=https://staging.example.com/naq,green",
            "--also=my laptop=http://127.0.0.1:8081",
        ],
    );
    let page = named.get("/jobs").expect(200).text();
    for part in [
        "<header class=\"top named red\">",
        "<title>Jobs – naq &lt;b&gt;production&lt;/b&gt;</title>",
        "<i class=\"dot red\"></i>&lt;b&gt;production&lt;/b&gt;</summary>",
        "<a href=\"https://staging.example.com/naq\" rel=\"noreferrer\"><i class=\"dot green\"></i>staging</a>",
        "<a href=\"http://127.0.0.1:8081\" rel=\"noreferrer\">my laptop</a>",
    ] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    // strangers see which dashboard this is, and not where others are
    let login = named.anonymous("GET", "/login").send().expect(200).text();
    assert!(
        login.contains("top named red") && !login.contains("staging"),
        "{login}"
    );
    // a name alone is no menu
    let alone = Dashboard::start(&naq, &["--title", "production"]);
    let page = alone.get("/jobs").expect(200).text();
    assert!(
        page.contains("naq <span class=\"named\">production</span></a>"),
        "{page}"
    );
    assert!(
        page.contains("<header class=\"top\">") && !page.contains("boards"),
        "{page}"
    );
    let usual = Dashboard::start(&naq, &[]).get("/jobs").expect(200).text();
    assert!(
        usual.contains("<title>Jobs – naq</title>") && !usual.contains("class=\"named"),
        "{usual}"
    );

    for (option, words) in [
        (
            "--also=x=javascript:alert(1)",
            "is not the address of a dashboard",
        ),
        (
            "--also=x=https://a@evil.example.com/",
            "is not the address of a dashboard",
        ),
        ("--also=https", "expected NAME=URL"),
        (
            "--also=x=https://a.example.com/,pink",
            "none of the colours red, orange",
        ),
        ("--title=", "printable characters"),
    ] {
        let refused = naq.cli(["dashboard", "--port", "0", option]).run();
        refused.exits(2).expect_stderr(&[words]);
    }
}

#[test]
fn pages_are_below_the_path_of_a_proxy() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--base-path", "/tools/naq"]);
    assert!(
        dashboard.login.contains("/tools/naq/login?code="),
        "{}",
        dashboard.login
    );
    // as a proxy passes it on: with its part of the path, or without
    for path in ["/tools/naq/", "/"] {
        let page = dashboard.get(path).expect(200).text();
        let links = page
            .split("href=\"")
            .skip(1)
            .filter(|link| link.starts_with('/'));
        for link in links {
            assert!(link.starts_with("/tools/naq/"), "{link}");
        }
    }
    let asset = dashboard.get("/tools/naq/").text();
    let asset = asset
        .split("href=\"")
        .find(|link| link.contains("style.css"))
        .unwrap();
    let asset = asset.split('"').next().unwrap();
    let style = dashboard.anonymous("GET", asset).send().expect(200);
    assert_eq!(
        style.header("cache-control"),
        Some("public, max-age=31536000, immutable")
    );
    dashboard.get("/tools/naq/api/queues").expect(200);
    dashboard
        .anonymous("GET", "/tools/naq/api/queues")
        .send()
        .expect(401);
    dashboard
        .get("/tools/naq/api/nothing")
        .problem(404, "not-found");
    let wrong = naq.cli(["dashboard", "--base-path", "naq"]).run();
    wrong
        .exits(2)
        .expect_stderr(&["is not a path such as /naq"]);
}

#[test]
fn naq_dev_serves_the_dashboard_too() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::of(&naq, naq.cli(["dev", "build"]).follow());
    let session = dashboard.log_in();
    naq.cli([
        "enqueue", "-q", "build", "--id", "mine", "--wait", "--", "true",
    ])
    .run()
    .succeeds();
    crate::harness::naq::eventually("the job", || {
        let page = dashboard
            .anonymous("GET", "/")
            .header("Cookie", &session)
            .send();
        page.expect(200).text().contains("mine")
    });
    // another one finds the port in use, and takes another
    let second = Dashboard::of(&naq, naq.cli(["dev", "other"]).follow());
    assert_ne!(second.address, dashboard.address);
    for one in [dashboard, second] {
        assert!(one.process.stop().success());
    }
}
