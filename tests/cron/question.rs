//! Random questions: an expression, a zone and an instant, more often around changes of clocks.

use chrono::{DateTime, Datelike, FixedOffset, NaiveDateTime, Timelike};
use naq_cron::{Cron, Timezone, timezone_names};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// How many matches of each expression are compared.
pub(super) const TIMES: usize = 5;

/// Zones with every kind of clock change.
const ZONES: [&str; 14] = [
    "Africa/Casablanca",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/London",
    "Pacific/Apia",
    "Pacific/Chatham",
];

/// A question. Instants are seconds since 1970.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) expression: String,
    pub(super) zone: Timezone,
    pub(super) after: i64,
}

impl Question {
    pub(super) fn draw(chance: &mut StdRng) -> Question {
        let zone = match chance.random_range(0..10) {
            0..2 => Timezone::UTC,
            2..7 => ZONES.choose(chance).unwrap().parse().unwrap(),
            _ => timezone_names().choose(chance).unwrap().parse().unwrap(),
        };
        // From 1976 to 2033. Earlier, zones have offsets with odd seconds.
        let after = chance.random_range(190_000_000..2_000_000_000);
        let change = chance.random_bool(0.6).then(|| next_change(zone, after));
        let after = match change.flatten() {
            Some(change) => change - chance.random_range(-10_000..100_000),
            None => after,
        };
        let expression = loop {
            let text = expression(chance);
            if Cron::parse(&text).is_ok() {
                break text;
            }
        };
        Question {
            expression,
            zone,
            after,
        }
    }

    /// The field of minutes, hours, days, months or weekdays.
    fn field(&self, index: usize) -> &str {
        let fields: Vec<&str> = self.expression.split(' ').collect();
        fields[fields.len() - 5 + index]
    }

    pub(super) fn minute(&self) -> &str {
        self.field(0)
    }

    pub(super) fn hour(&self) -> &str {
        self.field(1)
    }

    pub(super) fn day(&self) -> &str {
        self.field(2)
    }

    pub(super) fn weekday(&self) -> &str {
        self.field(4)
    }

    pub(super) fn has_seconds(&self) -> bool {
        self.expression.split(' ').count() == 6
    }

    /// Whether the hour field matches every hour.
    pub(super) fn has_every_hour(&self) -> bool {
        let cron = Cron::parse(&format!("0 {} * * *", self.hour())).unwrap();
        let mut moment = chrono::DateTime::UNIX_EPOCH;
        (0..24).all(|_| {
            let before = moment.timestamp_millis();
            moment = cron.next_after(moment, Timezone::UTC).unwrap();
            moment.timestamp_millis() - before == 3_600_000
        })
    }

    /// The same question with other day and weekday fields.
    pub(super) fn with(&self, day: &str, weekday: &str) -> Question {
        let mut fields: Vec<&str> = self.expression.split(' ').collect();
        let count = fields.len();
        fields[count - 3] = day;
        fields[count - 1] = weekday;
        self.of(fields.join(" "))
    }

    /// The same question with ranges of one value (`4-4`, `4-4/2`) rewritten by `read`, which gets that
    /// value, the step, and the first and last value of the field.
    pub(super) fn with_single_ranges(
        &self,
        read: impl Fn(&str, &str, (u32, u32)) -> String,
    ) -> Question {
        let bounds = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
        let fields: Vec<&str> = self.expression.split(' ').collect();
        let bounds = &bounds[bounds.len() - fields.len()..];
        let fields: Vec<String> = fields
            .iter()
            .zip(bounds)
            .map(|(field, bounds)| {
                let items = field.split(',').map(|item| {
                    let (range, step) = item.split_at(item.find('/').unwrap_or(item.len()));
                    match range.split_once('-') {
                        Some((from, to)) if from == to => read(from, step, *bounds),
                        _ => item.to_owned(),
                    }
                });
                items.collect::<Vec<_>>().join(",")
            })
            .collect();
        self.of(fields.join(" "))
    }

    fn of(&self, expression: String) -> Question {
        Question {
            expression,
            zone: self.zone,
            after: self.after,
        }
    }

    /// The answer of naq. It is empty if naq reports that the expression never matches.
    pub(super) fn times(&self) -> Vec<i64> {
        let cron = match Cron::parse(&self.expression) {
            Ok(cron) => cron,
            Err(error) if error.never_matches() => return Vec::new(),
            Err(error) => panic!("{error}"),
        };
        let next = |after: &i64| {
            let after = chrono::DateTime::from_timestamp(*after, 0).unwrap();
            Some(cron.next_after(after, self.zone)?.timestamp())
        };
        std::iter::successors(next(&self.after), next)
            .take(TIMES)
            .collect()
    }

    /// Whether the expression matches at an instant, according to naq.
    pub(super) fn is_true(&self, moment: i64) -> bool {
        let before = Question {
            after: moment - 1,
            ..self.of(self.expression.clone())
        };
        before.times().first() == Some(&moment)
    }

    /// The local time at an instant.
    pub(super) fn clock(&self, moment: i64) -> NaiveDateTime {
        local(self.zone, moment).naive_local()
    }

    /// Whether the local time of an instant occurs for the second time.
    pub(super) fn is_shown_again(&self, moment: i64) -> bool {
        let now = offset(self.zone, moment);
        (0..=86_400).step_by(900).any(|back| {
            let before = offset(self.zone, moment - back);
            before > now && offset(self.zone, moment - i64::from(before - now)) == before
        })
    }

    /// By how many seconds clocks go forward at an instant; negative if they go back.
    pub(super) fn put_forward(&self, moment: i64) -> i32 {
        offset(self.zone, moment) - offset(self.zone, moment - 1)
    }

    /// Whether, from a day before the instant until a year after it, clocks go back over midnight or
    /// at another time than a full hour.
    pub(super) fn is_put_back_within_an_hour(&self) -> bool {
        let (since, until) = (self.after - 86_400, self.after + 366 * 86_400);
        std::iter::successors(next_change(self.zone, since), |change| {
            next_change(self.zone, *change)
        })
        .take_while(|change| *change < until)
        .filter(|change| self.put_forward(*change) < 0)
        .any(|change| {
            let (before, after) = (self.clock(change - 1), self.clock(change));
            after.minute() != 0 || after.date() < before.date()
        })
    }

    pub(super) fn show(&self, moment: i64) -> String {
        local(self.zone, moment).to_rfc3339()
    }

    pub(super) fn days_in_month(&self, moment: i64) -> u8 {
        self.clock(moment).num_days_in_month()
    }
}

fn utc(moment: i64) -> DateTime<chrono::Utc> {
    DateTime::from_timestamp(moment, 0).unwrap()
}

fn local(zone: Timezone, moment: i64) -> DateTime<FixedOffset> {
    utc(moment).with_timezone(&zone.utc_offset(utc(moment)))
}

fn offset(zone: Timezone, moment: i64) -> i32 {
    zone.utc_offset(utc(moment)).local_minus_utc()
}

/// The next change of clocks, if it is within about a year.
fn next_change(zone: Timezone, after: i64) -> Option<i64> {
    let mut from = after;
    // Narrow it down to the day, the minute, the second.
    for (step, steps) in [(86_400, 400), (60, 1_440), (1, 60)] {
        from = (0..steps)
            .map(|count| from + count * step)
            .find(|moment| offset(zone, *moment) != offset(zone, moment + step))?;
    }
    Some(from + 1)
}

fn expression(chance: &mut StdRng) -> String {
    let (minute, hour) = (field(chance, 0, 59), field(chance, 0, 23));
    let day = match chance.random_range(0..20) {
        0..10 => "*".to_owned(),
        10 => "L".to_owned(),
        11 => "LW".to_owned(),
        12 => format!("{}W", chance.random_range(1..=31)),
        _ => field(chance, 1, 31),
    };
    let month = match chance.random_range(0..10) {
        0..7 => "*".to_owned(),
        _ => field(chance, 1, 12),
    };
    let weekday = match chance.random_range(0..20) {
        0..10 => "*".to_owned(),
        10 => format!("{}L", chance.random_range(0..=7)),
        11 => format!(
            "{}#{}",
            chance.random_range(0..=7),
            chance.random_range(1..=5)
        ),
        _ => field(chance, 0, 7),
    };
    let fields = format!("{minute} {hour} {day} {month} {weekday}");
    match chance.random_range(0..10) {
        0 => format!("{} {fields}", field(chance, 0, 59)),
        _ => fields,
    }
}

fn field(chance: &mut StdRng, min: u32, max: u32) -> String {
    if chance.random_bool(0.2) {
        return "*".to_owned();
    }
    let count = match chance.random_range(0..10) {
        0..7 => 1,
        count => count - 5,
    };
    let items: Vec<String> = (0..count).map(|_| item(chance, min, max)).collect();
    items.join(",")
}

fn item(chance: &mut StdRng, min: u32, max: u32) -> String {
    let (from, step) = (
        chance.random_range(min..=max),
        chance.random_range(1..=max - min),
    );
    match chance.random_range(0..8) {
        0 => format!("*/{step}"),
        // Some of these have only one value.
        1..3 => format!("{from}-{}", chance.random_range(from..=max)),
        3 => format!("{from}-{}/{step}", chance.random_range(from..=max)),
        _ => from.to_string(),
    }
}
