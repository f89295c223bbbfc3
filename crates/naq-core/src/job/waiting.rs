//! Decides from facts what a job that has not ended waits for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::routing::has_required_labels;
use naq_protocol::{
    Dependency, Envelope, QueueName, Record, State, Timestamp, WorkerInfo, WorkerState,
};

/// What a job that has not ended waits for. On a worker's socket it is an object with the variant's name as
/// `cause`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitCause {
    /// Its start time.
    NotDue {
        /// The start time.
        due: Timestamp,
    },
    /// A user, who has paused the delayed job.
    JobPaused,
    /// The time of its next attempt.
    RetryDue {
        /// The time.
        due: Timestamp,
    },
    /// A user, who has paused its queue.
    QueuePaused {
        /// The queue.
        queue: QueueName,
    },
    /// A worker: no worker serves its queue.
    NoWorker {
        /// The queue.
        queue: QueueName,
    },
    /// A worker: all workers of its queue are stopping.
    WorkersDraining {
        /// The queue.
        queue: QueueName,
    },
    /// A worker with the labels that it requires: those of its queue do not have them.
    MissingLabels {
        /// The queue.
        queue: QueueName,
        /// The labels.
        labels: BTreeMap<String, String>,
    },
    /// Other jobs of its queue, of which as many run as the queue's limit allows.
    QueueLimit {
        /// The queue.
        queue: QueueName,
        /// The limit.
        max_running: u32,
    },
    /// A free slot: all slots of the workers of its queue are in use.
    NoFreeSlot {
        /// The queue.
        queue: QueueName,
        /// How many slots the workers have together.
        slots: u64,
    },
    /// Other jobs, which have to end first.
    Dependencies {
        /// The jobs.
        jobs: Vec<Dependency>,
    },
    /// A slot of its concurrency key.
    ConcurrencyKey {
        /// The key.
        key: String,
    },
    /// Room in the store: the server stores neither outcomes nor heartbeats.
    StoreFull,
    /// NATS: the worker cannot store outcomes, for example because the store is full, and starts no
    /// further job until it can.
    OutcomesRefused {
        /// The worker.
        worker_id: String,
    },
    /// Another worker: the one that runs it sends no heartbeats.
    WorkerVanished {
        /// The worker that vanished.
        worker_id: String,
        /// Its queue.
        queue: QueueName,
        /// Whether another worker serves the queue.
        is_served: bool,
    },
}

impl WaitCause {
    /// Whether a user has to act: without that, the job does not start or does not end.
    #[must_use]
    pub fn needs_action(&self) -> bool {
        match self {
            WaitCause::JobPaused
            | WaitCause::QueuePaused { .. }
            | WaitCause::NoWorker { .. }
            | WaitCause::WorkersDraining { .. }
            | WaitCause::MissingLabels { .. }
            | WaitCause::StoreFull
            | WaitCause::OutcomesRefused { .. }
            | WaitCause::WorkerVanished { .. } => true,
            WaitCause::NotDue { .. }
            | WaitCause::RetryDue { .. }
            | WaitCause::QueueLimit { .. }
            | WaitCause::NoFreeSlot { .. }
            | WaitCause::Dependencies { .. }
            | WaitCause::ConcurrencyKey { .. } => false,
        }
    }
}

/// The state of a queue, as far as it decides whether a job of it starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueFacts {
    /// Whether deliveries are paused.
    pub paused: bool,
    /// Jobs that are delivered to workers.
    pub running: u64,
    /// How many of its jobs may run at once. `None` means no limit.
    pub max_running: Option<u32>,
}

/// The facts from which [`wait_cause`] decides.
#[derive(Clone, Copy, Debug)]
pub struct WaitFacts<'f> {
    /// The workers whose heartbeat has not expired.
    pub workers: &'f [WorkerInfo],
    /// The state of the job's queue. `None` if the queue does not exist.
    pub queue: Option<QueueFacts>,
    /// Whether the server has no room to store anything. Heartbeats are stored too, so callers need to
    /// check this only if a heartbeat is missing or old.
    pub is_store_full: bool,
    /// The time.
    pub now: Timestamp,
}

/// What a job waits for. Returns `None` if it has ended, is running, or will be delivered at once.
#[must_use]
pub fn wait_cause(record: &Record, facts: &WaitFacts<'_>) -> Option<WaitCause> {
    let cause = cause_with_room(record, facts);
    // If the store is full, heartbeats of live workers expire, and an ended job stays `running`.
    let needs_worker = match &cause {
        None => matches!(record.state(), State::Running | State::Queued),
        Some(cause) => matches!(
            cause,
            WaitCause::NoWorker { .. }
                | WaitCause::WorkersDraining { .. }
                | WaitCause::MissingLabels { .. }
                | WaitCause::NoFreeSlot { .. }
                | WaitCause::WorkerVanished { .. }
        ),
    };
    match facts.is_store_full && needs_worker {
        true => Some(WaitCause::StoreFull),
        false => cause,
    }
}

fn cause_with_room(record: &Record, facts: &WaitFacts<'_>) -> Option<WaitCause> {
    let WaitFacts {
        workers,
        queue,
        now,
        ..
    } = *facts;
    match record.state() {
        State::Scheduled => match record.next_attempt_at() {
            None => Some(WaitCause::JobPaused),
            Some(due) if due > now => Some(WaitCause::NotDue { due }),
            Some(_) => queue_cause(record, workers, queue),
        },
        State::Retrying => match record.next_attempt_at() {
            Some(due) if due > now => Some(WaitCause::RetryDue { due }),
            _ => queue_cause(record, workers, queue),
        },
        State::Queued => queue_cause(record, workers, queue),
        State::Waiting => blocked_cause(record).or_else(|| queue_cause(record, workers, queue)),
        State::Running => holder_cause(record, workers),
        State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired
        | State::Rejected
        | State::Unknown(_) => None,
    }
}

/// Why a running job may not end: its worker has vanished, or cannot store its outcome.
fn holder_cause(record: &Record, workers: &[WorkerInfo]) -> Option<WaitCause> {
    let worker_id = record.lease()?.worker_id.clone();
    let holder = workers.iter().find(|worker| worker.worker_id == worker_id);
    if let Some(holder) = holder {
        return (holder.unstored_outcomes > 0).then_some(WaitCause::OutcomesRefused { worker_id });
    }
    let serves = |worker: &WorkerInfo| worker.queues.contains(&record.queue);
    Some(WaitCause::WorkerVanished {
        worker_id,
        queue: record.queue.clone(),
        is_served: workers.iter().any(serves),
    })
}

fn blocked_cause(record: &Record) -> Option<WaitCause> {
    let waits = record.waits()?;
    if !waits.dependencies.is_empty() {
        let jobs = waits.dependencies.clone();
        return Some(WaitCause::Dependencies { jobs });
    }
    let key = waits.concurrency_key.clone()?;
    Some(WaitCause::ConcurrencyKey { key })
}

/// Why the message of a job that may start is not delivered. Causes that need a user's action come first.
fn queue_cause(
    record: &Record,
    workers: &[WorkerInfo],
    queue: Option<QueueFacts>,
) -> Option<WaitCause> {
    let name = || record.queue.clone();
    let facts = queue.unwrap_or_default();
    if facts.paused {
        return Some(WaitCause::QueuePaused { queue: name() });
    }
    let serving: Vec<&WorkerInfo> = workers
        .iter()
        .filter(|worker| worker.queues.contains(&record.queue))
        .collect();
    if serving.is_empty() {
        return Some(WaitCause::NoWorker { queue: name() });
    }
    let required = required_labels(record);
    let able: Vec<&WorkerInfo> = serving
        .into_iter()
        .filter(|worker| has_required_labels(&worker.labels, &required))
        .collect();
    if able.is_empty() {
        return Some(WaitCause::MissingLabels {
            queue: name(),
            labels: required,
        });
    }
    let working: Vec<&WorkerInfo> = able
        .into_iter()
        .filter(|worker| worker.state != WorkerState::Draining)
        .collect();
    let Some(first) = working.first() else {
        return Some(WaitCause::WorkersDraining { queue: name() });
    };
    if working.iter().all(|worker| worker.unstored_outcomes > 0) {
        let worker_id = first.worker_id.clone();
        return Some(WaitCause::OutcomesRefused { worker_id });
    }
    if let Some(max_running) = facts.max_running
        && facts.running >= u64::from(max_running)
    {
        return Some(WaitCause::QueueLimit {
            queue: name(),
            max_running,
        });
    }
    let slots: u64 = working
        .iter()
        .map(|worker| u64::from(worker.concurrency))
        .sum();
    let taken: u64 = working.iter().map(|worker| u64::from(worker.running)).sum();
    (taken >= slots).then(|| WaitCause::NoFreeSlot {
        queue: name(),
        slots,
    })
}

/// Explains to people which labels the workers of a queue lack.
#[must_use]
pub fn describe_missing_labels(queue: &QueueName, labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!(
        "no worker of queue `{queue}` has the labels that the job requires: {}",
        labels.join(" ")
    )
}

fn required_labels(record: &Record) -> BTreeMap<String, String> {
    let envelope = record.envelope.as_deref();
    let envelope = envelope.and_then(|text| Envelope::parse(text.get().as_bytes()).ok());
    envelope
        .map(|envelope| envelope.requires)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{
        BlockedOn, DependencyCondition, JobId, Outcome, Phase, Reason, UnknownFields,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000).unwrap()
    }

    fn record(phase: Phase) -> Record {
        let job = JobId::new("j").unwrap();
        Record::new(job, QueueName::new("q").unwrap(), phase, at(0))
    }

    fn worker(change: impl FnOnce(&mut WorkerInfo)) -> WorkerInfo {
        let mut worker = serde_json::from_str(
            r#"{"worker_id":"w","name":"host","hostname":"host","pid":1,"version":"0","queues":["q"],
                "concurrency":2,"state":"idle","running":0,"jobs":[],"jobs_ended":0,
                "containment":"cgroup","started_at":"2026-12-24T16:00:00Z",
                "last_seen":"2026-12-24T17:00:00Z"}"#,
        )
        .unwrap();
        change(&mut worker);
        worker
    }

    fn facts(workers: &[WorkerInfo], queue: Option<QueueFacts>) -> WaitFacts<'_> {
        WaitFacts {
            workers,
            queue,
            is_store_full: false,
            now: at(100),
        }
    }

    fn cause(phase: Phase, workers: &[WorkerInfo], queue: QueueFacts) -> Option<WaitCause> {
        wait_cause(&record(phase), &facts(workers, Some(queue)))
    }

    #[test]
    fn job_waits_for_a_time_that_is_to_come() {
        let due = at(130);
        let open = QueueFacts::default();
        let delayed = Phase::Scheduled { due: Some(due) };
        assert_eq!(cause(delayed, &[], open), Some(WaitCause::NotDue { due }));
        let paused = Phase::Scheduled { due: None };
        assert_eq!(cause(paused, &[], open), Some(WaitCause::JobPaused));
        let retry = |next_attempt_at| Phase::Retrying {
            reason: Reason::Exit,
            finished_at: at(90),
            next_attempt_at,
        };
        assert_eq!(
            cause(retry(due), &[], open),
            Some(WaitCause::RetryDue { due })
        );
        // due, so it is in its queue
        let queue = QueueName::new("q").unwrap();
        assert_eq!(
            cause(retry(at(99)), &[], open),
            Some(WaitCause::NoWorker { queue })
        );
    }

    #[test]
    fn queued_job_waits_for_what_its_queue_lacks() {
        let queue = QueueName::new("q").unwrap();
        let open = QueueFacts::default();
        let queued = |workers: &[WorkerInfo], facts| cause(Phase::Queued, workers, facts);
        let elsewhere = worker(|worker| worker.queues = vec![QueueName::new("other").unwrap()]);
        let free = worker(|_| {});
        let busy = worker(|worker| worker.running = 2);
        let stuck = worker(|worker| worker.unstored_outcomes = 1);
        let draining = worker(|worker| worker.state = WorkerState::Draining);
        assert_eq!(queued(std::slice::from_ref(&free), open), None);
        for workers in [&[][..], &[elsewhere]] {
            let queue = queue.clone();
            assert_eq!(queued(workers, open), Some(WaitCause::NoWorker { queue }));
        }
        let paused = QueueFacts {
            paused: true,
            ..open
        };
        let stopped = Some(WaitCause::QueuePaused {
            queue: queue.clone(),
        });
        assert_eq!(queued(&[], paused), stopped);
        let stopping = Some(WaitCause::WorkersDraining {
            queue: queue.clone(),
        });
        assert_eq!(queued(&[draining], open), stopping);
        let worker_id = "w".to_owned();
        let refused = Some(WaitCause::OutcomesRefused { worker_id });
        assert_eq!(queued(std::slice::from_ref(&stuck), open), refused);
        assert_eq!(queued(&[stuck, free.clone()], open), None);
        let limited = QueueFacts {
            running: 1,
            max_running: Some(1),
            ..open
        };
        let full = WaitCause::QueueLimit {
            queue: queue.clone(),
            max_running: 1,
        };
        assert_eq!(queued(&[free], limited), Some(full));
        let taken = WaitCause::NoFreeSlot { queue, slots: 2 };
        assert_eq!(queued(&[busy], open), Some(taken));
    }

    #[test]
    fn queued_job_waits_for_a_worker_with_its_labels() {
        let mut job = record(Phase::Queued);
        job.envelope = serde_json::from_str(r#"{"command":"x","requires":{"gpu":"yes"}}"#).unwrap();
        let plain = worker(|_| {});
        let labels = BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]);
        let able = worker(|worker| worker.labels = labels.clone());
        let cause = |workers: &[WorkerInfo]| wait_cause(&job, &facts(workers, None));
        let queue = job.queue.clone();
        let missing = WaitCause::MissingLabels { queue, labels };
        assert_eq!(cause(std::slice::from_ref(&plain)), Some(missing));
        assert_eq!(cause(&[plain, able]), None);
    }

    #[test]
    fn full_store_is_what_a_job_waits_for_if_it_needs_a_worker() {
        let free = [worker(|_| {})];
        let full = |workers| WaitFacts {
            is_store_full: true,
            ..facts(workers, None)
        };
        let queued = record(Phase::Queued);
        for workers in [&[][..], &free] {
            assert_eq!(
                wait_cause(&queued, &full(workers)),
                Some(WaitCause::StoreFull)
            );
        }
        let delayed = record(Phase::Scheduled { due: Some(at(130)) });
        let not_due = WaitCause::NotDue { due: at(130) };
        assert_eq!(wait_cause(&delayed, &full(&[])), Some(not_due));
        let ended = record(Phase::Finished {
            outcome: Outcome::Succeeded,
            finished_at: at(90),
        });
        assert_eq!(wait_cause(&ended, &full(&[])), None);
    }

    #[test]
    fn blocked_job_waits_for_dependencies_before_a_slot() {
        let dependency = Dependency::new(JobId::new("a").unwrap(), DependencyCondition::Success);
        let blocked = |dependencies: &[Dependency]| Phase::Blocked {
            waits: BlockedOn {
                dependencies: dependencies.to_vec(),
                concurrency_key: Some("key".to_owned()),
                since: at(0),
                until: None,
                unknown: UnknownFields::default(),
            },
        };
        let open = QueueFacts::default();
        let jobs = vec![dependency.clone()];
        let waits = Some(WaitCause::Dependencies { jobs });
        assert_eq!(cause(blocked(&[dependency]), &[], open), waits);
        let key = "key".to_owned();
        let waits = Some(WaitCause::ConcurrencyKey { key });
        assert_eq!(cause(blocked(&[]), &[], open), waits);
    }

    #[test]
    fn running_job_waits_if_its_worker_has_vanished_or_cannot_store_outcomes() {
        let running = Phase::Running {
            lease: serde_json::from_str(r#"{"worker_id":"w","sequence":1,"delivery":1}"#).unwrap(),
            started_at: at(0),
        };
        let open = QueueFacts::default();
        let present = worker(|_| {});
        let other = worker(|worker| worker.worker_id = "v".to_owned());
        assert_eq!(cause(running.clone(), &[present], open), None);
        let stuck = worker(|worker| worker.unstored_outcomes = 1);
        let worker_id = "w".to_owned();
        let refused = Some(WaitCause::OutcomesRefused { worker_id });
        assert_eq!(cause(running.clone(), &[stuck], open), refused);
        for (workers, is_served) in [(&[][..], false), (&[other], true)] {
            let vanished = WaitCause::WorkerVanished {
                worker_id: "w".to_owned(),
                queue: QueueName::new("q").unwrap(),
                is_served,
            };
            let found = cause(running.clone(), workers, open);
            assert_eq!(found.as_ref(), Some(&vanished));
            assert!(vanished.needs_action());
        }
    }
}
