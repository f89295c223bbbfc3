//! Explaining why no worker runs a job that requires labels.

use super::{Client, ClientError};
use naq_protocol::{Envelope, Record, State};

impl Client {
    /// Returns an explanation, for people, if a job waits for labels that no worker of its queue has.
    /// `None` means that some worker has them, or that the job requires no labels or does not wait.
    /// Workers are found by their heartbeats.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn missing_labels(&self, record: &Record) -> Result<Option<String>, ClientError> {
        if !matches!(record.state(), State::Queued | State::Retrying) {
            return Ok(None);
        }
        let Some(Ok(envelope)) = record
            .envelope
            .as_ref()
            .map(|envelope| Envelope::parse(envelope.get().as_bytes()))
        else {
            return Ok(None);
        };
        if envelope.requires.is_empty() {
            return Ok(None);
        }
        let workers = self.list_workers().await?;
        let is_served = workers.iter().any(|worker| {
            worker.queues.contains(&record.queue)
                && naq_core::has_required_labels(&worker.labels, &envelope.requires)
        });
        if is_served {
            return Ok(None);
        }
        let labels: Vec<String> = envelope
            .requires
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        Ok(Some(format!(
            "no worker of the queue {} has the labels that the job requires: {}",
            record.queue,
            labels.join(" ")
        )))
    }
}
