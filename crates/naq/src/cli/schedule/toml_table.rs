//! The table of a schedule in a TOML file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use toml::de::DeValue;

use super::schedule_file::FileSchedule;
use super::toml_value::{ValueReader, as_json};
use naq_client::{NewSchedule, Recurrence};
use naq_cron::Timezone;
use naq_protocol::units::{WireDuration, excerpt};
use naq_protocol::{Envelope, EnvelopeError, QueueName, ScheduleId, schema};

/// The fields of a schedule's table.
pub(super) const SCHEDULE_FIELDS: [&str; 15] = [
    "cron",
    "tz",
    "every",
    "command",
    "script",
    "queue",
    "repeat",
    "start",
    "end",
    "jitter",
    "misfire",
    "misfire_max",
    "misfire_grace",
    "overlap",
    "job",
];

/// The names of an envelope's fields, from the schema.
fn envelope_fields() -> Vec<String> {
    let schema: Option<Value> =
        schema("envelope").and_then(|text| serde_json::from_str(&text).ok());
    let properties = schema
        .as_ref()
        .and_then(|schema| schema["properties"].as_object());
    properties.map_or_else(Vec::new, |fields| fields.keys().cloned().collect())
}

/// A schedule's table while its fields are read.
struct ScheduleTable {
    /// The line of the table's header.
    line: usize,
    /// The line of each field that is present, valid or not.
    field_lines: BTreeMap<String, usize>,
    queue: QueueName,
    cron: Option<String>,
    every: Option<WireDuration>,
    tz: Option<String>,
    start: Option<String>,
    end: Option<String>,
    /// The fields of the envelope, not yet validated.
    job: Map<String, Value>,
    /// The result. Its recurrence and envelope are placeholders until all fields are read.
    new: NewSchedule,
}

impl ScheduleTable {
    fn new(line: usize, queue: QueueName) -> ScheduleTable {
        ScheduleTable {
            line,
            field_lines: BTreeMap::new(),
            queue,
            cron: None,
            every: None,
            tz: None,
            start: None,
            end: None,
            job: Map::new(),
            new: NewSchedule::every(Duration::ZERO, Envelope::default()),
        }
    }

    fn has(&self, field: &str) -> bool {
        self.field_lines.contains_key(field)
    }
}

/// Reads the tables of schedules.
pub(super) struct TableReader<'r> {
    pub(super) values: ValueReader<'r>,
    /// The queue of schedules that set none.
    queue: QueueName,
    /// The time zone of schedules that set none.
    tz: Option<String>,
    envelope_fields: Vec<String>,
}

impl<'r> TableReader<'r> {
    pub(super) fn new(
        values: ValueReader<'r>,
        queue: QueueName,
        tz: Option<String>,
    ) -> TableReader<'r> {
        TableReader {
            values,
            queue,
            tz,
            envelope_fields: envelope_fields(),
        }
    }

    /// Reads the table of one schedule. Returns `None`, and adds the problems, if it has any.
    pub(super) fn schedule(
        &mut self,
        name: &str,
        line: usize,
        value: &DeValue,
    ) -> Option<FileSchedule> {
        let problems_before = self.values.problem_count();
        let DeValue::Table(table) = value else {
            self.values.problem(
                line,
                format!(
                    "`{}` is not a table; write [schedule.NAME] and its fields below",
                    excerpt(name)
                ),
            );
            return None;
        };
        let schedule_id = match ScheduleId::new(name) {
            Ok(schedule_id) => Some(schedule_id),
            Err(bad) => {
                self.values.problem(line, bad.to_string());
                None
            }
        };
        let mut read = ScheduleTable::new(line, self.queue.clone());
        for (field, line, value) in self.values.fields(table) {
            self.schedule_field(&mut read, field, line, value);
        }
        read.new.schedule_id = schedule_id;
        self.period(&mut read);
        self.recurrence(&mut read, name);
        self.envelope(&mut read, name, problems_before);
        (self.values.problem_count() == problems_before).then_some(FileSchedule {
            line,
            field_lines: read.field_lines,
            queue: read.queue,
            new: read.new,
        })
    }

    /// Reads one field of a schedule's table.
    fn schedule_field(
        &mut self,
        read: &mut ScheduleTable,
        name: &str,
        line: usize,
        value: &DeValue,
    ) {
        read.field_lines.insert(name.to_owned(), line);
        let new = &mut read.new;
        match name {
            "cron" => read.cron = self.values.cron(line, value),
            "tz" => read.tz = self.values.zone(line, value),
            "every" => read.every = self.values.value(name, line, value),
            "command" => self.command(line, value, &mut read.job),
            "script" => {
                if let Some(script) = self.values.value::<String>(name, line, value) {
                    read.job.insert(name.to_owned(), script.into());
                }
            }
            "queue" => {
                if let Some(queue) = self.values.value(name, line, value) {
                    read.queue = queue;
                }
            }
            "repeat" => new.repeat = self.values.value(name, line, value),
            "start" => read.start = self.values.value(name, line, value),
            "end" => read.end = self.values.value(name, line, value),
            "jitter" => new.jitter = self.values.duration(name, line, value),
            "misfire" => new.misfire = self.values.name(name, line, value).unwrap_or_default(),
            "misfire_max" => new.misfire_max = self.values.value(name, line, value),
            "misfire_grace" => new.misfire_grace = self.values.duration(name, line, value),
            "overlap" => new.overlap = self.values.name(name, line, value).unwrap_or_default(),
            "job" => self.job(line, value, &mut read.job, &mut read.field_lines),
            other => self.values.unknown(line, other, &SCHEDULE_FIELDS),
        }
    }

    /// Resolves `start` and `end`. Runs after all fields are read, because times without an
    /// offset are local times of the schedule's time zone, which may follow them in the table.
    fn period(&mut self, read: &mut ScheduleTable) {
        let zone_name = read.tz.as_ref().or(self.tz.as_ref());
        let zone = zone_name.and_then(|name| name.parse().ok());
        let zone: Timezone = zone.unwrap_or_default();
        let (start, end) = (read.start.take(), read.end.take());
        let lines = &read.field_lines;
        read.new.start = start.and_then(|text| self.values.datetime("start", lines, &text, zone));
        read.new.end = end.and_then(|text| self.values.datetime("end", lines, &text, zone));
    }

    /// Sets the recurrence from `cron` or `every`, exactly one of which has to be set.
    fn recurrence(&mut self, read: &mut ScheduleTable, name: &str) {
        match (read.cron.take(), read.every.take()) {
            (Some(_), Some(_)) => self.values.problem(
                read.field_lines["every"],
                "`every`: `cron` is set too; set one of the two",
            ),
            (Some(expression), None) => {
                let tz = read.tz.take().or_else(|| self.tz.clone());
                read.new.recurrence = Recurrence::Cron { expression, tz };
            }
            (None, Some(WireDuration(interval))) => {
                if read.tz.is_some() && read.new.start.is_none() && read.new.end.is_none() {
                    self.values.problem(
                        read.field_lines["tz"],
                        "`tz`: an interval is the same in every time zone; use `tz` with `cron`, `start` or `end`",
                    );
                }
                read.new.recurrence = Recurrence::Every(interval);
            }
            // A field that is present but invalid has its own problem already.
            (None, None) if ["cron", "every"].iter().any(|field| read.has(field)) => {}
            (None, None) => self.values.problem(
                read.line,
                format!("`{name}` has neither `cron` nor `every`; set one of the two"),
            ),
        }
    }

    /// Validates the job's fields as an envelope.
    fn envelope(&mut self, read: &mut ScheduleTable, name: &str, problems_before: usize) {
        match envelope(&read.job) {
            Ok(envelope) => read.new.envelope = envelope,
            // A problem of the whole envelope, such as a missing command, may only follow from
            // a misspelt field, which is reported already.
            Err(invalid)
                if invalid.path.is_empty() && self.values.problem_count() > problems_before => {}
            Err(invalid) => {
                let field = invalid.path.split(['.', '[']).next().unwrap_or_default();
                let line = read.field_lines.get(field).copied().unwrap_or(read.line);
                self.values.problem(line, job_problem(name, &invalid));
            }
        }
    }

    /// Reads `command`, a list of the program and its arguments.
    fn command(&mut self, line: usize, value: &DeValue, job: &mut Map<String, Value>) {
        let words: Option<Vec<String>> = match value {
            DeValue::String(_) => None,
            value => match self.values.value("command", line, value) {
                Some(words) => Some(words),
                None => return,
            },
        };
        match words.as_deref() {
            Some([program, args @ ..]) => {
                job.insert("command".to_owned(), program.clone().into());
                if !args.is_empty() {
                    job.insert("args".to_owned(), args.to_vec().into());
                }
            }
            Some([]) => self.values.problem(line, "`command`: it is empty"),
            None => self.values.problem(
                line,
                "`command`: it must be a list such as [\"./backup.sh\", \"--all\"]; use `script` for a shell command",
            ),
        }
    }

    /// Reads `job`, a table of further fields of the envelope.
    fn job(
        &mut self,
        line: usize,
        value: &DeValue,
        job: &mut Map<String, Value>,
        field_lines: &mut BTreeMap<String, usize>,
    ) {
        let DeValue::Table(table) = value else {
            self.values.problem(
                line,
                "`job`: it must be a table of envelope fields, such as { timeout = \"5m\" }",
            );
            return;
        };
        for (name, line, value) in self.values.fields(table) {
            if !self.envelope_fields.iter().any(|known| known == name) {
                let known = std::mem::take(&mut self.envelope_fields);
                let names: Vec<&str> = known.iter().map(String::as_str).collect();
                self.values.unknown(line, name, &names);
                self.envelope_fields = known;
                continue;
            }
            if job.contains_key(name) {
                let text =
                    format!("`job.{name}`: this field is set outside `job` too; set it once");
                self.values.problem(line, text);
                continue;
            }
            match as_json(value) {
                Ok(value) => {
                    job.insert(name.to_owned(), value);
                }
                Err(error) => self.values.problem(line, format!("`job.{name}`: {error}")),
            }
            // A field of the schedule with the same name keeps its line.
            field_lines.entry(name.to_owned()).or_insert(line);
        }
    }
}

fn envelope(job: &Map<String, Value>) -> Result<Envelope, EnvelopeError> {
    let text = Value::Object(job.clone()).to_string();
    Envelope::parse(text.as_bytes())
}

fn job_problem(name: &str, invalid: &EnvelopeError) -> String {
    match invalid.path.as_str() {
        "" => format!("the job of `{name}` {}", invalid.message),
        path => format!("`job.{path}`: {}", invalid.message),
    }
}
