//! The state of the whole installation, and the warnings that follow from it.

use std::collections::VecDeque;

use serde::Serialize;

use super::record_index::{RecordIndex, SharedIndex};
use naq_client::{Client, ClientError, ClockSkew, JobEvent, JobFilter, JobSummary, QueueInfo};
use naq_protocol::{LeaderInfo, SchedulerInfo, State, Timestamp, WorkerInfo, WorkerState, escape};

/// The state of the installation, read from NATS.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) queues: Vec<QueueInfo>,
    pub(super) workers: Vec<WorkerInfo>,
    pub(super) schedulers: Vec<SchedulerInfo>,
    /// The scheduler that leads. `None` means that none does.
    pub(super) leader: Option<LeaderInfo>,
    /// The difference between this machine's clock and the server's. `None` if it is unknown.
    pub(super) clock_skew: Option<ClockSkew>,
    /// The jobs that changed last.
    pub(super) jobs: Vec<JobSummary>,
    /// Workers that no longer send heartbeats and whose jobs have not ended, with the number of these jobs. Empty
    /// without an index.
    pub(super) vanished: Vec<(String, u64)>,
    /// The server's version and address, for people.
    pub(super) server: String,
}

/// Number of jobs that changed last in [`Facts`].
const LATEST_JOBS: usize = 20;

impl Facts {
    /// Reads everything at once.
    ///
    /// # Errors
    /// Returns an error if NATS does not answer, or denies the reads.
    pub(super) async fn read(
        client: &Client,
        index: Option<&SharedIndex>,
    ) -> Result<Facts, ClientError> {
        let running = || {
            let read = index.and_then(|index| index.read(RecordIndex::running_by_worker));
            read.unwrap_or_default()
        };
        let running_before = running();
        let every_job = JobFilter::default();
        let (queues, workers, schedulers, leader, clock_skew, page) = futures_util::try_join!(
            client.list_queues(),
            client.list_workers(),
            client.list_schedulers(),
            client.fetch_leader(),
            client.measure_clock_skew(),
            client.list_jobs(&every_job, None, None, LATEST_JOBS),
        )?;
        // A worker that starts meanwhile has no job before, and one that ends has none after.
        let mut vanished: Vec<(String, u64)> = running().into_iter().collect();
        vanished.retain(|(id, _)| {
            running_before.contains_key(id) && !workers.iter().any(|worker| worker.worker_id == *id)
        });
        Ok(Facts {
            queues,
            workers,
            vanished,
            schedulers,
            leader,
            clock_skew,
            jobs: page.jobs,
            server: client.server(),
        })
    }

    /// Number of slots of the workers that serve a queue and are not stopping.
    pub(super) fn slots(&self, queue: &QueueInfo) -> u64 {
        slots(&self.workers, queue)
    }
}

/// Number of slots of those of these workers that serve a queue and are not stopping.
pub(super) fn slots(workers: &[WorkerInfo], queue: &QueueInfo) -> u64 {
    let serving = workers.iter().filter(|worker| {
        worker.queues.contains(&queue.name) && worker.state != WorkerState::Draining
    });
    serving.map(|worker| u64::from(worker.concurrency)).sum()
}

/// A problem that a user should fix, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(super) struct Warning {
    /// What is wrong: one sentence without a full stop.
    pub(super) text: String,
    /// The command that fixes it, or that shows more.
    pub(super) command: String,
}

/// The problems that a user should fix.
pub(super) fn warnings(facts: &Facts) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |text: String, command: &str| {
        found.push(Warning {
            text,
            command: command.to_owned(),
        });
    };
    for queue in &facts.queues {
        let name = &queue.name;
        let jobs = queue.depth + queue.delayed;
        if queue.paused && jobs > 0 {
            warn(
                format!(
                    "the queue `{name}` is paused and contains {}",
                    jobs_text(jobs)
                ),
                &format!("naq queue resume {name}"),
            );
        } else if queue.depth > 0 && facts.slots(queue) == 0 {
            warn(
                format!(
                    "no worker serves the queue `{name}`, which contains {}",
                    jobs_text(queue.depth)
                ),
                &format!("naq worker {name}"),
            );
        }
    }
    for (worker, jobs) in &facts.vanished {
        warn(
            format!(
                "the worker `{}` sends no heartbeats and has not ended {}",
                escape(worker),
                jobs_text(*jobs)
            ),
            "naq jobs --state running",
        );
    }
    for worker in &facts.workers {
        if let Some(problem) = naq_client::describe_unstored(worker) {
            warn(problem, "naq purge --results --older-than 1d");
        }
    }
    if facts.leader.is_none() && !facts.schedulers.is_empty() {
        warn(
            "no scheduler leads, so schedules enqueue no jobs".to_owned(),
            "naq scheduler list",
        );
    }
    for scheduler in &facts.schedulers {
        let skew = scheduler.clock_offset_ms.map(ClockSkew::from_ahead_ms);
        if let Some(skew) = skew.filter(|skew| skew.is_excessive()) {
            warn(
                format!(
                    "the clock of the scheduler on {} is {skew}",
                    escape(&scheduler.hostname)
                ),
                "timedatectl status",
            );
        }
    }
    if let Some(skew) = facts.clock_skew.filter(|skew| skew.is_excessive()) {
        warn(
            format!(
                "the clock of this machine is {skew}, so the times shown here are wrong by as much"
            ),
            "timedatectl status",
        );
    }
    found
}

fn jobs_text(count: u64) -> String {
    match count {
        1 => "1 job".to_owned(),
        count => format!("{count} jobs"),
    }
}

/// Number of minutes that are counted.
pub(super) const MINUTES: usize = 60;

/// Counts of one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(super) struct MinuteCounts {
    /// Jobs that entered their queues, or were delayed.
    pub(super) enqueued: u64,
    /// Jobs that ended with success.
    pub(super) succeeded: u64,
    /// Jobs that ended in another way.
    pub(super) failed: u64,
}

/// Counts of the last 60 minutes, from events, oldest minute first.
#[derive(Debug)]
pub(super) struct Activity {
    /// The minute of the last element, since the Unix epoch.
    minute: i64,
    minutes: VecDeque<MinuteCounts>,
}

impl Activity {
    pub(super) fn new(now: Timestamp) -> Activity {
        Activity {
            minute: minute_of(now),
            minutes: VecDeque::from(vec![MinuteCounts::default(); MINUTES]),
        }
    }

    /// Counts an event. One from before the last 60 minutes is ignored.
    pub(super) fn add(&mut self, event: &JobEvent) {
        self.count(event.time, event.record.state);
    }

    /// Counts that a job reached a state.
    pub(super) fn count(&mut self, time: Timestamp, state: State) {
        self.advance(time);
        let age = self.minute - minute_of(time);
        let at = i64::try_from(MINUTES).unwrap_or(i64::MAX) - 1 - age;
        let slot = usize::try_from(at)
            .ok()
            .and_then(|at| self.minutes.get_mut(at));
        let Some(slot) = slot else { return };
        match state {
            State::Queued | State::Scheduled => slot.enqueued += 1,
            State::Succeeded => slot.succeeded += 1,
            state if state.is_terminal() => slot.failed += 1,
            _ => {}
        }
    }

    /// Drops minutes that are too old at this time.
    pub(super) fn advance(&mut self, now: Timestamp) {
        let passed = (minute_of(now) - self.minute).clamp(0, MINUTES as i64);
        for _ in 0..passed {
            self.minutes.pop_front();
            self.minutes.push_back(MinuteCounts::default());
        }
        self.minute = self.minute.max(minute_of(now));
    }

    /// The counts, the oldest minute first.
    pub(super) fn minutes(&self) -> Vec<MinuteCounts> {
        self.minutes.iter().copied().collect()
    }
}

fn minute_of(time: Timestamp) -> i64 {
    time.unix_ms().div_euclid(60_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::QueueName;
    use proptest::prelude::*;

    fn queue(name: &str, depth: u64) -> QueueInfo {
        QueueInfo {
            name: QueueName::new(name).unwrap(),
            depth,
            running: 0,
            delayed: 0,
            bytes: 0,
            oldest: None,
            paused: false,
            max_running: None,
            replicas: 1,
        }
    }

    fn facts(queues: Vec<QueueInfo>) -> Facts {
        Facts {
            queues,
            workers: Vec::new(),
            schedulers: Vec::new(),
            leader: None,
            clock_skew: None,
            jobs: Vec::new(),
            vanished: Vec::new(),
            server: String::new(),
        }
    }

    #[test]
    fn a_warning_names_the_queue_and_the_command() {
        assert_eq!(warnings(&facts(vec![queue("empty", 0)])), []);
        let mut paused = queue("paused", 1);
        paused.paused = true;
        let found = warnings(&facts(vec![queue("build", 3), paused]));
        assert_eq!(
            found,
            [
                Warning {
                    text: "no worker serves the queue `build`, which contains 3 jobs".to_owned(),
                    command: "naq worker build".to_owned(),
                },
                Warning {
                    text: "the queue `paused` is paused and contains 1 job".to_owned(),
                    command: "naq queue resume paused".to_owned(),
                },
            ]
        );
    }

    #[test]
    fn a_worker_that_vanished_is_a_warning() {
        let mut facts = facts(Vec::new());
        facts.vanished = vec![("host\u{202e}-1".to_owned(), 1)];
        let found = warnings(&facts);
        assert_eq!(
            found[0].text,
            "the worker `host\\u{202e}-1` sends no heartbeats and has not ended 1 job"
        );
        assert_eq!(found[0].command, "naq jobs --state running");
    }

    #[test]
    fn activity_is_counted_in_its_minute() {
        let at = |minute: i64| Timestamp::from_unix_ms(minute * 60_000 + 1).unwrap();
        let mut activity = Activity::new(at(100));
        activity.count(at(100), State::Succeeded);
        activity.count(at(99), State::Failed);
        activity.count(at(41), State::Queued);
        activity.count(at(40), State::Queued);
        activity.count(at(102), State::Cancelled);
        let minutes = activity.minutes();
        assert_eq!(minutes.len(), MINUTES);
        assert_eq!(minutes[59].failed, 1);
        assert_eq!(minutes[57].succeeded, 1);
        assert_eq!(minutes[56].failed, 1);
        // 41 was the oldest at the time, and has passed since
        assert_eq!(minutes.iter().map(|one| one.enqueued).sum::<u64>(), 0);
    }

    proptest! {
        #[test]
        fn activity_keeps_sixty_minutes(times in proptest::collection::vec(0i64..1_000_000_000, 0..50)) {
            let mut activity = Activity::new(Timestamp::from_unix_ms(0).unwrap());
            for time in times {
                activity.count(Timestamp::from_unix_ms(time).unwrap(), State::Queued);
                prop_assert_eq!(activity.minutes().len(), MINUTES);
            }
        }
    }
}
