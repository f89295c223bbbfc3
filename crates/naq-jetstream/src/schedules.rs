//! Schedules in their bucket, and the lease that makes one scheduler the leader.
//!
//! Both buckets republish what is stored in them under a subject of their own, so that a watch
//! needs no consumer and sees no refused write.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

use super::connect::ConnectionWatch;
use super::names::Names;
use super::publish::PendingWrite;
use super::records::revision_headers;
use super::stream_api::MessageSelector;
use super::stream_reader::StreamRead;
use super::{Broker, BrokerError};
use naq_protocol::{LeaderInfo, Schedule, ScheduleId};

/// The writer of a schedule, so that it recognises its own writes.
const WRITER_HEADER: &str = "Naq-Writer";

/// How long an ended schedule is kept.
const ENDED_TTL: Duration = Duration::from_secs(7 * 86_400);

/// How long the marker of a removed schedule or a released lease is kept.
const MARKER_TTL: Duration = Duration::from_secs(600);

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

/// An event of a schedule watch.
#[derive(Debug)]
pub enum ScheduleEvent {
    /// A schedule was stored or removed.
    Changed(StoredSchedule),
    /// Changes may have been missed because the connection was lost: list the schedules again.
    Resync,
    /// The revisions show that changes were missed: list what was stored since the
    /// [position](ScheduleWatch::position). A server of a cluster can go down after it stores a
    /// change and before it republishes it, and a client that is connected to another server
    /// notices nothing.
    Gap,
}

/// A watch on all schedules.
pub struct ScheduleWatch {
    names: Names,
    changes: Subscriber,
    link: ConnectionWatch,
    generation: u64,
    position: u64,
}

impl ScheduleWatch {
    /// The newest revision that was seen.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Marks a revision, and all before it, as seen by other means.
    pub fn mark_seen_up_to(&mut self, revision: u64) {
        self.position = self.position.max(revision);
    }

    /// Whether [`next`](Self::next) has reported every loss of the connection so far.
    #[must_use]
    pub fn is_uninterrupted(&self) -> bool {
        let link = self.link.state();
        link.connected && link.generation == self.generation
    }

    /// Waits for the next event. Cancel safe.
    pub async fn next(&mut self) -> ScheduleEvent {
        loop {
            tokio::select! {
                biased;
                message = self.changes.next() => {
                    let Some(message) = message else {
                        return std::future::pending().await;
                    };
                    let Some(revision) = revision(&message) else {
                        continue;
                    };
                    if revision > self.position + 1 {
                        return ScheduleEvent::Gap;
                    }
                    self.mark_seen_up_to(revision);
                    if let Some(stored) = read_change(&self.names, message, revision) {
                        return ScheduleEvent::Changed(stored);
                    }
                }
                link = self.link.changed() => {
                    if link.connected && link.generation != self.generation {
                        self.generation = link.generation;
                        return ScheduleEvent::Resync;
                    }
                }
            }
        }
    }
}

/// The sequence in the bucket's stream of a republished message.
fn revision(message: &Message) -> Option<u64> {
    let value = message.headers.as_ref()?.get("Nats-Sequence")?;
    value.as_str().parse().ok()
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
            .get(WRITER_HEADER)
            .map(|value| value.as_str().to_owned()),
    })
}

/// The stored leader lease.
#[derive(Clone, Debug)]
pub struct StoredLeaderLease {
    /// The current leader. `None` if there is none.
    pub leader: Option<LeaderInfo>,
    /// The revision at which the lease can be acquired.
    pub revision: u64,
}

/// An event of a leader lease watch.
#[derive(Debug)]
pub enum LeaderLeaseEvent {
    /// The lease was acquired, renewed or released.
    Changed(StoredLeaderLease),
    /// Changes may have been missed because the connection was lost: read the lease again.
    Resync,
}

/// A watch on the leader lease.
pub struct LeaderLeaseWatch {
    changes: Subscriber,
    link: ConnectionWatch,
    generation: u64,
}

impl LeaderLeaseWatch {
    /// Waits for the next event. Cancel safe.
    pub async fn next(&mut self) -> LeaderLeaseEvent {
        loop {
            tokio::select! {
                biased;
                message = self.changes.next() => {
                    let Some(message) = message else {
                        return std::future::pending().await;
                    };
                    if let Some(revision) = revision(&message) {
                        return LeaderLeaseEvent::Changed(StoredLeaderLease {
                            leader: serde_json::from_slice(&message.payload).ok(),
                            revision,
                        });
                    }
                }
                link = self.link.changed() => {
                    if link.connected && link.generation != self.generation {
                        self.generation = link.generation;
                        return LeaderLeaseEvent::Resync;
                    }
                }
            }
        }
    }
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
        let stream = Names::bucket_stream(&self.names.schedules_bucket());
        let subject = self.names.schedule(schedule);
        let Some(message) = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?
        else {
            return Ok((None, 0));
        };
        let payload = message.payload();
        if payload.is_empty() {
            return Ok((None, message.sequence));
        }
        let read = Schedule::parse(&payload).map_err(|error| {
            BrokerError::InvalidData(format!(
                "the schedule `{schedule}` cannot be read: {error}; `naq job-control {schedule} cancel` removes it"
            ))
        })?;
        Ok((Some(read), message.sequence))
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
                writer: message.header(WRITER_HEADER),
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
        let payload = serde_json::to_vec(schedule).map_err(|error| {
            BrokerError::InvalidData(format!("the schedule cannot be written as JSON: {error}"))
        })?;
        let has_ended = schedule.status == naq_protocol::ScheduleStatus::Ended;
        let mut headers = revision_headers(expected, has_ended.then_some(ENDED_TTL));
        if let Some(writer) = writer {
            headers.insert(WRITER_HEADER, writer);
        }
        let subject = self.names.schedule(&schedule.schedule_id);
        self.send(subject, headers, payload.into()).await
    }

    /// Waits for the server's acknowledgement of a schedule that was sent. Returns its revision.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the schedule has changed, and [`BrokerError::NotFound`]
    /// if the bucket does not exist.
    pub async fn confirm_schedule(&self, pending: PendingWrite) -> Result<u64, BrokerError> {
        match pending.confirmed().await {
            Ok(confirmed) => Ok(confirmed.sequence),
            Err(BrokerError::Timeout(doing)) => Err(self.timeout_error(doing)),
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
        let sent = self.send_schedule(schedule, expected, None).await?;
        match self.confirm_schedule(sent).await {
            Err(BrokerError::NotFound(_)) => {
                self.ensure_schedules().await?;
                let sent = self.send_schedule(schedule, expected, None).await?;
                self.confirm_schedule(sent).await
            }
            written => written,
        }
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
        let mut headers = revision_headers(expected, Some(MARKER_TTL));
        headers.insert("KV-Operation", "DEL");
        let subject = self.names.schedule(schedule);
        let sent = self.send(subject, headers, Bytes::new()).await?;
        self.confirm_schedule(sent).await.map(|_| ())
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

    /// The revision of the last change of any schedule.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn last_schedule_revision(&self) -> Result<u64, BrokerError> {
        let stream = Names::bucket_stream(&self.names.schedules_bucket());
        self.last_sequence(&stream).await
    }

    /// Watches schedules as they are stored and removed. Earlier changes are not reported: list the
    /// schedules once the watch is open.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_schedules(&self) -> Result<ScheduleWatch, BrokerError> {
        self.ensure_schedules().await?;
        let mut link = self.link.clone();
        let generation = link.mark_seen().generation;
        Ok(ScheduleWatch {
            changes: self.subscribe(self.names.schedule_events()).await?,
            names: self.names.as_ref().clone(),
            link,
            generation,
            position: 0,
        })
    }

    /// Watches the leader lease.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_leader_lease(&self) -> Result<LeaderLeaseWatch, BrokerError> {
        self.ensure_leader_lease().await?;
        let mut link = self.link.clone();
        let generation = link.mark_seen().generation;
        Ok(LeaderLeaseWatch {
            changes: self.subscribe(self.names.leader_lease_events()).await?,
            link,
            generation,
        })
    }

    async fn subscribe(&self, subject: String) -> Result<Subscriber, BrokerError> {
        self.client
            .subscribe(subject)
            .await
            .map_err(|error| BrokerError::ConnectionLost(error.to_string()))
    }

    /// Reads the leader lease from the server that leads its stream.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn read_leader_lease(&self) -> Result<StoredLeaderLease, BrokerError> {
        let stream = Names::bucket_stream(&self.names.leader_lease_bucket());
        let subject = self.names.leader_lease();
        let message = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(match message {
            Some(message) => StoredLeaderLease {
                leader: serde_json::from_slice(&message.payload()).ok(),
                revision: message.sequence,
            },
            None => StoredLeaderLease {
                leader: None,
                revision: 0,
            },
        })
    }

    /// Acquires or renews the leader lease, if its revision is still `expected`; it expires after
    /// `ttl`, in whole seconds. Returns the new revision.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the lease has changed.
    pub async fn acquire_leader_lease(
        &self,
        leader: &LeaderInfo,
        expected: u64,
        ttl: Duration,
    ) -> Result<u64, BrokerError> {
        let payload = serde_json::to_vec(leader).map_err(|error| {
            BrokerError::InvalidData(format!(
                "the leader lease cannot be written as JSON: {error}"
            ))
        })?;
        let headers = revision_headers(expected, Some(ttl));
        let sent = self
            .send(self.names.leader_lease(), headers, payload.into())
            .await?;
        self.confirm_schedule(sent).await
    }

    /// Releases the leader lease if its revision is still `expected`.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if another scheduler has already acquired it.
    pub async fn release_leader_lease(&self, expected: u64) -> Result<(), BrokerError> {
        let mut headers = revision_headers(expected, Some(MARKER_TTL));
        headers.insert("KV-Operation", "DEL");
        let sent = self
            .send(self.names.leader_lease(), headers, Bytes::new())
            .await?;
        self.confirm_schedule(sent).await.map(|_| ())
    }
}

/// The schedules of a bucket, read on demand.
pub struct ScheduleListing {
    names: Names,
    messages: tokio::sync::mpsc::Receiver<Result<super::stream_reader::StreamMessage, BrokerError>>,
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
                    .get(WRITER_HEADER)
                    .map(|value| value.as_str().to_owned()),
            }));
        }
        Ok(None)
    }
}
