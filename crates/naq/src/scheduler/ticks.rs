//! Firing: what a leader does with a schedule that is due, and with the result of its ticks.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::FutureExt;
use tokio::task::unconstrained;

use super::fire::{DueTick, FireResult, Fired, Tick, fire, fire_together};
use super::leader::{BATCH_MAX, FIRES_MAX, Leader, STALL_THRESHOLD};
use super::schedule_index::{EntryId, ScheduleEntry};
use crate::clock;
use naq_core::{ExponentialBackoff, ScheduleAction, count_enqueued};
use naq_jetstream::{BrokerError, NewJob};
use naq_protocol::{JobId, Overlap, QueueName, Schedule, ScheduleStatus, Timestamp};

/// Pauses before a tick that the server refused is enqueued again.
const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(200), Duration::from_secs(5));

impl Leader<'_> {
    /// Starts to enqueue the ticks that are due, up to the number of concurrent ticks. Returns
    /// whether more are due.
    pub(super) fn fire_due(&mut self) -> bool {
        if !self.may_fire() {
            return false;
        }
        let now = clock::now();
        for _ in 0..BATCH_MAX {
            if self.firing >= FIRES_MAX {
                return true;
            }
            match self.index.pop_due(now) {
                Some(entry_id) => self.advance(entry_id, now),
                None => return false,
            }
        }
        true
    }

    /// Does what a schedule has to do now, until it has to wait: for a time, or for the result of a
    /// tick.
    pub(super) fn advance(&mut self, entry_id: EntryId, now: Timestamp) {
        while !self.is_finishing {
            let may_fire = self.may_fire();
            let Some(entry) = self.index.get(entry_id) else {
                return;
            };
            if entry.is_firing || entry.schedule.status != ScheduleStatus::Active {
                return;
            }
            if !may_fire {
                // Not by the wall clock, which may be set back before this timer is due.
                self.index
                    .set_timer(entry_id, self.clock_compared.expected_now());
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
                    missed_is_minimum,
                } => {
                    entry.schedule.progress.done_until = done_until;
                    entry.schedule.progress.missed += missed;
                    entry.schedule.progress.missed_is_minimum |= missed_is_minimum;
                    entry.misfires_resolved_until = Some(misfires_resolved_until);
                    entry.reset_retries();
                    if missed > 0 {
                        self.status.metrics.missed.inc_by(missed);
                        tracing::warn!(
                            schedule_id = entry.schedule.schedule_id.as_str(),
                            missed,
                            missed_is_minimum,
                            "ticks were missed; the misfire policy leaves them out"
                        );
                    }
                    self.mark_dirty(entry_id);
                }
                ScheduleAction::End => {
                    entry.schedule.status = ScheduleStatus::Ended;
                    entry.schedule.progress.inactive = true;
                    tracing::info!(
                        schedule_id = entry.schedule.schedule_id.as_str(),
                        runs = entry.schedule.progress.runs,
                        "schedule ended"
                    );
                    self.mark_dirty(entry_id);
                    return;
                }
                // The process was suspended since the loop's last pass, so the schedule may have
                // changed: the next pass checks that before it fires a tick as late as this one.
                ScheduleAction::Fire { tick } if self.last_pass_at.elapsed() > STALL_THRESHOLD => {
                    self.index.set_timer(entry_id, tick);
                    return;
                }
                ScheduleAction::Fire { tick } => {
                    entry.is_firing = true;
                    entry.firing_is_counted = false;
                    let due = DueTick {
                        entry_id,
                        time: tick,
                        tick: due_tick(entry, tick),
                    };
                    self.due.push(due);
                    self.firing += 1;
                    return;
                }
            }
        }
    }

    /// Starts to enqueue the ticks that this pass of the loop has found due: together those of one queue, so
    /// that no tick waits for the answer of another queue's stream.
    pub(super) fn send_due(&mut self) {
        if self.due.is_empty() {
            return;
        }
        let mut together: HashMap<QueueName, Vec<DueTick>> = HashMap::new();
        for due in std::mem::take(&mut self.due) {
            if due.tick.can_be_sent_at_once() {
                match together.get_mut(&due.tick.job.queue) {
                    Some(ticks) => ticks.push(due),
                    None => drop(together.insert(due.tick.job.queue.clone(), vec![due])),
                }
                continue;
            }
            let (client, lease) = (self.client.clone(), self.lease.clone());
            let fire = async move {
                let fired = fire(client, lease, due.tick).await;
                vec![(due.entry_id, due.time, fired)]
            };
            self.fires.push(unconstrained(fire).boxed());
        }
        for ticks in together.into_values() {
            let fire = fire_together(self.client.clone(), self.lease.clone(), ticks);
            self.fires.push(unconstrained(fire).boxed());
        }
    }

    /// Handles the results of ticks. Returns their number.
    pub(super) fn on_all_fired(&mut self, fired: Vec<Fired>) -> usize {
        let count = fired.len();
        for one in fired {
            self.on_fired(one);
        }
        count
    }

    /// Handles the result of a tick.
    fn on_fired(&mut self, (entry_id, tick, fired): Fired) {
        self.firing -= 1;
        let now = clock::now();
        if matches!(fired, FireResult::Enqueued(_)) {
            self.summary.enqueued += 1;
            self.status.count_enqueued();
        }
        let Some(entry) = self.index.get(entry_id) else {
            return;
        };
        if matches!(fired, FireResult::Enqueued(_)) {
            let late = (now.0 - tick.0).to_std().unwrap_or_default();
            self.status.metrics.on_enqueued(&entry.schedule.queue, late);
        }
        entry.is_firing = false;
        let is_counted = entry.firing_is_counted;
        let progress = &mut entry.schedule.progress;
        // the schedule may have been changed meanwhile so that this tick is behind it
        let is_behind = tick <= progress.done_until;
        match fired {
            FireResult::Enqueued(job_id) => {
                count_enqueued(progress, tick, job_id, is_counted);
                entry.reset_retries();
            }
            FireResult::Skipped if !is_behind => {
                progress.done_until = tick;
                progress.skipped += 1;
                self.status.metrics.skipped.inc();
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
                self.status.metrics.failed.inc();
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
            // the loop notices that itself
            FireResult::NotLeader => return,
            FireResult::Skipped | FireResult::Failed(_) => entry.reset_retries(),
        }
        self.mark_dirty(entry_id);
        self.advance(entry_id, now);
    }
}

fn due_tick(entry: &ScheduleEntry, tick: Timestamp) -> Tick {
    let schedule = &entry.schedule;
    let looks_back = matches!(schedule.overlap, Overlap::Skip | Overlap::Replace);
    let last_job_id = schedule.progress.last_job_id.as_ref();
    Tick {
        job: NewJob::with_id(
            JobId::for_tick(&schedule.schedule_id, tick),
            schedule.queue.clone(),
            entry.envelope.at(tick).into(),
        ),
        overlap: schedule.overlap,
        last_job_id: last_job_id.filter(|_| looks_back).cloned(),
        skips_are_stored: entry.skips_are_stored(),
    }
}

/// Counts a tick that failed and is too late to be retried, and pauses the schedule after too many
/// of them in a row. 0 for `max_consecutive_failures` means never.
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
    tracing::error!(schedule_id, %tick, "cannot enqueue the tick in time: {error}");
    if max_consecutive_failures > 0 && progress.failures >= max_consecutive_failures {
        let reason = format!(
            "{} ticks in a row could not be enqueued: {error}",
            progress.failures
        );
        tracing::error!(
            schedule_id,
            "paused, since {reason}; `naq schedule resume {schedule_id}` resumes it"
        );
        schedule.status = ScheduleStatus::Paused;
        schedule.progress.inactive = true;
        schedule.paused_reason = Some(reason);
    }
}
