//! Frees room in a full store, and explains why a worker takes no jobs.

use super::{Client, ClientError};
use naq_jetstream::ResultsPurgeSummary;
use naq_protocol::{Timestamp, WorkerInfo};

impl Client {
    /// Removes the records of the jobs that ended before a time, with what they keep in the object
    /// store; `None` means of all jobs that have ended. It needs no room in the store.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`](crate::ClientError::Broker) if NATS refuses a request or does
    /// not answer. What was removed before stays removed.
    pub async fn purge_results(
        &self,
        ended_before: Option<Timestamp>,
    ) -> Result<ResultsPurgeSummary, ClientError> {
        Ok(self.broker.purge_results(ended_before, self.now()).await?)
    }
}

/// Explains to people why a worker takes no jobs. `None` if it does.
#[must_use]
pub fn describe_unstored(worker: &WorkerInfo) -> Option<String> {
    let error = worker.unstored_error.as_ref()?;
    Some(format!(
        "the worker {} takes no jobs: NATS does not store the outcome of {}: {error}",
        worker.name,
        match worker.unstored_outcomes {
            1 => "one of its jobs".to_owned(),
            count => format!("{count} of its jobs"),
        }
    ))
}
