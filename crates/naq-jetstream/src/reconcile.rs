//! What a scheduler reads to reconcile: the index of blocked jobs, the records of unfinished jobs,
//! and orphaned messages.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::jobs::message::job_id_of;
use crate::names::Names;
use crate::stream::stream_api::MessageSelector;
use crate::stream::stream_reader::{StreamMessage, StreamRead};
use naq_protocol::{JobId, QueueName, Record, Timestamp};

/// Maximum number of orphaned messages that are returned for a queue.
const ORPHANED_MESSAGES_MAX: usize = 1_000;

/// The meaning of a key in the index of blocked jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockedIndexKey {
    /// A job waits for another job.
    Edge {
        /// The dependency.
        dependency: JobId,
        /// The blocked job.
        job: JobId,
    },
    /// A job with several dependencies still waits for one of them.
    Open {
        /// The blocked job.
        job: JobId,
    },
    /// A job waits for a concurrency slot.
    Slot {
        /// The blocked job.
        job: JobId,
    },
}

/// An entry in the index of blocked jobs.
#[derive(Clone, Debug)]
pub struct BlockedIndexEntry {
    /// The meaning of its key.
    pub key: BlockedIndexKey,
    /// When the key was written.
    pub written_at: Timestamp,
    subject: String,
}

/// The entries of the index, read on demand.
pub struct BlockedIndexListing {
    prefix: String,
    /// The keys of each form.
    messages: [mpsc::Receiver<Result<StreamMessage, BrokerError>>; 2],
}

impl BlockedIndexListing {
    /// The next entry to reconcile. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<BlockedIndexEntry>, BrokerError> {
        let [edges, others] = &mut self.messages;
        loop {
            let message = match edges.recv().await {
                Some(message) => message?,
                None => match others.recv().await {
                    Some(message) => message?,
                    None => return Ok(None),
                },
            };
            let key = message
                .subject
                .strip_prefix(&self.prefix)
                .and_then(read_key);
            let written_at = Timestamp::from_unix_ms(message.time_unix_ms);
            if let (Some(key), Some(written_at)) = (key, written_at)
                && !message.payload.is_empty()
            {
                return Ok(Some(BlockedIndexEntry {
                    key,
                    written_at,
                    subject: message.subject,
                }));
            }
        }
    }
}

fn read_key(key: &str) -> Option<BlockedIndexKey> {
    let job = |token: &str| JobId::new(token).ok();
    let tokens: Vec<&str> = key.split('.').collect();
    match tokens[..] {
        [dependency, waiting] => Some(BlockedIndexKey::Edge {
            dependency: job(dependency)?,
            job: job(waiting)?,
        }),
        ["open", waiting, _] => Some(BlockedIndexKey::Open { job: job(waiting)? }),
        ["slot", _, waiting] => Some(BlockedIndexKey::Slot { job: job(waiting)? }),
        _ => None,
    }
}

/// The records of jobs, read on demand.
pub struct RecordListing(mpsc::Receiver<Result<StreamMessage, BrokerError>>);

impl RecordListing {
    /// The next record that can be parsed, and when it was written. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<(Record, Timestamp)>, BrokerError> {
        while let Some(message) = self.0.recv().await {
            let message = message?;
            let record = serde_json::from_slice(&message.payload).ok();
            let written_at = Timestamp::from_unix_ms(message.time_unix_ms);
            if let (Some(record), Some(written_at)) = (record, written_at) {
                return Ok(Some((record, written_at)));
            }
        }
        Ok(None)
    }
}

/// A message in a queue that its consumer regards as acknowledged.
#[derive(Clone, Debug)]
pub struct OrphanedMessage {
    /// The queue.
    pub queue: QueueName,
    /// Its sequence in the queue's stream.
    pub sequence: u64,
    /// The job.
    pub job_id: JobId,
    /// The envelope's bytes.
    pub payload: Bytes,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// Whether it is a recheck of a blocked job, which has no envelope.
    pub is_recheck: bool,
}

impl Broker {
    /// Lists the messages of a queue that exist although their consumer regards them as
    /// acknowledged, so that the server never redelivers them: a server that was killed can restore
    /// a message that it had removed (seen on nats-server 2.15.1). A message that is being removed
    /// at this moment may be among them.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_orphaned_messages(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<OrphanedMessage>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let mut orphans = Vec::new();
        for consumer in self.consumers(queue).await? {
            let done = consumer.ack_floor.stream_sequence;
            let mut filters = consumer.config.filter_subjects;
            filters.push(consumer.config.filter_subject);
            for filter in filters.iter().filter(|filter| !filter.is_empty()) {
                let mut from = 1;
                while orphans.len() < ORPHANED_MESSAGES_MAX
                    && let Some(message) = self
                        .read_message(&stream, MessageSelector::NextBySubject(filter, from))
                        .await?
                    && message.sequence <= done
                {
                    from = message.sequence + 1;
                    orphans.push(OrphanedMessage {
                        queue: queue.clone(),
                        sequence: message.sequence,
                        job_id: job_id_of(queue, &message),
                        payload: message.payload(),
                        stored_at: message.time,
                        is_recheck: message.header(crate::headers::RECHECK).is_some(),
                    });
                }
            }
        }
        Ok(orphans)
    }

    /// Removes an orphaned message.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn remove_orphaned_message(
        &self,
        orphan: &OrphanedMessage,
    ) -> Result<(), BrokerError> {
        let stream = self.names.queue_stream(&orphan.queue);
        self.delete_message(&stream, orphan.sequence)
            .await
            .map(drop)
    }

    /// Lists all entries of the index of blocked jobs; empty if no job was ever blocked.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_blocked_index(&self) -> Result<BlockedIndexListing, BrokerError> {
        let bucket = self.names.dependents_bucket();
        let prefix = format!("$KV.{bucket}.");
        let stream = Names::bucket_stream(&bucket);
        // The bucket also has the index of unsuccessful jobs, which may be large.
        let [edges, others] = self
            .names
            .blocked_index()
            .map(|keys| self.read_stream(&stream, StreamRead::last_per_subject(keys)));
        let messages = [edges.await?, others.await?];
        Ok(BlockedIndexListing { prefix, messages })
    }

    /// Removes an entry of the index.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn remove_blocked_index_entry(
        &self,
        entry: &BlockedIndexEntry,
    ) -> Result<(), BrokerError> {
        let stream = Names::bucket_stream(&self.names.dependents_bucket());
        self.purge_subjects(&stream, &entry.subject, None)
            .await
            .map(drop)
    }

    /// Lists all records; empty if no worker ever took a job.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_records(&self) -> Result<RecordListing, BrokerError> {
        let bucket = self.names.results_bucket();
        let scan = StreamRead::last_per_subject(format!("$KV.{bucket}.>"));
        let messages = self
            .read_stream(&Names::bucket_stream(&bucket), scan)
            .await?;
        Ok(RecordListing(messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_blocked_index_are_parsed() {
        let id = |text: &str| JobId::new(text).unwrap();
        assert_eq!(
            read_key("a.b"),
            Some(BlockedIndexKey::Edge {
                dependency: id("a"),
                job: id("b")
            })
        );
        assert_eq!(
            read_key("open.b.a"),
            Some(BlockedIndexKey::Open { job: id("b") })
        );
        assert_eq!(
            read_key("slot.0af3.b"),
            Some(BlockedIndexKey::Slot { job: id("b") })
        );
        assert_eq!(read_key("flow.f.names"), None);
        assert_eq!(read_key("a"), None);
    }
}
