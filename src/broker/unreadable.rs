//! Messages that the client library cannot parse.
//!
//! The server takes subjects and headers that are not UTF-8 or not headers at all. Delivering
//! one makes the client drop its connection, with everything else under way on it; and it would
//! be delivered again and again. So after a connection was dropped, the messages that were out
//! are read one by one through the server's API, where bytes travel in base64, and those that
//! no client could take are kept in the failed stream and removed.

use async_nats::HeaderMap;
use base64::Engine;

use super::failed::Verdict;
use super::jobs::{RawMessage, Which};
use super::{Broker, BrokerError};
use crate::envelope::{JobId, QueueName, Reason, State};

/// How many messages one sweep looks at.
const LOOKS_MAX: u64 = 10_000;

impl Broker {
    /// Looks through a queue's messages that were delivered and not acknowledged, and moves
    /// those that no client can read to the failed stream. Returns their ids.
    ///
    /// # Errors
    /// Where the server does not answer; what was moved until then is moved.
    pub async fn sweep_unreadable(&self, queue: &QueueName) -> Result<Vec<JobId>, BrokerError> {
        const DOING: &str = "looking for unreadable messages";
        let name = self.names.queue_stream(queue);
        let refused = |message: String| BrokerError::Refused {
            doing: DOING,
            message,
        };
        let stream = self
            .jetstream
            .get_stream_no_info(&name)
            .await
            .map_err(|error| refused(error.to_string()))?;
        let info = stream
            .consumer_info(self.names.worker_consumer())
            .await
            .map_err(|error| refused(error.to_string()))?;
        let mut swept = Vec::new();
        let first = info.ack_floor.stream_sequence + 1;
        let last = info.delivered.stream_sequence;
        for sequence in (first..=last).take(usize::try_from(LOOKS_MAX).unwrap_or(usize::MAX)) {
            let Some(message) = self.read_message(&name, Which::Sequence(sequence)).await? else {
                continue;
            };
            let Some(problem) = problem(&message) else {
                continue;
            };
            let job = JobId::for_sequence(queue, sequence);
            let mut headers = HeaderMap::new();
            headers.insert(
                "Naq-Original-Headers",
                base64::engine::general_purpose::STANDARD.encode(message.headers()),
            );
            headers.insert(
                "Naq-Original-Subject",
                message
                    .subject
                    .replace(|c: char| !c.is_ascii_graphic(), "?"),
            );
            self.keep(
                queue,
                &job,
                headers,
                message.payload(),
                &Verdict {
                    state: State::Rejected,
                    reason: Reason::Invalid,
                    error: problem,
                    attempt: 0,
                },
            )
            .await?;
            self.write_rejected(queue, &job, problem, message.time)
                .await?;
            stream
                .delete_message(sequence)
                .await
                .map_err(|error| refused(error.to_string()))?;
            tracing::warn!(%queue, sequence, "removed a message that no client can read: {problem}");
            swept.push(job);
        }
        Ok(swept)
    }

    async fn write_rejected(
        &self,
        queue: &QueueName,
        job: &JobId,
        problem: &str,
        time: crate::envelope::Timestamp,
    ) -> Result<(), BrokerError> {
        let mut record =
            crate::envelope::Record::new(job.clone(), queue.clone(), State::Rejected, time);
        record.reason = Some(Reason::Invalid);
        record.error = Some(problem.to_owned());
        record.finished_at = Some(time);
        match self.write_record(&record, 0, Some(KEPT)).await {
            Ok(_) | Err(BrokerError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How long the record of an unreadable message stays.
const KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// What async-nats 0.51 would trip over (its `connection.rs`), in words; none where it reads the
/// message.
fn problem(message: &RawMessage) -> Option<&'static str> {
    if message
        .subject
        .contains(|c: char| c == '\u{fffd}' || c.is_whitespace() || c.is_control())
    {
        return Some("its subject is not text that a client can read");
    }
    let headers = message.headers();
    if headers.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(&headers) else {
        return Some("its headers are not UTF-8");
    };
    let mut lines = text.lines();
    let Some(version) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return Some("its headers do not begin with NATS/1.0");
    };
    let status = version.trim().split(' ').next().unwrap_or_default();
    if !(status.is_empty() || (status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit()))) {
        return Some("its header line has no status that a client can read");
    }
    for line in lines {
        if line.is_empty() || line.starts_with(char::is_whitespace) {
            continue;
        }
        match line.split_once(':') {
            None => return Some("one of its headers has no colon"),
            Some((name, _)) if name.chars().any(|c| !c.is_ascii_graphic()) => {
                return Some("one of its headers has a name that a client cannot read");
            }
            Some(_) => {}
        }
    }
    None
}
