//! Failed and rejected jobs, whole as they are kept: shown, run again, let go.

use futures_util::stream::{self, StreamExt};

use super::rerun::has_failed;
use super::{Client, ClientError};
use naq_jetstream::{DeadLetter, DeadLetterScan, DeadLetters};
use naq_protocol::{JobId, QueueName, State, Timestamp};

/// How many failed jobs are worked on at once.
const JOBS_AT_ONCE: usize = 64;

/// Which failed jobs are meant; all where nothing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Those of this queue.
    pub queue: Option<QueueName>,
    /// Those that failed for this reason.
    pub reason: Option<String>,
    /// Those that failed at this time or before.
    pub until: Option<Timestamp>,
    /// Those that failed at this time or after.
    pub since: Option<Timestamp>,
    /// Those up to this place in the failed stream.
    pub up_to: Option<u64>,
}

impl DeadLetterFilter {
    /// Whether a job is meant.
    #[must_use]
    pub fn matches(&self, job: &DeadLetter) -> bool {
        self.queue.as_ref().is_none_or(|queue| *queue == job.queue)
            && (self.reason.is_none() || self.reason == job.reason)
            && self.until.is_none_or(|until| job.time <= until)
            && self.since.is_none_or(|since| job.time >= since)
            && self.up_to.is_none_or(|up_to| job.sequence <= up_to)
    }

    /// Whether the jobs meant are all those of a queue, or of all queues, up to a place.
    fn is_prefix(&self) -> bool {
        self.reason.is_none() && self.since.is_none()
    }
}

/// How many failed jobs are meant, and up to where that was looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterCount {
    /// How many.
    pub jobs: u64,
    /// The place of the last of them, for [`DeadLetterFilter::up_to`]: what fails from now on comes
    /// after it.
    pub up_to: u64,
}

/// Failed jobs, newest first.
pub struct DeadLetterList {
    jobs: DeadLetters,
    filter: DeadLetterFilter,
}

impl DeadLetterList {
    /// The next older one; none where there are no more.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, ClientError> {
        while let Some(job) = self.jobs.next().await? {
            if self.filter.since.is_some_and(|since| job.time < since) {
                return Ok(None);
            }
            if self.filter.matches(&job) {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }
}

/// What became of a failed job that was to be run again.
#[derive(Debug)]
pub enum RetryOutcome {
    /// It is enqueued, as a new job.
    Enqueued {
        /// The new job.
        job_id: JobId,
        /// The failed one.
        rerun_of: JobId,
    },
    /// It has ended well, or was cancelled, since: its entry was let go.
    Outdated(JobId),
    /// It runs or waits, so that its entry does not count yet.
    NotEnded(JobId),
    /// It could not be run again, and is still kept.
    Refused(JobId, ClientError),
}

impl Client {
    /// The failed jobs, newest first, read as they are asked for.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, DeadLetterFilter};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let filter = DeadLetterFilter { reason: Some("timeout".to_owned()), ..DeadLetterFilter::default() };
    /// let mut failed = client.list_dead_letters(&filter).await?;
    /// while let Some(job) = failed.next().await? {
    ///     println!("{} failed at {}", job.job_id, job.time);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<DeadLetterList, ClientError> {
        Ok(DeadLetterList {
            jobs: self.broker.list_dead_letters(filter.until).await?,
            filter: filter.clone(),
        })
    }

    /// A failed job by its id.
    ///
    /// # Errors
    /// [`ClientError::NoDeadLetter`] where none is kept.
    pub async fn fetch_dead_letter(&self, job: &JobId) -> Result<DeadLetter, ClientError> {
        let failed = self.broker.read_dead_letter(job).await?;
        failed.ok_or_else(|| ClientError::NoDeadLetter(job.clone()))
    }

    /// How many failed jobs are meant.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn count_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<DeadLetterCount, ClientError> {
        let mut count = DeadLetterCount::default();
        let mut matching = self.matching(filter, false).await?;
        while let Some(job) = matching.next().await? {
            count.jobs += 1;
            count.up_to = job.sequence;
        }
        Ok(count)
    }

    /// Runs every failed job that is meant again, oldest first, telling of each. A few are under
    /// way at once.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, DeadLetterFilter, RetryOutcome};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// client
    ///     .retry_dead_letters(&DeadLetterFilter::default(), |retried| {
    ///         if let RetryOutcome::Enqueued { job_id, rerun_of } = retried {
    ///             println!("{rerun_of} again as {job_id}");
    ///         }
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where NATS does not answer; what was enqueued until then is enqueued.
    pub async fn retry_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        mut tell: impl FnMut(RetryOutcome),
    ) -> Result<(), ClientError> {
        let matching = self.matching(filter, true).await?;
        let mut retries = matching
            .into_stream()
            .map(|job| async move { self.retry_dead_letter(job?).await })
            .buffered(JOBS_AT_ONCE);
        while let Some(retried) = retries.next().await {
            tell(retried?);
        }
        Ok(())
    }

    async fn retry_dead_letter(&self, failed: DeadLetter) -> Result<RetryOutcome, ClientError> {
        let job = failed.job_id.clone();
        // a rejected envelope may bear the id of a job that has nothing to do with it
        if failed.state != State::Rejected
            && let (Some(record), _) = self.broker.read_record(&job).await?
            && !record.placeholder
            && !has_failed(&record)
        {
            if !record.state.is_terminal() {
                return Ok(RetryOutcome::NotEnded(job));
            }
            self.broker.remove_dead_letter(&failed).await?;
            return Ok(RetryOutcome::Outdated(job));
        }
        let enqueued = match self.rerun_dead_letter(failed).await {
            Ok(rerun) => rerun.enqueue().await,
            Err(error) => Err(error),
        };
        match enqueued {
            Ok(job_id) => Ok(RetryOutcome::Enqueued {
                job_id,
                rerun_of: job,
            }),
            Err(error) => Ok(RetryOutcome::Refused(job, error)),
        }
    }

    /// Lets go of one failed job. Returns whether it was still there.
    ///
    /// # Errors
    /// Where NATS refuses.
    pub async fn discard_dead_letter(&self, job: &DeadLetter) -> Result<bool, ClientError> {
        Ok(self.broker.remove_dead_letter(job).await?)
    }

    /// Lets go of every failed job that is meant. Returns how many there were.
    ///
    /// # Errors
    /// Where NATS refuses; what was let go until then is gone.
    pub async fn discard_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<u64, ClientError> {
        let mut matching = self.matching(filter, false).await?;
        if filter.is_prefix() {
            let mut up_to = 0;
            while let Some(job) = matching.next().await? {
                self.broker.remove_dead_letter_objects(&job).await?;
                up_to = job.sequence;
            }
            return match up_to {
                0 => Ok(0),
                up_to => {
                    let queue = filter.queue.as_ref();
                    Ok(self.broker.remove_dead_letters(queue, up_to).await?)
                }
            };
        }
        let mut discarded = 0;
        let mut removals = matching
            .into_stream()
            .map(|job| async move { self.discard_dead_letter(&job?).await })
            .buffer_unordered(JOBS_AT_ONCE);
        while let Some(removed) = removals.next().await {
            discarded += u64::from(removed?);
        }
        Ok(discarded)
    }

    async fn matching(
        &self,
        filter: &DeadLetterFilter,
        whole: bool,
    ) -> Result<MatchingDeadLetters, ClientError> {
        let queue = filter.queue.as_ref();
        Ok(MatchingDeadLetters {
            jobs: self.broker.scan_dead_letters(queue, whole).await?,
            filter: filter.clone(),
        })
    }
}

/// The failed jobs that are meant, oldest first.
struct MatchingDeadLetters {
    jobs: DeadLetterScan,
    filter: DeadLetterFilter,
}

impl MatchingDeadLetters {
    async fn next(&mut self) -> Result<Option<DeadLetter>, ClientError> {
        while let Some(job) = self.jobs.next().await? {
            let is_beyond = self.filter.until.is_some_and(|until| job.time > until)
                || self.filter.up_to.is_some_and(|up_to| job.sequence > up_to);
            if is_beyond {
                return Ok(None);
            }
            if self.filter.matches(&job) {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    fn into_stream(self) -> impl futures_util::Stream<Item = Result<DeadLetter, ClientError>> {
        let jobs = stream::try_unfold(self, |mut matching| async move {
            Ok(matching.next().await?.map(|job| (job, matching)))
        });
        jobs.boxed()
    }
}
