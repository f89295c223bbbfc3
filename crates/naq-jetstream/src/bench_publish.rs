//! Bare publishes: what the enqueue rate is measured against (`naq bench`).

use std::collections::VecDeque;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::{Broker, BrokerError};
use naq_protocol::{JobId, QueueName};

/// As many under way at once as a bulk enqueue has.
const IN_FLIGHT_MAX: usize = 4_096;

impl Broker {
    /// Publishes bytes to a queue with no id and no checks, and waits for the server's word.
    ///
    /// # Errors
    /// Where the server refuses.
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

    /// The same `count` times, many under way at once: all to one subject, or, `with_subjects`,
    /// each to one of its own, as naq's jobs are.
    ///
    /// # Errors
    /// Where the server refuses.
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
}
