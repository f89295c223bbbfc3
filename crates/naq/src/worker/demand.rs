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

use naq_jetstream::{Ask, Outstanding};

/// How queues share a worker's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// In turn.
    #[default]
    Fair,
    /// The first queue that has jobs, in the order they were named.
    Strict,
}

/// One request to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) index: usize,
    pub(super) count: u64,
    pub(super) ask: Ask,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Belief {
    /// Nothing there.
    #[default]
    Empty,
    /// Jobs are there.
    Filled,
    /// The queue itself is not there.
    Gone,
}

/// Queues that were made again, told from the task that made them.
#[derive(Clone, Default)]
pub(super) struct Revivals(Arc<Mutex<Vec<usize>>>);

impl Revivals {
    pub(super) fn revive(&self, index: usize) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(index);
    }

    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is believed of the queues.
#[derive(Default)]
pub(super) struct Demand {
    beliefs: Vec<Belief>,
    /// Whose turn it is, where the order is fair.
    turn: usize,
    /// The lines in order of preference, where they are not in that order already.
    preference: Vec<usize>,
    revivals: Revivals,
}

impl Demand {
    fn believe(&mut self, index: usize, belief: Belief) {
        if self.beliefs.len() <= index {
            self.beliefs.resize(index + 1, Belief::default());
        }
        self.beliefs[index] = belief;
    }

    /// A job came, with so many behind it.
    pub(super) fn delivered(&mut self, index: usize, pending: u64) {
        let belief = if pending > 0 {
            Belief::Filled
        } else {
            Belief::Empty
        };
        self.believe(index, belief);
    }

    /// A job had to be handed back: it is there to be had.
    pub(super) fn handed_back(&mut self, index: usize) {
        self.believe(index, Belief::Filled);
    }

    /// A request came back unfilled.
    pub(super) fn returned(&mut self, index: usize) {
        self.believe(index, Belief::Empty);
    }

    /// The queue is not there.
    pub(super) fn gone(&mut self, index: usize) {
        self.believe(index, Belief::Gone);
    }

    /// The lines in the order they are to be served in where it is strict.
    pub(super) fn prefer(&mut self, preference: Vec<usize>) {
        self.preference = preference;
    }

    pub(super) fn revivals(&self) -> Revivals {
        self.revivals.clone()
    }

    /// Nothing is known any more.
    pub(super) fn reset(&mut self) {
        self.beliefs.fill(Belief::Empty);
    }

    /// The requests that bring the demand to the free slots.
    pub(super) fn plan(
        &mut self,
        free: usize,
        queues: &[Outstanding],
        order: Order,
    ) -> Vec<Request> {
        self.beliefs.resize(queues.len(), Belief::default());
        for index in self.revivals.take() {
            self.believe(index, Belief::Empty);
        }
        let free = free as u64;
        if let [queue] = queues {
            let missing = free.saturating_sub(queue.standing);
            if missing == 0 || self.beliefs[0] == Belief::Gone {
                return Vec::new();
            }
            return vec![Request {
                index: 0,
                count: missing,
                ask: Ask::Standing,
            }];
        }
        let under_way: u64 = queues.iter().map(|queue| queue.at_once).sum();
        let mut unasked = free.saturating_sub(under_way);
        let filled: Vec<usize> = (0..queues.len())
            .map(|step| match order {
                Order::Strict => self.preference.get(step).copied().unwrap_or(step),
                Order::Fair => (self.turn + step) % queues.len(),
            })
            .filter(|index| self.beliefs[*index] == Belief::Filled)
            .collect();
        let mut requests = Vec::new();
        for (place, index) in filled.iter().enumerate() {
            let share = match order {
                Order::Strict => unasked,
                Order::Fair => unasked.div_ceil((filled.len() - place) as u64),
            };
            if share == 0 {
                break;
            }
            requests.push(Request {
                index: *index,
                count: share,
                ask: Ask::AtOnce,
            });
            unasked -= share;
            self.turn = (index + 1) % queues.len();
        }
        if free > 0 {
            for (index, queue) in queues.iter().enumerate() {
                if self.beliefs[index] == Belief::Empty && queue.standing == 0 {
                    requests.push(Request {
                        index,
                        count: 1,
                        ask: Ask::Standing,
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

    fn idle(queues: usize) -> Vec<Outstanding> {
        vec![Outstanding::default(); queues]
    }

    fn standing(counts: &[u64]) -> Vec<Outstanding> {
        counts
            .iter()
            .map(|standing| Outstanding {
                standing: *standing,
                at_once: 0,
            })
            .collect()
    }

    fn bell(index: usize, count: u64) -> Request {
        Request {
            index,
            count,
            ask: Ask::Standing,
        }
    }

    fn grab(index: usize, count: u64) -> Request {
        Request {
            index,
            count,
            ask: Ask::AtOnce,
        }
    }

    #[test]
    fn one_queue_has_standing_demand_for_each_slot() {
        let mut demand = Demand::default();
        assert_eq!(demand.plan(4, &standing(&[0]), Order::Fair), [bell(0, 4)]);
        assert_eq!(demand.plan(4, &standing(&[3]), Order::Fair), [bell(0, 1)]);
        assert_eq!(demand.plan(0, &standing(&[0]), Order::Fair), []);
    }

    #[test]
    fn empty_queues_get_bells() {
        let mut demand = Demand::default();
        assert_eq!(
            demand.plan(1, &idle(2), Order::Fair),
            [bell(0, 1), bell(1, 1)]
        );
        assert_eq!(demand.plan(1, &standing(&[1, 1]), Order::Fair), []);
    }

    #[test]
    fn filled_queues_share_the_slots() {
        let mut demand = Demand::default();
        demand.delivered(0, 9);
        demand.delivered(1, 9);
        assert_eq!(
            demand.plan(4, &idle(2), Order::Fair),
            [grab(0, 2), grab(1, 2)]
        );
        assert_eq!(demand.plan(4, &idle(2), Order::Strict), [grab(0, 4)]);
    }

    #[test]
    fn slots_alternate_where_there_is_one() {
        let mut demand = Demand::default();
        demand.delivered(0, 9);
        demand.delivered(1, 9);
        let first = demand.plan(1, &idle(2), Order::Fair);
        let second = demand.plan(1, &idle(2), Order::Fair);
        assert_eq!((first, second), (vec![grab(0, 1)], vec![grab(1, 1)]));
    }

    #[test]
    fn a_busy_worker_still_hears_of_a_better_queue() {
        let mut demand = Demand::default();
        demand.delivered(1, 9);
        // its bell still stands
        assert_eq!(demand.plan(0, &standing(&[1, 0]), Order::Strict), []);
        demand.delivered(0, 0);
        demand.handed_back(0);
        assert_eq!(demand.plan(1, &idle(2), Order::Strict), [grab(0, 1)]);
    }

    #[test]
    fn strict_goes_by_preference() {
        let mut demand = Demand::default();
        demand.prefer(vec![2, 0, 1]);
        demand.delivered(0, 9);
        demand.delivered(2, 9);
        assert_eq!(
            demand.plan(1, &idle(3), Order::Strict),
            [grab(2, 1), bell(1, 1)]
        );
        demand.returned(2);
        assert_eq!(
            demand.plan(1, &standing(&[0, 1, 1]), Order::Strict),
            [grab(0, 1)]
        );
    }

    #[test]
    fn a_queue_that_is_gone_is_not_asked_until_it_is_back() {
        let mut demand = Demand::default();
        demand.gone(0);
        assert_eq!(demand.plan(1, &idle(1), Order::Fair), []);
        demand.revivals().revive(0);
        assert_eq!(demand.plan(1, &idle(1), Order::Fair), [bell(0, 1)]);
    }

    proptest! {
        #[test]
        fn demand_beside_bells_never_exceeds_free_slots(
            free in 0_usize..20,
            queues in proptest::collection::vec((0_u64..5, 0_u64..2, any::<bool>()), 2..6),
            strict in any::<bool>(),
        ) {
            let mut demand = Demand::default();
            for (index, (_, _, filled)) in queues.iter().enumerate() {
                demand.delivered(index, u64::from(*filled));
            }
            let outstanding: Vec<Outstanding> = queues
                .iter()
                .map(|(at_once, standing, _)| Outstanding { standing: *standing, at_once: *at_once })
                .collect();
            let under_way: u64 = outstanding.iter().map(|queue| queue.at_once).sum();
            let order = if strict { Order::Strict } else { Order::Fair };
            let requests = demand.plan(free, &outstanding, order);
            let grabbed: u64 = requests
                .iter()
                .filter(|request| request.ask == Ask::AtOnce)
                .map(|request| request.count)
                .sum();
            prop_assert!(grabbed + under_way <= (free as u64).max(under_way));
            for request in requests.iter().filter(|request| request.ask == Ask::Standing) {
                prop_assert_eq!(request.count + outstanding[request.index].standing, 1);
            }
        }
    }
}
