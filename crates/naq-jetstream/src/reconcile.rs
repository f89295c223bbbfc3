//! What a sweep looks through: the index of who waits, the records of jobs under way, and messages
//! that nobody will be given.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::listing::job_id_of;
use super::names::Names;
use super::stream_api::MessageSelector;
use super::stream_reader::{StreamMessage, StreamRead};
use super::{Broker, BrokerError};
use naq_protocol::{JobId, QueueName, Record, Timestamp};

/// How many messages of a consumer are told of at once that nobody will be given.
const ORPHANED_MESSAGES_MAX: usize = 1_000;

/// What a key of the index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockedIndexKey {
    /// That a job waits for another.
    Edge {
        /// The one it waits for.
        dependency: JobId,
        /// The one that waits.
        job: JobId,
    },
    /// That a job that waits for several still waits for one of them.
    Open {
        /// The one that waits.
        job: JobId,
    },
    /// That a job waits for a slot.
    Slot {
        /// The one that waits.
        job: JobId,
    },
}

/// A key of the index of who waits.
#[derive(Clone, Debug)]
pub struct BlockedIndexEntry {
    /// What it says.
    pub key: BlockedIndexKey,
    /// When it was written.
    pub written_at: Timestamp,
    subject: String,
}

/// The keys of the index, as they come.
pub struct BlockedIndexListing {
    prefix: String,
    messages: mpsc::Receiver<Result<StreamMessage, BrokerError>>,
}

impl BlockedIndexListing {
    /// The next key that a sweep is about; none at the end.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn next(&mut self) -> Result<Option<BlockedIndexEntry>, BrokerError> {
        while let Some(message) = self.messages.recv().await {
            let message = message?;
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
        Ok(None)
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

/// The records of jobs, as they come.
pub struct RecordListing(mpsc::Receiver<Result<StreamMessage, BrokerError>>);

impl RecordListing {
    /// The next record that can be read, and when it was written; none at the end.
    ///
    /// # Errors
    /// Where the server does not answer.
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

/// A message in a queue that its consumer takes for done with.
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
}

impl Broker {
    /// The messages of a queue that are there although their consumer takes them for done with, so
    /// that nobody will be given them: a server that was killed can have a message again which it
    /// had removed (seen on nats-server 2.15.1). One that is being removed just now is among them.
    ///
    /// # Errors
    /// Where the server does not answer.
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
                    });
                }
            }
        }
        Ok(orphans)
    }

    /// Removes such a message.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn remove_orphaned_message(
        &self,
        orphan: &OrphanedMessage,
    ) -> Result<(), BrokerError> {
        let stream = self.names.queue_stream(&orphan.queue);
        self.delete_message(&stream, orphan.sequence)
            .await
            .map(drop)
    }

    /// Every key of the index of who waits; nothing where nobody ever waited.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list_blocked_index(&self) -> Result<BlockedIndexListing, BrokerError> {
        let bucket = self.names.dependents_bucket();
        let prefix = format!("$KV.{bucket}.");
        let scan = StreamRead::last_per_subject(format!("{prefix}>"));
        let messages = self
            .read_stream(&Names::bucket_stream(&bucket), scan)
            .await?;
        Ok(BlockedIndexListing { prefix, messages })
    }

    /// Removes a key of the index.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn remove_blocked_index_entry(
        &self,
        entry: &BlockedIndexEntry,
    ) -> Result<(), BrokerError> {
        let stream = Names::bucket_stream(&self.names.dependents_bucket());
        self.purge_subjects(&stream, &entry.subject, None)
            .await
            .map(drop)
    }

    /// Every record; nothing where no job was ever taken.
    ///
    /// # Errors
    /// Where the server does not answer.
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
    fn keys_are_told_apart() {
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
