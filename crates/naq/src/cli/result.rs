//! `naq result`

use super::exit::{Exit, Failure};
use super::job_output::{FullOption, print_streams, with_full_output};
use super::render;
use super::report;
use super::session::Session;
use super::waiting::explain;
use naq_client::OutputStream;
use naq_protocol::JobId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job's id
    #[arg(value_name = "JOB", required_unless_present = "set")]
    id: Option<String>,
    /// Inside a job: set the job's structured result, as JSON (- for standard input)
    #[arg(long, value_name = "JSON", conflicts_with_all = ["id", "exit_code", "stderr", "wait", "full"])]
    set: Option<String>,
    /// The result to set is a text instead of JSON
    #[arg(long, requires = "set")]
    text: bool,
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

    /// Sets the result of the job in which this process runs, if that is what is asked for.
    pub(super) fn set_in_job(&self) -> Option<Result<u8, Failure>> {
        let value = self.set.as_deref()?;
        Some(report::result(value, self.text))
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(args.id.as_deref().unwrap_or_default())?;
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
