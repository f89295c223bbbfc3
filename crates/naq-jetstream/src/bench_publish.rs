//! Raw publishes without ids or checks: the baseline that `naq bench` compares enqueueing with.

use std::collections::VecDeque;

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::broker::Broker;
use crate::error::BrokerError;
use naq_protocol::{JobId, QueueName};

/// Maximum number of unconfirmed publishes; the same as for a bulk enqueue.
const IN_FLIGHT_MAX: usize = 4_096;

impl Broker {
    /// Publishes bytes to a queue without an id or checks, and waits for the server's
    /// acknowledgement.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn publish_unchecked(
        &self,
        queue: &QueueName,
        payload: &Bytes,
    ) -> Result<(), BrokerError> {
        self.send(
            self.names.job_without_id(queue),
            HeaderMap::new(),
            payload.clone(),
        )
        .await?
        .confirmed()
        .await
        .map(|_| ())
    }

    /// Publishes the payload `count` times with many publishes in flight: all to one subject, or,
    /// if `with_subjects` is set, each to a subject of its own, as for naq's jobs.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn publish_unchecked_pipelined(
        &self,
        queue: &QueueName,
        payload: &Bytes,
        count: u32,
        with_subjects: bool,
    ) -> Result<(), BrokerError> {
        let mut pending = VecDeque::new();
        for _ in 0..count {
            let subject = if with_subjects {
                self.names.job(queue, &JobId::generate())
            } else {
                self.names.job_without_id(queue)
            };
            let sent = self
                .send(subject, HeaderMap::new(), payload.clone())
                .await?;
            pending.push_back(sent);
            if pending.len() == IN_FLIGHT_MAX
                && let Some(first) = pending.pop_front()
            {
                first.confirmed().await?;
            }
        }
        for sent in pending {
            sent.confirmed().await?;
        }
        Ok(())
    }

    /// Stores records as they are, without the checks and fences of naq, with many writes in flight.
    ///
    /// # Errors
    /// Returns an error if the server refuses a write.
    pub async fn store_records_unchecked(
        &self,
        records: impl IntoIterator<Item = (JobId, Bytes)>,
    ) -> Result<(), BrokerError> {
        let mut pending = VecDeque::new();
        for (job, record) in records {
            let subject = self.names.record(&job);
            pending.push_back(self.send(subject, HeaderMap::new(), record).await?);
            if pending.len() == IN_FLIGHT_MAX
                && let Some(first) = pending.pop_front()
            {
                first.confirmed().await?;
            }
        }
        for sent in pending {
            sent.confirmed().await?;
        }
        Ok(())
    }
}
