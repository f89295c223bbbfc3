//! Artifacts: the files that jobs have left.

use super::Dashboard;
use crate::harness::naq::{Naq, id};
use crate::harness::nats::TestServer;

#[test]
fn artifacts_are_listed_and_downloaded_and_never_shown_as_pages() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let script = "mkdir out; echo '<script>alert(1)</script>' > 'out/<b>&\"é.html'; head -c 1200000 /dev/zero > out/zeros";
    let words = [
        "enqueue",
        "-q",
        "build",
        "--id",
        "job",
        "--artifact",
        "out",
        "--",
        "sh",
        "-c",
        script,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_ended(&id("job"));
    let listed = dashboard.get("/api/jobs/job/artifacts").expect(200);
    let listed: serde_json::Value = serde_json::from_str(&listed.text()).unwrap();
    assert_eq!(listed["artifacts"][0]["name"], "out/<b>&\"é.html");
    assert_eq!(listed["artifacts"][1]["bytes"], 1_200_000);
    let path = "/api/jobs/job/artifacts/out%2F%3Cb%3E%26%22%C3%A9.html";
    let page = dashboard.get(path).expect(200);
    assert_eq!(page.text(), "<script>alert(1)</script>\n");
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
        ("content-length", "26"),
        (
            "content-disposition",
            "attachment; filename=\"_b____.html\"; filename*=UTF-8''%3Cb%3E%26%22%C3%A9.html",
        ),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
    let zeros = dashboard
        .get("/api/jobs/job/artifacts/out%2Fzeros")
        .expect(200);
    assert_eq!(zeros.text().len(), 1_200_000);
    for path in [
        "job/artifacts/out",
        "job/artifacts/..%2Fout",
        "job/artifacts/no",
        "no/artifacts",
    ] {
        dashboard.get(&format!("/api/jobs/{path}")).expect(404);
    }
    let shown = dashboard.get("/jobs/job").expect(200).text();
    let link = format!("href=\"{path}\" download>out/&lt;b&gt;&amp;&quot;é.html</a>");
    assert!(shown.contains(&link), "{shown}");
}
