//! What to ask of which queue: pure reckoning over free slots and what is known of the queues.
//! Jobs of a queue that require the same labels are a line of their own, as if a queue.
//!
//! With one queue, standing demand equals the free slots. With several, a slot cannot stand in
//! two lines at once, so two kinds of request are used. A queue that is believed to hold jobs is
//! asked for as many as there are slots, to be answered at once. A queue believed to be empty
//! gets a *bell*: a standing request for one job, which rings when a job comes. A bell that
//! rings while no slot is free brings a job that is handed back at once, and the queue is known
//! to hold jobs from then on.

use std::sync::{Arc, Mutex, PoisonError};

use naq_jetstream::{PendingPulls, PullKind};

/// How queues share a worker's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueOrder {
    /// In turn.
    #[default]
    Fair,
    /// The first queue that has jobs, in the order they were named.
    Strict,
}

/// One request to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PullRequest {
    pub(super) index: usize,
    pub(super) count: u64,
    pub(super) kind: PullKind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum QueueState {
    /// Nothing there.
    #[default]
    Empty,
    /// Jobs are there.
    HasJobs,
    /// The queue itself is not there.
    Missing,
}

/// Queues that were made again, told from the task that made them.
#[derive(Clone, Default)]
pub(super) struct RecreatedQueues(Arc<Mutex<Vec<usize>>>);

impl RecreatedQueues {
    pub(super) fn mark_recreated(&self, index: usize) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(index);
    }

    fn drain(&self) -> Vec<usize> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is believed of the queues.
#[derive(Default)]
pub(super) struct PullPlanner {
    states: Vec<QueueState>,
    /// Whose turn it is, where the order is fair.
    turn: usize,
    /// The lines in order of preference, where they are not in that order already.
    preference: Vec<usize>,
    recreated_queues: RecreatedQueues,
}

impl PullPlanner {
    fn set_state(&mut self, index: usize, state: QueueState) {
        if self.states.len() <= index {
            self.states.resize(index + 1, QueueState::default());
        }
        self.states[index] = state;
    }

    /// A job came, with so many behind it.
    pub(super) fn on_delivered(&mut self, index: usize, pending: u64) {
        let state = if pending > 0 {
            QueueState::HasJobs
        } else {
            QueueState::Empty
        };
        self.set_state(index, state);
    }

    /// A job had to be handed back: it is there to be had.
    pub(super) fn on_requeued(&mut self, index: usize) {
        self.set_state(index, QueueState::HasJobs);
    }

    /// A request came back unfilled.
    pub(super) fn on_unfilled(&mut self, index: usize) {
        self.set_state(index, QueueState::Empty);
    }

    /// The queue is not there.
    pub(super) fn on_queue_missing(&mut self, index: usize) {
        self.set_state(index, QueueState::Missing);
    }

    /// The lines in the order they are to be served in where it is strict.
    pub(super) fn set_preference(&mut self, preference: Vec<usize>) {
        self.preference = preference;
    }

    pub(super) fn recreated_queues(&self) -> RecreatedQueues {
        self.recreated_queues.clone()
    }

    /// Nothing is known any more.
    pub(super) fn reset(&mut self) {
        self.states.fill(QueueState::Empty);
    }

    /// The requests that bring the demand to the free slots.
    pub(super) fn plan(
        &mut self,
        free: usize,
        queues: &[PendingPulls],
        order: QueueOrder,
    ) -> Vec<PullRequest> {
        self.states.resize(queues.len(), QueueState::default());
        for index in self.recreated_queues.drain() {
            self.set_state(index, QueueState::Empty);
        }
        let free = free as u64;
        if let [queue] = queues {
            let missing = free.saturating_sub(queue.expiring);
            if missing == 0 || self.states[0] == QueueState::Missing {
                return Vec::new();
            }
            return vec![PullRequest {
                index: 0,
                count: missing,
                kind: PullKind::Expiring,
            }];
        }
        let under_way: u64 = queues.iter().map(|queue| queue.no_wait).sum();
        let mut unasked = free.saturating_sub(under_way);
        let filled: Vec<usize> = (0..queues.len())
            .map(|step| match order {
                QueueOrder::Strict => self.preference.get(step).copied().unwrap_or(step),
                QueueOrder::Fair => (self.turn + step) % queues.len(),
            })
            .filter(|index| self.states[*index] == QueueState::HasJobs)
            .collect();
        let mut requests = Vec::new();
        for (place, index) in filled.iter().enumerate() {
            let share = match order {
                QueueOrder::Strict => unasked,
                QueueOrder::Fair => unasked.div_ceil((filled.len() - place) as u64),
            };
            if share == 0 {
                break;
            }
            requests.push(PullRequest {
                index: *index,
                count: share,
                kind: PullKind::NoWait,
            });
            unasked -= share;
            self.turn = (index + 1) % queues.len();
        }
        if free > 0 {
            for (index, queue) in queues.iter().enumerate() {
                if self.states[index] == QueueState::Empty && queue.expiring == 0 {
                    requests.push(PullRequest {
                        index,
                        count: 1,
                        kind: PullKind::Expiring,
                    });
                }
            }
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idle(queues: usize) -> Vec<PendingPulls> {
        vec![PendingPulls::default(); queues]
    }

    fn expiring(counts: &[u64]) -> Vec<PendingPulls> {
        counts
            .iter()
            .map(|expiring| PendingPulls {
                expiring: *expiring,
                no_wait: 0,
            })
            .collect()
    }

    fn expiring_pull(index: usize, count: u64) -> PullRequest {
        PullRequest {
            index,
            count,
            kind: PullKind::Expiring,
        }
    }

    fn no_wait_pull(index: usize, count: u64) -> PullRequest {
        PullRequest {
            index,
            count,
            kind: PullKind::NoWait,
        }
    }

    #[test]
    fn one_queue_has_standing_demand_for_each_slot() {
        let mut demand = PullPlanner::default();
        assert_eq!(
            demand.plan(4, &expiring(&[0]), QueueOrder::Fair),
            [expiring_pull(0, 4)]
        );
        assert_eq!(
            demand.plan(4, &expiring(&[3]), QueueOrder::Fair),
            [expiring_pull(0, 1)]
        );
        assert_eq!(demand.plan(0, &expiring(&[0]), QueueOrder::Fair), []);
    }

    #[test]
    fn empty_queues_get_bells() {
        let mut demand = PullPlanner::default();
        assert_eq!(
            demand.plan(1, &idle(2), QueueOrder::Fair),
            [expiring_pull(0, 1), expiring_pull(1, 1)]
        );
        assert_eq!(demand.plan(1, &expiring(&[1, 1]), QueueOrder::Fair), []);
    }

    #[test]
    fn filled_queues_share_the_slots() {
        let mut demand = PullPlanner::default();
        demand.on_delivered(0, 9);
        demand.on_delivered(1, 9);
        assert_eq!(
            demand.plan(4, &idle(2), QueueOrder::Fair),
            [no_wait_pull(0, 2), no_wait_pull(1, 2)]
        );
        assert_eq!(
            demand.plan(4, &idle(2), QueueOrder::Strict),
            [no_wait_pull(0, 4)]
        );
    }

    #[test]
    fn slots_alternate_where_there_is_one() {
        let mut demand = PullPlanner::default();
        demand.on_delivered(0, 9);
        demand.on_delivered(1, 9);
        let first = demand.plan(1, &idle(2), QueueOrder::Fair);
        let second = demand.plan(1, &idle(2), QueueOrder::Fair);
        assert_eq!(
            (first, second),
            (vec![no_wait_pull(0, 1)], vec![no_wait_pull(1, 1)])
        );
    }

    #[test]
    fn a_busy_worker_still_hears_of_a_better_queue() {
        let mut demand = PullPlanner::default();
        demand.on_delivered(1, 9);
        // its bell still stands
        assert_eq!(demand.plan(0, &expiring(&[1, 0]), QueueOrder::Strict), []);
        demand.on_delivered(0, 0);
        demand.on_requeued(0);
        assert_eq!(
            demand.plan(1, &idle(2), QueueOrder::Strict),
            [no_wait_pull(0, 1)]
        );
    }

    #[test]
    fn strict_goes_by_preference() {
        let mut demand = PullPlanner::default();
        demand.set_preference(vec![2, 0, 1]);
        demand.on_delivered(0, 9);
        demand.on_delivered(2, 9);
        assert_eq!(
            demand.plan(1, &idle(3), QueueOrder::Strict),
            [no_wait_pull(2, 1), expiring_pull(1, 1)]
        );
        demand.on_unfilled(2);
        assert_eq!(
            demand.plan(1, &expiring(&[0, 1, 1]), QueueOrder::Strict),
            [no_wait_pull(0, 1)]
        );
    }

    #[test]
    fn a_queue_that_is_gone_is_not_asked_until_it_is_back() {
        let mut demand = PullPlanner::default();
        demand.on_queue_missing(0);
        assert_eq!(demand.plan(1, &idle(1), QueueOrder::Fair), []);
        demand.recreated_queues().mark_recreated(0);
        assert_eq!(
            demand.plan(1, &idle(1), QueueOrder::Fair),
            [expiring_pull(0, 1)]
        );
    }

    proptest! {
        #[test]
        fn demand_beside_bells_never_exceeds_free_slots(
            free in 0_usize..20,
            queues in proptest::collection::vec((0_u64..5, 0_u64..2, any::<bool>()), 2..6),
            strict in any::<bool>(),
        ) {
            let mut demand = PullPlanner::default();
            for (index, (_, _, filled)) in queues.iter().enumerate() {
                demand.on_delivered(index, u64::from(*filled));
            }
            let pending_pulls: Vec<PendingPulls> = queues
                .iter()
                .map(|(no_wait, expiring, _)| PendingPulls { expiring: *expiring, no_wait: *no_wait })
                .collect();
            let under_way: u64 = pending_pulls.iter().map(|queue| queue.no_wait).sum();
            let order = if strict { QueueOrder::Strict } else { QueueOrder::Fair };
            let requests = demand.plan(free, &pending_pulls, order);
            let grabbed: u64 = requests
                .iter()
                .filter(|request| request.kind == PullKind::NoWait)
                .map(|request| request.count)
                .sum();
            prop_assert!(grabbed + under_way <= (free as u64).max(under_way));
            for request in requests.iter().filter(|request| request.kind == PullKind::Expiring) {
                prop_assert_eq!(request.count + pending_pulls[request.index].expiring, 1);
            }
        }
    }
}
