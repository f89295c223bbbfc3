//! Schedules as a file describes them, and what is wrong with them by line.

use std::collections::BTreeMap;

use naq_client::{ClientError, NewSchedule};
use naq_core::{CronCache, ScheduleError, TickPlan};
use naq_protocol::{QueueName, Schedule, ScheduleStatus, Timestamp};

/// Something to say about a line of a file.
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
    /// Where it stands.
    pub(super) line: usize,
    /// Where its fields stand, if not there.
    pub(super) field_lines: BTreeMap<String, usize>,
    pub(super) queue: QueueName,
    pub(super) new: NewSchedule,
}

/// What a file describes.
#[derive(Debug, Default)]
pub(super) struct ScheduleFile {
    pub(super) schedules: Vec<FileSchedule>,
    /// What is wrong: with any of it, nothing of the file is taken.
    pub(super) problems: Vec<Diagnostic>,
    /// What is not as one may think.
    pub(super) warnings: Vec<Diagnostic>,
    /// The name the file gives to the set of its schedules.
    pub(super) set: Option<String>,
}

impl FileSchedule {
    /// The schedule as it is stored when it is made now. One whose end is past has ended.
    pub(super) fn schedule(&self, now: Timestamp) -> Result<Schedule, Diagnostic> {
        let end = self.new.end.filter(|end| *end <= now);
        let made = match end {
            None => self.new.to_schedule(&self.queue, now),
            // what is described in a file stays there when it is over, and is not wrong then
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
