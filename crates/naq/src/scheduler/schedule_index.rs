//! The schedules in a leader's memory, and when each is due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use naq_core::{
    CLOCK_SKEW_MAX, CronCache, ScheduleError, SchedulePosition, TickPlan, continue_from,
    discard_future_progress, merge_progress, prepare_schedule, ticks_counted,
    was_activated_by_status,
};
use naq_jetstream::{BrokerError, StoredSchedule};
use naq_protocol::{Schedule, ScheduleId, ScheduleStatus, TickEnvelope, Timestamp};

/// Number of a schedule in the index. Numbers are never reused, so a late result for a schedule that
/// was removed finds nothing.
pub(super) type EntryId = u64;

/// A schedule in memory, with its expressions parsed.
pub(super) struct ScheduleEntry {
    pub(super) schedule: Schedule,
    /// Revision of the schedule as it was last read or written.
    pub(super) revision: u64,
    pub(super) plan: TickPlan,
    pub(super) envelope: TickEnvelope,
    pub(super) misfires_resolved_until: Option<Timestamp>,
    /// A tick of it is being enqueued.
    pub(super) is_firing: bool,
    /// Another writer's counts, merged since then, include that tick.
    pub(super) firing_is_counted: bool,
    /// Failed requests in a row to enqueue the present tick.
    pub(super) attempts: u32,
    /// When the first of them failed. `None` if none has.
    pub(super) failing_since: Option<Instant>,
    /// Progress in memory is not stored yet.
    pub(super) is_dirty: bool,
    /// A write of it is under way.
    pub(super) is_writing: bool,
    /// Number of ticks left out by the overlap policy, as last stored.
    pub(super) skipped_stored: u64,
    /// The present tick waits until the ticks left out before it are stored.
    pub(super) awaits_store: bool,
    /// When this leader last started a write of it. `None` if it has not.
    pub(super) written_at: Option<Instant>,
    /// The timer that is valid; earlier ones in the heap are ignored.
    timer: u64,
}

impl ScheduleEntry {
    /// Whether the stored schedule counts every tick that the overlap policy left out. If not, a
    /// leader that took over now would decide about those again, and could enqueue one after a
    /// later tick.
    pub(super) fn skips_are_stored(&self) -> bool {
        self.schedule.progress.skipped <= self.skipped_stored
    }

    /// Resets the count of failures once the present tick is settled, whichever way.
    pub(super) fn reset_retries(&mut self) {
        self.attempts = 0;
        self.failing_since = None;
    }

    /// Whether a tick that was not enqueued is to be retried after `wait`, at `at`.
    ///
    /// A tick that the server refuses is retried within its grace period, which begins with the
    /// first request if the tick was late already. If the server does not answer, or its queue has
    /// no leader, the tick is always retried: neither schedule nor job is at fault, and the job may
    /// even exist. After its grace period such a tick is late, and the misfire policy decides.
    pub(super) fn should_retry(
        &mut self,
        tick: Timestamp,
        at: Timestamp,
        wait: Duration,
        error: &BrokerError,
    ) -> bool {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if matches!(
            error,
            BrokerError::Timeout(_) | BrokerError::QueueNotFound(_)
        ) {
            true
        } else if self
            .misfires_resolved_until
            .is_some_and(|resolved_until| tick <= resolved_until)
        {
            since.elapsed() + wait < self.plan.grace()
        } else {
            self.plan.is_on_time(tick, at)
        }
    }

    pub(super) fn position(&self) -> SchedulePosition {
        SchedulePosition {
            misfires_resolved_until: self.misfires_resolved_until,
            ..SchedulePosition::from_schedule(&self.schedule)
        }
    }
}

/// The schedules and their timers.
#[derive(Default)]
pub(super) struct ScheduleIndex {
    entries: HashMap<EntryId, ScheduleEntry>,
    entry_ids: HashMap<ScheduleId, EntryId>,
    /// Due time in Unix milliseconds, timer, schedule; earliest first.
    timers: BinaryHeap<Reverse<(i64, u64, EntryId)>>,
    crons: CronCache,
    last_entry_id: EntryId,
    last_timer: u64,
}

/// The effect of a change on the index.
pub(super) enum Update {
    /// An active schedule is new or has changed.
    Changed(EntryId),
    /// The schedule is paused or has ended.
    Inactive(EntryId),
    /// The schedule was deleted.
    Removed,
    /// The change is not newer than what is in memory, or this leader's own.
    Unchanged,
    /// The stored value is no valid schedule, for this reason.
    Invalid(ScheduleId, String),
}

impl ScheduleIndex {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&mut self, entry_id: EntryId) -> Option<&mut ScheduleEntry> {
        self.entries.get_mut(&entry_id)
    }

    pub(super) fn entry_ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.entries.keys().copied()
    }

    /// The status of each schedule.
    pub(super) fn statuses(&self) -> impl Iterator<Item = ScheduleStatus> + '_ {
        self.entries.values().map(|entry| entry.schedule.status)
    }

    /// Plans the schedules in these time zones again, whose rules have changed. Returns them.
    pub(super) fn replan(&mut self, zones: &[&str]) -> Vec<EntryId> {
        let mut replanned = Vec::new();
        for (entry_id, entry) in &mut self.entries {
            let zone = entry.schedule.tz.as_deref();
            if zone.is_some_and(|zone| zones.contains(&zone))
                && let Ok(plan) = TickPlan::new(&entry.schedule, &mut self.crons)
            {
                entry.plan = plan;
                replanned.push(*entry_id);
            }
        }
        replanned
    }

    /// Applies a change, which is received at `now`. `writer_id` is this leader's own id, whose
    /// changes are in memory already.
    pub(super) fn apply_update(
        &mut self,
        stored: StoredSchedule,
        writer_id: &str,
        now: Timestamp,
    ) -> Update {
        let known = self.entry_ids.get(&stored.schedule_id).copied();
        let entry = known.and_then(|entry_id| self.entries.get_mut(&entry_id));
        // a schedule that vanished with its bucket has no revision of its deletion
        let is_nowhere = stored.payload.is_none() && stored.revision == 0;
        if let Some(entry) = entry.filter(|_| !is_nowhere) {
            if stored.revision <= entry.revision {
                return Update::Unchanged;
            }
            if stored.writer.as_deref() == Some(writer_id) {
                entry.revision = stored.revision;
                return Update::Unchanged;
            }
        }
        if stored.payload.is_none() {
            self.remove(&stored.schedule_id);
            return Update::Removed;
        }
        match self.parse_entry(&stored) {
            Ok(entry) => self.upsert(known, entry, now),
            Err(error) => {
                self.remove(&stored.schedule_id);
                Update::Invalid(stored.schedule_id, error)
            }
        }
    }

    fn upsert(
        &mut self,
        known: Option<EntryId>,
        mut entry: ScheduleEntry,
        now: Timestamp,
    ) -> Update {
        let before = known.and_then(|entry_id| Some((entry_id, self.entries.get(&entry_id)?)));
        let created_at = entry.schedule.created_at;
        // a schedule that was deleted and created again is another one
        let before = before.filter(|(_, before)| before.schedule.created_at == created_at);
        let entry_id = match before {
            Some((entry_id, _)) => entry_id,
            None => {
                let schedule_id = entry.schedule.schedule_id.clone();
                self.remove(&schedule_id);
                self.last_entry_id += 1;
                self.entry_ids.insert(schedule_id, self.last_entry_id);
                self.last_entry_id
            }
        };
        let was_ahead = discard_future_progress(&mut entry.schedule, now, CLOCK_SKEW_MAX);
        if was_ahead {
            tracing::warn!(
                schedule_id = entry.schedule.schedule_id.as_str(),
                "the progress was in the future, stored by a scheduler whose clock was ahead; continuing from now"
            );
        }
        let before = self.entries.get(&entry_id);
        let was_activated =
            was_activated_by_status(before.map(|before| &before.schedule), &entry.schedule);
        if let Some(before) = before {
            // ticks that were enqueued after the writer of this change had read the schedule
            let ours = &before.schedule.progress;
            // the tick under way is the first that these counts lack
            let includes_firing = ticks_counted(&entry.schedule.progress) > ticks_counted(ours);
            entry.firing_is_counted =
                before.is_firing && (before.firing_is_counted || includes_firing);
            entry.is_dirty = merge_progress(&mut entry.schedule.progress, ours);
            if was_activated {
                continue_from(&mut entry.schedule, now);
            }
            // a next run set by hand is due although later ticks were enqueued meanwhile
            let set_by_hand = entry.schedule.next_run;
            if let Some(next_run) = set_by_hand.filter(|_| set_by_hand != before.schedule.next_run)
                && let Some(just_before) = Timestamp::from_unix_ms(next_run.unix_ms() - 1)
            {
                let done_until = &mut entry.schedule.progress.done_until;
                *done_until = just_before.min(*done_until);
            }
            entry.is_firing = before.is_firing;
            entry.is_writing = before.is_writing;
            entry.written_at = before.written_at;
        } else if was_activated {
            continue_from(&mut entry.schedule, now);
        }
        entry.is_dirty |= was_ahead | was_activated | mark_inactive(&mut entry.schedule);
        let is_active = entry.schedule.status == ScheduleStatus::Active;
        self.entries.insert(entry_id, entry);
        if is_active {
            Update::Changed(entry_id)
        } else {
            Update::Inactive(entry_id)
        }
    }

    fn parse_entry(&mut self, stored: &StoredSchedule) -> Result<ScheduleEntry, String> {
        let schedule = stored.parse().map_err(|error| error.to_string())?;
        let skipped_stored = schedule.progress.skipped;
        let (plan, envelope) = prepare_schedule(&schedule, &mut self.crons)
            .map_err(|error: ScheduleError| error.to_string())?;
        Ok(ScheduleEntry {
            schedule,
            revision: stored.revision,
            plan,
            envelope,
            misfires_resolved_until: None,
            is_firing: false,
            firing_is_counted: false,
            attempts: 0,
            failing_since: None,
            is_dirty: false,
            is_writing: false,
            skipped_stored,
            awaits_store: false,
            written_at: None,
            timer: 0,
        })
    }

    fn remove(&mut self, schedule: &ScheduleId) {
        if let Some(entry_id) = self.entry_ids.remove(schedule) {
            self.entries.remove(&entry_id);
            // evicting reads all expressions, so it waits until enough of them are unused
            if self.crons.len() > 2 * self.entries.len() + 64 {
                self.crons.evict_unused();
            }
        }
    }

    /// Forgets the revisions of all schedules, whose bucket was created again.
    pub(super) fn forget_revisions(&mut self) {
        for entry in self.entries.values_mut() {
            entry.revision = 0;
        }
    }

    /// Removes a schedule whose revision in memory is later than the stored one, so that the stored
    /// one replaces it.
    pub(super) fn forget_if_newer_than(&mut self, stored: &StoredSchedule) {
        let entry_id = self.entry_ids.get(&stored.schedule_id);
        let entry = entry_id.and_then(|entry_id| self.entries.get(entry_id));
        if entry.is_some_and(|entry| entry.revision > stored.revision) {
            self.remove(&stored.schedule_id);
        }
    }

    /// Removes the schedules that are not in `existing`.
    pub(super) fn retain(&mut self, existing: &std::collections::HashSet<ScheduleId>) {
        let removed: Vec<ScheduleId> = self
            .entry_ids
            .keys()
            .filter(|id| !existing.contains(*id))
            .cloned()
            .collect();
        for id in removed {
            self.remove(&id);
        }
    }

    /// Sets the time at which a schedule is due, in place of the one set before.
    pub(super) fn set_timer(&mut self, entry_id: EntryId, at: Timestamp) {
        if let Some(entry) = self.entries.get_mut(&entry_id) {
            self.last_timer += 1;
            entry.timer = self.last_timer;
            self.timers
                .push(Reverse((at.unix_ms(), self.last_timer, entry_id)));
        }
    }

    /// When the next schedule is due. `None` if none is.
    pub(super) fn next_due(&mut self) -> Option<Timestamp> {
        while let Some(Reverse((at_ms, timer, entry_id))) = self.timers.peek() {
            if self.is_current_timer(*timer, *entry_id) {
                return Timestamp::from_unix_ms(*at_ms);
            }
            self.timers.pop();
        }
        None
    }

    /// Takes the next schedule that is due by `now`.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<EntryId> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, _, entry_id)) = self.timers.pop()?;
        Some(entry_id)
    }

    fn is_current_timer(&self, timer: u64, entry_id: EntryId) -> bool {
        self.entries
            .get(&entry_id)
            .is_some_and(|entry| entry.timer == timer)
    }
}

/// Marks a paused schedule, so that a later leader knows that it was paused even if a program
/// has changed only its status meanwhile. Returns whether the mark has to be stored.
fn mark_inactive(schedule: &mut Schedule) -> bool {
    let was_marked = schedule.progress.inactive;
    schedule.progress.inactive = schedule.status != ScheduleStatus::Active;
    // One that has ended is stored for a week, which a write would extend.
    schedule.status == ScheduleStatus::Paused && !was_marked
}
