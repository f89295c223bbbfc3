//! `naq enqueue`

mod delay;
mod file;
mod map;

use std::cell::RefCell;
use std::io::IsTerminal;
use std::ops::ControlFlow;

use self::delay::Delay;
use super::clock;
use super::envelope_check::EnvelopeCheck;
use super::exit::{Exit, Failure};
use super::job_options::JobOptions;
use super::job_output::{FullOption, print_output, with_full_output};
use super::job_socket::{JobReader, JobSocket, not_in_a_job};
use super::json::EnqueuedJob;
use super::progress::ProgressBars;
use super::remarks::note_remarks;
use super::render;
use super::session::Session;
use super::times::TimeReader;
use super::upload::{FileOptions, check_nothing_to_upload};
use super::waiting::{explain, stopped_waiting, wait_for_enqueued};
use naq_client::{Client, Waiter};
use naq_core::StartDelay;
use naq_protocol::{DEPENDENCIES_MAX, Envelope, JobId, QueueName, Record, State};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Queue for the jobs [default: default]
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    #[command(flatten)]
    job: JobOptions,
    #[command(flatten)]
    files: FileOptions,
    #[command(flatten)]
    start: delay::DelayOptions,
    /// File of envelopes (- for standard input): one, an array, or one per line; or a flow,
    /// {"jobs": {NAME: ENVELOPE, …}}, whose name is --id
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<String>,
    #[command(flatten)]
    many: map::MapOptions,
    /// Wait for the outcome, print the job's output and exit with its exit code
    #[arg(short = 'w', long)]
    wait: bool,
    #[command(flatten)]
    full: FullOption,
    /// Print the envelope instead of enqueueing it
    #[arg(long)]
    dry_run: bool,
    /// Maximum number of jobs in the queue; naq enqueues nothing if there are as many
    #[arg(long, value_name = "COUNT")]
    max_jobs: Option<u64>,
    /// Refuse envelopes with unknown fields, or with variables that workers refuse by default
    #[arg(long)]
    strict: bool,
    /// Do not print the ids
    #[arg(long)]
    quiet: bool,
}

impl Args {
    /// Whether the verb waits for jobs, or for the writer of its file.
    pub(super) fn is_endless(&self) -> bool {
        self.wait || self.file.is_some() || self.many.map.is_some()
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let name = args
        .queue
        .as_deref()
        .unwrap_or(&session.settings().default_queue);
    let queue = QueueName::new(name)?;
    let times = TimeReader::new(session, args.start.tz.as_deref(), args.job.past_ok)?;
    let start = args.start.read(&times)?;
    if let Some(Delay::At(due)) = start.filter(|_| !args.quiet) {
        times.note("--at", due)?;
    }
    args.full.check(args.wait)?;
    match (&args.file, &args.many.map) {
        (Some(file), _) => enqueue_file(session, &args, file, &queue, start).await,
        (None, Some(lines)) => enqueue_lines(session, &args, lines, &queue, start, &times).await,
        (None, None) => enqueue_one(session, &args, &queue, start, &times).await,
    }
}

/// Enqueues a job for each line of a file, and records that they belong together.
async fn enqueue_lines(
    session: &Session,
    args: &Args,
    lines: &str,
    queue: &QueueName,
    start: Option<Delay>,
    times: &TimeReader<'_>,
) -> Result<u8, Failure> {
    if !args.files.is_empty() {
        return Err(Failure::usage(
            "--map excludes --upload and --artifact: its jobs have no files yet",
        ));
    }
    if lines == "-" && args.job.takes_stdin() {
        return Err(Failure::usage(
            "--map reads the lines from standard input, which another option reads too",
        ));
    }
    let chosen = args.job.chosen_id()?;
    let flow = chosen.unwrap_or_else(file::generate_flow_name);
    let template = map::MapTemplate::new(args.job.envelope(session, times)?, flow.clone())?;
    let check = EnvelopeCheck::new(session, args.strict);
    let source = map::lines(lines, template, start, check)?;
    if args.dry_run {
        source.print()?;
        return Ok(0);
    }
    let options = file::FileOptions {
        queue,
        name: None,
        start,
        quiet: args.quiet,
        keep_ids: args.wait,
        trace: session.trace(),
        flow: Some(&flow),
    };
    if let Some(worker) = session.job_socket() {
        if args.max_jobs.is_some() || args.wait {
            return Err(not_in_a_job("--map with --max-jobs or --wait"));
        }
        file::enqueue_in_job(session, &worker, source, &options).await?;
        return Ok(0);
    }
    let client = session.connect().await?;
    if let Some(max) = args.max_jobs {
        client.queue(queue.as_str())?.check_capacity(max).await?;
    }
    let enqueued = file::enqueue(session, &client, source, &options).await?;
    let is_flow = client.record_numbered_flow(&flow, enqueued.jobs).await?;
    if !is_flow {
        render::note(format_args!(
            "`{flow}` has more than {DEPENDENCIES_MAX} jobs, so none can --join it"
        ));
    } else if !args.quiet && !args.wait && !session.json && std::io::stderr().is_terminal() {
        render::note(format_args!(
            "`naq enqueue --join {flow} -- COMMAND` enqueues a job that gets their outcomes"
        ));
    }
    match args.wait {
        true => wait_for_all(session, &client, &enqueued.ids).await,
        false => Ok(0),
    }
}

/// Enqueues the envelopes or the flow of a file.
async fn enqueue_file(
    session: &Session,
    args: &Args,
    file: &str,
    queue: &QueueName,
    start: Option<Delay>,
) -> Result<u8, Failure> {
    if !args.job.is_empty() {
        return Err(Failure::usage(
            "--file and a command exclude each other: the envelopes are in the file",
        ));
    }
    if !args.files.is_empty() {
        return Err(Failure::usage(
            "--file excludes --upload and --artifact: the envelopes are in the file",
        ));
    }
    let check = EnvelopeCheck::new(session, args.strict);
    let source = file::Source::envelopes(file, start, check)?;
    if args.dry_run {
        return file::check(source);
    }
    let name = args.job.chosen_id()?;
    let options = file::FileOptions {
        queue,
        name: name.as_ref(),
        start,
        quiet: args.quiet,
        keep_ids: args.wait,
        trace: session.trace(),
        flow: None,
    };
    if let Some(worker) = session.job_socket() {
        if args.max_jobs.is_some() || args.wait || name.is_some() {
            return Err(not_in_a_job("--file with --max-jobs, --wait or --id"));
        }
        file::enqueue_in_job(session, &worker, source, &options).await?;
        return Ok(0);
    }
    let client = session.connect().await?;
    if let Some(max) = args.max_jobs {
        client.queue(queue.as_str())?.check_capacity(max).await?;
    }
    let enqueued = file::enqueue(session, &client, source, &options).await?;
    if args.wait {
        wait_for_all(session, &client, &enqueued.ids).await
    } else {
        Ok(0)
    }
}

/// Enqueues the job that the options describe.
async fn enqueue_one(
    session: &Session,
    args: &Args,
    queue: &QueueName,
    start: Option<Delay>,
    times: &TimeReader<'_>,
) -> Result<u8, Failure> {
    let mut envelope = args.job.envelope(session, times)?;
    let joined = join(session, args, &mut envelope).await?;
    let uploads = args.files.add_to(&mut envelope, session)?;
    // The program that wrote its input may have been slow.
    session.progress.advance();
    EnvelopeCheck::new(session, args.strict).check(&envelope, "")?;
    if let Some(expires_at) = envelope.expires_at.filter(|_| !args.quiet) {
        times.note("--expires-at", expires_at)?;
    }
    // `--at` has been confirmed above.
    let is_span = matches!(start, Some(Delay::In(_)));
    let delay = start;
    let start = delay
        .map(|start| start.resolve(envelope.expires_at))
        .transpose()?;
    let prints_delay = is_span && !args.quiet && !session.json && std::io::stderr().is_terminal();
    if args.dry_run {
        if let Some(start) = start.filter(|_| prints_delay) {
            delay::print_delay(&start);
        }
        render::print_json(&envelope)?;
        return Ok(0);
    }
    if let Some(worker) = session.job_socket() {
        check_nothing_to_upload(&uploads)?;
        // an envelope with an id has to be the same in each attempt of this job
        if envelope.job_id.is_none() && envelope.traceparent.is_none() {
            envelope.traceparent = session.trace().map(|trace| trace.to_string());
        }
        return enqueue_in_job(session, args, worker, queue, delay, &envelope).await;
    }
    let client = match joined {
        Some(client) => client,
        None => session.connect().await?,
    };
    let queue = client.queue(queue.as_str())?.traced(session.trace());
    if let Some(max) = args.max_jobs {
        queue.check_capacity(max).await?;
    }
    // before the job: a worker may start it at once
    let needed_at = start.map_or_else(render::now, |start| start.due);
    uploads.store(session, &client, needed_at).await?;
    let waiter = match args.wait {
        false => None,
        true => {
            let job_id = envelope.job_id.get_or_insert_with(JobId::generate);
            // The watch starts before the job is enqueued, so that it misses no change.
            let waiter = client.waiter(std::slice::from_ref(job_id)).await?;
            Some((job_id.clone(), waiter))
        }
    };
    let job_id = match start {
        None => queue.enqueue(&envelope).await?,
        Some(start) => queue.enqueue_delayed(&envelope, start).await?,
    };
    if let Some(start) = start.filter(|_| prints_delay) {
        delay::print_delay(&start);
    }
    if let Some((job_id, waiter)) = waiter {
        return wait_and_show(session, &client, &job_id, waiter, args.full).await;
    }
    if !args.quiet {
        print_id(session, &job_id, queue.name(), start.as_ref())?;
    }
    if start.is_some() {
        clock::warn_if_off(&client).await;
    }
    Ok(0)
}

/// Makes the job wait for the jobs of a flow, with `--join`. Returns the connection by which it has found them.
async fn join(
    session: &Session,
    args: &Args,
    envelope: &mut Envelope,
) -> Result<Option<Client>, Failure> {
    let Some(flow) = &args.many.join else {
        return Ok(None);
    };
    if session.job_socket().is_some() {
        return Err(not_in_a_job("--join"));
    }
    let client = session.connect().await?;
    map::join(&client, envelope, flow).await?;
    Ok(Some(client))
}

/// Enqueues a job inside a job, through its worker.
async fn enqueue_in_job(
    session: &Session,
    args: &Args,
    worker: JobSocket,
    queue: &QueueName,
    delay: Option<Delay>,
    envelope: &Envelope,
) -> Result<u8, Failure> {
    if args.max_jobs.is_some() {
        return Err(not_in_a_job("--max-jobs"));
    }
    let payload = serde_json::to_vec(envelope);
    let payload = payload.map_err(|error| Failure::general(error.to_string()))?;
    let mut request = worker.enqueue_request(queue, &payload)?;
    if let Some(delay) = delay {
        delay.set_in(&mut request);
    }
    let job_id = worker.enqueue(request).await?;
    if args.wait {
        let worker = JobReader::Worker(worker);
        let jobs = std::slice::from_ref(&job_id);
        let waiting = worker.wait(&job_id);
        // A worker may grant `enqueue` and not `read`: the job is enqueued all the same.
        let waited = explain(session, &worker, jobs, |print| print(), waiting).await;
        let record = waited.inspect_err(|_| stopped_waiting(jobs))?;
        return show(session, &worker, &record, args.full).await;
    }
    if !args.quiet {
        let start = delay.map(|delay| delay.resolve(envelope.expires_at));
        print_id(session, &job_id, queue, start.transpose()?.as_ref())?;
    }
    Ok(0)
}

fn print_id(
    session: &Session,
    job_id: &JobId,
    queue: &QueueName,
    start: Option<&StartDelay>,
) -> std::io::Result<()> {
    render::tolerate_closed_output(if session.json {
        render::print_json(&EnqueuedJob {
            job_id,
            queue,
            scheduled_for: start.map(|start| start.due),
            name: None,
            flow: None,
        })
    } else {
        render::print_line(job_id)
    })
}

/// Waits for a job, shows its progress, and prints its outcome.
pub(super) async fn wait_and_show(
    session: &Session,
    client: &Client,
    job_id: &JobId,
    waiter: Waiter,
    option: FullOption,
) -> Result<u8, Failure> {
    let mut ended = None;
    let bars = RefCell::new(ProgressBars::new());
    let waiting = waiter.each_change(|record| {
        bars.borrow_mut().update(&record);
        ended = Some(record);
    });
    let jobs = std::slice::from_ref(job_id);
    if let ControlFlow::Break(code) =
        wait_for_enqueued(session, client, jobs, &bars, waiting).await?
    {
        return Ok(code);
    }
    let record = ended.ok_or_else(|| Failure::general("the record of the job is gone"))?;
    show(
        session,
        &JobReader::Nats(Box::new(client.clone())),
        &record,
        option,
    )
    .await
}

/// Prints an outcome: the job's standard output to ours, its standard error to ours. Returns the
/// job's exit code.
async fn show(
    session: &Session,
    client: &JobReader,
    record: &Record,
    option: FullOption,
) -> Result<u8, Failure> {
    if session.json {
        match option.full {
            true => render::print_json(&with_full_output(client, record).await?)?,
            false => render::print_json(record)?,
        }
    } else {
        print_output(client, record, option).await?;
        note_remarks(record);
    }
    Ok(record.shell_exit_code())
}

/// Waits until all jobs have ended. With `--json`, prints each record when its job ends; otherwise
/// prints how many succeeded.
pub(super) async fn wait_for_all(
    session: &Session,
    client: &Client,
    ids: &[JobId],
) -> Result<u8, Failure> {
    let (mut succeeded, mut failed) = (0_u64, 0_u64);
    let mut printed = Ok(());
    let waiting = client.wait_each(ids, |record| {
        if record.state() == State::Succeeded {
            succeeded += 1;
        } else {
            failed += 1;
        }
        if session.json && printed.is_ok() {
            printed = render::print_json(&record);
        }
    });
    let bars = RefCell::new(ProgressBars::new());
    if let ControlFlow::Break(code) =
        wait_for_enqueued(session, client, ids, &bars, waiting).await?
    {
        return Ok(code);
    }
    printed?;
    if !session.json {
        render::note(format_args!("{succeeded} succeeded, {failed} did not"));
    }
    Ok(if failed == 0 { 0 } else { Exit::Failed as u8 })
}
