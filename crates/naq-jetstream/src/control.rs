//! Words from one naq to another, by request and reply: what a worker is asked about its jobs.

use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::{Broker, BrokerError};
use naq_protocol::JobId;

/// How long a worker may take to say that it has heard.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a worker can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlCommand {
    /// Stop this job: its record says that someone wants it cancelled.
    Cancel(JobId),
}

#[derive(Debug, Serialize, Deserialize)]
struct ControlReply {
    /// The worker has the job.
    ok: bool,
}

/// A request, to be answered.
pub struct ReceivedCommand {
    /// What is asked.
    pub request: ControlCommand,
    reply: Option<async_nats::Subject>,
    client: async_nats::Client,
}

impl ReceivedCommand {
    /// Tells whether it could be done.
    pub async fn reply(self, ok: bool) {
        let Some(reply) = self.reply else { return };
        let answer = serde_json::to_vec(&ControlReply { ok }).unwrap_or_default();
        // who asked does so again, or finds out by the record
        let _ = self.client.publish(reply, answer.into()).await;
    }
}

/// What a worker is asked.
pub struct ControlSubscription {
    subscriber: Subscriber,
    client: async_nats::Client,
}

impl ControlSubscription {
    /// Waits for the next request. Cancel safe.
    pub async fn next(&mut self) -> ReceivedCommand {
        loop {
            let Some(message) = self.subscriber.next().await else {
                return std::future::pending().await;
            };
            match serde_json::from_slice(&message.payload) {
                Ok(request) => {
                    return ReceivedCommand {
                        request,
                        reply: message.reply,
                        client: self.client.clone(),
                    };
                }
                Err(error) => tracing::debug!("a control message was not understood: {error}"),
            }
        }
    }
}

impl Broker {
    /// Listens for what this worker is asked.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn subscribe_control(
        &self,
        worker_id: &str,
    ) -> Result<ControlSubscription, BrokerError> {
        let subscriber = self
            .client
            .subscribe(self.names.control_of_worker(worker_id))
            .await
            .map_err(|error| BrokerError::ConnectionLost(error.to_string()))?;
        Ok(ControlSubscription {
            subscriber,
            client: self.client.clone(),
        })
    }

    /// Tells a worker that a job of its is to be cancelled. Returns whether it has the job;
    /// false also where it does not answer, being gone or cut off.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn notify_cancel(&self, worker_id: &str, job: &JobId) -> Result<bool, BrokerError> {
        let request =
            serde_json::to_vec(&ControlCommand::Cancel(job.clone())).map_err(|error| {
                BrokerError::InvalidData(format!("cannot be written as JSON: {error}"))
            })?;
        let subject = self.names.control_of_worker(worker_id);
        let asked = self.client.request(subject, Bytes::from(request));
        match tokio::time::timeout(REPLY_TIMEOUT, asked).await {
            Ok(Ok(message)) => Ok(serde_json::from_slice::<ControlReply>(&message.payload)
                .is_ok_and(|answer| answer.ok)),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }
}
