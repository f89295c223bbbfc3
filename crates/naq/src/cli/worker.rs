//! `naq worker`

mod at_boot;

use std::num::NonZeroU64;

use super::exit::Failure;
use super::metrics_args::{self, MetricsArgs};
use super::root_jobs::check_root_jobs;
use super::session::Session;
use super::setting_flags::WorkerSettingFlags;
use super::trace_export;
use super::worker_options::{WorkerOptions, warn_of_readable_secrets};
use crate::worker::{self, WorkerCommand};
use naq_protocol::QueueName;
use naq_protocol::units::WireDuration;
use naq_runner::Runner;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Queues to serve, in order [default: default]
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
    /// Command to enqueue to the first queue once after each start of this machine, as @reboot in
    /// a crontab; it runs by /bin/sh, on a worker with the labels of this one
    #[arg(long, value_name = "COMMAND")]
    at_boot: Vec<String>,
    /// Exit after this many jobs have ended here; an attempt that is retried counts too
    #[arg(long, value_name = "COUNT")]
    exit_after: Option<NonZeroU64>,
    /// Exit once no job has run here for this long
    #[arg(long, value_name = "TIME")]
    exit_when_idle: Option<WireDuration>,
    #[command(flatten)]
    worker: WorkerOptions,
    #[command(flatten)]
    metrics: MetricsArgs,
}

impl Args {
    pub(super) fn setting_flags(&self) -> &WorkerSettingFlags {
        self.worker.setting_flags()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.worker.is_quiet()
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    if let [verb, worker, ..] = args.queues.as_slice()
        && verb == "drain"
    {
        // It would start a worker where someone means to stop one.
        let drain = naq_protocol::command_line(["naq", "workers", "drain", worker]);
        return Err(
            Failure::usage("`drain` is no verb of a worker; its arguments are queues").hint(
                format!("`{drain}` drains a worker; name a queue `drain` last to serve it"),
            ),
        );
    }
    let queues = queue_names(session, &args.queues)?;
    // Before the connection: a worker that is refused should not wait for NATS.
    check_root_jobs(session, &queues)?;
    let (_, requests) = super::signals::worker_commands(WorkerCommand::Drain)?;
    let mut options = args.worker.to_options(session, queues)?;
    options.watchdog = super::systemd::watchdog();
    options.service_manager = Some(super::systemd::service_manager());
    options.exit_after = args.exit_after.map(NonZeroU64::get);
    options.exit_when_idle = args.exit_when_idle.map(|time| time.0);
    let monitors = args.metrics.listen().await?;
    let _monitors = metrics_args::serve(monitors, &options.metrics);
    // The runner starts first: a worker that cannot contain jobs ends before it connects.
    let runner = args.worker.start_runner(session).await?;
    let stopped = super::signals::stopped(requests.clone());
    let Some(client) = session.connect_when_reachable(stopped).await? else {
        runner.shutdown().await;
        return Ok(0);
    };
    tracing::info!(
        server = client.server(),
        queues = %join_names(&options.queues),
        concurrency = options.concurrency,
        containment = %runner.containment(),
        memory_limit = %runner.memory_limit(),
        grants = %options.grants,
        "working"
    );
    warn_of_readable_secrets(session, &options, &runner)?;
    warn_of_hostile_jobs(&runner);
    at_boot::enqueue_boot_jobs(&client, &options, &args.at_boot).await?;
    options.traces = trace_export::start(session, &options.metrics)?;
    let traces = options.traces.clone();
    let summary = worker::run_worker(client, runner.clone(), options, requests).await?;
    runner.shutdown().await;
    traces.finish().await;
    tracing::info!(
        ended = summary.jobs_ended,
        requeued = summary.requeued,
        "done"
    );
    Ok(0)
}

/// The queues that are named, each once, or the default queue.
pub(super) fn queue_names(session: &Session, named: &[String]) -> Result<Vec<QueueName>, Failure> {
    let mut queues: Vec<QueueName> = Vec::new();
    for name in named {
        let queue = QueueName::new(name)?;
        if !queues.contains(&queue) {
            queues.push(queue);
        }
    }
    if queues.is_empty() {
        queues.push(QueueName::new(&session.settings().default_queue)?);
    }
    Ok(queues)
}

pub(super) fn join_names(queues: &[QueueName]) -> String {
    queues
        .iter()
        .map(QueueName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Warns if a job can end its worker.
pub(super) fn warn_of_hostile_jobs(runner: &Runner) {
    if runner.can_be_ended_by_jobs() {
        tracing::warn!(
            containment = %runner.containment(),
            "a hostile job can end this worker and outlive it, since it runs as the same user without a PID namespace; use --run-as or --containment namespace"
        );
    }
}
