//! Snapshots of jobs as files, and the program that enqueues a job again.

use base64::Engine;
use sha2::{Digest, Sha256};

use super::Dashboard;
use crate::harness::naq::{Naq, id};
use crate::harness::nats::TestServer;
use crate::harness::python::python;

const SECRET: &str = "s3cr3t-v4lue-0f-a-snapshot";

/// The text of markup, without its tags.
fn unescaped(markup: &str) -> String {
    let mut text = markup.to_owned();
    for (reference, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#x27;", "'"),
        ("&#39;", "'"),
        ("&#x2F;", "/"),
        ("&amp;", "&"),
    ] {
        text = text.replace(reference, character);
    }
    text
}

#[test]
fn a_snapshot_has_no_script_no_value_and_the_end_of_the_output() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = naq.home().join("secrets");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("API_TOKEN"), SECRET).unwrap();
    let worker = naq.worker(&["build"]).arg("--secrets-dir");
    let _worker = worker.arg(folder.to_str().unwrap()).spawn();
    let dashboard = Dashboard::start(&naq, &[]);
    let script = "echo \"first$((40 + 2)) $API_TOKEN\"; seq 2 30000; echo \"<script>alert(1)</script> $API_TOKEN\"
printf '\\033[31mred\\033[0m \\342\\200\\256 bidi \\033]8;;javascript:alert(2)\\007link\\n'; exit 3";
    naq.enqueue(&[
        "-q",
        "build",
        "--id",
        "hostile",
        "--output",
        "1M",
        "-e",
        "LEVEL=hunter2-hunter2",
        "--secret",
        "API_TOKEN",
        "-l",
        "team=<img src=x onerror=alert(3)>",
        "--",
        "sh",
        "-c",
        script,
    ]);
    naq.wait_ended(&id("hostile"));

    let answer = dashboard.get("/jobs/hostile/snapshot.html").expect(200);
    let name = Some("attachment; filename=\"hostile.html\"");
    assert_eq!(answer.header("content-disposition"), name);
    let page = answer.text();
    for wrong in ["<script", "<img", "<form", "<button", "\u{202e}", "first42"] {
        assert!(!page.contains(wrong), "{wrong} in {page}");
    }
    for expected in [
        "&lt;script&gt;alert(1)",
        "<span class=\"fg1\">red</span>",
        "failed (exit 3)",
        "The last 1000 lines.",
        "default-src 'none'; style-src",
        // the dashboard it comes from
        &format!("href=\"http://{}/jobs/hostile\"", dashboard.address),
    ] {
        let expected = unescaped(expected);
        assert!(unescaped(&page).contains(&expected), "{expected} in {page}");
    }
    // the style is the one that the policy of the page permits
    let style = page.split("<style>").nth(1).unwrap();
    let style = style.split("</style>").next().unwrap();
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(style));
    assert!(unescaped(&page).contains(&format!("'sha256-{digest}'")));

    let answer = dashboard.get("/jobs/hostile/snapshot.json").expect(200);
    let name = Some("attachment; filename=\"hostile.json\"");
    assert_eq!(answer.header("content-disposition"), name);
    let json = answer.json();
    assert_eq!(json["record"]["state"], "failed");
    assert_eq!(json["record"]["envelope"]["env"]["LEVEL"], "***");
    let tail = &json["stdout_tail"];
    assert_eq!(tail["text"].as_str().unwrap().len(), 64 << 10);
    assert!(tail["skipped_bytes"].as_u64().unwrap() > 64 << 10, "{tail}");
    for shown in [page, answer.text()] {
        for value in [SECRET, "hunter2"] {
            assert!(!shown.contains(value), "{value} in {shown}");
        }
    }

    for extension in ["html", "json"] {
        let path = |job| format!("/jobs/{job}/snapshot.{extension}");
        dashboard.get(&path("none")).expect(404);
        dashboard.get(&path("a.b")).expect(400);
        let page = dashboard.get("/jobs/hostile").expect(200).text();
        let link = format!("href=\"{}\"", path("hostile"));
        assert!(page.contains(&link), "{page}");
    }
    // a job that has not ended has no output yet
    naq.enqueue(&["-q", "other", "--id", "waits", "--", "true"]);
    let page = dashboard.get("/jobs/waits/snapshot.html").expect(200);
    assert!(page.text().contains("Why it does not run"), "{page:?}");
    let waits = dashboard.get("/jobs/waits/snapshot.json").expect(200);
    assert!(waits.json().get("stdout_tail").is_none(), "{waits:?}");
}

#[test]
fn the_program_on_the_page_of_a_job_enqueues_it_again() {
    let requirements =
        std::path::Path::new(crate::ROOT).join("examples/python-producer/requirements.txt");
    let python = python("python-producer", &requirements);
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let dashboard = Dashboard::start(&naq, &[]);
    let argument = "it's \"''' a \\ \u{202e} é\n{}";
    naq.enqueue(&[
        "-q", "build", "--id", "first", "-l", "team=x", "--", "printf", "%s", argument,
    ]);
    naq.wait_ended(&id("first"));
    let page = dashboard.get("/jobs/first").expect(200).text();
    let program = page
        .split("aria-label=\"With Python\" data-copy>")
        .nth(1)
        .unwrap();
    let program = unescaped(program.split("</pre>").next().unwrap());
    let file = naq.file("again.py", &program);
    #[expect(clippy::disallowed_methods, reason = "the Python of a user")]
    let mut command = std::process::Command::new(python);
    let ran = command
        .arg(&file)
        .env("NAQ_NATS_URL", server.url())
        .env("NAQ_TOKEN", server.token())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}\n{program}");
    let again = id(String::from_utf8(ran.stdout).unwrap().trim());
    naq.wait_ended(&again);
    let output = dashboard
        .get(&format!("/api/jobs/{again}/stdout"))
        .expect(200);
    assert_eq!(output.text(), argument);
    let record = dashboard.get(&format!("/api/jobs/{again}")).json();
    assert_eq!(record["labels"]["team"], "x");
}
