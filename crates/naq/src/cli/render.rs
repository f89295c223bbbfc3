//! Text for people: tables, ages, escapes; and JSON for programs.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use naq_cron::Timezone;
pub(super) use naq_protocol::escape;
use naq_protocol::{State, Timestamp};

/// One line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, value).map_err(io::Error::from)?;
    stdout.write_all(b"\n")
}

/// One line of text.
pub(super) fn print_line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(anstream::stdout(), "{text}")
}

/// A line for people beside the output.
pub(super) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// A table with a header. Cells are escaped; the table is as wide as the terminal, and as wide
/// as its content where there is none.
pub(super) fn print_table(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    if table.width() == Some(0) {
        // a terminal that nobody has told its size
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| escape(cell)));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    print_line(
        table
            .to_string()
            .lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

/// The same, for an error's one line: what is written in several becomes one.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    escape(lines.join(" ").trim_end())
}

/// The beginning of a text, for a cell.
pub(super) fn excerpt(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How long ago a moment was: `3s`, `5m`, `2h`, `4d`.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.unix_ms() - then.unix_ms()).max(0) / 1_000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How far a moment is away: `in 5m`, `3s ago`.
pub(super) fn relative_time(moment: Timestamp, now: Timestamp) -> String {
    if moment > now {
        format!("in {}", age(now, moment))
    } else {
        format!("{} ago", age(moment, now))
    }
}

/// A moment by the clocks of a zone, or in UTC: `2026-12-24T18:00:00+01:00`.
pub(super) fn format_in_zone(moment: Timestamp, zone: Option<&str>) -> String {
    let zone: Timezone = zone.and_then(|name| name.parse().ok()).unwrap_or_default();
    zone.format(moment.0)
}

/// A length of time for people: `12ms`, `3.4s`, `5m 10s`.
pub(super) fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{:.1}s", duration.as_secs_f64()),
        _ => {
            let seconds = duration.as_secs();
            match seconds {
                0..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
                _ => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
            }
        }
    }
}

/// A size for people: `512 B`, `1.5 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut size = bytes as f64;
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1_024.0 {
            break;
        }
        size /= 1_024.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

/// A state in its colour.
pub(super) fn state(state: State) -> String {
    use anstyle::AnsiColor;
    let colour = match state {
        State::Succeeded => AnsiColor::Green,
        State::Failed | State::Rejected => AnsiColor::Red,
        State::Running => AnsiColor::Cyan,
        State::Cancelled | State::Expired | State::Retrying => AnsiColor::Yellow,
        State::Queued | State::Scheduled | State::Waiting => AnsiColor::Blue,
    };
    let style = colour.on_default();
    format!("{style}{state}{style:#}")
}

/// The wall clock, for ages.
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

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(one_line("a:\n  - b\n  - c\u{1b}\n"), "a: - b - c\\u{1b}");
    }

    #[test]
    fn lengths_read_well() {
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(span(Duration::from_millis(3_400)), "3.4s");
        assert_eq!(span(Duration::from_secs(310)), "5m 10s");
    }
}
