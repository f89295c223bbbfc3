//! Output of a running job as markup, for a viewer that may be slower than the job.

use std::collections::VecDeque;

use bytes::Bytes;

use super::ansi::AnsiText;
use crate::text;
use naq_client::{LogChunk, OutputStream};

/// Maximum size of the output that waits to be shown, in bytes. The oldest output is dropped, and replaced by
/// a mark.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// Maximum size of a line that is not complete yet, in bytes.
const PARTIAL_BYTES_MAX: usize = 16 << 10;

/// The output that a viewer has not received yet, and the state to render it.
#[derive(Default)]
pub(super) struct LiveOutput {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Number of bytes that were dropped since the last call of [`LiveOutput::markup`].
    dropped_bytes: u64,
    attempt: u32,
    stdout: LineBuffer,
    stderr: LineBuffer,
}

/// A piece of output that waits to be shown.
enum Waiting {
    Bytes(OutputStream, Bytes),
    /// A line about the output.
    Mark(String),
}

impl LiveOutput {
    /// Adds a piece of output.
    pub(super) fn push(&mut self, chunk: LogChunk) {
        match chunk {
            LogChunk::Bytes {
                stdio,
                attempt,
                bytes,
            } => {
                self.begin(attempt);
                self.waiting_bytes += bytes.len();
                self.waiting.push_back(Waiting::Bytes(stdio, bytes));
                self.make_room();
            }
            LogChunk::Missing {
                attempt,
                bytes,
                is_live,
                ..
            } => {
                self.begin(attempt);
                let size = text::bytes(bytes);
                self.mark(match is_live {
                    true => format!("… {size} not shown; the record of the job may have them"),
                    false => format!("… {size} lost"),
                });
            }
            _ => {}
        }
    }

    /// Starts an attempt.
    fn begin(&mut self, attempt: u32) {
        if self.attempt != attempt && self.attempt != 0 {
            self.mark(format!("attempt {attempt}"));
        }
        self.attempt = attempt;
    }

    fn mark(&mut self, text: String) {
        // marks are few: one for each attempt, and one for bytes that a worker dropped
        self.waiting_bytes += text.len();
        self.waiting.push_back(Waiting::Mark(text));
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.waiting_bytes > WAITING_BYTES_MAX {
            let excess = self.waiting_bytes - WAITING_BYTES_MAX;
            match self.waiting.front_mut() {
                Some(Waiting::Bytes(_, bytes)) if bytes.len() > excess => {
                    drop(bytes.split_to(excess));
                    self.waiting_bytes -= excess;
                    self.dropped_bytes += excess as u64;
                }
                Some(Waiting::Bytes(_, bytes)) => {
                    self.waiting_bytes -= bytes.len();
                    self.dropped_bytes += bytes.len() as u64;
                    self.waiting.pop_front();
                }
                Some(Waiting::Mark(text)) => {
                    self.waiting_bytes -= text.len();
                    self.waiting.pop_front();
                }
                None => self.waiting_bytes = 0,
            }
        }
    }

    /// Whether nothing waits to be shown.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.dropped_bytes == 0
    }

    /// The markup of what waits: an element for each line. Lines that are not complete are marked, and
    /// replace those of the call before.
    pub(super) fn markup(&mut self) -> String {
        let mut markup = String::new();
        if self.dropped_bytes > 0 {
            let size = text::bytes(std::mem::take(&mut self.dropped_bytes));
            for lines in [&mut self.stdout, &mut self.stderr] {
                lines.forget();
            }
            push_mark(
                &mut markup,
                &format!("… {size} not shown; the record of the job will have them"),
            );
        }
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Bytes(stdio, bytes) => {
                    let (lines, class) = match stdio {
                        OutputStream::Stdout => (&mut self.stdout, "line"),
                        OutputStream::Stderr => (&mut self.stderr, "line err"),
                    };
                    lines.push(&bytes, class, &mut markup);
                }
                Waiting::Mark(text) => push_mark(&mut markup, &text),
            }
        }
        self.waiting_bytes = 0;
        self.stdout.push_partial("line", &mut markup);
        self.stderr.push_partial("line err", &mut markup);
        markup
    }
}

fn push_mark(markup: &mut String, text: &str) {
    let text = AnsiText::default().line(text);
    markup.push_str(&format!("<div class=\"mark\">{text}</div>"));
}

/// The last line of a stream, which is not complete yet.
#[derive(Default)]
struct LineBuffer {
    text: AnsiText,
    partial: Vec<u8>,
    /// Bytes of the line that did not fit.
    cut_bytes: u64,
}

impl LineBuffer {
    fn push(&mut self, bytes: &[u8], class: &str, markup: &mut String) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.extend(line);
            self.finish(class, markup);
            rest = after.get(1..).unwrap_or_default();
        }
        self.extend(rest);
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        if self.partial.len() <= PARTIAL_BYTES_MAX {
            return;
        }
        // a progress bar overwrites its line, so the earlier content is not needed
        let last = self.partial.len() - 1;
        let restart = self.partial.get(..last).unwrap_or_default();
        if let Some(at) = restart.iter().rposition(|byte| *byte == b'\r') {
            let shown = self.partial.split_off(at + 1);
            let skipped = std::mem::replace(&mut self.partial, shown);
            self.text.skip(&String::from_utf8_lossy(&skipped));
            self.cut_bytes = 0;
        }
        let excess = self.partial.len().saturating_sub(PARTIAL_BYTES_MAX);
        self.cut_bytes += excess as u64;
        self.partial.truncate(PARTIAL_BYTES_MAX);
    }

    /// Adds the line, which is complete.
    fn finish(&mut self, class: &str, markup: &mut String) {
        let line = std::mem::take(&mut self.partial);
        let text = self.text.line(&String::from_utf8_lossy(&line));
        let cut = self.cut_mark();
        self.cut_bytes = 0;
        markup.push_str(&format!("<div class=\"{class}\">{text}{cut}</div>"));
    }

    /// Adds the incomplete line, to be replaced later.
    fn push_partial(&self, class: &str, markup: &mut String) {
        if self.partial.is_empty() {
            return;
        }
        // the next call reads the line again from its beginning
        let mut text = self.text;
        let text = text.line(&String::from_utf8_lossy(&self.partial));
        let cut = self.cut_mark();
        markup.push_str(&format!(
            "<div class=\"{class}\" data-partial>{text}{cut}</div>"
        ));
    }

    fn cut_mark(&self) -> String {
        match self.cut_bytes {
            0 => String::new(),
            more => format!("<b class=\"cut\">… {} more</b>", text::bytes(more)),
        }
    }

    /// Drops the line, because the rest of it is not shown.
    fn forget(&mut self) {
        *self = LineBuffer::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(stdio: OutputStream, bytes: &[u8]) -> LogChunk {
        LogChunk::Bytes {
            stdio,
            attempt: 1,
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    #[test]
    fn lines_appear_as_they_are_written() {
        let mut output = LiveOutput::default();
        output.push(chunk(OutputStream::Stdout, b"one\ntw"));
        output.push(chunk(OutputStream::Stderr, b"<oops>\n"));
        assert_eq!(
            output.markup(),
            "<div class=\"line\">one</div><div class=\"line err\">&lt;oops&gt;</div><div class=\"line\" data-partial>tw</div>"
        );
        assert!(output.is_empty());
        output.push(chunk(OutputStream::Stdout, b"o\n"));
        assert_eq!(output.markup(), "<div class=\"line\">two</div>");
        output.push(LogChunk::Bytes {
            stdio: OutputStream::Stdout,
            attempt: 2,
            bytes: Bytes::from_static(b"again\n"),
        });
        assert_eq!(
            output.markup(),
            "<div class=\"mark\">attempt 2</div><div class=\"line\">again</div>"
        );
    }

    #[test]
    fn a_viewer_that_is_slow_sees_the_latest_output_and_how_much_is_missing() {
        let mut output = LiveOutput::default();
        for n in 0..100_000 {
            output.push(chunk(
                OutputStream::Stdout,
                format!("line {n}\n").as_bytes(),
            ));
        }
        let markup = output.markup();
        assert!(markup.len() < 400_000, "{}", markup.len());
        assert!(
            markup.starts_with("<div class=\"mark\">… 999.4 KiB not shown"),
            "{}",
            &markup[..80]
        );
        assert!(markup.ends_with("line 99999</div>"));
    }

    #[test]
    fn a_line_without_an_end_fills_no_memory() {
        let mut output = LiveOutput::default();
        for _ in 0..200 {
            output.push(chunk(OutputStream::Stdout, &[b'x'; 60 << 10]));
            let markup = output.markup();
            assert!(markup.len() < 20_000, "{}", markup.len());
        }
        assert!(output.stdout.partial.len() <= PARTIAL_BYTES_MAX);
        for n in 0..10_000 {
            output.push(chunk(OutputStream::Stderr, format!("\r{n} %").as_bytes()));
        }
        assert!(output.markup().contains(">9999 %<"));
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_the_lines_are_the_same(text in "[a-z\n]{0,60}", cuts in proptest::collection::vec(0_usize..60, 0..5)) {
            let mut whole = LiveOutput::default();
            whole.push(chunk(OutputStream::Stdout, text.as_bytes()));
            let mut pieces = LiveOutput::default();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                pieces.push(chunk(OutputStream::Stdout, &text.as_bytes()[pair[0]..pair[1]]));
            }
            prop_assert_eq!(pieces.markup(), whole.markup());
        }
    }
}
