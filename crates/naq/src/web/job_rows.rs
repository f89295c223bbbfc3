//! Jobs as lines, for spreadsheets and for programs that read line by line.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use naq_client::JobSummary;
use naq_cron::Timezone;
use naq_protocol::{Timestamp, escape};

/// Comma-separated values, with a line of names first.
pub(super) const CSV: &str = "text/csv";

/// A JSON object in each line.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// A format with one line for each job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Ndjson,
}

/// The columns of [`Format::Csv`].
const COLUMNS: [&str; 15] = [
    "job_id",
    "queue",
    "state",
    "reason",
    "attempt",
    "exit_code",
    "signal",
    "worker_id",
    "enqueue_time",
    "started_at",
    "finished_at",
    "changed_at",
    "labels",
    "command",
    "error",
];

impl Format {
    /// The format that a request asks for. `None` means that it asks for none of these.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Format> {
        let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
        let mut types = accept
            .split(',')
            .map(|part| part.split(';').next().unwrap_or_default().trim());
        types.find_map(|media_type| match media_type {
            CSV => Some(Format::Csv),
            NDJSON | "application/ndjson" | "application/jsonl" => Some(Format::Ndjson),
            _ => None,
        })
    }

    /// The type of an answer.
    pub(super) fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Ndjson => NDJSON,
        })
    }

    /// The text before the first job.
    pub(super) fn head(self) -> String {
        match self {
            Format::Csv => format!("{}\r\n", COLUMNS.join(",")),
            Format::Ndjson => String::new(),
        }
    }

    /// The lines of jobs, with times in UTC. Those of [`Format::Csv`] can be in another time zone, with its offset: a
    /// spreadsheet shows them as they are, and a program that reads JSON converts them itself.
    pub(super) fn lines(self, jobs: &[JobSummary], zone: Timezone) -> String {
        let lines = jobs.iter().map(|job| match self {
            Format::Csv => csv_line(job, zone),
            Format::Ndjson => serde_json::to_string(job)
                .map(|line| line + "\n")
                .unwrap_or_default(),
        });
        lines.collect()
    }

    /// An answer of these jobs.
    pub(super) fn response(self, jobs: &[JobSummary]) -> Response {
        let body = self.head() + &self.lines(jobs, Timezone::UTC);
        ([(header::CONTENT_TYPE, self.media_type())], body).into_response()
    }
}

fn csv_line(job: &JobSummary, zone: Timezone) -> String {
    let time = |time: Timestamp| match zone == Timezone::UTC {
        true => time.to_string(),
        false => zone.format(time.0),
    };
    let record = &job.record;
    let number = |number: Option<i32>| number.map(|number| number.to_string());
    let labels = job
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    let cells = [
        Some(record.job_id.to_string()),
        Some(record.queue.to_string()),
        Some(record.state.to_string()),
        record.reason.map(|reason| reason.to_string()),
        Some(record.attempt.to_string()),
        number(record.exit_code),
        number(record.signal),
        job.worker_id.clone(),
        Some(time(job.enqueue_time)),
        job.started_at.map(time),
        job.finished_at.map(time),
        Some(time(job.changed_at)),
        Some(labels.collect::<Vec<_>>().join("; ")),
        job.command.clone(),
        record.error.clone(),
    ];
    let cells = cells.map(|cell| csv_cell(cell.as_deref().unwrap_or_default()));
    format!("{}\r\n", cells.join(","))
}

/// A cell. If a spreadsheet would interpret the text as a formula, the cell begins with an apostrophe,
/// because a formula in a job's text could send the sheet's content elsewhere.
fn csv_cell(text: &str) -> String {
    let text = escape(text);
    let first = text.trim_start().chars().next();
    let is_formula = matches!(
        first,
        Some('=' | '+' | '-' | '@' | '|' | '%' | '＝' | '＋' | '－' | '＠')
    );
    let text = match is_formula {
        true => format!("'{text}"),
        false => text,
    };
    let is_plain = !text.contains([',', ';', '"', '\'', ' ']);
    match is_plain {
        true => text,
        false => format!("\"{}\"", text.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_type_of_the_answer_is_chosen_by_the_request() {
        for (accept, expected) in [
            ("text/csv", Some(Format::Csv)),
            ("text/csv;q=0.9, */*", Some(Format::Csv)),
            ("application/x-ndjson", Some(Format::Ndjson)),
            ("application/json", None),
            ("*/*", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(Format::accepted(&headers), expected, "{accept}");
        }
        assert_eq!(Format::accepted(&HeaderMap::new()), None);
    }

    #[test]
    fn a_cell_is_no_formula() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a b", "\"a b\""),
            ("=cmd|' /C calc'!A0", "\"'=cmd|' /C calc'!A0\""),
            ("  =1+1", "\"'  =1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\t=1", "\\t=1"),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("a\nb", "a\\nb"),
            ("", ""),
        ] {
            assert_eq!(csv_cell(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cell_is_one_line_and_begins_no_formula(text in "\\PC{0,20}|[=+@\n\r\t\",; -]{0,9}") {
            let cell = csv_cell(&text);
            prop_assert!(!cell.contains(['\n', '\r', '\t']));
            let quoted = cell.strip_prefix('"').and_then(|cell| cell.strip_suffix('"'));
            let content = quoted.map_or(cell.clone(), |text| text.replace("\"\"", "\""));
            prop_assert!(!content.starts_with(['=', '+', '-', '@']), "{}", cell);
            prop_assert!(!cell.contains(',') || cell.starts_with('"'), "{}", cell);
            prop_assert!(cell.matches('"').count().is_multiple_of(2), "{}", cell);
        }
    }
}
