//! Scrapes metrics as Prometheus does, and parses the answer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::harness::find_program;
use crate::harness::nats::TEST_TIMEOUT;

/// The answer to a request: its status, its headers, and its body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends a request with these further header lines.
pub(crate) fn request(address: &str, method: &str, headers: &[&str]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!(
        "{method} /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// The values of one scrape, by name and labels.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    values: BTreeMap<String, f64>,
}

impl Scrape {
    /// Asks for OpenMetrics, and checks that it is well-formed.
    pub(crate) fn of(address: &str) -> Scrape {
        let answer = request(address, "GET", &["Accept: application/openmetrics-text"]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(
            answer
                .head
                .contains("content-type: application/openmetrics-text; version=1.0.0")
        );
        let (text, end) = answer.body.split_once("# EOF\n").unwrap();
        assert_eq!(end, "", "nothing follows the end");
        let mut values = BTreeMap::new();
        let (mut family, mut kind) = ("", "");
        for line in text.lines() {
            if let Some(meta) = line.strip_prefix("# ") {
                let words: Vec<&str> = meta.splitn(3, ' ').collect();
                match words[..] {
                    ["HELP", name, help] => {
                        assert!(
                            text.matches(&format!("# HELP {name} ")).count() == 1,
                            "{name} twice"
                        );
                        assert!(
                            help.ends_with("(of this process).")
                                || help.ends_with("(of the cluster)."),
                            "{help}"
                        );
                        family = name;
                    }
                    ["TYPE", name, of] => {
                        assert_eq!(name, family, "{line}");
                        kind = of;
                    }
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name
                .strip_prefix(family)
                .unwrap_or_else(|| panic!("{line} in {family}"));
            let is_known = match kind {
                "counter" => suffix == "_total",
                "gauge" => suffix.is_empty(),
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                _ => false,
            };
            assert!(is_known, "{line} in the {kind} {family}");
            let value: f64 = value.parse().unwrap();
            assert!(
                values.insert(series.to_owned(), value).is_none(),
                "{series} twice"
            );
        }
        Scrape {
            text: text.to_owned(),
            values,
        }
    }

    /// The value of a time series; 0 if it does not exist.
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.values.get(series).copied().unwrap_or_default()
    }

    /// Asserts the values of time series.
    #[track_caller]
    pub(crate) fn expect(&self, expected: &[(&str, f64)]) {
        for (series, value) in expected {
            assert_eq!(
                self.values.get(*series),
                Some(value),
                "{series} in {}",
                self.text
            );
        }
    }

    /// The time series of a metric that are not 0, with their values.
    pub(crate) fn series(&self, name: &str) -> BTreeMap<&str, f64> {
        let found = self.values.iter().filter(|(series, value)| {
            let rest = series.strip_prefix(name);
            **value != 0.0 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        });
        found
            .map(|(series, value)| (&series[name.len()..], *value))
            .collect()
    }
}

/// Asserts that `promtool`, if it is installed, finds nothing wrong with the text of a scrape.
pub(crate) fn check_by_promtool(address: &str) {
    let Some(promtool) = find_program("promtool", "no scrape is checked by it") else {
        return;
    };
    let answer = request(address, "GET", &[]);
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    #[expect(clippy::disallowed_methods, reason = "a second opinion")]
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(answer.body.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let found = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && found.is_empty(),
        "{found}\n{}",
        answer.body
    );
}
