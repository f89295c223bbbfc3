//! What a worker does for its jobs, within what it grants them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::to_raw_value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::grants::{Grants, Right};
use crate::clock::now;
use crate::metrics::EnqueuedJobs;
use naq_client::{Client, ClientError, ErrorKind, OutputStream};
use naq_core::{StartDelay, delay_for, delay_until};
use naq_protocol::{
    Envelope, JobId, JobReply, JobReplyError, JobRequest, JobRequestKind, JobStream, Record,
};

/// The longest that one request waits for the end of a job: a client that has died is noticed by
/// then. Clients ask again.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Number of outputs that are in memory at once, until the job has read them. Each may be as long as
/// `limits.output` allows. More than one, so that a job that reads slowly does not keep all others
/// waiting.
const OUTPUTS_MAX: usize = 2;

/// Carries out the requests of jobs.
pub(super) struct JobRequests {
    client: Client,
    grants: Grants,
    enqueued: EnqueuedJobs,
    outputs: Arc<Semaphore>,
}

/// A reply: its line, and what follows it.
pub(super) struct Reply {
    pub(super) line: JobReply,
    pub(super) output: Vec<u8>,
    /// The output's place among those in memory, until it is written.
    _place: Option<OwnedSemaphorePermit>,
}

impl From<JobReply> for Reply {
    fn from(line: JobReply) -> Reply {
        Reply {
            line,
            output: Vec::new(),
            _place: None,
        }
    }
}

impl JobRequests {
    pub(super) fn new(client: Client, grants: Grants, enqueued: EnqueuedJobs) -> JobRequests {
        JobRequests {
            client,
            grants,
            enqueued,
            outputs: Arc::new(Semaphore::new(OUTPUTS_MAX)),
        }
    }

    /// The longest line that a request can be, in bytes: an envelope as long as a message, and what
    /// is around it.
    pub(super) fn line_bytes_max(&self) -> usize {
        self.client.broker().message_bytes_max() + 4096
    }

    /// Carries out a request of a job.
    pub(super) async fn reply(&self, job: &JobId, request: JobRequest) -> Reply {
        let done = match request.request {
            JobRequestKind::Enqueue => self.enqueue(job, request).await.map(Reply::from),
            JobRequestKind::Status => self.status(&request).await.map(Reply::from),
            JobRequestKind::Wait => self.wait(&request).await.map(Reply::from),
            JobRequestKind::Output => self.output(&request).await,
        };
        done.unwrap_or_else(|error| JobReply::from(error).into())
    }

    async fn enqueue(
        &self,
        parent: &JobId,
        request: JobRequest,
    ) -> Result<JobReply, JobReplyError> {
        let (Some(queue), Some(envelope)) = (request.queue, request.envelope) else {
            return Err(usage("`enqueue` needs `queue` and `envelope`"));
        };
        self.grants.check(Right::Enqueue, &queue)?;
        let payload = Bytes::copy_from_slice(envelope.get().as_bytes());
        let envelope = Envelope::parse(&payload).map_err(|error| refused(error.into()))?;
        self.check_inputs(&envelope).await?;
        let start = start_delay(request.delay.map(|delay| delay.0), request.at, &envelope)?;
        let queue = self.client.queue(queue.as_str()).map_err(refused)?;
        let enqueueing = async {
            match start {
                None => queue.enqueue_bytes(envelope.job_id, payload).await,
                Some(start) => {
                    let chosen = envelope.job_id;
                    queue.enqueue_bytes_delayed(chosen, payload, start).await
                }
            }
        };
        let job_id = enqueueing.await.map_err(refused)?;
        self.enqueued.add(queue.name(), 1);
        tracing::debug!(%job_id, %parent, queue = %queue.name(), "enqueued for a job");
        Ok(JobReply::enqueued(job_id))
    }

    /// Checks that a job may read the outputs that its child would get of its dependencies: otherwise a job
    /// that may only enqueue could read any job.
    async fn check_inputs(&self, envelope: &Envelope) -> Result<(), JobReplyError> {
        if self.grants.covers_all(Right::Read) {
            return Ok(());
        }
        for source in envelope.input_sources() {
            let record = self.client.fetch_job(source.job).await.map_err(refused)?;
            self.grants.check(Right::Read, &record.queue)?;
        }
        Ok(())
    }

    async fn status(&self, request: &JobRequest) -> Result<JobReply, JobReplyError> {
        let record = self.read(request).await?;
        // A worker that may read neither queues nor heartbeats shows the record without this.
        let cause = self.client.wait_cause(&record).await.unwrap_or_default();
        let waits_for = cause.and_then(|cause| to_raw_value(&cause).ok());
        Ok(JobReply::status(record, waits_for))
    }

    async fn wait(&self, request: &JobRequest) -> Result<JobReply, JobReplyError> {
        let record = self.read(request).await?;
        if record.state().is_terminal() {
            return Ok(JobReply::record(record));
        }
        let wait_max = request.timeout.map_or(WAIT_MAX, |timeout| timeout.0);
        let waiting = self.client.wait(&record.job_id);
        match tokio::time::timeout(wait_max.min(WAIT_MAX), waiting).await {
            Ok(ended) => Ok(JobReply::record(ended.map_err(refused)?)),
            Err(_) => Ok(JobReply::record(record)),
        }
    }

    async fn output(&self, request: &JobRequest) -> Result<Reply, JobReplyError> {
        let record = self.read(request).await?;
        // Outputs are as long as their producers like: only so many are in memory at once.
        let Ok(place) = Arc::clone(&self.outputs).acquire_owned().await else {
            return Err(JobReplyError::new("failed", "the worker is stopping"));
        };
        let stdio = match request.stream.unwrap_or_default() {
            JobStream::Stdout => OutputStream::Stdout,
            JobStream::Stderr => OutputStream::Stderr,
        };
        let output = self.client.read_output(&record, stdio).await;
        let output = output.map_err(refused)?.into_bytes();
        Ok(Reply {
            line: JobReply::output(output.len() as u64),
            output,
            _place: Some(place),
        })
    }

    /// The record of the job that a request names, if its queue may be read.
    async fn read(&self, request: &JobRequest) -> Result<Record, JobReplyError> {
        let Some(job_id) = &request.job_id else {
            return Err(usage("`job_id` is missing"));
        };
        let record = self.client.fetch_job(job_id).await.map_err(refused)?;
        self.grants.check(Right::Read, &record.queue)?;
        Ok(record)
    }
}

/// When a new job starts. `None` means at once.
fn start_delay(
    delay: Option<Duration>,
    at: Option<naq_protocol::Timestamp>,
    envelope: &Envelope,
) -> Result<Option<StartDelay>, JobReplyError> {
    let start = match (delay, at) {
        (None, None) => return Ok(None),
        (Some(delay), None) => delay_for(delay, envelope.expires_at, now()),
        (None, Some(due)) => delay_until(due, envelope.expires_at, now()),
        (Some(_), Some(_)) => return Err(usage("`in` and `at` exclude each other")),
    };
    start
        .map(Some)
        .map_err(|error| refused(ClientError::InvalidDueTime(error)))
}

pub(super) fn usage(message: &str) -> JobReplyError {
    JobReplyError::new("usage", message)
}

/// An error of the client, with the word that `naq --json` prints for its kind.
fn refused(error: ClientError) -> JobReplyError {
    let code = match error.kind() {
        ErrorKind::Usage => "usage",
        ErrorKind::Unavailable => "no_nats",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Refused => "refused",
        ErrorKind::Full => "full",
        _ => "failed",
    };
    JobReplyError::new(code, error.to_string())
}
