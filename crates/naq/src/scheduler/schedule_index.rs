//! The schedules a leader knows, and when each is due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use naq_core::{CronCache, ScheduleError, SchedulePosition, TickPlan};
use naq_jetstream::{BrokerError, StoredSchedule};
use naq_protocol::{
    Schedule, ScheduleId, ScheduleProgress, ScheduleStatus, TickEnvelope, Timestamp,
};

/// A schedule's number in the book. It is not given again, so what comes late for one that was
/// removed finds nothing.
pub(super) type EntryId = u64;

/// A schedule, made ready.
pub(super) struct ScheduleEntry {
    pub(super) schedule: Schedule,
    /// The revision of what was last read or written.
    pub(super) revision: u64,
    pub(super) plan: TickPlan,
    pub(super) envelope: TickEnvelope,
    pub(super) misfires_resolved_until: Option<Timestamp>,
    /// A tick of it is on its way to the server.
    pub(super) is_firing: bool,
    /// How often that was tried, and since when.
    pub(super) attempts: u32,
    pub(super) failing_since: Option<Instant>,
    /// What is known here is not stored yet.
    pub(super) is_dirty: bool,
    /// It is being stored.
    pub(super) is_writing: bool,
    /// Ticks left out by overlap, as they were last stored.
    pub(super) skipped_stored: u64,
    /// It goes on once those are stored that were left out.
    pub(super) awaits_store: bool,
    /// When it was last stored from here.
    pub(super) written_at: Option<Instant>,
    /// The timer that counts; earlier ones no longer do.
    timer: u64,
}

impl ScheduleEntry {
    /// Whether whoever would take over now knows of every tick that was left out by overlap. One
    /// that is enqueued before that could be followed by an earlier one, decided upon anew.
    pub(super) fn skips_are_stored(&self) -> bool {
        self.schedule.progress.skipped <= self.skipped_stored
    }

    /// The tick that was tried has come to its end, whichever.
    pub(super) fn reset_retries(&mut self) {
        self.attempts = 0;
        self.failing_since = None;
    }

    /// Whether a tick that was not enqueued is to be tried again after a while, at `at`. One that
    /// the server refuses is tried within its grace, which for one that was late already begins
    /// with the first try. Where the server does not answer, or its queue has no leader, nobody is
    /// at fault, and the job may even be there: once its grace is over such a tick is late, and
    /// goes by the policy.
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
            .is_some_and(|judged| tick <= judged)
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
    /// When (in Unix milliseconds), which timer, of which schedule.
    timers: BinaryHeap<Reverse<(i64, u64, EntryId)>>,
    crons: CronCache,
    last_entry_id: EntryId,
    last_timer: u64,
}

/// What news of a schedule came to.
pub(super) enum Update {
    /// It is one to be looked at: new, or changed.
    Changed(EntryId),
    /// It has no more ticks for now.
    Inactive(EntryId),
    /// It is not there any more.
    Removed,
    /// It was known.
    Unchanged,
    /// It cannot be one.
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

    /// Takes news of a schedule. `me` is who writes from here.
    pub(super) fn apply_update(&mut self, stored: StoredSchedule, writer_id: &str) -> Update {
        let known = self.entry_ids.get(&stored.schedule_id).copied();
        let entry = known.and_then(|entry_id| self.entries.get_mut(&entry_id));
        // where the bucket itself was removed, there is no marker of it
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
        let Some(payload) = &stored.payload else {
            self.remove(&stored.schedule_id);
            return Update::Removed;
        };
        match self.parse_entry(payload, stored.revision) {
            Ok(entry) if entry.schedule.schedule_id == stored.schedule_id => {
                self.upsert(known, entry)
            }
            Ok(entry) => {
                self.remove(&stored.schedule_id);
                let name = &entry.schedule.schedule_id;
                Update::Invalid(stored.schedule_id, format!("it calls itself `{name}`"))
            }
            Err(error) => {
                self.remove(&stored.schedule_id);
                Update::Invalid(stored.schedule_id, error)
            }
        }
    }

    fn upsert(&mut self, known: Option<EntryId>, mut entry: ScheduleEntry) -> Update {
        let before = known.and_then(|entry_id| Some((entry_id, self.entries.get(&entry_id)?)));
        let created_at = entry.schedule.created_at;
        // one that was made anew is another
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
        if let Some(before) = self.entries.get(&entry_id) {
            // what was enqueued since whoever changed it had read it
            let ours = &before.schedule.progress;
            entry.is_dirty = merge_progress(&mut entry.schedule.progress, ours);
            // a run that was set by hand is due although others were enqueued while it was set
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
        }
        let goes_on = entry.schedule.status == ScheduleStatus::Active;
        self.entries.insert(entry_id, entry);
        if goes_on {
            Update::Changed(entry_id)
        } else {
            Update::Inactive(entry_id)
        }
    }

    fn parse_entry(&mut self, payload: &[u8], revision: u64) -> Result<ScheduleEntry, String> {
        let schedule = Schedule::parse(payload).map_err(|error| error.to_string())?;
        let ready = |error: ScheduleError| error.to_string();
        let skipped_stored = schedule.progress.skipped;
        let plan = TickPlan::new(&schedule, &mut self.crons).map_err(ready)?;
        let envelope = TickEnvelope::new(&schedule).map_err(|error| error.to_string())?;
        Ok(ScheduleEntry {
            schedule,
            revision,
            plan,
            envelope,
            misfires_resolved_until: None,
            is_firing: false,
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
            // looking through them all is for when there is something to find
            if self.crons.len() > 2 * self.entries.len() + 64 {
                self.crons.evict_unused();
            }
        }
    }

    /// Forgets the schedules that are not among these.
    pub(super) fn retain(&mut self, there: &std::collections::HashSet<ScheduleId>) {
        let gone: Vec<ScheduleId> = self
            .entry_ids
            .keys()
            .filter(|id| !there.contains(*id))
            .cloned()
            .collect();
        for id in gone {
            self.remove(&id);
        }
    }

    /// Has a schedule looked at again at a time, and not at the one that was set before.
    pub(super) fn set_timer(&mut self, entry_id: EntryId, at: Timestamp) {
        if let Some(entry) = self.entries.get_mut(&entry_id) {
            self.last_timer += 1;
            entry.timer = self.last_timer;
            self.timers
                .push(Reverse((at.unix_ms(), self.last_timer, entry_id)));
        }
    }

    /// When the next one is due.
    pub(super) fn next_due(&mut self) -> Option<Timestamp> {
        while let Some(Reverse((at_ms, timer, entry_id))) = self.timers.peek() {
            if self.is_current_timer(*timer, *entry_id) {
                return Timestamp::from_unix_ms(*at_ms);
            }
            self.timers.pop();
        }
        None
    }

    /// The next one that is due.
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

/// Brings what another has read of a schedule's progress, and perhaps changed, up to what was done
/// here meanwhile. Says whether anything was lacking.
fn merge_progress(theirs: &mut ScheduleProgress, ours: &ScheduleProgress) -> bool {
    let before = theirs.clone();
    if ours.done_until > theirs.done_until {
        *theirs = ours.clone();
    } else {
        theirs.runs = theirs.runs.max(ours.runs);
        theirs.missed = theirs.missed.max(ours.missed);
        theirs.skipped = theirs.skipped.max(ours.skipped);
        if ours.last_run > theirs.last_run {
            theirs.last_run = ours.last_run;
            theirs.last_job_id.clone_from(&ours.last_job_id);
        }
    }
    *theirs != before
}
