//! Jobs that require labels of their worker: registered, handed on, and the consumers they wait
//! at.
//!
//! A worker that gets such a job and lacks the labels hands it on: it publishes the envelope to
//! `naq.need.<queue>.<set>.<job>` in the queue's own stream and acknowledges the message it got.
//! Workers that have the labels pull from a consumer of that set. They learn of sets from a
//! bucket, as they are registered there.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::pull;
use async_nats::{HeaderMap, Subscriber};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};

use super::connect::Link;
use super::delivery::Delivery;
use super::names::Names;
use super::scan::Scan;
use super::{Broker, BrokerError};
use naq_protocol::{JobId, QueueName, Timestamp};

/// When a job that was handed on was first taken by the server.
pub(super) const ENQUEUE_TIME_HEADER: &str = "Naq-Enqueue-Time";

/// A set of labels that jobs of a queue require.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The queue.
    pub queue: QueueName,
    /// The key of the set, as [`requirement_key`] makes it.
    pub key: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

/// The key of a set of labels: the beginning of the SHA-256 of the set as JSON with its names in
/// order, 32 hexadecimal digits. The same for everyone, and no other set has it.
#[must_use]
pub fn requirement_key(labels: &BTreeMap<String, String>) -> String {
    let text: serde_json::Value = labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let digest = Sha256::digest(text.to_string());
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// News of required labels.
#[derive(Debug)]
pub enum RequirementEvent {
    /// A set is being registered, perhaps not for the first time.
    Registered(Requirement),
    /// Something may have been missed (the connection was lost): list the sets again.
    Reread,
}

/// A watch on the sets that are registered.
pub struct RequirementWatch {
    names: Names,
    registered: Subscriber,
    link: Link,
    generation: u64,
}

impl RequirementWatch {
    /// Waits for the next news. Cancel safe.
    pub async fn next(&mut self) -> RequirementEvent {
        loop {
            tokio::select! {
                biased;
                message = self.registered.next() => {
                    let Some(message) = message else {
                        return std::future::pending().await;
                    };
                    let read = read_requirement(&self.names, &message.subject, &message.payload);
                    if let Some(requirement) = read {
                        return RequirementEvent::Registered(requirement);
                    }
                }
                link = self.link.changed() => {
                    if link.connected && link.generation != self.generation {
                        self.generation = link.generation;
                        return RequirementEvent::Reread;
                    }
                }
            }
        }
    }
}

/// What is registered under a subject. None where the labels are not those of the key: whoever
/// pulled jobs by it would only hand them on to where they came from.
fn read_requirement(names: &Names, subject: &str, payload: &[u8]) -> Option<Requirement> {
    let (queue, key) = names.requirement_of_subject(subject)?;
    let labels: BTreeMap<String, String> = serde_json::from_slice(payload).ok()?;
    (requirement_key(&labels) == key).then(|| Requirement {
        queue,
        key: key.to_owned(),
        labels,
    })
}

impl Broker {
    /// Registers a set of labels that a job of a queue requires, for workers that have them to
    /// learn of. Doing it again changes nothing.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn register_requirement(&self, requirement: &Requirement) -> Result<(), BrokerError> {
        let payload = serde_json::to_vec(&requirement.labels).map_err(|error| {
            BrokerError::Unreadable(format!("the labels cannot be written as JSON: {error}"))
        })?;
        let subject = self.names.requirement(&requirement.queue, &requirement.key);
        // not found out by the publish: where a worker watches, someone takes it and nobody answers
        self.ensure_requirements().await?;
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        let sent = self.send(subject, headers, payload.into()).await?;
        match sent.confirmed().await {
            Ok(_) | Err(BrokerError::Conflict) => Ok(()),
            Err(BrokerError::Timeout(doing)) => Err(self.timed_out(doing)),
            Err(error) => Err(error),
        }
    }

    /// Watches the sets that are registered from now on, in every queue.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn watch_requirements(&self) -> Result<RequirementWatch, BrokerError> {
        let mut link = self.link.clone();
        let generation = link.mark_seen().generation;
        // what is published to the bucket is seen by everyone subscribed: no consumer is needed
        let registered = self
            .client
            .subscribe(self.names.all_requirements())
            .await
            .map_err(|error| BrokerError::Lost(error.to_string()))?;
        Ok(RequirementWatch {
            names: self.names.as_ref().clone(),
            registered,
            link,
            generation,
        })
    }

    /// The sets that are registered, of every queue; none where no job has required labels yet.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list_requirements(&self) -> Result<Vec<Requirement>, BrokerError> {
        let stream = Names::bucket_stream(&self.names.requirements_bucket());
        let mut messages = self
            .scan(&stream, Scan::last_of_each(self.names.all_requirements()))
            .await?;
        let mut requirements = Vec::new();
        while let Some(message) = messages.recv().await {
            let message = message?;
            let read = read_requirement(&self.names, &message.subject, &message.payload);
            requirements.extend(read);
        }
        Ok(requirements)
    }

    /// Puts a job that was delivered where workers with a set of labels find it. The message it
    /// came by is still to be acknowledged: it is done in this order so that the job is never
    /// without a message, and its record absorbs the second one that a crash in between leaves.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn hand_on(
        &self,
        delivery: &Delivery,
        job: &JobId,
        set: &str,
    ) -> Result<(), BrokerError> {
        let subject = self.names.need(&delivery.queue, set, job);
        // no message id: the window for duplicates would swallow the message
        let mut headers = HeaderMap::new();
        for (name, values) in delivery.headers.iter() {
            let text: &str = name.as_ref();
            if !text.to_ascii_lowercase().starts_with("nats-") {
                for value in values {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        let time = delivery.enqueue_time.to_string();
        headers.insert(ENQUEUE_TIME_HEADER, time.as_str());
        let mut made = false;
        loop {
            let sent = self
                .send(subject.clone(), headers.clone(), delivery.payload.clone())
                .await;
            let done = match sent {
                Ok(sent) => sent.confirmed().await.map(|_| ()),
                Err(error) => Err(error),
            };
            match done {
                // an envelope that just fits a message: it goes alone
                Err(BrokerError::TooLarge { .. }) if !headers.is_empty() => {
                    headers = HeaderMap::new();
                }
                Err(BrokerError::Missing(_)) if !made => {
                    made = true;
                    self.ensure_queue(&delivery.queue).await?;
                }
                Err(BrokerError::Timeout(doing)) => return Err(self.timed_out(doing)),
                done => return done,
            }
        }
    }

    /// Makes the consumer of a queue's jobs that require a set of labels. It is paused where the
    /// queue is, and has the queue's limit of running jobs.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn ensure_need_consumer(
        &self,
        queue: &QueueName,
        set: &str,
    ) -> Result<String, BrokerError> {
        let refused = |message: String| BrokerError::Refused {
            doing: "making a consumer of jobs that require labels",
            message,
        };
        let stream = self.names.queue_stream(queue);
        let name = self.names.need_consumer(set);
        let main = self.worker_consumer_info(queue).await?;
        let made = self
            .jetstream
            .create_consumer_strict_on_stream(
                pull::Config {
                    durable_name: Some(name.clone()),
                    filter_subject: self.names.needs_of_set(queue, set),
                    max_ack_pending: main.config.max_ack_pending,
                    pause_until: main.config.pause_until.filter(|_| main.paused),
                    ..super::topology::pull_config(main.config.ack_wait)
                },
                &stream,
            )
            .await;
        match made {
            Ok(_) => {}
            Err(error) if error.to_string().contains("consumer already exists") => {}
            Err(error) => return Err(refused(error.to_string())),
        }
        // whoever changed the queue meanwhile may have looked for its consumers before this one
        let now = self.worker_consumer_info(queue).await?;
        if now.config.max_ack_pending != main.config.max_ack_pending {
            self.set_ack_pending_max(queue, &name, now.config.max_ack_pending)
                .await?;
        }
        if now.paused != main.paused {
            let until = now.config.pause_until.filter(|_| now.paused);
            self.pause_consumer(queue, &name, until.map(Timestamp))
                .await?;
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// Other programs reckon the same key: it is part of the protocol.
    #[test]
    fn a_key_is_the_hash_of_the_json() {
        // printf '{"gpu":"yes","zone":"a"}' | sha256sum
        assert_eq!(
            requirement_key(&labels(&[("zone", "a"), ("gpu", "yes")])),
            "e885377bb52d202577d256585e50a280"
        );
        assert_ne!(
            requirement_key(&labels(&[("a", "b,c")])),
            requirement_key(&labels(&[("a,b", "c")]))
        );
    }

    #[test]
    fn labels_under_the_key_of_others_are_not_taken() {
        let names = Names::new("naq").unwrap();
        let queue = QueueName::new("build").unwrap();
        let set = labels(&[("gpu", "yes")]);
        let key = requirement_key(&set);
        let subject = names.requirement(&queue, &key);
        let read = |payload: &[u8]| read_requirement(&names, &subject, payload);
        assert_eq!(
            read(br#"{ "gpu": "yes" }"#),
            Some(Requirement {
                queue: queue.clone(),
                key,
                labels: set,
            })
        );
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(b"not JSON"), None);
        assert_eq!(read(b""), None);
    }
}
