//! `naq logs`

use super::exit::Failure;
use super::job_output::{FullOption, OutputPrinter, print_output};
use super::job_socket::JobReader;
use super::json::{LogGap, LogLine};
use super::render;
use super::session::Session;
use super::waiting::explain;
use crate::text::whole_characters;
use naq_client::{Client, JobId, LogChunk, OutputStream};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job's id
    #[arg(value_name = "JOB")]
    id: String,
    /// Print output as the job writes it, until the job ends
    #[arg(short = 'f', long)]
    follow: bool,
    #[command(flatten)]
    full: FullOption,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    let client = session.connect().await?;
    let printing = print(session, &client, &job_id, &args);
    if !args.follow {
        printing.await?;
        return Ok(0);
    }
    let jobs = std::slice::from_ref(&job_id);
    explain(session, &client, jobs, |print| print(), printing).await?;
    Ok(0)
}

async fn print(
    session: &Session,
    client: &Client,
    job_id: &JobId,
    args: &Args,
) -> Result<(), Failure> {
    if args.full.full && !session.json {
        // Only the record can have everything.
        let record = match args.follow {
            true => client.wait(job_id).await?,
            false => client.fetch_job(job_id).await?,
        };
        let reader = JobReader::Nats(Box::new(client.clone()));
        return print_output(&reader, &record, args.full).await;
    }
    let mut logs = if args.follow {
        client.follow_logs(job_id).await?
    } else {
        client.read_logs(job_id).await?
    };
    if session.json {
        let mut printer = JsonPrinter::default();
        while let Some(chunk) = logs.next().await? {
            printer.print(chunk)?;
        }
        return Ok(printer.flush()?);
    }
    let mut printer = OutputPrinter::default();
    while let Some(chunk) = logs.next().await? {
        match chunk {
            LogChunk::Bytes { stdio, bytes, .. } => printer.print(stdio, &bytes)?,
            LogChunk::Missing {
                stdio,
                bytes,
                is_live,
                ..
            } => printer.mark_gap(stdio, bytes, is_live)?,
            _ => {}
        }
    }
    printer.finish(job_id);
    Ok(())
}

/// Prints each chunk as an object. A character that is cut by the end of a chunk belongs to the next.
#[derive(Default)]
struct JsonPrinter {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    attempt: u32,
}

impl JsonPrinter {
    fn print(&mut self, chunk: LogChunk) -> std::io::Result<()> {
        match chunk {
            LogChunk::Bytes {
                stdio,
                attempt,
                bytes,
            } => {
                if attempt != self.attempt {
                    self.flush()?;
                    self.attempt = attempt;
                }
                let kept = match stdio {
                    OutputStream::Stdout => &mut self.stdout,
                    OutputStream::Stderr => &mut self.stderr,
                };
                kept.extend_from_slice(&bytes);
                let rest = kept.split_off(whole_characters(kept));
                let text = std::mem::replace(kept, rest);
                print_text(stdio, attempt, &text)
            }
            LogChunk::Missing {
                stdio,
                attempt,
                bytes,
                ..
            } => {
                self.flush()?;
                render::print_json(&LogGap {
                    stream: stream_name(stdio),
                    attempt,
                    missing_bytes: bytes,
                })
            }
            _ => self.flush(),
        }
    }

    /// Prints bytes that no further chunk can complete.
    fn flush(&mut self) -> std::io::Result<()> {
        for (stdio, kept) in [
            (OutputStream::Stdout, &mut self.stdout),
            (OutputStream::Stderr, &mut self.stderr),
        ] {
            print_text(stdio, self.attempt, &std::mem::take(kept))?;
        }
        Ok(())
    }
}

fn print_text(stdio: OutputStream, attempt: u32, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    render::print_json(&LogLine {
        stream: stream_name(stdio),
        attempt,
        text: &String::from_utf8_lossy(bytes),
    })
}

fn stream_name(stdio: OutputStream) -> &'static str {
    match stdio {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}
