//! What a leader does: one loop that owns the schedules, and sends what is due.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::book::{Book, Entry, Number, Taken};
use super::clock::{self, ClockWatch, Uptime};
use super::fire::{Fired, Tick, fire};
use super::lock::Lease;
use super::sweep::sweep_now_and_then;
use super::{Options, Summary};
use naq_client::Client;
use naq_core::Step;
use naq_jetstream::{BrokerError, NewJob, ScheduleEvent, ScheduleWatch, StoredSchedule, step};
use naq_protocol::{JobId, Schedule, ScheduleStatus, Timestamp};

/// How many ticks are on their way at once.
const FIRES_MAX: usize = 4_096;

/// How many schedules are being stored at once.
const WRITES_MAX: usize = 1_024;

/// The same while ticks are due: they come first.
const WRITES_BESIDE_TICKS_MAX: usize = 64;

/// How much is dealt with before the loop looks at other things again.
const AT_ONCE: usize = 256;

/// A schedule is stored no more often than this, however often it is due.
const STORED_EVERY: Duration = Duration::from_secs(1);

/// The longest a tick that was refused waits to be tried again.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Where a tick is as late as this, and as long ago the last look at anything, this process stood
/// still. What it knows of schedules may be as old.
const STALLED: Duration = Duration::from_millis(100);

/// How often it is made sure that no news was lost.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How long to wait before that is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a leader that was asked to stop waits for what is on its way, and stores what it
/// knows. Another waits for the lock meanwhile, and finds out by itself what was not stored.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// How leading ended.
pub(super) enum End {
    /// It was asked to stop, and has given the lock back.
    Stopped,
    /// The lock is lost.
    NotLeader,
}

/// What came of storing a schedule.
enum Written {
    /// At this revision, with so many ticks left out by overlap.
    At {
        revision: u64,
        skipped: u64,
    },
    Failed(BrokerError),
    /// This is no longer the leader: nothing was sent.
    NotLeader,
    /// It had been changed; this is how it is now.
    Reread(StoredSchedule),
}

struct Leader<'a> {
    client: &'a Client,
    options: &'a Options,
    summary: &'a mut Summary,
    lease: Lease,
    /// Who writes from here: another for each term.
    me: String,
    book: Book,
    /// No more ticks are to be sent.
    is_finishing: bool,
    /// None is to be sent for now: what is known may be out of date.
    is_blind: bool,
    /// This process stood still, and has not looked since.
    is_stale: bool,
    /// When the loop last came round.
    passed_at: Uptime,
    /// When it was last made sure that no news was lost.
    looked_at: Uptime,
    /// That, under way: the revision of the last change.
    looking: Option<BoxFuture<'static, Result<u64, BrokerError>>>,
    /// Schedules to be stored, the first one first.
    dirty: VecDeque<(Instant, Number)>,
    // Unconstrained: with thousands under way in one task, its budget would be used up by a few of
    // them, and each of the others would be woken only to hear of that.
    fires: FuturesUnordered<BoxFuture<'static, (Number, Timestamp, Fired)>>,
    writes: FuturesUnordered<BoxFuture<'static, (Number, Written)>>,
}

/// Leads until asked to stop, or until the lock is lost.
///
/// # Errors
/// Where the server refuses what a leader needs, or does not answer.
pub(super) async fn lead(
    client: &Client,
    options: &Options,
    lease: Lease,
    stop: &mut watch::Receiver<bool>,
    summary: &mut Summary,
) -> Result<End, BrokerError> {
    let begun = Instant::now();
    let clock = ClockWatch::new().map_err(|error| {
        BrokerError::Unsuitable(format!("the clock cannot be watched: {error}"))
    })?;
    let mut watch = client.broker().watch_schedules().await?;
    let mut leader = Leader {
        client,
        options,
        summary,
        lease,
        me: JobId::generate().to_string(),
        book: Book::default(),
        is_finishing: false,
        is_blind: false,
        is_stale: false,
        passed_at: Uptime::now(),
        looked_at: Uptime::now(),
        looking: None,
        dirty: VecDeque::new(),
        fires: FuturesUnordered::new(),
        writes: FuturesUnordered::new(),
    };
    leader.read_all(&mut watch).await?;
    step("schedules.read");
    leader.summary.terms += 1;
    tracing::info!(
        schedules = leader.book.len(),
        took_ms = begun.elapsed().as_millis(),
        "leading"
    );
    let sweeping = sweep_now_and_then(
        client.clone(),
        leader.lease.clone(),
        options.sweep_interval,
        options.result_ttl,
    );
    let _sweeping = AbortOnDropHandle::new(tokio::spawn(sweeping));
    leader.run(&clock, &mut watch, stop).await
}

impl Leader<'_> {
    async fn run(
        &mut self,
        clock: &ClockWatch,
        watch: &mut ScheduleWatch,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<End, BrokerError> {
        let mut lease = self.lease.clone();
        loop {
            if !self.lease.is_held() {
                return Ok(End::NotLeader);
            }
            // before anything is sent, however much else there is to do
            for _ in 0..AT_ONCE {
                match watch.next().now_or_never() {
                    Some(event) => self.hear(event, watch).await?,
                    None => break,
                }
            }
            self.look_about(watch.is_whole());
            let has_more = self.fire_due();
            self.store_some(has_more);
            let wake = self.next_wake(has_more);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(self.finish().await),
                () = lease.lost() => return Ok(End::NotLeader),
                Some(fired) = self.fires.next(), if !self.fires.is_empty() => {
                    self.fired(fired);
                    for _ in 0..AT_ONCE {
                        match self.fires.next().now_or_never() {
                            Some(Some(fired)) => self.fired(fired),
                            _ => break,
                        }
                    }
                }
                Some(written) = self.writes.next(), if !self.writes.is_empty() => {
                    self.written(written);
                    for _ in 0..AT_ONCE {
                        match self.writes.next().now_or_never() {
                            Some(Some(written)) => self.written(written),
                            _ => break,
                        }
                    }
                }
                event = watch.next() => self.hear(event, watch).await?,
                // after the news, so that all that came before this answer was heard
                Some(last) = until_looked(&mut self.looking) => {
                    self.looking = None;
                    match last {
                        Ok(last) => {
                            if last > watch.position() {
                                self.catch_up(watch).await?;
                            }
                            self.looked_at = Uptime::now();
                            self.is_stale = false;
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
    fn look_about(&mut self, is_whole: bool) {
        let away = std::mem::replace(&mut self.passed_at, Uptime::now()).elapsed();
        let is_late = |due: Timestamp| {
            let late_ms = clock::now().unix_ms() - due.unix_ms();
            u128::try_from(late_ms).is_ok_and(|late_ms| late_ms > STALLED.as_millis())
        };
        // with nothing to do it may well have slept for long, but then nothing is late
        if away > STALLED && self.book.next_due().is_some_and(is_late) {
            self.is_stale = true;
            // one that is under way may have been answered before
            self.looking = None;
        }
        self.is_blind = !is_whole || self.is_stale;
        let is_time = self.is_stale || self.looked_at.elapsed() > LOOK_EVERY;
        if is_whole && self.looking.is_none() && is_time {
            let broker = self.client.broker().clone();
            let look = async move {
                let last = broker.last_schedule_revision().await;
                if last.is_err() {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                last
            };
            self.looking = Some(look.boxed());
        }
    }

    /// Takes news.
    async fn hear(
        &mut self,
        event: ScheduleEvent,
        watch: &mut ScheduleWatch,
    ) -> Result<(), BrokerError> {
        match event {
            ScheduleEvent::Changed(stored) => self.take(stored),
            ScheduleEvent::Reread => self.start_over(watch).await?,
            ScheduleEvent::Gap => self.catch_up(watch).await?,
        }
        Ok(())
    }

    /// Reads every schedule; those that are no longer there are forgotten.
    async fn read_all(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        let mut listing = self.client.broker().list_schedules().await?;
        let mut there = HashSet::new();
        while let Some(stored) = listing.next().await? {
            watch.has_seen(stored.revision);
            there.insert(stored.schedule_id.clone());
            self.take(stored);
        }
        self.book.retain(&there);
        self.looked_at = Uptime::now();
        Ok(())
    }

    /// Reads what was stored since the last news.
    async fn catch_up(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        tracing::debug!(since = watch.position(), "reads what it has not been told");
        let broker = self.client.broker();
        let mut listing = broker.list_schedules_since(watch.position()).await?;
        while let Some(stored) = listing.next().await? {
            watch.has_seen(stored.revision);
            self.take(stored);
        }
        Ok(())
    }

    /// The connection was lost and is back: what was on its way is sent once more, which its ids
    /// absorb, and what was missed is read.
    async fn start_over(&mut self, watch: &mut ScheduleWatch) -> Result<(), BrokerError> {
        self.fires = FuturesUnordered::new();
        self.writes = FuturesUnordered::new();
        self.looking = None;
        self.read_all(watch).await?;
        self.is_stale = false;
        let now = clock::now();
        let numbers: Vec<Number> = self.book.numbers().collect();
        for number in numbers {
            let Some(entry) = self.book.get(number) else {
                continue;
            };
            let was_firing = std::mem::take(&mut entry.is_firing);
            let was_writing = std::mem::take(&mut entry.is_writing);
            let was_failing = entry.attempts > 0;
            if was_writing {
                entry.is_dirty = false;
                self.mark(number);
            }
            if was_firing || was_failing {
                self.book.set_timer(number, now);
            }
        }
        Ok(())
    }

    fn take(&mut self, stored: StoredSchedule) {
        match self.book.take(stored, &self.me) {
            Taken::Changed(number) => {
                self.mark_anew(number);
                self.go_on(number, clock::now());
            }
            Taken::Resting(number) => self.mark_anew(number),
            Taken::Bad(schedule_id, error) => {
                tracing::error!(
                    schedule_id = schedule_id.as_str(),
                    "not a schedule, and left alone: {error}"
                );
            }
            Taken::Gone | Taken::Known => {}
        }
    }

    /// Sends what is due, as far as there is room. Says whether more is.
    fn fire_due(&mut self) -> bool {
        if self.is_blind {
            return false;
        }
        let now = clock::now();
        for _ in 0..AT_ONCE {
            if self.fires.len() >= FIRES_MAX {
                return true;
            }
            match self.book.pop_due(now) {
                Some(number) => self.go_on(number, now),
                None => return false,
            }
        }
        true
    }

    /// Does what a schedule is to do now, up to the next thing to wait for.
    fn go_on(&mut self, number: Number, now: Timestamp) {
        while !self.is_finishing {
            let Some(entry) = self.book.get(number) else {
                return;
            };
            if entry.is_firing || entry.schedule.status != ScheduleStatus::Active {
                return;
            }
            if self.is_blind {
                self.book.set_timer(number, now);
                return;
            }
            match entry.plan.step(&entry.position(), now) {
                Step::Wait { at, .. } => {
                    self.book.set_timer(number, at);
                    return;
                }
                Step::Judged {
                    done_until,
                    judged_until,
                    missed,
                } => {
                    entry.schedule.progress.done_until = done_until;
                    entry.schedule.progress.missed += missed;
                    entry.judged_until = Some(judged_until);
                    entry.has_settled();
                    if missed > 0 {
                        tracing::warn!(
                            schedule_id = entry.schedule.schedule_id.as_str(),
                            missed,
                            "ticks were late, and are left out"
                        );
                    }
                    self.mark(number);
                }
                Step::End => {
                    entry.schedule.status = ScheduleStatus::Ended;
                    tracing::info!(
                        schedule_id = entry.schedule.schedule_id.as_str(),
                        runs = entry.schedule.progress.runs,
                        "has ended"
                    );
                    self.mark(number);
                    return;
                }
                // this process stood still since the loop last came round: what it knows is looked
                // at first, before the next tick that is as late as this one
                Step::Fire { tick } if self.passed_at.elapsed() > STALLED => {
                    self.book.set_timer(number, tick);
                    return;
                }
                Step::Fire { tick } => {
                    entry.is_firing = true;
                    let (client, lease) = (self.client.clone(), self.lease.clone());
                    let result_ttl = self.options.result_ttl;
                    let due = due(entry, tick);
                    let fire =
                        async move { (number, tick, fire(client, lease, due, result_ttl).await) };
                    self.fires.push(unconstrained(fire).boxed());
                    return;
                }
            }
        }
    }

    /// Takes what came of a tick.
    fn fired(&mut self, (number, tick, fired): (Number, Timestamp, Fired)) {
        let now = clock::now();
        if matches!(fired, Fired::Enqueued) {
            self.summary.enqueued += 1;
        }
        let Some(entry) = self.book.get(number) else {
            return;
        };
        entry.is_firing = false;
        let progress = &mut entry.schedule.progress;
        // a change may have come in between that leaves this tick behind
        let is_behind = tick <= progress.done_until;
        match fired {
            Fired::Enqueued => {
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
                entry.has_settled();
            }
            Fired::Skipped if !is_behind => {
                progress.done_until = tick;
                progress.skipped += 1;
                entry.has_settled();
            }
            Fired::Failed(error) if !is_behind => {
                entry.attempts += 1;
                let wait = retry_after(entry.attempts);
                if entry.is_worth_trying(tick, clock::later(now, wait), wait, &error) {
                    self.book.set_timer(number, clock::later(now, wait));
                    return;
                }
                entry.has_settled();
                give_up(&mut entry.schedule, tick, &error, self.options.failures_max);
            }
            Fired::StoreFirst => {
                entry.waits_for_store = true;
                self.store_soon(number);
                return;
            }
            // the loop finds out by itself
            Fired::NotLeader => return,
            Fired::Skipped | Fired::Failed(_) => entry.has_settled(),
        }
        self.mark(number);
        self.go_on(number, now);
    }

    /// Has a schedule stored soon.
    fn mark(&mut self, number: Number) {
        let Some(entry) = self.book.get(number) else {
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
        match entry.written_at.map(|at| at + STORED_EVERY) {
            Some(at) if at > now && !self.is_finishing => self.dirty.push_back((at, number)),
            _ => self.dirty.push_front((now, number)),
        }
    }

    /// The same where news of it came that lacked what is known here.
    fn mark_anew(&mut self, number: Number) {
        if let Some(entry) = self.book.get(number)
            && std::mem::take(&mut entry.is_dirty)
        {
            self.mark(number);
        }
    }

    /// Has a schedule stored as soon as there is room, since something waits for that.
    fn store_soon(&mut self, number: Number) {
        if let Some(entry) = self.book.get(number) {
            entry.is_dirty = true;
            if !entry.is_writing {
                self.dirty.push_front((Instant::now(), number));
            }
        }
    }

    /// Stores what is to be stored by now, as far as there is room.
    fn store_some(&mut self, has_more: bool) {
        let now = Instant::now();
        while self.writes.len() < writes_max(has_more) {
            match self.dirty.front() {
                Some((at, number)) if *at <= now => {
                    let number = *number;
                    self.dirty.pop_front();
                    self.store(number);
                }
                _ => return,
            }
        }
    }

    fn store(&mut self, number: Number) {
        let Some(entry) = self.book.get(number) else {
            return;
        };
        if !entry.is_dirty || entry.is_writing {
            return;
        }
        entry.is_dirty = false;
        entry.is_writing = true;
        entry.written_at = Some(Instant::now());
        let (broker, me) = (self.client.broker().clone(), self.me.clone());
        let (lease, expected) = (self.lease.clone(), entry.revision);
        let schedule = entry.schedule.clone();
        let skipped = schedule.progress.skipped;
        let store = async move {
            step("progress.due");
            if !lease.is_held() {
                return (number, Written::NotLeader);
            }
            let written = match broker.send_schedule(&schedule, expected, Some(&me)).await {
                Ok(sent) => broker.confirm_schedule(sent).await,
                Err(error) => Err(error),
            };
            let written = match written {
                Ok(revision) => {
                    step("progress.stored");
                    Written::At { revision, skipped }
                }
                Err(BrokerError::Conflict) => {
                    match broker.read_stored_schedule(&schedule.schedule_id).await {
                        Ok(stored) => Written::Reread(stored),
                        Err(error) => Written::Failed(error),
                    }
                }
                Err(error) => Written::Failed(error),
            };
            (number, written)
        };
        self.writes.push(unconstrained(store).boxed());
    }

    fn written(&mut self, (number, written): (Number, Written)) {
        let Some(entry) = self.book.get(number) else {
            return;
        };
        entry.is_writing = false;
        let is_dirty = std::mem::take(&mut entry.is_dirty);
        match written {
            Written::At { revision, skipped } => {
                entry.revision = entry.revision.max(revision);
                entry.skipped_stored = entry.skipped_stored.max(skipped);
                let waits = entry.waits_for_store;
                let goes_on = waits && entry.skipped_is_stored();
                entry.waits_for_store = waits && !goes_on;
                if waits && !goes_on {
                    self.store_soon(number);
                } else if is_dirty {
                    self.mark(number);
                }
                if goes_on {
                    self.go_on(number, clock::now());
                }
            }
            // the loop finds out by itself
            Written::NotLeader => {}
            Written::Reread(stored) => {
                if stored.revision == entry.revision {
                    // news of it came while it was refused
                    self.mark(number);
                } else {
                    self.take(stored);
                    self.mark(number);
                }
            }
            Written::Failed(error) => {
                let schedule_id = entry.schedule.schedule_id.as_str();
                tracing::warn!(schedule_id, "how far it is was not stored: {error}");
                self.mark(number);
            }
        }
    }

    /// Waits for the next thing to do by the clock.
    fn next_wake(&mut self, has_more: bool) -> BoxFuture<'static, ()> {
        let is_full = self.fires.len() >= FIRES_MAX;
        if has_more && !is_full {
            return tokio::task::yield_now().boxed();
        }
        let now = clock::now();
        // with no room for more, an answer wakes the loop, and so it does with nothing to go by
        let due = self.book.next_due();
        let due = due.filter(|_| !is_full && !self.is_blind);
        let due = due.map(|at| {
            let wait_ms = u64::try_from(at.unix_ms() - now.unix_ms()).unwrap_or(0);
            Instant::now() + Duration::from_millis(wait_ms)
        });
        let stored = self.dirty.front().map(|(at, _)| *at);
        let stored = stored.filter(|_| self.writes.len() < writes_max(has_more));
        // what is waited for here is no standing still
        let waits = self.looking.is_some() || is_full;
        let pulse = waits.then(|| Instant::now() + STALLED / 2);
        match due.into_iter().chain(stored).chain(pulse).min() {
            Some(at) => tokio::time::sleep_until(at).boxed(),
            None => std::future::pending().boxed(),
        }
    }

    /// Ends in order: what is on its way is waited for, what is known is stored, and the lock is
    /// given back.
    async fn finish(&mut self) -> End {
        self.is_finishing = true;
        let finished = tokio::time::timeout(FINISH_WITHIN, async {
            while let Some((number, tick, fired)) = self.fires.next().await {
                self.fired((number, tick, fired));
            }
            for (at, _) in &mut self.dirty {
                *at = Instant::now();
            }
            while self.lease.is_held() {
                self.store_some(false);
                match self.writes.next().await {
                    Some(written) => self.written(written),
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
        End::Stopped
    }
}

/// How many schedules may be being stored.
fn writes_max(has_more_ticks: bool) -> usize {
    if has_more_ticks {
        WRITES_BESIDE_TICKS_MAX
    } else {
        WRITES_MAX
    }
}

fn due(entry: &Entry, tick: Timestamp) -> Tick {
    let schedule = &entry.schedule;
    Tick {
        job: NewJob::chosen(
            JobId::for_tick(&schedule.schedule_id, tick),
            schedule.queue.clone(),
            entry.envelope.at(tick).into(),
        ),
        overlap: schedule.overlap,
        last_job_id: schedule.progress.last_job_id.clone(),
        may_follow: entry.skipped_is_stored(),
    }
}

/// Waits for a look that is under way.
async fn until_looked(
    looking: &mut Option<BoxFuture<'static, Result<u64, BrokerError>>>,
) -> Option<Result<u64, BrokerError>> {
    match looking {
        Some(looking) => Some(looking.await),
        None => None,
    }
}

/// A tick that is too late to be tried again.
fn give_up(schedule: &mut Schedule, tick: Timestamp, error: &BrokerError, failures_max: u32) {
    let progress = &mut schedule.progress;
    progress.done_until = tick;
    progress.missed += 1;
    progress.failures += 1;
    progress.last_error = Some(error.to_string());
    let schedule_id = schedule.schedule_id.as_str();
    tracing::error!(schedule_id, %tick, "could not be enqueued in time: {error}");
    if failures_max > 0 && progress.failures >= failures_max {
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

/// How long a tick that was refused so often waits to be tried again.
fn retry_after(attempts: u32) -> Duration {
    let wait = Duration::from_millis(100) * 2_u32.saturating_pow(attempts.min(10));
    wait.min(RETRY_MAX)
}
