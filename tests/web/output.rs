//! Lines, ranges and searches of stored outputs, and the output of a job as events.

use std::io::BufRead;

use super::Dashboard;
use super::http::read_head;
use crate::harness::naq::{Naq, id};
use crate::harness::nats::TestServer;

/// Runs a job to its end.
fn run(naq: &Naq, job: &str, output: &str, script: &str) {
    let words = [
        "enqueue", "-q", "build", "--id", job, "--output", output, "--", "sh", "-c", script,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_ended(&id(job));
}

/// The bodies of server-sent events.
fn event_data(events: &str) -> Vec<serde_json::Value> {
    let data = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[test]
fn lines_of_a_stored_output_are_read_and_searched() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    // an object of several chunks, and an output within the record
    run(
        &naq,
        "numbers",
        "8M",
        "seq 200000; printf 'one\\nERROR two' >&2",
    );
    let get = |path: &str| dashboard.get(&format!("/api/jobs/numbers/{path}"));
    for (path, text, lines) in [
        (
            "stdout?lines=120000-120002",
            "120000\n120001\n120002\n",
            "120000-120002/200000",
        ),
        (
            "stdout?lines=199999-",
            "199999\n200000\n",
            "199999-200000/200000",
        ),
        ("stdout?lines=1", "1\n", "1-1/200000"),
        ("stdout?tail=2", "199999\n200000\n", "199999-200000/200000"),
        ("stderr?lines=1-9", "one\nERROR two", "1-2/2"),
        ("stderr?tail=1", "ERROR two", "2-2/2"),
    ] {
        let answer = get(path).expect(200);
        assert_eq!(
            (answer.text().as_str(), answer.header("naq-lines")),
            (text, Some(lines))
        );
        let length = text.len().to_string();
        assert_eq!(
            answer.header("content-length"),
            Some(length.as_str()),
            "{path}"
        );
    }
    let many = get("stdout?lines=1-").expect(200);
    assert_eq!(many.header("naq-lines"), Some("1-10000/200000"));
    assert!(many.text().ends_with("\n10000\n"));
    let whole: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(get("stdout").expect(200).text(), whole);
    let part = dashboard
        .request("GET", "/api/jobs/numbers/stdout")
        .header("Range", "bytes=700000-700011");
    assert_eq!(part.send().expect(206).text(), whole[700_000..700_012]);

    let plain = get("stdout?plain&lines=7").expect(200);
    assert_eq!(
        plain.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(plain.header("x-content-type-options"), Some("nosniff"));

    let found = get("search?q=19999").expect(200).json();
    let lines: Vec<u64> = found["matches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| found["line"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (1..=200_000)
        .filter(|n| n.to_string().contains("19999"))
        .collect();
    assert_eq!(lines, expected);
    assert_eq!(
        (&found["is_cut"], &found["next"]),
        (&false.into(), &serde_json::Value::Null)
    );
    let cut = get("search?q=1").expect(200).json();
    assert_eq!(cut["matches"].as_array().unwrap().len(), 10_000);
    assert_eq!(cut["is_cut"], true);
    let next = cut["next"].as_u64().unwrap();
    let rest = get(&format!("search?q=1&from={next}")).expect(200).json();
    let last = &cut["matches"][9_999]["line"];
    assert_eq!(next, last.as_u64().unwrap() + 1);
    assert!(rest["matches"][0]["line"].as_u64().unwrap() >= next);
    let found = get("search?q=error&stream=stderr").expect(200).json();
    assert_eq!(
        found["matches"][0],
        serde_json::json!({"line": 2, "text": "ERROR two"})
    );
    let none = get("search?q=Error&stream=stderr").expect(200).json();
    assert_eq!(none["matches"], serde_json::json!([]));
}

#[test]
fn wrong_requests_for_output_are_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    run(&naq, "short", "1M", "echo one");
    for path in [
        "stdout?lines=0",
        "stdout?lines=3-2",
        "stdout?lines=x",
        "stdout?lines=1&lines=2",
        "stdout?tail=0",
        "stdout?tail=10001",
        "stdout?lines=1&tail=1",
        "stdout?plain=maybe",
        "stderr?line=1",
        "search",
        "search?q=",
        "search?q=a%0Ab",
        "search?q=a&stream=both",
        "search?q=a&from=0",
        "search?q=a&attempt=1",
        "logs?follow=maybe",
        "logs?last_event_id=7",
        "logs?tail=1",
    ] {
        let refused = dashboard.get(&format!("/api/jobs/short/{path}"));
        refused.problem(400, "bad-request");
    }
    for path in [
        "stdout?lines=1",
        "stderr?tail=1",
        "search?q=a",
        "logs",
        "logs?follow",
    ] {
        let missing = dashboard.get(&format!("/api/jobs/none/{path}"));
        missing.problem(404, "not-found");
    }
    for (path, detail) in [
        ("short/stdout?lines=2-", "the output has 1 line"),
        ("short/stderr?lines=1", "the output has 0 lines"),
    ] {
        let beyond = dashboard.get(&format!("/api/jobs/{path}"));
        assert_eq!(beyond.problem(416, "range"), detail);
    }
    // an empty output has no last line
    let empty = dashboard.get("/api/jobs/short/stderr?tail=5").expect(200);
    assert_eq!(empty.text(), "");
}

#[test]
fn missing_bytes_are_reported_where_they_are() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    run(
        &naq,
        "long",
        "1M",
        "echo begin; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end",
    );
    let stdout = dashboard.get("/api/jobs/long/stdout?lines=2").expect(200);
    let number = |name: &str| stdout.header(name).unwrap().parse::<usize>().unwrap();
    let missing = number("naq-missing-bytes");
    assert_eq!(
        stdout.body.len() + "begin\n".len() + "end\n".len() + missing,
        3_000_011
    );
    let kept_before = number("naq-missing-at");
    let lines = dashboard.get("/api/jobs/long/logs").expect(200).text();
    let pieces: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let gap = pieces
        .iter()
        .find(|piece| piece["missing_bytes"] == missing)
        .unwrap();
    assert_eq!(gap["offset"], kept_before);
    let last = pieces.last().unwrap();
    let text = last["text"].as_str().unwrap();
    assert!(text.ends_with("x\nend\n"), "{}", text.len());
    // offsets count the bytes that the job wrote
    assert_eq!(
        last["offset"].as_u64().unwrap() + text.len() as u64,
        3_000_011
    );
}

#[test]
fn output_is_followed_as_events_and_continued_after_the_last_one() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    let flag = naq.home().join("flag");
    let script = format!(
        "echo first; echo oops >&2; while [ ! -e {} ]; do sleep 0.1; done; echo last",
        flag.display()
    );
    let words = [
        "enqueue", "-q", "build", "--id", "talks", "--", "sh", "-c", &script,
    ];
    naq.cli(words).run().succeeds();
    naq.wait_running(&id("talks"));
    let mut stream = dashboard
        .request("GET", "/api/jobs/talks/logs?follow")
        .open();
    let (status, headers) = read_head(&mut stream);
    assert_eq!(status, 200, "{headers:?}");
    let mut seen = String::new();
    for line in stream.lines() {
        let line = line.unwrap();
        seen.push_str(&line);
        seen.push('\n');
        if seen.contains("first") && seen.contains("oops") && !flag.exists() {
            let so_far = dashboard.get("/api/jobs/talks/logs").expect(200);
            assert_eq!(so_far.header("content-type"), Some("application/x-ndjson"));
            assert!(
                so_far.text().contains("\"text\":\"first\\n\""),
                "{so_far:?}"
            );
            std::fs::write(&flag, "").unwrap();
        }
        if seen.contains("event: end\n") && line.is_empty() {
            break;
        }
    }
    let data = event_data(&seen);
    let of = |stream: &str, data: &[serde_json::Value]| -> String {
        let own = data.iter().filter(|piece| piece["stream"] == stream);
        own.map(|piece| piece["text"].as_str().unwrap()).collect()
    };
    assert_eq!(of("stdout", &data), "first\nlast\n", "{seen}");
    assert_eq!(of("stderr", &data), "oops\n", "{seen}");
    // a client that has received the first line only
    let again = |request: super::http::Request| event_data(&request.send().expect(200).text());
    let header = dashboard.request("GET", "/api/jobs/talks/logs?follow");
    let rest = again(header.header("Last-Event-ID", "1.6.0"));
    assert_eq!(
        (of("stdout", &rest), of("stderr", &rest)),
        ("last\n".to_owned(), "oops\n".to_owned())
    );
    let query = dashboard.request("GET", "/api/jobs/talks/logs?follow&last_event_id=1.11.5");
    assert_eq!(again(query), [serde_json::json!({})]);
}

/// The peak memory of the dashboard, in KiB.
fn peak_kib(dashboard: &Dashboard) -> u64 {
    let status = format!("/proc/{}/status", dashboard.process.pid());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

#[test]
fn a_large_output_is_never_in_memory_and_slow_clients_keep_nobody_waiting() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    run(
        &naq,
        "large",
        "2M",
        "head -c 2000000 /dev/zero | tr '\\0' x",
    );
    // larger than any that a worker stores
    let record = dashboard.get("/api/jobs/large").expect(200).json();
    let object = record["stdout"]["object"].as_str().unwrap();
    let line = format!("{}\n", "x".repeat(99));
    let mut bytes = line.repeat(1_000_000).into_bytes();
    bytes.extend_from_slice(b"the needle\n");
    let broker = naq.client().broker();
    naq.block_on(broker.put_object(object, &bytes)).unwrap();

    let before_kib = peak_kib(&dashboard);
    let mut slow = Vec::new();
    for _ in 0..16 {
        // clients that read no more than the head
        let mut stream = dashboard.request("GET", "/api/jobs/large/stdout").open();
        assert_eq!(read_head(&mut stream).0, 200);
        slow.push(stream);
    }
    let last = dashboard.get("/api/jobs/large/stdout?tail=1").expect(200);
    assert_eq!(last.text(), "the needle\n");
    assert_eq!(last.header("naq-lines"), Some("1000001-1000001/1000001"));
    // a slow machine needs several searches of 10 seconds
    let mut from = 1;
    let found = loop {
        let path = format!("/api/jobs/large/search?q=needle&from={from}");
        let found = dashboard.get(&path).expect(200).json();
        match found["next"].as_u64() {
            Some(next) => {
                assert!(next > from, "{found}");
                from = next;
            }
            None => break found,
        }
    };
    assert_eq!(found["matches"][0]["line"], 1_000_001);
    let page = dashboard.get("/jobs/large").expect(200);
    assert!(page.text().contains("<span class=\"t\">the needle</span>"));
    assert!(page.body.len() < 400_000, "{}", page.body.len());
    drop(slow);
    let grown_kib = peak_kib(&dashboard).saturating_sub(before_kib);
    assert!(grown_kib < 48 << 10, "grown by {grown_kib} KiB");
}

#[test]
fn the_page_of_a_long_output_works_without_scripts() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let dashboard = Dashboard::start(&naq, &[]);
    let _worker = naq.cli(["worker", "build", "--quiet"]).follow();
    run(&naq, "numbers", "8M", "seq 200000; echo '<b>OOPS' >&2");
    let get = |query: &str| dashboard.get(&format!("/jobs/numbers{query}"));
    let page = get("").expect(200).text();
    let has = |page: &str, line: u64| page.contains(&format!("id=\"stdout-L{line}\""));
    for (line, is_shown) in [
        (1, true),
        (200, true),
        (201, false),
        (199_800, false),
        (199_801, true),
        (200_000, true),
    ] {
        assert_eq!(has(&page, line), is_shown, "{line}");
    }
    assert!(page.contains("href=\"?stdout=201-#stdout\""), "{page}");
    // a link to lines shows them, marked
    let page = get("?stdout=120000-120002").expect(200).text();
    assert!(
        has(&page, 119_980) && has(&page, 120_300) && !has(&page, 1),
        "{page}"
    );
    let marked: Vec<&str> = page.split("<div class=\"row hit\" id=\"").skip(1).collect();
    assert_eq!(marked.len(), 3);
    assert!(
        marked[0].starts_with("stdout-L120000\"><a class=\"n\" href=\"#stdout-L120000\""),
        "{page}"
    );
    let rows = dashboard
        .get("/jobs/numbers/rows?stream=stdout&from=7&count=2")
        .expect(200)
        .text();
    assert!(
        rows.starts_with("<div class=\"row\" id=\"stdout-L7\">"),
        "{rows}"
    );
    assert_eq!(rows.matches("class=\"row\"").count(), 2, "{rows}");
    let page = get("?q=19999&in=stdout").expect(200).text();
    assert!(
        page.contains("href=\"?q=19999&amp;in=stdout&amp;stdout=119999#stdout-L119999\""),
        "{page}"
    );
    let page = get("?q=oops&in=stderr").expect(200).text();
    assert!(
        page.contains("<span>&lt;b&gt;OOPS</span>") && !page.contains("<b>OOPS"),
        "{page}"
    );
    let page = get("?q=11&in=stdout").expect(200).text();
    assert!(page.contains("Search from line "), "{page}");
    // empty fields of a form select nothing
    get("?q=&in=stdout&stdout=").expect(200);
    for query in [
        "?stdout=0",
        "?stdout=5-2",
        "?in=both",
        "?q=a%0Ab",
        "?from=x",
        "?line=1",
    ] {
        let refused = get(query).expect(400);
        assert!(
            refused
                .header("content-type")
                .unwrap()
                .starts_with("text/html")
        );
    }
    for path in ["rows?count=501", "rows?from=0", "rows?stream=x", "rows?x=1"] {
        dashboard.get(&format!("/jobs/numbers/{path}")).expect(400);
    }
    dashboard.get("/jobs/none/rows").expect(404);
}
