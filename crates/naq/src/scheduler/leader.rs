//! What a leader does: one loop that owns the schedules, and sends what is due.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::fire::{FireResult, Tick, fire};
use super::lock::LeaderLease;
use super::options::{SchedulerConfig, SchedulerSummary};
use super::reconcile::reconcile_loop;
use super::schedule_index::{EntryId, ScheduleEntry, ScheduleIndex, Update};
use crate::clock::{self, BootInstant, ClockWatch};
use naq_client::Client;
use naq_core::{ExponentialBackoff, ScheduleAction};
use naq_jetstream::{BrokerError, NewJob, ScheduleEvent, ScheduleWatch, StoredSchedule, failpoint};
use naq_protocol::{JobId, Schedule, ScheduleStatus, Timestamp};

/// How many ticks are on their way at once.
const FIRES_MAX: usize = 4_096;

/// How many schedules are being stored at once.
const WRITES_MAX: usize = 1_024;

/// The same while ticks are due: they come first.
const WRITES_MAX_WHILE_FIRING: usize = 64;

/// How much is dealt with before the loop looks at other things again.
const BATCH_MAX: usize = 256;

/// A schedule is stored no more often than this, however often it is due.
const STORE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Pauses before a tick that the server refused is enqueued again.
const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Where a tick is as late as this, and as long ago the last look at anything, this process stood
/// still. What it knows of schedules may be as old.
const STALL_THRESHOLD: Duration = Duration::from_millis(100);

/// How often it is made sure that no news was lost.
const FRESHNESS_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// How long to wait before that is tried again.
const FRESHNESS_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a leader that was asked to stop waits for what is on its way, and stores what it
/// knows. Another waits for the lock meanwhile, and finds out by itself what was not stored.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// How leading ended.
pub(super) enum TermEnd {
    /// It was asked to stop, and has given the lock back.
    Stopped,
    /// The lock is lost.
    NotLeader,
}

/// What came of storing a schedule.
enum StoreResult {
    /// At this revision, with so many ticks left out by overlap.
    Stored {
        revision: u64,
        skipped: u64,
    },
    Failed(BrokerError),
    /// This is no longer the leader: nothing was sent.
    NotLeader,
    /// It had been changed; this is how it is now.
    Conflict(StoredSchedule),
}

struct Leader<'a> {
    client: &'a Client,
    options: &'a SchedulerConfig,
    summary: &'a mut SchedulerSummary,
    lease: LeaderLease,
    /// Who writes from here: another for each term.
    writer_id: String,
    index: ScheduleIndex,
    /// No more ticks are to be sent.
    is_finishing: bool,
    /// None is to be sent for now: what is known may be out of date.
    firing_is_suspended: bool,
    /// This process stood still, and has not looked since.
    is_suspect: bool,
    /// When the loop last came round.
    last_pass_at: BootInstant,
    /// When it was last made sure that no news was lost.
    checked_at: BootInstant,
    /// That, under way: the revision of the last change.
    freshness_check: Option<BoxFuture<'static, Result<u64, BrokerError>>>,
    /// Schedules to be stored, the first one first.
    dirty: VecDeque<(Instant, EntryId)>,
    // Unconstrained: with thousands under way in one task, its budget would be used up by a few of
    // them, and each of the others would be woken only to hear of that.
    fires: FuturesUnordered<BoxFuture<'static, (EntryId, Timestamp, FireResult)>>,
    writes: FuturesUnordered<BoxFuture<'static, (EntryId, StoreResult)>>,
}

/// Leads until asked to stop, or until the lock is lost.
///
/// # Errors
/// Where the server refuses what a leader needs, or does not answer.
pub(super) async fn lead(
    client: &Client,
    options: &SchedulerConfig,
    lease: LeaderLease,
    stop: &mut watch::Receiver<bool>,
    summary: &mut SchedulerSummary,
) -> Result<TermEnd, BrokerError> {
    let begun = Instant::now();
    let clock = ClockWatch::new().map_err(|error| {
        BrokerError::UnsupportedServer(format!("the clock cannot be watched: {error}"))
    })?;
    let mut watch = client.broker().watch_schedules().await?;
    let mut leader = Leader {
        client,
        options,
        summary,
        lease,
        writer_id: JobId::generate().to_string(),
        index: ScheduleIndex::default(),
        is_finishing: false,
        firing_is_suspended: false,
        is_suspect: false,
        last_pass_at: BootInstant::now(),
        checked_at: BootInstant::now(),
        freshness_check: None,
        dirty: VecDeque::new(),
        fires: FuturesUnordered::new(),
        writes: FuturesUnordered::new(),
    };
    leader.reload_all(&mut watch).await?;
    failpoint("schedules.read");
    leader.summary.terms += 1;
    tracing::info!(
        schedules = leader.index.len(),
        took_ms = begun.elapsed().as_millis(),
        "leading"
    );
    let reconciling = reconcile_loop(
        client.clone(),
        leader.lease.clone(),
        options.reconcile_interval,
        options.result_ttl,
    );
    let _reconciling = AbortOnDropHandle::new(tokio::spawn(reconciling));
    leader.run(&clock, &mut watch, stop).await
}

impl Leader<'_> {
    async fn run(
        &mut self,
        clock: &ClockWatch,
        watch: &mut ScheduleWatch,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<TermEnd, BrokerError> {
        let mut lease = self.lease.clone();
        loop {
            if !self.lease.is_held() {
                return Ok(TermEnd::NotLeader);
            }
            // before anything is sent, however much else there is to do
            for _ in 0..BATCH_MAX {
                match watch.next().now_or_never() {
                    Some(event) => self.on_watch_event(event, watch).await?,
                    None => break,
                }
            }
            self.check_freshness(watch.is_uninterrupted());
            let has_more = self.fire_due();
            self.store_due(has_more);
            let wake = self.next_wakeup(has_more);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(self.shut_down().await),
                () = lease.expired() => return Ok(TermEnd::NotLeader),
                Some(fired) = self.fires.next(), if !self.fires.is_empty() => {
                    self.on_fired(fired);
                    for _ in 0..BATCH_MAX {
                        match self.fires.next().now_or_never() {
                            Some(Some(fired)) => self.on_fired(fired),
                            _ => break,
                        }
                    }
                }
                Some(written) = self.writes.next(), if !self.writes.is_empty() => {
                    self.on_stored(written);
                    for _ in 0..BATCH_MAX {
                        match self.writes.next().now_or_never() {
                            Some(Some(written)) => self.on_stored(written),
                            _ => break,
                        }
                    }
                }
                event = watch.next() => self.on_watch_event(event, watch).await?,
                // after the news, so that all that came before this answer was heard
                Some(last) = await_freshness_check(&mut self.freshness_check) => {
                    self.freshness_check = None;
                    match last {
                        Ok(last) => {
                            if last > watch.position() {
                                self.catch_up(watch).await?;
                            }
                            self.checked_at = BootInstant::now();
                            self.is_suspect = false;
                        }
                        Err(error) => tracing::warn!("cannot look after the schedules: {error}"),
                    }
                }
                () = clock.was_set() => tracing::warn!(now = %clock::now(), "the clock was set"),
                () = wake => {}
            }
        }
    }

    /// Sees to it that no tick is sent by what is out of date: after a connection was lost, or
    /// this process has stood still, the schedules are looked at again first.
    fn check_freshness(&mut self, is_whole: bool) {
        let away = std::mem::replace(&mut self.last_pass_at, BootInstant::now()).elapsed();
        let is_late = |due: Timestamp| {
            let late_ms = clock::now().unix_ms() - due.unix_ms();
            u128::try_from(late_ms).is_ok_and(|late_ms| late_ms > STALL_THRESHOLD.as_millis())
        };
        // with nothing to do it may well have slept for long, but then nothing is late
        if away > STALL_THRESHOLD && self.index.next_due().is_some_and(is_late) {
            self.is_suspect = true;
            // one that is under way may have been answered before
            self.freshness_check = None;
        }
        self.firing_is_suspended = !is_whole || self.is_suspect;
        let is_time = self.is_suspect || self.checked_at.elapsed() > FRESHNESS_CHECK_INTERVAL;
        if is_whole && self.freshness_check.is_none() && is_time {
            let broker = self.client.broker().clone();
            let look = async move {
                let last = broker.last_schedule_revision().await;
                if last.is_err() {
                    tokio::time::sleep(FRESHNESS_RETRY_PAUSE).await;
                }
                last
            };
            self.freshness_check = Some(look.boxed());
        }
    }

    /// Takes news.
    async fn on_watch_event(
        &mut self,
        event: ScheduleEvent,
        watch: &mut ScheduleWatch,
    ) -> Result<(), BrokerError> {
        match event {
            ScheduleEvent::Changed(stored) => self.on_schedule(stored),
            ScheduleEvent::Resync => self.resync(watch).await?,
            ScheduleEvent::Gap => self.catch_up(watch).await?,
        }
        Ok(())
    }

    /// Reads every schedule; those that are no longer there are forgotten.
    async fn reload_all(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        let mut listing = self.client.broker().list_schedules().await?;
        let mut there = HashSet::new();
        while let Some(stored) = listing.next().await? {
            watch.mark_seen_up_to(stored.revision);
            there.insert(stored.schedule_id.clone());
            self.on_schedule(stored);
        }
        self.index.retain(&there);
        self.checked_at = BootInstant::now();
        Ok(())
    }

    /// Reads what was stored since the last news.
    async fn catch_up(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        tracing::debug!(since = watch.position(), "reads what it has not been told");
        let broker = self.client.broker();
        let mut listing = broker.list_schedules_since(watch.position()).await?;
        while let Some(stored) = listing.next().await? {
            watch.mark_seen_up_to(stored.revision);
            self.on_schedule(stored);
        }
        Ok(())
    }

    /// The connection was lost and is back: what was on its way is sent once more, which its ids
    /// absorb, and what was missed is read.
    async fn resync(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        self.fires = FuturesUnordered::new();
        self.writes = FuturesUnordered::new();
        self.freshness_check = None;
        self.reload_all(watch).await?;
        self.is_suspect = false;
        let now = clock::now();
        let entry_ids: Vec<EntryId> = self.index.entry_ids().collect();
        for entry_id in entry_ids {
            let Some(entry) = self.index.get(entry_id) else {
                continue;
            };
            let was_firing = std::mem::take(&mut entry.is_firing);
            let was_writing = std::mem::take(&mut entry.is_writing);
            let was_failing = entry.attempts > 0;
            if was_writing {
                entry.is_dirty = false;
                self.mark_dirty(entry_id);
            }
            if was_firing || was_failing {
                self.index.set_timer(entry_id, now);
            }
        }
        Ok(())
    }

    fn on_schedule(&mut self, stored: StoredSchedule) {
        match self.index.apply_update(stored, &self.writer_id) {
            Update::Changed(entry_id) => {
                self.remark_dirty(entry_id);
                self.advance(entry_id, clock::now());
            }
            Update::Inactive(entry_id) => self.remark_dirty(entry_id),
            Update::Invalid(schedule_id, error) => {
                tracing::error!(
                    schedule_id = schedule_id.as_str(),
                    "not a schedule, and left alone: {error}"
                );
            }
            Update::Removed | Update::Unchanged => {}
        }
    }

    /// Sends what is due, as far as there is room. Says whether more is.
    fn fire_due(&mut self) -> bool {
        if self.firing_is_suspended {
            return false;
        }
        let now = clock::now();
        for _ in 0..BATCH_MAX {
            if self.fires.len() >= FIRES_MAX {
                return true;
            }
            match self.index.pop_due(now) {
                Some(entry_id) => self.advance(entry_id, now),
                None => return false,
            }
        }
        true
    }

    /// Does what a schedule is to do now, up to the next thing to wait for.
    fn advance(&mut self, entry_id: EntryId, now: Timestamp) {
        while !self.is_finishing {
            let Some(entry) = self.index.get(entry_id) else {
                return;
            };
            if entry.is_firing || entry.schedule.status != ScheduleStatus::Active {
                return;
            }
            if self.firing_is_suspended {
                self.index.set_timer(entry_id, now);
                return;
            }
            match entry.plan.next_action(&entry.position(), now) {
                ScheduleAction::Wait { at, .. } => {
                    self.index.set_timer(entry_id, at);
                    return;
                }
                ScheduleAction::MisfiresResolved {
                    done_until,
                    misfires_resolved_until,
                    missed,
                } => {
                    entry.schedule.progress.done_until = done_until;
                    entry.schedule.progress.missed += missed;
                    entry.misfires_resolved_until = Some(misfires_resolved_until);
                    entry.reset_retries();
                    if missed > 0 {
                        tracing::warn!(
                            schedule_id = entry.schedule.schedule_id.as_str(),
                            missed,
                            "ticks were late, and are left out"
                        );
                    }
                    self.mark_dirty(entry_id);
                }
                ScheduleAction::End => {
                    entry.schedule.status = ScheduleStatus::Ended;
                    tracing::info!(
                        schedule_id = entry.schedule.schedule_id.as_str(),
                        runs = entry.schedule.progress.runs,
                        "has ended"
                    );
                    self.mark_dirty(entry_id);
                    return;
                }
                // this process stood still since the loop last came round: what it knows is looked
                // at first, before the next tick that is as late as this one
                ScheduleAction::Fire { tick } if self.last_pass_at.elapsed() > STALL_THRESHOLD => {
                    self.index.set_timer(entry_id, tick);
                    return;
                }
                ScheduleAction::Fire { tick } => {
                    entry.is_firing = true;
                    let (client, lease) = (self.client.clone(), self.lease.clone());
                    let due = due_tick(entry, tick);
                    let fire = async move { (entry_id, tick, fire(client, lease, due).await) };
                    self.fires.push(unconstrained(fire).boxed());
                    return;
                }
            }
        }
    }

    /// Takes what came of a tick.
    fn on_fired(&mut self, (entry_id, tick, fired): (EntryId, Timestamp, FireResult)) {
        let now = clock::now();
        if matches!(fired, FireResult::Enqueued) {
            self.summary.enqueued += 1;
        }
        let Some(entry) = self.index.get(entry_id) else {
            return;
        };
        entry.is_firing = false;
        let progress = &mut entry.schedule.progress;
        // a change may have come in between that leaves this tick behind
        let is_behind = tick <= progress.done_until;
        match fired {
            FireResult::Enqueued => {
                progress.done_until = progress.done_until.max(tick);
                // another leader may have counted it already
                if progress.last_run < Some(tick) {
                    progress.runs += 1;
                    progress.last_run = Some(tick);
                    let job_id = JobId::for_tick(&entry.schedule.schedule_id, tick);
                    progress.last_job_id = Some(job_id);
                }
                progress.failures = 0;
                progress.last_error = None;
                entry.reset_retries();
            }
            FireResult::Skipped if !is_behind => {
                progress.done_until = tick;
                progress.skipped += 1;
                entry.reset_retries();
            }
            FireResult::Failed(error) if !is_behind => {
                entry.attempts += 1;
                let wait = RETRY_BACKOFF.pause(entry.attempts, rand::random());
                if entry.should_retry(tick, clock::saturating_add(now, wait), wait, &error) {
                    self.index
                        .set_timer(entry_id, clock::saturating_add(now, wait));
                    return;
                }
                entry.reset_retries();
                record_failed_tick(
                    &mut entry.schedule,
                    tick,
                    &error,
                    self.options.max_consecutive_failures,
                );
            }
            FireResult::StoreFirst => {
                entry.awaits_store = true;
                self.store_first(entry_id);
                return;
            }
            // the loop finds out by itself
            FireResult::NotLeader => return,
            FireResult::Skipped | FireResult::Failed(_) => entry.reset_retries(),
        }
        self.mark_dirty(entry_id);
        self.advance(entry_id, now);
    }

    /// Has a schedule stored soon.
    fn mark_dirty(&mut self, entry_id: EntryId) {
        let Some(entry) = self.index.get(entry_id) else {
            return;
        };
        if entry.is_dirty {
            return;
        }
        entry.is_dirty = true;
        if entry.is_writing {
            return;
        }
        let now = Instant::now();
        match entry.written_at.map(|at| at + STORE_INTERVAL_MIN) {
            Some(at) if at > now && !self.is_finishing => self.dirty.push_back((at, entry_id)),
            _ => self.dirty.push_front((now, entry_id)),
        }
    }

    /// The same where news of it came that lacked what is known here.
    fn remark_dirty(&mut self, entry_id: EntryId) {
        if let Some(entry) = self.index.get(entry_id)
            && std::mem::take(&mut entry.is_dirty)
        {
            self.mark_dirty(entry_id);
        }
    }

    /// Has a schedule stored as soon as there is room, since something waits for that.
    fn store_first(&mut self, entry_id: EntryId) {
        if let Some(entry) = self.index.get(entry_id) {
            entry.is_dirty = true;
            if !entry.is_writing {
                self.dirty.push_front((Instant::now(), entry_id));
            }
        }
    }

    /// Stores what is to be stored by now, as far as there is room.
    fn store_due(&mut self, has_more: bool) {
        let now = Instant::now();
        while self.writes.len() < writes_max(has_more) {
            match self.dirty.front() {
                Some((at, entry_id)) if *at <= now => {
                    let entry_id = *entry_id;
                    self.dirty.pop_front();
                    self.store(entry_id);
                }
                _ => return,
            }
        }
    }

    fn store(&mut self, entry_id: EntryId) {
        let Some(entry) = self.index.get(entry_id) else {
            return;
        };
        if !entry.is_dirty || entry.is_writing {
            return;
        }
        entry.is_dirty = false;
        entry.is_writing = true;
        entry.written_at = Some(Instant::now());
        let (broker, me) = (self.client.broker().clone(), self.writer_id.clone());
        let (lease, expected) = (self.lease.clone(), entry.revision);
        let schedule = entry.schedule.clone();
        let skipped = schedule.progress.skipped;
        let store = async move {
            failpoint("progress.due");
            if !lease.is_held() {
                return (entry_id, StoreResult::NotLeader);
            }
            let written = match broker.send_schedule(&schedule, expected, Some(&me)).await {
                Ok(sent) => broker.confirm_schedule(sent).await,
                Err(error) => Err(error),
            };
            let written = match written {
                Ok(revision) => {
                    failpoint("progress.stored");
                    StoreResult::Stored { revision, skipped }
                }
                Err(BrokerError::Conflict) => {
                    match broker.read_stored_schedule(&schedule.schedule_id).await {
                        Ok(stored) => StoreResult::Conflict(stored),
                        Err(error) => StoreResult::Failed(error),
                    }
                }
                Err(error) => StoreResult::Failed(error),
            };
            (entry_id, written)
        };
        self.writes.push(unconstrained(store).boxed());
    }

    fn on_stored(&mut self, (entry_id, written): (EntryId, StoreResult)) {
        let Some(entry) = self.index.get(entry_id) else {
            return;
        };
        entry.is_writing = false;
        let is_dirty = std::mem::take(&mut entry.is_dirty);
        match written {
            StoreResult::Stored { revision, skipped } => {
                entry.revision = entry.revision.max(revision);
                entry.skipped_stored = entry.skipped_stored.max(skipped);
                let waits = entry.awaits_store;
                let goes_on = waits && entry.skips_are_stored();
                entry.awaits_store = waits && !goes_on;
                if waits && !goes_on {
                    self.store_first(entry_id);
                } else if is_dirty {
                    self.mark_dirty(entry_id);
                }
                if goes_on {
                    self.advance(entry_id, clock::now());
                }
            }
            // the loop finds out by itself
            StoreResult::NotLeader => {}
            StoreResult::Conflict(stored) => {
                if stored.revision == entry.revision {
                    // news of it came while it was refused
                    self.mark_dirty(entry_id);
                } else {
                    self.on_schedule(stored);
                    self.mark_dirty(entry_id);
                }
            }
            StoreResult::Failed(error) => {
                let schedule_id = entry.schedule.schedule_id.as_str();
                tracing::warn!(schedule_id, "how far it is was not stored: {error}");
                self.mark_dirty(entry_id);
            }
        }
    }

    /// Waits for the next thing to do by the clock.
    fn next_wakeup(&mut self, has_more: bool) -> BoxFuture<'static, ()> {
        let is_full = self.fires.len() >= FIRES_MAX;
        if has_more && !is_full {
            return tokio::task::yield_now().boxed();
        }
        let now = clock::now();
        // with no room for more, an answer wakes the loop, and so it does with nothing to go by
        let due = self.index.next_due();
        let due = due.filter(|_| !is_full && !self.firing_is_suspended);
        let due = due.map(|at| {
            let wait_ms = u64::try_from(at.unix_ms() - now.unix_ms()).unwrap_or(0);
            Instant::now() + Duration::from_millis(wait_ms)
        });
        let stored = self.dirty.front().map(|(at, _)| *at);
        let stored = stored.filter(|_| self.writes.len() < writes_max(has_more));
        // what is waited for here is no standing still
        let waits = self.freshness_check.is_some() || is_full;
        let pulse = waits.then(|| Instant::now() + STALL_THRESHOLD / 2);
        match due.into_iter().chain(stored).chain(pulse).min() {
            Some(at) => tokio::time::sleep_until(at).boxed(),
            None => std::future::pending().boxed(),
        }
    }

    /// Ends in order: what is on its way is waited for, what is known is stored, and the lock is
    /// given back.
    async fn shut_down(&mut self) -> TermEnd {
        self.is_finishing = true;
        let finished = tokio::time::timeout(SHUTDOWN_MAX, async {
            while let Some((entry_id, tick, fired)) = self.fires.next().await {
                self.on_fired((entry_id, tick, fired));
            }
            for (at, _) in &mut self.dirty {
                *at = Instant::now();
            }
            while self.lease.is_held() {
                self.store_due(false);
                match self.writes.next().await {
                    Some(written) => self.on_stored(written),
                    None if self.dirty.is_empty() => break,
                    None => {}
                }
            }
        })
        .await;
        if finished.is_err() {
            tracing::warn!("not all is stored; the next leader finds out by itself");
        }
        self.lease.clone().release().await;
        TermEnd::Stopped
    }
}

/// How many schedules may be being stored.
fn writes_max(has_more_ticks: bool) -> usize {
    if has_more_ticks {
        WRITES_MAX_WHILE_FIRING
    } else {
        WRITES_MAX
    }
}

fn due_tick(entry: &ScheduleEntry, tick: Timestamp) -> Tick {
    let schedule = &entry.schedule;
    Tick {
        job: NewJob::with_id(
            JobId::for_tick(&schedule.schedule_id, tick),
            schedule.queue.clone(),
            entry.envelope.at(tick).into(),
        ),
        overlap: schedule.overlap,
        last_job_id: schedule.progress.last_job_id.clone(),
        skips_are_stored: entry.skips_are_stored(),
    }
}

/// Waits for a look that is under way.
async fn await_freshness_check(
    freshness_check: &mut Option<BoxFuture<'static, Result<u64, BrokerError>>>,
) -> Option<Result<u64, BrokerError>> {
    match freshness_check {
        Some(freshness_check) => Some(freshness_check.await),
        None => None,
    }
}

/// A tick that is too late to be tried again.
fn record_failed_tick(
    schedule: &mut Schedule,
    tick: Timestamp,
    error: &BrokerError,
    max_consecutive_failures: u32,
) {
    let progress = &mut schedule.progress;
    progress.done_until = tick;
    progress.missed += 1;
    progress.failures += 1;
    progress.last_error = Some(error.to_string());
    let schedule_id = schedule.schedule_id.as_str();
    tracing::error!(schedule_id, %tick, "could not be enqueued in time: {error}");
    if max_consecutive_failures > 0 && progress.failures >= max_consecutive_failures {
        let reason = format!(
            "{} ticks in a row could not be enqueued: {error}",
            progress.failures
        );
        tracing::error!(
            schedule_id,
            "paused, since {reason}; `naq job-control {schedule_id} resume` goes on"
        );
        schedule.status = ScheduleStatus::Paused;
        schedule.paused_reason = Some(reason);
    }
}
