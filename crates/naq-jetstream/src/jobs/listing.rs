//! Lists jobs in all states, newest change first: records and the messages of queues, merged.
//!
//! Every source is a stream in the order of the server's time, so the newest of the sources' heads
//! is the newest of all. Nothing is read that the caller does not ask for. A caller with an index of the
//! records chooses which of them are read; the positions in the listing are the same with and without it.

use std::cmp::Ordering;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::indexed_scan::{IndexedScan, RecordRevisions, RevisionBound};
use super::message::{JobMessage, MessageState, delayed_state, job_id_of, job_message};
use super::unsuccessful_scan::{Listed, UnsuccessfulScan};
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::queues::denied_queues::DeniedQueues;
use crate::stream::reverse_scan::{Decode, ReverseScan};
use crate::stream::stream_api::StoredMessage;
use naq_protocol::{JobId, QueueName, Record, State, Timestamp};

/// A position in a listing, from which a later call continues.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobCursor {
    time: Timestamp,
    stream: String,
    sequence: u64,
}

impl JobCursor {
    /// When the job at this position was stored.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The sequence of the message at this position, if it is of this stream.
    fn sequence_in(&self, stream: &str) -> Option<u64> {
        (self.stream == stream).then_some(self.sequence)
    }
}

impl std::fmt::Display for JobCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = self.time.0.timestamp_nanos_opt().unwrap_or_default();
        write!(f, "{time}.{}.{}", self.sequence, self.stream)
    }
}

impl std::str::FromStr for JobCursor {
    type Err = String;
    fn from_str(text: &str) -> Result<JobCursor, String> {
        let read = || {
            let (time, rest) = text.split_once('.')?;
            let (sequence, stream) = rest.split_once('.')?;
            Some(JobCursor {
                time: Timestamp(chrono::DateTime::from_timestamp_nanos(time.parse().ok()?)),
                stream: stream.to_owned(),
                sequence: sequence.parse().ok()?,
            })
        };
        read().ok_or_else(|| {
            "not a position in a listing; pass the cursor that an earlier page returned".to_owned()
        })
    }
}

/// Options of a job listing.
#[derive(Clone, Debug, Default)]
pub struct JobListOptions {
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Exclude the records: jobs that have one are listed only as long as their message is in a
    /// queue.
    pub only_messages: bool,
    /// Exclude the messages of queues: list only jobs that have a record.
    pub only_records: bool,
    /// List only jobs before this position.
    pub before: Option<JobCursor>,
    /// The records to list. `None` means all of them.
    pub revisions: Option<Arc<dyn RecordRevisions>>,
    /// The states of the records that the caller looks for, if it looks for unsuccessful jobs only: other records may
    /// be left out. Empty means all states.
    pub unsuccessful: Vec<State>,
}

/// The record of a job, or else its message.
#[derive(Debug)]
pub enum RecordOrMessage {
    /// The job's record.
    Record(Box<Record>),
    /// The job's message, if it has no record.
    Message(JobId, JobMessage),
}

/// A job in a listing.
#[derive(Debug)]
pub struct ListedJob {
    /// Its record or message.
    pub entry: RecordOrMessage,
    /// When that was stored.
    pub changed_at: Timestamp,
    /// The job's position in the listing.
    pub cursor: JobCursor,
}

impl PartialEq for ListedJob {
    fn eq(&self, other: &ListedJob) -> bool {
        self.cursor == other.cursor
    }
}

impl Eq for ListedJob {}

impl PartialOrd for ListedJob {
    fn partial_cmp(&self, other: &ListedJob) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of the listing, the newest being the greatest.
impl Ord for ListedJob {
    fn cmp(&self, other: &ListedJob) -> Ordering {
        self.cursor.cmp(&other.cursor)
    }
}

impl Listed for ListedJob {
    fn stored_at(&self) -> Timestamp {
        self.changed_at
    }
}

/// Jobs, newest change first, read on demand.
pub struct JobListing {
    before: Option<JobCursor>,
    sources: Vec<Source>,
}

struct Source {
    jobs: SourceJobs,
    head: Option<ListedJob>,
}

/// Where the jobs of a source come from.
enum SourceJobs {
    /// All messages of a stream.
    Stream(Box<ReverseScan<ListedJob>>),
    /// The records that an index selects.
    Index(Box<IndexedScan<ListedJob>>),
    /// The records of unsuccessful jobs.
    Unsuccessful(Box<UnsuccessfulScan<ListedJob>>),
}

impl JobListing {
    /// The next job, which changed no later than the one before. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<ListedJob>, BrokerError> {
        let newest = self
            .sources
            .iter_mut()
            .max_by(|a, b| a.cursor().cmp(&b.cursor()));
        let Some(source) = newest else {
            return Ok(None);
        };
        let job = source.head.take();
        source.advance(self.before.as_ref()).await?;
        Ok(job)
    }
}

impl Source {
    fn cursor(&self) -> Option<&JobCursor> {
        self.head.as_ref().map(|head| &head.cursor)
    }

    async fn advance(&mut self, before: Option<&JobCursor>) -> Result<(), BrokerError> {
        loop {
            self.head = match &mut self.jobs {
                SourceJobs::Stream(jobs) => jobs.next().await?,
                SourceJobs::Index(jobs) => jobs.next().await?,
                SourceJobs::Unsuccessful(jobs) => jobs.next().await?,
            };
            match (&self.head, before) {
                (Some(head), Some(before)) if head.cursor >= *before => {}
                _ => return Ok(()),
            }
        }
    }
}

impl Broker {
    /// Lists jobs, newest change first. Without a queue in the options, these are the jobs of all queues
    /// that the user may read. A job that changes meanwhile may appear twice, or, in a listing that
    /// continues from a position, not at all.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, and [`BrokerError::StaleCursor`] if the stream of the
    /// position to continue at was removed, or has lost its last messages.
    pub async fn list_jobs(&self, options: &JobListOptions) -> Result<JobListing, BrokerError> {
        let mut wanted: Vec<(String, Decode<ListedJob>)> = Vec::new();
        if let Some(source) = self.open_unsuccessful(options).await? {
            return Ok(JobListing {
                before: options.before.clone(),
                sources: vec![source],
            });
        }
        if !options.only_messages && options.revisions.is_none() {
            wanted.push((
                Names::bucket_stream(&self.names.results_bucket()),
                decode_record,
            ));
        }
        if !options.only_records {
            let queues = match &options.queue {
                Some(queue) => vec![queue.clone()],
                None => self.queue_names().await?,
            };
            let decode: Decode<ListedJob> = if options.only_messages {
                |broker, stream, message| Box::pin(message_or_record(broker, stream, message))
            } else {
                |broker, stream, message| Box::pin(message_alone(broker, stream, message))
            };
            wanted.extend(
                queues
                    .iter()
                    .map(|queue| (self.names.queue_stream(queue), decode)),
            );
        }
        let before = options.before.as_ref();
        let until = before.map(|cursor| cursor.time);
        let mut opening: FuturesUnordered<_> = wanted
            .into_iter()
            .map(|(stream, decode)| async move {
                let is_queue = self.names.queue_of_stream(&stream).is_some();
                let is_one_of_all = is_queue && options.queue.is_none();
                let opening = async {
                    let sequence = before.and_then(|before| before.sequence_in(&stream));
                    let jobs = self.scan_reverse(stream, until, sequence, decode).await?;
                    let mut source = Source {
                        jobs: SourceJobs::Stream(Box::new(jobs)),
                        head: None,
                    };
                    source.advance(before).await?;
                    Ok::<_, BrokerError>(source)
                };
                (is_one_of_all, opening.await)
            })
            .collect();
        let (mut sources, mut denied) = (Vec::new(), DeniedQueues::default());
        while let Some((is_one_of_all, source)) = opening.next().await {
            match is_one_of_all {
                true => sources.extend(denied.leave_out(source)?),
                false => sources.push(source?),
            }
        }
        // the records of a user that may read no queue are a list of their own
        if options.only_messages {
            denied.check_some_readable()?;
        }
        drop(opening);
        if let (Some(revisions), false) = (&options.revisions, options.only_messages) {
            sources.push(self.open_indexed(revisions, before).await?);
        }
        Ok(JobListing {
            before: options.before.clone(),
            sources,
        })
    }

    /// Opens a source of the unsuccessful jobs, if the caller looks for no others. `None` means that all records have
    /// to be read.
    async fn open_unsuccessful(
        &self,
        options: &JobListOptions,
    ) -> Result<Option<Source>, BrokerError> {
        if options.unsuccessful.is_empty() || !options.only_records || options.revisions.is_some() {
            return Ok(None);
        }
        let before = options.before.as_ref();
        let stream = Names::bucket_stream(&self.names.results_bucket());
        let position = before.and_then(|before| before.sequence_in(&stream));
        let queue = options.queue.as_ref();
        let scan = self
            .scan_unsuccessful(&options.unsuccessful, queue, position, decode_record)
            .await?;
        let Some(jobs) = scan else {
            return Ok(None);
        };
        let mut source = Source {
            jobs: SourceJobs::Unsuccessful(Box::new(jobs)),
            head: None,
        };
        source.advance(before).await?;
        Ok(Some(source))
    }

    /// Opens a source of the records that an index selects, from a position on.
    async fn open_indexed(
        &self,
        revisions: &Arc<dyn RecordRevisions>,
        before: Option<&JobCursor>,
    ) -> Result<Source, BrokerError> {
        let stream = Names::bucket_stream(&self.names.results_bucket());
        let sequence = before.and_then(|before| before.sequence_in(&stream));
        // The index lags behind, so only the server knows whether the position exists.
        if let Some(sequence) = sequence
            && sequence > self.last_sequence(&stream).await?
        {
            return Err(BrokerError::StaleCursor);
        }
        let bound = match (before, sequence) {
            (None, _) => RevisionBound::Newest,
            (Some(_), Some(sequence)) => RevisionBound::Below(sequence),
            (Some(before), None) => RevisionBound::NoLaterThan(before.time),
        };
        let revisions = Arc::clone(revisions);
        let jobs = IndexedScan::new(self, stream, revisions, bound, decode_record);
        let mut source = Source {
            jobs: SourceJobs::Index(Box::new(jobs)),
            head: None,
        };
        source.advance(before).await?;
        Ok(source)
    }
}

/// Decodes a record of the bucket.
fn decode_record(
    _: Broker,
    stream: String,
    message: StoredMessage,
) -> BoxFuture<'static, Result<Option<ListedJob>, BrokerError>> {
    Box::pin(async move { Ok(record(stream, &message)) })
}

fn entry(stream: String, message: &StoredMessage, entry: RecordOrMessage) -> ListedJob {
    ListedJob {
        entry,
        changed_at: message.time,
        cursor: JobCursor {
            time: message.time,
            stream,
            sequence: message.sequence,
        },
    }
}

fn record(stream: String, message: &StoredMessage) -> Option<ListedJob> {
    let payload = message.payload();
    // the marker of a removed record has no payload
    if payload.is_empty() {
        return None;
    }
    let record: Record = match serde_json::from_slice(&payload) {
        Ok(record) => record,
        Err(problem) => {
            let key = message.subject.rsplit('.').next()?;
            let job = JobId::new(key).ok()?;
            Record::unreadable(job, &payload, message.time, &problem)?
        }
    };
    // a placeholder stands for a job that no worker has seen
    if record.placeholder {
        return None;
    }
    Some(entry(
        stream,
        message,
        RecordOrMessage::Record(Box::new(record)),
    ))
}

/// Lists a queue's message if its job has no record; a job with a record is listed from there.
async fn message_alone(
    broker: Broker,
    stream: String,
    message: StoredMessage,
) -> Result<Option<ListedJob>, BrokerError> {
    let job_message = message_or_record(broker, stream, message).await?;
    Ok(job_message.filter(|job| matches!(job.entry, RecordOrMessage::Message(..))))
}

async fn message_or_record(
    broker: Broker,
    stream: String,
    message: StoredMessage,
) -> Result<Option<ListedJob>, BrokerError> {
    let names = broker.names();
    let Some(queue) = names.queue_of_stream(&stream) else {
        return Ok(None);
    };
    if message.header(crate::headers::RECHECK).is_some() {
        return Ok(None);
    }
    let job_id = job_id_of(&queue, &message);
    let state = if names.is_delayed(&message.subject) {
        delayed_state(&message)
    } else {
        MessageState::Queued
    };
    let job = match broker.read_record(&job_id).await {
        // the message is about to go: it is acknowledged once the record is written
        Ok((Some(record), _)) if record.state().is_terminal() => return Ok(None),
        Ok((Some(record), _)) if !record.placeholder => RecordOrMessage::Record(Box::new(record)),
        Ok(_) | Err(BrokerError::InvalidData(_)) => {
            let mut job_message = job_message(&queue, &message, state);
            // a rerouted message states when the job was enqueued
            if let Some(time) = message.header(crate::headers::ENQUEUE_TIME)
                && let Ok(time) = time.parse()
            {
                job_message.time = time;
            }
            RecordOrMessage::Message(job_id, job_message)
        }
        Err(error) => return Err(error),
    };
    Ok(Some(entry(stream, &message, job)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_job_cursor_is_read_back(time in 0_i64..i64::MAX, sequence in any::<u64>(), stream in "[A-Za-z0-9_-]{1,80}") {
            let cursor = JobCursor {
                time: Timestamp(chrono::DateTime::from_timestamp_nanos(time)),
                stream,
                sequence,
            };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<JobCursor>();
        }
    }
}
