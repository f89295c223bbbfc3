//! A job's output: live while the job runs, as recorded once it has ended.
//!
//! Each live chunk has its offset in the stream of its attempt, so a reader sees where bytes were
//! dropped: by the worker, by the bounded stream of logs, or because the worker was killed. Once the
//! job has ended, the record supplies the bytes that live output lacked.

mod position;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use self::position::LogPosition;
use super::log_chunk::LogChunk;
use super::stored_output::StoredOutput;
use super::{Client, ClientError};
use naq_jetstream::{LogStream, OutputStream, RecordEvent, RecordWatch};
use naq_protocol::{JobId, Record};

/// How long the rest of live output may arrive after the job's end was recorded. The record has what
/// arrives later, but not the order in which the job wrote to its two streams.
const LIVE_REST_TIMEOUT: Duration = Duration::from_millis(250);

/// The same for the output of a worker of an earlier version, whose chunks have no offsets.
const END_MARKER_TIMEOUT: Duration = Duration::from_secs(2);

/// The output of a job, chunk by chunk. [`Client::follow_logs`] and [`Client::read_logs`] return it.
pub struct Logs {
    client: Client,
    job: JobId,
    /// Whether to wait for output that the job has not written yet.
    follow: bool,
    source: Source,
    /// Chunks that were read and not returned yet.
    chunks: VecDeque<LogChunk>,
    position: LogPosition,
}

/// Where the next chunk comes from.
enum Source {
    /// The output has ended.
    Ended,
    /// The job has not ended, as far as `record` says.
    Live(Box<Live>),
    /// The job has ended, and the rest of its live output has not arrived yet.
    Trailing {
        log: Box<LogStream>,
        record: Box<Record>,
        deadline: Instant,
    },
}

struct Live {
    log: LogStream,
    watch: RecordWatch,
    record: Record,
}

impl Logs {
    /// Waits for the next chunk. `None` means that there is no more output. Cancel safe.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses the request or the connection is lost for
    /// good.
    pub async fn next(&mut self) -> Result<Option<LogChunk>, ClientError> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Ok(Some(chunk));
            }
            match &mut self.source {
                Source::Ended => return Ok(None),
                Source::Live(live) if live.record.state().is_terminal() => self.job_ended(),
                Source::Live(live) if !self.follow && live.log.remaining() == 0 => return Ok(None),
                Source::Live(live) => tokio::select! {
                    chunk = live.log.next() => self.position.advance(chunk?, &mut self.chunks),
                    event = live.watch.next(), if self.follow => match event? {
                        RecordEvent::Changed(stored) => live.record = stored.record,
                        RecordEvent::Resync | RecordEvent::Gap => live.record = self.client.fetch_job(&self.job).await?,
                    },
                },
                Source::Trailing {
                    log,
                    record,
                    deadline,
                } => {
                    if !self.position.is_at_end_of(record.attempt) {
                        // Chunks that the server still has are read whatever the deadline is.
                        let deadline = match log.remaining() {
                            0 => *deadline,
                            _ => Instant::now() + END_MARKER_TIMEOUT,
                        };
                        if let Ok(chunk) = timeout_at(deadline, log.next()).await {
                            self.position.advance(chunk?, &mut self.chunks);
                            continue;
                        }
                    }
                    let record = record.clone();
                    self.add_recorded(&record).await?;
                }
            }
        }
    }

    /// Moves from live output to what follows the job's end.
    fn job_ended(&mut self) {
        let ended = std::mem::replace(&mut self.source, Source::Ended);
        let Source::Live(live) = ended else { return };
        let wait = if self.position.is_empty() && live.log.remaining() == 0 {
            // The job ended before its output went live.
            Duration::ZERO
        } else if self.position.has_offsets() {
            LIVE_REST_TIMEOUT
        } else {
            END_MARKER_TIMEOUT
        };
        self.source = Source::Trailing {
            log: Box::new(live.log),
            record: Box::new(live.record),
            deadline: Instant::now() + wait,
        };
    }

    /// Adds what the record of the ended job has of the output and live output did not have.
    async fn add_recorded(&mut self, record: &Record) -> Result<(), ClientError> {
        let mut stored = [StoredOutput::default(), StoredOutput::default()];
        for (stored, (stdio, output)) in stored.iter_mut().zip([
            (OutputStream::Stdout, &record.stdout),
            (OutputStream::Stderr, &record.stderr),
        ]) {
            let written_bytes = output.as_ref().map_or(0, |output| output.bytes);
            // it may be large, and live output may have had all of it
            if !self.position.has_all(record.attempt, stdio, written_bytes) {
                *stored = self.client.read_output(record, stdio).await?;
            }
        }
        self.source = Source::Ended;
        self.position
            .complete(record.attempt, stored, &mut self.chunks);
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
        let mut logs = Logs {
            client: self.clone(),
            job: job.clone(),
            follow,
            source: Source::Ended,
            chunks: VecDeque::new(),
            position: LogPosition::default(),
        };
        if record.state().is_terminal() {
            logs.add_recorded(&record).await?;
        } else {
            logs.source = Source::Live(Box::new(Live {
                log: self.broker.follow_log(job).await?,
                watch,
                record,
            }));
        }
        Ok(logs)
    }
}
