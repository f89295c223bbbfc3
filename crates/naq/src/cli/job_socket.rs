//! How naq works inside a job: through the socket of the job's worker, which has the connection to
//! NATS that the job lacks.

use std::io;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::UnixStream;

use super::exit::{Exit, Failure};
use naq_client::{Client, OutputStream, StoredOutput, WaitCause};
use naq_protocol::units::WireDuration;
use naq_protocol::{
    JOB_SOCKET_VARIABLE, JOB_TOKEN_VARIABLE, JobId, JobReply, JobReplyError, JobRequest,
    JobRequestKind, JobStream, OUTPUT_BYTES_MAX, QueueName, Record,
};

/// How long the worker may wait for the end of a job before it replies. It may reply earlier.
const WAIT: Duration = Duration::from_secs(20);

/// The longest line of a reply, in bytes: a record is no longer than a message of NATS.
const REPLY_LINE_BYTES_MAX: u64 = 64 << 20;

/// The socket of this process's job.
pub(super) struct JobSocket {
    /// Empty if the worker grants nothing.
    path: String,
    token: String,
    /// The queue of this process's job, if known.
    own_queue: Option<String>,
}

impl JobSocket {
    /// The socket that the variables name. `None` if this process belongs to no job.
    pub(super) fn find<'e>(variable: impl Fn(&str) -> Option<&'e str>) -> Option<JobSocket> {
        let owned = |name| variable(name).map(str::to_owned);
        Some(JobSocket {
            path: owned(JOB_SOCKET_VARIABLE)?,
            token: owned(JOB_TOKEN_VARIABLE).unwrap_or_default(),
            own_queue: owned("NAQ_QUEUE"),
        })
    }

    /// Sends a request to enqueue. Returns the id of the job.
    pub(super) async fn enqueue(&self, request: JobRequest) -> Result<JobId, Failure> {
        let (reply, _) = self.request(request).await?;
        reply.job_id.ok_or_else(|| unexpected("no id"))
    }

    /// A request to enqueue an envelope to a queue.
    pub(super) fn enqueue_request(
        &self,
        queue: &QueueName,
        envelope: &[u8],
    ) -> Result<JobRequest, Failure> {
        let mut request = JobRequest::new(&self.token, JobRequestKind::Enqueue);
        request.queue = Some(queue.clone());
        // A request is a line. In JSON a line break can only be between two tokens.
        let envelope = String::from_utf8_lossy(envelope).replace('\n', " ");
        let envelope = RawValue::from_string(envelope);
        request.envelope = Some(envelope.map_err(|error| Failure::general(error.to_string()))?);
        Ok(request)
    }

    async fn read(&self, kind: JobRequestKind, job_id: &JobId) -> Result<Record, Failure> {
        let mut request = JobRequest::new(&self.token, kind);
        request.job_id = Some(job_id.clone());
        if kind == JobRequestKind::Wait {
            request.timeout = Some(WireDuration(WAIT));
        }
        let (reply, _) = self.request(request).await?;
        let record = reply.record.ok_or_else(|| unexpected("no record"))?;
        Ok(*record)
    }

    /// The record of a job, and what the job waits for.
    async fn status(&self, job_id: &JobId) -> Result<(Record, Option<WaitCause>), Failure> {
        let mut request = JobRequest::new(&self.token, JobRequestKind::Status);
        request.job_id = Some(job_id.clone());
        let (reply, _) = self.request(request).await?;
        let record = reply.record.ok_or_else(|| unexpected("no record"))?;
        // a worker of a later version may know more causes than this program
        let cause = reply.waits_for;
        let cause = cause.and_then(|cause| serde_json::from_str(cause.get()).ok());
        Ok((*record, cause))
    }

    async fn output(&self, job_id: &JobId, stream: JobStream) -> Result<Vec<u8>, Failure> {
        let mut request = JobRequest::new(&self.token, JobRequestKind::Output);
        request.job_id = Some(job_id.clone());
        request.stream = Some(stream);
        Ok(self.request(request).await?.1)
    }

    /// Sends a request. Returns the reply, and the output that follows it.
    async fn request(&self, request: JobRequest) -> Result<(JobReply, Vec<u8>), Failure> {
        if self.path.is_empty() {
            return Err(self.nothing_granted(&request).into());
        }
        let exchanged = self.exchange(&request).await;
        let (reply, output) = exchanged.map_err(|error| {
            let message = format!(
                "no answer from the worker of this job, at {}: {error}",
                self.path
            );
            Failure::new(Exit::NoNats, message)
        })?;
        match reply.error {
            Some(error) => Err(error.into()),
            None => Ok((reply, output)),
        }
    }

    /// The error if the worker grants nothing: it has no socket that could return one.
    fn nothing_granted(&self, request: &JobRequest) -> JobReplyError {
        let right = match request.request {
            JobRequestKind::Enqueue => "enqueue",
            _ => "read",
        };
        let flag = match &request.queue {
            Some(queue) if self.own_queue.as_deref() != Some(queue.as_str()) => {
                format!("{right}:{queue}")
            }
            _ => right.to_owned(),
        };
        JobReplyError::not_granted(right, None, &flag)
    }

    async fn exchange(&self, request: &JobRequest) -> io::Result<(JobReply, Vec<u8>)> {
        let mut stream = BufStream::new(UnixStream::connect(&self.path).await?);
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        stream.flush().await?;
        line.clear();
        let mut bounded = (&mut stream).take(REPLY_LINE_BYTES_MAX);
        if bounded.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let reply: JobReply = serde_json::from_slice(&line)?;
        let mut output = Vec::new();
        let bytes = reply.bytes.unwrap_or(0);
        if bytes > OUTPUT_BYTES_MAX {
            return Err(io::Error::other(format!("an output of {bytes} bytes")));
        }
        stream.take(bytes).read_to_end(&mut output).await?;
        if output.len() as u64 != bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((reply, output))
    }
}

fn unexpected(what: &str) -> Failure {
    Failure::general(format!("the worker of this job has replied with {what}"))
}

/// Where verbs read jobs: from NATS, or inside a job from its worker.
pub(super) enum JobReader {
    /// A connection to NATS.
    Nats(Box<Client>),
    /// The worker of this process's job.
    Worker(JobSocket),
}

impl JobReader {
    /// The connection to NATS, for what a worker does not do for its jobs.
    pub(super) fn nats(&self, what: &str) -> Result<&Client, Failure> {
        match self {
            JobReader::Nats(client) => Ok(client),
            JobReader::Worker(_) => Err(not_in_a_job(what)),
        }
    }

    /// An observer of jobs over the same socket.
    pub(super) fn observer(&self) -> JobObserver<'_> {
        match self {
            JobReader::Nats(client) => JobObserver::Nats(client),
            JobReader::Worker(socket) => JobObserver::Worker(socket),
        }
    }

    /// As [`Client::fetch_result`].
    pub(super) async fn fetch_result(&self, job_id: &JobId) -> Result<Option<Record>, Failure> {
        match self {
            JobReader::Nats(client) => Ok(client.fetch_result(job_id).await?),
            JobReader::Worker(socket) => {
                let record = socket.read(JobRequestKind::Status, job_id).await?;
                Ok(record.state().is_terminal().then_some(record))
            }
        }
    }

    /// As [`Client::wait`].
    pub(super) async fn wait(&self, job_id: &JobId) -> Result<Record, Failure> {
        match self {
            JobReader::Nats(client) => Ok(client.wait(job_id).await?),
            JobReader::Worker(socket) => loop {
                let record = socket.read(JobRequestKind::Wait, job_id).await?;
                if record.state().is_terminal() {
                    return Ok(record);
                }
            },
        }
    }

    /// As [`Client::read_output`].
    pub(super) async fn read_output(
        &self,
        record: &Record,
        stdio: OutputStream,
    ) -> Result<StoredOutput, Failure> {
        let socket = match self {
            JobReader::Nats(client) => return Ok(client.read_output(record, stdio).await?),
            JobReader::Worker(socket) => socket,
        };
        let (output, stream) = match stdio {
            OutputStream::Stdout => (&record.stdout, JobStream::Stdout),
            OutputStream::Stderr => (&record.stderr, JobStream::Stderr),
        };
        let Some(output) = output else {
            return Ok(StoredOutput::default());
        };
        let object = match &output.object {
            Some(_) => Some(socket.output(&record.job_id, stream).await?),
            None => None,
        };
        Ok(StoredOutput::new(output, object))
    }
}

/// A job's record, and what the job waits for.
pub(super) struct ObservedJob {
    pub(super) record: Record,
    /// As [`Client::wait_cause`] returns it.
    pub(super) cause: Result<Option<WaitCause>, Failure>,
}

/// How a verb that waits reads jobs.
#[derive(Clone, Copy)]
pub(super) enum JobObserver<'a> {
    /// A connection to NATS.
    Nats(&'a Client),
    /// The worker of this process's job.
    Worker(&'a JobSocket),
}

impl<'a> From<&'a Client> for JobObserver<'a> {
    fn from(client: &'a Client) -> JobObserver<'a> {
        JobObserver::Nats(client)
    }
}

impl<'a> From<&'a JobReader> for JobObserver<'a> {
    fn from(reader: &'a JobReader) -> JobObserver<'a> {
        reader.observer()
    }
}

impl JobObserver<'_> {
    /// Reads the record of a job and finds out what the job waits for.
    pub(super) async fn look_at(self, job_id: &JobId) -> Result<ObservedJob, Failure> {
        match self {
            JobObserver::Nats(client) => {
                let record = client.fetch_job(job_id).await?;
                let cause = client.wait_cause(&record).await.map_err(Failure::from);
                Ok(ObservedJob { record, cause })
            }
            JobObserver::Worker(socket) => {
                let (record, cause) = socket.status(job_id).await?;
                let cause = Ok(cause);
                Ok(ObservedJob { record, cause })
            }
        }
    }

    /// How this process contributes to the cause. `None` means that it does not, or that this is unknown.
    pub(super) fn own_part(self, cause: &WaitCause) -> Option<&'static str> {
        match (self, cause) {
            (JobObserver::Worker(socket), WaitCause::NoFreeSlot { queue, .. })
                if socket.own_queue.as_deref() == Some(queue.as_str()) =>
            {
                Some("this job keeps one of them while it waits")
            }
            _ => None,
        }
    }
}

/// The error for a request that workers do not carry out for their jobs.
pub(super) fn not_in_a_job(what: &str) -> Failure {
    Failure::new(
        Exit::NoNats,
        format!(
            "{what} needs a connection to NATS, which a job does not have; its worker can let it \
             use `naq enqueue`, `status`, `result` and `wait`"
        ),
    )
    .hint("--nats-url or --context gives it a connection of its own")
}

impl From<JobReplyError> for Failure {
    fn from(error: JobReplyError) -> Failure {
        let exit = Exit::from_code(&error.code).unwrap_or(Exit::NoNats);
        let failure = Failure::new(exit, error.message);
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
