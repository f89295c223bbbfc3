//! Events: every change of a job's state, as it happens, or the stored last change of each job.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::Serialize;

use super::filter::JobFilter;
use super::unclaimed::record_of;
use super::{Client, ClientError, RecordSummary};
use naq_jetstream::{
    BrokerEvent, BrokerEventWatch, EnqueuedMessage, EventScope, MessageState, OutlinedChange,
};
use naq_protocol::{JobId, Record, State, Timestamp};

/// How many jobs that have not ended are remembered, to report their previous states.
const REMEMBERED_MAX: usize = 65_536;

/// A change of a job's state.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "event")]
#[non_exhaustive]
pub struct JobEvent {
    /// When the server stored the change.
    pub time: Timestamp,
    /// The job as it is now.
    #[serde(flatten)]
    pub record: RecordSummary,
    /// The state before the change. `None` means that it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_state: Option<State>,
    /// The envelope's labels.
    pub labels: BTreeMap<String, String>,
    /// The revision of the record, which grows from event to event. `None` means that the event is
    /// the job's arrival in its queue, which no record contains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

impl JobEvent {
    /// Returns whether a filter selects this change.
    #[must_use]
    pub fn is_selected(&self, filter: &JobFilter) -> bool {
        filter.selects_job(&self.record.queue, self.record.state, &self.labels)
    }

    fn new(mut changed: OutlinedChange, previous_state: Option<State>) -> JobEvent {
        JobEvent {
            time: changed.time,
            previous_state,
            labels: changed.outline.take_labels(),
            revision: Some(changed.revision),
            record: RecordSummary::of_outline(changed.job_id, changed.outline),
        }
    }

    /// The event of a message that entered a queue.
    fn enqueued(record: Record, time: Timestamp, previous_state: Option<State>) -> JobEvent {
        JobEvent {
            time,
            record: RecordSummary::from(&record),
            previous_state,
            labels: record.labels,
            revision: None,
        }
    }
}

/// A change of the bucket of records, for a program that keeps its own view of all records. In contrast to a
/// [`JobEvent`], it is reported for every revision, whether the job's state changed or not.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecordUpdate<'a> {
    /// A record was stored.
    Stored(&'a OutlinedChange),
    /// A record was removed or has expired, or its key has something else than the record of a job that a worker
    /// has seen.
    Removed {
        /// The job.
        job_id: &'a JobId,
        /// The revision of the message that says so.
        revision: u64,
    },
    /// Changes after a revision were missed. The latest revision of each record that was stored since follows.
    CatchUpStarted {
        /// The last revision before the gap.
        after: u64,
        /// The last revision of the bucket.
        up_to: u64,
    },
    /// All that was missed has been reported, except for records that were removed without a marker.
    CatchUpFinished,
    /// The bucket was created again: no record from before exists.
    BucketReplaced,
}

/// A function that receives every change of the bucket of records.
pub type RecordObserver = Box<dyn FnMut(RecordUpdate<'_>) + Send>;

/// Changes of states as they happen. [`Client::events`] returns it.
pub struct JobEvents {
    watch: BrokerEventWatch,
    filter: JobFilter,
    memory: LastStates,
    observer: Option<RecordObserver>,
}

impl JobEvents {
    /// Calls a function for every change of the bucket of records, whatever the filter, within
    /// [`JobEvents::next`]. What the bucket contained before the watch is not reported.
    #[must_use]
    pub fn with_observer(mut self, observer: RecordObserver) -> JobEvents {
        self.observer = Some(observer);
        self
    }

    /// Waits for the next event. `None` means that the connection was lost and is open again: events
    /// of enqueued jobs and of intermediate states may be missing, ends of jobs follow. Cancel safe.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses the request.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, ClientError> {
        loop {
            let event = self.watch.next().await?;
            if let Some(observer) = &mut self.observer
                && let Some(update) = record_update(&event)
            {
                observer(update);
            }
            let event = match event {
                BrokerEvent::ConnectionLost => return Ok(None),
                BrokerEvent::RecordStored(changed) => self.on_record(*changed),
                BrokerEvent::MessageEnqueued(arrived) => self.on_message(*arrived),
                BrokerEvent::RecordReplaced(_)
                | BrokerEvent::RecordRemoved { .. }
                | BrokerEvent::CatchUpStarted { .. }
                | BrokerEvent::CatchUpFinished
                | BrokerEvent::BucketReplaced => None,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn on_record(&mut self, changed: OutlinedChange) -> Option<JobEvent> {
        let previous = match self.memory.on_record(&changed) {
            StateChange::Changed(previous) => previous,
            StateChange::Unchanged => return None,
        };
        let is_selected = self.filter.matches_outline(&changed.outline);
        is_selected.then(|| JobEvent::new(changed, previous))
    }

    fn on_message(&mut self, arrived: EnqueuedMessage) -> Option<JobEvent> {
        let state = match arrived.message.state {
            MessageState::Queued => State::Queued,
            // the record of the failed attempt has already reported the retry
            MessageState::Delayed { is_retry: true, .. } => return None,
            MessageState::Delayed { .. } => State::Scheduled,
        };
        let previous = match self.memory.on_message(&arrived.job_id, state, arrived.time) {
            StateChange::Changed(previous) => previous,
            StateChange::Unchanged => return None,
        };
        // parse the envelope, which contains the labels, only if the event may be selected
        if !self.filter.may_match_state(state) {
            return None;
        }
        let mut record = record_of(&arrived.job_id, &arrived.message);
        record.attempt = arrived.attempts;
        let is_selected = self.filter.matches(&record);
        is_selected.then(|| JobEvent::enqueued(record, arrived.time, previous))
    }
}

/// The change of the bucket that an event is about. `None` if it is about something else.
fn record_update(event: &BrokerEvent) -> Option<RecordUpdate<'_>> {
    Some(match event {
        BrokerEvent::RecordStored(changed) | BrokerEvent::RecordReplaced(changed) => {
            RecordUpdate::Stored(changed)
        }
        BrokerEvent::RecordRemoved { job_id, revision } => RecordUpdate::Removed {
            job_id,
            revision: *revision,
        },
        BrokerEvent::CatchUpStarted { after, up_to } => RecordUpdate::CatchUpStarted {
            after: *after,
            up_to: *up_to,
        },
        BrokerEvent::CatchUpFinished => RecordUpdate::CatchUpFinished,
        BrokerEvent::BucketReplaced => RecordUpdate::BucketReplaced,
        BrokerEvent::MessageEnqueued(_) | BrokerEvent::ConnectionLost => return None,
    })
}

/// The last change of each job. [`Client::latest_job_events`] returns it.
pub struct LatestJobEvents {
    changes: naq_jetstream::LatestRecordChanges,
    filter: JobFilter,
}

impl LatestJobEvents {
    /// Returns the next one. `None` means that there are no more.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, ClientError> {
        while let Some(changed) = self.changes.next().await? {
            if self.filter.matches_outline(&changed.outline) {
                return Ok(Some(JobEvent::new(changed, None)));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// Watches every change of a job's state from now on, including that a job was enqueued or
    /// delayed.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, JobFilter};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let mut events = client.events(&JobFilter::default()).await?;
    /// loop {
    ///     match events.next().await? {
    ///         Some(event) => println!("{} is {}", event.record.job_id, event.record.state),
    ///         None => println!("the connection was lost; events may be missing"),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn events(&self, filter: &JobFilter) -> Result<JobEvents, ClientError> {
        let sees_queues =
            filter.may_match_state(State::Queued) || filter.may_match_state(State::Scheduled);
        let scope = match sees_queues {
            true => EventScope::All,
            false => EventScope::Records,
        };
        Ok(JobEvents {
            watch: self.broker.watch_events(scope).await?,
            filter: filter.clone(),
            memory: LastStates {
                sees_queues,
                ..LastStates::default()
            },
            observer: None,
        })
    }

    /// Returns the last change of each job that has a record, oldest first.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn latest_job_events(
        &self,
        filter: &JobFilter,
    ) -> Result<LatestJobEvents, ClientError> {
        Ok(LatestJobEvents {
            changes: self.broker.latest_record_changes().await?,
            filter: filter.clone(),
        })
    }
}

/// The last known states of jobs that have not ended.
#[derive(Default)]
struct LastStates {
    jobs: HashMap<JobId, LastState>,
    /// Whether messages that enter queues are reported.
    sees_queues: bool,
}

#[derive(Clone, Copy)]
struct LastState {
    state: State,
    attempt: u32,
    time: Option<Timestamp>,
}

#[derive(Debug, PartialEq, Eq)]
enum StateChange {
    /// The state or the attempt differs from before. Contains the previous state, if it is known.
    Changed(Option<State>),
    /// The record was stored again for another reason: progress, a request, another start time.
    Unchanged,
}

impl LastStates {
    /// Updates the memory by a record that was stored.
    fn on_record(&mut self, changed: &OutlinedChange) -> StateChange {
        let now = LastState {
            state: changed.outline.state,
            attempt: changed.outline.attempt,
            time: Some(changed.time),
        };
        let before = if now.state.is_terminal() {
            self.jobs.remove(&changed.job_id)
        } else {
            self.insert(&changed.job_id, now)
        };
        match before {
            // its message has entered the queue in between, which was not reported
            Some(before)
                if !self.sees_queues
                    && now.state == State::Running
                    && matches!(before.state, State::Retrying | State::Waiting) =>
            {
                StateChange::Changed(Some(State::Queued))
            }
            Some(before) if (before.state, before.attempt) == (now.state, now.attempt) => {
                StateChange::Unchanged
            }
            Some(before) => StateChange::Changed(Some(before.state)),
            // a job gets its first record when a worker claims its message
            None if changed.previous == Some(0) => StateChange::Changed(Some(State::Queued)),
            None => StateChange::Changed(None),
        }
    }

    /// Updates the memory by a message that was enqueued or delayed.
    fn on_message(&mut self, job_id: &JobId, state: State, time: Timestamp) -> StateChange {
        match self.jobs.get_mut(job_id) {
            // a later record overtook the message, as may happen with several servers
            Some(known) if known.time > Some(time) => StateChange::Changed(None),
            // another message of a job that already has one; or a retry that is due at once, which
            // the record is about to report
            Some(known) if known.state == state || known.state == State::Running => {
                StateChange::Unchanged
            }
            Some(known) => {
                let before = std::mem::replace(&mut known.state, state);
                known.time = Some(time);
                StateChange::Changed(Some(before))
            }
            None => {
                // `Queued` need not be remembered: it is the default previous state of a first record
                if state != State::Queued {
                    let known = LastState {
                        state,
                        attempt: 0,
                        time: Some(time),
                    };
                    self.insert(job_id, known);
                }
                StateChange::Changed(None)
            }
        }
    }

    fn insert(&mut self, job_id: &JobId, known: LastState) -> Option<LastState> {
        if self.jobs.len() >= REMEMBERED_MAX && !self.jobs.contains_key(job_id) {
            // previous states are a convenience, so the memory is bounded
            self.jobs.clear();
        }
        self.jobs.insert(job_id.clone(), known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(id: &str, state: State, attempt: u32, previous: u64) -> OutlinedChange {
        let record = serde_json::json!({"queue": "q", "state": state, "attempt": attempt});
        OutlinedChange {
            job_id: JobId::new(id).unwrap(),
            outline: serde_json::from_value(record).unwrap(),
            revision: previous + 1,
            previous: Some(previous),
            copy_of: None,
            time: at(0),
        }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms).unwrap()
    }

    fn memory() -> LastStates {
        LastStates {
            sees_queues: true,
            ..LastStates::default()
        }
    }

    #[test]
    fn a_job_that_runs_was_queued_although_its_message_was_not_seen() {
        let mut memory = LastStates::default();
        let mut see =
            |state, attempt, previous| memory.on_record(&changed("a", state, attempt, previous));
        let from = |state| StateChange::Changed(Some(state));
        assert_eq!(see(State::Running, 1, 0), from(State::Queued));
        assert_eq!(see(State::Retrying, 1, 1), from(State::Running));
        assert_eq!(see(State::Running, 2, 2), from(State::Queued));
        // after the death of its worker
        assert_eq!(see(State::Running, 3, 3), from(State::Running));
        assert_eq!(see(State::Waiting, 3, 4), from(State::Running));
        assert_eq!(see(State::Running, 4, 5), from(State::Queued));
        assert_eq!(see(State::Failed, 4, 6), from(State::Running));
    }

    #[test]
    fn an_event_contains_the_previous_state() {
        let mut memory = memory();
        let mut see =
            |state, attempt, previous| memory.on_record(&changed("a", state, attempt, previous));
        let from = |state| StateChange::Changed(Some(state));
        assert_eq!(see(State::Running, 1, 0), from(State::Queued));
        assert_eq!(see(State::Running, 1, 1), StateChange::Unchanged);
        assert_eq!(see(State::Running, 2, 2), from(State::Running));
        assert_eq!(see(State::Retrying, 2, 3), from(State::Running));
        assert_eq!(see(State::Failed, 3, 4), from(State::Retrying));
        assert_eq!(see(State::Running, 1, 5), StateChange::Changed(None));
        assert_eq!(memory.jobs.len(), 1);
    }

    #[test]
    fn the_memory_of_last_states_is_bounded() {
        let mut memory = memory();
        for number in 0..REMEMBERED_MAX * 2 + 10 {
            memory.on_record(&changed(&number.to_string(), State::Running, 1, 0));
        }
        assert!(memory.jobs.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn an_enqueued_message_is_an_event_only_if_the_state_changes() {
        let mut memory = memory();
        let id = JobId::new("a").unwrap();
        let from = |state| StateChange::Changed(Some(state));
        let see = |memory: &mut LastStates, state, ms| memory.on_message(&id, state, at(ms));
        assert_eq!(
            see(&mut memory, State::Scheduled, 1),
            StateChange::Changed(None)
        );
        // rescheduled
        assert_eq!(
            see(&mut memory, State::Scheduled, 2),
            StateChange::Unchanged
        );
        assert_eq!(see(&mut memory, State::Queued, 3), from(State::Scheduled));
        let mut ran = changed("a", State::Running, 1, 0);
        ran.time = at(5);
        assert_eq!(memory.on_record(&ran), from(State::Queued));
        // another message of the job, and one that a later record overtook
        assert_eq!(see(&mut memory, State::Queued, 6), StateChange::Unchanged);
        assert_eq!(
            see(&mut memory, State::Queued, 4),
            StateChange::Changed(None)
        );
        let mut retrying = changed("a", State::Retrying, 1, 6);
        retrying.time = at(7);
        assert_eq!(memory.on_record(&retrying), from(State::Running));
        assert_eq!(see(&mut memory, State::Queued, 8), from(State::Retrying));
        let again = changed("a", State::Running, 2, 7);
        assert_eq!(memory.on_record(&again), from(State::Queued));
    }
}
