//! `naq result`

use super::exit::{Exit, Failure};
use super::job_output::{FullOption, print_streams, with_full_output};
use super::render;
use super::session::Session;
use super::waiting::explain;
use naq_client::OutputStream;
use naq_protocol::JobId;

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
    #[command(flatten)]
    full: FullOption,
}

impl Args {
    /// Whether this waits for jobs to end, however long they run.
    pub(super) fn is_endless(&self) -> bool {
        self.wait
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    let client = session.job_reader().await?;
    let record = if args.wait {
        let waiting = client.wait(&job_id);
        let jobs = std::slice::from_ref(&job_id);
        explain(session, &client, jobs, |print| print(), waiting).await?
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
        match args.full.full {
            true => render::print_json(&with_full_output(&client, &record).await?)?,
            false => render::print_json(&record)?,
        }
    } else {
        let stdio = match args.stderr {
            true => OutputStream::Stderr,
            false => OutputStream::Stdout,
        };
        print_streams(&client, &record, &[stdio], args.full).await?;
    }
    Ok(if args.exit_code {
        record.shell_exit_code()
    } else {
        0
    })
}
