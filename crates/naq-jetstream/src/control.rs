//! The control subject of each worker: requests about its jobs, with replies.

use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::error::BrokerError;
use naq_protocol::JobId;

/// How long a worker may take to acknowledge a request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// A request to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlCommand {
    /// Stop this job: its record says that a cancel was requested.
    Cancel(JobId),
}

#[derive(Debug, Serialize, Deserialize)]
struct ControlReply {
    /// Whether the worker has the job.
    ok: bool,
}

/// A received request that awaits its reply.
pub struct ReceivedCommand {
    /// The request.
    pub request: ControlCommand,
    reply: Option<async_nats::Subject>,
    client: async_nats::Client,
}

impl ReceivedCommand {
    /// Replies whether the request could be carried out.
    pub async fn reply(self, ok: bool) {
        let Some(reply) = self.reply else { return };
        let answer = serde_json::to_vec(&ControlReply { ok }).unwrap_or_default();
        // a lost reply does no harm: the sender repeats the request or reads the record
        let _ = self.client.publish(reply, answer.into()).await;
    }
}

/// The requests to one worker.
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
                Err(error) => {
                    tracing::debug!("ignored a control message that cannot be parsed: {error}")
                }
            }
        }
    }
}

impl Broker {
    /// Subscribes to the requests to this worker.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn subscribe_control(
        &self,
        worker_id: &str,
    ) -> Result<ControlSubscription, BrokerError> {
        let subject = self.names.control_of_worker(worker_id);
        let subscriber = self.subscribe(subject).await?;
        Ok(ControlSubscription {
            subscriber,
            client: self.client.clone(),
        })
    }

    /// Notifies a worker that one of its jobs is to be cancelled. Returns whether the worker has
    /// the job; `false` also if the worker does not answer, because it has ended or is
    /// disconnected.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn notify_cancel(&self, worker_id: &str, job: &JobId) -> Result<bool, BrokerError> {
        let request = serde_json::to_vec(&ControlCommand::Cancel(job.clone()))
            .map_err(|error| BrokerError::not_json("the value", error))?;
        let subject = self.names.control_of_worker(worker_id);
        let asked = self.client.request(subject, Bytes::from(request));
        match tokio::time::timeout(REPLY_TIMEOUT, asked).await {
            Ok(Ok(message)) => Ok(serde_json::from_slice::<ControlReply>(&message.payload)
                .is_ok_and(|answer| answer.ok)),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }
}
