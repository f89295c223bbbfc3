//! `naq enqueue`

mod file;

use std::io::Write;

use super::exit::{Exit, Failure};
use super::job_options::JobOptions;
use super::progress::Bars;
use super::render;
use super::session::Session;
use crate::client::{Client, Waiter};
use crate::envelope::{JobId, QueueName, Record, State};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The queue [default: default]
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    #[command(flatten)]
    job: JobOptions,
    /// Envelopes from a file (- for standard input): one, an array, or one a line; or a flow,
    /// {"jobs": {NAME: ENVELOPE, …}}, whose name is --id
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<String>,
    /// Wait for the outcome: print the job's output, exit with its code
    #[arg(short = 'w', long)]
    wait: bool,
    /// Print the envelope and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Refuse where the queue holds so many jobs already
    #[arg(long, value_name = "COUNT")]
    max_jobs: Option<u64>,
    /// Do not print the ids
    #[arg(long)]
    quiet: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let name = args
        .queue
        .as_deref()
        .unwrap_or(&session.settings().default_queue);
    let queue = QueueName::new(name)?;
    if let Some(file) = &args.file {
        if !args.job.is_empty() {
            return Err(Failure::usage(
                "--file brings whole envelopes; a command beside it has no place",
            ));
        }
        if args.dry_run {
            return file::check(file);
        }
        let client = session.connect().await?;
        if let Some(max) = args.max_jobs {
            client.queue(name)?.check_room(max).await?;
        }
        let name = args.job.chosen_id()?;
        let ids = file::enqueue(
            session,
            &client,
            &queue,
            file,
            name.as_ref(),
            args.quiet,
            args.wait,
        )
        .await?;
        return if args.wait {
            wait_for_all(&client, &ids).await
        } else {
            Ok(0)
        };
    }
    let mut envelope = args.job.envelope(|name| session.variable(name))?;
    if args.dry_run {
        render::print_json(&envelope)?;
        return Ok(0);
    }
    let client = session.connect().await?;
    let queue = client.queue(queue.as_str())?;
    if let Some(max) = args.max_jobs {
        queue.check_room(max).await?;
    }
    if args.wait {
        let job_id = envelope.job_id.get_or_insert_with(JobId::generate).clone();
        // watched before it is there, so that nothing is missed
        let waiter = client.waiter(std::slice::from_ref(&job_id)).await?;
        queue.enqueue(&envelope).await?;
        return wait_and_show(session, &client, waiter).await;
    }
    let job_id = queue.enqueue(&envelope).await?;
    if !args.quiet {
        print_id(session, &job_id, queue.name())?;
    }
    Ok(0)
}

fn print_id(session: &Session, job_id: &JobId, queue: &QueueName) -> std::io::Result<()> {
    if session.json {
        render::print_json(&serde_json::json!({"job_id": job_id, "queue": queue}))
    } else {
        render::print_line(job_id)
    }
}

/// Waits for a job, showing how far it is, and prints its outcome.
pub(super) async fn wait_and_show(
    session: &Session,
    client: &Client,
    waiter: Waiter,
) -> Result<u8, Failure> {
    let mut ended = None;
    let mut bars = Bars::new();
    waiter
        .each_change(|record| {
            bars.see(&record);
            ended = Some(record);
        })
        .await?;
    let record = ended.ok_or_else(|| Failure::general("the job vanished"))?;
    show(session, client, &record).await
}

/// Prints an outcome: output to output, errors to errors, the job's exit code.
async fn show(session: &Session, client: &Client, record: &Record) -> Result<u8, Failure> {
    if session.json {
        render::print_json(record)?;
    } else {
        std::io::stdout().write_all(&client.read_stdout(record).await?)?;
        std::io::stderr().write_all(&client.read_stderr(record).await?)?;
        if let Some(error) = &record.error {
            render::note(format_args!("naq: {}", render::one_line(error)));
        }
    }
    Ok(record.shell_exit_code())
}

pub(super) async fn wait_for_all(client: &Client, ids: &[JobId]) -> Result<u8, Failure> {
    let (mut succeeded, mut failed) = (0_u64, 0_u64);
    client
        .wait_each(ids, |record| {
            if record.state == State::Succeeded {
                succeeded += 1;
            } else {
                failed += 1;
            }
        })
        .await?;
    render::note(format_args!("{succeeded} succeeded, {failed} did not"));
    Ok(if failed == 0 { 0 } else { Exit::Failed as u8 })
}
