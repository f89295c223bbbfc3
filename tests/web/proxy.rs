//! The dashboard behind a reverse proxy: what it believes of whom, and a real nginx with the lines of
//! `docs/reverse-proxy.md`.

use std::io::BufRead;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::browser::Browsing;
use super::http::{Answer, Request, read_head};
use super::{Dashboard, cookie};
use crate::harness::naq::{GuardedChild, Naq, eventually};
use crate::harness::nats::TestServer;
use crate::harness::{find_program, is_required, is_root, skipped};

const PASSWORD: &str = "annas-password";

/// The last entry of the audit, after this many.
fn last_entry(dashboard: &Dashboard, count: usize) -> Value {
    let mut last = Value::Null;
    eventually("the entry is stored", || {
        let page = dashboard.get("/api/audit").expect(200).json();
        let entries = page["entries"].as_array().unwrap();
        last = entries.first().cloned().unwrap_or_default();
        entries.len() >= count
    });
    last
}

fn with_headers(request: Request, headers: &[(&str, &str)]) -> Answer {
    let add = |request: Request, (name, value): &(&str, &str)| request.header(name, value);
    headers.iter().fold(request, add).send()
}

#[test]
fn only_a_trusted_proxy_says_where_a_request_comes_from() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let said = [
        ("X-Forwarded-For", "127.0.0.1, 192.0.2.7, 10.0.0.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/tools/naq"),
        ("X-Forwarded-Host", "jobs.example.com"),
        ("Sec-Fetch-Site", "same-origin"),
    ];
    let log_in = |dashboard: &Dashboard| {
        let form = dashboard.anonymous("POST", "/login");
        let token = format!("token={}", dashboard.token);
        let form = form.body("application/x-www-form-urlencoded", token);
        with_headers(form, &said)
    };
    let options = ["--host-name", "jobs.example.com"];
    // the other end of the connection has another address
    for options in [
        &options[..],
        &[&options[..], &["--trusted-proxy", "127.0.0.2"]].concat(),
    ] {
        let dashboard = Dashboard::start(&naq, options);
        let answer = log_in(&dashboard).expect(303);
        assert_eq!(answer.header("location"), Some("/"));
        let set = answer.header("set-cookie").unwrap();
        assert!(
            set.contains("; Path=/;") && !set.contains("Secure"),
            "{set}"
        );
        let host = [("X-Forwarded-Host", "evil.example")];
        with_headers(dashboard.request("GET", "/api/me"), &host).expect(200);
    }
    let trusted = [
        "--trusted-proxy",
        "127.0.0.0/8",
        "--trusted-proxy",
        "10.0.0.0/8",
    ];
    let dashboard = Dashboard::start(&naq, &[&options[..], &trusted].concat());
    let answer = log_in(&dashboard).expect(303);
    assert_eq!(answer.header("location"), Some("/tools/naq/"));
    let set = answer.header("set-cookie").unwrap();
    assert!(
        set.contains("; Path=/tools/naq;") && set.ends_with("; Secure"),
        "{set}"
    );
    let session = cookie(&answer);
    // a page is rendered once for all viewers, but its links are for one base path
    for (prefix, expected) in [
        ("/tools/naq", "/tools/naq"),
        ("/other", "/other"),
        ("//evil", ""),
    ] {
        for path in ["/", "/jobs", "/nothing"] {
            let page = dashboard.anonymous("GET", path).header("Cookie", &session);
            let page = page.header("X-Forwarded-Prefix", prefix).send();
            let text = page.text();
            assert!(
                text.contains(&format!("href=\"{expected}/assets/")),
                "{path}: {text}"
            );
            assert!(!text.contains("evil"), "{path}: {text}");
            let links = text.matches("href=\"/").count();
            let own = text.matches(&format!("href=\"{expected}/")).count();
            assert_eq!(links, own, "{path} at {prefix}: {text}");
        }
    }
    let plain = dashboard.get("/").text();
    assert!(
        !plain.contains("/tools") && !plain.contains("/other"),
        "{plain}"
    );
    // the host has to be one of the dashboard's, and is what the origin is compared with
    let pause = |headers: &[(&str, &str)]| {
        let request = dashboard.anonymous("POST", "/api/queues/build/pause");
        with_headers(request.header("Cookie", &session), headers)
    };
    let host = ("X-Forwarded-Host", "jobs.example.com");
    pause(&[
        ("X-Forwarded-Host", "evil.example"),
        ("Sec-Fetch-Site", "same-origin"),
    ])
    .problem(421, "host");
    pause(&[host, ("Origin", "https://evil.example")]).problem(403, "cross-site");
    let chain = ("X-Forwarded-For", "127.0.0.1, 192.0.2.7, 10.0.0.9");
    pause(&[host, chain, ("Origin", "https://jobs.example.com")]).expect(200);
    let entry = last_entry(&dashboard, 2);
    assert_eq!(
        [&entry["who"], &entry["from"], &entry["forwarded_for"]],
        ["local", "127.0.0.1", "192.0.2.7"]
    );
    // metrics are open only to the machine itself
    dashboard
        .anonymous("GET", "/metrics")
        .send()
        .problem(401, "unauthenticated");
    // a configured base path is that of the pages, whatever a proxy says
    let fixed = Dashboard::start(
        &naq,
        &["--base-path", "/naq", "--trusted-proxy", "127.0.0.1"],
    );
    let answer = with_headers(
        fixed.anonymous("GET", "/"),
        &[("X-Forwarded-Prefix", "/other")],
    );
    assert_eq!(answer.expect(303).header("location"), Some("/naq/login"));
}

#[test]
fn a_user_of_a_trusted_proxy_has_its_own_right_and_name() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let auth = [
        "--trusted-proxy",
        "127.0.0.1",
        "--forward-auth-header",
        "Remote-User",
        "--forward-auth-groups-header",
        "Remote-Groups",
        "--forward-auth-right",
        "anna=operate",
        "--forward-auth-right",
        "@ops=submit",
    ];
    let dashboard = Dashboard::start(&naq, &[&auth[..], &["--allow-submit"]].concat());
    let site = ("Sec-Fetch-Site", "same-origin");
    let statuses = |headers: &[(&str, &str)]| {
        let send = |method: &str, path: &str| {
            let request = dashboard.anonymous(method, path);
            let request = request.json(r#"{"command":"true"}"#).header(site.0, site.1);
            with_headers(request, headers).status
        };
        [
            send("GET", "/api/queues"),
            send("POST", "/api/queues/build/pause"),
            send("POST", "/api/queues/build/jobs?dry_run"),
        ]
    };
    let (anna, bert) = (("Remote-User", "anna"), ("Remote-User", "bert"));
    assert_eq!(statuses(&[anna]), [200, 200, 403]);
    assert_eq!(statuses(&[bert]), [200, 403, 403]);
    assert_eq!(
        statuses(&[bert, ("Remote-Groups", "read, ops")]),
        [200, 200, 200]
    );
    // the password that a proxy has checked is not the dashboard's; a token is
    assert_eq!(
        statuses(&[bert, ("Authorization", "Basic YTpi")]),
        [200, 403, 403]
    );
    assert_eq!(
        statuses(&[anna, ("Authorization", "Bearer wrong")]),
        [401; 3]
    );
    let bearer = format!("Bearer {}", dashboard.token);
    assert_eq!(statuses(&[bert, ("Authorization", &bearer)]), [200; 3]);
    // a session of the dashboard itself adds nothing to the right of the user
    let session = dashboard.log_in();
    assert_eq!(statuses(&[("Cookie", &session)]), [200; 3]);
    assert_eq!(statuses(&[bert, ("Cookie", &session)]), [200, 403, 403]);
    // what names several users, nobody, or another header
    for headers in [
        &[anna, bert][..],
        &[anna, anna],
        &[("Remote-User", "anna, bert")],
        &[("Remote-User", "")],
        &[("Remote_User", "anna")],
        &[("Remote-User_", "anna")],
        &[("X-Forwarded-User", "anna")],
        &[("Remote-Groups", "ops")],
        &[anna, ("Remote-Groups", "read"), ("Remote-Groups", "ops")],
    ] {
        assert_eq!(statuses(headers), [401; 3], "{headers:?}");
    }
    // a proxy adds the header to every request of a browser, so a page of another site may cause one
    for sender in [
        &[][..],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "http://evil.example")],
    ] {
        let request = dashboard.anonymous("POST", "/api/queues/build/resume");
        with_headers(request.header(anna.0, anna.1), sender).problem(403, "cross-site");
    }
    let me = with_headers(dashboard.anonymous("GET", "/api/me"), &[anna]).json();
    assert_eq!(me, json!({"name": "anna", "right": "operate"}));
    let page = with_headers(dashboard.anonymous("GET", "/"), &[anna]).text();
    assert!(
        page.contains("<span>anna</span>") && !page.contains("/logout"),
        "{page}"
    );
    let resume = dashboard.anonymous("POST", "/api/queues/build/resume");
    with_headers(resume, &[anna, site, ("X-Forwarded-For", "192.0.2.7")]).expect(200);
    let mut entry = last_entry(&dashboard, 2);
    eventually("anna is named", || {
        entry = last_entry(&dashboard, 2);
        entry["action"] == "queue.resume"
    });
    assert_eq!(
        [&entry["who"], &entry["from"], &entry["forwarded_for"]],
        ["anna", "127.0.0.1", "192.0.2.7"]
    );
    assert_eq!(entry["claimed"], false);
    // the limits of a dashboard are those of its sessions
    drop(dashboard);
    for (option, expected) in [
        ("--read-only", [200, 403, 403]),
        ("--allow-submit", [200; 3]),
    ] {
        let dashboard = Dashboard::start(&naq, &[&auth[..], &[option]].concat());
        let post = |path: &str| {
            let request = dashboard
                .anonymous("POST", path)
                .json(r#"{"command":"true"}"#);
            with_headers(request, &[bert, ("Remote-Groups", "ops"), site]).status
        };
        let get = with_headers(dashboard.anonymous("GET", "/api/me"), &[bert]).status;
        let found = [
            get,
            post("/api/queues/build/pause"),
            post("/api/queues/build/jobs?dry_run"),
        ];
        assert_eq!(found, expected, "{option}");
    }
}

#[test]
fn a_user_whom_no_trusted_proxy_names_is_nobody() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let header = ["--forward-auth-header", "X-Forwarded-User"];
    let right = ["--forward-auth-right", "anna=submit"];
    let elsewhere = [
        "--trusted-proxy",
        "127.0.0.2",
        "--trusted-proxy",
        "10.0.0.0/8",
    ];
    let dashboard = Dashboard::start(&naq, &[&header[..], &right, &elsewhere].concat());
    let headers = [
        ("X-Forwarded-User", "anna"),
        // only the other end of the connection counts
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Real-IP", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
    ];
    let me = with_headers(dashboard.anonymous("GET", "/api/me"), &headers);
    me.problem(401, "unauthenticated");
    let own = with_headers(dashboard.request("GET", "/api/me"), &headers);
    assert_eq!(own.json()["name"], "local");
    dashboard
        .process
        .expect_stderr("trusted_proxies does not contain the address");

    // another user of this machine can connect from the address of the proxy
    let trusted = ["--trusted-proxy", "127.0.0.1"];
    let dashboard = Dashboard::start(&naq, &[&header[..], &right, &trusted].concat());
    with_headers(dashboard.anonymous("GET", "/api/me"), &headers).expect(200);
    if is_root("another user's proxy") {
        let Some(curl) = find_program("curl", "another user sends no request") else {
            return;
        };
        let status = |dashboard: &Dashboard, uid: u32| {
            #[expect(clippy::disallowed_methods, reason = "a process of another user")]
            let output = Command::new(&curl)
                .args([
                    "--silent",
                    "--output",
                    "/dev/null",
                    "--write-out",
                    "%{http_code}",
                ])
                .args(["--header", "X-Forwarded-User: anna"])
                .arg(format!("http://{}/api/me", dashboard.address))
                .current_dir("/")
                .uid(uid)
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(status(&dashboard, 61_234), "401");
        dashboard
            .process
            .expect_stderr("proxy_users does not name the user of this machine");
        let named = ["--proxy-user", "61234"];
        let options = [&header[..], &right, &trusted, &named].concat();
        let dashboard = Dashboard::start(&naq, &options);
        assert_eq!(status(&dashboard, 61_234), "200");
        assert_eq!(status(&dashboard, 61_235), "401");
    }
}

#[test]
fn wrong_settings_of_a_proxy_are_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (options, words) in [
        (
            &["--trusted-proxy", "proxy.example.com"][..],
            "is not an address",
        ),
        (&["--trusted-proxy", "0.0.0.0/0"], "contains every address"),
        (&["--forward-auth-header", "X-User"], "--trusted-proxy"),
        (
            &["--forward-auth-right", "anna=submit"],
            "--forward-auth-header",
        ),
        (
            &["--trusted-proxy", "::1", "--forward-auth-header", "Cookie"],
            "has another meaning",
        ),
        (
            &[
                "--trusted-proxy",
                "::1",
                "--forward-auth-header",
                "X-User",
                "--forward-auth-right",
                "anna=root",
            ],
            "is not a right",
        ),
    ] {
        let refused = naq
            .cli([&["dashboard", "--port", "0"], options].concat())
            .run();
        refused.exits(2).expect_stderr(&[words]);
    }
    // a project's file cannot say whom to trust
    naq.file(
        "naq.toml",
        "trusted_proxies = [\"127.0.0.1\"]\nforward_auth_header = \"X-User\"\n",
    );
    let refused = naq.cli(["dashboard", "--port", "0"]).run();
    refused.exits(2).expect_stderr(&["naq config trust"]);
}

#[test]
fn wrong_tokens_of_one_client_do_not_delay_another_one() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &["--trusted-proxy", "127.0.0.1"]);
    let log_in = |client: &str, token: &str| {
        let form = dashboard.anonymous("POST", "/login");
        let form = form.header("Sec-Fetch-Site", "same-origin");
        let form = form.header("X-Forwarded-For", client);
        let token = format!("token={token}");
        form.body("application/x-www-form-urlencoded", token)
            .send()
            .status
    };
    let statuses: Vec<u16> = (0..8).map(|_| log_in("192.0.2.7", "wrong")).collect();
    assert_eq!((statuses[0], statuses[7]), (401, 429));
    // what the client itself adds in front makes it no other one
    assert_eq!(log_in("198.51.100.1, 192.0.2.7", &dashboard.token), 429);
    assert_eq!(log_in("192.0.2.8", &dashboard.token), 303);
    assert_eq!(log_in("192.0.2.7, 192.0.2.8", "wrong"), 401);
}

/// The blocks of `docs/reverse-proxy.md` for nginx.
fn snippets() -> Vec<String> {
    let page = Path::new(crate::ROOT).join("docs/reverse-proxy.md");
    let text = std::fs::read_to_string(page).unwrap();
    let blocks = text.split("```nginx\n").skip(1);
    let blocks: Vec<String> = blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect();
    assert_eq!(blocks.len(), 2);
    blocks
}

/// nginx, with the lines of the page in front of a dashboard. Killed when dropped.
struct Nginx {
    _process: GuardedChild,
    address: String,
}

impl Nginx {
    /// `None` if nginx is not installed.
    fn start(naq: &Naq, dashboard: &Dashboard, with_login: bool) -> Option<Nginx> {
        let program = nginx()?;
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = naq.home().join("nginx");
        std::fs::create_dir_all(&folder).unwrap();
        let users = folder.join("htpasswd");
        std::fs::write(&users, format!("anna:{{PLAIN}}{PASSWORD}\n")).unwrap();
        let [location, login] = snippets().try_into().unwrap();
        let mut location = location.replace("127.0.0.1:8080", &dashboard.address);
        if with_login {
            let login = login.replace("/etc/nginx/naq.htpasswd", users.to_str().unwrap());
            let end = location.rfind('}').unwrap();
            location.insert_str(end, &login);
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port};\n{location}}}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the proxy of a user")]
        let mut command = Command::new(program);
        command
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(&file)
            .args(["-e", "error.log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = GuardedChild::spawn(&mut command);
        let address = format!("127.0.0.1:{port}");
        eventually("nginx listens", || TcpStream::connect(&address).is_ok());
        Some(Nginx {
            _process: process,
            address,
        })
    }

    fn request(&self, method: &str, path: &str) -> Request {
        Request::new(&self.address, method, path)
    }
}

/// The program of nginx. Debian has it in a folder that is not in the `PATH` of every user.
fn nginx() -> Option<PathBuf> {
    let usual = Path::new("/usr/sbin/nginx");
    if usual.is_file() {
        return Some(usual.to_owned());
    }
    let install =
        "nothing is tested behind nginx; on Debian, `apt install nginx-light` installs it";
    match is_required() {
        true => find_program("nginx", install),
        false => {
            let found = find_program("nginx", install);
            if found.is_none() {
                skipped(install);
            }
            found
        }
    }
}

#[test]
fn behind_nginx_pages_streams_cookies_and_the_check_of_the_origin_work() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build"]).run().succeeds();
    let dashboard = Dashboard::start(&naq, &["--trusted-proxy", "127.0.0.1"]);
    let Some(nginx) = Nginx::start(&naq, &dashboard, false) else {
        return;
    };
    let to_login = nginx.request("GET", "/naq/").send().expect(303);
    assert_eq!(to_login.header("location"), Some("/naq/login"));
    let own = format!("http://{}", nginx.address);
    let log_in = |origin: &str| {
        let form = nginx.request("POST", "/naq/login").header("Origin", origin);
        let token = format!("token={}", dashboard.token);
        form.body("application/x-www-form-urlencoded", token).send()
    };
    log_in("http://evil.example").expect(403);
    let logged_in = log_in(&own).expect(303);
    assert_eq!(logged_in.header("location"), Some("/naq/"));
    let set = logged_in.header("set-cookie").unwrap();
    assert!(set.contains("; Path=/naq;"), "{set}");
    let session = cookie(&logged_in);
    let page = nginx
        .request("GET", "/naq/")
        .header("Cookie", &session)
        .send()
        .expect(200)
        .text();
    let assets = page.matches("\"/naq/assets/").count();
    assert!(assets >= 3 && !page.contains("\"/assets/"), "{page}");
    // nothing that a client says reaches the dashboard
    let lies = [
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
    ];
    let form = nginx.request("POST", "/naq/api/queues/build/pause");
    let form = form.header("Cookie", &session).header("Origin", &own);
    with_headers(form, &lies).expect(200);
    let entry = last_entry(&dashboard, 2);
    assert_eq!(entry["action"], "queue.pause");
    // the test is the client of nginx, at the same address
    assert_eq!(
        (&entry["from"], entry.get("forwarded_for")),
        (&json!("127.0.0.1"), None)
    );
    let cross = nginx.request("POST", "/naq/api/queues/build/resume");
    let cross = cross
        .header("Cookie", &session)
        .header("Origin", "http://evil.example");
    cross.send().problem(403, "cross-site");

    // an event arrives although the answer has not ended
    let stream = nginx
        .request("GET", "/naq/api/events")
        .header("Cookie", &session);
    let mut stream = stream.open();
    let (status, _) = read_head(&mut stream);
    assert_eq!(status, 200);
    naq.cli(["enqueue", "-q", "other", "--id", "seen", "--", "true"])
        .run()
        .succeeds();
    let seen = stream
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("\"seen\""));
    assert!(seen);
}

#[test]
fn nginx_logs_users_in_and_the_pages_work_in_a_browser() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let options = [
        "--trusted-proxy",
        "127.0.0.1",
        "--forward-auth-header",
        "X-Forwarded-User",
        "--forward-auth-right",
        "anna=operate",
    ];
    let dashboard = Dashboard::start(&naq, &options);
    let Some(nginx) = Nginx::start(&naq, &dashboard, true) else {
        return;
    };
    // the header of a client is none of nginx
    let forged = nginx
        .request("GET", "/naq/api/me")
        .header("X-Forwarded-User", "anna");
    forged.send().expect(401);
    let basic = "Basic YW5uYTphbm5hcy1wYXNzd29yZA==";
    let as_anna = |path: &str| nginx.request("GET", path).header("Authorization", basic);
    let me = as_anna("/naq/api/me").header("X-Forwarded-User", "bert");
    let me = me.header("X_Forwarded_User", "bert").send().expect(200);
    assert_eq!(me.json(), json!({"name": "anna", "right": "operate"}));

    let add = [
        "schedule",
        "add",
        "--name",
        "nightly",
        "-q",
        "build",
        "--cron",
        "0 3 * * *",
        "--",
        "true",
    ];
    naq.cli(add).run().succeeds();
    let address = format!("http://{}/naq/", nginx.address);
    let Some(mut browsing) = Browsing::start("proxy.mjs", &[&address, "anna", PASSWORD]) else {
        return;
    };
    browsing.expect("live");
    naq.cli(["enqueue", "-q", "build", "--id", "seen", "--", "true"])
        .run()
        .succeeds();
    browsing.expect("seen");
    browsing.expect("good");
    let entry = last_entry(&dashboard, 2);
    assert_eq!(
        (&entry["action"], &entry["who"]),
        (&json!("schedule.pause"), &json!("anna"))
    );
}
