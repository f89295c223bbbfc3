//! `naq logs`

use std::io::Write;

use super::exit::Failure;
use super::json::LogLine;
use super::render;
use super::session::Session;
use naq_client::{JobId, LogChunk, OutputStream};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job's id
    #[arg(value_name = "JOB")]
    id: String,
    /// Print output as the job writes it, until the job ends
    #[arg(short = 'f', long)]
    follow: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    let client = session.connect().await?;
    let mut logs = if args.follow {
        client.follow_logs(&job_id).await?
    } else {
        client.read_logs(&job_id).await?
    };
    let printer = Printer { json: session.json };
    while let Some(chunk) = logs.next().await? {
        printer.print(chunk)?;
    }
    Ok(0)
}

struct Printer {
    json: bool,
}

impl Printer {
    fn print(&self, chunk: LogChunk) -> std::io::Result<()> {
        let LogChunk::Bytes {
            stdio,
            attempt,
            bytes,
        } = chunk
        else {
            return Ok(());
        };
        if self.json {
            let stream = match stdio {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            };
            return render::print_json(&LogLine {
                stream,
                attempt,
                text: &String::from_utf8_lossy(&bytes),
            });
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
