//! `naq dev`: everything in one foreground process, to develop with.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;

use super::dashboard::SideDashboard;
use super::exit::Failure;
use super::metrics_args::{self, MetricsArgs};
use super::render;
use super::root_jobs::check_root_jobs;
use super::server::STOP_MAX;
use super::session::Session;
use super::setting_flags::WorkerSettingFlags;
use super::trace_export;
use super::worker::{join_names, queue_names, warn_of_hostile_jobs};
use super::worker_options::{WorkerOptions, warn_of_readable_secrets};
use crate::local_server::{ServerConfig, SyncInterval};
use crate::metrics::{Metrics, Role};
use crate::scheduler::{self, SchedulerConfig, SchedulerError, SchedulerSummary};
use crate::worker::{self, WorkerCommand, WorkerConfig, WorkerError, WorkerSummary};
use naq_client::Client;
use naq_runner::Runner;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Queues to serve [default: default]
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
    #[command(flatten)]
    worker: WorkerOptions,
    #[command(flatten)]
    metrics: MetricsArgs,
    /// When the server's writes reach the disk: 1s (a power cut may lose the last second) or
    /// always [default: 1s]
    #[arg(long, value_name = "WHEN", value_parser = super::server::parse_sync)]
    sync: Option<SyncInterval>,
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
    let queues = queue_names(session, &args.queues)?;
    check_root_jobs(session, &queues)?;
    let (commands, requests) = super::signals::worker_commands(WorkerCommand::Drain)?;
    let mut options = args.worker.to_development_options(session, queues)?;
    options.metrics = Arc::new(Metrics::new(&[Role::Worker, Role::Scheduler]));
    let monitors = args.metrics.listen().await?;
    let _monitors = metrics_args::serve(monitors, &options.metrics);
    // Before the runner, which would take the server's supervisor for the orphan of a job and kill
    // it: the supervisor is a child of this process in a session of its own.
    let (client, managed) = if session.resolved.nats_configured {
        let stopped = super::signals::stopped(requests.clone());
        match session.connect_when_reachable(stopped).await? {
            Some(client) => (client, None),
            None => return Ok(0),
        }
    } else {
        let mut server = ServerConfig::new(session.server_dir(), session.search());
        server.sync = args.sync.unwrap_or_default();
        let (client, managed) = session.start_managed(&server).await?;
        (client, Some(managed))
    };
    let runner = args.worker.start_runner(session).await?;
    warn_of_readable_secrets(session, &options, &runner)?;
    warn_of_hostile_jobs(&runner);
    let example = match options.queues.first() {
        Some(queue) if queue.as_str() != session.settings().default_queue => {
            format!("naq enqueue --queue {queue} --wait -- echo hello")
        }
        _ => "naq enqueue --wait -- echo hello".to_owned(),
    };
    match &managed {
        Some(managed) => {
            render::print_stderr(format_args!(
                "server     {}  (nkey in {})",
                managed.url(),
                managed.nkey_file().display()
            ));
        }
        None => render::print_stderr(format_args!("server     {}", client.server())),
    }
    render::print_stderr(format_args!(
        "worker     slots {}, queues {}, containment {}",
        options.concurrency,
        join_names(&options.queues),
        runner.containment()
    ));
    render::print_stderr("scheduler  in this process");
    let dashboard = SideDashboard::start(session, client.clone()).await?;
    render::print_stderr(format_args!("dashboard  {}", dashboard.login));
    render::print_stderr(format_args!(
        "try        {example}     (in another terminal)"
    ));
    render::print_stderr("stop       Ctrl-C");
    options.traces = trace_export::start(session, &options.metrics)?;
    let traces = options.traces.clone();
    let mut scheduler = super::scheduler::options(session);
    scheduler.metrics = Arc::clone(&options.metrics);
    let (summary, scheduled) =
        work_and_schedule(&client, &runner, options, scheduler, &commands, requests).await;
    dashboard.stop().await;
    let summary = summary?;
    scheduled?;
    runner.shutdown().await;
    traces.finish().await;
    if let Some(managed) = managed {
        drop(client);
        managed.leave(STOP_MAX).await?;
    }
    tracing::info!(ended = summary.jobs_ended, "done");
    Ok(0)
}

/// Runs a worker and a scheduler until `requests` ask them to stop. If one of them fails, asks the
/// other to stop by `commands`: one of them alone would look like a working `naq dev`.
async fn work_and_schedule(
    client: &Client,
    runner: &Runner,
    worker: WorkerConfig,
    scheduler: SchedulerConfig,
    commands: &watch::Sender<WorkerCommand>,
    requests: watch::Receiver<WorkerCommand>,
) -> (
    Result<WorkerSummary, WorkerError>,
    Result<SchedulerSummary, SchedulerError>,
) {
    let (stop, stopped) = watch::channel(false);
    let asked = super::signals::stopped(requests.clone());
    let stop_both = || {
        commands.send_if_modified(|command| {
            let is_running = *command == WorkerCommand::Run;
            if is_running {
                *command = WorkerCommand::Drain;
            }
            is_running
        });
    };
    let scheduling = async {
        let stopping = async {
            asked.await;
            let _ = stop.send(true);
            std::future::pending::<Infallible>().await
        };
        let ended = tokio::select! {
            ended = scheduler::run_scheduler(client.clone(), scheduler, stopped) => ended,
            never = stopping => match never {},
        };
        if let Err(error) = &ended {
            tracing::error!("the scheduler has ended, stopping the worker: {error}");
            stop_both();
        }
        ended
    };
    let working = async {
        let ended = worker::run_worker(client.clone(), runner.clone(), worker, requests).await;
        if let Err(error) = &ended {
            tracing::error!("the worker has ended, stopping the scheduler: {error}");
        }
        // also if an operator has drained the worker
        stop_both();
        ended
    };
    tokio::join!(working, scheduling)
}
