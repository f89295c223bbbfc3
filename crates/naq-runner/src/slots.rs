//! Slots that are held for jobs which come later.

use std::collections::{HashMap, VecDeque};

/// The number of a slot that is held or waited for.
pub(super) type SlotId = u64;

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
    last: SlotId,
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

    /// Whether someone waits for a slot.
    pub(super) fn are_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether this one is kept free.
    pub(super) fn is_idle(&self, id: SlotId) -> bool {
        self.states.get(&id) == Some(&SlotState::Idle)
    }

    /// Adds a slot, to be kept free.
    pub(super) fn take(&mut self) -> SlotId {
        let id = self.wait();
        self.grant_next();
        id
    }

    /// Adds a slot, to be waited for.
    pub(super) fn wait(&mut self) -> SlotId {
        self.last += 1;
        self.states.insert(self.last, SlotState::Waiting);
        self.waiting.push_back(self.last);
        self.last
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
        let [first, second, third] = [(); 3].map(|()| slots.wait());
        slots.release(first);
        slots.grant_next();
        assert!(slots.is_idle(second) && !slots.is_idle(third));
        slots.grant_next();
        assert!(slots.is_idle(third) && !slots.are_awaited());
    }

    #[test]
    fn the_slot_of_a_job_that_its_spawner_returns_is_kept_free_until_its_holder_releases_it() {
        let mut slots = Slots::default();
        let slot = slots.take();
        slots.occupy(slot);
        assert_eq!(slots.idle(), 0);
        slots.vacate(slot);
        assert!(slots.is_idle(slot));
        slots.occupy(slot);
        slots.release(slot);
        slots.vacate(slot);
        assert_eq!(slots.idle(), 0);
    }

    proptest! {
        /// Whatever is done with them, in whatever order.
        #[test]
        fn the_count_of_free_slots_is_that_of_their_states(
            steps in prop::collection::vec((0_u8..6, 0_u64..8), 0..60)
        ) {
            let mut slots = Slots::default();
            for (step, number) in steps {
                match step {
                    0 if !slots.are_awaited() => { slots.take(); }
                    1 => { slots.wait(); }
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
