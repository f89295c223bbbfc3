//! The output of a job in pieces of text. A piece is named by the position after it, so that a client can continue
//! after the last one that it has received.

use bytes::Bytes;
use serde::Serialize;

use crate::text::whole_characters;
use naq_client::{LogChunk, OutputStream};

/// Maximum number of bytes of a piece.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// A place in the output of a job: as text, such as `2.120.0`, it is the id of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogPosition {
    /// The attempt. 0 means the beginning.
    attempt: u32,
    /// Number of bytes of standard output and of standard error of the attempt before it.
    bytes: [u64; 2],
}

impl std::fmt::Display for LogPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [stdout, stderr] = self.bytes;
        write!(f, "{}.{stdout}.{stderr}", self.attempt)
    }
}

impl std::str::FromStr for LogPosition {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<LogPosition, &'static str> {
        const EXPECTED: &str = "expected the id of an event, such as 1.120.0";
        let mut parts = text.split('.');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let (Some(attempt), Some(stdout), Some(stderr)) = (number(), number(), number()) else {
            return Err(EXPECTED);
        };
        match (u32::try_from(attempt), parts.next()) {
            (Ok(attempt), None) => Ok(LogPosition {
                attempt,
                bytes: [stdout, stderr],
            }),
            _ => Err(EXPECTED),
        }
    }
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Text of a stream.
    Text,
    /// Bytes that are missing.
    Gap,
    /// The job has ended.
    End,
}

/// A piece of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) kind: PieceKind,
    /// The position after it.
    pub(super) id: String,
    pub(super) json: String,
}

/// The JSON of a piece.
#[derive(Serialize)]
struct PieceBody<'a> {
    stream: &'static str,
    attempt: u32,
    /// Number of bytes of the attempt's stream before it.
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_bytes: Option<u64>,
}

/// Makes pieces of the output of a job. A character that is cut by the end of a chunk belongs to the next piece.
pub(super) struct LogPieces {
    /// Pieces before it are left out.
    after: LogPosition,
    /// The position after the last piece.
    position: LogPosition,
    /// Bytes after the position of an incomplete character.
    rest: [Vec<u8>; 2],
}

impl LogPieces {
    /// Leaves out what is before a position.
    pub(super) fn new(after: LogPosition) -> LogPieces {
        LogPieces {
            after,
            position: LogPosition::default(),
            rest: Default::default(),
        }
    }

    /// The pieces of a chunk.
    pub(super) fn push(&mut self, chunk: LogChunk) -> Vec<Piece> {
        let mut pieces = Vec::new();
        match chunk {
            LogChunk::Bytes {
                stdio,
                attempt,
                bytes,
            } => {
                self.begin(attempt, &mut pieces);
                let bytes = self.skip(stdio, bytes);
                for part in bytes.chunks(PIECE_BYTES_MAX) {
                    self.add(stdio, part, &mut pieces);
                }
            }
            LogChunk::Missing {
                stdio,
                attempt,
                bytes,
                ..
            } => {
                self.begin(attempt, &mut pieces);
                self.flush_stream(stdio, &mut pieces);
                let offset = self.position.bytes[index(stdio)];
                self.position.bytes[index(stdio)] += bytes;
                let is_new = self.position.attempt != self.after.attempt
                    || self.position.bytes[index(stdio)] > self.after.bytes[index(stdio)];
                if is_new && self.position.attempt >= self.after.attempt {
                    pieces.push(self.piece(stdio, offset, None, Some(bytes)));
                }
            }
            _ => pieces.extend(self.flush()),
        }
        pieces
    }

    /// The bytes that no further chunk can complete, as pieces.
    pub(super) fn flush(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for stdio in [OutputStream::Stdout, OutputStream::Stderr] {
            self.flush_stream(stdio, &mut pieces);
        }
        pieces
    }

    /// The piece after the last one.
    pub(super) fn end(&self) -> Piece {
        Piece {
            kind: PieceKind::End,
            id: self.position.max(self.after).to_string(),
            json: "{}".to_owned(),
        }
    }

    fn begin(&mut self, attempt: u32, pieces: &mut Vec<Piece>) {
        if self.position.attempt != attempt {
            pieces.extend(self.flush());
            self.position = LogPosition {
                attempt,
                ..LogPosition::default()
            };
        }
    }

    /// Removes the bytes before the position after which the client continues.
    fn skip(&mut self, stdio: OutputStream, bytes: Bytes) -> Bytes {
        let at = &mut self.position.bytes[index(stdio)];
        let before = match self.position.attempt.cmp(&self.after.attempt) {
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => self.after.bytes[index(stdio)].saturating_sub(*at),
            std::cmp::Ordering::Greater => 0,
        };
        let skipped = usize::try_from(before).map_or(bytes.len(), |more| more.min(bytes.len()));
        *at += skipped as u64;
        bytes.slice(skipped..)
    }

    fn add(&mut self, stdio: OutputStream, part: &[u8], pieces: &mut Vec<Piece>) {
        let mut bytes = std::mem::take(&mut self.rest[index(stdio)]);
        bytes.extend_from_slice(part);
        self.rest[index(stdio)] = bytes.split_off(whole_characters(&bytes));
        self.add_text(stdio, &bytes, pieces);
    }

    fn flush_stream(&mut self, stdio: OutputStream, pieces: &mut Vec<Piece>) {
        let rest = std::mem::take(&mut self.rest[index(stdio)]);
        self.add_text(stdio, &rest, pieces);
    }

    fn add_text(&mut self, stdio: OutputStream, bytes: &[u8], pieces: &mut Vec<Piece>) {
        if bytes.is_empty() {
            return;
        }
        let offset = self.position.bytes[index(stdio)];
        self.position.bytes[index(stdio)] += bytes.len() as u64;
        let text = String::from_utf8_lossy(bytes);
        pieces.push(self.piece(stdio, offset, Some(&text), None));
    }

    fn piece(
        &self,
        stdio: OutputStream,
        offset: u64,
        text: Option<&str>,
        missing_bytes: Option<u64>,
    ) -> Piece {
        let body = PieceBody {
            stream: match stdio {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            },
            attempt: self.position.attempt,
            offset,
            text,
            missing_bytes,
        };
        Piece {
            kind: match missing_bytes {
                Some(_) => PieceKind::Gap,
                None => PieceKind::Text,
            },
            id: self.position.to_string(),
            // strings and numbers have a JSON form
            json: serde_json::to_string(&body).unwrap_or_default(),
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
    use proptest::prelude::*;

    fn chunk(attempt: u32, bytes: &[u8]) -> LogChunk {
        LogChunk::Bytes {
            stdio: OutputStream::Stdout,
            attempt,
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    fn missing(attempt: u32, bytes: u64) -> LogChunk {
        LogChunk::Missing {
            stdio: OutputStream::Stdout,
            attempt,
            bytes,
            is_live: false,
        }
    }

    /// The ids and bodies of the pieces after a position.
    fn pieces(after: &str, chunks: Vec<LogChunk>) -> Vec<String> {
        let mut pieces = LogPieces::new(after.parse().unwrap());
        let mut seen: Vec<Piece> = Vec::new();
        for chunk in chunks {
            seen.extend(pieces.push(chunk));
        }
        seen.extend(pieces.flush());
        let lines = seen
            .into_iter()
            .map(|piece| format!("{} {}", piece.id, piece.json));
        lines.collect()
    }

    #[test]
    fn a_client_continues_after_the_last_piece_that_it_has() {
        let chunks = || {
            vec![
                chunk(1, b"ab"),
                chunk(2, b"cd"),
                missing(2, 10),
                chunk(2, b"ef"),
            ]
        };
        let first = r#"1.2.0 {"stream":"stdout","attempt":1,"offset":0,"text":"ab"}"#;
        let second = r#"2.2.0 {"stream":"stdout","attempt":2,"offset":0,"text":"cd"}"#;
        let gap = r#"2.12.0 {"stream":"stdout","attempt":2,"offset":2,"missing_bytes":10}"#;
        let last = r#"2.14.0 {"stream":"stdout","attempt":2,"offset":12,"text":"ef"}"#;
        for (after, expected) in [
            ("0.0.0", vec![first, second, gap, last]),
            ("1.2.0", vec![second, gap, last]),
            ("2.2.0", vec![gap, last]),
            ("2.12.0", vec![last]),
            (
                "2.13.0",
                vec![r#"2.14.0 {"stream":"stdout","attempt":2,"offset":13,"text":"f"}"#],
            ),
            ("2.14.0", vec![]),
            ("3.0.0", vec![]),
        ] {
            assert_eq!(pieces(after, chunks()), expected, "{after}");
        }
    }

    #[test]
    fn an_id_is_a_position() {
        for wrong in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "a.0.0",
            "-1.0.0",
            "99999999999.0.0",
        ] {
            assert!(wrong.parse::<LogPosition>().is_err(), "{wrong}");
        }
        let position: LogPosition = "3.7.9".parse().unwrap();
        assert_eq!(position.to_string(), "3.7.9");
    }

    proptest! {
        #[test]
        fn the_texts_of_the_pieces_are_the_output_wherever_it_is_cut(
            text in "[aä日😀\n]{0,40}",
            cuts in proptest::collection::vec(0_usize..160, 0..6),
            seen in 0_usize..8,
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<LogChunk> = cuts.windows(2).map(|pair| chunk(1, &bytes[pair[0]..pair[1]])).collect();
            let texts = |lines: &[String]| -> String {
                let text = |line: &String| {
                    let body: serde_json::Value = serde_json::from_str(line.split_once(' ').unwrap().1).unwrap();
                    body["text"].as_str().unwrap().to_owned()
                };
                lines.iter().map(text).collect()
            };
            let all = pieces("0.0.0", chunks.clone());
            prop_assert_eq!(texts(&all), text.clone());
            // a client that has lost its connection after some pieces
            let seen = seen.min(all.len());
            let id = match seen.checked_sub(1) {
                Some(last) => all[last].split_once(' ').unwrap().0.to_owned(),
                None => "0.0.0".to_owned(),
            };
            let rest = pieces(&id, chunks);
            prop_assert_eq!(texts(&all[..seen]) + &texts(&rest), text);
        }
    }
}
