//! A worker's life around its loop: what it sets up before, and how it signs off after.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::claim_ahead::{ClaimAhead, DEPTH_MAX};
use super::context::{RefusedWrites, RegisteredRoutes, WorkerContext};
use super::event_loop::{Worker, next_command};
use super::file_cache::FileCache;
use super::job_log::JobLog;
use super::job_socket::JobSocket;
use super::lease::HeldLeases;
use super::metrics::WorkerMetrics;
use super::options::{WorkerCommand, WorkerConfig, WorkerError, WorkerSummary};
use super::prepared_scripts::PreparedScripts;
use super::report::Report;
use super::stay_awake::StayAwake;
use super::warm::WarmPools;
use super::{label_routes, prepare, probe_runners, server_down};
use crate::clock::ClockWatch;
use crate::metrics::EnqueuedJobs;
use crate::process_id::{self, Service};
use crate::watchdog::WatchdogTimer;
use naq_client::Client;
use naq_jetstream::Broker;
use naq_runner::Runner;

/// How long a worker that exits waits for NATS to take its last messages.
const SIGN_OFF_MAX: Duration = Duration::from_secs(2);

/// Runs a worker until it is commanded to exit.
///
/// # Errors
/// Returns [`WorkerError::Broker`] if the streams and consumers cannot be created, or if the
/// server refuses the connection.
pub async fn run_worker(
    client: Client,
    runner: Runner,
    mut options: WorkerConfig,
    mut commands: watch::Receiver<WorkerCommand>,
) -> Result<WorkerSummary, WorkerError> {
    let broker = client.broker().clone();
    let mut watchdog = WatchdogTimer::new(options.watchdog);
    let (consumer, ack_wait) = tokio::select! {
        prepared = watchdog.while_waiting(prepare::prepare(&broker, &options)) => prepared?,
        _ = next_command(&mut commands, WorkerCommand::Run) => return Ok(WorkerSummary::default()),
    };
    // a lease has to expire here before it does on the server, whatever the options say
    options.ack_wait = options.ack_wait.min(ack_wait);
    let worker_id = process_id::new_id(Service::Worker).to_string();
    let control = broker.subscribe_control(&worker_id).await?;
    let lease_queries = tokio::select! {
        queries = watchdog.while_waiting(prepare::subscribe_lease_queries(&broker, &worker_id)) => queries?,
        _ = next_command(&mut commands, WorkerCommand::Run) => return Ok(WorkerSummary::default()),
    };
    let pulls = tokio::select! {
        pulls = watchdog.while_waiting(prepare::open_pull_subscription(&broker, &options, &consumer)) => pulls?,
        _ = next_command(&mut commands, WorkerCommand::Run) => return Ok(WorkerSummary::default()),
    };
    let warm = WarmPools::start(&runner, &options.warm)?;
    let job_socket = listen_to_jobs(&client, &runner, &options)?;
    let (reports, inbox) = mpsc::channel(options.concurrency.max(16));
    let (queues, slots) = (&options.queues, options.concurrency);
    let metrics = WorkerMetrics::new(&options.metrics, queues, slots, &runner);
    options.metrics.observe_requests(&client);
    let connection = show_connection(&broker, &options);
    let context = Arc::new(WorkerContext {
        broker: broker.clone(),
        client,
        metrics,
        runner,
        worker_id: worker_id.clone(),
        leases: HeldLeases::default(),
        refused_writes: RefusedWrites::default(),
        outcomes: Semaphore::new(options.concurrency + DEPTH_MAX),
        claim_ahead: ClaimAhead::default(),
        awake: StayAwake::new(),
        runners: Mutex::default(),
        prepared_scripts: PreparedScripts::default(),
        warm: warm.clone(),
        running_alone: Semaphore::new(1),
        job_log: JobLog::new(),
        files: FileCache::new(),
        registered_routes: RegisteredRoutes::default(),
        job_socket,
        options,
    });
    let routes = label_routes::serves_routes(&context.options).then(|| {
        let watching = label_routes::watch_routes(Arc::clone(&context), reports.clone());
        AbortOnDropHandle::new(tokio::spawn(watching))
    });
    let probing = AbortOnDropHandle::new(tokio::spawn(probe_runners::run(Arc::clone(&context))));
    let clock = AbortOnDropHandle::new(tokio::spawn(report_clock_changes(reports.clone())));
    let down = server_down::extend_leases_while_refused(Arc::clone(&context));
    let down = AbortOnDropHandle::new(tokio::spawn(down));
    let awake = keep_awake(&context);
    let kept = Arc::clone(&context);
    let keeping = AbortOnDropHandle::new(tokio::spawn(async move {
        let on_recreated = |_: &str| kept.registered_routes.clear();
        kept.broker.keep_streams(on_recreated).await;
    }));
    if let Some(manager) = context.options.service_manager {
        (manager.ready)();
    }
    let worker = Worker::new(context, pulls, control, lease_queries, reports);
    let (summary, last_command) = worker.run(inbox, &mut commands, watchdog).await;
    drop((routes, probing, clock, down, awake, keeping, connection));
    warm.stop();
    sign_off(&broker, &worker_id, &mut commands, last_command).await;
    Ok(summary)
}

/// Keeps the runtime awake when it is to be.
fn keep_awake(context: &Arc<WorkerContext>) -> AbortOnDropHandle<()> {
    let context = Arc::clone(context);
    AbortOnDropHandle::new(tokio::spawn(async move { context.awake.run().await }))
}

/// Keeps the metrics of the connection up to date.
fn show_connection(broker: &Broker, options: &WorkerConfig) -> AbortOnDropHandle<()> {
    let shown = options.metrics.connection();
    let connection = broker.connection().clone();
    AbortOnDropHandle::new(tokio::spawn(
        connection.follow(move |state| shown.set(&state)),
    ))
}

/// Opens the socket of the jobs, if the worker grants them anything.
fn listen_to_jobs(
    client: &Client,
    runner: &Runner,
    options: &WorkerConfig,
) -> Result<Option<JobSocket>, WorkerError> {
    if options.grants.is_empty() {
        return Ok(None);
    }
    let grants = options.grants.clone();
    let enqueued = EnqueuedJobs::new(&options.metrics, "child");
    let (owner, slots) = (options.job_user, options.concurrency);
    let temporary = runner.shared_folder().map(Path::to_path_buf);
    let temporary = temporary.unwrap_or_else(std::env::temp_dir);
    JobSocket::listen(client.clone(), grants, enqueued, owner, slots, &temporary)
        .map(Some)
        .map_err(WorkerError::JobSocket)
}

/// Removes the worker's heartbeat, and waits until all it has sent has left this process. A server
/// that is away does not keep the worker from exiting: the heartbeat expires by itself.
async fn sign_off(
    broker: &Broker,
    worker_id: &str,
    commands: &mut watch::Receiver<WorkerCommand>,
    last_command: WorkerCommand,
) {
    let signing_off = async {
        let _ = broker.remove_worker(worker_id).await;
        let _ = broker.flush().await;
    };
    tokio::select! {
        ended = tokio::time::timeout(SIGN_OFF_MAX, signing_off) => {
            if ended.is_err() {
                tracing::warn!(
                    "exiting while NATS does not answer; the worker stays listed until its heartbeat expires"
                );
            }
        }
        _ = next_command(commands, last_command) => {}
    }
}

/// Wakes the loop when the machine resumes, so that it checks and renews its leases at once.
/// Without this it would do so at the next heartbeat or renewal, whose timers do not count
/// suspended time: several short suspensions could add up to an expired lease.
async fn report_clock_changes(reports: mpsc::Sender<Report>) {
    let clock = match ClockWatch::new() {
        Ok(clock) => clock,
        Err(error) => {
            tracing::debug!("cannot watch the clock: {error}");
            return;
        }
    };
    loop {
        clock.was_set().await;
        if reports.send(Report::ClockSet).await.is_err() {
            return;
        }
    }
}
