//! Schedules in their bucket.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use bytes::Bytes;

use crate::broker::Broker;
use crate::error::{BrokerError, is_stream_not_found};
use crate::names::Names;
use crate::stream::publish::{PendingWrite, removal_headers, revision_headers};
use crate::stream::stream_api::MessageSelector;
use crate::stream::stream_reader::{StreamMessage, StreamRead};
use crate::watch::{Parsed, Watch, WatchEvent, sequence};
use naq_protocol::{EnvelopeError, RejectReason, Schedule, ScheduleId, Timestamp};

/// How long an ended schedule is kept.
const ENDED_TTL: Duration = Duration::from_secs(7 * 86_400);

/// A stored schedule.
#[derive(Clone, Debug)]
pub struct StoredSchedule {
    /// The schedule's id.
    pub schedule_id: ScheduleId,
    /// The revision: the schedule's sequence in the bucket's stream. It only grows.
    pub revision: u64,
    /// The schedule as JSON. `None` if it was removed.
    pub payload: Option<Bytes>,
    /// The writer, if it identified itself.
    pub writer: Option<String>,
}

impl StoredSchedule {
    /// The schedule. Its name has to be the key under which it is stored: a write goes to the name, so
    /// a change of a schedule with another name would never arrive.
    ///
    /// # Errors
    /// Returns [`EnvelopeError`] with the path of the invalid field.
    pub fn parse(&self) -> Result<Schedule, EnvelopeError> {
        let schedule = Schedule::parse(self.payload.as_deref().unwrap_or_default())?;
        if schedule.schedule_id == self.schedule_id {
            return Ok(schedule);
        }
        let problem = format!(
            "it calls itself `{}`, and is stored as `{}`",
            schedule.schedule_id, self.schedule_id
        );
        Err(EnvelopeError::new(
            RejectReason::Invalid,
            "schedule_id",
            problem,
        ))
    }
}

/// A watch on all schedules. It compares revisions.
pub type ScheduleWatch = Watch<StoredSchedule>;

/// An event of a schedule watch.
pub type ScheduleEvent = WatchEvent<StoredSchedule>;

/// Parses a republished schedule, or the marker of a removed one.
fn parse_stored_schedule(names: &Names, message: Message) -> Parsed<StoredSchedule> {
    let revision = sequence(&message);
    Parsed {
        sequence: revision,
        value: revision.and_then(|revision| read_change(names, message, revision)),
    }
}

fn read_change(names: &Names, message: Message, revision: u64) -> Option<StoredSchedule> {
    let schedule_id = names.schedule_of_event(&message.subject)?;
    let headers = message.headers.unwrap_or_default();
    let is_marker = headers.get("KV-Operation").is_some()
        || headers.get("Nats-Marker-Reason").is_some()
        || message.payload.is_empty();
    Some(StoredSchedule {
        schedule_id,
        revision,
        payload: (!is_marker).then_some(message.payload),
        writer: headers
            .get(crate::headers::WRITER)
            .map(|value| value.as_str().to_owned()),
    })
}

impl Broker {
    /// Reads a schedule from the leader, and the revision that a write has to follow: 0 if there is
    /// none, or that of the marker that a removed schedule left.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, and [`BrokerError::InvalidData`] if the
    /// stored value is not a schedule.
    pub async fn read_schedule(
        &self,
        schedule: &ScheduleId,
    ) -> Result<(Option<Schedule>, u64), BrokerError> {
        let stored = self.read_stored_schedule(schedule).await?;
        if stored.payload.is_none() {
            return Ok((None, stored.revision));
        }
        let read = stored
            .parse()
            .map_err(|error| BrokerError::InvalidSchedule {
                schedule: schedule.clone(),
                source: std::sync::Arc::new(error),
            })?;
        Ok((Some(read), stored.revision))
    }

    /// Reads what is stored under a schedule's id, even if it cannot be parsed.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn read_stored_schedule(
        &self,
        schedule: &ScheduleId,
    ) -> Result<StoredSchedule, BrokerError> {
        let stream = Names::bucket_stream(&self.names.schedules_bucket());
        let subject = self.names.schedule(schedule);
        let message = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(match message {
            Some(message) => StoredSchedule {
                schedule_id: schedule.clone(),
                revision: message.sequence,
                payload: Some(message.payload()).filter(|payload| !payload.is_empty()),
                writer: message.header(crate::headers::WRITER),
            },
            None => StoredSchedule {
                schedule_id: schedule.clone(),
                revision: 0,
                payload: None,
                writer: None,
            },
        })
    }

    /// Sends a schedule to be stored if its revision is still `expected` (0: if there is none),
    /// without waiting for the server's acknowledgement. An ended schedule expires after a week.
    ///
    /// # Errors
    /// Returns an error if the message cannot be sent.
    pub async fn send_schedule(
        &self,
        schedule: &Schedule,
        expected: u64,
        writer: Option<&str>,
    ) -> Result<PendingWrite, BrokerError> {
        let (subject, headers, payload) = self.schedule_message(schedule, expected, writer)?;
        self.send(subject, headers, payload).await
    }

    fn schedule_message(
        &self,
        schedule: &Schedule,
        expected: u64,
        writer: Option<&str>,
    ) -> Result<(String, HeaderMap, Bytes), BrokerError> {
        let payload = serde_json::to_vec(schedule)
            .map_err(|error| BrokerError::not_json("the schedule", error))?;
        let has_ended = schedule.status == naq_protocol::ScheduleStatus::Ended;
        let mut headers = revision_headers(expected, has_ended.then_some(ENDED_TTL));
        if let Some(writer) = writer {
            headers.insert(crate::headers::WRITER, writer);
        }
        let subject = self.names.schedule(&schedule.schedule_id);
        Ok((subject, headers, payload.into()))
    }

    /// Waits for the server's acknowledgement of a schedule that was sent. Returns its revision.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the schedule has changed, and [`BrokerError::NotFound`]
    /// if the bucket does not exist.
    pub async fn confirm_schedule(&self, pending: PendingWrite) -> Result<u64, BrokerError> {
        match pending.confirmed().await {
            Ok(confirmed) => Ok(confirmed.sequence),
            Err(error) => Err(error),
        }
    }

    /// Stores a schedule if its revision is still `expected`, and creates the bucket if it does not
    /// exist. Returns the new revision.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the schedule has changed.
    pub async fn write_schedule(
        &self,
        schedule: &Schedule,
        expected: u64,
    ) -> Result<u64, BrokerError> {
        let (subject, headers, payload) = self.schedule_message(schedule, expected, None)?;
        let ensure = || self.ensure_schedules();
        let stored = self.store_creating(subject, headers, payload, ensure);
        stored.await.map(|stored| stored.sequence)
    }

    /// Removes a schedule if its revision is still `expected`.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the schedule has changed.
    pub async fn remove_schedule(
        &self,
        schedule: &ScheduleId,
        expected: u64,
    ) -> Result<(), BrokerError> {
        let subject = self.names.schedule(schedule);
        self.store(subject, removal_headers(expected), Bytes::new())
            .await
            .map(drop)
    }

    /// Lists all schedules; empty if there never was one.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_schedules(&self) -> Result<ScheduleListing, BrokerError> {
        self.read_schedules(DeliverPolicy::LastPerSubject, false)
            .await
    }

    /// Lists the schedules that were stored or removed after a revision.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_schedules_since(
        &self,
        revision: u64,
    ) -> Result<ScheduleListing, BrokerError> {
        let deliver = DeliverPolicy::ByStartSequence {
            start_sequence: revision + 1,
        };
        self.read_schedules(deliver, true).await
    }

    async fn read_schedules(
        &self,
        deliver: DeliverPolicy,
        with_removed: bool,
    ) -> Result<ScheduleListing, BrokerError> {
        let bucket = self.names.schedules_bucket();
        let scan = StreamRead {
            filter: format!("$KV.{bucket}.>"),
            deliver,
            headers_only: false,
        };
        let messages = self
            .read_stream(&Names::bucket_stream(&bucket), scan)
            .await?;
        Ok(ScheduleListing {
            names: self.names.as_ref().clone(),
            messages,
            with_removed,
        })
    }

    /// The state of the bucket of schedules.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn schedules_state(&self) -> Result<SchedulesState, BrokerError> {
        const DOING: &str = "reading a stream's state";
        let stream = Names::bucket_stream(&self.names.schedules_bucket());
        let asking = self.jetstream.get_stream(&stream);
        match self.until_denied(DOING, &stream, asking).await? {
            Ok(found) => Ok(SchedulesState {
                created_at: Some(Timestamp(found.cached_info().created)),
                last_revision: found.cached_info().state.last_sequence,
            }),
            Err(error) if is_stream_not_found(&error) => Ok(SchedulesState::default()),
            Err(error) => Err(self.request_error(DOING, error)),
        }
    }

    /// Watches schedules as they are stored and removed. Earlier changes are not reported: list the
    /// schedules once the watch is open.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_schedules(&self) -> Result<ScheduleWatch, BrokerError> {
        self.ensure_schedules().await?;
        let subjects = vec![self.names.schedule_events()];
        Watch::open(self, subjects, parse_stored_schedule).await
    }
}

/// The state of the bucket of schedules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulesState {
    /// When the bucket was created: revisions of another one mean nothing here. `None` if it does not
    /// exist.
    pub created_at: Option<Timestamp>,
    /// The revision of the last change of any schedule.
    pub last_revision: u64,
}

/// The schedules of a bucket, read on demand.
pub struct ScheduleListing {
    names: Names,
    messages: tokio::sync::mpsc::Receiver<Result<StreamMessage, BrokerError>>,
    with_removed: bool,
}

impl ScheduleListing {
    /// The next schedule. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<StoredSchedule>, BrokerError> {
        while let Some(message) = self.messages.recv().await {
            let message = message?;
            let Some(schedule_id) = self.names.schedule_of_key(&message.subject) else {
                continue;
            };
            let is_removed = message.payload.is_empty();
            if is_removed && !self.with_removed {
                continue;
            }
            return Ok(Some(StoredSchedule {
                schedule_id,
                revision: message.sequence,
                payload: (!is_removed).then_some(message.payload),
                writer: message
                    .headers
                    .get(crate::headers::WRITER)
                    .map(|value| value.as_str().to_owned()),
            }));
        }
        Ok(None)
    }
}
