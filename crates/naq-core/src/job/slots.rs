//! Decides which jobs have a slot of a concurrency key after several of them have requested or released one.

use naq_protocol::{JobId, SlotHolder, Slots};

/// What a job wants of its key's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotChange {
    /// A slot, if fewer than `max` jobs have one.
    Acquire {
        /// The job, and the message by which it runs.
        holder: SlotHolder,
        /// How many jobs may have a slot at once.
        max: u32,
        /// A holder that is known to run no more. If all slots are taken, the job gets that one's.
        instead_of: Option<SlotHolder>,
    },
    /// To give its slot back, if it has one.
    Release {
        /// The job.
        job: JobId,
    },
}

impl SlotChange {
    fn acquires(&self, job: &JobId) -> bool {
        matches!(self, SlotChange::Acquire { holder, .. } if holder.job == *job)
    }
}

/// What became of a [`SlotChange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAnswer {
    /// The job has a slot.
    Acquired,
    /// All slots are taken.
    Full,
    /// The job has no slot any more.
    Released {
        /// How many jobs that wait for a slot are to be released for it.
        waiters: usize,
    },
}

/// The slots after several changes.
#[derive(Clone, Debug)]
pub struct ChangedSlots {
    /// The new value.
    pub slots: Slots,
    /// Whether it differs from the one before, and has to be written.
    pub is_changed: bool,
    /// An answer for each change, in their order. True once the value is written, if it is to be.
    pub answers: Vec<SlotAnswer>,
}

/// Carries out changes in one write: what is released first, then what is acquired, so that a job gets the slot
/// of one that has ended at the same time. Repeating a change does no harm.
///
/// The first release answers for the whole: it releases as many waiting jobs as there are free slots, and at least
/// one if a slot was returned. Else jobs that wait would get no turn while others hand their slots to each other.
#[must_use]
pub fn change_slots(mut slots: Slots, changes: &[SlotChange]) -> ChangedSlots {
    let (mut is_changed, mut is_returned) = (false, false);
    let mut answers = vec![SlotAnswer::Full; changes.len()];
    let is_first = |change: &SlotChange| match change {
        SlotChange::Release { job } => !changes.iter().any(|other| other.acquires(job)),
        SlotChange::Acquire { .. } => false,
    };
    let (first, then): (Vec<_>, Vec<_>) = changes
        .iter()
        .zip(&mut answers)
        .partition(|(change, _)| is_first(change));
    for (change, answer) in first.into_iter().chain(then) {
        let (changed, given) = change_slot(&mut slots, change);
        is_changed |= changed;
        is_returned |= changed && matches!(change, SlotChange::Release { .. });
        *answer = given;
    }
    let free = (slots.max as usize).saturating_sub(slots.holders.len());
    let mut releases = answers.iter_mut();
    if let Some(SlotAnswer::Released { waiters }) =
        releases.find(|answer| matches!(answer, SlotAnswer::Released { .. }))
    {
        *waiters = free.max(usize::from(is_returned));
    }
    ChangedSlots {
        slots,
        is_changed,
        answers,
    }
}

/// Carries out one change. Returns whether the value differs, and the answer.
fn change_slot(slots: &mut Slots, change: &SlotChange) -> (bool, SlotAnswer) {
    match change {
        SlotChange::Release { job } => {
            let held = slots.holders.len();
            slots.holders.retain(|held| held.job != *job);
            let is_changed = slots.holders.len() != held;
            (is_changed, SlotAnswer::Released { waiters: 0 })
        }
        SlotChange::Acquire {
            holder,
            max,
            instead_of,
        } => {
            if let Some(held) = slots.holders.iter_mut().find(|held| held.job == holder.job) {
                if held == holder {
                    return (false, SlotAnswer::Acquired);
                }
                held.queue.clone_from(&holder.queue);
                held.sequence = holder.sequence;
            } else if slots.holders.len() < *max as usize {
                slots.holders.push(holder.clone());
            } else if let Some(gone) = instead_of
                && let Some(held) = slots.holders.iter_mut().find(|held| *held == gone)
            {
                held.clone_from(holder);
            } else {
                return (false, SlotAnswer::Full);
            }
            slots.max = *max;
            (true, SlotAnswer::Acquired)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{QueueName, UnknownFields};
    use proptest::prelude::*;

    fn holder(job: u8, sequence: u64) -> SlotHolder {
        SlotHolder {
            job: JobId::new(format!("job-{job}")).unwrap(),
            queue: QueueName::new("default").unwrap(),
            sequence,
            unknown: UnknownFields::default(),
        }
    }

    fn acquire(job: u8, max: u32) -> SlotChange {
        SlotChange::Acquire {
            holder: holder(job, 1),
            max,
            instead_of: None,
        }
    }

    fn release(job: u8) -> SlotChange {
        let job = holder(job, 1).job;
        SlotChange::Release { job }
    }

    fn held(jobs: &[u8], max: u32) -> Slots {
        Slots {
            max,
            holders: jobs.iter().map(|job| holder(*job, 1)).collect(),
            ..Slots::default()
        }
    }

    #[test]
    fn a_slot_goes_from_a_job_that_has_ended_to_the_next_in_one_write() {
        let changes = [acquire(2, 1), release(1), acquire(3, 1)];
        let after = change_slots(held(&[1], 1), &changes);
        let expected = [
            SlotAnswer::Acquired,
            SlotAnswer::Released { waiters: 1 },
            SlotAnswer::Full,
        ];
        assert_eq!(after.answers, expected);
        assert_eq!(after.slots.holders, [holder(2, 1)]);
        assert!(after.is_changed);
    }

    #[test]
    fn a_release_frees_all_that_may_wait_and_is_asked_for_once() {
        let after = change_slots(held(&[1, 2], 3), &[release(1), release(2)]);
        let expected = [3, 0].map(|waiters| SlotAnswer::Released { waiters });
        assert_eq!(after.answers, expected);
    }

    #[test]
    fn a_job_without_a_slot_releases_none_that_waits_for_one() {
        let after = change_slots(held(&[1], 1), &[release(2)]);
        assert_eq!(after.answers, [SlotAnswer::Released { waiters: 0 }]);
        assert!(!after.is_changed);
    }

    #[test]
    fn a_job_that_runs_by_another_message_keeps_its_slot() {
        let moved = SlotChange::Acquire {
            holder: holder(1, 9),
            max: 1,
            instead_of: None,
        };
        let after = change_slots(held(&[1], 1), std::slice::from_ref(&moved));
        assert_eq!(after.answers, [SlotAnswer::Acquired]);
        assert_eq!(after.slots.holders, [holder(1, 9)]);
        let again = change_slots(after.slots, &[moved]);
        assert!(!again.is_changed);
    }

    #[test]
    fn the_slot_of_a_job_that_is_gone_is_taken_over_by_one() {
        let take_over = |job| SlotChange::Acquire {
            holder: holder(job, 1),
            max: 2,
            instead_of: Some(holder(2, 1)),
        };
        let after = change_slots(held(&[1, 2], 2), &[take_over(3), take_over(4)]);
        assert_eq!(after.answers, [SlotAnswer::Acquired, SlotAnswer::Full]);
        assert_eq!(after.slots.holders, [holder(1, 1), holder(3, 1)]);
        let after = change_slots(held(&[2], 2), &[take_over(3)]);
        assert_eq!(after.slots.holders, [holder(2, 1), holder(3, 1)]);
    }

    fn any_change(max: u32) -> impl Strategy<Value = SlotChange> {
        (0..12_u8, any::<bool>()).prop_map(move |(job, acquires)| {
            if acquires {
                acquire(job, max)
            } else {
                release(job)
            }
        })
    }

    proptest! {
        /// However changes are put together, and whichever worker's come first, no more jobs have slots than the
        /// limit allows, a job has at most one, and the answers are true.
        #[test]
        fn no_more_jobs_have_slots_than_allowed(
            max in 1..5_u32,
            batches in prop::collection::vec(prop::collection::vec(any_change(4), 1..9), 1..20),
        ) {
            let mut slots = Slots::default();
            for mut changes in batches {
                for change in &mut changes {
                    if let SlotChange::Acquire { max: asked, .. } = change {
                        *asked = max;
                    }
                }
                let before = slots.clone();
                let after = change_slots(slots, &changes);
                let holders = &after.slots.holders;
                prop_assert!(holders.len() <= max as usize);
                for (index, one) in holders.iter().enumerate() {
                    prop_assert!(holders[index + 1..].iter().all(|other| other.job != one.job));
                }
                prop_assert!(after.is_changed || before.holders == *holders);
                for (change, answer) in changes.iter().zip(&after.answers) {
                    let has = |job: &JobId| holders.iter().any(|held| held.job == *job);
                    match (change, answer) {
                        (SlotChange::Acquire { holder, .. }, SlotAnswer::Acquired) => {
                            let released = SlotChange::Release { job: holder.job.clone() };
                            prop_assert!(has(&holder.job) || changes.contains(&released));
                        }
                        (SlotChange::Acquire { .. }, SlotAnswer::Full) => {}
                        (SlotChange::Release { job }, SlotAnswer::Released { .. }) => {
                            let acquired = changes.iter().any(|other| other.acquires(job));
                            prop_assert!(!has(job) || acquired);
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                let full = after.answers.contains(&SlotAnswer::Full);
                let released = changes.iter().any(|change| matches!(change, SlotChange::Release { .. }));
                // no slot stays free although a job asked for it, unless one of them gave it back afterwards
                prop_assert!(!full || holders.len() == max as usize || released);
                slots = after.slots;
            }
        }
    }
}
