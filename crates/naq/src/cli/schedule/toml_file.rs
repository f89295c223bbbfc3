//! Schedules in TOML: a table for each, `[schedule.NAME]`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schedule_file::{Diagnostic, FileSchedule, ScheduleFile};
use naq_client::{NewSchedule, Recurrence};
use naq_cron::{Cron, Timezone, parse_datetime};
use naq_protocol::units::WireDuration;
use naq_protocol::{
    Envelope, EnvelopeError, QueueName, ScheduleId, Timestamp, closest_match, schema,
    units::excerpt,
};

/// The fields at the top level of a file.
const TOP_LEVEL_FIELDS: [&str; 4] = ["schedule", "set", "queue", "tz"];

/// The fields of a schedule's table.
const SCHEDULE_FIELDS: [&str; 15] = [
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

/// The byte offsets of a text's line breaks, to find the line of an offset.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Lines {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines(breaks.map(|(at, _)| at).collect())
    }

    fn line_of(&self, span: &Range<usize>) -> usize {
        self.0.partition_point(|at| *at < span.start) + 1
    }
}

/// A table's fields in the order of the file, each with its line.
type Fields<'t, 'i> = Vec<(&'t str, usize, &'t DeValue<'i>)>;

fn fields<'t, 'i>(table: &'t DeTable<'i>, lines: &Lines) -> Fields<'t, 'i> {
    let mut items: Vec<(&Spanned<_>, &Spanned<DeValue>)> = table.iter().collect();
    items.sort_by_key(|(key, _)| key.span().start);
    items
        .into_iter()
        .map(|(key, value)| {
            let name: &str = key.get_ref();
            (name, lines.line_of(&key.span()), value.get_ref())
        })
        .collect()
}

/// Reads a file. `queue` is the queue of jobs for which the file sets none, `zone` the time zone
/// of cron expressions for which the file sets none.
pub(super) fn read(
    text: &str,
    queue: &QueueName,
    zone: Option<Timezone>,
    now: Timestamp,
) -> ScheduleFile {
    let lines = Lines::new(text);
    let mut file = ScheduleFile::default();
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let line = lines.line_of(&error.span().unwrap_or(0..0));
            let reason = error.message().trim().replace('\n', "; ");
            file.problems.push(Diagnostic::new(line, reason));
            return file;
        }
    };
    let mut reader = Reader {
        lines: &lines,
        problems: Vec::new(),
        queue: queue.clone(),
        tz: zone.map(|zone| zone.name().to_owned()),
        now,
        envelope_fields: envelope_fields(),
    };
    let mut schedules = None;
    for (name, line, value) in fields(&table, &lines) {
        match name {
            "set" => file.set = reader.value(name, line, value),
            "queue" => {
                if let Some(named) = reader.value(name, line, value) {
                    reader.queue = named;
                }
            }
            "tz" => {
                reader.tz = reader.zone(line, value).or(reader.tz.take());
            }
            "schedule" => schedules = Some((line, value)),
            other => reader.unknown(line, other, &TOP_LEVEL_FIELDS),
        }
    }
    match schedules {
        None => {}
        Some((_, DeValue::Table(table))) => {
            for (name, line, value) in fields(table, &lines) {
                file.schedules.extend(reader.schedule(name, line, value));
            }
        }
        Some((line, _)) => reader.problems.push(Diagnostic::new(
            line,
            "`schedule` is a table of tables: write [schedule.NAME] before each",
        )),
    }
    file.problems.append(&mut reader.problems);
    file.problems.sort_by_key(|problem| problem.line);
    file
}

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

/// Reads tables and collects all problems, so that one run reports every mistake of a file.
struct Reader<'r> {
    lines: &'r Lines,
    problems: Vec<Diagnostic>,
    queue: QueueName,
    tz: Option<String>,
    now: Timestamp,
    envelope_fields: Vec<String>,
}

impl Reader<'_> {
    fn unknown<'n>(
        &mut self,
        line: usize,
        name: &str,
        known: impl IntoIterator<Item = &'n &'n str, IntoIter: Clone>,
    ) {
        let known = known.into_iter().copied();
        let text = match closest_match(name, known.clone()) {
            Some(closest_match) => format!(
                "there is no `{}`; did you mean `{closest_match}`?",
                excerpt(name)
            ),
            None => {
                let known: Vec<&str> = known.collect();
                format!(
                    "there is no `{}`; there are {}",
                    excerpt(name),
                    known.join(", ")
                )
            }
        };
        self.problems.push(Diagnostic::new(line, text));
    }

    /// Reads a value of type `T`. Returns `None`, and adds a problem, if it is not one.
    fn value<T: DeserializeOwned>(
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
                self.problems
                    .push(Diagnostic::new(line, format!("`{name}`: {error}")));
                None
            }
        }
    }

    /// Reads a name. One that this version does not define is a problem here, as in a flag.
    fn name<T: FromStr<Err = String>>(
        &mut self,
        name: &str,
        line: usize,
        value: &DeValue,
    ) -> Option<T> {
        let text: String = self.value(name, line, value)?;
        let read = text.parse();
        if let Err(error) = &read {
            self.problems
                .push(Diagnostic::new(line, format!("`{name}`: {error}")));
        }
        read.ok()
    }

    /// Reads a duration.
    fn duration(&mut self, name: &str, line: usize, value: &DeValue) -> Option<Duration> {
        self.value(name, line, value)
            .map(|WireDuration(duration)| duration)
    }

    /// Reads a valid cron expression.
    fn cron(&mut self, line: usize, value: &DeValue) -> Option<String> {
        let expression: String = self.value("cron", line, value)?;
        match Cron::parse(&expression) {
            Ok(_) => Some(expression),
            Err(wrong) => {
                self.problems.push(Diagnostic::new(line, wrong.to_string()));
                None
            }
        }
    }

    /// Reads the name of an existing time zone.
    fn zone(&mut self, line: usize, value: &DeValue) -> Option<String> {
        let name: String = self.value("tz", line, value)?;
        match name.parse::<Timezone>() {
            Ok(_) => Some(name),
            Err(bad) => {
                self.problems
                    .push(Diagnostic::new(line, format!("`tz`: {bad}")));
                None
            }
        }
    }

    /// Reads the table of one schedule. Returns `None` if it has problems, which are then in
    /// `problems`.
    fn schedule(&mut self, name: &str, line: usize, value: &DeValue) -> Option<FileSchedule> {
        let problems_before = self.problems.len();
        let DeValue::Table(table) = value else {
            self.problems.push(Diagnostic::new(
                line,
                format!(
                    "`{}` is not a schedule: write [schedule.NAME] and its fields below",
                    excerpt(name)
                ),
            ));
            return None;
        };
        let schedule_id = match ScheduleId::new(name) {
            Ok(schedule_id) => Some(schedule_id),
            Err(bad) => {
                self.problems.push(Diagnostic::new(line, bad.to_string()));
                None
            }
        };
        let mut read = ScheduleTable::new(line, self.queue.clone());
        for (field, line, value) in fields(table, self.lines) {
            self.schedule_field(&mut read, field, line, value);
        }
        read.new.schedule_id = schedule_id;
        self.period(&mut read);
        self.recurrence(&mut read, name);
        self.envelope(&mut read, name, problems_before);
        (self.problems.len() == problems_before).then_some(FileSchedule {
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
            "cron" => read.cron = self.cron(line, value),
            "tz" => read.tz = self.zone(line, value),
            "every" => read.every = self.value(name, line, value),
            "command" => self.command(line, value, &mut read.job),
            "script" => {
                if let Some(script) = self.value::<String>(name, line, value) {
                    read.job.insert(name.to_owned(), script.into());
                }
            }
            "queue" => {
                if let Some(queue) = self.value(name, line, value) {
                    read.queue = queue;
                }
            }
            "repeat" => new.repeat = self.value(name, line, value),
            "start" => read.start = self.value(name, line, value),
            "end" => read.end = self.value(name, line, value),
            "jitter" => new.jitter = self.duration(name, line, value),
            "misfire" => new.misfire = self.name(name, line, value).unwrap_or_default(),
            "misfire_max" => new.misfire_max = self.value(name, line, value),
            "misfire_grace" => new.misfire_grace = self.duration(name, line, value),
            "overlap" => new.overlap = self.name(name, line, value).unwrap_or_default(),
            "job" => self.job(line, value, &mut read.job, &mut read.field_lines),
            other => self.unknown(line, other, &SCHEDULE_FIELDS),
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
        read.new.start = start.and_then(|text| self.datetime("start", lines, &text, zone));
        read.new.end = end.and_then(|text| self.datetime("end", lines, &text, zone));
    }

    /// Sets the recurrence from `cron` or `every`, exactly one of which has to be set.
    fn recurrence(&mut self, read: &mut ScheduleTable, name: &str) {
        match (read.cron.take(), read.every.take()) {
            (Some(_), Some(_)) => self.problems.push(Diagnostic::new(
                read.field_lines["every"],
                "`every`: `cron` is there as well; give one of the two",
            )),
            (Some(expression), None) => {
                let tz = read.tz.take().or_else(|| self.tz.clone());
                read.new.recurrence = Recurrence::Cron { expression, tz };
            }
            (None, Some(WireDuration(interval))) => {
                if read.tz.is_some() && read.new.start.is_none() && read.new.end.is_none() {
                    self.problems.push(Diagnostic::new(
                        read.field_lines["tz"],
                        "`tz`: an interval is the same in every zone; it is for `cron`, `start` and `end`",
                    ));
                }
                read.new.recurrence = Recurrence::Every(interval);
            }
            // A field that is present but invalid has its own problem already.
            (None, None) if ["cron", "every"].iter().any(|field| read.has(field)) => {}
            (None, None) => self.problems.push(Diagnostic::new(
                read.line,
                format!("`{name}` has neither `cron` nor `every`; give one of the two"),
            )),
        }
    }

    /// Validates the job's fields as an envelope.
    fn envelope(&mut self, read: &mut ScheduleTable, name: &str, problems_before: usize) {
        match envelope(&read.job) {
            Ok(envelope) => read.new.envelope = envelope,
            // A problem of the whole envelope, such as a missing command, may only follow from
            // a misspelt field, which is reported already.
            Err(invalid) if invalid.path.is_empty() && self.problems.len() > problems_before => {}
            Err(invalid) => {
                let field = invalid.path.split(['.', '[']).next().unwrap_or_default();
                let line = read.field_lines.get(field).copied().unwrap_or(read.line);
                self.problems
                    .push(Diagnostic::new(line, job_problem(name, &invalid)));
            }
        }
    }

    /// Reads `command`, a list of the program and its arguments.
    fn command(&mut self, line: usize, value: &DeValue, job: &mut Map<String, Value>) {
        let words: Option<Vec<String>> = match value {
            DeValue::String(_) => None,
            value => match self.value("command", line, value) {
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
            Some([]) => self.problems.push(Diagnostic::new(line, "`command`: it is empty")),
            None => self.problems.push(Diagnostic::new(
                line,
                "`command`: it is a list, [\"./backup.sh\", \"--all\"]; a line for the shell is a `script`",
            )),
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
            self.problems.push(Diagnostic::new(
                line,
                "`job`: it is a table of an envelope's fields, such as { timeout = \"5m\" }",
            ));
            return;
        };
        for (name, line, value) in fields(table, self.lines) {
            if !self.envelope_fields.iter().any(|known| known == name) {
                let known = std::mem::take(&mut self.envelope_fields);
                let names: Vec<&str> = known.iter().map(String::as_str).collect();
                self.unknown(line, name, &names);
                self.envelope_fields = known;
                continue;
            }
            if job.contains_key(name) {
                let text = format!("`job.{name}`: it is said beside `job` as well");
                self.problems.push(Diagnostic::new(line, text));
                continue;
            }
            match as_json(value) {
                Ok(value) => {
                    job.insert(name.to_owned(), value);
                }
                Err(error) => self
                    .problems
                    .push(Diagnostic::new(line, format!("`job.{name}`: {error}"))),
            }
            // A field of the schedule with the same name keeps its line.
            field_lines.entry(name.to_owned()).or_insert(line);
        }
    }

    /// Parses a time that is the same whenever the file is read; relative times and times of
    /// day are therefore refused.
    fn datetime(
        &mut self,
        field: &str,
        field_lines: &BTreeMap<String, usize>,
        text: &str,
        zone: Timezone,
    ) -> Option<Timestamp> {
        let read = match parse_datetime(text, zone, self.now.0) {
            Ok(_) if !text.contains('-') => {
                Err("a time of day is another moment each day; write the date as well".to_owned())
            }
            read => read.map_err(|bad| bad.to_string()),
        };
        match read {
            Ok(time) => Some(Timestamp(time)),
            Err(wrong) => {
                let line = field_lines.get(field).copied().unwrap_or_default();
                self.problems
                    .push(Diagnostic::new(line, format!("`{field}`: {wrong}")));
                None
            }
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

/// Converts a value to JSON. A date becomes a string.
fn as_json(value: &DeValue) -> Result<Value, String> {
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
            .ok_or_else(|| format!("{} is no number that can be used", number.as_str()))?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{Misfire, Overlap};
    use proptest::prelude::*;

    fn now() -> Timestamp {
        "2026-12-24T17:00:00Z".parse().unwrap()
    }

    fn file(text: &str) -> ScheduleFile {
        read(text, &QueueName::new("default").unwrap(), None, now())
    }

    fn problems(text: &str) -> Vec<(usize, String)> {
        let problems = file(text).problems.into_iter();
        problems.map(|one| (one.line, one.text)).collect()
    }

    #[test]
    fn a_file_is_read_as_it_stands() {
        let read = file(
            r#"
set = "mine"
queue = "nightly"
tz = "Europe/Berlin"

[schedule.backup]
cron = "0 5 * * *"
command = ["./backup.sh", "--all"]
start = 2027-06-01 00:00:00
end = "2027-07-01T00:00:00Z"
jitter = "30s"
misfire = "all"
misfire_max = 5
misfire_grace = 120
overlap = "skip"
repeat = 10

[schedule.backup.job]
timeout = "2h"
env = { LEVEL = "high" }

[schedule.beat]
every = 0.5
queue = "beats"
script = """
echo beat
"""
job.labels = { team = "a" }
"#,
        );
        assert_eq!(read.problems, []);
        assert_eq!(read.set.as_deref(), Some("mine"));
        let [backup, beat] = &read.schedules[..] else {
            panic!("{read:#?}");
        };
        let schedule = backup.schedule(now()).unwrap();
        assert_eq!(schedule.schedule_id.as_str(), "backup");
        assert_eq!(schedule.queue.as_str(), "nightly");
        assert_eq!(schedule.tz.as_deref(), Some("Europe/Berlin"));
        // by the clocks of the zone
        assert_eq!(
            schedule.start,
            Some("2027-05-31T22:00:00Z".parse().unwrap())
        );
        assert_eq!(schedule.end, Some("2027-07-01T00:00:00Z".parse().unwrap()));
        assert_eq!(schedule.misfire, Misfire::All);
        assert_eq!(schedule.misfire_max, Some(5));
        assert_eq!(schedule.misfire_grace, Some(WireDuration::from_secs(120)));
        assert_eq!(schedule.overlap, Overlap::Skip);
        assert_eq!(schedule.repeat, Some(10));
        let envelope = &backup.new.envelope;
        assert_eq!(envelope.summary(), "./backup.sh --all");
        assert_eq!(envelope.timeout, Some(WireDuration::from_secs(7_200)));
        assert_eq!(envelope.env["LEVEL"], "high");
        let schedule = beat.schedule(now()).unwrap();
        assert_eq!(schedule.every.unwrap().0.as_millis(), 500);
        assert_eq!(schedule.tz, None);
        assert_eq!(schedule.queue.as_str(), "beats");
        assert_eq!(beat.new.envelope.labels["team"], "a");
    }

    #[test]
    fn the_page_shows_a_sound_file() {
        let page = include_str!("../../../../../docs/schedules.md");
        let (_, shown) = page.split_once("```toml\n").unwrap();
        let read = file(shown.split("```").next().unwrap());
        assert_eq!(read.problems, []);
        assert_eq!(read.schedules.len(), 2);
        for file_schedule in &read.schedules {
            file_schedule.schedule(now()).unwrap();
        }
    }

    #[test]
    fn every_problem_is_reported_with_its_line() {
        let found = problems(
            r#"
tz = "Berlin"
shedule = 1
[schedule.a]
cron = "0 25 * * *"
comand = ["x"]
[schedule."b c"]
every = "soon"
command = "./x --all"
job = { tiemout = 5 }
[schedule.c]
command = ["x"]
job.timeout = 0
[schedule.d]
cron = "@daily"
every = "1s"
command = ["x"]
[schedule.e]
every = "1s"
command = []
misfire = "never"
start = 18:00:00
[schedule.f]
every = "1s"
command = ["x"]
job.command = "y"
repeat = -1
[schedule.g]
every = "1s"
script = "x"
job.secrets = ["1x"]
tz = "Asia/Tokyo"
"#,
        );
        let expected = [
            (2, "did you mean `Europe/Berlin`"),
            (3, "did you mean `schedule`"),
            (5, "hour (field 2)"),
            (6, "did you mean `command`"),
            (7, "schedule name"),
            (8, "not a duration"),
            (9, "it is a list"),
            (10, "did you mean `timeout`"),
            (11, "neither `cron` nor `every`"),
            (13, "`job.timeout`: it is 0"),
            (16, "give one of the two"),
            (20, "it is empty"),
            (21, "skip"),
            (22, "write the date as well"),
            (26, "beside `job`"),
            (27, "`repeat`"),
            (31, "`job.secrets[0]`"),
            (32, "interval"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for ((line, text), (expected_line, words)) in found.iter().zip(expected) {
            assert_eq!(*line, expected_line, "{text}");
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_syntax_error_is_reported_with_its_line() {
        assert_eq!(problems("a = \n")[0].0, 1);
        assert!(
            problems("[[schedule]]\nname = 'a'")[0]
                .1
                .contains("[schedule.NAME]")
        );
        assert!(
            problems("[schedule.a]\n[schedule.a]")[0]
                .1
                .contains("duplicate")
        );
    }

    #[test]
    fn what_is_over_is_no_mistake() {
        let read = file(
            "[schedule.a]\ncron = '@daily'\nscript = 'x'\nend = 2020-01-01T00:00:00Z\n[schedule.b]\ncron = '0 0 1 1 *'\nscript = 'x'\nend = 2026-12-25T00:00:00Z",
        );
        let over = read.schedules[0].schedule(now()).unwrap();
        assert_eq!(over.status, naq_protocol::ScheduleStatus::Ended);
        // but one that is to come and never does is
        let problem = read.schedules[1].schedule(now()).unwrap_err();
        assert_eq!(problem.line, 8);
        assert!(
            problem.text.contains("no tick before it"),
            "{}",
            problem.text
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = file(&text);
        }

        #[test]
        fn no_value_panics(
            field in proptest::sample::select(&SCHEDULE_FIELDS[..]),
            value in prop_oneof![
                Just("1"), Just("-1"), Just("1e400"), Just("nan"), Just("'x'"), Just("''"),
                Just("[]"), Just("['a', 1]"), Just("{}"), Just("{ command = 1 }"), Just("true"),
                Just("18:00:00"), Just("2026-12-24"), Just("2026-12-24T18:00:00+01:00"),
            ],
        ) {
            for file_schedule in file(&format!("[schedule.a]\n{field} = {value}\n")).schedules {
                let _ = file_schedule.schedule(now());
            }
        }
    }
}
