//! The leader: one loop that owns the schedules, receives their changes and fires what is due.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use super::clock_check::{self, CLOCK_CHECK_INTERVAL, WallClock};
use super::error::SchedulerError;
use super::fire::{DueTick, Fired};
use super::leader_lease::LeaderLease;
use super::options::{SchedulerConfig, SchedulerSummary};
use super::reconcile::reconcile_loop;
use super::schedule_index::{EntryId, ScheduleIndex, Update};
use super::status::SchedulerStatus;
use crate::clock::{self, BootInstant, ClockWatch};
use crate::watchdog::WatchdogTimer;
use naq_client::Client;
use naq_core::ClockSkew;
use naq_jetstream::{
    BrokerError, ScheduleEvent, ScheduleWatch, SchedulesState, StoredSchedule, failpoint,
};
use naq_protocol::{JobId, SchedulerState, Timestamp};

/// Number of ticks that are being enqueued at once.
pub(super) const FIRES_MAX: usize = 4_096;

/// Number of things of one kind that the loop handles before it looks at the others again.
pub(super) const BATCH_MAX: usize = 256;

/// If the loop has not run for this long and a tick is at least this late, assume that the process
/// was suspended and that the schedules in memory are stale: check them before firing.
pub(super) const STALL_THRESHOLD: Duration = Duration::from_millis(100);

/// Time between two checks that no change of a schedule was lost.
const FRESHNESS_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Pause before a check that failed is repeated.
const FRESHNESS_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Time between two looks at the files of the time zones in use.
const TIMEZONE_REREAD_INTERVAL: Duration = Duration::from_secs(10);

/// How long a leader that was asked to stop waits for the ticks it has sent, and stores progress.
/// Another scheduler waits for the lease meanwhile, and finds out itself what was not stored.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// How a term as the leader ended.
pub(super) enum TermEnd {
    /// The scheduler was asked to stop, and has released the lease.
    Stopped,
    /// The lease was lost.
    NotLeader,
    /// The clock of this machine is too far from the server's. The lease is released.
    ClockOff,
}

/// The result of storing a schedule.
pub(super) enum StoreResult {
    /// Stored at `revision`, with `skipped` ticks that the overlap policy left out.
    Stored {
        revision: u64,
        skipped: u64,
    },
    Failed(BrokerError),
    /// The lease was lost before the write: nothing was sent.
    NotLeader,
    /// Another writer has changed the schedule; its present content.
    Conflict(StoredSchedule),
}

/// Whether ticks may be fired by the schedules in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Every change was received, as far as is known: ticks are fired.
    Fresh,
    /// The process was suspended, and a change may be waiting in a buffer or be lost. Ticks wait
    /// until the newest revision on the server is known to have been seen.
    Suspect,
    /// The connection was interrupted. Ticks wait until all schedules have been read again.
    Rereading,
}

/// One term as the leader.
pub(super) struct Leader<'a> {
    pub(super) client: &'a Client,
    pub(super) options: &'a SchedulerConfig,
    pub(super) summary: &'a mut SchedulerSummary,
    pub(super) status: &'a SchedulerStatus,
    pub(super) lease: LeaderLease,
    /// Identifies this leader's own writes in the watch; a new one for each term.
    pub(super) writer_id: String,
    pub(super) index: ScheduleIndex,
    /// The leader is shutting down: no more ticks are fired.
    pub(super) is_finishing: bool,
    pub(super) freshness: Freshness,
    /// The wall clock when it was last compared with the server's.
    pub(super) clock_compared: WallClock,
    /// The comparison under way.
    clock_check: Option<BoxFuture<'static, Result<ClockSkew, BrokerError>>>,
    /// When the loop last started a pass.
    pub(super) last_pass_at: BootInstant,
    /// When the schedules were last known to be complete.
    checked_at: BootInstant,
    /// The request under way for the newest revision of any schedule.
    freshness_check: Option<BoxFuture<'static, Result<SchedulesState, BrokerError>>>,
    /// When the bucket was created that the schedules in memory were read from.
    bucket_created_at: Option<Timestamp>,
    /// Schedules to be stored and when, in order.
    pub(super) dirty: VecDeque<(Instant, EntryId)>,
    /// Schedules to be stored at once, since a tick of each waits for that.
    pub(super) urgent: VecDeque<EntryId>,
    // Unconstrained: with thousands of futures in one task, a few would use up the task's budget,
    // and each of the others would be woken only to be refused.
    pub(super) fires: FuturesUnordered<BoxFuture<'static, Vec<Fired>>>,
    /// Ticks that this pass of the loop has found due, and that are not in `fires` yet.
    pub(super) due: Vec<DueTick>,
    /// The number of ticks in `due` and `fires`.
    pub(super) firing: usize,
    /// Since when more ticks are due than can be sent. `None` if all are sent.
    pub(super) burst_since: Option<Instant>,
    pub(super) writes: FuturesUnordered<BoxFuture<'static, (EntryId, StoreResult)>>,
}

/// Leads until asked to stop, or until the lease is lost.
///
/// # Errors
/// Returns the broker's error if the server refuses what a leader needs, or does not answer.
pub(super) async fn lead(
    client: &Client,
    options: &SchedulerConfig,
    lease: LeaderLease,
    stop: &mut watch::Receiver<bool>,
    summary: &mut SchedulerSummary,
    watchdog: &mut WatchdogTimer,
    status: &SchedulerStatus,
) -> Result<TermEnd, SchedulerError> {
    let begun = Instant::now();
    let clock = ClockWatch::new().map_err(SchedulerError::Clock)?;
    let mut watch = client.broker().watch_schedules().await?;
    let mut leader = Leader {
        client,
        options,
        summary,
        status,
        lease,
        writer_id: JobId::generate().to_string(),
        index: ScheduleIndex::default(),
        is_finishing: false,
        freshness: Freshness::Fresh,
        clock_compared: WallClock::now(),
        clock_check: None,
        last_pass_at: BootInstant::now(),
        checked_at: BootInstant::now(),
        freshness_check: None,
        bucket_created_at: None,
        dirty: VecDeque::new(),
        urgent: VecDeque::new(),
        fires: FuturesUnordered::new(),
        due: Vec::new(),
        firing: 0,
        burst_since: None,
        writes: FuturesUnordered::new(),
    };
    // The clock may have been set while this scheduler stood by.
    if let Some(skew) = clock_check::excessive_skew(client.broker()).await {
        leader.log_clock_off(skew);
        leader.lease.clone().release().await;
        return Ok(TermEnd::ClockOff);
    }
    // Zones that this process read in an earlier term may have changed since.
    naq_cron::refresh_timezones();
    watchdog
        .while_waiting(leader.reload_all(&mut watch))
        .await?;
    failpoint("schedules.read");
    leader.summary.terms += 1;
    status.set(SchedulerState::Leading);
    tracing::info!(
        schedules = leader.index.len(),
        replicas = client
            .broker()
            .replica_summary()
            .counts
            .map(|counts| counts.0),
        took_ms = begun.elapsed().as_millis(),
        "leading"
    );
    let reconciling = reconcile_loop(
        client.clone(),
        leader.lease.clone(),
        options.reconcile_interval,
        options.result_ttl,
        Arc::clone(&options.metrics),
    );
    let _reconciling = AbortOnDropHandle::new(tokio::spawn(reconciling));
    Ok(leader.run(&clock, &mut watch, stop, watchdog).await?)
}

impl Leader<'_> {
    async fn run(
        &mut self,
        clock: &ClockWatch,
        watch: &mut ScheduleWatch,
        stop: &mut watch::Receiver<bool>,
        watchdog: &mut WatchdogTimer,
    ) -> Result<TermEnd, BrokerError> {
        let mut lease = self.lease.clone();
        let mut timezone_rereads = tokio::time::interval(TIMEZONE_REREAD_INTERVAL);
        timezone_rereads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !self.lease.is_held() {
                return Ok(TermEnd::NotLeader);
            }
            // changes before ticks: nothing is fired by a schedule whose change has arrived
            for _ in 0..BATCH_MAX {
                match watch.next().now_or_never() {
                    Some(event) => {
                        watchdog
                            .while_waiting(self.on_watch_event(event?, watch))
                            .await?
                    }
                    None => break,
                }
            }
            self.check_freshness(watch.is_uninterrupted());
            self.check_clock();
            let has_more = self.fire_due();
            self.send_due();
            self.store_due(has_more);
            let wake = self.next_wakeup(has_more);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {
                    watchdog.while_waiting(self.finish()).await;
                    return Ok(TermEnd::Stopped);
                }
                () = lease.expired() => return Ok(TermEnd::NotLeader),
                () = watchdog.report() => {}
                Some(fired) = self.fires.next(), if !self.fires.is_empty() => {
                    let mut handled = self.on_all_fired(fired);
                    while handled < BATCH_MAX {
                        match self.fires.next().now_or_never() {
                            Some(Some(fired)) => handled += self.on_all_fired(fired),
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
                event = watch.next() => {
                    watchdog.while_waiting(self.on_watch_event(event?, watch)).await?;
                }
                // after the changes, so that all that arrived before this answer have been applied
                Some(newest) = await_check(&mut self.freshness_check) => {
                    watchdog.while_waiting(self.on_freshness_checked(newest, watch)).await?;
                }
                () = clock.was_set() => tracing::warn!(now = %clock::now(), "the wall clock was set or the machine resumed"),
                Some(skew) = await_check(&mut self.clock_check) => {
                    if let Some(end) = watchdog.while_waiting(self.on_clock_checked(skew)).await {
                        return Ok(end);
                    }
                }
                _ = timezone_rereads.tick() => {
                    self.reread_timezones();
                    self.status.metrics.set_schedules(self.index.statuses());
                }
                () = wake => {}
            }
        }
    }

    /// Reads the rules of the time zones in use again, and plans schedules whose zone has changed: an
    /// update of the operating system needs no restart.
    fn reread_timezones(&mut self) {
        let zones = naq_cron::refresh_timezones();
        if zones.is_empty() {
            return;
        }
        let replanned = self.index.replan(&zones);
        tracing::info!(
            zones = zones.join(" "),
            schedules = replanned.len(),
            "rules of time zones changed; schedules planned again"
        );
        let now = clock::now();
        for entry_id in replanned {
            self.advance(entry_id, now);
        }
    }

    /// Updates [`Freshness`] before ticks are fired, and starts the check that this needs.
    fn check_freshness(&mut self, is_uninterrupted: bool) {
        let away = std::mem::replace(&mut self.last_pass_at, BootInstant::now()).elapsed();
        let is_late = |due: Timestamp| {
            let late_ms = clock::now().unix_ms() - due.unix_ms();
            u128::try_from(late_ms).is_ok_and(|late_ms| late_ms > STALL_THRESHOLD.as_millis())
        };
        // a loop with nothing to do may well sleep for longer, but then no tick is late
        if away > STALL_THRESHOLD && self.index.next_due().is_some_and(is_late) {
            self.freshness = Freshness::Suspect;
            // a check under way may have been answered before the process was suspended
            self.freshness_check = None;
        }
        // an interrupted watch reports a resync once it is connected again, which rereads all
        if !is_uninterrupted {
            self.freshness = Freshness::Rereading;
        }
        let is_time = match self.freshness {
            Freshness::Fresh => self.checked_at.elapsed() > FRESHNESS_CHECK_INTERVAL,
            Freshness::Suspect => true,
            Freshness::Rereading => false,
        };
        if is_time && self.freshness_check.is_none() {
            let broker = self.client.broker().clone();
            let check = async move {
                let newest = broker.schedules_state().await;
                match &newest {
                    Ok(_) => failpoint("schedules.checked"),
                    Err(_) => tokio::time::sleep(FRESHNESS_RETRY_PAUSE).await,
                }
                newest
            };
            self.freshness_check = Some(check.boxed());
        }
    }

    /// Whether ticks may be fired: the schedules in memory are fresh, and the clock was not set since it
    /// was compared with the server's.
    pub(super) fn may_fire(&self) -> bool {
        self.freshness == Freshness::Fresh && !self.clock_compared.was_set()
    }

    /// Starts to compare the clock with the server's, if it was set or it is time to.
    fn check_clock(&mut self) {
        let is_time = self.clock_compared.elapsed() > CLOCK_CHECK_INTERVAL;
        if self.clock_check.is_none() && (is_time || self.clock_compared.was_set()) {
            let broker = self.client.broker().clone();
            let check = async move {
                let skew = clock_check::measure(&broker).await;
                if skew.is_err() {
                    tokio::time::sleep(FRESHNESS_RETRY_PAUSE).await;
                }
                skew
            };
            self.clock_check = Some(check.boxed());
        }
    }

    /// Handles the result of a comparison. Returns how the term ends if the clock is off.
    async fn on_clock_checked(&mut self, skew: Result<ClockSkew, BrokerError>) -> Option<TermEnd> {
        self.clock_check = None;
        match skew {
            Ok(skew) if skew.is_excessive() => {
                self.log_clock_off(skew);
                self.finish().await;
                return Some(TermEnd::ClockOff);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("cannot compare the clock with the server's, retrying: {error}");
                return None;
            }
        }
        let was_set = self.clock_compared.was_set();
        self.clock_compared = WallClock::now();
        if was_set {
            // Timers may have been set by the time that the clock showed in between.
            let now = clock::now();
            let entry_ids: Vec<EntryId> = self.index.entry_ids().collect();
            for entry_id in entry_ids {
                self.advance(entry_id, now);
            }
        }
        None
    }

    fn log_clock_off(&self, skew: ClockSkew) {
        self.status.set(SchedulerState::ClockOff);
        tracing::error!("the clock is {skew}: not leading until it is right");
    }

    /// Handles the answer of a check: reads the changes that the watch has not delivered.
    async fn on_freshness_checked(
        &mut self,
        newest: Result<SchedulesState, BrokerError>,
        watch: &mut ScheduleWatch,
    ) -> Result<(), BrokerError> {
        self.freshness_check = None;
        match newest {
            Ok(newest) => {
                if newest.created_at != self.bucket_created_at {
                    self.read_new_bucket(watch).await?;
                } else if newest.last_revision > watch.position() {
                    self.catch_up(watch).await?;
                } else if newest.last_revision < watch.position()
                    // a change may have been stored and delivered since the answer
                    && self.client.broker().schedules_state().await?.last_revision
                        < watch.position()
                {
                    // Another server of a cluster was without power: this connection did not break.
                    self.resync(watch).await?;
                }
                self.checked_at = BootInstant::now();
                if self.freshness == Freshness::Suspect {
                    self.freshness = Freshness::Fresh;
                }
            }
            Err(error) => {
                tracing::warn!("cannot check that the schedules are fresh, retrying: {error}");
            }
        }
        Ok(())
    }

    /// Handles an event of the watch.
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

    /// Reads the schedules of a bucket that was removed and created again. The revisions in memory are
    /// those of the earlier one.
    async fn read_new_bucket(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        let before = self.index.len();
        self.index.forget_revisions();
        watch.set_position(0);
        self.resync(watch).await?;
        tracing::error!(
            before,
            now = self.index.len(),
            "the bucket of schedules was removed; its schedules are lost"
        );
        Ok(())
    }

    /// Reads every schedule, and removes those from memory that no longer exist.
    ///
    /// A schedule that is stored at an earlier revision than the one in memory is read like one that
    /// is not in memory: the server has lost the last writes of the bucket, and what this leader
    /// enqueued after them may be lost too. It enqueues that again, as a leader that starts would.
    async fn reload_all(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        let broker = self.client.broker();
        // before the schedules: if the bucket is created again in between, the next check shows it
        let state = broker.schedules_state().await?;
        self.bucket_created_at = state.created_at;
        if state.last_revision < watch.position() {
            tracing::warn!(
                newest = state.last_revision,
                seen = watch.position(),
                "the server has lost changes of schedules; rereading all schedules"
            );
            watch.set_position(state.last_revision);
        }
        let mut listing = broker.list_schedules().await?;
        let mut existing = HashSet::new();
        while let Some(stored) = listing.next().await? {
            watch.mark_seen_up_to(stored.revision);
            existing.insert(stored.schedule_id.clone());
            self.index.forget_if_newer_than(&stored);
            self.on_schedule(stored);
        }
        self.index.retain(&existing);
        self.checked_at = BootInstant::now();
        Ok(())
    }

    /// Reads the changes since the last one that the watch delivered.
    async fn catch_up(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        tracing::debug!(
            since = watch.position(),
            "reading changes that the watch has not delivered"
        );
        let broker = self.client.broker();
        let mut listing = broker.list_schedules_since(watch.position()).await?;
        while let Some(stored) = listing.next().await? {
            watch.mark_seen_up_to(stored.revision);
            self.on_schedule(stored);
        }
        Ok(())
    }

    /// After a lost connection: reads all schedules again, and sends what was under way once more.
    /// Ticks that were enqueued before are not enqueued twice, because of their ids.
    async fn resync(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        self.fires = FuturesUnordered::new();
        self.due.clear();
        self.firing = 0;
        self.urgent.clear();
        self.writes = FuturesUnordered::new();
        self.freshness_check = None;
        // while the schedules are read, none fires: those not read yet may have changed
        self.freshness = Freshness::Rereading;
        // A server that lost power may have the schedules on its disk and not know their bucket, until it
        // is created again.
        self.client.broker().ensure_schedules().await?;
        self.reload_all(watch).await?;
        self.freshness = Freshness::Fresh;
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

    /// Applies a change of a schedule.
    pub(super) fn on_schedule(&mut self, stored: StoredSchedule) {
        match self
            .index
            .apply_update(stored, &self.writer_id, clock::now())
        {
            Update::Changed(entry_id) => {
                self.remark_dirty(entry_id);
                self.advance(entry_id, clock::now());
            }
            Update::Inactive(entry_id) => self.remark_dirty(entry_id),
            Update::Invalid(schedule_id, error) => {
                tracing::error!(
                    schedule_id = schedule_id.as_str(),
                    "ignoring an invalid schedule: {error}"
                );
            }
            Update::Removed | Update::Unchanged => {}
        }
    }

    /// Waits for the next time at which something is due.
    fn next_wakeup(&mut self, has_more: bool) -> BoxFuture<'static, ()> {
        let is_full = self.firing >= FIRES_MAX;
        if has_more && !is_full {
            return tokio::task::yield_now().boxed();
        }
        let now = clock::now();
        // while no more ticks can be sent, or none may be, an answer wakes the loop
        let due = self.index.next_due();
        let due = due.filter(|_| !is_full && self.may_fire());
        let due = due.map(|at| {
            let wait_ms = u64::try_from(at.unix_ms() - now.unix_ms()).unwrap_or(0);
            Instant::now() + Duration::from_millis(wait_ms)
        });
        let stored = self.dirty.front().map(|(at, _)| *at);
        let stored = stored.filter(|_| self.has_room_to_store(has_more));
        // waiting for an answer must not look like a suspended process to `check_freshness`
        let waits = self.freshness_check.is_some() || self.clock_check.is_some() || is_full;
        let pulse = waits.then(|| Instant::now() + STALL_THRESHOLD / 2);
        match due.into_iter().chain(stored).chain(pulse).min() {
            Some(at) => tokio::time::sleep_until(at).boxed(),
            None => std::future::pending().boxed(),
        }
    }

    /// Ends the term in order: waits for the ticks that were sent, stores the progress, releases
    /// the lease.
    async fn finish(&mut self) {
        self.is_finishing = true;
        let finished = tokio::time::timeout(SHUTDOWN_MAX, async {
            while let Some(fired) = self.fires.next().await {
                self.on_all_fired(fired);
            }
            for (at, _) in &mut self.dirty {
                *at = Instant::now();
            }
            while self.lease.is_held() {
                self.store_due(false);
                match self.writes.next().await {
                    Some(written) => self.on_stored(written),
                    None if self.dirty.is_empty() && self.urgent.is_empty() => break,
                    None => {}
                }
            }
        })
        .await;
        if finished.is_err() {
            tracing::warn!("not all progress is stored; the next leader finds out itself");
        }
        self.lease.clone().release().await;
    }
}

/// Waits for the check under way; `None` if there is none.
async fn await_check<T>(check: &mut Option<BoxFuture<'static, T>>) -> Option<T> {
    match check {
        Some(check) => Some(check.await),
        None => None,
    }
}
