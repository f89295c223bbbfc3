//! Who waits for whom: an index beside the records, so that whoever ends a job finds its
//! dependents without looking through anything.
//!
//! Two keys tell of a dependency. `<dependency>.<job>` is found by who ends the dependency; it
//! goes once the job has been released for it. `open.<job>.<dependency>` is there where a job
//! has several, and goes first: whoever removes the last one releases the job. So a crash
//! between any two steps leaves the key by which the step is done again.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::failpoint::failpoint;
use super::jobs::NewJob;
use super::names::Names;
use super::stream_api::MessageSelector;
use super::{Broker, BrokerError};
use naq_protocol::{
    BlockedOn, Dependency, DependencyCondition, JobId, QueueName, Record, State, Timestamp,
};

/// How many keys are written, read or removed at once.
const KEYS_AT_ONCE: usize = 64;

/// What is kept under `<dependency>.<job>`.
#[derive(Debug, Serialize, Deserialize)]
struct Edge {
    /// How the dependency has to end.
    on: DependencyCondition,
    /// The job waits for nothing else.
    is_only: bool,
}

impl Broker {
    /// Puts down that a job waits for others, so that whoever ends one of them releases it.
    ///
    /// # Errors
    /// Where the server refuses or does not answer; what was put down by then stays, and does no
    /// harm.
    pub async fn index_dependencies(
        &self,
        job: &JobId,
        open: &[Dependency],
    ) -> Result<(), BrokerError> {
        let is_only = open.len() == 1;
        let mut writes = Vec::with_capacity(open.len() * 2);
        for dependency in open {
            if !is_only {
                writes.push((self.names.open_edge(job, &dependency.job), Bytes::new()));
            }
            let edge = Edge {
                on: dependency.on,
                is_only,
            };
            let value = serde_json::to_vec(&edge).map_err(|error| {
                BrokerError::InvalidData(format!("cannot be written as JSON: {error}"))
            })?;
            writes.push((self.names.edge(&dependency.job, job), Bytes::from(value)));
        }
        // the first alone: it makes the bucket where there is none
        let rest = writes.split_off(1.min(writes.len()));
        for (subject, value) in writes {
            self.create_key(subject, value).await?;
        }
        let mut pending = stream::iter(rest)
            .map(|(subject, value)| self.create_key(subject, value).boxed())
            .buffer_unordered(KEYS_AT_ONCE);
        while let Some(written) = pending.next().await {
            written?;
        }
        drop(pending);
        self.remove_stale_edges(job, open).await
    }

    /// Removes what an earlier wait of a job put down of dependencies that it waits for no more:
    /// they may have ended before they knew of it, and would be taken for open for ever.
    async fn remove_stale_edges(
        &self,
        job: &JobId,
        open: &[Dependency],
    ) -> Result<(), BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        let filter = self.names.open_edges_of(job);
        let still_open: HashSet<&str> = match open {
            [_] => HashSet::new(),
            several => several.iter().map(|one| one.job.as_str()).collect(),
        };
        if still_open.is_empty() {
            return self.purge_subjects(&bucket, &filter, None).await.map(drop);
        }
        let mut edges = self.read_keys(&bucket, &filter).await?;
        while let Some(edge) = edges.recv().await {
            let edge = edge?;
            let dependency = edge.subject.rsplit('.').next().unwrap_or_default();
            if !still_open.contains(dependency) {
                self.purge_subjects(&bucket, &edge.subject, None).await?;
            }
        }
        Ok(())
    }

    /// Writes a key of the index where there is none.
    pub(super) async fn create_key(
        &self,
        subject: String,
        value: Bytes,
    ) -> Result<(), BrokerError> {
        // a value is never empty: an empty one reads as removed
        let value = if value.is_empty() {
            Bytes::from_static(b"{}")
        } else {
            value
        };
        let mut made = false;
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
            let pending = self.send(subject.clone(), headers, value.clone()).await?;
            match pending.confirmed().await {
                Ok(_) | Err(BrokerError::Conflict) => return Ok(()),
                Err(BrokerError::NotFound(_)) if !made => {
                    made = true;
                    self.ensure_dependents().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Marks on the records of some jobs that another waits for them, so that whoever ends one
    /// knows. Where there is no record yet, one is made that holds nothing but the mark. Returns
    /// whether one of them has ended already.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn mark_awaited(
        &self,
        jobs: &[Dependency],
        queue: &QueueName,
        now: Timestamp,
        timeout: Duration,
    ) -> Result<bool, BrokerError> {
        let jobs: Vec<JobId> = jobs.iter().map(|one| one.job.clone()).collect();
        let mut marks = stream::iter(jobs)
            .map(|job| {
                async move { self.mark_one_awaited(&job, queue, now, timeout).await }.boxed()
            })
            .buffer_unordered(KEYS_AT_ONCE);
        let mut some_ended = false;
        while let Some(ended) = marks.next().await {
            some_ended |= ended?;
        }
        Ok(some_ended)
    }

    async fn mark_one_awaited(
        &self,
        job: &JobId,
        queue: &QueueName,
        now: Timestamp,
        timeout: Duration,
    ) -> Result<bool, BrokerError> {
        loop {
            let (record, revision) = self.read_record(job).await?;
            let needed_until = Timestamp(now.0 + timeout);
            let written = match record {
                Some(record) if record.state.is_terminal() => return Ok(true),
                Some(record) if record.placeholder => {
                    let goes_at = record.waits.as_ref().and_then(|waits| waits.until);
                    if goes_at.is_some_and(|goes_at| goes_at >= needed_until) {
                        return Ok(false);
                    }
                    self.write_placeholder(job, queue, revision, now, timeout)
                        .await
                }
                Some(record) if record.has_dependents => return Ok(false),
                Some(mut record) => {
                    record.has_dependents = true;
                    self.write_record(&record, revision, None).await
                }
                None => {
                    self.write_placeholder(job, queue, revision, now, timeout)
                        .await
                }
            };
            match written {
                Ok(_) => return Ok(false),
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A record that stands for a job nobody has seen. It lasts for twice as long as who waits
    /// for it now would wait, so that those who come soon after need not write it again.
    async fn write_placeholder(
        &self,
        job: &JobId,
        queue: &QueueName,
        revision: u64,
        now: Timestamp,
        timeout: Duration,
    ) -> Result<u64, BrokerError> {
        let lasts = timeout.saturating_mul(2) + naq_core::RECORD_TTL_MIN;
        let mut record = Record::new(job.clone(), queue.clone(), State::Queued, now);
        record.placeholder = true;
        record.has_dependents = true;
        record.waits = Some(BlockedOn {
            dependencies: Vec::new(),
            concurrency_key: None,
            since: now,
            until: Some(Timestamp(now.0 + lasts)),
        });
        self.write_record(&record, revision, Some(lasts)).await
    }

    /// Releases every job that waits for one that has ended so. Doing it again does no harm.
    ///
    /// # Errors
    /// Where the server refuses or does not answer: it is then to be done again.
    pub async fn release_dependents(&self, job: &JobId, ended: State) -> Result<(), BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        let mut edges = self.read_keys(&bucket, &self.names.edges_of(job)).await?;
        let found = stream::poll_fn(move |context| edges.poll_recv(context));
        let mut releases = found
            .map(|edge| {
                async move {
                    let edge = edge?;
                    let dependent = edge
                        .subject
                        .rsplit('.')
                        .next()
                        .and_then(|token| JobId::new(token).ok());
                    match (dependent, serde_json::from_slice::<Edge>(&edge.payload)) {
                        (Some(dependent), Ok(edge)) => {
                            self.release_dependent(job, ended, &dependent, &edge).await
                        }
                        // a key that was removed, or that naq did not write
                        _ => Ok(()),
                    }
                }
                .boxed()
            })
            .buffer_unordered(KEYS_AT_ONCE);
        while let Some(released) = releases.next().await {
            released?;
        }
        Ok(())
    }

    /// The jobs that wait for one.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list_dependents(&self, job: &JobId) -> Result<Vec<JobId>, BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        let mut edges = self.read_keys(&bucket, &self.names.edges_of(job)).await?;
        let mut dependents = Vec::new();
        while let Some(edge) = edges.recv().await {
            let edge = edge?;
            let token = edge.subject.rsplit('.').next();
            dependents.extend(token.and_then(|token| JobId::new(token).ok()));
        }
        Ok(dependents)
    }

    async fn release_dependent(
        &self,
        job: &JobId,
        ended: State,
        dependent: &JobId,
        edge: &Edge,
    ) -> Result<(), BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        if naq_core::satisfies_condition(edge.on, ended) && !edge.is_only {
            self.purge_subjects(&bucket, &self.names.open_edge(dependent, job), None)
                .await?;
            failpoint("release.closed");
            let others = self.names.open_edges_of(dependent);
            let other = self
                .read_message(&bucket, MessageSelector::NextBySubject(&others, 1))
                .await?;
            if other.is_some() {
                return self
                    .purge_subjects(&bucket, &self.names.edge(job, dependent), None)
                    .await
                    .map(drop);
            }
        }
        self.release(dependent).await?;
        failpoint("release.published");
        self.purge_subjects(&bucket, &self.names.edge(job, dependent), None)
            .await
            .map(drop)
    }

    /// Puts a waiting job back into its queue, to be looked at anew. Returns whether it waited.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn release(&self, job: &JobId) -> Result<bool, BrokerError> {
        let (Some(record), _) = self.read_record(job).await? else {
            return Ok(false);
        };
        if record.state != State::Waiting {
            return Ok(false);
        }
        let payload = match (&record.envelope, &record.envelope_object) {
            (Some(envelope), _) => Bytes::copy_from_slice(envelope.get().as_bytes()),
            (None, Some(object)) => self.get_object(object).await?.into(),
            (None, None) => {
                return Err(BrokerError::InvalidData(format!(
                    "the record of {job}, which waits, has no envelope"
                )));
            }
        };
        // under no message id: the server would take it for a repeat of the first
        let again = NewJob {
            job_id: job.clone(),
            queue: record.queue.clone(),
            payload,
            has_user_id: false,
            start: None,
        };
        self.republish(again).await?;
        if record.waits.is_some_and(|waits| waits.until.is_some()) {
            self.cancel_recheck(&record.queue, job).await?;
        }
        Ok(true)
    }

    /// Removes what was put down of a job that waits no more.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn remove_dependency_index(
        &self,
        job: &JobId,
        dependencies: &[Dependency],
    ) -> Result<(), BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        if dependencies.len() > 1 {
            self.purge_subjects(&bucket, &self.names.open_edges_of(job), None)
                .await?;
        }
        let edges: Vec<String> = dependencies
            .iter()
            .map(|dependency| self.names.edge(&dependency.job, job))
            .collect();
        let mut removals = stream::iter(edges)
            .map(|edge| {
                let bucket = &bucket;
                async move { self.purge_subjects(bucket, &edge, None).await }.boxed()
            })
            .buffer_unordered(KEYS_AT_ONCE);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        Ok(())
    }

    /// Has a waiting job looked at again at a time: a message that is no job, only a bell.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn schedule_recheck(
        &self,
        queue: &QueueName,
        job: &JobId,
        at: Timestamp,
    ) -> Result<(), BrokerError> {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_SCHEDULE, format!("@at {at}"));
        headers.insert(
            async_nats::header::NATS_SCHEDULE_TARGET,
            self.names.job(queue, job),
        );
        headers.insert(async_nats::header::NATS_ROLLUP, "sub");
        headers.insert(RECHECK_HEADER, "waiting");
        self.send(self.names.recheck(queue, job), headers, Bytes::new())
            .await?
            .confirmed()
            .await
            .map(|_| ())
    }

    /// Takes the bell of a waiting job away, where it has one.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn cancel_recheck(&self, queue: &QueueName, job: &JobId) -> Result<(), BrokerError> {
        let stream = self.names.queue_stream(queue);
        self.purge_subjects(&stream, &self.names.recheck(queue, job), None)
            .await
            .map(drop)
    }
}

/// On a message that is no job: the job of its subject, which waits, is to be looked at again.
pub(super) const RECHECK_HEADER: &str = "Naq-Recheck";
