//! Dead letters grouped by cause.

use std::collections::{BTreeSet, HashMap};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Client, ClientError, DeadLetterFilter, FailureGroupId};
use crate::failure_group_id::group_of;
use naq_core::FailureGroup;
use naq_jetstream::DeadLetter;
use naq_protocol::{JobId, QueueName, Reason, Timestamp};

/// Maximum number of separate groups. Further ones, the smallest, are counted together.
const GROUPS_MAX: usize = 200;

/// Maximum number of jobs that a group names: those that failed last.
const JOBS_NAMED_MAX: usize = 10;

/// Maximum number of queues that a group names.
const QUEUES_NAMED_MAX: usize = 10;

/// Failed jobs with the same cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "failure_group")]
#[non_exhaustive]
pub struct DeadLetterGroup {
    /// The id, by which `naq failed` and the API select the jobs of the group. Absent for the jobs of all
    /// smaller groups together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<FailureGroupId>,
    /// Why the jobs failed. Absent if it is unknown, or differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The exit code, if it is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal, if it is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What the errors of the jobs have in common. Absent if they have no error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The error of the job that failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of jobs.
    pub count: u64,
    /// When the first of them failed.
    pub first_seen: Timestamp,
    /// When the last of them failed.
    pub last_seen: Timestamp,
    /// Queues of the jobs, at most 10.
    pub queues: BTreeSet<QueueName>,
    /// The jobs that failed last, at most 10, the last one first.
    pub jobs: Vec<JobId>,
}

impl DeadLetterGroup {
    fn new(job: &DeadLetter, of: Option<(FailureGroupId, FailureGroup)>) -> DeadLetterGroup {
        let (group, cause) = of.unzip();
        DeadLetterGroup {
            group,
            reason: cause.as_ref().and_then(|cause| cause.reason),
            exit_code: cause.as_ref().and_then(|cause| cause.exit_code),
            signal: cause.as_ref().and_then(|cause| cause.signal),
            pattern: cause.and_then(|cause| cause.error),
            error: None,
            count: 0,
            first_seen: job.time,
            last_seen: job.time,
            queues: BTreeSet::new(),
            jobs: Vec::new(),
        }
    }

    /// The cause in one line: `exit 3`, `spawn: cannot start `…``.
    #[must_use]
    pub fn cause(&self) -> String {
        if self.group.is_none() {
            return "other causes".to_owned();
        }
        let cause = FailureGroup {
            reason: self.reason,
            exit_code: self.exit_code,
            signal: self.signal,
            error: self.pattern.clone(),
        };
        cause.to_string()
    }

    /// Counts a job that failed after all counted ones.
    fn add(&mut self, job: &DeadLetter) {
        self.count += 1;
        self.first_seen = self.first_seen.min(job.time);
        self.last_seen = self.last_seen.max(job.time);
        self.error.clone_from(&job.error);
        self.add_queue(&job.queue);
        self.jobs.truncate(JOBS_NAMED_MAX - 1);
        self.jobs.insert(0, job.job_id.clone());
    }

    fn add_queue(&mut self, queue: &QueueName) {
        if self.queues.len() < QUEUES_NAMED_MAX {
            self.queues.insert(queue.clone());
        }
    }

    /// Adds the jobs of another group.
    fn absorb(&mut self, other: &DeadLetterGroup) {
        self.count += other.count;
        self.first_seen = self.first_seen.min(other.first_seen);
        if other.last_seen >= self.last_seen {
            self.last_seen = other.last_seen;
            self.error.clone_from(&other.error);
        }
        other.queues.iter().for_each(|queue| self.add_queue(queue));
    }
}

/// Dead letters, grouped by cause. [`Client::group_dead_letters`] returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterGroups {
    /// The groups, the one with the last failure first; at most 200.
    pub groups: Vec<DeadLetterGroup>,
    /// The jobs of smaller groups, together, without their ids. `None` means that every job is in
    /// `groups`. If it is `Some`, the count of a small group is a lower bound.
    pub other: Option<DeadLetterGroup>,
    /// Number of all selected jobs.
    pub jobs: u64,
    /// The sequence of the last one, for [`DeadLetterFilter::up_to`].
    pub up_to: u64,
}

/// Groups during the collection.
#[derive(Default)]
struct Collector {
    groups: HashMap<FailureGroupId, DeadLetterGroup>,
    other: Option<DeadLetterGroup>,
    jobs: u64,
    up_to: u64,
}

impl Collector {
    fn add(&mut self, job: &DeadLetter) {
        self.jobs += 1;
        self.up_to = self.up_to.max(job.sequence);
        let cause = group_of(job);
        let id = FailureGroupId::of_group(&cause);
        let group = self
            .groups
            .entry(id.clone())
            .or_insert_with_key(|id| DeadLetterGroup::new(job, Some((id.clone(), cause))));
        group.add(job);
        if self.groups.len() > GROUPS_MAX {
            self.merge_smallest(&id, job);
        }
    }

    /// Merges the smallest group into the others, but not the one that was just found: it may grow.
    fn merge_smallest(&mut self, newest: &FailureGroupId, job: &DeadLetter) {
        let older = self.groups.iter().filter(|(id, _)| *id != newest);
        let smallest = older.min_by_key(|(_, group)| (group.count, group.last_seen));
        let id = smallest.map(|(id, _)| id.clone());
        if let Some(group) = id.and_then(|id| self.groups.remove(&id)) {
            let other = self.other.get_or_insert_with(|| {
                let mut other = DeadLetterGroup::new(job, None);
                other.last_seen = group.last_seen;
                other
            });
            other.absorb(&group);
        }
    }

    fn finish(self) -> DeadLetterGroups {
        let mut groups: Vec<DeadLetterGroup> = self.groups.into_values().collect();
        groups.sort_by(|one, next| {
            let by_time = next.last_seen.cmp(&one.last_seen);
            by_time.then_with(|| one.group.cmp(&next.group))
        });
        DeadLetterGroups {
            groups,
            other: self.other,
            jobs: self.jobs,
            up_to: self.up_to,
        }
    }
}

impl Client {
    /// Groups the selected dead letters by cause: the reason, and the text of the error without ids, numbers,
    /// paths and quoted parts. Reads headers, not envelopes. Memory use is bounded.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, DeadLetterFilter};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// for group in client.group_dead_letters(&DeadLetterFilter::default()).await?.groups {
    ///     println!("{} times: {}", group.count, group.cause());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn group_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<DeadLetterGroups, ClientError> {
        let mut matching = self.matching(filter, false).await?;
        let mut collector = Collector::default();
        while let Some(job) = matching.next().await? {
            collector.add(&job);
        }
        Ok(collector.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::State;

    fn failed(sequence: u64, error: &str) -> DeadLetter {
        let time = Timestamp::from_unix_ms(i64::try_from(sequence).unwrap() * 1_000).unwrap();
        DeadLetter {
            job_id: JobId::new(format!("j{sequence}")).unwrap(),
            queue: QueueName::new(format!("q{}", sequence % 20)).unwrap(),
            sequence,
            state: State::Failed,
            reason: Some(Reason::Exit),
            exit_code: Some(3),
            signal: None,
            error: Some(error.to_owned()),
            attempt: 1,
            enqueue_time: time,
            time,
            headers: Vec::new(),
            headers_object: None,
            payload: bytes::Bytes::new(),
            object: None,
        }
    }

    fn grouped(jobs: impl IntoIterator<Item = DeadLetter>) -> DeadLetterGroups {
        let mut collector = Collector::default();
        for job in jobs {
            collector.add(&job);
        }
        collector.finish()
    }

    #[test]
    fn a_group_names_its_last_jobs_and_when_it_was_seen() {
        let jobs = (1..=25).map(|n| failed(n, &format!("order {n} is locked")));
        let found = grouped(jobs.chain([failed(26, "no route to host")]));
        assert_eq!((found.jobs, found.up_to, &found.other), (26, 26, &None));
        let [route, locked] = &found.groups[..] else {
            panic!("{found:?}");
        };
        assert_eq!(route.cause(), "exit 3: no route to host");
        assert_eq!(locked.cause(), "exit 3: order <n> is locked");
        assert_eq!(locked.error.as_deref(), Some("order 25 is locked"));
        assert_eq!(locked.count, 25);
        assert_eq!(locked.first_seen.unix_ms(), 1_000);
        assert_eq!(locked.last_seen.unix_ms(), 25_000);
        assert_eq!(locked.jobs.len(), JOBS_NAMED_MAX);
        assert_eq!(locked.jobs[0].as_str(), "j25");
        assert_eq!(locked.queues.len(), QUEUES_NAMED_MAX);
        let id = locked.group.clone().unwrap();
        assert_eq!(id, FailureGroupId::of(&failed(99, "order 99 is locked")));
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for wrong in ["", "x", "0123456789ABCDEF", "0123456789abcde"] {
            assert!(wrong.parse::<FailureGroupId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_number_of_groups_is_bounded_and_no_job_is_lost() {
        let word = |n: u64| -> String {
            let letters = [n / 400, n / 20 % 20, n % 20];
            let letter = |at: u64| char::from(b'a' + u8::try_from(at).unwrap());
            letters.map(letter).iter().collect()
        };
        let many = (1..=1_000).map(|n| failed(n, &format!("cannot find {}", word(n))));
        let often = (1_001..=1_100).map(|n| failed(n, "disk full"));
        let more = (1_101..=1_500).map(|n| failed(n, &format!("cannot read {}", word(n))));
        let found = grouped(many.chain(often).chain(more));
        assert_eq!(found.groups.len(), GROUPS_MAX);
        let other = found.other.unwrap();
        let counted: u64 = found.groups.iter().map(|group| group.count).sum();
        assert_eq!(counted + other.count, 1_500);
        assert_eq!(found.jobs, 1_500);
        assert_eq!(other.first_seen.unix_ms(), 1_000);
        assert!(other.last_seen < found.groups[0].last_seen);
        assert_eq!(other.cause(), "other causes");
        // frequent causes are not merged
        let disk = found
            .groups
            .iter()
            .find(|group| group.count == 100)
            .unwrap();
        assert_eq!(disk.cause(), "exit 3: disk full");
    }
}
