//! Plans the pull requests: how many jobs to request from which queue, as a pure function of the
//! free slots and of what is known about the queues. A label route of a queue counts as a queue of
//! its own.
//!
//! With one queue, the pending requests equal the free slots. With several, one slot cannot be
//! offered to two queues at once, so there are two kinds of request. A queue that is believed to
//! have jobs gets a no-wait request for its share of the slots, which the server answers at once. A
//! queue believed to be empty gets a *probe*: an expiring request for one job, which is answered
//! when a job arrives. If no slot is free by then, that job is requeued at once, and the queue is
//! known to have jobs from then on.
//!
//! Queues that have jobs take turns. While jobs are short, a turn has several of them: each queue has a stream and a
//! consumer of its own at the server, and one that is asked again at once costs it a fraction of another one.

use std::sync::{Arc, Mutex, PoisonError};

use naq_jetstream::{PendingPulls, PullKind};

/// How queues share a worker's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueOrder {
    /// Queues that have jobs take turns.
    #[default]
    Fair,
    /// The first queue that has jobs, in the configured order.
    Strict,
}

/// How many jobs a worker can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedJobs {
    /// For slots that are free.
    pub(super) free: usize,
    /// To be claimed while all slots are in use, or soon will be.
    pub(super) ahead: usize,
    /// How many jobs of one queue may follow each other while other queues have some too.
    pub(super) turn: usize,
}

/// One request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PullRequest {
    pub(super) index: usize,
    pub(super) count: u64,
    pub(super) kind: PullKind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum QueueState {
    /// The queue is believed to have no jobs.
    #[default]
    Empty,
    /// The queue is believed to have jobs.
    HasJobs,
    /// The queue or its consumer does not exist.
    Missing,
}

/// Queues that were created again, as reported by the task that did so.
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

/// What is believed about the queues.
#[derive(Default)]
pub(super) struct PullPlanner {
    states: Vec<QueueState>,
    /// Index of the queue whose turn it is under [`QueueOrder::Fair`].
    turn: usize,
    /// How many jobs that queue has left in its turn. Zero if the turn has not begun.
    left_in_turn: u64,
    /// Indexes in order of preference under [`QueueOrder::Strict`]. Empty means the order of the
    /// indexes.
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

    /// A job was delivered, and `pending` more are in the queue.
    pub(super) fn on_delivered(&mut self, index: usize, pending: u64) {
        let state = if pending > 0 {
            QueueState::HasJobs
        } else {
            QueueState::Empty
        };
        self.set_state(index, state);
    }

    /// A delivered job was requeued, so the queue has at least that one.
    pub(super) fn on_requeued(&mut self, index: usize) {
        self.set_state(index, QueueState::HasJobs);
    }

    /// A no-wait request was answered without a job.
    pub(super) fn on_unfilled(&mut self, index: usize) {
        self.set_state(index, QueueState::Empty);
    }

    /// The queue was found to be missing: it gets no requests until it is created again.
    pub(super) fn on_queue_missing(&mut self, index: usize) {
        self.set_state(index, QueueState::Missing);
    }

    /// Sets the order of preference under [`QueueOrder::Strict`].
    pub(super) fn set_preference(&mut self, preference: Vec<usize>) {
        self.preference = preference;
    }

    pub(super) fn recreated_queues(&self) -> RecreatedQueues {
        self.recreated_queues.clone()
    }

    /// Forgets what was known about the queues, after a new connection.
    pub(super) fn reset(&mut self) {
        self.states.fill(QueueState::Empty);
    }

    /// The requests that, added to the pending ones, fill the free slots, and for queues that have jobs those that
    /// are claimed ahead.
    pub(super) fn plan(
        &mut self,
        wanted: WantedJobs,
        queues: &[PendingPulls],
        order: QueueOrder,
    ) -> Vec<PullRequest> {
        self.states.resize(queues.len(), QueueState::default());
        for index in self.recreated_queues.drain() {
            self.set_state(index, QueueState::Empty);
        }
        let (free, ahead) = (wanted.free as u64, wanted.ahead as u64);
        let under_way: u64 = queues.iter().map(|queue| queue.no_wait).sum();
        if let [queue] = queues {
            let ahead = match self.states[0] {
                QueueState::Missing => return Vec::new(),
                QueueState::Empty => 0,
                QueueState::HasJobs => ahead.saturating_sub(under_way),
            };
            // a request for a job ahead must not stay: the next job is then another worker's
            let kinds = [
                (PullKind::Expiring, free.saturating_sub(queue.expiring)),
                (PullKind::NoWait, ahead),
            ];
            let wanted = kinds.into_iter().filter(|(_, count)| *count > 0);
            let request = |(kind, count)| PullRequest {
                index: 0,
                count,
                kind,
            };
            return wanted.map(request).collect();
        }
        let unrequested = (free + ahead).saturating_sub(under_way);
        let mut requests = self.plan_filled(unrequested, wanted.turn, queues.len(), order);
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

    /// The requests to queues that have jobs, for this number of jobs. `turn` is how many follow each other.
    fn plan_filled(
        &mut self,
        mut unrequested: u64,
        turn: usize,
        queues: usize,
        order: QueueOrder,
    ) -> Vec<PullRequest> {
        let filled: Vec<usize> = (0..queues)
            .map(|step| match order {
                QueueOrder::Strict => self.preference.get(step).copied().unwrap_or(step),
                QueueOrder::Fair => (self.turn + step) % queues,
            })
            .filter(|index| self.states[*index] == QueueState::HasJobs)
            .collect();
        let mut requests = Vec::new();
        for (place, index) in filled.iter().enumerate() {
            if unrequested == 0 {
                break;
            }
            let share = match order {
                QueueOrder::Strict => unrequested,
                QueueOrder::Fair => {
                    let queues_left = (filled.len() - place) as u64;
                    let continues = self.turn == *index && self.left_in_turn > 0 && queues_left > 1;
                    let left = match continues {
                        true => self.left_in_turn.min(turn as u64),
                        // more than a turn each, if there are more slots than turns
                        false => unrequested.div_ceil(queues_left).max(turn as u64),
                    };
                    let share = left.min(unrequested);
                    self.left_in_turn = left - share;
                    self.turn = match self.left_in_turn {
                        0 => (index + 1) % queues,
                        _ => *index,
                    };
                    share
                }
            };
            requests.push(PullRequest {
                index: *index,
                count: share,
                kind: PullKind::NoWait,
            });
            unrequested -= share;
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slots(free: usize) -> WantedJobs {
        WantedJobs {
            free,
            ahead: 0,
            turn: 1,
        }
    }

    #[test]
    fn short_jobs_of_one_queue_follow_each_other_for_a_turn() {
        let mut planner = PullPlanner::default();
        planner.on_delivered(0, 99);
        planner.on_delivered(1, 99);
        let mut plan = |free, turn| {
            let wanted = WantedJobs {
                free,
                ahead: 0,
                turn,
            };
            let pulls = planner.plan(wanted, &idle(2), QueueOrder::Fair);
            let pulls = pulls.iter().map(|pull| (pull.index, pull.count));
            pulls.collect::<Vec<_>>()
        };
        assert_eq!(plan(3, 4), [(0, 3)]);
        assert_eq!(plan(3, 4), [(0, 1), (1, 2)]);
        assert_eq!(plan(1, 4), [(1, 1)]);
        // long jobs alternate at once
        assert_eq!(plan(1, 1), [(1, 1)]);
        assert_eq!(plan(1, 1), [(0, 1)]);
        // more free slots than turns
        assert_eq!(plan(20, 4), [(1, 10), (0, 10)]);
    }

    #[test]
    fn jobs_are_claimed_ahead_only_of_queues_that_have_some() {
        let mut planner = PullPlanner::default();
        let busy = WantedJobs {
            ahead: 3,
            ..slots(0)
        };
        assert_eq!(planner.plan(busy, &idle(1), QueueOrder::Fair), []);
        planner.on_delivered(0, 9);
        let ahead = planner.plan(busy, &idle(1), QueueOrder::Fair);
        assert_eq!(ahead, [no_wait_pull(0, 3)]);
        let one_free = WantedJobs {
            ahead: 3,
            ..slots(1)
        };
        let both = planner.plan(one_free, &idle(1), QueueOrder::Fair);
        assert_eq!(both, [expiring_pull(0, 1), no_wait_pull(0, 3)]);
        assert_eq!(
            planner.plan(busy, &idle(2), QueueOrder::Fair),
            [no_wait_pull(0, 3)]
        );
        planner.on_unfilled(0);
        assert_eq!(planner.plan(busy, &idle(2), QueueOrder::Fair), []);
    }

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
    fn one_queue_gets_a_pending_request_for_each_free_slot() {
        let mut planner = PullPlanner::default();
        assert_eq!(
            planner.plan(slots(4), &expiring(&[0]), QueueOrder::Fair),
            [expiring_pull(0, 4)]
        );
        assert_eq!(
            planner.plan(slots(4), &expiring(&[3]), QueueOrder::Fair),
            [expiring_pull(0, 1)]
        );
        assert_eq!(
            planner.plan(slots(0), &expiring(&[0]), QueueOrder::Fair),
            []
        );
    }

    #[test]
    fn empty_queues_get_one_expiring_probe_each() {
        let mut planner = PullPlanner::default();
        assert_eq!(
            planner.plan(slots(1), &idle(2), QueueOrder::Fair),
            [expiring_pull(0, 1), expiring_pull(1, 1)]
        );
        assert_eq!(
            planner.plan(slots(1), &expiring(&[1, 1]), QueueOrder::Fair),
            []
        );
    }

    #[test]
    fn queues_with_jobs_share_the_slots() {
        let mut planner = PullPlanner::default();
        planner.on_delivered(0, 9);
        planner.on_delivered(1, 9);
        assert_eq!(
            planner.plan(slots(4), &idle(2), QueueOrder::Fair),
            [no_wait_pull(0, 2), no_wait_pull(1, 2)]
        );
        assert_eq!(
            planner.plan(slots(4), &idle(2), QueueOrder::Strict),
            [no_wait_pull(0, 4)]
        );
    }

    #[test]
    fn fair_queues_take_turns_for_one_slot() {
        let mut planner = PullPlanner::default();
        planner.on_delivered(0, 9);
        planner.on_delivered(1, 9);
        let first = planner.plan(slots(1), &idle(2), QueueOrder::Fair);
        let second = planner.plan(slots(1), &idle(2), QueueOrder::Fair);
        assert_eq!(
            (first, second),
            (vec![no_wait_pull(0, 1)], vec![no_wait_pull(1, 1)])
        );
    }

    #[test]
    fn a_requeued_job_marks_a_preferred_queue_as_having_jobs() {
        let mut planner = PullPlanner::default();
        planner.on_delivered(1, 9);
        // its probe is still pending
        assert_eq!(
            planner.plan(slots(0), &expiring(&[1, 0]), QueueOrder::Strict),
            []
        );
        planner.on_delivered(0, 0);
        planner.on_requeued(0);
        assert_eq!(
            planner.plan(slots(1), &idle(2), QueueOrder::Strict),
            [no_wait_pull(0, 1)]
        );
    }

    #[test]
    fn strict_order_follows_the_preference() {
        let mut planner = PullPlanner::default();
        planner.set_preference(vec![2, 0, 1]);
        planner.on_delivered(0, 9);
        planner.on_delivered(2, 9);
        assert_eq!(
            planner.plan(slots(1), &idle(3), QueueOrder::Strict),
            [no_wait_pull(2, 1), expiring_pull(1, 1)]
        );
        planner.on_unfilled(2);
        assert_eq!(
            planner.plan(slots(1), &expiring(&[0, 1, 1]), QueueOrder::Strict),
            [no_wait_pull(0, 1)]
        );
    }

    #[test]
    fn a_missing_queue_gets_no_requests_until_it_is_recreated() {
        let mut planner = PullPlanner::default();
        planner.on_queue_missing(0);
        assert_eq!(planner.plan(slots(1), &idle(1), QueueOrder::Fair), []);
        planner.recreated_queues().mark_recreated(0);
        assert_eq!(
            planner.plan(slots(1), &idle(1), QueueOrder::Fair),
            [expiring_pull(0, 1)]
        );
    }

    proptest! {
        #[test]
        fn no_wait_requests_never_exceed_the_free_slots(
            (free, ahead, turn) in (0_usize..20, 0_usize..20, 1_usize..20),
            queues in proptest::collection::vec((0_u64..5, 0_u64..2, any::<bool>()), 2..6),
            strict in any::<bool>(),
        ) {
            let mut planner = PullPlanner::default();
            for (index, (_, _, filled)) in queues.iter().enumerate() {
                planner.on_delivered(index, u64::from(*filled));
            }
            let pending_pulls: Vec<PendingPulls> = queues
                .iter()
                .map(|(no_wait, expiring, _)| PendingPulls { expiring: *expiring, no_wait: *no_wait })
                .collect();
            let under_way: u64 = pending_pulls.iter().map(|queue| queue.no_wait).sum();
            let order = if strict { QueueOrder::Strict } else { QueueOrder::Fair };
            let requests = planner.plan(WantedJobs { free, ahead, turn }, &pending_pulls, order);
            let requested: u64 = requests
                .iter()
                .filter(|request| request.kind == PullKind::NoWait)
                .map(|request| request.count)
                .sum();
            prop_assert!(requested + under_way <= ((free + ahead) as u64).max(under_way));
            for request in requests.iter().filter(|request| request.kind == PullKind::Expiring) {
                prop_assert_eq!(request.count + pending_pulls[request.index].expiring, 1);
            }
        }
    }
}
