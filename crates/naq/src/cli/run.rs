//! `naq run`: enqueue, work and print in one process.

use std::io::{IsTerminal, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::exit::Failure;
use super::job_options::{JobOptions, set_stdin};
use super::job_output::{FullOption, print_output};
use super::job_socket::JobReader;
use super::progress::ProgressBars;
use super::remarks::note_remarks;
use super::render;
use super::root_jobs::check_root_jobs;
use super::session::Session;
use super::times::TimeReader;
use super::waiting::{SILENCE_MAX, explain, stopped_waiting};
use super::worker_options::WorkerOptions;
use crate::worker::{self, WorkerCommand};
use naq_client::{Client, SINGLE_JOB_QUEUE};
use naq_core::has_required_labels;
use naq_protocol::{Envelope, JobId, JobProgress, QueueName, Record};
use naq_runner::StreamKind;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    job: JobOptions,
}

/// No nats-server accepts a longer message, in bytes.
const STDIN_BYTES_MAX: u64 = 64 << 20;

/// Maximum number of chunks of the job's output that wait to be printed.
const OUTPUT_TAP_CHUNKS_MAX: usize = 64;

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let mut envelope = args
        .job
        .envelope(session, &TimeReader::new(session, None, args.job.past_ok)?)?;
    if !args.job.takes_stdin() {
        pass_stdin(&mut envelope).await?;
    }
    let queue = QueueName::new(SINGLE_JOB_QUEUE)?;
    // The job comes back from the server, where another publisher may have used its id first.
    check_root_jobs(session, std::slice::from_ref(&queue))?;
    let job_id = envelope.job_id.clone().unwrap_or_else(JobId::generate);
    check_labels(session, &envelope)?;
    let (commands, requests) = super::signals::worker_commands(WorkerCommand::Cancel)?;
    let options = WorkerOptions::single_slot();
    // Before the runner, which would take the server's supervisor for the orphan of a job and kill
    // it: the supervisor is a child of this process in a session of its own.
    let (client, _managed) = session.connect_or_start().await?;
    let runner = options.start_runner(session).await?;
    if envelope.cwd.is_none() {
        envelope.cwd = std::env::current_dir()?.to_str().map(str::to_owned);
    }
    enqueue(session, &client, &job_id, &envelope).await?;
    // Only a job whose id the user chose can have run before.
    if envelope.job_id.is_some()
        && let Some(record) = client.fetch_result(&job_id).await?
    {
        return show_earlier_outcome(session, &client, &record).await;
    }
    let mut worker = options.to_development_options(session, vec![queue])?;
    worker.single_job = Some(job_id.clone());
    let display = Display::start(session, &job_id, &mut worker, commands);
    let running = worker::run_worker(client.clone(), runner.clone(), worker, requests);
    let bars = Arc::clone(&display.bars);
    let print = |print: &mut dyn FnMut()| lock(&bars).suspend(print);
    let summary = explain(
        session,
        &client,
        std::slice::from_ref(&job_id),
        print,
        running,
    )
    .await?;
    runner.shutdown().await;
    let printed = display.finish().await;
    let record = match summary.last_record {
        Some(record) if record.state().is_terminal() => *record,
        // The worker was stopped before the job started, between two attempts, or while NATS was away.
        _ => {
            let cancelled = client.cancel(&job_id).await;
            let cancelled =
                cancelled.inspect_err(|_| stopped_waiting(std::slice::from_ref(&job_id)))?;
            cancelled.record().clone()
        }
    };
    printed?;
    finish(session, &record)
}

/// Passes this process's standard input to the job, as a shell would, unless it is a terminal: a
/// job has none. The envelope contains it, so that each attempt gets all of it.
async fn pass_stdin(envelope: &mut Envelope) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(());
    }
    let mut reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let max = STDIN_BYTES_MAX + 1;
        stdin
            .lock()
            .take(max)
            .read_to_end(&mut bytes)
            .map(|_| bytes)
    });
    let read = tokio::select! {
        read = &mut reading => read,
        () = tokio::time::sleep(SILENCE_MAX) => {
            render::note("waiting for the end of standard input, which is passed to the job; `< /dev/null` passes none");
            reading.await
        }
    };
    let bytes = read.map_err(|error| Failure::general(error.to_string()))??;
    if bytes.len() as u64 > STDIN_BYTES_MAX {
        return Err(Failure::usage(
            "the standard input is longer than 64M, the largest message of NATS",
        )
        .hint("put it into a file, and pass its name to the job"));
    }
    if !bytes.is_empty() {
        set_stdin(envelope, bytes);
    }
    Ok(())
}

/// Returns an error if the job requires labels that this process does not have: its worker would
/// only reroute the job to another worker.
fn check_labels(session: &Session, envelope: &Envelope) -> Result<(), Failure> {
    if has_required_labels(&session.settings().worker_labels, &envelope.requires) {
        return Ok(());
    }
    Err(Failure::usage(
        "the job requires labels that `worker_labels` does not have here, where `naq run` runs it",
    )
    .hint("`naq enqueue --wait` leaves it to a worker that has them"))
}

/// Enqueues the job under `job_id`. The envelope names an id only if the user chose one.
async fn enqueue(
    session: &Session,
    client: &Client,
    job_id: &JobId,
    envelope: &Envelope,
) -> Result<(), Failure> {
    let payload =
        serde_json::to_vec(envelope).map_err(|error| Failure::general(error.to_string()))?;
    client
        .queue(SINGLE_JOB_QUEUE)?
        .traced(session.trace())
        .enqueue_bytes(Some(job_id.clone()), payload.into())
        .await?;
    Ok(())
}

/// Shows the outcome of a job that ran before under the same id. Enqueueing is idempotent, so the
/// stored outcome is the result.
async fn show_earlier_outcome(
    session: &Session,
    client: &Client,
    record: &Record,
) -> Result<u8, Failure> {
    if !session.json {
        let reader = JobReader::Nats(Box::new(client.clone()));
        print_output(&reader, record, FullOption::default()).await?;
    }
    finish(session, record)
}

/// The tasks that show a running job's output and progress.
struct Display {
    bars: Arc<Mutex<ProgressBars>>,
    printer: JoinHandle<std::io::Result<()>>,
    progress: JoinHandle<()>,
}

impl Display {
    /// Attaches the display to the worker. If this process's output is closed, the worker is
    /// asked by `commands` to cancel the job, as a shell ends the writer of a closed pipeline.
    fn start(
        session: &Session,
        job_id: &JobId,
        worker: &mut worker::WorkerConfig,
        commands: Arc<watch::Sender<WorkerCommand>>,
    ) -> Display {
        let (output_tap, output) = mpsc::channel(OUTPUT_TAP_CHUNKS_MAX);
        // With `--json`, the record is printed, which contains the output.
        worker.output_tap = (!session.json).then_some(output_tap);
        let (progress, updates) = watch::channel(JobProgress::default());
        worker.progress_tap = Some(progress);
        let bars = Arc::new(Mutex::new(ProgressBars::new()));
        let progress = tokio::spawn(show(job_id.clone(), updates, Arc::clone(&bars)));
        let of_printer = Arc::clone(&bars);
        let printer = tokio::task::spawn_blocking(move || {
            let printed = print(output, &of_printer);
            if printed.is_err() {
                let _ = commands.send(WorkerCommand::Cancel);
            }
            printed
        });
        Display {
            bars,
            printer,
            progress,
        }
    }

    /// Waits until everything is shown; the worker must have ended. Returns the error of a write
    /// to this process's output.
    async fn finish(self) -> std::io::Result<()> {
        let printed = self.printer.await;
        let _ = self.progress.await;
        printed.unwrap_or(Ok(()))
    }
}

/// Shows the job's progress until its worker has ended.
async fn show(
    job: JobId,
    mut updates: watch::Receiver<JobProgress>,
    bars: Arc<Mutex<ProgressBars>>,
) {
    while updates.changed().await.is_ok() {
        let progress = updates.borrow_and_update().clone();
        lock(&bars).show(&job, &progress);
    }
    lock(&bars).clear();
}

fn lock(bars: &Mutex<ProgressBars>) -> MutexGuard<'_, ProgressBars> {
    bars.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies the job's output to this process's output.
fn print(
    mut output: mpsc::Receiver<(StreamKind, bytes::Bytes)>,
    bars: &Mutex<ProgressBars>,
) -> std::io::Result<()> {
    while let Some((stream, bytes)) = output.blocking_recv() {
        // The lock is held for one chunk only, because the log also writes to standard error.
        lock(bars).suspend(|| match stream {
            StreamKind::Stdout => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()
            }
            StreamKind::Stderr => std::io::stderr().write_all(&bytes),
        })?;
    }
    Ok(())
}

/// Reports what the output and the exit code do not show.
fn finish(session: &Session, record: &Record) -> Result<u8, Failure> {
    if session.json {
        render::print_json(record)?;
        return Ok(record.shell_exit_code());
    }
    note_remarks(record);
    Ok(record.shell_exit_code())
}
