//! Jobs in whatever state, newest change first: records and the messages of queues, merged.
//!
//! Every source is a stream, and each is in the order of the server's time, so that the newest of
//! their heads is the newest of all. Nothing is read beyond what is asked for.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::blocked_index::RECHECK_HEADER;
use super::delayed::delayed_state;
use super::jobs::{JobMessage, MessageState, job_message};
use super::label_routes::ENQUEUE_TIME_HEADER;
use super::names::Names;
use super::reverse_scan::{Decode, ReverseScan};
use super::stream_api::StoredMessage;
use super::{Broker, BrokerError};
use naq_protocol::{Envelope, JobId, QueueName, Record, Timestamp};

/// A place in the order of a listing, which a later call can go on from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobCursor {
    time: Timestamp,
    stream: String,
    sequence: u64,
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
            "not a place in a listing; give what an earlier page ended with".to_owned()
        })
    }
}

/// What a listing has.
#[derive(Clone, Debug, Default)]
pub struct JobListOptions {
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Not the records: jobs that have one are shown where their message still is in a queue.
    pub only_messages: bool,
    /// Not the messages of queues: only jobs that have a record.
    pub only_records: bool,
    /// From below this place on.
    pub before: Option<JobCursor>,
}

/// What is known of a job.
#[derive(Debug)]
pub enum RecordOrMessage {
    /// Its record.
    Record(Box<Record>),
    /// Its message, where it has no record.
    Message(JobId, JobMessage),
}

/// A job in a listing.
#[derive(Debug)]
pub struct ListedJob {
    /// What is known of it.
    pub entry: RecordOrMessage,
    /// When that was stored.
    pub changed_at: Timestamp,
    /// Where it stands in the order.
    pub cursor: JobCursor,
}

/// Jobs, newest change first, read as they are asked for.
pub struct JobListing {
    before: Option<JobCursor>,
    sources: Vec<Source>,
}

struct Source {
    jobs: ReverseScan<ListedJob>,
    head: Option<ListedJob>,
}

impl JobListing {
    /// The next job, which has not changed since the one before; none where there are no more.
    ///
    /// # Errors
    /// Where the server does not answer.
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
            self.head = self.jobs.next().await?;
            match (&self.head, before) {
                (Some(head), Some(before)) if head.cursor >= *before => {}
                _ => return Ok(()),
            }
        }
    }
}

impl Broker {
    /// Lists jobs, newest change first. A job that changes meanwhile may be seen twice, or, where
    /// a place to go on from is given, not at all.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list_jobs(&self, options: &JobListOptions) -> Result<JobListing, BrokerError> {
        let mut wanted: Vec<(String, Decode<ListedJob>)> = Vec::new();
        if !options.only_messages {
            let records = Names::bucket_stream(&self.names.results_bucket());
            wanted.push((records, |_, stream, message| {
                Box::pin(async move { Ok(record(stream, &message)) })
            }));
        }
        if !options.only_records {
            let queues = match &options.queue {
                Some(queue) => vec![queue.clone()],
                None => self.queue_names().await?,
            };
            let look: Decode<ListedJob> = if options.only_messages {
                |broker, stream, message| Box::pin(message_or_record(broker, stream, message))
            } else {
                |broker, stream, message| Box::pin(message_alone(broker, stream, message))
            };
            wanted.extend(
                queues
                    .iter()
                    .map(|queue| (self.names.queue_stream(queue), look)),
            );
        }
        let before = options.before.as_ref();
        let until = before.map(|cursor| cursor.time);
        let mut opening: FuturesUnordered<_> = wanted
            .into_iter()
            .map(|(stream, look)| async move {
                let mut source = Source {
                    jobs: self.scan_reverse(stream, until, look).await?,
                    head: None,
                };
                source.advance(before).await?;
                Ok::<_, BrokerError>(source)
            })
            .collect();
        let mut sources = Vec::new();
        while let Some(source) = opening.next().await {
            sources.push(source?);
        }
        drop(opening);
        Ok(JobListing {
            before: options.before.clone(),
            sources,
        })
    }
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
    // a marker of a removed record has no payload
    let record: Record = serde_json::from_slice(&message.payload()).ok()?;
    // a placeholder stands for a job that nobody has seen
    if record.placeholder {
        return None;
    }
    Some(entry(
        stream,
        message,
        RecordOrMessage::Record(Box::new(record)),
    ))
}

/// A message of a queue whose job has no record; one that has is shown there.
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
    if message.header(RECHECK_HEADER).is_some() {
        return Ok(None);
    }
    let job_id = job_id_of(&queue, &message);
    let state = if names.is_delayed(&message.subject) {
        delayed_state(&message)
    } else {
        MessageState::Queued
    };
    let job = match broker.read_record(&job_id).await {
        // its message is on the way out: acknowledged once the record is written
        Ok((Some(record), _)) if record.state.is_terminal() => return Ok(None),
        Ok((Some(record), _)) if !record.placeholder => RecordOrMessage::Record(Box::new(record)),
        Ok(_) | Err(BrokerError::InvalidData(_)) => {
            let mut job_message = job_message(&queue, &message, state);
            // one that was handed on to workers with labels says when it was enqueued
            if let Some(time) = message.header(ENQUEUE_TIME_HEADER)
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

/// The id that a worker will know the job by: that of the subject, the envelope or the message,
/// else its place.
pub(super) fn job_id_of(queue: &QueueName, message: &StoredMessage) -> JobId {
    // after the prefix, the kind of subject and the queue; the last of what may follow
    let named = message
        .subject
        .split('.')
        .skip(3)
        .last()
        .and_then(|id| JobId::new(id).ok());
    named
        .or_else(|| Envelope::parse(&message.payload()).ok()?.job_id)
        .or_else(|| JobId::from_user(message.header("Nats-Msg-Id")?).ok())
        .unwrap_or_else(|| JobId::for_sequence(queue, message.sequence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_place_is_read_back(time in 0_i64..i64::MAX, sequence in any::<u64>(), stream in "[A-Za-z0-9_-]{1,80}") {
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
