//! Routing of jobs that require labels: registered label sets, rerouted messages, and the consumers
//! of each set.
//!
//! A worker that receives such a job and lacks the labels reroutes it: it publishes the envelope to
//! `naq.route.<queue>.<route_key>.<job>` in the queue's own stream and acknowledges the message it
//! received. Workers that have the labels pull from a consumer of that label set. They discover the
//! sets in a bucket, where each set is registered.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::ConsumerCreateStrictErrorKind;
use sha2::{Digest, Sha256};

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::layout::consumers::{self, pull_config};
use crate::layout::topology::CONSUMERS_MAX_REACHED;
use crate::names::Names;
use crate::pull::delivery::Delivery;
use crate::stream::publish::revision_headers;
use crate::stream::store::LeaderWait;
use crate::stream::stream_api::MessageSelector;
use crate::stream::stream_reader::StreamRead;
use crate::watch::{Parsed, Watch, WatchEvent};
use naq_protocol::{JobId, QueueName, Timestamp};

/// A set of labels that jobs of a queue require.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRoute {
    /// The queue.
    pub queue: QueueName,
    /// The key of the set, computed by [`label_route_key`].
    pub key: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

/// The key of a label set: the first 32 hexadecimal digits of the SHA-256 of the set as JSON with
/// its names in order. It depends on nothing else, so that every program computes the same key.
#[must_use]
pub fn label_route_key(labels: &BTreeMap<String, String>) -> String {
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

/// A watch on newly registered label sets.
pub type LabelRouteWatch = Watch<LabelRoute>;

/// An event of a label route watch: a label set was registered, not necessarily for the first time.
pub type LabelRouteEvent = WatchEvent<LabelRoute>;

/// Parses a registered label set. `None` if the labels do not match the key: a worker that pulled
/// jobs by it would only reroute them to where they came from.
fn parse_label_route(names: &Names, subject: &str, payload: &[u8]) -> Option<LabelRoute> {
    let (queue, key) = names.label_route_of_subject(subject)?;
    let labels: BTreeMap<String, String> = serde_json::from_slice(payload).ok()?;
    (label_route_key(&labels) == key).then(|| LabelRoute {
        queue,
        key: key.to_owned(),
        labels,
    })
}

impl Broker {
    /// Registers a label set that a job of a queue requires, so that workers with the labels
    /// discover it. Repeating it changes nothing.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn register_label_route(&self, route: &LabelRoute) -> Result<(), BrokerError> {
        let payload = serde_json::to_vec(&route.labels)
            .map_err(|error| BrokerError::not_json("the labels", error))?;
        let subject = self.names.label_route(&route.queue, &route.key);
        // the publish would not show that the bucket is missing: if a worker watches, the server
        // has a subscriber for the subject, and nobody replies
        self.ensure_label_routes().await?;
        let stored = self
            .store(subject, revision_headers(0, None), payload.into())
            .await;
        match stored {
            Ok(_) | Err(BrokerError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a label set is registered.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn is_label_route_registered(&self, route: &LabelRoute) -> Result<bool, BrokerError> {
        let stream = Names::bucket_stream(&self.names.requires_bucket());
        let subject = self.names.label_route(&route.queue, &route.key);
        let message = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(message.is_some())
    }

    /// Watches the label sets that are registered from now on, in all queues.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_label_routes(&self) -> Result<LabelRouteWatch, BrokerError> {
        // a core subscription receives what is published to the bucket: no consumer is needed
        Watch::open(
            self,
            vec![self.names.all_label_routes()],
            |names, message| {
                Parsed::unordered(parse_label_route(names, &message.subject, &message.payload))
            },
        )
        .await
    }

    /// Lists the registered label sets of all queues; empty if no job has required labels yet.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_label_routes(&self) -> Result<Vec<LabelRoute>, BrokerError> {
        let stream = Names::bucket_stream(&self.names.requires_bucket());
        let mut messages = self
            .read_stream(
                &stream,
                StreamRead::last_per_subject(self.names.all_label_routes()),
            )
            .await?;
        let mut routes = Vec::new();
        while let Some(message) = messages.recv().await {
            let message = message?;
            let read = parse_label_route(&self.names, &message.subject, &message.payload);
            routes.extend(read);
        }
        Ok(routes)
    }

    /// The number of rerouted jobs that require a label set; 0 if the queue does not exist.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn count_rerouted(&self, route: &LabelRoute) -> Result<u64, BrokerError> {
        let filter = self.names.routed_by_key(&route.queue, &route.key);
        match self.count_subjects(&route.queue, &filter).await {
            Err(BrokerError::QueueNotFound(_)) => Ok(0),
            counted => counted,
        }
    }

    /// Reroutes a delivered job to the workers with a label set. The caller acknowledges the
    /// delivered message afterwards: in this order the job always has a message, and its record
    /// absorbs the second message that a crash in between leaves.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn reroute_by_labels(
        &self,
        delivery: &Delivery,
        job: &JobId,
        route_key: &str,
    ) -> Result<(), BrokerError> {
        let subject = self.names.routed(&delivery.queue, route_key, job);
        // no message id: within the deduplication window the server would discard the message
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
        headers.insert(crate::headers::ENQUEUE_TIME, time.as_str());
        let mut leader = LeaderWait::default();
        loop {
            let sent = self
                .send(subject.clone(), headers.clone(), delivery.payload.clone())
                .await;
            let done = match sent {
                Ok(sent) => sent.confirmed().await.map(|_| ()),
                Err(error) => Err(error),
            };
            match done {
                // an envelope that just fits into a message: publish it without headers
                Err(BrokerError::TooLarge { .. }) if !headers.is_empty() => {
                    headers = HeaderMap::new();
                }
                Err(BrokerError::NotFound(_)) => {
                    leader.wait(&subject).await?;
                    self.ensure_queue(&delivery.queue).await?;
                }
                done => return done,
            }
        }
    }

    /// Creates the consumer of a queue's jobs that require a label set. It is paused if the queue
    /// is paused, and has the queue's limit of running jobs.
    ///
    /// # Errors
    /// Returns [`BrokerError::TooManyConsumers`] if the queue's stream may have no more, and other errors if
    /// the server refuses the request.
    pub async fn ensure_route_consumer(
        &self,
        queue: &QueueName,
        route_key: &str,
    ) -> Result<String, BrokerError> {
        let name = self.names.route_consumer(route_key);
        let main = self.worker_consumer_info(queue).await?;
        let stream = self.names.queue_stream(queue);
        let existed = self.has_consumer(queue, &name).await?;
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: self.names.routed_by_key(queue, route_key),
            max_ack_pending: main.config.max_ack_pending,
            pause_until: main.config.pause_until.filter(|_| main.paused),
            ..pull_config(main.config.ack_wait)
        };
        let doing = "creating a consumer of jobs that require labels";
        match self.create_consumer(doing, &stream, config).await? {
            Ok(_) => {}
            Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {
                let needed = consumers::route_consumer(&self.names, queue, route_key);
                self.adapt_consumer(queue, &name, &needed).await?;
            }
            Err(error) => {
                return Err(match error.kind() {
                    ConsumerCreateStrictErrorKind::JetStream(api)
                        if api.error_code().0 == CONSUMERS_MAX_REACHED =>
                    {
                        self.too_many_consumers(queue).await
                    }
                    _ => self.request_error(doing, error),
                });
            }
        }
        self.recreate_if_stale(queue, &name, existed).await?;
        // another client that paused or limited the queue meanwhile may have listed its consumers
        // before this one existed
        let now = self.worker_consumer_info(queue).await?;
        if now.config.max_ack_pending != main.config.max_ack_pending {
            self.set_max_ack_pending(queue, &name, now.config.max_ack_pending)
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

    /// Other programs compute the same key: it is part of the protocol.
    #[test]
    fn a_route_key_is_the_hash_of_the_json() {
        // printf '{"gpu":"yes","zone":"a"}' | sha256sum
        assert_eq!(
            label_route_key(&labels(&[("zone", "a"), ("gpu", "yes")])),
            "e885377bb52d202577d256585e50a280"
        );
        assert_ne!(
            label_route_key(&labels(&[("a", "b,c")])),
            label_route_key(&labels(&[("a,b", "c")]))
        );
    }

    #[test]
    fn labels_that_do_not_match_their_key_are_ignored() {
        let names = Names::new("naq").unwrap();
        let queue = QueueName::new("build").unwrap();
        let route_key = labels(&[("gpu", "yes")]);
        let key = label_route_key(&route_key);
        let subject = names.label_route(&queue, &key);
        let read = |payload: &[u8]| parse_label_route(&names, &subject, payload);
        assert_eq!(
            read(br#"{ "gpu": "yes" }"#),
            Some(LabelRoute {
                queue: queue.clone(),
                key,
                labels: route_key,
            })
        );
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(b"not JSON"), None);
        assert_eq!(read(b""), None);
    }
}
