//! Runs bulk actions in the background, and keeps what is needed to undo them.
//!
//! The dead letter of a job that an action retries or discards stays in its stream until the time for an undo is
//! over; meanwhile, lists of the dashboard leave it out. So a dashboard that is stopped before loses nothing: a
//! discarded dead letter stays, and another retry of a retried one enqueues nothing.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::bulk_action::{
    ActionState, ActionVerb, KeepReason, Ledger, NextStep, Outcome, RETRY_DELAY, Refusal,
    SkipReason, UndoOutcome,
};
use super::bulk_selection::{Selection, Target, Targets};
use super::failure_groups::FailureGroups;
use super::login::random_hex;
use super::record_index::SharedIndex;
use crate::clock;
use naq_client::{CancelOutcome, Client, ClientError, DeadLetter, ErrorKind, StartDelay};
use naq_core::{delay_for, delay_until};
use naq_protocol::{Envelope, JobId, Record, State as JobState, Timestamp};

/// How many jobs an action changes at the same time.
const JOBS_AT_ONCE: usize = 32;

/// Maximum number of actions that run at the same time.
const RUNNING_MAX: usize = 8;

/// Maximum number of actions that are kept.
const KEPT_MAX: usize = 200;

/// Maximum number of jobs that all kept actions can undo or may select.
const JOBS_MAX: usize = 200_000;

/// Delay of a paused job that an undo enqueues again, until it is paused.
const PAUSE_MARGIN: Duration = Duration::from_secs(60);

/// What the undo of a change needs.
#[derive(Clone, Debug)]
enum UndoStep {
    /// Cancels the new job unless it has begun, and keeps the dead letter of the old one.
    CancelRerun {
        rerun: JobId,
        dead_letter: Option<Box<DeadLetter>>,
    },
    /// Keeps the dead letter.
    KeepDeadLetter(Box<DeadLetter>),
    /// Runs a cancelled job again.
    Rerun { job: JobId, delay: Option<Delay> },
}

impl UndoStep {
    fn job(&self) -> &JobId {
        match self {
            UndoStep::CancelRerun { rerun, .. } => rerun,
            UndoStep::KeepDeadLetter(failed) => &failed.job_id,
            UndoStep::Rerun { job, .. } => job,
        }
    }
}

/// How a cancelled job was delayed.
#[derive(Clone, Copy, Debug)]
struct Delay {
    due: Timestamp,
    is_paused: bool,
}

/// Dead letters that lists leave out because an action that can still be undone has retried or discarded them, by
/// their sequences.
#[derive(Debug, Default)]
pub(super) struct PendingDeadLetters(RwLock<Arc<BTreeSet<u64>>>);

impl PendingDeadLetters {
    /// The current ones.
    pub(super) fn sequences(&self) -> Arc<BTreeSet<u64>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds one. Returns false if it is one of them already.
    fn add(&self, sequence: u64) -> bool {
        let mut pending = self.0.write().unwrap_or_else(PoisonError::into_inner);
        !pending.contains(&sequence) && Arc::make_mut(&mut pending).insert(sequence)
    }

    fn remove(&self, sequence: u64) {
        let mut pending = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut pending).remove(&sequence);
    }
}

/// A bulk action.
pub(super) struct BulkAction {
    pub(super) id: String,
    /// The name of the token that started it.
    pub(super) started_by: String,
    /// What it selects, for people.
    pub(super) selection: String,
    ledger: Mutex<Ledger<UndoStep>>,
    /// Changes after each change of the state.
    changes: watch::Sender<()>,
}

/// The state of a bulk action at one moment.
pub(super) struct Progress(Ledger<()>);

impl std::ops::Deref for Progress {
    type Target = Ledger<()>;

    fn deref(&self) -> &Ledger<()> {
        &self.0
    }
}

impl BulkAction {
    fn ledger(&self) -> MutexGuard<'_, Ledger<UndoStep>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has been done so far, and whether it can be undone now.
    pub(super) fn progress(&self) -> (Progress, bool) {
        let ledger = self.ledger();
        (
            Progress(ledger.without_undo()),
            ledger.can_undo(clock::now()),
        )
    }

    /// Notifies of each change of the state.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Stops it before the next job.
    ///
    /// # Errors
    /// Returns the reason if it has ended.
    pub(super) fn stop(&self) -> Result<(), Refusal> {
        self.ledger().request_stop()?;
        self.has_changed();
        Ok(())
    }

    /// Undoes it. If it is running, it stops first.
    ///
    /// # Errors
    /// Returns the reason if it cannot be undone, or not any more.
    pub(super) fn undo(&self) -> Result<(), Refusal> {
        self.ledger().request_undo(clock::now())?;
        self.has_changed();
        Ok(())
    }

    fn has_changed(&self) {
        self.changes.send_replace(());
    }
}

/// The bulk actions of a dashboard.
pub(super) struct BulkActions {
    client: Client,
    index: Option<Arc<SharedIndex>>,
    groups: Arc<FailureGroups>,
    pub(super) pending: PendingDeadLetters,
    kept: Mutex<VecDeque<Arc<BulkAction>>>,
    stop: watch::Receiver<bool>,
}

/// Called when an action has acted on its last job, with the number of changed jobs.
pub(super) type OnEnd = Box<dyn FnOnce(u64) + Send>;

impl BulkActions {
    /// No action yet. Actions end when `stop` becomes true.
    pub(super) fn new(
        client: Client,
        index: Option<Arc<SharedIndex>>,
        groups: Arc<FailureGroups>,
        stop: watch::Receiver<bool>,
    ) -> Arc<BulkActions> {
        Arc::new(BulkActions {
            client,
            index,
            groups,
            pending: PendingDeadLetters::default(),
            kept: Mutex::default(),
            stop,
        })
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<BulkAction>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The action with this id. `None` if it is no longer kept, or was run by an earlier process.
    pub(super) fn get(&self, id: &str) -> Option<Arc<BulkAction>> {
        self.kept().iter().find(|action| action.id == id).cloned()
    }

    /// The kept actions, the latest first.
    pub(super) fn latest(&self, limit: usize) -> Vec<Arc<BulkAction>> {
        self.kept().iter().rev().take(limit).cloned().collect()
    }

    /// Starts an action. `confirmed` is the number of running and blocked jobs that it may cancel. `None` means
    /// that too many actions are kept.
    ///
    /// # Errors
    /// Returns an error if the system provides no random numbers.
    pub(super) fn start(
        self: &Arc<BulkActions>,
        selection: Selection,
        confirmed: u64,
        started_by: &str,
        on_end: OnEnd,
    ) -> Result<Option<Arc<BulkAction>>, std::io::Error> {
        let ledger = Ledger::new(selection.verb, selection.limit, clock::now());
        let action = Arc::new(BulkAction {
            id: random_hex::<8>()?,
            started_by: started_by.to_owned(),
            selection: selection.describe(),
            ledger: Mutex::new(ledger),
            changes: watch::Sender::new(()),
        });
        let mut kept = self.kept();
        if !has_room(&mut kept, selection.limit) {
            return Ok(None);
        }
        kept.push_back(Arc::clone(&action));
        drop(kept);
        let run = Arc::new(Run {
            actions: Arc::clone(self),
            action: Arc::clone(&action),
            confirmed: AtomicU64::new(confirmed),
        });
        tokio::spawn(async move {
            let mut stop = run.actions.stop.clone();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = run.run(&selection, on_end) => {}
            }
        });
        Ok(Some(action))
    }
}

/// Makes room for another action with this limit by dropping the oldest ones at rest.
fn has_room(kept: &mut VecDeque<Arc<BulkAction>>, limit: usize) -> bool {
    let (mut running, mut jobs) = (0, limit);
    for action in kept.iter() {
        let ledger = action.ledger();
        let is_active = matches!(ledger.state, ActionState::Running | ActionState::Undoing);
        running += usize::from(is_active);
        jobs += match ledger.state {
            ActionState::Running => ledger.limit,
            _ => ledger.undo_count(),
        };
    }
    if running >= RUNNING_MAX || jobs > JOBS_MAX {
        return false;
    }
    if kept.len() >= KEPT_MAX {
        let at_rest = |action: &Arc<BulkAction>| {
            let ledger = action.ledger();
            let is_active = matches!(ledger.state, ActionState::Running | ActionState::Undoing);
            !is_active && ledger.undo_count() == 0
        };
        match kept.iter().position(at_rest) {
            Some(oldest) => drop(kept.remove(oldest)),
            None => return false,
        }
    }
    true
}

/// A running action.
struct Run {
    actions: Arc<BulkActions>,
    action: Arc<BulkAction>,
    /// How many more running and blocked jobs it may cancel.
    confirmed: AtomicU64,
}

impl Run {
    async fn run(self: Arc<Run>, selection: &Selection, on_end: OnEnd) {
        let error = self
            .act(selection)
            .await
            .err()
            .map(|error| error.to_string());
        self.actions.groups.clear();
        let done = {
            let mut ledger = self.action.ledger();
            ledger.end(clock::now(), error);
            ledger.done
        };
        self.action.has_changed();
        on_end(done);
        let mut changes = self.action.changes();
        loop {
            let now = clock::now();
            let step = self.action.ledger().next_step(now);
            match step {
                NextStep::Wait(until) => {
                    let ms = (until.unix_ms() - now.unix_ms()).max(1).unsigned_abs();
                    // an undo is a change
                    let _ = timeout(Duration::from_millis(ms), changes.changed()).await;
                }
                NextStep::Undo(steps) => {
                    for_each(steps, |step| Arc::clone(&self).undo(step)).await;
                    self.action.ledger().end_undo();
                    break;
                }
                NextStep::Settle(steps) => {
                    for_each(steps, |step| Arc::clone(&self).settle(step)).await;
                    break;
                }
                NextStep::Rest => break,
            }
        }
        self.actions.groups.clear();
        self.action.has_changed();
    }

    /// Acts on the selected jobs, several at the same time.
    async fn act(self: &Arc<Run>, selection: &Selection) -> Result<(), ClientError> {
        let (verb, ttl) = (selection.verb, selection.ttl);
        let index = self.actions.index.as_ref();
        let mut targets = Some(selection.targets(&self.actions.client, index).await?);
        let mut in_progress = JoinSet::new();
        let mut end = Ok(());
        loop {
            while in_progress.len() < JOBS_AT_ONCE
                && let Some(source) = &mut targets
            {
                match self.select(source).await {
                    Ok(Some(target)) => {
                        in_progress.spawn(Arc::clone(self).act_on(verb, ttl, target));
                    }
                    Ok(None) => targets = None,
                    Err(error) => {
                        targets = None;
                        end = Err(error);
                    }
                }
            }
            let (job, outcome) = match in_progress.join_next().await {
                None => return end,
                Some(Ok(acted)) => acted,
                Some(Err(panic)) => {
                    tracing::error!("an action on a job has failed: {panic}");
                    continue;
                }
            };
            let outcome = outcome.unwrap_or_else(|error| {
                let text = error.to_string();
                // the others would fail too, each after its time limit
                if error.kind() == ErrorKind::Unavailable {
                    targets = None;
                    end = Err(error);
                }
                Outcome::Failed(text)
            });
            self.action.ledger().on_outcome(&job, outcome);
            self.action.has_changed();
        }
    }

    /// The next selected job, if the action may act on another one.
    async fn select(&self, targets: &mut Targets) -> Result<Option<Target>, ClientError> {
        if !self.action.ledger().may_select() {
            return Ok(None);
        }
        let target = targets.next(&self.actions.client).await?;
        Ok(target.filter(|_| self.action.ledger().select()))
    }

    async fn act_on(
        self: Arc<Run>,
        verb: ActionVerb,
        ttl: Option<Duration>,
        target: Target,
    ) -> (JobId, Result<Outcome<UndoStep>, ClientError>) {
        let outcome = match verb {
            ActionVerb::Cancel => self.cancel(&target.job_id).await,
            ActionVerb::Retry => self.retry(&target).await,
            ActionVerb::Discard => self.discard(&target).await,
            ActionVerb::Ttl => self.set_ttl(&target.job_id, ttl).await,
        };
        (target.job_id, outcome)
    }

    async fn cancel(&self, job: &JobId) -> Result<Outcome<UndoStep>, ClientError> {
        let client = &self.actions.client;
        // Read before the change: the record of a cancelled job no longer contains its start.
        let delay = match client.fetch_delayed_job(job).await {
            Ok(delayed) => delayed.due.map(|due| Delay {
                due,
                is_paused: delayed.paused,
            }),
            Err(ClientError::NoSuchJob(_)) => return Ok(Outcome::Skipped(SkipReason::NotFound)),
            Err(ClientError::NotDelayed { .. }) => None,
            Err(error) => return Err(error),
        };
        let verb = ActionVerb::Cancel;
        let is_reversible = |record: &Record| !verb.is_irreversible(record.state());
        let outcome = match client.cancel_if(job, is_reversible).await? {
            Some(outcome) => outcome,
            None => {
                let confirm = |left: u64| left.checked_sub(1);
                let confirmed = &self.confirmed;
                if confirmed
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, confirm)
                    .is_err()
                {
                    return Ok(Outcome::Skipped(SkipReason::NotConfirmed));
                }
                client.cancel(job).await?
            }
        };
        Ok(match outcome {
            CancelOutcome::AlreadyEnded(_) => Outcome::Skipped(SkipReason::Ended),
            CancelOutcome::CancelRequested { .. } => Outcome::Done(None),
            CancelOutcome::Cancelled(record) => {
                Outcome::Done((!has_dependencies(&record)).then(|| UndoStep::Rerun {
                    job: job.clone(),
                    delay,
                }))
            }
        })
    }

    async fn retry(&self, target: &Target) -> Result<Outcome<UndoStep>, ClientError> {
        let rerun = match self.actions.client.prepare_retry(&target.job_id).await {
            Ok(rerun) => rerun,
            Err(error) => return skipped(error),
        };
        let dead_letter = rerun.dead_letter().cloned().map(without_content);
        if let Some(selected) = &target.dead_letter
            && dead_letter.as_ref().map(|failed| failed.sequence) != Some(selected.sequence)
        {
            return Ok(Outcome::Skipped(SkipReason::Changed));
        }
        if let Some(failed) = &dead_letter
            && !self.actions.pending.add(failed.sequence)
        {
            return Ok(Outcome::Skipped(SkipReason::PendingUndo));
        }
        let enqueued = match delay_for(RETRY_DELAY, None, clock::now()) {
            Ok(start) => rerun.enqueue_delayed(start).await,
            Err(error) => Err(error.into()),
        };
        match enqueued {
            Ok(rerun) => Ok(Outcome::Done(Some(UndoStep::CancelRerun {
                rerun,
                dead_letter,
            }))),
            Err(error) => {
                if let Some(failed) = &dead_letter {
                    self.actions.pending.remove(failed.sequence);
                }
                Err(error)
            }
        }
    }

    async fn discard(&self, target: &Target) -> Result<Outcome<UndoStep>, ClientError> {
        let failed = match &target.dead_letter {
            Some(failed) => (**failed).clone(),
            None => match self.actions.client.fetch_dead_letter(&target.job_id).await {
                Ok(failed) => failed,
                Err(ClientError::NoDeadLetter(_)) => {
                    return Ok(Outcome::Skipped(SkipReason::NoDeadLetter));
                }
                Err(error) => return Err(error),
            },
        };
        Ok(match self.actions.pending.add(failed.sequence) {
            true => Outcome::Done(Some(UndoStep::KeepDeadLetter(without_content(failed)))),
            false => Outcome::Skipped(SkipReason::PendingUndo),
        })
    }

    async fn set_ttl(
        &self,
        job: &JobId,
        ttl: Option<Duration>,
    ) -> Result<Outcome<UndoStep>, ClientError> {
        let Some(ttl) = ttl else {
            return Ok(Outcome::Failed("the action names no time".to_owned()));
        };
        match self.actions.client.set_result_ttl(job, ttl).await {
            Ok(_) => Ok(Outcome::Done(None)),
            Err(error) => skipped(error),
        }
    }

    /// Undoes one change, and counts it.
    async fn undo(self: Arc<Run>, step: UndoStep) {
        let outcome = match self.undo_one(&step).await {
            Ok(outcome) => outcome,
            Err(error) => UndoOutcome::Failed(error.to_string()),
        };
        if let UndoStep::CancelRerun {
            dead_letter: Some(failed),
            ..
        }
        | UndoStep::KeepDeadLetter(failed) = &step
        {
            if outcome == UndoOutcome::Kept(KeepReason::Begun) {
                self.remove_dead_letter(failed).await;
            }
            self.actions.pending.remove(failed.sequence);
        }
        self.action.ledger().on_undo_outcome(step.job(), outcome);
        self.action.has_changed();
    }

    async fn undo_one(&self, step: &UndoStep) -> Result<UndoOutcome, ClientError> {
        let client = &self.actions.client;
        match step {
            UndoStep::KeepDeadLetter(_) => Ok(UndoOutcome::Undone),
            UndoStep::CancelRerun { rerun, .. } => {
                match client.cancel_if(rerun, has_not_begun).await {
                    Ok(Some(_)) | Err(ClientError::NoSuchJob(_)) => Ok(UndoOutcome::Undone),
                    Ok(None) => Ok(UndoOutcome::Kept(KeepReason::Begun)),
                    Err(error) => Err(error),
                }
            }
            UndoStep::Rerun { job, delay } => {
                let rerun = client.prepare_retry(job).await?;
                let now = clock::now();
                match delay {
                    Some(Delay {
                        due,
                        is_paused: true,
                    }) => {
                        // a job that is due cannot be paused
                        let due = (*due).max(clock::saturating_add(now, PAUSE_MARGIN));
                        let rerun = rerun.enqueue_delayed(start_at(due, now)?).await?;
                        client.pause_delayed_job(&rerun).await?;
                    }
                    Some(Delay { due, .. }) => {
                        rerun.enqueue_delayed(start_at(*due, now)?).await?;
                    }
                    None => {
                        rerun.enqueue().await?;
                    }
                }
                Ok(UndoOutcome::Undone)
            }
        }
    }

    /// Removes the dead letter of a change that can no longer be undone.
    async fn settle(self: Arc<Run>, step: UndoStep) {
        if let UndoStep::CancelRerun {
            dead_letter: Some(failed),
            ..
        }
        | UndoStep::KeepDeadLetter(failed) = step
        {
            self.remove_dead_letter(&failed).await;
            self.actions.pending.remove(failed.sequence);
        }
    }

    async fn remove_dead_letter(&self, failed: &DeadLetter) {
        if let Err(error) = self.actions.client.discard_dead_letter(failed).await {
            // it is listed again, and can be discarded again
            tracing::warn!(job_id = %failed.job_id, %error, "cannot remove a dead letter");
        }
    }
}

/// Does this with every step, several at the same time.
async fn for_each<F: Future<Output = ()> + Send + 'static>(
    steps: Vec<UndoStep>,
    act: impl Fn(UndoStep) -> F,
) {
    let mut in_progress = JoinSet::new();
    for step in steps {
        if in_progress.len() >= JOBS_AT_ONCE {
            in_progress.join_next().await;
        }
        in_progress.spawn(act(step));
    }
    while in_progress.join_next().await.is_some() {}
}

/// Whether a job that a retry has enqueued can still be taken back without stopping it.
fn has_not_begun(record: &Record) -> bool {
    let is_waiting = matches!(
        record.state(),
        JobState::Scheduled | JobState::Queued | JobState::Waiting
    );
    is_waiting && record.attempt == 0
}

fn start_at(due: Timestamp, now: Timestamp) -> Result<StartDelay, ClientError> {
    delay_until(due, None, now).map_err(ClientError::InvalidDueTime)
}

/// Whether a cancelled job depended on others. A rerun would not wait for them.
fn has_dependencies(record: &Record) -> bool {
    let envelope = record.envelope.as_ref();
    let envelope = envelope.and_then(|text| Envelope::parse(text.get().as_bytes()).ok());
    envelope.is_none_or(|envelope| !envelope.depends_on.is_empty())
}

/// What the removal of a dead letter needs.
fn without_content(mut failed: DeadLetter) -> Box<DeadLetter> {
    failed.payload = bytes::Bytes::new();
    failed.headers = Vec::new();
    failed.error = None;
    Box::new(failed)
}

fn skipped(error: ClientError) -> Result<Outcome<UndoStep>, ClientError> {
    match error {
        ClientError::NoSuchJob(_) => Ok(Outcome::Skipped(SkipReason::NotFound)),
        ClientError::NotEnded { .. } => Ok(Outcome::Skipped(SkipReason::NotEnded)),
        error => Err(error),
    }
}
