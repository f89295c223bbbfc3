//! Changing how long an ended job's record is kept.

use std::time::Duration;

use super::{Client, ClientError};
use naq_protocol::{JobId, Record, State};

impl Client {
    /// Sets how long an ended job's record is kept from now on: at least ten minutes; zero means for
    /// ever. The record is stored again unchanged. Returns the record and the time for which it is
    /// kept, where `None` means forever.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// # use naq_client::JobId;
    /// use std::time::Duration;
    ///
    /// # async fn example(client: Client, job: JobId) -> Result<(), ClientError> {
    /// client.set_result_ttl(&job, Duration::from_secs(30 * 86_400)).await?;
    /// client.set_result_ttl(&job, Duration::ZERO).await?; // forever
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::NotEnded`] if the job has not ended, and [`ClientError::NoSuchJob`] if
    /// it does not exist.
    pub async fn set_result_ttl(
        &self,
        job: &JobId,
        ttl: Duration,
    ) -> Result<(Record, Option<Duration>), ClientError> {
        let kept = naq_core::clamp_result_ttl(ttl);
        match self.broker.set_record_ttl(job, kept).await? {
            Some(record) if record.state().is_terminal() => Ok((record, kept)),
            Some(record) if !record.placeholder => Err(not_ended(job, record.state())),
            _ => {
                // a job that no worker has claimed yet has no record
                let record = self.fetch_job(job).await?;
                Err(not_ended(job, record.state()))
            }
        }
    }
}

fn not_ended(job: &JobId, state: State) -> ClientError {
    ClientError::NotEnded {
        job: job.clone(),
        state,
    }
}
