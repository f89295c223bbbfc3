//! One field of an expression: a list of items, separated by commas.

/// The definition of a field: its name and its valid values.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) min: u32,
    pub(super) max: u32,
    kind: FieldKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldKind {
    Plain,
    Day,
    Month,
    Weekday,
}

pub(super) const SECOND: Field = Field::new("second", 0, 59, FieldKind::Plain);
pub(super) const MINUTE: Field = Field::new("minute", 0, 59, FieldKind::Plain);
pub(super) const HOUR: Field = Field::new("hour", 0, 23, FieldKind::Plain);
pub(super) const DAY: Field = Field::new("day of month", 1, 31, FieldKind::Day);
pub(super) const MONTH: Field = Field::new("month", 1, 12, FieldKind::Month);
/// Sunday is 0. A 7 is read as 0 as well, except at the end of a range.
pub(super) const WEEKDAY: Field = Field::new("day of week", 0, 7, FieldKind::Weekday);

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub(super) const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// One item of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldItem {
    /// `5`
    Value(u32),
    /// `1-5`, `1-5/2`
    Range { from: u32, to: u32, step: u32 },
    /// `*`, `*/2`, and `?` for a day
    Any { step: u32 },
    /// `L`: the last day of the month
    LastDay,
    /// `LW`: the last day of the month from Monday to Friday
    LastWorkday,
    /// `15W`: the day from Monday to Friday nearest to the 15th, within the month
    NearestWorkday(u32),
    /// `5L`: the last Friday of the month
    Last(u32),
    /// `5#2`: the second Friday of the month
    Nth { weekday: u32, nth: u32 },
}

impl Field {
    const fn new(name: &'static str, min: u32, max: u32, kind: FieldKind) -> Field {
        Field {
            name,
            min,
            max,
            kind,
        }
    }

    /// Parses the items of the field. The error is the text of the invalid item, and what is valid.
    pub(super) fn parse<'a>(&self, text: &'a str) -> Result<Vec<FieldItem>, (&'a str, String)> {
        text.split(',')
            .map(|item| self.parse_item(item).map_err(|expected| (item, expected)))
            .collect()
    }

    fn parse_item(&self, text: &str) -> Result<FieldItem, String> {
        if text.is_empty() {
            return Err("one side of a comma is empty".to_owned());
        }
        if let Some(why) = other_dialect(text) {
            return Err(why.to_owned());
        }
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(self.parse_step(step)?)),
            None => (text, None),
        };
        if range == "*" {
            let step = step.unwrap_or(1);
            return Ok(FieldItem::Any { step });
        }
        if let Some((from, to)) = range.split_once('-') {
            return self.parse_range(from, to, step.unwrap_or(1));
        }
        let Some(step) = step else {
            return self.parse_single(range);
        };
        let from = self.parse_value(range)?;
        Err(format!(
            "a step needs * or a range; write {from}-{}/{step}",
            self.max
        ))
    }

    fn parse_step(&self, text: &str) -> Result<u32, String> {
        // A step longer than the field has values would never take effect; it is a mistake.
        let most = match self.kind {
            FieldKind::Weekday => 7,
            _ => self.max - self.min + 1,
        };
        parse_number(text)
            .filter(|step| (1..=most).contains(step))
            .ok_or_else(|| format!("a step must be 1 to {most}"))
    }

    fn parse_range(&self, from: &str, to: &str, step: u32) -> Result<FieldItem, String> {
        let (from, mut to) = (self.parse_value(from)?, self.parse_value(to)?);
        if self.kind == FieldKind::Weekday && to == 0 && from > 0 {
            to = 7;
        }
        if from > to {
            let upwards = "a range must go upwards";
            return Err(match (self.kind, from, step) {
                (FieldKind::Weekday, 7, 1) => format!("{upwards}; write 0-{to}"),
                (_, _, 1) => format!("{upwards}; write {from}-{},{}-{to}", self.max, self.min),
                _ => upwards.to_owned(),
            });
        }
        Ok(FieldItem::Range { from, to, step })
    }

    /// Parses an item without a range or a step.
    fn parse_single(&self, text: &str) -> Result<FieldItem, String> {
        let upper = text.to_ascii_uppercase();
        let weekday = |text: &str| self.parse_value(text).map(|weekday| weekday % 7);
        match self.kind {
            FieldKind::Day | FieldKind::Weekday if upper == "?" => {
                return Ok(FieldItem::Any { step: 1 });
            }
            FieldKind::Day if upper == "L" => return Ok(FieldItem::LastDay),
            FieldKind::Day if upper == "LW" => return Ok(FieldItem::LastWorkday),
            FieldKind::Day => {
                if let Some(day) = upper.strip_suffix('W') {
                    return self.parse_value(day).map(FieldItem::NearestWorkday);
                }
            }
            FieldKind::Weekday if upper == "L" => {
                return Err("L needs a day; 5L is the last Friday of the month".to_owned());
            }
            FieldKind::Weekday => {
                if let Some((day, nth)) = upper.split_once('#') {
                    let weekday = weekday(day)?;
                    return parse_number(nth)
                        .filter(|nth| (1..=5).contains(nth))
                        .map(|nth| FieldItem::Nth { weekday, nth })
                        .ok_or_else(|| "the number after # must be 1 to 5".to_owned());
                }
                if let Some(day) = upper.strip_suffix('L') {
                    return weekday(day).map(FieldItem::Last);
                }
                return weekday(text).map(FieldItem::Value);
            }
            FieldKind::Plain | FieldKind::Month => {}
        }
        self.parse_value(text).map(FieldItem::Value)
    }

    fn parse_value(&self, text: &str) -> Result<u32, String> {
        let names: &[&str] = match self.kind {
            FieldKind::Month => &MONTHS,
            FieldKind::Weekday => &WEEKDAYS,
            FieldKind::Plain | FieldKind::Day => &[],
        };
        let named = (self.min..)
            .zip(names)
            .find(|(_, name)| name[..3].eq_ignore_ascii_case(text))
            .map(|(value, _)| value);
        named
            .or_else(|| parse_number(text))
            .filter(|value| (self.min..=self.max).contains(value))
            .ok_or_else(|| self.expected())
    }

    /// What is valid in the field.
    fn expected(&self) -> String {
        let (min, max) = (self.min, self.max);
        match self.kind {
            FieldKind::Plain => format!("must be {min} to {max}"),
            FieldKind::Day => format!("must be {min} to {max}, L, LW or a day with W such as 15W"),
            FieldKind::Month => format!("must be {min} to {max} or JAN to DEC"),
            FieldKind::Weekday => {
                format!("must be {min} to {max} (0 and 7 are Sunday) or SUN to SAT")
            }
        }
    }

    /// The values that do not depend on the month, as a bit mask.
    pub(super) fn value_mask(&self, items: &[FieldItem]) -> u64 {
        let mut bits = 0;
        for item in items {
            match *item {
                FieldItem::Value(value) => bits |= 1 << value,
                FieldItem::Range { from, to, step } => bits |= step_mask(from, to, step),
                FieldItem::Any { step } => bits |= step_mask(self.min, self.max, step),
                FieldItem::LastDay
                | FieldItem::LastWorkday
                | FieldItem::NearestWorkday(_)
                | FieldItem::Last(_)
                | FieldItem::Nth { .. } => {}
            }
        }
        if self.kind == FieldKind::Weekday && bits & 1 << 7 != 0 {
            bits = bits & !(1 << 7) | 1;
        }
        bits
    }
}

/// Why an item is refused that another implementation of cron accepts: `~`, a random value, as in
/// `0~59`, or `H`, a hashed one, as in `H/15`. `None` for any other item.
pub(super) fn other_dialect(item: &str) -> Option<&'static str> {
    if item.contains('~') {
        return Some("a random value (~) is not supported; write a number, and use a jitter");
    }
    let hash = item.strip_prefix(['H', 'h'])?;
    (hash.is_empty() || hash.starts_with(['/', '(']))
        .then_some("a hashed value (H) is not supported; write a number, and use a jitter")
}

fn step_mask(from: u32, to: u32, step: u32) -> u64 {
    (from..=to)
        .step_by(step as usize)
        .fold(0, |bits, value| bits | 1 << value)
}

/// Parses one to four digits. A sign or more digits are invalid.
fn parse_number(text: &str) -> Option<u32> {
    (text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}
