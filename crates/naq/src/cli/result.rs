//! `naq result`

use std::io::Write;

use super::exit::{Exit, Failure};
use super::render;
use super::session::Session;
use naq_protocol::{CapturedOutput, JobId};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job's id
    #[arg(value_name = "JOB")]
    id: String,
    /// Exit with the job's exit code
    #[arg(long)]
    exit_code: bool,
    /// Print the job's standard error instead
    #[arg(long)]
    stderr: bool,
    /// Wait for the job to end
    #[arg(short = 'w', long)]
    wait: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    let client = session.connect().await?;
    let record = if args.wait {
        client.wait(&job_id).await?
    } else {
        match client.fetch_result(&job_id).await? {
            Some(record) => record,
            None => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("the job `{job_id}` has not ended"),
                )
                .hint("--wait waits for it"));
            }
        }
    };
    if session.json {
        render::print_json(&record)?;
    } else {
        let (bytes, output) = if args.stderr {
            (client.read_stderr(&record).await?, &record.stderr)
        } else {
            (client.read_stdout(&record).await?, &record.stdout)
        };
        std::io::stdout().write_all(&bytes)?;
        std::io::stdout().flush()?;
        if let Some(CapturedOutput {
            truncated: true,
            bytes: written,
            ..
        }) = output
        {
            render::note(format_args!(
                "the job wrote {}; only the beginning and the end were kept ({})",
                render::bytes(*written),
                render::bytes(bytes.len() as u64)
            ));
        }
    }
    Ok(if args.exit_code {
        record.shell_exit_code()
    } else {
        0
    })
}
