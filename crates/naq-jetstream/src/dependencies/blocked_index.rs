//! The index of blocked jobs: when a job ends, its dependents are found without a scan of the
//! records.
//!
//! Two keys describe a dependency. The worker that ends the dependency finds its dependents under
//! `<dependency>.<job>`; that key is removed after the job has been released.
//! `open.<job>.<dependency>` exists only if the job has several dependencies, and is removed first:
//! removing the last of them releases the job. A crash between any two steps therefore leaves the
//! key from which the step is repeated.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::failpoint::failpoint;
use crate::jobs::message::NewJob;
use crate::names::Names;
use crate::stream::publish::revision_headers;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{Dependency, DependencyCondition, JobId, QueueName, Record, State, Timestamp};

/// Maximum number of keys that are written, read or removed concurrently.
const KEYS_AT_ONCE: usize = 64;

/// The value of the key `<dependency>.<job>`.
#[derive(Debug, Serialize, Deserialize)]
struct Edge {
    /// The end of the dependency that the job requires.
    on: DependencyCondition,
    /// Whether the job has no other dependency.
    is_only: bool,
}

impl Broker {
    /// Indexes the dependencies of a blocked job, so that the job is released when one of them
    /// ends.
    ///
    /// # Errors
    /// Returns an error if the server refuses a write or does not answer. Keys that were written
    /// before the error stay; they do no harm.
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
            let value = serde_json::to_vec(&edge)
                .map_err(|error| BrokerError::not_json("the value", error))?;
            writes.push((self.names.edge(&dependency.job, job), Bytes::from(value)));
        }
        // write the first key alone: it creates the bucket if it does not exist, so that the
        // concurrent writes below do not all try to
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

    /// Removes index keys that an earlier wait of the job left for dependencies it no longer waits
    /// for. Such a dependency may have ended before the key was written, so nothing would ever
    /// remove the key and the job would count as blocked forever.
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

    /// Creates a key of the index; an existing key stays as it is.
    pub(crate) async fn create_key(
        &self,
        subject: String,
        value: Bytes,
    ) -> Result<(), BrokerError> {
        // a value is never empty: an empty value reads as a removed key
        let value = if value.is_empty() {
            Bytes::from_static(b"{}")
        } else {
            value
        };
        let ensure = || self.ensure_dependents();
        let created = self.store_creating(subject, revision_headers(0, None), value, ensure);
        match created.await {
            Ok(_) | Err(BrokerError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Marks the records of some jobs as awaited, so that the worker that ends one of them releases
    /// its dependents. A job without a record gets a placeholder record that holds only the mark.
    /// Returns whether the dependent has to be evaluated once more: one of the jobs has already ended,
    /// or has a record that cannot be read.
    ///
    /// # Errors
    /// Returns an error if the server refuses a write or does not answer.
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
            let (record, revision) = match self.read_record(job).await {
                Ok(read) => read,
                // Such a record cannot be marked. The dependent is evaluated once more, and fails.
                Err(BrokerError::InvalidData(_)) => return Ok(true),
                Err(error) => return Err(error),
            };
            let needed_until = Timestamp(now.0 + timeout);
            let written = match record {
                Some(record) if record.state().is_terminal() => return Ok(true),
                Some(record) if record.placeholder => {
                    let expires_at = record.waits().and_then(|waits| waits.until);
                    if expires_at.is_some_and(|expires_at| expires_at >= needed_until) {
                        return Ok(false);
                    }
                    self.write_placeholder(job, queue, revision, now, timeout)
                        .await
                }
                Some(record) if record.has_dependents => return Ok(false),
                // Writing the record would drop the fields that this version does not know. Without
                // the mark, the reconciler releases the dependents, by the keys of the index.
                Some(record) if matches!(record.state(), State::Unknown(_)) => return Ok(false),
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

    /// Writes a placeholder: a record of a job that no worker has seen. It lasts for twice the
    /// timeout of the current dependent, so that later dependents need not write it again.
    async fn write_placeholder(
        &self,
        job: &JobId,
        queue: &QueueName,
        revision: u64,
        now: Timestamp,
        timeout: Duration,
    ) -> Result<u64, BrokerError> {
        let lasts = timeout.saturating_mul(2) + naq_core::RECORD_TTL_MIN;
        let until = Timestamp(now.0 + lasts);
        let record = Record::placeholder(job.clone(), queue.clone(), now, until);
        self.write_record(&record, revision, Some(lasts)).await
    }

    /// Releases every job that depends on `job`, which ended in the given state. Repeating it does
    /// no harm.
    ///
    /// # Errors
    /// Returns an error if the server refuses a write or does not answer; call it again then.
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
                        // a removed key, or one that naq did not write
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

    /// Lists the jobs that depend on a job.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
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
        // A condition that only a later version knows counts as not satisfied: the worker that gets
        // the released job decides, whatever else the job waits for.
        let is_satisfied = naq_core::satisfies_condition(edge.on, ended).unwrap_or(false);
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        if is_satisfied && !edge.is_only {
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
        match self.release(dependent).await {
            Ok(_) => {}
            // must not keep the other dependents from being released, and would fail again
            Err(error) if error.is_final_for_release() => {
                tracing::error!(job_id = %dependent, dependency = %job, "cannot release a blocked job: {error}");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        failpoint("release.published");
        self.purge_subjects(&bucket, &self.names.edge(job, dependent), None)
            .await
            .map(drop)
    }

    /// Requeues a blocked job, so that a worker evaluates it again. Returns whether the job was
    /// blocked.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn release(&self, job: &JobId) -> Result<bool, BrokerError> {
        let (Some(record), _) = self.read_record(job).await? else {
            return Ok(false);
        };
        if record.state() != State::Waiting {
            return Ok(false);
        }
        let payload = match (&record.envelope, &record.envelope_object) {
            (Some(envelope), _) => Bytes::copy_from_slice(envelope.get().as_bytes()),
            (None, Some(object)) => match self.get_object(object).await {
                Err(BrokerError::NotFound(_)) => {
                    return Err(BrokerError::invalid_data(format!(
                        "the envelope of {job}, which waits, is lost"
                    )));
                }
                read => read?.into(),
            },
            (None, None) => {
                return Err(BrokerError::invalid_data(format!(
                    "the record of {job}, which waits, has no envelope"
                )));
            }
        };
        // without a message id: the server would discard it as a duplicate of the first message
        let again = NewJob {
            job_id: job.clone(),
            queue: record.queue.clone(),
            payload,
            has_user_id: false,
            start: None,
            trace: None,
        };
        self.republish(again).await?;
        if record.waits().is_some_and(|waits| waits.until.is_some()) {
            self.cancel_recheck(&record.queue, job).await?;
        }
        Ok(true)
    }

    /// Removes the index keys of a job that is no longer blocked.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
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

    /// Schedules a recheck of a blocked job: the server delivers a message at that time which is
    /// not a job and only makes a worker evaluate the job again.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
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
        headers.insert(crate::headers::RECHECK, "waiting");
        self.store(self.names.recheck(queue, job), headers, Bytes::new())
            .await
            .map(drop)
    }

    /// Cancels the recheck of a blocked job, if one is scheduled.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn cancel_recheck(&self, queue: &QueueName, job: &JobId) -> Result<(), BrokerError> {
        let stream = self.names.queue_stream(queue);
        self.purge_subjects(&stream, &self.names.recheck(queue, job), None)
            .await
            .map(drop)
    }
}
