//! The loop that pulls jobs, claims, runs, records and acknowledges them.
//!
//! One loop owns the slots and the signals; each delivery is a task of its own that reports to
//! it. Nothing here decides what a job's end means (that is `lifecycle`), speaks to NATS
//! (`broker`) or starts a process (`runner`).

mod attempt;
mod blocked;
mod claim;
mod command;
mod control;
mod execution;
mod finish;
mod lease;
mod pull_planner;
mod record_outcome;
mod requeue_orphans;
mod routing;
mod secrets;

pub use pull_planner::QueueOrder;
pub use secrets::{SecretError, SecretStore};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use attempt::AttemptContext;
use lease::MessageLease;
use naq_jetstream::{
    Broker, BrokerError, ControlCommand, ControlSubscription, Delivery, PullEvent, PullKind,
    PullSubscription, ReceivedCommand,
};
use naq_protocol::{
    JobId, JobProgress, QueueName, Record, ResourceLimits, Timestamp, WorkerInfo, WorkerState,
};
use naq_runner::{Runner, StopReason, StreamKind};

/// The target of the log's lines about single jobs, to be filtered by.
pub const JOBS_LOG_TARGET: &str = "naq::jobs";

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The queues, in order of preference where the order is strict.
    pub queues: Vec<QueueName>,
    /// How many jobs run at once.
    pub concurrency: usize,
    /// The name shown to people; the host's where none is given.
    pub name: Option<String>,
    /// Labels, for people and for jobs that require them.
    pub labels: BTreeMap<String, String>,
    /// How queues share the slots.
    pub order: QueueOrder,
    /// The timeout of a job that names none; none where none.
    pub timeout: Option<Duration>,
    /// From TERM to KILL.
    pub kill_grace: Duration,
    /// Limits of a job that names none.
    pub limits: ResourceLimits,
    /// Names of variables an envelope may set although they make programs run other code:
    /// exact, or a beginning with `*`.
    pub allow_env: Vec<String>,
    /// Where secrets are kept.
    pub secrets: SecretStore,
    /// How long the record of a job stays that does not say.
    pub result_ttl: Duration,
    /// How long the server waits for word of a running job before it gives the job to another
    /// worker.
    pub ack_wait: Duration,
    /// How often the heartbeat is written.
    pub heartbeat_interval: Duration,
    /// How long a heartbeat lasts.
    pub heartbeat_ttl: Duration,
    /// How long running jobs may go on when the worker is asked to end.
    pub drain_timeout: Duration,
    /// A job under which the worker died so often is given up.
    pub max_worker_crashes: u32,
    /// Age of a job from which its output goes live.
    pub live_output_after: Duration,
    /// Pull one job only, by this consumer, and end when it has ended: for `naq run`.
    pub single_job: Option<(JobId, String)>,
    /// Where a copy of live output goes, in this process.
    pub output_tap: Option<mpsc::Sender<(StreamKind, bytes::Bytes)>>,
    /// Where progress goes, in this process.
    pub progress_tap: Option<watch::Sender<JobProgress>>,
}

impl WorkerConfig {
    /// The defaults, for some queues.
    #[must_use]
    pub fn new(queues: Vec<QueueName>, concurrency: usize) -> WorkerConfig {
        WorkerConfig {
            queues,
            concurrency,
            name: None,
            labels: BTreeMap::new(),
            order: QueueOrder::Fair,
            timeout: None,
            kill_grace: Duration::from_secs(10),
            limits: ResourceLimits::default(),
            allow_env: Vec::new(),
            secrets: SecretStore::empty(),
            result_ttl: Duration::from_secs(7 * 86_400),
            ack_wait: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(5),
            heartbeat_ttl: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            max_worker_crashes: 3,
            live_output_after: Duration::from_secs(1),
            single_job: None,
            output_tap: None,
            progress_tap: None,
        }
    }
}

/// How long a worker that has stopped its jobs may take to say what became of them. A server that
/// is away, or full, must not keep it for ever.
const RECORD_OUTCOMES_MAX: Duration = Duration::from_secs(5);

/// What a worker is asked to do, from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerCommand {
    /// Go on.
    Run,
    /// Take no more jobs, let running ones finish within the drain timeout, end.
    Drain,
    /// Stop running jobs now, hand them back, end.
    Stop,
    /// Cancel running jobs: they end as cancelled. Then end.
    Cancel,
}

/// What a worker did.
#[derive(Clone, Debug, Default)]
pub struct WorkerSummary {
    /// Attempts that were run and recorded.
    pub jobs_ended: u64,
    /// Jobs that were stopped and handed back.
    pub requeued: u64,
    /// The last record written: of use where there was one job.
    pub last_record: Option<Box<Record>>,
}

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// NATS.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// What a task reports to the loop.
enum Report {
    /// The job's processes are gone; the slot can be used again.
    SlotFree,
    /// There is a further line to pull from: jobs that require labels this worker has.
    RouteAvailable { queue: QueueName, consumer: String },
    /// The job is recorded, or given up, and no longer held.
    Finished {
        job_id: JobId,
        sequence: u64,
        queue: QueueName,
        result: attempt::Done,
    },
}

/// Runs until asked to end.
///
/// # Errors
/// Where the layout cannot be made or the connection is gone for good.
pub async fn run_worker(
    broker: Broker,
    runner: Runner,
    mut options: WorkerConfig,
    mut request: watch::Receiver<WorkerCommand>,
) -> Result<WorkerSummary, WorkerError> {
    let worker_id = JobId::generate().to_string();
    let (consumer, ack_wait) = tokio::select! {
        prepared = prepare(&broker, &options) => prepared?,
        _ = next_command(&mut request, WorkerCommand::Run) => return Ok(WorkerSummary::default()),
    };
    // a hold is to be given up before the server does, whatever this worker was told
    options.ack_wait = options.ack_wait.min(ack_wait);
    let control = broker.subscribe_control(&worker_id).await?;
    let pulls = tokio::select! {
        pulls = open_pull_subscription(&broker, &options, &consumer) => pulls?,
        _ = next_command(&mut request, WorkerCommand::Run) => return Ok(WorkerSummary::default()),
    };
    let (reports, inbox) = mpsc::channel(options.concurrency.max(16));
    let started_at = now();
    let mut worker = Worker {
        context: Arc::new(AttemptContext {
            broker: broker.clone(),
            runner,
            worker_id: worker_id.clone(),
            unrecorded_outcomes: Semaphore::new(options.concurrency + 64),
            registered: routing::RegisteredRoutes::default(),
            options,
        }),
        pull_planner: pull_planner::PullPlanner::default(),
        pulls,
        control,
        reports,
        leases: HashMap::new(),
        free_slots: 0,
        summary: WorkerSummary::default(),
        state: WorkerCommand::Run,
        started_at,
        coalesced_at: Instant::now(),
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    worker.free_slots = worker.context.options.concurrency;
    let following = routing::serves_routes(&worker.context.options).then(|| {
        let (context, reports) = (Arc::clone(&worker.context), worker.reports.clone());
        AbortOnDropHandle::new(tokio::spawn(routing::watch_routes(context, reports)))
    });
    let summary = worker.run(inbox, &mut request).await;
    drop(following);
    let _ = broker.remove_worker(&worker_id).await;
    let _ = broker.flush().await;
    Ok(summary)
}

/// Makes what the worker needs, and returns the name of its consumers and the shortest time they
/// wait for word of a job. Servers that are about to elect a leader do not answer; they are asked
/// again.
async fn prepare(
    broker: &Broker,
    options: &WorkerConfig,
) -> Result<(String, Duration), BrokerError> {
    let mut failures = 0;
    loop {
        match prepare_once(broker, options).await {
            Err(error @ BrokerError::Timeout(_)) => tracing::warn!("not ready yet: {error}"),
            done => return done,
        }
        failures += 1;
        tokio::time::sleep(attempt::RETRY_BACKOFF.pause(failures, rand::random())).await;
    }
}

async fn prepare_once(
    broker: &Broker,
    options: &WorkerConfig,
) -> Result<(String, Duration), BrokerError> {
    broker.ensure_layout().await?;
    let mut ack_wait = options.ack_wait;
    if let Some((_, consumer)) = &options.single_job {
        return Ok((consumer.clone(), ack_wait));
    }
    for queue in &options.queues {
        broker.ensure_queue(queue).await?;
        let of_queue = broker
            .ensure_worker_consumer(queue, options.ack_wait)
            .await?;
        ack_wait = ack_wait.min(of_queue);
    }
    Ok((broker.names().worker_consumer(), ack_wait))
}

/// Opens the way by which jobs come: a connection of its own, so a server that was there a moment
/// ago may be gone now. It is waited for, as it is later.
async fn open_pull_subscription(
    broker: &Broker,
    options: &WorkerConfig,
    consumer: &str,
) -> Result<PullSubscription, BrokerError> {
    let mut failures = 0;
    loop {
        match broker
            .open_pull_subscription(&options.queues, consumer)
            .await
        {
            Err(error @ BrokerError::Connect { .. }) => tracing::warn!("not ready yet: {error}"),
            done => return done,
        }
        failures += 1;
        tokio::time::sleep(attempt::RETRY_BACKOFF.pause(failures, rand::random())).await;
    }
}

/// How many jobs must run for each processor for ends to be gathered: enough to keep it busy.
const COALESCE_RUNNING_MIN: usize = 4;

/// How long ends are gathered, for each job that runs on a processor and at the most: an eighth of
/// what they keep it busy for, a short one taking some 500 µs.
const COALESCE_PER_JOB: Duration = Duration::from_micros(64);
const COALESCE_PAUSE_MAX: Duration = Duration::from_millis(3);

/// How long to gather while so many jobs run on so many processors.
fn coalesce_pause(running: usize, processors: usize) -> Duration {
    if running < COALESCE_RUNNING_MIN * processors {
        return Duration::ZERO;
    }
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let pause = COALESCE_PER_JOB.saturating_mul(count(running)) / count(processors);
    pause.min(COALESCE_PAUSE_MAX)
}

struct Worker {
    context: Arc<AttemptContext>,
    pull_planner: pull_planner::PullPlanner,
    pulls: PullSubscription,
    /// What others ask of this worker.
    control: ControlSubscription,
    reports: mpsc::Sender<Report>,
    /// What this worker holds, by queue and sequence of the message.
    leases: HashMap<(QueueName, u64), Arc<MessageLease>>,
    free_slots: usize,
    summary: WorkerSummary,
    state: WorkerCommand,
    started_at: Timestamp,
    coalesced_at: Instant,
    /// How many processors this process may use.
    processors: usize,
}

impl Worker {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Report>,
        request: &mut watch::Receiver<WorkerCommand>,
    ) -> WorkerSummary {
        let options = &self.context.options;
        let mut renewals = tokio::time::interval(options.ack_wait / 3);
        let mut heartbeats = tokio::time::interval(options.heartbeat_interval);
        renewals.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        heartbeats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut drain_deadline: Option<Instant> = None;
        let mut exit_deadline: Option<Instant> = None;
        loop {
            if self.state == WorkerCommand::Run {
                self.request_jobs().await;
            } else if self.leases.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                asked = next_command(request, self.state) => {
                    self.state = asked;
                    match asked {
                        WorkerCommand::Run => {}
                        WorkerCommand::Drain => {
                            drain_deadline = Some(Instant::now() + self.context.options.drain_timeout);
                            tracing::info!(
                                running = self.leases.len(),
                                "draining: no more jobs are taken; running ones may finish"
                            );
                            self.stop_pulling().await;
                        }
                        WorkerCommand::Stop => {
                            self.stop_pulling().await;
                            self.stop_jobs(StopReason::Drain, true);
                            exit_deadline = Some(Instant::now() + RECORD_OUTCOMES_MAX);
                        }
                        WorkerCommand::Cancel => {
                            self.stop_pulling().await;
                            self.stop_jobs(StopReason::Cancel, false);
                        }
                    }
                    self.heartbeat().await;
                }
                // before the jobs, whose stream need not end: they are due seldom, and then must be done
                _ = renewals.tick() => self.renew(),
                _ = heartbeats.tick() => self.heartbeat().await,
                report = inbox.recv() => {
                    if let Some(report) = report {
                        self.on_report(report);
                    }
                    // whatever else has been reported meanwhile, before demand is reckoned anew
                    while let Ok(report) = inbox.try_recv() {
                        self.on_report(report);
                    }
                    self.coalesce_completions();
                }
                call = self.control.next() => self.on_control(call),
                event = self.pulls.next() => self.on_pull_event(event),
                () = sleep_until(drain_deadline) => {
                    drain_deadline = None;
                    tracing::warn!(running = self.leases.len(), "the drain timeout is over: stopping the jobs that still run");
                    self.stop_jobs(StopReason::Drain, false);
                    exit_deadline = Some(Instant::now() + self.context.options.kill_grace + RECORD_OUTCOMES_MAX);
                }
                () = sleep_until(exit_deadline) => {
                    tracing::warn!(
                        unrecorded = self.leases.len(),
                        "leaving without NATS having taken every outcome: another worker runs those jobs again"
                    );
                    break;
                }
            }
        }
        self.summary
    }

    /// Under a stream of short jobs, lets a few ends come together before they are dealt with.
    ///
    /// Each wake-up, packet and system call costs as much as the work it brings; where so many
    /// jobs run that the processors stay busy meanwhile, a pause halves that cost and delays
    /// nobody. It blocks the thread on purpose: everything that arrives waits in the kernel.
    fn coalesce_completions(&mut self) {
        let now = Instant::now();
        let since_last = now.duration_since(self.coalesced_at);
        let running = self.context.options.concurrency - self.free_slots;
        self.coalesced_at = now;
        let pause = coalesce_pause(running, self.processors);
        if !pause.is_zero() && since_last < pause * 2 {
            std::thread::sleep(pause);
        }
    }

    /// States the demand that follows from the free slots.
    async fn request_jobs(&mut self) {
        let order = self.context.options.order;
        let pending_pulls: Vec<_> = (0..self.pulls.len())
            .map(|index| self.pulls.pending_pulls(index))
            .collect();
        for asked in self
            .pull_planner
            .plan(self.free_slots, &pending_pulls, order)
        {
            if let Err(error) = self
                .pulls
                .request(asked.index, asked.count, asked.kind)
                .await
            {
                tracing::warn!("cannot ask for jobs: {error}");
                return;
            }
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::SlotFree => self.free_slots += 1,
            Report::RouteAvailable { queue, consumer } => self.add_route(queue, consumer),
            Report::Finished {
                job_id,
                sequence,
                queue,
                result,
            } => {
                self.leases.remove(&(queue, sequence));
                match result {
                    attempt::Done::Recorded(record) => {
                        log_finished(&record);
                        self.summary.jobs_ended += 1;
                        self.summary.last_record = Some(record);
                    }
                    attempt::Done::Requeued => self.summary.requeued += 1,
                    attempt::Done::NothingToRun => {}
                    attempt::Done::LeaseLost => {
                        tracing::warn!(%job_id, "lost the hold on a job; another worker goes on with it");
                    }
                }
                let is_only = self
                    .context
                    .options
                    .single_job
                    .as_ref()
                    .is_some_and(|(only, _)| *only == job_id);
                let ended = self
                    .summary
                    .last_record
                    .as_ref()
                    .is_some_and(|record| record.state.is_terminal());
                if is_only && ended && self.state == WorkerCommand::Run {
                    self.state = WorkerCommand::Drain;
                }
            }
        }
    }

    fn on_pull_event(&mut self, event: PullEvent) {
        match event {
            PullEvent::Delivered(index, delivery) => {
                self.pull_planner
                    .on_delivered(index, self.pulls.num_pending(index));
                self.on_delivery(index, *delivery);
            }
            // that a standing request ran out says nothing new
            PullEvent::Unfilled(_, PullKind::Expiring) => {}
            PullEvent::Unfilled(index, PullKind::NoWait) => self.pull_planner.on_unfilled(index),
            PullEvent::ConsumerDeleted(index) => self.recreate_consumer(index),
            PullEvent::Reset => {
                self.pull_planner.reset();
                self.remove_poison_messages();
            }
        }
    }

    fn on_control(&self, call: ReceivedCommand) {
        let ControlCommand::Cancel(job_id) = &call.request;
        let held = self
            .leases
            .values()
            .find(|lease| lease.job_id().as_ref() == Some(job_id));
        if let Some(lease) = held {
            lease.stop(StopReason::Cancel, false);
        }
        let has_it = held.is_some();
        tokio::spawn(call.reply(has_it));
    }

    /// Pulls from a further consumer: behind the queues before its own, and before its own, since
    /// fewer workers can run its jobs.
    fn add_route(&mut self, queue: QueueName, consumer: String) {
        if self.state != WorkerCommand::Run || self.pulls.index_of(&queue, &consumer).is_some() {
            return;
        }
        self.pulls.add(queue, consumer);
        let main = self.context.broker.names().worker_consumer();
        let mut preference: Vec<usize> = (0..self.pulls.len()).collect();
        preference.sort_by_key(|index| {
            let queue = self.pulls.queue(*index);
            let place = self
                .context
                .options
                .queues
                .iter()
                .position(|served| served == queue);
            (place, self.pulls.consumer(*index) == main)
        });
        self.pull_planner.set_preference(preference);
    }

    fn on_delivery(&mut self, index: usize, delivery: Delivery) {
        let key = (delivery.queue.clone(), delivery.sequence);
        if let Some(lease) = self.leases.get(&key) {
            // the server took this worker for dead while it was cut off; it is not
            lease.on_redelivery(delivery);
            return;
        }
        if self.free_slots == 0 || self.state != WorkerCommand::Run {
            self.pull_planner.on_requeued(index);
            tokio::spawn(async move {
                let _ = delivery.nak().await;
            });
            return;
        }
        self.free_slots -= 1;
        let lease = Arc::new(MessageLease::new(delivery, self.context.options.ack_wait));
        self.leases.insert(key, Arc::clone(&lease));
        let context = Arc::clone(&self.context);
        let reports = self.reports.clone();
        tokio::spawn(attempt::run(context, lease, reports));
    }

    /// Tells the server of every job that work goes on, and gives up those it could not be told
    /// of for too long. Whoever wants a job cancelled says so on its record: that is looked at
    /// too, in case the word to this worker was lost.
    fn renew(&self) {
        let now = Instant::now();
        for lease in self.leases.values() {
            if lease.is_expired(now) {
                lease.stop(StopReason::LeaseLost, true);
            } else {
                let lease = Arc::clone(lease);
                let context = Arc::clone(&self.context);
                tokio::spawn(async move {
                    lease.renew().await;
                    lease.revalidate(&context.broker, &context.worker_id).await;
                });
            }
        }
    }

    fn stop_jobs(&self, why: StopReason, at_once: bool) {
        for lease in self.leases.values() {
            lease.stop(why, at_once);
        }
    }

    /// Takes the demand back, and hands back what had come by then.
    async fn stop_pulling(&mut self) {
        for delivery in self.pulls.close().await {
            if let Some(lease) = self
                .leases
                .get(&(delivery.queue.clone(), delivery.sequence))
            {
                lease.on_redelivery(delivery);
            } else {
                let _ = delivery.nak().await;
            }
        }
    }

    /// A queue's consumer has vanished: makes it again where the queue itself is still there or
    /// was removed under a running worker.
    fn recreate_consumer(&mut self, index: usize) {
        if self.context.options.single_job.is_some() {
            return;
        }
        self.pull_planner.on_queue_missing(index);
        let context = Arc::clone(&self.context);
        let revived = self.pull_planner.recreated_queues();
        let queue = self.pulls.queue(index).clone();
        let consumer = self.pulls.consumer(index).to_owned();
        tokio::spawn(async move {
            let mut failures = 0;
            let ack_wait = context.options.ack_wait;
            while let Err(error) =
                routing::recreate_consumer(&context.broker, &queue, &consumer, ack_wait).await
            {
                tracing::warn!(%queue, "cannot make the queue: {error}");
                failures += 1;
                tokio::time::sleep(routing::RETRY_BACKOFF.pause(failures, rand::random())).await;
            }
            revived.mark_recreated(index);
        });
    }

    /// After a dropped connection: looks for messages that no client can read.
    fn remove_poison_messages(&self) {
        if self.context.options.single_job.is_some() {
            return;
        }
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            for queue in &context.options.queues {
                let swept = match context.broker.dead_letter_poison_messages(queue).await {
                    Ok(swept) => swept,
                    Err(error) => {
                        tracing::debug!(%queue, "no look for unreadable messages: {error}");
                        continue;
                    }
                };
                if !swept.is_empty()
                    && let Err(error) =
                        requeue_orphans::requeue_orphans(&context.broker, queue).await
                {
                    tracing::debug!(%queue, "what was lost with it comes by itself: {error}");
                }
            }
        });
    }

    async fn heartbeat(&self) {
        const JOBS_SHOWN_MAX: usize = 100;
        let options = &self.context.options;
        let running = options.concurrency - self.free_slots;
        let host = hostname();
        let info = WorkerInfo {
            worker_id: self.context.worker_id.clone(),
            name: options.name.clone().unwrap_or_else(|| host.clone()),
            hostname: host,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queues: options.queues.clone(),
            concurrency: u32::try_from(options.concurrency).unwrap_or(u32::MAX),
            state: match (self.state, running) {
                (WorkerCommand::Run, 0) => WorkerState::Idle,
                (WorkerCommand::Run, _) => WorkerState::Busy,
                _ => WorkerState::Draining,
            },
            running: u32::try_from(running).unwrap_or(u32::MAX),
            jobs: self
                .leases
                .values()
                .filter_map(|lease| lease.job_id())
                .take(JOBS_SHOWN_MAX)
                .collect(),
            jobs_ended: self.summary.jobs_ended,
            containment: self.context.runner.containment().to_string(),
            labels: options.labels.clone(),
            started_at: self.started_at,
            last_seen: now(),
        };
        if let Err(error) = self
            .context
            .broker
            .heartbeat(&info, options.heartbeat_ttl)
            .await
        {
            tracing::warn!("cannot write the heartbeat: {error}");
        }
    }
}

/// One line for an attempt that was recorded.
fn log_finished(record: &Record) {
    tracing::info!(
        target: JOBS_LOG_TARGET,
        job = %record.job_id,
        queue = %record.queue,
        attempt = record.attempt,
        exit_code = record.exit_code,
        wall_ms = record.usage.map(|usage| usage.wall_ms),
        "{}{}",
        record.state,
        record.reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
    );
}

/// Waits for a request that goes further than the present one.
async fn next_command(
    requests: &mut watch::Receiver<WorkerCommand>,
    present: WorkerCommand,
) -> WorkerCommand {
    match requests.wait_for(|asked| *asked > present).await {
        Ok(asked) => *asked,
        // whoever could ask is gone
        Err(_) => std::future::pending().await,
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The wall clock: for records and for people, never to measure time with.
fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the worker is the edge where time enters"
    )]
    SystemTime::now().into()
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}
