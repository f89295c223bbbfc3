//! Properties of every expression, zone and instant, against a slow reference implementation.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use proptest::prelude::*;

use crate::expression::tests::times;
use crate::expression::*;
use crate::timezone::Timezone;

/// The text of a field that has only numbers.
fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
    let value = min..=max;
    let range = (min..=max, min..=max).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let item = prop_oneof![
        4 => value.prop_map(|value| value.to_string()),
        2 => range.clone().prop_map(|(from, to)| format!("{from}-{to}")),
        2 => (range, 1..=max - min).prop_map(|((from, to), step)| format!("{from}-{to}/{step}")),
        2 => (1..=max - min).prop_map(|step| format!("*/{step}")),
    ];
    prop_oneof![
        3 => Just("*".to_owned()),
        4 => item.clone(),
        2 => proptest::collection::vec(item, 2..4).prop_map(|items| items.join(",")),
    ]
}

fn day() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => field(1, 31),
        1 => Just("L".to_owned()),
        1 => Just("LW".to_owned()),
        1 => (1..=31).prop_map(|day| format!("{day}W")),
        1 => (1..=28, 1..=31).prop_map(|(a, b)| format!("{a},{b}W")),
    ]
}

fn weekday() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("*".to_owned()),
        5 => field(0, 7),
        1 => (0..=7).prop_map(|day| format!("{day}L")),
        1 => (0..=7, 1..=5).prop_map(|(day, nth)| format!("{day}#{nth}")),
    ]
}

/// Expressions that match some time.
fn expression() -> impl Strategy<Value = String> {
    let month = prop_oneof![3 => Just("*".to_owned()), 1 => field(1, 12)];
    (field(0, 59), field(0, 23), day(), month, weekday())
        .prop_map(|(minute, hour, day, month, weekday)| {
            format!("{minute} {hour} {day} {month} {weekday}")
        })
        .prop_filter("matches", |text| Cron::parse(text).is_ok())
}

/// A slow second implementation of expressions: it checks each field for each time.
struct ReferenceCron {
    fields: Vec<String>,
    days_match_both: bool,
    hour_is_wildcard: bool,
}

impl ReferenceCron {
    fn new(text: &str) -> ReferenceCron {
        let fields: Vec<String> = text.split(' ').map(str::to_owned).collect();
        ReferenceCron {
            days_match_both: fields[2].starts_with('*') || fields[4].starts_with('*'),
            hour_is_wildcard: fields[1].starts_with('*'),
            fields,
        }
    }

    fn matches(&self, clock: NaiveDateTime) -> bool {
        let plain = |field: usize, min, max, value| {
            self.fields[field]
                .split(',')
                .any(|item| named(item, min, max, value))
        };
        plain(0, 0, 59, clock.minute())
            && plain(1, 0, 23, clock.hour())
            && plain(3, 1, 12, clock.month())
            && self.is_day(clock.date())
    }

    fn is_day(&self, date: NaiveDate) -> bool {
        let by_day = self.fields[2].split(',').any(|item| match item {
            "L" => is_last_of_month(date),
            "LW" => date == nearest_workday(last_of_month(date)),
            item => match item.strip_suffix('W') {
                Some(day) => date
                    .with_day(day.parse().unwrap())
                    .is_some_and(|day| date == nearest_workday(day)),
                None => named(item, 1, 31, date.day()),
            },
        });
        let weekday = date.weekday().num_days_from_sunday();
        let is_weekday = |text: &str| text.parse::<u32>().unwrap() % 7 == weekday;
        let by_weekday = self.fields[4].split(',').any(|item| {
            if let Some(day) = item.strip_suffix('L') {
                is_weekday(day) && (date + TimeDelta::days(7)).month() != date.month()
            } else if let Some((day, nth)) = item.split_once('#') {
                is_weekday(day) && (date.day() - 1) / 7 + 1 == nth.parse::<u32>().unwrap()
            } else {
                named(item, 0, 7, weekday) || (weekday == 0 && named(item, 0, 7, 7))
            }
        });
        if self.days_match_both {
            by_day && by_weekday
        } else {
            by_day || by_weekday
        }
    }
}

fn named(item: &str, min: u32, max: u32, value: u32) -> bool {
    let (range, step) = item.split_once('/').unwrap_or((item, "1"));
    let (from, to) = match range.split_once('-') {
        Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
        None if range == "*" => (min, max),
        None => (range.parse().unwrap(), range.parse().unwrap()),
    };
    (from..=to).contains(&value) && (value - from).is_multiple_of(step.parse().unwrap())
}

fn is_last_of_month(date: NaiveDate) -> bool {
    (date + TimeDelta::days(1)).day() == 1
}

fn last_of_month(date: NaiveDate) -> NaiveDate {
    date.iter_days().find(|day| is_last_of_month(*day)).unwrap()
}

fn nearest_workday(date: NaiveDate) -> NaiveDate {
    [0, -1, 1, -2, 2]
        .map(|days| date + TimeDelta::days(days))
        .into_iter()
        .find(|day| day.month() == date.month() && day.weekday().number_from_monday() <= 5)
        .unwrap()
}

/// The local time, by the data of the zone alone.
fn shown(zone: Timezone, moment: NaiveDateTime) -> NaiveDateTime {
    let offset = zone.utc_offset(moment.and_utc());
    moment + TimeDelta::seconds(offset.local_minus_utc().into())
}

/// The matches of an expression within a span of minutes, by checking every minute of the span and
/// of three days around it.
fn every_minute(
    reading: &ReferenceCron,
    zone: Timezone,
    from: NaiveDateTime,
    minutes: i64,
) -> BTreeSet<NaiveDateTime> {
    let around = 3 * 24 * 60;
    let moments: Vec<(NaiveDateTime, NaiveDateTime)> = (-around..minutes + around)
        .map(|minute| from + TimeDelta::minutes(minute))
        .map(|moment| (moment, shown(zone, moment)))
        .collect();
    let mut times = BTreeSet::new();
    if reading.hour_is_wildcard {
        times.extend(
            moments
                .iter()
                .filter(|(_, clock)| reading.matches(*clock))
                .map(|(moment, _)| *moment),
        );
    } else {
        // Every local time has one instant: the first at which clocks have reached it.
        let mut clock = moments[0].1;
        for (moment, shows) in &moments {
            while clock <= *shows {
                if reading.matches(clock) {
                    times.insert(*moment);
                }
                clock += TimeDelta::minutes(1);
            }
        }
    }
    let until = from + TimeDelta::minutes(minutes);
    times.retain(|moment| (from..until).contains(moment));
    times
}

/// A zone, and the hour before its offset changes in some year, or any hour if it does not change.
fn change() -> impl Strategy<Value = (Timezone, NaiveDateTime)> {
    let notable = prop::sample::select(vec![
        ("Europe/Berlin", 2026),
        ("America/New_York", 2026),
        ("Australia/Lord_Howe", 2026),
        ("Pacific/Apia", 2011),
        ("Pacific/Kwajalein", 1993),
        ("Asia/Beirut", 2026),
        ("America/Sao_Paulo", 2018),
        ("Antarctica/Troll", 2026),
        ("Africa/Casablanca", 2026),
        ("Asia/Pyongyang", 2018),
        ("America/Caracas", 2016),
        ("UTC", 2026),
    ])
    .prop_map(|(name, year)| (name.parse::<Timezone>().unwrap(), year));
    let other = (prop::sample::select(crate::timezone_names()), 1975..2038);
    let other = other.prop_map(|(name, year)| (name.parse().unwrap(), year));
    (prop_oneof![notable, other], any::<prop::sample::Index>()).prop_map(|((zone, year), index)| {
        let begin = NaiveDate::from_ymd_opt(year, 1, 1)
            .unwrap()
            .and_time(NaiveTime::MIN);
        let offset = |hour: i64| zone.utc_offset((begin + TimeDelta::hours(hour)).and_utc());
        let changes: Vec<i64> = (0..366 * 24)
            .filter(|hour| offset(*hour) != offset(hour + 1))
            .collect();
        let hour = match changes.len() {
            0 => i64::try_from(index.index(366 * 24)).unwrap(),
            count => changes[index.index(count)],
        };
        (zone, begin + TimeDelta::hours(hour))
    })
}

fn clock() -> impl Strategy<Value = NaiveDateTime> {
    (0_i64..4_102_444_800).prop_map(|seconds| {
        chrono::DateTime::from_timestamp(seconds, 0)
            .unwrap()
            .naive_utc()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Around a change of clocks, no match is missed, added or repeated.
    #[test]
    fn matches_around_a_clock_change_follow_the_rules(
        text in expression(),
        (zone, change) in change(),
        hours_before in 1_i64..40,
    ) {
        let reading = ReferenceCron::new(&text);
        let (from, minutes) = (change - TimeDelta::hours(hours_before), 80 * 60);
        let expected = every_minute(&reading, zone, from, minutes);
        let cron = Cron::parse(&text).unwrap();
        let until = from + TimeDelta::minutes(minutes);
        let begin = (from - TimeDelta::seconds(1)).and_utc();
        let found: Vec<NaiveDateTime> = times(&cron, zone, begin)
            .map(|moment| moment.naive_utc())
            .take_while(|moment| *moment < until)
            .collect();
        prop_assert!(found.is_sorted_by(|a, b| a < b), "{} {}: {:?}", text, zone, found);
        let found: BTreeSet<NaiveDateTime> = found.into_iter().collect();
        let missed: Vec<_> = expected.difference(&found).collect();
        let added: Vec<_> = found.difference(&expected).collect();
        prop_assert!(
            missed.is_empty() && added.is_empty(),
            "{} {}: missed {:?}, added {:?}", text, zone, missed, added
        );
    }

    /// The next match is the same from every instant before it.
    #[test]
    fn next_match_is_the_same_from_every_earlier_instant(
        text in expression(),
        (zone, change) in change(),
        seconds in -200_000_i64..200_000,
        within in 0.0_f64..1.0,
    ) {
        let cron = Cron::parse(&text).unwrap();
        let after = (change + TimeDelta::seconds(seconds)).and_utc();
        let next = cron.next_after(after, zone).unwrap();
        prop_assert!(next > after);
        let wait = (next - after).num_milliseconds() - 1;
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any moment in between will do")]
        let between = (wait as f64 * within) as i64;
        let between = after + TimeDelta::milliseconds(between);
        prop_assert_eq!(cron.next_after(between, zone), Some(next));
    }

    /// With a field for seconds, the other fields match as they do without it.
    #[test]
    fn seconds_are_a_field_like_the_others(text in expression(), second in field(0, 59), from in clock()) {
        let with_seconds = Cron::parse(&format!("{second} {text}")).unwrap();
        let reading = ReferenceCron::new(&text);
        let next = with_seconds.next_after(from.and_utc(), Timezone::UTC).unwrap().naive_utc();
        let is_second = |value| second.split(',').any(|item| named(item, 0, 59, value));
        prop_assert!(reading.matches(next) && is_second(next.second()), "{}", next);
        let minute = next.with_second(0).unwrap();
        for earlier in (0..next.second()).filter(|second| is_second(*second)) {
            prop_assert!(minute.with_second(earlier).unwrap() <= from, "{} {}", next, earlier);
        }
        if minute > from {
            let plain = Cron::parse(&text).unwrap();
            let before = (from.with_second(0).unwrap() - TimeDelta::seconds(1)).and_utc();
            let mut minutes = times(&plain, Timezone::UTC, before);
            let first = minutes.next().unwrap().naive_utc();
            // The minute of `from` may have no matching second left.
            let expected = if first < from.with_second(0).unwrap() + TimeDelta::minutes(1) && first < minute {
                minutes.next().unwrap().naive_utc()
            } else {
                first
            };
            prop_assert_eq!(minute, expected);
        }
    }

    /// The crate croner, an independent implementation, finds the same local times.
    #[test]
    fn croner_finds_the_same_matches(text in expression(), from in clock()) {
        let cron = Cron::parse(&text).unwrap();
        let days_match_both = ReferenceCron::new(&text).days_match_both;
        let other = croner::parser::CronParser::builder()
            .dom_and_dow(days_match_both)
            .build()
            .parse(&text)
            .unwrap();
        let mut clock = from;
        for _ in 0..5 {
            let expected = other.find_next_occurrence(&clock, false).unwrap();
            let found = cron.next_after(clock.and_utc(), Timezone::UTC).unwrap();
            prop_assert_eq!(found.naive_utc(), expected, "after {}", clock);
            clock = expected;
        }
    }

    /// However far away the next match is, no day before it matches.
    #[test]
    fn no_matching_day_is_skipped(text in expression(), from in clock()) {
        let cron = Cron::parse(&text).unwrap();
        let reading = ReferenceCron::new(&text);
        let next = cron.next_after(from.and_utc(), Timezone::UTC).unwrap().naive_utc();
        prop_assert!(reading.matches(next));
        let is_month = |date: NaiveDate| {
            reading.fields[3].split(',').any(|item| named(item, 1, 12, date.month()))
        };
        let between = from.date().iter_days().skip(1).take_while(|day| *day < next.date());
        for day in between.take(3_000) {
            prop_assert!(!(is_month(day) && reading.is_day(day)), "{}", day);
        }
    }

    #[test]
    fn parsing_an_expression_never_panics_and_errors_are_one_line(text in "\\PC{0,40}|[0-9*/,LW#?@ A-Z-]{0,40}|\\s{0,3}[\\x00-\\x7f]{0,40}") {
        match Cron::parse(&text) {
            Ok(cron) => {
                prop_assert!(cron.explain().ends_with('.'));
                prop_assert_eq!(cron.as_str(), text.trim());
            }
            Err(error) => {
                let message = error.to_string();
                prop_assert!(!message.chars().any(char::is_control), "{:?}", message);
                prop_assert!(message.chars().count() < 1_500);
            }
        }
    }

    #[test]
    fn every_expression_is_explained(text in expression()) {
        let sentence = Cron::parse(&text).unwrap().explain();
        prop_assert!(sentence.ends_with('.') && !sentence.contains("  ") && !sentence.contains(" ,"), "{}", sentence);
    }
}
