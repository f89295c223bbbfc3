//! The control subject of each worker: requests about its jobs, with replies.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::requests::{ReceivedRequest, RequestSubscription};
use naq_protocol::JobId;

/// How long a worker may take to acknowledge a request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// A request to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlCommand {
    /// Stop this job: its record says that a cancel was requested.
    Cancel(JobId),
    /// Drain: a stored request says so.
    Drain,
}

#[derive(Debug, Serialize, Deserialize)]
struct ControlReply {
    /// Whether the worker has the job, or can drain.
    ok: bool,
}

/// A command that awaits its reply.
pub type ReceivedCommand = ReceivedRequest<ControlCommand>;

impl ReceivedCommand {
    /// Replies whether the command could be carried out. If the reply is lost, the sender repeats the
    /// command or reads the record.
    pub async fn reply(self, ok: bool) {
        self.reply_with(&ControlReply { ok }).await;
    }
}

/// The commands to one worker.
pub type ControlSubscription = RequestSubscription<ControlCommand>;

impl Broker {
    /// Subscribes to the requests to this worker.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn subscribe_control(
        &self,
        worker_id: &str,
    ) -> Result<ControlSubscription, BrokerError> {
        self.subscribe_requests(self.names.control_of_worker(worker_id))
            .await
    }

    /// Notifies a worker that one of its jobs is to be cancelled. Returns whether the worker has
    /// the job; `false` also if the worker does not answer, because it has ended or is
    /// disconnected.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn notify_cancel(&self, worker_id: &str, job: &JobId) -> Result<bool, BrokerError> {
        self.notify(worker_id, &ControlCommand::Cancel(job.clone()))
            .await
    }

    /// Notifies a worker that a request to drain it [is stored](Broker::request_drain). Returns whether the worker
    /// reads it; `false` also if the worker does not answer, because it has ended or is disconnected, or is of a
    /// version that cannot be drained in this way.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn notify_drain(&self, worker_id: &str) -> Result<bool, BrokerError> {
        self.notify(worker_id, &ControlCommand::Drain).await
    }

    async fn notify(&self, worker_id: &str, command: &ControlCommand) -> Result<bool, BrokerError> {
        let request = serde_json::to_vec(command)
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
