//! The explanation of an expression, as an English sentence.

use super::calendar::{CronFields, starts_with_star};
use super::field::{self, Field, FieldItem, MONTHS, WEEKDAYS};

/// Up to this many times of day are listed. More are described by their fields.
const TIMES_MAX: usize = 6;

pub(super) fn explain(fields: &CronFields) -> String {
    let days = days(fields);
    let mut sentence = match times(fields) {
        Some(times) if days.is_empty() => format!("At {} every day", join(&times)),
        Some(times) => format!("At {} {days}", join(&times)),
        None if days.is_empty() => frequency(fields),
        None => format!("{}, {days}", frequency(fields)),
    };
    if !covers_all(&field::MONTH, &fields.months) {
        let from = match fields.months[..] {
            [FieldItem::Range { from, to, step: 1 }] if to > from + 1 => "from",
            _ => "in",
        };
        sentence.push_str(&format!(", {from} {}", months(&fields.months)));
    }
    sentence.push('.');
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    sentence
}

/// `a, b and c`
fn join(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn covers_all(field: &Field, items: &[FieldItem]) -> bool {
    field.value_mask(items) == field.value_mask(&[FieldItem::Any { step: 1 }])
}

/// The times of day, if they are few and the fields list each value. `None` otherwise.
fn times(fields: &CronFields) -> Option<Vec<String>> {
    let hours = listed(&field::HOUR, &fields.hours)?;
    let minutes = listed(&field::MINUTE, &fields.minutes)?;
    let seconds = listed(&field::SECOND, &fields.seconds)?;
    let mut times = Vec::new();
    for hour in &hours {
        for minute in &minutes {
            for second in &seconds {
                times.push(if seconds == [0] {
                    format!("{hour:02}:{minute:02}")
                } else {
                    format!("{hour:02}:{minute:02}:{second:02}")
                });
            }
        }
    }
    (times.len() <= TIMES_MAX).then_some(times)
}

/// The sorted values of a field that lists each value. `None` if it has ranges or steps.
fn listed(field: &Field, items: &[FieldItem]) -> Option<Vec<u32>> {
    let bits = field.value_mask(items);
    items
        .iter()
        .all(|item| matches!(item, FieldItem::Value(_)))
        .then(|| (0..64).filter(|bit| bits & 1 << bit != 0).collect())
}

/// The frequency, from the smallest unit that is not just 0:
/// `every 10 seconds of minute 5 of every hour from 9 to 17`.
fn frequency(fields: &CronFields) -> String {
    let mut units = vec![
        (&field::SECOND, &fields.seconds),
        (&field::MINUTE, &fields.minutes),
        (&field::HOUR, &fields.hours),
    ];
    while units.len() > 1 && units[0].1[..] == [FieldItem::Value(0)] {
        units.remove(0);
    }
    let mut text = String::new();
    let mut continues_evenly = false;
    for (field, items) in units {
        if text.is_empty() {
            text = ticks(field, items);
        } else if !(continues_evenly && items[..] == [FieldItem::Any { step: 1 }]) {
            text.push_str(&format!(" of {}", which(field, items)));
        }
        // `every 15 minutes` needs no `of every hour`, `at minute 15` does
        continues_evenly =
            matches!(items[..], [FieldItem::Any { step }] if divides_evenly(field, step));
    }
    text
}

/// Whether a step continues evenly from the end of the field to its start.
fn divides_evenly(field: &Field, step: u32) -> bool {
    (field.max - field.min + 1).is_multiple_of(step)
}

/// The smallest unit: `every 15 minutes`, `at minutes 0 and 30`.
fn ticks(field: &Field, items: &[FieldItem]) -> String {
    let unit = field.name;
    let every = |step: u32| match step {
        1 => format!("every {unit}"),
        _ => format!("every {step} {unit}s"),
    };
    parts(field, items, "at ", every)
}

/// A larger unit that contains the smaller ones: `every 2nd hour`, `hours 2 and 3`.
fn which(field: &Field, items: &[FieldItem]) -> String {
    let unit = field.name;
    let every = |step: u32| match step {
        1 => format!("every {unit}"),
        _ => format!("every {} {unit}", ordinal(step)),
    };
    parts(field, items, "", every)
}

fn parts(field: &Field, items: &[FieldItem], at: &str, every: impl Fn(u32) -> String) -> String {
    let mut parts = Vec::new();
    let mut values = Vec::new();
    for item in items {
        match *item {
            FieldItem::Value(value) => values.push(value.to_string()),
            FieldItem::Range { from, to, step } => {
                // The last step may be before the end of the range.
                let last = from + (to - from) / step * step;
                parts.push(format!("{} from {from} to {last}", every(step)));
            }
            FieldItem::Any { step } if divides_evenly(field, step) => parts.push(every(step)),
            FieldItem::Any { step } => {
                let last = field.min + (field.max - field.min) / step * step;
                parts.push(format!("{} from {} to {last}", every(step), field.min));
            }
            FieldItem::LastDay
            | FieldItem::LastWorkday
            | FieldItem::NearestWorkday(_)
            | FieldItem::Last(_)
            | FieldItem::Nth { .. } => {}
        }
    }
    if !values.is_empty() {
        let plural = if values.len() > 1 { "s" } else { "" };
        parts.insert(0, format!("{at}{}{plural} {}", field.name, join(&values)));
    }
    join(&parts)
}

/// The days; empty if every day matches.
fn days(fields: &CronFields) -> String {
    let every_day = covers_all(&field::DAY, &fields.days);
    let every_weekday = covers_all(&field::WEEKDAY, &fields.weekdays);
    let days_match_both = starts_with_star(&fields.days) || starts_with_star(&fields.weekdays);
    let (days, weekdays) = (days_of_month(&fields.days), weekdays(&fields.weekdays));
    match (every_day, every_weekday) {
        (true, true) => String::new(),
        (true, false) if days_match_both => match fields.weekdays[..] {
            [FieldItem::Range { from, to, step: 1 }] if to > from + 1 => format!("from {weekdays}"),
            _ => format!("on {weekdays}"),
        },
        (false, true) if days_match_both => format!("on {days}"),
        // One matching field is enough, and one of them matches every day.
        (true, false) | (false, true) => String::new(),
        (false, false) if days_match_both => format!("on {days} that falls on {weekdays}"),
        (false, false) => format!("on {days}, and also on {weekdays}"),
    }
}

fn days_of_month(items: &[FieldItem]) -> String {
    let mut parts = Vec::new();
    let mut values = Vec::new();
    for item in items {
        match *item {
            FieldItem::Value(day) => values.push(day.to_string()),
            FieldItem::Range { from, to, step: 1 } => values.push(format!("{from} to {to}")),
            FieldItem::Range { from, to, step } => {
                let last = from + (to - from) / step * step;
                let step = ordinal(step);
                parts.push(format!(
                    "every {step} day of the month from {from} to {last}"
                ));
            }
            FieldItem::Any { step: 1 } => parts.push("every day of the month".to_owned()),
            FieldItem::Any { step } => {
                parts.push(format!("every {} day of the month from 1", ordinal(step)));
            }
            FieldItem::LastDay => parts.push("the last day of the month".to_owned()),
            FieldItem::LastWorkday => {
                parts.push("the last day from Monday to Friday of the month".to_owned());
            }
            FieldItem::NearestWorkday(day) => parts.push(format!(
                "the day from Monday to Friday nearest to day {day} of the month"
            )),
            FieldItem::Last(_) | FieldItem::Nth { .. } => {}
        }
    }
    if !values.is_empty() {
        let one = matches!(values[..], [ref day] if !day.contains(' '));
        let days = if one { "day" } else { "days" };
        parts.insert(0, format!("{days} {} of the month", join(&values)));
    }
    join(&parts)
}

fn weekdays(items: &[FieldItem]) -> String {
    let name = |weekday: u32| WEEKDAYS[weekday as usize % 7].to_owned();
    let mut parts = Vec::new();
    for item in items {
        match *item {
            FieldItem::Value(weekday) => parts.push(name(weekday)),
            FieldItem::Range { from, to, step: 1 } if to > from + 1 => {
                parts.push(format!("{} to {}", name(from), name(to)));
            }
            FieldItem::Range { from, to, step } => {
                parts.extend((from..=to).step_by(step as usize).map(name));
            }
            // 7 is Sunday again, so the range stops before it.
            FieldItem::Any { step } => parts.extend((0..7).step_by(step as usize).map(name)),
            FieldItem::Last(weekday) => {
                parts.push(format!("the last {} of the month", name(weekday)))
            }
            FieldItem::Nth { weekday, nth } => {
                let nth = ["first", "second", "third", "fourth", "fifth"][nth as usize - 1];
                parts.push(format!("the {nth} {} of the month", name(weekday)));
            }
            FieldItem::LastDay | FieldItem::LastWorkday | FieldItem::NearestWorkday(_) => {}
        }
    }
    join(&parts)
}

fn months(items: &[FieldItem]) -> String {
    let name = |month: u32| MONTHS[month as usize - 1].to_owned();
    let mut parts = Vec::new();
    for item in items {
        match *item {
            FieldItem::Value(month) => parts.push(name(month)),
            FieldItem::Range { from, to, step: 1 } if to > from + 1 => {
                parts.push(format!("{} to {}", name(from), name(to)));
            }
            FieldItem::Range { from, to, step } => {
                parts.extend((from..=to).step_by(step as usize).map(name));
            }
            FieldItem::Any { step } => parts.extend((1..=12).step_by(step as usize).map(name)),
            FieldItem::LastDay
            | FieldItem::LastWorkday
            | FieldItem::NearestWorkday(_)
            | FieldItem::Last(_)
            | FieldItem::Nth { .. } => {}
        }
    }
    join(&parts)
}

fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (1, tens) if tens != 11 => "st",
        (2, tens) if tens != 12 => "nd",
        (3, tens) if tens != 13 => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}
