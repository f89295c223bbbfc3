//! Prints a job's output, in every verb by the same rule: the bytes as the job wrote them, a mark in the
//! stream where bytes are missing, and at the end a note on standard error that says how many are
//! missing and how to get them.

use std::io::Write;

use super::exit::{Exit, Failure};
use super::job_socket::JobReader;
use super::json::NoteBody;
use super::render;
use naq_client::{OutputStream, StoredOutput};
use naq_protocol::{CapturedOutput, JobId, Record};

/// The most bytes of a stream that a job can ask naq to keep.
const KEPT_BYTES_MAX: u64 = naq_protocol::OUTPUT_BYTES_MAX;

/// The option of verbs that print what is stored of a job's output.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct FullOption {
    /// Print the output whole, with --json also what is in the object store, or fail if a part of it
    /// was not kept
    #[arg(long)]
    pub(super) full: bool,
}

impl FullOption {
    /// Returns an error if the option is given to a verb that prints no output because it does not
    /// wait.
    pub(super) fn check(self, waits: bool) -> Result<(), Failure> {
        match self.full && !waits {
            true => Err(Failure::usage("--full needs --wait")),
            false => Ok(()),
        }
    }
}

/// Prints a job's output, and remembers what was missing.
#[derive(Debug, Default)]
pub(super) struct OutputPrinter {
    stdout: StreamPrinter,
    stderr: StreamPrinter,
}

#[derive(Debug, Default)]
struct StreamPrinter {
    /// Bytes that were printed.
    printed_bytes: u64,
    /// Whether the last line that was printed is incomplete.
    is_mid_line: bool,
    /// Bytes that were not kept.
    missing_bytes: u64,
    /// Bytes of live output that were dropped.
    missing_live_bytes: u64,
}

impl OutputPrinter {
    /// Prints bytes of a stream.
    pub(super) fn print(&mut self, stdio: OutputStream, bytes: &[u8]) -> std::io::Result<()> {
        if let Some(last) = bytes.last() {
            let stream = self.stream(stdio);
            stream.is_mid_line = *last != b'\n';
            stream.printed_bytes += bytes.len() as u64;
        }
        write(stdio, bytes)
    }

    /// Marks a place at which bytes of a stream are missing, on a line of its own. `is_live` means
    /// that they are missing from live output.
    pub(super) fn mark_gap(
        &mut self,
        stdio: OutputStream,
        missing_bytes: u64,
        is_live: bool,
    ) -> std::io::Result<()> {
        let stream = self.stream(stdio);
        let before = if stream.is_mid_line { "\n" } else { "" };
        stream.is_mid_line = false;
        if is_live {
            stream.missing_live_bytes += missing_bytes;
        } else {
            stream.missing_bytes += missing_bytes;
        }
        let count = render::count(missing_bytes, "byte");
        write(
            stdio,
            format!("{before}[naq: {count} missing here]\n").as_bytes(),
        )
    }

    /// Prints what is stored of a stream.
    pub(super) fn print_stored(
        &mut self,
        stdio: OutputStream,
        stored: &StoredOutput,
    ) -> std::io::Result<()> {
        self.print(stdio, &stored.head)?;
        if stored.missing_bytes > 0 {
            self.mark_gap(stdio, stored.missing_bytes, false)?;
        }
        self.print(stdio, &stored.tail)
    }

    /// Prints a note on what was missing, and how to get it.
    pub(super) fn finish(&self, job: &JobId) {
        for (stdio, stream) in [
            (OutputStream::Stdout, &self.stdout),
            (OutputStream::Stderr, &self.stderr),
        ] {
            if stream.missing_bytes > 0 {
                let bytes = stream.missing_bytes + stream.missing_live_bytes + stream.printed_bytes;
                let why = not_kept(stdio, stream.missing_bytes);
                note(
                    stream.missing_bytes,
                    format!("{why}; {}", how_to_keep(bytes)),
                );
            }
            if stream.missing_live_bytes > 0 {
                let count = render::count(stream.missing_live_bytes, "byte");
                let (name, option) = match stdio {
                    OutputStream::Stdout => ("output", ""),
                    OutputStream::Stderr => ("error", " --stderr"),
                };
                note(
                    stream.missing_live_bytes,
                    format!(
                        "{count} of the job's standard {name} were dropped, because the job writes faster than live output is sent; `naq result{option} {job}` prints what the record keeps once the job has ended"
                    ),
                );
            }
        }
    }

    fn stream(&mut self, stdio: OutputStream) -> &mut StreamPrinter {
        match stdio {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

/// Prints what is stored of both streams of an ended job.
pub(super) async fn print_output(
    client: &JobReader,
    record: &Record,
    option: FullOption,
) -> Result<(), Failure> {
    let streams = [OutputStream::Stdout, OutputStream::Stderr];
    print_streams(client, record, &streams, option).await
}

/// Prints what is stored of some streams of an ended job.
pub(super) async fn print_streams(
    client: &JobReader,
    record: &Record,
    streams: &[OutputStream],
    option: FullOption,
) -> Result<(), Failure> {
    let mut outputs = Vec::with_capacity(streams.len());
    for stdio in streams {
        let stored = client.read_output(record, *stdio).await?;
        if option.full {
            check_whole(*stdio, &stored)?;
        }
        outputs.push((*stdio, stored));
    }
    let mut printer = OutputPrinter::default();
    for (stdio, stored) in &outputs {
        printer.print_stored(*stdio, stored)?;
    }
    printer.finish(&record.job_id);
    Ok(())
}

/// Replaces the previews in a record by the output that is in the object store.
///
/// # Errors
/// Fails if some output was not kept.
pub(super) async fn with_full_output(
    client: &JobReader,
    record: &Record,
) -> Result<Record, Failure> {
    let mut full = record.clone();
    for (stdio, output) in [
        (OutputStream::Stdout, &mut full.stdout),
        (OutputStream::Stderr, &mut full.stderr),
    ] {
        let Some(output) = output else { continue };
        let stored = client.read_output(record, stdio).await?;
        check_whole(stdio, &stored)?;
        *output = CapturedOutput {
            object: output.object.take(),
            ..CapturedOutput::new(stored.head, Vec::new(), output.bytes, 0)
        };
    }
    Ok(full)
}

/// Returns an error if bytes of a stream were not kept.
fn check_whole(stdio: OutputStream, stored: &StoredOutput) -> Result<(), Failure> {
    if stored.missing_bytes == 0 {
        return Ok(());
    }
    let bytes = (stored.head.len() + stored.tail.len()) as u64 + stored.missing_bytes;
    let message = not_kept(stdio, stored.missing_bytes);
    Err(Failure::new(Exit::Failed, message).hint(format!(
        "without --full, naq prints what is kept; {}",
        how_to_keep(bytes)
    )))
}

fn not_kept(stdio: OutputStream, missing_bytes: u64) -> String {
    let count = render::count(missing_bytes, "byte");
    let name = match stdio {
        OutputStream::Stdout => "output",
        OutputStream::Stderr => "error",
    };
    format!("{count} of the job's standard {name} not kept")
}

/// A hint on how to keep all of a stream of this length, in bytes.
fn how_to_keep(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    if bytes > KEPT_BYTES_MAX {
        let max = KEPT_BYTES_MAX / MIB;
        return format!("naq keeps at most {max}M of a stream; let the job write to a file");
    }
    let size = match bytes.div_ceil(KIB) {
        kib @ 0..10_000 => format!("{kib}K"),
        kib => format!("{}M", kib.div_ceil(KIB)),
    };
    format!("enqueue the job with --output {size} to keep that much")
}

fn note(missing_bytes: u64, message: String) {
    render::note_with(NoteBody {
        message,
        missing_bytes: Some(missing_bytes),
        ..NoteBody::default()
    });
}

fn write(stdio: OutputStream, bytes: &[u8]) -> std::io::Result<()> {
    match stdio {
        OutputStream::Stdout => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(bytes)?;
            stdout.flush()
        }
        OutputStream::Stderr => std::io::stderr().write_all(bytes),
    }
}
