//! The loop that pulls jobs, claims, runs, records and acknowledges them.
//!
//! One loop owns the slots and the signals; each delivery is a task of its own that reports to
//! it. Nothing here decides what a job's end means (that is `lifecycle`), speaks to NATS
//! (`broker`) or starts a process (`runner`).

mod attempt;
mod claim;
mod command;
mod demand;
mod execution;
mod hold;
mod lost;
mod outcome;
mod park;
mod requirements;
mod said;
mod secrets;
mod settle;

pub use demand::Order;
pub use secrets::{SecretError, SecretStore};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use attempt::AttemptContext;
use hold::Hold;
use naq_jetstream::{
    Ask, Broker, BrokerError, Control, ControlCall, ControlRequest, Delivery, FeedEvent, Feeds,
};
use naq_protocol::{
    JobId, Limits, Progress, QueueName, Record, Timestamp, WorkerInfo, WorkerState,
};
use naq_runner::{Runner, StopReason, StreamKind};

/// The target of the log's lines about single jobs, to be filtered by.
pub const JOBS_LOG_TARGET: &str = "naq::jobs";

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The queues, in order of preference where the order is strict.
    pub queues: Vec<QueueName>,
    /// How many jobs run at once.
    pub concurrency: usize,
    /// The name shown to people; the host's where none is given.
    pub name: Option<String>,
    /// Labels, for people and for jobs that require them.
    pub labels: BTreeMap<String, String>,
    /// How queues share the slots.
    pub order: Order,
    /// The timeout of a job that names none; none where none.
    pub timeout: Option<Duration>,
    /// From TERM to KILL.
    pub kill_grace: Duration,
    /// Limits of a job that names none.
    pub limits: Limits,
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
    pub crashes_max: u32,
    /// Age of a job from which its output goes live.
    pub live_after: Duration,
    /// Pull one job only, by this consumer, and end when it has ended: for `naq run`.
    pub only_job: Option<(JobId, String)>,
    /// Where a copy of live output goes, in this process.
    pub tap: Option<mpsc::Sender<(StreamKind, bytes::Bytes)>>,
    /// Where progress goes, in this process.
    pub tap_progress: Option<watch::Sender<Progress>>,
}

impl Options {
    /// The defaults, for some queues.
    #[must_use]
    pub fn new(queues: Vec<QueueName>, concurrency: usize) -> Options {
        Options {
            queues,
            concurrency,
            name: None,
            labels: BTreeMap::new(),
            order: Order::Fair,
            timeout: None,
            kill_grace: Duration::from_secs(10),
            limits: Limits::default(),
            allow_env: Vec::new(),
            secrets: SecretStore::empty(),
            result_ttl: Duration::from_secs(7 * 86_400),
            ack_wait: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(5),
            heartbeat_ttl: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            crashes_max: 3,
            live_after: Duration::from_secs(1),
            only_job: None,
            tap: None,
            tap_progress: None,
        }
    }
}

/// How long a worker that has stopped its jobs may take to say what became of them. A server that
/// is away, or full, must not keep it for ever.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// What a worker is asked to do, from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Go on.
    Work,
    /// Take no more jobs, let running ones finish within the drain timeout, end.
    Drain,
    /// Stop running jobs now, hand them back, end.
    Stop,
    /// Cancel running jobs: they end as cancelled. Then end.
    Cancel,
}

/// What a worker did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Attempts that were run and recorded.
    pub jobs_ended: u64,
    /// Jobs that were stopped and handed back.
    pub handed_back: u64,
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
    Line { queue: QueueName, consumer: String },
    /// The job is recorded, or given up, and no longer held.
    Done {
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
pub async fn work(
    broker: Broker,
    runner: Runner,
    mut options: Options,
    mut request: watch::Receiver<Request>,
) -> Result<Summary, WorkerError> {
    let worker_id = JobId::generate().to_string();
    let (consumer, ack_wait) = tokio::select! {
        prepared = prepare(&broker, &options) => prepared?,
        _ = next_request(&mut request, Request::Work) => return Ok(Summary::default()),
    };
    // a hold is to be given up before the server does, whatever this worker was told
    options.ack_wait = options.ack_wait.min(ack_wait);
    let control = broker.open_control(&worker_id).await?;
    let feeds = tokio::select! {
        feeds = open_feeds(&broker, &options, &consumer) => feeds?,
        _ = next_request(&mut request, Request::Work) => return Ok(Summary::default()),
    };
    let (reports, inbox) = mpsc::channel(options.concurrency.max(16));
    let started_at = now();
    let mut worker = Worker {
        context: Arc::new(AttemptContext {
            broker: broker.clone(),
            runner,
            worker_id: worker_id.clone(),
            unrecorded: Semaphore::new(options.concurrency + 64),
            registered: requirements::Registered::default(),
            options,
        }),
        demand: demand::Demand::default(),
        feeds,
        control,
        reports,
        held: HashMap::new(),
        free: 0,
        summary: Summary::default(),
        state: Request::Work,
        started_at,
        gathered_at: Instant::now(),
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    worker.free = worker.context.options.concurrency;
    let following = requirements::serves_any(&worker.context.options).then(|| {
        let (context, reports) = (Arc::clone(&worker.context), worker.reports.clone());
        AbortOnDropHandle::new(tokio::spawn(requirements::follow(context, reports)))
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
async fn prepare(broker: &Broker, options: &Options) -> Result<(String, Duration), BrokerError> {
    let mut pause = attempt::PAUSE_FIRST;
    loop {
        match prepare_once(broker, options).await {
            Err(error @ BrokerError::Timeout(_)) => tracing::warn!("not ready yet: {error}"),
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(attempt::PAUSE_MAX);
    }
}

async fn prepare_once(
    broker: &Broker,
    options: &Options,
) -> Result<(String, Duration), BrokerError> {
    broker.ensure_layout().await?;
    let mut ack_wait = options.ack_wait;
    if let Some((_, consumer)) = &options.only_job {
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
async fn open_feeds(
    broker: &Broker,
    options: &Options,
    consumer: &str,
) -> Result<Feeds, BrokerError> {
    let mut pause = attempt::PAUSE_FIRST;
    loop {
        match broker.open_feeds(&options.queues, consumer).await {
            Err(error @ BrokerError::Connect { .. }) => tracing::warn!("not ready yet: {error}"),
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(attempt::PAUSE_MAX);
    }
}

/// How many jobs must run for each processor for ends to be gathered: enough to keep it busy.
const GATHER_RUNNING_MIN: usize = 4;

/// How long ends are gathered, for each job that runs on a processor and at the most: an eighth of
/// what they keep it busy for, a short one taking some 500 µs.
const GATHER_PER_JOB: Duration = Duration::from_micros(64);
const GATHER_PAUSE_MAX: Duration = Duration::from_millis(3);

/// How long to gather while so many jobs run on so many processors.
fn gather_pause(running: usize, processors: usize) -> Duration {
    if running < GATHER_RUNNING_MIN * processors {
        return Duration::ZERO;
    }
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let pause = GATHER_PER_JOB.saturating_mul(count(running)) / count(processors);
    pause.min(GATHER_PAUSE_MAX)
}

struct Worker {
    context: Arc<AttemptContext>,
    demand: demand::Demand,
    feeds: Feeds,
    /// What others ask of this worker.
    control: Control,
    reports: mpsc::Sender<Report>,
    /// What this worker holds, by queue and sequence of the message.
    held: HashMap<(QueueName, u64), Arc<Hold>>,
    free: usize,
    summary: Summary,
    state: Request,
    started_at: Timestamp,
    gathered_at: Instant,
    /// How many processors this process may use.
    processors: usize,
}

impl Worker {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Report>,
        request: &mut watch::Receiver<Request>,
    ) -> Summary {
        let options = &self.context.options;
        let mut renewals = tokio::time::interval(options.ack_wait / 3);
        let mut beats = tokio::time::interval(options.heartbeat_interval);
        renewals.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut drain_over: Option<Instant> = None;
        let mut leave_at: Option<Instant> = None;
        loop {
            if self.state == Request::Work {
                self.ask().await;
            } else if self.held.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                asked = next_request(request, self.state) => {
                    self.state = asked;
                    match asked {
                        Request::Work => {}
                        Request::Drain => {
                            drain_over = Some(Instant::now() + self.context.options.drain_timeout);
                            tracing::info!(
                                running = self.held.len(),
                                "draining: no more jobs are taken; running ones may finish"
                            );
                            self.stop_pulling().await;
                        }
                        Request::Stop => {
                            self.stop_pulling().await;
                            self.stop_jobs(StopReason::Drain, true);
                            leave_at = Some(Instant::now() + LAST_WORDS_MAX);
                        }
                        Request::Cancel => {
                            self.stop_pulling().await;
                            self.stop_jobs(StopReason::Cancel, false);
                        }
                    }
                    self.beat().await;
                }
                // before the jobs, whose stream need not end: they are due seldom, and then must be done
                _ = renewals.tick() => self.renew(),
                _ = beats.tick() => self.beat().await,
                report = inbox.recv() => {
                    if let Some(report) = report {
                        self.take_report(report);
                    }
                    // whatever else has been reported meanwhile, before demand is reckoned anew
                    while let Ok(report) = inbox.try_recv() {
                        self.take_report(report);
                    }
                    self.gather();
                }
                call = self.control.next() => self.take_call(call),
                event = self.feeds.next() => self.take_event(event),
                () = until(drain_over) => {
                    drain_over = None;
                    tracing::warn!(running = self.held.len(), "the drain timeout is over: stopping the jobs that still run");
                    self.stop_jobs(StopReason::Drain, false);
                    leave_at = Some(Instant::now() + self.context.options.kill_grace + LAST_WORDS_MAX);
                }
                () = until(leave_at) => {
                    tracing::warn!(
                        unrecorded = self.held.len(),
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
    fn gather(&mut self) {
        let now = Instant::now();
        let since_last = now.duration_since(self.gathered_at);
        let running = self.context.options.concurrency - self.free;
        self.gathered_at = now;
        let pause = gather_pause(running, self.processors);
        if !pause.is_zero() && since_last < pause * 2 {
            std::thread::sleep(pause);
        }
    }

    /// States the demand that follows from the free slots.
    async fn ask(&mut self) {
        let order = self.context.options.order;
        let outstanding: Vec<_> = (0..self.feeds.len())
            .map(|index| self.feeds.outstanding(index))
            .collect();
        for asked in self.demand.plan(self.free, &outstanding, order) {
            if let Err(error) = self.feeds.ask(asked.index, asked.count, asked.ask).await {
                tracing::warn!("cannot ask for jobs: {error}");
                return;
            }
        }
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::SlotFree => self.free += 1,
            Report::Line { queue, consumer } => self.add_line(queue, consumer),
            Report::Done {
                job_id,
                sequence,
                queue,
                result,
            } => {
                self.held.remove(&(queue, sequence));
                match result {
                    attempt::Done::Recorded(record) => {
                        log_ended(&record);
                        self.summary.jobs_ended += 1;
                        self.summary.last_record = Some(record);
                    }
                    attempt::Done::HandedBack => self.summary.handed_back += 1,
                    attempt::Done::Absorbed => {}
                    attempt::Done::Lost => {
                        tracing::warn!(%job_id, "lost the hold on a job; another worker goes on with it");
                    }
                }
                let is_only = self
                    .context
                    .options
                    .only_job
                    .as_ref()
                    .is_some_and(|(only, _)| *only == job_id);
                let ended = self
                    .summary
                    .last_record
                    .as_ref()
                    .is_some_and(|record| record.state.is_terminal());
                if is_only && ended && self.state == Request::Work {
                    self.state = Request::Drain;
                }
            }
        }
    }

    fn take_event(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::Delivered(index, delivery) => {
                self.demand.delivered(index, self.feeds.pending(index));
                self.take(index, *delivery);
            }
            // that a standing request ran out says nothing new
            FeedEvent::Returned(_, Ask::Standing) => {}
            FeedEvent::Returned(index, Ask::AtOnce) => self.demand.returned(index),
            FeedEvent::Gone(index) => self.make_again(index),
            FeedEvent::Reset => {
                self.demand.reset();
                self.sweep();
            }
        }
    }

    fn take_call(&self, call: ControlCall) {
        let ControlRequest::Cancel(job_id) = &call.request;
        let held = self
            .held
            .values()
            .find(|hold| hold.job_id().as_ref() == Some(job_id));
        if let Some(hold) = held {
            hold.stop(StopReason::Cancel, false);
        }
        let has_it = held.is_some();
        tokio::spawn(call.answer(has_it));
    }

    /// Pulls from a further consumer: behind the queues before its own, and before its own, since
    /// fewer workers can run its jobs.
    fn add_line(&mut self, queue: QueueName, consumer: String) {
        if self.state != Request::Work || self.feeds.index_of(&queue, &consumer).is_some() {
            return;
        }
        self.feeds.add(queue, consumer);
        let main = self.context.broker.names().worker_consumer();
        let mut preference: Vec<usize> = (0..self.feeds.len()).collect();
        preference.sort_by_key(|index| {
            let queue = self.feeds.queue(*index);
            let place = self
                .context
                .options
                .queues
                .iter()
                .position(|served| served == queue);
            (place, self.feeds.consumer(*index) == main)
        });
        self.demand.prefer(preference);
    }

    fn take(&mut self, index: usize, delivery: Delivery) {
        let key = (delivery.queue.clone(), delivery.sequence);
        if let Some(hold) = self.held.get(&key) {
            // the server took this worker for dead while it was cut off; it is not
            hold.delivered_again(delivery);
            return;
        }
        if self.free == 0 || self.state != Request::Work {
            self.demand.handed_back(index);
            tokio::spawn(async move {
                let _ = delivery.hand_back().await;
            });
            return;
        }
        self.free -= 1;
        let hold = Arc::new(Hold::new(delivery, self.context.options.ack_wait));
        self.held.insert(key, Arc::clone(&hold));
        let context = Arc::clone(&self.context);
        let reports = self.reports.clone();
        tokio::spawn(attempt::run(context, hold, reports));
    }

    /// Tells the server of every job that work goes on, and gives up those it could not be told
    /// of for too long. Whoever wants a job cancelled says so on its record: that is looked at
    /// too, in case the word to this worker was lost.
    fn renew(&self) {
        let now = Instant::now();
        for hold in self.held.values() {
            if hold.is_lost(now) {
                hold.stop(StopReason::LeaseLost, true);
            } else {
                let hold = Arc::clone(hold);
                let context = Arc::clone(&self.context);
                tokio::spawn(async move {
                    hold.renew().await;
                    hold.check(&context.broker, &context.worker_id).await;
                });
            }
        }
    }

    fn stop_jobs(&self, why: StopReason, at_once: bool) {
        for hold in self.held.values() {
            hold.stop(why, at_once);
        }
    }

    /// Takes the demand back, and hands back what had come by then.
    async fn stop_pulling(&mut self) {
        for delivery in self.feeds.close().await {
            if let Some(hold) = self.held.get(&(delivery.queue.clone(), delivery.sequence)) {
                hold.delivered_again(delivery);
            } else {
                let _ = delivery.hand_back().await;
            }
        }
    }

    /// A queue's consumer has vanished: makes it again where the queue itself is still there or
    /// was removed under a running worker.
    fn make_again(&mut self, index: usize) {
        if self.context.options.only_job.is_some() {
            return;
        }
        self.demand.gone(index);
        let context = Arc::clone(&self.context);
        let revived = self.demand.revivals();
        let queue = self.feeds.queue(index).clone();
        let consumer = self.feeds.consumer(index).to_owned();
        tokio::spawn(async move {
            let mut wait = Duration::from_millis(50);
            let ack_wait = context.options.ack_wait;
            while let Err(error) =
                requirements::make_again(&context.broker, &queue, &consumer, ack_wait).await
            {
                tracing::warn!(%queue, "cannot make the queue: {error}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
            revived.revive(index);
        });
    }

    /// After a dropped connection: looks for messages that no client can read.
    fn sweep(&self) {
        if self.context.options.only_job.is_some() {
            return;
        }
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            for queue in &context.options.queues {
                let swept = match context.broker.sweep_unreadable(queue).await {
                    Ok(swept) => swept,
                    Err(error) => {
                        tracing::debug!(%queue, "no look for unreadable messages: {error}");
                        continue;
                    }
                };
                if !swept.is_empty()
                    && let Err(error) = lost::hand_back(&context.broker, queue).await
                {
                    tracing::debug!(%queue, "what was lost with it comes by itself: {error}");
                }
            }
        });
    }

    async fn beat(&self) {
        const JOBS_SHOWN_MAX: usize = 100;
        let options = &self.context.options;
        let running = options.concurrency - self.free;
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
                (Request::Work, 0) => WorkerState::Idle,
                (Request::Work, _) => WorkerState::Busy,
                _ => WorkerState::Draining,
            },
            running: u32::try_from(running).unwrap_or(u32::MAX),
            jobs: self
                .held
                .values()
                .filter_map(|hold| hold.job_id())
                .take(JOBS_SHOWN_MAX)
                .collect(),
            jobs_ended: self.summary.jobs_ended,
            containment: self.context.runner.containment().to_string(),
            labels: options.labels.clone(),
            started_at: self.started_at,
            last_seen: now(),
        };
        if let Err(error) = self.context.broker.beat(&info, options.heartbeat_ttl).await {
            tracing::warn!("cannot write the heartbeat: {error}");
        }
    }
}

/// One line for an attempt that was recorded.
fn log_ended(record: &Record) {
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
async fn next_request(requests: &mut watch::Receiver<Request>, present: Request) -> Request {
    match requests.wait_for(|asked| *asked > present).await {
        Ok(asked) => *asked,
        // whoever could ask is gone
        Err(_) => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
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
