//! Schedules in TOML: a table for each, `[schedule.NAME]`.

use toml::de::{DeTable, DeValue};

#[cfg(any(fuzzing, test))]
use super::schedule_file::ScheduleFile;
use super::schedule_file::{Diagnostic, Finding};
use super::toml_table::TableReader;
use super::toml_value::{Lines, ValueReader};
use naq_cron::Timezone;
use naq_protocol::{QueueName, Timestamp};

/// The fields at the top level of a file.
const TOP_LEVEL_FIELDS: [&str; 4] = ["schedule", "set", "queue", "tz"];

/// A file whose syntax has been parsed. Its schedules are read one by one.
pub(super) struct TomlFile<'t> {
    lines: Lines,
    table: DeTable<'t>,
    /// The queue of jobs for which a table sets none.
    queue: QueueName,
    /// The time zone of cron expressions for which a table sets none.
    tz: Option<String>,
    /// The name of the set of schedules. `None` if the file sets none.
    set: Option<String>,
    /// The problems of the fields at the top level, or of the syntax.
    problems: Vec<Diagnostic>,
    now: Timestamp,
}

impl<'t> TomlFile<'t> {
    /// Parses a file. `queue` is the queue of jobs for which the file sets none, `zone` the time zone
    /// of cron expressions for which the file sets none.
    pub(super) fn parse(
        text: &'t str,
        queue: &QueueName,
        zone: Option<Timezone>,
        now: Timestamp,
    ) -> TomlFile<'t> {
        let mut file = TomlFile {
            lines: Lines::new(text),
            table: DeTable::new(),
            queue: queue.clone(),
            tz: zone.map(|zone| zone.name().to_owned()),
            set: None,
            problems: Vec::new(),
            now,
        };
        match DeTable::parse(text) {
            Ok(table) => file.table = table.into_inner(),
            Err(error) => {
                let line = file.lines.line_of(&error.span().unwrap_or(0..0));
                let reason = error.message().trim().replace('\n', "; ");
                file.problems.push(Diagnostic::new(line, reason));
            }
        }
        // `queue` and `tz` apply to every schedule, wherever they are in the file.
        let mut values = ValueReader::new(&file.lines, now);
        for (name, line, value) in values.fields(&file.table) {
            match name {
                "set" => file.set = values.value(name, line, value),
                "queue" => {
                    if let Some(queue) = values.value(name, line, value) {
                        file.queue = queue;
                    }
                }
                "tz" => file.tz = values.zone(line, value).or(file.tz),
                "schedule" if value.is_table() => {}
                "schedule" => values.problem(
                    line,
                    "`schedule` must be a table of tables; write [schedule.NAME] before each",
                ),
                other => values.unknown(line, other, &TOP_LEVEL_FIELDS),
            }
        }
        let found = values.into_problems();
        file.problems.extend(found);
        file
    }

    /// The name of the set of schedules. `None` if the file sets none.
    pub(super) fn set(&self) -> Option<&str> {
        self.set.as_deref()
    }

    /// Reads the schedules, in the order of the file, after the problems of the file's top level.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        let values = ValueReader::new(&self.lines, self.now);
        let mut schedules = Vec::new();
        for (name, _, value) in values.fields(&self.table) {
            if let ("schedule", DeValue::Table(table)) = (name, value) {
                schedules = values.fields(table);
            }
        }
        let mut tables = TableReader::new(values, self.queue.clone(), self.tz.clone());
        let schedules = schedules.into_iter().flat_map(move |(name, line, value)| {
            let schedule = tables.schedule(name, line, value);
            let schedule = schedule.map(|schedule| Finding::Schedule(Box::new(schedule)));
            let problems = tables.values.take_problems();
            let problems = problems.into_iter().map(Finding::Problem);
            problems.chain(schedule)
        });
        let problems = self.problems.iter().cloned().map(Finding::Problem);
        problems.chain(schedules)
    }
}

/// Reads a whole file.
#[cfg(any(fuzzing, test))]
pub(super) fn read(
    text: &str,
    queue: &QueueName,
    zone: Option<Timezone>,
    now: Timestamp,
) -> ScheduleFile {
    let file = TomlFile::parse(text, queue, zone, now);
    file.findings().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::units::WireDuration;
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
    fn file_is_read_field_by_field() {
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
        let [backup, beat] = &read.schedules[..] else {
            panic!("{read:#?}");
        };
        let schedule = backup.schedule(now()).unwrap();
        assert_eq!(schedule.schedule_id.as_str(), "backup");
        assert_eq!(schedule.queue.as_str(), "nightly");
        assert_eq!(schedule.tz.as_deref(), Some("Europe/Berlin"));
        // `start` is local time of the zone.
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
    fn a_file_names_its_set() {
        let queue = QueueName::new("default").unwrap();
        let set = |text| {
            let file = TomlFile::parse(text, &queue, None, now());
            file.set().map(str::to_owned)
        };
        assert_eq!(set("[schedule.a]").as_deref(), None);
        assert_eq!(set("set = 'mine'\n[schedule.a]").as_deref(), Some("mine"));
    }

    #[test]
    fn file_of_the_schedules_page_is_valid() {
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
            (9, "must be a list"),
            (10, "did you mean `timeout`"),
            (11, "neither `cron` nor `every`"),
            (13, "`job.timeout`: it is 0"),
            (16, "set one of the two"),
            (20, "it is empty"),
            (21, "skip"),
            (22, "write the date too"),
            (26, "outside `job`"),
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
    fn schedule_that_has_ended_is_no_mistake() {
        let read = file(
            "[schedule.a]\ncron = '@daily'\nscript = 'x'\nend = 2020-01-01T00:00:00Z\n[schedule.b]\ncron = '0 0 1 1 *'\nscript = 'x'\nend = 2026-12-25T00:00:00Z",
        );
        let over = read.schedules[0].schedule(now()).unwrap();
        assert_eq!(over.status, naq_protocol::ScheduleStatus::Ended);
        // A schedule whose end is to come, but that has no tick before it, is a mistake.
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
            field in proptest::sample::select(&super::super::toml_table::SCHEDULE_FIELDS[..]),
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
