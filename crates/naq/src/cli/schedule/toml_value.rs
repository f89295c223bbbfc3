//! Typed values of a TOML file, with a problem by its line for each that is invalid.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schedule_file::Diagnostic;
use naq_cron::{Cron, Timezone, parse_datetime};
use naq_protocol::units::{WireDuration, excerpt};
use naq_protocol::{Timestamp, closest_match};

/// The byte offsets of a text's line breaks, to find the line of an offset.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn new(text: &str) -> Lines {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines(breaks.map(|(at, _)| at).collect())
    }

    /// The line of a range, from 1.
    pub(super) fn line_of(&self, span: &Range<usize>) -> usize {
        self.0.partition_point(|at| *at < span.start) + 1
    }
}

/// A table's fields in the order of the file, each with its line.
pub(super) type Fields<'t, 'i> = Vec<(&'t str, usize, &'t DeValue<'i>)>;

/// Reads values and collects all problems, so that one run reports every mistake of a file.
pub(super) struct ValueReader<'r> {
    lines: &'r Lines,
    problems: Vec<Diagnostic>,
    now: Timestamp,
}

impl<'r> ValueReader<'r> {
    pub(super) fn new(lines: &'r Lines, now: Timestamp) -> ValueReader<'r> {
        ValueReader {
            lines,
            problems: Vec::new(),
            now,
        }
    }

    pub(super) fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Diagnostic::new(line, text));
    }

    /// The number of problems so far.
    pub(super) fn problem_count(&self) -> usize {
        self.problems.len()
    }

    pub(super) fn into_problems(self) -> Vec<Diagnostic> {
        self.problems
    }

    /// The problems since the last call.
    pub(super) fn take_problems(&mut self) -> Vec<Diagnostic> {
        std::mem::take(&mut self.problems)
    }

    pub(super) fn fields<'t, 'i>(&self, table: &'t DeTable<'i>) -> Fields<'t, 'i> {
        let mut items: Vec<(&Spanned<_>, &Spanned<DeValue>)> = table.iter().collect();
        items.sort_by_key(|(key, _)| key.span().start);
        items
            .into_iter()
            .map(|(key, value)| {
                let name: &str = key.get_ref();
                (name, self.lines.line_of(&key.span()), value.get_ref())
            })
            .collect()
    }

    /// Adds the problem of a field that does not exist.
    pub(super) fn unknown<'n>(
        &mut self,
        line: usize,
        name: &str,
        known: impl IntoIterator<Item = &'n &'n str, IntoIter: Clone>,
    ) {
        let known = known.into_iter().copied();
        let shown = excerpt(name);
        let text = match closest_match(name, known.clone()) {
            Some(closest_match) => {
                format!("there is no field `{shown}`; did you mean `{closest_match}`?")
            }
            None => {
                let known: Vec<&str> = known.collect();
                format!(
                    "there is no field `{shown}`; there are {}",
                    known.join(", ")
                )
            }
        };
        self.problem(line, text);
    }

    /// Reads a value of type `T`. Returns `None`, and adds a problem, if it is not one.
    pub(super) fn value<T: DeserializeOwned>(
        &mut self,
        name: &str,
        line: usize,
        value: &DeValue,
    ) -> Option<T> {
        let read = as_json(value)
            .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()));
        match read {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(line, format!("`{name}`: {error}"));
                None
            }
        }
    }

    /// Reads a name. One that this version does not define is a problem here, as in a flag.
    pub(super) fn name<T: FromStr<Err = String>>(
        &mut self,
        name: &str,
        line: usize,
        value: &DeValue,
    ) -> Option<T> {
        let text: String = self.value(name, line, value)?;
        let read = text.parse();
        if let Err(error) = &read {
            self.problem(line, format!("`{name}`: {error}"));
        }
        read.ok()
    }

    /// Reads a duration.
    pub(super) fn duration(
        &mut self,
        name: &str,
        line: usize,
        value: &DeValue,
    ) -> Option<Duration> {
        self.value(name, line, value)
            .map(|WireDuration(duration)| duration)
    }

    /// Reads a valid cron expression.
    pub(super) fn cron(&mut self, line: usize, value: &DeValue) -> Option<String> {
        let expression: String = self.value("cron", line, value)?;
        match Cron::parse(&expression) {
            Ok(_) => Some(expression),
            Err(wrong) => {
                self.problem(line, wrong.to_string());
                None
            }
        }
    }

    /// Reads the name of an existing time zone.
    pub(super) fn zone(&mut self, line: usize, value: &DeValue) -> Option<String> {
        let name: String = self.value("tz", line, value)?;
        match name.parse::<Timezone>() {
            Ok(_) => Some(name),
            Err(bad) => {
                self.problem(line, format!("`tz`: {bad}"));
                None
            }
        }
    }

    /// Parses a time that is the same whenever the file is read; relative times and times of
    /// day are therefore refused.
    pub(super) fn datetime(
        &mut self,
        field: &str,
        field_lines: &BTreeMap<String, usize>,
        text: &str,
        zone: Timezone,
    ) -> Option<Timestamp> {
        let read = match parse_datetime(text, zone, self.now.0) {
            Ok(_) if !text.contains('-') => {
                Err("a time of day is on no certain day; write the date too".to_owned())
            }
            read => read.map_err(|bad| bad.to_string()),
        };
        match read {
            Ok(time) => Some(Timestamp(time)),
            Err(wrong) => {
                let line = field_lines.get(field).copied().unwrap_or_default();
                self.problem(line, format!("`{field}`: {wrong}"));
                None
            }
        }
    }
}

/// Converts a value to JSON. A date becomes a string.
pub(super) fn as_json(value: &DeValue) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::from)
            .map_err(|_| "the number is out of range".to_owned())?,
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number)
            .ok_or_else(|| format!("{} is not a finite number", number.as_str()))?,
        DeValue::Boolean(on) => Value::Bool(*on),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| as_json(item.get_ref()))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| Ok((key.get_ref().to_string(), as_json(value.get_ref())?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}
