//! Every zone of the newest release of the time zone database, in naq and in Python.

use std::process::Command;

use serde_json::Value;

use super::file;
use crate::harness::nats::naq;
use crate::harness::python::python;

/// The days that are compared: a year and a month.
const DAYS: usize = 400;

#[test]
fn every_zone_of_a_named_folder_is_read_as_python_reads_it() {
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    #[expect(clippy::disallowed_methods, reason = "the test compares two programs")]
    let program = |name: &std::path::Path| Command::new(name);
    let days = DAYS.to_string();
    let printed = run(program(&python("cron", &file("requirements.txt")))
        .arg(file("zones.py"))
        .args(["2026-01-02", &days])
        // Use the zones of the package, and not those of the machine.
        .env("PYTHONTZPATH", ""));
    let mut lines = printed.lines();
    let folder = lines.next().unwrap();
    let mut count = 0;
    for line in lines {
        let expected: Value = serde_json::from_str(line).unwrap();
        let zone = expected["zone"].as_str().unwrap();
        let from = "2026-01-02 00:00";
        let printed = run(program(naq())
            .env_clear()
            .env("NAQ_TZDIR", folder)
            .args(["cron", "next", "0 9 * * *", "--tz", zone, "--from", from])
            .args(["--count", &days]));
        // UTC alone is written with a Z.
        let found: Vec<Value> = printed
            .lines()
            .map(|time| time.replace('Z', "+00:00").into())
            .collect();
        assert_eq!(Value::Array(found), expected["times"], "{zone}");
        count += 1;
    }
    assert!(count > 500, "only {count} zones");
    let version = run(program(naq())
        .env_clear()
        .env("NAQ_TZDIR", folder)
        .arg("version"));
    assert!(
        version.contains(&format!("tzdata 2026f, {folder}")),
        "{version}"
    );
}
