//! How output looks: tables, times, sizes and states for people, one line of JSON for programs.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::Table;
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::json::{NoteBody, NoteReport};
pub(super) use crate::text::{Ending, NEWER, age, bytes, count, excerpt, relative_time, span};
use naq_cron::Timezone;
pub(super) use naq_protocol::escape;
use naq_protocol::{State, Timestamp, escape_json};

/// How this process prints.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OutputMode {
    /// `--json`: one object a line, errors and notes too.
    pub(super) json: bool,
    /// `--wide`: every column of a table, whole.
    pub(super) wide: bool,
}

/// Set once, as soon as the arguments are known and before anything is printed.
static MODE: OnceLock<OutputMode> = OnceLock::new();

/// Sets how this process prints. Later calls have no effect.
pub(super) fn set_mode(mode: OutputMode) {
    let _ = MODE.set(mode);
}

/// Whether output, errors and notes are JSON.
pub(super) fn is_json() -> bool {
    MODE.get().is_some_and(|mode| mode.json)
}

/// Prints an object as one line of JSON. A terminal gets no character that would control it or hide:
/// such characters are escaped, as JSON allows, and the object is the same.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let is_terminal = stdout.is_terminal();
    write_json(&mut stdout, value, is_terminal)
}

/// Writes an object as one line of JSON, for a terminal as [`print_json`] says.
pub(super) fn write_json(
    out: &mut impl Write,
    value: &impl Serialize,
    is_terminal: bool,
) -> io::Result<()> {
    if is_terminal {
        let json = serde_json::to_string(value).map_err(io::Error::from)?;
        return writeln!(out, "{}", escape_json(&json));
    }
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// Prints an object as one line of JSON on standard error.
pub(super) fn print_stderr_json(value: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(value) {
        print_stderr(escape_json(&line));
    }
}

/// Prints a line of text.
pub(super) fn print_line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(anstream::stdout(), "{text}")
}

/// Ignores that standard output is closed, and prints one note about it. For verbs that report each of
/// their changes: they make all of them, however many reports are read.
pub(super) fn tolerate_closed_output(printed: io::Result<()>) -> io::Result<()> {
    static IS_NOTED: AtomicBool = AtomicBool::new(false);
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            if !IS_NOTED.swap(true, Ordering::Relaxed) {
                note(
                    "standard output is closed; naq makes the other changes without printing them",
                );
            }
            Ok(())
        }
        printed => printed,
    }
}

/// Prints a line of text on standard error. An error there has nowhere to be reported.
pub(super) fn print_stderr(text: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints a remark on standard error: `naq: …`, or `{"note": {…}}` with `--json`.
pub(super) fn note(message: impl std::fmt::Display) {
    note_with(NoteBody {
        message: message.to_string(),
        ..NoteBody::default()
    });
}

/// Prints a remark of which programs get more than the message.
pub(super) fn note_with(mut note: NoteBody) {
    note.message = one_line(&note.message);
    if is_json() {
        print_stderr_json(&NoteReport { note });
        return;
    }
    let place = match (&note.file, note.line) {
        (Some(file), Some(line)) => format!("{}:{line}: ", escape(file)),
        (Some(file), None) => format!("{}: ", escape(file)),
        (None, _) => String::new(),
    };
    print_stderr(format_args!("naq: {place}{}", note.message));
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    /// Left out of a terminal that is too narrow, the highest first. `None` means always shown.
    optional: Option<u8>,
    /// Numbers line up at the right.
    is_number: bool,
}

impl Column {
    pub(super) const fn new(title: &'static str) -> Column {
        Column {
            title,
            optional: None,
            is_number: false,
        }
    }

    /// A column of numbers.
    pub(super) const fn number(title: &'static str) -> Column {
        Column {
            is_number: true,
            ..Column::new(title)
        }
    }

    /// Leaves the column out where the terminal is too narrow; the highest rank goes first.
    pub(super) const fn optional(self, rank: u8) -> Column {
        Column {
            optional: Some(rank),
            ..self
        }
    }
}

/// Spaces between two columns.
const GAP: usize = 2;

/// The least width that the last column keeps before an optional column is left out.
const LAST_COLUMN_WIDTH_MIN: usize = 12;

/// Prints a table. No cell is wrapped, so every row is one line. On a terminal that is too narrow,
/// optional columns are left out and the last column ends in `…`; `--wide` and an output that is
/// no terminal get everything.
pub(super) fn print_table(columns: &[Column], rows: &[Vec<String>]) -> io::Result<()> {
    print_rows(columns, rows, &mut Vec::new(), true)
}

/// Prints rows of a table, the first of them with the header. The columns are at least as wide as `widths`, and
/// those become as wide as the columns.
fn print_rows(
    columns: &[Column],
    rows: &[Vec<String>],
    widths: &mut Vec<usize>,
    has_header: bool,
) -> io::Result<()> {
    let is_wide = MODE.get().is_some_and(|mode| mode.wide);
    // a width of 0 is a terminal whose size nobody has set
    let terminal = Table::new().width().map(usize::from);
    let width = terminal.filter(|width| *width > 0 && !is_wide);
    let lines = layout_from(columns, rows, widths, width);
    let mut stdout = anstream::stdout().lock();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            writeln!(stdout, "{line}")?;
        } else if has_header {
            let bold = anstyle::Style::new().bold();
            writeln!(stdout, "{bold}{line}{bold:#}")?;
        }
    }
    Ok(())
}

/// The number of rows of a [`LongTable`] that are printed together.
const BLOCK_ROWS: usize = 1_000;

/// A table of any number of rows, which are printed as they come: a thousand at once, so that their columns are
/// as wide as the widest of these cells. Later rows may be wider.
pub(super) struct LongTable {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
    is_begun: bool,
}

impl LongTable {
    pub(super) fn new(columns: &'static [Column]) -> LongTable {
        LongTable {
            columns,
            rows: Vec::new(),
            widths: Vec::new(),
            is_begun: false,
        }
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: Vec<String>) -> io::Result<()> {
        self.rows.push(row);
        if self.rows.len() < BLOCK_ROWS {
            return Ok(());
        }
        self.print()
    }

    /// Prints the rows that are not printed yet. A table without rows has no header.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.print()
    }

    fn print(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let has_header = !std::mem::replace(&mut self.is_begun, true);
        print_rows(self.columns, &rows, &mut self.widths, has_header)
    }
}

/// The lines of a table, header first, for a terminal of this width. `None` means no limit.
#[cfg(test)]
fn layout(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    layout_from(columns, rows, &mut Vec::new(), width)
}

/// The lines of a table, whose columns are at least as wide as `widths`. Those become as wide as the columns.
fn layout_from(
    columns: &[Column],
    rows: &[Vec<String>],
    widths: &mut Vec<usize>,
    width: Option<usize>,
) -> Vec<String> {
    let titles = columns.iter().map(|column| column.title.to_owned());
    let mut cells: Vec<Vec<String>> = vec![titles.collect()];
    for row in rows {
        cells.push(row.iter().map(|cell| escape(cell).to_string()).collect());
    }
    widths.resize(columns.len(), 0);
    for (at, width) in widths.iter_mut().enumerate() {
        let column = cells.iter().filter_map(|row| row.get(at));
        let widest = column.map(|cell| cell.width()).max();
        *width = widest.unwrap_or(0).max(*width);
    }
    let shown = shown_columns(columns, widths, width);
    let (Some(last), before) = (shown.last(), shown.iter().rev().skip(1)) else {
        return Vec::new();
    };
    let before: usize = before.map(|at| widths[*at] + GAP).sum();
    // the last column has what is left; a terminal without room for it shows it whole
    let room = width
        .and_then(|width| width.checked_sub(before))
        .filter(|room| *room > 0);
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for at in &shown {
            let cell = row.get(*at).map(String::as_str).unwrap_or_default();
            let padding = " ".repeat(widths[*at].saturating_sub(cell.width()));
            match (columns[*at].is_number, at == last, room) {
                (true, ..) => line.extend([padding.as_str(), cell]),
                (false, true, Some(room)) => line.push_str(&cut(cell, room)),
                (false, true, None) => line.push_str(cell),
                (false, false, _) => line.extend([cell, padding.as_str()]),
            }
            if at != last {
                line.push_str(&" ".repeat(GAP));
            }
        }
        line.truncate(line.trim_end().len());
        line
    };
    cells.iter().map(line).collect()
}

/// The columns that fit, by their places.
fn shown_columns(columns: &[Column], widths: &[usize], width: Option<usize>) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let Some(width) = width else {
        return shown;
    };
    loop {
        let last = shown.last().map_or(0, |last| widths[*last]);
        let before = shown.iter().rev().skip(1).map(|at| widths[*at] + GAP);
        let needed = before.sum::<usize>() + last.min(LAST_COLUMN_WIDTH_MIN);
        let goes_first = shown
            .iter()
            .enumerate()
            .filter_map(|(place, at)| Some((columns[*at].optional?, place)))
            .max();
        match goes_first {
            Some((_, place)) if needed > width => drop(shown.remove(place)),
            _ => return shown,
        }
    }
}

/// The beginning of a text that takes so many columns at most, with `…` where it was cut.
fn cut(text: &str, width_max: usize) -> String {
    if text.width() <= width_max {
        return text.to_owned();
    }
    let mut taken = String::new();
    let mut width = 1;
    for next in text.chars() {
        width += next.width().unwrap_or(0);
        if width > width_max {
            break;
        }
        taken.push(next);
    }
    taken.truncate(taken.trim_end().len());
    taken.push('…');
    taken
}

/// The width of the labels in what [`print_field`] prints: `scheduled for`, `misfire grace`.
const LABEL_WIDTH: usize = 14;

/// Prints a row of a description of one thing: a label, and a value that is printed as it is.
pub(super) fn print_field(label: &str, value: impl std::fmt::Display) -> io::Result<()> {
    let dim = anstyle::Style::new().dimmed();
    print_line(format_args!("{dim}{label:<LABEL_WIDTH$}{dim:#}  {value}"))
}

/// A text as one line, escaped: for errors and notes, whose causes may have several lines.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    escape(lines.join(" ").trim_end())
}

/// A cell that is not empty.
pub(super) fn or_dash(cell: String) -> String {
    if cell.is_empty() {
        "-".to_owned()
    } else {
        cell
    }
}

/// A moment in a time zone, or in UTC: `2026-12-24T18:00:00+01:00`.
pub(super) fn format_in_zone(moment: Timestamp, zone: Option<&str>) -> String {
    let zone: Timezone = zone.and_then(|name| name.parse().ok()).unwrap_or_default();
    zone.format(moment.0)
}

/// A moment in a time zone, or in UTC, and how far away it is: `2026-12-24T18:00:00+01:00 (in 5m)`.
pub(super) fn time_and_distance(moment: Timestamp, zone: Option<&str>, now: Timestamp) -> String {
    let time = format_in_zone(moment, zone);
    format!("{time} ({})", relative_time(moment, now))
}

/// The same for the last column of a table, of which a narrow terminal shows only the beginning:
/// `in 5m (2026-12-24T18:00:00+01:00)`.
pub(super) fn distance_and_time(moment: Timestamp, zone: Option<&str>, now: Timestamp) -> String {
    let distance = relative_time(moment, now);
    format!("{distance} ({})", format_in_zone(moment, zone))
}

/// A state in its colour.
pub(super) fn state(state: State) -> String {
    colour(state, state.as_str())
}

/// An outcome in the colour of its state.
pub(super) fn outcome(ending: Ending) -> String {
    colour(ending.state, &ending.to_string())
}

fn colour(state: State, text: &str) -> String {
    use anstyle::AnsiColor;
    let colour = match state {
        State::Succeeded => AnsiColor::Green,
        State::Failed | State::Rejected => AnsiColor::Red,
        State::Running => AnsiColor::Cyan,
        State::Cancelled | State::Expired | State::Retrying => AnsiColor::Yellow,
        State::Queued | State::Scheduled | State::Waiting => AnsiColor::Blue,
        State::Unknown(_) => AnsiColor::Magenta,
    };
    let style = colour.on_default();
    format!("{style}{text}{style:#}")
}

/// A name as it was written, and marked if only a later version of naq defines it.
pub(super) fn name_of_any_version(name: impl std::fmt::Display, is_unknown: bool) -> String {
    match is_unknown {
        true => format!("{name} ({NEWER})"),
        false => name.to_string(),
    }
}

/// The wall clock.
pub(super) fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the command line is an edge where time enters"
    )]
    std::time::SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::Reason;
    use std::time::Duration;

    const COLUMNS: [Column; 4] = [
        Column::new("JOB"),
        Column::number("ATTEMPT").optional(1),
        Column::new("CHANGED").optional(2),
        Column::new("COMMAND"),
    ];

    fn row(job: &str, attempt: &str, changed: &str, command: &str) -> Vec<String> {
        [job, attempt, changed, command].map(str::to_owned).to_vec()
    }

    #[test]
    fn error_text_becomes_one_line() {
        assert_eq!(one_line("a:\n  - b\n  - c\u{1b}\n"), "a: - b - c\\u{1b}");
    }

    #[test]
    fn durations_and_sizes_are_short() {
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(span(Duration::from_millis(3_400)), "3.4s");
        assert_eq!(span(Duration::from_secs(310)), "5m 10s");
    }

    #[test]
    fn next_run_in_a_narrow_column_shows_how_far_away_it_is() {
        let now: Timestamp = "2026-12-24T17:00:00Z".parse().unwrap();
        let next_run: Timestamp = "2026-12-24T17:05:00Z".parse().unwrap();
        let cell = distance_and_time(next_run, Some("Europe/Berlin"), now);
        assert_eq!(cell, "in 5m (2026-12-24T18:05:00+01:00)");
        assert_eq!(cut(&cell, LAST_COLUMN_WIDTH_MIN), "in 5m (2026…");
    }

    #[test]
    fn table_without_a_width_shows_everything() {
        let rows = [
            row(
                "a",
                "1",
                "2s",
                "./backup.sh --all --with a --long=list of words",
            ),
            row("longer", "12", "3m", "x"),
        ];
        assert_eq!(
            layout(&COLUMNS, &rows, None),
            [
                "JOB     ATTEMPT  CHANGED  COMMAND",
                "a             1  2s       ./backup.sh --all --with a --long=list of words",
                "longer       12  3m       x",
            ]
        );
    }

    #[test]
    fn narrow_table_drops_optional_columns_and_cuts_the_last() {
        let id = "0193f1c2-0000-7000-8000-000000000001";
        let rows = [row(id, "1", "2s", "./backup.sh --all")];
        let lines = layout(&COLUMNS, &rows, Some(50));
        assert_eq!(lines[1], format!("{id}  ./backup.sh…"));
        let lines = layout(&COLUMNS, &rows, Some(60));
        assert_eq!(lines[1], format!("{id}        1  ./backup.sh…"));
        // an id is whole even where the terminal is narrower than it is
        assert!(layout(&COLUMNS, &rows, Some(20))[1].starts_with(id));
    }

    #[test]
    fn cell_is_escaped_and_stays_one_line() {
        let rows = [row("a", "1", "2s", "echo 'a\nb'\u{1b}[2J")];
        assert_eq!(layout(&COLUMNS, &rows, None).len(), 2);
    }

    #[test]
    fn wide_characters_are_measured() {
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 6), "日本語");
    }

    #[test]
    fn outcome_has_one_spelling() {
        let ending = |state, reason, exit_code, signal| Ending {
            state,
            reason,
            exit_code,
            signal,
        };
        let shown = [
            ending(State::Succeeded, None, Some(0), None),
            ending(State::Failed, Some(Reason::Exit), Some(3), None),
            ending(State::Failed, Some(Reason::Signal), None, Some(9)),
            ending(State::Failed, Some(Reason::Timeout), Some(137), None),
            ending(State::Cancelled, Some(Reason::Cancelled), None, None),
            ending(State::from_name("suspended"), None, None, None),
            ending(State::from_name("a\u{1b}[31m"), None, None, None),
            ending(
                State::Failed,
                Some(Reason::from_name("moonlight")),
                Some(3),
                None,
            ),
        ]
        .map(|ending| ending.to_string());
        assert_eq!(
            shown,
            [
                "succeeded",
                "failed (exit 3)",
                "failed (signal 9)",
                "failed (timeout)",
                "cancelled",
                "suspended (written by a newer naq)",
                "a\\u{1b}[31m (written by a newer naq)",
                "failed (moonlight, written by a newer naq)",
            ]
        );
    }

    #[test]
    fn plurals_agree() {
        assert_eq!(
            [0, 1, 2].map(|number| count(number, "job")),
            ["0 jobs", "1 job", "2 jobs"]
        );
    }
}
