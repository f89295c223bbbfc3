//! The log lines about jobs: one when an attempt starts, one when its outcome is recorded.
//!
//! A line names the program of a job and the number of its arguments. Arguments, input and environment
//! may be secrets and are never logged.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::options::JOBS_LOG_TARGET;
use naq_protocol::{Envelope, Record};

/// Maximum number of jobs for which a line of one kind is logged in a second.
const LINES_PER_SECOND: u32 = 100;

/// Longest name of a program in a line, in characters.
const PROGRAM_CHARS_MAX: usize = 60;

/// The kind of a line.
#[derive(Clone, Copy)]
enum Line {
    Started,
    Ended,
}

/// Counts the lines of a second. Each kind has a limit of its own, so that the log of a busy worker has
/// lines of both kinds.
#[derive(Debug)]
struct Sample {
    since: Instant,
    logged: [u32; 2],
    left_out: [u32; 2],
}

impl Sample {
    fn new(now: Instant) -> Sample {
        Sample {
            since: now,
            logged: [0; 2],
            left_out: [0; 2],
        }
    }

    /// Begins another second if this one is over. Returns how many lines of each kind were left out of
    /// the ended one; `None` if none were.
    fn turn(&mut self, now: Instant) -> Option<[u32; 2]> {
        if now.duration_since(self.since) < Duration::from_secs(1) {
            return None;
        }
        let left_out = std::mem::replace(self, Sample::new(now)).left_out;
        (left_out != [0; 2]).then_some(left_out)
    }

    /// Counts a line. Returns whether to log it.
    fn take(&mut self, line: Line) -> bool {
        let has_room = self.logged[line as usize] < LINES_PER_SECOND;
        let counts = if has_room {
            &mut self.logged
        } else {
            &mut self.left_out
        };
        counts[line as usize] += 1;
        has_room
    }
}

/// The log of a worker's jobs.
#[derive(Debug)]
pub(super) struct JobLog(Mutex<Sample>);

impl JobLog {
    pub(super) fn new() -> JobLog {
        JobLog(Mutex::new(Sample::new(Instant::now())))
    }

    /// Logs that an attempt starts.
    pub(super) fn started(&self, record: &Record, envelope: &Envelope) {
        if !self.has_room(Line::Started) {
            return;
        }
        tracing::info!(
            target: JOBS_LOG_TARGET,
            job_id = %record.job_id,
            queue = %record.queue,
            attempt = record.attempt,
            program = %program(envelope),
            args = envelope.args.len(),
            "job started"
        );
    }

    /// Logs that the outcome of an attempt is recorded.
    pub(super) fn ended(&self, record: &Record) {
        if !self.has_room(Line::Ended) {
            return;
        }
        tracing::info!(
            target: JOBS_LOG_TARGET,
            job_id = %record.job_id,
            queue = %record.queue,
            attempt = record.attempt,
            exit_code = record.exit_code,
            wall_ms = record.usage.as_ref().map(|usage| usage.wall_ms),
            "job {}{}",
            record.state(),
            record.reason().map(|reason| format!(" ({reason})")).unwrap_or_default()
        );
    }

    /// Reports what was left out of a second that is over. Called from time to time, for the last
    /// second before a worker has nothing to do.
    pub(super) fn report_left_out(&self) {
        if is_on() {
            let left_out = self.sample().turn(Instant::now());
            log_left_out(left_out);
        }
    }

    /// Whether to log a line. Costs nothing while the lines are turned off.
    fn has_room(&self, line: Line) -> bool {
        if !is_on() {
            return false;
        }
        let mut sample = self.sample();
        let left_out = sample.turn(Instant::now());
        let has_room = sample.take(line);
        drop(sample);
        log_left_out(left_out);
        has_room
    }

    fn sample(&self) -> std::sync::MutexGuard<'_, Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_on() -> bool {
    tracing::enabled!(target: JOBS_LOG_TARGET, tracing::Level::INFO)
}

fn log_left_out(left_out: Option<[u32; 2]>) {
    let Some([started, ended]) = left_out else {
        return;
    };
    tracing::info!(
        target: JOBS_LOG_TARGET,
        started,
        ended,
        "lines about jobs left out of this log, which has at most {LINES_PER_SECOND} of each kind a second"
    );
}

/// What a job runs, without its arguments: these may be secrets.
fn program(envelope: &Envelope) -> String {
    let program = match (&envelope.command, &envelope.function) {
        (Some(command), _) => command.as_str(),
        (None, Some(function)) => function.as_str(),
        (None, None) => return "(script)".to_owned(),
    };
    let program = naq_protocol::escape(program).to_string();
    if program.chars().count() <= PROGRAM_CHARS_MAX {
        return program;
    }
    // the end of a path says more than its beginning
    let cut = program.chars().count() - PROGRAM_CHARS_MAX;
    let end: String = program.chars().skip(cut).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_room_for_a_hundred_lines_of_each_kind() {
        let begin = Instant::now();
        let mut sample = Sample::new(begin);
        let mut logged = |line| (0..250).filter(|_| sample.take(line)).count();
        assert_eq!((logged(Line::Started), logged(Line::Ended)), (100, 100));
        assert_eq!(sample.turn(begin + Duration::from_millis(999)), None);
        let next = begin + Duration::from_secs(1);
        assert_eq!(sample.turn(next), Some([150, 150]));
        assert!(sample.take(Line::Started));
        assert_eq!(sample.turn(next + Duration::from_secs(1)), None);
    }

    #[test]
    fn a_line_names_the_program_and_none_of_its_arguments() {
        let envelope = Envelope::command("/srv/app/backup.sh", ["--password", "hunter2"]);
        assert_eq!(program(&envelope), "/srv/app/backup.sh");
        let long = format!("/{}/backup.sh", "x".repeat(100));
        let shown = program(&Envelope::command(long, Vec::<String>::new()));
        assert!(
            shown.starts_with('…') && shown.ends_with("x/backup.sh"),
            "{shown}"
        );
        let script = Envelope::parse(br#"{"script":"export TOKEN=hunter2"}"#).unwrap();
        assert_eq!(program(&script), "(script)");
        let lines = Envelope::command("a\nb", Vec::<String>::new());
        assert!(!program(&lines).contains('\n'));
    }
}
