//! Live output: published while a job runs, and followed by clients.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::broker::Broker;
use crate::error::BrokerError;
use naq_protocol::JobId;

/// One of a job's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A chunk of live output.
#[derive(Clone, Debug)]
pub enum LogChunk {
    /// Bytes of one of the streams.
    Bytes {
        /// The stream.
        stdio: OutputStream,
        /// The attempt that wrote the bytes.
        attempt: u32,
        /// Number of bytes of the attempt's stream before these. `None` from a worker of an earlier
        /// version.
        offset: Option<u64>,
        /// The bytes.
        bytes: Bytes,
    },
    /// The end of an attempt; nothing of it follows.
    End {
        /// The attempt.
        attempt: u32,
        /// Length of the attempt's standard output. `None` from a worker of an earlier version.
        stdout_bytes: Option<u64>,
        /// Length of the attempt's standard error. `None` from a worker of an earlier version.
        stderr_bytes: Option<u64>,
    },
}

/// A job's live output, from its beginning.
pub struct LogStream {
    messages: pull::Ordered,
    remaining: u64,
}

impl LogStream {
    /// Number of chunks that the server has and that were not read yet, as of the last one read.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Waits for the next chunk.
    ///
    /// # Errors
    /// Returns an error if the stream breaks.
    pub async fn next(&mut self) -> Result<LogChunk, BrokerError> {
        loop {
            let message = match self.messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    return Err(BrokerError::refused("following live output", error));
                }
                None => return Err(BrokerError::connection_lost("live output ended")),
            };
            if let Ok(info) = message.info() {
                self.remaining = info.pending;
            }
            let headers = message.headers.as_ref();
            let header = |name: &str| headers.and_then(|headers| headers.get(name));
            let number = |name: &str| header(name)?.as_str().parse::<u64>().ok();
            let attempt = number("Naq-Attempt")
                .and_then(|attempt| u32::try_from(attempt).ok())
                .unwrap_or(1);
            if header("Naq-End").is_some() {
                return Ok(LogChunk::End {
                    attempt,
                    stdout_bytes: number("Naq-Stdout-Bytes"),
                    stderr_bytes: number("Naq-Stderr-Bytes"),
                });
            }
            let stdio = match header("Naq-Stdio").map(async_nats::HeaderValue::as_str) {
                Some("stdout") => OutputStream::Stdout,
                Some("stderr") => OutputStream::Stderr,
                _ => continue,
            };
            return Ok(LogChunk::Bytes {
                stdio,
                attempt,
                offset: number("Naq-Offset"),
                bytes: message.payload.clone(),
            });
        }
    }
}

impl Broker {
    /// Publishes a chunk of live output without waiting for an acknowledgement: output that is lost
    /// here is still in the record.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn publish_log(&self, job: &JobId, chunk: LogChunk) -> Result<(), BrokerError> {
        let mut headers = HeaderMap::new();
        let payload = match chunk {
            LogChunk::Bytes {
                stdio,
                attempt,
                offset,
                bytes,
            } => {
                headers.insert("Naq-Attempt", attempt.to_string());
                if let Some(offset) = offset {
                    headers.insert("Naq-Offset", offset.to_string());
                }
                headers.insert(
                    "Naq-Stdio",
                    match stdio {
                        OutputStream::Stdout => "stdout",
                        OutputStream::Stderr => "stderr",
                    },
                );
                bytes
            }
            LogChunk::End {
                attempt,
                stdout_bytes,
                stderr_bytes,
            } => {
                headers.insert("Naq-Attempt", attempt.to_string());
                headers.insert("Naq-End", "1");
                for (name, bytes) in [
                    ("Naq-Stdout-Bytes", stdout_bytes),
                    ("Naq-Stderr-Bytes", stderr_bytes),
                ] {
                    if let Some(bytes) = bytes {
                        headers.insert(name, bytes.to_string());
                    }
                }
                Bytes::new()
            }
        };
        self.client
            .publish_with_headers(self.names.log(job), headers, payload)
            .await
            .map_err(BrokerError::connection_lost)
    }

    /// Follows a job's live output from its beginning.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn follow_log(&self, job: &JobId) -> Result<LogStream, BrokerError> {
        const DOING: &str = "following live output";
        self.ensure_logs().await?;
        let name = self.names.logs_stream();
        let stream = self
            .jetstream
            .get_stream_no_info(&name)
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        let creating = stream.create_consumer(pull::OrderedConfig {
            filter_subject: self.names.log(job),
            deliver_policy: DeliverPolicy::All,
            ..pull::OrderedConfig::default()
        });
        let consumer = self
            .until_denied(DOING, &name, creating)
            .await?
            .map_err(|error| self.request_error(DOING, error))?;
        let remaining = consumer.cached_info().num_pending;
        let messages = consumer
            .messages()
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        Ok(LogStream {
            messages,
            remaining,
        })
    }
}
