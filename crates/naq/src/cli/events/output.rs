//! Events on standard output: many lines in one write.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};

use crate::cli::render::{self, Ending};
use naq_client::JobEvent;

/// Number of bytes after which the lines are written although more are about to come.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// For people, with colours or without.
    Text(ColorChoice),
    /// A JSON object a line. For a terminal the characters are escaped that would control it.
    Json { is_terminal: bool },
}

/// The lines of events that are not written yet.
pub(super) struct EventOutput {
    lines: Vec<u8>,
    style: Style,
}

impl EventOutput {
    /// Lines for the standard output of this process.
    pub(super) fn new(is_json: bool) -> EventOutput {
        let stdout = io::stdout();
        EventOutput {
            // looked up once: it depends on the environment, and on what the output is
            style: match is_json {
                true => Style::Json {
                    is_terminal: stdout.is_terminal(),
                },
                false => Style::Text(AutoStream::choice(&stdout)),
            },
            lines: Vec::new(),
        }
    }

    /// Adds the line of an event. Writes the lines if there are many.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written.
    pub(super) fn add(&mut self, event: &JobEvent) -> io::Result<()> {
        match self.style {
            Style::Text(colours) => {
                let mut lines = AutoStream::new(&mut self.lines, colours);
                writeln!(lines, "{}", line(event))?;
            }
            Style::Json { is_terminal } => {
                render::write_json(&mut self.lines, event, is_terminal)?;
            }
        }
        match self.lines.len() >= BUFFER_BYTES_MAX {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes the lines.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(&self.lines)?;
        self.lines.clear();
        stdout.flush()
    }
}

/// The line of an event for people.
fn line(event: &JobEvent) -> impl Display {
    let before = event
        .previous_state
        .map(|state| format!("{}→", render::state(state)))
        .unwrap_or_default();
    let record = &event.record;
    let error = match &record.error {
        Some(error) => format!("  {}", render::excerpt(&render::one_line(error), 120)),
        None => String::new(),
    };
    format!(
        "{}  {}  {}  {before}{}{error}",
        event.time,
        record.job_id,
        record.queue,
        render::outcome(Ending::of_summary(record))
    )
}
