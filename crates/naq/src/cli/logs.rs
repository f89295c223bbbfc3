//! `naq logs`

use std::io::Write;
use std::time::Duration;

use super::exit::Failure;
use super::render;
use super::session::Session;
use naq_client::Client;
use naq_jetstream::{LogChunk, LogStream, OutputStream, RecordEvent};
use naq_protocol::{JobId, Record};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job's id
    #[arg(value_name = "ID")]
    id: String,
    /// Follow: print what comes until the job has ended
    #[arg(short = 'f', long)]
    follow: bool,
}

/// How long the end of live output may trail the end of the job.
const END_MARKER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    let client = session.connect().await?;
    let mut watch = client
        .broker()
        .watch_records(std::slice::from_ref(&job_id))
        .await?;
    let mut record = client.fetch_job(&job_id).await?;
    if record.state.is_terminal() {
        return print_stored(session, &client, &record).await;
    }
    let mut log = client.broker().follow_log(&job_id).await?;
    let mut printer = Printer {
        json: session.json,
        printed: false,
    };
    if !args.follow {
        while log.remaining() > 0 {
            printer.print(log.next().await?)?;
        }
        return Ok(0);
    }
    while !record.state.is_terminal() {
        tokio::select! {
            chunk = log.next() => printer.print(chunk?)?,
            event = watch.next() => match event {
                RecordEvent::Changed(stored) => record = stored.record,
                RecordEvent::Resync => record = client.fetch_job(&job_id).await?,
            },
        }
    }
    if !printer.printed && log.remaining() == 0 {
        // it ended before its output went live
        return print_stored(session, &client, &record).await;
    }
    let _ = tokio::time::timeout(
        END_MARKER_TIMEOUT,
        print_until_end(&mut log, &mut printer, record.attempt),
    )
    .await;
    Ok(0)
}

async fn print_until_end(
    log: &mut LogStream,
    printer: &mut Printer,
    attempt: u32,
) -> Result<(), Failure> {
    loop {
        let chunk = log.next().await?;
        let is_end = matches!(chunk, LogChunk::End { attempt: ended } if ended == attempt);
        printer.print(chunk)?;
        if is_end {
            return Ok(());
        }
    }
}

/// All that was kept of an ended job's output.
async fn print_stored(session: &Session, client: &Client, record: &Record) -> Result<u8, Failure> {
    let mut printer = Printer {
        json: session.json,
        printed: false,
    };
    for (stdio, bytes) in [
        (OutputStream::Stdout, client.read_stdout(record).await?),
        (OutputStream::Stderr, client.read_stderr(record).await?),
    ] {
        if !bytes.is_empty() {
            printer.print(LogChunk::Bytes {
                stdio,
                attempt: record.attempt,
                bytes: bytes.into(),
            })?;
        }
    }
    Ok(0)
}

struct Printer {
    json: bool,
    printed: bool,
}

impl Printer {
    fn print(&mut self, chunk: LogChunk) -> std::io::Result<()> {
        let LogChunk::Bytes {
            stdio,
            attempt,
            bytes,
        } = chunk
        else {
            return Ok(());
        };
        self.printed = true;
        if self.json {
            let stream = match stdio {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            };
            return render::print_json(&serde_json::json!({
                "stream": stream,
                "attempt": attempt,
                "text": String::from_utf8_lossy(&bytes),
            }));
        }
        match stdio {
            OutputStream::Stdout => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()
            }
            OutputStream::Stderr => std::io::stderr().write_all(&bytes),
        }
    }
}
