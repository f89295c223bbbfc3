//! The schedules that a file describes, and the problems of the file by line.

use std::collections::BTreeMap;

use naq_client::{ClientError, NewSchedule};
use naq_core::{CronCache, ScheduleError, TickPlan};
use naq_protocol::{QueueName, Schedule, ScheduleStatus, Timestamp};

/// A problem or a warning about a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Diagnostic {
    /// The line, from 1.
    pub(super) line: usize,
    pub(super) text: String,
}

impl Diagnostic {
    pub(super) fn new(line: usize, text: impl Into<String>) -> Diagnostic {
        Diagnostic {
            line,
            text: text.into(),
        }
    }
}

/// A schedule of a file.
#[derive(Debug)]
pub(super) struct FileSchedule {
    /// The line of the schedule, from 1.
    pub(super) line: usize,
    /// The lines of its fields that have lines of their own.
    pub(super) field_lines: BTreeMap<String, usize>,
    pub(super) queue: QueueName,
    pub(super) new: NewSchedule,
}

/// What a reader finds in a file, one by one: a file may have any number of schedules.
#[derive(Debug)]
pub(super) enum Finding {
    Schedule(Box<FileSchedule>),
    /// A problem. If a file has any, none of its schedules is applied.
    Problem(Diagnostic),
    /// A line that only other implementations of cron accept.
    Unsupported(Diagnostic),
    /// A warning about a line that may not mean what the user expects.
    Warning(Diagnostic),
}

/// All that a reader finds in a file.
#[cfg(any(fuzzing, test))]
#[derive(Debug, Default)]
pub(super) struct ScheduleFile {
    pub(super) schedules: Vec<FileSchedule>,
    pub(super) problems: Vec<Diagnostic>,
    pub(super) unsupported: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
}

#[cfg(any(fuzzing, test))]
impl FromIterator<Finding> for ScheduleFile {
    fn from_iter<I: IntoIterator<Item = Finding>>(findings: I) -> ScheduleFile {
        let mut file = ScheduleFile::default();
        for finding in findings {
            match finding {
                Finding::Schedule(schedule) => file.schedules.push(*schedule),
                Finding::Problem(problem) => file.problems.push(problem),
                Finding::Unsupported(line) => file.unsupported.push(line),
                Finding::Warning(warning) => file.warnings.push(warning),
            }
        }
        file.problems.sort_by_key(|problem| problem.line);
        file
    }
}

impl FileSchedule {
    /// Returns the schedule as it is stored if it is created now. A schedule whose end is past has
    /// the status `ended`.
    pub(super) fn schedule(&self, now: Timestamp) -> Result<Schedule, Diagnostic> {
        let end = self.new.end.filter(|end| *end <= now);
        let made = match end {
            None => self.new.to_schedule(&self.queue, now),
            // A schedule usually stays in its file after its end, so that is no mistake.
            Some(end) => {
                let endless = NewSchedule {
                    end: None,
                    ..self.new.clone()
                };
                endless
                    .to_schedule(&self.queue, now)
                    .and_then(|mut schedule| {
                        schedule.end = Some(end);
                        schedule.status = ScheduleStatus::Ended;
                        TickPlan::new(&schedule, &mut CronCache::default())?;
                        Ok(schedule)
                    })
            }
        };
        made.map_err(|error| self.diagnostic(&error))
    }

    fn diagnostic(&self, error: &ClientError) -> Diagnostic {
        let field = match error {
            ClientError::ScheduleError(ScheduleError::Cron(_)) => "cron",
            ClientError::ScheduleError(ScheduleError::Field { field, .. }) => field,
            ClientError::ScheduleError(ScheduleError::Envelope(invalid))
            | ClientError::Invalid(invalid) => {
                invalid.path.split(['.', '[']).next().unwrap_or_default()
            }
            _ => "",
        };
        let line = self.field_lines.get(field).copied().unwrap_or(self.line);
        Diagnostic::new(line, error.to_string())
    }
}
