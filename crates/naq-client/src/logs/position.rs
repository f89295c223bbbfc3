//! How far a reader of a job's output has come, and which bytes it has not seen.

use std::collections::VecDeque;

use crate::log_chunk::LogChunk;
use crate::stored_output::StoredOutput;
use naq_jetstream::{LogChunk as LiveChunk, OutputStream};

const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

/// The place in the output of the attempt that is being read.
#[derive(Debug, Default)]
pub(super) struct LogPosition {
    /// The attempt. 0 means that nothing was read.
    attempt: u32,
    /// Bytes of its standard output and standard error that were read, or reported missing.
    read_bytes: [u64; 2],
    /// Lengths of its streams, once its end marker was read. `None` inside means an earlier version.
    end: Option<[Option<u64>; 2]>,
    /// Whether the chunks of the attempt have offsets.
    has_offsets: bool,
}

impl LogPosition {
    /// Whether no live output was read.
    pub(super) fn is_empty(&self) -> bool {
        self.attempt == 0
    }

    /// Whether the chunks have offsets, and so can be compared with the record.
    pub(super) fn has_offsets(&self) -> bool {
        self.has_offsets
    }

    /// Whether the end marker of this attempt was read.
    pub(super) fn is_at_end_of(&self, attempt: u32) -> bool {
        self.attempt == attempt && self.end.is_some()
    }

    /// Whether all bytes of a stream of this attempt were read, or reported missing.
    pub(super) fn has_all(&self, attempt: u32, stdio: OutputStream, written_bytes: u64) -> bool {
        self.attempt == attempt
            && self.has_offsets
            && self.read_bytes[index(stdio)] >= written_bytes
    }

    /// Takes a chunk of live output. Adds to `chunks` what a reader should see.
    pub(super) fn advance(&mut self, chunk: LiveChunk, chunks: &mut VecDeque<LogChunk>) {
        match chunk {
            LiveChunk::Bytes {
                stdio,
                attempt,
                offset,
                bytes,
            } => {
                self.begin(attempt, chunks);
                let stream = index(stdio);
                let at = self.read_bytes[stream];
                let offset = match offset {
                    Some(offset) => {
                        self.has_offsets = true;
                        offset
                    }
                    None => at,
                };
                self.skip_to(stream, offset, true, chunks);
                // A chunk that was published twice is shown once.
                let repeated = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
                let new = bytes.slice(repeated.min(bytes.len())..);
                self.read_bytes[stream] += new.len() as u64;
                if !new.is_empty() {
                    chunks.push_back(LogChunk::Bytes {
                        stdio,
                        attempt,
                        bytes: new,
                    });
                }
            }
            LiveChunk::End {
                attempt,
                stdout_bytes,
                stderr_bytes,
            } => {
                self.begin(attempt, chunks);
                // What is missing before it may be in the record, if this is the last attempt.
                self.end = Some([stdout_bytes, stderr_bytes]);
                chunks.push_back(LogChunk::End { attempt });
            }
        }
    }

    /// Takes what is stored of the last attempt, after the job's end. Adds to `chunks` what live
    /// output did not have of it.
    pub(super) fn complete(
        &mut self,
        attempt: u32,
        stored: [StoredOutput; 2],
        chunks: &mut VecDeque<LogChunk>,
    ) {
        self.begin(attempt, chunks);
        if !self.has_offsets && self.read_bytes != [0, 0] {
            // From an earlier version: what the chunks are of the stream is not known.
            return;
        }
        for (stream, stored) in stored.into_iter().enumerate() {
            let head_bytes = stored.head.len() as u64;
            self.add_stored(stream, 0, stored.head, chunks);
            let tail_at = head_bytes + stored.missing_bytes;
            if stored.missing_bytes > 0 {
                self.skip_to(stream, tail_at, false, chunks);
            }
            self.add_stored(stream, tail_at, stored.tail, chunks);
        }
    }

    /// Starts to read an attempt, unless it is the one that is being read.
    fn begin(&mut self, attempt: u32, chunks: &mut VecDeque<LogChunk>) {
        if self.attempt == attempt {
            return;
        }
        // The record of an attempt that was followed by another one is gone.
        for (stream, length) in self.end.take().into_iter().flatten().enumerate() {
            if let Some(length) = length {
                self.skip_to(stream, length, false, chunks);
            }
        }
        *self = LogPosition {
            attempt,
            ..LogPosition::default()
        };
    }

    /// Reports the bytes before `offset` missing that were not read.
    fn skip_to(
        &mut self,
        stream: usize,
        offset: u64,
        is_live: bool,
        chunks: &mut VecDeque<LogChunk>,
    ) {
        let missing = offset.saturating_sub(self.read_bytes[stream]);
        if missing > 0 {
            self.read_bytes[stream] = offset;
            chunks.push_back(LogChunk::Missing {
                stdio: STREAMS[stream],
                attempt: self.attempt,
                bytes: missing,
                is_live,
            });
        }
    }

    /// Adds stored bytes that begin at `offset`, as far as they were not read.
    fn add_stored(
        &mut self,
        stream: usize,
        offset: u64,
        bytes: Vec<u8>,
        chunks: &mut VecDeque<LogChunk>,
    ) {
        let read = self.read_bytes[stream].saturating_sub(offset);
        let read = usize::try_from(read).unwrap_or(usize::MAX).min(bytes.len());
        let new = bytes::Bytes::from(bytes).slice(read..);
        if !new.is_empty() {
            self.read_bytes[stream] += new.len() as u64;
            chunks.push_back(LogChunk::Bytes {
                stdio: STREAMS[stream],
                attempt: self.attempt,
                bytes: new,
            });
        }
    }
}

fn index(stdio: OutputStream) -> usize {
    match stdio {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(attempt: u32, offset: u64, text: &'static str) -> LiveChunk {
        LiveChunk::Bytes {
            stdio: OutputStream::Stdout,
            attempt,
            offset: Some(offset),
            bytes: text.into(),
        }
    }

    fn stored(head: &str, missing_bytes: u64, tail: &str) -> [StoredOutput; 2] {
        let stdout = StoredOutput {
            head: head.into(),
            missing_bytes,
            tail: tail.into(),
        };
        [stdout, StoredOutput::default()]
    }

    fn end(attempt: u32, stdout_bytes: u64) -> LiveChunk {
        LiveChunk::End {
            attempt,
            stdout_bytes: Some(stdout_bytes),
            stderr_bytes: Some(0),
        }
    }

    /// What a reader sees of these chunks and, after the end of the second attempt, of the record.
    fn read(chunks: impl IntoIterator<Item = LiveChunk>, record: [StoredOutput; 2]) -> String {
        let mut position = LogPosition::default();
        let mut seen = VecDeque::new();
        for chunk in chunks {
            position.advance(chunk, &mut seen);
        }
        position.complete(2, record, &mut seen);
        let words = seen.iter().filter_map(|chunk| match chunk {
            LogChunk::Bytes { bytes, .. } => Some(String::from_utf8_lossy(bytes).into_owned()),
            LogChunk::Missing { bytes, .. } => Some(format!("[{bytes}]")),
            LogChunk::End { .. } => None,
        });
        words.collect()
    }

    #[test]
    fn record_completes_what_live_output_lacks() {
        let whole = || stored("abcdef", 0, "");
        assert_eq!(read([], whole()), "abcdef");
        assert_eq!(read([piece(2, 0, "abc")], whole()), "abcdef");
        assert_eq!(read([piece(2, 0, "abcdef"), end(2, 6)], whole()), "abcdef");
        // an earlier attempt was live, the last one was too short for that
        assert_eq!(read([piece(1, 0, "x"), end(1, 1)], whole()), "xabcdef");
    }

    #[test]
    fn a_stream_is_complete_when_all_its_bytes_were_read() {
        let mut position = LogPosition::default();
        let mut seen = VecDeque::new();
        assert!(!position.has_all(2, OutputStream::Stdout, 0));
        position.advance(piece(2, 0, "abc"), &mut seen);
        assert!(position.has_all(2, OutputStream::Stdout, 3));
        assert!(position.has_all(2, OutputStream::Stderr, 0));
        assert!(!position.has_all(2, OutputStream::Stdout, 4));
        assert!(!position.has_all(3, OutputStream::Stdout, 3));
    }

    #[test]
    fn bytes_that_nobody_has_are_missing_where_they_were() {
        let truncated = || stored("ab", 10, "yz");
        assert_eq!(read([], truncated()), "ab[10]yz");
        assert_eq!(read([piece(2, 0, "abc")], truncated()), "abc[9]yz");
        assert_eq!(
            read([piece(2, 0, "ab"), piece(2, 12, "y")], truncated()),
            "ab[10]yz"
        );
        assert_eq!(read([piece(2, 5, "f")], truncated()), "[5]f[6]yz");
        // the end of an attempt that was followed by another one
        assert_eq!(
            read([piece(1, 0, "a"), end(1, 4)], truncated()),
            "a[3]ab[10]yz"
        );
    }

    #[test]
    fn live_output_without_offsets_is_shown_as_it_came() {
        let old = LiveChunk::Bytes {
            stdio: OutputStream::Stdout,
            attempt: 2,
            offset: None,
            bytes: "abc".into(),
        };
        let old_end = LiveChunk::End {
            attempt: 2,
            stdout_bytes: None,
            stderr_bytes: None,
        };
        assert_eq!(read([old, old_end], stored("abcdef", 0, "")), "abc");
    }
}
