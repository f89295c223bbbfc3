//! What happens to jobs: every change of a state, as it happens or as it is stored.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::filter::JobFilter;
use super::{Client, ClientError};
use crate::broker::{self, Change, ChangeWatch, Changed};
use crate::envelope::{JobId, QueueName, Reason, Record, State, Timestamp};

/// How many jobs that have not ended are remembered, to tell what they were before.
const REMEMBERED_MAX: usize = 65_536;

/// A change of a job's state.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// When it was stored.
    pub time: Timestamp,
    /// The job.
    pub job_id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// The state before, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_state: Option<State>,
    /// The state now.
    pub state: State,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What went wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Attempts begun so far.
    pub attempt: u32,
    /// The exit code of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The job this one repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<JobId>,
    /// The envelope's labels.
    pub labels: BTreeMap<String, String>,
    /// The record's revision: it grows from event to event.
    pub revision: u64,
}

impl Event {
    fn new(changed: Changed, previous_state: Option<State>) -> Event {
        let Record {
            job_id,
            queue,
            state,
            reason,
            error,
            attempt,
            exit_code,
            rerun_of,
            labels,
            enqueue_time,
            started_at,
            finished_at,
            ..
        } = changed.record;
        Event {
            time: changed
                .time
                .or(finished_at)
                .or(started_at)
                .unwrap_or(enqueue_time),
            job_id,
            queue,
            previous_state,
            state,
            reason,
            error,
            attempt,
            exit_code,
            rerun_of,
            labels,
            revision: changed.revision,
        }
    }
}

/// Changes of states as they happen.
pub struct Events {
    watch: ChangeWatch,
    filter: JobFilter,
    memory: Memory,
}

impl Events {
    /// Waits for the next one. None says that the connection was lost: states that were left
    /// again meanwhile are not told of, ends are. Cancel safe.
    ///
    /// # Errors
    /// Where NATS refuses.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let changed = match self.watch.next().await? {
                Change::Missed => return Ok(None),
                Change::Stored(changed) => changed,
            };
            let previous = match self.memory.take(&changed) {
                Seen::Changed(previous) => previous,
                Seen::Same => continue,
            };
            if self.filter.matches(&changed.record) {
                return Ok(Some(Event::new(*changed, previous)));
            }
        }
    }
}

/// The last change of each job.
pub struct StoredEvents {
    changes: broker::StoredChanges,
    filter: JobFilter,
}

impl StoredEvents {
    /// The next one; none where there are no more.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        while let Some(changed) = self.changes.next().await? {
            if self.filter.matches(&changed.record) {
                return Ok(Some(Event::new(changed, None)));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// Every change of a job's state from now on, as it happens.
    ///
    /// That a job was put into a queue is not among them: it has no record before a worker takes
    /// it. (A subscription to the queues' subjects would tell, and would answer in their place
    /// where a queue does not exist: its producers would wait in vain to be told so.)
    ///
    /// ```no_run
    /// # use naq::client::{Client, ClientError, JobFilter};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let mut events = client.events(&JobFilter::default()).await?;
    /// loop {
    ///     match events.next().await? {
    ///         Some(event) => println!("{} is {}", event.job_id, event.state),
    ///         None => println!("the connection was lost; ends are caught up with"),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn events(&self, filter: &JobFilter) -> Result<Events, ClientError> {
        Ok(Events {
            watch: self.broker.watch_changes().await?,
            filter: filter.clone(),
            memory: Memory::default(),
        })
    }

    /// The last change of each job that has a record, oldest first.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn stored_events(&self, filter: &JobFilter) -> Result<StoredEvents, ClientError> {
        Ok(StoredEvents {
            changes: self.broker.stored_changes().await?,
            filter: filter.clone(),
        })
    }
}

/// What jobs that have not ended were when they were last seen.
#[derive(Default)]
struct Memory(HashMap<JobId, (State, u32)>);

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Another state, or another attempt, than before, where that is known.
    Changed(Option<State>),
    /// The record was stored anew for something else: progress, a wish.
    Same,
}

impl Memory {
    fn take(&mut self, changed: &Changed) -> Seen {
        let record = &changed.record;
        let now = (record.state, record.attempt);
        let before = if record.state.is_terminal() {
            self.0.remove(&record.job_id)
        } else {
            if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&record.job_id) {
                // telling what a job was before is a courtesy, for which memory does not grow
                self.0.clear();
            }
            self.0.insert(record.job_id.clone(), now)
        };
        match before {
            Some(before) if before == now => Seen::Same,
            Some((state, _)) => Seen::Changed(Some(state)),
            // the first record follows the message in the queue
            None if changed.previous == Some(0) => Seen::Changed(Some(State::Queued)),
            None => Seen::Changed(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(id: &str, state: State, attempt: u32, previous: u64) -> Changed {
        let mut record = Record::new(
            JobId::new(id).unwrap(),
            QueueName::new("q").unwrap(),
            state,
            Timestamp::from_unix_ms(0).unwrap(),
        );
        record.attempt = attempt;
        Changed {
            record,
            revision: previous + 1,
            previous: Some(previous),
            copy_of: None,
            time: None,
        }
    }

    #[test]
    fn what_a_job_was_before_is_told() {
        let mut memory = Memory::default();
        let mut see =
            |state, attempt, previous| memory.take(&changed("a", state, attempt, previous));
        let from = |state| Seen::Changed(Some(state));
        assert_eq!(see(State::Running, 1, 0), from(State::Queued));
        assert_eq!(see(State::Running, 1, 1), Seen::Same);
        assert_eq!(see(State::Running, 2, 2), from(State::Running));
        assert_eq!(see(State::Retrying, 2, 3), from(State::Running));
        assert_eq!(see(State::Failed, 3, 4), from(State::Retrying));
        assert_eq!(see(State::Running, 1, 5), Seen::Changed(None));
        assert_eq!(memory.0.len(), 1);
    }

    #[test]
    fn memory_does_not_grow() {
        let mut memory = Memory::default();
        for number in 0..REMEMBERED_MAX * 2 + 10 {
            memory.take(&changed(&number.to_string(), State::Running, 1, 0));
        }
        assert!(memory.0.len() <= REMEMBERED_MAX);
    }
}
