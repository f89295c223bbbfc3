//! Writing what a job gets of its dependencies: a folder for each, or one stream of lines.
//!
//! It runs on a thread of its own, since a disk may be slow, and takes pieces from a bounded channel, so that
//! memory does not grow with the outputs.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use bytes::Bytes;
use tokio::sync::mpsc;

use naq_protocol::JobInput;
use naq_runner::StagedFolder;

/// Maximum size of all that is written for one job, in bytes.
pub(super) const INPUTS_BYTES_MAX: u64 = 1 << 30;

/// Size of the buffers by which an output is copied, in bytes.
const BLOCK_BYTES: usize = 64 << 10;

/// The name of the file of lines, until the job has it as its standard input.
const LINES: &str = "lines";

/// The name of the file of an output whose encoding is not known yet.
const SPOOL: &str = "spool";

/// A piece of what a job gets. Those of a dependency come in this order.
pub(super) enum InputPiece {
    /// What is known of the next dependency, and the name of its folder.
    Begin(Box<JobInput>, String),
    /// A part of its structured result, which is one JSON text without a line break.
    Result(Bytes),
    /// A part of its standard output.
    Stdout(Bytes),
    /// It is complete.
    End,
}

/// What a job gets of its dependencies.
pub(super) enum JobInputs {
    /// A folder with one for each.
    Folder(Arc<StagedFolder>),
    /// A line for each, on standard input.
    Stdin(Arc<File>),
}

/// Why it cannot be written.
#[derive(Debug)]
pub(super) enum WriteError {
    Io(io::Error),
    /// It is larger than [`INPUTS_BYTES_MAX`].
    TooLarge,
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        WriteError::Io(error)
    }
}

impl From<serde_json::Error> for WriteError {
    fn from(error: serde_json::Error) -> WriteError {
        WriteError::Io(error.into())
    }
}

/// How many bytes may still be written.
struct Budget(u64);

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), WriteError> {
        let left = self.0.checked_sub(bytes as u64);
        self.0 = left.ok_or(WriteError::TooLarge)?;
        Ok(())
    }

    fn write(&mut self, file: &mut impl Write, bytes: &[u8]) -> Result<(), WriteError> {
        self.take(bytes.len())?;
        Ok(file.write_all(bytes)?)
    }
}

/// Writes a folder for each dependency, until the channel is closed.
pub(super) fn write_folder(
    folder: StagedFolder,
    mut pieces: mpsc::Receiver<InputPiece>,
) -> Result<JobInputs, WriteError> {
    struct Open {
        input: Box<JobInput>,
        name: String,
        stdout: File,
        result: Option<File>,
    }
    let mut budget = Budget(INPUTS_BYTES_MAX);
    let mut open: Option<Open> = None;
    while let Some(piece) = pieces.blocking_recv() {
        match (piece, &mut open) {
            (InputPiece::Begin(input, name), _) => {
                folder.create_folder(&name)?;
                let stdout = folder.create_file(Path::new(&name).join("stdout"))?;
                open = Some(Open {
                    input,
                    name,
                    stdout,
                    result: None,
                });
            }
            (InputPiece::Stdout(bytes), Some(open)) => budget.write(&mut open.stdout, &bytes)?,
            (InputPiece::Result(bytes), Some(open)) => {
                let file = match &mut open.result {
                    Some(file) => file,
                    None => {
                        let path = Path::new(&open.name).join("result.json");
                        open.result.insert(folder.create_file(path)?)
                    }
                };
                budget.write(file, &bytes)?;
            }
            (InputPiece::End, Some(open)) => {
                let mut file = folder.create_file(Path::new(&open.name).join("record.json"))?;
                let mut text = serde_json::to_vec(&open.input)?;
                text.push(b'\n');
                budget.write(&mut file, &text)?;
            }
            (_, None) => {}
        }
    }
    folder.release()?;
    Ok(JobInputs::Folder(Arc::new(folder)))
}

/// Writes a line for each dependency, until the channel is closed.
pub(super) fn write_lines(
    folder: &StagedFolder,
    mut pieces: mpsc::Receiver<InputPiece>,
) -> Result<JobInputs, WriteError> {
    let mut budget = Budget(INPUTS_BYTES_MAX);
    let mut lines = BufWriter::with_capacity(BLOCK_BYTES, folder.create_file(LINES)?);
    // whether an output is text is known at its end
    let mut spool = folder.create_file(SPOOL)?;
    let mut has_result = false;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            InputPiece::Begin(input, _) => {
                let text = serde_json::to_vec(&input)?;
                let open = text.strip_suffix(b"}").unwrap_or(&text);
                budget.write(&mut lines, open)?;
                has_result = false;
                spool.set_len(0)?;
                spool.rewind()?;
            }
            InputPiece::Result(bytes) => {
                if !std::mem::replace(&mut has_result, true) {
                    budget.write(&mut lines, br#","result":"#)?;
                }
                budget.write(&mut lines, &bytes)?;
            }
            InputPiece::Stdout(bytes) => {
                budget.take(bytes.len())?;
                spool.write_all(&bytes)?;
            }
            InputPiece::End => {
                write_output(&mut spool, &mut lines, &mut budget)?;
                budget.write(&mut lines, b"}\n")?;
            }
        }
    }
    lines.flush()?;
    folder.take_file(SPOOL)?;
    Ok(JobInputs::Stdin(Arc::new(folder.take_file(LINES)?)))
}

/// Writes the output in `spool` as a field of the line: as text if it is UTF-8, otherwise in base64.
fn write_output(
    spool: &mut File,
    lines: &mut impl Write,
    budget: &mut Budget,
) -> Result<(), WriteError> {
    spool.rewind()?;
    let is_text = for_each_text(spool, |_| Ok(()))?;
    spool.rewind()?;
    if !is_text {
        lines.write_all(br#","stdout_base64":""#)?;
        let mut encoder = EncoderWriter::new(&mut *lines, &STANDARD);
        let bytes = io::copy(spool, &mut encoder)?;
        encoder.finish()?;
        drop(encoder);
        budget.take(usize::try_from(bytes / 3).unwrap_or(usize::MAX))?;
        lines.write_all(b"\"")?;
        return Ok(());
    }
    lines.write_all(br#","stdout":""#)?;
    let mut escaped = Vec::new();
    for_each_text(spool, |text| {
        escaped.clear();
        serde_json::to_writer(&mut escaped, text)?;
        // without the quotes around it
        budget.take(escaped.len() - text.len())?;
        lines.write_all(&escaped[1..escaped.len() - 1])?;
        Ok(())
    })?;
    lines.write_all(b"\"")?;
    Ok(())
}

/// Reads a file as text, piece by piece, each of whole characters. Returns false at the first byte that is not
/// UTF-8.
fn for_each_text(
    file: &mut impl Read,
    mut each: impl FnMut(&str) -> Result<(), WriteError>,
) -> Result<bool, WriteError> {
    let mut block = vec![0; BLOCK_BYTES];
    // bytes of a character that the block before has split
    let mut kept = 0;
    loop {
        let read = file.read(&mut block[kept..])?;
        if read == 0 {
            return Ok(kept == 0);
        }
        let filled = kept + read;
        let whole = match std::str::from_utf8(&block[..filled]) {
            Ok(_) => filled,
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return Ok(false),
        };
        if let Ok(text) = std::str::from_utf8(&block[..whole]) {
            each(text)?;
        }
        block.copy_within(whole..filled, 0);
        kept = filled - whole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(output: &[u8]) -> Result<(String, serde_json::Value), WriteError> {
        let mut spool = tempfile::tempfile().unwrap();
        spool.write_all(output).unwrap();
        let mut line = b"{\"a\":1".to_vec();
        write_output(&mut spool, &mut line, &mut Budget(1 << 20))?;
        line.push(b'}');
        let mut line: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&line).unwrap();
        line.remove("a");
        Ok(line.into_iter().next().unwrap())
    }

    #[test]
    fn an_output_is_text_or_base64() {
        assert_eq!(
            field("a\"\n\u{1}ä".as_bytes()).unwrap(),
            ("stdout".to_owned(), "a\"\n\u{1}ä".into())
        );
        assert_eq!(
            field(&[0xff, 0xfe]).unwrap(),
            ("stdout_base64".to_owned(), "//4=".into())
        );
        // a character that the end has cut
        assert_eq!(field(&"ä".as_bytes()[..1]).unwrap().0, "stdout_base64");
        assert_eq!(
            field(b"").unwrap(),
            ("stdout".to_owned(), String::new().into())
        );
        let long = "ä".repeat(BLOCK_BYTES);
        assert_eq!(
            field(format!("x{long}").as_bytes()).unwrap().1,
            format!("x{long}")
        );
    }

    #[test]
    fn what_is_written_for_a_job_is_bounded() {
        let error = field(&vec![1; 1 << 18]).unwrap_err();
        assert!(matches!(error, WriteError::TooLarge), "{error:?}");
    }

    proptest! {
        #[test]
        fn any_output_reads_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (name, value) = field(&bytes).unwrap();
            let value = value.as_str().unwrap();
            let read = match name.as_str() {
                "stdout" => value.as_bytes().to_vec(),
                _ => base64::Engine::decode(&STANDARD, value).unwrap(),
            };
            prop_assert_eq!(read, bytes);
        }
    }
}
