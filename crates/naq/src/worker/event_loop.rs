//! The worker's loop: it owns the slots, the leases and the commands, and starts a task for each
//! delivery.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::attempt::Turn;
use super::coalescing::Coalescing;
use super::context::WorkerContext;
use super::exit_rules::ExitRules;
use super::heartbeat::{self, HeartbeatFacts};
use super::lease::{MessageKey, MessageLease, RecordCheck};
use super::options::{WorkerCommand, WorkerSummary};
use super::pull_planner::{PullPlanner, WantedJobs};
use super::report::{Done, Report};
use super::{delivery_task, prepare, requeue_orphans};
use crate::clock::{BootInstant, now};
use crate::watchdog::WatchdogTimer;
use naq_jetstream::{
    ConnectionWatch, ControlCommand, ControlSubscription, Delivery, LeaseQuerySubscription,
    PullEvent, PullKind, PullSubscription, ReceivedCommand, ReceivedLeaseQuery,
};
use naq_protocol::{HEARTBEAT_JOBS_MAX, JobId, QueueName, Timestamp};
use naq_runner::StopReason;

/// How long a worker that has stopped its jobs may take to record their outcomes. A server that is
/// unreachable, or full, must not keep it from exiting.
const RECORD_OUTCOMES_MAX: Duration = Duration::from_secs(5);

/// The same for a worker that is asked to stop at once while NATS is away: its jobs are killed, and
/// their outcomes cannot be recorded unless NATS returns at this moment.
const STOP_WITHOUT_NATS_MAX: Duration = Duration::from_secs(1);

/// Time for what follows the last outcome: the worker signs off, and its spawners end.
const SIGN_OFF_MARGIN: Duration = Duration::from_secs(5);

/// How long a reconnected worker waits for its leases to be confirmed before it requests jobs
/// again.
const CONFIRM_LEASES_MAX: Duration = Duration::from_secs(3);

/// How often a worker checks whether its consumers can still deliver, besides after each reconnect.
const CONSUMERS_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Delay of this check, so that it does not compete with the renewal of leases after a reconnect.
const CONSUMERS_CHECK_DELAY: Duration = Duration::from_millis(500);

/// The state of the loop.
pub(super) struct Worker {
    context: Arc<WorkerContext>,
    pull_planner: PullPlanner,
    pulls: PullSubscription,
    /// Requests of others to this worker.
    control: ControlSubscription,
    /// Questions of others about the leases of this worker.
    lease_queries: LeaseQuerySubscription,
    /// The connection for everything but deliveries, and its generation when the leases were last
    /// confirmed.
    link: ConnectionWatch,
    link_generation: u64,
    /// Number of times that the leases are being confirmed. Meanwhile no jobs are requested.
    confirming: usize,
    reports: mpsc::Sender<Report>,
    /// Number of slots in use: those of jobs that run, and of jobs that wait to start next.
    slots_in_use: usize,
    /// A task for each delivery that has a slot.
    deliveries: JoinSet<()>,
    summary: WorkerSummary,
    command: WorkerCommand,
    started_at: Timestamp,
    /// When the consumers were last checked.
    consumers_checked_at: Instant,
    /// When the loop last got an event, by a clock that counts suspended time.
    last_event_at: BootInstant,
    /// Whether it is being read if someone has requested that this worker drains.
    drain_check: RecordCheck,
    /// Someone has requested that this worker drains.
    is_drain_requested: bool,
    /// When jobs that still run while draining are stopped.
    drain_deadline: Option<Instant>,
    /// When the loop ends, although outcomes are not recorded yet.
    exit_deadline: Option<Instant>,
    /// When it ends by itself.
    exit_rules: ExitRules,
    coalescing: Coalescing,
}

/// How many jobs of one queue follow each other while jobs are short: all of them together take some tens of
/// milliseconds at most.
const SHORT_JOBS_TURN: usize = 16;

/// What the loop waits for. One is received, then handled.
enum LoopEvent {
    Command(WorkerCommand),
    RenewalDue,
    HeartbeatDue,
    Report(Option<Report>),
    Control(ReceivedCommand),
    LeaseQuery(ReceivedLeaseQuery),
    Reconnected,
    /// NATS has stored every write that it had refused.
    WritesStored,
    Pull(PullEvent),
    DrainTimeout,
    ExitTimeout,
    /// The worker has had no job for as long as it may.
    IdleTimeout,
}

impl Worker {
    pub(super) fn new(
        context: Arc<WorkerContext>,
        pulls: PullSubscription,
        control: ControlSubscription,
        lease_queries: LeaseQuerySubscription,
        reports: mpsc::Sender<Report>,
    ) -> Worker {
        let mut link = context.broker.connection().clone();
        Worker {
            link_generation: link.mark_seen().generation,
            link,
            lease_queries,
            confirming: 0,
            pull_planner: PullPlanner::default(),
            pulls,
            control,
            reports,
            slots_in_use: 0,
            deliveries: JoinSet::new(),
            summary: WorkerSummary::default(),
            command: WorkerCommand::Run,
            started_at: now(),
            consumers_checked_at: Instant::now(),
            last_event_at: BootInstant::now(),
            drain_check: RecordCheck::Idle,
            is_drain_requested: false,
            drain_deadline: None,
            exit_deadline: None,
            exit_rules: ExitRules::new(context.options.exit_after, context.options.exit_when_idle),
            coalescing: Coalescing::new(),
            context,
        }
    }

    /// Runs until the worker may exit. Returns what it has done, and the last command.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Report>,
        commands: &mut watch::Receiver<WorkerCommand>,
        mut watchdog: WatchdogTimer,
    ) -> (WorkerSummary, WorkerCommand) {
        let options = &self.context.options;
        let mut renewals = tokio::time::interval(options.ack_wait / 3);
        let mut heartbeats = tokio::time::interval(options.heartbeat_interval);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.check_consumers(Duration::ZERO);
        loop {
            self.context.metrics.slots_busy.set(self.running() as f64);
            if self.command == WorkerCommand::Run {
                self.request_jobs().await;
            } else if self.context.leases.is_empty() {
                break;
            }
            let is_idle = self.command == WorkerCommand::Run && self.context.leases.is_empty();
            let idle_deadline = self.exit_rules.idle_deadline(is_idle, Instant::now());
            let event = tokio::select! {
                biased;
                command = next_command(commands, self.command) => LoopEvent::Command(command),
                // before the jobs, of which there may always be one more: these are due seldom,
                // and must not be late
                _ = renewals.tick() => LoopEvent::RenewalDue,
                _ = heartbeats.tick() => LoopEvent::HeartbeatDue,
                () = watchdog.report() => continue,
                report = inbox.recv() => LoopEvent::Report(report),
                // before the deliveries: a reconnected worker confirms its leases first
                () = reconnected(&mut self.link, self.link_generation) => LoopEvent::Reconnected,
                call = self.control.next() => LoopEvent::Control(call),
                query = self.lease_queries.next() => LoopEvent::LeaseQuery(query),
                () = self.context.refused_writes.all_stored() => LoopEvent::WritesStored,
                event = self.pulls.next() => LoopEvent::Pull(event),
                () = sleep_until(self.drain_deadline) => LoopEvent::DrainTimeout,
                () = sleep_until(self.exit_deadline) => LoopEvent::ExitTimeout,
                () = sleep_until(idle_deadline) => LoopEvent::IdleTimeout,
            };
            // Before the event itself: if this process was stopped or the machine suspended, the
            // event may be a redelivery of a message whose job still runs here, and the renewal
            // of a lease that has expired.
            self.kill_jobs_after_suspension();
            match event {
                LoopEvent::Command(command) => self.on_command(command).await,
                LoopEvent::RenewalDue => {
                    self.context.job_log.report_left_out();
                    self.renew_leases();
                }
                LoopEvent::HeartbeatDue => self.on_heartbeat_due().await,
                LoopEvent::Report(report) => {
                    self.on_reports(report, &mut inbox);
                    self.drain_if_due().await;
                }
                LoopEvent::Control(call) => self.on_control(call),
                LoopEvent::LeaseQuery(query) => self.on_lease_query(query),
                LoopEvent::Reconnected => {
                    self.confirm_leases();
                    self.check_drain_request();
                }
                LoopEvent::WritesStored => tracing::info!("NATS stores outcomes again"),
                LoopEvent::Pull(event) => self.on_pull_event(event),
                LoopEvent::DrainTimeout => self.on_drain_timeout(),
                LoopEvent::IdleTimeout => {
                    tracing::info!("no job for as long as `--exit-when-idle` says, exiting");
                    self.on_command(WorkerCommand::Drain).await;
                }
                LoopEvent::ExitTimeout => {
                    self.name_unrecorded_jobs();
                    // They would try to record their outcomes for as long as this process lives, which
                    // in `naq run` does not end with its worker.
                    self.deliveries.abort_all();
                    break;
                }
            }
        }
        self.deliveries.detach_all();
        (self.summary, self.command)
    }

    /// Looks at all leases if the loop has not run for longer than half of `ack_wait`, which means
    /// that this process was stopped or the machine suspended. Jobs whose lease has expired
    /// meanwhile are killed: another worker may run them by now.
    ///
    /// The renewals, a third of `ack_wait` apart, may be the loop's only events. A shorter absence
    /// expires no lease: the last renewal plus half of `ack_wait` is before the expiry.
    fn kill_jobs_after_suspension(&mut self) {
        let last_event_at = std::mem::replace(&mut self.last_event_at, BootInstant::now());
        let away = self.last_event_at.duration_since(last_event_at);
        if away > self.context.options.ack_wait / 2 && !self.context.leases.is_empty() {
            tracing::warn!(
                away_s = away.as_secs(),
                "the worker was suspended, checking its leases"
            );
            self.renew_leases();
        }
    }

    async fn on_heartbeat_due(&mut self) {
        self.heartbeat().await;
        // after an outage they are checked anyway, and during one the checks would pile up
        let is_connected = self.context.broker.connection().state().connected;
        let is_due = self.consumers_checked_at.elapsed() >= CONSUMERS_CHECK_INTERVAL;
        if is_connected && is_due {
            self.check_consumers(CONSUMERS_CHECK_DELAY);
            // in case the notification was lost
            self.check_drain_request();
        }
    }

    /// Reports to the service manager that the worker ends within this time, so that it is not killed earlier.
    fn report_stopping(&self, max: Duration) {
        if let Some(manager) = self.context.options.service_manager {
            (manager.stopping)(max + SIGN_OFF_MARGIN);
        }
    }

    async fn on_command(&mut self, command: WorkerCommand) {
        self.command = command;
        let is_draining = command != WorkerCommand::Run;
        self.context
            .metrics
            .draining
            .set(f64::from(u8::from(is_draining)));
        match command {
            WorkerCommand::Run => {}
            WorkerCommand::Drain => {
                let drain_timeout = self.context.options.drain_timeout;
                self.drain_deadline = Some(Instant::now() + drain_timeout);
                let kill_grace = self.context.options.kill_grace;
                self.report_stopping(drain_timeout + kill_grace + RECORD_OUTCOMES_MAX);
                tracing::info!(
                    running = self.context.leases.len(),
                    "draining: requesting no more jobs; running ones may finish"
                );
                self.stop_pulling().await;
            }
            WorkerCommand::Stop => {
                self.stop_pulling().await;
                self.stop_jobs(StopReason::Drain, true);
                let is_connected = self.context.broker.connection().state().connected;
                let recording_max = if is_connected {
                    RECORD_OUTCOMES_MAX
                } else {
                    STOP_WITHOUT_NATS_MAX
                };
                self.report_stopping(recording_max);
                self.exit_deadline = Some(Instant::now() + recording_max);
            }
            WorkerCommand::Cancel => {
                self.stop_pulling().await;
                self.stop_jobs(StopReason::Cancel, false);
                let stopping_max = self.context.options.kill_grace + RECORD_OUTCOMES_MAX;
                self.report_stopping(stopping_max);
                self.exit_deadline = Some(Instant::now() + stopping_max);
            }
        }
        self.heartbeat().await;
    }

    fn on_drain_timeout(&mut self) {
        self.drain_deadline = None;
        tracing::warn!(
            running = self.context.leases.len(),
            "drain timeout reached, stopping the jobs that still run"
        );
        self.stop_jobs(StopReason::Drain, false);
        let leases = self.context.leases.all();
        let only_unrecorded = leases.iter().all(|lease| lease.has_ended());
        let stopping_max = if only_unrecorded {
            // no process is left to stop, and the outcomes had the drain timeout to be stored
            Duration::ZERO
        } else {
            self.context.options.kill_grace + RECORD_OUTCOMES_MAX
        };
        self.report_stopping(stopping_max);
        self.exit_deadline = Some(Instant::now() + stopping_max);
    }

    /// Logs the jobs that the worker leaves without a recorded outcome.
    fn name_unrecorded_jobs(&self) {
        let leases = self.context.leases.all();
        let mut jobs: Vec<String> = leases
            .iter()
            .filter_map(|lease| Some(lease.job_id()?.to_string()))
            .take(HEARTBEAT_JOBS_MAX)
            .collect();
        jobs.sort();
        let why = match self.context.refused_writes.summary() {
            Some((_, error)) => format!(": {error}"),
            None => String::new(),
        };
        tracing::warn!(
            unrecorded = leases.len(),
            jobs = jobs.join(" "),
            "exiting before NATS has stored every outcome; other workers run these jobs again{why}"
        );
    }

    /// How many more jobs the worker may take before it ends by itself.
    fn jobs_left(&self) -> usize {
        let held = self.context.leases.len();
        self.exit_rules.jobs_left(self.summary.jobs_ended, held)
    }

    /// Number of slots that jobs run in. Further jobs in use only wait.
    fn running(&self) -> usize {
        self.slots_in_use.min(self.context.options.concurrency)
    }

    /// How many jobs may be requested.
    fn wanted_jobs(&self) -> WantedJobs {
        let (slots, in_use) = (self.context.options.concurrency, self.slots_in_use);
        let left = self.jobs_left();
        let free = slots.saturating_sub(in_use).min(left);
        let depth = self.context.claim_ahead.depth();
        let most = slots + depth;
        WantedJobs {
            free,
            turn: match self.context.claim_ahead.has_short_jobs() {
                true => SHORT_JOBS_TURN,
                false => 1,
            },
            ahead: most.saturating_sub(in_use.max(slots)).min(left - free),
        }
    }

    /// Requests as many jobs as there are free slots.
    async fn request_jobs(&mut self) {
        // A job whose outcome NATS would not store must not start.
        if self.confirming > 0 || self.context.refused_writes.exist() {
            return;
        }
        let order = self.context.options.order;
        let pending_pulls: Vec<_> = (0..self.pulls.len())
            .map(|index| self.pulls.pending_pulls(index))
            .collect();
        for pull in self
            .pull_planner
            .plan(self.wanted_jobs(), &pending_pulls, order)
        {
            let sent_at = BootInstant::now().since_boot();
            let requesting = self
                .pulls
                .request(pull.index, pull.count, pull.kind, sent_at);
            if let Err(error) = requesting.await {
                tracing::warn!("cannot request jobs: {error}");
                return;
            }
        }
    }

    /// Handles a report and all others that have arrived, before jobs are requested for the slots
    /// that they free.
    fn on_reports(&mut self, report: Option<Report>, inbox: &mut mpsc::Receiver<Report>) {
        if let Some(report) = report {
            self.on_report(report);
        }
        while let Ok(report) = inbox.try_recv() {
            self.on_report(report);
        }
        let mean_run = self.context.claim_ahead.mean_run();
        self.coalescing
            .coalesce_completions(self.running(), mean_run);
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::SlotFree => self.slots_in_use -= 1,
            Report::RouteAvailable { queue, consumer } => self.add_route(queue, consumer),
            Report::Finished {
                job_id,
                message,
                result,
            } => {
                let lease = self.context.leases.remove(&message);
                self.on_finished(&job_id, result);
                if let Some(delivery) = lease.and_then(|lease| lease.take_redelivery()) {
                    self.start_or_requeue(*delivery);
                }
            }
            Report::DrainChecked { is_requested } => {
                self.is_drain_requested |= is_requested;
                if self.drain_check.finish() && !self.is_drain_requested {
                    self.read_drain_request();
                }
            }
            Report::LeasesConfirmed => self.confirming = self.confirming.saturating_sub(1),
            // the timer of the next renewal did not count the time that the machine was suspended
            Report::ClockSet => self.renew_leases(),
        }
    }

    fn on_finished(&mut self, job_id: &JobId, result: Done) {
        match result {
            Done::Recorded(record) => {
                self.context.job_log.ended(&record);
                self.context.options.traces.on_ended(&record);
                self.summary.jobs_ended += 1;
                self.summary.last_record = Some(record);
            }
            Done::Requeued => self.summary.requeued += 1,
            Done::NothingToRun => {}
            Done::LeaseLost => {
                self.context.metrics.on_lease_lost();
                tracing::warn!(%job_id, "lease lost; the job runs again once its message is redelivered");
            }
        }
        let is_single_job = self.context.options.single_job.as_ref() == Some(job_id);
        let has_ended = self
            .summary
            .last_record
            .as_ref()
            .is_some_and(|record| record.state().is_terminal());
        if is_single_job && has_ended && self.command == WorkerCommand::Run {
            self.command = WorkerCommand::Drain;
        }
    }

    fn on_pull_event(&mut self, event: PullEvent) {
        match event {
            PullEvent::Delivered(index, delivery) => {
                self.pull_planner
                    .on_delivered(index, self.pulls.num_pending(index));
                self.on_delivery(index, *delivery);
            }
            // that a request expired says nothing about the queue
            PullEvent::Unfilled(_, PullKind::Expiring) => {}
            PullEvent::Unfilled(index, PullKind::NoWait) => self.pull_planner.on_unfilled(index),
            PullEvent::ConsumerDeleted(index) => self.recreate_consumer(index),
            PullEvent::Reset => {
                self.pull_planner.reset();
                self.confirm_leases();
                self.remove_poison_messages();
                self.check_consumers(CONSUMERS_CHECK_DELAY);
            }
        }
    }

    fn on_delivery(&mut self, index: usize, delivery: Delivery) {
        self.context.metrics.on_delivery(delivery.delivery);
        if let Some(lease) = self.context.leases.get(&MessageKey::of(&delivery)) {
            // The worker was disconnected for so long that the server redelivered its message.
            lease.on_redelivery(delivery);
            return;
        }
        if !self.start_or_requeue(delivery) {
            self.pull_planner.on_requeued(index);
        } else if self.slots_in_use == 1 && self.pulls.num_pending(index) == 0 {
            self.context.awake.on_lone_delivery();
        } else {
            self.context.awake.end();
        }
    }

    /// Starts a task for a delivery if there is a free slot, and returns whether it did.
    fn start_or_requeue(&mut self, delivery: Delivery) -> bool {
        let is_running = self.command == WorkerCommand::Run && self.jobs_left() > 0;
        let WantedJobs { free, ahead, .. } = self.wanted_jobs();
        if free + ahead == 0 || !is_running || self.context.refused_writes.exist() {
            tokio::spawn(async move {
                let _ = delivery.nak().await;
            });
            return false;
        }
        let (turn, reserved) = match free > 0 {
            true => (Turn::Now, self.context.runner.try_slot()),
            false => (Turn::Next, None),
        };
        self.slots_in_use += 1;
        let key = MessageKey::of(&delivery);
        let lease = Arc::new(MessageLease::new(delivery, self.context.options.ack_wait));
        self.context.leases.insert(key, Arc::clone(&lease));
        let context = Arc::clone(&self.context);
        let reports = self.reports.clone();
        while self.deliveries.try_join_next().is_some() {}
        self.deliveries
            .spawn(delivery_task::run(context, lease, turn, reserved, reports));
        true
    }

    /// Reads what is stored about a request. The request alone neither cancels a job nor drains the worker: a program
    /// may send it without the right to write what is stored, and only that counts.
    fn on_control(&mut self, call: ReceivedCommand) {
        let job_id = match &call.request {
            ControlCommand::Cancel(job_id) => job_id,
            ControlCommand::Drain => {
                let can_drain = self.context.options.single_job.is_none();
                tokio::spawn(call.reply(can_drain));
                self.check_drain_request();
                return;
            }
        };
        let mut leases = self.context.leases.all().into_iter();
        let lease = leases.find(|lease| lease.job_id().as_ref() == Some(job_id));
        tokio::spawn(call.reply(lease.is_some()));
        if let Some(lease) = lease
            && lease.request_check()
        {
            let context = Arc::clone(&self.context);
            tokio::spawn(async move {
                let (broker, worker_id) = (&context.broker, &context.worker_id);
                lease.carry_out_check(broker, worker_id).await;
            });
        }
    }

    /// Reads whether someone has requested that this worker drains, unless it is being read. The worker of `naq run`
    /// ends with its one job anyway.
    fn check_drain_request(&mut self) {
        let serves_queues = self.context.options.single_job.is_none();
        if serves_queues && self.command == WorkerCommand::Run && self.drain_check.request() {
            self.read_drain_request();
        }
    }

    /// Begins to drain if someone has requested it, or if the worker has run as many jobs as it may.
    async fn drain_if_due(&mut self) {
        if self.command != WorkerCommand::Run {
            return;
        }
        if self.is_drain_requested {
            tracing::info!("an operator has requested that this worker drains");
        } else if self.exit_rules.is_done(self.summary.jobs_ended) {
            tracing::info!("as many jobs have ended as `--exit-after` says, exiting");
        } else {
            return;
        }
        self.on_command(WorkerCommand::Drain).await;
    }

    fn read_drain_request(&self) {
        let (context, reports) = (Arc::clone(&self.context), self.reports.clone());
        tokio::spawn(async move {
            let read = context.broker.is_drain_requested(&context.worker_id).await;
            let is_requested = read.unwrap_or_else(|error| {
                tracing::debug!("cannot read whether this worker is to drain: {error}");
                false
            });
            let _ = reports.send(Report::DrainChecked { is_requested }).await;
        });
    }

    fn on_lease_query(&self, query: ReceivedLeaseQuery) {
        let state = self.context.leases.state_of(&query.request, None);
        tokio::spawn(query.reply(state));
    }

    /// Confirms the leases after a reconnect, before jobs are requested: messages whose time was
    /// up are redelivered to the worker that requests some first.
    fn confirm_leases(&mut self) {
        self.link_generation = self.link.mark_seen().generation;
        let leases = self.context.leases.all();
        if leases.is_empty() {
            return;
        }
        self.confirming += 1;
        let (context, reports) = (Arc::clone(&self.context), self.reports.clone());
        tokio::spawn(async move {
            let confirming = leases.iter().map(|lease| async {
                if !lease.is_lost() {
                    lease.renew().await;
                    lease.revalidate(&context.broker, &context.worker_id).await;
                }
            });
            let confirming = futures_util::future::join_all(confirming);
            let _ = tokio::time::timeout(CONFIRM_LEASES_MAX, confirming).await;
            let _ = reports.send(Report::LeasesConfirmed).await;
        });
    }

    /// Pulls from the consumer of a label route too. In the order of preference it comes before
    /// its queue's main consumer, since fewer workers can run its jobs, and after the queues that
    /// come before its own.
    fn add_route(&mut self, queue: QueueName, consumer: String) {
        if self.command != WorkerCommand::Run || self.pulls.index_of(&queue, &consumer).is_some() {
            return;
        }
        self.pulls.add(queue, consumer);
        let main = self.context.broker.names().worker_consumer();
        let queues = &self.context.options.queues;
        let mut preference: Vec<usize> = (0..self.pulls.len()).collect();
        preference.sort_by_key(|index| {
            let queue = self.pulls.queue(*index);
            let place = queues.iter().position(|served| served == queue);
            (place, self.pulls.consumer(*index) == main)
        });
        self.pull_planner.set_preference(preference);
    }

    /// Kills the jobs whose lease has expired, and renews the other leases. A lease is also
    /// revalidated against its job's record, in case a cancel request to this worker was lost.
    fn renew_leases(&self) {
        let (lost, leases): (Vec<_>, Vec<_>) = self
            .context
            .leases
            .all()
            .into_iter()
            .partition(|lease| lease.is_lost());
        for lease in lost {
            lease.stop(StopReason::LeaseLost, true);
        }
        for lease in leases {
            if lease.begins_to_overrun() {
                tracing::warn!(
                    job_id = lease.job_id().map(tracing::field::display),
                    outage_grace_s = self.context.options.outage_grace.as_secs_f64(),
                    "lease ended during an outage; the job has overlap_ok and may run until the outage grace ends"
                );
            }
            let context = Arc::clone(&self.context);
            tokio::spawn(async move {
                lease.renew().await;
                lease.revalidate(&context.broker, &context.worker_id).await;
            });
        }
    }

    fn stop_jobs(&self, why: StopReason, at_once: bool) {
        for lease in self.context.leases.all() {
            lease.stop(why, at_once);
        }
    }

    /// Withdraws the requests for jobs, and requeues the jobs that were delivered meanwhile.
    async fn stop_pulling(&mut self) {
        for delivery in self.pulls.close().await {
            if let Some(lease) = self.context.leases.get(&MessageKey::of(&delivery)) {
                lease.on_redelivery(delivery);
            } else {
                let _ = delivery.nak().await;
            }
        }
    }

    /// Creates a consumer again that was deleted under the running worker, alone or with its
    /// queue.
    fn recreate_consumer(&mut self, index: usize) {
        if self.context.options.single_job.is_some() {
            return;
        }
        self.pull_planner.on_queue_missing(index);
        let context = Arc::clone(&self.context);
        let recreated = self.pull_planner.recreated_queues();
        let queue = self.pulls.queue(index).clone();
        let consumer = self.pulls.consumer(index).to_owned();
        tokio::spawn(async move {
            let ack_wait = context.options.ack_wait;
            prepare::recreate_consumer(&context.broker, &queue, &consumer, ack_wait).await;
            recreated.mark_recreated(index);
        });
    }

    /// Recreates the consumers that deliver nothing because the server has lost their stream's messages in a
    /// power cut, and reads which have a limit of running jobs. Called at the start, after a reconnect, and from
    /// time to time: another server of the cluster may have lost power, and limits change.
    fn check_consumers(&mut self, delay: Duration) {
        self.consumers_checked_at = Instant::now();
        if self.context.options.single_job.is_some() {
            return;
        }
        let consumers: Vec<_> = (0..self.pulls.len())
            .map(|index| {
                let consumer = self.pulls.consumer(index).to_owned();
                (self.pulls.queue(index).clone(), consumer)
            })
            .collect();
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            // The server handles the requests of a connection in order, and the renewals of leases must
            // not wait behind these.
            tokio::time::sleep(delay).await;
            let mut is_unlimited = true;
            for (queue, consumer) in consumers {
                let checked = prepare::check_consumer(&context.broker, &queue, &consumer).await;
                is_unlimited &= checked.is_some_and(|checked| !checked.is_limited);
            }
            context.claim_ahead.set_unlimited(is_unlimited);
        });
    }

    /// Looks for poison messages after the connection was dropped: one that no client can parse
    /// may be the cause.
    fn remove_poison_messages(&self) {
        if self.context.options.single_job.is_some() {
            return;
        }
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            for queue in &context.options.queues {
                let removed = match context.broker.dead_letter_poison_messages(queue).await {
                    Ok(removed) => removed,
                    Err(error) => {
                        tracing::debug!(%queue, "cannot look for poison messages: {error}");
                        continue;
                    }
                };
                if !removed.is_empty()
                    && let Err(error) =
                        requeue_orphans::requeue_orphans(&context.broker, queue).await
                {
                    tracing::debug!(%queue, "cannot requeue lost deliveries; they are redelivered after ack_wait: {error}");
                }
            }
        });
    }

    async fn heartbeat(&self) {
        let facts = HeartbeatFacts {
            command: self.command,
            // a slot of the loop is free before the outcome is recorded, and taken before the runner's
            running: self.running().max(self.context.runner.slots_taken()),
            jobs_ended: self.summary.jobs_ended,
            started_at: self.started_at,
        };
        heartbeat::write(&self.context, facts).await;
    }
}

/// Waits for a command more urgent than the present one. Pending forever if nobody can send one.
pub(super) async fn next_command(
    commands: &mut watch::Receiver<WorkerCommand>,
    present: WorkerCommand,
) -> WorkerCommand {
    match commands.wait_for(|command| *command > present).await {
        Ok(command) => *command,
        Err(_) => std::future::pending().await,
    }
}

/// Waits until the connection is open and differs from the one of this generation. Cancel safe.
async fn reconnected(link: &mut ConnectionWatch, generation: u64) {
    loop {
        let state = link.mark_seen();
        if state.connected && state.generation != generation {
            return;
        }
        link.changed().await;
    }
}

/// Sleeps until `instant`. `None` means forever.
async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
