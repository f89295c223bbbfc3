//! Dead letters: failed and rejected jobs, listed, retried and discarded.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use super::rerun::has_failed;
use super::{Client, ClientError, FailureGroupId};
use naq_jetstream::{DeadLetter, DeadLetterScan, DeadLetters};
use naq_protocol::{JobId, QueueName, Reason, State, Timestamp};

/// How many dead letters are retried or removed at the same time.
const JOBS_AT_ONCE: usize = 64;

/// Selects dead letters. The default selects all; a dead letter has to satisfy every field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Jobs of this queue. `None` means any queue.
    pub queue: Option<QueueName>,
    /// Jobs that failed for this reason. `None` means any reason.
    pub reason: Option<Reason>,
    /// Jobs of this group of failures. `None` means any group.
    pub group: Option<FailureGroupId>,
    /// Jobs that failed at this time or earlier.
    pub until: Option<Timestamp>,
    /// Jobs that failed at this time or later.
    pub since: Option<Timestamp>,
    /// Dead letters up to this sequence in their stream.
    pub up_to: Option<u64>,
    /// Dead letters that are left out, by their sequences.
    pub except: Arc<BTreeSet<u64>>,
}

impl DeadLetterFilter {
    /// Returns whether a dead letter is selected.
    #[must_use]
    pub fn matches(&self, job: &DeadLetter) -> bool {
        self.queue.as_ref().is_none_or(|queue| *queue == job.queue)
            && (self.reason.is_none() || self.reason == job.reason)
            && self.until.is_none_or(|until| job.time <= until)
            && self.since.is_none_or(|since| job.time >= since)
            && self.up_to.is_none_or(|up_to| job.sequence <= up_to)
            && !self.except.contains(&job.sequence)
            && (self.group.as_ref()).is_none_or(|group| *group == FailureGroupId::of(job))
    }

    /// Whether the filter selects all dead letters of a queue, or of all queues, up to a sequence, so
    /// that one request can remove them.
    fn is_prefix(&self) -> bool {
        self.reason.is_none()
            && self.since.is_none()
            && self.group.is_none()
            && self.except.is_empty()
    }
}

/// The number of selected dead letters, and the sequence up to which they were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterCount {
    /// The number.
    pub jobs: u64,
    /// The sequence of the last of them, for [`DeadLetterFilter::up_to`]: jobs that fail from now on
    /// have greater ones.
    pub up_to: u64,
}

/// Dead letters, newest first. [`Client::list_dead_letters`] returns it.
#[non_exhaustive]
pub struct DeadLetterList {
    jobs: DeadLetters,
    filter: DeadLetterFilter,
}

impl DeadLetterList {
    /// Returns the next older one. `None` means that there are no more.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
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

/// The outcome of retrying one dead letter.
#[derive(Debug)]
pub enum RetryOutcome {
    /// A new job was enqueued.
    Enqueued {
        /// The new job.
        job_id: JobId,
        /// The failed one.
        rerun_of: JobId,
    },
    /// The job has succeeded or was cancelled since. The dead letter was removed.
    Outdated(JobId),
    /// The job is running or waiting, so its dead letter does not count yet. Nothing was changed.
    NotEnded(JobId),
    /// The job could not be run again. The dead letter is kept.
    Refused(JobId, ClientError),
}

impl Client {
    /// Lists the selected dead letters, newest first. They are read as [`DeadLetterList::next`] is
    /// called.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, DeadLetterFilter, Reason};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let filter = DeadLetterFilter { reason: Some(Reason::Timeout), ..DeadLetterFilter::default() };
    /// let mut failed = client.list_dead_letters(&filter).await?;
    /// while let Some(job) = failed.next().await? {
    ///     println!("{} failed at {}", job.job_id, job.time);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<DeadLetterList, ClientError> {
        Ok(DeadLetterList {
            jobs: self.broker.list_dead_letters(filter.until).await?,
            filter: filter.clone(),
        })
    }

    /// Returns the dead letter of a job.
    ///
    /// # Errors
    /// Returns [`ClientError::NoDeadLetter`] if there is none.
    pub async fn fetch_dead_letter(&self, job: &JobId) -> Result<DeadLetter, ClientError> {
        let failed = self.broker.read_dead_letter(job).await?;
        failed.ok_or_else(|| ClientError::NoDeadLetter(job.clone()))
    }

    /// Counts the selected dead letters.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
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

    /// Runs every selected failed job again, oldest first and several at the same time, and calls
    /// `on_outcome` for each, in order.
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
    /// Returns [`ClientError::Broker`] if NATS does not answer. Jobs that were enqueued before remain
    /// enqueued.
    pub async fn retry_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        mut on_outcome: impl FnMut(RetryOutcome),
    ) -> Result<(), ClientError> {
        let matching = self.matching(filter, true).await?;
        let mut retries = matching
            .into_stream()
            .map(|job| async move { self.retry_dead_letter(job?).await })
            .buffered(JOBS_AT_ONCE);
        while let Some(retried) = retries.next().await {
            on_outcome(retried?);
        }
        Ok(())
    }

    async fn retry_dead_letter(&self, failed: DeadLetter) -> Result<RetryOutcome, ClientError> {
        let job = failed.job_id.clone();
        // a rejected envelope may contain the id of an unrelated job
        if failed.state != State::Rejected
            && let (Some(record), _) = self.broker.read_record(&job).await?
            && !record.placeholder
            && !has_failed(&record)
        {
            if !record.state().is_terminal() {
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

    /// Discards one dead letter. Returns whether it still existed.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses the request.
    pub async fn discard_dead_letter(&self, job: &DeadLetter) -> Result<bool, ClientError> {
        Ok(self.broker.remove_dead_letter(job).await?)
    }

    /// Discards every selected dead letter. Returns how many were removed.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses the request. Dead letters that were removed
    /// before remain removed.
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

    /// Returns the selected dead letters, oldest first, without their envelopes. They are read as
    /// [`MatchingDeadLetters::next`] is called.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn select_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<MatchingDeadLetters, ClientError> {
        self.matching(filter, false).await
    }

    pub(super) async fn matching(
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

/// The selected dead letters, oldest first. [`Client::select_dead_letters`] returns it.
#[non_exhaustive]
pub struct MatchingDeadLetters {
    jobs: DeadLetterScan,
    filter: DeadLetterFilter,
}

impl MatchingDeadLetters {
    /// Returns the next newer one. `None` means that there are no more.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, ClientError> {
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
