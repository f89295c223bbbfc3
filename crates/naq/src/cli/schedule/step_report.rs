//! What `naq schedule apply` reports of each schedule while it applies a file, and in the end.

use std::io;

use super::list::describe_timing;
use crate::cli::json::ScheduleChangeReport;
use crate::cli::render::{self, Column, LongTable};
use crate::cli::session::Session;
use naq_client::{ScheduleSetAction, ScheduleSetStep};
use naq_protocol::{ScheduleStatus, Timestamp};

const COLUMNS: &[Column] = &[
    Column::new("SCHEDULE"),
    Column::new("ACTION"),
    Column::new("WHEN"),
    Column::new("NEXT"),
    Column::new("FIELDS").optional(1),
];

/// How many schedules had which action.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepCounts {
    is_json: bool,
    created: usize,
    changed: usize,
    removed: usize,
    unchanged: usize,
    over: usize,
}

/// The report of the steps. It prints them as they come, and keeps a bounded number.
pub(super) struct StepReport<'s> {
    session: &'s Session,
    now: Timestamp,
    table: LongTable,
    counts: StepCounts,
    /// The first error of standard output. The changes are made all the same.
    printed: io::Result<()>,
}

impl StepReport<'_> {
    pub(super) fn new(session: &Session, now: Timestamp) -> StepReport<'_> {
        StepReport {
            session,
            now,
            table: LongTable::new(COLUMNS),
            counts: StepCounts {
                is_json: session.json,
                ..StepCounts::default()
            },
            printed: Ok(()),
        }
    }

    /// Counts a step and prints it.
    pub(super) fn add(&mut self, step: &ScheduleSetStep) {
        self.session.progress.advance();
        let counts = &mut self.counts;
        let (action, count) = match &step.action {
            ScheduleSetAction::Create => ("created", &mut counts.created),
            ScheduleSetAction::Change(_) => ("changed", &mut counts.changed),
            ScheduleSetAction::Remove => ("removed", &mut counts.removed),
            ScheduleSetAction::Unchanged => ("unchanged", &mut counts.unchanged),
            ScheduleSetAction::AlreadyEnded => ("over", &mut counts.over),
            ScheduleSetAction::Foreign(_) => return,
        };
        *count += 1;
        if self.printed.is_ok() {
            let printed = self.print(step, action);
            self.printed = render::tolerate_closed_output(printed);
        }
    }

    fn print(&mut self, step: &ScheduleSetStep, action: &str) -> io::Result<()> {
        let fields = match &step.action {
            ScheduleSetAction::Change(fields) => Some(fields.as_slice()),
            _ => None,
        };
        if self.session.json {
            let fields = fields.map(|fields| fields.iter().map(ToString::to_string).collect());
            return render::print_json(&ScheduleChangeReport {
                kind: None,
                schedule_id: Some(step.schedule_id.as_str()),
                job_id: None,
                action,
                changed: None,
                fields,
                status: step.status.as_ref().map(ScheduleStatus::as_str),
                next_run: step.next_run,
            });
        }
        if !step.action.is_write() {
            return Ok(());
        }
        let none = || "-".to_owned();
        let schedule = step.schedule.as_ref();
        let tz = schedule.and_then(|schedule| schedule.tz.as_deref());
        self.table.push(vec![
            step.schedule_id.to_string(),
            action.to_owned(),
            schedule.map_or_else(none, describe_timing),
            step.next_run.map_or_else(none, |next_run| {
                render::distance_and_time(next_run, tz, self.now)
            }),
            fields.map_or_else(none, |fields| fields.join(", ")),
        ])
    }

    /// The number of schedules that were written.
    pub(super) fn written(&self) -> usize {
        self.counts.created + self.counts.changed + self.counts.removed
    }

    /// Prints what is not printed yet, and returns the totals.
    ///
    /// # Errors
    /// Returns the first error of standard output, except that it is closed.
    pub(super) fn end(self) -> io::Result<StepCounts> {
        self.printed?;
        render::tolerate_closed_output(self.table.end())?;
        Ok(self.counts)
    }
}

impl StepCounts {
    /// Prints the totals. `skipped` is the number of lines that were left out.
    pub(super) fn summarize(self, would_be: &str, skipped: usize) {
        if self.is_json {
            return;
        }
        let StepCounts {
            created,
            changed,
            removed,
            unchanged,
            ..
        } = self;
        let over = match self.over {
            0 => String::new(),
            over => format!(", {over} over"),
        };
        let skipped = match skipped {
            0 => String::new(),
            lines => format!(", {} skipped", render::count(lines as u64, "line")),
        };
        render::note(format_args!(
            "{created} {would_be}created, {changed} changed, {removed} removed, {unchanged} unchanged{over}{skipped}"
        ));
    }
}
