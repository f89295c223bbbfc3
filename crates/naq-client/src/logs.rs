//! A job's output: live while the job runs, as recorded once it has ended.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Client, ClientError};
use naq_jetstream::{LogChunk, LogStream, OutputStream, RecordEvent, RecordWatch};
use naq_protocol::{JobId, Record};

/// How long the end of live output may arrive after the job's end was recorded.
const END_MARKER_TIMEOUT: Duration = Duration::from_secs(2);

/// The output of a job, chunk by chunk. [`Client::follow_logs`] and [`Client::read_logs`] return it.
pub struct Logs {
    client: Client,
    job: JobId,
    /// Whether to wait for output that the job has not written yet.
    follow: bool,
    source: Source,
}

/// Where the next chunk comes from.
enum Source {
    /// The job has ended: what its record keeps of the output.
    Recorded(VecDeque<LogChunk>),
    /// The job has not ended, as far as `record` says.
    Live(Box<Live>),
    /// The job has ended, and its last attempt's end marker has not arrived yet.
    Trailing {
        log: Box<LogStream>,
        attempt: u32,
        deadline: Instant,
    },
}

struct Live {
    log: LogStream,
    watch: RecordWatch,
    record: Record,
    /// Whether any live bytes were read.
    has_bytes: bool,
}

impl Logs {
    /// Waits for the next chunk. `None` means that there is no more output. Cancel safe.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses the request or the connection is lost for
    /// good.
    pub async fn next(&mut self) -> Result<Option<LogChunk>, ClientError> {
        loop {
            match &mut self.source {
                Source::Recorded(chunks) => return Ok(chunks.pop_front()),
                Source::Live(live) if live.record.state().is_terminal() => self.job_ended().await?,
                Source::Live(live) if !self.follow && live.log.remaining() == 0 => return Ok(None),
                Source::Live(live) => tokio::select! {
                    chunk = live.log.next() => {
                        let chunk = chunk?;
                        live.has_bytes |= matches!(chunk, LogChunk::Bytes { .. });
                        return Ok(Some(chunk));
                    }
                    event = live.watch.next(), if self.follow => match event {
                        RecordEvent::Changed(stored) => live.record = stored.record,
                        RecordEvent::Resync | RecordEvent::Gap => live.record = self.client.fetch_job(&self.job).await?,
                    },
                },
                Source::Trailing {
                    log,
                    attempt,
                    deadline,
                } => {
                    let Ok(chunk) = timeout_at(*deadline, log.next()).await else {
                        // the worker was killed before it could publish the end
                        self.source = Source::Recorded(VecDeque::new());
                        continue;
                    };
                    let chunk = chunk?;
                    if matches!(chunk, LogChunk::End { attempt: ended } if ended == *attempt) {
                        self.source = Source::Recorded(VecDeque::new());
                    }
                    return Ok(Some(chunk));
                }
            }
        }
    }

    /// Moves from live output to what follows the job's end.
    async fn job_ended(&mut self) -> Result<(), ClientError> {
        let ended = Source::Recorded(VecDeque::new());
        if let Source::Live(live) = std::mem::replace(&mut self.source, ended) {
            self.source = if live.has_bytes || live.log.remaining() > 0 {
                Source::Trailing {
                    attempt: live.record.attempt,
                    log: Box::new(live.log),
                    deadline: Instant::now() + END_MARKER_TIMEOUT,
                }
            } else {
                // the job ended before its output went live
                Source::Recorded(self.client.recorded_output(&live.record).await?)
            };
        }
        Ok(())
    }
}

impl Client {
    /// Follows a job's output from its beginning until the job has ended.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, JobId, LogChunk};
    /// # async fn example(client: Client, job: JobId) -> Result<(), ClientError> {
    /// let mut logs = client.follow_logs(&job).await?;
    /// while let Some(chunk) = logs.next().await? {
    ///     if let LogChunk::Bytes { stdio, bytes, .. } = chunk {
    ///         println!("{stdio:?}: {}", String::from_utf8_lossy(&bytes));
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if the job does not exist.
    pub async fn follow_logs(&self, job: &JobId) -> Result<Logs, ClientError> {
        self.logs(job, true).await
    }

    /// Reads the output that a job has written so far, without waiting for more.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if the job does not exist.
    pub async fn read_logs(&self, job: &JobId) -> Result<Logs, ClientError> {
        self.logs(job, false).await
    }

    async fn logs(&self, job: &JobId, follow: bool) -> Result<Logs, ClientError> {
        // The watch comes before the read, so that an end between the two is not missed.
        let watch = self.broker.watch_records(std::slice::from_ref(job)).await?;
        let record = self.fetch_job(job).await?;
        let source = if record.state().is_terminal() {
            Source::Recorded(self.recorded_output(&record).await?)
        } else {
            Source::Live(Box::new(Live {
                log: self.broker.follow_log(job).await?,
                watch,
                record,
                has_bytes: false,
            }))
        };
        Ok(Logs {
            client: self.clone(),
            job: job.clone(),
            follow,
            source,
        })
    }

    /// Everything that is stored of an ended job's output.
    async fn recorded_output(&self, record: &Record) -> Result<VecDeque<LogChunk>, ClientError> {
        let mut chunks = VecDeque::new();
        for (stdio, bytes) in [
            (OutputStream::Stdout, self.read_stdout(record).await?),
            (OutputStream::Stderr, self.read_stderr(record).await?),
        ] {
            if !bytes.is_empty() {
                chunks.push_back(LogChunk::Bytes {
                    stdio,
                    attempt: record.attempt,
                    bytes: bytes.into(),
                });
            }
        }
        Ok(chunks)
    }
}
