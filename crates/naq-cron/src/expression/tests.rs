//! Expressions, their matches and their explanations, one by one.

#![expect(clippy::too_many_lines, reason = "tables of expressions")]

use super::*;

fn zone(name: &str) -> Timezone {
    name.parse().unwrap()
}

fn moment(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The matches after an instant.
pub(super) fn times(
    cron: &Cron,
    zone: Timezone,
    after: DateTime<Utc>,
) -> impl Iterator<Item = DateTime<Utc>> {
    std::iter::successors(cron.next_after(after, zone), move |last| {
        cron.next_after(*last, zone)
    })
}

fn next(text: &str, name: &str, after: &str, count: usize) -> Vec<String> {
    let (cron, zone) = (Cron::parse(text).unwrap(), zone(name));
    times(&cron, zone, moment(after))
        .take(count)
        .map(|moment| zone.format(moment))
        .collect()
}

#[test]
fn forms_of_other_implementations_are_named() {
    for (text, cause) in [
        ("@reboot", "@reboot is not supported"),
        ("@every 5m", "an interval after @"),
        ("@every_minute", "an interval after @"),
        ("@300", "an interval after @"),
        (
            "0~59 * * * *",
            "minute (field 1) \"0~59\": a random value (~)",
        ),
        ("0 ~ * * *", "hour (field 2) \"~\": a random value (~)"),
        (
            "H H(0-7) * * *",
            "minute (field 1) \"H\": a hashed value (H)",
        ),
        ("0 h/6 * * *", "hour (field 2) \"h/6\": a hashed value (H)"),
    ] {
        let error = Cron::parse(text).unwrap_err();
        assert!(error.is_other_dialect(), "{error}");
        assert!(error.to_string().contains(cause), "{error}");
    }
    for text in ["@fortnightly", "61 * * * *", "0 HOUR * * *", "* * * *", ""] {
        let error = Cron::parse(text).unwrap_err();
        assert!(!error.is_other_dialect(), "{error}");
    }
}

#[test]
fn an_expression_that_never_matches_differs_from_an_invalid_one() {
    assert!(Cron::parse("0 0 30 2 *").unwrap_err().never_matches());
    assert!(!Cron::parse("0 0 32 1 *").unwrap_err().never_matches());
}

#[test]
fn cron_expressions_match() {
    for (text, after, expected) in [
        ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        (
            "* * * * *",
            "2026-01-01T00:00:00.5Z",
            "2026-01-01T00:01:00Z",
        ),
        (
            "* * * * * *",
            "2026-01-01T00:00:00.5Z",
            "2026-01-01T00:00:01Z",
        ),
        (
            "* * * * * *",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:01Z",
        ),
        (
            "*/20 30 4 * * *",
            "2026-01-01T04:30:20Z",
            "2026-01-01T04:30:40Z",
        ),
        ("0 4 * * *", "2026-01-01T04:00:00Z", "2026-01-02T04:00:00Z"),
        ("0 4 * * *", "2026-12-31T04:00:00Z", "2027-01-01T04:00:00Z"),
        (
            "  0\t4 * *  * ",
            "2026-01-01T04:00:00Z",
            "2026-01-02T04:00:00Z",
        ),
        (
            "05 04 * jan,FEB Mon-fri",
            "2026-02-27T04:05:00Z",
            "2027-01-01T04:05:00Z",
        ),
        // 1 January 2026 was a Thursday
        ("0 0 * * 0", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        (
            "0 0 * * SAT-SUN",
            "2026-01-03T00:00:00Z",
            "2026-01-04T00:00:00Z",
        ),
        (
            "0 0 * * 5-7/2",
            "2026-01-02T00:00:00Z",
            "2026-01-04T00:00:00Z",
        ),
        (
            "0 0 ? * MON",
            "2026-01-01T00:00:00Z",
            "2026-01-05T00:00:00Z",
        ),
        ("0 0 1 * ?", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
        ("0 0 L * *", "2028-02-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        // 31 January 2026 was a Saturday, 1 February a Sunday, 28 February a Saturday
        ("0 0 LW * *", "2026-01-01T00:00:00Z", "2026-01-30T00:00:00Z"),
        (
            "0 0 31W * *",
            "2026-01-01T00:00:00Z",
            "2026-01-30T00:00:00Z",
        ),
        (
            "0 0 31W * *",
            "2026-02-01T00:00:00Z",
            "2026-03-31T00:00:00Z",
        ),
        ("0 0 1W * *", "2026-01-31T00:00:00Z", "2026-02-02T00:00:00Z"),
        ("0 0 1W * *", "2026-07-31T00:00:00Z", "2026-08-03T00:00:00Z"),
        (
            "0 0 15W * *",
            "2026-02-01T00:00:00Z",
            "2026-02-16T00:00:00Z",
        ),
        (
            "0 0 14w * *",
            "2026-02-01T00:00:00Z",
            "2026-02-13T00:00:00Z",
        ),
        (
            "0 0 L,LW * *",
            "2026-01-01T00:00:00Z",
            "2026-01-30T00:00:00Z",
        ),
        (
            "0 0 L,LW * *",
            "2026-01-30T00:00:00Z",
            "2026-01-31T00:00:00Z",
        ),
        (
            "0 0 * * FRI#2",
            "2026-01-01T00:00:00Z",
            "2026-01-09T00:00:00Z",
        ),
        (
            "0 0 * * 7#5",
            "2026-01-01T00:00:00Z",
            "2026-03-29T00:00:00Z",
        ),
        ("0 0 * * 5l", "2026-01-01T00:00:00Z", "2026-01-30T00:00:00Z"),
        // Either of the two day fields must match, since neither begins with a star.
        ("0 0 13 * 5", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"),
        ("0 0 13 * 5", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"),
        (
            "0 0 1-31 * 1",
            "2026-01-01T00:00:00Z",
            "2026-01-02T00:00:00Z",
        ),
        (
            "0 0 2,* * 1",
            "2026-01-01T00:00:00Z",
            "2026-01-02T00:00:00Z",
        ),
        // Both must match, since one begins with a star.
        (
            "0 0 */2 * 1",
            "2026-01-01T00:00:00Z",
            "2026-01-05T00:00:00Z",
        ),
        (
            "0 0 13 * */5",
            "2026-01-01T00:00:00Z",
            "2026-02-13T00:00:00Z",
        ),
        (
            "0 0 *,2 * 1",
            "2026-01-01T00:00:00Z",
            "2026-01-05T00:00:00Z",
        ),
        (
            "0 0 29 2 */7",
            "2026-01-01T00:00:00Z",
            "2032-02-29T00:00:00Z",
        ),
        ("0 0 29 2 *", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"),
        ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
        ("@daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("@Midnight", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ("@monthly", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
        ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("@annually", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    ] {
        assert_eq!(
            next(text, "UTC", after, 1),
            [expected],
            "{text} after {after}"
        );
    }
}

#[test]
fn cron_error_names_the_field() {
    for (text, expected) in [
        ("61 * * * *", r#"minute (field 1) "61": must be 0 to 59"#),
        ("* 24 * * *", r#"hour (field 2) "24": must be 0 to 23"#),
        ("0 * 24 * * *", r#"hour (field 3) "24": must be 0 to 23"#),
        ("60 * * * * *", r#"second (field 1) "60": must be 0 to 59"#),
        (
            "* * 0 * *",
            r#"day of month (field 3) "0": must be 1 to 31, L, LW or a day with W such as 15W"#,
        ),
        (
            "* * 32W * *",
            r#"day of month (field 3) "32W": must be 1 to 31, L, LW or a day with W such as 15W"#,
        ),
        (
            "* * * 13 *",
            r#"month (field 4) "13": must be 1 to 12 or JAN to DEC"#,
        ),
        (
            "* * * january *",
            r#"month (field 4) "january": must be 1 to 12 or JAN to DEC"#,
        ),
        (
            "* * * * 8",
            r#"day of week (field 5) "8": must be 0 to 7 (0 and 7 are Sunday) or SUN to SAT"#,
        ),
        (
            "0 * * * * XYZ",
            r#"day of week (field 6) "XYZ": must be 0 to 7 (0 and 7 are Sunday) or SUN to SAT"#,
        ),
        (
            "* * * * L",
            r#"day of week (field 5) "L": L needs a day; 5L is the last Friday of the month"#,
        ),
        (
            "* * * * 5#6",
            r#"day of week (field 5) "5#6": the number after # must be 1 to 5"#,
        ),
        ("* L * * *", r#"hour (field 2) "L": must be 0 to 23"#),
        ("* ? * * *", r#"hour (field 2) "?": must be 0 to 23"#),
        (
            "0,15,61 * * * *",
            r#"minute (field 1) "61": must be 0 to 59"#,
        ),
        (
            "0,,15 * * * *",
            r#"minute (field 1) "": one side of a comma is empty"#,
        ),
        (
            "10-5 * * * *",
            r#"minute (field 1) "10-5": a range must go upwards; write 10-59,0-5"#,
        ),
        (
            "* 22-2 * * *",
            r#"hour (field 2) "22-2": a range must go upwards; write 22-23,0-2"#,
        ),
        (
            "* * * * FRI-MON",
            r#"day of week (field 5) "FRI-MON": a range must go upwards; write 5-7,0-1"#,
        ),
        (
            "* * * * 7-3",
            r#"day of week (field 5) "7-3": a range must go upwards; write 0-3"#,
        ),
        (
            "* 22-2/2 * * *",
            r#"hour (field 2) "22-2/2": a range must go upwards"#,
        ),
        (
            "1-2-3 * * * *",
            r#"minute (field 1) "1-2-3": must be 0 to 59"#,
        ),
        ("-5 * * * *", r#"minute (field 1) "-5": must be 0 to 59"#),
        (
            "*/0 * * * *",
            r#"minute (field 1) "*/0": a step must be 1 to 60"#,
        ),
        (
            "*/90 * * * *",
            r#"minute (field 1) "*/90": a step must be 1 to 60"#,
        ),
        (
            "*/2/3 * * * *",
            r#"minute (field 1) "*/2/3": a step must be 1 to 60"#,
        ),
        (
            "5/15 * * * *",
            r#"minute (field 1) "5/15": a step needs * or a range; write 5-59/15"#,
        ),
        ("+5 * * * *", r#"minute (field 1) "+5": must be 0 to 59"#),
        (
            "00005 * * * *",
            r#"minute (field 1) "00005": must be 0 to 59"#,
        ),
        (
            "* * * * * * 2026",
            "has 7 fields; a field for years is not supported, there must be 5 fields, or 6 with seconds first",
        ),
        (
            "* * * *",
            "has 4 fields; there must be 5 (minute, hour, day of month, month, day of week), or 6 with seconds first",
        ),
        (
            "often",
            "has 1 field; there must be 5 (minute, hour, day of month, month, day of week), or 6 with seconds first",
        ),
        (" ", "is empty; there must be 5 fields, such as 0 4 * * *"),
        (
            "@REBOOT",
            "@reboot is not supported: schedulers start and stop at any time, on any machine",
        ),
        (
            "@fortnightly",
            "must be @yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly",
        ),
        ("0 0 30 2 *", "never matches: no such month has such a day"),
        (
            "0 0 31 2,4,6,9,11 *",
            "never matches: no such month has such a day",
        ),
        ("0 0 31W */2 *", ""),
        ("0 0 30W 2 *", "never matches: no such month has such a day"),
    ] {
        let trimmed = text.trim();
        let parsed = Cron::parse(text).map_err(|error| error.to_string());
        if expected.is_empty() {
            assert!(parsed.is_ok(), "{text}: {parsed:?}");
        } else {
            let expected = format!("cron expression \"{trimmed}\": {expected}");
            assert_eq!(parsed, Err(expected));
        }
    }
}

#[test]
fn cron_expressions_are_explained_in_english() {
    for (text, expected) in [
        ("* * * * *", "Every minute."),
        ("*/15 * * * *", "Every 15 minutes."),
        ("*/7 * * * *", "Every 7 minutes from 0 to 56 of every hour."),
        ("0 * * * *", "Every hour."),
        ("@hourly", "Every hour."),
        ("0 */2 * * *", "Every 2 hours."),
        ("0 */5 * * *", "Every 5 hours from 0 to 20."),
        ("30 * * * *", "At minute 30 of every hour."),
        (
            "30 8-19/2 * * MON-FRI",
            "At minute 30 of every 2nd hour from 8 to 18, from Monday to Friday.",
        ),
        (
            "*/15 9-17 * * *",
            "Every 15 minutes of every hour from 9 to 17.",
        ),
        ("* 5 * * *", "Every minute of hour 5."),
        (
            "5,10-20 * * * *",
            "At minute 5 and every minute from 10 to 20 of every hour.",
        ),
        ("*/5 * * * * *", "Every 5 seconds."),
        ("30 * * * * *", "At second 30 of every minute."),
        ("0 * * * * *", "Every minute."),
        ("*/10 */5 * * * *", "Every 10 seconds of every 5th minute."),
        ("*/10 * 5 * * *", "Every 10 seconds of hour 5."),
        ("0 2 * * *", "At 02:00 every day."),
        ("@daily", "At 00:00 every day."),
        ("30 0 12 * * *", "At 12:00:30 every day."),
        ("0 18,12,8 * * *", "At 08:00, 12:00 and 18:00 every day."),
        ("0 9 * * 1-5", "At 09:00 from Monday to Friday."),
        ("0 9 * * SAT-SUN", "At 09:00 on Saturday and Sunday."),
        ("0 9 * * 1,3,5", "At 09:00 on Monday, Wednesday and Friday."),
        ("0 0 1 1 *", "At 00:00 on day 1 of the month, in January."),
        (
            "0 4 8-14 6-8 *",
            "At 04:00 on days 8 to 14 of the month, from June to August.",
        ),
        (
            "0 0 1 */4 *",
            "At 00:00 on day 1 of the month, in January, May and September.",
        ),
        (
            "0 0 1,L * *",
            "At 00:00 on day 1 of the month and the last day of the month.",
        ),
        (
            "0 0 LW * *",
            "At 00:00 on the last day from Monday to Friday of the month.",
        ),
        (
            "0 0 15W * *",
            "At 00:00 on the day from Monday to Friday nearest to day 15 of the month.",
        ),
        ("0 0 * * 5#2", "At 00:00 on the second Friday of the month."),
        ("0 0 * * 5L", "At 00:00 on the last Friday of the month."),
        (
            "0 0 1,15 * 3",
            "At 00:00 on days 1 and 15 of the month, and also on Wednesday.",
        ),
        (
            "0 0 */2 * 1",
            "At 00:00 on every 2nd day of the month from 1 that falls on Monday.",
        ),
        ("0 0 1-31 * 1", "At 00:00 every day."),
    ] {
        assert_eq!(Cron::parse(text).unwrap().explain(), expected, "{text}");
    }
}

#[test]
fn skipped_time_matches_once_when_clocks_go_forward() {
    for (text, name, after, expected) in [
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            vec!["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
        ),
        (
            "*/10 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            vec!["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"],
        ),
        (
            "0 2,3 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            vec!["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"],
        ),
        (
            "30 1-3 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            vec![
                "2026-03-29T01:30:00+01:00",
                "2026-03-29T03:00:00+02:00",
                "2026-03-29T03:30:00+02:00",
                "2026-03-30T01:30:00+02:00",
            ],
        ),
        (
            "0 2 * * 1-5",
            "America/New_York",
            "2026-03-06T12:00:00Z",
            vec!["2026-03-09T02:00:00-04:00"],
        ),
        (
            "0 2 * * 0",
            "America/New_York",
            "2026-03-06T12:00:00Z",
            vec!["2026-03-08T03:00:00-04:00", "2026-03-15T02:00:00-04:00"],
        ),
        (
            "30 59 2 * * *",
            "America/New_York",
            "2026-03-08T05:00:00Z",
            vec!["2026-03-08T03:00:00-04:00", "2026-03-09T02:59:30-04:00"],
        ),
        // half an hour
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T12:00:00Z",
            vec!["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"],
        ),
        // a whole day
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29T12:00:00-10:00",
            vec!["2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"],
        ),
        (
            "0 0 30 12 *",
            "Pacific/Apia",
            "2011-12-29T12:00:00-10:00",
            vec!["2011-12-31T00:00:00+14:00", "2012-12-30T00:00:00+14:00"],
        ),
        // midnight
        (
            "0 0 * * *",
            "Asia/Beirut",
            "2026-03-28T12:00:00Z",
            vec!["2026-03-29T01:00:00+03:00", "2026-03-30T00:00:00+03:00"],
        ),
        (
            "@daily",
            "America/Sao_Paulo",
            "2017-10-14T12:00:00Z",
            vec!["2017-10-15T01:00:00-02:00", "2017-10-16T00:00:00-02:00"],
        ),
        // two hours
        (
            "30 1-2 * * *",
            "Antarctica/Troll",
            "2026-03-28T12:00:00Z",
            vec!["2026-03-29T03:00:00+02:00", "2026-03-30T01:30:00+02:00"],
        ),
    ] {
        assert_eq!(
            next(text, name, after, expected.len()),
            expected,
            "{text} {name}"
        );
    }
}

#[test]
fn repeated_time_matches_the_first_time_only() {
    for (text, name, after, expected) in [
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            vec!["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-25T02:00:00+01:00",
            vec!["2026-10-26T02:30:00+01:00"],
        ),
        (
            "*/30 1-3 * * *",
            "Europe/Berlin",
            "2026-10-25T02:00:00+02:00",
            vec![
                "2026-10-25T02:30:00+02:00",
                "2026-10-25T03:00:00+01:00",
                "2026-10-25T03:30:00+01:00",
            ],
        ),
        (
            "30 0-23 * * *",
            "America/New_York",
            "2026-11-01T04:00:00Z",
            vec![
                "2026-11-01T00:30:00-04:00",
                "2026-11-01T01:30:00-04:00",
                "2026-11-01T02:30:00-05:00",
            ],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T12:00:00Z",
            vec!["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"],
        ),
        (
            "@daily",
            "America/Sao_Paulo",
            "2018-02-17T12:00:00Z",
            vec!["2018-02-18T00:00:00-03:00"],
        ),
        (
            "59 23 * * *",
            "America/Sao_Paulo",
            "2018-02-17T12:00:00Z",
            vec!["2018-02-17T23:59:00-02:00", "2018-02-18T23:59:00-03:00"],
        ),
    ] {
        assert_eq!(
            next(text, name, after, expected.len()),
            expected,
            "{text} {name}"
        );
    }
}

#[test]
fn wildcard_hour_matches_by_elapsed_time() {
    let every = |text, minutes, name, after| {
        let (cron, zone, after) = (Cron::parse(text).unwrap(), zone(name), moment(after));
        let mut last = after;
        for time in times(&cron, zone, after).take(60) {
            assert_eq!((time - last).num_minutes(), minutes, "{text} {name} {time}");
            last = time;
        }
    };
    for (name, change) in [
        ("Europe/Berlin", "2026-03-28T20:00:00Z"),
        ("Europe/Berlin", "2026-10-24T20:00:00Z"),
        ("America/New_York", "2026-03-08T00:00:00Z"),
        ("America/New_York", "2026-11-01T00:00:00Z"),
        ("America/Sao_Paulo", "2017-10-14T20:00:00Z"),
        ("America/Sao_Paulo", "2018-02-17T20:00:00Z"),
        ("Pacific/Apia", "2011-12-30T00:00:00Z"),
    ] {
        every("*/15 * * * *", 15, name, change);
        every("* * * * *", 1, name, change);
        every("0 * * * *", 60, name, change);
        every("0 */1 * * *", 60, name, change);
    }
    for change in ["2026-04-04T10:00:00Z", "2026-10-03T10:00:00Z"] {
        every("*/15 * * * *", 15, "Australia/Lord_Howe", change);
    }
    // 02:00 is skipped, and occurs twice.
    assert_eq!(
        next("0 */2 * * *", "Europe/Berlin", "2026-03-28T23:00:00Z", 2),
        ["2026-03-29T04:00:00+02:00", "2026-03-29T06:00:00+02:00"]
    );
    assert_eq!(
        next("0 */2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", 3),
        [
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T04:00:00+01:00"
        ]
    );
}

#[test]
fn first_and_last_representable_times_are_handled() {
    let cron = Cron::parse("0 0 1 1 *").unwrap();
    let utc = |moment| {
        cron.next_after(moment, Timezone::UTC)
            .map(|next| next.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    };
    assert_eq!(utc(chrono::DateTime::<chrono::Utc>::MAX_UTC), None);
    assert_eq!(utc(moment("9999-01-01T00:00:00Z")), None);
    assert_eq!(
        utc(moment("9998-01-01T00:00:00Z")).as_deref(),
        Some("9999-01-01T00:00:00.000Z")
    );
    assert_eq!(
        utc(chrono::DateTime::<chrono::Utc>::MIN_UTC).as_deref(),
        Some("0001-01-01T00:00:00.000Z")
    );
    for name in crate::timezone_names() {
        let zone: Timezone = name.parse().unwrap();
        for text in ["* * * * * *", "59 59 23 31 12 *", "59 59 23-23 31 12 *"] {
            let cron = Cron::parse(text).unwrap();
            let _ = cron.next_after(moment("9999-12-31T23:59:58Z"), zone);
            let _ = cron.next_after(chrono::DateTime::<chrono::Utc>::MIN_UTC, zone);
        }
    }
}

#[test]
fn timezone_is_found_by_name_or_suggested() {
    assert_eq!(Timezone::default().to_string(), "UTC");
    for (name, expected) in [
        ("europe/berlin", "did you mean `Europe/Berlin`?"),
        ("Europe/Berln", "did you mean `Europe/Berlin`?"),
        ("berlin", "did you mean `Europe/Berlin`?"),
        ("new york", "did you mean `America/New_York`?"),
        ("utc", "did you mean `UTC`?"),
        (
            "+02:00",
            "a zone has a name such as UTC, Europe/Berlin or America/New_York",
        ),
        (
            "",
            "a zone has a name such as UTC, Europe/Berlin or America/New_York",
        ),
    ] {
        assert_eq!(
            name.parse::<Timezone>().unwrap_err().to_string(),
            format!("there is no time zone `{name}`; {expected}")
        );
    }
}
