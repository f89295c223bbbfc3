//! The lease subject of each worker, on which others ask whether it still runs a job.
//!
//! A worker id belongs to one process. A worker that replies lives, so it has not crashed: either
//! it holds the lease, or it gave the lease up itself. A process that has ended never replies.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::requests::{ReceivedRequest, RequestSubscription};
use naq_core::HolderReply;
use naq_protocol::{JobId, Lease};

/// How long the holder of a lease may take to reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The question whether a worker holds this lease on a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseQuery {
    /// The job.
    #[serde(rename = "holds")]
    pub job_id: JobId,
    /// The sequence of the message that the lease names.
    pub sequence: u64,
    /// The delivery that the lease names.
    pub delivery: u64,
}

impl LeaseQuery {
    /// The question about the lease of a job.
    #[must_use]
    pub fn new(job_id: &JobId, lease: &Lease) -> LeaseQuery {
        LeaseQuery {
            job_id: job_id.clone(),
            sequence: lease.sequence,
            delivery: lease.delivery,
        }
    }
}

/// What a worker states about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// The worker runs the job, or records its outcome.
    Running,
    /// The lease has ended, and the worker is killing the job.
    Stopping,
    /// The worker does not hold the lease any more, and the job is dead.
    Released,
    /// A state of a later version. The asker leaves the job alone.
    #[serde(other)]
    Unknown,
}

impl From<LeaseState> for HolderReply {
    fn from(state: LeaseState) -> HolderReply {
        match state {
            LeaseState::Running | LeaseState::Unknown => HolderReply::Running,
            LeaseState::Stopping => HolderReply::Stopping,
            LeaseState::Released => HolderReply::Released,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaseAnswer {
    state: LeaseState,
}

/// A question that awaits its answer.
pub type ReceivedLeaseQuery = ReceivedRequest<LeaseQuery>;

impl ReceivedLeaseQuery {
    /// Answers the question. If the answer is lost, the asker asks again.
    pub async fn reply(self, state: LeaseState) {
        self.reply_with(&LeaseAnswer { state }).await;
    }
}

/// The questions to one worker.
pub type LeaseQuerySubscription = RequestSubscription<LeaseQuery>;

impl Broker {
    /// Subscribes to the questions about this worker's leases, and asks itself one. A worker that
    /// others cannot ask would lose its jobs to them, and one that cannot ask would take theirs.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed,
    /// [`BrokerError::PermissionDenied`] if the server denies the subject, and
    /// [`BrokerError::Timeout`] if the question does not arrive for another reason.
    pub async fn subscribe_lease_queries(
        &self,
        worker_id: &str,
    ) -> Result<LeaseQuerySubscription, BrokerError> {
        const DOING: &str = "asking about leases";
        let subject = self.names.leases_of_worker(worker_id);
        let mut denials = self.link.denials();
        let mut queries: LeaseQuerySubscription = self.subscribe_requests(subject.clone()).await?;
        let no_lease = LeaseQuery {
            job_id: JobId::generate(),
            sequence: 0,
            delivery: 0,
        };
        let mut asking = std::pin::pin!(self.ask_lease_holder(worker_id, &no_lease, 0));
        loop {
            tokio::select! {
                reply = &mut asking => match reply? {
                    HolderReply::Released => break,
                    _ => return Err(BrokerError::Timeout(DOING)),
                },
                // of the subscription, or of the question
                denial = denials.request_denied(&subject) => {
                    return Err(BrokerError::PermissionDenied { doing: DOING, denial });
                }
                query = queries.next() => query.reply(LeaseState::Released).await,
            }
        }
        Ok(queries)
    }

    /// Asks a worker whether it holds a lease.
    ///
    /// [`HolderReply::Absent`] and [`HolderReply::Silent`] are reported only if the server was
    /// reachable: a question that the server did not get proves nothing about the worker. `silent`
    /// is how many times in a row the worker has not replied before.
    ///
    /// # Errors
    /// Returns an error if the server does not answer either.
    pub async fn ask_lease_holder(
        &self,
        worker_id: &str,
        query: &LeaseQuery,
        silent: u32,
    ) -> Result<HolderReply, BrokerError> {
        let request = serde_json::to_vec(query)
            .map_err(|error| BrokerError::not_json("the question about a lease", error))?;
        let before = self.link.state();
        let subject = self.names.leases_of_worker(worker_id);
        let asked = self.client.request(subject, Bytes::from(request));
        let is_absent = match tokio::time::timeout(REPLY_TIMEOUT, asked).await {
            Ok(Ok(message)) => {
                let state = serde_json::from_slice::<LeaseAnswer>(&message.payload)
                    .map_or(LeaseState::Unknown, |answer| answer.state);
                return Ok(state.into());
            }
            // This reply comes from the server, which is reachable.
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => true,
            // Nobody replied, maybe not even the server: this request finds out.
            Ok(Err(_)) | Err(_) => {
                self.read_record(&query.job_id).await?;
                false
            }
        };
        let after = self.link.state();
        let is_unbroken = after.connected && after.generation == before.generation;
        let connected_for = after
            .connected_at
            .filter(|_| is_unbroken)
            .map_or(Duration::ZERO, |at| at.elapsed());
        Ok(if is_absent {
            HolderReply::Absent { connected_for }
        } else {
            HolderReply::Silent {
                connected_for,
                times: silent.saturating_add(1),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_questions_and_answers_have_the_documented_form() {
        let query = LeaseQuery {
            job_id: JobId::new("j").unwrap(),
            sequence: 7,
            delivery: 2,
        };
        assert_eq!(
            serde_json::to_string(&query).unwrap(),
            r#"{"holds":"j","sequence":7,"delivery":2}"#
        );
        for (state, text) in [
            (LeaseState::Running, r#"{"state":"running"}"#),
            (LeaseState::Stopping, r#"{"state":"stopping"}"#),
            (LeaseState::Released, r#"{"state":"released"}"#),
        ] {
            assert_eq!(serde_json::to_string(&LeaseAnswer { state }).unwrap(), text);
        }
        let later: LeaseAnswer = serde_json::from_str(r#"{"state":"lent"}"#).unwrap();
        assert_eq!(later.state, LeaseState::Unknown);
    }
}
