//! Slots that are held for jobs which come later.

use std::collections::{HashMap, VecDeque};

/// The number of a slot that is held or waited for. Slots and jobs are numbered together, in the order in which they
/// are requested.
pub(super) type SlotId = u32;

/// Whether the first number was given before the second one. They begin again after the largest.
pub(super) fn is_older(first: u32, second: u32) -> bool {
    first != second && second.wrapping_sub(first) <= u32::MAX / 2
}

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// All slots are taken. Its holder waits.
    Waiting,
    /// It is kept free for its holder's job.
    Idle,
    /// A spawner has its holder's job, which counts as running instead.
    Occupied,
}

/// All slots that are held or waited for.
#[derive(Debug, Default)]
pub(super) struct Slots {
    states: HashMap<SlotId, SlotState>,
    /// Those that are waited for, in the order of the requests.
    waiting: VecDeque<SlotId>,
    idle: usize,
}

impl Slots {
    /// Number of slots that are kept free for jobs.
    pub(super) fn idle(&self) -> usize {
        self.idle
    }

    /// The slot that someone has waited for longest.
    pub(super) fn first_awaited(&self) -> Option<SlotId> {
        self.waiting.front().copied()
    }

    /// Whether this one is kept free.
    pub(super) fn is_idle(&self, id: SlotId) -> bool {
        self.states.get(&id) == Some(&SlotState::Idle)
    }

    /// Adds a slot, to be waited for.
    pub(super) fn wait(&mut self, id: SlotId) {
        self.states.insert(id, SlotState::Waiting);
        self.waiting.push_back(id);
    }

    /// Keeps one free for the holder that has waited longest.
    pub(super) fn grant_next(&mut self) {
        if let Some(id) = self.waiting.pop_front() {
            self.states.insert(id, SlotState::Idle);
            self.idle += 1;
        }
    }

    /// A spawner gets the job of this slot.
    pub(super) fn occupy(&mut self, id: SlotId) {
        self.replace(id, SlotState::Idle, SlotState::Occupied);
    }

    /// The spawner has returned the job of this slot.
    pub(super) fn vacate(&mut self, id: SlotId) {
        self.replace(id, SlotState::Occupied, SlotState::Idle);
    }

    /// The slot's job has ended, or its holder needs it no longer. A job that runs in it continues.
    pub(super) fn release(&mut self, id: SlotId) {
        match self.states.remove(&id) {
            Some(SlotState::Waiting) => self.waiting.retain(|waiting| *waiting != id),
            Some(SlotState::Idle) => self.idle -= 1,
            Some(SlotState::Occupied) | None => {}
        }
    }

    /// Changes a slot from one state to another. Its holder may have released it.
    fn replace(&mut self, id: SlotId, from: SlotState, to: SlotState) {
        let Some(state) = self.states.get_mut(&id) else {
            return;
        };
        if *state == from {
            *state = to;
            match to {
                SlotState::Idle => self.idle += 1,
                _ => self.idle -= 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_are_granted_in_the_order_of_the_requests() {
        let mut slots = Slots::default();
        for id in 1..=3 {
            slots.wait(id);
        }
        slots.release(1);
        slots.grant_next();
        assert!(slots.is_idle(2) && !slots.is_idle(3));
        assert_eq!(slots.first_awaited(), Some(3));
        slots.grant_next();
        assert!(slots.is_idle(3) && slots.first_awaited().is_none());
    }

    #[test]
    fn the_slot_of_a_job_that_its_spawner_returns_is_kept_free_until_its_holder_releases_it() {
        let mut slots = Slots::default();
        slots.wait(7);
        slots.grant_next();
        slots.occupy(7);
        assert_eq!(slots.idle(), 0);
        slots.vacate(7);
        assert!(slots.is_idle(7));
        slots.occupy(7);
        slots.release(7);
        slots.vacate(7);
        assert_eq!(slots.idle(), 0);
    }

    #[test]
    fn numbers_that_begin_again_are_later() {
        assert!(is_older(1, 2) && !is_older(2, 1) && !is_older(2, 2));
        assert!(is_older(u32::MAX, 0) && !is_older(0, u32::MAX));
    }

    proptest! {
        /// Whatever is done with them, in whatever order.
        #[test]
        fn the_count_of_free_slots_is_that_of_their_states(
            steps in prop::collection::vec((0_u8..6, 0_u32..8), 0..60)
        ) {
            let mut slots = Slots::default();
            for (step, number) in steps {
                match step {
                    0 | 1 if !slots.states.contains_key(&number) => slots.wait(number),
                    2 => slots.grant_next(),
                    3 => slots.occupy(number),
                    4 => slots.vacate(number),
                    _ => slots.release(number),
                }
                let count = |wanted| slots.states.values().filter(|state| **state == wanted).count();
                prop_assert_eq!(slots.idle(), count(SlotState::Idle));
                prop_assert_eq!(slots.waiting.len(), count(SlotState::Waiting));
            }
        }
    }
}
